//! Every message that is refused, and what raft does with it when nobody refuses it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::{Entry, HardState};
use raft::storage::MemStorage;
use raft::{Config, RawNode};

use super::*;

const NODE: u32 = 2;
const US: u64 = 1 << 32 | 1;
const PEER: u64 = 2 << 32 | 1;
const OTHER: u64 = 3 << 32 | 1;
/// Terms of the log's entries 1..=5; three of them are committed.
const LOG: [u64; 5] = [1, 1, 2, 2, 3];

type Node = RawNode<MemStorage>;

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        ..Entry::default()
    }
}

fn node(term: u64, log: &[u64], commit: u64) -> Node {
    node_among(&[US, PEER, OTHER], term, log, commit)
}

fn node_among(voters: &[u64], term: u64, log: &[u64], commit: u64) -> Node {
    let storage = MemStorage::new_with_conf_state((voters.to_vec(), vec![]));
    let entries: Vec<Entry> = (1..).zip(log).map(|(at, &term)| entry(at, term)).collect();
    storage.wl().append(&entries).expect("they are contiguous");
    storage.wl().set_hardstate(HardState {
        term,
        commit,
        ..HardState::default()
    });
    let config = Config {
        id: US,
        check_quorum: true,
        pre_vote: true,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, storage, &logger).expect("a sound state")
}

fn follower() -> Node {
    node(3, &LOG, 3)
}

fn settle(node: &mut Node) {
    while node.has_ready() {
        let mut ready = node.ready();
        node.store()
            .wl()
            .append(ready.entries())
            .expect("contiguous");
        if let Some(state) = ready.hs() {
            node.store().wl().set_hardstate(state.clone());
        }
        ready.take_messages();
        node.advance(ready);
        node.advance_apply();
    }
}

fn candidate() -> Node {
    let mut node = follower();
    node.campaign().expect("a voter");
    settle(&mut node);
    let vote = message(MessageType::MsgRequestPreVoteResponse, 4);
    node.step(vote).expect("a member");
    settle(&mut node);
    assert_eq!(node.raft.state, StateRole::Candidate);
    node
}

fn leader() -> Node {
    let mut node = candidate();
    let vote = message(MessageType::MsgRequestVoteResponse, 4);
    node.step(vote).expect("a member");
    settle(&mut node);
    let mut accepted = message(MessageType::MsgAppendResponse, 4);
    accepted.index = 6;
    node.step(accepted).expect("a member");
    settle(&mut node);
    assert_eq!(node.raft.state, StateRole::Leader);
    assert_eq!(node.raft.raft_log.committed, 6);
    node
}

fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (PEER, US, term);
    message
}

fn append(term: u64, at: (u64, u64), commit: u64, terms: &[u64]) -> Message {
    let mut message = message(MessageType::MsgAppend, term);
    (message.index, message.log_term) = at;
    message.commit = commit;
    let entries = (at.0 + 1..).zip(terms).map(|(at, &term)| entry(at, term));
    message.set_entries(entries.collect::<Vec<_>>().into());
    message
}

fn heartbeat(term: u64, commit: u64) -> Message {
    let mut message = message(MessageType::MsgHeartbeat, term);
    let term_there = (commit as usize)
        .checked_sub(1)
        .map_or(0, |at| *LOG.get(at).unwrap_or(&3));
    (message.commit, message.commit_term) = (commit, term_there);
    message
}

fn snapshot(term: u64, at: (u64, u64), groups: [&[u64]; 4]) -> Message {
    let mut message = message(MessageType::MsgSnapshot, term);
    let meta = message.mut_snapshot().mut_metadata();
    (meta.index, meta.term) = at;
    let members = meta.mut_conf_state();
    members.set_voters(groups[0].to_vec());
    members.set_learners(groups[1].to_vec());
    members.set_voters_outgoing(groups[2].to_vec());
    members.set_learners_next(groups[3].to_vec());
    message
}

fn vote_request(kind: MessageType, term: u64, at: (u64, u64)) -> Message {
    let mut message = message(kind, term);
    (message.index, message.log_term) = at;
    message
}

fn verdict(node: &Node, message: &Message) -> Result<(), Refusal> {
    let view = View {
        raft: &node.raft,
        node: NODE,
        is_writing: false,
    };
    check(message, &view)
}

