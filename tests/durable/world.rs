//! A node on a simulated network and disk, and clients that talk to it in lines.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::data::files::{Files, Keys};
use marline::disk::seal::{Entropy, KeyRing};
use marline::disk::sim::{Crash, SimDisk};
use marline::node::{self, Node};
use marline::reactor::Reactor;
use marline::reactor::backend::{Backend, Raw};
use marline::reactor::sim::{Faults, SimBackend, SimNet};
use marline::reactor::timer::Nanos;

const RING: &str = "keys";
const SHARDS: &str = "4";
/// So short that a script fills many.
const SEGMENT_BYTES: u64 = 1 << 10;
const RESERVE_BYTES: u64 = 4 << 10;
/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    /// How long all worlds of a test have lived: the wall clock goes on when a node is restarted.
    static WALL_MS: Cell<u64> = const { Cell::new(0) };
}

/// The disks of a node: they outlive it.
#[derive(Clone)]
pub struct Disks {
    /// The data directory.
    pub data: SimDisk,
    /// Where backups go.
    pub backups: SimDisk,
    /// The ring of keys, when everything is sealed.
    pub ring: Option<SimDisk>,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
}

impl Disks {
    /// Empty ones, without a ring.
    pub fn plain() -> Disks {
        Disks {
            data: SimDisk::new(1),
            backups: SimDisk::new(2),
            ring: None,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// Empty ones, and a ring with a key.
    pub fn sealed() -> Disks {
        let ring = SimDisk::new(3);
        KeyRing::create(&ring, RING, 0, &mut entropy()).unwrap();
        Disks {
            ring: Some(ring),
            ..Disks::plain()
        }
    }

    /// Others in the same state.
    pub fn fork(&self) -> Disks {
        Disks {
            data: self.data.fork(),
            backups: self.backups.fork(),
            ring: self.ring.as_ref().map(SimDisk::fork),
            segment_bytes: self.segment_bytes,
        }
    }

    /// What a crash would make of them now.
    pub fn crashed(&self, how: Crash) -> Disks {
        let disks = self.fork();
        disks.data.crash(how);
        disks.backups.crash(how);
        disks.ring.iter().for_each(|ring| ring.crash(how));
        disks
    }

    fn files(&self) -> Files {
        let keys = self.ring.as_ref().map(|ring| Keys {
            disk: Arc::new(ring.clone()),
            name: RING.to_owned(),
            ring: Arc::new(KeyRing::open(ring, RING).unwrap()),
        });
        Files {
            disk: Arc::new(self.data.clone()),
            backups: Arc::new(self.backups.clone()),
            keys,
            entropy,
            segment_bytes: self.segment_bytes,
            reserve_bytes: RESERVE_BYTES,
        }
    }
}

/// Bytes that never come twice in a test, and are the same in each run of it.
fn entropy() -> Entropy {
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(1) };
    }
    let mut rng = fastrand::Rng::with_seed(NEXT.replace(NEXT.get() + 1));
    Box::new(move |bytes| rng.fill(bytes))
}

/// A connection of a [`World`].
#[derive(Clone, Copy)]
pub struct Client(Raw);

/// A node, its network, and all clients.
pub struct World {
    pub net: SimNet,
    pub node: Reactor<SimBackend, Node>,
    address: SocketAddr,
    clients: SimBackend,
    /// Wall time that had passed in the worlds before.
    behind_ms: u64,
    /// The node has stopped.
    pub is_over: bool,
}

impl World {
    /// A node that keeps everything in memory.
    pub fn in_memory() -> World {
        World::build(None, &[("data", "none")], 1, 1_000_000)
    }

    /// A node on these disks that is ready, or has given up.
    pub fn start(disks: &Disks) -> World {
        World::with(disks, &[], 1)
    }

    /// The same with options, and a seed for whatever is random in it.
    pub fn with(disks: &Disks, settings: &[(&str, &str)], seed: u64) -> World {
        let mut world = World::begin(disks, settings, seed);
        world.until(|world| !world.node.app().is_loading());
        world
    }

    /// A node that has yet to load its data.
    pub fn begin(disks: &Disks, settings: &[(&str, &str)], seed: u64) -> World {
        World::build(Some(disks), settings, seed, 1_000_000)
    }

    /// A node on a disk on which each call takes about this long, at random.
    pub fn on_slow_disk(disks: &Disks, most: Duration) -> World {
        World::with_on_slow_disk(disks, &[], most)
    }

    /// The same with options.
    pub fn with_on_slow_disk(disks: &Disks, settings: &[(&str, &str)], most: Duration) -> World {
        let mut world = World::build(Some(disks), settings, 1, most.as_nanos() as u64);
        world.until(|world| !world.node.app().is_loading());
        world
    }

