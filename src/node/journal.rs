//! The log's way to the disk: one thread writes and syncs, one record after the other.
//!
//! ```text
//!   --sync always   a batch waits until its record is synced; meanwhile the next one gathers
//!   --sync 1s       it waits until its record is written: no end of the process loses it; a sync every second
//!   --sync never    the same without the sync
//! ```
//!
//! The [`Wal`] travels: with a job to the disk thread, with its result back. A record that follows another
//! shows that the other was durable; when nothing follows for a while, an empty record is written for that
//! purpose, so that damage to the last record of a log at rest is told from one that was torn by a crash.
//!
//! Trouble:
//! - The disk is full: a batch is handed over only when its record has its space ([`room_for`]); if there is none
//!   to be had, the batch is refused, and nothing of it was done. As soon as no further segment can be prepared,
//!   writes are refused before they come to a batch (except those that take things away), so that there is
//!   room left for deletes. A record that finds no space all the same (a file system may need some to write over
//!   what is there) is tried again until it succeeds.
//! - Any other error of a write or a sync ends the process. What a failed sync left on the disk nobody knows,
//!   and trying again would report success without it ("Can Applications Recover from fsync Failures?", USENIX
//!   ATC 2020).

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::config::Sync;
use crate::data::files::{Files, RESERVE};
use crate::disk::seal::KEY_BYTES;
use crate::disk::wal::spares::Spare;
use crate::disk::wal::writer::Wal;
use crate::disk::wal::{ActiveKey, is_full};
use crate::disk::{DIRECTORY, Disk, FileInfo, fill_with_zeros};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;

use super::{Node, commit, saving};

/// How long a full disk is left alone before it is tried again.
const RETRY_NANOS: Nanos = 1_000_000_000;
const SECOND_NANOS: Nanos = 1_000_000_000;

/// One record on its way.
pub struct Record {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// The last index of each shard that has entries in it.
    pub marks: Vec<(u16, u64)>,
    /// Whether the batch in flight waits for it.
    pub is_awaited: bool,
}

impl Record {
    /// A record that only shows that the one before it was durable.
    fn empty() -> Record {
        Record {
            payload: Vec::new(),
            marks: Vec::new(),
            is_awaited: false,
        }
    }
}

/// Which segments hold which entries.
#[derive(Debug, Default)]
pub struct Segments {
    last: VecDeque<(u64, BTreeMap<u16, u64>)>,
}

impl Segments {
    /// A segment holds entries of these shards up to these indices.
    pub fn note(&mut self, segment: u64, marks: &[(u16, u64)]) {
        if self.last.back().is_none_or(|(number, _)| *number < segment) {
            self.last.push_back((segment, BTreeMap::new()));
        }
        let Some((_, of_shard)) = self.last.back_mut() else {
            return;
        };
        for &(shard, index) in marks {
            let last = of_shard.entry(shard).or_default();
            *last = index.max(*last);
        }
    }

    /// The first segment that is still needed when `saved` says up to which index a shard is in a snapshot.
    pub fn needed_from(&mut self, saved: impl Fn(u16) -> u64) -> u64 {
        while self.last.len() > 1 {
            let (_, of_shard) = &self.last[0];
            if of_shard.iter().any(|(&shard, &index)| index > saved(shard)) {
                break;
            }
            self.last.pop_front();
        }
        self.last.front().map_or(0, |(number, _)| *number)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.last.len()
    }
}

/// Whether a record finds its space in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Enough,
    /// Space is being made.
    Soon,
    /// There is none to be had.
    None,
}

/// What INFO tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long the last write of one or more took, with its sync.
    pub last_ns: u64,
    /// How long the longest took.
    pub max_ns: u64,
    /// Bytes written since a snapshot was begun for their sake.
    pub since_saved: u64,
}

/// What lies between batches and the disk.
pub struct Journal {
    link: Option<Link>,
    /// Counters.
    pub figures: Figures,
    /// Which segments hold what.
    pub segments: Segments,
}

