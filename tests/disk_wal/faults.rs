//! Each call that changes the disk fails once, fails from then on, or is the last one before a crash; then each
//! call of the recovery is the last one before another crash.
//!
//! A script of operations runs on a simulated disk until it is over or the log is broken, and a model notes what was
//! promised. Whatever happens to the disk then, what is read is a run of the records that were appended: none that
//! was refused, none lost that was synced or stood before one that was read, none that was recycled for good.

use std::sync::Arc;

use marline::disk::sim::{Crash, Fault, SimDisk};
use marline::disk::wal::writer::Wal;
use marline::disk::wal::{self, replay};
use marline::disk::{Damage, Disk};

use super::{entropy, key, secret};

const SEGMENT_BYTES: u64 = 512;
const OPERATIONS: usize = 200;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Append {
        bytes: usize,
        sync: bool,
    },
    Sync,
    Prepare,
    /// Keeps so many segments.
    Recycle {
        kept: u64,
    },
    SetKey(u32),
    /// The process ends and another goes on.
    Reopen,
}

/// An append.
#[derive(Debug, Clone)]
struct Entry {
    payload: Vec<u8>,
    /// Its segment, once that is known.
    segment: Option<u64>,
}

/// What was promised.
#[derive(Debug, Clone, Default)]
struct Model {
    /// What may be read: the last one, without a segment, if an append failed in a way that leaves it open.
    entries: Vec<Entry>,
    /// So many of them were synced.
    durable: usize,
    /// Segments below this are gone.
    recycled: u64,
    /// Segments below this may be gone.
    recycling: u64,
    key_id: u32,
    /// Appends that were refused for lack of space.
    refused: usize,
    is_broken: bool,
}

/// The script: the same for the same seed.
fn script(seed: u64) -> Vec<Operation> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut script = vec![Operation::Reopen];
    while script.len() < OPERATIONS {
        script.push(match rng.u8(..100) {
            0..55 => Operation::Append {
                bytes: [0, 1, 8, 30, 60, 120, 700][rng.usize(..7)] * rng.usize(1..=2) / 2,
                sync: rng.bool(),
            },
            55..65 => Operation::Sync,
            65..80 => Operation::Prepare,
            80..92 => Operation::Recycle {
                kept: rng.u64(1..4),
            },
            92..96 => Operation::SetKey(rng.u32(..3)),
            _ => Operation::Reopen,
        });
    }
    script
}

/// Payloads differ, but for the empty ones.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{number:06}").into_bytes();
    payload.resize(bytes.max(6), b'.');
    payload.truncate(if bytes == 0 { 0 } else { usize::MAX });
    payload
}

/// What a process finds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Number of the first segment; 0: there is none.
    first: u64,
    payloads: Vec<Vec<u8>>,
}

fn read(disk: &dyn Disk) -> Result<(Found, replay::End), Damage> {
    let (payloads, end) = super::read(disk)?;
    let first = end.segments.first().map_or(0, |info| info.number);
    Ok((Found { first, payloads }, end))
}

/// Runs the script to its end, or until the log is broken.
fn run(sim: &SimDisk, script: &[Operation]) -> Model {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut model = Model::default();
    let mut wal = None;
    for (number, operation) in script.iter().enumerate() {
        if let Operation::Reopen = operation {
            drop(wal.take());
            let found = read(&*disk);
            let Ok((found, end)) = found else {
                // The machine is down: only a crash makes reading fail here.
                sim.list().unwrap_err();
                model.is_broken = true;
                return model;
            };
            let checked = model.check(&found);
            checked.unwrap_or_else(|wrong| panic!("reopened: {wrong}\n{sim:?}"));
            let seed = number as u64;
            let begun = Wal::begin(
                Arc::clone(&disk),
                key(model.key_id),
                entropy(seed),
                &end,
                SEGMENT_BYTES,
            );
            match begun {
                Ok(begun) => wal = Some(begun),
                Err(_) => {
                    model.is_broken = true;
                    return model;
                }
            }
            model.durable = model.entries.len();
        } else {
            let open = wal.as_mut().unwrap();
            if let Err(error) = step(open, *operation, number, &mut model)
                && !wal::is_full(&error)
            {
                let calls = sim.calls();
                open.append(b"never", true).unwrap_err();
                open.prepare().unwrap_err();
                assert_eq!(sim.calls(), calls, "a broken log touches nothing");
                model.is_broken = true;
                return model;
            }
        }
    }
    model
}

