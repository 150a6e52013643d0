//! What is appended is read again; segments come, go and change keys.

use std::sync::Arc;

use marline::disk::Disk;
use marline::disk::sim::{Crash, Fault, SimDisk};
use marline::disk::wal::writer::Wal;
use marline::disk::wal::{self, replay};

use super::{key, read, reopen};

fn disk() -> (SimDisk, Arc<dyn Disk>) {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    (sim, disk)
}

fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 7 + at) as u8 | 1).collect()
}

#[test]
fn what_is_appended_is_read_in_order_by_every_later_process() {
    for key_id in [0, 1] {
        let (_, disk) = disk();
        let mut expected = Vec::new();
        for process in 0..4 {
            let (found, mut wal) = reopen(&disk, key_id, 512);
            assert_eq!(found, expected, "process {process}, key {key_id}");
            for number in 0..20 {
                let payload = payload(number, number * 5 % 90);
                wal.append(&payload, number % 3 == 0).unwrap();
                expected.push(payload);
            }
        }
        let (found, end) = read(&*disk).unwrap();
        assert_eq!((found, end.torn), (expected, None));
    }
}

#[test]
fn a_log_moves_to_its_thread() {
    fn moves<T: Send + 'static>() {}
    moves::<Wal>();
}

#[test]
fn an_empty_log_has_no_segment_until_the_first_append() {
    let (sim, disk) = disk();
    let (found, mut wal) = reopen(&disk, 0, 512);
    assert_eq!((found.len(), wal.segments().len()), (0, 0));
    assert_eq!(sim.list().unwrap().len(), 1, "only a spare:\n{sim:?}");
    assert_eq!(wal.append(b"", true).unwrap(), 1);
    assert_eq!(read(&*disk).unwrap().0, [b""]);
    assert!(sim.contents().contains_key(&wal::segment_name(1)));
}

#[test]
fn a_long_record_gets_a_segment_of_its_own() {
    for key_id in [0, 1] {
        let (_, disk) = disk();
        let (_, mut wal) = reopen(&disk, key_id, 512);
        let long = payload(1, 100_003);
        assert_eq!(wal.append(b"short", true).unwrap(), 1);
        assert_eq!(wal.append(&long, true).unwrap(), 2);
        assert_eq!(wal.append(b"short", true).unwrap(), 3);
        assert!(wal.segments()[1].bytes > 100_003 && wal.segments()[0].bytes == 512);
        let (found, _) = read(&*disk).unwrap();
        assert_eq!(found, [b"short".to_vec(), long, b"short".to_vec()]);
    }
}

#[test]
fn room_is_what_the_next_append_takes_without_new_space() {
    for key_id in [0, 1] {
        let (sim, disk) = disk();
        let (_, mut wal) = reopen(&disk, key_id, 4096);
        for number in 0..200 {
            if number % 10 == 9 {
                wal.prepare().unwrap();
            }
            let room = usize::try_from(wal.room()).unwrap();
            let used: usize = sim.contents().values().map(Vec::len).sum();
            sim.limit(used as u64);
            let too_long = wal.append(&payload(number, room + 1), true);
            if let Ok(segment) = too_long {
                panic!("{} bytes did fit into segment {segment}", room + 1);
            }
            assert!(wal::is_full(&too_long.unwrap_err()));
            let payload = payload(number, [room, room / 2, 100][number % 3].min(room));
            if room > 0 {
                wal.append(&payload, number % 2 == 0).unwrap();
            }
            sim.limit(u64::MAX);
        }
        read(&*disk).unwrap();
    }
}

