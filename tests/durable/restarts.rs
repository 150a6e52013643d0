//! Starting again and again, and dying while at it.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::Crash;

use super::script::{self, play};
use super::world::{Disks, World};
use super::{is_full_run, seeds};

/// Deaths in a row that a start is interrupted by.
const DEATHS: usize = 4;

/// Disks of a node that died in the middle of a script, at a call of its disk.
fn remains(seed: u64) -> Disks {
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let steps = script::random(&mut rng, 150, &["SAVE", "BGSAVE"]);
    let disks = Disks::plain();
    disks.data.crash_at(rng.u64(50..400));
    let mut world = World::start(&disks);
    play(&mut world, &steps, &mut rng, None);
    disks.crashed(Crash::Random(seed))
}

fn dump_of(disks: &Disks) -> String {
    let mut world = World::start(&disks.fork());
    assert_eq!(world.fatal(), None);
    script::settled_dump(&mut world)
}

#[test]
fn dying_while_starting_changes_nothing() {
    let count = if is_full_run() { 40 } else { 4 };
    for seed in seeds(count) {
        let disks = remains(seed);
        let dump = dump_of(&disks);
        let trial = disks.fork();
        let before = trial.data.calls();
        drop(World::start(&trial));
        for call in before..trial.data.calls() {
            let mut rng = Rng::with_seed(call);
            let mut trial = disks.fork();
            trial.data.crash_at(call);
            for death in 0..DEATHS {
                let mut world = World::start(&trial);
                world.pass(Duration::from_millis(rng.u64(..300)));
                trial = trial.crashed(match death {
                    0 => Crash::LoseAll,
                    _ => Crash::Random(rng.u64(..)),
                });
                let next = trial.data.calls() + rng.u64(..12);
                trial.data.crash_at(next);
            }
            trial.data.heal();
            assert_eq!(
                dump_of(&trial),
                dump,
                "seed {seed}, call {call}: {:?}",
                trial.data
            );
        }
    }
}

#[test]
fn starting_again_and_again_changes_nothing() {
    let mut disks = remains(7);
    let dump = dump_of(&disks);
    for restart in 0..50 {
        let mut world = World::start(&disks);
        world.pass(Duration::from_millis(500));
        assert_eq!(world.fatal(), None);
        disks = disks.crashed(Crash::Random(restart));
        assert_eq!(dump_of(&disks), dump, "restart {restart}");
    }
}
