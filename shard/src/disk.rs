//! Files and directories.
//!
//! Small appends go inline into the page cache, and what a read finds there is copied at once. Other reads, and syncs, ride
//! the ring. Path operations, which io_uring does not do without blocking, are done by the disk threads.
//!
//! # Crash
//! What was written is durable after [`File::sync_data`]; a name that was created, linked, renamed or removed
//! is durable after [`sync_dir`] of its directory. Nothing else is: the simulation loses the rest at will.
//! A failed sync may have lost what it should have kept, and the next one will not say so: whoever sees one
//! must take the file's end for lost.
//!
//! # Limits
//! [`APPEND_INLINE_MAX`] octets for an inline append; [`TRANSFER_MAX`] octets for one request to the kernel.

mod real;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::context;
use crate::sim::disk as sim;

/// What [`File::append_inline`] takes at once, in octets.
pub const APPEND_INLINE_MAX: usize = 64 << 10;

/// One read or write is given to the kernel in pieces of this many octets.
pub const TRANSFER_MAX: usize = 1 << 20;

/// An open file. Its name may change or vanish meanwhile; the file stays.
pub struct File(Form);

enum Form {
    Real(real::File),
    Sim(sim::File),
}

impl File {
    /// Opens for reading.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<File> {
        open(path.as_ref(), Mode::Read).await
    }

    /// Opens an existing file for reading and writing.
    pub async fn open_rw(path: impl AsRef<Path>) -> io::Result<File> {
        open(path.as_ref(), Mode::Write).await
    }

    /// Makes a file that must not exist; `AlreadyExists` where it does.
    pub async fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        open(path.as_ref(), Mode::New).await
    }

    /// `len` octets from `offset`; fewer at the end of the file.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.0 {
            Form::Real(f) => f.read_at(offset, len).await,
            Form::Sim(f) => f.read_at(offset, len).await,
        }
    }

    /// Writes all of it. Not durable before [`File::sync_data`]. If dropped, it may still happen, later.
    pub async fn write_at(&self, offset: u64, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
        match &self.0 {
            Form::Real(f) => f.write_at(offset, bytes.into()).await,
            Form::Sim(f) => f.write_at(offset, bytes.into()).await,
        }
    }

    /// Writes up to [`APPEND_INLINE_MAX`] octets into the page cache without awaiting: a few microseconds. All
    /// or an error, after which some may be written. More is refused as `InvalidInput`.
    pub fn append_inline(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > APPEND_INLINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too much for an inline append"));
        }
        match &self.0 {
            Form::Real(f) => f.append_inline(offset, bytes),
            Form::Sim(f) => f.append_inline(offset, bytes),
        }
    }

    /// Makes durable what was written before this call, and the file's length.
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Form::Real(f) => f.sync_data().await,
            Form::Sim(f) => f.sync_data().await,
        }
    }

    /// Reserves space up to `len` octets and makes the file that long, with zeros, where it is shorter.
    pub async fn preallocate(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Form::Real(f) => f.preallocate(len).await,
            Form::Sim(f) => f.set_len(len, false).await,
        }
    }

    /// Cuts the file, or lengthens it with zeros.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Form::Real(f) => f.truncate(len).await,
            Form::Sim(f) => f.set_len(len, true).await,
        }
    }

    /// Its length in octets.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Form::Real(f) => f.len(),
            Form::Sim(f) => f.len(),
        }
    }

    /// Closes without blocking the shard. Dropping closes too, somewhat later. Neither syncs.
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            Form::Real(f) => f.close().await,
            Form::Sim(_) => Ok(()),
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    New,
}

async fn open(path: &Path, mode: Mode) -> io::Result<File> {
    match context::seat() {
        Some(seat) => sim::open(&seat, path, mode).await.map(Form::Sim),
        None => real::File::open(path, mode).await.map(Form::Real),
    }
    .map(File)
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name without its directory. Names that are not UTF-8 are not listed: nobody here made them.
    pub name: String,
    pub is_dir: bool,
    /// Octets; 0 for a directory.
    pub len: u64,
}

macro_rules! both {
    ($path:expr, |$seat:ident, $p:ident| $sim:expr, $real:expr) => {{
        let $p: PathBuf = $path.as_ref().to_owned();
        match context::seat() {
            Some($seat) => $sim.await,
            None => real::on_disk_thread(move || $real).await,
        }
    }};
}

