//! The client library: commands to a Marline cluster from a Rust program, by plain blocking calls.
//!
//! ```no_run
//! use marline::client::Client;
//! use marline::client::error::Error;
//!
//! let mut client = Client::connect(&["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001"])?;
//! client.set("greeting", "hello world")?;
//! assert_eq!(client.get("greeting")?, Some(b"hello world".to_vec()));
//! let replies = client.pipeline().add(&["INCR", "a"]).add(&["STRLEN", "greeting"]).run()?;
//! assert_eq!(replies.len(), 2);
//! match client.call(&["APPEND", "log", "a line"]) {
//!     Ok(length) => println!("{length:?}"),
//!     Err(Error::UnknownOutcome { .. }) => println!("look before you append it again"),
//!     Err(error) => println!("not appended: {error}"),
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! - [`error`]: why a call gave no value, and whether it was done.
//! - [`builder`]: nodes and timeouts.
//! - `calls`: the everyday commands with Rust's types; [`Client::call`] has all the others.
//! - [`pipeline`]: several commands at once, and transactions.
//! - `batch`: commands as bytes, and which of them may be sent twice.
//! - [`connection`]: one connection to one node, by deadlines.
//!
//! Any node answers every command, so the client stays with one. When that is gone, is silent for too long, or is
//! not ready, the next of the list takes its place, and so on round the list. Names are looked up anew each time.
//!
//! **What is tried again.** A command that was not sent whole, or that a node said it was not ready for (`-LOADING`,
//! `-CLUSTERDOWN`, `-TRYAGAIN`, too many clients, stopping), was not done: it is tried again, whatever it is.
//! A command without a reply is sent again only if it changes nothing, as the command table says. `SET` is not
//! among them: the first copy may still be on its way, and undo what somebody wrote after the second. Such a
//! command ends as [`Error::UnknownOutcome`], which is never said of one that was surely not done.
//!
//! Nothing waits without end: connecting, sending, each reply, each pause and the number of tries are bounded,
//! and so is the size of a reply. Only looking up a name takes as long as the system lets it.
//!
//! A [`Client`] may be sent to another thread, and is used by one at a time. Deliberately absent: threads of its
//! own, async, subscriptions and WATCH, which live and die with one connection, and passwords, which nodes do
//! not have yet.

#![expect(
    clippy::disallowed_methods,
    reason = "a client lives outside the reactor: it blocks, and reads the clock itself"
)]

mod batch;
pub mod builder;
mod calls;
pub mod connection;
pub mod error;
pub mod pipeline;

use std::thread;
use std::time::{Duration, Instant};

use crate::wire::decode::Value;

use batch::Batch;
use builder::Builder;
use connection::Connection;
use error::{Cause, Error, TOO_MANY_CLIENTS};
use pipeline::{Pipeline, Transaction};

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A client of a cluster. See the module's text.
#[derive(Debug)]
pub struct Client {
    told: Builder,
    /// The node of the connection, or the one to try next.
    at: usize,
    connection: Option<Connection>,
    jitter: fastrand::Rng,
}

/// Why a try ended early.
struct Failure {
    /// So many commands were sent whole, from the first one of the batch.
    sent: usize,
    why: Cause,
}

impl Client {
    /// Connects to the first of `nodes`, each `host:port`, that can be reached.
    ///
    /// # Errors
    /// [`Error::NotDone`]: there is none.
    pub fn connect(nodes: &[&str]) -> Result<Client, Error> {
        Client::builder().nodes(nodes.iter().copied()).connect()
    }

