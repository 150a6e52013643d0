//! Group commit: one sync for what many clients say at a time.

use std::time::Duration;

use super::script::talker;
use super::world::{Disks, World};

const CLIENTS: u64 = 50;

#[test]
fn writes_of_many_clients_share_a_sync() {
    let disks = Disks {
        segment_bytes: 1 << 20,
        ..Disks::plain()
    };
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(100));
    let clients: Vec<_> = (0..CLIENTS).map(|_| talker(&mut world)).collect();
    world.pass(Duration::from_secs(5));
    let (calls, first, rest) = (disks.data.calls(), clients[0], &clients[1..]);
    world.send(first, "SET key-0 v\n");
    world.pass(Duration::from_micros(500));
    for (number, client) in (1..).zip(rest) {
        world.send(*client, &format!("SET key-{number} v\nINCR counter\n"));
    }
    assert_eq!(world.lines(first, 1), "OK\n");
    for client in rest {
        assert!(world.lines(*client, 2).starts_with("OK\n"));
    }
    // A write and a sync of the log for the first, the same for all others together.
    assert_eq!(disks.data.calls() - calls, 4);
    assert_eq!(world.ask(first, "GET counter"), (CLIENTS - 1).to_string());
}

/// Clients that say the next write when they hear of the last, all or half of them at first; calls that the disk
/// gets until each has been answered so often.
fn calls_of_a_dialogue(at_first: usize, rounds: usize) -> u64 {
    let disks = Disks {
        segment_bytes: 1 << 20,
        ..Disks::plain()
    };
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(40));
    let clients: Vec<_> = (0..CLIENTS).map(|_| talker(&mut world)).collect();
    world.pass(Duration::from_secs(5));
    let calls = disks.data.calls();
    let (first, rest) = clients.split_at(at_first);
    for client in first {
        world.send(*client, "INCR counter\n");
    }
    world.pass(Duration::from_millis(1));
    for client in rest {
        world.send(*client, "INCR counter\n");
    }
    let mut answers = vec![0; clients.len()];
    while answers.iter().any(|count| *count < rounds) {
        world.pass(Duration::from_micros(100));
        for (client, count) in clients.iter().zip(&mut answers) {
            if !world.heard(*client).is_empty() {
                *count += 1;
                world.send(*client, "INCR counter\n");
            }
        }
    }
    disks.data.calls() - calls
}

#[test]
fn those_who_come_back_at_once_share_the_next_sync() {
    let rounds = 60;
    for at_first in [1, CLIENTS as usize / 2, CLIENTS as usize] {
        let calls = calls_of_a_dialogue(at_first, rounds);
        // A write and a sync each, and some syncs that are too short to be waited for; without waiting more than 300.
        assert!(calls <= 4 * rounds as u64, "{at_first}: {calls} calls");
    }
}

#[test]
fn a_batch_waits_for_nobody_who_does_not_come_back() {
    let disks = Disks::plain();
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(40));
    let [one, other] = [(); 2].map(|()| talker(&mut world));
    world.pass(Duration::from_secs(5));
    let mut longest = 0;
    for _ in 0..50 {
        world.send(one, "SET key 1\n");
        world.pass(Duration::from_millis(1));
        let start = world.net.now();
        world.send(other, "SET key 2\n");
        world.lines(other, 1);
        longest = longest.max(world.net.now() - start);
        world.heard(one);
        world.pass(Duration::from_millis(100));
    }
    // The rest of the sync under way, a quarter of it, and one more; each at most 40 ms and the switch of threads.
    assert!(longest < 92_000_000, "{longest} ns");
}
