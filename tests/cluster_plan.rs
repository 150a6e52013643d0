//! The cluster map, its text, and how one map follows another: scenarios as text, and random ones from seeds.
//!
//! A scenario is a file in `tests/golden/cluster/`. Lines that begin with `> ` are what happens; below each stands
//! what it changed in the map, or the refusal:
//!
//! ```text
//!   > found 4 shards, 3 replicas: a b c           node `a` has the name aaaa… and the address 127.0.0.1:8001
//!   > join d 8004                                 a node joins, or is back, on that port
//!   > leave 2      > forget 2      > undo 3
//!   > next         > done 3        > done meta
//!   > settle                                      next and done until nothing is left to be done
//!   > map                                         print all of it
//! ```

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use marline::cluster::map::{EPOCH_MAX, META, Map, Member, NodeId, Placement, ReplicaId};
use marline::cluster::plan::{self, Moves, Refusal};

const SCENARIOS: [&str; 5] = ["found", "join", "leave", "wiped", "refused"];

fn name(letter: &str) -> String {
    letter.repeat(40)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn path(scenario: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/cluster")
        .join(scenario)
        .with_extension("txt")
}

/// The lines of `new` that `old` has not, and the other way round.
fn difference(old: &Map, new: &Map) -> String {
    let (old, new) = (old.encode(), new.encode());
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut lines = Vec::new();
    lines.extend(
        old.iter()
            .filter(|line| !new.contains(line))
            .map(|line| format!("- {line}")),
    );
    lines.extend(
        new.iter()
            .filter(|line| !old.contains(line))
            .map(|line| format!("+ {line}")),
    );
    match lines.is_empty() {
        true => "(nothing changes)\n".to_owned(),
        false => lines.join("\n") + "\n",
    }
}

/// `4 shards, 3 replicas: a b c`
fn found(text: &str) -> Map {
    let (numbers, letters) = text.split_once(": ").unwrap();
    let mut numbers = numbers
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse::<u16>().ok());
    let (shards, replicas) = (numbers.next().unwrap(), numbers.next().unwrap() as u8);
    let members = letters.split(' ').map(name).zip((8001..).map(address));
    plan::found(0x00c0_ffee_00c0_ffee, shards, replicas, members.collect()).unwrap()
}

fn step(old: &Map, command: &str) -> Result<Map, String> {
    let words: Vec<&str> = command.split(' ').collect();
    let shard = |word: &str| {
        if word == "meta" {
            META
        } else {
            word.parse().unwrap()
        }
    };
    let refused = |refusal: Refusal| refusal.to_string();
    match words[..] {
        ["join", letter, port] => {
            plan::join(old, &name(letter), address(port.parse().unwrap())).map_err(refused)
        }
        ["leave", node] => plan::leave(old, node.parse().unwrap()).map_err(refused),
        ["forget", node] => plan::forget(old, node.parse().unwrap()).map_err(refused),
        ["next"] => plan::next(old).ok_or("nothing to be done now".to_owned()),
        ["done", word] => plan::done(old, shard(word)).ok_or("no change there".to_owned()),
        ["undo", word] => plan::undo(old, shard(word)).ok_or("no change there".to_owned()),
        _ => panic!("no such command: {command}"),
    }
}

fn changing(map: &Map) -> Option<u16> {
    let mut placements = map.every_placement();
    placements
        .find(|(_, placement)| placement.next.is_some())
        .map(|(shard, _)| shard)
}

/// One step of `settle`; `None`: the map is as it should be.
fn further(map: &Map) -> Option<Map> {
    match changing(map) {
        Some(shard) => plan::done(map, shard),
        None => plan::next(map),
    }
}

/// The scenario with what it comes to.
fn run(script: &str) -> String {
    let mut map: Option<Map> = None;
    let mut text = String::new();
    for line in script.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            if line.starts_with('#') || line.is_empty() {
                text += &format!("{line}\n");
            }
            continue;
        };
        text += &format!("> {command}\n");
        if let Some(members) = command.strip_prefix("found ") {
            text += &map.insert(found(members)).encode();
            continue;
        }
        let now = map.as_mut().unwrap();
        match command {
            "map" => text += &now.encode(),
            "settle" => {
                while let Some(next) = further(now) {
                    let lines = difference(now, &next);
                    let told = lines
                        .lines()
                        .filter(|line| !line[2..].starts_with("epoch "));
                    let told: Vec<&str> = told
                        .filter(|line| line.starts_with('+') || line.contains(" node "))
                        .collect();
                    text += &format!("{}: {}\n", next.epoch, told.join("\n    "));
                    *now = next;
                }
            }
            _ => match step(now, command) {
                Ok(next) => {
                    text += &difference(now, &next);
                    *now = next;
                }
                Err(reason) => text += &format!("refused: {reason}\n"),
            },
        }
        let decoded = Map::decode(now.encode().as_bytes());
        assert_eq!(decoded.as_ref(), Ok(&*now), "after {command}");
    }
    text
}

