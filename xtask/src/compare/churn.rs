//! An hour of mixed load on Culver, and what it holds each minute: memory, descriptors and maps end where they were.
//!
//! The first sample is taken after a warm-up, as caches up to their bounds are no leak, and with no session open; so is the
//! last.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::generator;
use super::measure::Bench;
use super::meter::{self, Held};
use super::report::rounded;
use super::server::{Durability, Kind, PASSWORD, Server, USER_PATTERN, loopback};
use super::works::split;

/// Minutes before the first sample that counts: a fifth of the run, which in an hour is longer than the ten minutes after which
/// everything has been flushed once.
fn warm_minutes(minutes: u32) -> u32 {
    (minutes / 5).max(1)
}

/// How long sessions have to end before a sample.
const CALM: Duration = Duration::from_secs(5);

pub fn run(bench: &Bench, minutes: u32) -> Result<()> {
    let warm = warm_minutes(minutes);
    let dir = bench.fresh(Kind::Culver)?;
    let server = Server::start(Kind::Culver, &bench.site, &dir, Durability::Full)?;
    println!("churn: mixed load on {} for {minutes} minutes, after {warm} to warm up", Kind::Culver.name());
    let target = loopback(server.ports.imap);
    println!("| minute | PSS, MiB | descriptors | maps | operations per s |");
    println!("| ------ | -------- | ----------- | ---- | ---------------- |");
    let start = Instant::now();
    let mut samples: Vec<Held> = Vec::new();
    for minute in 1..=minutes + warm {
        let words = split(&format!(
            "mixed --closed --target {target} --connections 50 --users 100 --user-pattern {USER_PATTERN} \
             --password {PASSWORD} --duration 50 --warmup 0 --seed {minute}"
        ));
        let row = generator::run(&words, bench.core, Some(server.pid()), &dir.join("work.json"))?;
        if let Some(doubt) = row.doubt() {
            println!("note: {doubt}");
        }
        std::thread::sleep(CALM);
        let held = meter::held(server.pid())?;
        if minute >= warm {
            samples.push(held);
        }
        println!(
            "| {:>6} | {:>8} | {:>11} | {:>4} | {:>16} |",
            start.elapsed().as_secs() / 60,
            rounded(held.pss_kib as f64 / 1024.0),
            held.descriptors,
            held.maps,
            rounded(row.get("per_second").unwrap_or(0.0)),
        );
    }
    server.stop()?;
    println!("{}", summary(&samples));
    Ok(())
}

/// First and last, and the slope of memory over the second half: caches that fill are steep at first and level later.
fn summary(samples: &[Held]) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return "churn: nothing was sampled".to_owned();
    };
    let half = &samples[samples.len() / 2..];
    let growth = match half {
        [from, .., to] => {
            let a_minute = (to.pss_kib as f64 - from.pss_kib as f64) / (half.len() - 1) as f64;
            format!("{} KiB a minute over the second half", rounded(a_minute))
        }
        _ => "too few samples for a slope".to_owned(),
    };
    format!(
        "churn: PSS {} → {} MiB ({growth}), descriptors {} → {}, maps {} → {}",
        rounded(first.pss_kib as f64 / 1024.0),
        rounded(last.pss_kib as f64 / 1024.0),
        first.descriptors,
        last.descriptors,
        first.maps,
        last.maps,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_second_half() {
        let held = |pss_kib| Held { processes: 1, pss_kib, descriptors: 30, maps: 200 };
        let samples: Vec<Held> = [1024, 9000, 10_240, 10_250, 10_260].into_iter().map(held).collect();
        let told = summary(&samples);
        assert!(told.contains("PSS 1 → 10 MiB (10 KiB a minute"), "{told}");
        assert!(told.contains("descriptors 30 → 30, maps 200 → 200"), "{told}");
        assert_eq!(summary(&[]), "churn: nothing was sampled");
    }
}
