//! `cargo xtask store`: Culver on a real object store, in figures that the store's own speed divides out of.
//!
//! # Invariants
//! What is compared was measured in the same repeat: latencies with one PUT, deliveries with those on a local store. A target that is
//! missed is told and is no failure of this command.

mod http;
mod measure;
mod relay;
mod seaweed;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use self::measure::{Bench, Figures};
use self::seaweed::Seaweed;
use crate::compare::report::{aligned, rounded, shown};
use crate::compare::results::Middle;
use crate::compare::server::Site;
use crate::compare::{cores, culver, file_system, machine, said, source};

const HELP: &str = "\
cargo xtask store: Culver's nodes on a SeaweedFS of the run's own: latencies as multiples of one PUT, requests for
each message, round trips in sequence, deliveries beside a local store, a takeover, octets stored.

  --quick        one repeat, short: to see that it works, not for figures
  --repeat N     medians of N repeats [default: 3]
  --dir DIR      where store, nodes and logs are, in a folder \"xtask-store\" that is emptied before and after
                 [default: target]
  --keep         leave them there
  --built        measure what was built before, and build nothing
  --write        renew bench/results-store.json and its part of bench/RESULTS.md
  --page         renew that part from bench/results-store.json, and measure nothing

Examples:
  cargo xtask store --quick              a first look, in two minutes
  cargo xtask store --repeat 5 --write   the figures, in twenty minutes

The node has the first core for itself; the store, the relay that counts its requests and the generator have the last.
SeaweedFS is installed where it is missing, on loopback and free ports, and ends with the run. Requests per message in steady
state are those of a simulated hour: CULVER_COSTS=long, storage/tests/costs.rs.
";

/// The folder of a run, in the one that is named.
const RUN: &str = "xtask-store";

/// Between these bench/RESULTS.md has this command's part, below the notes, which other commands keep.
const PART: [&str; 2] = ["<!-- written by `cargo xtask store --write` -->\n", "<!-- end of the store -->\n"];

#[derive(Clone, Copy, Debug)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Shown,
}

/// Key, what it is, unit, target.
type Figure = (&'static str, &'static str, &'static str, Goal);

use Goal::{AtLeast, AtMost, Shown};

const FIGURES: &[Figure] = &[
    ("put_p50_ms", "one PUT of 16 KiB, one after another, p50", "ms", Shown),
    ("put_p99_ms", "one PUT of 16 KiB, one after another, p99", "ms", Shown),
    ("lmtp_p50_ms", "LMTP, 10 KiB, 5 per second, p50", "ms", Shown),
    ("lmtp_p50_puts", "LMTP, p50 by a PUT's p50", "×", Shown),
    ("lmtp_p99_ms", "LMTP, 10 KiB, 5 per second, p99", "ms", Shown),
    ("lmtp_p99_puts", "LMTP, p99 by a PUT's p99", "×", Shown),
    ("flag_p50_ms", "STORE, 3 per second, p50", "ms", Shown),
    ("flag_p50_puts", "STORE, p50 by a PUT's p50", "×", Shown),
    ("flag_p99_ms", "STORE, 3 per second, p99", "ms", Shown),
    ("flag_p99_puts", "STORE, p99 by a PUT's p99", "×", Shown),
    ("many_store", "LMTP, 10 KiB, 50 connections", "per s", Shown),
    ("many_local", "the same on a store of this machine's disk", "per s", Shown),
    (
        "commits_20",
        "PUT and LIST per message while 20 per second are delivered, before flushes",
        "",
        AtMost(0.25),
    ),
    (
        "commits_200",
        "PUT and LIST per message while 200 per second are delivered, before flushes",
        "",
        AtMost(0.05),
    ),
    (
        "meter_differs",
        "requests by which `culver cost` differs from what the store was asked",
        "",
        AtMost(0.0),
    ),
    ("interactive_puts", "64 clients that change flags as fast as they can: PUT", "per s", AtMost(20.0)),
    ("interactive_changes", "64 clients that change flags as fast as they can: changes", "per s", Shown),
    ("delivery_reads", "delivery to a closed account: GET, HEAD and LIST per message", "", AtMost(0.0)),
    ("login_trips", "LOGIN of a cold account: round trips in sequence, the most of seven", "", AtMost(2.0)),
    ("select_trips", "from there to SELECT's OK: the most of seven", "", AtMost(3.0)),
    (
        "served_after_s",
        "takeover of 64 partitions, 1,000 accounts not flushed: seal to first login",
        "s",
        AtMost(2.0),
    ),
    ("scanned_mib", "takeover: journal that was read", "MiB", Shown),
    ("scan_mib_s", "takeover: journal read per second", "MiB", AtLeast(50.0)),
    (
        "far_served_after_s",
        "the same where each request takes 30 ms more: seal to first login",
        "s",
        AtMost(2.0),
    ),
    ("far_scan_mib_s", "where each request takes 30 ms more: journal read per second", "MiB", AtLeast(50.0)),
    ("journaled_all", "octets stored for one delivered, before the first flush: all is journal", "", Shown),
    (
        "stored_all",
        "octets stored for one delivered, flushed by a stop and swept by the next node",
        "",
        Shown,
    ),
    ("stored_packs", "… of them packs", "", Shown),
    ("stored_tables", "… tables and manifests", "", Shown),
    ("stored_journal", "… journal", "", Shown),
];

#[derive(Debug, PartialEq)]
struct Options {
    quick: bool,
    repeat: u32,
    dir: PathBuf,
    keep: bool,
    built: bool,
    write: bool,
    page: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let dir = culver::target();
        let mut options =
            Options { quick: false, repeat: 0, dir, keep: false, built: false, write: false, page: false };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{name} wants a value"));
            match name.as_str() {
                "--quick" => options.quick = true,
                "--keep" => options.keep = true,
                "--built" => options.built = true,
                "--write" => options.write = true,
                "--page" => options.page = true,
                "--dir" => options.dir = PathBuf::from(value()?),
                "--repeat" => {
                    let value = value()?;
                    let number = value.parse().ok().filter(|number| *number > 0);
                    options.repeat =
                        number.with_context(|| format!("--repeat {value}: not a number above 0"))?;
                }
                _ => bail!("{name} is not known; see cargo xtask store --help"),
            }
        }
        if options.repeat == 0 {
            options.repeat = if options.quick { 1 } else { 3 };
        }
        ensure!(!(options.quick && options.write), "--write wants figures that count: leave out --quick");
        Ok(options)
    }
}

