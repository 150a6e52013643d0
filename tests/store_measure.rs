//! Measurements of the store, printed, not judged: they take gigabytes and a quiet machine.
//!
//! `cargo test --release --test store_measure -- --ignored --nocapture --test-threads 1`

#![allow(
    clippy::disallowed_methods,
    reason = "a test may look at the clock and start threads"
)]

use std::time::{Duration, Instant};

use marline::command::encode::{Change, decode, encode_op};
use marline::command::op::{Action, Op, Set, SetAnswer, SetExpiry};
use marline::store::{HashSeed, Store};
use marline::wire::reply::{Dialect, Reply};

const KEYS: u64 = 10_000_000;
const SHARDS: u64 = 16;
const NOW_MS: u64 = 1_700_000_000_000;

fn set(value: &[u8]) -> Action<'_> {
    Action::Set(Set {
        value,
        expiry: SetExpiry::Clear,
        condition: None,
        answer: SetAnswer::Ok,
    })
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("VmRSS");
    let kib: usize = line
        .split_whitespace()
        .nth(1)
        .expect("a figure")
        .parse()
        .expect("a number");
    kib * 1024
}

/// Sixteen stores, addressed by a part of the number so that picking one costs next to nothing.
struct Stores(Vec<Store>);

impl Stores {
    fn new() -> Stores {
        let store = |shard| Store::new(HashSeed(0x5EED, shard));
        Stores((0..SHARDS).map(store).collect())
    }

    fn apply(&mut self, number: u64, action: Action<'_>, out: &mut Vec<u8>) {
        let mut key = *b"key:000000000000";
        let mut left = number;
        for digit in key[4..].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        out.clear();
        let op = Op { key: &key, action };
        let store = &mut self.0[(number % SHARDS) as usize];
        store.apply(&op, NOW_MS, &mut Reply::new(out, Dialect::Resp2));
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Store::memory_bytes).sum()
    }
}

/// Nanoseconds an operation, over numbers in random order.
fn timed(stores: &mut Stores, name: &str, numbers: &[u64], action: &Action<'_>) {
    let mut out = Vec::with_capacity(4096);
    let begin = Instant::now();
    for &number in numbers {
        stores.apply(number, action.clone(), &mut out);
    }
    let ns = begin.elapsed().as_nanos() as f64 / numbers.len() as f64;
    println!("{name}: {ns:.0} ns");
}

#[test]
#[ignore = "takes gigabytes and seconds; prints figures"]
fn ten_million_keys() {
    let mut stores = Stores::new();
    let before = resident_bytes();
    let mut out = Vec::with_capacity(4096);
    let value = [b'v'; 32];
    let begin = Instant::now();
    for number in 1..=KEYS {
        stores.apply(number, set(&value), &mut out);
        if number.is_multiple_of(1_000_000) || [600_000, 800_000].contains(&number) {
            let resident = resident_bytes() - before;
            let (rss, own) = (
                resident as f64 / number as f64,
                stores.bytes() as f64 / number as f64,
            );
            println!("{number} keys: {rss:.1} bytes resident, {own:.1} by our account");
        }
    }
    let ns = begin.elapsed().as_nanos() / u128::from(KEYS);
    println!("insert: {ns} ns");

    let mut random = fastrand::Rng::with_seed(7);
    let few: Vec<u64> = (0..10_000_000)
        .map(|_| 1 + random.u64(..500) * 20_000)
        .collect();
    let all: Vec<u64> = (0..10_000_000).map(|_| random.u64(1..=KEYS)).collect();
    timed(&mut stores, "GET, 500 keys of 10 M", &few, &Action::Get);
    timed(&mut stores, "SET, 500 keys of 10 M", &few, &set(&value));
    timed(&mut stores, "GET, all keys", &all, &Action::Get);
    timed(&mut stores, "SET, all keys", &all, &set(&value));
    timed(
        &mut stores,
        "SET 40 bytes, all keys",
        &all,
        &set(&[b'w'; 40]),
    );
    timed(
        &mut stores,
        "SET 33 bytes, all keys",
        &all,
        &set(&[b'w'; 33]),
    );
    timed(
        &mut stores,
        "SET 41 bytes, all keys",
        &all,
        &set(&[b'w'; 41]),
    );
    let resident = (resident_bytes() - before) as f64 / KEYS as f64;
    let own = stores.bytes() as f64 / KEYS as f64;
    println!("after overwriting: {resident:.1} bytes resident, {own:.1} by our account");
    let (mut calls, mut told, begin) = (0, 0, Instant::now());
    let mut cursor = 0;
    loop {
        cursor = stores.0[0].scan(cursor, 10, NOW_MS, &mut |_| told += 1);
        calls += 1;
        if cursor == 0 {
            break;
        }
    }
    let ns = begin.elapsed().as_nanos() / calls;
    println!("SCAN COUNT 10: {ns} ns a call, {calls} calls for {told} keys");
}

