//! One shard: a Raft group and the store that its committed entries make.
//!
//! ```text
//!   propose(change) ─▶ open entry ─ hand_over ─▶ raft ─▶ section of the turn's record ─▶ disk
//!                                                                                         │
//!   apply_next ◀─ committed entries ◀──────────── raft ◀──────────── persisted ◀──────────┘
//! ```
//!
//! - An *entry* is everything that was proposed to the shard between two batches, with one time stamp: a batch
//!   of a thousand writes costs Raft as much as one. Its index is the shard's clock.
//! - The store changes by committed entries only, in their order; [`Shard::apply_next`] is the one door. What
//!   is read is therefore committed, and reading waits for nobody.
//! - Raft is TiKV's `raft` crate with asynchronous append: the entries are in memory ([`log`](self)) when it
//!   asks for them, and count once they are durable. It reads neither clock nor disk nor network.
//! - A replica that is alone in its group elects itself, needs no ticks, and commits what is on its own disk. The
//!   others exchange messages, which somebody else carries.
//! - What one replica removes, all must: a key past its time is removed only as of a time stamp of the log, so that
//!   no later entry finds it alive on one and not on another. So a shard's time never runs backwards either, whatever
//!   the clocks of its leaders say: an entry counts as of the latest stamp up to it.
//!
//! The rooms: [`group`](self) (raft), `log` (what raft asks for), `lease` (until when a leader may answer reads),
//! [`members`] (who is in a group), [`peer`] (raft's messages as bytes, and which of them to believe), [`section`] (log
//! bytes), [`meta`] (what an image says of itself), [`recovery`] (from files to a shard).
//!
//! Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014); Ongaro's thesis,
//! 10.2.1 (writing to the leader's disk in parallel).

mod group;
mod lease;
mod log;
pub mod members;
pub mod meta;
pub mod peer;
pub mod recovery;
pub mod replication;
pub mod section;

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::command::encode::{self, Change};
use crate::command::op::{Effect, Op};
use crate::planted::{self, Bug};
use crate::store::{Dropped, Entry, HashSeed, KeyHash, Step, Store};
use crate::wire::reply::{Dialect, Reply};
use group::Group;
use members::Members;
use meta::Part;
use peer::change::check_change;
use recovery::Recovery;
use section::{HardState, STAMP_BYTES};

/// The name of replicas that are none: others have the shard.
pub const NOBODY: u64 = section::NUMBER_MAX;
/// The name of a replica that has always been alone in its group.
pub const ALONE: u64 = 1;
/// Raft's unit of time, in nanoseconds.
pub const TICK_NANOS: u64 = 100_000_000;
/// A follower that has heard nothing for so many ticks stands for election; a little later, if others come first.
pub const ELECTION_TICKS: usize = 10;

/// Space an open entry begins with at most; it grows as it must.
const OPEN_BYTES_FIRST: usize = 64 << 10;

/// Changes that are looked ahead at together.
const AHEAD_MAX: usize = 16;

/// What became of a change.
pub enum Applied {
    /// An operation on a key.
    One(Effect),
    /// Everything is gone; the caller drops what there was where it hurts nobody. In a box: this is what
    /// every change returns.
    Flushed(Box<Dropped>),
}

/// A contiguous run of slots, its log, and what is stored under them.
pub struct Shard {
    number: u16,
    store: Store,
    group: Group,
    /// What was proposed since the last batch, behind room for its time stamp; empty when there is nothing.
    open: Vec<u8>,
    /// Index and time stamp of the entries that were proposed here and are not applied yet.
    proposed: VecDeque<(u64, u64)>,
    /// The keys of the first committed changes: those that were looked ahead at.
    ahead: VecDeque<KeyHash>,
    applied: Applying,
    /// Members and term, and the entry that makes sure that a majority of them knows who they are.
    confirming: Option<(Members, u64, u64)>,
    /// A snapshot of a leader that is at hand, should raft want it.
    staged: Option<Recovery>,
    /// What was stored until a snapshot took its place.
    replaced: Option<Dropped>,
}

/// What a turn of raft came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// Nothing must be kept.
    Silent,
    /// Something was appended to the record.
    Written,
    /// The same, and a vote among it, which a group of several must not lose whatever `--sync` says.
    Voted,
    /// The same, and the store is to be replaced by a snapshot up to this index.
    Replaced(u64),
}

/// How far the store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applying {
    /// Index of the last entry whose changes are all in the store.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The latest time stamp in the store, unix milliseconds.
    pub at_ms: u64,
}

impl Shard {
    /// An empty shard, of which nothing is on any disk, and which nobody else has.
    pub fn new(number: u16, seed: HashSeed) -> Self {
        Recovery::new(number, seed).finish()
    }

    /// A shard that goes on where `applied` says.
    fn assemble(number: u16, store: Store, group: Group, applied: Applying) -> Self {
        let mut shard = Shard {
            number,
            store,
            group,
            open: Vec::new(),
            proposed: VecDeque::new(),
            confirming: None,
            ahead: VecDeque::new(),
            applied,
            staged: None,
            replaced: None,
        };
        shard.settle();
        shard
    }

