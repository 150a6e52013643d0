//! One connection to one node: bytes of requests out, replies in, both by a deadline.
//!
//! Nothing is remembered of what was sent: whoever sends counts the replies. After an error the connection
//! is of no use, since what still comes in would answer the wrong command.
//!
//! [`dial`] and [`look`] are for every client that blocks, `marline cli` included.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::error::Cause;
use crate::wire::decode::{DecodeError, Decoder, Limits, Value};

const READ_BYTES: usize = 64 * 1024;
/// An address is given at least so long.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Connects to the first address of `name` that answers. All of them share the `timeout`; the time that it takes
/// to look the name up cannot be bounded and comes on top.
///
/// # Errors
/// The name has no address, or the error of the last address.
pub fn dial(name: impl ToSocketAddrs, timeout: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = name.to_socket_addrs()?.collect();
    let begun = Instant::now();
    let mut last = io::Error::new(ErrorKind::NotFound, "no address for this name");
    for (at, address) in addresses.iter().enumerate() {
        let waiting = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = timeout.saturating_sub(begun.elapsed()) / waiting;
        match TcpStream::connect_timeout(address, share.max(CONNECT_TIMEOUT_MIN)) {
            Ok(stream) if is_own_end(&stream)? => last = ErrorKind::ConnectionRefused.into(),
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the stream is connected to itself, as happens on a port of this machine where nobody listens and
/// which the kernel has just given to us.
fn is_own_end(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.local_addr()? == stream.peer_addr()?)
}

/// What can be seen of a connection on which nothing is expected, without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Nothing comes.
    Quiet,
    /// Something has come in.
    Input,
    /// The other side has hung up.
    Gone,
}

/// Looks at a connection on which nothing is expected.
pub fn look(stream: &TcpStream) -> Idle {
    let peeked = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut [0]));
    if stream.set_nonblocking(false).is_err() {
        return Idle::Gone;
    }
    match peeked {
        Ok(0) => Idle::Gone,
        Ok(_) => Idle::Input,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Idle::Quiet,
        Err(_) => Idle::Gone,
    }
}

/// Whether a read or a write merely came back to let us look around.
pub fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A connection of a [`Client`](super::Client).
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    buffer: Box<[u8]>,
    /// A reply that is not whole behind so many bytes is given up.
    reply_bytes_max: usize,
}

impl Connection {
    /// Connects to `node`, a name and a port.
    pub(super) fn open(
        node: &str,
        timeout: Duration,
        reply_bytes_max: usize,
    ) -> io::Result<Connection> {
        let limits = Limits {
            text_bytes_max: reply_bytes_max,
            ..Limits::default()
        };
        Ok(Connection {
            stream: dial(node, timeout)?,
            decoder: Decoder::new(limits),
            buffer: vec![0; READ_BYTES].into(),
            reply_bytes_max,
        })
    }

    /// Whether a request may be sent: the other side is there and has said nothing unasked.
    pub(super) fn is_usable(&self) -> bool {
        self.decoder.is_between_values() && look(&self.stream) == Idle::Quiet
    }

    /// Sends all of `bytes` within `timeout`.
    ///
    /// # Errors
    /// How many bytes went out, and why no more.
    pub(super) fn send(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), (usize, Cause)> {
        let begun = Instant::now();
        let mut sent = 0;
        while sent < bytes.len() {
            let written = left(begun, timeout).and_then(|left| {
                self.stream
                    .set_write_timeout(Some(left))
                    .and_then(|()| self.stream.write(&bytes[sent..]))
                    .map_err(Cause::Lost)
            });
            match written {
                Ok(0) => return Err((sent, Cause::Lost(ErrorKind::WriteZero.into()))),
                Ok(count) => sent += count,
                Err(Cause::Lost(error)) if is_pause(&error) => {}
                Err(why) => return Err((sent, why)),
            }
        }
        Ok(())
    }

    /// Waits for the next reply, which must be whole within `timeout`. Messages that answer nothing are dropped.
    pub(super) fn receive(&mut self, timeout: Duration) -> Result<Value, Cause> {
        let begun = Instant::now();
        let mut taken = 0;
        loop {
            match self.decoder.next_value() {
                Ok(Some(Value::Push(_))) => continue,
                Ok(Some(value)) => return Ok(value),
                Ok(None) if taken > self.reply_bytes_max => {
                    return Err(Cause::TooLong(self.reply_bytes_max));
                }
                Ok(None) => {}
                Err(DecodeError::TextTooLong) => return Err(Cause::TooLong(self.reply_bytes_max)),
                Err(error) => return Err(Cause::Unreadable(error)),
            }
            let left = left(begun, timeout)?;
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Cause::Lost)?;
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Cause::Lost(hung_up())),
                Ok(count) => {
                    taken += count;
                    self.decoder.feed(&self.buffer[..count]);
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(Cause::Lost(error)),
            }
        }
    }
}

/// What is left of `timeout`, never nothing.
fn left(begun: Instant, timeout: Duration) -> Result<Duration, Cause> {
    match timeout.saturating_sub(begun.elapsed()) {
        Duration::ZERO => Err(Cause::Late(timeout)),
        left => Ok(left),
    }
}

fn hung_up() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the node closed the connection")
}
