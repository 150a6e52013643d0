//! Writes under way: gathered, made durable together, applied, answered.
//!
//! ```text
//!   command ─▶ lane ── once a turn ──▶ entries of raft ──▶ record of all shards ──▶ disk
//!              (items here,                 │    ▲ messages                           │
//!               changes in the shards'      ▼    │                                    ▼
//!               open entries)          batch, until its entries are committed ─▶ applied, answered
//! ```
//!
//! A write is answered when what it says is as durable as `--sync` demands, on a majority of its shard's replicas, and
//! applied: not before. What arrives while a record is on its way to the disk is the next record, so that one sync of
//! the disk carries the writes of many clients (group commit). Reads do not wait: they see what has been applied, which
//! is what has been promised; in a cluster only as long as the shard's leader knows that it leads. A client's own
//! order is kept: what it says behind a write that is not answered is either part of a batch ([`Work::Run`]) or waits
//! until its writes are answered ([`Next::Settle`]).
//!
//! On a disk that syncs slowly the next batch is not handed over as soon as there is one: those who were just
//! answered say their next writes a moment later, and would wait for a whole sync more. So the batch is held for at
//! most a quarter of what a sync takes, and no longer than until as many have come as were answered; not
//! again for a while, if few came. Without it, half of the clients wait while the other half is synced. A batch that
//! is not held goes to the disk before the one that landed is applied and answered.
//!
//! A client that said `CLIENT ACK LEADER` is answered when the leader's own record is durable ([`EARLY`]), if its
//! command answers `OK` whatever happens; all else of a write is as ever, and so is what its client says behind it.
//!
//! A batch whose record finds no space is refused: what it changes is taken back before Raft hears of it, its
//! reads are answered as ever.
//!
//! The record holds what all shards have to keep, so that a command over several shards is in the log of a node that
//! is alone whole or not at all.
//!
//! The rooms: [`batches`] (what gathers and what is under way), `answer` (the end of a batch).
//!
//! [`Next::Settle`]: super::turn::Next::Settle

pub mod answer;
pub mod batches;

use std::time::Duration;

use crate::cluster::map::{META, shown};
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::wire::reply::Dialect;
use crate::wire::request::OwnedArgs;

use super::cluster::forward;
use super::journal::space::{self, Room};
use super::{Node, cluster, journal, saving, tail};
use answer::{Fate, conclude};
use batches::Committed;

/// Its reply is not sent: the client asked for silence.
pub const SILENT: u8 = 1;
/// It does not count as use of keys.
pub const NO_TOUCH: u8 = 1 << 1;
/// It is part of a transaction: EXEC is what is counted.
pub const INNER: u8 = 1 << 2;
/// It may take long: it is timed alone.
pub const TIMED: u8 = 1 << 3;
/// Another node has passed it on: it is restricted to its shard, and counted there.
pub const SERVED: u8 = 1 << 4;

/// Its client waits for this node alone, and what it answers is known before it is done: `OK`.
pub const EARLY: u8 = 1 << 5;
/// It has been answered so.
pub const ANSWERED: u8 = 1 << 6;

/// One command, or one part of a transaction, of a batch.
pub struct Item {
    /// Who asked.
    pub conn: ConnId,
    /// The number of the answer among those of that connection; a part of a transaction has none.
    pub number: u64,
    /// How the answer looks.
    pub dialect: Dialect,
    /// The command.
    pub verb: Verb,
    /// The shard that it is about.
    pub shard: u16,
    /// [`SILENT`], [`NO_TOUCH`], [`INNER`], [`TIMED`], [`SERVED`], [`EARLY`], [`ANSWERED`].
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
    /// This shard is emptied.
    FlushShard(u16),
    /// Something that changes nothing runs behind what is before it.
    Run(Box<OwnedArgs>),
    /// EXEC: so many items follow that are its parts.
    Exec(usize),
    /// The next change in the meta shard is a new map.
    Map,
}

