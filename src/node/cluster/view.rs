//! What smart clients read: the cluster in the words of Redis Cluster.
//!
//! There a node is the master of its slots or the replica of one master. Here each shard has a leader and followers,
//! and a node leads some shards and follows in others. It is told like this:
//!
//! | reply | a shard's leader | its other replicas | a node that leads nothing |
//! |---|---|---|---|
//! | `CLUSTER SLOTS` | master of its slots | replicas, if they can be reached | |
//! | `CLUSTER SHARDS` | role `master` | role `replica`, `fail` if they cannot be reached | |
//! | `CLUSTER NODES` | `master`, with all its runs of slots | | `slave` of whom it follows most |
//!
//! - Clients are told whom to ask, and every node answers for every key. So while the leader of a shard is not known
//!   or cannot be reached, the first replica that can stands in: it waits for the next leader in its clients' place.
//! - A node that cannot be reached *from here* is `fail` and leads nothing.
//! - Neighbouring shards with the same leader and the same replicas are one run of slots.
//! - The epoch is the map's, for all nodes; there is no bus, so its port is the node's own.
//!
//! [`View`] knows this much and no sockets, so that what it says can be compared with what Redis says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::cluster::map::{Map, NodeId, ReplicaId};
use crate::command::parse::integer;
use crate::command::row::Row;
use crate::command::verb::Verb;
use crate::ring::{self, SLOTS};
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::super::Node;
use super::super::turn::Turn;
use super::{Cluster, forward};

/// What Redis answers when it is not in cluster mode.
pub const DISABLED: &str = "ERR This instance has cluster support disabled";

/// What is answered when there is no map to be shown.
const NO_MAP: &str =
    "ERR this node has no map yet: its cluster is being founded, or it is not taken in yet";

/// Whether this node is in a cluster, or is to found one.
pub fn is_enabled(node: &Node) -> bool {
    node.cluster.is_some() || !node.options.is_alone()
}

/// Redis's word for what kind of server this is.
pub fn mode(node: &Node) -> &'static str {
    match is_enabled(node) {
        true => "cluster",
        false => "standalone",
    }
}

/// READONLY, READWRITE, ASKING.
pub fn stance(turn: &mut Turn<'_, '_, '_>, verb: Verb) {
    if !is_enabled(turn.node) {
        return turn.reply.error(DISABLED);
    }
    if verb != Verb::Asking {
        turn.client().takes_stale = verb == Verb::Readonly;
    }
    turn.reply.ok();
}

/// CLUSTER and its subcommands.
pub fn cluster(turn: &mut Turn<'_, '_, '_>, verb: Verb, args: Args<'_>) {
    if verb == Verb::ClusterKeyslot {
        return turn.reply.int(ring::slot(args.at(2)).into());
    }
    let Some(cluster) = &turn.node.cluster else {
        return turn.reply.error(DISABLED);
    };
    match verb {
        Verb::ClusterMap => match &cluster.map {
            Some(map) => turn.reply.verbatim(&map.encode()),
            None => turn.reply.error(NO_MAP),
        },
        Verb::ClusterMyid => turn.reply.bulk(cluster.name.as_bytes()),
        Verb::ClusterCountkeysinslot => count_keys(turn, args),
        Verb::ClusterGetkeysinslot => get_keys(turn, args),
        Verb::ClusterInfo => {
            let text = View::of(turn.node, cluster).info(cluster.forwards.len());
            turn.reply.verbatim(&text);
        }
        Verb::ClusterNodes => {
            let text = View::of(turn.node, cluster).nodes(turn.node.at_ms);
            turn.reply.verbatim(&text);
        }
        Verb::ClusterShards => View::of(turn.node, cluster).shards(&mut turn.reply),
        _ => View::of(turn.node, cluster).slots(&mut turn.reply),
    }
}

