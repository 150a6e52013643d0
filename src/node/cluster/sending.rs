//! Snapshots for replicas that lag behind the log of their leader: the leader's side.
//!
//! ```text
//!   raft wants one ─▶ image of the store, a slice a turn ─▶ REPL SNAP begin, block block ..., end
//!                                                            ◀─ taken so many ──────┘ ◀─ staged
//!   raft tells the follower that it has it, entries behind it follow ─▶ the follower is as far: done
//! ```
//!
//! ```text
//!   frame = 0 | id u64 | what an image says of itself       begin: one shard, for the replica named there
//!         | 1 | id u64 | entries of the store               block
//!         | 2 | id u64                                      end
//! ```
//!
//! One is sent at a time, with at most [`AHEAD_MAX`] blocks that the other side has not taken: it writes them to its
//! disk, and clients of both sides have their turns in between. The log behind the image is kept until the follower
//! has come so far. Whatever goes wrong ends it, the loss of the link among it; raft asks again.

use std::time::Duration;

use crate::cluster::map::{NodeId, ReplicaId, shown};
use crate::failpoint::{self, Point};
use crate::odd::{self, Size};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;
use crate::shard::meta::{Meta, Part};
use crate::shard::section::HardState;

use super::super::Node;
use super::frames::Outcome;

/// Bit of an id that says that it is one of ours.
pub const ID_BIT: u64 = 1 << 63;

/// Entries that one turn looks at.
const SLICE_ENTRIES: usize = 1_000;
/// Bytes of a block.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks on their way.
const AHEAD_MAX: usize = 16;
/// How long nothing may happen.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Blocks are made.
    Imaging,
    /// The end was sent.
    Sent,
    /// The follower has everything; raft goes on from there.
    Staged,
}

/// A snapshot on its way.
pub struct Sending {
    id: u64,
    shard: u16,
    to: u64,
    part: Part,
    stage: Stage,
    sent: u64,
    taken: u64,
    /// Whether its next slice will come by itself.
    is_going_on: bool,
    /// When something last happened.
    active: Nanos,
}

/// What is sent, and was.
#[derive(Default)]
pub struct Sendings {
    now: Option<Sending>,
    count: u64,
}

/// At every tick: begins what raft wants, ends what has come to nothing.
pub fn tend(cx: &mut Cx<'_, Node>) {
    end_if_over(cx);
    let wanted = cx.app.keyspace.take_wanted();
    let is_busy = cx
        .app
        .cluster
        .as_ref()
        .is_none_or(|cluster| cluster.sendings.now.is_some());
    if is_busy {
        return;
    }
    let can_begin = |&(shard, _): &(u16, u64)| !cx.app.keyspace.is_imaging(shard);
    if let Some((shard, to)) = wanted.into_iter().find(can_begin) {
        begin(cx, shard, to);
    }
}

fn begin(cx: &mut Cx<'_, Node>, shard: u16, to: u64) {
    let now = cx.net.now();
    let node = &mut *cx.app;
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let receiver = ReplicaId(to).node();
    if cluster.link_to(receiver).is_none() {
        return;
    }
    cluster.sendings.count += 1;
    let id = ID_BIT | cluster.sendings.count;
    let mut part = node.keyspace.begin_sending(shard);
    part.replica = to;
    part.state = HardState {
        term: part.applied.term,
        vote: 0,
        commit: part.applied.index,
    };
    let meta = Meta {
        shards: node.keyspace.count(),
        parts: vec![part.clone()],
    };
    log::info!(
        "shard {}: sending a snapshot of {} keys to node {receiver}",
        shown(shard),
        part.keys
    );
    cluster.sendings.now = Some(Sending {
        id,
        shard,
        to,
        part,
        stage: Stage::Imaging,
        sent: 0,
        taken: 0,
        is_going_on: true,
        active: now,
    });
    failpoint::reach(Point::SendingBegun);
    say(node, &mut cx.net, receiver, 0, id, &meta.encode());
    cx.net.call_later(Duration::ZERO, move |cx| slice(cx, id));
}

/// Sends a frame to the receiver.
fn say(
    node: &mut Node,
    net: &mut crate::reactor::net::Net<'_, Node>,
    receiver: NodeId,
    kind: u8,
    id: u64,
    bytes: &[u8],
) {
    let mut frame = Vec::with_capacity(9 + bytes.len());
    frame.push(kind);
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(bytes);
    if let Some(link) = node
        .cluster
        .as_mut()
        .and_then(|cluster| cluster.link_to(receiver))
    {
        link.say(net, "SNAP", &frame);
    }
}