impl Item {
    /// Something that the node itself wants.
    pub fn of_nobody(shard: u16, work: Work) -> Item {
        Item {
            conn: ConnId::NONE,
            number: 0,
            dialect: Dialect::Resp2,
            verb: Verb::Repl,
            shard,
            flags: 0,
            work,
            typed: None,
        }
    }
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

/// What is on its way to the disk.
pub struct Flight {
    /// What the shards have to keep and that is not on its way yet.
    record: Vec<u8>,
    /// Its number, counted from 1.
    number: u64,
    /// The record under way.
    under_way: Option<u64>,
    /// Items that wait for that, about.
    items: usize,
    /// Whether [`hand_over`] is at work.
    is_busy: bool,
}

impl Default for Flight {
    fn default() -> Flight {
        Flight {
            record: Vec::new(),
            number: 1,
            under_way: None,
            items: 0,
            is_busy: false,
        }
    }
}

impl Flight {
    /// Whether nothing is to be kept that is not.
    pub fn is_empty(&self) -> bool {
        self.record.is_empty() && self.under_way.is_none()
    }

    /// The record that gathers goes to the disk; its number.
    pub fn take_off(&mut self) -> u64 {
        let number = self.number;
        self.number += 1;
        number
    }

    /// Whether the record of this number is as durable as was asked for.
    pub fn is_kept(&self, number: u64) -> bool {
        number < self.number && self.under_way.is_none_or(|under_way| number < under_way)
    }

