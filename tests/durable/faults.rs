//! A fault at each call of the disk in turn.

use fastrand::Rng;
use marline::disk::sim::{Crash, Fault};

use super::script::{self, Step, check, play};
use super::world::{Disks, World};
use super::{is_full_run, seed};

const SPECIAL: [&str; 3] = ["SAVE", "BGSAVE", "BACKUP backup-#"];
const STEPS: usize = 200;

/// The script, and how many calls it takes of a disk on which nothing happens.
fn script_and_calls(disks: &Disks, special: &[&str]) -> (Vec<Step>, u64) {
    let steps = script::random(&mut Rng::with_seed(seed()), STEPS, special);
    let disks = disks.fork();
    let mut world = World::start(&disks);
    let played = play(&mut world, &steps, &mut Rng::with_seed(seed()), None);
    check(&disks.crashed(Crash::LoseAll), &played, "no fault");
    (steps, disks.data.calls())
}

/// Plays the script with one fault, for each `stride`th call from `first` on.
fn at_calls(first: usize, stride: usize, mut play_with: impl FnMut(&[Step], u64)) {
    let (steps, calls) = script_and_calls(&Disks::plain(), &SPECIAL);
    let stride = if is_full_run() { 1 } else { stride };
    let first = (first + seed() as usize) % stride;
    println!("{calls} calls");
    assert!(calls > 100, "something is written");
    for call in (0..calls).skip(first).step_by(stride) {
        play_with(&steps, call);
    }
}

fn crashes(call: u64) -> [Crash; 4] {
    [
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Random(call),
        Crash::Random(!call),
    ]
}

fn failing_device(is_sticky: bool, first: usize, stride: usize) {
    at_calls(first, stride, |steps, call| {
        let disks = Disks::plain();
        disks.data.fail_at(call, Fault::Eio, is_sticky);
        let mut world = World::start(&disks);
        let mut rng = Rng::with_seed(seed());
        let played = play(&mut world, steps, &mut rng, None);
        // The last calls may be those of a snapshot that goes on.
        world.until(|world| world.is_over);
        let fatal = world.fatal().unwrap_or_default();
        assert!(!fatal.is_empty(), "call {call} failed and the node goes on");
        for how in crashes(call) {
            check(
                &disks.crashed(how),
                &played,
                &format!("call {call} failed, {how:?}"),
            );
        }
    });
}

#[test]
fn a_device_that_failed_once_stops_the_node() {
    failing_device(false, 3, 17);
}

#[test]
fn a_device_that_is_dead_stops_the_node() {
    failing_device(true, 5, 29);
}

#[test]
fn a_machine_that_goes_down_keeps_what_was_promised() {
    at_calls(1, 11, |steps, call| {
        let disks = Disks::plain();
        disks.data.crash_at(call);
        let mut world = World::start(&disks);
        let played = play(&mut world, steps, &mut Rng::with_seed(seed()), None);
        for how in crashes(call) {
            check(
                &disks.crashed(how),
                &played,
                &format!("down at call {call}, {how:?}"),
            );
        }
    });
}

fn full_disk(is_sticky: bool, first: usize, stride: usize) {
    at_calls(first, stride, |steps, call| {
        let disks = Disks::plain();
        let mut world = World::start(&disks);
        let call = call.max(disks.data.calls());
        disks.data.fail_at(call, Fault::Enospc, is_sticky);
        let mut rng = Rng::with_seed(seed());
        let mut played = play(&mut world, steps, &mut rng, Some(&disks.data));
        let what = format!("no space at call {call}");
        // A call that needs no space, as long as nothing is copied on write: the log ends the process if it does.
        if world.fatal().is_some() {
            check(&disks.crashed(Crash::LoseAll), &played, &what);
            check(&disks.crashed(Crash::Random(call)), &played, &what);
            return;
        }
        disks.data.heal();
        world.pass(std::time::Duration::from_secs(3));
        let last = play(&mut world, &script::parse("SET the end"), &mut rng, None);
        assert_eq!(last[0].1, script::Fate::Done("OK".to_owned()), "{what}");
        played.extend(last);
        check(&disks.crashed(Crash::LoseAll), &played, &what);
        check(&disks.crashed(Crash::Random(call)), &played, &what);
    });
}

#[test]
fn a_disk_without_space_for_a_moment_stops_nobody() {
    full_disk(false, 2, 17);
}

#[test]
fn a_disk_without_space_is_waited_for() {
    full_disk(true, 7, 23);
}
