//! Images of a store hold what it held at one moment, whatever was written, removed, moved or cleared meanwhile.

use std::collections::BTreeMap;

use marline::command::op::{
    Action, BitFieldOp, BitFieldVerb, Encoding, Event, GetExExpiry, Op, Overflow, Set, SetAnswer,
    SetCondition, SetExpiry,
};
use marline::store::{HashSeed, Store};
use marline::wire::reply::{Dialect, Reply};

const NOW_MS: u64 = 1_700_000_000_000;

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Store>();
};

fn seed() -> u64 {
    let given = std::env::var("MARLINE_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MARLINE_SEED={seed}");
    seed
}

type Contents = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>, Encoding)>;

/// Everything in a store, expired or not.
fn contents(store: &Store) -> Contents {
    let mut contents = Contents::new();
    store.for_each(0, &mut |key, entry| {
        let held = (entry.value.to_vec(), entry.expire_at_ms, entry.encoding);
        assert!(contents.insert(key.to_vec(), held).is_none());
    });
    contents
}

fn apply(store: &mut Store, key: &[u8], action: Action<'_>, at_ms: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, Dialect::Resp2);
    store.apply(&Op { key, action }, at_ms, &mut reply);
    out
}

fn set(value: &[u8], expiry: SetExpiry) -> Action<'_> {
    Action::Set(Set {
        value,
        expiry,
        condition: None,
        answer: SetAnswer::Ok,
    })
}

fn loaded(blocks: &[Vec<u8>], seed: HashSeed) -> Store {
    let mut store = Store::new(seed);
    // Room for too few, for enough, or for too many keys.
    store.reserve(blocks.len() * 50);
    for block in blocks {
        let before = store.len();
        let count = store.load(block, NOW_MS).expect("a block of an image");
        assert_eq!(store.len(), before + count);
    }
    store
}

/// All of an image that has been begun.
fn rest_of_image(store: &mut Store, steps: usize, block_bytes: usize) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while store.is_imaging() {
        store.advance_image(steps);
        while store.image_bytes() > 0 {
            blocks.push(store.take_image(block_bytes));
        }
    }
    blocks
}

/// What happened to images in a run.
#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    abandoned: u32,
    cleared: u32,
    swept: usize,
}

/// A store of which images are taken, and one like it of which none are.
struct Run {
    random: fastrand::Rng,
    store: Store,
    twin: Store,
    at_ms: u64,
    keys: u32,
    /// What the image under way must hold, and its blocks so far.
    wanted: Contents,
    blocks: Vec<Vec<u8>>,
    tally: Tally,
}

