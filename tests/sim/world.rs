//! A cluster in one simulated network and time: nodes with disks of their own, and clients that talk to them in lines.
//!
//! Nodes are numbered from 1. A node that is killed loses what its disk had not synced, as chance has it; a paused one
//! stands still while the others go on. Clients are on a machine of their own that no cut concerns.
//!
//! A node whose disk may fail ends by itself when it does; any other may not.
//!
//! When a test fails, the world says its seed and what was done in it.

#[path = "world/faults.rs"]
mod faults;
#[path = "world/halting.rs"]
mod halting;
#[path = "world/standing.rs"]
mod standing;
#[path = "world/talking.rs"]
mod talking;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::data::files::{Files, Keys};
use marline::disk::seal::{Entropy, KeyRing};
use marline::disk::sim::rot::Rot;
use marline::disk::sim::{Crash, Fault, SimDisk};
use marline::failpoint::{self, Halted};
use marline::node::cluster::VERSION;
use marline::node::{self, Node};
use marline::reactor::Reactor;
use marline::reactor::backend::{Backend, Raw, Ready};
use marline::reactor::sim::{Faults, SimBackend, SimNet};
use marline::reactor::stats::Holdings;
use marline::reactor::timer::Nanos;

/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 1 << 20;
const RESERVE_BYTES: u64 = 4 << 10;
const PORT_FIRST: u16 = 8001;
/// Steps at the same time that are no accident any more.
const STEPS_MAX: u32 = 20_000;

thread_local! {
    static NEXT_ENTROPY: Cell<u64> = const { Cell::new(1) };
}

/// Bytes that never come twice in a world, and are the same in each run of it.
fn entropy() -> Entropy {
    let next = NEXT_ENTROPY.replace(NEXT_ENTROPY.get() + 1);
    let mut rng = fastrand::Rng::with_seed(next);
    Box::new(move |bytes| rng.fill(bytes))
}

/// A ring with one key.
fn keys(seed: u64) -> Keys {
    let (disk, name) = (SimDisk::new(seed), "keys");
    let ring = KeyRing::create(&disk, name, 0, &mut entropy()).unwrap();
    Keys {
        disk: Arc::new(disk),
        name: name.to_owned(),
        ring: Arc::new(ring),
    }
}

fn port(node: usize) -> u16 {
    PORT_FIRST + node as u16 - 1
}

fn address(node: usize) -> String {
    format!("127.0.0.1:{}", port(node))
}

/// How the nodes of a world are.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// Nodes that found the cluster.
    pub nodes: usize,
    /// Nodes that join it later, if somebody starts them. They are not told how many shards there are.
    pub joiners: usize,
    pub shards: u16,
    pub replicas: u8,
    /// `--sync`.
    pub sync: &'static str,
    /// Whether data are kept on disks.
    pub has_disks: bool,
    pub faults: Faults,
    /// How often nodes save their stores; a follower may then need a snapshot. `None`: never.
    pub snapshot_interval: Option<Duration>,
    /// Whether what is on the disks is sealed.
    pub is_sealed: bool,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// Whether each process says this version to the others or the next, as while a cluster is upgraded node by node.
    pub mixes_versions: bool,
}

impl Plan {
    /// Three nodes, two shards, a quiet network.
    pub fn new(seed: u64) -> Plan {
        Plan {
            seed,
            nodes: 3,
            joiners: 0,
            shards: 2,
            replicas: 3,
            sync: "always",
            has_disks: true,
            faults: Faults::calm(),
            snapshot_interval: None,
            is_sealed: false,
            segment_bytes: SEGMENT_BYTES,
            mixes_versions: false,
        }
    }
}

/// The place of a node: its disk, and its process if one runs.
struct Seat {
    disk: SimDisk,
    process: Option<Reactor<SimBackend, Node>>,
    /// Its number in the network.
    at: usize,
    is_paused: bool,
    /// Whether it joins a cluster and does not found one.
    joins: bool,
    lives: u64,
    /// What its files are sealed with.
    keys: Option<Keys>,
    /// Whether its process may end because of its disk.
    may_fail: bool,
    /// What had failed in its disk when it began to be allowed.
    fired: BTreeMap<&'static str, u64>,
    /// The number of its disk, and how many it has had.
    disk_number: u64,
    disks: u64,
    /// What of its disk is wrong.
    rot: Option<Rot>,
    /// How often its disk was put back to an earlier state.
    put_backs: u64,
    /// Whether its last process ended because of its disk.
    has_failed: bool,
}