/// Whether raft panics at the message, or when it goes on behind it.
fn is_deadly(node: &mut Node, message: &Message) -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        drop(node.step(message.clone()));
        settle(node);
    }))
    .is_err()
}

/// The check refuses what raft panics at.
fn deadly(mut node: Node, message: &Message, refusal: Refusal) {
    assert_eq!(verdict(&node, message), Err(refusal), "{message:?}");
    assert!(is_deadly(&mut node, message), "{message:?}");
}

/// The check refuses what raft would believe.
fn false_word(mut node: Node, message: &Message, refusal: Refusal) {
    assert_eq!(verdict(&node, message), Err(refusal), "{message:?}");
    assert!(!is_deadly(&mut node, message), "{message:?}");
}

fn fine(mut node: Node, message: &Message) {
    assert_eq!(verdict(&node, message), Ok(()), "{message:?}");
    assert!(!is_deadly(&mut node, message), "{message:?}");
}

#[test]
fn kinds_that_are_not_sent() {
    for kind in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
        let empty = message(kind, 4);
        deadly(leader(), &empty, Refusal::Kind);
    }
    for kind in [MessageType::MsgTransferLeader, MessageType::MsgHup] {
        false_word(leader(), &message(kind, 4), Refusal::Kind);
    }
}

#[test]
fn addresses_and_terms() {
    let mut stray = heartbeat(3, 3);
    stray.to = OTHER;
    false_word(follower(), &stray, Refusal::Receiver);
    for from in [0, US, OTHER] {
        let mut stranger = heartbeat(3, 3);
        stranger.from = from;
        false_word(follower(), &stranger, Refusal::Sender);
    }
    deadly(candidate(), &append(0, (5, 3), 3, &[]), Refusal::Term);
    let request = vote_request(MessageType::MsgRequestVote, 0, (9, 9));
    deadly(follower(), &request, Refusal::Term);
    false_word(
        follower(),
        &heartbeat(4 + TERMS_AHEAD_MAX, 3),
        Refusal::Term,
    );
    fine(follower(), &heartbeat(3 + TERMS_AHEAD_MAX, 3));
}

#[test]
fn appends_that_would_fit_nowhere() {
    // Behind the log, where raft finds the term 0.
    deadly(follower(), &append(3, (9, 0), 3, &[3]), Refusal::Position);
    deadly(follower(), &append(3, (9, 0), 9, &[]), Refusal::Position);
    false_word(follower(), &append(3, (0, 1), 0, &[1]), Refusal::Position);
    // Entries of no term, which raft takes for its own.
    deadly(
        node(3, &[], 0),
        &append(3, (0, 0), 1, &[0]),
        Refusal::Entries,
    );
    let mut gap = append(3, (5, 3), 3, &[3]);
    gap.mut_entries()[0].index = 8;
    deadly(follower(), &gap, Refusal::Entries);
    gap.mut_entries()[0].index = 1;
    gap.mut_entries()[0].term = 2;
    deadly(follower(), &gap, Refusal::Entries);
    false_word(follower(), &append(3, (4, 2), 3, &[3, 2]), Refusal::Entries);
    false_word(follower(), &append(3, (4, 2), 3, &[4]), Refusal::Entries);
    false_word(follower(), &append(3, (5, 4), 3, &[]), Refusal::Entries);
}

#[test]
fn appends_against_what_is_committed() {
    for (at, terms) in [
        ((2, 1), &[1][..]),
        ((3, 1), &[3]),
        ((5, 1), &[]),
        ((1, 1), &[1, 1, 3]),
    ] {
        false_word(follower(), &append(3, at, 3, terms), Refusal::Committed);
    }
    fine(follower(), &append(3, (1, 1), 5, &[1, 2, 2, 3, 3]));
    fine(follower(), &append(3, (3, 2), 4, &[3]));
    fine(follower(), &append(3, (9, 3), 99, &[3, 3]));
    fine(follower(), &append(2, (2, 1), 3, &[1, 1]));
    fine(node(1, &[], 0), &append(3, (0, 0), 9, &[1, 2]));
}