impl Run {
    fn new(seed: u64, keys: u32) -> Run {
        Run {
            random: fastrand::Rng::with_seed(seed),
            store: Store::new(HashSeed(seed, 7)),
            twin: Store::new(HashSeed(seed, 7)),
            at_ms: NOW_MS,
            keys,
            wanted: Contents::new(),
            blocks: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.u32(..self.keys);
        let mut key = format!("key:{number}").into_bytes();
        if number.is_multiple_of(97) {
            key.resize(number as usize % 5000 + 10, b'k');
        }
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.u8(..20) {
            0 => self.random.usize(..3000),
            1..4 => self.random.usize(500..530),
            _ => self.random.usize(..150),
        };
        vec![self.random.u8(..); len]
    }

    fn apply(&mut self, key: &[u8], action: Action<'_>) {
        let reply = apply(&mut self.twin, key, action.clone(), self.at_ms);
        assert_eq!(apply(&mut self.store, key, action, self.at_ms), reply);
    }

    /// A write of some kind; `removing` of 256 remove a key.
    fn write(&mut self, removing: u8) {
        let (key, value) = (self.key(), self.value());
        if self.random.u8(..) < removing {
            return self.apply(&key, Action::Del);
        }
        let later = self.at_ms + self.random.u64(1..5000);
        let offset = self.random.u64(..700);
        let action = match self.random.u8(..18) {
            0..5 => set(&value, SetExpiry::Clear),
            5 => set(&value, SetExpiry::Keep),
            6 => set(&value, SetExpiry::At(later)),
            7 => Action::Set(Set {
                value: &value,
                expiry: SetExpiry::Clear,
                condition: Some(SetCondition::Absent),
                answer: SetAnswer::OldValue,
            }),
            8 => Action::Append { value: &value },
            9 => Action::SetRange {
                offset,
                value: &value,
            },
            10 => Action::SetBit { offset, bit: true },
            11 => Action::BitField {
                ops: vec![BitFieldOp {
                    bits: 7,
                    signed: false,
                    offset,
                    verb: BitFieldVerb::IncrBy {
                        delta: 1,
                        overflow: Overflow::Wrap,
                    },
                }],
            },
            12 => Action::Expire {
                at_ms: later as i64,
                condition: None,
            },
            13 => Action::Persist,
            14 => Action::GetEx {
                expiry: GetExExpiry::At(later),
            },
            15 => Action::GetDel,
            16 => Action::Put {
                value: &value,
                expire_at_ms: Some(later),
                encoding: Encoding::Text,
                event: Event::RenameTo,
            },
            // Reads remove what has expired.
            _ => Action::Get,
        };
        self.apply(&key, action);
    }

    fn sweep(&mut self) {
        for store in [&mut self.store, &mut self.twin] {
            self.tally.swept += store.sweep(self.at_ms, 3, &mut |_| {});
        }
    }

    fn clear(&mut self) {
        self.tally.cleared += u32::from(self.store.is_imaging());
        drop(self.store.clear());
        drop(self.twin.clear());
    }

    /// Something about images.
    fn image(&mut self) {
        if !self.store.is_imaging() {
            self.wanted = contents(&self.store);
            self.blocks.clear();
            self.store.begin_image();
            assert!(self.store.is_imaging());
        }
        match self.random.u16(..1000) {
            0..3 => {
                self.store.abandon_image();
                assert!(!self.store.is_imaging() && self.store.image_bytes() == 0);
                self.tally.abandoned += 1;
                return;
            }
            3..600 => {
                let steps = match self.random.u8(..10) {
                    0 => self.random.usize(..300),
                    _ => self.random.usize(..20),
                };
                self.store.advance_image(steps);
            }
            _ => {
                let block_bytes = self.random.usize(1..5000);
                let there = self.store.image_bytes();
                let block = self.store.take_image(block_bytes);
                assert!(block.len() >= block_bytes.min(there));
                assert!(block.len() < block_bytes + 12_000);
                assert_eq!(self.store.image_bytes(), there - block.len());
                self.blocks.push(block);
            }
        }
        if !self.store.is_imaging() {
            self.check();
        }
    }

    /// The image that has just been taken.
    fn check(&mut self) {
        self.tally.whole += 1;
        let copy = loaded(&self.blocks, HashSeed(self.random.u64(..), 1));
        assert_eq!(copy.len(), self.wanted.len());
        assert!(contents(&copy) == self.wanted, "the image holds what was");
        let expiring = self.wanted.values().filter(|held| held.1.is_some());
        assert_eq!(copy.expiring(), expiring.count());
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            // Growth, rewriting and mass deletion by turns: tables split, pages are emptied.
            let removing = *self.random.choice(&[0, 0, 20, 200]).expect("some");
            for _ in 0..self.keys / 2 + 200 {
                self.write(removing);
                self.at_ms += self.random.u64(..3);
                if self.random.u8(..8) == 0 {
                    self.image();
                }
                if self.random.u8(..) == 0 {
                    self.sweep();
                }
            }
            if self.random.u8(..10) == 0 {
                self.clear();
            }
        }
        // Taking images has no effect on what they are taken of.
        assert_eq!(self.store.digest(0), self.twin.digest(0));
        assert_eq!(self.store.len(), self.twin.len());
    }
}

