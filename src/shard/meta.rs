//! What an image says of itself: which shards are in it, and where in their logs they stand.
//!
//! ```text
//!   meta = shards u16 | parts u16 | part part ...
//!   part = shard u16 | index u64 | entry's term u64 | at_ms u64 | term u64 | vote u64 | keys u64
//! ```
//!
//! `shards` is the number of shards of the node, of which a snapshot holds one and a backup all. `at_ms` is the
//! latest time stamp of the part; `keys` counts its entries, those that have expired included. Integers are
//! little-endian. The blocks of the image have the number of their shard as tag, with [`CONTINUES`] set when the
//! next block goes on where this one ends.

use super::Applying;
use super::section::HardState;

/// Bit of a block's tag: the entries go on in the next block.
pub const CONTINUES: u32 = 1 << 31;

const PART_BYTES: usize = 2 + 6 * 8;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Shards of the node.
    pub shards: u16,
    /// Those in the image, by number.
    pub parts: Vec<Part>,
}

/// One shard in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: u16,
    /// Where in its log it stands.
    pub applied: Applying,
    /// Term and vote; everything up to the index is committed.
    pub state: HardState,
    /// Its entries.
    pub keys: u64,
}

impl Meta {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.shards.to_le_bytes().to_vec();
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
        let count = u16::from_le_bytes([head[2], head[3]]);
        if parts.len() != usize::from(count) * PART_BYTES {
            return Err(WRONG.to_owned());
        }
        let parts: Vec<Part> = parts.chunks_exact(PART_BYTES).map(part).collect();
        let ascending = parts.windows(2).all(|pair| pair[0].shard < pair[1].shard);
        if !ascending || parts.iter().any(|part| part.shard >= shards) {
            return Err(WRONG.to_owned());
        }
        Ok(Meta { shards, parts })
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
    }
}