#[test]
#[ignore = "writes what the scenarios in tests/golden/cluster come to"]
fn write_the_scenarios() {
    for scenario in SCENARIOS {
        let script = fs::read_to_string(path(scenario)).unwrap();
        fs::write(path(scenario), run(&script)).unwrap();
    }
}

#[test]
fn the_scenarios_come_to_what_is_written() {
    for scenario in SCENARIOS {
        let script = fs::read_to_string(path(scenario)).unwrap();
        assert_eq!(script, run(&script), "{scenario}");
    }
}

/// A random cluster's map with the change that it was made by.
struct World {
    map: Map,
    random: fastrand::Rng,
    /// Names given so far.
    names: u32,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let members = random.u32(1..6);
        let names =
            (0..members).map(|number| (format!("{number:040x}"), address(8001 + number as u16)));
        let (shards, replicas) = (random.u16(1..40), random.u8(1..6));
        let map = plan::found(seed, shards, replicas, names.collect()).unwrap();
        World {
            map,
            random,
            names: members,
            seed,
        }
    }

    fn each(&self) -> usize {
        usize::from(self.map.replicas).min(self.map.staying().len())
    }

    /// Replicas of every shard on nodes that stay.
    fn safe(&self, map: &Map) -> Vec<usize> {
        let staying = self.map.staying();
        let stays = |replica: &&ReplicaId| staying.contains(&replica.node());
        map.every_placement()
            .map(|(_, placement)| placement.replicas.iter().filter(stays).count())
            .collect()
    }

    fn a_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.map.nodes.keys().copied().collect();
        nodes[self.random.usize(..nodes.len())]
    }

    /// Somebody joins, is back, moves, is wiped, leaves, or a change is given up.
    fn trouble(&mut self) {
        let node = self.a_node();
        let member = self.map.nodes[&node].clone();
        let port = address(8001 + self.random.u16(..12));
        let new = format!("{:040x}", self.names);
        let changed = match self.random.u8(..6) {
            0 | 1 => plan::join(&self.map, &new, port),
            2 => plan::join(&self.map, &new, member.address),
            3 => plan::join(&self.map, &member.name, port),
            4 => plan::leave(&self.map, node),
            _ => Ok(changing(&self.map)
                .and_then(|shard| plan::undo(&self.map, shard))
                .unwrap_or(self.map.clone())),
        };
        self.names += 1;
        match changed {
            Ok(map) => self.follow(map),
            Err(refusal) => assert_eq!(refusal, Refusal::Last(node), "seed {}", self.seed),
        }
    }

    fn follow(&mut self, next: Map) {
        let seed = self.seed;
        let is_same = next == self.map;
        assert!(is_same || next.epoch == self.map.epoch + 1, "seed {seed}");
        assert_eq!(
            Map::decode(next.encode().as_bytes()).as_ref(),
            Ok(&next),
            "seed {seed}"
        );
        self.map = next;
    }

    /// One step of the planner, which must be small and must not do harm; whether there was one.
    fn step(&mut self) -> bool {
        let Some(next) = further(&self.map) else {
            return false;
        };
        let seed = self.seed;
        let lists = |map: &Map| -> Vec<BTreeSet<ReplicaId>> {
            map.every_placement()
                .map(|(_, placement)| placement.replicas.iter().copied().collect())
                .collect()
        };
        let (old, new) = (lists(&self.map), lists(&next));
        let changed: Vec<usize> = (0..old.len()).filter(|&at| old[at] != new[at]).collect();
        assert!(changed.len() <= 1, "seed {seed}: one shard at a time");
        for &at in &changed {
            assert!(
                new[at].difference(&old[at]).count() <= 1,
                "seed {seed}: one replica at a time"
            );
            assert!(
                old[at].difference(&new[at]).count() <= 1,
                "seed {seed}: one replica at a time"
            );
        }
        // What was safe when the change was planned; since then, somebody may have been told to leave.
        if let Some(after) = changing(&next).and_then(|shard| plan::done(&next, shard)) {
            for (was, is) in self.safe(&self.map).into_iter().zip(self.safe(&after)) {
                let least = was.min(self.each());
                assert!(is >= least, "seed {seed}: {was} -> {is} replicas are safe");
            }
        }
        self.follow(next);
        true
    }

    /// Steps until there are none; each can be told how many at most there are.
    fn settle(&mut self) -> usize {
        let lists = self.map.placements.len() + 1;
        let most = lists * 2 * (2 * 7) + 1 + self.map.nodes.len();
        let steps = (0..=most).take_while(|_| self.step()).count();
        assert!(steps < most, "seed {}: it ends", self.seed);
        steps
    }

    fn assert_ideal(&self) {
        let (seed, each) = (self.seed, self.each());
        let staying = self.map.staying();
        assert_eq!(
            Vec::from_iter(self.map.nodes.keys().copied()),
            staying,
            "seed {seed}: all that leave left"
        );
        let (mut loads, mut leads) = (BTreeMap::new(), BTreeMap::new());
        for (shard, placement) in self.map.every_placement() {
            assert_eq!(placement.replicas.len(), each, "seed {seed}: shard {shard}");
            if shard != META {
                *leads.entry(placement.replicas[0].node()).or_insert(0) += 1;
                for replica in &placement.replicas {
                    *loads.entry(replica.node()).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(plan::moves(&self.map), Moves::default(), "seed {seed}");
        for had in [loads, leads] {
            let of = |node| had.get(node).copied().unwrap_or(0);
            let (least, most) = (staying.iter().map(of).min(), staying.iter().map(of).max());
            assert!(most.unwrap() - least.unwrap() <= 1, "seed {seed}: {had:?}");
        }
    }
}

#[test]
fn what_is_to_be_moved_is_known_before() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        for round in 0..4 {
            let port = address(9000 + round);
            let changed = match world.random.bool() {
                true => plan::join(&world.map, &format!("{round:a>40}"), port),
                false => {
                    let node = world.a_node();
                    plan::leave(&world.map, node)
                }
            };
            let Ok(map) = changed else { continue };
            world.follow(map);
            let mut left = plan::moves(&world.map);
            while world.step() {
                let now = plan::moves(&world.map);
                let is_made = changing(&world.map).is_none() && now != left;
                let changes = left.changes - usize::from(is_made);
                assert_eq!(now.changes, changes, "seed {seed}, round {round}");
                left = now;
            }
        }
    }
}

