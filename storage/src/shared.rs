//! A store that several nodes share: who owns a partition, where changes are committed, and how a successor finds them.
//!
//! The rules R1 to R12 and the holes H1 to H14 that comments name are those of `docs/protocol.md`.

mod ahead;
pub(crate) mod format;
pub mod gc;
pub(crate) mod holding;
pub(crate) mod journal;
pub(crate) mod keys;
pub mod node;
mod packing;
pub(crate) mod seal;
pub(crate) mod tail;
pub(crate) mod takeover;

use crate::place::{ObjectId, ObjectKind, RawObjectId};

/// A Release record's meta: the manifest that holds all of the partition; zeros where it is empty.
pub(crate) fn release_meta(manifest: Option<ObjectId>) -> Vec<u8> {
    match manifest {
        Some(id) => zerocopy::IntoBytes::as_bytes(&RawObjectId::from(id)).to_vec(),
        None => vec![0; size_of::<RawObjectId>()],
    }
}

pub(crate) fn parse_release(meta: &[u8]) -> Option<Option<ObjectId>> {
    if meta.len() == size_of::<RawObjectId>() && meta.iter().all(|octet| *octet == 0) {
        return Some(None);
    }
    let raw: RawObjectId = zerocopy::FromBytes::read_from_bytes(meta).ok()?;
    raw.get().filter(|id| id.kind == ObjectKind::Manifest).map(Some)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_ahead;
