//! What must be true of the replicas at any moment, looked at again and again.
//!
//! - One leader a term: of two replicas of a shard that lead in the same term, one is wrong (Raft, figure 3: election
//!   safety).
//! - One reader at a time: of two nodes that would answer reads of a shard, one would answer what the other has
//!   overwritten. It need not be asked.
//! - The same state at the same entry: replicas that have applied as much hold the same (state machine safety; with it
//!   log matching and leader completeness, as far as anybody can tell from outside).
//! - What a process has applied never goes back; and what a replica has ever applied is in its log or its snapshot when
//!   it is there again, whatever was done to its process and its machine.
//! - What a node holds is bounded: connections do not wait with much to be sent, timers and jobs are few, and no more
//!   commands are under way than clients can have asked for.
//! - A number is that of one node for ever. Who has another disk has another number.
//!
//! A replica whose disk was put back to an earlier state may have forgotten. One whose disk has rotted may have so the
//! end of its log, for that may have been torn as well: but not what it had applied when it said something more. That
//! it is durable stands behind it then (`marline::disk::wal`).
//!
//! Terms are not looked at: one that is not on the disk yet, and that nobody was told of, may be forgotten.

use std::collections::BTreeMap;

use marline::cluster::map::{NodeId, ReplicaId};
use marline::disk::sim::rot::Rot;
use marline::node::Node;
use marline::node::cluster::status::Standing;
use marline::shard::Applying;

use super::world::World;

/// Between two looks, in nanoseconds.
const INTERVAL_NS: u64 = 250_000_000;
/// Of anything under way, bytes that are to be sent, and timers or jobs, a node never holds more. Clients ask for some
/// dozens of small things at once; the most that was seen is 82, 957 and 5.
const UNDERWAY_MAX: usize = 500;
const UNSENT_BYTES_MAX: usize = 256 << 10;
const TIMERS_MAX: usize = 16;
/// Between two short ones.
const SHORT_NS: u64 = 40_000_000;
/// How long a process is young: what its replicas have is looked at often, before others tell them more.
const YOUNG_NS: u64 = 3_000_000_000;
/// States that are remembered of each shard.
const STATES_MAX: usize = 64;

/// What a replica must have.
#[derive(Default)]
struct Memory {
    /// Its node and the life of that in which it was seen.
    life: (usize, u64),
    /// How often its disk had been put back then.
    put_backs: u64,
    /// The last entry that it had applied.
    applied: u64,
    /// What it had applied at some time before, and the end of its log then.
    mark: (u64, u64),
    /// The last entry that it had applied before something came to its log that is durable now.
    attested: u64,
}

/// See the module.
#[derive(Default)]
pub struct Watch {
    next_at: u64,
    next_short_at: u64,
    /// By shard and term.
    leaders: BTreeMap<(u16, u64), u64>,
    /// By shard: digests by the last entry that was applied.
    states: BTreeMap<u16, BTreeMap<u64, (u64, usize)>>,
    /// By node, its life, and shard and replica.
    applied: BTreeMap<(usize, u64, u16, u64), Applying>,
    /// By shard and replica.
    memories: BTreeMap<(u16, u64), Memory>,
    /// By number: the node and which disk of it.
    numbers: BTreeMap<NodeId, (usize, u64)>,
    /// By node: its life, and until when that is young.
    lives: BTreeMap<usize, (u64, u64)>,
}

impl Watch {
    /// When to look next.
    pub fn next_at(&self) -> u64 {
        self.next_at.min(self.next_short_at)
    }

    /// Looks, if it is time.
    pub fn look(&mut self, world: &mut World) {
        let now = world.net.now();
        if now >= self.next_short_at {
            self.next_short_at = now + SHORT_NS;
            self.demand_one_reader(world);
            for node in world.all() {
                self.look_at_young(world, node);
            }
        }
        if now < self.next_at {
            return;
        }
        self.next_at = now + INTERVAL_NS;
        for node in world.all() {
            demand_bounds(world, node);
            let life = world.lives(node);
            self.demand_one_disk(world, node);
            let mut reigns = Vec::new();
            for standing in world.node(node).into_iter().flat_map(Node::standings) {
                self.remember(world, node, &standing);
                let (shard, replica) = (standing.shard, standing.replica);
                let applied = self
                    .applied
                    .entry((node, life, shard, replica))
                    .or_insert(standing.applied);
                assert!(
                    standing.applied.index >= applied.index,
                    "shard {shard}: node {node} went back: {standing:?}"
                );
                let has_moved = standing.applied.index > applied.index;
                *applied = standing.applied;
                if has_moved {
                    self.compare(world, node, shard, standing.applied.index);
                }
                if standing.is_leader {
                    reigns.push((shard, standing.term, replica));
                }
            }
            for (shard, term, replica) in reigns {
                self.crown(world, node, shard, (term, replica));
            }
        }
    }

