//! Where the replicas of every shard ought to be: a ring proposes, bounds dispose.
//!
//! Each node stands at [`POINTS`] points of a ring of 64-bit numbers, each shard at one (SipHash-2-4 with fixed keys:
//! the same everywhere and for ever). A shard's replicas belong to the first different nodes that are met from its
//! point onward. So a node that comes or goes concerns the shards next to its points only, whose replicas come from,
//! or go to, all of the others.
//!
//! The ring alone is uneven: its fullest node has up to a quarter more than its share. So loads are bounded, as tightly
//! as can be: of `total` replicas each node holds `total / nodes`, rounded down or up, and of the preferred leaders
//! likewise. The replicas can always be brought there, because of two nodes the one with more has one of a shard that
//! the other has none of; the leaders, because to lead an even share of each shard that one holds would be such a
//! solution in fractions, and where there is one of those there is one in whole numbers. The usual slack (a quarter
//! above the mean) would save nothing here: what is placed stays, and is not looked up on the ring again.
//!
//! ```text
//!   keep     a replica stays where it is, as long as its node is a member
//!   fill     what lacks goes to the first node on the ring that is below the bound and does not have the shard
//!   settle   what was filled in goes on to emptier nodes, along a chain of such where there is no direct way
//!   level    only then do replicas that were there before move: from the fullest node to the emptiest, and no
//!            second one of a shard before each has moved one
//!   lead     the first of a shard stays its preferred leader, except along chains that even out the leaders
//! ```
//!
//! `level` makes as few moves as there can be, so that a placement of which some moves have been made needs just the
//! others: [`plan`](super::plan) relies on it.
//!
//! Sources: Karger et al., "Consistent hashing and random trees" (1997); Mirrokni, Thorup, Zadimoghaddam, "Consistent
//! hashing with bounded loads" (2016); Harvey et al., "Semi-matchings for bipartite graphs" (2003), for the chains.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::map::NodeId;

/// Points of a node on the ring. The bounds make loads even, so that points need not; the more even the ring itself
/// is, the less has to stand elsewhere than it says. With 3 to 20 nodes the fullest is above the mean by 152 % with 1
/// point, by 33 % with 16, 17 % with 64, 12 % with 256; 64 points of 1,000 nodes are hashed and sorted in milliseconds.
pub const POINTS: u32 = 64;

/// Never changed: another key would be another ring.
const HASH_KEY: (u64, u64) = (0x4d61_726c_696e_6520, 0x7374_7261_6e64_7321);

/// The nodes that ought to hold each shard, the preferred leader first: `min(replicas, nodes.len())` of them, each
/// shard's different. With `current`, by shard, only what must move moves; nodes that are not in `nodes` count as
/// gone. The same arguments give the same placement, in whatever order the nodes are.
pub fn place(
    nodes: &[NodeId],
    shards: u16,
    replicas: usize,
    current: Option<&[Vec<NodeId>]>,
) -> Vec<Vec<NodeId>> {
    let nodes: Vec<NodeId> = BTreeSet::from_iter(nodes).into_iter().copied().collect();
    let each = replicas.min(nodes.len());
    let mut lists = Lists::keep(&nodes, usize::from(shards), each, current.unwrap_or(&[]));
    lists.fill(&nodes, each);
    lists.settle(Kind::Replica);
    lists.level();
    lists.settle(Kind::Leader);
    let named = |list: &Vec<usize>| list.iter().map(|&node| nodes[node]).collect();
    lists.of.iter().map(named).collect()
}

/// Points of the ring in order, with the index of the node that stands there.
struct Ring(Vec<(u64, usize)>);

impl Ring {
    fn of(nodes: &[NodeId], points_each: u32) -> Ring {
        let points = |(index, node): (usize, &NodeId)| {
            let node = node.to_le_bytes();
            (0..points_each)
                .map(move |point| (hash(b'n', &[node, point.to_le_bytes()].concat()), index))
        };
        let mut ring: Vec<(u64, usize)> = nodes.iter().enumerate().flat_map(points).collect();
        ring.sort_unstable();
        Ring(ring)
    }