/// The log and what is on its way to it.
struct Link {
    files: Files,
    sync: Sync,
    /// The log, unless a job has it.
    wal: Option<Wal>,
    /// Whether the log was begun: on a full disk it cannot be.
    has_begun: bool,
    queue: VecDeque<Record>,
    queue_bytes: usize,
    /// A second has passed since the last sync.
    sync_due: bool,
    synced: Nanos,
    /// When the last sync that ended well was begun.
    synced_from: Nanos,
    /// The last record is not yet confirmed by one behind it.
    unconfirmed: bool,
    /// Nothing was written since the last look.
    idle: bool,
    /// Keeps writes refused until then.
    full: Option<Nanos>,
    is_preparing: bool,
    /// The space that the open batch waited for could not be had.
    is_denied: bool,
    /// A segment that was made ready while a job had the log.
    spare: Option<Spare>,
    has_reserve: bool,
    /// Segments below are not needed; 0: none are to be looked for.
    recycle_below: u64,
    /// The key that the log is to be sealed with from now on.
    key: Option<Option<ActiveKey>>,
}

impl Link {
    /// Gives the log the segment that was made ready for it.
    fn adopt(&mut self) {
        if let Some(wal) = &mut self.wal
            && let Some(spare) = self.spare.take()
        {
            wal.adopt(spare);
        }
    }
}

impl Journal {
    /// No disk: everything is in memory only.
    pub fn absent() -> Journal {
        Journal {
            link: None,
            figures: Figures::default(),
            segments: Segments::default(),
        }
    }

    /// A log that is to be begun, behind these segments, whose files have so many bytes.
    pub fn open(files: Files, sync: Sync, segments: Segments, bytes: u64) -> Journal {
        Journal {
            link: Some(Link {
                files,
                sync,
                wal: None,
                has_begun: false,
                queue: VecDeque::new(),
                queue_bytes: 0,
                sync_due: false,
                synced: 0,
                synced_from: 0,
                unconfirmed: true,
                idle: false,
                full: None,
                is_preparing: false,
                is_denied: false,
                spare: None,
                has_reserve: false,
                recycle_below: 0,
                key: None,
            }),
            figures: Figures {
                since_saved: bytes,
                ..Figures::default()
            },
            segments,
        }
    }

    /// Whether there is no disk.
    pub fn is_absent(&self) -> bool {
        self.link.is_none()
    }

    /// Whether a batch may be handed over now.
    pub fn is_free(&self) -> bool {
        self.link
            .as_ref()
            .is_none_or(|link| link.wal.is_some() && link.queue.is_empty())
    }

    /// Whether everything handed over has been written.
    pub fn is_at_rest(&self) -> bool {
        self.link
            .as_ref()
            .is_none_or(|link| !link.has_begun || link.wal.is_some() && link.queue.is_empty())
    }

    /// Whether writes that take space are refused.
    pub fn is_full(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.full.is_some())
    }

    /// Whether not even deletes can be kept: there was no space to begin the log.
    pub fn takes_nothing(&self) -> bool {
        self.is_full() && self.link.as_ref().is_some_and(|link| !link.has_begun)
    }

    /// Whether something waits to be written and there is no space for it.
    pub fn is_stuck(&self) -> bool {
        self.is_full()
            && !self.is_at_rest()
            && self.link.as_ref().is_some_and(|link| link.wal.is_some())
    }

    /// Bytes that wait for the disk.
    pub fn queued_bytes(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.queue_bytes)
    }
}

/// The log was begun; its first record is in this segment.
pub fn begin(cx: &mut Cx<'_, Node>, wal: Wal, segment: u64, marks: &[(u16, u64)]) {
    let journal = &mut cx.app.journal;
    journal.segments.note(segment, marks);
    if let Some(link) = &mut journal.link {
        link.wal = Some(wal);
        link.has_begun = true;
    }
    enough_space(cx);
}

