//! `cargo xtask compare`: Culver and Debian's Dovecot on the same work, one after the other, on one core.
//!
//! # Invariants
//! The server has a core for itself and the generator another. A target that is missed is told and is no failure of
//! this command; what fails is what could not be measured.

mod churn;
pub mod culver;
mod dovecot;
pub mod generator;
mod limits;
mod measure;
pub mod meter;
pub mod report;
pub mod results;
pub mod server;
pub mod session;
mod works;

pub use self::works::split;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use self::limits::Limits;
use self::measure::Bench;
use self::report::Head;
use self::results::{Measured, Results};
use self::server::{Kind, Site, run as run_command};
use self::works::{OTHERS, Scale, WORKS, Way, Work};

const HELP: &str = "\
cargo xtask compare: Culver and Debian 12's Dovecot on the same work, and the machine's own limits.

  --only NAME[,NAME]  these works (below), limits or churn; all works where not given
  --quick             one repeat, short, small mailboxes: to see that it works, not for figures
  --repeat N          medians of N repeats [default: 5]
  --server NAME       culver, dovecot-default, dovecot-best or dovecot-dense, and no other
  --dir DIR           stores and results, on the file system to measure [default: target/compare]
  --keep DIR          keep configurations, logs and the generator's reports of each run
  --write             renew bench/results.json with the full results in --dir, and bench/RESULTS.md and README.md from it
  --readme            renew the table in README.md from bench/results.json, and measure nothing
  --minutes N         of churn [default: 60]

Examples:
  cargo xtask compare --quick --only limits,lmtp-10   a first look, in a minute
  cargo xtask compare --only fetch-flags,search       two works on all servers, five repeats each
  cargo xtask compare --server culver --only noop     after a change of the server
  cargo xtask compare --write                         everything, for hours, and the page
  cargo xtask compare --only churn --minutes 60       memory, descriptors and maps under load

Dovecot is installed where it is missing and must be started by root; it is bound to loopback, on free ports,
with its own directories, and nothing of it stays running. Works that were measured stay in DIR/results.json; what --write
puts into bench/results.json stays there until the work is measured anew, or another machine writes.
";

#[derive(Clone, Debug, PartialEq)]
struct Options {
    only: Vec<String>,
    quick: bool,
    repeat: u32,
    server: Option<Kind>,
    dir: PathBuf,
    keep: Option<PathBuf>,
    write: bool,
    readme: bool,
    minutes: u32,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options {
            only: Vec::new(),
            quick: false,
            repeat: 0,
            server: None,
            dir: crate::root().join("target/compare"),
            keep: None,
            write: false,
            readme: false,
            minutes: 60,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{name} wants a value"));
            let number = |value: &String| {
                value
                    .parse::<u32>()
                    .ok()
                    .filter(|n| *n > 0)
                    .with_context(|| format!("{name} {value}: not a number above 0"))
            };
            match name.as_str() {
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--quick" => options.quick = true,
                "--repeat" => options.repeat = number(value()?)?,
                "--server" => {
                    let value = value()?;
                    options.server = Some(Kind::parse(value).with_context(|| {
                        format!("--server {value}: there are {}", Kind::ALL.map(Kind::name).join(", "))
                    })?);
                }
                "--dir" => options.dir = PathBuf::from(value()?),
                "--keep" => options.keep = Some(PathBuf::from(value()?)),
                "--write" => options.write = true,
                "--readme" => options.readme = true,
                "--minutes" => options.minutes = number(value()?)?,
                _ => bail!("{name} is not known; see cargo xtask compare --help"),
            }
        }
        if options.repeat == 0 {
            options.repeat = if options.quick { 1 } else { 5 };
        }
        for name in &options.only {
            let known =
                WORKS.iter().any(|work| work.name == name) || OTHERS.iter().any(|(other, _)| other == name);
            ensure!(known, "--only {name}: no such work; see cargo xtask compare --help");
        }
        ensure!(!(options.quick && options.write), "--write wants figures that count: leave out --quick");
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        match self.only.is_empty() {
            true => name != "churn",
            false => self.only.iter().any(|only| only == name),
        }
    }
}

