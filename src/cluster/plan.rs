//! How one map follows another: founding, membership, and the way to the ideal placement in single steps.
//!
//! ```text
//!   found ── join, leave ──> next ──> the change is made ──> done ──> next ──> … ──> None: all is as it should be
//! ```
//!
//! [`next`] looks at nothing but the map: it asks [`place`] where the replicas ought to be, given where they are, and
//! takes one step towards that. There is no stored plan that a second joining node, or a leader who went away, could
//! make wrong. In this order:
//!
//! 1. *Repair*: a shard that has too few replicas gets one; one on a leaving node is replaced or, when too few
//!    nodes stay, removed. The shard with the fewest replicas on staying nodes goes first.
//! 2. *Balance*: a replica is replaced by one on an emptier node.
//! 3. *Lead*: the lists are put in order, all at once: no data move.
//! 4. *Forget*: a leaving member that holds nothing is no member any more.
//!
//! It ends: a repair lowers the number of replicas that are on leaving nodes, lack or are too many, and only a
//! membership change raises it; balance comes when that number is 0, leaves it so, and each of its steps goes from
//! a node to one that has less by two or more, which lowers the sum of the squares of the loads.
//!
//! Invariants: each map that is not the one given has the next epoch and passes [`Map::check`]. One change is under
//! way at a time, of one replica of one shard. No step lowers the number of a shard's replicas on staying
//! nodes, except where there were more than there must be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use crate::config::NODES_MAX;
use crate::planted::{self, Bug};

use super::map::{EPOCH_MAX, META, Map, Member, NodeId, Placement, ReplicaId, is_address, is_name};
use super::placement::place;

/// Why a membership change is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A node cannot have this name.
    Name(String),
    /// A node cannot be reached at this address.
    Address(SocketAddr),
    /// There are [`NODES_MAX`] members.
    Full,
    /// There is no such member.
    Unknown(NodeId),
    /// No node would stay.
    Last(NodeId),
    /// The member holds, or is about to hold, a replica of this shard.
    Holds(NodeId, u16),
    /// There are no further numbers: of epochs, or of nodes.
    Exhausted,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Name(name) => write!(
                f,
                "'{}' is no node's name: they have 40 hex digits in lower case",
                name.escape_debug()
            ),
            Refusal::Address(address) => write!(f, "nobody can connect to {address}"),
            Refusal::Full => write!(f, "a cluster has at most {NODES_MAX} nodes"),
            Refusal::Unknown(node) => write!(f, "there is no node {node}"),
            Refusal::Last(node) => write!(f, "no node would stay without node {node}"),
            Refusal::Holds(node, META) => write!(f, "node {node} holds the meta shard"),
            Refusal::Holds(node, shard) => write!(f, "node {node} holds shard {shard}"),
            Refusal::Exhausted => f.write_str("there are no further epochs, or numbers of nodes"),
        }
    }
}

/// The map of a new cluster, in its first epoch: its nodes have numbers in the order given, and the ideal placement.
///
/// # Errors
/// What cannot be: see [`Map::check`].
pub fn found(
    cluster: u64,
    shards: u16,
    replicas: u8,
    members: Vec<(String, SocketAddr)>,
) -> Result<Map, String> {
    let nodes: BTreeMap<NodeId, Member> = (1..)
        .zip(members)
        .map(|(node, (name, address))| (node, newcomer(&name, address)))
        .collect();
    let numbers: Vec<NodeId> = nodes.keys().copied().collect();
    let first = |node: &NodeId| ReplicaId::new(*node, 1);
    let placed = |list: &Vec<NodeId>| Placement::of(list.iter().map(first).collect());
    let placements = place(&numbers, shards, replicas.into(), None);
    let meta = numbers.iter().take(replicas.into()).map(first).collect();
    let map = Map {
        cluster,
        epoch: 1,
        shards,
        replicas,
        next_node: numbers.len() as NodeId + 1,
        nodes,
        meta: Placement::of(meta),
        placements: placements.iter().map(placed).collect(),
    };
    map.check().map(|()| map)
}

fn newcomer(name: &str, address: SocketAddr) -> Member {
    Member {
        name: name.to_owned(),
        address,
        is_leaving: false,
        is_gone: false,
    }
}

