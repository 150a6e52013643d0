//! Outgoing connections over all their attempts, and the phase of the turn that dials.
//!
//! A connector lives from [`Net::connect`](super::net::Net::connect) until its factory answers [`Retry::Stop`] or
//! somebody disconnects it. Each attempt ends in exactly one of `connection_failed` and (after a protocol was built)
//! `client_connection_lost`, never inside the call that dialed.
//!
//! A name is looked up again before every attempt; of several addresses the attempts take turns.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;

use super::Reactor;
use super::app::{App, Cx};
use super::backend::Backend;
use super::conn::{Conn, Origin, Phase};
use super::id::{ConnId, ConnectorId, Named};
use super::protocol::{ClientFactory, Protocol, Reason, Retry};
use super::timer::{Due, nanos};

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// `host:port`, to be looked up.
    Name(String),
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Target::Addr(addr)
    }
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        name.parse()
            .map_or_else(|_| Target::Name(name.to_owned()), Target::Addr)
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Target::from(name.as_str())
    }
}

/// What a connector is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It will be dialed, in the next turn or by a timer.
    Waiting,
    /// Its name is being looked up.
    LookingUp,
    /// It has a slot: an attempt under way, or a connection.
    Busy(ConnId),
}

pub(super) struct Connector<A: App> {
    target: Target,
    /// Taken out while one of its callbacks runs.
    factory: Option<Box<dyn ClientFactory<A>>>,
    state: State,
    /// Attempts since the last connection.
    tries: u32,
    started: bool,
    leaving: bool,
    generation: u32,
}

impl<A: App> Connector<A> {
    pub(super) fn new(target: Target, factory: Box<dyn ClientFactory<A>>) -> Self {
        Connector {
            target,
            factory: Some(factory),
            state: State::Waiting,
            tries: 0,
            started: false,
            leaving: false,
            generation: 0,
        }
    }
}

/// All connectors of a reactor.
pub(super) struct Connectors<A: App> {
    slots: Slab<Connector<A>>,
}

impl<A: App> Connectors<A> {
    pub(super) fn new() -> Self {
        Connectors { slots: Slab::new() }
    }

    pub(super) fn insert(&mut self, mut connector: Connector<A>, generation: u32) -> ConnectorId {
        connector.generation = generation;
        ConnectorId::new(self.slots.insert(connector), generation)
    }

    fn get_mut(&mut self, id: ConnectorId) -> Option<&mut Connector<A>> {
        self.slots
            .get_mut(id.index())
            .filter(|connector| connector.generation == id.generation())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Those that were not asked to leave.
    pub(super) fn staying(&self) -> Vec<ConnectorId> {
        let staying = self
            .slots
            .iter()
            .filter(|(_, connector)| !connector.leaving);
        staying
            .map(|(index, connector)| ConnectorId::new(index, connector.generation))
            .collect()
    }
}

impl<B: Backend, A: App> Reactor<B, A> {
    /// The dialing phase.
    pub(super) fn dial_waiting(&mut self) {
        for id in std::mem::take(&mut self.core.dialing) {
            self.dial(id);
        }
        for (id, found) in std::mem::take(&mut self.core.found) {
            self.attempt(id, found);
        }
        for id in std::mem::take(&mut self.core.answered) {
            self.attempt_ended(id);
        }
    }

    fn dial(&mut self, id: ConnectorId) {
        let Some(connector) = self.core.connectors.get_mut(id) else {
            return;
        };
        if connector.state != State::Waiting || connector.leaving {
            return;
        }
        connector.tries = connector.tries.saturating_add(1);
        let started = std::mem::replace(&mut connector.started, true);
        let target = connector.target.clone();
        if !started {
            self.with_connector(id, ConnId::NONE, |factory, cx| factory.start_factory(cx));
        }
        match target {
            Target::Addr(addr) => self.attempt(id, Ok(vec![addr])),
            Target::Name(name) => self.look_up(id, &name),
        }
    }

    fn look_up(&mut self, id: ConnectorId, name: &str) {
        if let Some(connector) = self.core.connectors.get_mut(id) {
            connector.state = State::LookingUp;
        }
        let lookup = self.backend.lookup(name);
        self.cx(ConnId::NONE).net.defer_lookup(id, lookup);
    }

