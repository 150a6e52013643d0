//! What clients see while writes of theirs and of others are on their way to the disk.

use std::time::Duration;

use marline::disk::sim::Crash;

use super::script::talker;
use super::world::{Client, Disks, World};

/// Long enough for a command to be read, short enough for no job to be done.
const MOMENT: Duration = Duration::from_micros(500);

/// A node whose disk takes most of a second, and so many clients.
fn slow<const N: usize>() -> (World, [Client; N]) {
    let mut world = World::on_slow_disk(&Disks::plain(), Duration::from_secs(1));
    world.pass(Duration::from_secs(5));
    let clients = [(); N].map(|()| talker(&mut world));
    (world, clients)
}

/// Says `text` and listens for a moment.
fn tell(world: &mut World, client: Client, text: &str) -> String {
    world.send(client, text);
    world.pass(MOMENT);
    world.heard(client)
}

#[test]
fn reads_do_not_wait_for_writes_of_others() {
    let (mut world, [writer, reader]) = slow();
    world.ask(writer, "SET key old");
    assert_eq!(tell(&mut world, writer, "SET key new\n"), "");
    assert_eq!(tell(&mut world, reader, "GET other\n"), "(nil)\n");
    assert_eq!(tell(&mut world, reader, "GET key\n"), "old\n");
    assert_eq!(
        tell(&mut world, reader, "MGET key other\n"),
        "*2 old (nil)\n"
    );
    assert_eq!(world.lines(writer, 1), "OK\n");
    assert_eq!(tell(&mut world, reader, "GET key\n"), "new\n");
}

#[test]
fn a_client_reads_what_it_wrote_and_in_order() {
    let (mut world, [client]) = slow();
    let commands = "SET a 1\nGET a\nINCR a\nINCR b\nGET a\nNOSUCH\nGET a b\nPING\nMSET a x b y\nMGET a b\nDEL a c\nGET a\n";
    assert_eq!(tell(&mut world, client, commands), "");
    let heard = world.lines(client, 12);
    let lines: Vec<&str> = heard.lines().collect();
    assert!(lines[5].starts_with("-ERR unknown command"), "{heard}");
    assert!(lines[6].starts_with("-ERR wrong number"), "{heard}");
    let others = [&lines[..5], &lines[7..]].concat();
    assert_eq!(
        others,
        [
            "OK", "1", "2", "1", "2", "PONG", "OK", "*2 x y", "1", "(nil)"
        ]
    );
}

#[test]
fn a_watched_key_with_a_write_under_way_breaks_the_watch() {
    let (mut world, [writer, client]) = slow();
    assert_eq!(tell(&mut world, writer, "SET key theirs\n"), "");
    tell(
        &mut world,
        client,
        "WATCH key\nGET key\nMULTI\nSET key mine\n",
    );
    assert_eq!(tell(&mut world, client, "EXEC\n"), "");
    assert_eq!(world.lines(writer, 1), "OK\n");
    assert_eq!(world.lines(client, 1), "(nil)\n");
    assert_eq!(world.ask(client, "GET key"), "theirs");
}

#[test]
fn whoever_watches_first_wins() {
    let (mut world, [writer, client]) = slow();
    tell(
        &mut world,
        client,
        "WATCH key\nMULTI\nSET key mine\nGET key\n",
    );
    assert_eq!(tell(&mut world, client, "EXEC\n"), "");
    assert_eq!(tell(&mut world, writer, "APPEND key +theirs\n"), "");
    assert_eq!(world.lines(client, 1), "*2 OK mine\n");
    assert_eq!(world.lines(writer, 1), "11\n");
}

#[test]
fn a_rename_sees_what_was_written_before_it_and_holds_off_what_comes_after() {
    let (mut world, [first, renamer, last, reader]) = slow();
    assert_eq!(tell(&mut world, first, "SET from 1\n"), "");
    assert_eq!(tell(&mut world, renamer, "RENAME from to\nGET to\n"), "");
    assert_eq!(tell(&mut world, last, "SET from 2\nGET to\n"), "");
    assert_eq!(
        tell(&mut world, reader, "MGET from to\n"),
        "*2 (nil) (nil)\n"
    );
    assert_eq!(world.lines(first, 1), "OK\n");
    assert_eq!(world.lines(renamer, 2), "OK\n1\n");
    assert_eq!(world.lines(last, 2), "OK\n1\n");
    assert_eq!(world.ask(reader, "MGET from to"), "*2 2 1");
}

#[test]
fn two_renames_in_a_ring_do_not_wait_for_each_other() {
    let (mut world, [writer, one, other]) = slow();
    tell(&mut world, writer, "MSET a 1 b 2\n");
    tell(&mut world, one, "RENAME a b\nRENAME b c\n");
    tell(&mut world, other, "RENAME b a\n");
    world.lines(writer, 1);
    // The one's second command comes behind the other's first.
    assert_eq!(world.lines(one, 2), "OK\n-ERR no such key\n");
    assert_eq!(world.lines(other, 1), "OK\n");
    assert_eq!(world.ask(writer, "MGET a b c"), "*3 1 (nil) (nil)");
}

