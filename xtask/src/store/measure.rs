//! One repeat: nodes on the store, through the relay or past it, and what they do there.
//!
//! # Order
//! Each repeat has a prefix of its own in the store, and each part that is to begin with an empty one a prefix below that. The unit, one PUT, is
//! measured at the beginning of the repeat, on the way that the node's requests take.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::http;
use super::relay::{Counts, Relay};
use super::seaweed::{KEY, SECRET};
use crate::compare::culver;
use crate::compare::generator::{self, Row};
use crate::compare::server::{
    Durability, Kind, PASSWORD, Server, Site, USER_PATTERN, http_get, loopback, run,
};
use crate::compare::session::Session;

pub const BUCKET: &str = "mail";
const PROBE: &str = "probe";
/// Octets of the object whose PUT is the unit.
const PUT_OCTETS: usize = 16 << 10;
/// How late the relay makes each request where round trips are counted.
const DELAY: Duration = Duration::from_millis(100);
/// What a request of a store in the same region takes more than one on this machine.
const FAR: Duration = Duration::from_millis(30);
/// What a node says that could not flush everything when it was stopped.
const UNFLUSHED: &str = "not all is flushed in time";
/// Within this the next node removes what a node that ended has left.
const SWEPT: Duration = Duration::from_secs(60);
/// Cold accounts that log in, the first of them, and that the clients before have not changed: what a stop could not flush in time
/// is read record by record.
const COLD: usize = 7;
const COLD_FIRST: usize = 201;
const READY: Duration = Duration::from_secs(60);
const TAKEN: Duration = Duration::from_secs(60);

/// Figures of one repeat, by key.
pub type Figures = BTreeMap<&'static str, f64>;

pub struct Bench {
    pub site: Site,
    /// Of the generator and of the store.
    pub core: usize,
    pub dir: PathBuf,
    pub quick: bool,
    pub store: std::net::SocketAddr,
    pub repeat: u32,
}

struct Node {
    server: Server,
    dir: PathBuf,
}

impl Node {
    /// Requests by kind, as its cost meter has them.
    fn cost(&self) -> Result<Counts> {
        let mut command = Command::new(culver::binary("culver"));
        let told = run(command.args(["cost", "--json", "--dir"]).arg(self.dir.join("node")))?;
        let told: Value = serde_json::from_str(&told)?;
        let mut counts = Counts::new();
        for line in told["kinds"].as_array().context("culver cost told no kinds")? {
            let name = line["kind"].as_str().unwrap_or_default().to_lowercase();
            let kind = ["put", "get", "head", "list", "delete"].into_iter().find(|kind| *kind == name);
            *counts.entry(kind.unwrap_or("other")).or_default() += line["requests"].as_u64().unwrap_or(0);
        }
        Ok(counts)
    }
}

/// PUT and LIST, which are billed alike.
fn billed(counts: &Counts) -> f64 {
    ["put", "list"].iter().filter_map(|kind| counts.get(kind)).sum::<u64>() as f64
}

fn reads(counts: &Counts) -> u64 {
    ["get", "head", "list"].iter().filter_map(|kind| counts.get(kind)).sum()
}

impl Bench {
    pub fn measure(&self) -> Result<Figures> {
        let mut figures = Figures::new();
        let relay = Relay::start(self.store)?;
        let buckets = [BUCKET, PROBE].map(|bucket| format!("/{bucket}"));
        let mut client = http::Client::connect(self.store)?;
        for bucket in buckets {
            // It may be there from an earlier repeat.
            client.ask("PUT", &bucket, b"")?;
        }
        self.tell("one PUT of the store");
        one_put(&relay, if self.quick { 100 } else { 500 }, &mut figures)?;
        // Cold is who stands in tables, and stored is what is flushed: where the stop was cut short neither was there.
        if let Some(raw) = self.few(&relay, &mut figures)? {
            self.cold(&relay, raw, &mut figures)?;
        }
        self.many(&mut figures)?;
        self.takeover(None, ["scanned_mib", "scan_mib_s", "served_after_s"], &mut figures)?;
        let far = ["far_scanned_mib", "far_scan_mib_s", "far_served_after_s"];
        self.takeover(Some(&relay), far, &mut figures)?;
        let put = |figures: &Figures, part: &str| figures.get(part).copied().filter(|ms| *ms > 0.0);
        for (of, unit, times) in [
            ("lmtp_p50_ms", "put_p50_ms", "lmtp_p50_puts"),
            ("lmtp_p99_ms", "put_p99_ms", "lmtp_p99_puts"),
            ("flag_p50_ms", "put_p50_ms", "flag_p50_puts"),
            ("flag_p99_ms", "put_p99_ms", "flag_p99_puts"),
        ] {
            if let (Some(ms), Some(unit)) = (put(&figures, of), put(&figures, unit)) {
                figures.insert(times, ms / unit);
            }
        }
        Ok(figures)
    }

