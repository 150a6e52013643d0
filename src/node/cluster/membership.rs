//! Nodes come and go: who decides it, and who does it.
//!
//! ```text
//!   REPL JOIN, CLUSTER FORGET ─▶ leader of the meta shard ─ plan ─▶ map, the next epoch, agreed on by the meta shard
//!   the map says that a shard is to be held otherwise ─▶ that shard's leader:
//!        learner added ─ snapshot, log ─▶ it is as far ─▶ joint change ─▶ old replica out ─▶ REPL DONE ─▶ the map
//!   the map says that a replica is not to be here any more ─▶ its node lets it go
//! ```
//!
//! - The leader of the meta shard computes the next map from the one that is applied, when nothing else is under way:
//!   so each map follows from the one before.
//! - One shard changes at a time, by one replica; see [`plan`](crate::cluster::plan).
//! - A replica gets a vote when it has nearly everything; both changes of a step are one joint configuration, entered
//!   and left explicitly, so that a majority of the old *and* of the new agrees meanwhile.
//! - A leader that is to go hands the leadership over first: raft would let it hang.
//! - Leaders are led back to where the map wants them, a shard at a time; see [`handing`].
//!
//! Everybody is told the map by the leader of the meta shard (`REPL MAP`): who holds no replica of that has it from
//! nowhere else, who is to hold one must know it, and who was away believes nobody whom its own map does not name.
//!
//! [`handing`]: super::handing

use crate::cluster::map::{self, META, Map, Placement, ReplicaId};
use crate::cluster::plan;
use crate::command::op::{Action, Op, Set, SetAnswer, SetExpiry};
use crate::command::row::Row;
use crate::command::verb::Verb;
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;
use crate::shard::Shard;
use crate::shard::members::Change;
use crate::shard::replication::Follower;
use crate::wire::request::{Args, OwnedArgs};

use super::super::Node;
use super::super::commit::{Item, Work};
use super::super::turn::{Next, Turn};
use super::view::DISABLED;
use super::wishes::Wish;
use super::{MAP_KEY, forward, handing, link, shown};

/// Entries that a learner may lack when it gets its vote.
const LAG_MAX: u64 = 100;

/// Several times a second: what this node has to do as a leader.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let Some(map) = cx
        .app
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.map.clone())
    else {
        return;
    };
    if can_propose(cx.app) {
        if let Some(next) = plan::next(&map) {
            log::info!(
                "the map of epoch {}: {}",
                next.epoch,
                difference(&map, &next)
            );
            propose(cx.app, &next);
        }
        tell_others(cx, &map);
    }
    for shard in cx.app.keyspace.numbers() {
        let next = map
            .placement(shard)
            .and_then(|placement| placement.next.clone());
        match next {
            Some(target) if cx.app.keyspace.is_leader(shard) => {
                go_on(cx, shard, &target, map.epoch);
            }
            _ => {}
        }
    }
    handing::tend(cx, &map);
}

/// What changed, for the log.
fn difference(map: &Map, next: &Map) -> String {
    let changed = next
        .every_placement()
        .find(|(shard, placement)| map.placement(*shard) != Some(placement));
    match changed {
        Some((
            shard,
            Placement {
                next: Some(target),
                replicas,
            },
        )) => {
            let shown_all = |list: &[ReplicaId]| {
                list.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            format!(
                "shard {}: {} > {}",
                shown(shard),
                shown_all(replicas),
                shown_all(target)
            )
        }
        Some((shard, _)) => format!("shard {} is as it is to be", shown(shard)),
        None => format!("{} nodes", next.nodes.len()),
    }
}

/// Whether this node leads the meta shard, and nothing is under way there.
fn can_propose(node: &Node) -> bool {
    let Some(meta) = node.keyspace.meta() else {
        return false;
    };
    meta.is_leader() && meta.is_settled() && !meta.is_open() && node.commits.is_shard_idle(META)
}

/// Proposes a map to the meta shard, for nobody who waits.
fn propose(node: &mut Node, map: &Map) {
    propose_text(node, map);
    node.commits.push(Item::of_nobody(META, Work::Map));
}

fn propose_text(node: &mut Node, map: &Map) {
    let text = map.encode();
    let set = Set {
        value: text.as_bytes(),
        expiry: SetExpiry::Clear,
        condition: None,
        answer: SetAnswer::Silent,
    };
    let op = Op {
        key: MAP_KEY,
        action: Action::Set(set),
    };
    node.keyspace.propose_to(META, &op);
}

/// Answers a wish, as the leader of the meta shard.
pub fn wish(turn: &mut Turn<'_, '_, '_>, wish: &Wish) -> Next {
    if !can_propose(turn.node) {
        return Next::Latched;
    }
    let map = turn
        .node
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.map.clone());
    let Some(map) = map else {
        return Next::Latched;
    };
    let next = match wish {
        Wish::Join(name, address) => {
            plan::join(&map, name, *address).map_err(|refusal| refusal.to_string())
        }
        Wish::Leave(node) => plan::leave(&map, *node).map_err(|refusal| refusal.to_string()),
        Wish::Done(shard, epoch) if *epoch == map.epoch => {
            Ok(plan::done(&map, *shard).unwrap_or_else(|| map.clone()))
        }
        Wish::Done(..) => Ok(map.clone()),
    };
    match next {
        Ok(next) if next == map => {
            turn.reply.ok();
            Next::Go
        }
        Ok(next) => {
            log::info!(
                "the map of epoch {}: {}",
                next.epoch,
                difference(&map, &next)
            );
            propose_text(turn.node, &next);
            let item = Item {
                conn: turn.me,
                number: turn.serving.map_or(0, |serving| serving.id),
                dialect: turn.reply.dialect(),
                ..Item::of_nobody(META, Work::Map)
            };
            turn.node.commits.push(item);
            Next::Deferred
        }
        Err(reason) => {
            turn.reply.error(&format!("ERR {reason}"));
            Next::Go
        }
    }
}

