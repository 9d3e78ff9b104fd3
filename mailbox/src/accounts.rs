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

use crate::digest::{self, Digest};
use crate::fault::{self, Fault};
use crate::quota::Usages;
use crate::record::{Message, Record, StoreOp};
use crate::state::{Applied, DELIVERIES_KEY, Refusal, State};
use culver_index::Block as IndexBlock;
use culver_model::{
    AccountId, Flag, FlagSet, Guid, MailboxName, PartitionId, SystemFlag, UidSet, UidValidity,
};
use culver_shard::shards;
use culver_shard::sync::{Notify, Semaphore, oneshot};
use culver_shard::time::{self, Instant};
use culver_storage::{
    Body, CommitError, Committed, Haste, Loaded, Place, Position, ReadError, Standing, Storage, SubmitError,
    Together,
};
use std::cell::{BorrowMutError, Cell, OnceCell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::time::Duration;
use thiserror::Error;

/// The named bounds of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accounts kept open on a shard after their last session left.
    pub idle_accounts_max: usize,
    /// How long they are kept: to open an account again costs less than the memory of all that are not used.
    pub idle_age_max: Duration,
    /// Largest message that is taken, in octets, without the recipient's own prefix.
    pub message_octets_max: u64,
    /// Octets of messages that the searches of a shard hold at a time; a larger message is searched alone.
    pub search_octets_max: usize,
    /// Octets of digests that a shard keeps for SORT and THREAD.
    pub digest_octets_max: usize,
    /// Octets of one digest, also while it is made and not kept.
    pub one_digest_octets_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            idle_accounts_max: 1_000,
            idle_age_max: Duration::from_secs(20),
            message_octets_max: 64 << 20,
            search_octets_max: 128 << 20,
            digest_octets_max: 64 << 20,
            one_digest_octets_max: 256 << 20,
        }
    }
}

/// So long somebody waits for a change to be committed: a disk or a store that takes longer is away, and its client is told so.
pub(crate) const COMMIT_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether the changes of an account that is shut have ended.
const SETTLES: Duration = Duration::from_millis(5);

/// Why a change was not made, or is not known to be.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The client's to act on; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A person's to act on: the disk is full, and nothing was changed. What frees space is taken all the same.
    #[error("the change was not made: no space left")]
    NoSpace,
    /// Time's to act on: nothing was changed, or it is not known whether it was. Never a success.
    #[error("the change could not be committed: {0}")]
    Unavailable(String),
    /// The director's to act on, and never a success either: another node has the account, or will have it.
    #[error("the change could not be committed: the account is not served here ({0:?})")]
    Away(Standing),
}

pub(crate) fn late() -> ChangeError {
    ChangeError::Unavailable("the store does not answer; it may yet be made".into())
}

/// A change that had no outcome in time. It may yet be made.
pub struct Late(oneshot::Receiver<Result<Option<Applied>, ChangeError>>);

impl Late {
    /// Waits on, for as long as for any change. `None`: there is still no outcome. Not to be called again after another one.
    pub async fn outcome(&mut self) -> Option<Result<Applied, ChangeError>> {
        let answered = time::deadline(COMMIT_WITHIN, &mut self.0).await.ok()?;
        Some(match answered {
            Ok(Ok(Some(applied))) => Ok(applied),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) | Err(_) => Err(ChangeError::Unavailable("the account was closed meanwhile".into())),
        })
    }
}

impl From<OpenError> for ChangeError {
    fn from(error: OpenError) -> ChangeError {
        match error {
            OpenError::Away { standing, .. } => ChangeError::Away(standing),
            error => ChangeError::Unavailable(error.to_string()),
        }
    }
}

/// Why an account could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("account {account}: {why}")]
    Storage { account: String, why: ReadError },
    /// The director's to act on, or time's.
    #[error("account {account}: not served here ({standing:?})")]
    Away { account: String, standing: Standing },
    #[error("account {account}: {what} is damaged: {why}; see `culver check` and `culver rebuild`")]
    Damaged { account: String, what: &'static str, why: String },
}

