//! Commands about the connection itself: PING, HELLO, RESET, SELECT, AUTH, QUIT.

use crate::command::parse::{self, NOT_INTEGER};
use crate::command::row::Row;
use crate::wire::number;
use crate::wire::reply::Dialect;
use crate::wire::request::Args;

use super::client::Silence;
use super::cluster::view;
use super::transaction;
use super::turn::{Next, Turn};
use super::{REDIS_VERSION, clients};

/// PING.
pub fn ping(turn: &mut Turn<'_, '_, '_>, row: &Row, args: Args<'_>) {
    if args.len() > 2 {
        return turn.reply.error(&format!(
            "ERR wrong number of arguments for '{}' command",
            row.name
        ));
    }
    let client = turn.client();
    if client.dialect == Dialect::Resp2 && client.is_subscribed() {
        turn.reply.array(2);
        turn.reply.bulk(b"pong");
        return turn.reply.bulk(args.get(1).unwrap_or_default());
    }
    match args.get(1) {
        Some(message) => turn.reply.bulk(message),
        None => turn.reply.simple("PONG"),
    }
}

/// QUIT.
pub fn quit(turn: &mut Turn<'_, '_, '_>) -> Next {
    turn.reply.ok();
    Next::Close
}

/// HELLO [version | LINE | JSON [AUTH user password] [SETNAME name]].
pub fn hello(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let dialect = match args.get(1) {
        None => turn.client().dialect,
        Some(word) if parse::is(word, "LINE") => Dialect::Line,
        Some(word) if parse::is(word, "JSON") => Dialect::Json,
        Some(word) => match number::parse_i64(word) {
            Some(2) => Dialect::Resp2,
            Some(3) => Dialect::Resp3,
            Some(_) => return turn.reply.error("NOPROTO unsupported protocol version"),
            None => {
                return turn
                    .reply
                    .error("ERR Protocol version is not an integer or out of range");
            }
        },
    };
    let mut words = args.skip(2);
    while let Some(word) = words.get(0) {
        if parse::is(word, "AUTH") && words.len() >= 3 {
            if words.at(1) != b"default" {
                return wrong_password(turn);
            }
            words = words.skip(3);
        } else if parse::is(word, "SETNAME") && words.len() >= 2 {
            if !clients::is_label(words.at(1)) {
                return turn.reply.error(
                    "ERR Client names cannot contain spaces, newlines or special characters.",
                );
            }
            // At once, as in Redis: an error behind it does not take it back.
            turn.client().labels_mut().name = words.at(1).to_vec();
            words = words.skip(2);
        } else {
            let text = [
                b"ERR Syntax error in HELLO option '",
                parse::as_c_string(word),
                b"'",
            ]
            .concat();
            return turn.reply.error_bytes(&text);
        }
    }
    turn.client().dialect = dialect;
    turn.reply.set_dialect(dialect);
    introduce(turn);
}

fn introduce(turn: &mut Turn<'_, '_, '_>) {
    let (id, dialect) = (turn.client().id, turn.client().dialect);
    let mode = view::mode(turn.node);
    let reply = &mut turn.reply;
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    match dialect {
        Dialect::Resp2 => reply.int(2),
        Dialect::Resp3 => reply.int(3),
        Dialect::Line => reply.bulk(b"line"),
        Dialect::Json => reply.bulk(b"json"),
    }
    reply.bulk(b"id");
    reply.int(id.cast_signed());
    reply.bulk(b"mode");
    reply.bulk(mode.as_bytes());
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

/// RESET: as if the connection were new.
pub fn reset(turn: &mut Turn<'_, '_, '_>) {
    let me = turn.me;
    turn.client().transaction = None;
    transaction::forget_watches(turn);
    if let Some(subscriptions) = turn.client().subscriptions.take() {
        turn.node.pubsub.forget(&subscriptions, me);
    }
    turn.node.monitors.retain(|&conn| conn != me);
    let client = turn.client();
    client.monitor = false;
    client.silence = Silence::Off;
    client.no_touch = false;
    client.no_evict = false;
    client.takes_stale = false;
    client.is_early = false;
    client.labels = None;
    client.dialect = Dialect::Resp2;
    turn.reply.set_dialect(Dialect::Resp2);
    turn.reply.simple("RESET");
}

/// SELECT: there is one database.
pub fn select(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    match number::parse_i64(args.at(1)) {
        Some(0) => turn.reply.ok(),
        Some(_) => turn.reply.error("ERR DB index is out of range"),
        None => turn.reply.error_bytes(&NOT_INTEGER.text),
    }
}

/// AUTH: nobody has a password yet.
pub fn auth(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    match args.len() {
        2 => turn.reply.error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ),
        3 if args.at(1) == b"default" => turn.reply.ok(),
        3 => wrong_password(turn),
        _ => turn.reply.error_bytes(&parse::SYNTAX.text),
    }
}

fn wrong_password(turn: &mut Turn<'_, '_, '_>) {
    turn.reply
        .error("WRONGPASS invalid username-password pair or user is disabled.");
}
