//! What the members of a cluster say of it: their name, the map, and how their replicas stand.
//!
//! The map is that of [`crate::cluster::map`], by `CLUSTER MAP`. A replica is a line of `REPL STATUS`:
//!
//! ```text
//!   shard=3 role=leader leader=1 term=2 index=90 commit=90 applied=90 keys=41 lag-2=0 lag-3=12(away)
//! ```
//!
//! Words that are not known are passed over, so that later nodes can say more. A node that has left its cluster is not
//! told so: it goes on showing the last map that it knew. Whether it is still a member is for the others to say.

use std::time::Duration;

use super::Failure;
use super::link::{Answer, Link, LinkError, Target};
use crate::cluster::map::{META, Map, NodeId};
use crate::wire::decode::Value;

/// What a member gets for the connection, and for each of its answers.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A replica, as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    /// Its shard, or [`META`].
    pub(super) shard: u16,
    pub(super) is_leader: bool,
    /// Keys in it, of the meta shard too.
    pub(super) keys: u64,
    /// Of a leader: by how many entries the replicas on other nodes lag behind.
    pub(super) lags: Vec<(NodeId, u64)>,
}

impl Replica {
    /// Reads a line of REPL STATUS.
    pub(super) fn parse(line: &str) -> Option<Replica> {
        let (mut shard, mut keys) = (None, None);
        let (mut is_leader, mut lags) = (false, Vec::new());
        for word in line.split(' ') {
            let (name, value) = word.split_once('=')?;
            match name {
                "shard" if value == "meta" => shard = Some(META),
                "shard" => shard = Some(value.parse().ok()?),
                "role" => is_leader = value == "leader",
                "keys" => keys = Some(value.parse().ok()?),
                _ => {
                    if let Some(node) = name.strip_prefix("lag-") {
                        let entries = value.trim_end_matches("(away)");
                        lags.push((node.parse().ok()?, entries.parse().ok()?));
                    }
                }
            }
        }
        Some(Replica {
            shard: shard?,
            is_leader,
            keys: keys?,
            lags,
        })
    }
}

/// The name of the node, and the map that it knows.
///
/// # Errors
/// It is in no cluster, or does not answer.
pub(super) fn place(target: &Target<'_>, link: &mut Link) -> Result<(String, Map), Failure> {
    let in_none = |error| match error {
        LinkError::Refused(_, text) => {
            let told = String::from_utf8_lossy(&text).into_owned();
            Failure::Refused(format!("{target} is in no cluster: {told}"))
        }
        error => Failure::Link(error),
    };
    let name = name(link).map_err(in_none)?;
    Ok((name, map(link).map_err(in_none)?))
}

/// CLUSTER MYID.
pub(super) fn name(link: &mut Link) -> Result<String, LinkError> {
    text(link, "CLUSTER MYID")
}

/// CLUSTER MAP.
pub(super) fn map(link: &mut Link) -> Result<Map, LinkError> {
    let text = text(link, "CLUSTER MAP")?;
    Map::decode(text.as_bytes()).map_err(|reason| LinkError::Nonsense("CLUSTER MAP", reason))
}

/// REPL STATUS.
pub(super) fn replicas(link: &mut Link) -> Result<Vec<Replica>, LinkError> {
    let what = "REPL STATUS";
    let Value::Array(lines) = value(link, what)? else {
        return Err(LinkError::Nonsense(what, "it is no list".to_owned()));
    };
    let parse = |line: &Value| match line {
        Value::Bulk(line) => Replica::parse(&String::from_utf8_lossy(line)),
        _ => None,
    };
    let replicas: Option<Vec<Replica>> = lines.iter().map(parse).collect();
    replicas.ok_or_else(|| LinkError::Nonsense(what, "a line is none".to_owned()))
}

fn text(link: &mut Link, what: &'static str) -> Result<String, LinkError> {
    match value(link, what)? {
        Value::Bulk(text) | Value::Verbatim { text, .. } => {
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        _ => Err(LinkError::Nonsense(what, "it is no text".to_owned())),
    }
}

/// The answer to a command of plain words, which is no error.
fn value(link: &mut Link, what: &'static str) -> Result<Value, LinkError> {
    let words: Vec<Vec<u8>> = what.split(' ').map(Into::into).collect();
    match link.ask(&words)? {
        Answer::Value(Value::Error(text)) => Err(LinkError::Refused(what, text)),
        Answer::Value(value) => Ok(value),
        Answer::Line(..) => Err(LinkError::Nonsense(what, "it is a line".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_repl_status_is_a_replica() {
        let line = "shard=3 role=leader leader=1 term=2 index=90 commit=90 applied=90 keys=41 lag-2=0 \
                    lag-3=12(away) later=words";
        let leader = Replica {
            shard: 3,
            is_leader: true,
            keys: 41,
            lags: vec![(2, 0), (3, 12)],
        };
        assert_eq!(Replica::parse(line), Some(leader));
        let meta = Replica {
            shard: META,
            is_leader: false,
            keys: 2,
            lags: Vec::new(),
        };
        let line = "shard=meta role=learner leader=- term=0 index=0 commit=0 applied=0 keys=2";
        assert_eq!(Replica::parse(line), Some(meta));
        for line in [
            "",
            "shard=3",
            "shard=x keys=1",
            "shard=3 keys=1 lag-2=x",
            "words",
        ] {
            assert_eq!(Replica::parse(line), None, "{line}");
        }
    }
}
