//! The search for orphans: objects that nothing names, and named objects that are not there.
//!
//! # Invariants
//! Only the owner of a partition looks, and only objects of epochs before its own are taken for orphans (R10): those of its
//! own are written and deleted by this very process, and whoever wrote earlier ones has lost the partition. What
//! names an object of an earlier epoch (the manifest, the claim's base, an unflushed record) was there when this epoch began, so
//! that the names only become fewer: what was not named before the listing began is not named after it.
//! Of journals only objects below a low mark are deleted, which R4 allows to anybody.
//!
//! # Limits
//! [`NAMED_MAX`] orphans and missing objects are told by name, all are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::{local, mesh, yield_if_needed};

use super::format::Incarnation;
use super::holding::Standing;
use super::keys;
use super::node::Node;
use super::seal::{SealError, newest_low};
use crate::fault::{self, Fault};
use crate::partition::{Partition, Serving};
use crate::place::ObjectId;
use crate::storage::Storage;
use crate::store::{Patience, Store, StoreError};

/// Objects that are told by name, of each kind.
const NAMED_MAX: usize = 1000;
/// How long each request is tried.
const PATIENCE: Patience =
    Patience { within: Duration::from_secs(60), urgency: crate::store::Urgency::Background };

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Objects that were listed, and their octets.
    pub objects: u64,
    pub octets: u64,
    /// Objects that something names, each of which was seen to be there or is counted as missing.
    pub named: u64,
    /// Objects of this node's own epochs that nothing names yet or any more: they are being written, or deleted.
    pub in_work: u64,
    pub orphans: u64,
    pub orphan_octets: u64,
    pub orphan_keys: Vec<String>,
    pub missing: u64,
    pub missing_keys: Vec<String>,
}

impl Found {
    fn orphan(&mut self, key: &str, octets: u64) {
        self.orphans += 1;
        self.orphan_octets += octets;
        if self.orphan_keys.len() < NAMED_MAX {
            self.orphan_keys.push(key.to_owned());
        }
    }

    fn miss(&mut self, key: String) {
        self.missing += 1;
        if self.missing_keys.len() < NAMED_MAX {
            self.missing_keys.push(key);
        }
    }

    /// Both.
    pub fn add(&mut self, other: Found) {
        self.objects += other.objects;
        self.octets += other.octets;
        self.named += other.named;
        self.in_work += other.in_work;
        self.orphans += other.orphans;
        self.orphan_octets += other.orphan_octets;
        self.missing += other.missing;
        self.orphan_keys.extend(other.orphan_keys);
        self.orphan_keys.truncate(NAMED_MAX);
        self.missing_keys.extend(other.missing_keys);
        self.missing_keys.truncate(NAMED_MAX);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GcError {
    #[error(
        "this store cannot list its objects, so that orphans cannot be found; they cost space and nothing else"
    )]
    NoListing,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the low mark of a journal cannot be read: {0}")]
    Mark(#[from] SealError),
    #[error("another search is under way; try again when it is done")]
    Busy,
    #[error("the store does not answer")]
    Stale,
    #[error("the node is stopping")]
    Stopping,
}

impl Node {
    /// Looks through one partition; `None` where this node does not have it: its owner looks after it. `remove`: what is an
    /// orphan is deleted.
    pub async fn collect(&self, id: PartitionId, remove: bool) -> Result<Option<Found>, GcError> {
        if !self.store().lists() {
            return Err(GcError::NoListing);
        }
        let _alone = self.searching().try_acquire(1).ok_or(GcError::Busy)?;
        let looked = mesh::call(self.shard_of(id), move || async move {
            match local::<Storage>() {
                Some(storage) => storage.collect(id, remove).await,
                None => Err(GcError::Stopping),
            }
        });
        looked.await.map_err(|_| GcError::Stopping)?
    }

