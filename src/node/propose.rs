//! From a command that writes to changes in the log.
//!
//! | command | becomes | decided |
//! |---|---|---|
//! | on one key | one change | when it is applied |
//! | MSET, DEL, UNLINK, FLUSHALL | a change for each key or shard | when they are applied |
//! | MSETNX, RENAME, COPY, BITOP | changes, after looking at their keys | now: their keys are latched |
//! | EXEC | the changes of its commands, in one batch | as its commands are |
//!
//! See [`latch`](super::latch) for what is decided now. Within a transaction such a command must see what the
//! commands before it will have done: then the transaction's changes are also made in an [`Overlay`], a
//! small store that holds copies of the keys it is about.

use std::collections::BTreeSet;

use crate::command::data::{BitOperator, Command, Counted, Many};
use crate::command::op::{Action, Encoding, Event, Op, Set, SetAnswer, SetExpiry};
use crate::command::row::{Row, flag};
use crate::command::verb::Verb;
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::disk::wal::PAYLOAD_BYTES_MAX;
use crate::odd::{self, Size};
use crate::planted::{self, Bug};
use crate::reactor::id::ConnId;
use crate::ring;
use crate::shard::section::ENTRY_BYTES_MAX;
use crate::store::{Entry, HashSeed, Store};
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::{Args, OwnedArgs};

use super::client::Silence;
use super::commit::{Answer, Changes, EARLY, INNER, Item, NO_TOUCH, SERVED, SILENT, TIMED, Work};
use super::keyspace::{Keyspace, Proposed, combine};
use super::slowlog;
use super::turn::{Next, Turn};
use super::{Node, Stopping};

/// Commands of one client that may be under way.
const AWAITING_MAX: u32 = 4_096;
/// Bytes that they may hold and answer, about.
const AWAITING_BYTES_MAX: usize = 1 << 20;
/// Bytes of changes that all clients may have proposed and not handed over: beyond, writers wait.
const OPEN_BYTES_MAX: usize = 256 << 20;
/// Bytes of changes that one command or transaction may propose: room for the longest value, and for what others
/// have proposed to go into the same record.
const CHANGES_BYTES_MAX: usize = 640 << 20;
const _: () = assert!(
    CHANGES_BYTES_MAX + OPEN_BYTES_MAX + (ring::SLOTS as usize) * ENTRY_BYTES_MAX
        <= PAYLOAD_BYTES_MAX
        && VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX < CHANGES_BYTES_MAX
);

/// Why writes are refused for which there is no space, whatever they are.
pub const NO_SPACE_LEFT: &str =
    "NOSPACE there is no space on the disk for this write: nothing of it was done";
/// Why writes that take space are refused while the disk is full.
const NO_SPACE: &str =
    "NOSPACE the disk is full: writes are refused until there is space; reads and deletes go on";
/// Why a write is refused that says too much at once.
const TOO_MUCH: &str = "ERR the changes of one command or transaction take more than 640 MiB";
/// Why writes are refused while the node stops.
const STOPPING: &str = "ERR the node is stopping";

impl Node {
    /// Why writes are refused now; `takes_space`: those that add something.
    pub fn refusal(&self, takes_space: bool) -> Option<&'static str> {
        if self.stopping != Stopping::No {
            return Some(STOPPING);
        }
        match takes_space {
            true => self.journal.is_full().then_some(NO_SPACE),
            false => self.journal.takes_nothing().then_some(NO_SPACE_LEFT),
        }
    }
}

/// Proposes a command of a client, outside of a transaction.
pub fn command(
    turn: &mut Turn<'_, '_, '_>,
    row: &'static Row,
    command: &Command<'_>,
    args: Args<'_>,
) -> Next {
    let is_latched = is_decided_now(command);
    if has_enough(turn) || is_latched && turn.client().awaiting > 0 {
        return Next::Settle;
    }
    if let Some(text) = turn.node.refusal(takes_space(row, Some(command))) {
        return refuse(turn, text);
    }
    if is_crowded(turn) {
        return Next::Latched;
    }
    if is_latched || !turn.node.latches.is_empty() {
        let slots = slots(row, args);
        let (idle, free) = match is_latched {
            true => (slots, Vec::new()),
            false => (Vec::new(), slots),
        };
        if !latch(turn, idle, &free) {
            return Next::Latched;
        }
    }
    let is_many = matches!(command, Command::Many(_));
    let before = is_many.then(|| turn.node.keyspace.proposed());
    let only = turn.serving.map(|serving| serving.shard);
    let mut proposal = Proposal::new(&mut turn.node.keyspace, turn.node.at_ms, only);
    let work = proposal.work(command);
    if before.is_some_and(|before| is_too_much(turn, &before)) {
        return refuse(turn, TOO_MUCH);
    }
    let mut flags = flags(turn);
    if flags & EARLY != 0 && !answers_ok(command) {
        flags ^= EARLY;
    }
    push(turn, row, args, flags, work);
    Next::Deferred
}

