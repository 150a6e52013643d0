//! One shard: the only door through which the key space is read and changed.
//!
//! Every operation on a key passes [`Shard::execute`] with the time it is stamped with. A write is
//! counted as a log index here; this is the one place where the replicated log sits between a write and
//! its application, so nothing above may reach the store by another way.
//!
//! Deliberately absent, for now: the log itself, replicas, snapshots.

use crate::command::op::{Effect, Op};
use crate::store::{Dropped, Entry, HashSeed, Store};
use crate::wire::reply::Reply;

/// A contiguous run of slots and what is stored under them.
pub struct Shard {
    store: Store,
    /// Index of the last write.
    index: u64,
}

impl Shard {
    /// An empty shard.
    pub fn new(seed: HashSeed) -> Self {
        Shard {
            store: Store::new(seed),
            index: 0,
        }
    }

    /// Runs `op` at `at_ms` (unix milliseconds, never running backwards) and writes its reply.
    pub fn execute(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>) -> Effect {
        self.index += u64::from(op.action.is_write());
        self.store.apply(op, at_ms, reply)
    }

    /// Whether reads from now on count as use of the keys; see [`Store::set_touching`].
    pub fn set_touching(&mut self, touching: bool) {
        self.store.set_touching(touching);
    }

    /// The entry of `key`, unless there is none or it has expired. Is no access.
    pub fn lookup(&self, key: &[u8], at_ms: u64) -> Option<Entry<'_>> {
        self.store.lookup(key, at_ms)
    }

    /// Deletes everything; the caller drops what was there where it hurts nobody.
    pub fn flush(&mut self) -> Dropped {
        self.index += 1;
        self.store.clear()
    }

    /// Removes some keys that are past their time; see [`Store::sweep`].
    pub fn sweep(
        &mut self,
        at_ms: u64,
        tables_max: usize,
        removed: &mut dyn FnMut(&[u8]),
    ) -> usize {
        self.store.sweep(at_ms, tables_max, removed)
    }

    /// What can be asked without changing anything.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Index of the last write.
    pub fn index(&self) -> u64 {
        self.index
    }
}
