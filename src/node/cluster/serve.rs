//! Commands that other nodes pass on to the leader of their shard.
//!
//! They run as those of a client do, on behalf of the link's session; answers carry the id that the caller gave. What
//! this node cannot do (it does not lead, or not yet, or the keys are busy) goes back undone.

use crate::command::parse;
use crate::command::resolve;
use crate::command::row::Row;
use crate::command::table;
use crate::command::verb::Verb;
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::super::turn::{Next, Turn};
use super::super::{Node, dispatch, propose};
use super::frames::{self, Command, NO_TOUCH, Outcome};
use super::{incoming, membership, wait, wishes};

/// REPL FWD.
pub fn commands(turn: &mut Turn<'_, '_, '_>, frame: &[u8]) -> Next {
    if !incoming::is_peer(turn) {
        return Next::Go;
    }
    let mut rest = frame;
    while !rest.is_empty() {
        match frames::take_command(&mut rest) {
            Ok(command) => serve(turn, &command),
            Err(reason) => {
                log::warn!("a node passed commands on: {reason}; closed");
                return Next::Close;
            }
        }
    }
    Next::Go
}

/// Runs a command, or says why not.
fn serve(turn: &mut Turn<'_, '_, '_>, command: &Command) {
    let args = command.args.args();
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok());
    if super::is_handing(turn.node, command.shard) {
        return answer(turn.node, turn.me, command.id, Outcome::Again);
    }
    let Some(row) = row.filter(|_| is_ready(turn.node, command.shard)) else {
        let leader = turn.node.keyspace.leader(command.shard).unwrap_or(0);
        return answer(turn.node, turn.me, command.id, Outcome::Moved(leader));
    };
    let mut out = Vec::new();
    let (me, request_bytes) = (turn.me, command.args.bytes());
    let mut inner = Turn {
        node: turn.node,
        net: turn.net,
        reply: Reply::new(&mut out, command.dialect),
        me,
        request_bytes,
        quick: true,
        in_transaction: false,
        pushed: Vec::new(),
        serving: Some(command.id),
    };
    let next = run(&mut inner, row, args, command);
    inner.node.latches.release(me, inner.net);
    match next {
        Next::Deferred => {}
        Next::Go => answer(turn.node, me, command.id, Outcome::Replied(&out)),
        _ => answer(turn.node, me, command.id, Outcome::Again),
    }
}

fn is_ready(node: &Node, shard: u16) -> bool {
    node.keyspace.is_leader(shard) && !super::is_handing(node, shard)
}

fn run(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>, command: &Command) -> Next {
    if let Some(wish) = wishes::parse(row.verb, args) {
        return membership::wish(turn, &wish);
    }
    if row.verb == Verb::Wait {
        return wait::serve(turn, args, command.shard);
    }
    match parse::data(row, args, turn.node.at_ms) {
        Some(Ok(data)) if data.is_write() => propose::command(turn, row, &data, args),
        _ => {
            turn.node
                .keyspace
                .set_touching(command.flags & NO_TOUCH == 0);
            let next = dispatch::read(turn, row, args, command.shard);
            turn.node.keyspace.set_touching(true);
            next
        }
    }
}

/// Gives the caller of a link its answer, with the others of this turn.
pub fn answer(node: &mut Node, link: crate::reactor::id::ConnId, id: u64, outcome: Outcome<'_>) {
    if let Some(cluster) = &mut node.cluster {
        let frame = cluster.answers.entry(link).or_default();
        frames::put_answer(frame, id, outcome);
    }
}
