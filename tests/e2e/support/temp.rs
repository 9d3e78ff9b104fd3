//! A directory that goes away with its test, unless the test failed or `CULVER_TEST_KEEP` is set.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io};

pub struct TempDir {
    path: PathBuf,
    keep: bool,
}

impl TempDir {
    pub fn new(name: &str) -> io::Result<TempDir> {
        TempDir::below(&env::temp_dir(), name)
    }

    pub fn below(dir: &Path, name: &str) -> io::Result<TempDir> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("culver-e2e-{}-{n}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(TempDir { path, keep: env::var_os("CULVER_TEST_KEEP").is_some() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory for whoever looks into the failure.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
