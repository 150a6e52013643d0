//! One seed, from the founding to the judgement.
//!
//! ```text
//!   founding ─▶ safety: clients ask, things fail ─▶ liveness: all but one node are healed, and must answer soon
//!            ─▶ everything is healed ─▶ replicas are alike, nothing is leaked, all answers could have been so
//! ```
//!
//! A founding goes on although nodes stop at a failpoint, each once; all else that fails comes later.
//!
//! Whoever fails panics; the panic is caught here, with what was done in the world until then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use marline::failpoint::{self, Point};
use marline::odd::{self, Size};
#[cfg(feature = "planted")]
use marline::planted::{self, Bug};

use super::load::{self, CANARY, Counts, Load};
use super::nemesis::Nemesis;
use super::nemesis::kinds::Kind;
use super::sealed;
use super::swarm::{SECONDS, Swarm};
use super::timeline;
use super::watch::Watch;
use super::world::World;

/// How long everything may take to come to its place in the end.
const SETTLING: Duration = Duration::from_secs(240);
/// How long clients may wait for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Two of the longest election timeouts (10 ticks, and 10 for the rank), and the one in which whoever has just started
/// votes for nobody.
const LIVENESS: Duration = Duration::from_secs(5);
/// How long who led a shard may wait for what became of its entries there.
const FATES: Duration = Duration::from_secs(6);
/// Clients go on until so many commands were done...
const DONE: u64 = 1_000;
/// ... or so many times as long as they were to.
const TIMES_MAX: u64 = 6;
/// A run in which less was done has tested nothing.
const DONE_MIN: u64 = 100;

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    pub seed: u64,
    /// Faults that are left out, by number.
    pub without: BTreeSet<usize>,
    /// How many clients there are, if it is not what the seed draws.
    pub clients: Option<usize>,
    /// How long they go on.
    pub seconds: u64,
    /// The name of a bug that is planted.
    pub bug: Option<String>,
}

impl Orders {
    pub fn new(seed: u64) -> Orders {
        Orders {
            seed,
            without: BTreeSet::new(),
            clients: None,
            seconds: SECONDS,
            bug: None,
        }
    }

    /// The command that runs it.
    pub fn command(&self) -> String {
        let mut text = format!("scripts/sim --seed {}", self.seed);
        if let Some(clients) = self.clients {
            text.push_str(&format!(" --clients {clients}"));
        }
        if self.seconds != SECONDS {
            text.push_str(&format!(" --seconds {}", self.seconds));
        }
        if let Some(bug) = &self.bug {
            text.push_str(&format!(" --bugs={bug}"));
        }
        if !self.without.is_empty() {
            let numbers: Vec<String> = self.without.iter().map(usize::to_string).collect();
            text.push_str(&format!(" --without {}", numbers.join(",")));
        }
        text
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of everything that was delivered, and when.
    pub trace: u64,
    pub simulated_ns: u64,
    /// How many nodes there were.
    pub nodes: usize,
    pub counts: Counts,
    /// How many faults were drawn, and which happened how often.
    pub faults: usize,
    pub fired: BTreeMap<Kind, u64>,
    /// How often the nodes came to each point of their code, and how often one was stopped there.
    pub hits: BTreeMap<Point, u64>,
    pub kills: BTreeMap<Point, u64>,
}

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub why: String,
    /// What was done until then, drawn.
    pub timeline: String,
    /// How many faults were drawn until then.
    pub faults: usize,
    /// When, in simulated seconds.
    pub seconds: u64,
}

thread_local! {
    static DRAWN: RefCell<Option<(String, u64)>> = const { RefCell::new(None) };
    static WHY: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Called of a world in which somebody panics.
pub fn report(world: &World) {
    let seconds = world.net.now() / 1_000_000_000;
    DRAWN.set(Some((timeline::draw(world), seconds)));
}

/// Lets panics say nothing: they are told as failures of their seed.
pub fn quiet() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let said = info.payload_as_str().unwrap_or("a panic");
        WHY.set(Some(format!("{said}\n  at {place}")));
    }));
}

/// Runs what is ordered.
///
/// # Errors
/// Something was not as it must be.
pub fn run(orders: &Orders) -> Result<Outcome, Box<Failure>> {
    #[cfg(feature = "planted")]
    planted::plant(orders.bug.as_deref().and_then(Bug::named));
    let mut faults = 0;
    let ran = panic::catch_unwind(AssertUnwindSafe(|| play(orders, &mut faults)));
    ran.map_err(|_| {
        let (timeline, seconds) = DRAWN.take().unwrap_or_default();
        let why = WHY.take().unwrap_or_default();
        Box::new(Failure {
            why,
            timeline,
            faults,
            seconds,
        })
    })
}

