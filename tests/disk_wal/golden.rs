//! Logs that version 1 of the format left in the repository: every later reader reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marline::disk::Disk;
use marline::disk::real::RealDisk;
use marline::disk::wal::writer::Wal;

use super::{entropy, key, read};

fn directory(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/wal-1")
        .join(kind)
}

/// What is appended: with `sealed`, under key 1 at first and then under key 2.
fn payloads() -> Vec<Vec<u8>> {
    (0..12)
        .map(|number| format!("entry {number} ").repeat(number).into_bytes())
        .collect()
}

fn write(path: &Path, keys: [u32; 2]) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(path).unwrap());
    let (found, end) = read(&*disk).unwrap();
    assert!(found.is_empty());
    let mut wal = Wal::begin(Arc::clone(&disk), key(keys[0]), entropy(1), &end, 512).unwrap();
    for (number, payload) in payloads().iter().enumerate() {
        if number == 7 {
            wal.set_key(key(keys[1])).unwrap();
        }
        wal.append(payload, number % 2 == 0).unwrap();
    }
    wal.sync().unwrap();
}

#[test]
#[ignore = "writes tests/golden/wal-1; only for a format that nobody has yet"]
fn write_the_golden_logs() {
    for (kind, keys) in [("plain", [0, 0]), ("sealed", [1, 2])] {
        let _ = fs::remove_dir_all(directory(kind));
        write(&directory(kind), keys);
    }
}

#[test]
fn the_golden_logs_are_read_and_written_byte_for_byte() {
    for (kind, keys) in [("plain", [0, 0]), ("sealed", [1, 2])] {
        assert!(directory(kind).is_dir());
        let golden = RealDisk::open(&directory(kind)).unwrap();
        let (found, end) = read(&golden).unwrap();
        assert_eq!((found, end.torn), (payloads(), None), "{kind}");
        assert!(end.segments.len() >= 3);
        let ids = [&end.segments[0], end.segments.last().unwrap()].map(|info| info.key_id);
        assert_eq!(ids, keys);

        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{kind}"));
        let _ = fs::remove_dir_all(&scratch);
        write(&scratch, keys);
        for info in golden.list().unwrap() {
            let [old, new] = [directory(kind), scratch.clone()]
                .map(|directory| fs::read(directory.join(&info.name)).unwrap());
            assert!(old == new, "{kind}/{}: the format has changed", info.name);
        }
        fs::remove_dir_all(&scratch).unwrap();
    }
}
