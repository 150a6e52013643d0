//! From files to a shard: a snapshot's blocks, then the sections of the log.
//!
//! ```text
//!   snapshot (index i) ─▶ store
//!   sections           ─▶ entries > i ─▶ those that a later section calls committed ─▶ store
//!                                        the others stay in the log: raft decides about them
//! ```
//!
//! The last entries of the log are committed only by what was never written down (that they were durable), so
//! they are left to raft: elected again, it commits them behind an entry of its own.
//!
//! What comes in was checked for damage by whoever read the files; what does not make sense nevertheless is an
//! error with a reason, never a guess.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, HardState as RaftHardState};

use super::log::Log;
use super::section::{self, HardState, NUMBER_MAX, Section};
use super::{Applying, REPLICA, Shard};
use crate::command::encode::{self, Change};
use crate::store::{HashSeed, Store};
use crate::wire::reply::{Dialect, Reply};

/// A shard that is being put together.
pub struct Recovery {
    number: u16,
    store: Store,
    applied: Applying,
    state: HardState,
    /// The term of the last section.
    log_term: u64,
    /// Entries behind the applied one, contiguous.
    tail: VecDeque<RaftEntry>,
    /// Replies that nobody reads.
    unread: Vec<u8>,
}

impl Recovery {
    /// An empty shard.
    pub fn new(number: u16, seed: HashSeed) -> Recovery {
        Recovery {
            number,
            store: Store::new(seed),
            applied: Applying::default(),
            state: HardState::default(),
            log_term: 0,
            tail: VecDeque::new(),
            unread: Vec::new(),
        }
    }

    /// Says where the snapshot stands whose blocks will be loaded, and how many keys to expect.
    pub fn begin_from(&mut self, applied: Applying, state: HardState, keys: usize) {
        (self.applied, self.state) = (applied, state);
        self.store.reserve(keys);
    }

    /// Adds a block of the snapshot; how many entries it held.
    ///
    /// # Errors
    /// The block is malformed.
    pub fn load(&mut self, block: &[u8]) -> Result<usize, String> {
        self.store.load(block, self.applied.at_ms)
    }

    /// Takes in a section of the log.
    ///
    /// # Errors
    /// It does not fit to what came before.
    pub fn section(&mut self, section: &Section<'_>) -> Result<(), String> {
        if section.state.term > NUMBER_MAX {
            return Err(self.wrong("a term is impossible"));
        }
        for entry in &section.entries {
            self.entry(entry, section.state.term)?;
        }
        if section.state.term < self.log_term {
            return Err(self.wrong("the term went back"));
        }
        self.log_term = section.state.term;
        // What is older than the snapshot says less than the snapshot.
        if section.state.term >= self.state.term {
            self.state = section.state;
        }
        let commit = section.state.commit;
        if commit > self.last() {
            return Err(self.wrong(&format!(
                "entry {} is missing, entries up to {commit} were committed",
                self.last() + 1
            )));
        }
        while self.tail.front().is_some_and(|entry| entry.index <= commit) {
            self.apply()?;
        }
        Ok(())
    }

    /// Takes in an entry that was written when the shard was in `term`.
    fn entry(&mut self, entry: &section::Entry<'_>, term: u64) -> Result<(), String> {
        if entry.index <= self.applied.index {
            return Ok(());
        }
        if entry.index > self.last() + 1 {
            return Err(self.wrong(&format!(
                "entry {} is missing, the next one is {}",
                self.last() + 1,
                entry.index
            )));
        }
        let keep = (entry.index - self.applied.index - 1) as usize;
        self.tail.truncate(keep);
        let before = self.tail.back().map_or(self.applied.term, |last| last.term);
        if !(before..=term).contains(&entry.term) || entry.index > NUMBER_MAX {
            return Err(self.wrong(&format!(
                "entry {} cannot be of term {}",
                entry.index, entry.term
            )));
        }
        self.tail.push_back(RaftEntry {
            index: entry.index,
            term: entry.term,
            data: Bytes::copy_from_slice(entry.data),
            ..RaftEntry::default()
        });
        Ok(())
    }

    fn last(&self) -> u64 {
        self.applied.index + self.tail.len() as u64
    }

    /// Applies the first entry of the tail.
    fn apply(&mut self) -> Result<(), String> {
        let Some(entry) = self.tail.pop_front() else {
            return Ok(());
        };
        let mut at_ms = self.applied.at_ms;
        if let Some((stamp, mut changes)) = section::body(&entry.data)? {
            at_ms = at_ms.max(stamp);
            while !changes.is_empty() {
                let (change, used) = encode::decode(changes)
                    .map_err(|fault| self.wrong(&format!("entry {}: {fault}", entry.index)))?;
                match change {
                    Change::One(op) => {
                        self.unread.clear();
                        let mut reply = Reply::new(&mut self.unread, Dialect::Resp2);
                        self.store.apply(&op, stamp, &mut reply);
                    }
                    Change::Flush => drop(self.store.clear()),
                }
                changes = &changes[used..];
            }
        }
        self.applied = Applying {
            index: entry.index,
            term: entry.term,
            at_ms,
        };
        Ok(())
    }

