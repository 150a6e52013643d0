//! The lines of stdin as commands, sent ahead and answered in order.
//!
//! A thread reads and sends; it gathers lines as long as more of them have already come in, so a file is
//! pipelined and a program on the other end of a pipe gets each answer before it writes the next line.
//! For every line it hands over what to expect; the channel is bounded, so sending is never further ahead
//! than the answers are behind, and memory stays small for an input of any length.
//!
//! Empty lines and lines that begin with `#` are skipped; `quit` and `exit` end the script.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use super::link::{Answer, Dialect, Link, LinkError, Target, encode};
use super::options::Options;
use super::show::{Style, show};
use super::{EXIT_ERROR, EXIT_OK, Failure, answered_by_push, error_line, print, streams, style};
use crate::wire::decode::Value;
use crate::wire::quote::{Unbalanced, split_line};

/// Commands that may be waiting for their answers.
const AHEAD_MAX: usize = 4096;
const GATHER_BYTES: usize = 64 * 1024;
const LINE_BYTES_MAX: u64 = 1 << 30;

/// What a line of the script leads to.
#[derive(Debug)]
enum Expected {
    /// An answer; and whether it is in another dialect, pushed, or the first of many.
    Answer {
        line: u64,
        dialect: Option<Dialect>,
        pushed: bool,
        endless: bool,
    },
    /// The line could not be split.
    Unbalanced { line: u64 },
    /// stdin could not be read.
    Broken(io::Error),
}

/// A line, understood.
enum Line {
    Skip,
    Quit,
    Command(Vec<Vec<u8>>),
}

/// Runs the script; 1 when any line failed.
pub(super) fn script(options: &Options) -> Result<i32, Failure> {
    let target = Target::new(options)?;
    let mut link = Link::open(&target, None)?;
    let stream = link.stream().map_err(LinkError::Lost)?;
    let (sender, receiver) = sync_channel(AHEAD_MAX);
    // Not joined: it may be waiting for stdin when there is nothing left to do for it.
    thread::spawn(move || send_lines(stream, &sender));
    answers(&mut link, &receiver, style(options))
}

fn answers(link: &mut Link, receiver: &Receiver<Expected>, style: Style) -> Result<i32, Failure> {
    let (mut code, mut out) = (EXIT_OK, Vec::new());
    loop {
        let expected = match receiver.try_recv() {
            Ok(expected) => expected,
            Err(_) => {
                print(&out)?;
                out.clear();
                match receiver.recv() {
                    Ok(expected) => expected,
                    Err(_) => return Ok(code),
                }
            }
        };
        let (line, dialect, pushed, endless) = match expected {
            Expected::Answer {
                line,
                dialect,
                pushed,
                endless,
            } => (line, dialect, pushed, endless),
            Expected::Unbalanced { line } => {
                code = EXIT_ERROR;
                error_line(format!("line {line}: unbalanced quotes").as_bytes());
                continue;
            }
            Expected::Broken(error) => return Err(Failure::Input(error)),
        };
        if let Some(dialect) = dialect {
            link.switch(dialect);
        }
        loop {
            let answer = match link.receive() {
                Ok(answer) => answer,
                Err(error) => {
                    print(&out)?;
                    return Err(error.into());
                }
            };
            let aside = matches!(answer, Answer::Value(Value::Push(_))) && !pushed;
            if !report(&answer, line, style, &mut out) {
                code = EXIT_ERROR;
            }
            if out.len() >= GATHER_BYTES {
                print(&out)?;
                out.clear();
            }
            if !aside {
                break;
            }
        }
        if endless && code == EXIT_OK {
            return stream(link, out, style);
        }
    }
}

/// Appends an answer; an error goes to stderr, with its line, and is not fine.
fn report(answer: &Answer, line: u64, style: Style, out: &mut Vec<u8>) -> bool {
    match answer {
        Answer::Value(Value::Error(text)) => {
            let mut told = format!("line {line}: ").into_bytes();
            told.extend_from_slice(text);
            error_line(&told);
        }
        _ => show(answer, style, out),
    }
    answer.error().is_none()
}

/// After SUBSCRIBE or MONITOR answers are no longer one for one: prints what comes.
fn stream(link: &mut Link, mut out: Vec<u8>, style: Style) -> Result<i32, Failure> {
    loop {
        print(&out)?;
        out.clear();
        match link.receive_within(None) {
            Ok(answer) => show(&answer, style, &mut out),
            Err(LinkError::Closed) => return Ok(EXIT_OK),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The sending thread. Ends with the input, or when nobody waits for answers any more.
fn send_lines(mut stream: TcpStream, sender: &SyncSender<Expected>) {
    let mut input = BufReader::with_capacity(GATHER_BYTES, io::stdin());
    let (mut requests, mut text, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        text.clear();
        match (&mut input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut text)
        {
            Ok(0) => break,
            Ok(count) if count as u64 == LINE_BYTES_MAX => {
                let _ = sender.send(Expected::Broken(ErrorKind::FileTooLarge.into()));
                break;
            }
            Ok(_) => number += 1,
            Err(error) => {
                let _ = sender.send(Expected::Broken(error));
                break;
            }
        }
        let expected = match understand(&text) {
            Ok(Line::Skip) => None,
            Ok(Line::Quit) => break,
            Ok(Line::Command(args)) => {
                encode(&args, &mut requests);
                Some(Expected::Answer {
                    line: number,
                    dialect: Dialect::asked_by(&args),
                    pushed: answered_by_push(&args),
                    endless: streams(&args),
                })
            }
            Err(Unbalanced) => Some(Expected::Unbalanced { line: number }),
        };
        // What is announced must be sent before this thread may wait: for stdin, or for room.
        let is_last = memchr::memchr(b'\n', input.buffer()).is_none();
        if let Some(expected) = expected
            && !announce(expected, sender, &mut stream, &mut requests)
        {
            return;
        }
        if (is_last || requests.len() >= GATHER_BYTES) && !flush(&mut stream, &mut requests) {
            return;
        }
    }
    flush(&mut stream, &mut requests);
}

/// Hands over what to expect. Returns whether somebody is there to expect it.
fn announce(
    expected: Expected,
    sender: &SyncSender<Expected>,
    stream: &mut TcpStream,
    requests: &mut Vec<u8>,
) -> bool {
    match sender.try_send(expected) {
        Ok(()) => true,
        Err(TrySendError::Full(expected)) => {
            flush(stream, requests) && sender.send(expected).is_ok()
        }
        Err(TrySendError::Disconnected(_)) => false,
    }
}

/// Sends what was gathered. A failure shows on the reading side as well, which tells it.
fn flush(stream: &mut TcpStream, requests: &mut Vec<u8>) -> bool {
    let sent = stream.write_all(requests).is_ok();
    requests.clear();
    sent
}

fn understand(line: &[u8]) -> Result<Line, Unbalanced> {
    if line.trim_ascii_start().starts_with(b"#") {
        return Ok(Line::Skip);
    }
    let (mut text, mut ranges) = (Vec::new(), Vec::new());
    split_line(line, &mut text, &mut ranges)?;
    let args: Vec<Vec<u8>> = ranges
        .into_iter()
        .map(|range| text[range].to_vec())
        .collect();
    Ok(match args.first().map(|verb| verb.to_ascii_lowercase()) {
        None => Line::Skip,
        Some(verb) if matches!(verb.as_slice(), b"quit" | b"exit") => Line::Quit,
        Some(_) => Line::Command(args),
    })
}
