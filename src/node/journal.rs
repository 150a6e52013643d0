//! The log's way to the disk: one record after the other, written and synced as `--sync` demands.
//!
//! ```text
//!   --sync always   a batch waits until its record is synced; meanwhile the next one gathers
//!   --sync 1s       it waits until its record is written: no end of the process loses it; a sync every second
//!   --sync never    the same without the sync
//! ```
//!
//! The [`Wal`] travels: with a job to the disk thread, with its result back. What is only to be written, and not to
//! be synced, is written here when the thread does not have the log: it is copied into the kernel's memory, which
//! takes less time than to wake a thread and be woken by it. A disk on which that takes long, or which has been
//! syncing for long, is left to the thread for a while, so that reads go on; whatever waits for the disk by its
//! nature (a sync, a new segment, a key, a removal) always is. The sync of every second leaves the log here, so that
//! writing goes on beside it.
//!
//! With `always`, a record that follows another shows that the other was durable; when nothing follows for a while,
//! an empty record is written for that purpose, so that damage to the last record of a log at rest is told from one
//! that was torn by a crash.
//!
//! Trouble:
//! - The disk is full: a batch is handed over only when its record has its space ([`space::room_for`]); if there is
//!   none to be had, the batch is refused, and nothing of it was done. As soon as no further segment can be
//!   prepared, writes are refused before they come to a batch (except those that take things away), so that there
//!   is room left for deletes. A record that finds no space all the same (a file system may need some to write
//!   over what is there) is tried again until it succeeds.
//! - Any other error of a write or a sync ends the process. What a failed sync left on the disk nobody knows,
//!   and trying again would report success without it ("Can Applications Recover from fsync Failures?", USENIX
//!   ATC 2020).

pub mod segments;
pub mod space;

use std::collections::VecDeque;
use std::io;

use crate::config::Sync;
use crate::data::files::Files;
use crate::disk::seal::KEY_BYTES;
use crate::disk::wal::writer::{Synced, Wal};
use crate::disk::wal::{ActiveKey, is_full};
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;

use super::{Node, commit, saving};
use segments::Segments;
use space::Space;

const SECOND_NANOS: Nanos = 1_000_000_000;
/// Records of more bytes are left to the disk thread.
const HERE_BYTES_MAX: usize = 64 << 10;
/// A write that took longer was not a mere copy.
const HERE_NANOS_MAX: Nanos = 1_000_000;
/// While a sync takes longer, the kernel may let writes wait for what the disk is doing.
const SYNC_NANOS_MAX: Nanos = 50_000_000;
/// How long the disk thread does all of the writing after such a one.
const THERE_NANOS: Nanos = 1_000_000_000;

/// One record on its way.
pub struct Record {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// The last index of each shard that has entries in it.
    pub marks: Vec<(u16, u64)>,
    /// Whether the batch in flight waits for it.
    pub is_awaited: bool,
    /// Whether it is synced, whatever `--sync` says.
    pub is_vote: bool,
}

impl Record {
    /// A record that only shows that the one before it was durable.
    fn empty() -> Record {
        Record {
            payload: Vec::new(),
            marks: Vec::new(),
            is_awaited: false,
            is_vote: false,
        }
    }
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
    /// What was written is to be synced.
    sync_due: bool,
    /// Since when a job is doing that.
    syncing: Option<Nanos>,
    /// What came of the last.
    synced_to: Option<Synced>,
    /// When the last sync that ended well was begun.
    synced_from: Nanos,
    /// Until then nothing is written on this thread.
    slow_until: Nanos,
    /// The last record is not yet confirmed by one behind it.
    unconfirmed: bool,
    /// Nothing was written since the last look.
    idle: bool,
    space: Space,
    /// Segments below are not needed; 0: none are to be looked for.
    recycle_below: u64,
    /// The key that the log is to be sealed with from now on.
    key: Option<Option<ActiveKey>>,
}

impl Link {
    /// Whether even a copy into the kernel's memory might have to wait for the disk.
    fn is_slow(&self, now: Nanos) -> bool {
        let is_stalled = |since| now.saturating_sub(since) > SYNC_NANOS_MAX;
        now < self.slow_until || self.syncing.is_some_and(is_stalled)
    }

