//! One command from the arguments: send, print, and an exit code that a script can rely on.
//!
//! `get` is the verb of scripts and copies: elsewhere than on a terminal it writes exactly the bytes of
//! the value. Every other answer is lines.

use std::io::{self, IsTerminal, Read};
use std::thread;

use super::link::{Answer, Dialect, Link, LinkError, Target};
use super::options::{Once, Options};
use super::show::{Style, show};
use super::{
    EXIT_ERROR, EXIT_NIL, EXIT_OK, Failure, answered_by_push, error_line, print, streams, style,
};
use crate::wire::decode::Value;

/// The longest string a node or a Redis accepts.
const ARGUMENT_BYTES_MAX: u64 = 512 << 20;

/// Runs the command as often as asked; the exit code is that of the first run that was not fine.
pub(super) fn once(options: &Options, command: &Once) -> Result<i32, Failure> {
    let args = arguments(command)?;
    let target = Target::new(options)?;
    let mut link = Link::open(&target, None)?;
    let printer = Printer::new(options, command);
    let (mut code, mut runs) = (EXIT_OK, 0);
    loop {
        let this = run(&mut link, &args, &printer)?;
        code = if code == EXIT_OK { this } else { code };
        if code == EXIT_OK && streams(&args) {
            return stream(&mut link, &printer);
        }
        runs += 1;
        if command.times == Some(runs) {
            return Ok(code);
        }
        thread::sleep(command.interval);
    }
}

fn arguments(command: &Once) -> Result<Vec<Vec<u8>>, Failure> {
    let mut args: Vec<Vec<u8>> = command
        .args
        .iter()
        .map(|arg| arg.as_bytes().to_vec())
        .collect();
    if command.stdin_last {
        let mut last = Vec::new();
        io::stdin()
            .lock()
            .take(ARGUMENT_BYTES_MAX + 1)
            .read_to_end(&mut last)
            .map_err(Failure::Input)?;
        if last.len() as u64 > ARGUMENT_BYTES_MAX {
            let told = "stdin is too long for an argument: more than 512 MiB";
            return Err(Failure::Usage(told.to_owned()));
        }
        args.push(last);
    }
    Ok(args)
}

fn run(link: &mut Link, args: &[Vec<u8>], printer: &Printer) -> Result<i32, Failure> {
    link.send(args)?;
    if let Some(dialect) = Dialect::asked_by(args) {
        link.switch(dialect);
    }
    loop {
        let answer = link.receive()?;
        let aside = matches!(answer, Answer::Value(Value::Push(_))) && !answered_by_push(args);
        let code = printer.print(&answer)?;
        if !aside {
            return Ok(code);
        }
    }
}

/// Prints what comes until the node ends it (or the user ends us).
fn stream(link: &mut Link, printer: &Printer) -> Result<i32, Failure> {
    loop {
        match link.receive_within(None) {
            Ok(answer) => printer.print(&answer)?,
            Err(LinkError::Closed) => return Ok(EXIT_OK),
            Err(error) => return Err(error.into()),
        };
    }
}

/// How this command's answers are printed.
struct Printer {
    style: Style,
    terminal: bool,
    /// A string is written without newline.
    exact: bool,
}

impl Printer {
    fn new(options: &Options, command: &Once) -> Printer {
        let (style, terminal) = (style(options), io::stdout().is_terminal());
        let get = command
            .args
            .first()
            .is_some_and(|verb| verb.eq_ignore_ascii_case("get"));
        Printer {
            style,
            terminal,
            exact: get && style == Style::Plain && !terminal && command.times == Some(1),
        }
    }

    /// Prints one answer; returns its exit code.
    fn print(&self, answer: &Answer) -> Result<i32, Failure> {
        let (is_error, is_nil) = (answer.error().is_some(), answer.is_nil());
        let code = match (is_error, is_nil) {
            (true, _) => EXIT_ERROR,
            (_, true) => EXIT_NIL,
            _ => EXIT_OK,
        };
        match answer {
            Answer::Value(Value::Error(text)) => {
                error_line(text);
                return Ok(code);
            }
            Answer::Value(Value::Bulk(text)) if self.exact => {
                print(text)?;
                return Ok(code);
            }
            // For people `(nil)`; for a script the exit code alone, or an empty value would look alike.
            Answer::Value(Value::Nil) if self.style == Style::Plain || !self.terminal => {
                return Ok(code);
            }
            _ => {}
        }
        let mut out = Vec::new();
        show(answer, self.style, &mut out);
        print(&out)?;
        Ok(code)
    }
}