/// Writes are taken again, if they were refused.
fn enough_space(cx: &mut Cx<'_, Node>) {
    if let Some(link) = &mut cx.app.journal.link
        && link.full.take().is_some()
    {
        log::info!("there is space on the disk again: writes are taken");
    }
}

/// Whether the log, which is not at work, takes a record of at most so many bytes without asking the disk for space;
/// if it does not, space is made: now, or on a full disk with the next attempt, which decides it.
pub fn room_for(cx: &mut Cx<'_, Node>, bytes: usize) -> Room {
    let Some(link) = &mut cx.app.journal.link else {
        return Room::Enough;
    };
    let room = link.wal.as_ref().map_or(0, Wal::room);
    let is_denied = std::mem::take(&mut link.is_denied);
    if bytes as u64 <= room {
        return Room::Enough;
    }
    if is_denied {
        return Room::None;
    }
    if link.full.is_none() {
        prepare(cx, bytes as u64);
    }
    Room::Soon
}

/// Sends the record of the batch in flight to the disk.
pub fn append(cx: &mut Cx<'_, Node>, payload: Vec<u8>, marks: Vec<(u16, u64)>) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    link.queue_bytes += payload.len();
    link.queue.push_back(Record {
        payload,
        marks,
        is_awaited: true,
    });
    pump(cx);
}

/// What a job made of the records it was given.
struct Written {
    wal: Wal,
    /// Segments and marks of those that are in the log.
    done: Vec<(u64, Record)>,
    /// The others.
    left: VecDeque<Record>,
    synced: bool,
    /// It was to sync, and did not come to it.
    sync_due: bool,
    error: Option<io::Error>,
}

/// What the disk thread is asked to do.
struct Task {
    records: VecDeque<Record>,
    sync: bool,
    recycle_below: u64,
    key: Option<Option<ActiveKey>>,
}

fn write(mut wal: Wal, task: Task) -> Written {
    let (mut left, sync) = (task.records, task.sync);
    let mut done = Vec::with_capacity(left.len());
    let mut error = task.key.and_then(|key| wal.set_key(key).err());
    let mut synced = false;
    while error.is_none()
        && let Some(record) = left.pop_front()
    {
        // What follows it may find no space; it must not wait for that.
        let with_sync = sync && (record.is_awaited || left.is_empty());
        match wal.append(&record.payload, with_sync) {
            Ok(segment) => {
                done.push((segment, record));
                synced = with_sync;
            }
            Err(fault) => {
                // Nobody misses an empty record: the next one does what it was for.
                if record.is_awaited || !is_full(&fault) {
                    left.push_front(record);
                }
                error = Some(fault);
            }
        }
    }
    if sync && !synced && error.is_none() {
        error = wal.sync().err();
        synced = error.is_none();
    }
    if task.recycle_below > 0 && error.is_none() {
        error = wal.recycle(task.recycle_below).err();
    }
    Written {
        wal,
        done,
        left,
        synced,
        sync_due: sync && !synced,
        error,
    }
}

/// Gives the disk thread what waits, unless it is at work.
fn pump(cx: &mut Cx<'_, Node>) {
    let began = cx.net.clock();
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    let has_task =
        !link.queue.is_empty() || link.sync_due || link.recycle_below > 0 || link.key.is_some();
    if !has_task {
        return;
    }
    let Some(wal) = link.wal.take() else { return };
    let is_due = std::mem::take(&mut link.sync_due);
    let task = Task {
        records: std::mem::take(&mut link.queue),
        sync: link.sync == Sync::Always || is_due,
        recycle_below: std::mem::take(&mut link.recycle_below),
        key: link.key.take(),
    };
    link.idle = false;
    cx.net.defer_to_disk(
        move || write(wal, task),
        move |cx, written| back(cx, written, began),
    );
}

