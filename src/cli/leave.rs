//! `marline leave`: a node leaves its cluster, and somebody looks on.
//!
//! ```text
//!   CLUSTER MYID, MAP      of the node: who it is, and who the others are
//!   CLUSTER MAP            of one other, to see that it has not left already
//!   CLUSTER LEAVE          of the node: the cluster has agreed that it goes
//!   CLUSTER MAP            of one other after the other, until the node is not in it
//! ```
//!
//! The node itself is not asked how far it is: it is a member like any other until it holds nothing, and nobody tells
//! it when it is none any more. The others are asked in turn, and the latest map counts, since one of them may be cut
//! off, or gone. The cluster goes through with it whether somebody looks on or not, so that this can be interrupted,
//! and said again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::link::{Link, LinkError, Target};
use super::members::{self, PATIENCE};
use super::options::{self, Leave, Mode, Options, Parsed};
use super::{EXIT_ERROR, EXIT_OK, EXIT_USAGE, Failure, error_line, print};
use crate::cluster::map::{Map, NodeId, shown};

/// How long the cluster may take to agree; a node answers sooner, be it with an error.
const AGREEMENT: Duration = Duration::from_secs(60);
/// How often it is tried again when nobody knows whether it was agreed on. Once more does no harm.
const TRIES: usize = 3;
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// When nothing moves for so long, this is told.
const STILL: Duration = Duration::from_secs(30);
/// When no other member answers for so long, it is given up.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs the tool with the arguments after `marline leave` and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    match options::parse_leave(args, |name| std::env::var(name).ok()) {
        Ok(Parsed::Help(text)) => print(text.as_bytes()).map_or(EXIT_ERROR, |()| EXIT_OK),
        Ok(Parsed::Run(options)) => {
            let Mode::Leave(what) = &options.mode else {
                return EXIT_USAGE;
            };
            leave(&options, what).unwrap_or_else(|failure| failure.report(&options, complain))
        }
        Err(told) => {
            complain(&format!("{told}\nTry: marline leave --help"));
            EXIT_USAGE
        }
    }
}

fn complain(text: &str) {
    error_line(format!("marline leave: {text}").as_bytes());
}

/// Lets the node go, and follows until it has.
pub(super) fn leave(options: &Options, what: &Leave) -> Result<i32, Failure> {
    let interrupt = Arc::new(AtomicBool::new(false));
    // Without it Ctrl-C ends the following without a word: a pity, not a failure.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupt));
    let target = Target::new(options)?.within(PATIENCE);
    let mut link = Link::open(&target, Some(Arc::clone(&interrupt)))?;
    let (name, map) = members::place(&target, &mut link)?;
    let Some(node) = map.node_of(&name) else {
        let told = format!("{target} is no member of its cluster: it waits to be taken in");
        return Err(Failure::Refused(told));
    };
    let mut leaving = Leaving {
        target,
        node,
        map,
        asked: None,
        interrupt,
    };
    // When no other answers, the node itself has to know.
    let _ = leaving.look();
    leaving.demand()?;
    leaving.say(&mut link)?;
    drop(link);
    leaving.follow(what)?;
    print(
        format!("{leaving} has left: its process may be stopped, and its directory removed\n")
            .as_bytes(),
    )?;
    Ok(EXIT_OK)
}

struct Leaving<'o> {
    target: Target<'o>,
    node: NodeId,
    /// The latest map that was told.
    map: Map,
    /// The member that was asked last.
    asked: Option<NodeId>,
    interrupt: Arc<AtomicBool>,
}

impl std::fmt::Display for Leaving<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} ({})", self.node, self.target)
    }
}

