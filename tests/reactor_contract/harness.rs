//! Two reactors that talk to each other, on the kernel or in the simulator, and protocols that watch the contract
//! while they play their part.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use marline::reactor::Reactor;
use marline::reactor::app::{App, Cx};
use marline::reactor::backend::Backend;
use marline::reactor::id::ConnId;
use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::mio_backend::MioBackend;
use marline::reactor::protocol::{ClientFactory, Factory, Protocol, Reason, Retry};
use marline::reactor::sim::{Faults, SimBackend, SimNet};
use marline::reactor::timer::Nanos;

/// What happened, for the tests to look at.
#[derive(Default)]
pub struct Log {
    pub lines: Vec<String>,
    pub data: Vec<u8>,
    pub conns: Vec<ConnId>,
    pub lost: Vec<(ConnId, Reason)>,
    pub failed: Vec<(Reason, u32)>,
    pub commits: u64,
    pub retry: Option<Duration>,
    /// What the next commit does.
    pub at_commit: Option<Act>,
    /// The most bytes that came between two commits.
    pub turn_bytes_max: usize,
    committed_bytes: usize,
    depth: u32,
}

impl App for Log {
    type Message = String;

    fn commit(cx: &mut Cx<'_, Self>) {
        assert_eq!(cx.net.id(), ConnId::NONE);
        cx.app.commits += 1;
        cx.app.turn_bytes_max = cx
            .app
            .turn_bytes_max
            .max(cx.app.data.len() - cx.app.committed_bytes);
        cx.app.committed_bytes = cx.app.data.len();
        if let Some(act) = cx.app.at_commit.take() {
            act(cx);
        }
    }
}

