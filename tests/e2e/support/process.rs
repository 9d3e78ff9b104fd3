//! Processes of the test's own: run one to its end under a deadline, or signal one by its id.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fallible, patient, skip};
use crate::fail;

/// The most output kept of one process, in octets; the rest is read and dropped.
const OUTPUT_OCTETS_MAX: usize = 4 << 20;

pub struct Finished {
    pub code: Option<i32>,
    /// Standard output, then standard error.
    pub output: String,
}

/// Runs a command to its end, or kills it at the deadline (which is a failure).
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Fallible<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start {name}: {e}"))?;
    let mut input = child.stdin.take().expect("stdin is piped");
    let stdin = stdin.to_vec();
    let writer = thread::spawn(move || {
        let _ = input.write_all(&stdin);
    });
    let out = collect(child.stdout.take().expect("stdout is piped"));
    let err = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, limit);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let _ = writer.join();
    let output = out.join().unwrap_or_default() + &err.join().unwrap_or_default();
    match status {
        Some(code) => Ok(Finished { code, output }),
        None => fail!("{name} was not done after {limit:?}; it said:\n{output}"),
    }
}

/// Like [`run`], but anything other than exit code 0 is a failure.
pub fn run_ok(command: &mut Command, stdin: &[u8], limit: Duration) -> Fallible<String> {
    let name = format!("{command:?}");
    let done = run(command, stdin, limit)?;
    if done.code != Some(0) {
        fail!("{name} ended with {:?}:\n{}", done.code, done.output);
    }
    Ok(done.output)
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 8192];
        while let Ok(n) = from.read(&mut chunk) {
            if n == 0 {
                break;
            }
            if kept.len() < OUTPUT_OCTETS_MAX {
                kept.extend_from_slice(&chunk[..n]);
            }
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Waits for the end; `None` where the limit came first.
pub fn wait(child: &mut Child, limit: Duration) -> Option<Option<i32>> {
    let end = Instant::now() + patient(limit);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if Instant::now() > end => return None,
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => return None,
        }
    }
}

/// Sends a signal to one process, by its id.
pub fn signal(pid: u32, name: &str) -> Fallible {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?;
    if !status.success() {
        fail!("cannot send {name} to process {pid}");
    }
    Ok(())
}

/// Skips the test unless the program is installed.
pub fn need(program: impl AsRef<OsStr>) -> Fallible {
    let program = Path::new(program.as_ref());
    let found = if program.is_absolute() {
        program.exists()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).exists())
    };
    if found { Ok(()) } else { skip(format!("{} is not installed", program.display())) }
}

/// Resident memory of a process and its peak, in octets.
pub fn resident(pid: u32) -> Fallible<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> u64 {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    Ok((field("VmRSS:"), field("VmHWM:")))
}
