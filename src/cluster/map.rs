//! The cluster map: what the meta shard agrees on.
//!
//! It is a text, one fact a line, so that people can read what their cluster has decided:
//!
//! ```text
//!   cluster 00c0ffee00c0ffee                             the cluster's number, 16 hex digits
//!   epoch 12                                             every map that replaces another has the next epoch
//!   shards 16                                            into how many shards the keys are cut
//!   replicas 3                                           nodes that hold each shard, when there are so many
//!   next-node 5                                          the number of the next node that joins
//!   node 1 3f9c… 127.0.0.1:8001                          number, name, address
//!   node 2 77ab… 127.0.0.1:8002 leaving                  its replicas move away; then it is forgotten
//!   node 3 e001… 127.0.0.1:8004 leaving gone             another member has this address by now
//!   meta 1.1 2.1 4.9                                     replicas of the meta shard, node.generation
//!   shard 0 1.1 2.1 4.10                                 replicas of a shard; the first should lead
//!   shard 1 2.1 3.1 1.1 > 2.1 4.12 1.1                   ... and what they are being changed to
//! ```
//!
//! - A *node* has a number that the map gives out and a name that the node gave itself. A node that lost its data
//!   has lost its name too, so that nobody takes it for the one that it was.
//! - A *replica*'s name is its node and the epoch in which it was planned. No name comes twice: Raft believes
//!   that a replica still has what it once acknowledged under its name.
//! - *Gone* says that a member cannot be reached at its address, because a later one is there. It does not move
//!   anything by itself, and ends when the member joins again under its name.
//!
//! Invariants: [`Map::check`]. The text is canonical: decoded and encoded again it is the same bytes, and a text of
//! which that is not true is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::{FromStr, Lines};

use crate::config::{NODES_MAX, REPLICAS_MAX};
use crate::ring::SLOTS;

/// Longest text of a map, in bytes; the longest that can be comes to a tenth of it.
pub const TEXT_BYTES_MAX: usize = 64 << 20;
/// Length of a node's name, in hex digits.
pub const NAME_CHARS: usize = 40;
/// The last epoch: a generation is an epoch in 32 bits.
pub const EPOCH_MAX: u64 = u32::MAX as u64 - 1;
/// The meta shard's number: that of no other shard.
pub const META: u16 = SLOTS;

/// The number of a shard as people say it.
pub fn shown(shard: u16) -> String {
    match shard {
        META => "meta".to_owned(),
        number => number.to_string(),
    }
}

/// Number of a node, given out by the map: from 1, never reused.
pub type NodeId = u32;

/// A replica's name in its Raft group: `node << 32 | generation`, never reused. Neither part is 0.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// The replica on `node` that was planned in the epoch `generation`.
    pub fn new(node: NodeId, generation: u32) -> ReplicaId {
        ReplicaId(u64::from(node) << 32 | u64::from(generation))
    }

    /// The node that it is on.
    pub fn node(self) -> NodeId {
        (self.0 >> 32) as NodeId
    }

    /// The epoch in which it was planned.
    pub fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node(), self.generation())
    }
}

impl FromStr for ReplicaId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('.')
            .and_then(|(node, generation)| {
                let replica = ReplicaId::new(node.parse().ok()?, generation.parse().ok()?);
                Some(replica).filter(|replica| replica.node() > 0 && replica.generation() > 0)
            })
            .filter(|replica| replica.to_string() == text)
            .ok_or_else(|| {
                let text = text.escape_debug();
                format!("'{text}' is no replica: they are named node.generation")
            })
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its lasting name, [`NAME_CHARS`] hex digits in lower case.
    pub name: String,
    /// Where clients and other nodes reach it.
    pub address: SocketAddr,
    /// Its replicas are to move to others; when it has none any more it is forgotten. Never taken back.
    pub is_leaving: bool,
    /// Another member has its address: see the module.
    pub is_gone: bool,
}

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The voters; the first is the preferred leader.
    pub replicas: Vec<ReplicaId>,
    /// What they are being changed to: one replaced, one more or one fewer.
    pub next: Option<Vec<ReplicaId>>,
}

