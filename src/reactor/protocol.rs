//! What a server or client is made of: protocols, and the factories that build one for each connection.
//!
//! **The life of a protocol.** `connection_made`, then any number of the middle callbacks, then `connection_lost`,
//! exactly once and last. Callbacks never nest: a callback records what it wants on [`Cx::net`](super::app::Cx) and
//! the reactor acts in later phases of the turn. After `lose_connection` or `abort_connection` the only callback
//! still to come is `connection_lost`; what is written after them is dropped (and counted in
//! [`Stats::writes_dropped`](super::stats::Stats)).
//!
//! Deliberately absent: a `Deferred` (a callback that needs a later result keeps its [`ConnId`](super::id::ConnId)
//! and gets a [`message`](Protocol::message)), and errors as return values (a protocol that cannot go on says its last
//! words and loses the connection).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::app::{App, Cx};

/// One connection's behaviour.
pub trait Protocol<A: App> {
    /// The connection is up; it may be written to at once.
    fn connection_made(&mut self, _cx: &mut Cx<'_, A>) {}

    /// The next bytes of the stream, in any chunking, never empty. `data` is the reactor's shared buffer: copy what
    /// must outlive the call.
    fn data_received(&mut self, cx: &mut Cx<'_, A>, data: &[u8]);

    /// The peer will send nothing more. By default: flush what was written, then close, so that `nc -N` gets every
    /// reply. A protocol that still waits for results overrides this and loses the connection when they are written.
    fn read_closed(&mut self, cx: &mut Cx<'_, A>) {
        cx.net.lose_connection();
    }

    /// Our output passed the high-water mark during this turn. Stop producing, and usually
    /// [`pause_reading`](super::net::Net::pause_reading): the reactor does not stop reading by itself. Each call is
    /// followed by one `resume_producing`, unless the connection closes first.
    fn pause_producing(&mut self, _cx: &mut Cx<'_, A>) {}

    /// Our output has drained to the low-water mark or below.
    fn resume_producing(&mut self, _cx: &mut Cx<'_, A>) {}

    /// Nothing was received for the time given to [`set_timeout`](super::net::Net::set_timeout). By default the
    /// connection is aborted, and `connection_lost` hears [`Reason::TimedOut`]. A protocol that stays gets the next
    /// call one timeout later.
    fn timed_out(&mut self, cx: &mut Cx<'_, A>) {
        cx.net.abort_connection();
    }

    /// Somebody [posted](super::net::Net::post) to this connection.
    fn message(&mut self, _cx: &mut Cx<'_, A>, _message: A::Message) {}

    /// The connection is gone. Exactly once for every `connection_made`, and the last callback.
    fn connection_lost(&mut self, _cx: &mut Cx<'_, A>, _reason: &Reason) {}
}

/// Builds a protocol for each connection of a port or a connector.
pub trait Factory<A: App> {
    /// A connection from (or to) `peer` is there. `cx.net` already is that connection's, so its timeout and output
    /// limits may be set here. `None` refuses: the reactor asks [`refused`](Self::refused) for last words.
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, A>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<A>>>;

    /// Before the first connection of this factory's port or connector.
    fn start_factory(&mut self, _cx: &mut Cx<'_, A>) {}

    /// After the port stopped listening, or the connector made its last attempt.
    fn stop_factory(&mut self, _cx: &mut Cx<'_, A>) {}

    /// What to say to a connection refused because of a limit (this factory's own, or
    /// [`Limits::connections_max`](super::limits::Limits)) before it is closed. `None`: it is closed at once.
    fn refused(&mut self, _peer: SocketAddr) -> Option<&[u8]> {
        None
    }
}

/// A factory of outgoing connections, which also decides whether to dial again.
pub trait ClientFactory<A: App>: Factory<A> {
    /// The attempt number `tries` (from 1) came to nothing: refused, unreachable, unresolvable or timed out.
    fn connection_failed(&mut self, _app: &mut A, _reason: &Reason, _tries: u32) -> Retry {
        Retry::Stop
    }

    /// A connection that was made is gone; its protocol has heard `connection_lost`. `uptime`: how long it was up.
    fn client_connection_lost(
        &mut self,
        _app: &mut A,
        _reason: &Reason,
        _uptime: Duration,
    ) -> Retry {
        Retry::Stop
    }
}

/// What a connector does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the connector ends and its factory is stopped.
    Stop,
    /// Dial again after this long.
    After(Duration),
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A clean end: the peer closed, or we did, and everything written before was handed to the kernel.
    Done,
    /// The network failed: reset, broken pipe, refused, unreachable.
    Lost(io::ErrorKind),
    /// We aborted it; what was unsent is lost.
    Aborted,
    /// Its idle timeout, its connect timeout, or the deadline for flushing before a close passed.
    TimedOut,
    /// More output was waiting than [`OutputLimits::hard_bytes`](super::limits::OutputLimits).
    Overflow,
    /// The reactor stops.
    Stopped,
}
