//! Grams: runs of three octets, hashed.
//!
//! They narrow what no dictionary can: which blocks of a dictionary may hold a term with a given substring, and which
//! documents may hold it in their machine text. A gram that is there proves nothing; one that is missing does.

/// Octets of a gram.
pub const GRAM_OCTETS: usize = 3;
/// Bits of a gram's hash.
pub const HASH_BITS: u32 = 13;
/// Values of [`of_machine`].
pub const MACHINE_GRAMS: usize = 1 << 12;

/// The hash of a gram, of [`HASH_BITS`] bits. This is part of the stored format.
#[inline]
pub fn hash(gram: [u8; GRAM_OCTETS]) -> u16 {
    let value = u32::from_le_bytes([gram[0], gram[1], gram[2], 0]);
    // Knuth's multiplicative hashing: the upper bits depend on all octets.
    (value.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as u16
}

/// The hashes of all grams of `octets`.
pub fn hashes(octets: &[u8]) -> impl Iterator<Item = u16> {
    octets.windows(GRAM_OCTETS).map(|gram| hash([gram[0], gram[1], gram[2]]))
}

/// The coarser hash by which documents are listed: below [`MACHINE_GRAMS`].
pub fn of_machine(hash: u16) -> u16 {
    hash >> 1
}
