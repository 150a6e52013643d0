//! The backend of the simulator: many reactors on one network that lives in memory and in virtual time.
//!
//! Above the [`Backend`] seam everything is production code, so what a simulation finds is a bug of production:
//! fairness, flushing, closing, timers, line parsing are not stubbed. The same seed gives the same run, byte for byte;
//! [`SimNet::trace`] is a hash of everything that was delivered, for a canary that compares two runs.
//!
//! **Driving.** A simulated poll never waits. Whoever drives the simulation turns each reactor, then lets time jump to
//! what comes next:
//!
//! ```text
//! loop {
//!     for reactor in &mut reactors { reactor.turn(None)?; }
//!     let wake = reactors.iter_mut().filter_map(Reactor::next_wake).min();
//!     if !net.advance(wake) { break; } // at rest
//! }
//! ```
//!
//! A reactor alone on its network may also [`run`](super::Reactor::run): with [`SimNet::solo`] its poll moves the
//! clock.
//!
//! The network is flat: an address that somebody listens on is reachable from every node, whatever it is.
//!
//! **Whole clusters.** Each node is a reactor on a [`node`](SimNet::node) of its own, which the network knows by its
//! number: links between them are [cut](SimNet::cut), [clogged](SimNet::clog) or [slow](SimNet::set_link), and their
//! connections [reset](SimNet::reset); a process [crashes](SimNet::crash) with its threads, or its machine
//! [vanishes](SimNet::vanish), and another [begins](SimNet::again); or it is [paused](SimNet::pause), or only its
//! threads [stand still](SimNet::stall), as when a disk hangs. [`SimNet::fired`] counts what of this took place.
//!
//! **Time.** The world has one time: [`SimNet::now`], [`SimNet::advance`] and everything that is scheduled. A node's
//! monotonic clock is a function of it, which [`SimNet::set_drift`] makes faster or slower, so
//! [`Reactor::next_wake`](super::Reactor::next_wake) is in the node's time, and [`SimNet::when`] says which time of the
//! world that is. As long as no clock drifts both are the same. Wall clocks do not drift, they are
//! [wrong](SimNet::set_wall_skew_ms).
//!
//! **Failpoints.** A job runs as code of its node ([`failpoint::enter`]); for turns that is the driver's to say. The
//! number of a node there is its number here.
//!
//! Deliberately absent: disks (they are [`SimDisk`](crate::disk::sim::SimDisk)), datagrams, bytes that change on their
//! way, keepalives. Threads are virtual: a job runs inline, after a while.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::backend::{AcceptError, Backend, Job, Lane, Lookup, Raw, Ready, Wake};
use super::limits::ListenOptions;
use super::sim_world::{Event, Line, World};
use super::timer::{Nanos, nanos};
use crate::failpoint;

/// How unkind the network is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The shortest delay of a delivery, in nanoseconds.
    pub delay_min_ns: u64,
    /// The longest one.
    pub delay_max_ns: u64,
    /// Bytes are delivered in pieces of at most this many; each piece has its own delay.
    pub segment_max_bytes: usize,
    /// What is written at once is delivered in at most about so many of those and the rest of it, which come at a place
    /// that chance chooses; `None`: all of it in such pieces.
    pub segments_max: Option<usize>,
    /// How many bytes may be on their way to, or unread at, one receiver.
    pub window_bytes: usize,
    /// Writes that take only a part, of a hundred.
    pub short_write_percent: u8,
    /// Writes that block at first, of a hundred.
    pub would_block_percent: u8,
    /// Connection attempts that are refused although somebody listens, of a hundred.
    pub refuse_percent: u8,
    /// A socket's closing is followed by one more event with its token.
    pub stale_events: bool,
    /// The longest time a job waits for its thread, in nanoseconds.
    pub job_delay_max_ns: u64,
}

impl Faults {
    /// A fast and quiet network.
    pub const fn calm() -> Self {
        Faults {
            delay_min_ns: 20_000,
            delay_max_ns: 100_000,
            segment_max_bytes: 16 << 10,
            segments_max: None,
            window_bytes: 64 << 10,
            short_write_percent: 0,
            would_block_percent: 0,
            refuse_percent: 0,
            stale_events: true,
            job_delay_max_ns: 1_000_000,
        }
    }

    /// Small windows, torn deliveries, writes that stop in the middle.
    pub const fn rough() -> Self {
        Faults {
            delay_max_ns: 5_000_000,
            segment_max_bytes: 7,
            window_bytes: 300,
            short_write_percent: 30,
            would_block_percent: 20,
            ..Faults::calm()
        }
    }
}

