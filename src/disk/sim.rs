//! A disk in memory that keeps what a [`Disk`] promises and not a byte more, and fails where a test wants it to.
//!
//! ```text
//!  a file     what is read  = everything written
//!             what is safe  = everything synced
//!             pending       = writes since then, in order
//!  directory  the same three: names as they are, names as they were synced, and creations, renames, removals
//! ```
//!
//! A crash ([`SimDisk::crash`]) makes of every file what was safe and, of the pending writes, whatever
//! [`Crash`] says: each is lost, survives, or is torn at a byte or by sectors; each of the directory's changes happens
//! or not, by itself, a rename as a whole. [`SimDisk::restart`] is the death of the process only: nothing is lost.
//!
//! Calls that change something (write, sync, rename, remove) are counted from 0, so that a test can let the Nth fail,
//! for every N. A write that fails has written a part. A failed sync of a file behaves as on ext4: its pending writes
//! are read as before but are not pending any more, so that the next sync succeeds and a crash loses them. A failed
//! sync of the directory leaves its changes pending: file systems journal them, and stop when that fails. Reads are
//! counted by themselves and fail in the same way, but for want of space. What a device does behind everybody's back is
//! in [`rot`]. [`SimDisk::fired`] counts what of this took place.
//!
//! The same seed and the same calls give the same disk. Deliberately absent: time (a call that takes long is a job that
//! waits, which is the network's affair), a list of files that fails, places that can be written and not be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use super::{DIRECTORY, Disk, FileInfo};

pub mod rot;

const SECTOR_BYTES: usize = 512;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device failed.
    Eio,
    /// There is no space. Removing a file works.
    Enospc,
}

/// What a crash makes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// It survives.
    KeepAll,
    /// It is lost.
    LoseAll,
    /// Each piece has its own fate, from this seed.
    Random(u64),
    /// It survives, but of the last write so many bytes.
    TearLast(usize),
}

/// A disk; a handle that may be cloned.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    /// Contents by number; those that no name leads to are of no interest.
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    pending_names: Vec<Change>,
    calls: u64,
    plan: Option<Plan>,
    reads: u64,
    /// From or at which read reads fail, and whether they go on to.
    read_plan: Option<(u64, bool)>,
    is_down: bool,
    capacity_bytes: u64,
    rng: Rng,
    /// Whether older contents of sectors are kept, for [`rot::Rot::Sector`].
    remembers: bool,
    /// The choices of the next write, if it is to go astray.
    astray: Option<Rng>,
    /// Where the last one went that did.
    went_astray: Option<String>,
    fired: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Default)]
struct Contents {
    read: Vec<u8>,
    safe: Vec<u8>,
    pending: Vec<Piece>,
    /// Whether what is read may be something else than what is safe with what is pending.
    is_torn: bool,
    /// What sectors held before they were last changed, by number.
    older: BTreeMap<usize, Vec<u8>>,
}

/// A write that was not synced.
#[derive(Clone)]
struct Piece {
    call: u64,
    offset: usize,
    bytes: Vec<u8>,
}

/// Something that was not synced happened to the directory.
#[derive(Clone)]
enum Change {
    Create {
        name: String,
        file: usize,
    },
    Rename {
        from: String,
        to: String,
        file: usize,
    },
    Remove {
        name: String,
        file: usize,
    },
}

/// What is to happen, from or at which call.
#[derive(Clone, Copy)]
enum Plan {
    Fail {
        at: u64,
        fault: Fault,
        is_sticky: bool,
    },
    Crash {
        at: u64,
    },
}

impl Contents {
    fn put(bytes: &mut Vec<u8>, offset: usize, piece: &[u8]) {
        let end = offset + piece.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(piece);
    }

    /// Lets the pending writes up to a crash, in which `fate` says which parts of a piece survive.
    fn crash(&mut self, mut fate: impl FnMut(&Piece) -> Vec<(usize, usize)>) {
        if self.pending.is_empty() && !self.is_torn {
            return;
        }
        self.is_torn = false;
        for piece in std::mem::take(&mut self.pending) {
            for (from, to) in fate(&piece) {
                Contents::put(&mut self.safe, piece.offset + from, &piece.bytes[from..to]);
            }
        }
        self.read.clone_from(&self.safe);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        let mut forget = |name: &String, file: &usize| {
            if names.get(name) == Some(file) {
                names.remove(name);
            }
        };
        match self {
            Change::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Change::Rename { from, to, file } => {
                forget(from, file);
                names.insert(to.clone(), *file);
            }
            Change::Remove { name, file } => forget(name, file),
        }
    }
}

