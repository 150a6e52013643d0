//! Leaders are led back to where the map wants them, and away from replicas that are to go.
//!
//! ```text
//!   begun: commands for the shard wait on their nodes ─▶ what was taken is answered ─▶ raft hands over
//!          ─▶ the new leader is known: they go there; or it came to nothing: they go on here
//! ```
//!
//! So no client sees an error for it. One shard is handed over at a time, when its heir has all of the log.

use crate::cluster::map::{Map, ReplicaId, shown};
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::shard::ELECTION_TICKS;

use super::super::Node;

/// Ticks after which one that came to nothing is given up.
const TICKS_MAX: u64 = 15;
/// Ticks between two. They double with each that comes to nothing, which costs the shard its leader for a while.
const PAUSE_TICKS: u64 = 5;
/// So often they do.
const DOUBLED_MAX: u32 = 7;

/// The shard that is being handed over, if one is.
#[derive(Debug, Default)]
pub struct Handing {
    now: Option<(u16, u64, u64)>,
    last_tick: u64,
    /// How many came to nothing, one after the other.
    failed: u32,
}

impl Handing {
    /// The shard that is being handed over, and the replica that is to lead it.
    pub fn heir(&self) -> Option<(u16, ReplicaId)> {
        self.now.map(|(shard, to, _)| (shard, ReplicaId(to)))
    }

    /// Whether a shard is being handed over.
    pub fn has(&self, shard: u16) -> bool {
        self.now.is_some_and(|(of, ..)| of == shard)
    }
}

/// Begins to hand a shard over to a replica.
pub fn begin(node: &mut Node, shard: u16, to: u64) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let ticks = cluster.ticks;
    if cluster.handing.now.is_none() {
        log::info!(
            "shard {}: handing over to node {}",
            shown(shard),
            ReplicaId(to).node()
        );
        failpoint::reach(Point::HandingBegun);
        cluster.handing.now = Some((shard, to, ticks));
    }
}

/// Several times a second: whether a shard is led elsewhere than the map wants.
pub fn tend(cx: &mut Cx<'_, Node>, map: &Map) {
    let Some(cluster) = &cx.app.cluster else {
        return;
    };
    let handing = &cluster.handing;
    let pause = PAUSE_TICKS << handing.failed.min(DOUBLED_MAX);
    if handing.now.is_some() || cluster.ticks < handing.last_tick + pause {
        return;
    }
    let wanted = cx.app.keyspace.numbers().into_iter().find_map(|number| {
        let placement = map
            .placement(number)
            .filter(|placement| placement.next.is_none())?;
        let preferred = placement.replicas.first()?.0;
        let index = cx.app.keyspace.index_of_number(number);
        let shard = &cx.app.keyspace.shards()[index];
        let is_elsewhere =
            shard.is_leader() && shard.replica() != preferred && !shard.members().is_joint();
        let is_ready = |preferred: u64| {
            let followers = shard.followers();
            let heir = followers
                .iter()
                .find(|follower| follower.replica == preferred);
            heir.is_some_and(|heir| heir.is_active && heir.matched + 10 >= shard.last_index())
        };
        (is_elsewhere && is_ready(preferred)).then_some((number, preferred))
    });
    if let Some((shard, to)) = wanted {
        begin(cx.app, shard, to);
    }
}

/// At every tick, and at the end of every turn while there is one: goes on with it.
pub fn go_on(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let Some((shard, to, began)) = cluster.handing.now else {
        return;
    };
    let is_over = cluster.ticks > began + TICKS_MAX || !cx.app.keyspace.is_leader(shard);
    if is_over {
        // Raft takes it back after an election timeout, and this reign ends; who takes over does so at once.
        let failed = match cluster.ticks < began + ELECTION_TICKS as u64 {
            true => 0,
            false => cluster.handing.failed + 1,
        };
        failpoint::reach(Point::HandingEnded);
        cluster.handing = Handing {
            now: None,
            last_tick: cluster.ticks,
            failed,
        };
        return super::forward::pump(cx.app, shard);
    }
    let index = cx.app.keyspace.index_of_number(shard);
    if cx.app.commits.is_shard_idle(shard) && !cx.app.keyspace.is_transferring(shard) {
        cx.app.keyspace.shard_mut(shard).transfer_leader(to);
        cx.app.keyspace.mark(index);
    }
}
