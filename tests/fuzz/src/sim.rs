//! A node in a simulated network, and who talks to it.

use std::net::SocketAddr;
use std::time::Duration;

use marline::node::{self, Node};
use marline::reactor::Reactor;
use marline::reactor::backend::{Backend, Raw};
use marline::reactor::sim::{SimBackend, SimNet};

/// Events of one run; a session that says more keeps the network busy for ever.
pub const STEPS_MAX: usize = 400;

/// A node and its network.
pub struct World {
    /// The network.
    pub net: SimNet,
    /// The node.
    pub server: Reactor<SimBackend, Node>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The node of the network that all clients are on.
    pub outside: SimBackend,
    ahead_ms: u64,
    /// The node has stopped.
    pub stopped: bool,
}

impl World {
    /// Starts a node.
    pub fn start(net: &SimNet, node: Node) -> World {
        World::start_at(net, 0, node)
    }

    /// Starts a node whose wall clock is so many milliseconds ahead of where simulations begin.
    pub fn start_at(net: &SimNet, ahead_ms: u64, node: Node) -> World {
        let backend = net.node();
        net.set_wall_skew_ms(backend.node(), ahead_ms as i64);
        let (server, address) = node::start(backend, node).expect("an address is free");
        World {
            net: net.clone(),
            server,
            address,
            outside: net.node(),
            ahead_ms,
            stopped: false,
        }
    }

    /// One turn of the node, and a moment.
    pub fn step(&mut self) {
        self.turn();
        if !self.stopped {
            self.net.pass(Duration::from_micros(100));
        }
    }

    /// How far the node's wall clock is from where simulations begin.
    pub fn passed_ms(&self) -> u64 {
        self.ahead_ms + self.net.now() / 1_000_000
    }

    fn turn(&mut self) {
        if !self.stopped {
            self.stopped = !self.server.turn(None).expect("the loop goes on");
        }
    }

    /// Goes on from event to event until this time has passed, the node has stopped, or `is_over`.
    pub fn within(&mut self, time: Duration, mut is_over: impl FnMut(&mut World) -> bool) -> bool {
        let until = self.net.now() + time.as_nanos() as u64;
        while !is_over(self) {
            if self.stopped || self.net.now() >= until {
                return false;
            }
            self.turn();
            let wake = self.server.next_wake().map_or(until, |at| at.min(until));
            // Time stands still while there are events that nobody has taken.
            let taken = self.outside.poll(None, &mut Vec::new());
            taken.expect("a simulated poll does not fail");
            if !self.stopped {
                self.net.advance(Some(wake));
            }
        }
        true
    }
}

/// A connection from outside.
pub struct Client {
    /// The connection, if it was made and not given up.
    pub raw: Option<Raw>,
    /// What came back.
    pub heard: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn new(world: &mut World) -> Client {
        Client {
            raw: world.outside.connect(world.address, 1).ok(),
            heard: Vec::new(),
        }
    }

    /// Says something, which may take many steps.
    pub fn say(&mut self, mut bytes: &[u8], world: &mut World) {
        for _ in 0..STEPS_MAX {
            let Some(raw) = self.raw.filter(|_| !bytes.is_empty()) else {
                return;
            };
            match world.outside.write(raw, bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            world.step();
            self.listen(world);
        }
    }

    /// Takes what has come back.
    pub fn listen(&mut self, world: &mut World) {
        let (Some(raw), mut piece) = (self.raw, [0; 4096]) else {
            return;
        };
        while let Ok(read @ 1..) = world.outside.read(raw, &mut piece) {
            self.heard.extend_from_slice(&piece[..read]);
        }
    }

    /// Says that it has said everything, and listens on.
    pub fn finish(&mut self, world: &mut World) {
        if let Some(raw) = self.raw {
            world.outside.shutdown_write(raw);
        }
    }

    /// Hangs up.
    pub fn close(&mut self, world: &mut World, reset: bool) {
        if let Some(raw) = self.raw.take() {
            world.outside.close(raw, reset);
        }
    }
}
