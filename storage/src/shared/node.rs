//! A node's agent on a shared store: its journal, what it owns, whom it watches, what it takes over, trims and sweeps.
//!
//! Lives on shard 0 of the process.
//!
//! # Invariants
//! At most one claim for an epoch of a partition is made in an incarnation, ever (H13). A node whose journal is sealed begins
//! a new incarnation and claims, as anybody would, what nobody has taken (R7).
//!
//! # Order
//! What was claimed is taken over whole before its shard hears of it. A low mark is known to be there before what it passes
//! is deleted (R4).
//!
//! # Limits
//! [`NodeConfig`] has them.

mod acking;
mod claiming;
mod late;
mod returning;
mod trimming;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::sync::{Notify, Semaphore};
use culver_shard::{Queue, Task, disk, local, mesh, random, set_local, shards, spawn, sync, time};

pub use self::acking::Ack;
use self::acking::start_journal;
use self::late::Awaited;
pub use self::late::Late;
use super::format::{Incarnation, ObjectHead, PartitionOwner};
use super::holding::{Acquired, HoldError};
use super::journal::{Appended, Ended, NewPart, NodeJournal, Windows};
use super::keys;
use super::seal::{SealError, seal};
use super::tail::Left;
use super::takeover::Taker;
use crate::error::OpenError;
use crate::limits::Limits;
use crate::root::format::StoreIdentity;
use crate::root::nonce;
use crate::source::LocalFuture;
use crate::storage::Storage;
use crate::store::{Costs, Created, Octets, Patience, Store, StoreError, StoreUrl};

/// How long requests of the agent are tried.
const PATIENCE: Patience =
    Patience { within: Duration::from_secs(30), urgency: crate::store::Urgency::Interactive };

/// For flushing and handing over what this node has when it leaves; then it closes its journal, with what is left in it.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// Between two tries to take over what is damaged.
const DAMAGED_AGAIN: Duration = Duration::from_secs(60);

/// Octets of the heads of unflushed records, and as many of bodies in them, that a takeover keeps for the caches of the shards; an
/// eighth of these at most, each.
const KEPT_OCTETS_MAX: u64 = 32 << 20;

/// How long a takeover waits for a new incarnation to begin.
const RENEWAL: Duration = Duration::from_secs(10);

/// Who a node is, and how it behaves towards others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// As its operator names it; no two nodes of a store have one name.
    pub name: String,
    /// Where it answers, for who forwards clients; may be empty.
    pub address: String,
    pub windows: Windows,
    /// A node that committed nothing for so long is taken for dead. 30 s; at least twice the proof of [`Windows`].
    pub lease: Duration,
    /// Between two looks at the others. 5 s.
    pub look: Duration,
    /// The low mark moves by so many objects at least, or after [`NodeConfig::trim_after`]. 256.
    pub trim_objects: u64,
    /// 60 s.
    pub trim_after: Duration,
    pub ack: Ack,
    /// Between two looks whether the tail of a node that has gone has come. 30 s.
    pub late_look: Duration,
}

impl NodeConfig {
    pub fn new(name: &str) -> NodeConfig {
        NodeConfig {
            name: name.to_owned(),
            address: String::new(),
            windows: Windows::default(),
            lease: Duration::from_secs(30),
            look: Duration::from_secs(5),
            trim_objects: 256,
            trim_after: Duration::from_secs(60),
            ack: Ack::Store,
            late_look: Duration::from_secs(30),
        }
    }
}

/// What one shard gets of a node; goes to that shard, to [`Storage::start_shared`].
#[derive(Clone)]
pub struct NodeShare {
    pub(crate) source: StoreSource,
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) store_id: [u8; 16],
    pub(crate) partition_count: u16,
    pub(crate) fresh: Arc<AtomicU64>,
    pub(crate) acks_locally: bool,
}

/// How a shard comes to its own handle on the store.
#[derive(Clone)]
pub(crate) enum StoreSource {
    Url(StoreUrl),
    #[cfg(any(test, feature = "simulation"))]
    Sim(SendSim),
}

/// The simulation has one thread.
#[cfg(any(test, feature = "simulation"))]
#[derive(Clone)]
pub(crate) struct SendSim(pub crate::simstore::SimStore, pub String);

// SAFETY: all shards of a simulation run on one thread, so it is never sent.
#[cfg(any(test, feature = "simulation"))]
unsafe impl Send for SendSim {}
#[cfg(any(test, feature = "simulation"))]
unsafe impl Sync for SendSim {}

