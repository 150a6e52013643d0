//! The simulated network itself: sockets, bytes on their way, and a clock that jumps.
//!
//! One queue of events ordered by (time, order of scheduling) and one generator drive everything, so a run is a
//! function of the seed and of what the reactors do.
//!
//! **Faithful where it matters.** Edges are strict: each is reported once. A read returns all that is there, up to
//! what was asked (the short-read rule rests on that), so it is the delivery that is cut in pieces. A write that is
//! short or blocks is followed by a writable edge. Each direction keeps its order. A receiver's window bounds what is
//! on its way. Closing with unread input resets the peer, input for a closed socket does too, and **a reset destroys
//! what its receiver has not read**: forget to linger and the last words are gone.

use std::cmp;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backend::{Job, Raw, Ready};
use super::sim::Faults;
use super::timer::Nanos;

mod socket;

/// Something that will happen.
pub(super) enum Event {
    /// Bytes reach a socket.
    Arrive { from: Raw, to: Raw, bytes: Vec<u8> },
    /// The end of the stream does.
    Fin { from: Raw, to: Raw },
    /// A reset does.
    Reset { from: Raw, to: Raw },
    /// A connection attempt reaches the address.
    Syn { client: Raw, to: SocketAddr },
    /// Its answer comes back.
    Answer {
        client: Raw,
        result: Result<(), ErrorKind>,
    },
    /// A writer may write again.
    Unblock { raw: Raw },
    /// A job's thread gets to it.
    Job(Job),
}

struct Scheduled {
    at: Nanos,
    seq: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl Eq for Scheduled {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Listening,
    Connecting,
    Up,
    /// The attempt failed, or a reset came.
    Broken(ErrorKind),
}

struct Sock {
    node: usize,
    state: State,
    token: Option<u64>,
    local: SocketAddr,
    peer: Option<Raw>,
    /// A listener's connections that wait to be accepted.
    waiting: VecDeque<Raw>,
    backlog: usize,
    /// Received and not read.
    inbox: VecDeque<u8>,
    /// Sent to this socket and not received.
    in_flight: usize,
    /// The peer's stream has ended.
    fin_in: bool,
    /// Our stream has ended.
    fin_out: bool,
    /// Nothing is delivered to it before this: each direction keeps its order.
    not_before: Nanos,
    /// A write was short or blocked: an edge is owed.
    blocked: bool,
    /// Changes since the last poll.
    readable: bool,
    writable: bool,
    queued: bool,
}

/// One reactor's side of the world.
pub(super) struct Node {
    /// Sockets with edges to report.
    edges: Vec<Raw>,
    /// Events of closed sockets that are reported all the same.
    stale: Vec<Ready>,
    pub(super) descriptors_max: usize,
    descriptors: usize,
    pub(super) wall_skew_ms: i64,
    /// When its disk thread is done with what it was given.
    pub(super) disk_free_at: Nanos,
    /// Somebody called its waker since its last poll.
    woken: Arc<AtomicBool>,
}

pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) rng: fastrand::Rng,
    pub(super) faults: Faults,
    pub(super) nodes: Vec<Node>,
    pub(super) names: BTreeMap<String, Vec<SocketAddr>>,
    pub(super) trace: u64,
    queue: BinaryHeap<Scheduled>,
    next_seq: u64,
    socks: BTreeMap<Raw, Sock>,
    next_raw: Raw,
    next_port: u16,
    listeners: BTreeMap<SocketAddr, Raw>,
    /// Pairs of nodes, by direction, between which nothing is delivered.
    cut: BTreeSet<(usize, usize)>,
    /// What could not be delivered for that reason, in order.
    held: Vec<Event>,
}

