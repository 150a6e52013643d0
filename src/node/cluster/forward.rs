//! Commands for shards that other nodes lead: passed on, answered in order, done at most once.
//!
//! ```text
//!   command ─▶ route of its shard ─┬─▶ link of the leader ─▶ answer ─▶ client (in the order of its commands)
//!                 ▲                └── waits: no leader is known, or the one before still has some
//!                 └─ not done: another leads now
//! ```
//!
//! - The commands of one shard reach its leaders in the order in which they came here; see [`routes`](super::routes).
//! - A command that came back undone goes again. One whose link broke goes again if it only reads; if it writes,
//!   nobody knows, and its client is told so: it may be done, or never be, but not twice.
//! - What is passed on is not passed on again: who does not lead says so.
//! - What finds no leader for ten seconds is refused: it was not done.
//!
//! An answer is for a client, or for a [gathering](super::gather) of which the command is a part.

use std::net::SocketAddr;

use crate::cluster::map::{NodeId, ReplicaId};
use crate::command::row::{Row, flag};
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::Args;

use super::super::client::Silence;
use super::super::commit::answer::deliver;
use super::super::commit::{self, Item, Work};
use super::super::turn::{Next, Turn};
use super::super::{Node, propose};
use super::frames::{self, EARLY, FRESH, Head, NO_TOUCH, Outcome};
use super::link::Link;
use super::routes::Routes;
use super::{Cluster, gather, sending, spread};

/// Ticks after which another replica is asked, where nobody knows who leads.
const GUESS_TICKS: u64 = 10;

/// What is answered when no leader was found in time.
const NO_LEADER: &str = "CLUSTERDOWN the shard has no leader that can be reached: nothing was done";
/// What is answered when nobody knows.
const UNKNOWN: &str = "UNKNOWN the node that leads the shard was lost: the write was done or will never be, \
                       nobody here can tell";

/// A client that waits for an answer.
pub struct Recipient {
    conn: ConnId,
    /// The number of the answer among those of the client.
    number: u64,
    is_silent: bool,
    verb: Verb,
    /// How the answer is to look.
    pub dialect: Dialect,
}

/// Who waits for what a command comes to.
pub enum Asker {
    /// A client: it gets the answer as it is.
    Client(Recipient),
    /// A gathering, of which it is this part.
    Part(usize, usize),
    /// Nobody.
    Nobody,
}

/// A command that is passed on.
pub struct Errand {
    /// Who asks.
    pub asker: Asker,
    /// How the answer is to look.
    pub dialect: Dialect,
    /// [`NO_TOUCH`], [`EARLY`].
    pub flags: u8,
    /// The command, as it [stands in a frame](frames::encoded).
    pub args: Box<[u8]>,
}

/// Commands that wait for a leader, or for its answer.
pub type Forwards = Routes<Errand>;

/// The command at hand will be answered later: it is counted, and takes its place among its client's.
pub fn recipient(turn: &mut Turn<'_, '_, '_>, verb: Verb) -> Recipient {
    let bytes = std::mem::take(&mut turn.request_bytes);
    let (dialect, conn) = (turn.reply.dialect(), turn.me);
    turn.count(verb);
    let client = turn.client();
    client.awaiting += 1;
    client.awaiting_bytes += bytes;
    Recipient {
        conn,
        number: client.replies.take(),
        is_silent: client.silence != Silence::Off,
        verb,
        dialect,
    }
}

/// What the commands of the client at hand are passed on with.
pub fn flags(turn: &mut Turn<'_, '_, '_>) -> u8 {
    let client = turn.client();
    let no_touch = if client.no_touch { NO_TOUCH } else { 0 };
    let early = if client.is_early { EARLY } else { 0 };
    no_touch | early
}

/// Passes a command on to the leader of its shard.
pub fn command(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>, shard: u16) -> Next {
    if propose::has_enough(turn) {
        return Next::Settle;
    }
    let is_write = row.is(flag::WRITE);
    whole(turn, row.verb, args, shard, is_write)
}

