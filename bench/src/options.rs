//! The options that all kinds of work share.

use std::path::PathBuf;
use std::time::Duration;

use crate::schedule::Arrivals;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunOptions {
    /// Connections at a time [default: 1; fill: 8]
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "count")]
    pub duration: Option<Duration>,
    /// Operations to measure, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Seconds to work before measuring [default: 1, or none with --count]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Option<Duration>,
    /// Open loop: so many operations per second are due, whether earlier ones are answered or not. Without it a closed
    /// loop, in which each connection sends when it has its answer
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// How arrivals of an open loop are spread
    #[arg(long, value_enum, default_value = "exponential")]
    pub arrivals: Arrivals,
    /// Measure so many times, and tell medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Decides messages, users and arrivals
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Pin this program to a core
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Look for answers without sleeping, so that waking up this program is no part of a latency; wants a core of its own.
    /// Turns that found nothing are not counted as this program's work
    #[arg(long)]
    pub busy_poll: bool,
    /// Give up where nothing is answered for so long
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

impl RunOptions {
    pub fn connections(&self) -> usize {
        self.connections.unwrap_or(1) as usize
    }

    pub fn warmup(&self) -> Duration {
        self.warmup.unwrap_or(match self.count {
            Some(_) => Duration::ZERO,
            None => Duration::from_secs(1),
        })
    }

    pub fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(10))
    }
}

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "The server's costs")]
pub struct ServerOptions {
    /// Count CPU, memory and bytes written of this process and all it started; may be given several times
    #[arg(long = "server-pid", value_name = "PID")]
    pub pids: Vec<i32>,
    /// Go on counting for so long after the work, so that what the server put off is paid for
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub settle: Option<Duration>,
    /// End that time as soon as the server has used less than 1% of a core for 2 seconds
    #[arg(long)]
    pub settle_idle: bool,
    /// POST to this address after the work, for a server that can be told to write out what it holds
    #[arg(long, value_name = "URL")]
    pub drain_url: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// A name for the row, beside the work's
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub label: String,
    /// JSON for machines; - is standard output, and the table goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A report with plots of latency
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.trim_end_matches('s').parse().map_err(|_| "write seconds".to_owned())?;
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|d| d.as_secs() < 1 << 24)
        .ok_or("out of range".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| (0.001..=1e7).contains(rate)).ok_or("from 0.001 to 10000000".to_owned())
}

/// `1%` or `0.01`.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let number: f64 = number.parse().map_err(|_| "write a share, like 5%".to_owned())?;
    Some(number / scale).filter(|share| (0.0..=1.0).contains(share)).ok_or("from 0% to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.5"), Ok(0.5));
        for wrong in ["-1", "x", "1e99", "NaN"] {
            assert!(seconds(wrong).is_err() && share(wrong).is_err(), "{wrong}");
        }
    }
}
