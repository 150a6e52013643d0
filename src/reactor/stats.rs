//! What the reactor counts, since the start unless said otherwise, and what it holds. Plain numbers.

/// Counters of one reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Passes of the loop.
    pub turns: u64,
    /// The last turn's length without the wait for events, in nanoseconds.
    pub turn_ns_last: u64,
    /// The longest turn since [`Net::reset_turn_max`](super::net::Net::reset_turn_max), in nanoseconds.
    pub turn_ns_max: u64,
    /// Bytes received and handed to protocols.
    pub bytes_read: u64,
    /// Bytes handed to the kernel.
    pub bytes_written: u64,
    /// Calls to read.
    pub reads: u64,
    /// Calls to write.
    pub writes: u64,
    /// Incoming connections that got a protocol.
    pub accepted: u64,
    /// Incoming connections turned away: by a limit, by a factory, or for lack of descriptors.
    pub refused: u64,
    /// Outgoing connections made.
    pub connected: u64,
    /// Outgoing connection attempts that failed.
    pub connects_failed: u64,
    /// Connections closed, for whatever reason.
    pub closed: u64,
    /// Connections closed by a deadline.
    pub timed_out: u64,
    /// Connections closed because too much output waited.
    pub overflowed: u64,
    /// Writes to connections that were closing or gone.
    pub writes_dropped: u64,
    /// Poll events that named a connection no longer there.
    pub stale_events: u64,
    /// Jobs handed to the thread pool whose results have not come back yet (now, not since the start).
    pub jobs_pending: u64,
}

/// What a reactor holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Connections, in whatever phase.
    pub connections: usize,
    /// Bytes that wait to be handed to the kernel.
    pub unsent_bytes: usize,
    /// Calls that wait for their time.
    pub timers: usize,
    /// Callbacks that wait for a result of another thread.
    pub deferred: usize,
}
