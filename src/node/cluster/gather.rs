//! Commands over several shards that need not be done as one: taken apart, passed on, put together.
//!
//! ```text
//!   MGET a b c ─┬─▶ shard of a and c: MGET a c ─▶ [1, 3] ─┬─▶ [1, 2, 3]
//!               └─▶ shard of b:       MGET b   ─▶ [2] ────┘
//! ```
//!
//! Each part goes the [way of any command](super::forward) for its shard, also to shards that this node leads: so it
//! keeps its order among the others. The parts are asked for in RESP2, and what they came to is written in the client's
//! dialect.
//!
//! The parts are done at different times: what is read is not a snapshot, and of `DEL` and `FLUSHALL` some may be done
//! and others not. Then the worst error is the answer, and says so.
//!
//! | command | parts | together |
//! |---|---|---|
//! | MGET | the keys of each shard | the values in the order of the keys |
//! | EXISTS, TOUCH, DEL, UNLINK | the keys of each shard | the sum |
//! | DBSIZE | all shards | the sum |
//! | KEYS | all shards | all of them, one shard after the other |
//! | FLUSHALL, FLUSHDB | all shards | `OK` |
//! | RANDOMKEY | DBSIZE of all shards, then RANDOMKEY of one, chosen by its size | that |
//!
//! SCAN is passed on as it is to the shard that its cursor names.

use crate::command::row::{Row, flag};
use crate::command::verb::Verb;
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;
use crate::wire::decode::{Decoder, Limits, Value};
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::{Args, OwnedArgs};

use super::super::Node;
use super::super::turn::{Next, Turn};
use super::forward::{self, Asker, Errand, Recipient};
use super::frames;

/// Longest value in the answer to a part.
const TEXT_BYTES_MAX: usize = 2 << 30;
/// What is said when a part of a write is not known to be done.
const UNKNOWN: &str = "UNKNOWN a node that leads one of the shards was lost: in any shard the write was done \
                       or will never be, nobody here can tell";
/// What is said behind the error of a part of a write.
const OTHERS: &[u8] = b" in that shard; in others it may be done";

/// A command whose parts are under way.
pub struct Gathering {
    recipient: Recipient,
    flags: u8,
    is_write: bool,
    /// Parts that are not answered.
    left: usize,
    /// The worst error so far.
    error: Option<Vec<u8>>,
    so_far: SoFar,
}

/// What the answers to the parts came to.
enum SoFar {
    Sum(i64),
    Values {
        /// The part that each key is in.
        of_keys: Vec<u16>,
        /// By part.
        values: Vec<std::vec::IntoIter<Value>>,
    },
    Keys(Vec<Value>),
    Done,
    /// The number of keys of each shard.
    Sizes(Vec<u64>),
    /// The same, and a key of one of them, if there was any.
    Key(Vec<u64>, Option<Vec<u8>>),
}

/// Whether a command may be taken apart by its keys.
pub fn is_divisible(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Mget | Verb::Exists | Verb::Touch | Verb::Del | Verb::Unlink
    )
}

/// A command whose keys are in several shards.
pub fn by_keys(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>) -> Next {
    let mut part_of_shard = vec![u16::MAX; turn.node.keyspace.count().into()];
    let mut of_keys = Vec::with_capacity(args.len() - 1);
    let mut parts: Vec<(u16, OwnedArgs)> = Vec::new();
    for key in args.skip(1).iter() {
        let shard = turn.node.keyspace.shard_of(key);
        let part = &mut part_of_shard[usize::from(shard)];
        if *part == u16::MAX {
            *part = parts.len() as u16;
            parts.push((shard, OwnedArgs::copy(args.take(1))));
        }
        parts[usize::from(*part)].1.push(key);
        of_keys.push(*part);
    }
    let values = || (0..parts.len()).map(|_| Vec::new().into_iter()).collect();
    let so_far = match row.verb {
        Verb::Mget => SoFar::Values {
            values: values(),
            of_keys,
        },
        _ => SoFar::Sum(0),
    };
    begin(turn, row, so_far, parts)
}

