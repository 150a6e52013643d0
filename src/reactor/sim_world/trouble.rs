//! What goes wrong in the simulated network, beyond what the moods of [`Faults`](crate::reactor::sim::Faults) do.
//!
//! Some of it keeps events from happening: a link that is cut or clogged, a node that is paused, threads that stand
//! still. Such events are held in the order in which they came up, and happen in that order when nothing holds them any
//! more. A clog and a stall end by an event of their own, so no driver has to remember them.
//!
//! Some of it ends things: a crash says so to all peers, as a kernel does for a process that dies; a machine that
//! vanishes says nothing; a reset from between two nodes belongs to neither. What a connection that was reset so has
//! on its way finds its ends without a peer, and is dropped.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::{Event, RESEND_NANOS, State, World};
use crate::reactor::backend::Raw;
use crate::reactor::sim::DRIFT_MAX_PPM;
use crate::reactor::timer::Nanos;

/// How long a sender waits for a machine that says nothing.
const PATIENCE_NANOS: Nanos = 15_000_000_000;
/// After so long an attempt to connect is repeated for the first time.
const REDIAL_NANOS: Nanos = 1_000_000_000;

/// Something sent to a machine that did not answer, to be sent again.
#[derive(Clone, Copy)]
pub(in crate::reactor) struct Retry {
    /// The socket that sends.
    raw: Raw,
    /// The machine.
    node: usize,
    /// Where to, if it is an attempt to connect.
    dials: Option<SocketAddr>,
    /// When it was sent first.
    begun: Nanos,
    /// How long it was waited for the last time.
    waited: Nanos,
}

impl World {
    /// A fault of this kind took place.
    pub(in crate::reactor) fn count(&mut self, kind: &'static str) {
        *self.fired.entry(kind).or_default() += 1;
    }

    /// Delivers nothing from `from` to `to` until healed.
    pub(in crate::reactor) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Ends all cuts; what was held is delivered, in order.
    pub(in crate::reactor) fn heal(&mut self) {
        self.cut.clear();
        self.release();
    }

    /// Ends one cut.
    pub(in crate::reactor) fn mend(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
        self.release();
    }

    /// Stops a node, or lets it go on.
    pub(in crate::reactor) fn pause(&mut self, node: usize, is_paused: bool) {
        if is_paused {
            self.count("pause");
        }
        self.nodes[node].is_paused = is_paused;
        self.release();
    }

    /// Lets happen what was held, in order, as far as it is not held still.
    fn release(&mut self) {
        for event in std::mem::take(&mut self.held) {
            self.schedule(0, event);
        }
    }

