//! Raft for one shard: what goes in (proposals, messages, ticks), and what comes out in each turn.
//!
//! ```text
//!   propose ─┐                    ┌─▶ section of the turn's record ─ disk ─▶ persisted
//!   step    ─┼─▶ raft ─ advance ──┼─▶ outbox: messages that wait for nothing
//!   tick    ─┘        (a turn)    ├─▶ steps:  messages that wait for the record, in order
//!                                 ├─▶ committed entries
//!                                 └─▶ a snapshot that takes the place of the log
//! ```
//!
//! What raft says in one turn goes into the record that the turn appends to; a *step* remembers which one that is. A
//! step with nothing to keep still stands behind those before it. A leader's messages go out at once, so that the
//! followers' disks work beside its own (Ongaro's thesis, 10.2.1).
//!
//! A machine may be given an old backup of its disk. Its replica has then forgotten what it acknowledged, which raft
//! does not believe: its leader would never send that again. So a heartbeat that tells of entries which are not there
//! is answered by what is there ([`Group::confess`]), and a leader takes back what it believed ([`Group::believe`]).
//! What was committed stays so, on one disk less until then.
//!
//! Who has just started votes for nobody for an election timeout: it may have promised a leader not to, and promises
//! are not written down. Timeouts differ by the replica's rank in its group, so that two do not stand for election
//! again and again at the same moment, and nothing here is random.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfChangeV2, Entry as RaftEntry, EntryType, Message, MessageType, Snapshot};
use raft::{
    Config, GetEntriesContext, ProgressTracker, RawNode, SnapshotStatus, StateRole, Storage,
};

use super::lease::Lease;
use super::log::Log;
use super::members::Members;
use super::peer::check::{Refusal, View, check, term_of};
use super::section::{self, Base, Committed, HardState, STAMP_BYTES};
use super::{Applying, ELECTION_TICKS};
use crate::failpoint::{self, Point};
use crate::odd::{self, Size};
use crate::planted::{self, Bug};

/// Committed entries handed out at once, in bytes.
const COMMITTED_BYTES_MAX: usize = 16 << 20;
/// Replicas that have different election timeouts.
const RANKS_MAX: usize = 10;
/// Ticks between two heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;
/// Entries of one message, in bytes, unless one alone is longer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Messages to a follower that it has not answered.
const INFLIGHT_MAX: usize = 256;

/// What raft said in one turn.
struct Step {
    number: u64,
    /// The record that it is kept in.
    record: u64,
    messages: Vec<Message>,
    /// The last entry of a snapshot that took the place of the log.
    snapshot: Option<u64>,
    /// Whether it changes the log, and not only what raft must never forget.
    is_of_log: bool,
}

/// What came out of a turn.
#[derive(Default)]
pub(super) struct Advanced {
    /// Whether something was appended to the record.
    pub(super) is_written: bool,
    /// Whether a term or a vote is among it.
    pub(super) is_vote: bool,
    /// The last entry of a snapshot that takes the place of the log and the store.
    pub(super) snapshot: Option<u64>,
}

/// See the module.
pub(super) struct Group {
    number: u16,
    replica: u64,
    raft: RawNode<Log>,
    steps: VecDeque<Step>,
    outbox: Vec<Message>,
    committed: VecDeque<Committed>,
    lease: Lease,
    /// The term and role that the lease belongs to.
    reign: Option<u64>,
    /// Until so many ticks have passed no vote is given.
    quiet_ticks: usize,
    /// The reign in which a transfer of the leadership was begun.
    transferring: Option<u64>,
}

