//! Whether the simulator sees anything: bugs are planted, one at a time, and seeds are run until one fails.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use marline::planted::Bug;

use super::run::{Orders, run};

/// How a bug was caught.
struct Caught {
    seeds: u64,
    why: String,
}

/// Runs these seeds with each of these bugs, until one fails; prints the table. The exit code.
pub fn hunt(names: Option<&str>, seeds: &RangeInclusive<u64>, orders: &Orders, jobs: usize) -> i32 {
    let all = Bug::ALL.iter().copied();
    let named = |text: &str| -> Option<Vec<Bug>> { text.split(',').map(Bug::named).collect() };
    let bugs = match names {
        None => all.collect(),
        Some(text) => match named(text) {
            Some(bugs) => bugs,
            None => {
                let known: Vec<&str> = all.map(Bug::name).collect();
                eprintln!(
                    "sim: --bugs takes names, with commas between: {}",
                    known.join(" ")
                );
                return 2;
            }
        },
    };
    let seeds_max = seeds.end() - seeds.start() + 1;
    let (next, found) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = catch(bug, seeds, orders);
                    let seeds = caught.as_ref().map_or(seeds_max, |caught| caught.seeds);
                    eprintln!(
                        "{}: {seeds} seeds{}",
                        bug.name(),
                        if caught.is_some() { "" } else { ", NOT CAUGHT" }
                    );
                    found.lock().unwrap().insert(bug, caught);
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    println!("| bug | seeds | what complained |\n|---|---|---|");
    for (bug, caught) in &found {
        match caught {
            Some(Caught { seeds, why }) => println!("| {} | {seeds} | {why} |", bug.name()),
            None => println!("| {} | | not caught by {seeds_max} seeds |", bug.name()),
        }
    }
    let mut seeds: Vec<u64> = found
        .values()
        .flatten()
        .map(|caught| caught.seeds)
        .collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    println!(
        "\n{} of {} caught, median {median} seeds",
        seeds.len(),
        found.len()
    );
    i32::from(seeds.len() < found.len())
}

fn catch(bug: Bug, seeds: &RangeInclusive<u64>, orders: &Orders) -> Option<Caught> {
    seeds.clone().find_map(|seed| {
        let orders = Orders {
            seed,
            bug: Some(bug.name().to_owned()),
            ..orders.clone()
        };
        let failure = run(&orders).err()?;
        let line = failure.why.lines().next().unwrap_or_default();
        let why = line.replace('|', "\\|").chars().take(90).collect();
        let seeds = seed - seeds.start() + 1;
        Some(Caught { seeds, why })
    })
}