/// A network and its clock; a handle that may be cloned.
#[derive(Clone)]
pub struct SimNet {
    world: Rc<RefCell<World>>,
}

/// By how many parts of a million a clock may be too fast or too slow.
pub const DRIFT_MAX_PPM: i32 = 200_000;

/// The wall clock when a simulation begins, in milliseconds since 1970-01-01 UTC.
const WALL_START_MS: u64 = 1_700_000_000_000;

impl SimNet {
    /// An empty network at time 0.
    pub fn new(seed: u64, faults: Faults) -> Self {
        SimNet {
            world: Rc::new(RefCell::new(World::new(seed, faults))),
        }
    }

    /// A backend for one more node.
    pub fn node(&self) -> SimBackend {
        let woken = Arc::new(AtomicBool::new(false));
        let node = self.world.borrow_mut().add_node(&woken);
        SimBackend {
            net: self.clone(),
            node,
            woken,
            solo: false,
        }
    }

    /// A backend for the next process of a node that has [crashed](Self::crash) or [vanished](Self::vanish).
    pub fn again(&self, node: usize) -> SimBackend {
        let woken = Arc::new(AtomicBool::new(false));
        self.world.borrow_mut().begin_life(node, &woken);
        SimBackend {
            net: self.clone(),
            node,
            woken,
            solo: false,
        }
    }

    /// A backend whose polls move the clock: for a reactor that is alone.
    pub fn solo(seed: u64, faults: Faults) -> SimBackend {
        SimBackend {
            solo: true,
            ..SimNet::new(seed, faults).node()
        }
    }

    /// Moves the clock to the next event, or to `wake` (in the world's time) if that is sooner, and lets everything
    /// happen that is due then. Time stands still while a node has events that it has not polled. False when nothing
    /// will ever happen.
    pub fn advance(&self, wake: Option<Nanos>) -> bool {
        let mut world = self.world.borrow_mut();
        if (0..world.nodes.len()).any(|node| world.calls(node)) {
            return true;
        }
        let Some(at) = world.next_at().into_iter().chain(wake).min() else {
            return false;
        };
        world.now = world.now.max(at);
        drop(world);
        self.settle();
        true
    }

    /// Moves the clock by `time`, event after event.
    pub fn pass(&self, time: Duration) {
        let until = self.now().saturating_add(nanos(time));
        loop {
            let mut world = self.world.borrow_mut();
            let at = world.next_at().map_or(until, |at| at.min(until));
            world.now = world.now.max(at);
            drop(world);
            self.settle();
            if at == until {
                return;
            }
        }
    }

    /// Lets everything happen that is due.
    fn settle(&self) {
        loop {
            // Its own statement, so that the world is not borrowed while a job runs.
            let step = self.world.borrow_mut().step();
            match step {
                None => return,
                Some(None) => {}
                // It may unwind, if its node is to stop: the world is as it was, and goes on the next time.
                Some(Some((node, job))) => {
                    failpoint::enter(node);
                    job();
                    failpoint::leave();
                }
            }
        }
    }

    /// Nanoseconds since the simulation began.
    pub fn now(&self) -> Nanos {
        self.world.borrow().now
    }

    /// A hash of everything that was delivered, and when.
    pub fn trace(&self) -> u64 {
        self.world.borrow().trace
    }

    /// 64 bits from the one generator, for a driver's own choices.
    pub fn random(&self) -> u64 {
        self.world.borrow_mut().rng.u64(..)
    }

    /// Changes the network's mood.
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    /// Delivers nothing from one node to another (one direction) until [`heal`](Self::heal).
    pub fn cut(&self, from: usize, to: usize) {
        self.world.borrow_mut().cut(from, to);
    }

    /// Ends all cuts; what was sent meanwhile arrives now, in order. Clogged links stay so until their time.
    pub fn heal(&self) {
        self.world.borrow_mut().heal();
    }

    /// Ends one cut.
    pub fn mend(&self, from: usize, to: usize) {
        self.world.borrow_mut().mend(from, to);
    }

    /// Makes a link (one direction) unlike all others: how long deliveries take, and how many of a hundred are lost,
    /// which come later and hold up those behind them.
    pub fn set_link(&self, from: usize, to: usize, delay: RangeInclusive<Nanos>, loss_percent: u8) {
        let line = Line {
            delay_min_ns: *delay.start(),
            delay_max_ns: *delay.end(),
            loss_percent,
        };
        let mut world = self.world.borrow_mut();
        world.lines.insert((from, to), line);
        world.count("slow link");
    }

