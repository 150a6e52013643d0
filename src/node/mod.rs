//! A node: where sessions, keys and time meet.
//!
//! [`Node`] is the state that all sessions of a reactor share; it does no I/O and reads no clock. The
//! rooms, in the order in which a `SET k v` visits them:
//!
//! - [`session`]: bytes -> requests -> replies, in order, for one connection.
//! - [`dispatch`]: one request: may it run, run it, account for it.
//! - [`keyspace`]: the shards, and commands over several keys.
//!
//! Around them: [`client`] (the record of a connection), [`turn`] (what a command is run with),
//! [`transaction`], [`pubsub`], [`notify`]; and what people look at: [`clients`], [`info`], [`stats`],
//! [`slowlog`], [`latency`], [`monitor`], [`tail`], [`settings`], [`catalogue`], [`help`], [`server`], [`process`].
//!
//! Time: every command is stamped with [`Node::at_ms`], which never runs backwards, whatever the wall
//! clock does. Keys past their time are absent at once and removed by [`housekeeping`] soon.

pub mod ahead;
pub mod backup;
pub mod catalogue;
pub mod client;
pub mod clients;
pub mod cluster;
pub mod commit;
pub mod connection;
pub mod dispatch;
pub mod help;
pub mod info;
pub mod journal;
pub mod keys;
pub mod keyspace;
pub mod latch;
pub mod latency;
pub mod lcs;
pub mod monitor;
pub mod notify;
pub mod process;
pub mod propose;
pub mod pubsub;
pub mod recovery;
pub mod replies;
pub mod saving;
pub mod server;
pub mod session;
pub mod settings;
pub mod slowlog;
pub mod stats;
pub mod tail;
pub mod transaction;
pub mod turn;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::cluster::map::Map;
use crate::config::Options;
use crate::config::values::{Origin, Values};
use crate::data::files::{self, Files};
use crate::odd::{self, Size};
use crate::reactor::Reactor;
use crate::reactor::app::{App, Cx};
use crate::reactor::backend::Backend;
use crate::reactor::id::ConnId;
use crate::reactor::limits::{Limits, ListenOptions};
use crate::reactor::net::Net;
use crate::reactor::stats::Stats as ReactorStats;
use crate::reactor::timer::{Nanos, TimerId};
use crate::shard::TICK_NANOS;
use crate::store::HashSeed;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::Parser;

use client::Clients;
use cluster::Cluster;
use commit::Flight;
use commit::batches::Commits;
use journal::Journal;
use keyspace::{Keyspace, Touched};
use latch::Latches;
use latency::Latency;
use notify::Notify;
use pubsub::PubSub;
use recovery::{Loading, Progress};
use replies::Corks;
use saving::Saving;
use session::{Message, Sessions};
use slowlog::Slowlog;
use stats::{Meter, Stats};
use tail::Tails;
use transaction::Watches;
use turn::Turn;

/// The Redis version whose commands and replies these are; libraries look at it.
pub const REDIS_VERSION: &str = "7.0.15";

/// How often the node looks after itself: with every tick of raft, so that one which is idle wakes for both at once.
const HOUSEKEEPING: Duration = Duration::from_nanos(TICK_NANOS);
/// Shards that one round looks through for keys past their time, and small tables that it empties in each.
const SWEEP_SHARDS: usize = 4;
/// It looks at up to 64 times as many, each a cache miss: 8,192 in a round take about a millisecond, and ten
/// million keys have been looked through in under a second.
const SWEEP_TABLES_MAX: usize = 32;

/// A CLIENT PAUSE in force.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When it ends.
    pub until: Nanos,
    /// Whether it holds back reads too.
    pub all: bool,
    /// What ends it.
    pub alarm: TimerId,
}

/// Buffers that every batch uses and none owns.
#[derive(Default)]
struct Scratch {
    replies: Vec<u8>,
    passed_on: Vec<u8>,
    ranges: Vec<Range<usize>>,
    parser: Parser,
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// Writes are refused; what is under way is waited for.
    Asked,
    /// The log is closed.
    Closing,
}

