//! Nodes come and go, and nobody notices.

use std::collections::BTreeSet;

use super::script::play_in;
use super::seed;
use super::world::{Plan, World};

/// Three founders and one that may join.
fn plan(seed: u64) -> Plan {
    Plan {
        joiners: 1,
        shards: 8,
        ..Plan::new(seed)
    }
}

fn founded(seed: u64) -> World {
    World::founded(plan(seed))
}

/// All replicas, with their shards.
fn replicas(world: &World) -> BTreeSet<(u16, u64)> {
    let map = world.map().unwrap();
    let of = |(shard, placement): (u16, &marline::cluster::map::Placement)| {
        let all: Vec<_> = placement.all().map(|it| (shard, it.0)).collect();
        all
    };
    map.every_placement().flat_map(of).collect()
}

#[test]
fn a_node_joins_under_load_and_no_client_notices() {
    for seed in seed()..seed() + 4 {
        let world = play_in(
            founded(seed),
            "fill 40 of 64 KiB
             load begins",
        );
        let before = replicas(&world);
        let world = play_in(
            world,
            "join 4
             placed within 60 s
             pass 3 s
             load ends
             node 4 says SET a 1 -> OK
             node 1 says GET a -> 1
             replicas are equal",
        );
        let after = replicas(&world);
        let moved = after.difference(&before).count();
        assert!(
            moved * 10 <= before.len() * 3,
            "{moved} of {}",
            before.len()
        );
        assert!(moved > 0, "nothing moved");
    }
}

#[test]
fn a_living_node_is_forgotten_under_load() {
    for seed in seed()..seed() + 4 {
        play_in(
            founded(seed),
            "join 4
             placed within 60 s
             fill 20 of 64 KiB
             load begins
             node 2 says CLUSTER FORGET 1 -> OK
             placed within 60 s
             pass 3 s
             load ends
             replicas are equal
             kill 1
             node 2 says SET a 1 -> OK
             node 3 says GET a -> 1
             node 4 says GET a -> 1",
        );
    }
}

#[test]
fn a_dead_node_is_forgotten() {
    for seed in seed()..seed() + 4 {
        play_in(
            founded(seed),
            "join 4
             placed within 60 s
             node 1 says SET a 1 -> OK
             kill 2
             pass 2 s
             node 3 says CLUSTER FORGET 2 -> OK
             placed within 60 s
             replicas are equal
             node 4 says GET a -> 1
             kill 1
             pass 3 s
             node 3 says GET a -> 1
             node 4 says SET a 2 -> OK
             # The forgotten one harms nobody.
             start 1 2
             pass 5 s
             node 1 says GET a -> 2
             node 3 says GET a -> 2
             placed within 20 s",
        );
    }
}

#[test]
fn a_node_that_lost_its_disk_becomes_a_new_member_by_itself() {
    for seed in seed()..seed() + 4 {
        for node in 1..=3 {
            play_in(
                founded(seed),
                &format!(
                    "node 1 says SET a 1 -> OK
                     fill 10 of 64 KiB
                     wipe {node}
                     pass 1 s
                     start {node}
                     placed within 90 s
                     replicas are equal
                     node {node} says GET a -> 1
                     node {node} says SET a 2 -> OK
                     kill {}
                     node {node} says GET a -> 2",
                    1 + node % 3
                ),
            );
        }
    }
}

/// Who restarts must know that the last change of the members is over: until it is, those that went are asked.
#[test]
fn a_change_of_members_is_over_for_good() {
    for seed in seed()..seed() + 4 {
        play_in(
            World::founded(Plan::new(seed)),
            "wipe 3
             pass 1 s
             start 3
             placed within 60 s
             wipe 1
             kill 2
             kill 3
             start 2 3
             start 1
             placed within 60 s
             replicas are equal",
        );
    }
}

