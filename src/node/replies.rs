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

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub struct Replies {
    taken: u64,
    next: u64,
    early: BTreeMap<u64, Box<[u8]>>,
}

impl Replies {
    /// The number of a command that will be answered later.
    pub fn take(&mut self) -> u64 {
        self.taken += 1;
        self.taken - 1
    }

    /// Whether the reply of this number is the next to be sent.
    pub fn is_next(&self, number: u64) -> bool {
        self.next == number
    }

    /// The next reply has been written to the end of `out`: those that waited for it follow.
    pub fn go_on(&mut self, out: &mut Vec<u8>) {
        self.next += 1;
        while let Some(reply) = self.early.remove(&self.next) {
            out.extend_from_slice(&reply);
            self.next += 1;
        }
    }

    /// Whether the next reply is there already: then [`go_on`](Self::go_on) has something to append.
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Keeps a reply whose turn has not come.
    pub fn keep(&mut self, number: u64, reply: &[u8]) {
        debug_assert!(number > self.next);
        self.early.insert(number, reply.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_sent_in_the_order_of_their_commands() {
        let mut replies = Replies::default();
        let numbers: Vec<u64> = (0..5).map(|_| replies.take()).collect();
        let mut out = Vec::new();
        for &number in &[2, 1, 4, 0, 3] {
            let number = numbers[number];
            let reply = [b'0' + number as u8];
            if replies.is_next(number) {
                out.extend_from_slice(&reply);
                replies.go_on(&mut out);
            } else {
                replies.keep(number, &reply);
            }
        }
        assert_eq!(out, b"01234");
        assert!(!replies.has_early());
    }
}
