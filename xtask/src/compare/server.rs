//! A server under comparison: which it is, its ports, its start on one core, its end.
//!
//! # Order
//! A server has started when its IMAP port greets. It has ended when every process below it has: what it used is
//! read after its end and before it is waited for, so that what it writes while it stops is paid for too.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::meter::{self, Usage};
use super::{culver, dovecot};

/// Account names and the password of all of them.
pub const USER_PATTERN: &str = "user%d@example.test";
pub const PASSWORD: &str = "secret";
/// More than any work asks for.
pub const USERS: u32 = 10_000;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The stop pays for the last flush, which may be of gigabytes.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Culver,
    /// As Debian ships it.
    DovecotDefault,
    /// Processes and logins reused, hibernation on, the fastest of its formats.
    DovecotBest,
    /// The same with a hundred clients in each imap process, which its makers advise against.
    DovecotDense,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Culver, Kind::DovecotDefault, Kind::DovecotBest, Kind::DovecotDense];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Culver => "culver",
            Kind::DovecotDefault => "dovecot-default",
            Kind::DovecotBest => "dovecot-best",
            Kind::DovecotDense => "dovecot-dense",
        }
    }

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn is_culver(self) -> bool {
        self == Kind::Culver
    }
}

/// What durability a server runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As measured: synced before it is answered.
    Full,
    /// Where a store is prepared Dovecot need not sync: the content is the same.
    Preparing,
}

/// Where a server listens, on the loopback address.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub imap: u16,
    pub imaps: u16,
    pub pop3: u16,
    pub lmtp: u16,
    pub admin: u16,
}