pub fn run(arguments: &[String]) -> Result<bool> {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}\nWorks:\n{}", list());
        return Ok(true);
    }
    let options = Options::parse(arguments)?;
    if options.readme {
        let kept = Results::load(&crate::root().join("bench/results.json"))?;
        report::write_readme(&crate::root().join("README.md"), &kept)?;
        return Ok(true);
    }
    fs::create_dir_all(&options.dir).with_context(|| options.dir.display().to_string())?;
    let dir = options.dir.canonicalize()?;
    let file_system = file_system(&dir)?;
    if file_system == "tmpfs" {
        println!("note: {} is on tmpfs, where a sync costs nothing: give a --dir on a disk", dir.display());
    }
    let (server_core, generator_core) = cores()?;
    let machine = machine(&file_system, (server_core, generator_core));
    let stored = dir.join("results.json");
    let mut results = Results::load(&stored)?;

    if options.wants("limits") {
        println!("the machine's own limits");
        let text = limits::measure(&dir, options.quick)?;
        for (what, much) in Limits::parse(&text)?.lines() {
            println!("  {what}: {much}");
        }
        results.limits = Some(text.trim().to_owned());
        results.save(&stored)?;
    }
    let wanted: Vec<&Work> = WORKS.iter().filter(|work| options.wants(work.name)).collect();
    let mut failed = Vec::new();
    if !wanted.is_empty() || options.wants("churn") {
        culver::build()?;
        let bench = Bench {
            site: Site::make(&dir, server_core)?,
            scale: Scale { quick: options.quick },
            core: generator_core,
            keep: options.keep.clone(),
            dir: dir.clone(),
        };
        let kinds: Vec<Kind> = wanted.iter().flat_map(|work| works::servers(work, options.server)).collect();
        let mut _raised = None;
        if kinds.iter().any(|kind| !kind.is_culver()) {
            println!("Dovecot {}", dovecot::install()?);
            _raised = Some(dovecot::raise_inotify()?);
        }
        failed = measure_all(&bench, &options, &wanted, &mut results, (&stored, &machine))?;
        if options.wants("churn") {
            churn::run(&bench, options.minutes)?;
        }
    }
    let limits = results.limits.as_deref().map(Limits::parse).transpose()?;
    let lines = report::all_lines(&results, limits.as_ref(), |work, _| options.wants(work.name));
    if !lines.is_empty() {
        println!("\n{}", report::table(&lines));
    }
    for work in &wanted {
        for doubt in results.works.get(work.name).iter().flat_map(|measured| &measured.doubts) {
            println!("note: {}: {doubt}", work.name);
        }
    }
    if options.write {
        let head = Head {
            date: said("date", &["-u", "+%Y-%m-%d"]),
            machine: format!("Machine: {machine}"),
            command: "cargo xtask compare --write".to_owned(),
            dovecot: format!("Dovecot {}", dovecot_version()),
        };
        let bench = crate::root().join("bench");
        let mut written = Results::load(&bench.join("results.json"))?;
        written.renew(&results, &machine);
        written.save(&bench.join("results.json"))?;
        report::write(&bench.join("RESULTS.md"), &head, &written)?;
        report::write_readme(&crate::root().join("README.md"), &written)?;
    }
    for failure in &failed {
        println!("failed: {failure}");
    }
    Ok(failed.is_empty())
}

/// Measures each work on its servers, which take turns, and keeps what was measured after each work.
fn measure_all(
    bench: &Bench,
    options: &Options,
    wanted: &[&Work],
    results: &mut Results,
    (stored, machine): (&Path, &str),
) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for work in wanted {
        if work.way == Way::Cold && !session::may_drop() {
            println!("skipped: {}: only root may drop the page cache", work.name);
            continue;
        }
        let kinds = works::servers(work, options.server);
        let mut measured = Measured {
            date: said("date", &["-u", "+%Y-%m-%d"]),
            commit: source(),
            quick: options.quick,
            machine: machine.to_owned(),
            ..Measured::default()
        };
        let mut broken = BTreeMap::new();
        for repeat in 0..options.repeat {
            for kind in &kinds {
                if broken.contains_key(kind) {
                    continue;
                }
                println!("{}: {} {}/{}", work.name, kind.name(), repeat + 1, options.repeat);
                match bench.once(work, *kind, repeat) {
                    Ok(once) => {
                        if let Some(doubt) = once.doubt {
                            println!("  note: {doubt}");
                            measured.doubts.push(format!("{}: {doubt}", kind.name()));
                        }
                        measured.servers.entry(*kind).or_default().push(once.figures);
                    }
                    // One server's failure is no reason to have no figure of the others.
                    Err(error) => {
                        println!("  failed: {error:#}");
                        broken.insert(*kind, format!("{}: {}: {error:#}", work.name, kind.name()));
                    }
                }
            }
        }
        failed.extend(broken.into_values());
        if options.server.is_some()
            && let Some(held) = results
                .works
                .get(work.name)
                .filter(|held| held.quick == options.quick && held.machine == measured.machine)
        {
            // The other servers' figures stand until they are measured again.
            for (kind, repeats) in &held.servers {
                measured.servers.entry(*kind).or_insert_with(|| repeats.clone());
            }
        }
        measured.doubts.sort();
        measured.doubts.dedup();
        results.works.insert(work.name.to_owned(), measured);
        results.save(stored)?;
    }
    Ok(failed)
}

