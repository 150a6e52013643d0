//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Commands typed after MULTI are kept as they were typed and parsed again by EXEC, when their time has
//! come. What they change is in one record of the log and is applied in one go: with nothing in between, which
//! *is* isolation, and whole or not at all after a crash. WATCH makes EXEC conditional: a change to a watched
//! key breaks the watch of every client that has it, when it is applied; EXEC waits for changes to its watched
//! keys that are under way, reads the mark, and looks itself whether a key that was there when it was watched
//! is gone (past its time, or flushed with all others).
//!
//! In a cluster both are where the keys are led: see [`transact`].

use std::collections::BTreeMap;

use crate::command::data::Command;
use crate::command::parse;
use crate::command::resolve;
use crate::command::row::Row;
use crate::command::table;
use crate::command::verb::Verb;
use crate::planted::{self, Bug};
use crate::reactor::id::ConnId;
use crate::ring;
use crate::wire::request::{Args, OwnedArgs};

use super::client::Clients;
use super::cluster::transact;
use super::turn::{Next, Turn};
use super::{dispatch, propose};

/// What a client typed since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    queued: Vec<OwnedArgs>,
    bytes: usize,
    /// A command was refused while queueing: EXEC will refuse them all.
    pub broken: bool,
    /// In a cluster: the shard of its keys so far.
    pub shard: Option<u16>,
    /// In a cluster: a command must run on this very node.
    pub is_local: bool,
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

    /// The queued commands.
    pub fn queued(&self) -> impl Iterator<Item = Args<'_>> {
        self.queued.iter().map(OwnedArgs::args)
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

/// Somebody who watches keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watcher {
    /// The client's connection, or the link of its node.
    pub conn: ConnId,
    /// The client's number on its node; 0 for one of this node.
    pub id: u64,
}

/// What a client of another node watches.
#[derive(Debug)]
struct Remote {
    /// The shard of the keys, and the term in which it was led from here.
    at: (u16, u64),
    /// The keys, and whether each was there when the client began to watch it.
    keys: BTreeMap<Box<[u8]>, bool>,
    is_broken: bool,
}

/// Who watches which key.
#[derive(Debug, Default)]
pub struct Watches {
    keys: BTreeMap<Box<[u8]>, Vec<Watcher>>,
    remote: BTreeMap<Watcher, Remote>,
}

impl Watches {
    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Breaks the watches on `key`.
    pub fn key_changed(&mut self, key: &[u8], clients: &mut Clients) {
        for watcher in self.keys.get(key).into_iter().flatten() {
            if let Some(remote) = self.remote.get_mut(watcher) {
                remote.is_broken = true;
            } else if let Some(client) = clients.get_mut(watcher.conn).filter(|_| watcher.id == 0) {
                client.watch_broken = true;
            }
        }
    }

    fn add(&mut self, key: &[u8], conn: ConnId) {
        let watcher = Watcher { conn, id: 0 };
        self.keys.entry(key.into()).or_default().push(watcher);
    }

    /// A client of another node watches a key of a shard that is led from here in a term, `at`.
    pub fn add_remote(&mut self, watcher: Watcher, at: (u16, u64), key: &[u8], exists: bool) {
        let remote = self.remote.entry(watcher).or_insert_with(|| Remote {
            at,
            keys: BTreeMap::new(),
            is_broken: false,
        });
        remote.is_broken |= remote.at != at;
        if remote.keys.insert(key.into(), exists).is_none() {
            self.keys.entry(key.into()).or_default().push(watcher);
        }
    }

