//! The same with everything sealed, and keys that change.

use fastrand::Rng;
use marline::disk::sim::{Crash, Fault, SimDisk};

use super::script::{self, Played, check, play};
use super::world::{Disks, World};
use super::{is_full_run, seed};

/// Whether anything that clients said can be read in a file.
fn expect_sealed(disk: &SimDisk) {
    for (name, bytes) in disk.contents() {
        for word in [&b"canary"[..], b"key-", b"number-"] {
            let found = bytes.windows(word.len()).any(|window| window == word);
            assert!(!found, "{name} tells {}", String::from_utf8_lossy(word));
        }
    }
}

/// Plays a script in which the key is changed.
fn play_sealed(disks: &Disks) -> Played {
    let special = ["SAVE", "BGSAVE", "KEY ROTATE", "BACKUP backup-#"];
    let mut steps = script::random(&mut Rng::with_seed(seed()), 150, &special);
    steps.extend(script::parse(
        "KEY ROTATE\nBACKUP last\nSET key-1 canary-last",
    ));
    let mut world = World::start(disks);
    play(&mut world, &steps, &mut Rng::with_seed(seed()), None)
}

#[test]
fn nothing_can_be_read_without_the_keys_and_nothing_is_lost() {
    let empty = Disks::sealed();
    let disks = empty.fork();
    let played = play_sealed(&disks);
    expect_sealed(&disks.data);
    expect_sealed(&disks.backups);
    assert!(!disks.backups.contents().is_empty());
    check(&disks.crashed(Crash::LoseAll), &played, "no fault");
    let calls = disks.data.calls();
    println!("{calls} calls");
    let stride = if is_full_run() { 1 } else { 41 };
    for call in (0..calls).step_by(stride) {
        for fails in [false, true] {
            let disks = empty.fork();
            match fails {
                true => disks.data.fail_at(call, Fault::Eio, false),
                false => disks.data.crash_at(call),
            }
            let played = play_sealed(&disks);
            for how in [Crash::LoseAll, Crash::KeepAll, Crash::Random(call)] {
                let crashed = disks.crashed(how);
                expect_sealed(&crashed.data);
                check(&crashed, &played, &format!("call {call}, {how:?}"));
            }
        }
    }
}
