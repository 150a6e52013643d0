//! What an image says of itself: which shards are in it, and where in their logs they stand.
//!
//! ```text
//!   meta  = shards u16 | parts u16 | part part ... | group group ...
//!   part  = shard u16 | index u64 | entry's term u64 | at_ms u64 | term u64 | vote u64 | keys u64
//!   group = replica u64 | members
//! ```
//!
//! `shards` is the number of shards of the node, of which a snapshot holds one and a backup all; its highest bit says
//! that a group follows for each part: which replica it is, and who else is in its group. Without it each replica is
//! alone, and called 1. The number of the meta shard, which holds the map of the cluster, is 16,384. `at_ms` is the
//! latest time stamp of the part; `keys` counts its entries, those that have expired included. Integers are
//! little-endian. The blocks of the image have the number of their shard as tag, with [`CONTINUES`] set when the
//! next block goes on where this one ends.

use super::members::Members;
use super::section::{HardState, NUMBER_MAX};
use super::{ALONE, Applying};
use crate::cluster::map::META;

/// Bit of a block's tag: the entries go on in the next block.
pub const CONTINUES: u32 = 1 << 31;

const PART_BYTES: usize = 2 + 6 * 8;
/// In the number of shards: groups follow.
const GROUPS: u16 = 1 << 15;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Shards of the node.
    pub shards: u16,
    /// Those in the image, by number.
    pub parts: Vec<Part>,
}

/// One shard in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: u16,
    /// Where in its log it stands.
    pub applied: Applying,
    /// Term and vote; everything up to the index is committed.
    pub state: HardState,
    /// Its entries.
    pub keys: u64,
    /// The replica whose image it is.
    pub replica: u64,
    /// Who is in its group.
    pub members: Members,
}

impl Meta {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let is_alone = |part: &Part| part.replica == ALONE && part.members.is_alone(ALONE);
        let has_groups = !self.parts.iter().all(is_alone);
        let groups = if has_groups { GROUPS } else { 0 };
        let mut bytes = (self.shards | groups).to_le_bytes().to_vec();
        let parts = u16::try_from(self.parts.len()).expect("there are at most 16,384 shards");
        bytes.extend_from_slice(&parts.to_le_bytes());
        for part in &self.parts {
            bytes.extend_from_slice(&part.shard.to_le_bytes());
            let (applied, state) = (part.applied, part.state);
            for number in [
                applied.index,
                applied.term,
                applied.at_ms,
                state.term,
                state.vote,
                part.keys,
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        for part in self.parts.iter().filter(|_| has_groups) {
            bytes.extend_from_slice(&part.replica.to_le_bytes());
            part.members.put(&mut bytes);
        }
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are not what `encode` makes.
    pub fn decode(bytes: &[u8]) -> Result<Meta, String> {
        const WRONG: &str = "what the image says of itself makes no sense";
        let (head, parts) = bytes.split_first_chunk::<4>().ok_or(WRONG)?;
        let shards = u16::from_le_bytes([head[0], head[1]]);
        let (shards, has_groups) = (shards & !GROUPS, shards & GROUPS != 0);
        let count = u16::from_le_bytes([head[2], head[3]]);
        let (parts, mut groups) = parts
            .split_at_checked(usize::from(count) * PART_BYTES)
            .ok_or(WRONG)?;
        let mut parts: Vec<Part> = parts.chunks_exact(PART_BYTES).map(part).collect();
        for part in parts.iter_mut().filter(|_| has_groups) {
            let (replica, members) = groups.split_first_chunk::<8>().ok_or(WRONG)?;
            part.replica = u64::from_le_bytes(*replica);
            groups = members;
            part.members = Members::take(&mut groups).ok_or(WRONG)?;
        }
        let ascending = parts.windows(2).all(|pair| pair[0].shard < pair[1].shard);
        let is_there = |shard: u16| shard < shards || shard == META;
        let is_possible = |part: &Part| is_there(part.shard) && part.is_possible();
        // Groups are only said where one is needed: a meta has one encoding.
        let is_alone = |part: &Part| part.replica == ALONE && part.members.is_alone(ALONE);
        let is_needless = has_groups && parts.iter().all(is_alone);
        if is_needless || !groups.is_empty() || !ascending || !parts.iter().all(is_possible) {
            return Err(WRONG.to_owned());
        }
        Ok(Meta { shards, parts })
    }
}

impl Part {
    /// Whether a shard can have come to this.
    fn is_possible(&self) -> bool {
        let (applied, state) = (self.applied, self.state);
        applied.term <= state.term
            && self.replica > 0
            && [applied.index, applied.at_ms, state.term, self.replica]
                .iter()
                .all(|&it| it <= NUMBER_MAX)
    }
}

fn part(bytes: &[u8]) -> Part {
    let number = |nth: usize| {
        let at = 2 + nth * 8;
        u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
    };
    let index = number(0);
    Part {
        shard: u16::from_le_bytes([bytes[0], bytes[1]]),
        applied: Applying {
            index,
            term: number(1),
            at_ms: number(2),
        },
        state: HardState {
            term: number(3),
            vote: number(4),
            commit: index,
        },
        keys: number(5),
        replica: ALONE,
        members: Members::of(&[ALONE]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shard_can_come_to_is_believed() {
        let part = Part {
            shard: 1,
            applied: Applying {
                index: 9,
                term: 2,
                at_ms: 1_700_000_000_000,
            },
            state: HardState {
                term: 3,
                vote: 1,
                commit: 9,
            },
            keys: 4,
            replica: ALONE,
            members: Members::of(&[ALONE]),
        };
        let decoded = |change: &dyn Fn(&mut Part)| {
            let mut part = part.clone();
            change(&mut part);
            let meta = Meta {
                shards: 2,
                parts: vec![part],
            };
            Meta::decode(&meta.encode()).map(|decoded| decoded == meta)
        };
        assert_eq!(decoded(&|_| {}), Ok(true));
        assert_eq!(decoded(&|part| part.shard = META), Ok(true));
        assert_eq!(decoded(&|part| part.replica = 7 << 32), Ok(true));
        assert_eq!(
            decoded(&|part| part.members = Members::of(&[1, 2])),
            Ok(true)
        );
        assert!(decoded(&|part| part.replica = 0).is_err());
        assert!(decoded(&|part| part.members.voters.clear()).is_err());
        assert!(decoded(&|part| part.shard = 2).is_err());
        assert!(decoded(&|part| part.applied.index = u64::MAX).is_err());
        assert!(decoded(&|part| part.applied.at_ms = u64::MAX).is_err());
        assert!(decoded(&|part| part.applied.term = 4).is_err());
        assert!(decoded(&|part| part.state.term = u64::MAX).is_err());
    }
}
