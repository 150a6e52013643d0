//! A change of a group's members, as an entry of the log carries it.
//!
//! Raft writes it with protobuf and reads its own proposals so; what others send is read here, by a reader of just
//! what raft writes:
//!
//! ```text
//!   data   = [0x08 transition] change change ...     transition 1 implicit, 2 explicit; not written when automatic
//!   change = 0x12 length | [0x08 type] 0x10 id       type 1 remove, 2 add a learner; not written when add a voter
//! ```
//!
//! Numbers are LEB128 and as short as they can be. No data at all is a change too: it ends a joint configuration.
//!
//! Deliberately absent: the context of a change, which nobody needs.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::command::binary::{Malformed, Reader};
use crate::shard::section::NUMBER_MAX;

/// The most members that are changed at once.
pub const CHANGES_MAX: usize = 1_000;

const TRANSITION: u8 = 0x08;
const CHANGE: u8 = 0x12;
const TYPE: u8 = 0x08;
const ID: u8 = 0x10;

/// The change that `data` says.
///
/// # Errors
/// It is nothing that raft would write, or no sensible change; why.
pub fn check_change(data: &[u8]) -> Result<ConfChangeV2, String> {
    let mut reader = Reader::new(data);
    let mut change = ConfChangeV2::default();
    let mut changes = Vec::new();
    while reader.left() > 0 {
        match reader.byte().map_err(malformed)? {
            TRANSITION if reader.left() + 1 == data.len() => {
                change.set_transition(match reader.number().map_err(malformed)? {
                    1 => ConfChangeTransition::Implicit,
                    2 => ConfChangeTransition::Explicit,
                    other => return Err(format!("a change of members by transition {other}")),
                });
            }
            CHANGE if changes.len() < CHANGES_MAX => {
                let bytes = reader.string().map_err(malformed)?;
                changes.push(single(bytes)?);
            }
            CHANGE => {
                return Err(format!(
                    "more than {CHANGES_MAX} members are changed at once"
                ));
            }
            other => return Err(format!("a change of members with tag {other:#04x}")),
        }
    }
    change.set_changes(changes.into());
    Ok(change)
}

fn single(bytes: &[u8]) -> Result<ConfChangeSingle, String> {
    let mut reader = Reader::new(bytes);
    let mut single = ConfChangeSingle::default();
    let mut tag = reader.byte().map_err(malformed)?;
    if tag == TYPE {
        single.set_change_type(match reader.number().map_err(malformed)? {
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            other => return Err(format!("a member is changed by {other}")),
        });
        tag = reader.byte().map_err(malformed)?;
    }
    if tag != ID {
        return Err(format!("a member's change with tag {tag:#04x}"));
    }
    single.node_id = match reader.number().map_err(malformed)? {
        id @ 1..=NUMBER_MAX => id,
        id => return Err(format!("no member has the id {id}")),
    };
    match reader.left() {
        0 => Ok(single),
        left => Err(format!("{left} bytes behind a member's change")),
    }
}

fn malformed(error: Malformed) -> String {
    format!("a change of members: {error}")
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::*;

    fn written(transition: ConfChangeTransition, changes: &[(ConfChangeType, u64)]) -> Vec<u8> {
        let mut change = ConfChangeV2::default();
        change.set_transition(transition);
        for &(kind, id) in changes {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id;
            change.mut_changes().push(single);
        }
        change.write_to_bytes().expect("a change is writable")
    }

    #[test]
    fn what_raft_writes_is_read() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let transitions = [
            ConfChangeTransition::Auto,
            ConfChangeTransition::Implicit,
            ConfChangeTransition::Explicit,
        ];
        let kinds = [
            ConfChangeType::AddNode,
            ConfChangeType::RemoveNode,
            ConfChangeType::AddLearnerNode,
        ];
        for _ in 0..2_000 {
            let transition = transitions[random.usize(..3)];
            let changes: Vec<(ConfChangeType, u64)> = (0..random.usize(..6))
                .map(|_| {
                    let id = random.u64(..=NUMBER_MAX) >> random.u32(..62);
                    (kinds[random.usize(..3)], id.max(1))
                })
                .collect();
            let data = written(transition, &changes);
            let read = check_change(&data).expect("raft wrote it");
            assert_eq!(read.get_transition(), transition);
            let of = |it: &ConfChangeSingle| (it.get_change_type(), it.node_id);
            assert_eq!(read.changes.iter().map(of).collect::<Vec<_>>(), changes);
            let again = read.write_to_bytes();
            assert_eq!(again.expect("a change is writable"), data);
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        let refused: [&[u8]; 15] = [
            b"\x08",                         // no transition behind its tag
            b"\x08\x00",                     // one that is not written
            b"\x08\x03",                     // one that there is not
            b"\x08\x81\x00",                 // longer than needed
            b"\x08\x01\x08\x01",             // twice
            b"\x12\x02\x10\x01\x08\x01",     // behind the changes
            b"\x12\x00",                     // a change of nobody
            b"\x12\x02\x10\x00",             // the same in words
            b"\x12\x03\x10\x01",             // longer than what is there
            b"\x12\x04\x08\x00\x10\x01",     // a type that is not written
            b"\x12\x04\x08\x03\x10\x01",     // one that there is not
            b"\x12\x04\x10\x01\x08\x01",     // in the wrong order
            b"\x12\x04\x10\x01\x10\x01",     // two ids
            b"\x1a\x01x",                    // a context
            b"\x0b\x0b\x0b\x0b\x0c\x0c\x0c", // groups, at which the parser would recurse
        ];
        for data in refused {
            assert!(check_change(data).is_err(), "{}", data.escape_ascii());
        }
        let mut impossible = vec![CHANGE, 11, ID];
        impossible.extend([[0xFF; 9].as_slice(), &[0x01]].concat());
        assert!(check_change(&impossible).is_err());
    }

    #[test]
    fn members_are_changed_in_bounded_numbers() {
        let many = |count: u64| {
            let changes: Vec<_> = (1..=count)
                .map(|id| (ConfChangeType::AddNode, id))
                .collect();
            check_change(&written(ConfChangeTransition::Explicit, &changes))
        };
        assert_eq!(many(1_000).map(|change| change.changes.len()), Ok(1_000));
        assert!(many(1_001).is_err());
    }

    #[test]
    fn no_data_ends_a_joint_configuration() {
        assert!(check_change(b"").is_ok_and(|change| change.leave_joint()));
    }
}
