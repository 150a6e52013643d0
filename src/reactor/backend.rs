//! The only seam to the operating system.
//!
//! Everything above it (fairness, flushing, timers, closing, line parsing) is one loop over two backends: the
//! [`MioBackend`](super::mio_backend::MioBackend) of production and the [`SimBackend`](super::sim::SimBackend) of the
//! simulator. The verbs are few and are those of a non-blocking TCP stack.
//!
//! **The contract of readiness is edge-triggered.** [`Backend::poll`] reports a *change*. After a readable edge the
//! loop may stop reading only when a read returned less than it asked for, or `WouldBlock`; and when the edge said
//! `closed`, only at the end of the stream or an error. After a write that was short or would block, a writable edge
//! follows. A freshly registered stream counts as writable, and a readable edge follows if input is waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::limits::ListenOptions;
use super::timer::Nanos;

/// A backend's handle of a socket. It is valid from birth to [`Backend::close`], and reused afterwards.
pub type Raw = usize;

/// Which threads a job runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Any of several: jobs may overtake each other.
    Pool,
    /// One thread of its own, for what waits for a disk: jobs run one after the other, in order.
    Disk,
}

/// Work for another thread. It carries its own way back.
pub type Job = Box<dyn FnOnce() + Send>;

/// Ends the current or next wait of the reactor; callable from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Looks up a host name; blocking, so it runs as a [`Job`].
pub type Lookup = Box<dyn FnOnce() -> io::Result<Vec<SocketAddr>> + Send>;

/// One readiness change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// As given to [`Backend::register`], [`Backend::listen`] or [`Backend::connect`].
    pub token: u64,
    /// Input, end of input or an error waits.
    pub readable: bool,
    /// Output space or an error waits; for a connecting stream, its result.
    pub writable: bool,
    /// The peer has closed its direction, or the connection failed.
    pub closed: bool,
}

/// Why no connection was accepted.
#[derive(Debug)]
pub enum AcceptError {
    /// Nobody is waiting: wait for the next edge.
    Empty,
    /// This one died while it waited: try the next.
    Aborted,
    /// The process or the system is out of descriptors or buffers.
    Exhausted,
    /// The listening socket itself is broken.
    Broken(io::Error),
}

/// A non-blocking TCP stack, a clock, a source of randomness, and threads.
pub trait Backend: 'static {
    /// Waits until something is ready, `wait` has passed (`None`: for ever) or the [`Wake`] is called, and appends
    /// what is ready. It may return early with nothing.
    fn poll(&mut self, wait: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()>;

    /// Nanoseconds of a clock that never steps, from an origin of the backend's choosing.
    fn now(&mut self) -> Nanos;

    /// Milliseconds since 1970-01-01 UTC; may step.
    fn wall_ms(&mut self) -> u64;

    /// 64 random bits from the backend's seeded generator; not for secrets.
    fn random(&mut self) -> u64;

    /// Binds and listens, registered with `token`; says which address it got.
    fn listen(&mut self, options: &ListenOptions, token: u64) -> io::Result<(Raw, SocketAddr)>;

    /// The next waiting connection, not yet registered.
    fn accept(&mut self, listener: Raw) -> Result<(Raw, SocketAddr), AcceptError>;

    /// After [`AcceptError::Exhausted`]: gets rid of one waiting connection with a descriptor kept for that purpose.
    /// `Empty` when nobody was waiting, `Exhausted` when there was no descriptor to do it with.
    fn shed(&mut self, listener: Raw) -> Result<(), AcceptError>;

    /// Begins to connect, registered with `token`. A writable edge announces the result.
    fn connect(&mut self, to: SocketAddr, token: u64) -> io::Result<Raw>;

    /// How a connection attempt ended; `WouldBlock` when it has not.
    fn connect_result(&mut self, stream: Raw) -> io::Result<()>;

    /// Asks for the edges of an accepted stream, once and for all of them.
    fn register(&mut self, stream: Raw, token: u64) -> io::Result<()>;

    /// The local address of a stream.
    fn host(&self, stream: Raw) -> io::Result<SocketAddr>;

    /// Reads what is there; 0 is the end of the stream.
    fn read(&mut self, stream: Raw, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what fits.
    fn write(&mut self, stream: Raw, from: &[u8]) -> io::Result<usize>;

    /// Ends our direction; what was written before still arrives.
    fn shutdown_write(&mut self, stream: Raw);

    /// Closes any socket; with `reset` the peer hears of an abort and unsent bytes are dropped.
    fn close(&mut self, socket: Raw, reset: bool);

    /// Runs `job` elsewhere, some time.
    fn spawn(&mut self, lane: Lane, job: Job);

    /// How to look up `name`, which is `host:port`.
    fn lookup(&mut self, name: &str) -> Lookup;

    /// What other threads call after leaving something for the reactor.
    fn waker(&self) -> Wake;
}