impl Seat {
    /// Its process may end because of its disk from now on. What it has not noticed of an earlier fault still counts.
    fn let_fail(&mut self) {
        if !std::mem::replace(&mut self.may_fail, true) {
            self.fired = self.disk.fired();
        }
    }
}

/// A disk as it was, and its number.
pub struct Backup {
    disk: SimDisk,
    number: u64,
}

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(Raw);

/// Something that was done in a world.
pub struct Deed {
    pub at: Nanos,
    /// The node that it was done to, if it was one.
    pub node: Option<usize>,
    pub what: String,
}

/// What a client has heard and not taken.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    /// What the client has said and its connection has not taken.
    unsent: Vec<u8>,
    /// Lines to come that answer HELLO.
    greetings: usize,
    is_closed: bool,
}

pub struct World {
    pub net: SimNet,
    plan: Plan,
    seats: Vec<Seat>,
    talkers: SimBackend,
    /// The clients by the token of their connection.
    tokens: BTreeMap<u64, Client>,
    ready: Vec<Ready>,
    /// Whether a client has heard something since somebody asked.
    has_news: bool,
    heard: BTreeMap<Client, Heard>,
    /// The connections by which [`ask`](Self::ask) asks.
    asking: BTreeMap<usize, Client>,
    told: Vec<Deed>,
    load: Vec<Counter>,
    /// Steps at the same time, and at which.
    standstill: (Nanos, u32),
    /// Whether whoever ends because of its disk is started again at once: an earlier fault may be noticed late.
    pub revives: bool,
}

/// A client that counts up, one step after the other.
struct Counter {
    node: usize,
    client: Client,
    key: String,
    count: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::report(self);
        }
    }
}

impl World {
    /// Nodes that have not been started.
    pub fn new(plan: Plan) -> World {
        super::log_if_asked();
        NEXT_ENTROPY.set(1);
        failpoint::reset();
        let net = SimNet::new(plan.seed, plan.faults);
        let seat = |number: usize| Seat {
            disk: SimDisk::new(plan.seed + number as u64),
            process: None,
            at: net.node().node(),
            is_paused: false,
            joins: number >= plan.nodes,
            lives: 0,
            keys: plan.is_sealed.then(|| keys(plan.seed + number as u64)),
            may_fail: false,
            fired: BTreeMap::new(),
            disk_number: 1,
            disks: 1,
            rot: None,
            put_backs: 0,
            has_failed: false,
        };
        let seats = (0..plan.nodes + plan.joiners).map(seat).collect();
        let talkers = net.node();
        World {
            net,
            plan,
            seats,
            talkers,
            tokens: BTreeMap::new(),
            ready: Vec::new(),
            has_news: false,
            heard: BTreeMap::new(),
            asking: BTreeMap::new(),
            told: Vec::new(),
            load: Vec::new(),
            standstill: (0, 0),
            revives: false,
        }
    }

    /// A cluster that has been founded and whose shards have leaders.
    pub fn founded(plan: Plan) -> World {
        let mut world = World::new(plan);
        (1..=plan.nodes).for_each(|node| world.start(node));
        world.until("the cluster is founded", |world| world.is_led());
        world
    }

    /// The numbers of all nodes.
    pub fn all(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.plan.nodes + self.plan.joiners
    }

    /// Writes down what happens, for the report of a failure.
    pub fn tell(&mut self, what: &str) {
        self.note(None, what);
    }

    /// Writes down what happens to a node.
    pub fn note(&mut self, node: Option<usize>, what: &str) {
        self.told.push(Deed {
            at: self.net.now(),
            node,
            what: what.to_owned(),
        });
    }

    /// What was done so far.
    pub fn deeds(&self) -> &[Deed] {
        &self.told
    }

