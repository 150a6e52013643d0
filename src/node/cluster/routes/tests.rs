//! Nodes that lead in turns, connections that break, and the order in which things are done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

const NODES: u32 = 3;
const SHARDS: u16 = 2;

/// A thing: its number, in the order in which all were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Thing {
    number: u32,
    shard: u16,
    is_write: bool,
}

/// What a node answers.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Done(u64),
    Undone(u64, Option<NodeId>),
}

/// A node as the caller knows it: what is on the way to it and back, and which shards it sends back.
#[derive(Default)]
struct Far {
    to: VecDeque<(u64, bool, Thing)>,
    back: VecDeque<Answer>,
    refusing: BTreeSet<u16>,
}

struct World {
    random: fastrand::Rng,
    routes: Routes<Thing>,
    nodes: BTreeMap<NodeId, Far>,
    leaders: BTreeMap<u16, NodeId>,
    added: u32,
    now: Nanos,
    /// What was done, by shard, in order.
    done: BTreeMap<u16, Vec<Thing>>,
    /// What has left.
    left: BTreeSet<Thing>,
    unknown: BTreeSet<Thing>,
    undone: BTreeSet<Thing>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            random: fastrand::Rng::with_seed(seed),
            routes: Routes::default(),
            nodes: (1..=NODES).map(|node| (node, Far::default())).collect(),
            leaders: (0..SHARDS).map(|shard| (shard, 1)).collect(),
            added: 0,
            now: 1,
            done: BTreeMap::new(),
            left: BTreeSet::new(),
            unknown: BTreeSet::new(),
            undone: BTreeSet::new(),
        }
    }

    fn node(&mut self) -> NodeId {
        self.random.u32(1..=NODES)
    }

    fn leave(&mut self, thing: Thing) {
        assert!(self.left.insert(thing), "{thing:?} has left twice");
    }

    /// Sends what waits to somebody who may or may not lead.
    fn send(&mut self, shard: u16, is_tick: bool) {
        let believed = match self.random.u8(..4) {
            0 => self.node(),
            1 => self.routes.hint(shard).unwrap_or(1),
            _ => self.leaders[&shard],
        };
        let to = &mut self.nodes.get_mut(&believed).expect("a node").to;
        self.routes
            .send(shard, believed, is_tick, |id, fresh, thing| {
                to.push_back((id, fresh, *thing));
            });
    }

    fn add(&mut self) {
        let (shard, is_write) = (self.random.u16(..SHARDS), self.random.u8(..3) > 0);
        self.added += 1;
        let number = self.added;
        let thing = Thing {
            number,
            shard,
            is_write,
        };
        self.routes.add(shard, is_write, self.now, thing);
        self.send(shard, false);
    }

    /// A node takes the next thing, as `serve` does.
    fn take(&mut self, node: NodeId) {
        let far = self.nodes.get_mut(&node).expect("a node");
        let Some((id, is_fresh, thing)) = far.to.pop_front() else {
            return;
        };
        let leader = self.leaders[&thing.shard];
        if is_fresh {
            far.refusing.remove(&thing.shard);
        }
        if leader != node || far.refusing.contains(&thing.shard) {
            far.refusing.insert(thing.shard);
            let hint = (self.random.u8(..2) == 0).then_some(leader);
            return far.back.push_back(Answer::Undone(id, hint));
        }
        self.done.entry(thing.shard).or_default().push(thing);
        far.back.push_back(Answer::Done(id));
    }

    /// The caller hears the next answer of a node.
    fn hear(&mut self, node: NodeId) {
        let answer = self.nodes.get_mut(&node).expect("a node").back.pop_front();
        let shard = match answer {
            None => return,
            Some(Answer::Done(id)) => self.routes.done(id).map(|(shard, thing)| {
                if let Some(thing) = thing {
                    self.leave(thing);
                }
                shard
            }),
            Some(Answer::Undone(id, leader)) => self.routes.undone(id, leader),
        };
        if let Some(shard) = shard {
            self.send(shard, false);
        }
    }

    /// A connection breaks: some of what is on the way still arrives, no answer does.
    fn cut(&mut self, node: NodeId) {
        let arrives = self.random.usize(..4);
        (0..arrives).for_each(|_| self.take(node));
        *self.nodes.get_mut(&node).expect("a node") = Far::default();
        for thing in self.routes.lost(node) {
            assert!(thing.is_write);
            self.unknown.insert(thing);
            self.leave(thing);
        }
    }

    fn tick(&mut self) {
        for shard in self.routes.waiting() {
            self.send(shard, true);
        }
        let ended = self.routes.expire(self.now);
        for thing in ended.undone {
            self.undone.insert(thing);
            self.leave(thing);
        }
        for thing in ended.unknown {
            self.unknown.insert(thing);
            self.leave(thing);
        }
    }

    fn step(&mut self) {
        self.now += self.random.u64(..300_000_000);
        let node = self.node();
        match self.random.u8(..40) {
            0 => self.cut(node),
            1 | 2 => {
                let shard = self.random.u16(..SHARDS);
                self.leaders.insert(shard, node);
            }
            3..=5 => self.tick(),
            6..=15 => self.add(),
            16..=27 => self.take(node),
            _ => self.hear(node),
        }
    }

    /// Nothing breaks any more: everything leaves.
    fn come_to_rest(&mut self) {
        for _ in 0..1_000 {
            for node in 1..=NODES {
                self.take(node);
                self.hear(node);
            }
            self.tick();
            if self.routes.is_empty() {
                return;
            }
        }
        panic!("{} things never left", self.routes.len());
    }

    fn check(&self) {
        assert_eq!(self.left.len(), self.added as usize);
        for (shard, done) in &self.done {
            let writes: Vec<u32> = done
                .iter()
                .filter(|thing| thing.is_write)
                .map(|thing| thing.number)
                .collect();
            let is_in_order = writes.is_sorted_by(|a, b| a < b);
            assert!(
                is_in_order,
                "writes of shard {shard} were done as {writes:?}"
            );
            let undone = done.iter().find(|thing| self.undone.contains(thing));
            let undone = undone.filter(|thing| thing.is_write);
            assert_eq!(undone, None, "it was done, and called undone");
        }
        let everything: BTreeSet<Thing> = self.done.values().flatten().copied().collect();
        let known = self.left.iter();
        for thing in known.filter(|thing| !self.unknown.contains(thing)) {
            let was_done = everything.contains(thing);
            assert!(
                was_done || self.undone.contains(thing),
                "{thing:?} was lost"
            );
        }
    }
}

#[test]
fn whatever_breaks_writes_are_done_once_and_in_their_order() {
    for seed in 0..400 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        (0..600).for_each(|_| world.step());
        world.come_to_rest();
        world.check();
    }
}

#[test]
fn two_nodes_that_send_back_are_asked_again_only_after_a_while() {
    let mut routes = Routes::default();
    routes.add(0, true, 0, "w");
    let mut sent = Vec::new();
    for leader in [1, 2, 1, 2] {
        routes.send(0, leader, false, |id, _, _| sent.push(id));
        if let Some(&id) = sent.last() {
            routes.undone(id, Some(3 - leader));
        }
    }
    assert_eq!(sent.len(), 2);
    routes.send(0, 1, true, |id, _, _| sent.push(id));
    assert_eq!(sent.len(), 3);
}
