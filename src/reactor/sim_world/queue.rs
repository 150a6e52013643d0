//! What will happen, in order of time and, at the same time, of scheduling.
//!
//! The heap holds small keys, and the events lie beside it: moving keys about is most of what a queue does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;

use super::Event;
use crate::reactor::timer::Nanos;

/// When an event is due, its number in the order of scheduling, and where it lies.
type Key = Reverse<(Nanos, u64, usize)>;

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    keys: BinaryHeap<Key>,
    events: Slab<Event>,
    next: u64,
}

impl Queue {
    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.keys.peek().map(|Reverse((at, ..))| *at)
    }

    /// Schedules an event behind all others of its time.
    pub(super) fn push(&mut self, at: Nanos, event: Event) {
        let place = self.events.insert(event);
        self.keys.push(Reverse((at, self.next, place)));
        self.next += 1;
    }

    /// Takes the next event, if it is due by `now`.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, _, place)) = self.keys.pop()?;
        Some(self.events.remove(place))
    }

    /// The first of those that `is_it` is true for.
    pub(super) fn first(&self, is_it: impl Fn(&Event) -> bool) -> Option<&Event> {
        let keys = self.keys.iter().map(|Reverse(key)| *key);
        let those = keys.filter(|(_, _, place)| is_it(&self.events[*place]));
        those.min().map(|(_, _, place)| &self.events[place])
    }
}