impl StoreSource {
    pub async fn open(&self) -> Result<Store, StoreError> {
        match self {
            StoreSource::Url(url) => Store::open(url).await,
            #[cfg(any(test, feature = "simulation"))]
            StoreSource::Sim(SendSim(sim, node)) => Ok(sim.of_node(node)),
        }
    }
}

/// See the module. Clones are the same node.
#[derive(Clone)]
pub struct Node(Rc<Inner>);

struct Inner {
    share: NodeShare,
    store: Store,
    config: NodeConfig,
    journal: RefCell<NodeJournal>,
    state: RefCell<State>,
    /// One round of the agent, or one takeover that was asked for, at a time: what is claimed is taken over once.
    turn: Semaphore,
    /// One search for orphans at a time.
    searching: Semaphore,
    /// The first round is over.
    looked: Cell<bool>,
    /// Something is to be looked at before its time.
    due: Notify,
    /// A round is over.
    rounds: Notify,
    stopping: Cell<bool>,
    task: RefCell<Option<Task<()>>>,
    late: Cell<Late>,
    /// A search for what came late goes on.
    merging: Cell<bool>,
    _lock: disk::Lock,
}

#[derive(Default)]
struct State {
    /// The newest owner of each partition, as far as this node has seen.
    owners: BTreeMap<PartitionId, PartitionOwner>,
    /// Incarnations of this very directory: they have ended, for it is locked.
    own: BTreeSet<Incarnation>,
    /// The highest epoch that was claimed in this incarnation.
    claimed: BTreeMap<PartitionId, u32>,
    /// Claims that are not yet taken over.
    pending: Vec<PartitionOwner>,
    /// Claims of partitions of which something is damaged or missing, and when that was seen: each is tried again, and no
    /// further epoch is claimed for it.
    damaged: BTreeMap<PartitionId, (PartitionOwner, time::Instant)>,
    /// Damaged ones that are taken all the same, so that accounts of theirs can be rebuilt.
    salvaging: BTreeSet<PartitionId>,
    /// What is served here, or will be as soon as its Open record is committed.
    held: BTreeMap<PartitionId, u32>,
    tails: BTreeMap<Incarnation, Tail>,
    low: u64,
    next_low: u64,
    trimmed: Option<time::Instant>,
    freed: BTreeSet<(Incarnation, PartitionId, u32)>,
    /// Journals that were sealed, and whose records wait to be swept.
    dead: BTreeMap<Incarnation, Dead>,
    /// Tails of this directory's earlier incarnations that are not in the store.
    left: Vec<Left>,
    /// Tails of others that this node's partitions wait for.
    awaited: BTreeMap<Incarnation, Awaited>,
    /// Journals that grow, and are of nodes with this node's name.
    namesakes: BTreeSet<Incarnation>,
}

#[derive(Default)]
struct Dead {
    sealed: u64,
    /// Partitions and epochs that have records in it.
    owners: BTreeSet<(PartitionId, u32)>,
    looked: Option<time::Instant>,
}

/// The end of another node's journal.
struct Tail {
    next: u64,
    /// How far it came between the last two looks.
    pace: u64,
    moved: time::Instant,
    looked: time::Instant,
    ended: bool,
}

impl Node {
    /// Joins a store, made where there is none: proves what it can do, and begins an incarnation. Nothing is claimed before
    /// [`Node::begin`].
    pub async fn join(
        url: &StoreUrl,
        dir: &Path,
        limits: Limits,
        config: NodeConfig,
    ) -> Result<Node, OpenError> {
        let store = Store::open(url).await.map_err(OpenError::Store)?;
        let dialect = store.probe(url.is_shared()).await.map_err(OpenError::Probe)?;
        for note in &dialect.notes {
            tracing::warn!(note, "the store");
        }
        Node::on(store, StoreSource::Url(url.clone()), dir, limits, config).await
    }

    #[cfg(any(test, feature = "simulation"))]
    pub async fn join_simulated(
        sim: &crate::simstore::SimStore,
        dir: &Path,
        limits: Limits,
        config: NodeConfig,
    ) -> Result<Node, OpenError> {
        let source = StoreSource::Sim(SendSim(sim.clone(), config.name.clone()));
        Node::on(sim.of_node(&config.name), source, dir, limits, config).await
    }

