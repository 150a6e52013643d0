//! Time: the clock's type, and a heap of what is due.
//!
//! Order is (deadline, order of arming), so equal deadlines fire first in, first out, in production as in tests. A
//! timer armed by a timer waits for the next turn, even at a delay of zero. Cancelling drops the closure at once and
//! leaves a dead heap entry, which is swept when the dead outnumber the living.
//!
//! A connection's deadlines (idle, connect, flush, linger) are not timers of their own: the slot stores when it is due
//! and one heap entry per connection comes round to look. Re-arming on a read is thus one store.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use slab::Slab;

use super::app::{App, Cx};
use super::id::{ConnId, ConnectorId, PortId};

/// Nanoseconds of a monotonic clock. Only differences mean anything.
pub type Nanos = u64;

/// No deadline.
pub(super) const NEVER: Nanos = u64::MAX;

/// Dead entries below this number are not worth a sweep.
const SWEEP_MIN: usize = 64;

/// A pending call ([`Net::call_later`](super::net::Net::call_later)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    index: usize,
    seq: u64,
}

/// A call that a timer makes.
pub(super) type Call<A> = Box<dyn FnOnce(&mut Cx<'_, A>)>;

/// What an entry of the heap is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Call(usize),
    Conn(ConnId),
    Redial(ConnectorId),
    Accept(PortId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: Nanos,
    pub(super) seq: u64,
    pub(super) due: Due,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All timers of a reactor.
pub(super) struct Timers<A: App> {
    heap: BinaryHeap<Entry>,
    calls: Slab<(u64, Call<A>)>,
    next_seq: u64,
    dead: usize,
}

impl<A: App> Timers<A> {
    pub(super) fn new() -> Self {
        Timers {
            heap: BinaryHeap::new(),
            calls: Slab::new(),
            next_seq: 0,
            dead: 0,
        }
    }

    /// Arms `due` for `at`; its place in the order.
    pub(super) fn arm(&mut self, at: Nanos, due: Due) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.heap.push(Entry { at, seq, due });
        seq
    }

    /// Arms a call for `at`.
    pub(super) fn call(&mut self, at: Nanos, call: Call<A>) -> TimerId {
        let index = self.calls.vacant_key();
        let seq = self.arm(at, Due::Call(index));
        self.calls.insert((seq, call));
        TimerId { index, seq }
    }

    /// Drops a pending call; false when it was made or dropped before.
    pub(super) fn cancel(&mut self, id: TimerId) -> bool {
        let pending = self
            .calls
            .get(id.index)
            .is_some_and(|call| call.0 == id.seq);
        if pending {
            drop(self.calls.remove(id.index));
            self.dead += 1;
        }
        pending
    }

    /// The call of an entry that fell due, unless it was cancelled.
    pub(super) fn take_call(&mut self, index: usize, seq: u64) -> Option<Call<A>> {
        if self.calls.get(index).is_some_and(|call| call.0 == seq) {
            return Some(self.calls.remove(index).1);
        }
        self.dead = self.dead.saturating_sub(1);
        None
    }

    /// How many calls wait for their time.
    pub(super) fn pending(&self) -> usize {
        self.calls.len()
    }

    /// When the next entry is due.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// Where the order stands: entries armed from now on are not below it.
    pub(super) fn mark(&self) -> u64 {
        self.next_seq
    }

    /// Moves the entries due at `now` and armed before `mark` to `out`, in order.
    pub(super) fn take_due(&mut self, now: Nanos, mark: u64, out: &mut Vec<Entry>) {
        while self
            .heap
            .peek()
            .is_some_and(|entry| entry.at <= now && entry.seq < mark)
        {
            out.extend(self.heap.pop());
        }
    }

    /// An entry will find nothing to do (its connection is gone).
    pub(super) fn bury(&mut self) {
        self.dead += 1;
    }

    /// A dead entry came round.
    pub(super) fn unbury(&mut self) {
        self.dead = self.dead.saturating_sub(1);
    }

    /// Drops the dead entries when they are the majority. `alive` judges those that are not calls.
    pub(super) fn sweep(&mut self, alive: impl Fn(&Entry) -> bool) {
        if self.dead < SWEEP_MIN || self.dead * 2 < self.heap.len() {
            return;
        }
        let calls = &self.calls;
        self.heap.retain(|entry| match entry.due {
            Due::Call(index) => calls.get(index).is_some_and(|call| call.0 == entry.seq),
            _ => alive(entry),
        });
        self.dead = 0;
    }
}

/// `at` plus so many milliseconds.
pub(super) fn after_ms(at: Nanos, ms: u64) -> Nanos {
    at.saturating_add(ms.saturating_mul(1_000_000))
}

/// A duration in nanoseconds, saturating.
pub(super) fn nanos(duration: std::time::Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl App for Nothing {
        type Message = ();
    }

    #[test]
    fn equal_deadlines_come_in_the_order_of_arming_and_dead_entries_are_swept() {
        let mut timers = Timers::<Nothing>::new();
        let ids: Vec<TimerId> = (0..200)
            .map(|i| timers.call(5 + i / 100, Box::new(|_| ())))
            .collect();
        for id in &ids[..150] {
            assert!(timers.cancel(*id));
            assert!(!timers.cancel(*id));
        }
        timers.sweep(|_| false);
        assert_eq!(timers.heap.len(), 50);
        let mut due = Vec::new();
        timers.take_due(6, timers.mark(), &mut due);
        let seqs: Vec<u64> = due.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (150..200).collect::<Vec<u64>>());
    }

    #[test]
    fn an_entry_armed_after_the_mark_waits() {
        let mut timers = Timers::<Nothing>::new();
        timers.arm(1, Due::Call(0));
        let mark = timers.mark();
        timers.arm(1, Due::Call(1));
        let mut due = Vec::new();
        timers.take_due(1, mark, &mut due);
        assert_eq!(
            due.iter().map(|entry| entry.due).collect::<Vec<_>>(),
            [Due::Call(0)]
        );
        assert_eq!(timers.next_at(), Some(1));
    }
}
