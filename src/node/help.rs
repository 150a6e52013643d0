//! HELP, for people at telnet and netcat, from the command table.

use crate::command::row::{Group, Row};
use crate::command::table;
use crate::wire::request::Args;

use super::turn::Turn;

/// HELP, HELP command [subcommand], HELP @group.
pub fn help(turn: &mut Turn<'_, '_, '_>, args: Args<'_>) {
    let Some(topic) = args.get(1) else {
        return lines(turn, &overview());
    };
    if let Some(group) = topic.strip_prefix(b"@") {
        let group = String::from_utf8_lossy(group).to_ascii_lowercase();
        return match Group::ALL.into_iter().find(|known| known.name() == group) {
            Some(group) => lines(turn, &of_group(group)),
            None => turn.reply.error(&format!(
                "ERR no such group '@{group}'; HELP lists the groups"
            )),
        };
    }
    let Some(row) = table::find(topic) else {
        let near = table::nearest(topic).map_or_else(
            || "HELP lists what there is".to_owned(),
            |row| format!("did you mean {}?", row.typed_name()),
        );
        let name = String::from_utf8_lossy(&topic[..topic.len().min(64)]);
        return turn
            .reply
            .error(&format!("ERR no such command '{name}'; {near}"));
    };
    let row = args
        .get(2)
        .and_then(|sub| table::find_sub(row, sub))
        .unwrap_or(row);
    lines(turn, &of_command(row));
}

/// `container HELP`: its subcommands.
pub fn subcommands(turn: &mut Turn<'_, '_, '_>, help_row: &Row) {
    let container = help_row.name.split('|').next().unwrap_or_default();
    if let Some(row) = table::find(container.as_bytes()) {
        lines(turn, &of_command(row));
    }
}

fn lines(turn: &mut Turn<'_, '_, '_>, lines: &[String]) {
    turn.reply.array(lines.len());
    lines.iter().for_each(|line| turn.reply.simple(line));
}

fn overview() -> Vec<String> {
    let mut lines = vec![
        "Marline: type a command and its arguments, separated by blanks; quote what holds blanks."
            .to_owned(),
        "HELP <command> tells about one, HELP @<group> lists a group:".to_owned(),
    ];
    lines.extend(Group::ALL.map(|group| {
        let names: Vec<String> = table::commands()
            .filter(|row| group_of(row) == group)
            .map(Row::typed_name)
            .collect();
        format!("  @{}: {}", group.name(), names.join(" "))
    }));
    lines.push(
        "HELLO LINE answers in one plain line each, HELLO JSON in JSON; QUIT ends.".to_owned(),
    );
    lines
}

/// Containers have no group of their own: they stand where their first subcommand stands.
fn group_of(row: &'static Row) -> Group {
    match row.is_container() {
        true => table::subcommands(row)
            .map(|sub| sub.group)
            .find(|group| *group != Group::None)
            .unwrap_or(Group::Server),
        false => row.group,
    }
}

fn of_group(group: Group) -> Vec<String> {
    table::commands()
        .filter(|row| group_of(row) == group)
        .flat_map(|row| match row.is_container() {
            true => table::subcommands(row).map(one_line).collect(),
            false => vec![one_line(row)],
        })
        .collect()
}

fn one_line(row: &Row) -> String {
    let name = row.typed_name();
    match row.syntax {
        "" => format!("{name} -- {}", row.summary),
        syntax => format!("{name} {syntax} -- {}", row.summary),
    }
}

fn of_command(row: &'static Row) -> Vec<String> {
    let mut lines = vec![one_line(row)];
    lines.extend(table::subcommands(row).map(|sub| format!("  {}", one_line(sub))));
    if table::subcommands(row).next().is_none() {
        lines.push(format!(
            "  group @{}, since {}",
            group_of(row).name(),
            row.since
        ));
    }
    lines
}