/// A command about all keys.
pub fn by_shards(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>) -> Next {
    let shards = turn.node.keyspace.count();
    let (so_far, part) = match row.verb {
        Verb::Dbsize => (SoFar::Sum(0), OwnedArgs::copy(args)),
        Verb::Keys => (SoFar::Keys(Vec::new()), OwnedArgs::copy(args)),
        Verb::Randomkey => (
            SoFar::Sizes(vec![0; shards.into()]),
            frames::words(&[b"DBSIZE"]),
        ),
        _ => (SoFar::Done, OwnedArgs::copy(args)),
    };
    let parts = (0..shards).map(|shard| (shard, part.clone())).collect();
    begin(turn, row, so_far, parts)
}

fn begin(
    turn: &mut Turn<'_, '_, '_>,
    row: &Row,
    so_far: SoFar,
    parts: Vec<(u16, OwnedArgs)>,
) -> Next {
    let gathering = Gathering {
        recipient: forward::recipient(turn, row.verb),
        flags: forward::flags(turn),
        is_write: row.is(flag::WRITE),
        left: 0,
        error: None,
        so_far,
    };
    let now = turn.net.now();
    if let Some((shard, _)) = parts.last().filter(|_| row.is(flag::WRITE)) {
        turn.client().wrote = Some(*shard);
    }
    if let Some(cluster) = &mut turn.node.cluster {
        let key = cluster.gatherings.insert(gathering);
        ask(turn.node, now, key, parts);
    }
    Next::Deferred
}

/// Passes the parts of a gathering on.
fn ask(node: &mut Node, now: Nanos, key: usize, parts: Vec<(u16, OwnedArgs)>) {
    let Some(cluster) = &mut node.cluster else {
        return;
    };
    let gathering = &mut cluster.gatherings[key];
    gathering.left = parts.len();
    let (flags, is_write) = (gathering.flags, gathering.is_write);
    failpoint::reach(Point::PartsAsked);
    for (part, (shard, args)) in parts.into_iter().enumerate() {
        let errand = Errand {
            asker: Asker::Part(key, part),
            dialect: Dialect::Resp2,
            flags,
            args: frames::encoded(args.args()),
        };
        forward::pass_on(node, now, shard, is_write, errand);
    }
}

/// A part was answered.
pub fn answered(cx: &mut Cx<'_, Node>, key: usize, part: usize, reply: &[u8]) {
    let value = decode(reply);
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let gathering = &mut cluster.gatherings[key];
    failpoint::reach(Point::PartAnswered);
    gathering.left -= 1;
    match value {
        Value::Error(text) => gathering.blame(text),
        value => gathering.so_far.add(part, value),
    }
    if gathering.left == 0 {
        finish(cx, key);
    }
}

fn decode(reply: &[u8]) -> Value {
    let limits = Limits {
        text_bytes_max: TEXT_BYTES_MAX,
        ..Limits::default()
    };
    let mut decoder = Decoder::new(limits);
    decoder.feed(reply);
    match decoder.next_value() {
        Ok(Some(value)) => value,
        _ => Value::Error(b"ERR a node has answered what makes no sense".to_vec()),
    }
}

impl Gathering {
    /// A part came to an error.
    fn blame(&mut self, text: Vec<u8>) {
        let is_worse = |before: &Vec<u8>| gravity(&text) > gravity(before);
        if self.error.as_ref().is_none_or(is_worse) {
            self.error = Some(text);
        }
    }
}

/// What an answer must not leave out counts most.
fn gravity(text: &[u8]) -> u8 {
    match text.split(|&byte| byte == b' ').next() {
        Some(b"UNKNOWN") => 3,
        Some(b"CLUSTERDOWN") => 2,
        Some(b"TRYAGAIN") => 1,
        _ => 0,
    }
}

impl SoFar {
    fn add(&mut self, part: usize, value: Value) {
        match (self, value) {
            (SoFar::Sum(sum), Value::Int(count)) => *sum += count,
            (SoFar::Values { values, .. }, Value::Array(all)) => values[part] = all.into_iter(),
            (SoFar::Keys(keys), Value::Array(mut all)) => keys.append(&mut all),
            (SoFar::Sizes(sizes), Value::Int(count)) => sizes[part] = count.unsigned_abs(),
            (SoFar::Key(_, key), Value::Bulk(found)) => *key = Some(found),
            _ => {}
        }
    }

