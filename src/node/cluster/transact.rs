//! Transactions and watches in a cluster: they are where their keys are led.
//!
//! ```text
//!   WATCH k    ─▶ WATCH client k          ─▶ leader: remembers it for the link and the client
//!   MULTI, SET k v, GET k                    (kept here)
//!   EXEC       ─▶ EXEC client SET.. GET.. ─▶ leader: the changes of all in one entry of the shard, or nil
//! ```
//!
//! - All keys of a transaction and its watched ones are in one shard: a command that would break this is refused when
//!   it is typed, and breaks the transaction. Nothing is done then.
//! - Commands without keys run on the leader's node if it does not matter where they run, else only in transactions
//!   without any keys, which run here.
//! - A watch holds as long as the link that it was said on, and as long as the leader leads, in the same term. When
//!   either has changed, it is broken: EXEC answers nil.
//! - The name of a client is its number on its node: 8 bytes, little-endian; none, if it watches nothing.

use crate::command::row::{Keys, Row, flag};
use crate::command::table;
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::reply::Dialect;
use crate::wire::request::{Args, OwnedArgs};

use super::super::transaction::{self, Transaction, Watcher};
use super::super::turn::{Next, Turn};
use super::super::{Node, notify, propose};
use super::forward::{self, Asker, Errand};
use super::{founding, frames, route};

/// What is answered to keys in another shard than those before.
const CROSSSLOT: &str =
    "CROSSSLOT Keys in a transaction don't hash to the same shard: give them a common {tag}";
/// What is answered to commands about all keys.
const ALL_KEYS: &str =
    "CROSSSLOT Command about all keys not allowed inside a transaction: they are in several shards";
/// What is answered to commands that would run on another node than the client's.
const NOT_HERE: &str =
    "ERR Command not allowed inside a transaction with keys: those may be led by another node";

/// Why a command cannot be queued, if it cannot; else the transaction is as if it were.
pub fn queue(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>) -> Option<String> {
    turn.node.cluster.as_ref()?;
    if route::is_of_all_keys(row.verb) {
        return Some(ALL_KEYS.to_owned());
    }
    let shard = match row.keys == Keys::NONE || !row.is(flag::WRITE | flag::READONLY) {
        true => None,
        false if route::is_waiting(turn.node) => return Some(founding::waiting(turn.node)),
        false => match route::shard_of(turn.node, row, args) {
            None => return Some(route::CROSSSLOT.to_owned()),
            shard => shard,
        },
    };
    let watched = watched_shard(turn);
    let transaction = turn.client().transaction.as_mut()?;
    let of_keys = transaction.shard.or(watched);
    match shard {
        None if is_portable(row.verb) => None,
        None if of_keys.is_some() => Some(NOT_HERE.to_owned()),
        None => {
            transaction.is_local = true;
            None
        }
        Some(_) if transaction.is_local => Some(NOT_HERE.to_owned()),
        Some(shard) if of_keys.is_some_and(|before| before != shard) => Some(CROSSSLOT.to_owned()),
        shard => {
            transaction.shard = shard;
            None
        }
    }
}

/// Whether it does not matter on which node a command without keys runs.
fn is_portable(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Ping | Verb::Echo | Verb::Publish | Verb::Time | Verb::Select
    )
}

/// The shard of the keys that the client at hand watches.
fn watched_shard(turn: &mut Turn<'_, '_, '_>) -> Option<u16> {
    let client = turn.node.clients.get(turn.me)?;
    let key = client.watched.keys().next()?;
    Some(turn.node.keyspace.shard_of(key))
}

fn name_of(turn: &mut Turn<'_, '_, '_>) -> [u8; 8] {
    turn.client().id.to_le_bytes()
}

/// EXEC of a transaction with keys, or behind WATCH; `None`: it runs here.
pub fn exec(turn: &mut Turn<'_, '_, '_>, transaction: &Transaction) -> Option<Next> {
    turn.node.cluster.as_ref()?;
    let watched = watched_shard(turn);
    let shard = transaction.shard.or(watched)?;
    let name = name_of(turn);
    let mut args = frames::words(&[b"EXEC", if watched.is_some() { &name } else { &[] }]);
    let mut part = Vec::new();
    for queued in transaction.queued() {
        part.clear();
        frames::put_args(&mut part, queued);
        args.push(&part);
    }
    failpoint::reach(Point::TransactionPassedOn);
    // The leader forgets them with EXEC.
    turn.client().watched.clear();
    turn.client().wrote = Some(shard);
    Some(forward::whole(turn, Verb::Exec, args.args(), shard, true))
}

