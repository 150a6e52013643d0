//! Looks at every segment by itself, so that damage in one does not hide what is in the others, and with the keys
//! that there are: the outside of a sealed segment can be held against its checksums without any.
//!
//! Whether a log is whole, [`replay`](super::replay) decides: this finds all places where it is not. Where a segment
//! ends is told by the number and the chain in the next one's open record, which stand there unsealed.

use std::io;

use super::super::header::{HEADER_BYTES, Header, Kind as FileKind};
use super::super::seal::{KEY_BYTES, Sealer};
use super::super::{Damage, Disk};
use super::record::{self, ALIGN_BYTES, Frame, HEAD_BYTES, Head, Kind, Open};
use super::replay::Record;
use super::{NUMBER_MAX, number_in, segment_name};

/// The beginnings of all segments.
pub struct Log {
    segments: Vec<Segment>,
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

struct Segment {
    file: String,
    number: u64,
    bytes: u64,
    begin: Result<Begin, Damage>,
}

struct Begin {
    frame: Frame,
    key_id: u32,
    is_open: bool,
    /// What its open record says, if that could be opened.
    open: Option<Open>,
    /// The open record's.
    chain: u32,
    /// The open record's own checksum.
    sum: u32,
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
                segments.push(Segment {
                    begin: begin(disk, number, info.bytes, key),
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
        let Segment { file, number, .. } = &self.segments[at];
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
        record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<Checked, Damage> {
        let segment = &self.segments[at];
        let begin = segment.begin.as_ref().map_err(Damage::clone)?;
        let follower = self.segments.get(at + 1);
        let next = follower
            .filter(|next| next.number == segment.number + 1)
            .and_then(|next| Some((next, next.begin.as_ref().ok()?)));
        let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        let mut walk = Walk {
            segment,
            begin,
            bytes: read(disk, &segment.file, length)?,
            offset: record::first_offset(begin.key_id != 0),
            sequence: begin.frame.first + 1,
            chain: begin.sum,
        };
        let last = next.map_or(u64::MAX, |(_, next)| next.frame.first);
        while walk.sequence < last && walk.one(record)? {}
        let mut is_torn = false;
        match next {
            Some((next, next_begin)) => walk.meet(&next.file, next_begin)?,
            None => is_torn = walk.rest()? && follower.is_none(),
        }
        Ok(Checked {
            key_id: begin.key_id,
            is_open: begin.is_open,
            first: begin.frame.first + 1,
            next: walk.sequence,
            end: walk.offset,
            is_torn,
        })
    }
}

fn read(disk: &dyn Disk, file: &str, bytes: usize) -> Result<Vec<u8>, Damage> {
    let mut buffer = vec![0; bytes];
    let length = disk
        .read(file, 0, &mut buffer)
        .map_err(|error| Damage::new(file, 0, format!("cannot be read: {error}")))?;
    buffer.truncate(length);
    Ok(buffer)
}

fn begin(
    disk: &dyn Disk,
    number: u64,
    bytes: u64,
    key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
) -> Result<Begin, Damage> {
    let file = segment_name(number);
    let at = |offset: u64, reason: &str| Damage::new(&file, offset, reason);
    let wanted = usize::try_from(record::first_offset(true)).expect("small");
    let mut beginning = read(disk, &file, wanted)?;
    let header = Header::decode(&beginning, FileKind::Segment, &file)?;
    if header.number != number || !(1..=NUMBER_MAX).contains(&number) {
        let reason = format!("the header is that of segment {}", header.number);
        return Err(at(32, &reason));
    }
    let secret = Some(header.key_id).filter(|id| *id != 0).and_then(key);
    let is_open = header.key_id == 0 || secret.is_some();
    let mut frame = Frame {
        number,
        seed: record::seed(beginning.first_chunk().expect("the header was decoded")),
        first: 0,
        sealer: secret.map(|secret| Sealer::new(&secret, &header.salt)),
    };
    let offset = HEADER_BYTES as u64;
    let (head, sum) = frame
        .get(&beginning, offset)
        .filter(|(head, _)| head.kind == Kind::Open && (1..=NUMBER_MAX).contains(&head.sequence))
        .ok_or_else(|| at(offset, "the segment's first record is bad"))?;
    frame.first = head.sequence;
    let mut open = None;
    if is_open {
        let opened = frame.open(&mut beginning, offset, &head).ok_or_else(|| {
            at(
                offset,
                "the key does not open it, although its checksum fits",
            )
        })?;
        open = Open::decode(opened).filter(|open| open.previous == number - 1);
        match &open {
            None => return Err(at(offset, "the segment's first record makes no sense")),
            Some(open) if open.bytes != bytes => {
                let made = open.bytes;
                let reason = format!("the file has {bytes} bytes, and was made with {made}");
                return Err(at(bytes.min(made), &reason));
            }
            Some(_) => {}
        }
    }
    Ok(Begin {
        frame,
        key_id: header.key_id,
        is_open,
        open,
        chain: head.chain,
        sum,
    })
}

/// A walk over the records of one segment.
struct Walk<'l> {
    segment: &'l Segment,
    begin: &'l Begin,
    bytes: Vec<u8>,
    /// Where the next record stands, its sequence number and its chain.
    offset: u64,
    sequence: u64,
    chain: u32,
}

impl Walk<'_> {
    fn damage(&self, reason: impl Into<String>) -> Damage {
        Damage::new(&self.segment.file, self.offset, reason)
    }

    /// Reads the next record; false when there is none.
    fn one(
        &mut self,
        record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<bool, Damage> {
        let frame = &self.begin.frame;
        let Some((head, sum)) = frame.get(&self.bytes, self.offset) else {
            return Ok(false);
        };
        let expected = (Kind::Data, self.sequence, self.chain);
        if (head.kind, head.sequence, head.chain) != expected || head.synced > head.sequence {
            return Ok(false);
        }
        if self.begin.is_open {
            let Some(payload) = frame.open(&mut self.bytes, self.offset, &head) else {
                let reason = "the key does not open it, although its checksum fits";
                return Err(self.damage(reason));
            };
            let given = record(&Record {
                segment: frame.number,
                offset: self.offset,
                sequence: self.sequence,
                payload,
            });
            given.map_err(|reason| self.damage(reason))?;
        }
        self.offset += (HEAD_BYTES + head.length as usize).next_multiple_of(ALIGN_BYTES) as u64;
        self.sequence += 1;
        self.chain = sum;
        Ok(true)
    }

    /// The segment ends where the next one says.
    fn meet(&self, file: &str, next: &Begin) -> Result<(), Damage> {
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
        if self.sequence == self.begin.frame.first + 1 {
            return Err(self.damage("bad record, durable before the file had its name"));
        }
        let at = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or_default();
        let mut is_torn = rest.iter().take(ALIGN_BYTES).any(|byte| *byte != 0);
        for at in (0..rest.len()).step_by(ALIGN_BYTES) {
            let Some(head) = Head::decode(&rest[at..], self.begin.frame.seed) else {
                continue;
            };
            if head.synced > self.sequence {
                let later = self.offset + at as u64;
                let reason = format!("bad record; that at byte {later} says that it was durable");
                return Err(self.damage(reason));
            }
            is_torn = true;
        }
        Ok(is_torn)
    }
}
