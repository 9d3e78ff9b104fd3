//! The end of the descriptors: whoever comes too late is told so, and those who are in do not notice.
//!
//! Everyday the server runs under a low limit; in a long run under the system's own, with 18,000 connections held and
//! thousands more refused. One process has not descriptors enough for its end of them: other processes of this binary
//! hold them, see [`hold`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::support::connection::{Connection, Read1};
use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::pop3::Pop3;
use crate::support::server::{Culver, Options, own_process, password, user};
use crate::support::{Fallible, eventually};
use crate::{Arguments, Test, ensure, fail};

/// The first argument of a process that holds connections.
pub const HOLD: &str = "--hold-connections";

/// The first argument of a process that storms a full server.
pub const STORM: &str = "--storm-connections";
/// Connections of a storm that come at once: more than the reserve has descriptors.
const BURST: usize = 1_000;
/// How long it storms.
const STORM_LASTS: Duration = Duration::from_secs(1);

/// What a run is to come to.
struct Size {
    /// The server's limit of descriptors; `None`: the system's.
    descriptors: Option<u64>,
    holders: usize,
    connections_each: usize,
    held_min: usize,
    refused_min: usize,
    /// How long the connections may take to be made.
    limit: Duration,
}

const EVERYDAY: Size = Size {
    descriptors: Some(600),
    holders: 1,
    connections_each: 700,
    held_min: 200,
    refused_min: 250,
    limit: Duration::from_secs(30),
};
const LONG: Size = Size {
    descriptors: None,
    holders: 2,
    connections_each: 11_500,
    held_min: 18_000,
    refused_min: 2_000,
    limit: Duration::from_secs(240),
};

/// How long an answer may take while thousands are refused.
const OTHERS_UNAFFECTED: Duration = Duration::from_secs(5);
/// Beyond what is kept in memory: spooled in a file, stored in a file of its own.
const LARGE_OCTETS: usize = 1 << 20;

pub fn tests() -> Vec<Test> {
    vec![Test { name: "descriptors_run_out_politely", run }]
}

/// How connections were received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    greeted: usize,
    /// Told so, in the words of the protocol.
    refused: usize,
    /// Closed or reset without a word.
    cut: usize,
    /// Neither a word nor an end.
    silent: usize,
}

impl Tally {
    fn parse(line: &str) -> Option<Tally> {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Tally { greeted: next()?, refused: next()?, cut: next()?, silent: next()? })
    }

    fn add(self, other: Tally) -> Tally {
        Tally {
            greeted: self.greeted + other.greeted,
            refused: self.refused + other.refused,
            cut: self.cut + other.cut,
            silent: self.silent + other.silent,
        }
    }
}

/// The process that holds connections: makes them one after the other, says how they were received, and keeps them until
/// its input ends. Arguments: how many, and the addresses in turn.
pub fn hold(arguments: &[String]) -> Fallible {
    let (count, addresses) = arguments.split_first().ok_or("how many connections")?;
    let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    let (mut held, mut tally) = (Vec::new(), Tally::default());
    for n in 0..count.parse::<usize>()? {
        let Ok(mut connection) = Connection::open(addresses[n % addresses.len()]) else {
            tally.cut += 1;
            continue;
        };
        match connection.read_within(false, OTHERS_UNAFFECTED) {
            Ok(Read1::Unit(unit)) if greeting(&unit.text()) => {
                tally.greeted += 1;
                held.push(connection);
            }
            Ok(Read1::Unit(unit)) if refusal(&unit.text()) => {
                // The end follows, without anything from us.
                match connection.read_within(false, OTHERS_UNAFFECTED) {
                    Ok(Read1::End) => tally.refused += 1,
                    _ => tally.silent += 1,
                }
            }
            Ok(Read1::Unit(unit)) => fail!("neither greeting nor refusal: {}", unit.text()),
            Ok(Read1::End) | Err(_) => tally.cut += 1,
            Ok(Read1::Nothing) => tally.silent += 1,
        }
    }
    println!("{} {} {} {}", tally.greeted, tally.refused, tally.cut, tally.silent);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// The process that storms a full server: bursts of connections that all come at once and that nobody closes before the
/// server does, until its input ends. Arguments: the addresses in turn.
pub fn storm(arguments: &[String]) -> Fallible {
    let addresses: Vec<SocketAddr> = arguments.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    let over = Arc::new(AtomicBool::new(false));
    let ends = over.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ends.store(true, Ordering::Relaxed);
    });
    let mut tally = Tally::default();
    while !over.load(Ordering::Relaxed) {
        let mut burst = Vec::with_capacity(BURST);
        for n in 0..BURST {
            // A full queue of the kernel's holds a connection up; the burst does not wait for it.
            let connected =
                TcpStream::connect_timeout(&addresses[n % addresses.len()], Duration::from_millis(50));
            burst.extend(connected);
        }
        for stream in &mut burst {
            stream.set_read_timeout(Some(OTHERS_UNAFFECTED))?;
            let (mut said, mut piece) = (Vec::new(), [0; 256]);
            let ended = loop {
                match stream.read(&mut piece) {
                    Ok(0) => break true,
                    Ok(n) => said.extend_from_slice(&piece[..n]),
                    Err(e) => break e.kind() == std::io::ErrorKind::ConnectionReset,
                }
                // A place that came free in the meantime is no refusal.
                if greeting(&String::from_utf8_lossy(&said)) {
                    break false;
                }
            };
            let said = String::from_utf8_lossy(&said);
            match (greeting(&said), refusal(&said), ended) {
                (true, ..) => tally.greeted += 1,
                (_, true, true) => tally.refused += 1,
                (_, _, true) => tally.cut += 1,
                _ => tally.silent += 1,
            }
        }
    }
    println!("{} {} {} {}", tally.greeted, tally.refused, tally.cut, tally.silent);
    Ok(())
}

