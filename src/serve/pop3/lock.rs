//! The maildrop lock (`pop3.lock`): one session an account, on the account's own shard.
//!
//! # Invariants
//! A hold ends when it is dropped, so with its session, however that ends. A holder from which nothing was heard for
//! `pop3.lock_silence` yields to the next login: its connection is dead, or as good as.
//!
//! # RFC
//! 1939 §4 (exclusive access), 2449 §8.1.1 (IN-USE).

use culver_model::AccountId;
use culver_shard as shard;
use culver_shard::sync::Notify;
use culver_shard::time::{self, Instant};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The holds of this shard: one for each POP3 session at most.
#[derive(Default)]
struct Locks(RefCell<BTreeMap<AccountId, Rc<Holder>>>);

struct Holder {
    heard: Cell<Instant>,
    lost: Cell<bool>,
    changed: Notify,
}

/// A session's hold on a maildrop.
pub struct Hold {
    locks: Rc<Locks>,
    account: AccountId,
    holder: Rc<Holder>,
}

impl Hold {
    /// `None`: another session holds it, from which something was heard within `silence_max`.
    pub fn take(account: &AccountId, silence_max: Duration) -> Option<Hold> {
        let locks = shard::local::<Locks>().unwrap_or_else(|| {
            let locks = Rc::new(Locks::default());
            shard::set_local(locks.clone());
            locks
        });
        locks.take(account, silence_max, time::now())
    }

    /// Something was heard of the client.
    pub fn touch(&self) {
        self.holder.heard.set(time::now());
    }

    /// The maildrop went to another session.
    pub fn is_lost(&self) -> bool {
        self.holder.lost.get()
    }

    /// Ready once the maildrop went to another session.
    pub async fn lost(&self) {
        loop {
            let seen = self.holder.changed.version();
            if self.is_lost() {
                return;
            }
            self.holder.changed.changed_since(seen).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut locks = self.locks.0.borrow_mut();
        if locks.get(&self.account).is_some_and(|holder| Rc::ptr_eq(holder, &self.holder)) {
            locks.remove(&self.account);
        }
    }
}

impl Locks {
    fn take(self: &Rc<Self>, account: &AccountId, silence_max: Duration, now: Instant) -> Option<Hold> {
        let holder =
            Rc::new(Holder { heard: Cell::new(now), lost: Cell::new(false), changed: Notify::new() });
        let mut locks = self.0.borrow_mut();
        if let Some(before) = locks.get(account) {
            if now - before.heard.get() < silence_max {
                return None;
            }
            before.lost.set(true);
            before.changed.notify_all();
        }
        locks.insert(account.clone(), holder.clone());
        Some(Hold { locks: self.clone(), account: account.clone(), holder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(60);

    #[test]
    fn a_hold_is_alone_until_it_ends_or_falls_silent() {
        let locks = Rc::new(Locks::default());
        let account = |name: &str| AccountId::parse(name).expect("an account");
        let (alice, bob) = (account("alice@example.test"), account("bob@example.test"));
        let begin = Instant(0);
        let first = locks.take(&alice, SILENCE_MAX, begin).expect("free");
        assert!(locks.take(&alice, SILENCE_MAX, begin + (SILENCE_MAX - Duration::from_nanos(1))).is_none());
        assert!(locks.take(&bob, SILENCE_MAX, begin).is_some());

        let second = locks.take(&alice, SILENCE_MAX, begin + SILENCE_MAX).expect("the first is silent");
        assert!(first.is_lost() && !second.is_lost());
        drop(first);
        assert!(
            locks.take(&alice, SILENCE_MAX, begin + SILENCE_MAX).is_none(),
            "the end of a lost hold frees nothing"
        );
        drop(second);
        assert!(locks.take(&alice, SILENCE_MAX, begin + SILENCE_MAX).is_some());
        assert!(locks.0.borrow().is_empty());
    }
}