    /// Begins to connect to one of the addresses that a lookup found.
    fn attempt(&mut self, id: ConnectorId, found: io::Result<Vec<SocketAddr>>) {
        let Some(connector) = self.core.connectors.get_mut(id) else {
            return;
        };
        connector.state = State::Waiting;
        let turn = connector.tries as usize;
        let begun = found.and_then(|addrs| match addrs.len() {
            0 => Err(io::ErrorKind::NotFound.into()),
            n => Ok(addrs[turn % n]),
        });
        let upcoming = self.core.conns.upcoming();
        let begun = begun.and_then(|addr| {
            Ok((
                self.backend.connect(addr, Named::Conn(upcoming).token())?,
                addr,
            ))
        });
        match begun {
            Ok((raw, peer)) => {
                let conn = Conn::new(
                    raw,
                    peer,
                    Origin::Connector(id),
                    Phase::Connecting,
                    self.core.limits.output,
                    self.core.now,
                );
                let conn_id = self.core.conns.insert(conn);
                assert_eq!(conn_id, upcoming, "the poll token names another slot");
                if let Some(connector) = self.core.connectors.get_mut(id) {
                    connector.state = State::Busy(conn_id);
                }
                self.core.arm(conn_id);
            }
            Err(error) => self.core.failed.push((id, Reason::Lost(error.kind()))),
        }
    }

    /// A connecting socket has news.
    fn attempt_ended(&mut self, conn_id: ConnId) {
        let Some(conn) = self.core.conns.get(conn_id) else {
            return;
        };
        let (raw, peer, origin) = (conn.raw, conn.peer, conn.origin);
        match self.backend.connect_result(raw) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.core.die(conn_id, Reason::Lost(error.kind())),
            Ok(()) => {
                let now = self.core.now;
                if let Some(conn) = self.core.conns.get_mut(conn_id) {
                    (conn.phase, conn.since, conn.made_at, conn.writable) =
                        (Phase::Open, now, now, true);
                }
                let Origin::Connector(id) = origin else {
                    return;
                };
                match self
                    .with_connector(id, conn_id, |factory, cx| factory.build_protocol(cx, peer))
                    .flatten()
                {
                    Some(protocol) => self.connected(id, conn_id, protocol),
                    None => self.core.die(conn_id, Reason::Aborted),
                }
            }
        }
    }

    fn connected(&mut self, id: ConnectorId, conn_id: ConnId, protocol: Box<dyn Protocol<A>>) {
        self.core.stats.connected += 1;
        if let Some(connector) = self.core.connectors.get_mut(id) {
            connector.tries = 0;
        }
        self.install(conn_id, protocol);
    }

    /// Tells the factories of attempts that failed before there was a socket.
    pub(super) fn report_failed(&mut self) {
        for (id, reason) in std::mem::take(&mut self.core.failed) {
            self.connector_freed(id, reason, None);
        }
    }

    /// A connector has no slot any more. `uptime`: how long its connection was up, if it was.
    pub(super) fn connector_freed(
        &mut self,
        id: ConnectorId,
        reason: Reason,
        uptime: Option<Duration>,
    ) {
        let Some(connector) = self.core.connectors.get_mut(id) else {
            return;
        };
        connector.state = State::Waiting;
        let tries = connector.tries;
        let Some(mut factory) = connector.factory.take() else {
            return;
        };
        let app = &mut self.app;
        let retry = match uptime {
            Some(uptime) => factory.client_connection_lost(app, &reason, uptime),
            None => {
                self.core.stats.connects_failed += 1;
                factory.connection_failed(app, &reason, tries)
            }
        };
        let stopping = self.core.is_stopping();
        let Some(connector) = self.core.connectors.get_mut(id) else {
            return;
        };
        connector.factory = Some(factory);
        match retry {
            Retry::After(delay) if !connector.leaving && !stopping => {
                let at = self.core.now.saturating_add(nanos(delay));
                self.core.timers.arm(at, Due::Redial(id));
            }
            _ => self.core.leaving.push(id),
        }
    }

    /// Ends the connectors that were asked to, or have decided to, leave.
    pub(super) fn dismiss_leaving(&mut self) {
        for id in std::mem::take(&mut self.core.leaving) {
            let Some(connector) = self.core.connectors.get_mut(id) else {
                continue;
            };
            connector.leaving = true;
            let started = connector.started;
            if let State::Busy(conn) = connector.state {
                self.core.lose(conn);
                continue;
            }
            if started {
                self.with_connector(id, ConnId::NONE, |factory, cx| factory.stop_factory(cx));
            }
            self.core.connectors.slots.try_remove(id.index());
        }
    }

    fn with_connector<R>(
        &mut self,
        id: ConnectorId,
        me: ConnId,
        call: impl FnOnce(&mut dyn ClientFactory<A>, &mut Cx<'_, A>) -> R,
    ) -> Option<R> {
        let mut factory = self.core.connectors.get_mut(id)?.factory.take()?;
        let result = call(factory.as_mut(), &mut self.cx(me));
        if let Some(connector) = self.core.connectors.get_mut(id) {
            connector.factory = Some(factory);
        }
        Some(result)
    }
}
