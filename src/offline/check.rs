//! `marline check DIR`: whether a node could start from a directory, and everything that is wrong if not.
//!
//! ```text
//!   identity ─▶ snapshots ─▶ segments, each by itself ─▶ backups     a line each; damage does not end it
//!                  └──────────┴─▶ the log replayed over the newest snapshots, as a node does it
//!                                   └─▶ a line for each shard: where it stands, how many keys, a digest
//! ```
//!
//! The digest is that of the keys alive at the latest time in the data, whatever expired keys are still there: two
//! directories that hold the same have the same.
//!
//! Nothing is written but the lock. A torn last record is no damage: nothing of it was acknowledged, or, which
//! nobody can tell, the last acknowledged record has rotted; it is told of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use getopts::Options;

use super::{Line, Seal, Tell, Verdict, kernel_seed, key_text, print, secret, verify};
use crate::command::describe::describe;
use crate::command::encode;
use crate::data::files::{self, BACKUPS, IDENTITY, Kind};
use crate::data::{identity, loading, opening};
use crate::disk::header;
use crate::disk::publish::is_temporary;
use crate::disk::seal::{KeyRing, date};
use crate::disk::wal::check::{Checked, Log};
use crate::disk::{Damage, Disk, FileInfo};
use crate::shard::Shard;
use crate::shard::meta::Meta;
use crate::shard::recovery::Recovery;
use crate::shard::section::{self, Section};
use crate::store::HashSeed;
use crate::wire::reply::{Dialect, Reply};

const BRIEF: &str = "\
Usage: marline check DIR [--seal-keys FILE] [--verbose]

Reads every file of a data directory that no node uses, replays the log, and changes nothing. A
line for each file, a line for each shard, and a line for each damage: FILE at byte OFFSET: REASON.

Exit codes: 0 whole · 1 damaged, in use, or cannot be read · 2 usage";

/// Shards whose entries in a segment are told one by one.
const RANGES_MAX: usize = 16;

/// Runs the tool with the arguments after `marline check` and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    let mut grammar = Options::new();
    grammar.optflag("", "verbose", "print every change in the log");
    match Line::read("check", BRIEF, grammar, args).and_then(|line| look(&line)) {
        Ok(verdict) => verdict.code(),
        Err(code) => code,
    }
}

fn look(line: &Line) -> Result<Verdict, i32> {
    let directory = line.one("the name of one directory")?;
    let keys = line.keys()?;
    let disk = opening::existing(&directory).map_err(|told| line.fail(&told))?;
    let _lock = disk
        .try_lock()
        .map_err(|error| line.fail(&error.to_string()))?;
    let backups = directory.join(BACKUPS);
    let backups = backups.is_dir().then(|| opening::existing(&backups));
    let backups = backups.transpose().map_err(|told| line.fail(&told))?;
    let check = Check {
        disk: Arc::new(disk),
        backups: backups.map(|disk| Arc::new(disk) as Arc<dyn Disk>),
        ring: keys.as_ref().map(|keys| &*keys.ring),
        seed: kernel_seed(),
        is_verbose: line.matches.opt_present("verbose"),
    };
    let checked = check.run(&mut |text| print(text));
    checked.map_err(|error| line.fail(&error.to_string()))
}

/// What is to be looked at, and how.
pub struct Check<'c> {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// That of its backups, if there is one.
    pub backups: Option<Arc<dyn Disk>>,
    /// The ring of keys, if one was given.
    pub ring: Option<&'c KeyRing>,
    /// Of the shards' hash functions, as long as the identity tells no other.
    pub seed: HashSeed,
    /// Whether every change in the log is told.
    pub is_verbose: bool,
}

