//! The accounts of one shard: opened on demand, changed through the journal, dropped when nobody uses them.
//!
//! # Invariants
//! A change is applied in the commit's own call, strictly in commit order, and nowhere else; so every session sees
//! changes in one order, and none before it is durable.
//! An account that is open has applied every committed record of its own. One that is not is rebuilt from its
//! blocks and the records after them, and gets the same UIDs and MODSEQs that it would have had.
//!
//! # Crash
//! Nothing here is stored. A panic while a change is applied drops the account; the next use rebuilds it.
//!
//! # Limits
//! [`Limits`] has them.

use crate::record::{Message, Record};
use crate::state::{ACCOUNT_KEY, Applied, Refusal, State};
use culver_index::{Block as IndexBlock, PLACE_OCTETS};
use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sync::{Notify, oneshot};
use culver_storage::{Body, CommitError, Committed, Loaded, Position, Storage, StorageError};
use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use thiserror::Error;

/// The named bounds of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accounts kept open on a shard after their last session left.
    pub idle_accounts_max: usize,
    /// Largest message that is taken, in octets.
    pub message_octets_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { idle_accounts_max: 1_000, message_octets_max: 64 << 20 }
    }
}

/// Why a change was not made, or is not known to be.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The client's to act on; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Time's to act on: nothing was changed, or it is not known whether it was. Never a success.
    #[error("the change could not be committed: {0}")]
    Unavailable(String),
}

/// Why an account could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("account {account}: {why}")]
    Storage { account: String, why: StorageError },
    #[error("account {account}: {what} is damaged: {why}; see `culver check`")]
    Damaged { account: String, what: &'static str, why: String },
}

/// All accounts that live on this shard.
pub struct Accounts {
    storage: Rc<Storage>,
    limits: Limits,
    open: RefCell<BTreeMap<AccountId, Rc<Account>>>,
    loading: RefCell<BTreeMap<AccountId, Rc<Notify>>>,
    idle: RefCell<VecDeque<AccountId>>,
}

/// One open account.
pub struct Account {
    id: AccountId,
    partition: PartitionId,
    state: RefCell<State>,
    position: Cell<Option<Position>>,
    changed: Notify,
    sessions: Cell<usize>,
    pending: Cell<usize>,
    dropped: Cell<bool>,
    /// By mailbox: the first UID that no session has been given as \Recent.
    recent: RefCell<BTreeMap<Guid, u32>>,
}

/// A session's hold on an account: while one stands, the account stays open.
pub struct Session {
    accounts: Rc<Accounts>,
    account: Rc<Account>,
}

impl Accounts {
    pub fn new(storage: Rc<Storage>, limits: Limits) -> Rc<Accounts> {
        Rc::new(Accounts {
            storage,
            limits,
            open: RefCell::default(),
            loading: RefCell::default(),
            idle: RefCell::default(),
        })
    }