/// Passes something on whose answer is the client's, as it is.
pub fn whole(
    turn: &mut Turn<'_, '_, '_>,
    verb: Verb,
    args: Args<'_>,
    shard: u16,
    is_write: bool,
) -> Next {
    let recipient = recipient(turn, verb);
    let errand = Errand {
        dialect: recipient.dialect,
        asker: Asker::Client(recipient),
        flags: flags(turn),
        args: frames::encoded(args),
    };
    let now = turn.net.now();
    pass_on(turn.node, now, shard, is_write, errand);
    Next::Deferred
}

/// Passes something on to the leader of a shard.
pub fn pass_on(node: &mut Node, now: Nanos, shard: u16, is_write: bool, errand: Errand) {
    if let Some(cluster) = &mut node.cluster {
        cluster.forwards.add(shard, is_write, now, errand);
        pump(node, shard);
    }
}

/// Passes a read on that this node had taken, and whose shard it leads no longer.
pub fn read_again(node: &mut Node, now: Nanos, item: Item) {
    let Work::Run(args) = item.work else { return };
    let recipient = Recipient {
        conn: item.conn,
        number: item.number,
        is_silent: item.flags & commit::SILENT != 0,
        verb: item.verb,
        dialect: item.dialect,
    };
    let errand = Errand {
        asker: Asker::Client(recipient),
        dialect: item.dialect,
        flags: if item.flags & commit::NO_TOUCH != 0 {
            NO_TOUCH
        } else {
            0
        },
        args: frames::encoded(args.args()),
    };
    if let Some(cluster) = &mut node.cluster {
        cluster.forwards.add_taken(item.shard, false, now, errand);
        pump(node, item.shard);
    }
}

/// Passes something on that this node itself wants; nobody waits for the answer.
pub fn of_this_node(node: &mut Node, now: Nanos, args: Args<'_>, shard: u16) {
    let errand = Errand {
        asker: Asker::Nobody,
        dialect: Dialect::Resp2,
        flags: 0,
        args: frames::encoded(args),
    };
    // It is repeated by whoever wants it, if it must be.
    pass_on(node, now, shard, true, errand);
}

/// The node that leads a shard, as far as this one knows.
pub fn leader_of(node: &Node, shard: u16) -> Option<NodeId> {
    let cluster = node.cluster.as_ref()?;
    let of_replica = node.keyspace.leader(shard).map(|id| ReplicaId(id).node());
    let hint = cluster.forwards.hint(shard);
    let hint = hint.filter(|&node| is_reachable(cluster, node));
    // Who has no replica asks whom it was told of, else those that the map names, in turn.
    let guessed = || {
        let voters = cluster.map.as_ref()?.voters(shard);
        let there = voters.iter().map(|id| id.node());
        let there: Vec<NodeId> = there.filter(|&id| is_reachable(cluster, id)).collect();
        let guess = (cluster.ticks / GUESS_TICKS) as usize % there.len().max(1);
        there.get(guess).copied()
    };
    let is_vacant = node.keyspace.is_vacant(shard);
    of_replica.or(hint).or_else(|| is_vacant.then(guessed)?)
}

/// Whether something that is said to a node goes out.
fn is_reachable(cluster: &Cluster, node: NodeId) -> bool {
    let member = cluster.map.as_ref().and_then(|map| map.nodes.get(&node));
    let link = member.and_then(|member| cluster.links.get(&member.address));
    link.is_some_and(Link::is_ready)
}

/// Passes on what waits for a shard, as far as there is somebody.
pub fn pump(node: &mut Node, shard: u16) {
    pump_at(node, shard, false);
}

fn pump_at(node: &mut Node, shard: u16, is_tick: bool) {
    let leader = leader_of(node, shard);
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let Some(leader) = leader else { return };
    if leader == cluster.me && cluster.handing.has(shard) {
        return;
    }
    let address = cluster.map.as_ref().and_then(|map| map.nodes.get(&leader));
    let Some(address) = address.map(|member| member.address) else {
        return;
    };
    let link = cluster.links.get_mut(&address);
    let Some(link) = link.filter(|link| link.is_ready()) else {
        return;
    };
    let out = &mut link.commands;
    cluster
        .forwards
        .send(shard, leader, is_tick, |id, is_fresh, errand| {
            failpoint::reach(Point::CommandPassedOn);
            let head = Head {
                id,
                shard,
                dialect: errand.dialect,
                flags: errand.flags | if is_fresh { FRESH } else { 0 },
            };
            frames::put_head(out, head);
            out.extend_from_slice(&errand.args);
        });
}

