//! One turn of the loop: its order, and the phases that are too short for a room of their own.

use std::io;
use std::time::Duration;

use super::Reactor;
use super::app::{App, Cx};
use super::backend::{Backend, Ready};
use super::conn::Phase;
use super::core::Stopping;
use super::id::{ConnId, Named};
use super::protocol::{Protocol, Reason};
use super::remote::Item;
use super::timer::{Due, Entry, NEVER, Nanos, after_ms};

impl<B: Backend, A: App> Reactor<B, A> {
    /// One pass of the loop, which waits at most `wait_max` (`None`: as long as it takes) for something to do. False
    /// when a stop was completed.
    pub fn turn(&mut self, wait_max: Option<Duration>) -> io::Result<bool> {
        let wait = self.wait(wait_max);
        self.events.clear();
        self.backend.poll(wait, &mut self.events)?;
        self.core.now = self.backend.now();
        self.core.wall_ms = self.backend.wall_ms();
        let mark = self.core.timers.mark();

        self.take_events();
        self.open_ports();
        self.accept_waiting();
        self.dial_waiting();
        self.read_ready();
        self.deliver_posts();
        self.fire_timers(mark);
        A::commit(&mut self.cx(ConnId::NONE));
        self.flush_dirty();
        self.close_dying();
        let running = self.advance_stop();

        let length = self.backend.now().saturating_sub(self.core.now);
        let stats = &mut self.core.stats;
        stats.turns += 1;
        stats.turn_ns_last = length;
        stats.turn_ns_max = stats.turn_ns_max.max(length);
        Ok(running)
    }

    /// Notes what the poll reported in the slots it concerns.
    fn take_events(&mut self) {
        for at in 0..self.events.len() {
            let ready = self.events[at];
            match Named::of_token(ready.token) {
                Named::Port(id) => self.queue_accept(id),
                Named::Conn(id) => self.take_event(id, ready),
            }
        }
    }

    fn take_event(&mut self, id: ConnId, ready: Ready) {
        let Some(conn) = self.core.conns.get_mut(id) else {
            self.core.stats.stale_events += 1;
            return;
        };
        conn.readable |= ready.readable || ready.closed;
        conn.peer_closed |= ready.closed;
        if conn.phase == Phase::Connecting {
            if ready.writable || ready.closed {
                self.core.answered.push(id);
            }
            return;
        }
        conn.writable |= ready.writable;
        if ready.writable && !conn.output.is_empty() {
            self.core.soil(id);
        }
        self.core.enqueue(id);
    }