#[test]
fn whatever_happens_the_plan_ends_at_the_ideal() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.assert_ideal();
        assert!(!world.step(), "seed {seed}: what was founded is ideal");
        for _ in 0..6 {
            for _ in 0..world.random.usize(1..4) {
                world.trouble();
                for _ in 0..world.random.usize(..9) {
                    world.step();
                }
            }
            world.settle();
            world.assert_ideal();
        }
    }
}

#[test]
fn no_replica_is_named_twice() {
    for seed in 1000..1060 {
        let mut world = World::new(seed);
        let mut named: BTreeMap<u16, BTreeSet<ReplicaId>> = BTreeMap::new();
        let mut before: BTreeMap<u16, BTreeSet<ReplicaId>> = BTreeMap::new();
        for step in 0..400 {
            for (shard, placement) in world.map.every_placement() {
                let now: BTreeSet<ReplicaId> = placement.all().collect();
                let was = before.insert(shard, now.clone()).unwrap_or_default();
                for replica in now.difference(&was) {
                    let is_new = named.entry(shard).or_default().insert(*replica);
                    assert!(
                        is_new,
                        "seed {seed}: shard {shard} had a replica {replica} before"
                    );
                }
            }
            match step % 10 {
                0 => world.trouble(),
                _ => _ = world.step(),
            }
        }
    }
}

#[test]
fn a_balanced_cluster_moves_no_more_than_the_new_node_gets() {
    let map = found("16 shards, 3 replicas: a b c");
    let mut map = plan::join(&map, &name("d"), address(8004)).unwrap();
    let mut changes = 0;
    while let Some(next) = further(&map) {
        changes += usize::from(changing(&next).is_some());
        map = next;
    }
    assert_eq!(changes, 12, "of 48 replicas, and none of the meta shard");
    assert_eq!(map.replicas_on(4).len(), 12);
}

/// A map of everything that can stand in one.
const WHOLE: &str = "cluster 00c0ffee00c0ffee\nepoch 12\nshards 2\nreplicas 3\nnext-node 5\n\
    node 1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:8001\n\
    node 2 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb [::1]:8002 leaving\n\
    node 3 cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:8004 leaving gone\n\
    node 4 dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:8004\n\
    meta 1.1 2.1 3.1\nshard 0 1.1 2.1 3.1\nshard 1 2.1 3.1 1.1 > 2.1 4.12 1.1\n";

