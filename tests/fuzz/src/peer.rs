//! Links between nodes: any bytes are messages or an error, what is a message is written with just these bytes, and
//! no message that passes the check makes a replica panic, whatever came before it.
//!
//! The first byte says what the replica begins with, the rest is a script: bytes of a link as they are, messages near
//! what the replica knows, and what a node does with its replica meanwhile: ticks, proposals, writing, applying.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use marline::shard::peer::check::{View, check};
use marline::shard::peer::{self, change};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState, Message, MessageType, Snapshot,
};
use raft::{
    Config, Error, GetEntriesContext, RaftState, RawNode, Result, SnapshotStatus, StateRole,
    Storage, StorageError,
};

const US: u64 = 1 << 32 | 1;
/// Steps of one script.
const STEPS_MAX: usize = 400;
/// Entries that a log may grow to.
const ENTRIES_MAX: u64 = 2_000;

/// A log in memory: as `shard::Log`, and with snapshots.
#[derive(Default)]
struct Log {
    state: HardState,
    members: ConfState,
    base: u64,
    base_term: u64,
    entries: Vec<Entry>,
    applied: u64,
}

impl Log {
    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(self.applied < first.index && first.index <= self.last() + 1);
        self.entries
            .truncate((first.index - self.base - 1) as usize);
        self.entries.extend_from_slice(entries);
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        (self.base, self.base_term) = (meta.index, meta.term);
        self.members = meta.get_conf_state().clone();
        self.entries.clear();
    }

    fn forget(&mut self, index: u64) {
        if let Ok(term) = self.term(index) {
            self.entries.drain(..(index - self.base) as usize);
            (self.base, self.base_term) = (index, term);
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.state.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        _: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base {
            return Err(Error::Store(StorageError::Compacted));
        }
        Ok(self.entries[(low - self.base - 1) as usize..(high - self.base - 1) as usize].to_vec())
    }

    fn term(&self, index: u64) -> Result<u64> {
        match index.checked_sub(self.base) {
            None => Err(Error::Store(StorageError::Compacted)),
            Some(0) => Ok(self.base_term),
            Some(at) => match self.entries.get(at as usize - 1) {
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

    fn snapshot(&self, request: u64, _: u64) -> Result<Snapshot> {
        let term = self.term(self.applied)?;
        if self.applied == 0 || self.applied < request {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (self.applied, term);
        meta.set_conf_state(self.members.clone());
        Ok(snapshot)
    }
}

struct Script<'d>(&'d [u8]);

impl<'d> Script<'d> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn bytes(&mut self) -> &'d [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    /// A number beside one of these, mostly.
    fn near(&mut self, numbers: &[u64]) -> u64 {
        let byte = self.byte();
        match byte >> 4 {
            0..=13 => {
                let number = numbers[usize::from(byte >> 2) % numbers.len()];
                (number + u64::from(byte & 3)).saturating_sub(1)
            }
            14 => u64::from(byte & 15),
            _ => u64::from(self.byte()) << (byte & 15) << (byte & 15) << (byte & 15),
        }
    }

    fn id(&mut self) -> u64 {
        u64::from(self.byte() % 5 + 1) << 32 | 1
    }

    fn ids(&mut self) -> Vec<u64> {
        let bits = self.byte();
        let ids = (0..5).filter(|id| bits >> id & 1 == 1);
        ids.map(|id| (id + 1) << 32 | 1).collect()
    }

    fn change(&mut self) -> ConfChangeV2 {
        let mut change = ConfChangeV2::default();
        change.set_transition(match self.byte() % 4 {
            0 => ConfChangeTransition::Auto,
            1 => ConfChangeTransition::Implicit,
            _ => ConfChangeTransition::Explicit,
        });
        for _ in 0..self.byte() % 4 {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(match self.byte() % 3 {
                0 => ConfChangeType::AddNode,
                1 => ConfChangeType::RemoveNode,
                _ => ConfChangeType::AddLearnerNode,
            });
            single.node_id = self.id();
            change.mut_changes().push(single);
        }
        change
    }
}

/// A step of raft that is on its way to the disk.
struct Written {
    number: u64,
    snapshot: u64,
    is_data: bool,
}

/// What a node has of a replica.
struct Replica {
    raft: RawNode<Log>,
    writing: VecDeque<Written>,
    committed: VecDeque<Entry>,
    /// Index of the snapshot that is to be taken in before any entry.
    installing: Option<u64>,
    /// Index of the latest snapshot that is on the disk.
    durable: u64,
    contexts: u8,
}

impl Replica {
    fn new(choice: u8) -> Replica {
        let mut log = Log::default();
        log.members.set_voters(vec![US, 2 << 32 | 1, 3 << 32 | 1]);
        if choice & 1 == 1 {
            log.members.set_learners(vec![4 << 32 | 1]);
        }
        if choice & 2 == 2 {
            (log.base, log.base_term, log.applied) = (5, 2, 5);
            let entries = (6..=8).map(|index| Entry {
                index,
                term: 2 + index / 7,
                ..Entry::default()
            });
            log.entries = entries.collect();
            (log.state.term, log.state.commit) = (3, 6);
        }
        let config = Config {
            id: US,
            election_tick: 10,
            heartbeat_tick: 2,
            applied: log.applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 4,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: choice & 4 == 4,
            // One timeout, so that a script is a function of its bytes.
            min_election_tick: 10,
            max_election_tick: 11,
            priority: i64::from(choice >> 4),
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Replica {
            raft: RawNode::new(&config, log, &logger).expect("a sound state"),
            writing: VecDeque::new(),
            committed: VecDeque::new(),
            installing: None,
            durable: 0,
            contexts: 0,
        }
    }

    fn receive(&mut self, message: Message, node: u64) {
        let view = View {
            raft: &self.raft.raft,
            node: node as u32,
            is_writing: self.writing.iter().any(|it| it.is_data),
        };
        let last = message.index + message.entries.len() as u64;
        if check(&message, &view).is_ok() && last < ENTRIES_MAX {
            drop(self.raft.step(message));
        }
    }

    /// What a link brings.
    fn receive_bytes(&mut self, mut bytes: &[u8]) {
        while let Ok((shard, message, used)) = peer::decode(bytes) {
            let mut again = Vec::new();
            peer::encode(shard, &message, &mut again);
            assert_eq!(again, bytes[..used], "{message:?} has two encodings");
            let from = message.from >> 32;
            self.receive(message, from);
            bytes = &bytes[used..];
        }
    }

    fn tick(&mut self) {
        let log = &self.raft.raft.raft_log;
        // A node does not let a replica campaign whose log or snapshot is on its way.
        let is_settled = self.writing.is_empty() && log.persisted == log.last_index();
        let is_leader = self.raft.raft.state == StateRole::Leader;
        if is_leader || (is_settled && self.installing.is_none()) {
            self.raft.tick();
        }
    }

    /// Takes what raft has ready.
    fn take_ready(&mut self) {
        if !self.raft.has_ready() {
            return;
        }
        let mut ready = self.raft.ready();
        for message in ready.take_messages() {
            send(&message);
        }
        let snapshot = ready.snapshot().get_metadata().index;
        if snapshot > 0 {
            let restored = ready.snapshot().clone();
            self.raft.mut_store().restore(&restored);
            self.committed.clear();
            self.installing = Some(snapshot);
        }
        self.committed.extend(ready.take_committed_entries());
        self.raft.mut_store().append(ready.entries());
        if let Some(state) = ready.hs() {
            self.raft.mut_store().state = state.clone();
        }
        for message in ready.take_persisted_messages() {
            send(&message);
        }
        self.writing.push_back(Written {
            number: ready.number(),
            snapshot,
            is_data: snapshot > 0 || !ready.entries().is_empty(),
        });
        self.raft.advance_append_async(ready);
    }

    /// The first record that was under way is on the disk.
    fn persist(&mut self) {
        let Some(written) = self.writing.pop_front() else {
            return;
        };
        self.raft.on_persist_ready(written.number);
        if written.snapshot > 0 {
            self.durable = written.snapshot;
        }
    }

    fn apply(&mut self) {
        if let Some(index) = self.installing {
            if self.durable == index {
                self.installing = None;
                self.raft.mut_store().applied = index;
                self.raft.advance_apply_to(index);
            }
            return;
        }
        let Some(entry) = self.committed.pop_front() else {
            return;
        };
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            let change = change::check_change(&entry.data).expect("it was checked");
            self.change_members(&change);
        }
        self.raft.mut_store().applied = entry.index;
        self.raft.advance_apply_to(entry.index);
    }

    fn change_members(&mut self, change: &ConfChangeV2) {
        let Ok(members) = self.raft.apply_conf_change(change) else {
            return;
        };
        self.raft.mut_store().members = members;
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // Raft leaves it to the node that a leader who is no member leads no longer.
            raft.become_follower(raft.term, 0);
        }
    }

    fn propose(&mut self, script: &mut Script<'_>) {
        let raft = &self.raft.raft;
        if raft.state != StateRole::Leader || raft.raft_log.last_index() >= ENTRIES_MAX {
            return;
        }
        let proposed = match script.byte() % 2 {
            0 => self.raft.propose_conf_change(vec![], script.change()),
            _ => self.raft.propose(vec![], script.bytes().to_vec()),
        };
        drop(proposed);
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let step = script.byte();
        match step & 15 {
            0 => self.receive_bytes(script.bytes()),
            1..=5 => {
                let message = self.message(script);
                let from = message.from >> 32;
                let mut bytes = Vec::new();
                peer::encode(u16::from(step), &message, &mut bytes);
                if let Ok((_, read, used)) = peer::decode(&bytes) {
                    assert!(read == message && used == bytes.len(), "{message:?}");
                    self.receive(read, from);
                }
            }
            6 => (0..=step >> 4).for_each(|_| self.tick()),
            7 => self.propose(script),
            8 => {
                if self.raft.raft.state == StateRole::Leader {
                    self.contexts = self.contexts.wrapping_add(1);
                    self.raft.read_index(vec![self.contexts]);
                }
            }
            9 => match script.byte() % 4 {
                // Any other replica would send the wish on.
                0 if self.raft.raft.state == StateRole::Leader => {
                    self.raft.transfer_leader(script.id());
                }
                0 => {}
                1 => self.raft.report_unreachable(script.id()),
                2 => self
                    .raft
                    .report_snapshot(script.id(), SnapshotStatus::Finish),
                _ => self
                    .raft
                    .report_snapshot(script.id(), SnapshotStatus::Failure),
            },
            10 | 11 => self.take_ready(),
            12 => self.persist(),
            13 => self.apply(),
            14 => {
                let applied = self.raft.store().applied;
                if self.installing.is_none() {
                    self.raft.mut_store().forget(applied);
                }
            }
            _ => {
                for _ in 0..3 {
                    self.take_ready();
                    (0..4).for_each(|_| self.persist());
                    (0..8).for_each(|_| self.apply());
                }
            }
        }
    }

    /// A message that could be true.
    fn message(&self, script: &mut Script<'_>) -> Message {
        let raft = &self.raft.raft;
        let log = &raft.raft_log;
        let (last, committed) = (log.last_index(), log.committed);
        let indices = [last, committed, log.persisted, log.applied, last + 2];
        let terms = [raft.term, raft.term + 1, log.last_term()];
        let mut message = Message::default();
        let kind = script.byte();
        message.from = script.id();
        message.to = US;
        // Whoever leads is the one most often heard of.
        if kind & 0x40 == 0 && raft.leader_id > US {
            message.from = raft.leader_id;
        }
        message.term = match kind >> 7 {
            0 => raft.term.max(1),
            _ => script.near(&terms),
        };
        let place = |script: &mut Script<'_>| {
            let index = script.near(&indices);
            let term = match script.byte() {
                odd if odd & 7 == 7 => script.near(&terms),
                _ => log.term(index).unwrap_or(0),
            };
            (index, term)
        };
        match kind & 15 {
            0..=3 => {
                message.set_msg_type(MessageType::MsgAppend);
                (message.index, message.log_term) = place(script);
                message.commit = script.near(&indices);
                let entries = self.entries(script, &message);
                message.set_entries(entries.into());
            }
            4 | 5 => {
                message.set_msg_type(MessageType::MsgAppendResponse);
                message.index = script.near(&indices);
                message.commit = script.near(&indices);
                let wish = script.byte();
                if wish & 1 == 1 {
                    message.reject = true;
                    (message.reject_hint, message.log_term) = place(script);
                }
                if wish & 6 == 6 {
                    message.request_snapshot = script.near(&indices);
                }
            }
            6 | 7 => {
                message.set_msg_type(match kind & 1 {
                    0 => MessageType::MsgRequestVote,
                    _ => MessageType::MsgRequestPreVote,
                });
                (message.index, message.log_term) = place(script);
                (message.commit, message.commit_term) = place(script);
                message.priority = i64::from(script.byte() as i8);
                message.deprecated_priority = message.priority.max(0) as u64;
                if kind & 0x20 == 0x20 {
                    message.context = raft::CAMPAIGN_TRANSFER.into();
                }
            }
            8 | 9 => {
                message.set_msg_type(match raft.state {
                    StateRole::Candidate => MessageType::MsgRequestVoteResponse,
                    _ => MessageType::MsgRequestPreVoteResponse,
                });
                message.term += u64::from(kind & 1);
                let answer = script.byte();
                if answer & 3 == 3 {
                    message.reject = true;
                    (message.commit, message.commit_term) = place(script);
                }
            }
            10 | 11 => {
                message.set_msg_type(MessageType::MsgHeartbeat);
                message.commit = script.near(&indices);
            }
            12 => {
                message.set_msg_type(MessageType::MsgHeartbeatResponse);
                message.commit = script.near(&indices);
                message.context = vec![self.contexts; usize::from(script.byte() & 1)].into();
            }
            13 | 14 => {
                message.set_msg_type(MessageType::MsgSnapshot);
                let (index, term) = place(script);
                let mut members = ConfState::default();
                members.set_voters(script.ids());
                if kind & 0x20 == 0x20 {
                    members.set_learners(script.ids());
                    members.set_voters_outgoing(script.ids());
                    members.set_learners_next(script.ids());
                    members.auto_leave = script.byte() & 1 == 1;
                }
                let meta = message.mut_snapshot().mut_metadata();
                (meta.index, meta.term) = (index, if term == 0 { raft.term } else { term });
                meta.set_conf_state(members);
            }
            _ => message.set_msg_type(MessageType::MsgTimeoutNow),
        }
        message
    }

    fn entries(&self, script: &mut Script<'_>, append: &Message) -> Vec<Entry> {
        let log = &self.raft.raft.raft_log;
        let count = usize::from(script.byte() % 5);
        let mut term = append.log_term;
        let mut entry = |index| {
            let choice = script.byte();
            term = match choice & 3 {
                0 => append.term,
                1 => log.term(index).unwrap_or(append.term),
                2 => script.near(&[term, append.term]),
                _ => term,
            };
            let mut entry = Entry {
                index,
                term,
                ..Entry::default()
            };
            if choice & 0x30 == 0x30 {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                let data = script.change().write_to_bytes();
                entry.data = data.expect("a change is writable").into();
            }
            entry
        };
        (append.index + 1..).take(count).map(&mut entry).collect()
    }
}

/// Whatever raft says can be written, and is read by the one that it is for.
fn send(message: &Message) {
    let mut bytes = Vec::new();
    peer::encode(3, message, &mut bytes);
    let (shard, read, used) = peer::decode(&bytes).expect("we wrote it");
    assert!((shard, &read, used) == (3, message, bytes.len()));
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mut replica = Replica::new(script.byte());
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() {
            break;
        }
        replica.step(&mut script);
    }
});