    /// Looks through the journals of all nodes.
    pub async fn collect_journals(&self, remove: bool) -> Result<Found, GcError> {
        if !self.store().lists() {
            return Err(GcError::NoListing);
        }
        let _alone = self.searching().try_acquire(1).ok_or(GcError::Busy)?;
        journals(self.store(), remove).await
    }
}

impl Storage {
    /// Looks through one partition; `None` where it is not ours (any more).
    pub(crate) async fn collect(&self, id: PartitionId, remove: bool) -> Result<Option<Found>, GcError> {
        let Some(stored) = self.0.objects.stored() else { return Ok(None) };
        let names = || {
            let partition = self.0.partition(id).borrow();
            (partition.serving == Serving::Open).then(|| (partition.term, partition.epoch, named(&partition)))
        };
        // Of one moment: what is merged while the search goes on is in no names that were read before.
        let waiting = self.0.partition(id).borrow().waiting();
        let Some((term, own, before)) = names() else { return Ok(None) };
        let awaits = |epoch: u32| match fault::on(Fault::OrphansAwaited) {
            true => self.0.partition(id).borrow().waiting().awaits(epoch),
            false => waiting.awaits(epoch),
        };
        let mut found = Found::default();
        let mut there = BTreeSet::new();
        let mut orphans = Vec::new();
        let prefix = format!("data/{id}/");
        let mut after = String::new();
        loop {
            let listed = stored.store().list(&prefix, &after, PATIENCE).await?;
            for (key, octets) in &listed.objects {
                (found.objects, found.octets) = (found.objects + 1, found.octets + octets);
                // What this program did not name it does not judge.
                let Some(object) = keys::parse_data(id, key) else { continue };
                there.insert(object);
                match () {
                    () if before.contains(&object) => {}
                    // Begun when the partition was just lost: no owner has this epoch, and nothing names it ever.
                    () if object.epoch == u32::MAX => orphans.push((key.clone(), *octets)),
                    // A record that has not come yet may name it.
                    () if object.epoch < own && awaits(object.epoch) => found.in_work += 1,
                    () if object.epoch < own => orphans.push((key.clone(), *octets)),
                    () if object.epoch > own && fault::on(Fault::OrphansOfLaterEpochs) => {
                        orphans.push((key.clone(), *octets));
                    }
                    // A later epoch: this node has lost the partition and will learn of it.
                    () if object.epoch > own => return Ok(None),
                    () => found.in_work += 1,
                }
            }
            match listed.objects.last() {
                Some((last, _)) if listed.more => after.clone_from(last),
                _ => break,
            }
            yield_if_needed().await;
        }
        found.named = before.len() as u64;
        for object in before.iter().filter(|object| !there.contains(object)) {
            let Some(key) = stored.key(id, *object) else { continue };
            match stored.store().head(&key, PATIENCE).await {
                Ok(_) => {}
                Err(StoreError::NotFound(_)) => match names() {
                    Some((now, _, names)) if now == term => {
                        if names.contains(object) {
                            found.miss(key);
                        }
                    }
                    _ => return Ok(None),
                },
                Err(error) => return Err(error.into()),
            }
        }
        // A proof of now: nobody else had the partition when the names were read.
        let ours = || self.serves(id) && self.term_of(id).1 == term;
        if !ours() {
            return if self.standing(id) == Standing::Stale { Err(GcError::Stale) } else { Ok(None) };
        }
        orphans.iter().for_each(|(key, octets)| found.orphan(key, *octets));
        if remove {
            let gone: Vec<String> = orphans.into_iter().map(|(key, _)| key).collect();
            for some in gone.chunks(NAMED_MAX) {
                if !ours() {
                    return Ok(None);
                }
                stored.store().delete(some, PATIENCE).await?;
            }
        }
        Ok(Some(found))
    }
}

/// All objects that a partition needs.
fn named(partition: &Partition) -> BTreeSet<ObjectId> {
    let mut named: BTreeSet<ObjectId> = BTreeSet::new();
    if let Some((meta, _)) = &partition.flush {
        named.insert(meta.manifest);
    }
    if let Some(manifest) = &partition.manifest {
        named.insert(manifest.object);
        // One that was given up is not there, and nobody misses it.
        let tables = manifest.tables.iter().filter(|table| !table.is_given_up());
        named.extend(tables.map(|table| table.object));
        named.extend(manifest.bodies.keys().copied());
    }
    let records = partition.unflushed.values().flatten();
    for record in records {
        named.insert(record.segment);
        named.extend(record.bodies.iter().map(|body| body.place.object));
    }
    named
}

/// Journal objects below the low marks of their journals: they were trimmed, and their deletion did not come through.
async fn journals(store: &Store, remove: bool) -> Result<Found, GcError> {
    let mut found = Found::default();
    let mut lows: BTreeMap<Incarnation, u64> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let listed = store.list("journal/", &after, PATIENCE).await?;
        let mut gone = Vec::new();
        for (key, octets) in &listed.objects {
            (found.objects, found.octets) = (found.objects + 1, found.octets + octets);
            let Some((incarnation, seq)) = keys::parse_journal(key) else { continue };
            let low = match lows.get(&incarnation) {
                Some(low) => *low,
                None => {
                    let (low, _) = newest_low(store, incarnation, 0, PATIENCE).await?;
                    // One journal after the other, as keys are sorted.
                    lows.clear();
                    lows.insert(incarnation, low);
                    low
                }
            };
            if seq < low {
                found.orphan(key, *octets);
                gone.push(key.clone());
            }
        }
        if remove && !gone.is_empty() {
            store.delete(&gone, PATIENCE).await?;
        }
        match listed.objects.last() {
            Some((last, _)) if listed.more => after.clone_from(last),
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_by_name_is_bounded_and_all_is_counted() {
        let mut found = Found::default();
        for number in 0..NAMED_MAX + 5 {
            found.orphan(&format!("data/1/2/0-{number}.pack"), 10);
        }
        let mut both = found.clone();
        both.add(found);
        assert_eq!(both.orphans, 2 * (NAMED_MAX as u64 + 5));
        assert_eq!(both.orphan_octets, 10 * both.orphans);
        assert_eq!(both.orphan_keys.len(), NAMED_MAX);
    }
}