/// The map with the node `name` at `address`; the same map when that is so already.
///
/// - A new name gets the next number. When a member is at the address, it has lost its data, and its name with
///   them: that member is gone and leaves.
/// - A known name comes with its address of now. When another member is there, that one is gone until it joins
///   again under its name; that its address went to somebody does not mean that it lost anything. Whoever is
///   leaving is still leaving: once forgotten, it can join as a new node.
///
/// # Errors
/// Why not.
pub fn join(map: &Map, name: &str, address: SocketAddr) -> Result<Map, Refusal> {
    if !is_name(name) {
        return Err(Refusal::Name(name.to_owned()));
    }
    if !is_address(address) {
        return Err(Refusal::Address(address));
    }
    let known = map.node_of(name);
    let there = map.node_at(address);
    if known.is_some() && known == there {
        return Ok(map.clone());
    }
    let mut next = following(map).ok_or(Refusal::Exhausted)?;
    if let Some(member) = there.and_then(|node| next.nodes.get_mut(&node)) {
        member.is_gone = true;
        member.is_leaving |= known.is_none();
    }
    if let Some(member) = known.and_then(|node| next.nodes.get_mut(&node)) {
        member.address = address;
        member.is_gone = false;
        return Ok(next);
    }
    if next.nodes.len() >= NODES_MAX {
        return Err(Refusal::Full);
    }
    let following = next.next_node.checked_add(1).ok_or(Refusal::Exhausted)?;
    let number = there.filter(|_| planted::is(Bug::NumberReused));
    let number = number.unwrap_or(next.next_node);
    next.nodes.insert(number, newcomer(name, address));
    next.next_node = following;
    Ok(next)
}

/// The map in which a node is leaving; the same map when it is already.
///
/// # Errors
/// Why not.
pub fn leave(map: &Map, node: NodeId) -> Result<Map, Refusal> {
    let member = map.nodes.get(&node).ok_or(Refusal::Unknown(node))?;
    if member.is_leaving {
        return Ok(map.clone());
    }
    if map.staying() == [node] {
        return Err(Refusal::Last(node));
    }
    let mut next = following(map).ok_or(Refusal::Exhausted)?;
    if let Some(member) = next.nodes.get_mut(&node) {
        member.is_leaving = true;
    }
    Ok(next)
}

/// The map without a member that no placement names.
///
/// # Errors
/// Why not.
pub fn forget(map: &Map, node: NodeId) -> Result<Map, Refusal> {
    if !map.nodes.contains_key(&node) {
        return Err(Refusal::Unknown(node));
    }
    if let Some((shard, _)) = map.replicas_on(node).first() {
        return Err(Refusal::Holds(node, *shard));
    }
    if map.staying() == [node] {
        return Err(Refusal::Last(node));
    }
    let mut next = following(map).ok_or(Refusal::Exhausted)?;
    next.nodes.remove(&node);
    Ok(next)
}

/// The next single step towards the ideal; `None`: there is nothing to be done, or a change is under way.
pub fn next(map: &Map) -> Option<Map> {
    let is_changing = |(_, placement): (u16, &Placement)| placement.next.is_some();
    if map.every_placement().any(is_changing) {
        return None;
    }
    let ideal = Ideal::of(map);
    ideal
        .change(map)
        .or_else(|| ideal.order(map))
        .or_else(|| forget_one(map))
}

/// The map after the change at a shard, or at [`META`], was made; `None`: there is none under way.
pub fn done(map: &Map, shard: u16) -> Option<Map> {
    let changed = map.placement(shard)?.next.clone()?;
    with(map, shard, Placement::of(changed))
}

/// The map after the change at a shard, or at [`META`], was given up, before anything of it was made; `None`: there
/// is none under way. [`next`] may well propose it again, with a replica of another name.
pub fn undo(map: &Map, shard: u16) -> Option<Map> {
    let placement = map.placement(shard)?;
    placement.next.as_ref()?;
    with(map, shard, Placement::of(placement.replicas.clone()))
}

/// What is to be moved until all is where it ought to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moves {
    /// Single changes: replicas that are made, replaced or removed.
    pub changes: usize,
    /// How many replicas are to be made on a node, where there are any.
    pub to_make: BTreeMap<NodeId, usize>,
}

/// What is to be moved, the change that is under way included.
pub fn moves(map: &Map) -> Moves {
    let ideal = Ideal::of(map);
    let mut moves = Moves::default();
    for (shard, placement) in map.every_placement() {
        let (now, then) = (nodes_of(placement), ideal.nodes(shard));
        let missing = then.iter().filter(|node| !now.contains(node));
        let surplus = now.iter().filter(|node| !then.contains(node)).count();
        moves.changes += surplus.max(missing.clone().count());
        for &node in missing {
            *moves.to_make.entry(node).or_default() += 1;
        }
    }
    moves
}

