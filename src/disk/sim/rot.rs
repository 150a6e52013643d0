//! What a device does to data behind everybody's back: it reports no error, and only checksums tell.
//!
//! ```text
//!  Bit      a bit of a byte flips
//!  Block    4 KiB become zeros
//!  Sector   a sector holds again what it held before it was last changed: a write that the device only claimed to do
//!  Astray   the next write lands in another place of its file, some sectors away
//! ```
//!
//! They concern what lies on the disk. What is read shows the first three at once, but not where something newer waits
//! in memory to be synced. A write that went astray is read in its place, for memory holds it there, until the machine
//! goes down.
//!
//! Everything is drawn from the generator that is given, so a disk on which nothing rots draws nothing. Deliberately
//! absent: damage across files, and damage to the directory.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::{Contents, SECTOR_BYTES, SimDisk, State};

const BLOCK_BYTES: usize = 4096;

/// A kind of silent damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// A bit flips.
    Bit,
    /// A block of 4 KiB, or what there is of the last one, becomes zeros.
    Block,
    /// A sector has an older content. Only what was changed since [`SimDisk::remember`] has one.
    Sector,
    /// The next write that can goes to another place of its file.
    Astray,
}

impl Rot {
    /// All kinds.
    pub const ALL: [Rot; 4] = [Rot::Bit, Rot::Block, Rot::Sector, Rot::Astray];
}

impl Contents {
    /// Keeps what the sectors hold that a sync is about to change.
    pub(super) fn remember(&mut self) {
        let written = self.pending.iter().filter(|piece| !piece.bytes.is_empty());
        let sectors = written.flat_map(|piece| {
            let last = piece.offset + piece.bytes.len() - 1;
            piece.offset / SECTOR_BYTES..=last / SECTOR_BYTES
        });
        for sector in sectors.collect::<BTreeSet<usize>>() {
            let begin = sector * SECTOR_BYTES;
            if let Some(old) = self.safe.get(begin..begin + SECTOR_BYTES) {
                self.older.insert(sector, old.to_vec());
            }
        }
    }

    /// Puts other bytes where safe ones lie; they are read where those were.
    fn decay(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let old = std::mem::replace(&mut self.safe[at], *byte);
            if let Some(read) = self.read.get_mut(at).filter(|read| **read == old) {
                *read = *byte;
            }
        }
    }

    /// How many safe bytes there are, if there are any: one place, which stands for all.
    fn length(&self) -> Vec<usize> {
        Vec::from_iter(Some(self.safe.len()).filter(|length| *length > 0))
    }

    /// Where blocks begin that are not all zeros.
    fn full_blocks(&self) -> Vec<usize> {
        let blocks = self.safe.chunks(BLOCK_BYTES).enumerate();
        let full = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        full.map(|(number, _)| number * BLOCK_BYTES).collect()
    }

    /// Where sectors begin that held something else before.
    fn changed_sectors(&self) -> Vec<usize> {
        let changed = |(sector, old): (&usize, &Vec<u8>)| {
            let begin = sector * SECTOR_BYTES;
            let now = self.safe.get(begin..begin + SECTOR_BYTES)?;
            (now != old).then_some(begin)
        };
        self.older.iter().filter_map(changed).collect()
    }
}

impl State {
    /// A file, drawn from those that are concerned and in which there are `places`; and one of those.
    fn draw(
        &self,
        rng: &mut Rng,
        concerns: impl Fn(&str) -> bool,
        places: impl Fn(&Contents) -> Vec<usize>,
    ) -> Option<(String, usize, usize)> {
        let concerned = self.names.iter().filter(|(name, _)| concerns(name));
        let found = concerned.map(|(name, file)| (name, *file, places(&self.files[*file])));
        let found: Vec<_> = found.filter(|(_, _, places)| !places.is_empty()).collect();
        let (name, file, places) = rng.choice(&found)?;
        Some(((*name).clone(), *file, *rng.choice(places)?))
    }

    fn flip_bit(&mut self, rng: &mut Rng, concerns: impl Fn(&str) -> bool) -> Option<String> {
        let (name, file, length) = self.draw(rng, concerns, Contents::length)?;
        let (at, mask) = (rng.usize(..length), 1 << rng.u8(..8));
        let byte = self.files[file].safe[at] ^ mask;
        self.files[file].decay(at, &[byte]);
        self.count("flipped bit", 1);
        Some(format!("{name}: bit {mask:#04x} of byte {at} flips"))
    }

    fn zero_block(&mut self, rng: &mut Rng, concerns: impl Fn(&str) -> bool) -> Option<String> {
        let (name, file, at) = self.draw(rng, concerns, Contents::full_blocks)?;
        let contents = &mut self.files[file];
        let length = BLOCK_BYTES.min(contents.safe.len() - at);
        contents.decay(at, &[0; BLOCK_BYTES][..length]);
        self.count("zeroed block", 1);
        Some(format!("{name}: {length} bytes at {at} become zeros"))
    }

    fn age_sector(&mut self, rng: &mut Rng, concerns: impl Fn(&str) -> bool) -> Option<String> {
        let (name, file, at) = self.draw(rng, concerns, Contents::changed_sectors)?;
        let contents = &mut self.files[file];
        let old = contents.older.remove(&(at / SECTOR_BYTES))?;
        contents.decay(at, &old);
        self.count("stale sector", 1);
        Some(format!("{name}: the sector at {at} is what it was before"))
    }

    /// Where a write lands that is meant for `offset`.
    pub(super) fn lands_at(&mut self, name: &str, offset: usize, bytes: usize) -> usize {
        let Some(mut rng) = self.astray.take() else {
            return offset;
        };
        let length = (self.names.get(name)).map_or(0, |file| self.files[*file].read.len());
        let (sectors, meant) = (length.div_ceil(SECTOR_BYTES), offset / SECTOR_BYTES);
        let others: Vec<usize> = (0..sectors).filter(|other| *other != meant).collect();
        let Some(other) = rng.choice(&others).filter(|_| bytes > 0) else {
            self.astray = Some(rng);
            return offset;
        };
        let at = other * SECTOR_BYTES + offset % SECTOR_BYTES;
        self.count("misdirected write", 1);
        let what = format!("{name}: {bytes} bytes that are meant for {offset} go to {at}");
        self.went_astray = Some(what);
        at
    }
}

impl SimDisk {
    /// Keeps an older content of each sector that is changed from now on, for [`Rot::Sector`]: no more bytes than
    /// there are in the files.
    pub fn remember(&self) {
        self.state().remembers = true;
    }

    /// Lets something rot, drawn from `rng`, in one of the files whose names `concerns` is true for; a write that goes
    /// astray may be of any file. What it did, in a line; `None` if there is nothing that could rot so.
    pub fn rot(&self, kind: Rot, rng: &mut Rng, concerns: impl Fn(&str) -> bool) -> Option<String> {
        let mut state = self.state();
        match kind {
            Rot::Bit => state.flip_bit(rng, concerns),
            Rot::Block => state.zero_block(rng, concerns),
            Rot::Sector => state.age_sector(rng, concerns),
            Rot::Astray => {
                state.astray = Some(rng.fork());
                Some("the next write that can goes astray".to_owned())
            }
        }
    }

    /// Where the last write went that went astray, in a line.
    pub fn went_astray(&self) -> Option<String> {
        self.state().went_astray.clone()
    }
}
