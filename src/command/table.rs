//! The command table, as everybody asks it: by name, by prefix, by likeness.
//!
//! One table is the single source of truth: dispatch, `COMMAND`, `HELP`, the completion of
//! `marline cli` and the list in protocol.md all read [`rows::ROWS`].

use std::sync::LazyLock;

use super::row::{Group, Row, flag};
use super::rows::ROWS;
use super::verb::Verb;

/// Slots of the name index: a power of two, sparse enough that a look-up rarely probes twice.
const INDEX_SLOTS: usize = 1024;
const _: () = assert!(ROWS.len() * 4 <= INDEX_SLOTS && ROWS.len() < u8::MAX as usize);

/// Open addressing over row numbers, 0 being empty. Names are few, fixed and ours: nothing to flood.
static INDEX: LazyLock<[u8; INDEX_SLOTS]> = LazyLock::new(|| {
    let mut index = [0; INDEX_SLOTS];
    for (number, row) in ROWS.iter().enumerate() {
        let mut at = hash(row.name.len(), |at| row.name.as_bytes()[at]);
        while index[at] != 0 {
            at = (at + 1) % INDEX_SLOTS;
        }
        index[at] = number as u8 + 1;
    }
    index
});

/// Three letters of a name in lower case, and its length: they tell nearly all names apart.
fn hash(len: usize, letter: impl Fn(usize) -> u8) -> usize {
    let letter = |at: usize| usize::from(letter(at).to_ascii_lowercase());
    match len {
        0 => 0,
        _ => {
            (letter(0) * 37 + letter(len / 2) * 131 + letter(len - 1) * 7 + len * 61) % INDEX_SLOTS
        }
    }
}

fn look_up(hash: usize, is_it: impl Fn(&str) -> bool) -> Option<&'static Row> {
    let index = &*INDEX;
    let mut at = hash;
    while index[at] != 0 {
        let row = &ROWS[usize::from(index[at]) - 1];
        if is_it(row.name) {
            return Some(row);
        }
        at = (at + 1) % INDEX_SLOTS;
    }
    None
}

/// The row of a command, in any case; `container|name` for a subcommand.
pub fn find(name: &[u8]) -> Option<&'static Row> {
    look_up(hash(name.len(), |at| name[at]), |row| {
        row.as_bytes().eq_ignore_ascii_case(name)
    })
}

/// The row of subcommand `name` of `container`.
pub fn find_sub(container: &Row, name: &[u8]) -> Option<&'static Row> {
    let prefix = container.name.as_bytes();
    let letter = |at: usize| match at.checked_sub(prefix.len()) {
        None => prefix[at],
        Some(0) => b'|',
        Some(behind) => name[behind - 1],
    };
    look_up(hash(prefix.len() + 1 + name.len(), letter), |row| {
        row.len() == prefix.len() + 1 + name.len()
            && row.as_bytes().starts_with(prefix)
            && row.as_bytes()[prefix.len()] == b'|'
            && row.as_bytes()[prefix.len() + 1..].eq_ignore_ascii_case(name)
    })
}

/// The row of a verb.
pub fn row(verb: Verb) -> &'static Row {
    &ROWS[verb as usize]
}

/// Commands that are not subcommands.
pub fn commands() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| !row.is_subcommand())
}

/// The subcommands of `container`, none for a plain command.
pub fn subcommands(container: &Row) -> impl Iterator<Item = &'static Row> {
    let prefix = container.name;
    ROWS.iter().filter(move |row| {
        row.name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('|'))
    })
}

/// The command whose name is nearest to `typed`, if any is near: at most one slip (two in long names),
/// a slip being a letter too many, too few, wrong, or swapped with its neighbour.
pub fn nearest(typed: &[u8]) -> Option<&'static Row> {
    let typed = typed.to_ascii_lowercase();
    let slips_max = if typed.len() > 5 { 2 } else { 1 };
    commands()
        .map(|row| (slips(&typed, row.name.as_bytes()), row))
        .filter(|&(slips, row)| slips <= slips_max && slips < row.name.len())
        .min_by_key(|&(slips, row)| (slips, row.name.len().abs_diff(typed.len())))
        .map(|(_, row)| row)
}

