//! From arguments to an answer: find the row, ask whether it may run now, run it, account for it.
//!
//! The order of the questions is Redis's, since their errors are told one at a time: unknown command,
//! wrong number of arguments, subscribed client, pause, transaction. A command that is refused while a
//! transaction is being typed breaks the transaction.

use crate::command::data::Command;
use crate::command::parse::{self, Fault, WithoutKey};
use crate::command::resolve;
use crate::command::row::{Row, flag};
use crate::command::table;
use crate::command::verb::Verb;
use crate::config::CHANNEL_BYTES_MAX;
use crate::planted::{self, Bug};
use crate::wire::reply::Dialect;
use crate::wire::request::Args;

use super::client::Silence;
use super::cluster::{
    incoming, membership, receiving, route, serve, spread, status, transact, view,
};
use super::turn::{Answer, Next, Turn, Wait};
use super::{
    backup, catalogue, clients, connection, help, info, keys, latency, monitor, notify, propose,
    pubsub, server, settings, slowlog, tail, transaction,
};

/// What is answered before everything is in memory that was there before.
const LOADING: &str = "LOADING Marline is loading the dataset in memory";

/// Answers one request of `request_bytes`.
pub fn request(turn: &mut Turn<'_, '_, '_>, args: Args<'_>, request_bytes: usize) -> Next {
    let found = match look_up(turn, args.at(0)) {
        Some(row) if resolve::has_subcommand(row, args) => {
            resolve::subcommand(row, args).map_err(|text| (Some(row), text))
        }
        Some(row) if row.takes(args.len()) => Ok(row),
        Some(row) => Err((Some(row), resolve::wrong_arity(row).into_bytes())),
        None => Err((None, resolve::unknown(args))),
    };
    // Only commands on keys can be answered within a batch; all else is answered when the batch has been.
    if turn.client().awaiting > 0
        && !matches!(found, Ok(row) if row.is(flag::WRITE | flag::READONLY))
    {
        return Next::Settle;
    }
    let row = match found {
        Ok(row) => row,
        Err(_) if is_http(args) => return http(turn),
        Err((row, text)) => return refuse(turn, row, &text),
    };
    if turn.node.is_loading() && !row.is(flag::LOADING) {
        return refuse(turn, Some(row), LOADING.as_bytes());
    }
    let now = turn.net.now();
    let plain = {
        let client = turn.client();
        client.active = now;
        client.last = Some(row.verb);
        client.is_plain()
    };
    if turn.node.pause.is_some() && is_paused(turn, row) {
        return Next::Held;
    }
    let quick = is_quick(turn, row, request_bytes);
    if !quick {
        turn.end_run();
    }
    turn.request_bytes = request_bytes;
    turn.quick = quick;
    let before = turn.reply.len();
    let errors = turn.reply.errors();
    let next = if plain {
        run(turn, row, args)
    } else {
        with_care(turn, row, args)
    };
    if matches!(
        next,
        Next::Deferred | Next::Barrier | Next::Latched | Next::Settle
    ) {
        return next;
    }
    if turn.reply.errors() != errors {
        turn.count_error(row.verb, before);
    }
    turn.count(row.verb);
    if !quick {
        let took_us = turn.end_run() / 1_000;
        slowlog::consider(turn, row, args, took_us);
        latency::consider(turn, row, took_us);
    }
    next
}

/// Whether a command is so surely short that it need not be timed alone: its time is its share of a run
/// of the same commands, for which the clock is read once.
fn is_quick(turn: &Turn<'_, '_, '_>, row: &Row, request_bytes: usize) -> bool {
    const QUICK_BYTES_MAX: usize = 4096;
    is_short(row) && request_bytes <= QUICK_BYTES_MAX && !turn.node.meter.each
}

