//! How a cluster is: who leads, whether everything is where it is to be, whether the replicas are alike.

use std::collections::BTreeSet;
use std::time::Duration;

use marline::cluster::map::{Map, ReplicaId};
use marline::cluster::plan;
use marline::node::Node;
use marline::node::cluster::status::Standing;
use marline::ring;

use super::World;

impl World {
    pub fn standings(&self, shard: u16) -> Vec<(usize, Standing<'_>)> {
        let of_node = |node| {
            let mut standings = self.node(node)?.standings();
            Some((node, standings.find(|standing| standing.shard == shard)?))
        };
        let members = self.members();
        let members = members.into_iter();
        members.filter_map(of_node).collect()
    }

    /// The running nodes that have a replica of a shard.
    pub fn holders(&self, shard: u16) -> Vec<usize> {
        let standings = self.standings(shard).into_iter();
        standings.map(|(node, _)| node).collect()
    }

    /// The shard that a key is in.
    pub fn shard_of(&self, key: &str) -> u16 {
        ring::shard_of_slot(ring::slot(key.as_bytes()), self.plan.shards)
    }

    /// The node that leads a shard in the latest term, if it is alive.
    pub fn leader(&self, shard: u16) -> Option<usize> {
        let leaders = self.standings(shard).into_iter();
        let leaders = leaders.filter(|(_, standing)| standing.is_leader);
        let latest = leaders.max_by_key(|(_, standing)| standing.term);
        latest.map(|(node, _)| node)
    }

    /// The nodes that answer reads of a shard from their own store, if they are asked, each with the shard.
    pub fn readers(&self) -> impl Iterator<Item = (usize, u16)> {
        let of_node = |node: usize| {
            let clock = self.net.clock(self.seats[node - 1].at);
            let shards = self.node(node).map(|it| it.readable(clock));
            shards.into_iter().flatten().map(move |shard| (node, shard))
        };
        self.all().flat_map(of_node)
    }

    /// Whether the members of some shard are being changed, as far as a running node knows.
    pub fn is_changing(&self) -> bool {
        self.all().any(|node| {
            let place = self.node(node).and_then(Node::place);
            place.is_some_and(|(map, _)| map.every_placement().any(|(_, it)| it.next.is_some()))
        })
    }

    /// Whether all shards have leaders.
    pub fn is_led(&self) -> bool {
        let shards = self.shards();
        shards.len() > usize::from(self.plan.shards)
            && shards.iter().all(|&shard| self.leader(shard).is_some())
    }

    /// All shards of which a running node has a replica.
    pub fn shards(&self) -> BTreeSet<u16> {
        let members = self.members();
        let nodes = members.iter().filter_map(|&node| self.node(node));
        nodes
            .flat_map(|node| node.standings().map(|it| it.shard))
            .collect()
    }

    /// The latest map that a running node knows.
    pub fn map(&self) -> Option<&Map> {
        let maps = self
            .all()
            .filter_map(|node| Some(self.node(node)?.place()?.0));
        maps.max_by_key(|map| map.epoch)
    }

    /// Whether the latest map has a node, be it one that is down.
    pub fn is_known(&self, node: usize) -> bool {
        let address = super::address(node);
        let map = self.map();
        map.is_some_and(|map| {
            let mut members = map.nodes.values();
            members.any(|it| !it.is_gone && it.address.to_string() == address)
        })
    }

    /// The running nodes that are members, or may yet become some.
    pub fn members(&self) -> Vec<usize> {
        let map = self.map();
        let is_member = |&node: &usize| {
            let place = self.node(node).and_then(Node::place);
            let number = place.map(|(_, number)| number);
            match (&map, number) {
                (Some(map), Some(number)) => map.nodes.contains_key(&number),
                _ => true,
            }
        };
        let running = self.all().filter(|&node| self.is_up(node));
        running.filter(is_member).collect()
    }

