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

use super::Node;
use super::cluster::frames;
use super::keyspace::{Keyspace, Place};
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
    fetch(keyspace, &places);
    seen
}

/// The same for the commands of another node with which `frame` begins. Returns how many of its bytes are left when
/// to look again.
pub fn look_ahead_of(node: &Node, frame: &[u8]) -> usize {
    let keyspace = &node.keyspace;
    if keyspace.len() < KEYS_IN_CACHE {
        return 0;
    }
    let is_read = |name: &[u8]| table::find(name).is_some_and(|row| row.is(flag::READONLY));
    let mut places = [None; KEYS_MAX];
    let mut rest = frame;
    for place in &mut places {
        match frames::skim(&mut rest) {
            Ok(Some([name, key])) if key.len() <= KEY_BYTES_MAX && is_read(name) => {
                *place = Some(keyspace.place(key));
            }
            Ok(_) => {}
            // The frame ends here, or makes no sense from here on.
            Err(_) => break,
        }
    }
    fetch(keyspace, &places);
    rest.len()
}

fn fetch(keyspace: &Keyspace, places: &[Option<Place>]) {
    for step in Step::ALL {
        let places = places.iter().flatten();
        places.for_each(|&place| keyspace.prefetch(place, step));
    }
}
