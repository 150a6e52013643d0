//! The store against a model that cannot be wrong: random operations on a sorted map.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may look at the clock and start threads"
)]

use std::collections::BTreeMap;

use marline::command::op::{
    Action, Encoding, Event, GetExExpiry, Op, Set, SetAnswer, SetCondition, SetExpiry, TtlForm,
};
use marline::store::{HashSeed, Store};
use marline::wire::reply::{Dialect, Reply};

struct Model {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    store: Store,
    random: fastrand::Rng,
    at_ms: u64,
}

fn seed() -> u64 {
    let given = std::env::var("MARLINE_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MARLINE_SEED={seed}");
    seed
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            keys: BTreeMap::new(),
            store: Store::new(HashSeed(seed, !seed)),
            random: fastrand::Rng::with_seed(seed),
            at_ms: 1_700_000_000_000,
        }
    }

    fn key(&mut self, keys: u32) -> Vec<u8> {
        let number = self.random.u32(..keys);
        let mut key = format!("key:{number}").into_bytes();
        // Few keys are long: by their number, so that they come again.
        if number.is_multiple_of(97) {
            key.resize(number as usize % 5000 + 10, b'k');
        }
        if number.is_multiple_of(1999) {
            key.resize(65_536, b'K');
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

    fn alive(&self, key: &[u8]) -> Option<&(Vec<u8>, Option<u64>)> {
        let entry = self.keys.get(key);
        entry.filter(|(_, expiry)| expiry.is_none_or(|at_ms| self.at_ms <= at_ms))
    }

    fn apply(&mut self, key: &[u8], action: Action<'_>) -> String {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Dialect::Line);
        let was_there = self.alive(key).is_some();
        let was_stale = !was_there && self.keys.contains_key(key);
        // At time 0 nothing has expired: is the entry still held?
        let is_held = self.store.lookup(key, 0).is_some();
        let (is_write, before) = (action.is_write(), self.alive(key).cloned());
        let effect = self
            .store
            .apply(&Op { key, action }, self.at_ms, &mut reply);
        assert!(reply.is_complete());
        assert_eq!(effect.has(Event::Expired), !was_there && is_held);
        let now = self.store.lookup(key, self.at_ms);
        assert_eq!(effect.has(Event::New), !was_there && now.is_some());
        let now = now.map(|entry| (entry.value.to_vec(), entry.expire_at_ms));
        if now != before {
            assert!(effect.modified && is_write);
        }
        if was_stale {
            self.keys.remove(key);
        }
        String::from_utf8_lossy(&out).trim_end().to_owned()
    }

    /// One random operation, done to both.
    fn step(&mut self, keys: u32) {
        let (key, value) = (self.key(keys), self.value());
        let old = self.alive(&key).cloned();
        let later = self.at_ms + self.random.u64(1..200_000);
        match self.random.u8(..16) {
            0..6 => {
                let expiry = match self.random.u8(..4) {
                    0 => SetExpiry::At(later),
                    1 => SetExpiry::Keep,
                    _ => SetExpiry::Clear,
                };
                let condition = match self.random.u8(..6) {
                    0 => Some(SetCondition::Absent),
                    1 => Some(SetCondition::Present),
                    _ => None,
                };
                let set = Set {
                    value: &value,
                    expiry,
                    condition,
                    answer: SetAnswer::Ok,
                };
                let answer = self.apply(&key, Action::Set(set));
                let is_held =
                    condition.is_none_or(|c| (c == SetCondition::Present) == old.is_some());
                assert_eq!(answer, if is_held { "OK" } else { "(nil)" });
                let expire_at_ms = match expiry {
                    SetExpiry::At(at_ms) => Some(at_ms),
                    SetExpiry::Keep => old.and_then(|(_, expiry)| expiry),
                    SetExpiry::Clear => None,
                };
                if is_held {
                    self.keys.insert(key, (value, expire_at_ms));
                }
            }
            6..9 => {
                assert_eq!(
                    self.apply(&key, Action::Del),
                    i32::from(old.is_some()).to_string()
                );
                self.keys.remove(&key);
            }
            9 => {
                let old = old.unwrap_or_default();
                let joined = [&old.0[..], &value].concat();
                let answer = self.apply(&key, Action::Append { value: &value });
                assert_eq!(answer, joined.len().to_string());
                self.keys.insert(key, (joined, old.1));
            }
            10 => {
                let at = self.random.usize(..700);
                let mut old = old.unwrap_or_default();
                let end = at + value.len();
                if !value.is_empty() {
                    old.0.resize(old.0.len().max(end), 0);
                    old.0[at..end].copy_from_slice(&value);
                }
                let action = Action::SetRange {
                    offset: at as u64,
                    value: &value,
                };
                assert_eq!(self.apply(&key, action), old.0.len().to_string());
                if !value.is_empty() {
                    self.keys.insert(key, old);
                }
            }
            11 => {
                let action = Action::Expire {
                    at_ms: later as i64,
                    condition: None,
                };
                assert_eq!(
                    self.apply(&key, action),
                    i32::from(old.is_some()).to_string()
                );
                if let Some((_, expiry)) = self.keys.get_mut(&key) {
                    *expiry = Some(later);
                }
            }
            12 => {
                self.apply(
                    &key,
                    Action::GetEx {
                        expiry: GetExExpiry::Clear,
                    },
                );
                if let Some((_, expiry)) = self.keys.get_mut(&key) {
                    *expiry = None;
                }
            }
            13 => {
                let form = TtlForm::UnixMilliseconds;
                let want = old.map_or(-2, |(_, expiry)| expiry.map_or(-1, |at_ms| at_ms as i64));
                assert_eq!(self.apply(&key, Action::Ttl { form }), want.to_string());
            }
            14 => {
                let action = Action::Put {
                    value: &value,
                    expire_at_ms: Some(later),
                    encoding: Encoding::Raw,
                    event: Event::CopyTo,
                };
                // COPY reports a new key even where there was one.
                let mut out = Vec::new();
                let mut reply = Reply::new(&mut out, Dialect::Line);
                let effect = self
                    .store
                    .apply(&Op { key: &key, action }, self.at_ms, &mut reply);
                assert!(out.is_empty() && effect.has(Event::New) && effect.has(Event::CopyTo));
                self.keys.insert(key, (value, Some(later)));
            }
            _ => {
                let want = old.map_or("(nil)".to_owned(), |(value, _)| {
                    let mut out = Vec::new();
                    Reply::new(&mut out, Dialect::Line).bulk(&value);
                    String::from_utf8_lossy(&out).trim_end().to_owned()
                });
                assert_eq!(self.apply(&key, Action::Get), want);
            }
        }
    }

    fn check_all(&mut self) {
        let at_ms = self.at_ms;
        self.keys
            .retain(|_, (_, expiry)| expiry.is_none_or(|expire| at_ms <= expire));
        let mut seen = 0;
        self.store.for_each(at_ms, &mut |key, entry| {
            let (value, expiry) = &self.keys[key];
            assert_eq!((entry.value, entry.expire_at_ms), (&value[..], *expiry));
            seen += 1;
        });
        assert_eq!(seen, self.keys.len());
        for (key, (value, _)) in &self.keys {
            assert_eq!(
                self.store.lookup(key, at_ms).expect("is there").value,
                value
            );
        }
        let held: usize = self
            .keys
            .iter()
            .map(|(key, (value, _))| key.len() + value.len())
            .sum();
        assert!(self.store.memory_bytes() >= held);
    }

    fn sweep_all(&mut self) {
        let at_ms = self.at_ms;
        let mut removed = Vec::new();
        for _ in 0..self.store.len() + 64 {
            self.store
                .sweep(at_ms, 7, &mut |key| removed.push(key.to_vec()));
        }
        for key in removed {
            if let Some((_, expiry)) = self.keys.remove(&key) {
                assert!(expiry.is_some_and(|expire| at_ms > expire), "swept alive");
            }
        }
        self.check_all();
        assert_eq!(self.store.len(), self.keys.len(), "nothing expired is left");
        let expiring = self.keys.values().filter(|(_, expiry)| expiry.is_some());
        assert_eq!(self.store.expiring(), expiring.count());
    }
}

#[test]
fn random_operations_do_what_a_map_does() {
    for keys in [30, 1000, 20_000] {
        let mut model = Model::new(seed());
        for round in 0..6 {
            for _ in 0..keys * 2 + 3000 {
                model.step(keys);
                model.at_ms += model.random.u64(..5);
            }
            model.check_all();
            if round % 2 == 1 {
                model.sweep_all();
            }
        }
        let dropped = model.store.clear();
        std::thread::spawn(move || drop(dropped))
            .join()
            .expect("is Send");
        model.keys.clear();
        model.check_all();
        assert_eq!((model.store.len(), model.store.expiring()), (0, 0));
        assert!(model.store.memory_bytes() < 100_000);
        assert_eq!(model.store.random_key(7, model.at_ms), None);
        (0..1000).for_each(|_| model.step(keys));
        model.check_all();
    }
}

#[test]
fn a_scan_tells_each_lasting_key_exactly_once() {
    let mut model = Model::new(seed());
    let lasting: Vec<String> = (0..5000)
        .map(|number| format!("lasting:{number}"))
        .collect();
    for key in &lasting {
        let set = Set {
            value: b"here",
            expiry: SetExpiry::Clear,
            condition: None,
            answer: SetAnswer::Silent,
        };
        model.apply(key.as_bytes(), Action::Set(set));
    }
    for count in [1, 10, 100, 1000, 100_000] {
        let mut told: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let (mut cursor, mut calls) = (0, 0);
        loop {
            let mut many = 0;
            cursor = model.store.scan(cursor, count, model.at_ms, &mut |key| {
                many += 1;
                *told.entry(key.to_vec()).or_default() += 1;
            });
            assert!(many <= count + 1 && cursor < 1 << 38);
            calls += 1;
            if cursor == 0 {
                break;
            }
            // Between the calls the store grows tenfold, keys expire and are swept.
            (0..50).for_each(|_| model.step(60_000));
            model.at_ms += 500;
            model.store.sweep(model.at_ms, 3, &mut |_| {});
        }
        for key in &lasting {
            assert_eq!(
                told.get(key.as_bytes()),
                Some(&1),
                "{key} with COUNT {count}"
            );
        }
        assert!(
            told.values().all(|&times| times == 1),
            "nothing is told twice"
        );
        println!("COUNT {count}: {calls} calls for {} keys", told.len());
    }
}

#[test]
fn a_foreign_cursor_is_harmless() {
    let mut model = Model::new(1);
    (0..5000).for_each(|_| model.step(3000));
    for cursor in [1, 12_345, (1 << 38) - 1, 1 << 38, u64::MAX] {
        let next = model.store.scan(cursor, 10, model.at_ms, &mut |_| {});
        assert!(next < 1 << 38);
    }
}

#[test]
fn random_keys_reach_every_key() {
    let mut model = Model::new(5);
    (0..2000).for_each(|_| model.step(300));
    model.sweep_all();
    let mut random = fastrand::Rng::with_seed(2);
    let mut told = BTreeMap::new();
    for _ in 0..model.store.len() * 60 {
        let key = model
            .store
            .random_key(random.u64(..), model.at_ms)
            .expect("not empty");
        *told.entry(key.to_vec()).or_insert(0) += 1;
    }
    assert_eq!(told.len(), model.store.len(), "all of them come up");
}

#[test]
fn equal_operations_give_equal_stores() {
    let mut models = [Model::new(9), Model::new(9)];
    for model in &mut models {
        (0..20_000).for_each(|_| model.step(5000));
    }
    let keys = |model: &Model| {
        let mut keys = Vec::new();
        model.store.scan(0, usize::MAX, model.at_ms, &mut |key| {
            keys.push(key.to_vec());
        });
        keys
    };
    assert_eq!(keys(&models[0]), keys(&models[1]));
    assert_eq!(
        models[0].store.memory_bytes(),
        models[1].store.memory_bytes()
    );
}

#[test]
fn memory_is_given_back_when_keys_go() {
    let (mut store, mut out) = (Store::new(HashSeed(11, 12)), Vec::new());
    let mut apply = |store: &mut Store, number: u32, action: Action<'_>| {
        let key = format!("key:{number:012}");
        let mut reply = Reply::new(&mut out, Dialect::Resp2);
        store.apply(
            &Op {
                key: key.as_bytes(),
                action,
            },
            1,
            &mut reply,
        );
    };
    for number in 0..100_000 {
        let set = Set {
            value: &[b'v'; 100],
            expiry: SetExpiry::Clear,
            condition: None,
            answer: SetAnswer::Silent,
        };
        apply(&mut store, number, Action::Set(set));
    }
    let full = store.memory_bytes();
    for number in (0..100_000).filter(|number| number % 10 != 0) {
        apply(&mut store, number, Action::Del);
    }
    let tenth = store.memory_bytes();
    println!("{full} bytes full, {tenth} with a tenth of the keys");
    assert!(tenth < full * 3 / 10, "{tenth} of {full}");
}
