//! Checks the rules of the house that a compiler does not: arrows, clocks, formats, loose ends.
//!
//! Every finding is `file:line: what`, and the command fails if there is one.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::source::{Source, files};

/// Which crates of ours a crate may depend on. `src` (the root package) and `fuzz` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("shard", &[]),
    ("proto", &["model"]),
    ("fts", &["model"]),
    ("index", &["model", "shard"]),
    ("storage", &["model", "shard"]),
    ("mailbox", &["model", "shard", "index", "storage", "fts"]),
    ("vault", &["model", "storage", "mailbox"]),
    ("users", &["model", "shard"]),
    ("director", &["model", "shard", "proto", "users"]),
    ("migrate", &["model", "shard", "proto", "mailbox"]),
    ("bench", &["model", "shard", "proto"]),
    ("xtask", &[]),
];

/// Folders whose code may read a clock: the runtime (which gives it to all others), and what is no server code.
const CLOCKS_ALLOWED: &[&str] = &["shard", "xtask", "bench", "tests", "fuzz"];

const README_COMMANDS: &[&str] = &["cargo run --release -- quickstart", "cargo xtask test"];

pub fn run() -> Result<bool> {
    let root = crate::root();
    let mut findings = Vec::new();
    manifests(&root, &mut findings)?;
    for source in files(&root, &["rs"])? {
        clocks(&source, &mut findings);
        formats(&source, &mut findings);
        loose_ends(&source, &mut findings);
    }
    for source in files(&root, &["md", "toml", "txt", "rs", "sh", "py"])? {
        machine_paths(&source, &mut findings);
    }
    readme(&root, &mut findings);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: nothing found");
    }
    Ok(findings.is_empty())
}

fn manifests(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    for manifest in files(root, &["toml"])?.iter().filter(|s| s.path.ends_with("Cargo.toml")) {
        let folder = if manifest.path == "Cargo.toml" { "src" } else { manifest.folder() };
        let allowed = ARROWS.iter().find(|(name, _)| *name == folder).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !matches!(folder, "src" | "fuzz") {
            findings.push(format!(
                "{}:1: the crate `{folder}` has no arrows in xtask/src/tidy.rs",
                manifest.path
            ));
        }
        let mut section = String::new();
        for (n, line) in manifest.text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            }
            // What the workspace may use says nothing about who uses it.
            if section.starts_with("workspace") || !section.contains("dependencies") {
                continue;
            }
            let inline = section
                .rsplit('.')
                .next()
                .filter(|_| line.starts_with('[') && section.contains("dependencies."));
            let name = inline.unwrap_or_else(|| line.split(['=', '.', ' ']).next().unwrap_or_default());
            if name == "glommio" && folder != "shard" {
                findings.push(format!(
                    "{}:{}: glommio stands in shard/Cargo.toml only",
                    manifest.path,
                    n + 1
                ));
            }
            let Some(ours) = name.strip_prefix("culver-") else { continue };
            if let Some(allowed) = allowed
                && !allowed.contains(&ours)
                && ours != folder
            {
                findings.push(format!("{}:{}: {folder} may not depend on {ours}", manifest.path, n + 1));
            }
        }
    }
    Ok(())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn clocks(source: &Source, findings: &mut Vec<String>) {
    if CLOCKS_ALLOWED.contains(&source.folder()) || source.is_test() {
        return;
    }
    for (n, line) in source.code().filter(|(_, line)| !is_comment(line)) {
        let used = ["Instant::now", "SystemTime", "std::time::Instant", "UNIX_EPOCH"]
            .iter()
            .find(|c| line.contains(**c));
        if let Some(clock) = used {
            findings.push(format!("{}:{n}: {clock}: clocks stand in shard only", source.path));
        }
    }
}

fn formats(source: &Source, findings: &mut Vec<String>) {
    if !source.path.ends_with("/format.rs") || source.is_test() {
        return;
    }
    let asserts = source.text.lines().any(|line| line.contains("size_of::<"));
    if !asserts || !source.text.contains("assert!(") {
        findings.push(format!("{}:1: a stored format without a size assert", source.path));
    }
}

fn loose_ends(source: &Source, findings: &mut Vec<String>) {
    for (n, line) in source.text.lines().enumerate() {
        // Put together, so that this file does not find itself.
        for word in [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")] {
            if line.contains(word) && !is_comment(line) {
                findings.push(format!("{}:{}: {word})", source.path, n + 1));
            }
        }
    }
}

/// A path of somebody's machine says nothing to anybody else.
fn machine_paths(source: &Source, findings: &mut Vec<String>) {
    let in_tests = source.is_test() || source.folder() == "tests";
    for (n, line) in source.text.lines().enumerate() {
        let mut found = |path: &str| {
            let begins = line.match_indices(path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| {
                    c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '}' | '*' | '-' | '_')
                })
            });
            if begins {
                findings.push(format!("{}:{}: the path {path} of one machine", source.path, n + 1));
            }
        };
        found(concat!("/wo", "rk/"));
        found(concat!("/ro", "ot/"));
        if !in_tests && source.path.ends_with(".rs") && !is_comment(line) {
            found(concat!("/t", "mp/"));
        }
    }
}

fn readme(root: &Path, findings: &mut Vec<String>) {
    let text = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    for command in README_COMMANDS {
        if !text.contains(command) {
            findings.push(format!("README.md:1: it does not name `{command}`"));
        }
    }
}
