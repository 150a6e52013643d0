//! The keys that seal the data change while there are writes.

use std::time::Duration;

use marline::disk::sim::Crash;

use super::script::talker;
use super::world::{Disks, World};

#[test]
fn whoever_rotates_at_the_same_time_gets_a_key_of_its_own() {
    let disks = Disks::sealed();
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(20));
    let [one, other, writer] = [(); 3].map(|()| talker(&mut world));
    world.ask(writer, "SET before 1");
    world.send(one, "KEY ROTATE\n");
    world.send(other, "KEY ROTATE\n");
    world.send(writer, "SET behind 2\n");
    let mut ids = [one, other].map(|client| world.lines(client, 1));
    ids.sort();
    assert_eq!(ids, ["2\n", "3\n"]);
    world.lines(writer, 1);
    let dump = world.dump();
    let mut again = World::start(&disks.crashed(Crash::LoseAll));
    assert_eq!(again.fatal(), None);
    assert_eq!(again.dump(), dump);
}
