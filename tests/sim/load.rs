//! What clients say, and what must be true of the answers.
//!
//! | what | what must be true |
//! |---|---|
//! | `SET GET INCR DEL MGET` of few keys | linearizable, each key by itself, and in each client's order |
//! | `SET GET MGET` of two keys of those | the same, by another judge |
//! | `SET key value PX time`, read later | there until its time, and not a moment longer (where clocks agree) |
//! | `MSET`, `MGET` of two keys of a shard | both are always equal |
//! | `INCR`, `PEXPIRE`, `SET … PX` of keys that expire soon, `DEL` of two | replicas stay alike |
//! | `WATCH`, `GET`, `MULTI`, `SET` one more, `EXEC` | no two succeed with the same number |
//!
//! A client says some things at once, waits for all answers, and rests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use fastrand::Rng;

use super::history::{Call, Op, Told, judge};
use super::swarm::Swarm;
use super::world::{Client, World};
use super::zones;

const KEYS: [&str; 6] = ["a", "b", "c", "d", "r", "s"];
/// Those from here on are only set and read, so that [`zones`] can judge them, too.
const REGISTERS: usize = 4;
const PAIRS: [&str; 2] = ["p", "q"];
/// Counters that expire beside each pair.
const COUNTERS: usize = 6;
/// How long one that reads rests at most, in milliseconds.
const READER_REST_MS: u64 = 400;
/// Between two things that are said by and by, in nanoseconds.
const TRICKLE_NS: Range<u64> = 5_000_000..150_000_000;
/// How exact the time of an expiry is: a batch has one time, and is a while on its way.
const EXPIRY_NS: u64 = 100_000_000;
/// What values of keys with an expiry begin with; it must not be found on a disk that is sealed.
pub const CANARY: &str = "canary-of-marline";

/// What a client is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// It says this and that.
    #[default]
    Mixed,
    /// It reads, often, and keeps to its node.
    Reader,
    /// It says many things at once, or by and by without waiting for answers, about one key.
    Burster,
    /// It says many things at once, about one key, and rests for long.
    Writer,
    /// It says many things at once, about counters that expire.
    Counter,
}

/// What the clients of a seed are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// All are alike.
    Even,
    /// One writes, the others read what it wrote.
    Readers,
    /// Some say many things at once about one key.
    Bursters,
    /// Some count up what expires.
    Counters,
}

impl Mix {
    pub const ALL: [Mix; 4] = [Mix::Even, Mix::Readers, Mix::Bursters, Mix::Counters];

    /// What the client with this number, counted from 0, is like.
    pub fn role(self, client: usize) -> Role {
        match (self, client) {
            (Mix::Readers, 0) => Role::Writer,
            (Mix::Bursters, 0..3) => Role::Burster,
            (Mix::Readers, _) => Role::Reader,
            (Mix::Counters, 0..5) => Role::Counter,
            _ => Role::Mixed,
        }
    }
}

impl Role {
    /// How long it rests, if one that says this and that rests so long.
    fn rest_ms(self, rest_ms: u64) -> u64 {
        match self {
            Role::Mixed | Role::Burster | Role::Counter => rest_ms,
            Role::Reader => READER_REST_MS,
            Role::Writer => 2 * rest_ms,
        }
    }

    /// How many things it says at once.
    fn counts(self) -> [u64; 5] {
        match self {
            Role::Mixed => [1, 1, 2, 5, 12],
            Role::Reader => [1, 1, 1, 2, 2],
            Role::Burster | Role::Writer | Role::Counter => [2, 8, 12, 12, 12],
        }
    }

    /// What it speaks of, as [`Load::something`] counts the topics.
    fn topic(self, rng: &mut Rng) -> u8 {
        match self {
            Role::Reader => [5, 6, 7, 8, 14, 18][rng.usize(..6)],
            Role::Counter => 19,
            _ => rng.u8(..22),
        }
    }

    /// Whether it goes to another node before it says something.
    fn is_to_move(self, rng: &mut Rng) -> bool {
        self != Role::Reader && rng.u8(..20) == 0
    }
}

