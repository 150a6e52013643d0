//! Images: what is written is read, and nothing else ever is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use marline::disk::image::BLOCK_BYTES_MAX;
use marline::disk::image::read::{ImageReader, Summary, verify};
use marline::disk::image::write::ImageWriter;
use marline::disk::seal::KeyRing;
use marline::disk::{Damage, Disk};

use crate::entropy;
use crate::memory::MemoryDisk;

const NAME: &str = "image";
const META: &[u8] = b"shard 3 at index 17";
const KEY: (u32, [u8; 32]) = (7, [0x5a; 32]);

type Key = Option<(u32, [u8; 32])>;
type Content = (Vec<u8>, Vec<(u32, Vec<u8>)>);

/// Blocks that pack well, that do not, and an empty one.
fn blocks() -> Vec<(u32, Vec<u8>)> {
    let noise = (0..60u32).map(|i| (i * i * 37 % 251) as u8).collect();
    vec![
        (3, b"abcabc".repeat(20)),
        (u32::MAX, noise),
        (0, Vec::new()),
        (3, b"z".to_vec()),
    ]
}

fn write(disk: &Arc<MemoryDisk>, key: Key, blocks: &[(u32, Vec<u8>)]) -> io::Result<u64> {
    let mut writer = ImageWriter::create(disk.clone(), NAME, key, &mut entropy(5), META)?;
    for (tag, raw) in blocks {
        writer.block(*tag, raw)?;
    }
    writer.finish()
}

fn written(key: Key, blocks: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let disk = MemoryDisk::new();
    let bytes = write(&disk, key, blocks).unwrap();
    let content = disk.content(NAME);
    assert_eq!(bytes, content.len() as u64);
    content
}

fn keys(id: u32) -> Option<[u8; 32]> {
    (id == KEY.0).then_some(KEY.1)
}

/// Everything in an image, read to its end.
fn read(bytes: &[u8]) -> Result<Content, Damage> {
    let disk = MemoryDisk::with(NAME, bytes);
    let (mut reader, meta) = ImageReader::open(disk, NAME, &keys)?;
    let (mut blocks, mut raw) = (Vec::new(), Vec::new());
    loop {
        match reader.next(&mut raw) {
            Ok(Some(tag)) => blocks.push((tag, raw.clone())),
            Ok(None) => {
                assert_eq!(reader.next(&mut raw), Ok(None), "an end stays one");
                return Ok((meta, blocks));
            }
            Err(damage) => {
                assert_eq!(reader.next(&mut raw), Err(damage.clone()), "and damage too");
                return Err(damage);
            }
        }
    }
}

fn told(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

/// The image cut behind its header and behind every block.
fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut pieces, mut at) = (vec![bytes[..64].to_vec()], 64);
    while at < bytes.len() {
        let stored = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 12 + i])) as usize;
        pieces.push(bytes[at..at + 28 + stored].to_vec());
        at += 28 + stored;
    }
    pieces
}

#[test]
fn what_is_written_is_read() {
    for key in [None, Some(KEY)] {
        let image = written(key, &blocks());
        assert_eq!(read(&image).unwrap(), (META.to_vec(), blocks()));
        let empty = written(key, &[]);
        assert_eq!(read(&empty).unwrap(), (META.to_vec(), Vec::new()));
    }
    let disk = MemoryDisk::with(NAME, &written(Some(KEY), &[]));
    let (reader, _) = ImageReader::open(disk, NAME, &keys).unwrap();
    assert_eq!(reader.key_id(), KEY.0);
}

#[test]
fn blocks_are_packed_and_what_is_sealed_is_not_readable() {
    let text = b"canary ".repeat(10_000);
    let plain = written(None, &[(0, text.clone()), (0, b"canary".to_vec())]);
    assert!(plain.len() < text.len() / 50, "{} bytes", plain.len());
    let shows = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
    assert!(shows(&plain, b"canary") && shows(&plain, META));
    let sealed = written(Some(KEY), &[(0, text), (0, b"canary".to_vec())]);
    assert!(!shows(&sealed, b"canary") && !shows(&sealed, META));
}

#[test]
fn two_images_sealed_with_one_key_have_nothing_in_common() {
    let disk = MemoryDisk::new();
    let mut random = entropy(6);
    let mut image = |name: &str| {
        let writer = ImageWriter::create(disk.clone(), name, Some(KEY), &mut random, META);
        writer.unwrap().finish().unwrap();
        disk.content(name)
    };
    assert_ne!(image("a")[64 + 28..], image("b")[64 + 28..]);
}

