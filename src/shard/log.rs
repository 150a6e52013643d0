//! The part of a shard's log that is in memory: what raft may still ask for.
//!
//! ```text
//!   1 ........ base | base+1 .......... last
//!   in a snapshot   | entries: not applied yet, or not durable yet
//!   or the files    |
//! ```
//!
//! Entries leave it when they are applied; who starts anew finds them in the files. The term of `base`
//! stays known, which raft needs to append behind it.
//!
//! Invariant: entries are contiguous from `base + 1`; an append over an existing index cuts the rest off.
//!
//! Deliberately absent: entries kept for followers that lag behind (there are none yet), and snapshots for
//! them.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

/// See the module.
pub(super) struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    base: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    /// A log that begins behind entry `base` of `base_term`, for a group of these voters.
    pub(super) fn new(hard_state: HardState, voters: Vec<u64>, base: u64, base_term: u64) -> Log {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(voters);
        Log {
            hard_state,
            conf_state,
            base,
            base_term,
            entries: VecDeque::new(),
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Adds entries; what stood at their indices and behind is gone.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.base < first.index && first.index <= self.last() + 1,
            "entries are contiguous and none that was applied is replaced"
        );
        self.entries
            .truncate((first.index - self.base - 1) as usize);
        self.entries.extend(entries);
    }

    /// Forgets the entries up to `index`, which have been applied.
    pub(super) fn forget(&mut self, index: u64) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= index) {
            (self.base, self.base_term) = (entry.index, entry.term);
            self.entries.pop_front();
        }
    }

    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        let (hard_state, conf_state) = (self.hard_state.clone(), self.conf_state.clone());
        Ok(RaftState::new(hard_state, conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base {
            return Err(Error::Store(StorageError::Compacted));
        }
        let bytes_max = bytes_max.into().unwrap_or(u64::MAX);
        let range = (low - self.base - 1) as usize..(high - self.base - 1) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.data.len() as u64 + 1;
            is_first || bytes <= bytes_max
        };
        Ok(self
            .entries
            .range(range)
            .take_while(fits)
            .cloned()
            .collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base {
            return Ok(self.base_term);
        }
        match index.checked_sub(self.base + 1) {
            None => Err(Error::Store(StorageError::Compacted)),
            Some(at) => match self.entries.get(at as usize) {
                Some(entry) => Ok(entry.term),
                None => Err(Error::Store(StorageError::Unavailable)),
            },
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _: u64, _: u64) -> Result<Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
