//! Errors, grouped by who must act.

use std::io;
use std::path::{Path, PathBuf};

use culver_shard::disk::LockError;

use crate::place::Place;
use crate::store::{ProbeError, StoreError};

/// Whether an operation failed because the disk, or the user's part of it, is full.
pub(crate) fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A store that cannot be opened. A person must act; the message says on which file and how.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: in use: {why}; stop that process or choose another directory", .path.display())]
    InUse { path: PathBuf, why: String },
    #[error("{} at octet {offset}: {what}; {remedy}", .path.display())]
    Corrupt { path: PathBuf, offset: u64, what: String, remedy: &'static str },
    #[error("{}: format version {found}, this program reads {reads}; use a newer program", .path.display())]
    Version { path: PathBuf, found: u32, reads: u32 },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Probe(ProbeError),
}

/// What a person can do about a damaged file of the journal, a manifest or a table.
pub(crate) const RESTORE: &str =
    "restore this file from a backup, or restore the whole directory; nothing was changed";

impl OpenError {
    pub(crate) fn lock(error: LockError) -> OpenError {
        match error {
            LockError::Held { path, pid } => {
                let why =
                    pid.map_or("locked by another process".into(), |pid| format!("locked by process {pid}"));
                OpenError::InUse { path, why }
            }
            LockError::Io { path, source } => OpenError::Io { path, source },
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> OpenError {
        OpenError::Corrupt { path: path.to_owned(), offset, what: what.into(), remedy: RESTORE }
    }
}

/// Why a record was not taken. Nothing of it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Time acts: the bound of pending or unflushed octets is reached.
    #[error("too much waits to be committed")]
    Busy,
    /// A person acts: the disk is full. Urgent records (what frees space) are still taken.
    #[error("no space left for the journal")]
    NoSpace,
    /// The client acts: meta or body above [`crate::Limits`].
    #[error("record of {octets} octets, the limit is {limit}")]
    TooLarge { octets: u64, limit: u64 },
    /// The shard's journal is closed or has failed; the process has to end.
    #[error("the journal has stopped")]
    Stopped,
    /// The director acts: another node has the account's partition, or will have it.
    #[error("the account is not on this node")]
    NotHere,
}

/// What became of a record that was taken and did not commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The record is not stored and never will be: answer no, and drop what was prepared on top of it.
    #[error("not committed: the journal's disk failed")]
    Lost,
    /// The disk is full. Nothing was written, and nothing else of the account is touched.
    #[error("not committed: no space left")]
    NoSpace,
    /// It may or may not be found after a restart: answer neither yes nor no.
    #[error("not known to be committed: the journal has stopped")]
    Unknown,
}

/// A failed read of blocks or bodies.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The object is gone: the place is older than a compaction. Look the place up again.
    #[error("{0}: no such object any more")]
    Gone(Place),
    /// The director acts: another node has the account's partition, or will have it.
    #[error("the account is not on this node")]
    NotHere,
    #[error("{} at octet {offset}: {what}", .path.display())]
    Corrupt { path: PathBuf, offset: u64, what: String },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl ReadError {
    /// Whether something that is stored is damaged or missing, so that the next try brings no more. A store, a system or a disk
    /// that does not answer is none.
    pub fn is_loss(&self) -> bool {
        match self {
            ReadError::Corrupt { .. } | ReadError::Gone(_) => true,
            ReadError::NotHere => false,
            ReadError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The same, or the disk cannot give back what was written (EIO): what looks for what is left goes on behind it. Nothing is
    /// given up for it, since the next try may go better.
    pub(crate) fn is_damage(&self) -> bool {
        const EIO: i32 = 5;
        self.is_loss() || matches!(self, ReadError::Io { source, .. } if source.raw_os_error() == Some(EIO))
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
        let path = path.to_owned();
        move |source| ReadError::Io { path, source }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> ReadError {
        ReadError::Corrupt { path: path.to_owned(), offset, what: what.into() }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        match error {
            ReadError::Gone(_) => io::Error::new(io::ErrorKind::NotFound, error),
            ReadError::NotHere => io::Error::new(io::ErrorKind::NotConnected, error),
            ReadError::Corrupt { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
            ReadError::Io { path, source } => {
                io::Error::new(source.kind(), format!("{}: {source}", path.display()))
            }
        }
    }
}

/// A flush or compaction that did not finish. Nothing is lost: the journal still has everything; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("a panic: {0}")]
    Panicked(String),
    #[error("the flush record: {0}")]
    Submit(#[from] SubmitError),
    #[error("the flush record: {0}")]
    Commit(#[from] CommitError),
}

impl FlushError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> FlushError {
        let path = path.to_owned();
        move |source| FlushError::Io { path, source }
    }
}

/// What the layer above could not do for a flush or a compaction; it is logged and tried again later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