/// Optimal string alignment distance; bounded work, since names are short.
fn slips(typed: &[u8], name: &[u8]) -> usize {
    if typed.len().abs_diff(name.len()) > 2 {
        return usize::MAX;
    }
    let width = name.len() + 1;
    let mut cost = vec![0; (typed.len() + 1) * width];
    for i in 0..=typed.len() {
        for j in 0..width {
            cost[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let wrong = usize::from(typed[i - 1] != name[j - 1]);
                let mut best = (cost[(i - 1) * width + j] + 1)
                    .min(cost[i * width + j - 1] + 1)
                    .min(cost[(i - 1) * width + j - 1] + wrong);
                if i > 1 && j > 1 && typed[i - 1] == name[j - 2] && typed[i - 2] == name[j - 1] {
                    best = best.min(cost[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    cost[cost.len() - 1]
}

impl Row {
    /// Whether it has a flag of [`flag`].
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether its name is `container|name`.
    pub fn is_subcommand(&self) -> bool {
        self.name.contains('|')
    }

    /// Whether it only holds subcommands.
    pub fn is_container(&self) -> bool {
        self.group == Group::None && !self.is_subcommand()
    }

    /// Whether `count` arguments (the name included) are a right number of them.
    pub fn takes(&self, count: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            count >= arity
        } else {
            count == arity
        }
    }

    /// As people type it: `CLIENT LIST`.
    pub fn typed_name(&self) -> String {
        self.name.to_ascii_uppercase().replace('|', " ")
    }

    /// Names of the flags, in Redis's order.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(u16, &str); 12] = [
            (flag::WRITE, "write"),
            (flag::READONLY, "readonly"),
            (flag::DENYOOM, "denyoom"),
            (flag::ADMIN, "admin"),
            (flag::PUBSUB, "pubsub"),
            (flag::NOSCRIPT, "noscript"),
            (flag::LOADING, "loading"),
            (flag::LOADING, "stale"),
            (flag::SKIP_SLOWLOG, "skip_slowlog"),
            (flag::FAST, "fast"),
            (flag::NO_AUTH, "no_auth"),
            (flag::NO_MULTI, "no_multi"),
        ];
        let flags = self.flags;
        let allow_busy = (flags & flag::ALLOW_BUSY != 0).then_some("allow_busy");
        NAMES
            .into_iter()
            .filter(move |(bit, _)| flags & bit != 0)
            .map(|(_, name)| name)
            .chain(allow_busy)
    }

    /// Redis's ACL categories.
    pub fn categories(&self) -> Vec<&'static str> {
        let keyspace = self.group == Group::Keyspace;
        let late = matches!(
            self.group,
            Group::Connection | Group::Transaction | Group::Scripting
        );
        let group = self.group.category();
        let admin = self.is(flag::ADMIN | flag::ADMIN_ONLY_IN_ACL);
        let own = [
            group.filter(|_| keyspace),
            self.is(flag::READONLY).then_some("@read"),
            self.is(flag::WRITE).then_some("@write"),
            group.filter(|_| !keyspace && !late),
            admin.then_some("@admin"),
            Some(if self.is(flag::FAST) {
                "@fast"
            } else {
                "@slow"
            }),
            (admin || self.is(flag::DANGEROUS)).then_some("@dangerous"),
            group.filter(|_| late),
        ];
        own.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_their_verbs_and_are_found() {
        for (number, expected) in ROWS.iter().enumerate() {
            assert_eq!(expected.verb as usize, number, "{}", expected.name);
            assert_eq!(row(expected.verb).name, expected.name);
            assert_eq!(
                find(expected.name.to_ascii_uppercase().as_bytes())
                    .unwrap()
                    .verb,
                expected.verb
            );
            assert!(expected.summary.ends_with('.'), "{}", expected.name);
            if let Some((container, name)) = expected.name.split_once('|') {
                let container = find(container.as_bytes()).unwrap();
                assert_eq!(
                    find_sub(container, name.as_bytes()).unwrap().verb,
                    expected.verb
                );
            }
        }
        assert!(find(b"nonesuch").is_none() && find(b"").is_none());
        assert!(find_sub(row(Verb::Client), b"nonesuch").is_none());
    }

    #[test]
    fn slips_of_the_finger_are_recognised() {
        for (typed, meant) in [
            ("gte", "get"),
            ("SETT", "set"),
            ("exprie", "expire"),
            ("flushal", "flushall"),
        ] {
            assert_eq!(
                nearest(typed.as_bytes()).map(|row| row.name),
                Some(meant),
                "{typed}"
            );
        }
        assert!(nearest(b"lpush").is_none());
        assert!(nearest(b"x").is_none());
        assert!(nearest(&[b'a'; 1000]).is_none());
    }

    #[test]
    fn keys_are_where_the_rows_say() {
        let positions = |verb, len| row(verb).keys.positions(len).collect::<Vec<_>>();
        assert_eq!(positions(Verb::Mset, 5), [1, 3]);
        assert_eq!(positions(Verb::Bitop, 5), [2, 3, 4]);
        assert_eq!(positions(Verb::Ping, 2), [0usize; 0]);
        assert_eq!(positions(Verb::Get, 2), [1]);
        assert_eq!(
            row(Verb::Keys).categories(),
            ["@keyspace", "@read", "@slow", "@dangerous"]
        );
        assert_eq!(
            row(Verb::Lastsave).categories(),
            ["@admin", "@fast", "@dangerous"]
        );
        assert_eq!(row(Verb::ClientId).categories(), ["@slow", "@connection"]);
        assert_eq!(
            row(Verb::Set).flag_names().collect::<Vec<_>>(),
            ["write", "denyoom"]
        );
    }
}
