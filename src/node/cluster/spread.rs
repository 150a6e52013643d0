//! What concerns every node: messages to subscribers, and changes to keys that somebody elsewhere wants to hear of.
//!
//! ```text
//!   PUBLISH ─┬─▶ own subscribers ─────────────┐
//!            └─▶ PUBLISH to each other node ──┴─▶ the sum of those who got it
//!
//!   node with subscribers for key events ── LISTEN classes ──▶ every other node
//!   leader that applies a change         ── EVENT name key ──▶ nodes that listen to its class
//! ```
//!
//! A node without a ready link is not asked, and one that does not answer within [`ANSWER_MAX`] is not waited for: so a
//! message reaches each subscriber once or not at all, and is kept nowhere. The same holds for events: they are told by
//! the node that leads the shard when it applies the change; when leaders change an event may be lost or told twice.
//!
//! Within a transaction nothing can be waited for: there `PUBLISH` counts the subscribers of the one node.

use std::collections::BTreeMap;
use std::time::Duration;

use slab::Slab;

use crate::cluster::map::NodeId;
use crate::command::op::Event;
use crate::command::parse;
use crate::command::verb::Verb;
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::timer::Nanos;
use crate::wire::number;
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::super::notify::Notify;
use super::super::turn::{Next, Turn};
use super::super::{Node, notify, pubsub};
use super::forward::{self, Recipient};
use super::frames::{self, Command, Head, Outcome};
use super::link::Link;
use super::{Cluster, LINK_BYTES_MAX, incoming, serve};

/// How long the answers of other nodes are waited for.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// A PUBLISH whose receivers are being counted.
struct Question {
    recipient: Recipient,
    sum: i64,
    /// Nodes that have not answered.
    left: usize,
    until: Nanos,
}

/// See the module.
#[derive(Default)]
pub struct Spread {
    questions: Slab<Question>,
    /// Who was asked what, by id.
    asked: BTreeMap<u64, (NodeId, usize)>,
    last: u32,
    /// What other nodes want to hear of, by the link that they said it on.
    wanted: BTreeMap<ConnId, (NodeId, Notify)>,
}

impl Spread {
    /// How many questions to other nodes are not answered.
    pub fn unanswered(&self) -> usize {
        self.questions.len()
    }

    /// Whether another node wants to hear of changes to keys.
    pub fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// A link on which another node called is gone.
    pub fn forget(&mut self, link: ConnId) {
        self.wanted.remove(&link);
    }
}

/// Whether an id is one of a question to a node, and not of a command for a shard.
pub fn is_question(id: u64) -> bool {
    id >> 32 == 0
}

/// The ready links to all other nodes.
fn others(cluster: &mut Cluster) -> impl Iterator<Item = (NodeId, &mut Link)> {
    let (map, me) = (cluster.map.as_ref(), cluster.me);
    let links = cluster.links.iter_mut();
    links.filter_map(move |(&address, link)| {
        let node = map?.node_at(address)?;
        (node != me && link.is_ready()).then_some((node, link))
    })
}

/// PUBLISH.
pub fn publish(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let receivers = pubsub::publish(turn, args.at(1), args.at(2));
    let may_wait = !turn.in_transaction && turn.serving.is_none();
    let Some(cluster) = &mut turn.node.cluster else {
        turn.reply.count(receivers);
        return Next::Go;
    };
    let (next, mut asked) = (cluster.spread.questions.vacant_key(), Vec::new());
    let mut last = cluster.spread.last;
    for (node, link) in others(cluster) {
        let mut id = 0;
        if may_wait {
            last = last.checked_add(1).unwrap_or(1);
            id = u64::from(last);
            asked.push((id, (node, next)));
        }
        frames::put_command(&mut link.commands, Head::of_node(id), args);
    }
    cluster.spread.last = last;
    let left = asked.len();
    if left == 0 {
        turn.reply.count(receivers);
        return Next::Go;
    }
    cluster.spread.asked.extend(asked);
    let recipient = forward::recipient(turn, Verb::Publish);
    let until = turn.net.now() + ANSWER_MAX.as_nanos() as Nanos;
    if let Some(cluster) = &mut turn.node.cluster {
        cluster.spread.questions.insert(Question {
            recipient,
            sum: receivers as i64,
            left,
            until,
        });
    }
    Next::Deferred
}

/// A node has answered a question.
pub fn answered(cx: &mut Cx<'_, Node>, id: u64, outcome: Outcome<'_>) {
    let count = match outcome {
        Outcome::Replied(reply) => reply
            .strip_prefix(b":")
            .and_then(|text| text.strip_suffix(b"\r\n"))
            .and_then(number::parse_i64),
        Outcome::Moved(_) | Outcome::Again => None,
    };
    let spread = cx.app.cluster.as_mut().map(|cluster| &mut cluster.spread);
    if let Some((_, key)) = spread.and_then(|spread| spread.asked.remove(&id)) {
        counted(cx, key, count.unwrap_or(0));
    }
}