fn step(
    wal: &mut Wal,
    operation: Operation,
    number: usize,
    model: &mut Model,
) -> std::io::Result<()> {
    match operation {
        Operation::Append { bytes, sync } => {
            let payload = payload(number, bytes);
            let mut result = append(wal, payload.clone(), sync, model);
            if result.as_ref().is_err_and(wal::is_full) {
                result = append(wal, payload, sync, model);
            }
            result
        }
        Operation::Sync => {
            wal.sync()?;
            model.durable = model.entries.len();
            Ok(())
        }
        Operation::Prepare => wal.prepare(),
        Operation::Recycle { kept } => {
            let newest = wal.segments().last().map_or(0, |info| info.number);
            let below = (newest + 1).saturating_sub(kept);
            model.recycling = model.recycling.max(below);
            wal.recycle(below)?;
            model.recycled = model.recycled.max(below);
            Ok(())
        }
        Operation::SetKey(id) => {
            model.key_id = id;
            wal.set_key(key(id))
        }
        Operation::Reopen => unreachable!(),
    }
}

fn append(wal: &mut Wal, payload: Vec<u8>, sync: bool, model: &mut Model) -> std::io::Result<()> {
    let result = wal.append(&payload, sync);
    match &result {
        Ok(segment) => {
            let segment = Some(*segment);
            model.entries.push(Entry { payload, segment });
            if sync {
                model.durable = model.entries.len();
            }
        }
        Err(error) if wal::is_full(error) => model.refused += 1,
        Err(_) => model.entries.push(Entry {
            payload,
            segment: None,
        }),
    }
    result.map(|_| ())
}

impl Model {
    /// How many entries stand in segments below this.
    fn below(&self, number: u64) -> usize {
        let before = |entry: &&Entry| entry.segment.is_some_and(|segment| segment < number);
        self.entries.iter().take_while(before).count()
    }

    /// Whether this may be read after what was promised; how many of the entries that accounts for.
    fn check(&self, found: &Found) -> Result<usize, String> {
        let gone = self.below(found.first);
        let end = gone + found.payloads.len();
        let may_be_gone = self.below(self.recycled)..=self.below(self.recycling);
        let may_be_end = self.durable..=self.entries.len();
        let mut pairs = self.entries[gone..].iter().zip(&found.payloads);
        if may_be_gone.contains(&gone)
            && may_be_end.contains(&end)
            && pairs.all(|(entry, payload)| entry.payload == *payload)
        {
            return Ok(end);
        }
        let number = |payload: &Vec<u8>| {
            let digits = payload.get(..6).unwrap_or(b"-").to_vec();
            String::from_utf8(digits).unwrap()
        };
        let found: Vec<String> = found.payloads.iter().map(number).collect();
        let expected = self.entries.iter().map(|entry| number(&entry.payload));
        let expected: Vec<String> = expected.skip(gone).collect();
        Err(format!(
            "gone {gone} of {may_be_gone:?}, end {end} of {may_be_end:?}\nfound {found:?}\nof    {expected:?}"
        ))
    }
}

/// Reads, goes on and appends twice, on a machine that goes down in the process's call with number `last`. What of
/// that it promised, after what `model` did.
fn recover(sim: &SimDisk, model: &Model, last: Option<u64>) -> Result<Model, String> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (found, end) = read(&*disk).map_err(|damage| damage.to_string())?;
    let mut model = model.clone();
    model.entries.truncate(model.check(&found)?);
    if let Some(last) = last {
        sim.crash_at(sim.calls() + last);
    }
    let begun = Wal::begin(disk, key(1), entropy(99), &end, SEGMENT_BYTES);
    if let Ok(mut wal) = begun {
        model.durable = model.entries.len();
        model.recycled = found.first;
        for _ in 0..2 {
            if append(&mut wal, b"more".to_vec(), true, &mut model).is_err() {
                break;
            }
        }
    }
    Ok(model)
}

