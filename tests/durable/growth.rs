//! A node that is started over and over.

use std::time::Duration;

use marline::disk::sim::Crash;

use super::script::talker;
use super::world::{Disks, World};

#[test]
fn restarts_do_not_fill_the_disk() {
    let mut disks = Disks {
        // Many times what a start writes.
        segment_bytes: 64 << 10,
        ..Disks::plain()
    };
    for nth in 0..20 {
        let mut world = World::start(&disks);
        let client = talker(&mut world);
        assert_eq!(world.ask(client, &format!("SET k {nth}")), "OK");
        world.pass(Duration::from_secs(2));
        disks = disks.crashed(Crash::LoseAll);
    }
    let names = disks.data.contents().into_keys();
    let segments = names.filter(|name| name.starts_with("wal-")).count();
    assert!(segments <= 3, "{:?}", disks.data);
}

#[test]
fn spares_for_long_batches_do_not_pile_up() {
    let disks = Disks::plain();
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(100));
    let clients: Vec<_> = (0..50).map(|_| talker(&mut world)).collect();
    world.pass(Duration::from_secs(5));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut waits = vec![false; clients.len()];
    let (mut answers, end) = (0, world.net.now() + 10_000_000_000);
    while world.net.now() < end {
        for (client, waits) in clients.iter().zip(&mut waits) {
            if *waits {
                *waits = world.heard(*client).is_empty();
                answers += usize::from(!*waits);
            } else if rng.u8(..8) == 0 {
                let value = "x".repeat(rng.usize(100..3_000));
                world.send(*client, &format!("SET key {value}\n"));
                *waits = true;
            }
        }
        world.pass(Duration::from_millis(2));
        let files = disks.data.contents();
        let spares = files.keys().filter(|name| name.starts_with("spare-"));
        assert!(spares.count() <= 4, "{:?}", disks.data);
    }
    assert!(answers > 1_000, "{answers}");
}
