//! The local tail of a node's journal: objects that were acknowledged on this machine's disk and are not known to be in the store.
//!
//! One file for each object, `unsent/<incarnation>/<seq>`: a journal segment whose records are the object's, in its order.
//!
//! # Invariants
//! The records of a file, one after the other, are the records of the object; its head follows from them, so that it is the same
//! octets whoever makes them, and the same create may be made again after a restart.
//! A file is removed when its object, and all before it, are known to be in the store.
//!
//! # Crash
//! A torn batch was never acknowledged, and never sent. An object without a file held nothing that was acknowledged here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use culver_shard::disk::{self, APPEND_INLINE_MAX, File};

use super::format::{Content, Incarnation, ObjectHead, Part, head_octets};
use crate::error::OpenError;
use crate::journal::commit::shared::lsn_of;
use crate::journal::format::{
    BATCH_OCTETS, HEADER_BLOCK, SEGMENT_VERSION, SegmentHeader, begin_batch, finish_batch,
};
use crate::journal::scan::{Expected, Segment};

/// The part of a node's directory.
const DIR: &str = "unsent";
/// Octets preallocated for a file: most objects are smaller.
const FILE_OCTETS: u64 = 1 << 20;

/// Where the one part of such an object begins.
pub(crate) fn part_offset() -> u64 {
    head_octets(1) as u64
}

/// The head of an object that was acknowledged locally: it depends on nothing but its records.
pub(crate) fn object_head(
    store: [u8; 16],
    incarnation: Incarnation,
    seq: u64,
    records: u32,
    octets: u32,
    crc: u32,
) -> ObjectHead {
    let part = Part { shard: 0, records, octets, crc };
    let parts = if records == 0 { Vec::new() } else { vec![part] };
    // H13: there is one attempt at a number of an incarnation, so that its name does for a nonce.
    ObjectHead { incarnation, seq, store, nonce: incarnation.0, content: Content::Records(parts) }
}

/// An object without records.
pub(crate) fn empty_object(store: [u8; 16], incarnation: Incarnation, seq: u64) -> Vec<u8> {
    object_head(store, incarnation, seq, 0, 0, 0).encode()
}

/// Writes the tail of one incarnation.
pub(crate) struct Tail {
    dir: PathBuf,
    store: [u8; 16],
    incarnation: Incarnation,
}

/// The file of the object that is open.
pub(crate) struct TailFile {
    file: File,
    seed: u32,
    at: u64,
}

impl Tail {
    /// Makes room for an incarnation's tail, durably.
    pub async fn begin(root: &Path, store: [u8; 16], incarnation: Incarnation) -> io::Result<Tail> {
        let unsent = root.join(DIR);
        let dir = unsent.join(incarnation.to_string());
        disk::create_dir_all(&dir).await?;
        disk::sync_dir(&unsent).await?;
        // The directory of the node may be as new as what is in it.
        for dir in root.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            match disk::sync_dir(dir).await {
                // What this process may not read it has not made.
                Err(error) if dir != root && error.kind() == io::ErrorKind::PermissionDenied => break,
                other => other?,
            }
        }
        Ok(Tail { dir, store, incarnation })
    }

    fn path(&self, seq: u64) -> PathBuf {
        self.dir.join(seq.to_string())
    }

    /// Makes the file of an object, durable with its name before anything is written to it.
    pub async fn open(&self, seq: u64) -> io::Result<TailFile> {
        let header = header_of(self.store, self.incarnation, seq);
        let path = self.path(seq);
        let file = match File::create_new(&path).await {
            // What an earlier try of this very object left: nothing of it was acknowledged.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk::remove(&path).await?;
                File::create_new(&path).await?
            }
            other => other?,
        };
        file.preallocate(FILE_OCTETS).await?;
        file.write_at(0, header.block()).await?;
        file.sync_data().await?;
        disk::sync_dir(&self.dir).await?;
        Ok(TailFile { file, seed: header.seed(), at: HEADER_BLOCK })
    }

    /// Removes the files of objects `range`, which are in the store.
    pub async fn remove(&self, range: std::ops::Range<u64>) {
        for seq in range {
            let path = self.path(seq);
            if let Err(error) = disk::remove(&path).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a file of the tail stays; the next start removes it");
            }
        }
    }

    /// Nothing is left to send: the next start need not look.
    pub async fn end(&self) {
        if let Err(error) = forget(&self.dir).await {
            tracing::warn!(path = %self.dir.display(), %error, "an empty tail stays; the next start removes it");
        }
    }
}

