//! What storage asks of the accounts: their blocks at a flush, what is alive at a compaction.
//!
//! # Invariants
//! A block set contains every record up to the position it names. What was given stays unflushed until storage says
//! that the flush is committed; a flush that fails is followed by one that gives the same changes again.
//! All blocks of an account stand at one record, however long it takes to make them: an account that changes meanwhile is
//! encoded again, and one that never rests from a copy.
//! A delta stands on the newest stored block. An account that was opened while blocks of it were on their way into a
//! table does not know which that will be, so each mailbox's next block is a base.

use crate::accounts::{Account, Accounts, rebuild};
use crate::fault::{self, Fault};
use crate::record::Record;
use crate::state::{ACCOUNT_KEY, ANNOTATIONS_KEY, DELIVERIES_KEY, State, Stored};
use culver_index::annotations::AnnotationsToken;
use culver_index::deliveries::DeliveriesToken;
use culver_index::{Encoding, FlushToken, FoldToken, MailboxIndex, PLACE_OCTETS};
use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::{Pace, Queue, spawn};
use culver_storage::{
    AccountBlocks, BlockKind, Body, LateRecord, LocalFuture, Merged, Place, Position, Source, SourceError,
};
use std::collections::{BTreeSet, HashSet};

/// Deltas that may stand on a base before a new base is written: each is a block to be found and opened.
const DELTAS_MAX: u32 = 32;

/// Rows that are encoded between two looks at the clock.
pub(crate) const STEP_ROWS: usize = 512;

/// How often a mailbox is encoded again that changed meanwhile.
pub(crate) const TRIES: usize = 3;

/// Pieces of a folded overlay that are given back between two looks at the clock.
const RELEASE_PIECES: usize = 4;

type Blocks = Vec<(Guid, BlockKind, Vec<u8>)>;
/// With each, whether it is of a base, and the octets of its block.
type Tokens = Vec<(Guid, FlushToken, bool, u64)>;

/// Blocks on their way into a table.
pub(crate) struct Given {
    position: Position,
    tokens: Tokens,
    of_account: OfAccount,
}

/// What of an account's own blocks is noted once they are stored.
struct OfAccount {
    /// Mailboxes that are gone.
    removed: usize,
    /// With whether it is of a base.
    deliveries: Option<(DeliveriesToken, bool)>,
    annotations: Option<AnnotationsToken>,
}

/// The changed blocks of a state on their way.
struct Encodings {
    /// Mailboxes to come, and whether each gives a base.
    todo: Vec<(Guid, bool)>,
    now: Option<(Guid, bool, Encoding)>,
    done: Vec<(Guid, bool, Encoding)>,
}

impl Encodings {
    fn begin(state: &State) -> Encodings {
        let mut todo = mailboxes_due(state);
        todo.reverse();
        Encodings { todo, now: None, done: Vec::new() }
    }

    /// Some rows more of the state it was begun with. True at the end.
    fn step(&mut self, state: &State) -> bool {
        let (guid, whole, mut encoding) = match self.now.take() {
            Some(now) => now,
            None => {
                let Some((guid, whole)) = self.todo.pop() else { return true };
                let Some(index) = state.mailboxes.get(&guid) else { return false };
                (guid, whole, if whole { index.begin_base() } else { index.begin_delta() })
            }
        };
        let Some(index) = state.mailboxes.get(&guid) else { return false };
        if encoding.step(index, STEP_ROWS) {
            self.done.push((guid, whole, encoding));
        } else {
            self.now = Some((guid, whole, encoding));
        }
        false
    }

    /// The blocks, and what to note once they are stored.
    fn finish(self, state: &mut State) -> (Blocks, Tokens, OfAccount) {
        let (mut blocks, of_account) = blocks_of_account(state);
        let mut tokens = Vec::new();
        for (guid, whole, encoding) in self.done {
            let Some(index) = state.mailboxes.get_mut(&guid) else { continue };
            let (bytes, token) = index.encoded(encoding);
            tokens.push((guid, token, whole, bytes.len() as u64));
            blocks.push((guid, kind_of(whole), bytes));
        }
        (blocks, tokens, of_account)
    }
}

fn kind_of(whole: bool) -> BlockKind {
    if whole { BlockKind::Base } else { BlockKind::Delta }
}

