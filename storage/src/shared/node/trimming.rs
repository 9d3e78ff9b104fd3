//! What the agent removes: records of its own journal that are flushed, and sealed journals that nobody needs.
//!
//! # Order
//! A low mark is known to be there before what it passes is deleted (R4).

use culver_model::PartitionId;
use culver_shard::{local, mesh, shards, time};

use super::{Dead, Inner, PATIENCE};
use crate::fault::{self, Fault};
use crate::shared::format::{Base, FREED, Incarnation, SharedLow};
use crate::shared::keys;
use crate::shared::seal::{SealError, newest_low};
use crate::storage::Storage;
use crate::store::{Created, Octets, Patience, StoreError};

impl Inner {
    /// Removes the records of sealed journals that nobody needs any more (R11).
    pub(super) async fn sweep(&self) -> Result<(), SealError> {
        let dead: Vec<Incarnation> = {
            let state = self.state.borrow();
            let due = |dead: &Dead| dead.looked.is_none_or(|at| at.elapsed() >= self.config.trim_after);
            state.dead.iter().filter(|(_, dead)| due(dead)).map(|(incarnation, _)| *incarnation).collect()
        };
        for incarnation in dead {
            let (sealed, owners) = {
                let mut state = self.state.borrow_mut();
                let Some(dead) = state.dead.get_mut(&incarnation) else { continue };
                dead.looked = Some(time::now());
                (dead.sealed, dead.owners.clone())
            };
            let mut needed = false;
            for (partition, epoch) in owners {
                needed = !self.is_freed(incarnation, partition, epoch).await?;
                if needed {
                    break;
                }
            }
            if needed {
                continue;
            }
            let (low, next) = newest_low(&self.store, incarnation, 0, PATIENCE).await?;
            if low < sealed {
                let mark = Octets::from(SharedLow { incarnation, first: sealed }.encode());
                // Somebody else who sweeps it says the same.
                self.store.create(&keys::low(incarnation, next), &mark, PATIENCE).await?;
                let gone: Vec<String> = (low..sealed).map(|seq| keys::journal(incarnation, seq)).collect();
                self.store.delete(&gone, Patience::background(PATIENCE.within)).await?;
            }
            self.state.borrow_mut().dead.remove(&incarnation);
        }
        Ok(())
    }

    /// Whether nobody needs a sealed journal for an epoch of a partition any more.
    async fn is_freed(&self, of: Incarnation, partition: PartitionId, epoch: u32) -> Result<bool, SealError> {
        {
            let state = self.state.borrow();
            let later = state.owners.get(&partition).filter(|owner| owner.epoch > epoch);
            // H6: a pending claim frees nothing.
            let frees = |base: Base| base.is_explicit() || fault::on(Fault::PendingFrees);
            if later.is_some_and(|owner| frees(owner.base)) || state.freed.contains(&(of, partition, epoch)) {
                return Ok(true);
            }
        }
        match self.store.head(&keys::freed(of, partition, epoch), PATIENCE).await {
            Ok(_) => {
                self.state.borrow_mut().freed.insert((of, partition, epoch));
                Ok(true)
            }
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the low mark of the own journal, deletes what it passes, and says which earlier journals are free (R4).
    pub(super) async fn trim(&self) -> Result<(), SealError> {
        let journal = self.journal.borrow().clone();
        // Looked at before the shards are asked: what is committed later is above it.
        let mut low = journal.committed();
        let mut freed = Vec::new();
        for shard in 0..shards() {
            let needed = mesh::call(shard, || async {
                match local::<Storage>() {
                    Some(storage) => storage.needed().await,
                    None => Vec::new(),
                }
            });
            let Ok(needed) = needed.await else { return Ok(()) };
            for one in needed {
                low = low.min(one.own.unwrap_or(low));
                freed.extend(one.freed.into_iter().map(|(epoch, of)| (of, one.partition, epoch)));
            }
        }
        if fault::on(Fault::TrimTooEarly) {
            low = (low + 1).min(journal.committed());
        }
        if journal.has_ended() {
            return Ok(());
        }
        let waiting = !self.state.borrow().pending.is_empty();
        for (of, partition, epoch) in freed {
            if self.state.borrow().freed.contains(&(of, partition, epoch)) {
                continue;
            }
            let octets = Octets::from(FREED.to_vec());
            self.store.put(&keys::freed(of, partition, epoch), &octets, PATIENCE).await?;
            self.state.borrow_mut().freed.insert((of, partition, epoch));
        }
        let (before, next, trimmed) = {
            let mut state = self.state.borrow_mut();
            let since = *state.trimmed.get_or_insert_with(time::now);
            (state.low, state.next_low, since)
        };
        let far = low >= before + self.config.trim_objects;
        let old = low > before && trimmed.elapsed() >= self.config.trim_after;
        if waiting || !(far || old) {
            return Ok(());
        }
        let incarnation = journal.incarnation();
        let mark = Octets::from(SharedLow { incarnation, first: low }.encode());
        match self.store.create(&keys::low(incarnation, next), &mark, PATIENCE).await? {
            Created::Mine => {}
            Created::Foreign(_) => {
                // This journal was sealed and swept; it notices at its next commit.
                self.state.borrow_mut().trimmed = Some(time::now());
                return Ok(());
            }
        }
        let gone: Vec<String> = (before..low).map(|seq| keys::journal(incarnation, seq)).collect();
        {
            let mut state = self.state.borrow_mut();
            (state.low, state.next_low, state.trimmed) = (low, next + 1, Some(time::now()));
        }
        if let Err(error) = self.store.delete(&gone, Patience::background(PATIENCE.within)).await {
            tracing::warn!(%error, "trimmed journal objects stay until `culver gc` finds them");
        }
        Ok(())
    }
}
