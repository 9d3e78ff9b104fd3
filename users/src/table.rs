//! A bounded map: when it is full, what was put first goes first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: HashMap<K, V>,
    /// Keys in the order of their first put; exactly those of `entries`.
    order: VecDeque<K>,
    entries_max: usize,
}

impl<K: Hash + Eq + Clone, V: Default> Table<K, V> {
    pub(crate) fn new(entries_max: usize) -> Table<K, V> {
        Table { entries: HashMap::new(), order: VecDeque::new(), entries_max: entries_max.max(1) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// The entry of that key, made if need be; the oldest makes room.
    pub(crate) fn entry(&mut self, key: &K) -> &mut V {
        if !self.entries.contains_key(key) {
            if self.entries.len() >= self.entries_max
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key.clone()).or_default()
    }

    /// Takes away what was put first, while `is_over` says that it is over.
    pub(crate) fn expire(&mut self, is_over: impl Fn(&V) -> bool) {
        while let Some(oldest) = self.order.front() {
            if !self.entries.get(oldest).is_none_or(&is_over) {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
