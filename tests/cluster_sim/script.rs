//! Scenarios as text, a step a line, each of which must come true:
//!
//! ```text
//! start 1 2 3                        kill 1          restart 1       pause 1        wake 1       power off
//! pass 300 ms                        cut 1 from 2 3  cut 1 to 2      heal
//! slow 1 from 2 3 by 30 ms           lossy 1 from 2 3 of 20 %        disk of 3 takes 50 ms      clock of 1 jumps -2 h
//! vanish 1                           as kill, but nobody is told         clog 1 to 2 for 3 s     reset 1 and 2
//! disk of 3 hangs for 20 s           clock of 1 drifts -20 %
//! node 1 says SET a 1 -> OK          said and answered: by this, or by one of several with ` or ` between, a `*`
//!                                    standing for the rest of a line
//! node 1 asks SET a 2                said, and not waited for
//! node 1 hears OK                    what was asked first and not heard yet is answered so
//! old is leader of a                 a name for a node; so are `other is follower of a` and `other is outside of a`,
//!                                    for one that has no replica
//! a is led within 2 s                by a node that is up, not paused, and not called `old`
//! founded within 3 s                 all shards are led
//! replicas are equal                 soon
//! join 4                             started as one that joins     wipe 2   its disk is empty; if it ran, it is killed
//! end process 1                      as kill, but the power stays on
//! halt 1 at file-renamed             when it comes there next, its power fails or its process ends; `behind 3`: later
//! 1 stops within 3 s                 as it was to halt
//! back up 1                          the disk as it is       restore 1   it is so again; if the node ran, it is killed
//! placed within 60 s                 every replica is where the map wants it, and the map has nothing left to do
//! fill 20 of 512 KiB                 so many large values, all under keys of their own; `again` under one
//! load begins    load ends           clients of all nodes that run count up; their answers must be right
//! ```
//!
//! Nodes are named by number, by a name given to them, as `all`, or as `rest` (all but those named before in the line).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use marline::failpoint::Point;

use super::world::{Backup, Client, Plan, World};

/// How long an answer is waited for that was asked for before.
const ANSWER: Duration = Duration::from_secs(60);

/// Plays a scenario in a world without any nodes running.
pub fn play(seed: u64, text: &str) -> World {
    play_in(World::new(Plan::new(seed)), text)
}

/// Plays a scenario in a cluster that has been founded.
pub fn play_founded(seed: u64, text: &str) -> World {
    play_in(World::founded(Plan::new(seed)), text)
}

