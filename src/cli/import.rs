//! `marline import`: the strings of a Redis dump into a node.
//!
//! ```text
//!   first pass    every event to the end: whole, of a known version, checksum right; nothing is sent before
//!   second pass   SET key value [PXAT ms] [NX], in batches: one is answered while the next one is sent
//! ```
//!
//! Two batches of a thousand commands are under way at most, so that their answers, even if every one is an error,
//! fit into the buffers of a connection: neither side ever waits for the other to read.
//!
//! Deliberately absent: other types than strings (a node has none), other databases than 0, standard input (it
//! cannot be read twice), MIGRATE and RESTORE.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::link::{Answer, Link, LinkError, Target};
use super::options::{self, Import, Mode, Options, Parsed};
use super::rdb::{Event, Key, Rdb, RdbError, Value};
use super::{EXIT_ERROR, EXIT_OK, EXIT_USAGE, Failure, error_line, print};
use crate::wire::decode::Value as Reply;
use crate::wire::encode::encode_request;
use crate::wire::quote::double_quoted;

const BATCH_BYTES: usize = 256 * 1024;
const BATCH_COMMANDS: usize = 1000;
/// Silence after commands were sent.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Refused keys that are shown; all are counted.
const REFUSED_SHOWN_MAX: u64 = 5;

/// Runs the tool with the arguments after `marline import` and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    match options::parse_import(args, |name| std::env::var(name).ok()) {
        Ok(Parsed::Help(text)) => print(text.as_bytes()).map_or(EXIT_ERROR, |()| EXIT_OK),
        Ok(Parsed::Run(options)) => {
            let Mode::Import(what) = &options.mode else {
                return EXIT_USAGE;
            };
            import(&options, what).unwrap_or_else(|failure| failure.report(&options, complain))
        }
        Err(told) => {
            complain(&format!("{told}\nTry: marline import --help"));
            EXIT_USAGE
        }
    }
}

fn complain(text: &str) {
    error_line(format!("marline import: {text}").as_bytes());
}

