//! Writes under way: gathered, made durable together, applied, answered.
//!
//! ```text
//!   command ─▶ open batch ─ once a turn, if none is in flight ─▶ in flight ─ durable ─▶ applied, answered
//!              (items here,                                      (one record            (in the order of
//!               changes in the shards' open entries)              of all shards)         the items)
//! ```
//!
//! A write is answered when what it says is as durable as `--sync` demands, and applied: not before. What
//! arrives while a batch is in flight is the next batch, so that one sync of the disk carries the writes of
//! many clients (group commit). Reads do not wait: they see what has been applied, which is what has been
//! promised. A client's own order is kept: what it says behind a write that is not answered is either part
//! of the same batch ([`Work::Run`]) or waits until its writes are answered ([`Next::Settle`]).
//!
//! On a disk that syncs slowly the next batch is not handed over as soon as there is one: those who were just
//! answered say their next writes a moment later, and would wait for a whole sync more. So the batch is held for at
//! most a quarter of what a sync takes, and no longer than until as many have come as were answered; not
//! again for a while, if few came. Without it, half of the clients wait while the other half is synced. A batch that
//! is not held goes to the disk before the one that landed is applied and answered.
//!
//! A batch whose record finds no space is refused: what it changes is taken back before Raft hears of it, its
//! reads are answered as ever.
//!
//! The record of a batch holds the entries of all shards, so that a command over several shards is in the
//! log whole or not at all.
//!
//! [`Next::Settle`]: super::turn::Next::Settle

use std::time::Duration;

use crate::command::verb::Verb;
use crate::command::{resolve, table};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::ring;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::OwnedArgs;

use super::journal::space::{self, Room};
use super::session::Message;
use super::turn::{Next, Turn};
use super::{Node, dispatch, journal, latency, notify, propose, slowlog};

/// Its reply is not sent: the client asked for silence.
pub const SILENT: u8 = 1;
/// It does not count as use of keys.
pub const NO_TOUCH: u8 = 1 << 1;
/// It is part of a transaction: EXEC is what is counted.
pub const INNER: u8 = 1 << 2;
/// It may take long: it is timed alone.
pub const TIMED: u8 = 1 << 3;

/// One command, or one part of a transaction, of a batch.
pub struct Item {
    /// Who asked.
    pub conn: ConnId,
    /// The command.
    pub verb: Verb,
    /// [`SILENT`], [`NO_TOUCH`], [`INNER`], [`TIMED`].
    pub flags: u8,
    /// What is to be done when the batch is durable.
    pub work: Work,
    /// What was typed, shortened, for the slow log; only with [`TIMED`].
    pub typed: Option<Box<OwnedArgs>>,
}

/// What is to be done when the batch is durable.
pub enum Work {
    /// The next change in the shard of a slot answers for itself.
    Change {
        /// The key's slot.
        slot: u16,
    },
    /// The next changes in these slots are one command.
    Changes(Box<Changes>),
    /// Every shard is emptied.
    Flush,
    /// Something that changes nothing runs behind what is before it.
    Run(Box<OwnedArgs>),
    /// EXEC: so many items follow that are its parts.
    Exec(usize),
}

/// Changes that make up one command.
pub struct Changes {
    /// Slots of their keys, in order.
    pub slots: Vec<u16>,
    /// What the command answers.
    pub answer: Answer,
}

/// What a command of several changes answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `OK`.
    Ok,
    /// A number.
    Int(i64),
    /// How many of the keys were there and are deleted.
    Deleted,
    /// An error.
    Error(String),
}

/// Syncs that take less are not worth holding a batch for: the kernel's wait is no more exact than a millisecond.
const SLOW_SYNC_NANOS: Nanos = 2_000_000;
/// So often a batch is not held after one for which few had come.
const UNHELD_MAX: u8 = 15;
/// A batch is not held longer than this, however long the last job for the log took.
const HOLD_NANOS_MAX: Nanos = 10_000_000;

/// An open batch that is held, for those who were just answered.
struct Hold {
    until: Nanos,
    /// Items in it when it began.
    before: usize,
    /// How many more may come.
    expected: usize,
}

