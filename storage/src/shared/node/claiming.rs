//! What the agent sees of others, and what it claims.
//!
//! # Invariants
//! One claim for an epoch of a partition in an incarnation (H13). Who owns a partition and gives signs of life keeps it.
//!
//! # Cost
//! A look at a partition is one GET where its owner has not changed; one at a journal a few GETs of objects' heads.

use std::collections::BTreeSet;
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::{random, sync, time};

use super::{Inner, PATIENCE, State, Tail};
use crate::fault::{self, Fault};
use crate::shared::format::{Base, Content, Incarnation, ObjectHead, PartitionOwner};
use crate::shared::keys;
use crate::shared::seal::{SealError, newest_low};
use crate::shared::takeover::newest_owner;
use crate::source::LocalFuture;
use crate::store::StoreError;

/// Octets of a journal object's beginning that tell what it is.
const HEAD_OCTETS: u64 = 4096;

impl Inner {
    /// Takes up again what was damaged, after a while: somebody may have restored it.
    pub(super) fn retry_damaged(&self, after: Duration) {
        let mut state = self.state.borrow_mut();
        let due = |(_, since): &(PartitionOwner, time::Instant)| since.elapsed() >= after;
        let again: Vec<PartitionId> =
            state.damaged.iter().filter(|(_, one)| due(one)).map(|(id, _)| *id).collect();
        for id in again {
            if let Some((claim, _)) = state.damaged.remove(&id) {
                state.pending.push(claim);
            }
        }
    }

    /// Something of a claimed partition is damaged or missing, unless a later owner has tidied it up.
    pub(super) async fn note_damaged(&self, claim: PartitionOwner, error: SealError) {
        let id = claim.partition;
        let later = match self.look_at_owner(id).await {
            Ok(()) => self.state.borrow().owners.get(&id).is_some_and(|owner| owner.epoch > claim.epoch),
            Err(_) => false,
        };
        if !later {
            tracing::error!(partition = %id, %error, "this partition cannot be served: a person must look");
            self.state.borrow_mut().damaged.insert(id, (claim, time::now()));
        }
    }

    /// Claims what nobody has, and what belongs to a node that has ended or is taken for dead.
    pub(super) async fn claim_free(&self) -> Result<(), SealError> {
        let others: Vec<PartitionId> = {
            let state = self.state.borrow();
            let pending = |id: &PartitionId| state.pending.iter().any(|claim| claim.partition == *id);
            let known = |id: &PartitionId| state.held.contains_key(id) || state.damaged.contains_key(id);
            self.partitions().filter(|id| !known(id) && !pending(id)).collect()
        };
        self.look_at_owners(others.iter().copied().filter(|id| !self.state.borrow().owners.contains_key(id)))
            .await?;
        let incarnations: BTreeSet<Incarnation> = {
            let state = self.state.borrow();
            let known = others.iter().filter_map(|id| state.owners.get(id));
            known.map(|owner| owner.incarnation).filter(|of| !self.is_own(&state, *of)).collect()
        };
        for incarnation in incarnations {
            self.look_at_tail(incarnation).await?;
        }
        let free = |id: &PartitionId| self.is_free(&self.state.borrow(), *id);
        let wanted: Vec<PartitionId> = others.into_iter().filter(free).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // Two nodes that see the same thing at the same time need not both ask for all of it.
        time::sleep(Duration::from_millis(random::below(200))).await;
        self.look_at_owners(wanted.iter().copied()).await?;
        let wanted = wanted.into_iter().filter(free).collect();
        self.claim_all(wanted).await
    }

    pub(super) async fn look_at_owners(
        &self,
        ids: impl Iterator<Item = PartitionId>,
    ) -> Result<(), SealError> {
        let looks = ids.map(|id| {
            let look: LocalFuture<'_, _> = Box::pin(self.look_at_owner(id));
            look
        });
        sync::all(looks.collect()).await.into_iter().collect()
    }

    pub(super) async fn claim_all(&self, ids: Vec<PartitionId>) -> Result<(), SealError> {
        if self.stopping.get() || self.journal.borrow().has_ended() {
            return Ok(());
        }
        let claims = ids.into_iter().map(|id| {
            let claim: LocalFuture<'_, _> = Box::pin(self.claim(id));
            claim
        });
        sync::all(claims.collect()).await.into_iter().collect()
    }

    /// This directory's incarnations have ended, but for the one that runs.
    pub(super) fn is_own(&self, state: &State, incarnation: Incarnation) -> bool {
        state.own.contains(&incarnation) || incarnation == self.journal.borrow().incarnation()
    }

