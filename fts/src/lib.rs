//! The full text index of an account: segments of words, made of messages, merged, and asked.
//!
//! Bytes in, bytes out: no I/O, no clock, no `async`, no randomness of its own.
//!
//! # How it is driven
//! The caller is the account's owner shard (`mailbox`), which holds the messages and the store.
//!
//! - **Numbers.** Each message of the account gets a *document* number when it is first indexed: 32 bits, ascending over
//!   the account, kept in the message's row and copied with it. So COPY and MOVE change nothing here, and one query
//!   answers for all mailboxes; the caller maps documents to UIDs of the mailbox at hand.
//! - **Indexing.** A background task of the shard takes messages that have no document yet, in the order of their
//!   arrival, opens each in a [`Builder`] and calls [`Reading::step`] with a budget of 64 KiB, yielding between two
//!   steps; or it sends builder and messages to the annex, for a whole import. When the builder is full, or the account
//!   is flushed, [`Builder::finish`] and [`Finish::step`] (budget 64 KiB) give a segment's bytes. One builder an
//!   account; its seed is the shard's randomness.
//!   Text that a converter makes of an attachment may be given as [`Field::Attachment`]: it is found there and
//!   nowhere else, for by `culver_model::text` a document has no text.
//! - **Storing.** A segment is immutable and goes into the account's index block: section 33 is set aside for it. With it
//!   stand its range of documents and whether its checksums were proven. What is in no segment yet is a candidate of
//!   every query.
//! - **Merging.** After each flush [`plan`] says which neighbours to merge; [`Merge::step`] does it with budgets, leaving
//!   out documents that no row has any more.
//! - **Searching.** [`Query::of`] is a search key's texts; [`search`] gives two sets: documents that match for certain, and others that may. The caller
//!   intersects both with the messages of the mailbox and with what other keys left, and verifies the second with
//!   `culver_model::text`. A query takes microseconds to a few milliseconds and runs on the shard in one go; a key below three octets
//!   walks all terms (11 ms for 456,000), and belongs on the annex. [`rank()`] orders what was found.
//! - **Damage.** A segment that [`Segment::open`] or a query refuses is replaced by [`unknown`] of its documents, which
//!   makes them candidates, until they are indexed anew. The other segments stand.
//!
//! # Invariants
//! - A message that a scan by `culver_model::text` finds is among the certain or the possible ones; one that is certain
//!   is found by a scan. (Queries of [`Mode::Substring`]; the other modes say what they find.)
//! - What is cut into words are the folded octets that the scan compares, so the two cannot drift apart. Another
//!   folding is another `format::TOKENIZER`.

pub mod builder;
pub mod check;
pub mod dump;
pub mod error;
pub mod field;
pub mod format;
pub mod forms;
mod grams;
pub mod language;
pub mod limits;
pub mod merge;
mod postings;
pub mod query;
pub mod rank;
pub mod reading;
pub mod segment;
pub mod snippet;
pub mod token;
mod writer;

pub use builder::{Builder, Finish, unknown};
pub use check::{Summary, check};
pub use dump::dump;
pub use error::FormatError;
pub use field::{Field, Fields};
pub use language::{Language, Languages};
pub use limits::Limits;
pub use merge::{Merge, plan};
pub use query::{Found, Mode, Query, search};
pub use rank::{Ranked, rank};
pub use reading::Reading;
pub use segment::Segment;
pub use snippet::{Snippet, snippet};

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    More,
    Done,
}

#[cfg(test)]
mod tests;
