//! The domain: what can be done to an account on its owner shard.
//!
//! Records ([`record`]) are commands to an account; [`State`] carries them out; [`Accounts`] brings both through the
//! journal. A session looks at a mailbox through its [`View`].

pub mod accounts;
pub mod arriving;
mod digest;
mod dump;
pub mod fault;
mod flush;
mod inside;
mod late;
pub mod list;
pub mod quota;
pub mod rebuild;
pub mod record;
pub mod search;
pub mod sort;
pub mod state;
mod steps;
pub mod thread;
pub mod view;

pub use accounts::{Account, Accounts, ChangeError, Late, Limits, OpenError, Session, Watch};
pub use arriving::{ArriveError, Arriving};
pub use dump::describe;
pub use inside::inside;
pub use rebuild::{Progress, RebuildError, Rebuilt};
pub use state::{Applied, Refusal, State, everything};
pub use view::{Changes, View};