/// Whether a command answers `OK`, whatever its keys are.
fn answers_ok(command: &Command<'_>) -> bool {
    match command {
        Command::One(op) => {
            matches!(&op.action, Action::Set(set) if set.condition.is_none() && set.answer == SetAnswer::Ok)
        }
        Command::Many(many) => matches!(
            many,
            Many::Flush
                | Many::Set {
                    only_if_none_exists: false,
                    ..
                }
        ),
    }
}

/// Puts a command that changes nothing behind the writes that are under way: the client's, or those to its shard.
pub fn behind(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    if has_enough(turn) {
        return Next::Settle;
    }
    let flags = flags(turn) & !EARLY;
    let work = Work::Run(Box::new(OwnedArgs::copy(args)));
    let bytes = reply_bytes(turn, row, args);
    push(turn, row, args, flags, work);
    if turn.serving.is_none() {
        turn.client().awaiting_bytes += bytes;
    }
    Next::Deferred
}

/// Proposes the commands of a transaction. `watched` are keys that must stay as they are until then.
pub fn transaction(
    turn: &mut Turn<'_, '_, '_>,
    exec: &'static Row,
    parts: &[(&'static Row, Args<'_>, Option<Command<'_>>)],
    watched: &[u16],
) -> Next {
    let decides = |(_, _, command): &(_, _, Option<Command<'_>>)| {
        command.as_ref().is_some_and(is_decided_now)
    };
    let with_overlay = parts.iter().any(decides);
    if is_crowded(turn) {
        return Next::Latched;
    }
    if with_overlay || !watched.is_empty() || !turn.node.latches.is_empty() {
        let (mut idle, mut free) = (watched.to_vec(), Vec::new());
        let of_parts = match with_overlay {
            true => &mut idle,
            false => &mut free,
        };
        for (row, args, _) in parts {
            of_parts.extend(slots(row, *args));
        }
        if !latch(turn, idle, &free) {
            return Next::Latched;
        }
    }
    let before = turn.node.keyspace.proposed();
    let seed = turn.node.hash_seed;
    let mut overlay = with_overlay.then(|| Overlay::new(seed));
    let mut works = Vec::with_capacity(parts.len());
    for (_, args, command) in parts {
        let work = match command {
            None => Work::Run(Box::new(OwnedArgs::copy(*args))),
            Some(command) => {
                let only = turn.serving.map(|serving| serving.shard);
                let mut proposal = Proposal::new(&mut turn.node.keyspace, turn.node.at_ms, only);
                proposal.overlay = overlay.take();
                let work = proposal.work(command);
                overlay = proposal.overlay;
                work
            }
        };
        if is_too_much(turn, &before) {
            return refuse(turn, TOO_MUCH);
        }
        works.push(work);
    }
    let flags = flags(turn) & !(TIMED | EARLY);
    let of_all = turn.serving.map_or(0, |serving| serving.shard);
    push_item(turn, exec, of_all, flags, Work::Exec(parts.len()), None);
    for ((row, args, _), work) in parts.iter().zip(works) {
        push(turn, row, *args, flags | INNER, work);
    }
    Next::Deferred
}

/// Refuses a write, behind the answers to those before it.
fn refuse(turn: &mut Turn<'_, '_, '_>, text: &str) -> Next {
    if turn.client().awaiting > 0 {
        return Next::Settle;
    }
    turn.release_latch();
    turn.reply.error(text);
    Next::Go
}

/// Whether all clients together have proposed as much as may be; then this one waits for the next batch.
fn is_crowded(turn: &mut Turn<'_, '_, '_>) -> bool {
    let is_crowded = turn.node.keyspace.open_bytes() > OPEN_BYTES_MAX;
    if is_crowded {
        let holder = turn.holder();
        turn.node.latches.wait(holder, Vec::new());
    }
    is_crowded
}

/// Whether more was proposed since then than one command or transaction may; if so, it is taken back.
fn is_too_much(turn: &mut Turn<'_, '_, '_>, before: &Proposed) -> bool {
    let keyspace = &mut turn.node.keyspace;
    let is_too_much = keyspace.open_bytes() - before.bytes > CHANGES_BYTES_MAX;
    if is_too_much {
        keyspace.take_back(before);
    }
    is_too_much
}

/// About how many bytes a command that reads will answer: when it stands in a batch nobody looks whether its
/// client keeps up with reading, so that there must not be many of the long ones.
fn reply_bytes(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>) -> usize {
    let longest = turn.client().awaiting_longest;
    let node = &*turn.node;
    let value_bytes = |at: usize| {
        let key = args.at(at);
        let entry = node.keyspace.lookup(key, node.at_ms);
        let bytes = entry.map_or(0, |entry| entry.value.len());
        match node.commits.is_idle(ring::slot(key)) {
            true => bytes,
            false => bytes.max(longest),
        }
    };
    match row.verb {
        Verb::Keys | Verb::Scan => AWAITING_BYTES_MAX,
        _ => row.keys.positions(args.len()).map(value_bytes).sum(),
    }
}

/// Whether as much of this client is under way as may be.
pub fn has_enough(turn: &mut Turn<'_, '_, '_>) -> bool {
    let client = turn.client();
    let most = odd::or(Size::Awaiting, AWAITING_MAX as usize);
    client.awaiting as usize >= most || client.awaiting_bytes >= AWAITING_BYTES_MAX
}

/// Whether a command may need space in the log beyond a few bytes: RENAME writes a whole value there.
pub fn takes_space(row: &Row, command: Option<&Command<'_>>) -> bool {
    row.is(flag::DENYOOM) || command.is_some_and(is_decided_now)
}

/// Whether what a command changes depends on keys that it does not itself change one by one.
fn is_decided_now(command: &Command<'_>) -> bool {
    match command {
        Command::One(_) => false,
        Command::Many(many) => matches!(
            many,
            Many::Rename { .. }
                | Many::Copy { .. }
                | Many::BitOp { .. }
                | Many::Set {
                    only_if_none_exists: true,
                    ..
                }
        ),
    }
}

/// The slots of a command's keys.
fn slots(row: &Row, args: Args<'_>) -> Vec<u16> {
    row.keys
        .positions(args.len())
        .map(|at| ring::slot(args.at(at)))
        .collect()
}

/// Whether the command at hand may run now, for which no write to the slots `idle` may be under way, and nobody
/// may have reserved those or the slots `free`; if not, it waits, and reserves what must be idle.
fn latch(turn: &mut Turn<'_, '_, '_>, idle: Vec<u16>, free: &[u16]) -> bool {
    let holder = turn.holder();
    let node = &mut *turn.node;
    let is_free = |&slot: &u16| !node.latches.is_reserved(slot, holder);
    let is_idle = |&slot: &u16| node.commits.is_idle(slot);
    if idle.iter().all(is_idle) && idle.iter().chain(free).all(is_free) {
        node.latches.release(holder, turn.net);
        return true;
    }
    node.latches.wait(holder, idle);
    false
}

fn flags(turn: &mut Turn<'_, '_, '_>) -> u8 {
    if let Some(serving) = turn.serving {
        let no_touch = if serving.no_touch { NO_TOUCH } else { 0 };
        let early = if serving.is_early || planted::is(Bug::AckBeforeMajority) {
            EARLY
        } else {
            0
        };
        return SERVED | no_touch | early;
    }
    let is_split = turn.node.commits.is_split();
    let timed = if turn.quick { 0 } else { TIMED };
    let client = turn.client();
    let silent = if client.silence == Silence::Off {
        0
    } else {
        SILENT
    };
    let no_touch = if client.no_touch { NO_TOUCH } else { 0 };
    let early = if (client.is_early || planted::is(Bug::AckBeforeMajority)) && is_split {
        EARLY
    } else {
        0
    };
    timed | silent | no_touch | early
}

fn push(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>, flags: u8, work: Work) {
    let typed = (flags & TIMED != 0).then(|| Box::new(slowlog::shortened(args)));
    let shard = shard(turn, row, args);
    push_item(turn, row, shard, flags, work, typed);
}

/// The shard that another node's command is restricted to; else that of its first key. It matters only where each shard
/// has its lane.
fn shard(turn: &Turn<'_, '_, '_>, row: &Row, args: Args<'_>) -> u16 {
    if let Some(serving) = turn.serving {
        return serving.shard;
    }
    let is_split = turn.node.commits.is_split();
    let key = row.keys.positions(args.len()).next().filter(|_| is_split);
    key.map_or(0, |at| turn.node.keyspace.shard_of(args.at(at)))
}

fn push_item(
    turn: &mut Turn<'_, '_, '_>,
    row: &'static Row,
    shard: u16,
    flags: u8,
    work: Work,
    typed: Option<Box<OwnedArgs>>,
) {
    let bytes = std::mem::take(&mut turn.request_bytes);
    let dialect = turn.reply.dialect();
    let number = match turn.serving {
        Some(serving) => serving.id,
        None => {
            let client = turn.client();
            client.awaiting += 1;
            client.awaiting_bytes += bytes;
            client.awaiting_longest = client.awaiting_longest.max(bytes);
            let is_answered = flags & INNER == 0;
            if is_answered {
                client.replies.take()
            } else {
                0
            }
        }
    };
    let conn: ConnId = turn.me;
    let item = Item {
        conn,
        number,
        dialect,
        verb: row.verb,
        shard,
        flags,
        work,
        typed,
    };
    turn.node.commits.push(item);
}

/// What one command adds to the open entries of the shards.
struct Proposal<'k> {
    keyspace: &'k mut Keyspace,
    at_ms: u64,
    /// The shard that the command is restricted to.
    only: Option<u16>,
    /// Within a transaction in which something is decided now.
    overlay: Option<Overlay>,
    /// Slots of the changes so far.
    slots: Vec<u16>,
}

impl<'k> Proposal<'k> {
    fn new(keyspace: &'k mut Keyspace, at_ms: u64, only: Option<u16>) -> Self {
        Proposal {
            keyspace,
            at_ms,
            only,
            overlay: None,
            slots: Vec::new(),
        }
    }

    /// Proposes a command; what is to be done when its changes are durable.
    fn work(&mut self, command: &Command<'_>) -> Work {
        let many = match command {
            Command::One(op) => {
                self.see(op);
                let slot = ring::slot(op.key);
                self.keyspace.propose(slot, op);
                return Work::Change { slot };
            }
            Command::Many(Many::Flush) if let Some(shard) = self.only => {
                self.keyspace.propose_flush_of(shard);
                return Work::FlushShard(shard);
            }
            Command::Many(Many::Flush) => {
                self.keyspace.propose_flush();
                self.overlay.iter_mut().for_each(Overlay::flush);
                return Work::Flush;
            }
            Command::Many(many) => many,
        };
        let answer = self.several(many);
        Work::Changes(Box::new(Changes {
            slots: std::mem::take(&mut self.slots),
            answer,
        }))
    }

    fn several(&mut self, many: &Many<'_>) -> Answer {
        match *many {
            Many::Set {
                pairs,
                only_if_none_exists,
            } => self.set_all(pairs, only_if_none_exists),
            Many::Count {
                what: Counted::Del,
                keys,
            } => {
                let count = if planted::is(Bug::DeleteForgotten) {
                    1
                } else {
                    keys.len()
                };
                for key in keys.iter().take(count) {
                    self.change(key, Action::Del);
                }
                Answer::Deleted
            }
            Many::Rename {
                from,
                to,
                only_if_absent,
            } => self.rename(from, to, only_if_absent),
            Many::Copy { from, to, replace } => self.copy(from, to, replace),
            Many::BitOp {
                operator,
                destination,
                sources,
            } => self.bit_op(operator, destination, sources),
            _ => unreachable!("commands that read are not proposed"),
        }
    }

    fn change(&mut self, key: &[u8], action: Action<'_>) {
        let op = Op { key, action };
        self.see(&op);
        let slot = ring::slot(key);
        self.slots.push(slot);
        self.keyspace.propose(slot, &op);
    }

    /// Makes a change visible to the commands behind it in the same transaction.
    fn see(&mut self, op: &Op<'_>) {
        if let Some(overlay) = &mut self.overlay {
            overlay.apply(op, self.keyspace, self.at_ms);
        }
    }

    /// What is stored under `key`, as it will be when this command is applied.
    fn lookup(&self, key: &[u8]) -> Option<Entry<'_>> {
        let seen = self.overlay.as_ref().filter(|overlay| overlay.knows(key));
        match seen {
            Some(overlay) => overlay.store.lookup(key, self.at_ms),
            None => self.keyspace.lookup(key, self.at_ms),
        }
    }

    /// The same, owned, so that it can be put elsewhere.
    fn taken(&self, key: &[u8]) -> Option<(Vec<u8>, Option<u64>, Encoding)> {
        let entry = self.lookup(key)?;
        Some((entry.value.to_vec(), entry.expire_at_ms, entry.encoding))
    }

    fn exists(&self, key: &[u8]) -> bool {
        self.lookup(key).is_some()
    }

    fn set_all(&mut self, pairs: Args<'_>, only_if_none_exists: bool) -> Answer {
        let mut keys = pairs.iter().step_by(2);
        if only_if_none_exists && keys.any(|key| self.exists(key)) {
            return Answer::Int(0);
        }
        for (key, value) in pairs.iter().step_by(2).zip(pairs.iter().skip(1).step_by(2)) {
            let set = Set {
                value,
                expiry: SetExpiry::Clear,
                condition: None,
                answer: SetAnswer::Silent,
            };
            self.change(key, Action::Set(set));
        }
        match only_if_none_exists {
            true => Answer::Int(1),
            false => Answer::Ok,
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8], only_if_absent: bool) -> Answer {
        let Some((value, expire_at_ms, encoding)) = self.taken(from) else {
            return Answer::Error("ERR no such key".to_owned());
        };
        if only_if_absent && self.exists(to) {
            return Answer::Int(0);
        }
        if from != to {
            let event = Event::RenameFrom;
            self.change(from, Action::Remove { event });
            let put = Action::Put {
                value: &value,
                expire_at_ms,
                encoding,
                event: Event::RenameTo,
            };
            self.change(to, put);
        }
        match only_if_absent {
            true => Answer::Int(1),
            false => Answer::Ok,
        }
    }

    fn copy(&mut self, from: &[u8], to: &[u8], replace: bool) -> Answer {
        let Some((value, expire_at_ms, encoding)) = self.taken(from) else {
            return Answer::Int(0);
        };
        if !replace && self.exists(to) {
            return Answer::Int(0);
        }
        let put = Action::Put {
            value: &value,
            expire_at_ms,
            encoding,
            event: Event::CopyTo,
        };
        self.change(to, put);
        Answer::Int(1)
    }

    fn bit_op(&mut self, operator: BitOperator, destination: &[u8], sources: Args<'_>) -> Answer {
        let value_of = |key| self.taken(key).map_or_else(Vec::new, |(value, ..)| value);
        let values: Vec<Vec<u8>> = sources.iter().map(value_of).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let combined = combine(operator, &values);
        let action = match combined.is_empty() {
            true => Action::Del,
            false => Action::Put {
                value: &combined,
                expire_at_ms: None,
                encoding: Encoding::Raw,
                event: Event::Set,
            },
        };
        self.change(destination, action);
        Answer::Int(combined.len() as i64)
    }
}

