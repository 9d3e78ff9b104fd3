//! The bytes of a stored block: owned, or a range of something shared such as a mapped table.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// Immutable bytes. The formats hold no aligned numbers, so any start address will do.
#[derive(Clone)]
pub enum Block {
    Owned(Rc<Vec<u8>>),
    /// A range of what the owner's `as_ref` gives; the owner must give the same bytes each time. A range beyond
    /// them reads as empty.
    Shared(Rc<dyn AsRef<[u8]>>, Range<usize>),
}

impl Block {
    /// All bytes of a shared owner.
    pub fn shared(owner: Rc<dyn AsRef<[u8]>>) -> Block {
        let range = 0..(*owner).as_ref().len();
        Block::Shared(owner, range)
    }

    /// Octets of heap memory that this value keeps alive on its own; 0 for what is shared.
    pub fn owned_octets(&self) -> usize {
        match self {
            Block::Owned(bytes) => bytes.capacity(),
            Block::Shared(..) => 0,
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Block::Owned(bytes) => bytes,
            Block::Shared(owner, range) => (**owner).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl From<Vec<u8>> for Block {
    fn from(bytes: Vec<u8>) -> Block {
        Block::Owned(Rc::new(bytes))
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} octets)", self.len())
    }
}
