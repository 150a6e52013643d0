//! The log: any bytes as its segments are read to an end or to damage, and whatever is read goes on as a log.
//!
//! The first byte says what the rest is. Odd: a script by which the real writer makes a log, and then some bytes of
//! it are changed. Even: the segments themselves, once as they are and once with checksums, chains and numbers that
//! fit, so that what lies behind them is reached too; the second byte says where the one ends and the other begins,
//! the third which records stay as they are.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use marline::data::loading;
use marline::disk::seal::{Entropy, KEY_BYTES};
use marline::disk::sim::SimDisk;
use marline::disk::wal::replay::{self, End};
use marline::disk::wal::writer::{SEGMENT_BYTES_MIN, Wal};
use marline::disk::wal::{ActiveKey, check, segment_name};
use marline::disk::{Damage, Disk};
use marline::shard::Shard;
use marline::shard::recovery::Recovery;
use marline::shard::section;
use marline::store::HashSeed;
use marline::wire::reply::{Dialect, Reply};
use marline_fuzz::heavy::is_heavy_record;

const SHARDS: u16 = 3;
const AT_MS: u64 = 1_700_000_000_000;
const HEADER_BYTES: usize = 64;
const HEAD_BYTES: usize = 40;
/// Calls of the writer in one script.
const STEPS_MAX: usize = 60;

fn secret(id: u32) -> Option<[u8; KEY_BYTES]> {
    // As in tests/golden.
    u8::try_from(id).ok().map(|byte| [byte; KEY_BYTES])
}

fn entropy() -> Entropy {
    let mut next = 0u8;
    Box::new(move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(29).wrapping_add(41);
            *byte = next;
        }
    })
}

fn read(disk: &dyn Disk) -> Result<(Vec<Vec<u8>>, End), Damage> {
    let mut payloads = Vec::new();
    let end = replay::replay(disk, &secret, &mut |record| {
        payloads.push(record.payload.to_vec());
        Ok(())
    })?;
    Ok((payloads, end))
}

/// Reads what is on the disk in every way that there is.
fn judge(disk: &SimDisk) {
    let read = read(disk);
    if let Err(damage) = &read {
        let contents = disk.contents();
        let length = contents.get(&damage.file).map_or(0, Vec::len) as u64;
        assert!(damage.offset <= length, "{damage}");
    }
    check_segments(disk, &read);
    if let Ok((payloads, end)) = read {
        go_on(disk, &payloads, &end);
        if !payloads.iter().any(|payload| is_heavy_record(payload)) {
            load(disk);
        }
    }
}

/// Whoever looks at each segment by itself finds nothing wrong in a log that is whole.
fn check_segments(disk: &SimDisk, read: &Result<(Vec<Vec<u8>>, End), Damage>) {
    let log = check::Log::open(disk, &secret).expect("the disk can be read");
    let (mut payloads, mut is_torn) = (Vec::new(), false);
    for at in 0..log.len() {
        let checked = log.check(disk, at, &mut |record| {
            payloads.push(record.payload.to_vec());
            Ok(())
        });
        match checked {
            Ok(checked) => is_torn |= checked.is_torn,
            Err(damage) => assert!(read.is_err(), "{damage}"),
        }
    }
    if let Ok((whole, end)) = read {
        assert!(*whole == payloads && end.torn.is_some() == is_torn);
    }
}

/// A log that was read can be written on, and what was in it stays.
fn go_on(disk: &SimDisk, payloads: &[Vec<u8>], end: &End) {
    let disk: Arc<dyn Disk> = Arc::new(disk.fork());
    let begun = Wal::begin(disk.clone(), None, entropy(), end, SEGMENT_BYTES_MIN);
    let mut wal = begun.expect("the disk is sound");
    wal.append(b"more", true).expect("the disk is sound");
    let (more, end) = read(&*disk).expect("a log that was read");
    assert!(end.torn.is_none() && more.len() == payloads.len() + 1);
    assert!(more.starts_with(payloads) && more.ends_with(&[b"more".to_vec()]));
}

/// Shards are made of it, if it makes sense.
fn load(disk: &SimDisk) {
    let seed = HashSeed(1, 2);
    let mut shards: Vec<Recovery> = (0..SHARDS).map(|it| Recovery::new(it, seed)).collect();
    let keys = |id| secret(id);
    if loading::log(disk, &keys, &mut shards, &mut |_, _| {}).is_err() {
        return;
    }
    for recovery in shards {
        let mut tail = Vec::new();
        recovery.write_tail(&mut tail);
        assert_eq!(section::read(&tail).map(|sections| sections.len()), Ok(1));
        live(recovery);
    }
}

