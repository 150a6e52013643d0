//! What the node counts, and how it measures time without asking the clock for every command.
//!
//! Reading the clock costs as much as a tenth of a SET. A *run* of the same quick command in one batch
//! shares two readings; whatever may take long is measured alone.

use std::collections::BTreeMap;

use crate::command::rows::ROWS;
use crate::command::verb::Verb;
use crate::reactor::timer::Nanos;

use super::Node;
use super::turn::Turn;

/// Buckets of a histogram: bucket `n` counts calls of less than `2^n` microseconds.
pub const BUCKETS: usize = 32;

/// Counters of one command.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerbStats {
    /// Calls that ran.
    pub calls: u64,
    /// Their time.
    pub nanos: u64,
    /// Calls refused before they ran.
    pub rejected: u64,
    /// Calls that ran and answered with an error.
    pub failed: u64,
    /// Calls by time; see [`BUCKETS`].
    pub histogram: [u64; BUCKETS],
}

/// Counters since the start or CONFIG RESETSTAT.
#[derive(Debug)]
pub struct Stats {
    verbs: Vec<VerbStats>,
    /// Commands run.
    pub commands: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections turned away because there were too many.
    pub refused: u64,
    /// Writes that were answered before other replicas had them, and came to nothing or nobody knows.
    pub early_lost: u64,
    /// Error replies by code.
    pub errors: BTreeMap<String, u64>,
    /// Commands at the last sample, and commands a second between the last two.
    pub commands_sampled: u64,
    /// Commands a second, of late.
    pub commands_per_second: u64,
    /// Bytes read and written at the last sample.
    pub bytes_sampled: (u64, u64),
    /// Bytes a second read and written, of late.
    pub bytes_per_second: (u64, u64),
    /// Most memory that keys and values took.
    pub memory_peak: usize,
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            verbs: vec![VerbStats::default(); ROWS.len()],
            commands: 0,
            connections: 0,
            refused: 0,
            early_lost: 0,
            errors: BTreeMap::new(),
            commands_sampled: 0,
            commands_per_second: 0,
            bytes_sampled: (0, 0),
            bytes_per_second: (0, 0),
            memory_peak: 0,
        }
    }
}

/// Codes of error replies that are counted apart; more than this is somebody playing.
const ERROR_CODES_MAX: usize = 128;

impl Stats {
    /// The counters of a command.
    pub fn of(&mut self, verb: Verb) -> &mut VerbStats {
        &mut self.verbs[verb as usize]
    }

    /// All commands that were called or refused.
    pub fn used(&self) -> impl Iterator<Item = (&'static str, &VerbStats)> {
        let used = |stats: &VerbStats| stats.calls + stats.rejected > 0;
        ROWS.iter()
            .zip(&self.verbs)
            .filter(move |(_, stats)| used(stats))
            .map(|(row, stats)| (row.name, stats))
    }

    /// Counts an error reply by the code that `text` begins with.
    pub fn error(&mut self, text: &[u8]) {
        let code = text.split(|&byte| byte == b' ').next().unwrap_or_default();
        let code = String::from_utf8_lossy(&code[..code.len().min(32)]).into_owned();
        if self.errors.len() < ERROR_CODES_MAX || self.errors.contains_key(&code) {
            *self.errors.entry(code).or_default() += 1;
        }
    }

    fn add_run(&mut self, verb: Verb, count: u64, nanos: u64) {
        let stats = &mut self.verbs[verb as usize];
        stats.calls += count;
        stats.nanos += nanos;
        let micros = nanos / count.max(1) / 1_000;
        let bucket = (64 - micros.leading_zeros()) as usize;
        stats.histogram[bucket.min(BUCKETS - 1)] += count;
        self.commands += count;
    }
}

/// The run at hand.
#[derive(Debug, Default)]
pub struct Meter {
    /// The command of the run.
    pub verb: Option<Verb>,
    count: u64,
    since: Nanos,
    /// Every command is measured alone, because somebody wants to see short ones.
    pub each: bool,
}

impl Node {
    /// Ends the run at hand and returns its time in nanoseconds.
    pub fn end_run(&mut self, now: Nanos) -> u64 {
        let meter = &mut self.meter;
        let nanos = now.saturating_sub(meter.since);
        meter.since = now;
        if let Some(verb) = meter.verb.take() {
            let count = std::mem::take(&mut meter.count);
            self.stats.add_run(verb, count, nanos);
        }
        nanos
    }
}

impl Turn<'_, '_, '_> {
    /// Counts a command that ran, as part of the run at hand.
    pub fn count(&mut self, verb: Verb) {
        if self.node.meter.verb != Some(verb) {
            self.end_run();
            self.node.meter.verb = Some(verb);
        }
        self.node.meter.count += 1;
    }

    /// Ends the run at hand and returns its time in nanoseconds.
    pub fn end_run(&mut self) -> u64 {
        let now = self.net.clock();
        self.node.end_run(now)
    }

    /// Counts an error reply that stands in the output from `before` on.
    pub fn count_error(&mut self, verb: Verb, before: usize) {
        self.node.stats.of(verb).failed += 1;
        let written = self.reply.written_from(before);
        let text = written.strip_prefix(b"-").unwrap_or(b"ERR");
        let line = text
            .split(|&byte| byte == b'\r')
            .next()
            .unwrap_or_default()
            .to_vec();
        self.node.stats.error(&line);
    }
}