/// The row of the command called `name`. In a pipeline it is most likely the one before.
fn look_up(turn: &mut Turn<'_, '_, '_>, name: &[u8]) -> Option<&'static Row> {
    let before = turn.client().last.map(table::row);
    before
        .filter(|row| is_short(row) && row.name.as_bytes().eq_ignore_ascii_case(name))
        .or_else(|| table::find(name).filter(|row| !row.is_subcommand()))
}

/// Whether a command takes a short time by its nature. No subcommand does.
fn is_short(row: &Row) -> bool {
    row.is(flag::FAST) || row.verb == Verb::Set
}

/// Whether a web browser is talking: then somebody else's page may be choosing its words.
fn is_http(args: Args<'_>) -> bool {
    let name = args.at(0);
    [
        "POST", "HOST:", "PUT", "OPTIONS", "HEAD", "PATCH", "DELETE", "CONNECT",
    ]
    .iter()
    .any(|word| parse::is(name, word))
        || args
            .get(2)
            .is_some_and(|version| version.starts_with(b"HTTP/"))
}

fn http(turn: &mut Turn<'_, '_, '_>) -> Next {
    log::warn!(
        "{}: speaks HTTP to the command port; closed",
        turn.client().peer
    );
    turn.reply
        .error("ERR Protocol error: this port does not speak HTTP");
    Next::Close
}

fn refuse(turn: &mut Turn<'_, '_, '_>, row: Option<&Row>, text: &[u8]) -> Next {
    if let Some(transaction) = &mut turn.client().transaction {
        transaction.broken = true;
    }
    if let Some(row) = row {
        turn.node.stats.of(row.verb).rejected += 1;
    }
    turn.node.stats.error(text);
    let before = turn.reply.len();
    if row.is_some_and(|row| row.verb == Verb::Exec) {
        transaction::abort(turn, text);
    } else {
        turn.reply.error_bytes(text);
    }
    keep_silence(turn, before);
    Next::Go
}

/// Takes back what was answered after the first `before` bytes, if the client asked for silence.
fn keep_silence(turn: &mut Turn<'_, '_, '_>, before: usize) {
    let silence = turn.client().silence;
    if silence != Silence::Off {
        turn.reply.truncate(before);
    }
    if silence == Silence::NextReply {
        turn.client().silence = Silence::Off;
    }
}

/// Whether CLIENT PAUSE holds this command back.
fn is_paused(turn: &mut Turn<'_, '_, '_>, row: &Row) -> bool {
    let now = turn.net.now();
    let Some(pause) = turn.node.pause else {
        return false;
    };
    if pause.until <= now {
        turn.node.end_pause(turn.net);
        return false;
    }
    let exempt = matches!(
        row.verb,
        Verb::ClientUnpause | Verb::ClientPause | Verb::Quit | Verb::Reset
    );
    let queued = turn.client().transaction.is_some() && row.verb != Verb::Exec;
    let changes = row.is(flag::WRITE) || matches!(row.verb, Verb::Publish | Verb::Exec);
    !exempt && !queued && (pause.all || changes)
}

/// Commands of clients that are subscribed, typing a transaction, silent, or no users of keys.
fn with_care(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    let client = turn.client();
    if client.dialect == Dialect::Resp2
        && client.is_subscribed()
        && let Some(text) = pubsub::refusal(row.verb)
    {
        return refuse(turn, Some(row), text.as_bytes());
    }
    if client.transaction.is_some() {
        let immediate = matches!(
            row.verb,
            Verb::Exec | Verb::Discard | Verb::Multi | Verb::Watch | Verb::Quit | Verb::Reset
        );
        // One that chooses how replies look, or whether there are any, has no place within a reply.
        if row.is(flag::NO_MULTI) {
            return refuse(
                turn,
                Some(row),
                b"ERR Command not allowed inside a transaction",
            );
        }
        if !immediate {
            return queue(turn, row, args);
        }
    }
    let client = turn.client();
    let (silence, no_touch) = (client.silence, client.no_touch);
    let before = turn.reply.len();
    turn.node.keyspace.set_touching(!no_touch);
    let next = run(turn, row, args);
    turn.node.keyspace.set_touching(true);
    let is_asked_again = matches!(next, Next::Latched | Next::Settle);
    if row.verb != Verb::ClientReply && !is_asked_again {
        keep_silence(turn, before);
    }
    match next {
        Next::Wait(wait) if silence != Silence::Off => Next::Wait(Wait {
            answer: Answer::Nothing,
            ..wait
        }),
        next => next,
    }
}

/// Adds a command to the transaction that is being typed.
fn queue(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    if let Some(text) = transact::queue(turn, row, args) {
        return refuse(turn, Some(row), text.as_bytes());
    }
    let Some(transaction) = &mut turn.client().transaction else {
        return Next::Go;
    };
    transaction.queue(args);
    let bytes = transaction.bytes();
    if bytes > turn.node.options.request_bytes_max {
        log::warn!(
            "{}: a transaction of more than {bytes} bytes; closed",
            turn.client().peer
        );
        turn.reply
            .error("ERR the transaction is larger than client-query-buffer-limit");
        return Next::Close;
    }
    let before = turn.reply.len();
    turn.reply.simple("QUEUED");
    keep_silence(turn, before);
    Next::Go
}

/// Runs a command that may run: now, or as part of the next batch.
fn run(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    if !turn.node.monitors.is_empty() && !row.is(flag::ADMIN) {
        monitor::feed(turn, args);
    }
    if turn.node.cluster.is_some()
        && let Some(next) = route::route(turn, row, args)
    {
        return next;
    }
    match parse::data(row, args, turn.node.at_ms) {
        Some(Ok(command)) if command.is_write() => propose::command(turn, row, &command, args),
        _ if turn.client().awaiting > 0 => propose::behind(turn, row, args),
        parsed => finish(turn, row, args, parsed),
    }
}

/// Runs a command that reads keys of a shard that this node leads: now, if it knows that it does and nothing of the
/// client's is before it, else when it knows.
pub fn read(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>, shard: u16) -> Next {
    let is_first = turn.serving.is_some() || turn.client().awaiting == 0;
    let is_idle = turn.node.commits.is_shard_idle(shard) || planted::is(Bug::ReadBehindIgnored);
    if !is_first || !is_idle && turn.serving.is_some() {
        return propose::behind(turn, row, args);
    }
    let before = turn.reply.len();
    let next = run_now(turn, row, args);
    let now = turn.net.clock();
    if turn.node.keyspace.can_read(shard, now) {
        return next;
    }
    turn.reply.truncate(before);
    propose::behind(turn, row, args)
}

/// Runs a command that changes no key, in its place in a batch.
pub fn run_now(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    let parsed = parse::data(row, args, turn.node.at_ms);
    finish(turn, row, args, parsed)
}

fn finish(
    turn: &mut Turn<'_, '_, '_>,
    row: &'static Row,
    args: Args<'_>,
    parsed: Option<Result<Command<'_>, Fault>>,
) -> Next {
    match parsed {
        Some(Ok(command)) => {
            let node = &mut *turn.node;
            let random = || turn.net.random();
            node.keyspace.read(
                &command,
                node.at_ms,
                random,
                &mut turn.reply,
                &mut node.touched,
            );
            if node.touched.recording {
                notify::tell_touched(turn);
            }
            Next::Go
        }
        Some(Err(fault)) => {
            refuse_arguments(turn, row, args, &fault);
            Next::Go
        }
        None => not_data(turn, row, args),
    }
}

fn refuse_arguments(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>, fault: &Fault) {
    let key = args.at(row.keys.first.unsigned_abs().into());
    match fault.without_key {
        Some(answer) if !turn.node.keyspace.exists(key, turn.node.at_ms) => match answer {
            WithoutKey::Nil => turn.reply.nil(),
            WithoutKey::Int(number) => turn.reply.int(number),
        },
        _ => turn.reply.error_bytes(&fault.text),
    }
}

fn not_data(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) -> Next {
    match row.verb {
        Verb::Exec => return transaction::exec(turn),
        Verb::Quit => return connection::quit(turn),
        Verb::Hello => connection::hello(turn, args),
        Verb::ClusterForget | Verb::ClusterLeave | Verb::ClusterMeet => {
            return membership::command(turn, row, args);
        }
        Verb::Wait => return server::wait(turn, args),
        Verb::Backup => return backup::backup(turn, args),
        Verb::KeyRotate => return keys::rotate(turn),
        Verb::KeyStatus => return keys::status(turn),
        Verb::ReplHello => return incoming::hello(turn, args),
        Verb::ReplMsg => return incoming::messages(turn, args.at(2)),
        Verb::ReplFwd => return serve::commands(turn, args.at(2)),
        Verb::ReplSnap => return receiving::frame(turn, args.at(2)),
        Verb::ReplJoin => return incoming::join(turn, args),
        Verb::ReplMap => return incoming::map(turn, args.at(2)),
        Verb::ReplFound => return incoming::found(turn, args.at(2)),
        Verb::ReplDigest => status::digest(turn),
        Verb::ReplTail => tail::start(turn, args),
        Verb::ReplStatus => status::status(turn),
        Verb::Save => return server::save(turn),
        Verb::DebugSleep => return server::debug_sleep(turn, args),
        Verb::Shutdown => return server::shutdown(turn, args),
        Verb::ClientKill => return clients::kill(turn, args),
        Verb::Multi => transaction::multi(turn),
        Verb::Discard => transaction::discard(turn),
        Verb::Watch => return transaction::watch(turn, args),
        Verb::Unwatch => transaction::unwatch(turn),
        Verb::Subscribe => pubsub::subscribe(turn, pubsub::Kind::Channel, args.skip(1)),
        Verb::Psubscribe => pubsub::subscribe(turn, pubsub::Kind::Pattern, args.skip(1)),
        Verb::Unsubscribe => pubsub::unsubscribe(turn, pubsub::Kind::Channel, args.skip(1)),
        Verb::Punsubscribe => pubsub::unsubscribe(turn, pubsub::Kind::Pattern, args.skip(1)),
        Verb::Publish if args.at(1).len() > CHANNEL_BYTES_MAX => {
            turn.reply.error("ERR channel is longer than 65536 bytes");
        }
        Verb::Publish => return spread::publish(turn, args),
        Verb::PubsubChannels if args.len() > 3 => turn.reply.error(
            "ERR unknown subcommand or wrong number of arguments for 'channels'. Try PUBSUB HELP.",
        ),
        Verb::PubsubChannels => pubsub::channels(turn, args.get(2)),
        Verb::PubsubNumsub => pubsub::listeners(turn, args.skip(2)),
        Verb::PubsubNumpat => turn.reply.count(turn.node.pubsub.patterns()),
        _ => administration(turn, row, args),
    }
    Next::Go
}

fn administration(turn: &mut Turn<'_, '_, '_>, row: &'static Row, args: Args<'_>) {
    match row.verb {
        Verb::Ping => connection::ping(turn, row, args),
        Verb::Bgsave => server::bgsave(turn, args),
        Verb::Echo => turn.reply.bulk(args.at(1)),
        Verb::Reset => connection::reset(turn),
        Verb::Select => connection::select(turn, args),
        Verb::Auth => connection::auth(turn, args),
        Verb::Info => info::info(turn, args),
        Verb::Help => help::help(turn, args),
        Verb::Command
        | Verb::CommandCount
        | Verb::CommandDocs
        | Verb::CommandGetkeys
        | Verb::CommandInfo
        | Verb::CommandList => catalogue::command(turn, row.verb, args),
        Verb::ConfigGet => settings::get(turn, args),
        Verb::ConfigSet => settings::set(turn, args),
        Verb::ConfigRewrite => settings::rewrite(turn),
        Verb::ConfigResetstat => server::reset_stats(turn),
        Verb::ClientAck
        | Verb::ClientId
        | Verb::ClientInfo
        | Verb::ClientList
        | Verb::ClientGetname
        | Verb::ClientSetname
        | Verb::ClientSetinfo
        | Verb::ClientReply
        | Verb::ClientPause
        | Verb::ClientUnpause
        | Verb::ClientNoEvict
        | Verb::ClientNoTouch => clients::client(turn, row.verb, args),
        Verb::Readonly | Verb::Readwrite | Verb::Asking => view::stance(turn, row.verb),
        Verb::ClusterCountkeysinslot
        | Verb::ClusterGetkeysinslot
        | Verb::ClusterInfo
        | Verb::ClusterKeyslot
        | Verb::ClusterMap
        | Verb::ClusterMyid
        | Verb::ClusterNodes
        | Verb::ClusterShards
        | Verb::ClusterSlots => view::cluster(turn, row.verb, args),
        Verb::Monitor => monitor::start(turn),
        Verb::SlowlogGet => slowlog::get(turn, args),
        Verb::SlowlogLen => turn.reply.count(turn.node.slowlog.len()),
        Verb::SlowlogReset => slowlog::reset(turn),
        Verb::LatencyDoctor
        | Verb::LatencyGraph
        | Verb::LatencyHistogram
        | Verb::LatencyHistory
        | Verb::LatencyLatest
        | Verb::LatencyReset => latency::latency(turn, row.verb, args),
        verb => server::server(turn, verb, args),
    }
}