impl Check<'_> {
    /// Looks at everything; tells a line for each file, each damage and each shard, and one that says what came
    /// of it.
    ///
    /// # Errors
    /// A directory cannot be listed.
    pub fn run(&self, tell: Tell<'_>) -> io::Result<Verdict> {
        let mut findings = Findings {
            tell,
            damages: 0,
            closed: 0,
            shards: None,
            seed: self.seed,
            newest: BTreeMap::new(),
        };
        let listed = self.disk.list()?;
        self.identity(&listed, &mut findings);
        for file in &listed {
            if let Kind::Snapshot(shard, index) = files::kind(&file.name) {
                self.snapshot(file, shard, index, &mut findings);
            }
        }
        self.log(&mut findings)?;
        for file in &listed {
            match files::kind(&file.name) {
                Kind::Identity | Kind::Map | Kind::Segment | Kind::Snapshot(..) => {}
                Kind::Spare => findings.aside(file, "space for the log"),
                Kind::Reserve => findings.aside(file, "space for when the disk is full"),
                Kind::Leftover => findings.aside(file, LEFTOVER),
                Kind::Unknown => findings.aside(file, "unknown"),
            }
        }
        let is_startable = findings.damages == 0 && findings.closed == 0;
        if let Some(shards) = findings.shards.filter(|_| is_startable) {
            self.shards(shards, &mut findings);
        }
        self.backups(&mut findings)?;
        Ok(findings.verdict())
    }

    fn identity(&self, listed: &[FileInfo], findings: &mut Findings<'_>) {
        let Some(file) = listed.iter().find(|file| file.name == IDENTITY) else {
            let reason = "missing: this is no data directory, or its data cannot be told";
            return findings.damage(&Damage::new(IDENTITY, 0, reason));
        };
        match identity::read(Arc::clone(&self.disk)) {
            Ok(identity) => {
                if let Some(shard) = identity.missing_snapshot(listed) {
                    findings.damage(&identity::missing(shard));
                }
                let (shards, node) = (identity.shards, identity.node);
                findings.shards = Some(shards);
                // A snapshot loads faster with the seed that it was made with.
                findings.seed = identity.seed;
                findings.file(file, 0, &format!("{shards} shards, node {node}"));
            }
            Err(damage) => findings.damage(&damage),
        }
    }

    fn snapshot(&self, file: &FileInfo, shard: u16, index: u64, findings: &mut Findings<'_>) {
        let mut loaded = None;
        let mut keep = |recovery| loaded = Some(recovery);
        let Some(meta) = self.image(&self.disk, file, "", findings, &mut keep) else {
            return;
        };
        let is_as_named = matches!(meta.parts.as_slice(),
            [part] if (part.shard, part.applied.index) == (shard, index));
        let wrong = match findings.shards {
            _ if !is_as_named => Some(format!("holds {}", verify::summary(&meta))),
            Some(shards) if shard >= shards => Some("there is no such shard".to_owned()),
            Some(shards) if meta.shards != shards => {
                Some(format!("of a node with {} shards", meta.shards))
            }
            _ => None,
        };
        if let Some(reason) = wrong {
            return findings.damage(&Damage::new(&file.name, 0, reason));
        }
        // Names are in order: what comes later is newer.
        findings
            .newest
            .extend(loaded.map(|recovery| (shard, recovery)));
    }

    /// Reads an image and tells of it; what it says of itself, if it could be opened and is whole.
    fn image(
        &self,
        disk: &Arc<dyn Disk>,
        file: &FileInfo,
        folder: &str,
        findings: &mut Findings<'_>,
        shard: &mut dyn FnMut(Recovery),
    ) -> Option<Meta> {
        let shown = in_folder(file, folder);
        match verify::verify(
            Arc::clone(disk),
            &file.name,
            self.ring,
            findings.seed,
            shard,
        ) {
            Ok(verified) => {
                let what = verified.meta.as_ref().map(verify::summary);
                findings.closed += u64::from(what.is_none());
                let what = what.unwrap_or_else(|| CLOSED.to_owned());
                findings.file(&shown, verified.key_id, &what);
                verified.meta
            }
            Err(damage) => {
                let file = shown.name;
                findings.damage(&Damage { file, ..damage });
                None
            }
        }
    }

    fn log(&self, findings: &mut Findings<'_>) -> io::Result<()> {
        let log = Log::open(&*self.disk, &|id| secret(self.ring, id))?;
        for at in 0..log.len() {
            if let Some(damage) = log.missing_before(at) {
                findings.damage(&damage);
            }
            self.segment(&log, at, findings);
        }
        Ok(())
    }

    fn segment(&self, log: &Log, at: usize, findings: &mut Findings<'_>) {
        let (name, bytes) = log.file(at);
        let mut entries = Entries::default();
        let tell = &mut *findings.tell;
        let mut each = |line: &str| tell(&format!("{name} {line}"));
        let mut tell_change: Option<Tell<'_>> = self.is_verbose.then_some(&mut each);
        let checked = log.check(&*self.disk, at, &mut |record| {
            for section in section::read(record.payload)? {
                entries.add(&section, &mut tell_change)?;
            }
            Ok(())
        });
        let checked = match checked {
            Ok(checked) => checked,
            Err(damage) => return findings.damage(&damage),
        };
        let name = name.to_owned();
        let what = match checked.is_open {
            true => entries.text(&checked),
            false => CLOSED.to_owned(),
        };
        findings.file(
            &FileInfo {
                name: name.clone(),
                bytes,
            },
            checked.key_id,
            &what,
        );
        let kind = header::Kind::Segment;
        match Seal::of(&*self.disk, &name, kind, self.ring) {
            Seal::Open => {}
            Seal::Closed(_) => findings.closed += 1,
            Seal::Missing(id) => {
                findings.damage(&Damage::new(&name, 12, verify::not_in_ring(id)));
            }
        }
    }

    fn backups(&self, findings: &mut Findings<'_>) -> io::Result<()> {
        let Some(disk) = &self.backups else {
            return Ok(());
        };
        let folder = format!("{BACKUPS}/");
        for file in disk.list()? {
            match is_temporary(&file.name) {
                true => findings.aside(&in_folder(&file, &folder), LEFTOVER),
                false => drop(self.image(disk, &file, &folder, findings, &mut |_| {})),
            }
        }
        Ok(())
    }

    /// Replays the log over the newest snapshots, and lets every shard commit what is left, as a node does.
    fn shards(&self, shards: u16, findings: &mut Findings<'_>) {
        let (newest, seed) = (&mut findings.newest, findings.seed);
        let mut shards: Vec<Recovery> = (0..shards)
            .map(|number| {
                let loaded = newest.remove(&number);
                loaded.unwrap_or_else(|| Recovery::new(number, seed))
            })
            .collect();
        let saved: Vec<u64> = shards.iter().map(Recovery::index).collect();
        let mut last = saved.clone();
        let keys = |id| secret(self.ring, id);
        let replayed = loading::log(&*self.disk, &keys, &mut shards, &mut |_, marks| {
            for &(shard, index) in marks {
                last[usize::from(shard)] = index.max(saved[usize::from(shard)]);
            }
        });
        if let Err(damage) = replayed {
            return findings.damage(&damage);
        }
        let at_ms = shards.iter().map(Recovery::at_ms).max().unwrap_or(0);
        for (number, recovery) in shards.into_iter().enumerate() {
            let shard = settle(recovery.finish());
            let mut keys = 0;
            shard.store().for_each(at_ms, &mut |_, _| keys += 1);
            (findings.tell)(&format!(
                "shard {number}: snapshot {}, log to entry {}, {keys} keys, digest {:016x}",
                saved[number],
                last[number],
                shard.store().digest(at_ms)
            ));
        }
        (findings.tell)(&format!("as of {}", date::text(at_ms)));
    }
}

