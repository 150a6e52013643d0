//! The reactor: Twisted's `reactor`, `Protocol` and `Factory` on one thread, over epoll or kqueue (mio).
//!
//! It stands alone and knows nothing of keys or commands. An echo server:
//!
//! ```
//! use marline::reactor::app::{App, Cx};
//! use marline::reactor::limits::{Limits, ListenOptions};
//! use marline::reactor::mio_backend::MioBackend;
//! use marline::reactor::protocol::{Factory, Protocol};
//! use marline::reactor::Reactor;
//! use std::io::{Read, Write};
//! use std::net::{SocketAddr, TcpStream};
//!
//! struct Server;
//! impl App for Server {
//!     type Message = ();
//! }
//!
//! struct Echo;
//! impl Protocol<Server> for Echo {
//!     fn data_received(&mut self, cx: &mut Cx<'_, Server>, data: &[u8]) {
//!         cx.net.write(data);
//!     }
//! }
//! impl Factory<Server> for Echo {
//!     fn build_protocol(&mut self, _: &mut Cx<'_, Server>, _: SocketAddr) -> Option<Box<dyn Protocol<Server>>> {
//!         Some(Box::new(Echo))
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let mut reactor = Reactor::new(MioBackend::new()?, Server, Limits::default());
//!     let (_, addr) = reactor.listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap()), Box::new(Echo))?;
//!     let remote = reactor.remote();
//!     let client = std::thread::spawn(move || {
//!         let mut stream = TcpStream::connect(addr).unwrap();
//!         stream.write_all(b"hello").unwrap();
//!         let mut reply = [0; 5];
//!         stream.read_exact(&mut reply).unwrap();
//!         remote.call(|cx| cx.net.stop());
//!         reply
//!     });
//!     reactor.run()?;
//!     assert_eq!(&client.join().unwrap(), b"hello");
//!     Ok(())
//! }
//! ```
//!
//! # One turn
//!
//! poll (without waiting if work is queued) -> clock, once -> accept and dial, within a budget -> read, round-robin:
//! at most 64 KiB a connection and 256 KiB in all, the rest is first in the next turn -> messages and results of
//! threads that were there when the phase began -> timers due at the turn's start, by (deadline, order of arming) ->
//! [`App::commit`] -> flush, one write for all that a connection was given -> closes -> the state of a stop.
//!
//! Nothing a turn answers is on the wire before `commit` has run: what must be durable or replicated first is put
//! there, by the order of lines in [`Reactor::turn`] and not by a rule to remember.
//!
//! # Invariants
//!
//! - Callbacks never nest. A running protocol is taken out of its slot; what it says to others is recorded.
//! - `connection_lost` has one call site: exactly once for each `connection_made`, and last.
//! - A name (`ConnId`, `TimerId`, poll token) of something gone is a no-op, also when its slot has a new tenant.
//! - Each close has a deadline, each buffer a bound, each queue a budget a turn.
//! - A steady connection costs one `recv` and one `send` a turn, no `epoll_ctl`, no allocation.
//! - Time, randomness, sockets and threads come from the [`Backend`] only, so a simulated run is a function of its
//!   seed.
//!
//! # The rooms
//!
//! - [`app`], [`protocol`], [`net`]: what an application implements and what it is given. [`id`], [`limits`],
//!   [`stats`], [`timer`]: their nouns.
//! - [`line`](mod@line), [`reconnect`], [`policy`]: protocols and factories to build upon.
//! - [`backend`]: the seam; [`mio_backend`] and [`pool`] behind it, or [`sim`].
//! - `core`, `conn`, `output`: the state. `port`, `connector`, `input`, `flush`, `close`: the phases.
//!
//! Deliberately absent: a global reactor (there may be many, one per test), `Deferred`s and futures, UDP, processes,
//! signals (a thread that waits for them uses [`Remote`]), and TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::app::{App, Cx};
use self::backend::{Backend, Ready};
use self::core::Core;
use self::id::{ConnId, PortId};
use self::limits::{Limits, ListenOptions};
use self::net::Net;
use self::protocol::Factory;
use self::remote::{Inbox, Item, Remote};
use self::stats::Holdings;
use self::timer::{Entry, Nanos};

