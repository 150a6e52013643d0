//! What one client says at once is done and answered in its order, wherever the leaders are.

use super::script::{play_founded, play_in};
use super::seed;
use super::world::{Plan, World};

#[test]
fn a_pipeline_is_done_in_order() {
    let mut world = World::founded(Plan::new(seed()));
    for node in world.all() {
        let client = world.connect(node);
        for text in [
            "SET a 1", "GET a", "SET a 2", "GET a", "INCR b", "GET b", "INCR b", "GET b",
        ] {
            world.send(client, text);
        }
        let patience = std::time::Duration::from_secs(5);
        let heard: Vec<String> = (0..8)
            .filter_map(|_| world.line_within(client, patience))
            .collect();
        let b = |count: usize| (2 * (node - 1) + count).to_string();
        let wanted = ["OK", "1", "OK", "2", &b(1), &b(1), &b(2), &b(2)];
        assert_eq!(heard, wanted, "node {node}");
    }
}

#[test]
fn a_client_that_waits_for_the_leader_alone_is_answered_by_a_leader_that_is_alone() {
    for seed in seed()..seed() + 3 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             other is follower of a
             node old says CLIENT ACK LEADER -> OK
             node old says SET a 2 -> OK
             node other says GET a -> 2
             cut old from rest
             node old says SET a 3 -> OK
             # What it answers is not known before it is done: this waits.
             node old asks INCR {a}count
             a is led within 2 s
             # So it may be lost, and is.
             node other says GET a -> 2
             heal
             node old hears -UNKNOWN* or -TRYAGAIN* or -CLUSTERDOWN*
             pass 2 s
             node old says GET a -> 2
             node old says GET {a}count -> (nil)
             node old says CLIENT ACK QUORUM -> OK
             node old says SET a 4 -> OK
             node other says GET a -> 4
             replicas are equal",
        );
    }
}

#[test]
fn whoever_passes_a_write_on_says_whom_its_client_waits_for() {
    for seed in seed()..seed() + 3 {
        let plan = Plan {
            nodes: 4,
            ..Plan::new(seed)
        };
        play_in(
            World::founded(plan),
            "node 1 says SET a 1 -> OK
             old is leader of a
             away is outside of a
             one is follower of a
             two is follower of a
             node away says CLIENT ACK LEADER -> OK
             cut old from one two
             node away says SET a 2 -> OK
             node away says MSET {a}b 2 {a}c 2 -> OK
             # It is behind the writes that no other has.
             node away asks GET a
             heal
             node away hears 1 or 2
             pass 2 s
             replicas are equal",
        );
    }
}

#[test]
fn a_client_reads_what_it_has_just_written_whomever_it_waits_for() {
    let mut world = World::founded(Plan::new(seed()));
    for node in world.all() {
        let client = world.connect(node);
        world.send(client, "CLIENT ACK LEADER");
        let patience = std::time::Duration::from_secs(5);
        assert_eq!(world.line_within(client, patience).as_deref(), Some("OK"));
        for count in 1..=20 {
            for (text, wanted) in [
                (format!("SET a {count}"), "OK".to_owned()),
                ("GET a".to_owned(), count.to_string()),
                ("INCR a".to_owned(), (count + 1).to_string()),
            ] {
                world.send(client, &text);
                assert_eq!(world.line_within(client, patience), Some(wanted), "{text}");
            }
        }
    }
}

/// What a former leader had taken is passed on when it learns of its successor. Until then nothing of the same client
/// overtakes it on another way.
#[test]
fn a_former_leader_passes_on_in_the_order_of_the_client() {
    let patience = std::time::Duration::from_secs(15);
    for seed in seed()..seed() + 60 {
        for last in ["INCR a", "MSET a 7 b 7 c 7 d 7"] {
            let mut world = World::founded(Plan::new(seed));
            assert_eq!(world.ask(1, "SET a 1"), "OK");
            let old = world.leader(world.shard_of("a")).unwrap();
            let client = world.connect(old);
            world.isolate(old);
            world.pause(old);
            world.pass(std::time::Duration::from_secs(3));
            for text in ["GET a", "SET a 5", "MGET a b c d", last] {
                world.send(client, text);
            }
            world.pass(std::time::Duration::from_micros(200));
            world.wake(old);
            // It has taken the first of it when it learns that it leads no longer.
            world.pass(std::time::Duration::from_micros(10 + seed % 60));
            world.heal();
            let heard = world.line_within(client, patience);
            assert_eq!(
                heard.as_deref(),
                Some("1"),
                "seed {seed}, GET in front of {last}"
            );
        }
    }
}