/// The shard of the slot that a command names, if it is one that names a slot and all its arguments are right.
pub fn shard_of(node: &Node, row: &Row, args: Args<'_>) -> Option<u16> {
    let slot = match row.verb {
        Verb::ClusterCountkeysinslot => slot(args)?,
        Verb::ClusterGetkeysinslot => slot(args).filter(|_| count(args).is_some())?,
        _ => return None,
    };
    Some(ring::shard_of_slot(slot, node.keyspace.count()))
}

fn slot(args: Args<'_>) -> Option<u16> {
    let slot = u16::try_from(integer(args.at(2)).ok()?).ok()?;
    Some(slot).filter(|&slot| slot < SLOTS)
}

fn count(args: Args<'_>) -> Option<usize> {
    usize::try_from(integer(args.at(3)).ok()?).ok()
}

fn count_keys(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    match (integer(args.at(2)), slot(args)) {
        (Err(fault), _) => turn.reply.error_bytes(&fault.text),
        (_, None) => turn.reply.error("ERR Invalid slot"),
        (_, Some(slot)) => {
            let keys = turn
                .node
                .keyspace
                .keys_of_slot(slot, usize::MAX, turn.node.at_ms);
            turn.reply.count(keys.len());
        }
    }
}

fn get_keys(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    if let Err(fault) = integer(args.at(2)).and_then(|_| integer(args.at(3))) {
        return turn.reply.error_bytes(&fault.text);
    }
    let (Some(slot), Some(count)) = (slot(args), count(args)) else {
        return turn.reply.error("ERR Invalid slot or number of keys");
    };
    let keys = turn
        .node
        .keyspace
        .keys_of_slot(slot, count, turn.node.at_ms);
    turn.reply.array(keys.len());
    keys.iter().for_each(|key| turn.reply.bulk(key));
}

/// A node, as clients are told of it.
struct Known {
    name: String,
    /// Where it is; `None`: another member is there by now.
    address: Option<SocketAddr>,
    is_reachable: bool,
}

/// A shard, as clients are told of it.
struct Held {
    slots: RangeInclusive<u16>,
    /// Whom to ask, if there is anybody.
    master: Option<NodeId>,
    /// The nodes of its other replicas.
    followers: Vec<NodeId>,
    /// Whether its leader is known and can be reached.
    is_led: bool,
}

/// The cluster, as a node sees it.
pub struct View {
    /// The node that sees it; 0 when it is none of the map's.
    me: NodeId,
    epoch: u64,
    nodes: BTreeMap<NodeId, Known>,
    shards: Vec<Held>,
    /// Up to which entry of its log a node has a shard, where that is known.
    offsets: BTreeMap<(usize, NodeId), u64>,
}

impl View {
    /// What a node without a map sees: itself.
    pub fn alone(name: &str, address: SocketAddr) -> View {
        let mut view = View {
            me: 0,
            epoch: 0,
            nodes: BTreeMap::new(),
            shards: Vec::new(),
            offsets: BTreeMap::new(),
        };
        view.add_node(0, name, Some(address), true);
        view
    }

    /// What node `me` sees of the cluster of this map, by what it knows of leaders and of who can be reached.
    pub fn new(
        map: &Map,
        me: NodeId,
        leader: impl Fn(u16) -> Option<NodeId>,
        is_reachable: impl Fn(NodeId) -> bool,
    ) -> View {
        let mut view = View {
            me,
            epoch: map.epoch,
            nodes: BTreeMap::new(),
            shards: Vec::new(),
            offsets: BTreeMap::new(),
        };
        for (&node, member) in &map.nodes {
            let address = Some(member.address).filter(|_| !member.is_gone);
            let is_reachable = node == me || address.is_some() && is_reachable(node);
            view.add_node(node, &member.name, address, is_reachable);
        }
        for shard in 0..map.shards {
            let voters: Vec<NodeId> = map.voters(shard).iter().map(|id| id.node()).collect();
            let held = view.held(
                ring::slots_of_shard(shard, map.shards),
                &voters,
                leader(shard),
            );
            view.shards.push(held);
        }
        view
    }

