//! From a list of addresses to a cluster.
//!
//! ```text
//!   every node        dials all of --cluster, and says that it is new
//!   the first of them has met all the others, all new ─▶ makes the map, and sends it: REPL FOUND
//!   every node        keeps what its replicas begin with, then tells all the others that are still new, and takes part
//! ```
//!
//! The first is the one with the lowest address, so that nobody needs to agree on it. A founder that was away meanwhile
//! is sent the map when it comes back and still says, under the name that is in the map, that it is new: a name stands
//! for what a node remembers, and goes with it. It begins its replicas as all others did, whatever the latest map is:
//! who only adopts that waits for others to bring what perhaps nobody has.
//!
//! Nobody tells what it does not keep: a node that died in between would found another cluster. And everybody tells,
//! so that it does not matter who dies meanwhile.
//!
//! The map may be on a disk before what the replicas begin with. A founder that finds nothing else there begins them
//! again.
//!
//! The first map is an entry that all replicas of the meta shard begin with, not one of its log: all logs begin behind
//! entry 1, which nobody has.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::cluster::map::{META, Map};
use crate::cluster::plan;
use crate::command::encode::encode_op;
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::shard::members::Members;
use crate::shard::recovery::Recovery;
use crate::shard::section::Base;

use super::super::Node;
use super::super::turn::Turn;
use super::{FOUNDING_KEY, MAP_KEY, adopt, link, membership};

/// How long a founder that finds a cluster waits to be known there, in ticks.
const FOUNDER_TICKS: u64 = 20;

/// Begins to look for the others.
pub fn begin(cx: &mut Cx<'_, Node>) {
    let mut wanted = cx.app.options.cluster.clone();
    match cx.app.options.join {
        Some(address) => log::info!("joining the cluster of {address}"),
        None => log::info!("founding a cluster: waiting for {} nodes", wanted.len()),
    }
    wanted.extend(cx.app.options.join);
    link::dial_all(cx, &wanted);
}

/// What clients hear while there is no cluster yet.
pub fn waiting(node: &Node) -> String {
    if let Some(address) = node.options.join {
        return format!("CLUSTERDOWN this node is joining the cluster of {address}");
    }
    let links = node.cluster.as_ref().map(|cluster| &cluster.links);
    let here = links.map_or(0, |links| {
        links.values().filter(|link| link.is_ready()).count()
    });
    let all = node.options.cluster.len();
    format!("CLUSTERDOWN the cluster is being founded: {here} of {all} nodes are there")
}

/// A node has said who it is.
pub fn met(cx: &mut Cx<'_, Node>, address: SocketAddr) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    if cluster.map.is_some() {
        return match cluster.begun {
            Some(Begun { is_told: false, .. }) => {}
            _ => tell(cx, address),
        };
    }
    let list = &cx.app.options.cluster;
    if list.iter().min() != Some(&cluster.address) {
        return;
    }
    let new = list.iter().filter_map(|address| {
        let called = cluster.links.get(address)?.called.as_ref()?;
        called
            .cluster
            .is_none()
            .then(|| (called.name.clone(), *address))
    });
    let members: Vec<(String, SocketAddr)> = new.collect();
    let names: BTreeSet<&String> = members.iter().map(|(name, _)| name).collect();
    if members.len() < list.len() || names.len() < list.len() {
        return;
    }
    let id = cx.net.random();
    let (shards, replicas) = (cx.app.options.shards, cx.app.options.replicas);
    match plan::found(id, shards, replicas, members) {
        Ok(map) => {
            log::info!("founded the cluster {id:016x}");
            failpoint::reach(Point::ClusterFounded);
            begin_replicas(cx, map);
        }
        Err(reason) => log::error!("no cluster can be founded: {reason}"),
    }
}

/// Sends the first map to one of its nodes that says it is new.
fn tell(cx: &mut Cx<'_, Node>, address: SocketAddr) {
    let founding = founding(cx.app);
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let Some(link) = cluster.links.get(&address) else {
        return;
    };
    let Some(called) = &link.called else { return };
    if called.cluster.is_some() || called.name == cluster.name {
        return;
    }
    if cluster.meeting.contains(&address) {
        let (name, address) = (called.name.clone(), address.to_string());
        let words = [&b"REPL"[..], b"JOIN", name.as_bytes(), address.as_bytes()];
        return membership::ask(cx.app, cx.net.now(), &words);
    }
    let is_in = |map: &&Map| map.node_of(&called.name).is_some();
    // Who has no replica of the meta shard knows the first map as long as it is the latest; later it cannot tell who
    // has founded, and leaves it to those who can.
    let latest = cluster.map.as_ref();
    let first = founding.as_ref();
    let first = first.or(latest.filter(|map| map.epoch == 1));
    if let Some(first) = first.filter(is_in) {
        link.say(&mut cx.net, "FOUND", first.encode().as_bytes());
    } else if let Some(map) = latest.filter(is_in).filter(|_| founding.is_some()) {
        link.say(&mut cx.net, "MAP", map.encode().as_bytes());
    }
}

