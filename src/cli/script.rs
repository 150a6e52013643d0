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

use super::link::{Answer, Dialect, Link, LinkError, Target};
use super::options::Options;
use super::show::{Style, show};
use super::{EXIT_ERROR, EXIT_OK, Failure, answered_by_push, error_line, print, streams, style};
use crate::wire::decode::Value;
use crate::wire::encode::encode_request;
use crate::wire::quote::{Unbalanced, split_line};

/// Commands that may be waiting for their answers.
const AHEAD_MAX: usize = 4096;
const GATHER_BYTES: usize = 64 * 1024;
const LINE_BYTES_MAX: u64 = 1 << 30;

/// What a line of the script leads to.
#[derive(Debug)]
enum Expected {
    Answer(ExpectedAnswer),
    /// The line could not be split.
    Unbalanced {
        line: u64,
    },
    /// stdin could not be read.
    Broken(io::Error),
}

/// An answer, and how it will look.
#[derive(Debug)]
struct ExpectedAnswer {
    line: u64,
    /// The dialect changes with it.
    dialect: Option<Dialect>,
    /// It may be a push message.
    pushed: bool,
    /// It is the first of many.
    endless: bool,
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
    let link = Link::open(&target, None)?;
    let stream = link.stream().map_err(LinkError::Lost)?;
    let (sender, receiver) = sync_channel(AHEAD_MAX);
    // Not joined: it may be waiting for stdin when there is nothing left to do for it.
    thread::spawn(move || send_lines(stream, &sender));
    let mut answers = Answers {
        link,
        style: style(options),
        out: Vec::new(),
        code: EXIT_OK,
    };
    let done = answers.print_all(&receiver);
    answers.flush()?;
    done
}

/// The reading side.
struct Answers {
    link: Link,
    style: Style,
    /// What is not printed yet; it never waits for something that has not come in.
    out: Vec<u8>,
    code: i32,
}

impl Answers {
    /// Prints what every line leads to; the exit code.
    fn print_all(&mut self, receiver: &Receiver<Expected>) -> Result<i32, Failure> {
        loop {
            let expected = match receiver.try_recv() {
                Ok(expected) => expected,
                Err(_) => {
                    self.flush()?;
                    match receiver.recv() {
                        Ok(expected) => expected,
                        Err(_) => return Ok(self.code),
                    }
                }
            };
            match expected {
                Expected::Answer(expected) => {
                    let fine = self.print_answer(&expected)?;
                    if fine && expected.endless {
                        return self.stream();
                    }
                }
                Expected::Unbalanced { line } => {
                    self.code = EXIT_ERROR;
                    error_line(format!("line {line}: unbalanced quotes").as_bytes());
                }
                Expected::Broken(error) => return Err(Failure::Input(error)),
            }
        }
    }

    /// Prints one answer and what comes beside it; whether it is fine.
    fn print_answer(&mut self, expected: &ExpectedAnswer) -> Result<bool, Failure> {
        if let Some(dialect) = expected.dialect {
            self.link.switch(dialect);
        }
        loop {
            let answer = match self.link.next_answer()? {
                Some(answer) if self.out.len() < GATHER_BYTES => answer,
                Some(answer) => {
                    self.flush()?;
                    answer
                }
                None => {
                    self.flush()?;
                    self.link.receive()?
                }
            };
            match &answer {
                Answer::Value(Value::Error(text)) => {
                    let mut told = format!("line {}: ", expected.line).into_bytes();
                    told.extend_from_slice(text);
                    error_line(&told);
                }
                _ => show(&answer, self.style, &mut self.out),
            }
            let fine = answer.error().is_none();
            if !fine {
                self.code = EXIT_ERROR;
            }
            let aside = matches!(answer, Answer::Value(Value::Push(_))) && !expected.pushed;
            if !aside {
                return Ok(fine);
            }
        }
    }

    /// After SUBSCRIBE or MONITOR answers are no longer one for one: prints what comes.
    fn stream(&mut self) -> Result<i32, Failure> {
        loop {
            self.flush()?;
            match self.link.receive_within(None) {
                Ok(answer) => show(&answer, self.style, &mut self.out),
                Err(LinkError::Closed) => return Ok(self.code),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        print(&self.out)?;
        self.out.clear();
        Ok(())
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
                encode_request(&args, &mut requests);
                Some(Expected::Answer(ExpectedAnswer {
                    line: number,
                    dialect: Dialect::asked_by(&args),
                    pushed: answered_by_push(&args),
                    endless: streams(&args),
                }))
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
