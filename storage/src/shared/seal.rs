//! Sealing a journal, and reading what stands before its seal (R5).
//!
//! # Invariants
//! A seal counts only where no low mark stands above it, as one looks that begins after the seal is known to be there (H2).
//! Any number of nodes may seal one journal at a time. Seals and low marks are never removed.

use culver_shard::{random, yield_if_needed};

use super::ahead::Ahead;
use super::format::{Content, Incarnation, ObjectHead, SharedLow};
use super::keys;
use crate::fault::{self, Fault};
use crate::store::{Created, Octets, Patience, Store, StoreError};

/// Takes an object of a journal: its head, and all of its octets.
pub(crate) type Visit<'a> = dyn FnMut(&ObjectHead, &[u8]) -> Result<(), SealError> + 'a;

/// What cannot be read of a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A person acts.
    #[error("{key}: {what}; restore this object from a backup of the store")]
    Damaged { key: String, what: String },
    /// A person acts: what this machine has acknowledged and the store does not have.
    #[error("{path}: {what}; it was acknowledged to clients and is nowhere else")]
    Tail { path: String, what: String },
}

/// The newest low mark: what it says (0 where there is none), and the number of the next one. `from`: a number that is known
/// to be there or to come.
pub(crate) async fn newest_low(
    store: &Store,
    incarnation: Incarnation,
    from: u64,
    patience: Patience,
) -> Result<(u64, u64), SealError> {
    let look = |k: u64| async move {
        match store.get(&keys::low(incarnation, k), None, patience, None).await {
            Ok(bytes) => match SharedLow::parse(&bytes) {
                Ok(low) if low.incarnation == incarnation => Ok(Some(low.first)),
                Ok(_) => Err(damaged(keys::low(incarnation, k), "it belongs to another journal")),
                Err(what) => Err(damaged(keys::low(incarnation, k), &what)),
            },
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    // The marks have no gap: gallop to one that is missing, then halve.
    let (mut there, mut value) = (None, 0);
    let (mut step, mut at) = (1, from);
    let missing = loop {
        match look(at).await? {
            Some(first) => {
                (there, value) = (Some(at), first);
                at += step;
                step *= 2;
            }
            None => break at,
        }
    };
    let Some(mut there) = there else {
        // Nothing from there on: below it the caller knows.
        return match from {
            0 => Ok((0, 0)),
            from => Box::pin(newest_low(store, incarnation, 0, patience)).await.map(|(value, next)| {
                debug_assert!(next <= from, "low marks have no gap");
                (value, next)
            }),
        };
    };
    let mut missing = missing;
    while missing - there > 1 {
        let middle = there + (missing - there) / 2;
        match look(middle).await? {
            Some(first) => (there, value) = (middle, first),
            None => missing = middle,
        }
    }
    Ok((value, there + 1))
}

/// Gives every object of a journal that still counts to `visit`, in order, and seals it behind the last one. Where it is
/// sealed. An object may be given that a low mark has passed meanwhile: its records are superseded by later ones.
pub(crate) async fn seal(
    store: &Store,
    incarnation: Incarnation,
    store_id: [u8; 16],
    by: &str,
    patience: Patience,
    visit: &mut Visit<'_>,
) -> Result<u64, SealError> {
    let (mut pos, mut k) = newest_low(store, incarnation, 0, patience).await?;
    loop {
        let (seq, found) = read(store, incarnation, pos, patience, visit).await?;
        if !found {
            // Not needed for safety, but a useless seal is saved where the writer has trimmed meanwhile.
            let (low, next) = newest_low(store, incarnation, k.saturating_sub(1), patience).await?;
            k = next;
            if low > seq {
                pos = low;
                continue;
            }
            let mut nonce = [0; 16];
            random::fill(&mut nonce);
            let seal = ObjectHead {
                incarnation,
                seq,
                store: store_id,
                nonce,
                content: Content::Seal(by.to_owned()),
            };
            let octets = Octets::from(seal.encode());
            match store.create(&keys::journal(incarnation, seq), &octets, patience).await? {
                Created::Mine => {}
                Created::Foreign(bytes) => match object(&bytes, incarnation, seq)? {
                    ObjectHead { content: Content::Seal(_), .. } => {}
                    head => {
                        visit(&head, &bytes)?;
                        pos = seq + 1;
                        continue;
                    }
                },
            }
        }
        // H2: this look begins after the seal is known to be there.
        let (low, next) = newest_low(store, incarnation, k.saturating_sub(1), patience).await?;
        k = next;
        if low <= seq || fault::on(Fault::LowBeforeSealOnly) {
            return Ok(seq);
        }
        // It stands in a place that was trimmed, and is void.
        pos = low;
    }
}

/// Gives the objects of a journal from a number on to `visit`, in order, up to its first gap or seal: the number of that, and
/// whether it is a seal.
pub(super) async fn read(
    store: &Store,
    incarnation: Incarnation,
    from: u64,
    patience: Patience,
    visit: &mut Visit<'_>,
) -> Result<(u64, bool), SealError> {
    let mut ahead = Ahead::new(store, incarnation, from, patience);
    loop {
        let (seq, found) = ahead.next().await;
        let bytes = match found {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound(_)) => return Ok((seq, false)),
            Err(error) => return Err(error.into()),
        };
        match object(&bytes, incarnation, seq)? {
            ObjectHead { content: Content::Seal(_), .. } => return Ok((seq, true)),
            head => visit(&head, &bytes)?,
        }
        yield_if_needed().await;
    }
}

fn object(bytes: &[u8], incarnation: Incarnation, seq: u64) -> Result<ObjectHead, SealError> {
    let key = || keys::journal(incarnation, seq);
    let head = ObjectHead::parse(bytes).map_err(|what| damaged(key(), &what))?;
    match (head.incarnation, head.seq) == (incarnation, seq) {
        true => Ok(head),
        false => Err(damaged(key(), "it stood elsewhere")),
    }
}

fn damaged(key: String, what: &str) -> SealError {
    SealError::Damaged { key, what: what.to_owned() }
}
