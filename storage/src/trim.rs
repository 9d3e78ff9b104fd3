//! Trim: what of the journals is no longer needed goes, or stays only for the bodies in it.
//!
//! # Invariants
//! A low mark never passes a segment that holds an unflushed record of any partition, the Flush record any partition
//! stands on, or the segment being written. A segment below it is removed when no committed manifest names it.
//!
//! # Order
//! A segment is shortened to its end before the low mark passes it, and the mark is durable before a segment below it is
//! removed.
//!
//! # Crash
//! Segments below the mark that were not yet removed are removed at the next start, or kept for their bodies.

use std::collections::BTreeSet;
use std::rc::Rc;

use culver_model::PartitionId;
use culver_shard::disk;

use crate::error::FlushError;
use crate::fault::{self, Fault};
use crate::journal::commit::shared::seq_of;
use crate::partition::{Partition, Serving};
use crate::place::{ObjectId, ObjectKind};
use crate::recover::needs_of;
use crate::root::format::{End, Low};
use crate::storage::Inner;

impl Inner {
    /// Carries old Flush records forward, lowers the marks of this shard's journals, and removes segments.
    pub async fn trim(self: &Rc<Self>) -> Result<(), FlushError> {
        if self.node.is_some() {
            // The node's agent trims its journal, by what the shards need.
            return self.carry_cold_shared().await;
        }
        let _alone = self.trimming.acquire(1).await;
        self.shorten_closed(false).await;
        self.carry_cold().await?;
        self.publish_needs();
        for ((epoch, shard), low, mark) in self.due_marks() {
            self.mark_low(epoch, shard, low, mark).await?;
        }
        let mut dirs = BTreeSet::new();
        for id in self.unneeded_segments() {
            dirs.insert((id.epoch, id.shard));
            let path = self.paths.segment(id.epoch, id.shard, id.number);
            self.close_object(id);
            match disk::remove(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FlushError::io(&path)(error));
                }
                _ => {}
            }
            self.shared.with(|state| {
                let Some(kept) = state.journals.get_mut(&(id.epoch, id.shard)) else { return };
                kept.files.remove(&id.number);
                if kept.files.is_empty() && id.epoch < self.epoch {
                    state.journals.remove(&(id.epoch, id.shard));
                }
            });
        }
        // Some file systems have the space when the removal is durable.
        for (epoch, shard) in dirs {
            let dir = self.paths.journal(epoch, shard);
            disk::sync_dir(&dir).await.map_err(FlushError::io(&dir))?;
        }
        Ok(())
    }

    /// A cold partition's Flush record would hold the low mark for ever.
    async fn carry_cold(self: &Rc<Self>) -> Result<(), FlushError> {
        let active = self.journal.active_number();
        let cold: Vec<PartitionId> = self
            .partitions
            .values()
            .filter_map(|partition| {
                let partition = partition.borrow();
                let segment = partition.flush.as_ref()?.1?;
                let own = (segment.epoch, segment.shard) == (self.epoch, self.shard);
                let lags = !own || segment.number + self.limits.carry_segments < active;
                (lags && partition.unflushed.is_empty() && !partition.flushing).then_some(partition.id)
            })
            .collect();
        for id in cold {
            self.carry_forward(id).await?;
        }
        Ok(())
    }

    /// On a shared store: a Flush record in another epoch's journal holds that journal, and one far back in our own holds the
    /// low mark. A partition that has nothing unflushed stands on its manifest alone, so that record says so of everything
    /// before now.
    async fn carry_cold_shared(self: &Rc<Self>) -> Result<(), FlushError> {
        let now = seq_of(self.journal.next_lsn());
        let lags = |partition: &Partition| match &partition.flush {
            Some((_, Some(segment))) => {
                segment.epoch != partition.epoch || segment.number + self.limits.carry_objects < now
            }
            Some((_, None)) => true,
            // Without a Flush its Open record is the first that is needed.
            None => partition.opened + self.limits.carry_objects < now,
        };
        let mut cold = Vec::new();
        for partition in self.partitions.values() {
            let partition = partition.borrow();
            let clean = partition.unflushed.is_empty() && !partition.flushing;
            if partition.serving == Serving::Open && clean && lags(&partition) {
                cold.push((partition.id, partition.flush.is_some() && !partition.has_new_gap()));
            }
        }
        for (id, flushed) in cold {
            match flushed {
                true => self.carry_forward(id).await?,
                false => self.flush_empty(id).await?,
            }
        }
        Ok(())
    }

    /// Tells what this shard's partitions need now: their newest records stand in segments nobody else knows of.
    fn publish_needs(&self) {
        self.shared.with(|state| {
            for partition in self.partitions.values() {
                let partition = partition.borrow();
                state.needs.insert(partition.id.0, needs_of(&partition));
            }
        });
    }

    /// The marks to be made: journal, first segment still needed, number of the mark.
    fn due_marks(&self) -> Vec<((u32, u16), u64, u64)> {
        let active = self.journal.active_number();
        let own = (self.epoch, self.shard);
        self.shared.with(|state| {
            let mut due = Vec::new();
            for (id, kept) in state.journals.iter().filter(|(_, kept)| kept.keeper == self.shard) {
                let past = kept.files.last().map_or(kept.low, |last| last + 1);
                let bound = if *id == own { active } else { past };
                let least = state.needs.values().filter_map(|needs| needs.journals.get(id)).min();
                let mut low = least.map_or(bound, |least| bound.min(*least));
                if fault::on(Fault::TrimTooEarly) && *id == own {
                    low = (low + 1).min(bound);
                }
                if low > kept.low {
                    due.push((*id, low, kept.next_mark));
                }
            }
            due
        })
    }

    /// Says where the journal ends, now that it is closed: the next start misses what goes after this.
    pub async fn mark_end(&self, last: u64, end_lsn: u64) -> std::io::Result<()> {
        disk::create_dir_all(self.paths.ends()).await?;
        disk::sync_dir(self.paths.root()).await?;
        let end = End { epoch: self.epoch, shard: self.shard, last, end_lsn, store: self.store };
        disk::create_durable(self.paths.end(self.epoch, self.shard), &end.encode()).await
    }

    async fn mark_low(&self, epoch: u32, shard: u16, first: u64, mark: u64) -> Result<(), FlushError> {
        let dir = self.paths.low(epoch, shard);
        if mark == 0 {
            disk::create_dir_all(&dir).await.map_err(FlushError::io(&dir))?;
            let lows = self.paths.lows();
            disk::sync_dir(&lows).await.map_err(FlushError::io(&lows))?;
        }
        let path = dir.join(mark.to_string());
        let low = Low { epoch, shard, first, store: self.store };
        let made = disk::create_durable(&path, &low.encode()).await;
        self.shared.with(|state| {
            let Some(kept) = state.journals.get_mut(&(epoch, shard)) else { return };
            // Also after a failure: the mark may be there, and marks only grow.
            kept.next_mark = mark + 1;
            if made.is_ok() {
                kept.low = first;
            }
        });
        made.map_err(FlushError::io(&path))
    }

    /// Segments of the journals this shard keeps that are below the mark and named for no body.
    fn unneeded_segments(&self) -> Vec<ObjectId> {
        self.shared.with(|state| {
            let mut unneeded = Vec::new();
            for ((epoch, shard), kept) in state.journals.iter().filter(|(_, kept)| kept.keeper == self.shard)
            {
                for number in kept.files.range(..kept.low) {
                    let id =
                        ObjectId { kind: ObjectKind::Segment, shard: *shard, epoch: *epoch, number: *number };
                    if !state.needs.values().any(|needs| needs.bodies.contains(&id)) {
                        unneeded.push(id);
                    }
                }
            }
            unneeded
        })
    }
}
