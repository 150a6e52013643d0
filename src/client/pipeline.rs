//! Several commands at once: a [`Pipeline`] for speed, a [`Transaction`] for all or nothing.

use super::Client;
use super::batch::Batch;
use super::error::{Cause, Error};
use crate::wire::decode::Value;

/// Commands that are sent without waiting for each other's replies. Other clients' commands may come between
/// them.
#[derive(Debug)]
pub struct Pipeline<'c> {
    client: &'c mut Client,
    batch: Batch,
}

impl<'c> Pipeline<'c> {
    pub(super) fn new(client: &'c mut Client) -> Pipeline<'c> {
        let batch = Batch::default();
        Pipeline { client, batch }
    }

    /// Adds a command.
    pub fn add<A: AsRef<[u8]>>(&mut self, args: &[A]) -> &mut Self {
        self.batch.add(args);
        self
    }

    /// Sends the commands and waits for the reply of each, in their order; an error reply is a
    /// [`Value::Error`] among them. The pipeline is empty then, and may be filled again.
    ///
    /// # Errors
    /// A reply is missing. Those before it are in the error.
    pub fn run(&mut self) -> Result<Vec<Value>, Error> {
        self.client.run(&std::mem::take(&mut self.batch))
    }
}

/// Commands that are done together: no other client's command comes between them, and none is done when one
/// of them cannot be queued.
#[derive(Debug)]
pub struct Transaction<'c> {
    client: &'c mut Client,
    batch: Batch,
}

impl<'c> Transaction<'c> {
    pub(super) fn new(client: &'c mut Client) -> Transaction<'c> {
        let batch = Batch::default();
        Transaction { client, batch }
    }

    /// Adds a command.
    pub fn add<A: AsRef<[u8]>>(&mut self, args: &[A]) -> &mut Self {
        self.batch.add(args);
        self
    }

    /// Sends the commands between MULTI and EXEC and returns the reply of each, in their order; an error that
    /// one met while it was done is a [`Value::Error`] among them. The transaction is empty then, and may be
    /// filled again.
    ///
    /// # Errors
    /// Without [`Error::UnknownOutcome`], none of the commands was done.
    pub fn run(&mut self) -> Result<Vec<Value>, Error> {
        let batch = std::mem::take(&mut self.batch).into_transaction();
        let mut replies = self.client.run(&batch)?;
        let node = self.client.node();
        let executed = replies.pop();
        let first_error = replies
            .into_iter()
            .enumerate()
            .find_map(|reply| match reply {
                (at, Value::Error(text)) => Some((at, text)),
                _ => None,
            });
        match (first_error, executed) {
            // Without MULTI the commands may have been done one by one.
            (Some((0, text)), _) => Err(Error::unknown(node, Cause::Said(text))),
            (None, Some(Value::Array(results))) => Ok(results),
            (first_error, Some(Value::Error(text))) => {
                let text = first_error.map_or(text, |(_, text)| text);
                Err(Error::of_reply(node, text))
            }
            (_, other) => {
                let other = other.unwrap_or(Value::Nil);
                Err(Error::unknown(node, Cause::Unexpected(other)))
            }
        }
    }
}
