//! Wall clocks that are wrong: keys may expire early or late, but alike on all replicas. And monotonic clocks that are
//! too fast or too slow: leaders come and go as ever.

use super::script::play_founded;
use super::seed;

#[test]
fn replicas_stay_alike_when_clocks_jump() {
    for seed in seed()..seed() + 3 {
        for jump in ["3 h", "-3 h"] {
            for node in 1..=3 {
                let text = format!(
                    "node 1 says SET a 1 EX 100 -> OK
                     node 1 says SET b 1 EX 100000 -> OK
                     node 1 says SET c 1 -> OK
                     clock of {node} jumps {jump}
                     pass 1 s
                     node 2 says GET c -> 1
                     node {node} says SET d 1 EX 50 -> OK
                     node {node} says SET c 2 -> OK
                     old is leader of a
                     kill old
                     a is led within 2 s
                     pass 1 s
                     start old
                     pass 1 s
                     node 1 says APPEND a x -> 1 or 2
                     node 2 says APPEND d x -> 1 or 2
                     node 3 says APPEND b x -> 1 or 2
                     old is leader of b
                     kill old
                     b is led within 2 s
                     start old
                     pass 1 s
                     node 1 says APPEND a y -> 1 or 2 or 3
                     node 2 says APPEND d y -> 1 or 2 or 3
                     node 3 says APPEND b y -> 1 or 2 or 3
                     replicas are equal"
                );
                play_founded(seed, &text);
            }
        }
    }
}

#[test]
fn a_cluster_goes_on_when_its_clocks_are_too_fast_and_too_slow() {
    for seed in seed()..seed() + 4 {
        for (one, other) in [(20, -20), (-20, 20), (20, 20), (-20, 0)] {
            let text = format!(
                "clock of 1 drifts {one} %
                 clock of 2 drifts {other} %
                 load begins
                 pass 5 s
                 load ends
                 node 1 says SET a 1 -> OK
                 old is leader of a
                 kill old
                 a is led within 4 s
                 clock of 1 drifts {other} %
                 clock of 2 drifts {one} %
                 clock of 3 drifts 20 %
                 start old
                 pass 3 s
                 node 1 says INCR a -> 2
                 node 2 says INCR a -> 3
                 node 3 says GET a -> 3
                 replicas are equal"
            );
            let world = play_founded(seed, &text);
            assert_eq!(world.net.fired()["drift"], 5);
        }
    }
}
