//! Which segments of the log hold which entries, so that those can go of which every entry is in a snapshot.

use std::collections::{BTreeMap, VecDeque};

use crate::planted::{self, Bug};

/// Which segments hold which entries.
#[derive(Debug, Default)]
pub struct Segments {
    last: VecDeque<(u64, BTreeMap<u16, u64>)>,
}

impl Segments {
    /// A segment holds entries of these shards up to these indices.
    pub fn note(&mut self, segment: u64, marks: &[(u16, u64)]) {
        if self.last.back().is_none_or(|(number, _)| *number < segment) {
            self.last.push_back((segment, BTreeMap::new()));
        }
        let Some((_, of_shard)) = self.last.back_mut() else {
            return;
        };
        for &(shard, index) in marks {
            let last = of_shard.entry(shard).or_default();
            *last = index.max(*last);
        }
    }

    /// The first segment that is still needed when `saved` says up to which index a shard is in a snapshot.
    pub fn needed_from(&mut self, saved: impl Fn(u16) -> u64) -> u64 {
        while self.last.len() > 1 {
            let (_, of_shard) = &self.last[0];
            let is_needed = of_shard.iter().any(|(&shard, &index)| index > saved(shard));
            if is_needed && !planted::is(Bug::SegmentsTooEarly) {
                break;
            }
            self.last.pop_front();
        }
        self.last.front().map_or(0, |(number, _)| *number)
    }

    /// Nothing of a shard needs to be kept.
    pub fn forget(&mut self, shard: u16) {
        for (_, of_shard) in &mut self.last {
            of_shard.remove(&shard);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.last.len()
    }
}
