//! The table for people: one line a row, and below it what does not fit into columns.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::{digits, latency, octets};
use crate::figures::{Figures, OWN_CPU_SHARE_MAX, Row};

const HEAD: Style = Style::new().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

const COLUMNS: [&str; 12] = [
    "work",
    "operations",
    "per s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "in/s",
    "out/s",
    "CPU/op",
    "own CPU",
];

/// Groups that have columns of their own, or that are told in a line of their own.
const SHOWN: [&str; 12] = [
    "latency_us/",
    "service_us/",
    "server/",
    "operations",
    "per_second",
    "octets_",
    "own_cpu_share",
    "seconds",
    "errors",
    "refused",
    "unfinished",
    "raw_octets",
];

pub fn render(rows: &[Row]) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| cells(row, &row.medians())));
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|n| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        let mut shown = String::new();
        for (n, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            match n {
                0 => write!(shown, "{cell}{pad}"),
                _ => write!(shown, "  {pad}{cell}"),
            }
            .expect("a string takes everything");
        }
        match n.checked_sub(1).map(|n| &rows[n]) {
            None => writeln!(text, "{HEAD}{shown}{HEAD:#}"),
            Some(row) => writeln!(text, "{shown}{}", remarks(row)),
        }
        .expect("a string takes everything");
    }
    text
}

fn cells(row: &Row, figures: &Figures) -> Vec<String> {
    let name = match row.label.as_str() {
        "" => row.name.clone(),
        label => format!("{} {label}", row.name),
    };
    let number = |path: &str| figures.get(path).map_or("-".to_owned(), digits);
    let mut cells = vec![name, number("operations"), number("per_second")];
    let percentiles = ["p50", "p90", "p99", "p99.9", "max"];
    cells
        .extend(percentiles.map(|p| figures.get(&format!("latency_us/{p}")).map_or("-".to_owned(), latency)));
    let flows = ["octets_in_per_second", "octets_out_per_second"];
    cells.extend(flows.map(|path| figures.get(path).map_or("-".to_owned(), octets)));
    cells.push(figures.get("server/cpu_us_per_operation").map_or("-".to_owned(), latency));
    cells.push(figures.get("own_cpu_share").map_or("-".to_owned(), |share| format!("{:.0}%", share * 100.0)));
    cells
}

fn remarks(row: &Row) -> String {
    let mut text = String::new();
    let figures = row.medians();
    let get = |path: &str| figures.get(path).unwrap_or(0.0);
    let mut put = |line: String| write!(text, "\n    {line}").expect("a string takes everything");
    if !row.valid() {
        put(format!(
            "{BAD}INVALID{BAD:#}: this program used more than {:.0}% of a core, so it may have been what was slow",
            OWN_CPU_SHARE_MAX * 100.0
        ));
    }
    let wrong: Vec<String> = ["errors", "refused", "unfinished"]
        .into_iter()
        .filter(|path| get(path) > 0.0)
        .map(|path| format!("{} {path}", digits(get(path))))
        .collect();
    if !wrong.is_empty() {
        let first = row.first_error.as_deref().map_or(String::new(), |error| format!("; the first: {error}"));
        put(format!("{BAD}{}{BAD:#}{first}", wrong.join(", ")));
    }
    if row.repeats.len() > 1 {
        let rates: Vec<f64> = row.repeats.iter().filter_map(|figures| figures.get("per_second")).collect();
        let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rates.iter().copied().fold(0.0, f64::max);
        put(format!("medians of {}; per s from {} to {}", row.repeats.len(), digits(least), digits(most)));
    }
    if figures.get("server/cpu_seconds").is_some() {
        let ratio = figures
            .get("server/write_bytes_per_raw_octet")
            .map_or(String::new(), |ratio| format!(" ({} of the messages)", digits(ratio)));
        put(format!(
            "server: {} s CPU, {:.0}% of a core at work; wrote {}{ratio}; PSS {}; {} processes, {} threads, \
             {} descriptors, {} maps",
            digits(get("server/cpu_seconds")),
            get("server/cpu_share_working") * 100.0,
            octets(get("server/write_bytes")),
            octets(get("server/pss_kib") * 1024.0),
            get("server/processes"),
            get("server/threads"),
            get("server/descriptors"),
            get("server/maps"),
        ));
    }
    if let Some(each) = figures.get("server/pss_kib_per_connection") {
        put(format!(
            "each connection: {} KiB PSS; of the whole machine {} KiB kernel memory and {} KiB socket buffers; \
             idle CPU {:.2}% of a core",
            digits(each),
            digits(get("server/kernel_kib_per_connection")),
            digits(get("server/socket_kib_per_connection")),
            get("server/cpu_share_working") * 100.0,
        ));
    }
    for line in others(&figures) {
        put(line);
    }
    text
}

/// Figures without a column: groups with percentiles in one line each, then what stands alone.
fn others(figures: &Figures) -> Vec<String> {
    let rest = || figures.0.iter().filter(|(path, _)| !SHOWN.iter().any(|shown| path.starts_with(shown)));
    let mut lines = Vec::new();
    for (path, p50) in rest().filter_map(|(path, value)| Some((path.strip_suffix("/p50")?, value))) {
        let of = |name: &str| figures.get(&format!("{path}/{name}"));
        let count = of("count").map_or(String::new(), |count| format!("{count} "));
        let p99 = of("p99").map_or(String::new(), |us| format!(", p99 {}", latency(us)));
        let max = of("max").map_or(String::new(), |us| format!(", max {}", latency(us)));
        lines.push(format!("{}: {count}p50 {}{p99}{max}", path.trim_end_matches("_us"), latency(*p50)));
    }
    let grouped = |path: &str| {
        path.rsplit_once('/').is_some_and(|(group, _)| figures.get(&format!("{group}/p50")).is_some())
    };
    let alone: Vec<String> = rest()
        .filter(|(path, _)| !grouped(path))
        .map(|(path, value)| format!("{path} {}", digits(*value)))
        .collect();
    lines.extend(alone.chunks(6).map(|some| some.join("; ")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_row_and_says_what_is_wrong() {
        let mut row = Row::new("lmtp", "culver");
        let mut figures = Figures::default();
        for (path, value) in [
            ("operations", 1234.0),
            ("per_second", 56.78),
            ("latency_us/p50", 950.0),
            ("latency_us/p99", 12_345.0),
            ("refused", 3.0),
            ("own_cpu_share", 0.93),
            ("send_to_exists_us/p50", 77.0),
            ("recipients", 5.0),
        ] {
            figures.set(path, value);
        }
        row.repeats.push(figures);
        row.first_error = Some("550 no".to_owned());
        let text = anstream::adapter::strip_str(&render(&[row])).to_string();
        for want in [
            "lmtp culver        1234   56.8  950 µs    -  12.3 ms",
            "INVALID",
            "3 refused; the first: 550 no",
            "send_to_exists: p50 77 µs",
            "recipients 5",
        ] {
            assert!(text.contains(want), "{want:?} is missing in:\n{text}");
        }
    }
}
