//! The part of a shard's log that is in memory: what raft may still ask for.
//!
//! ```text
//!   1 ........ base | base+1 ....... applied | applied+1 ....... last
//!   in a snapshot   | kept for followers     | not applied yet, or
//!   or the files    | that lag behind        | not durable yet
//! ```
//!
//! Entries leave it some time after they are applied: at once when there are no followers, else when they take more
//! than [`KEPT_BYTES_MAX`], unless a follower that is being sent a snapshot will need them. Who starts anew finds
//! them in the files. The term of `base` stays known, which raft needs to append behind it.
//!
//! A follower that lags behind the base is brought a snapshot by other means; raft hears of it when it is there
//! ([`Log::set_staged`]).
//!
//! Invariants: entries are contiguous from `base + 1`; an append over an existing index cuts the rest off, and
//! never replaces what was applied.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use super::Applying;
use super::members::Members;
use crate::odd::{self, Size};
use crate::planted::{self, Bug};

/// Bytes of applied entries that are kept for followers.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// What an entry takes beside its data.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// A snapshot that a follower has got.
pub(super) struct Staged {
    /// The follower.
    pub(super) replica: u64,
    /// Its last entry.
    pub(super) at: Applying,
    /// Who was in the group then.
    pub(super) members: Members,
}

/// See the module.
pub(super) struct Log {
    hard_state: HardState,
    members: Members,
    base: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    /// Bytes of the applied ones.
    kept_bytes: usize,
    applied: u64,
    /// Entries behind this index stay, whatever they take.
    pinned: Option<u64>,
    /// Followers that raft wants a snapshot for.
    wanted: RefCell<BTreeSet<u64>>,
    /// A follower that has a snapshot.
    staged: Option<Staged>,
}

impl Log {
    /// A log that begins behind entry `base` of `base_term`, which has been applied.
    pub(super) fn new(members: Members, base: u64, base_term: u64) -> Log {
        Log {
            hard_state: HardState::default(),
            members,
            base,
            base_term,
            entries: VecDeque::new(),
            kept_bytes: 0,
            applied: base,
            pinned: None,
            wanted: RefCell::default(),
            staged: None,
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn set_members(&mut self, members: Members) {
        self.members = members;
    }

    /// Adds entries; what stood at their indices and behind is gone.
    pub(super) fn append(&mut self, mut entries: Vec<Entry>) {
        if planted::is(Bug::ConflictKept) {
            entries.retain(|entry| entry.index > self.last());
        }
        let Some(first) = entries.first() else { return };
        assert!(
            self.applied < first.index && first.index <= self.last() + 1,
            "entries are contiguous and none that was applied is replaced"
        );
        self.cut(first.index - 1);
        self.entries.extend(entries);
    }

    /// Removes all entries behind `index`.
    pub(super) fn cut(&mut self, index: u64) {
        assert!(self.applied <= index, "what was applied stays");
        self.entries.truncate((index - self.base) as usize);
    }

    /// The first entry that has not been applied.
    pub(super) fn next(&self) -> Option<&Entry> {
        self.entries.get((self.applied - self.base) as usize)
    }

    /// The entries that have not been applied.
    pub(super) fn tail(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.range((self.applied - self.base) as usize..)
    }

    /// The entries up to `index` have been applied; those that nobody will ask for are forgotten.
    pub(super) fn applied(&mut self, index: u64) {
        let kept_bytes_max = if self.members.is_one() {
            0
        } else {
            odd::or(Size::LogKept, KEPT_BYTES_MAX)
        };
        while self.applied < index {
            let Some(entry) = self.next() else { break };
            self.kept_bytes += entry.data.len() + ENTRY_BYTES;
            self.applied += 1;
        }
        while self.kept_bytes > kept_bytes_max && self.pinned.is_none_or(|at| self.base < at) {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            (self.base, self.base_term) = (entry.index, entry.term);
            self.kept_bytes -= entry.data.len() + ENTRY_BYTES;
        }
    }

    /// Begins anew behind a snapshot.
    pub(super) fn restart(&mut self, index: u64, term: u64, members: Members) {
        self.entries.clear();
        (self.base, self.base_term, self.applied) = (index, term, index);
        (self.kept_bytes, self.pinned) = (0, None);
        self.members = members;
    }

    /// Whether entries behind this index are to stay; `None`: only as many as usual.
    pub(super) fn pin(&mut self, index: Option<u64>) {
        self.pinned = index;
    }

    /// Followers that raft has asked for a snapshot for, since the last call.
    pub(super) fn take_wanted(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.wanted.get_mut())
    }

    /// A follower has a snapshot: raft may tell it so.
    pub(super) fn set_staged(&mut self, staged: Option<Staged>) {
        self.staged = staged;
    }

    pub(super) fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The term of the last entry.
    pub(super) fn last_term(&self) -> u64 {
        self.entries
            .back()
            .map_or(self.base_term, |entry| entry.term)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        let conf_state = self.members.to_conf_state();
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
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

    fn snapshot(&self, _: u64, to: u64) -> Result<Snapshot> {
        match &self.staged {
            // One that ends before the base leaves a gap: another is needed.
            Some(staged) if staged.replica == to && staged.at.index >= self.base => {
                let mut snapshot = Snapshot::default();
                let metadata = snapshot.mut_metadata();
                (metadata.index, metadata.term) = (staged.at.index, staged.at.term);
                metadata.set_conf_state(staged.members.to_conf_state());
                Ok(snapshot)
            }
            _ => {
                self.wanted.borrow_mut().insert(to);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
