//! Where the entries of a store lie: slots of a few sizes, cut from pages of one size.
//!
//! ```text
//! page (32 KiB): [slot][slot][free ->][slot][free -> none][ not yet used ...    all slots of one class
//! address: u32 = page * 4096 + position in the page, in units of 8 bytes        32 GiB a store
//! ```
//!
//! Slot sizes go in steps of 8 bytes up to 128 and then eight to a doubling up to 4 KiB: an entry wastes
//! four bytes on average, later six percent. A longer entry (it has a key of kilobytes) gets a page of
//! its own, exactly as long as it is.
//!
//! Why not one growing byte array for each table, packed by compaction? Measured with 10 M keys of 16
//! bytes and values of 32: all tables grow in step, so that the arrays they leave behind are of sizes
//! nobody wants any more; resident were 85 bytes a key, and 125 after values of other lengths had been
//! written, of which 66 and 83 were ours. Pages of one size leave the allocator nothing to fragment, an
//! entry never moves when others change, and a table splits by moving numbers only.
//!
//! Values longer than [`entry::INLINE_BYTES_MAX`] are not in pages but in a slab of vectors.
//!
//! A page that is less than five eighths full, while the others of its class have room for what is left
//! in it, is reported ([`Heap::take_sparse`]) and the dictionary moves its entries out: it knows who
//! points to them. That is at most two moves for each freed slot, and one page a write.
//!
//! A free slot begins with a byte that no entry begins with, and goes on with the position of the next.
//!
//! Invariants: `live` counts the slots in use, `Class` sums over pages; a page that has room is in
//! `roomy` of its class at `roomy_at`, but for the one that is being emptied; a page without a live slot
//! is given back, unless it is the only roomy one of its class.

use prefetch_index::prefetch_index;
use slab::Slab;

use super::entry::{self, Body, Label};

const PAGE_BYTES: usize = 32 * 1024;
const UNIT_BYTES: usize = 8;
const PAGE_UNITS: usize = PAGE_BYTES / UNIT_BYTES;
/// The longest entry in a shared page, in units.
const SHARED_UNITS_MAX: usize = 512;
/// Up to here every number of units is a class.
const FINE_UNITS_MAX: usize = 16;
const CLASSES: usize = 56;
/// The class of pages that hold one long entry.
const ALONE: u8 = CLASSES as u8;
/// The class of page numbers that are free.
const UNUSED: u8 = ALONE + 1;
/// Bytes of a line of the processor's cache.
const LINE_BYTES: usize = 64;
/// First byte of a free slot.
const FREE: u8 = 0xFF;
/// No further free slot; never the position of one.
const NONE: u16 = u16::MAX;
const PAGES_MAX: usize = 1 << 20;

struct Page {
    bytes: Box<[u8]>,
    class: u8,
    /// Slots in use.
    live: u16,
    /// The first free slot; each free one begins with the position of the next.
    free: u16,
    /// Where what was never used begins.
    fresh: u16,
    /// Place in the list of its class, while it has room.
    roomy_at: u32,
    /// It waits in `sparse`.
    is_reported: bool,
}

/// The pages of one class.
#[derive(Default)]
struct Class {
    /// Those with room.
    roomy: Vec<u32>,
    pages: usize,
    /// Slots in use.
    live: usize,
}

/// See the module.
pub(super) struct Heap {
    pages: Vec<Page>,
    classes: [Class; CLASSES],
    unused: Vec<u32>,
    sparse: Vec<u32>,
    outside: Slab<Vec<u8>>,
    bytes: usize,
    /// What every entry that is written is marked with.
    mark: bool,
}

impl Heap {
    pub(super) fn new() -> Heap {
        Heap {
            pages: Vec::new(),
            classes: std::array::from_fn(|_| Class::default()),
            unused: Vec::new(),
            sparse: Vec::new(),
            outside: Slab::new(),
            bytes: 0,
            mark: false,
        }
    }

    /// Memory that is allocated, used or not.
    pub(super) fn bytes(&self) -> usize {
        let lists = self.pages.capacity() * size_of::<Page>();
        self.bytes + lists + self.outside.capacity() * size_of::<Vec<u8>>()
    }