    /// Delivers nothing from one node to another (one direction) before the time `until`; then everything arrives at
    /// once, in order. The longest of several holds.
    pub fn clog(&self, from: usize, to: usize, until: Nanos) {
        self.world.borrow_mut().clog((from, to), until);
    }

    /// Resets all connections between two nodes, as a box between them may. What is on its way is lost, but of the
    /// first piece chance lets some bytes through, so that a frame may end in the middle; the ends hear of it at once
    /// or, each by itself, within the longest delay of the network.
    pub fn reset(&self, one: usize, other: usize) {
        self.world.borrow_mut().reset_between(one, other);
    }

    /// Makes all links alike.
    pub fn reset_links(&self) {
        self.world.borrow_mut().lines.clear();
    }

    /// Stops a node (as SIGSTOP does) until [`resume`](Self::resume): its threads stand still, what reaches it waits.
    /// Give its reactor no turns meanwhile.
    pub fn pause(&self, node: usize) {
        self.world.borrow_mut().pause(node, true);
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: usize) {
        self.world.borrow_mut().pause(node, false);
    }

    /// Whether a node has a reason to poll now.
    pub fn calls(&self, node: usize) -> bool {
        self.world.borrow().calls(node)
    }

    /// The longest time that jobs of a node wait for their thread, in nanoseconds: how slow its disk is. `None`: as
    /// [`Faults`] says.
    pub fn set_job_delay_max(&self, node: usize, delay_max_ns: Option<u64>) {
        self.world.borrow_mut().nodes[node].job_delay_max_ns = delay_max_ns;
    }

    /// Lets no job of a node be done before the time `until`, as when its disk hangs; its reactor goes on. Then they
    /// are done as fast as ever, in order. The longest of several holds, also for the next process of the node.
    pub fn stall(&self, node: usize, until: Nanos) {
        self.world.borrow_mut().stall(node, until);
    }

    /// Resets everything that a node has open, as happens when its process dies; jobs that its threads have not got to
    /// are gone. Drop its reactor too.
    pub fn crash(&self, node: usize) {
        self.world.borrow_mut().crash(node);
    }

    /// The machine of a node is gone with everything that it had open, and has told nobody: power or cable. Drop its
    /// reactor too. Until the next process [begins](Self::again) nothing there answers; its peers find out when they
    /// send: by a reset when the machine is up again, or after 15 s.
    pub fn vanish(&self, node: usize) {
        self.world.borrow_mut().vanish(node);
    }

    /// How many sockets a node may have open.
    pub fn set_descriptors_max(&self, node: usize, max: usize) {
        self.world.borrow_mut().nodes[node].descriptors_max = max;
    }

    /// Sets a node's wall clock wrong, by so many milliseconds.
    pub fn set_wall_skew_ms(&self, node: usize, skew_ms: i64) {
        let mut world = self.world.borrow_mut();
        world.nodes[node].wall_skew_ms = skew_ms;
        world.count("wrong wall clock");
    }

    /// Lets a node's monotonic clock run faster by so many parts of a million from now on, or slower. It neither steps
    /// nor goes back. At most a fifth ([`DRIFT_MAX_PPM`]); more is an error of the caller, and panics.
    pub fn set_drift(&self, node: usize, parts_per_million: i32) {
        self.world.borrow_mut().set_drift(node, parts_per_million);
    }

    /// What a node's monotonic clock says.
    pub fn clock(&self, node: usize) -> Nanos {
        let world = self.world.borrow();
        world.nodes[node].clock.says(world.now)
    }

    /// At which time of the world a node's clock will have reached `at`, if it goes on as it does; now, if it has. For
    /// [`advance`](Self::advance), to which a driver gives what
    /// [`Reactor::next_wake`](super::Reactor::next_wake) says.
    pub fn when(&self, node: usize, at: Nanos) -> Nanos {
        let world = self.world.borrow();
        world.nodes[node].clock.when(at).max(world.now)
    }

    /// How often each kind of fault took place, since the beginning. What only might have done harm is not counted: a
    /// cut and a clog by the deliveries that they held up (again, if they did so again), a pause and a stall besides by
    /// the jobs; a reset and a timeout by the ends of connections.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.world.borrow().fired.clone()
    }

    /// Sockets that a node has open.
    pub fn sockets(&self, node: usize) -> usize {
        self.world.borrow().sockets(node)
    }

    /// What lookups of `name` (`host:port`) find.
    pub fn set_name(&self, name: &str, addrs: &[SocketAddr]) {
        self.world
            .borrow_mut()
            .names
            .insert(name.to_owned(), addrs.to_vec());
    }
}

