//! What callbacks say to the network.
//!
//! No verb here performs I/O on a connection: a write appends to a buffer, closing sets a phase, dialing joins a
//! queue. The reactor acts in the later phases of the turn. That is why no callback can run inside another, and why a
//! hundred writes of a turn are one system call. (Two verbs touch the backend: [`Net::listen`], because its caller
//! needs the port's number, and [`Net::host`].)
//!
//! Verbs without a connection's name speak of the connection whose callback runs; outside of one they do nothing.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::app::{App, Cx};
use super::backend::{Backend, Lane, Lookup};
use super::conn::{PAUSED_BY_POLICY, PAUSED_BY_PROTOCOL, Phase};
use super::connector::{Connector, Target};
use super::core::{Core, Stopping};
use super::id::{ConnId, ConnectorId, PortId};
use super::limits::{ListenOptions, OutputLimits};
use super::protocol::{ClientFactory, Factory, Reason};
use super::remote::{Item, Remote};
use super::stats::Stats;
use super::timer::{NEVER, Nanos, TimerId, nanos};

/// The network as a callback sees it.
pub struct Net<'a, A: App> {
    core: &'a mut Core<A>,
    backend: &'a mut dyn Backend,
    me: ConnId,
}

impl<'a, A: App> Net<'a, A> {
    pub(super) fn new(core: &'a mut Core<A>, backend: &'a mut dyn Backend, me: ConnId) -> Self {
        Net { core, backend, me }
    }

    /// The connection whose callback runs; [`ConnId::NONE`] in timers, posted calls and [`App::commit`].
    pub fn id(&self) -> ConnId {
        self.me
    }

    /// The monotonic clock, read once a turn, in nanoseconds.
    pub fn now(&self) -> Nanos {
        self.core.now
    }

    /// The monotonic clock, read now: for measuring what happens within a turn.
    pub fn clock(&mut self) -> Nanos {
        self.backend.now()
    }

    /// Milliseconds since 1970-01-01 UTC, read once a turn.
    pub fn wall_ms(&self) -> u64 {
        self.core.wall_ms
    }

    /// 64 random bits from the backend's generator; not for secrets.
    pub fn random(&mut self) -> u64 {
        self.backend.random()
    }

    /// Sends `data` after what was written before. Dropped when the connection is closing or gone.
    pub fn write(&mut self, data: &[u8]) {
        self.core.write(self.me, data);
    }

    /// Sends `data` and leaves it empty. A buffer of 64 KiB or more is taken over without a copy if nothing waits
    /// before it; `data` then has no or another capacity.
    pub fn write_buf(&mut self, data: &mut Vec<u8>) {
        self.core.write_buf(self.me, data);
    }

    /// [`write`](Self::write) to another connection; false when it was dropped.
    pub fn write_to(&mut self, id: ConnId, data: &[u8]) -> bool {
        self.core.write(id, data)
    }

    /// [`write_buf`](Self::write_buf) to another connection; false when it was dropped.
    pub fn write_buf_to(&mut self, id: ConnId, data: &mut Vec<u8>) -> bool {
        self.core.write_buf(id, data)
    }

    /// Unsent bytes.
    pub fn out_len(&self) -> usize {
        self.out_len_of(self.me)
    }

    /// Unsent bytes of another connection; 0 when it is gone.
    pub fn out_len_of(&self, id: ConnId) -> usize {
        self.core.conns.get(id).map_or(0, |conn| conn.output.len())
    }

    /// Output has passed the high-water mark and not drained to the low one. Whoever stops producing because of it
    /// will hear `resume_producing`.
    pub fn is_congested(&self) -> bool {
        self.core
            .conns
            .get(self.me)
            .is_some_and(|conn| conn.congested)
    }

    /// The connection is closing or gone: nothing more will be delivered, and writes are dropped.
    pub fn is_losing(&self) -> bool {
        self.core
            .conns
            .get(self.me)
            .is_none_or(|conn| conn.phase != Phase::Open)
    }

    /// Reads nothing more, sends what was written, then closes, within the deadlines of
    /// [`Limits`](super::limits::Limits).
    pub fn lose_connection(&mut self) {
        self.core.lose(self.me);
    }

