//! All shards together: which shard a key is in, and what commands over several keys are made of.
//!
//! Every operation concerns one key and so one shard; a shard's log needs no other vocabulary. Writes are
//! proposed here, handed over with all others of a batch, and applied when they are durable; commands over
//! several keys that write are taken apart in [`propose`](super::propose), those that read here. The node is
//! single-threaded: between the first and the last operation of a command nobody looks.
//!
//! The rooms: [`progress`] (from proposals to what is committed), [`replicas`] (the shards among their peers).
//!
//! Scan cursors: `position << 14 | shard`, 0 being both the beginning and the end.

use crate::cluster::map::META;
pub mod progress;
pub mod replicas;

use std::ops::Range;

use crate::command::data::{BitOperator, Command, Counted, LcsAnswer, Many};
use crate::command::glob;
use crate::command::op::{Action, Effect, Event, Op};
use crate::ring;
use crate::shard::NOBODY;
use crate::shard::recovery::Recovery;
use crate::shard::section::{ENTRY_BYTES_MAX, HardState};
use crate::shard::{Applied, Shard};
use crate::store::{Dropped, Entry, HashSeed, KeyHash, Step};
use crate::wire::reply::{Dialect, Reply};

use super::lcs;

/// Keys that are looked at in one go.
const SCAN_KEYS: usize = 1_000;

/// Bits of a scan cursor that name the shard.
const CURSOR_SHARD_BITS: u32 = 14;

/// The shard that a scan cursor names.
pub fn cursor_shard(cursor: u64) -> u16 {
    (cursor & ((1 << CURSOR_SHARD_BITS) - 1)) as u16
}

const _: () = assert!(1 << CURSOR_SHARD_BITS == ring::SLOTS as u32);

/// What changed, for those who watch: filled only while somebody does.
#[derive(Debug, Default)]
pub struct Touched {
    /// Whether keys are to be recorded.
    pub recording: bool,
    /// Keys with what happened to them, in order.
    pub keys: Vec<(Box<[u8]>, Effect)>,
    /// Writes so far.
    pub writes: u64,
    /// Keys found to be past their time so far.
    pub expired: u64,
    /// Reads of a key so far.
    pub reads: u64,
    /// Those of them that found none.
    pub misses: u64,
}

impl Touched {
    fn add(&mut self, key: &[u8], effect: Effect) {
        if effect == Effect::default() {
            return;
        }
        self.writes += u64::from(effect.modified);
        self.expired += u64::from(effect.has(Event::Expired));
        self.misses += u64::from(effect.has(Event::KeyMiss));
        if self.recording {
            self.keys.push((key.into(), effect));
        }
    }
}

/// How much was proposed at some moment.
pub struct Proposed {
    /// Bytes in each shard to which something had been, in the order in which they came to it.
    of_shards: Vec<usize>,
    /// Bytes in all.
    pub bytes: usize,
}

/// Where a key will be looked for.
#[derive(Clone, Copy)]
pub struct Place {
    shard: usize,
    hash: KeyHash,
}

/// Every shard of this node. In a cluster some may be vacant: others have them.
pub struct Keyspace {
    /// Those of the keys, by number, and the meta shard.
    shards: Vec<Shard>,
    /// Those of the keys.
    count: usize,
    /// Shards with messages for their other replicas.
    talking: Vec<usize>,
    /// Shards that were asked for reads since the last tick.
    was_read: Vec<bool>,
    /// Shards to which something was proposed since the last batch.
    open: Vec<usize>,
    /// Bytes of all that was.
    open_bytes: usize,
    /// Shards in which raft may have something to say.
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    /// Shards with something in the record that gathers.
    in_record: Vec<usize>,
    /// Shards with something in the record on its way to the disk.
    in_flight: Vec<usize>,
    /// What each shard promises in the records up to the one that gathers.
    promised: Vec<HardState>,
    /// What it promises in those that have gone to the disk.
    flown: Vec<HardState>,
    /// A vote is in the record that gathers.
    has_voted: bool,
    /// Shards that a snapshot has taken the place of, and up to which entry.
    replaced: Vec<(u16, u64)>,
    /// Shards with entries to apply.
    committed: Vec<usize>,
    /// The shard that the next sweep begins with.
    sweep_next: usize,
    /// The shard that commands about all keys are restricted to.
    only: Option<usize>,
    /// What FLUSHALL left behind, to be dropped on another thread.
    dropped: Vec<Dropped>,
}

