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
//!
//! A link between two nodes has a direction, and may be cut, slow or lossy. What is lost on the way comes later, as TCP
//! sends it again, and holds up what is behind it. A node that is paused neither polls nor gets its jobs done; what
//! reaches it waits.
//!
//! **Half-open connections.** A machine that vanishes says nothing to anybody. Those who send to it send again, after
//! 200 ms, 400 ms and so on; what gets through to the next process of that machine is answered by a reset, and after
//! 15 s of silence the connection has failed. Who only listens never notices. Until then no more than a window is
//! taken from the writer. Attempts to connect are repeated and given up in the same way.
//!
//! The rooms: [`socket`] is what a backend asks for, [`trouble`] what goes wrong, [`clock`] the time of a node,
//! [`queue`] what will happen, [`sockets`] all that there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::clock::Clock;
use self::queue::Queue;
use self::sockets::Sockets;
use self::trouble::Retry;
use super::backend::{Job, Raw, Ready};
use super::sim::Faults;
use super::timer::Nanos;

mod clock;
mod queue;
mod socket;
mod sockets;
mod trouble;

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
        /// The node that answers, if there is one.
        from: Option<usize>,
        client: Raw,
        result: Result<(), ErrorKind>,
    },
    /// A writer may write again.
    Unblock { raw: Raw },
    /// A job's thread gets to it, if the process of the node still lives.
    Job { node: usize, life: u64, job: Job },
    /// A connection fails, without any word from its other end.
    Break { raw: Raw, kind: ErrorKind },
    /// What nobody has acknowledged is sent again.
    Retry(Retry),
    /// A clogged link runs again, if it is not clogged for longer by now.
    Unclog { link: (usize, usize), until: Nanos },
    /// The threads of a node go on, if they do not stand still for longer by now.
    Unstall { node: usize, until: Nanos },
}

/// How a link is, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) delay_min_ns: Nanos,
    pub(super) delay_max_ns: Nanos,
    /// Deliveries that are lost and sent again, of a hundred.
    pub(super) loss_percent: u8,
}