fn greeting(line: &str) -> bool {
    ["* OK", "+OK", "220"].iter().any(|words| line.starts_with(words))
}

fn refusal(line: &str) -> bool {
    ["* BYE [UNAVAILABLE] ", "-ERR [SYS/TEMP] ", "421 4.3.2 "].iter().any(|words| line.starts_with(words))
}

/// Works while a full server is stormed; gives how the storm was received.
fn in_a_storm(addresses: &[SocketAddr], mut work: impl FnMut() -> Fallible) -> Fallible<Tally> {
    let mut stormer = holder(STORM, &[], addresses)?;
    let began = Instant::now();
    let mut worked = Ok(());
    while worked.is_ok() && began.elapsed() < STORM_LASTS {
        worked = work();
    }
    drop(stormer.stdin.take());
    let said = stormer.wait_with_output()?;
    worked?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Tally::parse(said.trim()).ok_or_else(|| format!("the storm said {said:?}").into())
}

/// Another process of this binary, with as many descriptors as it can get.
fn holder(mode: &str, more: &[String], addresses: &[SocketAddr]) -> Fallible<Child> {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n $(ulimit -H -n) && exec \"$@\"", "sh"])
        .arg(env::current_exe()?)
        .arg(mode)
        .args(more)
        .args(addresses.iter().map(SocketAddr::to_string))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Ok(command.spawn()?)
}

/// Processes that hold connections; they end with the value.
struct Flood {
    holders: Vec<Child>,
    tally: Tally,
}

impl Flood {
    fn begin(size: &Size, addresses: &[SocketAddr]) -> Fallible<Flood> {
        let mut flood = Flood { holders: Vec::new(), tally: Tally::default() };
        for _ in 0..size.holders {
            flood.holders.push(holder(HOLD, &[size.connections_each.to_string()], addresses)?);
        }
        let (said, tallies) = std::sync::mpsc::channel();
        for holder in &mut flood.holders {
            let (output, said) = (holder.stdout.take().ok_or("stdout is piped")?, said.clone());
            thread::spawn(move || {
                let mut line = String::new();
                let _ = BufReader::new(output).read_line(&mut line);
                let _ = said.send(line);
            });
        }
        let end = Instant::now() + size.limit;
        for _ in 0..size.holders {
            let line = tallies.recv_timeout(end.saturating_duration_since(Instant::now()))?;
            let tally = Tally::parse(line.trim()).ok_or_else(|| format!("a holder said {line:?}"))?;
            flood.tally = flood.tally.add(tally);
        }
        Ok(flood)
    }

