//! Whose directory it is: the file that must fit before anything else in it is read.
//!
//! An image without blocks; all of it is what it says of itself, a text, so that `strings` shows it:
//!
//! ```text
//!   shards 16                                            into how many shards the data are cut
//!   node 3f9c…                                           the node that wrote them
//!   seed 00c0ffee00c0ffee 00c0ffee00c0ffee               what its stores hash with
//!   restored                                             every shard has a snapshot, from a backup
//! ```
//!
//! or, from the first change that a restore makes until its last:
//!
//! ```text
//!   restoring
//! ```
//!
//! The seed stays the same as long as the directory, because a snapshot whose entries stand in the order of their
//! hashes is loaded three times as fast; it is a secret from clients only.
//!
//! Invariant: it is there whenever other data are, so that data without it are data that something happened to. It
//! is never sealed: there is nothing secret in it, and it must be readable to tell what is missing.

use std::io;
use std::sync::Arc;

use crate::disk::image::read::ImageReader;
use crate::disk::image::write::ImageWriter;
use crate::disk::seal::Entropy;
use crate::disk::{Damage, Disk, FileInfo};

use super::files::{self, IDENTITY};
use crate::failpoint::{self, Point};
use crate::store::HashSeed;

const RESTORING: &str = "restoring\n";
const RESTORED: &str = "restored\n";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Into how many shards the data are cut.
    pub shards: u16,
    /// The node that wrote them.
    pub node: String,
    /// What its stores hash with.
    pub seed: HashSeed,
    /// It was made from a backup: each shard has a snapshot, without which the shard is not whole.
    pub is_restored: bool,
}

impl Identity {
    /// A shard that must have a snapshot among these files and has none.
    pub fn missing_snapshot(&self, listed: &[FileInfo]) -> Option<u16> {
        let has = |shard: u16| {
            let of = |file: &FileInfo| files::parse_snapshot_name(&file.name);
            listed
                .iter()
                .any(|file| of(file).is_some_and(|(of, _)| of == shard))
        };
        (0..self.shards).find(|&shard| self.is_restored && !has(shard))
    }
}

/// What is to be said about a [missing snapshot](Identity::missing_snapshot).
pub fn missing(shard: u16) -> Damage {
    let reason = format!("was restored with a snapshot of shard {shard}, which is not there");
    Damage::new(IDENTITY, 0, reason)
}

/// Writes the identity, in place of one that is there; on return it is durable.
///
/// # Errors
/// The disk's.
pub fn write(disk: Arc<dyn Disk>, entropy: &mut Entropy, identity: &Identity) -> io::Result<()> {
    let Identity { shards, node, .. } = identity;
    let HashSeed(first, second) = identity.seed;
    let mut text = format!("shards {shards}\nnode {node}\nseed {first:016x} {second:016x}\n");
    if identity.is_restored {
        text.push_str(RESTORED);
    }
    write_text(disk, entropy, &text)
}

/// Says, in place of the identity, that what is in the directory is neither the old nor the new; on return that is
/// durable.
///
/// # Errors
/// The disk's.
pub fn write_restoring(disk: Arc<dyn Disk>, entropy: &mut Entropy) -> io::Result<()> {
    write_text(disk, entropy, RESTORING)
}

fn write_text(disk: Arc<dyn Disk>, entropy: &mut Entropy, text: &str) -> io::Result<()> {
    failpoint::reach(Point::IdentityBegun);
    let writer = ImageWriter::create(disk, IDENTITY, None, entropy, text.as_bytes())?;
    writer.finish().map(drop)
}

/// Reads the identity.
///
/// # Errors
/// It is not there, is damaged, or a restore of the directory was begun and not finished.
pub fn read(disk: Arc<dyn Disk>) -> Result<Identity, Damage> {
    let wrong = |reason: &str| Damage::new(IDENTITY, 0, reason);
    let (mut reader, meta) = ImageReader::open(disk, IDENTITY, &|_| None)?;
    reader.next(&mut Vec::new())?;
    let text = String::from_utf8_lossy(&meta);
    if text == RESTORING {
        return Err(wrong(
            "a restore was begun here and not finished; say marline restore again, with --force",
        ));
    }
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let shards = field("shards")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| wrong("does not say how many shards there are"))?;
    let node = field("node").unwrap_or_default().to_owned();
    let seed = field("seed")
        .and_then(parse_seed)
        .ok_or_else(|| wrong("does not say what the stores hash with"))?;
    Ok(Identity {
        shards,
        node,
        seed,
        is_restored: text.ends_with(RESTORED),
    })
}

fn parse_seed(text: &str) -> Option<HashSeed> {
    let (first, second) = text.split_once(' ')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(HashSeed(number(first)?, number(second)?))
}