    pub fn storage(&self) -> &Rc<Storage> {
        &self.storage
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn open_count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Opens the account for a session, or joins those who have it open.
    pub async fn session(self: &Rc<Self>, id: &AccountId) -> Result<Session, OpenError> {
        let account = self.open(id).await?;
        account.sessions.set(account.sessions.get() + 1);
        Ok(Session { accounts: self.clone(), account })
    }

    async fn open(self: &Rc<Self>, id: &AccountId) -> Result<Rc<Account>, OpenError> {
        loop {
            if let Some(account) = self.open.borrow().get(id) {
                return Ok(account.clone());
            }
            let waiting = self.loading.borrow().get(id).cloned();
            match waiting {
                Some(loaded) => loaded.notified().await,
                None => break,
            }
        }
        let loading = Loading::begin(self, id);
        let account = self.load(id).await?;
        drop(loading);
        Ok(account)
    }

    /// Reads blocks and records until none is left that came meanwhile; the last look and the entry in the
    /// table are one step.
    async fn load(self: &Rc<Self>, id: &AccountId) -> Result<Rc<Account>, OpenError> {
        let partition = self.storage.partition_of(id);
        let loaded = self.storage.load(partition, id).await.map_err(|why| storage_error(id, why))?;
        let (mut state, mut position) = rebuild(id, loaded)?;
        loop {
            let newest = self.storage.newest_position(partition, id);
            if newest <= position {
                break;
            }
            let records = self.storage.records_after(partition, id, position).await;
            for (at, meta, place) in records.map_err(|why| storage_error(id, why))? {
                replay(id, &mut state, &meta, place)?;
                position = Some(at);
            }
        }
        let recent = state.mailboxes.iter().map(|(guid, index)| (*guid, index.uid_next().get())).collect();
        let account = Rc::new(Account {
            id: id.clone(),
            partition,
            state: RefCell::new(state),
            position: Cell::new(position),
            changed: Notify::new(),
            sessions: Cell::new(0),
            pending: Cell::new(0),
            dropped: Cell::new(false),
            recent: RefCell::new(recent),
        });
        self.open.borrow_mut().insert(id.clone(), account.clone());
        self.rest(id);
        Ok(account)
    }

    /// Notes that nobody uses the account, and drops the one that has been idle longest where there are too many.
    fn rest(&self, id: &AccountId) {
        let mut idle = self.idle.borrow_mut();
        idle.push_back(id.clone());
        let mut open = self.open.borrow_mut();
        for _ in 0..idle.len() {
            if idle.len() <= self.limits.idle_accounts_max {
                break;
            }
            let Some(oldest) = idle.pop_front() else { break };
            let unused = open
                .get(&oldest)
                .is_some_and(|account| account.sessions.get() == 0 && account.pending.get() == 0);
            // One that stands again further back was used since.
            if unused && !idle.contains(&oldest) {
                open.remove(&oldest);
            }
        }
    }

    /// Forgets what is in memory of an account; its sessions end, the next use rebuilds it.
    pub fn drop_account(&self, id: &AccountId) {
        if let Some(account) = self.open.borrow_mut().remove(id) {
            account.dropped.set(true);
            account.changed.notify_all();
        }
    }

    /// Forgets all of them: the journal could not say what is committed.
    pub fn drop_all(&self) {
        let open = std::mem::take(&mut *self.open.borrow_mut());
        for account in open.values() {
            account.dropped.set(true);
            account.changed.notify_all();
        }
    }

    /// Commits one change to an account, open or not, and says what it gave. `None`: the account is not open,
    /// and what it gives is found when it is.
    async fn commit(
        self: &Rc<Self>,
        id: &AccountId,
        record: Record,
        body: Body,
    ) -> Result<Option<Applied>, ChangeError> {
        let partition = self.storage.partition_of(id);
        let meta = record.encode();
        let urgent = matches!(record, Record::Expunge { .. } | Record::Delete { .. } | Record::Relocate { .. });
        let (answer, answered) = oneshot::channel();
        let account = self.open.borrow().get(id).cloned();
        if let Some(account) = &account {
            account.pending.set(account.pending.get() + 1);
        }
        let _pending = Pending(account);
        let accounts = self.clone();
        let owner = id.clone();
        let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
            let result = committed
                .map_err(|error| ChangeError::Unavailable(error.to_string()))
                .and_then(|committed| accounts.committed(&owner, &record, &committed));
            // Nobody waits any more where the session has ended; the change stands all the same.
            let _ = answer.send(result);
        });
        self.storage
            .submit(partition, id, meta, body, urgent, on_commit)
            .await
            .map_err(|error| ChangeError::Unavailable(error.to_string()))?;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(ChangeError::Unavailable("the shard is stopping".into())),
        }
    }

    /// Applies a committed record where its account is open.
    fn committed(
        &self,
        id: &AccountId,
        record: &Record,
        committed: &Committed,
    ) -> Result<Option<Applied>, ChangeError> {
        let Some(account) = self.open.borrow().get(id).cloned() else { return Ok(None) };
        if account.position.get() >= Some(committed.position) {
            return Ok(None);
        }
        let place = committed.body.map_or([0; PLACE_OCTETS], |place| place.to_bytes());
        let applied = catch_unwind(AssertUnwindSafe(|| account.state.borrow_mut().apply(record, place)));
        match applied {
            Ok(applied) => {
                account.position.set(Some(committed.position));
                account.changed.notify_all();
                Ok(Some(applied?))
            }
            Err(_) => {
                tracing::error!(account = %id, "a panic while a change was applied: the account is rebuilt");
                self.drop_account(id);
                Err(ChangeError::Unavailable("internal error; the account is being rebuilt".into()))
            }
        }
    }

    /// Delivers to INBOX of an account that need not be open. Reads nothing from the store.
    pub async fn deliver(self: &Rc<Self>, id: &AccountId, message: Message, body: Body) -> Result<(), ChangeError> {
        if message.size > self.limits.message_octets_max {
            return Err(Refusal::TooBig.into());
        }
        let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
        self.commit(id, record, body).await.map(drop)
    }
}

