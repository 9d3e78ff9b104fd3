//! Fuzzing on the stable compiler: libfuzzer-sys with the coverage flags that cargo-fuzz would set.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Minutes a target runs unless `--minutes` says otherwise.
const MINUTES: f64 = 10.0;

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Coverflow-checks";

pub fn run(arguments: &[String]) -> Result<bool> {
    let folder = crate::root().join("fuzz");
    let minutes = match crate::option(arguments, "--minutes") {
        Some(minutes) => minutes.parse().context("--minutes")?,
        None => MINUTES,
    };
    let mut targets: Vec<String> = fs::read_dir(folder.join("targets"))
        .context("fuzz/targets")?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    targets.sort();
    if let Some(wanted) = arguments.first().filter(|a| !a.starts_with("--")) {
        if !targets.contains(wanted) {
            bail!("no such target: {wanted}; there are {}", targets.join(", "));
        }
        targets.retain(|target| target == wanted);
    }
    let triple = triple()?;
    let built = Command::new("cargo")
        // With --target, build scripts and macros are built without the coverage flags.
        .args(["build", "--release", "--target", &triple, "--bins", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("cargo build")?;
    if !built.success() {
        bail!("the fuzz targets do not build");
    }
    let mut clean = true;
    for target in targets {
        let (corpus, artifacts) =
            (folder.join("corpus").join(&target), folder.join("artifacts").join(&target));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = Command::new(folder.join("target").join(&triple).join("release").join(&target));
        command
            .arg(&corpus)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={}", (minutes * 60.0).ceil()))
            .args([
                "-max_len=16384",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
                "-verbosity=0",
            ]);
        let seeds = folder.join("seeds").join(&target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        let status = command.status().with_context(|| target.clone())?;
        println!(
            "fuzz: {target}: {minutes} minutes, {}",
            if status.success() { "no finding" } else { "FINDING" }
        );
        clean &= status.success();
    }
    Ok(clean)
}

fn triple() -> Result<String> {
    let output = Command::new("rustc").args(["-vV"]).output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}
