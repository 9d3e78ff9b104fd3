//! `cargo xtask counts`: instructions of every micro-benchmark's measured function, and their change.
//!
//! A time depends on the machine's mood, a count of instructions does not: each case of each `benches/micro.rs` runs once
//! under callgrind, which collects within `measured_case` only (see `bench/cases`). A count that changed fails nothing.
//!
//! # Limits
//! Counts are of one compiler and one instruction set; `bench/instructions.tsv` names those that it was written with.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

/// Crates with a `benches/micro.rs`.
const CRATES: &[&str] =
    &["culver-model", "culver-proto", "culver-index", "culver-fts", "culver-storage", "culver-mailbox"];
const FILE: &str = "bench/instructions.tsv";
/// Where a change is marked, in percent: smaller ones come from code that was laid out anew.
const MARKED_PERCENT: f64 = 1.0;

/// By the case's name.
type Counts = BTreeMap<String, u64>;

pub fn run(arguments: &[String]) -> Result<bool> {
    let missing = crate::test::install(&[("valgrind", "valgrind")]);
    if !missing.is_empty() {
        println!("skipped: instruction counts: the package valgrind is not installed");
        return Ok(true);
    }
    let filter = crate::option(arguments, "--filter").unwrap_or_default();
    let write = arguments.iter().any(|a| a == "--write");
    let path = crate::root().join(FILE);
    let held = fs::read_to_string(&path).unwrap_or_default();
    let (made_with, old) = parse(&held)?;
    let mut new = count(&build()?, filter)?;
    let mine = compiler()?;
    if !held.is_empty() && made_with != mine {
        println!("{FILE} was written with {made_with}; this is {mine}");
    }
    print!("{}", table(&old, &new, filter));
    if write {
        // Under a filter, what was not counted stays as it was; else what is gone goes.
        let kept = old.into_iter().filter(|(name, _)| !filter.is_empty() && !name.contains(filter));
        new.extend(kept);
        fs::write(&path, text(&mine, &new)).with_context(|| path.display().to_string())?;
        println!("wrote {FILE}");
    }
    Ok(true)
}

/// Builds the benchmarks and gives their binaries.
fn build() -> Result<Vec<PathBuf>> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--locked", "--no-run", "--quiet", "--profile", "counts", "--bench", "micro"]);
    command.arg("--message-format=json-render-diagnostics").current_dir(crate::root());
    let output = command
        .args(CRATES.iter().flat_map(|name| ["-p", name]))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo bench")?;
    let binaries = executables(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || binaries.len() != CRATES.len() {
        bail!("the benchmarks do not build");
    }
    Ok(binaries)
}

/// The executables that cargo's messages name, one message a line.
fn executables(messages: &str) -> Vec<PathBuf> {
    let named = messages.lines().filter_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    });
    named.collect()
}

fn count(binaries: &[PathBuf], filter: &str) -> Result<Counts> {
    let mut cases = VecDeque::new();
    for binary in binaries {
        let output = Command::new(binary).arg("--list").stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("{} --list failed", binary.display());
        }
        let names = String::from_utf8(output.stdout).context("names of cases")?;
        cases.extend(names.lines().filter(|n| n.contains(filter)).map(|n| (binary.clone(), n.to_owned())));
    }
    let folder = binaries.first().and_then(|binary| binary.parent()).context("there are no benchmarks")?;
    let (cases, counts) = (Mutex::new(cases), Mutex::new(Counts::new()));
    let work = || -> Result<()> {
        loop {
            let Some((binary, name)) = cases.lock().expect("nobody panics with it").pop_front() else {
                return Ok(());
            };
            let instructions = count_one(&binary, &name, folder).with_context(|| name.clone())?;
            counts.lock().expect("nobody panics with it").insert(name, instructions);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join().expect("a worker returns its errors"));
        done.collect::<Result<Vec<()>>>()
    })?;
    Ok(counts.into_inner().expect("nobody panics with it"))
}

/// Runs one case under callgrind. What callgrind found stays beside the binary, for `callgrind_annotate`.
fn count_one(binary: &Path, name: &str, folder: &Path) -> Result<u64> {
    let out = folder.join(format!("{}.callgrind", name.replace('/', "-")));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=measured_case"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(binary)
        .args(["--once", name])
        // The environment stands on the stack and moves what is below it; callgrind itself needs to find its tools.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output()
        .context("valgrind")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let found = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    match total(&found) {
        Some(instructions) if instructions > 0 => Ok(instructions),
        _ => bail!("nothing was counted: is measured_case in the binary?"),
    }
}

