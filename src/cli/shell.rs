//! The interactive shell.
//!
//! It connects when it must: at the start, and before any command that finds no connection or a dead one.
//! A command that was sent is never sent again by itself, for nobody knows whether it was carried out.
//! Ctrl-C clears the line, ends a stream (SUBSCRIBE, MONITOR) or stops waiting; as answers may still be
//! on their way then, the connection is given up and a new one made. Ctrl-D leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};

use super::hints::Hints;
use super::history::{History, is_secret};
use super::link::{Answer, Dialect, Link, LinkError, Target};
use super::options::Options;
use super::show::show;
use super::{EXIT_ERROR, EXIT_OK, Failure, answered_by_push, complain, print, streams, style};
use crate::wire::decode::Value;
use crate::wire::quote::split_line;

/// Longer commands tell how long they took.
const SLOW: Duration = Duration::from_millis(500);

const HELP: &str = "\
A line is a command and its arguments: set greeting \"hello world\". In double quotes \\n \\t \\\" \\\\
and \\xHH stand for bytes; single quotes take everything as it is.
  help command   its syntax      Tab        completes a command
  quit, Ctrl-D   leaves          Up, Ctrl-R earlier lines
  clear          the screen      Ctrl-C     stops waiting, or a stream
`subscribe channel` and `monitor` print what comes until Ctrl-C.
";

type LineEditor = Editor<Hints, MemHistory>;

/// Runs the shell until the user leaves.
pub(super) fn shell(options: &Options, hints: Hints) -> Result<i32, Failure> {
    let mut shell = Shell {
        options,
        target: Target::new(options)?,
        link: None,
        interrupt: Arc::new(AtomicBool::new(false)),
    };
    let (mut editor, mut history) = match editor(hints) {
        Ok(ready) => ready,
        Err(error) => {
            complain(&format!("cannot use this terminal: {error}"));
            return Ok(EXIT_ERROR);
        }
    };
    let flag = Arc::clone(&shell.interrupt);
    // Without it Ctrl-C ends the shell instead of the waiting: a pity, not a failure.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, flag);
    shell.connect();
    loop {
        let line = match editor.readline(shell.prompt().as_str()) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(EXIT_OK),
            Err(error) => {
                complain(&format!("cannot read the terminal: {error}"));
                return Ok(EXIT_ERROR);
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        if !is_secret(&line) && editor.add_history_entry(line.as_str()).unwrap_or(false) {
            history.add(&line);
        }
        if !shell.obey(&line, &mut editor)? {
            return Ok(EXIT_OK);
        }
    }
}

fn editor(hints: Hints) -> rustyline::Result<(LineEditor, History)> {
    let config = Config::builder()
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor = Editor::with_history(config, MemHistory::new())?;
    editor.set_helper(Some(hints));
    let (history, lines) = History::open();
    for line in lines {
        editor.add_history_entry(line)?;
    }
    Ok((editor, history))
}

struct Shell<'o> {
    options: &'o Options,
    target: Target<'o>,
    link: Option<Link>,
    interrupt: Arc<AtomicBool>,
}

impl Shell<'_> {
    fn prompt(&self) -> String {
        match self.link {
            Some(_) => format!("{}> ", self.options),
            None => format!("{} (not connected)> ", self.options),
        }
    }

    /// Carries a line out; false when it says to leave.
    fn obey(&mut self, line: &str, editor: &mut LineEditor) -> Result<bool, Failure> {
        let (mut text, mut ranges) = (Vec::new(), Vec::new());
        if split_line(line.as_bytes(), &mut text, &mut ranges).is_err() {
            print(b"(error) unbalanced quotes: a closing quote must end its word\n")?;
            return Ok(true);
        }
        let args: Vec<Vec<u8>> = ranges
            .into_iter()
            .map(|range| text[range].to_vec())
            .collect();
        let verb = args.first().map(|verb| verb.to_ascii_lowercase());
        match verb.as_deref() {
            None => {}
            Some(b"quit" | b"exit") => return Ok(false),
            Some(b"clear") if args.len() == 1 => {
                let _ = editor.clear_screen();
            }
            Some(b"help" | b"?") if self.help(line, editor)? => {}
            Some(_) => self.command(&args)?,
        }
        Ok(true)
    }

    /// Answers `help` from what is known here; false when the node should.
    fn help(&self, line: &str, editor: &LineEditor) -> Result<bool, Failure> {
        let topic: Vec<&str> = line.split_whitespace().skip(1).collect();
        if topic.is_empty() {
            print(HELP.as_bytes())?;
            return Ok(true);
        }
        let known = editor.helper().and_then(|hints| hints.find(&topic));
        if let Some((entry, _)) = known {
            let (name, syntax) = (entry.name.to_ascii_uppercase(), &entry.syntax);
            print(format!("  {name} {syntax}\n  {}\n", entry.summary).as_bytes())?;
        }
        Ok(known.is_some())
    }

    /// Makes sure of a connection, as far as possible.
    fn connect(&mut self) {
        if self.link.as_ref().is_some_and(|link| !link.is_dead()) {
            return;
        }
        self.interrupt.store(false, Ordering::Relaxed);
        self.link = Link::open(&self.target, Some(Arc::clone(&self.interrupt)))
            .inspect_err(|error| complain(&error.told(self.options)))
            .ok();
    }

    fn command(&mut self, args: &[Vec<u8>]) -> Result<(), Failure> {
        self.connect();
        let Some(mut link) = self.link.take() else {
            return Ok(());
        };
        self.interrupt.store(false, Ordering::Relaxed);
        let begun = Instant::now();
        match self.converse(&mut link, args) {
            Ok(()) => self.link = Some(link),
            Err(Failure::Link(LinkError::Interrupted)) => {
                print(b"\n")?;
                self.connect();
            }
            Err(Failure::Link(error)) => {
                complain(&error.told(self.options));
                if !streams(args) {
                    complain("whether the command was carried out is not known");
                }
            }
            Err(failure) => return Err(failure),
        }
        let took = begun.elapsed();
        if took > SLOW && !streams(args) {
            print(format!("({:.2}s)\n", took.as_secs_f64()).as_bytes())?;
        }
        Ok(())
    }

    /// Sends a command and prints its answer, or all that follows from it.
    fn converse(&self, link: &mut Link, args: &[Vec<u8>]) -> Result<(), Failure> {
        link.send(args)?;
        if let Some(dialect) = Dialect::asked_by(args) {
            link.switch(dialect);
        }
        let mut patience = self.options.timeout;
        loop {
            let answer = link.receive_within(patience)?;
            let mut out = Vec::new();
            show(&answer, style(self.options), &mut out);
            print(&out)?;
            let aside = matches!(answer, Answer::Value(Value::Push(_))) && !answered_by_push(args);
            let endless = streams(args) && answer.error().is_none();
            if !aside && !endless {
                return Ok(());
            }
            patience = self.options.timeout.filter(|_| !endless);
        }
    }
}