#[test]
fn images_hold_what_was_there_when_they_began() {
    let seed = seed();
    for (keys, rounds) in [(30, 300), (1000, 100), (20_000, 12)] {
        let mut run = Run::new(seed, keys);
        run.run(rounds);
        println!("{keys} keys: {:?}", run.tally);
        let tally = &run.tally;
        assert!(tally.whole > 0 && tally.abandoned > 0 && tally.swept > 0);
        assert!(keys > 1000 || tally.cleared > 0);
    }
}

fn key(number: u32) -> [u8; 16] {
    let digits = format!("key:{number:012}").into_bytes();
    digits.try_into().expect("sixteen bytes")
}

/// A store of many small keys, some of which expire.
fn many(count: u32) -> Store {
    let mut store = Store::new(HashSeed(1, 2));
    for number in 0..count {
        let expiry = match number % 3 {
            0 => SetExpiry::At(NOW_MS + u64::from(number)),
            _ => SetExpiry::Clear,
        };
        let value = number.to_string();
        apply(
            &mut store,
            &key(number),
            set(value.as_bytes(), expiry),
            NOW_MS,
        );
    }
    store
}

#[test]
fn an_abandoned_image_does_not_harm_the_next_ones() {
    // Wherever images are abandoned, one after the other, and whatever is written between and into them.
    let mut random = fastrand::Rng::with_seed(seed());
    let mut store = many(3000);
    for round in 0..40 {
        for _ in 0..random.u32(..4) {
            store.begin_image();
            for _ in 0..random.u32(..200) {
                let number = key(random.u32(..6000));
                match random.bool() {
                    true => apply(&mut store, &number, set(b"new", SetExpiry::Clear), NOW_MS),
                    false => apply(&mut store, &number, Action::Del, NOW_MS),
                };
                store.advance_image(random.usize(..60));
                if !store.is_imaging() {
                    break;
                }
            }
            store.abandon_image();
            let number = key(random.u32(..6000));
            apply(&mut store, &number, set(b"x", SetExpiry::Clear), NOW_MS);
        }
        let wanted = contents(&store);
        store.begin_image();
        for number in 0..500 {
            let number = key(number * 7 + round);
            apply(&mut store, &number, set(b"later", SetExpiry::Clear), NOW_MS);
        }
        let blocks = rest_of_image(&mut store, 100, 1000);
        assert!(contents(&loaded(&blocks, HashSeed(3, 4))) == wanted);
    }
}

#[test]
fn splits_and_emptied_pages_lose_and_repeat_nothing() {
    let mut store = many(2000);
    let wanted = contents(&store);
    store.begin_image();
    store.advance_image(500);
    // Sixteenfold growth splits tables on both sides of the walk.
    for number in 2000..32_000 {
        apply(
            &mut store,
            &key(number),
            set(&[b'v'; 60], SetExpiry::Clear),
            NOW_MS,
        );
    }
    store.advance_image(1000);
    // Nearly everything goes, so that pages are emptied into others.
    let full = store.memory_bytes();
    for number in (0..32_000).filter(|number| number % 16 != 0) {
        apply(&mut store, &key(number), Action::Del, NOW_MS);
    }
    assert!(store.memory_bytes() < full / 2, "pages were given back");
    let blocks = rest_of_image(&mut store, 100, 10_000);
    assert!(contents(&loaded(&blocks, HashSeed(5, 6))) == wanted);
    assert_eq!(store.len(), 2000);
    let wanted = contents(&store);
    store.begin_image();
    let blocks = rest_of_image(&mut store, usize::MAX, usize::MAX);
    assert!(contents(&loaded(&blocks, HashSeed(5, 6))) == wanted);
}