    /// A client to be, with all that can be said of it.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn new(told: Builder) -> Client {
        let seed = fastrand::u64(..);
        log::debug!("client: pauses have the seed {seed}");
        Client {
            told,
            at: 0,
            connection: None,
            jitter: fastrand::Rng::with_seed(seed),
        }
    }

    /// The node that the client stays with, or tries next; empty if it has none.
    pub fn node(&self) -> &str {
        self.told.nodes.get(self.at).map_or("", String::as_str)
    }

    /// Sends a command, its name first, and waits for the reply.
    ///
    /// # Errors
    /// There is no reply, or it is an error; which one tells whether the command was done.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value, Error> {
        let mut batch = Batch::default();
        batch.add(args);
        match self.run(&batch)?.swap_remove(0) {
            Value::Error(text) => Err(Error::of_reply(self.node(), text)),
            value => Ok(value),
        }
    }

    /// Commands to be sent without waiting for each other's replies.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// Commands to be done together or not at all.
    pub fn transaction(&mut self) -> Transaction<'_> {
        Transaction::new(self)
    }

    /// One reply for each command, after as many tries as are allowed and safe.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Value>, Error> {
        if let Some(why) = batch.unfit() {
            return Err(Error::not_sent(Cause::Unfit(why)));
        }
        let begun = Instant::now();
        let (mut replies, mut retries, mut pause) = (Vec::new(), 0, PAUSE_MIN);
        loop {
            let jittered = pause.mul_f64(1.0 - self.jitter.f64() / 2.0);
            match self.attempt(batch, &mut replies) {
                Ok(()) => {
                    let is_over = begun.elapsed() + jittered >= self.told.reply_timeout;
                    let Some(from) = batch.not_ready(&replies).filter(|_| !is_over) else {
                        return Ok(replies);
                    };
                    replies.truncate(from);
                    if self.told.nodes.len() > 1 {
                        self.move_on();
                    }
                }
                Err(failure) => {
                    let is_over = retries == self.told.retries;
                    self.judge(batch, &mut replies, failure, is_over)?;
                    retries += 1;
                }
            }
            thread::sleep(jittered);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Leaves the node that failed, and says whether another try may follow: then `replies` are those that count.
    fn judge(
        &mut self,
        batch: &Batch,
        replies: &mut Vec<Value>,
        Failure { sent, why }: Failure,
        is_over: bool,
    ) -> Result<(), Error> {
        let node = self.node().to_owned();
        self.move_on();
        let may_repeat = batch.may_repeat(replies.len(), sent);
        if batch.is_transaction() {
            replies.clear();
        }
        if may_repeat && !is_over && why.may_pass() {
            log::debug!("client: {node}: {why}; trying {}", self.node());
            return Ok(());
        }
        let answered = std::mem::take(replies);
        Err(match may_repeat {
            true => Error::NotDone {
                node,
                why,
                answered,
            },
            false => Error::UnknownOutcome {
                node,
                why,
                answered,
            },
        })
    }

    /// Hangs up; the next node is the one to try.
    fn move_on(&mut self) {
        self.connection = None;
        self.at = (self.at + 1) % self.told.nodes.len().max(1);
    }

    /// Sends the commands behind those that have `replies`, and adds the replies of these.
    fn attempt(&mut self, batch: &Batch, replies: &mut Vec<Value>) -> Result<(), Failure> {
        let timeout = self.told.reply_timeout;
        let connection = self.connected().map_err(|why| Failure {
            sent: replies.len(),
            why,
        })?;
        while replies.len() < batch.len() {
            let from = replies.len();
            let (to, bytes) = batch.window(from);
            connection
                .send(bytes, timeout)
                .map_err(|(count, why)| Failure {
                    sent: batch.whole(from, count),
                    why,
                })?;
            while replies.len() < to {
                match connection.receive(timeout) {
                    Ok(Value::Error(text)) if text == TOO_MANY_CLIENTS => {
                        let (sent, why) = (replies.len(), Cause::Said(text));
                        return Err(Failure { sent, why });
                    }
                    Ok(reply) => replies.push(reply),
                    Err(why) => return Err(Failure { sent: to, why }),
                }
            }
        }
        Ok(())
    }

    /// The connection, a new one if there is none or the other side has left it.
    fn connected(&mut self) -> Result<&mut Connection, Cause> {
        let connection = match self.connection.take().filter(Connection::is_usable) {
            Some(connection) => connection,
            None => self.open()?,
        };
        Ok(self.connection.insert(connection))
    }

    /// A connection to the first node that takes one; each is tried once.
    fn open(&mut self) -> Result<Connection, Cause> {
        let (timeout, reply_bytes_max) = (self.told.connect_timeout, self.told.reply_bytes_max);
        let mut why = Cause::NoNodes;
        for tried in 0..self.told.nodes.len() {
            if tried > 0 {
                self.move_on();
            }
            match Connection::open(self.node(), timeout, reply_bytes_max) {
                Ok(connection) => return Ok(connection),
                Err(error) => why = Cause::Connect(error),
            }
        }
        Err(why)
    }
}
