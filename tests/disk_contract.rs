//! What every disk does, asked of the real one and of the simulated one; then what only one of them does: locks and
//! modes, crashes and faults.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use marline::disk::real::RealDisk;
use marline::disk::sim::rot::Rot;
use marline::disk::sim::{Crash, Fault, SimDisk};
use marline::disk::{DIRECTORY, Disk};

/// A place for a directory, with nothing there.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{name}"));
    let _ = fs::remove_dir_all(&path);
    path
}

fn content(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let mut bytes = vec![0xEE; 1000];
    let length = disk.read(name, 0, &mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

fn names(disk: &dyn Disk) -> Vec<String> {
    let files = disk.list().unwrap();
    files.into_iter().map(|file| file.name).collect()
}

/// What a [`Disk`] does when nothing fails.
fn contract(disk: &dyn Disk) {
    assert_eq!(names(disk), [""; 0]);
    disk.write("b", 0, b"hello").unwrap();
    disk.write("b", 8, b"world").unwrap();
    assert_eq!(content(disk, "b"), b"hello\0\0\0world");
    disk.write("b", 1, b"a").unwrap();
    disk.write("a", 0, b"").unwrap();
    disk.sync("b").unwrap();
    disk.sync(DIRECTORY).unwrap();
    let files = disk.list().unwrap();
    let files: Vec<(&str, u64)> = files.iter().map(|f| (f.name.as_str(), f.bytes)).collect();
    assert_eq!(files, [("a", 0), ("b", 13)]);

    let mut part = [0; 4];
    assert_eq!(disk.read("b", 1, &mut part).unwrap(), 4);
    assert_eq!(&part, b"allo");
    assert_eq!(disk.read("b", 11, &mut part).unwrap(), 2);
    assert_eq!(disk.read("b", 99, &mut part).unwrap(), 0);

    disk.rename("b", "a").unwrap();
    assert_eq!(names(disk), ["a"]);
    assert_eq!(content(disk, "a"), b"hallo\0\0\0world");
    disk.write("b", 0, b"another").unwrap();
    disk.write("a", 0, b"H").unwrap();
    assert_eq!(content(disk, "b"), b"another");
    assert_eq!(content(disk, "a"), b"Hallo\0\0\0world");
    disk.remove("a").unwrap();
    disk.write("a", 0, b"new").unwrap();
    assert_eq!(content(disk, "a"), b"new");

    disk.remove("a").unwrap();
    let missing = [
        disk.read("a", 0, &mut part).map(|_| ()),
        disk.sync("a"),
        disk.remove("a"),
        disk.rename("a", "c"),
    ];
    for result in missing {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().starts_with("a: "), "{error}");
    }
    assert_eq!(names(disk), ["b"]);
}

#[test]
fn both_disks_keep_the_contract() {
    contract(&SimDisk::new(1));
    let path = scratch("contract");
    contract(&RealDisk::open(&path).unwrap());
    let again = RealDisk::open(&path).unwrap();
    assert_eq!(content(&again, "b"), b"another");
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_real_disk_is_for_its_owner_and_one_process_alone() {
    let path = scratch("owner").join("in").join("deep");
    let disk = RealDisk::open(&path).unwrap();
    disk.write("file", 0, b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("file"))), (0o700, 0o600));

    let lock = disk.try_lock().unwrap();
    assert_eq!(names(&disk), ["file"]);
    let refused = RealDisk::open(&path).unwrap().try_lock();
    let error = refused.err().unwrap();
    let expected = format!(
        "another process uses this directory ({})",
        std::process::id()
    );
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(lock);
    disk.try_lock().unwrap();
    scratch("owner");
}

