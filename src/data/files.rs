//! Where a node keeps its data: the directory, and the ring of keys when it is sealed.
//!
//! ```text
//!   identity                     which node, how many shards: must fit before anything is read
//!   wal-<number>                 the log; spare-<number> are segments to come
//!   snapshot-<shard>-<index>     one for each shard; what is older than the newest is removed
//!   reserve                      space that is given up when the disk is full, so that saving can free more
//!   backups/<name>               what BACKUP made
//! ```
//!
//! Numbers are hexadecimal.

use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::seal::{Entropy, KEY_BYTES, KeyRing};

/// Name of the file that says whose directory it is.
pub const IDENTITY: &str = "identity";
/// Name of the file that is given up when the disk is full.
pub const RESERVE: &str = "reserve";
/// Its bytes.
pub const RESERVE_BYTES: u64 = 32 << 20;
/// Directory of the backups, in the data directory.
pub const BACKUPS: &str = "backups";

const SNAPSHOT: &str = "snapshot-";

/// Makes a source of random bytes; each file that is begun needs one.
pub type NewEntropy = fn() -> Entropy;

/// The files of a node, as jobs on other threads share them.
#[derive(Clone)]
pub struct Files {
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// Where backups go.
    pub backups: Arc<dyn Disk>,
    /// What new files are sealed with; `None`: they are not.
    pub keys: Option<Keys>,
    /// Random bytes.
    pub entropy: NewEntropy,
}

/// A ring of keys and the file it is in.
#[derive(Clone)]
pub struct Keys {
    /// The directory of its file.
    pub disk: Arc<dyn Disk>,
    /// The file's name.
    pub name: String,
    /// The keys.
    pub ring: Arc<KeyRing>,
}

impl Files {
    /// Id and secret of the key for new files.
    pub fn active_key(&self) -> Option<(u32, [u8; KEY_BYTES])> {
        self.keys.as_ref().map(|keys| keys.ring.active())
    }

    /// The secret of a key.
    pub fn secret(&self, id: u32) -> Option<[u8; KEY_BYTES]> {
        self.keys.as_ref()?.ring.secret(id)
    }
}

/// Name of a shard's snapshot at an index.
pub fn snapshot_name(shard: u16, index: u64) -> String {
    format!("{SNAPSHOT}{shard:04x}-{index:016x}")
}

/// Shard and index of a snapshot, by its name.
pub fn parse_snapshot_name(name: &str) -> Option<(u16, u64)> {
    let (shard, index) = name.strip_prefix(SNAPSHOT)?.split_once('-')?;
    let is_hex = |text: &str| text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if shard.len() != 4 || index.len() != 16 || !is_hex(shard) || !is_hex(index) {
        return None;
    }
    Some((
        u16::from_str_radix(shard, 16).ok()?,
        u64::from_str_radix(index, 16).ok()?,
    ))
}