    /// Whether nobody has a partition, or its owner has ended or is taken for dead.
    fn is_free(&self, state: &State, id: PartitionId) -> bool {
        let Some(owner) = state.owners.get(&id) else { return true };
        if self.is_own(state, owner.incarnation) {
            return true;
        }
        let dead = |tail: &Tail| tail.ended || tail.moved.elapsed() > self.config.lease;
        state.tails.get(&owner.incarnation).is_some_and(dead)
    }

    /// Finds the newest owner of a partition.
    pub(super) async fn look_at_owner(&self, id: PartitionId) -> Result<(), SealError> {
        let known = self.state.borrow().owners.get(&id).map_or(0, |owner| owner.epoch);
        if let Some(owner) = newest_owner(&self.store, id, known, PATIENCE).await? {
            self.state.borrow_mut().owners.insert(id, owner);
        }
        Ok(())
    }

    /// Whether another node's journal has grown, once in a look.
    async fn look_at_tail(&self, incarnation: Incarnation) -> Result<(), SealError> {
        let (from, pace) = match self.state.borrow().tails.get(&incarnation) {
            Some(tail) if tail.ended || tail.looked.elapsed() < self.config.look / 2 => return Ok(()),
            Some(tail) => (tail.next, tail.pace),
            None => (0, 1),
        };
        let first = !self.state.borrow().tails.contains_key(&incarnation);
        let from = match first {
            true => newest_low(&self.store, incarnation, 0, PATIENCE).await?.0,
            false => from,
        };
        let (next, ended) = self.end_of(incarnation, from, pace).await?;
        let now = time::now();
        let mut state = self.state.borrow_mut();
        let tail =
            state.tails.entry(incarnation).or_insert(Tail { next, pace: 1, moved: now, looked: now, ended });
        let moved = next > tail.next;
        if moved {
            tail.pace = next - tail.next;
            tail.moved = now;
        }
        (tail.next, tail.looked, tail.ended) = (next, now, ended);
        // An earlier life of this node, whose directory is gone, writes nothing any more.
        let named =
            |owner: &PartitionOwner| owner.incarnation == incarnation && owner.name == self.config.name;
        if moved && state.owners.values().any(named) && state.namesakes.insert(incarnation) {
            tracing::error!(
                name = self.config.name, journal = %incarnation,
                "another node of this name is at work on this store: give each a name of its own"
            );
        }
        Ok(())
    }

    /// The first number from `from` on that a journal does not have, and whether it is sealed there.
    async fn end_of(&self, incarnation: Incarnation, from: u64, pace: u64) -> Result<(u64, bool), SealError> {
        // A gallop by what it grew the last time, then halving.
        let (mut low, mut step) = (from, pace.max(1));
        let mut high = loop {
            let at = low + step - 1;
            match self.there(incarnation, at).await? {
                There::Records => (low, step) = (at + 1, step * 2),
                There::Seal => return Ok((at, true)),
                There::Nothing => break at,
            }
        };
        while high > low {
            let middle = low + (high - low) / 2;
            match self.there(incarnation, middle).await? {
                There::Records => low = middle + 1,
                There::Seal => return Ok((middle, true)),
                There::Nothing => high = middle,
            }
        }
        Ok((low, false))
    }

    async fn there(&self, incarnation: Incarnation, seq: u64) -> Result<There, SealError> {
        let key = keys::journal(incarnation, seq);
        match self.store.get(&key, Some(0..HEAD_OCTETS), PATIENCE, None).await {
            Ok(bytes) => Ok(match ObjectHead::parse(&bytes).map(|head| head.content) {
                Ok(Content::Seal(_)) => There::Seal,
                // What is longer than its head does not add up here.
                _ => There::Records,
            }),
            Err(StoreError::NotFound(_)) => Ok(There::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Claims the next epoch of a partition.
    pub(in crate::shared) async fn claim(&self, id: PartitionId) -> Result<(), SealError> {
        let (epoch, base) = {
            let mut state = self.state.borrow_mut();
            let (epoch, base) = match state.owners.get(&id) {
                None => (0, Base::Empty),
                Some(owner) => (owner.epoch + 1, Base::Pending),
            };
            // H13: one claim for an epoch in an incarnation.
            let claimed = state.claimed.get(&id).is_some_and(|claimed| *claimed >= epoch);
            if claimed && !fault::on(Fault::ClaimRepeats) {
                return Ok(());
            }
            state.claimed.insert(id, epoch);
            (epoch, base)
        };
        match self.taker().claim(id, epoch, base).await? {
            Some(claim) => {
                let mut state = self.state.borrow_mut();
                state.owners.insert(id, claim.clone());
                state.pending.push(claim);
                Ok(())
            }
            None => self.look_at_owner(id).await,
        }
    }
}

enum There {
    Records,
    Seal,
    Nothing,
}
