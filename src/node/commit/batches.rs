//! The writes under way: those that gather, and those whose entries are in the logs.
//!
//! ```text
//!   lane ── items ──▶ batch ── waits in each shard that has an entry of it ──▶ all of those committed: concluded
//! ```
//!
//! All items of a node that is alone are in one lane, and so in one batch over all shards: their entries are in one
//! record, and commit together. In a cluster each shard has its lane: it may commit late, or never.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

use crate::cluster::map::META;
use crate::planted::{self, Bug};
use crate::reactor::timer::Nanos;
use crate::ring;

use super::{EARLY, Item, Work};

/// Syncs that take less are not worth holding a batch for: the kernel's wait is no more exact than a millisecond.
const SLOW_SYNC_NANOS: Nanos = 2_000_000;
/// So often a batch is not held after one for which few had come.
const UNHELD_MAX: u8 = 15;
/// A batch is not held longer than this, however long the last job for the log took.
const HOLD_NANOS_MAX: Nanos = 10_000_000;
/// Emptied lists of items that are kept for their capacity.
const SPARES_MAX: usize = 32;

/// Open batches that are held, for those who were just answered.
struct Hold {
    until: Nanos,
    /// Items in them when it began.
    before: usize,
    /// How many more may come.
    expected: usize,
}

/// Items whose entries are in the logs.
struct Batch {
    items: Vec<Item>,
    /// How many of them were there when its entries were proposed.
    proposed: usize,
    /// How many of its entries are not committed.
    left: usize,
    /// Indices of the shards that have one.
    shards: Vec<usize>,
}

/// An entry of a batch.
#[derive(Debug, Clone, Copy)]
struct Entry {
    index: u64,
    term: u64,
    batch: usize,
    /// Which batch it is, counted.
    serial: u64,
    is_committed: bool,
}

/// What there is to do with a committed entry of a shard.
pub(super) enum Committed {
    /// Nobody waits for it.
    Unawaited,
    /// The batch has to wait for its other entries.
    Later,
    /// It was the last of its batch; how many of the items were there when it was proposed.
    Concluded(Vec<Item>, usize),
    /// The log went on in a later term without the entry of a batch: the batch was not done.
    Lost(Vec<Item>),
}

/// The writes under way.
#[derive(Default)]
pub struct Commits {
    /// Why the open batches are not handed over yet.
    hold: Option<Hold>,
    /// How many batches are not held from now on.
    unheld: u8,
    /// Whether each shard has its lane.
    is_split: bool,
    lanes: Vec<Vec<Item>>,
    /// Lanes with something in them.
    busy: Vec<usize>,
    /// Items in them.
    open: usize,
    batches: Slab<Batch>,
    /// Items in those.
    underway: usize,
    /// Batches with items that are to be answered early, in order.
    early: VecDeque<usize>,
    /// Batches so far.
    serial: u64,
    /// By shard: its entries that belong to batches.
    entries: Vec<VecDeque<Entry>>,
    /// Changes under way, by slot of their key.
    pending: Vec<u32>,
    /// FLUSHALLs under way, which concern every slot.
    flushing: u32,
    spares: Vec<Vec<Item>>,
    /// By shard: reads that wait until this node knows that it leads the shard.
    stalled: BTreeMap<usize, Vec<Item>>,
}

impl Commits {
    /// Nothing under way, for so many shards.
    pub fn new(shards: usize) -> Commits {
        let mut commits = Commits {
            pending: vec![0; ring::SLOTS.into()],
            ..Commits::default()
        };
        commits.set_shards(shards);
        commits
    }

    /// Nothing is under way yet, and there are so many shards.
    pub fn set_shards(&mut self, shards: usize) {
        assert!(self.is_empty(), "nothing is under way");
        let lanes = if self.is_split { shards } else { 1 };
        self.lanes = (0..lanes).map(|_| Vec::new()).collect();
        self.entries = (0..shards).map(|_| VecDeque::new()).collect();
    }

    /// Gives each shard its lane. Nothing may be under way.
    pub fn split(&mut self) {
        self.is_split = true;
        self.set_shards(self.entries.len());
    }

    /// Whether each shard has its lane.
    pub fn is_split(&self) -> bool {
        self.is_split
    }

    /// Adds an item to the open batch of its lane.
    pub fn push(&mut self, item: Item) {
        match &item.work {
            Work::Change { slot } => self.pend(*slot),
            Work::Changes(changes) => changes.slots.iter().for_each(|&slot| self.pend(slot)),
            Work::Flush | Work::FlushShard(_) => self.flushing += 1,
            Work::Run(_) | Work::Exec(_) | Work::Map => {}
        }
        let lane = self.lane_of(item.shard);
        self.put(lane, item);
    }

