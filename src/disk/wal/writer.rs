//! Appends to the log. Every call blocks: this lives on the disk thread.
//!
//! Failures come in two kinds. Where [`is_full`] says yes, nothing of the call counts and it may be made again.
//! After any other nobody knows what is durable: the log is broken, refuses every further call, and the process
//! must end; the next one reads what there is.

use std::io;
use std::sync::Arc;

use super::super::header::{Header, Kind as FileKind, SALT_BYTES};
use super::super::seal::{Entropy, Sealer, TAG_BYTES};
use super::super::{DIRECTORY, Disk};
use super::record::{self, ALIGN_BYTES, Frame, HEAD_BYTES, Head, Kind, Open};
use super::replay::End;
use super::spares::{Spare, SparePlan, Spares};
use super::{ActiveKey, PAYLOAD_BYTES_MAX, SegmentInfo, is_full, segment_name};
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};

/// Segments are not shorter than this: the beginning of one and a few records.
pub const SEGMENT_BYTES_MIN: u64 = 256;

/// Memory that is kept between appends.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A sync that is to be: on any thread, while the log goes on.
pub struct SyncPlan {
    /// The segment; none, if there is nothing to sync.
    name: Option<String>,
    sequence: u64,
}

/// Records below this number are durable.
pub struct Synced {
    sequence: u64,
}

impl SyncPlan {
    /// Syncs what had been appended when the plan was made.
    ///
    /// # Errors
    /// Whatever it is, the log must not be used any more.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Synced> {
        if let Some(name) = &self.name {
            disk.sync(name)?;
        }
        Ok(Synced {
            sequence: self.sequence,
        })
    }
}

/// The segment that this process appends to.
struct Live {
    name: String,
    bytes: u64,
    frame: Frame,
}

/// The log, at its end.
pub struct Wal {
    disk: Arc<dyn Disk>,
    key: Option<ActiveKey>,
    entropy: Entropy,
    segment_bytes: u64,
    spares: Spares,
    /// Every segment, in order.
    segments: Vec<SegmentInfo>,
    /// None before the first append, and when the newest segment takes no further record.
    live: Option<Live>,
    /// Where the newest segment ends.
    end: u64,
    /// The last record's checksum.
    chain: u32,
    /// Number of the next record.
    sequence: u64,
    /// Records below this number are durable.
    synced: u64,
    is_broken: bool,
    /// What is written next; kept for its memory.
    buffer: Vec<u8>,
}