/// What the keys of a transaction will be after the commands so far.
struct Overlay {
    /// The node's: a client that knew it could choose keys that all belong in one small table.
    seed: HashSeed,
    store: Store,
    /// Keys that have been copied into it, or were changed in it.
    known: BTreeSet<Box<[u8]>>,
    /// A FLUSHALL came before: what is not known is not there.
    flushed: bool,
}

impl Overlay {
    fn new(seed: HashSeed) -> Overlay {
        Overlay {
            seed,
            store: Store::new(seed),
            known: BTreeSet::new(),
            flushed: false,
        }
    }

    fn knows(&self, key: &[u8]) -> bool {
        self.flushed || self.known.contains(key)
    }

    fn flush(&mut self) {
        *self = Overlay {
            flushed: true,
            ..Overlay::new(self.seed)
        };
    }

    fn apply(&mut self, op: &Op<'_>, keyspace: &Keyspace, at_ms: u64) {
        let mut unread = Vec::new();
        let mut reply = Reply::new(&mut unread, Dialect::Resp2);
        if !self.knows(op.key)
            && let Some(entry) = keyspace.lookup(op.key, at_ms)
        {
            let put = Action::Put {
                value: entry.value,
                expire_at_ms: entry.expire_at_ms,
                encoding: entry.encoding,
                event: Event::Set,
            };
            let copy = Op {
                key: op.key,
                action: put,
            };
            self.store.apply(&copy, at_ms, &mut reply);
        }
        self.known.insert(op.key.into());
        self.store.apply(op, at_ms, &mut reply);
    }
}