fn play(orders: &Orders, faults: &mut usize) -> Outcome {
    let swarm = Swarm::draw(orders.seed);
    for size in Size::ALL {
        let odd = swarm.odd.iter().find(|(it, _)| *it == size);
        odd::set(size, odd.map(|(_, bytes)| *bytes));
    }
    let clients = orders.clients.unwrap_or(swarm.clients);
    let mut world = World::new(swarm.plan);
    let mut nemesis = Nemesis::new(&swarm, &orders.without, &mut world);
    nemesis.found(&mut world);
    let began = world.net.now();
    let mut load = Load::new(&swarm, clients);
    let mut watch = Watch::default();
    let mut end = began + orders.seconds * 1_000_000_000;
    let times = if orders.seconds < SECONDS {
        1
    } else {
        TIMES_MAX
    };
    let latest = began + times * orders.seconds * 1_000_000_000;
    while world.net.now() < end {
        nemesis.go_on(&mut world);
        *faults = nemesis.count();
        load.go_on(&mut world);
        watch.look(&mut world);
        if load.counts.done < DONE {
            end = latest.min(end.max(world.net.now() + 1_000_000_000));
        }
        let next = end
            .min(nemesis.next_at())
            .min(load.next_at())
            .min(watch.next_at());
        let time = next.saturating_sub(world.net.now()).max(1);
        world.within(Duration::from_nanos(time), World::take_news);
    }
    world.tell("everything is healed");
    nemesis.end_all(&mut world);
    if !swarm.moves {
        demand_majority(&mut world);
    }
    world.within(LAST_ANSWERS, |world| load.hear_all(world));
    load.end(&mut world);
    watch.look(&mut world);
    world.settle_within(SETTLING);
    world.agree();
    watch.look(&mut world);
    if let Err(why) = load.judge(&mut world) {
        panic!("{why}");
    }
    demand_clean(&mut world, nemesis.deaths());
    let counts = load.counts;
    let answered = counts.answered();
    assert!(
        orders.seconds < SECONDS || counts.done >= DONE_MIN && nemesis.count() > 0,
        "nothing was tested: {answered} answers, {counts:?}"
    );
    Outcome {
        trace: world.net.trace(),
        simulated_ns: world.net.now(),
        nodes: world.all().count(),
        counts,
        faults: nemesis.count(),
        fired: nemesis.fired.clone(),
        hits: failpoint::hits(),
        kills: failpoint::kills(),
    }
}

/// One of the nodes stays away, whatever was healed; all others answer for every shard within [`LIVENESS`]. Then it is
/// back.
fn demand_majority(world: &mut World) {
    let mut core = world.members();
    let outsider = core.swap_remove(world.net.random() as usize % core.len());
    match world.net.random() % 3 {
        0 => world.pause(outsider),
        1 => world.kill(outsider),
        _ => world.isolate(outsider),
    }
    demand_answers(world, &core);
    match world.is_up(outsider) {
        false => world.start(outsider),
        true if world.is_paused(outsider) => world.wake(outsider),
        true => world.heal(),
    }
}

/// Each of these nodes answers for every shard within [`LIVENESS`].
fn demand_answers(world: &mut World, nodes: &[usize]) {
    let end = world.net.now() + LIVENESS.as_nanos() as u64;
    for &node in nodes {
        for key in ["live-a", "live-b", "live-c", "live-d"] {
            let mut answer = world.ask(node, &format!("SET {key} {node}"));
            // Nothing was done, or the same may be done again: it may be asked again.
            let may_be_asked =
                |answer: &str| load::is_refusal(answer) || answer.starts_with("-UNKNOWN");
            while may_be_asked(&answer) && world.net.now() < end {
                world.pass(Duration::from_millis(50));
                answer = world.ask(node, &format!("SET {key} {node}"));
            }
            assert!(
                answer == "OK" && world.net.now() <= end,
                "SET {key} through node {node}, healed: {answer}"
            );
        }
    }
}

/// A node that has something under way, and what.
fn busy(world: &World) -> Option<(usize, Vec<(&'static str, usize)>)> {
    let of_node = |node| Some((node, world.node(node)?.underway()));
    let mut all = world.members().into_iter().filter_map(of_node);
    all.find(|(_, underway)| underway.iter().any(|(_, count)| *count > 0))
}

/// Nothing is leaked: neither sockets, nor what clients have asked for who are gone, nor, where files are sealed, what
/// is in them.
fn demand_clean(world: &mut World, deaths: usize) {
    world.hang_up();
    world.pass(Duration::from_secs(2));
    world.within(FATES, |world| busy(world).is_none());
    if let Some((node, what)) = busy(world) {
        panic!("node {node}: nobody waits for {what:?}");
    }
    let nodes = world.all().count();
    for node in world.members() {
        let sockets = world.sockets(node);
        // A listener, a link to each node and one from each, the one to itself among both; and what those left behind
        // who died without being heard, since there is no keepalive in this network.
        if sockets > 1 + 2 * nodes + 2 * deaths {
            let list = world.ask(node, "CLIENT LIST");
            panic!("node {node} has {sockets} sockets open: {list}");
        }
        if !world.plan().is_sealed {
            continue;
        }
        for (name, bytes) in world.files(node) {
            let plain = memchr::memmem::find(&bytes, CANARY.as_bytes());
            assert!(
                plain.is_none(),
                "node {node}: {name} holds what it should seal"
            );
            if let Some((one, other)) = sealed::alike(&bytes) {
                panic!(
                    "node {node}: {name}: the records at {one} and {other} are sealed with one nonce"
                );
            }
        }
    }
}