#[test]
fn a_real_disk_has_more_files_than_it_keeps_open() {
    let path = scratch("many");
    let disk = RealDisk::open(&path).unwrap();
    for round in 0..3_u8 {
        for number in 0..60_u8 {
            disk.write(&format!("{number}"), u64::from(round), &[number + round])
                .unwrap();
            if number % 2 == 0 {
                disk.sync(&format!("{number}")).unwrap();
            }
        }
    }
    for number in 0..60_u8 {
        let expected = [number, number + 1, number + 2];
        assert_eq!(content(&disk, &format!("{number}")), expected);
    }
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn errors_of_a_real_disk_keep_their_kind_and_say_the_file() {
    let path = scratch("errors");
    let disk = RealDisk::open(&path).unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    let error = disk.write("folder", 0, b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsADirectory, "{error}");
    assert_eq!(names(&disk), [""; 0], "a folder is no file");
    std::os::unix::fs::symlink("/dev/full", path.join("full")).unwrap();
    let error = disk.write("full", 0, b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().starts_with("full: "), "{error}");
    let inner = std::error::Error::source(error.get_ref().unwrap()).unwrap();
    let inner = inner.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(inner.raw_os_error(), Some(28));
    let file = RealDisk::open(&path.join("full")).err().unwrap();
    assert_eq!(file.kind(), ErrorKind::AlreadyExists, "{file}");
    fs::remove_dir_all(path).unwrap();
}

/// Two files of which the first is safe, with pending writes and names.
fn unsynced() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.write("a", 0, &[1; 1024]).unwrap();
    disk.write("x", 0, b"x").unwrap();
    for name in ["a", "x", DIRECTORY] {
        disk.sync(name).unwrap();
    }
    disk.write("a", 0, &[2; 1024]).unwrap();
    disk.write("b", 0, &[3; 4]).unwrap();
    disk.rename("x", "y").unwrap();
    disk
}

#[test]
fn a_crash_keeps_what_was_synced_and_what_chance_leaves() {
    let lost = unsynced();
    lost.crash(Crash::LoseAll);
    assert_eq!(names(&lost), ["a", "x"]);
    assert_eq!(content(&lost, "a"), [1; 1000]);
    let kept = unsynced();
    kept.crash(Crash::KeepAll);
    assert_eq!(names(&kept), ["a", "b", "y"]);
    assert_eq!(content(&kept, "a"), [2; 1000]);
    let torn = unsynced();
    torn.crash(Crash::TearLast(3));
    assert_eq!(content(&torn, "b"), [3; 3]);
    assert_eq!(content(&torn, "a"), [2; 1000]);

    let mut outcomes = [0; 6];
    for seed in 0..400 {
        let disk = unsynced();
        disk.crash(Crash::Random(seed));
        let same = unsynced();
        same.crash(Crash::Random(seed));
        assert_eq!(disk.contents(), same.contents(), "seed {seed}");
        let a = &disk.contents()["a"];
        let begins_old = a[0] == 1 && a[1023] == 2;
        let in_a_sector = (1..1024).any(|at| at % 512 != 0 && a[at] != a[at - 1]);
        let names = names(&disk);
        assert!(
            names
                .iter()
                .filter(|name| *name == "x" || *name == "y")
                .count()
                == 1
        );
        outcomes[0] += usize::from(a == &[1; 1024]);
        outcomes[1] += usize::from(a == &[2; 1024]);
        outcomes[2] += usize::from(begins_old);
        outcomes[3] += usize::from(in_a_sector);
        outcomes[4] += usize::from(names.contains(&"y".to_owned()));
        outcomes[5] += usize::from(names.contains(&"b".to_owned()));
    }
    assert!(outcomes.iter().all(|times| *times > 20), "{outcomes:?}");
}

#[test]
fn a_failed_sync_loses_what_is_still_read() {
    let disk = SimDisk::new(1);
    disk.write("a", 0, b"old").unwrap();
    disk.sync("a").unwrap();
    disk.sync(DIRECTORY).unwrap();
    disk.write("a", 0, b"new").unwrap();
    disk.fail_at(disk.calls(), Fault::Eio, false);
    disk.sync("a").unwrap_err();
    disk.sync("a").unwrap();
    assert_eq!(content(&disk, "a"), b"new");
    disk.crash(Crash::KeepAll);
    assert_eq!(content(&disk, "a"), b"old");
}

