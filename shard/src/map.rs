//! Files as memory.
//!
//! # Invariants
//! Only files that nobody changes any more are mapped: one that is cut while mapped ends the process. The
//! memory begins at a page, in both worlds, so that records can be read in place.
//!
//! # Limits
//! [`PREFAULT_MAX`] octets are brought into memory before the shard touches them; the rest of a larger file
//! faults in on use, unless [`Map::prefault`] brings it.

use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut};

use crate::annex;
use crate::context;
use crate::disk;

/// What [`Map::open`] brings into memory, in octets.
pub const PREFAULT_MAX: usize = 256 << 20;

const PAGE: usize = 4096;

/// A whole file, read in place. Clones share it; it can go to any thread.
#[derive(Clone)]
pub struct Map(Option<Arc<Mmap>>);

impl Map {
    /// Maps a file for reading and brings it into memory off the shard.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Map> {
        let path = path.as_ref().to_owned();
        if context::seat().is_some() {
            let octets = disk::read(&path).await?;
            if octets.is_empty() {
                return Ok(Map(None));
            }
            let mut map = MmapMut::map_anon(octets.len())?;
            map.copy_from_slice(&octets);
            return Ok(Map(Some(Arc::new(map.make_read_only()?))));
        }
        let open = move || {
            let file = std::fs::File::open(&path)?;
            if file.metadata()?.len() == 0 {
                return Ok(Map(None));
            }
            // SAFETY: by the invariant of this module the file does not change while mapped.
            let map = Arc::new(unsafe { Mmap::map(&file)? });
            touch(&map, 0..map.len().min(PREFAULT_MAX));
            Ok(Map(Some(map)))
        };
        annex::run_disk(open).await.map_err(io::Error::other)?
    }

    /// Brings a part into memory off the shard; what lies beyond the end is left out.
    pub async fn prefault(&self, part: Range<usize>) -> io::Result<()> {
        let Some(map) = self.0.clone() else { return Ok(()) };
        let part = part.start.min(map.len())..part.end.min(map.len());
        annex::run_disk(move || touch(&map, part)).await.map_err(io::Error::other)
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |map| &map[..])
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Map({} octets)", self.len())
    }
}

fn touch(map: &Mmap, part: Range<usize>) {
    if part.is_empty() {
        return;
    }
    // Advice only: where the kernel does not take it, the loop below does the work.
    let _ = map.advise_range(Advice::WillNeed, part.start, part.len());
    for page in map[part].chunks(PAGE) {
        std::hint::black_box(page[0]);
    }
}
