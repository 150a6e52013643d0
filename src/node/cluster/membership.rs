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
//! - A change is done when those who stay know of it whatever else is lost: an entry behind it is committed by them.
//!   Only then is the replica let go that they do not need any more.
//! - A leader that is to go hands the leadership over first: raft would let it hang.
//! - A newcomer that is not heard of for a minute, or that is to leave itself, is given up (`REPL UNDO`) as long as it
//!   has no vote. Whatever a leader had made of it nevertheless is taken back, for a shard is always led towards
//!   what the map says of it.
//! - Leaders are led back to where the map wants them, a shard at a time; see [`handing`].
//!
//! Everybody is told the map by the leader of the meta shard (`REPL MAP`): who holds no replica of that has it from
//! nowhere else, who is to hold one must know it, and who was away believes nobody whom its own map does not name.
//!
//! [`handing`]: super::handing

use crate::cluster::map::{self, META, Map, Placement, ReplicaId, shown};
use crate::cluster::plan;
use crate::command::row::Row;
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;
use crate::shard::Shard;
use crate::shard::members::Change;
use crate::shard::replication::Follower;
use crate::wire::request::Args;

use super::super::Node;
use super::super::commit::{Item, Work};
use super::super::turn::{Next, Turn};
use super::view::DISABLED;
use super::wishes::Wish;
use super::{MAP_KEY, forward, frames, handing, link};

/// Entries that a learner may lack when it gets its vote.
const LAG_MAX: u64 = 100;

/// For so many looks a newcomer may be away before it is given up: a minute.
const AWAY_MAX: u32 = 300;

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
        go_on_with_map(cx.app, &map);
        tell_others(cx, &map);
    }
    for shard in cx.app.keyspace.numbers() {
        if cx.app.keyspace.is_leader(shard) {
            go_on(cx, shard, &map);
        }
    }
    handing::tend(cx, &map);
}

/// Proposes the map that follows by itself, if one does.
fn go_on_with_map(node: &mut Node, map: &Map) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    if cluster.settled_epoch == Some(map.epoch) {
        return;
    }
    match plan::next(map) {
        Some(next) => propose(node, map, &next, Item::of_nobody(META, Work::Map)),
        // A change that is under way ends by a map of another epoch.
        None => cluster.settled_epoch = Some(map.epoch),
    }
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