#[test]
fn a_map_says_where_everything_is() {
    let map = Map::decode(WHOLE.as_bytes()).unwrap();
    assert_eq!(map.encode(), WHOLE);
    assert_eq!(map.node_of(&name("c")), Some(3));
    assert_eq!(map.node_of(&name("e")), None);
    assert_eq!(
        map.node_at(address(8004)),
        Some(4),
        "node 3 is gone from there"
    );
    assert_eq!(map.staying(), [1, 4]);
    assert_eq!(map.voters(META), map.meta.replicas);
    assert_eq!(map.voters(0), [1, 2, 3].map(|node| ReplicaId::new(node, 1)));
    assert_eq!((map.voters(2), map.placement(2)), (&[][..], None));
    assert_eq!(map.replicas_on(4), [(1, ReplicaId::new(4, 12))]);
    let first = ReplicaId::new(1, 1);
    assert_eq!(map.replicas_on(1), [(0, first), (1, first), (META, first)]);
    assert_eq!("4.17".parse(), Ok(ReplicaId(4 << 32 | 17)));
    for wrong in [
        "",
        "4",
        "4.",
        "0.1",
        "1.0",
        "+1.1",
        "01.1",
        "1.1.1",
        "4294967296.1",
    ] {
        assert!(wrong.parse::<ReplicaId>().is_err(), "{wrong}");
    }
}

#[test]
#[rustfmt::skip]
fn what_cannot_be_is_refused() {
    for (was, is, reason) in [
        ("cluster 00c0ffee00c0ffee", "cluster c0ffee00c0ffee", "line 1: is not written as maps are written"),
        ("cluster 00c0ffee00c0ffee", "cluster 00C0FFEE00C0FFEE", "line 1: is not written as maps are written"),
        ("cluster 00c0ffee00c0ffee", "cluster coffee", "line 1: a cluster's number is 16 hex digits"),
        ("epoch 12\n", "epoch 12\r\n", "line 2: is not written as maps are written"),
        ("epoch 12\n", "epoch  12\n", "line 2: ' 12' is no number that can stand here"),
        ("epoch 12\n", "epoch 012\n", "line 2: is not written as maps are written"),
        ("epoch 12\n", "epoch 11\n", "shard 1: replica 4.12 is from an epoch to come"),
        ("epoch 12\n", "epoch 0\n", "epoch must be between 1 and 4294967294"),
        ("epoch 12\n", "epoch 4294967295\n", "epoch must be between 1 and 4294967294"),
        ("epoch 12\n", "", "line 2: 'epoch …' must stand here"),
        ("shards 2", "shards 3", "line 13: 'shard 2 …' must stand here"),
        ("shards 2", "shards 1", "line 12: nothing stands behind the last shard"),
        ("shards 2", "shards 16385", "line 13: 'shard 2 …' must stand here"),
        ("replicas 3", "replicas 8", "replicas must be between 1 and 7"),
        ("next-node 5", "next-node 4", "node 4: its number was never given out"),
        ("node 4", "node 3", "line 9: nodes stand in the order of their numbers"),
        ("node 1 aaaa", "node 1 Aaaa", "node 1: its name is not 40 hex digits in lower case"),
        ("node 1 aaaa", "node 1 aaa", "node 1: its name is not 40 hex digits in lower case"),
        ("node 4 dddddddddddddddddddddddddddddddddddddddd", "node 4 cccccccccccccccccccccccccccccccccccccccc",
            "node 4: another one has its name"),
        ("127.0.0.1:8001", "127.0.0.1:8004", "node 4: another one has its address"),
        ("127.0.0.1:8001", "127.0.0.1:0", "node 1: nobody can connect to its address"),
        ("127.0.0.1:8001", "0.0.0.0:8001", "node 1: nobody can connect to its address"),
        ("127.0.0.1:8001", "localhost:8001", "line 6: 'localhost:8001' is no address"),
        ("[::1]:8002", "[0::1]:8002", "line 7: is not written as maps are written"),
        (" leaving gone", " gone leaving", "line 8: is not written as maps are written"),
        (" leaving gone", " dead", "line 8: a node is 'leaving' or 'gone', not 'dead'"),
        ("meta 1.1 2.1 3.1", "meta 1.1 2.1 5.1", "meta: the node of replica 5.1 is not in the map"),
        ("meta 1.1 2.1 3.1", "meta 1.1 2.1 1.2", "meta: node 1 has two replicas"),
        ("meta 1.1 2.1 3.1", "meta", "line 10: 'node …' or 'meta …' must stand here"),
        ("meta 1.1 2.1 3.1", "meta ", "line 10: '' is no replica: they are named node.generation"),
        ("shard 0 1.1 2.1 3.1", "shard 0 1.1 2.1  3.1", "line 11: '' is no replica: they are named node.generation"),
        ("> 2.1 4.12 1.1", "> 2.1 3.1 1.1", "shard 1: a change replaces, adds or removes one replica"),
        ("> 2.1 4.12 1.1", "> 1.1 3.1 2.1", "shard 1: a change replaces, adds or removes one replica"),
        ("> 2.1 4.12 1.1", "> 1.1", "shard 1: a change replaces, adds or removes one replica"),
        ("> 2.1 4.12 1.1", "> 2.1 3.12 1.1", "shard 1: a change brings a replica to a node that has one"),
        ("> 2.1 4.12 1.1", ">", "line 12: '>' is no replica: they are named node.generation"),
        ("4.12 1.1\n", "4.12 1.1", "the lines do not end as those of a map"),
        ("4.12 1.1\n", "4.12 1.1\n\n", "line 13: nothing stands behind the last shard"),
    ] {
        assert!(WHOLE.contains(was), "{was}");
        let text = WHOLE.replace(was, is);
        assert_eq!(Map::decode(text.as_bytes()).unwrap_err(), reason, "{was} -> {is}");
    }
    assert!(Map::decode(b"").is_err() && Map::decode(b"\xff").is_err());
    let all_leave = WHOLE.replace("8001\n", "8001 leaving\n").replace("8004\n", "8004 leaving\n");
    assert_eq!(Map::decode(all_leave.as_bytes()).unwrap_err(), "every node is leaving");
}

