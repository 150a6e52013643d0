//! Images: what a store held at one moment, gathered in slices while it goes on changing.
//!
//! Nothing is copied when an image begins. A walk goes through the tables by their numbers and emits what it
//! finds; whoever is about to change or remove an entry that was not emitted yet emits it first, as it was. So
//! each entry that was there at the beginning is emitted once, in no order that means anything, and the longest
//! pause is a slice or one value that is written to.
//!
//! Which entries are done:
//!
//! ```text
//! image number n, mark n % 2                table.imaged == n      all of the table is done
//! entry's mark == n % 2    it is done       table.imaged == n - 1  each entry's mark says so
//! entry's mark != n % 2    it is not        table.imaged <  n - 1  the marks mean nothing
//! ```
//!
//! A new entry gets the mark of the last image that was begun: it is no part of that one, and of the next. When an
//! image is complete every table is at its number and every entry has its mark; the next image has the other mark,
//! and not a byte has to be reset. An image that is given up leaves tables whose entries have both marks: such
//! a table stays behind by number, and the first who comes to it in a later image (the walk, a write) gives all its
//! entries the mark of "not done". That costs one table, once.
//!
//! A split hands `imaged` down to both halves, and the new table comes last in the walk; entries that are moved
//! take their marks along. A store that is cleared while an image is under way puts its dictionary aside, and the
//! image goes on there; nobody writes to it any more.
//!
//! A block is a list of entries, and stands for itself:
//!
//! ```text
//! +-------+---------+-----------+----------------+-----+-------+
//! | flags | key len | value len | expiry         | key | value |
//! | u8    | number  | number    | fixed, may be  |     |       |
//! |       |         |           | absent         |     |       |
//! +-------+---------+-----------+----------------+-----+-------+
//! flags: bits 0..=1 encoding code (0 plain, 1 text, 2 raw), bit 2 has an expiry
//!
//! k = v, expiring at 1700000000000:   04 01 01 00 68 e5 cf 8b 01 00 00 6b 76
//! ```
//!
//! Fields are those of [`binary`](crate::command::binary). Expired entries are in it, as long as they were not
//! removed: what the log says afterwards may concern them. Access times are not.
//!
//! Not here: compression, checksums, files; whoever stores blocks does that.

use super::Entry;
use super::entry::{self, Head};
use super::heap::Heap;
use super::table::Table;
use crate::command::binary::{Coded, Malformed, Reader, put_fixed, put_number};

/// A slice gathers this much, and what its last entry has beyond.
const SLICE_BYTES: usize = 1 << 20;
const ENCODING: u8 = 0b11;
const EXPIRY: u8 = 0b100;

/// An image under way: see the module.
pub(super) struct Image {
    number: u32,
    /// The table at which the walk stands.
    next: u32,
    /// What was emitted; whole entries.
    gathered: Vec<u8>,
    /// How much of that was handed out already.
    taken: usize,
}

/// How much of a walk to do before a pause.
pub(super) struct Slice {
    /// Tables and entries.
    steps: usize,
    bytes: usize,
}

impl Slice {
    pub(super) fn new(steps: usize) -> Slice {
        Slice {
            steps,
            bytes: SLICE_BYTES,
        }
    }

    /// Counts a step, if there is one left.
    fn step(&mut self, bytes: usize) {
        self.steps = self.steps.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_over(&self) -> bool {
        self.steps == 0 || self.bytes == 0
    }
}

impl Image {
    pub(super) fn new(number: u32) -> Image {
        Image {
            number,
            next: 0,
            gathered: Vec::new(),
            taken: 0,
        }
    }

    /// Bytes that are gathered and not taken.
    pub(super) fn bytes(&self) -> usize {
        self.gathered.len() - self.taken
    }

    pub(super) fn capacity(&self) -> usize {
        self.gathered.capacity()
    }

    /// The table at which the walk stands, unless it is past all of `tables`.
    pub(super) fn next_table(&self, tables: u32) -> Option<u32> {
        Some(self.next).filter(|&next| next < tables)
    }

