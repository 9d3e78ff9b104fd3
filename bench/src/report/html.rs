//! One page that needs nothing else: latency by percentile as a plot, and all figures as tables.
//!
//! The axis of percentiles is that of distance to 100%: 90, 99, 99.9 and 99.99% have equal distances, so that the slow
//! end, which people remember, has room.

use std::fmt::Write;

use super::{digits, latency};
use crate::figures::Row;
use crate::tally::Latencies;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const BOTTOM: f64 = 50.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 36.0;
/// 99.99%.
const NINES_MAX: f64 = 4.0;
const POINTS: u32 = 200;
/// Told apart by people who see no red or green (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1000px;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}.bad{color:#b00;font-weight:bold}svg{width:100%;height:auto}\
    svg text{font-size:13px;fill:#444}.grid{stroke:#ddd}code{background:#f4f4f4;padding:.1rem .3rem}\
    details{margin:.5rem 0}";

pub fn page(rows: &[Row]) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>culver-bench</title>\
         <style>{STYLE}</style></head><body>\n<h1>culver-bench</h1>\n<p><code>{}</code></p>\n",
        escape(&super::command().join(" "))
    );
    let measured: Vec<&Row> = rows.iter().filter(|row| row.latency.count() > 0).collect();
    if !measured.is_empty() {
        page.push_str("<h2>Latency by percentile</h2>\n");
        plot(&mut page, &measured);
    }
    summary(&mut page, rows);
    for row in rows {
        details(&mut page, row);
    }
    page.push_str("</body></html>\n");
    page
}

fn plot(page: &mut String, rows: &[&Row]) {
    let ends =
        rows.iter().flat_map(|row| [row.latency.percentile_us(0.0), at_nines(&row.latency, NINES_MAX)]);
    let (least, most) = ends.fold((f64::INFINITY, 0.0f64), |(a, b), us| (a.min(us), b.max(us)));
    let (low, high) = (least.max(0.1).log10().floor(), most.max(1.0).log10().ceil());
    let x = |nines: f64| LEFT + nines / NINES_MAX * (WIDTH - LEFT - RIGHT);
    let y = |us: f64| {
        let share = (us.max(0.1).log10() - low) / (high - low).max(1.0);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    };
    let mut put = |text: String| writeln!(page, "{text}").expect("a string takes everything");
    put(format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\">"));
    for (nines, name) in [(0.0, "0%"), (1.0, "90%"), (2.0, "99%"), (3.0, "99.9%"), (4.0, "99.99%")] {
        let (x, y) = (x(nines), HEIGHT - BOTTOM);
        put(format!("<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{y}\"/>"));
        put(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", y + 20.0));
    }
    for decade in low as i32..=high as i32 {
        let us = 10f64.powi(decade);
        let (y, right) = (y(us), WIDTH - RIGHT);
        put(format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            latency(us)
        ));
    }
    for (n, row) in rows.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        // A curve ends where there were no more operations to tell percentiles apart.
        let reach = (row.latency.count() as f64).log10().min(NINES_MAX);
        let points: Vec<String> = (0..=POINTS)
            .map(|step| reach * f64::from(step) / f64::from(POINTS))
            .map(|nines| format!("{:.1},{:.1}", x(nines), y(at_nines(&row.latency, nines))))
            .collect();
        put(format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        ));
        let line = TOP + 16.0 + 18.0 * n as f64;
        put(format!(
            "<text x=\"{}\" y=\"{line}\" style=\"fill:{colour}\">{}</text>",
            LEFT + 12.0,
            title(row)
        ));
    }
    put("</svg>".to_owned());
}

/// The latency at 90% for one nine, 99% for two, and between.
fn at_nines(latencies: &Latencies, nines: f64) -> f64 {
    latencies.percentile_us(100.0 * (1.0 - 10f64.powf(-nines)))
}

fn title(row: &Row) -> String {
    escape(&format!("{} {}", row.name, row.label)).trim().to_owned()
}

fn summary(page: &mut String, rows: &[Row]) {
    page.push_str("<h2>Rows</h2>\n<table><tr><th>work</th>");
    let columns = [
        ("operations", "operations"),
        ("per s", "per_second"),
        ("p50", "latency_us/p50"),
        ("p99", "latency_us/p99"),
        ("p99.9", "latency_us/p99.9"),
        ("max", "latency_us/max"),
        ("errors", "errors"),
        ("refused", "refused"),
        ("server CPU per operation", "server/cpu_us_per_operation"),
        ("own CPU, of a core", "own_cpu_share"),
    ];
    for (name, _) in columns {
        write!(page, "<th>{name}</th>").expect("a string takes everything");
    }
    page.push_str("</tr>\n");
    for row in rows {
        let mark = if row.valid() { "" } else { " <span class=\"bad\">INVALID</span>" };
        write!(page, "<tr><td>{}{mark}</td>", title(row)).expect("a string takes everything");
        let medians = row.medians();
        for (_, path) in columns {
            let cell = medians.get(path).map_or("–".to_owned(), |value| shown(path, value));
            write!(page, "<td>{cell}</td>").expect("a string takes everything");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn details(page: &mut String, row: &Row) {
    let many = row.repeats.len() > 1;
    let head = if many { "<th>median</th><th>of each repeat</th>" } else { "<th>value</th>" };
    write!(
        page,
        "<details><summary>All figures of {}</summary>\n<table><tr><th>figure</th>{head}</tr>\n",
        title(row)
    )
    .expect("a string takes everything");
    for (path, value) in &row.medians().0 {
        write!(page, "<tr><td>{}</td><td>{}</td>", escape(path), shown(path, *value))
            .expect("a string takes everything");
        if many {
            let each: Vec<String> = row
                .repeats
                .iter()
                .map(|r| r.get(path).map_or("–".to_owned(), |value| shown(path, value)))
                .collect();
            write!(page, "<td>{}</td>", each.join(" · ")).expect("a string takes everything");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></details>\n");
}

fn shown(path: &str, value: f64) -> String {
    let is_latency =
        path.split_once('/').is_some_and(|(group, _)| group.ends_with("_us") || group == "commands")
            && !path.ends_with("/count");
    match path {
        _ if is_latency || path.ends_with("_us_per_operation") => latency(value),
        "own_cpu_share" | "server/cpu_share_working" => format!("{:.1}%", value * 100.0),
        _ => digits(value),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_page_has_a_curve_for_each_row_and_nothing_from_elsewhere() {
        let mut rows = [Row::new("noop", "<b>&"), Row::new("lmtp", "")];
        for (n, row) in rows.iter_mut().enumerate() {
            for us in 1..2000 {
                row.latency.add(Duration::from_micros(us * (n as u64 + 1)));
            }
        }
        let page = page(&rows);
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("noop &lt;b&gt;&amp;") && !page.contains("<b>&"));
        for foreign in ["http:", "https:", "<script", "src="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
