//! REPL TAIL: the committed log as lines, as it is applied here, for grep and for whoever keeps a copy elsewhere.
//!
//! ```text
//!   shard=3 index=17 term=2 at=1764115200000 SET k v
//! ```
//!
//! A line for each change, in the order of the shard's log; several may have one index. Who comes back says behind
//! which entry it goes on, as long as that is still in memory; on a node that is alone nothing is. Changes of members
//! and entries that only tell the time have no line.

use crate::cluster::map::{META, shown};
use crate::command::describe::describe;
use crate::command::encode;
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::net::Net;
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::Node;
use super::turn::Turn;

/// Bytes that one may leave unread before it is cut off.
const UNREAD_BYTES_MAX: usize = 32 << 20;
/// Bytes of the log that one may be told at once.
const BEHIND_BYTES_MAX: u64 = 16 << 20;

/// Who listens, and how far they were told.
#[derive(Debug, Default)]
pub struct Tails {
    /// With the shard that each wants; `None`: all.
    listeners: Vec<(ConnId, Option<u16>)>,
    /// By shard: the last entry that was told.
    told: Vec<u64>,
}

impl Tails {
    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// A connection is gone.
    pub fn forget(&mut self, conn: ConnId) {
        self.listeners.retain(|&(listener, _)| listener != conn);
    }

    /// Whether a connection listens.
    pub fn has(&self, conn: ConnId) -> bool {
        self.listeners.iter().any(|&(listener, _)| listener == conn)
    }
}

/// REPL TAIL [shard [from]].
pub fn start(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let number = |at: usize| std::str::from_utf8(args.at(at)).ok()?.parse::<u64>().ok();
    let count = turn.node.keyspace.count();
    let shard = match args.get(2) {
        None => None,
        Some(_) => match number(2).and_then(|number| u16::try_from(number).ok()) {
            Some(shard) if shard < count => Some(shard),
            _ => return turn.reply.error("ERR no such shard"),
        },
    };
    let mut lines = Vec::new();
    if let (Some(shard), Some(_)) = (shard, args.get(3)) {
        let Some(from) = number(3).filter(|&from| from > 0) else {
            return turn.reply.error("ERR an index is a whole number from 1");
        };
        match behind(turn.node, shard, from - 1) {
            Some(found) => lines = found,
            None => {
                return turn
                    .reply
                    .error("ERR that entry is not in memory any more: copy the keys first, then go on from now");
            }
        }
    }
    let me = turn.me;
    turn.reply.ok();
    lines.iter().for_each(|line| turn.reply.simple(line));
    turn.node.tails.forget(me);
    turn.node.tails.listeners.push((me, shard));
}

/// The lines of what is applied behind an entry; `None` if some of it is not in memory.
fn behind(node: &Node, shard: u16, index: u64) -> Option<Vec<String>> {
    let shard = &node.keyspace.shards()[node.keyspace.index_of_number(shard)];
    let applied = shard.applied().index;
    let mut lines = Vec::new();
    let mut next = index + 1;
    while next <= applied {
        let entries = shard.entries_behind(next - 1, BEHIND_BYTES_MAX);
        let first = entries.first().filter(|first| first.index == next)?.index;
        for entry in entries.iter().filter(|entry| entry.index <= applied) {
            if let Some((at_ms, changes)) = shard.changes_of(entry) {
                put_lines(
                    &mut lines,
                    shard.number(),
                    entry.index,
                    entry.term,
                    at_ms,
                    changes,
                );
            }
        }
        next = first + entries.len() as u64;
    }
    Some(lines)
}

fn put_lines(
    lines: &mut Vec<String>,
    shard: u16,
    index: u64,
    term: u64,
    at_ms: u64,
    mut changes: &[u8],
) {
    let head = format!(
        "shard={} index={index} term={term} at={at_ms}",
        shown(shard)
    );
    while let Ok((change, used)) = encode::decode(changes) {
        lines.push(format!("{head} {}", describe(&change)));
        changes = &changes[used..];
        if changes.is_empty() {
            break;
        }
    }
}

/// The next entry of a shard is about to be applied.
pub fn tell(cx: &mut Cx<'_, Node>, shard: usize) {
    let node = &mut *cx.app;
    let Some(entry) = node.keyspace.shards()[shard].next_entry() else {
        return;
    };
    let number = node.keyspace.shards()[shard].number();
    node.tails.told.resize(node.keyspace.shards().len(), 0);
    if number == META || entry.is_members || node.tails.told[shard] >= entry.index {
        return;
    }
    node.tails.told[shard] = entry.index;
    let mut lines = Vec::new();
    put_lines(
        &mut lines,
        number,
        entry.index,
        entry.term,
        entry.at_ms,
        &entry.changes,
    );
    for (conn, wanted) in node.tails.listeners.clone() {
        if wanted.is_none_or(|wanted| wanted == number) {
            send(node, &mut cx.net, conn, &lines);
        }
    }
}

fn send(node: &Node, net: &mut Net<'_, Node>, conn: ConnId, lines: &[String]) {
    let Some(client) = node.clients.get(conn) else {
        return;
    };
    if net.out_len_of(conn) > UNREAD_BYTES_MAX {
        log::warn!("a client that does not read the log it asked for was cut off");
        return net.abort(conn);
    }
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, client.dialect);
    lines.iter().for_each(|line| reply.simple(line));
    net.write_to(conn, &out);
}
