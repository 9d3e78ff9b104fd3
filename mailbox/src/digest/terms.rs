//! Strings that messages share, each kept once, with its place in their order.

use crate::steps;
use culver_shard::random::{self, HashState};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

/// What one string costs beside its octets: its places in the table, the list, the order and the ranks.
const TERM_OCTETS: usize = 72;

/// Numbers by a hash that is one already: to make the table larger costs little.
pub type ByHash = HashMap<u64, u32, Mixing>;

/// Mixes hashes that senders of mail can choose with what they do not know: none falls together with others in a table.
#[derive(Clone)]
pub struct Mixing {
    added: u64,
    factor: u64,
}

impl Default for Mixing {
    fn default() -> Mixing {
        Mixing { added: random::u64(), factor: random::u64() | 1 }
    }
}

impl BuildHasher for Mixing {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed { mixing: self.clone(), hash: 0 }
    }
}

pub struct Mixed {
    mixing: Mixing,
    hash: u64,
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        let product = u128::from(hash ^ self.mixing.added) * u128::from(self.mixing.factor);
        self.hash = (product >> 64) as u64 ^ product as u64;
    }
}

/// The keys of one column.
#[derive(Default)]
pub struct Terms {
    hashing: HashState,
    /// By the hash of the text; of texts that fall together, at the next one that is free.
    numbers: ByHash,
    texts: Rc<Vec<Rc<[u8]>>>,
    /// Numbers in the order of their texts, of the terms that have a rank.
    sorted: Rc<Vec<u32>>,
    ranks: Rc<Vec<u32>>,
    octets: usize,
}

impl Terms {
    /// The number of a key; a new one where it was not there.
    pub fn number(&mut self, key: &[u8]) -> u32 {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(key);
        let mut hash = hasher.finish();
        while let Some(number) = self.numbers.get(&hash) {
            if *self.texts[*number as usize] == *key {
                return *number;
            }
            hash = hash.wrapping_add(1);
        }
        let number = self.texts.len() as u32;
        self.octets += key.len() + TERM_OCTETS;
        Rc::make_mut(&mut self.texts).push(Rc::from(key));
        self.numbers.insert(hash, number);
        number
    }

    /// By number: equal ranks are equal keys. Of the terms that [`Terms::set_order`] knew.
    pub fn ranks(&self) -> &Rc<Vec<u32>> {
        &self.ranks
    }

    pub fn octets(&self) -> usize {
        self.octets
    }

    /// What is needed to put the terms that are new into order; `None` where none is.
    pub fn unsorted(&self) -> Option<Unsorted> {
        let known = self.sorted.len();
        (known < self.texts.len())
            .then(|| Unsorted { texts: self.texts.clone(), sorted: self.sorted.clone() })
    }

    pub fn set_order(&mut self, order: Order) {
        self.sorted = Rc::new(order.sorted);
        self.ranks = Rc::new(order.ranks);
    }
}

/// Terms whose order is not known yet, apart from the column: nothing is borrowed while they are sorted.
pub struct Unsorted {
    texts: Rc<Vec<Rc<[u8]>>>,
    sorted: Rc<Vec<u32>>,
}

pub struct Order {
    sorted: Vec<u32>,
    ranks: Vec<u32>,
}

impl Unsorted {
    /// In pieces. The new terms are sorted, then merged with the others.
    pub async fn order(self) -> Order {
        let text = |number: u32| &*self.texts[number as usize];
        let prefix = |number: u32| {
            let mut prefix = [0; 8];
            let text = text(number);
            let octets = text.len().min(8);
            prefix[..octets].copy_from_slice(&text[..octets]);
            (u64::from_be_bytes(prefix), number)
        };
        let compare = |one: &(u64, u32), other: &(u64, u32)| {
            one.0.cmp(&other.0).then_with(|| text(one.1).cmp(text(other.1)))
        };
        let mut pace = steps::Pace::default();
        let mut fresh = Vec::new();
        for number in self.sorted.len() as u32..self.texts.len() as u32 {
            fresh.push(prefix(number));
            pace.step().await;
        }
        let fresh = steps::sort(fresh, compare).await;
        let mut sorted = Vec::with_capacity(self.texts.len());
        let mut old = &self.sorted[..];
        for (_, number) in fresh {
            // Each new term is looked for from where the last one went in.
            let before = old.partition_point(|have| text(*have) < text(number));
            sorted.extend_from_slice(&old[..before]);
            sorted.push(number);
            old = &old[before..];
            pace.step().await;
        }
        sorted.extend_from_slice(old);
        let mut ranks = vec![0; sorted.len()];
        for (rank, number) in sorted.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
            pace.step().await;
        }
        Order { sorted, ranks }
    }
}

#[cfg(test)]
mod tests {
    use super::Terms;
    use culver_shard::sim::{Sim, SimConfig};
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    #[test]
    fn chosen_hashes_do_not_fall_together() {
        let mixing = super::Mixing::default();
        // Alike in the bits that choose the place in a table.
        let places: BTreeSet<u64> = (0..1_000u64).map(|n| mixing.hash_one((n << 32) | 7) & 0xffff).collect();
        assert!(places.len() > 100, "{}", places.len());
    }

    #[test]
    fn ranks_follow_the_order_of_the_octets() {
        Sim::new(1, SimConfig::default()).run(async {
            let mut terms = Terms::default();
            let mut keys: Vec<Vec<u8>> = Vec::new();
            // Shared beginnings, longer than a prefix; and more and more of them.
            for batch in 1..6u32 {
                for n in 0..batch * 300 {
                    let key =
                        format!("{}{}", "common".repeat((n % 3) as usize), n * 7_919 % 1_009).into_bytes();
                    let number = terms.number(&key);
                    if keys.len() as u32 == number {
                        keys.push(key);
                    }
                }
                keys.extend((terms.number(b"") as usize == keys.len()).then(Vec::new));
                if let Some(unsorted) = terms.unsorted() {
                    let order = unsorted.order().await;
                    terms.set_order(order);
                }
                let mut sorted = keys.clone();
                sorted.sort();
                for (number, key) in keys.iter().enumerate() {
                    assert_eq!(&sorted[terms.ranks()[number] as usize], key);
                }
                assert!(terms.unsorted().is_none());
            }
        });
    }
}
