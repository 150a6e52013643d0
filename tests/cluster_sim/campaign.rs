//! Clients and faults at random: everything that is answered could have been so, and in the end all replicas are alike.
//!
//! In half of the seeds nodes come and go besides: they join, are forgotten, and lose their disks, one at a time.
//!
//! A seed decides about everything. `CLUSTER_SEEDS=1000` tries so many from `CLUSTER_SEED` on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use marline::reactor::sim::Faults;

use super::history::{Call, Op, Told, judge};
use super::world::{Client, Plan, World};
use super::{number, seed};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: usize = 5;
/// Seeds that have found something: an answer to what had been given up; promises in the log before older ones;
/// reads that waited while their shard was handed over.
const TELLING: [u64; 5] = [7_072, 50_150, 2_318, 60_123, 2_473];
/// How long the clients go on.
const TIME_MS: u64 = 12_000;
/// How long a client waits for an answer before it goes away.
const PATIENCE_NS: u64 = 4_000_000_000;

/// An operation that is not answered.
struct Asked {
    key: usize,
    call: Call,
    at: u64,
}

/// A client of the campaign, which says some things at once and waits for all answers.
struct Talker {
    conn: Option<Client>,
    asked: VecDeque<Asked>,
    rests_until: u64,
}

/// A fault that will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Links,
    Paused(usize),
    Down(usize),
    Disk(usize),
}

struct Campaign {
    world: World,
    rng: Rng,
    talkers: Vec<Talker>,
    history: BTreeMap<usize, Vec<Op>>,
    next_value: i64,
    troubles: Vec<(u64, Trouble)>,
    next_fault: u64,
    /// When a node comes or goes next; `None`: never.
    next_order: Option<u64>,
    /// Clients that have ordered something, and when.
    orders: Vec<(Client, u64)>,
}

/// How long what was ordered may take to be answered.
const ORDER_NS: u64 = 10_000_000_000;
/// How long everything may take to come to its place in the end.
const SETTLING: Duration = Duration::from_secs(240);

impl Campaign {
    fn new(seed: u64) -> Campaign {
        let mut rng = Rng::with_seed(seed);
        let faults = Faults {
            delay_max_ns: [100_000, 2_000_000, 20_000_000][rng.usize(..3)],
            job_delay_max_ns: [500_000, 5_000_000][rng.usize(..2)],
            segment_max_bytes: [64, 16 << 10][rng.usize(..2)],
            short_write_percent: [0, 20][rng.usize(..2)],
            ..Faults::calm()
        };
        let snapshot_interval = [None, Some(Duration::from_secs(2))][rng.usize(..2)];
        let comes_and_goes = rng.bool();
        let plan = Plan {
            faults,
            snapshot_interval,
            joiners: if comes_and_goes { 2 } else { 0 },
            shards: if comes_and_goes { 4 } else { 2 },
            ..Plan::new(seed)
        };
        let talker = || Talker {
            conn: None,
            asked: VecDeque::new(),
            rests_until: 0,
        };
        let world = World::founded(plan);
        Campaign {
            next_fault: world.net.now() + 500_000_000,
            next_order: comes_and_goes.then(|| world.net.now() + 200_000_000),
            orders: Vec::new(),
            world,
            rng,
            talkers: (0..CLIENTS).map(|_| talker()).collect(),
            history: BTreeMap::new(),
            next_value: 0,
            troubles: Vec::new(),
        }
    }

    fn now(&self) -> u64 {
        self.world.net.now()
    }

    fn run(&mut self) {
        let end = self.now() + TIME_MS * 1_000_000;
        while self.now() < end {
            self.trouble();
            self.order();
            self.end_troubles(false);
            (0..CLIENTS).for_each(|client| self.go_on(client));
            self.world.pass(Duration::from_millis(2));
        }
        self.end_troubles(true);
        let patience = self.now() + PATIENCE_NS + 1_000_000_000;
        while self.now() < patience && self.talkers.iter().any(|it| !it.asked.is_empty()) {
            (0..CLIENTS).for_each(|client| self.hear(client));
            self.world.pass(Duration::from_millis(2));
        }
        (0..CLIENTS).for_each(|client| self.lose(client));
        self.world.settle_within(SETTLING);
        self.world.agree();
        let members = self.world.members();
        for (key, name) in KEYS.iter().enumerate() {
            let called_at = self.now();
            let node = members[key % members.len()];
            let answer = self.world.ask(node, &format!("GET {name}"));
            let told = told(Call::Get, &answer).unwrap_or_else(|| panic!("GET {name}: {answer}"));
            let told_at = self.now();
            let call = Call::Get;
            self.history.entry(key).or_default().push(Op {
                client: CLIENTS,
                call,
                told,
                called_at,
                told_at,
            });
        }
        for (key, ops) in &self.history {
            if let Err(why) = judge(ops) {
                panic!("key {}: {why}", KEYS[*key]);
            }
        }
    }

