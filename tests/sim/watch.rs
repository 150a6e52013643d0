//! What must be true of the replicas at any moment, looked at again and again.
//!
//! - One leader a term: of two replicas of a shard that lead in the same term, one is wrong (Raft, figure 3: election
//!   safety).
//! - The same state at the same entry: replicas that have applied as much hold the same (state machine safety; with it
//!   log matching and leader completeness, as far as anybody can tell from outside).
//! - What a process has applied never goes back.
//! - What a node holds is bounded: connections do not wait with much to be sent, timers and jobs are few, and no more
//!   commands are under way than clients can have asked for.
//!
//! Terms are not looked at: one that is not on the disk yet, and that nobody was told of, may be forgotten.

use std::collections::BTreeMap;

use marline::cluster::map::ReplicaId;
use marline::node::Node;
use marline::shard::Applying;

use super::world::World;

/// Between two looks, in nanoseconds.
const INTERVAL_NS: u64 = 250_000_000;
/// Of anything under way, bytes that are to be sent, and timers or jobs, a node never holds more. Clients ask for some
/// dozens of small things at once; the most that was seen is 82, 957 and 5.
const UNDERWAY_MAX: usize = 500;
const UNSENT_BYTES_MAX: usize = 256 << 10;
const TIMERS_MAX: usize = 16;
/// States that are remembered of each shard.
const STATES_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Watch {
    next_at: u64,
    /// By shard and term.
    leaders: BTreeMap<(u16, u64), u64>,
    /// By shard: digests by the last entry that was applied.
    states: BTreeMap<u16, BTreeMap<u64, (u64, usize)>>,
    /// By node, its life, and shard and replica.
    applied: BTreeMap<(usize, u64, u16, u64), Applying>,
}

impl Watch {
    /// When to look next.
    pub fn next_at(&self) -> u64 {
        self.next_at
    }

    /// Looks, if it is time.
    pub fn look(&mut self, world: &mut World) {
        if world.net.now() < self.next_at {
            return;
        }
        self.next_at = world.net.now() + INTERVAL_NS;
        for node in world.all() {
            demand_bounds(world, node);
            let life = world.lives(node);
            let Some(standings) = world.node(node).map(Node::standings) else {
                continue;
            };
            for standing in standings {
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
                    self.crown(world, node, shard, (standing.term, replica));
                }
            }
        }
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