#[test]
#[ignore = "takes gigabytes and seconds; prints figures"]
fn one_large_store() {
    let mut store = Store::new(HashSeed(1, 2));
    let mut out = Vec::with_capacity(4096);
    let mut longest: Vec<(Duration, u64)> = Vec::new();
    let (mut switches, mut preempted) = (context_switches(), 0);
    for number in 0..40_000_000u64 {
        let key = number.to_le_bytes();
        out.clear();
        let op = Op {
            key: &key,
            action: set(b"value"),
        };
        let begin = Instant::now();
        store.apply(&op, NOW_MS, &mut Reply::new(&mut out, Dialect::Resp2));
        let took = begin.elapsed();
        if took > Duration::from_micros(100) {
            // A call during which another process had the core says nothing about us.
            let now = context_switches();
            if now == switches {
                longest.push((took, number));
            } else {
                preempted += 1;
            }
            switches = now;
        } else if number % 10_000 == 0 {
            switches = context_switches();
        }
    }
    longest.sort();
    longest.reverse();
    longest.truncate(12);
    println!(
        "longest calls of 40 M inserts, by number of keys: {longest:?}; {preempted} were preempted"
    );
}

/// How often the scheduler took or gave the core.
fn context_switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
    let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
    let counts = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    counts.sum()
}

#[test]
#[ignore = "takes gigabytes and seconds; prints figures"]
fn an_image_of_ten_million_keys() {
    let mut store = Store::new(HashSeed(1, 2));
    let (mut out, value) = (Vec::new(), [b'v'; 32]);
    let mut write = |store: &mut Store, number: u64| {
        let key = format!("key:{number:012}");
        let (key, action) = (key.as_bytes(), set(&value));
        out.clear();
        store.apply(
            &Op { key, action },
            NOW_MS,
            &mut Reply::new(&mut out, Dialect::Resp2),
        );
    };
    let begin = Instant::now();
    for number in 0..KEYS {
        write(&mut store, number);
    }
    let ns = begin.elapsed().as_nanos() / u128::from(KEYS);
    println!("insert into one store: {ns} ns");

    let (mut blocks, mut longest, begin) = (Vec::new(), Duration::ZERO, Instant::now());
    store.begin_image();
    while store.is_imaging() {
        let begin = Instant::now();
        store.advance_image(1000);
        longest = longest.max(begin.elapsed());
        if store.image_bytes() >= 1 << 18 {
            blocks.push(store.take_image(1 << 18));
        }
        if store.advance_image(0) {
            blocks.push(store.take_image(1 << 18));
        }
    }
    let ns = begin.elapsed().as_nanos() / u128::from(KEYS);
    let mebibytes = blocks.iter().map(Vec::len).sum::<usize>() >> 20;
    println!("image: {ns} ns a key, {mebibytes} MiB, a slice of 1000 took {longest:?} at most");

    let (same, other) = (HashSeed(1, 2), HashSeed(3, 4));
    for (name, seed, reserved) in [
        ("the same seed", same, 0),
        ("another seed", other, 0),
        ("another seed and room for all", other, KEYS as usize),
        ("the same seed and room for all", same, KEYS as usize),
    ] {
        let (mut copy, begin) = (Store::new(seed), Instant::now());
        copy.reserve(reserved);
        for block in &blocks {
            copy.load(block, NOW_MS).expect("a block of an image");
        }
        let ns = begin.elapsed().as_nanos() / u128::from(KEYS);
        assert_eq!(copy.len(), store.len());
        let bytes = copy.memory_bytes() as f64 / KEYS as f64;
        println!("load with {name}: {ns} ns, {bytes:.1} bytes a key");
    }

    let mut random = fastrand::Rng::with_seed(7);
    let numbers: Vec<u64> = (0..1_000_000).map(|_| random.u64(..KEYS)).collect();
    for name in ["without an image", "into a new image", "into an old image"] {
        if name == "into a new image" {
            store.begin_image();
        }
        let begin = Instant::now();
        numbers.iter().for_each(|&number| write(&mut store, number));
        let ns = begin.elapsed().as_nanos() / numbers.len() as u128;
        println!("SET {name}: {ns} ns");
    }
    let begin = Instant::now();
    let digest = store.digest(NOW_MS);
    let ns = begin.elapsed().as_nanos() / u128::from(KEYS);
    println!("digest {digest:016x}: {ns} ns a key");
}

#[test]
#[ignore = "prints figures"]
fn a_change_as_bytes() {
    let (key, value) = (b"key:000000000000", [b'v'; 32]);
    let op = Op {
        key,
        action: set(&value),
    };
    let (mut log, rounds, mut decoded) = (Vec::new(), 1_000_000u32, 0);
    (0..rounds).for_each(|_| encode_op(&op, &mut log));
    log.clear();
    let begin = Instant::now();
    for _ in 0..rounds {
        encode_op(std::hint::black_box(&op), &mut log);
    }
    let ns = begin.elapsed().as_nanos() / u128::from(rounds);
    println!("encode SET: {ns} ns");
    let (begin, mut rest) = (Instant::now(), &log[..]);
    while let Ok((change, used)) = decode(rest) {
        decoded += u32::from(std::hint::black_box(change) != Change::Flush);
        rest = &rest[used..];
    }
    let ns = begin.elapsed().as_nanos() / u128::from(rounds);
    assert_eq!(decoded, rounds);
    println!("decode SET: {ns} ns");
}
