//! Machines and cables: nodes that are gone without a word, connections that are reset, links that stop for a while,
//! disks that hang.

use super::script::play_founded;
use super::seed;

#[test]
fn a_leader_whose_machine_vanishes_is_replaced_and_comes_back() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             vanish old
             a is led within 4 s
             new is leader of a
             node new says INCR a -> 2
             pass 20 s
             node new says INCR a -> 3
             start old
             pass 6 s
             node old says GET a -> 3
             vanish old
             start old
             pass 6 s
             node old says INCR a -> 4
             replicas are equal",
        );
    }
}

/// Whoever speaks to it waits for TCP, which tries again more and more rarely; but it calls, and is called back.
#[test]
fn a_machine_that_is_back_is_spoken_to_at_once() {
    for seed in seed()..seed() + 10 {
        for away in ["700 ms", "3 s", "8 s", "20 s"] {
            play_founded(
                seed,
                &format!(
                    "node 1 says SET a 1 -> OK
                     old is follower of a
                     new is leader of a
                     vanish old
                     node new says INCR a -> 2
                     pass {away}
                     node new says INCR a -> 3
                     start old
                     pass 1500 ms
                     node old says READONLY -> OK
                     node old says GET a -> 3
                     replicas are equal"
                ),
            );
        }
    }
}

/// It died when it had heard the call, and what says so was lost. Nobody waits for its answer for ever.
#[test]
fn who_was_called_and_never_answered_is_called_again() {
    for seed in seed()..seed() + 20 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             new is leader of a
             old is follower of a
             third is follower of a
             kill old
             pass 1 s
             slow old from new by 400 ms
             cut old from third
             halt old at caller-greeted behind 1
             start old
             old stops within 3 s
             cut old to new
             start old
             pass 500 ms
             end process old
             heal
             start old
             pass 3 s
             node old says READONLY -> OK
             node old says GET a -> 1
             node new says SET a 2 -> OK
             replicas are equal",
        );
    }
}

#[test]
fn connections_that_are_reset_cost_nothing_that_was_acknowledged() {
    for seed in seed()..seed() + 10 {
        let world = play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             reset 1 and 2 3
             pass 1 s
             node 2 says INCR a -> 2
             reset 2 and 3
             pass 300 ms
             reset 2 and 1 3
             pass 1 s
             node 3 says INCR a -> 3
             pass 1 s
             node 1 says GET a -> 3
             replicas are equal",
        );
        assert!(world.net.fired()["reset"] >= 10);
    }
}

#[test]
fn what_a_clogged_link_gives_late_does_no_harm() {
    for seed in seed()..seed() + 10 {
        let world = play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             clog old to all for 6 s
             a is led within 4 s
             pass 8 s
             node 1 says INCR a -> 2
             node 2 says INCR a -> 3
             node 3 says INCR a -> 4
             replicas are equal",
        );
        assert!(world.net.fired()["clog"] > 0);
    }
}

#[test]
fn a_disk_that_hangs_for_half_a_minute_goes_on() {
    for seed in seed()..seed() + 10 {
        let world = play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             disk of old hangs for 30 s
             node old asks INCR a
             pass 40 s
             node old says SET b 1 -> OK
             node 1 says GET a -> 2
             node 2 says INCR a -> 3
             replicas are equal",
        );
        assert!(world.net.fired()["stalled job"] > 0);
    }
}

#[test]
fn a_machine_that_is_given_an_old_backup_is_told_again_what_it_has_forgotten() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             other is follower of a
             back up other
             node 1 says INCR a -> 2
             node 1 says INCR a -> 3
             replicas are equal
             restore other
             start other
             pass 5 s
             node other says GET a -> 3
             replicas are equal
             node other says INCR a -> 4
             replicas are equal
             # The same for one that leads.
             old is leader of a
             back up old
             node 1 says INCR a -> 5
             replicas are equal
             restore old
             start old
             a is led within 4 s
             node old says GET a -> 5
             replicas are equal",
        );
    }
}

/// A leader that was alone has its disk back as it was then, with an entry that nobody agreed on.
const OLD_BACKUP: &str = "
    node 1 says SET a 1 -> OK
    old is leader of a
    other is follower of a
    cut old from rest
    node old asks SET a alone
    pass 300 ms
    back up old
    a is led within 3 s
    node other says SET a 2 -> OK
    node other says SET a 3 -> OK
    heal
    node old hears -UNKNOWN* or -TRYAGAIN* or -CLUSTERDOWN*
    replicas are equal
    restore old";

#[test]
fn what_an_old_backup_holds_and_nobody_agreed_on_is_not_taken_for_agreed_on() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            &format!(
                "{OLD_BACKUP}
                 start old
                 pass 5 s
                 node old says GET a -> 3
                 replicas are equal"
            ),
        );
    }
}

/// It is as long as what was agreed on instead: whoever is told how much of it is committed must not take it for that.
#[test]
fn nor_is_it_if_it_is_not_shorter() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             old is leader of a
             cut old from rest
             node old asks SET a alone
             pass 300 ms
             back up old
             a is led within 3 s
             heal
             node old hears -UNKNOWN* or -TRYAGAIN* or -CLUSTERDOWN*
             replicas are equal
             restore old
             start old
             pass 5 s
             node old says GET a -> 1
             replicas are equal",
        );
    }
}

/// The leader hears what is there long before it is shown wrong, and tells meanwhile what is committed of it.
#[test]
fn nor_is_it_while_the_disk_is_slow() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            &format!(
                "{OLD_BACKUP}
                 disk of old takes 800 ms
                 start old
                 pass 10 s
                 disk of old takes 1 ms
                 node old says GET a -> 3
                 replicas are equal"
            ),
        );
    }
}
