//! The authentication cache: spares the hash of a password that was checked a moment ago.
//!
//! # Invariants
//! A name has one home shard, and its entry stands there only. A wrong password never pushes out the right one, and
//! names without an account are never cached, so that guessing cannot empty the cache. After a reload of the
//! directory the caller clears every cache.
//!
//! # Limits
//! [`CacheLimits`].
//!
//! # Cost
//! One HMAC-SHA-256 for a look-up, about a microsecond; about 200 octets for an entry.

use culver_model::AccountId;
use ring::hmac;

use crate::table::Table;

/// The bounds of an [`AuthCache`].
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Accounts on one shard. 20,000.
    pub entries_max: usize,
    /// How long a right password is remembered. 300,000 ms.
    pub right_ms: u64,
    /// How long the last wrong one is. 60,000 ms.
    pub wrong_ms: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits { entries_max: 20_000, right_ms: 300_000, wrong_ms: 60_000 }
    }
}

/// What the cache knows about a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    Right,
    Wrong,
    /// It must be hashed.
    Unknown,
}

/// The cache of one shard.
#[derive(Debug)]
pub struct AuthCache {
    limits: CacheLimits,
    key: hmac::Key,
    accounts: Table<AccountId, Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    right: Option<Remembered>,
    wrong: Option<Remembered>,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    digest: [u8; 32],
    until_ms: u64,
}

impl AuthCache {
    /// `key` is random and new for each process; what is in memory is then no help in guessing elsewhere.
    pub fn new(limits: CacheLimits, key: [u8; 32]) -> AuthCache {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        AuthCache { limits, key, accounts: Table::new(limits.entries_max) }
    }

    /// Whether that password of that account was checked not long ago.
    pub fn get(&self, account: &AccountId, password: &[u8], now_ms: u64) -> Cached {
        let Some(known) = self.accounts.get(account) else { return Cached::Unknown };
        let digest = self.digest(account, password);
        let holds = |remembered: Option<Remembered>| {
            remembered.is_some_and(|r| now_ms < r.until_ms && crate::secret::equal(&r.digest, &digest))
        };
        if holds(known.right) {
            Cached::Right
        } else if holds(known.wrong) {
            Cached::Wrong
        } else {
            Cached::Unknown
        }
    }

    /// Remembers the result of a check of an account that exists.
    pub fn put(&mut self, account: &AccountId, password: &[u8], right: bool, now_ms: u64) {
        self.accounts.expire(|known| {
            [known.right, known.wrong].into_iter().flatten().all(|remembered| remembered.until_ms <= now_ms)
        });
        let digest = self.digest(account, password);
        let known = self.accounts.entry(account);
        if right {
            known.right = Some(Remembered { digest, until_ms: now_ms.saturating_add(self.limits.right_ms) });
        } else {
            known.wrong = Some(Remembered { digest, until_ms: now_ms.saturating_add(self.limits.wrong_ms) });
            // The password may have been changed where this process cannot see it.
            if known.right.is_some_and(|right| crate::secret::equal(&right.digest, &digest)) {
                known.right = None;
            }
        }
    }

    /// Forgets everything: the directory was reloaded.
    pub fn clear(&mut self) {
        self.accounts.clear();
    }

    /// Accounts remembered.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn digest(&self, account: &AccountId, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(account.as_str().as_bytes());
        // No account id has a NUL, so no two pairs give the same octets.
        context.update(&[0]);
        context.update(password);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).expect("an account")
    }

    fn cache(entries_max: usize) -> AuthCache {
        AuthCache::new(CacheLimits { entries_max, right_ms: 100, wrong_ms: 10 }, [7; 32])
    }

    #[test]
    fn a_password_is_known_until_its_time_is_over() {
        let (mut cache, bob, eve) = (cache(9), account("bob@x"), account("eve@x"));
        assert_eq!(cache.get(&bob, b"right", 0), Cached::Unknown);
        cache.put(&bob, b"right", true, 0);
        cache.put(&bob, b"wrong", false, 5);
        for (name, password, now, expected) in [
            (&bob, &b"right"[..], 99, Cached::Right),
            (&bob, b"right", 100, Cached::Unknown),
            (&bob, b"wrong", 14, Cached::Wrong),
            (&bob, b"wrong", 15, Cached::Unknown),
            (&bob, b"other", 1, Cached::Unknown),
            (&eve, b"right", 1, Cached::Unknown),
        ] {
            assert_eq!(cache.get(name, password, now), expected, "{name} {now}");
        }
        cache.put(&bob, b"right", false, 50);
        assert_eq!(cache.get(&bob, b"right", 50), Cached::Wrong);
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn the_cache_is_bounded_and_drops_the_oldest() {
        let mut cache = cache(100);
        for n in 0..1000 {
            cache.put(&account(&format!("u{n}@x")), b"p", true, 0);
        }
        assert_eq!(cache.len(), 100);
        assert_eq!(cache.get(&account("u999@x"), b"p", 1), Cached::Right);
        assert_eq!(cache.get(&account("u0@x"), b"p", 1), Cached::Unknown);
        cache.put(&account("late@x"), b"p", true, 500);
        assert_eq!(cache.len(), 1, "what is over makes room first");
    }

    #[test]
    fn debug_shows_no_password() {
        let mut cache = cache(9);
        cache.put(&account("bob@x"), b"tanstaaf", true, 0);
        assert!(!format!("{cache:?}").contains("tanstaaf"));
    }
}
