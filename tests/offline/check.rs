//! `marline check`: whole directories are whole, and every damage is told by file and place.

use std::sync::Arc;

use marline::disk::sim::SimDisk;
use marline::offline::Verdict;

use crate::world::{SHARDS, World, check, digests_in, ring, world};

fn has(lines: &[String], part: &str) -> bool {
    lines.iter().any(|line| line.contains(part))
}

#[test]
fn a_whole_directory_is_whole() {
    for ring in [None, Some(ring())] {
        let world = world(ring.clone());
        world.disk.install("reserve", &[0; 100]);
        world.disk.install("spare-00000000000000ff", &[0; 100]);
        world.disk.install("identity.tmp", b"half");
        world.disk.install("notes.txt", b"mine");
        let before = world.disk.contents();
        let (verdict, lines) = check(&world.disk, Some(&world.backups), ring.as_ref(), false);
        assert_eq!(verdict, Verdict::Whole, "{lines:#?}");
        assert_eq!(digests_in(&lines), world.digests(), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "whole");
        for part in [
            "3 shards, node nnn",
            "backups/monday",
            "3 shards: 30 keys, 2026-11-23T20:10:00Z",
        ] {
            assert!(has(&lines, part), "{part}: {lines:#?}");
        }
        for (name, what) in [
            ("notes.txt", "unknown"),
            ("identity.tmp", "left by"),
            ("reserve", "the disk is full"),
            ("spare-", "space for the log"),
            ("wal-0000000000000001", "records 2.."),
            ("snapshot-0001-", "shard 1 of 3 up to entry"),
        ] {
            let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains(what), "{line}");
        }
        for name in before.keys() {
            assert!(has(&lines, name), "{name}: {lines:#?}");
        }
        assert!(world.disk.contents() == before, "nothing is changed");
    }
}

#[test]
fn every_change_is_told_to_who_wants_it() {
    let ring = ring();
    let world = world(Some(ring.clone()));
    let (_, lines) = check(&world.disk, None, Some(&ring), true);
    for number in 0..40 {
        let change = format!("SET \"key:{number}\" \"value {number}\"");
        let plain = format!("SET key:{number} \"value {number}\"");
        let told = lines
            .iter()
            .filter(|line| line.contains(&change) || line.contains(&plain));
        assert_eq!(told.count(), 1, "{number}: {lines:#?}");
    }
    assert!(
        has(&lines, "shard 1 entry 2 2026-11-23T20:10:00Z SET"),
        "{lines:#?}"
    );
}

#[test]
fn without_keys_only_the_outside_is_whole() {
    let sealed = ring();
    let world = world(Some(sealed.clone()));
    let (verdict, lines) = check(&world.disk, Some(&world.backups), None, false);
    assert_eq!(verdict, Verdict::Closed, "{lines:#?}");
    assert!(lines.last().unwrap().contains("--seal-keys"), "{lines:#?}");
    assert!(digests_in(&lines).is_empty(), "{lines:#?}");

    let mut random = crate::world::entropy();
    let other = marline::disk::seal::KeyRing::create(&SimDisk::new(5), "keys", 0, &mut random);
    let (verdict, lines) = check(
        &world.disk,
        Some(&world.backups),
        Some(&other.unwrap()),
        false,
    );
    assert_eq!(verdict, Verdict::Damaged, "{lines:#?}");
    assert!(has(&lines, "key 2 is not in the ring"), "{lines:#?}");
    assert!(has(&lines, "whole on the outside"), "{lines:#?}");
}

