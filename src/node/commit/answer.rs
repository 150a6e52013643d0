//! The end of a batch: what it changes is applied, and who waits for it is answered, in the order of its items.
//!
//! The replies of one client are sent in the order of its commands. Within a batch that is the order of the items; over
//! batches, and with answers that come from other nodes, it is kept by [`Replies`](super::super::replies).

use crate::cluster::map::META;
use crate::command::{resolve, table};
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::net::Net;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::OwnedArgs;

use super::super::cluster::frames::Outcome;
use super::super::cluster::serve;
use super::super::keyspace::Touched;
use super::super::replies::CORK;
use super::super::session::Message;
use super::super::turn::{Next, Turn};
use super::super::{Node, Stopping, dispatch, latency, notify, propose, slowlog};
use super::{ANSWERED, Answer, Changes, EARLY, INNER, Item, NO_TOUCH, SERVED, SILENT, TIMED, Work};

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is as durable as was asked for.
    Kept,
    /// There is no space for it.
    Refused,
    /// Its shard has another leader: it was not done.
    Moved,
    /// Its shard has another leader, which may have done it or not.
    Unknown,
}

/// What is answered when nothing was done because the leader of the shard is another one now.
const MOVED: &str = "TRYAGAIN the shard has another leader now: nothing was done";
/// What is answered when nobody can tell.
const UNKNOWN: &str = "UNKNOWN the leader of the shard was lost: the write was done or will never be, \
                       nobody here can tell";

/// Applies and answers all of a batch.
pub(super) fn conclude(cx: &mut Cx<'_, Node>, mut items: Vec<Item>, fate: Fate) {
    // The meter's runs are the batch's: the clock is read for it, and not for each client in it.
    let now = cx.net.clock();
    cx.app.end_run(now);
    if fate != Fate::Kept {
        note_lost(cx.app, &items);
    }
    failpoint::reach(Point::BatchEnded);
    let mut rest = items.as_slice();
    while let Some(first) = rest.first() {
        let same = |item: &Item| item.conn == first.conn;
        let run = rest.iter().take_while(|item| same(item)).count();
        answer(cx, first.conn, &rest[..run], fate);
        rest = &rest[run..];
    }
    let now = cx.net.clock();
    cx.app.end_run(now);
    items.clear();
    cx.app.commits.recycle(items);
    cx.app.latches.retry(&cx.app.commits, &mut cx.net);
}

/// Writes that were answered although no other replica had them are not done, or nobody knows.
fn note_lost(node: &mut Node, items: &[Item]) {
    let is_answered = |item: &&Item| item.flags & ANSWERED != 0;
    let count = items.iter().filter(is_answered).count() as u64;
    if count > 0 {
        node.stats.early_lost += count;
        log::warn!(
            "{count} writes that this node alone had acknowledged (CLIENT ACK LEADER) may be lost"
        );
    }
}

/// Applies and answers items of one client that follow each other.
fn answer(cx: &mut Cx<'_, Node>, conn: ConnId, items: &[Item], fate: Fate) {
    let mut out = std::mem::take(&mut cx.app.scratch.replies);
    let is_there = cx.app.clients.get(conn).is_some();
    let dialect = items.first().map_or(Dialect::Resp2, |item| item.dialect);
    let bytes_max = cx.app.options.output_bytes_max;
    let mut turn = Turn {
        node: cx.app,
        net: &mut cx.net,
        reply: Reply::new(&mut out, dialect).limited(bytes_max),
        me: conn,
        request_bytes: 0,
        quick: true,
        in_transaction: false,
        pushed: Vec::new(),
        serving: None,
    };
    // Where the command at hand begins in the replies, and its number; parts of a transaction that are still to come.
    let (mut begin, mut number, mut parts) = (0, 0, 0);
    let is_moved = fate == Fate::Moved;
    let mut is_closing = false;
    for item in items {
        if !turn.in_transaction {
            (begin, number) = (turn.reply.len(), item.number);
            turn.reply.set_dialect(item.dialect);
        }
        is_closing |= one(&mut turn, item, is_there, fate) == Next::Close;
        if let Work::Exec(count) = item.work {
            parts = count;
            turn.in_transaction = true;
        } else if turn.in_transaction {
            parts -= 1;
        }
        if parts == 0 {
            turn.in_transaction = false;
            if item.flags & (SILENT | ANSWERED) != 0 {
                turn.reply.truncate(begin);
            }
            let pushed = std::mem::take(&mut turn.pushed);
            turn.reply.raw(&pushed);
            if item.flags & ANSWERED == 0 {
                put_in_order(&mut turn, item, (number, begin), is_moved);
            }
        }
    }
    failpoint::reach(Point::ClientServed);
    let is_cut = turn.reply.is_cut();
    drop(turn);
    if is_cut {
        log::warn!("a client asked for a reply beyond client-output-limit; cut off");
        cx.net.abort(conn);
    } else if is_there {
        write(cx, conn, &mut out);
        failpoint::reach(Point::ClientAnswered);
        if is_closing {
            cx.net.lose(conn);
        }
    }
    out.clear();
    cx.app.scratch.replies = out;
    answered(cx, conn, items.len() as u32);
}

