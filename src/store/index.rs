//! The index of a small table: from the hash of a key to the address of its entry.
//!
//! ```text
//! line, as long as a line of the cache:  [tags: 12 x u8][passed: u32][addresses: 12 x u32]
//!
//! hash: ......................... hhhhhhhh hhhhhhhh hhhhhhhh hhhhhhhh tttttttt
//!       the directory's bits      home line = h * 20 / 2^32        tag; 0 counts as 1
//! ```
//!
//! An address lies in the home line of its key or, if that was full when it came, in the first line behind it
//! that was not; behind the last line is the first. So a search is one miss of the cache, nearly always: with as
//! many keys as there may be, one in ten lies outside of its home line. A tag that is 0 marks a free slot.
//!
//! `passed` counts the addresses that went past a line. A search that comes to a line which nobody passed is over.
//! Whoever removes an address takes back what it counted on its way: nothing is left behind where it was.
//!
//! It is an array and a part of its table: the way from the directory to a line is arithmetic, not memory.
//!
//! Invariants: a line was full when somebody passed it, and `passed` is the number of addresses whose way from
//! their home line leads past it.
//!
//! Source: the overflow counters are those of F14 (Bronson & Shi, "Open-sourcing F14 for faster, more
//! memory-efficient hash tables", 2019).
//!
//! Not here: keys. Who searches is asked whether an address is that of the key. Nor how many there are: the table
//! counts.

use prefetch_index::prefetch_index;

/// Lines of an index.
const LINES: usize = 20;
/// Addresses in a line.
const SLOTS: usize = 12;
/// An index should not hold more: of 16 slots one stays free, so that few keys are outside of their home line and
/// each search comes to an end soon.
pub(super) const ADDRESSES_MAX: usize = LINES * SLOTS / 16 * 15;
/// The tag of a free slot.
const FREE: u8 = 0;
/// The lowest bit of each tag of a line, the highest one, and all below that.
const LOWEST: u128 = 0x0101_0101_0101_0101_0101_0101;
const HIGHEST: u128 = LOWEST << 7;
const LOWER: u128 = HIGHEST - LOWEST;

/// See the module.
#[derive(Clone)]
#[repr(C, align(64))]
struct Line {
    tags: [u8; SLOTS],
    passed: u32,
    addresses: [u32; SLOTS],
}

const _: () = assert!(size_of::<Line>() == 64);

/// Slots of a line that are still to be looked at: the highest bit of each one's byte.
struct Slots(u128);

/// See the module.
pub(super) struct Index([Line; LINES]);

impl Index {
    /// An index without addresses.
    pub(super) const EMPTY: Index = Index([const { Line::EMPTY }; LINES]);

    /// The address under `hash` of which `is_it` says that it is the one.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (tag, mut number) = (tag_of(hash), home(hash));
        for _ in 0..LINES {
            let line = &self.0[number];
            let mut addresses = line.slots(tag).map(|slot| line.addresses[slot]);
            if let Some(at) = addresses.find(|&at| is_it(at)) {
                return Some(at);
            }
            if line.passed == 0 {
                return None;
            }
            number = behind(number);
        }
        None
    }

    /// Has the line fetched into the cache with which a search for `hash` begins.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch_index(&self.0, home(hash));
    }

    /// The address that a search for `hash` most likely finds, by the first line and the tag alone.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> Option<u32> {
        let line = &self.0[home(hash)];
        let slot = line.slots(tag_of(hash)).next()?;
        Some(line.addresses[slot])
    }

    /// Adds an address that is not there; a slot is free.
    pub(super) fn insert(&mut self, hash: u64, at: u32) {
        let mut number = home(hash);
        loop {
            let line = &mut self.0[number];
            if let Some(slot) = line.slots(FREE).next() {
                line.tags[slot] = tag_of(hash);
                line.addresses[slot] = at;
                break;
            }
            line.passed += 1;
            number = behind(number);
        }
    }

    /// Puts `new_at` in the place of `at`, which is there under `hash`.
    pub(super) fn repoint(&mut self, hash: u64, at: u32, new_at: u32) {
        let (number, slot) = self.locate(hash, at);
        self.0[number].addresses[slot] = new_at;
    }

    /// Removes `at`, which is there under `hash`.
    pub(super) fn remove(&mut self, hash: u64, at: u32) {
        let (number, slot) = self.locate(hash, at);
        self.0[number].tags[slot] = FREE;
        let mut passed = home(hash);
        while passed != number {
            self.0[passed].passed -= 1;
            passed = behind(passed);
        }
    }

    /// The line and the slot in which `at` is.
    fn locate(&self, hash: u64, at: u32) -> (usize, usize) {
        let mut number = home(hash);
        for _ in 0..LINES {
            let line = &self.0[number];
            let mut slots = line.slots(tag_of(hash));
            if let Some(slot) = slots.find(|&slot| line.addresses[slot] == at) {
                return (number, slot);
            }
            number = behind(number);
        }
        unreachable!("an entry's address is in the index")
    }

    /// All addresses, in no order that means anything.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|line| {
            let slots = line.tags.iter().zip(&line.addresses);
            slots.filter(|&(&tag, _)| tag != FREE).map(|(_, &at)| at)
        })
    }
}

impl Line {
    const EMPTY: Line = Line {
        tags: [FREE; SLOTS],
        passed: 0,
        addresses: [0; SLOTS],
    };