/// CLUSTER FORGET, CLUSTER LEAVE, CLUSTER MEET.
pub fn command(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    let Some(cluster) = &mut turn.node.cluster else {
        turn.reply.error(DISABLED);
        return Next::Go;
    };
    let text = |at: usize| String::from_utf8_lossy(args.at(at)).into_owned();
    if row.verb == Verb::ClusterMeet {
        let address = format!("{}:{}", text(2), text(3));
        match address.parse() {
            Ok(address) if map::is_address(address) => {
                cluster.meeting.insert(address);
                turn.reply.ok();
                turn.net
                    .call_later(std::time::Duration::ZERO, link::dial_known);
            }
            _ => turn
                .reply
                .error(&format!("ERR Invalid node address specified: {address}")),
        }
        return Next::Go;
    }
    let name = match row.verb {
        Verb::ClusterLeave => cluster.name.clone(),
        _ => text(2),
    };
    let node = cluster.map.as_ref().and_then(|map| {
        let number = name
            .parse()
            .ok()
            .filter(|node| map.nodes.contains_key(node));
        map.node_of(&name).or(number)
    });
    let Some(node) = node else {
        turn.reply
            .error(&format!("ERR Unknown node {}", name.escape_debug()));
        return Next::Go;
    };
    let mut wish = OwnedArgs::default();
    let node = node.to_string();
    [&b"REPL"[..], b"LEAVE", node.as_bytes()]
        .into_iter()
        .for_each(|word| wish.push(word));
    forward::command(turn, row, wish.args(), META)
}

/// Sends a wish to the leader of the meta shard, for nobody who waits for the answer.
pub fn ask(node: &mut Node, now: Nanos, words: &[&[u8]]) {
    let mut args = OwnedArgs::default();
    words.iter().for_each(|word| args.push(word));
    forward::of_this_node(node, now, args, META);
}

/// The next thing to do for a shard that this node leads and whose replicas are to be these.
fn go_on(cx: &mut Cx<'_, Node>, shard: u16, target: &[ReplicaId], epoch: u64) {
    let target: Vec<u64> = target.iter().map(|replica| replica.0).collect();
    let replica = cx.app.keyspace.shard_mut(shard);
    match step(replica, &target) {
        Step::Wait => {}
        Step::Done => {
            let (shard, epoch) = (shard.to_string(), epoch.to_string());
            ask(
                cx.app,
                cx.net.now(),
                &[b"REPL", b"DONE", shard.as_bytes(), epoch.as_bytes()],
            );
        }
        Step::Change(change) => {
            log::info!("shard {}: {change:?}", shown(shard));
            cx.app.keyspace.change_members(shard, &change);
        }
        Step::HandOver(to) => handing::begin(cx.app, shard, to),
    }
}

/// What a shard's leader does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Change(Change),
    HandOver(u64),
    Done,
}

fn step(shard: &Shard, target: &[u64]) -> Step {
    let members = shard.members();
    if members.is_joint() {
        return Step::Change(Change::Leave);
    }
    let missing: Vec<u64> = target
        .iter()
        .copied()
        .filter(|id| !members.voters.contains(id))
        .collect();
    let surplus: Vec<u64> = members
        .voters
        .iter()
        .copied()
        .filter(|id| !target.contains(id))
        .collect();
    let stray = members.learners.iter().find(|id| !target.contains(id));
    if let Some(&stray) = stray {
        return Step::Change(Change::Remove(stray));
    }
    if missing.is_empty() && surplus.is_empty() {
        return Step::Done;
    }
    if let Some(&new) = missing.iter().find(|id| !members.learners.contains(id)) {
        return Step::Change(Change::AddLearner(new));
    }
    let followers = shard.followers();
    let is_near = |id: &u64| {
        let follower = followers.iter().find(|follower| follower.replica == *id);
        let has_most = |it: &Follower| it.matched + LAG_MAX >= shard.last_index();
        follower.is_some_and(|it| it.is_active && it.is_replicating && has_most(it))
    };
    if !missing.iter().all(is_near) {
        return Step::Wait;
    }
    if surplus.contains(&shard.replica()) {
        let heir = target
            .iter()
            .find(|id| members.voters.contains(id) && is_near(id));
        return heir.map_or(Step::Wait, |&heir| Step::HandOver(heir));
    }
    Step::Change(Change::Enter {
        add: missing,
        remove: surplus,
    })
}

/// Tells the map to those who have not been told.
fn tell_others(cx: &mut Cx<'_, Node>, map: &Map) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let me = cluster.me;
    let others = map
        .nodes
        .iter()
        .filter(|(node, member)| !member.is_gone && **node != me);
    for (_, member) in others {
        let Some(link) = cluster.links.get_mut(&member.address) else {
            continue;
        };
        if link.is_ready() && link.told < map.epoch {
            link.told = map.epoch;
            link.say(&mut cx.net, "MAP", map.encode().as_bytes());
        }
    }
}

/// Somebody told the map.
pub fn told(turn: &mut Turn<'_, '_, '_>, map: Map) {
    let Some(cluster) = &turn.node.cluster else {
        return;
    };
    let is_news = match &cluster.map {
        Some(known) => known.cluster == map.cluster && known.epoch < map.epoch,
        None => map.node_of(&cluster.name).is_some(),
    };
    if is_news {
        turn.net
            .call_later(std::time::Duration::ZERO, |cx| super::adopt_later(cx, map));
    }
}