#[test]
fn faults_come_at_their_call_once_or_for_good() {
    for is_sticky in [false, true] {
        let disk = SimDisk::new(1);
        disk.fail_at(1, Fault::Enospc, is_sticky);
        disk.write("a", 0, &[1; 100]).unwrap();
        let error = disk.write("a", 0, &[2; 100]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(disk.write("a", 0, &[3; 100]).is_err(), is_sticky);
        assert_eq!(disk.rename("a", "b").is_err(), is_sticky);
        disk.heal();
        disk.write("a", 0, b"x").unwrap();
        disk.remove("a").unwrap();
        assert_eq!(disk.calls(), 6);
    }
}

#[test]
fn reads_fail_at_their_number_once_or_for_good_and_other_calls_do_not_count() {
    for is_sticky in [false, true] {
        let disk = SimDisk::new(1);
        disk.write("a", 0, b"abc").unwrap();
        assert_eq!((disk.reads(), content(&disk, "a")), (0, b"abc".to_vec()));
        disk.fail_read_at(2, is_sticky);
        assert_eq!(content(&disk, "a"), b"abc");
        let mut part = [0; 3];
        let error = disk.read("a", 0, &mut part).unwrap_err();
        assert_eq!(error.to_string(), "a: input/output error");
        assert_eq!(part, [0; 3], "nothing is given");
        assert_eq!(disk.read("a", 0, &mut part).is_err(), is_sticky);
        disk.write("a", 0, b"x").unwrap();
        disk.sync("a").unwrap();
        assert_eq!((disk.reads(), disk.calls()), (4, 3));
        let fired = disk.fired();
        assert_eq!(fired["read EIO"], 1 + u64::from(is_sticky));
        assert_eq!(fired.len(), 1, "{fired:?}");
        disk.heal();
        assert_eq!(content(&disk, "a"), b"xbc");
        disk.fail_read_at(disk.reads(), true);
        disk.restart();
        assert_eq!(content(&disk, "a"), b"xbc");
    }
}

/// Two files of some blocks: what is in them is safe.
fn blocks() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.write("a", 0, &[0xAA; 10_000]).unwrap();
    disk.write("b", 0, &[0xBB; 5_000]).unwrap();
    disk.write("empty", 0, b"").unwrap();
    for name in ["a", "b", "empty", DIRECTORY] {
        disk.sync(name).unwrap();
    }
    disk
}

/// Where two disks differ.
fn differences(one: &SimDisk, other: &SimDisk) -> Vec<(String, usize)> {
    let (one, other) = (one.contents(), other.contents());
    assert!(one.keys().eq(other.keys()));
    let mut places = Vec::new();
    for (name, bytes) in one {
        let others = &other[&name];
        assert_eq!(bytes.len(), others.len(), "{name}");
        let differs = (0..bytes.len()).filter(|at| bytes[*at] != others[*at]);
        places.extend(differs.map(|at| (name.clone(), at)));
    }
    places
}

