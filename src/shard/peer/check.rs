//! Whether raft may see a message of a peer.
//!
//! Raft believes what it is told and panics where that contradicts what it knows: a commit index beyond its log, a
//! configuration without voters. A peer whose disk was wiped, a bit that flipped on the way or a stranger must not
//! stop a node with one message, so [`check`] looks at each first.
//!
//! ```text
//!   bytes ─ decode ─▶ message ─ check ─▶ RawNode::step
//! ```
//!
//! It refuses what would make raft panic at once or later, and what no honest replica says: contradictions to what
//! is committed here, two leaders in a term, leadership handed over by one who does not lead. What is true and
//! what a lie among the plausible it cannot tell; Raft is no protocol among liars.
//!
//! Who gets a [`Refusal`] drops the message as if the network had lost it, which raft survives, and keeps the link.
//! Some honest messages are among those: for a replica that was replaced (its id is never used again), from a
//! leader that has been deposed, or a vote for a candidacy that has not been made durable.
//!
//! A message of an earlier term than the replica's is only looked at as far as raft would: it is answered or ignored.
//!
//! What the node owes raft besides, and what no message can be blamed for: it ticks no replica but a leader's while
//! the log is not durable or a snapshot is being taken in; it asks only a leader to transfer or to confirm reads,
//! since another would send the wish on; and a leader that applied its own removal becomes a follower at once.
//!
//! Deliberately absent: whether the sender is a member, for a replica may learn that later than it hears from it (of
//! responses, `RawNode::step` refuses a stranger's); what normal entries and snapshots carry as data.

use std::fmt;

use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};
use raft::{Raft, StateRole, Storage};

/// Terms by which a peer can be ahead. One message that is wrong in the highest bits of its term would otherwise use
/// up all terms there are, for the whole group and forever.
pub const TERMS_AHEAD_MAX: u64 = 1 << 32;

/// What a replica knows of itself and of the link when a message comes.
pub struct View<'v, T: Storage> {
    /// The replica's raft, between two of its `Ready`s.
    pub raft: &'v Raft<T>,
    /// The node at the other end of the link: the upper half of the ids of its replicas.
    pub node: u32,
    /// Whether entries or a snapshot of raft's are on their way to the disk.
    pub is_writing: bool,
}

/// Why a message is not for raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is of a kind that no replica sends to another.
    Kind,
    /// It is for another replica.
    Receiver,
    /// It is from nobody, the receiver itself, or a replica of another node than the link's.
    Sender,
    /// Its term is 0, or too far ahead.
    Term,
    /// An index without its term, or a term that an earlier entry cannot have.
    Position,
    /// Entries that do not follow each other, in index or term.
    Entries,
    /// Entries whose changes cannot be applied. (For who knows what is in them.)
    Changes,
    /// A snapshot of nothing, or that tells of no possible group.
    Snapshot,
    /// A snapshot for a group that the receiver is no member of.
    Membership,
    /// Another replica leads in the term, or did not hand over what it does not have.
    Leader,
    /// It contradicts what is committed here.
    Committed,
    /// It is about entries that the receiver does not have, and would have.
    Beyond,
    /// A vote for a candidacy that was not announced yet.
    Candidacy,
    /// A pre-vote that a replica without a term would have to deny, which raft cannot say.
    Denial,
    /// The receiver is to campaign and cannot: it is writing or taking in a snapshot.
    Busy,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Kind => "no replica sends this to another",
            Refusal::Receiver => "it is for another replica",
            Refusal::Sender => "it is from no replica of the link's node",
            Refusal::Term => "its term is 0 or too far ahead",
            Refusal::Position => "an index and a term do not belong together",
            Refusal::Entries => "its entries do not follow each other",
            Refusal::Changes => "its entries hold changes that make no sense",
            Refusal::Snapshot => "its snapshot is none",
            Refusal::Membership => "its snapshot is for a group without this replica",
            Refusal::Leader => "its sender does not lead in this term",
            Refusal::Committed => "it contradicts what is committed",
            Refusal::Beyond => "it is about entries that are not there",
            Refusal::Candidacy => "it answers a question that was not asked",
            Refusal::Denial => "a replica without a term cannot deny it",
            Refusal::Busy => "this replica cannot campaign now",
        })
    }
}

impl std::error::Error for Refusal {}

