//! A disk without space: writes are refused, in their place, and nothing hangs.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::Disk;
use marline::disk::sim::{Crash, Fault};

use super::script::{self, Fate, check, play, talker};
use super::world::{Client, Disks, World};
use super::{is_full_run, seed};

const NO_SPACE: &str = "-NOSPACE";

/// A write that begins a segment, for which there is a spare.
fn long_write() -> String {
    format!("SET stuck {}\n", "x".repeat(700))
}

/// From now on every call finds no space, even one that writes over what is there.
fn refuse_all(disks: &Disks) {
    let call = disks.data.calls();
    disks.data.fail_at(call, Fault::Enospc, true);
}

fn used(disks: &Disks) -> u64 {
    let files = disks.data.contents();
    files.values().map(|bytes| bytes.len() as u64).sum()
}

/// A node, a client, and a write of it that was handed over and cannot be kept for lack of space.
fn stuck() -> (Disks, World, Client) {
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    world.ask(client, "SET before 1");
    world.pass(Duration::from_millis(500));
    refuse_all(&disks);
    world.send(client, &long_write());
    world.pass(Duration::from_millis(500));
    assert_eq!(world.heard(client), "");
    (disks, world, client)
}

#[test]
fn a_batch_without_space_is_refused_whole() {
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let [one, other, third] = [(); 3].map(|()| talker(&mut world));
    world.ask(one, "SET before 1");
    world.pass(Duration::from_millis(500));
    let dump = world.dump();
    disks.data.limit(0);
    let long = "x".repeat(2_000);
    world.send(
        one,
        &format!("SET a {long}\nGET before\nAPPEND before 2\nGET before\n"),
    );
    world.send(
        other,
        &format!("MULTI\nSET b {long}\nGET before\nMSET before 2 c 3\nDEL before\nEXEC\n"),
    );
    world.send(
        third,
        &format!("MSET d {long} e 1\nDEL before\nFLUSHALL\nGET before\n"),
    );
    let heard = world.lines(one, 4);
    let lines: Vec<&str> = heard.lines().collect();
    assert!(
        lines[0].starts_with(NO_SPACE) && lines[2].starts_with(NO_SPACE),
        "{heard}"
    );
    assert_eq!((lines[1], lines[3]), ("1", "1"));
    let heard = world.lines(other, 6);
    assert!(
        heard.lines().last().unwrap().starts_with(NO_SPACE),
        "{heard}"
    );
    let heard = world.lines(third, 4);
    assert!(
        heard.lines().take(3).all(|line| line.starts_with(NO_SPACE)),
        "{heard}"
    );
    assert_eq!(heard.lines().last(), Some("1"));
    assert_eq!(world.dump(), dump);
    // Nothing of it counts as being under way: who must look first can.
    assert_eq!(world.ask(one, "COPY before a"), "1");
    assert_eq!(world.ask(other, "RENAME a b"), "OK");
    let dump = world.dump();
    let mut again = World::start(&disks.crashed(Crash::LoseAll));
    assert_eq!(again.dump(), dump);
}

#[test]
fn what_is_too_long_for_the_disk_is_refused_alone() {
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    world.ask(client, "SET before 1");
    world.pass(Duration::from_secs(1));
    disks.data.limit(used(&disks) + (3 << 10));
    for _ in 0..3 {
        let told = world.ask(client, &format!("SET long {}", "x".repeat(8_000)));
        assert!(told.starts_with(NO_SPACE), "{told}");
        assert_eq!(world.ask(client, "SET short 1"), "OK");
    }
    assert_eq!(world.ask(client, "EXISTS long"), "0");
}

