//! Whole clusters in one simulated network and time: what was acknowledged is kept, what is read is the latest, and
//! replicas are alike, whatever fails when.
//!
//! [`world`] is the nodes and their clients, [`script`] the language of the scenarios, [`history`] the judge of what
//! clients were told, [`campaign`] what happens at random.
//!
//! `CLUSTER_SEED` is the first seed, 1 if there is none; `CLUSTER_SEEDS` how many the campaign tries; with
//! `CLUSTER_LOG` the nodes' log is printed.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod campaign;
mod clocks;
mod founding;
mod history;
mod leaders;
mod membership;
mod power;
mod script;
mod sessions;
mod world;

/// Prints what the nodes log, if `CLUSTER_LOG` says so.
fn log_if_asked() {
    if std::env::var_os("CLUSTER_LOG").is_some() {
        let mut builder = env_logger::builder();
        let _ = builder.filter_level(log::LevelFilter::Debug).try_init();
    }
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