    async fn on(
        store: Store,
        source: StoreSource,
        dir: &Path,
        limits: Limits,
        config: NodeConfig,
    ) -> Result<Node, OpenError> {
        disk::create_dir_all(dir).await.map_err(OpenError::io(dir))?;
        let lock = disk::lock(dir.join("LOCK")).await.map_err(OpenError::lock)?;
        let identity = identity(&store, &limits).await.map_err(OpenError::Store)?;
        let drafts = dir.join("drafts");
        clear(&drafts).await.map_err(OpenError::io(&drafts))?;
        let share = NodeShare {
            source,
            dir: dir.to_owned(),
            limits,
            store_id: identity.store,
            partition_count: identity.partitions,
            fresh: Arc::new(AtomicU64::new(0)),
            acks_locally: config.ack != Ack::Store,
        };
        let path = dir.join("INCARNATIONS");
        let own = read_incarnations(&path).await.map_err(OpenError::io(&path))?;
        // Found before anything is claimed, and refused where it cannot be read: it was acknowledged.
        let left = returning::look(dir, identity.store).await?;
        let journal = start_journal(&store, &share, &config).await.map_err(OpenError::io(dir))?;
        let state = State { own, left, ..State::default() };
        let node = Node(Rc::new(Inner {
            share,
            store,
            config,
            journal: RefCell::new(journal),
            state: RefCell::new(state),
            turn: Semaphore::new(1),
            searching: Semaphore::new(1),
            looked: Cell::new(false),
            due: Notify::new(),
            rounds: Notify::new(),
            stopping: Cell::new(false),
            task: RefCell::default(),
            late: Cell::default(),
            merging: Cell::new(false),
            _lock: lock,
        }));
        node.0.note_incarnation().await.map_err(OpenError::io(&path))?;
        set_local(Rc::new(node.clone()));
        Ok(node)
    }

    /// What each shard needs to start its storage.
    pub fn share(&self) -> NodeShare {
        self.0.share.clone()
    }

    /// Begins to claim, watch and trim. Call it when all shards have started and attached their storage.
    pub fn begin(&self) {
        let inner = self.0.clone();
        let fresh = spawn(Queue::Commit, "node freshness", inner.clone().freshness());
        fresh.detach();
        let task = spawn(Queue::Background, "node agent", inner.run());
        *self.0.task.borrow_mut() = Some(task);
    }

    pub(crate) async fn append(&self, part: NewPart) -> Result<Appended, Ended> {
        let journal = self.0.journal.borrow().clone();
        journal.append(part).await
    }

