//! All nodes lose their power at once.

use super::script::play_founded;
use super::seed;

#[test]
fn nothing_acknowledged_is_lost_with_the_power() {
    for seed in seed()..seed() + 10 {
        play_founded(
            seed,
            "node 1 says SET a 1 -> OK
             node 2 says SET b 2 -> OK
             node 3 says INCR a -> 2
             power off
             start all
             founded within 4 s
             node 1 says GET a -> 2
             node 2 says GET b -> 2
             node 3 says INCR a -> 3
             replicas are equal
             node 1 asks SET a 9
             power off
             start 3
             pass 2 s
             start 1 2
             founded within 4 s
             node 3 says GET a -> 3 or 9
             replicas are equal",
        );
    }
}
