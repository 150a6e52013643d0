//! CONFIG: the options as clients see and change them.

use crate::command::glob;
use crate::config::Options;
use crate::config::values::{Origin, Values};
use crate::wire::request::Args;

use super::cluster::view;
use super::turn::Turn;

/// CONFIG GET.
pub fn get(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let notify = turn.node.notify.text();
    let is_clustered = view::is_enabled(turn.node);
    let found: Vec<(&str, &str)> = turn
        .node
        .values
        .iter()
        .filter(|(setting, ..)| {
            let name = setting.name.as_bytes();
            args.skip(2)
                .iter()
                .any(|pattern| glob::matches_ignoring_case(pattern, name))
        })
        .map(|(setting, value, _)| match setting.name {
            "notify-keyspace-events" => (setting.name, notify.as_str()),
            "cluster-enabled" if is_clustered => (setting.name, "yes"),
            name => (name, value),
        })
        .collect();
    turn.reply.map(found.len());
    for (name, value) in found {
        turn.reply.bulk(name.as_bytes());
        turn.reply.bulk(value.as_bytes());
    }
}

/// CONFIG SET: all of it or nothing.
pub fn set(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let pairs = args.skip(2);
    if !pairs.len().is_multiple_of(2) {
        return turn
            .reply
            .error("ERR wrong number of arguments for 'config|set' command");
    }
    match changed(&turn.node.values, pairs) {
        Ok((values, options)) => {
            turn.node.adopt(values, options);
            turn.reply.ok();
        }
        Err(text) => turn.reply.error(&text),
    }
}

fn changed(values: &Values, pairs: Args<'_>) -> Result<(Values, Options), String> {
    let mut values = values.clone();
    let mut seen: Vec<String> = Vec::new();
    let failed = |name: &str, reason: &str| {
        format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (name, value) in pairs.iter().step_by(2).zip(pairs.iter().skip(1).step_by(2)) {
        let name = text(name);
        if crate::config::table::find(&name).is_none() {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        }
        if seen.iter().any(|seen| seen.eq_ignore_ascii_case(&name)) {
            return Err(failed(&name, "duplicate parameter"));
        }
        values
            .set(&name, &text(value), Origin::Command)
            .map_err(|invalid| failed(&name, &invalid.reason))?;
        seen.push(name);
    }
    let options = Options::read(&values).map_err(|(name, reason)| failed(name, &reason))?;
    Ok((values, options))
}

/// CONFIG REWRITE: the user's file stays the user's.
pub fn rewrite(turn: &mut Turn<'_, '_, '_>) {
    turn.reply.error(
        "ERR CONFIG REWRITE is not supported: your configuration file is yours to write; \
         `marline --print-config` shows every value and where it came from",
    );
}