    /// The record that gathers, and its number.
    pub fn gathering(&mut self) -> (&mut Vec<u8>, u64) {
        (&mut self.record, self.number)
    }
}

/// Goes on with everything under way, as far as it goes. At the end of each turn, and when the disk is done.
pub fn hand_over(cx: &mut Cx<'_, Node>) {
    if cx.app.is_loading() || std::mem::replace(&mut cx.app.flight.is_busy, true) {
        return;
    }
    cluster::handing::go_on(cx);
    read_stalled(cx);
    loop {
        let has_closed = close(cx);
        let has_advanced = advance(cx);
        let has_flown = fly(cx);
        answer_early(cx);
        let has_concluded = conclude_committed(cx);
        let has_resumed = cluster::serve::resume(cx);
        if !has_closed && !has_advanced && !has_flown && !has_concluded && !has_resumed {
            break;
        }
    }
    cx.app.flight.is_busy = false;
    cluster::send(cx);
}

/// Runs the reads that wait until this node knows again that it leads their shards.
fn read_stalled(cx: &mut Cx<'_, Node>) {
    for shard in cx.app.commits.stalled() {
        let number = cx.app.keyspace.shards()[shard].number();
        let is_leader = cx.app.keyspace.is_leader(number);
        if is_leader && !cx.app.keyspace.can_read(number, cx.net.clock()) {
            continue;
        }
        let items = cx.app.commits.take_stalled(shard);
        match is_leader {
            true => conclude(cx, items, Fate::Kept),
            false => moved(cx, items),
        }
    }
}

/// Makes entries of what has gathered, unless a record is under way or the batch is held; whether there was anything.
fn close(cx: &mut Cx<'_, Node>) -> bool {
    let is_free = cx.app.flight.under_way.is_none() && cx.app.journal.is_free();
    if !cx.app.commits.has_open() || !is_free || cx.app.commits.is_held(cx.net.now()) {
        return false;
    }
    let bytes_max = cx.app.keyspace.record_bytes_max() + cx.app.flight.record.len();
    let has_room = match space::room_for(cx, bytes_max) {
        Room::Enough => true,
        Room::Soon => return false,
        Room::None => false,
    };
    let mut has_closed = false;
    if !has_room {
        cx.app.keyspace.take_back_all();
    }
    let at_ms = cx.app.at_ms;
    for lane in cx.app.commits.take_busy() {
        let items = cx.app.commits.take_lane(lane);
        let node = &mut *cx.app;
        let is_led = !node.commits.is_split() || node.keyspace.shards()[lane].is_leader();
        let has_changes = node.commits.is_split() && node.keyspace.shards()[lane].is_open();
        let at = match node.commits.is_split() {
            _ if !has_room => {
                conclude(cx, items, Fate::Refused);
                has_closed = true;
                continue;
            }
            _ if !is_led => {
                node.keyspace.take_back_of(lane);
                moved(cx, items);
                has_closed = true;
                continue;
            }
            true => node.keyspace.close(lane, at_ms),
            false => node.keyspace.close_all(at_ms),
        };
        if at.is_empty() && has_changes {
            // Raft takes nothing while the leadership is being handed over.
            conclude(cx, items, Fate::Moved);
            has_closed = true;
        } else if at.is_empty() {
            without_changes(cx, lane, items);
            has_closed = true;
        } else {
            failpoint::reach(Point::BatchProposed);
            node.commits.begin(items, &at);
            has_closed = true;
        }
    }
    has_closed
}

/// Items that change nothing run behind what is under way, or now; where this node does not know that it leads the
/// shard, they wait until it does.
fn without_changes(cx: &mut Cx<'_, Node>, lane: usize, items: Vec<Item>) {
    let Err(items) = cx.app.commits.join(lane, items) else {
        return;
    };
    let number = cx.app.keyspace.shards()[lane].number();
    let is_first = !cx.app.commits.is_stalled(lane);
    let can_read =
        !cx.app.commits.is_split() || is_first && cx.app.keyspace.can_read(number, cx.net.clock());
    match can_read {
        true => conclude(cx, items, Fate::Kept),
        false => cx.app.commits.stall(lane, items),
    }
}

/// Another node leads the shard now, and nothing was done: what only reads goes there.
fn moved(cx: &mut Cx<'_, Node>, items: Vec<Item>) {
    let mut others = Vec::new();
    for item in items {
        match item.work {
            Work::Run(_) if item.flags & (INNER | SERVED) == 0 => {
                forward::read_again(cx.app, cx.net.now(), item);
            }
            _ => others.push(item),
        }
    }
    if !others.is_empty() {
        conclude(cx, others, Fate::Moved);
    }
}

/// Concludes a batch whose entries are committed, `proposed` items with them and the others behind them. A read among
/// the former stands in the log where they do, and is as right as they are. One that came later is right as long as
/// this node leads: nothing can have been acknowledged but what is in front of it.
fn settle_batch(
    cx: &mut Cx<'_, Node>,
    lane: usize,
    mut items: Vec<Item>,
    proposed: usize,
    term: u64,
) {
    let later = items.split_off(proposed);
    let number = cx.app.keyspace.shards()[lane].number();
    let can_read = later.is_empty()
        || !cx.app.commits.is_split()
        || (cx.app.keyspace).can_read_behind(number, term, cx.net.clock());
    if can_read {
        items.extend(later);
        return conclude(cx, items, Fate::Kept);
    }
    conclude(cx, items, Fate::Kept);
    cx.app.commits.stall(lane, later);
}

/// Lets raft go on where it can; whether it could.
fn advance(cx: &mut Cx<'_, Node>) -> bool {
    let node = &mut *cx.app;
    let is_kept = !node.journal.is_absent();
    let (record, number) = node.flight.gathering();
    let has_advanced = node.keyspace.advance(is_kept.then_some(record), number);
    for (shard, index) in node.keyspace.take_replaced() {
        replaced(cx, shard, index);
    }
    has_advanced
}

/// A snapshot has taken the place of a shard: what became of the writes to it that wait is in there, or not.
fn replaced(cx: &mut Cx<'_, Node>, shard: u16, index: u64) {
    log::info!(
        "shard {}: taken over from a snapshot, up to entry {index}",
        shown(shard)
    );
    give_up(cx, shard);
    cluster::sending::forget(cx.app, shard);
    saving::installed(cx, shard, index);
    if shard == META {
        cluster::meta_changed(cx);
    }
}

/// Sends the record to the disk, if there is one and the disk is free; whether it did.
fn fly(cx: &mut Cx<'_, Node>) -> bool {
    let node = &mut *cx.app;
    let is_free = node.flight.under_way.is_none() && node.journal.is_free();
    if node.flight.record.is_empty() || !is_free {
        return false;
    }
    let record = std::mem::take(&mut node.flight.record);
    if node.journal.is_absent() {
        // Where a replica begins is written down nevertheless.
        node.flight.take_off();
        return false;
    }
    node.flight.under_way = Some(node.flight.take_off());
    node.flight.items = node.commits.underway();
    let marks = node.keyspace.begin_flight();
    let is_vote = node.keyspace.take_voted();
    if planted::is(Bug::AckBeforeSync) {
        node.keyspace.persisted(node.flight.number - 1);
    }
    failpoint::reach(Point::RecordHandedOver);
    journal::append(cx, record, marks, is_vote);
    true
}

/// The record under way is as durable as was asked for. Where batches wait for syncs, the next one goes to the disk
/// before this one is answered; else at the end of the turn, when the disk has begun what it does of its own.
pub fn land(cx: &mut Cx<'_, Node>) {
    let node = &mut *cx.app;
    let Some(number) = node.flight.under_way.take() else {
        return;
    };
    failpoint::reach(Point::RecordLanded);
    node.keyspace.persisted(number);
    answer_early(cx);
    failpoint::reach(Point::RecordCounted);
    let node = &mut *cx.app;
    let Some(sync_ns) = node.journal.sync_ns() else {
        return;
    };
    let now = cx.net.now();
    if let Some(until) = node.commits.hold(node.flight.items, now, sync_ns) {
        let delay = Duration::from_nanos(until - now);
        cx.net.call_later(delay, |_| {});
    }
    hand_over(cx);
}

/// Answers those who wait for this node alone, as far as its log has what they wrote.
fn answer_early(cx: &mut Cx<'_, Node>) {
    let node = &mut *cx.app;
    let shards = node.keyspace.shards();
    let is_kept = |shard: usize, index: u64| index <= shards[shard].persisted_index();
    for (batch, mut items) in node.commits.take_early(is_kept) {
        answer::answer_early(cx, &mut items);
        cx.app.commits.put_back(batch, items);
    }
}

/// Applies what is committed, and answers who waits for it; whether there was anything.
fn conclude_committed(cx: &mut Cx<'_, Node>) -> bool {
    let shards = cx.app.keyspace.take_committed();
    let has_concluded = !shards.is_empty();
    for &shard in &shards {
        conclude_shard(cx, shard);
    }
    for shard in shards {
        // One that waited for another of its batch has gone on with that.
        conclude_shard(cx, shard);
        failpoint::reach(Point::ShardApplied);
        cx.app.keyspace.settle(shard);
        // What is read, and until when keys live, is reckoned from where the log is.
        let at_ms = cx.app.keyspace.shards()[shard].applied().at_ms;
        cx.app.stamp(at_ms);
        if cx.app.keyspace.shards()[shard].number() == META {
            cluster::meta_changed(cx);
        }
    }
    has_concluded
}

/// Nobody here will ever know what became of the writes to a shard that wait: those who wait are told so.
pub fn give_up(cx: &mut Cx<'_, Node>, shard: u16) {
    let index = cx.app.keyspace.index_of_number(shard);
    let items = cx.app.commits.end_all(index);
    if items.is_empty() {
        return;
    }
    conclude(cx, items, Fate::Unknown);
}

fn conclude_shard(cx: &mut Cx<'_, Node>, shard: usize) {
    while let Some((index, term)) = cx.app.keyspace.next_committed(shard) {
        if !cx.app.tails.is_empty() {
            tail::tell(cx, shard);
        }
        failpoint::reach(Point::EntryCommitted);
        match cx.app.commits.committed(shard, index, term) {
            Committed::Later => return,
            Committed::Concluded(items, proposed) => {
                settle_batch(cx, shard, items, proposed, term);
            }
            Committed::Lost(items) => moved(cx, items),
            Committed::Unawaited => {
                let node = &mut *cx.app;
                node.keyspace.apply_entry(shard, &mut node.touched);
            }
        }
    }
}