    fn lane_of(&self, shard: u16) -> usize {
        match shard {
            _ if !self.is_split => 0,
            META => self.lanes.len() - 1,
            shard => shard.into(),
        }
    }

    fn put(&mut self, lane: usize, item: Item) {
        if self.lanes[lane].is_empty() {
            self.busy.push(lane);
        }
        self.lanes[lane].push(item);
        self.open += 1;
    }

    /// Lanes with something in them, each once.
    pub(super) fn take_busy(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.busy)
    }

    /// What has gathered in a lane.
    pub(super) fn take_lane(&mut self, lane: usize) -> Vec<Item> {
        let spare = self.spares.pop().unwrap_or_default();
        let items = std::mem::replace(&mut self.lanes[lane], spare);
        self.open -= items.len();
        items
    }

    /// Items of entries that were proposed now: shard, index and term of each. Reads that wait go with them, in front.
    pub(super) fn begin(&mut self, mut items: Vec<Item>, at: &[(usize, u64, u64)]) {
        self.underway += items.len();
        if let &[(shard, ..)] = at
            && let Some(reads) = self.stalled.remove(&shard)
        {
            items.splice(0..0, reads);
        }
        self.serial += 1;
        let serial = self.serial;
        let is_early = items.iter().any(|item| item.flags & EARLY != 0);
        let batch = self.batches.insert(Batch {
            proposed: items.len(),
            items,
            left: at.len(),
            shards: at.iter().map(|&(shard, ..)| shard).collect(),
        });
        if is_early {
            self.early.push_back(batch);
        }
        for &(shard, index, term) in at {
            self.entries[shard].push_back(Entry {
                index,
                term,
                batch,
                serial,
                is_committed: false,
            });
        }
    }

    /// Items of batches, all of whose entries are kept here, some of which are to be answered early.
    pub(super) fn take_early(
        &mut self,
        is_kept: impl Fn(usize, u64) -> bool,
    ) -> Vec<(usize, Vec<Item>)> {
        let Commits {
            early,
            batches,
            entries,
            ..
        } = self;
        let mut taken = Vec::new();
        early.retain(|&batch| {
            let waits = batches[batch].shards.iter().any(|&shard| {
                let mut own = entries[shard].iter().filter(|entry| entry.batch == batch);
                own.any(|entry| !is_kept(shard, entry.index))
            });
            if !waits {
                taken.push((batch, std::mem::take(&mut batches[batch].items)));
            }
            waits
        });
        taken
    }

    /// Gives a batch its items back.
    pub(super) fn put_back(&mut self, batch: usize, items: Vec<Item>) {
        self.batches[batch].items = items;
    }

    /// Adds items that change nothing to the last batch of the lane, if it has one under way; else gives them back.
    pub(super) fn join(&mut self, lane: usize, items: Vec<Item>) -> Result<(), Vec<Item>> {
        let entries = match self.is_split {
            true => &self.entries[lane..=lane],
            false => &self.entries[..],
        };
        let last = entries.iter().filter_map(VecDeque::back);
        let Some(last) = last.max_by_key(|entry| entry.serial) else {
            return Err(items);
        };
        self.underway += items.len();
        self.batches[last.batch].items.extend(items);
        Ok(())
    }

    /// What the next committed entry of a shard means for the batches. Neither terms nor indices go back in a log: so
    /// what was proposed in an earlier term and is not in it up to here never will be, wherever it stood, and whatever
    /// this node has proposed since, leading again.
    pub(super) fn committed(&mut self, shard: usize, index: u64, term: u64) -> Committed {
        let Some(entry) = self.entries[shard].front_mut() else {
            return Committed::Unawaited;
        };
        let batch = entry.batch;
        let proposed_in = if planted::is(Bug::TermIgnored) {
            term
        } else {
            entry.term
        };
        match (proposed_in, entry.index).cmp(&(term, index)) {
            Ordering::Greater => return Committed::Unawaited,
            Ordering::Less => return Committed::Lost(self.end(batch)),
            Ordering::Equal => {}
        }
        if !std::mem::replace(&mut entry.is_committed, true) {
            self.batches[batch].left -= 1;
        }
        match self.batches[batch].left {
            0 => {
                let proposed = self.batches[batch].proposed;
                Committed::Concluded(self.end(batch), proposed)
            }
            _ => Committed::Later,
        }
    }

    /// Takes a batch away.
    fn end(&mut self, batch: usize) -> Vec<Item> {
        let Batch { items, shards, .. } = self.batches.remove(batch);
        for shard in shards {
            self.entries[shard].retain(|entry| entry.batch != batch);
        }
        self.underway -= items.len();
        self.early.retain(|&early| early != batch);
        items
    }

    /// Takes all batches of a shard away, whose outcome nobody can tell.
    pub(super) fn end_all(&mut self, shard: usize) -> Vec<Item> {
        let mut items = Vec::new();
        while let Some(entry) = self.entries[shard].front() {
            let batch = entry.batch;
            items.extend(self.end(batch));
        }
        items
    }

    /// Lets reads of a shard wait until this node knows that it leads it, or until the next batch of the shard is
    /// committed, which was or will be proposed behind them: then they stand in the log in front of it.
    pub(super) fn stall(&mut self, shard: usize, reads: Vec<Item>) {
        if reads.is_empty() {
            return;
        }
        self.underway += reads.len();
        let next = self.entries[shard].front().map(|entry| entry.batch);
        match next.and_then(|batch| self.batches.get_mut(batch)) {
            Some(batch) => {
                batch.proposed += reads.len();
                batch.items.splice(0..0, reads);
            }
            None => self.stalled.entry(shard).or_default().extend(reads),
        }
    }

    /// Whether reads of a shard wait so.
    pub fn is_stalled(&self, shard: usize) -> bool {
        self.stalled.contains_key(&shard)
    }

    /// Shards with reads that wait so.
    pub(super) fn stalled(&self) -> Vec<usize> {
        self.stalled.keys().copied().collect()
    }

    /// The reads of a shard that wait so.
    pub(super) fn take_stalled(&mut self, shard: usize) -> Vec<Item> {
        let reads = self.stalled.remove(&shard).unwrap_or_default();
        self.underway -= reads.len();
        reads
    }

    /// Whether the shard has entries under way that somebody waits for.
    pub fn is_awaited(&self, shard: usize) -> bool {
        !self.entries[shard].is_empty()
    }

    /// Whether nothing that concerns the shard gathers or is under way.
    pub fn is_shard_idle(&self, shard: u16) -> bool {
        let index = match shard {
            META => self.entries.len() - 1,
            shard => shard.into(),
        };
        self.entries[index].is_empty()
            && self.lanes[self.lane_of(shard)].is_empty()
            && !self.is_stalled(index)
    }

    /// Whether the open batches are to be held, `landed` items having been made durable by a sync that took so long;
    /// and until when.
    pub(super) fn hold(&mut self, landed: usize, now: Nanos, sync_ns: Nanos) -> Option<Nanos> {
        if sync_ns < SLOW_SYNC_NANOS {
            return None;
        }
        if self.unheld > 0 {
            self.unheld -= 1;
            return None;
        }
        let until = now + (sync_ns / 4).min(HOLD_NANOS_MAX);
        self.hold = Some(Hold {
            until,
            before: self.open,
            expected: landed,
        });
        Some(until)
    }

    /// Whether the open batches are held still.
    pub(super) fn is_held(&mut self, now: Nanos) -> bool {
        let Some(hold) = &self.hold else { return false };
        let came = self.open.saturating_sub(hold.before);
        let is_held = came < hold.expected && now < hold.until;
        if !is_held {
            self.unheld = if came < hold.expected / 4 {
                UNHELD_MAX
            } else {
                0
            };
            self.hold = None;
        }
        is_held
    }

    /// Keeps an emptied list for its capacity.
    pub(super) fn recycle(&mut self, items: Vec<Item>) {
        if self.spares.len() < SPARES_MAX {
            self.spares.push(items);
        }
    }

    fn pend(&mut self, slot: u16) {
        self.pending[usize::from(slot)] += 1;
    }

    /// A change in this slot is not under way any more.
    pub(super) fn settle(&mut self, slot: u16) {
        self.pending[usize::from(slot)] -= 1;
    }

    /// A FLUSHALL is not under way any more.
    pub(super) fn settle_flush(&mut self) {
        self.flushing -= 1;
    }

    /// Whether no change under way concerns this slot.
    pub fn is_idle(&self, slot: u16) -> bool {
        self.flushing == 0 && self.pending[usize::from(slot)] == 0
    }

    /// Whether something gathers.
    pub(super) fn has_open(&self) -> bool {
        self.open > 0
    }

    /// Items whose entries are under way.
    pub(super) fn underway(&self) -> usize {
        self.underway
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.open == 0 && self.batches.is_empty() && self.stalled.is_empty()
    }

    /// Commands under way.
    pub fn len(&self) -> usize {
        self.open + self.underway
    }
}
