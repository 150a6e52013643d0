//! The store against a real Redis 7: random commands, equal replies and equal keyspace events.
//!
//! `MARLINE_REDIS=127.0.0.1:6379 cargo test --test store_redis -- --ignored --nocapture`
//!
//! The server is flushed. `MARLINE_SEED` repeats a run.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may look at the clock and start threads"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use marline::command::data::Command;
use marline::command::parse::WithoutKey;
use marline::command::{parse, table};
use marline::store::{HashSeed, Store};
use marline::wire::reply::{Dialect, Reply};
use marline::wire::request::OwnedArgs;

const BATCH: usize = 500;
const BATCHES: usize = 400;

struct Redis(TcpStream);

impl Redis {
    fn connect(address: &str) -> Redis {
        let stream = TcpStream::connect(address).expect("a Redis listens at MARLINE_REDIS");
        let patience = Some(Duration::from_millis(300));
        stream.set_read_timeout(patience).expect("a timeout");
        Redis(stream)
    }

    fn send(&mut self, commands: &[Vec<Vec<u8>>]) {
        let mut out = Vec::new();
        for args in commands {
            out.extend(format!("*{}\r\n", args.len()).bytes());
            for arg in args {
                out.extend(format!("${}\r\n", arg.len()).bytes());
                out.extend_from_slice(arg);
                out.extend(b"\r\n");
            }
        }
        self.0.write_all(&out).expect("sent");
    }

    /// Whatever arrives until it is silent for a while.
    fn drain(&mut self) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(len @ 1..) = self.0.read(&mut part) {
            all.extend_from_slice(&part[..len]);
        }
        all
    }

    fn replies(&mut self, count: usize) -> Vec<Vec<u8>> {
        let (mut bytes, mut part, mut replies, mut at) =
            (Vec::new(), vec![0; 1 << 16], Vec::new(), 0);
        while replies.len() < count {
            if let Some(len) = reply_len(&bytes[at..]) {
                replies.push(bytes[at..at + len].to_vec());
                at += len;
                continue;
            }
            let len = self.0.read(&mut part).expect("a reply in time");
            bytes.extend_from_slice(&part[..len]);
        }
        replies
    }
}

/// Length of the first whole RESP2 value.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || -> i64 {
        let text = std::str::from_utf8(&bytes[1..line - 2]).expect("a number");
        text.parse().expect("a number")
    };
    match bytes[0] {
        b'$' if number() >= 0 => {
            Some(line + number() as usize + 2).filter(|&len| len <= bytes.len())
        }
        b'*' => (0..number().max(0)).try_fold(line, |at, _| Some(at + reply_len(&bytes[at..])?)),
        _ => Some(line),
    }
}

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"5",
    b"-7",
    b"9999",
    b"10000",
    b"9223372036854775807",
    b"-9223372036854775808",
    b" 1",
    b"hello",
    b"3.0e3",
    b"0x1p3",
    b"-0",
    b"1e-4950",
    b"inf",
    b"0.1",
    b"\x00\xff\x0f",
    b"\xff\xff\xff",
    b"12345678901234567890123456789012345678901234",
    b"123456789012345678901234567890123456789012345",
    b"3.14159",
    b"10.5",
    b"100000000000000000000",
];
const NUMBERS: &[i64] = &[
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    15,
    16,
    63,
    64,
    100,
    511,
    600,
    -1,
    -2,
    -3,
    -5,
    -8,
    -9,
    -17,
    -100,
    1 << 40,
    i64::MIN,
    i64::MAX,
];

struct Generator {
    random: fastrand::Rng,
    far_ms: u64,
}

impl Generator {
    fn value(&mut self) -> Vec<u8> {
        match self.random.u8(..8) {
            0 => vec![self.random.u8(..); self.random.usize(..700)],
            1 => (0..self.random.usize(..80))
                .map(|_| self.random.u8(..))
                .collect(),
            2 => self.random.i64(-200..20_000).to_string().into_bytes(),
            3 => format!("{:.*}", self.random.usize(..20), self.random.f64() * 1e6).into_bytes(),
            _ => VALUES[self.random.usize(..VALUES.len())].to_vec(),
        }
    }