impl Keyspace {
    /// `shards` empty shards, all hashing with `seed`.
    pub fn new(shards: u16, seed: HashSeed) -> Self {
        Keyspace::of((0..shards).map(|number| Shard::new(number, seed)).collect())
    }

    /// `shards` shards of a cluster, and its meta shard, of which nothing is here yet.
    pub fn vacant(shards: u16, seed: HashSeed) -> Self {
        let vacant = |number| Recovery::joining(number, NOBODY, seed).finish();
        Keyspace::of((0..shards).chain([META]).map(vacant).collect())
    }

    /// These shards, in the order of their numbers; the meta shard may be the last.
    pub fn of(shards: Vec<Shard>) -> Self {
        let dirty: Vec<usize> = (0..shards.len()).collect();
        let promised: Vec<HardState> = shards.iter().map(Shard::hard_state).collect();
        let has_meta = shards.last().is_some_and(|shard| shard.number() == META);
        Keyspace {
            count: shards.len() - usize::from(has_meta),
            is_dirty: vec![true; shards.len()],
            talking: Vec::new(),
            was_read: vec![false; shards.len()],
            shards,
            open: Vec::new(),
            open_bytes: 0,
            dirty,
            in_record: Vec::new(),
            in_flight: Vec::new(),
            promised: promised.clone(),
            flown: promised,
            has_voted: false,
            replaced: Vec::new(),
            committed: Vec::new(),
            sweep_next: 0,
            only: None,
            dropped: Vec::new(),
        }
    }

    /// Runs a command that reads as of `at_ms` and writes exactly one reply. `random` is for RANDOMKEY.
    pub fn read(
        &mut self,
        command: &Command<'_>,
        at_ms: u64,
        random: impl FnOnce() -> u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        match command {
            Command::One(op) => self.one(op, at_ms, reply, touched),
            Command::Many(many) => self.many(many, at_ms, random, reply, touched),
        }
    }

    /// Where `key` will be looked for.
    pub fn place(&self, key: &[u8]) -> Place {
        let shard = self.index_of(key);
        let hash = self.shards[shard].store().hash(key);
        Place { shard, hash }
    }

    /// Has memory fetched that an operation on the key at `place` will need; see [`Store::prefetch`].
    ///
    /// [`Store::prefetch`]: crate::store::Store::prefetch
    pub fn prefetch(&self, place: Place, step: Step) {
        self.shards[place.shard].store().prefetch(place.hash, step);
    }

    /// Adds an operation to what the shard of its key's `slot` proposes with the next batch.
    pub fn propose(&mut self, slot: u16, op: &Op<'_>) {
        let index = self.index_of_slot(slot);
        self.propose_with(index, |shard| shard.propose(op));
    }

    fn propose_with(&mut self, index: usize, propose: impl FnOnce(&mut Shard)) {
        let shard = &mut self.shards[index];
        if !shard.is_open() {
            self.open.push(index);
        }
        let before = shard.open_bytes();
        propose(shard);
        self.open_bytes += shard.open_bytes() - before;
    }

    /// Bytes of all that was proposed since the last batch.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Bytes that a record of all that was proposed since the last batch has at most.
    pub fn record_bytes_max(&self) -> usize {
        self.open_bytes + self.open.len() * ENTRY_BYTES_MAX
    }

    /// Takes back all that was proposed since the last batch.
    pub fn take_back_all(&mut self) {
        self.take_back(&Proposed {
            of_shards: Vec::new(),
            bytes: 0,
        });
    }

    /// What was proposed so far, for [`take_back`](Self::take_back).
    pub fn proposed(&self) -> Proposed {
        let bytes = |&index: &usize| self.shards[index].open_bytes();
        Proposed {
            of_shards: self.open.iter().map(bytes).collect(),
            bytes: self.open_bytes,
        }
    }

    /// Takes back what was proposed since.
    pub fn take_back(&mut self, before: &Proposed) {
        for index in self.open.drain(before.of_shards.len()..) {
            self.shards[index].take_back(0);
        }
        for (&index, &bytes) in self.open.iter().zip(&before.of_shards) {
            self.shards[index].take_back(bytes);
        }
        self.open_bytes = before.bytes;
    }

    /// Takes back what was proposed to a shard since the last batch.
    pub fn take_back_of(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        self.open_bytes -= shard.open_bytes();
        shard.take_back(0);
        self.open.retain(|&open| open != index);
    }

    /// Proposes that every shard is emptied.
    pub fn propose_flush(&mut self) {
        for index in 0..self.count {
            self.propose_with(index, Shard::propose_flush);
        }
    }