    fn tell(&self, what: &str) {
        println!("repeat {}: {what}", self.repeat + 1);
    }

    fn node(&self, name: &str, prefix: &str, endpoint: std::net::SocketAddr) -> Result<Node> {
        let dir = self.dir.join(format!("{}-{prefix}-{name}", self.repeat));
        let _ = fs::remove_dir_all(&dir);
        let storage = format!(
            "url = \"s3://{BUCKET}/{}/{prefix}?endpoint=http://{endpoint}&region=us-east-1&path_style=true\"\n\
             node = \"{name}\"\ndir = \"{}\"\n",
            self.repeat,
            dir.join("node").display()
        );
        let environment = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
        let server = Server::start_node(&self.site, &dir, &storage, &environment)?;
        let began = Instant::now();
        while http_get(loopback(server.ports.admin), "/ready").is_err() {
            ensure!(began.elapsed() < READY, "node {name} is not ready:\n{}", server.log_tail());
            sleep(Duration::from_millis(50));
        }
        Ok(Node { server, dir })
    }

    fn generate(&self, server: &Server, kind: &str, port: u16, words: &str) -> Result<Row> {
        let words = format!(
            "{kind} --target {} --user-pattern {USER_PATTERN} --password {PASSWORD} --seed {} {words}",
            loopback(port),
            self.repeat + 1
        );
        let row = self.generate_words(server, crate::compare::split(&words))?;
        if let Some(doubt) = row.doubt() {
            println!("  note: {kind}: {doubt}");
        }
        Ok(row)
    }

    fn generate_words(&self, server: &Server, words: Vec<String>) -> Result<Row> {
        generator::run(&words, self.core, Some(server.pid()), &self.dir.join("work.json"))
    }

    fn lmtp(&self, server: &Server, words: &str) -> Result<Row> {
        self.generate(server, "lmtp", server.ports.lmtp, words)
    }

    /// Each command changes what the one before has set.
    fn flags(&self, server: &Server, words: &str) -> Result<Row> {
        let commands =
            r"--command 'STORE 1 +FLAGS.SILENT (\Flagged)' --command 'STORE 1 -FLAGS.SILENT (\Flagged)'";
        self.generate(server, "imap", server.ports.imap, &format!("{commands} {words}"))
    }

    fn seconds(&self, seconds: u32) -> u32 {
        if self.quick { seconds.div_ceil(5) } else { seconds }
    }

