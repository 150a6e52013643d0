//! A small table: at most a few hundred keys, so that anything that walks it takes microseconds.
//!
//! ```text
//! index: HashTable<u32>  --offset-->  arena: [entry][entry][hole][entry]...   outside: Slab<Vec<u8>>
//! ```
//!
//! The index holds nothing but offsets: five bytes a bucket with its tag. Entries lie packed in the arena
//! in the order in which they were written; what is overwritten or deleted leaves a hole, and when the
//! holes grow past a quarter, [`Table::tidy`] packs the arena anew, rewriting offsets in place without
//! hashing. Values longer than [`entry::INLINE_BYTES_MAX`] are in the slab.
//!
//! Invariants: every offset in the index is the start of an entry; `holes` is the number of arena bytes in
//! no such entry; `outside` holds exactly the slots that entries name; no expiry of this table is before
//! `earliest_ms`; `expiring` counts the entries with an expiry.
//!
//! An offset is good until the next `&mut self` call that may move entries; the dictionary keeps none.

use hashbrown::HashTable;
use slab::Slab;

use super::entry::{self, Head, INLINE_BYTES_MAX, Label, NEVER};
use super::{Entry, HashSeed};
use crate::command::op::Encoding;

/// A table splits before it holds more: 256 buckets at hashbrown's load limit of 7/8.
pub(super) const ENTRIES_MAX: usize = 224;
/// A table splits when its arena is longer …
pub(super) const ARENA_BYTES_MAX: usize = 128 * 1024;
/// … unless it has fewer entries than this: keys of 64 KiB shall not make the directory grow for each.
pub(super) const SPLIT_ENTRIES_MIN: usize = 8;

/// Buffers for moving entries about, shared by all tables of a dictionary.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    places: Vec<(u64, u32)>,
}

/// What a table counts, for the sums that the dictionary keeps.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) keys: usize,
    pub(super) expiring: usize,
    pub(super) bytes: usize,
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
    index: HashTable<u32>,
    arena: Vec<u8>,
    outside: Slab<Vec<u8>>,
    outside_bytes: usize,
    earliest_ms: u64,
    holes: usize,
    expiring: u32,
    depth: u8,
}

impl Table {
    pub(super) fn new(depth: u8) -> Table {
        Table {
            index: HashTable::new(),
            arena: Vec::new(),
            outside: Slab::new(),
            outside_bytes: 0,
            earliest_ms: u64::MAX,
            holes: 0,
            expiring: 0,
            depth,
        }
    }

    /// How many top bits of the hash all keys of this table share.
    pub(super) fn depth(&self) -> u8 {
        self.depth
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// No entry expires before this time.
    pub(super) fn earliest_ms(&self) -> u64 {
        self.earliest_ms
    }

    #[inline]
    pub(super) fn tally(&self) -> Tally {
        Tally {
            keys: self.index.len(),
            expiring: self.expiring as usize,
            bytes: self.arena.capacity()
                + self.index.allocation_size()
                + self.outside_bytes
                + self.outside.capacity() * size_of::<Vec<u8>>(),
        }
    }

    /// Whether it has grown past what one call may take its time for.
    #[inline]
    pub(super) fn is_overlong(&self) -> bool {
        self.arena.len() > ARENA_BYTES_MAX && self.index.len() >= SPLIT_ENTRIES_MIN
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index
            .find(index_hash(hash), |&offset| {
                Head::read(&self.arena, offset).key(&self.arena) == key
            })
            .copied()
    }

    #[inline]
    pub(super) fn head(&self, offset: u32) -> Head {
        Head::read(&self.arena, offset)
    }

    #[inline]
    pub(super) fn value(&self, offset: u32) -> &[u8] {
        let head = self.head(offset);
        match head.slot() {
            None => head.inline(&self.arena),
            Some(slot) => &self.outside[slot],
        }
    }

    /// What is stored at `offset`.
    #[inline]
    pub(super) fn entry(&self, offset: u32) -> Entry<'_> {
        let head = self.head(offset);
        Entry {
            value: match head.slot() {
                None => head.inline(&self.arena),
                Some(slot) => &self.outside[slot],
            },
            expire_at_ms: head.expiry(&self.arena),
            encoding: head.encoding(),
        }
    }

    pub(super) fn key(&self, offset: u32) -> &[u8] {
        self.head(offset).key(&self.arena)
    }

    #[inline]
    pub(super) fn expiry(&self, offset: u32) -> Option<u64> {
        self.head(offset).expiry(&self.arena)
    }

    pub(super) fn access(&self, offset: u32) -> u32 {
        self.head(offset).access(&self.arena)
    }

