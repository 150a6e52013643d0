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