    /// The slots of the keys that a client of another node watches, if none of them has changed since, the shard is
    /// still led from here in the same term, and those are there that were.
    pub fn unbroken(
        &self,
        watcher: Watcher,
        at: (u16, u64),
        exists: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u16>> {
        let remote = self.remote.get(&watcher)?;
        let mut keys = remote.keys.iter();
        let is_one_gone = keys.any(|(key, &existed)| existed && !exists(key));
        let is_broken = remote.is_broken || remote.at != at || is_one_gone;
        let is_broken = is_broken && !planted::is(Bug::WatchIgnored);
        (!is_broken).then(|| remote.keys.keys().map(|key| ring::slot(key)).collect())
    }

    /// Ends the watches of a client of another node.
    pub fn forget_remote(&mut self, watcher: Watcher) {
        if let Some(remote) = self.remote.remove(&watcher) {
            let keys = remote.keys.keys();
            keys.for_each(|key| self.remove(key, watcher));
        }
    }

    /// Ends the watches of all clients of other nodes for whose shard and term this does not hold; whether there were
    /// any.
    pub fn retain_remote(&mut self, stays: impl Fn(u16, u64) -> bool) -> bool {
        let over = self.remote.iter();
        let over = over.filter(|(_, remote)| !stays(remote.at.0, remote.at.1));
        let over: Vec<Watcher> = over.map(|(&watcher, _)| watcher).collect();
        over.iter().for_each(|&watcher| self.forget_remote(watcher));
        !over.is_empty()
    }

    /// Ends the watches of all clients of another node, whose link is gone.
    pub fn forget_link(&mut self, link: ConnId) {
        let (first, last) = (
            Watcher { conn: link, id: 0 },
            Watcher {
                conn: link,
                id: u64::MAX,
            },
        );
        let of_link = self.remote.range(first..=last);
        let of_link: Vec<Watcher> = of_link.map(|(&watcher, _)| watcher).collect();
        of_link
            .into_iter()
            .for_each(|watcher| self.forget_remote(watcher));
    }

    /// Ends the watches of a client.
    pub fn forget(&mut self, watched: &BTreeMap<Box<[u8]>, bool>, conn: ConnId) {
        let watcher = Watcher { conn, id: 0 };
        watched.keys().for_each(|key| self.remove(key, watcher));
    }

    fn remove(&mut self, key: &[u8], watcher: Watcher) {
        if let Some(watchers) = self.keys.get_mut(key) {
            watchers.retain(|&other| other != watcher);
            if watchers.is_empty() {
                self.keys.remove(key);
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
pub fn watch(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    if turn.client().transaction.is_some() {
        turn.reply.error("ERR WATCH inside MULTI is not allowed");
        return Next::Go;
    }
    if let Some(next) = transact::watch(turn, args) {
        return next;
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
    Next::Go
}

/// UNWATCH.
pub fn unwatch(turn: &mut Turn<'_, '_, '_>) {
    forget_watches(turn);
    turn.reply.ok();
}

/// Ends this client's watches.
pub fn forget_watches(turn: &mut Turn<'_, '_, '_>) {
    let (me, now) = (turn.me, turn.net.now());
    transact::forget(turn.node, now, me);
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
    if let Some(next) = transact::exec(turn, &transaction) {
        return next;
    }
    let watched: Vec<u16> = turn
        .client()
        .watched
        .keys()
        .map(|key| ring::slot(key))
        .collect();
    let is_broken = turn.client().watch_broken || watched_key_gone(turn);
    if is_broken && !planted::is(Bug::WatchIgnored) {
        forget_watches(turn);
        turn.release_latch();
        turn.reply.nil_array();
        return Next::Go;
    }
    let next = run(
        turn,
        &transaction.queued,
        &watched,
        |turn, exec, parts, watched| match parts.iter().any(|(.., command)| command.is_some()) {
            true => propose::transaction(turn, exec, parts, watched),
            false => read(turn, parts),
        },
    );
    match next {
        Next::Latched => turn.client().transaction = Some(transaction),
        _ => forget_watches(turn),
    }
    next
}

/// Runs queued commands with `execute`, unless writes are refused now.
pub fn run(
    turn: &mut Turn<'_, '_, '_>,
    queued: &[OwnedArgs],
    watched: &[u16],
    execute: impl FnOnce(&mut Turn<'_, '_, '_>, &'static Row, &[Part<'_>], &[u16]) -> Next,
) -> Next {
    let at_ms = turn.node.at_ms;
    let parts: Vec<_> = queued
        .iter()
        .filter_map(|queued| part(queued, at_ms))
        .collect();
    let writes = parts.iter().any(|(.., command)| command.is_some());
    let takes_space = parts
        .iter()
        .any(|(row, _, command)| propose::takes_space(row, command.as_ref()));
    if let Some(text) = turn.node.refusal(takes_space).filter(|_| writes) {
        turn.release_latch();
        turn.reply.error(text);
        return Next::Go;
    }
    execute(turn, table::row(Verb::Exec), &parts, watched)
}

/// Answers a transaction that changes nothing, as it is now: like all that reads, it waits for no disk.
fn read(turn: &mut Turn<'_, '_, '_>, parts: &[Part<'_>]) -> Next {
    turn.release_latch();
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
pub type Part<'q> = (&'static Row, Args<'q>, Option<Command<'q>>);

fn part(queued: &OwnedArgs, at_ms: u64) -> Option<Part<'_>> {
    let args = queued.args();
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok())?;
    let command = parse::data(row, args, at_ms).and_then(Result::ok);
    Some((row, args, command.filter(Command::is_write)))
}
