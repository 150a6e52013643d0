//! Start: from the files of a directory to a node that answers.
//!
//! ```text
//!   whose directory? ─▶ snapshots, several at once ─▶ log, from its oldest segment ─▶ new segment ─▶ ready
//!   (identity)          (pool threads)                (one thread)                    (synced first)
//! ```
//!
//! The node listens from the beginning and answers `-LOADING` until it is ready; how far it is, the log and
//! INFO tell. Nothing is served from files alone: what the log's last records hold is first written again, to
//! the new segment, because nobody knows whether it was ever synced. Until then nothing in the directory is
//! changed but leftovers, so that a crash at any point finds what was there before.
//!
//! Damage ends the start: which file, where, and what is wrong. A torn last record is no damage: it is told of and
//! left out. With `--sync always` it was never acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::map::{META, Map};
use crate::data::files::{self, Files, IDENTITY, Kind, MAP, RESERVE};
use crate::data::identity::{self, Identity};
use crate::data::{loading, mapfile};
use crate::disk::publish::is_temporary;
use crate::disk::wal::replay::End;
use crate::disk::wal::writer::Wal;
use crate::disk::wal::{ActiveKey, is_full};
use crate::disk::{DIRECTORY, Damage, FileInfo};
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::shard::recovery::Recovery;
use crate::shard::{ALONE, NOBODY, Shard};
use crate::store::HashSeed;

use super::journal::segments::Segments;
use super::journal::{self, Journal, space};
use super::keyspace::Keyspace;
use super::saving::Saving;
use super::{Node, cluster, commit};

/// How often the log tells how far loading is.
const REPORT: Duration = Duration::from_secs(1);

/// How far loading is; threads add to it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of files that are to be read.
    pub bytes_total: AtomicU64,
    /// Those that have been.
    pub bytes_read: AtomicU64,
    /// Entries loaded from snapshots.
    pub keys: AtomicU64,
}

impl Progress {
    /// Parts of a hundred.
    pub fn percent(&self) -> u64 {
        let total = self.bytes_total.load(Ordering::Relaxed).max(1);
        (self.bytes_read.load(Ordering::Relaxed) * 100 / total).min(100)
    }
}

/// What is being loaded.
pub struct Loading {
    /// How far it is.
    pub progress: Arc<Progress>,
    files: Files,
    /// Snapshots that are not loaded yet.
    left: usize,
    shards: Vec<Option<Recovery>>,
}

/// What the directory holds.
struct Found {
    /// The newest snapshot of each shard that has one.
    snapshots: BTreeMap<u16, String>,
    identity: Identity,
    /// The map of the cluster that was known last.
    map: Option<Map>,
    bytes: u64,
}

/// Begins to load.
pub fn begin(cx: &mut Cx<'_, Node>, files: Files) {
    let own = Identity {
        shards: cx.app.options.shards,
        node: cx.app.run_id.clone(),
        seed: cx.app.hash_seed,
        is_restored: false,
    };
    let is_asked = cx.app.values.is_given("shards");
    let disk = files.clone();
    let progress = Arc::new(Progress::default());
    cx.app.loading = Some(Loading {
        progress,
        files,
        left: 0,
        shards: Vec::new(),
    });
    cx.net.call_later(REPORT, report);
    cx.net
        .defer_to_thread(move || find(&disk, &own, is_asked), found);
}

fn report(cx: &mut Cx<'_, Node>) {
    if let Some(loading) = &cx.app.loading {
        let keys = loading.progress.keys.load(Ordering::Relaxed);
        log::info!("loading: {} %, {keys} keys", loading.progress.percent());
        cx.net.call_later(REPORT, report);
    }
}

