//! Until when a leader may answer reads from its own store, although somebody else may be elected meanwhile.
//!
//! ```text
//!   round begun ──heartbeats──▶ answered by a majority ──▶ lease until: begun + what voters promise
//! ```
//!
//! A voter that has heard from the leader votes for nobody for an election timeout (raft's check-quorum); one that has
//! just started votes for nobody for as long either ([`Group`](super::group)). So nobody else can be elected before the
//! first voter of the majority that answered is free again, and it was not free before the round *began*. Voters count
//! ticks, each of which takes a tick at least; the first may be half over when the heartbeat arrives, and clocks drift:
//! both are taken off.
//!
//! Raft's own lease reads are not used: they trust the check-quorum window, which is up to two election timeouts long.
//!
//! Source: Ongaro's thesis, 6.4.1; the pitfalls 4 and 5 of our research.

use super::{ELECTION_TICKS, TICK_NANOS};
use crate::planted::{self, Bug};

/// How long the promise of a voter is good for: a tick less than an election timeout, less 5 % for clocks.
const PROMISE_NANOS: u64 = (ELECTION_TICKS as u64 - 1) * TICK_NANOS / 100 * 95;
/// A lease that ends sooner is renewed.
const RENEWAL_NANOS: u64 = PROMISE_NANOS / 2;
/// A round that was not answered for so long was lost: raft drops them silently.
const ROUND_NANOS_MAX: u64 = 2 * TICK_NANOS;

/// See the module. Times are nanoseconds of the node's clock.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The round under way: its number, and when it began.
    round: Option<(u64, u64)>,
    rounds: u64,
    until: u64,
}

impl Lease {
    /// Whether reads may be answered now. The value must have been read before.
    pub(super) fn is_valid(&self, now: u64) -> bool {
        now < self.until
    }

    /// The context of a round to begin now, if one is needed.
    pub(super) fn begin(&mut self, now: u64) -> Option<Vec<u8>> {
        let is_waiting =
            (self.round).is_some_and(|(_, began)| now.saturating_sub(began) < ROUND_NANOS_MAX);
        if is_waiting || self.until > now.saturating_add(RENEWAL_NANOS) {
            return None;
        }
        self.rounds += 1;
        self.round = Some((self.rounds, now));
        Some(self.rounds.to_le_bytes().to_vec())
    }

    /// A majority has answered the round of this context.
    pub(super) fn confirm(&mut self, context: &[u8]) {
        if let Some((round, began)) = self.round
            && round.to_le_bytes() == context
        {
            let times = if planted::is(Bug::LongLease) { 3 } else { 1 };
            self.until = self.until.max(began + times * PROMISE_NANOS);
            self.round = None;
        }
    }

    /// What was promised is not to be relied on any more: another term, another role, a transfer.
    pub(super) fn end(&mut self) {
        (self.round, self.until) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_beginning_of_its_round() {
        let mut lease = Lease::default();
        assert!(!lease.is_valid(0));
        let context = lease.begin(1_000).expect("there is no lease");
        assert_eq!(lease.begin(2_000), None, "a round is under way");
        lease.confirm(b"another");
        assert!(!lease.is_valid(3_000));
        lease.confirm(&context);
        assert!(lease.is_valid(999 + PROMISE_NANOS));
        assert!(!lease.is_valid(1_000 + PROMISE_NANOS));
        assert_eq!(lease.begin(3_000), None, "it is fresh");
        assert!(lease.begin(2_000 + RENEWAL_NANOS).is_some());
        lease.end();
        assert!(!lease.is_valid(3_000));
    }

    #[test]
    fn a_round_that_got_lost_is_begun_anew_and_its_answer_is_stale() {
        let mut lease = Lease::default();
        let lost = lease.begin(0).expect("there is no lease");
        let second = lease.begin(ROUND_NANOS_MAX).expect("the first got lost");
        lease.confirm(&lost);
        assert!(!lease.is_valid(1));
        lease.confirm(&second);
        assert!(lease.is_valid(PROMISE_NANOS));
    }
}