fn list() -> String {
    let scale = Scale { quick: false };
    let works = WORKS.iter().map(|work| (work.name, scale.fill(work.title, &|_| None).unwrap_or_default()));
    let others = OTHERS.iter().map(|(name, what)| (*name, (*what).to_owned()));
    works.chain(others).map(|(name, title)| format!("  {name:<20} {title}\n")).collect()
}

/// The first and the last core that this process may use: the server's and the generator's.
pub fn cores() -> Result<(usize, usize)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("Cpus_allowed_list")?;
    let cores = core_list(list.trim()).with_context(|| format!("Cpus_allowed_list: {list}"))?;
    let (first, last) = (*cores.first().context("no core")?, *cores.last().context("no core")?);
    if first == last {
        println!("note: there is one core: server and generator share it, and no figure of this run counts");
    }
    Ok((first, last))
}

/// `0-3,8` in full.
fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        cores.extend(from.parse::<usize>().ok()?..=to.parse().ok()?);
    }
    Some(cores)
}

pub fn file_system(dir: &Path) -> Result<String> {
    let output = run_command(Command::new("df").arg("--output=fstype").arg(dir))?;
    Ok(output.lines().last().unwrap_or_default().trim().to_owned())
}

pub fn machine(file_system: &str, (server, generator): (usize, usize)) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = meter::field(&memory, "MemTotal:").unwrap_or(0) as f64 / f64::from(1 << 20);
    format!(
        "{}, {} cores, {gib:.0} GiB, Linux {}, {file_system}; server on core {server}, generator on core {generator}",
        model.trim_start_matches([' ', '\t', ':']),
        std::thread::available_parallelism().map_or(1, usize::from),
        kernel(&said("uname", &["-r"])),
    )
}

/// A kernel's version without what its builder added: machines of one kind differ in that.
fn kernel(release: &str) -> &str {
    release.split_once('-').map_or(release, |(version, _)| version)
}

fn dovecot_version() -> String {
    said("dovecot", &["--version"])
}

/// The last commit that changed more than pages and figures, so that works measured one after another name one source.
pub fn source() -> String {
    let but = ["--", ".", ":!*.md", ":!bench/*.json"];
    said("git", &[&["log", "-1", "--format=%h", "--abbrev=10"][..], &but].concat())
}

/// What a command says, in one line.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(crate::root()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options> {
        Options::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        let options = parse("--only limits,noop --server dovecot-best --repeat 3 --keep k").unwrap();
        assert!(options.wants("limits") && options.wants("noop") && !options.wants("login"));
        assert_eq!((options.server, options.repeat), (Some(Kind::DovecotBest), 3));
        assert_eq!(parse("--quick").unwrap().repeat, 1);
        assert_eq!(parse("").unwrap().repeat, 5);
        assert!(parse("").unwrap().wants("noop") && !parse("").unwrap().wants("churn"));
    }

    #[test]
    fn wrong_options_are_told() {
        for wrong in [
            "--only nothing",
            "--repeat 0",
            "--repeat x",
            "--server exim",
            "--whatever",
            "--dir",
            "--quick --write",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_kernel_is_its_version() {
        assert_eq!((kernel("6.1.0-42-amd64"), kernel("6.18.44")), ("6.1.0", "6.18.44"));
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(core_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(core_list("5"), Some(vec![5]));
        assert_eq!(core_list("x"), None);
    }
}
