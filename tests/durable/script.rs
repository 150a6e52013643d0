//! What clients say, what came of it, and whether the disk agrees.
//!
//! A step is a line of a script: commands with ` ; ` between them that are answered by a line each, or `sleep`
//! and milliseconds. The last answer of a step says what came of it.

use std::time::Duration;

use fastrand::Rng;
use marline::disk::sim::SimDisk;

use super::world::{Client, Disks, World};

/// After it every key that a script lets expire soon has expired.
const SOON: Duration = Duration::from_millis(200);
/// How long a step may take while nothing is wrong.
const STALLED: Duration = Duration::from_secs(5);
/// Refusals after which space is found.
const REFUSALS_MAX: usize = 5;
/// Steps that are sent without waiting for answers.
const WINDOW_MAX: usize = 4;

/// One line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commands, one a line.
    Say(String),
    Sleep(Duration),
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered like this.
    Done(String),
    /// The answer was that it was refused.
    Refused,
    /// Nobody knows: it was sent and not answered.
    Unknown,
    /// It was not answered, and turned out to have happened.
    Happened,
}

/// Steps that were sent, with what came of them.
pub type Played = Vec<(Step, Fate)>;

pub fn parse(text: &str) -> Vec<Step> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.strip_prefix("sleep ") {
            Some(ms) => Step::Sleep(Duration::from_millis(ms.parse().unwrap())),
            None => Step::Say(line.replace(" ; ", "\n") + "\n"),
        })
        .collect()
}

/// About `count` steps. Each value tells the number of its step.
pub fn random(rng: &mut Rng, count: usize, special: &[&str]) -> Vec<Step> {
    let mut text = String::new();
    for number in 0..count {
        let key = |rng: &mut Rng| format!("key-{}", rng.u8(..12));
        let (a, b, c) = (key(rng), key(rng), key(rng));
        let value = format!("canary-{number}");
        let line = match rng.u8(..40) {
            0..=7 => format!("SET {a} {value}"),
            8..=10 => format!("APPEND {a} +{value}"),
            11..=14 => format!("INCR number-{}", rng.u8(..4)),
            15..=16 => format!("INCR {a}"),
            17 => format!("DEL {a} {b}"),
            18..=20 => format!("MSET {a} {value} {b} {value} {c} {value}"),
            21..=23 => format!("MULTI ; SET {a} {value} ; APPEND {b} +{value} ; GET {b} ; EXEC"),
            24..=25 => format!("MULTI ; SET {a} {value} ; RENAME {a} {b} ; INCR number-1 ; EXEC"),
            26..=28 => format!("RENAME {a} {b}"),
            29 => format!("COPY {a} {b} REPLACE"),
            30 => format!("SET {a} {value} PX 20\nsleep 40\nAPPEND {a} +{value}"),
            31 => format!("SET {a} {value} EX 100000"),
            32 => format!("PERSIST {a}"),
            33 => format!("MSETNX {a} {value} {b} {value}"),
            34 => format!("SETBIT bits {} 1", rng.u8(..)),
            35 => format!("GET {a}"),
            36 => format!("MGET {a} {b} {c}"),
            37 if rng.u8(..4) == 0 => "FLUSHALL".to_owned(),
            _ => match special.is_empty() {
                true => format!("GETSET {a} {value}"),
                false => special[rng.usize(..special.len())].replace('#', &number.to_string()),
            },
        };
        text.push_str(&line);
        text.push('\n');
    }
    parse(&text)
}

/// Plays a script until it ends or the node stops: a few steps at a time, without waiting for answers in between.
/// `disk`, when it is full, is given space again once writes have been refused or have waited for long.
pub fn play(world: &mut World, steps: &[Step], rng: &mut Rng, disk: Option<&SimDisk>) -> Played {
    let client = talker(world);
    let mut played = Played::new();
    let mut refusals = 0;
    let mut rest = steps;
    while !rest.is_empty() && !world.is_over {
        let said = rest.iter().take_while(|step| matches!(step, Step::Say(_)));
        let count = rng.usize(1..=WINDOW_MAX).min(said.count()).max(1);
        let (window, later) = rest.split_at(count);
        rest = later;
        let fates = play_window(world, client, window, disk);
        refusals += fates.iter().filter(|fate| **fate == Fate::Refused).count();
        played.extend(window.iter().cloned().zip(fates));
        if let Some(disk) = disk.filter(|_| refusals >= REFUSALS_MAX) {
            find_space(world, disk);
            refusals = 0;
        }
    }
    played
}

/// A client whose answers are lines.
pub fn talker(world: &mut World) -> Client {
    let client = world.connect();
    world.ask(client, "HELLO LINE");
    client
}

