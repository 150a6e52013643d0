//! Listening ports, and the phase of the turn that accepts.
//!
//! A port is accepted from within a budget per turn; one that still has somebody waiting comes first in the next turn.
//! **Out of descriptors**, an edge-triggered listener would either stall (no new edge comes for those already
//! waiting) or spin. So the backend keeps one descriptor in reserve with which the waiting connections are accepted
//! and closed; and when even that fails the port rests, until any connection closes or a timer fires.
//!
//! A refused connection (a factory says `None`, or there are too many) may be told why: it gets a slot without a
//! protocol, its last words, and the lingering close that keeps a reset from destroying them.

use std::io;
use std::net::SocketAddr;

use log::{debug, warn};
use slab::Slab;

use super::Reactor;
use super::app::{App, Cx};
use super::backend::{AcceptError, Backend, Raw};
use super::conn::{Conn, Origin, Phase};
use super::id::{ConnId, Named, PortId};
use super::limits::ListenOptions;
use super::protocol::{Factory, Reason};
use super::timer::{Due, after_ms};

pub(super) struct Port<A: App> {
    raw: Raw,
    generation: u32,
    /// Taken out while one of its callbacks runs.
    factory: Option<Box<dyn Factory<A>>>,
    /// In the queue of ports to accept from.
    queued: bool,
}

/// All ports of a reactor.
pub(super) struct Ports<A: App> {
    slots: Slab<Port<A>>,
}

impl<A: App> Ports<A> {
    pub(super) fn new() -> Self {
        Ports { slots: Slab::new() }
    }

    pub(super) fn open(
        &mut self,
        backend: &mut dyn Backend,
        options: &ListenOptions,
        factory: Box<dyn Factory<A>>,
        generation: u32,
    ) -> io::Result<(PortId, SocketAddr)> {
        let id = PortId::new(self.slots.vacant_key(), generation);
        let (raw, addr) = backend.listen(options, Named::Port(id).token())?;
        self.slots.insert(Port {
            raw,
            generation,
            factory: Some(factory),
            queued: false,
        });
        Ok((id, addr))
    }

    fn get_mut(&mut self, id: PortId) -> Option<&mut Port<A>> {
        self.slots
            .get_mut(id.index())
            .filter(|port| port.generation == id.generation())
    }

    pub(super) fn is_alive(&self, id: PortId) -> bool {
        self.slots
            .get(id.index())
            .is_some_and(|port| port.generation == id.generation())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<PortId> {
        self.slots
            .iter()
            .map(|(index, port)| PortId::new(index, port.generation))
            .collect()
    }
}

/// What became of one try to accept.
enum Accepted {
    /// Somebody was waiting: try again.
    More,
    /// Nobody waits.
    Drained,
    /// Nothing can be accepted for now.
    Starved,
}

impl<B: Backend, A: App> Reactor<B, A> {
    /// Somebody waits at a port.
    pub(super) fn queue_accept(&mut self, id: PortId) {
        if let Some(port) = self.core.ports.get_mut(id)
            && !port.queued
        {
            port.queued = true;
            self.core.accepting.push_back(id);
        }
    }

    /// Starts the factories of new ports.
    pub(super) fn open_ports(&mut self) {
        for id in std::mem::take(&mut self.core.opening) {
            self.with_factory(id, |factory, cx| factory.start_factory(cx));
        }
    }

    /// The accepting phase.
    pub(super) fn accept_waiting(&mut self) {
        let mut budget = self.core.limits.accepts_per_turn;
        for _ in 0..self.core.accepting.len() {
            let Some(id) = self.core.accepting.pop_front() else {
                break;
            };
            let Some(port) = self.core.ports.get_mut(id) else {
                continue;
            };
            port.queued = false;
            let raw = port.raw;
            let mut last = Accepted::More;
            while budget > 0 && matches!(last, Accepted::More) {
                budget -= 1;
                last = self.accept_one(id, raw);
            }
            match last {
                Accepted::More => self.queue_accept(id),
                Accepted::Drained => {}
                Accepted::Starved => self.rest_port(id),
            }
        }
    }

