//! What survives: a flat directory of files, and the formats of what stands in them.
//!
//! ```text
//!   wal     the log: one for all shards, records appended and synced in batches by the disk thread
//!   image   a snapshot of one shard, or a backup of all: compressed blocks, published whole or not at all
//!   seal    AES-256-GCM over both, with a ring of keys
//!   header  the first 64 bytes of every file: kind, version, key, salt
//!   publish a whole file takes its name: written beside it, then moved there
//!   ───────────────────────────────────────────────────────────────────────────────────────────
//!   Disk    six verbs; `real` has the operating system behind them, `sim` a disk that fails on purpose
//! ```
//!
//! Payloads are bytes here: this room knows nothing of keys, entries or terms.
//!
//! What is promised of a [`Disk`], and no more than that (the pessimistic reading of POSIX and of what ext4,
//! XFS and Btrfs do; "All File Systems Are Not Created Equal", OSDI 2014, and "Can Applications Recover from
//! fsync Failures?", USENIX ATC 2020):
//!
//! - Bytes written are on the disk only after [`Disk::sync`] of their file returned `Ok`; before that, any
//!   subset of them may be lost or torn, in any order.
//! - A new name, a rename or a removal is on the disk only after a sync of [`DIRECTORY`]; syncing the file
//!   does not do it.
//! - A failed sync means that what it should have written may be lost for good although later syncs succeed:
//!   whoever sees one must stop.

pub mod header;
pub mod image;
pub mod publish;
pub mod real;
pub mod seal;
pub mod sim;
pub mod wal;

use std::fmt;
use std::io;

/// The name of the directory itself, for [`Disk::sync`].
pub const DIRECTORY: &str = "";

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name, without any directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// One directory on a disk. Shared by threads; every verb blocks.
pub trait Disk: Send + Sync + 'static {
    /// The regular files, by name.
    fn list(&self) -> io::Result<Vec<FileInfo>>;

    /// Fills `into` with what stands at `offset`; how much of it there was: less only at the end of the file.
    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. Makes the file if there is none, and fills a gap with zeros.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written to a file, or, for [`DIRECTORY`], which names there are.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name; a file that had that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes zeros over the first `bytes` of a file and syncs it, so that their blocks are really there.
///
/// # Errors
/// The disk's; a part of it may be there then.
pub fn fill_with_zeros(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<()> {
    for at in (0..bytes).step_by(ZEROS.len()) {
        let piece = (bytes - at).min(ZEROS.len() as u64) as usize;
        disk.write(name, at, &ZEROS[..piece])?;
    }
    disk.sync(name)
}

/// A file that does not hold what was once written into it, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl Damage {
    /// What is wrong at a place in a file.
    pub fn new(file: &str, offset: u64, reason: impl Into<String>) -> Damage {
        Damage {
            file: file.to_owned(),
            offset,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.reason)
    }
}

impl std::error::Error for Damage {}