impl Placement {
    /// One that is not being changed.
    pub fn of(replicas: Vec<ReplicaId>) -> Placement {
        let next = None;
        Placement { replicas, next }
    }

    /// Every replica of now and of after the change, each once.
    pub fn all(&self) -> impl Iterator<Item = ReplicaId> {
        let next = self.next.iter().flatten();
        let new = next.filter(|replica| !self.replicas.contains(replica));
        self.replicas.iter().chain(new).copied()
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for replica in &self.replicas {
            write!(f, "{between}{replica}")?;
            between = " ";
        }
        if let Some(next) = &self.next {
            f.write_str(" >")?;
            next.iter()
                .try_for_each(|replica| write!(f, " {replica}"))?;
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The cluster's number, drawn when it was founded.
    pub cluster: u64,
    /// `1..=EPOCH_MAX`; each map that replaces another has the next one.
    pub epoch: u64,
    /// Into how many shards the keys are cut, `1..=SLOTS`.
    pub shards: u16,
    /// Nodes that hold each shard, when there are so many: `1..=REPLICAS_MAX`.
    pub replicas: u8,
    /// The number of the next node that joins.
    pub next_node: NodeId,
    /// The members by their numbers.
    pub nodes: BTreeMap<NodeId, Member>,
    /// Where the meta shard is.
    pub meta: Placement,
    /// Where each shard is, by its number.
    pub placements: Vec<Placement>,
}

impl Map {
    /// The number of the member of this name.
    pub fn node_of(&self, name: &str) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(_, member)| member.name == name)
            .map(|(&node, _)| node)
    }

