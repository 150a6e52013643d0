//! `marline restore`: what comes out is what went in, a node starts from it, and nothing half is ever started from.

use std::sync::Arc;

use marline::data::identity;
use marline::disk::seal::KeyRing;
use marline::disk::sim::{Crash, SimDisk};
use marline::disk::{Damage, Disk};
use marline::offline::Verdict;
use marline::offline::restore::{Failure, examine, restore};
use marline::shard::meta::Meta;

use crate::world::{NEW_ENTROPY, SEED, World, check, digests_in, ring, world};

fn examined(world: &World, ring: Option<&KeyRing>) -> Result<Meta, Damage> {
    let source = Arc::clone(&world.backups) as Arc<dyn Disk>;
    examine(source, "monday", ring, SEED)
}

fn restored(
    world: &World,
    meta: &Meta,
    target: &Arc<SimDisk>,
    ring: Option<&KeyRing>,
) -> Result<Vec<String>, Failure> {
    let source = Arc::clone(&world.backups) as Arc<dyn Disk>;
    let target = Arc::clone(target) as Arc<dyn Disk>;
    restore(&source, "monday", meta, &target, ring, NEW_ENTROPY)
}

/// A world whose backup is of its last moment.
fn backed_up(ring: Option<KeyRing>) -> World {
    let mut world = world(ring);
    world.backup("monday");
    world
}

#[test]
fn what_is_restored_is_what_was_backed_up() {
    let keys = ring();
    for (sealed, given) in [(false, false), (false, true), (true, true)] {
        let world = backed_up(sealed.then(|| keys.clone()));
        let given = given.then_some(&keys);
        let meta = examined(&world, given).unwrap();
        let target = Arc::new(SimDisk::new(9));
        restored(&world, &meta, &target, given).unwrap();
        target.crash(Crash::LoseAll);
        let (verdict, lines) = check(&target, None, given, false);
        assert_eq!(verdict, Verdict::Whole, "{lines:#?}");
        assert_eq!(digests_in(&lines), world.digests(), "{lines:#?}");
        let snapshots = lines.iter().filter(|line| line.starts_with("snapshot-"));
        let key = if given.is_some() {
            " key 2 "
        } else {
            " plain "
        };
        assert_eq!(
            snapshots.filter(|line| line.contains(key)).count(),
            3,
            "{lines:#?}"
        );
        let node = identity::read(target.clone()).unwrap().node;
        assert_eq!(
            (node.len(), node.contains('n')),
            (40, false),
            "a node of its own: {node}"
        );

        // A node starts from it, goes on, and starts again.
        let mut again = World::start(Arc::clone(&target), given.cloned());
        assert_eq!(again.digests(), world.digests());
        again.fill(100, 120);
        target.crash(Crash::LoseAll);
        let (verdict, lines) = check(&target, None, given, false);
        assert_eq!(verdict, Verdict::Whole, "{lines:#?}");
        assert_eq!(digests_in(&lines), again.digests());
        let third = World::start(Arc::clone(&target), given.cloned());
        assert_eq!(third.digests(), again.digests());
    }
}

#[test]
fn every_flip_and_every_cut_of_a_backup_is_refused() {
    let keys = ring();
    for given in [None, Some(&keys)] {
        let world = backed_up(given.cloned());
        let whole = world.backups.contents()["monday"].clone();
        for offset in 0..whole.len() {
            world.backups.flip("monday", offset, 1 << (offset % 8));
            let damage = examined(&world, given).unwrap_err();
            assert_eq!(damage.file, "monday", "{damage}");
            assert!(damage.offset <= whole.len() as u64, "{damage}");
            world.backups.flip("monday", offset, 1 << (offset % 8));
        }
        for length in (0..whole.len()).step_by(5) {
            world.backups.install("monday", &whole[..length]);
            let damage = examined(&world, given).unwrap_err();
            assert!(damage.offset <= length as u64, "{damage}");
        }
    }
}

#[test]
fn what_cannot_be_restored_is_refused() {
    let keys = ring();
    let world = backed_up(Some(keys.clone()));
    let damage = examined(&world, None).unwrap_err();
    assert!(damage.reason.contains("--seal-keys"), "{damage}");
    let snapshot = world.disk.contents();
    let (_, bytes) = snapshot
        .iter()
        .find(|(name, _)| name.starts_with("snapshot-0001"))
        .unwrap();
    world.backups.install("monday", bytes);
    let damage = examined(&world, Some(&keys)).unwrap_err();
    assert!(
        damage.reason.contains("no backup: it holds shard 1 of 3"),
        "{damage}"
    );
}

/// A crash at any point leaves the old data, data that every node refuses, or the new data; and the next restore
/// makes it whole.
#[test]
fn a_crash_leaves_nothing_half_to_start_from() {
    let source = backed_up(None);
    let meta = examined(&source, None).unwrap();
    let old = {
        let mut old = World::start(Arc::new(SimDisk::new(4)), None);
        old.fill(500, 520);
        old.save(2);
        old.disk.install("notes.txt", b"mine");
        old.disk.install("wal-0000000000000001.tmp", b"half");
        old
    };
    let (mut olds, mut refused, mut news) = (0, 0, 0);
    for how in [Crash::LoseAll, Crash::KeepAll, Crash::Random(7)] {
        let begin = old.disk.calls();
        for call in begin.. {
            let disk = Arc::new(old.disk.fork());
            disk.crash_at(call);
            let done = restored(&source, &meta, &disk, None);
            disk.crash(how);
            let (verdict, lines) = check(&disk, None, None, false);
            let place = format!("call {call}, {how:?}: {lines:#?}");
            match identity::read(disk.clone()) {
                Err(damage) => {
                    assert!(damage.reason.contains("restore"), "{place}");
                    assert_eq!(verdict, Verdict::Damaged, "{place}");
                    refused += 1;
                }
                Ok(_) => {
                    assert_eq!(verdict, Verdict::Whole, "{place}");
                    let digests = digests_in(&lines);
                    let is_new = digests == source.digests();
                    assert!(is_new || digests == old.digests(), "{place}");
                    (olds, news) = (olds + i32::from(!is_new), news + i32::from(is_new));
                }
            }
            let unknown = restored(&source, &meta, &disk, None).unwrap();
            assert_eq!(unknown, ["notes.txt"]);
            let (verdict, lines) = check(&disk, None, None, false);
            assert_eq!(
                (verdict, digests_in(&lines)),
                (Verdict::Whole, source.digests())
            );
            assert!(!disk.contents().keys().any(|name| name.starts_with("wal-")));
            if done.is_ok() {
                break;
            }
        }
    }
    assert!(
        olds > 0 && refused > 20 && news > 0,
        "{olds} {refused} {news}"
    );
}

#[test]
fn a_full_disk_is_told_and_the_directory_refused() {
    let source = backed_up(None);
    let meta = examined(&source, None).unwrap();
    let disk = Arc::new(SimDisk::new(4));
    disk.limit(1000);
    match restored(&source, &meta, &disk, None) {
        Err(Failure::Directory(error)) => assert!(marline::disk::wal::is_full(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    let damage = identity::read(disk.clone()).unwrap_err();
    assert!(damage.reason.contains("not finished"), "{damage}");
    disk.limit(u64::MAX);
    restored(&source, &meta, &disk, None).unwrap();
    assert_eq!(check(&disk, None, None, false).0, Verdict::Whole);
}