/// A shard that was recovered commits what was left to it, and goes on.
fn live(recovery: Recovery) {
    let (before, at_ms) = (recovery.index(), recovery.at_ms().max(AT_MS));
    let mut shard: Shard = recovery.finish();
    for turn in 0..2 {
        let mut record = Vec::new();
        if turn > 0 {
            shard.propose_flush();
        }
        shard.close(at_ms);
        shard.advance(Some(&mut record), 1);
        section::read(&record).expect("a record of ours");
        shard.persisted(1);
        shard.advance(Some(&mut Vec::new()), 2);
        let (mut unread, mut applied) = (Vec::new(), 0);
        let mut reply = Reply::new(&mut unread, Dialect::Resp2);
        while shard.apply_next(&mut reply, |_, _| {}).is_some() {
            applied += 1;
        }
        assert!(turn == 0 || applied == 1, "a change of ours is applied");
    }
    assert!(shard.applied().index > before && shard.store().is_empty());
    assert_eq!(shard.applied().index, shard.last_index());
}

fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
    bytes[at..at + number.len()].copy_from_slice(number);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// What one segment must know of the one before.
#[derive(Clone, Copy, Default)]
struct Before {
    end: u64,
    chain: u32,
    sequence: u64,
}

/// Lets a segment's header and records fit, but for those in `spoiled`, a bit for each.
fn mend(bytes: &mut [u8], number: u64, before: &mut Before, spoiled: u8) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    put(bytes, 32, &number.to_le_bytes());
    let seed = crc32c::crc32c(&bytes[..60]);
    put(bytes, 60, &seed.to_le_bytes());
    let (mut at, mut nth) = (HEADER_BYTES, 0);
    while at + HEAD_BYTES <= bytes.len() {
        let length = u32_at(bytes, at + 8) as usize;
        let end = at + HEAD_BYTES + length;
        if end > bytes.len() || !matches!(bytes[at + 32], 1 | 2) {
            break;
        }
        before.sequence += 1;
        if nth > 7 || spoiled & (1 << nth) == 0 {
            if nth == 0 && length == 24 {
                let open = [number - 1, before.end, bytes.len() as u64];
                for (field, value) in open.iter().enumerate() {
                    put(bytes, at + HEAD_BYTES + 8 * field, &value.to_le_bytes());
                }
            }
            let sum = crc32c::crc32c(&bytes[at + HEAD_BYTES..end]);
            put(bytes, at + 4, &sum.to_le_bytes());
            put(bytes, at + 12, &before.chain.to_le_bytes());
            put(bytes, at + 16, &before.sequence.to_le_bytes());
            let synced = u64::from(bytes[at + 24]).min(before.sequence);
            put(bytes, at + 24, &synced.to_le_bytes());
            let sum = crc32c::crc32c_append(seed, &bytes[at + 4..at + HEAD_BYTES]);
            put(bytes, at, &sum.to_le_bytes());
        }
        before.chain = u32_at(bytes, at);
        at = end.next_multiple_of(8);
        before.end = at as u64;
        nth += 1;
    }
}

fn segments(data: &[u8]) {
    let [cut, spoiled, bytes @ ..] = data else {
        return;
    };
    let cut = bytes.len() * usize::from(*cut) / 256;
    let (first, second) = bytes.split_at(cut.next_multiple_of(8).min(bytes.len()));
    for is_mended in [false, true] {
        let disk = SimDisk::new(1);
        let mut before = Before::default();
        for (number, bytes) in (1..).zip([first, second]).filter(|it| !it.1.is_empty()) {
            let mut bytes = bytes.to_vec();
            if is_mended {
                let spoiled = if number == 1 {
                    spoiled & 15
                } else {
                    spoiled >> 4
                };
                mend(&mut bytes, number, &mut before, spoiled);
            }
            disk.install(&segment_name(number), &bytes);
        }
        judge(&disk);
    }
}