    /// The shard to be asked next for a random key, if one must be.
    fn next_shard(&mut self, random: u64) -> Option<u16> {
        let sizes = match self {
            SoFar::Sizes(sizes) | SoFar::Key(sizes, None) => std::mem::take(sizes),
            _ => return None,
        };
        let total: u64 = sizes.iter().sum();
        let mut nth = random.checked_rem(total).unwrap_or(0);
        let shard = sizes.iter().position(|&size| {
            let is_here = nth < size;
            nth = nth.saturating_sub(size);
            is_here
        });
        *self = SoFar::Key(sizes, None);
        // One that turns out to have none, all of them being past their time, is not asked again.
        if let (SoFar::Key(sizes, _), Some(shard)) = (self, shard) {
            sizes[shard] = 0;
        }
        shard.map(|shard| shard as u16)
    }

    fn write(self, reply: &mut Reply<'_>) {
        match self {
            SoFar::Sum(sum) => reply.int(sum),
            SoFar::Done => reply.ok(),
            SoFar::Keys(keys) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| text(key, reply));
            }
            SoFar::Values {
                of_keys,
                mut values,
            } => {
                reply.array(of_keys.len());
                for part in of_keys {
                    let value = values[usize::from(part)].next();
                    text(&value.unwrap_or(Value::Nil), reply);
                }
            }
            SoFar::Sizes(_) => reply.nil(),
            SoFar::Key(_, key) => reply.bulk_or_nil(key.as_deref()),
        }
    }
}

fn text(value: &Value, reply: &mut Reply<'_>) {
    match value {
        Value::Bulk(text) => reply.bulk(text),
        _ => reply.nil(),
    }
}

/// All parts are answered: so is the command, unless there is more to ask.
fn finish(cx: &mut Cx<'_, Node>, key: usize) {
    let (now, random) = (cx.net.now(), cx.net.random());
    let Some(cluster) = &mut cx.app.cluster else {
        return;
    };
    let gathering = &mut cluster.gatherings[key];
    if gathering.error.is_none()
        && let Some(shard) = gathering.so_far.next_shard(random)
    {
        let part = frames::words(&[b"RANDOMKEY"]);
        return ask(cx.app, now, key, vec![(shard, part)]);
    }
    failpoint::reach(Point::PartsGathered);
    let gathering = cluster.gatherings.remove(key);
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, gathering.recipient.dialect);
    match gathering.error {
        Some(text) if gathering.is_write && gravity(&text) == 3 => reply.error(UNKNOWN),
        Some(mut text) => {
            if gathering.is_write {
                text.extend_from_slice(OTHERS);
            }
            reply.error_bytes(&text);
        }
        None => gathering.so_far.write(&mut reply),
    }
    forward::reply_to(cx, &gathering.recipient, &out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_the_order_of_their_keys() {
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        let mut so_far = SoFar::Values {
            of_keys: vec![0, 1, 0, 1],
            values: vec![Vec::new().into_iter(), Vec::new().into_iter()],
        };
        so_far.add(1, Value::Array(vec![bulk("b"), Value::Nil]));
        so_far.add(0, Value::Array(vec![bulk("a"), bulk("c")]));
        let mut out = Vec::new();
        so_far.write(&mut Reply::new(&mut out, Dialect::Resp3));
        assert_eq!(out, b"*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n_\r\n");
    }

    #[test]
    fn a_random_key_is_looked_for_where_there_are_some() {
        let mut so_far = SoFar::Sizes(vec![0, 3, 0, 2]);
        assert_eq!(so_far.next_shard(4), Some(3));
        assert_eq!(so_far.next_shard(4), Some(1));
        assert_eq!(so_far.next_shard(4), None);
        let mut so_far = SoFar::Key(vec![1], Some(b"k".to_vec()));
        assert_eq!(so_far.next_shard(0), None);
    }

    #[test]
    fn the_worst_error_counts() {
        let texts = ["ERR x", "TRYAGAIN x", "CLUSTERDOWN x", "UNKNOWN x"];
        assert!(texts.is_sorted_by_key(|text| gravity(text.as_bytes())));
    }
}
