//! COMMAND: the command table, as programs read it.

use crate::command::glob;
use crate::command::parse::{self, SYNTAX};
use crate::command::resolve;
use crate::command::row::{Group, Row, flag};
use crate::command::table;
use crate::command::verb::Verb;
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::turn::Turn;

/// COMMAND and its subcommands.
pub fn command(turn: &mut Turn<'_, '_, '_>, verb: Verb, args: Args<'_>) {
    match verb {
        Verb::Command => {
            turn.reply.array(table::commands().count());
            table::commands().for_each(|row| info(&mut turn.reply, row));
        }
        Verb::CommandCount => turn.reply.count(table::commands().count()),
        Verb::CommandInfo => infos(turn, args.skip(2)),
        Verb::CommandDocs => docs(turn, args.skip(2)),
        Verb::CommandGetkeys => keys(turn, args.skip(2)),
        _ => list(turn, args.skip(2)),
    }
}

fn infos(turn: &mut Turn<'_, '_, '_>, names: Args<'_>) {
    if names.is_empty() {
        return command(turn, Verb::Command, names);
    }
    turn.reply.array(names.len());
    for name in names.iter() {
        match table::find(name) {
            Some(row) => info(&mut turn.reply, row),
            None => turn.reply.nil_array(),
        }
    }
}

fn info(reply: &mut Reply<'_>, row: &'static Row) {
    reply.array(10);
    reply.bulk(row.name.as_bytes());
    reply.int(row.arity.into());
    let flags: Vec<&str> = row.flag_names().collect();
    reply.set(flags.len());
    flags.into_iter().for_each(|flag| reply.simple(flag));
    reply.int(row.keys.first.into());
    reply.int(row.keys.last.into());
    reply.int(row.keys.step.into());
    let categories = row.categories();
    reply.set(categories.len());
    categories
        .into_iter()
        .for_each(|category| reply.simple(category));
    reply.array(0);
    key_specification(reply, row);
    let subcommands: Vec<&'static Row> = table::subcommands(row).collect();
    reply.array(subcommands.len());
    subcommands.into_iter().for_each(|sub| info(reply, sub));
}

/// Redis 7's description of where the keys are; ours are all one range.
fn key_specification(reply: &mut Reply<'_>, row: &Row) {
    if row.keys.first == 0 {
        return reply.array(0);
    }
    let last = if row.keys.last < 0 {
        row.keys.last
    } else {
        row.keys.last - row.keys.first
    };
    reply.array(1);
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.simple(if row.is(flag::WRITE) { "RW" } else { "RO" });
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.int(row.keys.first.into());
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"range");
    reply.bulk(b"spec");
    reply.map(3);
    for (name, value) in [("lastkey", last), ("keystep", row.keys.step), ("limit", 0)] {
        reply.bulk(name.as_bytes());
        reply.int(value.into());
    }
}

fn docs(turn: &mut Turn<'_, '_, '_>, names: Args<'_>) {
    let rows: Vec<&'static Row> = match names.is_empty() {
        true => table::commands().collect(),
        false => names.iter().filter_map(table::find).collect(),
    };
    turn.reply.map(rows.len());
    rows.into_iter().for_each(|row| doc(&mut turn.reply, row));
}

fn doc(reply: &mut Reply<'_>, row: &'static Row) {
    let subcommands: Vec<&'static Row> = table::subcommands(row).collect();
    reply.bulk(row.name.as_bytes());
    reply.map(3 + usize::from(!row.syntax.is_empty()) + usize::from(!subcommands.is_empty()));
    for (name, value) in [
        ("summary", row.summary.trim_end_matches('.')),
        ("since", row.since),
        (
            "group",
            if row.group == Group::None {
                "server"
            } else {
                row.group.name()
            },
        ),
    ] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !row.syntax.is_empty() {
        // Clients only show the arguments: the whole syntax is one of them.
        reply.bulk(b"arguments");
        reply.array(1);
        reply.map(3);
        for (name, value) in [
            ("name", row.syntax),
            ("type", "string"),
            ("display_text", row.syntax),
        ] {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
    }
    if !subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(subcommands.len());
        subcommands.into_iter().for_each(|sub| doc(reply, sub));
    }
}

fn keys(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let Some(row) = table::find(args.at(0)) else {
        return turn.reply.error("ERR Invalid command specified");
    };
    let row = resolve::subcommand(row, args).unwrap_or(row);
    if row.keys.first == 0 {
        return turn.reply.error("ERR The command has no key arguments");
    }
    if !row.takes(args.len()) {
        return turn
            .reply
            .error("ERR Invalid number of arguments specified for command");
    }
    let keys: Vec<&[u8]> = row
        .keys
        .positions(args.len())
        .map(|position| args.at(position))
        .collect();
    turn.reply.array(keys.len());
    keys.into_iter().for_each(|key| turn.reply.bulk(key));
}

fn list(turn: &mut Turn<'_, '_, '_>, options: Args<'_>) {
    let names: Vec<&str> = match (options.get(0), options.get(1), options.get(2)) {
        (None, ..) => table::commands().map(|row| row.name).collect(),
        (Some(filter), Some(kind), Some(value))
            if parse::is(filter, "FILTERBY") && options.len() == 3 =>
        {
            let chosen: &dyn Fn(&Row) -> bool = match () {
                () if parse::is(kind, "ACLCAT") => &|row| {
                    row.categories()
                        .iter()
                        .any(|category| parse::is(value, &category[1..]))
                },
                () if parse::is(kind, "PATTERN") => {
                    &|row| glob::matches_ignoring_case(value, row.name.as_bytes())
                }
                () if parse::is(kind, "MODULE") => &|_| false,
                () => return turn.reply.error_bytes(&SYNTAX.text),
            };
            table::commands()
                .flat_map(|row| std::iter::once(row).chain(table::subcommands(row)))
                .filter(|row| chosen(row))
                .map(|row| row.name)
                .collect()
        }
        _ => return turn.reply.error_bytes(&SYNTAX.text),
    };
    turn.reply.array(names.len());
    names
        .into_iter()
        .for_each(|name| turn.reply.bulk(name.as_bytes()));
}