/// One turn's share of the image.
fn slice(cx: &mut Cx<'_, Node>, id: u64) {
    let node = &mut *cx.app;
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let Some(sending) = (cluster.sendings.now.as_mut()).filter(|sending| sending.id == id) else {
        return;
    };
    sending.is_going_on = false;
    let ahead_max = odd::or(Size::BlocksAhead, AHEAD_MAX) as u64;
    if sending.stage != Stage::Imaging || sending.sent - sending.taken >= ahead_max {
        return;
    }
    let (shard, receiver) = (sending.shard, ReplicaId(sending.to).node());
    let store = node.keyspace.shard_mut(shard).store_mut();
    let is_done = store.advance_image(odd::or(Size::ImageSlice, SLICE_ENTRIES));
    let (mut blocks, block_bytes) = (Vec::new(), odd::or(Size::ImageBlock, BLOCK_BYTES));
    while store.image_bytes() >= block_bytes || is_done && store.image_bytes() > 0 {
        blocks.push(store.take_image(block_bytes));
    }
    sending.sent += blocks.len() as u64;
    sending.is_going_on = !is_done;
    if is_done {
        sending.stage = Stage::Sent;
        let dropped = store.take_dropped();
        node.keyspace.add_dropped(dropped);
    }
    failpoint::reach(Point::PiecesSent);
    for block in blocks {
        say(node, &mut cx.net, receiver, 1, id, &block);
    }
    match is_done {
        true => say(node, &mut cx.net, receiver, 2, id, &[]),
        false => drop(cx.net.call_later(Duration::ZERO, move |cx| slice(cx, id))),
    }
}

/// The receiver has said something: how many blocks it has taken, or that everything is staged, or that it gives up.
pub fn answered(cx: &mut Cx<'_, Node>, id: u64, outcome: Outcome<'_>) {
    let now = cx.net.now();
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let Some(sending) = (cluster.sendings.now.as_mut()).filter(|sending| sending.id == id) else {
        return;
    };
    sending.active = now;
    match outcome {
        Outcome::Replied(taken) if taken.len() == 8 => {
            let taken = u64::from_le_bytes(std::array::from_fn(|at| taken[at]));
            sending.taken = taken.min(sending.sent);
            if !sending.is_going_on {
                slice(cx, id);
            }
        }
        Outcome::Replied(_) if sending.stage == Stage::Sent => {
            failpoint::reach(Point::ReceiverReady);
            sending.stage = Stage::Staged;
            let (shard, to, part) = (sending.shard, sending.to, sending.part.clone());
            cx.app
                .keyspace
                .shard_mut(shard)
                .has_staged(to, part.applied, part.members);
        }
        _ => end(cx, "the other side gave up"),
    }
}

/// Ends what is done, or has come to nothing.
fn end_if_over(cx: &mut Cx<'_, Node>) {
    let now = cx.net.now();
    let Some(sending) = cx
        .app
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.sendings.now.as_ref())
    else {
        return;
    };
    let (shard, to, index) = (sending.shard, sending.to, sending.part.applied.index);
    let is_silent = now.saturating_sub(sending.active) > SILENCE_MAX.as_nanos() as Nanos;
    let receiver = ReplicaId(to).node();
    let followers = cx.app.keyspace.shards()[cx.app.keyspace.index_of_number(shard)].followers();
    let matched = followers.iter().find(|follower| follower.replica == to);
    let is_done = matched.is_some_and(|follower| follower.matched >= index);
    let is_linked =
        (cx.app.cluster.as_mut()).is_some_and(|cluster| cluster.link_to(receiver).is_some());
    if is_done {
        end(cx, "done");
    } else if matched.is_none() || !is_linked || is_silent {
        end(cx, "given up");
    }
}

/// The link to a node was lost: what was sent, or answered, may be so as well, and the node may have forgotten what it
/// had.
pub fn lost(cx: &mut Cx<'_, Node>, receiver: NodeId) {
    let cluster = cx.app.cluster.as_ref();
    let sending = cluster.and_then(|cluster| cluster.sendings.now.as_ref());
    if sending.is_some_and(|sending| ReplicaId(sending.to).node() == receiver) {
        end(cx, "the link was lost");
    }
}

/// What a shard was is gone, and the image of it: another image of what it is now is not ours.
pub fn forget(node: &mut Node, shard: u16) {
    if let Some(cluster) = &mut node.cluster {
        cluster
            .sendings
            .now
            .take_if(|sending| sending.shard == shard);
    }
}

fn end(cx: &mut Cx<'_, Node>, how: &str) {
    let node = &mut *cx.app;
    let Some(sending) = node
        .cluster
        .as_mut()
        .and_then(|cluster| cluster.sendings.now.take())
    else {
        return;
    };
    failpoint::reach(Point::SendingEnded);
    let shard = node.keyspace.shard_mut(sending.shard);
    if sending.stage == Stage::Imaging {
        shard.store_mut().abandon_image();
        let dropped = shard.store_mut().take_dropped();
        node.keyspace.add_dropped(dropped);
    }
    let shard = node.keyspace.shard_mut(sending.shard);
    shard.end_sending();
    shard.report_unreachable(sending.to);
    log::info!(
        "shard {}: the snapshot for node {}: {how}",
        shown(sending.shard),
        ReplicaId(sending.to).node()
    );
}