    /// Adds an operation to what the next batch proposes.
    pub fn propose(&mut self, op: &Op<'_>) {
        self.begin_entry();
        encode::encode_op(op, &mut self.open);
    }

    /// Adds to what the next batch proposes that the shard is emptied.
    pub fn propose_flush(&mut self) {
        self.begin_entry();
        encode::encode(&Change::Flush, &mut self.open);
    }

    fn begin_entry(&mut self) {
        if self.open.is_empty() {
            self.open.resize(STAMP_BYTES, 0);
        }
    }

    /// Whether anything was proposed since the last batch.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Bytes of what was proposed since the last batch.
    pub fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Takes back what was proposed behind the first `bytes`, where a proposal began.
    pub fn take_back(&mut self, bytes: usize) {
        self.open.truncate(bytes);
    }

    /// Proposes what has gathered as one entry of the time `at_ms`; its index and term. Nothing when this replica does
    /// not lead its group (any more): then nothing of it was done.
    pub fn close(&mut self, at_ms: u64) -> Option<(u64, u64)> {
        if self.open.is_empty() {
            return None;
        }
        let next = Vec::with_capacity(self.open.len().min(OPEN_BYTES_FIRST));
        let mut data = std::mem::replace(&mut self.open, next);
        data[..STAMP_BYTES].copy_from_slice(&at_ms.to_le_bytes());
        let at = self.group.propose(Bytes::from(data))?;
        if self.proposed.is_empty() && self.group.committed().is_none() && self.is_alone() {
            self.store.set_settled(at_ms);
        }
        self.proposed.push_back((at.0, at_ms));
        Some(at)
    }

    /// Proposes an entry without changes, if keys wait for its time stamp to be removed; whether it did.
    pub fn stamp(&mut self, at_ms: u64) -> bool {
        if self.is_alone() || !self.is_leader() || self.is_open() || !self.store.is_held(at_ms) {
            return false;
        }
        self.begin_entry();
        self.close(at_ms).is_some()
    }

    /// Whether raft has something to say.
    pub fn is_dirty(&self) -> bool {
        self.group.has_ready()
    }

    /// Takes what raft has to say, and appends to `record`, whose number is `number`, what must become durable before
    /// [`persisted`](Self::persisted) may be called. Without a record nothing must: it is as good as durable.
    pub fn advance(&mut self, record: Option<&mut Vec<u8>>, number: u64) -> Turned {
        let staged = self.staged.as_ref().map(Recovery::applied);
        let advanced = self.group.advance(record, number, staged);
        match advanced.snapshot {
            Some(index) => {
                self.install();
                Turned::Replaced(index)
            }
            None if advanced.is_vote && !self.is_alone() => Turned::Voted,
            None if advanced.is_written => Turned::Written,
            None => Turned::Silent,
        }
    }

    /// What was appended to the records up to this one is durable: raft counts it, and has more to say.
    pub fn persisted(&mut self, record: u64) {
        self.group.persisted(record);
    }

    /// Index and term of the next entry that is committed and not applied.
    pub fn next_committed(&self) -> Option<(u64, u64)> {
        self.group
            .committed()
            .map(|entry| (entry.index, entry.term))
    }

    /// The next entry that is committed and not applied, or what is left of it.
    pub fn next_entry(&self) -> Option<&section::Committed> {
        self.group.committed()
    }

    /// As of when the next change will be applied by [`apply_next`](Self::apply_next): the entry's time stamp, or that
    /// of one before it, if a leader before had a clock that was ahead. `None` when nothing committed is left.
    pub fn next_at_ms(&mut self) -> Option<u64> {
        while let Some(entry) = self.group.committed() {
            if !entry.is_members && !entry.changes.is_empty() {
                return Some(self.time_of(entry.at_ms));
            }
            self.finish_entry();
        }
        None
    }

    /// As of when an entry with this stamp counts.
    fn time_of(&self, stamp_ms: u64) -> u64 {
        if planted::is(Bug::OwnClock) {
            return stamp_ms + 700 * (self.replica() >> 32);
        }
        let is_latest = planted::is(Bug::TimeRunsBack) || stamp_ms > self.applied.at_ms;
        if is_latest {
            stamp_ms
        } else {
            self.applied.at_ms
        }
    }

    /// Applies the next committed change, writes its reply, and tells `touched` of the key it was about. `None`
    /// when nothing committed is left.
    pub fn apply_next(
        &mut self,
        reply: &mut Reply<'_>,
        touched: impl FnOnce(&[u8], Effect),
    ) -> Option<Applied> {
        let at_ms = self.next_at_ms()?;
        if self.ahead.is_empty() {
            self.look_ahead();
        }
        let entry = self.group.committed_mut()?;
        let (change, used) =
            encode::decode(&entry.changes).expect("a committed entry was checked or made by us");
        let applied = match &change {
            Change::One(op) => {
                let hash = self.ahead.pop_front();
                let hash = hash.unwrap_or_else(|| self.store.hash(op.key));
                let effect = self.store.apply_hashed(hash, op, at_ms, reply);
                touched(op.key, effect);
                Applied::One(effect)
            }
            Change::Flush => Applied::Flushed(Box::new(self.store.clear())),
        };
        entry.changes.advance(used);
        if entry.changes.is_empty() {
            self.finish_entry();
        }
        Some(applied)
    }

