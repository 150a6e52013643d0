//! `marline restore FILE --data DIR`: a data directory out of a backup.
//!
//! ```text
//!   verify all of FILE      nothing is touched before
//!   identity := restoring   from here on no node starts here
//!   remove what was there   --force only: files that are ours by name, no backups, nothing unknown
//!   snapshot-… each         sealed with the active key of the ring, if there is one
//!   identity := this one    from here on a node starts here
//! ```
//!
//! Every step is durable before the next: a crash in between leaves a directory that every node refuses, and that
//! the same restore, with `--force`, makes whole.
//!
//! There is no log in the new directory. A node begins one behind the snapshots, as it does after any start.

#![expect(
    clippy::disallowed_methods,
    reason = "a tool outside the reactor reads the clock itself"
)]

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use getopts::Options;

use super::{EXIT_OK, Line, kernel_seed, new_seed, print, secret, shown, verify};
use crate::data::files::{self, Kind, NewEntropy};
use crate::data::identity::{self, Identity};
use crate::data::opening::{self, kernel_entropy};
use crate::disk::image::read::ImageReader;
use crate::disk::image::write::ImageWriter;
use crate::disk::real::{LOCK, RealDisk};
use crate::disk::seal::KeyRing;
use crate::disk::{DIRECTORY, Damage, Disk};
use crate::shard::ALONE;
use crate::shard::members::Members;
use crate::shard::meta::{CONTINUES, Meta, Part};
use crate::store::HashSeed;

const BRIEF: &str = "\
Usage: marline restore FILE --data DIR [--seal-keys FILE] [--force]

Makes a data directory out of a backup. All of the backup is read before anything is written. The
directory must be empty, or not there; with --force the data of a node in it are removed, but no
backups and no files that are not a node's.

A sealed backup needs the ring of keys that it was sealed with. With a ring, what is written is
sealed with its active key; without one it is not sealed.

Exit codes: 0 done · 1 not done · 2 usage";

/// Bytes of a node's name.
const NODE_BYTES: usize = 20;

/// Runs the tool with the arguments after `marline restore` and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    let mut grammar = Options::new();
    grammar
        .optopt("", "data", "the data directory to be made", "DIR")
        .optflag("", "force", "remove the data that are there");
    let done = Line::read("restore", BRIEF, grammar, args).and_then(|line| restore_line(&line));
    done.map_or_else(|code| code, |()| EXIT_OK)
}

fn restore_line(line: &Line) -> Result<(), i32> {
    let fail = |told: String| line.fail(&told);
    let source = line.one("the name of one file")?;
    let Some(directory) = line.path("data") else {
        return Err(super::wrong("restore", "--data DIR says where to"));
    };
    let force = line.matches.opt_present("force");
    require_empty(&directory, force).map_err(fail)?;
    let (disk, name) = opening::file(&source).map_err(fail)?;
    require_outside(&source, &name, &directory).map_err(fail)?;
    let keys = ring(line, &disk, &name)?;
    let ring = keys.as_ref().map(|keys| &*keys.ring);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let meta = examine(Arc::clone(&disk), &name, ring, kernel_seed()).map_err(|damage| {
        let file = shown(&source);
        fail(format!(
            "{}; nothing was changed",
            Damage { file, ..damage }
        ))
    })?;
    let target = RealDisk::open(&directory).map_err(|error| fail(error.to_string()))?;
    let _lock = target.try_lock().map_err(|error| fail(error.to_string()))?;
    // Somebody may have been here since.
    require_empty(&directory, force).map_err(fail)?;
    let restored = restore(
        &disk,
        &name,
        &meta,
        &(Arc::new(target) as Arc<dyn Disk>),
        ring,
        kernel_entropy,
    );
    let unknown = restored.map_err(|failure| {
        let directory = directory.display();
        fail(format!(
            "{failure}\n{directory} is not whole now, and no node starts from it; restore again with --force"
        ))
    })?;
    tell(line, &meta, &directory, &unknown);
    Ok(())
}

fn tell(line: &Line, meta: &Meta, directory: &Path, unknown: &[String]) {
    for name in unknown {
        print(&format!("left alone: {name}"));
    }
    print(&format!("restored {}", verify::summary(meta)));
    let ring = line.matches.opt_str("seal-keys");
    let ring = ring.map_or(String::new(), |path| format!(" --seal-keys {path}"));
    let (directory, shards) = (directory.display(), meta.shards);
    print(&format!(
        "start it with: marline --data {directory} --shards {shards}{ring}"
    ));
}

/// The ring of keys, if one is named. It is made if it is not there and the backup can be read without.
fn ring(line: &Line, disk: &dyn Disk, name: &str) -> Result<Option<files::Keys>, i32> {
    let Some(path) = line.path("seal-keys") else {
        return Ok(None);
    };
    let kind = crate::disk::header::Kind::Image;
    let is_plain = super::Seal::of(disk, name, kind, None) == super::Seal::Open;
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let at_ms = since.map_or(0, |since| since.as_millis() as u64);
    let is_new = !path.exists();
    let keys = opening::keys(&path, is_plain, at_ms).map_err(|told| line.fail(&told))?;
    if is_new {
        let path = path.display();
        print(&format!(
            "made the ring of keys {path}: keep a copy of it, nothing can be read without it"
        ));
    }
    Ok(Some(keys))
}