/// Whether raft may see `message`, which has come over a link.
///
/// # Errors
/// It may not; why. The message is to be dropped.
pub fn check<T: Storage>(message: &Message, view: &View<'_, T>) -> Result<(), Refusal> {
    let raft = view.raft;
    check_addresses(message, view)?;
    check_shape(message, raft.id)?;
    if message.term < raft.term {
        return Ok(());
    }
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            check_leader(message, raft)?;
            check_append(message, raft)
        }
        MessageType::MsgHeartbeat => {
            check_leader(message, raft)?;
            check_heartbeat(message, raft)
        }
        MessageType::MsgSnapshot => {
            check_leader(message, raft)?;
            check_snapshot(message.get_snapshot(), raft)
        }
        MessageType::MsgTimeoutNow => check_timeout_now(message, view),
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
            check_progress(message, raft)
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            check_vote(message, view)
        }
        MessageType::MsgRequestPreVote => {
            let is_denied = raft.term == 0 && !would_vote(message, raft);
            require(!is_denied, Refusal::Denial)
        }
        _ => Ok(()),
    }
}

fn require(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

fn check_addresses<T: Storage>(message: &Message, view: &View<'_, T>) -> Result<(), Refusal> {
    let raft = view.raft;
    require(message.to == raft.id, Refusal::Receiver)?;
    let is_of_link = message.from >> 32 == u64::from(view.node);
    let is_other = message.from != 0 && message.from != raft.id;
    require(is_of_link && is_other, Refusal::Sender)?;
    // Without a term raft takes it for a word of its own.
    let terms = 1..=raft.term + TERMS_AHEAD_MAX;
    require(terms.contains(&message.term), Refusal::Term)
}

/// What can be said of a message without knowing the log.
fn check_shape(message: &Message, replica: u64) -> Result<(), Refusal> {
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            check_position(message.index, message.log_term)?;
            check_entries(message)
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            check_position(message.index, message.log_term)?;
            check_position(message.commit, message.commit_term)?;
            let is_ordered = message.commit <= message.index
                && message.commit_term <= message.log_term
                && message.log_term < message.term;
            require(is_ordered, Refusal::Position)
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            check_position(message.commit, message.commit_term)?;
            require(message.commit_term <= message.term, Refusal::Position)
        }
        MessageType::MsgSnapshot => {
            let meta = message.get_snapshot().get_metadata();
            let is_one = meta.index > 0 && (1..=message.term).contains(&meta.term);
            let members = meta.get_conf_state();
            require(is_one && is_possible(members), Refusal::Snapshot)?;
            let groups = [
                members.get_voters(),
                members.get_learners(),
                members.get_voters_outgoing(),
            ];
            let is_member = groups.iter().any(|ids| ids.contains(&replica));
            require(is_member, Refusal::Membership)
        }
        MessageType::MsgHeartbeat => check_position(message.commit, message.commit_term),
        MessageType::MsgAppendResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        _ => Err(Refusal::Kind),
    }
}

/// Only the place in front of the log has no term. Raft gives the places behind it none either, so that an append
/// without a term would fit there.
fn check_position(index: u64, term: u64) -> Result<(), Refusal> {
    require((index == 0) == (term == 0), Refusal::Position)
}

fn check_entries(message: &Message) -> Result<(), Refusal> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.entries.iter() {
        let follows = entry.index == index + 1 && entry.term >= term.max(1);
        require(follows, Refusal::Entries)?;
        (index, term) = (entry.index, entry.term);
    }
    require(term <= message.term, Refusal::Entries)
}

/// Whether raft can make this configuration and finds it equal when it has.
fn is_possible(members: &ConfState) -> bool {
    let (voters, learners) = (members.get_voters(), members.get_learners());
    let (outgoing, next) = (members.get_voters_outgoing(), members.get_learners_next());
    let is_joint = !outgoing.is_empty();
    let mut now = [voters, learners, next].concat();
    now.sort_unstable();
    let mut before = [learners, outgoing].concat();
    before.sort_unstable();
    let are_distinct = |ids: &[u64]| ids.windows(2).all(|pair| pair[0] != pair[1]);
    !voters.is_empty()
        && !now.contains(&0)
        && !before.contains(&0)
        && are_distinct(&now)
        && are_distinct(&before)
        && next.iter().all(|id| outgoing.contains(id))
        && (is_joint || !members.auto_leave)
}