    /// The number of the member that is reached at this address.
    pub fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(_, member)| member.address == address && !member.is_gone)
            .map(|(&node, _)| node)
    }

    /// Members that are not leaving, in order: those that ought to hold something.
    pub fn staying(&self) -> Vec<NodeId> {
        let staying = self.nodes.iter().filter(|(_, member)| !member.is_leaving);
        staying.map(|(&node, _)| node).collect()
    }

    /// Where a shard is, or [`META`]; `None`: there is no such shard.
    pub fn placement(&self, shard: u16) -> Option<&Placement> {
        match shard {
            META => Some(&self.meta),
            _ => self.placements.get(usize::from(shard)),
        }
    }

    /// See [`Map::placement`].
    pub fn placement_mut(&mut self, shard: u16) -> Option<&mut Placement> {
        match shard {
            META => Some(&mut self.meta),
            _ => self.placements.get_mut(usize::from(shard)),
        }
    }

    /// Every shard with its placement; the meta shard comes last, as its number says.
    pub fn every_placement(&self) -> impl Iterator<Item = (u16, &Placement)> {
        (0..self.shards)
            .zip(&self.placements)
            .chain([(META, &self.meta)])
    }

    /// The voters of a shard, or of [`META`], as they are now; none: there is no such shard.
    pub fn voters(&self, shard: u16) -> &[ReplicaId] {
        self.placement(shard)
            .map_or(&[], |placement| &placement.replicas)
    }

    /// What a node has to keep: the replicas on it, those that a change is about to bring included, by shard.
    pub fn replicas_on(&self, node: NodeId) -> Vec<(u16, ReplicaId)> {
        self.every_placement()
            .flat_map(|(shard, placement)| placement.all().map(move |replica| (shard, replica)))
            .filter(|(_, replica)| replica.node() == node)
            .collect()
    }

    /// The map as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "cluster {:016x}", self.cluster)?;
        writeln!(text, "epoch {}", self.epoch)?;
        writeln!(text, "shards {}", self.shards)?;
        writeln!(text, "replicas {}", self.replicas)?;
        writeln!(text, "next-node {}", self.next_node)?;
        for (node, member) in &self.nodes {
            write!(text, "node {node} {} {}", member.name, member.address)?;
            text.push_str(if member.is_leaving { " leaving" } else { "" });
            text.push_str(if member.is_gone { " gone\n" } else { "\n" });
        }
        writeln!(text, "meta {}", self.meta)?;
        for (shard, placement) in self.placements.iter().enumerate() {
            writeln!(text, "shard {shard} {placement}")?;
        }
        Ok(())
    }

    /// The map that a text is.
    ///
    /// # Errors
    /// It is none, is not written as [`Map::encode`] writes it, or says what cannot be; where and why.
    pub fn decode(text: &[u8]) -> Result<Map, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("a map has at most {TEXT_BYTES_MAX} bytes"));
        }
        let text = str::from_utf8(text).map_err(|_| "a map is text".to_owned())?;
        let mut reader = Reader {
            lines: text.lines(),
            line: 0,
        };
        let map = reader
            .map()
            .map_err(|reason| format!("line {}: {reason}", reader.line))?;
        map.check()?;
        let canonical = map.encode();
        if canonical == text {
            return Ok(map);
        }
        let mut lines = canonical.split('\n').zip(text.split('\n'));
        let differs = lines.position(|(is, was)| is != was);
        Err(match differs {
            Some(at) => format!("line {}: is not written as maps are written", at + 1),
            None => "the lines do not end as those of a map".to_owned(),
        })
    }

    /// Whether everything in the map can be.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, is: u64, least: u64, most: u64| match (least..=most).contains(&is)
        {
            true => Ok(()),
            false => Err(format!("{what} must be between {least} and {most}")),
        };
        within("epoch", self.epoch, 1, EPOCH_MAX)?;
        within("shards", self.shards.into(), 1, SLOTS.into())?;
        within("replicas", self.replicas.into(), 1, REPLICAS_MAX.into())?;
        within("nodes", self.nodes.len() as u64, 1, NODES_MAX as u64)?;
        if self.placements.len() != usize::from(self.shards) {
            return Err("every shard must be placed, and nothing else".to_owned());
        }
        self.check_nodes()?;
        for (shard, placement) in self.every_placement() {
            self.check_placement(placement)
                .map_err(|reason| match shard {
                    META => format!("meta: {reason}"),
                    _ => format!("shard {shard}: {reason}"),
                })?;
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), String> {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (&node, member) in &self.nodes {
            let Member { name, address, .. } = member;
            let wrong = |reason: &str| Err(format!("node {node}: {reason}"));
            if node == 0 || node >= self.next_node {
                return wrong("its number was never given out");
            }
            if !is_name(name) {
                return wrong("its name is not 40 hex digits in lower case");
            }
            if !is_address(*address) {
                return wrong("nobody can connect to its address");
            }
            if !names.insert(name) {
                return wrong("another one has its name");
            }
            if !member.is_gone && !addresses.insert(address) {
                return wrong("another one has its address");
            }
        }
        match self.staying().is_empty() {
            true => Err("every node is leaving".to_owned()),
            false => Ok(()),
        }
    }

    fn check_placement(&self, placement: &Placement) -> Result<(), String> {
        let now = &placement.replicas;
        self.check_replicas(now)?;
        let Some(next) = &placement.next else {
            return Ok(());
        };
        self.check_replicas(next)?;
        let without = |list: &[ReplicaId], other: &[ReplicaId]| -> Vec<ReplicaId> {
            let mut list = list.to_vec();
            list.retain(|replica| !other.contains(replica));
            list
        };
        let (old, new) = (without(now, next), without(next, now));
        if old.len() > 1 || new.len() > 1 || old.len() + new.len() == 0 {
            return Err("a change replaces, adds or removes one replica".to_owned());
        }
        let is_on = |node| now.iter().any(|replica| replica.node() == node);
        match new.iter().any(|replica| is_on(replica.node())) {
            true => Err("a change brings a replica to a node that has one".to_owned()),
            false => Ok(()),
        }
    }

    fn check_replicas(&self, replicas: &[ReplicaId]) -> Result<(), String> {
        if replicas.is_empty() || replicas.len() > usize::from(REPLICAS_MAX) {
            return Err(format!("there must be 1 to {REPLICAS_MAX} replicas"));
        }
        let mut nodes = BTreeSet::new();
        for replica in replicas {
            if !self.nodes.contains_key(&replica.node()) {
                return Err(format!("the node of replica {replica} is not in the map"));
            }
            if replica.generation() == 0 || u64::from(replica.generation()) > self.epoch {
                return Err(format!("replica {replica} is from an epoch to come"));
            }
            if !nodes.insert(replica.node()) {
                return Err(format!("node {} has two replicas", replica.node()));
            }
        }
        Ok(())
    }
}

