//! Commands for shards that other nodes lead: passed on, answered in order, done at most once.
//!
//! ```text
//!   command ─▶ route of its shard ─┬─▶ link of the leader ─▶ answer ─▶ client (in the order of its commands)
//!                 ▲                └── waits: no leader is known, or the one before still has some
//!                 └─ not done: another leads now
//! ```
//!
//! - The commands of one shard reach its leaders in the order in which they came here: while one node has some that it
//!   has not answered, nothing is sent to another.
//! - A command that came back undone goes again. One whose link broke goes again if it only reads; if it writes,
//!   nobody knows, and its client is told so: it may be done, or never be, but not twice.
//! - What is passed on is not passed on again: who does not lead says so.
//! - What was passed on to a node that leads no longer, and does not answer either, is given up after [`SILENCE_TICKS`]
//!   as if the link had broken: it may be a machine that is gone without a word.
//! - What finds no leader for [`WAIT_MAX`] is refused: it was not done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;

use crate::cluster::map::{NodeId, ReplicaId};
use crate::command::row::{Row, flag};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::{Args, OwnedArgs};

use super::super::client::Silence;
use super::super::commit::answer::deliver;
use super::super::turn::{Next, Turn};
use super::super::{Node, propose};
use super::frames::{self, NO_TOUCH, Outcome};
use super::sending;

/// Serials are counted up to this, and then anew: the highest bit of an id belongs to others.
const SERIAL_MAX: u32 = u32::MAX >> 1;
/// How long a command may wait for a leader.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long one that was passed on may be unanswered.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// For how many ticks a node that leads no longer may leave what was passed on to it unanswered.
const SILENCE_TICKS: u32 = 10;

/// What is answered when no leader was found in time.
const NO_LEADER: &str = "CLUSTERDOWN the shard has no leader that can be reached: nothing was done";
/// What is answered when nobody knows.
const UNKNOWN: &str = "UNKNOWN the node that leads the shard was lost: the write was done or will never be, \
                       nobody here can tell";

/// A command that is under way.
struct Forward {
    /// When it was passed on last, counted.
    serial: u32,
    /// When it came, counted.
    came: u64,
    conn: ConnId,
    /// The number of its answer among those of the client.
    number: u64,
    is_silent: bool,
    is_write: bool,
    dialect: Dialect,
    flags: u8,
    shard: u16,
    /// Since when.
    since: Nanos,
    /// Whom it was passed on to; 0: nobody.
    node: NodeId,
    args: OwnedArgs,
}

/// Where the commands of a shard go.
#[derive(Default)]
struct Route {
    /// The node that has some.
    node: NodeId,
    /// How many.
    count: usize,
    /// For how many ticks another node has led.
    stale_ticks: u32,
    /// Keys in [`Forwards::all`] of those that wait, in the order in which they came.
    waiting: BTreeMap<u64, usize>,
    /// Who leads, as somebody said who should know.
    hint: Option<NodeId>,
}

/// See the module.
#[derive(Default)]
pub struct Forwards {
    all: Slab<Forward>,
    serial: u32,
    came: u64,
    routes: BTreeMap<u16, Route>,
}

impl Forwards {
    /// Whether commands for a shard are under way or wait.
    pub fn has_some(&self, shard: u16) -> bool {
        self.routes
            .get(&shard)
            .is_some_and(|route| route.count > 0 || !route.waiting.is_empty())
    }

    /// Commands under way.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The command that was passed on under an id, unless that was given up: late answers are of no use.
    fn get(&self, id: u64) -> Option<usize> {
        let key = (id & u64::from(u32::MAX)) as usize;
        let forward = self.all.get(key)?;
        let is_it = forward.node != 0 && u64::from(forward.serial) == id >> 32;
        is_it.then_some(key)
    }
}