    /// Nodes from a shard's point onward, once around; a node comes as often as it has points.
    fn walk(&self, shard: usize) -> impl Iterator<Item = usize> {
        let at = hash(b's', &(shard as u64).to_le_bytes());
        let begin = self.0.partition_point(|&(point, _)| point < at);
        let (before, behind) = self.0.split_at(begin);
        behind.iter().chain(before).map(|&(_, node)| node)
    }
}

fn hash(kind: u8, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(HASH_KEY.0, HASH_KEY.1);
    hasher.write(&[kind]);
    hasher.write(bytes);
    hasher.finish()
}

/// What nodes have of a shard, and what is made even.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Replicas that were filled in, among all replicas.
    Replica,
    /// Preferred leaders.
    Leader,
}

/// Placements in the making; nodes are indices into the list of nodes.
struct Lists {
    /// The nodes of each shard.
    of: Vec<Vec<usize>>,
    /// Which of them, `(shard, node)`, hold nothing yet.
    filled: BTreeSet<(usize, usize)>,
    /// Replicas on each node.
    loads: Vec<usize>,
}

impl Lists {
    /// What stays of `current`.
    fn keep(nodes: &[NodeId], shards: usize, each: usize, current: &[Vec<NodeId>]) -> Lists {
        let indices: BTreeMap<NodeId, usize> = nodes.iter().copied().zip(0..).collect();
        let mut lists = Lists {
            of: vec![Vec::new(); shards],
            filled: BTreeSet::new(),
            loads: vec![0; nodes.len()],
        };
        for (list, was) in lists.of.iter_mut().zip(current) {
            for &node in was.iter().filter_map(|node| indices.get(node)) {
                if !list.contains(&node) {
                    list.push(node);
                    lists.loads[node] += 1;
                }
            }
        }
        for shard in 0..shards {
            while lists.of[shard].len() > each {
                lists.drop_one(shard);
            }
        }
        lists
    }

    /// Takes one replica too many from the fullest node, the last in the list of such.
    fn drop_one(&mut self, shard: usize) {
        let list = &mut self.of[shard];
        let fullest = (0..list.len()).max_by_key(|&at| (self.loads[list[at]], at));
        if let Some(at) = fullest {
            self.loads[list.remove(at)] -= 1;
        }
    }

    /// Gives every shard as many replicas as it must have.
    fn fill(&mut self, nodes: &[NodeId], each: usize) {
        let lacks = |list: &Vec<usize>| list.len() < each;
        if !self.of.iter().any(lacks) {
            return;
        }
        let ring = Ring::of(nodes, POINTS);
        let bound = (self.of.len() * each).div_ceil(nodes.len());
        for shard in 0..self.of.len() {
            while lacks(&self.of[shard]) {
                let list = &self.of[shard];
                let fits = |node: &usize| self.loads[*node] < bound && !list.contains(node);
                let others = (0..nodes.len()).filter(|node| !list.contains(node));
                let emptiest = || others.min_by_key(|&node| self.loads[node]);
                let Some(node) = ring.walk(shard).find(fits).or_else(emptiest) else {
                    break;
                };
                self.of[shard].push(node);
                self.filled.insert((shard, node));
                self.loads[node] += 1;
            }
        }
    }

    /// Moves what may move, until no chain of moves makes the loads of that kind more even.
    fn settle(&mut self, kind: Kind) {
        let (mut loads, mut held) = (
            vec![0; self.loads.len()],
            vec![BTreeSet::new(); self.loads.len()],
        );
        match kind {
            Kind::Replica => {
                loads.clone_from(&self.loads);
                for &(shard, node) in &self.filled {
                    held[node].insert(shard);
                }
            }
            Kind::Leader => {
                for (shard, list) in self.of.iter().enumerate() {
                    if let Some(&leader) = list.first() {
                        held[leader].insert(shard);
                        loads[leader] += 1;
                    }
                }
            }
        }
        while let Some(chain) = self.chain(kind, &loads, &held) {
            for &(shard, from, to) in &chain {
                self.pass(kind, shard, from, to);
                held[from].remove(&shard);
                held[to].insert(shard);
                loads[from] -= 1;
                loads[to] += 1;
            }
        }
        if kind == Kind::Replica {
            self.loads = loads;
        }
    }