/// What was measured, and how.
#[derive(Clone, Debug, Default, PartialEq)]
struct Results {
    date: String,
    commit: String,
    machine: String,
    store: String,
    repeats: Vec<Figures>,
}

pub fn run(arguments: &[String]) -> Result<bool> {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return Ok(true);
    }
    let options = Options::parse(arguments)?;
    let bench = crate::root().join("bench");
    if options.page {
        let held =
            fs::read_to_string(bench.join("results-store.json")).context("bench/results-store.json")?;
        write_page(&bench.join("RESULTS.md"), &Results::parse(&held)?)?;
        return Ok(true);
    }
    if !options.built {
        culver::build()?;
    }
    // Nothing of whoever names a folder of his own is touched.
    let dir = options.dir.join(RUN);
    measure::remove(&dir)?;
    fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let (server_core, core) = cores()?;
    let site = Site::make(&dir, server_core)?;
    let mut results = Results {
        date: said("date", &["-u", "+%Y-%m-%d"]),
        commit: source(),
        machine: machine(&file_system(&dir)?, (server_core, core)),
        store: seaweed::PACKAGE.to_owned(),
        repeats: Vec::new(),
    };
    let mut failed = Vec::new();
    {
        let seaweed = Seaweed::start(&dir.join("seaweed"), core)?;
        for repeat in 0..options.repeat {
            let bench = Bench {
                site: site.clone(),
                core,
                dir: dir.clone(),
                quick: options.quick,
                store: seaweed.address,
                repeat,
            };
            // One repeat's failure is no reason to have no figure of the others.
            match bench.measure() {
                Ok(figures) => results.repeats.push(figures),
                Err(error) => failed.push(format!("repeat {}: {error:#}", repeat + 1)),
            }
        }
    }
    if !options.keep && failed.is_empty() {
        measure::remove(&dir)?;
    }
    println!("\n{}", results.table());
    if options.write && !results.repeats.is_empty() {
        fs::write(bench.join("results-store.json"), results.text()?)?;
        write_page(&bench.join("RESULTS.md"), &results)?;
    }
    for failure in &failed {
        println!("failed: {failure}");
    }
    Ok(failed.is_empty())
}

impl Results {
    fn middle(&self, key: &str) -> Option<Middle> {
        Middle::of(self.repeats.iter().filter_map(|figures| figures.get(key).copied()).collect())
    }