/// Whether a node can be named so.
pub fn is_name(name: &str) -> bool {
    let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    name.len() == NAME_CHARS && name.bytes().all(is_digit)
}

/// Whether a node can be connected to there, and the address is the same when it is read from its text.
pub fn is_address(address: SocketAddr) -> bool {
    let again = address.to_string().parse();
    address.port() > 0 && !address.ip().is_unspecified() && again == Ok(address)
}

/// Reads the lines of a map; what [`Map::check`] finds is not looked for.
struct Reader<'t> {
    lines: Lines<'t>,
    /// The line that was read last, from 1; the one behind the last when they came to an end.
    line: usize,
}

impl<'t> Reader<'t> {
    fn map(&mut self) -> Result<Map, String> {
        let cluster = self.field("cluster")?;
        let cluster =
            u64::from_str_radix(cluster, 16).map_err(|_| "a cluster's number is 16 hex digits")?;
        let epoch = number(self.field("epoch")?)?;
        let shards = number(self.field("shards")?)?;
        let replicas = number(self.field("replicas")?)?;
        let next_node = number(self.field("next-node")?)?;
        let mut nodes = BTreeMap::<NodeId, Member>::new();
        let meta = loop {
            let line = self.next();
            match line.and_then(|line| line.split_once(' ')) {
                Some(("node", _)) if nodes.len() == NODES_MAX => {
                    return Err(format!("there are at most {NODES_MAX} nodes"));
                }
                Some(("node", text)) => {
                    let (node, member) = member(text)?;
                    if nodes.range(node..).next().is_some() {
                        return Err("nodes stand in the order of their numbers".to_owned());
                    }
                    nodes.insert(node, member);
                }
                Some(("meta", text)) => break placement(text)?,
                _ => return Err("'node …' or 'meta …' must stand here".to_owned()),
            }
        };
        let mut placements = Vec::new();
        for shard in 0..shards {
            let text = self.field(&format!("shard {shard}"))?;
            placements.push(placement(text)?);
        }
        match self.next() {
            Some(_) => Err("nothing stands behind the last shard".to_owned()),
            None => Ok(Map {
                cluster,
                epoch,
                shards,
                replicas,
                next_node,
                nodes,
                meta,
                placements,
            }),
        }
    }

    fn next(&mut self) -> Option<&'t str> {
        self.line += 1;
        self.lines.next()
    }

    /// What stands behind `name` on the next line.
    fn field(&mut self, name: &str) -> Result<&'t str, String> {
        self.next()
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(|| format!("'{name} …' must stand here"))
    }
}

fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| format!("'{}' is no number that can stand here", text.escape_debug()))
}

fn member(text: &str) -> Result<(NodeId, Member), String> {
    let mut words = text.split(' ');
    let mut word = |what: &str| words.next().ok_or_else(|| format!("a node has {what}"));
    let node = number(word("a number")?)?;
    let name = word("a name")?.to_owned();
    let address = word("an address")?;
    let address = address
        .parse()
        .map_err(|_| format!("'{}' is no address", address.escape_debug()))?;
    let flags: Vec<&str> = words.collect();
    if let Some(flag) = flags
        .iter()
        .find(|flag| !["leaving", "gone"].contains(flag))
    {
        let flag = flag.escape_debug();
        return Err(format!("a node is 'leaving' or 'gone', not '{flag}'"));
    }
    let member = Member {
        name,
        address,
        is_leaving: flags.contains(&"leaving"),
        is_gone: flags.contains(&"gone"),
    };
    Ok((node, member))
}

fn placement(text: &str) -> Result<Placement, String> {
    let replicas = |text: &str| -> Result<Vec<_>, String> {
        text.split(' ').map(str::parse::<ReplicaId>).collect()
    };
    Ok(match text.split_once(" > ") {
        Some((now, next)) => Placement {
            replicas: replicas(now)?,
            next: Some(replicas(next)?),
        },
        None => Placement::of(replicas(text)?),
    })
}