pub mod app;
pub mod backend;
mod close;
mod conn;
pub mod connector;
mod core;
mod flush;
pub mod id;
mod input;
pub mod limits;
pub mod line;
pub mod mio_backend;
pub mod net;
mod output;
pub mod policy;
pub mod pool;
mod port;
pub mod protocol;
pub mod reconnect;
pub mod remote;
pub mod sim;
mod sim_world;
pub mod stats;
pub mod timer;
mod turn;

/// Bytes of the read buffer that all connections share.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// A loop, its connections and the application they share.
pub struct Reactor<B: Backend, A: App> {
    backend: B,
    app: A,
    core: Core<A>,
    /// All connections are read into this one; taken out while a connection is read.
    read_buffer: Box<[u8]>,
    /// Kept between turns for their capacity.
    events: Vec<Ready>,
    names: Vec<ConnId>,
    due: Vec<Entry>,
    items: Vec<Item<A>>,
}

impl<B: Backend, A: App> Reactor<B, A> {
    /// A reactor at rest.
    pub fn new(mut backend: B, app: A, limits: Limits) -> Self {
        let mut core = Core::new(limits, Arc::new(Inbox::new(backend.waker())));
        core.now = backend.now();
        core.wall_ms = backend.wall_ms();
        Reactor {
            backend,
            app,
            core,
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            events: Vec::new(),
            names: Vec::new(),
            due: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Runs `call` as a callback, between turns, and reads the clock for it.
    pub fn with<R>(&mut self, call: impl FnOnce(&mut Cx<'_, A>) -> R) -> R {
        self.core.now = self.backend.now();
        self.core.wall_ms = self.backend.wall_ms();
        call(&mut self.cx(ConnId::NONE))
    }

    /// [`Net::listen`], between turns.
    pub fn listen(
        &mut self,
        options: &ListenOptions,
        factory: Box<dyn Factory<A>>,
    ) -> io::Result<(PortId, SocketAddr)> {
        self.with(|cx| cx.net.listen(options, factory))
    }

    /// Turns until stopped. The reactor may be run again afterwards.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn(None)? {}
        Ok(())
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// The application.
    pub fn app_mut(&mut self) -> &mut A {
        &mut self.app
    }

    /// The backend, for what a simulator or a test has to say to its own.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// When the next turn has something to do, if nothing happens before: now, a timer's time, or `None`. A
    /// simulation moves its clock to it.
    pub fn next_wake(&mut self) -> Option<Nanos> {
        let now = self.backend.now();
        if self.core.has_work() {
            Some(now)
        } else {
            self.core.timers.next_at().map(|at| at.max(now))
        }
    }

    /// What it holds now.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            connections: self.core.conns.len(),
            unsent_bytes: self.core.conns.unsent_bytes(),
            timers: self.core.timers.pending(),
            deferred: self.core.deferred.len(),
        }
    }

    /// A handle for other threads.
    pub fn remote(&self) -> Remote<A> {
        Remote::new(Arc::clone(&self.core.inbox))
    }

    /// What a callback of connection `me` is given.
    fn cx(&mut self, me: ConnId) -> Cx<'_, A> {
        Cx {
            app: &mut self.app,
            net: Net::new(&mut self.core, &mut self.backend, me),
        }
    }

    /// How long the next [`turn`](Self::turn) may wait for events: `None` for ever.
    fn wait(&mut self, wait_max: Option<Duration>) -> Option<Duration> {
        if self.core.has_work() {
            return Some(Duration::ZERO);
        }
        let Some(at) = self.core.timers.next_at() else {
            return wait_max;
        };
        let wait = Duration::from_nanos(at.saturating_sub(self.backend.now()));
        Some(wait_max.map_or(wait, |max| wait.min(max)))
    }
}
