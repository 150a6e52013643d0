//! Looking ahead in a pipeline of reads.
//!
//! A read waits for memory several times, one after the other; sixteen reads can wait together. So before the next
//! requests are run, they are parsed for their keys, and what will be needed for these is fetched into the cache.
//! Nothing is decided here: whether a request is right, allowed, or a read at all is found out when it is run.
//!
//! Not here: writes. Their memory is fetched before they are applied, by their shard.

use crate::command::row::{Keys, Row, flag};
use crate::command::table;
use crate::config::KEY_BYTES_MAX;
use crate::store::Step;
use crate::wire::reply::Dialect;
use crate::wire::request::{Limits, Parser, Progress};

use super::turn::Turn;

/// So many keys with their entries lie in a processor's cache anyway: to parse twice would only take time.
const KEYS_IN_CACHE: usize = 10_000;
/// Keys that are fetched together.
const KEYS_MAX: usize = 16;

/// Fetches what the requests with which `input` begins will need, if they are reads of keys as the client's last
/// command was. Returns the number of bytes after which to look again.
pub fn look_ahead(turn: &mut Turn<'_, '_, '_>, input: &[u8]) -> usize {
    let last = turn.client().last.map(table::row);
    let is_read = |row: &&Row| row.is(flag::READONLY) && row.keys != Keys::NONE;
    let Some(row) = last.filter(is_read) else {
        return input.len();
    };
    if turn.node.keyspace.len() < KEYS_IN_CACHE {
        return input.len();
    }
    let limits = Limits::trusted(turn.node.options.argument_bytes_max);
    let lenient = matches!(turn.reply.dialect(), Dialect::Line | Dialect::Json);
    let keyspace = &turn.node.keyspace;
    let mut parser = Parser::default();
    let mut places = [None; KEYS_MAX];
    let (mut count, mut seen) = (0, 0);
    while count < KEYS_MAX
        && let Ok(Progress::Request { consumed }) = parser.next(&input[seen..], &limits, lenient)
    {
        let args = parser.args(&input[seen..]);
        let keys = row.keys.positions(args.len()).map(|at| args.at(at));
        let keys = keys.filter(|key| key.len() <= KEY_BYTES_MAX);
        for key in keys.take(KEYS_MAX - count) {
            places[count] = Some(keyspace.place(key));
            count += 1;
        }
        seen += consumed;
    }
    for step in Step::ALL {
        let places = places.iter().flatten();
        places.for_each(|&place| keyspace.prefetch(place, step));
    }
    seen
}