    /// Gives the log what was made ready for it and what was synced of it meanwhile.
    fn adopt(&mut self) {
        let Some(wal) = &mut self.wal else { return };
        if let Some(spare) = self.space.spare.take() {
            wal.adopt(spare);
        }
        if let Some(synced) = self.synced_to.take() {
            wal.note_synced(&synced);
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
                syncing: None,
                synced_to: None,
                synced_from: 0,
                slow_until: 0,
                unconfirmed: true,
                idle: false,
                space: Space::default(),
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

    /// Whether everything handed over has been written, and synced if that was asked for.
    pub fn is_at_rest(&self) -> bool {
        self.link.as_ref().is_none_or(|link| {
            let is_syncing = link.sync_due || link.syncing.is_some();
            !link.has_begun || link.wal.is_some() && link.queue.is_empty() && !is_syncing
        })
    }

    /// Whether writes that take space are refused.
    pub fn is_full(&self) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.space.full.is_some())
    }

    /// Whether not even deletes can be kept: there was no space to begin the log.
    pub fn takes_nothing(&self) -> bool {
        self.is_full() && self.link.as_ref().is_some_and(|link| !link.has_begun)
    }

    /// Whether something waits to be written and there is no space for it.
    pub fn is_stuck(&self) -> bool {
        self.is_full()
            && (self.link.as_ref()).is_some_and(|link| {
                link.wal.is_some() && link.queue.iter().any(|record| record.is_awaited)
            })
    }

