//! What people and machines get to see: a table, JSON, a page with plots.

mod html;
mod table;

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figures::Row;
use crate::options::OutputOptions;

pub fn write(rows: &[Row], options: &OutputOptions) -> Result<()> {
    let on_stdout = options.json.as_deref() == Some(Path::new("-"));
    let text = table::render(rows);
    if on_stdout {
        anstream::eprint!("{text}");
    } else {
        anstream::print!("{text}");
    }
    if let Some(path) = &options.json {
        let mut text = serde_json::to_string_pretty(&json(rows))?;
        text.push('\n');
        match on_stdout {
            true => std::io::stdout().write_all(text.as_bytes())?,
            false => fs::write(path, text).with_context(|| format!("--json {}", path.display()))?,
        }
    }
    if let Some(path) = &options.html {
        fs::write(path, html::page(rows)).with_context(|| format!("--html {}", path.display()))?;
    }
    Ok(())
}

fn json(rows: &[Row]) -> Value {
    json!({
        "tool": "culver-bench",
        "version": env!("CARGO_PKG_VERSION"),
        "command": command(),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    })
}

/// What was asked for, without the passwords in it.
fn command() -> Vec<String> {
    without_passwords(std::env::args())
}

fn without_passwords(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut secret = false;
    let hide = |argument: String| {
        let (hidden, name) = (secret, argument.clone());
        secret = matches!(name.as_str(), "--password" | "--account");
        match name.split_once('=') {
            _ if hidden => "…".to_owned(),
            Some((name @ ("--password" | "--account"), _)) => format!("{name}=…"),
            _ => argument,
        }
    };
    arguments.map(hide).collect()
}

/// Three digits that matter, and a unit that makes them readable.
fn latency(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{} µs", digits(us)),
        us if us < 1e6 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} s", digits(us / 1e6)),
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn octets(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{} GB", digits(v / 1e9)),
        v if v >= 1e6 => format!("{} MB", digits(v / 1e6)),
        v if v >= 1e3 => format!("{} kB", digits(v / 1e3)),
        v => format!("{v:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_hold_no_passwords() {
        let given = "x noop --password secret --target h:1 --account u:secret --password=secret --label a";
        let told = without_passwords(given.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(told, "x noop --password … --target h:1 --account … --password=… --label a");
    }

    #[test]
    fn figures_have_units_that_can_be_read() {
        let latencies = [(0.0, "0 µs"), (12.34, "12.3 µs"), (1234.0, "1.23 ms"), (2.5e6, "2.50 s")];
        latencies.into_iter().for_each(|(us, want)| assert_eq!(latency(us), want));
        let sizes = [(12.0, "12 B"), (1500.0, "1.50 kB"), (2.5e9, "2.50 GB")];
        sizes.into_iter().for_each(|(value, want)| assert_eq!(octets(value), want));
    }
}
