//! Where a client's command is to be run: here, by the leader of its shard, by several, or nowhere.

use crate::command::data::{Command, Many};
use crate::command::parse;
use crate::command::row::{Keys, Row, flag};
use crate::command::verb::Verb;
use crate::planted::{self, Bug};
use crate::wire::request::Args;

use super::super::keyspace;
use super::super::propose;
use super::super::turn::{Next, Turn};
use super::super::{Node, dispatch};
use super::{forward, founding, gather, view};

/// What is answered to commands whose keys are in several shards and that must be done as one.
pub const CROSSSLOT: &str =
    "CROSSSLOT Keys in request don't hash to the same shard: give them a common {tag}";

/// Sees to a command on keys, if it is not to be simply run here.
pub fn route(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Option<Next> {
    let of_slot = view::shard_of(turn.node, row, args);
    if of_slot.is_none() && !row.is(flag::WRITE | flag::READONLY) {
        return None;
    }
    let is_of_all = is_of_all_keys(row.verb);
    if of_slot.is_none() && row.keys == Keys::NONE && !is_of_all {
        return (turn.client().awaiting > 0).then_some(Next::Settle);
    }
    if is_waiting(turn.node) {
        return Some(refuse(turn, &founding::waiting(turn.node)));
    }
    if is_of_all {
        return all_keys(turn, row, args);
    }
    let Some(shard) = of_slot.or_else(|| shard_of(turn.node, row, args)) else {
        return Some(match gather::is_divisible(row.verb) {
            true if propose::has_enough(turn) || is_any_taken(turn, row.is(flag::WRITE)) => {
                Next::Settle
            }
            true if !row.is(flag::WRITE) && planted::is(Bug::GatherStale) => stale(turn, row, args),
            true => gather::by_keys(turn, row, args),
            false => refuse(turn, CROSSSLOT),
        });
    };
    if row.is(flag::WRITE) {
        turn.client().wrote = Some(shard);
    } else if may_be_stale(turn, shard) {
        return Some(stale(turn, row, args));
    }
    let stays = !super::is_handing(turn.node, shard)
        || !row.is(flag::WRITE) && planted::is(Bug::TransferReads);
    let is_led = turn.node.keyspace.is_leader(shard) && stays;
    if !is_led || has_forwarded(turn.node, shard) {
        return Some(match is_taken(turn, shard) {
            true => Next::Settle,
            false => forward::command(turn, row, args, shard),
        });
    }
    match row.is(flag::WRITE) {
        true => None,
        false => Some(dispatch::read(turn, row, args, shard)),
    }
}

/// Whether a read may be answered by this node's replica of a shard, whoever leads: the client said READONLY.
fn may_be_stale(turn: &mut Turn<'_, '_, '_>, shard: u16) -> bool {
    let takes_stale = turn.client().takes_stale || planted::is(Bug::FollowerRead);
    takes_stale && !turn.node.keyspace.is_vacant(shard)
}

/// Answers a read by what this node knows, behind all that the client has asked before.
fn stale(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    match turn.client().awaiting {
        0 => dispatch::run_now(turn, row, args),
        _ => Next::Settle,
    }
}

/// A command about all keys; one that is wrong is run here, and so refused.
fn all_keys(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Option<Next> {
    let shards = turn.node.keyspace.count();
    let cursor_shard = match parse::data(row, args, turn.node.at_ms) {
        Some(Ok(Command::Many(Many::Scan { cursor, .. }))) => Some(keyspace::cursor_shard(cursor)),
        Some(Ok(_)) => None,
        _ => return (turn.client().awaiting > 0).then_some(Next::Settle),
    };
    if propose::has_enough(turn) || is_any_taken(turn, row.is(flag::WRITE)) {
        return Some(Next::Settle);
    }
    match cursor_shard {
        None => Some(gather::by_shards(turn, row, args)),
        Some(shard) if shard < shards => Some(forward::command(turn, row, args, shard)),
        Some(_) => (turn.client().awaiting > 0).then_some(Next::Settle),
    }
}

/// Whether there is no cluster yet.
pub fn is_waiting(node: &Node) -> bool {
    let cluster = node.cluster.as_ref();
    cluster.is_none_or(|cluster| cluster.map.is_none())
}

/// Whether commands for a shard were passed on and are not answered: what is run here now would be before them.
fn has_forwarded(node: &Node, shard: u16) -> bool {
    let cluster = node.cluster.as_ref();
    cluster.is_some_and(|cluster| cluster.forwards.has_some(shard))
}

/// Whether something for a shard that this node took as its leader is not answered, the client's own maybe: if it leads
/// no longer, or is about to find that out, that will be passed on later, and what is passed on now would come before.
fn is_taken(turn: &mut Turn<'_, '_, '_>, shard: u16) -> bool {
    turn.client().awaiting > 0 && !turn.node.commits.is_shard_idle(shard)
}

/// The same for any shard; of those that this node leads only what is written is to come behind what was taken.
fn is_any_taken(turn: &mut Turn<'_, '_, '_>, is_write: bool) -> bool {
    let mut shards = 0..turn.node.keyspace.count();
    shards.any(|shard| (is_write || !turn.node.keyspace.is_leader(shard)) && is_taken(turn, shard))
}

/// The one shard that all keys of a command are in.
pub fn shard_of(node: &Node, row: &Row, args: Args<'_>) -> Option<u16> {
    let mut positions = row.keys.positions(args.len());
    let first = positions
        .next()
        .map(|at| node.keyspace.shard_of(args.at(at)))?;
    positions
        .all(|at| node.keyspace.shard_of(args.at(at)) == first)
        .then_some(first)
}

fn refuse(turn: &mut Turn<'_, '_, '_>, text: &str) -> Next {
    if turn.client().awaiting > 0 {
        return Next::Settle;
    }
    turn.reply.error(text);
    Next::Go
}

/// Whether a command is about all keys there are.
pub fn is_of_all_keys(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Dbsize | Verb::Keys | Verb::Scan | Verb::Randomkey | Verb::Flushall | Verb::Flushdb
    )
}