/// Which parts of a write of `length` bytes survive, when chance decides.
fn random_parts(rng: &mut Rng, length: usize) -> Vec<(usize, usize)> {
    match rng.u8(..4) {
        0 => Vec::new(),
        1 => vec![(0, length)],
        2 => vec![(0, rng.usize(..=length))],
        _ => (0..length)
            .step_by(SECTOR_BYTES)
            .map(|from| (from, length.min(from + SECTOR_BYTES)))
            .filter(|_| rng.bool())
            .collect(),
    }
}

/// A call that changes something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Write,
    Sync,
    Rename,
    Remove,
}

impl Verb {
    /// What its failing is counted as.
    fn failed(self, fault: Fault) -> &'static str {
        match (self, fault) {
            (Verb::Write, Fault::Eio) => "write EIO",
            (Verb::Write, Fault::Enospc) => "write ENOSPC",
            (Verb::Sync, Fault::Eio) => "sync EIO",
            (Verb::Sync, Fault::Enospc) => "sync ENOSPC",
            (Verb::Rename, Fault::Eio) => "rename EIO",
            (Verb::Rename, Fault::Enospc) => "rename ENOSPC",
            (Verb::Remove, Fault::Eio) => "remove EIO",
            (Verb::Remove, Fault::Enospc) => "remove ENOSPC",
        }
    }
}

/// What to do with a call.
enum Verdict {
    Go,
    /// It is the last one: whether it has happened nobody will know.
    LastOne,
    Fail(Fault),
}

impl State {
    /// Counts a call and says what becomes of it.
    fn call(&mut self, verb: Verb) -> io::Result<Verdict> {
        self.up()?;
        let call = self.calls;
        self.calls += 1;
        Ok(match self.plan {
            Some(Plan::Crash { at }) if at == call => {
                self.is_down = true;
                self.count("down in a call", 1);
                Verdict::LastOne
            }
            Some(Plan::Fail {
                at,
                fault,
                is_sticky,
            }) if (at == call || (is_sticky && at < call))
                && !(verb == Verb::Remove && fault == Fault::Enospc) =>
            {
                self.count(verb.failed(fault), 1);
                Verdict::Fail(fault)
            }
            _ => Verdict::Go,
        })
    }

    /// Faults of this kind took place.
    fn count(&mut self, kind: &'static str, times: u64) {
        if times > 0 {
            *self.fired.entry(kind).or_default() += times;
        }
    }

    /// Counts a read and says whether it fails.
    fn fails_read(&mut self) -> bool {
        let read = self.reads;
        self.reads += 1;
        let fails = |(at, is_sticky)| at == read || (is_sticky && at < read);
        let fails = self.read_plan.is_some_and(fails);
        self.count("read EIO", fails.into());
        fails
    }

