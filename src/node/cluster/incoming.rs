//! What other nodes say, on links that they dialed. Such a link is a session like any other until `REPL HELLO`; what
//! is said behind that is believed to come from the node that said it.
//!
//! Nonsense costs the one who says it its link; a single message that makes no sense to a shard is dropped, as if the
//! network had lost it.

use crate::cluster::map::{self, Map, NodeId};
use crate::failpoint::{self, Point};
use crate::reactor::limits::OutputLimits;
use crate::shard::peer;
use crate::wire::request::Args;

use super::super::turn::{Next, Turn};
use super::link::said;
use super::{founding, link, membership};

/// What may wait on a link before it is cut.
const UNSENT_BYTES_MAX: usize = 4 << 30;

/// The node at the other end of a session.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its number in the map of `epoch`; 0: it is in none.
    node: NodeId,
    epoch: u64,
}

/// REPL HELLO.
pub fn hello(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let text = |at: usize| String::from_utf8_lossy(args.at(at)).into_owned();
    let (version, cluster, name) = (text(2), text(3), text(4));
    let Some(own) = &turn.node.cluster else {
        turn.reply
            .error("ERR this node is not in a cluster: start it with --cluster");
        return Next::Close;
    };
    let ours = turn.node.peer_version;
    let is_known = version
        .parse::<u32>()
        .is_ok_and(|version| version.abs_diff(ours) <= 1);
    if !is_known {
        let text = format!("ERR this node speaks version {ours} with its peers, not {version}");
        turn.reply.error(&text);
        return Next::Close;
    }
    if let (Some(id), Ok(other)) = (own.id(), u64::from_str_radix(&cluster, 16))
        && id != other
    {
        turn.reply
            .error(&format!("ERR this node is in the cluster {id:016x}"));
        return Next::Close;
    }
    if !map::is_name(&name) {
        turn.reply
            .error("ERR a node's name has 40 hexadecimal digits");
        return Next::Close;
    }
    let greeting = format!("{ours} {} {} {}", said(own.id()), own.name, own.address);
    failpoint::reach(Point::CallerGreeted);
    turn.reply.simple(&greeting);
    replace_former(turn, &name, args.at(5));
    turn.net.set_timeout(None);
    turn.net.set_output_limits(OutputLimits {
        high_bytes: UNSENT_BYTES_MAX / 4,
        low_bytes: UNSENT_BYTES_MAX / 8,
        hard_bytes: UNSENT_BYTES_MAX,
    });
    let (node, epoch) = (0, 0);
    turn.client().calling = Some(Box::new(Peer { name, node, epoch }));
    Next::Go
}

/// A node calls anew. What it said on a former link that is not known to have ended is not to run behind what it says
/// now; and what this node says to it may not arrive any more either.
fn replace_former(turn: &mut Turn<'_, '_, '_>, name: &str, address: &[u8]) {
    let mut former = turn.node.clients.calls_of(name);
    former.retain(|&conn| conn != turn.me);
    let address = std::str::from_utf8(address).ok();
    for &conn in &former {
        log::info!("node at {}: calls anew", address.unwrap_or("?"));
        turn.net.abort(conn);
    }
    if let (Some(cluster), Some(address)) = (
        &mut turn.node.cluster,
        address.and_then(|text| text.parse().ok()),
    ) {
        link::doubt(cluster, address, !former.is_empty());
    }
}

/// The number of the node that is talking; `None`: it is none of the map's.
pub fn caller(turn: &mut Turn<'_, '_, '_>) -> Option<NodeId> {
    let map = turn.node.cluster.as_ref()?.map.as_ref()?;
    let client = turn.node.clients.get_mut(turn.me)?;
    let peer = client.calling.as_mut()?;
    if peer.epoch != map.epoch {
        (peer.node, peer.epoch) = (map.node_of(&peer.name).unwrap_or(0), map.epoch);
    }
    Some(peer.node).filter(|&node| node != 0)
}

/// Whether it is a node that is talking; else it is told so.
pub fn is_peer(turn: &mut Turn<'_, '_, '_>) -> bool {
    let is_peer = turn.client().calling.is_some();
    if !is_peer {
        turn.reply
            .error("NOPERM only nodes say this, after REPL HELLO");
    }
    is_peer
}

/// REPL MSG.
pub fn messages(turn: &mut Turn<'_, '_, '_>, frame: &[u8]) -> Next {
    if !is_peer(turn) {
        return Next::Go;
    }
    let Some(from) = caller(turn) else {
        return Next::Go;
    };
    let mut rest = frame;
    while !rest.is_empty() {
        let (shard, message, used) = match peer::decode(rest) {
            Ok(decoded) => decoded,
            Err(reason) => {
                log::warn!("node {from}: {reason}; closed");
                return Next::Close;
            }
        };
        rest = &rest[used..];
        failpoint::reach(Point::MessageHeard);
        let refused = turn.node.keyspace.step(shard, message, from);
        if let Err(refusal) = refused {
            log::debug!(
                "shard {}: a message of node {from}: {refusal}",
                map::shown(shard)
            );
        }
    }
    Next::Go
}

/// REPL JOIN, as a node says it that is in no cluster yet: it hears the map when it is.
pub fn join(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let cluster = turn.node.cluster.as_ref();
    let is_member = cluster.is_some_and(|cluster| cluster.map.is_some());
    if is_peer(turn) && is_member {
        let wish = [&b"REPL"[..], b"JOIN", args.at(2), args.at(3)];
        membership::ask(turn.node, turn.net.now(), &wish);
    }
    Next::Go
}

/// REPL MAP.
pub fn map(turn: &mut Turn<'_, '_, '_>, text: &[u8]) -> Next {
    if !is_peer(turn) {
        return Next::Go;
    }
    match Map::decode(text) {
        Ok(map) => membership::told(turn, map),
        Err(reason) => {
            log::warn!("a node sent a map that makes no sense: {reason}");
            return Next::Close;
        }
    }
    Next::Go
}

/// REPL FOUND.
pub fn found(turn: &mut Turn<'_, '_, '_>, text: &[u8]) -> Next {
    if !is_peer(turn) {
        return Next::Go;
    }
    match Map::decode(text) {
        Ok(map) => founding::told(turn, map),
        Err(reason) => {
            log::warn!("a node sent a map that makes no sense: {reason}");
            return Next::Close;
        }
    }
    Next::Go
}
