//! The table, for people: on standard output, in `bench/RESULTS.md`, and, shorter, in `README.md`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::limits::Limits;
use super::results::{Measured, Middle, Results};
use super::server::Kind;
use super::works::{Figure, Goal, Limit, Scale, WORKS, Work};

/// From here on bench/RESULTS.md is written by hand, and kept.
const NOTES: &str = "## Notes";

/// Between these README.md has the table.
const TABLE: [&str; 2] = ["<!-- written by `cargo xtask compare --write` -->\n", "<!-- to here -->\n"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// Nothing is demanded, or what it would be compared with was not measured.
    Open,
}

impl Verdict {
    fn mark(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "**MISSED**",
            Verdict::Open => "",
        }
    }
}

/// One line of the table: a figure of a work on all servers.
#[derive(Clone, Debug)]
pub struct Line {
    pub title: String,
    pub figure: Figure,
    pub culver: Option<Middle>,
    pub default: Option<Middle>,
    pub best: Option<Middle>,
    /// How many times better than what the goal names.
    pub ratio: Option<f64>,
    pub goal: String,
    pub verdict: Verdict,
    pub distance: String,
}

/// So many times better is `ours` than `theirs`.
pub fn ratio(figure: Figure, ours: f64, theirs: f64) -> Option<f64> {
    let (above, below) = if figure.more_is_better() { (ours, theirs) } else { (theirs, ours) };
    (below > 0.0).then(|| above / below)
}

/// The better of Dovecot's two configurations; each may win on another figure.
fn better(figure: Figure, default: Option<Middle>, best: Option<Middle>) -> Option<f64> {
    let pick = if figure.more_is_better() { f64::max } else { f64::min };
    [default, best].into_iter().flatten().map(|middle| middle.median).reduce(pick)
}

pub fn lines(work: &Work, measured: &Measured, limits: Option<&Limits>) -> Vec<Line> {
    let scale = Scale { quick: measured.quick };
    let title = scale.fill(work.title, &|_| None).unwrap_or_else(|_| work.title.to_owned());
    let mut lines = Vec::new();
    for (figure, goal) in work.goals {
        let at = |kind| measured.middle(kind, *figure);
        let (culver, default, best) = (at(Kind::Culver), at(Kind::DovecotDefault), at(Kind::DovecotBest));
        let dense = at(Kind::DovecotDense);
        let theirs = match goal {
            Goal::TimesDense(_) => dense.map(|middle| middle.median),
            _ => better(*figure, default, best),
        };
        let ours = culver.map(|middle| middle.median);
        let ratio = ours.zip(theirs).and_then(|(ours, theirs)| ratio(*figure, ours, theirs));
        let limit = work.limit.filter(|(of, _)| of == figure).map(|(_, limit)| limit);
        let distance = match (limit, limits, ours) {
            (Some(limit), Some(limits), Some(ours)) => limits.distance(limit, ours),
            _ => String::new(),
        };
        let verdict = verdict(*goal, ours, ratio, limit.zip(limits));
        let best = if matches!(goal, Goal::TimesDense(_)) { dense } else { best };
        let title = match goal {
            Goal::TimesDense(_) => format!("{title} (Dovecot: 100 clients per process)"),
            _ => title.clone(),
        };
        let default = default.filter(|_| !matches!(goal, Goal::TimesDense(_)));
        let goal = goal.words();
        lines.push(Line { title, figure: *figure, culver, default, best, ratio, goal, verdict, distance });
    }
    lines
}

fn verdict(goal: Goal, ours: Option<f64>, ratio: Option<f64>, limit: Option<(Limit, &Limits)>) -> Verdict {
    let met = match goal {
        Goal::Times(times) | Goal::TimesDense(times) => ratio.map(|ratio| ratio >= times),
        Goal::AtMost(bound) => ours.map(|ours| ours <= bound),
        Goal::PartOfLimit(part) => {
            ours.zip(limit).map(|(ours, (limit, limits))| ours >= part * limits.value(limit))
        }
        Goal::Shown => None,
    };
    match met {
        Some(true) => Verdict::Met,
        Some(false) => Verdict::Missed,
        None => Verdict::Open,
    }
}

impl Goal {
    fn words(self) -> String {
        match self {
            Goal::Times(times) | Goal::TimesDense(times) => format!("≥ {} ×", rounded(times)),
            Goal::AtMost(bound) => format!("≤ {}", rounded(bound)),
            Goal::PartOfLimit(part) => format!("≥ {:.0}% of the limit", part * 100.0),
            Goal::Shown => String::new(),
        }
    }
}

