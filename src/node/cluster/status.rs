//! What people look at: how the shards stand, as this node sees it.

use crate::cluster::map::{Map, NodeId, ReplicaId, shown};
use crate::reactor::timer::Nanos;
use crate::shard::members::Members;
use crate::shard::{Applying, Shard};

use super::super::Node;
use super::super::turn::Turn;

/// REPL STATUS: a line for each shard that this node has a replica of.
pub fn status(turn: &mut Turn<'_, '_, '_>) {
    let mut lines = Vec::new();
    for shard in turn.node.keyspace.replicas() {
        let role = match shard.is_leader() {
            true => "leader",
            false if shard.members().learners.contains(&shard.replica()) => "learner",
            false => "follower",
        };
        let leader = shard
            .leader()
            .map_or_else(|| "-".to_owned(), |id| ReplicaId(id).node().to_string());
        let (state, applied) = (shard.hard_state(), shard.applied());
        let mut line = format!(
            "shard={} role={role} leader={leader} term={} index={} commit={} applied={} keys={}",
            shown(shard.number()),
            state.term,
            shard.last_index(),
            state.commit,
            applied.index,
            shard.store().len()
        );
        for follower in shard.followers() {
            let node = ReplicaId(follower.replica).node();
            let behind = shard.last_index().saturating_sub(follower.matched);
            line.push_str(&format!(" lag-{node}={behind}"));
            if !follower.is_active {
                line.push_str("(away)");
            }
        }
        lines.push(line);
    }
    say(turn, &lines);
}

/// REPL DIGEST: a line for each shard that this node has a replica of. Two replicas that have applied the same entries
/// say the same, whatever has expired since: the digest is of the keys that there were at the time stamp of the last
/// entry. It reads every key, and everybody else waits meanwhile.
pub fn digest(turn: &mut Turn<'_, '_, '_>) {
    let mut lines = Vec::new();
    for shard in turn.node.keyspace.replicas() {
        let applied = shard.applied();
        let digest = shard.store().digest(applied.at_ms);
        let number = shown(shard.number());
        lines.push(format!(
            "shard={number} applied={} digest={digest:016x}",
            applied.index
        ));
    }
    say(turn, &lines);
}

fn say(turn: &mut Turn<'_, '_, '_>, lines: &[String]) {
    turn.reply.array(lines.len());
    lines
        .iter()
        .for_each(|line| turn.reply.bulk(line.as_bytes()));
}

/// How a replica of this node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'n> {
    /// The shard.
    pub shard: u16,
    /// Its name.
    pub replica: u64,
    /// Who is in its group, as far as it knows.
    pub members: &'n Members,
    /// Whether it leads its group.
    pub is_leader: bool,
    /// The term that it is in.
    pub term: u64,
    /// How far its store is.
    pub applied: Applying,
    /// Index of the last entry of its log.
    pub last_index: u64,
    /// Whether it is handing its leadership over.
    pub is_handing: bool,
}

impl Node {
    /// The map of the cluster that this node knows, and its own number there, 0 if it has none.
    pub fn place(&self) -> Option<(&Map, NodeId)> {
        let cluster = self.cluster.as_ref()?;
        Some((cluster.map.as_ref()?, cluster.me))
    }

    /// What is under way here, by what it is: nothing of it, when nobody has asked for anything.
    pub fn underway(&self) -> Vec<(&'static str, usize)> {
        let mut all = vec![
            ("commands", self.commits.len()),
            ("latches", self.latches.len()),
            ("pauses", self.held.len()),
        ];
        if let Some(cluster) = &self.cluster {
            all.extend([
                ("forwards", cluster.forwards.len()),
                ("gatherings", cluster.gatherings.len()),
                ("questions", cluster.spread.unanswered()),
                ("served", cluster.served.waiting()),
            ]);
        }
        all
    }

    /// How the replicas of this node stand.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.keyspace.replicas().map(|shard| Standing {
            shard: shard.number(),
            replica: shard.replica(),
            members: shard.members(),
            is_leader: shard.is_leader(),
            term: shard.hard_state().term,
            applied: shard.applied(),
            last_index: shard.last_index(),
            is_handing: shard.is_transferring(),
        })
    }

    /// The shards that this node leads, each with the term.
    pub fn reigns(&self) -> impl Iterator<Item = (u16, u64)> {
        let leading = self.keyspace.replicas().filter(|shard| shard.is_leader());
        leading.map(|shard| (shard.number(), shard.hard_state().term))
    }

    /// The shard that this node is handing over, or about to, and the replica that is to lead it.
    pub fn handing(&self) -> Option<(u16, ReplicaId)> {
        self.cluster.as_ref()?.handing.heir()
    }

    /// The shards of which this node answers reads from its own store, when its clock says `now`. No two nodes may do
    /// so for the same shard.
    pub fn readable(&self, now: Nanos) -> impl Iterator<Item = u16> {
        let can_read = move |shard: &&Shard| shard.is_leader() && shard.can_read(now);
        self.keyspace.replicas().filter(can_read).map(Shard::number)
    }

    /// A digest of what is alive in a shard here as of the latest stamp applied; replicas that are equally far have it
    /// in common. `None` without a replica of it.
    pub fn digest(&self, shard: u16) -> Option<u64> {
        let mut replicas = self.keyspace.replicas();
        let shard = replicas.find(|replica| replica.number() == shard)?;
        Some(shard.store().digest(shard.applied().at_ms))
    }
}
