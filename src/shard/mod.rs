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
//!
//! The rooms: `log` (what raft asks for), [`section`] (log bytes), [`meta`] (what an image says of itself),
//! [`recovery`] (from files to a shard).
//!
//! Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014); Ongaro's thesis,
//! 10.2.1 (writing to the leader's disk in parallel).
//!
//! Deliberately absent: peers. The group has one voter, so that it elects itself, needs no ticks, and commits
//! what is on its own disk.

mod log;
pub mod meta;
pub mod peer;
pub mod recovery;
pub mod section;

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use raft::eraftpb::{Entry as RaftEntry, Message, MessageType};
use raft::{Config, RawNode, Ready};

use crate::command::encode::{self, Change};
use crate::command::op::{Effect, Op};
use crate::store::{Dropped, Entry, HashSeed, KeyHash, Step, Store};
use crate::wire::reply::Reply;
use log::Log;
use meta::Part;
use section::{Committed, HardState, STAMP_BYTES};

/// This replica's name in its group; the only one.
const REPLICA: u64 = 1;
/// Committed entries handed out at once, in bytes.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;
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
    raft: RawNode<Log>,
    /// What was proposed since the last batch, behind room for its time stamp; empty when there is nothing.
    open: Vec<u8>,
    /// The latest step of raft that is in a record under way, and the time stamp of its entry.
    handed: Option<(u64, u64)>,
    committed: VecDeque<Committed>,
    /// The keys of the first committed changes: those that were looked ahead at.
    ahead: VecDeque<KeyHash>,
    applied: Applying,
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
    /// An empty shard, of which nothing is on any disk.
    pub fn new(number: u16, seed: HashSeed) -> Self {
        recovery::Recovery::new(number, seed).finish()
    }

    /// A shard that goes on where `applied` says, with `log` behind it.
    fn assemble(number: u16, store: Store, log: Log, applied: Applying) -> Self {
        let config = Config {
            id: REPLICA,
            election_tick: 10,
            heartbeat_tick: 2,
            applied: applied.index,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, log, &logger).expect("recovery checked the state");
        raft.campaign()
            .expect("a group of one elects its only member");
        Shard {
            number,
            store,
            raft,
            open: Vec::new(),
            handed: None,
            committed: VecDeque::new(),
            ahead: VecDeque::new(),
            applied,
        }
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

    /// Proposes what has gathered as one entry of the time `at_ms`, and appends to `record` what must become durable
    /// before [`persisted`](Self::persisted) may be called. Without a record nothing must: it is committed.
    pub fn hand_over(&mut self, at_ms: u64, record: Option<&mut Vec<u8>>) {
        if !self.open.is_empty() {
            self.close_entry(at_ms);
        }
        if !self.raft.has_ready() {
            return;
        }
        let is_kept = record.is_some();
        let mut ready = self.raft.ready();
        let entries = ready.take_entries();
        let is_to_persist = !entries.is_empty() || ready.must_sync();
        if let Some(record) = record.filter(|_| is_to_persist) {
            section::begin(record, self.number, self.hard_state(), entries.len());
            for entry in &entries {
                section::put_entry(record, entry.index, entry.term, &entry.data);
            }
        }
        self.raft.mut_store().append(entries);
        if is_kept {
            self.handed = Some((ready.number(), at_ms));
            if self.committed.is_empty() {
                self.store.set_settled(at_ms);
            }
            self.finish_ready(ready);
        } else {
            self.keep_hard_state(&ready);
            self.take_committed(ready.take_committed_entries());
            let mut light = self.raft.advance_append(ready);
            self.take_committed(light.take_committed_entries());
        }
    }

    /// Makes an entry of what has gathered. One message of raft for all of it.
    fn close_entry(&mut self, at_ms: u64) {
        let next = Vec::with_capacity(self.open.len().min(OPEN_BYTES_FIRST));
        let mut data = std::mem::replace(&mut self.open, next);
        data[..STAMP_BYTES].copy_from_slice(&at_ms.to_le_bytes());
        let entry = RaftEntry {
            data: Bytes::from(data),
            ..RaftEntry::default()
        };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = REPLICA;
        message.set_entries(vec![entry].into());
        self.raft
            .step(message)
            .expect("the leader of a group of one accepts proposals");
    }

    /// Takes what is committed out of a step of raft and tells raft that the rest is in its log.
    fn finish_ready(&mut self, mut ready: Ready) {
        self.take_committed(ready.take_committed_entries());
        self.keep_hard_state(&ready);
        self.raft.advance_append_async(ready);
    }

    fn keep_hard_state(&mut self, ready: &Ready) {
        if let Some(state) = ready.hs() {
            self.raft.mut_store().set_hard_state(state.clone());
        }
    }

    fn take_committed(&mut self, entries: Vec<RaftEntry>) {
        for entry in entries {
            let (at_ms, changes) = match section::body(&entry.data) {
                Ok(Some((at_ms, _))) => (at_ms, entry.data.slice(STAMP_BYTES..)),
                _ => (0, Bytes::new()),
            };
            self.committed.push_back(Committed {
                index: entry.index,
                term: entry.term,
                at_ms,
                changes,
            });
        }
    }

    /// What was handed over is durable: raft counts it, and what is committed by that can be applied.
    pub fn persisted(&mut self) {
        let Some((handed, _)) = self.handed.take() else {
            return;
        };
        self.raft.on_persist_ready(handed);
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            assert!(
                ready.entries().is_empty(),
                "nothing is proposed while a batch is under way"
            );
            let number = ready.number();
            self.finish_ready(ready);
            self.raft.on_persist_ready(number);
        }
    }

    /// The time stamp of the next change that [`apply_next`](Self::apply_next) will apply; `None` when nothing
    /// committed is left.
    pub fn next_at_ms(&mut self) -> Option<u64> {
        while let Some(entry) = self.committed.front() {
            if !entry.changes.is_empty() {
                return Some(entry.at_ms);
            }
            self.finish_entry();
        }
        None
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
        let entry = self.committed.front_mut()?;
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
        let Some(entry) = self.committed.front() else {
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

    /// The first committed entry has no changes left.
    fn finish_entry(&mut self) {
        let Some(entry) = self.committed.pop_front() else {
            return;
        };
        self.applied = Applying {
            index: entry.index,
            term: entry.term,
            at_ms: self.applied.at_ms.max(entry.at_ms),
        };
        self.raft.advance_apply_to(entry.index);
        self.raft.mut_store().forget(entry.index);
    }

    /// Does a reading operation as of `at_ms` and writes its reply.
    pub fn read(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>) -> Effect {
        assert!(!op.action.is_write(), "writes go through the log");
        self.store.apply(op, at_ms, reply)
    }

    /// Whether reads from now on count as use of the keys; see [`Store::set_touching`].
    pub fn set_touching(&mut self, touching: bool) {
        self.store.set_touching(touching);
    }

    /// Everything committed has been applied. Readers and sweeps remove keys past their time again, but not beyond the
    /// stamp of an entry that is still to be applied, which may yet find them alive.
    pub fn settle(&mut self) {
        assert!(self.committed.is_empty(), "all of it was applied");
        let at_ms = self.handed.map_or(u64::MAX, |(_, at_ms)| at_ms);
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
        }
    }

    /// Index of the last entry of the log, applied or not.
    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Raft's hard state.
    pub fn hard_state(&self) -> HardState {
        let raft = &self.raft.raft;
        HardState {
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
        }
    }
}
