//! A connection's slot: its protocol, its output, and where it stands between birth and closing.
//!
//! ```text
//! Connecting -> Open -> Closing (flush) -> Lingering (our end said, wait for theirs) -> Dead
//!      |          |         |                   |                                        ^
//!      +----------+---------+-------------------+----------------------------------------+
//! ```
//!
//! A slot dies at once but is freed only in the closing phase at the end of a turn. An idle connection costs one slot
//! (below 200 bytes, which a test checks) and whatever its protocol keeps.

use std::net::SocketAddr;

use slab::Slab;

use super::app::App;
use super::backend::Raw;
use super::id::{ConnId, ConnectorId, GENERATION_MASK, PortId};
use super::limits::{Limits, OutputLimits};
use super::output::Output;
use super::protocol::{Protocol, Reason};
use super::timer::{NEVER, Nanos, after_ms};

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Our attempt is under way.
    Connecting,
    /// Its protocol hears and speaks.
    Open,
    /// Nothing more is read or written to it; what was written is flushed.
    Closing,
    /// Flushed, and told the end of our stream; input is thrown away until the peer's end.
    Lingering,
    /// To be closed at the end of the turn.
    Dead(Reason),
}

/// Who made a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Port(PortId),
    Connector(ConnectorId),
}

/// The protocol itself does not want input.
pub(super) const PAUSED_BY_PROTOCOL: u8 = 1;
/// A policy around it does not want input yet.
pub(super) const PAUSED_BY_POLICY: u8 = 2;

pub(super) struct Conn<A: App> {
    /// Taken out while one of its callbacks runs, so that callbacks cannot nest.
    pub(super) protocol: Option<Box<dyn Protocol<A>>>,
    pub(super) raw: Raw,
    pub(super) peer: SocketAddr,
    pub(super) origin: Origin,
    pub(super) phase: Phase,
    pub(super) output: Output,
    pub(super) marks: OutputLimits,
    /// When the phase began, or the last progress in it: input when open, output when closing.
    pub(super) since: Nanos,
    /// The idle timeout in nanoseconds; `NEVER` for none.
    pub(super) timeout: Nanos,
    /// When the heap entry comes round that watches this connection's deadlines; `NEVER` for none.
    pub(super) alarm_at: Nanos,
    /// When it came up, for a client's uptime.
    pub(super) made_at: Nanos,
    /// Bytes thrown away while lingering.
    pub(super) discarded: usize,
    generation: u32,
    /// Why reading rests: a set of `PAUSED_BY_`.
    pub(super) paused: u8,
    /// An edge said that there is input, and no read has found the end of it.
    pub(super) readable: bool,
    /// No write was short since the last edge.
    pub(super) writable: bool,
    /// The peer has closed: read on until the end shows, short reads or not.
    pub(super) peer_closed: bool,
    /// The end of the peer's stream was read.
    pub(super) ended: bool,
    /// Our stream is to end after the flush, while reading goes on.
    pub(super) fin_wanted: bool,
    /// The end of our stream was sent.
    pub(super) fin_sent: bool,
    /// In the queue of connections to read.
    pub(super) queued: bool,
    /// In the list of connections to flush.
    pub(super) dirty: bool,
    /// Output passed the high-water mark and has not drained to the low one.
    pub(super) congested: bool,
    /// Its protocol has been told so.
    pub(super) congestion_told: bool,
    /// `connection_made` was called.
    pub(super) made: bool,
    /// Has no protocol: it only hears that it is refused.
    pub(super) refused: bool,
}

impl<A: App> Conn<A> {
    pub(super) fn new(
        raw: Raw,
        peer: SocketAddr,
        origin: Origin,
        phase: Phase,
        marks: OutputLimits,
        now: Nanos,
    ) -> Self {
        Conn {
            protocol: None,
            raw,
            peer,
            origin,
            phase,
            output: Output::default(),
            marks,
            since: now,
            timeout: NEVER,
            alarm_at: NEVER,
            made_at: now,
            discarded: 0,
            generation: 0,
            paused: 0,
            readable: false,
            writable: phase != Phase::Connecting,
            peer_closed: false,
            ended: false,
            fin_wanted: false,
            fin_sent: false,
            queued: false,
            dirty: false,
            congested: false,
            congestion_told: false,
            made: false,
            refused: false,
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead(_))
    }

    /// May be written to.
    pub(super) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && !self.fin_wanted
    }

    /// A read would be worth its system call.
    pub(super) fn wants_read(&self) -> bool {
        let awake = match self.phase {
            Phase::Open => self.paused == 0,
            Phase::Lingering => true,
            _ => false,
        };
        awake && self.readable && !self.ended
    }

    /// When something has to happen to it if nothing else does.
    pub(super) fn deadline(&self, limits: &Limits, stopping: bool) -> Nanos {
        let linger_ms = if stopping {
            limits.linger_stopping_ms
        } else {
            limits.linger_ms
        };
        match self.phase {
            Phase::Connecting => after_ms(self.since, limits.connect_ms),
            Phase::Open => self.since.saturating_add(self.timeout),
            Phase::Closing => after_ms(self.since, limits.flush_ms),
            Phase::Lingering => after_ms(self.since, linger_ms),
            Phase::Dead(_) => NEVER,
        }
    }
}

/// All connections of a reactor.
pub(super) struct Conns<A: App> {
    slots: Slab<Conn<A>>,
    generation: u32,
}

impl<A: App> Conns<A> {
    pub(super) fn new() -> Self {
        Conns {
            slots: Slab::new(),
            generation: 0,
        }
    }

    /// Bytes of output that wait, of all of them.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.slots.iter().map(|(_, conn)| conn.output.len()).sum()
    }

    /// The next generation, of whatever kind of slot.
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        self.generation
    }

    pub(super) fn insert(&mut self, mut conn: Conn<A>) -> ConnId {
        conn.generation = self.next_generation();
        let generation = conn.generation;
        ConnId::new(self.slots.insert(conn), generation)
    }

    /// The name the next connection will get.
    pub(super) fn upcoming(&self) -> ConnId {
        ConnId::new(
            self.slots.vacant_key(),
            (self.generation + 1) & GENERATION_MASK,
        )
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn<A>> {
        self.slots
            .get(id.index())
            .filter(|conn| conn.generation == id.generation())
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn<A>> {
        self.slots
            .get_mut(id.index())
            .filter(|conn| conn.generation == id.generation())
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn<A>> {
        self.get(id)?;
        self.slots.try_remove(id.index())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The names of all connections, in slot order.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.slots
            .iter()
            .map(|(index, conn)| ConnId::new(index, conn.generation))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl App for Nothing {
        type Message = ();
    }

    #[test]
    fn a_slot_is_small() {
        let bytes = size_of::<Conn<Nothing>>();
        assert!(bytes <= 192, "{bytes} bytes");
    }

    #[test]
    fn a_name_dies_with_its_connection() {
        let mut conns = Conns::<Nothing>::new();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let origin = Origin::Port(PortId::new(0, 0));
        let new = || Conn::new(0, peer, origin, Phase::Open, OutputLimits::default(), 0);
        let first = conns.insert(new());
        assert!(conns.remove(first).is_some());
        let upcoming = conns.upcoming();
        let second = conns.insert(new());
        assert_eq!((upcoming, second.index()), (second, first.index()));
        assert!(
            conns.get(first).is_none()
                && conns.get_mut(first).is_none()
                && conns.remove(first).is_none()
        );
        assert!(conns.get(second).is_some());
    }
}
