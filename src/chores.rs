//! The commands that do not serve: checks, dumps, passwords.

use crate::config::Config;
use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use culver_users::Scheme;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
/// Longest password that is read from standard input, in octets.
const PASSWORD_OCTETS_MAX: u64 = 4096;

/// `culver check-config FILE`: 0 and one line, or 1 and every mistake.
pub fn check_config(file: &Path) -> Result<ExitCode> {
    match Config::load(file) {
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
        eprintln!("Password (it is shown as you type it): ");
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
