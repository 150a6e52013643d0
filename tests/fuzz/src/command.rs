//! From request bytes to a reply: whatever a client says about data is answered with exactly one value,
//! in every dialect.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::command::data::{Command, Many};
use marline::command::parse::{self, Fault};
use marline::command::row::Row;
use marline::command::table;
use marline::command::verb::Verb;
use marline::node::keyspace::{Keyspace, Touched};
use marline::ring;
use marline::store::HashSeed;
use marline::wire::reply::{Dialect, Reply};
use marline::wire::request::{Args, Limits, Parser, Progress};
use marline_fuzz::{decoded, one_line};

const DIALECTS: [Dialect; 4] = [Dialect::Resp2, Dialect::Resp3, Dialect::Line, Dialect::Json];
const AT_MS: u64 = 1_700_000_000_000;

/// A keyspace for each dialect, so that all four see the same history.
struct World {
    keyspaces: [Keyspace; 4],
    at_ms: u64,
}

impl World {
    fn new() -> World {
        let keyspaces = [0; 4].map(|_: u8| Keyspace::new(3, HashSeed(1, 2)));
        World {
            keyspaces,
            at_ms: AT_MS,
        }
    }

    fn run(&mut self, row: &'static Row, args: Args<'_>) {
        if is_huge(row, args) {
            return;
        }
        let Some(parsed) = parse::data(row, args, self.at_ms) else {
            return;
        };
        if parsed.as_ref().is_ok_and(is_taken_apart) {
            return;
        }
        // Time passes, so that keys expire.
        self.at_ms += 1 + args.at(0).len() as u64;
        for (keyspace, dialect) in self.keyspaces.iter_mut().zip(DIALECTS) {
            let mut out = Vec::new();
            let mut reply = Reply::new(&mut out, dialect);
            match &parsed {
                Ok(command) => {
                    let mut touched = Touched {
                        recording: true,
                        ..Touched::default()
                    };
                    execute(keyspace, command, self.at_ms, &mut reply, &mut touched);
                }
                Err(Fault { text, .. }) => reply.error_bytes(text),
            }
            assert!(reply.is_complete(), "{dialect:?}: an aggregate is open");
            judge(dialect, &out);
            keyspace.take_dropped();
        }
        let lens: Vec<usize> = self.keyspaces.iter().map(Keyspace::len).collect();
        assert!(
            lens.iter().all(|len| *len == lens[0]),
            "the dialect matters to the data"
        );
    }
}

/// Runs a command; a write is a batch of its own.
fn execute(
    keyspace: &mut Keyspace,
    command: &Command<'_>,
    at_ms: u64,
    reply: &mut Reply<'_>,
    touched: &mut Touched,
) {
    match command {
        Command::One(op) if op.action.is_write() => {
            let slot = ring::slot(op.key);
            keyspace.propose(slot, op);
            let closed = keyspace.close_all(at_ms);
            keyspace.advance(None, 1);
            keyspace.apply_next(slot, reply, touched);
            settle(keyspace, closed);
        }
        Command::Many(Many::Flush) => {
            keyspace.propose_flush();
            let closed = keyspace.close_all(at_ms);
            keyspace.advance(None, 1);
            keyspace.apply_flush(None);
            settle(keyspace, closed);
            reply.ok();
        }
        reading => keyspace.read(reading, at_ms, || 7, reply, touched),
    }
}

fn settle(keyspace: &mut Keyspace, closed: Vec<(usize, u64, u64)>) {
    for (shard, ..) in closed {
        assert_eq!(keyspace.next_committed(shard), None, "all of it was applied");
        keyspace.settle(shard);
    }
    keyspace.take_committed();
}

/// Whether it is taken apart above the keyspace; whole sessions have such.
fn is_taken_apart(command: &Command<'_>) -> bool {
    matches!(command, Command::Many(many) if command.is_write() && !matches!(many, Many::Flush))
}

/// Strings of hundreds of megabytes are legal and would only take time.
fn is_huge(row: &Row, args: Args<'_>) -> bool {
    let grows = matches!(row.verb, Verb::Setrange | Verb::Setbit | Verb::Bitfield);
    grows
        && args.iter().any(|argument| {
            let digits = argument.strip_prefix(b"#").unwrap_or(argument);
            digits.len() > 4 && digits.iter().all(u8::is_ascii_digit)
        })
}

fn judge(dialect: Dialect, out: &[u8]) {
    match dialect {
        Dialect::Resp2 | Dialect::Resp3 => assert_eq!(decoded(out).len(), 1, "one reply"),
        Dialect::Line => drop(one_line(out)),
        Dialect::Json => {
            serde_json::from_slice::<serde_json::Value>(one_line(out)).expect("a line is JSON");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut parser, mut rest) = (Parser::default(), data);
    let mut world = World::new();
    loop {
        match parser.next(rest, &Limits::trusted(1 << 20), true) {
            Ok(Progress::Incomplete) | Err(_) => return,
            Ok(Progress::Nothing { consumed } | Progress::Telnet { consumed, .. }) => {
                rest = &rest[consumed..];
            }
            Ok(Progress::Request { consumed }) => {
                let args = parser.args(rest);
                match table::find(args.at(0)) {
                    Some(row) if row.is_container() => {
                        let sub = args.get(1).and_then(|name| table::find_sub(row, name));
                        if let Some(sub) = sub.filter(|sub| sub.takes(args.len())) {
                            world.run(sub, args);
                        }
                    }
                    Some(row) if row.takes(args.len()) => world.run(row, args),
                    Some(_) => {}
                    None => drop(table::nearest(args.at(0))),
                }
                rest = &rest[consumed..];
            }
        }
    }
});
