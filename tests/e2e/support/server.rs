//! The server under test: a Culver process of the test's own, a private Dovecot, or any address.
//!
//! `CULVER_TEST_TARGET` chooses: unset or `culver`; `dovecot`; or `host:imap,pop3,lmtp` (ports).
//! `CULVER_BIN` names another `culver` binary than the one cargo built.
//! Every target has the accounts `u000@example.test` and on, with the passwords `pw-u000` and on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, thread};

use super::dovecot::Dovecot;
use super::process;
use super::random::Random;
use super::temp::TempDir;
use super::{Fallible, Skipped, patient, skip};
use crate::fail;

/// Accounts of a target.
pub const ACCOUNTS: usize = 200;
/// How long a start may take (first starts make a certificate and hash the passwords).
const READY: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(30);
/// How long a check of everything stored may take.
const CHECK: Duration = Duration::from_secs(120);

pub fn user(n: usize) -> String {
    format!("u{n:03}@example.test")
}

pub fn password(n: usize) -> String {
    format!("pw-u{n:03}")
}

#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub imap: SocketAddr,
    pub pop3: SocketAddr,
    pub lmtp: SocketAddr,
    /// Implicit TLS and the admin port: where the target has them.
    pub imaps: Option<SocketAddr>,
    pub pop3s: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

impl Ports {
    pub fn at_base(base: u16) -> Ports {
        let at = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), base + port);
        Ports {
            imap: at(143),
            pop3: at(110),
            lmtp: at(24),
            imaps: Some(at(993)),
            pop3s: Some(at(995)),
            admin: Some(at(80)),
        }
    }
}

/// A base whose ports nobody listens on at this moment.
pub fn free_port_base() -> Fallible<u16> {
    let mut random = Random::new(Random::seed());
    for _ in 0..200 {
        // Below the range from which the kernel takes the ports of outgoing connections.
        let base = 10_000 + 1_000 * random.below(21) as u16;
        let offset = random.below(100) as u16 / 2 * 2;
        let base = base + offset;
        let free = [24, 80, 110, 143, 993, 995]
            .iter()
            .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, base + port)).is_ok());
        if free {
            return Ok(base);
        }
    }
    fail!("no free port base")
}

/// How to start a Culver.
#[derive(Clone, Debug)]
pub struct Options {
    pub accounts: usize,
    pub shards: usize,
    /// Lines of a configuration, dotted keys as `pop3.lock = true`, for `culver serve` where `culver quickstart` has
    /// made accounts and certificate. Users are read from the passwd-file; the other services are as there.
    pub config: Option<Vec<String>>,
    /// The limit of descriptors that the process starts under.
    pub descriptors: Option<u64>,
    /// Sessions are put away at every wait, and their accounts closed meanwhile.
    pub asleep: bool,
    /// Further words of `culver quickstart`.
    pub words: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            accounts: 20,
            shards: 2,
            config: None,
            descriptors: None,
            asleep: false,
            words: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A line of configuration that begins so is one of each listener but the admin's.
const LISTENER: &str = "listener.";

pub struct Culver {
    dir: TempDir,
    port_base: u16,
    options: Options,
    child: Option<Child>,
    pub ports: Ports,
}

/// Skips the test unless the target is a Culver that the test itself can start.
pub fn own_process() -> Fallible {
    match env::var("CULVER_TEST_TARGET").as_deref() {
        Err(_) | Ok("" | "culver") => Ok(()),
        _ => skip("needs a server process of the test's own"),
    }
}

/// The binary under test.
pub fn binary() -> Fallible<PathBuf> {
    if let Some(path) = env::var_os("CULVER_BIN") {
        return Ok(path.into());
    }
    match option_env!("CARGO_BIN_EXE_culver") {
        Some(path) => Ok(path.into()),
        None => fail!("set CULVER_BIN to the binary under test"),
    }
}

impl Culver {
    pub fn start(name: &str, options: Options) -> Fallible<Culver> {
        let mut last = String::new();
        // Another process may take a port between our look and the server's bind.
        for _ in 0..3 {
            let port_base = free_port_base()?;
            let mut culver = Culver {
                dir: TempDir::new(name)?,
                port_base,
                options: options.clone(),
                child: None,
                ports: Ports::at_base(port_base),
            };
            match culver.spawn() {
                Ok(()) => return Ok(culver),
                Err(e) => last = format!("{e}\n{}", culver.log_tail()),
            }
            if !last.contains("in use") {
                culver.dir.keep();
                break;
            }
        }
        fail!("culver did not start: {last}")
    }