impl Leaving<'_> {
    /// Replicas that the node has to keep as yet.
    fn held(&self) -> usize {
        self.map.replicas_on(self.node).len()
    }

    /// Asks the next other member for its map; the error says what came instead of it.
    fn look(&mut self) -> Result<(), String> {
        let (next, address) = self.next_to_ask().ok_or("there is none")?;
        self.asked = Some(next);
        let target = self.target.at(address);
        let interrupt = Some(Arc::clone(&self.interrupt));
        let told = Link::open(&target, interrupt).and_then(|mut link| members::map(&mut link));
        let map = told.map_err(|error| error.reason(&target))?;
        if map.cluster != self.map.cluster {
            return Err(format!("{target} is in another cluster"));
        }
        if map.epoch > self.map.epoch {
            self.map = map;
        }
        Ok(())
    }

    /// The member behind the one that was asked last.
    fn next_to_ask(&self) -> Option<(NodeId, SocketAddr)> {
        let others = self.map.nodes.iter();
        let others = others.filter(|(node, member)| **node != self.node && !member.is_gone);
        let others: BTreeMap<NodeId, SocketAddr> = others
            .map(|(&node, member)| (node, member.address))
            .collect();
        let behind = others.range(self.asked.map_or(0, |asked| asked + 1)..);
        let next = behind.chain(&others).next();
        next.map(|(&node, &address)| (node, address))
    }

    /// That the node can leave; tells what comes of it.
    fn demand(&self) -> Result<(), Failure> {
        if !self.map.nodes.contains_key(&self.node) {
            let told = format!(
                "{self} is no member any more: it has left before; its process may be stopped, and its directory removed"
            );
            return Err(Failure::Refused(told));
        }
        let (staying, wanted) = (self.map.staying(), usize::from(self.map.replicas));
        if staying == [self.node] {
            let told =
                format!("{self} is the last node of its cluster: nobody would hold the keys");
            return Err(Failure::Refused(told));
        }
        let rest = staying.iter().filter(|node| **node != self.node).count();
        if rest < wanted && staying.contains(&self.node) {
            let nodes = if rest == 1 {
                "1 node stays"
            } else {
                &format!("{rest} nodes stay")
            };
            complain(&format!(
                "{nodes}, so each shard is to have {rest} of {wanted} replicas"
            ));
        }
        Ok(())
    }

    /// CLUSTER LEAVE, until it is known that the cluster has agreed.
    fn say(&self, link: &mut Link) -> Result<(), Failure> {
        let mut unknown = Vec::new();
        for _ in 0..TRIES {
            link.send(&[b"CLUSTER".to_vec(), b"LEAVE".to_vec()])?;
            let answer = match link.receive_within(Some(AGREEMENT)) {
                Err(LinkError::Interrupted) => return Err(self.interrupted()),
                answer => answer?,
            };
            match answer.error() {
                Some(text) if text.starts_with(b"UNKNOWN ") => unknown = text.to_vec(),
                Some(text) => return Err(refused(text.to_vec())),
                None => return Ok(()),
            }
        }
        Err(refused(unknown))
    }

    /// Looks until the node is no member any more.
    fn follow(&mut self, what: &Leave) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut heard = begun;
        let mut progress = Progress::new(self.held());
        loop {
            let looked = self.look();
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(self.interrupted());
            }
            match &looked {
                Ok(()) => heard = Instant::now(),
                Err(why) if heard.elapsed() >= SILENCE => return Err(self.lost(why)),
                Err(_) => {}
            }
            if !self.map.nodes.contains_key(&self.node) {
                return Ok(());
            }
            let doing = looked.err().unwrap_or_else(|| under_way(&self.map));
            progress.show(self.held(), &doing);
            if what
                .patience
                .is_some_and(|patience| begun.elapsed() >= patience)
            {
                let held = replicas(self.held());
                let told = format!("{self} is a member still, with {held}\n{}", self.goes_on());
                return Err(Failure::Refused(told));
            }
            thread::sleep(INTERVAL);
        }
    }

    fn lost(&self, why: &str) -> Failure {
        let seconds = SILENCE.as_secs();
        let told = format!("no other member has answered for {seconds} s: {why}");
        Failure::Lost(format!("{told}\n{}", self.goes_on()))
    }

    fn interrupted(&self) -> Failure {
        Failure::Lost(format!("interrupted\n{}", self.goes_on()))
    }

    /// What happens when nobody looks on, and how to look again.
    fn goes_on(&self) -> String {
        let other = self.next_to_ask().map(|(_, address)| address);
        let other = other.map_or(String::new(), |it| {
            format!(" -h {} -p {}", it.ip(), it.port())
        });
        format!(
            "The leaving goes on. To look: marline cli{other} --cluster, or marline leave once more."
        )
    }
}

fn refused(text: Vec<u8>) -> Failure {
    Failure::Link(LinkError::Refused("CLUSTER LEAVE", text))
}

