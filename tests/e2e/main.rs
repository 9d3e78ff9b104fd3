//! End-to-end tests: real sockets, real clients, a real process.
//!
//! One binary with a runner of its own: `e2e [FILTER]... [--long] [--list] [--exact]`. A test prints `ok`,
//! `FAILED` with its report, or `skipped: NAME: why`; the last line counts them.
//! `CULVER_TEST_TARGET` chooses the server (see `support::server`), `CULVER_TEST_THREADS` how many
//! transcripts play at once.

mod allowance;
mod clients;
mod configured;
mod descriptors;
mod durability;
mod hostile;
mod lifecycle;
mod nodes;
mod sasl;
mod support;
mod transcript;

use std::env;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use support::server::{ACCOUNTS, Options, Target};
use support::{Fallible, Skipped};

/// What one run was asked for.
pub struct Arguments {
    filters: Vec<String>,
    exact: bool,
    list: bool,
    /// The big numbers.
    pub long: bool,
}

impl Arguments {
    fn parse() -> Arguments {
        let mut arguments = Arguments { filters: Vec::new(), exact: false, list: false, long: false };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--long" => arguments.long = true,
                "--list" => arguments.list = true,
                "--exact" => arguments.exact = true,
                // What cargo's own harness would take: accepted, so that `cargo test -- --nocapture` works.
                "--test-threads" | "--format" | "--color" | "--skip" => drop(words.next()),
                flag if flag.starts_with('-') => {}
                filter => arguments.filters.push(filter.to_owned()),
            }
        }
        arguments.long |= env::var("CULVER_TEST_LONG").is_ok_and(|v| v == "1");
        arguments
    }

    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|f| if self.exact { name == f } else { name.contains(f.as_str()) })
    }
}

/// A test that is not a transcript.
pub struct Test {
    pub name: &'static str,
    pub run: fn(&Arguments) -> Fallible,
}

#[derive(Default)]
struct Tally {
    passed: AtomicUsize,
    failed: AtomicUsize,
    skipped: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn record(&self, name: &str, began: Instant, result: Fallible) {
        let ms = began.elapsed().as_millis();
        match result {
            Ok(()) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                println!("ok {name} ({ms} ms)");
            }
            Err(e) => match e.downcast_ref::<Skipped>() {
                Some(Skipped(why)) => {
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    println!("skipped: {name}: {why}");
                }
                None => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    println!("FAILED {name} ({ms} ms)\n  {}", e.to_string().replace('\n', "\n  "));
                    self.failures.lock().expect("no panic while held").push(name.to_owned());
                }
            },
        }
    }
}

/// A panic in a test is that test's failure.
fn guarded(test: impl FnOnce() -> Fallible) -> Fallible {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)) {
        Ok(result) => result,
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default();
            Err(format!("panicked: {said}").into())
        }
    }
}

fn main() {
    // The other ends of `descriptors`.
    let words: Vec<String> = env::args().skip(1).collect();
    let part = match words.first().map(String::as_str) {
        Some(descriptors::HOLD) => Some(descriptors::hold(&words[1..])),
        Some(descriptors::STORM) => Some(descriptors::storm(&words[1..])),
        _ => None,
    };
    if let Some(played) = part {
        if let Err(error) = played {
            println!("{error}");
            std::process::exit(1);
        }
        return;
    }
    let arguments = Arguments::parse();
    let transcripts = match transcript::parse::all(&transcripts_directory()) {
        Ok(transcripts) => transcripts,
        Err(e) => {
            println!("FAILED transcripts: {e}");
            std::process::exit(1);
        }
    };
    let transcripts: Vec<_> = transcripts.into_iter().filter(|t| arguments.wants(&t.name)).collect();
    let mut tests = vec![Test {
        name: "transcript_patterns_match_what_they_say",
        run: |_| transcript::pattern::self_test(),
    }];
    tests.extend(clients::tests());
    tests.extend(lifecycle::tests());
    tests.extend(allowance::tests());
    tests.extend(configured::tests());
    tests.extend(sasl::tests());
    tests.extend(durability::tests());
    tests.extend(nodes::tests());
    tests.extend(hostile::tests());
    tests.extend(descriptors::tests());
    tests.retain(|test| arguments.wants(test.name));
    if arguments.list {
        for name in transcripts.iter().map(|t| t.name.as_str()).chain(tests.iter().map(|t| t.name)) {
            println!("{name}: test");
        }
        return;
    }
    let tally = Tally::default();
    let all: Vec<&transcript::parse::Transcript> = transcripts.iter().collect();
    play_all(&all, &tally, false);
    // Once more with sessions that sleep at every wait: no client may notice.
    let imap: Vec<_> = all.iter().copied().filter(|t| t.name.starts_with("imap/")).collect();
    play_all(&imap, &tally, true);
    for test in &tests {
        let began = Instant::now();
        tally.record(test.name, began, guarded(|| (test.run)(&arguments)));
    }
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    for name in tally.failures.lock().expect("no panic while held").iter() {
        println!("failed: {name}");
    }
    println!(
        "test result: e2e. {} passed; {} failed; {} ignored",
        count(&tally.passed),
        count(&tally.failed),
        count(&tally.skipped)
    );
    if count(&tally.failed) > 0 {
        std::process::exit(1);
    }
}

fn transcripts_directory() -> PathBuf {
    let root = option_env!("CARGO_MANIFEST_DIR")
        .map_or_else(|| env::current_dir().unwrap_or_default(), PathBuf::from);
    root.join("tests/transcripts")
}

/// Plays transcripts, several at once, against one server at a time; each has accounts of its own.
fn play_all(transcripts: &[&transcript::parse::Transcript], tally: &Tally, asleep: bool) {
    let threads = env::var("CULVER_TEST_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut rest = transcripts;
    while !rest.is_empty() {
        let mut accounts = 0;
        let batch = rest
            .iter()
            .take_while(|t| {
                accounts += t.accounts;
                accounts <= ACCOUNTS
            })
            .count();
        let (now, later) = rest.split_at(batch);
        rest = later;
        let accounts = now.iter().map(|t| t.accounts).sum();
        let began = Instant::now();
        let mut target =
            match Target::start("transcripts", Options { accounts, asleep, ..Options::default() }) {
                Ok(target) => target,
                Err(e) => return tally.record("transcripts: start of the server", began, Err(e)),
            };
        play_batch(now, &target, threads, tally, if asleep { "asleep: " } else { "" });
        if let Ok(culver) = target.culver() {
            let began = Instant::now();
            let result = if culver.alive() { culver.terminate() } else { Err("the server died".into()) };
            tally.record("transcripts: the server stops cleanly afterwards", began, result);
        }
        if tally.failed.load(Ordering::Relaxed) > 0 {
            println!("the end of the server's log:\n{}", target.log_tail());
        }
    }
}

fn play_batch(
    transcripts: &[&transcript::parse::Transcript],
    target: &Target,
    threads: usize,
    tally: &Tally,
    how: &str,
) {
    let next = AtomicUsize::new(0);
    let mut first_account = 0;
    let starts: Vec<usize> = transcripts
        .iter()
        .map(|t| {
            first_account += t.accounts;
            first_account - t.accounts
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, 16) {
            scope.spawn(|| {
                while let Some(n) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < transcripts.len())
                {
                    let one = transcripts[n];
                    let accounts = (starts[n]..starts[n] + one.accounts).collect();
                    let began = Instant::now();
                    let result =
                        guarded(|| transcript::play::play(one, target.ports(), target.name(), accounts));
                    tally.record(&format!("{how}{}", one.name), began, result);
                }
            });
        }
    });
}