/// What is said of a sealed file without its key.
const CLOSED: &str = "checksums fit, not opened";
const LEFTOVER: &str = "left by a writer that did not finish; nobody reads it";

/// A file as it is called from the data directory.
fn in_folder(file: &FileInfo, folder: &str) -> FileInfo {
    FileInfo {
        name: format!("{folder}{}", file.name),
        bytes: file.bytes,
    }
}

/// The shard with all of its log applied that is committed.
fn settle(mut shard: Shard) -> Shard {
    shard.advance(None, 1);
    let mut unread = Vec::new();
    let mut reply = Reply::new(&mut unread, Dialect::Resp2);
    while shard.apply_next(&mut reply, |_, _| {}).is_some() {}
    shard
}

/// What was found so far.
struct Findings<'t> {
    tell: Tell<'t>,
    damages: u64,
    /// Sealed files that were not opened because no ring was given.
    closed: u64,
    /// How many shards there are, if the identity tells.
    shards: Option<u16>,
    seed: HashSeed,
    /// The newest snapshot of each shard.
    newest: BTreeMap<u16, Recovery>,
}

impl Findings<'_> {
    fn damage(&mut self, damage: &Damage) {
        self.damages += 1;
        (self.tell)(&damage.to_string());
    }

    fn file(&mut self, file: &FileInfo, key_id: u32, what: &str) {
        let (name, bytes, key) = (&file.name, file.bytes, key_text(key_id));
        (self.tell)(&format!("{name:<38} {bytes:>12} bytes  {key:<6}  {what}"));
    }

    /// Tells of a file that holds nothing to be read.
    fn aside(&mut self, file: &FileInfo, what: &str) {
        let (name, bytes) = (&file.name, file.bytes);
        (self.tell)(&format!("{name:<38} {bytes:>12} bytes  -       {what}"));
    }

    fn verdict(self) -> Verdict {
        let (damages, closed) = (self.damages, self.closed);
        if damages > 0 {
            (self.tell)(&format!("not whole, damage found: {damages}"));
            return Verdict::Damaged;
        }
        if closed > 0 {
            (self.tell)(&format!(
                "whole on the outside: all checksums fit; {closed} sealed files were not opened, say --seal-keys FILE"
            ));
            return Verdict::Closed;
        }
        (self.tell)("whole");
        Verdict::Whole
    }
}

