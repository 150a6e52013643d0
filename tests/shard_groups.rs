//! Groups of several replicas, without nodes: shards that exchange messages over a network that a seed decides about.
//! Time is counted in milliseconds; each replica's record takes some to become durable.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

use std::collections::BTreeMap;

use marline::command::op::{Action, Op, Set, SetAnswer, SetExpiry};
use marline::shard::Shard;
use marline::shard::members::Members;
use marline::shard::meta::Part;
use marline::shard::peer;
use marline::shard::recovery::Recovery;
use marline::shard::section;
use marline::store::HashSeed;

const SEED: HashSeed = HashSeed(1, 2);
const NODES: u64 = 3;
const TICK_MS: u64 = 100;

/// The replica of a node.
fn replica(node: u64) -> u64 {
    node << 32 | 1
}

struct Replica {
    shard: Shard,
    /// Records that are durable.
    log: Vec<Vec<u8>>,
    /// The snapshot that is.
    image: Option<Image>,
    record: Vec<u8>,
    number: u64,
    /// The record under way, and when it will be durable.
    flight: Option<(u64, Vec<u8>, u64)>,
    tick_at: u64,
    is_up: bool,
}

/// A shard as it was at one moment.
#[derive(Clone)]
struct Image {
    part: Part,
    blocks: Vec<Vec<u8>>,
}

impl Image {
    fn of(shard: &mut Shard, receiver: u64) -> Image {
        let mut part = shard.part();
        part.replica = receiver;
        (part.state.term, part.state.vote) = (part.applied.term, 0);
        let store = shard.store_mut();
        store.begin_image();
        while !store.advance_image(1_000) {}
        let mut blocks = Vec::new();
        while store.image_bytes() > 0 {
            blocks.push(store.take_image(64 << 10));
        }
        Image { part, blocks }
    }

    fn load(&self) -> Recovery {
        let mut recovery = Recovery::new(0, SEED);
        recovery.begin_from(&self.part, 0);
        for block in &self.blocks {
            recovery.load(block).unwrap();
        }
        recovery
    }
}

struct World {
    rng: fastrand::Rng,
    now: u64,
    replicas: BTreeMap<u64, Replica>,
    /// When it arrives, its order, from, to, bytes.
    network: BTreeMap<(u64, u64), (u64, u64, Vec<u8>)>,
    order: u64,
    /// Out of a hundred messages, so many are lost.
    lost: u32,
    cut_off: Vec<u64>,
    sync_ms: u64,
    /// Leaders by term: there is one at most.
    leaders: BTreeMap<u64, u64>,
    /// Snapshots that were sent.
    sent: usize,
}

