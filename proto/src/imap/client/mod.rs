//! The client's end: commands written ([`write`]) and responses read ([`Reader`]), without I/O.
//!
//! For tests, the relay to another node, and migration from another server: liberal in what it reads.
//!
//! # Limits
//! A response with its literals is at most [`Reader::new`]'s `octets_max` long and is parsed where it lies.

mod fetch;
mod read;
pub mod write;

pub use fetch::FetchValue;
pub use read::{CodeText, EntryValue, EsearchData, ListData, ReadError, Reader, Response};