impl Group {
    /// The group of shard `number` in which we are `replica`, which goes on behind what of `log` is applied.
    pub(super) fn new(number: u16, replica: u64, log: Log, applied: u64) -> Group {
        let members = log.members().clone();
        let is_alone = members.is_alone(replica);
        let is_quiet = !is_alone && !planted::is(Bug::EarlyVote);
        let config = Config {
            id: replica,
            election_tick: ELECTION_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS + RANKS_MAX,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: odd::or(Size::Message, MESSAGE_BYTES_MAX) as u64,
            max_inflight_msgs: odd::or(Size::Unacknowledged, INFLIGHT_MAX),
            check_quorum: true,
            pre_vote: true,
            // A follower learns at once what is committed: it is asked for reads, too.
            skip_bcast_commit: is_alone,
            max_committed_size_per_ready: odd::or(Size::Committed, COMMITTED_BYTES_MAX) as u64,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, log, &logger).expect("recovery checked the state");
        if is_alone {
            raft.campaign()
                .expect("a group of one elects its only member");
        }
        Group {
            number,
            replica,
            raft,
            steps: VecDeque::new(),
            outbox: Vec::new(),
            committed: VecDeque::new(),
            lease: Lease::default(),
            reign: None,
            transferring: None,
            quiet_ticks: if is_quiet { ELECTION_TICKS } else { 0 },
        }
    }

    pub(super) fn replica(&self) -> u64 {
        self.replica
    }