impl World {
    fn new(seed: u64, lost: u32) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let members: Vec<u64> = (1..=NODES).map(replica).collect();
        let members = Members::of(&members);
        let mut replicas = BTreeMap::new();
        for node in 1..=NODES {
            let base = Recovery::founding(replica(node), &members, Vec::new());
            let mut recovery = Recovery::new(0, SEED);
            recovery.begin(&base).unwrap();
            let mut record = Vec::new();
            recovery.write_base(&base, &mut record);
            let mut shard = recovery.finish();
            shard.end_quiet();
            let fresh = Replica {
                shard,
                log: vec![record],
                image: None,
                record: Vec::new(),
                number: 1,
                flight: None,
                tick_at: rng.u64(0..TICK_MS),
                is_up: true,
            };
            replicas.insert(node, fresh);
        }
        World {
            rng,
            now: 0,
            replicas,
            network: BTreeMap::new(),
            order: 0,
            lost,
            cut_off: Vec::new(),
            sync_ms: 4,
            leaders: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Brings a snapshot to the followers that the leader on this node wants one for, in no time.
    fn send_images(&mut self, node: u64) {
        let Some(leader) = self.replicas.get_mut(&node) else {
            return;
        };
        let wanted = leader.shard.take_wanted();
        for to in wanted {
            let Some(leader) = self.replicas.get_mut(&node) else {
                return;
            };
            leader.shard.begin_sending();
            let image = Image::of(&mut leader.shard, to);
            let there = self.replicas.get_mut(&(to >> 32)).unwrap();
            if !there.is_up || self.cut_off.contains(&node) || self.cut_off.contains(&(to >> 32)) {
                continue;
            }
            there.shard.stage(image.load());
            let (at, members) = (image.part.applied, image.part.members.clone());
            there.image = Some(image);
            self.sent += 1;
            let leader = self.replicas.get_mut(&node).unwrap();
            leader.shard.has_staged(to, at, members);
        }
    }

    /// A millisecond passes.
    fn step(&mut self) {
        self.now += 1;
        let later = self.network.split_off(&(self.now + 1, 0));
        let arrived = std::mem::replace(&mut self.network, later);
        for (from, to, bytes) in arrived.into_values() {
            let is_cut = self.cut_off.contains(&from) || self.cut_off.contains(&to);
            let Some(there) = self
                .replicas
                .get_mut(&to)
                .filter(|there| there.is_up && !is_cut)
            else {
                continue;
            };
            let (_, message, _) = peer::decode(&bytes).unwrap();
            let _ = there.shard.step(message, from as u32);
        }
        for node in 1..=NODES {
            self.turn(node);
        }
    }

    fn turn(&mut self, node: u64) {
        let now = self.now;
        let Some(one) = self.replicas.get_mut(&node).filter(|one| one.is_up) else {
            return;
        };
        if one.tick_at <= now {
            one.tick_at += TICK_MS;
            one.shard.tick();
        }
        if let Some((_, record, number)) = one.flight.take_if(|flight| flight.0 <= now) {
            one.log.push(record);
            one.shard.persisted(number);
        }
        one.shard.advance(Some(&mut one.record), one.number);
        if one.flight.is_none() && !one.record.is_empty() {
            let record = std::mem::take(&mut one.record);
            one.flight = Some((now + self.rng.u64(1..=self.sync_ms), record, one.number));
            one.number += 1;
        }
        while one.shard.next_committed().is_some() {
            one.shard.apply_entry(|_, _| {}, drop);
        }
        one.shard.settle();
        if one.shard.is_leader() {
            let term = one.shard.hard_state().term;
            let leader = *self.leaders.entry(term).or_insert(node);
            assert_eq!(leader, node, "one leader in term {term}");
        }
        let messages = one.shard.take_outbox();
        self.send_images(node);
        for message in messages {
            let one = self.replicas.get_mut(&node).unwrap();
            if self.rng.u32(0..100) < self.lost {
                one.shard.report_unreachable(message.to);
                continue;
            }
            let mut bytes = Vec::new();
            peer::encode(0, &message, &mut bytes);
            self.order += 1;
            let at = now + self.rng.u64(0..3);
            let to = message.to >> 32;
            self.network.insert((at, self.order), (node, to, bytes));
        }
    }

    fn pass(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// The node that leads, once all that are up and not cut off agree.
    fn leader(&self) -> Option<u64> {
        let here = |node: &&u64| !self.cut_off.contains(node);
        let up = self
            .replicas
            .iter()
            .filter(|(node, one)| one.is_up && here(node));
        let mut leaders: Vec<_> = up.map(|(_, one)| one.shard.leader()).collect();
        leaders.dedup();
        match leaders[..] {
            [Some(leader)] => Some(leader >> 32),
            _ => None,
        }
    }

    /// Lets time pass until there is a leader; how long it took.
    fn elect(&mut self) -> u64 {
        let began = self.now;
        while self.leader().is_none() {
            self.step();
            assert!(self.now < began + 20_000, "nobody is elected");
        }
        self.now - began
    }

    /// Has the leader propose a write; where it stands in the log.
    fn write(&mut self, key: &str, value: &str) -> Option<(u64, u64)> {
        let leader = self.leader()?;
        let one = self.replicas.get_mut(&leader)?;
        let set = Set {
            value: value.as_bytes(),
            expiry: SetExpiry::Clear,
            condition: None,
            answer: SetAnswer::Silent,
        };
        one.shard.propose(&Op {
            key: key.as_bytes(),
            action: Action::Set(set),
        });
        one.shard.close(self.now)
    }

    /// Ends a process; what was on its way to the disk is lost.
    fn kill(&mut self, node: u64) {
        self.replicas.get_mut(&node).unwrap().is_up = false;
    }

    /// Starts it again from what is durable.
    fn start(&mut self, node: u64) {
        let one = self.replicas.get_mut(&node).unwrap();
        let mut recovery = match &one.image {
            Some(image) => image.load(),
            None => Recovery::new(0, SEED),
        };
        for record in &one.log {
            for section in section::read(record).unwrap() {
                recovery.section(&section).unwrap();
            }
        }
        recovery.check().unwrap();
        one.shard = recovery.finish();
        (one.record, one.number, one.flight) = (Vec::new(), one.number + 1, None);
        (one.tick_at, one.is_up) = (self.now + TICK_MS, true);
    }

    /// Heals everything, waits, and compares the replicas.
    fn end(&mut self) {
        (self.lost, self.cut_off) = (0, Vec::new());
        for node in 1..=NODES {
            if !self.replicas[&node].is_up {
                self.start(node);
            }
        }
        self.pass(4_000);
        self.elect();
        self.pass(1_000);
        let digests: Vec<(u64, u64)> = self
            .replicas
            .values()
            .map(|one| {
                (
                    one.shard.applied().index,
                    one.shard.store().digest(self.now),
                )
            })
            .collect();
        assert!(
            digests.windows(2).all(|pair| pair[0] == pair[1]),
            "{digests:?}"
        );
    }
}

#[test]
fn a_group_elects_soon_and_again_when_its_leader_dies() {
    for seed in 0..20 {
        let mut world = World::new(seed, 0);
        let first = world.elect();
        assert!(
            first < 2_000,
            "seed {seed}: the first election took {first} ms"
        );
        world.pass(1_000);
        let leader = world.leader().unwrap();
        world.kill(leader);
        let began = world.now;
        while world.leader().is_none_or(|new| new == leader) {
            world.step();
            assert!(
                world.now < began + 1_500,
                "seed {seed}: nobody follows {leader}"
            );
        }
        world.start(leader);
        world.end();
    }
}

#[test]
fn who_lags_behind_the_log_is_brought_a_snapshot() {
    let value = "x".repeat(200_000);
    for seed in 0..10 {
        let mut world = World::new(seed, 0);
        world.elect();
        let away = world.leader().unwrap() % NODES + 1;
        world.kill(away);
        for round in 0..120 {
            world.write(&format!("k{}", round % 7), &format!("{round}{value}"));
            world.pass(20);
        }
        world.start(away);
        world.pass(1_000);
        assert!(world.sent > 0, "seed {seed}: the log alone was enough");
        let there = world.replicas[&away].shard.applied().index;
        assert!(there > 100, "seed {seed}: it is at entry {there}");
        // And it is there when it starts again.
        world.kill(away);
        world.start(away);
        let there = world.replicas[&away].shard.applied().index;
        assert!(there > 100, "seed {seed}: it begins at entry {there}");
        for round in 0..20 {
            world.write(&format!("k{}", round % 7), &format!("{round}"));
            world.pass(20);
        }
        world.end();
    }
}

#[test]
fn what_was_committed_stays_whatever_happens() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut world = World::new(seed, 5);
        let mut kept: BTreeMap<String, String> = BTreeMap::new();
        let mut open: Vec<(u64, u64, String, String)> = Vec::new();
        for round in 0..1_500 {
            match world.rng.u32(0..200) {
                0 => {
                    let node = world.rng.u64(1..=NODES);
                    if world.replicas.values().filter(|one| one.is_up).count() > 2 {
                        world.kill(node);
                    }
                }
                1..4 => {
                    let down = world.replicas.iter().find(|(_, one)| !one.is_up);
                    if let Some(node) = down.map(|(&node, _)| node) {
                        world.start(node);
                    }
                }
                4 => world.cut_off = vec![world.rng.u64(1..=NODES)],
                5..8 => world.cut_off.clear(),
                _ => {}
            }
            let (key, value) = (format!("k{}", round % 50), round.to_string());
            if let Some((index, term)) = world.write(&key, &value) {
                open.push((index, term, key, value));
            }
            world.pass(20);
            // What the leader of that term has applied is committed.
            open.retain(|(index, term, key, value)| {
                let leads = |one: &&Replica| one.is_up && one.shard.is_leader();
                let leader = world.replicas.values().filter(leads);
                let done = leader.filter(|one| one.shard.hard_state().term == *term);
                let is_done = done.clone().any(|one| one.shard.applied().index >= *index);
                if is_done {
                    kept.insert(key.clone(), value.clone());
                }
                !is_done
            });
        }
        world.end();
        assert!(kept.len() > 20, "seed {seed}: only {} writes", kept.len());
        for one in world.replicas.values() {
            for (key, value) in &kept {
                let entry = one.shard.lookup(key.as_bytes(), world.now).unwrap();
                let found: u64 = std::str::from_utf8(entry.value).unwrap().parse().unwrap();
                assert!(
                    found >= value.parse().unwrap(),
                    "seed {seed}: {key} fell back"
                );
            }
        }
    }
}