    /// The name and address of a partition's owner, as far as this node has seen.
    pub fn owner_of(&self, partition: PartitionId) -> Option<(String, String)> {
        let state = self.0.state.borrow();
        state.owners.get(&partition).map(|owner| (owner.name.clone(), owner.address.clone()))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn searching(&self) -> &Semaphore {
        &self.0.searching
    }

    pub(crate) fn shard_of(&self, id: PartitionId) -> usize {
        self.0.shard_of(id)
    }

    /// Whether this node has claimed a partition of which something is damaged or missing.
    pub fn is_damaged(&self, partition: PartitionId) -> bool {
        self.0.state.borrow().damaged.contains_key(&partition)
    }

    /// As its operator named it.
    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// Whether another node of this name was seen to be at work: each tells clients that the other's accounts are its own.
    pub fn has_namesake(&self) -> bool {
        !self.0.state.borrow().namesakes.is_empty()
    }

    /// What the requests of the agent and of the journal cost so far; those of shards are told by their storage.
    pub fn costs(&self) -> &Costs {
        self.0.store.costs()
    }

    /// Ready when this node has looked at all owners once, and has taken what nobody owned.
    pub async fn looked(&self) {
        loop {
            let seen = self.0.rounds.version();
            if self.0.looked.get() {
                return;
            }
            self.0.rounds.changed_since(seen).await;
        }
    }

    /// The store has not answered a commit for long: it is tried again until it does.
    pub fn is_late(&self) -> bool {
        self.0.journal.borrow().is_late()
    }

    /// Partitions that this node has.
    pub fn held(&self) -> Vec<PartitionId> {
        self.0.state.borrow().held.keys().copied().collect()
    }

    /// Takes partitions from whoever has them, at once. How many of them this node has now and had not before. It comes to nothing
    /// where the node leaves meanwhile: what is claimed by then is free as soon as its journal has ended.
    pub async fn take_over(&self, partitions: &[PartitionId]) -> Result<usize, SealError> {
        self.0.unless_stopping(self.takes_over(partitions)).await.unwrap_or(Ok(0))
    }

    async fn takes_over(&self, partitions: &[PartitionId]) -> Result<usize, SealError> {
        // A node whose journal was sealed claims only in its next incarnation, which begins in a moment.
        let _ = time::deadline(RENEWAL, self.0.renewed()).await;
        let _turn = self.0.turn.acquire(1).await;
        self.0.send_tails().await?;
        let held: BTreeSet<PartitionId> = self.held().into_iter().collect();
        let wanted: Vec<PartitionId> = partitions.iter().copied().filter(|id| !held.contains(id)).collect();
        // What is claimed already and damaged is tried again under its claim.
        let claimed: BTreeSet<PartitionId> = self.0.state.borrow().damaged.keys().copied().collect();
        self.0.retry_damaged(Duration::ZERO);
        self.0.look_at_owners(wanted.iter().copied()).await?;
        self.0.claim_all(wanted.iter().copied().filter(|id| !claimed.contains(id)).collect()).await?;
        self.0.take_pending().await?;
        let state = self.0.state.borrow();
        Ok(wanted.iter().filter(|id| state.held.contains_key(id)).count())
    }

    /// Takes a partition of which the manifest is damaged or missing all the same, so that accounts of it can be rebuilt; what
    /// that leaves in doubt is served to nobody. Whether this node has it then.
    pub async fn salvage(&self, partition: PartitionId) -> Result<bool, SealError> {
        self.0.unless_stopping(self.salvages(partition)).await.unwrap_or(Ok(false))
    }

    async fn salvages(&self, partition: PartitionId) -> Result<bool, SealError> {
        let _turn = self.0.turn.acquire(1).await;
        self.0.state.borrow_mut().salvaging.insert(partition);
        self.0.retry_damaged(Duration::ZERO);
        let taken = self.0.take_pending().await;
        let mut state = self.0.state.borrow_mut();
        state.salvaging.remove(&partition);
        taken?;
        Ok(state.held.contains_key(&partition))
    }

    /// Hands all partitions over and ends the journal: whoever comes next starts from manifests. What cannot be flushed stays
    /// in the journal.
    pub async fn leave(&self) {
        self.0.stopping.set(true);
        self.0.due.notify_all();
        let task = self.0.task.borrow_mut().take();
        if let Some(task) = task {
            task.cancel().await;
        }
        let _turn = self.0.turn.acquire(1).await;
        let releases = self.held().into_iter().map(|id| {
            let shard = self.0.shard_of(id);
            let release: LocalFuture<'_, ()> = Box::pin(async move {
                let released = mesh::call(shard, move || async move {
                    let Some(storage) = local::<Storage>() else { return Err(HoldError::Ended) };
                    storage.release(id).await.map(drop)
                });
                match released.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(partition = %id, %error, "not handed over in order"),
                    Err(error) => tracing::warn!(partition = %id, %error, "not handed over in order"),
                }
            });
            release
        });
        if time::deadline(RELEASE_WITHIN, sync::all(releases.collect())).await.is_err() {
            tracing::warn!("not all is flushed in time: whoever takes the rest reads the journal");
        }
        let journal = self.0.journal.borrow().clone();
        journal.close().await;
        if !journal.was_sealed() {
            // Nobody has to wait for a node that has said good-bye.
            let mut none = |_: &ObjectHead, _: &[u8]| Ok(());
            let (store, name) = (&self.0.store, &self.0.config.name);
            let sealed =
                seal(store, journal.incarnation(), self.0.share.store_id, name, PATIENCE, &mut none).await;
            if let Ok(at) = &sealed {
                self.0.note_complete(&journal, *at).await;
            }
            if let Err(error) = sealed {
                tracing::warn!(%error, "the journal is not closed in the store: others wait until they take this node for dead");
            }
        }
    }
}

