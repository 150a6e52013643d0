//! CLIENT: what people and scripts do with connections.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::command::parse::{self, SYNTAX};
use crate::command::verb::Verb;
use crate::reactor::id::ConnId;
use crate::wire::number;
use crate::wire::request::Args;

use super::Pause;
use super::client::{Client, Silence};
use super::turn::{Next, Turn};

const ON_OFF: [&str; 2] = ["ON", "OFF"];

/// Whether `text` may name a client: printable ASCII without blanks.
pub fn is_label(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

/// The subcommands that answer and go on.
pub fn client(turn: &mut Turn<'_, '_, '_>, verb: Verb, args: Args<'_>) {
    match verb {
        Verb::ClientId => {
            let id = turn.client().id;
            turn.reply.int(id.cast_signed());
        }
        Verb::ClientInfo => {
            let me = turn.me;
            let text = describe(turn, |client| client.conn == me);
            turn.reply.verbatim(&text);
        }
        Verb::ClientList => list(turn, args.skip(2)),
        Verb::ClientGetname => {
            let name = turn.client().name().to_vec();
            match name.is_empty() {
                true => turn.reply.nil(),
                false => turn.reply.bulk(&name),
            }
        }
        Verb::ClientSetname => {
            set_label(turn, "Client names", args.at(2), |labels| &mut labels.name);
        }
        Verb::ClientSetinfo => set_info(turn, args),
        Verb::ClientReply => reply_mode(turn, args.at(2)),
        Verb::ClientPause => pause(turn, args),
        Verb::ClientUnpause => {
            turn.node.end_pause(turn.net);
            turn.reply.ok();
        }
        Verb::ClientNoEvict => either(turn, args.at(2), ON_OFF, |client, on| client.no_evict = on),
        Verb::ClientAck => either(
            turn,
            args.at(2),
            ["LEADER", "QUORUM"],
            |client, is_leader| {
                client.is_early = is_leader;
            },
        ),
        Verb::ClientNoTouch => either(turn, args.at(2), ON_OFF, |client, on| client.no_touch = on),
        other => unreachable!("{other:?} is no subcommand of CLIENT"),
    }
}

fn describe(turn: &Turn<'_, '_, '_>, wanted: impl Fn(&Client) -> bool) -> String {
    let now = turn.net.now();
    let mut text = String::new();
    for client in turn.node.clients.iter().filter(|client| wanted(client)) {
        text.push_str(&client.describe(now, turn.net.out_len_of(client.conn)));
        text.push('\n');
    }
    text
}

/// The kinds of clients that TYPE tells apart.
fn is_of_type(client: &Client, word: &[u8]) -> Option<bool> {
    match () {
        () if parse::is(word, "normal") => Some(!client.is_subscribed()),
        () if parse::is(word, "pubsub") => Some(client.is_subscribed()),
        () if parse::is(word, "master")
            || parse::is(word, "replica")
            || parse::is(word, "slave") =>
        {
            Some(false)
        }
        () => None,
    }
}

fn unknown_type(turn: &mut Turn<'_, '_, '_>, word: &[u8]) {
    turn.reply
        .error_bytes(&[b"ERR Unknown client type '", parse::as_c_string(word), b"'"].concat());
}

fn list(turn: &mut Turn<'_, '_, '_>, options: Args<'_>) {
    let text = match options.get(0) {
        None => describe(turn, |_| true),
        Some(word) if parse::is(word, "TYPE") && options.len() == 2 => {
            let wanted = options.at(1);
            if is_of_type(turn.client(), wanted).is_none() {
                return unknown_type(turn, wanted);
            }
            describe(turn, |client| is_of_type(client, wanted) == Some(true))
        }
        Some(word) if parse::is(word, "ID") && options.len() > 1 => {
            let ids: Option<BTreeSet<u64>> =
                options.skip(1).iter().map(number::parse_u64).collect();
            match ids {
                Some(ids) => describe(turn, |client| ids.contains(&client.id)),
                None => return turn.reply.error("ERR Invalid client ID"),
            }
        }
        Some(_) => return turn.reply.error_bytes(&SYNTAX.text),
    };
    turn.reply.verbatim(&text);
}

fn set_label(
    turn: &mut Turn<'_, '_, '_>,
    what: &str,
    text: &[u8],
    label: impl FnOnce(&mut super::client::Labels) -> &mut Vec<u8>,
) {
    if !is_label(text) {
        let error = format!("ERR {what} cannot contain spaces, newlines or special characters.");
        return turn.reply.error(&error);
    }
    *label(turn.client().labels_mut()) = text.to_vec();
    turn.reply.ok();
}

fn set_info(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let (attribute, text) = (args.at(2), args.at(3));
    if parse::is(attribute, "LIB-NAME") {
        set_label(turn, "lib-name", text, |labels| &mut labels.library);
    } else if parse::is(attribute, "LIB-VER") {
        set_label(turn, "lib-ver", text, |labels| &mut labels.version);
    } else {
        turn.reply.error_bytes(
            &[
                b"ERR Unrecognized option '",
                parse::as_c_string(attribute),
                b"'",
            ]
            .concat(),
        );
    }
}

fn reply_mode(turn: &mut Turn<'_, '_, '_>, word: &[u8]) {
    match () {
        () if parse::is(word, "ON") => {
            turn.client().silence = Silence::Off;
            turn.reply.ok();
        }
        () if parse::is(word, "OFF") => turn.client().silence = Silence::On,
        () if parse::is(word, "SKIP") => {
            if turn.client().silence == Silence::Off {
                turn.client().silence = Silence::NextReply;
            }
        }
        () => turn.reply.error_bytes(&SYNTAX.text),
    }
}

/// Sets something of the client to whether `word` is the first of the two.
fn either(
    turn: &mut Turn<'_, '_, '_>,
    word: &[u8],
    [first, second]: [&str; 2],
    set: impl FnOnce(&mut Client, bool),
) {
    let is_first = parse::is(word, first);
    if !is_first && !parse::is(word, second) {
        return turn.reply.error_bytes(&SYNTAX.text);
    }
    set(turn.client(), is_first);
    turn.reply.ok();
}

fn pause(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let all = match args.get(3) {
        None => true,
        Some(word) if parse::is(word, "ALL") => true,
        Some(word) if parse::is(word, "WRITE") => false,
        Some(_) => {
            return turn
                .reply
                .error("ERR CLIENT PAUSE mode must be WRITE or ALL");
        }
    };
    let Some(ms) = number::parse_i64(args.at(2)) else {
        return turn
            .reply
            .error("ERR timeout is not an integer or out of range");
    };
    let Ok(ms) = u64::try_from(ms) else {
        return turn.reply.error("ERR timeout is negative");
    };
    let until = turn.net.now().saturating_add(ms.saturating_mul(1_000_000));
    // The longer and the stricter of two pauses holds, as in Redis.
    let now = turn.net.now();
    let before = turn.node.pause.take();
    if let Some(pause) = before {
        turn.net.cancel(pause.alarm);
    }
    let before = before.filter(|pause| pause.until > now);
    let until = before.map_or(until, |pause| pause.until.max(until));
    let all = all || before.is_some_and(|pause| pause.all);
    let alarm = turn
        .net
        .call_later(Duration::from_nanos(until.saturating_sub(now)), |cx| {
            cx.app.end_pause(&mut cx.net);
        });
    turn.node.pause = Some(Pause { until, all, alarm });
    turn.reply.ok();
}

/// What CLIENT KILL looks for; all of it must hold.
#[derive(Default)]
struct Victims<'a> {
    id: Option<u64>,
    peer: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    of_type: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    spare_me: bool,
}