/// Recovers from what is left on a disk that has come up again: reads what may be read, goes on behind it, and
/// whichever call of that is the last before another crash, nothing is lost.
fn verify(sim: &SimDisk, model: &Model, rng: &mut fastrand::Rng) -> Result<(), String> {
    let begin = sim.calls();
    let whole = sim.fork();
    recover(&whole, model, None)?;
    let calls = whole.calls() - begin;
    for last in [None, Some(rng.u64(..calls))] {
        for how in [Crash::LoseAll, Crash::Random(rng.u64(..))] {
            let place = format!("crashed in call {last:?} of {calls} of the recovery, {how:?}");
            let cut = sim.fork();
            let promised = recover(&cut, model, last)?;
            cut.crash(how);
            let (again, _) = read(&cut).map_err(|damage| format!("{place}: {damage}"))?;
            promised
                .check(&again)
                .map_err(|wrong| format!("{place}: {wrong}"))?;
        }
    }
    Ok(())
}

/// What may follow a failure: the death of the process, or a crash of the machine.
fn aftermaths(rng: &mut fastrand::Rng) -> [Option<Crash>; 5] {
    [
        None,
        Some(Crash::KeepAll),
        Some(Crash::LoseAll),
        Some(Crash::Random(rng.u64(..))),
        Some(Crash::Random(rng.u64(..))),
    ]
}

/// Runs the script once for every call that it makes, with `plan` for that call. Returns how many of the runs
/// ended early, and how many appends were refused in all.
fn explore(seed: u64, plan: &dyn Fn(&SimDisk, u64)) -> (u64, u64, usize) {
    let script = script(seed);
    let calm = SimDisk::new(seed);
    let model = run(&calm, &script);
    assert!(!model.is_broken && model.refused == 0);
    assert!(secret(1).is_some() && model.entries.len() > 80);
    let (mut broken, mut refused) = (0, 0);
    for call in 0..calm.calls() {
        let mut rng = fastrand::Rng::with_seed(seed ^ call);
        let sim = SimDisk::new(seed);
        plan(&sim, call);
        let model = run(&sim, &script);
        broken += u64::from(model.is_broken);
        refused += model.refused;
        for aftermath in aftermaths(&mut rng) {
            let sim = sim.fork();
            match aftermath {
                None => sim.restart(),
                Some(how) => sim.crash(how),
            }
            let verified = verify(&sim, &model, &mut rng);
            verified.unwrap_or_else(|wrong| {
                panic!("seed {seed}, call {call}, then {aftermath:?}: {wrong}\n{sim:?}")
            });
        }
    }
    (calm.calls(), broken, refused)
}

#[test]
fn a_crash_in_every_call() {
    for seed in 0..4 {
        let (calls, broken, _) = explore(seed, &|sim, call| sim.crash_at(call));
        assert!(calls > 300 && broken == calls, "{broken} of {calls}");
    }
}

#[test]
fn every_call_fails_once() {
    let (calls, broken, _) = explore(1, &|sim, call| sim.fail_at(call, Fault::Eio, false));
    assert!(broken > calls * 9 / 10, "{broken} of {calls}");
}

#[test]
fn every_call_fails_and_all_after_it() {
    let (calls, broken, _) = explore(2, &|sim, call| sim.fail_at(call, Fault::Eio, true));
    assert!(broken == calls, "{broken} of {calls}");
}

#[test]
fn every_call_lacks_space_once() {
    for seed in 3..5 {
        let (calls, broken, refused) =
            explore(seed, &|sim, call| sim.fail_at(call, Fault::Enospc, false));
        assert!(
            broken < calls / 2 && refused > 50,
            "{broken} of {calls}, {refused} refused"
        );
    }
}

#[test]
fn every_call_lacks_space_and_all_after_it() {
    let (calls, _, refused) = explore(5, &|sim, call| sim.fail_at(call, Fault::Enospc, true));
    assert!(refused > 100, "{calls} calls, {refused} refused");
}

#[test]
fn the_disk_becomes_full_at_any_size() {
    for seed in 0..150 {
        let sim = SimDisk::new(seed);
        sim.limit(1000 + 37 * seed);
        let script = script(6);
        let model = run(&sim, &script);
        assert!(!model.is_broken);
        for how in [Crash::KeepAll, Crash::LoseAll, Crash::Random(seed)] {
            let sim = sim.fork();
            sim.crash(how);
            let found = read(&sim).map(|(found, _)| found);
            let found = found.unwrap_or_else(|damage| panic!("limit of seed {seed}: {damage}"));
            let checked = model.check(&found);
            checked.unwrap_or_else(|wrong| panic!("limit of seed {seed}: {wrong}"));
        }
    }
}
