//! Tools for files that no node uses just now.
//!
//! - [`check`]: `marline check DIR`: is all of a data directory whole?
//! - [`verify`]: `marline backup --verify FILE`: is a backup whole, and what is in it?
//! - [`restore`]: `marline restore FILE --data DIR`: a data directory out of a backup.
//!
//! They open files as a node does (the directory is locked, rings of keys must be private) and put shards together
//! as a node does when it starts: what they call whole, a node starts from. Findings go to standard output, one a
//! line; what kept a tool from its work goes to standard error.
//!
//! Exit codes: 0 whole, or done; 1 damaged, or not done; 2 wrong usage.
//!
//! Deliberately absent: repair. What is damaged is brought back from a backup; guessing what it held is not ours.

pub mod check;
pub mod restore;
pub mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};

use getopts::{Matches, Options};

use crate::data::files::Keys;
use crate::data::opening;
use crate::disk::Disk;
use crate::disk::header::{HEADER_BYTES, Header, Kind};
use crate::disk::seal::{Entropy, KEY_BYTES, KeyRing};
use crate::store::HashSeed;

const EXIT_OK: i32 = 0;
const EXIT_ERROR: i32 = 1;
const EXIT_USAGE: i32 = 2;

/// Where a tool says its lines.
pub type Tell<'t> = &'t mut dyn FnMut(&str);

/// What became of looking at files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as it was written.
    Whole,
    /// No ring of keys was given: what is sealed was held against its checksums and not opened.
    Closed,
    /// Something is not as it was written, or its key is not in the ring that was given.
    Damaged,
}

impl Verdict {
    /// The exit code that says so.
    fn code(self) -> i32 {
        match self {
            Verdict::Whole | Verdict::Closed => EXIT_OK,
            Verdict::Damaged => EXIT_ERROR,
        }
    }
}

/// The command line of a tool.
struct Line {
    matches: Matches,
    tool: &'static str,
}

impl Line {
    /// Reads the arguments of `marline tool`.
    ///
    /// # Errors
    /// The exit code: help was asked for and given, or the usage is wrong and that was told.
    fn read(
        tool: &'static str,
        brief: &str,
        mut grammar: Options,
        args: &[String],
    ) -> Result<Line, i32> {
        grammar
            .optopt("", "seal-keys", "ring of keys of what is sealed", "FILE")
            .optflag("", "help", "print this text");
        let matches = grammar
            .parse(args)
            .map_err(|fault| wrong(tool, &fault.to_string()))?;
        if matches.opt_present("help") {
            print(&grammar.usage(brief));
            return Err(EXIT_OK);
        }
        Ok(Line { matches, tool })
    }

    /// The one free argument.
    fn one(&self, what: &str) -> Result<PathBuf, i32> {
        match self.matches.free.as_slice() {
            [one] => Ok(PathBuf::from(one)),
            _ => Err(wrong(self.tool, &format!("it takes {what}"))),
        }
    }

    fn path(&self, option: &str) -> Option<PathBuf> {
        self.matches.opt_str(option).map(PathBuf::from)
    }

    /// The ring of keys, if one is named.
    fn keys(&self) -> Result<Option<Keys>, i32> {
        let path = self.path("seal-keys");
        let keys = path.map(|path| opening::keys(&path, false, 0));
        keys.transpose().map_err(|told| self.fail(&told))
    }

    /// Tells what kept the tool from its work; the exit code.
    fn fail(&self, told: &str) -> i32 {
        complain(self.tool, told);
        EXIT_ERROR
    }
}

fn wrong(tool: &str, told: &str) -> i32 {
    complain(tool, &format!("{told}\nTry: marline {tool} --help"));
    EXIT_USAGE
}

fn complain(tool: &str, told: &str) {
    // There is nobody to tell when that fails.
    let _ = writeln!(std::io::stderr().lock(), "marline {tool}: {told}");
}

/// A line on standard output; who has seen enough of it may have gone.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", line.trim_end());
}

/// A seed that nobody knows.
fn kernel_seed() -> HashSeed {
    new_seed(&mut opening::kernel_entropy())
}

fn new_seed(entropy: &mut Entropy) -> HashSeed {
    let mut bytes = [0; 16];
    entropy(&mut bytes);
    let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    HashSeed(half(0), half(8))
}

/// What is known of the key of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seal {
    /// It needs none, or there is one.
    Open,
    /// No ring was given.
    Closed(u32),
    /// The ring that was given does not have it.
    Missing(u32),
}

impl Seal {
    /// Of the image or the segment of this name. What has no such header is open, to be found damaged.
    fn of(disk: &dyn Disk, name: &str, kind: Kind, ring: Option<&KeyRing>) -> Seal {
        let mut bytes = [0; HEADER_BYTES];
        let length = disk.read(name, 0, &mut bytes).unwrap_or(0);
        let header = Header::decode(&bytes[..length], kind, name);
        let id = header.map_or(0, |header| header.key_id);
        match ring {
            _ if id == 0 || secret(ring, id).is_some() => Seal::Open,
            None => Seal::Closed(id),
            Some(_) => Seal::Missing(id),
        }
    }
}

fn secret(ring: Option<&KeyRing>, id: u32) -> Option<[u8; KEY_BYTES]> {
    ring?.secret(id)
}

/// The key of a file as its line has it.
fn key_text(id: u32) -> String {
    match id {
        0 => "plain".to_owned(),
        id => format!("key {id}"),
    }
}

/// The path as people typed it, for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
