//! Whole nodes on a disk that fails on purpose: what is acknowledged is kept, whatever happens when.
//!
//! A world is a simulated network, a simulated disk and one node; clients are text. [`script`] plays a session
//! and says which of its commands were acknowledged; [`check`](script::check) restarts a node on what the disk has
//! left and compares it with a node that keeps everything in memory and was told the same.
//!
//! `DURABLE_FULL=1` tries every fault at every call of the disk; without it a sample that takes seconds.
//! `DURABLE_SEED` is the seed of all scripts, 1 if there is none. `scripts/soak durable` tries many.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod expiry;
mod faults;
mod full;
mod groups;
mod growth;
mod keys;
mod long;
mod lost_second;
mod restarts;
mod script;
mod sealed;
mod sessions;
mod world;

/// Whether there is time for everything.
fn is_full_run() -> bool {
    std::env::var_os("DURABLE_FULL").is_some()
}

/// The seed of all that is random.
fn seed() -> u64 {
    let text = std::env::var("DURABLE_SEED").unwrap_or_else(|_| "1".to_owned());
    println!("DURABLE_SEED={text}");
    text.parse().unwrap()
}

/// So many seeds behind [`seed`].
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = seed() * 1_000;
    first..first + count
}
