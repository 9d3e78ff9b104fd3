//! What storage asks of the layer above: the content of accounts at a flush, what is alive, and that it forgets.

use std::future::Future;
use std::pin::Pin;

use culver_model::{AccountId, Guid, PartitionId};

use crate::body::Body;
use crate::error::SourceError;
use crate::place::{Place, Position};

/// A boxed future of one shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a block of a table is to the blocks of the same key in older tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlockKind {
    /// Whole: nothing older counts.
    Base = 1,
    /// Stands on the newest base before it, and on the deltas between.
    Delta = 2,
    /// The key exists no more; empty.
    Removed = 3,
}

impl BlockKind {
    pub(crate) fn from_u8(value: u8) -> Option<BlockKind> {
        Some(match value {
            1 => BlockKind::Base,
            2 => BlockKind::Delta,
            3 => BlockKind::Removed,
            _ => return None,
        })
    }
}

/// What a flush writes of one account.
#[derive(Clone, Debug)]
pub struct AccountBlocks {
    /// The newest record that is contained. Recovery and [`crate::Storage::load`] skip records up to here.
    pub position: Position,
    /// What changed, by key; several of one key are in order, oldest first. A key that is left out stays as it was.
    pub blocks: Vec<(Guid, BlockKind, Vec<u8>)>,
}

/// The layer above, as a flush, a compaction and a failing disk see it. All calls come on the storage's own shard.
pub trait Source {
    /// The changed blocks of an account with unflushed records. They must contain every record up to `last` at least.
    /// An account that is not open is opened for it with [`crate::Storage::load`].
    fn blocks<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        last: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>>;

    /// The flush that asked for these blocks is committed: deltas may be cut from here. Called in commit order.
    /// Without it (a failed flush) the next `blocks` must give the same changes again.
    fn flushed(&self, partition: PartitionId, account: &AccountId, position: Position);

    /// Which of these places messages of the account still name, in their order. Asked once for all bodies that an object
    /// has of an account; the account may have to be opened for it.
    fn live<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>>;

    /// Bodies of the account have a new place. Journal that with a record that carries these bodies (so that the new
    /// places count as named), and name the new places in every message that named the old ones, when it commits.
    /// Returns after the commit. A body that is dropped instead stays where it was.
    fn relocated<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>>;

    /// Drop the state of an account, or of all accounts (`None`), with all that was prepared and not committed, and
    /// close its sessions: a failed disk took what was submitted with it, or making its blocks or applying a commit
    /// panicked. What was refused for want of space is told to who submitted it alone.
    fn reset(&self, account: Option<&AccountId>);

    /// Drop the state of all accounts of a partition and close their sessions: another node is going to have it.
    fn lost(&self, partition: PartitionId);
}
