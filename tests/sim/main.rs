//! The simulation of the mail layer: accounts over storage on a machine whose power, disk and process fail.
//!
//! Each seed is one run of several lives. Clients change accounts and note what they are told; after each start and
//! at each look everything that was told must be there exactly once, nothing that was refused, and what had no answer
//! whole or not at all.
//!
//! `CULVER_SIM_SEEDS=n` says how many seeds, `CULVER_SIM_SEED=n` runs one or, with both, is the first;
//! `CULVER_TEST_LONG=1` runs 10,000.
//!
//! # Invariants
//! The same seed gives the same run. Nothing here reads a clock.

mod client;
mod compare;
mod faults;
mod mail;
mod node;
mod observe;
mod oracle;
mod scenario;
mod tree;

use oracle::Figures;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of an everyday run: about a minute of a debug build on two cores.
const SEEDS: u64 = 30;
/// The first of the everyday seeds, which find every planted fault.
const SEEDS_PLANTED: u64 = SEEDS;
const SEEDS_LONG: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One run, and what was wrong in it.
fn run(seed: u64) -> Result<(Figures, u64), String> {
    let again = format!("CULVER_SIM_SEED={seed} cargo test -p culver --test sim everyday");
    let ran = std::panic::catch_unwind(|| scenario::run(seed));
    match ran {
        Ok(outcome) if outcome.errors.is_empty() => Ok((outcome.figures, outcome.digest)),
        Ok(outcome) => {
            let some: Vec<&String> = outcome.errors.iter().take(5).collect();
            Err(format!("life {}: {some:#?}\nreplay: {again}", outcome.figures.lives))
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(format!("{text}\nreplay: {again}"))
        }
    }
}

/// Runs seeds on all cores until one fails.
fn all(seeds: std::ops::Range<u64>) -> Figures {
    let next = AtomicU64::new(seeds.start);
    let (sum, failed) = (std::sync::Mutex::new(Figures::default()), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !failed.lock().expect("held for no panic").is_empty() {
                        break;
                    }
                    match run(seed) {
                        Ok((figures, _)) => sum.lock().expect("held for no panic").add(&figures),
                        Err(error) => failed.lock().expect("held for no panic").push(error),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    sum.into_inner().expect("no thread panics")
}

#[test]
fn everyday() {
    let long = number("CULVER_TEST_LONG") == Some(1);
    let count = number("CULVER_SIM_SEEDS").unwrap_or(if long { SEEDS_LONG } else { SEEDS });
    let seeds = match (number("CULVER_SIM_SEED"), number("CULVER_SIM_SEEDS")) {
        (Some(seed), None) => seed..seed + 1,
        (first, _) => first.unwrap_or(1)..first.unwrap_or(1) + count,
    };
    let figures = all(seeds.clone());
    println!("CULVER_SIM_SEED={}..{}: {figures:?}", seeds.start, seeds.end);
    if seeds.end - seeds.start >= 20 {
        assert!(figures.proves_something(), "a scenario in which too little happens: {figures:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (run(7).expect("a run without errors"), run(7).expect("a run without errors"));
    assert_eq!(first, second);
    assert_ne!(first.1, run(8).expect("a run without errors").1);
}

/// `CULVER_SIM_FAULT=name` plants those alone whose name contains it.
#[test]
fn planted_faults_are_found() {
    let missed = faults::all(SEEDS_PLANTED);
    assert!(missed.is_empty(), "not found by {SEEDS_PLANTED} seeds: {missed:?}");
}