impl Wal {
    /// Goes on behind `end`, in segments of `segment_bytes` (a multiple of 8), sealed where there is a key. What was
    /// read is made durable first, because whoever wrote it may have failed to; and a spare is made, so that the
    /// first append has its space. If there is none, that is no error yet, so that a node on a full disk can begin
    /// and be read: [`Wal::prepare`] says so, and [`Wal::room`] is 0.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(
        disk: Arc<dyn Disk>,
        key: Option<ActiveKey>,
        entropy: Entropy,
        end: &End,
        segment_bytes: u64,
    ) -> io::Result<Wal> {
        assert!(segment_bytes >= SEGMENT_BYTES_MIN && segment_bytes.is_multiple_of(8));
        assert!(key.as_ref().is_none_or(|key| key.id != 0));
        disk.sync(DIRECTORY)?;
        failpoint::reach(Point::LogFound);
        write_again(&*disk, end)?;
        let mut spares = Spares::find(Arc::clone(&disk), segment_bytes)?;
        match spares.make(0) {
            Err(error) if !is_full(&error) => return Err(error),
            Err(_) | Ok(()) => {}
        }
        Ok(Wal {
            disk,
            key,
            entropy,
            segment_bytes,
            spares,
            segments: end.segments.clone(),
            live: None,
            end: end.offset,
            chain: end.chain,
            sequence: end.sequence,
            synced: end.sequence,
            is_broken: false,
            buffer: Vec::new(),
        })
    }

    /// Appends one record; with `sync` it is durable when this returns. Returns the number of its segment.
    ///
    /// # Errors
    /// See the module. For lack of space: this record does not count, nor does it ever appear.
    pub fn append(&mut self, payload: &[u8], sync: bool) -> io::Result<u64> {
        self.check()?;
        assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let fits = self.live.as_ref().is_some_and(|live| {
            let bytes = record::record_bytes(payload.len(), live.frame.sealer.is_some());
            self.end + bytes <= live.bytes
        });
        match fits {
            true => self.extend(payload, sync)?,
            false => self.begin_segment(payload)?,
        }
        Ok(self.newest())
    }

    /// Makes everything durable that was appended.
    ///
    /// # Errors
    /// Whatever it is, the log is broken.
    pub fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        if self.synced < self.sequence {
            let name = segment_name(self.newest());
            self.disk.sync(&name).map_err(|error| self.broken(error))?;
            self.synced = self.sequence;
        }
        Ok(())
    }

    /// Whether everything is durable that was appended.
    pub fn is_synced(&self) -> bool {
        self.synced == self.sequence
    }

    /// What is to be done to make everything durable that was appended, without holding up the log meanwhile; then
    /// [`note_synced`](Self::note_synced) it.
    pub fn plan_sync(&self) -> SyncPlan {
        SyncPlan {
            name: (!self.is_synced()).then(|| segment_name(self.newest())),
            sequence: self.sequence,
        }
    }

    /// Takes it that a plan was carried out.
    pub fn note_synced(&mut self, synced: &Synced) {
        self.synced = self.synced.max(synced.sequence);
    }

    /// Makes a spare if none is ready. To be called when nothing else is to be done, after an append.
    ///
    /// # Errors
    /// See the module. For lack of space: what is left is [`Wal::room`].
    pub fn prepare(&mut self) -> io::Result<()> {
        self.check()?;
        if self.spares.is_ready() {
            return Ok(());
        }
        self.spares
            .make(0)
            .map_err(|error| self.full_or_broken(error))
    }

    /// Whether no spare is ready, so that [`plan_spare`](Self::plan_spare) should be asked.
    pub fn wants_spare(&self) -> bool {
        !self.spares.is_ready()
    }

    /// A spare to be made, with room for a payload of this length, without holding up the log meanwhile; then
    /// [`adopt`](Self::adopt) it.
    pub fn plan_spare(&mut self, payload_bytes: u64) -> SparePlan {
        let payload_bytes = payload_bytes.min(PAYLOAD_BYTES_MAX as u64) as usize;
        self.spares
            .plan(segment_bytes_for(payload_bytes, self.key.is_some()))
    }

    /// Takes a spare that was made.
    pub fn adopt(&mut self, spare: Spare) {
        self.spares.add(spare);
    }

    /// The longest payload that the next append takes without asking the disk for space.
    pub fn room(&self) -> u64 {
        let first = record::first_offset(self.key.is_some());
        let spare = self.spares.longest().saturating_sub(first);
        self.payload_in(spare).max(self.room_in_segment())
    }

    /// The longest payload that the next append takes without beginning a segment.
    pub fn room_in_segment(&self) -> u64 {
        let live = self.live.as_ref().map_or(0, |live| live.bytes - self.end);
        self.payload_in(live)
    }

    /// The longest payload of a record of so many bytes.
    fn payload_in(&self, bytes: u64) -> u64 {
        let tag = if self.key.is_some() { TAG_BYTES } else { 0 };
        bytes
            .saturating_sub((HEAD_BYTES + tag) as u64)
            .min(PAYLOAD_BYTES_MAX as u64)
    }

    /// Nobody needs the segments numbered `below` this any more. They become spares or are removed, all but the
    /// newest segment, which says where the log is.
    ///
    /// # Errors
    /// See the module.
    pub fn recycle(&mut self, below: u64) -> io::Result<()> {
        self.check()?;
        while self.segments.len() > 1 && self.segments[0].number < below {
            self.recycle_first()
                .map_err(|error| self.full_or_broken(error))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    /// Seals what follows with another key, or not at all: the next append begins a segment. Spares with contents
    /// that are not sealed with it are removed.
    ///
    /// # Errors
    /// See the module.
    pub fn set_key(&mut self, key: Option<ActiveKey>) -> io::Result<()> {
        self.check()?;
        assert!(key.as_ref().is_none_or(|key| key.id != 0));
        self.key = key;
        self.live = None;
        self.spares
            .keep_only(self.key_id())
            .map_err(|error| self.full_or_broken(error))
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.segments
    }

    fn key_id(&self) -> u32 {
        self.key.as_ref().map_or(0, |key| key.id)
    }

    /// Number of the newest segment; 0: there is none.
    fn newest(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.number)
    }

    fn check(&self) -> io::Result<()> {
        match self.is_broken {
            true => Err(io::Error::other("the log is broken by an earlier failure")),
            false => Ok(()),
        }
    }

    /// Refuses all further calls. The error is none of lack of space, so that nobody tries again.
    fn broken(&mut self, error: io::Error) -> io::Error {
        self.is_broken = true;
        match is_full(&error) {
            true => io::Error::other(error),
            false => error,
        }
    }

    fn full_or_broken(&mut self, error: io::Error) -> io::Error {
        match is_full(&error) {
            true => error,
            false => self.broken(error),
        }
    }

    /// Appends to the live segment, which has room.
    fn extend(&mut self, payload: &[u8], sync: bool) -> io::Result<()> {
        let live = self.live.as_ref().expect("it has room");
        let head = Head {
            kind: Kind::Data,
            length: 0,
            payload_sum: 0,
            chain: self.chain,
            sequence: self.sequence,
            synced: self.synced,
        };
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        let chain = live.frame.put(head, payload, &mut self.buffer);
        let next = self.end + self.buffer.len() as u64;
        terminate(&mut self.buffer, live.bytes - self.end);
        failpoint::reach(Point::RecordFramed);
        if let Err(error) = self.disk.write(&live.name, self.end, &self.buffer) {
            return Err(self.retract(error));
        }
        failpoint::reach(Point::RecordWritten);
        if sync
            && !planted::is(Bug::SyncSkipped)
            && let Err(error) = self.disk.sync(&live.name)
        {
            // Of what the sync lost, only this record may be taken back.
            return Err(match self.synced == self.sequence {
                true => self.retract(error),
                false => self.broken(error),
            });
        }
        failpoint::reach(Point::RecordSynced);
        self.chain = chain;
        self.end = next;
        self.sequence += 1;
        if sync {
            self.synced = self.sequence;
        }
        Ok(())
    }

    /// For lack of space the record at the end was not written, or in parts: makes sure that it never appears, and
    /// gives the segment up, because the nonce is spent.
    fn retract(&mut self, error: io::Error) -> io::Error {
        if !is_full(&error) {
            return self.broken(error);
        }
        let live = self.live.take().expect("it was written to");
        let zeros = [0; HEAD_BYTES];
        let retracted = self
            .disk
            .write(&live.name, self.end, &zeros)
            .and_then(|()| self.disk.sync(&live.name));
        match retracted {
            Err(error) => self.broken(error),
            Ok(()) => {
                self.synced = self.sequence;
                error
            }
        }
    }

    /// Begins a segment whose first record is this one.
    fn begin_segment(&mut self, payload: &[u8]) -> io::Result<()> {
        self.sync()?;
        let is_sealed = self.key.is_some();
        let needed = segment_bytes_for(payload.len(), is_sealed);
        let mut spare = (self.spares.take(needed)).map_err(|error| self.full_or_broken(error))?;
        let (frame, chain) = self.first_write(&spare, payload);
        spare.key_id = Some(self.key_id());
        failpoint::reach(Point::SegmentBegun);
        let name = segment_name(frame.number);
        let named = (self.disk.write(&spare.name, 0, &self.buffer))
            .and_then(|()| self.disk.sync(&spare.name))
            .inspect(|()| failpoint::reach(Point::SegmentSynced))
            .and_then(|()| self.disk.rename(&spare.name, &name));
        if let Err(error) = named {
            self.spares.add(spare);
            return Err(self.full_or_broken(error));
        }
        failpoint::reach(Point::SegmentRenamed);
        if !planted::is(Bug::SegmentNameNotSynced) {
            (self.disk.sync(DIRECTORY)).map_err(|error| self.broken(error))?;
        }
        failpoint::reach(Point::SegmentNamed);
        self.segments.push(SegmentInfo {
            number: frame.number,
            bytes: spare.bytes,
            key_id: self.key_id(),
        });
        self.chain = chain;
        self.end = needed;
        self.sequence += 2;
        self.synced = self.sequence;
        self.live = Some(Live {
            name,
            bytes: spare.bytes,
            frame,
        });
        Ok(())
    }

    /// Fills the buffer with the beginning of a segment: header, open record and first data record, whose chain
    /// is returned.
    fn first_write(&mut self, spare: &Spare, payload: &[u8]) -> (Frame, u32) {
        let mut salt = [0; SALT_BYTES];
        (self.entropy)(&mut salt);
        let number = self.newest() + 1;
        let header = Header {
            kind: FileKind::Segment,
            key_id: self.key_id(),
            salt,
            number,
        };
        let header = header.encode();
        let frame = Frame {
            number,
            seed: record::seed(&header),
            first: self.sequence,
            sealer: (self.key.as_ref()).map(|key| Sealer::new(&key.secret, &salt)),
        };
        let open = Open {
            previous: self.newest(),
            end: self.end,
            bytes: spare.bytes,
        };
        let mut head = Head {
            kind: Kind::Open,
            length: 0,
            payload_sum: 0,
            chain: self.chain,
            sequence: self.sequence,
            synced: self.sequence,
        };
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.buffer.extend_from_slice(&header);
        let chain = frame.put(head.clone(), &open.encode(), &mut self.buffer);
        head.kind = Kind::Data;
        head.chain = chain;
        head.sequence += 1;
        let chain = frame.put(head, payload, &mut self.buffer);
        terminate(&mut self.buffer, spare.bytes);
        (frame, chain)
    }

    /// Makes the first segment a spare, or removes it.
    fn recycle_first(&mut self) -> io::Result<()> {
        let first = &self.segments[0];
        let name = segment_name(first.number);
        let is_wanted = first.bytes == self.segment_bytes
            && first.key_id == self.key_id()
            && self.spares.has_room();
        if !is_wanted {
            self.disk.remove(&name)?;
            failpoint::reach(Point::SegmentRemoved);
            return self.sync_directory();
        }
        let spare = Spare {
            name: self.spares.new_name(),
            bytes: first.bytes,
            key_id: Some(first.key_id),
        };
        self.disk.rename(&name, &spare.name)?;
        failpoint::reach(Point::SegmentSpared);
        // Before it is written over: until then a crash may give it its old name back.
        self.sync_directory()?;
        failpoint::reach(Point::SpareKept);
        self.spares.add(spare);
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        (self.disk.sync(DIRECTORY)).map_err(|error| self.broken(error))
    }
}

