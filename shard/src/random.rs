//! Randomness: the kernel's, or the seed's in the simulation; and hashers that follow it.

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
        None => getrandom::fill(buffer).expect("the kernel gives randomness"),
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