pub type Act = Rc<dyn Fn(&mut Cx<'_, Log>)>;
pub type DataAct = Rc<dyn Fn(&mut Cx<'_, Log>, &[u8])>;

/// What a probe does in its callbacks, beside logging.
#[derive(Clone, Default)]
pub struct Acts {
    pub made: Option<Act>,
    pub data: Option<DataAct>,
    pub eof: Option<Act>,
    pub pause: Option<Act>,
    pub resume: Option<Act>,
    pub timed_out: Option<Act>,
    pub lost: Option<Act>,
}

impl Acts {
    pub fn made(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.made = Some(Rc::new(act));
        self
    }
    pub fn data(mut self, act: impl Fn(&mut Cx<'_, Log>, &[u8]) + 'static) -> Self {
        self.data = Some(Rc::new(act));
        self
    }
    pub fn eof(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.eof = Some(Rc::new(act));
        self
    }
    pub fn pause(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.pause = Some(Rc::new(act));
        self
    }
    pub fn resume(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.resume = Some(Rc::new(act));
        self
    }
    pub fn timed_out(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.timed_out = Some(Rc::new(act));
        self
    }
    pub fn lost(mut self, act: impl Fn(&mut Cx<'_, Log>) + 'static) -> Self {
        self.lost = Some(Rc::new(act));
        self
    }
}

/// Writes back what it hears.
pub fn echo() -> Acts {
    Acts::default().data(|cx, data| cx.net.write(data))
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    Unborn,
    Alive,
    Lost,
}

/// A protocol that asserts the order of its callbacks.
pub struct Probe {
    acts: Acts,
    life: Life,
    me: ConnId,
    paused: bool,
}

impl Probe {
    fn enter(&mut self, cx: &mut Cx<'_, Log>, name: &str, wanted: Life) {
        assert_eq!(self.life, wanted, "{name} out of order");
        assert_eq!(cx.app.depth, 0, "{name} inside another callback");
        assert!(
            wanted == Life::Unborn || cx.net.id() == self.me,
            "{name} for another connection"
        );
        assert!(
            name == "lost" || !cx.net.is_losing(),
            "{name} after the connection was lost"
        );
        cx.app.depth = 1;
        if name != "data" {
            cx.app.lines.push(name.to_owned());
        }
    }

    fn act(cx: &mut Cx<'_, Log>, act: Option<&Act>) {
        if let Some(act) = act {
            act(cx);
        }
        cx.app.depth = 0;
    }
}

impl Protocol<Log> for Probe {
    fn connection_made(&mut self, cx: &mut Cx<'_, Log>) {
        self.enter(cx, "made", Life::Unborn);
        self.life = Life::Alive;
        self.me = cx.net.id();
        cx.app.conns.push(self.me);
        Self::act(cx, self.acts.made.as_ref());
    }
    fn data_received(&mut self, cx: &mut Cx<'_, Log>, data: &[u8]) {
        self.enter(cx, "data", Life::Alive);
        assert!(!data.is_empty());
        cx.app.data.extend_from_slice(data);
        if let Some(act) = &self.acts.data {
            act(cx, data);
        }
        cx.app.depth = 0;
    }
    fn read_closed(&mut self, cx: &mut Cx<'_, Log>) {
        self.enter(cx, "eof", Life::Alive);
        match &self.acts.eof {
            Some(act) => act(cx),
            None => cx.net.lose_connection(),
        }
        cx.app.depth = 0;
    }
    fn pause_producing(&mut self, cx: &mut Cx<'_, Log>) {
        self.enter(cx, "pause", Life::Alive);
        assert!(!std::mem::replace(&mut self.paused, true), "paused twice");
        Self::act(cx, self.acts.pause.as_ref());
    }
    fn resume_producing(&mut self, cx: &mut Cx<'_, Log>) {
        self.enter(cx, "resume", Life::Alive);
        assert!(
            std::mem::replace(&mut self.paused, false),
            "resumed without a pause"
        );
        Self::act(cx, self.acts.resume.as_ref());
    }
    fn timed_out(&mut self, cx: &mut Cx<'_, Log>) {
        self.enter(cx, "timed_out", Life::Alive);
        match &self.acts.timed_out {
            Some(act) => act(cx),
            None => cx.net.abort_connection(),
        }
        cx.app.depth = 0;
    }
    fn message(&mut self, cx: &mut Cx<'_, Log>, message: String) {
        self.enter(cx, "message", Life::Alive);
        cx.app.lines.push(message);
        cx.app.depth = 0;
    }
    fn connection_lost(&mut self, cx: &mut Cx<'_, Log>, reason: &Reason) {
        self.enter(cx, "lost", Life::Alive);
        self.life = Life::Lost;
        cx.app.lost.push((self.me, *reason));
        Self::act(cx, self.acts.lost.as_ref());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_ne!(self.life, Life::Alive, "dropped without connection_lost");
        }
    }
}

/// Builds probes.
pub struct Probes {
    pub acts: Acts,
    pub refuse: Option<&'static [u8]>,
    pub built: Rc<Cell<u32>>,
}

impl Probes {
    pub fn boxed(acts: Acts) -> Box<Self> {
        Box::new(Probes {
            acts,
            refuse: None,
            built: Rc::default(),
        })
    }
}

impl Factory<Log> for Probes {
    fn build_protocol(
        &mut self,
        _: &mut Cx<'_, Log>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Log>>> {
        self.built.set(self.built.get() + 1);
        Some(Box::new(Probe {
            acts: self.acts.clone(),
            life: Life::Unborn,
            me: ConnId::NONE,
            paused: false,
        }))
    }
    fn start_factory(&mut self, cx: &mut Cx<'_, Log>) {
        cx.app.lines.push("start".into());
    }
    fn stop_factory(&mut self, cx: &mut Cx<'_, Log>) {
        cx.app.lines.push("stop".into());
    }
    fn refused(&mut self, _: SocketAddr) -> Option<&[u8]> {
        self.refuse
    }
}

impl ClientFactory<Log> for Probes {
    fn connection_failed(&mut self, app: &mut Log, reason: &Reason, tries: u32) -> Retry {
        app.failed.push((*reason, tries));
        app.retry.map_or(Retry::Stop, Retry::After)
    }
    fn client_connection_lost(&mut self, app: &mut Log, _: &Reason, _: Duration) -> Retry {
        app.lines.push("client lost".into());
        Retry::Stop
    }
}

/// Where a scenario plays.
pub trait Stage: Sized {
    type B: Backend;
    fn new() -> Self;
    fn backend(&self) -> Self::B;
    /// Time may move, to `wake` at most; false: nothing will ever happen any more.
    fn round(&self, wake: Option<Nanos>) -> bool;
    /// Time passes while nobody takes a turn.
    fn idle(&self, time: Duration);
    /// How long a turn may wait.
    fn patience(&self) -> Option<Duration>;
    /// Lets lookups of `name` find `addr`, if they would not by themselves.
    fn set_name(&self, _name: &str, _addr: SocketAddr) {}
    /// Deliveries are torn into small pieces and windows are small: scenarios with megabytes take less.
    const ROUGH: bool;
}

/// The kernel.
pub struct Kernel;

impl Stage for Kernel {
    type B = MioBackend;
    fn new() -> Self {
        Kernel
    }
    fn backend(&self) -> MioBackend {
        MioBackend::with_threads(2, 1).expect("a poll")
    }
    fn round(&self, _: Option<Nanos>) -> bool {
        true
    }
    #[expect(clippy::disallowed_methods, reason = "the kernel's time passes so")]
    fn idle(&self, time: Duration) {
        std::thread::sleep(time);
    }
    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_micros(500))
    }
    const ROUGH: bool = false;
}

/// The simulator.
pub struct Sim<const ROUGH_: bool>(SimNet);

impl<const ROUGH_: bool> Stage for Sim<ROUGH_> {
    type B = SimBackend;
    fn new() -> Self {
        Sim(SimNet::new(
            7,
            if ROUGH_ {
                Faults::rough()
            } else {
                Faults::calm()
            },
        ))
    }
    fn backend(&self) -> SimBackend {
        self.0.node()
    }
    fn round(&self, wake: Option<Nanos>) -> bool {
        self.0.advance(wake)
    }
    fn idle(&self, time: Duration) {
        self.0.pass(time);
    }
    fn patience(&self) -> Option<Duration> {
        None
    }
    fn set_name(&self, name: &str, addr: SocketAddr) {
        self.0.set_name(name, &[addr]);
    }
    const ROUGH: bool = ROUGH_;
}

/// A server's reactor and a client's.
pub struct Play<S: Stage> {
    pub stage: S,
    pub server: Reactor<S::B, Log>,
    pub client: Reactor<S::B, Log>,
    /// The server completed a stop.
    pub stopped: bool,
}

pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Backend time after which a scenario has failed.
const TOO_LONG: Duration = Duration::from_secs(20);

impl<S: Stage> Play<S> {
    pub fn new() -> Self {
        Play::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        let stage = S::new();
        let server = Reactor::new(stage.backend(), Log::default(), limits);
        let client = Reactor::new(stage.backend(), Log::default(), Limits::default());
        Play {
            stage,
            server,
            client,
            stopped: false,
        }
    }

    pub fn listen(&mut self, acts: Acts) -> SocketAddr {
        self.server
            .listen(&ListenOptions::new(ANY), Probes::boxed(acts))
            .expect("to listen")
            .1
    }

    pub fn connect(&mut self, addr: SocketAddr, acts: Acts) {
        self.client
            .with(|cx| cx.net.connect(addr, Probes::boxed(acts)));
    }

    /// Time moves to what comes next, and each takes a turn; false when nothing will ever happen any more.
    pub fn round(&mut self) -> bool {
        let wakes = [self.server.next_wake(), self.client.next_wake()];
        let more = self.stage.round(wakes.into_iter().flatten().min());
        let wait = self.stage.patience();
        self.stopped |= !self.server.turn(wait).expect("a turn");
        self.client.turn(wait).expect("a turn");
        more
    }

    pub fn now(&mut self) -> Nanos {
        self.server.backend_mut().now()
    }

    /// Plays until `done`.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now() + TOO_LONG.as_nanos() as u64;
        while !done(self) {
            let more = self.round();
            let more = more || done(self);
            let (server, client) = (&self.server.app().lines, &self.client.app().lines);
            assert!(
                more,
                "at rest before {what}: server {server:?} client {client:?}"
            );
            assert!(self.now() < end, "too long before {what}");
        }
    }

    /// Lets the client do what it has to do while the server does not look.
    pub fn client_alone(&mut self) {
        for _ in 0..20 {
            self.client.turn(Some(Duration::ZERO)).expect("a turn");
            self.stage.idle(Duration::from_millis(5));
        }
    }

    /// Plays for so long.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now() + time.as_nanos() as u64;
        self.server.with(|cx| cx.net.call_later(time, |_| ()));
        while self.now() < end && self.round() {}
    }

    /// Plays until nobody is connected, and checks that nothing is left over.
    pub fn until_empty(&mut self) {
        self.until("all connections are gone", |play| {
            play.server.with(|cx| cx.net.connections())
                + play.client.with(|cx| cx.net.connections())
                == 0
        });
        for app in [self.server.app(), self.client.app()] {
            assert_eq!(
                app.conns.len(),
                app.lost.len(),
                "each made connection is lost exactly once"
            );
            let mut lost: Vec<ConnId> = app.lost.iter().map(|lost| lost.0).collect();
            lost.sort_unstable();
            lost.dedup();
            assert_eq!(lost.len(), app.lost.len(), "no connection is lost twice");
        }
    }

    pub fn server_reason(&self) -> Option<Reason> {
        self.server.app().lost.last().map(|lost| lost.1)
    }

    pub fn client_reason(&self) -> Option<Reason> {
        self.client.app().lost.last().map(|lost| lost.1)
    }
}

/// Bytes that show when their order changes.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at % 251) as u8 ^ (at / 251) as u8)
        .collect()
}

/// How much, by stage.
pub fn amount<S: Stage>(bytes: usize) -> usize {
    if S::ROUGH { bytes / 100 } else { bytes }
}