    /// Proposes that a shard is emptied.
    pub fn propose_flush_of(&mut self, number: u16) {
        let index = self.index_of_number(number);
        self.propose_with(index, Shard::propose_flush);
    }

    /// Restricts commands about all keys to those of a shard, until they are not any more.
    pub fn restrict(&mut self, number: Option<u16>) {
        self.only = number.map(|number| self.index_of_number(number));
    }

    /// The shards that a command about all keys is about, by index.
    fn range(&self) -> Range<usize> {
        self.only.map_or(0..self.count, |index| index..index + 1)
    }

    /// Applies the next change in the shard of `slot`; whether it deleted a key.
    pub fn apply_next(&mut self, slot: u16, reply: &mut Reply<'_>, touched: &mut Touched) -> bool {
        let index = self.index_of_slot(slot);
        let applied = self.shards[index].apply_next(reply, |key, effect| touched.add(key, effect));
        matches!(applied, Some(Applied::One(effect)) if effect.has(Event::Del))
    }

    /// Applies the next change in every shard, or in this one: that it is emptied.
    pub fn apply_flush(&mut self, only: Option<u16>) {
        let range = match only {
            None => 0..self.count,
            Some(number) => {
                let index = self.index_of_number(number);
                index..index + 1
            }
        };
        for shard in &mut self.shards[range] {
            let mut unread = Vec::new();
            let mut reply = Reply::new(&mut unread, Dialect::Resp2);
            if let Some(Applied::Flushed(dropped)) = shard.apply_next(&mut reply, |_, _| {}) {
                self.dropped.push(*dropped);
            }
        }
    }

