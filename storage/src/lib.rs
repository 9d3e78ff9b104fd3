//! Storage: journal, packs, tables, manifests, flush, recovery and compaction on a local directory.
//!
//! Records, blocks and bodies are opaque octets here; this crate knows partitions, accounts, epochs and places.
//!
//! # Invariants
//! Every file but the active journal segment is immutable and never overwritten under its name. What no committed
//! record made valid does not exist: a manifest counts from the commit of its Flush record, a pack from the commit of
//! the record that names it.
//!
//! # Order
//! body pack, then the record that names it; table, then manifest, then the Flush record, then the low mark, then
//! deletion. Commits are told strictly in the order of submission on a shard.
//!
//! # Crash
//! [`Root::open`] and [`Root::recover`] read the owner chain, the retained journals and the manifests, and give every
//! partition back exactly what was committed.

mod body;
mod cache;
mod check;
mod compact;
mod dump;
mod error;
pub mod fault;
mod flush;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod journal;
mod limits;
mod manifest;
mod objects;
mod pack;
mod partition;
mod paths;
mod place;
mod rebuild;
mod recover;
mod root;
mod shared;
#[cfg(any(test, feature = "simulation"))]
pub mod simstore;
mod source;
mod storage;
pub mod store;
mod table;
mod trim;

pub use body::{Body, BodyWriter, Reader};
pub use cache::CacheStatus;
pub use check::{Finding, Inside, LookInside, Report, check};
pub use dump::{Describe, DumpError, Piece, dump};
pub use error::{CommitError, OpenError, ReadError, SourceError, SubmitError};
pub use journal::commit::{Haste, OnCommit};
pub use limits::{Limits, TABLES_MAX_SHARED};
pub use place::{ObjectId, ObjectKind, Place, Position};
pub use rebuild::{Met, Remake, Salvaged, SalvagedKey, Scan, is_cut};
pub use root::{Root, Share};
pub use shared::gc::{Found, GcError};
pub use shared::holding::Standing;
pub use shared::journal::{NUMBERS_MAX, Unsent, Windows};
pub use shared::node::{Ack, Late, Node, NodeConfig, NodeShare};
pub use shared::seal::SealError;
pub use source::{AccountBlocks, BlockKind, LateRecord, LocalFuture, Merged, Source};
pub use storage::{Committed, Loaded, LoadedRecord, Status, Storage, Together};
pub use table::Block;
