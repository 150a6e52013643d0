//! Reads the log from its first record to its end and writes nothing.
//!
//! First the beginnings of all segments are read, which say where the segments before them ended; then the records,
//! one segment in memory at a time.

use std::collections::VecDeque;

use super::super::header::{HEADER_BYTES, Header, Kind as FileKind};
use super::super::seal::{KEY_BYTES, Sealer};
use super::super::{Damage, Disk};
use super::record::{self, ALIGN_BYTES, Frame, HEAD_BYTES, Head, Kind, Open};
use super::{NUMBER_MAX, SegmentInfo, number_in, segment_name};

/// A data record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'p> {
    /// Number of its segment.
    pub segment: u64,
    /// Where in the segment's file it begins.
    pub offset: u64,
    /// Its sequence number.
    pub sequence: u64,
    /// What was appended.
    pub payload: &'p [u8],
}

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

/// A segment of which the beginning was read.
struct Segment {
    file: String,
    bytes: u64,
    key_id: u32,
    frame: Frame,
    open: Open,
    /// The open record's.
    chain: u32,
    /// The open record's own checksum.
    sum: u32,
}

/// Gives every record to `record`, in order. `key` has the key with an id.
///
/// # Errors
/// A file cannot be read, was made by a newer version, or does not hold what was once durable in it; a key is
/// missing; a segment is; or `record` refused one, for the reason that it gave.
pub fn replay(
    disk: &dyn Disk,
    key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
    record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
) -> Result<End, Damage> {
    let segments = segments(disk, key)?;
    let mut end = End {
        segments: segments.iter().map(Segment::info).collect(),
        sequence: 1,
        torn: None,
        chain: 0,
        offset: 0,
        proven: 0,
    };
    for (index, segment) in segments.iter().enumerate() {
        let mut reader = Reader::begin(disk, segment)?;
        match segments.get(index + 1) {
            Some(next) => reader.read_before(next, record)?,
            None => end.torn = reader.read_last(record)?,
        }
        end.sequence = reader.sequence;
        end.chain = reader.chain;
        end.offset = reader.offset;
        end.proven = reader.unproven.front().map_or(reader.offset, |at| at.1);
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
        segments.push(Segment::begin(disk, number, bytes, key)?);
    }
    Ok(segments)
}

fn read(disk: &dyn Disk, file: &str, bytes: usize) -> Result<Vec<u8>, Damage> {
    let mut buffer = vec![0; bytes];
    let length = disk
        .read(file, 0, &mut buffer)
        .map_err(|error| Damage::new(file, 0, format!("cannot be read: {error}")))?;
    buffer.truncate(length);
    Ok(buffer)
}