    /// The entry of `key`, unless there is none or it has expired. Is no access.
    pub fn lookup(&self, key: &[u8], at_ms: u64) -> Option<Entry<'_>> {
        self.shard(key).lookup(key, at_ms)
    }

    /// Whether reads from now on count as use of the keys; see [`Shard::set_touching`].
    pub fn set_touching(&mut self, touching: bool) {
        self.shards
            .iter_mut()
            .for_each(|shard| shard.set_touching(touching));
    }

    /// Whether `key` exists and has not expired.
    pub fn exists(&self, key: &[u8], at_ms: u64) -> bool {
        self.shard(key).lookup(key, at_ms).is_some()
    }

    /// Number of keys, those included that have expired and not been swept yet.
    pub fn len(&self) -> usize {
        self.len_in(0..self.count)
    }

    fn len_in(&self, range: Range<usize>) -> usize {
        let shards = self.shards[range].iter();
        shards.map(|shard| shard.store().len()).sum()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of keys with an expiry.
    pub fn expiring(&self) -> usize {
        self.data()
            .iter()
            .map(|shard| shard.store().expiring())
            .sum()
    }

    /// Bytes of memory held for keys and values, by our own account.
    pub fn memory_bytes(&self) -> usize {
        self.data()
            .iter()
            .map(|shard| shard.store().memory_bytes())
            .sum()
    }

    /// Up to `count` keys of a slot, as far as this node has them. Looks at all keys of the shard, be there none.
    pub fn keys_of_slot(&self, slot: u16, count: usize, at_ms: u64) -> Vec<Box<[u8]>> {
        let store = self.shards[self.index_of_slot(slot)].store();
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let mut cursor = 0;
        while found.len() < count {
            cursor = store.scan(cursor, SCAN_KEYS, at_ms, &mut |key| {
                if ring::slot(key) == slot && found.len() < count {
                    found.push(key.into());
                }
            });
            if cursor == 0 {
                break;
            }
        }
        found
    }

    /// Sum of the shards' log indices.
    pub fn index(&self) -> u64 {
        let indices = self.data().iter().map(|shard| shard.applied().index);
        indices.sum()
    }

    /// The shards of the keys, by number.
    fn data(&self) -> &[Shard] {
        &self.shards[..self.count]
    }

    /// How many shards the keys are cut into.
    pub fn count(&self) -> u16 {
        self.count as u16
    }

    /// All shards: those of the keys, by number, and the meta shard, if there is one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// A shard.
    pub fn shard_mut(&mut self, number: u16) -> &mut Shard {
        let index = self.index_of_number(number);
        &mut self.shards[index]
    }

    /// Adds what a store held until its image was made.
    pub fn add_dropped(&mut self, dropped: Option<Dropped>) {
        self.dropped.extend(dropped);
    }

    /// What FLUSHALL left behind since the last call.
    pub fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// Looks for keys past their time in the next shard; returns how many were removed.
    pub fn sweep(&mut self, at_ms: u64, tables_max: usize, touched: &mut Touched) -> usize {
        let next = (self.sweep_next + 1) % self.shards.len();
        let shard = &mut self.shards[std::mem::replace(&mut self.sweep_next, next)];
        let mut expired = Effect::default();
        expired.modified = true;
        expired.add(Event::Expired);
        // Only the leader tells: the others find the same keys past their time.
        let is_told = touched.recording && shard.is_leader();
        let recording = std::mem::replace(&mut touched.recording, is_told);
        let swept = shard.sweep(at_ms, tables_max, &mut |key| touched.add(key, expired));
        touched.recording = recording;
        swept
    }

    /// The shard that `key` is in.
    pub fn shard_of(&self, key: &[u8]) -> u16 {
        self.index_of(key) as u16
    }

    /// Where a shard stands among [`shards`](Self::shards).
    pub fn index_of_number(&self, number: u16) -> usize {
        match number {
            META => self.count,
            number => number.into(),
        }
    }

    /// A shard takes the place of the one of its number, with something in the record that gathers.
    pub fn replace(&mut self, number: u16, shard: Shard) {
        let index = self.index_of_number(number);
        self.promised[index] = shard.hard_state();
        self.shards[index] = shard;
        self.in_record.push(index);
        self.mark(index);
    }

    fn index_of_slot(&self, slot: u16) -> usize {
        ring::shard_of_slot(slot, self.count as u16).into()
    }

    fn index_of(&self, key: &[u8]) -> usize {
        self.index_of_slot(ring::slot(key))
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[self.index_of(key)]
    }

    fn one(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>, touched: &mut Touched) {
        let index = self.index_of(op.key);
        touched.reads += 1;
        let effect = self.shards[index].read(op, at_ms, reply);
        touched.add(op.key, effect);
    }

    fn many(
        &mut self,
        many: &Many<'_>,
        at_ms: u64,
        random: impl FnOnce() -> u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        match *many {
            Many::Get { keys } => {
                reply.array(keys.len());
                for key in keys.iter() {
                    self.one(
                        &Op {
                            key,
                            action: Action::Get,
                        },
                        at_ms,
                        reply,
                        touched,
                    );
                }
            }
            Many::Count { what, keys } => {
                let count = keys
                    .iter()
                    .filter(|key| self.find(what, key, at_ms, touched))
                    .count();
                reply.count(count);
            }
            Many::Lcs { keys, answer } => self.lcs(keys, answer, at_ms, reply),
            Many::Keys { pattern } => self.keys(pattern, at_ms, reply),
            Many::Scan {
                cursor,
                pattern,
                count,
                only_strings,
            } => {
                self.scan(cursor, pattern, count, only_strings, at_ms, reply);
            }
            Many::RandomKey => self.random_key(random(), at_ms, reply),
            Many::DbSize => reply.count(self.len_in(self.range())),
            Many::Set { .. }
            | Many::Rename { .. }
            | Many::Copy { .. }
            | Many::BitOp { .. }
            | Many::Flush => unreachable!("commands that write are proposed"),
        }
    }

    /// Runs an operation whose reply is of no interest.
    fn silently(&mut self, op: &Op<'_>, at_ms: u64, touched: &mut Touched) {
        let (mut unread, dialect) = (Vec::new(), Default::default());
        self.one(op, at_ms, &mut Reply::new(&mut unread, dialect), touched);
    }

    fn find(&mut self, what: Counted, key: &[u8], at_ms: u64, touched: &mut Touched) -> bool {
        let found = self.exists(key, at_ms);
        let action = match what {
            Counted::Touch => Action::Touch,
            Counted::Exists | Counted::Del => Action::Exists,
        };
        self.silently(&Op { key, action }, at_ms, touched);
        found
    }

    fn lcs(&self, keys: [&[u8]; 2], answer: LcsAnswer, at_ms: u64, reply: &mut Reply<'_>) {
        let [a, b] = keys.map(|key| {
            self.shard(key)
                .lookup(key, at_ms)
                .map_or(&[][..], |entry| entry.value)
        });
        let Some(common) = lcs::longest(a, b) else {
            return reply.error(
                "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
            );
        };
        match answer {
            LcsAnswer::Text => reply.bulk(&common.text),
            LcsAnswer::Length => reply.count(common.text.len()),
            LcsAnswer::Ranges { len_min, with_len } => {
                let long = |range: &&lcs::Match| range.len as u64 >= len_min;
                reply.map(2);
                reply.bulk(b"matches");
                reply.array(common.matches.iter().filter(long).count());
                for range in common.matches.iter().filter(long) {
                    reply.array(2 + usize::from(with_len));
                    for start in [range.a, range.b] {
                        reply.array(2);
                        reply.count(start);
                        reply.count(start + range.len - 1);
                    }
                    if with_len {
                        reply.count(range.len);
                    }
                }
                reply.bulk(b"len");
                reply.count(common.text.len());
            }
        }
    }

    fn keys(&self, pattern: &[u8], at_ms: u64, reply: &mut Reply<'_>) {
        let mut found: Vec<Box<[u8]>> = Vec::new();
        for shard in &self.shards[self.range()] {
            shard.store().for_each(at_ms, &mut |key, _| {
                if pattern == b"*" || glob::matches(pattern, key) {
                    found.push(key.into());
                }
            });
        }
        reply.array(found.len());
        found.iter().for_each(|key| reply.bulk(key));
    }

    fn scan(
        &self,
        cursor: u64,
        pattern: Option<&[u8]>,
        count: usize,
        only_strings: bool,
        at_ms: u64,
        reply: &mut Reply<'_>,
    ) {
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let mut seen = 0;
        let mut shard = usize::from(cursor_shard(cursor));
        // Another node's command is about the one shard; its next cursor names the shard behind that all the same.
        let end = self.only.map_or(self.count, |only| only + 1);
        let mut position = cursor >> CURSOR_SHARD_BITS;
        while shard < end && seen < count {
            position = self.shards[shard]
                .store()
                .scan(position, count - seen, at_ms, &mut |key| {
                    seen += 1;
                    if only_strings && pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
                        found.push(key.into());
                    }
                });
            shard += usize::from(position == 0);
        }
        let next = if shard >= self.count {
            0
        } else {
            position << CURSOR_SHARD_BITS | shard as u64
        };
        reply.array(2);
        reply.bulk(itoa::Buffer::new().format(next).as_bytes());
        reply.array(found.len());
        found.iter().for_each(|key| reply.bulk(key));
    }

    fn random_key(&self, random: u64, at_ms: u64, reply: &mut Reply<'_>) {
        let range = self.range();
        let total = self.len_in(range.clone()) as u64;
        let mut nth = if total == 0 { 0 } else { random % total };
        let first = self.shards[range.clone()]
            .iter()
            .position(|shard| {
                let len = shard.store().len() as u64;
                let here = nth < len;
                nth = nth.saturating_sub(len);
                here
            })
            .unwrap_or(0);
        // A shard may hold nothing but expired keys: then the next one that has something answers.
        let key = (0..range.len())
            .map(|step| (first + step) % range.len())
            .find_map(|shard| {
                self.shards[range.start + shard]
                    .store()
                    .random_key(random.rotate_left(17), at_ms)
            });
        reply.bulk_or_nil(key);
    }
}