/// A node that is in no cluster asks those that are to take it in: all of them, again and again, until it is told the
/// map. A founder waits a little: it may be known.
pub fn ask_to_join(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let is_early = cx.app.options.join.is_none() && cluster.ticks < FOUNDER_TICKS;
    if cluster.map.is_some() || is_early {
        return;
    }
    failpoint::reach(Point::JoiningAsked);
    let line = format!("REPL JOIN {} {}", cluster.name, cluster.address);
    for link in cluster.links.values() {
        // Who was in no cluster itself when it was dialed may be in one by now.
        if link.is_ready() {
            link.say_line(&mut cx.net, &line);
        }
    }
}

/// The first map, as the meta shard has it.
fn founding(node: &Node) -> Option<Map> {
    let entry = node.keyspace.meta()?.lookup(FOUNDING_KEY, node.at_ms)?;
    Map::decode(entry.value).ok()
}

/// Somebody sent the first map.
pub fn told(turn: &mut Turn<'_, '_, '_>, map: Map) {
    let Some(cluster) = &turn.node.cluster else {
        return;
    };
    let is_meant = map.node_of(&cluster.name).is_some_and(|node| {
        map.nodes
            .get(&node)
            .is_some_and(|member| member.address == cluster.address)
    });
    if cluster.map.is_some() || !is_meant || map.epoch != 1 {
        return;
    }
    // Not in the midst of a session: what it is made of is replaced.
    turn.net
        .call_later(std::time::Duration::ZERO, |cx| begin_replicas(cx, map));
}

/// Whether this node died when it had kept the first map, and nothing of what its replicas begin with. It has told
/// nobody, and promised nothing.
pub fn is_broken_off(node: &Node, map: &Map) -> bool {
    let mut shards = node.keyspace.shards().iter();
    map.epoch == 1 && shards.all(|shard| shard.is_vacant() && shard.hard_state().term == 0)
}

/// Begins the replicas that the first map gives this node; again, if that was [broken off](is_broken_off): who waits
/// for the others to bring it everything may wait for ever, for they may do the same.
pub fn begin_replicas(cx: &mut Cx<'_, Node>, map: Map) {
    let node = &mut *cx.app;
    let Some(cluster) = node
        .cluster
        .as_ref()
        .filter(|cluster| cluster.map.is_none())
    else {
        return;
    };
    let Some(me) = map.node_of(&cluster.name) else {
        return;
    };
    node.recut(map.shards);
    let mut preferred = Vec::new();
    for (shard, replica) in map.replicas_on(me) {
        let members: Vec<u64> = map.voters(shard).iter().map(|replica| replica.0).collect();
        let changes = if shard == META {
            first_entry(&map)
        } else {
            Vec::new()
        };
        let base = Recovery::founding(replica.0, &Members::of(&members), changes);
        begin_replica(node, shard, &base);
        if map.voters(shard).first() == Some(&replica) {
            preferred.push(shard);
        }
    }
    let (_, record) = node.flight.gathering();
    if let Some(cluster) = &mut node.cluster {
        cluster.begun = Some(Begun {
            record,
            preferred,
            is_told: false,
        });
    }
    failpoint::reach(Point::FoundersBegun);
    adopt(cx, map);
}

/// What is left to do for a founder whose replicas have begun.
pub struct Begun {
    /// The record that they are kept in.
    record: u64,
    /// Shards that this node is to lead.
    preferred: Vec<u16>,
    /// Whether the others have been told.
    is_told: bool,
}

/// At every tick: goes on where the replicas have begun. The others are told first, then elections are held.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let node = &mut *cx.app;
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let Some(begun) = &mut cluster.begun else {
        return;
    };
    if !begun.is_told && node.flight.is_kept(begun.record) {
        begun.is_told = true;
        let links: Vec<SocketAddr> = cluster.links.keys().copied().collect();
        failpoint::reach(Point::FoundingKept);
        links.into_iter().for_each(|address| tell(cx, address));
    } else if begun.is_told {
        let preferred = std::mem::take(&mut begun.preferred);
        cluster.begun = None;
        failpoint::reach(Point::FoundingTold);
        for shard in preferred {
            node.keyspace.campaign(shard);
        }
    }
}

fn begin_replica(node: &mut Node, shard: u16, base: &Base) {
    let mut recovery = Recovery::new(shard, node.hash_seed);
    recovery.begin(base).expect("nothing came before it");
    let (record, _) = node.flight.gathering();
    recovery.write_base(base, record);
    let mut fresh = recovery.finish();
    fresh.end_quiet();
    node.keyspace.replace(shard, fresh);
}

/// What the meta shard begins with.
fn first_entry(map: &Map) -> Vec<u8> {
    let (text, mut changes) = (map.encode(), Vec::new());
    for key in [MAP_KEY, FOUNDING_KEY] {
        encode_op(&super::put(key, text.as_bytes()), &mut changes);
    }
    changes
}
