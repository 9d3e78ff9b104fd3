//! One work on one server, once: the store it runs on, the server's start, the generator, the figures.
//!
//! # Order
//! A store is prepared in full before its file `ready` is written; without it, or where it names another content, the
//! store is made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use super::generator::{self, Row};
use super::meter::{self, Stolen, Usage};
use super::results::Figures;
use super::server::{Durability, Kind, Server, Site, USER_PATTERN, http_get, loopback, run};
use super::works::{Figure, Scale, Store, Way, Work, preparation, split};
use super::{culver, session};

/// Connections by which a store is filled.
const FILL_CONNECTIONS: &str = "8";
/// So long Dovecot may still be busy after the work.
const SETTLE_SECONDS_MAX: u32 = 30;

/// What all measurements of a run share.
pub struct Bench {
    pub dir: PathBuf,
    pub site: Site,
    pub scale: Scale,
    /// The core of the generator.
    pub core: usize,
    /// Where configurations, logs and the generator's reports are kept.
    pub keep: Option<PathBuf>,
}

/// The figures of one repeat, and what speaks against them.
pub struct Once {
    pub figures: Figures,
    pub doubt: Option<String>,
}

impl Bench {
    /// Measures a work once. `repeat` counts from 0.
    pub fn once(&self, work: &Work, kind: Kind, repeat: u32) -> Result<Once> {
        let dir = self.state(work, kind)?;
        let measured = match work.way {
            Way::Generator => self.with_generator(work, kind, &dir, repeat),
            Way::UntilFlushed => self.until_flushed(work, kind, &dir, repeat),
            Way::Cold => self.cold(work, kind, &dir, repeat),
        };
        if let Some(keep) = &self.keep {
            let kept = keep.join(work.name).join(format!("{}-{repeat}", kind.name()));
            keep_files(&dir, &kept)?;
        }
        if !matches!(work.store, Store::Prepared(_)) {
            remove(&dir)?;
        }
        measured
    }

    /// An empty directory for a server.
    pub fn fresh(&self, kind: Kind) -> Result<PathBuf> {
        let running = self.running(kind);
        remove(&running)?;
        fs::create_dir_all(&running)?;
        Ok(running)
    }

    fn running(&self, kind: Kind) -> PathBuf {
        self.dir.join("running").join(kind.name())
    }

