//! LATENCY: spikes from `latency-monitor-threshold` milliseconds on, by event, and time by command.
//!
//! Events are `command` (not quick), `fast-command` (quick) and `turn` (a whole turn of the reactor). Of
//! spikes in the same second the highest is kept.

use std::collections::{BTreeMap, VecDeque};

use crate::command::glob;
use crate::command::row::{Row, flag};
use crate::command::table;
use crate::command::verb::Verb;
use crate::wire::request::Args;

use super::stats::BUCKETS;
use super::turn::Turn;

/// Spikes kept for each event.
const SPIKES_MAX: usize = 160;

#[derive(Debug, Clone, Copy)]
struct Spike {
    at_seconds: u64,
    ms: u64,
}

/// The spikes of all events.
#[derive(Debug, Default)]
pub struct Latency {
    events: BTreeMap<&'static str, (VecDeque<Spike>, u64)>,
}

impl Latency {
    /// Records a spike.
    pub fn record(&mut self, event: &'static str, at_seconds: u64, ms: u64) {
        let (spikes, most) = self.events.entry(event).or_default();
        *most = ms.max(*most);
        match spikes
            .back_mut()
            .filter(|last| last.at_seconds == at_seconds)
        {
            Some(last) => last.ms = last.ms.max(ms),
            None => spikes.push_back(Spike { at_seconds, ms }),
        }
        if spikes.len() > SPIKES_MAX {
            spikes.pop_front();
        }
    }
}

/// Records a command that took long.
pub fn consider(turn: &mut Turn<'_, '_, '_>, row: &Row, took_us: u64) {
    let ms = took_us / 1_000;
    if turn
        .node
        .options
        .latency_threshold_ms
        .is_some_and(|threshold| ms >= threshold)
    {
        let event = if row.is(flag::FAST) {
            "fast-command"
        } else {
            "command"
        };
        turn.node.latency.record(event, turn.node.at_ms / 1000, ms);
    }
}

/// All subcommands.
pub fn latency(turn: &mut Turn<'_, '_, '_>, verb: Verb, args: Args<'_>) {
    match verb {
        Verb::LatencyLatest => latest(turn),
        Verb::LatencyHistory => history(turn, args.at(2)),
        Verb::LatencyReset => reset(turn, args.skip(2)),
        Verb::LatencyGraph => graph(turn, args.at(2)),
        Verb::LatencyDoctor => doctor(turn),
        _ => histogram(turn, args.skip(2)),
    }
}

fn latest(turn: &mut Turn<'_, '_, '_>) {
    turn.reply.array(turn.node.latency.events.len());
    for (event, (spikes, most)) in &turn.node.latency.events {
        let last = spikes.back().copied().unwrap_or(Spike {
            at_seconds: 0,
            ms: 0,
        });
        turn.reply.array(4);
        turn.reply.bulk(event.as_bytes());
        turn.reply.int(last.at_seconds.cast_signed());
        turn.reply.int(last.ms.cast_signed());
        turn.reply.int(most.cast_signed());
    }
}

fn history(turn: &mut Turn<'_, '_, '_>, event: &[u8]) {
    let spikes: Vec<Spike> = spikes(turn, event);
    turn.reply.array(spikes.len());
    for spike in spikes {
        turn.reply.array(2);
        turn.reply.int(spike.at_seconds.cast_signed());
        turn.reply.int(spike.ms.cast_signed());
    }
}

fn spikes(turn: &Turn<'_, '_, '_>, event: &[u8]) -> Vec<Spike> {
    let event = std::str::from_utf8(event).unwrap_or_default();
    let known = turn.node.latency.events.get(event);
    known
        .map(|(spikes, _)| spikes.iter().copied().collect())
        .unwrap_or_default()
}

fn reset(turn: &mut Turn<'_, '_, '_>, events: Args<'_>) {
    let known = &mut turn.node.latency.events;
    let before = known.len();
    match events.is_empty() {
        true => known.clear(),
        false => known.retain(|event, _| !events.iter().any(|name| name == event.as_bytes())),
    }
    turn.reply.count(before - turn.node.latency.events.len());
}

fn graph(turn: &mut Turn<'_, '_, '_>, event: &[u8]) {
    const ROWS: u64 = 8;
    let spikes = spikes(turn, event);
    let name = String::from_utf8_lossy(event).into_owned();
    let most = spikes.iter().map(|spike| spike.ms).max().unwrap_or(0);
    if most == 0 {
        return turn
            .reply
            .error(&format!("ERR No samples available for event '{name}'"));
    }
    let mut text = format!(
        "{name} - high {most} ms, {} spikes, oldest first\n",
        spikes.len()
    );
    for row in (1..=ROWS).rev() {
        let line: String = spikes
            .iter()
            .map(|spike| {
                if spike.ms * ROWS >= row * most {
                    '#'
                } else {
                    ' '
                }
            })
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    turn.reply.verbatim(&text);
}

fn doctor(turn: &mut Turn<'_, '_, '_>) {
    let events = &turn.node.latency.events;
    let text = if turn.node.options.latency_threshold_ms.is_none() {
        "Latency is not being recorded. CONFIG SET latency-monitor-threshold <milliseconds> turns it on.\n".to_owned()
    } else if events.is_empty() {
        "No spike has been recorded.\n".to_owned()
    } else {
        let mut text = String::new();
        for (event, (spikes, most)) in events {
            let sum: u64 = spikes.iter().map(|spike| spike.ms).sum();
            let mean = sum / (spikes.len() as u64).max(1);
            text.push_str(&format!(
                "{event}: {} spikes, mean {mean} ms, worst {most} ms.\n",
                spikes.len()
            ));
        }
        text.push_str("SLOWLOG GET shows which commands took long.\n");
        text
    };
    turn.reply.verbatim(&text);
}

/// LATENCY HISTOGRAM: calls that took less than 1, 2, 4 … microseconds, cumulated.
fn histogram(turn: &mut Turn<'_, '_, '_>, patterns: Args<'_>) {
    let wanted = |name: &str| {
        patterns.is_empty()
            || patterns.iter().any(|wanted| {
                let row = table::find(wanted).map(|row| row.name);
                row == Some(name)
                    || row.is_some_and(|row| name.starts_with(&format!("{row}|")))
                    || glob::matches_ignoring_case(wanted, name.as_bytes())
                        && wanted.contains(&b'*')
            })
    };
    let used: Vec<_> = turn
        .node
        .stats
        .used()
        .filter(|(name, stats)| stats.calls > 0 && wanted(name))
        .map(|(name, stats)| (name, *stats))
        .collect();
    turn.reply.map(used.len());
    for (name, stats) in used {
        turn.reply.bulk(name.as_bytes());
        turn.reply.map(2);
        turn.reply.bulk(b"calls");
        turn.reply.int(stats.calls.cast_signed());
        turn.reply.bulk(b"histogram_usec");
        let filled: Vec<usize> = (0..BUCKETS)
            .filter(|&bucket| stats.histogram[bucket] > 0)
            .collect();
        turn.reply.map(filled.len());
        let mut below = 0;
        for bucket in filled {
            below += stats.histogram[bucket];
            turn.reply.int(1 << bucket);
            turn.reply.int(below.cast_signed());
        }
    }
}
