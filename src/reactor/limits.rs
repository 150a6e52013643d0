//! The reactor's limits, each with its unit in its name.

use std::net::SocketAddr;

/// What a reactor allows itself and its peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, incoming and outgoing; one more is refused. The process also needs the descriptors:
    /// `ulimit -n` should be at least this plus 64.
    pub connections_max: usize,
    /// Connections refused with last words that may linger at once; further ones are closed without a word.
    pub refusals_max: usize,
    /// Connections accepted in one turn.
    pub accepts_per_turn: usize,
    /// How long a port rests when the process is out of descriptors and none could be freed, in milliseconds.
    pub accept_retry_ms: u64,
    /// Bytes read from one connection in one turn.
    pub read_bytes_per_connection: usize,
    /// Bytes read from all connections in one turn; those left over come first in the next.
    pub read_bytes_per_turn: usize,
    /// Bytes written to one connection in one turn.
    pub write_bytes_per_connection: usize,
    /// Marks of a connection's output, unless it sets its own.
    pub output: OutputLimits,
    /// How long a closing connection may go without its peer taking a byte before it is aborted, in milliseconds.
    pub flush_ms: u64,
    /// How long a flushed and closing connection waits for the peer's end of stream, in milliseconds.
    pub linger_ms: u64,
    /// The same while the reactor stops, in milliseconds.
    pub linger_stopping_ms: u64,
    /// How much input a lingering connection throws away before it is closed regardless.
    pub linger_bytes: usize,
    /// How long a connection attempt may take, in milliseconds.
    pub connect_ms: u64,
    /// How long a graceful stop waits for connections to flush before it aborts them, in milliseconds.
    pub drain_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 65_536,
            refusals_max: 64,
            accepts_per_turn: 64,
            accept_retry_ms: 100,
            read_bytes_per_connection: 64 << 10,
            read_bytes_per_turn: 256 << 10,
            write_bytes_per_connection: 256 << 10,
            output: OutputLimits::default(),
            flush_ms: 5_000,
            linger_ms: 2_000,
            linger_stopping_ms: 200,
            linger_bytes: 256 << 10,
            connect_ms: 10_000,
            drain_ms: 10_000,
        }
    }
}

/// Marks of one connection's unsent output, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Above this the protocol hears `pause_producing`.
    pub high_bytes: usize,
    /// At or below this it hears `resume_producing`.
    pub low_bytes: usize,
    /// Above this the connection is aborted with [`Reason::Overflow`](super::protocol::Reason).
    pub hard_bytes: usize,
}

impl Default for OutputLimits {
    fn default() -> Self {
        OutputLimits {
            high_bytes: 64 << 10,
            low_bytes: 16 << 10,
            hard_bytes: 64 << 20,
        }
    }
}

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The address; port 0 asks for any free port.
    pub addr: SocketAddr,
    /// Connections that may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// Idle time before the kernel probes an accepted connection, in seconds; 0 never probes.
    pub keepalive_secs: u64,
}

impl ListenOptions {
    /// The usual options on `addr`: backlog 511, keepalive 300 s.
    pub fn new(addr: SocketAddr) -> Self {
        ListenOptions {
            addr,
            backlog: 511,
            keepalive_secs: 300,
        }
    }
}
