//! What was measured: figures of each repeat by work and server, kept as JSON in the run's directory, so that a table can
//! be made of works that were measured one after another.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::server::Kind;
use super::works::Figure;

/// Figures of one repeat.
pub type Figures = BTreeMap<Figure, f64>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Of the day, of the source, and how; works of one table may have been measured on different days.
    pub date: String,
    pub commit: String,
    pub quick: bool,
    pub machine: String,
    pub servers: BTreeMap<Kind, Vec<Figures>>,
    /// What speaks against using a figure.
    pub doubts: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    pub works: BTreeMap<String, Measured>,
    /// As the example `limits` wrote them.
    pub limits: Option<String>,
}

/// The middle of the repeats and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Middle {
    pub fn of(mut values: Vec<f64>) -> Option<Middle> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Middle { median, min, max })
    }
}

impl Measured {
    pub fn middle(&self, kind: Kind, figure: Figure) -> Option<Middle> {
        Middle::of(
            self.servers.get(&kind)?.iter().filter_map(|figures| figures.get(&figure).copied()).collect(),
        )
    }
}

impl Results {
    pub fn load(path: &Path) -> Result<Results> {
        match fs::read_to_string(path) {
            Ok(text) => Results::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, self.text()?)?;
        fs::rename(&fresh, path).with_context(|| path.display().to_string())
    }

    /// Adds what was measured in full on this machine, newer figures in the place of older ones. Figures of another machine
    /// go: a table has one kind of machine.
    pub fn renew(&mut self, newer: &Results, machine: &str) {
        if self.works.values().any(|measured| measured.machine != machine) {
            self.limits = None;
            self.works.retain(|_, measured| measured.machine == machine);
        }
        for (name, measured) in &newer.works {
            if !measured.quick && measured.machine == machine {
                self.works.insert(name.clone(), measured.clone());
            }
        }
        if newer.limits.is_some() {
            self.limits.clone_from(&newer.limits);
        }
    }

    fn text(&self) -> Result<String> {
        let mut works = Map::new();
        for (name, measured) in &self.works {
            let servers: Map<String, Value> = measured
                .servers
                .iter()
                .map(|(kind, repeats)| {
                    let repeats = repeats.iter().map(|figures| {
                        figures
                            .iter()
                            .map(|(figure, value)| (figure.key(), json!(value)))
                            .collect::<Map<_, _>>()
                            .into()
                    });
                    (kind.name().to_owned(), Value::Array(repeats.collect()))
                })
                .collect();
            let entry = json!({
                "date": measured.date, "commit": measured.commit, "quick": measured.quick,
                "machine": measured.machine, "doubts": measured.doubts, "servers": servers,
            });
            works.insert(name.clone(), entry);
        }
        let limits: Value = match &self.limits {
            Some(text) => serde_json::from_str(text)?,
            None => Value::Null,
        };
        Ok(serde_json::to_string_pretty(&json!({ "works": works, "limits": limits }))?)
    }

    fn parse(text: &str) -> Result<Results> {
        let value: Value = serde_json::from_str(text)?;
        let mut results = Results::default();
        for (name, entry) in value.get("works").and_then(Value::as_object).context("no works")? {
            let said = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut measured = Measured {
                date: said("date"),
                commit: said("commit"),
                quick: entry.get("quick").and_then(Value::as_bool).unwrap_or(true),
                machine: said("machine"),
                ..Measured::default()
            };
            let doubts = entry.get("doubts").and_then(Value::as_array).into_iter().flatten();
            measured.doubts = doubts.filter_map(|doubt| Some(doubt.as_str()?.to_owned())).collect();
            for (kind, repeats) in entry.get("servers").and_then(Value::as_object).into_iter().flatten() {
                let kind = Kind::parse(kind).with_context(|| format!("no such server: {kind}"))?;
                let repeats = repeats.as_array().into_iter().flatten().map(figures).collect();
                measured.servers.insert(kind, repeats);
            }
            results.works.insert(name.clone(), measured);
        }
        results.limits = value.get("limits").filter(|limits| limits.is_object()).map(Value::to_string);
        Ok(results)
    }
}

fn figures(value: &Value) -> Figures {
    let named = value.as_object().into_iter().flatten();
    named.filter_map(|(key, value)| Some((Figure::parse(key)?, value.as_f64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again() {
        let mut results =
            Results { limits: Some(r#"{"loopback_mb_per_second":5}"#.to_owned()), ..Results::default() };
        let repeat = Figures::from([(Figure::CpuUs, 12.5), (Figure::Rate, 1000.0)]);
        let measured = Measured {
            date: "2020-01-02".to_owned(),
            commit: "abc".to_owned(),
            quick: false,
            machine: "a machine".to_owned(),
            servers: BTreeMap::from([
                (Kind::Culver, vec![repeat.clone(), repeat]),
                (Kind::DovecotBest, vec![]),
            ]),
            doubts: vec!["a doubt".to_owned()],
        };
        results.works.insert("lmtp-1".to_owned(), measured);
        assert_eq!(Results::parse(&results.text().unwrap()).unwrap(), results);
    }

    #[test]
    fn a_table_is_renewed_with_full_figures_of_its_own_machine() {
        let measured = |machine: &str, date: &str, quick| Measured {
            machine: machine.to_owned(),
            date: date.to_owned(),
            quick,
            ..Measured::default()
        };
        let of = |list: Vec<(&str, Measured)>| Results {
            works: list.into_iter().map(|(name, measured)| (name.to_owned(), measured)).collect(),
            ..Results::default()
        };
        let mut held = of(vec![
            ("login", measured("here", "1", false)),
            ("noop", measured("here", "1", false)),
            ("store", measured("there", "1", false)),
        ]);
        let newer = of(vec![
            ("login", measured("here", "2", false)),
            ("noop", measured("here", "2", true)),
            ("copy", measured("there", "2", false)),
        ]);
        held.limits = Some("there".to_owned());
        held.renew(&newer, "here");
        assert_eq!(held.limits, None, "of another machine");
        let told: Vec<_> = held.works.iter().map(|(name, m)| (name.as_str(), m.date.as_str())).collect();
        assert_eq!(told, [("login", "2"), ("noop", "1")]);
    }

    #[test]
    fn the_middle_of_repeats_has_its_spread() {
        assert_eq!(Middle::of(vec![3.0, 1.0, 2.0]), Some(Middle { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Middle::of(vec![4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Middle::of(vec![]), None);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_one() {
        assert_eq!(Results::load(Path::new("/nonexistent/results.json")).unwrap(), Results::default());
        assert!(Results::parse("{}").is_err());
    }
}