/// All accounts that live on this shard.
pub struct Accounts {
    me: Weak<Accounts>,
    storage: OnceCell<Storage>,
    limits: Limits,
    pub(crate) search_octets: Semaphore,
    digests_used: RefCell<digest::Used>,
    open: RefCell<BTreeMap<AccountId, Rc<Account>>>,
    loading: RefCell<BTreeMap<AccountId, Rc<Notify>>>,
    /// Accounts in the order in which their last session left. Those that were used since are still in it.
    idle: RefCell<VecDeque<Idle>>,
    rests: Cell<u64>,
    watched: RefCell<BTreeMap<AccountId, Watched>>,
    usages: Rc<RefCell<Usages>>,
    /// Accounts whose blocks a flush took and that is not known to be committed; those of a flush that failed stay
    /// until the next one.
    pub(crate) giving: RefCell<BTreeSet<AccountId>>,
}

/// An account that nobody uses since its rest of this number.
struct Idle {
    id: AccountId,
    rest: u64,
    since: Instant,
}

/// What outlives an account that is closed while sessions of it sleep.
struct Watched {
    partition: PartitionId,
    changed: Rc<Notify>,
    watches: usize,
    /// As [`Account::recent`] when it was closed.
    recent: Box<[(Guid, u32)]>,
}

/// Hears of an account's changes, whether it is open or not, and does not keep it open.
pub struct Watch {
    accounts: Rc<Accounts>,
    id: AccountId,
    changed: Rc<Notify>,
}

impl Watch {
    pub fn id(&self) -> &AccountId {
        &self.id
    }

    pub fn accounts(&self) -> &Rc<Accounts> {
        &self.accounts
    }

    /// Notified at every change, and when the account's partition goes.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The account's partition went to another node, or is about to.
    pub fn is_lost(&self) -> bool {
        matches!(self.accounts.standing(&self.id), Standing::Moving | Standing::Elsewhere)
    }

    /// The same, anew in memory.
    pub fn again(self) -> Watch {
        self.accounts.watch(&self.id)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.accounts.watched.borrow_mut();
        if let Some(entry) = watched.get_mut(&self.id) {
            entry.watches -= 1;
            if entry.watches == 0 {
                watched.remove(&self.id);
            }
        }
    }
}

/// One open account.
pub struct Account {
    id: AccountId,
    partition: PartitionId,
    state: RefCell<State>,
    /// The newest record that the state contains.
    position: Cell<Position>,
    changed: Notify,
    sessions: Cell<usize>,
    /// The number of the rest that began when its last session left.
    rest: Cell<u64>,
    pending: Cell<usize>,
    dropped: Cell<bool>,
    /// By mailbox: the first UID that no session has been given as \Recent.
    recent: RefCell<BTreeMap<Guid, u32>>,
    /// How often a mailbox's overlay was folded into a new base: rows then stand elsewhere.
    pub(crate) folds: Cell<u64>,
    /// What SORT and THREAD compare, by mailbox.
    pub(crate) digests: RefCell<BTreeMap<Guid, Rc<Digest>>>,
    /// Blocks given to a flush that is not known to be committed.
    pub(crate) flushing: RefCell<Option<crate::flush::Given>>,
}

/// A session's hold on an account: while one stands, the account stays open.
pub struct Session {
    accounts: Rc<Accounts>,
    account: Rc<Account>,
}

impl Accounts {
    /// Without a store: [`Accounts::attach`] gives it one, which in turn asks this for blocks.
    pub fn new(limits: Limits) -> Rc<Accounts> {
        Rc::new_cyclic(|me| Accounts {
            me: me.clone(),
            storage: OnceCell::new(),
            search_octets: Semaphore::new(limits.search_octets_max),
            limits,
            digests_used: RefCell::default(),
            open: RefCell::default(),
            loading: RefCell::default(),
            idle: RefCell::default(),
            rests: Cell::new(0),
            watched: RefCell::default(),
            usages: Rc::default(),
            giving: RefCell::default(),
        })
    }

    /// Once, before the first account is opened.
    pub fn attach(self: &Rc<Self>, storage: Storage) {
        storage.attach(self.clone());
        assert!(self.storage.set(storage).is_ok(), "a store is attached once");
    }