    pub fn plan(&self) -> Plan {
        self.plan
    }

    fn seat(&mut self, node: usize) -> &mut Seat {
        &mut self.seats[node - 1]
    }

    /// The state of a node that runs.
    pub fn node(&self, node: usize) -> Option<&Node> {
        self.seats[node - 1].process.as_ref().map(Reactor::app)
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.node(node).is_some()
    }

    /// Whether a process of a node ran at some time.
    pub fn has_lived(&self, node: usize) -> bool {
        self.lives(node) > 0
    }

    /// How many processes of a node there have been.
    pub fn lives(&self, node: usize) -> u64 {
        self.seats[node - 1].lives
    }

    pub fn is_paused(&self, node: usize) -> bool {
        self.seats[node - 1].is_paused
    }

    /// Whom a node is to join: a member that runs, if there is one. Two that are none would wait for each other.
    fn host(&self, node: usize) -> usize {
        let map = self.map();
        let is_member = |&other: &usize| {
            let place = self.node(other).and_then(Node::place);
            place.is_some_and(|(_, number)| {
                map.as_ref()
                    .is_some_and(|map| map.nodes.contains_key(&number))
            })
        };
        let others = || self.all().filter(|&other| other != node);
        let down = || others().find(|&other| !self.is_up(other) && self.has_lived(other));
        let host = others().find(is_member).or_else(down);
        host.unwrap_or(1 + node % 2)
    }

    fn options(&self, node: usize) -> (Values, Options) {
        let founders: Vec<String> = (1..=self.plan.nodes).map(address).collect();
        let (mut values, port) = (Values::default(), port(node).to_string());
        let mut set = |name: &str, text: &str| values.set(name, text, Origin::Flag).unwrap();
        set("port", &port);
        match self.seats[node - 1].joins {
            true => set("join", &address(self.host(node))),
            false => {
                set("cluster", &founders.join(","));
                set("shards", &self.plan.shards.to_string());
                set("replicas", &self.plan.replicas.to_string());
            }
        }
        let data = ["none", "simulated"][usize::from(self.plan.has_disks)];
        set("data", data);
        set("sync", self.plan.sync);
        let mut options = Options::read(&values).unwrap();
        options.snapshot_interval = self.plan.snapshot_interval;
        (values, options)
    }

    /// Starts the process of a node.
    pub fn start(&mut self, node: usize) {
        self.note(Some(node), "start");
        let (values, options) = self.options(node);
        let (
            Plan {
                seed,
                has_disks,
                segment_bytes,
                mixes_versions,
                ..
            },
            net,
        ) = (self.plan, self.net.clone());
        let seat = self.seat(node);
        assert!(seat.process.is_none(), "node {node} runs");
        seat.lives += 1;
        seat.has_failed = false;
        let files = Files {
            disk: Arc::new(seat.disk.clone()),
            backups: Arc::new(SimDisk::new(0)),
            keys: seat.keys.clone(),
            entropy,
            segment_bytes,
            reserve_bytes: RESERVE_BYTES,
        };
        let of_process = node as u64 * 1_000 + seat.lives;
        let seed = seed.wrapping_mul(1_000_000).wrapping_add(of_process);
        let mut state = Node::new(values, options, seed);
        if mixes_versions {
            state = state.speaking(VERSION + net.random() as u32 % 2);
        }
        if has_disks {
            state = state.with_files(files);
        }
        let (process, _) = node::start(net.again(seat.at), state).unwrap();
        seat.process = Some(process);
    }

    /// Starts a node that was up before, unless it is; without its data, if they are wrong.
    pub fn revive(&mut self, node: usize) {
        if self.has_found_rot(node) {
            self.wipe(node);
        }
        if !self.is_up(node) && self.has_lived(node) {
            self.start(node);
        }
    }

    /// A node loses its power. Its disk keeps what was synced, and of the rest what chance leaves.
    pub fn kill(&mut self, node: usize) {
        self.note(Some(node), "kill");
        let chance = self.net.random();
        self.end(node, Crash::Random(chance), SimNet::crash);
    }