#[test]
fn segments_are_used_again_and_their_old_records_are_nothing() {
    for key_id in [0, 1] {
        let (sim, disk) = disk();
        let (_, mut wal) = reopen(&disk, key_id, 512);
        let mut numbers = Vec::new();
        for number in 0..300 {
            numbers.push(wal.append(&payload(number, 40), true).unwrap());
            wal.recycle(numbers[number].saturating_sub(1)).unwrap();
            wal.prepare().unwrap();
        }
        let newest = *numbers.last().unwrap();
        assert!(newest > 50, "{newest}");
        let files: Vec<String> = sim.contents().into_keys().collect();
        assert!(files.len() <= 5, "{files:?}");
        let kept = numbers.iter().filter(|number| **number >= newest - 1);
        let expected: Vec<Vec<u8>> = (0..300)
            .map(|number| payload(number, 40))
            .skip(300 - kept.count())
            .collect();
        let (found, end) = read(&*disk).unwrap();
        assert_eq!((found, end.torn), (expected, None));
    }
}

#[test]
fn the_newest_segment_stays_whatever_is_recycled() {
    let (_, disk) = disk();
    let (_, mut wal) = reopen(&disk, 0, 256);
    for number in 0..9 {
        wal.append(&payload(number, 90), true).unwrap();
    }
    let newest = wal.segments().last().unwrap().number;
    wal.recycle(u64::MAX).unwrap();
    assert_eq!(wal.segments().len(), 1);
    let (_, mut wal) = reopen(&disk, 0, 256);
    wal.recycle(u64::MAX).unwrap();
    assert_eq!(wal.append(b"more", true).unwrap(), newest + 1);
}

#[test]
fn a_new_key_seals_what_follows_and_old_contents_do_not_lie_about() {
    let (sim, disk) = disk();
    let (_, mut wal) = reopen(&disk, 0, 512);
    let canary = b"canary canary canary";
    for _ in 0..30 {
        wal.append(canary, true).unwrap();
    }
    wal.recycle(2).unwrap();
    wal.set_key(key(1)).unwrap();
    let first_sealed = wal.append(canary, true).unwrap();
    wal.set_key(key(2)).unwrap();
    wal.append(canary, true).unwrap();
    let ids: Vec<u32> = wal.segments().iter().map(|info| info.key_id).collect();
    assert_eq!(ids[ids.len() - 3..], [0, 1, 2]);
    assert_eq!(read(&*disk).unwrap().1.segments, wal.segments());
    wal.recycle(first_sealed).unwrap();
    for (name, bytes) in sim.contents() {
        let shows = bytes.windows(canary.len()).any(|window| window == canary);
        assert!(!shows, "{name} shows what was to be sealed");
    }
    let (found, _) = read(&*disk).unwrap();
    assert_eq!(found, [canary, canary]);
    let missing = replay::replay(&*disk, &|id| (id == 1).then_some([1; 32]), &mut |_| Ok(()));
    let damage = missing.unwrap_err();
    assert!(damage.reason.contains("key 2 is missing"), "{damage}");
    let wrong = replay::replay(&*disk, &|_| Some([1; 32]), &mut |_| Ok(()));
    let damage = wrong.unwrap_err();
    assert!(damage.reason.contains("key 2 does not open"), "{damage}");
}

#[test]
fn a_full_disk_refuses_and_takes_the_same_payload_later() {
    for key_id in [0, 1] {
        let (sim, disk) = disk();
        let (_, mut wal) = reopen(&disk, key_id, 512);
        sim.limit(3 * 512 - 100);
        let mut expected = Vec::new();
        let mut refused = 0;
        for number in 0..40 {
            let payload = payload(number, 50);
            if let Err(error) = wal.append(&payload, true) {
                assert!(wal::is_full(&error), "{error}");
                refused += 1;
                assert_eq!(read(&*disk).unwrap().0, expected);
                sim.limit((3 + refused) * 512 * 2);
                wal.append(&payload, true).unwrap();
            }
            expected.push(payload);
        }
        assert!(refused > 0);
        assert_eq!(read(&*disk).unwrap().0, expected);
    }
}

