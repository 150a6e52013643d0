//! A shard among its peers: who leads, what they say to each other, how one that lags behind is brought up.
//!
//! ```text
//!   leader                                   follower that lags behind the leader's log
//!   wanted ─ image of the store, in pieces ─▶ put together, saved            (somebody else carries it)
//!   staged ◀───────── I have it ─────────────
//!   raft's snapshot, an empty envelope ─────▶ install: the store is replaced, the log begins behind it
//!   entries behind it (pinned so long) ─────▶
//! ```
//!
//! So the data travel when both have time for it, and raft sees a snapshot that takes no time at all: nothing is
//! paused for its sake, and nothing must be reported when it fails.

use raft::eraftpb::{Entry as RaftEntry, EntryType, Message, MessageType};

use super::log::Staged;
use super::members::{Change, Members};
use super::peer::check::Refusal;
use super::recovery::Recovery;
use super::section;
use super::{Applying, Shard};
use crate::failpoint::{self, Point};
use crate::store::Dropped;

/// What a leader knows of another replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// Its name.
    pub replica: u64,
    /// Up to this entry its log is ours.
    pub matched: u64,
    /// Whether it was heard of lately.
    pub is_active: bool,
    /// Whether it has all that is not in our log any more.
    pub has_base: bool,
}

impl Shard {
    /// Its number; [`META`](super::META) for the meta shard.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// This replica's name in its group.
    pub fn replica(&self) -> u64 {
        self.group.replica()
    }

    /// Who is in the group, as far as this replica has applied its log.
    pub fn members(&self) -> &Members {
        self.group.members()
    }

    /// Whether nobody else is in the group.
    pub fn is_alone(&self) -> bool {
        self.group.is_alone()
    }

    /// Whether nothing is here: others have the shard.
    pub fn is_vacant(&self) -> bool {
        self.members().voters.is_empty()
    }

    /// Whether this replica leads the group.
    pub fn is_leader(&self) -> bool {
        self.group.is_leader()
    }

    /// The leader that this replica knows of.
    pub fn leader(&self) -> Option<u64> {
        self.group.leader()
    }

    /// The others, as a leader sees them; of a follower, nobody.
    pub fn followers(&self) -> Vec<Follower> {
        if !self.is_leader() {
            return Vec::new();
        }
        let (own, progress, base) = (self.replica(), self.group.progress(), self.group.base());
        let others = progress.iter().filter(|&(&replica, _)| replica != own);
        let mut followers: Vec<Follower> = others
            .map(|(&replica, progress)| Follower {
                replica,
                matched: progress.matched,
                is_active: progress.recent_active,
                has_base: progress.matched >= base,
            })
            .collect();
        followers.sort_unstable_by_key(|follower| follower.replica);
        followers
    }

    /// Raft's unit of time has passed.
    pub fn tick(&mut self) {
        if !self.is_alone() {
            self.group.tick();
        }
    }

    /// Takes in a message of the node `from`.
    ///
    /// # Errors
    /// It is nonsense, or not for this replica: it was dropped.
    pub fn step(&mut self, message: Message, from: u32) -> Result<(), Refusal> {
        match self.group.check(&message, from) {
            Err(Refusal::Beyond) if message.get_msg_type() == MessageType::MsgHeartbeat => {
                self.group.confess(message);
                return Ok(());
            }
            checked => checked?,
        }
        if !message.get_entries().iter().all(has_sound_changes) {
            return Err(Refusal::Changes);
        }
        if message.get_msg_type() == MessageType::MsgSnapshot && !self.is_at_hand(&message) {
            return Err(Refusal::Snapshot);
        }
        self.group.step(message);
        Ok(())
    }

    /// Whether there are messages for the others.
    pub fn has_messages(&self) -> bool {
        self.group.has_messages()
    }

    /// Messages for the others, in order.
    pub fn take_outbox(&mut self) -> Vec<Message> {
        self.group.take_outbox()
    }

    /// Stands for election now, as one who has just been founded may: nothing was promised to anybody.
    pub fn campaign(&mut self) {
        self.group.campaign();
    }

    /// The group was founded just now: nothing was promised to anybody.
    pub fn end_quiet(&mut self) {
        self.group.end_quiet();
    }

    /// Hands the leadership over.
    pub fn transfer_leader(&mut self, to: u64) {
        self.group.transfer(to);
    }

    /// Whether the leadership is being handed over: what is proposed now would be refused.
    pub fn is_transferring(&self) -> bool {
        self.group.is_transferring()
    }

    /// What was sent to a replica may have been lost.
    pub fn report_unreachable(&mut self, replica: u64) {
        self.group.report_unreachable(replica);
    }

