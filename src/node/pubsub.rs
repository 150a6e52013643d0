//! SUBSCRIBE and relatives: who listens to what, and how a message reaches them.
//!
//! A message is encoded once for each dialect among its receivers and goes into their output buffers; it
//! is kept nowhere else. A receiver that does not read is cut off when its buffer passes the limit.
//! RESP2 has no type for a push: there a message is an array, and a subscribed client may say little else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::command::glob;
use crate::command::table;
use crate::command::verb::Verb;
use crate::config::{CHANNEL_BYTES_MAX, PATTERN_BYTES_MAX};
use crate::reactor::id::ConnId;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::Args;

use super::turn::Turn;

/// The pattern by which a message reaches somebody.
type Pattern = Box<[u8]>;

/// What one client listens to.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Channels by name.
    pub channels: BTreeSet<Box<[u8]>>,
    /// Patterns of channel names.
    pub patterns: BTreeSet<Box<[u8]>>,
}

impl Subscriptions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    fn of(&mut self, kind: Kind) -> &mut BTreeSet<Box<[u8]>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// The two ways to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To one channel.
    Channel,
    /// To all channels that match.
    Pattern,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Kind::Channel => "",
            Kind::Pattern => "p",
        }
    }
}

/// Everybody who listens.
#[derive(Debug, Default)]
pub struct PubSub {
    channels: BTreeMap<Box<[u8]>, Vec<ConnId>>,
    patterns: BTreeMap<Box<[u8]>, Vec<ConnId>>,
}

impl PubSub {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<Box<[u8]>, Vec<ConnId>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    /// Number of channels that somebody listens to by name.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Number of patterns.
    pub fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// Whether somebody may listen to changes of keys.
    pub fn has_key_listeners(&self) -> bool {
        const BEGIN: &[u8] = b"__key";
        let from = (Bound::Included(BEGIN), Bound::Unbounded);
        let first = self.channels.range::<[u8], _>(from).next();
        !self.patterns.is_empty() || first.is_some_and(|(channel, _)| channel.starts_with(BEGIN))
    }

    fn remove(&mut self, kind: Kind, name: &[u8], conn: ConnId) {
        let listeners = self.of(kind);
        if let Some(conns) = listeners.get_mut(name) {
            conns.retain(|&listener| listener != conn);
            if conns.is_empty() {
                listeners.remove(name);
            }
        }
    }

    /// Ends everything that a client listens to.
    pub fn forget(&mut self, subscriptions: &Subscriptions, conn: ConnId) {
        subscriptions
            .channels
            .iter()
            .for_each(|name| self.remove(Kind::Channel, name, conn));
        subscriptions
            .patterns
            .iter()
            .for_each(|name| self.remove(Kind::Pattern, name, conn));
    }

    /// Who gets a message on `channel`: with the pattern, for those who get it by one.
    fn receivers(&self, channel: &[u8]) -> Vec<(ConnId, Option<Pattern>)> {
        let by_name = self
            .channels
            .get(channel)
            .into_iter()
            .flatten()
            .map(|&conn| (conn, None));
        let by_pattern = self
            .patterns
            .iter()
            .filter(|(pattern, _)| glob::matches(pattern, channel))
            .flat_map(|(pattern, conns)| conns.iter().map(|&conn| (conn, Some(pattern.clone()))));
        by_name.chain(by_pattern).collect()
    }
}

/// SUBSCRIBE, PSUBSCRIBE.
pub fn subscribe(turn: &mut Turn<'_, '_, '_>, kind: Kind, names: Args<'_>) {
    let me = turn.me;
    if let Some(fault) = names.iter().find_map(|name| too_long(kind, name)) {
        return turn.reply.error(fault);
    }
    for name in names.iter() {
        let subscriptions = turn
            .client()
            .subscriptions
            .get_or_insert_with(Default::default);
        let is_new = subscriptions.of(kind).insert(name.into());
        let count = subscriptions.count();
        if is_new {
            turn.node
                .pubsub
                .of(kind)
                .entry(name.into())
                .or_default()
                .push(me);
        }
        confirm(&mut turn.reply, kind, "subscribe", Some(name), count);
    }
}

/// What to answer to a name that nobody may listen to.
pub fn too_long(kind: Kind, name: &[u8]) -> Option<&'static str> {
    match kind {
        Kind::Channel if name.len() > CHANNEL_BYTES_MAX => {
            Some("ERR channel is longer than 65536 bytes")
        }
        Kind::Pattern if name.len() > PATTERN_BYTES_MAX => {
            Some("ERR pattern is longer than 1024 bytes")
        }
        _ => None,
    }
}