#[test]
fn a_machine_leaves_and_comes_back_with_an_empty_directory() {
    for seed in seed()..seed() + 4 {
        play_in(
            founded(seed),
            "join 4
             placed within 60 s
             node 1 says SET a 1 -> OK
             load begins
             node 2 says CLUSTER LEAVE -> OK
             placed within 60 s
             load ends
             wipe 2
             join 2
             placed within 60 s
             replicas are equal
             node 2 says GET a -> 1
             restart all
             founded within 10 s
             placed within 30 s
             node 2 says GET a -> 1
             replicas are equal",
        );
    }
}

#[test]
fn a_node_joins_by_one_that_is_joining() {
    let plan = Plan {
        joiners: 2,
        ..plan(seed())
    };
    play_in(
        World::founded(plan),
        "wipe 1
         pass 3 s
         start 1
         pass 100 ms
         # By the first that runs.
         join 4
         placed within 60 s
         node 4 says SET a 1 -> OK",
    );
}

#[test]
fn a_cluster_with_one_replica_of_everything_moves() {
    for seed in seed()..seed() + 4 {
        let plan = Plan {
            replicas: 1,
            ..plan(seed)
        };
        play_in(
            World::founded(plan),
            "node 1 says SET a 1 -> OK
             load begins
             join 4
             placed within 90 s
             node 1 says CLUSTER FORGET 2 -> OK
             placed within 90 s
             load ends
             node 3 says GET a -> 1",
        );
    }
}

#[test]
fn the_power_fails_in_the_midst_of_a_change() {
    for seed in seed()..seed() + 12 {
        let late = 1_500 + seed * 337 % 4_000;
        play_in(
            founded(seed),
            &format!(
                "node 1 says SET a 1 -> OK
                 fill 10 of 64 KiB
                 join 4
                 pass {late} ms
                 node 1 says INCR a -> 2
                 power off
                 pass 1 s
                 start all
                 founded within 10 s
                 placed within 90 s
                 replicas are equal
                 node 4 says GET a -> 2"
            ),
        );
    }
}

#[test]
fn nodes_restart_in_the_midst_of_a_change() {
    for seed in seed()..seed() + 12 {
        let late = 1_000 + seed * 337 % 3_000;
        let (node, other) = (1 + seed % 4, 1 + (seed + 1) % 4);
        play_in(
            founded(seed),
            &format!(
                "node 1 says SET a 1 -> OK
                 fill 10 of 64 KiB
                 join 4
                 pass {late} ms
                 restart {node}
                 pass 700 ms
                 restart {other}
                 placed within 90 s
                 replicas are equal
                 node 4 says GET a -> 1"
            ),
        );
    }
}

#[test]
fn a_newcomer_that_dies_for_good_does_not_stop_the_others() {
    for seed in seed()..seed() + 4 {
        let late = 2_100 + seed * 337 % 1_000;
        play_in(
            founded(seed),
            &format!(
                "node 1 says SET a 1 -> OK
                 join 4
                 pass {late} ms
                 kill 4
                 pass 80 s
                 node 1 says CLUSTER FORGET 4 -> OK
                 placed within 90 s
                 replicas are equal
                 node 2 says GET a -> 1"
            ),
        );
    }
}

#[test]
fn what_was_vacated_is_given_back_and_survives_a_restart() {
    for seed in seed()..seed() + 4 {
        play_in(
            founded(seed),
            "fill 10 of 64 KiB
             node 1 says SET a 1 -> OK
             join 4
             placed within 60 s
             node 1 says SET a 2 -> OK
             node 1 says CLUSTER FORGET 4 -> OK
             placed within 60 s
             node 1 says SET a 3 -> OK
             replicas are equal
             power off
             start 1 2 3
             founded within 10 s
             node 1 says GET a -> 3
             placed within 60 s
             replicas are equal",
        );
    }
}

fn of_one_shard(seed: u64) -> World {
    World::founded(Plan {
        shards: 1,
        ..Plan::new(seed)
    })
}

