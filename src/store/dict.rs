//! The dictionary of a shard: extendible hashing over small tables.
//!
//! ```text
//! hash (64 bits): dddd.................................   top `bits` bits -> directory
//! directory: [0][0][1][2][3][3][3][3]    a table of depth d owns 2^(bits-d) neighbouring cells
//! groups:    [table 0 .. table 15] [table 16 ..           never moved, so that growth copies nothing
//! heap:      the entries of all tables
//! ```
//!
//! A table that is full splits in two by the next bit of the hash; when it has as many bits as the
//! directory, the directory doubles first. So the longest pause of growth is one table of a few hundred
//! addresses (microseconds) and, once per doubling of everything, a copy of six bytes for each table.
//! Tables are never merged, and an emptied one keeps its 1344 bytes for when there are as many keys again.
//!
//! Invariants: the cells of a table are one aligned run; `totals` is the sum of all tallies.

use super::entry::Head;
use super::heap::Heap;
use super::image::{Image, Slice};
use super::table::{ENTRIES_MAX, Item, Table, Tally, hash_of};
use super::{Entry, HashSeed, Step};

/// A directory has at most 2^24 cells (64 MiB), for 3.7 thousand million keys: a heap has no room for so many.
const BITS_MAX: u8 = 24;
const GROUP_TABLES: usize = 16;
/// Keys a table when room is made beforehand: few tables get so many more that they split.
const RESERVED_PER_TABLE: usize = ENTRIES_MAX - 24;

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
    groups: Vec<Vec<Table>>,
    tables: u32,
    totals: Tally,
    heap: Heap,
    /// How many images were begun.
    images: u32,
    /// The one under way.
    image: Option<Box<Image>>,
}

impl Dict {
    pub(super) fn new(seed: HashSeed) -> Dict {
        let mut dict = Dict {
            seed,
            bits: 0,
            directory: vec![0],
            groups: Vec::new(),
            tables: 0,
            totals: Tally::default(),
            heap: Heap::new(),
            images: 0,
            image: None,
        };
        dict.add_table(Table::new(0, 0));
        dict
    }

    /// An empty dictionary with as many tables as `keys` keys will need.
    pub(super) fn with_room(seed: HashSeed, keys: usize) -> Dict {
        let tables = keys.div_ceil(RESERVED_PER_TABLE).max(1);
        let bits = (tables.next_power_of_two().ilog2() as u8).min(BITS_MAX);
        let mut dict = Dict {
            bits,
            directory: (0..1 << bits).collect(),
            groups: Vec::new(),
            tables: 0,
            ..Dict::new(seed)
        };
        for _ in 0..1u32 << bits {
            dict.add_table(Table::new(bits, 0));
        }
        dict
    }

    /// Leaves an empty dictionary and hands out what there was.
    pub(super) fn take(&mut self) -> Dict {
        std::mem::replace(self, Dict::new(self.seed))
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
        let tables = self.groups.len() * GROUP_TABLES * size_of::<Table>();
        let directory = self.directory.capacity() * size_of::<u32>();
        let image = self.image.as_ref().map_or(0, |image| image.capacity());
        self.heap.bytes() + tables + directory + image
    }

    pub(super) fn heap(&self) -> &Heap {
        &self.heap
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
    #[inline]
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
        &self.groups[number as usize / GROUP_TABLES][number as usize % GROUP_TABLES]
    }

    /// The address of a key's entry.
    #[inline]
    pub(super) fn find(&self, place: Place, key: &[u8]) -> Option<u32> {
        self.table(place.table).find(place.hash, key, &self.heap)
    }

    /// See [`Store::prefetch`](super::Store::prefetch).
    #[inline]
    pub(super) fn prefetch(&self, hash: u64, step: Step) {
        let index = self.table_of(hash).index();
        match step {
            Step::Index => index.prefetch(hash),
            Step::Entry => {
                if let Some(at) = index.guess(hash) {
                    self.heap.prefetch(at);
                }
            }
        }
    }