#[test]
fn without_a_log_deletes_are_refused_too() {
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    world.ask(client, "SET before 1");
    let disks = disks.crashed(Crash::LoseAll);
    for name in disks.data.contents().into_keys() {
        if name.starts_with("spare-") || name == "reserve" {
            disks.data.remove(&name).unwrap();
        }
    }
    disks.data.limit(0);
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    assert_eq!(world.ask(client, "GET before"), "1");
    for command in ["SET k v", "DEL before"] {
        assert!(
            world.ask(client, command).starts_with(NO_SPACE),
            "{command}"
        );
    }
    disks.data.limit(u64::MAX);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.ask(client, "DEL before"), "1");
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
    disks.data.heal();
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
    refuse_all(&disks);
    // They wait for the write, and keep others off its key; only then it shows that there is no space.
    world.send(writer, &long_write());
    world.pass(Duration::from_micros(200));
    world.send(copier, "COPY stuck copied\n");
    world.send(transactor, "EXEC\n");
    world.pass(Duration::from_secs(1));
    let heard = [writer, copier, transactor].map(|client| world.heard(client));
    assert_eq!(heard, ["", "", ""]);
    // There is space for what is stuck, and not for the reserve.
    disks.data.heal();
    disks.data.limit(used(&disks) + (2 << 10));
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
    let disks = Disks::plain();
    let mut world = World::start(&disks);
    let client = talker(&mut world);
    world.ask(client, "MSET before 1 other 1");
    disks.data.limit(0);
    // All that was set aside for them is used up.
    while !world.ask(client, "DEL nothing").starts_with(NO_SPACE) {
        world.pass(Duration::from_millis(1));
    }
    // With each attempt there is a little more.
    let mut capacity = used(&disks);
    let before = capacity;
    while world.ask(client, "DEL before") != "1" {
        capacity += 256;
        disks.data.limit(capacity);
        world.pass(Duration::from_secs(2));
        assert!(capacity < before + (2 << 10), "{:?}", disks.data);
    }
    assert!(world.ask(client, "SET k v").starts_with(NO_SPACE));
    assert_eq!(world.ask(client, "DEL other"), "1");
}

#[test]
fn a_write_is_answered_although_what_follows_it_finds_no_space() {
    for nth in 0..16 {
        let disks = Disks::sealed();
        let mut world = World::start(&disks);
        let client = talker(&mut world);
        world.ask(client, "SET before 1");
        world.pass(Duration::from_secs(1));
        refuse_all(&disks);
        world.send(client, &long_write());
        world.pass(Duration::from_millis(500));
        // The new key begins another segment, behind the record that waits.
        let other = talker(&mut world);
        assert_eq!(world.ask(other, "KEY ROTATE"), "2");
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
    let mut saved = 0;
    for nth in 0..60 {
        let disks = Disks::plain();
        let mut world = World::with(&disks, &[("sync", "never")], 1);
        let [client, saver] = [(); 2].map(|()| talker(&mut world));
        world.ask(client, "SET before 1");
        world.pass(Duration::from_secs(1));
        // The record waits for space, and so does the sync that saving asks for, if it is the call that fails.
        disks
            .data
            .fail_at(disks.data.calls() + 1, Fault::Enospc, false);
        world.send(client, &long_write());
        world.pass(Duration::from_millis(100));
        assert_eq!(world.heard(client), "", "{nth}");
        let call = disks.data.calls() + nth;
        disks.data.fail_at(call, Fault::Enospc, false);
        world.send(saver, "SAVE\n");
        world.pass(Duration::from_secs(10));
        if world.fatal().is_some() {
            // A sync of what was answered, or of the directory.
            continue;
        }
        assert_eq!(world.heard(client), "OK\n", "{nth}");
        assert!(!world.heard(saver).is_empty(), "{nth}");
        saved += 1;
    }
    assert!(saved > 40, "{saved} of 60");
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

#[test]
fn deletes_do_not_wait_for_a_record_that_nobody_waits_for() {
    let disks = Disks {
        segment_bytes: 64 << 10,
        ..Disks::plain()
    };
    let mut world = World::start(&disks);
    let [client, saver] = [(); 2].map(|()| talker(&mut world));
    world.ask(client, "SET before 1");
    world.pass(Duration::from_secs(1));
    disks.data.limit(0);
    // That shows that the disk is full.
    assert!(world.ask(saver, "SAVE").starts_with("-ERR"));
    assert!(world.ask(client, "SET k v").starts_with(NO_SPACE));
    for wait in 0..20 {
        world.pass(Duration::from_millis(170 + 13 * wait));
        let start = world.net.now();
        world.ask(client, "DEL before");
        let took = world.net.now() - start;
        assert!(took < 50_000_000, "DEL took {took} ns");
    }
}
