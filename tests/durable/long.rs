//! Lives and deaths of a node, one after the other, with snapshots all the time.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::Crash;

use super::script::{self, Fate, Played, play};
use super::world::{Disks, World};
use super::{is_full_run, seeds};

const LIVES: usize = 12;
const STEPS: usize = 60;

fn live(seed: u64) {
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut disks = Disks::plain();
    let mut played = Played::new();
    for life in 0..LIVES {
        let what = format!("seed {seed}, life {life}");
        let mut world = World::with(&disks, &[], rng.u64(..));
        assert_eq!(world.fatal(), None, "{what}");
        script::resolve(&mut world, &mut played, &disks, &what);
        let steps = script::random(&mut rng, STEPS, &["SAVE", "BGSAVE", "BGSAVE"]);
        if rng.bool() {
            disks.data.crash_at(disks.data.calls() + rng.u64(..150));
        }
        played.extend(play(&mut world, &steps, &mut rng, None));
        world.pass(Duration::from_millis(rng.u64(..200)));
        disks = disks.crashed(match rng.u8(..4) {
            0 => Crash::LoseAll,
            1 => Crash::KeepAll,
            _ => Crash::Random(rng.u64(..)),
        });
    }
    let done = played
        .iter()
        .filter(|(_, fate)| matches!(fate, Fate::Done(_)));
    assert!(done.count() > LIVES * STEPS / 4, "most lives are long");
    script::check(&disks, &played, &format!("seed {seed}, in the end"));
}

#[test]
fn what_was_acknowledged_in_any_life_is_there_in_the_last() {
    let count = if is_full_run() { 100 } else { 6 };
    seeds(count).for_each(live);
}
