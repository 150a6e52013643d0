//! SLOWLOG: the latest commands that took long.
//!
//! Long commands are kept short: at most [`ARGUMENTS_MAX`] arguments of [`ARGUMENT_BYTES_MAX`] bytes.

use std::collections::VecDeque;

use crate::command::row::{Row, flag};
use crate::wire::number;
use crate::wire::request::{Args, OwnedArgs};

use super::turn::Turn;

const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;

/// One slow command.
#[derive(Debug)]
struct Slow {
    id: i64,
    at_seconds: i64,
    took_us: u64,
    args: OwnedArgs,
    peer: String,
    name: Vec<u8>,
}

/// The slow commands, newest first.
#[derive(Debug, Default)]
pub struct Slowlog {
    entries: VecDeque<Slow>,
    next_id: i64,
}

impl Slowlog {
    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Keeps a command that took `took_us`, if that is slow.
pub fn consider(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>, took_us: u64) {
    let slow = turn
        .node
        .options
        .slowlog_threshold_us
        .is_some_and(|threshold| took_us >= threshold);
    if !slow || row.is(flag::SKIP_SLOWLOG) {
        return;
    }
    let client = turn.client();
    let (peer, name) = (client.peer.to_string(), client.name().to_vec());
    let at_seconds = (turn.node.at_ms / 1000).cast_signed();
    let len_max = turn.node.options.slowlog_len_max;
    let log = &mut turn.node.slowlog;
    let id = log.next_id;
    log.next_id += 1;
    log.entries.push_front(Slow {
        id,
        at_seconds,
        took_us,
        args: shortened(args),
        peer,
        name,
    });
    log.entries.truncate(len_max);
}

/// What of a command is kept.
pub fn shortened(args: Args<'_>) -> OwnedArgs {
    let mut short = OwnedArgs::default();
    let shown = if args.len() > ARGUMENTS_MAX {
        ARGUMENTS_MAX - 1
    } else {
        args.len()
    };
    for argument in args.take(shown).iter() {
        match argument.len().checked_sub(ARGUMENT_BYTES_MAX) {
            None | Some(0) => short.push(argument),
            Some(more) => {
                let tail = format!("... ({more} more bytes)");
                short.push(&[&argument[..ARGUMENT_BYTES_MAX], tail.as_bytes()].concat());
            }
        }
    }
    if shown < args.len() {
        short.push(format!("... ({} more arguments)", args.len() - shown).as_bytes());
    }
    short
}

/// SLOWLOG GET.
pub fn get(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let count = match args.get(2).map(number::parse_i64) {
        None => 10,
        Some(Some(-1)) => usize::MAX,
        Some(Some(count @ 0..)) => count as usize,
        Some(_) => {
            return turn
                .reply
                .error("ERR count should be greater than or equal to -1");
        }
    };
    let shown = count.min(turn.node.slowlog.len());
    turn.reply.array(shown);
    for slow in turn.node.slowlog.entries.iter().take(shown) {
        turn.reply.array(6);
        turn.reply.int(slow.id);
        turn.reply.int(slow.at_seconds);
        turn.reply.int(slow.took_us.cast_signed());
        turn.reply.array(slow.args.args().len());
        slow.args
            .args()
            .iter()
            .for_each(|argument| turn.reply.bulk(argument));
        turn.reply.bulk(slow.peer.as_bytes());
        turn.reply.bulk(&slow.name);
    }
}

/// SLOWLOG RESET.
pub fn reset(turn: &mut Turn<'_, '_, '_>) {
    turn.node.slowlog.entries.clear();
    turn.reply.ok();
}