    /// Has the memory fetched into the cache that the next changes of the first committed entry will need. Each alone
    /// would wait for it several times, one after the other; so they wait together.
    fn look_ahead(&mut self) {
        let Some(entry) = self.group.committed() else {
            return;
        };
        let mut rest = &entry.changes[..];
        while self.ahead.len() < AHEAD_MAX
            && let Ok((Change::One(op), used)) = encode::decode(rest)
        {
            self.ahead.push_back(self.store.hash(op.key));
            rest = &rest[used..];
        }
        if self.ahead.len() > 1 {
            for step in Step::ALL {
                let ahead = self.ahead.iter();
                ahead.for_each(|&hash| self.store.prefetch(hash, step));
            }
        }
    }

    /// Applies the next committed entry, or what is left of it, for nobody who waits for an answer.
    pub fn apply_entry(
        &mut self,
        mut touched: impl FnMut(&[u8], Effect),
        mut dropped: impl FnMut(Dropped),
    ) {
        let Some((index, _)) = self.next_committed() else {
            return;
        };
        let mut unread = Vec::new();
        while self.next_at_ms().is_some()
            && self.next_committed().is_some_and(|(at, _)| at == index)
        {
            unread.clear();
            let mut reply = Reply::new(&mut unread, Dialect::Resp2);
            if let Some(Applied::Flushed(all)) = self.apply_next(&mut reply, &mut touched) {
                dropped(*all);
            }
        }
    }

    /// The first committed entry has no changes left.
    fn finish_entry(&mut self) {
        let change = (self.group.committed())
            .filter(|entry| entry.is_members)
            .map(|entry| check_change(&entry.changes));
        if let Some(change) = change {
            let change = change.expect("a committed entry was checked or made by us");
            self.group.apply_change(&change);
        }
        let Some(entry) = self.group.pop_committed() else {
            return;
        };
        while self
            .proposed
            .front()
            .is_some_and(|&(index, _)| index <= entry.index)
        {
            self.proposed.pop_front();
        }
        self.applied = Applying {
            index: entry.index,
            term: entry.term,
            at_ms: self.applied.at_ms.max(entry.at_ms),
        };
    }

    /// Does a reading operation as of `at_ms` and writes its reply.
    pub fn read(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>) -> Effect {
        assert!(!op.action.is_write(), "writes go through the log");
        let at_ms = if planted::is(Bug::ExpiredRead) {
            0
        } else {
            at_ms
        };
        self.store.apply(op, at_ms, reply)
    }

    /// Whether reads from now on count as use of the keys; see [`Store::set_touching`].
    pub fn set_touching(&mut self, touching: bool) {
        self.store.set_touching(touching);
    }

    /// Everything committed has been applied. Readers and sweeps remove keys past their time again, but not beyond the
    /// stamp of an entry that is still to be applied, which may yet find them alive. What others may propose nobody
    /// knows: then it is the stamp of the last entry that counts.
    pub fn settle(&mut self) {
        let at_ms = match self.is_alone() {
            true => self.proposed.front().map_or(u64::MAX, |&(_, at_ms)| at_ms),
            false if planted::is(Bug::SweptByOwnClock) => u64::MAX,
            false => self.applied.at_ms,
        };
        self.store.set_settled(at_ms);
    }

    /// The entry of `key`, unless there is none or it has expired. Is no access.
    pub fn lookup(&self, key: &[u8], at_ms: u64) -> Option<Entry<'_>> {
        self.store.lookup(key, at_ms)
    }

    /// Removes some keys that are past their time; see [`Store::sweep`].
    pub fn sweep(
        &mut self,
        at_ms: u64,
        tables_max: usize,
        removed: &mut dyn FnMut(&[u8]),
    ) -> usize {
        self.store.sweep(at_ms, tables_max, removed)
    }

    /// What can be asked without changing anything.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store, for taking its image.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// How far the store is.
    pub fn applied(&self) -> Applying {
        self.applied
    }

    /// What an image of the store as it is now says of it.
    pub fn part(&self) -> Part {
        Part {
            shard: self.number,
            applied: self.applied,
            state: self.hard_state(),
            keys: self.store.len() as u64,
            replica: if self.is_vacant() {
                NOBODY
            } else {
                self.replica()
            },
            members: match self.is_vacant() {
                true => Members::of(&[NOBODY]),
                false => self.members().clone(),
            },
        }
    }

    /// Index of the last entry of the log, applied or not.
    pub fn last_index(&self) -> u64 {
        self.group.last_index()
    }

    /// Index of the last entry of the log that is as durable here as was asked for.
    pub fn persisted_index(&self) -> u64 {
        self.group.persisted_index()
    }

    /// Raft's hard state.
    pub fn hard_state(&self) -> HardState {
        self.group.hard_state()
    }
}
