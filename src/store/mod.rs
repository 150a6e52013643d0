//! The store of one shard: a deterministic dictionary of byte strings with expiry.
//!
//! ```text
//! Store::apply(op, at) ── visit: one key, found once ── read / write ── reply
//!                          └─ dict: directory over small tables ── table: index ── heap: entries
//! ```
//!
//! - [`Store::apply`] is the only way to change it: the same operations at the same times in the same
//!   order give the same state and the same replies on every replica. No clock and no random number is
//!   read here. (Access times are no state: reads are not replicated.)
//! - A key is hashed once an operation. Reading and overwriting allocate nothing.
//! - No call takes long: see [`dict`] for growth, [`heap`] for memory, [`scan`] for walks. The
//!   exceptions are operations on huge values, which take the time of their bytes.
//! - Expired keys are absent for every reader from their millisecond on; they are removed when an
//!   operation meets them and by [`Store::sweep`]. A read removes them only where no write that is stamped
//!   earlier is still to come ([`Store::set_settled`]): reads are in no log.
//!
//! Not here: several keys at once (taken apart above), types other than strings, eviction, snapshots.

mod bitfield;
mod bits;
mod dict;
mod entry;
mod heap;
mod read;
mod scan;
mod table;
mod visit;
mod write;

use siphasher::sip::SipHasher13;

use crate::command::op::{Action, Effect, Encoding, Op};
use crate::wire::reply::Reply;
use dict::Dict;
use scan::is_expired;
use visit::Visit;

/// The secret of a store's hash function, so that no client can choose keys that collide.
#[derive(Clone, Copy, Debug)]
pub struct HashSeed(pub u64, pub u64);

impl HashSeed {
    #[inline]
    fn hash(self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0, self.1).hash(key)
    }
}

/// The dictionary of one shard.
pub struct Store {
    dict: Dict,
    /// The table with which the next sweep begins.
    sweep_next: u32,
    /// Whether reading counts as use of a key.
    touching: bool,
    /// Up to this time reads may remove what has expired.
    settled_ms: u64,
}

/// A key's value as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The bytes.
    pub value: &'a [u8],
    /// Unix milliseconds after which the key is no more.
    pub expire_at_ms: Option<u64>,
    /// What `OBJECT ENCODING` goes by.
    pub encoding: Encoding,
}

/// What a cleared store held: freeing it takes long, do it on another thread.
pub struct Dropped(#[expect(dead_code, reason = "is only there to be dropped")] Dict);

impl Store {
    /// An empty store.
    pub fn new(seed: HashSeed) -> Store {
        Store {
            dict: Dict::new(seed),
            sweep_next: 0,
            touching: true,
            settled_ms: u64::MAX,
        }
    }

    /// Whether reads from now on count as use of the keys (OBJECT IDLETIME); they do at first.
    pub fn set_touching(&mut self, touching: bool) {
        self.touching = touching;
    }

    /// Says that no write stamped `at_ms` or earlier is still to come; at first, that none ever is. A read at a
    /// later time finds an expired key absent, but leaves it to the write that may have to find it alive.
    pub fn set_settled(&mut self, at_ms: u64) {
        self.settled_ms = at_ms;
    }

    /// Does `op` at the time `at_ms` and writes its reply: one value, or none where [`Op`] says so.
    pub fn apply(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>) -> Effect {
        let touching = self.touching || matches!(op.action, Action::Touch);
        let is_write = op.action.is_write();
        let removing = is_write || at_ms <= self.settled_ms;
        let visit = Visit::new(&mut self.dict, op.key, at_ms, touching, removing);
        if is_write {
            write::apply(visit, &op.action, reply)
        } else {
            read::apply(visit, &op.action, reply)
        }
    }

    /// What is stored under `key`, if it has not expired. Is no access.
    pub fn lookup(&self, key: &[u8], at_ms: u64) -> Option<Entry<'_>> {
        let place = self.dict.place(key);
        let entry = self.dict.entry(self.dict.find(place, key)?);
        (!is_expired(entry.expire_at_ms, at_ms)).then_some(entry)
    }

    /// Number of keys, expired ones that were not yet removed among them.
    pub fn len(&self) -> usize {
        self.dict.keys()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of keys with an expiry.
    pub fn expiring(&self) -> usize {
        self.dict.expiring()
    }

    /// Bytes allocated for keys, values and what finds them, unused capacity included.
    pub fn memory_bytes(&self) -> usize {
        self.dict.bytes()
    }

    /// Tells about `count` keys or a few more, and returns the cursor to go on with; 0 begins and 0 means
    /// finished. Cursors are below 2^38. A key that is there throughout is told exactly once, whatever
    /// happens to others between the calls. One call may tell nothing and yet not be the last.
    pub fn scan(&self, cursor: u64, count: usize, at_ms: u64, found: &mut dyn FnMut(&[u8])) -> u64 {
        self.dict.scan(cursor, count, at_ms, found)
    }

    /// Tells about every key that has not expired.
    pub fn for_each(&self, at_ms: u64, f: &mut dyn FnMut(&[u8], Entry<'_>)) {
        for table in (0..self.dict.tables()).map(|number| self.dict.table(number)) {
            for at in table.addresses() {
                let entry = self.dict.entry(at);
                if !is_expired(entry.expire_at_ms, at_ms) {
                    f(self.dict.key(at), entry);
                }
            }
        }
    }

    /// Some key, chosen by the bits of `random`; nearly uniform. None when the store is empty or the
    /// neighbourhood that was chosen holds expired keys only.
    pub fn random_key(&self, random: u64, at_ms: u64) -> Option<&[u8]> {
        self.dict.random_key(random, at_ms)
    }

    /// Removes expired keys from up to `tables_max` small tables, telling about each, and goes on from
    /// there the next time. Tables in which nothing can have expired cost a glance. Returns the number
    /// of removed keys. Whether `at_ms` is settled is the caller's to know.
    pub fn sweep(
        &mut self,
        at_ms: u64,
        tables_max: usize,
        removed: &mut dyn FnMut(&[u8]),
    ) -> usize {
        if self.expiring() == 0 {
            return 0;
        }
        let (gone, next) = self.dict.sweep(self.sweep_next, at_ms, tables_max, removed);
        self.sweep_next = next;
        gone
    }

    /// Empties the store at once; what it held is the caller's to drop.
    pub fn clear(&mut self) -> Dropped {
        self.sweep_next = 0;
        Dropped(self.dict.take())
    }
}
