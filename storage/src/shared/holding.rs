//! What a shard does with partitions that come and go: acquire (R6c), serve (R9), hand over (R8), and what of the journals it
//! still needs (R4).

use std::collections::BTreeMap;

use culver_model::PartitionId;
use culver_shard::sync::oneshot;
use culver_shard::time;

use super::format::{Gap, Incarnation};
use super::takeover::ReadPart;
use crate::error::{CommitError, FlushError};
use crate::fault::{self, Fault};
use crate::journal::commit::shared::seq_of;
use crate::journal::commit::{Haste, Pending};
use crate::journal::format::RecordKind;
use crate::objects::Stored;
use crate::partition::{Partition, PartitionSeed, Serving};
use crate::place::{ObjectId, ObjectKind};
use crate::storage::{Inner, Storage};
use crate::store::Costs;

/// A partition that this node claimed, with everything committed of it.
#[derive(Clone, Debug)]
pub(crate) struct Acquired {
    pub seed: PartitionSeed,
    /// Whose journal it is written to from now on.
    pub incarnation: Incarnation,
    /// In whose journals its earlier epochs are, as far as they are needed.
    pub journals: BTreeMap<u32, Incarnation>,
    /// Parts of unflushed records that were read on the way, each with its object; perhaps not of all.
    pub parts: Vec<(ObjectId, ReadPart)>,
}

/// What a partition still needs of journals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    pub partition: PartitionId,
    pub epoch: u32,
    /// The first object needed of this node's own journal; `None` where it needs nothing of it yet.
    pub own: Option<u64>,
    /// Earlier epochs of which nothing is needed any more.
    pub freed: Vec<(u32, Incarnation)>,
}

/// Whether the accounts of a partition are answered for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Here,
    /// This node has it, and the store has not proved for too long that nobody else does (R9).
    Stale,
    /// This node is taking it on, or hands it over.
    Moving,
    /// Another node has it, or nobody.
    Elsewhere,
}

impl Standing {
    /// Why something was refused a moment ago, where it may have come back since.
    pub fn away(self) -> Standing {
        if self == Standing::Here { Standing::Moving } else { self }
    }
}

/// Why a partition could not be taken on or handed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    /// The journal was sealed meanwhile: another node took over.
    #[error("this node's journal was sealed")]
    Ended,
    #[error("not flushed: {0}")]
    Flush(#[from] FlushError),
    #[error("accounts that cannot be flushed keep it here: run `culver check`, and restore what it names")]
    LeftOut,
}

impl Storage {
    /// Takes a partition on; ready when its Open record is committed. Whether it may be served then, [`Storage::serves`]
    /// says.
    pub(crate) async fn acquire(&self, acquired: Acquired) -> Result<(), HoldError> {
        let inner = &self.0;
        let Acquired { seed, incarnation, journals, parts } = acquired;
        let (id, epoch) = (seed.partition, seed.epoch);
        let gap = seed.gaps.iter().find(|gap| gap.epoch == epoch).map(|gap| gap.of);
        inner.join(incarnation);
        inner.lose(id);
        let stored = inner.objects.stored().ok_or(HoldError::Ended)?;
        for (epoch, incarnation) in journals {
            stored.note_journal(id, epoch, incarnation);
        }
        stored.note_journal(id, epoch, incarnation);
        let term = {
            let mut partition = inner.partition(id).borrow_mut();
            let term = partition.term + 1;
            // H9: it is served when its Open record is committed.
            let serving = if fault::on(Fault::ServeBeforeOpen) { Serving::Open } else { Serving::Opening };
            *partition = Partition { serving, term, ..Partition::new(seed, time::now()) };
            inner.unflushed_octets.set(inner.unflushed_octets.get() + partition.unflushed_octets);
            term
        };
        inner.keep_parts(id, parts);
        let meta = Gap::opened_meta(gap);
        let opened = self.record(id, term, RecordKind::Open, meta, {
            let inner = inner.clone();
            move || {
                let mut partition = inner.partition(id).borrow_mut();
                if partition.term == term {
                    partition.serving = Serving::Open;
                    partition.opened = seq_of(inner.journal.next_lsn());
                }
            }
        });
        opened.await.map_err(|_| HoldError::Ended)
    }

    /// Whether reads and changes of a partition may be answered here now.
    pub fn serves(&self, partition: PartitionId) -> bool {
        self.standing(partition) == Standing::Here
    }

    /// The same, with the reason where they may not.
    pub fn standing(&self, partition: PartitionId) -> Standing {
        let Some(state) = self.0.partitions.get(&partition.0) else { return Standing::Elsewhere };
        match state.borrow().serving {
            Serving::Open if self.0.is_fresh() => Standing::Here,
            Serving::Open => Standing::Stale,
            Serving::Opening | Serving::Leaving => Standing::Moving,
            Serving::Absent => Standing::Elsewhere,
        }
    }

    /// Whether partitions come and go: the store is shared, or is an object store.
    pub fn is_shared(&self) -> bool {
        self.0.node.is_some()
    }

    /// What this shard's requests to the store cost so far; nothing on a local store.
    pub fn costs(&self) -> Option<&Costs> {
        self.0.objects.stored().map(Stored::costs)
    }