/// The log is back from the disk thread.
fn back(cx: &mut Cx<'_, Node>, written: Written, began: Nanos) {
    let now = cx.net.clock();
    let took = now.saturating_sub(began);
    let node = &mut *cx.app;
    let at_seconds = node.at_ms / 1_000;
    if let Some(threshold) = node.options.latency_threshold_ms
        && took / 1_000_000 >= threshold
    {
        node.latency.record("disk", at_seconds, took / 1_000_000);
    }
    let journal = &mut node.journal;
    let Some(link) = &mut journal.link else {
        return;
    };
    let figures = &mut journal.figures;
    figures.last_ns = took;
    figures.max_ns = figures.max_ns.max(took);
    link.wal = Some(written.wal);
    link.adopt();
    link.sync_due |= written.sync_due;
    if written.synced {
        (link.synced, link.synced_from) = (now, began);
    }
    let mut has_landed = false;
    for (segment, record) in written.done {
        figures.records += 1;
        figures.bytes += record.payload.len() as u64;
        figures.since_saved += record.payload.len() as u64;
        link.queue_bytes -= record.payload.len();
        link.unconfirmed = !record.payload.is_empty();
        has_landed |= record.is_awaited;
        journal.segments.note(segment, &record.marks);
    }
    if !written.left.is_empty() {
        let later = std::mem::replace(&mut link.queue, written.left);
        link.queue.extend(later);
    }
    if let Some(error) = &written.error
        && !is_full(error)
    {
        return fail(cx, error);
    }
    if has_landed {
        commit::land(cx);
    }
    if written.synced {
        saving::feed(cx);
    }
    match written.error {
        Some(error) => out_of_space(cx, &error),
        None => {
            if !cx.app.journal.is_full() {
                prepare(cx, 0);
            }
            pump(cx);
        }
    }
}

/// A write or a sync failed: nobody knows what is on the disk, so that the process ends.
pub fn fail(cx: &mut Cx<'_, Node>, error: &io::Error) {
    let text = format!(
        "the disk failed: {error}; stopping, so that nothing is acknowledged that is not kept. \
         What was acknowledged before is safe: look after the disk, then start again"
    );
    log::error!("{text}");
    cx.app.fatal = Some(text);
    cx.net.stop_now();
}

/// There is no space: writes are refused from now on, and the reserve is given up for what frees some.
pub fn out_of_space(cx: &mut Cx<'_, Node>, error: &io::Error) {
    let retry_at = cx.net.clock() + RETRY_NANOS;
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    if link.full.replace(retry_at).is_none() {
        log::error!(
            "the disk is full ({error}): writes are refused until there is space; reads and deletes go on"
        );
    }
    if std::mem::take(&mut link.has_reserve) {
        let disk = link.files.disk.clone();
        cx.net.defer_to_thread(
            move || disk.remove(RESERVE),
            |_, removed| {
                if let Err(error) = removed {
                    log::warn!("the reserve could not be given up: {error}");
                }
            },
        );
    }
}

/// Whether everything is durable that was applied up to `moment`. If not, it will be soon, and saving goes on.
pub fn is_durable(cx: &mut Cx<'_, Node>, moment: Nanos) -> bool {
    let Some(link) = &mut cx.app.journal.link else {
        return true;
    };
    if link.sync == Sync::Always || link.synced_from > moment {
        return true;
    }
    link.sync_due = true;
    pump(cx);
    false
}

/// Ten times a second: the second's sync, the confirming record, the next segment, a full disk.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let now = cx.net.clock();
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    if link.sync == Sync::EverySecond
        && link.unconfirmed
        && now.saturating_sub(link.synced) >= SECOND_NANOS
    {
        link.sync_due = true;
    }
    let is_idle = std::mem::replace(&mut link.idle, true);
    let has_room = link.wal.as_ref().is_some_and(|wal| wal.room() > 0);
    let is_to_confirm = is_idle && link.unconfirmed && link.queue.is_empty() && has_room;
    if is_to_confirm && link.sync == Sync::Always {
        link.queue.push_back(Record::empty());
    }
    if link.full.is_none_or(|retry_at| retry_at <= now) {
        pump(cx);
        prepare(cx, 0);
    }
}