impl Victims<'_> {
    fn include(&self, client: &Client, me: ConnId) -> bool {
        let is = |wanted: Option<&[u8]>, actual: String| {
            wanted.is_none_or(|wanted| wanted == actual.as_bytes())
        };
        self.id.is_none_or(|id| id == client.id)
            && is(self.peer, client.peer.to_string())
            && is(self.host, client.host.to_string())
            && self
                .of_type
                .is_none_or(|word| is_of_type(client, word) == Some(true))
            && self.user.is_none_or(|user| user == b"default")
            && !(self.spare_me && client.conn == me)
    }
}

/// CLIENT KILL, which may close the connection it came on.
pub fn kill(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) -> Next {
    let old_form = args.len() == 3;
    let victims = if old_form {
        Victims {
            peer: Some(args.at(2)),
            ..Victims::default()
        }
    } else {
        match victims(turn, args.skip(2)) {
            Some(victims) => victims,
            None => return Next::Go,
        }
    };
    let me = turn.me;
    let killed: Vec<ConnId> = turn
        .node
        .clients
        .iter()
        .filter(|client| victims.include(client, me))
        .map(|client| client.conn)
        .collect();
    killed
        .iter()
        .filter(|&&conn| conn != me)
        .for_each(|&conn| turn.net.abort(conn));
    match (old_form, killed.is_empty()) {
        (true, true) => turn.reply.error("ERR No such client"),
        (true, false) => turn.reply.ok(),
        (false, _) => turn.reply.count(killed.len()),
    }
    if killed.contains(&me) {
        Next::Close
    } else {
        Next::Go
    }
}

/// Reads the options of CLIENT KILL; answers with an error and `None` when they mean nothing.
fn victims<'a>(turn: &mut Turn<'_, '_, '_>, options: Args<'a>) -> Option<Victims<'a>> {
    let mut victims = Victims {
        spare_me: true,
        ..Victims::default()
    };
    let mut options = options;
    while let Some(word) = options.get(0) {
        let Some(value) = options.get(1) else {
            turn.reply.error_bytes(&SYNTAX.text);
            return None;
        };
        match () {
            () if parse::is(word, "ID") => match number::parse_u64(value).filter(|&id| id > 0) {
                Some(id) => victims.id = Some(id),
                None => {
                    turn.reply.error("ERR client-id should be greater than 0");
                    return None;
                }
            },
            () if parse::is(word, "TYPE") => {
                if is_of_type(turn.client(), value).is_none() {
                    unknown_type(turn, value);
                    return None;
                }
                victims.of_type = Some(value);
            }
            () if parse::is(word, "ADDR") => victims.peer = Some(value),
            () if parse::is(word, "LADDR") => victims.host = Some(value),
            () if parse::is(word, "USER") => victims.user = Some(value),
            () if parse::is(word, "SKIPME") && parse::is(value, "YES") => victims.spare_me = true,
            () if parse::is(word, "SKIPME") && parse::is(value, "NO") => victims.spare_me = false,
            () => {
                turn.reply.error_bytes(&SYNTAX.text);
                return None;
            }
        }
        options = options.skip(2);
    }
    Some(victims)
}