    fn add_node(
        &mut self,
        node: NodeId,
        name: &str,
        address: Option<SocketAddr>,
        is_reachable: bool,
    ) {
        let name = name.to_owned();
        let known = Known {
            name,
            address,
            is_reachable,
        };
        self.nodes.insert(node, known);
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|known| known.is_reachable)
    }

    fn held(&self, slots: RangeInclusive<u16>, voters: &[NodeId], leader: Option<NodeId>) -> Held {
        let leading = leader.filter(|&node| self.is_reachable(node));
        let stands_in = || voters.iter().copied().find(|&node| self.is_reachable(node));
        let is_there = |node: &NodeId| {
            let known = self.nodes.get(node);
            known.is_some_and(|known| known.address.is_some())
        };
        let away = || leader.iter().chain(voters).copied().find(is_there);
        let master = leading.or_else(stands_in).or_else(away);
        let followers = voters.iter().copied();
        let mut followers: Vec<NodeId> = followers.filter(|&node| Some(node) != master).collect();
        followers.sort_unstable();
        Held {
            slots,
            master,
            followers,
            is_led: leading.is_some(),
        }
    }

    /// What a node sees.
    fn of(node: &Node, cluster: &Cluster) -> View {
        let Some(map) = &cluster.map else {
            return View::alone(&cluster.name, cluster.address);
        };
        let is_reachable = |id: NodeId| {
            let member = map.nodes.get(&id);
            let link = member.and_then(|member| cluster.links.get(&member.address));
            link.is_some_and(super::link::Link::is_ready)
        };
        let leader = |shard| forward::leader_of(node, shard);
        let mut view = View::new(map, cluster.me, leader, is_reachable);
        if cluster.me == 0 {
            view.add_node(0, &cluster.name, Some(cluster.address), true);
        }
        for shard in node.keyspace.replicas() {
            let number = usize::from(shard.number());
            view.offsets
                .insert((number, cluster.me), shard.applied().index);
            for follower in shard.followers() {
                let node = ReplicaId(follower.replica).node();
                view.offsets.insert((number, node), follower.matched);
            }
        }
        view
    }

    /// CLUSTER NODES, as of `at_ms`.
    pub fn nodes(&self, at_ms: u64) -> String {
        let runs = self.runs_by_master();
        let mut text = String::new();
        for (&id, known) in &self.nodes {
            let led = runs.get(&id);
            let followed = self.followed(id).filter(|_| led.is_none());
            let (ip, port) = known.place();
            let mut flags = String::new();
            flags.push_str(if id == self.me { "myself," } else { "" });
            flags.push_str(if followed.is_some() {
                "slave"
            } else {
                "master"
            });
            flags.push_str(if known.is_reachable { "" } else { ",fail" });
            flags.push_str(if known.address.is_some() {
                ""
            } else {
                ",noaddr"
            });
            let master = followed.and_then(|node| self.nodes.get(&node));
            let master = master.map_or("-", |known| &known.name);
            let (seen, state) = match known.is_reachable {
                true => (at_ms, "connected"),
                false => (0, "disconnected"),
            };
            let (name, epoch) = (&known.name, self.epoch);
            let line =
                format!("{name} {ip}:{port}@{port} {flags} {master} 0 {seen} {epoch} {state}");
            text.push_str(&line);
            for run in led.into_iter().flatten() {
                text.push(' ');
                text.push_str(&shown(run));
            }
            text.push('\n');
        }
        text
    }

    /// The runs of slots of those that lead some.
    fn runs_by_master(&self) -> BTreeMap<NodeId, Vec<RangeInclusive<u16>>> {
        let mut runs: BTreeMap<NodeId, Vec<RangeInclusive<u16>>> = BTreeMap::new();
        for held in &self.shards {
            let Some(master) = held.master else { continue };
            let runs = runs.entry(master).or_default();
            match runs.last_mut() {
                Some(last) if last.end() + 1 == *held.slots.start() => {
                    *last = *last.start()..=*held.slots.end();
                }
                _ => runs.push(held.slots.clone()),
            }
        }
        runs
    }

    /// The node that leads most of the shards in which this one follows.
    fn followed(&self, node: NodeId) -> Option<NodeId> {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for held in &self.shards {
            if let Some(master) = held.master.filter(|_| held.followers.contains(&node)) {
                *counts.entry(master).or_default() += 1;
            }
        }
        let most = counts.into_iter().rev().max_by_key(|&(_, count)| count);
        most.map(|(master, _)| master)
    }

    /// CLUSTER SLOTS.
    pub fn slots(&self, reply: &mut Reply<'_>) {
        let mut runs: Vec<(RangeInclusive<u16>, Vec<NodeId>)> = Vec::new();
        for held in &self.shards {
            let Some(master) = held.master else { continue };
            let followers = held.followers.iter().copied();
            let followers = followers.filter(|&node| self.is_reachable(node));
            let nodes: Vec<NodeId> = [master].into_iter().chain(followers).collect();
            match runs.last_mut() {
                Some((last, same)) if *same == nodes && last.end() + 1 == *held.slots.start() => {
                    *last = *last.start()..=*held.slots.end();
                }
                _ => runs.push((held.slots.clone(), nodes)),
            }
        }
        reply.array(runs.len());
        for (run, nodes) in runs {
            reply.array(2 + nodes.len());
            reply.int((*run.start()).into());
            reply.int((*run.end()).into());
            for node in nodes.iter().filter_map(|node| self.nodes.get(node)) {
                let (ip, port) = node.place();
                reply.array(4);
                reply.bulk(ip.as_bytes());
                reply.int(port.into());
                reply.bulk(node.name.as_bytes());
                reply.map(0);
            }
        }
    }

    /// CLUSTER SHARDS.
    pub fn shards(&self, reply: &mut Reply<'_>) {
        reply.array(self.shards.len());
        for (number, held) in self.shards.iter().enumerate() {
            reply.map(2);
            reply.bulk(b"slots");
            reply.array(2);
            reply.int((*held.slots.start()).into());
            reply.int((*held.slots.end()).into());
            reply.bulk(b"nodes");
            let nodes: Vec<NodeId> = held.master.iter().chain(&held.followers).copied().collect();
            reply.array(nodes.len());
            for node in nodes {
                let role = match Some(node) == held.master {
                    true => "master",
                    false => "replica",
                };
                self.replica(number, node, role, reply);
            }
        }
    }

    fn replica(&self, shard: usize, node: NodeId, role: &str, reply: &mut Reply<'_>) {
        let known = self.nodes.get(&node);
        let (ip, port) = known.map_or_else(|| (String::new(), 0), Known::place);
        let offset = self.offsets.get(&(shard, node)).copied().unwrap_or(0);
        let health = match self.is_reachable(node) {
            true => "online",
            false => "fail",
        };
        reply.map(7);
        reply.bulk(b"id");
        reply.bulk(known.map_or(&[], |known| known.name.as_bytes()));
        reply.bulk(b"port");
        reply.int(port.into());
        for (field, value) in [("ip", ip.as_str()), ("endpoint", &ip), ("role", role)] {
            reply.bulk(field.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"replication-offset");
        reply.int(offset.cast_signed());
        reply.bulk(b"health");
        reply.bulk(health.as_bytes());
    }

    /// CLUSTER INFO; `forwards` commands were passed on and are not answered.
    pub fn info(&self, forwards: usize) -> String {
        let slots = |held: &Held| held.slots.len();
        let assigned: usize = self.shards.iter().map(slots).sum();
        let led = self.shards.iter().filter(|held| held.is_led);
        let led: usize = led.map(slots).sum();
        let is_ok = led == usize::from(SLOTS);
        let unreachable = self.nodes.values().filter(|known| !known.is_reachable);
        let facts = [
            ("cluster_slots_assigned", assigned as u64),
            ("cluster_slots_ok", led as u64),
            ("cluster_slots_pfail", 0),
            ("cluster_slots_fail", (assigned - led) as u64),
            ("cluster_known_nodes", self.nodes.len() as u64),
            ("cluster_size", self.runs_by_master().len() as u64),
            ("cluster_current_epoch", self.epoch),
            ("cluster_my_epoch", self.epoch),
            ("cluster_stats_messages_sent", 0),
            ("cluster_stats_messages_received", 0),
            ("total_cluster_links_buffer_limit_exceeded", 0),
            ("marline_shards", self.shards.len() as u64),
            ("marline_nodes_unreachable", unreachable.count() as u64),
            ("marline_commands_passed_on", forwards as u64),
        ];
        let state = if is_ok { "ok" } else { "fail" };
        let mut text = format!("cluster_state:{state}\r\n");
        for (name, value) in facts {
            text.push_str(&format!("{name}:{value}\r\n"));
        }
        text
    }
}

