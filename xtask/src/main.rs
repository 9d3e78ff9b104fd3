//! The project's own chores: `cargo xtask test|counts|tidy|rfc|fuzz|compare|store`.

mod compare;
mod counts;
mod fuzz;
mod rfc;
mod source;
mod store;
mod test;
mod tidy;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
cargo xtask test [--long] [--release] [--filter NAME]   set up what the tests need, run them all
cargo xtask counts [--write] [--filter NAME]            instructions of the micro-benchmarks, and their change
cargo xtask tidy                                        check the rules of the house
cargo xtask rfc [--check]                               write (or check) docs/rfc.md
cargo xtask fuzz [TARGET] [--minutes N]                 fuzz one target, or all of them
cargo xtask compare [--help]                            Culver and Dovecot on the same work
cargo xtask store [--help]                              Culver on a real object store";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let done: Result<bool> = match arguments.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("counts") => counts::run(rest),
        Some("tidy") => tidy::run(),
        Some("rfc") => rfc::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("compare") => compare::run(rest),
        Some("store") => store::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// The value of an option given as `--name value`.
pub fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|a| a == name)?;
    arguments.get(at + 1).map(String::as_str)
}