    /// # Panics
    /// Before [`Accounts::attach`].
    pub fn storage(&self) -> &Storage {
        self.storage.get().expect("a store is attached before accounts are used")
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn open_count(&self) -> usize {
        self.open.borrow().len()
    }

    /// The shard where this account lives.
    pub fn shard_of(&self, id: &AccountId) -> usize {
        self.storage().partition_of(id).index() % shards()
    }

    /// Whether this shard answers for the account now. Of an account that lives on another shard it says nothing.
    pub fn standing(&self, id: &AccountId) -> Standing {
        self.storage().standing(self.storage().partition_of(id))
    }

    /// Keeps a digest that was used now, and drops those that there is no room for.
    pub(crate) fn keep_digests(&self, used: &Rc<Digest>) {
        let going = self.digests_used.borrow_mut().note(used, self.limits.digest_octets_max);
        if going.is_empty() {
            return;
        }
        for account in self.open.borrow().values() {
            let goes = |digest: &Rc<Digest>| going.iter().any(|gone| Rc::ptr_eq(gone, digest));
            account.digests.borrow_mut().retain(|_, digest| !goes(digest));
        }
    }

    pub(crate) fn usages(&self) -> &Rc<RefCell<Usages>> {
        &self.usages
    }

    pub(crate) fn me(&self) -> Option<Rc<Accounts>> {
        self.me.upgrade()
    }

    /// An open account, if it is open.
    pub(crate) fn opened(&self, id: &AccountId) -> Option<Rc<Account>> {
        self.open.borrow().get(id).cloned()
    }

    /// Opens the account for a session, or joins those who have it open.
    pub async fn session(self: &Rc<Self>, id: &AccountId) -> Result<Session, OpenError> {
        match self.standing(id) {
            Standing::Here => {}
            standing => return Err(OpenError::Away { account: id.as_str().to_owned(), standing }),
        }
        let account = self.open(id).await?;
        Ok(Session::hold(self, account))
    }

    /// Closes the account, and keeps everybody from opening it as long as what this gives is held. Changes that were under way
    /// are committed then, or never will be.
    pub(crate) async fn shut<'a>(&'a self, id: &'a AccountId) -> Result<Loading<'a>, ChangeError> {
        loop {
            let loading = self.loading.borrow().get(id).cloned();
            match loading {
                Some(loaded) => loaded.notified().await,
                None => break,
            }
        }
        let open = self.opened(id);
        self.drop_account(id);
        let loading = Loading::begin(self, id);
        let Some(open) = open else { return Ok(loading) };
        let until = time::now() + COMMIT_WITHIN;
        while open.is_changing() && time::now() < until {
            time::sleep(SETTLES).await;
        }
        // Commits are told in the order in which they were submitted: behind this one none is of before.
        let (answer, answered) = oneshot::channel();
        let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
            let _ = answer.send(committed.map_err(|error| ChangeError::Unavailable(error.to_string())));
        });
        let (partition, meta) =
            (self.storage().partition_of(id), Record::Relocate { from: Vec::new() }.encode());
        let committing = async {
            let haste = Haste::Urgent;
            let submitting =
                self.storage().submit_numbered(partition, id, meta, Vec::new(), haste, None, on_commit);
            submitting.await.map_err(|error| ChangeError::Unavailable(error.to_string()))?;
            answered.await.map_err(|_| ChangeError::Unavailable("the shard is stopping".into()))?
        };
        // Who wants the account waits for this: a store that is away must not keep them.
        time::deadline(COMMIT_WITHIN, committing).await.map_err(|_| late())??;
        Ok(loading)
    }

    async fn open(self: &Rc<Self>, id: &AccountId) -> Result<Rc<Account>, OpenError> {
        loop {
            if let Some(account) = self.opened(id) {
                return Ok(account);
            }
            let loading = self.loading.borrow().get(id).cloned();
            match loading {
                Some(loaded) => loaded.notified().await,
                None => break,
            }
        }
        let _loading = Loading::begin(self, id);
        // What storage gives is complete when it returns; putting it into the table is part of the same step.
        let partition = self.storage().partition_of(id);
        let loaded = self.storage().load(partition, id).await;
        let loaded = loaded.map_err(|why| {
            let account = id.as_str().to_owned();
            match why {
                ReadError::NotHere => OpenError::Away { account, standing: Standing::Elsewhere },
                why => OpenError::Storage { account, why },
            }
        })?;
        let (mut state, position, mut recent) = rebuild(id, loaded)?;
        self.release_untaken(partition, id, &mut state);
        if let Some(watched) = self.watched.borrow().get(id) {
            for (guid, first) in &watched.recent {
                let known = recent.entry(*guid).or_insert(*first);
                *known = (*known).max(*first);
            }
        }
        if self.giving.borrow().contains(id) && !fault::on(Fault::StaleDelta) {
            state.base_due = state.mailboxes.keys().copied().chain([DELIVERIES_KEY]).collect();
        }
        let account = Rc::new(Account {
            id: id.clone(),
            partition,
            state: RefCell::new(state),
            position: Cell::new(position),
            changed: Notify::new(),
            sessions: Cell::new(0),
            rest: Cell::new(0),
            pending: Cell::new(0),
            dropped: Cell::new(false),
            recent: RefCell::new(recent),
            folds: Cell::new(0),
            digests: RefCell::default(),
            flushing: RefCell::default(),
        });
        self.open.borrow_mut().insert(id.clone(), account.clone());
        self.usages.borrow_mut().forget(id);
        Ok(account)
    }

    /// Hears of the account's changes from now on.
    pub fn watch(self: &Rc<Self>, id: &AccountId) -> Watch {
        let mut watched = self.watched.borrow_mut();
        if !watched.contains_key(id) {
            let (partition, changed) = (self.storage().partition_of(id), Rc::default());
            watched.insert(id.clone(), Watched { partition, changed, watches: 0, recent: Box::default() });
        }
        let entry = watched.get_mut(id).expect("inserted");
        entry.watches += 1;
        Watch { accounts: self.clone(), id: id.clone(), changed: entry.changed.clone() }
    }

    /// Tells the watches of a partition that it has gone.
    fn tell_lost(&self, partition: PartitionId) {
        for entry in self.watched.borrow().values().filter(|entry| entry.partition == partition) {
            entry.changed.notify_all();
        }
    }

    fn tell_watches(&self, id: &AccountId) {
        if let Some(entry) = self.watched.borrow().get(id) {
            entry.changed.notify_all();
        }
    }

    /// Notes that nobody uses the account.
    fn rest(&self, account: &Account) {
        self.rests.set(self.rests.get() + 1);
        account.rest.set(self.rests.get());
        self.idle.borrow_mut().push_back(Idle {
            id: account.id.clone(),
            rest: self.rests.get(),
            since: time::now(),
        });
        self.close_idle();
    }

    /// Closes accounts that nobody has used for long, and the idlest ones where there are too many. To be called now
    /// and then.
    pub fn close_idle(&self) {
        let (max, now) = (self.limits.idle_accounts_max, time::now());
        let mut idle = self.idle.borrow_mut();
        let mut open = self.open.borrow_mut();
        if idle.len() > max {
            // Seldom: what is left is well below the bound that brought it here, or is closed down to it.
            idle.retain(|idle| open.get(&idle.id).is_some_and(|account| account.rests_since(idle.rest)));
        }
        let keep = if idle.len() > max { max - max / 8 } else { max };
        while let Some(oldest) = idle.front() {
            let resting = open.get(&oldest.id).filter(|account| account.rests_since(oldest.rest));
            let Some(account) = resting else {
                idle.pop_front();
                continue;
            };
            if idle.len() <= keep && now - oldest.since < self.limits.idle_age_max {
                break;
            }
            if account.pending.get() > 0 || account.flushing.borrow().is_some() {
                // In use by a change or a flush: it is looked at again later.
                let oldest = idle.pop_front().expect("looked at");
                idle.push_back(Idle { since: now, ..oldest });
                break;
            }
            let oldest = idle.pop_front().expect("looked at");
            let closed = open.remove(&oldest.id);
            if let Some(account) = &closed {
                self.usages.borrow_mut().note(&oldest.id, account.partition, &account.state());
            }
            if let (Some(account), Some(watched)) = (closed, self.watched.borrow_mut().get_mut(&oldest.id)) {
                watched.recent =
                    account.recent.borrow().iter().map(|(guid, first)| (*guid, *first)).collect();
            }
        }
    }

    /// Forgets what is in memory of an account; its sessions end, the next use rebuilds it.
    pub fn drop_account(&self, id: &AccountId) {
        let Ok(mut open) = self.open.try_borrow_mut() else { return };
        let removed = open.remove(id);
        drop(open);
        self.usages.borrow_mut().forget(id);
        if let Some(account) = removed {
            account.drop_state();
        }
    }

    /// Forgets those of a partition: another node has it.
    pub fn drop_partition(&self, partition: PartitionId) {
        let mut open = self.open.borrow_mut();
        let gone: Vec<Rc<Account>> = open
            .extract_if(.., |_, account| account.partition == partition)
            .map(|(_, account)| account)
            .collect();
        drop(open);
        self.usages.borrow_mut().forget_partition(partition);
        gone.iter().for_each(|account| account.drop_state());
        self.tell_lost(partition);
    }

    /// Forgets all of them: the journal could not say what is committed.
    pub fn drop_all(&self) {
        let open = std::mem::take(&mut *self.open.borrow_mut());
        self.usages.borrow_mut().forget_all();
        open.values().for_each(|account| account.drop_state());
    }

    /// Commits one change to an account, open or not, and says what it gave. `None`: the account is not open, and
    /// what it gives is found when it is.
    pub(crate) async fn commit(
        self: &Rc<Self>,
        id: &AccountId,
        record: Record,
        bodies: Vec<Body>,
        haste: Haste,
    ) -> Result<Option<Applied>, ChangeError> {
        self.commit_or_late(id, record, bodies, haste).await.unwrap_or_else(|_| Err(late()))
    }

    /// The same; `Err` where it is submitted and has no outcome in time.
    async fn commit_or_late(
        self: &Rc<Self>,
        id: &AccountId,
        record: Record,
        bodies: Vec<Body>,
        haste: Haste,
    ) -> Result<Result<Option<Applied>, ChangeError>, Late> {
        let partition = self.storage().partition_of(id);
        let haste = if frees_space(&record) { Haste::Urgent } else { haste };
        let (record, numbers) = self.named(id, record);
        let meta = record.encode();
        // A compaction has to know what became of it.
        let waits = !matches!(record, Record::Relocate { .. });
        let (answer, mut answered) = oneshot::channel();
        let submitted = Cell::new(false);
        let _pending = Pending::count(self.opened(id));
        let accounts = self.clone();
        let owner = id.clone();
        let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
            let result = committed
                .map_err(not_committed)
                .and_then(|committed| accounts.committed(&owner, &record, &committed));
            // Nobody waits any more where the session has ended; the change stands all the same.
            let _ = answer.send(result);
        });
        let committing = async {
            let submitting =
                self.storage().submit_numbered(partition, id, meta, bodies, haste, numbers, on_commit);
            let taken = submitting.await;
            taken.map_err(|error| match error {
                SubmitError::NoSpace => ChangeError::NoSpace,
                SubmitError::NotHere => ChangeError::Away(self.standing(id).away()),
                error => ChangeError::Unavailable(error.to_string()),
            })?;
            submitted.set(true);
            Ok::<_, ChangeError>((&mut answered).await)
        };
        let committed = match waits {
            true => time::deadline(COMMIT_WITHIN, committing).await,
            false => Ok(committing.await),
        };
        Ok(match committed {
            Err(_) if submitted.get() => return Err(Late(answered)),
            Err(_) => Err(late()),
            Ok(Err(refused)) => Err(refused),
            // What was under way when the partition went: who has it now knows what became of it.
            Ok(Ok(Ok(Err(ChangeError::Unavailable(_))))) if self.standing(id) != Standing::Here => {
                Err(ChangeError::Away(self.standing(id)))
            }
            Ok(Ok(Ok(result))) => result,
            Ok(Ok(Err(_))) => Err(ChangeError::Unavailable("the shard is stopping".into())),
        })
    }

    /// Commits several changes to an open account, all or none. What the account makes of each is its own: one may be refused
    /// where another is carried out.
    async fn commit_together(
        self: &Rc<Self>,
        id: &AccountId,
        records: Vec<(Record, Body)>,
    ) -> Result<Vec<Result<Applied, ChangeError>>, ChangeError> {
        let partition = self.storage().partition_of(id);
        let _pending = Pending::count(self.opened(id));
        let (mut together, mut answers) =
            (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        for (record, body) in records {
            let (record, numbers) = self.named(id, record);
            let meta = record.encode();
            let (answer, answered) = oneshot::channel();
            let (accounts, owner) = (self.clone(), id.clone());
            let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
                let result = committed.map_err(not_committed);
                let _ =
                    answer.send(result.and_then(|committed| accounts.committed(&owner, &record, &committed)));
            });
            together.push(Together { meta, bodies: vec![body], numbers, on_commit });
            answers.push(answered);
        }
        let committing = async {
            let taken = self.storage().submit_together(partition, id, together, Haste::Interactive);
            taken.await.map_err(|error| match error {
                SubmitError::NoSpace => ChangeError::NoSpace,
                SubmitError::NotHere => ChangeError::Away(self.standing(id).away()),
                SubmitError::TooLarge { .. } => ChangeError::Refused(Refusal::TooBig),
                error => ChangeError::Unavailable(error.to_string()),
            })?;
            let mut outcomes = Vec::with_capacity(answers.len());
            for answered in answers {
                let stopping = |_| ChangeError::Unavailable("the shard is stopping".into());
                match answered.await.map_err(stopping)? {
                    Ok(Some(applied)) => outcomes.push(Ok(applied)),
                    Ok(None) => return Err(ChangeError::Unavailable("the account is being rebuilt".into())),
                    Err(ChangeError::Refused(refusal)) => outcomes.push(Err(ChangeError::Refused(refusal))),
                    // What was under way when the partition went: who has it now knows what became of it.
                    Err(ChangeError::Unavailable(_)) if self.standing(id) != Standing::Here => {
                        return Err(ChangeError::Away(self.standing(id)));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(outcomes)
        };
        time::deadline(COMMIT_WITHIN, committing).await.unwrap_or_else(|_| Err(late()))
    }

    /// Applies a committed record where its account is open.
    pub(crate) fn committed(
        &self,
        id: &AccountId,
        record: &Record,
        committed: &Committed,
    ) -> Result<Option<Applied>, ChangeError> {
        self.tell_watches(id);
        let Some(account) = self.opened(id) else {
            if let Record::Append { message, .. } = record {
                self.usages.borrow_mut().add(id, self.storage().partition_of(id), message.size);
            }
            return Ok(None);
        };
        if account.position.get() >= committed.position {
            return Ok(None);
        }
        let places: Vec<_> = committed.bodies.iter().map(Place::to_bytes).collect();
        let applied = catch_unwind(AssertUnwindSafe(|| {
            let mut state = account.state.borrow_mut();
            let applied = state.apply(record, &places);
            let mut freed = std::mem::take(&mut state.freed);
            freed.append(&mut state.untaken);
            (applied, freed)
        }));
        match applied {
            Ok((applied, freed)) => {
                account.position.set(committed.position);
                for place in freed.iter().filter_map(Place::from_bytes) {
                    self.storage().released(account.partition, id, &place);
                }
                account.changed.notify_all();
                Ok(Some(applied?))
            }
            Err(_) => {
                tracing::error!(
                    account = id.as_str(),
                    "a panic while a change was applied: the account is rebuilt"
                );
                self.drop_account(id);
                Err(ChangeError::Unavailable("internal error; the account is being rebuilt".into()))
            }
        }
    }

    /// Tells storage which bodies of unflushed records no message took. Right behind [`rebuild`] with nothing between: as long as
    /// the records are not flushed, telling it again changes nothing.
    pub(crate) fn release_untaken(&self, partition: PartitionId, id: &AccountId, state: &mut State) {
        for place in state.untaken.drain(..).filter_map(|place| Place::from_bytes(&place)) {
            self.storage().released(partition, id, &place);
        }
    }

    /// Commits a record that is not a session's.
    pub(crate) async fn change(
        self: &Rc<Self>,
        id: &AccountId,
        record: Record,
        bodies: Vec<Body>,
    ) -> Result<(), ChangeError> {
        self.commit(id, record, bodies, Haste::Interactive).await.map(drop)
    }

    /// Delivers to an account that need not be open: then nothing is read from the store. `mailbox` is the name that
    /// a detail (`user+mailbox@`) gave; INBOX where there is none of that name. `Ok` is also said of a message that is sent again;
    /// whether it is, is known here only where the account is open: then `Ok(true)`.
    pub async fn deliver(
        self: &Rc<Self>,
        id: &AccountId,
        mailbox: Option<&str>,
        mut message: Message,
        body: Body,
    ) -> Result<bool, ChangeError> {
        if message.size - u64::from(message.prefix_octets) > self.limits.message_octets_max {
            return Err(Refusal::TooBig.into());
        }
        match self.standing(id) {
            Standing::Here => {}
            // Before its proof runs out it waits for a store that is late; after that others may have the account.
            standing => return Err(ChangeError::Away(standing)),
        }
        let mut target = Guid::INBOX;
        if let Some(name) = mailbox.and_then(|name| MailboxName::parse(name).ok()) {
            let session = self.session(id).await?;
            let state = session.account().state();
            if let Some(entry) = state.entry(&name).filter(|entry| entry.selectable) {
                target = entry.guid;
                message.mailbox_name = Some(entry.name.clone()).filter(|name| !name.is_inbox());
            }
        }
        let record = Record::Append { mailbox: target, message: Box::new(message) };
        let applied = self.commit(id, record, vec![body], Haste::Delivery).await?;
        Ok(applied == Some(Applied::Repeated))
    }
}

fn not_committed(error: CommitError) -> ChangeError {
    match error {
        CommitError::NoSpace => ChangeError::NoSpace,
        error => ChangeError::Unavailable(error.to_string()),
    }
}

/// Whether a change is taken on a full disk: what sets octets free, and what has to come before that.
fn frees_space(record: &Record) -> bool {
    match record {
        Record::Expunge { .. } | Record::Delete { .. } | Record::Relocate { .. } | Record::DeleteAccount => {
            true
        }
        // RFC 3501 §6.4.3: EXPUNGE takes what was marked before.
        Record::Store { op: StoreOp::Add, flags, .. } => flags.has(SystemFlag::Deleted),
        _ => false,
    }
}

/// While it stands, others who want the account wait.
pub(crate) struct Loading<'a> {
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
        let loading = self.accounts.loading.borrow_mut().remove(self.id);
        if let Some(loaded) = loading {
            loaded.notify_all();
        }
    }
}