/// The writes under way.
#[derive(Default)]
pub struct Commits {
    /// Why the open batch is not handed over yet.
    hold: Option<Hold>,
    /// How many batches are not held from now on.
    unheld: u8,
    open: Vec<Item>,
    /// The batch in flight.
    flight: Option<Vec<Item>>,
    /// Changes under way, by slot of their key.
    pending: Vec<u32>,
    /// FLUSHALLs under way, which concern every slot.
    flushing: u32,
    /// An emptied list, for its capacity.
    spare: Vec<Item>,
}

impl Commits {
    /// Nothing under way.
    pub fn new() -> Commits {
        Commits {
            pending: vec![0; ring::SLOTS.into()],
            ..Commits::default()
        }
    }

    /// Adds an item to the open batch.
    pub fn push(&mut self, item: Item) {
        match &item.work {
            Work::Change { slot } => self.pend(*slot),
            Work::Changes(changes) => changes.slots.iter().for_each(|&slot| self.pend(slot)),
            Work::Flush => self.flushing += 1,
            Work::Run(_) | Work::Exec(_) => {}
        }
        self.open.push(item);
    }

    /// Whether the open batch is to be held, `landed` having been answered after a sync that took so long; and until
    /// when.
    fn hold(&mut self, landed: usize, now: Nanos, sync_ns: Nanos) -> Option<Nanos> {
        if sync_ns < SLOW_SYNC_NANOS {
            return None;
        }
        if self.unheld > 0 {
            self.unheld -= 1;
            return None;
        }
        let until = now + (sync_ns / 4).min(HOLD_NANOS_MAX);
        self.hold = Some(Hold {
            until,
            before: self.open.len(),
            expected: landed,
        });
        Some(until)
    }

    /// Whether the open batch is held still.
    fn is_held(&mut self, now: Nanos) -> bool {
        let Some(hold) = &self.hold else { return false };
        let came = self.open.len() - hold.before;
        let is_held = came < hold.expected && now < hold.until;
        if !is_held {
            self.unheld = if came < hold.expected / 4 {
                UNHELD_MAX
            } else {
                0
            };
            self.hold = None;
        }
        is_held
    }

    fn pend(&mut self, slot: u16) {
        self.pending[usize::from(slot)] += 1;
    }

    /// Ends the open batch.
    fn take_open(&mut self) -> Vec<Item> {
        let spare = std::mem::take(&mut self.spare);
        std::mem::replace(&mut self.open, spare)
    }

    fn settle(&mut self, slot: u16) {
        self.pending[usize::from(slot)] -= 1;
    }

    /// Whether no change under way concerns this slot.
    pub fn is_idle(&self, slot: u16) -> bool {
        self.flushing == 0 && self.pending[usize::from(slot)] == 0
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.flight.is_none()
    }

