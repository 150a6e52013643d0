//! The store of one shard: a deterministic dictionary of byte strings with expiry.
//!
//! ```text
//! Store::apply(op, at) ── visit: one key, found once ── read / write ── reply
//!                          └─ dict: directory over small tables ── table: index ── heap: entries
//!                             image: what a dictionary held at one moment, while it goes on changing
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
//! Not here: several keys at once (taken apart above), types other than strings, eviction, files.

mod bitfield;
mod bits;
mod dict;
mod entry;
mod heap;
mod image;
mod index;
mod read;
mod scan;
mod table;
mod visit;
mod write;

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::command::binary::{Coded, Reader};
use crate::command::op::{Action, Effect, Encoding, Op};
use crate::wire::reply::Reply;
use dict::Dict;
use image::{Image, Slice};
use scan::is_expired;
use table::Item;
use visit::Visit;

/// Entries that are loaded together.
const LOAD_BATCH: usize = 32;

/// The secret of a store's hash function, so that no client can choose keys that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed(pub u64, pub u64);

impl HashSeed {
    #[inline]
    fn hash(self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0, self.1).hash(key)
    }
}

/// The hash of a key in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(u64);

/// What lies on the way to a key: see [`Store::prefetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The line of an index with which the search begins.
    Index,
    /// The entry that is most likely the key's.
    Entry,
}

