//! A log that is not what was written: torn at each byte, flipped at each byte, cut, mixed up.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use marline::disk::Disk;
use marline::disk::sim::rot::Rot;
use marline::disk::sim::{Crash, SimDisk};
use marline::disk::wal::segment_name;

use super::{read, reopen};

const SEGMENT_BYTES: u64 = 512;
/// Where the first data record may stand; before it are header and open record.
const FIRST_OFFSET_MIN: usize = 128;

/// A log of several segments, in files that held others before, and what is in it.
fn log(key_id: u32) -> (SimDisk, Vec<Vec<u8>>) {
    let sim = SimDisk::new(7);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (_, mut wal) = reopen(&disk, key_id, SEGMENT_BYTES);
    for number in 0..60_u8 {
        let payload = vec![number | 1; usize::from(number) * 11 % 70];
        let segment = wal.append(&payload, true).unwrap();
        wal.recycle(segment.saturating_sub(3)).unwrap();
        wal.prepare().unwrap();
    }
    let (payloads, end) = read(&sim).unwrap();
    assert!(end.segments.len() == 4 && end.torn.is_none());
    sim.crash(Crash::LoseAll);
    (sim, payloads)
}

/// Names and contents of the segments, in order.
fn segments(sim: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let mut files = sim.contents();
    files.retain(|name, _| name.starts_with("wal-"));
    files
}

#[test]
fn every_flipped_byte_is_nothing_or_the_last_record_or_damage() {
    for key_id in [0, 1] {
        let (sim, payloads) = log(key_id);
        let files = segments(&sim);
        let newest = files.keys().last().unwrap();
        let (mut dead, mut torn, mut damaged) = (0, 0, 0);
        for (name, bytes) in &files {
            for offset in 0..bytes.len() {
                for mask in [1 << (offset % 8), 0xFF] {
                    sim.flip(name, offset, mask);
                    let place = format!("{name} at byte {offset}, mask {mask:#x}, key {key_id}");
                    match read(&sim) {
                        Ok((found, _)) if found == payloads => dead += 1,
                        Ok((found, end)) => {
                            assert_eq!(found, payloads[..payloads.len() - 1], "{place}");
                            assert!(name == newest && end.torn.is_some(), "{place}");
                            torn += 1;
                        }
                        Err(damage) => {
                            assert_eq!(damage.file, *name, "{place}: {damage}");
                            let before = usize::try_from(damage.offset).unwrap() <= offset;
                            assert!(before || offset < FIRST_OFFSET_MIN, "{place}: {damage}");
                            damaged += 1;
                        }
                    }
                    sim.flip(name, offset, mask);
                }
            }
        }
        assert_eq!(read(&sim).unwrap().0, payloads);
        assert!(
            dead > 0 && torn > 40 && damaged > 2 * 3 * 300,
            "{dead} {torn} {damaged}"
        );
    }
}

#[test]
fn every_cut_file_and_every_missing_one_but_the_ends_is_damage() {
    let (sim, payloads) = log(0);
    let files = segments(&sim);
    for (index, (name, bytes)) in files.iter().enumerate() {
        for length in 0..bytes.len() {
            sim.install(name, &bytes[..length]);
            let damage = read(&sim).unwrap_err();
            assert_eq!(damage.file, *name, "cut to {length}: {damage}");
        }
        sim.install(name, &[bytes.as_slice(), &[0; 8]].concat());
        assert_eq!(read(&sim).unwrap_err().file, *name);
        sim.install(name, bytes);
        sim.remove(name).unwrap();
        match read(&sim) {
            Err(damage) => assert_eq!(damage.file, *name),
            Ok(_) => assert!(index == 0 || index == files.len() - 1, "{name}"),
        }
        sim.install(name, bytes);
    }
    assert_eq!(read(&sim).unwrap().0, payloads);
}