#[test]
fn a_bit_or_a_block_rots_where_it_lies_and_the_line_says_where() {
    let mut names = Vec::new();
    for seed in 0..100 {
        for kind in [Rot::Bit, Rot::Block] {
            let (disk, before) = (blocks(), blocks());
            let mut rng = Rng::with_seed(seed);
            let line = disk.rot(kind, &mut rng, |_| true).unwrap();
            let places = differences(&disk, &before);
            let (name, first) = &places[0];
            assert!(places.iter().all(|(other, _)| other == name), "{line}");
            assert!(line.starts_with(&format!("{name}: ")), "{line}");
            match kind {
                Rot::Bit => {
                    assert_eq!(places.len(), 1, "seed {seed}");
                    let (is, was) = (&disk.contents()[name], &before.contents()[name]);
                    assert_eq!((is[*first] ^ was[*first]).count_ones(), 1);
                    assert!(line.contains(&format!("byte {first} ")), "{line}");
                }
                _ => {
                    assert_eq!(first % 4096, 0, "seed {seed}");
                    let length = before.contents()[name].len();
                    assert_eq!(places.len(), 4096.min(length - first), "{line}");
                }
            }
            names.push(name.clone());
            let rotten = disk.contents();
            disk.crash(Crash::LoseAll);
            assert_eq!(disk.contents(), rotten, "it is not only read so");
            let same = blocks();
            let again = same.rot(kind, &mut Rng::with_seed(seed), |_| true);
            assert_eq!((again.unwrap(), same.contents()), (line, rotten));
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn rot_keeps_to_the_files_it_concerns_and_to_what_is_safe() {
    let mut rng = Rng::with_seed(1);
    let (disk, before) = (blocks(), blocks());
    disk.write("b", 0, &[0xCC; 5_000]).unwrap();
    disk.write("new", 0, &[1; 5_000]).unwrap();
    for kind in [Rot::Bit, Rot::Block] {
        assert_eq!(disk.rot(kind, &mut rng, |name| name == "empty"), None);
        assert_eq!(disk.rot(kind, &mut rng, |name| name == "new"), None);
        disk.rot(kind, &mut rng, |name| name == "b").unwrap();
    }
    assert_eq!(
        disk.contents()["b"],
        [0xCC; 5_000],
        "memory has newer bytes"
    );
    disk.crash(Crash::LoseAll);
    assert!(differences(&disk, &before).len() >= 904);
    let empty = SimDisk::new(1);
    let drawn = rng.clone().u64(..);
    for kind in [Rot::Bit, Rot::Block, Rot::Sector] {
        assert_eq!(empty.rot(kind, &mut rng, |_| true), None);
    }
    assert_eq!(rng.u64(..), drawn, "and nothing was drawn");
    assert!(empty.fired().is_empty());
}

#[test]
fn a_stale_sector_is_what_it_was_before_it_was_changed() {
    let mut rng = Rng::with_seed(1);
    let disk = blocks();
    disk.write("a", 600, &[1; 100]).unwrap();
    disk.sync("a").unwrap();
    assert_eq!(disk.rot(Rot::Sector, &mut rng, |_| true), None);
    disk.remember();
    disk.write("a", 520, &[2; 10]).unwrap();
    disk.write("a", 540, &[3; 10]).unwrap();
    disk.write("a", 9_990, &[4; 200]).unwrap();
    assert_eq!(disk.rot(Rot::Sector, &mut rng, |_| true), None, "not yet");
    let before = disk.fork();
    before.crash(Crash::LoseAll);
    disk.sync("a").unwrap();
    let line = disk.rot(Rot::Sector, &mut rng, |_| true).unwrap();
    assert_eq!(line, "a: the sector at 512 is what it was before");
    let (is, was) = (&disk.contents()["a"], &before.contents()["a"]);
    assert_eq!(is[512..1024], was[512..1024]);
    assert_eq!((is.len(), is[9_990]), (10_190, 4));
    assert_eq!(disk.rot(Rot::Sector, &mut rng, |_| true), None);
    assert_eq!(disk.fired()["stale sector"], 1);
}

#[test]
fn a_write_that_went_astray_is_read_in_its_place_until_the_machine_goes_down() {
    for seed in 0..50 {
        let mut rng = Rng::with_seed(seed);
        let (disk, before) = (blocks(), blocks());
        disk.rot(Rot::Astray, &mut rng, |_| true).unwrap();
        // There is no other place in these.
        disk.write("small", 0, &[7; 100]).unwrap();
        disk.write("a", 0, b"").unwrap();
        assert_eq!(disk.went_astray(), None);
        disk.write("a", 1_030, &[7; 100]).unwrap();
        let line = disk.went_astray().unwrap();
        disk.write("a", 2_000, &[8; 10]).unwrap();
        assert_eq!(disk.went_astray().as_ref(), Some(&line), "only one does");
        disk.sync("a").unwrap();
        assert_eq!(disk.contents()["a"][1_030..1_130], [7; 100]);
        disk.restart();
        assert_eq!(disk.contents()["a"][1_030..1_130], [7; 100]);
        disk.crash(Crash::LoseAll);
        let is = &disk.contents()["a"];
        let at = is.iter().position(|byte| *byte == 7).unwrap();
        let told = format!("a: 100 bytes that are meant for 1030 go to {at}");
        assert_eq!(line, told, "seed {seed}");
        assert!(at != 1_030 && at % 512 == 6, "seed {seed}: {at}");
        assert_eq!(is[at..at + 100], [7; 100]);
        assert_eq!(is[1_030..1_130], before.contents()["a"][1_030..1_130]);
        assert_eq!(disk.fired()["misdirected write"], 1);
    }
}

#[test]
fn a_restored_disk_is_what_its_fork_was_with_what_was_pending() {
    let disk = unsynced();
    let backup = disk.fork();
    disk.sync("a").unwrap();
    disk.sync(DIRECTORY).unwrap();
    disk.write("later", 0, b"later").unwrap();
    disk.crash_at(disk.calls());
    disk.remove("a").unwrap_err();
    let calls = disk.calls();
    let handle = disk.clone();
    disk.restore(&backup);
    assert_eq!(handle.contents(), backup.contents());
    assert_eq!(disk.calls(), calls, "they are counted on");
    disk.crash(Crash::LoseAll);
    assert_eq!(names(&disk), ["a", "x"]);
    assert_eq!(content(&disk, "a"), [1; 1000]);
    assert_eq!(names(&backup), ["a", "b", "y"], "it may be used again");
    disk.restore(&disk.fork());
    disk.restore(&disk);
    assert_eq!(disk.fired()["restore"], 3);
}

#[test]
fn what_failed_is_counted_by_kind() {
    let disk = unsynced();
    let fail = |fault, call: &dyn Fn() -> std::io::Result<()>| {
        disk.fail_at(disk.calls(), fault, false);
        call().unwrap_err();
    };
    fail(Fault::Eio, &|| disk.write("a", 0, b"x"));
    fail(Fault::Enospc, &|| disk.write("a", 0, b"x"));
    fail(Fault::Eio, &|| disk.sync("a"));
    fail(Fault::Eio, &|| disk.rename("y", "z"));
    fail(Fault::Eio, &|| disk.remove("y"));
    disk.limit(1);
    disk.write("c", 0, b"12345").unwrap_err();
    disk.crash_at(disk.calls());
    disk.sync("b").unwrap_err();
    disk.crash(Crash::TearLast(1));
    disk.write("a", 0, b"123").unwrap();
    disk.crash(Crash::LoseAll);
    let fired = disk.fired();
    let kinds = [
        "crash",
        "down in a call",
        "full disk",
        "lost write",
        "remove EIO",
        "rename EIO",
        "sync EIO",
        "write EIO",
        "write ENOSPC",
    ];
    assert_eq!(Vec::from_iter(fired.keys().copied()), kinds);
    assert_eq!((fired["crash"], fired["sync EIO"]), (2, 1));
}

#[test]
fn a_machine_that_went_down_answers_nothing_until_it_is_up() {
    let disk = unsynced();
    disk.crash_at(disk.calls() + 1);
    disk.write("c", 0, b"c").unwrap();
    disk.write("c", 0, b"in between").unwrap_err();
    disk.list().unwrap_err();
    disk.sync("c").unwrap_err();
    disk.read("c", 0, &mut [0]).unwrap_err();
    let process = disk.fork();
    process.restart();
    assert_eq!(content(&process, "c"), b"in between");
    disk.crash(Crash::LoseAll);
    assert_eq!(names(&disk), ["a", "x"]);
}

#[test]
fn a_small_disk_takes_what_fits() {
    let disk = SimDisk::new(1);
    disk.limit(10);
    disk.write("a", 0, b"123456").unwrap();
    let error = disk.write("b", 0, b"123456").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(content(&disk, "b"), b"1234", "the beginning");
    disk.write("a", 0, b"654321").unwrap();
    disk.remove("b").unwrap();
    disk.write("a", 6, b"7890").unwrap();
    disk.flip("a", 0, 1);
    assert_eq!(content(&disk, "a"), b"7543217890");
}

#[test]
fn directories_in_one_that_is_missing_can_be_made_at_once() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk-made-at-once");
    for round in 0..20 {
        let _ = fs::remove_dir_all(&home);
        std::thread::scope(|scope| {
            let made: Vec<_> = (0..4)
                .map(|number| {
                    let path = home.join("in").join(number.to_string());
                    scope.spawn(move || RealDisk::open(&path).map(drop))
                })
                .collect();
            for one in made {
                one.join()
                    .unwrap()
                    .unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
        });
    }
    fs::remove_dir_all(&home).unwrap();
}
