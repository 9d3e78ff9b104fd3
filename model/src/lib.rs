//! The nouns of mail: identifiers, flags, names, sets, dates, messages and their MIME structure.
//!
//! No `async`, no I/O, no clock: every function here is a value to a value.

pub mod account;
pub mod annotation;
pub mod date;
pub mod flag;
pub mod id;
pub mod mime;
pub mod name;
pub mod quota;
pub mod search;
pub mod seq;
pub mod text;

pub use account::{AccountError, AccountId};
pub use annotation::{EntryName, EntryNameError};
pub use date::{Date, InternalDate};
pub use flag::{Flag, FlagSet, Keyword, SystemFlag};
pub use id::{DeliveryId, Guid, ModSeq, PartitionId, Uid, UidValidity};
pub use mime::{Section, SectionText};
pub use name::{ListPattern, MailboxName, NameError};
pub use quota::{Quota, Usage};
pub use search::SearchKey;
pub use seq::{SequenceSet, UidSet};
