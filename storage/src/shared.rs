//! A store that several nodes share: who owns a partition, where changes are committed, and how a successor finds them.
//!
//! The rules R1 to R12 and the holes H1 to H14 that comments name are those of `docs/protocol.md`.

pub(crate) mod format;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod seal;