/// WATCH; `None`: it is said to a node that is alone.
pub fn watch(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Option<Next> {
    turn.node.cluster.as_ref()?;
    if route::is_waiting(turn.node) {
        let text = founding::waiting(turn.node);
        turn.reply.error(&text);
        return Some(Next::Go);
    }
    let shard = route::shard_of(turn.node, table::row(Verb::Watch), args);
    let before = watched_shard(turn);
    let shard = shard.filter(|&shard| before.is_none_or(|before| before == shard));
    let Some(shard) = shard else {
        turn.reply.error(CROSSSLOT);
        return Some(Next::Go);
    };
    let name = name_of(turn);
    let mut command = frames::words(&[b"WATCH", &name]);
    for key in args.skip(1).iter() {
        turn.client().watched.insert(key.into(), false);
        command.push(key);
    }
    Some(forward::whole(
        turn,
        Verb::Watch,
        command.args(),
        shard,
        false,
    ))
}

/// Ends the watches of a client at the leader of their keys.
pub fn forget(node: &mut Node, now: Nanos, conn: ConnId) {
    if node.cluster.is_none() {
        return;
    }
    let Some(client) = node.clients.get_mut(conn) else {
        return;
    };
    let (id, watched) = (client.id, std::mem::take(&mut client.watched));
    let Some(key) = watched.keys().next() else {
        return;
    };
    let shard = node.keyspace.shard_of(key);
    let args = frames::words(&[b"UNWATCH", &id.to_le_bytes()]);
    let errand = Errand {
        asker: Asker::Nobody,
        dialect: Dialect::Resp2,
        flags: 0,
        args: frames::encoded(args.args()),
    };
    forward::pass_on(node, now, shard, false, errand);
}

/// The client of the caller that a command names.
fn watcher(turn: &Turn<'_, '_, '_>, name: &[u8]) -> Option<Watcher> {
    let id = u64::from_le_bytes(name.try_into().ok()?);
    Some(Watcher { conn: turn.me, id })
}

/// WATCH of another node's client.
pub fn serve_watch(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let (Some(watcher), Some(serving)) = (watcher(turn, args.at(1)), turn.serving) else {
        turn.reply.error("ERR WATCH names no client");
        return Next::Go;
    };
    failpoint::reach(Point::WatchServed);
    let node = &mut *turn.node;
    let term = node.keyspace.term(serving.shard);
    for key in args.skip(2).iter() {
        let exists = node.keyspace.exists(key, node.at_ms);
        node.watches
            .add_remote(watcher, (serving.shard, term), key, exists);
    }
    node.update_recording();
    turn.reply.ok();
    Next::Go
}

/// UNWATCH of another node's client.
pub fn serve_unwatch(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    if let Some(watcher) = watcher(turn, args.at(1)) {
        turn.node.watches.forget_remote(watcher);
        turn.node.update_recording();
    }
    turn.reply.ok();
    Next::Go
}

/// EXEC of another node's client: as one batch in the shard.
pub fn serve_exec(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let mut ranges = Vec::new();
    let parts = args.skip(2).iter().map(|mut part| {
        let args = frames::take_args(&mut part, &mut ranges)?;
        Ok::<_, &str>(OwnedArgs::copy(args))
    });
    let parts: Result<Vec<OwnedArgs>, _> = parts.collect();
    let (Ok(queued), Some(serving)) = (parts, turn.serving) else {
        turn.reply.error("ERR EXEC of what is no transaction");
        return Next::Go;
    };
    // What was applied in this turn may not have been told yet.
    notify::tell_touched(turn);
    let watcher = watcher(turn, args.at(1));
    let mut watched = Vec::new();
    if let Some(watcher) = watcher {
        let node = &mut *turn.node;
        let term = node.keyspace.term(serving.shard);
        let exists = |key: &[u8]| node.keyspace.exists(key, node.at_ms);
        let at = (serving.shard, term);
        match node.watches.unbroken(watcher, at, exists) {
            Some(slots) => watched = slots,
            None => {
                node.watches.forget_remote(watcher);
                node.update_recording();
                turn.release_latch();
                turn.reply.nil_array();
                return Next::Go;
            }
        }
    }
    let before = turn.reply.len();
    failpoint::reach(Point::TransactionServed);
    let mut next = transaction::run(turn, &queued, &watched, propose::transaction);
    let now = turn.net.clock();
    if next == Next::Go && !turn.node.keyspace.can_read(serving.shard, now) {
        // It only read, and another may lead: it is run again when this node knows that it leads.
        turn.reply.truncate(before);
        next = Next::Latched;
    }
    if let Some(watcher) = watcher.filter(|_| next != Next::Latched) {
        turn.node.watches.forget_remote(watcher);
        turn.node.update_recording();
    }
    next
}

/// At every tick: forgets watches of shards that this node leads no longer. EXEC finds none, which is what it has to
/// find.
pub fn tend(node: &mut Node) {
    let keyspace = &node.keyspace;
    let is_led = |shard: u16, term: u64| keyspace.is_leader(shard) && keyspace.term(shard) == term;
    if node.watches.retain_remote(is_led) {
        node.update_recording();
    }
}
