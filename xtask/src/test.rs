//! `cargo xtask test`: what the tests need, then all of them, then one line that counts.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Programs that end-to-end tests drive, and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("gsasl", "gsasl"),
    ("python3", "python3"),
    ("pip3", "python3-pip"),
    ("mbsync", "isync"),
    ("neomutt", "neomutt"),
    ("fetchmail", "fetchmail"),
    ("getmail", "getmail6"),
    ("postfix", "postfix"),
    ("swaks", "swaks"),
    ("script", "bsdutils"),
    ("openssl", "openssl"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
];

/// What only long runs need: hundreds of megabytes.
const PROGRAMS_LONG: &[(&str, &str)] = &[
    ("ceph", "ceph-common"),
    ("ceph-mon", "ceph-mon"),
    ("ceph-osd", "ceph-osd"),
    ("radosgw", "radosgw"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("exportfs", "nfs-kernel-server"),
    ("mount.nfs4", "nfs-common"),
];

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Lines that name a seed, for the log of long runs.
    seeds: Vec<String>,
}

pub fn run(arguments: &[String]) -> Result<bool> {
    let long = arguments.iter().any(|a| a == "--long");
    let release = long || arguments.iter().any(|a| a == "--release");
    install_missing(PROGRAMS);
    if long {
        install_missing(PROGRAMS_LONG);
    }
    // As many descriptors as this session may have: tests hold many connections.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -n $(ulimit -H -n); exec cargo test --workspace --no-fail-fast \"$@\"",
        "cargo",
    ]);
    if release {
        command.arg("--release");
    }
    if let Some(filter) = crate::option(arguments, "--filter") {
        command.arg(filter);
    }
    command.args(["--", "--show-output"]);
    command.env("CULVER_TEST_LONG", if long { "1" } else { "0" });
    command.current_dir(crate::root()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo test")?;
    let mut count = Count::default();
    let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
    read(output, &mut std::io::stdout(), &mut count)?;
    let status = child.wait()?;
    // A test binary that does not build or that dies says no result of its own.
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    if long {
        record(&count)?;
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(count.failed == 0)
}

/// Shows the output and counts; of passed tests' own output only the skips are shown.
fn read(output: impl BufRead, shown: &mut impl Write, count: &mut Count) -> Result<()> {
    let mut in_successes = false;
    for line in output.lines() {
        // A test may print octets that are no text.
        let line = line.unwrap_or_default();
        let skip = line.trim_start().starts_with("skipped:");
        match line.as_str() {
            "successes:" => in_successes = true,
            "failures:" => in_successes = false,
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            in_successes = false;
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
                let Ok(number) = number.parse::<u64>() else { continue };
                match word {
                    "passed" => count.passed += number,
                    "failed" => count.failed += number,
                    "ignored" => count.skipped += number,
                    _ => {}
                }
            }
        } else if skip && in_successes {
            count.skipped += 1;
        }
        if line.contains("SEED=") {
            count.seeds.push(line.clone());
        }
        if !in_successes || skip {
            writeln!(shown, "{line}")?;
        }
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists())
}

/// Says what stays missing, since its tests will be skipped.
fn install_missing(programs: &[(&'static str, &'static str)]) {
    for (program, package) in install(programs) {
        println!("skipped: the tests with {program}: the package {package} is not installed");
    }
}

/// Installs those of these programs that are missing, where this may; gives those that stay missing.
pub fn install(programs: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let missing = || programs.iter().filter(|(program, _)| !installed(program)).copied().collect::<Vec<_>>();
    let wanted = missing();
    if wanted.is_empty() {
        return wanted;
    }
    let names: Vec<&str> = wanted.iter().map(|(_, package)| *package).collect();
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    if root && installed("apt-get") {
        println!("installing {}", names.join(" "));
        let apt = |arguments: &[&str]| {
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        apt(&["update", "-q"]);
        for name in &names {
            apt(&["install", "-q", "-y", "--no-install-recommends", name]);
        }
    }
    missing()
}

/// Adds a line about a long run to docs/testing.md.
fn record(count: &Count) -> Result<()> {
    let said = |program: &str, arguments: &[&str]| -> String {
        let output = Command::new(program).args(arguments).current_dir(crate::root()).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let path = crate::root().join("docs/testing.md");
    append(
        &path,
        &format!(
            "| {} | {} | {} passed, {} failed, {} skipped | {} |\n",
            said("date", &["-u", "+%Y-%m-%d"]),
            said("git", &["rev-parse", "--short=10", "HEAD"]),
            count.passed,
            count.failed,
            count.skipped,
            count.seeds.join("; ").replace('|', "/")
        ),
    )
}

fn append(path: &Path, line: &str) -> Result<()> {
    let mut file = fs::File::options().append(true).open(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(line.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_skips_are_counted() {
        let output = "running 2 tests\nsuccesses:\n---- a stdout ----\nskipped: no corpus\nnoise\n\n\
                      test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
                      skipped: client_x: not installed\ntest result: e2e. 3 passed; 1 failed; 4 ignored\nx SEED=5\n";
        let mut count = Count::default();
        let mut shown = Vec::new();
        read(output.as_bytes(), &mut shown, &mut count).expect("memory");
        assert!(!String::from_utf8_lossy(&shown).contains("noise"));
        assert_eq!((count.passed, count.failed, count.skipped), (5, 1, 6));
        assert_eq!(count.seeds, ["x SEED=5"]);
    }
}