/// After so long what was lost is sent again.
const RESEND_NANOS: Nanos = 200_000_000;

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
    /// Sent by this socket to a machine that has vanished.
    unheard: usize,
    /// What it has sent is being sent again.
    is_retrying: bool,
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
    /// The longest time its jobs wait for their thread, if not that of all.
    pub(super) job_delay_max_ns: Option<Nanos>,
    pub(super) is_paused: bool,
    /// Until when its threads stand still, if they do.
    stalled_until: Option<Nanos>,
    /// Its machine has vanished and is not up again.
    is_off: bool,
    pub(super) clock: Clock,
    /// Which of its processes it is, counted.
    pub(super) life: u64,
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
    queue: Queue,
    socks: Sockets,
    next_port: u16,
    listeners: BTreeMap<SocketAddr, Raw>,
    /// Links between nodes that are not as all others.
    pub(super) lines: BTreeMap<(usize, usize), Line>,
    /// Pairs of nodes, by direction, between which nothing is delivered.
    cut: BTreeSet<(usize, usize)>,
    /// Links, by direction, that stop until then.
    clogs: BTreeMap<(usize, usize), Nanos>,
    /// What could not happen for such a reason, in order.
    held: Vec<Event>,
    /// Sockets of machines that vanished with them.
    vanished: BTreeSet<Raw>,
    /// Where machines listened that vanished.
    dark: BTreeMap<SocketAddr, usize>,
    /// How often each kind of fault took place.
    pub(super) fired: BTreeMap<&'static str, u64>,
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
            queue: Queue::default(),
            socks: Sockets::default(),
            next_port: FIRST_PORT,
            listeners: BTreeMap::new(),
            lines: BTreeMap::new(),
            cut: BTreeSet::new(),
            clogs: BTreeMap::new(),
            held: Vec::new(),
            vanished: BTreeSet::new(),
            dark: BTreeMap::new(),
            fired: BTreeMap::new(),
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
            job_delay_max_ns: None,
            is_paused: false,
            stalled_until: None,
            is_off: false,
            clock: Clock::default(),
            life: 0,
            woken: Arc::clone(woken),
        });
        self.nodes.len() - 1
    }

    /// The process of a node is another one now, with its own waker; the one before has crashed or vanished.
    pub(super) fn begin_life(&mut self, node: usize, woken: &Arc<AtomicBool>) {
        self.nodes[node].woken = Arc::clone(woken);
        self.nodes[node].is_off = false;
    }

    // Time.

    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.queue.next_at()
    }

    /// Lets one event happen that is due now. A job is handed out, with its node, to be run outside.
    pub(super) fn step(&mut self) -> Option<Option<(usize, Job)>> {
        let event = self.queue.pop_due(self.now)?;
        Some(self.happen(event))
    }

    pub(super) fn schedule(&mut self, delay: Nanos, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    fn delay(&mut self) -> Nanos {
        let (min, max) = (self.faults.delay_min_ns, self.faults.delay_max_ns);
        self.rng.u64(min..=max.max(min))
    }

    /// How long something is on its way from one node to another.
    fn delay_of(&mut self, from: Option<usize>, to: Option<usize>) -> Nanos {
        let line = from.zip(to).and_then(|pair| self.lines.get(&pair).copied());
        let Some(line) = line else {
            return self.delay();
        };
        let least = line.delay_min_ns;
        let mut delay = self.rng.u64(least..=line.delay_max_ns.max(least));
        while self.rng.u8(..100) < line.loss_percent.min(90) {
            delay += RESEND_NANOS;
            self.count("loss");
        }
        delay
    }

    /// The node that a socket is of, or was.
    fn owner(&self, raw: Raw) -> Option<usize> {
        self.socks.owner(raw)
    }

    /// The node that something comes from.
    fn sender(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Arrive { from, .. } | Event::Fin { from, .. } | Event::Reset { from, .. } => {
                self.owner(*from)
            }
            Event::Answer { from, .. } => *from,
            Event::Syn { client, .. } => self.owner(*client),
            Event::Unblock { .. }
            | Event::Job { .. }
            | Event::Break { .. }
            | Event::Retry(_)
            | Event::Unclog { .. }
            | Event::Unstall { .. } => None,
        }
    }

    /// Schedules a delivery to `to` behind those before it.
    fn deliver(&mut self, to: Raw, event: Event) {
        let from = self.sender(&event);
        let mut at = self.now + self.delay_of(from, self.owner(to));
        if let Some(sock) = self.socks.get_mut(to) {
            at = at.max(sock.not_before);
            sock.not_before = at;
        }
        self.queue.push(at, event);
    }

    fn note(&mut self, kind: u64, raw: Raw, what: u64) {
        for word in [self.now, kind, raw as u64, what] {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(17);
        }
    }

    // Events.

    fn happen(&mut self, event: Event) -> Option<(usize, Job)> {
        if let Some(why) = self.held_by(&event) {
            self.count(why);
            self.held.push(event);
            return None;
        }
        match event {
            Event::Arrive { from, to, bytes } => self.arrive(from, to, &bytes),
            Event::Fin { from, to } => self.end_of_stream(from, to),
            Event::Reset { to, .. } => self.reset(to),
            Event::Syn { client, to } => self.syn(client, to),
            Event::Answer { client, result, .. } => self.answer(client, result),
            Event::Unblock { raw } => self.unblock(raw),
            Event::Break { raw, kind } => self.break_off(raw, kind),
            Event::Retry(retry) => self.retry(retry),
            Event::Unclog { link, until } => self.unclog(link, until),
            Event::Unstall { node, until } => self.unstall(node, until),
            Event::Job { node, life, job } => {
                self.note(7, 0, 0);
                return (self.nodes[node].life == life).then_some((node, job));
            }
        }
        None
    }

    /// What keeps an event from happening now.
    fn held_by(&self, event: &Event) -> Option<&'static str> {
        let (from, to) = match event {
            Event::Arrive { from, to, .. }
            | Event::Fin { from, to }
            | Event::Reset { from, to } => (self.owner(*from), self.owner(*to)),
            Event::Syn { client, to } => {
                let listener = self.listeners.get(to);
                (
                    self.owner(*client),
                    listener.and_then(|raw| self.owner(*raw)),
                )
            }
            Event::Answer { from, client, .. } => (*from, self.owner(*client)),
            Event::Job { node, life, .. } => {
                let node = &self.nodes[*node];
                let lives = node.life == *life;
                let pause = (lives && node.is_paused).then_some("paused job");
                let stall = (lives && node.stalled_until.is_some()).then_some("stalled job");
                return pause.or(stall);
            }
            Event::Unblock { .. }
            | Event::Break { .. }
            | Event::Retry(_)
            | Event::Unclog { .. }
            | Event::Unstall { .. } => return None,
        };
        self.obstacle(from.zip(to)?)
    }

    fn arrive(&mut self, from: Raw, to: Raw, bytes: &[u8]) {
        let sum = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        self.note(1, to, sum);
        let is_dark = self.is_dark(to);
        match self.socks.get_mut(to) {
            Some(sock) if sock.state == State::Up && sock.peer.is_some() => {
                sock.in_flight -= bytes.len();
                sock.inbox.extend(bytes);
                self.edge(to, true, false);
            }
            Some(_) => {}
            None if is_dark => self.resend(from, to),
            // Nobody there: the sender is told.
            None => self.deliver(from, Event::Reset { from: to, to: from }),
        }
    }

    fn end_of_stream(&mut self, from: Raw, to: Raw) {
        self.note(2, to, 0);
        let is_dark = self.is_dark(to);
        match self.socks.get_mut(to) {
            Some(sock) if sock.state == State::Up && sock.peer.is_none() => {}
            Some(sock) => {
                sock.fin_in = true;
                self.edge(to, true, false);
            }
            None if is_dark => self.resend(from, to),
            None => {}
        }
    }

    fn reset(&mut self, to: Raw) {
        self.note(3, to, 0);
        self.fail(to, ErrorKind::ConnectionReset);
    }

    /// A connection has failed, and what its end has not read is gone.
    fn fail(&mut self, to: Raw, kind: ErrorKind) {
        if let Some(sock) = self.socks.get_mut(to)
            && sock.state != State::Listening
        {
            sock.state = State::Broken(kind);
            sock.inbox.clear();
            sock.in_flight = 0;
            sock.peer = None;
            self.edge(to, true, true);
        }
    }

    fn syn(&mut self, client: Raw, to: SocketAddr) {
        self.note(4, client, u64::from(to.port()));
        if let Some(node) = self.dark_machine(to) {
            return self.redial(client, node, to);
        }
        let whim = self.rng.u8(..100) < self.faults.refuse_percent;
        if whim {
            self.count("refusal");
        }
        let listener = self.listeners.get(&to).copied().filter(|_| !whim);
        let room = listener
            .and_then(|raw| self.socks.get(raw))
            .map(|sock| (sock.waiting.len() < sock.backlog, sock.node));
        let (Some(listener), Some((true, node)), true) =
            (listener, room, self.socks.contains(client))
        else {
            let delay = self.delay();
            let from = listener.and_then(|raw| self.owner(raw));
            let result = Err(ErrorKind::ConnectionRefused);
            let answer = Event::Answer {
                from,
                client,
                result,
            };
            return self.schedule(delay, answer);
        };
        let server = self.insert(node, State::Up, to);
        self.link(client, server);
        if let Some(sock) = self.socks.get_mut(listener) {
            sock.waiting.push_back(server);
        }
        self.edge(listener, true, false);
        self.deliver(
            client,
            Event::Answer {
                from: Some(node),
                client,
                result: Ok(()),
            },
        );
    }

    fn link(&mut self, a: Raw, b: Raw) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(sock) = self.socks.get_mut(one) {
                sock.peer = Some(other);
            }
        }
    }

    fn answer(&mut self, client: Raw, result: Result<(), ErrorKind>) {
        self.note(5, client, u64::from(result.is_ok()));
        if let Some(sock) = self.socks.get_mut(client)
            && sock.state == State::Connecting
        {
            sock.state = result.map_or_else(State::Broken, |()| State::Up);
            self.edge(client, result.is_err(), true);
        }
    }

    fn unblock(&mut self, raw: Raw) {
        self.note(6, raw, 0);
        if let Some(sock) = self.socks.get_mut(raw)
            && sock.blocked
        {
            sock.blocked = false;
            self.edge(raw, false, true);
        }
    }

    /// Notes a change that the socket's reactor will hear of at its next poll.
    fn edge(&mut self, raw: Raw, readable: bool, writable: bool) {
        let Some(sock) = self.socks.get_mut(raw) else {
            return;
        };
        sock.readable |= readable;
        sock.writable |= writable;
        if sock.token.is_some() && !sock.queued {
            sock.queued = true;
            self.nodes[sock.node].edges.push(raw);
        }
    }
}
