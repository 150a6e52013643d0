//! The reactor's state without its backend: slots, queues and counters.
//!
//! [`Net`](super::net::Net) records here, the phases of [`Reactor`](super::Reactor) act on what is recorded. Each queue
//! belongs to one phase; a connection is in each at most once, by a flag in its slot. Queues hold names and not
//! references, so what dies while queued is skipped when its turn comes.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use slab::Slab;

use super::app::{App, Cx};
use super::conn::{Conn, Conns, Phase};
use super::connector::Connectors;
use super::id::{ConnId, ConnectorId, PortId};
use super::limits::Limits;
use super::output::Spares;
use super::port::Ports;
use super::protocol::Reason;
use super::remote::Inbox;
use super::stats::Stats;
use super::timer::{Due, NEVER, Nanos, Timers};

/// What to do with a job's result.
pub(super) type Then<A> = Box<dyn FnOnce(&mut Cx<'_, A>, Box<dyn Any + Send>)>;

/// How far a stop has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stopping {
    No,
    /// Asked for; it begins at the end of the turn.
    Asked {
        drain_ms: u64,
    },
    /// Everything is closing, until then.
    Draining(Nanos),
}

pub(super) struct Core<A: App> {
    pub(super) conns: Conns<A>,
    pub(super) ports: Ports<A>,
    pub(super) connectors: Connectors<A>,
    pub(super) timers: Timers<A>,
    pub(super) deferred: Slab<Then<A>>,
    pub(super) inbox: Arc<Inbox<A>>,
    pub(super) spares: Spares,
    pub(super) limits: Limits,
    pub(super) stats: Stats,
    pub(super) now: Nanos,
    pub(super) wall_ms: u64,
    pub(super) stopping: Stopping,
    /// Connections to read, in turn.
    pub(super) ready: VecDeque<ConnId>,
    /// Connections to flush.
    pub(super) dirty: Vec<ConnId>,
    /// Connections to close.
    pub(super) dying: Vec<ConnId>,
    /// Connections that only hear that they are refused.
    pub(super) refusals: usize,
    /// Messages between protocols.
    pub(super) posted: VecDeque<(ConnId, A::Message)>,
    /// Ports with somebody waiting.
    pub(super) accepting: VecDeque<PortId>,
    /// Ports whose factory has not been started.
    pub(super) opening: Vec<PortId>,
    /// Ports to close.
    pub(super) shutting: Vec<PortId>,
    /// Ports that rest until descriptors are free again.
    pub(super) resting: Vec<PortId>,
    /// Connectors to dial.
    pub(super) dialing: Vec<ConnectorId>,
    /// What lookups found.
    pub(super) found: Vec<(ConnectorId, io::Result<Vec<SocketAddr>>)>,
    /// Attempts that may have ended.
    pub(super) answered: Vec<ConnId>,
    /// Connectors that end.
    pub(super) leaving: Vec<ConnectorId>,
    /// Attempts that failed before there was a connection.
    pub(super) failed: Vec<(ConnectorId, Reason)>,
}