/// A directory that may be restored into: not there, empty, or of a node and `force`d.
///
/// # Errors
/// It is none; or it cannot be read.
pub fn require_empty(directory: &Path, force: bool) -> Result<(), String> {
    let shown = directory.display();
    if force || !directory.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(directory).map_err(|error| format!("{shown}: {error}"))?;
    for entry in entries {
        let name = entry
            .map_err(|error| format!("{shown}: {error}"))?
            .file_name();
        if name != LOCK {
            let name = name.to_string_lossy().into_owned();
            return Err(format!(
                "{shown} is not empty, there is {name}; nothing was changed (--force removes a node's data first)"
            ));
        }
    }
    Ok(())
}

/// The backup is not among the files that would be removed.
fn require_outside(source: &Path, name: &str, directory: &Path) -> Result<(), String> {
    let inside = |path: &Path| Some(fs::canonicalize(path).ok()?.parent()?.to_owned());
    let target = fs::canonicalize(directory).ok();
    if target.is_some() && inside(source) == target && files::kind(name) != Kind::Unknown {
        let source = source.display();
        return Err(format!(
            "{source} is one of the files that would be removed; copy it to another place first"
        ));
    }
    Ok(())
}

/// Reads all of a backup; what it says of itself.
///
/// # Errors
/// It is damaged, is sealed and its key is not there, or is no backup of all shards.
pub fn examine(
    disk: Arc<dyn Disk>,
    name: &str,
    ring: Option<&KeyRing>,
    seed: HashSeed,
) -> Result<Meta, Damage> {
    let verified = verify::verify(disk, name, ring, seed, &mut |_| {})?;
    let Some(meta) = verified.meta else {
        let reason = format!("sealed with key {}; say --seal-keys FILE", verified.key_id);
        return Err(Damage::new(name, 12, reason));
    };
    if meta.parts.len() != usize::from(meta.shards) || meta.shards == 0 {
        let reason = format!("no backup: it holds {}", verify::summary(&meta));
        return Err(Damage::new(name, 0, reason));
    }
    Ok(meta)
}

/// Why a restore was not finished.
#[derive(Debug)]
pub enum Failure {
    /// The backup is not what it was a moment ago.
    Backup(Damage),
    /// The directory cannot be written.
    Directory(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Backup(damage) => write!(f, "{damage}"),
            Failure::Directory(error) => write!(f, "cannot write: {error}"),
        }
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Failure {
        Failure::Backup(damage)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Directory(error)
    }
}

/// Makes `target` the directory of a new node with the data of a backup that was [examined](examine) to hold
/// `meta`. Data of a node that are there are removed. Returns the names of files that are not a node's and were
/// left alone.
///
/// # Errors
/// The directory is not whole then, and says so; it can be done again.
pub fn restore(
    source: &Arc<dyn Disk>,
    name: &str,
    meta: &Meta,
    target: &Arc<dyn Disk>,
    ring: Option<&KeyRing>,
    entropy: NewEntropy,
) -> Result<Vec<String>, Failure> {
    identity::write_restoring(Arc::clone(target), &mut entropy())?;
    let unknown = clear(&**target)?;
    let (mut reader, _) = ImageReader::open(Arc::clone(source), name, &|id| secret(ring, id))?;
    let mut block = Vec::new();
    let mut tag = reader.next(&mut block)?;
    for part in &meta.parts {
        let snapshot = files::snapshot_name(part.shard, part.applied.index);
        let one = Meta {
            shards: meta.shards,
            // What comes out belongs to nobody's group.
            parts: vec![Part {
                replica: ALONE,
                members: Members::of(&[ALONE]),
                ..part.clone()
            }],
        };
        let mut writer = ImageWriter::create(
            Arc::clone(target),
            &snapshot,
            ring.map(KeyRing::active),
            &mut entropy(),
            &one.encode(),
        )?;
        while let Some(of_part) = tag.filter(|tag| tag & !CONTINUES == u32::from(part.shard)) {
            writer.block(of_part, &block)?;
            tag = reader.next(&mut block)?;
        }
        writer.finish()?;
    }
    if tag.is_some() {
        return Err(Damage::new(name, reader.position(), "changed meanwhile").into());
    }
    let mut random = [0; NODE_BYTES];
    entropy()(&mut random);
    let identity = Identity {
        shards: meta.shards,
        node: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        seed: new_seed(&mut entropy()),
        is_restored: true,
    };
    identity::write(Arc::clone(target), &mut entropy(), &identity)?;
    Ok(unknown)
}

/// Removes the data of a node, but for its identity; the names of what is not a node's.
fn clear(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let mut unknown = Vec::new();
    for file in disk.list()? {
        match files::kind(&file.name) {
            Kind::Identity => {}
            Kind::Unknown => unknown.push(file.name),
            // What is restored belongs to no cluster.
            Kind::Map
            | Kind::Segment
            | Kind::Spare
            | Kind::Snapshot(..)
            | Kind::Reserve
            | Kind::Leftover => {
                disk.remove(&file.name)?;
            }
        }
    }
    disk.sync(DIRECTORY)?;
    Ok(unknown)
}