impl Ports {
    /// Five that nobody has at this moment.
    pub fn free() -> Result<Ports> {
        let held: Vec<TcpListener> =
            (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
        let ports: Vec<u16> =
            held.iter().map(|listener| listener.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
        Ok(Ports { imap: ports[0], imaps: ports[1], pop3: ports[2], lmtp: ports[3], admin: ports[4] })
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// What all servers of a run share.
#[derive(Clone, Debug)]
pub struct Site {
    pub passwd: PathBuf,
    pub chain: PathBuf,
    pub key: PathBuf,
    /// The core of the server.
    pub core: usize,
}

impl Site {
    /// Makes users and certificate, once for a run's directory.
    pub fn make(dir: &Path, core: usize) -> Result<Site> {
        let site =
            Site { passwd: dir.join("passwd"), chain: dir.join("cert.pem"), key: dir.join("key.pem"), core };
        if !site.passwd.exists() {
            fs::write(&site.passwd, passwd(&culver::stored_password(PASSWORD)?))?;
        }
        if !site.chain.exists() || !site.key.exists() {
            let mut command = Command::new("openssl");
            command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
            command.args(["-days", "3650", "-subj", "/CN=localhost"]);
            command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
            command.arg("-keyout").arg(&site.key).arg("-out").arg(&site.chain);
            run(&mut command).context("openssl makes the certificate")?;
        }
        Ok(site)
    }
}

fn passwd(stored: &str) -> String {
    // One stored password for all: a check costs the same, and ten thousand need not be made.
    (0..=USERS).map(|n| format!("{}:{stored}::::::\n", USER_PATTERN.replace("%d", &n.to_string()))).collect()
}

/// Runs a command to its end; its output is shown only if it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs its arguments on one core, with as many descriptors as this session may have, and no longer than the process
/// that started it.
pub fn pinned_script(core: usize) -> String {
    format!("ulimit -n $(ulimit -H -n); exec setpriv --pdeathsig TERM taskset -c {core} \"$@\"")
}

pub struct Server {
    pub kind: Kind,
    pub ports: Ports,
    child: Child,
    log: PathBuf,
    /// What it cannot do without and what goes with it: Dovecot's sockets.
    scratch: Option<PathBuf>,
    stopped: bool,
}

impl Server {
    /// Starts a server on a state directory, which may be empty.
    pub fn start(kind: Kind, site: &Site, dir: &Path, durability: Durability) -> Result<Server> {
        fs::create_dir_all(dir)?;
        let ports = Ports::free()?;
        let (command, scratch) = match kind {
            Kind::Culver => (culver::command(site, dir, &culver::local(dir)?, ports)?, None),
            _ => {
                let (command, scratch) = dovecot::command(kind, site, dir, ports, durability)?;
                (command, Some(scratch))
            }
        };
        Server::launch(kind, site, dir, ports, command, scratch)
    }

    /// Starts a Culver whose section `[storage]` is `storage`, with further variables in its environment.
    pub fn start_node(
        site: &Site,
        dir: &Path,
        storage: &str,
        environment: &[(&str, &str)],
    ) -> Result<Server> {
        fs::create_dir_all(dir)?;
        let ports = Ports::free()?;
        let mut command = vec!["env".to_owned()];
        command.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.extend(culver::command(site, dir, storage, ports)?);
        Server::launch(Kind::Culver, site, dir, ports, command, None)
    }

    fn launch(
        kind: Kind,
        site: &Site,
        dir: &Path,
        ports: Ports,
        command: Vec<String>,
        scratch: Option<PathBuf>,
    ) -> Result<Server> {
        let log = dir.join("server.log");
        let mut pinned = Command::new("sh");
        pinned.args(["-c", &pinned_script(site.core), "sh"]).args(command).stdin(std::process::Stdio::null());
        let output = File::options().create(true).append(true).open(&log)?;
        pinned.stdout(output.try_clone()?).stderr(output);
        let child = pinned.spawn().context("sh")?;
        let mut server = Server { kind, ports, child, log, scratch, stopped: false };
        server.await_greeting()?;
        Ok(server)
    }

    /// SIGKILL, as a machine that is lost.
    pub fn kill(mut self) -> Result<()> {
        self.stopped = true;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// All that it said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The prepared command that a work names by service.
    pub fn address(&self, service: &str) -> Option<String> {
        let port = match service {
            "imap" => self.ports.imap,
            "imaps" => self.ports.imaps,
            "pop3" => self.ports.pop3,
            "lmtp" => self.ports.lmtp,
            "admin" => self.ports.admin,
            _ => return None,
        };
        Some(loopback(port).to_string())
    }

    fn await_greeting(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.stopped = true;
                bail!("{} ended at its start ({status}):\n{}", self.kind.name(), self.log_tail());
            }
            if greeted(loopback(self.ports.imap)).is_some_and(|line| line.starts_with("* OK")) {
                return Ok(());
            }
            if start.elapsed() > START_TIMEOUT {
                bail!("{} does not greet on its IMAP port:\n{}", self.kind.name(), self.log_tail());
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of what the server said.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Stops the server and says what it used from its start to its end.
    pub fn stop(mut self) -> Result<Usage> {
        self.end()
    }

    fn end(&mut self) -> Result<Usage> {
        if self.stopped {
            return Ok(Usage::default());
        }
        self.stopped = true;
        let members = meter::tree(self.pid())?;
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a pid")?;
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        let waited = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let mut in_time = true;
        while waitid(WaitId::Pid(pid), waited)?.is_none() {
            if in_time && start.elapsed() > STOP_TIMEOUT {
                in_time = false;
                kill_process(pid, Signal::KILL)?;
            }
            sleep(Duration::from_millis(20));
        }
        let usage = meter::usage(self.pid())?;
        let status = self.child.wait()?;
        for member in members {
            await_end(member)?;
        }
        ensure!(in_time, "{} did not stop within {STOP_TIMEOUT:?}", self.kind.name());
        ensure!(status.success(), "{} stopped with {status}:\n{}", self.kind.name(), self.log_tail());
        Ok(usage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}: {error:#}", self.kind.name());
        }
        if let Some(scratch) = self.scratch.take() {
            let _ = fs::remove_dir_all(scratch);
        }
    }
}

/// Descendants end after their parent does; until then they hold files of the state directory.
fn await_end(pid: u32) -> Result<()> {
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}/exe")).exists() && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
    {
        ensure!(start.elapsed() < Duration::from_secs(30), "process {pid} does not end");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The first line that a server says.
fn greeted(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).ok()?;
    let _ = (&stream).write_all(b"a LOGOUT\r\n");
    Some(line)
}

/// The body of an HTTP answer.
pub fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_parsed_from_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert_eq!(Kind::parse("dovecot"), None);
    }

    #[test]
    fn free_ports_differ() {
        let ports = Ports::free().unwrap();
        let mut all = vec![ports.imap, ports.imaps, ports.pop3, ports.lmtp, ports.admin];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn the_passwd_file_has_a_line_for_each_user() {
        let text = passwd("{PLAIN}x");
        assert_eq!(text.lines().count(), USERS as usize + 1);
        assert!(text.starts_with("user0@example.test:{PLAIN}x::::::\n"));
    }
}