    /// How long the last job for the log took, where batches wait for their sync.
    pub fn sync_ns(&self) -> Option<Nanos> {
        let is_awaited = |link: &Link| link.sync == Sync::Always;
        (self.link.as_ref().is_some_and(is_awaited)).then_some(self.figures.last_ns)
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
    space::enough(cx);
}

/// Sends the record of the batch in flight to the disk. One with a vote is synced, whatever `--sync` says.
pub fn append(cx: &mut Cx<'_, Node>, payload: Vec<u8>, marks: Vec<(u16, u64)>, is_vote: bool) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    link.queue_bytes += payload.len();
    link.queue.push_back(Record {
        payload,
        marks,
        is_awaited: true,
        is_vote,
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
    /// Whether all of those are synced.
    synced: bool,
    /// Segments below were to be removed and are there still; 0: none.
    recycle_below: u64,
    error: Option<io::Error>,
}

/// What the disk thread is asked to do.
struct Task {
    records: VecDeque<Record>,
    /// Whether to sync each.
    sync: bool,
    recycle_below: u64,
    key: Option<Option<ActiveKey>>,
}

impl Task {
    /// Whether to do it is to copy a few bytes into a file that is there.
    fn is_a_copy(&self, wal: &Wal) -> bool {
        let bytes = self.records.iter().map(|record| record.payload.len());
        let bytes: usize = bytes.sum();
        !self.sync
            && self.key.is_none()
            && self.recycle_below == 0
            && self.records.len() == 1
            && !self.records[0].is_vote
            && bytes <= HERE_BYTES_MAX
            && bytes as u64 <= wal.room_in_segment()
    }
}

fn write(mut wal: Wal, task: Task) -> Written {
    let (mut left, sync) = (task.records, task.sync);
    let mut done = Vec::with_capacity(left.len());
    failpoint::reach(Point::RecordsTaken);
    let mut error = task.key.and_then(|key| wal.set_key(key).err());
    let mut synced = false;
    while error.is_none()
        && let Some(record) = left.pop_front()
    {
        // What follows it may find no space; it must not wait for that.
        let with_sync = sync && (record.is_awaited || left.is_empty()) || record.is_vote;
        match wal.append(&record.payload, with_sync) {
            Ok(segment) => {
                done.push((segment, record));
                synced = with_sync;
            }
            Err(fault) => {
                // Nobody misses an empty record: the next one does what it was for.
                if record.is_awaited || record.is_vote || !is_full(&fault) {
                    left.push_front(record);
                }
                error = Some(fault);
            }
        }
    }
    failpoint::reach(Point::RecordsKept);
    // Also where there was no space: that makes some. But not before promises are written down anew.
    let is_to_recycle = !left.iter().any(|record| record.is_vote);
    if task.recycle_below > 0 && is_to_recycle && error.as_ref().is_none_or(is_full) {
        error = wal.recycle(task.recycle_below).err().or(error);
    }
    Written {
        wal,
        done,
        left,
        synced,
        recycle_below: if is_to_recycle { 0 } else { task.recycle_below },
        error,
    }
}

/// Sees to what waits.
fn pump(cx: &mut Cx<'_, Node>) {
    write_waiting(cx);
    sync_beside(cx);
}

/// Writes what waits: here, if that is no more than to copy it, or on the disk thread, unless that has the log.
fn write_waiting(cx: &mut Cx<'_, Node>) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    if link.queue.is_empty() && link.recycle_below == 0 && link.key.is_none() {
        return;
    }
    let Some(wal) = link.wal.take() else { return };
    let began = cx.net.clock();
    let task = Task {
        records: std::mem::take(&mut link.queue),
        sync: link.sync == Sync::Always,
        recycle_below: std::mem::take(&mut link.recycle_below),
        key: link.key.take(),
    };
    link.idle = false;
    if link.is_slow(began) || !task.is_a_copy(&wal) {
        return cx.net.defer_to_disk(
            move || write(wal, task),
            move |cx, written| back(cx, written, began),
        );
    }
    let written = write(wal, task);
    let now = cx.net.clock();
    if now.saturating_sub(began) > HERE_NANOS_MAX
        && let Some(link) = &mut cx.app.journal.link
    {
        link.slow_until = now + THERE_NANOS;
    }
    back(cx, written, began);
}

/// Syncs what was written, while more is.
fn sync_beside(cx: &mut Cx<'_, Node>) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    let Some(wal) = (link.wal.as_ref()).filter(|_| link.sync_due && link.syncing.is_none()) else {
        return;
    };
    let began = cx.net.clock();
    (link.sync_due, link.syncing) = (false, Some(began));
    let (plan, disk) = (wal.plan_sync(), link.files.disk.clone());
    cx.net.defer_to_disk(
        move || plan.run(&*disk),
        move |cx, synced| synced_beside(cx, synced, began),
    );
}

fn synced_beside(cx: &mut Cx<'_, Node>, synced: io::Result<Synced>, began: Nanos) {
    note_time(cx.app, cx.net.clock(), began);
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    match synced {
        Ok(synced) => {
            (link.syncing, link.synced_from) = (None, began);
            link.synced_to = Some(synced);
            link.adopt();
            saving::feed(cx);
            pump(cx);
        }
        Err(error) => fail(cx, &error),
    }
}

/// Notes how long a job for the log took.
fn note_time(node: &mut Node, now: Nanos, began: Nanos) {
    let took = now.saturating_sub(began);
    if let Some(threshold) = node.options.latency_threshold_ms
        && took / 1_000_000 >= threshold
    {
        node.latency
            .record("disk", node.at_ms / 1_000, took / 1_000_000);
    }
    let figures = &mut node.journal.figures;
    figures.last_ns = took;
    figures.max_ns = figures.max_ns.max(took);
}

/// The log is back from the disk thread.
fn back(cx: &mut Cx<'_, Node>, written: Written, began: Nanos) {
    failpoint::reach(Point::RecordsBack);
    note_time(cx.app, cx.net.clock(), began);
    let journal = &mut cx.app.journal;
    let Some(link) = &mut journal.link else {
        return;
    };
    let figures = &mut journal.figures;
    link.wal = Some(written.wal);
    link.recycle_below = link.recycle_below.max(written.recycle_below);
    link.adopt();
    if written.synced {
        link.synced_from = began;
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
    if written.error.is_none() && !cx.app.journal.is_full() {
        space::prepare(cx, 0);
    }
    if has_landed {
        commit::land(cx);
    }
    if written.synced {
        saving::feed(cx);
    }
    match written.error {
        Some(error) => space::run_out(cx, &error),
        None => pump(cx),
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
    let is_synced = link.wal.as_ref().is_some_and(Wal::is_synced);
    if link.sync == Sync::EverySecond
        && !is_synced
        && now.saturating_sub(link.synced_from) >= SECOND_NANOS
    {
        link.sync_due = true;
    }
    let is_idle = std::mem::replace(&mut link.idle, true);
    if link.space.full.is_some_and(|retry_at| now < retry_at) {
        return;
    }
    let has_room = link.wal.as_ref().is_some_and(|wal| wal.room() > 0);
    let is_to_confirm = is_idle && link.unconfirmed && link.queue.is_empty() && has_room;
    if is_to_confirm && link.sync == Sync::Always {
        link.queue.push_back(Record::empty());
    }
    pump(cx);
    space::prepare(cx, 0);
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

/// Removes segments that no shard needs any more. What the replicas of groups have promised is written down anew
/// first: it may be in one of those.
pub fn recycle(cx: &mut Cx<'_, Node>, saved: impl Fn(u16) -> u64) {
    let below = cx.app.journal.segments.needed_from(saved);
    let promises = cx.app.keyspace.promises();
    if let Some(link) = &mut cx.app.journal.link {
        if !promises.is_empty() {
            link.queue_bytes += promises.len();
            link.queue.push_back(Record {
                payload: promises,
                is_vote: true,
                ..Record::empty()
            });
        }
        failpoint::reach(Point::PromisesQueued);
        link.recycle_below = below;
        pump(cx);
    }
}