/// A map to be changed: the same in the next epoch.
fn following(map: &Map) -> Option<Map> {
    let mut next = map.clone();
    next.epoch = Some(map.epoch + 1).filter(|&epoch| epoch <= EPOCH_MAX)?;
    Some(next)
}

fn with(map: &Map, shard: u16, placement: Placement) -> Option<Map> {
    let mut next = following(map)?;
    *next.placement_mut(shard)? = placement;
    Some(next)
}

fn forget_one(map: &Map) -> Option<Map> {
    let holding: BTreeSet<NodeId> = map
        .every_placement()
        .flat_map(|(_, placement)| placement.all())
        .map(ReplicaId::node)
        .collect();
    let mut leaving = map.nodes.iter().filter(|(_, member)| member.is_leaving);
    let (&node, _) = leaving.find(|(node, _)| !holding.contains(node))?;
    forget(map, node).ok()
}

fn nodes_of(placement: &Placement) -> Vec<NodeId> {
    placement
        .replicas
        .iter()
        .map(|replica| replica.node())
        .collect()
}

/// Where the replicas ought to be, on the nodes that stay.
struct Ideal {
    staying: BTreeSet<NodeId>,
    meta: Vec<NodeId>,
    shards: Vec<Vec<NodeId>>,
}

impl Ideal {
    fn of(map: &Map) -> Ideal {
        let staying = map.staying();
        let each = usize::from(map.replicas);
        let now: Vec<Vec<NodeId>> = map.placements.iter().map(nodes_of).collect();
        let meta = place(&staying, 1, each, Some(&[nodes_of(&map.meta)]));
        Ideal {
            meta: meta.into_iter().next().unwrap_or_default(),
            shards: place(&staying, map.shards, each, Some(&now)),
            staying: staying.into_iter().collect(),
        }
    }

    fn nodes(&self, shard: u16) -> &[NodeId] {
        match shard {
            META => &self.meta,
            _ => &self.shards[usize::from(shard)],
        }
    }

    /// A change of one replica of the shard that needs it most.
    fn change(&self, map: &Map) -> Option<Map> {
        let urgency = |shard: u16, placement: &Placement| {
            let now = nodes_of(placement);
            let stays = now.iter().filter(|node| self.staying.contains(node));
            let stays = stays.count();
            let is_whole = stays == now.len() && now.len() == self.nodes(shard).len();
            let stays = if is_whole { 0 } else { stays };
            (is_whole, stays, shard != META, shard)
        };
        let (shard, placement) = map
            .every_placement()
            .filter(|(shard, placement)| {
                BTreeSet::from_iter(nodes_of(placement))
                    != self.nodes(*shard).iter().copied().collect()
            })
            .min_by_key(|(shard, placement)| urgency(*shard, placement))?;
        let mut next = following(map)?;
        let changed = self.changed(&placement.replicas, shard, next.epoch as u32);
        next.placement_mut(shard)?.next = Some(changed);
        Some(next)
    }

    /// The list after one step: a replica more while there are too few, else one replaced, else one fewer.
    fn changed(&self, now: &[ReplicaId], shard: u16, generation: u32) -> Vec<ReplicaId> {
        let ideal = self.nodes(shard);
        let lacks = |node: &&NodeId| now.iter().all(|replica| replica.node() != **node);
        let new = ideal.iter().find(lacks);
        let new = new.map(|&node| ReplicaId::new(node, generation));
        let surplus = now
            .iter()
            .filter(|replica| !ideal.contains(&replica.node()))
            .min_by_key(|replica| self.staying.contains(&replica.node()));
        let mut changed = now.to_vec();
        match (new, surplus) {
            (Some(new), Some(old)) if now.len() >= ideal.len() => {
                changed
                    .iter_mut()
                    .filter(|it| *it == old)
                    .for_each(|it| *it = new);
            }
            (Some(new), _) => changed.push(new),
            (None, _) => changed.retain(|replica| Some(replica) != surplus),
        }
        changed
    }

    /// Every list in its order, when the replicas are where they ought to be.
    fn order(&self, map: &Map) -> Option<Map> {
        let mut next = following(map)?;
        for shard in (0..map.shards).chain([META]) {
            let ideal = self.nodes(shard);
            let replicas = &mut next.placement_mut(shard)?.replicas;
            replicas.sort_by_key(|replica| ideal.iter().position(|&node| node == replica.node()));
        }
        let is_changed = (&next.meta, &next.placements) != (&map.meta, &map.placements);
        Some(next).filter(|_| is_changed)
    }
}
