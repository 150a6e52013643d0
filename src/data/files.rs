//! Where a node keeps its data: the directory, and the ring of keys when it is sealed.
//!
//! ```text
//!   identity                     which node, how many shards: must fit before anything is read
//!   wal-<number>                 the log; spare-<number> are segments to come
//!   snapshot-<shard>-<index>     one for each shard; what is older than the newest is removed
//!   map                          the map of the cluster, if the node is in one
//!   reserve                      space that is given up when the disk is full, so that saving can free more
//!   backups/<name>               what BACKUP made
//! ```
//!
//! Numbers are hexadecimal.

use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::publish::is_temporary;
use crate::disk::seal::{Entropy, KEY_BYTES, KeyRing};

/// Name of the file that says whose directory it is.
pub const IDENTITY: &str = "identity";
/// Name of the file with the map of the cluster.
pub const MAP: &str = "map";
/// Name of the file that is given up when the disk is full.
pub const RESERVE: &str = "reserve";
/// Its bytes, unless somebody wants otherwise.
pub const RESERVE_BYTES: u64 = 32 << 20;
/// Directory of the backups, in the data directory.
pub const BACKUPS: &str = "backups";

const SNAPSHOT: &str = "snapshot-";
const SEGMENT: &str = "wal-";
const SPARE: &str = "spare-";

/// What a file of the directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whose directory it is.
    Identity,
    /// The map of the cluster.
    Map,
    /// A segment of the log.
    Segment,
    /// A segment to come.
    Spare,
    /// A snapshot of a shard at an index.
    Snapshot(u16, u64),
    /// Space to be given up.
    Reserve,
    /// What somebody left who did not finish; nobody reads it.
    Leftover,
    /// Not ours.
    Unknown,
}

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
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// Length of the reserve.
    pub reserve_bytes: u64,
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

/// What the file of this name is.
pub fn kind(name: &str) -> Kind {
    let is_number = |digits: &str| digits.len() == 16 && is_hex(digits);
    if name == IDENTITY {
        return Kind::Identity;
    }
    if name == MAP {
        return Kind::Map;
    }
    if name == RESERVE {
        return Kind::Reserve;
    }
    if let Some((shard, index)) = parse_snapshot_name(name) {
        return Kind::Snapshot(shard, index);
    }
    if name.strip_prefix(SEGMENT).is_some_and(is_number) {
        return Kind::Segment;
    }
    if name.strip_prefix(SPARE).is_some_and(is_number) {
        return Kind::Spare;
    }
    let whole = name.rsplit_once('.').map_or("", |(whole, _)| whole);
    match is_temporary(name) && kind(whole) != Kind::Unknown {
        true => Kind::Leftover,
        false => Kind::Unknown,
    }
}

fn is_hex(digits: &str) -> bool {
    digits
        .bytes()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Name of a shard's snapshot at an index.
pub fn snapshot_name(shard: u16, index: u64) -> String {
    format!("{SNAPSHOT}{shard:04x}-{index:016x}")
}

/// Shard and index of a snapshot, by its name.
pub fn parse_snapshot_name(name: &str) -> Option<(u16, u64)> {
    let (shard, index) = name.strip_prefix(SNAPSHOT)?.split_once('-')?;
    if shard.len() != 4 || index.len() != 16 || !is_hex(shard) || !is_hex(index) {
        return None;
    }
    Some((
        u16::from_str_radix(shard, 16).ok()?,
        u64::from_str_radix(index, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_file_is() {
        let snapshot = snapshot_name(10, 0xabc);
        assert_eq!(snapshot, "snapshot-000a-0000000000000abc");
        for (name, is) in [
            ("identity", Kind::Identity),
            ("map", Kind::Map),
            ("reserve", Kind::Reserve),
            (snapshot.as_str(), Kind::Snapshot(10, 0xabc)),
            ("wal-00000000000000ff", Kind::Segment),
            ("spare-0000000000000001", Kind::Spare),
            ("identity.tmp", Kind::Leftover),
            ("snapshot-000a-0000000000000abc.tmp", Kind::Leftover),
            ("wal-00000000000000FF", Kind::Unknown),
            ("wal-notes.txt", Kind::Unknown),
            ("snapshot-000a-0000000000000abc.bak", Kind::Unknown),
            ("snapshot-000a-+000000000000abc", Kind::Unknown),
            ("notes.tmp", Kind::Unknown),
            (".tmp", Kind::Unknown),
        ] {
            assert_eq!(kind(name), is, "{name}");
        }
    }
}