/// The account's own blocks and those of mailboxes that are gone.
fn blocks_of_account(state: &State) -> (Blocks, OfAccount) {
    let mut blocks = vec![(ACCOUNT_KEY, BlockKind::Base, state.account.encode())];
    let gone: BTreeSet<Guid> = state.removed.iter().copied().collect();
    blocks.extend(gone.into_iter().map(|guid| (guid, BlockKind::Removed, Vec::new())));
    let mut deliveries = None;
    if state.deliveries.dirty() {
        let whole = match state.stored.get(&DELIVERIES_KEY) {
            Some(stored) => {
                stored.deltas >= DELTAS_MAX
                    || state.base_due.contains(&DELIVERIES_KEY)
                    || !state.deliveries.fits_delta()
            }
            None => true,
        };
        let kind = if whole { culver_index::BlockKind::Base } else { culver_index::BlockKind::Delta };
        let (block, token) = state.deliveries.encode(kind);
        blocks.push((DELIVERIES_KEY, kind_of(whole), block));
        deliveries = Some((token, whole));
    }
    let annotations = state.annotations.dirty().then(|| {
        let (block, token) = state.annotations.encode();
        blocks.push((ANNOTATIONS_KEY, BlockKind::Base, block));
        token
    });
    (blocks, OfAccount { removed: state.removed.len(), deliveries, annotations })
}

/// The mailboxes that have something to store, and whether each gives a base.
fn mailboxes_due(state: &State) -> Vec<(Guid, bool)> {
    let mut due = Vec::new();
    for (guid, index) in state.mailboxes.iter().filter(|(_, index)| index.dirty()) {
        let stored = state.stored.get(guid).copied().unwrap_or_default();
        // A base where half of what is stored would be superseded: what is read at an open, and what is written of a mailbox
        // that changes, stay within twice the mailbox. One that only grows has no need of it but by the count.
        let whole = index.base_octets() == 0
            || stored.octets == 0
            || state.base_due.contains(guid)
            || stored.deltas >= DELTAS_MAX
            || stored.octets + index.delta_octets() > 2 * index.whole_octets();
        due.push((*guid, whole));
    }
    due
}

impl Account {
    /// Blocks that all stand at one record, made without keeping the shard from other work for long.
    async fn give_blocks(&self) -> Result<AccountBlocks, SourceError> {
        for _ in 0..TRIES {
            self.is_whole()?;
            if let Some(content) = self.give_unchanged().await {
                return Ok(content);
            }
        }
        self.is_whole()?;
        Ok(self.give_frozen().await)
    }

    /// What was dropped may hold half of a change: it is rebuilt from what is stored, and must not become that.
    fn is_whole(&self) -> Result<(), SourceError> {
        match self.is_dropped() {
            true => Err(SourceError("dropped while its blocks were made".into())),
            false => Ok(()),
        }
    }

    /// What the state cannot have changed in while it stays the same.
    fn moment(&self) -> (Position, u64) {
        (self.position(), self.folds.get())
    }

    /// `None` where the account changes meanwhile.
    async fn give_unchanged(&self) -> Option<AccountBlocks> {
        let moment = self.moment();
        let mut encodings = Encodings::begin(&self.state());
        let mut pace = Pace::new();
        while !encodings.step(&self.state()) {
            pace.breathe().await;
            if self.moment() != moment || self.is_dropped() {
                return None;
            }
        }
        let (blocks, tokens, of_account) = encodings.finish(&mut self.state_mut());
        let position = self.position();
        self.flushing.replace(Some(Given { position, tokens, of_account }));
        Some(AccountBlocks { position, blocks })
    }

    /// An account that never rests: its overlays are copied at once, and encoded in steps.
    async fn give_frozen(&self) -> AccountBlocks {
        let position = self.position();
        let (mut blocks, frozen) = {
            let mut state = self.state_mut();
            let (blocks, of_account) = blocks_of_account(&state);
            let (mut frozen, mut tokens) = (Vec::new(), Vec::new());
            for (guid, whole) in mailboxes_due(&state) {
                let Some(index) = state.mailboxes.get_mut(&guid) else { continue };
                let octets = if whole { index.whole_octets() } else { index.delta_octets() };
                let (copy, token) = index.freeze();
                frozen.push((guid, whole, copy));
                tokens.push((guid, token, whole, octets));
            }
            self.flushing.replace(Some(Given { position, tokens, of_account }));
            (blocks, frozen)
        };
        let mut pace = Pace::new();
        for (guid, whole, copy) in frozen {
            let mut encoding = copy.begin(whole);
            while !copy.step(&mut encoding, STEP_ROWS) {
                pace.breathe().await;
            }
            blocks.push((guid, kind_of(whole), copy.finish(encoding)));
        }
        AccountBlocks { position, blocks }
    }