/// A follower that will need a snapshot.
const BEHIND: &str = "
    node 1 says SET a 1 -> OK
    old is leader of a
    other is follower of a
    fill 10 of 256 KiB
    kill other
    node old says SET b 1 -> OK
    fill 40 of 512 KiB again";

#[test]
fn a_follower_is_sent_a_snapshot_whoever_dies_meanwhile() {
    for seed in seed()..seed() + 9 {
        let late = 100 + seed * 177 % 1_500;
        let fault = ["kill old", "kill other", "cut old from other"][seed as usize % 3];
        play_in(
            of_one_shard(seed),
            &format!(
                "{BEHIND}
                 disk of other takes 40 ms
                 start other
                 pass {late} ms
                 {fault}
                 pass 3 s
                 heal
                 restart old other
                 placed within 60 s
                 replicas are equal
                 node other says GET b -> 1"
            ),
        );
    }
}

/// Nobody waits for what a process was to say that is gone.
#[test]
fn a_snapshot_is_sent_anew_when_its_receiver_begins_anew() {
    for seed in seed()..seed() + 4 {
        for point in ["receiving-begun", "pieces-taken", "snapshot-received"] {
            play_in(
                of_one_shard(seed),
                &format!(
                    "{BEHIND}
                     halt other at {point}
                     start other
                     other stops within 5 s
                     start other
                     pass 3 s
                     node other says READONLY -> OK
                     node other says GET b -> 1
                     replicas are equal"
                ),
            );
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_with_processes_where_syncs_are_rare() {
    for seed in seed()..seed() + 5 {
        let plan = Plan {
            sync: "1s",
            ..plan(seed)
        };
        let late = 1_500 + seed * 337 % 3_000;
        play_in(
            World::founded(plan),
            &format!(
                "node 1 says SET a 1 -> OK
                 join 4
                 pass {late} ms
                 node 2 says INCR a -> 2
                 end process 1 2 3 4
                 start all
                 founded within 10 s
                 node 3 says GET a -> 2
                 end process 1
                 pass 3 s
                 node 3 says INCR a -> 3
                 end process 2 3
                 start 1 2 3
                 placed within 90 s
                 node 1 says GET a -> 3
                 replicas are equal"
            ),
        );
    }
}

#[test]
fn the_leader_of_the_meta_shard_dies_in_the_midst() {
    for seed in seed()..seed() + 8 {
        let late = 1_000 + seed * 437 % 4_000;
        let mut world = play_in(
            founded(seed),
            &format!(
                "node 1 says SET a 1 -> OK
                 join 4
                 pass {late} ms"
            ),
        );
        let leader = world.leader(marline::cluster::map::META).unwrap();
        world.kill(leader);
        play_in(
            world,
            &format!(
                "pass 4 s
                 start {leader}
                 placed within 90 s
                 replicas are equal
                 node 4 says GET a -> 1"
            ),
        );
    }
}

/// Whoever was let go cannot help any more to find out that it was let go. One of the others being away is no reason
/// for the shard to be lost.
#[test]
fn a_replica_is_let_go_when_those_who_stay_know_of_it_by_themselves() {
    for seed in seed()..seed() + 6 {
        let world = play_in(
            founded(seed),
            "node 1 says SET a 1 -> OK
             pass 1 s
             kill 3
             join 4
             pass 20 s
             power off
             restart 1
             restart 2
             restart 4
             pass 10 s
             node 1 says INCR a -> 2
             node 4 says INCR a -> 3",
        );
        let map = world.map().unwrap();
        let has_moved = |(_, it): (u16, &marline::cluster::map::Placement)| {
            it.next.is_none() && it.replicas.iter().any(|it| it.node() == 4)
        };
        assert!(map.every_placement().any(has_moved), "{}", map.encode());
        for shard in world.shards() {
            assert!(world.leader(shard).is_some(), "shard {shard} is lost");
        }
    }
}
