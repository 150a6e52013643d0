//! What was typed -> the row it means, or the error that says why it means none.
//!
//! Errors repeat the client's own words, in Redis's text; a hint of ours may stand behind it.

use super::parse::as_c_string;
use super::row::Row;
use super::table;
use super::verb::Verb;
use crate::wire::request::Args;

/// Longest part of an unknown command that its error repeats, in bytes.
const ECHO_BYTES_MAX: usize = 128;

/// Whether the second of `args` is the name of a subcommand: always for a container, and for COMMAND, which
/// may also stand alone, when there is one.
pub fn has_subcommand(row: &Row, args: Args<'_>) -> bool {
    row.is_container() || row.verb == Verb::Command && args.len() > 1
}

/// The row of a subcommand that `args` name and fit.
///
/// # Errors
/// The text to answer with.
pub fn subcommand(row: &'static Row, args: Args<'_>) -> Result<&'static Row, Vec<u8>> {
    if !has_subcommand(row, args) {
        return Ok(row);
    }
    let Some(name) = args.get(1) else {
        return Err(wrong_arity(row).into_bytes());
    };
    match table::find_sub(row, name) {
        Some(sub) if sub.takes(args.len()) => Ok(sub),
        Some(sub) => Err(wrong_arity(sub).into_bytes()),
        None if let Some(reason) = absence(row, name) => Err(reason.as_bytes().to_vec()),
        None => {
            let container = row.name.to_ascii_uppercase();
            let hint = format!("'. Try {container} HELP.");
            Err([
                b"ERR unknown subcommand '",
                shown(name, ECHO_BYTES_MAX),
                hint.as_bytes(),
            ]
            .concat())
        }
    }
}

/// Why a subcommand is not there that Redis has, where its being absent must surprise.
fn absence(container: &Row, name: &[u8]) -> Option<&'static str> {
    if container.verb != Verb::Cluster {
        return None;
    }
    let is = |word: &&str| word.as_bytes().eq_ignore_ascii_case(name);
    let found = ABSENT.iter().find(|(names, _)| names.iter().any(is));
    found.map(|&(_, reason)| reason)
}

/// Subcommands of CLUSTER that are not there, and why.
const ABSENT: [(&[&str], &str); 5] = [
    (
        &[
            "ADDSLOTS",
            "ADDSLOTSRANGE",
            "DELSLOTS",
            "DELSLOTSRANGE",
            "FLUSHSLOTS",
            "SETSLOT",
        ],
        "ERR slots are not moved by hand: the cluster places its shards itself, CLUSTER SHARDS shows where",
    ),
    (
        &["FAILOVER", "REPLICATE", "REPLICAS", "SLAVES"],
        "ERR a node is no replica of another: each shard has replicas, CLUSTER SHARDS shows where",
    ),
    (
        &["RESET"],
        "ERR a node is not emptied by hand: CLUSTER LEAVE, stop it, remove its directory",
    ),
    (
        &[
            "BUMPEPOCH",
            "COUNT-FAILURE-REPORTS",
            "LINKS",
            "SAVECONFIG",
            "SET-CONFIG-EPOCH",
        ],
        "ERR nodes do not gossip: the map of the cluster is what its meta shard agreed on",
    ),
    (
        &["MYSHARDID"],
        "ERR a node has replicas of several shards: CLUSTER SHARDS shows of which",
    ),
];

/// The error for a wrong number of arguments.
pub fn wrong_arity(row: &Row) -> String {
    format!("ERR wrong number of arguments for '{}' command", row.name)
}

/// The part of a client's own words that an error repeats.
fn shown(bytes: &[u8], len_max: usize) -> &[u8] {
    as_c_string(&bytes[..bytes.len().min(len_max)])
}

/// Redis's text for an unknown command, and ours behind it when a known one is near.
pub fn unknown(args: Args<'_>) -> Vec<u8> {
    let name = args.at(0);
    let mut text = [
        b"ERR unknown command '",
        shown(name, ECHO_BYTES_MAX),
        b"', with args beginning with: ",
    ]
    .concat();
    let mut left = ECHO_BYTES_MAX;
    for argument in args.skip(1).iter() {
        if left == 0 {
            break;
        }
        let part = shown(argument, left);
        text.extend_from_slice(&[b"'", part, b"' "].concat());
        left = left.saturating_sub(part.len() + 3);
    }
    if let Some(near) = table::nearest(name) {
        text.extend_from_slice(format!("- did you mean {}?", near.typed_name()).as_bytes());
    }
    text
}