#[test]
fn one_leader_leads() {
    let mut led = follower();
    let mut hello = heartbeat(3, 3);
    hello.from = OTHER;
    led.step(hello).expect("a heartbeat");
    assert_eq!(led.raft.leader_id, OTHER);
    for message in [
        append(3, (5, 3), 3, &[]),
        heartbeat(3, 3),
        snapshot(3, (9, 3), [&[US], &[], &[], &[]]),
        message(MessageType::MsgTimeoutNow, 3),
    ] {
        assert_eq!(verdict(&led, &message), Err(Refusal::Leader));
        let mut later = message;
        later.term = 4;
        let is_later_led = later.get_msg_type() != MessageType::MsgTimeoutNow;
        assert_eq!(verdict(&led, &later).is_ok(), is_later_led, "{later:?}");
    }
    false_word(leader(), &append(4, (5, 3), 3, &[4]), Refusal::Leader);
}

#[test]
fn a_commit_index_beyond_the_log() {
    deadly(follower(), &heartbeat(3, 6), Refusal::Beyond);
    deadly(node(0, &[], 0), &heartbeat(3, 1), Refusal::Beyond);
    fine(follower(), &heartbeat(3, 5));
    fine(follower(), &heartbeat(2, 6));
}

#[test]
fn a_commit_index_at_another_entry() {
    let mut other = heartbeat(3, 5);
    other.commit_term = 2;
    false_word(follower(), &other, Refusal::Beyond);
    // What is committed here is nothing new.
    let mut old = heartbeat(3, 2);
    old.commit_term = 2;
    fine(follower(), &old);
    let mut nowhere = heartbeat(3, 5);
    nowhere.commit_term = 0;
    false_word(follower(), &nowhere, Refusal::Position);
}

#[test]
fn leadership_is_handed_over_by_the_leader() {
    let now = message(MessageType::MsgTimeoutNow, 3);
    false_word(follower(), &now, Refusal::Leader);
    let mut led = follower();
    led.step(heartbeat(3, 3)).expect("a heartbeat");
    settle(&mut led);
    fine(led, &now);
    // Alone, and the log not durable yet: raft would lead at once.
    let mut alone = node_among(&[US], 3, &LOG, 3);
    alone.step(append(3, (5, 3), 3, &[3])).expect("an append");
    deadly(alone, &now, Refusal::Busy);
}

#[test]
fn nobody_campaigns_while_taking_in_a_snapshot() {
    let mut node = follower();
    let image = snapshot(3, (9, 3), [&[US, PEER], &[], &[], &[]]);
    assert_eq!(verdict(&node, &image), Ok(()));
    node.step(image).expect("a snapshot");
    let ready = node.ready();
    let taken = node.store().wl().apply_snapshot(ready.snapshot().clone());
    taken.expect("a later snapshot");
    let number = ready.number();
    node.advance_append_async(ready);
    node.on_persist_ready(number);
    // On the disk and not in the store: what is committed and not applied is not in the log.
    let now = message(MessageType::MsgTimeoutNow, 3);
    deadly(node, &now, Refusal::Busy);
}

#[test]
fn snapshots_of_nothing() {
    let group: [&[u64]; 4] = [&[US, PEER], &[], &[], &[]];
    deadly(
        node(1, &[], 0),
        &snapshot(3, (0, 1), group),
        Refusal::Snapshot,
    );
    deadly(follower(), &snapshot(3, (9, 0), group), Refusal::Snapshot);
    false_word(follower(), &snapshot(3, (9, 4), group), Refusal::Snapshot);
    let stranger = snapshot(3, (9, 3), [&[PEER], &[OTHER], &[], &[]]);
    false_word(follower(), &stranger, Refusal::Membership);
    fine(follower(), &snapshot(3, (5, 3), group));
    fine(follower(), &snapshot(3, (2, 1), group));
}

#[test]
fn snapshots_of_impossible_groups() {
    for groups in [
        [&[][..], &[US], &[], &[]],
        [&[], &[], &[US], &[]],
        [&[US, 0], &[], &[], &[]],
        [&[US], &[US], &[], &[]],
        [&[US, PEER], &[PEER], &[OTHER], &[]],
        [&[US], &[OTHER], &[OTHER], &[]],
        [&[US], &[], &[], &[PEER]],
        [&[US], &[], &[OTHER], &[PEER]],
        [&[US, PEER], &[], &[PEER], &[PEER]],
    ] {
        deadly(follower(), &snapshot(3, (9, 3), groups), Refusal::Snapshot);
    }
    let mut hurried = snapshot(3, (9, 3), [&[US], &[], &[], &[]]);
    let meta = hurried.mut_snapshot().mut_metadata();
    meta.mut_conf_state().auto_leave = true;
    deadly(follower(), &hurried, Refusal::Snapshot);
    let twice = snapshot(3, (9, 3), [&[US, US], &[], &[], &[]]);
    assert_eq!(verdict(&follower(), &twice), Err(Refusal::Snapshot));
    let joint = [&[PEER, OTHER][..], &[7], &[US, PEER], &[US]];
    assert_eq!(verdict(&follower(), &snapshot(3, (9, 3), joint)), Ok(()));
    assert!(follower().step(snapshot(3, (9, 3), joint)).is_ok());
}

