//! Snapshots and backups: images of the shards, made in slices while commands go on.
//!
//! ```text
//!   begin: the stores note the moment ─▶ a slice a turn: entries as they were then ─▶ blocks
//!          (an entry that is changed meanwhile is copied first)                         │ pool thread
//!   done ◀─ old snapshots and segments of the log go ◀─ renamed, durable ◀─ compressed, sealed, written
//! ```
//!
//! A snapshot holds one shard, so that the log is shortened a piece at a time; a backup holds all of them as
//! they were at one moment. Snapshots are begun when the log has grown ([`snapshot-log-size`]), for all shards
//! that were changed; when one was changed and not saved for long ([`snapshot-interval`]); after a rotation of
//! keys; and by SAVE and BGSAVE.
//!
//! One image is made at a time. If the disk is full it is given up and begun again later; any other error ends
//! the process.
//!
//! [`snapshot-log-size`]: crate::config::Options::snapshot_log_bytes
//! [`snapshot-interval`]: crate::config::Options::snapshot_interval

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::map::META;
use crate::data::files::{self, Files};
use crate::disk::image::write::ImageWriter;
use crate::disk::wal::is_full;
use crate::disk::{DIRECTORY, Disk};
use crate::failpoint::{self, Point};
use crate::odd::{self, Size};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::shard::Shard;
use crate::shard::meta::{CONTINUES, Meta};

use super::cluster::receiving;
use super::journal::space;
use super::session::{Message, Said};
use super::{Node, journal};

/// Entries that one turn looks at.
const SLICE_ENTRIES: usize = 1_000;
/// Bytes of a block before it is compressed.
const BLOCK_BYTES: usize = 256 << 10;
/// Bytes that may wait for the pool thread before no more are gathered.
const AHEAD_BYTES_MAX: usize = 4 << 20;
/// How long after a failure nothing is tried.
const PAUSE: Duration = Duration::from_secs(5);

/// What a client hears whose snapshot or backup could not be made.
const FAILED: &str = "ERR saving failed, the log tells why; nothing that was acknowledged is lost";

/// What is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A snapshot of a shard, up to this index.
    Snapshot(u16, u64),
    /// A backup of this name.
    Backup(String),
}

/// An image under way.
struct Active {
    target: Target,
    /// Shards still to be gone through; the first is the one at hand.
    shards: VecDeque<u16>,
    /// Blocks that wait for the writer.
    blocks: VecDeque<(u32, Vec<u8>)>,
    bytes: usize,
    /// The writer, unless a job has it.
    writer: Option<ImageWriter>,
    began: Nanos,
    keys: u64,
    /// A snapshot from elsewhere has taken the place of what it is an image of.
    is_void: bool,
}

/// What came of the last image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it failed.
    pub failed: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Entries in it.
    pub keys: u64,
}

/// Snapshots: what there is, what is to come.
pub struct Saving {
    files: Option<Files>,
    /// By shard: up to which index it is in a snapshot, and since when (milliseconds).
    saved: BTreeMap<u16, (u64, u64)>,
    /// Shards whose turn will come.
    queue: BTreeSet<u16>,
    /// Those of them that are saved although nothing was changed.
    anew: BTreeSet<u16>,
    backups: VecDeque<(String, ConnId)>,
    active: Option<Active>,
    /// Who waits for all that is queued.
    waiting: Vec<ConnId>,
    paused_until: Nanos,
    /// An image was finished since `saved_ms` was set.
    is_unsaid: bool,
    /// When everything was last saved, unix milliseconds.
    pub saved_ms: u64,
    /// Writes that there had been when that was begun.
    pub saved_writes: u64,
    /// What came of the last image.
    pub last: Outcome,
}

impl Saving {
    /// Nothing is saved.
    pub fn absent() -> Saving {
        Saving {
            files: None,
            saved: BTreeMap::new(),
            queue: BTreeSet::new(),
            anew: BTreeSet::new(),
            backups: VecDeque::new(),
            active: None,
            waiting: Vec::new(),
            paused_until: 0,
            is_unsaid: false,
            saved_ms: 0,
            saved_writes: 0,
            last: Outcome::default(),
        }
    }

