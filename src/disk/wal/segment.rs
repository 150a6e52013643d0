//! One segment: its beginning, and a walk over its records.
//!
//! What is a record, what is torn and what has rotted is decided here and nowhere else: for [`replay`](super::replay),
//! which wants the log whole, and for [`check`](super::check), which wants to know of every place where it is not.

use std::collections::VecDeque;

use super::super::header::{HEADER_BYTES, Header, Kind as FileKind};
use super::super::seal::{KEY_BYTES, Sealer};
use super::super::{Damage, Disk};
use super::record::{self, ALIGN_BYTES, Frame, HEAD_BYTES, Head, Kind, Open};
use super::{NUMBER_MAX, Record, segment_name};
use crate::planted::{self, Bug};

/// Who is given the records.
pub(super) type OnRecord<'r> = &'r mut dyn FnMut(&Record<'_>) -> Result<(), String>;

/// A segment of which the beginning was read.
pub(super) struct Segment {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) key_id: u32,
    pub(super) frame: Frame,
    /// What its open record says; `None` when its key is missing, so that no record of it can be opened.
    pub(super) open: Option<Open>,
    /// The open record's.
    chain: u32,
    /// The open record's own checksum.
    sum: u32,
}

fn read(disk: &dyn Disk, file: &str, bytes: u64) -> Result<Vec<u8>, Damage> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let length = disk
        .read(file, 0, &mut buffer)
        .map_err(|error| Damage::new(file, 0, format!("cannot be read: {error}")))?;
    buffer.truncate(length);
    Ok(buffer)
}

impl Segment {
    /// Reads the header and the open record. `key` has the key with an id, if it is there.
    pub(super) fn begin(
        disk: &dyn Disk,
        number: u64,
        bytes: u64,
        key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
    ) -> Result<Segment, Damage> {
        let file = segment_name(number);
        let at = |offset: u64, reason: &str| Damage::new(&file, offset, reason);
        let mut beginning = read(disk, &file, record::first_offset(true))?;
        let header = Header::decode(&beginning, FileKind::Segment, &file)?;
        if header.number != number || !(1..=NUMBER_MAX).contains(&number) {
            let reason = format!("the header is that of segment {}", header.number);
            return Err(at(32, &reason));
        }
        let secret = Some(header.key_id).filter(|id| *id != 0).and_then(key);
        let mut frame = Frame {
            number,
            seed: record::seed(beginning.first_chunk().expect("the header was decoded")),
            first: 0,
            sealer: secret.map(|secret| Sealer::new(&secret, &header.salt)),
        };
        let offset = HEADER_BYTES as u64;
        let (head, sum) = frame
            .get(&beginning, offset)
            .filter(|(head, _)| {
                head.kind == Kind::Open && (1..=NUMBER_MAX).contains(&head.sequence)
            })
            .ok_or_else(|| at(offset, "the segment's first record is bad"))?;
        frame.first = head.sequence;
        let mut open = None;
        if header.key_id == 0 || secret.is_some() {
            let opened = frame
                .open(&mut beginning, offset, &head)
                .ok_or_else(|| at(offset, &unopened(header.key_id)))?;
            let said = Open::decode(opened)
                .filter(|open| open.previous == number - 1)
                .ok_or_else(|| at(offset, "the segment's first record makes no sense"))?;
            if said.bytes != bytes {
                let made = said.bytes;
                let reason = format!("the file has {bytes} bytes, and was made with {made}");
                return Err(at(bytes.min(made), &reason));
            }
            open = Some(said);
        }
        Ok(Segment {
            bytes,
            key_id: header.key_id,
            frame,
            open,
            chain: head.chain,
            sum,
            file,
        })
    }

    /// Stands before the first data record.
    pub(super) fn walk(&self, disk: &dyn Disk) -> Result<Walk<'_>, Damage> {
        Ok(Walk {
            segment: self,
            bytes: read(disk, &self.file, self.bytes)?,
            offset: record::first_offset(self.key_id != 0),
            sequence: self.frame.first + 1,
            chain: self.sum,
            unproven: VecDeque::new(),
        })
    }
}

fn unopened(key_id: u32) -> String {
    format!("key {key_id} does not open it, although its checksum fits")
}