/// Makes a directory and those above it that are missing. Durable after [`sync_dir`] of each one's parent.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    both!(path, |seat, p| sim::create_dir_all(&seat, &p), std::fs::create_dir_all(&p))
}

/// Gives a file or directory another name, replacing a file of that name. Durable after [`sync_dir`].
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let to = to.as_ref().to_owned();
    both!(from, |seat, p| sim::rename(&seat, &p, &to), std::fs::rename(&p, &to))
}

/// Gives a file a second name; `AlreadyExists` where the name is taken: create-if-absent, refused.
pub async fn link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let to = to.as_ref().to_owned();
    both!(from, |seat, p| sim::link(&seat, &p, &to), std::fs::hard_link(&p, &to))
}

/// Removes the name of a file. Durable after [`sync_dir`].
pub async fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    both!(path, |seat, p| sim::remove(&seat, &p, false), std::fs::remove_file(&p))
}

/// Removes an empty directory.
pub async fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    both!(path, |seat, p| sim::remove(&seat, &p, true), std::fs::remove_dir(&p))
}

/// What a directory holds, sorted by name. Memory grows with the number of entries.
pub async fn list(path: impl AsRef<Path>) -> io::Result<Vec<Entry>> {
    both!(path, |seat, p| sim::list(&seat, &p), real::list(&p))
}

/// Makes the directory's names durable.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    both!(path, |seat, p| sim::sync_dir(&seat, &p), std::fs::File::open(&p)?.sync_all())
}

/// A whole file. The caller knows that it is small.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    both!(path, |seat, p| sim::read(&seat, &p), std::fs::read(&p))
}

pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    both!(path, |seat, p| sim::exists(&seat, &p), std::fs::exists(&p))
}

/// A file's length, or `NotFound`.
pub async fn file_len(path: impl AsRef<Path>) -> io::Result<u64> {
    both!(path, |seat, p| sim::file_len(&seat, &p), std::fs::metadata(&p).map(|m| m.len()))
}

/// Makes a file that must not exist, whole and durable, or not at all: `AlreadyExists` where it does.
///
/// # Crash
/// The file's content is synced under a temporary name before the final name exists, and that name is durable
/// when this returns. A temporary file may be left behind: its name begins with [`TEMPORARY`].
///
/// # Errors
/// After any other than `AlreadyExists` it is unknown whether the file exists; if it does, it is whole.
pub async fn create_durable(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    let path = path.as_ref();
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = dir.join(format!("{TEMPORARY}{:016x}", crate::random::u64()));
    let file = File::create_new(&temporary).await?;
    let result = async {
        file.write_at(0, bytes).await?;
        file.sync_data().await?;
        link(&temporary, path).await
    }
    .await;
    // The name may exist from here on, so the directory is synced before anybody is told.
    let result = match result {
        Ok(()) => sync_dir(dir).await,
        Err(e) => Err(e),
    };
    let closed = file.close().await;
    let removed = remove(&temporary).await;
    result?;
    if let Err(e) = closed.and(removed) {
        tracing::warn!(path = %temporary.display(), error = %e, "a temporary file stays");
    }
    Ok(())
}

/// How the names of temporary files begin.
pub const TEMPORARY: &str = ".tmp-";

/// Free space of the file system that holds `path`, for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free_octets: u64,
    pub total_octets: u64,
    pub free_inodes: u64,
}

pub async fn space(path: impl AsRef<Path>) -> io::Result<Space> {
    both!(path, |seat, p| sim::space(&seat, &p), real::space(&p))
}

/// An exclusive lock on a file, held until dropped or until the process ends.
pub struct Lock(#[allow(dead_code, reason = "held, not read")] LockForm);

#[allow(dead_code, reason = "held, not read")]
enum LockForm {
    Real(std::fs::File),
    Sim(sim::Lock),
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A person must act: another process holds it. Its id, where the file says it.
    #[error("{} is locked by {}", path.display(), pid.map_or("another process".to_owned(), |p| format!("process {p}")))]
    Held { path: PathBuf, pid: Option<u32> },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Locks a file, made where it is missing, and writes this process's id into it.
pub async fn lock(path: impl AsRef<Path>) -> Result<Lock, LockError> {
    let path = path.as_ref().to_owned();
    match context::seat() {
        Some(seat) => sim::lock(&seat, &path).await.map(|l| Lock(LockForm::Sim(l))),
        None => real::lock(path).await.map(|f| Lock(LockForm::Real(f))),
    }
}
