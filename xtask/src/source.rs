//! The files of the repository that the checks read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub struct Source {
    /// From the root, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Whether this is test code as a whole: a file of tests, or below a folder of tests.
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| part == "tests" || part == "benches") || self.path.ends_with("tests.rs")
    }

    /// The lines before the file's own unit tests, numbered from 1.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        // House rule: `#[cfg(test)]` is the last thing in a file.
        let lines = self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        lines.enumerate().map(|(n, line)| (n + 1, line))
    }

    /// The crate's folder: the first part of the path.
    pub fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

/// All files with one of the extensions, sorted by path; build output and hidden folders left out.
pub fn files(root: &Path, extensions: &[&str]) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    walk(root, root, extensions, &mut paths)?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            Ok(Source { path, text })
        })
        .collect()
}

fn walk(root: &Path, directory: &Path, extensions: &[&str], into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = name == "target" || name == "corpus" || name == "artifacts" || name == "golden";
        if path.is_dir() {
            if !output && (!name.starts_with('.') || directory == root && name == ".ci") {
                walk(root, &path, extensions, into)?;
            }
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            into.push(path);
        }
    }
    Ok(())
}
