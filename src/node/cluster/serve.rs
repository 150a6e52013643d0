//! Commands that other nodes pass on to the leader of their shard.
//!
//! They run as those of a client do, on behalf of the link's session; answers carry the id that the caller gave. What
//! this node cannot do, because it does not lead, or not yet, goes back undone; and with it all that the caller sends
//! until it knows ([`FRESH`]), so that nothing is done before what came before it.
//!
//! ```text
//!   link ─▶ command ─┬─▶ run ─▶ answer
//!                    ├─▶ keys are busy, or the shard is being handed over: parked,
//!                    │   and behind it all of the same link for the same shard
//!                    └─▶ another leads: back
//! ```
//!
//! A command that must see its keys idle ([`latch`](super::super::latch)) is parked until they are. It holds a
//! reservation like any other; one for each link and shard, since only the first in a row can be waiting for keys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::parse;
use crate::command::resolve;
use crate::command::row::Row;
use crate::command::table;
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::net::Net;
use crate::wire::reply::Reply;
use crate::wire::request::OwnedArgs;

use super::super::latch::Holder;
use super::super::turn::{Next, Serving, Turn};
use super::super::{Node, ahead, dispatch, propose};
use super::frames::{self, ANY, Command, EARLY, FRESH, Head, NO_TOUCH, Outcome};
use super::{incoming, membership, spread, transact, wait, wishes};

/// What is answered to a command that no node should have passed on.
const NOT_PASSED_ON: &str = "ERR this command cannot be passed on to another node";

/// The commands of other nodes that are not run yet.
#[derive(Default)]
pub struct Served {
    /// By link and shard: the first waits for its keys, the others for it.
    parked: BTreeMap<(ConnId, u16), VecDeque<Parked>>,
    /// Links and shards for which everything goes back.
    refusing: BTreeSet<(ConnId, u16)>,
}

/// A command that waits, with what was typed.
struct Parked(Head, OwnedArgs);

impl Parked {
    fn new(command: &Command<'_>) -> Parked {
        Parked(command.head, OwnedArgs::copy(command.args))
    }

    fn command(&self) -> Command<'_> {
        Command {
            head: self.0,
            args: self.1.args(),
        }
    }
}

impl Served {
    /// How many commands of other nodes wait.
    pub fn waiting(&self) -> usize {
        self.parked.values().map(VecDeque::len).sum()
    }

    /// A link is gone: what it asked for will never be done.
    pub fn forget(&mut self, link: ConnId) {
        self.parked.retain(|&(conn, _), _| conn != link);
        self.refusing.retain(|&(conn, _)| conn != link);
    }
}

/// REPL FWD.
pub fn commands(turn: &mut Turn<'_, '_, '_>, frame: &[u8]) -> Next {
    if !incoming::is_peer(turn) {
        return Next::Go;
    }
    let mut ranges = std::mem::take(&mut turn.node.scratch.ranges);
    let (mut rest, mut seen) = (frame, frame.len());
    while !rest.is_empty() {
        if rest.len() <= seen {
            seen = ahead::look_ahead_of(turn.node, rest);
        }
        match frames::take_command(&mut rest, &mut ranges) {
            Ok(command) if command.head.shard == ANY => spread::serve(turn, &command),
            Ok(command) => serve(turn, &command),
            Err(reason) => {
                log::warn!("a node passed commands on: {reason}; closed");
                return Next::Close;
            }
        }
    }
    turn.node.scratch.ranges = ranges;
    Next::Go
}

/// Runs a command, unless others of its link are before it.
fn serve(turn: &mut Turn<'_, '_, '_>, command: &Command<'_>) {
    let at = (turn.me, command.head.shard);
    let Some(served) = served(turn.node) else {
        return;
    };
    if command.head.flags & FRESH != 0 && !served.refusing.is_empty() {
        served.refusing.remove(&at);
    }
    failpoint::reach(Point::CommandHeard);
    if let Some(parked) = served.parked.get_mut(&at) {
        return parked.push_back(Parked::new(command));
    }
    let is_done = attempt(turn.node, turn.net, turn.me, command);
    if let Some(served) = self::served(turn.node).filter(|_| !is_done) {
        failpoint::reach(Point::CommandParked);
        let parked = served.parked.entry(at).or_default();
        parked.push_back(Parked::new(command));
    }
}

fn served(node: &mut Node) -> Option<&mut Served> {
    Some(&mut node.cluster.as_mut()?.served)
}

