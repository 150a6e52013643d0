//! `--sync 1s`: a crash may take the last second, and what is left is as it was at some moment.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::Crash;

use super::script::talker;
use super::world::{Client, Disks, World};
use super::{is_full_run, seeds};

const SYNC: [(&str, &str); 1] = [("sync", "1s")];
/// A second, until somebody notices, and the disk.
const LOST_MAX: Duration = Duration::from_millis(1_200);

/// Disks on which no new segment makes the one before durable.
fn one_segment() -> Disks {
    Disks {
        segment_bytes: 1 << 20,
        ..Disks::plain()
    }
}

/// Writes numbers until a moment, and says which was acknowledged when.
fn write(world: &mut World, client: Client, until: Duration, rng: &mut Rng) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    while world.net.now() < until.as_nanos() as u64 {
        let number = acknowledged.len();
        // Keys of three shards.
        let text = format!("MSET a {number} b {number}\nAPPEND c ,{number}\n");
        world.send(client, &text);
        assert!(world.lines(client, 2).starts_with("OK\n"));
        acknowledged.push(world.net.now());
        match rng.u8(..20) {
            // The next ones come while snapshots are made.
            0 => drop(world.ask(client, "BGSAVE")),
            1..10 => world.pass(Duration::from_millis(rng.u64(..80))),
            _ => {}
        }
    }
    acknowledged
}

/// How many numbers there are, of which each must be whole and have those before it.
fn kept(disks: &Disks, what: &str) -> usize {
    let mut world = World::with(disks, &SYNC, 1);
    assert_eq!(world.fatal(), None, "{what}");
    let client = talker(&mut world);
    let [a, b, c] = ["a", "b", "c"].map(|key| world.ask(client, &format!("GET {key}")));
    assert_eq!(a, b, "{what}: one command, two shards");
    let appended = c.split(',').skip(1).count();
    let all: String = (0..appended).map(|number| format!(",{number}")).collect();
    assert_eq!(
        c,
        if appended == 0 {
            "(nil)".to_owned()
        } else {
            all
        },
        "{what}"
    );
    let set = a.parse::<usize>().map_or(0, |number| number + 1);
    assert!(
        set == appended || set == appended + 1,
        "{what}: {set} and {appended}"
    );
    appended
}

#[test]
fn a_crash_takes_the_last_second_at_most_and_leaves_a_moment() {
    let count = if is_full_run() { 200 } else { 25 };
    for seed in seeds(count) {
        let mut rng = Rng::with_seed(seed);
        let disks = one_segment();
        let mut world = World::with(&disks, &SYNC, seed);
        let client = talker(&mut world);
        let until = Duration::from_millis(rng.u64(500..6_000));
        let acknowledged = write(&mut world, client, until, &mut rng);
        let promised = world.net.now().saturating_sub(LOST_MAX.as_nanos() as u64);
        let promised = acknowledged.iter().filter(|at| **at < promised).count();
        for how in [
            Crash::LoseAll,
            Crash::KeepAll,
            Crash::Random(seed),
            Crash::Random(!seed),
        ] {
            let what = format!("seed {seed}, {how:?}");
            let kept = kept(&disks.crashed(how), &what);
            assert!(kept >= promised, "{what}: {kept} of {promised}");
        }
    }
}

#[test]
fn a_stop_takes_nothing() {
    for sync in ["always", "1s", "never"] {
        let mut rng = Rng::with_seed(1);
        let disks = one_segment();
        let mut world = World::with(&disks, &[("sync", sync)], 1);
        let client = talker(&mut world);
        let acknowledged = write(&mut world, client, Duration::from_millis(1_500), &mut rng);
        world.stop();
        assert_eq!(world.fatal(), None);
        let kept = kept(&disks.crashed(Crash::LoseAll), sync);
        assert_eq!(kept, acknowledged.len(), "--sync {sync}");
    }
}

/// Records that are left to the disk thread, so that it has the log nearly always.
#[test]
fn a_busy_disk_is_synced_every_second_too() {
    let disks = Disks {
        segment_bytes: 16 << 20,
        ..Disks::plain()
    };
    let mut world = World::with_on_slow_disk(&disks, &SYNC, Duration::from_millis(200));
    let clients = [(); 2].map(|()| talker(&mut world));
    world.pass(Duration::from_secs(3));
    let value = "x".repeat(70_000);
    let (mut written, mut waits) = (Vec::new(), [None; 2]);
    let end = world.net.now() + 8_000_000_000;
    let mut next = 1_000;
    while world.net.now() < end {
        for (client, wait) in clients.iter().zip(&mut waits) {
            match *wait {
                None => {
                    let set = format!("*3\r\n$3\r\nSET\r\n$4\r\n{next}\r\n$70000\r\n{value}\r\n");
                    world.send(*client, &set);
                    *wait = Some(next);
                    next += 1;
                }
                Some(number) if world.heard(*client) == "OK\n" => {
                    written.push((world.net.now(), number));
                    *wait = None;
                }
                Some(_) => {}
            }
        }
        world.pass(Duration::from_millis(1));
    }
    let promised = world.net.now() - LOST_MAX.as_nanos() as u64 - 400_000_000;
    let mut again = World::with(&disks.crashed(Crash::LoseAll), &SYNC, 1);
    let client = talker(&mut again);
    let mut count = 0;
    for (_, number) in written.iter().filter(|(at, _)| *at < promised) {
        assert_eq!(
            again.ask(client, &format!("EXISTS {number}")),
            "1",
            "{number}"
        );
        count += 1;
    }
    assert!(count > 20, "{count} were to be kept");
}