    /// The directory that a server runs on, as the work wants it.
    fn state(&self, work: &Work, kind: Kind) -> Result<PathBuf> {
        let running = self.running(kind);
        match work.store {
            Store::Prepared(name) => self.prepared(name, kind),
            Store::Fresh => self.fresh(kind),
            Store::CopyOf(name) => {
                let prepared = self.prepared(name, kind)?;
                remove(&running)?;
                fs::create_dir_all(running.parent().context("a parent")?)?;
                run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&prepared).arg(&running))?;
                Ok(running)
            }
        }
    }

    fn prepared(&self, name: &str, kind: Kind) -> Result<PathBuf> {
        let preparation = preparation(name).with_context(|| format!("nobody prepares {name:?}"))?;
        // The dense configuration differs in its processes and not in its mail.
        let owner = if kind == Kind::DovecotDense { Kind::DovecotBest } else { kind };
        let size = if self.scale.quick { "quick" } else { "full" };
        let dir = self.dir.join("prepared").join(format!("{name}-{size}")).join(owner.name());
        let fills: Vec<Vec<String>> =
            preparation.fills.iter().map(|fill| self.words(fill, None)).collect::<Result<_>>()?;
        let content = fills.iter().map(|fill| fill.join(" ") + "\n").collect::<String>();
        let ready = dir.join("ready");
        if fs::read_to_string(&ready).is_ok_and(|held| held == content) {
            return Ok(dir);
        }
        println!("  preparing {name} for {}", owner.name());
        remove(&dir)?;
        let server = Server::start(owner, &self.site, &dir, Durability::Preparing)?;
        for fill in fills {
            let mut words = vec!["fill".to_owned(), "--target".to_owned()];
            words.push(loopback(server.ports.imap).to_string());
            words.extend(["--connections", FILL_CONNECTIONS].map(str::to_owned));
            words.extend(self.users(&fill));
            words.extend(fill);
            let row = self.generate(&words, &server, &dir.join("fill.json"))?;
            if row.get("errors").unwrap_or(0.0) > 0.0 {
                let doubt = row.doubt().unwrap_or_default();
                return Err(anyhow!("{} could not be filled: {doubt}\n{}", owner.name(), server.log_tail()));
            }
            self.check_fill(&words, &server)?;
        }
        server.stop()?;
        // The first start after it reads what the filling left behind, and would hold more memory than any later one.
        Server::start(owner, &self.site, &dir, Durability::Full)?.stop()?;
        fs::write(&ready, content)?;
        Ok(dir)
    }

    /// A mailbox that is smaller than its work says would make a server look fast.
    fn check_fill(&self, words: &[String], server: &Server) -> Result<()> {
        let value = |name: &str| crate::option(words, name);
        let messages: u64 = value("--messages").context("--messages")?.parse()?;
        let user = |number: &str| USER_PATTERN.replace("%d", number);
        let filled = match value("--account").and_then(|account| account.split_once(':')) {
            Some((name, _)) => vec![name.to_owned()],
            None => vec![user("1"), user(value("--users").context("--users")?)],
        };
        for name in filled {
            let exists = session::exists(server, &name, value("--mailbox").unwrap_or("INBOX"))?;
            ensure!(exists == messages, "{name} was filled with {messages} messages and has {exists}");
        }
        Ok(())
    }

    /// A work's words with those in braces replaced.
    fn words(&self, text: &str, server: Option<&Server>) -> Result<Vec<String>> {
        let other = |name: &str| server.and_then(|server| server.address(name));
        Ok(split(&self.scale.fill(text, &other).map_err(anyhow::Error::msg)?))
    }

    /// Who logs in, where the words do not say.
    fn users(&self, words: &[String]) -> Vec<String> {
        match words.iter().any(|word| word == "--account") {
            true => Vec::new(),
            false => ["--user-pattern", USER_PATTERN, "--password", super::server::PASSWORD]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    fn generate(&self, words: &[String], server: &Server, json: &Path) -> Result<Row> {
        generator::run(words, self.core, Some(server.pid()), json)
            .map_err(|error| anyhow!("{error:#}\n{} said:\n{}", server.kind.name(), server.log_tail()))
    }

    fn work(&self, work: &Work, server: &Server, dir: &Path, repeat: u32) -> Result<Row> {
        let mut words = self.words(work.bench, Some(server))?;
        words.extend(self.users(&words));
        words.extend(["--seed".to_owned(), (repeat + 1).to_string()]);
        if work.polls {
            words.push("--busy-poll".to_owned());
        }
        if work.way == Way::UntilFlushed {
            // What a warm-up costs would be counted, and what it does would not.
            words.extend(["--warmup", "0"].map(str::to_owned));
        }
        self.generate(&words, server, &dir.join("work.json"))
    }

    fn with_generator(&self, work: &Work, kind: Kind, dir: &Path, repeat: u32) -> Result<Once> {
        let server = Server::start(kind, &self.site, dir, Durability::Full)?;
        let stolen = Stolen::begin(&[self.site.core, self.core]);
        let row = self.work(work, &server, dir, repeat)?;
        let doubt = both(row.doubt(), stolen.doubt());
        let mut figures = figures(&row);
        if kind.is_culver()
            && let Some((p999, _)) = culver::stalls_us(&http_get(loopback(server.ports.admin), "/metrics")?)
        {
            figures.insert(Figure::StallP999Ms, p999 / 1e3);
        }
        server.stop()?;
        Ok(Once { figures, doubt })
    }

    fn until_flushed(&self, work: &Work, kind: Kind, dir: &Path, repeat: u32) -> Result<Once> {
        let server = Server::start(kind, &self.site, dir, Durability::Full)?;
        let before = meter::usage(server.pid())?;
        let stolen = Stolen::begin(&[self.site.core, self.core]);
        let row = self.work(work, &server, dir, repeat)?;
        let doubt = both(row.doubt(), stolen.doubt());
        let used = if kind.is_culver() {
            server.stop()?.since(before)
        } else {
            meter::settle(server.pid(), SETTLE_SECONDS_MAX)?;
            let used = meter::usage(server.pid())?.since(before);
            server.stop()?;
            used
        };
        let mut figures = figures(&row);
        whole_cost(&mut figures, &row, used);
        Ok(Once { figures, doubt })
    }

    fn cold(&self, work: &Work, kind: Kind, dir: &Path, repeat: u32) -> Result<Once> {
        let words = split(work.bench);
        let [user, command] = &words[..] else { return Err(anyhow!("{}: a user and a command", work.name)) };
        if repeat == 0 {
            // What a server keeps beside its messages is there, as after a first look at the mailbox.
            let server = Server::start(kind, &self.site, dir, Durability::Full)?;
            session::warm(&server, user, command)?;
            server.stop()?;
        }
        let server = Server::start(kind, &self.site, dir, Durability::Full)?;
        let elapsed = session::cold(&server, user, command)?;
        server.stop()?;
        let figures = Figures::from([(Figure::LatencyP50Ms, elapsed.as_secs_f64() * 1e3)]);
        Ok(Once { figures, doubt: None })
    }
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    let doubts: Vec<String> = one.into_iter().chain(other).collect();
    (!doubts.is_empty()).then(|| doubts.join("; "))
}

/// What the generator's row says in our figures.
fn figures(row: &Row) -> Figures {
    let mut figures = Figures::new();
    let mut put = |figure, value: Option<f64>| {
        if let Some(value) = value {
            figures.insert(figure, value);
        }
    };
    let cpu_us = row.get("server/cpu_us_per_operation");
    put(Figure::CpuUs, cpu_us);
    put(Figure::RatePerCpuSecond, cpu_us.filter(|cpu_us| *cpu_us > 0.0).map(|cpu_us| 1e6 / cpu_us));
    put(Figure::Rate, row.get("per_second"));
    put(Figure::LatencyP50Ms, row.get("latency_us/p50").map(|us| us / 1e3));
    put(Figure::LatencyP99Ms, row.get("latency_us/p99").map(|us| us / 1e3));
    put(Figure::MbPerSecond, row.get("octets_in_per_second").map(|octets| octets / 1e6));
    put(Figure::PssKib, row.get("server/pss_kib_per_connection"));
    let kernel = row.get("server/kernel_kib_per_connection").zip(row.get("server/socket_kib_per_connection"));
    put(Figure::KernelKib, kernel.map(|(kernel, sockets)| kernel + sockets));
    put(Figure::IdlePercent, row.get("server/cpu_share_working").map(|share| share * 100.0));
    put(Figure::Interference, row.get("p99_ratio"));
    figures
}

/// Puts what was used until everything was flushed in the place of what the generator saw.
fn whole_cost(figures: &mut Figures, row: &Row, used: Usage) {
    let cpu_us = used.cpu_seconds * 1e6 / row.operations().max(1.0);
    figures.insert(Figure::CpuUs, cpu_us);
    if let Some(raw) = row.get("raw_octets").filter(|raw| *raw > 0.0) {
        figures.insert(Figure::WrittenPerRaw, used.write_octets as f64 / raw);
    }
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Copies what explains a measurement: configuration, log, the generator's report.
fn keep_files(dir: &Path, kept: &Path) -> Result<()> {
    fs::create_dir_all(kept)?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let wanted =
            path.extension().is_some_and(|e| ["toml", "conf", "log", "json"].iter().any(|w| e == *w));
        if wanted && path.is_file() {
            fs::copy(&path, kept.join(path.file_name().context("a file's name")?))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_figures() {
        let row = Row(serde_json::json!({
            "operations": 1000, "per_second": 500, "raw_octets": 10_000, "octets_in_per_second": 2_000_000,
            "latency_us": {"p50": 1500, "p99": 9000},
            "server": {"cpu_us_per_operation": 200, "cpu_share_working": 0.004, "pss_kib_per_connection": 3.5,
                "kernel_kib_per_connection": 5, "socket_kib_per_connection": 1},
        }));
        let mut figures = figures(&row);
        for (figure, value) in [
            (Figure::CpuUs, 200.0),
            (Figure::RatePerCpuSecond, 5000.0),
            (Figure::Rate, 500.0),
            (Figure::LatencyP50Ms, 1.5),
            (Figure::MbPerSecond, 2.0),
            (Figure::PssKib, 3.5),
            (Figure::KernelKib, 6.0),
            (Figure::IdlePercent, 0.4),
        ] {
            assert_eq!(figures.get(&figure), Some(&value), "{figure:?}");
        }
        assert!(!figures.contains_key(&Figure::Interference));
        whole_cost(&mut figures, &row, Usage { cpu_seconds: 0.5, write_octets: 15_000 });
        assert_eq!((figures[&Figure::CpuUs], figures[&Figure::WrittenPerRaw]), (500.0, 1.5));
    }
}