/// The entries in a segment.
#[derive(Default)]
struct Entries {
    /// Of each shard: the least and the greatest index.
    ranges: BTreeMap<u16, (u64, u64)>,
    count: u64,
}

impl Entries {
    /// Decodes a section; tells each change in it, if that is wanted.
    fn add(&mut self, section: &Section<'_>, tell: &mut Option<Tell<'_>>) -> Result<(), String> {
        let shard = section.shard;
        for entry in &section.entries {
            let index = entry.index;
            let wrong =
                |fault: &dyn std::fmt::Display| format!("shard {shard}, entry {index}: {fault}");
            let range = self.ranges.entry(shard).or_insert((index, index));
            *range = (range.0.min(index), range.1.max(index));
            self.count += 1;
            let body = section::body(entry.data).map_err(|fault| wrong(&fault))?;
            let Some((at_ms, mut changes)) = body else {
                continue;
            };
            while !changes.is_empty() {
                let (change, used) = encode::decode(changes).map_err(|fault| wrong(&fault))?;
                if let Some(tell) = tell {
                    let (at, line) = (date::text(at_ms), describe(&change));
                    tell(&format!("shard {shard} entry {index} {at} {line}"));
                }
                changes = &changes[used..];
            }
        }
        Ok(())
    }

    fn text(&self, segment: &Checked) -> String {
        let (first, last) = (segment.first, segment.next - 1);
        let mut text = format!("records {first}..{last}, {} entries", self.count);
        for (shard, (first, last)) in self.ranges.iter().take(RANGES_MAX) {
            // Writing to a string does not fail.
            let _ = write!(text, " {shard}:{first}-{last}");
        }
        if self.ranges.len() > RANGES_MAX {
            text.push_str(" …");
        }
        if segment.is_torn {
            let end = segment.end;
            let _ = write!(
                text,
                "; torn at byte {end}: the record there was never acknowledged, or it has rotted"
            );
        }
        text
    }
}
