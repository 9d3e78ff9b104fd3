//! Octets that must not be seen: a password, or what is stored in the place of one.

use std::fmt;

/// Octets whose `Debug` shows nothing, and which are overwritten when dropped.
#[derive(Clone, Default)]
pub struct Secret(Box<[u8]>);

impl Secret {
    pub fn new(octets: impl Into<Box<[u8]>>) -> Secret {
        Secret(octets.into())
    }

    /// The octets, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // The optimiser may not leave out a write that this might read.
        std::hint::black_box(&mut self.0);
    }
}

/// Compares in a time that depends on the lengths alone.
pub(crate) fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference =
        left.iter().zip(right).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    std::hint::black_box(difference) == 0
}
