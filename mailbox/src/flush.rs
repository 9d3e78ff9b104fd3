//! What storage asks of the accounts: their blocks at a flush, what is alive at a compaction.
//!
//! # Invariants
//! A block set contains every record up to the position it names. What was given stays unflushed until storage says
//! that the flush is committed; a flush that fails is followed by one that gives the same changes again.
//! A delta stands on the newest stored block. An account that was opened while blocks of it were on their way into a
//! table does not know which that will be, so each mailbox's next block is a base.

use crate::accounts::{Account, Accounts, OpenError, rebuild};
use crate::record::Record;
use crate::state::{ACCOUNT_KEY, State};
use culver_index::{FlushToken, PLACE_OCTETS};
use culver_model::{AccountId, Guid, PartitionId};
use culver_storage::{AccountBlocks, BlockKind, Body, LocalFuture, Place, Position, Source, SourceError};
use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Deltas that may stand on a base before a new base is written.
const DELTAS_MAX: u32 = 8;

type Blocks = Vec<(Guid, BlockKind, Vec<u8>)>;
/// With each, whether it is of a base.
type Tokens = Vec<(Guid, FlushToken, bool)>;

/// Blocks on their way into a table.
pub(crate) struct Given {
    position: Position,
    tokens: Tokens,
    removed: usize,
}

/// The changed blocks of a state, and what to note once they are stored.
fn blocks_of(state: &mut State) -> (Blocks, Tokens, usize) {
    let mut blocks = vec![(ACCOUNT_KEY, BlockKind::Base, state.account.encode())];
    let mut tokens = Vec::new();
    let removed = state.removed.len();
    let gone: BTreeSet<Guid> = state.removed.iter().copied().collect();
    blocks.extend(gone.into_iter().map(|guid| (guid, BlockKind::Removed, Vec::new())));
    for (guid, index) in &mut state.mailboxes {
        if !index.dirty() {
            continue;
        }
        let deltas = state.deltas.get(guid).copied().unwrap_or(0);
        let base = index.base_octets();
        // A base where the deltas would soon outweigh it: what is read at an open stays within twice the mailbox.
        let whole = base == 0
            || state.base_due.contains(guid)
            || deltas >= DELTAS_MAX
            || index.delta_octets() > base / 2;
        let (bytes, token) = if whole { index.encode_base() } else { index.encode_delta() };
        let kind = if whole { BlockKind::Base } else { BlockKind::Delta };
        blocks.push((*guid, kind, bytes));
        tokens.push((*guid, token, whole));
    }
    (blocks, tokens, removed)
}

impl Account {
    fn give_blocks(&self) -> AccountBlocks {
        let mut state = self.state_mut();
        let (blocks, tokens, removed) = blocks_of(&mut state);
        let position = self.position();
        self.flushing.replace(Some(Given { position, tokens, removed }));
        AccountBlocks { position, blocks }
    }

    fn blocks_stored(&self, position: Position) {
        let given = self.flushing.borrow_mut().take_if(|given| given.position == position);
        let Some(Given { tokens, removed, .. }) = given else { return };
        let mut state = self.state_mut();
        let state = &mut *state;
        for (guid, token, whole) in tokens {
            let Some(index) = state.mailboxes.get_mut(&guid) else { continue };
            if index.mark_flushed(token) {
                let deltas = state.deltas.entry(guid).or_insert(0);
                *deltas = if whole { 0 } else { *deltas + 1 };
                if whole {
                    state.base_due.remove(&guid);
                }
                index.rebase();
            }
        }
        state.removed.drain(..removed.min(state.removed.len()));
    }
}

impl Source for Accounts {
    fn blocks<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        _last: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            if let Some(open) = self.opened(account) {
                self.giving.borrow_mut().insert(account.clone());
                return Ok(open.give_blocks());
            }
            let wrong = |error: &dyn std::fmt::Display| SourceError(error.to_string());
            let loaded = self.storage().load(partition, account).await.map_err(|error| wrong(&error))?;
            self.giving.borrow_mut().insert(account.clone());
            // It may have been opened while this was read; then its own blocks count.
            if let Some(open) = self.opened(account) {
                return Ok(open.give_blocks());
            }
            // A record that panics must not take the housekeeping of the whole shard with it.
            let rebuilt = catch_unwind(AssertUnwindSafe(|| {
                let (mut state, position, _) = rebuild(account, loaded)?;
                let (blocks, _, _) = blocks_of(&mut state);
                Ok::<_, OpenError>(AccountBlocks { position, blocks })
            }));
            match rebuilt {
                Ok(blocks) => blocks.map_err(|error| wrong(&error)),
                Err(_) => {
                    Err(SourceError(format!("account {}: a panic while it was rebuilt", account.as_str())))
                }
            }
        })
    }

    fn flushed(&self, _partition: PartitionId, account: &AccountId, position: Position) {
        self.giving.borrow_mut().remove(account);
        if let Some(open) = self.opened(account) {
            open.blocks_stored(position);
        }
    }

    fn live<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async move {
            if let Some(open) = self.opened(account) {
                return Ok(named(&open.state(), places));
            }
            let loaded = self.storage().load(partition, account).await;
            let loaded = loaded.map_err(|error| SourceError(error.to_string()))?;
            let (state, _, _) = rebuild(account, loaded).map_err(|error| SourceError(error.to_string()))?;
            Ok(named(&state, places))
        })
    }

    fn relocated<'a>(
        &'a self,
        _partition: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let Some(accounts) = self.me() else { return Err(SourceError("the shard is stopping".into())) };
            let (from, bodies): (Vec<[u8; PLACE_OCTETS]>, Vec<Body>) =
                moves.into_iter().map(|(place, body)| (place.to_bytes(), body)).unzip();
            let changed = accounts.change(account, Record::Relocate { from }, bodies).await;
            changed.map_err(|error| SourceError(error.to_string()))
        })
    }

    fn reset(&self, account: Option<&AccountId>) {
        match account {
            Some(account) => self.drop_account(account),
            None => self.drop_all(),
        }
    }
}

/// Which of the places rows of the state name: one pass over the rows for all of them.
fn named(state: &State, places: &[Place]) -> Vec<bool> {
    let places: Vec<[u8; PLACE_OCTETS]> = places.iter().map(Place::to_bytes).collect();
    let wanted: HashSet<&[u8; PLACE_OCTETS]> = places.iter().collect();
    let rows = state.mailboxes.values().flat_map(|index| index.rows_all());
    let found: HashSet<[u8; PLACE_OCTETS]> =
        rows.map(|row| *row.place()).filter(|place| wanted.contains(place)).collect();
    places.iter().map(|place| found.contains(place)).collect()
}
