//! The flushing phase: one write for everything that a connection was given during the turn.
//!
//! A write that took less than it was given means a full socket: the connection leaves the list until a writable edge
//! puts it back. A connection gets a bounded share a turn, so that a reader of gigabytes does not hold up the others.
//!
//! Here also end the things that wait for the flush: the end of our stream is sent, and a closing connection lingers.

use std::io::ErrorKind;

use super::Reactor;
use super::app::App;
use super::backend::Backend;
use super::conn::Phase;
use super::id::ConnId;
use super::protocol::Reason;

impl<B: Backend, A: App> Reactor<B, A> {
    pub(super) fn flush_dirty(&mut self) {
        let mut names = std::mem::take(&mut self.names);
        std::mem::swap(&mut names, &mut self.core.dirty);
        for id in names.drain(..) {
            self.flush_one(id);
        }
        self.names = names;
    }

    fn flush_one(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        conn.dirty = false;
        if conn.is_dead() || conn.phase == Phase::Connecting {
            return;
        }
        if conn.congested && !conn.congestion_told {
            conn.congestion_told = true;
            self.call_open(id, |protocol, cx| protocol.pause_producing(cx));
        }
        self.write_out(id);
        self.after_write(id);
    }

    /// Writes until the socket is full, the share is used up or nothing is left.
    fn write_out(&mut self, id: ConnId) {
        let mut left = self.core.limits.write_bytes_per_connection;
        loop {
            let Some(conn) = self.core.conns.get_mut(id) else {
                return;
            };
            let piece = conn.output.next(left);
            if piece.is_empty() || !conn.writable || conn.is_dead() {
                return;
            }
            self.core.stats.writes += 1;
            let asked = piece.len();
            match self.backend.write(conn.raw, piece) {
                Ok(n) => {
                    conn.writable = n == asked;
                    conn.output.advance(n, &mut self.core.spares);
                    if conn.phase == Phase::Closing {
                        conn.since = self.core.now;
                    }
                    left -= n;
                    self.core.stats.bytes_written += n as u64;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => conn.writable = false,
                    ErrorKind::Interrupted => {}
                    kind => self.core.die(id, Reason::Lost(kind)),
                },
            }
        }
    }

    /// What follows from how much is left.
    fn after_write(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        if conn.is_dead() {
            return;
        }
        let left = conn.output.len();
        if left > 0 && conn.writable {
            self.core.soil(id);
        } else if left == 0 {
            self.flushed(id);
        }
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        if conn.congested && left <= conn.marks.low_bytes {
            conn.congested = false;
            conn.congestion_told = false;
            self.call_open(id, |protocol, cx| protocol.resume_producing(cx));
        }
    }

    /// Nothing is left to send: do what waited for that.
    fn flushed(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        let closing = conn.phase == Phase::Closing;
        if !closing && !conn.fin_wanted {
            return;
        }
        if conn.ended {
            self.core.die(id, self.core.clean_end());
            return;
        }
        if !conn.fin_sent {
            conn.fin_sent = true;
            self.backend.shutdown_write(conn.raw);
        }
        if closing {
            conn.phase = Phase::Lingering;
            conn.since = self.core.now;
            self.core.arm(id);
            self.core.enqueue(id);
        }
    }
}