    /// The shortest chain of moves, `(shard, from, to)`, that begins at as full a node as possible and ends at one that
    /// has less by two or more.
    fn chain(
        &self,
        kind: Kind,
        loads: &[usize],
        held: &[BTreeSet<usize>],
    ) -> Option<Vec<(usize, usize, usize)>> {
        let least = loads.iter().min()?;
        let mut full: Vec<usize> = (0..loads.len())
            .filter(|&node| loads[node] >= least + 2)
            .collect();
        full.sort_by_key(|&node| Reverse(loads[node]));
        full.into_iter()
            .find_map(|node| self.chain_from(node, kind, loads, held))
    }

    fn chain_from(
        &self,
        begin: usize,
        kind: Kind,
        loads: &[usize],
        held: &[BTreeSet<usize>],
    ) -> Option<Vec<(usize, usize, usize)>> {
        let mut came: Vec<Option<(usize, usize)>> = vec![None; loads.len()];
        let mut queue = VecDeque::from([begin]);
        while let Some(from) = queue.pop_front() {
            for &shard in &held[from] {
                for to in self.ways(kind, shard) {
                    if to == begin || came[to].is_some() {
                        continue;
                    }
                    came[to] = Some((shard, from));
                    if loads[to] + 2 <= loads[begin] {
                        return Some(trace(&came, to));
                    }
                    queue.push_back(to);
                }
            }
        }
        None
    }

    /// Nodes to which what a node has of this shard can be passed on.
    fn ways(&self, kind: Kind, shard: usize) -> Vec<usize> {
        let list = &self.of[shard];
        match kind {
            Kind::Replica => (0..self.loads.len())
                .filter(|node| !list.contains(node))
                .collect(),
            Kind::Leader => list[1..].to_vec(),
        }
    }

    fn pass(&mut self, kind: Kind, shard: usize, from: usize, to: usize) {
        let list = &mut self.of[shard];
        let place = |node| list.iter().position(|&other| other == node);
        match (kind, place(from), place(to)) {
            (Kind::Replica, Some(at), None) => {
                list[at] = to;
                self.filled.remove(&(shard, from));
                self.filled.insert((shard, to));
            }
            (Kind::Leader, Some(at), Some(other)) => list.swap(at, other),
            _ => unreachable!("the ways lead from a replica to where it can go"),
        }
    }

    /// Moves replicas from the fullest node to the emptiest until all have the same, or one more.
    fn level(&mut self) {
        let mut held = vec![BTreeSet::new(); self.loads.len()];
        for (shard, list) in self.of.iter().enumerate() {
            for &node in list {
                held[node].insert(shard);
            }
        }
        let mut moved = vec![0; self.of.len()];
        for &(shard, _) in &self.filled {
            moved[shard] += 1;
        }
        let nodes = 0..self.loads.len();
        loop {
            let fullest = nodes
                .clone()
                .max_by_key(|&node| (self.loads[node], Reverse(node)));
            let emptiest = nodes.clone().min_by_key(|&node| self.loads[node]);
            let (Some(from), Some(to)) = (fullest, emptiest) else {
                return;
            };
            if self.loads[from] < self.loads[to] + 2 {
                return;
            }
            let was_there = |shard| !self.filled.contains(&(shard, from));
            let shard = held[from]
                .difference(&held[to])
                .copied()
                .min_by_key(|&shard| (was_there(shard), moved[shard]))
                .expect("a node with more replicas has one of a shard that the other has not");
            moved[shard] += usize::from(was_there(shard));
            self.pass(Kind::Replica, shard, from, to);
            held[from].remove(&shard);
            held[to].insert(shard);
            self.loads[from] -= 1;
            self.loads[to] += 1;
        }
    }
}

