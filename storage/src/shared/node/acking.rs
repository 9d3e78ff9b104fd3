//! When a node acknowledges, and its journal for that.

use std::ops::Range;

use super::{Node, NodeConfig, NodeShare};
use crate::shared::format::Incarnation;
use crate::shared::journal::{NodeJournal, Unsent};
use crate::shared::tail::Tail;
use crate::store::Store;

/// When this node acknowledges a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// The store has it.
    Store,
    /// The local disk has it, and the store will within a second. `octets_max`: so many are acknowledged and not in the store;
    /// above it changes wait for the store.
    Local { octets_max: u64 },
}

impl Ack {
    /// 64 MiB.
    pub const UNSENT_OCTETS_MAX: u64 = 64 << 20;
}

impl Node {
    pub(crate) fn read_unsent(
        &self,
        incarnation: Incarnation,
        seq: u64,
        range: Range<u64>,
    ) -> Option<Vec<u8>> {
        let journal = self.0.journal.borrow();
        if journal.incarnation() == incarnation { journal.read_unsent(seq, range) } else { None }
    }

    /// Whether this node acknowledges after its local disk.
    pub fn is_local(&self) -> bool {
        self.0.journal.borrow().is_local()
    }

    /// What this node has acknowledged and the store does not have yet.
    pub fn unsent(&self) -> Unsent {
        self.0.journal.borrow().unsent()
    }
}

/// The journal of a new incarnation, with a local tail where this node acknowledges after that.
pub(super) async fn start_journal(
    store: &Store,
    share: &NodeShare,
    config: &NodeConfig,
) -> std::io::Result<NodeJournal> {
    let (store, id, windows) = (store.clone(), share.store_id, config.windows);
    match config.ack {
        Ack::Store => Ok(NodeJournal::start(store, id, windows)),
        Ack::Local { octets_max } => {
            let incarnation = Incarnation::random();
            let tail = Tail::begin(&share.dir, id, incarnation).await?;
            Ok(NodeJournal::start_local(store, id, windows, (incarnation, tail), octets_max))
        }
    }
}