fn replicas(count: usize) -> String {
    match count {
        1 => "1 replica".to_owned(),
        _ => format!("{count} replicas"),
    }
}

/// What the cluster is about to change, in a few words; empty when it is nothing.
fn under_way(map: &Map) -> String {
    let mut changes = map.every_placement().filter_map(|(shard, placement)| {
        Some((shown(shard), &placement.replicas, placement.next.as_ref()?))
    });
    let Some((shard, now, next)) = changes.next() else {
        return String::new();
    };
    match next.iter().find(|replica| !now.contains(replica)) {
        Some(new) => format!("shard {shard} to node {}", new.node()),
        None => format!("shard {shard} has one fewer"),
    }
}

/// A bar on a terminal; elsewhere a line when the number changes, and when it has not for long.
struct Progress {
    total: usize,
    bar: Option<ProgressBar>,
    /// The number that was told, and when.
    told: Option<(usize, Instant)>,
}

impl Progress {
    fn new(total: usize) -> Progress {
        let style =
            ProgressStyle::with_template("{wide_bar} {pos} of {len} replicas handed over · {msg}");
        let bar = style
            .ok()
            .filter(|_| io::stderr().is_terminal())
            .map(|style| {
                let target = ProgressDrawTarget::stderr();
                ProgressBar::with_draw_target(Some(total as u64), target).with_style(style)
            });
        let told = None;
        Progress { total, bar, told }
    }

    fn show(&mut self, held: usize, doing: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_owned());
            bar.set_position(self.total.saturating_sub(held) as u64);
            return;
        }
        let is_news = match self.told {
            Some((told, when)) => told != held || when.elapsed() >= STILL,
            None => true,
        };
        if is_news {
            let behind = if doing.is_empty() { "" } else { ": " };
            complain(&format!("{} to hand over{behind}{doing}", replicas(held)));
            self.told = Some((held, Instant::now()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "cluster 00c0ffee00c0ffee\nepoch 12\nshards 2\nreplicas 2\nnext-node 5\n\
        node 1 1111111111111111111111111111111111111111 127.0.0.1:8001\n\
        node 2 2222222222222222222222222222222222222222 127.0.0.1:8002 leaving\n\
        node 3 3333333333333333333333333333333333333333 127.0.0.1:8004 gone\n\
        node 4 4444444444444444444444444444444444444444 127.0.0.1:8004\n\
        meta 1.1 2.1\nshard 0 1.1 3.1\nshard 1 2.1 3.1 > 4.12 3.1\n";

    fn map() -> Map {
        Map::decode(MAP.as_bytes()).unwrap()
    }

    #[test]
    fn the_others_are_asked_in_turn_as_far_as_they_have_an_address() {
        let args = ["127.0.0.1:8002".to_owned()];
        let Ok(Parsed::Run(options)) = options::parse_leave(&args, |_| None) else {
            panic!("options");
        };
        let mut leaving = Leaving {
            target: Target::new(&options).unwrap(),
            node: 2,
            map: map(),
            asked: None,
            interrupt: Arc::default(),
        };
        let mut asked = || {
            leaving.asked = leaving.next_to_ask().map(|(node, _)| node);
            leaving.asked
        };
        assert_eq!([asked(), asked(), asked()], [Some(1), Some(4), Some(1)]);
        assert_eq!(leaving.held(), 2, "shard 1 and the meta shard");
        assert_eq!(leaving.to_string(), "node 2 (127.0.0.1:8002)");
        let goes_on = leaving.goes_on();
        assert!(
            goes_on.contains("marline cli -h 127.0.0.1 -p 8004 --cluster"),
            "{goes_on}"
        );
    }

    #[test]
    fn a_change_is_told_in_a_few_words() {
        assert_eq!(under_way(&map()), "shard 1 to node 4");
        let fewer = MAP.replace("shard 0 1.1 3.1", "shard 0 1.1 3.1 4.2 > 1.1 4.2");
        let fewer = Map::decode(fewer.as_bytes()).unwrap();
        assert_eq!(under_way(&fewer), "shard 0 has one fewer");
        let still = MAP.replace(" > 4.12 3.1", "");
        assert_eq!(under_way(&Map::decode(still.as_bytes()).unwrap()), "");
    }
}
