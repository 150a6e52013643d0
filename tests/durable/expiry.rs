//! Keys that expire while writes to them are on their way.

use std::time::Duration;

use marline::disk::sim::Crash;

use super::script::talker;
use super::world::{Disks, World};

/// What is said of a key that is about to expire, while the disk takes its time, and what a reader finds then.
#[test]
fn a_reader_who_sees_a_key_expire_takes_nothing_from_a_write_before() {
    for (write, answer, after) in [
        ("PERSIST key", "1", "5 = -1"),
        ("INCR key", "6", "(nil) = -2"),
        ("SET key 7 KEEPTTL", "OK", "(nil) = -2"),
        ("APPEND key 6", "2", "(nil) = -2"),
        ("PEXPIRE key 100000000", "1", "5 = 1"),
        ("GETSET key 8", "5", "8 = -1"),
    ] {
        let disks = Disks::plain();
        let mut world = World::on_slow_disk(&disks, Duration::from_secs(2));
        world.pass(Duration::from_secs(10));
        let [client, reader] = [(); 2].map(|()| talker(&mut world));
        // Alive when the second write is said, expired long before it is on the disk.
        world.ask(client, "SET key 5");
        world.ask(client, "PEXPIRE key 20000");
        let left: u64 = world.ask(reader, "PTTL key").parse().unwrap();
        world.pass(Duration::from_millis(left - 20));
        world.send(client, &format!("{write}\n"));
        world.pass(Duration::from_millis(40));
        let heard = world.heard(client);
        assert_eq!(heard, "", "{write}: the disk is too fast for this test");
        assert_eq!(world.ask(reader, "GET key"), "(nil)", "{write}");
        assert_eq!(world.ask(reader, "EXISTS key"), "0", "{write}");
        let early = disks.crashed(Crash::LoseAll);
        assert_eq!(world.lines(client, 1).trim_end(), answer, "{write}");
        let state = |world: &mut World| {
            let client = talker(world);
            let (value, ttl) = (world.ask(client, "GET key"), world.ask(client, "TTL key"));
            format!("{value} = {}", ttl.parse::<i64>().unwrap().min(1))
        };
        assert_eq!(state(&mut world), after, "{write}");
        let mut again = World::start(&disks.crashed(Crash::LoseAll));
        assert_eq!(state(&mut again), after, "{write}, after a crash");
        let mut again = World::start(&early);
        assert_eq!(state(&mut again), "(nil) = -2", "{write}, which was lost");
    }
}

/// A read stands in a batch before a write to its key that was stamped when the key was alive. When the batch lands the
/// key is past its time, and the next batch, stamped later, is on its way already.
#[test]
fn a_reader_in_a_batch_takes_nothing_from_a_write_behind_it() {
    let mut seen = 0;
    for early_ms in (10..2_000).step_by(10) {
        let disks = Disks::plain();
        let mut world = World::on_slow_disk(&disks, Duration::from_secs(2));
        world.pass(Duration::from_secs(10));
        let [first, reader, writer, last] = [(); 4].map(|()| talker(&mut world));
        // So that the calls that follow take other times in each round.
        for _ in 0..early_ms / 10 % 8 {
            world.ask(first, "SET key 5");
        }
        // Nobody comes back at once after these, so that batches are not held.
        world.send(first, &"SET key 5\n".repeat(8));
        world.lines(first, 8);
        world.pass(Duration::from_secs(2));
        world.ask(first, "PEXPIRE key 20000");
        let left: u64 = world.ask(first, "PTTL key").parse().unwrap();
        world.pass(Duration::from_millis(left - early_ms));
        world.send(first, "SET other 1\n");
        world.pass(Duration::from_millis(1));
        world.send(reader, "SET third 1\nGET key\n");
        world.send(writer, "PERSIST key\n");
        world.lines(first, 1);
        world.send(last, "APPEND key x\n");
        let heard = [world.lines(reader, 2), world.lines(writer, 1)];
        seen += usize::from(heard == ["OK\n(nil)\n", "1\n"]);
        world.lines(last, 1);
        let dump = world.dump();
        let mut again = World::start(&disks.crashed(Crash::LoseAll));
        assert_eq!(again.dump(), dump, "{early_ms} ms, {heard:?}");
    }
    assert!(seen > 0, "the key never expired meanwhile");
}

/// The last write before a crash is applied when the node has started; keys are past their time before.
#[test]
fn nothing_is_swept_before_the_log_is_applied() {
    for (write, after) in [
        ("PERSIST key", "5"),
        ("INCR key", "(nil)"),
        ("APPEND key 6", "(nil)"),
    ] {
        let disks = Disks::plain();
        let mut world = World::start(&disks);
        let client = talker(&mut world);
        world.ask(client, "SET key 5");
        world.ask(client, "PEXPIRE key 5000");
        world.ask(client, write);
        let disks = disks.crashed(Crash::LoseAll);
        world.pass(Duration::from_secs(10));
        // So slow that there is time for sweeps.
        let mut again = World::on_slow_disk(&disks, Duration::from_secs(2));
        again.pass(Duration::from_secs(10));
        let client = talker(&mut again);
        assert_eq!(again.ask(client, "GET key"), after, "{write}");
        assert_eq!(
            again.ask(client, "TTL key").parse::<i64>().unwrap().min(-1),
            if after == "5" { -1 } else { -2 }
        );
    }
}