/// One node less is waited for.
fn counted(cx: &mut Cx<'_, Node>, key: usize, count: i64) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let question = &mut cluster.spread.questions[key];
    question.sum += count;
    question.left -= 1;
    if question.left == 0 {
        let question = cluster.spread.questions.remove(key);
        let mut out = Vec::new();
        Reply::new(&mut out, question.recipient.dialect).int(question.sum);
        forward::reply_to(cx, &question.recipient, &out);
    }
}

/// The link to a node is gone: it will not answer.
pub fn lost(cx: &mut Cx<'_, Node>, node: NodeId) {
    end(cx, |asked, _| asked == node);
}

/// At every tick: whoever has not answered in time is not waited for.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let now = cx.net.now();
    end(cx, |_, until| until <= now);
}

fn end(cx: &mut Cx<'_, Node>, is_over: impl Fn(NodeId, Nanos) -> bool) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let Spread {
        asked, questions, ..
    } = &mut cluster.spread;
    let mut over = Vec::new();
    asked.retain(|_, &mut (node, key)| {
        let is_over = is_over(node, questions[key].until);
        if is_over {
            over.push(key);
        }
        !is_over
    });
    over.into_iter().for_each(|key| counted(cx, key, 0));
}

/// Does what another node asks of this one.
pub fn serve(turn: &mut Turn<'_, '_, '_>, command: &Command<'_>) {
    let args = command.args;
    let (me, id) = (turn.me, command.head.id);
    match args.at(0) {
        b"LISTEN" => listen(turn, args.get(1).unwrap_or_default()),
        b"EVENT" => {
            let name = args.get(1).unwrap_or_default();
            let event = Event::ALL
                .into_iter()
                .find(|event| event.name().as_bytes() == name);
            if let (Some(event), Some(key)) = (event, args.get(2)) {
                notify::send(turn, event, key);
            }
        }
        word if parse::is(word, "PUBLISH") && args.len() == 3 => {
            let receivers = pubsub::publish(turn, args.at(1), args.at(2));
            let mut out = Vec::new();
            Reply::new(&mut out, command.head.dialect).count(receivers);
            serve::answer(turn.node, me, id, Outcome::Replied(&out));
        }
        _ => {
            let mut out = Vec::new();
            Reply::new(&mut out, command.head.dialect).error("ERR nodes are not asked that");
            serve::answer(turn.node, me, id, Outcome::Replied(&out));
        }
    }
}

/// Another node says what it wants to hear of.
fn listen(turn: &mut Turn<'_, '_, '_>, classes: &[u8]) {
    let classes = Notify::parse(&String::from_utf8_lossy(classes));
    let (caller, me) = (incoming::caller(turn), turn.me);
    let Some(cluster) = &mut turn.node.cluster else {
        return;
    };
    match caller.filter(|_| classes.is_on()) {
        Some(node) => cluster.spread.wanted.insert(me, (node, classes)),
        None => cluster.spread.wanted.remove(&me),
    };
    turn.node.update_recording();
}

/// Tells the other nodes what this one wants to hear of, if they do not know.
pub fn tell(node: &mut Node) {
    let has_listeners = node.notify.is_on() && node.pubsub.has_key_listeners();
    let classes = match has_listeners {
        true => node.notify,
        false => Notify::default(),
    };
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    if cluster.links.values().all(|link| link.listens == classes) {
        return;
    }
    for (_, link) in others(cluster).filter(|(_, link)| link.listens != classes) {
        link.listens = classes;
        let args = frames::words(&[b"LISTEN", classes.text().as_bytes()]);
        frames::put_command(&mut link.commands, Head::of_node(0), args.args());
    }
}

/// Tells the nodes that want to know of it what happened to a key.
pub fn event(node: &mut Node, event: Event, key: &[u8]) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let wanted = cluster.spread.wanted.values();
    let wanted = wanted.filter(|(_, classes)| classes.wants(event));
    let nodes: Vec<NodeId> = wanted.map(|&(node, _)| node).collect();
    for node in nodes {
        let link = cluster.link_to(node);
        // Whoever does not keep up misses events, and nothing else.
        if let Some(link) = link.filter(|link| link.commands.len() < LINK_BYTES_MAX) {
            let args = frames::words(&[b"EVENT", event.name().as_bytes(), key]);
            frames::put_command(&mut link.commands, Head::of_node(0), args.args());
        }
    }
}
