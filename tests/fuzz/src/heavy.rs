//! What is legal and would only take time and memory: strings of hundreds of megabytes.

use marline::command::encode::{self, Change};
use marline::command::op::Action;
use marline::config::VALUE_BYTES_MAX;
use marline::shard::section;

/// Strings of so many bytes are made without hesitation.
const BYTES_MAX: u64 = 64 << 10;

/// Whether a change makes a long string out of nothing. One that must be refused does not.
pub fn is_heavy(change: &Change<'_>) -> bool {
    let is_long = |bytes: u64| (BYTES_MAX..=VALUE_BYTES_MAX as u64).contains(&bytes);
    let Change::One(op) = change else {
        return false;
    };
    match &op.action {
        Action::SetRange { offset, .. } => is_long(*offset),
        Action::SetBit { offset, .. } => is_long(*offset / 8),
        Action::BitField { ops } => ops.iter().any(|op| is_long(op.offset / 8)),
        _ => false,
    }
}

/// Whether a record of the log holds such a change.
pub fn is_heavy_record(record: &[u8]) -> bool {
    let Ok(sections) = section::read(record) else {
        return false;
    };
    sections
        .iter()
        .flat_map(|section| &section.entries)
        .any(|entry| {
            let body = section::body(entry.data).ok().flatten();
            let mut changes = body.map_or(&[][..], |(_, changes)| changes);
            while let Ok((change, used)) = encode::decode(changes) {
                if is_heavy(&change) {
                    return true;
                }
                changes = &changes[used..];
            }
            false
        })
}
