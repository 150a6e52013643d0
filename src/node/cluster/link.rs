//! The links that this node dials: one to each node, kept up as long as the map names it.
//!
//! ```text
//!   connected ─ REPL HELLO ─▶ "1 <cluster> <name> <address>" ─▶ ready ─▶ REPL MSG, REPL FWD, ...
//!                                                                ◀─ answers (a bulk string for each frame of them)
//! ```
//!
//! A link that says something else is closed, and dialed again later. While a link is not ready, nothing is kept for
//! it.
//!
//! A machine that lost its power says nothing, and TCP tries again more and more rarely: what is sent to it may be held
//! for seconds, or minutes, after it is back. But it calls at once. So whoever is called anew by a node whose former
//! call has not ended closes that one, which keeps what was said there from running behind what is said now, and dials
//! the node anew.

use std::net::SocketAddr;
use std::time::Duration;

use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::id::{ConnId, ConnectorId};
use crate::reactor::limits::OutputLimits;
use crate::reactor::net::Net;
use crate::reactor::protocol::{ClientFactory, Factory, Protocol, Reason, Retry};
use crate::reactor::reconnect::{Backoff, Reconnecting};
use crate::wire::decode::{Decoder, Limits, Value};

use super::super::Node;
use super::super::notify::Notify;
use super::{Cluster, forward, founding, unreachable};

/// So long is a greeting waited for, the first time. Who was to give it may have died with it, and what says so may be
/// lost: TCP does not find out, since nothing is sent on a link that is not ready.
const GREETING: Duration = Duration::from_secs(1);
/// Each time that none came it is waited for twice as long, so often: the other side may be slow, or far away.
const GREETING_DOUBLED_MAX: u32 = 4;
/// After so many ticks a link is old enough to be doubted.
const OLD_TICKS: u64 = 10;
/// Longest frame of answers.
const FRAME_BYTES_MAX: usize = 2 << 30;
/// What may wait on a link before it is cut.
const UNSENT_BYTES_MAX: usize = 4 << 30;

/// Who is at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Its name.
    pub name: String,
    /// The cluster that it is in, if it is in one.
    pub cluster: Option<u64>,
}

/// A link, up or not.
pub struct Link {
    connector: ConnectorId,
    conn: Option<ConnId>,
    /// The tick at which it came up.
    since: u64,
    /// How many connections in a row ended without a greeting.
    ungreeted: u32,
    /// The connection, or the attempt, that the other side does not seem to know of any more.
    doubted: Option<Option<ConnId>>,
    /// Who answered, once it has.
    pub called: Option<Called>,
    /// The epoch of the map that it was told.
    pub told: u64,
    /// Which events this node has asked it for.
    pub listens: Notify,
    /// Raft's messages that go out at the end of the turn.
    pub messages: Vec<u8>,
    /// Commands that do.
    pub commands: Vec<u8>,
}