    fn wrong(&self, what: &str) -> String {
        format!("shard {}: {what}", self.number)
    }

    /// Whether the entries that are left to raft make sense.
    ///
    /// # Errors
    /// One does not; which, and why.
    pub fn check(&self) -> Result<(), String> {
        for entry in &self.tail {
            let wrong = |fault: &dyn std::fmt::Display| {
                self.wrong(&format!("entry {}: {fault}", entry.index))
            };
            let body = section::body(&entry.data).map_err(|fault| wrong(&fault))?;
            let mut changes = body.map_or(&[][..], |(_, changes)| changes);
            while !changes.is_empty() {
                let (_, used) = encode::decode(changes).map_err(|fault| wrong(&fault))?;
                changes = &changes[used..];
            }
        }
        Ok(())
    }

    /// Up to which entry the store is.
    pub fn index(&self) -> u64 {
        self.applied.index
    }

    /// Number of the shard.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The store so far.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The latest time stamp in what was read, also of entries that are not applied.
    pub fn at_ms(&self) -> u64 {
        let stamps = self.tail.iter().filter_map(|entry| {
            let (at_ms, _) = section::body(&entry.data).ok()??;
            Some(at_ms)
        });
        stamps.fold(self.applied.at_ms, u64::max)
    }

    /// What stands in the log and is not known to be committed: a record of it begins the next segment, so that
    /// it does not depend on a file that nobody may have synced.
    pub fn write_tail(&self, record: &mut Vec<u8>) {
        section::begin(record, self.number, self.state, self.tail.len());
        for entry in &self.tail {
            section::put_entry(record, entry.index, entry.term, &entry.data);
        }
    }

    /// The shard.
    pub fn finish(self) -> Shard {
        let state = RaftHardState {
            term: self.state.term,
            vote: self.state.vote,
            // A commit index is no promise: it may be behind what a snapshot holds.
            commit: self.state.commit.max(self.applied.index),
            ..RaftHardState::default()
        };
        let mut log = Log::new(state, vec![REPLICA], self.applied.index, self.applied.term);
        log.append(self.tail.into());
        Shard::assemble(self.number, self.store, log, self.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::section::Entry;
    use super::*;

    fn section<'e>(term: u64, entries: &[(u64, u64, &'e [u8])]) -> Section<'e> {
        let state = HardState {
            term,
            vote: REPLICA,
            commit: 0,
        };
        let entry = |&(index, term, data)| Entry { index, term, data };
        Section {
            shard: 0,
            state,
            entries: entries.iter().map(entry).collect(),
        }
    }

    fn take_in(sections: &[Section<'_>]) -> Result<(), String> {
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        sections.iter().try_for_each(|it| recovery.section(it))?;
        recovery.check()?;
        let mut shard = recovery.finish();
        shard.hand_over(1, None);
        Ok(())
    }

    #[test]
    fn terms_are_possible_and_never_go_back() {
        let good = [section(2, &[(1, 2, b"")]), section(3, &[(2, 3, b"")])];
        assert_eq!(take_in(&good), Ok(()));
        for (sections, reason) in [
            (vec![section(u64::MAX, &[])], "term is impossible"),
            (vec![section(NUMBER_MAX + 1, &[])], "term is impossible"),
            (vec![section(2, &[(1, 3, b"")])], "entry 1 cannot be"),
            (
                vec![section(3, &[(1, 3, b""), (2, 2, b"")])],
                "entry 2 cannot be",
            ),
            (
                vec![section(3, &[(1, 3, b"")]), section(2, &[])],
                "went back",
            ),
        ] {
            let refused = take_in(&sections).expect_err(reason);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn indices_and_times_are_possible() {
        let applied = Applying {
            index: NUMBER_MAX,
            term: 1,
            at_ms: 0,
        };
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        recovery.begin_from(applied, HardState::default(), 0);
        let beyond = section(1, &[(NUMBER_MAX + 1, 1, b"")]);
        assert!(recovery.section(&beyond).is_err());
        let late = (NUMBER_MAX + 1).to_le_bytes();
        let refused = take_in(&[section(1, &[(1, 1, &late)])]).expect_err("too late");
        assert!(refused.contains("time stamp"), "{refused}");
    }
}
