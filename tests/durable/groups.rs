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
