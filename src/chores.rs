//! The commands that do not serve: checks, dumps, passwords.

use crate::config::Config;
use anstream::{eprint, eprintln, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use culver_users::Scheme;
use std::convert::Infallible;
use std::fmt;
use std::io::{BufWriter, ErrorKind, IsTerminal, Read, Stdout, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
/// Longest password that is read from standard input, in octets.
const PASSWORD_OCTETS_MAX: u64 = 4096;

/// `culver check-config FILE`: 0 and one line, or 1 and every mistake.
pub fn check_config(file: &Path) -> Result<ExitCode> {
    match Config::check(file) {
        Ok(config) => {
            println!("{GOOD}ok{GOOD:#} {}: {} listeners", file.display(), config.listeners.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            eprintln!("{problems}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// `culver hash-password`: reads a password, prints the stored form.
pub fn hash_password(scheme: &str) -> Result<ExitCode> {
    let mut password = String::new();
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("Password (it is shown as you type it): ");
        stdin.read_line(&mut password)?;
    } else {
        stdin.take(PASSWORD_OCTETS_MAX).read_to_string(&mut password)?;
    }
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the password is empty: type one, or pipe it in");
    }
    println!("{}", culver_users::hash(Scheme::parse(scheme)?, password.as_bytes())?);
    Ok(ExitCode::SUCCESS)
}

/// What the annex of one shard is enough for: a chore has no clients.
pub(crate) fn on_one_shard<T: Send + 'static>(
    work: impl AsyncFn() -> Result<T> + Send + Clone + 'static,
) -> Result<T> {
    let done = Arc::new(Mutex::new(None));
    let put = done.clone();
    let config = culver_shard::Config { shards: 1, pin: false, ..culver_shard::Config::default() };
    let ran = culver_shard::run(config, move |_| {
        let (work, put) = (work.clone(), put.clone());
        async move {
            let result = work().await;
            if let Ok(mut put) = put.lock() {
                *put = Some(result);
            }
            Ok::<(), Infallible>(())
        }
    });
    ran.map_err(|error| anyhow::Error::msg(error.to_string()))?;
    let result = done.lock().ok().and_then(|mut done| done.take());
    result.unwrap_or_else(|| bail!("ended without a result"))
}

/// `culver dump FILE`.
pub fn dump(file: &Path) -> Result<ExitCode> {
    let file = file.to_owned();
    on_one_shard(async move || {
        let mut out = Out { to: BufWriter::new(std::io::stdout()), failed: None };
        let dumped = culver_storage::dump(&file, &mut culver_mailbox::describe, &mut out).await;
        let Out { mut to, failed } = out;
        match failed.or(to.flush().err()) {
            // Who reads it has seen enough.
            Some(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(error.into()),
            None => Ok(dumped?),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output, written while a dump goes on: a large file says more than memory should hold, and what was said before an
/// error counts.
struct Out {
    to: BufWriter<Stdout>,
    /// Why a write failed, which a `fmt::Error` cannot say.
    failed: Option<std::io::Error>,
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.to.write_all(text.as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

/// `culver check DIR`: 0 where everything is well, 1 with every finding.
pub fn check(dir: &Path, json: bool) -> Result<ExitCode> {
    // Also the directory of a quickstart, whose store stands in `store`.
    let store = dir.join("store");
    let store = if store.join("STORE").exists() { store } else { dir.to_owned() };
    let report =
        on_one_shard(async move || Ok(culver_storage::check(&store, &mut culver_mailbox::inside).await?))?;
    if json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|finding| serde_json::json!({"file": finding.path, "offset": finding.offset, "what": finding.what}))
            .collect();
        println!("{}", serde_json::json!({"ok": findings.is_empty(), "findings": findings}));
    } else {
        for finding in &report.findings {
            println!(
                "{BAD}damaged{BAD:#} {} at octet {}: {}",
                finding.path.display(),
                finding.offset,
                finding.what
            );
        }
        if report.findings.is_empty() {
            println!("{GOOD}ok{GOOD:#} {}: every stored format verified", dir.display());
        }
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
