//! Commands about the node: TIME, OBJECT and MEMORY beyond a key, DEBUG, WAIT, SHUTDOWN, FUNCTION.

use crate::command::op::{Action, Op};
use crate::command::parse::{self, SYNTAX, integer};
use crate::command::table;
use crate::command::verb::Verb;
use crate::wire::number;
use crate::wire::request::Args;

use super::cluster::wait;
use super::stats::Stats;
use super::turn::{Answer, Next, Turn, Until, Wait};
use super::{help, process};

/// What is left: short answers, and HELP of the containers.
pub fn server(turn: &mut Turn<'_, '_, '_>, verb: Verb, args: Args<'_>) {
    match verb {
        Verb::Time => time(turn),
        Verb::Lastsave => turn
            .reply
            .int((turn.node.last_save_ms() / 1000).cast_signed()),
        Verb::ObjectFreq => object_freq(turn, args),
        Verb::MemoryDoctor => memory_doctor(turn),
        Verb::MemoryPurge => turn.reply.ok(),
        Verb::MemoryStats => memory_stats(turn),
        Verb::MemoryMallocStats => {
            turn.reply
                .verbatim("The system's allocator keeps no statistics; see MEMORY STATS.\n");
        }
        Verb::DebugObject => debug_object(turn, args),
        Verb::FunctionList => function_list(turn, args),
        Verb::FunctionFlush => function_flush(turn, args),
        _ => help::subcommands(turn, table::row(verb)),
    }
}

fn time(turn: &mut Turn<'_, '_, '_>) {
    let at_ms = turn.node.at_ms;
    let micros = at_ms % 1000 * 1000 + turn.net.clock() / 1_000 % 1_000;
    turn.reply.array(2);
    turn.reply.bulk((at_ms / 1000).to_string().as_bytes());
    turn.reply.bulk(micros.to_string().as_bytes());
}

fn object_freq(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    match turn.node.keyspace.exists(args.at(2), turn.node.at_ms) {
        false => turn.reply.nil(),
        true => turn.reply.error(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
             when switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ),
    }
}

fn debug_object(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let node = &mut *turn.node;
    let op = Op {
        key: args.at(2),
        action: Action::DebugObject,
    };
    let command = crate::command::data::Command::One(op);
    node.keyspace.read(
        &command,
        node.at_ms,
        || 0,
        &mut turn.reply,
        &mut node.touched,
    );
}

fn memory_doctor(turn: &mut Turn<'_, '_, '_>) {
    let (keys, data) = (turn.node.keyspace.len(), turn.node.keyspace.memory_bytes());
    let resident = process::resident_bytes();
    let text = match data.checked_div(keys) {
        None => "There are no keys; nothing to say about memory.\n".to_owned(),
        Some(each) => format!(
            "{keys} keys take {data} bytes, {each} bytes a key; the process holds {resident} bytes.\n"
        ),
    };
    turn.reply.verbatim(&text);
}

