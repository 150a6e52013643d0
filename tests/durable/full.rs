//! A disk without space: writes are refused, in their place, and nothing hangs.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::{Crash, Fault};

use super::script::{self, Fate, check, play, talker};
use super::world::{Client, Disks, World};
use super::{is_full_run, seed};

const NO_SPACE: &str = "-NOSPACE";

/// A node, a client, and a write of it that cannot be kept for lack of space.
fn stuck() -> (Disks, World, Client) {
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    world.ask(client, "SET before 1");
    disks.data.limit(0);
    world.send(client, &format!("SET stuck {}\n", "x".repeat(2_000)));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.heard(client), "");
    (disks, world, client)
}

#[test]
fn refusals_stand_behind_earlier_answers() {
    let (disks, mut world, client) = stuck();
    world.send(client, "SET refused 1\nGET before\n");
    let mut other = talker(&mut world);
    assert!(world.ask(other, "SET k v").starts_with(NO_SPACE));
    assert_eq!(world.ask(other, "GET before"), "1");
    world.send(other, "WATCH stuck\nMULTI\nGET before\nGET stuck\nEXEC\n");
    let heard = world.lines(other, 5);
    assert!(heard.ends_with("\n*2 1 (nil)\n"), "{heard}");
    assert_eq!(world.heard(client), "");
    disks.data.limit(u64::MAX);
    let heard = world.lines(client, 3);
    assert_eq!(heard.lines().next(), Some("OK"), "{heard}");
    assert_eq!(heard.lines().last(), Some("1"), "{heard}");
    world.pass(Duration::from_secs(3));
    other = talker(&mut world);
    assert_eq!(world.ask(other, "SET k v"), "OK");
}

#[test]
fn whoever_is_refused_stands_in_nobodys_way() {
    let disks = Disks::plain();
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(50));
    let [writer, copier, transactor, other] = [(); 4].map(|()| talker(&mut world));
    world.ask(writer, "SET kept 1");
    world.send(transactor, "WATCH kept\nMULTI\nSET new 1\nEXEC\n");
    world.lines(transactor, 4);
    world.send(transactor, "WATCH stuck\nMULTI\nSET kept 2\n");
    world.lines(transactor, 3);
    world.pass(Duration::from_secs(1));
    disks.data.limit(0);
    // They wait for the write, and keep others off its key; only then it shows that there is no space.
    world.send(writer, &format!("SET stuck {}\n", "x".repeat(2_000)));
    world.pass(Duration::from_micros(200));
    world.send(copier, "COPY stuck copied\n");
    world.send(transactor, "EXEC\n");
    world.pass(Duration::from_secs(1));
    let heard = [writer, copier, transactor].map(|client| world.heard(client));
    assert_eq!(heard, ["", "", ""]);
    // There is space for what is stuck, and not for the reserve.
    disks.data.limit(8 << 10);
    assert_eq!(world.lines(writer, 1), "OK\n");
    assert!(world.lines(copier, 1).starts_with(NO_SPACE));
    assert_eq!(world.lines(transactor, 1), "(nil)\n");
    assert_eq!(world.ask(other, "DEL stuck"), "1");
    disks.data.limit(u64::MAX);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.ask(other, "SET stuck v"), "OK");
}

#[test]
fn space_is_given_to_deletes_before_the_reserve() {
    let (disks, mut world, client) = stuck();
    // With each attempt there is a little more.
    let mut capacity = 0;
    while world.heard(client).is_empty() {
        capacity += 512;
        disks.data.limit(capacity);
        world.pass(Duration::from_secs(2));
        assert!(capacity < 16 << 10, "{:?}", disks.data);
    }
    let needed = 6 << 10;
    assert!(capacity <= needed, "{capacity}: {:?}", disks.data);
    let other = talker(&mut world);
    assert!(world.ask(other, "SET k v").starts_with(NO_SPACE));
    assert_eq!(world.ask(other, "DEL before stuck"), "2");
}

#[test]
fn a_write_is_answered_although_what_follows_it_finds_no_space() {
    for nth in 0..16 {
        let disks = Disks::sealed();
        let mut world = World::start(&disks);
        let client = talker(&mut world);
        world.ask(client, "SET before 1");
        world.pass(Duration::from_secs(1));
        disks.data.limit(0);
        world.send(client, &format!("SET stuck {}\n", "x".repeat(2_000)));
        world.pass(Duration::from_millis(500));
        // The new key begins another segment, behind the record that waits.
        let other = talker(&mut world);
        assert_eq!(world.ask(other, "KEY ROTATE"), "2");
        disks.data.limit(u64::MAX);
        let call = disks.data.calls() + nth;
        disks.data.fail_at(call, Fault::Enospc, false);
        world.pass(Duration::from_secs(5));
        if world.fatal().is_some() {
            // A directory that could not be synced, for whatever reason.
            continue;
        }
        assert_eq!(world.heard(client), "OK\n", "{nth}");
        assert_eq!(world.ask(other, "SET k v"), "OK", "{nth}");
        let dump = world.dump();
        let mut again = World::start(&disks.crashed(Crash::LoseAll));
        assert_eq!(again.dump(), dump);
    }
}