/// The moves that lead to `end`, the first one first.
fn trace(came: &[Option<(usize, usize)>], end: usize) -> Vec<(usize, usize, usize)> {
    let mut chain = Vec::new();
    let mut to = end;
    while let Some((shard, from)) = came[to] {
        chain.push((shard, from, to));
        to = from;
    }
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> Vec<NodeId> {
        (1..=count).collect()
    }

    /// Every load of `of` what nodes have is the mean, rounded down or up.
    fn assert_even(nodes: &[NodeId], of: impl Iterator<Item = NodeId>, what: &str) {
        let mut loads: BTreeMap<NodeId, usize> = nodes.iter().map(|&node| (node, 0)).collect();
        for node in of {
            *loads.get_mut(&node).expect(what) += 1;
        }
        let (total, count) = (loads.values().sum::<usize>(), nodes.len());
        for (node, load) in &loads {
            let even = total / count..=total.div_ceil(count);
            assert!(even.contains(load), "{what}: node {node} of {loads:?}");
        }
    }

    fn assert_ideal(nodes: &[NodeId], replicas: usize, lists: &[Vec<NodeId>], what: &str) {
        for list in lists {
            assert_eq!(list.len(), replicas.min(nodes.len()), "{what}");
            assert_eq!(BTreeSet::from_iter(list).len(), list.len(), "{what}");
        }
        assert_even(nodes, lists.iter().flatten().copied(), what);
        assert_even(nodes, lists.iter().map(|list| list[0]), what);
    }

    /// Replicas that are where none was, by shard.
    fn moves(old: &[Vec<NodeId>], new: &[Vec<NodeId>]) -> Vec<usize> {
        let new_in = |(old, new): (&Vec<NodeId>, &Vec<NodeId>)| {
            new.iter().filter(|node| !old.contains(node)).count()
        };
        old.iter().zip(new).map(new_in).collect()
    }

    const SIZES: [u16; 4] = [1, 16, 64, 1000];

    #[test]
    fn every_node_has_its_share() {
        for (count, shards, replicas) in (1..=10)
            .flat_map(|count| SIZES.map(|shards| (count, shards)))
            .flat_map(|(count, shards)| [1, 2, 3, 5, 7].map(|each| (count, shards, each)))
        {
            let what = format!("{count} nodes, {shards} shards, {replicas} replicas");
            let nodes = nodes(count);
            let lists = place(&nodes, shards, replicas, None);
            assert_ideal(&nodes, replicas, &lists, &what);
            let again = place(&nodes, shards, replicas, Some(&lists));
            assert_eq!(lists, again, "{what}: what is ideal stays");
        }
    }

    #[test]
    fn a_fourth_node_gets_its_quarter_and_nothing_else_moves() {
        let old = place(&nodes(3), 16, 3, None);
        let new = place(&nodes(4), 16, 3, Some(&old));
        assert_ideal(&nodes(4), 3, &new, "4 nodes");
        let moves = moves(&old, &new);
        assert_eq!(moves.iter().sum::<usize>(), 12, "of 48: 25 %");
        assert_eq!(moves.iter().max(), Some(&1), "no shard moves twice");
        let brought = new.iter().zip(&old).flat_map(|(new, old)| {
            let is_new = |node: &&NodeId| !old.contains(node);
            new.iter().filter(is_new)
        });
        assert!(brought.into_iter().all(|&node| node == 4));
    }

    #[test]
    fn a_new_node_takes_no_more_than_its_share() {
        for (count, shards) in (1..10).flat_map(|count| SIZES.map(|shards| (count, shards))) {
            let what = format!("{count} nodes and one more, {shards} shards");
            let old = place(&nodes(count), shards, 3, None);
            let more = nodes(count + 1);
            let new = place(&more, shards, 3, Some(&old));
            assert_ideal(&more, 3, &new, &what);
            let share = (usize::from(shards) * 3.min(more.len())).div_ceil(more.len());
            assert!(moves(&old, &new).iter().sum::<usize>() <= share, "{what}");
        }
    }

    #[test]
    fn without_a_node_only_its_replicas_move() {
        for (count, shards, replicas) in (2..=10)
            .flat_map(|count| SIZES.map(|shards| (count, shards)))
            .flat_map(|(count, shards)| [1, 2, 3, 5].map(|each| (count, shards, each)))
        {
            let old = place(&nodes(count), shards, replicas, None);
            for gone in 1..=count {
                let what =
                    format!("{count} nodes without {gone}, {shards} shards, {replicas} replicas");
                let rest: Vec<NodeId> = nodes(count).into_iter().filter(|&n| n != gone).collect();
                let new = place(&rest, shards, replicas, Some(&old));
                assert_ideal(&rest, replicas, &new, &what);
                for (old, new) in old.iter().zip(&new) {
                    let stays = |node: &NodeId| *node == gone || new.contains(node);
                    assert!(old.iter().all(stays), "{what}: {old:?} -> {new:?}");
                }
            }
        }
    }

    #[test]
    fn any_placement_becomes_ideal() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (count, shards) = (random.u32(1..12), random.u16(1..80));
            let each = random.usize(1..8);
            let mut anything = || -> Vec<NodeId> {
                let len = random.usize(0..9);
                (0..len).map(|_| random.u32(1..20)).collect()
            };
            let current: Vec<Vec<NodeId>> = (0..shards).map(|_| anything()).collect();
            let lists = place(&nodes(count), shards, each, Some(&current));
            assert_ideal(&nodes(count), each, &lists, &format!("seed {seed}"));
            let mut other_way = nodes(count);
            other_way.reverse();
            assert_eq!(
                lists,
                place(&other_way, shards, each, Some(&current)),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn nobody_holds_what_nobody_can_hold() {
        assert_eq!(place(&[], 2, 3, None), [[0; 0], [0; 0]]);
        assert_eq!(place(&[7], 2, 0, None), [[0; 0], [0; 0]]);
        assert_eq!(place(&[7, 7], 2, 3, None), [[7], [7]]);
    }

    #[test]
    fn the_ring_is_the_same_for_ever() {
        assert_eq!(hash(b's', &0_u64.to_le_bytes()), 16_955_860_349_536_361_262);
        let written = |lists: Vec<Vec<NodeId>>| -> Vec<String> {
            let digits = |list: &Vec<NodeId>| list.iter().map(NodeId::to_string).collect();
            lists.iter().map(digits).collect()
        };
        assert_eq!(
            written(place(&nodes(3), 16, 3, None)),
            [
                "123", "123", "132", "213", "231", "132", "213", "312", //
                "312", "321", "321", "321", "213", "312", "132", "213",
            ]
        );
        assert_eq!(
            written(place(&nodes(5), 10, 2, None)),
            ["54", "21", "35", "15", "42", "53", "24", "43", "31", "12"]
        );
    }

    #[test]
    fn the_ring_alone_is_even_within_a_quarter() {
        for count in 3..=20 {
            let ring = Ring::of(&nodes(count), POINTS);
            let mut loads = vec![0; count as usize];
            for shard in 0..usize::from(crate::ring::SLOTS) {
                loads[ring.walk(shard).next().unwrap()] += 1;
            }
            let fullest = loads.iter().max().unwrap() * loads.len();
            let most = usize::from(crate::ring::SLOTS) * 5 / 4;
            assert!(fullest <= most, "{count} nodes: {loads:?}");
        }
    }

    #[test]
    fn what_a_node_leaves_behind_is_spread() {
        let (count, shards) = (10, 1000);
        let old = place(&nodes(count), shards, 3, None);
        let new = place(&nodes(count - 1), shards, 3, Some(&old));
        let mut got: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (old, new) in old.iter().zip(&new) {
            for &node in new.iter().filter(|node| !old.contains(node)) {
                *got.entry(node).or_default() += 1;
            }
        }
        assert!(got.values().all(|&got| (33..=34).contains(&got)), "{got:?}");
    }
}