#[test]
fn a_text_is_refused_or_the_same_again() {
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut read = 0;
    for round in 0..20_000 {
        let mut text = WHOLE.as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..text.len());
            match random.u8(..3) {
                0 => text[at] = *random.choice(b"0123456789af .>:\n\xff").unwrap(),
                1 => _ = text.remove(at),
                _ => text.insert(at, text[random.usize(..text.len())]),
            }
        }
        if let Ok(map) = Map::decode(&text) {
            assert_eq!(map.encode().as_bytes(), text, "seed {seed}, round {round}");
            plan_on(map);
            read += 1;
        }
    }
    assert!(read > 100, "seed {seed}: {read} were maps");
}

/// Whatever can be read can be planned with.
fn plan_on(mut map: Map) {
    for _ in 0..60 {
        match further(&map) {
            Some(next) => map = next,
            None => return map.check().unwrap(),
        }
    }
}

#[test]
fn no_map_has_too_many_of_anything() {
    let members = |count: u32| {
        let member = |number: u32| (format!("{number:040x}"), address(8001 + number as u16));
        (0..count).map(member).collect()
    };
    let largest = plan::found(1, 16_384, 7, members(1000)).unwrap();
    let text = largest.encode();
    assert!(text.len() < 4 << 20, "{}", text.len());
    assert_eq!(Map::decode(text.as_bytes()), Ok(largest.clone()));
    assert_eq!(
        plan::join(&largest, &name("a"), address(1)),
        Err(Refusal::Full)
    );
    for (shards, replicas, count) in [
        (0, 3, 3),
        (16_385, 3, 3),
        (1, 0, 3),
        (1, 8, 3),
        (1, 3, 0),
        (1, 3, 1001),
    ] {
        let founded = plan::found(1, shards, replicas, members(count));
        assert!(founded.is_err(), "{shards} {replicas} {count}");
    }
    let twice = vec![(name("a"), address(1)), (name("a"), address(2))];
    assert_eq!(
        plan::found(1, 1, 1, twice).unwrap_err(),
        "node 2: another one has its name"
    );
}

#[test]
fn numbers_come_to_an_end() {
    let mut map = found("4 shards, 3 replicas: a b c");
    map.epoch = EPOCH_MAX;
    assert_eq!(plan::leave(&map, 1), Err(Refusal::Exhausted));
    assert_eq!(
        plan::join(&map, &name("d"), address(8004)),
        Err(Refusal::Exhausted)
    );
    let member = Member {
        name: name("d"),
        address: address(8004),
        is_leaving: false,
        is_gone: false,
    };
    map.nodes.insert(4, member);
    map.next_node = 5;
    assert_eq!(plan::next(&map), None);
    map.epoch = 7;
    assert!(plan::next(&map).is_some());
    map.next_node = NodeId::MAX;
    assert_eq!(
        plan::join(&map, &name("e"), address(8005)),
        Err(Refusal::Exhausted)
    );
    let alone = vec![ReplicaId::new(1, 1)];
    assert_eq!(Placement::of(alone).to_string(), "1.1");
}