    pub(super) fn members(&self) -> &Members {
        self.raft.store().members()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.members().is_alone(self.replica)
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// The leader that this replica knows of.
    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.raft.raft.leader_id).filter(|&leader| leader != 0)
    }

    pub(super) fn hard_state(&self) -> HardState {
        let raft = &self.raft.raft;
        HardState {
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
        }
    }

    pub(super) fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Index of the last entry that is as durable here as was asked for.
    pub(super) fn persisted_index(&self) -> u64 {
        self.raft.raft.raft_log.persisted
    }

    /// The entry behind which the log begins: it is not in there any more.
    pub(super) fn base(&self) -> u64 {
        self.raft.raft.raft_log.first_index() - 1
    }

    /// What a leader knows of the others.
    pub(super) fn progress(&self) -> &ProgressTracker {
        self.raft.raft.prs()
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        self.raft.mut_store()
    }

    /// Proposes an entry; its index and term, or nothing when this replica does not lead or takes no more.
    pub(super) fn propose(&mut self, data: Bytes) -> Option<(u64, u64)> {
        if !self.is_leader() {
            return None;
        }
        let entry = RaftEntry {
            data,
            ..RaftEntry::default()
        };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.replica;
        message.set_entries(vec![entry].into());
        self.raft.step(message).ok()?;
        Some((self.last_index(), self.raft.raft.term))
    }

    /// Proposes a change of the members, unless one is under way.
    pub(super) fn propose_change(&mut self, change: ConfChangeV2) {
        let raft = &self.raft.raft;
        let can = self.is_leader() && !raft.has_pending_conf() && raft.commit_to_current_term();
        if can {
            // What raft refuses is proposed again: whoever wants it looks what the members are.
            let _ = self.raft.propose_conf_change(Vec::new(), change);
        }
    }

    /// A committed change of the members takes effect.
    pub(super) fn apply_change(&mut self, change: &ConfChangeV2) {
        // An error means that every replica ignores the entry.
        if let Ok(mut state) = self.raft.apply_conf_change(change) {
            if planted::is(Bug::MajorityOfNew) {
                let left = self.raft.apply_conf_change(&ConfChangeV2::default());
                state = left.unwrap_or(state);
            }
            let members = Members::from_conf_state(&state);
            failpoint::reach(match members.is_joint() {
                true => Point::MembersEntered,
                false => Point::MembersLeft,
            });
            self.raft.mut_store().set_members(members);
            // A leader that was removed would go on without being able to.
            if self.is_leader() && !self.raft.raft.promotable() {
                let term = self.raft.raft.term;
                self.raft.raft.become_follower(term, 0);
            }
            let is_alone = self.is_alone();
            self.raft.skip_bcast_commit(is_alone);
        }
    }

    /// Whether a message of the node `from` may be taken in.
    ///
    /// # Errors
    /// It may not; why.
    pub(super) fn check(&self, message: &Message, from: u32) -> Result<(), Refusal> {
        let view = View {
            raft: &self.raft.raft,
            node: from,
            is_writing: self.is_writing(),
        };
        check(message, &view)
    }

    /// Takes in a message of a peer that was [checked](Self::check).
    pub(super) fn step(&mut self, mut message: Message) {
        let is_vote_wanted = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if is_vote_wanted && self.quiet_ticks > 0 {
            return;
        }
        if is_vote_wanted && planted::is(Bug::VoteForAnybody) {
            message.log_term = u64::MAX;
        }
        self.believe(&message);
        let vote = self.raft.raft.vote;
        // What raft cannot use (from a replica that is gone, say) it says and drops.
        let _ = self.raft.step(message);
        if is_vote_wanted && self.raft.raft.vote != vote {
            failpoint::reach(Point::VoteGiven);
        }
    }

    /// Answers a heartbeat, which was checked but for that, of a leader to whom this replica has acknowledged what it
    /// does not have: that it has forgotten it.
    pub(super) fn confess(&mut self, mut heartbeat: Message) {
        let log = &self.raft.raft.raft_log;
        let (committed, wanted) = (log.committed, heartbeat.commit);
        // What it has in that place is another entry.
        let last = log.last_index().min(wanted - 1);
        let last_term = log.term(last).unwrap_or(0);
        log::warn!(
            "shard {}: entry {wanted} was acknowledged and is not there: was an old backup of this directory put \
             back? What is behind entry {committed} is asked for again",
            self.number,
        );
        let mut answer = Message::default();
        answer.set_msg_type(MessageType::MsgAppendResponse);
        (answer.from, answer.to) = (self.replica, heartbeat.from);
        answer.term = heartbeat.term;
        answer.reject = true;
        (answer.index, answer.reject_hint, answer.log_term) = (wanted, last, last_term);
        answer.commit = committed;
        // What it has may not be what was agreed on behind what it knows to be committed.
        (heartbeat.commit, heartbeat.commit_term) = (committed, 0);
        let _ = self.raft.step(heartbeat);
        self.outbox.push(answer);
    }

    /// Takes back what a replica had acknowledged to this leader, if it says that it does not have it. When that is an
    /// old answer to what was sent long ago, it only costs another question. What it has behind what it knows to be
    /// committed may have been replaced in all other logs: it would take that for committed if it counted.
    fn believe(&mut self, message: &Message) {
        let raft = &mut self.raft.raft;
        let is_denial = message.get_msg_type() == MessageType::MsgAppendResponse && message.reject;
        if !is_denial || raft.state != StateRole::Leader || message.term != raft.term {
            return;
        }
        let Some(progress) = raft.mut_prs().get_mut(message.from) else {
            return;
        };
        if message.index <= progress.matched && message.reject_hint < progress.matched {
            progress.matched = message.reject_hint.min(message.commit);
            progress.become_probe();
        }
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.quiet_ticks = self.quiet_ticks.saturating_sub(1);
        self.resign_if_refused();
        // Raft cannot stand for election while its log is on its way to the disk.
        if self.is_leader() || !self.is_writing() {
            let before = |&&other: &&u64| other < self.replica;
            let rank = self.members().voters.iter().filter(before).count();
            let timeout = ELECTION_TICKS + rank.min(RANKS_MAX - 1);
            self.raft.raft.set_randomized_election_timeout(timeout);
            self.raft.tick();
        }
    }

    /// Who was to take over has not, and may yet be told that it may: whenever that is, in the midst of a lease. So
    /// this reign ends.
    fn resign_if_refused(&mut self) {
        let is_over = self.transferring.is_some() && !self.is_transferring();
        if is_over && self.transferring.take() == self.reign && self.is_leader() {
            let term = self.raft.raft.term;
            self.raft.raft.become_follower(term, 0);
        }
    }

    /// Stands for election now. Only who has never voted may do so at once.
    pub(super) fn campaign(&mut self) {
        self.quiet_ticks = 0;
        let _ = self.raft.campaign();
    }

    /// Votes may be given: nothing can have been promised.
    pub(super) fn end_quiet(&mut self) {
        self.quiet_ticks = 0;
    }

    /// Hands the leadership over, if somebody else is ready for it.
    pub(super) fn transfer(&mut self, to: u64) {
        if self.is_leader() {
            if !planted::is(Bug::TransferReads) {
                self.lease.end();
            }
            self.transferring = self.reign;
            self.raft.transfer_leader(to);
            failpoint::reach(Point::LeadershipOffered);
        }
    }

    /// Whether the leader is handing over.
    pub(super) fn is_transferring(&self) -> bool {
        self.raft.raft.lead_transferee.is_some()
    }

    /// The link to a replica is gone.
    pub(super) fn report_unreachable(&mut self, replica: u64) {
        self.raft.report_unreachable(replica);
        self.raft.report_snapshot(replica, SnapshotStatus::Failure);
    }

    /// Whether what is applied may be read as the latest: all that was ever acknowledged is in it.
    pub(super) fn can_read(&self, applied: u64, now: u64) -> bool {
        if self.is_alone() {
            return true;
        }
        let raft = &self.raft.raft;
        let knows_all = raft.commit_to_current_term();
        if !knows_all && planted::is(Bug::OldTermRead) {
            return self.is_leader();
        }
        let has_all = knows_all && applied >= raft.raft_log.committed;
        has_all && self.is_leading(now)
    }

    /// Whether what is applied up to an entry of `term`, which this replica proposed, may be read so.
    pub(super) fn can_read_behind(&self, term: u64, now: u64) -> bool {
        self.is_alone() || self.raft.raft.term == term && self.is_leading(now)
    }

    /// Whether nobody else can lead now.
    fn is_leading(&self, now: u64) -> bool {
        let is_handing = self.is_transferring() && !planted::is(Bug::TransferReads);
        let is_sure = self.lease.is_valid(now) || planted::is(Bug::StaleRead);
        self.is_leader() && !is_handing && is_sure
    }

    /// Begins a round of heartbeats for a lease, if one is needed; whether there is something to send.
    pub(super) fn renew_lease(&mut self, now: u64) -> bool {
        if self.is_alone() || !self.is_leader() || self.is_transferring() {
            return false;
        }
        if !self.raft.raft.commit_to_current_term() {
            return false;
        }
        match self.lease.begin(now) {
            Some(context) => {
                self.raft.read_index(context);
                true
            }
            None => false,
        }
    }

    /// Whether [`advance`](Self::advance) has something to do.
    pub(super) fn has_ready(&self) -> bool {
        self.raft.has_ready()
    }

    /// Takes what raft has to say, and appends what must be kept to `record`, whose number is `number`. Without a
    /// record nothing must be kept: it is as good as kept.
    /// `staged` is how far the snapshot is that is at hand; raft was told of no other.
    pub(super) fn advance(
        &mut self,
        mut record: Option<&mut Vec<u8>>,
        number: u64,
        staged: Option<Applying>,
    ) -> Advanced {
        let mut advanced = Advanced::default();
        while self.raft.has_ready() {
            let mut ready = self.raft.ready();
            self.note_reign();
            failpoint::reach(Point::ReadyTaken);
            self.outbox.append(&mut ready.take_messages());
            if let Some(state) = ready.hs() {
                let state = state.clone();
                self.raft.mut_store().set_hard_state(state);
            }
            for state in ready.take_read_states() {
                self.lease.confirm(&state.request_ctx);
            }
            let entries = ready.take_entries();
            let snapshot = Some(ready.snapshot().get_metadata().index).filter(|&index| index > 0);
            if snapshot.is_some() {
                let base = self.restart(ready.snapshot(), staged);
                if let Some(record) = record.as_deref_mut() {
                    section::put_base(record, self.number, self.hard_state(), &base);
                }
                advanced.snapshot = snapshot;
            }
            let is_of_log = !entries.is_empty() || snapshot.is_some();
            let is_to_keep = is_of_log || ready.must_sync() && !planted::is(Bug::VoteForgotten);
            let is_kept = is_to_keep && record.is_some();
            if let Some(record) = record.as_deref_mut().filter(|_| is_to_keep) {
                section::begin(record, self.number, self.hard_state(), entries.len());
                entries
                    .iter()
                    .for_each(|entry| section::put_entry(record, entry));
                advanced.is_written = true;
                advanced.is_vote |= !is_of_log;
            }
            failpoint::reach(Point::RecordFilled);
            self.raft.mut_store().append(entries);
            self.take_committed(ready.take_committed_entries());
            let (step, messages) = (ready.number(), ready.take_persisted_messages());
            self.raft.advance_append_async(ready);
            let behind = self.steps.back().map(|step| step.record);
            match behind.filter(|_| !is_kept).or(is_kept.then_some(number)) {
                Some(record) => self.steps.push_back(Step {
                    number: step,
                    record,
                    messages,
                    snapshot,
                    is_of_log,
                }),
                None => {
                    self.outbox.extend(messages);
                    self.kept(step, snapshot);
                }
            }
        }
        advanced
    }

    /// The log begins anew behind a snapshot.
    fn restart(&mut self, snapshot: &Snapshot, staged: Option<Applying>) -> Base {
        let metadata = snapshot.get_metadata();
        let base = Base {
            replica: self.replica,
            index: metadata.index,
            term: metadata.term,
            at_ms: staged.map_or(0, |at| at.at_ms),
            members: Members::from_conf_state(metadata.get_conf_state()),
            changes: None,
        };
        let members = base.members.clone();
        failpoint::reach(Point::LogRestarted);
        self.raft
            .mut_store()
            .restart(base.index, base.term, members);
        self.committed.clear();
        base
    }

    /// The lease ends with the reign in which it was given.
    fn note_reign(&mut self) {
        let reign = self.is_leader().then_some(self.raft.raft.term);
        if self.reign != reign {
            failpoint::reach(match reign {
                Some(_) => Point::LeaderElected,
                None => Point::LeaderResigned,
            });
            self.reign = reign;
            self.lease.end();
        }
    }

    fn take_committed(&mut self, entries: Vec<RaftEntry>) {
        for entry in entries {
            let is_members = entry.get_entry_type() != EntryType::EntryNormal;
            let (at_ms, changes) = match section::body(&entry.data) {
                _ if is_members => (0, entry.data.clone()),
                Ok(Some((at_ms, _))) => (at_ms, entry.data.slice(STAMP_BYTES..)),
                _ => (0, Bytes::new()),
            };
            self.committed.push_back(Committed {
                index: entry.index,
                term: entry.term,
                at_ms,
                is_members,
                changes,
            });
        }
    }

    /// All records up to this one are durable.
    pub(super) fn persisted(&mut self, record: u64) {
        while self.steps.front().is_some_and(|step| step.record <= record) {
            let Some(step) = self.steps.pop_front() else {
                break;
            };
            failpoint::reach(Point::StepKept);
            self.outbox.extend(step.messages);
            self.kept(step.number, step.snapshot);
        }
    }

    /// What raft said in a step is as good as kept.
    fn kept(&mut self, step: u64, snapshot: Option<u64>) {
        self.raft.on_persist_ready(step);
        if let Some(index) = snapshot {
            self.raft.advance_apply_to(index);
        }
    }

    /// Whether something of the log is on its way to the disk.
    fn is_writing(&self) -> bool {
        self.steps.iter().any(|step| step.is_of_log)
    }

    /// Whether there are messages to send.
    pub(super) fn has_messages(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Messages to send, in order.
    pub(super) fn take_outbox(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.outbox);
        let is_heartbeat = |it: &&mut Message| it.get_msg_type() == MessageType::MsgHeartbeat;
        for heartbeat in messages.iter_mut().filter(is_heartbeat) {
            // What is not in the log any more has been committed for so long that it need not be said.
            match term_of(&self.raft.raft, heartbeat.commit) {
                Some(term) => heartbeat.commit_term = term,
                None => heartbeat.commit = 0,
            }
        }
        messages
    }

    pub(super) fn committed(&self) -> Option<&Committed> {
        self.committed.front()
    }

    pub(super) fn committed_mut(&mut self) -> Option<&mut Committed> {
        self.committed.front_mut()
    }

    /// The first committed entry has been applied.
    pub(super) fn pop_committed(&mut self) -> Option<Committed> {
        let entry = self.committed.pop_front()?;
        self.raft.advance_apply_to(entry.index);
        self.raft.mut_store().applied(entry.index);
        Some(entry)
    }

    /// Entries of the log behind `index`, at most so many bytes of them, as far as they are known.
    pub(super) fn entries_behind(&self, index: u64, bytes_max: u64) -> Vec<RaftEntry> {
        let log = self.raft.store();
        let last = self.raft.raft.raft_log.committed.min(log.last()) + 1;
        if index + 1 >= last {
            return Vec::new();
        }
        let context = GetEntriesContext::empty(false);
        log.entries(index + 1, last, bytes_max, context)
            .unwrap_or_default()
    }
}