impl Inner {
    fn shard_of(&self, id: PartitionId) -> usize {
        id.index() % shards()
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..self.share.partition_count).map(PartitionId)
    }

    fn taker(&self) -> Taker {
        Taker {
            store: self.store.clone(),
            store_id: self.share.store_id,
            name: self.config.name.clone(),
            address: self.config.address.clone(),
            incarnation: self.journal.borrow().incarnation(),
            local: self.share.acks_locally,
            patience: PATIENCE,
            salvaging: self.state.borrow().salvaging.clone(),
            kept_octets_max: KEPT_OCTETS_MAX.min(self.share.limits.cache_octets / 8),
        }
    }

    /// Shows to all shards until when the newest proof holds.
    async fn freshness(self: Rc<Self>) {
        loop {
            let journal = self.journal.borrow().clone();
            let until = journal.fresh_until().map_or(0, time::Instant::as_nanos);
            let until = if journal.has_ended() { 0 } else { until };
            self.share.fresh.store(until, Ordering::Relaxed);
            if journal.has_ended() {
                if self.stopping.get() {
                    return;
                }
                self.due.notify_all();
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            journal.moved().await;
        }
    }

    async fn run(self: Rc<Self>) {
        while !self.stopping.get() {
            let seen = self.due.version();
            let turn = self.turn.acquire(1).await;
            if self.journal.borrow().has_ended() {
                self.renew().await;
            }
            if let Err(error) = Box::pin(self.round()).await {
                tracing::warn!(%error, "the store does not tell who owns what; it is asked again");
            }
            drop(turn);
            let pause = self.config.look.mul_f64(0.75 + random::below(500) as f64 / 1000.0);
            let journal = self.journal.borrow().clone();
            let wait = async {
                let (due, ended) = (self.due.changed_since(seen), journal.ended());
                either(due, ended).await;
            };
            let _ = time::deadline(pause, wait).await;
        }
    }

    /// Ready when the journal of this incarnation goes on.
    async fn renewed(&self) {
        while self.journal.borrow().has_ended() && !self.stopping.get() {
            self.due.notify_all();
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is done, unless the node stops before: `None`, and the rest of it is not done.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            loop {
                let seen = self.due.version();
                if self.stopping.get() {
                    return;
                }
                self.due.changed_since(seen).await;
            }
        };
        let mut done = None;
        either(async { done = Some(work.await) }, stopped).await;
        done
    }

    /// R7: a new incarnation, which owns nothing.
    async fn renew(&self) {
        tracing::error!("this node lost what it owned; it begins anew");
        for shard in 0..shards() {
            let fenced = mesh::call(shard, || async {
                if let Some(storage) = local::<Storage>() {
                    storage.fenced();
                }
            });
            let _ = fenced.await;
        }
        let Ok(journal) = start_journal(&self.store, &self.share, &self.config).await.inspect_err(|error| {
            tracing::error!(%error, "no local tail for a new incarnation; it is tried again");
        }) else {
            return;
        };
        // What the one before has told clients and not sent is looked for before anything is claimed.
        let ended = self.journal.replace(journal).incarnation();
        self.look_for_tail_of(ended).await;
        {
            let mut state = self.state.borrow_mut();
            let (owners, own) = (std::mem::take(&mut state.owners), std::mem::take(&mut state.own));
            let left = std::mem::take(&mut state.left);
            *state = State { owners, own, left, ..State::default() };
        }
        if let Err(error) = self.note_incarnation().await {
            tracing::warn!(%error, "the new incarnation is not noted on the local disk");
        }
    }

    /// Writes down that this directory has had this incarnation. Where that fails only time is lost: after a restart it is
    /// taken for another node's until its lease is over.
    async fn note_incarnation(&self) -> std::io::Result<()> {
        let incarnation = self.journal.borrow().incarnation();
        let path = self.share.dir.join("INCARNATIONS");
        let own = {
            let mut state = self.state.borrow_mut();
            state.own.insert(incarnation);
            state.own.clone()
        };
        let octets: Vec<u8> = own.iter().flat_map(|incarnation| incarnation.0).collect();
        let fresh = self.share.dir.join("INCARNATIONS.new");
        match disk::remove(&fresh).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk::create_durable(&fresh, &octets).await?;
        disk::rename(&fresh, &path).await?;
        disk::sync_dir(&self.share.dir).await
    }

    /// One thing that fails keeps no other from being done: the first error is told.
    async fn round(self: &Rc<Self>) -> Result<(), SealError> {
        // Before a claim seals what they belong to.
        self.send_tails().await?;
        self.retry_damaged(DAMAGED_AGAIN);
        let before = self.take_pending().await;
        let claimed = self.claim_free().await;
        let taken = self.take_pending().await;
        let any = !self.state.borrow().held.is_empty();
        if claimed.is_ok() && (taken.is_ok() || any) {
            self.looked.set(true);
            self.rounds.notify_all();
        }
        let trimmed = self.trim().await;
        let swept = self.sweep().await;
        self.begin_merge();
        before.and(claimed).and(taken).and(trimmed).and(swept)
    }

    /// Takes over what was claimed and hands it to its shards.
    async fn take_pending(&self) -> Result<(), SealError> {
        let claims = self.state.borrow().pending.clone();
        if claims.is_empty() {
            return Ok(());
        }
        let began = time::now();
        let taker = self.taker();
        let taken = Box::pin(taker.take(claims)).await;
        // What was claimed for an incarnation that has ended is another's.
        if taker.incarnation != self.journal.borrow().incarnation() {
            return Ok(());
        }
        let (mut acquired, mut failed, mut damaged) = (Vec::new(), None, Vec::new());
        {
            let mut state = self.state.borrow_mut();
            for (claim, result) in taken.claims {
                match result {
                    Ok(one) => {
                        for gap in &one.seed.gaps {
                            state.awaited.entry(gap.of).or_default().wait(one.seed.partition, gap.epoch);
                        }
                        state.held.insert(one.seed.partition, one.seed.epoch);
                        acquired.push(one);
                    }
                    Err(error @ SealError::Store(_)) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                    Err(error) => damaged.push((claim.clone(), error)),
                }
                state.pending.retain(|pending| *pending != claim);
            }
            for (incarnation, read) in taken.journals {
                if let Some(at) = read.sealed {
                    let dead = state.dead.entry(incarnation).or_default();
                    dead.sealed = at;
                    dead.owners.extend(read.owners);
                }
            }
        }
        let count = acquired.len();
        let mut by_shard: BTreeMap<usize, Vec<Acquired>> = BTreeMap::new();
        for one in acquired {
            by_shard.entry(self.shard_of(one.seed.partition)).or_default().push(one);
        }
        let mut calls: Vec<LocalFuture<'_, ()>> = Vec::new();
        for (shard, of_shard) in by_shard {
            calls.push(Box::pin(async move {
                let given = mesh::call(shard, move || async move {
                    let Some(storage) = local::<Storage>() else { return };
                    let opened = of_shard.into_iter().map(|one| {
                        let storage = storage.clone();
                        let opened: LocalFuture<'_, _> = Box::pin(async move { storage.acquire(one).await });
                        opened
                    });
                    for opened in sync::all(opened.collect()).await {
                        if let Err(error) = opened {
                            tracing::warn!(%error, "a partition that was taken over is lost again");
                        }
                    }
                });
                let _ = given.await;
            }));
        }
        sync::all(calls).await;
        for (claim, error) in damaged {
            self.note_damaged(claim, error).await;
        }
        if count > 0 {
            tracing::info!(partitions = count, ms = began.elapsed().as_millis() as u64, "taken over");
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Ready when one of two is.
async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    std::future::poll_fn(|cx| match a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
        true => std::task::Poll::Ready(()),
        false => std::task::Poll::Pending,
    })
    .await;
}

/// Who the store is; made where it is nobody yet.
async fn identity(store: &Store, limits: &Limits) -> Result<StoreIdentity, StoreError> {
    let mine =
        StoreIdentity { partitions: limits.partitions.max(1), store: nonce(), created: time::wall().0 };
    let parse = |bytes: &[u8]| {
        StoreIdentity::parse(bytes).map_err(|_| {
            StoreError::Refused(crate::store::Refusal {
                what: format!("{}: it is no store of this program, or of a newer one", keys::STORE),
                remedy: "mend the prefix in the store's address".to_owned(),
            })
        })
    };
    match store.get(keys::STORE, None, PATIENCE, None).await {
        Ok(bytes) => parse(&bytes),
        Err(StoreError::NotFound(_)) => {
            match store.create(keys::STORE, &Octets::from(mine.encode()), PATIENCE).await? {
                Created::Mine => Ok(mine),
                Created::Foreign(bytes) => parse(&bytes),
            }
        }
        Err(error) => Err(error),
    }
}

/// An empty directory: drafts of an earlier process are nothing.
async fn clear(dir: &Path) -> std::io::Result<()> {
    disk::create_dir_all(dir).await?;
    for entry in disk::list(dir).await? {
        if !entry.is_dir {
            disk::remove(dir.join(&entry.name)).await?;
        }
    }
    Ok(())
}

async fn read_incarnations(path: &Path) -> std::io::Result<BTreeSet<Incarnation>> {
    let bytes = match disk::read(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let (whole, _) = bytes.as_chunks::<16>();
    Ok(whole.iter().map(|id| Incarnation(*id)).collect())
}

#[cfg(test)]
#[path = "tests_node.rs"]
mod tests;
