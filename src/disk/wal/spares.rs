//! Files that segments will be made of: space that is already ours.

use std::io;
use std::sync::Arc;

use super::super::{Disk, fill_with_zeros};
use super::{NUMBER_MAX, number_in};
use crate::failpoint::{self, Point};

/// At most this many files wait to be used again.
const SPARES_MAX: usize = 2;

/// A file with its full length of written blocks.
pub struct Spare {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The key that its old contents are sealed with, 0: not sealed; `None`: it has none.
    pub(super) key_id: Option<u32>,
}

/// A spare that is to be made: on any thread, while the log goes on.
pub struct SparePlan {
    name: String,
    bytes: u64,
}

impl SparePlan {
    /// How long it is to be.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it: writes zeros over its length, so that the blocks are really there, and syncs it.
    ///
    /// # Errors
    /// The disk's; nothing is left of it then.
    pub fn make(self, disk: &dyn Disk) -> io::Result<Spare> {
        if let Err(error) = fill_with_zeros(disk, &self.name, self.bytes) {
            // What cannot be removed either is found by the next process.
            let _ = disk.remove(&self.name);
            return Err(error);
        }
        failpoint::reach(Point::SpareMade);
        Ok(Spare {
            name: self.name,
            bytes: self.bytes,
            key_id: None,
        })
    }
}

/// The spares of one log.
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    /// Usual length; a record that is longer has one of its own.
    bytes: u64,
    ready: Vec<Spare>,
    /// One that an earlier process left, in whatever state.
    leftover: Option<String>,
    next: u64,
}

impl Spares {
    /// Looks at what an earlier process left: keeps one file to be written anew, removes the others.
    pub(super) fn find(disk: Arc<dyn Disk>, bytes: u64) -> io::Result<Spares> {
        let mut spares = Spares {
            bytes,
            ready: Vec::new(),
            leftover: None,
            next: 1,
            disk,
        };
        for file in spares.disk.list()? {
            let Some(number) = number_in(&file.name, "spare-").filter(|n| *n < NUMBER_MAX) else {
                continue;
            };
            spares.next = spares.next.max(number + 1);
            if spares.leftover.is_none() && file.bytes <= bytes {
                spares.leftover = Some(file.name);
            } else {
                spares.disk.remove(&file.name)?;
            }
        }
        Ok(spares)
    }

    /// Whether a spare of the usual length is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.iter().any(|spare| spare.bytes == self.bytes)
    }

    /// Length of the longest spare that is ready; 0: there is none.
    pub(super) fn longest(&self) -> u64 {
        (self.ready.iter().map(|spare| spare.bytes).max()).unwrap_or(0)
    }

    /// Whether one more file is wanted.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < SPARES_MAX
    }

    /// A name that no file has.
    pub(super) fn new_name(&mut self) -> String {
        self.next += 1;
        format!("spare-{:016x}", self.next - 1)
    }

    pub(super) fn add(&mut self, spare: Spare) {
        self.ready.push(spare);
    }

    /// The shortest spare of at least `needed` bytes, made now if none is ready.
    pub(super) fn take(&mut self, needed: u64) -> io::Result<Spare> {
        if self.longest() < needed {
            self.make(needed)?;
        }
        let at = (0..self.ready.len())
            .filter(|&at| self.ready[at].bytes >= needed)
            .min_by_key(|&at| self.ready[at].bytes)
            .expect("one is ready");
        Ok(self.ready.swap_remove(at))
    }

    /// What is to be done to have one more spare, of at least `needed` bytes. One that was to be long and is not long
    /// enough is made anew.
    pub(super) fn plan(&mut self, needed: u64) -> SparePlan {
        let is_short = |spare: &Spare| self.bytes < spare.bytes && spare.bytes < needed;
        let short = self.ready.iter().position(is_short);
        let name = match short.map(|at| self.ready.swap_remove(at).name) {
            Some(name) => name,
            None => self.leftover.take().unwrap_or_else(|| self.new_name()),
        };
        SparePlan {
            name,
            bytes: self.bytes.max(needed),
        }
    }

    /// Makes one more spare, of at least `needed` bytes.
    pub(super) fn make(&mut self, needed: u64) -> io::Result<()> {
        let spare = self.plan(needed).make(&*self.disk)?;
        self.add(spare);
        Ok(())
    }

    /// Removes the spares with contents that are not sealed with this key.
    pub(super) fn keep_only(&mut self, key_id: u32) -> io::Result<()> {
        let is_stale = |spare: &Spare| spare.key_id.is_some_and(|id| id != key_id);
        while let Some(at) = self.ready.iter().position(is_stale) {
            self.disk.remove(&self.ready[at].name)?;
            self.ready.swap_remove(at);
        }
        Ok(())
    }
}
