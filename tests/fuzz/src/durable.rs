//! Whole sessions on a simulated disk: what two clients have done, a node that starts on the same disk knows.
//!
//! The first byte says how: 1 a rough network, 2 sealed, 4 snapshots all the time, 8 and 16 how a node ends (in
//! order, killed, without power, without power by chance), 32 segments of another length. In the rest 0xFE
//! changes the speaker, 0xFD lets time pass, 0xFC lets everything come to rest and restarts the node, which must
//! then hold what it held before; 0xFB cuts the power while everything is under way, and the node must start. At
//! the end it is restarted twice, the second time on what the first start has left.
#![no_main]

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::data::files::{Files, Keys};
use marline::disk::seal::{Entropy, KeyRing};
use marline::disk::sim::{Crash, SimDisk};
use marline::node::{self, Node};
use marline::reactor::backend::Backend;
use marline::reactor::sim::{Faults, SimNet};
use marline::wire::decode::{Decoder, Limits, Value};
use marline_fuzz::sim::{Client, World};

const TURN: u8 = 0xfe;
const TIME: u8 = 0xfd;
const RESTART: u8 = 0xfc;
const POWER: u8 = 0xfb;

const RING: &str = "keys";
/// Restarts of one input, beside those at its end.
const RESTARTS_MAX: usize = 3;
/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wall clock at time 0 of a simulation.
const WALL_START_MS: u64 = 1_700_000_000_000;

thread_local! {
    static NEXT_SEED: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that never come twice in a run, and are the same in each run of an input.
fn entropy() -> Entropy {
    let mut state = NEXT_SEED.replace(NEXT_SEED.get() + 1);
    Box::new(move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    })
}

/// What outlives a node.
struct Disks {
    data: SimDisk,
    backups: SimDisk,
    ring: Option<SimDisk>,
}

impl Disks {
    fn new(is_sealed: bool) -> Disks {
        let ring = is_sealed.then(|| {
            let ring = SimDisk::new(3);
            KeyRing::create(&ring, RING, 0, &mut entropy()).expect("the disk is sound");
            ring
        });
        Disks {
            data: SimDisk::new(1),
            backups: SimDisk::new(2),
            ring,
        }
    }

    fn crash(&self, how: Crash) {
        let all = [Some(&self.data), Some(&self.backups), self.ring.as_ref()];
        all.into_iter().flatten().for_each(|disk| disk.crash(how));
    }

    fn files(&self, segment_bytes: u64) -> Files {
        let keys = self.ring.as_ref().map(|ring| Keys {
            disk: Arc::new(ring.clone()),
            name: RING.to_owned(),
            ring: Arc::new(KeyRing::open(ring, RING).expect("the ring is sound")),
        });
        Files {
            disk: Arc::new(self.data.clone()),
            backups: Arc::new(self.backups.clone()),
            keys,
            entropy,
            segment_bytes,
            reserve_bytes: 1 << 10,
        }
    }
}

/// How a node ends.
#[derive(Clone, Copy)]
enum Ending {
    InOrder,
    Killed,
    NoPower(Crash),
}

/// A node, its disks, and two clients.
struct Run {
    seed: u8,
    disks: Disks,
    world: World,
    clients: [Client; 2],
    speaker: usize,
}

impl Run {
    fn new(seed: u8) -> Run {
        NEXT_SEED.set(1);
        let disks = Disks::new(seed & 2 != 0);
        let mut world = start(seed, 0, &disks);
        let clients = [Client::new(&mut world), Client::new(&mut world)];
        Run {
            seed,
            disks,
            world,
            clients,
            speaker: 0,
        }
    }

    fn play(&mut self, words: &[u8]) {
        let (said, mark) = match words {
            [said @ .., mark @ POWER..=TURN] => (said, *mark),
            said => (said, 0),
        };
        if self.seed & 1 != 0 {
            self.world.net.set_faults(Faults::rough());
        }
        self.clients[self.speaker].say(said, &mut self.world);
        match mark {
            TURN => self.speaker ^= 1,
            TIME => {
                self.world.within(Duration::from_millis(120), |_| false);
                self.listen();
            }
            RESTART => self.settle_and_restart(),
            POWER => self.restart(Ending::NoPower(Crash::LoseAll)),
            _ => {}
        }
        self.is_well();
    }

    fn listen(&mut self) {
        for client in &mut self.clients {
            client.listen(&mut self.world);
        }
    }