    /// Offsets of all entries, in no order that means anything.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.iter().copied()
    }

    #[inline]
    pub(super) fn touch(&mut self, offset: u32, seconds: u32) {
        let head = self.head(offset);
        head.write_access(&mut self.arena, seconds);
    }

    /// Bytes that this entry takes here, with its share of the index.
    pub(super) fn entry_bytes(&self, offset: u32) -> usize {
        let head = self.head(offset);
        let outside = match head.slot() {
            None => 0,
            Some(slot) => self.outside[slot].capacity() + size_of::<Vec<u8>>(),
        };
        head.len() + outside + self.index.allocation_size() / self.index.len().max(1)
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, hash: u64, item: &Item<'_>, seed: HashSeed) {
        if self.index.len() == self.index.capacity() {
            self.reindex(self.index.len() + 1, seed);
        }
        let offset = self.push(item, item.expire_at_ms);
        self.note_expiry(None, item.expire_at_ms);
        let arena = &self.arena;
        self.index
            .insert_unique(index_hash(hash), offset, |&offset| {
                index_hash(seed.hash(Head::read(arena, offset).key(arena)))
            });
    }

    /// Replaces the entry at `offset`, in place when it fits.
    #[inline]
    pub(super) fn replace(&mut self, hash: u64, offset: u32, item: &Item<'_>) {
        let head = self.head(offset);
        self.note_expiry(head.expiry(&self.arena), item.expire_at_ms);
        if !self.replace_in_place(head, item) {
            self.rewrite(hash, head, item);
        }
    }

    /// Overwrites value and expiry when both fit into the entry as it is.
    #[inline]
    fn replace_in_place(&mut self, head: Head, item: &Item<'_>) -> bool {
        let len = item.value.len();
        if item.expire_at_ms.is_some() && !head.has_expiry_field() {
            return false;
        }
        match head.slot() {
            None => {
                let old_len = head.end() - head.value_at();
                if len > old_len {
                    return false;
                }
                if len < old_len {
                    if entry::varint_len(len) != entry::varint_len(old_len) {
                        return false;
                    }
                    head.write_inline_len(&mut self.arena, len);
                    self.holes += old_len - len;
                }
                self.arena[head.value_at()..][..len].copy_from_slice(item.value);
            }
            Some(slot) => {
                let value = &mut self.outside[slot];
                if len <= INLINE_BYTES_MAX {
                    return false;
                }
                self.outside_bytes -= value.capacity();
                if value.capacity() < len || value.capacity() / 2 > len {
                    *value = item.value.to_vec();
                } else {
                    value.clear();
                    value.extend_from_slice(item.value);
                }
                self.outside_bytes += value.capacity();
            }
        }
        if head.has_expiry_field() {
            head.write_expiry(&mut self.arena, item.expire_at_ms.unwrap_or(NEVER));
        }
        head.write_encoding(&mut self.arena, item.encoding);
        head.write_access(&mut self.arena, item.access);
        true
    }

    /// Writes a new entry for a key that has one, and leaves a hole where that one was.
    fn rewrite(&mut self, hash: u64, old: Head, item: &Item<'_>) {
        if let Some(slot) = old.slot() {
            self.outside_bytes -= self.outside.remove(slot).capacity();
        }
        let field = if old.has_expiry_field() {
            Some(NEVER)
        } else {
            None
        };
        let offset = self.push(item, item.expire_at_ms.or(field));
        self.repoint(hash, old, offset);
    }

    fn repoint(&mut self, hash: u64, old: Head, offset: u32) {
        self.holes += old.len();
        let slot = self
            .index
            .find_mut(index_hash(hash), |&at| at as usize == old.start());
        *slot.expect("an entry's offset is in the index") = offset;
    }

    /// Appends an entry for `item`.
    fn push(&mut self, item: &Item<'_>, expiry: Option<u64>) -> u32 {
        let label = Label {
            encoding: item.encoding,
            expiry,
            access: item.access,
        };
        if item.value.len() > INLINE_BYTES_MAX {
            return self.push_outside(label, item.key, item.value.to_vec());
        }
        let len = entry::head_len(label, item.key.len(), item.value.len())
            + item.key.len()
            + item.value.len();
        let offset = self.make_room(len);
        entry::push_head(
            &mut self.arena,
            label,
            item.key.len(),
            false,
            item.value.len(),
        );
        self.arena.extend_from_slice(item.key);
        self.arena.extend_from_slice(item.value);
        offset
    }

    fn push_outside(&mut self, label: Label, key: &[u8], value: Vec<u8>) -> u32 {
        self.outside_bytes += value.capacity();
        let slot = self.outside.insert(value);
        let offset = self.make_room(entry::head_len(label, key.len(), slot) + key.len());
        entry::push_head(&mut self.arena, label, key.len(), true, slot);
        self.arena.extend_from_slice(key);
        offset
    }

    /// Makes room for `len` more bytes and says where they will stand.
    fn make_room(&mut self, len: usize) -> u32 {
        reserve(&mut self.arena, len);
        let offset = u32::try_from(self.arena.len()).expect("a table splits long before 4 GiB");
        assert!(self.arena.len() + len <= u32::MAX as usize);
        offset
    }

    /// Removes the entry at `offset`.
    pub(super) fn remove(&mut self, hash: u64, offset: u32) {
        let entry = self.index.find_entry(index_hash(hash), |&at| at == offset);
        let Ok(entry) = entry else {
            unreachable!("an entry's offset is in the index");
        };
        entry.remove();
        self.bury(offset);
    }

    /// Accounts for an entry that is no longer in the index.
    fn bury(&mut self, offset: u32) {
        let head = self.head(offset);
        self.note_expiry(head.expiry(&self.arena), None);
        self.holes += head.len();
        if let Some(slot) = head.slot() {
            self.outside_bytes -= self.outside.remove(slot).capacity();
        }
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
    pub(super) fn set_expiry(&mut self, hash: u64, offset: u32, expire_at_ms: Option<u64>) {
        let head = self.head(offset);
        self.note_expiry(head.expiry(&self.arena), expire_at_ms);
        if head.has_expiry_field() {
            head.write_expiry(&mut self.arena, expire_at_ms.unwrap_or(NEVER));
        } else if expire_at_ms.is_some() {
            let label = Label {
                expiry: expire_at_ms,
                ..head.label(&self.arena)
            };
            self.move_to_end(hash, head, label, head.end() - head.value_at());
        }
    }

    /// Writes the entry again under another label, its inline value cut or zero-padded to `inline_len`.
    fn move_to_end(&mut self, hash: u64, old: Head, label: Label, inline_len: usize) -> u32 {
        let number = old.slot().unwrap_or(inline_len);
        let len = entry::head_len(label, old.key_len(), number) + old.key_len() + inline_len;
        let offset = self.make_room(len);
        entry::push_head(
            &mut self.arena,
            label,
            old.key_len(),
            old.slot().is_some(),
            number,
        );
        let kept = inline_len.min(old.end() - old.value_at());
        self.arena
            .extend_from_within(old.key_at()..old.value_at() + kept);
        self.arena.resize(offset as usize + len, 0);
        self.repoint(hash, old, offset);
        offset
    }

    /// The value, zero-padded to at least `len` bytes, to be changed in place; its encoding becomes raw.
    pub(super) fn edit(&mut self, hash: u64, offset: u32, len: usize) -> &mut [u8] {
        let head = self.head(offset);
        head.write_encoding(&mut self.arena, Encoding::Raw);
        let old_len = self.value(offset).len();
        match head.slot() {
            Some(slot) => {
                self.outside_bytes -= self.outside[slot].capacity();
                grow_zeroed(&mut self.outside[slot], len);
                self.outside_bytes += self.outside[slot].capacity();
                &mut self.outside[slot]
            }
            None if len <= old_len => &mut self.arena[head.value_at()..head.end()],
            None if len <= INLINE_BYTES_MAX => {
                let label = Head::read(&self.arena, offset).label(&self.arena);
                let offset = self.move_to_end(hash, head, label, len);
                let head = self.head(offset);
                &mut self.arena[head.value_at()..head.end()]
            }
            None => {
                let mut value = head.inline(&self.arena).to_vec();
                grow_zeroed(&mut value, len);
                let label = Head::read(&self.arena, offset).label(&self.arena);
                let key = head.key(&self.arena).to_vec();
                let offset = self.push_outside(label, &key, value);
                self.repoint(hash, head, offset);
                let slot = self.head(offset).slot();
                &mut self.outside[slot.expect("it was just put outside")]
            }
        }
    }

    /// Removes what is past its time, telling the keys.
    pub(super) fn sweep(&mut self, at_ms: u64, removed: &mut dyn FnMut(&[u8])) -> usize {
        let (mut earliest_ms, mut gone) = (u64::MAX, Vec::new());
        let arena = &self.arena;
        self.index.retain(|&mut offset| {
            let head = Head::read(arena, offset);
            match head.expiry(arena) {
                Some(expire_at_ms) if at_ms > expire_at_ms => {
                    removed(head.key(arena));
                    gone.push(offset);
                    false
                }
                expiry => {
                    earliest_ms = earliest_ms.min(expiry.unwrap_or(u64::MAX));
                    true
                }
            }
        });
        for &offset in &gone {
            self.bury(offset);
        }
        self.earliest_ms = earliest_ms;
        gone.len()
    }

    /// Packs the arena when more than a quarter of it is holes.
    #[inline]
    pub(super) fn tidy(&mut self, scratch: &mut Scratch, seed: HashSeed) {
        if self.holes > self.arena.len() / 4 + 256 {
            self.compact(scratch, seed);
        }
    }

    fn compact(&mut self, scratch: &mut Scratch, seed: HashSeed) {
        scratch.bytes.clear();
        for offset in self.index.iter_mut() {
            let head = Head::read(&self.arena, *offset);
            *offset = scratch.bytes.len() as u32;
            scratch
                .bytes
                .extend_from_slice(&self.arena[head.start()..head.end()]);
        }
        assert_eq!(scratch.bytes.len() + self.holes, self.arena.len());
        self.holes = 0;
        refill(&mut self.arena, &scratch.bytes);
        if self.index.len() < self.index.capacity() / 4 {
            self.reindex(self.index.len(), seed);
        }
        if self.outside.is_empty() {
            self.outside = Slab::new();
        }
    }

    /// Builds the index anew for at least `capacity` entries, which also forgets hashbrown's tombstones.
    fn reindex(&mut self, capacity: usize, seed: HashSeed) {
        let mut index = HashTable::with_capacity(capacity);
        for &offset in &self.index {
            let hash = index_hash(seed.hash(self.key(offset)));
            index.insert_unique(hash, offset, |_| unreachable!("the capacity suffices"));
        }
        self.index = index;
    }

    /// Moves the entries whose next hash bit is set to a new table, and deepens both by that bit.
    pub(super) fn split(&mut self, scratch: &mut Scratch, seed: HashSeed) -> Table {
        let bit = 1u64 << (63 - self.depth);
        scratch.bytes.clear();
        scratch.places.clear();
        scratch.places.extend(
            self.index
                .iter()
                .map(|&offset| (seed.hash(self.key(offset)), offset)),
        );
        let upper = scratch
            .places
            .iter()
            .filter(|(hash, _)| hash & bit != 0)
            .count();
        let lower = self.index.len() - upper;
        let mut outside = std::mem::take(&mut self.outside);
        let mut low = Half::new(std::mem::take(&mut scratch.bytes), lower, self.depth + 1);
        let mut high = Half::new(Vec::new(), upper, self.depth + 1);
        reserve(
            &mut high.0.arena,
            self.arena.len() * upper / self.index.len().max(1),
        );
        for &(hash, offset) in &scratch.places {
            let half = if hash & bit == 0 { &mut low } else { &mut high };
            half.take(&self.arena, offset, hash, &mut outside);
        }
        assert!(outside.is_empty() && low.0.len() == lower && high.0.len() == upper);
        scratch.bytes = std::mem::take(&mut low.0.arena);
        refill(&mut self.arena, &scratch.bytes);
        low.0.arena = std::mem::take(&mut self.arena);
        *self = low.0;
        high.0
    }
}