    /// What a client does now.
    fn go_on(&mut self, client: usize) {
        self.hear(client);
        let now = self.now();
        let talker = &self.talkers[client];
        if !talker.asked.is_empty() || talker.rests_until > now {
            return;
        }
        let conn = match talker.conn {
            Some(conn) if !self.world.is_closed(conn) && self.rng.u8(..20) > 0 => conn,
            before => {
                before.into_iter().for_each(|conn| self.world.close(conn));
                let node = self.rng.usize(self.world.all());
                let conn = self.world.connect(node);
                self.talkers[client].conn = Some(conn);
                conn
            }
        };
        let count = [1, 1, 1, 2, 5][self.rng.usize(..5)];
        for nth in 0..count {
            self.ask(client, conn, nth);
        }
    }

    /// A client says something.
    fn ask(&mut self, client: usize, conn: Client, nth: u64) {
        let key = self.rng.usize(..KEYS.len());
        let call = match self.rng.u8(..10) {
            0..=2 => {
                self.next_value += 1_000;
                Call::Set(self.next_value)
            }
            3..=6 => Call::Get,
            7..=8 => Call::Incr,
            _ => Call::Del,
        };
        let name = KEYS[key];
        let text = match call {
            Call::Set(value) => format!("SET {name} {value}"),
            Call::Get => format!("GET {name}"),
            Call::Incr => format!("INCR {name}"),
            Call::Del => format!("DEL {name}"),
        };
        // A nanosecond apart, for the order.
        let at = self.now() + nth;
        self.world.send(conn, &text);
        self.talkers[client]
            .asked
            .push_back(Asked { key, call, at });
    }

    /// Takes the answer of a client, if there is one.
    fn hear(&mut self, client: usize) {
        let Some(conn) = self.talkers[client].conn else {
            return;
        };
        while let Some(asked) = self.talkers[client].asked.pop_front() {
            let Some(answer) = self.world.line(conn) else {
                let is_late = asked.at + PATIENCE_NS < self.now();
                self.talkers[client].asked.push_front(asked);
                if self.world.is_closed(conn) || is_late {
                    self.lose(client);
                }
                return;
            };
            if let Some(told) = told(asked.call, &answer) {
                self.note(client, &asked, told);
            } else if !is_refusal(&answer) {
                panic!("{:?} was answered by {answer}", asked.call);
            }
            let rest = self.rng.u64(..40_000_000);
            self.talkers[client].rests_until = self.now() + rest;
        }
    }

    /// A client goes away; what it asked and was not answered nobody knows.
    fn lose(&mut self, client: usize) {
        while let Some(asked) = self.talkers[client].asked.pop_front() {
            self.note(client, &asked, Told::Unknown);
        }
        if let Some(conn) = self.talkers[client].conn.take() {
            self.world.close(conn);
        }
    }

    fn note(&mut self, client: usize, asked: &Asked, told: Told) {
        let told_at = if told == Told::Unknown {
            u64::MAX
        } else {
            self.now()
        };
        self.history.entry(asked.key).or_default().push(Op {
            client,
            call: asked.call,
            told,
            called_at: asked.at,
            told_at,
        });
    }

    /// Perhaps something fails.
    fn trouble(&mut self) {
        let now = self.now();
        if now < self.next_fault {
            return;
        }
        self.next_fault = now + self.rng.u64(200_000_000..2_500_000_000);
        let until = now + self.rng.u64(20_000_000..3_000_000_000);
        let node = self.rng.usize(self.world.all());
        let is_well = self.world.is_up(node) && !self.world.is_paused(node);
        let trouble = match self.rng.u8(..10) {
            0..=2 if is_well => {
                self.world.kill(node);
                Trouble::Down(node)
            }
            3 if is_well => {
                self.world.pause(node);
                Trouble::Paused(node)
            }
            4 => {
                let most = Duration::from_millis(self.rng.u64(20..400));
                self.world.slow_disk(node, Some(most));
                Trouble::Disk(node)
            }
            5 => {
                let skew = self.rng.i64(-10_000_000..10_000_000);
                return self.world.set_clock(node, skew);
            }
            6 => return self.power_off(until),
            7 => {
                let most = Duration::from_millis(self.rng.u64(1..150));
                let loss = self.rng.u8(..30);
                for (from, to) in self.pairs(node) {
                    self.world.slow(from, to, most, loss);
                }
                Trouble::Links
            }
            _ => {
                let pairs = self.pairs(node);
                let ways = self.rng.u8(1..4);
                for (from, to) in pairs {
                    if ways & (1 << u8::from(from == node)) != 0 {
                        self.world.cut(from, to);
                    }
                }
                Trouble::Links
            }
        };
        self.troubles.push((until, trouble));
    }

