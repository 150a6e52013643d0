//! Commands that must see earlier writes to their keys applied before they can say what they change.
//!
//! RENAME reads one key to write another; the log holds what is written, so that the reading must be right
//! when the writing is proposed: no write to its keys may be under way. Such a command waits until its slots
//! are idle, and reserves them: later writes of others to those slots wait behind it, else a busy key would
//! starve it. Whoever waits is asked again; nothing of its command was done. Clients are told to ask again; the
//! commands of other nodes are tried whenever something was applied ([`serve`](super::cluster::serve)).
//!
//! Commands on one key, and MSET, DEL and FLUSHALL, need none of this: what they do is decided when they are
//! applied.

use crate::reactor::id::ConnId;
use crate::reactor::net::Net;

use super::Node;
use super::commit::batches::Commits;
use super::session::Message;

/// Whose command waits. A connection has one; a link of another node has one for each shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The connection.
    pub conn: ConnId,
    /// The shard, on a link; [`ANY`](super::cluster::frames::ANY) for a client.
    pub shard: u16,
}

struct Waiting {
    holder: Holder,
    /// Slots that it reserves; none, if it only stands behind others.
    slots: Vec<u16>,
}

/// Who waits for which slots, in order of arrival.
#[derive(Default)]
pub struct Latches {
    waiting: Vec<Waiting>,
}

impl Latches {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a command that came before the one of `holder` has reserved `slot`.
    pub fn is_reserved(&self, slot: u16, holder: Holder) -> bool {
        self.waiting
            .iter()
            .take_while(|waiting| waiting.holder != holder)
            .any(|waiting| waiting.slots.contains(&slot))
    }

    /// Lets a command wait, which reserves these slots; one that waits already keeps its place.
    pub fn wait(&mut self, holder: Holder, slots: Vec<u16>) {
        if self.waiting.iter().all(|waiting| waiting.holder != holder) {
            self.waiting.push(Waiting { holder, slots });
        }
    }

    /// The command of `holder` has run, or will never: those who stood behind it are asked again.
    pub fn release(&mut self, holder: Holder, net: &mut Net<'_, Node>) {
        self.release_where(net, |waiting| waiting == holder);
    }

    /// The same for all commands of a connection that is gone.
    pub fn release_all(&mut self, conn: ConnId, net: &mut Net<'_, Node>) {
        self.release_where(net, |waiting| waiting.conn == conn);
    }

    fn release_where(&mut self, net: &mut Net<'_, Node>, is_over: impl Fn(Holder) -> bool) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !is_over(waiting.holder));
        if self.waiting.len() < before {
            for waiting in &self.waiting {
                net.post(waiting.holder.conn, Message::Resume);
            }
        }
    }

    /// Asks those again whose slots may be idle now.
    pub fn retry(&self, commits: &Commits, net: &mut Net<'_, Node>) {
        for waiting in &self.waiting {
            if waiting.slots.iter().all(|&slot| commits.is_idle(slot)) {
                net.post(waiting.holder.conn, Message::Resume);
            }
        }
    }
}
