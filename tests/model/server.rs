//! The server process under test: one for each test, on ports and in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use crate::random::Random;

/// How long a start may take: it makes a certificate.
const READY: Duration = Duration::from_secs(90);
const STARTS_MAX: u32 = 3;

pub struct Server {
    child: Child,
    directory: PathBuf,
    base: u16,
    exercise: Option<&'static str>,
    pub imap: SocketAddr,
}

/// Limits that no run comes near: with them the usage is told.
pub const QUOTA_OCTETS: u64 = 1 << 40;
pub const QUOTA_MESSAGES: u64 = 1_000_000;
pub const QUOTA_MAILBOXES: u64 = 5000;

pub fn user(account: usize) -> String {
    format!("m{account:03}@model.test")
}

pub fn password(account: usize) -> String {
    format!("pw{account:03}")
}

fn free_port_base() -> u16 {
    let mut random = Random::new(Random::seed());
    loop {
        // Below the range from which the kernel takes the ports of outgoing connections.
        let base = 10_000 + random.below(20_000) as u16;
        let ports = [24, 80, 110, 143, 993, 995];
        if ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, base + port)).is_ok()) {
            return base;
        }
    }
}

impl Server {
    /// `exercise`: sessions go through their stored form between any two commands.
    pub fn start(accounts: usize, exercise: Option<&'static str>) -> Server {
        let mut last = String::new();
        // Another process may take a port between the look and the server's bind.
        for _ in 0..STARTS_MAX {
            let base = free_port_base();
            let directory = env::temp_dir().join(format!("culver-model-{}-{base}", std::process::id()));
            match Server::spawn(directory, base, accounts, exercise) {
                Ok(server) => return server,
                Err(why) => last = why,
            }
        }
        panic!("the server does not start: {last}");
    }

    /// Ends the process without a warning, and starts another on what it left.
    pub fn restart(mut self) -> Server {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let (directory, base, exercise) = (std::mem::take(&mut self.directory), self.base, self.exercise);
        Server::spawn(directory, base, 0, exercise).unwrap_or_else(|why| panic!("no restart: {why}"))
    }

    fn spawn(
        directory: PathBuf,
        base: u16,
        accounts: usize,
        exercise: Option<&'static str>,
    ) -> Result<Server, String> {
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let log = fs::File::create(directory.join("log")).map_err(|error| error.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_culver"));
        command.arg("quickstart").arg("--dir").arg(directory.join("data"));
        command.args(["--port-base", &base.to_string(), "--shards", "1", "--no-samples"]);
        if accounts > 0 {
            let fields = format!(
                "userdb_quota_rule=*:bytes={QUOTA_OCTETS}:messages={QUOTA_MESSAGES} \
                 userdb_quota_mailbox_count={QUOTA_MAILBOXES}"
            );
            let line = |account| format!("{}:{{PLAIN}}{}::::::{fields}\n", user(account), password(account));
            let lines: String = (0..accounts).map(line).collect();
            fs::create_dir_all(directory.join("data")).map_err(|error| error.to_string())?;
            fs::write(directory.join("data/passwd"), lines).map_err(|error| error.to_string())?;
        }
        command.env_remove("CULVER_EXERCISE_STATE");
        if let Some(how) = exercise {
            command.env("CULVER_EXERCISE_STATE", how);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let imap = SocketAddr::from((Ipv4Addr::LOCALHOST, base + 143));
        let server = Server { child, directory, base, exercise, imap };
        let (ready, is_ready) = mpsc::channel();
        // Ends with the process: the pipe closes.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.trim() == "culver is ready" {
                    let _ = ready.send(());
                }
            }
        });
        match is_ready.recv_timeout(READY) {
            Ok(()) => Ok(server),
            Err(_) => Err(server.log()),
        }
    }

    pub fn log(&self) -> String {
        let path: &Path = &self.directory.join("log");
        fs::read(path).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Taken along by a restart.
        if self.directory.as_os_str().is_empty() {
            return;
        }
        if !thread::panicking() && env::var_os("CULVER_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