    fn build(
        disks: Option<&Disks>,
        settings: &[(&str, &str)],
        seed: u64,
        job_delay_max_ns: u64,
    ) -> World {
        let faults = Faults {
            job_delay_max_ns,
            ..Faults::calm()
        };
        let net = SimNet::new(seed, faults);
        let mut values = Values::default();
        let fixed = [("port", "0"), ("shards", SHARDS), ("data", "simulated")];
        for (name, text) in fixed.iter().chain(settings) {
            values.set(name, text, Origin::Flag).unwrap();
        }
        let mut options = Options::read(&values).unwrap();
        // Shorter than can be asked for, so that snapshots are made all the time, unless segments are long.
        let segment_bytes = disks.map_or(0, |disks| disks.segment_bytes);
        options.snapshot_log_bytes = segment_bytes.max(4 << 10);
        let mut node = Node::new(values, options, seed);
        if let Some(disks) = disks {
            node = node.with_files(disks.files());
        }
        let backend = net.node();
        let behind_ms = WALL_MS.get();
        net.set_wall_skew_ms(backend.node(), behind_ms as i64);
        let (node, address) = node::start(backend, node).unwrap();
        let clients = net.node();
        World {
            net,
            node,
            address,
            clients,
            behind_ms,
            is_over: false,
        }
    }

    /// One turn of the node, and on to what comes next, or to `end`. False when it has stopped.
    fn step(&mut self, end: Nanos) -> bool {
        if !self.is_over {
            self.is_over = !self.node.turn(None).unwrap();
        }
        if !self.is_over {
            let wake = self.node.next_wake().into_iter().chain([end]).min();
            self.clients.poll(None, &mut Vec::new()).unwrap();
            self.net.advance(wake);
            WALL_MS.set(
                WALL_MS
                    .get()
                    .max(self.behind_ms + self.net.now() / 1_000_000),
            );
        }
        !self.is_over
    }

    /// Goes on until `is_so` or the node stops.
    pub fn until(&mut self, is_so: impl FnMut(&mut World) -> bool) {
        assert!(self.within(PATIENCE, is_so), "this takes for ever");
    }

    /// Goes on until `is_so` or the node stops; false if neither comes within this time.
    pub fn within(&mut self, time: Duration, mut is_so: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.net.now() + time.as_nanos() as u64;
        while !is_so(self) {
            if self.net.now() >= end {
                return false;
            }
            if !self.step(end) {
                return true;
            }
        }
        true
    }

    /// Lets this time pass.
    pub fn pass(&mut self, time: Duration) {
        self.within(time, |_| false);
    }

    pub fn connect(&mut self) -> Client {
        let raw = self.clients.connect(self.address, 1).unwrap();
        self.pass(Duration::from_millis(1));
        Client(raw)
    }

    pub fn send(&mut self, client: Client, text: &str) {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            if let Ok(sent) = self.clients.write(client.0, bytes) {
                bytes = &bytes[sent..];
            } else if !self.step(Nanos::MAX) {
                return;
            }
        }
    }

    /// What the client has been told since it last listened.
    pub fn heard(&mut self, client: Client) -> String {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = self.clients.read(client.0, &mut piece) {
            heard.extend_from_slice(&piece[..read]);
        }
        String::from_utf8(heard).unwrap()
    }

    /// Whether the node has closed the connection of the client, which has read everything.
    pub fn is_closed(&mut self, client: Client) -> bool {
        match self.clients.read(client.0, &mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    pub fn close(&mut self, client: Client) {
        self.clients.close(client.0, true);
    }

    /// The client has said everything (`nc -N`).
    pub fn finish(&mut self, client: Client) {
        self.clients.shutdown_write(client.0);
    }

    /// Waits for so many lines.
    pub fn lines(&mut self, client: Client, count: usize) -> String {
        let mut heard = String::new();
        self.until(|world| {
            heard.push_str(&world.heard(client));
            heard.lines().count() >= count && heard.ends_with('\n')
        });
        heard
    }

    /// Says `text`, of one command, and waits for one line.
    pub fn ask(&mut self, client: Client, text: &str) -> String {
        self.send(client, &format!("{text}\n"));
        self.lines(client, 1).trim_end().to_owned()
    }

    /// Everything stored: a line for each key with its value, whether it expires, and its encoding.
    pub fn dump(&mut self) -> String {
        let client = self.connect();
        let keys = self.ask_until_prompt(client, "KEYS *\r\n");
        let mut keys: Vec<&str> = (keys.lines())
            .filter(|line| !line.starts_with(['*', '$', '+']))
            .collect();
        keys.sort_unstable();
        self.ask_until_prompt(client, "HELLO LINE\r\n");
        let questions: String = keys
            .iter()
            .map(|key| format!("GET {key}\r\nTTL {key}\r\nOBJECT ENCODING {key}\r\n"))
            .collect();
        let answers = self.ask_until_prompt(client, &questions);
        let answers: Vec<&str> = answers.lines().collect();
        let mut dump = String::new();
        for (key, told) in keys.iter().zip(answers.chunks(3)) {
            let expires = if told[1] == "-1" { "" } else { " expires" };
            dump.push_str(&format!("{key} = {} ({}){expires}\n", told[0], told[2]));
        }
        self.close(client);
        dump
    }

    fn ask_until_prompt(&mut self, client: Client, text: &str) -> String {
        self.send(client, &format!("{text}PING\r\n"));
        let mut heard = String::new();
        self.until(|world| {
            heard.push_str(&world.heard(client));
            heard.trim_end().ends_with("PONG")
        });
        assert!(!self.is_over, "the node stopped: {:?}", self.fatal());
        heard
    }

    pub fn fatal(&self) -> Option<&str> {
        self.node.app().fatal()
    }

    /// SIGTERM: the node stops in order.
    pub fn stop(&mut self) {
        self.node.with(|cx| node::stop(cx.app, &mut cx.net));
        self.until(|world| world.is_over);
        assert!(self.is_over);
    }
}