    fn accept_one(&mut self, id: PortId, listener: Raw) -> Accepted {
        match self.backend.accept(listener) {
            Ok((raw, peer)) => {
                self.admit(id, raw, peer);
                Accepted::More
            }
            Err(AcceptError::Aborted) => Accepted::More,
            Err(AcceptError::Empty) => Accepted::Drained,
            Err(AcceptError::Exhausted) => self.shed_one(listener),
            Err(AcceptError::Broken(error)) => {
                warn!("a listening socket is broken: {error}");
                Accepted::Starved
            }
        }
    }

    fn shed_one(&mut self, listener: Raw) -> Accepted {
        match self.backend.shed(listener) {
            Ok(()) | Err(AcceptError::Aborted) => {
                warn!("out of descriptors: a connection was turned away");
                self.core.stats.refused += 1;
                Accepted::More
            }
            Err(AcceptError::Empty) => Accepted::Drained,
            Err(AcceptError::Exhausted | AcceptError::Broken(_)) => Accepted::Starved,
        }
    }

    fn rest_port(&mut self, id: PortId) {
        self.core.resting.push(id);
        let at = after_ms(self.core.now, self.core.limits.accept_retry_ms);
        self.core.timers.arm(at, Due::Accept(id));
    }

    /// Descriptors may be free again.
    pub(super) fn wake_ports(&mut self) {
        for id in std::mem::take(&mut self.core.resting) {
            self.queue_accept(id);
        }
    }

    /// A new connection: its slot, its protocol, its first callback.
    fn admit(&mut self, port: PortId, raw: Raw, peer: SocketAddr) {
        let room = self.core.conns.len() - self.core.refusals < self.core.limits.connections_max;
        let marks = self.core.limits.output;
        let conn = Conn::new(
            raw,
            peer,
            Origin::Port(port),
            Phase::Open,
            marks,
            self.core.now,
        );
        let id = self.core.conns.insert(conn);
        let mut protocol = None;
        if room {
            protocol = self
                .with_factory_for(port, id, |factory, cx| factory.build_protocol(cx, peer))
                .flatten();
        }
        match protocol {
            Some(protocol) => {
                self.core.stats.accepted += 1;
                self.register(id);
                self.install(id, protocol);
            }
            None => self.refuse(port, id, peer),
        }
    }

    /// Last words for a connection that gets no protocol.
    fn refuse(&mut self, port: PortId, id: ConnId, peer: SocketAddr) {
        self.core.stats.refused += 1;
        let mut words = Vec::new();
        if self.core.refusals < self.core.limits.refusals_max {
            let said = self.with_factory_for(port, id, |factory, _| {
                factory.refused(peer).map(<[u8]>::to_vec)
            });
            words = said.flatten().unwrap_or_default();
        }
        debug!("{peer} refused");
        self.core.refusals += 1;
        if let Some(conn) = self.core.conns.get_mut(id) {
            conn.refused = true;
        }
        if words.is_empty() {
            self.core.die(id, Reason::Done);
        } else {
            self.register(id);
            self.core.write(id, &words);
            self.core.lose(id);
        }
    }

    /// Closes the ports that were asked to stop listening.
    pub(super) fn shut_ports(&mut self) {
        for id in std::mem::take(&mut self.core.shutting) {
            self.with_factory(id, |factory, cx| factory.stop_factory(cx));
            if self.core.ports.is_alive(id) {
                let port = self.core.ports.slots.remove(id.index());
                self.backend.close(port.raw, false);
            }
        }
    }

    fn with_factory<R>(
        &mut self,
        id: PortId,
        call: impl FnOnce(&mut dyn Factory<A>, &mut Cx<'_, A>) -> R,
    ) -> Option<R> {
        self.with_factory_for(id, ConnId::NONE, call)
    }

    fn with_factory_for<R>(
        &mut self,
        id: PortId,
        me: ConnId,
        call: impl FnOnce(&mut dyn Factory<A>, &mut Cx<'_, A>) -> R,
    ) -> Option<R> {
        let mut factory = self.core.ports.get_mut(id)?.factory.take()?;
        let result = call(factory.as_mut(), &mut self.cx(me));
        if let Some(port) = self.core.ports.get_mut(id) {
            port.factory = Some(factory);
        }
        Some(result)
    }
}