    /// Latencies at low load, requests for each message and of clients; octets that were delivered, where a stop
    /// has flushed them all.
    fn few(&self, relay: &Relay, figures: &mut Figures) -> Result<Option<f64>> {
        let first = relay.counts();
        let node = self.node("a", "few", relay.address)?;
        let server = &node.server;
        let mut raw = 0.0;
        self.tell("deliveries and flags at low load");
        // Nobody has logged in: all accounts are closed.
        let before = relay.counts();
        let row = self
            .lmtp(server, &format!("-c 4 --users 500 --rate 5 --duration {} --warmup 0", self.seconds(20)))?;
        figures.insert("delivery_reads", (reads(&relay.counts()) - reads(&before)) as f64 / row.operations());
        raw += octets(&row)?;
        latencies(&row, ["lmtp_p50_ms", "lmtp_p99_ms"], figures)?;
        let row =
            self.generate(server, "fill", server.ports.lmtp, "--via lmtp -c 8 --users 64 --messages 1")?;
        raw += octets(&row)?;
        let row = self.flags(server, &format!("-c 1 --users 1 --rate 3 --duration {}", self.seconds(20)))?;
        latencies(&row, ["flag_p50_ms", "flag_p99_ms"], figures)?;

        self.tell("64 clients that change flags as fast as they are answered");
        let seconds = self.seconds(30);
        let (began, before) = (Instant::now(), relay.counts());
        let row = self.flags(server, &format!("-c 64 --users 64 --duration {seconds} --warmup 0"))?;
        let puts = relay.counts().get("put").unwrap_or(&0) - before.get("put").unwrap_or(&0);
        figures.insert("interactive_puts", puts as f64 / began.elapsed().as_secs_f64());
        figures.insert("interactive_changes", row.get("per_second").unwrap_or(0.0));

        let words = format!("--via lmtp -c 7 --user-first {COLD_FIRST} --users {COLD} --messages 3");
        let row = self.generate(server, "fill", server.ports.lmtp, &words)?;
        raw += octets(&row)?;
        let mut delivered = 0.0;
        for (rate, key) in [(20, "commits_20"), (200, "commits_200")] {
            self.tell(&format!("{rate} deliveries per second"));
            let before = node.cost()?;
            let words =
                format!("-c 50 --users 10000 --rate {rate} --duration {} --warmup 0", self.seconds(30));
            let row = self.lmtp(server, &words)?;
            let spent = billed(&node.cost()?) - billed(&before);
            figures.insert(key, spent / row.operations());
            delivered += row.operations();
            raw += octets(&row)?;
        }
        ensure!(delivered > 0.0, "nothing was delivered");
        figures.insert("meter_differs", meter_differs(&node, relay, &first)?);
        figures.insert("journaled_all", self.held("few")?.values().sum::<u64>() as f64 / raw);
        let (before, began) = (relay.counts(), Instant::now());
        node.server.stop()?;
        let reads = reads(&relay.counts()) - reads(&before);
        println!(
            "  the stop took {:.1} s and read {reads} times of the store",
            began.elapsed().as_secs_f64()
        );
        let said = fs::read_to_string(node.dir.join("server.log"))?;
        let flushed = !said.contains(UNFLUSHED);
        if !flushed {
            println!(
                "  note: the stop did not flush all in time: no round trips and no octets stored in this repeat"
            );
        }
        Ok(flushed.then_some(raw))
    }

    /// Octets that the store holds below a prefix, by kind of object.
    fn held(&self, prefix: &str) -> Result<BTreeMap<String, u64>> {
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        let prefix = format!("{}/{prefix}/", self.repeat);
        for (key, octets) in http::list(self.store, BUCKET)? {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            let kind = rest.rsplit_once('.').map_or(rest.split('/').next().unwrap_or(rest), |(_, kind)| kind);
            *held.entry(kind.to_owned()).or_default() += octets;
        }
        Ok(held)
    }

    /// What is stored for each octet that was delivered, when the next node has removed the journal of the one that ended.
    fn stored(&self, prefix: &str, raw: f64, figures: &mut Figures) -> Result<()> {
        let began = Instant::now();
        let held = loop {
            let held = self.held(prefix)?;
            let journal = held.get("journal").copied().unwrap_or(0) as f64;
            if journal < raw / 20.0 || began.elapsed() > SWEPT {
                break held;
            }
            sleep(Duration::from_secs(1));
        };
        let of = |kinds: &[&str]| kinds.iter().filter_map(|kind| held.get(*kind)).sum::<u64>() as f64 / raw;
        figures.insert("stored_packs", of(&["pack"]));
        figures.insert("stored_tables", of(&["table", "manifest"]));
        figures.insert("stored_journal", of(&["journal"]));
        figures.insert("stored_all", held.values().sum::<u64>() as f64 / raw);
        Ok(())
    }