    /// A server with a configuration: the accounts and the certificate are those that `culver quickstart` makes.
    pub fn configured(name: &str, options: Options, lines: &[&str]) -> Fallible<Culver> {
        let mut culver = Culver::start(name, options)?;
        culver.terminate()?;
        culver.configure(lines)?;
        Ok(culver)
    }

    /// Ends the server where it still runs, and starts it again with this configuration.
    pub fn configure(&mut self, lines: &[&str]) -> Fallible {
        self.terminate()?;
        self.options.config = Some(lines.iter().map(|line| (*line).to_owned()).collect());
        self.restart(self.options.shards)
    }

    pub fn passwd_file(&self) -> PathBuf {
        self.data().join("passwd")
    }

    fn write_config(&self, lines: &[String]) -> Fallible<PathBuf> {
        let data = self.data();
        let data = data.display();
        let mut text = format!("hostname = \"localhost\"\nshards = {}\n", self.options.shards);
        if !lines.iter().any(|line| line.starts_with("storage.url")) {
            text += &format!("storage.url = \"file://{data}/store\"\n");
        }
        text += &format!("users.passwd_file = \"{data}/passwd\"\n");
        for line in lines.iter().filter(|line| !line.starts_with(LISTENER)) {
            text += &format!("{line}\n");
        }
        text +=
            &format!("[[tls.certificate]]\nchain = \"{data}/tls-cert.pem\"\nkey = \"{data}/tls-key.pem\"\n");
        let ports = &self.ports;
        let tls = |service, port: Option<SocketAddr>| port.map(|port| (service, port, true));
        let listeners =
            [("imap", ports.imap, false), ("pop3", ports.pop3, false), ("lmtp", ports.lmtp, false)]
                .into_iter()
                .chain(tls("imap", ports.imaps))
                .chain(tls("pop3", ports.pop3s))
                .chain(ports.admin.map(|port| ("admin", port, false)));
        for (service, address, tls) in listeners {
            text += &format!("[[listener]]\nservice = \"{service}\"\naddress = \"{address}\"\ntls = {tls}\n");
            if service != "admin" {
                lines
                    .iter()
                    .filter_map(|line| line.strip_prefix(LISTENER))
                    // Nobody authenticates to LMTP.
                    .filter(|line| service != "lmtp" || !line.starts_with("client_"))
                    .for_each(|line| text += &format!("{line}\n"));
            }
        }
        let path = self.dir.path().join("culver.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The program, under its limit of descriptors.
    fn program(&self) -> Fallible<Command> {
        let Some(descriptors) = self.options.descriptors else { return Ok(Command::new(binary()?)) };
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {descriptors} && exec \"$@\"")).arg("sh").arg(binary()?);
        Ok(command)
    }

