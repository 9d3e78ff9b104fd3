//! Files on glommio.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::path::{Path, PathBuf};

use glommio::io::BufferedFile;
use rustix::fs::FlockOperation;

use super::{Entry, LockError, Mode, Space, TRANSFER_MAX};
use crate::annex;
use crate::exec::{self, into_io};

/// What is copied from the page cache in one go, in octets: some tens of microseconds.
const READ_INLINE_MAX: usize = 256 << 10;

pub(super) struct File(BufferedFile);

impl File {
    pub async fn open(path: &Path, mode: Mode) -> io::Result<File> {
        let path = path.to_owned();
        let file = on_disk_thread(move || {
            OpenOptions::new().read(true).write(mode != Mode::Read).create_new(mode == Mode::New).open(path)
        })
        .await?;
        // SAFETY: the descriptor is ours alone and goes over to the file, which closes it through the ring, so
        // after every request that names it.
        Ok(File(unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) }))
    }

    /// What the page cache holds is copied at once; the ring, which costs several system calls, is for what has to be
    /// waited for.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read_cached(offset, len.min(READ_INLINE_MAX));
        while bytes.len() < len {
            let want = (len - bytes.len()).min(TRANSFER_MAX);
            let piece = self.0.read_at(offset + bytes.len() as u64, want).await.map_err(into_io)?;
            if piece.is_empty() {
                break;
            }
            bytes.reserve_exact(len.min(bytes.len() + 16 * TRANSFER_MAX) - bytes.len());
            bytes.extend_from_slice(&piece);
        }
        // Who reads on and on from the page cache waits for nothing, and would let nobody else run.
        exec::yield_if_needed().await;
        Ok(bytes)
    }

    /// The octets from `offset` that can be had without waiting: none where the file system cannot tell.
    fn read_cached(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(len);
        let Ok(at) = libc::off64_t::try_from(offset) else { return bytes };
        let into = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        // SAFETY: the descriptor is open, and the one buffer has room for `len` octets.
        let read = unsafe { libc::preadv2(self.0.as_raw_fd(), &into, 1, at, libc::RWF_NOWAIT) };
        if let Ok(read) = usize::try_from(read) {
            // SAFETY: the kernel has written so many octets.
            unsafe { bytes.set_len(read.min(len)) };
        }
        bytes
    }

    /// On a disk thread, which is cheaper than the ring: buffered writes on ext4 are handed to a kernel thread
    /// anyway, and here the octets are not copied to survive a short write.
    pub async fn write_at(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let fd = self.fd().try_clone_to_owned()?;
        on_disk_thread(move || {
            let mut at = 0;
            for piece in bytes.chunks(TRANSFER_MAX) {
                write_all_at(fd.as_fd(), offset + at, piece)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
        .await
    }

    pub fn append_inline(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_all_at(self.fd(), offset, bytes)
    }

    pub async fn sync_data(&self) -> io::Result<()> {
        self.0.fdatasync().await.map_err(into_io)
    }

    pub async fn preallocate(&self, len: u64) -> io::Result<()> {
        self.0.pre_allocate(len, false).await.map_err(into_io)
    }

    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        let fd = self.fd().try_clone_to_owned()?;
        on_disk_thread(move || Ok(rustix::fs::ftruncate(fd, len)?)).await
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(self.fd())?.st_size.unsigned_abs())
    }

    pub async fn close(self) -> io::Result<()> {
        self.0.close().await.map_err(into_io)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the file holds its descriptor open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

fn write_all_at(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[at..], offset + at as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => at += wrote,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Runs a path operation where it may block.
pub(super) async fn on_disk_thread<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    annex::run_disk(f).await.map_err(io::Error::other)?
}

pub(super) fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        match entry.metadata() {
            Ok(meta) => {
                let is_dir = meta.is_dir();
                entries.push(Entry { name, is_dir, len: if is_dir { 0 } else { meta.len() } });
            }
            // Removed since it was read: it is not there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

pub(super) fn space(path: &Path) -> io::Result<Space> {
    let s = rustix::fs::statvfs(path)?;
    Ok(Space {
        free_octets: s.f_bavail.saturating_mul(s.f_frsize),
        total_octets: s.f_blocks.saturating_mul(s.f_frsize),
        free_inodes: s.f_favail,
    })
}

pub(super) async fn lock(path: PathBuf) -> Result<std::fs::File, LockError> {
    let inner = path.clone();
    let result = on_disk_thread(move || {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&inner)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // The id is for people: on a full disk the lock holds without it.
                let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                match named {
                    Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error),
                    _ => Ok(Ok(file)),
                }
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.take(32).read_to_string(&mut text);
                Ok(Err(text.trim().parse().ok()))
            }
            Err(e) => Err(e.into()),
        }
    })
    .await;
    match result {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(pid)) => Err(LockError::Held { path, pid }),
        Err(source) => Err(LockError::Io { path, source }),
    }
}