/// Looks at the directory, which becomes `own` if it is new. If not, `is_asked` says that it must have as many shards.
fn find(files: &Files, own: &Identity, is_asked: bool) -> Result<Found, Damage> {
    let disk = &*files.disk;
    let unreadable = |error: io::Error| Damage::new("the directory", 0, error.to_string());
    let listed = disk.list().map_err(unreadable)?;
    let is_leftover = |file: &&FileInfo| files::kind(&file.name) == Kind::Leftover;
    for file in listed.iter().filter(is_leftover) {
        disk.remove(&file.name).map_err(unreadable)?;
    }
    failpoint::reach(Point::LeftoversRemoved);
    let backups = files.backups.list().map_err(unreadable)?;
    for file in backups.iter().filter(|file| is_temporary(&file.name)) {
        files.backups.remove(&file.name).map_err(unreadable)?;
    }
    // Also what only looks like the log is reason enough not to begin anew.
    let is_data = |file: &FileInfo| {
        file.name.starts_with("wal-") || matches!(files::kind(&file.name), Kind::Snapshot(..))
    };
    let shards = is_asked.then_some(own.shards);
    let identity = match listed.iter().any(|file| file.name == IDENTITY) {
        true => stored_identity(files, shards, &listed)?,
        false if listed.iter().any(is_data) => {
            let reason = "missing, although there are data; restore the directory from a backup";
            return Err(Damage::new(IDENTITY, 0, reason));
        }
        false => {
            let disk = Arc::clone(&files.disk);
            identity::write(disk, &mut (files.entropy)(), own).map_err(unreadable)?;
            own.clone()
        }
    };
    failpoint::reach(Point::IdentityKnown);
    let mut found = Found {
        snapshots: BTreeMap::new(),
        identity,
        map: None,
        bytes: 0,
    };
    let mut newest: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for file in &listed {
        match files::kind(&file.name) {
            Kind::Snapshot(shard, index) => {
                let entry = newest.entry(shard).or_default();
                *entry = (*entry).max((index, file.bytes));
            }
            Kind::Segment => found.bytes += file.bytes,
            _ => {}
        }
    }
    if listed.iter().any(|file| file.name == MAP) {
        found.map = Some(mapfile::read(Arc::clone(&files.disk))?);
    }
    for (shard, (index, bytes)) in newest {
        found.bytes += bytes;
        let name = files::snapshot_name(shard, index);
        found.snapshots.insert(shard, name);
    }
    Ok(found)
}

/// Whose directory it is, if it has as many shards as somebody asked for.
fn stored_identity(
    files: &Files,
    shards: Option<u16>,
    listed: &[FileInfo],
) -> Result<Identity, Damage> {
    let stored = identity::read(Arc::clone(&files.disk))?;
    if shards.is_some_and(|shards| stored.shards != shards) {
        let stored = stored.shards;
        let reason = format!("these data are cut into {stored} shards; say --shards {stored}");
        return Err(Damage::new(IDENTITY, 0, reason));
    }
    match stored.missing_snapshot(listed) {
        Some(shard) => Err(identity::missing(shard)),
        None => Ok(stored),
    }
}

/// The directory has been looked at: every shard is put together on its own.
fn found(cx: &mut Cx<'_, Node>, found: Result<Found, Damage>) {
    let found = match found {
        Ok(found) => found,
        Err(damage) => return refuse(cx, &damage),
    };
    let (count, seed) = (found.identity.shards, found.identity.seed);
    cx.app.hash_seed = seed;
    cx.app.adopt_shards(count);
    let Some(loading) = &mut cx.app.loading else {
        return;
    };
    let is_there = |&shard: &u16| shard < count || shard == META;
    if let Some(shard) = found.snapshots.keys().find(|shard| !is_there(shard)) {
        let damage = Damage::new(&found.snapshots[shard], 0, "there is no such shard");
        return refuse(cx, &damage);
    }
    let total = &loading.progress.bytes_total;
    total.store(found.bytes, Ordering::Relaxed);
    loading.left = found.snapshots.len();
    cx.app.name = found.identity.node;
    cx.app.known_map = found.map;
    loading.shards = (0..count)
        .chain([META])
        .map(|number| {
            let has_snapshot = found.snapshots.contains_key(&number);
            (!has_snapshot).then(|| Recovery::new(number, seed))
        })
        .collect();
    if found.snapshots.is_empty() {
        return replay(cx);
    }
    for (number, name) in found.snapshots {
        let Some(loading) = &cx.app.loading else {
            return;
        };
        let (files, progress) = (loading.files.clone(), Arc::clone(&loading.progress));
        cx.net
            .defer_to_thread(move || load(&files, number, &name, seed, &progress), loaded);
    }
}

/// Loads a snapshot.
fn load(
    files: &Files,
    number: u16,
    name: &str,
    seed: HashSeed,
    progress: &Progress,
) -> Result<Recovery, Damage> {
    let mut told = |bytes, keys| {
        progress.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        progress.keys.fetch_add(keys, Ordering::Relaxed);
    };
    let mut shards = Vec::new();
    let disk = Arc::clone(&files.disk);
    let keys = |id| files.secret(id);
    loading::image(disk, name, &keys, seed, &mut told, &mut |shard| {
        shards.push(shard);
    })?;
    match shards.pop() {
        Some(shard) if shards.is_empty() && shard.number() == number => Ok(shard),
        _ => Err(Damage::new(
            name,
            0,
            format!("does not hold shard {number} alone"),
        )),
    }
}