impl TailFile {
    /// Writes whole records, which are durable when this returns. `index`: of the first of them in the object.
    pub async fn write(&mut self, seq: u64, index: u32, records: u32, pieces: &[&[u8]]) -> io::Result<()> {
        let mut out =
            Vec::with_capacity(BATCH_OCTETS + pieces.iter().map(|piece| piece.len()).sum::<usize>());
        begin_batch(&mut out);
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        let lsn = lsn_of(seq, index);
        finish_batch(&mut out, self.seed, records, lsn, lsn);
        let octets = out.len() as u64;
        // What was not preallocated may have to wait for the file system.
        if out.len() <= APPEND_INLINE_MAX && self.at + octets <= FILE_OCTETS {
            self.file.append_inline(self.at, &out)?;
        } else {
            self.file.write_at(self.at, out).await?;
        }
        self.file.sync_data().await?;
        self.at += octets;
        Ok(())
    }
}

fn header_of(store: [u8; 16], incarnation: Incarnation, seq: u64) -> SegmentHeader {
    let base = lsn_of(seq, 0);
    SegmentHeader {
        version: SEGMENT_VERSION,
        epoch: 0,
        shard: 0,
        number: seq,
        base_lsn: base,
        previous_end: base,
        capacity: FILE_OCTETS,
        store,
        nonce: incarnation.0,
    }
}

/// A tail that an earlier incarnation left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub dir: PathBuf,
    pub incarnation: Incarnation,
}

impl Left {
    /// Its files, by the number of their objects.
    pub async fn files(&self) -> io::Result<BTreeMap<u64, PathBuf>> {
        let files = list(&self.dir).await?;
        Ok(files
            .iter()
            .filter_map(|file| Some((file.name.parse().ok()?, self.dir.join(&file.name))))
            .collect())
    }
}

/// The tails that a node's directory holds.
pub(crate) async fn left_in(root: &Path) -> io::Result<Vec<Left>> {
    let unsent = root.join(DIR);
    let dirs = list(&unsent).await?.into_iter().filter(|entry| entry.is_dir);
    Ok(dirs
        .filter_map(|entry| {
            let incarnation = Incarnation::parse(&entry.name)?;
            Some(Left { dir: unsent.join(&entry.name), incarnation })
        })
        .collect())
}

async fn list(dir: &Path) -> io::Result<Vec<disk::Entry>> {
    match disk::list(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The object that a file of a tail is of: its octets, as they were sent or would have been. `None` where the file was not
/// durable before the end, and held nothing.
pub(crate) async fn object_of(
    path: &Path,
    store: [u8; 16],
    incarnation: Incarnation,
    seq: u64,
) -> Result<Option<Vec<u8>>, OpenError> {
    // What a killed process wrote last may stand in memory alone: a power cut must not take what is sent from here.
    let file = File::open(path).await.map_err(OpenError::io(path))?;
    file.sync_data().await.map_err(OpenError::io(path))?;
    file.close().await.map_err(OpenError::io(path))?;
    let id = header_of(store, incarnation, seq).object();
    let Some(segment) = Segment::open(path, Some(Expected { store, id })).await? else { return Ok(None) };
    if segment.header.nonce != incarnation.0 {
        return Err(OpenError::corrupt(path, 0, "this file of a tail stood elsewhere"));
    }
    let mut octets = Vec::new();
    let ended = segment
        .scan(u64::MAX, &mut |record| {
            octets.extend_from_slice(record.record);
            Ok(())
        })
        .await?;
    let records = u32::try_from(ended.records)
        .map_err(|_| OpenError::corrupt(path, 0, "more records than an object can hold"))?;
    let crc = crc32c::crc32c(&octets);
    let mut object = object_head(store, incarnation, seq, records, octets.len() as u32, crc).encode();
    object.extend_from_slice(&octets);
    Ok(Some(object))
}

/// Removes what is left of a tail whose records are safe elsewhere.
pub(crate) async fn forget(dir: &Path) -> io::Result<()> {
    for entry in list(dir).await? {
        disk::remove(dir.join(&entry.name)).await?;
    }
    match disk::remove_dir(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