    /// The slots with this tag.
    #[inline]
    fn slots(&self, tag: u8) -> Slots {
        let mut bytes = [0; 16];
        bytes[..SLOTS].copy_from_slice(&self.tags);
        let differing = u128::from_le_bytes(bytes) ^ (LOWEST * u128::from(tag));
        // The sum carries into the highest bit of a byte that is not 0 below it, and never out of the byte.
        let different = ((differing & LOWER) + LOWER) | differing;
        Slots(!different & HIGHEST)
    }
}

impl Iterator for Slots {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() / u8::BITS;
        self.0 &= self.0 - 1;
        Some(slot as usize)
    }
}

/// The line in which a key belongs.
#[inline]
fn home(hash: u64) -> usize {
    let bits = u64::from((hash >> u8::BITS) as u32);
    ((bits * LINES as u64) >> u32::BITS) as usize
}

#[inline]
fn behind(number: usize) -> usize {
    if number + 1 == LINES { 0 } else { number + 1 }
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    (hash as u8).max(FREE + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index and what is in it: hashes with addresses.
    struct Model {
        index: Index,
        held: Vec<(u64, u32)>,
        random: fastrand::Rng,
        next: u32,
    }

    fn seed() -> u64 {
        let given = std::env::var("MARLINE_SEED").ok();
        let seed = given.and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("MARLINE_SEED={seed}");
        seed
    }

    impl Model {
        fn new(seed: u64) -> Model {
            Model {
                index: Index::EMPTY,
                held: Vec::new(),
                random: fastrand::Rng::with_seed(seed),
                next: 0,
            }
        }

        fn address(&mut self) -> u32 {
            self.next += 1;
            self.next
        }

        fn insert(&mut self, hash: u64) {
            let at = self.address();
            self.index.insert(hash, at);
            self.held.push((hash, at));
        }

        fn remove(&mut self) {
            let nth = self.random.usize(..self.held.len());
            let (hash, at) = self.held.swap_remove(nth);
            self.index.remove(hash, at);
            assert_eq!(self.index.find(hash, |found| found == at), None);
        }

        fn repoint(&mut self) {
            let nth = self.random.usize(..self.held.len());
            let ((hash, at), new_at) = (self.held[nth], self.address());
            self.index.repoint(hash, at, new_at);
            self.held[nth].1 = new_at;
        }

        /// Lines that an address went past on the way from its home line to where it is.
        fn passed(&self) -> [u32; LINES] {
            let mut passed = [0; LINES];
            for &(hash, at) in &self.held {
                let mut number = home(hash);
                while number != self.index.locate(hash, at).0 {
                    passed[number] += 1;
                    number = behind(number);
                }
            }
            passed
        }

        fn check(&self) {
            for &(hash, at) in &self.held {
                assert_eq!(self.index.find(hash, |found| found == at), Some(at));
                assert_eq!(self.index.find(hash, |_| false), None);
                let is_held = |guess| self.held.iter().any(|&(_, held)| held == guess);
                assert!(self.index.guess(hash).is_none_or(is_held));
            }
            let mut held: Vec<u32> = self.held.iter().map(|&(_, at)| at).collect();
            let mut told: Vec<u32> = self.index.addresses().collect();
            held.sort_unstable();
            told.sort_unstable();
            assert_eq!(told, held);
            let passed = self.index.0.each_ref().map(|line| line.passed);
            assert_eq!(passed, self.passed());
        }
    }

    #[test]
    fn it_agrees_with_a_model_however_hashes_collide() {
        let seed = seed();
        let spread = |random: &mut fastrand::Rng| random.u64(..);
        let one_home = |random: &mut fastrand::Rng| u64::from(random.u8(..)) | 9 << 36;
        let one_tag = |random: &mut fastrand::Rng| random.u64(..) & !0xFF;
        let few = |random: &mut fastrand::Rng| (random.u64(..3) << 38) | random.u64(..2);
        let equal = |_: &mut fastrand::Rng| u64::MAX;
        let hashes: [fn(&mut fastrand::Rng) -> u64; 5] = [spread, one_home, one_tag, few, equal];
        for hash in hashes {
            let mut model = Model::new(seed);
            for round in 0..2400 {
                // It fills, is used, empties, and fills again.
                let inserts = [10, 5, 1][round / 400 % 3];
                let has_room = model.held.len() < LINES * SLOTS;
                match model.random.usize(..11) {
                    dice if has_room && dice < inserts || model.held.is_empty() => {
                        let hash = hash(&mut model.random);
                        model.insert(hash);
                    }
                    10 => model.repoint(),
                    _ => model.remove(),
                }
                if round % 20 == 0 || model.held.len() < 3 {
                    model.check();
                }
            }
            while !model.held.is_empty() {
                model.remove();
            }
            model.check();
            assert!(model.index.0.iter().all(|line| line.tags == [FREE; SLOTS]));
        }
    }

    #[test]
    fn few_addresses_lie_outside_of_their_home_line() {
        let mut random = fastrand::Rng::with_seed(7);
        let (rounds, mut outside) = (100, 0);
        for _ in 0..rounds {
            let mut index = Index::EMPTY;
            for at in 0..ADDRESSES_MAX as u32 {
                let hash = random.u64(..);
                index.insert(hash, at);
                outside += usize::from(index.locate(hash, at).0 != home(hash));
            }
        }
        assert!(outside * 8 < rounds * ADDRESSES_MAX, "{outside}");
    }
}