#[test]
fn a_record_refused_while_it_was_written_never_appears() {
    // Seeds, because a write that fails has written a part, or all.
    for seed in 0..60 {
        let sim = SimDisk::new(seed);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let (_, mut wal) = reopen(&disk, 1, 4096);
        wal.append(b"first", true).unwrap();
        sim.fail_at(sim.calls() + seed % 2, Fault::Enospc, false);
        let refused = wal.append(b"refused", true).unwrap_err();
        assert!(wal::is_full(&refused), "seed {seed}: {refused}");
        assert_eq!(read(&sim).unwrap().0, [b"first"], "seed {seed}");
        for how in [Crash::KeepAll, Crash::LoseAll] {
            let after = sim.fork();
            after.crash(how);
            assert_eq!(read(&after).unwrap().0, [b"first"], "seed {seed}");
        }
        assert_eq!(wal.append(b"second", true).unwrap(), 2, "in a new segment");
        sim.crash(Crash::LoseAll);
        assert_eq!(read(&*disk).unwrap().0, [b"first".as_slice(), b"second"]);
    }
}

#[test]
fn a_spare_is_written_over_its_length() {
    let (sim, disk) = disk();
    let _ = reopen(&disk, 0, 200_000);
    let lengths: Vec<usize> = sim.contents().values().map(Vec::len).collect();
    assert_eq!(lengths, [200_000]);
    sim.crash(Crash::LoseAll);
    sim.install("spare-00000000000000aa", b"half made");
    sim.install("spare-00000000000000bb", &[1; 300_000]);
    let _ = reopen(&disk, 0, 200_000);
    let [(name, bytes)] = &sim.contents().into_iter().collect::<Vec<_>>()[..] else {
        panic!("one is enough:\n{sim:?}");
    };
    assert_eq!(
        (name.as_str(), bytes),
        ("spare-00000000000000aa", &vec![0; 200_000])
    );
}

#[test]
fn a_broken_log_refuses_and_touches_nothing() {
    let (sim, disk) = disk();
    let (_, mut wal) = reopen(&disk, 0, 4096);
    wal.append(b"first", true).unwrap();
    sim.fail_at(sim.calls() + 1, Fault::Eio, false);
    wal.append(b"lost", true).unwrap_err();
    let calls = sim.calls();
    wal.append(b"more", true).unwrap_err();
    wal.sync().unwrap_err();
    wal.prepare().unwrap_err();
    wal.recycle(9).unwrap_err();
    wal.set_key(None).unwrap_err();
    assert_eq!(sim.calls(), calls);
}

#[test]
fn what_a_failed_sync_left_in_memory_is_made_durable_before_it_is_believed() {
    let (sim, disk) = disk();
    let (_, mut wal) = reopen(&disk, 0, 4096);
    wal.append(b"first", true).unwrap();
    sim.fail_at(sim.calls() + 1, Fault::Eio, false);
    wal.append(b"in memory", true).unwrap_err();
    sim.restart();
    let lost = sim.fork();
    lost.crash(Crash::KeepAll);
    assert_eq!(read(&lost).unwrap().0, [b"first"], "the disk dropped it");
    let (found, _) = reopen(&disk, 0, 4096);
    assert_eq!(found, [b"first".as_slice(), b"in memory"]);
    sim.crash(Crash::LoseAll);
    assert_eq!(read(&*disk).unwrap().0, found);
}

#[test]
fn who_refuses_a_record_stops_the_reading_there() {
    let (_, disk) = disk();
    let (_, mut wal) = reopen(&disk, 0, 512);
    for number in 0..20 {
        wal.append(&[number], true).unwrap();
    }
    let mut at = (0, 0);
    let damage = replay::replay(&*disk, &|_| None, &mut |record| {
        at = (record.segment, record.offset);
        match record.payload {
            [13] => Err("thirteen".to_owned()),
            _ => Ok(()),
        }
    });
    let damage = damage.unwrap_err();
    assert_eq!(damage.reason, "thirteen");
    assert_eq!(
        (damage.file, damage.offset),
        (wal::segment_name(at.0), at.1)
    );
}