/// Three digits, as no measurement here is good for more.
pub fn rounded(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value:.0}");
    }
    let before = value.abs().log10().floor() as i32 + 1;
    let text = format!("{:.*}", (3 - before).max(0) as usize, value);
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    thousands(text)
}

fn thousands(text: &str) -> String {
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    match part {
        Some(part) => out + "." + part,
        None => out,
    }
}

pub fn shown(middle: Option<Middle>) -> String {
    let Some(Middle { median, min, max }) = middle else { return "–".to_owned() };
    let wide = median != 0.0 && (max - min) / median.abs() > 0.1;
    match wide {
        true => format!("{} ({}…{})", rounded(median), rounded(min), rounded(max)),
        false => rounded(median),
    }
}

/// A Markdown table whose columns also stand under each other in a terminal.
pub fn table(lines: &[Line]) -> String {
    let mut rows = vec![
        [
            "work",
            "figure",
            "Culver",
            "Dovecot default",
            "Dovecot best",
            "ratio",
            "target",
            "",
            "distance to the machine's limit",
        ]
        .map(str::to_owned),
    ];
    let mut last = "";
    for line in lines {
        let title = if line.title == last { "" } else { &line.title };
        last = &line.title;
        rows.push([
            title.to_owned(),
            line.figure.name().to_owned(),
            shown(line.culver),
            shown(line.default),
            shown(line.best),
            line.ratio.map_or(String::new(), |ratio| format!("{} ×", rounded(ratio))),
            line.goal.clone(),
            line.verdict.mark().to_owned(),
            line.distance.clone(),
        ]);
    }
    aligned(&rows)
}

/// What a target is set for, and no more.
fn short_table(lines: &[Line]) -> String {
    let mut rows = vec![["work", "figure", "Culver", "Dovecot", "ratio", "target", ""].map(str::to_owned)];
    let mut last = "";
    for line in lines.iter().filter(|line| !line.goal.is_empty()) {
        let title = if line.title == last { "" } else { &line.title };
        last = &line.title;
        let median = |middle: Option<Middle>| middle.map(|middle| middle.median);
        let told = |value: Option<f64>| value.map_or("–".to_owned(), rounded);
        rows.push([
            title.to_owned(),
            line.figure.name().to_owned(),
            told(median(line.culver)),
            told(better(line.figure, line.default, line.best)),
            line.ratio.map_or(String::new(), |ratio| format!("{} ×", rounded(ratio))),
            line.goal.clone(),
            line.verdict.mark().to_owned(),
        ]);
    }
    aligned(&rows)
}

/// Rows, the first of which is the head, as a Markdown table that also reads well in a terminal.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} "));
        out.push_str(&format!("|{}|\n", cells.collect::<Vec<_>>().join("|")));
        if at == 0 {
            let dashes = widths.iter().map(|width| format!(" {} ", "-".repeat(*width)));
            out.push_str(&format!("|{}|\n", dashes.collect::<Vec<_>>().join("|")));
        }
    }
    out
}

/// Lines of all works that were measured, in the order of the list of works.
pub fn all_lines(
    results: &Results,
    limits: Option<&Limits>,
    wanted: impl Fn(&Work, &Measured) -> bool,
) -> Vec<Line> {
    let measured = WORKS.iter().filter_map(|work| Some((work, results.works.get(work.name)?)));
    measured
        .filter(|(work, measured)| wanted(work, measured))
        .flat_map(|(work, measured)| lines(work, measured, limits))
        .collect()
}

/// What stands above the table.
pub struct Head {
    pub date: String,
    pub machine: String,
    pub command: String,
    pub dovecot: String,
}