    /// [`lose_connection`](Self::lose_connection) for another connection.
    pub fn lose(&mut self, id: ConnId) {
        self.core.lose(id);
    }

    /// Drops what is unsent and resets the connection.
    pub fn abort_connection(&mut self) {
        self.core.die(self.me, Reason::Aborted);
    }

    /// [`abort_connection`](Self::abort_connection) for another connection.
    pub fn abort(&mut self, id: ConnId) {
        self.core.die(id, Reason::Aborted);
    }

    /// Sends what was written, then the end of our stream; goes on reading.
    pub fn lose_write_connection(&mut self) {
        if let Some(conn) = self.core.conns.get_mut(self.me)
            && conn.takes_output()
        {
            conn.fin_wanted = true;
            self.core.soil(self.me);
        }
    }

    /// Delivers no input until [`resume_reading`](Self::resume_reading). The peer is slowed by its full window.
    pub fn pause_reading(&mut self) {
        self.pause(self.me, PAUSED_BY_PROTOCOL);
    }

    /// Delivers input again.
    pub fn resume_reading(&mut self) {
        self.unpause(self.me, PAUSED_BY_PROTOCOL);
    }

    /// [`pause_reading`](Self::pause_reading) for another connection.
    pub fn pause_reading_of(&mut self, id: ConnId) {
        self.pause(id, PAUSED_BY_PROTOCOL);
    }

    /// [`resume_reading`](Self::resume_reading) for another connection, or from a timer.
    pub fn resume_reading_of(&mut self, id: ConnId) {
        self.unpause(id, PAUSED_BY_PROTOCOL);
    }

    /// Like [`pause_reading`](Self::pause_reading), independent of what the protocol itself wants.
    pub(super) fn throttle(&mut self) {
        self.pause(self.me, PAUSED_BY_POLICY);
    }

    /// Ends a [`throttle`](Self::throttle).
    pub(super) fn unthrottle(&mut self, id: ConnId) {
        self.unpause(id, PAUSED_BY_POLICY);
    }

    fn pause(&mut self, id: ConnId, who: u8) {
        if let Some(conn) = self.core.conns.get_mut(id) {
            conn.paused |= who;
        }
    }

    fn unpause(&mut self, id: ConnId, who: u8) {
        if let Some(conn) = self.core.conns.get_mut(id) {
            conn.paused &= !who;
            self.core.enqueue(id);
        }
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.core
            .conns
            .get(self.me)
            .map_or(NOWHERE, |conn| conn.peer)
    }

    /// Our end's address (a system call).
    pub fn host(&self) -> SocketAddr {
        let raw = self.core.conns.get(self.me).map(|conn| conn.raw);
        raw.and_then(|raw| self.backend.host(raw).ok())
            .unwrap_or(NOWHERE)
    }

    /// Calls `call` after `delay`. Equal deadlines keep their order; a call armed in a call waits for the next turn.
    pub fn call_later(
        &mut self,
        delay: Duration,
        call: impl FnOnce(&mut Cx<'_, A>) + 'static,
    ) -> TimerId {
        self.core
            .timers
            .call(self.core.now.saturating_add(nanos(delay)), Box::new(call))
    }

    /// Drops a pending call; false when it was made or cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.core.timers.cancel(timer)
    }