fn memory_stats(turn: &mut Turn<'_, '_, '_>) {
    let (keys, data) = (turn.node.keyspace.len(), turn.node.keyspace.memory_bytes());
    let resident = process::resident_bytes();
    let facts = [
        ("peak.allocated", turn.node.stats.memory_peak.max(data)),
        ("total.allocated", data),
        (
            "clients.normal",
            turn.node.clients.len() * size_of::<super::client::Client>(),
        ),
        ("keys.count", keys),
        ("keys.bytes-per-key", data.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", data),
        ("allocator.resident", resident),
    ];
    turn.reply.map(facts.len());
    for (name, value) in facts {
        turn.reply.bulk(name.as_bytes());
        turn.reply.count(value);
    }
}

fn function_list(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let mut options = args.skip(2).iter();
    while let Some(word) = options.next() {
        let with_pattern = parse::is(word, "LIBRARYNAME");
        if with_pattern && options.next().is_none() {
            return turn.reply.error("ERR library name argument was not given");
        }
        if !with_pattern && !parse::is(word, "WITHCODE") {
            return turn
                .reply
                .error_bytes(&[b"ERR Unknown argument ", parse::as_c_string(word)].concat());
        }
    }
    turn.reply.array(0);
}

fn function_flush(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let how = args
        .get(2)
        .is_none_or(|word| parse::is(word, "SYNC") || parse::is(word, "ASYNC"));
    match how && args.len() <= 3 {
        true => turn.reply.ok(),
        false => turn
            .reply
            .error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
    }
}

/// WAIT. A node that is alone has no replicas, so that only the time can pass.
pub fn wait(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let (replicas, ms) = match (integer(args.at(1)), number::parse_i64(args.at(2))) {
        (_, Some(..0)) => {
            turn.reply.error("ERR timeout is negative");
            return Next::Go;
        }
        (Err(fault), _) => {
            turn.reply.error_bytes(&fault.text);
            return Next::Go;
        }
        (_, None) => {
            turn.reply
                .error("ERR timeout is not an integer or out of range");
            return Next::Go;
        }
        (Ok(replicas), Some(ms)) => (replicas, ms.unsigned_abs()),
    };
    if turn.node.cluster.is_some() {
        return wait::wait(turn, args, replicas, ms);
    }
    if replicas <= 0 || turn.in_transaction {
        turn.reply.int(0);
        return Next::Go;
    }
    let until = match ms {
        0 => Until::Never,
        ms => Until::Time(turn.net.now().saturating_add(ms.saturating_mul(1_000_000))),
    };
    Next::Wait(Wait {
        until,
        answer: Answer::Zero,
    })
}

/// DEBUG SLEEP: only the one who asks sleeps.
pub fn debug_sleep(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    const SECONDS_MAX: f64 = 86_400.0;
    let seconds = std::str::from_utf8(args.at(2))
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    let Some(seconds) = seconds.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds)) else {
        turn.reply.error("ERR value is not a valid float");
        return Next::Go;
    };
    if turn.in_transaction || seconds == 0.0 {
        turn.reply.ok();
        return Next::Go;
    }
    let until = turn.net.now().saturating_add((seconds * 1e9) as u64);
    Next::Wait(Wait {
        until: Until::Time(until),
        answer: Answer::Ok,
    })
}

/// What is answered where there is nothing to save to.
pub const MEMORY_ONLY: &str = "ERR this node keeps everything in memory (--data none)";

/// SAVE: answered when everything is saved; nobody else waits.
pub fn save(turn: &mut Turn<'_, '_, '_>) -> Next {
    if turn.node.saving.files().is_none() {
        turn.reply.error(MEMORY_ONLY);
        return Next::Go;
    }
    turn.node.saving.queue_all();
    if turn.in_transaction {
        turn.reply.simple("Background saving started");
        return Next::Go;
    }
    turn.node.saving.wait(turn.me);
    Next::Wait(Wait::UNTIL_DONE)
}

/// BGSAVE [SCHEDULE].
pub fn bgsave(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    match args.get(1) {
        _ if args.len() > 2 => turn.reply.error_bytes(&SYNTAX.text),
        Some(word) if !parse::is(word, "SCHEDULE") => turn.reply.error_bytes(&SYNTAX.text),
        _ if turn.node.saving.files().is_none() => turn.reply.error(MEMORY_ONLY),
        _ => {
            turn.node.saving.queue_all();
            turn.reply.simple("Background saving started");
        }
    }
}

/// SHUTDOWN: no reply; the connection ends with the node.
pub fn shutdown(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let is_any = |word: &[u8], known: &[&str]| known.iter().any(|known| parse::is(word, known));
    let mut abort = false;
    for word in args.skip(1).iter() {
        if !is_any(word, &["NOSAVE", "SAVE", "NOW", "FORCE", "ABORT"]) {
            turn.reply.error_bytes(&SYNTAX.text);
            return Next::Go;
        }
        abort |= parse::is(word, "ABORT");
    }
    if abort {
        match args.len() {
            2 => turn.reply.error("ERR No shutdown in progress."),
            _ => turn.reply.error_bytes(&SYNTAX.text),
        }
        return Next::Go;
    }
    log::info!("stopping, as {} asked", turn.client().peer);
    super::stop(turn.node, turn.net);
    Next::Close
}

/// CONFIG RESETSTAT.
pub fn reset_stats(turn: &mut Turn<'_, '_, '_>) {
    let memory_peak = turn.node.keyspace.memory_bytes();
    turn.node.stats = Stats::default();
    turn.node.stats.memory_peak = memory_peak;
    turn.node.touched.expired = 0;
    turn.node.touched.reads = 0;
    turn.node.touched.misses = 0;
    turn.node.stats_base = *turn.net.stats();
    turn.net.reset_turn_max();
    turn.reply.ok();
}