    /// Commands under way.
    pub fn len(&self) -> usize {
        self.open.len() + self.flight.as_ref().map_or(0, Vec::len)
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is as durable as was asked for.
    Kept,
    /// There is no space for it.
    Refused,
}

/// Hands the open batch over, if there is one and none is in flight. At the end of each turn.
pub fn hand_over(cx: &mut Cx<'_, Node>) {
    while cx.app.commits.flight.is_none()
        && !cx.app.commits.open.is_empty()
        && cx.app.journal.is_free()
    {
        if cx.app.commits.is_held(cx.net.now()) {
            return;
        }
        match space::room_for(cx, cx.app.keyspace.record_bytes_max()) {
            Room::Enough => {}
            Room::Soon => return,
            Room::None => {
                cx.app.keyspace.take_back_all();
                let items = cx.app.commits.take_open();
                conclude(cx, items, Fate::Refused);
                continue;
            }
        }
        let node = &mut *cx.app;
        let mut record = Vec::new();
        let is_kept = !node.journal.is_absent();
        node.keyspace
            .hand_over(node.at_ms, is_kept.then_some(&mut record));
        node.commits.flight = Some(node.commits.take_open());
        if !is_kept {
            land(cx);
            continue;
        }
        let marks = node.keyspace.marks();
        journal::append(cx, record, marks);
    }
}

/// The batch in flight is as durable as was asked for: it is applied and answered. Before that, the disk gets what has
/// gathered meanwhile, unless that is held.
pub fn land(cx: &mut Cx<'_, Node>) {
    let Some(items) = cx.app.commits.flight.take() else {
        return;
    };
    cx.app.keyspace.persisted();
    if let Some(sync_ns) = cx.app.journal.sync_ns() {
        let now = cx.net.now();
        match cx.app.commits.hold(items.len(), now, sync_ns) {
            Some(until) => {
                let delay = Duration::from_nanos(until - now);
                cx.net.call_later(delay, |_| {});
            }
            // Else it may have to be refused, behind all earlier answers.
            None if cx.app.journal.has_room(cx.app.keyspace.record_bytes_max()) => {
                hand_over(cx);
            }
            None => {}
        }
    }
    conclude(cx, items, Fate::Kept);
    cx.app.keyspace.settle();
}

/// Applies and answers all of a batch.
fn conclude(cx: &mut Cx<'_, Node>, mut items: Vec<Item>, fate: Fate) {
    // The meter's runs are the batch's: the clock is read for it, and not for each client in it.
    let now = cx.net.clock();
    cx.app.end_run(now);
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
    cx.app.commits.spare = items;
    cx.app.latches.retry(&cx.app.commits, &mut cx.net);
}

/// Applies and answers items of one client that follow each other.
fn answer(cx: &mut Cx<'_, Node>, conn: ConnId, items: &[Item], fate: Fate) {
    let mut out = std::mem::take(&mut cx.app.scratch.replies);
    let client = cx.app.clients.get(conn);
    let dialect = client.map_or(Dialect::Resp2, |client| client.dialect);
    let is_there = client.is_some();
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
    };
    // Where the command at hand begins in the replies; parts of a transaction that are still to come.
    let (mut begin, mut parts) = (0, 0);
    let mut is_closing = false;
    for item in items {
        if !turn.in_transaction {
            begin = turn.reply.len();
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
            if item.flags & SILENT != 0 {
                turn.reply.truncate(begin);
            }
            let pushed = std::mem::take(&mut turn.pushed);
            turn.reply.raw(&pushed);
        }
    }
    let is_cut = turn.reply.is_cut();
    drop(turn);
    if is_cut {
        log::warn!("a client asked for a reply beyond client-output-limit; cut off");
        cx.net.abort(conn);
    } else if is_there {
        cx.net.write_buf_to(conn, &mut out);
        if is_closing {
            cx.net.lose(conn);
        }
    }
    out.clear();
    cx.app.scratch.replies = out;
    if let Some(client) = cx.app.clients.get_mut(conn) {
        client.awaiting -= items.len() as u32;
        if client.awaiting == 0 {
            (client.awaiting_bytes, client.awaiting_longest) = (0, 0);
            if std::mem::take(&mut client.settling) {
                cx.net.post(conn, Message::Settled);
            }
        }
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
        work if fate == Fate::Refused && !is_alone(work, turn.in_transaction) => {
            refuse(turn, work);
        }
        Work::Change { slot } => change(turn, *slot),
        Work::Changes(changes) => several(turn, changes),
        Work::Flush => flush(turn),
        Work::Run(args) if is_there => next = run(turn, args),
        Work::Run(_) => {}
        Work::Exec(count) => turn.reply.array(*count),
    }
    if turn.node.touched.recording {
        notify::tell_touched(turn);
    }
    if item.flags & NO_TOUCH != 0 {
        turn.node.keyspace.set_touching(true);
    }
    if item.flags & INNER == 0 {
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

/// Takes back that changes are under way, for which there is no space. The parts of a transaction have no answers.
fn refuse(turn: &mut Turn<'_, '_, '_>, work: &Work) {
    let commits = &mut turn.node.commits;
    match work {
        Work::Change { slot } => commits.settle(*slot),
        Work::Changes(changes) => changes.slots.iter().for_each(|&slot| commits.settle(slot)),
        Work::Flush => commits.flushing -= 1,
        Work::Run(_) | Work::Exec(_) => {}
    }
    if !turn.in_transaction {
        turn.reply.error(propose::NO_SPACE_LEFT);
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

fn flush(turn: &mut Turn<'_, '_, '_>) {
    let node = &mut *turn.node;
    node.commits.flushing -= 1;
    node.keyspace.apply_flush();
    node.touched.writes += 1;
    turn.reply.ok();
}

fn run(turn: &mut Turn<'_, '_, '_>, args: &OwnedArgs) -> Next {
    let args = args.args();
    let row = table::find(args.at(0)).and_then(|row| resolve::subcommand(row, args).ok());
    row.map_or(Next::Go, |row| dispatch::run_now(turn, row, args))
}