    /// Calls `timed_out` when nothing was received for so long; `None` never does. Reads alone re-arm it:
    /// a protocol that may be sending a long answer overrides `timed_out` and looks at [`out_len`](Self::out_len).
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        let now = self.core.now;
        if let Some(conn) = self.core.conns.get_mut(self.me) {
            conn.timeout = timeout.map_or(NEVER, nanos);
            if conn.phase == Phase::Open {
                conn.since = now;
                self.core.arm(self.me);
            }
        }
    }

    /// This connection's own marks, instead of [`Limits::output`](super::limits::Limits).
    pub fn set_output_limits(&mut self, limits: OutputLimits) {
        if let Some(conn) = self.core.conns.get_mut(self.me) {
            conn.marks = limits;
        }
    }

    /// Calls `message` of a connection's protocol in this turn's or the next turn's phase for posts.
    pub fn post(&mut self, id: ConnId, message: A::Message) {
        self.core.posted.push_back((id, message));
    }

    /// Keeps a connection to `target` as `factory` decides. The attempt begins in the next turn; a name is looked up
    /// on the thread pool before every attempt.
    pub fn connect(
        &mut self,
        target: impl Into<Target>,
        factory: Box<dyn ClientFactory<A>>,
    ) -> ConnectorId {
        let generation = self.core.conns.next_generation();
        let id = self
            .core
            .connectors
            .insert(Connector::new(target.into(), factory), generation);
        self.core.dialing.push(id);
        id
    }

    /// Ends a connector: no more attempts, and its connection, if it has one, is lost.
    pub fn disconnect(&mut self, connector: ConnectorId) {
        self.core.leaving.push(connector);
    }

    /// Accepts connections on `options.addr` for `factory`. Says which address it got.
    pub fn listen(
        &mut self,
        options: &ListenOptions,
        factory: Box<dyn Factory<A>>,
    ) -> io::Result<(PortId, SocketAddr)> {
        let generation = self.core.conns.next_generation();
        let (id, addr) = self
            .core
            .ports
            .open(self.backend, options, factory, generation)?;
        self.core.opening.push(id);
        Ok((id, addr))
    }

    /// Accepts nothing more on a port, at the end of this turn. Its connections stay.
    pub fn stop_listening(&mut self, port: PortId) {
        self.core.shutting.push(port);
    }

    /// Runs `job` on the thread pool and `then` with its result on the reactor's thread. Nothing bounds the jobs that
    /// wait but their callers: let a connection pause reading while its job runs.
    pub fn defer_to_thread<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Cx<'_, A>, T) + 'static,
    ) {
        self.defer(Lane::Pool, job, then);
    }

    /// As [`defer_to_thread`](Self::defer_to_thread), on the one thread for what waits for the disk: jobs run one
    /// after the other, in the order they were given.
    pub fn defer_to_disk<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Cx<'_, A>, T) + 'static,
    ) {
        self.defer(Lane::Disk, job, then);
    }

    fn defer<T: Send + 'static>(
        &mut self,
        lane: Lane,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Cx<'_, A>, T) + 'static,
    ) {
        let key = self
            .core
            .deferred
            .insert(Box::new(move |cx, result: Box<dyn Any + Send>| {
                if let Ok(result) = result.downcast() {
                    then(cx, *result);
                }
            }));
        self.core.stats.jobs_pending += 1;
        let inbox = Arc::clone(&self.core.inbox);
        let job = Box::new(move || {
            inbox.put(Item::Finished(key, Box::new(job())));
        });
        self.backend.spawn(lane, job);
    }

    /// Looks a name up on the thread pool, for a connector.
    pub(super) fn defer_lookup(&mut self, id: ConnectorId, lookup: Lookup) {
        self.defer_to_thread(lookup, move |cx, found| cx.net.core.found.push((id, found)));
    }

    /// A handle for other threads.
    pub fn remote(&self) -> Remote<A> {
        Remote::new(Arc::clone(&self.core.inbox))
    }

    /// Stops gracefully: listens no more, loses all connections, and lets them flush for
    /// [`Limits::drain_ms`](super::limits::Limits) at most.
    pub fn stop(&mut self) {
        if self.core.stopping == Stopping::No {
            self.core.stopping = Stopping::Asked {
                drain_ms: self.core.limits.drain_ms,
            };
        }
    }

    /// Stops at the end of this turn, also when a graceful stop is under way; what is unsent is lost.
    pub fn stop_now(&mut self) {
        self.core.stopping = Stopping::Asked { drain_ms: 0 };
    }

    /// Connections, incoming and outgoing, in whatever phase.
    pub fn connections(&self) -> usize {
        self.core.conns.len()
    }

    /// The reactor's counters.
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// Starts [`Stats::turn_ns_max`] anew.
    pub fn reset_turn_max(&mut self) {
        self.core.stats.turn_ns_max = 0;
    }
}

/// The address of what has none.
const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