impl<A: App> Core<A> {
    pub(super) fn new(limits: Limits, inbox: Arc<Inbox<A>>) -> Self {
        Core {
            conns: Conns::new(),
            ports: Ports::new(),
            connectors: Connectors::new(),
            timers: Timers::new(),
            deferred: Slab::new(),
            inbox,
            spares: Spares::default(),
            limits,
            stats: Stats::default(),
            now: 0,
            wall_ms: 0,
            stopping: Stopping::No,
            ready: VecDeque::new(),
            dirty: Vec::new(),
            dying: Vec::new(),
            refusals: 0,
            posted: VecDeque::new(),
            accepting: VecDeque::new(),
            opening: Vec::new(),
            shutting: Vec::new(),
            resting: Vec::new(),
            dialing: Vec::new(),
            found: Vec::new(),
            answered: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The next turn has something to do without waiting for events.
    pub(super) fn has_work(&self) -> bool {
        !(self.ready.is_empty()
            && self.dirty.is_empty()
            && self.dying.is_empty()
            && self.posted.is_empty()
            && self.accepting.is_empty()
            && self.opening.is_empty()
            && self.shutting.is_empty()
            && self.dialing.is_empty()
            && self.found.is_empty()
            && self.answered.is_empty()
            && self.leaving.is_empty()
            && self.failed.is_empty()
            && !matches!(self.stopping, Stopping::Asked { .. }))
    }

    /// A stop is under way.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    /// The connection, if it may be written to; otherwise the write counts as dropped.
    fn writable(&mut self, id: ConnId) -> Option<&mut Conn<A>> {
        match self.conns.get_mut(id) {
            Some(conn) if conn.takes_output() => Some(conn),
            _ => {
                self.stats.writes_dropped += 1;
                None
            }
        }
    }

    /// Appends to a connection's output; false when it was dropped.
    pub(super) fn write(&mut self, id: ConnId, data: &[u8]) -> bool {
        if data.is_empty() {
            return self.conns.get(id).is_some_and(Conn::takes_output);
        }
        // Not `self.writable`: the spare buffers are borrowed beside the connection.
        match self.conns.get_mut(id) {
            Some(conn) if conn.takes_output() => conn.output.push(data, &mut self.spares),
            _ => {
                self.stats.writes_dropped += 1;
                return false;
            }
        }
        self.wrote(id)
    }

    /// Appends `data` and leaves it empty; a large one changes hands without a copy when nothing waits before it.
    pub(super) fn write_buf(&mut self, id: ConnId, data: &mut Vec<u8>) -> bool {
        let kept = match self.writable(id) {
            Some(conn) if data.len() >= SWAP_MIN_BYTES && conn.output.is_empty() => {
                conn.output.swap(data);
                self.wrote(id)
            }
            Some(_) => self.write(id, data),
            None => false,
        };
        data.clear();
        kept
    }

    /// Looks at the marks after an append.
    fn wrote(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        let waiting = conn.output.len();
        if waiting > conn.marks.high_bytes {
            conn.congested = true;
            if waiting > conn.marks.hard_bytes {
                self.stats.overflowed += 1;
                self.die(id, Reason::Overflow);
                return false;
            }
        }
        self.soil(id);
        true
    }

    /// Puts a connection on the list to flush.
    pub(super) fn soil(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Puts a connection in the queue to read, if a read would be worth it.
    pub(super) fn enqueue(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.queued
            && conn.wants_read()
        {
            conn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Stops input, flushes, closes.
    pub(super) fn lose(&mut self, id: ConnId) {
        let now = self.now;
        match self.conns.get_mut(id) {
            Some(conn) if conn.phase == Phase::Open => {
                conn.phase = Phase::Closing;
                conn.since = now;
                self.soil(id);
                self.arm(id);
            }
            Some(conn) if conn.phase == Phase::Connecting => self.die(id, Reason::Aborted),
            _ => {}
        }
    }

    /// Ends a connection; it is closed in the closing phase. The first reason stands.
    pub(super) fn die(&mut self, id: ConnId, reason: Reason) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.is_dead() {
            return;
        }
        conn.phase = Phase::Dead(reason);
        conn.output.discard(&mut self.spares);
        self.dying.push(id);
    }

    /// How a clean end is called now.
    pub(super) fn clean_end(&self) -> Reason {
        if self.is_stopping() {
            Reason::Stopped
        } else {
            Reason::Done
        }
    }

    /// Sees to it that a heap entry comes round no later than the connection's deadline.
    pub(super) fn arm(&mut self, id: ConnId) {
        let stopping = self.is_stopping();
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let at = conn.deadline(&self.limits, stopping);
        if at < conn.alarm_at {
            if conn.alarm_at != NEVER {
                self.timers.bury();
            }
            conn.alarm_at = at;
            self.timers.arm(at, Due::Conn(id));
        }
    }
}

/// From this size on, a written buffer changes hands instead of being copied.
const SWAP_MIN_BYTES: usize = 64 << 10;
