//! Quota: whether what comes into an account has room, decided before it is committed.
//!
//! Records know no limits: what was acknowledged stays, also where a limit is lowered later. Of an open account the state has the usage;
//! of one that is not open, what was known when it was closed or flushed, and what was delivered since. So a delivery to it reads nothing.
//!
//! # Invariants
//! What was let in and has no outcome yet counts as used: two that fit only alone do not both get in.
//!
//! # Limits
//! An account of which nothing is known (since the start, or because [`ACCOUNTS_MAX`] others were used since) is let have as much again as
//! its limit, but for what is delivered to it until then; its usage is known when it is opened, and at the next flush of its
//! partition, ten minutes after the first delivery at the latest. A change whose commit has no outcome in time is not counted while it is on its way.

use crate::accounts::{Accounts, Session};
use crate::state::{Refusal, State};
use culver_model::quota::{Fit, Quota, Usage};
use culver_model::{AccountId, PartitionId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Accounts that are not open and whose usage a shard remembers, at most. About 200 octets each.
pub const ACCOUNTS_MAX: usize = 65_536;

/// What an account may hold, as long as nothing was set for itself alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub quota: Quota,
    /// Octets by which the last message may pass the limit.
    pub grace: u64,
}

/// Room for what is under way: it counts as used while this stands.
#[derive(Debug)]
pub struct Hold {
    usages: Rc<RefCell<Usages>>,
    id: AccountId,
    adds: Usage,
    fit: Fit,
}

impl Hold {
    /// It is over the limit, and has grace.
    pub fn is_soft(&self) -> bool {
        self.fit == Fit::Grace
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut usages = self.usages.borrow_mut();
        if let Some(held) = usages.held.get_mut(&self.id) {
            *held = held.minus(self.adds);
            if *held == Usage::default() {
                usages.held.remove(&self.id);
            }
        }
    }
}

/// What is known of an account that is not open.
#[derive(Clone, Debug)]
struct Known {
    partition: PartitionId,
    /// When it was last closed or flushed, with the limits that are its own. `None`: not known.
    then: Option<(Usage, Option<Quota>)>,
    /// Came since.
    since: Usage,
}

/// The usage of accounts, as far as it is known where they are not open.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    /// Those that were used lately, and those before them, which are forgotten where there are many.
    young: BTreeMap<AccountId, Known>,
    old: BTreeMap<AccountId, Known>,
    held: BTreeMap<AccountId, Usage>,
}

impl Usages {
    fn entry(&mut self, id: &AccountId, partition: PartitionId) -> &mut Known {
        if let Some(known) = self.old.remove(id) {
            self.young.insert(id.clone(), known);
        }
        if self.young.len() >= ACCOUNTS_MAX / 2 && !self.young.contains_key(id) {
            self.old = std::mem::take(&mut self.young);
        }
        let unknown = || Known { partition, then: None, since: Usage::default() };
        self.young.entry(id.clone()).or_insert_with(unknown)
    }

    /// The account is closed, or was looked at, and holds this.
    pub fn note(&mut self, id: &AccountId, partition: PartitionId, state: &State) {
        let known = self.entry(id, partition);
        *known =
            Known { partition, then: Some((state.usage(), state.account.quota)), since: Usage::default() };
    }

    /// A message came into an account that is not open.
    pub fn add(&mut self, id: &AccountId, partition: PartitionId, octets: u64) {
        let known = self.entry(id, partition);
        known.since = known.since.plus(Usage::message(octets));
    }

    /// The account is open, or nothing that is known of it can be trusted.
    pub fn forget(&mut self, id: &AccountId) {
        self.young.remove(id);
        self.old.remove(id);
    }

    pub fn forget_partition(&mut self, partition: PartitionId) {
        self.young.retain(|_, known| known.partition != partition);
        self.old.retain(|_, known| known.partition != partition);
    }

    pub fn forget_all(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

impl Accounts {
    /// Room for what would be added to an account, open or not. The answer is final where the usage is known, and [`Refusal::PerhapsOverQuota`]
    /// where it is not.
    pub fn hold_room(&self, id: &AccountId, allowed: &Allowance, adds: Usage) -> Result<Hold, Refusal> {
        let usages = self.usages().borrow();
        let (used, quota, known) = match self.opened(id) {
            Some(open) => {
                let state = open.state();
                (state.usage(), state.account.quota, true)
            }
            None => {
                let known = usages.young.get(id).or_else(|| usages.old.get(id));
                let (then, since) = known.map_or((None, Usage::default()), |known| (known.then, known.since));
                let (used, quota) = then.unwrap_or_default();
                (used.plus(since), quota, then.is_some())
            }
        };
        let quota = quota.unwrap_or(allowed.quota);
        let under_way = usages.held.get(id).copied().unwrap_or_default();
        let fit = quota.fit(used.plus(under_way), adds, allowed.grace);
        if fit == Fit::Over {
            return Err(if known { Refusal::OverQuota } else { Refusal::PerhapsOverQuota });
        }
        drop(usages);
        let mut usages = self.usages().borrow_mut();
        let held = usages.held.entry(id.clone()).or_default();
        *held = held.plus(adds);
        drop(usages);
        Ok(Hold { usages: self.usages().clone(), id: id.clone(), adds, fit })
    }
}

impl Session {
    /// Room for what a change would add.
    pub fn hold_room(&self, allowed: &Allowance, adds: Usage) -> Result<Hold, Refusal> {
        self.accounts().hold_room(self.account().id(), allowed, adds)
    }
}
