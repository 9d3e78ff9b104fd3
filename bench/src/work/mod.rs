//! The kinds of work: what each client does, and what is counted.

pub mod append;
pub mod fill;
pub mod idle;
pub mod imap;
pub mod interfere;
pub mod lmtp;
pub mod login;
pub mod mixed;
pub mod notify;
pub mod pop3;

use std::rc::Rc;

use anyhow::Result;

use crate::bench::Bench;
use crate::users::{Account, UserOptions, accounts};
use crate::wire::{Target, TargetOptions};

/// Of a receive buffer, where answers are short or read past.
const BUFFER_OCTETS: usize = 32 * 1024;

/// What clients of a run share.
pub struct Place {
    pub target: Target,
    pub accounts: Vec<Account>,
}

impl Place {
    pub fn new(bench: &Bench, target: &TargetOptions, users: &UserOptions) -> Result<Rc<Place>> {
        let target = Target::new(target, bench.run.connections(), BUFFER_OCTETS)?;
        Ok(Rc::new(Place { target, accounts: accounts(users)? }))
    }

    /// Users are spread over connections.
    pub fn account(&self, n: usize) -> &Account {
        &self.accounts[n % self.accounts.len()]
    }
}