    /// The process of a node dies. Its disk keeps everything.
    pub fn kill_process(&mut self, node: usize) {
        self.note(Some(node), "kill process");
        self.end(node, Crash::KeepAll, SimNet::crash);
    }

    /// A node has an empty disk from now on. If it runs, it is killed.
    pub fn wipe(&mut self, node: usize) {
        if self.is_up(node) {
            self.kill(node);
        }
        self.note(Some(node), "wipe");
        let chance = self.net.random();
        let seat = self.seat(node);
        seat.disk = SimDisk::new(chance);
        seat.disks += 1;
        seat.disk_number = seat.disks;
        (seat.rot, seat.has_failed) = (None, false);
    }

    /// A node joins whenever it is started without data from now on.
    pub fn let_join(&mut self, node: usize) {
        self.seat(node).joins = true;
    }

    /// A node has no process any more; `leave` is how the network learns it.
    fn end(&mut self, node: usize, how: Crash, leave: fn(&SimNet, usize)) {
        let net = self.net.clone();
        let seat = self.seat(node);
        seat.process = None;
        (seat.is_paused, seat.may_fail) = (false, false);
        leave(&net, seat.at);
        seat.disk.crash(how);
        self.asking.remove(&node);
    }

    /// A node stands still until [`wake`](Self::wake).
    pub fn pause(&mut self, node: usize) {
        self.note(Some(node), "pause");
        let seat = self.seat(node);
        seat.is_paused = true;
        let at = seat.at;
        self.net.pause(at);
    }

    pub fn wake(&mut self, node: usize) {
        self.note(Some(node), "wake");
        let seat = self.seat(node);
        seat.is_paused = false;
        let at = seat.at;
        self.net.resume(at);
    }