/// Counts a change under way.
struct Pending(Option<Rc<Account>>);

impl Pending {
    fn count(account: Option<Rc<Account>>) -> Pending {
        if let Some(account) = &account {
            account.pending.set(account.pending.get() + 1);
        }
        Pending(account)
    }
}

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

    pub(crate) fn state_mut(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub(crate) fn try_state_mut(&self) -> Result<RefMut<'_, State>, BorrowMutError> {
        self.state.try_borrow_mut()
    }

    pub(crate) fn position(&self) -> Position {
        self.position.get()
    }

    /// Notified after every change.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Whether changes were submitted that are not yet applied.
    pub fn is_changing(&self) -> bool {
        self.pending.get() > 0
    }

    /// The account was dropped: this session must end.
    pub fn is_dropped(&self) -> bool {
        self.dropped.get()
    }

    /// Nobody has used it since it went to its rest of this number.
    fn rests_since(&self, rest: u64) -> bool {
        self.sessions.get() == 0 && self.rest.get() == rest
    }

    fn drop_state(&self) {
        self.dropped.set(true);
        self.changed.notify_all();
    }

    /// Gives out the UIDs of a mailbox that no session has had as \Recent. `keep`: EXAMINE and STATUS do not take them.
    pub fn take_recent(&self, guid: Guid, uid_next: u32, keep: bool) -> Range<u32> {
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
    /// Lets go of the account and goes on hearing of its changes.
    pub fn into_watch(self) -> Watch {
        self.accounts.watch(self.account.id())
    }

    fn hold(accounts: &Rc<Accounts>, account: Rc<Account>) -> Session {
        account.sessions.set(account.sessions.get() + 1);
        Session { accounts: accounts.clone(), account }
    }

    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    pub fn accounts(&self) -> &Rc<Accounts> {
        &self.accounts
    }

    /// Commits a change and says what it gave.
    pub async fn change(&self, record: Record) -> Result<Applied, ChangeError> {
        self.change_with(record, None).await
    }

    /// The same, for a record that brings a message.
    pub async fn change_with(&self, record: Record, body: Option<Body>) -> Result<Applied, ChangeError> {
        self.change_or_late(record, body).await.unwrap_or_else(|_| Err(late()))
    }

    /// Several messages that arrive together, all or none of them (RFC 3502), each with its body, in one mailbox. Where the
    /// account refuses one of them, those that it has taken are expunged again.
    pub async fn append_all(
        &self,
        mailbox: Guid,
        messages: Vec<(Message, Body)>,
    ) -> Result<(UidValidity, UidSet), ChangeError> {
        if self.account.is_dropped() {
            return Err(ChangeError::Unavailable("the account is being rebuilt".into()));
        }
        // What could refuse one of them is asked before the first: only another session's change between here and the commit can.
        let keywords = messages.iter().flat_map(|(message, _)| message.flags.keywords.iter().cloned());
        let keywords: FlagSet = keywords.map(Flag::Keyword).collect();
        match self.account.state().selectable(mailbox) {
            None => return Err(Refusal::NonExistent.into()),
            Some(index) if !index.has_room_for(&keywords) => return Err(Refusal::Limit.into()),
            Some(_) => {}
        }
        let record = |message| Record::Append { mailbox, message: Box::new(message) };
        let records = messages.into_iter().map(|(message, body)| (record(message), body)).collect();
        let outcomes = self.accounts.commit_together(&self.account.id, records).await?;
        let (mut given, mut uid_validity, mut refused) = (UidSet::new(), None, None);
        for outcome in outcomes {
            match outcome {
                Ok(Applied::Append { uid_validity: validity, uid }) => {
                    given.insert(uid.get());
                    uid_validity = Some(validity);
                }
                Ok(_) => refused = Some(ChangeError::Refused(Refusal::Cannot)),
                Err(error) => refused = Some(error),
            }
        }
        match (refused, uid_validity) {
            (None, Some(uid_validity)) => Ok((uid_validity, given)),
            (refused, _) => {
                if !given.is_empty() {
                    self.change(Record::Expunge { mailbox, uids: given, only_deleted: false }).await?;
                }
                Err(refused.unwrap_or(ChangeError::Refused(Refusal::Cannot)))
            }
        }
    }

    /// The same, for who wants to know what becomes of a change that has no outcome in time.
    pub async fn change_or_late(
        &self,
        record: Record,
        body: Option<Body>,
    ) -> Result<Result<Applied, ChangeError>, Late> {
        let rebuilt = || ChangeError::Unavailable("the account is being rebuilt".into());
        if self.account.is_dropped() {
            return Ok(Err(rebuilt()));
        }
        let (id, bodies) = (&self.account.id, body.into_iter().collect());
        let committed = self.accounts.commit_or_late(id, record, bodies, Haste::Interactive).await?;
        Ok(committed.and_then(|applied| applied.ok_or_else(rebuilt)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.account.sessions.set(self.account.sessions.get() - 1);
        if std::thread::panicking() {
            // What the session was at cannot be trusted: the next use rebuilds the account from what is stored.
            self.accounts.drop_account(&self.account.id);
            return;
        }
        if self.account.sessions.get() == 0 && !self.account.is_dropped() {
            self.accounts.rest(&self.account);
        }
    }
}

/// The state that blocks and the records after them give. Its `untaken` are bodies of these records.
///
/// Last, by mailbox, the UIDNEXT of the blocks: what came after is \Recent, as far as anyone can tell (RFC 3501 §2.3.2).
pub fn rebuild(id: &AccountId, loaded: Loaded) -> Result<(State, Position, BTreeMap<Guid, u32>), OpenError> {
    let damaged = |what, why: String| OpenError::Damaged { account: id.as_str().to_owned(), what, why };
    let mut position = loaded.position;
    let blocks = loaded
        .blocks
        .into_iter()
        .map(|(key, blocks)| {
            (key, blocks.into_iter().map(|block| IndexBlock::shared(Rc::new(block))).collect())
        })
        .collect();
    let mut state = State::load(blocks).map_err(|why| damaged("an index block", why.to_string()))?;
    fault::damage(&mut state);
    let recent = state.mailboxes.iter().map(|(guid, index)| (*guid, index.uid_next().get())).collect();
    let mut gaps = loaded.gaps.into_iter().peekable();
    for record in loaded.records {
        while let Some((_, of)) = gaps.next_if(|(gap, _)| *gap < record.position) {
            state.raise(of);
        }
        let places: Vec<_> = record.bodies.iter().map(Place::to_bytes).collect();
        let mut decoded =
            Record::decode(&record.meta).map_err(|why| damaged("a journal record", why.to_string()))?;
        if let Record::Copy { remove, .. } = &mut decoded {
            *remove &= !fault::on(Fault::ReplayMoveAsCopy);
        }
        // What was refused when it was committed is refused again, and changes nothing.
        let _ = state.apply(&decoded, &places);
        position = record.position;
    }
    for (gap, of) in gaps {
        state.raise(of);
        position = gap;
    }
    // What these records freed was told to storage when they were committed.
    state.freed.clear();
    Ok((state, position, recent))
}