    fn table(&self) -> String {
        let mut rows = vec![["figure", "measured", "target", ""].map(str::to_owned)];
        for (key, what, unit, goal) in FIGURES {
            let middle = self.middle(key);
            let met = |met: bool| if met { "met" } else { "**MISSED**" };
            let (target, verdict) = match (goal, middle.map(|middle| middle.median)) {
                (AtMost(most), at) => (format!("≤ {}", rounded(*most)), at.map(|at| met(at <= *most))),
                (AtLeast(least), at) => (format!("≥ {}", rounded(*least)), at.map(|at| met(at >= *least))),
                (Shown, _) => (String::new(), None),
            };
            let measured = format!("{} {unit}", shown(middle)).trim_end().to_owned();
            rows.push([(*what).to_owned(), measured, target, verdict.unwrap_or_default().to_owned()]);
        }
        aligned(&rows)
    }

    fn text(&self) -> Result<String> {
        let repeat = |figures: &Figures| {
            Value::Object(
                figures.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>(),
            )
        };
        let all = json!({
            "date": self.date, "commit": self.commit, "machine": self.machine, "store": self.store,
            "repeats": self.repeats.iter().map(repeat).collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }

    fn parse(text: &str) -> Result<Results> {
        let value: Value = serde_json::from_str(text)?;
        let said = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let repeat = |of: &Value| {
            let known = FIGURES.iter().filter_map(|(key, ..)| Some((*key, of[*key].as_f64()?)));
            known.collect::<Figures>()
        };
        Ok(Results {
            date: said("date"),
            commit: said("commit"),
            machine: said("machine"),
            store: said("store"),
            repeats: value["repeats"].as_array().context("no repeats")?.iter().map(repeat).collect(),
        })
    }

    fn part(&self) -> String {
        format!(
            "Written by `cargo xtask store --write` on {}, of {}. Machine: {}. Store: {}, on the same disk. Medians of {} repeats, with the \
             range in parentheses where it is wider than a tenth.\n\n{METHOD}\n{}",
            self.date,
            self.commit,
            self.machine,
            self.store,
            self.repeats.len(),
            self.table()
        )
    }
}

const METHOD: &str = "\
The node has one core; the store, the relay and the generator share the other. Requests are counted, and made late, by a relay between node
and store; deliveries by 50 connections and the takeover go past it. Round trips in sequence are the time by a delay of 100 ms that each
request gets, rounded down; the node has nothing on its disk, and accounts are of several partitions. A delivery waits up to 250 ms for others
to be committed with, and a client's change 10 ms (`commit_delivery`, `commit_interactive`): that is in the latencies.
";

/// Renews this command's part of the page, or adds it at the end.
fn write_page(path: &Path, results: &Results) -> Result<()> {
    let held = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    fs::write(path, page(&held, &results.part())).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

fn page(held: &str, part: &str) -> String {
    let [begin, end] = PART;
    let found = held.split_once(begin).and_then(|(above, rest)| Some((above, rest.split_once(end)?.1)));
    let (above, below) = match found {
        Some((above, below)) => (above.to_owned(), below),
        None => (format!("{}\n\n## On an object store\n\n", held.trim_end()), ""),
    };
    format!("{above}{begin}\n{part}\n{end}{below}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let repeat = |value: f64| FIGURES.iter().map(|(key, ..)| (*key, value)).collect::<Figures>();
        Results {
            date: "2020-01-02".to_owned(),
            repeats: vec![repeat(1.0), repeat(3.0)],
            ..Results::default()
        }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        assert_eq!(Results::parse(&results().text().unwrap()).unwrap(), results());
    }

    #[test]
    fn targets_are_held_against_the_median() {
        let table = results().table();
        let line = |what: &str| table.lines().find(|line| line.contains(what)).unwrap().to_owned();
        assert!(line("LOGIN of a cold").contains("| ≤ 2    | met"), "{table}");
        assert!(line("PUT and LIST per message while 20 ").contains("MISSED"), "{table}");
        assert!(line("journal read per second").contains("MISSED"), "{table}");
        assert!(line("one PUT of 16 KiB, one after another, p50").contains("2 (1…3) ms"), "{table}");
    }

    #[test]
    fn the_part_is_renewed_and_the_rest_of_the_page_stays() {
        let first = page("# Page\n\n## Notes\n\nby hand\n", "old\n");
        assert!(
            first.starts_with("# Page\n\n## Notes\n\nby hand\n\n## On an object store\n\n<!--"),
            "{first}"
        );
        let second = page(&format!("{first}\nmore by hand\n"), "new\n");
        assert!(second.contains("new\n") && !second.contains("old") && second.ends_with("\nmore by hand\n"));
    }

    #[test]
    fn options_are_read_and_wrong_ones_told() {
        let parse =
            |words: &str| Options::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!((parse("").unwrap().repeat, parse("--quick").unwrap().repeat), (3, 1));
        assert!(parse("--repeat 5 --write --keep").is_ok());
        for wrong in ["--quick --write", "--repeat 0", "--repeat", "--whatever"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