    /// All connections close.
    fn end(mut self) -> Fallible {
        for holder in &mut self.holders {
            drop(holder.stdin.take());
            let status = holder.wait()?;
            ensure!(status.success(), "a holder ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// A request to the admin port: status line, header and body.
fn http(address: SocketAddr, path: &str) -> Fallible<String> {
    let mut stream = TcpStream::connect_timeout(&address, OTHERS_UNAFFECTED)?;
    stream.set_read_timeout(Some(OTHERS_UNAFFECTED))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    Ok(answer)
}

fn metric(page: &str, name: &str) -> Option<usize> {
    let line = page.lines().find(|line| {
        let rest = line.strip_prefix("culver_").and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(' ') || rest.starts_with("_total "))
    })?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|value| value as usize)
}

fn run(arguments: &Arguments) -> Fallible {
    own_process()?;
    let size = if arguments.long { &LONG } else { &EVERYDAY };
    let options = Options { descriptors: size.descriptors, ..Options::default() };
    let mut culver = Culver::start("descriptors", options)?;
    let ports = culver.ports;
    let addresses = [ports.imap, ports.pop3, ports.lmtp];
    let admin = ports.admin.ok_or("a Culver has an admin port")?;
    let mut imap = Imap::login(ports.imap, &user(0), &password(0))?;
    imap.must("SELECT INBOX")?;
    let mut lmtp = Lmtp::open(ports.lmtp)?;

    let flood = Flood::begin(size, &addresses)?;
    let tally = flood.tally;
    println!("descriptors: {tally:?}");
    ensure!(
        tally.cut == 0 && tally.silent == 0,
        "connections without a word: {tally:?}\n{}",
        culver.log_tail()
    );
    ensure!(tally.greeted >= size.held_min, "too few connections are held: {tally:?}");
    ensure!(tally.refused >= size.refused_min, "too few connections were refused: {tally:?}");

    // Those who are in work on: journal, spool and packs have descriptors, for accounts that were never open too.
    let timed = |what: &str, began: Instant| -> Fallible {
        ensure!(began.elapsed() < OTHERS_UNAFFECTED, "{what} took {:?}", began.elapsed());
        Ok(())
    };
    let mut began = Instant::now();
    let large = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(LARGE_OCTETS / 18));
    let users: Vec<String> = (0..8).map(user).collect();
    let to: Vec<&str> = users.iter().map(String::as_str).collect();
    for message in [b"Subject: small\r\n\r\nx\r\n".as_slice(), large.as_bytes()] {
        for reply in lmtp.deliver("s@example.net", &to, message)? {
            ensure!(reply.starts_with("250"), "delivery: {reply}\n{}", culver.log_tail());
        }
    }
    timed("delivery", began)?;
    began = Instant::now();
    let answer = imap.append("INBOX", "", large.as_bytes())?;
    ensure!(answer.ok(), "append: {}", answer.result);
    let fetched = imap.must("FETCH * (BODY.PEEK[])")?;
    let body = fetched.untagged.iter().find_map(|unit| unit.literal(0)).ok_or("no body")?;
    ensure!(body == large.as_bytes(), "the message came back with {} octets", body.len());
    timed("append and fetch", began)?;
    began = Instant::now();
    let ready = http(admin, "/ready")?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "/ready: {ready}");
    let page = http(admin, "/metrics")?;
    timed("the admin port", began)?;
    let refused = metric(&page, "connections_refused").ok_or("no metric of refused connections")?;
    let open = metric(&page, "connections_open").ok_or("no metric of open connections")?;
    ensure!(refused == tally.refused, "{refused} refused by the metric, {tally:?}");
    ensure!(open >= tally.greeted, "{open} open by the metric, {tally:?}");
    // TLS from the first octet has no words before the handshake: the end comes at once.
    let mut connection = Connection::open(ports.imaps.ok_or("a Culver has an IMAPS port")?)?;
    let said = connection.read_within(false, OTHERS_UNAFFECTED)?;
    ensure!(matches!(said, Read1::End), "the TLS port neither serves nor ends");

    // Nor do they notice a storm, whose refusals must not take the descriptors that are kept for them.
    let mut delivered = 0;
    let storm = in_a_storm(&addresses, || {
        for reply in lmtp.deliver("s@example.net", &to[..2], large.as_bytes())? {
            ensure!(reply.starts_with("250"), "delivery in the storm: {reply}\n{}", culver.log_tail());
        }
        delivered += 1;
        ensure!(http(admin, "/ready")?.starts_with("HTTP/1.1 200"), "not ready in the storm");
        Ok(())
    })?;
    println!("descriptors: {storm:?} in a storm, {delivered} delivered to two");
    ensure!(storm.refused > BURST / 2 && storm.silent == 0, "in the storm: {storm:?}\n{}", culver.log_tail());
    ensure!(!culver.log().contains("accept failed"), "the spare descriptors ran out:\n{}", culver.log_tail());

    // When they go, others come in.
    flood.end()?;
    eventually("there is room again", Duration::from_secs(30), || {
        Ok(Imap::login(ports.imap, &user(1), &password(1)).is_ok()
            && Pop3::login(ports.pop3, &user(2), &password(2)).is_ok()
            && Lmtp::open(ports.lmtp).is_ok())
    })?;
    eventually("their connections are counted off", Duration::from_secs(30), || {
        Ok(metric(&http(admin, "/metrics")?, "connections_open").is_some_and(|open| open < 20))
    })?;

    // And the end is clean in the midst of it, with nothing lost.
    let flood = Flood::begin(size, &addresses)?;
    ensure!(flood.tally.greeted >= size.held_min, "after the first flood: {:?}", flood.tally);
    culver.terminate()?;
    flood.end()?;
    if arguments.long {
        culver.check()?;
    }
    culver.restart(2)?;
    for account in 0..8 {
        let mut imap = Imap::login(ports.imap, &user(account), &password(account))?;
        let wanted = [3 + delivered, 2 + delivered].get(account).copied().unwrap_or(2);
        let status = imap.must("STATUS INBOX (MESSAGES)")?.lines().join(" ");
        ensure!(status.contains(&format!("MESSAGES {wanted})")), "account {account}: {status}");
    }
    culver.terminate()
}