    fn is_well(&self) {
        let fatal = self.world.server.app().fatal();
        assert_eq!(fatal, None, "{:?}", self.disks.data);
    }

    /// Everything that was said is done, or will never be.
    fn settle(&mut self) {
        self.world.net.set_faults(calm());
        for client in &mut self.clients {
            client.finish(&mut self.world);
        }
        for _ in 0..20 {
            self.world.within(Duration::from_millis(10), |_| false);
            self.listen();
        }
        // Those who wait, or are held back, are not waited for.
        if !self.world.stopped {
            let words: [&[&[u8]]; 2] = [
                &[b"CLIENT", b"UNPAUSE"],
                &[b"CLIENT", b"KILL", b"SKIPME", b"yes"],
            ];
            let answers = ask(&mut self.world, &words);
            let is_done = matches!(answers.get(1), Some(Value::Int(_)));
            assert!(is_done || self.world.stopped, "{answers:?}");
        }
        self.world.within(Duration::from_millis(50), |_| false);
        self.is_well();
    }

    /// What a node held that has come to rest, one that is started anew holds.
    fn settle_and_restart(&mut self) {
        self.settle();
        if self.world.stopped {
            return self.restart(Ending::Killed);
        }
        let before = Dump::of(&mut self.world);
        self.restart(match self.seed >> 3 & 3 {
            0 => Ending::InOrder,
            1 => Ending::Killed,
            2 => Ending::NoPower(Crash::LoseAll),
            _ => Ending::NoPower(Crash::Random(self.world.net.random())),
        });
        let after = Dump::of(&mut self.world);
        before.compare(&after, &self.disks);
    }

    fn restart(&mut self, ending: Ending) {
        if matches!(ending, Ending::InOrder) {
            self.world.server.with(|cx| node::stop(cx.app, &mut cx.net));
            self.world.within(PATIENCE, |_| false);
            assert!(self.world.stopped, "it stops in order");
            self.is_well();
        }
        // What is still under way goes with the network.
        if let Ending::NoPower(how) = ending {
            self.disks.crash(how);
        }
        self.world = start(self.seed, self.world.passed_ms(), &self.disks);
        self.clients = [Client::new(&mut self.world), Client::new(&mut self.world)];
        self.speaker = 0;
    }
}

fn calm() -> Faults {
    Faults {
        job_delay_max_ns: 300_000,
        ..Faults::calm()
    }
}

/// A node on these disks that is ready.
fn start(seed: u8, passed_ms: u64, disks: &Disks) -> World {
    let mut values = Values::default();
    for (name, text) in [("port", "0"), ("data", "simulated"), ("shards", "3")] {
        values.set(name, text, Origin::Flag).expect(name);
    }
    let mut options = Options::read(&values).expect("defaults are whole");
    if seed & 4 != 0 {
        options.snapshot_log_bytes = 2 << 10;
    }
    let segment_bytes = if seed & 32 != 0 { 16 << 10 } else { 1 << 10 };
    let node = Node::new(values, options, 1).with_files(disks.files(segment_bytes));
    let mut world = World::start_at(&SimNet::new(u64::from(seed), calm()), passed_ms, node);
    let is_ready = |world: &mut World| !world.server.app().is_loading();
    let is_ready = world.within(PATIENCE, is_ready);
    let fatal = world.server.app().fatal();
    assert!(is_ready, "it does not start: {fatal:?}\n{:?}", disks.data);
    world
}

/// Everything stored.
struct Dump {
    /// Wall times between which it was taken.
    from_ms: u64,
    until_ms: u64,
    /// By name.
    keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    name: Vec<u8>,
    value: Value,
    /// When it expires; -1: never.
    expires_ms: i64,
    encoding: Value,
}

impl Dump {
    /// Asks until keys that have expired are gone, so that they are not counted.
    fn of(world: &mut World) -> Dump {
        for _ in 0..400 {
            world.within(Duration::from_millis(250), |_| false);
            let from_ms = wall_ms(world);
            let first: [&[&[u8]]; 2] = [&[b"DBSIZE"], &[b"KEYS", b"*"]];
            let answers = ask(world, &first);
            let [Value::Int(count), Value::Array(names)] = &answers[..] else {
                panic!("{answers:?}");
            };
            let keys = Dump::keys(world, names);
            let until_ms = wall_ms(world);
            let is_gone = |key: &Key| (0..=until_ms as i64).contains(&key.expires_ms);
            if *count == names.len() as i64 && !keys.iter().any(is_gone) {
                return Dump {
                    from_ms,
                    until_ms,
                    keys,
                };
            }
        }
        panic!("keys are counted that are not there");
    }