    /// Perhaps a node comes or goes.
    fn order(&mut self) {
        let now = self.now();
        let is_over = |world: &mut World, (client, since): (Client, u64)| {
            world.line(client).is_some() || world.is_closed(client) || now > since + ORDER_NS
        };
        for order in std::mem::take(&mut self.orders) {
            match is_over(&mut self.world, order) {
                true => self.world.close(order.0),
                false => self.orders.push(order),
            }
        }
        if self.next_order.is_none_or(|at| now < at) {
            return;
        }
        self.next_order = Some(now + self.rng.u64(300_000_000..3_000_000_000));
        let strangers: Vec<usize> = self.strangers();
        let stranger = self.rng.choice(strangers);
        match (self.rng.u8(..6), stranger) {
            (0..=2, Some(node)) => {
                self.world.wipe(node);
                self.world.let_join(node);
                self.world.start(node);
            }
            (3, _) => self.forget(),
            (4, _) => self.wipe(),
            _ => {}
        }
    }

    /// Nodes that are no members, and that nobody is about to start.
    fn strangers(&self) -> Vec<usize> {
        let members = self.world.members();
        let is_stranger = |node: &usize| {
            let is_down = Trouble::Down(*node);
            !members.contains(node) && self.troubles.iter().all(|(_, trouble)| *trouble != is_down)
        };
        self.world.all().filter(is_stranger).collect()
    }

    fn forget(&mut self) {
        let Some(map) = self.world.map() else { return };
        let staying = map.staying();
        let running: Vec<usize> = self.world.members();
        let (Some(node), Some(number)) = (self.rng.choice(running), self.rng.choice(&staying))
        else {
            return;
        };
        if staying.len() > 3 {
            let text = format!("CLUSTER FORGET {number}");
            self.world.tell(&format!("node {node} is told {text}"));
            let client = self.world.connect(node);
            self.world.send(client, &text);
            self.orders.push((client, self.now()));
        }
    }

    /// A node loses its disk, if all the others have what was on it.
    fn wipe(&mut self) {
        let members = self.world.members();
        let is_whole = members.len() >= 3
            && (self.world.map()).is_some_and(|map| map.nodes.len() == members.len())
            && self.world.misplaced().is_none();
        if let Some(node) = self.rng.choice(members).filter(|_| is_whole) {
            self.world.wipe(node);
            let until = self.now() + self.rng.u64(20_000_000..3_000_000_000);
            self.troubles.push((until, Trouble::Down(node)));
        }
    }

    /// The links of a node, both ways.
    fn pairs(&self, node: usize) -> Vec<(usize, usize)> {
        let others = self.world.all().filter(|&other| other != node);
        others
            .flat_map(|other| [(node, other), (other, node)])
            .collect()
    }

    fn power_off(&mut self, until: u64) {
        let up: Vec<usize> = self
            .world
            .all()
            .filter(|&node| self.world.is_up(node))
            .collect();
        for node in up {
            self.world.kill(node);
            self.troubles.push((until, Trouble::Down(node)));
        }
    }

    /// Ends troubles whose time has come, or all.
    fn end_troubles(&mut self, all: bool) {
        let now = self.now();
        let (over, others) = (self.troubles.iter().copied()).partition(|it| all || it.0 <= now);
        self.troubles = others;
        let over: Vec<(u64, Trouble)> = over;
        for (_, trouble) in over {
            match trouble {
                Trouble::Links => self.world.heal(),
                Trouble::Paused(node) if self.world.is_paused(node) => self.world.wake(node),
                Trouble::Down(node) if !self.world.is_up(node) => self.world.start(node),
                Trouble::Disk(node) => self.world.slow_disk(node, None),
                Trouble::Paused(_) | Trouble::Down(_) => {}
            }
        }
    }
}

/// What an answer tells; `None`: that nothing was done.
fn told(call: Call, answer: &str) -> Option<Told> {
    match (call, answer) {
        (_, "(nil)") => Some(Told::Nil),
        (_, "OK") => Some(Told::Ok),
        _ if answer.starts_with("-UNKNOWN") => Some(Told::Unknown),
        _ => answer.parse().ok().map(Told::Number),
    }
}

fn is_refusal(answer: &str) -> bool {
    ["-CLUSTERDOWN", "-TRYAGAIN", "-LOADING"]
        .iter()
        .any(|begin| answer.starts_with(begin))
}

#[test]
fn what_is_answered_could_have_been_so() {
    let first = seed();
    let seeds = first..first + number("CLUSTER_SEEDS", 20);
    for seed in seeds.chain(TELLING) {
        println!("CLUSTER_SEED={seed}");
        Campaign::new(seed).run();
    }
}