/// The state of a node.
pub struct Node {
    keyspace: Keyspace,
    commits: Commits,
    flight: Flight,
    /// The cluster that this node is in, if it is in one.
    cluster: Option<Box<Cluster>>,
    latches: Latches,
    journal: Journal,
    saving: Saving,
    /// While data are being loaded.
    loading: Option<Loading>,
    /// Why the process must end with an error.
    fatal: Option<String>,
    stopping: Stopping,
    /// Where the data are, until they are loaded.
    files: Option<Files>,
    clients: Clients,
    pubsub: PubSub,
    watches: Watches,
    notify: Notify,
    touched: Touched,
    monitors: Vec<ConnId>,
    tails: Tails,
    pause: Option<Pause>,
    /// Clients whose replies wait for others.
    corks: Corks,
    /// Sessions that the pause holds back.
    held: Vec<ConnId>,
    stats: Stats,
    /// The reactor's counters at the last CONFIG RESETSTAT.
    stats_base: ReactorStats,
    meter: Meter,
    slowlog: Slowlog,
    latency: Latency,
    values: Values,
    options: Options,
    scratch: Scratch,
    hash_seed: HashSeed,
    at_ms: u64,
    started: Nanos,
    started_ms: u64,
    run_id: String,
    /// The name that lasts as long as the data.
    name: String,
    /// The map of the cluster that was found on the disk.
    known_map: Option<Map>,
    /// The version that it says to other nodes.
    peer_version: u32,
    seed: u64,
}

impl App for Node {
    type Message = Message;

    fn commit(cx: &mut Cx<'_, Node>) {
        commit::hand_over(cx);
        if cx.app.stopping != Stopping::No {
            go_on_stopping(cx);
        }
    }
}

impl Node {
    /// A node without keys; `seed` decides everything random about it.
    pub fn new(values: Values, options: Options, seed: u64) -> Node {
        let mut random = fastrand::Rng::with_seed(seed);
        let hash_seed = HashSeed(random.u64(..), random.u64(..));
        let run_id: String = (0..40)
            .map(|_| char::from_digit(random.u32(..16), 16).unwrap_or('0'))
            .collect();
        let keyspace = match options.is_alone() {
            true => Keyspace::new(options.shards, hash_seed),
            false => Keyspace::vacant(options.shards, hash_seed),
        };
        let mut node = Node {
            commits: Commits::new(keyspace.shards().len()),
            keyspace,
            flight: Flight::default(),
            cluster: None,
            latches: Latches::default(),
            journal: Journal::absent(),
            saving: Saving::absent(),
            loading: None,
            fatal: None,
            stopping: Stopping::No,
            files: None,
            clients: Clients::default(),
            pubsub: PubSub::default(),
            watches: Watches::default(),
            notify: Notify::default(),
            touched: Touched::default(),
            monitors: Vec::new(),
            tails: Tails::default(),
            pause: None,
            corks: Corks::default(),
            held: Vec::new(),
            stats: Stats::default(),
            stats_base: ReactorStats::default(),
            meter: Meter::default(),
            slowlog: Slowlog::default(),
            latency: Latency::default(),
            values: values.clone(),
            options: options.clone(),
            scratch: Scratch::default(),
            hash_seed,
            at_ms: 0,
            started: 0,
            started_ms: 0,
            name: run_id.clone(),
            known_map: None,
            peer_version: cluster::VERSION,
            run_id,
            seed,
        };
        node.adopt(values, options);
        node
    }

    /// One that says this version to other nodes: for tests of upgrades from one to the next.
    pub fn speaking(self, peer_version: u32) -> Node {
        Node {
            peer_version,
            ..self
        }
    }

    /// With its data in these files.
    pub fn with_files(self, files: Files) -> Node {
        Node {
            files: Some(files),
            ..self
        }
    }

    /// How far loading is, while there is any.
    fn loading_progress(&self) -> Option<&Progress> {
        self.loading.as_ref().map(|loading| &*loading.progress)
    }

    /// Writes since everything was last saved.
    fn unsaved_writes(&self) -> u64 {
        self.touched.writes.saturating_sub(self.saving.saved_writes)
    }

    /// When everything was last saved, unix milliseconds; without a disk, when the node started.
    pub fn last_save_ms(&self) -> u64 {
        match self.saving.files() {
            Some(_) => self.saving.saved_ms,
            None => self.started_ms,
        }
    }