#[test]
fn an_image_goes_on_after_everything_was_cleared() {
    let mut store = many(5000);
    let wanted = contents(&store);
    store.begin_image();
    store.advance_image(1000);
    let full = store.memory_bytes();
    drop(store.clear());
    assert!(store.is_empty() && store.is_imaging());
    assert!(store.memory_bytes() >= full, "it is still held");
    for number in 0..500 {
        apply(
            &mut store,
            &key(number),
            set(b"new", SetExpiry::Clear),
            NOW_MS,
        );
    }
    store.advance_image(100);
    drop(store.clear());
    apply(&mut store, b"k", set(b"new", SetExpiry::Clear), NOW_MS);
    assert!(store.take_dropped().is_none(), "it is still needed");
    let blocks = rest_of_image(&mut store, 100, 10_000);
    assert!(store.take_dropped().is_some() && store.take_dropped().is_none());
    assert!(contents(&loaded(&blocks, HashSeed(5, 6))) == wanted);

    store.begin_image();
    drop(store.clear());
    store.abandon_image();
    assert!(store.take_dropped().is_some() && !store.is_imaging());
    assert!(store.memory_bytes() < 100_000);
    store.begin_image();
    assert!(rest_of_image(&mut store, 1, 1).is_empty(), "nothing is in");
    assert!(store.take_dropped().is_none());
}

#[test]
fn a_slice_is_bounded_in_entries_and_in_bytes() {
    let mut store = many(1000);
    store.begin_image();
    for _ in 0..50 {
        let before = store.image_bytes();
        assert!(!store.advance_image(10));
        let gathered = store.image_bytes() - before;
        assert!(gathered <= 10 * 40, "{gathered} bytes of ten entries");
    }
    store.abandon_image();
    for number in 0..40 {
        let value = vec![b'v'; 300_000];
        apply(
            &mut store,
            &key(number),
            set(&value, SetExpiry::Clear),
            NOW_MS,
        );
    }
    store.begin_image();
    let mut slices = 0;
    while store.is_imaging() {
        store.advance_image(usize::MAX);
        assert!(store.image_bytes() < (1 << 20) + 300_100);
        store.take_image(usize::MAX);
        slices += 1;
    }
    assert!(slices > 8, "{slices} slices of twelve megabytes");
}

#[test]
fn a_block_is_as_it_is_drawn() {
    let mut store = Store::new(HashSeed(1, 2));
    apply(&mut store, b"k", set(b"v", SetExpiry::At(NOW_MS)), NOW_MS);
    store.begin_image();
    let blocks = rest_of_image(&mut store, 10, 1000);
    assert_eq!(blocks, [b"\x04\x01\x01\x00\x68\xe5\xcf\x8b\x01\x00\x00kv"]);
    let mut copy = loaded(&blocks, HashSeed(3, 4));
    assert_eq!(contents(&copy), contents(&store));
    assert_eq!(
        apply(&mut copy, b"k", Action::IdleTime, NOW_MS),
        b":0\r\n",
        "loading is a use"
    );
    let mut copy = Store::new(HashSeed(1, 2));
    assert_eq!(
        copy.load(b"\x02\x00\x81\x01", NOW_MS),
        Err("entry 0: the bytes end within a field".to_owned())
    );
    assert_eq!(
        copy.load(b"\x00\x01\x00k\x03", NOW_MS)
            .expect_err("no entry"),
        "entry 1: the bytes end within a field"
    );
    assert_eq!(
        copy.load(b"\x08\x01\x00a", NOW_MS).expect_err("no entry"),
        "entry 0: unknown code 0x08 as the flags of an entry"
    );
    assert_eq!(
        copy.load(b"\x03\x01\x00a", NOW_MS).expect_err("no entry"),
        "entry 0: unknown code 0x03 as an encoding"
    );
    assert_eq!(
        copy.load(b"\x00\x01\x00k", NOW_MS).expect_err("twice"),
        "entry 0: its key is there already"
    );
    assert_eq!(copy.len(), 1);
    assert_eq!(
        copy.load(b"\x00\x01\x00z\x00\x01\x00z", NOW_MS)
            .expect_err("twice"),
        "entry 1: its key is there already"
    );
    assert_eq!(copy.len(), 2);
}

