//! Files that are written whole: images and the ring of keys, over a disk in memory that can fail and crash.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

mod image;
mod memory;
mod ring;

use marline::disk::seal::Entropy;

/// Bytes that look random and are the same each time.
fn entropy(seed: u64) -> Entropy {
    let mut random = fastrand::Rng::with_seed(seed);
    Box::new(move |bytes| random.fill(bytes))
}
