//! WAIT: how many other replicas have what a connection has written.
//!
//! A write that was answered is on a majority of its shard's replicas, so WAIT has to ask for more than Redis's does
//! before it waits at all. Who knows is the leader of the shard that the connection wrote to last: it knows up to which
//! entry of its log each follower has it. What was written is no later than the last entry at the time of asking.
//!
//! The leader looks again and again until there are enough, or the time is over: at most [`WAIT_MAX`], because whoever
//! passed the question on does not wait for ever. It answers only while it is sure that it leads; one that leads no
//! longer sends the question back to who passed it on.

use std::time::Duration;

use crate::command::parse::integer;
use crate::command::table;
use crate::command::verb::Verb;
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::Args;

use super::super::Node;
use super::super::client::Silence;
use super::super::commit::answer::deliver;
use super::super::turn::{Next, Turn};
use super::frames::Outcome;
use super::{forward, serve};

/// The longest wait: less than a command that was passed on may be unanswered.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between the first two looks; then twice as long, and so on.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Who asks.
#[derive(Clone, Copy)]
enum Asker {
    /// A client of this node, which expects the answer of this number.
    Client { number: u64, is_silent: bool },
    /// Another node, which has passed it on under this id.
    Node { id: u64 },
}

/// A question that is not answered.
#[derive(Clone, Copy)]
struct Waiting {
    asker: Asker,
    /// The connection on which it is asked.
    conn: ConnId,
    dialect: Dialect,
    shard: u16,
    /// The entry that followers are to have.
    index: u64,
    wanted: usize,
    until: Nanos,
}

/// WAIT of a client: `wanted` replicas, at most `ms` milliseconds, 0 being no limit.
pub fn wait(turn: &mut Turn<'_, '_, '_>, args: Args<'_>, wanted: i64, ms: u64) -> Next {
    let map = turn
        .node
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.map.as_ref());
    let others = map.map_or(0, |map| {
        usize::from(map.replicas)
            .min(map.nodes.len())
            .saturating_sub(1)
    });
    let Some(shard) = turn.client().wrote.filter(|_| !turn.in_transaction) else {
        turn.reply
            .count(if turn.in_transaction { 0 } else { others });
        return Next::Go;
    };
    if !turn.node.keyspace.is_leader(shard) {
        return match forward::command(turn, table::row(Verb::Wait), args, shard) {
            Next::Deferred => Next::Barrier,
            next => next,
        };
    }
    let is_silent = turn.client().silence != Silence::Off;
    let number = turn.client().replies.take();
    turn.client().awaiting += 1;
    turn.count(Verb::Wait);
    begin(turn, Asker::Client { number, is_silent }, shard, wanted, ms);
    Next::Barrier
}

/// WAIT that another node has passed on to the leader of a shard.
pub fn serve(turn: &mut Turn<'_, '_, '_>, args: Args<'_>, shard: u16) -> Next {
    let asked = (
        integer(args.at(1)),
        integer(args.at(2)),
        turn.serving.map(|serving| serving.id),
    );
    let (Ok(wanted), Ok(ms), Some(id)) = asked else {
        turn.reply.int(0);
        return Next::Go;
    };
    begin(turn, Asker::Node { id }, shard, wanted, ms.unsigned_abs());
    Next::Deferred
}

fn begin(turn: &mut Turn<'_, '_, '_>, asker: Asker, shard: u16, wanted: i64, ms: u64) {
    let limit = match ms {
        0 => WAIT_MAX,
        ms => WAIT_MAX.min(Duration::from_millis(ms)),
    };
    let waiting = Waiting {
        asker,
        conn: turn.me,
        dialect: turn.reply.dialect(),
        shard,
        index: turn.node.keyspace.shard_mut(shard).last_index(),
        wanted: usize::try_from(wanted).unwrap_or(0),
        until: turn.net.now() + limit.as_nanos() as Nanos,
    };
    // Not now: the session must first know that it waits.
    turn.net.call_later(Duration::ZERO, move |cx| {
        look(cx, waiting, PAUSE_FIRST);
    });
}

/// Answers, or looks again later.
fn look(cx: &mut Cx<'_, Node>, waiting: Waiting, pause: Duration) {
    if cx.app.clients.get(waiting.conn).is_none() {
        return;
    }
    if !cx.app.keyspace.is_leader(waiting.shard) {
        return give_back(cx, waiting);
    }
    let followers = cx.app.keyspace.shard_mut(waiting.shard).followers();
    let with_it = followers
        .iter()
        .filter(|follower| follower.matched >= waiting.index);
    let count = with_it.count();
    let is_sure = cx.app.keyspace.can_read(waiting.shard, cx.net.clock());
    if count >= waiting.wanted && is_sure || cx.net.now() >= waiting.until {
        return answer(cx, waiting, count);
    }
    let next = PAUSE_MAX.min(pause * 2);
    cx.net.call_later(pause, move |cx| look(cx, waiting, next));
}

fn answer(cx: &mut Cx<'_, Node>, waiting: Waiting, count: usize) {
    let mut out = Vec::new();
    Reply::new(&mut out, waiting.dialect).count(count);
    match waiting.asker {
        Asker::Node { id } => serve::answer(cx.app, waiting.conn, id, Outcome::Replied(&out)),
        Asker::Client { number, is_silent } => {
            let out = if is_silent { &[][..] } else { &out };
            deliver(cx, waiting.conn, number, out);
        }
    }
}

/// This node leads no longer, so that it does not know. What was answered is on a majority, unless its client did not
/// wait for that: that much is sure.
fn give_back(cx: &mut Cx<'_, Node>, waiting: Waiting) {
    match waiting.asker {
        Asker::Node { id } => {
            let leader = cx.app.keyspace.leader(waiting.shard).unwrap_or(0);
            serve::answer(cx.app, waiting.conn, id, Outcome::Moved(leader));
        }
        Asker::Client { .. } => {
            let members = cx.app.keyspace.members(waiting.shard).len();
            let is_early = (cx.app.clients.get(waiting.conn)).is_some_and(|it| it.is_early);
            answer(cx, waiting, if is_early { 0 } else { members / 2 });
        }
    }
}
