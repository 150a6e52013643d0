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

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType, HardState as RaftHardState};

use super::group::Group;
use super::log::Log;
use super::members::Members;
use super::meta::Part;
use super::peer::change::check_change;
use super::section::{self, Base, HardState, NUMBER_MAX, Section};
use super::{ALONE, Applying, NOBODY, Shard};
use crate::command::encode::{self, Change};
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::store::{HashSeed, Store};
use crate::wire::reply::{Dialect, Reply};

/// A shard that is being put together.
pub struct Recovery {
    number: u16,
    replica: u64,
    store: Store,
    applied: Applying,
    state: HardState,
    /// The term of the last section.
    log_term: u64,
    /// Entries, of which those that are applied may be kept.
    log: Log,
    /// Replies that nobody reads.
    unread: Vec<u8>,
}

impl Recovery {
    /// An empty shard that nobody else has.
    pub fn new(number: u16, seed: HashSeed) -> Recovery {
        Recovery {
            number,
            replica: ALONE,
            store: Store::new(seed),
            applied: Applying::default(),
            state: HardState::default(),
            log_term: 0,
            log: Log::new(Members::of(&[ALONE]), 0, 0),
            unread: Vec::new(),
        }
    }

    /// Where the log of a replica begins that is made together with its group, whose store holds what `changes` make:
    /// behind an entry that nobody has, so that whoever comes later is brought a snapshot, which tells of the members.
    pub fn founding(replica: u64, members: &Members, changes: Vec<u8>) -> Base {
        Base {
            replica,
            index: 1,
            term: 1,
            at_ms: 0,
            members: members.clone(),
            changes: Some(changes),
        }
    }

    /// A replica that is to be brought everything by the others of its group, whom it does not know yet.
    pub fn joining(number: u16, replica: u64, seed: HashSeed) -> Recovery {
        Recovery {
            replica,
            log: Log::new(Members::default(), 0, 0),
            ..Recovery::new(number, seed)
        }
    }

    /// The same, of a node that has promised something before, under this name or another.
    pub fn promised(mut self, state: HardState, by: u64) -> Recovery {
        let vote = if by == self.replica { state.vote } else { 0 };
        self.state = HardState {
            term: state.term,
            vote,
            commit: 0,
        };
        self
    }

    /// What is left of a replica that is not wanted any more: its place, so that nobody looks for what was before.
    pub fn buried(number: u16, applied: Applying, state: HardState, seed: HashSeed) -> Recovery {
        Recovery {
            replica: NOBODY,
            applied,
            log: Log::new(Members::default(), applied.index, applied.term),
            ..Recovery::new(number, seed)
        }
        .promised(state, 0)
    }

    /// Nothing was brought here: a replica of this name waits for it, which keeps what was promised.
    pub fn vacate(self, replica: u64) -> Recovery {
        Recovery {
            replica,
            log: Log::new(Members::default(), 0, 0),
            ..self
        }
    }

    /// Says where the snapshot stands whose blocks will be loaded, and for how many keys to make room.
    pub fn begin_from(&mut self, part: &Part, keys: usize) {
        (self.applied, self.state) = (part.applied, part.state);
        self.replica = part.replica;
        let members = match part.replica {
            NOBODY => Members::default(),
            _ => part.members.clone(),
        };
        self.log = Log::new(members, part.applied.index, part.applied.term);
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
        if let Some(base) = &section.base {
            self.base(base)?;
        }
        let is_buried = self.replica == NOBODY;
        for entry in section.entries.iter().filter(|_| !is_buried) {
            self.entry(entry, section.state.term)?;
        }
        if section.state.term < self.log_term {
            return Err(self.wrong("the term went back"));
        }
        self.log_term = section.state.term;
        // Of a replica that was let go no entries are here, and none are committed.
        let commit = if is_buried { 0 } else { section.state.commit };
        // What is older than the snapshot says less than the snapshot.
        if section.state.term >= self.state.term {
            self.state = HardState {
                commit,
                ..section.state
            };
        }
        failpoint::reach(Point::SectionRead);
        if commit > self.log.last() {
            return Err(self.wrong(&format!(
                "entry {} is missing, entries up to {commit} were committed",
                self.log.last() + 1
            )));
        }
        while self.log.next().is_some_and(|entry| entry.index <= commit) {
            self.apply()?;
        }
        Ok(())
    }

    /// Begins as a base says, nothing having been taken in.
    ///
    /// # Errors
    /// Something was.
    pub fn begin(&mut self, base: &Base) -> Result<(), String> {
        self.base(base)
    }

    /// Appends a section that says where the log begins.
    pub fn write_base(&self, base: &Base, record: &mut Vec<u8>) {
        section::put_base(record, self.number, self.state, base);
    }