impl Segment {
    /// Reads the header and the open record.
    fn begin(
        disk: &dyn Disk,
        number: u64,
        bytes: u64,
        key: &dyn Fn(u32) -> Option<[u8; KEY_BYTES]>,
    ) -> Result<Segment, Damage> {
        let file = segment_name(number);
        let at = |offset: u64, reason: &str| Damage::new(&file, offset, reason);
        let beginning = record::first_offset(true);
        let mut beginning = read(disk, &file, usize::try_from(beginning).expect("small"))?;
        let header = Header::decode(&beginning, FileKind::Segment, &file)?;
        if header.number != number || !(1..=NUMBER_MAX).contains(&number) {
            let reason = format!("the header is that of segment {}", header.number);
            return Err(Damage::new(&file, 32, reason));
        }
        let sealer = match header.key_id {
            0 => None,
            id => Some(key(id).ok_or_else(|| at(12, &format!("key {id} is missing")))?),
        };
        let offset = HEADER_BYTES as u64;
        let mut frame = Frame {
            number,
            seed: header_seed(&beginning),
            first: 0,
            sealer: sealer.map(|secret| Sealer::new(&secret, &header.salt)),
        };
        let (head, sum) = frame
            .get(&beginning, offset)
            .filter(|(head, _)| {
                head.kind == Kind::Open && (1..=NUMBER_MAX).contains(&head.sequence)
            })
            .ok_or_else(|| at(offset, "the segment's first record is bad"))?;
        frame.first = head.sequence;
        let open = frame
            .open(&mut beginning, offset, &head)
            .ok_or_else(|| at(offset, &unopened(header.key_id)))?;
        let open = Open::decode(open)
            .filter(|open| open.previous == number - 1)
            .ok_or_else(|| at(offset, "the segment's first record makes no sense"))?;
        if open.bytes != bytes {
            let reason = format!(
                "the file has {bytes} bytes, and was made with {}",
                open.bytes
            );
            return Err(at(bytes.min(open.bytes), &reason));
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

    fn info(&self) -> SegmentInfo {
        SegmentInfo {
            number: self.frame.number,
            bytes: self.bytes,
            key_id: self.key_id,
        }
    }
}

/// The seed of the segment whose header, which was found good, `bytes` begin with.
fn header_seed(bytes: &[u8]) -> u32 {
    let header = bytes.first_chunk().expect("the header was decoded");
    record::seed(header)
}

fn unopened(key_id: u32) -> String {
    format!("key {key_id} does not open it, although its checksum fits")
}

/// Walks over the records of one segment.
struct Reader<'s> {
    segment: &'s Segment,
    bytes: Vec<u8>,
    /// Where the next record stands, its sequence number and its chain.
    offset: u64,
    sequence: u64,
    chain: u32,
    /// Sequence numbers and offsets of the records read that nothing read vouches for.
    unproven: VecDeque<(u64, u64)>,
}

impl<'s> Reader<'s> {
    /// Stands before the first data record.
    fn begin(disk: &dyn Disk, segment: &'s Segment) -> Result<Reader<'s>, Damage> {
        let bytes = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        Ok(Reader {
            segment,
            bytes: read(disk, &segment.file, bytes)?,
            offset: record::first_offset(segment.frame.sealer.is_some()),
            sequence: segment.frame.first + 1,
            chain: segment.sum,
            unproven: VecDeque::new(),
        })
    }

    fn damage(&self, reason: impl Into<String>) -> Damage {
        Damage::new(&self.segment.file, self.offset, reason)
    }

    /// Reads all records of a segment that `next` follows, and that therefore ends where that one says.
    fn read_before(
        &mut self,
        next: &Segment,
        record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<(), Damage> {
        while self.offset < next.open.end {
            if !self.read_one(record)? {
                let reason = format!("bad record; {} says that it was good", next.file);
                return Err(self.damage(reason));
            }
        }
        let stated = (next.open.end, next.frame.first, next.chain);
        if (self.offset, self.sequence, self.chain) != stated {
            let reason = format!("the records do not end here as {} says", next.file);
            return Err(self.damage(reason));
        }
        Ok(())
    }

    /// Reads all records of the newest segment; whether something that is none stands behind them.
    fn read_last(
        &mut self,
        record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<Option<Torn>, Damage> {
        while self.read_one(record)? {}
        if self.sequence == self.segment.frame.first + 1 {
            return Err(self.damage("bad record, durable before the file had its name"));
        }
        let mut is_torn = self.rest().iter().take(ALIGN_BYTES).any(|byte| *byte != 0);
        for at in (0..self.rest().len()).step_by(ALIGN_BYTES) {
            let Some(head) = Head::decode(&self.rest()[at..], self.segment.frame.seed) else {
                continue;
            };
            if head.synced > self.sequence {
                let later = self.offset + at as u64;
                let reason = format!("bad record; that at byte {later} says that it was durable");
                return Err(self.damage(reason));
            }
            is_torn = true;
        }
        Ok(is_torn.then(|| Torn {
            file: self.segment.file.clone(),
            offset: self.offset,
        }))
    }

    /// What was not read yet.
    fn rest(&self) -> &[u8] {
        let at = usize::try_from(self.offset).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }

    /// Reads the next record; false when there is none.
    fn read_one(
        &mut self,
        record: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<bool, Damage> {
        let frame = &self.segment.frame;
        let Some((head, sum)) = frame.get(&self.bytes, self.offset) else {
            return Ok(false);
        };
        let expected = (Kind::Data, self.sequence, self.chain);
        if (head.kind, head.sequence, head.chain) != expected || head.synced > head.sequence {
            return Ok(false);
        }
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
}