/// Passes a command on to the leader of its shard.
pub fn command(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>, shard: u16) -> Next {
    if propose::has_enough(turn) {
        return Next::Settle;
    }
    let bytes = std::mem::take(&mut turn.request_bytes);
    let (now, dialect, me) = (turn.net.now(), turn.reply.dialect(), turn.me);
    let client = turn.client();
    client.awaiting += 1;
    client.awaiting_bytes += bytes;
    let mut forward = Forward {
        serial: 0,
        came: 0,
        conn: me,
        number: client.replies.take(),
        is_silent: client.silence != Silence::Off,
        is_write: row.is(flag::WRITE),
        dialect,
        flags: if client.no_touch { NO_TOUCH } else { 0 },
        shard,
        since: now,
        node: 0,
        args: OwnedArgs::copy(args),
    };
    turn.count(row.verb);
    let Some(cluster) = &mut turn.node.cluster else {
        return Next::Go;
    };
    let forwards = &mut cluster.forwards;
    forwards.came += 1;
    forward.came = forwards.came;
    let came = forwards.came;
    let key = forwards.all.insert(forward);
    let route = forwards.routes.entry(shard).or_default();
    route.waiting.insert(came, key);
    pump(turn.node, shard);
    Next::Deferred
}

/// Passes something on that this node itself wants; nobody waits for the answer.
pub fn of_this_node(node: &mut Node, args: OwnedArgs, shard: u16) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let forwards = &mut cluster.forwards;
    forwards.came += 1;
    let came = forwards.came;
    let key = forwards.all.insert(Forward {
        serial: 0,
        came,
        conn: ConnId::NONE,
        number: 0,
        is_silent: true,
        // It is repeated by whoever wants it, if it must be.
        is_write: true,
        dialect: Dialect::Resp2,
        flags: 0,
        shard,
        since: node.at_ms * 1_000_000,
        node: 0,
        args,
    });
    let route = forwards.routes.entry(shard).or_default();
    route.waiting.insert(came, key);
    pump(node, shard);
}

/// The node that leads a shard, as far as this one knows.
pub fn leader_of(node: &Node, shard: u16) -> Option<NodeId> {
    let cluster = node.cluster.as_ref()?;
    let of_replica = node.keyspace.leader(shard).map(|id| ReplicaId(id).node());
    let hint = cluster
        .forwards
        .routes
        .get(&shard)
        .and_then(|route| route.hint);
    let preferred = || {
        let map = cluster.map.as_ref()?;
        (node.keyspace.is_vacant(shard)).then(|| map.voters(shard).first().map(|id| id.node()))?
    };
    of_replica.or(hint).or_else(preferred)
}

/// Passes on what waits for a shard, as far as there is somebody.
pub fn pump(node: &mut Node, shard: u16) {
    let leader = leader_of(node, shard);
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let Some(leader) = leader else { return };
    let Some(route) = cluster.forwards.routes.get_mut(&shard) else {
        return;
    };
    let is_handing = leader == cluster.me && cluster.handing.has(shard);
    if route.waiting.is_empty() || is_handing || route.count > 0 && route.node != leader {
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
    route.node = leader;
    for (_, key) in std::mem::take(&mut route.waiting) {
        let forward = &mut cluster.forwards.all[key];
        cluster.forwards.serial = (cluster.forwards.serial + 1) & SERIAL_MAX;
        forward.serial = cluster.forwards.serial;
        forward.node = leader;
        route.count += 1;
        let id = u64::from(forward.serial) << 32 | key as u64;
        let (dialect, flags) = (forward.dialect, forward.flags);
        frames::put_command(
            &mut link.commands,
            id,
            shard,
            dialect,
            flags,
            forward.args.args(),
        );
    }
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
        let Some(cluster) = &mut cx.app.cluster else {
            return Ok(());
        };
        // One that was given up meanwhile.
        let Some(key) = cluster.forwards.get(id) else {
            continue;
        };
        let shard = cluster.forwards.all[key].shard;
        leave_route(&mut cluster.forwards, shard);
        match outcome {
            Outcome::Replied(reply) => {
                let forward = cluster.forwards.all.remove(key);
                finish(cx, &forward, reply);
            }
            Outcome::Moved(leader) => {
                let hint = Some(ReplicaId(leader).node()).filter(|&node| node != 0);
                if let Some(route) = cluster.forwards.routes.get_mut(&shard) {
                    route.hint = hint;
                }
                wait_again(&mut cluster.forwards, key);
            }
            Outcome::Again => {
                // At the next tick: what was in the way needs some time.
                wait_again(&mut cluster.forwards, key);
                continue;
            }
        }
        pump(cx.app, shard);
    }
    Ok(())
}

fn leave_route(forwards: &mut Forwards, shard: u16) {
    if let Some(route) = forwards.routes.get_mut(&shard) {
        route.count -= 1;
    }
}

