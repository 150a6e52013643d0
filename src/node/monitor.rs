//! MONITOR: every command, as it is run, to whoever asked to see.

use crate::wire::quote;
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::turn::Turn;

/// MONITOR.
pub fn start(turn: &mut Turn<'_, '_, '_>) {
    let me = turn.me;
    if !turn.client().monitor {
        turn.client().monitor = true;
        turn.node.monitors.push(me);
    }
    turn.reply.ok();
}

/// Shows a command to all monitors: `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
pub fn feed(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let at_ms = turn.node.at_ms;
    let mut line = format!(
        "{}.{:06} [0 {}]",
        at_ms / 1000,
        at_ms % 1000 * 1000,
        turn.client().peer
    )
    .into_bytes();
    for argument in args.iter() {
        line.push(b' ');
        quote::double_quoted(argument, &mut line);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    for conn in turn.node.monitors.clone() {
        let Some(client) = turn.node.clients.get(conn) else {
            continue;
        };
        let mut bytes = Vec::new();
        Reply::new(&mut bytes, client.dialect).simple(&line);
        turn.deliver(conn, &bytes);
    }
}