#[test]
fn zeroed_blocks_and_segments_in_each_others_place_are_damage() {
    for key_id in [0, 1] {
        let (sim, payloads) = log(key_id);
        let files: Vec<(String, Vec<u8>)> = segments(&sim).into_iter().collect();
        for (name, bytes) in &files {
            for (other, instead) in &files {
                if other != name {
                    sim.install(name, instead);
                    assert_eq!(read(&sim).unwrap_err().file, *name);
                }
            }
            for from in (0..bytes.len()).step_by(128) {
                let mut zeroed = bytes.clone();
                zeroed[from..from + 128].fill(0);
                sim.install(name, &zeroed);
                match read(&sim) {
                    Err(damage) => assert_eq!(damage.file, *name),
                    // The end of the newest may be gone: of a last record nobody knows.
                    Ok((found, _)) => assert!(found.len() + 1 >= payloads.len(), "{name} {from}"),
                }
            }
            sim.install(name, bytes);
        }
    }
}

#[test]
fn records_of_another_history_are_damage() {
    for key_id in [0, 1] {
        let [ours, theirs] = [1_u8, 2].map(|content| {
            let sim = SimDisk::new(1);
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            let (_, mut wal) = reopen(&disk, key_id, SEGMENT_BYTES);
            for number in 0..10 {
                let differs = number == 1 || number == 4;
                wal.append(&[if differs { content } else { 0 }; 30], true)
                    .unwrap();
            }
            (segments(&sim), sim)
        });
        let (name, bytes) = ours.0.iter().next().unwrap();
        let instead = &theirs.0[name];
        assert_eq!(bytes[..200], instead[..200]);
        // Their segment in place of ours, and their second record among ours.
        ours.1.install(name, instead);
        assert_eq!(read(&ours.1).unwrap_err().file, *name);
        let begin = bytes.iter().zip(instead).position(|(a, b)| a != b).unwrap();
        let record_bytes = if key_id == 0 { 72 } else { 88 };
        let mut mixed = bytes.clone();
        let their_record = begin..begin + record_bytes;
        mixed[their_record.clone()].copy_from_slice(&instead[their_record]);
        for alone in [false, true] {
            if alone {
                // The same without a segment behind it that says where it ends.
                ours.0
                    .keys()
                    .skip(1)
                    .for_each(|name| ours.1.remove(name).unwrap());
            }
            ours.1.install(name, &mixed);
            let damage = read(&ours.1).unwrap_err();
            assert_eq!(damage.file, *name, "{damage}");
            assert_eq!(damage.offset, (begin + record_bytes) as u64, "{damage}");
        }
    }
}

/// Appends `payload` behind a few records, goes down before its sync, tears it at every byte, and says how often
/// the log was read without it.
fn tear(key_id: u32, before: usize, payload: &[u8]) -> usize {
    let (sim, _) = log(key_id);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (mut expected, mut wal) = reopen(&disk, key_id, 4 * SEGMENT_BYTES);
    for number in 0..before {
        wal.append(&[9; 20], true).unwrap();
        expected.push(vec![9; 20]);
        assert!(number < 20);
    }
    sim.crash_at(sim.calls() + 1);
    wal.append(payload, true).unwrap_err();
    let mut lost = 0;
    let record_bytes = 40 + payload.len() + if key_id == 0 { 0 } else { 16 };
    for bytes in 0..record_bytes + 16 {
        let sim = sim.fork();
        sim.crash(Crash::TearLast(bytes));
        let (found, end) = read(&sim).unwrap();
        if found == expected {
            lost += 1;
            assert!(bytes < record_bytes, "{bytes} bytes are all of the record");
            assert_eq!(end.torn.is_some(), bytes > 0, "torn at byte {bytes}");
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            let (again, mut wal) = reopen(&disk, key_id, SEGMENT_BYTES);
            assert_eq!(again, expected);
            wal.append(b"more", true).unwrap();
            let (found, end) = read(&sim).unwrap();
            assert_eq!((found.len(), end.torn), (expected.len() + 1, None));
        } else {
            assert_eq!(found[..expected.len()], expected);
            assert_eq!(found[expected.len()..], [payload]);
        }
    }
    assert!(lost <= record_bytes);
    record_bytes - lost
}

#[test]
fn a_record_torn_at_any_byte_is_recovered_without_it() {
    for key_id in [0, 1] {
        for length in [1, 3, 8, 100, 1200] {
            assert_eq!(tear(key_id, 3, &vec![0xA5; length]), 0);
        }
    }
    // An empty record ends with zeros, where there were some before.
    assert!(tear(0, 3, b"") <= 10);
}

