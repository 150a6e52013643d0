//! Odd sizes: legal ones that nobody would choose, so that what is rare with the usual ones happens all the time
//! ("buggify"; Zhou and others, "FoundationDB", SIGMOD 2021).
//!
//! ```text
//!   simulation:  set(Size::LogKept, Some(700)) ─▶ runs a cluster ─▶ clear()
//!   code:        let most = odd::or(Size::LogKept, KEPT_BYTES_MAX);
//! ```
//!
//! A log keeps 16 MiB for followers that were away: in a short run nobody ever needs a snapshot, and whatever is wrong
//! about snapshots beside a log that goes on is never seen. With 700 bytes kept everybody who blinks needs one. Such
//! constants are named here, each a [`Size`] that is right at any value from 1 on.
//!
//! What is set is the thread's own: a simulated cluster is one thread. Without debug assertions, as in a release,
//! [`or`] is its second argument.
//!
//! Deliberately absent: what an operator may want to choose (that is an option), and what nodes must agree on.

#[cfg(debug_assertions)]
use std::cell::Cell;

/// A size that may be odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Bytes of applied entries that a log keeps for followers.
    LogKept,
    /// Bytes of one message between replicas.
    Message,
    /// Messages with entries that a follower has not acknowledged.
    Unacknowledged,
    /// Bytes of committed entries that raft hands out at once.
    Committed,
    /// Entries of a store that go into an image in one turn.
    ImageSlice,
    /// Bytes of a block of an image.
    ImageBlock,
    /// Blocks of a snapshot that its receiver has not taken.
    BlocksAhead,
    /// Commands of one client that are under way.
    Awaiting,
    /// Bytes of replies that wait for the rest of their burst.
    Corked,
    /// Bytes of replies behind which a batch is handed over.
    BatchReply,
    /// Rounds of housekeeping from one look for keys past their time to the next.
    SweepRounds,
}

impl Size {
    /// All of them, in the order of their declaration.
    pub const ALL: [Size; 11] = [
        Size::LogKept,
        Size::Message,
        Size::Unacknowledged,
        Size::Committed,
        Size::ImageSlice,
        Size::ImageBlock,
        Size::BlocksAhead,
        Size::Awaiting,
        Size::Corked,
        Size::BatchReply,
        Size::SweepRounds,
    ];
}

/// The usual size: nothing is odd in this program.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn or(_: Size, usual: usize) -> usize {
    usual
}

#[cfg(debug_assertions)]
thread_local! {
    /// By size; 0: as usual.
    static ODD: [Cell<usize>; Size::ALL.len()] = const { [const { Cell::new(0) }; Size::ALL.len()] };
}

/// What was set on this thread, or the usual size.
#[cfg(debug_assertions)]
#[inline]
pub fn or(size: Size, usual: usize) -> usize {
    match ODD.with(|all| all[size as usize].get()) {
        0 => usual,
        odd => odd,
    }
}

/// Sets a size on this thread; `None`: it is as usual again.
#[cfg(debug_assertions)]
pub fn set(size: Size, odd: Option<usize>) {
    ODD.with(|all| all[size as usize].set(odd.unwrap_or(0)));
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what is odd is a thread's own")]
    fn a_size_is_odd_on_one_thread_until_it_is_usual_again() {
        for (at, size) in Size::ALL.into_iter().enumerate() {
            assert_eq!(size as usize, at);
            set(size, Some(3));
            assert_eq!(
                (
                    or(size, 500),
                    or(Size::ALL[(at + 1) % Size::ALL.len()], 500)
                ),
                (3, 500)
            );
            let elsewhere = std::thread::spawn(move || or(size, 500)).join();
            assert_eq!(elsewhere.expect("it asks and ends"), 500);
            set(size, None);
            assert_eq!(or(size, 500), 500);
        }
    }
}
