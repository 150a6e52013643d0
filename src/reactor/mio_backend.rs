//! The backend of production: epoll or kqueue through mio, the kernel's clocks, real threads.
//!
//! Each stream is registered once, for reading and writing, when it is accepted or dialed, and never again: no
//! `epoll_ctl` in the steady state. Sockets are set up with socket2 where mio and std fix or hide an option: the
//! listen backlog, keepalive (which accepted sockets inherit from their listener), and the abortive close.
//!
//! One descriptor on `/dev/null` is kept in reserve for [`Backend::shed`].
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the clocks"
)]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, warn};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::backend::{AcceptError, Backend, Job, Lane, Lookup, Raw, Ready, Wake};
use super::limits::ListenOptions;
use super::pool::Pool;
use super::timer::Nanos;

/// The waker's token: no port or connection has this name.
const WAKER: Token = Token(usize::MAX);

/// Events fetched by one poll.
const EVENTS_MAX: usize = 1024;

/// Threads of the pool unless said otherwise.
const THREADS: usize = 4;

const _: () = assert!(
    usize::BITS == 64,
    "a poll token holds a slot and its generation"
);

enum Sock {
    Stream(TcpStream),
    Listener(TcpListener),
}

/// The kernel.
pub struct MioBackend {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    socks: Slab<Sock>,
    spare: Option<File>,
    pool: Pool,
    disk: Pool,
    rng: fastrand::Rng,
    origin: Instant,
}

impl MioBackend {
    /// A backend with four threads and a seed from the kernel.
    pub fn new() -> io::Result<Self> {
        let seed = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        MioBackend::with_threads(THREADS, seed)
    }

    /// A backend with so many threads in its pool, whose random numbers come from `seed`.
    pub fn with_threads(threads: usize, seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(MioBackend {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            socks: Slab::new(),
            spare: open_spare(),
            pool: Pool::new("pool", threads),
            disk: Pool::new("disk", 1),
            rng: fastrand::Rng::with_seed(seed),
            origin: Instant::now(),
        })
    }

    fn stream(&self, raw: Raw) -> io::Result<&TcpStream> {
        match self.socks.get(raw) {
            Some(Sock::Stream(stream)) => Ok(stream),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn accept_stream(&self, listener: Raw) -> Result<(TcpStream, SocketAddr), AcceptError> {
        let Some(Sock::Listener(listener)) = self.socks.get(listener) else {
            return Err(AcceptError::Broken(ErrorKind::NotConnected.into()));
        };
        listener.accept().map_err(accept_error)
    }
}

impl Backend for MioBackend {
    fn poll(&mut self, wait: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            let failed = event.is_error();
            ready.push(Ready {
                token: event.token().0 as u64,
                readable: event.is_readable() || failed,
                writable: event.is_writable() || failed,
                closed: event.is_read_closed() || failed,
            });
        }
        Ok(())
    }

    fn now(&mut self) -> Nanos {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wall_ms(&mut self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&mut self) -> u64 {
        self.rng.u64(..)
    }

    fn listen(&mut self, options: &ListenOptions, token: u64) -> io::Result<(Raw, SocketAddr)> {
        let mut listener = TcpListener::from_std(bind(options)?);
        let addr = listener.local_addr()?;
        self.poll
            .registry()
            .register(&mut listener, Token(token as usize), Interest::READABLE)?;
        Ok((self.socks.insert(Sock::Listener(listener)), addr))
    }

    fn accept(&mut self, listener: Raw) -> Result<(Raw, SocketAddr), AcceptError> {
        let (stream, peer) = self.accept_stream(listener)?;
        set_nodelay(&stream);
        Ok((self.socks.insert(Sock::Stream(stream)), peer))
    }

    fn shed(&mut self, listener: Raw) -> Result<(), AcceptError> {
        if self.spare.take().is_none() {
            self.spare = open_spare();
            return if self.spare.is_some() {
                self.shed(listener)
            } else {
                Err(AcceptError::Exhausted)
            };
        }
        let accepted = self.accept_stream(listener).map(drop);
        self.spare = open_spare();
        accepted
    }

    fn connect(&mut self, to: SocketAddr, token: u64) -> io::Result<Raw> {
        let mut stream = TcpStream::connect(to)?;
        self.poll.registry().register(
            &mut stream,
            Token(token as usize),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        set_nodelay(&stream);
        Ok(self.socks.insert(Sock::Stream(stream)))
    }

    fn connect_result(&mut self, stream: Raw) -> io::Result<()> {
        let stream = self.stream(stream)?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                Err(ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error),
        }
    }

    fn register(&mut self, stream: Raw, token: u64) -> io::Result<()> {
        match self.socks.get_mut(stream) {
            Some(Sock::Stream(stream)) => self.poll.registry().register(
                stream,
                Token(token as usize),
                Interest::READABLE | Interest::WRITABLE,
            ),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn host(&self, stream: Raw) -> io::Result<SocketAddr> {
        self.stream(stream)?.local_addr()
    }

    fn read(&mut self, stream: Raw, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream(stream)?;
        stream.read(into)
    }

    fn write(&mut self, stream: Raw, from: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream(stream)?;
        stream.write(from)
    }

    fn shutdown_write(&mut self, stream: Raw) {
        if let Err(error) = self
            .stream(stream)
            .and_then(|stream| stream.shutdown(Shutdown::Write))
        {
            debug!("shutdown: {error}");
        }
    }

    fn close(&mut self, socket: Raw, reset: bool) {
        // Closing the descriptor takes it out of epoll: it has no duplicates.
        if let Some(Sock::Stream(stream)) = self.socks.try_remove(socket)
            && reset
            && let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        {
            debug!("abortive close: {error}");
        }
    }

    fn spawn(&mut self, lane: Lane, job: Job) {
        match lane {
            Lane::Pool => self.pool.spawn(job),
            Lane::Disk => self.disk.spawn(job),
        }
    }

    fn lookup(&mut self, name: &str) -> Lookup {
        let name = name.to_owned();
        Box::new(move || Ok(name.to_socket_addrs()?.collect()))
    }

    fn waker(&self) -> Wake {
        let waker = Arc::clone(&self.waker);
        Arc::new(move || {
            if let Err(error) = waker.wake() {
                warn!("waking the reactor: {error}");
            }
        })
    }
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn set_nodelay(stream: &TcpStream) {
    // Fails on a connection that is dead already; reading will say so.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY: {error}");
    }
}

fn bind(options: &ListenOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(options.addr),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if options.keepalive_secs > 0 {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(Duration::from_secs(options.keepalive_secs)),
        )?;
    }
    socket.bind(&options.addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// The POSIX numbers that std has no stable kinds for.
fn accept_error(error: io::Error) -> AcceptError {
    const EPERM: i32 = 1;
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::WouldBlock, _) => AcceptError::Empty,
        (ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted, _) => {
            AcceptError::Aborted
        }
        // A packet filter refused this one.
        (_, Some(EPERM)) => AcceptError::Aborted,
        (_, Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)) => AcceptError::Exhausted,
        _ => AcceptError::Broken(error),
    }
}