    /// The log begins anew, for a replica of another name or behind a snapshot.
    fn base(&mut self, base: &Base) -> Result<(), String> {
        while self
            .log
            .next()
            .is_some_and(|entry| entry.index <= base.index)
        {
            self.apply()?;
        }
        self.log.cut(self.applied.index);
        if base.index < self.applied.index {
            return Ok(());
        }
        if self.applied.index < base.index {
            let changes = base.changes.as_deref().filter(|_| self.applied.index == 0);
            let index = base.index;
            let missing = || self.wrong(&format!("the snapshot up to entry {index} is missing"));
            let changes = changes.ok_or_else(missing)?.to_vec();
            self.apply_changes(index, &changes, base.at_ms)?;
        }
        self.replica = base.replica;
        self.log = Log::new(base.members.clone(), base.index, base.term);
        self.applied = Applying {
            index: base.index,
            term: base.term,
            at_ms: base.at_ms.max(self.applied.at_ms),
        };
        if self.state.term < base.term {
            (self.state.term, self.state.vote) = (base.term, 0);
        }
        Ok(())
    }

    /// Takes in an entry that was written when the shard was in `term`.
    fn entry(&mut self, entry: &section::Entry<'_>, term: u64) -> Result<(), String> {
        if entry.index <= self.applied.index {
            return match section::body(entry.data) {
                Ok(Some((at_ms, changes))) if planted::is(Bug::AppliedTwice) => {
                    self.apply_changes(entry.index, changes, at_ms)
                }
                _ => Ok(()),
            };
        }
        // Left of an earlier log, behind what a snapshot holds of the one that took its place; so is what follows it.
        if entry.term < self.applied.term {
            self.log.cut(entry.index - 1);
            return Ok(());
        }
        if entry.index > self.log.last() + 1 {
            return Err(self.wrong(&format!(
                "entry {} is missing, the next one is {}",
                self.log.last() + 1,
                entry.index
            )));
        }
        self.log.cut(entry.index - 1);
        if !(self.log.last_term()..=term).contains(&entry.term) || entry.index > NUMBER_MAX {
            return Err(self.wrong(&format!(
                "entry {} cannot be of term {}",
                entry.index, entry.term
            )));
        }
        let mut new = RaftEntry {
            index: entry.index,
            term: entry.term,
            data: Bytes::copy_from_slice(entry.data),
            ..RaftEntry::default()
        };
        if entry.is_members {
            new.set_entry_type(EntryType::EntryConfChangeV2);
        }
        self.log.append(vec![new]);
        Ok(())
    }

