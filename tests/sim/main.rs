//! The simulator: whole clusters of real node code with clients and faults, each decided by one seed.
//!
//! ```text
//!   swarm    what a seed draws                     world    nodes, their disks, their network, clients
//!   load     what clients say, and must hear       history  could it have been so?  zones: nor by another judge
//!   nemesis  what fails when                       watch    what is always true of the replicas
//!   run      all of it, from founding to judgement
//!   sealed   no two pieces of a file have a nonce in common
//!   timeline, shrink                               what is told of a failure
//!   campaign many seeds at once
//!   bugs     planted ones, to see whether all this sees anything
//! ```
//!
//! Nodes are stopped at named points of their code too (`marline::failpoint`): each seed has one at which every node
//! stops once, and a campaign says which of all these points were reached. One of enough seeds fails if it missed some.
//!
//! `scripts/sim --help` says how it is used. It is a program of its own and not one test among others, so that it can
//! be built for speed and say how it gets on.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test")]
#![expect(
    clippy::disallowed_methods,
    reason = "the campaign around the simulations has threads and tells the time"
)]

#[cfg(feature = "planted")]
mod bugs;
mod campaign;
#[expect(dead_code, reason = "its own tests are run elsewhere")]
mod history;
mod load;
mod nemesis;
mod run;
mod sealed;
mod shrink;
mod swarm;
mod timeline;
mod watch;
#[expect(dead_code, reason = "a part of it is for scenarios")]
mod world;
#[expect(dead_code, reason = "its own tests are run elsewhere")]
mod zones;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::process::exit;

use campaign::Seeds;
use run::{Orders, report};

const BRIEF: &str = "\
Usage: scripts/sim [options]

Runs clusters of three nodes and more in one process, in simulated time, with faults, and judges what clients were
told. Without an option: seeds 1..100.";

const NOTES: &str = "
Exit codes: 0 nothing was wrong · 1 something was; the command that repeats it is printed · 2 usage.
";

/// Prints what the nodes log, if `CLUSTER_LOG` says so.
fn log_if_asked() {
    if std::env::var_os("CLUSTER_LOG").is_some() {
        let mut builder = env_logger::builder();
        let _ = builder.filter_level(log::LevelFilter::Debug).try_init();
    }
}

fn main() {
    let grammar = grammar();
    let wrong = |text: &str| -> ! {
        eprintln!("sim: {text}; try scripts/sim --help");
        exit(2);
    };
    let matches = grammar
        .parse(std::env::args().skip(1))
        .unwrap_or_else(|fault| wrong(&fault.to_string()));
    if matches.opt_present("help") {
        print!("{}{NOTES}", grammar.usage(BRIEF));
        return;
    }
    let number = |name: &str| -> Option<u64> {
        let text = matches.opt_str(name)?;
        let number = text
            .parse()
            .unwrap_or_else(|_| wrong(&format!("--{name}: '{text}' is no number")));
        Some(number)
    };
    let mut orders = Orders::new(0);
    orders.clients = number("clients").map(|clients| clients as usize);
    orders.seconds = number("seconds").unwrap_or(orders.seconds);
    if let Some(text) = matches.opt_str("without") {
        let numbers: Result<BTreeSet<usize>, _> = text.split(',').map(str::parse).collect();
        orders.without =
            numbers.unwrap_or_else(|_| wrong("--without takes numbers, with commas between"));
    }
    run::quiet();
    if let Some(seed) = number("seed") {
        orders.seed = seed;
        orders.bug = matches.opt_str("bugs");
        exit(campaign::one(&orders, matches.opt_present("shrink")));
    }
    let jobs = number("jobs").map_or_else(campaign::cores, |jobs| jobs.max(1) as usize);
    let is_hunt = matches.opt_present("bugs");
    let all = matches.opt_str("seeds").map(|text| {
        range(&text).unwrap_or_else(|| wrong("--seeds takes A..B, both of them seeds"))
    });
    let seeds = match (all, number("minutes")) {
        (Some(_), Some(_)) => wrong("--seeds and --minutes exclude each other"),
        (_, Some(_)) if is_hunt => wrong("--bugs and --minutes exclude each other"),
        (None, Some(minutes)) => Seeds::Fresh { minutes },
        (all, None) => Seeds::All(all.unwrap_or(1..=if is_hunt { 400 } else { 100 })),
    };
    if let Seeds::All(seeds) = &seeds
        && is_hunt
    {
        let names = matches.opt_str("bugs");
        exit(hunt(names.as_deref(), seeds, &orders, jobs));
    }
    let table = matches.opt_present("points");
    exit(campaign::many(&seeds, &orders, jobs, table));
}

#[cfg(feature = "planted")]
use bugs::hunt;

#[cfg(not(feature = "planted"))]
fn hunt(_: Option<&str>, _: &RangeInclusive<u64>, _: &Orders, _: usize) -> i32 {
    eprintln!(
        "sim: no bugs can be planted in this build: use scripts/sim, or cargo's --features planted"
    );
    2
}

fn grammar() -> getopts::Options {
    let mut grammar = getopts::Options::new();
    grammar
        .optopt(
            "",
            "seed",
            "this one, twice, to see that both runs are the same",
            "SEED",
        )
        .optflag("", "shrink", "with --seed: make it smaller when it fails")
        .optflagopt(
            "",
            "bugs",
            "plant each bug, or these, and run seeds until one fails (default: 1..400)",
            "NAME,...",
        )
        .optopt("", "seeds", "all from A to B", "A..B")
        .optopt("", "minutes", "fresh ones, for so long", "N")
        .optopt(
            "",
            "jobs",
            "so many at once (default: one for each core)",
            "N",
        )
        .optopt(
            "",
            "seconds",
            "how long the clients go on, in simulated seconds",
            "N",
        )
        .optopt("", "clients", "how many clients", "N")
        .optopt(
            "",
            "without",
            "leave out these faults, by number",
            "N,N,...",
        )
        .optflag(
            "",
            "points",
            "with many seeds: a table of the places where nodes were stopped",
        )
        .optflag("", "help", "print this text");
    grammar
}

fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once("..")?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}