/// What was asked.
#[derive(Debug, Clone)]
enum What {
    Call(usize, Call),
    Many(Vec<usize>),
    Expiring(usize),
    Expired(usize),
    /// `w` is to be watched.
    Watch,
    /// About both keys of a pair at once.
    Pair(usize, Call),
    /// What the replicas are compared by, and not the answer.
    Any,
    /// The number that is to be counted up, when it was watched.
    Watched,
    /// An answer that has to be this.
    Plain(&'static str),
    Counted(i64),
}

/// Something that is not answered.
struct Asked {
    what: What,
    at: u64,
}

#[derive(Default)]
struct Talker {
    role: Role,
    conn: Option<Client>,
    asked: VecDeque<Asked>,
    rests_until: u64,
    /// Whether `w` is watched for it: it may have been refused, and what it reads then it may not count up.
    watches: bool,
    /// What it will say without waiting for answers: how many things, and when the next; about one key, if it is.
    more: (u64, u64, Option<usize>),
}

/// A key that is to expire.
struct Expiring {
    called_at: u64,
    /// When it was acknowledged.
    told_at: Option<u64>,
    lives_ns: u64,
}

/// How many commands were answered how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: u64,
    /// Keys of which nobody can tell whether all answers were right.
    pub unsure: u64,
    pub refused: u64,
    pub unknown: u64,
}

impl Counts {
    /// How many were answered at all.
    pub fn answered(self) -> u64 {
        self.done + self.refused + self.unknown
    }
}

/// See the module.
pub struct Load {
    rng: Rng,
    rest_ms: u64,
    /// How long a client waits for an answer before it goes away.
    patience_ns: u64,
    clocks_agree: bool,
    talkers: Vec<Talker>,
    history: BTreeMap<usize, Vec<Op>>,
    next_value: i64,
    expiring: Vec<Expiring>,
    counted: BTreeSet<i64>,
    /// What `w`, which is only counted up, was for somebody: asked when, told when, how much.
    known: Vec<(u64, u64, i64)>,
    pub counts: Counts,
}