    /// Walks through the table at which the walk stands; whether it is past it then.
    pub(super) fn walk(&mut self, table: &mut Table, heap: &mut Heap, slice: &mut Slice) -> bool {
        if slice.is_over() {
            return false;
        }
        if !self.is_done(table, heap) {
            for at in table.addresses() {
                let bytes = self.emit(at, heap);
                if bytes > 0 {
                    slice.step(bytes);
                }
                if slice.is_over() {
                    return false;
                }
            }
            table.set_imaged(self.number);
        }
        slice.step(0);
        self.next += 1;
        true
    }

    /// Emits the entry at `at`, if it was not yet, before it changes; and sees to it that a new one (`None`) can be
    /// told from the old ones.
    pub(super) fn preserve(&mut self, table: &mut Table, at: Option<u32>, heap: &mut Heap) {
        if self.is_done(table, heap) {
            return;
        }
        if let Some(at) = at {
            self.emit(at, heap);
        }
    }

    /// Whether all of a table is done; if not, its marks can be trusted afterwards.
    fn is_done(&self, table: &mut Table, heap: &mut Heap) -> bool {
        if table.imaged() == self.number {
            return true;
        }
        if table.imaged() != self.number - 1 {
            let not_done = !heap.mark();
            for at in table.addresses() {
                entry::write_mark(heap.get_mut(at), not_done);
            }
            table.set_imaged(self.number - 1);
        }
        false
    }

    /// Appends an entry, unless it is done; how many bytes that made.
    fn emit(&mut self, at: u32, heap: &mut Heap) -> usize {
        let bytes = heap.get(at);
        let head = Head::read(bytes);
        if head.mark() == heap.mark() {
            return 0;
        }
        let value = match head.outside() {
            None => head.inline(bytes),
            Some(place) => heap.outside(place),
        };
        let entry = Entry {
            value,
            expire_at_ms: head.expiry(bytes),
            encoding: head.encoding(),
        };
        let before = self.gathered.len();
        put_entry(head.key(bytes), entry, &mut self.gathered);
        let mark = heap.mark();
        entry::write_mark(heap.get_mut(at), mark);
        self.gathered.len() - before
    }

    /// Hands out a block of at least `block_bytes` and at most one entry more, or what there is.
    pub(super) fn take(&mut self, block_bytes: usize) -> Vec<u8> {
        let block = self.first_entries(block_bytes);
        if block == self.gathered.len() {
            self.taken = 0;
            return std::mem::take(&mut self.gathered);
        }
        let taken = self.gathered[self.taken..][..block].to_vec();
        self.taken += block;
        // What was handed out is cut off when it is as much as the rest, so that each byte moves once or twice.
        if self.taken >= self.bytes() {
            self.gathered = self.gathered.split_off(self.taken);
            self.taken = 0;
        }
        taken
    }

    /// Bytes of the first entries that make up a block.
    fn first_entries(&self, block_bytes: usize) -> usize {
        let gathered = &self.gathered[self.taken..];
        if gathered.len() <= block_bytes {
            return gathered.len();
        }
        let mut reader = Reader::new(gathered);
        loop {
            read_entry(&mut reader).expect("an image gathers whole entries");
            let len = gathered.len() - reader.left();
            if len >= block_bytes {
                return len;
            }
        }
    }
}

fn put_entry(key: &[u8], entry: Entry<'_>, out: &mut Vec<u8>) {
    let expiry = if entry.expire_at_ms.is_some() {
        EXPIRY
    } else {
        0
    };
    out.push(entry.encoding.code() | expiry);
    put_number(key.len() as u64, out);
    put_number(entry.value.len() as u64, out);
    if let Some(at_ms) = entry.expire_at_ms {
        put_fixed(at_ms, out);
    }
    out.extend_from_slice(key);
    out.extend_from_slice(entry.value);
}

/// The next entry of a block and its key.
#[inline]
pub(super) fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Entry<'a>), Malformed> {
    let flags = reader.byte()?;
    if flags & !(ENCODING | EXPIRY) != 0 {
        return Err(Malformed::Code {
            field: "the flags of an entry",
            code: flags,
        });
    }
    let (key_len, value_len) = (reader.key_len()?, reader.number()?);
    let expire_at_ms = match flags & EXPIRY {
        0 => None,
        _ => Some(reader.time()?),
    };
    let (key, value) = (reader.bytes(key_len)?, reader.bytes(value_len)?);
    let entry = Entry {
        value,
        expire_at_ms,
        encoding: Coded::of(flags & ENCODING)?,
    };
    Ok((key, entry))
}
