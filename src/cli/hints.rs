//! What the shell knows about commands: completion, the dim syntax behind the cursor, and `help`.
//!
//! It is told (name, syntax, summary) of each command and nothing else; who tells is none of its concern.
//! A name may be two words (`config get`). A syntax may begin with the name or not. As arguments are
//! typed, the leading words of the syntax they stand for disappear.

use std::borrow::Cow;

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// Commands of the shell itself.
const OWN: [(&str, &str, &str); 4] = [
    ("help", "[command]", "How to use the shell, or a command"),
    ("quit", "", "Leave the shell"),
    ("exit", "", "Leave the shell"),
    ("clear", "", "Clear the screen"),
];

/// One command, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The arguments only.
    pub(super) syntax: String,
    pub(super) summary: String,
}

/// All commands, ordered by name.
#[derive(Debug)]
pub(super) struct Hints {
    entries: Vec<Entry>,
}

impl Hints {
    /// From (name, syntax, summary).
    pub(super) fn new<'a, N: AsRef<str>>(
        commands: impl Iterator<Item = (N, &'a str, &'a str)>,
    ) -> Hints {
        let own = OWN.map(|(name, syntax, summary)| (name.to_owned(), syntax, summary));
        let mut entries: Vec<Entry> = commands
            .map(|(name, syntax, summary)| (name.as_ref().to_owned(), syntax, summary))
            .chain(own)
            .map(|(name, syntax, summary)| {
                let name = name.as_str();
                let begins_with_name = syntax
                    .get(..name.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(name));
                let syntax = if begins_with_name {
                    &syntax[name.len()..]
                } else {
                    syntax
                };
                Entry {
                    name: name.to_ascii_lowercase(),
                    syntax: syntax.trim().to_owned(),
                    summary: summary.to_owned(),
                }
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|later, earlier| later.name == earlier.name);
        Hints { entries }
    }

    /// The command of that name, and how many words of `words` the name takes.
    pub(super) fn find(&self, words: &[&str]) -> Option<(&Entry, usize)> {
        [2, 1].into_iter().find_map(|count| {
            let name = words.get(..count)?.join(" ").to_ascii_lowercase();
            let at = self
                .entries
                .binary_search_by(|entry| entry.name.cmp(&name))
                .ok()?;
            Some((&self.entries[at], count))
        })
    }

    /// Names that begin as `typed` does, in the case in which it was typed.
    fn completions(&self, typed: &str) -> Vec<String> {
        let upper = typed.starts_with(|c: char| c.is_ascii_uppercase());
        let start = typed.to_ascii_lowercase();
        self.entries
            .iter()
            .filter(|entry| entry.name.starts_with(&start))
            .map(|entry| match upper {
                true => entry.name.to_ascii_uppercase(),
                false => entry.name.clone(),
            })
            .collect()
    }

    /// What is still to be typed after `line`.
    fn rest(&self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (entry, taken) = self.find(&words)?;
        let begun = !line.ends_with(char::is_whitespace);
        let given = words.len() - taken;
        if begun && given > 0 {
            return None;
        }
        let rest = syntax_words(&entry.syntax)
            .into_iter()
            .enumerate()
            .skip_while(|(at, word)| *at < given && !word.starts_with('[') && *word != "...")
            .map(|(_, word)| word)
            .collect::<Vec<_>>()
            .join(" ");
        let blank = if begun { " " } else { "" };
        (!rest.is_empty()).then(|| format!("{blank}{rest}"))
    }
}

/// Splits a syntax at the blanks outside of brackets.
fn syntax_words(syntax: &str) -> Vec<&str> {
    let (mut words, mut depth, mut from) = (Vec::new(), 0usize, 0);
    for (at, c) in syntax.char_indices() {
        match c {
            '[' | '<' | '(' => depth += 1,
            ']' | '>' | ')' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => {
                words.push(&syntax[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    words.push(&syntax[from..]);
    words.retain(|word| !word.is_empty());
    words
}

/// A hint that is only looked at: the right arrow does not type a placeholder.
#[derive(Debug)]
pub(super) struct Shown(String);

impl Hint for Shown {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Hints {
    type Hint = Shown;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Shown> {
        if pos < line.len() {
            return None;
        }
        self.rest(line).map(Shown)
    }
}

impl Completer for Hints {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line[..pos].trim_start();
        let from = match typed.split_once(char::is_whitespace) {
            Some((verb, topic)) if verb.eq_ignore_ascii_case("help") => topic.trim_start(),
            _ => typed,
        };
        Ok((pos - from.len(), self.completions(from)))
    }
}

impl Highlighter for Hints {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}

impl Validator for Hints {}

impl Helper for Hints {}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints() -> Hints {
        Hints::new(
            [
                ("SET", "SET key value [NX | XX] [GET]", "Sets a key"),
                ("MGET", "key [key ...]", "Reads keys"),
                ("CONFIG GET", "pattern", "Reads options"),
                ("CONFIG", "subcommand", "Options"),
            ]
            .into_iter(),
        )
    }

    #[test]
    fn the_syntax_shrinks_as_arguments_are_typed() {
        let hints = hints();
        for (line, want) in [
            ("se", None),
            ("set", Some(" key value [NX | XX] [GET]")),
            ("SET ", Some("key value [NX | XX] [GET]")),
            ("set k", None),
            ("set k ", Some("value [NX | XX] [GET]")),
            ("set k v ", Some("[NX | XX] [GET]")),
            ("set k v nx ", Some("[NX | XX] [GET]")),
            ("mget a b c ", Some("[key ...]")),
            ("config get ", Some("pattern")),
            ("config ", Some("subcommand")),
            ("quit", None),
            ("", None),
        ] {
            assert_eq!(hints.rest(line).as_deref(), want, "{line:?}");
        }
    }

    #[test]
    fn names_complete_in_the_case_they_are_typed_in() {
        let hints = hints();
        assert_eq!(hints.completions("con"), ["config", "config get"]);
        assert_eq!(hints.completions("CONFIG G"), ["CONFIG GET"]);
        assert_eq!(hints.completions("x"), Vec::<String>::new());
        let (entry, words) = hints.find(&["Config", "GET"]).expect("known");
        assert_eq!((entry.summary.as_str(), words), ("Reads options", 2));
    }
}