impl Link {
    /// A link that is dialed until it is up, and again whenever it is lost.
    fn dial(net: &mut Net<'_, Node>, address: SocketAddr) -> Link {
        let backoff = Backoff {
            max: Duration::from_millis(500),
            ..Backoff::default()
        };
        let factory = Reconnecting::new(Callers { address }, backoff);
        Link {
            connector: net.connect(address, Box::new(factory)),
            conn: None,
            since: 0,
            ungreeted: 0,
            doubted: None,
            called: None,
            told: 0,
            listens: Notify::default(),
            messages: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Whether the other side has said who it is.
    pub fn is_ready(&self) -> bool {
        self.conn.is_some() && self.called.is_some()
    }

    /// Bytes that wait.
    pub fn unsent(&self, net: &Net<'_, Node>) -> usize {
        self.messages.len() + self.conn.map_or(0, |conn| net.out_len_of(conn))
    }

    /// Sends what has gathered.
    pub fn send(&mut self, net: &mut Net<'_, Node>) {
        let Some(conn) = self.conn else {
            self.messages.clear();
            return self.commands.clear();
        };
        for (verb, frame) in [("MSG", &mut self.messages), ("FWD", &mut self.commands)] {
            if !frame.is_empty() {
                put(net, conn, verb, frame);
                frame.clear();
            }
        }
    }

    /// Says something in words, if the link is up.
    pub fn say_line(&self, net: &mut Net<'_, Node>, line: &str) {
        if let Some(conn) = self.conn {
            net.write_to(conn, line.as_bytes());
            net.write_to(conn, b"\r\n");
        }
    }

    /// Sends a frame of its own, if the link is up.
    pub fn say(&self, net: &mut Net<'_, Node>, verb: &str, frame: &[u8]) {
        if let Some(conn) = self.conn {
            put(net, conn, verb, frame);
        }
    }
}

fn put(net: &mut Net<'_, Node>, conn: ConnId, verb: &str, frame: &[u8]) {
    let (words, len) = (verb.len(), frame.len());
    let head = format!("*3\r\n$4\r\nREPL\r\n${words}\r\n{verb}\r\n${len}\r\n");
    net.write_to(conn, head.as_bytes());
    net.write_to(conn, frame);
    net.write_to(conn, b"\r\n");
}

/// Dials all nodes of the map, those that are to be taken in, and nobody else.
pub fn dial_known(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let Some(map) = &cluster.map else { return };
    let there = map.nodes.values().filter(|node| !node.is_gone);
    let mut wanted: Vec<SocketAddr> = there.map(|node| node.address).collect();
    cluster.meeting.retain(|address| !wanted.contains(address));
    wanted.extend(&cluster.meeting);
    dial_all(cx, &wanted);
}

/// Dials all of these and nobody else.
pub fn dial_all(cx: &mut Cx<'_, Node>, wanted: &[SocketAddr]) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    cluster.links.retain(|address, link| {
        let stays = wanted.contains(address);
        if !stays {
            cx.net.disconnect(link.connector);
        }
        stays
    });
    for &address in wanted {
        let dial = || Link::dial(&mut cx.net, address);
        cluster.links.entry(address).or_insert_with(dial);
    }
}

/// The node at an address has called. If this node has not heard that its former call ended, or cannot reach it, then
/// what is sent to it may be waiting for TCP to try again, which it does more and more rarely.
pub fn doubt(cluster: &mut Cluster, address: SocketAddr, has_called_before: bool) {
    let ticks = cluster.ticks;
    if let Some(link) = cluster.links.get_mut(&address) {
        // One that has just come up is the answer to such a doubt on the other side.
        let is_old = has_called_before && ticks - link.since > OLD_TICKS;
        if link.conn.is_none() || is_old {
            link.doubted = Some(link.conn);
        }
    }
}

/// At every tick: what is in doubt is dialed anew, unless there is another connection by now.
pub fn tend(cx: &mut Cx<'_, Node>) {
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    for (address, link) in &mut cluster.links {
        if link.doubted.take() != Some(link.conn) {
            continue;
        }
        log::info!("node at {address}: dialed anew");
        match link.conn {
            Some(conn) => cx.net.abort(conn),
            None => {
                cx.net.disconnect(link.connector);
                *link = Link::dial(&mut cx.net, *address);
            }
        }
    }
}

struct Callers {
    address: SocketAddr,
}

impl Factory<Node> for Callers {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, Node>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Node>>> {
        cx.net.set_output_limits(OutputLimits {
            high_bytes: UNSENT_BYTES_MAX / 4,
            low_bytes: UNSENT_BYTES_MAX / 8,
            hard_bytes: UNSENT_BYTES_MAX,
        });
        let limits = Limits {
            text_bytes_max: FRAME_BYTES_MAX,
            ..Limits::default()
        };
        Some(Box::new(Caller {
            address: self.address,
            decoder: Decoder::new(limits),
        }))
    }
}

impl ClientFactory<Node> for Callers {
    fn connection_failed(&mut self, _: &mut Node, reason: &Reason, _: u32) -> Retry {
        log::debug!("node at {}: {reason:?}", self.address);
        Retry::Stop
    }
}

/// The protocol of a link that this node dialed.
struct Caller {
    address: SocketAddr,
    decoder: Decoder,
}