    fn keys(world: &mut World, names: &[Value]) -> Vec<Key> {
        let names = names.iter().map(|name| match name {
            Value::Bulk(name) => name.as_slice(),
            other => panic!("a key is {other:?}"),
        });
        let mut names: Vec<&[u8]> = names.collect();
        names.sort_unstable();
        let questions: Vec<Vec<&[u8]>> = (names.iter())
            .flat_map(|&name| {
                let encoding = vec![&b"OBJECT"[..], &b"ENCODING"[..], name];
                [vec![b"GET", name], vec![b"PEXPIRETIME", name], encoding]
            })
            .collect();
        let questions: Vec<&[&[u8]]> = questions.iter().map(Vec::as_slice).collect();
        let answers = ask(world, &questions);
        let keys = names.iter().zip(answers.chunks(3)).map(|(name, told)| {
            let Value::Int(expires_ms) = told[1] else {
                panic!("{told:?}");
            };
            Key {
                name: name.to_vec(),
                value: told[0].clone(),
                expires_ms: if expires_ms == -2 { 0 } else { expires_ms },
                encoding: told[2].clone(),
            }
        });
        keys.collect()
    }

    fn compare(&self, after: &Dump, disks: &Disks) {
        assert!(self.until_ms <= after.from_ms, "time goes on");
        let until_ms = after.until_ms as i64;
        let stays = |key: &&Key| key.expires_ms == -1 || key.expires_ms > until_ms;
        let before: Vec<&Key> = self.keys.iter().filter(stays).collect();
        let after_too: Vec<&Key> = after.keys.iter().filter(stays).collect();
        assert!(
            before == after_too && after.keys.iter().all(|key| self.keys.contains(key)),
            "it held\n{before:#?}\nand holds\n{:#?}\n{:?}",
            after.keys,
            disks.data
        );
    }
}

fn wall_ms(world: &World) -> u64 {
    WALL_START_MS + world.passed_ms()
}

/// The answers to some commands, from a client of their own.
fn ask(world: &mut World, commands: &[&[&[u8]]]) -> Vec<Value> {
    let mut bytes = Vec::new();
    for words in commands {
        bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in *words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    let mut client = Client::new(world);
    let raw = client.raw.expect("it listens");
    let (mut decoder, mut answers, mut rest) =
        (Decoder::new(Limits::default()), Vec::new(), &bytes[..]);
    let is_answered = world.within(PATIENCE, |world| {
        if let Ok(sent) = world.outside.write(raw, rest) {
            rest = &rest[sent..];
        }
        client.listen(world);
        decoder.feed(&std::mem::take(&mut client.heard));
        while let Some(answer) = decoder.next_value().expect("replies are RESP") {
            answers.push(answer);
        }
        answers.len() == commands.len()
    });
    let fatal = world.server.app().fatal();
    // A SHUTDOWN that had to wait may have its turn now.
    assert!(
        is_answered || world.stopped,
        "no answer: {fatal:?} {answers:?}"
    );
    client.close(world, false);
    answers
}

/// Strings of hundreds of kilobytes are legal and would only take time. Where there is no room for one more client, or
/// the node takes an hour to stop, nobody can be asked.
fn is_unfit(data: &[u8]) -> bool {
    let has = |word: &[u8]| {
        data.windows(word.len())
            .any(|window| window.eq_ignore_ascii_case(word))
    };
    let mut numbers = data.split(|byte| !byte.is_ascii_digit());
    has(b"maxclients") || has(b"shutdown-timeout") || numbers.any(|digits| digits.len() > 4)
}

fuzz_target!(|data: &[u8]| {
    let [seed, script @ ..] = data else {
        return;
    };
    let restarts = script
        .iter()
        .filter(|byte| matches!(**byte, RESTART | POWER));
    if is_unfit(script) || restarts.count() > RESTARTS_MAX {
        return;
    }
    let mut run = Run::new(*seed);
    for words in script.split_inclusive(|byte| (POWER..=TURN).contains(byte)) {
        run.play(words);
    }
    run.settle_and_restart();
    run.settle_and_restart();
});
