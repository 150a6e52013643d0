//! The connection to a node: opened, authenticated, and read answer by answer.
//!
//! Reading wakes up ten times a second, to look at the deadline and at the flag that Ctrl-C sets; the
//! node's answers themselves are never waited for by polling.
//!
//! A connection begins in RESP. `HELLO JSON` and `HELLO LINE` make the answers lines, `HELLO 2` and
//! `HELLO 3` make them RESP again; whoever reads such an answer says so with [`Link::switch`] before.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::options::Options;
use super::{EXIT_CONNECT, EXIT_ERROR, EXIT_USAGE};
use crate::client::connection::{Idle, dial, is_pause, look};
use crate::wire::decode::{DecodeError, Decoder, Limits, Value};
use crate::wire::encode::encode_request;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WAKE_INTERVAL: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 64 * 1024;
const LINE_BYTES_MAX: usize = 1 << 30;
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// One reply, as the connection's dialect has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// RESP.
    Value(Value),
    /// One line without its end.
    Line(Dialect, Vec<u8>),
}

impl Answer {
    /// The text of an error reply.
    pub(super) fn error(&self) -> Option<&[u8]> {
        match self {
            Answer::Value(Value::Error(text)) => Some(text),
            Answer::Line(Dialect::Json, line) if line.starts_with(b"{\"error\":") => Some(line),
            Answer::Line(Dialect::Line, line) => match line.as_slice() {
                [b'-', b'A'..=b'Z', ..] => Some(&line[1..]),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether there is no value.
    pub(super) fn is_nil(&self) -> bool {
        match self {
            Answer::Value(value) => *value == Value::Nil,
            Answer::Line(Dialect::Json, line) => line == b"null",
            Answer::Line(_, line) => line == b"(nil)",
        }
    }
}

/// How the node writes its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Resp,
    Line,
    Json,
}

impl Dialect {
    /// The dialect that a command asks for.
    pub(super) fn asked_by(args: &[Vec<u8>]) -> Option<Dialect> {
        match args {
            [verb, dialect, ..] if verb.eq_ignore_ascii_case(b"hello") => {
                match dialect.to_ascii_lowercase().as_slice() {
                    b"json" => Some(Dialect::Json),
                    b"line" => Some(Dialect::Line),
                    _ => Some(Dialect::Resp),
                }
            }
            _ => None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum LinkError {
    PasswordFile(String, io::Error),
    Connect(io::Error),
    Refused(&'static str, Vec<u8>),
    Lost(io::Error),
    Closed,
    Late(Duration),
    Interrupted,
    Decode(DecodeError),
    /// An answer that makes no sense: to which command, and why.
    Nonsense(&'static str, String),
    LineTooLong,
}

impl LinkError {
    /// The exit code that fits.
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            LinkError::PasswordFile(..) => EXIT_USAGE,
            LinkError::Refused(..) => EXIT_ERROR,
            _ => EXIT_CONNECT,
        }
    }

    /// What to tell the user, and what to try.
    pub(super) fn told(&self, target: &Options) -> String {
        let told = self.reason(target);
        match self {
            LinkError::Connect(_) => format!(
                "{told}\n\
                 Is a node running there? `marline --port {}` starts one; -h HOST and -p PORT, or \
                 MARLINE_HOST and MARLINE_PORT, name another.",
                target.port
            ),
            _ => told,
        }
    }

    /// What to tell the user of a node.
    pub(super) fn reason(&self, target: &dyn fmt::Display) -> String {
        match self {
            LinkError::PasswordFile(path, error) => {
                format!("cannot read the password file {path}: {error}")
            }
            LinkError::Connect(error) => format!("cannot connect to {target}: {error}"),
            LinkError::Refused(what, text) => {
                format!("{target} refused {what}: {}", String::from_utf8_lossy(text))
            }
            LinkError::Lost(error) => format!("connection to {target} lost: {error}"),
            LinkError::Closed => format!("{target} closed the connection"),
            LinkError::Late(patience) => {
                format!(
                    "no answer from {target} within {} s",
                    patience.as_secs_f64()
                )
            }
            LinkError::Interrupted => "interrupted".to_owned(),
            LinkError::Decode(error) => {
                format!("{target} does not answer as a node or Redis would: {error}")
            }
            LinkError::Nonsense(what, reason) => {
                format!("{target} does not answer {what} as a node would: {reason}")
            }
            LinkError::LineTooLong => format!("{target} answers with a line without end"),
        }
    }
}

/// Where to connect to, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target<'o> {
    options: &'o Options,
    /// A node that is not the one of the options.
    other: Option<SocketAddr>,
    /// For the connection and for each answer.
    timeout: Option<Duration>,
    /// AUTH and its arguments.
    login: Option<Vec<Vec<u8>>>,
}

impl<'o> Target<'o> {
    /// The target that the options name; reads the password file.
    pub(super) fn new(options: &'o Options) -> Result<Target<'o>, LinkError> {
        let mut login = None;
        if let Some(path) = &options.password_file {
            let password = password(path)
                .map_err(|error| LinkError::PasswordFile(path.display().to_string(), error))?;
            let user = options.user.as_ref().map(|user| user.as_bytes().to_vec());
            let words = [Some(b"AUTH".to_vec()), user, Some(password)];
            login = Some(words.into_iter().flatten().collect());
        }
        Ok(Target {
            options,
            other: None,
            timeout: options.timeout,
            login,
        })
    }

    /// The same node, which gets so much time where the options do not say how much.
    pub(super) fn within(&self, timeout: Duration) -> Target<'o> {
        Target {
            timeout: self.options.timeout.or(Some(timeout)),
            ..self.clone()
        }
    }

    /// Another node, as the same user and with as much time.
    pub(super) fn at(&self, address: SocketAddr) -> Target<'o> {
        Target {
            other: Some(address),
            ..self.clone()
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let timeout = self.timeout.unwrap_or(CONNECT_TIMEOUT);
        let stream = match self.other {
            Some(address) => dial(address, timeout)?,
            None => dial((self.options.host.as_str(), self.options.port), timeout)?,
        };
        stream.set_read_timeout(Some(WAKE_INTERVAL))?;
        Ok(stream)
    }
}

impl fmt::Display for Target<'_> {
    /// The address of the node, as it is typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.other {
            Some(address) => address.fmt(f),
            None => self.options.fmt(f),
        }
    }
}

/// The first line of the file.
fn password(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(PASSWORD_BYTES_MAX)
        .read_to_end(&mut content)?;
    let end = memchr::memchr2(b'\r', b'\n', &content).unwrap_or(content.len());
    content.truncate(end);
    match content.is_empty() {
        true => Err(io::Error::new(
            ErrorKind::InvalidData,
            "its first line is empty",
        )),
        false => Ok(content),
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    timeout: Option<Duration>,
    interrupt: Option<Arc<AtomicBool>>,
    dialect: Dialect,
    decoder: Decoder,
    /// Input that is read as lines; no line end before `searched`.
    lines: Vec<u8>,
    searched: usize,
    buffer: Vec<u8>,
}

impl Link {
    /// Connects, authenticates and chooses the dialect. `interrupt` makes any waiting end.
    pub(super) fn open(
        target: &Target<'_>,
        interrupt: Option<Arc<AtomicBool>>,
    ) -> Result<Link, LinkError> {
        let mut link = Link {
            stream: target.connect().map_err(LinkError::Connect)?,
            timeout: target.timeout,
            interrupt,
            dialect: Dialect::Resp,
            decoder: Decoder::new(Limits::default()),
            lines: Vec::new(),
            searched: 0,
            buffer: vec![0; READ_BYTES],
        };
        if let Some(login) = &target.login {
            link.require("the password", login)?;
        }
        if target.options.json {
            link.require(
                "HELLO JSON (is it a Redis?)",
                &[b"HELLO".to_vec(), b"JSON".to_vec()],
            )?;
        }
        Ok(link)
    }

    fn require(&mut self, what: &'static str, args: &[Vec<u8>]) -> Result<(), LinkError> {
        match self.ask(args)?.error() {
            Some(text) => Err(LinkError::Refused(what, text.to_vec())),
            None => Ok(()),
        }
    }

    /// A second handle of the socket.
    pub(super) fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Whether the other side has hung up, as far as can be seen without waiting.
    pub(super) fn is_dead(&self) -> bool {
        look(&self.stream) == Idle::Gone
    }

    /// Sends a command.
    pub(super) fn send(&mut self, args: &[Vec<u8>]) -> Result<(), LinkError> {
        let mut request = Vec::new();
        encode_request(args, &mut request);
        self.send_encoded(&request)
    }

    /// Sends commands that are encoded already.
    pub(super) fn send_encoded(&mut self, requests: &[u8]) -> Result<(), LinkError> {
        self.stream.write_all(requests).map_err(LinkError::Lost)
    }

    /// Sends a command and waits for its answer. Messages that answer nothing are dropped.
    pub(super) fn ask(&mut self, args: &[Vec<u8>]) -> Result<Answer, LinkError> {
        self.send(args)?;
        if let Some(dialect) = Dialect::asked_by(args) {
            self.switch(dialect);
        }
        loop {
            match self.receive()? {
                Answer::Value(Value::Push(_)) => {}
                answer => return Ok(answer),
            }
        }
    }

    /// The next answer will be in this dialect.
    pub(super) fn switch(&mut self, dialect: Dialect) {
        match (self.dialect == Dialect::Resp, dialect == Dialect::Resp) {
            (true, false) => self.lines = self.decoder.take_unread(),
            (false, true) => self.decoder.feed(&std::mem::take(&mut self.lines)),
            _ => {}
        }
        self.searched = 0;
        self.dialect = dialect;
    }

    /// Waits for the next answer, not longer than the timeout of the connection.
    pub(super) fn receive(&mut self) -> Result<Answer, LinkError> {
        self.receive_within(self.timeout)
    }

    /// Waits for the next answer.
    pub(super) fn receive_within(
        &mut self,
        patience: Option<Duration>,
    ) -> Result<Answer, LinkError> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.next_answer()? {
                return Ok(answer);
            }
            if self
                .interrupt
                .as_ref()
                .is_some_and(|flag| flag.load(Ordering::Relaxed))
            {
                return Err(LinkError::Interrupted);
            }
            if let Some(patience) = patience.filter(|&patience| begun.elapsed() >= patience) {
                return Err(LinkError::Late(patience));
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) if self.dialect == Dialect::Resp => {
                    self.decoder.feed(&self.buffer[..count]);
                }
                Ok(count) => self.lines.extend_from_slice(&self.buffer[..count]),
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(LinkError::Lost(error)),
            }
        }
    }

    /// The next answer, if it has come in already.
    pub(super) fn next_answer(&mut self) -> Result<Option<Answer>, LinkError> {
        if self.dialect == Dialect::Resp {
            let value = self.decoder.next_value().map_err(LinkError::Decode)?;
            return Ok(value.map(Answer::Value));
        }
        let Some(offset) = memchr::memchr(b'\n', &self.lines[self.searched..]) else {
            self.searched = self.lines.len();
            return match self.searched > LINE_BYTES_MAX {
                true => Err(LinkError::LineTooLong),
                false => Ok(None),
            };
        };
        let rest = self.lines.split_off(self.searched + offset + 1);
        let mut line = std::mem::replace(&mut self.lines, rest);
        self.searched = 0;
        line.pop();
        if line.starts_with(b"-") && line.ends_with(b"\r") {
            // Only RESP ends so: a server that does not know the dialect refused it.
            self.switch(Dialect::Resp);
            let text = line[1..line.len() - 1].to_vec();
            return Ok(Some(Answer::Value(Value::Error(text))));
        }
        Ok(Some(Answer::Line(self.dialect, line)))
    }
}