    /// Calls a protocol, taken out of its slot meanwhile.
    pub(super) fn call(
        &mut self,
        id: ConnId,
        call: impl FnOnce(&mut dyn Protocol<A>, &mut Cx<'_, A>),
    ) {
        let Some(mut protocol) = self
            .core
            .conns
            .get_mut(id)
            .and_then(|conn| conn.protocol.take())
        else {
            return;
        };
        call(protocol.as_mut(), &mut self.cx(id));
        if let Some(conn) = self.core.conns.get_mut(id) {
            conn.protocol = Some(protocol);
        }
    }

    /// [`call`](Self::call), if the connection is neither closing nor gone.
    pub(super) fn call_open(
        &mut self,
        id: ConnId,
        call: impl FnOnce(&mut dyn Protocol<A>, &mut Cx<'_, A>),
    ) {
        if self
            .core
            .conns
            .get(id)
            .is_some_and(|conn| conn.phase == Phase::Open)
        {
            self.call(id, call);
        }
    }

    /// Puts a protocol into its slot and makes its first call.
    pub(super) fn install(&mut self, id: ConnId, protocol: Box<dyn Protocol<A>>) {
        if let Some(conn) = self.core.conns.get_mut(id) {
            conn.protocol = Some(protocol);
            conn.made = true;
        }
        self.call(id, |protocol, cx| protocol.connection_made(cx));
        self.core.enqueue(id);
    }

    /// Asks the backend for the edges of an accepted connection.
    pub(super) fn register(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get(id) else {
            return;
        };
        if let Err(error) = self.backend.register(conn.raw, Named::Conn(id).token()) {
            self.core.die(id, Reason::Lost(error.kind()));
        }
    }

    /// Messages to protocols, then calls and results from other threads: those that are there now.
    fn deliver_posts(&mut self) {
        for _ in 0..self.core.posted.len() {
            let Some((id, message)) = self.core.posted.pop_front() else {
                break;
            };
            self.call_open(id, |protocol, cx| protocol.message(cx, message));
        }
        let mut items = std::mem::take(&mut self.items);
        self.core.inbox.take(&mut items);
        for item in items.drain(..) {
            match item {
                Item::Call(call) => call(&mut self.cx(ConnId::NONE)),
                Item::Finished(key, result) => {
                    self.core.stats.jobs_pending -= 1;
                    if let Some(then) = self.core.deferred.try_remove(key) {
                        then(&mut self.cx(ConnId::NONE), result);
                    }
                }
            }
        }
        self.items = items;
    }

    /// Timers due at the turn's start and armed before it.
    fn fire_timers(&mut self, mark: u64) {
        let mut due = std::mem::take(&mut self.due);
        self.core.timers.take_due(self.core.now, mark, &mut due);
        for entry in due.drain(..) {
            self.fire(entry);
        }
        self.due = due;
        let (timers, conns) = (&mut self.core.timers, &self.core.conns);
        timers.sweep(|entry| match entry.due {
            Due::Conn(id) => conns.get(id).is_some_and(|conn| conn.alarm_at == entry.at),
            _ => true,
        });
    }

    fn fire(&mut self, entry: Entry) {
        match entry.due {
            Due::Call(index) => {
                if let Some(call) = self.core.timers.take_call(index, entry.seq) {
                    call(&mut self.cx(ConnId::NONE));
                }
            }
            Due::Conn(id) => self.watch(id, entry),
            Due::Redial(id) => self.core.dialing.push(id),
            Due::Accept(_) => self.wake_ports(),
        }
    }

    /// A connection's alarm came round: is its deadline here, or was it moved?
    fn watch(&mut self, id: ConnId, entry: Entry) {
        let stopping = self.core.is_stopping();
        match self.core.conns.get_mut(id) {
            Some(conn) if conn.alarm_at == entry.at => {
                conn.alarm_at = NEVER;
                if conn.deadline(&self.core.limits, stopping) > self.core.now {
                    self.core.arm(id);
                } else {
                    self.expire(id);
                }
            }
            _ => self.core.timers.unbury(),
        }
    }

    /// A connection's deadline has passed.
    fn expire(&mut self, id: ConnId) {
        let now = self.core.now;
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        match conn.phase {
            Phase::Connecting | Phase::Closing => self.core.die(id, Reason::TimedOut),
            Phase::Lingering => self.core.die(id, self.core.clean_end()),
            Phase::Dead(_) => {}
            Phase::Open => {
                conn.since = now;
                self.call(id, |protocol, cx| protocol.timed_out(cx));
                if let Some(conn) = self.core.conns.get_mut(id)
                    && conn.phase == Phase::Dead(Reason::Aborted)
                {
                    conn.phase = Phase::Dead(Reason::TimedOut);
                }
                self.core.arm(id);
            }
        }
    }

    /// The last phase: where a stop stands. False when it is complete.
    fn advance_stop(&mut self) -> bool {
        match self.core.stopping {
            Stopping::No => true,
            Stopping::Asked { drain_ms } => {
                let until = after_ms(self.core.now, drain_ms);
                self.begin_stop(until);
                self.continue_stop(until)
            }
            Stopping::Draining(until) => self.continue_stop(until),
        }
    }

    fn begin_stop(&mut self, until: Nanos) {
        self.core.stopping = Stopping::Draining(until);
        // A timer that only ends the wait.
        self.core.timers.call(until, Box::new(|_| ()));
        for id in self.core.conns.ids() {
            self.core.lose(id);
            // Those that linger already have a shorter deadline now.
            self.core.arm(id);
        }
    }

    fn continue_stop(&mut self, until: Nanos) -> bool {
        // Again in every turn: what was opened while stopping is closed too.
        self.close_entrances();
        let core = &mut self.core;
        if core.conns.len() == 0 && core.ports.is_empty() && core.connectors.is_empty() {
            core.stopping = Stopping::No;
            return false;
        }
        if core.now >= until {
            for id in core.conns.ids() {
                core.die(id, Reason::Stopped);
            }
        }
        true
    }

    /// Closes the ports and lets the connectors go, at once: nobody comes in after those who are lost now.
    fn close_entrances(&mut self) {
        self.core.shutting.extend(self.core.ports.ids());
        self.core.leaving.extend(self.core.connectors.staying());
        self.shut_ports();
        self.dismiss_leaving();
    }
}