    /// What keeps a link from delivering.
    pub(super) fn obstacle(&self, link: (usize, usize)) -> Option<&'static str> {
        if self.cut.contains(&link) {
            return Some("cut");
        }
        self.clogs.contains_key(&link).then_some("clog")
    }

    // What ends by itself.

    /// Delivers nothing over a link before `until`.
    pub(in crate::reactor) fn clog(&mut self, link: (usize, usize), until: Nanos) {
        let until = until.max(self.now);
        if self.clogs.get(&link).is_none_or(|old| *old < until) {
            self.clogs.insert(link, until);
            self.queue.push(until, Event::Unclog { link, until });
        }
    }

    /// Lets happen what a clog held: at once, before anything that is due now and came later.
    pub(super) fn unclog(&mut self, link: (usize, usize), until: Nanos) {
        if self.clogs.get(&link) != Some(&until) {
            return;
        }
        self.clogs.remove(&link);
        for event in std::mem::take(&mut self.held) {
            match event {
                // They may be of any node, and are run outside.
                Event::Job { .. } => self.held.push(event),
                _ => drop(self.happen(event)),
            }
        }
    }

    /// Lets no job of a node be done before `until`.
    pub(in crate::reactor) fn stall(&mut self, node: usize, until: Nanos) {
        self.count("stall");
        let until = until.max(self.now);
        let state = &mut self.nodes[node];
        if state.stalled_until.is_none_or(|old| old < until) {
            state.stalled_until = Some(until);
            // What is given to the disk's thread from now on comes behind what is released then.
            state.disk_free_at = state.disk_free_at.max(until + 1);
            self.queue.push(until, Event::Unstall { node, until });
        }
    }

    /// Whether the threads of a node stand still.
    pub(in crate::reactor) fn stalls(&self, node: usize) -> bool {
        self.nodes[node].stalled_until.is_some()
    }

    pub(super) fn unstall(&mut self, node: usize, until: Nanos) {
        if self.nodes[node].stalled_until == Some(until) {
            self.nodes[node].stalled_until = None;
            self.release();
        }
    }

    // Ends.

    fn sockets_of(&self, node: usize) -> Vec<Raw> {
        let all = self.socks.iter();
        all.filter(|(_, sock)| sock.node == node)
            .map(|(raw, _)| raw)
            .collect()
    }

    /// Closes everything a node has open, as the kernel does for a process that dies.
    pub(in crate::reactor) fn crash(&mut self, number: usize) {
        self.count("crash");
        for raw in self.sockets_of(number) {
            self.close(raw, true);
        }
        self.end_life(number);
    }

    /// Forgets what a process had to do.
    fn end_life(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.edges.clear();
        node.stale.clear();
        node.woken.store(false, Ordering::Release);
        node.life += 1;
        node.disk_free_at = node.stalled_until.map_or(0, |until| until + 1);
        node.is_paused = false;
        // Nobody is there to send again what was cut off.
        let held = std::mem::take(&mut self.held).into_iter();
        let of_others = |event: &Event| self.sender(event) != Some(number);
        self.held = held.filter(of_others).collect();
        self.release();
    }

    /// Sockets that a node has open, those not yet accepted included.
    pub(in crate::reactor) fn sockets(&self, node: usize) -> usize {
        self.sockets_of(node).len()
    }

    /// Forgets everything a node has open, and tells nobody.
    pub(in crate::reactor) fn vanish(&mut self, number: usize) {
        self.count("vanish");
        for raw in self.sockets_of(number) {
            let Some(sock) = self.socks.remove(raw) else {
                continue;
            };
            self.vanished.insert(raw);
            if sock.state == State::Listening {
                self.listeners.remove(&sock.local);
                self.dark.insert(sock.local, number);
            }
            let peer = sock.peer.filter(|peer| self.socks.contains(*peer));
            if let Some(peer) = peer {
                self.leave_alone(peer, raw, sock.in_flight);
            }
        }
        let node = &mut self.nodes[number];
        (node.is_off, node.descriptors) = (true, 0);
        self.end_life(number);
    }

    /// `raw` has lost its peer without a word. If it waits for the peer's window, it asks for it from now on.
    fn leave_alone(&mut self, raw: Raw, peer: Raw, in_flight: usize) {
        let Some(sock) = self.socks.get_mut(raw) else {
            return;
        };
        sock.unheard = in_flight;
        if sock.blocked {
            self.resend(raw, peer);
        }
    }

    /// Resets all connections between two nodes from outside.
    pub(in crate::reactor) fn reset_between(&mut self, one: usize, other: usize) {
        for (node, far) in [(one, other), (other, one)] {
            for raw in self.sockets_of(node) {
                let peer = self.socks.get(raw).and_then(|sock| sock.peer);
                if peer.is_some_and(|peer| self.owner(peer) == Some(far)) {
                    self.sever(raw, (far, node));
                }
            }
            if one == other {
                return;
            }
        }
    }

    /// Takes an end of a connection away from the other one; what is on its way to it over `link` is lost, except for
    /// the beginning of the first piece.
    fn sever(&mut self, raw: Raw, link: (usize, usize)) {
        let mut head = match self.obstacle(link) {
            None => self.first_on_its_way(raw),
            Some(_) => Vec::new(),
        };
        head.truncate(self.rng.usize(..=head.len()));
        if let Some(sock) = self.socks.get_mut(raw) {
            sock.peer = None;
            sock.in_flight = 0;
            if sock.state == State::Up && !head.is_empty() {
                sock.inbox.extend(&head);
                self.edge(raw, true, false);
            }
        }
        let delay = self.rng.u64(0..=self.faults.delay_max_ns);
        let kind = ErrorKind::ConnectionReset;
        self.schedule(delay, Event::Break { raw, kind });
        self.count("reset");
    }

    /// What will arrive next at a socket.
    fn first_on_its_way(&self, socket: Raw) -> Vec<u8> {
        let is_for_it = |event: &Event| matches!(event, Event::Arrive { to, .. } if *to == socket);
        match self.queue.first(is_for_it) {
            Some(Event::Arrive { bytes, .. }) => bytes.clone(),
            _ => Vec::new(),
        }
    }

    /// A connection fails without a word from its other end.
    pub(super) fn break_off(&mut self, raw: Raw, kind: ErrorKind) {
        self.note(8, raw, 0);
        self.fail(raw, kind);
    }

    // Machines that do not answer.

    /// Whether a socket is, or was, of a machine that is off.
    pub(super) fn is_dark(&self, raw: Raw) -> bool {
        self.owner(raw).is_some_and(|node| self.nodes[node].is_off)
    }

    /// The machine that listened at an address and is off.
    pub(super) fn dark_machine(&self, at: SocketAddr) -> Option<usize> {
        let machine = self.dark.get(&at).copied();
        machine.filter(|node| self.nodes[*node].is_off)
    }

    /// What `from` has sent to `to` was not acknowledged.
    pub(super) fn resend(&mut self, from: Raw, to: Raw) {
        let Some(node) = self.owner(to) else { return };
        match self.socks.get_mut(from) {
            Some(sock) if !sock.is_retrying => sock.is_retrying = true,
            _ => return,
        }
        let retry = Retry {
            raw: from,
            node,
            dials: None,
            begun: self.now,
            waited: RESEND_NANOS,
        };
        self.schedule(RESEND_NANOS, Event::Retry(retry));
    }

    /// Nobody answers at an address.
    pub(super) fn redial(&mut self, client: Raw, node: usize, to: SocketAddr) {
        let retry = Retry {
            raw: client,
            node,
            dials: Some(to),
            begun: self.now,
            waited: REDIAL_NANOS,
        };
        self.schedule(REDIAL_NANOS, Event::Retry(retry));
    }

    /// Sends again, and goes on to do so until there is an answer or the patience is at its end.
    pub(super) fn retry(&mut self, retry: Retry) {
        let Some(sock) = self.socks.get(retry.raw) else {
            return;
        };
        let waits = match retry.dials {
            Some(_) => sock.state == State::Connecting,
            None => !matches!(sock.state, State::Broken(_)),
        };
        if !waits {
            return;
        }
        let (link, peer) = ((sock.node, retry.node), sock.peer);
        let end = retry.begun + PATIENCE_NANOS;
        self.note(9, retry.raw, 0);
        if self.now >= end {
            self.count("timeout");
            return self.break_off(retry.raw, ErrorKind::TimedOut);
        }
        if !self.nodes[retry.node].is_off && self.obstacle(link).is_none() {
            match (retry.dials, peer) {
                (Some(to), _) => return self.syn(retry.raw, to),
                (None, Some(peer)) => self.answer_stranger(retry.raw, peer),
                (None, None) => return,
            }
        }
        let waited = retry.waited * 2;
        let at = end.min(self.now + waited);
        self.queue.push(at, Event::Retry(Retry { waited, ..retry }));
    }

    /// A machine that is up again gets something for a connection that it does not know.
    fn answer_stranger(&mut self, sender: Raw, gone: Raw) {
        self.count("reset by the next life");
        let (from, to) = (gone, sender);
        self.deliver(sender, Event::Reset { from, to });
    }

    // Clocks.

    /// Gives a node's clock another rate.
    pub(in crate::reactor) fn set_drift(&mut self, node: usize, parts_per_million: i32) {
        assert!(
            parts_per_million.abs() <= DRIFT_MAX_PPM,
            "a clock that drifts by {parts_per_million} parts of a million"
        );
        self.count("drift");
        self.nodes[node]
            .clock
            .set_drift(self.now, parts_per_million);
    }
}