/// Flips bytes of a file, one at a time; how many were found, each as damage of this file.
fn flips(
    world: &World,
    name: &str,
    is_backup: bool,
    with_ring: Option<&marline::disk::seal::KeyRing>,
) -> usize {
    let disk = if is_backup {
        &world.backups
    } else {
        &world.disk
    };
    let shown = if is_backup {
        format!("backups/{name}")
    } else {
        name.to_owned()
    };
    let length = disk.contents()[name].len();
    let mut found = 0;
    for offset in (0..length).step_by(if length > 500 { 7 } else { 1 }) {
        disk.flip(name, offset, 1 << (offset % 8));
        let (verdict, lines) = check(&world.disk, Some(&world.backups), with_ring, false);
        let damage = format!("{shown} at byte ");
        let is_told = lines.iter().any(|line| line.starts_with(&damage));
        assert_eq!(
            is_told,
            verdict == Verdict::Damaged,
            "{name}, byte {offset}: {lines:#?}"
        );
        let others = [
            "identity",
            "snapshot-0000",
            "wal-0000000000000002",
            "backups/monday",
        ];
        for other in others {
            assert!(
                lines.iter().any(|line| line.starts_with(other)),
                "{other}: {lines:#?}"
            );
        }
        found += usize::from(is_told);
        disk.flip(name, offset, 1 << (offset % 8));
    }
    println!("{shown}: {found} of {length} flips are damage");
    found * if length > 500 { 7 } else { 1 }
}

#[test]
fn every_flipped_byte_of_an_image_is_found() {
    for (sealed, with_keys) in [(false, false), (true, true), (true, false)] {
        let ring = sealed.then(ring);
        let world = world(ring.clone());
        let given = ring.as_ref().filter(|_| with_keys);
        let names = world.disk.contents().into_keys();
        let images = names.filter(|name| name.starts_with("snapshot-0001") || name == "identity");
        for name in images {
            let length = world.disk.contents()[&name].len();
            assert!(flips(&world, &name, false, given) >= length, "{name}");
        }
        let length = world.backups.contents()["monday"].len();
        assert!(flips(&world, "monday", true, given) >= length);
    }
}

#[test]
fn flipped_bytes_of_segments_are_found_with_and_without_keys() {
    for (sealed, with_keys) in [(false, false), (true, true), (true, false)] {
        let ring = sealed.then(ring);
        let world = world(ring.clone());
        let given = ring.as_ref().filter(|_| with_keys);
        let names = world.disk.contents().into_keys();
        let segments: Vec<String> = names.filter(|name| name.starts_with("wal-")).collect();
        assert!(segments.len() > 3);
        // All but dead bytes and padding, of a segment that another follows.
        assert!(flips(&world, &segments[1], false, given) > 700);
        // Of the newest one, all but the last record and what is behind it.
        assert!(flips(&world, segments.last().unwrap(), false, given) > 60);
    }
}

#[test]
fn what_is_missing_is_told() {
    let world = world(None);
    let names: Vec<String> = world.disk.contents().into_keys().collect();
    let segment = names.iter().find(|name| name.ends_with("0002")).unwrap();
    let disk = Arc::new(world.disk.fork());
    marline::disk::Disk::remove(&*disk, segment).unwrap();
    let (verdict, lines) = check(&disk, None, None, false);
    assert_eq!(verdict, Verdict::Damaged);
    assert!(
        has(&lines, &format!("{segment} at byte 0: missing")),
        "{lines:#?}"
    );

    // The log begins behind a snapshot that is gone: each file is whole, and no node can start.
    let disk = Arc::new(world.disk.fork());
    for name in names.iter().filter(|name| name.starts_with("wal-")).take(2) {
        marline::disk::Disk::remove(&*disk, name).unwrap();
    }
    let (verdict, lines) = check(&disk, None, None, false);
    assert_eq!(verdict, Verdict::Damaged);
    assert!(has(&lines, "shard 2: entry 1 is missing"), "{lines:#?}");

    let (verdict, lines) = check(&Arc::new(SimDisk::new(1)), None, None, false);
    assert_eq!(verdict, Verdict::Damaged);
    assert!(has(&lines, "identity at byte 0: missing"), "{lines:#?}");
    assert_eq!(SHARDS, 3);
}
