//! The bytes of a stored block: owned, or a range of something shared such as a mapped table.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// Immutable bytes. The formats hold no aligned numbers, so any start address will do.
#[derive(Clone)]
pub enum Bytes {
    Owned(Rc<[u8]>),
    /// A range of what the owner's `as_ref` gives; the owner must give the same bytes each time. A range beyond
    /// them reads as empty.
    Shared(Rc<dyn AsRef<[u8]>>, Range<usize>),
}

impl Bytes {
    pub fn shared(owner: Rc<dyn AsRef<[u8]>>, range: Range<usize>) -> Bytes {
        Bytes::Shared(owner, range)
    }

    /// Octets of heap memory that this value keeps alive on its own; 0 for what is shared.
    pub fn owned_octets(&self) -> usize {
        match self {
            Bytes::Owned(bytes) => bytes.len(),
            Bytes::Shared(..) => 0,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(owner, range) => (**owner).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::Owned(bytes.into())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} octets)", self.len())
    }
}