/// A command that was not done waits again, in its order: before all that came later.
fn wait_again(forwards: &mut Forwards, key: usize) {
    let forward = &mut forwards.all[key];
    forward.node = 0;
    if let Some(route) = forwards.routes.get_mut(&forward.shard) {
        route.waiting.insert(forward.came, key);
    }
}

/// Gives a client its answer.
fn finish(cx: &mut Cx<'_, Node>, forward: &Forward, reply: &[u8]) {
    let reply = if forward.is_silent { &[][..] } else { reply };
    deliver(cx, forward.conn, forward.number, reply);
}

fn fail(cx: &mut Cx<'_, Node>, forward: &Forward, text: &str) {
    let mut out = Vec::new();
    Reply::new(&mut out, forward.dialect).error(text);
    cx.app.stats.error(text.as_bytes());
    finish(cx, forward, &out);
}

/// The link to the node at `address` is gone.
pub fn lost(cx: &mut Cx<'_, Node>, address: SocketAddr) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let node = cluster.map.as_ref().and_then(|map| map.node_at(address));
    give_up(cx, |forward| {
        Some(forward.node) == node && forward.node != 0
    });
}

/// Ends or repeats what was passed on and will not be answered.
fn give_up(cx: &mut Cx<'_, Node>, is_lost: impl Fn(&Forward) -> bool) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let of_lost = cluster
        .forwards
        .all
        .iter()
        .filter(|(_, forward)| is_lost(forward));
    let mut lost: Vec<(u64, usize)> = of_lost.map(|(key, forward)| (forward.came, key)).collect();
    lost.sort_unstable();
    let mut unknown = Vec::new();
    for (_, key) in lost {
        let Some(cluster) = &mut cx.app.cluster else {
            return;
        };
        let (shard, is_write) = {
            let forward = &cluster.forwards.all[key];
            (forward.shard, forward.is_write)
        };
        leave_route(&mut cluster.forwards, shard);
        match is_write {
            true => unknown.push(cluster.forwards.all.remove(key)),
            false => wait_again(&mut cluster.forwards, key),
        }
    }
    for forward in &unknown {
        fail(cx, forward, UNKNOWN);
    }
}

/// At every tick: passes on what has found a leader, refuses what has waited too long.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let with_waiting =
        |(&shard, route): (&u16, &Route)| (!route.waiting.is_empty()).then_some(shard);
    let shards: Vec<u16> = cluster
        .forwards
        .routes
        .iter()
        .filter_map(with_waiting)
        .collect();
    shards.into_iter().for_each(|shard| pump(cx.app, shard));
    let now = cx.net.now();
    let is_old = |forward: &Forward, max: Duration| {
        now.saturating_sub(forward.since) > max.as_nanos() as Nanos
    };
    let mut late = Vec::new();
    if let Some(cluster) = &mut cx.app.cluster {
        let forwards = &mut cluster.forwards;
        for route in forwards.routes.values_mut() {
            let all = &mut forwards.all;
            route.waiting.retain(|_, &mut key| {
                let stays = !is_old(&all[key], WAIT_MAX);
                if !stays {
                    late.push(all.remove(key));
                }
                stays
            });
        }
    }
    for forward in late {
        fail(cx, &forward, NO_LEADER);
    }
    give_up(cx, |forward| {
        forward.node != 0 && is_old(forward, ANSWER_MAX)
    });
    give_up_stale(cx);
}

/// Gives up what was passed on to nodes that lead no longer and say nothing.
fn give_up_stale(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let busy = |(&shard, route): (&u16, &Route)| (route.count > 0).then_some((shard, route.node));
    let busy: Vec<(u16, NodeId)> = cluster.forwards.routes.iter().filter_map(busy).collect();
    for (shard, node) in busy {
        let is_stale = leader_of(cx.app, shard).is_some_and(|leader| leader != node);
        let Some(cluster) = &mut cx.app.cluster else {
            return;
        };
        let Some(route) = cluster.forwards.routes.get_mut(&shard) else {
            continue;
        };
        route.stale_ticks = if is_stale { route.stale_ticks + 1 } else { 0 };
        if route.stale_ticks > SILENCE_TICKS {
            route.stale_ticks = 0;
            give_up(cx, |forward| forward.shard == shard && forward.node == node);
            pump(cx.app, shard);
        }
    }
}
