//! `marline backup`: a backup of a node into a file here.
//!
//! ```text
//!   BACKUP name            the node makes it, beside its data, as of one moment
//!   BACKUP READ name …     piece by piece into FILE.tmp
//!   verify FILE.tmp        its checksums, before anybody relies on it
//!   sync, rename, sync     FILE is there, and whole
//!   BACKUP REMOVE name     the node needs it no more
//! ```
//!
//! Whatever goes wrong, there is no FILE and no FILE.tmp; a file that is there is never replaced. Only the outside of
//! a sealed backup is verified: its keys have no business here.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::link::{Answer, Link, LinkError, Target};
use super::options::{self, Backup, Mode, Options, Parsed};
use super::{EXIT_ERROR, EXIT_OK, EXIT_USAGE, Failure, error_line, print};
use crate::data::opening;
use crate::disk::image::read::{self, Summary};
use crate::disk::real::RealDisk;
use crate::disk::{DIRECTORY, Disk};
use crate::shard::meta::Meta;
use crate::wire::decode::Value;

/// Bytes that are asked for at once: the most that a node gives.
const READ_BYTES: u64 = 1 << 20;

/// Runs the tool with the arguments after `marline backup` and returns the exit code.
pub fn run(args: &[String]) -> i32 {
    match options::parse_backup(args, |name| std::env::var(name).ok()) {
        Ok(Parsed::Help(text)) => print(text.as_bytes()).map_or(EXIT_ERROR, |()| EXIT_OK),
        Ok(Parsed::Run(options)) => {
            let Mode::Backup(what) = &options.mode else {
                return EXIT_USAGE;
            };
            backup(&options, what).unwrap_or_else(|failure| failure.report(&options, complain))
        }
        Err(told) => {
            complain(&format!("{told}\nTry: marline backup --help"));
            EXIT_USAGE
        }
    }
}

fn complain(text: &str) {
    error_line(format!("marline backup: {text}").as_bytes());
}

/// Makes a backup and fetches it.
pub(super) fn backup(options: &Options, what: &Backup) -> Result<i32, Failure> {
    let begun = Instant::now();
    let (disk, file) = opening::file(&what.file).map_err(Failure::File)?;
    require_absent(what)?;
    let interrupt = Arc::new(AtomicBool::new(false));
    // Without it Ctrl-C leaves FILE.tmp behind: a pity, not a failure.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupt));
    let target = Target::new(options)?;
    let mut fetch = Fetch {
        link: Link::open(&target, Some(interrupt))?,
        name: fresh_name(),
        disk: Arc::new(disk),
        temporary: format!("{file}.tmp"),
        bar: progress_bar(),
    };
    let made = fetch.make_and_fetch(what, &file);
    fetch.bar.finish_and_clear();
    fetch.tidy(made.as_ref().err());
    let summary = made?;
    let seconds = begun.elapsed().as_secs_f64();
    let (shown, bytes) = (what.file.display(), summary.stored_bytes);
    let held = held(&summary);
    print(format!("{shown}: {bytes} bytes, {held}, {seconds:.1} s\n").as_bytes())?;
    Ok(EXIT_OK)
}

fn require_absent(what: &Backup) -> Result<(), Failure> {
    match what.file.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => {
            let shown = what.file.display();
            Err(Failure::File(format!("{shown} is there already")))
        }
    }
}

/// A name that no backup of the node has.
fn fresh_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    format!("fetched-{seconds}-{:016x}", fastrand::u64(..))
}

/// What a backup holds, in a few words.
fn held(summary: &Summary) -> String {
    if summary.key_id != 0 {
        return format!("sealed with key {}", summary.key_id);
    }
    let meta = summary.meta.as_deref().map(Meta::decode);
    let parts = meta
        .and_then(Result::ok)
        .map_or(Vec::new(), |meta| meta.parts);
    let keys: u64 = parts.iter().map(|part| part.keys).sum();
    format!("{keys} keys")
}

struct Fetch {
    link: Link,
    /// What the node calls it.
    name: String,
    /// Where the file belongs, and its name until it is whole.
    disk: Arc<RealDisk>,
    temporary: String,
    bar: ProgressBar,
}

impl Fetch {
    fn make_and_fetch(&mut self, what: &Backup, file: &str) -> Result<Summary, Failure> {
        self.bar.set_message("the node makes it");
        self.link.send(&words(&["BACKUP", &self.name]))?;
        // It takes as long as it takes.
        let answer = self.link.receive_within(None)?;
        require("BACKUP", &answer)?;
        self.bar.set_message("fetching");
        self.fetch()?;
        let written = |error: io::Error| Failure::File(error.to_string());
        self.disk.sync(&self.temporary).map_err(written)?;
        let disk = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let summary = read::verify(disk, &self.temporary, None)
            .map_err(|damage| Failure::File(format!("what came is damaged: {damage}")))?;
        // Somebody may have made one meanwhile.
        require_absent(what)?;
        (self.disk.rename(&self.temporary, file))
            .and_then(|()| self.disk.sync(DIRECTORY))
            .map_err(written)?;
        Ok(summary)
    }

    /// Writes all of it into the temporary file.
    fn fetch(&mut self) -> Result<(), Failure> {
        let written = |error: io::Error| Failure::File(error.to_string());
        if self.has_temporary().map_err(written)? {
            self.disk.remove(&self.temporary).map_err(written)?;
        }
        let mut offset = 0_u64;
        loop {
            let (at, count) = (offset.to_string(), READ_BYTES.to_string());
            let args = words(&["BACKUP", "READ", &self.name, &at, &count]);
            let answer = self.link.ask(&args)?;
            require("BACKUP READ", &answer)?;
            let Answer::Value(Value::Bulk(bytes)) = answer else {
                return Err(Failure::File(
                    "the node does not answer BACKUP READ with bytes".to_owned(),
                ));
            };
            if bytes.is_empty() {
                return Ok(());
            }
            (self.disk.write(&self.temporary, offset, &bytes)).map_err(written)?;
            offset += bytes.len() as u64;
            self.bar.set_position(offset);
        }
    }

    fn has_temporary(&self) -> io::Result<bool> {
        let files = self.disk.list()?;
        Ok(files.iter().any(|file| file.name == self.temporary))
    }

    /// Removes what nobody needs, here and on the node.
    fn tidy(&mut self, failure: Option<&Failure>) {
        if failure.is_some() && self.has_temporary().unwrap_or(true) {
            // It may not be there; and what cannot be removed now is removed the next time.
            let _ = self.disk.remove(&self.temporary);
        }
        if matches!(failure, Some(Failure::Link(LinkError::Refused(..)))) {
            return;
        }
        let is_lost = matches!(failure, Some(Failure::Link(_)));
        let args = words(&["BACKUP", "REMOVE", &self.name]);
        let is_removed =
            !is_lost && matches!(self.link.ask(&args), Ok(answer) if answer.error().is_none());
        if !is_removed {
            complain(&format!(
                "the node may have kept its copy: marline cli backup remove {}",
                self.name
            ));
        }
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn require(what: &'static str, answer: &Answer) -> Result<(), LinkError> {
    match answer.error() {
        Some(text) => Err(LinkError::Refused(what, text.to_vec())),
        None => Ok(()),
    }
}

/// A spinner with the bytes that came; nothing when nobody looks.
fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{spinner} {msg} {bytes} · {bytes_per_sec}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