    /// The bytes from an entry on.
    #[inline]
    pub(super) fn get(&self, at: u32) -> &[u8] {
        let (page, position) = split(at);
        &self.pages[page].bytes[position * UNIT_BYTES..]
    }

    /// Has the slot at `at` fetched into the cache, or two lines of it.
    #[inline]
    pub(super) fn prefetch(&self, at: u32) {
        let (number, position) = split(at);
        let page = &self.pages[number];
        let begin = position * UNIT_BYTES;
        let len = (units_of(page.class) * UNIT_BYTES).min(LINE_BYTES);
        prefetch_index(&page.bytes, begin);
        prefetch_index(&page.bytes, begin + len - 1);
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> &mut [u8] {
        let (page, position) = split(at);
        &mut self.pages[page].bytes[position * UNIT_BYTES..]
    }

    pub(super) fn mark(&self) -> bool {
        self.mark
    }

    /// From now on entries that are written are marked so.
    pub(super) fn set_mark(&mut self, mark: bool) {
        self.mark = mark;
    }

    /// Writes an entry somewhere.
    pub(super) fn add(&mut self, label: Label, key: &[u8], body: Body<'_>) -> u32 {
        let at = self.allocate(entry::len(label, key, body));
        let mark = self.mark;
        entry::write(self.get_mut(at), mark, label, key, body);
        at
    }

    /// Replaces the entry at `at`; says where it lies now. `key` and `body` are no part of the heap.
    #[inline]
    pub(super) fn rewrite(&mut self, at: u32, label: Label, key: &[u8], body: Body<'_>) -> u32 {
        let len = entry::len(label, key, body);
        let class = self.pages[split(at).0].class;
        let at = if class != ALONE && class_of(len) == Some(class) {
            at
        } else {
            let new_at = self.allocate(len);
            self.free(at);
            new_at
        };
        let mark = self.mark;
        entry::write(self.get_mut(at), mark, label, key, body);
        at
    }

    /// Bytes of the slot at `at`.
    pub(super) fn slot_bytes(&self, at: u32) -> usize {
        let page = &self.pages[split(at).0];
        match page.class {
            ALONE => page.bytes.len(),
            class => units_of(class) * UNIT_BYTES,
        }
    }

    fn allocate(&mut self, len: usize) -> u32 {
        let Some(class) = class_of(len) else {
            let page = self.add_page(ALONE, len);
            self.pages[page].live = 1;
            return address(page, 0);
        };
        let number = match self.classes[usize::from(class)].roomy.last() {
            Some(&number) => number as usize,
            None => {
                let number = self.add_page(class, PAGE_BYTES);
                self.list(number);
                number
            }
        };
        self.classes[usize::from(class)].live += 1;
        let page = &mut self.pages[number];
        page.live += 1;
        let position = page.take_slot();
        if !page.has_room() {
            self.unlist(number);
        }
        address(number, position)
    }

    /// Gives up the slot at `at`; an outside value is not touched.
    pub(super) fn free(&mut self, at: u32) {
        let (number, position) = split(at);
        if self.pages[number].class == ALONE {
            return self.drop_page(number);
        }
        if !self.pages[number].has_room() {
            self.list(number);
        }
        let page = &mut self.pages[number];
        page.give_slot(position);
        page.live -= 1;
        let class = &mut self.classes[usize::from(page.class)];
        class.live -= 1;
        if page.live == 0 && class.roomy.len() > 1 {
            self.unlist(number);
            self.drop_page(number);
        } else if !page.is_reported && is_sparse(page, class) {
            page.is_reported = true;
            self.sparse.push(number as u32);
        }
    }

    /// A page that had better be emptied, if there is one. From now on it gets no new entries, until
    /// every one of `live` has been moved with [`Heap::relocate`], which gives it back.
    pub(super) fn take_sparse(&mut self) -> Option<u32> {
        let number = self.sparse.pop()?;
        let page = &mut self.pages[number as usize];
        if !std::mem::take(&mut page.is_reported) || page.live == 0 {
            return None;
        }
        if !is_sparse(page, &self.classes[usize::from(page.class)]) {
            return None;
        }
        self.unlist(number as usize);
        Some(number)
    }

    /// The entries of a page.
    pub(super) fn live(&self, page: u32) -> Vec<u32> {
        let number = page as usize;
        let page = &self.pages[number];
        (0..page.fresh)
            .step_by(units_of(page.class))
            .filter(|&position| page.bytes[usize::from(position) * UNIT_BYTES] != FREE)
            .map(|position| address(number, position))
            .collect()
    }

    /// Copies an entry of a page that is being emptied to another page, and says where it lies now.
    pub(super) fn relocate(&mut self, at: u32) -> u32 {
        let (number, position) = split(at);
        let class = self.pages[number].class;
        let len = units_of(class) * UNIT_BYTES;
        let begin = position * UNIT_BYTES;
        let new_at = self.allocate(len);
        let (new_number, new_position) = split(new_at);
        let new_begin = new_position * UNIT_BYTES;
        let [old, new] = self
            .pages
            .get_disjoint_mut([number, new_number])
            .expect("a page that is being emptied gets no entries");
        new.bytes[new_begin..new_begin + len].copy_from_slice(&old.bytes[begin..begin + len]);
        old.live -= 1;
        self.classes[usize::from(class)].live -= 1;
        if self.pages[number].live == 0 {
            self.drop_page(number);
        }
        new_at
    }

    fn add_page(&mut self, class: u8, len: usize) -> usize {
        let page = Page {
            bytes: vec![0; len].into_boxed_slice(),
            class,
            live: 0,
            free: NONE,
            fresh: 0,
            roomy_at: 0,
            is_reported: false,
        };
        self.bytes += len;
        if class != ALONE {
            self.classes[usize::from(class)].pages += 1;
        }
        if let Some(number) = self.unused.pop() {
            self.pages[number as usize] = page;
            return number as usize;
        }
        assert!(
            self.pages.len() < PAGES_MAX,
            "a store holds at most 32 GiB of entries"
        );
        self.pages.push(page);
        self.pages.len() - 1
    }

    fn drop_page(&mut self, number: usize) {
        let page = &mut self.pages[number];
        self.bytes -= page.bytes.len();
        page.bytes = Box::default();
        if page.class != ALONE {
            self.classes[usize::from(page.class)].pages -= 1;
        }
        page.class = UNUSED;
        page.is_reported = false;
        self.unused.push(number as u32);
    }

    fn list(&mut self, number: usize) {
        let page = &mut self.pages[number];
        let list = &mut self.classes[usize::from(page.class)].roomy;
        page.roomy_at = list.len() as u32;
        list.push(number as u32);
    }

    fn unlist(&mut self, number: usize) {
        let page = &self.pages[number];
        let at = page.roomy_at;
        let list = &mut self.classes[usize::from(page.class)].roomy;
        let removed = list.swap_remove(at as usize);
        assert_eq!(removed as usize, number, "a roomy page knows its place");
        if let Some(&moved) = list.get(at as usize) {
            self.pages[moved as usize].roomy_at = at;
        }
    }

    /// The value that lives outside at `place`.
    #[inline]
    pub(super) fn outside(&self, place: usize) -> &Vec<u8> {
        &self.outside[place]
    }

    /// Changes the vector of an outside value.
    pub(super) fn change_outside(
        &mut self,
        place: usize,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> &mut [u8] {
        let value = &mut self.outside[place];
        self.bytes -= value.capacity();
        change(value);
        self.bytes += value.capacity();
        value
    }

    pub(super) fn add_outside(&mut self, value: Vec<u8>) -> usize {
        self.bytes += value.capacity();
        self.outside.insert(value)
    }

    pub(super) fn remove_outside(&mut self, place: usize) {
        self.bytes -= self.outside.remove(place).capacity();
        if self.outside.is_empty() {
            self.outside = Slab::new();
        }
    }
}

/// Whether emptying this page would pay, and the others have room for it.
fn is_sparse(page: &Page, class: &Class) -> bool {
    let slots = PAGE_UNITS / units_of(page.class);
    usize::from(page.live) * 8 < slots * 5 && (class.pages - 1) * slots >= class.live
}

impl Page {
    /// The position of a slot to use; there is one.
    fn take_slot(&mut self) -> u16 {
        let position = self.free;
        if position == NONE {
            let position = self.fresh;
            self.fresh += units_of(self.class) as u16;
            return position;
        }
        let begin = usize::from(position) * UNIT_BYTES;
        assert_eq!(self.bytes[begin], FREE);
        self.free = u16::from_le_bytes([self.bytes[begin + 1], self.bytes[begin + 2]]);
        position
    }

    fn give_slot(&mut self, position: usize) {
        let begin = position * UNIT_BYTES;
        let [low, high] = self.free.to_le_bytes();
        self.bytes[begin..begin + 3].copy_from_slice(&[FREE, low, high]);
        self.free = position as u16;
    }

    fn has_room(&self) -> bool {
        self.free != NONE || usize::from(self.fresh) + units_of(self.class) <= PAGE_UNITS
    }
}

fn address(page: usize, position: u16) -> u32 {
    debug_assert!(page < PAGES_MAX && usize::from(position) < PAGE_UNITS);
    (page * PAGE_UNITS) as u32 + u32::from(position)
}

#[inline]
fn split(at: u32) -> (usize, usize) {
    (at as usize / PAGE_UNITS, at as usize % PAGE_UNITS)
}

/// The class of entries of `len` bytes; none when they are too long to share a page.
#[inline]
fn class_of(len: usize) -> Option<u8> {
    let units = len.div_ceil(UNIT_BYTES);
    if units <= FINE_UNITS_MAX {
        return Some((units - 1) as u8);
    }
    if units > SHARED_UNITS_MAX {
        return None;
    }
    // Eight steps from 2^n to 2^(n+1), n being 4 or more.
    let octave = (units - 1).ilog2() as usize;
    let step = (units - 1 - (1 << octave)) >> (octave - 3);
    Some((FINE_UNITS_MAX + (octave - 4) * 8 + step) as u8)
}

/// Units of a slot of `class`.
#[inline]
fn units_of(class: u8) -> usize {
    let class = usize::from(class);
    if class < FINE_UNITS_MAX {
        return class + 1;
    }
    let (octave, step) = (
        (class - FINE_UNITS_MAX) / 8 + 4,
        (class - FINE_UNITS_MAX) % 8,
    );
    (1 << octave) + ((step + 1) << (octave - 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::op::Encoding;

    #[test]
    fn every_length_has_the_smallest_slot_that_holds_it() {
        for len in 1..=SHARED_UNITS_MAX * UNIT_BYTES {
            let class = class_of(len).expect("short enough");
            assert!(
                usize::from(class) < CLASSES && units_of(class) * UNIT_BYTES >= len,
                "{len}"
            );
            assert!(
                class == 0 || units_of(class - 1) * UNIT_BYTES < len,
                "{len}"
            );
        }
        assert_eq!(class_of(SHARED_UNITS_MAX * UNIT_BYTES + 1), None);
        assert_eq!(units_of(ALONE - 1), SHARED_UNITS_MAX);
    }

    #[test]
    fn slots_are_used_again_and_empty_pages_given_back() {
        let label = Label {
            encoding: Encoding::Plain,
            expiry: None,
            access: 0,
        };
        let mut heap = Heap::new();
        let mut random = fastrand::Rng::with_seed(3);
        let mut held: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut high = 0;
        for round in 0..60_000 {
            if round % 20_000 < 12_000 {
                let len = if random.u8(..) == 0 {
                    random.usize(..60_000)
                } else {
                    random.usize(..200)
                };
                let key = vec![random.u8(..); len];
                held.push((heap.add(label, &key, Body::Inline(b"")), key));
            } else if !held.is_empty() {
                let (at, key) = held.swap_remove(random.usize(..held.len()));
                assert_eq!(entry::Head::read(heap.get(at)).key(heap.get(at)), key);
                heap.free(at);
            }
            high = high.max(heap.bytes());
        }
        for (at, key) in held.drain(..) {
            assert_eq!(entry::Head::read(heap.get(at)).key(heap.get(at)), key);
            heap.free(at);
        }
        assert!(high > 4 << 20);
        assert!(
            heap.pages
                .iter()
                .all(|page| page.live == 0 || page.class == UNUSED)
        );
        let kept = heap
            .pages
            .iter()
            .filter(|page| page.class != UNUSED)
            .count();
        assert!(
            kept <= CLASSES && heap.bytes <= CLASSES * PAGE_BYTES,
            "{kept} pages kept"
        );
    }
}
