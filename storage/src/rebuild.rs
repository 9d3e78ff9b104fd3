//! Rebuild: an account whose blocks are damaged or lost gets new ones, of what can still be read of the old ones, and the
//! bodies that are still labelled as its own are found.
//!
//! What is in blocks and records is opaque here: who asks for a rebuild makes the new blocks, and takes what is found.
//!
//! # Order
//! [`Storage::rebuild`] first: one flush replaces all blocks of the account and gives up tables that cannot be opened. Then
//! [`Storage::scan`], whose objects are all named by the new manifest, so that none of them goes away meanwhile but for a
//! compaction, which [`Storage::hold_compaction`] keeps out.
//!
//! # Crash
//! Before the Flush record is committed nothing was changed.
//!
//! # Limits
//! Memory for one account's blocks, and for one window or one batch of an object.

pub(crate) mod listed;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sync::Permit;

pub use self::scan::{Met, Scan};
pub use crate::table::salvage::SalvagedKey;

use crate::check::Finding;
use crate::error::{FlushError, ReadError, SourceError};
use crate::partition::{Partition, Unflushed, UnflushedBody};
use crate::place::{ObjectId, Place, Position};
use crate::source::{AccountBlocks, BlockKind, LocalFuture};
use crate::storage::{Inner, LoadedRecord, Storage};
use crate::table::CUT_KEY;
use crate::table::salvage::salvage_account;

/// What can still be read of an account.
#[derive(Clone, Debug, Default)]
pub struct Salvaged {
    /// The newest record that the blocks contain, as far as they can be read.
    pub position: Position,
    /// Every table could say what it has of the account. If not, keys may be missing, and mailboxes made since.
    pub certain: bool,
    /// By key, ascending.
    pub keys: Vec<SalvagedKey>,
    /// Committed records beyond the blocks, in order.
    pub records: Vec<LoadedRecord>,
    /// Positions of such records that cannot be read, in order.
    pub unreadable: Vec<Position>,
    /// As [`crate::Loaded::gaps`].
    pub gaps: Vec<(Position, Guid)>,
    /// Journals of which something was missing at gaps before, and whether it has come.
    pub gaps_before: Vec<(Guid, bool)>,
    pub findings: Vec<Finding>,
    /// Objects in which bodies of the partition stand.
    objects: BTreeSet<ObjectId>,
    /// Those of them that the next flush leaves out, for their bodies were moved.
    retiring: BTreeSet<ObjectId>,
    /// Bodies of `records` that no message named any more.
    dead: BTreeSet<Place>,
}

impl Salvaged {
    /// The newest record that is in here.
    pub fn newest(&self) -> Position {
        let read = self.records.last().map(|record| record.position);
        let newest = read.into_iter().chain(self.unreadable.last().copied()).max();
        newest.map_or(self.position, |newest| newest.max(self.position))
    }

    /// Whether the object of a place is still there.
    pub fn is_there(&self, place: &Place) -> bool {
        self.objects.contains(&place.object)
    }

    /// Whether the body at a place is still there behind the next flush.
    pub fn stays(&self, place: &Place) -> bool {
        self.is_there(place) && !self.retiring.contains(&place.object) && !self.dead.contains(place)
    }
}

/// Makes the new blocks of an account of what was salvaged. They must contain every record up to
/// [`Salvaged::newest`], and no delta.
pub type Remake<'m> = dyn Fn(Salvaged) -> LocalFuture<'m, Result<AccountBlocks, SourceError>> + 'm;

/// The account of a flush that gets new blocks.
pub(crate) struct Cut<'c, 'm> {
    pub account: &'c AccountId,
    pub remake: &'c Remake<'m>,
}

impl Storage {
    /// What can still be read of an account. An error where the store does not answer; damage is in the findings.
    pub async fn salvage(&self, partition: PartitionId, account: &AccountId) -> Result<Salvaged, ReadError> {
        self.0.salvage(partition, account).await
    }

    /// Replaces all blocks of an account by new ones, in a flush of its partition; tables that cannot be opened are given
    /// up by it. The account must not be open, and nobody may open it until this returns.
    pub async fn rebuild(
        &self,
        partition: PartitionId,
        account: &AccountId,
        remake: &Remake<'_>,
    ) -> Result<(), std::io::Error> {
        let cut = Cut { account, remake };
        self.0.flush_rebuilt(partition, &cut).await.map_err(std::io::Error::other)
    }

