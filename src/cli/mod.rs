//! `marline cli`: the client tool, for people and for scripts; `marline import`, which brings in a dump,
//! `marline backup`, which fetches a backup, and `marline leave`, which lets a node go.
//!
//! - `options`: the command line and its help text.
//! - `link`: the connection, opened and read answer by answer.
//! - `show`: answers as text.
//! - `once`: one command from the arguments; its exit code tells what became of it.
//! - `script`: the lines of stdin, pipelined, in order.
//! - `pipe`: stdin as it is, as fast as it goes, replies counted.
//! - `shell`, `hints`, `history`: the interactive shell.
//! - `rdb`, `import`: dumps of Redis, read and sent to a node.
//! - `backup`: a backup of a node, fetched into a file.
//! - `members`: what the members of a cluster say of it.
//! - `cluster`: how a cluster is, as a table.
//! - `leave`: a node leaves its cluster.
//!
//! It speaks RESP as any client does, so it works against any Redis; only `--json` and `HELP` are ours.
//! What redis-cli has and this deliberately lacks: secrets on the command line, an error reply that exits
//! with 0, and a nil that cannot be told from an empty string.

#![expect(
    clippy::disallowed_methods,
    reason = "the client tool lives outside the reactor: it blocks, and reads the clock itself"
)]

pub mod backup;
mod cluster;
mod hints;
mod history;
pub mod import;
pub mod leave;
mod link;
mod members;
mod once;
mod options;
mod pipe;
pub mod rdb;
mod script;
mod shell;
mod show;

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::command::rows::ROWS;

use link::LinkError;
use options::{Mode, Options, Parsed};
use show::Style;

const EXIT_OK: i32 = 0;
/// The reply, or one of them, was an error.
const EXIT_ERROR: i32 = 1;
const EXIT_USAGE: i32 = 2;
/// The reply was nil.
const EXIT_NIL: i32 = 3;
/// Could not connect, or the connection ended before its time.
const EXIT_CONNECT: i32 = 4;

/// Runs the tool with the arguments after `marline cli` and returns the exit code.
pub fn run(args: Vec<String>) -> i32 {
    let parsed = options::parse(&args, |name| std::env::var(name).ok());
    drop(args);
    let options = match parsed {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help(text)) => {
            return print(text.as_bytes()).map_or(EXIT_ERROR, |()| EXIT_OK);
        }
        Err(told) => {
            complain(&format!("{told}\nTry: marline cli --help"));
            return EXIT_USAGE;
        }
    };
    let done = match &options.mode {
        Mode::Once(command) => once::once(&options, command),
        Mode::Pipe => pipe::pipe(&options),
        Mode::Import(what) => import::import(&options, what),
        Mode::Backup(what) => backup::backup(&options, what),
        Mode::Cluster(what) => cluster::cluster(&options, what),
        Mode::Leave(what) => leave::leave(&options, what),
        Mode::Session if io::stdin().is_terminal() => {
            shell::shell(&options, hints::Hints::new(command_table()))
        }
        Mode::Session => script::script(&options),
    };
    done.unwrap_or_else(|failure| failure.report(&options, complain))
}

/// (name, syntax, summary) of every command, for completion, hints and `help`.
fn command_table() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    ROWS.iter()
        .filter(|row| !row.is_container())
        .map(|row| (row.typed_name(), row.syntax, row.summary))
}

/// Why a mode ended before its time.
#[derive(Debug)]
enum Failure {
    Usage(String),
    /// A file that cannot be used, and why.
    File(String),
    /// What cannot be done, and why.
    Refused(String),
    /// Whom nothing is heard of, or why we listen no longer.
    Lost(String),
    Link(LinkError),
    Input(io::Error),
    Output(io::Error),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Failure::Link(error)
    }
}

impl Failure {
    /// Tells the user by `complain`; returns the exit code.
    fn report(&self, options: &Options, complain: fn(&str)) -> i32 {
        match self {
            Failure::Usage(told) => {
                complain(told);
                EXIT_USAGE
            }
            Failure::File(told) | Failure::Refused(told) => {
                complain(told);
                EXIT_ERROR
            }
            Failure::Lost(told) => {
                complain(told);
                EXIT_CONNECT
            }
            Failure::Link(error) => {
                complain(&error.told(options));
                error.exit_code()
            }
            Failure::Input(error) => {
                complain(&format!("cannot read stdin: {error}"));
                EXIT_ERROR
            }
            // Whoever read our output has seen enough: nothing to complain about.
            Failure::Output(error) if error.kind() == ErrorKind::BrokenPipe => EXIT_ERROR,
            Failure::Output(error) => {
                complain(&format!("cannot write to stdout: {error}"));
                EXIT_ERROR
            }
        }
    }
}

/// A message on stderr.
fn complain(text: &str) {
    error_line(format!("marline cli: {text}").as_bytes());
}

/// A line on stderr, byte for byte; there is nobody to tell when that fails.
fn error_line(line: &[u8]) {
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(line)
        .and_then(|()| stderr.write_all(b"\n"));
}

/// Bytes on stdout, at once.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(Failure::Output)
}

/// The style that the options ask for or, failing that, that fits stdout.
fn style(options: &Options) -> Style {
    match options.raw.unwrap_or_else(|| !io::stdout().is_terminal()) {
        true => Style::Plain,
        false => Style::Formatted,
    }
}

/// Whether a command's answers never end.
fn streams(args: &[Vec<u8>]) -> bool {
    let endless: [&[u8]; 4] = [b"subscribe", b"psubscribe", b"ssubscribe", b"monitor"];
    args.first()
        .is_some_and(|verb| endless.iter().any(|name| verb.eq_ignore_ascii_case(name)))
}

/// Whether a push message is the answer to the command (RESP3) and not something beside it.
fn answered_by_push(args: &[Vec<u8>]) -> bool {
    args.first()
        .is_some_and(|verb| verb.to_ascii_lowercase().ends_with(b"subscribe"))
}