    /// Takes over options that were read together.
    fn adopt(&mut self, values: Values, options: Options) {
        self.notify = Notify::parse(&options.notify);
        self.meter.each = options.slowlog_threshold_us.is_some_and(|us| us < 1_000)
            || options.latency_threshold_ms.is_some();
        self.values = values;
        self.options = options;
        self.update_recording();
    }

    /// Whether data are still being loaded.
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Why the process must end with an error.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Takes over how many shards the data are cut into.
    fn adopt_shards(&mut self, shards: u16) {
        if self.options.shards != shards {
            let origin = Origin::File(files::IDENTITY.to_owned(), 1);
            // What is in an identity has the form of the option: it was one.
            let _ = self.values.set("shards", &shards.to_string(), origin);
            self.options.shards = shards;
        }
    }

    /// A node that has nothing yet takes over into how many shards the cluster is cut.
    fn recut(&mut self, shards: u16) {
        let has_some = self.keyspace.replicas().next().is_some();
        if self.keyspace.count() == shards || has_some {
            return;
        }
        self.adopt_shards(shards);
        self.keyspace = Keyspace::vacant(shards, self.hash_seed);
        self.commits.set_shards(usize::from(shards) + 1);
        self.saving.begin_anew(&self.keyspace.numbers());
    }

    /// Moves the node's time to `wall_ms`, unless that lies behind.
    fn stamp(&mut self, wall_ms: u64) {
        self.at_ms = self.at_ms.max(wall_ms);
    }

    /// Changes to keys are recorded only while somebody wants to know.
    fn update_recording(&mut self) {
        self.touched.recording =
            self.notify.is_on() || !self.watches.is_empty() || self.is_wanted_elsewhere();
    }

    /// Whether another node wants to hear of changes to keys.
    fn is_wanted_elsewhere(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.spread.is_wanted())
    }

    fn end_pause(&mut self, net: &mut Net<'_, Node>) {
        if let Some(pause) = self.pause.take() {
            net.cancel(pause.alarm);
        }
        self.held
            .drain(..)
            .for_each(|conn| net.post(conn, Message::Resume));
    }

    /// Removes every trace of a client whose connection is gone.
    fn forget(&mut self, conn: ConnId) {
        let Some(client) = self.clients.remove(conn) else {
            return;
        };
        if let Some(subscriptions) = &client.subscriptions {
            self.pubsub.forget(subscriptions, conn);
        }
        if !client.watched.is_empty() {
            self.watches.forget(&client.watched, conn);
            self.update_recording();
        }
        if client.monitor {
            self.monitors.retain(|&monitor| monitor != conn);
        }
        self.tails.forget(conn);
        self.held.retain(|&held| held != conn);
    }
}

/// Stops a node in order: what is under way is made durable and answered first.
pub fn stop(node: &mut Node, net: &mut Net<'_, Node>) {
    if node.is_loading() || node.fatal.is_some() {
        return net.stop();
    }
    if node.stopping == Stopping::No {
        node.stopping = Stopping::Asked;
        while commit::answer::uncork(node, net) {}
    }
}

/// Goes on with a stop, when nothing is under way any more.
fn go_on_stopping(cx: &mut Cx<'_, Node>) {
    let is_at_rest =
        cx.app.commits.is_empty() && cx.app.flight.is_empty() && cx.app.journal.is_at_rest();
    match cx.app.stopping {
        Stopping::Asked if is_at_rest => {
            cx.app.stopping = Stopping::Closing;
            if !journal::close(cx) {
                cx.net.stop();
            }
        }
        Stopping::Closing if is_at_rest => cx.net.stop(),
        Stopping::Asked | Stopping::Closing if cx.app.journal.is_stuck() => {
            log::warn!("stopping without what there is no space for");
            cx.net.stop();
        }
        _ => {}
    }
}

