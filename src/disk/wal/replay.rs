//! Reads the log from its first record to its end and writes nothing.
//!
//! First the beginnings of all segments are read, which say where the segments before them ended; then the records,
//! one segment in memory at a time.

use super::super::seal::KEY_BYTES;
use super::super::{Damage, Disk};
use super::segment::{OnRecord, Segment};
use super::{SegmentInfo, number_in, segment_name};
use crate::failpoint::{self, Point};

/// Something stands behind the last good record: what a crash left of a record that was being written, or a last
/// record that has rotted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
}

/// Where the log ends, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The segments, in order, without gaps.
    pub segments: Vec<SegmentInfo>,
    /// Sequence number of the next record.
    pub sequence: u64,
    /// Whether the end is not a clean one.
    pub torn: Option<Torn>,
    /// The last record's checksum.
    pub(super) chain: u32,
    /// Where the last segment ends.
    pub(super) offset: u64,
    /// Up to where nothing but a sync can have made the last segment what it is. At most `offset`.
    pub(super) proven: u64,
}

/// Gives every record to `record`, in order. `key` has the key with an id.
///
/// # Errors
/// A file cannot be read, was made by a newer version, or does not hold what was once durable in it; a key is
/// missing; a segment is; or `record` refused one, for the reason that it gave.
pub fn replay(
    disk: &dyn Disk,
    key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
    record: OnRecord<'_>,
) -> Result<End, Damage> {
    let segments = segments(disk, key)?;
    let mut end = End {
        segments: segments.iter().map(info).collect(),
        sequence: 1,
        torn: None,
        chain: 0,
        offset: 0,
        proven: 0,
    };
    failpoint::reach(Point::ReplayBegun);
    for (index, segment) in segments.iter().enumerate() {
        let mut walk = segment.walk(disk)?;
        let is_torn = walk.all(segments.get(index + 1), record)?;
        end.torn = is_torn.then(|| Torn {
            file: segment.file.clone(),
            offset: walk.offset,
        });
        end.sequence = walk.sequence;
        end.chain = walk.chain;
        end.offset = walk.offset;
        end.proven = walk.proven();
        failpoint::reach(Point::SegmentReplayed);
    }
    Ok(end)
}

/// The beginnings of all segments, in order.
fn segments(
    disk: &dyn Disk,
    key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
) -> Result<Vec<Segment>, Damage> {
    let files = disk
        .list()
        .map_err(|error| Damage::new("", 0, format!("cannot be listed: {error}")))?;
    let mut numbers: Vec<(u64, u64)> = files
        .iter()
        .filter_map(|file| Some((number_in(&file.name, "wal-")?, file.bytes)))
        .collect();
    numbers.sort_unstable();
    let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
    for (number, bytes) in numbers {
        if let Some(before) = segments.last()
            && before.frame.number + 1 != number
        {
            let missing = segment_name(before.frame.number + 1);
            let reason = format!("missing, although there is {}", segment_name(number));
            return Err(Damage::new(&missing, 0, reason));
        }
        let segment = Segment::begin(disk, number, bytes, key)?;
        if segment.open.is_none() {
            let reason = format!("key {} is missing", segment.key_id);
            return Err(Damage::new(&segment.file, 12, reason));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn info(segment: &Segment) -> SegmentInfo {
    SegmentInfo {
        number: segment.frame.number,
        bytes: segment.bytes,
        key_id: segment.key_id,
    }
}
