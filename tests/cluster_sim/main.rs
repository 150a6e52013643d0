//! Whole clusters in one simulated network and time: what was acknowledged is kept, what is read is the latest, and
//! replicas are alike, whatever fails when.
//!
//! [`world`] is the nodes and their clients, [`script`] the language of the scenarios. What happens at random is in
//! `tests/sim`, which the world belongs to.
//!
//! `CLUSTER_SEED` is the first seed, 1 if there is none; with `CLUSTER_LOG` the nodes' log is printed.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod clocks;
mod founding;
#[path = "../sim/history.rs"]
#[allow(
    dead_code,
    reason = "its own tests are run here, since the simulator is no test"
)]
mod history;
mod leaders;
mod machines;
mod membership;
mod power;
mod script;
mod sessions;
#[path = "../sim/world.rs"]
#[expect(dead_code, reason = "a part of it is for the simulator")]
mod world;
#[path = "../sim/zones.rs"]
#[allow(dead_code, reason = "likewise")]
mod zones;

/// Prints what the nodes log, if `CLUSTER_LOG` says so.
fn log_if_asked() {
    if std::env::var_os("CLUSTER_LOG").is_some() {
        let mut builder = env_logger::builder();
        let _ = builder.filter_level(log::LevelFilter::Debug).try_init();
    }
}

/// Called of a world in which somebody panics.
fn report(world: &world::World) {
    println!("seed {}, {:?}:", world.plan().seed, world.plan().faults);
    for deed in world.deeds() {
        let node = deed
            .node
            .map_or_else(String::new, |node| format!("node {node}: "));
        println!("  {:>9.3} s  {node}{}", deed.at as f64 / 1e9, deed.what);
    }
    println!("{}", world.status());
}

/// A number from the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return otherwise;
    };
    println!("{name}={text}");
    text.parse().unwrap()
}

/// The first seed.
fn seed() -> u64 {
    number("CLUSTER_SEED", 1)
}