impl Caller {
    fn link<'n>(&self, node: &'n mut Node) -> Option<&'n mut Link> {
        node.cluster.as_mut()?.links.get_mut(&self.address)
    }

    fn heard(&mut self, cx: &mut Cx<'_, Node>, value: Value) {
        let is_ready = self.link(cx.app).is_some_and(|link| link.is_ready());
        match value {
            Value::Simple(text) if !is_ready => self.greeted(cx, &text),
            Value::Bulk(frame) if is_ready => {
                if let Err(reason) = forward::answered(cx, &frame) {
                    log::warn!("node at {}: {reason}; closed", self.address);
                    cx.net.abort_connection();
                }
            }
            Value::Error(text) => {
                let text = String::from_utf8_lossy(&text);
                log::warn!("node at {}: {text}", self.address);
                cx.net.lose_connection();
            }
            _ => {
                log::warn!("{}: does not speak as a node does; closed", self.address);
                cx.net.abort_connection();
            }
        }
    }

    /// The other side has said who it is.
    fn greeted(&mut self, cx: &mut Cx<'_, Node>, text: &[u8]) {
        let Some(called) = parse_greeting(text) else {
            log::warn!("{}: does not speak as a node does; closed", self.address);
            return cx.net.abort_connection();
        };
        log::debug!("node at {}: {called:?}", self.address);
        cx.net.set_timeout(None);
        if let Some(link) = self.link(cx.app) {
            (link.called, link.ungreeted) = (Some(called), 0);
            failpoint::reach(Point::LinkGreeted);
            founding::met(cx, self.address);
        }
    }
}

/// What a node answers to REPL HELLO: version, cluster, name, address.
fn parse_greeting(text: &[u8]) -> Option<Called> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split(' ');
    let _version: u32 = words.next()?.parse().ok()?;
    let cluster = match words.next()? {
        "-" => None,
        id => Some(u64::from_str_radix(id, 16).ok()?),
    };
    let name = words.next()?.to_owned();
    let _address: SocketAddr = words.next()?.parse().ok()?;
    Some(Called { name, cluster })
}

/// The cluster of a node as it is said in REPL HELLO.
pub fn said(cluster: Option<u64>) -> String {
    cluster.map_or_else(|| "-".to_owned(), |id| format!("{id:016x}"))
}

impl Protocol<Node> for Caller {
    fn connection_made(&mut self, cx: &mut Cx<'_, Node>) {
        let me = cx.net.id();
        let Some(cluster) = &mut cx.app.cluster else {
            return;
        };
        failpoint::reach(Point::LinkDialed);
        let greeting = format!(
            "REPL HELLO {} {} {} {}\r\n",
            cx.app.peer_version,
            said(cluster.id()),
            cluster.name,
            cluster.address
        );
        match cluster.links.get_mut(&self.address) {
            Some(link) => {
                (link.conn, link.called) = (Some(me), None);
                (link.told, link.listens) = (0, Notify::default());
                link.since = cluster.ticks;
                cx.net.write(greeting.as_bytes());
                let doubled = link.ungreeted.min(GREETING_DOUBLED_MAX);
                cx.net.set_timeout(Some(GREETING * 2_u32.pow(doubled)));
            }
            None => cx.net.lose_connection(),
        }
    }

    fn data_received(&mut self, cx: &mut Cx<'_, Node>, data: &[u8]) {
        self.decoder.feed(data);
        loop {
            match self.decoder.next_value() {
                Ok(Some(value)) => self.heard(cx, value),
                Ok(None) => return,
                Err(error) => {
                    log::warn!("node at {}: {error}; closed", self.address);
                    return cx.net.abort_connection();
                }
            }
        }
    }

    fn connection_lost(&mut self, cx: &mut Cx<'_, Node>, reason: &Reason) {
        log::debug!("node at {}: {reason:?}", self.address);
        let me = cx.net.id();
        let link = self.link(cx.app).filter(|link| link.conn == Some(me));
        if let Some(link) = link {
            link.ungreeted += u32::from(link.called.is_none());
            (link.conn, link.called) = (None, None);
            failpoint::reach(Point::LinkLost);
            unreachable(cx, self.address);
            forward::lost(cx, self.address);
        }
    }
}