    /// Starts the process on the same directory and ports; returns when it is ready.
    fn spawn(&mut self) -> Fallible {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.program()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        if self.options.asleep {
            command.env("CULVER_EXERCISE_STATE", "1");
        }
        match &self.options.config {
            Some(lines) => drop(command.arg("serve").arg("--config").arg(self.write_config(lines)?)),
            None => self.quickstart(&mut command),
        }
        let mut child = command.spawn().map_err(|e| format!("cannot start the binary: {e}"))?;
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        self.child = Some(child);
        let (ready, is_ready) = mpsc::channel();
        let mut log = File::options().append(true).open(self.log_path())?;
        // Ends with the process: the pipe closes.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                if line.trim() == "culver is ready" {
                    let _ = ready.send(());
                }
            }
        });
        match is_ready.recv_timeout(patient(READY)) {
            Ok(()) => Ok(()),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let code = self.child.as_mut().and_then(|child| process::wait(child, STOP));
                self.kill();
                fail!("the server ended before it was ready (exit code {code:?})")
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.kill();
                fail!("the server was not ready after {READY:?}")
            }
        }
    }

    fn quickstart(&self, command: &mut Command) {
        command
            .arg("quickstart")
            .arg("--dir")
            .arg(self.data())
            .arg("--port-base")
            .arg(self.port_base.to_string())
            .arg("--shards")
            .arg(self.options.shards.to_string())
            .arg("--no-samples");
        command.args(&self.options.words);
        for n in 0..self.options.accounts {
            command.arg("--account").arg(format!("{}:{}", user(n), password(n)));
        }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// `culver check`, which verifies every stored format; the process must not run.
    pub fn check(&self) -> Fallible {
        let mut command = Command::new(binary()?);
        command.arg("check").arg(self.data());
        let done = process::run(&mut command, b"", CHECK)?;
        if done.code != Some(0) {
            fail!("culver check: {}", done.output);
        }
        Ok(())
    }

    /// What `culver quickstart` says where it must not start: on this directory, with other ports.
    pub fn second_process(&self) -> Fallible<process::Finished> {
        let mut command = Command::new(binary()?);
        command.arg("quickstart").arg("--dir").arg(self.data()).arg("--no-samples");
        command.arg("--port-base").arg(free_port_base()?.to_string());
        process::run(&mut command, b"", READY)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the process still runs.
    pub fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end, which must be clean.
    pub fn terminate(&mut self) -> Fallible {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        process::signal(child.id(), "TERM")?;
        match process::wait(&mut child, STOP) {
            Some(Some(0)) => Ok(()),
            Some(code) => fail!("SIGTERM: the server ended with {code:?}\n{}", self.log_tail()),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                fail!("the server did not stop within {STOP:?} of SIGTERM\n{}", self.log_tail())
            }
        }
    }

    pub fn restart(&mut self, shards: usize) -> Fallible {
        self.kill();
        self.options.shards = shards;
        self.spawn().map_err(|e| {
            self.dir.keep();
            format!(
                "restart with {shards} shards: {e}\n{}\nkept: {}",
                self.log_tail(),
                self.dir.path().display()
            )
            .into()
        })
    }

    pub fn keep(&mut self) -> &Path {
        self.dir.keep();
        self.dir.path()
    }
}

impl Drop for Culver {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            self.dir.keep();
        }
    }
}

/// What the transcripts and the clients run against.
pub enum Target {
    Culver(Box<Culver>),
    Dovecot(Box<Dovecot>),
    Address(Ports),
}

impl Target {
    /// Starts or finds what `CULVER_TEST_TARGET` names.
    pub fn start(name: &str, options: Options) -> Fallible<Target> {
        match env::var("CULVER_TEST_TARGET").as_deref() {
            Err(_) | Ok("" | "culver") => Ok(Target::Culver(Box::new(Culver::start(name, options)?))),
            Ok("dovecot") => Ok(Target::Dovecot(Box::new(Dovecot::start(name)?))),
            Ok(address) => Ok(Target::Address(parse_address(address)?)),
        }
    }

    /// As `@differs` lines of transcripts name it.
    pub fn name(&self) -> &'static str {
        match self {
            Target::Culver(_) => "culver",
            Target::Dovecot(_) => "dovecot",
            Target::Address(_) => "other",
        }
    }

    pub fn ports(&self) -> &Ports {
        match self {
            Target::Culver(culver) => &culver.ports,
            Target::Dovecot(dovecot) => &dovecot.ports,
            Target::Address(ports) => ports,
        }
    }

    pub fn culver(&mut self) -> Fallible<&mut Culver> {
        match self {
            Target::Culver(culver) => Ok(culver),
            _ => Err(Box::new(Skipped("needs a server process of the test's own".into()))),
        }
    }

    /// The end of the server's log, for a failure's report.
    pub fn log_tail(&self) -> String {
        match self {
            Target::Culver(culver) => culver.log_tail(),
            Target::Dovecot(dovecot) => dovecot.log_tail(),
            Target::Address(_) => String::new(),
        }
    }
}

fn parse_address(text: &str) -> Fallible<Ports> {
    let wrong = || format!("CULVER_TEST_TARGET: expected host:imap,pop3,lmtp, not {text}");
    let (host, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
    let ports: Vec<u16> = ports.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [imap, pop3, lmtp] = ports[..] else { return Err(wrong().into()) };
    let at = |port: u16| -> Fallible<SocketAddr> {
        Ok((host, port).to_socket_addrs()?.next().ok_or_else(|| format!("{host}: no address"))?)
    };
    Ok(Ports { imap: at(imap)?, pop3: at(pop3)?, lmtp: at(lmtp)?, imaps: None, pop3s: None, admin: None })
}
