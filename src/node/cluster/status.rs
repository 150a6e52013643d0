//! What people look at: how the shards stand, as this node sees it.

use crate::cluster::map::ReplicaId;

use super::super::turn::Turn;
use super::shown;

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
    turn.reply.array(lines.len());
    lines
        .iter()
        .for_each(|line| turn.reply.bulk(line.as_bytes()));
}
