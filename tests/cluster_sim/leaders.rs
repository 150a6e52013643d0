//! Leaders that die, are cut off, or stand still.

use super::script::play_founded;
use super::seed;

#[test]
fn every_node_answers_for_all() {
    play_founded(
        seed(),
        "node 1 says SET a 1 -> OK
         node 2 says SET b 2 -> OK
         node 3 says SET c 3 -> OK
         node 1 says GET c -> 3
         node 2 says GET a -> 1
         node 3 says GET b -> 2
         replicas are equal",
    );
}

#[test]
fn another_leads_when_the_leader_dies() {
    for seed in seed()..seed() + 5 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             other is follower of a
             kill old
             a is led within 2 s
             node other says GET a -> 1
             node other says SET a 2 -> OK
             start old
             node old says GET a -> 2
             replicas are equal",
        );
    }
}

#[test]
fn a_leader_that_is_cut_off_answers_no_stale_read() {
    for seed in seed()..seed() + 5 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             other is follower of a
             node old says GET a -> 1
             cut old from rest
             a is led within 2 s
             node other says SET a 2 -> OK
             node old asks GET a
             node old asks SET a 3
             node other says GET a -> 2
             pass 1 s
             heal
             node old hears 2 or 3 or -TRYAGAIN* or -CLUSTERDOWN*
             node old hears OK or -UNKNOWN* or -TRYAGAIN*
             replicas are equal",
        );
    }
}

#[test]
fn a_leader_that_hears_nobody_answers_no_stale_read() {
    for how in [
        "cut 1 to 2 3",
        "cut 2 to 1\ncut 3 to 1",
        "cut 1 to 2\ncut 3 to 1",
    ] {
        for key in ["a", "b", "c", "d"] {
            let text = format!(
                "node 1 says SET {key} 1 -> OK
                 node 1 says GET {key} -> 1
                 {how}
                 pass 3 s
                 node 2 says SET {key} 2 -> OK or -UNKNOWN* or -CLUSTERDOWN*
                 node 1 asks GET {key}
                 pass 1 s
                 heal
                 node 1 hears 1 or 2
                 pass 3 s
                 node 3 says SET {key} 3 -> OK
                 node 1 says GET {key} -> 3
                 replicas are equal"
            );
            play_founded(seed(), &text);
        }
    }
}

#[test]
fn a_minority_writes_nothing_it_acknowledges() {
    for seed in seed()..seed() + 3 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             other is follower of a
             cut old from rest
             node old asks SET a minority
             node old asks INCR count
             a is led within 2 s
             node other says SET a 2 -> OK
             node old hears -UNKNOWN* or -CLUSTERDOWN* or -TRYAGAIN*
             node old hears OK or 1 or -UNKNOWN* or -CLUSTERDOWN* or -TRYAGAIN*
             heal
             pass 2 s
             node old says GET a -> 2
             replicas are equal",
        );
    }
}

#[test]
fn one_of_three_answers_nothing() {
    for seed in seed()..seed() + 3 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             kill old
             a is led within 2 s
             next is leader of a
             kill next
             last is follower of a
             node last says SET a 2 -> -CLUSTERDOWN* or -UNKNOWN*
             node last says GET a -> -CLUSTERDOWN*
             start old
             founded within 4 s
             node last says SET a 3 -> OK
             start next
             node next says GET a -> 3
             replicas are equal",
        );
    }
}

#[test]
fn a_leader_that_stood_still_wakes_as_a_follower() {
    for seed in seed()..seed() + 5 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             other is follower of a
             node old says GET a -> 1
             pause old
             node old asks GET a
             a is led within 2 s
             node other says SET a 2 -> OK
             pass 1 s
             wake old
             node old hears 2 or -TRYAGAIN*
             node old says SET a 3 -> OK
             node other says GET a -> 3
             replicas are equal",
        );
    }
}

#[test]
fn a_slow_disk_holds_up_nobody_else() {
    for node in 1..=3 {
        let text = format!(
            "disk of {node} takes 300 ms
             node 1 says SET a 1 -> OK
             node 2 says SET b 1 -> OK
             node 3 says INCR a -> 2
             node 2 says INCR b -> 2
             node 1 says GET b -> 2
             disk of {node} takes 1 ms
             replicas are equal"
        );
        play_founded(seed(), &text);
    }
}

#[test]
fn slow_and_lossy_links_are_borne() {
    play_founded(
        seed(),
        "slow 1 from 2 3 by 60 ms
         node 1 says SET a 1 -> OK
         node 2 says GET a -> 1
         lossy 1 from 2 3 of 20 %
         lossy 2 from 3 of 20 %
         node 3 says INCR a -> 2 or -UNKNOWN* or -TRYAGAIN*
         pass 5 s
         node 1 says SET b 1 -> OK or -UNKNOWN* or -TRYAGAIN*
         heal
         pass 2 s
         node 2 says SET a 5 -> OK
         node 3 says GET a -> 5
         replicas are equal",
    );
}

/// What it began in its first reign is not taken for what it does in its second.
#[test]
fn a_leader_that_is_elected_again_answers_what_it_does_now() {
    for rest_ms in (0..1_000).step_by(100) {
        let key = "a";
        let text = format!(
            "node 1 says SET {key} 0 -> OK
             old is leader of {key}
             cut old from rest
             node old asks SET {key} 1
             pass 20 ms
             node old asks SET {key} 2
             pass 20 ms
             node old asks SET {key} 3
             pass 20 ms
             node old asks SET {key} 4
             {key} is led within 2 s
             new is leader of {key}
             heal
             pass 300 ms
             kill new
             third is follower of {key}
             pause third
             pass {rest_ms} ms
             wake third
             pass 1500 ms
             node old says SET {key} 5 -> OK
             node old says GET {key} -> 5
             node old says INCR {key} -> 6
             start new
             node new says GET {key} -> 6
             node old hears -UNKNOWN* or -TRYAGAIN*
             node old hears -UNKNOWN* or -TRYAGAIN*
             node old hears -UNKNOWN* or -TRYAGAIN*
             node old hears -UNKNOWN* or -TRYAGAIN*
             replicas are equal"
        );
        play_founded(seed(), &text);
    }
}

/// The link to the old leader does not break: it falls silent.
#[test]
fn what_was_passed_on_to_a_leader_that_fell_silent_is_given_up_soon() {
    play_founded(
        seed(),
        "node 1 says SET a 1 -> OK
         old is leader of a
         other is follower of a
         cut old from rest
         node other asks SET a 2
         node other asks GET a
         a is led within 2 s
         node other says SET a 3 -> OK
         node other says GET a -> 3
         node other hears -UNKNOWN*
         node other hears 1 or 3
         pass 3 s
         node other says GET a -> 3
         heal
         pass 3 s
         node old says GET a -> 3
         replicas are equal",
    );
}
