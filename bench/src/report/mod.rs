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
        "command": std::env::args().collect::<Vec<_>>(),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    })
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