/// Proposes to the meta shard that `next` follows `map`; `item` says who waits for it.
fn propose(node: &mut Node, map: &Map, next: &Map, item: Item) {
    let (epoch, what) = (next.epoch, difference(map, next));
    log::info!("the map of epoch {epoch}: {what}");
    failpoint::reach(Point::MapProposed);
    let text = next.encode();
    let op = super::put(MAP_KEY, text.as_bytes());
    node.keyspace.propose_to(META, &op);
    node.commits.push(item);
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
    failpoint::reach(Point::WishHeard);
    let next = match wish {
        Wish::Join(name, address) => {
            plan::join(&map, name, *address).map_err(|refusal| refusal.to_string())
        }
        Wish::Leave(node) => plan::leave(&map, *node).map_err(|refusal| refusal.to_string()),
        Wish::Done(shard, epoch) if *epoch == map.epoch => {
            Ok(plan::done(&map, *shard).unwrap_or_else(|| map.clone()))
        }
        Wish::Undo(shard, epoch) if *epoch == map.epoch => {
            Ok(plan::undo(&map, *shard).unwrap_or_else(|| map.clone()))
        }
        Wish::Done(..) | Wish::Undo(..) => Ok(map.clone()),
    };
    match next {
        Ok(next) if next == map => {
            turn.reply.ok();
            Next::Go
        }
        Ok(next) => {
            let item = Item {
                conn: turn.me,
                number: turn.serving.map_or(0, |serving| serving.id),
                dialect: turn.reply.dialect(),
                ..Item::of_nobody(META, Work::Map)
            };
            propose(turn.node, &map, &next, item);
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
    let node = node.to_string();
    let wish = frames::words(&[b"REPL", b"LEAVE", node.as_bytes()]);
    forward::command(turn, row, wish.args(), META)
}

/// Sends a wish to the leader of the meta shard, for nobody who waits for the answer.
pub fn ask(node: &mut Node, now: Nanos, words: &[&[u8]]) {
    forward::of_this_node(node, now, frames::words(words).args(), META);
}

/// The next thing to do for a shard that this node leads. Also where nothing is to be changed: what was given up may
/// have left something.
fn go_on(cx: &mut Cx<'_, Node>, shard: u16, map: &Map) {
    let Some(placement) = map.placement(shard) else {
        return;
    };
    let target = placement.next.as_ref().unwrap_or(&placement.replicas);
    let newcomers = target.iter().filter(|id| !placement.replicas.contains(id));
    let is_leaving = |id: &ReplicaId| map.nodes.get(&id.node()).is_none_or(|it| it.is_leaving);
    let is_wanted = newcomers.clone().all(|id| !is_leaving(id));
    let newcomers: Vec<u64> = newcomers.map(|replica| replica.0).collect();
    let target: Vec<u64> = target.iter().map(|replica| replica.0).collect();
    let replica = cx.app.keyspace.shard_mut(shard);
    let planned = |id: &u64| u64::from(ReplicaId(*id).generation());
    if replica.members().all().iter().map(planned).max() > Some(map.epoch) {
        // The group is ahead of this map.
        return;
    }
    let is_away = is_away(replica, &newcomers);
    let next = step(replica, &target);
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let away = cluster.away.entry(shard).or_default();
    *away = if is_away { *away + 1 } else { 0 };
    let is_in_vain = is_away && (!is_wanted || *away > AWAY_MAX);
    match next {
        _ if is_in_vain => ask_about(cx, b"UNDO", shard, map.epoch),
        Step::Wait => {}
        Step::Done if placement.next.is_none() => {}
        Step::Done if !cx.app.keyspace.confirm_members(shard, cx.app.at_ms) => {}
        Step::Done => ask_about(cx, b"DONE", shard, map.epoch),
        Step::Change(change) => {
            log::info!("shard {}: {change:?}", shown(shard));
            failpoint::reach(Point::MembersProposed);
            cx.app.keyspace.change_members(shard, &change);
        }
        Step::HandOver(to) => handing::begin(cx.app, shard, to),
    }
}

/// Whether one of these is to come, and is not near yet, nor heard of if it is known.
fn is_away(shard: &Shard, newcomers: &[u64]) -> bool {
    let (members, followers) = (shard.members(), shard.followers());
    let is_heard = |id: &u64| followers.iter().any(|it| it.replica == *id && it.is_active);
    let mut waited_for = newcomers.iter().filter(|id| !members.voters.contains(id));
    !members.is_joint() && waited_for.any(|id| !is_heard(id))
}

/// Tells the leader of the meta shard what became of the change at a shard.
fn ask_about(cx: &mut Cx<'_, Node>, verb: &[u8], shard: u16, epoch: u64) {
    let (shard, epoch) = (shard.to_string(), epoch.to_string());
    let words = [b"REPL", verb, shard.as_bytes(), epoch.as_bytes()];
    ask(cx.app, cx.net.now(), &words);
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
    let followers = shard.followers();
    let is_near = |id: &u64| {
        let follower = followers.iter().find(|follower| follower.replica == *id);
        let has_most = |it: &Follower| it.matched + LAG_MAX >= shard.last_index();
        follower.is_some_and(|it| it.is_active && it.has_base && has_most(it))
    };
    let hand_over = |to: &[u64]| {
        let heir = to
            .iter()
            .find(|id| members.voters.contains(id) && is_near(id));
        heir.map_or(Step::Wait, |&heir| Step::HandOver(heir))
    };
    if members.is_joint() && !members.voters.contains(&shard.replica()) {
        return hand_over(&members.voters);
    }
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
    if !missing.iter().all(is_near) {
        return Step::Wait;
    }
    if surplus.contains(&shard.replica()) {
        return match target.iter().any(|id| members.voters.contains(id)) {
            true => hand_over(target),
            // Nobody stays: who comes can lead once it has a vote.
            false => Step::Change(Change::Enter {
                add: missing,
                remove: Vec::new(),
            }),
        };
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
            failpoint::reach(Point::MapTold);
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
    failpoint::reach(Point::MapHeard);
    if is_news {
        turn.net
            .call_later(std::time::Duration::ZERO, |cx| super::adopt_later(cx, map));
    }
}
