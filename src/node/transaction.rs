//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Commands typed after MULTI are kept as they were typed and parsed again by EXEC, when their time has
//! come. What they change is in one record of the log and is applied in one go: with nothing in between, which
//! *is* isolation, and whole or not at all after a crash. WATCH makes EXEC conditional: a change to a watched
//! key breaks the watch of every client that has it, when it is applied; EXEC waits for changes to its watched
//! keys that are under way, reads the mark, and looks itself whether a key that was there when it was watched
//! is gone (past its time, or flushed with all others).

use std::collections::BTreeMap;

use crate::command::data::Command;
use crate::command::parse;
use crate::command::resolve;
use crate::command::row::Row;
use crate::command::table;
use crate::command::verb::Verb;
use crate::reactor::id::ConnId;
use crate::ring;
use crate::wire::request::{Args, OwnedArgs};

use super::client::Clients;
use super::turn::{Next, Turn};
use super::{dispatch, propose};

/// What a client typed since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    queued: Vec<OwnedArgs>,
    bytes: usize,
    /// A command was refused while queueing: EXEC will refuse them all.
    pub broken: bool,
}

impl Transaction {
    /// Number of queued commands.
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Bytes held by them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a command.
    pub fn queue(&mut self, args: Args<'_>) {
        let owned = OwnedArgs::copy(args);
        self.bytes += owned.bytes();
        self.queued.push(owned);
    }
}

/// Who watches which key.
#[derive(Debug, Default)]
pub struct Watches {
    keys: BTreeMap<Box<[u8]>, Vec<ConnId>>,
}

impl Watches {
    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Breaks the watches on `key`.
    pub fn key_changed(&self, key: &[u8], clients: &mut Clients) {
        for &conn in self.keys.get(key).into_iter().flatten() {
            if let Some(client) = clients.get_mut(conn) {
                client.watch_broken = true;
            }
        }
    }

    fn add(&mut self, key: &[u8], conn: ConnId) {
        self.keys.entry(key.into()).or_default().push(conn);
    }

    /// Ends the watches of a client.
    pub fn forget(&mut self, watched: &BTreeMap<Box<[u8]>, bool>, conn: ConnId) {
        for key in watched.keys() {
            if let Some(watchers) = self.keys.get_mut(key) {
                watchers.retain(|&watcher| watcher != conn);
                if watchers.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
    }
}

/// MULTI.
pub fn multi(turn: &mut Turn<'_, '_, '_>) {
    if turn.client().transaction.is_some() {
        return turn.reply.error("ERR MULTI calls can not be nested");
    }
    turn.client().transaction = Some(Box::default());
    turn.reply.ok();
}

/// DISCARD.
pub fn discard(turn: &mut Turn<'_, '_, '_>) {
    if turn.client().transaction.take().is_none() {
        return turn.reply.error("ERR DISCARD without MULTI");
    }
    forget_watches(turn);
    turn.reply.ok();
}

/// WATCH.
pub fn watch(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    if turn.client().transaction.is_some() {
        return turn.reply.error("ERR WATCH inside MULTI is not allowed");
    }
    let me = turn.me;
    for key in args.skip(1).iter() {
        if turn.client().watched.contains_key(key) {
            continue;
        }
        let exists = turn.node.keyspace.exists(key, turn.node.at_ms);
        turn.node.watches.add(key, me);
        turn.client().watched.insert(key.into(), exists);
    }
    turn.node.update_recording();
    turn.reply.ok();
}

/// UNWATCH.
pub fn unwatch(turn: &mut Turn<'_, '_, '_>) {
    forget_watches(turn);
    turn.reply.ok();
}

/// Ends this client's watches.
pub fn forget_watches(turn: &mut Turn<'_, '_, '_>) {
    let me = turn.me;
    turn.client().watch_broken = false;
    let watched = std::mem::take(&mut turn.client().watched);
    if !watched.is_empty() {
        turn.node.watches.forget(&watched, me);
        turn.node.update_recording();
    }
}

/// Whether a key that was there when this client began to watch it is there no more.
fn watched_key_gone(turn: &mut Turn<'_, '_, '_>) -> bool {
    let at_ms = turn.node.at_ms;
    let watched = std::mem::take(&mut turn.client().watched);
    let gone = watched
        .iter()
        .any(|(key, existed)| *existed && !turn.node.keyspace.exists(key, at_ms));
    turn.client().watched = watched;
    gone
}

/// An EXEC that cannot even begin, for a reason that `text` tells.
pub fn abort(turn: &mut Turn<'_, '_, '_>, text: &[u8]) {
    turn.client().transaction = None;
    forget_watches(turn);
    let reason = text.strip_prefix(b"ERR ").unwrap_or(text);
    turn.reply
        .error_bytes(&[b"EXECABORT Transaction discarded because of: ", reason].concat());
}

/// EXEC.
pub fn exec(turn: &mut Turn<'_, '_, '_>) -> Next {
    let Some(transaction) = turn.client().transaction.take() else {
        turn.reply.error("ERR EXEC without MULTI");
        return Next::Go;
    };
    if transaction.broken {
        forget_watches(turn);
        turn.reply
            .error("EXECABORT Transaction discarded because of previous errors.");
        return Next::Go;
    }
    let watched: Vec<u16> = turn
        .client()
        .watched
        .keys()
        .map(|key| ring::slot(key))
        .collect();
    if turn.client().watch_broken || watched_key_gone(turn) {
        forget_watches(turn);
        turn.node.latches.release(turn.me, turn.net);
        turn.reply.nil_array();
        return Next::Go;
    }
    let at_ms = turn.node.at_ms;
    let parts: Vec<_> = transaction
        .queued
        .iter()
        .filter_map(|queued| part(queued, at_ms))
        .collect();
    let writes = parts.iter().any(|(.., command)| command.is_some());
    let takes_space = parts
        .iter()
        .any(|(row, _, command)| propose::takes_space(row, command.as_ref()));
    if let Some(text) = turn.node.refusal(takes_space).filter(|_| writes) {
        drop(parts);
        forget_watches(turn);
        turn.node.latches.release(turn.me, turn.net);
        turn.reply.error(text);
        return Next::Go;
    }
    let next = match writes {
        true => propose::transaction(turn, table::row(Verb::Exec), &parts, &watched),
        false => read(turn, &parts),
    };
    drop(parts);
    match next {
        Next::Latched => turn.client().transaction = Some(transaction),
        _ => forget_watches(turn),
    }
    next
}

/// Answers a transaction that changes nothing, as it is now: like all that reads, it waits for no disk.
fn read(turn: &mut Turn<'_, '_, '_>, parts: &[Part<'_>]) -> Next {
    turn.node.latches.release(turn.me, turn.net);
    turn.reply.array(parts.len());
    turn.in_transaction = true;
    let mut next = Next::Go;
    for (row, args, _) in parts {
        next = next.or(dispatch::run_now(turn, row, *args));
    }
    turn.in_transaction = false;
    let pushed = std::mem::take(&mut turn.pushed);
    turn.reply.raw(&pushed);
    next
}

/// A queued command with its row and, if it writes, what it does.
type Part<'q> = (&'static Row, Args<'q>, Option<Command<'q>>);

fn part(queued: &OwnedArgs, at_ms: u64) -> Option<Part<'_>> {
    let args = queued.args();
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok())?;
    let command = parse::data(row, args, at_ms).and_then(Result::ok);
    Some((row, args, command.filter(Command::is_write)))
}