/// While it stands, others who want the account wait.
struct Loading<'a> {
    accounts: &'a Accounts,
    id: &'a AccountId,
}

impl<'a> Loading<'a> {
    fn begin(accounts: &'a Accounts, id: &'a AccountId) -> Loading<'a> {
        accounts.loading.borrow_mut().insert(id.clone(), Rc::new(Notify::new()));
        Loading { accounts, id }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if let Some(loaded) = self.accounts.loading.borrow_mut().remove(self.id) {
            loaded.notify_all();
        }
    }
}

struct Pending(Option<Rc<Account>>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            account.pending.set(account.pending.get() - 1);
        }
    }
}

impl Account {
    pub fn id(&self) -> &AccountId {
        &self.id
    }

    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The committed state. Must not be held across an await.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// Notified after every change.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The account was dropped: this session must end.
    pub fn is_dropped(&self) -> bool {
        self.dropped.get()
    }

    /// Gives out the UIDs of a mailbox that no session has had as \Recent. `keep`: EXAMINE and STATUS do not take them.
    pub fn take_recent(&self, guid: Guid, uid_next: u32, keep: bool) -> std::ops::Range<u32> {
        let mut recent = self.recent.borrow_mut();
        let first = recent.entry(guid).or_insert(1);
        let range = *first..uid_next.max(*first);
        if !keep {
            *first = range.end;
        }
        range
    }
}

impl Session {
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    pub fn accounts(&self) -> &Rc<Accounts> {
        &self.accounts
    }

    /// Commits a change and says what it gave.
    pub async fn change(&self, record: Record, body: Body) -> Result<Applied, ChangeError> {
        if self.account.is_dropped() {
            return Err(ChangeError::Unavailable("the account is being rebuilt".into()));
        }
        match self.accounts.commit(&self.account.id, record, body).await? {
            Some(applied) => Ok(applied),
            None => Err(ChangeError::Unavailable("the account is being rebuilt".into())),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.account.sessions.set(self.account.sessions.get() - 1);
        if self.account.sessions.get() == 0 && !self.account.is_dropped() {
            self.accounts.rest(&self.account.id);
        }
    }
}

fn storage_error(id: &AccountId, why: StorageError) -> OpenError {
    OpenError::Storage { account: id.as_str().to_owned(), why }
}

fn damaged(id: &AccountId, what: &'static str, why: impl ToString) -> OpenError {
    OpenError::Damaged { account: id.as_str().to_owned(), what, why: why.to_string() }
}

/// The state that blocks and the records after them give.
pub(crate) fn rebuild(id: &AccountId, loaded: Loaded) -> Result<(State, Option<Position>), OpenError> {
    let mut position = loaded.position;
    let blocks = loaded
        .blocks
        .into_iter()
        .map(|(key, blocks)| {
            let blocks = blocks.into_iter().map(|block| IndexBlock::shared(Rc::new(block))).collect();
            (key, blocks)
        })
        .collect();
    let mut state = State::load(blocks).map_err(|why| damaged(id, "an index block", why))?;
    for (at, meta, place) in loaded.records {
        if Some(at) > position {
            replay(id, &mut state, &meta, place)?;
            position = Some(at);
        }
    }
    Ok((state, position))
}

fn replay(
    id: &AccountId,
    state: &mut State,
    meta: &[u8],
    place: Option<culver_storage::Place>,
) -> Result<(), OpenError> {
    let record = Record::decode(meta).map_err(|why| damaged(id, "a journal record", why))?;
    let place = place.map_or([0; PLACE_OCTETS], |place| place.to_bytes());
    // What was refused when it was committed is refused again, and changes nothing.
    let _ = state.apply(&record, place);
    Ok(())
}

/// The key of the account's own block, for those who name blocks.
pub const fn account_key() -> Guid {
    ACCOUNT_KEY
}