    /// Nothing gets from one node to another.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.note(Some(from), &format!("cut to {to}"));
        self.net.cut(self.seats[from - 1].at, self.seats[to - 1].at);
    }

    /// All links are as they were in the beginning.
    pub fn heal(&mut self) {
        self.tell("heal");
        self.net.heal();
        self.net.reset_links();
    }

    /// A link takes about so long, and loses so many of a hundred deliveries.
    pub fn slow(&mut self, from: usize, to: usize, most: Duration, loss_percent: u8) {
        self.note(
            Some(from),
            &format!("slow to {to}: {most:?}, {loss_percent} %"),
        );
        let most = most.as_nanos() as Nanos;
        let ends = (self.seats[from - 1].at, self.seats[to - 1].at);
        self.net
            .set_link(ends.0, ends.1, most / 2..=most, loss_percent);
    }

    /// The disk of a node fails, `calls` calls from now; if `is_sticky` from then on. The node may end by it.
    pub fn fail_disk(&mut self, node: usize, calls: u64, fault: Fault, is_sticky: bool) {
        let text = format!("disk: {fault:?} in {calls} calls, sticky: {is_sticky}");
        self.note(Some(node), &text);
        let seat = self.seat(node);
        seat.let_fail();
        seat.disk
            .fail_at(seat.disk.calls() + calls, fault, is_sticky);
    }

    /// A node loses its power in the middle of a call of its disk.
    pub fn kill_in_call(&mut self, node: usize, calls: u64) {
        self.note(Some(node), &format!("kill in {calls} calls"));
        let seat = self.seat(node);
        seat.let_fail();
        seat.disk.crash_at(seat.disk.calls() + calls);
    }

    /// The disk of a node works again.
    pub fn heal_disk(&mut self, node: usize) {
        self.note(Some(node), "disk: works");
        let seat = self.seat(node);
        seat.disk.heal();
        // What has failed may not have been noticed yet.
        seat.may_fail = seat.disk.fired() != seat.fired;
    }

    /// What is on the disk of a node.
    pub fn files(&self, node: usize) -> BTreeMap<String, Vec<u8>> {
        self.seats[node - 1].disk.contents()
    }

    /// What the reactor of a node holds, if one runs.
    pub fn holdings(&self, node: usize) -> Option<Holdings> {
        let process = self.seats[node - 1].process.as_ref()?;
        Some(process.holdings())
    }

    /// Sockets that a node has open.
    pub fn sockets(&self, node: usize) -> usize {
        self.net.sockets(self.seats[node - 1].at)
    }

    /// A turn of each node that has something to do, and on to what comes next, or to `end`.
    fn step(&mut self, end: Nanos) {
        let now = self.net.now();
        let mut wake = end;
        let first = self.net.random() as usize % self.seats.len();
        let mut has_turned = false;
        self.count_turns(now);
        let (mut ended, mut halted): (_, Vec<Halted>) = (Vec::new(), Vec::new());
        for at in 0..self.seats.len() {
            let number = (first + at) % self.seats.len();
            let seat = &mut self.seats[number];
            let Some(process) = seat.process.as_mut().filter(|_| !seat.is_paused) else {
                continue;
            };
            // Its clock may drift; when it wants to be woken is said by that one.
            let due = |at: Option<Nanos>| at.map(|at| self.net.when(seat.at, at));
            let mut next = due(process.next_wake());
            if self.net.calls(seat.at) || next.is_some_and(|at| at <= now) {
                has_turned = true;
                let turned = match halting::turn(process, seat.at) {
                    Ok(turned) => turned,
                    Err(at) => {
                        halted.push(at);
                        continue;
                    }
                };
                let goes_on = turned.unwrap();
                let fatal = process.app().fatal();
                if !goes_on || fatal.is_some() {
                    let text = format!("ends: {}", fatal.unwrap_or("of itself"));
                    assert!(
                        seat.may_fail || seat.rot.is_some(),
                        "node {} {text}",
                        number + 1
                    );
                    seat.has_failed = true;
                    ended.push((number + 1, text));
                    continue;
                }
                next = due(process.next_wake());
            }
            wake = wake.min(next.unwrap_or(end));
        }
        for (node, text) in ended {
            self.note(Some(node), &text);
            let chance = self.net.random();
            self.end(node, Crash::Random(chance), SimNet::crash);
            if self.revives {
                self.revive(node);
            }
        }
        if !has_turned || wake > now {
            let advanced = failpoint::catch(|| self.net.advance(Some(wake)));
            halted.extend(advanced.err());
        }
        halted.into_iter().for_each(|halted| self.halted(halted));
        self.listen();
    }

    /// Time goes on sooner or later, whatever the nodes do.
    fn count_turns(&mut self, now: Nanos) {
        let (since, steps) = &mut self.standstill;
        if *since != now {
            (*since, *steps) = (now, 0);
        }
        *steps += 1;
        assert!(
            *steps < STEPS_MAX,
            "time stands still: the nodes go round in circles"
        );
    }

    /// Takes what has come for the clients.
    fn listen(&mut self) {
        if !self.net.calls(self.talkers.node()) {
            return;
        }
        let mut piece = [0; 512];
        self.ready.clear();
        self.talkers.poll(None, &mut self.ready).unwrap();
        for ready in std::mem::take(&mut self.ready) {
            let Some(&client) = self.tokens.get(&ready.token) else {
                continue;
            };
            self.flush(client);
            let Some(heard) = self.heard.get_mut(&client) else {
                continue;
            };
            self.has_news = true;
            while !heard.is_closed {
                match self.talkers.read(client.0, &mut piece) {
                    Ok(0) => heard.is_closed = true,
                    Ok(read) => heard.bytes.extend_from_slice(&piece[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => heard.is_closed = true,
                }
            }
        }
    }

    /// Whether a client has heard something since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Goes on until `is_so`; false if it is not within this time.
    pub fn within(&mut self, time: Duration, mut is_so: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.net.now() + time.as_nanos() as u64;
        while !is_so(self) {
            if self.net.now() >= end {
                return false;
            }
            self.step(end);
            self.go_on_with_load();
        }
        true
    }

    /// Goes on until `is_so`.
    pub fn until(&mut self, what: &str, is_so: impl FnMut(&mut World) -> bool) {
        assert!(self.within(PATIENCE, is_so), "in vain: {what}");
    }

    /// Lets this time pass.
    pub fn pass(&mut self, time: Duration) {
        self.within(time, |_| false);
    }
}