fn loaded(cx: &mut Cx<'_, Node>, recovery: Result<Recovery, Damage>) {
    let recovery = match recovery {
        Ok(recovery) => recovery,
        Err(damage) => return refuse(cx, &damage),
    };
    let Some(loading) = &mut cx.app.loading else {
        return;
    };
    let index = match recovery.number() {
        META => loading.shards.len() - 1,
        number => number.into(),
    };
    loading.shards[index] = Some(recovery);
    loading.left -= 1;
    if loading.left == 0 {
        replay(cx);
    }
}

/// All shards with what the log says of them.
struct Replayed {
    shards: Vec<Recovery>,
    end: End,
    segments: Segments,
    /// Number and index of each shard's snapshot.
    saved: Vec<(u16, u64)>,
}

/// All snapshots are loaded: the log is gone through.
fn replay(cx: &mut Cx<'_, Node>) {
    let Some(loading) = &mut cx.app.loading else {
        return;
    };
    let shards: Vec<Recovery> = loading.shards.drain(..).flatten().collect();
    let (files, progress) = (loading.files.clone(), Arc::clone(&loading.progress));
    cx.net
        .defer_to_thread(move || read_log(&files, shards, &progress), replayed);
}

fn read_log(
    files: &Files,
    mut shards: Vec<Recovery>,
    progress: &Progress,
) -> Result<Replayed, Damage> {
    let saved = shards.iter().map(|shard| (shard.number(), shard.index()));
    let saved = saved.collect();
    let mut segments = Segments::default();
    let keys = |id| files.secret(id);
    let end = loading::log(&*files.disk, &keys, &mut shards, &mut |record, marks| {
        segments.note(record.segment, marks);
        let bytes = record.payload.len() as u64;
        progress.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    })?;
    failpoint::reach(Point::LogReplayed);
    Ok(Replayed {
        shards,
        end,
        segments,
        saved,
    })
}

/// Everything is in memory: the log goes on in a new segment.
fn replayed(cx: &mut Cx<'_, Node>, replayed: Result<Replayed, Damage>) {
    let replayed = match replayed {
        Ok(replayed) => replayed,
        Err(damage) => return refuse(cx, &damage),
    };
    if let Some(torn) = &replayed.end.torn {
        log::warn!(
            "{} ends in a torn record at byte {}, which is left out: with --sync always it was never acknowledged",
            torn.file,
            torn.offset
        );
    }
    let mut record = Vec::new();
    let mut at_ms = 0;
    let recovered = match sort_out(cx.app, replayed.shards) {
        Ok(recovered) => recovered,
        Err(text) => return stop(cx, text),
    };
    let mut shards = Vec::with_capacity(recovered.len());
    for recovery in recovered {
        recovery.write_tail(&mut record);
        at_ms = at_ms.max(recovery.at_ms());
        shards.push(recovery.finish());
    }
    cx.app.stamp(at_ms);
    let numbers: Vec<u16> = shards.iter().map(Shard::number).collect();
    let mut saved = replayed.saved;
    saved.retain(|(number, _)| numbers.contains(number));
    failpoint::reach(Point::ShardsRecovered);
    cx.app.commits.set_shards(shards.len());
    cx.app.keyspace = Keyspace::of(shards);
    let number = cx.app.flight.take_off();
    cx.app.keyspace.advance(Some(&mut record), number);
    let marks = cx.app.keyspace.begin_flight_of_all();
    let Some(loading) = &cx.app.loading else {
        return;
    };
    let files = loading.files.clone();
    // Whole files: each start begins one, be there ever so little in it.
    let bytes = (replayed.end.segments.iter()).map(|segment| segment.bytes);
    let (sync, bytes) = (cx.app.options.sync, bytes.sum());
    cx.app.journal = Journal::open(files.clone(), sync, replayed.segments, bytes);
    cx.app.saving = Saving::open(files.clone(), saved, cx.app.at_ms);
    let first = First {
        files,
        end: replayed.end,
        record,
        number,
        marks,
    };
    begin_log(cx, first);
}