/// A term has one leader.
fn check_leader<T: Storage>(message: &Message, raft: &Raft<T>) -> Result<(), Refusal> {
    let leader = match raft.leader_id {
        _ if message.term > raft.term => 0,
        leader => leader,
    };
    require(leader == 0 || leader == message.from, Refusal::Leader)
}

/// The term of entry `index`, unless it is not known any more or does not exist yet.
pub fn term_of<T: Storage>(raft: &Raft<T>, index: u64) -> Option<u64> {
    let log = &raft.raft_log;
    let known = log.first_index() - 1..=log.last_index();
    let term = log.term(index).ok();
    term.filter(|_| known.contains(&index))
}

/// A leader calls that committed which this replica has acknowledged: it may have forgotten it, and have nothing there
/// or what was never agreed on. Of what it does not have raft would know nothing but to panic.
fn check_heartbeat<T: Storage>(message: &Message, raft: &Raft<T>) -> Result<(), Refusal> {
    let is_new = message.commit > raft.raft_log.committed;
    let is_there = term_of(raft, message.commit) == Some(message.commit_term);
    require(!is_new || is_there, Refusal::Beyond)
}

/// Every leader's log holds what is committed anywhere.
fn check_append<T: Storage>(message: &Message, raft: &Raft<T>) -> Result<(), Refusal> {
    let committed = raft.raft_log.committed;
    let is_at_least = match term_of(raft, committed) {
        Some(term) => message.index < committed || message.log_term >= term,
        None => true,
    };
    require(is_at_least, Refusal::Committed)?;
    let first = (message.index, message.log_term);
    let entries = message.entries.iter().map(|it| (it.index, it.term));
    let mut places = std::iter::once(first)
        .chain(entries)
        .take_while(|(index, _)| *index <= committed);
    let agrees = places.all(|(index, term)| term_of(raft, index).is_none_or(|it| it == term));
    require(agrees, Refusal::Committed)
}

fn check_snapshot<T: Storage>(snapshot: &Snapshot, raft: &Raft<T>) -> Result<(), Refusal> {
    let (index, term) = (snapshot.get_metadata().index, snapshot.get_metadata().term);
    let committed = raft.raft_log.committed;
    let fits = match term_of(raft, index.min(committed)) {
        None => true,
        Some(known) if index > committed => term >= known,
        Some(known) => term == known,
    };
    require(fits, Refusal::Committed)
}

/// Only the leader hands over, and only to one who has all its entries.
fn check_timeout_now<T: Storage>(message: &Message, view: &View<'_, T>) -> Result<(), Refusal> {
    let raft = view.raft;
    let is_led = raft.term == message.term && raft.leader_id == message.from;
    require(is_led, Refusal::Leader)?;
    // Whoever campaigns reads all that is committed and not applied, and it must be there.
    let is_readable = raft.raft_log.applied + 1 >= raft.raft_log.first_index();
    require(is_readable && is_settled(view), Refusal::Busy)
}

/// Whether all of the log is durable, which it is with every candidate that others know of.
fn is_settled<T: Storage>(view: &View<'_, T>) -> bool {
    let log = &view.raft.raft_log;
    !view.is_writing && log.persisted == log.last_index()
}

/// A follower has nothing that its leader does not have.
fn check_progress<T: Storage>(message: &Message, raft: &Raft<T>) -> Result<(), Refusal> {
    if raft.state != StateRole::Leader || message.term > raft.term {
        return Ok(());
    }
    let last = raft.raft_log.last_index();
    let most = message
        .index
        .max(message.commit)
        .max(message.request_snapshot);
    require(most <= last, Refusal::Beyond)
}

/// Votes are for candidates that asked for them, and who asked has written down that it does.
fn check_vote<T: Storage>(message: &Message, view: &View<'_, T>) -> Result<(), Refusal> {
    let raft = view.raft;
    let is_pre = message.get_msg_type() == MessageType::MsgRequestPreVoteResponse;
    let asked = raft.term + u64::from(is_pre);
    if message.term > raft.term && message.reject {
        return Ok(());
    }
    require(message.term <= asked, Refusal::Candidacy)?;
    let is_candidate = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
    require(!is_candidate || is_settled(view), Refusal::Candidacy)
}

/// Whether raft grants this pre-vote, at term 0.
fn would_vote<T: Storage>(message: &Message, raft: &Raft<T>) -> bool {
    let log = &raft.raft_log;
    log.is_up_to_date(message.index, message.log_term)
        && (message.index > log.last_index() || raft.priority <= message.priority)
}

#[cfg(test)]
mod tests;