#[test]
fn a_payload_that_looks_like_records_is_none_when_it_is_torn() {
    for key_id in [0, 1] {
        let (sim, _) = log(key_id);
        for (_, bytes) in segments(&sim) {
            let payload = [&bytes[FIRST_OFFSET_MIN..], &[1]].concat();
            assert_eq!(tear(key_id, 2, &payload), 0);
        }
    }
}

#[test]
fn records_that_were_never_synced_may_be_lost_in_any_order_without_damage() {
    let (mut whole, mut parts) = (0, 0);
    for seed in 0..2000 {
        let sim = SimDisk::new(seed);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let (_, mut wal) = reopen(&disk, u32::from(seed % 2 == 0), 4 * SEGMENT_BYTES);
        wal.append(&[0], true).unwrap();
        for number in 1..10 {
            wal.append(&[number], number == 4).unwrap();
        }
        sim.crash(Crash::Random(seed));
        let (found, _) = read(&sim).unwrap_or_else(|damage| panic!("seed {seed}: {damage}"));
        assert!(found.len() >= 5, "seed {seed}");
        assert!(
            (0..)
                .zip(&found)
                .all(|(number, payload)| *payload == [number])
        );
        match found.len() {
            10 => whole += 1,
            _ => parts += 1,
        }
    }
    assert!(whole > 0 && parts > 0, "{whole} {parts}");
}

#[test]
fn a_bad_record_that_a_later_one_vouches_for_is_rot() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (_, mut wal) = reopen(&disk, 0, 4096);
    wal.append(b"first", true).unwrap();
    wal.append(b"second", true).unwrap();
    let name = segment_name(1);
    let bytes = sim.contents()[&name].clone();
    let at = bytes
        .windows(6)
        .position(|window| window == b"second")
        .unwrap();
    sim.flip(&name, at, 1);
    assert_eq!(read(&sim).unwrap().0, [b"first"], "it may be torn");
    sim.flip(&name, at, 1);
    wal.append(b"", true).unwrap();
    sim.flip(&name, at, 1);
    let damage = read(&sim).unwrap_err();
    assert!(damage.reason.contains("it was durable"), "{damage}");
    assert_eq!(damage.offset, at as u64 - 40);
}

#[test]
fn what_a_device_does_behind_our_back_is_nothing_or_the_last_record_or_damage() {
    let mut damaged = [0; 3];
    for seed in 0..600 {
        let (sim, mut payloads) = log(u32::from(seed % 2 == 0));
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        sim.remember();
        let (_, mut wal) = reopen(&disk, 0, 4 * SEGMENT_BYTES);
        for number in 1..20 {
            payloads.push(vec![number; 100]);
            wal.append(&[number; 100], true).unwrap();
        }
        let kind = [Rot::Bit, Rot::Block, Rot::Sector][seed % 3];
        let mut rng = Rng::with_seed(seed as u64);
        let is_log = |name: &str| name.starts_with("wal-");
        let place = sim.rot(kind, &mut rng, is_log).unwrap();
        match read(&sim) {
            Ok((found, end)) if found != payloads => {
                // Not even a checksum tells a last write that was not done from one that was never asked for.
                assert!(
                    end.torn.is_some() || kind != Rot::Bit,
                    "seed {seed}: {place}"
                );
                assert!(payloads.starts_with(&found), "seed {seed}: {place}");
            }
            Ok(_) => {}
            Err(damage) => {
                assert!(place.starts_with(&damage.file), "{place}: {damage}");
                damaged[seed % 3] += 1;
            }
        }
    }
    assert!(damaged.iter().all(|times| *times > 20), "{damaged:?}");
}

#[test]
fn a_log_that_cannot_be_read_is_no_shorter_log() {
    let (sim, payloads) = log(1);
    let begun = sim.reads();
    assert_eq!(read(&sim).unwrap().0, payloads);
    let reads = sim.reads() - begun;
    assert!(reads >= 4, "{reads}");
    for read_at in 0..reads {
        for is_sticky in [false, true] {
            sim.fail_read_at(sim.reads() + read_at, is_sticky);
            let damage = read(&sim).unwrap_err();
            assert!(damage.reason.contains("input/output error"), "{damage}");
            sim.heal();
        }
    }
    assert_eq!(read(&sim).unwrap().0, payloads);
}