/// The first port given to those who ask for any.
const FIRST_PORT: u16 = 20_000;

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        World {
            now: 0,
            rng: fastrand::Rng::with_seed(seed),
            faults,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            trace: seed,
            queue: BinaryHeap::new(),
            next_seq: 0,
            socks: BTreeMap::new(),
            next_raw: 0,
            next_port: FIRST_PORT,
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    pub(super) fn add_node(&mut self, woken: &Arc<AtomicBool>) -> usize {
        self.nodes.push(Node {
            edges: Vec::new(),
            stale: Vec::new(),
            descriptors_max: usize::MAX,
            descriptors: 0,
            wall_skew_ms: 0,
            disk_free_at: 0,
            woken: Arc::clone(woken),
        });
        self.nodes.len() - 1
    }

    // Time.

    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.queue.peek().map(|next| next.at)
    }

    /// Lets one event happen that is due now. A job is handed out, to be run outside.
    pub(super) fn step(&mut self) -> Option<Option<Job>> {
        if self.next_at()? > self.now {
            return None;
        }
        let next = self.queue.pop()?;
        Some(self.happen(next.event))
    }

    pub(super) fn schedule(&mut self, delay: Nanos, event: Event) {
        let at = self.now + delay;
        self.schedule_at(at, event);
    }

    fn schedule_at(&mut self, at: Nanos, event: Event) {
        self.queue.push(Scheduled {
            at,
            seq: self.next_seq,
            event,
        });
        self.next_seq += 1;
    }

    fn delay(&mut self) -> Nanos {
        let (min, max) = (self.faults.delay_min_ns, self.faults.delay_max_ns);
        self.rng.u64(min..=max.max(min))
    }

    /// Schedules a delivery to `to` behind those before it.
    fn deliver(&mut self, to: Raw, event: Event) {
        let mut at = self.now + self.delay();
        if let Some(sock) = self.socks.get_mut(&to) {
            at = at.max(sock.not_before);
            sock.not_before = at;
        }
        self.schedule_at(at, event);
    }

    fn note(&mut self, kind: u64, raw: Raw, what: u64) {
        for word in [self.now, kind, raw as u64, what] {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(17);
        }
    }

    // Events.

    fn happen(&mut self, event: Event) -> Option<Job> {
        if self.is_held(&event) {
            self.held.push(event);
            return None;
        }
        match event {
            Event::Arrive { from, to, bytes } => self.arrive(from, to, &bytes),
            Event::Fin { to, .. } => self.end_of_stream(to),
            Event::Reset { to, .. } => self.reset(to),
            Event::Syn { client, to } => self.syn(client, to),
            Event::Answer { client, result } => self.answer(client, result),
            Event::Unblock { raw } => self.unblock(raw),
            Event::Job(job) => {
                self.note(7, 0, 0);
                return Some(job);
            }
        }
        None
    }

    fn is_held(&self, event: &Event) -> bool {
        let (from, to) = match event {
            Event::Arrive { from, to, .. }
            | Event::Fin { from, to }
            | Event::Reset { from, to } => (*from, *to),
            Event::Syn { client, to } => match self.listeners.get(to) {
                Some(listener) => (*client, *listener),
                None => return false,
            },
            _ => return false,
        };
        let node = |raw: Raw| self.socks.get(&raw).map(|sock| sock.node);
        match (node(from), node(to)) {
            (Some(from), Some(to)) => self.cut.contains(&(from, to)),
            _ => false,
        }
    }

    fn arrive(&mut self, from: Raw, to: Raw, bytes: &[u8]) {
        let sum = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        self.note(1, to, sum);
        match self.socks.get_mut(&to) {
            Some(sock) if sock.state == State::Up => {
                sock.in_flight -= bytes.len();
                sock.inbox.extend(bytes);
                self.edge(to, true, false);
            }
            Some(_) => {}
            // Nobody there: the sender is told.
            None => self.deliver(from, Event::Reset { from: to, to: from }),
        }
    }

    fn end_of_stream(&mut self, to: Raw) {
        self.note(2, to, 0);
        if let Some(sock) = self.socks.get_mut(&to) {
            sock.fin_in = true;
            self.edge(to, true, false);
        }
    }

    fn reset(&mut self, to: Raw) {
        self.note(3, to, 0);
        if let Some(sock) = self.socks.get_mut(&to)
            && sock.state != State::Listening
        {
            sock.state = State::Broken(ErrorKind::ConnectionReset);
            sock.inbox.clear();
            sock.in_flight = 0;
            sock.peer = None;
            self.edge(to, true, true);
        }
    }

    fn syn(&mut self, client: Raw, to: SocketAddr) {
        self.note(4, client, u64::from(to.port()));
        let whim = self.rng.u8(..100) < self.faults.refuse_percent;
        let listener = self.listeners.get(&to).copied().filter(|_| !whim);
        let room = listener
            .and_then(|raw| self.socks.get(&raw))
            .map(|sock| (sock.waiting.len() < sock.backlog, sock.node));
        let (Some(listener), Some((true, node)), true) =
            (listener, room, self.socks.contains_key(&client))
        else {
            let delay = self.delay();
            self.schedule(
                delay,
                Event::Answer {
                    client,
                    result: Err(ErrorKind::ConnectionRefused),
                },
            );
            return;
        };
        let server = self.insert(node, State::Up, to);
        self.link(client, server);
        if let Some(sock) = self.socks.get_mut(&listener) {
            sock.waiting.push_back(server);
        }
        self.edge(listener, true, false);
        self.deliver(
            client,
            Event::Answer {
                client,
                result: Ok(()),
            },
        );
    }

    fn link(&mut self, a: Raw, b: Raw) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(sock) = self.socks.get_mut(&one) {
                sock.peer = Some(other);
            }
        }
    }

    fn answer(&mut self, client: Raw, result: Result<(), ErrorKind>) {
        self.note(5, client, u64::from(result.is_ok()));
        if let Some(sock) = self.socks.get_mut(&client)
            && sock.state == State::Connecting
        {
            sock.state = result.map_or_else(State::Broken, |()| State::Up);
            self.edge(client, result.is_err(), true);
        }
    }

    fn unblock(&mut self, raw: Raw) {
        self.note(6, raw, 0);
        if let Some(sock) = self.socks.get_mut(&raw)
            && sock.blocked
        {
            sock.blocked = false;
            self.edge(raw, false, true);
        }
    }

    /// Notes a change that the socket's reactor will hear of at its next poll.
    fn edge(&mut self, raw: Raw, readable: bool, writable: bool) {
        let Some(sock) = self.socks.get_mut(&raw) else {
            return;
        };
        sock.readable |= readable;
        sock.writable |= writable;
        if sock.token.is_some() && !sock.queued {
            sock.queued = true;
            self.nodes[sock.node].edges.push(raw);
        }
    }

    // Faults.

    /// Delivers nothing from `from` to `to` until healed.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Ends all cuts; what was held is delivered, in order.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        for event in std::mem::take(&mut self.held) {
            self.schedule(0, event);
        }
    }

    /// Closes everything a node has open, as the kernel does for a process that dies.
    pub(super) fn crash(&mut self, node: usize) {
        let raws: Vec<Raw> = self
            .socks
            .iter()
            .filter(|(_, sock)| sock.node == node)
            .map(|(raw, _)| *raw)
            .collect();
        for raw in raws {
            self.close(raw, true);
        }
        self.nodes[node].edges.clear();
        self.nodes[node].stale.clear();
        self.nodes[node].woken.store(false, Ordering::Release);
    }

    /// Sockets that a node has open, those not yet accepted included.
    pub(super) fn sockets(&self, node: usize) -> usize {
        self.socks.values().filter(|sock| sock.node == node).count()
    }
}
