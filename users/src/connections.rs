//! Connection counters: how many connections a user or an address has.
//!
//! Each key's count stands on its home shard; the session says there when it begins and when it ends.
//!
//! # Limits
//! `each_max` connections for a key; `keys_max` keys, above which new ones are refused: a count cannot be forgotten.

use std::collections::HashMap;
use std::hash::Hash;

/// Too many connections: the client must close some, or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} of {max} connections are open")]
pub struct TooMany {
    pub held: u32,
    pub max: u32,
}

/// Counts by key: an `AccountId`, or an [`AddressKey`](crate::AddressKey).
#[derive(Debug)]
pub struct Counters<K> {
    counts: HashMap<K, u32>,
    each_max: u32,
    keys_max: usize,
}

impl<K: Hash + Eq + Clone> Counters<K> {
    pub fn new(each_max: u32, keys_max: usize) -> Counters<K> {
        Counters { counts: HashMap::new(), each_max, keys_max }
    }

    /// Counts one more, if it may be.
    pub fn open(&mut self, key: &K) -> Result<(), TooMany> {
        let held = self.held(key);
        if held >= self.each_max || held == 0 && self.counts.len() >= self.keys_max {
            return Err(TooMany { held, max: self.each_max });
        }
        self.counts.insert(key.clone(), held + 1);
        Ok(())
    }

    /// Counts one less; once for each successful [`open`](Counters::open).
    pub fn close(&mut self, key: &K) {
        match self.counts.get_mut(key) {
            Some(held) if *held > 1 => *held -= 1,
            Some(_) => {
                self.counts.remove(key);
            }
            None => {}
        }
    }

    pub fn held(&self, key: &K) -> u32 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    /// Keys with at least one connection.
    pub fn keys(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_limit_and_so_has_the_table() {
        let mut counters = Counters::new(2, 2);
        assert_eq!([counters.open(&"a"), counters.open(&"a")], [Ok(()), Ok(())]);
        assert_eq!(counters.open(&"a"), Err(TooMany { held: 2, max: 2 }));
        assert_eq!(counters.open(&"b"), Ok(()));
        assert_eq!(counters.open(&"c"), Err(TooMany { held: 0, max: 2 }));
        counters.close(&"a");
        assert_eq!((counters.open(&"a"), counters.keys()), (Ok(()), 2));
        ["a", "a", "a", "b", "x"].iter().for_each(|key| counters.close(key));
        assert_eq!((counters.keys(), counters.held(&"a")), (0, 0));
    }
}