    /// Applies the first entry that is not.
    fn apply(&mut self) -> Result<(), String> {
        let Some(entry) = self.log.next().cloned() else {
            return Ok(());
        };
        let mut at_ms = self.applied.at_ms;
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.apply_members(&entry)?;
        } else if let Some((stamp, changes)) = section::body(&entry.data)? {
            at_ms = at_ms.max(stamp);
            self.apply_changes(entry.index, changes, at_ms)?;
        }
        self.applied = Applying {
            index: entry.index,
            term: entry.term,
            at_ms,
        };
        self.log.applied(entry.index);
        Ok(())
    }

    /// Applies the changes of an entry.
    fn apply_changes(&mut self, index: u64, mut changes: &[u8], at_ms: u64) -> Result<(), String> {
        while !changes.is_empty() {
            let (change, used) = encode::decode(changes)
                .map_err(|fault| self.wrong(&format!("entry {index}: {fault}")))?;
            match change {
                Change::One(op) => {
                    self.unread.clear();
                    let mut reply = Reply::new(&mut self.unread, Dialect::Resp2);
                    self.store.apply(&op, at_ms, &mut reply);
                }
                Change::Flush => drop(self.store.clear()),
            }
            changes = &changes[used..];
        }
        Ok(())
    }

    /// Applies a change of the members, as raft would.
    fn apply_members(&mut self, entry: &RaftEntry) -> Result<(), String> {
        let change = check_change(&entry.data)
            .map_err(|fault| self.wrong(&format!("entry {}: {fault}", entry.index)))?;
        let log = Log::new(self.log.members().clone(), entry.index, entry.term);
        let mut group = Group::new(self.number, self.replica, log, entry.index);
        group.apply_change(&change);
        self.log.set_members(group.members().clone());
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
        for entry in self.log.tail() {
            let checked = match entry.get_entry_type() {
                EntryType::EntryNormal => section::check_body(&entry.data),
                _ => check_change(&entry.data).map(drop),
            };
            checked.map_err(|fault| self.wrong(&format!("entry {}: {fault}", entry.index)))?;
        }
        Ok(())
    }

    /// Up to which entry the store is.
    pub fn index(&self) -> u64 {
        self.applied.index
    }

    /// What was loaded, and how far it goes.
    pub(super) fn into_store(self) -> (Store, Applying) {
        (self.store, self.applied)
    }

    /// How far the store is.
    pub fn applied(&self) -> Applying {
        self.applied
    }

    /// The last entry of the log, applied or not.
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// The name of the replica.
    pub fn replica(&self) -> u64 {
        self.replica
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
        let stamps = self.log.tail().filter_map(|entry| {
            let (at_ms, _) = section::body(&entry.data).ok()??;
            Some(at_ms)
        });
        stamps.fold(self.applied.at_ms, u64::max)
    }

    /// What stands in the log and is not known to be committed: a record of it begins the next segment, so that
    /// it does not depend on a file that nobody may have synced.
    pub fn write_tail(&self, record: &mut Vec<u8>) {
        let tail = self.log.tail();
        section::begin(record, self.number, self.state, tail.len());
        tail.for_each(|entry| section::put_entry(record, entry));
    }

    /// The shard.
    pub fn finish(mut self) -> Shard {
        if self.log.last() > self.applied.index && planted::is(Bug::LastEntryDropped) {
            self.log.cut(self.log.last() - 1);
        }
        self.log.set_hard_state(RaftHardState {
            term: self.state.term,
            vote: self.state.vote,
            // A commit index is no promise: it may be behind what a snapshot holds.
            commit: self.state.commit.max(self.applied.index),
            ..RaftHardState::default()
        });
        let group = Group::new(self.number, self.replica, self.log, self.applied.index);
        Shard::assemble(self.number, self.store, group, self.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::section::Entry;
    use super::*;

    fn section<'e>(term: u64, entries: &[(u64, u64, &'e [u8])]) -> Section<'e> {
        let state = HardState {
            term,
            vote: ALONE,
            commit: 0,
        };
        let entry = |&(index, term, data)| Entry {
            index,
            term,
            is_members: false,
            data,
        };
        Section {
            shard: 0,
            state,
            base: None,
            entries: entries.iter().map(entry).collect(),
        }
    }

    fn take_in(sections: &[Section<'_>]) -> Result<(), String> {
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        sections.iter().try_for_each(|it| recovery.section(it))?;
        recovery.check()?;
        let mut shard = recovery.finish();
        shard.advance(None, 1);
        Ok(())
    }

    #[test]
    fn a_replica_that_was_let_go_forgets_what_it_knew_to_be_committed() {
        let applied = Applying {
            index: 84,
            term: 2,
            at_ms: 0,
        };
        let part = Part {
            shard: 0,
            replica: NOBODY,
            applied,
            state: HardState {
                term: 2,
                vote: 0,
                commit: 0,
            },
            members: Members::default(),
            keys: 0,
        };
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        recovery.begin_from(&part, 0);
        let mut before = section(2, &[(85, 2, b""), (86, 2, b""), (87, 2, b"")]);
        before.state.commit = 87;
        assert_eq!(recovery.section(&before), Ok(()));
        let shard = recovery.finish();
        assert_eq!((shard.last_index(), shard.hard_state().commit), (84, 84));
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
    fn entries_that_were_replaced_before_the_snapshot_are_left_out() {
        let mut part = Shard::new(0, HashSeed(1, 2)).part();
        (part.applied.index, part.applied.term) = (8, 5);
        (part.state.term, part.state.commit) = (5, 8);
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        recovery.begin_from(&part, 0);
        let replaced = [(8, 4, &b""[..]), (9, 4, b""), (10, 4, b"")];
        for entry in replaced {
            assert_eq!(recovery.section(&section(4, &[entry])), Ok(()));
        }
        assert_eq!(recovery.section(&section(5, &[(8, 5, b"")])), Ok(()));
        assert_eq!(recovery.last_index(), 8);
        assert_eq!(recovery.section(&section(5, &[(9, 5, b"")])), Ok(()));
        assert_eq!(recovery.last_index(), 9);
    }

    #[test]
    fn indices_and_times_are_possible() {
        let mut part = Shard::new(0, HashSeed(1, 2)).part();
        (part.applied.index, part.applied.term) = (NUMBER_MAX, 1);
        let mut recovery = Recovery::new(0, HashSeed(1, 2));
        recovery.begin_from(&part, 0);
        let beyond = section(1, &[(NUMBER_MAX + 1, 1, b"")]);
        assert!(recovery.section(&beyond).is_err());
        let late = (NUMBER_MAX + 1).to_le_bytes();
        let refused = take_in(&[section(1, &[(1, 1, &late)])]).expect_err("too late");
        assert!(refused.contains("time stamp"), "{refused}");
    }
}
