//! Why a call gave no value, and whether it was done: the one thing that a program must know before it
//! tries again.

use std::error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::wire::decode::{DecodeError, Value};

/// Why a call gave no value. `node` is as the client was given it, and empty where none was asked.
#[derive(Debug)]
pub enum Error {
    /// Nothing was changed: it was never sent whole, or it only reads, or the node says so. The same call may
    /// be made again.
    NotDone {
        /// The last node that was tried.
        node: String,
        /// What was in the way.
        why: Cause,
        /// Of a pipeline: the replies to the commands before, which are done.
        answered: Vec<Value>,
    },
    /// The command was sent and no reply came: it may have been done, or not, or may yet be. Of a pipeline,
    /// this goes for the commands behind those that are `answered`.
    UnknownOutcome {
        /// The node that it was sent to.
        node: String,
        /// What became of the reply.
        why: Cause,
        /// Of a pipeline: the replies that came before.
        answered: Vec<Value>,
    },
    /// The node's reply to the command is an error. To try again is of no use.
    Refused {
        /// The node that replied.
        node: String,
        /// The reply, its code first: `ERR syntax error`.
        text: Vec<u8>,
    },
}

/// What was in the way of a reply.
#[derive(Debug)]
pub enum Cause {
    /// The client was given no nodes.
    NoNodes,
    /// The command is none that this client can send.
    Unfit(&'static str),
    /// The node does not take connections.
    Connect(io::Error),
    /// The connection is gone.
    Lost(io::Error),
    /// The node was silent for so long.
    Late(Duration),
    /// What the node sends is no reply.
    Unreadable(DecodeError),
    /// The reply has more than so many bytes.
    TooLong(usize),
    /// An error reply.
    Said(Vec<u8>),
    /// A reply of another type than the command has.
    Unexpected(Value),
}

impl Cause {
    /// Whether another node, or the same one later, may fare better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Cause::NoNodes | Cause::Unfit(_) | Cause::TooLong(_) | Cause::Unexpected(_) => false,
            Cause::Said(text) => meaning(text) == Meaning::Later,
            Cause::Connect(_) | Cause::Lost(_) | Cause::Late(_) | Cause::Unreadable(_) => true,
        }
    }
}

/// What an error reply means for whoever might try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing was done; here later, or now elsewhere, it may be.
    Later,
    /// Nothing was done, for a reason that is not the command's.
    NotDone,
    /// It was done, or will never be: the node that knew is gone.
    Unknown,
    /// The command is to blame, or what it met.
    Own,
}

/// What a server with too many clients says once, before it hangs up without having read anything.
pub(super) const TOO_MANY_CLIENTS: &[u8] = b"ERR max number of clients reached";
/// What a node says to writes when it was told to stop.
const STOPPING: &[u8] = b"ERR the node is stopping";

/// The meaning of an error reply.
pub(super) fn meaning(text: &[u8]) -> Meaning {
    let code = text.split(|&byte| byte == b' ').next();
    match code.unwrap_or_default() {
        _ if text == TOO_MANY_CLIENTS || text == STOPPING => Meaning::Later,
        b"LOADING" | b"CLUSTERDOWN" | b"TRYAGAIN" | b"MASTERDOWN" => Meaning::Later,
        b"NOSPACE" | b"EXECABORT" | b"OOM" | b"MISCONF" | b"READONLY" | b"NOREPLICAS"
        | b"NOAUTH" | b"NOPERM" => Meaning::NotDone,
        b"UNKNOWN" => Meaning::Unknown,
        _ => Meaning::Own,
    }
}

impl Error {
    /// The error that an error reply to one command is.
    pub(super) fn of_reply(node: &str, text: Vec<u8>) -> Error {
        let node = node.to_owned();
        match meaning(&text) {
            Meaning::Own => Error::Refused { node, text },
            Meaning::Unknown => Error::unknown(&node, Cause::Said(text)),
            Meaning::Later | Meaning::NotDone => Error::NotDone {
                node,
                why: Cause::Said(text),
                answered: Vec::new(),
            },
        }
    }

    /// The error of a call for which no node was asked.
    pub(super) fn not_sent(why: Cause) -> Error {
        Error::NotDone {
            node: String::new(),
            why,
            answered: Vec::new(),
        }
    }

    /// The error of a call whose reply does not tell what was done.
    pub(super) fn unknown(node: &str, why: Cause) -> Error {
        Error::UnknownOutcome {
            node: node.to_owned(),
            why,
            answered: Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { node, text } => {
                write!(f, "{node} refuses: {}", String::from_utf8_lossy(text))
            }
            Error::NotDone {
                node,
                why,
                answered,
            } => {
                place(f, node)?;
                write!(f, "{why}; {}", done_before(answered))?;
                f.write_str("nothing was changed")
            }
            Error::UnknownOutcome {
                node,
                why,
                answered,
            } => {
                place(f, node)?;
                write!(f, "{why}; {}", done_before(answered))?;
                f.write_str("the command may or may not have been done")
            }
        }
    }
}

fn place(f: &mut fmt::Formatter<'_>, node: &str) -> fmt::Result {
    match node {
        "" => Ok(()),
        _ => write!(f, "{node}: "),
    }
}

fn done_before(answered: &[Value]) -> String {
    match answered.len() {
        0 => String::new(),
        1 => "1 command was answered, behind it ".to_owned(),
        count => format!("{count} commands were answered, behind them "),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoNodes => f.write_str("no nodes are given"),
            Cause::Unfit(why) => f.write_str(why),
            Cause::Connect(error) => write!(f, "cannot connect: {error}"),
            Cause::Lost(error) => write!(f, "connection lost: {error}"),
            Cause::Late(patience) => write!(f, "no reply within {} s", patience.as_secs_f64()),
            Cause::Unreadable(error) => write!(f, "it does not reply as a node would: {error}"),
            Cause::TooLong(bytes) => write!(f, "the reply has more than {bytes} bytes"),
            Cause::Said(text) => write!(f, "it says: {}", String::from_utf8_lossy(text)),
            Cause::Unexpected(value) => {
                write!(f, "a reply of another type than expected: {value:.80?}")
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        let (Error::NotDone { why, .. } | Error::UnknownOutcome { why, .. }) = self else {
            return None;
        };
        match why {
            Cause::Connect(error) | Cause::Lost(error) => Some(error),
            Cause::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