impl Step {
    /// In the order in which they must be taken.
    pub const ALL: [Step; 2] = [Step::Index, Step::Entry];
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
    /// What was cleared while an image of it was under way, which goes on here.
    cleared: Option<Dict>,
    /// What was cleared and is not needed any more.
    dropped: Option<Dropped>,
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
pub struct Dropped(#[expect(dead_code, reason = "is only there to be dropped")] Option<Dict>);

impl Store {
    /// An empty store.
    pub fn new(seed: HashSeed) -> Store {
        Store {
            dict: Dict::new(seed),
            sweep_next: 0,
            touching: true,
            settled_ms: u64::MAX,
            cleared: None,
            dropped: None,
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
        self.apply_hashed(self.hash(op.key), op, at_ms, reply)
    }

    /// Does [`Store::apply`] where the hash of the key is known.
    #[inline]
    pub fn apply_hashed(
        &mut self,
        hash: KeyHash,
        op: &Op<'_>,
        at_ms: u64,
        reply: &mut Reply<'_>,
    ) -> Effect {
        debug_assert_eq!(hash, self.hash(op.key));
        let touching = self.touching || matches!(op.action, Action::Touch);
        let is_write = op.action.is_write();
        let removing = is_write || at_ms <= self.settled_ms;
        let visit = Visit::new(&mut self.dict, op.key, hash.0, at_ms, touching, removing);
        if is_write {
            write::apply(visit, &op.action, reply)
        } else {
            read::apply(visit, &op.action, reply)
        }
    }

    /// The hash of a key, for [`Store::prefetch`] and [`Store::apply_hashed`].
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.dict.seed().hash(key))
    }

    /// Has memory fetched into the cache that an operation on the key with this hash will need. Where the entry is,
    /// the index must tell: take a step for several keys, so that they wait together, before the next one.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash, step: Step) {
        self.dict.prefetch(hash.0, step);
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
        self.dict.bytes() + self.cleared.as_ref().map_or(0, Dict::bytes)
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
    /// of removed keys. As a read, it leaves alone what expired after the settled time.
    pub fn sweep(
        &mut self,
        at_ms: u64,
        tables_max: usize,
        removed: &mut dyn FnMut(&[u8]),
    ) -> usize {
        if self.expiring() == 0 {
            return 0;
        }
        let at_ms = at_ms.min(self.settled_ms);
        let (gone, next) = self.dict.sweep(self.sweep_next, at_ms, tables_max, removed);
        self.sweep_next = next;
        gone
    }

    /// Whether some key may be past its time that the settled time keeps from being removed.
    pub fn is_held(&self, at_ms: u64) -> bool {
        let tables = || (0..self.dict.tables()).map(|number| self.dict.table(number));
        let is_due = || tables().any(|table| table.earliest_ms() <= at_ms);
        self.settled_ms < at_ms && self.expiring() > 0 && is_due()
    }

    /// Empties the store at once; what it held is the caller's to drop. While an image of it is under way
    /// that is nothing yet: see [`Store::take_dropped`].
    pub fn clear(&mut self) -> Dropped {
        self.sweep_next = 0;
        let old = self.dict.take();
        if !old.is_imaging() {
            return Dropped(Some(old));
        }
        self.cleared = Some(old);
        Dropped(None)
    }

    /// Begins an image of what the store holds now, expired keys that were not yet removed included. It is under
    /// way until [`Store::advance_image`] said that nothing is left and everything gathered was taken.
    ///
    /// # Panics
    /// One is under way.
    pub fn begin_image(&mut self) {
        assert!(!self.is_imaging(), "an image is under way");
        self.dict.begin_image();
    }

    /// Whether an image is under way.
    pub fn is_imaging(&self) -> bool {
        self.cleared.is_some() || self.dict.is_imaging()
    }

    /// The dictionary of which an image is under way, if one is.
    fn imaged(&mut self) -> &mut Dict {
        self.cleared.as_mut().unwrap_or(&mut self.dict)
    }

    /// Gathers up to `steps_max` entries (a table counts as one, too) or a mebibyte, and tells whether nothing is
    /// left; also when no image is under way.
    pub fn advance_image(&mut self, steps_max: usize) -> bool {
        if !self.is_imaging() {
            return true;
        }
        let is_whole = self.imaged().advance_image(Slice::new(steps_max));
        if is_whole && self.image_bytes() == 0 {
            self.end_image();
        }
        is_whole
    }

    /// Bytes of the image that were gathered and not yet taken.
    pub fn image_bytes(&self) -> usize {
        let dict = self.cleared.as_ref().unwrap_or(&self.dict);
        dict.image().map_or(0, Image::bytes)
    }

    /// Hands out a block of the image: whole entries, `block_bytes` of them or up to one entry more, or what was
    /// gathered if that is less. Blocks can be loaded in any order.
    pub fn take_image(&mut self, block_bytes: usize) -> Vec<u8> {
        let dict = self.imaged();
        let block = dict.image_mut().map(|image| image.take(block_bytes));
        if dict.is_image_whole() && self.image_bytes() == 0 {
            self.end_image();
        }
        block.unwrap_or_default()
    }

    /// Gives up the image under way, if one is. What was gathered is gone; the next one may begin at once.
    pub fn abandon_image(&mut self) {
        if self.is_imaging() {
            self.end_image();
        }
    }

    fn end_image(&mut self) {
        self.dict.end_image();
        if let Some(dict) = self.cleared.take() {
            self.dropped = Some(Dropped(Some(dict)));
        }
    }

    /// What was cleared while an image of it was under way, once that has ended: the caller's to drop, and best
    /// asked for each time an image ends.
    pub fn take_dropped(&mut self) -> Option<Dropped> {
        self.dropped.take()
    }

    /// Adds the entries of one block of an image; how many there were. They count as used at `at_ms`.
    ///
    /// # Errors
    /// The bytes are no such block, or it holds a key that is there already. The entries before that are added.
    pub fn load(&mut self, block: &[u8], at_ms: u64) -> Result<usize, String> {
        let (mut reader, mut count) = (Reader::new(block), 0);
        let mut batch = Vec::with_capacity(LOAD_BATCH);
        while reader.left() > 0 {
            let mut malformed = None;
            while batch.len() < LOAD_BATCH && reader.left() > 0 && malformed.is_none() {
                match image::read_entry(&mut reader) {
                    Ok((key, entry)) => batch.push((self.dict.seed().hash(key), key, entry)),
                    Err(why) => malformed = Some(why),
                }
            }
            self.load_batch(&mut batch, at_ms, &mut count)?;
            if let Some(why) = malformed {
                return Err(format!("entry {count}: {why}"));
            }
        }
        Ok(count)
    }

    /// Adds some entries, which stand behind the hashes of their keys.
    fn load_batch(
        &mut self,
        batch: &mut Vec<(u64, &[u8], Entry<'_>)>,
        at_ms: u64,
        count: &mut usize,
    ) -> Result<(), String> {
        // Each key belongs somewhere else in memory. Looked for in one go, those places are fetched side by side.
        let is_there = |&(hash, key, _): &(u64, &[u8], Entry<'_>)| {
            self.dict.find(self.dict.place_of_hash(hash), key).is_some()
        };
        let first_there = batch.iter().position(is_there);
        for (nth, (hash, key, entry)) in batch.drain(..).enumerate() {
            let place = self.dict.place_of_hash(hash);
            // It may also stand in the batch twice.
            if Some(nth) == first_there || self.dict.find(place, key).is_some() {
                return Err(format!("entry {count}: its key is there already"));
            }
            let item = Item {
                key,
                value: entry.value,
                expire_at_ms: entry.expire_at_ms,
                encoding: entry.encoding,
                access: visit::access_second(at_ms),
            };
            self.dict.insert(place, &item);
            *count += 1;
        }
        Ok(())
    }

    /// Makes an empty store ready for about `keys` keys, so that [`Store::load`] need not divide tables as it goes.
    /// Allocates seven bytes a key at once.
    ///
    /// # Panics
    /// The store is not empty.
    pub fn reserve(&mut self, keys: usize) {
        assert!(self.is_empty() && !self.is_imaging());
        self.dict = Dict::with_room(self.dict.seed(), keys);
    }

    /// A number that stores have in common which hold the same keys, values, expiries and encodings at `at_ms`, in
    /// whatever order they came by them and whatever their seeds: the sum of a hash of each entry. It tells
    /// accidents apart, not attacks. Takes the time of all bytes.
    pub fn digest(&self, at_ms: u64) -> u64 {
        let mut sum = 0u64;
        self.for_each(at_ms, &mut |key, entry| {
            let mut hasher = SipHasher13::new_with_keys(0, 0);
            hasher.write(&(key.len() as u64).to_le_bytes());
            hasher.write(key);
            hasher.write(&entry.expire_at_ms.unwrap_or(u64::MAX).to_le_bytes());
            hasher.write(&[entry.encoding.code()]);
            hasher.write(entry.value);
            sum = sum.wrapping_add(hasher.finish());
        });
        sum
    }
}
