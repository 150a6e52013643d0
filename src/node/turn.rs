//! What a command is run with (the node, the network, the reply being written, and whose command it is),
//! and what it leaves behind: how its session goes on.

use std::io;

use crate::reactor::id::ConnId;
use crate::reactor::net::Net;
use crate::reactor::timer::Nanos;
use crate::wire::reply::Reply;

use super::Node;
use super::client::Client;
use super::cluster::frames::ANY;
use super::latch::Holder;
use super::session::{Message, Said};

/// How a session goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// With the next command.
    Go,
    /// It closes, once its replies are sent.
    Close,
    /// It answers at a later time and then goes on.
    Wait(Wait),
    /// It must ask again when the pause is over: nothing was done, and nothing was answered.
    Held,
    /// It must ask again when others' writes to its keys are applied: nothing was done.
    Latched,
    /// It must ask again when its own writes are answered: nothing was done.
    Settle,
    /// It is part of a batch and will be answered with it; the next command may come.
    Deferred,
    /// It will be answered later, and so will those behind it: they are not run before.
    Barrier,
}

impl Next {
    /// The stricter of two.
    pub fn or(self, other: Next) -> Next {
        if other == Next::Go { self } else { other }
    }
}

/// An answer whose time is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// When.
    pub until: Until,
    /// What it will be.
    pub answer: Answer,
}

impl Wait {
    /// Until something is done that says itself what it came to.
    pub const UNTIL_DONE: Wait = Wait {
        until: Until::Done,
        answer: Answer::Ok,
    };
}

/// What a [`Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// A time.
    Time(Nanos),
    /// Something that is being done and will say what it came to.
    Done,
    /// Nothing: it ends with the connection.
    Never,
}

/// The answer of a [`Wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `OK`.
    Ok,
    /// 0.
    Zero,
    /// Nothing: the client asked for silence.
    Nothing,
}

/// The command of another node that is being run.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// The caller's name for it.
    pub id: u64,
    /// The shard that it is restricted to.
    pub shard: u16,
    /// It does not count as use of keys.
    pub no_touch: bool,
    /// Its client does not wait for other replicas.
    pub is_early: bool,
}

/// Bytes that a subscriber or monitor may leave unread: nobody slows down for it, so that its replies
/// cannot be held back as those to its own commands are.
const PUSHED_BYTES_MAX: usize = 32 << 20;

/// One client's stretch of a reactor turn.
pub struct Turn<'t, 'n, 'o> {
    /// Everything the node knows.
    pub node: &'t mut Node,
    /// The network; `net.write` is not for commands: they answer through `reply`.
    pub net: &'t mut Net<'n, Node>,
    /// Where the answer goes.
    pub reply: Reply<'o>,
    /// Whose command it is.
    pub me: ConnId,
    /// Whether EXEC is running queued commands: then nothing may wait, and pushes to this very client
    /// gather in `pushed` until the array of replies is whole.
    pub in_transaction: bool,
    /// Bytes in which the command at hand was typed; 0 once they are accounted for.
    pub request_bytes: usize,
    /// Whether the command at hand need not be timed alone.
    pub quick: bool,
    /// Pushes that stand behind EXEC's reply.
    pub pushed: Vec<u8>,
    /// The command that another node has passed on, when it is its.
    pub serving: Option<Serving>,
}

impl Turn<'_, '_, '_> {
    /// Lets the client wait for what `job` says on another thread.
    pub fn ask(&mut self, job: impl FnOnce() -> io::Result<Said> + Send + 'static) -> Next {
        let me = self.me;
        self.net.defer_to_thread(job, move |cx, said| {
            let said = said.unwrap_or_else(|error| Said::Error(format!("ERR {error}")));
            cx.net.post(me, Message::Say(said));
        });
        Next::Wait(Wait::UNTIL_DONE)
    }

    /// Whose command it is, where commands wait for keys.
    pub fn holder(&self) -> Holder {
        Holder {
            conn: self.me,
            shard: self.serving.map_or(ANY, |serving| serving.shard),
        }
    }

    /// The command at hand waits for no keys any more.
    pub fn release_latch(&mut self) {
        let holder = self.holder();
        self.node.latches.release(holder, self.net);
    }

    /// The record of the client whose command it is.
    pub fn client(&mut self) -> &mut Client {
        // A session runs commands only between connection_made and connection_lost, which add and
        // remove the record.
        self.node
            .clients
            .get_mut(self.me)
            .expect("a running session has its client record")
    }

    /// Sends bytes to some client in their place: behind what this command has answered so far when the
    /// client is the very one that is asking.
    /// A client that leaves more than [`PUSHED_BYTES_MAX`] unread is cut off.
    pub fn deliver(&mut self, conn: ConnId, bytes: &[u8]) {
        let unsent = match conn == self.me {
            true => self.reply.len() + self.pushed.len(),
            false => 0,
        };
        if self.net.out_len_of(conn) + unsent > PUSHED_BYTES_MAX {
            log::warn!("a client that does not read what it asked to hear was cut off");
            return self.net.abort(conn);
        }
        if conn != self.me {
            self.net.write_to(conn, bytes);
        } else if self.in_transaction {
            self.pushed.extend_from_slice(bytes);
        } else {
            self.reply.raw(bytes);
        }
    }
}
