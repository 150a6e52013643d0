//! Looks at every segment by itself, so that damage in one does not hide what is in the others, and with the keys
//! that there are: the outside of a sealed segment can be held against its checksums without any.
//!
//! Whether a log is whole, [`replay`](super::replay) decides: this finds all places where it is not. Where a segment
//! ends is told by the number and the chain in the next one's open record, which stand there unsealed.

use std::io;

use super::super::seal::KEY_BYTES;
use super::super::{Damage, Disk};
use super::segment::{OnRecord, Segment};
use super::{number_in, segment_name};

/// The beginnings of all segments.
pub struct Log {
    segments: Vec<Place>,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Id of the key that it is sealed with; 0: it is not.
    pub key_id: u32,
    /// Whether its payloads were opened, and not only held against their checksums.
    pub is_open: bool,
    /// Sequence number of its first data record.
    pub first: u64,
    /// Sequence number behind that of its last record.
    pub next: u64,
    /// Where its records end.
    pub end: u64,
    /// Whether something stands there, in the newest segment, that is no record.
    pub is_torn: bool,
}

struct Place {
    file: String,
    number: u64,
    bytes: u64,
    segment: Result<Segment, Damage>,
}

impl Log {
    /// Reads the beginnings of all segments. `key` has the key with an id, if it is there.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn open(disk: &dyn Disk, key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>) -> io::Result<Log> {
        let mut segments = Vec::new();
        for info in disk.list()? {
            if let Some(number) = number_in(&info.name, "wal-") {
                segments.push(Place {
                    segment: Segment::begin(disk, number, info.bytes, key),
                    file: info.name,
                    number,
                    bytes: info.bytes,
                });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        Ok(Log { segments })
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// File and length of the segment at this place, from 0.
    pub fn file(&self, at: usize) -> (&str, u64) {
        (&self.segments[at].file, self.segments[at].bytes)
    }

    /// Whether the segment that belongs before the one at this place is not there.
    pub fn missing_before(&self, at: usize) -> Option<Damage> {
        let before = self.segments[at.checked_sub(1)?].number;
        let Place { file, number, .. } = &self.segments[at];
        let reason = format!("missing, although there is {file}");
        (before + 1 < *number).then(|| Damage::new(&segment_name(before + 1), 0, reason))
    }

    /// Reads all of a segment, and gives what could be opened of its records to `record`.
    ///
    /// # Errors
    /// It does not hold what was once durable in it, or `record` refused a record, for the reason that it gave.
    pub fn check(
        &self,
        disk: &dyn Disk,
        at: usize,
        record: OnRecord<'_>,
    ) -> Result<Checked, Damage> {
        let place = &self.segments[at];
        let segment = place.segment.as_ref().map_err(Damage::clone)?;
        let follower = self.segments.get(at + 1);
        let next = follower
            .filter(|next| next.number == place.number + 1)
            .and_then(|next| next.segment.as_ref().ok());
        let mut walk = segment.walk(disk)?;
        let is_torn = walk.all(next, record)? && follower.is_none();
        Ok(Checked {
            key_id: segment.key_id,
            is_open: segment.open.is_some(),
            first: segment.frame.first + 1,
            next: walk.sequence,
            end: walk.offset,
            is_torn,
        })
    }
}
