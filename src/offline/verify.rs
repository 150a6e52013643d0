//! `marline backup --verify FILE`: whether a backup, or a snapshot, is whole, and what is in it.
//!
//! Every block is held against its checksums and, where there is a key, opened; then every shard is put together as
//! a node would do it, one after the other, so that the memory is that of the largest one.

use std::path::Path;
use std::sync::Arc;

use getopts::Options;

use super::{Line, Seal, Tell, Verdict, kernel_seed, key_text, print, secret, shown};
use crate::data::{loading, opening};
use crate::disk::header::Kind;
use crate::disk::image::read;
use crate::disk::seal::{KeyRing, date};
use crate::disk::{Damage, Disk};
use crate::shard::meta::Meta;
use crate::shard::recovery::Recovery;
use crate::store::HashSeed;

const BRIEF: &str = "\
Usage: marline backup --verify FILE [--seal-keys FILE]

Reads all of a backup and says what is in it. Of a sealed one without its keys: whether the
checksums fit.

Exit codes: 0 whole · 1 damaged, or cannot be read · 2 usage";

/// Runs the tool with the arguments after `marline backup`, `--verify` among them, and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    let mut grammar = Options::new();
    grammar.optflag("", "verify", "read a backup instead of making one");
    match Line::read("backup", BRIEF, grammar, args).and_then(|line| look(&line)) {
        Ok(verdict) => verdict.code(),
        Err(code) => code,
    }
}

fn look(line: &Line) -> Result<Verdict, i32> {
    let path = line.one("the name of one file")?;
    let keys = line.keys()?;
    let (disk, name) = opening::file(&path).map_err(|told| line.fail(&told))?;
    let ring = keys.as_ref().map(|keys| &*keys.ring);
    let verified = verify(Arc::new(disk), &name, ring, kernel_seed(), &mut |_| {});
    Ok(report(verified, &path, &mut |text| print(text)))
}

/// What is in an image that was found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of the file.
    pub bytes: u64,
    /// Id of the key it is sealed with; 0: it is not.
    pub key_id: u32,
    /// What it says of itself; `None` when it is sealed and no ring was given.
    pub meta: Option<Meta>,
}

/// Reads all of an image, and hands out its shards one after the other.
///
/// # Errors
/// The first damage; or it is sealed with a key that is not in the ring that was given.
pub fn verify(
    disk: Arc<dyn Disk>,
    name: &str,
    ring: Option<&KeyRing>,
    seed: HashSeed,
    shard: &mut dyn FnMut(Recovery),
) -> Result<Verified, Damage> {
    // Without keys first: what a checksum finds is an accident, and told as one.
    let outside = read::verify(Arc::clone(&disk), name, None)?;
    let mut verified = Verified {
        bytes: outside.stored_bytes,
        key_id: outside.key_id,
        meta: None,
    };
    match Seal::of(&*disk, name, Kind::Image, ring) {
        Seal::Closed(_) => return Ok(verified),
        Seal::Missing(id) => return Err(Damage::new(name, 12, not_in_ring(id))),
        Seal::Open => {}
    }
    let keys = |id| secret(ring, id);
    let meta = loading::image(disk, name, &keys, seed, &mut |_, _| {}, shard)?;
    verified.meta = Some(meta);
    Ok(verified)
}

pub(super) fn not_in_ring(id: u32) -> String {
    format!("whole on the outside, but not opened: key {id} is not in the ring of keys")
}

/// Tells what was found of the file that people call `path`.
fn report(verified: Result<Verified, Damage>, path: &Path, tell: Tell<'_>) -> Verdict {
    let file = shown(path);
    let verified = match verified {
        Ok(verified) => verified,
        Err(damage) => {
            tell(&Damage { file, ..damage }.to_string());
            return Verdict::Damaged;
        }
    };
    let key = key_text(verified.key_id);
    tell(&format!("{file}: {} bytes, {key}", verified.bytes));
    let Some(meta) = &verified.meta else {
        tell(
            "whole on the outside: all checksums fit; it is sealed and was not opened, say --seal-keys FILE",
        );
        return Verdict::Closed;
    };
    for part in &meta.parts {
        let (index, at) = (part.applied.index, date::text(part.applied.at_ms));
        let (shard, keys) = (part.shard, part.keys);
        tell(&format!("shard {shard}: entry {index}, {keys} keys, {at}"));
    }
    tell(&summary(meta));
    tell("whole");
    Verdict::Whole
}

/// What an image holds, in a few words.
pub(super) fn summary(meta: &Meta) -> String {
    let keys: u64 = meta.parts.iter().map(|part| part.keys).sum();
    let at = date::text(at_ms(meta));
    match (meta.parts.as_slice(), meta.shards) {
        ([one], 2..) => format!(
            "shard {} of {} up to entry {}: {keys} keys, {at}",
            one.shard, meta.shards, one.applied.index
        ),
        (parts, shards) if parts.len() < usize::from(shards) => {
            format!("{} of {shards} shards: {keys} keys, {at}", parts.len())
        }
        (_, shards) => format!("{shards} shards: {keys} keys, {at}"),
    }
}

/// The latest time in an image.
pub(super) fn at_ms(meta: &Meta) -> u64 {
    let stamps = meta.parts.iter().map(|part| part.applied.at_ms);
    stamps.max().unwrap_or(0)
}
