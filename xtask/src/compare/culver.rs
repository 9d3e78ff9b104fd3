//! Culver under comparison: the release build, one shard, its own defaults but for what the works need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::server::{Ports, Site};

/// Builds what is measured, once for a run.
pub fn build() -> Result<()> {
    for package in [["-p", "culver", "--bin", "culver"], ["-p", "culver-bench", "--bin", "culver-bench"]] {
        println!("building {}", package[1]);
        let status = Command::new("cargo")
            .args(["build", "--release", "--quiet"])
            .args(package)
            .current_dir(crate::root())
            .status()
            .context("cargo")?;
        ensure!(status.success(), "{} does not build", package[1]);
    }
    Ok(())
}

pub fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or(crate::root().join("target"), PathBuf::from)
}

/// The password in the scheme that both servers check: salted SHA-512, one round, cheap for both.
pub fn stored_password(password: &str) -> Result<String> {
    let mut child = Command::new(binary("culver"))
        .args(["hash-password", "--scheme", "SSHA512"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("culver hash-password")?;
    std::io::Write::write_all(&mut child.stdin.take().context("stdin is piped")?, password.as_bytes())?;
    let output = child.wait_with_output()?;
    let stored = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(
        output.status.success() && stored.starts_with("{SSHA512}"),
        "culver hash-password gave {stored:?}"
    );
    Ok(stored)
}

/// The section of a store of this machine alone.
pub fn local(dir: &Path) -> Result<String> {
    let store = dir.join("store");
    fs::create_dir_all(&store)?;
    Ok(format!("url = \"file://{}\"\n", store.display()))
}

/// Writes the configuration, whose section `[storage]` is `storage`; the program and its arguments.
pub fn command(site: &Site, dir: &Path, storage: &str, ports: Ports) -> Result<Vec<String>> {
    let file = dir.join("culver.toml");
    fs::write(&file, configuration(site, storage, ports))?;
    let program = binary("culver").display().to_string();
    Ok(vec![program, "serve".to_owned(), "--config".to_owned(), file.display().to_string()])
}

fn configuration(site: &Site, storage: &str, ports: Ports) -> String {
    let listener = |service: &str, port: u16, tls: bool| {
        format!(
            "[[listener]]\nservice = \"{service}\"\naddress = \"127.0.0.1:{port}\"\n{}\n",
            if tls { "tls = true\n" } else { "" }
        )
    };
    let listeners = [
        listener("imap", ports.imap, false),
        listener("imap", ports.imaps, true),
        listener("pop3", ports.pop3, false),
        listener("lmtp", ports.lmtp, false),
        listener("admin", ports.admin, false),
    ]
    .concat();
    format!(
        "hostname = \"compare.example.test\"\nshards = 1\n\n\
         [storage]\n{storage}\n{listeners}\
         [tls]\n[[tls.certificate]]\nchain = \"{}\"\nkey = \"{}\"\n\n\
         [users]\npasswd_file = \"{}\"\nsecure_networks = [\"127.0.0.0/8\"]\n\n\
         [limits]\nconnections_per_user_max = 10000\n",
        site.chain.display(),
        site.key.display(),
        site.passwd.display(),
    )
}

/// The worst and the 99.9th of a thousand of the shard's stalls, in microseconds, from the metrics' text.
pub fn stalls_us(metrics: &str) -> Option<(f64, f64)> {
    let at = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).reduce(f64::max)
    };
    let (p999, worst) = ("culver_shard_stall_p999_seconds{", "culver_shard_stall_max_seconds{");
    Some((at(p999)? * 1e6, at(worst)? * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_shard_tells_the_stall() {
        let metrics = "# TYPE culver_shard_stall_p999_seconds gauge\n\
                       culver_shard_stall_p999_seconds{shard=\"0\"} 0.0012\n\
                       culver_shard_stall_p999_seconds{shard=\"1\"} 0.0034\n\
                       culver_shard_stall_max_seconds{shard=\"0\"} 0.02\n";
        let (p999, worst) = stalls_us(metrics).unwrap();
        assert!((p999 - 3400.0).abs() < 1e-6 && (worst - 20_000.0).abs() < 1e-6);
        assert_eq!(stalls_us("up 1\n"), None);
    }
}