/// One node's backend.
pub struct SimBackend {
    net: SimNet,
    node: usize,
    woken: Arc<AtomicBool>,
    solo: bool,
}

impl SimBackend {
    /// The node's number, as [`SimNet`] takes it.
    pub fn node(&self) -> usize {
        self.node
    }

    /// The network that it is on.
    pub fn net(&self) -> SimNet {
        self.net.clone()
    }

    /// Moves the clock until there is something to report or `until` is reached.
    fn wait_alone(&self, until: Option<Nanos>) -> io::Result<()> {
        while !self.net.world.borrow().calls(self.node) {
            if until.is_some_and(|until| until <= self.net.now()) {
                return Ok(());
            }
            if !self.net.advance(until) {
                return Err(io::Error::other(
                    "the simulation is at rest: nothing will ever happen",
                ));
            }
        }
        Ok(())
    }
}

impl Backend for SimBackend {
    fn poll(&mut self, wait: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        if self.solo {
            let until = wait.map(|wait| self.now().saturating_add(nanos(wait)));
            let until = until.map(|until| self.net.when(self.node, until));
            self.wait_alone(until)?;
        }
        self.net.world.borrow_mut().take_edges(self.node, ready);
        Ok(())
    }

    fn now(&mut self) -> Nanos {
        self.net.clock(self.node)
    }

    fn wall_ms(&mut self) -> u64 {
        let world = self.net.world.borrow();
        (WALL_START_MS + world.now / 1_000_000)
            .saturating_add_signed(world.nodes[self.node].wall_skew_ms)
    }

    fn random(&mut self) -> u64 {
        self.net.random()
    }

    fn listen(&mut self, options: &ListenOptions, token: u64) -> io::Result<(Raw, SocketAddr)> {
        self.net
            .world
            .borrow_mut()
            .listen(self.node, options.addr, options.backlog as usize, token)
    }

    fn accept(&mut self, listener: Raw) -> Result<(Raw, SocketAddr), AcceptError> {
        self.net.world.borrow_mut().accept(listener, false)
    }

    fn shed(&mut self, listener: Raw) -> Result<(), AcceptError> {
        let mut world = self.net.world.borrow_mut();
        let (raw, _) = world.accept(listener, true)?;
        world.close(raw, false);
        Ok(())
    }

    fn connect(&mut self, to: SocketAddr, token: u64) -> io::Result<Raw> {
        self.net.world.borrow_mut().connect(self.node, to, token)
    }

    fn connect_result(&mut self, stream: Raw) -> io::Result<()> {
        self.net.world.borrow().connect_result(stream)
    }

    fn register(&mut self, stream: Raw, token: u64) -> io::Result<()> {
        self.net.world.borrow_mut().register(stream, token)
    }

    fn host(&self, stream: Raw) -> io::Result<SocketAddr> {
        self.net.world.borrow().local(stream)
    }

    fn read(&mut self, stream: Raw, into: &mut [u8]) -> io::Result<usize> {
        self.net.world.borrow_mut().read(stream, into)
    }

    fn write(&mut self, stream: Raw, from: &[u8]) -> io::Result<usize> {
        self.net.world.borrow_mut().write(stream, from)
    }

    fn shutdown_write(&mut self, stream: Raw) {
        self.net.world.borrow_mut().shutdown_write(stream);
    }

    fn close(&mut self, socket: Raw, reset: bool) {
        self.net.world.borrow_mut().close(socket, reset);
    }

    fn spawn(&mut self, lane: Lane, job: Job) {
        let mut world = self.net.world.borrow_mut();
        let (node, life) = (self.node, world.nodes[self.node].life);
        let longest = world.nodes[node].job_delay_max_ns;
        let longest = longest.unwrap_or(world.faults.job_delay_max_ns);
        let mut delay = world.rng.u64(0..=longest);
        if lane == Lane::Disk {
            // In order: none is done before the one that was given before it.
            let free_at = world.nodes[node].disk_free_at.max(world.now) + delay;
            world.nodes[node].disk_free_at = free_at;
            delay = free_at - world.now;
            if world.stalls(node) {
                world.count("stalled job");
            }
        }
        world.schedule(delay, Event::Job { node, life, job });
    }

    fn lookup(&mut self, name: &str) -> Lookup {
        let found = self.net.world.borrow().names.get(name).cloned();
        Box::new(move || found.ok_or(io::ErrorKind::NotFound.into()))
    }

    fn waker(&self) -> Wake {
        let woken = Arc::clone(&self.woken);
        Arc::new(move || woken.store(true, Ordering::Release))
    }
}