/// UNSUBSCRIBE, PUNSUBSCRIBE; without names, from all.
pub fn unsubscribe(turn: &mut Turn<'_, '_, '_>, kind: Kind, names: Args<'_>) {
    let me = turn.me;
    let all: Vec<Box<[u8]>> = match (&mut turn.client().subscriptions, names.is_empty()) {
        (Some(subscriptions), true) => subscriptions.of(kind).iter().cloned().collect(),
        _ => names.iter().map(Into::into).collect(),
    };
    for name in &all {
        let mut count = 0;
        if let Some(subscriptions) = &mut turn.client().subscriptions {
            subscriptions.of(kind).remove(name);
            count = subscriptions.count();
        }
        turn.node.pubsub.remove(kind, name, me);
        confirm(&mut turn.reply, kind, "unsubscribe", Some(name), count);
    }
    if all.is_empty() {
        let count = turn
            .client()
            .subscriptions
            .as_ref()
            .map_or(0, |subscriptions| subscriptions.count());
        confirm(&mut turn.reply, kind, "unsubscribe", None, count);
    }
    turn.client()
        .subscriptions
        .take_if(|subscriptions| subscriptions.is_empty());
}

fn confirm(reply: &mut Reply<'_>, kind: Kind, what: &str, name: Option<&[u8]>, count: usize) {
    reply.push(3);
    reply.bulk(format!("{}{what}", kind.prefix()).as_bytes());
    reply.bulk_or_nil(name);
    reply.count(count);
}

/// Sends `message` to who listens to `channel`; how many that are.
pub fn publish(turn: &mut Turn<'_, '_, '_>, channel: &[u8], message: &[u8]) -> usize {
    let receivers = turn.node.pubsub.receivers(channel);
    // Receivers come grouped by pattern: only the current one's messages are kept.
    let mut encoded: Vec<(Dialect, Vec<u8>)> = Vec::new();
    let mut current: &Option<Pattern> = &None;
    for (conn, pattern) in &receivers {
        let Some(client) = turn.node.clients.get(*conn) else {
            continue;
        };
        let dialect = client.dialect;
        if pattern != current {
            current = pattern;
            encoded.clear();
        }
        let known = encoded.iter().position(|(d, _)| *d == dialect);
        let index = known.unwrap_or_else(|| {
            encoded.push((
                dialect,
                encode(dialect, pattern.as_deref(), channel, message),
            ));
            encoded.len() - 1
        });
        turn.deliver(*conn, &encoded[index].1);
    }
    receivers.len()
}

fn encode(dialect: Dialect, pattern: Option<&[u8]>, channel: &[u8], message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = Reply::new(&mut bytes, dialect);
    match pattern {
        None => {
            push.push(3);
            push.bulk(b"message");
        }
        Some(pattern) => {
            push.push(4);
            push.bulk(b"pmessage");
            push.bulk(pattern);
        }
    }
    push.bulk(channel);
    push.bulk(message);
    bytes
}

/// PUBSUB CHANNELS.
pub fn channels(turn: &mut Turn<'_, '_, '_>, pattern: Option<&[u8]>) {
    if let Some(fault) = pattern.and_then(|pattern| too_long(Kind::Pattern, pattern)) {
        return turn.reply.error(fault);
    }
    let matching: Vec<&[u8]> = turn
        .node
        .pubsub
        .channels
        .keys()
        .map(|channel| &**channel)
        .filter(|channel| pattern.is_none_or(|pattern| glob::matches(pattern, channel)))
        .collect();
    turn.reply.array(matching.len());
    matching
        .into_iter()
        .for_each(|channel| turn.reply.bulk(channel));
}

/// PUBSUB NUMSUB.
pub fn listeners(turn: &mut Turn<'_, '_, '_>, channels: Args<'_>) {
    turn.reply.array(channels.len() * 2);
    for channel in channels.iter() {
        turn.reply.bulk(channel);
        turn.reply
            .count(turn.node.pubsub.channels.get(channel).map_or(0, Vec::len));
    }
}

/// Whether a RESP2 client that listens may say this; the error to answer with when not.
pub fn refusal(verb: Verb) -> Option<String> {
    let allowed = matches!(
        verb,
        Verb::Ping
            | Verb::Subscribe
            | Verb::Unsubscribe
            | Verb::Psubscribe
            | Verb::Punsubscribe
            | Verb::Quit
            | Verb::Reset
    );
    (!allowed).then(|| {
        format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
             in this context",
            table::row(verb).name
        )
    })
}
