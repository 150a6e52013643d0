//! All shards together: which shard a key is in, and what commands over several keys are made of.
//!
//! A command over several keys is taken apart into operations on one key each, so that every operation
//! concerns one shard and a shard's log needs no other vocabulary. The node is single-threaded: between
//! the first and the last of them nobody looks.
//!
//! Scan cursors: `position << 14 | shard`, 0 being both the beginning and the end.

use crate::command::data::{BitOperator, Command, Counted, LcsAnswer, Many};
use crate::command::glob;
use crate::command::op::{
    Action, Effect, Encoding, Event, Op, Set, SetAnswer, SetCondition, SetExpiry,
};
use crate::ring;
use crate::shard::Shard;
use crate::store::{Dropped, HashSeed};
use crate::wire::reply::Reply;
use crate::wire::request::Args;

use super::lcs;

/// Bits of a scan cursor that name the shard.
const CURSOR_SHARD_BITS: u32 = 14;
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

/// Every shard of this node.
pub struct Keyspace {
    shards: Vec<Shard>,
    /// The shard that the next sweep begins with.
    sweep_next: usize,
    /// What FLUSHALL left behind, to be dropped on another thread.
    dropped: Vec<Dropped>,
}

impl Keyspace {
    /// `shards` empty shards, all hashing with `seed`.
    pub fn new(shards: u16, seed: HashSeed) -> Self {
        let shards = (0..shards).map(|_| Shard::new(seed)).collect();
        Keyspace {
            shards,
            sweep_next: 0,
            dropped: Vec::new(),
        }
    }

    /// Runs a data command at `at_ms` and writes exactly one reply. `random` is for RANDOMKEY.
    pub fn execute(
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
        self.shards.iter().map(|shard| shard.store().len()).sum()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of keys with an expiry.
    pub fn expiring(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.store().expiring())
            .sum()
    }

