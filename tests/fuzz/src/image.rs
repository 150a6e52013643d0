//! Images: any bytes are read to an end or to damage, and what is read to its end is what a writer would have written.
//! The same for what nodes put into images: shards, and whose directory it is.
#![no_main]

use std::io;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use marline::data::{identity, loading};
use marline::disk::image::BLOCK_BYTES_MAX;
use marline::disk::image::read::{ImageReader, verify};
use marline::disk::{Disk, FileInfo};
use marline::shard::meta::Meta;
use marline::store::HashSeed;

/// A disk with one file, which cannot be changed.
struct OneFile(Vec<u8>);

impl Disk for OneFile {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        Ok(Vec::new())
    }

    fn read(&self, _: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.0[self.0.len().min(offset as usize)..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The bytes with checksums that fit, so that what lies behind them is reached too.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let sum_at = |bytes: &mut [u8], at: usize, from: usize, to: usize| {
        let sum = crc32c::crc32c(&bytes[from..to]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    };
    if bytes.len() >= 64 {
        sum_at(&mut bytes, 60, 0, 60);
    }
    let mut at = 64;
    while at + 28 <= bytes.len() {
        let stored = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 12 + i])) as usize;
        let end = at + 28 + stored;
        if end > bytes.len() {
            break;
        }
        sum_at(&mut bytes, at, at + 4, end);
        at = end;
    }
    bytes
}

/// Loads the shards in an image, and reads it as an identity.
fn load(disk: Arc<dyn Disk>) {
    let (mut shards, mut read) = (Vec::new(), 0);
    let keys = |_| Some([7; 32]);
    let loaded = loading::image(
        disk.clone(),
        "image",
        &keys,
        HashSeed(1, 2),
        &mut |_, keys| read += keys,
        &mut |shard| shards.push(shard),
    );
    if let Ok(meta) = loaded {
        assert_eq!(shards.len(), meta.parts.len());
        let keys: u64 = meta.parts.iter().map(|part| part.keys).sum();
        assert_eq!(read, keys);
    }
    // A shard that cannot go on is told so before it is finished.
    for shard in shards {
        if shard.check().is_ok() {
            let is_alone = shard.replica() == marline::shard::ALONE;
            assert!(shard.finish().last_index() > 0 || !is_alone);
        }
    }
    let _ = identity::read(disk);
}

fuzz_target!(|data: &[u8]| {
    if let Ok(meta) = Meta::decode(data) {
        assert_eq!(meta.encode(), data, "it has two encodings");
    }
    let keys = |_| Some([7; 32]);
    for bytes in [data.to_vec(), mended(data)] {
        let length = bytes.len() as u64;
        let disk: Arc<dyn Disk> = Arc::new(OneFile(bytes));
        let whole = verify(disk.clone(), "image", Some(&keys));
        load(disk.clone());
        let outside = verify(disk.clone(), "image", None);
        assert!(whole.is_err() || outside.is_ok(), "whole, but not outside");
        let Ok((mut reader, _)) = ImageReader::open(disk, "image", &keys) else {
            assert!(whole.is_err());
            continue;
        };
        let (mut blocks, mut raw) = (0, Vec::new());
        let ended = loop {
            match reader.next(&mut raw) {
                Ok(Some(_)) => blocks += 1,
                Ok(None) => break true,
                Err(damage) => {
                    assert!(damage.offset <= length, "{damage}");
                    break false;
                }
            }
            assert!(raw.len() <= BLOCK_BYTES_MAX);
        };
        assert_eq!(whole.is_ok(), ended);
        assert!(whole.is_err() || whole.is_ok_and(|summary| summary.blocks == blocks));
    }
});
