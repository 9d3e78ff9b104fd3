//! Randomness: the kernel's, or the seed's in the simulation; and hashers that follow it.

use std::cell::RefCell;
use std::hash::{BuildHasher, DefaultHasher, Hasher};

use crate::context;

/// Fills the buffer; fit for keys and nonces (outside the simulation).
///
/// # Panics
/// When the kernel refuses randomness, which it does on no supported system.
pub fn fill(buffer: &mut [u8]) {
    match context::seat() {
        Some(seat) => {
            for chunk in buffer.chunks_mut(8) {
                let bytes = seat.world.random().to_le_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
        }
        None if buffer.len() <= POOLED_MAX => POOL.with_borrow_mut(|pool| pool.take(buffer)),
        None => getrandom::fill(buffer).expect("the kernel gives randomness"),
    }
}

/// What a thread takes from the kernel at a time, in octets.
const POOL_OCTETS: usize = 512;
/// Requests above this go to the kernel themselves.
const POOLED_MAX: usize = 32;

/// Octets of the kernel that were not given out yet; what was is wiped.
struct Pool {
    octets: [u8; POOL_OCTETS],
    at: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { octets: [0; POOL_OCTETS], at: POOL_OCTETS }) };
}

impl Pool {
    fn take(&mut self, buffer: &mut [u8]) {
        if POOL_OCTETS - self.at < buffer.len() {
            getrandom::fill(&mut self.octets).expect("the kernel gives randomness");
            self.at = 0;
        }
        let taken = &mut self.octets[self.at..self.at + buffer.len()];
        buffer.copy_from_slice(taken);
        taken.fill(0);
        self.at += buffer.len();
    }
}

pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// A number below `bound`; 0 where `bound` is 0.
pub fn below(bound: u64) -> u64 {
    // The bias is below one part in 2^64 / bound.
    ((u128::from(self::u64()) * u128::from(bound)) >> 64) as u64
}

/// Keys for a `HashMap` that is iterated: random in the real world, so that clients cannot choose
/// collisions; from the seed in the simulation, so that the order of iteration repeats.
#[derive(Clone, Debug)]
pub struct HashState([u64; 2]);

impl Default for HashState {
    fn default() -> HashState {
        HashState([self::u64(), self::u64()])
    }
}

impl BuildHasher for HashState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher
    }
}

/// A `HashMap` with [`HashState`].
pub type HashMap<K, V> = std::collections::HashMap<K, V, HashState>;
/// A `HashSet` with [`HashState`].
pub type HashSet<T> = std::collections::HashSet<T, HashState>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_given_out_twice() {
        let mut seen = std::collections::HashSet::new();
        for octets in [16, 8, 32, 24, 100].into_iter().cycle().take(2000) {
            let mut buffer = vec![0; octets];
            fill(&mut buffer);
            for part in buffer.chunks_exact(8) {
                assert!(seen.insert(part.to_vec()), "{part:?} came twice");
            }
        }
    }
}