#[test]
fn saving_does_not_wait_for_a_sync_that_was_forgotten() {
    let disks = Disks::plain();
    let mut world = World::with(&disks, &[("sync", "never")], 1);
    let [client, saver] = [(); 2].map(|()| talker(&mut world));
    world.ask(client, "SET before 1");
    world.pass(Duration::from_secs(1));
    disks.data.limit(0);
    world.send(client, &format!("SET stuck {}\n", "x".repeat(2_000)));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.heard(client), "");
    // There is space for a snapshot, and not for the record.
    let used: usize = disks.data.contents().values().map(Vec::len).sum();
    disks.data.limit(used as u64 + 700);
    world.send(saver, "SAVE\n");
    world.pass(Duration::from_millis(400));
    assert_eq!(world.heard(saver), "");
    disks.data.limit(u64::MAX);
    assert_eq!(world.lines(client, 1), "OK\n");
    assert_eq!(world.lines(saver, 1), "OK\n");
}

#[test]
fn a_stop_does_not_wait_for_space() {
    let (_, mut world, _) = stuck();
    world.stop();
}

#[test]
fn a_disk_that_is_full_at_any_size_stops_nobody() {
    let stride = if is_full_run() { 8 } else { 300 };
    for more in (0..12_000).skip(seed() as usize % stride).step_by(stride) {
        let mut rng = Rng::with_seed(seed());
        let steps = script::random(&mut rng, 120, &["SAVE", "BGSAVE"]);
        let disks = Disks::plain();
        let mut world = World::start(&disks);
        world.pass(Duration::from_secs(1));
        let files = disks.data.contents();
        let used: usize = files.values().map(Vec::len).sum();
        disks.data.limit((used + more) as u64);
        let mut played = play(&mut world, &steps, &mut rng, Some(&disks.data));
        disks.data.limit(u64::MAX);
        world.pass(Duration::from_secs(10));
        assert_eq!(world.fatal(), None, "{more}");
        let last = play(&mut world, &script::parse("SET the end"), &mut rng, None);
        assert_eq!(last[0].1, Fate::Done("OK".to_owned()), "{more}");
        played.extend(last);
        for how in [Crash::LoseAll, Crash::Random(more as u64)] {
            check(
                &disks.crashed(how),
                &played,
                &format!("{more} bytes, {how:?}"),
            );
        }
    }
}

#[test]
fn saving_is_tried_again_when_there_is_space() {
    for nth in 0..40 {
        let disks = Disks {
            segment_bytes: 64 << 10,
            ..Disks::plain()
        };
        let mut world = World::start(&disks);
        let client = talker(&mut world);
        for round in 1..=2 {
            for key in 0..20 {
                world.ask(client, &format!("SET key-{key} {round}"));
            }
            if round == 1 {
                assert_eq!(world.ask(client, "SAVE"), "OK");
                world.pass(Duration::from_secs(1));
            }
        }
        disks
            .data
            .fail_at(disks.data.calls() + nth, Fault::Enospc, false);
        world.ask(client, "SAVE");
        world.pass(Duration::from_secs(10));
        assert_eq!(world.fatal(), None, "{nth}: {:?}", disks.data);
        disks.data.heal();
        assert_eq!(world.ask(client, "SAVE"), "OK");
        world.pass(Duration::from_secs(1));
        let names = disks.data.contents().into_keys();
        let snapshots = names.filter(|name| name.starts_with("snapshot-")).count();
        assert_eq!(snapshots, 4, "{nth}: {:?}", disks.data);
        let dump = world.dump();
        let mut again = World::start(&disks.crashed(Crash::LoseAll));
        assert_eq!(again.dump(), dump);
    }
}

#[test]
fn a_write_is_answered_although_the_log_cannot_be_tidied() {
    let mut survived = 0;
    for nth in 0..60 {
        let disks = Disks::plain();
        let mut world = World::start(&disks);
        let [writer, saver] = [(); 2].map(|()| talker(&mut world));
        for key in 0..40 {
            world.ask(writer, &format!("SET key-{key} {key}"));
        }
        world.send(saver, "SAVE\n");
        disks
            .data
            .fail_at(disks.data.calls() + nth, Fault::Enospc, false);
        for _ in 0..40 {
            let told = world.ask(writer, "INCR number");
            assert!(!told.is_empty() || world.fatal().is_some(), "{nth}");
        }
        survived += usize::from(world.fatal().is_none());
    }
    assert!(survived > 30, "{survived} of 60");
}
