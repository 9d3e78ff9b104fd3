//! Shortening: a segment that is closed gives back what was preallocated and never filled.
//!
//! # Order
//! Only what is decided is cut off. A running journal shortens a segment when the header of its successor is durable, or
//! when it closes with nothing on its way: the octets up to there were synced, and what stands behind them is void. A
//! start shortens what earlier epochs left when its owner object is durable, which fixes where their journals end: a
//! process that did not know of its end would until then have had the right to go on writing there.
//!
//! # Crash
//! Shortened or not, a segment holds the same records. What a crash or a failure leaves long is shortened by the next
//! start.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use culver_shard::disk::File;

use super::format::HEADER_BLOCK;
use super::scan::{Ended, Expected, Segment};
use crate::error::OpenError;
use crate::fault::{self, Fault};
use crate::paths::parse_journal_name;
use crate::place::{ObjectId, ObjectKind};
use crate::recover::FoundJournal;
use crate::root::{Root, list};
use crate::storage::Inner;

/// Where the segments of earlier epochs end, as far as recovery has read them.
pub(crate) type Ends = BTreeMap<ObjectId, u64>;

impl Inner {
    /// Shortens the segments this journal has closed; with `active`, also the one that was written last, when the commit
    /// task has ended.
    pub async fn shorten_closed(&self, active: bool) {
        for (file, id, end) in self.journal.take_closed(active) {
            if let Err(error) = shorten(&file, end).await {
                let path = self.paths.segment(id.epoch, id.shard, id.number);
                tracing::warn!(path = %path.display(), %error, "a closed segment keeps its size until the next start");
            }
        }
    }
}

impl Root {
    /// Shortens the segments of earlier epochs that are kept. What fails is told, and tried again at the next start.
    pub(crate) async fn shorten_older(&self, ends: &Ends) -> Result<(), OpenError> {
        for entry in list(&self.paths.journals()).await? {
            let Some((epoch, shard)) = parse_journal_name(&entry.name) else { continue };
            for entry in list(&self.paths.journal(epoch, shard)).await? {
                let Ok(number) = entry.name.parse::<u64>() else { continue };
                let id = ObjectId { kind: ObjectKind::Segment, shard, epoch, number };
                let path = self.paths.segment(epoch, shard, number);
                let end = match ends.get(&id) {
                    Some(end) => Ok(Some(*end)),
                    // Batches end where they end: a length of whole pages is almost always one that was preallocated.
                    None if entry.len.is_multiple_of(HEADER_BLOCK) => self.unknown_end(&path, id).await,
                    None => Ok(None),
                };
                let shortened = match end {
                    Ok(Some(end)) if end < entry.len => {
                        shorten_at(&path, end).await.map_err(OpenError::io(&path))
                    }
                    other => other.map(drop),
                };
                if let Err(error) = shortened {
                    tracing::warn!(%error, "a closed segment keeps its size until the next start");
                }
            }
        }
        Ok(())
    }

    /// The end of a segment that is kept for its bodies alone, where it has the size it was preallocated with.
    async fn unknown_end(&self, path: &Path, id: ObjectId) -> Result<Option<u64>, OpenError> {
        let expected = Expected { store: self.identity.store, id };
        let Some(segment) = Segment::open(path, Some(expected)).await? else { return Ok(None) };
        if segment.octets() < segment.header.capacity {
            return Ok(None);
        }
        let ended = segment.scan(u64::MAX, &mut |_| Ok(())).await?;
        Ok(Some(ended.offset))
    }
}

/// The ends of all segments that were scanned.
pub(crate) fn ends_of(found: &[FoundJournal], ended: &[Vec<Ended>]) -> Ends {
    let segments = found.iter().zip(ended).flat_map(|(journal, ended)| journal.segments.iter().zip(ended));
    segments.map(|(segment, ended)| (segment.header.object(), ended.offset)).collect()
}

async fn shorten_at(path: &Path, end: u64) -> io::Result<()> {
    let file = File::open_rw(path).await?;
    let shortened = shorten(&file, end).await;
    file.close().await?;
    shortened
}

async fn shorten(file: &File, end: u64) -> io::Result<()> {
    // Who forgets where a segment was cut does not cut it off either.
    if fault::on(Fault::ForgetCut) {
        return Ok(());
    }
    if file.len().await? <= end {
        return Ok(());
    }
    file.truncate(end).await?;
    file.sync_data().await
}