/// Plays a scenario.
pub fn play_in(world: World, text: &str) -> World {
    let mut player = Player {
        world,
        names: BTreeMap::new(),
        asked: BTreeMap::new(),
        skews_ms: BTreeMap::new(),
        backups: BTreeMap::new(),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.filter(|line| !line.starts_with('#')) {
        player.world.tell(&format!("-- {line}"));
        if let Err(why) = player.step(line) {
            panic!("{line}\n    {why}");
        }
    }
    player.world
}

struct Player {
    world: World,
    names: BTreeMap<String, usize>,
    /// Clients that wait for an answer, by node.
    asked: BTreeMap<usize, VecDeque<Client>>,
    skews_ms: BTreeMap<usize, i64>,
    /// Disks as they were.
    backups: BTreeMap<usize, Backup>,
}

type Outcome = Result<(), String>;

impl Player {
    fn step(&mut self, line: &str) -> Outcome {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["start", ..] => self.each(&words[1..], World::start),
            ["restart", ..] => self.each(&words[1..], |world, node| {
                if world.is_up(node) {
                    world.kill(node);
                }
                world.start(node);
            }),
            ["join", ..] => self.each(&words[1..], |world, node| {
                world.let_join(node);
                world.start(node);
            }),
            ["wipe", ..] => self.each(&words[1..], World::wipe),
            ["end", "process", ..] => self.each(&words[2..], World::kill_process),
            ["halt", node, "at", point] => self.halt(node, point, 0),
            ["halt", node, "at", point, "behind", passes] => self.halt(node, point, parse(passes)?),
            ["fill", count, "of", kib, "KiB"] => self.fill(parse(count)?, parse(kib)?, false),
            ["fill", count, "of", kib, "KiB", "again"] => {
                self.fill(parse(count)?, parse(kib)?, true)
            }
            ["load", "begins"] => {
                self.world.begin_load();
                Ok(())
            }
            ["load", "ends"] => self.world.end_load(),
            ["placed", "within", number, unit] => {
                self.world.settle_within(time(number, unit)?);
                Ok(())
            }
            ["back", "up", node] => {
                let node = self.node(node)?;
                self.backups.insert(node, self.world.back_up(node));
                Ok(())
            }
            ["restore", node] => {
                let node = self.node(node)?;
                if self.world.is_up(node) {
                    self.world.kill(node);
                }
                let backup = self.backups.get(&node).ok_or("it was not backed up")?;
                self.world.restore(node, backup);
                Ok(())
            }
            ["kill", ..] => self.each(&words[1..], World::kill),
            ["vanish", ..] => self.each(&words[1..], World::vanish),
            ["pause", ..] => self.each(&words[1..], World::pause),
            ["wake", ..] => self.each(&words[1..], World::wake),
            ["power", "off"] => self.each(&["all"], |world, node| {
                if world.is_up(node) {
                    world.kill(node);
                }
            }),
            ["pass", number, unit] => {
                self.world.pass(time(number, unit)?);
                Ok(())
            }
            ["heal"] => {
                self.world.heal();
                Ok(())
            }
            ["cut", from, "to", ref to @ ..] => self.pairs(from, to, false, World::cut),
            ["cut", from, "from", ref to @ ..] => self.pairs(from, to, true, World::cut),
            ["slow", from, "from", ref to @ .., "by", number, unit] => {
                let most = time(number, unit)?;
                self.pairs(from, to, true, |world, a, b| world.slow(a, b, most, 0))
            }
            ["lossy", from, "from", ref to @ .., "of", percent, "%"] => {
                let (most, percent) = (Duration::from_millis(1), parse(percent)?);
                let slow = |world: &mut World, a, b| world.slow(a, b, most, percent);
                self.pairs(from, to, true, slow)
            }
            ["disk", "of", node, "takes", number, unit] => {
                let (node, most) = (self.node(node)?, time(number, unit)?);
                self.world.slow_disk(node, Some(most));
                Ok(())
            }
            ["disk", "of", node, "hangs", "for", number, unit] => {
                let (node, time) = (self.node(node)?, time(number, unit)?);
                self.world.stall(node, time);
                Ok(())
            }
            ["clog", from, "to", ref to @ .., "for", number, unit] => {
                let time = time(number, unit)?;
                self.pairs(from, to, false, |world, from, to| {
                    world.clog(from, to, time);
                })
            }
            ["reset", one, "and", ref others @ ..] => self.pairs(one, others, false, World::reset),
            ["clock", "of", node, "drifts", percent, "%"] => {
                let (node, percent) = (self.node(node)?, parse(percent)?);
                self.world.drift(node, percent);
                Ok(())
            }
            ["clock", "of", node, "jumps", number, unit] => self.jump(node, number, unit),
            _ => self.say(line, &words),
        }
    }

    fn say(&mut self, line: &str, words: &[&str]) -> Outcome {
        match *words {
            ["node", node, "says", ..] => {
                let node = self.node(node)?;
                let (_, text) = line.split_once(" says ").ok_or("what?")?;
                let (text, wanted) = text.rsplit_once(" -> ").ok_or("and the answer?")?;
                let answer = self.world.ask(node, text);
                fits(&answer, wanted)
            }
            ["node", node, "asks", ..] => {
                let node = self.node(node)?;
                let (_, text) = line.split_once(" asks ").ok_or("what?")?;
                let client = self.world.connect(node);
                self.world.send(client, text);
                self.asked.entry(node).or_default().push_back(client);
                Ok(())
            }
            ["node", node, "hears", ..] => {
                let node = self.node(node)?;
                let (_, wanted) = line.split_once(" hears ").ok_or("what?")?;
                let asked = self.asked.entry(node).or_default().pop_front();
                let client = asked.ok_or("nothing was asked")?;
                let answer = self.world.line_within(client, ANSWER);
                let answer = answer.unwrap_or_else(|| "(closed)".to_owned());
                self.world.tell(&format!("node {node} hears {answer}"));
                fits(&answer, wanted)
            }
            [name, "is", "leader", "of", key] => {
                let shard = self.world.shard_of(key);
                let leader = self.world.leader(shard).ok_or("nobody leads")?;
                self.call(name, leader)
            }
            [name, "is", "follower", "of", key] => {
                let shard = self.world.shard_of(key);
                let leader = self.world.leader(shard);
                let named = |node: &usize| self.names.values().any(|it| it == node);
                let mut others = self.world.all();
                let other = others
                    .find(|node| Some(*node) != leader && self.world.is_up(*node) && !named(node));
                self.call(name, other.ok_or("nobody follows")?)
            }
            [name, "is", "outside", "of", key] => {
                let inside = self.world.holders(self.world.shard_of(key));
                let mut all = self.world.all();
                let outside = all.find(|node| self.world.is_up(*node) && !inside.contains(node));
                self.call(name, outside.ok_or("all have a replica")?)
            }
            [key, "is", "led", "within", number, unit] => self.led(key, time(number, unit)?),
            ["founded", "within", number, unit] => {
                let is_led = self
                    .world
                    .within(time(number, unit)?, |world| world.is_led());
                is_led.then_some(()).ok_or("it is not".to_owned())
            }
            [node, "stops", "within", number, unit] => {
                let (node, time) = (self.node(node)?, time(number, unit)?);
                let stops = self.world.within(time, |world| !world.is_up(node));
                stops.then_some(()).ok_or("it runs".to_owned())
            }
            ["replicas", "are", "equal"] => {
                self.world.agree();
                Ok(())
            }
            _ => Err("nobody understands this step".to_owned()),
        }
    }

    fn fill(&mut self, count: usize, kib: usize, is_again: bool) -> Outcome {
        let value = "x".repeat(kib << 10);
        let node = self.world.members()[0];
        let client = self.world.connect(node);
        for nth in 0..count {
            let key = if is_again { 0 } else { nth };
            let key = format!("fill{key}");
            self.world.send_words(client, &["SET", &key, &value]);
            let answer = self.world.line_within(client, ANSWER);
            if answer.as_deref() != Some("OK") {
                return Err(format!("fill {nth}: {answer:?}"));
            }
        }
        self.world.close(client);
        Ok(())
    }

    fn halt(&mut self, node: &str, point: &str, passes: u64) -> Outcome {
        let point = Point::named(point).ok_or_else(|| format!("{point} is no failpoint"))?;
        let node = self.node(node)?;
        self.world.halt_at(node, Some(point), passes);
        Ok(())
    }

    fn call(&mut self, name: &str, node: usize) -> Outcome {
        self.world.tell(&format!("{name} is node {node}"));
        self.names.insert(name.to_owned(), node);
        Ok(())
    }

    fn led(&mut self, key: &str, time: Duration) -> Outcome {
        let (shard, old) = (self.world.shard_of(key), self.names.get("old").copied());
        let is_led = self.world.within(time, |world| {
            world.leader(shard).is_some_and(|leader| {
                Some(leader) != old && world.is_up(leader) && !world.is_paused(leader)
            })
        });
        is_led.then_some(()).ok_or("it is not".to_owned())
    }

    fn jump(&mut self, node: &str, number: &str, unit: &str) -> Outcome {
        let node = self.node(node)?;
        let (sign, number) = match number.strip_prefix('-') {
            Some(number) => (-1, number),
            None => (1, number),
        };
        let skew = self.skews_ms.entry(node).or_default();
        *skew += sign * time(number, unit)?.as_millis() as i64;
        let skew = *skew;
        self.world.set_clock(node, skew);
        Ok(())
    }

    fn node(&self, word: &str) -> Result<usize, String> {
        let named = self.names.get(word).copied();
        let node = named.or_else(|| word.parse().ok());
        node.filter(|node| self.world.all().contains(node))
            .ok_or_else(|| format!("{word} is no node"))
    }

    /// The nodes that words name, `before` them others having been named.
    fn nodes(&self, words: &[&str], before: &[usize]) -> Result<Vec<usize>, String> {
        let mut nodes = Vec::new();
        for word in words {
            match *word {
                "all" => nodes.extend(self.world.all()),
                "rest" => nodes.extend(self.world.all().filter(|node| !before.contains(node))),
                word => nodes.push(self.node(word)?),
            }
        }
        Ok(nodes)
    }

    fn each(&mut self, words: &[&str], call: impl Fn(&mut World, usize)) -> Outcome {
        let nodes = self.nodes(words, &[])?;
        nodes.iter().for_each(|&node| call(&mut self.world, node));
        Ok(())
    }

    fn pairs(
        &mut self,
        one: &str,
        others: &[&str],
        both_ways: bool,
        call: impl Fn(&mut World, usize, usize),
    ) -> Outcome {
        let one = self.node(one)?;
        for other in self.nodes(others, &[one])? {
            call(&mut self.world, one, other);
            if both_ways {
                call(&mut self.world, other, one);
            }
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn time(number: &str, unit: &str) -> Result<Duration, String> {
    let number: u64 = parse(number)?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "h" => Ok(Duration::from_secs(number * 3_600)),
        _ => Err(format!("{unit} is no unit of time")),
    }
}

/// Whether an answer is what was wanted.
fn fits(answer: &str, wanted: &str) -> Outcome {
    let is_it = |wanted: &str| match wanted.trim().strip_suffix('*') {
        Some(begin) => answer.starts_with(begin),
        None => answer == wanted.trim(),
    };
    match wanted.split(" or ").any(is_it) {
        true => Ok(()),
        false => Err(format!("the answer was: {answer}")),
    }
}
