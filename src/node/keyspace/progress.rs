//! How far the shards are: from what was proposed, over the record that all of them share, to what is committed.

use crate::shard::Turned;
use crate::shard::section::{self, HardState};

use super::{Keyspace, Touched};

impl Keyspace {
    /// Proposes to raft what has been proposed to a shard, stamped `at_ms`: shard, index and term of the entry, if
    /// there is one.
    pub fn close(&mut self, index: usize, at_ms: u64) -> Vec<(usize, u64, u64)> {
        let shard = &mut self.shards[index];
        if !shard.is_open() {
            return Vec::new();
        }
        self.open_bytes -= shard.open_bytes();
        self.open.retain(|&open| open != index);
        let at = shard.close(at_ms);
        self.mark(index);
        at.map(|(at, term)| (index, at, term)).into_iter().collect()
    }

    /// The same for all shards.
    pub fn close_all(&mut self, at_ms: u64) -> Vec<(usize, u64, u64)> {
        self.open_bytes = 0;
        let mut entries = Vec::with_capacity(self.open.len());
        let mut open = std::mem::take(&mut self.open);
        for index in open.drain(..) {
            let at = self.shards[index].close(at_ms);
            entries.extend(at.map(|(at, term)| (index, at, term)));
            self.mark(index);
        }
        self.open = open;
        entries
    }

    /// Raft may have something to say in a shard.
    pub fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.is_dirty[index], true) {
            self.dirty.push(index);
        }
    }

    /// Lets raft go on in the shards where it has something to say; what must be kept is appended to `record`, the one
    /// of this number. Whether there was anything.
    pub fn advance(&mut self, mut record: Option<&mut Vec<u8>>, number: u64) -> bool {
        let mut has_advanced = false;
        for index in std::mem::take(&mut self.dirty) {
            self.is_dirty[index] = false;
            let shard = &mut self.shards[index];
            if !shard.is_dirty() {
                continue;
            }
            has_advanced = true;
            let turned = shard.advance(record.as_deref_mut(), number);
            if turned != Turned::Silent {
                self.in_record.push(index);
                self.promised[index] = shard.hard_state();
            }
            self.has_voted |= turned == Turned::Voted;
            if let Turned::Replaced(up_to) = turned {
                let (number, before) = (shard.number(), shard.take_replaced());
                self.replaced.push((number, up_to));
                self.dropped.extend(before);
            }
            if shard.next_committed().is_some() {
                self.committed.push(index);
            }
            if shard.has_messages() {
                self.talking.push(index);
            }
        }
        has_advanced
    }

    /// The record goes to the disk: the last index of each shard that has entries in it.
    pub fn begin_flight(&mut self) -> Vec<(u16, u64)> {
        assert!(
            self.in_flight.is_empty(),
            "one record is under way at a time"
        );
        std::mem::swap(&mut self.in_record, &mut self.in_flight);
        self.in_flight.sort_unstable();
        self.in_flight.dedup();
        for &index in &self.in_flight {
            self.flown[index] = self.promised[index];
        }
        let mark = |&index: &usize| {
            let shard = &self.shards[index];
            (shard.number(), shard.last_index())
        };
        self.in_flight.iter().map(mark).collect()
    }

    /// The first record of the log goes to the disk, which holds the log of every shard: the last index of each.
    pub fn begin_flight_of_all(&mut self) -> Vec<(u16, u64)> {
        self.in_record = (0..self.shards.len()).collect();
        self.begin_flight()
    }

    /// Shards that a snapshot has taken the place of, since the last call, and up to which entry.
    pub fn take_replaced(&mut self) -> Vec<(u16, u64)> {
        std::mem::take(&mut self.replaced)
    }

    /// Whether there is a vote in the record that gathers, which is synced whatever `--sync` says; asked once.
    pub fn take_voted(&mut self) -> bool {
        std::mem::take(&mut self.has_voted)
    }

    /// What the replicas of groups have promised, as sections of a record that stands behind those that have gone to
    /// the disk, and before those that have not.
    pub fn promises(&self) -> Vec<u8> {
        let mut record = Vec::new();
        let all = self.shards.iter().zip(&self.flown);
        for (shard, &flown) in all.filter(|(shard, _)| !shard.is_alone()) {
            // What is committed may not be in the log yet.
            let state = HardState { commit: 0, ..flown };
            section::begin(&mut record, shard.number(), state, 0);
        }
        record
    }

    /// The records up to this one are durable.
    pub fn persisted(&mut self, number: u64) {
        let in_flight = std::mem::take(&mut self.in_flight);
        for &index in &in_flight {
            self.shards[index].persisted(number);
            if self.shards[index].has_messages() {
                self.talking.push(index);
            }
            self.mark(index);
        }
        self.in_flight = in_flight;
        self.in_flight.clear();
    }

    /// Shards with committed entries that are not applied, since the last call.
    pub fn take_committed(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.committed)
    }

    /// Index and term of the next entry of a shard that is committed and not applied.
    pub fn next_committed(&self, index: usize) -> Option<(u64, u64)> {
        self.shards[index].next_committed()
    }

    /// Applies the next committed entry of a shard, for which nobody waits.
    pub fn apply_entry(&mut self, index: usize, touched: &mut Touched) {
        let dropped = &mut self.dropped;
        let shard = &mut self.shards[index];
        // Only the leader tells of changes.
        let is_told = touched.recording && shard.is_leader();
        let recording = std::mem::replace(&mut touched.recording, is_told);
        shard.apply_entry(
            |key, effect| touched.add(key, effect),
            |all| dropped.push(all),
        );
        touched.recording = recording;
    }

    /// Everything committed in a shard has been applied.
    pub fn settle(&mut self, index: usize) {
        self.shards[index].settle();
    }

    /// Applies all that is committed, for nobody: a recovered log ends with such entries.
    pub fn apply_all(&mut self) {
        for index in self.take_committed() {
            while self.next_committed(index).is_some() {
                self.apply_entry(index, &mut Touched::default());
            }
            self.settle(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::HashSeed;

    #[test]
    fn a_node_that_is_alone_gathers_nothing_for_others() {
        let mut keyspace = Keyspace::new(4, HashSeed(1, 2));
        for number in 1..100 {
            keyspace.propose_flush();
            keyspace.close_all(number);
            let mut record = Vec::new();
            keyspace.advance(Some(&mut record), number);
            keyspace.begin_flight();
            keyspace.persisted(number);
            keyspace.advance(Some(&mut record), number + 1);
            keyspace.apply_all();
        }
        assert!(keyspace.talking.is_empty(), "nobody is there to be told");
    }
}