    /// Whether what is applied here holds all that was ever acknowledged, at `now` nanoseconds of the node's clock. It
    /// must have been read before the clock.
    pub fn can_read(&self, now: u64) -> bool {
        self.group.can_read(self.applied.index, now)
    }

    /// Whether what is applied here up to a committed entry of `term`, which this replica proposed, holds all that was
    /// ever acknowledged, at `now` nanoseconds of the node's clock.
    pub fn can_read_behind(&self, term: u64, now: u64) -> bool {
        self.group.can_read_behind(term, now)
    }

    /// Begins to renew what [`can_read`](Self::can_read) rests upon, if that is needed.
    pub fn renew_lease(&mut self, now: u64) -> bool {
        self.group.renew_lease(now)
    }

    /// Proposes a change of the members, unless one is under way.
    pub fn change_members(&mut self, change: &Change) {
        self.group.propose_change(change.to_conf_change());
    }

    /// Whether those who are no members any more may be let go: a majority of the members knows, whatever is lost that
    /// is not durable, that it is the members. Else it is seen to, as of `at_ms`.
    ///
    /// That a change is committed is known to whoever has an entry that was proposed afterwards, since it came with the
    /// commit index of its leader, in one record. Those who only have the change itself need a majority of the former
    /// members to find it out (members count from when their change is applied here, and not from when it is written as
    /// in Raft, section 6), which may not be there any more.
    pub fn confirm_members(&mut self, at_ms: u64) -> bool {
        let (term, last) = (self.hard_state().term, self.last_index());
        let begun = self.confirming.take();
        let begun = begun.filter(|(members, at, _)| members == self.members() && *at == term);
        let (_, _, index) = *self
            .confirming
            .insert(begun.unwrap_or_else(|| (self.group.members().clone(), term, last + 1)));
        if last < index && !self.is_open() {
            self.begin_entry();
            self.close(at_ms);
        }
        self.applied.index >= index
    }

    /// Whether everything in the log is committed and applied, and this term's leader knows all that was.
    pub fn is_settled(&self) -> bool {
        self.applied.index == self.last_index() && self.applied.term == self.hard_state().term
    }

    /// Committed entries behind `index` that are still known, at most so many bytes of them.
    pub fn entries_behind(&self, index: u64, bytes_max: u64) -> Vec<RaftEntry> {
        self.group.entries_behind(index, bytes_max)
    }

    /// Time stamp and changes of an entry of the log, if it has any.
    pub fn changes_of<'e>(&self, entry: &'e RaftEntry) -> Option<(u64, &'e [u8])> {
        let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
        section::body(&entry.data).ok()?.filter(|_| is_normal)
    }

    /// Followers that need a snapshot, since the last call.
    pub fn take_wanted(&mut self) -> Vec<u64> {
        self.group.log_mut().take_wanted().into_iter().collect()
    }

    /// An image of the store as it is now is made for a follower: what comes behind it is kept, until
    /// [`end_sending`](Self::end_sending).
    pub fn begin_sending(&mut self) {
        let index = self.applied.index;
        self.group.log_mut().pin(Some(index));
    }

    /// The follower has the image, which ends at `at` and whose group had these members.
    pub fn has_staged(&mut self, replica: u64, at: Applying, members: Members) {
        let staged = Staged {
            replica,
            at,
            members,
        };
        self.group.log_mut().set_staged(Some(staged));
    }

    /// What is behind the image needs to be kept no longer.
    pub fn end_sending(&mut self) {
        self.group.log_mut().pin(None);
        self.group.log_mut().set_staged(None);
    }

    /// A snapshot that a leader sent is at hand, in memory and durable.
    pub fn stage(&mut self, image: Recovery) {
        self.staged = Some(image);
    }

    /// Whether the snapshot that a message is about is at hand.
    fn is_at_hand(&self, message: &Message) -> bool {
        let metadata = message.get_snapshot().get_metadata();
        let staged = self.staged.as_ref().map(Recovery::applied);
        staged.is_some_and(|at| (at.index, at.term) == (metadata.index, metadata.term))
    }

    /// Puts the snapshot that is at hand in the place of the store, raft having replaced the log by it.
    pub(super) fn install(&mut self) {
        let staged = self.staged.take();
        let (store, applied) = staged.expect("raft was told of no other").into_store();
        self.replaced = Some(self.store.clear());
        (self.store, self.applied) = (store, applied);
        failpoint::reach(Point::SnapshotInstalled);
        self.proposed.clear();
        self.ahead.clear();
        self.open.clear();
        self.settle();
    }

    /// What was stored until a snapshot took its place, since the last call.
    pub fn take_replaced(&mut self) -> Option<Dropped> {
        self.replaced.take()
    }
}

/// Whether an entry can be applied once it is committed. Changes of members were checked where they were read.
fn has_sound_changes(entry: &RaftEntry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal || section::check_body(&entry.data).is_ok()
}