    fn up(&self) -> io::Result<()> {
        // Whoever unwinds has lost its power, and its destructors do nothing more.
        match self.is_down || std::thread::panicking() {
            true => Err(down()),
            false => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"));
        self.names.get(name).copied().ok_or_else(missing)
    }

    fn used_bytes(&self) -> u64 {
        let bytes = |file: &usize| self.files[*file].read.len() as u64;
        self.names.values().map(bytes).sum()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// Writes: for readers at `offset`, on the disk at `lands_at`.
    fn put(&mut self, name: &str, offset: usize, lands_at: usize, bytes: &[u8]) {
        let file = self.names.get(name).copied().unwrap_or_else(|| {
            self.files.push(Contents::default());
            let (name, file) = (name.to_owned(), self.files.len() - 1);
            self.change(Change::Create { name, file });
            file
        });
        let contents = &mut self.files[file];
        Contents::put(&mut contents.read, offset, bytes);
        contents.is_torn |= lands_at != offset;
        contents.pending.push(Piece {
            call: self.calls - 1,
            offset: lands_at,
            bytes: bytes.to_vec(),
        });
    }

    /// How many of the bytes of a write there is space for.
    fn space(&self, name: &str, offset: usize, bytes: usize) -> usize {
        if self.capacity_bytes == u64::MAX {
            return bytes;
        }
        let has = (self.names.get(name)).map_or(0, |file| self.files[*file].read.len());
        let free = self.capacity_bytes.saturating_sub(self.used_bytes());
        let end = has.saturating_add(usize::try_from(free).unwrap_or(usize::MAX));
        end.saturating_sub(offset).min(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        if name == DIRECTORY {
            if !self.pending_names.is_empty() {
                self.pending_names.clear();
                self.safe_names.clone_from(&self.names);
                self.forget_unnamed();
            }
            return Ok(());
        }
        let file = self.file(name)?;
        let contents = &mut self.files[file];
        if self.remembers {
            contents.remember();
        }
        for piece in std::mem::take(&mut contents.pending) {
            Contents::put(&mut contents.safe, piece.offset, &piece.bytes);
        }
        Ok(())
    }

    fn fail_sync(&mut self, name: &str) -> io::Result<()> {
        if name != DIRECTORY {
            let file = self.file(name)?;
            let contents = &mut self.files[file];
            contents.is_torn |= !contents.pending.is_empty();
            contents.pending.clear();
        }
        Ok(())
    }

    /// Nobody can come to files again that no name leads to, nor will one.
    fn forget_unnamed(&mut self) {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        for (number, file) in self.files.iter_mut().enumerate() {
            if !file.read.is_empty() && !named.contains(&number) {
                *file = Contents::default();
            }
        }
    }

    fn crash(&mut self, how: Crash) {
        let mut rng = Rng::with_seed(match how {
            Crash::Random(seed) => seed,
            _ => 0,
        });
        let pieces = self.files.iter().flat_map(|file| &file.pending);
        let last = pieces.map(|piece| piece.call).max();
        let [mut lost, mut torn, mut lost_names] = [0; 3];
        for file in &mut self.files {
            file.crash(|piece| {
                let parts = match how {
                    Crash::LoseAll => Vec::new(),
                    Crash::Random(_) => random_parts(&mut rng, piece.bytes.len()),
                    Crash::TearLast(bytes) if Some(piece.call) == last => {
                        vec![(0, bytes.min(piece.bytes.len()))]
                    }
                    Crash::KeepAll | Crash::TearLast(_) => vec![(0, piece.bytes.len())],
                };
                let kept: usize = parts.iter().map(|(from, to)| to - from).sum();
                lost += u64::from(kept == 0 && !piece.bytes.is_empty());
                torn += u64::from((1..piece.bytes.len()).contains(&kept));
                parts
            });
        }
        for change in std::mem::take(&mut self.pending_names) {
            let survives = match how {
                Crash::LoseAll => false,
                Crash::Random(_) => rng.bool(),
                Crash::KeepAll | Crash::TearLast(_) => true,
            };
            if survives {
                change.apply(&mut self.safe_names);
            }
            lost_names += u64::from(!survives);
        }
        self.names.clone_from(&self.safe_names);
        self.forget_unnamed();
        self.count("crash", 1);
        self.count("lost write", lost);
        self.count("torn write", torn);
        self.count("lost change of a name", lost_names);
    }
}

fn down() -> io::Error {
    io::Error::other("the machine is down")
}

fn failure(name: &str, fault: Fault) -> io::Error {
    match fault {
        Fault::Eio => io::Error::other(format!("{name}: input/output error")),
        Fault::Enospc => io::Error::new(
            io::ErrorKind::StorageFull,
            format!("{name}: no space left on device"),
        ),
    }
}

impl SimDisk {
    /// An empty disk without limits.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                files: Vec::new(),
                names: BTreeMap::new(),
                safe_names: BTreeMap::new(),
                pending_names: Vec::new(),
                calls: 0,
                plan: None,
                reads: 0,
                read_plan: None,
                is_down: false,
                capacity_bytes: u64::MAX,
                rng: Rng::with_seed(seed),
                remembers: false,
                astray: None,
                went_astray: None,
                fired: BTreeMap::new(),
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk in the same state.
    pub fn fork(&self) -> SimDisk {
        let state = self.state().clone();
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The disk becomes what `backup` is, an earlier [`fork`](Self::fork) of it: files, names, and what is pending.
    /// Counters, limits and what else belongs to the device stay; calls work again.
    pub fn restore(&self, backup: &SimDisk) {
        let backup = backup.state().clone();
        let mut state = self.state();
        state.files = backup.files;
        state.names = backup.names;
        state.safe_names = backup.safe_names;
        state.pending_names = backup.pending_names;
        (state.plan, state.read_plan, state.is_down) = (None, None, false);
        state.count("restore", 1);
    }

    /// How often each kind of fault took place since the beginning, in this disk and in what it was forked from.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.state().fired.clone()
    }

    /// How many reads there were. The next one has this number.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Lets the read with this number fail as [`Fault::Eio`] does, and if `is_sticky` all after it. In place of any
    /// earlier plan for reads, and beside that for other calls.
    pub fn fail_read_at(&self, read: u64, is_sticky: bool) {
        self.state().read_plan = Some((read, is_sticky));
    }

    /// How many calls there were that change something. The next one has this number.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Lets the call with this number fail, and if `is_sticky` all after it. In place of any earlier plan.
    pub fn fail_at(&self, call: u64, fault: Fault, is_sticky: bool) {
        let at = call;
        self.state().plan = Some(Plan::Fail {
            at,
            fault,
            is_sticky,
        });
    }

    /// Lets the machine go down in the call with this number. A write, rename or removal may have happened, as
    /// everything that was not synced; a sync has not. All later calls fail. In place of any earlier plan.
    pub fn crash_at(&self, call: u64) {
        self.state().plan = Some(Plan::Crash { at: call });
    }

    /// Calls work again.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.plan, state.read_plan) = (None, None);
    }

    /// The machine loses its power and comes up again. Calls work again.
    pub fn crash(&self, how: Crash) {
        self.restart();
        self.state().crash(how);
    }

    /// The process ends and another begins; what was not synced is still there. Calls work again.
    pub fn restart(&self) {
        let mut state = self.state();
        state.is_down = false;
        (state.plan, state.read_plan) = (None, None);
    }

    /// Limits the length of all files together, in bytes.
    pub fn limit(&self, capacity_bytes: u64) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// Changes a byte of a file where it lies on the disk: its bits that are set in `mask` change.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut state = self.state();
        let file = *state.names.get(name).expect("there is such a file");
        let contents = &mut state.files[file];
        contents.read[offset] ^= mask;
        if let Some(byte) = contents.safe.get_mut(offset) {
            *byte ^= mask;
        }
    }

    /// Puts a file on the disk, whole and durable.
    pub fn install(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let contents = Contents {
            read: bytes.to_vec(),
            safe: bytes.to_vec(),
            ..Contents::default()
        };
        state.files.push(contents);
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.safe_names.insert(name.to_owned(), file);
    }

    /// All files as they are read, by name.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let entries = state.names.iter();
        entries
            .map(|(name, file)| (name.clone(), state.files[*file].read.clone()))
            .collect()
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.state();
        state.up()?;
        let files = state.names.iter().map(|(name, file)| FileInfo {
            name: name.clone(),
            bytes: state.files[*file].read.len() as u64,
        });
        Ok(files.collect())
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.up()?;
        if state.fails_read() {
            return Err(failure(name, Fault::Eio));
        }
        let bytes = &state.files[state.file(name)?].read;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = bytes.get(offset..).unwrap_or_default();
        let length = bytes.len().min(into.len());
        into[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let verdict = state.call(Verb::Write)?;
        let offset = usize::try_from(offset).expect("a simulated file is small");
        let mut lands_at = offset;
        let (part, result) = match verdict {
            Verdict::LastOne => (bytes.len(), Err(down())),
            Verdict::Fail(fault) => (state.rng.usize(..=bytes.len()), Err(failure(name, fault))),
            Verdict::Go => match state.space(name, offset, bytes.len()) {
                part if part < bytes.len() => {
                    state.count("full disk", 1);
                    (part, Err(failure(name, Fault::Enospc)))
                }
                whole => {
                    lands_at = state.lands_at(name, offset, whole);
                    (whole, Ok(()))
                }
            },
        };
        state.put(name, offset, lands_at, &bytes[..part]);
        result
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        match state.call(Verb::Sync)? {
            Verdict::Go => state.sync(name),
            Verdict::LastOne => Err(down()),
            Verdict::Fail(fault) => {
                state.fail_sync(name)?;
                Err(failure(name, fault))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let verdict = state.call(Verb::Rename)?;
        let file = state.file(from)?;
        if let Verdict::Fail(fault) = verdict {
            return Err(failure(from, fault));
        }
        let (from, to) = (from.to_owned(), to.to_owned());
        state.change(Change::Rename { from, to, file });
        state.up()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let verdict = state.call(Verb::Remove)?;
        let file = state.file(name)?;
        if let Verdict::Fail(fault) = verdict {
            return Err(failure(name, fault));
        }
        let name = name.to_owned();
        state.change(Change::Remove { name, file });
        state.up()
    }
}

impl fmt::Debug for SimDisk {
    /// A line for every file: its bytes, how many of them are safe, and what is pending.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        writeln!(f, "a disk after {} calls", state.calls)?;
        for (name, file) in &state.names {
            let contents = &state.files[*file];
            let (read, safe) = (contents.read.len(), contents.safe.len());
            write!(f, "  {name}: {read} bytes, {safe} safe, pending")?;
            for piece in &contents.pending {
                write!(f, " {}+{}", piece.offset, piece.bytes.len())?;
            }
            writeln!(f)?;
        }
        for change in &state.pending_names {
            match change {
                Change::Create { name, .. } => writeln!(f, "  pending: create {name}")?,
                Change::Rename { from, to, .. } => writeln!(f, "  pending: {from} becomes {to}")?,
                Change::Remove { name, .. } => writeln!(f, "  pending: remove {name}")?,
            }
        }
        Ok(())
    }
}