/// One of the two tables that a split makes, while it is filled.
struct Half(Table);

impl Half {
    fn new(arena: Vec<u8>, entries: usize, depth: u8) -> Half {
        let mut table = Table::new(depth);
        table.arena = arena;
        table.index = HashTable::with_capacity(entries + entries / 8);
        Half(table)
    }

    fn take(&mut self, arena: &[u8], offset: u32, hash: u64, outside: &mut Slab<Vec<u8>>) {
        let head = Head::read(arena, offset);
        let table = &mut self.0;
        let new_offset = match head.slot() {
            None => {
                let new_offset = table.make_room(head.len());
                table
                    .arena
                    .extend_from_slice(&arena[head.start()..head.end()]);
                new_offset
            }
            Some(slot) => {
                table.push_outside(head.label(arena), head.key(arena), outside.remove(slot))
            }
        };
        table.note_expiry(None, head.expiry(arena));
        table
            .index
            .insert_unique(index_hash(hash), new_offset, |_| {
                unreachable!("the capacity suffices")
            });
    }
}

/// Inside a table all hashes share their top bits, and hashbrown takes its tag from the top: turn the
/// word so that both tag and bucket come from bits that the directory does not use.
#[inline]
fn index_hash(hash: u64) -> u64 {
    hash.rotate_left(40)
}

/// Room for `more` bytes, growing by an eighth: doubling would leave a quarter of all memory unused.
#[inline]
fn reserve(arena: &mut Vec<u8>, more: usize) {
    if arena.capacity() - arena.len() < more {
        arena.reserve_exact(more.max(arena.len() / 8).max(64));
    }
}

/// Makes `arena` equal to `bytes`, giving memory back when much would stay unused.
fn refill(arena: &mut Vec<u8>, bytes: &[u8]) {
    arena.clear();
    let wanted = bytes.len() + bytes.len() / 8;
    if arena.capacity() > wanted + bytes.len() / 8 + 256 {
        *arena = Vec::with_capacity(wanted);
    }
    reserve(arena, bytes.len());
    arena.extend_from_slice(bytes);
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