    fn number(&mut self) -> i64 {
        if self.random.bool() {
            self.random.i64(-40..40)
        } else {
            NUMBERS[self.random.usize(..NUMBERS.len())]
        }
    }

    fn choice(&mut self, of: &[&'static str]) -> &'static str {
        of[self.random.usize(..of.len())]
    }

    fn time(&mut self) -> String {
        match self.random.u8(..4) {
            0 => "1".to_owned(),
            _ => (self.far_ms + self.random.u64(..5) * 100_000).to_string(),
        }
    }

    fn range(&mut self) -> String {
        let (start, end) = (self.number(), self.number());
        let unit = self.choice(&["", " BYTE", " BIT", " bit"]);
        format!(" {start} {end}{unit}")
    }

    fn bitfield(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.random.usize(1..5) {
            let (width, limit) = (self.choice(&["u", "i"]), self.random.u32(1..64));
            let offset = self.random.u32(..400);
            let value = self.number();
            let over = self.choice(&["", " OVERFLOW WRAP", " OVERFLOW SAT", " OVERFLOW FAIL"]);
            text += &match self.random.u8(..3) {
                0 => format!(" GET {width}{limit} {offset}"),
                1 => format!("{over} SET {width}{limit} {offset} {value}"),
                _ => format!("{over} INCRBY {width}{limit} {offset} {value}"),
            };
        }
        text
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        let key = format!("k{}", self.random.u8(..8));
        let (value, time, number) = (self.value(), self.time(), self.number());
        let small = self.random.u32(..700);
        let (bit, range) = (self.random.u8(..2), self.range());
        let mut text = match self.random.u8(..40) {
            0..=4 => {
                let expiry = self.choice(&["", "", " KEEPTTL", " PXAT "]);
                let time = if expiry == " PXAT " { &time } else { "" };
                let rest = self.choice(&["", "", "", " NX", " XX", " GET", " XX GET", " NX GET"]);
                let mut args = words(&format!("SET {key}"));
                args.push(value);
                args.extend(words(&format!("{expiry}{time}{rest}")).into_iter().skip(1));
                return args;
            }
            5 => format!("SETNX {key} ?"),
            6 => format!("GETSET {key} ?"),
            7 => format!("APPEND {key} ?"),
            8 => format!("SETRANGE {key} {small} ?"),
            9 => format!("INCRBY {key} {number}"),
            10 => format!(
                "{} {key}",
                self.choice(&["INCR", "DECR", "GETDEL", "DEL", "EXISTS"])
            ),
            11 | 12 => format!("INCRBYFLOAT {key} ?"),
            13 => format!("SETBIT {key} {small} {bit}"),
            14 => format!("GETBIT {key} {small}"),
            15 | 16 => format!("BITFIELD {key}{}", self.bitfield()),
            17 => format!("BITFIELD_RO {key} GET u8 {small} GET i64 {small}"),
            18 | 19 => format!(
                "BITCOUNT {key}{}",
                self.choice(&["", "?"]).replace('?', &range)
            ),
            20 | 21 => format!("BITPOS {key} {bit}{range}"),
            22 => format!("BITPOS {key} {bit}"),
            23 => format!("BITPOS {key} {bit} {number}"),
            24 | 25 => format!("GETRANGE {key} {number} {}", self.number()),
            26 => format!(
                "GETEX {key}{}",
                self.choice(&["", " PERSIST", " PXAT ?"])
                    .replace('?', &time)
            ),
            27 | 28 => {
                let condition = self.choice(&["", " NX", " XX", " GT", " LT", " XX GT", " XX LT"]);
                format!("PEXPIREAT {key} {time}{condition}")
            }
            29 => format!("PERSIST {key}"),
            30 => format!("{} {key}", self.choice(&["PEXPIRETIME", "EXPIRETIME"])),
            31 | 32 => format!("OBJECT ENCODING {key}"),
            33 => format!("OBJECT REFCOUNT {key}"),
            34 => format!("TYPE {key}"),
            35 => format!("TOUCH {key}"),
            36 => format!("STRLEN {key}"),
            37 => format!("PSETEX {key} 100000000 ?"),
            _ => format!("GET {key}"),
        };
        let has_value = text.ends_with(" ?");
        if has_value {
            text.truncate(text.len() - 2);
        }
        let mut args = words(&text);
        args.extend(has_value.then_some(value));
        args
    }
}

/// The key of a command; every one made here has it first, OBJECT's second.
fn args_key(args: &[Vec<u8>]) -> &[u8] {
    &args[if args[0] == b"OBJECT" { 2 } else { 1 }]
}

type Events = BTreeMap<(String, String), usize>;

fn ours(store: &mut Store, args: &[Vec<u8>], at_ms: u64, events: &mut Events) -> Vec<u8> {
    let mut owned = OwnedArgs::default();
    args.iter().for_each(|arg| owned.push(arg));
    let mut row = table::find(&args[0]).expect("a command we have");
    if row.is_container() {
        row = table::find_sub(row, &args[1]).expect("a subcommand we have");
    }
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, Dialect::Resp2);
    match parse::data(row, owned.args(), at_ms).expect("a data command") {
        Err(fault) => match fault.without_key {
            Some(answer) if store.lookup(args_key(args), at_ms).is_none() => match answer {
                WithoutKey::Nil => reply.nil(),
                WithoutKey::Int(number) => reply.int(number),
            },
            _ => reply.error_bytes(&fault.text),
        },
        Ok(Command::Many(_)) => panic!("only commands on one key are made here"),
        Ok(Command::One(op)) => {
            let key = String::from_utf8_lossy(op.key).into_owned();
            for event in store.apply(&op, at_ms, &mut reply).events() {
                *events
                    .entry((key.clone(), event.name().to_owned()))
                    .or_default() += 1;
            }
        }
    }
    out
}

/// The notifications in a subscriber's input, counted.
fn counted(bytes: &[u8]) -> Events {
    let mut events = Events::new();
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split("\r\n").collect();
    for (index, line) in lines.iter().enumerate() {
        if let Some((_, event)) = line
            .split_once("__:")
            .filter(|_| line.starts_with("__keyevent"))
        {
            let key = lines[index + 2].to_owned();
            *events.entry((key, event.to_owned())).or_default() += 1;
        }
    }
    events
}

#[test]
#[ignore = "needs a Redis 7 at MARLINE_REDIS"]
fn random_commands_answer_as_redis_does() {
    let address = std::env::var("MARLINE_REDIS").expect("MARLINE_REDIS names a Redis 7");
    let seed = std::env::var("MARLINE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MARLINE_SEED={seed}");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let at_ms = now.as_millis() as u64;
    let mut generator = Generator {
        random: fastrand::Rng::with_seed(seed),
        far_ms: at_ms + 50_000_000,
    };
    let (mut redis, mut listener) = (Redis::connect(&address), Redis::connect(&address));
    redis.send(&[
        words("FLUSHALL"),
        words("CONFIG SET notify-keyspace-events EAnm"),
    ]);
    assert_eq!(redis.replies(2), [b"+OK\r\n", b"+OK\r\n"]);
    listener.send(&[words("PSUBSCRIBE __keyevent*")]);
    listener.drain();
    let mut store = Store::new(HashSeed(seed, 1));
    let (mut our_events, mut their_events) = (Events::new(), Vec::new());
    let mut compared = 0;
    for _ in 0..BATCHES {
        let mut commands: Vec<_> = (0..BATCH).map(|_| generator.command()).collect();
        // Expired keys are found by both at the end of a batch, if not before.
        commands.extend((0..8).map(|key| words(&format!("GET k{key}"))));
        redis.send(&commands);
        let theirs = redis.replies(commands.len());
        for (args, theirs) in commands.iter().zip(theirs) {
            let ours = ours(&mut store, args, at_ms, &mut our_events);
            let text: Vec<_> = args
                .iter()
                .map(|arg| arg.escape_ascii().to_string())
                .collect();
            let is_psetex_time = args[0] == b"PEXPIRETIME" || args[0] == b"EXPIRETIME";
            let is_equal = ours == theirs || (is_psetex_time && theirs.len() > 8);
            assert!(
                is_equal,
                "after {compared}: {text:?}\n ours   {}\n redis  {}",
                ours.escape_ascii(),
                theirs.escape_ascii()
            );
            compared += 1;
        }
    }
    their_events.extend(listener.drain());
    assert_eq!(our_events, counted(&their_events));
    let total: usize = our_events.values().sum();
    println!("{compared} replies and {total} events are equal");
}
