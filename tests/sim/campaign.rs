//! Many seeds at once, on all cores, and one at a time.
//!
//! A simulation is one thread, with everything that is in it. Every so often a seed is run twice, and both runs must be
//! the same, byte for byte.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use marline::failpoint::Point;

use super::nemesis::kinds::Kind;
use super::run::{Failure, Orders, Outcome, run};
use super::shrink::shrink;

/// One of so many seeds is run twice.
const TWICE: u64 = 50;
/// So many seeds come to every failpoint: else the campaign has failed.
const SEEDS_REACHING_ALL: u64 = 2_000;
/// So many stop a node at each.
const SEEDS_KILLING_AT_ALL: u64 = 10_000;

/// How many cores there are.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Which seeds.
pub enum Seeds {
    All(RangeInclusive<u64>),
    /// Of the clock, for so many minutes.
    Fresh {
        minutes: u64,
    },
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated_ns: u64,
    /// What of it was of three nodes, and how long that took.
    of_three: (u64, Duration),
    done: u64,
    refused: u64,
    unknown: u64,
    unsure: u64,
    fired: BTreeMap<Kind, u64>,
    /// Seeds that came to each point, and nodes that stopped there.
    reached: BTreeMap<Point, u64>,
    killed: BTreeMap<Point, u64>,
    failed: Vec<(Orders, Failure)>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome, took: Duration) {
        self.simulated_ns += outcome.simulated_ns;
        if outcome.nodes == 3 {
            self.of_three.0 += outcome.simulated_ns;
            self.of_three.1 += took;
        }
        self.done += outcome.counts.done;
        self.refused += outcome.counts.refused;
        self.unknown += outcome.counts.unknown;
        self.unsure += outcome.counts.unsure;
        for (kind, count) in &outcome.fired {
            *self.fired.entry(*kind).or_default() += count;
        }
        for point in outcome.hits.keys() {
            *self.reached.entry(*point).or_default() += 1;
        }
        for (point, count) in &outcome.kills {
            *self.killed.entry(*point).or_default() += count;
        }
    }

    fn faults(&self) -> u64 {
        self.fired.values().sum()
    }

    fn commands(&self) -> u64 {
        self.done + self.refused + self.unknown
    }
}

/// Runs one seed, twice; the exit code.
pub fn one(orders: &Orders, is_to_shrink: bool) -> i32 {
    match twice(orders) {
        Ok(outcome) => {
            let seconds = outcome.simulated_ns as f64 / 1e9;
            println!(
                "seed {}: trace {:016x}, {seconds:.1} simulated seconds, {:?}, faults: {}",
                orders.seed,
                outcome.trace,
                outcome.counts,
                listed(&outcome.fired)
            );
            0
        }
        Err(failure) if is_to_shrink => {
            println!("{}\nshrinking:", failure.why);
            let (orders, failure) = shrink(orders, *failure, |command| println!("  {command}"));
            tell(&orders, &failure);
            1
        }
        Err(failure) => {
            tell(orders, &failure);
            1
        }
    }
}

fn twice(orders: &Orders) -> Result<Outcome, Box<Failure>> {
    let first = run(orders)?;
    let second = run(orders)?;
    match first == second {
        true => Ok(first),
        false => Err(Box::new(Failure {
            why: format!("two runs of the same seed differ:\n  {first:?}\n  {second:?}"),
            timeline: String::new(),
            faults: first.faults,
            seconds: 0,
        })),
    }
}

fn tell(orders: &Orders, failure: &Failure) {
    println!(
        "\n{}\n{}\n\nrepeat it with: {}",
        failure.timeline,
        failure.why,
        orders.command()
    );
}