/// A walk over the records of one segment.
pub(super) struct Walk<'s> {
    segment: &'s Segment,
    bytes: Vec<u8>,
    /// Where the next record stands, its sequence number and its chain.
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) chain: u32,
    /// Sequence numbers and offsets of the records read that nothing read vouches for.
    unproven: VecDeque<(u64, u64)>,
}

impl Walk<'_> {
    /// Reads all records, and gives those that can be opened to `record`. With a segment that follows, they must
    /// end where that one says; without, whether something that is none stands behind them.
    pub(super) fn all(
        &mut self,
        next: Option<&Segment>,
        record: OnRecord<'_>,
    ) -> Result<bool, Damage> {
        let last = next.map_or(u64::MAX, |next| next.frame.first);
        while self.sequence < last && self.one(record)? {}
        match next {
            Some(next) => self.meet(next).map(|()| false),
            None => self.rest(),
        }
    }

    /// Up to where something vouches for what was read.
    pub(super) fn proven(&self) -> u64 {
        self.unproven.front().map_or(self.offset, |at| at.1)
    }

    fn damage(&self, reason: impl Into<String>) -> Damage {
        Damage::new(&self.segment.file, self.offset, reason)
    }

    /// Reads the next record; false when there is none.
    fn one(&mut self, record: OnRecord<'_>) -> Result<bool, Damage> {
        let frame = &self.segment.frame;
        let Some((head, sum)) = frame.get(&self.bytes, self.offset) else {
            return Ok(false);
        };
        let expected = (Kind::Data, self.sequence, self.chain);
        let is_next = (head.kind, head.sequence, head.chain) == expected;
        let is_next = is_next || head.kind == Kind::Data && planted::is(Bug::GenerationIgnored);
        if !is_next || head.synced > head.sequence {
            return Ok(false);
        }
        if self.segment.open.is_some() {
            let Some(payload) = frame.open(&mut self.bytes, self.offset, &head) else {
                return Err(self.damage(unopened(self.segment.key_id)));
            };
            let given = record(&Record {
                segment: frame.number,
                offset: self.offset,
                sequence: self.sequence,
                payload,
            });
            given.map_err(|reason| self.damage(reason))?;
        }
        self.proven_below(head.synced);
        if self.sequence > frame.first + 1 {
            self.unproven.push_back((self.sequence, self.offset));
        }
        self.offset += (HEAD_BYTES + head.length as usize).next_multiple_of(ALIGN_BYTES) as u64;
        self.sequence += 1;
        self.chain = sum;
        Ok(true)
    }

    fn proven_below(&mut self, sequence: u64) {
        while self.unproven.front().is_some_and(|at| at.0 < sequence) {
            self.unproven.pop_front();
        }
    }

    /// The segment ends where the next one says.
    fn meet(&self, next: &Segment) -> Result<(), Damage> {
        let file = &next.file;
        if self.sequence < next.frame.first {
            return Err(self.damage(format!("bad record; {file} says that it was good")));
        }
        let is_end = next
            .open
            .as_ref()
            .is_none_or(|open| open.end == self.offset);
        if (self.sequence, self.chain) != (next.frame.first, next.chain) || !is_end {
            return Err(self.damage(format!("the records do not end here as {file} says")));
        }
        Ok(())
    }

    /// Looks at what stands behind the last good record; whether it is something.
    fn rest(&self) -> Result<bool, Damage> {
        if self.sequence == self.segment.frame.first + 1 {
            return Err(self.damage("bad record, durable before the file had its name"));
        }
        let at = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or_default();
        let mut is_torn = rest.iter().take(ALIGN_BYTES).any(|byte| *byte != 0);
        for at in (0..rest.len()).step_by(ALIGN_BYTES) {
            let Some(head) = Head::decode(&rest[at..], self.segment.frame.seed) else {
                continue;
            };
            if head.synced > self.sequence && !planted::is(Bug::RotTruncated) {
                let later = self.offset + at as u64;
                let reason = format!("bad record; that at byte {later} says that it was durable");
                return Err(self.damage(reason));
            }
            is_torn = true;
        }
        Ok(is_torn)
    }
}
