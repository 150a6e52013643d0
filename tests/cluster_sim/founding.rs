//! From a list of addresses to a cluster, whoever comes when.

use std::time::Duration;

use marline::failpoint::Point;
use marline::node::Node;

use super::script::play;
use super::seed;
use super::world::{Plan, World};

#[test]
fn nodes_start_in_any_order() {
    for order in ["1 2 3", "1 3 2", "2 1 3", "2 3 1", "3 1 2", "3 2 1"] {
        let text = format!(
            "start {}
             founded within 3 s
             node 1 says SET a 1 -> OK
             node 2 says GET a -> 1
             node 3 says INCR a -> 2
             replicas are equal",
            order.replace(' ', "\npass 400 ms\nstart ")
        );
        play(seed(), &text);
    }
}

#[test]
fn a_founder_that_comes_later_is_waited_for() {
    for late in 1..=3 {
        let others: Vec<String> = (1..=3)
            .filter(|&it| it != late)
            .map(|it| it.to_string())
            .collect();
        let text = format!(
            "start {}
             pass 3 s
             node {} says SET a 1 -> -CLUSTERDOWN the cluster is being founded*
             start {late}
             founded within 3 s
             node {late} says SET a 1 -> OK
             replicas are equal",
            others.join(" "),
            others[0]
        );
        play(seed(), &text);
    }
}

/// A node dies at some moment of the founding, and comes back.
#[test]
fn a_founder_restarts_in_the_middle() {
    for node in 1..=3 {
        for moment_ms in (0..40).chain((40..600).step_by(40)) {
            let mut world = World::new(Plan::new(seed() * 1_000 + moment_ms));
            world.all().for_each(|node| world.start(node));
            world.pass(Duration::from_micros(moment_ms * 500));
            world.kill(node);
            world.pass(Duration::from_millis(moment_ms * 7 % 50));
            world.start(node);
            world.until("founded", |world| world.is_led());
            let is_founded = |world: &mut World| {
                let shards = world.shards().len();
                let is_member = |node: usize| {
                    let standings = world.node(node).map(Node::standings);
                    standings.is_some_and(|it| it.count() == shards)
                };
                world.all().all(is_member)
            };
            let is_founded = world.within(Duration::from_secs(2), is_founded);
            assert!(is_founded, "node {node} after {moment_ms} ms");
            let answer = world.ask(node, "SET a 1");
            assert_eq!(answer, "OK", "node {node} after {moment_ms} ms");
            world.agree();
        }
    }
}

/// The founder dies when it has told one of the others, and the third meets it again before it knows of the cluster.
#[test]
fn whoever_was_told_tells_the_others() {
    let mut world = World::new(Plan::new(seed()));
    let is_member = |world: &World, node: usize| {
        world
            .node(node)
            .is_some_and(|it| it.standings().next().is_some())
    };
    world.slow(1, 3, Duration::from_millis(300), 0);
    world.all().for_each(|node| world.start(node));
    world.until("2 is told", |world| is_member(world, 2));
    assert!(!is_member(&world, 3));
    world.cut(1, 3);
    world.kill(1);
    world.heal();
    world.start(1);
    world.until("all are told", |world| {
        (1..=3).all(|node| is_member(world, node)) && world.is_led()
    });
    world.agree();
}

/// The founder dies when the map is on its disk and what its replicas begin with is not: it has told nobody. When it
/// comes back, nobody has anything to bring to those who wait.
#[test]
fn a_founder_that_has_only_the_map_begins_again() {
    play(
        seed(),
        "halt 1 at records-taken
         start all
         pass 1 s
         node 2 says SET a 1 -> -CLUSTERDOWN the cluster is being founded*
         start 1
         founded within 3 s
         node 3 says SET a 1 -> OK
         replicas are equal",
    );
}

/// All founders stop where they come first to a point of the code, and are started again.
#[test]
fn founders_may_stop_at_every_point() {
    for &point in Point::ALL {
        let mut world = World::new(Plan::new(seed()));
        for node in world.all() {
            world.halt_at(node, Some(point), 0);
            world.start(node);
        }
        world.pass(Duration::from_millis(500));
        for node in world.all() {
            world.halt_nowhere(node);
            if !world.is_up(node) {
                world.start(node);
            }
        }
        world.until(point.name(), |world| world.is_led());
        assert_eq!(world.ask(1, "SET a 1"), "OK", "{}", point.name());
        world.agree();
    }
}

/// Of five, three stop before they have begun anything, among them all who are to have some shard: who tells them of
/// the cluster may have no replica of the meta shard.
#[test]
fn those_who_were_told_and_kept_nothing_begin_again_with_what_nobody_has() {
    let all =
        (1..=5).flat_map(|a| (a + 1..=5).flat_map(move |b| (b + 1..=5).map(move |c| [a, b, c])));
    for stopped in all {
        let mut world = World::new(Plan {
            nodes: 5,
            shards: 4,
            ..Plan::new(seed())
        });
        for node in world.all() {
            if stopped.contains(&node) {
                world.halt_at(node, Some(Point::FoundersBegun), 0);
            }
            world.start(node);
        }
        world.pass(Duration::from_millis(500));
        // One of those who know of the cluster is not heard for a while.
        let mute = (1..=5).find(|node| !stopped.contains(node)).unwrap();
        for node in stopped {
            world.cut(mute, node);
            world.halt_nowhere(node);
            if !world.is_up(node) {
                world.start(node);
            }
        }
        world.pass(Duration::from_millis(300));
        world.heal();
        world.until("founded", |world| world.is_led());
        assert_eq!(world.ask(1, "SET a 1"), "OK", "{stopped:?}");
        world.agree();
    }
}

#[test]
fn a_cluster_may_be_in_memory() {
    let plan = Plan {
        has_disks: false,
        ..Plan::new(seed())
    };
    let mut world = World::founded(plan);
    for node in world.all() {
        assert_eq!(world.ask(node, "INCR a"), node.to_string());
    }
    world.agree();
}

#[test]
fn the_versions_before_and_after_are_spoken_and_no_others() {
    let name = "0".repeat(40);
    let mut world = World::founded(Plan::new(seed()));
    for (version, answer) in [
        ("1", "-ERR this node speaks version 3 with its peers, not 1"),
        ("2", "\"3 "),
        ("3", "\"3 "),
        ("4", "\"3 "),
        (
            "one",
            "-ERR this node speaks version 3 with its peers, not one",
        ),
    ] {
        world.hang_up();
        let said = world.ask(1, &format!("REPL HELLO {version} - {name} 127.0.0.1:9"));
        assert!(said.starts_with(answer), "version {version}: {said}");
    }
}

/// As while a cluster is upgraded node by node.
#[test]
fn nodes_of_two_versions_are_one_cluster() {
    for seed in seed()..seed() + 4 {
        let mut world = World::founded(Plan {
            mixes_versions: true,
            ..Plan::new(seed)
        });
        for node in 1..=3 {
            world.kill_process(node);
            world.start(node);
            world.until("there are leaders", |world| world.is_led());
            world.until("it answers", |world| {
                world.ask(node, "INCR a") == node.to_string()
            });
        }
        world.agree();
    }
}