/// Renews the part of bench/RESULTS.md that is not written by hand.
pub fn write(path: &Path, head: &Head, results: &Results) -> Result<()> {
    let held = fs::read_to_string(path).unwrap_or_default();
    let notes = held.find(NOTES).map_or("", |at| &held[at..]);
    let text = page(head, results, notes)?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Renews the table of README.md.
pub fn write_readme(path: &Path, results: &Results) -> Result<()> {
    let name = path.display().to_string();
    let held = fs::read_to_string(path).with_context(|| name.clone())?;
    let renewed = readme(&held, results).context(name)?;
    fs::write(path, renewed).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

fn readme(held: &str, results: &Results) -> Result<String> {
    let [begin, end] = TABLE;
    let Some((above, (_, below))) =
        held.split_once(begin).and_then(|(above, rest)| Some((above, rest.split_once(end)?)))
    else {
        bail!("the lines between which the table stands are missing: {begin:?} and {end:?}");
    };
    let limits = results.limits.as_deref().map(Limits::parse).transpose()?;
    let lines = all_lines(results, limits.as_ref(), |_, measured| !measured.quick);
    Ok(format!("{above}{begin}\n{}\n{end}{below}", short_table(&lines)))
}

fn page(head: &Head, results: &Results, notes: &str) -> Result<String> {
    let limits = results.limits.as_deref().map(Limits::parse).transpose()?;
    let wanted = |_: &Work, measured: &Measured| !measured.quick;
    let lines = all_lines(results, limits.as_ref(), wanted);
    let mut page = format!(
        "# Culver and Dovecot, side by side\n\n\
         Written by `{}` on {}. {}. {}.\n\n{METHOD}\n",
        head.command, head.date, head.machine, head.dovecot
    );
    if let Some(limits) = &limits {
        page.push_str("## The machine's own limits\n\n");
        let mut rows = vec![["limit".to_owned(), "measured".to_owned()]];
        rows.extend(limits.lines().into_iter().map(|(what, much)| [what, much]));
        page.push_str(&aligned(&rows));
        page.push('\n');
    }
    page.push_str("## Works\n\n");
    page.push_str(&table(&lines));
    let mut rows = vec![["work", "measured", "source", "repeats"].map(str::to_owned)];
    for work in WORKS {
        let Some(measured) = results.works.get(work.name).filter(|measured| !measured.quick) else {
            continue;
        };
        let repeats = measured.servers.values().map(Vec::len).max().unwrap_or(0);
        rows.push([
            work.name.to_owned(),
            measured.date.clone(),
            measured.commit.clone(),
            repeats.to_string(),
        ]);
    }
    page.push_str(&format!("\n{}", aligned(&rows)));
    let doubts: Vec<String> = WORKS
        .iter()
        .filter_map(|work| Some((work, results.works.get(work.name).filter(|measured| !measured.quick)?)))
        .flat_map(|(work, measured)| {
            measured.doubts.iter().map(|doubt| format!("- {}: {doubt}\n", work.name))
        })
        .collect();
    if !doubts.is_empty() {
        page.push_str(&format!("\nWhat speaks against a figure:\n\n{}", doubts.concat()));
    }
    page.push_str(&format!("\n{}", if notes.is_empty() { format!("{NOTES}\n") } else { notes.to_owned() }));
    Ok(page)
}

const METHOD: &str = "\
The server has one core for itself and the generator another, on which it never sleeps (`--busy-poll`), but where the latency of
a few is measured beside load. Both servers check the same stored passwords (salted SHA-512), hold the same
messages, and answer a delivery, an APPEND and a STORE when it is on disk (Dovecot: `mail_fsync = always`). *Dovecot default* is
Debian's configuration with Maildir and with limits raised; *Dovecot best* has login and session processes reused, passwords
cached, hibernation on, and sdbox, the cheapest of its formats for LMTP; for both the kernel grants as many watches on files as
sessions need. Servers take turns; figures are medians of the repeats, with the range in parentheses
where it is wider than a tenth. A ratio is Culver's advantage over the better of the two; a target names the least.

For LMTP and APPEND, processor time and octets are those from before the work until all is flushed: Culver is told to stop and
is counted to its end, since it puts off what Dovecot does at once; Dovecot is counted until it is quiet.
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use super::super::results::Figures;

    fn measured(values: &[(Kind, f64, f64)]) -> Measured {
        let servers = values.iter().map(|(kind, cpu, rate)| {
            (*kind, vec![Figures::from([(Figure::CpuUs, *cpu), (Figure::Rate, *rate)])])
        });
        Measured { servers: servers.collect::<BTreeMap<_, _>>(), ..Measured::default() }
    }

    fn login() -> &'static Work {
        WORKS.iter().find(|work| work.name == "login").unwrap()
    }

    #[test]
    fn less_processor_time_and_more_operations_are_both_better() {
        assert_eq!(ratio(Figure::CpuUs, 10.0, 80.0), Some(8.0));
        assert_eq!(ratio(Figure::Rate, 800.0, 100.0), Some(8.0));
        assert_eq!(ratio(Figure::CpuUs, 0.0, 80.0), None);
    }

    #[test]
    fn culver_is_compared_with_the_better_of_the_two() {
        let measured = measured(&[
            (Kind::Culver, 100.0, 5000.0),
            (Kind::DovecotDefault, 2000.0, 1500.0),
            (Kind::DovecotBest, 900.0, 1000.0),
            (Kind::DovecotDense, 450.0, 3500.0),
        ]);
        let lines = lines(login(), &measured, None);
        let told: Vec<_> = lines.iter().map(|line| (line.figure, line.ratio, line.verdict)).collect();
        assert_eq!(told[0], (Figure::CpuUs, Some(9.0), Verdict::Missed));
        assert_eq!(told[1], (Figure::CpuUs, Some(4.5), Verdict::Missed));
        assert_eq!(told[2], (Figure::Rate, Some(5000.0 / 1500.0), Verdict::Missed));
        assert_eq!(told[3], (Figure::LatencyP99Ms, None, Verdict::Open));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let lines = lines(login(), &measured(&[(Kind::Culver, 1.0, 1.0)]), None);
        assert!(lines.iter().all(|line| line.verdict == Verdict::Open));
    }

    #[test]
    fn absolute_bounds_and_parts_of_a_limit_are_judged() {
        let limits = Limits { loopback_mb_per_second: 1000.0, ..Limits::default() };
        let against = Some((Limit::Loopback, &limits));
        assert_eq!(verdict(Goal::AtMost(4.0), Some(4.0), None, None), Verdict::Met);
        assert_eq!(verdict(Goal::AtMost(4.0), Some(4.1), None, None), Verdict::Missed);
        assert_eq!(verdict(Goal::PartOfLimit(0.6), Some(599.0), None, against), Verdict::Missed);
        assert_eq!(verdict(Goal::PartOfLimit(0.6), Some(600.0), None, against), Verdict::Met);
        assert_eq!(verdict(Goal::Shown, Some(1.0), Some(9.0), None), Verdict::Open);
    }

    #[test]
    fn the_readme_has_the_figures_that_are_kept() {
        let root = crate::root();
        let results = Results::load(&root.join("bench/results.json")).unwrap();
        assert!(!results.works.is_empty());
        let held = fs::read_to_string(root.join("README.md")).unwrap();
        let renewed = readme(&held, &results).unwrap();
        assert_eq!(renewed, held, "`cargo xtask compare --readme` renews it");
        assert!(readme("no table", &results).is_err());
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.0, "1"),
            (1.5, "1.5"),
            (12.345, "12.3"),
            (123.4, "123"),
            (1234.5, "1,234"),
            (1_234_567.0, "1,234,567"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(rounded(value), text);
        }
    }

    #[test]
    fn a_wide_spread_is_shown() {
        assert_eq!(shown(Some(Middle { median: 100.0, min: 99.0, max: 101.0 })), "100");
        assert_eq!(shown(Some(Middle { median: 100.0, min: 90.0, max: 120.0 })), "100 (90…120)");
        assert_eq!(shown(None), "–");
    }

    #[test]
    fn a_page_has_full_runs_only_and_keeps_the_notes() {
        let mut results = Results::default();
        results.works.insert(
            "login".to_owned(),
            measured(&[(Kind::Culver, 10.0, 1.0), (Kind::DovecotBest, 200.0, 1.0)]),
        );
        let quick = Measured { quick: true, ..measured(&[(Kind::Culver, 77.0, 1.0)]) };
        results.works.insert("noop".to_owned(), quick);
        let head = Head {
            date: "2020-01-02".to_owned(),
            machine: "a machine".to_owned(),
            command: "cargo xtask compare".to_owned(),
            dovecot: "Dovecot 2.3".to_owned(),
        };
        let page = page(&head, &results, "## Notes\n\nby hand\n").unwrap();
        assert!(page.contains("| 20 × "), "{page}");
        assert!(!page.contains("NOOP"), "{page}");
        assert!(page.ends_with("## Notes\n\nby hand\n"), "{page}");
        let cells: Vec<usize> = page
            .lines()
            .filter(|line| line.starts_with("| LOGIN"))
            .map(|line| line.matches('|').count())
            .collect();
        assert_eq!(cells, [10, 10, 10], "two lines of other titles, and the one of the dense configuration");
    }
}