#[test]
fn everything_is_flushed_that_was_written_before() {
    let (mut world, [writer, flusher, last]) = slow();
    tell(&mut world, writer, "MSET a 1 b 1 c 1 d 1\n");
    tell(&mut world, writer, "SET e 1\n");
    tell(&mut world, flusher, "FLUSHALL\nDBSIZE\nGET a\n");
    tell(&mut world, last, "SET f 1\nRENAME f g\n");
    assert_eq!(world.lines(writer, 2), "OK\nOK\n");
    let heard = world.lines(flusher, 3);
    assert!(
        heard.starts_with("OK\n") && heard.ends_with("\n(nil)\n"),
        "{heard}"
    );
    assert_eq!(world.lines(last, 2), "OK\nOK\n");
    assert_eq!(world.ask(writer, "KEYS *"), "*1 g");
}

#[test]
fn who_hangs_up_is_not_in_the_way() {
    let (mut world, [gone, waiting, other]) = slow();
    tell(&mut world, gone, "SET key 1\n");
    tell(&mut world, waiting, "RENAME key to\n");
    tell(&mut world, other, "SET key 2\n");
    world.close(gone);
    world.close(waiting);
    assert_eq!(world.lines(other, 1), "OK\n");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.ask(other, "GET key"), "2");
    let clients = world.ask(other, "CLIENT LIST");
    assert_eq!(clients.matches("id=").count(), 1, "{clients}");
}

#[test]
fn who_has_said_everything_hears_everything() {
    for waits in [false, true] {
        let (mut world, [first, client]) = slow();
        if waits {
            tell(&mut world, first, "SET key 1\n");
        }
        let commands = "SET key 2\nRENAME key to\nMULTI\nGET to\nINCR to\nEXEC\nGET to\n";
        world.send(client, commands);
        world.finish(client);
        assert_eq!(
            world.lines(client, 7),
            "OK\nOK\nOK\nQUEUED\nQUEUED\n*2 2 3\n3\n"
        );
        world.until(|world| world.is_closed(client));
    }
}

#[test]
fn silence_is_kept_until_it_ends() {
    let (mut world, [writer, client]) = slow();
    let off = "CLIENT REPLY OFF\nSET a 1\nGET a\nMULTI\nINCR a\nEXEC\nRENAME a b\nCLIENT REPLY ON\nGET b\n";
    world.send(client, off);
    assert_eq!(world.lines(client, 2), "OK\n2\n");
    world.send(client, "CLIENT REPLY SKIP\nSET a 1\nGET a\n");
    assert_eq!(world.lines(client, 1), "1\n");
    tell(&mut world, writer, "SET key 1\n");
    world.send(client, "CLIENT REPLY SKIP\nRENAME key to\nGET to\n");
    assert_eq!(world.lines(client, 1), "1\n");
}

#[test]
fn a_transaction_is_one_line_in_every_dialect() {
    for (dialect, answers) in [
        ("LINE", "*5 OK 1 (nil) 2 *2 1 2"),
        ("JSON", r#"["OK","1",null,2,["1","2"]]"#),
    ] {
        let (mut world, [client]) = slow();
        world.ask(client, &format!("HELLO {dialect}"));
        world.send(
            client,
            "MULTI\nMSET a 1 b 1\nGET a\nGET c\nINCR b\nMGET a b\nEXEC\nGET b\n",
        );
        let heard = world.lines(client, 8);
        let lines: Vec<&str> = heard.lines().collect();
        assert_eq!(lines[6], answers, "{heard}");
    }
}

#[test]
fn a_client_that_hangs_up_has_its_writes_kept() {
    let disks = Disks::plain();
    let mut world = World::on_slow_disk(&disks, Duration::from_secs(1));
    let client = talker(&mut world);
    tell(
        &mut world,
        client,
        "MULTI\nSET a 1\nSET b 1\nEXEC\nSET c 1\n",
    );
    world.close(client);
    world.pass(Duration::from_secs(5));
    let mut again = World::start(&disks.crashed(Crash::LoseAll));
    let client = talker(&mut again);
    assert_eq!(again.ask(client, "MGET a b c"), "*3 1 1 1");
}

#[test]
fn a_transaction_waits_for_what_it_watches_and_not_for_a_busy_key() {
    let disks = Disks::plain();
    let mut world = World::on_slow_disk(&disks, Duration::from_millis(10));
    let [watcher, writer] = [(); 2].map(|()| talker(&mut world));
    world.send(watcher, "WATCH {w}a\nMULTI\nINCR busy\n");
    world.lines(watcher, 3);
    let busy = [(); 8].map(|()| talker(&mut world));
    for client in busy {
        world.send(client, "INCR busy\n");
        world.pass(Duration::from_micros(700));
    }
    // Another key in the slot of the watched one.
    world.send(writer, "SET {w}b 1\n");
    world.send(watcher, "EXEC\n");
    let mut heard = String::new();
    for _ in 0..300 {
        world.pass(Duration::from_micros(300));
        for client in busy {
            if !world.heard(client).is_empty() {
                world.send(client, "INCR busy\n");
            }
        }
        heard.push_str(&world.heard(watcher));
    }
    assert!(heard.starts_with("*1 "), "{heard}");
}