/// Starts a node on `backend`; says which address it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub fn start<B: Backend>(backend: B, node: Node) -> io::Result<(Reactor<B, Node>, SocketAddr)> {
    let options = node.options.clone();
    let limits = Limits {
        connections_max: options.clients_max + 64,
        drain_ms: options.drain.as_millis() as u64,
        ..Limits::default()
    };
    let mut reactor = Reactor::new(backend, node, limits);
    let listen = ListenOptions {
        addr: options.address,
        backlog: options.backlog,
        keepalive_secs: options.keepalive.map_or(0, |time| time.as_secs()),
    };
    let (_, address) = reactor.listen(&listen, Box::new(Sessions))?;
    reactor.with(|cx| {
        cx.app.options.address = address;
        cx.app.started = cx.net.now();
        cx.app.started_ms = cx.net.wall_ms();
        cx.app.stamp(cx.net.wall_ms());
        cx.net.call_later(HOUSEKEEPING, housekeeping);
        match cx.app.files.take() {
            Some(files) => recovery::begin(cx, files),
            None => {
                let name = cx.app.name.clone();
                cluster::begin(cx, &name);
            }
        }
    });
    Ok((reactor, address))
}

/// Every 100 ms: keys past their time, memory left behind, samples for INFO, and what the cluster has to do.
fn housekeeping(cx: &mut Cx<'_, Node>) {
    cx.net.call_later(HOUSEKEEPING, housekeeping);
    cx.app.stamp(cx.net.wall_ms());
    journal::tend(cx);
    saving::tend(cx);
    // While data are loaded, the end of the log may be still to be applied, to keys that were alive then.
    let round = (cx.net.now() - cx.app.started) / TICK_NANOS;
    let is_to_sweep = round.is_multiple_of(odd::or(Size::SweepRounds, 1) as u64);
    if is_to_sweep && !cx.app.is_loading() {
        let at_ms = cx.app.at_ms;
        for _ in 0..SWEEP_SHARDS {
            cx.app
                .keyspace
                .sweep(at_ms, SWEEP_TABLES_MAX, &mut cx.app.touched);
        }
    }
    if cx.app.touched.recording {
        tell_swept(cx);
    }
    let dropped = cx.app.keyspace.take_dropped();
    if !dropped.is_empty() {
        cx.net.defer_to_thread(move || drop(dropped), |_, ()| {});
    }
    sample(cx);
    cluster::tick(cx);
}

/// Tells watchers and listeners of keys that were swept; no client is asking, so no reply is written.
fn tell_swept(cx: &mut Cx<'_, Node>) {
    let mut unread = Vec::new();
    let mut turn = Turn {
        node: cx.app,
        net: &mut cx.net,
        reply: Reply::new(&mut unread, Dialect::Resp2),
        me: ConnId::NONE,
        request_bytes: 0,
        quick: true,
        in_transaction: false,
        pushed: Vec::new(),
        serving: None,
    };
    notify::tell_touched(&mut turn);
}

fn sample(cx: &mut Cx<'_, Node>) {
    let per_second = 1_000 / HOUSEKEEPING.as_millis() as u64;
    let reactor = *cx.net.stats();
    let (used, at_ms) = (cx.app.keyspace.memory_bytes(), cx.app.at_ms);
    let stats = &mut cx.app.stats;
    // An exponential mean over about 1.6 s, as steady as Redis's mean of 16 samples.
    let smooth = |mean: u64, now: u64| (mean * 15 + now * per_second) / 16;
    stats.commands_per_second = smooth(
        stats.commands_per_second,
        stats.commands.saturating_sub(stats.commands_sampled),
    );
    stats.commands_sampled = stats.commands;
    stats.bytes_per_second = (
        smooth(
            stats.bytes_per_second.0,
            reactor.bytes_read.saturating_sub(stats.bytes_sampled.0),
        ),
        smooth(
            stats.bytes_per_second.1,
            reactor.bytes_written.saturating_sub(stats.bytes_sampled.1),
        ),
    );
    stats.bytes_sampled = (reactor.bytes_read, reactor.bytes_written);
    stats.memory_peak = stats.memory_peak.max(used);
    let turn_ms = reactor.turn_ns_last / 1_000_000;
    if cx
        .app
        .options
        .latency_threshold_ms
        .is_some_and(|threshold| turn_ms >= threshold)
    {
        cx.app.latency.record("turn", at_ms / 1000, turn_ms);
    }
}