    #[inline]
    pub(super) fn entry(&self, at: u32) -> Entry<'_> {
        let bytes = self.heap.get(at);
        let head = Head::read(bytes);
        Entry {
            value: match head.outside() {
                None => head.inline(bytes),
                Some(place) => self.heap.outside(place),
            },
            expire_at_ms: head.expiry(bytes),
            encoding: head.encoding(),
        }
    }

    pub(super) fn key(&self, at: u32) -> &[u8] {
        let bytes = self.heap.get(at);
        Head::read(bytes).key(bytes)
    }

    pub(super) fn expiry(&self, at: u32) -> Option<u64> {
        let bytes = self.heap.get(at);
        Head::read(bytes).expiry(bytes)
    }

    /// An entry's bytes, to note an access.
    #[inline]
    pub(super) fn bytes_mut(&mut self, at: u32) -> &mut [u8] {
        self.heap.get_mut(at)
    }

    /// Changes a table and, afterwards, the sums and what in the heap is due. All addresses are stale then.
    #[inline]
    pub(super) fn change<R>(
        &mut self,
        place: Place,
        change: impl FnOnce(&mut Table, &mut Heap) -> R,
    ) -> R {
        let number = place.table as usize;
        let table = &mut self.groups[number / GROUP_TABLES][number % GROUP_TABLES];
        let before = table.tally();
        let result = change(table, &mut self.heap);
        self.totals.move_by(before, table.tally());
        if let Some(page) = self.heap.take_sparse() {
            self.empty(page);
        }
        result
    }

    /// Adds a key that is not there, and says where it belongs then.
    #[inline]
    pub(super) fn insert(&mut self, place: Place, item: &Item<'_>) -> Place {
        let place = self.make_room(place);
        self.preserve(place.table, None);
        self.change(place, |table, heap| table.insert(place.hash, item, heap));
        place
    }

    /// Must be called before the entry at `at` of a table changes or goes, or one is added (`None`), so that an
    /// image under way has what was there.
    #[inline]
    pub(super) fn preserve(&mut self, table: u32, at: Option<u32>) {
        if self.image.is_some() {
            self.preserve_in_image(table, at);
        }
    }

    #[cold]
    fn preserve_in_image(&mut self, number: u32, at: Option<u32>) {
        let number = number as usize;
        let table = &mut self.groups[number / GROUP_TABLES][number % GROUP_TABLES];
        let image = self.image.as_mut().expect("one is under way");
        image.preserve(table, at, &mut self.heap);
    }

    /// The image under way.
    pub(super) fn image(&self) -> Option<&Image> {
        self.image.as_deref()
    }

    pub(super) fn image_mut(&mut self) -> Option<&mut Image> {
        self.image.as_deref_mut()
    }

    /// Whether nothing is left to be gathered for the image under way.
    pub(super) fn is_image_whole(&self) -> bool {
        self.image()
            .is_some_and(|image| image.next_table(self.tables).is_none())
    }

    pub(super) fn is_imaging(&self) -> bool {
        self.image.is_some()
    }

    /// Begins an image of what is there now.
    pub(super) fn begin_image(&mut self) {
        assert!(self.image.is_none(), "an image is under way");
        self.images += 1;
        self.heap.set_mark(self.images % 2 == 1);
        self.image = Some(Box::new(Image::new(self.images)));
    }

    /// Goes on with the image under way; whether it holds everything now.
    pub(super) fn advance_image(&mut self, mut slice: Slice) -> bool {
        let image = self.image.as_mut().expect("one is under way");
        while let Some(number) = image.next_table(self.tables) {
            let number = number as usize;
            let table = &mut self.groups[number / GROUP_TABLES][number % GROUP_TABLES];
            if !image.walk(table, &mut self.heap, &mut slice) {
                return false;
            }
        }
        true
    }

    /// Ends the image under way, wherever it stands.
    pub(super) fn end_image(&mut self) {
        self.image = None;
    }

    /// Moves the entries of a sparse page to others.
    fn empty(&mut self, page: u32) {
        for at in self.heap.live(page) {
            let hash = hash_of(at, &self.heap, self.seed);
            let number = self.place_of_hash(hash).table as usize;
            let new_at = self.heap.relocate(at);
            let table = &mut self.groups[number / GROUP_TABLES][number % GROUP_TABLES];
            table.repoint(hash, at, new_at);
        }
    }

    /// Where to insert a key that is not there: splits its table while that is full.
    fn make_room(&mut self, mut place: Place) -> Place {
        while self.table(place.table).len() == ENTRIES_MAX {
            self.split(place);
            place.table = self.directory[self.cell(place.hash)];
        }
        place
    }

    fn split(&mut self, place: Place) {
        let depth = self.table(place.table).depth();
        if depth == self.bits {
            self.double();
        }
        let number = place.table as usize;
        let table = &mut self.groups[number / GROUP_TABLES][number % GROUP_TABLES];
        let before = table.tally();
        let upper = table.split(&self.heap, self.seed);
        self.totals.move_by(before, table.tally());
        self.totals.move_by(Tally::default(), upper.tally());
        let number = self.add_table(upper);
        let run = 1usize << (self.bits - depth);
        let first = self.cell(place.hash) & !(run - 1);
        let cells = &mut self.directory[first..first + run];
        assert!(
            cells.iter().all(|&cell| cell == place.table),
            "a table owns one aligned run"
        );
        cells[run / 2..].fill(number);
    }

    fn double(&mut self) {
        assert!(self.bits < BITS_MAX, "the heap is full before");
        let mut doubled = Vec::with_capacity(self.directory.len() * 2);
        doubled.extend(self.directory.iter().flat_map(|&table| [table, table]));
        self.directory = doubled;
        self.bits += 1;
    }

    fn add_table(&mut self, table: Table) -> u32 {
        if self
            .groups
            .last()
            .is_none_or(|group| group.len() == GROUP_TABLES)
        {
            self.groups.push(Vec::with_capacity(GROUP_TABLES));
        }
        let group = self.groups.last_mut().expect("just pushed");
        group.push(table);
        self.tables += 1;
        self.tables - 1
    }
}

impl Tally {
    #[inline]
    fn move_by(&mut self, before: Tally, after: Tally) {
        self.keys = self.keys + after.keys - before.keys;
        self.expiring = self.expiring + after.expiring - before.expiring;
    }
}