/// Instructions in all, from callgrind's file.
fn total(found: &str) -> Option<u64> {
    found.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok())
}

/// What the counts depend on besides the sources.
fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match (field("release:"), field("host:")) {
        (Some(release), Some(host)) => Ok(format!("rustc {release} {host}")),
        _ => bail!("rustc -vV does not name itself"),
    }
}

fn text(made_with: &str, counts: &Counts) -> String {
    let mut out =
        format!("# Instructions of each micro-benchmark; `cargo xtask counts --write`. {made_with}\n");
    counts.iter().for_each(|(name, count)| writeln!(out, "{name}\t{count}").expect("a String takes all"));
    out
}

/// The compiler that the file names, and its counts.
fn parse(text: &str) -> Result<(String, Counts)> {
    let (mut made_with, mut counts) = (String::new(), Counts::new());
    for (n, line) in text.lines().enumerate() {
        if let Some(comment) = line.strip_prefix('#') {
            made_with = comment.rsplit_once(". ").map_or("", |(_, compiler)| compiler).to_owned();
            continue;
        }
        let (name, count) =
            line.split_once('\t').with_context(|| format!("{FILE}:{}: no tabulator", n + 1))?;
        let count = count.parse().with_context(|| format!("{FILE}:{}: no number", n + 1))?;
        counts.insert(name.to_owned(), count);
    }
    Ok((made_with, counts))
}

/// Old, new, and the change; then what is missing, then one line that counts.
fn table(old: &Counts, new: &Counts, filter: &str) -> String {
    let mut out = format!("{:<36} {:>14} {:>14} {:>9}\n", "instructions", "old", "new", "change");
    let mut marked = 0;
    for (name, count) in new {
        let (before, change) = match old.get(name) {
            Some(before) => {
                let percent = (*count as f64 - *before as f64) / *before as f64 * 100.0;
                let mark = if percent.abs() >= MARKED_PERCENT { " !" } else { "" };
                marked += usize::from(!mark.is_empty());
                (before.to_string(), format!("{percent:+.2} %{mark}"))
            }
            None => ("-".to_owned(), "new".to_owned()),
        };
        writeln!(out, "{name:<36} {before:>14} {count:>14} {change:>11}").expect("a String takes all");
    }
    let missing = old.iter().filter(|(name, _)| name.contains(filter) && !new.contains_key(*name));
    for (name, count) in missing {
        writeln!(out, "{name:<36} {count:>14} {:>14}", "not counted").expect("a String takes all");
    }
    let all = new.len();
    writeln!(out, "counts: {all} cases, {marked} changed by {MARKED_PERCENT} % or more").expect("as above");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let made = counts(&[("a/b", 12), ("c/d", 0)]);
        let (made_with, read) = parse(&text("rustc 1.95.0 here", &made)).expect("own text");
        assert_eq!((made_with.as_str(), read), ("rustc 1.95.0 here", made));
        assert!(parse("a 12").is_err() && parse("a\tx").is_err());
    }

    #[test]
    fn changes_are_told_and_large_ones_are_marked() {
        let old = counts(&[("gone", 5), ("less", 1000), ("same", 7)]);
        let new = counts(&[("less", 900), ("more", 1), ("same", 7)]);
        let told = table(&old, &new, "");
        let row = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(row("less").ends_with("-10.00 % !"), "{told}");
        assert!(row("same").ends_with("+0.00 %"), "{told}");
        assert!(row("more").ends_with("new") && row("gone").ends_with("not counted"), "{told}");
        assert!(told.ends_with("counts: 3 cases, 1 changed by 1 % or more\n"), "{told}");
        assert!(!table(&old, &counts(&[("same", 7)]), "same").contains("gone"));
    }

    #[test]
    fn tools_are_understood() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null,\"fresh\":true}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/a/micro-1\",\"fresh\":true}\n";
        assert_eq!(executables(messages), [PathBuf::from("/a/micro-1")]);
        assert_eq!(total("events: Ir\nsummary: 9\n\ntotals: 314\n"), Some(314));
        assert_eq!(total("events: Ir\n"), None);
    }
}