/// The bytes of `values` combined, the shorter ones padded with zeros.
pub fn combine(operator: BitOperator, values: &[&[u8]]) -> Vec<u8> {
    let len = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let mut combined = values.first().map_or_else(Vec::new, |first| first.to_vec());
    combined.resize(len, 0);
    if operator == BitOperator::Not {
        combined.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for value in values.iter().skip(1) {
        let (overlap, rest) = combined.split_at_mut(value.len());
        let pairs = overlap.iter_mut().zip(*value);
        match operator {
            BitOperator::And => {
                pairs.for_each(|(byte, other)| *byte &= other);
                rest.fill(0);
            }
            BitOperator::Or => pairs.for_each(|(byte, other)| *byte |= other),
            BitOperator::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            BitOperator::Not => unreachable!("NOT takes one value"),
        }
    }
    combined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_different_lengths_combine_as_if_padded() {
        let (long, short): (&[u8], &[u8]) = (b"\xff\x0f\x01", b"\x0f");
        assert_eq!(combine(BitOperator::And, &[long, short]), [0x0f, 0, 0]);
        assert_eq!(combine(BitOperator::And, &[short, long]), [0x0f, 0, 0]);
        assert_eq!(combine(BitOperator::Or, &[short, long]), [0xff, 0x0f, 1]);
        assert_eq!(combine(BitOperator::Xor, &[long, short]), [0xf0, 0x0f, 1]);
        assert_eq!(combine(BitOperator::Not, &[short]), [0xf0]);
        assert_eq!(combine(BitOperator::Or, &[b"", b""]), b"");
    }
}
