//! The order of one client's replies, when its commands are answered out of order: by several shards, and by other
//! nodes.
//!
//! ```text
//!   commands taken   0  1  2  3  4
//!   answered         ✓  .  ✓  ✓  .      1 is waited for; the replies of 2 and 3 lie here
//!                       ▲ next
//! ```
//!
//! A command that is answered at once takes no number: it is only run when nothing before it is awaited.
//!
//! What a client says at once, a *burst*, is answered by several nodes a moment one after the other. To send each reply
//! as it comes costs this node and the client a system call for a few bytes, so those whose turn has come are *corked*
//! until the burst is whole; not many of them, and not for long: [`Corks`] knows whose, and sees to the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::odd::{self, Size};
use crate::planted::{self, Bug};
use crate::reactor::id::ConnId;

/// Replies of one client that are corked, in bytes.
const CORKED_BYTES_MAX: usize = 16 << 10;
/// Room for replies that stays with a client.
const KEPT_BYTES_MAX: usize = 2 << 10;
/// Replies are corked for at least so long, unless the others come before, and at most for twice as long.
pub const CORK: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug, Default)]
pub struct Replies {
    taken: u64,
    next: u64,
    /// Those that have come of the numbers behind `next`.
    early: VecDeque<Option<Box<[u8]>>>,
    /// Where the burst ends that `next` is in.
    end: u64,
    /// Those that are corked.
    corked: Vec<u8>,
}

impl Replies {
    /// The number of a command that will be answered later.
    pub fn take(&mut self) -> u64 {
        self.taken += 1;
        self.taken - 1
    }

    /// Whether the reply of this number is the next to be sent.
    pub fn is_next(&self, number: u64) -> bool {
        self.next == number || planted::is(Bug::RepliesUnordered)
    }

    /// The next reply has been written to the end of `out`: those that waited for it follow.
    pub fn go_on(&mut self, out: &mut Vec<u8>) {
        if self.next >= self.end {
            self.end = self.taken;
        }
        self.next += 1;
        while let Some(reply) = self.early.pop_front() {
            let Some(reply) = reply else { break };
            out.extend_from_slice(&reply);
            self.next += 1;
        }
    }

    /// Keeps a reply whose turn has not come.
    pub fn keep(&mut self, number: u64, reply: &[u8]) {
        debug_assert!(number > self.next);
        let at = (number - self.next - 1) as usize;
        if self.early.len() <= at {
            self.early.resize(at + 1, None);
        }
        self.early[at] = Some(reply.into());
    }

    /// Takes `out`, which is to be sent next, if it may wait; else puts what was corked in front of it.
    pub fn cork(&mut self, out: &mut Vec<u8>) -> bool {
        let is_whole = self.next >= self.end;
        if !is_whole && self.corked.len() + out.len() <= odd::or(Size::Corked, CORKED_BYTES_MAX) {
            self.corked.append(out);
            return true;
        }
        if planted::is(Bug::BurstLost) {
            self.corked.clear();
        }
        if !self.corked.is_empty() {
            out.splice(..0, self.corked.drain(..));
            self.corked.shrink_to(KEPT_BYTES_MAX);
        }
        false
    }

    /// Those that are corked.
    pub fn uncork(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.corked)
    }
}

/// The clients whose replies are corked, and since when, about.
#[derive(Debug, Default)]
pub struct Corks {
    /// Since the last look.
    fresh: Vec<ConnId>,
    /// Since before.
    old: Vec<ConnId>,
}

impl Corks {
    /// Adds a client; whether somebody must look in [`CORK`], because nobody is about to.
    pub fn add(&mut self, conn: ConnId) -> bool {
        let is_first = self.fresh.is_empty() && self.old.is_empty();
        self.fresh.push(conn);
        is_first
    }

    /// It is time to look: those whose replies have been corked long enough, and whether to look again in [`CORK`].
    pub fn look(&mut self) -> (Vec<ConnId>, bool) {
        let fresh = std::mem::take(&mut self.fresh);
        let over = std::mem::replace(&mut self.old, fresh);
        (over, !self.old.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(replies: &mut Replies, count: usize) {
        for _ in 0..count {
            replies.take();
        }
    }

    /// Answers number by number; what is sent for each.
    fn sent(replies: &mut Replies, numbers: &[u64]) -> Vec<String> {
        let mut all = Vec::new();
        for &number in numbers {
            let reply = [b'0' + number as u8];
            let mut out = Vec::new();
            if replies.is_next(number) {
                out.extend_from_slice(&reply);
                replies.go_on(&mut out);
                replies.cork(&mut out);
            } else {
                replies.keep(number, &reply);
            }
            all.push(String::from_utf8(out).unwrap());
        }
        all
    }

    #[test]
    fn replies_are_sent_in_the_order_of_their_commands() {
        let mut replies = Replies::default();
        take(&mut replies, 5);
        let sent = sent(&mut replies, &[2, 1, 4, 0, 3]);
        assert_eq!(sent.concat(), "01234");
    }

    #[test]
    fn a_burst_is_sent_whole_and_the_next_does_not_delay_it() {
        let mut replies = Replies::default();
        take(&mut replies, 3);
        assert_eq!(sent(&mut replies, &[0, 2]), ["", ""]);
        take(&mut replies, 2);
        assert_eq!(sent(&mut replies, &[1, 3, 4]), ["012", "", "34"]);
    }

    #[test]
    fn what_is_much_or_has_waited_is_sent() {
        let mut replies = Replies::default();
        take(&mut replies, 3);
        assert_eq!(sent(&mut replies, &[0]), [""]);
        assert_eq!(replies.uncork(), b"0");
        let mut out = vec![b'x'; CORKED_BYTES_MAX];
        replies.go_on(&mut out);
        assert!(replies.cork(&mut out));
        out.push(b'y');
        replies.go_on(&mut out);
        assert!(!replies.cork(&mut out));
        assert_eq!(out.len(), CORKED_BYTES_MAX + 1);
    }

    #[test]
    fn nobody_waits_longer_than_twice_the_time() {
        let mut corks = Corks::default();
        let conn = ConnId::NONE;
        assert!(corks.add(conn) && !corks.add(conn));
        assert_eq!(corks.look(), (vec![], true));
        assert!(!corks.add(conn));
        assert_eq!(corks.look(), (vec![conn, conn], true));
        assert_eq!(corks.look(), (vec![conn], false));
        assert!(corks.add(conn));
    }
}