    /// What of the placement is not as it is to be; `None`: everything is.
    pub fn misplaced(&self) -> Option<String> {
        let Some(map) = self.map() else {
            return Some("there is no map".to_owned());
        };
        if let Some((shard, _)) = map.every_placement().find(|(_, it)| it.next.is_some()) {
            return Some(format!("shard {shard} is being changed"));
        }
        if let Some(next) = plan::next(map) {
            return Some(format!("there is more to do: {}", next.encode()));
        }
        let staying = map.staying();
        let count = staying.len().min(self.plan.replicas.into());
        for (shard, placement) in map.every_placement() {
            let nodes: BTreeSet<_> = placement.replicas.iter().map(|it| it.node()).collect();
            if nodes.len() != count || !nodes.iter().all(|node| staying.contains(node)) {
                return Some(format!("shard {shard} is at {nodes:?}"));
            }
        }
        self.members()
            .into_iter()
            .find_map(|node| self.misplaced_on(node, map))
    }

    fn misplaced_on(&self, node: usize, map: &Map) -> Option<String> {
        let Some((known, number)) = self.node(node)?.place() else {
            return Some(format!("node {node} is in no cluster"));
        };
        if known.epoch != map.epoch {
            return Some(format!(
                "node {node} knows the map of epoch {}",
                known.epoch
            ));
        }
        let standings = || self.node(node).into_iter().flat_map(Node::standings);
        let held = standings()
            .map(|it| (it.shard, ReplicaId(it.replica)))
            .collect::<Vec<_>>();
        if held != map.replicas_on(number) {
            return Some(format!("node {node} holds {held:?}"));
        }
        let wrong = standings().find(|it| {
            let mut voters: Vec<u64> = map.voters(it.shard).iter().map(|it| it.0).collect();
            voters.sort_unstable();
            it.members.voters != voters || it.members.all() != voters
        });
        wrong.map(|it| format!("node {node}: {it:?}"))
    }

    /// Waits until everything is where it is to be.
    pub fn settle_within(&mut self, time: Duration) {
        let rounds = time.as_millis() / 50;
        let is_settled = (0..rounds).any(|_| {
            self.pass(Duration::from_millis(50));
            self.misplaced().is_none()
        });
        if !is_settled {
            let map = self.map().map(Map::encode).unwrap_or_default();
            panic!("{}\n{map}", self.misplaced().unwrap_or_default());
        }
    }

    /// Why the replicas of a shard on the running nodes are not alike; `None`: they are.
    pub fn difference(&self, shard: u16) -> Option<String> {
        let standings = self.standings(shard);
        let what = |&(node, ref standing): &(usize, Standing<'_>)| {
            let digest = self.node(node).and_then(|node| node.digest(shard));
            (standing.applied, standing.last_index, digest)
        };
        let first = what(standings.first()?);
        let is_alike = first.0.index == first.1 && standings.iter().all(|it| what(it) == first);
        (!is_alike).then(|| {
            let all: Vec<_> = standings.iter().map(|it| (it.0, what(it))).collect();
            format!("shard {shard}: {all:?}")
        })
    }

    /// Waits until all replicas of the running nodes are alike.
    pub fn agree(&mut self) {
        // Not after every event: digests take their time.
        let does_agree = (0..400).any(|_| {
            self.pass(Duration::from_millis(50));
            let mut shards = self.shards().into_iter();
            self.is_led() && shards.all(|shard| self.difference(shard).is_none())
        });
        if !does_agree {
            let shards = self.shards();
            let differences = shards.iter().filter_map(|&shard| self.difference(shard));
            let differences: Vec<String> = differences.collect();
            panic!("the replicas do not become alike: {differences:#?}");
        }
    }

    /// A line for each replica.
    pub fn status(&self) -> String {
        let mut lines = format!("at {:.3} s\n", self.net.now() as f64 / 1e9);
        for node in self.all() {
            let state = match &self.seats[node - 1] {
                seat if seat.process.is_none() => "down",
                seat if seat.is_paused => "paused",
                _ => "up",
            };
            lines.push_str(&format!("node {node}: {state}\n"));
            for standing in self.node(node).into_iter().flat_map(Node::standings) {
                lines.push_str(&format!("  {standing:?}\n"));
            }
        }
        lines
    }
}