impl Load {
    pub fn new(swarm: &Swarm, clients: usize) -> Load {
        let talker = |nth: usize| Talker {
            role: swarm.mix.role(nth),
            ..Talker::default()
        };
        Load {
            rng: Rng::with_seed(!swarm.plan.seed),
            rest_ms: swarm.rest_ms,
            patience_ns: swarm.patience_ms * 1_000_000,
            clocks_agree: swarm.clocks_agree(),
            talkers: (0..clients).map(talker).collect(),
            history: BTreeMap::new(),
            next_value: 0,
            expiring: Vec::new(),
            counted: BTreeSet::new(),
            known: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// When there is something to do next, unless somebody hears something before.
    pub fn next_at(&self) -> u64 {
        let next = |talker: &Talker| {
            let gives_up = talker.asked.front().map(|it| it.at + self.patience_ns);
            let speaks = match talker.more {
                (0, ..) => talker.asked.is_empty().then_some(talker.rests_until),
                (_, at, _) => Some(at),
            };
            gives_up.into_iter().chain(speaks).min().unwrap_or(u64::MAX)
        };
        self.talkers.iter().map(next).min().unwrap_or(u64::MAX)
    }

    /// What all clients do now.
    pub fn go_on(&mut self, world: &mut World) {
        for client in 0..self.talkers.len() {
            self.hear(world, client);
            let (talker, now) = (&self.talkers[client], world.net.now());
            match talker.more {
                (0, ..) if talker.asked.is_empty() && talker.rests_until <= now => {
                    self.talk(world, client);
                }
                (count, at, only) if count > 0 && at <= now => {
                    self.say(world, client, 1, only);
                    self.leave(world, client, count - 1, only);
                }
                _ => {}
            }
        }
    }

    /// Hears what is to be heard still; whether everybody has.
    pub fn hear_all(&mut self, world: &mut World) -> bool {
        (0..self.talkers.len()).for_each(|client| self.hear(world, client));
        self.talkers.iter().all(|talker| talker.asked.is_empty())
    }

    /// All clients go away.
    pub fn end(&mut self, world: &mut World) {
        (0..self.talkers.len()).for_each(|client| self.lose(world, client));
    }

    fn talk(&mut self, world: &mut World, client: usize) {
        let role = self.talkers[client].role;
        match self.talkers[client].conn {
            Some(conn) if !world.is_closed(conn) && !role.is_to_move(&mut self.rng) => {}
            before => {
                before.into_iter().for_each(|conn| world.close(conn));
                let node = self.rng.usize(world.all());
                self.talkers[client].conn = Some(world.connect(node));
            }
        }
        let count = role.counts()[self.rng.usize(..5)];
        let is_of_one = matches!(role, Role::Burster | Role::Writer) || self.rng.bool();
        let only = is_of_one.then(|| self.rng.usize(..KEYS.len()));
        let at_once = match role {
            Role::Burster if self.rng.bool() => 1,
            _ => count,
        };
        self.say(world, client, at_once, only);
        self.leave(world, client, count - at_once, only);
    }

    /// What is left of a burst is said by and by.
    fn leave(&mut self, world: &World, client: usize, count: u64, only: Option<usize>) {
        let at = world.net.now() + self.rng.u64(TRICKLE_NS);
        self.talkers[client].more = (count, at, only);
    }

    /// A client says so many things.
    fn say(&mut self, world: &mut World, client: usize, count: u64, only: Option<usize>) {
        let talker = &self.talkers[client];
        let (Some(conn), role) = (talker.conn, talker.role) else {
            return;
        };
        let mut watches = !talker.asked.is_empty();
        for nth in 0..count {
            // A nanosecond apart, for the order.
            let at = world.net.now() + nth;
            let asked = match self.something(world, role, only) {
                // EXEC ends all watches of a client, so it has one at a time.
                asked if asked.len() > 1 && std::mem::replace(&mut watches, true) => continue,
                asked => asked,
            };
            for (text, what) in asked {
                world.send(conn, &text);
                self.talkers[client].asked.push_back(Asked { what, at });
            }
        }
    }

    /// Something to say, about one key if it is to be about one of those.
    fn something(&mut self, world: &World, role: Role, only: Option<usize>) -> Vec<(String, What)> {
        let key = only.unwrap_or_else(|| self.rng.usize(..KEYS.len()));
        let name = KEYS[key];
        let (text, what) = match role.topic(&mut self.rng) {
            0..=4 => {
                self.next_value += 1_000;
                let value = self.next_value;
                (
                    format!("SET {name} {value}"),
                    What::Call(key, Call::Set(value)),
                )
            }
            drawn @ 5..=13 if drawn < 10 || key >= REGISTERS => {
                (format!("GET {name}"), What::Call(key, Call::Get))
            }
            10..=12 => (format!("INCR {name}"), What::Call(key, Call::Incr)),
            13 => (format!("DEL {name}"), What::Call(key, Call::Del)),
            14 => (
                format!("MGET {}", KEYS.join(" ")),
                What::Many((0..KEYS.len()).collect()),
            ),
            15 => {
                let (number, ms) = (self.expiring.len(), self.rng.u64(200..4_000));
                self.expiring.push(Expiring {
                    called_at: world.net.now(),
                    told_at: None,
                    lives_ns: ms * 1_000_000,
                });
                let text = format!("SET e{number} {CANARY}-{number} PX {ms}");
                (text, What::Expiring(number))
            }
            16 if !self.expiring.is_empty() => {
                let latest = self.expiring.len().saturating_sub(6);
                let number = self.rng.usize(latest..self.expiring.len());
                (format!("GET e{number}"), What::Expired(number))
            }
            17 => {
                let (nth, value) = (self.rng.usize(..2), self.rng.u32(..));
                let pair = PAIRS[nth];
                let text = format!("MSET {{{pair}}}1 {value} {{{pair}}}2 {value}");
                (text, What::Pair(nth, Call::Set(pair_value(value.into()))))
            }
            19 => {
                let (of, ms) = (self.rng.usize(..2), self.rng.u64(1..6_000));
                let (pair, nth) = (PAIRS[of], self.rng.usize(..COUNTERS));
                let any = |text: String| (text, What::Any);
                match self.rng.u8(..10) {
                    0..6 => any(format!("INCR {{{pair}}}t{nth}")),
                    6 => any(format!("PEXPIRE {{{pair}}}t{nth} {ms}")),
                    7 | 8 => any(format!("SET {{{pair}}}t{nth} 5 PX {ms}")),
                    _ => {
                        let text = format!("DEL {{{pair}}}1 {{{pair}}}2");
                        (text, What::Pair(of, Call::Del))
                    }
                }
            }
            18 => {
                let nth = self.rng.usize(..2);
                let pair = PAIRS[nth];
                let text = format!("MGET {{{pair}}}1 {{{pair}}}2");
                (text, What::Pair(nth, Call::Get))
            }
            _ => {
                return vec![
                    ("WATCH w".to_owned(), What::Watch),
                    ("GET w".to_owned(), What::Watched),
                ];
            }
        };
        vec![(text, what)]
    }

    /// Takes the answers of a client that have come.
    fn hear(&mut self, world: &mut World, client: usize) {
        let Some(conn) = self.talkers[client].conn else {
            return;
        };
        while let Some(asked) = self.talkers[client].asked.pop_front() {
            let Some(answer) = world.line(conn) else {
                let is_late = asked.at + self.patience_ns <= world.net.now();
                self.talkers[client].asked.push_front(asked);
                if world.is_closed(conn) || is_late {
                    self.lose(world, client);
                }
                return;
            };
            let now = world.net.now();
            match &answer {
                text if text.starts_with("-UNKNOWN") => self.counts.unknown += 1,
                text if text.starts_with('-') => self.counts.refused += 1,
                _ => self.counts.done += 1,
            }
            let next = self.answered(client, &asked, &answer, now);
            for (text, what) in next {
                world.send(conn, &text);
                self.talkers[client]
                    .asked
                    .push_back(Asked { what, at: now });
            }
            let most_ms = self.talkers[client].role.rest_ms(self.rest_ms);
            let rest = self.rng.u64(..most_ms * 1_000_000);
            self.talkers[client].rests_until = now + rest;
        }
    }

    /// Something was answered; what is to be said next.
    fn answered(
        &mut self,
        client: usize,
        asked: &Asked,
        answer: &str,
        now: u64,
    ) -> Vec<(String, What)> {
        let is_refused = is_refusal(answer);
        let is_unknown = answer.starts_with("-UNKNOWN");
        let fault = format!("{:?} was answered by {answer}", asked.what);
        match &asked.what {
            What::Call(key, call) => match told(*call, answer) {
                Some(told) => self.note(client, *key, *call, asked.at, told, now),
                None => assert!(is_refused, "{fault}"),
            },
            What::Many(keys) if !is_refused => {
                let values = array(answer);
                assert_eq!(values.len(), keys.len(), "{fault}");
                for (&key, value) in keys.iter().zip(values) {
                    let told = told(Call::Get, value).unwrap_or_else(|| panic!("{fault}"));
                    // Its parts are read each at its time.
                    self.note(usize::MAX, key, Call::Get, asked.at, told, now);
                }
            }
            What::Expiring(number) if answer == "OK" => self.expiring[*number].told_at = Some(now),
            What::Expired(number) if !is_refused => {
                self.judge_expiry(*number, asked.at, answer, now);
            }
            What::Pair(nth, call) if !is_refused => {
                let told = told_of_pair(*call, answer)
                    .unwrap_or_else(|| panic!("{fault}: a pair is torn"));
                self.note(client, KEYS.len() + nth, *call, asked.at, told, now);
            }
            What::Watch => {
                assert!(answer == "OK" || is_refused, "{fault}");
                self.talkers[client].watches = !is_refused;
            }
            What::Watched if !is_refused => {
                let value = if answer == "(nil)" {
                    Ok(0)
                } else {
                    answer.parse::<i64>()
                };
                let value = value.unwrap_or_else(|_| panic!("{fault}"));
                self.known.push((asked.at, now, value));
                if !self.talkers[client].watches {
                    return Vec::new();
                }
                let next = value + 1;
                return vec![
                    ("MULTI".to_owned(), What::Plain("OK")),
                    (format!("SET w {next}"), What::Plain("QUEUED")),
                    ("EXEC".to_owned(), What::Counted(next)),
                ];
            }
            What::Counted(number) if answer == "*1 OK" => {
                assert!(self.counted.insert(*number), "{number} was counted twice");
                self.known.push((asked.at, now, *number));
            }
            What::Counted(_) => {
                let is_right = answer == "(nil)"
                    || answer.starts_with("-EXECABORT")
                    || is_refused
                    || is_unknown;
                assert!(is_right, "{fault}");
            }
            What::Any => assert!(
                is_refused || is_unknown || !answer.starts_with('-'),
                "{fault}"
            ),
            What::Plain(wanted) => assert!(answer == *wanted || is_refused, "{fault}"),
            _ => assert!(is_refused || is_unknown, "{fault}"),
        }
        Vec::new()
    }

    fn judge_expiry(&self, number: usize, called_at: u64, answer: &str, now: u64) {
        let key = &self.expiring[number];
        let Some(told_at) = key.told_at.filter(|_| self.clocks_agree) else {
            return;
        };
        let said = || {
            let [set, told, lives, read, now] =
                [key.called_at, told_at, key.lives_ns, called_at, now].map(|ns| ns as f64 / 1e9);
            format!(
                "e{number} was set at {set:.3} to {told:.3} s for {lives:.3} s, and read {answer} at {read:.3} to {now:.3} s"
            )
        };
        let is_early = called_at > told_at && now + EXPIRY_NS < key.called_at + key.lives_ns;
        let is_late = called_at > told_at + key.lives_ns + EXPIRY_NS;
        let is_gone = answer == "(nil)";
        assert!(!(is_gone && is_early || !is_gone && is_late), "{}", said());
    }

    /// Who asks about `w` when it is known to be so much hears no less, and counts up from there.
    fn judge_count(&self) -> Result<(), String> {
        for &(_, told_at, value) in &self.known {
            let is_less =
                |(asked_at, _, later): &&(u64, u64, i64)| *asked_at > told_at && *later < value;
            if let Some((asked_at, _, later)) = self.known.iter().find(is_less) {
                let [told_at, asked_at] = [told_at, *asked_at].map(|ns| ns as f64 / 1e9);
                return Err(format!(
                    "w was {value} at {told_at:.3} s, and {later} for who asked at {asked_at:.3} s"
                ));
            }
        }
        Ok(())
    }

    /// A client goes away; what it asked and was not answered nobody knows.
    fn lose(&mut self, world: &mut World, client: usize) {
        while let Some(asked) = self.talkers[client].asked.pop_front() {
            let (key, call) = match asked.what {
                What::Call(key, call) => (key, call),
                What::Pair(nth, call) => (KEYS.len() + nth, call),
                _ => continue,
            };
            self.note(client, key, call, asked.at, Told::Unknown, u64::MAX);
        }
        if let Some(conn) = self.talkers[client].conn.take() {
            world.close(conn);
        }
        self.talkers[client].more = (0, 0, None);
        // Who was not answered asks again, and not all the time.
        self.talkers[client].rests_until = world.net.now() + self.rng.u64(..2_000_000_000);
    }

    fn note(
        &mut self,
        client: usize,
        key: usize,
        call: Call,
        called_at: u64,
        told: Told,
        now: u64,
    ) {
        let told_at = if told == Told::Unknown { u64::MAX } else { now };
        // Those of nobody are in no order.
        let client = match client {
            usize::MAX => 1_000 + self.history.values().map(Vec::len).sum::<usize>(),
            client => client,
        };
        self.history.entry(key).or_default().push(Op {
            client,
            call,
            told,
            called_at,
            told_at,
        });
    }

    /// Reads everything in the end, and says what cannot have been so.
    ///
    /// # Errors
    /// Something.
    pub fn judge(&mut self, world: &mut World) -> Result<(), String> {
        let members = world.members();
        for (key, name) in KEYS.iter().enumerate() {
            let called_at = world.net.now();
            let answer = world.ask(members[key % members.len()], &format!("GET {name}"));
            let told = told(Call::Get, &answer).ok_or_else(|| format!("GET {name}: {answer}"))?;
            let now = world.net.now();
            self.note(usize::MAX, key, Call::Get, called_at, told, now);
        }
        let last = world.ask(members[0], "GET w");
        let counted = self.counted.last().copied().unwrap_or(0);
        let last: i64 = if last == "(nil)" {
            0
        } else {
            last.parse().map_err(|_| format!("GET w: {last}"))?
        };
        if last < counted {
            return Err(format!("w is {last}, but was counted to {counted}"));
        }
        self.judge_count()?;
        for (nth, pair) in PAIRS.iter().enumerate() {
            let called_at = world.net.now();
            let answer = world.ask(members[0], &format!("MGET {{{pair}}}1 {{{pair}}}2"));
            let told = told_of_pair(Call::Get, &answer)
                .ok_or_else(|| format!("the pair {pair} is torn in the end: {answer}"))?;
            let now = world.net.now();
            self.note(
                usize::MAX,
                KEYS.len() + nth,
                Call::Get,
                called_at,
                told,
                now,
            );
        }
        for (key, ops) in &self.history {
            let name = KEYS.iter().chain(&PAIRS).nth(*key).unwrap();
            let is_sure = judge(ops).map_err(|why| format!("key {name}: {why}"))?;
            if (REGISTERS..KEYS.len()).contains(key) {
                zones::judge(ops).map_err(|why| format!("register {name}, by zones: {why}"))?;
            }
            self.counts.unsure += u64::from(!is_sure);
        }
        Ok(())
    }
}

/// The elements of an array, as a line has them; none of ours has a blank.
fn array(answer: &str) -> Vec<&str> {
    answer.split(' ').skip(1).collect()
}

/// What an answer tells; `None`: that nothing was done.
fn told(call: Call, answer: &str) -> Option<Told> {
    match (call, answer) {
        (_, "(nil)") => Some(Told::Nil),
        (_, "OK") => Some(Told::Ok),
        _ if answer.starts_with("-UNKNOWN") => Some(Told::Unknown),
        _ => answer.parse().ok().map(Told::Number),
    }
}

/// A value of a pair as its history has it: there they are a thousand apart.
fn pair_value(value: i64) -> i64 {
    1_000 * value
}

/// What an answer tells of both keys of a pair; `None`: what it cannot be, as that they differ.
fn told_of_pair(call: Call, answer: &str) -> Option<Told> {
    match (call, answer) {
        (Call::Set(_) | Call::Del, _) if answer.starts_with("-UNKNOWN") => Some(Told::Unknown),
        (Call::Set(_), "OK") => Some(Told::Ok),
        (Call::Del, "2") => Some(Told::Number(1)),
        (Call::Del, "0") => Some(Told::Number(0)),
        (Call::Get, _) => match array(answer)[..] {
            ["(nil)", "(nil)"] => Some(Told::Nil),
            [one, other] if one == other => {
                let value = one.parse().ok()?;
                Some(Told::Number(pair_value(value)))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether an answer says that nothing was done, and may be asked again.
pub fn is_refusal(answer: &str) -> bool {
    ["-CLUSTERDOWN", "-TRYAGAIN", "-LOADING", "-NOSPACE"]
        .iter()
        .any(|begin| answer.starts_with(begin))
}
