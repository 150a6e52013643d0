//! What the leader of the meta shard is asked for, as commands.
//!
//! ```text
//!   REPL JOIN name address      a node is to be a member
//!   REPL LEAVE node             a member is to hold nothing any more, and then to be forgotten
//!   REPL DONE shard epoch       the change at a shard that the map of this epoch asks for was made
//!   REPL UNDO shard epoch       it cannot be made, and its newcomer has no vote
//! ```

use std::net::SocketAddr;
use std::str::FromStr;

use crate::cluster::map::NodeId;
use crate::command::verb::Verb;
use crate::wire::request::Args;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// A node of this name is to be a member, at this address.
    Join(String, SocketAddr),
    /// A member is to go.
    Leave(NodeId),
    /// The change at a shard that the map of this epoch asks for was made.
    Done(u16, u64),
    /// It cannot be made, and its newcomer has no vote.
    Undo(u16, u64),
}

/// What a command asks for, if it is one of these and makes sense.
pub fn parse(verb: Verb, args: Args<'_>) -> Option<Wish> {
    match verb {
        Verb::ReplJoin => Some(Wish::Join(word(args, 2)?, word(args, 3)?)),
        Verb::ReplLeave => Some(Wish::Leave(word(args, 2)?)),
        Verb::ReplUndo => Some(Wish::Undo(word(args, 2)?, word(args, 3)?)),
        Verb::ReplDone => Some(Wish::Done(word(args, 2)?, word(args, 3)?)),
        _ => None,
    }
}

fn word<T: FromStr>(args: Args<'_>, at: usize) -> Option<T> {
    std::str::from_utf8(args.get(at)?).ok()?.parse().ok()
}