#[test]
fn every_flipped_byte_is_seen() {
    for key in [None, Some(KEY)] {
        let image = written(key, &blocks());
        for at in 0..image.len() {
            for flip in [1, 0x80, 0xff] {
                let mut changed = image.clone();
                changed[at] ^= flip;
                let damage = read(&changed).expect_err(&format!("byte {at} ^ {flip}"));
                assert!(damage.offset <= at as u64 || at < 64, "byte {at}: {damage}");
                let disk = MemoryDisk::with(NAME, &changed);
                let outer = verify(disk, NAME, None);
                // The salt is part of the key: without one, the header's checksum still finds the change.
                assert!(outer.is_err(), "byte {at} ^ {flip}, without a key");
            }
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_seen() {
    for key in [None, Some(KEY)] {
        let image = written(key, &blocks());
        for length in 0..image.len() {
            assert!(told(&image[..length]).contains("ends"), "{length}");
        }
        let longer = [image.as_slice(), b"\0"].concat();
        let damage = read(&longer).unwrap_err();
        assert_eq!(damage.offset, image.len() as u64);
        assert!(told(&longer).contains("behind the end"));
        let twice = [image.as_slice(), &image].concat();
        assert!(told(&twice).contains("behind the end"));
    }
}

#[test]
fn blocks_swapped_doubled_removed_or_foreign_are_seen() {
    for key in [None, Some(KEY)] {
        let whole = pieces(&written(key, &blocks()));
        let mut other = blocks();
        other[1].1[0] ^= 1;
        let foreign = pieces(&written(key, &other));
        assert_eq!(whole.len(), 7);
        for one in 1..whole.len() {
            let mut without = whole.clone();
            without.remove(one);
            read(&without.concat()).expect_err(&format!("without {one}"));
            let mut doubled = whole.clone();
            doubled.insert(one, whole[one].clone());
            read(&doubled.concat()).expect_err(&format!("{one} twice"));
            for other in one + 1..whole.len() {
                let mut swapped = whole.clone();
                swapped.swap(one, other);
                read(&swapped.concat()).expect_err(&format!("{one} and {other}"));
            }
        }
        // Right in itself and with the right number, but of another image.
        let mut mixed = whole.clone();
        mixed[3] = foreign[3].clone();
        read(&mixed.concat()).expect_err("a block of another image");
    }
}

#[test]
fn a_forged_block_does_not_open_although_its_checksum_fits() {
    for (at, part) in [(24, "tag"), (28, "stored bytes")] {
        let mut forged = pieces(&written(Some(KEY), &blocks()));
        forged[2][at] ^= 1;
        let sum = crc32c::crc32c(&forged[2][4..]);
        forged[2][..4].copy_from_slice(&sum.to_le_bytes());
        assert!(told(&forged.concat()).contains("seal"), "{part}");
    }
}

#[test]
fn lengths_that_lie_are_refused_although_the_checksum_fits() {
    let image = pieces(&written(None, &blocks()));
    for (at, value) in [
        (8, u32::MAX),
        (8, 1 << 24 | 1),
        (8, 119),
        (8, 121),
        (12, u32::MAX),
        (4, 9),
    ] {
        let mut forged = image.clone();
        forged[2][at..at + 4].copy_from_slice(&value.to_le_bytes());
        let sum = crc32c::crc32c(&forged[2][4..]);
        forged[2][..4].copy_from_slice(&sum.to_le_bytes());
        let damage = read(&forged.concat()).expect_err(&format!("{at}: {value}"));
        assert_eq!(damage.offset, (image[0].len() + image[1].len()) as u64);
    }
}

#[test]
fn a_wrong_key_and_an_unknown_one_are_told_apart() {
    let disk = MemoryDisk::with(NAME, &written(Some(KEY), &blocks()));
    let open = |keys: &dyn Fn(u32) -> Option<[u8; 32]>| {
        let opened = ImageReader::open(disk.clone(), NAME, keys);
        opened.err().unwrap().to_string()
    };
    assert!(open(&|_| Some([0; 32])).contains("the seal does not open"));
    assert!(open(&|_| None).contains("sealed with key 7, which is not in the ring"));
    assert!(verify(disk.clone(), NAME, Some(&|_| None)).is_err());
    assert!(ImageReader::open(disk, "none", &keys).is_err());
}

#[test]
fn verify_tells_what_there_is_with_and_without_the_key() {
    for key in [None, Some(KEY)] {
        let image = written(key, &blocks());
        let whole = Summary {
            meta: Some(META.to_vec()),
            blocks: 4,
            raw_bytes: 120 + 60 + 1,
            stored_bytes: image.len() as u64,
            key_id: key.map_or(0, |(id, _)| id),
        };
        let disk = MemoryDisk::with(NAME, &image);
        assert_eq!(verify(disk.clone(), NAME, Some(&keys)).as_ref(), Ok(&whole));
        let outer = verify(disk, NAME, None).unwrap();
        assert_eq!(outer.meta.is_some(), key.is_none());
        let meta = whole.meta.clone();
        assert_eq!(Summary { meta, ..outer }, whole);
    }
}

#[test]
fn bytes_that_are_no_image_end_in_damage() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let images = [None, Some(KEY)].map(|key| written(key, &blocks()));
    for _ in 0..3000 {
        let mut bytes = random.choice(&images).unwrap().clone();
        let keep = random.usize(..bytes.len());
        bytes.truncate(keep);
        let mut noise = vec![0; random.usize(..3000)];
        random.fill(&mut noise);
        bytes.extend(noise);
        // Any block may have a checksum that fits: a reader must not rely on nobody being able to make one.
        for piece in [64, 64 + 28 + META.len()] {
            if let Some(block) = bytes.get(piece..).filter(|block| block.len() > 28) {
                let stored = random.usize(..=block.len() - 28) as u32;
                bytes[piece + 12..piece + 16].copy_from_slice(&stored.to_le_bytes());
                let end = piece + 28 + stored as usize;
                let sum = crc32c::crc32c(&bytes[piece + 4..end]);
                bytes[piece..piece + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        assert!(read(&bytes).is_err(), "seed {seed}");
        let _ = verify(MemoryDisk::with(NAME, &bytes), NAME, None);
    }
}

#[test]
fn large_images_are_written_in_large_pieces_and_synced_often() {
    let disk = MemoryDisk::new();
    let mut noise = vec![0; 100_000];
    entropy(7)(&mut noise);
    let many = vec![(1, noise); 150];
    write(&disk, Some(KEY), &many).unwrap();
    let (writes, unsynced_max) = disk.writes();
    let last = writes.len() - 1;
    assert!(
        writes[..last].iter().all(|&bytes| bytes >= 256 * 1024),
        "{writes:?}"
    );
    assert!(unsynced_max < (4 << 20) + (1 << 20), "{unsynced_max}");
    assert_eq!(read(&disk.content(NAME)).unwrap().1, many);
    let most = vec![(9, vec![1; BLOCK_BYTES_MAX])];
    assert_eq!(read(&written(None, &most)).unwrap().1, most);
}

#[test]
fn until_it_is_finished_the_old_image_stands_whatever_happens() {
    let old = written(None, &[]);
    let new = written(Some(KEY), &blocks());
    for fails_after in 0.. {
        let disk = MemoryDisk::with(NAME, &old);
        disk.write("image.tmp", 0, &[b'x'; 5000]).unwrap();
        disk.fail_after(fails_after);
        let done = write(&disk, Some(KEY), &blocks()).is_ok();
        disk.crash();
        assert_eq!(disk.content(NAME) == new, done, "{fails_after}");
        assert_eq!(disk.content(NAME) == old, !done, "{fails_after}");
        if done {
            // Remove, write, sync, rename, sync of the directory.
            assert_eq!((fails_after, disk.changes()), (5, 5));
            assert_eq!(disk.names(), [NAME]);
            return;
        }
    }
}

#[test]
fn an_image_that_is_given_up_leaves_nothing() {
    let disk = MemoryDisk::new();
    let begin = || ImageWriter::create(disk.clone(), NAME, None, &mut entropy(8), META);
    let mut writer = begin().unwrap();
    let mut noise = vec![0; 300_000];
    entropy(8)(&mut noise);
    writer.block(0, &noise).unwrap();
    assert_eq!(disk.names(), ["image.tmp"]);
    writer.abandon();
    assert_eq!(disk.names(), [""; 0]);
    drop(begin());
    assert_eq!(disk.names(), [""; 0]);
}

#[test]
fn a_writer_and_a_reader_may_travel_between_threads() {
    fn travels<T: Send>() {}
    travels::<ImageWriter>();
    travels::<ImageReader>();
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/image-1")
        .join(name)
}

/// An image of format 1 made once: what later versions must go on reading.
#[test]
fn golden_images_are_read() {
    let ring = MemoryDisk::with("keys", &std::fs::read(golden("keys")).unwrap());
    let ring = KeyRing::open(&*ring, "keys").unwrap();
    for (name, key_id) in [("plain.image", 0), ("sealed.image", 2)] {
        let disk = MemoryDisk::with(name, &std::fs::read(golden(name)).unwrap());
        let (mut reader, meta) = ImageReader::open(disk, name, &|id| ring.secret(id)).unwrap();
        assert_eq!((meta.as_slice(), reader.key_id()), (META, key_id));
        let (mut read, mut raw) = (Vec::new(), Vec::new());
        while let Some(tag) = reader.next(&mut raw).unwrap() {
            read.push((tag, raw.clone()));
        }
        assert_eq!(read, blocks());
    }
}

#[test]
#[ignore = "makes the golden images; only for a new version of the format"]
fn golden_images_are_made() {
    let disk = MemoryDisk::new();
    let mut random = entropy(9);
    let mut ring = KeyRing::create(&*disk, "keys", 1_795_464_600_000, &mut random).unwrap();
    ring.rotate(&*disk, "keys", 1_798_859_045_000, &mut random)
        .unwrap();
    for (name, key) in [("plain.image", None), ("sealed.image", Some(ring.active()))] {
        let mut writer = ImageWriter::create(disk.clone(), name, key, &mut random, META).unwrap();
        for (tag, raw) in blocks() {
            writer.block(tag, &raw).unwrap();
        }
        writer.finish().unwrap();
    }
    for name in disk.names() {
        std::fs::write(golden(&name), disk.content(&name)).unwrap();
    }
}
