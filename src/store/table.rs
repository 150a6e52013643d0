//! A small table: at most a few hundred keys, so that anything that walks it takes microseconds.
//!
//! ```text
//! index: 20 lines  --address-->  heap: [entry]
//! ```
//!
//! The index holds nothing but addresses: 64 bytes for twelve, tags included. The entries lie in the heap
//! of the dictionary, which every method that needs them is given.
//!
//! The index is an array in the table, from the beginning as large as it becomes: what was full once will be
//! full again, and an index that never grows leaves no hole behind.
//!
//! Invariants: every address in the index is that of an entry; `keys` counts them; no expiry of this table
//! is before `earliest_ms`; `expiring` counts the entries with an expiry. What `imaged` says is told in
//! [`image`](super::image).

use super::HashSeed;
use super::entry::{self, Body, Head, INLINE_BYTES_MAX, Label, NEVER};
use super::heap::Heap;
use super::index::{self, Index};
use crate::command::op::Encoding;

/// A table splits before it holds more.
pub(super) const ENTRIES_MAX: usize = index::ADDRESSES_MAX;
/// What a key takes in a table that is three quarters full.
pub(super) const INDEX_BYTES_PER_KEY: usize = size_of::<Table>() * 4 / (ENTRIES_MAX * 3);

/// What a table counts, for the sums that the dictionary keeps.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) keys: usize,
    pub(super) expiring: usize,
}

/// A value to store under a key.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) expire_at_ms: Option<u64>,
    pub(super) encoding: Encoding,
    pub(super) access: u32,
}

/// See the module.
pub(super) struct Table {
    index: Index,
    earliest_ms: u64,
    keys: u32,
    expiring: u32,
    imaged: u32,
    depth: u8,
}

impl Table {
    /// An empty table, of which image number `imaged` holds everything.
    pub(super) fn new(depth: u8, imaged: u32) -> Table {
        Table {
            index: Index::EMPTY,
            earliest_ms: u64::MAX,
            keys: 0,
            expiring: 0,
            imaged,
            depth,
        }
    }

    /// How many top bits of the hash all keys of this table share.
    pub(super) fn depth(&self) -> u8 {
        self.depth
    }

    /// The last image that holds all of this table.
    #[inline]
    pub(super) fn imaged(&self) -> u32 {
        self.imaged
    }

    pub(super) fn set_imaged(&mut self, image: u32) {
        self.imaged = image;
    }

    pub(super) fn len(&self) -> usize {
        self.keys as usize
    }

    /// No entry expires before this time.
    pub(super) fn earliest_ms(&self) -> u64 {
        self.earliest_ms
    }

    #[inline]
    pub(super) fn tally(&self) -> Tally {
        Tally {
            keys: self.len(),
            expiring: self.expiring as usize,
        }
    }