impl Known {
    /// Address and port, as Redis writes them.
    fn place(&self) -> (String, u16) {
        match self.address {
            Some(address) => (address.ip().to_string(), address.port()),
            None => (String::new(), 0),
        }
    }
}

/// A run of slots, as Redis writes it.
fn shown(run: &RangeInclusive<u16>) -> String {
    match run.start() == run.end() {
        true => run.start().to_string(),
        false => format!("{}-{}", run.start(), run.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reply::Dialect;

    const MAP: &str = "cluster 00c0ffee00c0ffee\nepoch 12\nshards 4\nreplicas 3\nnext-node 5\n\
        node 1 1111111111111111111111111111111111111111 127.0.0.1:8001\n\
        node 2 2222222222222222222222222222222222222222 127.0.0.1:8002\n\
        node 3 3333333333333333333333333333333333333333 [fd00::3]:8003\n\
        node 4 4444444444444444444444444444444444444444 127.0.0.1:8002 gone\n\
        meta 1.1 2.1 3.1\n\
        shard 0 1.1 2.1 3.1\nshard 1 2.1 3.1 1.1\nshard 2 3.1 1.1 2.1\nshard 3 1.1 3.1 2.1\n";

    /// As node 2 sees it: these lead the shards, these can be reached.
    fn view(leaders: [Option<NodeId>; 4], reachable: &[NodeId]) -> View {
        let map = Map::decode(MAP.as_bytes()).unwrap();
        let leader = |shard: u16| leaders[usize::from(shard)];
        View::new(&map, 2, leader, |node| reachable.contains(&node))
    }

    fn written(write: impl Fn(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, Dialect::Resp2));
        String::from_utf8(out).unwrap().replace("\r\n", " ")
    }

    /// As [`View::slots`] has it: the ports of the nodes of each run.
    fn runs(view: &View) -> Vec<String> {
        let mut out = Vec::new();
        view.slots(&mut Reply::new(&mut out, Dialect::Json));
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let words = |run: &serde_json::Value| {
            let run = run.as_array().unwrap();
            let nodes = run[2..].iter().map(|node| node[1].to_string());
            let range = format!("{}-{}", run[0], run[1]);
            [range]
                .into_iter()
                .chain(nodes)
                .collect::<Vec<_>>()
                .join(" ")
        };
        json.as_array().unwrap().iter().map(words).collect()
    }

    #[test]
    fn nodes_that_lead_are_masters_with_all_their_runs() {
        let view = view([Some(1), Some(2), Some(3), Some(1)], &[1, 2, 3]);
        assert_eq!(
            view.nodes(1_795_654_075_354),
            "1111111111111111111111111111111111111111 127.0.0.1:8001@8001 master - 0 1795654075354 12 \
             connected 0-4095 12288-16383\n\
             2222222222222222222222222222222222222222 127.0.0.1:8002@8002 myself,master - 0 1795654075354 12 \
             connected 4096-8191\n\
             3333333333333333333333333333333333333333 fd00::3:8003@8003 master - 0 1795654075354 12 \
             connected 8192-12287\n\
             4444444444444444444444444444444444444444 :0@0 master,fail,noaddr - 0 0 12 disconnected\n"
        );
        assert_eq!(
            runs(&view),
            [
                "0-4095 8001 8002 8003",
                "4096-8191 8002 8001 8003",
                "8192-12287 8003 8001 8002",
                "12288-16383 8001 8002 8003",
            ]
        );
    }

    #[test]
    fn a_node_that_leads_nothing_is_a_slave_of_whom_it_follows_most() {
        let view = view([Some(1), Some(1), Some(3), Some(1)], &[1, 2, 3]);
        let lines = view.nodes(7);
        assert!(lines.contains(
            "8002@8002 myself,slave 1111111111111111111111111111111111111111 0 7 12 connected\n"
        ));
        assert!(lines.contains("8001@8001 master - 0 7 12 connected 0-8191 12288-16383\n"));
        assert_eq!(
            runs(&view)[0],
            "0-8191 8001 8002 8003",
            "neighbours are one run"
        );
    }

    #[test]
    fn while_a_leader_cannot_be_reached_a_replica_stands_in() {
        let view = view([Some(1), Some(2), Some(1), None], &[2, 3]);
        assert_eq!(runs(&view), ["0-8191 8002 8003", "8192-16383 8003 8002"]);
        let lines = view.nodes(7);
        assert!(lines.contains(
            "8001@8001 slave,fail 2222222222222222222222222222222222222222 0 0 12 disconnected\n"
        ));
        let info = view.info(0);
        let facts = [
            "cluster_state:fail",
            "cluster_slots_ok:4096",
            "cluster_slots_fail:12288",
            "cluster_size:2",
        ];
        for fact in facts {
            assert!(info.contains(&format!("{fact}\r\n")), "{fact} in {info}");
        }
    }

    #[test]
    fn shards_and_slots_are_written_as_redis_writes_them() {
        let mut view = view([Some(1), Some(2), Some(3), Some(1)], &[2, 3]);
        view.offsets.insert((1, 2), 42);
        let shards = written(|reply| view.shards(reply));
        let node = |name: char, port: u16, ip: &str, role: &str, offset: u64, health: &str| {
            format!(
                "*14 $2 id $40 {} $4 port :{port} $2 ip ${} {ip} $8 endpoint ${} {ip} $4 role ${} {role} \
                 $18 replication-offset :{offset} $6 health ${} {health} ",
                name.to_string().repeat(40),
                ip.len(),
                ip.len(),
                role.len(),
                health.len()
            )
        };
        let second = [
            "*4 $5 slots *2 :4096 :8191 $5 nodes *3 ",
            &node('2', 8002, "127.0.0.1", "master", 42, "online"),
            &node('1', 8001, "127.0.0.1", "replica", 0, "fail"),
            &node('3', 8003, "fd00::3", "replica", 0, "online"),
        ];
        assert!(
            shards.starts_with("*4 ") && shards.contains(&second.concat()),
            "{shards}"
        );
        let slots = written(|reply| view.slots(reply));
        let name = |digit: char| digit.to_string().repeat(40);
        let first = format!(
            "*2 *4 :0 :8191 *4 $9 127.0.0.1 :8002 $40 {} *0 *4 $7 fd00::3 :8003 $40 {} *0 ",
            name('2'),
            name('3')
        );
        assert!(slots.starts_with(&first), "{slots}");
    }

    #[test]
    fn a_node_without_a_map_sees_itself() {
        let view = View::alone("abc", "127.0.0.1:8001".parse().unwrap());
        assert_eq!(
            view.nodes(7),
            "abc 127.0.0.1:8001@8001 myself,master - 0 7 0 connected\n"
        );
        assert_eq!(written(|reply| view.slots(reply)), "*0 ");
        assert!(
            view.info(0)
                .starts_with("cluster_state:fail\r\ncluster_slots_assigned:0\r\n")
        );
    }
}