fn play_window(
    world: &mut World,
    client: Client,
    window: &[Step],
    disk: Option<&SimDisk>,
) -> Vec<Fate> {
    let mut lines_of = Vec::new();
    for step in window {
        match step {
            Step::Say(text) => {
                world.send(client, text);
                lines_of.push(text.lines().count());
            }
            Step::Sleep(time) => {
                world.pass(*time);
                lines_of.push(0);
            }
        }
    }
    let wanted: usize = lines_of.iter().sum();
    let mut heard = String::new();
    let mut is_answered = |world: &mut World| {
        heard.push_str(&world.heard(client));
        heard.lines().count() >= wanted
    };
    if !world.within(STALLED, &mut is_answered) {
        find_space(world, disk.expect("every step is answered soon"));
        assert!(
            world.within(STALLED, &mut is_answered),
            "there is space now"
        );
    }
    // A line that the node did not finish is none.
    let whole = heard.rfind('\n').map_or("", |end| &heard[..=end]);
    let mut lines = whole.lines();
    let fates = lines_of.into_iter().map(|count| {
        let told: Vec<&str> = lines.by_ref().take(count).collect();
        match told.last() {
            _ if told.len() < count => Fate::Unknown,
            Some(last) if last.starts_with('-') => Fate::Refused,
            _ => Fate::Done(told.join("\n")),
        }
    });
    fates.collect()
}

/// Reads go on while the disk is full; then there is space, and soon writes are taken again.
fn find_space(world: &mut World, disk: &SimDisk) {
    let client = talker(world);
    let told = world.ask(client, "EXISTS nothing");
    assert!(told == "0" || world.is_over, "reads go on: {told}");
    disk.heal();
    disk.limit(u64::MAX);
    world.close(client);
    world.pass(Duration::from_secs(3));
}

/// What a node must hold that was told these steps.
struct Expected {
    /// After all that was acknowledged, and then after each step of which nobody knows what came of it.
    dumps: Vec<String>,
}

impl Expected {
    fn of(played: &Played) -> Expected {
        let done: Vec<&(Step, Fate)> = (played.iter())
            .filter(|(_, fate)| *fate != Fate::Refused)
            .collect();
        let known = done
            .iter()
            .position(|(_, fate)| *fate == Fate::Unknown)
            .unwrap_or(done.len());
        let mut model = World::in_memory();
        let client = talker(&mut model);
        for (step, fate) in &done[..known] {
            let answer = tell(&mut model, client, step);
            let is_right = match fate {
                Fate::Done(told) => *told == answer || is_of_files(step),
                _ => true,
            };
            assert!(is_right, "{step:?} was answered {fate:?}, not {answer:?}");
        }
        let mut dumps = vec![settled_dump(&mut model)];
        for (step, fate) in &done[known..] {
            assert!(
                *fate == Fate::Unknown || matches!(step, Step::Sleep(_)),
                "{step:?} was answered although one before it was not"
            );
            tell(&mut model, client, step);
            dumps.push(settled_dump(&mut model));
        }
        Expected { dumps }
    }
}

fn tell(world: &mut World, client: Client, step: &Step) -> String {
    match step {
        Step::Say(text) => {
            world.send(client, text);
            let told = world.lines(client, text.lines().count());
            told.trim_end_matches('\n').to_owned()
        }
        Step::Sleep(time) => {
            world.pass(*time);
            String::new()
        }
    }
}

/// Whether a step has another answer where everything is in memory.
fn is_of_files(step: &Step) -> bool {
    let words = ["SAVE", "BGSAVE", "BACKUP", "KEY"];
    matches!(step, Step::Say(text) if words.iter().any(|word| text.starts_with(word)))
}

/// What a node holds, when everything that expires soon has expired.
pub fn settled_dump(world: &mut World) -> String {
    world.pass(SOON);
    world.dump()
}

/// Whether a node that starts on these disks has what was promised: every acknowledged step, and of the others
/// none, or the first, or the first two … each of them whole.
pub fn check(disks: &Disks, played: &Played, what: &str) {
    let mut world = World::start(disks);
    assert_eq!(world.fatal(), None, "{what}");
    let dump = settled_dump(&mut world);
    happened(&dump, played, disks, what);
}

/// How many of the steps that nobody knew of have happened, to judge by a dump.
fn happened(dump: &str, played: &Played, disks: &Disks, what: &str) -> usize {
    let expected = Expected::of(played);
    let found = expected.dumps.iter().position(|expected| expected == dump);
    found.unwrap_or_else(|| {
        panic!(
            "{what}: the node has\n{dump}and should have one of\n{}\n{played:#?}\n{:?}",
            expected.dumps.join("or\n"),
            disks.data
        )
    })
}

/// Settles what has become of the steps that nobody knew of, so that others can follow.
pub fn resolve(world: &mut World, played: &mut Played, disks: &Disks, what: &str) {
    let mut left = happened(&settled_dump(world), played, disks, what);
    for (_, fate) in played.iter_mut() {
        if *fate == Fate::Unknown {
            *fate = match left {
                0 => Fate::Refused,
                _ => Fate::Happened,
            };
            left = left.saturating_sub(1);
        }
    }
    // So much time has passed here, too.
    played.push((Step::Sleep(SOON), Fate::Done(String::new())));
}