    #[inline]
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8], heap: &Heap) -> Option<u32> {
        self.index.find(hash, |at| {
            let bytes = heap.get(at);
            Head::read(bytes).key(bytes) == key
        })
    }

    /// Addresses of all entries, in no order that means anything.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.addresses().take(self.len())
    }

    /// Adds a key that is not there; the table is not full.
    pub(super) fn insert(&mut self, hash: u64, item: &Item<'_>, heap: &mut Heap) {
        assert!(self.len() < ENTRIES_MAX, "there is room");
        let label = Label {
            encoding: item.encoding,
            expiry: item.expire_at_ms,
            access: item.access,
        };
        let body = match item.value.len() > INLINE_BYTES_MAX {
            false => Body::Inline(item.value),
            true => Body::Outside(heap.add_outside(item.value.to_vec())),
        };
        let at = heap.add(label, item.key, body);
        self.note_expiry(None, item.expire_at_ms);
        self.index.insert(hash, at);
        self.keys += 1;
    }

    /// Replaces the entry at `at`.
    pub(super) fn replace(&mut self, hash: u64, at: u32, item: &Item<'_>, heap: &mut Heap) {
        let bytes = heap.get(at);
        let head = Head::read(bytes);
        self.note_expiry(head.expiry(bytes), item.expire_at_ms);
        let kept_field = head.has_expiry_field().then_some(NEVER);
        let label = Label {
            encoding: item.encoding,
            expiry: item.expire_at_ms.or(kept_field),
            access: item.access,
        };
        let body = match (head.outside(), item.value.len() > INLINE_BYTES_MAX) {
            (None, false) => Body::Inline(item.value),
            (None, true) => Body::Outside(heap.add_outside(item.value.to_vec())),
            (Some(place), false) => {
                heap.remove_outside(place);
                Body::Inline(item.value)
            }
            (Some(place), true) => {
                heap.change_outside(place, |old| overwrite(old, item.value));
                Body::Outside(place)
            }
        };
        self.rewrite(hash, at, label, item.key, body, heap);
    }

    /// Writes the entry at `at` anew, and notes where it lies then.
    fn rewrite(
        &mut self,
        hash: u64,
        at: u32,
        label: Label,
        key: &[u8],
        body: Body<'_>,
        heap: &mut Heap,
    ) -> u32 {
        let new_at = heap.rewrite(at, label, key, body);
        if new_at != at {
            self.index.repoint(hash, at, new_at);
        }
        new_at
    }

    /// Notes that an entry lies elsewhere now.
    pub(super) fn repoint(&mut self, hash: u64, at: u32, new_at: u32) {
        self.index.repoint(hash, at, new_at);
    }

    /// Removes the entry at `at`.
    pub(super) fn remove(&mut self, hash: u64, at: u32, heap: &mut Heap) {
        self.index.remove(hash, at);
        self.keys -= 1;
        let bytes = heap.get(at);
        let head = Head::read(bytes);
        self.note_expiry(head.expiry(bytes), None);
        if let Some(place) = head.outside() {
            heap.remove_outside(place);
        }
        heap.free(at);
    }

    fn note_expiry(&mut self, old: Option<u64>, new: Option<u64>) {
        self.expiring -= u32::from(old.is_some());
        if let Some(at_ms) = new {
            self.expiring += 1;
            self.earliest_ms = self.earliest_ms.min(at_ms);
        } else if self.expiring == 0 {
            self.earliest_ms = u64::MAX;
        }
    }

    /// Sets or removes the expiry.
    pub(super) fn set_expiry(
        &mut self,
        hash: u64,
        at: u32,
        expire_at_ms: Option<u64>,
        heap: &mut Heap,
    ) {
        let bytes = heap.get_mut(at);
        let head = Head::read(bytes);
        self.note_expiry(head.expiry(bytes), expire_at_ms);
        if head.has_expiry_field() {
            head.write_expiry(bytes, expire_at_ms.unwrap_or(NEVER));
        } else if expire_at_ms.is_some() {
            let old = bytes[..head.end()].to_vec();
            let label = Label {
                expiry: expire_at_ms,
                ..head.label(&old)
            };
            let body = match head.outside() {
                Some(place) => Body::Outside(place),
                None => Body::Inline(head.inline(&old)),
            };
            self.rewrite(hash, at, label, head.key(&old), body, heap);
        }
    }

    /// The value, zero-padded to at least `len` bytes, to be changed in place; its encoding becomes raw.
    pub(super) fn edit<'h>(
        &mut self,
        hash: u64,
        at: u32,
        len: usize,
        heap: &'h mut Heap,
    ) -> &'h mut [u8] {
        let bytes = heap.get_mut(at);
        let head = Head::read(bytes);
        head.write_encoding(bytes, Encoding::Raw);
        if let Some(place) = head.outside() {
            return heap.change_outside(place, |value| grow_zeroed(value, len));
        }
        if len <= head.inline(bytes).len() {
            return head.inline_mut(heap.get_mut(at));
        }
        let old = bytes[..head.end()].to_vec();
        let label = Head::read(&old).label(&old);
        let mut value = head.inline(&old).to_vec();
        grow_zeroed(&mut value, len);
        if len <= INLINE_BYTES_MAX {
            let at = self.rewrite(hash, at, label, head.key(&old), Body::Inline(&value), heap);
            let bytes = heap.get_mut(at);
            return Head::read(bytes).inline_mut(bytes);
        }
        let place = heap.add_outside(value);
        self.rewrite(hash, at, label, head.key(&old), Body::Outside(place), heap);
        heap.change_outside(place, |_| {})
    }

    /// Removes what is past its time, telling the keys.
    pub(super) fn sweep(
        &mut self,
        at_ms: u64,
        heap: &mut Heap,
        seed: HashSeed,
        removed: &mut dyn FnMut(&[u8]),
    ) -> usize {
        let (mut earliest_ms, mut gone) = (u64::MAX, Vec::new());
        for at in self.index.addresses() {
            let bytes = heap.get(at);
            let head = Head::read(bytes);
            match head.expiry(bytes) {
                Some(expire_at_ms) if at_ms > expire_at_ms => {
                    removed(head.key(bytes));
                    gone.push(at);
                }
                expiry => earliest_ms = earliest_ms.min(expiry.unwrap_or(u64::MAX)),
            }
        }
        for &at in &gone {
            self.remove(hash_of(at, heap, seed), at, heap);
        }
        self.earliest_ms = earliest_ms;
        gone.len()
    }

    /// Moves the entries whose next hash bit is set to a new table, and deepens both by that bit.
    pub(super) fn split(&mut self, heap: &Heap, seed: HashSeed) -> Table {
        let bit = 1u64 << (63 - self.depth);
        let mut halves = [0; 2].map(|_| Table::new(self.depth + 1, self.imaged));
        for at in self.index.addresses() {
            let bytes = heap.get(at);
            let head = Head::read(bytes);
            let hash = seed.hash(head.key(bytes));
            let half = &mut halves[usize::from(hash & bit != 0)];
            half.note_expiry(None, head.expiry(bytes));
            half.index.insert(hash, at);
            half.keys += 1;
        }
        let [lower, upper] = halves;
        assert_eq!(lower.len() + upper.len(), self.len());
        *self = lower;
        upper
    }
}

