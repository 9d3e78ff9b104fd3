//! The mailbox index: one mailbox's messages, as an immutable base read in place and a bounded overlay.
//!
//! A pure library over bytes: it does no I/O, knows no clock and holds no octet of a message's text. The same
//! calls in the same order give the same state, so that replaying a journal rebuilds what was acknowledged.
//!
//! # Invariants
//! - UIDs ascend and are never given twice; UIDNEXT and HIGHESTMODSEQ never fall.
//! - The bitmap of live UIDs decides what exists; rows of expunged messages stay hidden until the next base.
//! - What a base or a delta says is never changed in place: changes stand in pages copied from it.
//!
//! # Cost
//! Opening a base reads UIDs, flags and MODSEQs; cold rows and the heap stay untouched until a row is asked for.
//! One row is a binary search; a walk over many is a merge; neither allocates.
//!
//! # RFC
//! 3501 (UIDs, flags), 7162 (MODSEQ and the expunge log), 8438 (STATUS=SIZE), 8474 (e-mail and thread ids).

pub mod account;
pub mod annotations;
mod block;
mod check;
pub mod deliveries;
mod dump;
mod encode;
mod error;
mod flush;
mod format;
mod keyword;
mod log;
mod mailbox;
mod row;
mod rows;
#[cfg(test)]
mod tests;
mod unfinished;

pub use block::Block;
pub use check::{Summary, check};
pub use dump::{LINES_MAX, Opaque, Words, dump};
pub use encode::{Encoding, Frozen};
pub use error::{FormatError, IndexError, Limit};
pub use flush::{FlushToken, FoldToken};
pub use format::{BlockKind, PLACE_OCTETS};
pub use keyword::FlagId;
pub use mailbox::{Expunged, MailboxIndex, StoreOp, Stored};
pub use roaring::RoaringBitmap;
pub use row::{NewMessage, OwnedMessage, Row};
pub use unfinished::Unfinished;

/// Bounds of one mailbox index. `keywords_max` takes part in what a call answers, so a replay must run with
/// bounds no lower than those under which the records were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most keywords that a mailbox's table holds (default 512); above it a new keyword is refused.
    pub keywords_max: u32,
    /// Most entries of the expunge log (default 4096); the oldest are dropped and the floor rises.
    pub expunge_log_max: u32,
    /// Rows appended, moved or hidden beyond which [`MailboxIndex::begin_fold`] folds the overlay (default 16384).
    pub overlay_rows_max: u32,
}

impl Limits {
    /// Highest value of `keywords_max`: what ids and the stored table have room for.
    pub const KEYWORDS_MAX: u32 = 32_768;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { keywords_max: 512, expunge_log_max: 4096, overlay_rows_max: 16_384 }
    }
}
