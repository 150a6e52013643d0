//! Commands that must see earlier writes to their keys applied before they can say what they change.
//!
//! RENAME reads one key to write another; the log holds what is written, so that the reading must be right
//! when the writing is proposed: no write to its keys may be under way. Such a command waits until its slots
//! are idle, and reserves them: later writes of others to those slots wait behind it, else a busy key would
//! starve it. Whoever waits is asked again; nothing of its command was done.
//!
//! Commands on one key, and MSET, DEL and FLUSHALL, need none of this: what they do is decided when they are
//! applied.

use crate::reactor::id::ConnId;
use crate::reactor::net::Net;

use super::Node;
use super::commit::batches::Commits;
use super::session::Message;

struct Waiting {
    conn: ConnId,
    /// Slots that it reserves; none, if it only stands behind others.
    slots: Vec<u16>,
}

/// Who waits for which slots, in order of arrival.
#[derive(Default)]
pub struct Latches {
    waiting: Vec<Waiting>,
}

impl Latches {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a command that came before the one of `conn` has reserved `slot`.
    pub fn is_reserved(&self, slot: u16, conn: ConnId) -> bool {
        self.waiting
            .iter()
            .take_while(|waiting| waiting.conn != conn)
            .any(|waiting| waiting.slots.contains(&slot))
    }

    /// Lets a command wait, which reserves these slots; one that waits already keeps its place.
    pub fn wait(&mut self, conn: ConnId, slots: Vec<u16>) {
        if self.waiting.iter().all(|waiting| waiting.conn != conn) {
            self.waiting.push(Waiting { conn, slots });
        }
    }

    /// The command of `conn` has run, or will never: those who stood behind it are asked again.
    pub fn release(&mut self, conn: ConnId, net: &mut Net<'_, Node>) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.conn == conn) else {
            return;
        };
        self.waiting.remove(at);
        for waiting in &self.waiting {
            net.post(waiting.conn, Message::Resume);
        }
    }

    /// Asks those again whose slots may be idle now.
    pub fn retry(&self, commits: &Commits, net: &mut Net<'_, Node>) {
        for waiting in &self.waiting {
            if waiting.slots.iter().all(|&slot| commits.is_idle(slot)) {
                net.post(waiting.conn, Message::Resume);
            }
        }
    }
}
