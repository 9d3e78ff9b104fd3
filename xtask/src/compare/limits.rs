//! The machine's own limits, as `shard/examples/limits.rs` measures them, and how near a figure comes to them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::rounded;
use super::server::run;
use super::works::Limit;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub trips: Vec<Trips>,
    pub loopback_mb_per_second: f64,
    pub append_sync_per_second: f64,
    pub overwrite_sync_per_second: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Trips {
    pub server: String,
    pub connections: u64,
    pub per_second: f64,
    pub server_cpu_us: f64,
}

/// Measures them; what comes is what [`Limits::parse`] reads.
pub fn measure(dir: &Path, quick: bool) -> Result<String> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "culver-shard", "--example", "limits"])
        .current_dir(crate::root())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the example `limits` does not build");
    let program = super::culver::binary("examples/limits");
    let mut command = Command::new(&program);
    command.arg("--dir").arg(dir).args(["--seconds", if quick { "2" } else { "5" }]);
    run(&mut command)
}

impl Limits {
    pub fn parse(text: &str) -> Result<Limits> {
        let value: Value = serde_json::from_str(text).context("`limits` wrote no JSON")?;
        let number = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_f64).with_context(|| format!("`limits` does not tell {name}"))
        };
        let mut limits = Limits {
            trips: Vec::new(),
            loopback_mb_per_second: number(&value, "loopback_mb_per_second")?,
            append_sync_per_second: number(&value, "append_sync_per_second")?,
            overwrite_sync_per_second: number(&value, "overwrite_sync_per_second")?,
        };
        for trips in value.get("ping_pong").and_then(Value::as_array).into_iter().flatten() {
            limits.trips.push(Trips {
                server: trips.get("server").and_then(Value::as_str).unwrap_or_default().to_owned(),
                connections: number(trips, "connections")? as u64,
                per_second: number(trips, "per_second")?,
                server_cpu_us: number(trips, "server_cpu_us")?,
            });
        }
        Ok(limits)
    }

    /// The limit's own value, in the unit of the figures that stand beside it.
    pub fn value(&self, limit: Limit) -> f64 {
        match limit {
            Limit::AppendSync => self.append_sync_per_second,
            Limit::Loopback => self.loopback_mb_per_second,
            Limit::PingPong => self.trips_per_cpu_second("shard"),
        }
    }

    /// Round trips over many connections for each second of the serving end's processor time.
    pub fn trips_per_cpu_second(&self, server: &str) -> f64 {
        let many =
            self.trips.iter().filter(|trips| trips.server == server).max_by_key(|trips| trips.connections);
        many.map_or(0.0, |trips| 1e6 / trips.server_cpu_us)
    }

    /// How far a figure is from a limit, in words.
    pub fn distance(&self, limit: Limit, figure: f64) -> String {
        let times = |of: f64| figure / of;
        match limit {
            Limit::AppendSync => {
                format!("{:.2} × the syncs of a growing file", times(self.append_sync_per_second))
            }
            Limit::Loopback => format!("{:.0}% of loopback", 100.0 * times(self.loopback_mb_per_second)),
            Limit::PingPong => format!(
                "{:.0}% of ping-pong through this runtime, {:.0}% of epoll's",
                100.0 * times(self.trips_per_cpu_second("shard")),
                100.0 * times(self.trips_per_cpu_second("epoll"))
            ),
        }
    }

    /// (what, how much)
    pub fn lines(&self) -> Vec<(String, String)> {
        let mut lines: Vec<(String, String)> = self
            .trips
            .iter()
            .map(|trips| {
                let through = if trips.server == "shard" { "this runtime" } else { "plain epoll" };
                let connections = match trips.connections {
                    1 => "1 connection".to_owned(),
                    many => format!("{many} connections"),
                };
                (
                    format!("ping-pong through {through}, {connections}"),
                    format!(
                        "{} per s, {} µs of server CPU",
                        rounded(trips.per_second),
                        rounded(trips.server_cpu_us)
                    ),
                )
            })
            .collect();
        lines.push((
            "loopback, one connection".to_owned(),
            format!("{} MB/s", rounded(self.loopback_mb_per_second)),
        ));
        for (what, rate) in [
            ("append 16 KiB with fdatasync", self.append_sync_per_second),
            ("overwrite 16 KiB with fdatasync", self.overwrite_sync_per_second),
        ] {
            lines.push((what.to_owned(), format!("{} per s", rounded(rate))));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"ping_pong":[{"server":"shard","connections":1,"per_second":9838,"server_cpu_us":45.6},
        {"server":"shard","connections":50,"per_second":57572,"server_cpu_us":5.0},
        {"server":"epoll","connections":50,"per_second":68230,"server_cpu_us":4.0}],
        "loopback_mb_per_second":1500,"append_sync_per_second":400,"overwrite_sync_per_second":900}"#;

    #[test]
    fn a_figure_is_told_as_a_part_of_its_limit() {
        let limits = Limits::parse(TEXT).unwrap();
        assert_eq!(limits.trips_per_cpu_second("shard"), 200_000.0);
        assert_eq!(limits.distance(Limit::Loopback, 750.0), "50% of loopback");
        assert_eq!(
            limits.distance(Limit::PingPong, 120_000.0),
            "60% of ping-pong through this runtime, 48% of epoll's"
        );
        assert_eq!(limits.lines().len(), 6);
    }

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        assert!(Limits::parse("{}").is_err());
        assert!(Limits::parse("no").is_err());
    }
}
