//! Who may log in, and with what attributes.
//!
//! The way of a login: [`Directory::check`] looks the name up and gives a [`Check`]; the [`AuthCache`] on the name's
//! home shard may know the password; if not, [`Check::run`] hashes on the annex; [`Penalty`] on the address's home
//! shard says how long a failure is held back. A [`Directory`] is a value: reloading makes a new one and swaps it.

pub mod cache;
pub mod connections;
pub mod directory;
pub mod home;
pub mod passwd;
pub mod penalty;
pub mod quota;
pub mod scheme;
mod secret;
mod table;
pub mod token;

pub use cache::{AuthCache, CacheLimits, Cached};
pub use connections::{Counters, TooMany};
pub use directory::{Check, Directory, Duplicate, Entry, Network, Outcome, ScramCheck, User};
pub use home::{AddressKey, home};
pub use passwd::{Mistake, PasswdFile};
pub use penalty::{Penalty, PenaltyLimits};
pub use quota::QuotaFields;
pub use scheme::{Scheme, SchemeError, ScramHash, ScramKeys, ScramSalts, Stored, hash, verify};
pub use secret::Secret;
pub use token::{Jwks, TokenCache, TokenCacheLimits, TokenRules, Vouched};