/// Length of a segment that begins with a record of this payload and has nothing behind it.
fn segment_bytes_for(payload_bytes: usize, is_sealed: bool) -> u64 {
    record::first_offset(is_sealed) + record::record_bytes(payload_bytes, is_sealed)
}

/// Puts zeros where the next record's checksums will stand, as far as the `room` of the segment goes: old bytes
/// would look like a torn record.
fn terminate(buffer: &mut Vec<u8>, room: u64) {
    let has_room = buffer.len() as u64 + ALIGN_BYTES as u64 <= room;
    if has_room && !planted::is(Bug::GenerationIgnored) {
        buffer.extend_from_slice(&[0; ALIGN_BYTES]);
    }
}

/// Writes the records again that were read but for which nothing vouches, the same bytes in the same place, and
/// syncs them: then they are durable even if a sync of them failed before.
fn write_again(disk: &dyn Disk, end: &End) -> io::Result<()> {
    let Some(last) = end.segments.last().filter(|_| end.proven < end.offset) else {
        return Ok(());
    };
    let name = segment_name(last.number);
    let bytes = usize::try_from(end.offset - end.proven).map_err(io::Error::other)?;
    let mut buffer = vec![0; bytes];
    if disk.read(&name, end.proven, &mut buffer)? < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    disk.write(&name, end.proven, &buffer)?;
    failpoint::reach(Point::RecordsWrittenAgain);
    disk.sync(&name)
}