    fn demand_one_reader(&self, world: &World) {
        let mut readers: Vec<(usize, u16)> = Vec::new();
        for (node, shard) in world.readers() {
            if let Some((other, _)) = readers.iter().find(|(_, it)| *it == shard) {
                panic!("shard {shard}: both node {other} and node {node} answer reads");
            }
            readers.push((node, shard));
        }
    }

    fn demand_one_disk(&mut self, world: &World, node: usize) {
        let place = world.node(node).and_then(Node::place);
        let Some((_, number)) = place.filter(|(_, number)| *number > 0) else {
            return;
        };
        let disk = (node, world.disk_number(node));
        let known = *self.numbers.entry(number).or_insert(disk);
        assert!(
            known == disk,
            "number {number} was that of disk {} of node {}, and is that of disk {} of node {node}",
            known.1,
            known.0,
            disk.1
        );
    }

    fn look_at_young(&mut self, world: &World, node: usize) {
        let (life, now) = (world.lives(node), world.net.now());
        let (of, until) = self.lives.entry(node).or_default();
        if *of != life {
            (*of, *until) = (life, now + YOUNG_NS);
        }
        if now < *until
            && let Some(process) = world.node(node)
        {
            for standing in process.standings() {
                self.remember(world, node, &standing);
            }
        }
    }

    /// What a replica had applied it still has.
    fn remember(&mut self, world: &World, node: usize, standing: &Standing<'_>) {
        let (shard, replica) = (standing.shard, standing.replica);
        let memory = self.memories.entry((shard, replica)).or_default();
        let life = (node, world.lives(node));
        let is_new = memory.life != life;
        let put_backs = world.put_backs(node);
        let wanted = match world.rot_of(node) {
            _ if put_backs != memory.put_backs => 0,
            Some(Rot::Bit) if is_new => memory.attested,
            Some(_) if is_new => 0,
            _ => memory.applied,
        };
        let (applied, last) = (standing.applied.index, standing.last_index);
        assert!(
            last >= wanted,
            "shard {shard}: {} had applied entry {wanted}, and has {last} at most, on node {node}",
            ReplicaId(replica)
        );
        if is_new {
            *memory = Memory {
                life,
                put_backs,
                mark: (applied, last),
                ..Memory::default()
            };
        } else if applied > memory.mark.1 {
            memory.attested = memory.mark.0;
            memory.mark = (applied, last);
        }
        memory.applied = applied;
    }

    fn crown(&mut self, world: &mut World, node: usize, shard: u16, (term, replica): (u64, u64)) {
        let before = self.leaders.insert((shard, term), replica);
        match before {
            None => world.note(Some(node), &format!("leads {shard}, term {term}")),
            Some(before) => assert!(
                before == replica,
                "shard {shard}: {} and {} lead in term {term}",
                ReplicaId(before),
                ReplicaId(replica)
            ),
        }
    }

    fn compare(&mut self, world: &World, node: usize, shard: u16, index: u64) {
        let Some(digest) = world.node(node).and_then(|it| it.digest(shard)) else {
            return;
        };
        let states = self.states.entry(shard).or_default();
        let (known, by) = *states.entry(index).or_insert((digest, node));
        assert!(
            known == digest,
            "shard {shard}: at entry {index} node {node} holds another state than node {by}"
        );
        while states.len() > STATES_MAX {
            states.pop_first();
        }
    }
}

fn demand_bounds(world: &World, node: usize) {
    let (Some(holds), Some(state)) = (world.holdings(node), world.node(node)) else {
        return;
    };
    let underway = state.underway();
    let is_bounded = underway.iter().all(|(_, count)| *count <= UNDERWAY_MAX)
        && holds.unsent_bytes <= UNSENT_BYTES_MAX
        && holds.timers <= TIMERS_MAX
        && holds.deferred <= TIMERS_MAX;
    assert!(is_bounded, "node {node} holds {underway:?} and {holds:?}");
}