    /// Round trips of cold accounts, on a node that has nothing of them on its disk.
    fn cold(&self, relay: &Relay, raw: f64, figures: &mut Figures) -> Result<()> {
        self.tell("round trips");
        let node = self.node("b", "few", relay.address)?;
        relay.hold_up(DELAY);
        let trips = |began: Instant| (began.elapsed().as_secs_f64() / DELAY.as_secs_f64()).floor();
        let (mut logins, mut selects) = (Vec::new(), Vec::new());
        for nth in 0..COLD {
            let mut session = Session::open(&node.server)?;
            let began = Instant::now();
            session.log_in(&USER_PATTERN.replace("%d", &(nth + COLD_FIRST).to_string()))?;
            logins.push(trips(began));
            session.command("SELECT INBOX")?;
            selects.push(trips(began));
        }
        relay.hold_up(Duration::ZERO);
        println!("  LOGIN {logins:?}, to SELECT {selects:?}");
        figures.insert("login_trips", logins.into_iter().fold(0.0, f64::max));
        figures.insert("select_trips", selects.into_iter().fold(0.0, f64::max));
        self.tell("what is stored");
        self.stored("few", raw, figures)?;
        node.server.stop()?;
        Ok(())
    }

    /// Deliveries as fast as they go, beside the same on this machine's disk; past the relay.
    fn many(&self, figures: &mut Figures) -> Result<()> {
        let words = format!("-c 50 --users 1000 --duration {}", self.seconds(15));
        self.tell("deliveries by 50 connections");
        let node = self.node("c", "many", self.store)?;
        let row = self.lmtp(&node.server, &words)?;
        figures.insert("many_store", row.get("per_second").unwrap_or(0.0));
        node.server.stop()?;
        self.tell("the same on a store of this machine");
        let dir = self.dir.join(format!("{}-local", self.repeat));
        let server = Server::start(Kind::Culver, &self.site, &dir, Durability::Full)?;
        let row = self.lmtp(&server, &words)?;
        figures.insert("many_local", row.get("per_second").unwrap_or(0.0));
        server.stop()?;
        fs::remove_dir_all(&dir)?;
        Ok(())
    }