/// Runs what is parked and need not wait any more; whether there was any.
pub fn resume(cx: &mut Cx<'_, Node>) -> bool {
    let Some(served) = served(cx.app).filter(|served| !served.parked.is_empty()) else {
        return false;
    };
    let mut has_run = false;
    for (at, mut commands) in std::mem::take(&mut served.parked) {
        while let Some(first) = commands.front()
            && attempt(cx.app, &mut cx.net, at.0, &first.command())
        {
            commands.pop_front();
            has_run = true;
        }
        if let Some(served) = self::served(cx.app).filter(|_| !commands.is_empty()) {
            served.parked.insert(at, commands);
        }
    }
    has_run
}

/// Runs a command, or says why not; false if it is to wait: its keys are busy, or its shard is being handed over.
fn attempt(node: &mut Node, net: &mut Net<'_, Node>, link: ConnId, command: &Command<'_>) -> bool {
    let Head {
        id,
        shard,
        dialect,
        flags,
    } = command.head;
    let is_refusing = served(node).is_some_and(|served| served.refusing.contains(&(link, shard)));
    let is_refusing = is_refusing && !planted::is(Bug::RefusingForgotten);
    let is_leader = node.keyspace.is_leader(shard) && !is_refusing;
    if is_leader && super::is_handing(node, shard) {
        return false;
    }
    if !is_leader {
        node.latches.release(Holder { conn: link, shard }, net);
        refuse(node, link, shard, id);
        return true;
    }
    let mut out = std::mem::take(&mut node.scratch.passed_on);
    let request_bytes = command.args.iter().map(<[u8]>::len).sum();
    let mut inner = Turn {
        node,
        net,
        reply: Reply::new(&mut out, dialect),
        me: link,
        request_bytes,
        quick: true,
        in_transaction: false,
        pushed: Vec::new(),
        serving: Some(Serving {
            id,
            shard,
            no_touch: flags & NO_TOUCH != 0,
            is_early: flags & EARLY != 0,
        }),
    };
    let next = run(&mut inner, command);
    match next {
        Next::Deferred | Next::Latched => {}
        Next::Go => answer(node, link, id, Outcome::Replied(&out)),
        _ => {
            out.clear();
            Reply::new(&mut out, dialect).error(NOT_PASSED_ON);
            answer(node, link, id, Outcome::Replied(&out));
        }
    }
    out.clear();
    node.scratch.passed_on = out;
    next != Next::Latched
}

fn run(turn: &mut Turn<'_, '_, '_>, command: &Command<'_>) -> Next {
    let args = command.args;
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok());
    let Some(row) = row else {
        turn.reply.error_bytes(&resolve::unknown(args));
        return Next::Go;
    };
    if let Some(wish) = wishes::parse(row.verb, args) {
        return membership::wish(turn, &wish);
    }
    match row.verb {
        Verb::Wait => wait::serve(turn, args, command.head.shard),
        Verb::Exec => transact::serve_exec(turn, args),
        Verb::Watch => transact::serve_watch(turn, args),
        Verb::Unwatch => transact::serve_unwatch(turn, args),
        _ => on_keys(turn, row, command),
    }
}

fn on_keys(turn: &mut Turn<'_, '_, '_>, row: &'static Row, command: &Command<'_>) -> Next {
    let (Head { shard, flags, .. }, args) = (command.head, command.args);
    match parse::data(row, args, turn.node.at_ms) {
        Some(Ok(data)) if data.is_write() => propose::command(turn, row, &data, args),
        Some(_) => {
            turn.node.keyspace.set_touching(flags & NO_TOUCH == 0);
            turn.node.keyspace.restrict(Some(shard));
            let next = dispatch::read(turn, row, args, shard);
            turn.node.keyspace.restrict(None);
            turn.node.keyspace.set_touching(true);
            next
        }
        None => dispatch::read(turn, row, args, shard),
    }
}

/// Gives the caller of a link its answer, with the others of this turn.
pub fn answer(node: &mut Node, link: ConnId, id: u64, outcome: Outcome<'_>) {
    if let Some(cluster) = &mut node.cluster
        && id != 0
    {
        failpoint::reach(Point::CommandAnswered);
        let frame = cluster.answers.entry(link).or_default();
        frames::put_answer(frame, id, outcome);
    }
}

/// Sends a command back undone, and from now on all of the same link for the same shard.
pub fn refuse(node: &mut Node, link: ConnId, shard: u16, id: u64) {
    failpoint::reach(Point::CommandRefused);
    let leader = node.keyspace.leader(shard).unwrap_or(0);
    if let Some(served) = served(node) {
        served.refusing.insert((link, shard));
    }
    answer(node, link, id, Outcome::Moved(leader));
}