/// Replaces the entry with which `bytes` begin, if only its value changes and has as many bytes as before; whether it
/// did. No table need know.
#[inline]
pub(super) fn replace_in_place(bytes: &mut [u8], item: &Item<'_>) -> bool {
    let head = Head::read(bytes);
    let is_inline = head.outside().is_none() && item.value.len() <= INLINE_BYTES_MAX;
    if !is_inline || head.has_expiry_field() || item.expire_at_ms.is_some() {
        return false;
    }
    let value = head.inline_mut(bytes);
    if value.len() != item.value.len() {
        return false;
    }
    value.copy_from_slice(item.value);
    head.write_encoding(bytes, item.encoding);
    entry::write_access(bytes, item.access);
    true
}

pub(super) fn hash_of(at: u32, heap: &Heap, seed: HashSeed) -> u64 {
    let bytes = heap.get(at);
    seed.hash(Head::read(bytes).key(bytes))
}

/// Makes `old` equal to `new`, in the memory it has unless that is far too much.
fn overwrite(old: &mut Vec<u8>, new: &[u8]) {
    if old.capacity() < new.len() || old.capacity() / 2 > new.len() {
        *old = new.to_vec();
    } else {
        old.clear();
        old.extend_from_slice(new);
    }
}

/// Zero-pads `value` to at least `len` bytes. Far jumps take fresh zero pages instead of writing zeros;
/// small steps grow by a quarter.
fn grow_zeroed(value: &mut Vec<u8>, len: usize) {
    if len <= value.len() {
        return;
    }
    if len > value.capacity() {
        if len / 2 > value.len() {
            let mut grown = vec![0; len];
            grown[..value.len()].copy_from_slice(value);
            *value = grown;
            return;
        }
        value.reserve_exact((len - value.len()).max(value.len() / 4));
    }
    value.resize(len, 0);
}