    /// A node with 1,000 accounts that are not flushed is killed, and another takes all partitions; with a relay from a store
    /// that is further away.
    fn takeover(
        &self,
        relay: Option<&Relay>,
        [scanned, speed, served_after]: [&'static str; 3],
        figures: &mut Figures,
    ) -> Result<()> {
        let messages = if self.quick { 2 } else { 4 };
        self.tell(if relay.is_some() { "a takeover, the store being further away" } else { "a takeover" });
        let prefix = if relay.is_some() { "far" } else { "takeover" };
        let node = self.node("d", prefix, self.store)?;
        let other = self.node("e", prefix, relay.map_or(self.store, |relay| relay.address))?;
        let words = format!("--via lmtp -c 16 --users 1000 --messages {messages}");
        self.generate(&node.server, "fill", node.server.ports.lmtp, &words)?;
        node.server.kill()?;
        if let Some(relay) = relay {
            relay.hold_up(FAR);
        }
        let mut command = Command::new(culver::binary("culver"));
        command.args(["takeover", "--partitions", "all", "--dir"]).arg(other.dir.join("node"));
        let asked = command.stdout(std::process::Stdio::null()).spawn()?;
        let served = first_login(&other.server);
        ended(asked)?;
        if let Some(relay) = relay {
            relay.hold_up(Duration::ZERO);
        }
        let served = served?;
        // Lines come to the file up to a second late.
        let began = Instant::now();
        let line = loop {
            if let Some(line) =
                other.server.log().lines().find(|line| line.contains("a journal is read and sealed"))
            {
                break line.to_owned();
            }
            ensure!(
                began.elapsed() < Duration::from_secs(5),
                "no journal was sealed:\n{}",
                other.server.log_tail()
            );
            sleep(Duration::from_millis(50));
        };
        let number = |name: &str| logged(&line, name).with_context(|| format!("{name} in {line:?}"));
        let (octets, ms) = (number("octets")?, number("ms")?);
        figures.insert(scanned, octets / f64::from(1 << 20));
        figures.insert(speed, octets / f64::from(1 << 20) / (ms.max(1.0) / 1e3));
        let sealed = second_of_day(&line).with_context(|| format!("no time in {line:?}"))?;
        // A day has 86,400 seconds, and the seal may be of the one before.
        figures.insert(served_after, (served - sealed).rem_euclid(86_400.0));
        other.server.stop()?;
        Ok(())
    }
}

/// PUTs one after another, through the relay.
fn one_put(relay: &Relay, count: usize, figures: &mut Figures) -> Result<()> {
    let mut client = http::Client::connect(relay.address)?;
    let octets = vec![b'x'; PUT_OCTETS];
    let mut ms = Vec::new();
    for nth in 0..count {
        let began = Instant::now();
        client.done("PUT", &format!("/{PROBE}/{nth}"), &octets)?;
        ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    ms.sort_by(f64::total_cmp);
    for (key, part) in [("put_p50_ms", 0.5), ("put_p99_ms", 0.99)] {
        figures.insert(key, ms[((count as f64 * part) as usize).min(count - 1)]);
    }
    Ok(())
}

fn octets(row: &Row) -> Result<f64> {
    row.get("raw_octets").context("the generator does not tell raw_octets")
}

fn latencies(row: &Row, keys: [&'static str; 2], figures: &mut Figures) -> Result<()> {
    for (key, path) in keys.into_iter().zip(["latency_us/p50", "latency_us/p99"]) {
        figures.insert(key, row.get(path).with_context(|| path.to_owned())? / 1e3);
    }
    Ok(())
}

/// Requests that the meter has and the relay has not, or the other way round, while nothing is under way.
fn meter_differs(node: &Node, relay: &Relay, first: &Counts) -> Result<f64> {
    for _ in 0..20 {
        let before = relay.counts();
        let meter = node.cost()?;
        if relay.counts() == before {
            let asked: Counts =
                before.iter().map(|(kind, count)| (*kind, count - first.get(kind).unwrap_or(&0))).collect();
            println!("  the meter: {meter:?}, the relay: {asked:?}");
            let of = |counts: &Counts, kind: &str| counts.get(kind).copied().unwrap_or(0);
            let kinds = ["put", "get", "head", "list", "delete", "other"];
            return Ok(kinds
                .into_iter()
                .map(|kind| of(&meter, kind).abs_diff(of(&asked, kind)) as f64)
                .sum());
        }
        sleep(Duration::from_millis(300));
    }
    bail!("the node never stops asking its store")
}

/// The second of the day, of UTC, at which somebody was first served.
fn first_login(server: &Server) -> Result<f64> {
    let began = Instant::now();
    let mut nth = 0;
    loop {
        nth = nth % 1000 + 1;
        let user = USER_PATTERN.replace("%d", &nth.to_string());
        if Session::open(server).and_then(|mut session| session.log_in(&user)).is_ok() {
            return Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() % 86_400.0);
        }
        ensure!(began.elapsed() < TAKEN, "nobody is served after a takeover:\n{}", server.log_tail());
        sleep(Duration::from_millis(5));
    }
}

fn ended(mut child: std::process::Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "culver takeover: {status}");
    Ok(())
}

/// The number after `name=` in a line of the log.
fn logged(line: &str, name: &str) -> Option<f64> {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}

/// Of a line that begins with a time such as `2020-01-02T03:04:05.678901Z`.
fn second_of_day(line: &str) -> Option<f64> {
    let time = line.split_whitespace().next()?.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// Removes what a repeat left on the disk.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(dir.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_of_a_line_of_the_log() {
        let line = "2020-01-02T03:04:05.500000Z  INFO culver: a journal is read and sealed journal=00ab objects=7 octets=1048576 ms=20";
        assert_eq!((logged(line, "octets"), logged(line, "ms")), (Some(1_048_576.0), Some(20.0)));
        assert_eq!(logged(line, "none"), None);
        assert_eq!(second_of_day(line), Some(3.0 * 3600.0 + 4.0 * 60.0 + 5.5));
        assert_eq!(second_of_day("no time"), None);
    }

    #[test]
    fn puts_and_lists_are_billed_and_gets_heads_and_lists_are_reads() {
        let counts = Counts::from([("put", 3), ("list", 2), ("get", 10), ("head", 1), ("delete", 5)]);
        assert_eq!((billed(&counts), reads(&counts)), (5.0, 13));
    }
}
