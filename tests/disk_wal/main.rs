//! The log, on a simulated disk that loses, tears, fails and rots, and on the real one.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

mod faults;
mod golden;
mod rot;
mod writing;

use std::sync::Arc;

use marline::disk::seal::{Entropy, KEY_BYTES};
use marline::disk::wal::ActiveKey;
use marline::disk::wal::replay::{self, End};
use marline::disk::wal::writer::Wal;
use marline::disk::{Damage, Disk};

/// The keys of the tests: every id has one.
fn secret(id: u32) -> Option<[u8; KEY_BYTES]> {
    Some([u8::try_from(id).unwrap(); KEY_BYTES])
}

/// The active key with this id; 0: none.
fn key(id: u32) -> Option<ActiveKey> {
    (id != 0).then(|| ActiveKey {
        id,
        secret: secret(id).unwrap(),
    })
}

/// Random bytes that are the same every time.
fn entropy(seed: u64) -> Entropy {
    let mut rng = fastrand::Rng::with_seed(seed);
    Box::new(move |bytes| rng.fill(bytes))
}

/// Everything in the log, and its end.
fn read(disk: &dyn Disk) -> Result<(Vec<Vec<u8>>, End), Damage> {
    let mut payloads = Vec::new();
    let mut last = 0;
    let end = replay::replay(disk, &secret, &mut |record| {
        assert!(record.sequence > last && record.sequence <= last.max(record.sequence - 2) + 2);
        last = record.sequence;
        payloads.push(record.payload.to_vec());
        Ok(())
    })?;
    Ok((payloads, end))
}

/// Reads the log and goes on behind it.
fn reopen(disk: &Arc<dyn Disk>, key_id: u32, segment_bytes: u64) -> (Vec<Vec<u8>>, Wal) {
    let (payloads, end) = read(&**disk).unwrap();
    let seed = disk.list().unwrap().len() as u64;
    let wal = Wal::begin(
        Arc::clone(disk),
        key(key_id),
        entropy(seed),
        &end,
        segment_bytes,
    );
    (payloads, wal.unwrap())
}