/// Imports a dump; 1 when a key was refused.
pub(super) fn import(options: &Options, what: &Import) -> Result<i32, Failure> {
    verify(what)?;
    let target = Target::new(options)?;
    let link = Link::open(&target, None)?;
    let mut importer = Importer {
        link,
        silence_max: options.timeout.unwrap_or(SILENCE_MAX),
        keep_existing: what.keep_existing,
        now_ms: now_ms(),
        batch: Vec::new(),
        batched: Vec::new(),
        under_way: VecDeque::new(),
        tally: Tally::default(),
    };
    let done = importer.import(what);
    importer.tally.show()?;
    done?;
    Ok(match importer.tally.refused {
        0 => EXIT_OK,
        _ => EXIT_ERROR,
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// The first pass.
fn verify(what: &Import) -> Result<(), Failure> {
    Dump::open(what, "verifying")?.each(|_| Ok(()))
}

/// A dump that is being read, and how far.
struct Dump<'i> {
    what: &'i Import,
    rdb: Rdb<File>,
    bar: ProgressBar,
    drawn: Instant,
}

impl Dump<'_> {
    fn open<'i>(what: &'i Import, doing: &'static str) -> Result<Dump<'i>, Failure> {
        let file = File::open(&what.file).map_err(|error| {
            Failure::File(format!("cannot open {}: {error}", what.file.display()))
        })?;
        let bar = progress_bar(&file, doing);
        let rdb = Rdb::new(file).map_err(|error| damaged(what, &error))?;
        let drawn = Instant::now();
        Ok(Dump {
            what,
            rdb,
            bar,
            drawn,
        })
    }

    /// Hands every event to `take`.
    fn each(mut self, mut take: impl FnMut(Event) -> Result<(), Failure>) -> Result<(), Failure> {
        let done = loop {
            match self.rdb.next_event() {
                Ok(Some(event)) => {
                    if let Err(failure) = take(event) {
                        break Err(failure);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(damaged(self.what, &error)),
            }
            if self.drawn.elapsed() >= DRAW_INTERVAL {
                self.drawn = Instant::now();
                self.bar.set_position(self.rdb.offset());
            }
        };
        self.bar.finish_and_clear();
        done
    }
}

fn damaged(what: &Import, error: &RdbError) -> Failure {
    Failure::File(format!("{} {error}", what.file.display()))
}

/// A bar over the bytes of a file; nothing when nobody looks.
fn progress_bar(file: &File, doing: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = file.metadata().ok().map(|metadata| metadata.len());
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = "{msg} {wide_bar} {percent}% of {total_bytes}, {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style).with_message(doing),
        Err(_) => bar,
    }
}

/// The second pass.
struct Importer {
    link: Link,
    silence_max: Duration,
    keep_existing: bool,
    now_ms: i64,
    /// Commands that wait to be sent, and their keys.
    batch: Vec<u8>,
    batched: Vec<Vec<u8>>,
    /// Keys that were sent and are not answered.
    under_way: VecDeque<Vec<u8>>,
    tally: Tally,
}

impl Importer {
    fn import(&mut self, what: &Import) -> Result<(), Failure> {
        Dump::open(what, "importing")?.each(|event| self.take(event))?;
        self.send()?;
        self.receive(self.under_way.len())
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Aside(what) => self.tally.skip(what.into_owned()),
            Event::Key(Key { db, .. }) if db != 0 => {
                self.tally.skip(format!("key of database {db}"));
            }
            Event::Key(key) => match key.value {
                Value::Other(kind) => self.tally.skip(kind.into_owned()),
                Value::String(_) if key.expires_ms.is_some_and(|at| at <= self.now_ms) => {
                    self.tally.expired += 1;
                }
                Value::String(value) => return self.set(key.name, value, key.expires_ms),
            },
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        expires_ms: Option<i64>,
    ) -> Result<(), Failure> {
        let mut args = vec![b"SET".to_vec(), key, value];
        if let Some(at) = expires_ms {
            args.extend([b"PXAT".to_vec(), at.to_string().into_bytes()]);
        }
        if self.keep_existing {
            args.push(b"NX".to_vec());
        }
        encode_request(&args, &mut self.batch);
        self.batched.push(args.swap_remove(1));
        match self.batch.len() >= BATCH_BYTES || self.batched.len() >= BATCH_COMMANDS {
            true => self.send(),
            false => Ok(()),
        }
    }

    /// Sends the batch, then reads the answers of the one before.
    fn send(&mut self) -> Result<(), Failure> {
        self.link.send_encoded(&self.batch)?;
        self.batch.clear();
        let due = self.under_way.len();
        self.under_way.extend(self.batched.drain(..));
        self.receive(due)
    }

    fn receive(&mut self, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            let answer = self.link.receive_within(Some(self.silence_max))?;
            let Some(key) = self.under_way.pop_front() else {
                return Err(LinkError::Closed.into());
            };
            self.tally.count(&key, &answer);
        }
        Ok(())
    }
}

/// What became of the keys.
#[derive(Debug, Default)]
struct Tally {
    imported: u64,
    expired: u64,
    existing: u64,
    refused: u64,
    /// By what it was.
    skipped: BTreeMap<String, u64>,
}

impl Tally {
    fn skip(&mut self, what: String) {
        *self.skipped.entry(what).or_default() += 1;
    }

    fn count(&mut self, key: &[u8], answer: &Answer) {
        if let Some(text) = answer.error() {
            self.refused += 1;
            if self.refused <= REFUSED_SHOWN_MAX {
                let mut told = b"refused: ".to_vec();
                double_quoted(key, &mut told);
                told.extend_from_slice(b": ");
                told.extend_from_slice(text);
                error_line(&told);
            }
        } else if matches!(answer, Answer::Value(Reply::Nil)) {
            self.existing += 1;
        } else {
            self.imported += 1;
        }
    }

    fn show(&self) -> Result<(), Failure> {
        let mut text = String::new();
        for (what, count) in &self.skipped {
            text.push_str(&format!("skipped {count}: {what}\n"));
        }
        if self.refused > REFUSED_SHOWN_MAX {
            error_line(format!("and {} more", self.refused - REFUSED_SHOWN_MAX).as_bytes());
        }
        let skipped: u64 = self.skipped.values().sum();
        text.push_str(&format!(
            "imported: {}, expired: {}, existing: {}, refused: {}, skipped: {skipped}\n",
            self.imported, self.expired, self.existing, self.refused
        ));
        print(text.as_bytes())
    }
}
