//! The spool: one message between its first octet and the answers to all its recipients.
//!
//! A small message stays in memory, a larger one goes to a file that every recipient's shard reads for itself.
//!
//! # Invariants
//! What is spooled is promised to nobody: it is not synced, and its file is removed with the last hold of it.
//!
//! # Crash
//! Files that are left behind are removed at the next start.
//!
//! # Limits
//! [`MEMORY_OCTETS_MAX`] of a message in memory, [`SHARD_OCTETS_MAX`] of all messages of a shard; a message that
//! finds no room goes to its file at once, with one chunk of [`CHUNK_OCTETS`] in memory.

use culver_shard as shard;
use culver_shard::disk::{self, File};
use culver_shard::sync::{Permit, Semaphore};
use culver_shard::{Queue, random};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The spool's directory, below that of the store.
pub const DIRECTORY: &str = "spool";
const MEMORY_OCTETS_MAX: usize = 256 * 1024;
const SHARD_OCTETS_MAX: usize = 64 << 20;
const CHUNK_OCTETS: usize = 64 * 1024;
/// Memory is taken in steps of so many octets.
const STEP_OCTETS: usize = 16 * 1024;

/// The memory that the messages of this shard share.
struct Memory(Semaphore);

/// A message that is being written.
pub struct Spool {
    directory: PathBuf,
    memory: Rc<Memory>,
    permits: Vec<Permit>,
    held: Vec<u8>,
    file: Option<(File, Unlink)>,
    /// Octets in the file.
    written: u64,
}

/// A whole message.
pub struct Spooled {
    content: Content,
    _permits: Vec<Permit>,
    _unlink: Option<Unlink>,
}

/// Where the octets of a whole message are. Any shard may read them while the [`Spooled`] stands.
#[derive(Clone)]
pub enum Content {
    Memory(Arc<[u8]>),
    File { path: Arc<Path>, octets: u64 },
}

impl Content {
    pub fn octets(&self) -> u64 {
        match self {
            Content::Memory(octets) => octets.len() as u64,
            Content::File { octets, .. } => *octets,
        }
    }
}

impl Spool {
    pub fn new(directory: PathBuf) -> Spool {
        let memory = shard::local::<Memory>().unwrap_or_else(|| {
            let memory = Rc::new(Memory(Semaphore::new(SHARD_OCTETS_MAX)));
            shard::set_local(memory.clone());
            memory
        });
        Spool { directory, memory, permits: Vec::new(), held: Vec::new(), file: None, written: 0 }
    }

    /// Appends. After an error the message is lost.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        for piece in octets.chunks(CHUNK_OCTETS) {
            self.held.extend_from_slice(piece);
            let full = match &self.file {
                Some(_) => self.held.len() >= CHUNK_OCTETS,
                None => self.held.len() > MEMORY_OCTETS_MAX || !self.room(),
            };
            if full {
                self.spill().await?;
            }
        }
        Ok(())
    }

    /// Whether there is memory for what is held.
    fn room(&mut self) -> bool {
        while self.permits.iter().map(Permit::weight).sum::<usize>() < self.held.len() {
            match self.memory.0.try_acquire(STEP_OCTETS) {
                Some(permit) => self.permits.push(permit),
                None => return false,
            }
        }
        true
    }

    /// Moves what is held to the file.
    async fn spill(&mut self) -> io::Result<()> {
        let (file, _) = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.directory).await?),
        };
        let octets = self.held.len() as u64;
        file.write_at(self.written, std::mem::take(&mut self.held)).await?;
        self.written += octets;
        self.permits.clear();
        Ok(())
    }

    pub async fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() && !self.held.is_empty() {
            self.spill().await?;
        }
        match self.file {
            None => Ok(Spooled {
                content: Content::Memory(self.held.into()),
                _permits: self.permits,
                _unlink: None,
            }),
            Some((file, unlink)) => {
                file.close().await?;
                let content = Content::File { path: unlink.0.clone(), octets: self.written };
                Ok(Spooled { content, _permits: Vec::new(), _unlink: Some(unlink) })
            }
        }
    }
}

impl Spooled {
    pub fn content(&self) -> &Content {
        &self.content
    }
}

async fn create(directory: &Path) -> io::Result<(File, Unlink)> {
    let path: Arc<Path> = directory.join(format!("{}-{:016x}", shard::shard(), random::u64())).into();
    let file = match File::create_new(&path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk::create_dir_all(directory).await?;
            File::create_new(&path).await?
        }
        created => created?,
    };
    Ok((file, Unlink(path)))
}

/// Removes the file when dropped.
struct Unlink(Arc<Path>);

impl Drop for Unlink {
    fn drop(&mut self) {
        // At the end of the shard nothing can be begun any more: the next start empties the spool.
        if !shard::exec::on_shard() {
            return;
        }
        let path = self.0.clone();
        let remove = async move {
            if let Err(error) = disk::remove(&path).await {
                tracing::warn!(path = %path.display(), %error, "a spool file stays");
            }
        };
        shard::spawn(Queue::Background, "unspool", remove).detach();
    }
}