#[test]
fn snapshots_against_what_is_committed() {
    let group: [&[u64]; 4] = [&[US, PEER], &[], &[], &[]];
    for at in [(3, 1), (3, 3), (9, 1), (2, 2)] {
        let message = snapshot(3, at, group);
        assert_eq!(verdict(&follower(), &message), Err(Refusal::Committed));
    }
}

#[test]
fn progress_beyond_the_leaders_log() {
    let last = 6;
    let mut accepted = message(MessageType::MsgAppendResponse, 4);
    accepted.index = last;
    fine(leader(), &accepted);
    accepted.index = last + 1;
    false_word(leader(), &accepted, Refusal::Beyond);
    fine(follower(), &accepted);
    let mut alive = message(MessageType::MsgHeartbeatResponse, 4);
    alive.commit = last + 1;
    false_word(leader(), &alive, Refusal::Beyond);
    let mut wish = message(MessageType::MsgAppendResponse, 4);
    (wish.reject, wish.index, wish.request_snapshot) = (true, 3, last + 1);
    assert_eq!(verdict(&leader(), &wish), Err(Refusal::Beyond));
    let mut hint = message(MessageType::MsgAppendResponse, 4);
    (hint.reject, hint.index, hint.reject_hint, hint.log_term) = (true, 5, 1 << 62, 9);
    fine(leader(), &hint);
}

#[test]
fn answers_to_votes_that_nobody_asked_for() {
    let (vote, pre_vote) = (
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
    );
    // The log is not durable when the answer comes, so the question cannot have left.
    let mut hasty = follower();
    hasty.step(append(3, (5, 3), 3, &[3])).expect("an append");
    hasty.campaign().expect("a voter");
    let early = message(pre_vote, 4);
    assert_eq!(verdict(&hasty, &early), Err(Refusal::Candidacy));
    hasty.step(early).expect("a member");
    deadly(hasty, &message(vote, 4), Refusal::Candidacy);
    // Raft calls it durable and the disk is still at an earlier record.
    let asking = candidate();
    let view = View {
        raft: &asking.raft,
        node: NODE,
        is_writing: true,
    };
    assert_eq!(check(&message(vote, 4), &view), Err(Refusal::Candidacy));

    false_word(candidate(), &message(vote, 5), Refusal::Candidacy);
    false_word(follower(), &message(pre_vote, 5), Refusal::Candidacy);
    fine(candidate(), &message(vote, 4));
    let mut denied = message(vote, 9);
    denied.reject = true;
    fine(candidate(), &denied);
}

#[test]
fn requests_for_votes_of_impossible_candidates() {
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        fine(follower(), &vote_request(kind, 4, (5, 3)));
        for at in [(5, 0), (0, 3), (5, 4)] {
            false_word(follower(), &vote_request(kind, 4, at), Refusal::Position);
        }
        for commit in [(1, 0), (0, 1), (6, 3), (5, 4)] {
            let mut request = vote_request(kind, 5, (5, 3));
            (request.commit, request.commit_term) = commit;
            false_word(follower(), &request, Refusal::Position);
        }
    }
}

#[test]
fn a_replica_without_a_term_denies_nothing() {
    let mut request = vote_request(MessageType::MsgRequestPreVote, 1, (0, 0));
    fine(node(0, &[], 0), &request);
    request.priority = -1;
    deadly(node(0, &[], 0), &request, Refusal::Denial);
    fine(node(1, &[], 0), &request);
    deadly(
        node(0, &[1, 1], 0),
        &vote_request(MessageType::MsgRequestPreVote, 2, (1, 1)),
        Refusal::Denial,
    );
}