/// Takes bytes from the front of the input; zeros when there are no more.
struct Script<'d>(&'d [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn bytes(&mut self) -> &[u8] {
        let wanted = usize::from(self.byte());
        let (bytes, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Small numbers mostly, and the greatest ones.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 1 << 62,
            small => u64::from(small),
        }
    }

    /// What one shard might say in a record. `next` has each shard's next index.
    fn section(&mut self, next: &mut [u64; 4], record: &mut Vec<u8>) {
        let shard = self.byte() % 4;
        let (term, entries) = (self.number(), self.byte() % 4);
        let next = &mut next[usize::from(shard)];
        // Up to where nobody can doubt it, unless the script has another wish.
        let commit = match self.byte() {
            0 => *next - 1,
            _ => self.number(),
        };
        record.extend_from_slice(&u16::from(shard).to_le_bytes());
        for number in [term, 1, commit] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&u32::from(entries).to_le_bytes());
        for _ in 0..entries {
            let index = match self.byte() {
                0 => *next,
                _ => self.number(),
            };
            let entry_term = if self.byte() == 0 {
                term
            } else {
                self.number()
            };
            let (stamp, changes) = (AT_MS + self.number() / 2, self.bytes());
            let length = 8 + changes.len() as u32;
            record.extend_from_slice(&index.to_le_bytes());
            record.extend_from_slice(&entry_term.to_le_bytes());
            record.extend_from_slice(&length.to_le_bytes());
            record.extend_from_slice(&stamp.to_le_bytes());
            record.extend_from_slice(changes);
            *next = index.saturating_add(1).max(1);
        }
    }
}

/// A log that the real writer makes.
struct Written {
    disk: SimDisk,
    wal: Wal,
    payloads: Vec<Vec<u8>>,
    key: Option<ActiveKey>,
}

impl Written {
    fn new() -> Written {
        let disk = SimDisk::new(1);
        let wal = Written::begin(&disk, None);
        Written {
            disk,
            wal,
            payloads: Vec::new(),
            key: None,
        }
    }

    fn begin(disk: &SimDisk, key: Option<ActiveKey>) -> Wal {
        let (_, end) = read(disk).expect("a log of ours");
        let begun = Wal::begin(Arc::new(disk.clone()), key, entropy(), &end, 512);
        begun.expect("the disk is sound")
    }

    fn append(&mut self, payload: Vec<u8>, sync: bool) {
        (self.wal.append(&payload, sync)).expect("the disk is sound");
        self.payloads.push(payload);
    }

    fn rotate(&mut self, id: u8) {
        self.key = secret(u32::from(id))
            .filter(|_| id > 0)
            .map(|secret| ActiveKey {
                id: u32::from(id),
                secret,
            });
        (self.wal.set_key(self.key.clone())).expect("the disk is sound");
    }
}

fn script(data: &[u8]) {
    let (mut script, mut log) = (Script(data), Written::new());
    let (mut next, mut edits) = ([1; 4], Vec::new());
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() {
            break;
        }
        let step = script.byte();
        match step & 7 {
            0 => log.append(script.bytes().to_vec(), step & 8 == 0),
            1..=4 => {
                let mut record = Vec::new();
                for _ in 0..=step >> 4 & 3 {
                    script.section(&mut next, &mut record);
                }
                log.append(record, step & 8 == 0);
            }
            5 => edits.push([script.byte(), script.byte(), script.byte(), script.byte()]),
            6 => log.rotate(step >> 3 & 3),
            _ => {
                log.wal.sync().expect("the disk is sound");
                log.wal = Written::begin(&log.disk, log.key.clone());
            }
        }
    }
    let (read, end) = read(&log.disk).expect("a log of ours");
    assert!(read == log.payloads && end.torn.is_none());
    let segments: Vec<(String, usize)> = (log.disk.contents().into_iter())
        .filter(|(name, _)| name.starts_with("wal-"))
        .map(|(name, bytes)| (name, bytes.len()))
        .collect();
    for [segment, low, high, mask] in edits {
        if let Some((name, bytes)) = segments.get(usize::from(segment) % segments.len().max(1)) {
            let offset = usize::from(u16::from_le_bytes([low, high])) % bytes;
            log.disk.flip(name, offset, mask);
        }
    }
    judge(&log.disk);
}

fuzz_target!(|data: &[u8]| {
    match data {
        [choice, rest @ ..] if choice & 1 == 0 => segments(rest),
        [_, rest @ ..] => script(rest),
        [] => {}
    }
});