/// Runs many seeds; the exit code. `has_table`: all failpoints are shown.
pub fn many(seeds: &Seeds, orders: &Orders, jobs: usize, has_table: bool) -> i32 {
    let began = Instant::now();
    let (first, last, until) = match seeds {
        Seeds::All(range) => (*range.start(), *range.end(), None),
        Seeds::Fresh { minutes } => {
            let first = fastrand::u64(..1 << 48);
            println!("from seed {first} on");
            (
                first,
                u64::MAX,
                Some(began + Duration::from_secs(60 * minutes)),
            )
        }
    };
    let bar = progress_bar(until.is_none().then(|| last - first + 1));
    let (next, is_over) = (AtomicU64::new(first), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed)
                    && until.is_none_or(|until| Instant::now() < until)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        return;
                    }
                    let orders = Orders {
                        seed,
                        ..orders.clone()
                    };
                    let began = Instant::now();
                    let (ran, times) = match seed % TWICE {
                        0 => (twice(&orders), 2),
                        _ => (run(&orders), 1),
                    };
                    let took = began.elapsed() / times;
                    let mut sum = sum.lock().unwrap();
                    sum.seeds += 1;
                    match ran {
                        Ok(outcome) => sum.add(&outcome, took),
                        Err(failure) => {
                            is_over.store(true, Ordering::Relaxed);
                            sum.failed.push((orders, *failure));
                        }
                    }
                    bar.inc(1);
                    bar.set_message(format!(
                        "{} faults, {} commands",
                        sum.faults(),
                        sum.commands()
                    ));
                }
            });
        }
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().unwrap();
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds in {took:.1} s on {jobs} cores: {:.1} seeds/s and {:.0} simulated seconds/s for each ({:.0} with \
         three nodes); {} commands ({} refused, {} unknown), {} a seed; {} keys of which nobody can tell; {} faults: {}",
        sum.seeds,
        sum.seeds as f64 / took / jobs as f64,
        sum.simulated_ns as f64 / 1e9 / took / jobs as f64,
        sum.of_three.0 as f64 / 1e9 / sum.of_three.1.as_secs_f64(),
        sum.commands(),
        sum.refused,
        sum.unknown,
        sum.commands() / sum.seeds.max(1),
        sum.unsure,
        sum.faults(),
        listed(&sum.fired)
    );
    let is_whole = *orders == Orders::new(orders.seed);
    let misses_points = tell_points(&sum, has_table) && is_whole;
    for (orders, failure) in &sum.failed {
        tell(orders, failure);
    }
    println!(
        "{} passed, {} failed",
        sum.seeds - sum.failed.len() as u64,
        sum.failed.len()
    );
    i32::from(misses_points || !sum.failed.is_empty())
}

/// Says which points the nodes came to; whether some are missing that so many seeds must have come to.
fn tell_points(sum: &Sum, has_table: bool) -> bool {
    if has_table {
        println!("| failpoint | seeds that reached it | nodes killed at it |\n|---|---|---|");
        for point in Point::ALL {
            let count = |counts: &BTreeMap<Point, u64>| counts.get(point).copied().unwrap_or(0);
            println!(
                "| {} | {} | {} |",
                point.name(),
                count(&sum.reached),
                count(&sum.killed)
            );
        }
    }
    let all = Point::ALL.len();
    let without = |counts: &BTreeMap<Point, u64>| -> Vec<&str> {
        let missing = Point::ALL
            .iter()
            .filter(|point| !counts.contains_key(point));
        missing.map(|point| point.name()).collect()
    };
    let (unreached, unkilled) = (without(&sum.reached), without(&sum.killed));
    println!(
        "failpoints: {} of {all} reached, {} of {all} killed at",
        all - unreached.len(),
        all - unkilled.len()
    );
    let mut is_wrong = false;
    for (what, missing, seeds) in [
        ("reached", unreached, SEEDS_REACHING_ALL),
        ("killed at", unkilled, SEEDS_KILLING_AT_ALL),
    ] {
        if missing.is_empty() {
            continue;
        }
        let is_too_many = sum.seeds >= seeds;
        let how = match is_too_many {
            true => format!(", which {seeds} seeds do: FAILED"),
            false => String::new(),
        };
        println!("  never {what}{how}: {}", missing.join(" "));
        is_wrong |= is_too_many;
    }
    is_wrong
}

fn listed(fired: &BTreeMap<Kind, u64>) -> String {
    let all: Vec<String> = fired
        .iter()
        .map(|(kind, count)| format!("{kind:?} {count}"))
        .collect();
    all.join(", ")
}

/// A bar for so many seeds; nothing when nobody looks.
fn progress_bar(seeds: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(seeds, ProgressDrawTarget::stderr());
    let template = "{wide_bar} {pos}/{len} seeds · {per_sec} · {msg}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