/// Seals what follows with this key. An empty record begins the new segment, so that the old ones can go.
pub fn set_key(cx: &mut Cx<'_, Node>, key: Option<(u32, [u8; KEY_BYTES])>) {
    if let Some(link) = &mut cx.app.journal.link {
        link.key = Some(key.map(|(id, secret)| ActiveKey { id, secret }));
        link.queue.push_back(Record::empty());
        pump(cx);
    }
}

/// Begins to write the log's last record; false when there is no log.
pub fn close(cx: &mut Cx<'_, Node>) -> bool {
    let Some(link) = (cx.app.journal.link.as_mut()).filter(|link| link.has_begun) else {
        return false;
    };
    link.sync_due = true;
    link.queue.push_back(Record::empty());
    pump(cx);
    true
}

/// Makes the reserve, whole or not at all, unless it is there.
fn make_reserve(disk: &dyn Disk, bytes: u64) -> io::Result<()> {
    let is_there = |file: &FileInfo| file.name == RESERVE && file.bytes == bytes;
    if disk.list()?.iter().any(is_there) {
        return Ok(());
    }
    let made = fill_with_zeros(disk, RESERVE, bytes).and_then(|()| disk.sync(DIRECTORY));
    if made.is_err() {
        // It may not be there yet; and what cannot be removed now is written over by the next attempt.
        let _ = disk.remove(RESERVE);
    }
    made
}

/// Removes segments that no shard needs any more.
pub fn recycle(cx: &mut Cx<'_, Node>, saved: impl Fn(u16) -> u64) {
    let below = cx.app.journal.segments.needed_from(saved);
    if let Some(link) = &mut cx.app.journal.link {
        link.recycle_below = below;
        pump(cx);
    }
}

/// What could be made ready.
struct Prepared {
    spare: Option<Spare>,
    /// A segment of more than the usual length was to be.
    is_long: bool,
    outcome: io::Result<()>,
}

/// Makes the next segment ready, with room for a record of so many bytes, if there is none, and the reserve, if it
/// was given up. Not while the log is being written, which must find the space first.
fn prepare(cx: &mut Cx<'_, Node>, bytes: u64) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    let Some(wal) = link.wal.as_mut().filter(|_| !link.is_preparing) else {
        return;
    };
    let is_wanted = wal.wants_spare() || wal.room() < bytes;
    let plan = is_wanted.then(|| wal.plan_spare(bytes));
    let wants_reserve = !link.has_reserve;
    if plan.is_none() && !wants_reserve {
        return;
    }
    link.is_preparing = true;
    let (disk, reserve_bytes) = (link.files.disk.clone(), link.files.reserve_bytes);
    let is_long = plan
        .as_ref()
        .is_some_and(|plan| plan.bytes() > link.files.segment_bytes);
    let make = move || {
        let made = plan.map(|plan| plan.make(&*disk)).transpose();
        let outcome = match &made {
            Ok(_) if wants_reserve => make_reserve(&*disk, reserve_bytes),
            _ => Ok(()),
        };
        match made {
            Ok(spare) => Prepared {
                spare,
                is_long,
                outcome,
            },
            Err(error) => Prepared {
                spare: None,
                is_long,
                outcome: Err(error),
            },
        }
    };
    cx.net.defer_to_thread(make, prepared);
}

fn prepared(cx: &mut Cx<'_, Node>, made: Prepared) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    link.is_preparing = false;
    link.is_denied = made.outcome.is_err();
    if made.spare.is_some() {
        link.spare = made.spare;
        link.adopt();
    }
    match made.outcome {
        Ok(()) => {
            link.has_reserve = true;
            enough_space(cx);
            pump(cx);
        }
        // There is no space for an unusually long record; that there is none at all, others would notice.
        Err(error) if is_full(&error) && made.is_long => {}
        Err(error) if is_full(&error) => out_of_space(cx, &error),
        Err(error) => fail(cx, &error),
    }
}
