//! When the accounts of a shard were last logged in to, for LOGIN-DELAY (RFC 2449 §6.5).
//!
//! # Limits
//! [`LOGINS_MAX`]: where more accounts than that log in within the delay, those beyond need not wait.

use culver_model::AccountId;
use culver_shard::time::{self, Instant};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// Accounts whose last login is known.
const LOGINS_MAX: usize = 100_000;

/// The last logins.
#[derive(Default)]
pub struct Logins(RefCell<HashMap<AccountId, Instant>>);

impl Logins {
    /// Notes a login; `false` where the last one is less than `delay` ago, and then that one stays the last.
    pub fn admit(&self, account: &AccountId, delay: Duration) -> bool {
        let mut logins = self.0.borrow_mut();
        if logins.get(account).is_some_and(|last| last.elapsed() < delay) {
            return false;
        }
        if logins.len() >= LOGINS_MAX {
            logins.retain(|_, last| last.elapsed() < delay);
        }
        if logins.len() < LOGINS_MAX {
            logins.insert(account.clone(), time::now());
        }
        true
    }
}
