//! The dictionary of a shard: extendible hashing over small tables.
//!
//! ```text
//! hash (64 bits): dddd.................................   top `bits` bits -> directory
//! directory: [0][0][1][2][3][3][3][3]    a table of depth d owns 2^(bits-d) neighbouring cells
//! pages:     [table 0 .. table 255] [table 256 ..         never moved, so that growth copies nothing
//! ```
//!
//! A table that is full splits in two by the next bit of the hash; when it has as many bits as the
//! directory, the directory doubles first. So the longest pause of growth is one table of a few hundred
//! entries (microseconds) and, once per doubling of everything, a copy of four bytes for each table.
//! Tables are never merged: an emptied one gives back its arena and keeps about a hundred bytes.
//!
//! Positions in a scan are hash prefixes of [`scan::CURSOR_BITS`](super::scan) bits, which no split moves.
//!
//! Invariants: the cells of a table are one aligned run; `totals` is the sum of all tallies.

use super::HashSeed;
use super::table::{ENTRIES_MAX, Scratch, Table, Tally};

/// A directory has at most 2^24 cells (64 MiB), for 3.7 thousand million keys; beyond, tables grow.
const BITS_MAX: u8 = 24;
const PAGE_TABLES: usize = 256;

/// All tables of a dictionary, by number.
pub(super) type Pages = Vec<Vec<Table>>;

/// Where a key belongs: its hash and the number of its table.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) hash: u64,
    pub(super) table: u32,
}

/// See the module.
pub(super) struct Dict {
    seed: HashSeed,
    bits: u8,
    directory: Vec<u32>,
    pages: Pages,
    tables: u32,
    totals: Tally,
    scratch: Scratch,
}

impl Dict {
    pub(super) fn new(seed: HashSeed) -> Dict {
        let mut dict = Dict {
            seed,
            bits: 0,
            directory: vec![0],
            pages: Vec::new(),
            tables: 0,
            totals: Tally::default(),
            scratch: Scratch::default(),
        };
        dict.add_table(Table::new(0));
        dict
    }

    /// Leaves an empty dictionary and hands out what was in it.
    pub(super) fn take(&mut self) -> Pages {
        let old = std::mem::replace(self, Dict::new(self.seed));
        old.pages
    }

    pub(super) fn seed(&self) -> HashSeed {
        self.seed
    }

    pub(super) fn keys(&self) -> usize {
        self.totals.keys
    }

    pub(super) fn expiring(&self) -> usize {
        self.totals.expiring
    }

    /// Memory that is allocated, not what is in use of it.
    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.len() * PAGE_TABLES * size_of::<Table>();
        self.totals.bytes + pages + self.directory.capacity() * size_of::<u32>()
    }

    pub(super) fn tables(&self) -> u32 {
        self.tables
    }

    #[inline]
    pub(super) fn place(&self, key: &[u8]) -> Place {
        self.place_of_hash(self.seed.hash(key))
    }

    #[inline]
    pub(super) fn place_of_hash(&self, hash: u64) -> Place {
        Place {
            hash,
            table: self.directory[self.cell(hash)],
        }
    }

    /// The table whose keys begin with this hash prefix.
    pub(super) fn table_of(&self, hash: u64) -> &Table {
        self.table(self.place_of_hash(hash).table)
    }

    /// The directory cell of a hash. Two shifts, because a shift by 64 is none.
    #[inline]
    fn cell(&self, hash: u64) -> usize {
        (hash >> 1 >> (63 - self.bits)) as usize
    }

    #[inline]
    pub(super) fn table(&self, number: u32) -> &Table {
        &self.pages[number as usize / PAGE_TABLES][number as usize % PAGE_TABLES]
    }

    /// A table to be changed in a way that its tally does not show (access times).
    #[inline]
    pub(super) fn table_mut(&mut self, number: u32) -> &mut Table {
        &mut self.pages[number as usize / PAGE_TABLES][number as usize % PAGE_TABLES]
    }

    /// Finds the entry of a key.
    #[inline]
    pub(super) fn find(&self, place: Place, key: &[u8]) -> Option<u32> {
        self.table(place.table).find(place.hash, key)
    }

    /// Changes a table; afterwards sums, holes and sizes are right again and offsets are stale.
    #[inline]
    pub(super) fn change<R>(&mut self, place: Place, change: impl FnOnce(&mut Table) -> R) -> R {
        let seed = self.seed;
        let table =
            &mut self.pages[place.table as usize / PAGE_TABLES][place.table as usize % PAGE_TABLES];
        let before = table.tally();
        let result = change(table);
        table.tidy(&mut self.scratch, seed);
        let after = table.tally();
        let is_overlong = table.is_overlong();
        self.account(before, after);
        if is_overlong {
            self.split_overlong(place);
        }
        result
    }

    /// Where to insert a key that is not there: splits its table when that is full.
    pub(super) fn make_room(&mut self, mut place: Place) -> Place {
        while self.table(place.table).len() >= ENTRIES_MAX && self.split(place) {
            place.table = self.directory[self.cell(place.hash)];
        }
        place
    }

    fn split_overlong(&mut self, mut place: Place) {
        while self.table(place.table).is_overlong() && self.split(place) {
            place.table = self.directory[self.cell(place.hash)];
        }
    }

    /// Splits the table at `place`; false when the directory is as deep as it may become.
    fn split(&mut self, place: Place) -> bool {
        let depth = self.table(place.table).depth();
        if depth == BITS_MAX {
            return false;
        }
        if depth == self.bits {
            self.double();
        }
        let seed = self.seed;
        let table =
            &mut self.pages[place.table as usize / PAGE_TABLES][place.table as usize % PAGE_TABLES];
        let before = table.tally();
        let upper = table.split(&mut self.scratch, seed);
        let (after, upper_tally) = (table.tally(), upper.tally());
        self.account(before, after);
        self.account(Tally::default(), upper_tally);
        let number = self.add_table(upper);
        let run = 1usize << (self.bits - depth);
        let first = self.cell(place.hash) & !(run - 1);
        let cells = &mut self.directory[first..first + run];
        assert!(
            cells.iter().all(|&cell| cell == place.table),
            "a table owns one aligned run"
        );
        cells[run / 2..].fill(number);
        true
    }

    fn double(&mut self) {
        assert!(self.bits < BITS_MAX);
        let mut doubled = Vec::with_capacity(self.directory.len() * 2);
        doubled.extend(self.directory.iter().flat_map(|&table| [table, table]));
        self.directory = doubled;
        self.bits += 1;
    }

    fn add_table(&mut self, table: Table) -> u32 {
        if self
            .pages
            .last()
            .is_none_or(|page| page.len() == PAGE_TABLES)
        {
            self.pages.push(Vec::with_capacity(PAGE_TABLES));
        }
        let page = self.pages.last_mut().expect("just pushed");
        page.push(table);
        self.tables += 1;
        self.tables - 1
    }

    #[inline]
    fn account(&mut self, before: Tally, after: Tally) {
        let totals = &mut self.totals;
        totals.keys = totals.keys + after.keys - before.keys;
        totals.expiring = totals.expiring + after.expiring - before.expiring;
        totals.bytes = totals.bytes + after.bytes - before.bytes;
    }
}