/// Commands of a client have been answered.
fn answered(cx: &mut Cx<'_, Node>, conn: ConnId, count: u32) {
    let client = cx.app.clients.get_mut(conn);
    let Some(client) = client.filter(|client| client.calling.is_none()) else {
        return;
    };
    client.awaiting -= count;
    if client.awaiting == 0 {
        (client.awaiting_bytes, client.awaiting_longest) = (0, 0);
        if std::mem::take(&mut client.settling) {
            cx.net.post(conn, Message::Settled);
        }
    }
}

/// Answers those who wait for this node alone. They still count as awaited.
pub(super) fn answer_early(cx: &mut Cx<'_, Node>, items: &mut [Item]) {
    let mut out = std::mem::take(&mut cx.app.scratch.replies);
    for item in items.iter_mut().filter(|item| item.flags & EARLY != 0) {
        item.flags ^= EARLY | ANSWERED;
        out.clear();
        if item.flags & SILENT == 0 {
            Reply::new(&mut out, item.dialect).ok();
        }
        match item.flags & SERVED {
            0 => send(cx, item.conn, item.number, &out),
            _ => serve::answer(cx.app, item.conn, item.number, Outcome::Replied(&out)),
        }
    }
    out.clear();
    cx.app.scratch.replies = out;
}

/// Gives a client the answer of this number, which came from elsewhere.
pub fn deliver(cx: &mut Cx<'_, Node>, conn: ConnId, number: u64, reply: &[u8]) {
    failpoint::reach(Point::AnswerCameBack);
    send(cx, conn, number, reply);
    answered(cx, conn, 1);
}

/// Sends a client the answer of this number, in its order.
fn send(cx: &mut Cx<'_, Node>, conn: ConnId, number: u64, reply: &[u8]) {
    let Some(client) = cx.app.clients.get_mut(conn) else {
        return;
    };
    if !client.replies.is_next(number) {
        return client.replies.keep(number, reply);
    }
    let mut out = std::mem::take(&mut cx.app.scratch.passed_on);
    out.extend_from_slice(reply);
    client.replies.go_on(&mut out);
    write(cx, conn, &mut out);
    out.clear();
    cx.app.scratch.passed_on = out;
}

/// Sends a client what is next for it, or corks it until the rest of its burst has come.
fn write(cx: &mut Cx<'_, Node>, conn: ConnId, out: &mut Vec<u8>) {
    let node = &mut *cx.app;
    let may_wait = node.commits.is_split() && node.stopping == Stopping::No;
    let client = node.clients.get_mut(conn).filter(|_| may_wait);
    if client.is_some_and(|client| client.calling.is_none() && client.replies.cork(out)) {
        if node.corks.add(conn) {
            cx.net.call_later(CORK, tend_corks);
        }
    } else {
        cx.net.write_buf_to(conn, out);
    }
}

/// Sends what has been corked for long enough.
fn tend_corks(cx: &mut Cx<'_, Node>) {
    if uncork(cx.app, &mut cx.net) {
        cx.net.call_later(CORK, tend_corks);
    }
}

/// Sends what has been corked for a while; whether there is more. What is said twice leaves nothing corked.
pub fn uncork(node: &mut Node, net: &mut Net<'_, Node>) -> bool {
    let (over, is_more) = node.corks.look();
    for conn in over {
        let client = node.clients.get_mut(conn);
        let mut corked = client.map_or_else(Vec::new, |client| client.replies.uncork());
        if !corked.is_empty() {
            failpoint::reach(Point::RepliesUncorked);
            net.write_buf_to(conn, &mut corked);
        }
    }
    is_more
}

/// Sees to it that the reply of this number, which begins at `begin`, is sent in its order. `last` is the item that it
/// ends with; `is_moved`: nothing was done.
fn put_in_order(
    turn: &mut Turn<'_, '_, '_>,
    last: &Item,
    (number, begin): (u64, usize),
    is_moved: bool,
) {
    let Some(client) = turn.node.clients.get_mut(turn.me) else {
        return;
    };
    if client.calling.is_some() {
        if is_moved {
            serve::refuse(turn.node, turn.me, last.shard, number);
            return turn.reply.truncate(begin);
        }
        let reply = turn.reply.written_from(begin);
        serve::answer(turn.node, turn.me, number, Outcome::Replied(reply));
        return turn.reply.truncate(begin);
    }
    if client.replies.is_next(number) {
        client.replies.go_on(turn.reply.out());
    } else {
        client.replies.keep(number, turn.reply.written_from(begin));
        turn.reply.truncate(begin);
    }
}