    /// The bodies that are labelled as an account's own, one after the other: those that are committed now and stay.
    pub fn scan(&self, partition: PartitionId, account: &AccountId) -> Scan {
        let (objects, dead) = {
            let partition = self.0.partition(partition).borrow();
            let mut objects = objects_of(&partition, |body| !body.dead);
            objects.retain(|object| !partition.retiring.contains_key(object));
            (objects, dead_of(&partition, account))
        };
        Scan::new(self.0.clone(), partition, account.clone(), objects, dead)
    }

    /// No compaction of this shard runs while this is held: what is found stays where it is.
    pub async fn hold_compaction(&self) -> Permit {
        self.0.compacting.acquire(1).await
    }
}

/// The objects in which bodies of a partition stand; of unflushed ones only those that are wanted.
fn objects_of(partition: &Partition, wanted: impl Fn(&UnflushedBody) -> bool) -> BTreeSet<ObjectId> {
    let mut objects: BTreeSet<ObjectId> =
        partition.manifest.iter().flat_map(|manifest| manifest.bodies.keys().copied()).collect();
    let records = partition.unflushed.values().flatten();
    let bodies = records.flat_map(|record| record.bodies.iter()).filter(|body| wanted(body));
    objects.extend(bodies.map(|body| body.place.object));
    objects.retain(|object| !partition.missing.contains(object));
    objects
}

/// Unflushed bodies of an account that no message names any more: their objects may go with the next flush.
fn dead_of(partition: &Partition, account: &AccountId) -> BTreeSet<Place> {
    let records = partition.unflushed.get(account).into_iter().flatten();
    let bodies = records.flat_map(|record| record.bodies.iter());
    bodies.filter(|body| body.dead).map(|body| body.place).collect()
}

impl Inner {
    /// As [`Storage::salvage`].
    async fn salvage(&self, id: PartitionId, account: &AccountId) -> Result<Salvaged, ReadError> {
        let tables = self.tables(id).await?;
        let mut salvaged = Salvaged::default();
        {
            let partition = self.partition(id).borrow();
            for object in &partition.missing {
                salvaged.findings.push(Finding::new(&self.objects.name(id, *object), 0, "missing"));
            }
        }
        let found = salvage_account(&tables, account.as_str(), &mut salvaged.findings).await?;
        (salvaged.position, salvaged.certain, salvaged.keys) = (found.position, found.certain, found.keys);
        {
            let partition = self.partition(id).borrow();
            salvaged.gaps = partition.gaps_after(salvaged.position);
            let before = partition.gaps.len() - salvaged.gaps.len();
            let told = partition.gaps[..before].iter();
            let told = told.map(|gap| (Guid(gap.of.0), partition.merged.contains(&gap.epoch)));
            salvaged.gaps_before = told.collect();
        }
        // Records that commit while these are read come behind them; the last look finds none and does not await.
        let mut after = salvaged.position;
        loop {
            let wanted: Vec<Unflushed> = {
                let partition = self.partition(id).borrow();
                let records = partition.unflushed.get(account).into_iter().flatten();
                records.filter(|record| record.position > after).cloned().collect()
            };
            let Some(last) = wanted.last() else {
                let partition = self.partition(id).borrow();
                salvaged.objects = objects_of(&partition, |_| true);
                salvaged.retiring = partition.retiring.keys().copied().collect();
                salvaged.dead = dead_of(&partition, account);
                return Ok(salvaged);
            };
            after = last.position;
            for record in &wanted {
                match self.read_record(id, account, record).await {
                    Ok((meta, bodies)) => {
                        salvaged.records.push(LoadedRecord { position: record.position, meta, bodies });
                    }
                    Err(error) if error.is_loss() => {
                        salvaged.findings.push(Finding::of(error));
                        salvaged.unreadable.push(record.position);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// The new blocks of an account, with the cut below which nothing counts.
    pub async fn rebuilt_blocks(
        self: &Rc<Self>,
        id: PartitionId,
        cut: &Cut<'_, '_>,
    ) -> Result<AccountBlocks, FlushError> {
        let salvaged = self.salvage(id, cut.account).await?;
        let newest = salvaged.newest();
        let mut content = (cut.remake)(salvaged).await?;
        if content.position < newest || content.blocks.iter().any(|(_, kind, _)| *kind == BlockKind::Delta) {
            let what = "the new blocks are not whole".to_owned();
            return Err(SourceError(what).into());
        }
        content.blocks.push((CUT_KEY, BlockKind::Removed, Vec::new()));
        Ok(content)
    }
}

/// A key of a removal that only storage writes.
pub fn is_cut(key: Guid) -> bool {
    key == CUT_KEY
}