/// What the shards are: those of a node that is alone, of a member of a cluster, or of one that is to be.
fn sort_out(node: &Node, mut shards: Vec<Recovery>) -> Result<Vec<Recovery>, String> {
    let has_some = |shard: &Recovery| shard.last_index() > 0;
    let is_of_group = |shard: &Recovery| shard.replica() != ALONE;
    let is_member = node.known_map.is_some() || shards.iter().any(is_of_group);
    if !is_member && node.options.is_alone() {
        shards.pop();
        return Ok(shards);
    }
    if !is_member && shards.iter().any(has_some) {
        return Err(
            "the directory holds the data of a node that is alone: a cluster is founded with empty directories; \
             make a backup, found the cluster, and import it"
                .to_owned(),
        );
    }
    let vacant = |shard: Recovery| match has_some(&shard) {
        true if is_of_group(&shard) => shard,
        _ => shard.vacate(NOBODY),
    };
    Ok(shards.into_iter().map(vacant).collect())
}

/// What the log begins with, behind what was read.
struct First {
    files: Files,
    end: End,
    record: Vec<u8>,
    number: u64,
    marks: Vec<(u16, u64)>,
}

impl First {
    /// The log, with the first record of its new segment durable; and the number of that segment.
    fn write(&self) -> io::Result<(Wal, u64)> {
        let files = &self.files;
        let key = files.active_key();
        let key = key.map(|(id, secret)| ActiveKey { id, secret });
        let disk = Arc::clone(&files.disk);
        let mut wal = Wal::begin(disk, key, (files.entropy)(), &self.end, files.segment_bytes)?;
        failpoint::reach(Point::LogOpened);
        let segment = wal.append(&self.record, true)?;
        Ok((wal, segment))
    }

    /// The same; if the disk is full, the reserve is given up for it.
    fn write_somehow(&self) -> io::Result<(Wal, u64)> {
        match self.write() {
            Err(error) if is_full(&error) && has_reserve(&self.files)? => {
                self.files.disk.remove(RESERVE)?;
                self.files.disk.sync(DIRECTORY)?;
                self.write()
            }
            begun => begun,
        }
    }
}

fn has_reserve(files: &Files) -> io::Result<bool> {
    Ok(files.disk.list()?.iter().any(|file| file.name == RESERVE))
}

fn begin_log(cx: &mut Cx<'_, Node>, first: First) {
    let job = move || {
        let begun = first.write_somehow();
        (first, begun)
    };
    cx.net
        .defer_to_disk(job, |cx, (first, begun)| log_begun(cx, first, begun));
}

/// The first record of the new segment is durable, or there is no space for it: then everything read is
/// (the log saw to it), so that it can be read, but nothing can be written until there is space.
fn log_begun(cx: &mut Cx<'_, Node>, first: First, begun: io::Result<(Wal, u64)>) {
    match begun {
        Ok((wal, segment)) => {
            failpoint::reach(Point::FirstRecordKept);
            journal::begin(cx, wal, segment, &first.marks);
            ready(cx, first.number);
            commit::hand_over(cx);
        }
        Err(error) if is_full(&error) => {
            space::run_out(cx, &error);
            ready(cx, first.number);
            cx.net.call_later(REPORT, |cx| begin_log(cx, first));
        }
        Err(error) => journal::fail(cx, &error),
    }
}

/// Everything is in memory.
fn ready(cx: &mut Cx<'_, Node>, number: u64) {
    let node = &mut *cx.app;
    if node.loading.take().is_none() {
        return;
    }
    node.keyspace.persisted(number);
    let (record, number) = node.flight.gathering();
    node.keyspace.advance(Some(record), number);
    node.keyspace.apply_all();
    let took_ms = cx.net.clock().saturating_sub(node.started) / 1_000_000;
    log::info!(
        "ready: {} keys, loaded in {took_ms} ms",
        node.keyspace.len()
    );
    failpoint::reach(Point::StartEnded);
    let name = node.name.clone();
    cluster::begin(cx, &name);
}

/// The data cannot be loaded.
fn refuse(cx: &mut Cx<'_, Node>, damage: &Damage) {
    let text = format!(
        "the data cannot be loaded: {damage}. Nothing was changed; `marline check` tells what is whole, \
         `marline restore` brings back a backup"
    );
    stop(cx, text);
}

fn stop(cx: &mut Cx<'_, Node>, text: String) {
    // Several snapshots are loaded at once, and may all say the same.
    if cx.app.fatal.is_some() {
        return;
    }
    log::error!("{text}");
    cx.app.fatal = Some(text);
    cx.net.stop_now();
}