/// A frame of answers has come.
///
/// # Errors
/// It makes no sense.
pub fn answered(cx: &mut Cx<'_, Node>, frame: &[u8]) -> Result<(), &'static str> {
    let mut rest = frame;
    while !rest.is_empty() {
        let (id, outcome) = frames::take_answer(&mut rest)?;
        if id & sending::ID_BIT != 0 {
            sending::answered(cx, id, outcome);
            continue;
        }
        if spread::is_question(id) {
            spread::answered(cx, id, outcome);
            continue;
        }
        let Some(cluster) = &mut cx.app.cluster else {
            return Ok(());
        };
        let shard = match outcome {
            Outcome::Replied(reply) => match cluster.forwards.done(id) {
                Some((shard, errand)) => {
                    failpoint::reach(Point::AnswerHeard);
                    if let Some(errand) = errand {
                        finish(cx, errand, reply);
                    }
                    Some(shard)
                }
                None => None,
            },
            Outcome::Moved(leader) => {
                failpoint::reach(Point::CommandCameBack);
                let leader = Some(ReplicaId(leader).node()).filter(|&node| node != 0);
                let shard = cluster.forwards.undone(id, leader);
                // Where that leads nowhere, somebody is asked at the next tick.
                shard.filter(|_| leader.is_some_and(|node| is_reachable(cluster, node)))
            }
            Outcome::Again => {
                cluster.forwards.undone(id, None);
                None
            }
        };
        if let Some(shard) = shard {
            pump(cx.app, shard);
        }
    }
    Ok(())
}

/// Gives the one who asked the answer.
fn finish(cx: &mut Cx<'_, Node>, errand: Errand, reply: &[u8]) {
    match errand.asker {
        Asker::Client(recipient) => reply_to(cx, &recipient, reply),
        Asker::Part(gathering, part) => gather::answered(cx, gathering, part, reply),
        Asker::Nobody => {}
    }
}

/// Gives a client its answer.
pub fn reply_to(cx: &mut Cx<'_, Node>, recipient: &Recipient, reply: &[u8]) {
    if let Some(text) = reply.strip_prefix(b"-") {
        let line = text.split(|&byte| matches!(byte, b'\r' | b'\n')).next();
        cx.app.stats.of(recipient.verb).failed += 1;
        cx.app.stats.error(line.unwrap_or_default());
    }
    let reply = if recipient.is_silent { &[][..] } else { reply };
    deliver(cx, recipient.conn, recipient.number, reply);
}

fn fail(cx: &mut Cx<'_, Node>, errand: Errand, text: &str) {
    failpoint::reach(Point::CommandGivenUp);
    let mut out = Vec::new();
    let is_told = text == NO_LEADER || planted::is(Bug::UnknownToldUndone);
    let text = if is_told { NO_LEADER } else { text };
    Reply::new(&mut out, errand.dialect).error(text);
    finish(cx, errand, &out);
}

/// The link to the node at `address` is gone.
pub fn lost(cx: &mut Cx<'_, Node>, address: SocketAddr) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let Some(node) = cluster.map.as_ref().and_then(|map| map.node_at(address)) else {
        return;
    };
    for errand in cluster.forwards.lost(node) {
        fail(cx, errand, UNKNOWN);
    }
    spread::lost(cx, node);
}

/// At every tick: passes on what has found a leader, refuses what has waited too long.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let now = cx.net.now();
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    for shard in cluster.forwards.waiting() {
        pump_at(cx.app, shard, true);
    }
    let busy = cx
        .app
        .cluster
        .as_ref()
        .map(|cluster| cluster.forwards.busy());
    let stale = busy.into_iter().flatten().map(|(shard, node)| {
        let leader = leader_of(cx.app, shard);
        (shard, leader.is_some_and(|leader| leader != node))
    });
    let stale: Vec<(u16, bool)> = stale.collect();
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let silent = cluster.forwards.silent(&stale);
    let ended = cluster.forwards.expire(now);
    for errand in silent {
        fail(cx, errand, UNKNOWN);
    }
    for errand in ended.undone {
        fail(cx, errand, NO_LEADER);
    }
    for errand in ended.unknown {
        fail(cx, errand, UNKNOWN);
    }
    spread::tend(cx);
}
