//! The ring of keys: what is written is read, what was changed is told, a crash leaves one of the two.

use std::io::ErrorKind;
use std::sync::Arc;

use marline::disk::Disk;
use marline::disk::seal::{KeyRing, require_private};

use crate::entropy;
use crate::memory::MemoryDisk;

const NAME: &str = "keys";
/// 2026-11-23T20:10:00Z
const AT_MS: u64 = 1_795_464_600_000;

fn two_keys() -> (Arc<MemoryDisk>, KeyRing) {
    let disk = MemoryDisk::new();
    let mut random = entropy(1);
    let mut ring = KeyRing::create(&*disk, NAME, AT_MS + 7, &mut random).unwrap();
    let id = ring.rotate(&*disk, NAME, AT_MS + 60_000, &mut random);
    assert_eq!(id.unwrap(), 2);
    (disk, ring)
}

fn text(disk: &MemoryDisk) -> String {
    String::from_utf8(disk.content(NAME)).unwrap()
}

fn same(one: &KeyRing, other: &KeyRing) -> bool {
    one.ids().eq(other.ids()) && one.ids().all(|(id, _)| one.secret(id) == other.secret(id))
}

#[test]
fn what_is_written_is_read() {
    let (disk, ring) = two_keys();
    let read = KeyRing::open(&*disk, NAME).unwrap();
    assert!(same(&ring, &read));
    let ids: Vec<_> = read.ids().collect();
    assert_eq!(ids, [(1, AT_MS), (2, AT_MS + 60_000)]);
    let (id, secret) = read.active();
    assert_eq!((id, Some(secret)), (2, read.secret(2)));
    assert_ne!(read.secret(1), read.secret(2));
    assert_eq!((read.secret(0), read.secret(3)), (None, None));
    assert_eq!(disk.names(), [NAME]);

    let text = text(&disk);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("# Marline keys"), "{text}");
    assert!(lines[1].starts_with("1 2026-11-23T20:10:00Z "), "{text}");
    assert!(lines[2].starts_with("2 2026-11-23T20:11:00Z "), "{text}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_ring_is_never_made_over_another() {
    let (disk, _) = two_keys();
    let before = text(&disk);
    let refused = KeyRing::create(&*disk, NAME, AT_MS, &mut entropy(2));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(text(&disk), before);
}

#[test]
fn no_text_shows_a_key() {
    let (disk, ring) = two_keys();
    assert_eq!(format!("{ring:?}"), "KeyRing { ids: [1, 2] }");
    let whole = text(&disk);
    let key = whole.lines().nth(2).unwrap().split(' ').nth(2).unwrap();
    let changed = whole.replace(key, &format!("{}g", &key[..63]));
    let damage = KeyRing::open(&*MemoryDisk::with(NAME, changed.as_bytes()), NAME).unwrap_err();
    let told = format!("{damage} {damage:?}");
    for at in 0..key.len() - 8 {
        assert!(!told.contains(&key[at..at + 8]), "{told}");
    }
}

#[test]
fn every_flip_and_every_cut_is_seen() {
    let (disk, ring) = two_keys();
    let whole = disk.content(NAME);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let read = KeyRing::open(&*MemoryDisk::with(NAME, &changed), NAME);
            assert!(read.is_err(), "byte {at}, bit {bit}");
        }
        let cut = MemoryDisk::with(NAME, &whole[..at]);
        match KeyRing::open(&*cut, NAME) {
            Err(_) => {}
            // A ring is whole after any of its keys: nothing in it tells how many there are.
            Ok(read) => assert!(whole[at - 1] == b'\n' && !same(&read, &ring), "cut at {at}"),
        }
    }
}

#[test]
fn damage_says_what_is_wrong_and_where() {
    let (disk, _) = two_keys();
    let whole = text(&disk);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let words: Vec<&str> = lines[2].trim_end().split(' ').collect();
    let sealed_line = |id: &str, time: &str, key: &str| {
        let line = format!("{id} {time} {key}");
        format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))
    };
    let with = |line: String| format!("{}{}{line}", lines[0], lines[1]);
    let key = words[2];
    let flipped = key.replacen(&key[9..10], if &key[9..10] == "0" { "1" } else { "0" }, 1);
    for (content, reason) in [
        (String::new(), "not a ring"),
        ("hello\n".to_owned(), "not a ring"),
        (lines[0].to_owned(), "no key"),
        (with("\n".to_owned()), "line 3: not four words"),
        (
            with(lines[2].trim_end().to_owned()),
            "line 3: the file ends",
        ),
        (
            with(sealed_line("x", words[1], key)),
            "line 3: the id is no",
        ),
        (with(sealed_line("2", "yesterday", key)), "line 3: the time"),
        (with(sealed_line("2", words[1], &key[1..])), "not 64 digits"),
        (
            with(sealed_line("2", words[1], &format!("{}Z", &key[1..]))),
            "a digit",
        ),
        (with(lines[2].replace(key, &flipped)), "the checksum"),
        (with(lines[1].to_owned()), "line 3: the id is that of"),
        (with(sealed_line("0", words[1], key)), "line 3: ids begin"),
        (with(sealed_line("+2", words[1], key)), "not as it was"),
        (
            format!("{}{}{}", lines[0], lines[2], lines[1]),
            "line 3: ids",
        ),
    ] {
        let damage = KeyRing::open(&*MemoryDisk::with(NAME, content.as_bytes()), NAME);
        let told = damage.unwrap_err().to_string();
        assert!(told.contains(reason), "{told}, not: {reason}");
    }
    let far = "\u{e9}".repeat(600_000);
    assert!(KeyRing::open(&*MemoryDisk::with(NAME, far.as_bytes()), NAME).is_err());
    assert!(KeyRing::open(&*MemoryDisk::with(NAME, b"\xff"), NAME).is_err());
    assert!(KeyRing::open(&*MemoryDisk::new(), NAME).is_err());
}

#[test]
fn a_crash_while_rotating_leaves_the_old_ring_or_the_new() {
    let mut seen = Vec::new();
    for fails_after in 0.. {
        let (disk, mut ring) = two_keys();
        // An earlier crash left a longer temporary file.
        disk.write("keys.tmp", 0, &[b'x'; 5000]).unwrap();
        let old = ring.clone();
        disk.fail_after(fails_after);
        let rotated = ring.rotate(&*disk, NAME, AT_MS, &mut entropy(3));
        let done = rotated.is_ok();
        assert_eq!(ring.ids().count(), if done { 3 } else { 2 });
        disk.crash();
        let read = KeyRing::open(&*disk, NAME).unwrap();
        assert!(
            same(&read, if done { &ring } else { &old }),
            "{fails_after}"
        );
        assert_eq!(rotated.ok(), done.then_some(3));
        seen.push(done);
        if done {
            break;
        }
    }
    // Remove, write, sync, rename, sync of the directory.
    assert_eq!(seen, [false, false, false, false, false, true]);
}

#[cfg(unix)]
#[test]
fn a_file_of_keys_must_be_private() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    let path = std::env::temp_dir().join(format!("marline-ring-test-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    for (mode, is_private) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o610, false),
    ] {
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let told = require_private(&path);
        assert_eq!(told.is_ok(), is_private, "{mode:o}");
        if let Err(told) = told {
            assert!(
                told.contains(&format!("chmod 600 {}", path.display())),
                "{told}"
            );
            assert!(told.contains(&format!("{mode:04o}")), "{told}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(require_private(&path).is_err());
}