    /// Notes that the blocks are stored; the mailboxes whose overlay is to be folded.
    fn blocks_stored(&self, position: Position) -> Vec<Guid> {
        let given = self.flushing.borrow_mut().take_if(|given| given.position == position);
        let Some(Given { tokens, of_account, .. }) = given else { return Vec::new() };
        let mut state = self.state_mut();
        let state = &mut *state;
        let mut over = Vec::new();
        for (guid, token, whole, octets) in tokens {
            let Some(index) = state.mailboxes.get_mut(&guid) else { continue };
            if index.mark_flushed(token) {
                let stored = state.stored.entry(guid).or_default();
                *stored = match whole {
                    true => Stored { deltas: 0, octets },
                    false => Stored { deltas: stored.deltas + 1, octets: stored.octets + octets },
                };
                if whole {
                    state.base_due.remove(&guid);
                }
            }
            if index.over_bounds() {
                over.push(guid);
            }
        }
        if let Some((token, whole)) = of_account.deliveries {
            state.deliveries.mark_stored(token);
            let stored = state.stored.entry(DELIVERIES_KEY).or_default();
            stored.deltas = if whole { 0 } else { stored.deltas + 1 };
            if whole {
                state.base_due.remove(&DELIVERIES_KEY);
            }
        }
        if let Some(token) = of_account.annotations {
            state.annotations.mark_stored(token);
        }
        state.removed.drain(..of_account.removed.min(state.removed.len()));
        over
    }

    /// Folds a mailbox's overlay into a base in memory, from a copy of its own, while the mailbox goes on.
    async fn fold(&self, guid: Guid) {
        let mut pace = Pace::new();
        let begun = {
            let mut state = self.state_mut();
            // Of a mailbox that is folded already the flush that comes after it sees what is left.
            let due = |index: &&mut MailboxIndex| index.over_bounds() && !index.folding();
            state.mailboxes.get_mut(&guid).filter(due).map(MailboxIndex::begin_fold)
        };
        let Some((copy, token)) = begun else { return };
        let _folding = Folding { account: self, guid, token };
        if fault::on(Fault::FoldPanics) {
            panic!("planted");
        }
        let mut encoding = copy.begin(true);
        while !copy.step(&mut encoding, STEP_ROWS) {
            pace.breathe().await;
            if self.is_dropped() {
                return;
            }
        }
        let replaced = {
            let mut state = self.state_mut();
            state.mailboxes.get_mut(&guid).and_then(|index| index.end_fold(token, copy, encoding))
        };
        let Some(mut replaced) = replaced else { return };
        self.folds.set(self.folds.get() + 1);
        while !replaced.release(RELEASE_PIECES) {
            pace.breathe().await;
        }
    }
}

/// A fold that is under way. However it ends, another one may begin then.
struct Folding<'a> {
    account: &'a Account,
    guid: Guid,
    token: FoldToken,
}

impl Drop for Folding<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.account.try_state_mut()
            && let Some(index) = state.mailboxes.get_mut(&self.guid)
        {
            index.give_up_fold(self.token);
        }
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
                return open.give_blocks().await;
            }
            let wrong = |error: &dyn std::fmt::Display| SourceError(error.to_string());
            let loaded = self.storage().load(partition, account).await.map_err(|error| wrong(&error))?;
            self.giving.borrow_mut().insert(account.clone());
            // It may have been opened while this was read; then its own blocks count.
            if let Some(open) = self.opened(account) {
                return open.give_blocks().await;
            }
            let (mut state, position, _) = rebuild(account, loaded).map_err(|error| wrong(&error))?;
            self.release_untaken(partition, account, &mut state);
            // Of this moment: every record that was committed by now is in it.
            self.usages().borrow_mut().note(account, partition, &state);
            let mut encodings = Encodings::begin(&state);
            let mut pace = Pace::new();
            while !encodings.step(&state) {
                pace.breathe().await;
            }
            let (blocks, _, _) = encodings.finish(&mut state);
            Ok(AccountBlocks { position, blocks })
        })
    }

    fn flushed(&self, _partition: PartitionId, account: &AccountId, position: Position) {
        self.giving.borrow_mut().remove(account);
        if let Some(open) = self.opened(account) {
            for guid in open.blocks_stored(position) {
                let open = open.clone();
                spawn(Queue::Background, "fold", async move { open.fold(guid).await }).detach();
            }
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

    fn merge<'a>(
        &'a self,
        _partition: PartitionId,
        account: &'a AccountId,
        of: Guid,
        records: Vec<LateRecord>,
    ) -> LocalFuture<'a, Result<Merged, SourceError>> {
        Box::pin(async move {
            let Some(accounts) = self.me() else { return Err(SourceError("the shard is stopping".into())) };
            accounts.take_late(account, of, records).await
        })
    }

    fn lost(&self, partition: PartitionId) {
        self.drop_partition(partition);
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
    if state.unfinished.is_some() {
        // What a rebuild has yet to find is named by nothing.
        return vec![true; places.len()];
    }
    let places: Vec<[u8; PLACE_OCTETS]> = places.iter().map(Place::to_bytes).collect();
    let wanted: HashSet<&[u8; PLACE_OCTETS]> = places.iter().collect();
    let rows = state.mailboxes.values().flat_map(|index| index.rows_all());
    let found: HashSet<[u8; PLACE_OCTETS]> =
        rows.map(|row| *row.place()).filter(|place| wanted.contains(place)).collect();
    places.iter().map(|place| found.contains(place)).collect()
}
