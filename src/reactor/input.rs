//! The reading phase.
//!
//! Round-robin over the connections that have something to read: each gets one share of bytes a turn, and all together
//! one budget. Whoever has more keeps its place in the queue, so neither one loud connection nor many can keep the
//! others, or the rest of the turn, waiting.
//!
//! **When to stop.** A read that returned less than it asked for has emptied the socket: a further one would only cost
//! a system call to say so. The exception is a peer that has closed, whose end of stream only a further read shows.

use std::io::ErrorKind;

use super::Reactor;
use super::app::App;
use super::backend::Backend;
use super::conn::Phase;
use super::id::ConnId;
use super::protocol::Reason;

/// How a read went.
enum Outcome {
    /// So many bytes, in the buffer.
    Data(usize),
    /// The end of the stream.
    End,
    /// Nothing for now.
    Nothing,
    /// Try again at once.
    Again,
    /// The connection failed.
    Failed(ErrorKind),
}

impl<B: Backend, A: App> Reactor<B, A> {
    pub(super) fn read_ready(&mut self) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut left = self.core.limits.read_bytes_per_turn;
        for _ in 0..self.core.ready.len() {
            if left == 0 {
                break;
            }
            let Some(id) = self.core.ready.pop_front() else {
                break;
            };
            if let Some(conn) = self.core.conns.get_mut(id) {
                conn.queued = false;
                let share = left.min(self.core.limits.read_bytes_per_connection);
                left -= self.read_one(id, &mut buffer, share);
                self.core.enqueue(id);
            }
        }
        self.read_buffer = buffer;
    }

    /// Reads at most `share` bytes from one connection; how many it was.
    fn read_one(&mut self, id: ConnId, buffer: &mut [u8], share: usize) -> usize {
        let mut left = share;
        while left > 0 {
            let asked = left.min(buffer.len());
            match self.try_read(id, &mut buffer[..asked]) {
                None => break,
                Some(Outcome::Data(n)) => {
                    left -= n;
                    self.take_input(id, &buffer[..n]);
                }
                Some(Outcome::End) => self.end_input(id),
                Some(Outcome::Failed(kind)) => self.fail_input(id, kind),
                Some(Outcome::Nothing | Outcome::Again) => {}
            }
        }
        share - left
    }

    /// One read, and what it says about the next. `None`: not worth a read.
    fn try_read(&mut self, id: ConnId, into: &mut [u8]) -> Option<Outcome> {
        let conn = self
            .core
            .conns
            .get_mut(id)
            .filter(|conn| conn.wants_read())?;
        self.core.stats.reads += 1;
        let outcome = match self.backend.read(conn.raw, into) {
            Ok(0) => Outcome::End,
            Ok(n) => Outcome::Data(n),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Outcome::Nothing,
                ErrorKind::Interrupted => Outcome::Again,
                kind => Outcome::Failed(kind),
            },
        };
        match outcome {
            Outcome::Data(n) => {
                conn.readable = n == into.len() || conn.peer_closed;
                self.core.stats.bytes_read += n as u64;
            }
            Outcome::End => conn.ended = true,
            Outcome::Nothing => conn.readable = false,
            Outcome::Again | Outcome::Failed(_) => {}
        }
        Some(outcome)
    }

    fn take_input(&mut self, id: ConnId, data: &[u8]) {
        let now = self.core.now;
        let Some(conn) = self.core.conns.get_mut(id) else {
            return;
        };
        if conn.phase == Phase::Lingering {
            conn.discarded += data.len();
            if conn.discarded > self.core.limits.linger_bytes {
                self.core.die(id, self.core.clean_end());
            }
            return;
        }
        conn.since = now;
        self.call(id, |protocol, cx| protocol.data_received(cx, data));
    }

    fn end_input(&mut self, id: ConnId) {
        let Some(conn) = self.core.conns.get(id) else {
            return;
        };
        if conn.phase == Phase::Lingering {
            self.core.die(id, self.core.clean_end());
            return;
        }
        self.call(id, |protocol, cx| protocol.read_closed(cx));
        // Both directions have ended: nothing is left to wait for.
        if self
            .core
            .conns
            .get(id)
            .is_some_and(|conn| conn.phase == Phase::Open && conn.fin_sent)
        {
            self.core.die(id, Reason::Done);
        }
    }

    fn fail_input(&mut self, id: ConnId, kind: ErrorKind) {
        let lingering = self
            .core
            .conns
            .get(id)
            .is_some_and(|conn| conn.phase == Phase::Lingering);
        let reason = if lingering {
            self.core.clean_end()
        } else {
            Reason::Lost(kind)
        };
        self.core.die(id, reason);
    }
}
