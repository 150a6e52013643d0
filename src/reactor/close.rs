//! The closing phase: the one place where `connection_lost` is called, a socket closed and a slot freed.
//!
//! It is the last of the turn, so that no name of this turn's batch of events can meet a new tenant in its slot.

use std::time::Duration;

use super::Reactor;
use super::app::App;
use super::backend::Backend;
use super::conn::{Origin, Phase};
use super::id::ConnId;
use super::protocol::Reason;
use super::timer::NEVER;

impl<B: Backend, A: App> Reactor<B, A> {
    pub(super) fn close_dying(&mut self) {
        self.shut_ports();
        self.report_failed();
        let mut names = std::mem::take(&mut self.names);
        std::mem::swap(&mut names, &mut self.core.dying);
        let some = !names.is_empty();
        for id in names.drain(..) {
            self.close_one(id);
        }
        self.names = names;
        if some {
            self.wake_ports();
        }
        self.dismiss_leaving();
    }

    fn close_one(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get(id) else {
            return;
        };
        let Phase::Dead(reason) = conn.phase else {
            return;
        };
        if conn.made {
            self.call(id, |protocol, cx| protocol.connection_lost(cx, &reason));
        }
        let Some(conn) = self.core.conns.remove(id) else {
            return;
        };
        let reset = matches!(
            reason,
            Reason::Aborted | Reason::TimedOut | Reason::Overflow
        );
        self.backend.close(conn.raw, reset);
        if conn.alarm_at != NEVER {
            self.core.timers.bury();
        }
        if conn.refused {
            self.core.refusals -= 1;
        }
        self.core.stats.closed += 1;
        if reason == Reason::TimedOut {
            self.core.stats.timed_out += 1;
        }
        if let Origin::Connector(connector) = conn.origin {
            let uptime = conn
                .made
                .then(|| Duration::from_nanos(self.core.now.saturating_sub(conn.made_at)));
            self.connector_freed(connector, reason, uptime);
        }
    }
}
