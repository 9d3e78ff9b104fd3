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

/// A record that an earlier owner of the account acknowledged, and that its journal does not have.
pub struct LateRecord {
    /// In the journal it was made for.
    pub lsn: u64,
    pub meta: Vec<u8>,
    pub bodies: Vec<Body>,
}

/// What came of late records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records that count now, and did not before.
    pub records: u64,
    /// Those that could not be carried out as they were meant, because of what happened since.
    pub conflicts: u64,
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

    /// Takes up records of an earlier owner that clients were told of and that surface only now: as new records, in their order,
    /// after whatever happened since. Returns when all of them are committed. The same records may be given again, also to a
    /// later owner: each must count once, by the journal it was made for (`of`) and its lsn there.
    ///
    /// A layer that cannot tell records apart so refuses them.
    fn merge<'a>(
        &'a self,
        _partition: PartitionId,
        account: &'a AccountId,
        _of: Guid,
        _records: Vec<LateRecord>,
    ) -> LocalFuture<'a, Result<Merged, SourceError>> {
        Box::pin(async move { Err(SourceError(format!("{account}: late records cannot be merged here"))) })
    }

    /// Drop the state of an account, or of all accounts (`None`), with all that was prepared and not committed, and
    /// close its sessions: a failed disk took what was submitted with it, or making its blocks or applying a commit
    /// panicked. What was refused for want of space is told to who submitted it alone.
    fn reset(&self, account: Option<&AccountId>);

    /// Drop the state of all accounts of a partition and close their sessions: another node is going to have it.
    fn lost(&self, partition: PartitionId);
}