    /// Bytes of memory held for keys and values, by our own account.
    pub fn memory_bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.store().memory_bytes())
            .sum()
    }

    /// Sum of the shards' log indices.
    pub fn index(&self) -> u64 {
        self.shards.iter().map(Shard::index).sum()
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
        shard.sweep(at_ms, tables_max, &mut |key| touched.add(key, expired))
    }

    fn index_of(&self, key: &[u8]) -> usize {
        ring::shard_of_slot(ring::slot(key), self.shards.len() as u16).into()
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[self.index_of(key)]
    }

    fn one(&mut self, op: &Op<'_>, at_ms: u64, reply: &mut Reply<'_>, touched: &mut Touched) {
        let index = self.index_of(op.key);
        touched.reads += u64::from(!op.action.is_write());
        let effect = self.shards[index].execute(op, at_ms, reply);
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
            Many::Set {
                pairs,
                only_if_none_exists,
            } => {
                self.set_all(pairs, only_if_none_exists, at_ms, reply, touched);
            }
            Many::Count { what, keys } => {
                let count = keys
                    .iter()
                    .filter(|key| self.count(what, key, at_ms, touched))
                    .count();
                reply.count(count);
            }
            Many::Rename {
                from,
                to,
                only_if_absent,
            } => {
                self.rename(from, to, only_if_absent, at_ms, reply, touched);
            }
            Many::Copy { from, to, replace } => self.copy(from, to, replace, at_ms, reply, touched),
            Many::BitOp {
                operator,
                destination,
                sources,
            } => {
                self.bit_op(operator, destination, sources, at_ms, reply, touched);
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
            Many::DbSize => reply.count(self.len()),
            Many::Flush => {
                self.dropped
                    .extend(self.shards.iter_mut().map(Shard::flush));
                touched.writes += 1;
                reply.ok();
            }
        }
    }

    /// Runs an operation whose reply is of no interest.
    fn silently(&mut self, op: &Op<'_>, at_ms: u64, touched: &mut Touched) {
        let (mut unread, dialect) = (Vec::new(), Default::default());
        self.one(op, at_ms, &mut Reply::new(&mut unread, dialect), touched);
    }

    fn set_all(
        &mut self,
        pairs: Args<'_>,
        only_if_none_exists: bool,
        at_ms: u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        let taken = || pairs.iter().step_by(2).any(|key| self.exists(key, at_ms));
        if only_if_none_exists && taken() {
            return reply.int(0);
        }
        for (key, value) in pairs.iter().step_by(2).zip(pairs.iter().skip(1).step_by(2)) {
            let condition: Option<SetCondition> = None;
            let set = Set {
                value,
                expiry: SetExpiry::Clear,
                condition,
                answer: SetAnswer::Silent,
            };
            self.one(
                &Op {
                    key,
                    action: Action::Set(set),
                },
                at_ms,
                reply,
                touched,
            );
        }
        match only_if_none_exists {
            true => reply.int(1),
            false => reply.ok(),
        }
    }

    fn count(&mut self, what: Counted, key: &[u8], at_ms: u64, touched: &mut Touched) -> bool {
        let found = self.exists(key, at_ms);
        let action = match what {
            Counted::Del => Action::Del,
            Counted::Exists => Action::Exists,
            Counted::Touch => Action::Touch,
        };
        self.silently(&Op { key, action }, at_ms, touched);
        found
    }

    /// The value of `key` with what belongs to it, owned, so that it can be put elsewhere.
    fn taken(&self, key: &[u8], at_ms: u64) -> Option<(Vec<u8>, Option<u64>, Encoding)> {
        let entry = self.shard(key).lookup(key, at_ms)?;
        Some((entry.value.to_vec(), entry.expire_at_ms, entry.encoding))
    }

    fn rename(
        &mut self,
        from: &[u8],
        to: &[u8],
        only_if_absent: bool,
        at_ms: u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        let Some((value, expire_at_ms, encoding)) = self.taken(from, at_ms) else {
            return reply.error("ERR no such key");
        };
        if only_if_absent && self.exists(to, at_ms) {
            return reply.int(0);
        }
        if from != to {
            let remove = Action::Remove {
                event: Event::RenameFrom,
            };
            self.silently(
                &Op {
                    key: from,
                    action: remove,
                },
                at_ms,
                touched,
            );
            let put = Action::Put {
                value: &value,
                expire_at_ms,
                encoding,
                event: Event::RenameTo,
            };
            self.silently(
                &Op {
                    key: to,
                    action: put,
                },
                at_ms,
                touched,
            );
        }
        match only_if_absent {
            true => reply.int(1),
            false => reply.ok(),
        }
    }

    fn copy(
        &mut self,
        from: &[u8],
        to: &[u8],
        replace: bool,
        at_ms: u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        let Some((value, expire_at_ms, encoding)) = self.taken(from, at_ms) else {
            return reply.int(0);
        };
        if !replace && self.exists(to, at_ms) {
            return reply.int(0);
        }
        let put = Action::Put {
            value: &value,
            expire_at_ms,
            encoding,
            event: Event::CopyTo,
        };
        self.silently(
            &Op {
                key: to,
                action: put,
            },
            at_ms,
            touched,
        );
        reply.int(1);
    }

    fn bit_op(
        &mut self,
        operator: BitOperator,
        destination: &[u8],
        sources: Args<'_>,
        at_ms: u64,
        reply: &mut Reply<'_>,
        touched: &mut Touched,
    ) {
        let values: Vec<&[u8]> = sources
            .iter()
            .map(|key| {
                self.shard(key)
                    .lookup(key, at_ms)
                    .map_or(&[][..], |entry| entry.value)
            })
            .collect();
        let combined = combine(operator, &values);
        if combined.is_empty() {
            self.silently(
                &Op {
                    key: destination,
                    action: Action::Del,
                },
                at_ms,
                touched,
            );
        } else {
            let (encoding, event) = (Encoding::Raw, Event::Set);
            let put = Action::Put {
                value: &combined,
                expire_at_ms: None,
                encoding,
                event,
            };
            self.silently(
                &Op {
                    key: destination,
                    action: put,
                },
                at_ms,
                touched,
            );
        }
        reply.count(combined.len());
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
        for shard in &self.shards {
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
        let mut shard = (cursor & ((1 << CURSOR_SHARD_BITS) - 1)) as usize;
        let mut position = cursor >> CURSOR_SHARD_BITS;
        while shard < self.shards.len() && seen < count {
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
        let next = if shard >= self.shards.len() {
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
        let total = self.len() as u64;
        let mut nth = if total == 0 { 0 } else { random % total };
        let first = self
            .shards
            .iter()
            .position(|shard| {
                let len = shard.store().len() as u64;
                let here = nth < len;
                nth = nth.saturating_sub(len);
                here
            })
            .unwrap_or(0);
        // A shard may hold nothing but expired keys: then the next one that has something answers.
        let key = (0..self.shards.len())
            .map(|step| (first + step) % self.shards.len())
            .find_map(|shard| {
                self.shards[shard]
                    .store()
                    .random_key(random.rotate_left(17), at_ms)
            });
        reply.bulk_or_nil(key);
    }
}

/// The bytes of `values` combined, the shorter ones padded with zeros.
fn combine(operator: BitOperator, values: &[&[u8]]) -> Vec<u8> {
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