#[test]
fn no_bytes_make_loading_panic() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut store = many(50);
    apply(
        &mut store,
        b"long",
        set(&[b'x'; 600], SetExpiry::Clear),
        NOW_MS,
    );
    store.begin_image();
    let block = rest_of_image(&mut store, 1000, usize::MAX).concat();
    for cut in 0..block.len() {
        let mut copy = Store::new(HashSeed(1, 2));
        if let Ok(count) = copy.load(&block[..cut], NOW_MS) {
            assert!(count < 51, "a cut between two entries");
        }
    }
    for _ in 0..20_000 {
        let mut bytes = match random.bool() {
            true => block.clone(),
            false => (0..random.usize(..60)).map(|_| random.u8(..)).collect(),
        };
        for _ in 0..random.usize(..3).min(bytes.len()) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut copy = Store::new(HashSeed(1, 2));
        let told = copy.load(&bytes, NOW_MS);
        if let Ok(count) = told {
            assert_eq!(copy.len(), count);
        }
        // What was loaded is sound, be it wrong.
        let keys: Vec<Vec<u8>> = contents(&copy).into_keys().collect();
        assert_eq!(keys.len(), copy.len());
        for key in keys {
            apply(&mut copy, &key, Action::Append { value: b"more" }, NOW_MS);
            apply(&mut copy, &key, Action::Del, 0);
        }
        assert!(copy.is_empty());
    }
}

#[test]
fn a_store_with_room_is_a_store() {
    let mut filled = many(5000);
    filled.begin_image();
    let blocks = rest_of_image(&mut filled, 1000, 1000);
    for room in [0, 1, 200, 201, 5000, 100_000] {
        let mut store = Store::new(HashSeed(3, 4));
        store.reserve(room);
        let reserved = store.memory_bytes();
        assert!(reserved < 100_000 + room * 16, "{reserved} for {room}");
        for block in &blocks {
            store.load(block, NOW_MS).expect("a block of an image");
        }
        assert!(room != 5000 || store.memory_bytes() < filled.memory_bytes() * 5 / 4);
        let mut told = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = store.scan(cursor, 100, 0, &mut |key| told.push(key.to_vec()));
            if cursor == 0 {
                break;
            }
        }
        told.sort_unstable();
        assert!(told.iter().eq(contents(&filled).keys()));
        for number in 0..5000 {
            apply(&mut store, &key(number), Action::Del, NOW_MS);
        }
        assert!(store.is_empty() && store.random_key(1, 0).is_none());
    }
}

#[test]
fn digests_are_equal_when_stores_are() {
    let mut store = many(3000);
    let digest = store.digest(NOW_MS);
    store.begin_image();
    let mut blocks = rest_of_image(&mut store, 77, 500);
    blocks.reverse();
    let copy = loaded(&blocks, HashSeed(9, 9));
    assert_eq!(copy.digest(NOW_MS), digest, "order and seed do not matter");
    let alive = store.digest(NOW_MS + 1500);
    assert_ne!(alive, digest);
    while store.sweep(NOW_MS + 1500, 10, &mut |_| {}) > 0 {}
    assert_eq!(store.digest(0), alive, "the expired count as absent");

    let mut seen = vec![store.digest(0)];
    for action in [
        set(b"a", SetExpiry::Clear),
        set(b"b", SetExpiry::Clear),
        set(b"b", SetExpiry::At(NOW_MS)),
        Action::Persist,
        Action::Append { value: b"" },
        Action::Del,
    ] {
        apply(&mut store, b"k", action, NOW_MS);
        seen.push(store.digest(0));
    }
    assert_eq!((seen[2], seen[0]), (seen[4], seen[6]));
    seen.truncate(6);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5, "each state but the repeated one has its own");
    assert_eq!(Store::new(HashSeed(1, 2)).digest(0), 0);
}

#[test]
#[should_panic(expected = "an image is under way")]
fn one_image_at_a_time() {
    let mut store = many(10);
    store.begin_image();
    drop(store.clear());
    store.begin_image();
}