    /// Goes on behind snapshots up to these indices, by shard.
    pub fn open(files: Files, saved: Vec<(u16, u64)>, at_ms: u64) -> Saving {
        Saving {
            files: Some(files),
            saved: saved
                .into_iter()
                .map(|(shard, index)| (shard, (index, at_ms)))
                .collect(),
            saved_ms: at_ms,
            ..Saving::absent()
        }
    }

    /// There are these shards now, and nothing of them is saved.
    pub fn begin_anew(&mut self, shards: &[u16]) {
        self.saved.retain(|shard, _| shards.contains(shard));
        self.queue.retain(|shard| shards.contains(shard));
        self.anew.retain(|shard| shards.contains(shard));
    }

    /// The files, unless everything is in memory only.
    pub fn files(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    /// The files, to change the keys that new ones are sealed with.
    pub fn files_mut(&mut self) -> Option<&mut Files> {
        self.files.as_mut()
    }

    /// Whether an image is being made or waits to be.
    pub fn is_busy(&self) -> bool {
        self.active.is_some() || !self.queue.is_empty() || !self.backups.is_empty()
    }

    /// Shards that wait for their snapshot.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Asks for snapshots of all shards that were changed since their last.
    pub fn queue_all(&mut self) {
        self.queue = self.saved.keys().copied().collect();
        self.paused_until = 0;
    }

    /// What a shard was is gone: an image of it that is being made would not be whole.
    pub fn void(&mut self, shard: u16) {
        if let Some(active) = &mut self.active {
            active.is_void |= active.shards.contains(&shard)
                || matches!(active.target, Target::Snapshot(of, _) if of == shard);
        }
    }

    /// Whether a snapshot of this shard is being made.
    pub fn is_at(&self, shard: u16) -> bool {
        let target = self.active.as_ref().map(|active| &active.target);
        matches!(target, Some(Target::Snapshot(of, _)) if *of == shard)
    }

    /// Asks for a snapshot of a shard that nothing is in any more, so that nothing of it needs to be kept.
    pub fn bury(&mut self, shard: u16) {
        if self.files.is_some() {
            self.queue.insert(shard);
            self.anew.insert(shard);
        }
    }

    /// Asks for snapshots of all shards, changed or not.
    pub fn queue_all_anew(&mut self) {
        self.queue_all();
        self.anew.clone_from(&self.queue);
    }

    /// Lets a client wait until everything queued is saved.
    pub fn wait(&mut self, conn: ConnId) {
        self.waiting.push(conn);
    }

    /// Whether a backup of this name is being made or waits to be.
    pub fn has_queued(&self, name: &str) -> bool {
        self.backups.iter().any(|(queued, _)| queued == name)
    }

    /// Asks for a backup; the client waits for it.
    pub fn queue_backup(&mut self, name: String, conn: ConnId) {
        self.backups.push_back((name, conn));
    }
}

/// Ten times a second: queues what is due and begins what is queued.
pub fn tend(cx: &mut Cx<'_, Node>) {
    if cx.app.saving.files.is_none() || cx.app.is_loading() {
        return;
    }
    queue_due(cx.app);
    begin(cx);
}

fn queue_due(node: &mut Node) {
    let saving = &mut node.saving;
    let is_changed = |shard: u16, saved: u64| node.keyspace.applied(shard) > saved;
    let log_bytes_max = node.options.snapshot_log_bytes.max(saving.last.bytes);
    let is_log_long = node.journal.figures.since_saved >= log_bytes_max;
    let interval = node
        .options
        .snapshot_interval
        .map(|time| time.as_millis() as u64);
    for (&shard, &(saved, since_ms)) in &saving.saved {
        let is_old = interval.is_some_and(|ms| node.at_ms.saturating_sub(since_ms) >= ms);
        if (is_log_long || is_old) && is_changed(shard, saved) {
            saving.queue.insert(shard);
        }
    }
    if is_log_long {
        node.journal.figures.since_saved = 0;
    }
}

/// Begins the next image, if none is under way.
fn begin(cx: &mut Cx<'_, Node>) {
    let now = cx.net.clock();
    let node = &mut *cx.app;
    if node.saving.active.is_some() || now < node.saving.paused_until {
        return;
    }
    let Some(files) = node.saving.files.clone() else {
        return;
    };
    let (target, shards, disk) = if let Some((name, _)) = node.saving.backups.front() {
        let data = node.keyspace.replicas().map(Shard::number);
        let all = data.filter(|&shard| shard != META).collect();
        (Target::Backup(name.clone()), all, files.backups.clone())
    } else if let Some((shard, index)) = next_changed(node) {
        let shards = VecDeque::from([shard]);
        (Target::Snapshot(shard, index), shards, files.disk.clone())
    } else {
        note_saved(cx.app);
        return answer_waiting(cx, &Said::Ok);
    };
    let is_at_it = |&shard: &u16| node.keyspace.is_imaging(shard) || is_receiving(node, shard);
    if shards.iter().any(is_at_it) {
        // It is being sent to another node, or comes from one and may be written to the same file: later.
        if let Target::Snapshot(shard, _) = target {
            node.saving.queue.insert(shard);
            node.saving.anew.insert(shard);
        }
        return;
    }
    let name = match &target {
        Target::Snapshot(shard, index) => files::snapshot_name(*shard, *index),
        Target::Backup(name) => name.clone(),
    };
    failpoint::reach(Point::SnapshotBegun);
    let meta = moment(node, &shards);
    let keys = meta.parts.iter().map(|part| part.keys).sum();
    node.saving.active = Some(Active {
        target,
        shards,
        blocks: VecDeque::new(),
        bytes: 0,
        writer: None,
        began: now,
        keys,
        is_void: false,
    });
    let create = move || {
        let (key, mut entropy) = (files.active_key(), (files.entropy)());
        ImageWriter::create(disk, &name, key, &mut entropy, &meta.encode())
    };
    cx.net.defer_to_thread(create, written);
    cx.net.call_later(Duration::ZERO, slice);
}

fn is_receiving(node: &Node, shard: u16) -> bool {
    let cluster = node.cluster.as_ref();
    cluster.is_some_and(|cluster| receiving::has(cluster, shard))
}

/// Notes the moment in the stores of these shards; what the image says of it.
fn moment(node: &mut Node, shards: &VecDeque<u16>) -> Meta {
    let all = node.keyspace.count();
    let part = |&number: &u16| {
        let shard = node.keyspace.shard_mut(number);
        shard.store_mut().begin_image();
        shard.part()
    };
    Meta {
        shards: all,
        parts: shards.iter().map(part).collect(),
    }
}

/// One turn's share of the image.
fn slice(cx: &mut Cx<'_, Node>) {
    let node = &mut *cx.app;
    let Some(active) = &mut node.saving.active else {
        return;
    };
    if active.is_void {
        active.shards.clear();
    }
    if let Some(&number) = active.shards.front() {
        let store = node.keyspace.shard_mut(number).store_mut();
        let is_done = store.advance_image(odd::or(Size::ImageSlice, SLICE_ENTRIES));
        let block_bytes = odd::or(Size::ImageBlock, BLOCK_BYTES);
        while store.image_bytes() >= block_bytes || is_done && store.image_bytes() > 0 {
            active.add(number, store.take_image(block_bytes));
        }
        if is_done {
            active.shards.pop_front();
            let dropped = store.take_dropped();
            node.keyspace.add_dropped(dropped);
        }
    }
    let goes_on = !active.shards.is_empty();
    let is_ahead = active.bytes >= AHEAD_BYTES_MAX;
    feed(cx);
    if goes_on && !is_ahead {
        cx.net.call_later(Duration::ZERO, slice);
    }
}

impl Active {
    /// Adds entries of a shard.
    fn add(&mut self, shard: u16, block: Vec<u8>) {
        self.bytes += block.len();
        self.blocks.extend(pieces(shard, block));
    }
}

/// Entries of a shard as blocks of an image, with their tags: what is too large for one goes in pieces.
pub fn pieces(shard: u16, block: Vec<u8>) -> Vec<(u32, Vec<u8>)> {
    let (mut pieces, mut rest) = (Vec::new(), block);
    while rest.len() > AHEAD_BYTES_MAX {
        let tail = rest.split_off(AHEAD_BYTES_MAX);
        pieces.push((u32::from(shard) | CONTINUES, rest));
        rest = tail;
    }
    pieces.push((u32::from(shard), rest));
    pieces
}

/// A snapshot that came from elsewhere has taken the place of a shard.
pub fn installed(cx: &mut Cx<'_, Node>, shard: u16, index: u64) {
    let at_ms = cx.app.at_ms;
    cx.app.saving.void(shard);
    if cx.app.saving.files.is_some() {
        cx.app.saving.saved.insert(shard, (index, at_ms));
        tidy(cx, shard, index);
    }
}

/// Gives the writer what has gathered, if it is there.
pub fn feed(cx: &mut Cx<'_, Node>) {
    let Some(active) = &mut cx.app.saving.active else {
        return;
    };
    if active.blocks.is_empty() {
        if active.shards.is_empty() {
            finish(cx);
        }
        return;
    }
    let Some(mut writer) = active.writer.take() else {
        return;
    };
    let blocks = std::mem::take(&mut active.blocks);
    let write = move || {
        for (tag, raw) in &blocks {
            writer.block(*tag, raw)?;
        }
        Ok(writer)
    };
    cx.net.defer_to_thread(write, written);
}

/// Publishes the image, all of which the writer has been given. A snapshot of one shard may hold a part of a
/// record: the log must hold the others first.
fn finish(cx: &mut Cx<'_, Node>) {
    if is_void(cx.app) {
        return forget(cx);
    }
    let began = cx.app.saving.active.as_ref().map(|active| active.began);
    if !began.is_some_and(|began| journal::is_durable(cx, began)) {
        return;
    }
    let active = cx.app.saving.active.as_mut();
    if let Some(writer) = active.and_then(|active| active.writer.take()) {
        cx.net.defer_to_thread(move || writer.finish(), finished);
    }
}

fn is_void(node: &Node) -> bool {
    let active = node.saving.active.as_ref();
    active.is_some_and(|active| active.is_void)
}

/// Drops an image of what is not there any more.
fn forget(cx: &mut Cx<'_, Node>) {
    let has_writer = |active: &mut Active| active.writer.is_some();
    let Some(active) = cx.app.saving.active.take_if(has_writer) else {
        return;
    };
    if let Target::Backup(_) = active.target {
        fail_backup(cx);
    }
    begin(cx);
}

fn fail_backup(cx: &mut Cx<'_, Node>) {
    if let Some((_, conn)) = cx.app.saving.backups.pop_front() {
        cx.net
            .post(conn, Message::Say(Said::Error(FAILED.to_owned())));
    }
}

/// The writer is back.
fn written(cx: &mut Cx<'_, Node>, outcome: io::Result<ImageWriter>) {
    let writer = match outcome {
        Ok(writer) => writer,
        Err(error) => return give_up(cx, &error),
    };
    let Some(active) = &mut cx.app.saving.active else {
        return;
    };
    let was_ahead = active.bytes >= AHEAD_BYTES_MAX;
    active.writer = Some(writer);
    active.bytes = active.blocks.iter().map(|(_, raw)| raw.len()).sum();
    let goes_on = was_ahead && !active.shards.is_empty();
    if goes_on {
        cx.net.call_later(Duration::ZERO, slice);
    } else {
        feed(cx);
    }
}

/// The image is published.
fn finished(cx: &mut Cx<'_, Node>, outcome: io::Result<u64>) {
    let bytes = match outcome {
        Ok(bytes) => bytes,
        Err(error) => return give_up(cx, &error),
    };
    failpoint::reach(Point::SnapshotPublished);
    let now = cx.net.clock();
    let node = &mut *cx.app;
    let Some(active) = node.saving.active.take() else {
        return;
    };
    let took_ms = now.saturating_sub(active.began) / 1_000_000;
    node.saving.last = Outcome {
        failed: false,
        took_ms,
        bytes,
        keys: active.keys,
    };
    match active.target {
        Target::Snapshot(shard, index) => {
            log::debug!(
                "saved shard {shard} up to entry {index}: {} keys, {bytes} bytes, {took_ms} ms",
                active.keys
            );
            node.saving.saved.insert(shard, (index, node.at_ms));
            node.saving.is_unsaid = true;
            if node.keyspace.is_vacant(shard) {
                node.journal.segments.forget(shard);
            }
            tidy(cx, shard, index);
        }
        Target::Backup(name) => {
            log::info!(
                "made the backup {name}: {} keys, {bytes} bytes, {took_ms} ms",
                active.keys
            );
            if let Some((_, conn)) = node.saving.backups.pop_front() {
                cx.net.post(conn, Message::Say(Said::Ok));
            }
        }
    }
    begin(cx);
}

/// Removes what a new snapshot makes needless.
fn tidy(cx: &mut Cx<'_, Node>, shard: u16, index: u64) {
    let saved = cx.app.saving.saved.clone();
    journal::recycle(cx, |shard| saved.get(&shard).map_or(0, |&(index, _)| index));
    failpoint::reach(Point::LogRecycled);
    let Some(files) = &cx.app.saving.files else {
        return;
    };
    let disk = Arc::clone(&files.disk);
    cx.net.defer_to_thread(
        move || remove_older(&*disk, shard, index),
        |cx, removed: io::Result<()>| {
            match removed {
                // They are removed with the next snapshot.
                Err(error) if is_full(&error) => log::warn!("old snapshots stay: {error}"),
                Err(error) => journal::fail(cx, &error),
                Ok(()) => {}
            }
        },
    );
}

fn remove_older(disk: &dyn Disk, shard: u16, index: u64) -> io::Result<()> {
    for file in disk.list()? {
        let is_older = files::parse_snapshot_name(&file.name)
            .is_some_and(|(of, at)| of == shard && at < index);
        if is_older {
            disk.remove(&file.name)?;
        }
    }
    failpoint::reach(Point::OldSnapshotsRemoved);
    disk.sync(DIRECTORY)
}

/// The image under way cannot be made now.
fn give_up(cx: &mut Cx<'_, Node>, error: &io::Error) {
    let now = cx.net.clock();
    let node = &mut *cx.app;
    let Some(active) = node.saving.active.take() else {
        return;
    };
    for &number in &active.shards {
        let store = node.keyspace.shard_mut(number).store_mut();
        store.abandon_image();
        let dropped = store.take_dropped();
        node.keyspace.add_dropped(dropped);
    }
    if !is_full(error) {
        return journal::fail(cx, error);
    }
    log::warn!("saving was given up: {error}; it is tried again");
    node.saving.last.failed = true;
    node.saving.paused_until = now + PAUSE.as_nanos() as Nanos;
    match active.target {
        Target::Snapshot(shard, _) => {
            node.saving.queue.insert(shard);
            node.saving.anew.insert(shard);
        }
        Target::Backup(_) => fail_backup(cx),
    }
    answer_waiting(cx, &Said::Error(FAILED.to_owned()));
    space::run_out(cx, error);
}

/// Tells those who wait how it ended.
fn answer_waiting(cx: &mut Cx<'_, Node>, said: &Said) {
    for conn in cx.app.saving.waiting.drain(..) {
        cx.net.post(conn, Message::Say(said.clone()));
    }
}

/// Everything that was asked for is saved.
fn note_saved(node: &mut Node) {
    let is_unsaid = std::mem::take(&mut node.saving.is_unsaid);
    if is_unsaid {
        log::info!(
            "saved: all shards that were asked for, {} keys",
            node.keyspace.len()
        );
    }
    if is_unsaid || !node.saving.waiting.is_empty() {
        node.saving.saved_ms = node.at_ms;
        node.saving.saved_writes = node.touched.writes;
    }
}

/// Takes the next shard out of the queue that is to be saved, with the index up to which it will be.
fn next_changed(node: &mut Node) -> Option<(u16, u64)> {
    while let Some(shard) = node.saving.queue.pop_first() {
        let index = node.keyspace.applied(shard);
        let is_anew = node.saving.anew.remove(&shard);
        let saved = node.saving.saved.get(&shard).map_or(0, |&(index, _)| index);
        if is_anew || index > saved && !node.keyspace.is_vacant(shard) {
            return Some((shard, index));
        }
    }
    None
}