/// Applies and answers one item; how its session is to go on.
fn one(turn: &mut Turn<'_, '_, '_>, item: &Item, is_there: bool, fate: Fate) -> Next {
    let (before, errors) = (turn.reply.len(), turn.reply.errors());
    if item.flags & TIMED != 0 {
        turn.end_run();
    }
    if item.flags & NO_TOUCH != 0 {
        turn.node.keyspace.set_touching(false);
    }
    let mut next = Next::Go;
    match &item.work {
        work if fate != Fate::Kept && !is_alone(work, turn.in_transaction) => {
            refuse(turn, work, fate);
        }
        Work::Change { slot } => change(turn, *slot),
        Work::Changes(changes) => several(turn, changes),
        Work::Flush => flush(turn, None),
        Work::FlushShard(shard) => flush(turn, Some(*shard)),
        // Who leads no longer does not know what can be read.
        Work::Run(_) if matches!(fate, Fate::Moved | Fate::Unknown) => turn.reply.error(MOVED),
        Work::Run(args) if is_there && item.flags & SERVED != 0 => {
            turn.node.keyspace.restrict(Some(item.shard));
            next = run(turn, args);
            turn.node.keyspace.restrict(None);
        }
        Work::Run(args) if is_there => next = run(turn, args),
        Work::Run(_) => {}
        Work::Exec(count) => turn.reply.array(*count),
        Work::Map => map(turn),
    }
    if turn.node.touched.recording {
        notify::tell_touched(turn);
    }
    if item.flags & NO_TOUCH != 0 {
        turn.node.keyspace.set_touching(true);
    }
    if item.flags & (INNER | SERVED) == 0 {
        if turn.reply.errors() != errors {
            turn.count_error(item.verb, before);
        }
        turn.count(item.verb);
    }
    if item.flags & TIMED != 0 {
        consider(turn, item, is_there);
    }
    next
}

/// Ends the measurement of a command that was timed alone.
fn consider(turn: &mut Turn<'_, '_, '_>, item: &Item, is_there: bool) {
    let took_us = turn.end_run() / 1_000;
    let row = table::row(item.verb);
    latency::consider(turn, row, took_us);
    if let Some(typed) = item.typed.as_ref().filter(|_| is_there) {
        slowlog::consider(turn, row, typed.args(), took_us);
    }
}

/// Whether an item answers for itself alone, and changes nothing.
fn is_alone(work: &Work, in_transaction: bool) -> bool {
    matches!(work, Work::Run(_)) && !in_transaction
}

/// Takes back that changes are under way, which are not to be. The parts of a transaction have no answers.
fn refuse(turn: &mut Turn<'_, '_, '_>, work: &Work, fate: Fate) {
    let commits = &mut turn.node.commits;
    match work {
        Work::Change { slot } => commits.settle(*slot),
        Work::Changes(changes) => changes.slots.iter().for_each(|&slot| commits.settle(slot)),
        Work::Flush | Work::FlushShard(_) => commits.settle_flush(),
        Work::Run(_) | Work::Exec(_) | Work::Map => {}
    }
    if !turn.in_transaction {
        turn.reply.error(match fate {
            Fate::Kept | Fate::Refused => propose::NO_SPACE_LEFT,
            Fate::Moved => MOVED,
            Fate::Unknown if planted::is(Bug::UnknownToldUndone) => MOVED,
            Fate::Unknown => UNKNOWN,
        });
    }
}

fn change(turn: &mut Turn<'_, '_, '_>, slot: u16) {
    let node = &mut *turn.node;
    node.commits.settle(slot);
    node.keyspace
        .apply_next(slot, &mut turn.reply, &mut node.touched);
}

fn several(turn: &mut Turn<'_, '_, '_>, changes: &Changes) {
    let mut deleted = 0;
    let mut unread = Vec::new();
    for &slot in &changes.slots {
        let node = &mut *turn.node;
        node.commits.settle(slot);
        unread.clear();
        let mut silent = Reply::new(&mut unread, Dialect::Resp2);
        let was_there = node
            .keyspace
            .apply_next(slot, &mut silent, &mut node.touched);
        deleted += i64::from(was_there);
    }
    match &changes.answer {
        Answer::Ok => turn.reply.ok(),
        Answer::Int(number) => turn.reply.int(*number),
        Answer::Deleted => turn.reply.int(deleted),
        Answer::Error(text) => turn.reply.error(text),
    }
}

fn map(turn: &mut Turn<'_, '_, '_>) {
    let node = &mut *turn.node;
    let index = node.keyspace.index_of_number(META);
    node.keyspace.apply_entry(index, &mut Touched::default());
    turn.reply.ok();
}

fn flush(turn: &mut Turn<'_, '_, '_>, only: Option<u16>) {
    let node = &mut *turn.node;
    node.commits.settle_flush();
    node.keyspace.apply_flush(only);
    node.touched.writes += 1;
    turn.reply.ok();
}

fn run(turn: &mut Turn<'_, '_, '_>, args: &OwnedArgs) -> Next {
    let args = args.args();
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok());
    row.map_or(Next::Go, |row| dispatch::run_now(turn, row, args))
}
