//! Figures of a measurement by their path, medians over repeats, and what becomes of them: a row.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::tally::{Counted, Latencies};

/// The generator may use so much of a core; above it, it may have been what was slow.
pub const OWN_CPU_SHARE_MAX: f64 = 0.8;

pub const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Numbers by path: `per_second`, `latency_us/p99`, `server/cpu_seconds`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(pub BTreeMap<String, f64>);

impl Figures {
    pub fn set(&mut self, path: impl Into<String>, value: f64) {
        self.0.insert(path.into(), value);
    }

    pub fn get(&self, path: &str) -> Option<f64> {
        self.0.get(path).copied()
    }

    pub fn latencies(&mut self, path: &str, latencies: &Latencies) {
        if latencies.count() == 0 {
            return;
        }
        for (name, percentile) in PERCENTILES {
            self.set(format!("{path}/{name}"), latencies.percentile_us(percentile));
        }
        self.set(format!("{path}/max"), latencies.max_us());
        self.set(format!("{path}/mean"), latencies.mean_us());
    }

    /// What a phase of so many seconds counted.
    pub fn of(counted: &Counted, seconds: f64) -> Figures {
        let mut figures = Figures::default();
        let per_second = |count: u64| count as f64 / seconds.max(1e-9);
        figures.set("operations", counted.operations as f64);
        figures.set("errors", counted.errors as f64);
        figures.set("refused", counted.refused as f64);
        figures.set("unfinished", counted.unfinished as f64);
        figures.set("seconds", seconds);
        figures.set("per_second", per_second(counted.operations));
        figures.set("octets_in_per_second", per_second(counted.octets_in));
        figures.set("octets_out_per_second", per_second(counted.octets_out));
        figures.set("raw_octets", counted.raw_octets as f64);
        figures.latencies("latency_us", &counted.latency);
        figures.latencies("service_us", &counted.service);
        for (name, latencies) in &counted.named {
            figures.set(format!("{name}/count"), latencies.count() as f64);
            figures.latencies(name, latencies);
        }
        for (name, count) in &counted.counts {
            figures.set(*name, *count as f64);
        }
        figures
    }

    fn json(&self) -> Value {
        nest(self.0.iter().map(|(path, value)| (path.as_str(), number(*value))))
    }
}

/// A measurement, repeated.
pub struct Row {
    pub name: String,
    pub label: String,
    pub repeats: Vec<Figures>,
    /// Of all repeats, for a plot.
    pub latency: Latencies,
    /// The first thing that went wrong.
    pub first_error: Option<String>,
}

impl Row {
    pub fn new(name: impl Into<String>, label: &str) -> Row {
        Row {
            name: name.into(),
            label: label.to_owned(),
            repeats: Vec::new(),
            latency: Latencies::default(),
            first_error: None,
        }
    }

    pub fn add(&mut self, figures: Figures, counted: Counted) {
        self.repeats.push(figures);
        self.latency.merge(&counted.latency);
        self.first_error = self.first_error.take().or(counted.first_error);
    }

    pub fn medians(&self) -> Figures {
        Figures(self.each().map(|(path, values)| (path, median(values))).collect())
    }

    /// Whether the generator had CPU left in every repeat.
    pub fn valid(&self) -> bool {
        let shares = self.repeats.iter().filter_map(|figures| figures.get("own_cpu_share"));
        shares.fold(0.0, f64::max) <= OWN_CPU_SHARE_MAX
    }

    pub fn json(&self) -> Value {
        let Value::Object(mut row) = self.medians().json() else { unreachable!("figures nest to an object") };
        row.insert("name".to_owned(), json!(self.name));
        row.insert("label".to_owned(), json!(self.label));
        row.insert("valid".to_owned(), json!(self.valid()));
        if let Some(error) = &self.first_error {
            row.insert("first_error".to_owned(), json!(error));
        }
        if self.repeats.len() > 1 {
            let spread: BTreeMap<String, Value> = self
                .each()
                .map(|(path, values)| {
                    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    (path, json!([number(least), number(most)]))
                })
                .collect();
            let nested = nest(spread.iter().map(|(path, value)| (path.as_str(), value.clone())));
            row.insert("spread".to_owned(), nested);
        }
        row.insert("repeats".to_owned(), self.repeats.iter().map(Figures::json).collect());
        Value::Object(row)
    }

    /// Each figure with its values over the repeats that have it.
    fn each(&self) -> impl Iterator<Item = (String, Vec<f64>)> {
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for figures in &self.repeats {
            for (path, value) in &figures.0 {
                all.entry(path.clone()).or_default().push(*value);
            }
        }
        all.into_iter()
    }
}

/// The middle one; of an even number, the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Whole numbers without a point, others with three digits behind it: a median of counts may be no whole number.
fn number(value: f64) -> Value {
    match value {
        value if value.fract() == 0.0 && value.abs() < 9e15 => json!(value as i64),
        value => json!((value * 1e3).round() / 1e3),
    }
}

/// Paths become objects in objects.
fn nest<'a>(leaves: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut root = Map::new();
    for (path, value) in leaves {
        let mut at = &mut root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), value);
                break;
            }
            let below = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            at = below.as_object_mut().expect("no figure has the path of a group");
        }
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
        assert_eq!(median(vec![7.0]), 7.0);
    }

    #[test]
    fn a_row_tells_medians_spread_and_every_repeat() {
        let mut row = Row::new("lmtp", "x");
        for (rate, p99, share) in [(10.0, 3.0, 0.1), (30.0, 1.0, 0.2), (20.0, 2.5, 0.3)] {
            let mut figures = Figures::default();
            figures.set("per_second", rate);
            figures.set("latency_us/p99.9", p99);
            figures.set("own_cpu_share", share);
            row.repeats.push(figures);
        }
        let json = row.json();
        assert_eq!(json["per_second"], json!(20));
        assert_eq!(json["latency_us"]["p99.9"], json!(2.5));
        assert_eq!(json["spread"]["per_second"], json!([10, 30]));
        assert_eq!(json["repeats"][1]["per_second"], json!(30));
        assert_eq!(json["valid"], json!(true));
        row.repeats[1].set("own_cpu_share", 0.81);
        assert_eq!(row.json()["valid"], json!(false), "one repeat without CPU to spare spoils the row");
    }
}