    /// Hands a partition over: stops serving it, flushes it, and journals its Release. The manifest that holds all of it, or
    /// `None` where it is empty.
    pub(crate) async fn release(&self, id: PartitionId) -> Result<Option<ObjectId>, HoldError> {
        let inner = &self.0;
        let term = {
            let mut partition = inner.partition(id).borrow_mut();
            if partition.serving != Serving::Open {
                return Err(HoldError::Ended);
            }
            partition.serving = Serving::Leaving;
            partition.term
        };
        let flushed = self.flush_for_release(id).await;
        if let Err(error) = flushed {
            // It stays where it is, and is served again.
            let mut partition = inner.partition(id).borrow_mut();
            if partition.term == term && partition.serving == Serving::Leaving {
                partition.serving = Serving::Open;
            }
            return Err(error);
        }
        let manifest = {
            // H7: from here on it is not served in this epoch again, whatever becomes of the record.
            let mut partition = inner.partition(id).borrow_mut();
            if partition.term != term {
                return Err(HoldError::Ended);
            }
            partition.serving =
                if fault::on(Fault::ServeAfterRelease) { Serving::Open } else { Serving::Absent };
            partition.flush.as_ref().map(|(meta, _)| meta.manifest)
        };
        if let Some(source) = inner.source() {
            source.lost(id);
        }
        let meta = super::release_meta(manifest);
        let released = self.record(id, term, RecordKind::Release, meta, || {}).await;
        inner.forget(id);
        released.map_err(|_| HoldError::Ended)?;
        Ok(manifest)
    }

    /// Flushes until nothing is unflushed, nor on its way to be.
    async fn flush_for_release(&self, id: PartitionId) -> Result<(), HoldError> {
        loop {
            self.0.flush_now(id).await?;
            // What was taken before, and what moved bodies: the manifest must hold it, for it is answered.
            self.0.told_of(id).await;
            let in_journals = {
                let partition = self.0.partition(id).borrow();
                match (partition.serving, partition.unflushed.is_empty(), partition.left_out.is_empty()) {
                    (Serving::Leaving, true, _) => {}
                    (Serving::Leaving, false, false) => return Err(HoldError::LeftOut),
                    (Serving::Leaving, false, true) => continue,
                    _ => return Err(HoldError::Ended),
                }
                let bodies = partition.manifest.iter().flat_map(|manifest| manifest.bodies.keys());
                bodies.copied().filter(|body| body.kind == ObjectKind::Segment).collect::<Vec<_>>()
            };
            if in_journals.is_empty() {
                return Ok(());
            }
            // Who comes next starts from the manifest alone.
            let Some(source) = self.0.source() else { return Err(HoldError::Ended) };
            self.0.compact(&*source, &in_journals, &[id]).await?;
        }
    }

    /// Journals a record of ownership; `then` runs in its commit's own call.
    async fn record(
        &self,
        id: PartitionId,
        term: u64,
        kind: RecordKind,
        meta: Vec<u8>,
        then: impl FnOnce() + 'static,
    ) -> Result<(), CommitError> {
        let (sender, receiver) = oneshot::channel();
        let on_commit = Box::new(move |result: Result<_, CommitError>| {
            if result.is_ok() {
                then();
            }
            let _ = sender.send(result.map(drop));
        });
        self.0.enqueue(Pending::new(kind, (id, term), None, meta, Vec::new(), Haste::Urgent, on_commit));
        receiver.await.unwrap_or(Err(CommitError::Unknown))
    }

    /// What the partitions of this shard need of journals, of those that this node has or had in its incarnation.
    /// Waits until everything that was handed to the journal before is told.
    pub(crate) async fn needed(&self) -> Vec<Needed> {
        self.0.settled().await;
        let partitions = self.0.partitions.values().map(|partition| partition.borrow());
        partitions
            .filter(|partition| partition.serving != Serving::Absent)
            .map(|p| self.0.needed_of(&p))
            .collect()
    }
}

impl Inner {
    fn needed_of(&self, partition: &Partition) -> Needed {
        let mut oldest = partition.epoch;
        let mut own: Option<u64> = None;
        let mut need = |epoch: u32, seq: u64| {
            oldest = oldest.min(epoch);
            if epoch == partition.epoch {
                own = Some(own.map_or(seq, |own| own.min(seq)));
            }
        };
        for ((epoch, _), seq) in partition.needed_segments() {
            need(epoch, seq);
        }
        // Bodies that a manifest names in journal objects, until they are moved.
        for body in partition.manifest.iter().flat_map(|manifest| manifest.bodies.keys()) {
            if body.kind == ObjectKind::Segment {
                need(body.epoch, body.number);
            }
        }
        // A successor starts from the newest Flush; without one of this epoch, from the first record of it and whatever
        // earlier owners have left (R4).
        match &partition.flush {
            Some((meta, Some(segment))) if segment.epoch == partition.epoch => {
                oldest = oldest.min(meta.cov.epoch)
            }
            _ => {
                need(partition.epoch, partition.opened);
                oldest = 0;
            }
        }
        // R3: what a Flush does not cover is not free.
        if fault::on(Fault::FreesFromCov) && partition.flush.is_some() {
            oldest = partition.epoch;
        }
        let freed = match self.objects.stored() {
            Some(stored) => stored.journals_below(partition.id, oldest),
            None => Vec::new(),
        };
        Needed { partition: partition.id, epoch: partition.epoch, own, freed }
    }
}
