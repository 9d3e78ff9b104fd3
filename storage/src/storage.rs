//! The storage of one shard: submit, read, load, and the tasks behind them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::disk;
use culver_shard::sync::{self, Notify, Semaphore, oneshot};
use culver_shard::{Queue, Task, mesh, spawn, time};

use crate::body::{Body, BodyWriter, Frame, Reader};
use crate::cache::{Cache, CacheStatus, Part, Reading};
use crate::error::{CommitError, OpenError, ReadError, SubmitError};
use crate::journal::commit::shared::NodeLink;
use crate::journal::commit::{Haste, Journal, OnCommit, Pending};
use crate::journal::format::{RecordKind, parse_head};
use crate::limits::Limits;
use crate::objects::{ObjectFile, Objects, Stored, UnsentRead};
use crate::partition::{Partition, Serving, Unflushed};
use crate::paths::Paths;
use crate::place::{ObjectId, ObjectKind, Place, Position, here};
use crate::recover::Shared;
use crate::root::Share;
use crate::shared::journal::Ended;
use crate::shared::node::{Node, NodeShare};
use crate::source::{LocalFuture, Source};
use crate::table::format::BlockEntry;
use crate::table::{Block, Named, Table, find_account};

/// A record that is committed, as it is told to who submitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub position: Position,
    /// The places of the record's bodies, in their order.
    pub bodies: Vec<Place>,
}

/// What [`Storage::load`] gives.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The newest record that the blocks contain.
    pub position: Position,
    /// By key, ascending; base first, then deltas, oldest first. Removed keys are left out.
    pub blocks: Vec<(Guid, Vec<Block>)>,
    /// Committed records beyond the blocks, in order.
    pub records: Vec<LoadedRecord>,
    /// Where beyond the blocks UIDs and MODSEQs are raised by a gap, ascending; no record has one of these positions.
    /// With each, the journal of whose owner something may be missing.
    pub gaps: Vec<(Position, Guid)>,
}

#[derive(Clone, Debug)]
pub struct LoadedRecord {
    pub position: Position,
    pub meta: Vec<u8>,
    pub bodies: Vec<Place>,
}

/// Figures of a shard's storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Records and octets submitted and not yet committed.
    pub pending_records: usize,
    pub pending_octets: u64,
    /// Octets of committed journal that no flush contains.
    pub unflushed_octets: u64,
    pub unflushed_records: u64,
    /// Since the start: records and batches committed (a batch is one sync), octets written to the journal, flushes
    /// and compactions finished, failed syncs.
    pub records: u64,
    pub batches: u64,
    pub journal_octets: u64,
    pub flushes: u64,
    pub compactions: u64,
    pub cuts: u64,
    /// The disk is full: only urgent records are taken.
    pub full: bool,
    /// Accounts that the last flush of their partition had to leave out: somebody has to look at them.
    pub left_out_accounts: u64,
    /// Panics of flushes and of the housekeeping, since the start.
    pub panics: u64,
}

/// One of several records for [`Storage::submit_together`].
pub struct Together {
    pub meta: Vec<u8>,
    pub bodies: Vec<Body>,
    /// As for [`Storage::submit_numbered`].
    pub numbers: Option<u32>,
    pub on_commit: OnCommit,
}

/// The storage of this shard. Clones are the same storage.
#[derive(Clone)]
pub struct Storage(pub(crate) Rc<Inner>);

pub(crate) struct Inner {
    pub paths: Paths,
    pub limits: Limits,
    pub store: [u8; 16],
    pub partition_count: u16,
    pub epoch: u32,
    pub shard: u16,
    pub partitions: BTreeMap<u16, RefCell<Partition>>,
    pub journal: Journal,
    /// On a shared store.
    pub node: Option<NodeLink>,
    pub acks_locally: bool,
    pub source: RefCell<Option<Rc<dyn Source>>>,
    pub body_memory: Semaphore,
    /// Objects that nothing names; the housekeeping removes them.
    pub garbage: RefCell<Vec<(PartitionId, ObjectId)>>,
    pub objects: Objects,
    pub shared: Arc<Shared>,
    pub unflushed_octets: Cell<u64>,
    pub status: RefCell<Status>,
    /// Something for the housekeeping to do before its next tick.
    pub due: Notify,
    /// A flush or a carried Flush record ended.
    pub flushed: Notify,
    /// One trim, and one compaction, at a time.
    pub trimming: Semaphore,
    pub compacting: Semaphore,
    /// Objects whose compaction failed, and when.
    pub resting: RefCell<BTreeMap<ObjectId, time::Instant>>,
    next_number: Cell<u64>,
    made_dirs: RefCell<std::collections::BTreeSet<u16>>,
    open_objects: RefCell<OpenObjects>,
    /// Who opens the tables of a partition, by its number.
    table_turns: Vec<Semaphore>,
    /// They end when everything that was taken is told.
    commit_tasks: RefCell<Vec<Task<()>>>,
    tasks: RefCell<Vec<Task<()>>>,
}

/// Records of an account that are read of a store at once.
const RECORDS_AT_ONCE: usize = 32;
/// Partitions whose tables are opened at once, at most: a store is asked for the tables of one together.
const TABLE_TURNS: usize = 64;

/// Blocks of one table that are read together, and where they go.
struct Wanted {
    table: Rc<Table>,
    nth: Vec<usize>,
    entries: Vec<BlockEntry>,
}

/// Objects held open for reading, the least recently used given up first.
#[derive(Default)]
struct OpenObjects {
    open: BTreeMap<(PartitionId, ObjectId), (u64, ObjectFile)>,
    uses: u64,
}

impl Storage {
    /// Takes a shard's share of a recovered store and starts its journal. Call it on that shard, once.
    pub async fn start(share: Share) -> Result<Storage, OpenError> {
        let now = time::now();
        let partitions: BTreeMap<u16, RefCell<Partition>> = share
            .partitions
            .into_iter()
            .map(|seed| (seed.partition.0, RefCell::new(Partition::new(seed, now))))
            .collect();
        let unflushed = partitions.values().map(|partition| partition.borrow().unflushed_octets).sum();
        let journal = Journal::new(&share.limits, share.epoch, share.shard, false);
        let inner = Rc::new(Inner {
            body_memory: Semaphore::new(share.limits.body_memory_octets_max as usize),
            objects: Objects::Local(share.paths.clone()),
            paths: share.paths,
            limits: share.limits,
            store: share.store,
            partition_count: share.partition_count,
            epoch: share.epoch,
            shard: share.shard,
            partitions,
            journal,
            node: None,
            acks_locally: false,
            source: RefCell::new(None),
            garbage: RefCell::default(),
            shared: share.shared,
            unflushed_octets: Cell::new(unflushed),
            status: RefCell::default(),
            due: Notify::new(),
            flushed: Notify::new(),
            trimming: Semaphore::new(1),
            compacting: Semaphore::new(1),
            resting: RefCell::default(),
            next_number: Cell::new(1),
            made_dirs: RefCell::default(),
            open_objects: RefCell::default(),
            table_turns: (0..TABLE_TURNS).map(|_| Semaphore::new(1)).collect(),
            commit_tasks: RefCell::default(),
            tasks: RefCell::default(),
        });
        inner.open_journal().await?;
        let commit = spawn(Queue::Commit, "journal commit", inner.clone().commit_loop());
        inner.commit_tasks.borrow_mut().push(commit);
        Ok(Storage(inner))
    }

    /// Starts the storage of a shard of a node on a shared store, which has no partition yet. Call it on that shard, once.
    pub async fn start_shared(share: NodeShare) -> Result<Storage, OpenError> {
        let store = share.source.open().await.map_err(OpenError::Store)?;
        let (shard, shards) = (culver_shard::shard(), culver_shard::shards());
        let of_shard = (0..share.partition_count).filter(|id| usize::from(*id) % shards == shard);
        let partitions =
            of_shard.map(|id| (id, RefCell::new(Partition::absent(PartitionId(id), 0)))).collect();
        let append = Rc::new(|part| -> LocalFuture<'static, _> {
            Box::pin(async move {
                let appended = mesh::call(0, move || async move {
                    match culver_shard::local::<Node>() {
                        Some(node) => node.append(part).await,
                        None => Err(Ended),
                    }
                });
                appended.await.unwrap_or(Err(Ended))
            })
        });
        let (cache_octets, waiting) = (share.limits.cache_octets, share.limits.cache_waiting_octets_max);
        let (cache, filling) = match cache_octets {
            0 => (None, None),
            octets => {
                let (cache, task) = Cache::start(&share.dir.join("cache"), share.store_id, octets, waiting);
                (Some(cache), Some(task))
            }
        };
        let unsent = share.acks_locally.then(unsent_reads);
        let drafts = share.dir.join("drafts");
        let stored = Stored::new(store, drafts, cache, share.limits.window_octets_max, unsent);
        let inner = Rc::new(Inner {
            body_memory: Semaphore::new(share.limits.body_memory_octets_max as usize),
            objects: Objects::Stored(stored),
            paths: Paths::new(&share.dir),
            store: share.store_id,
            partition_count: share.partition_count,
            epoch: 0,
            shard: shard as u16,
            partitions,
            journal: Journal::new(&share.limits, 0, shard as u16, true),
            node: Some(NodeLink::new(append, share.fresh)),
            acks_locally: share.acks_locally,
            limits: share.limits,
            source: RefCell::new(None),
            garbage: RefCell::default(),
            shared: Arc::default(),
            unflushed_octets: Cell::new(0),
            status: RefCell::default(),
            due: Notify::new(),
            flushed: Notify::new(),
            trimming: Semaphore::new(1),
            compacting: Semaphore::new(1),
            resting: RefCell::default(),
            next_number: Cell::new(1),
            made_dirs: RefCell::default(),
            open_objects: RefCell::default(),
            table_turns: (0..TABLE_TURNS).map(|_| Semaphore::new(1)).collect(),
            commit_tasks: RefCell::default(),
            tasks: RefCell::default(),
        });
        let send = spawn(Queue::Commit, "journal parts", inner.clone().send_loop());
        let tell = spawn(Queue::Commit, "journal telling", inner.clone().tell_loop());
        inner.commit_tasks.borrow_mut().extend([send, tell]);
        inner.tasks.borrow_mut().extend(filling);
        let storage = Storage(inner);
        culver_shard::set_local(Rc::new(storage.clone()));
        Ok(storage)
    }

    /// The store's journal was sealed: see [`Inner::fenced`].
    pub(crate) fn fenced(&self) {
        self.0.fenced();
    }

    /// Names the layer above and starts flush, trim and compaction. Call it before the first submission.
    pub fn attach(&self, source: Rc<dyn Source>) {
        *self.0.source.borrow_mut() = Some(source);
        let housekeeping = spawn(Queue::Background, "storage housekeeping", self.0.clone().housekeeping());
        self.0.tasks.borrow_mut().push(housekeeping);
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// This process's epoch: greater than that of every earlier start.
    pub fn epoch(&self) -> u32 {
        self.0.epoch
    }

    pub fn store_id(&self) -> [u8; 16] {
        self.0.store
    }

    /// How many partitions the store has, over all shards.
    pub fn partition_count(&self) -> u16 {
        self.0.partition_count
    }

    /// The partition of an account in this store.
    pub fn partition_of(&self, account: &AccountId) -> PartitionId {
        account.partition(self.0.partition_count)
    }

    /// The owner's epoch of a partition, and its term here, which changes whenever it comes or goes.
    ///
    /// # Panics
    /// Where the partition is of another shard.
    pub fn term_of(&self, partition: PartitionId) -> (u32, u64) {
        let partition = self.0.partition(partition).borrow();
        (partition.epoch, partition.term)
    }

    /// The partitions of this shard, ascending.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.0.partitions.keys().map(|id| PartitionId(*id)).collect()
    }

    pub fn status(&self) -> Status {
        let mut status = *self.0.status.borrow();
        (status.pending_records, status.pending_octets) = self.0.journal.pending();
        status.full = self.0.journal.full();
        status.unflushed_octets = self.0.unflushed_octets.get();
        let records = |partition: &RefCell<Partition>| {
            partition.borrow().unflushed.values().map(|records| records.len() as u64).sum::<u64>()
        };
        let left_out = |partition: &RefCell<Partition>| partition.borrow().left_out.len() as u64;
        status.left_out_accounts = self.0.partitions.values().map(left_out).sum();
        status.unflushed_records = self.0.partitions.values().map(records).sum();
        status
    }

    /// Figures of the cache of bodies; `None` where there is none.
    pub fn cache_status(&self) -> Option<CacheStatus> {
        self.0.objects.stored()?.cache().map(Cache::status)
    }

    /// Hands a record to the journal. `on_commit` runs on this shard when it is committed or known not to be, strictly
    /// in the order of submission; before that nothing of the record is visible. It must not submit in its turn
    /// without bound, and a panic in it resets the account.
    pub fn submit(
        &self,
        partition: PartitionId,
        account: &AccountId,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        haste: Haste,
        on_commit: OnCommit,
    ) -> Result<(), SubmitError> {
        let mut pending = self.0.pending(partition, account, meta, bodies, haste, on_commit)?;
        self.0.check_room(&mut pending)?;
        self.0.enqueue(pending);
        Ok(())
    }

    /// As [`Storage::submit`], waiting for room, first come, first served. `Busy` where a failed sync dropped what the
    /// record was prepared on meanwhile.
    pub async fn submit_wait(
        &self,
        partition: PartitionId,
        account: &AccountId,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        haste: Haste,
        on_commit: OnCommit,
    ) -> Result<(), SubmitError> {
        let mut pending = self.0.pending(partition, account, meta, bodies, haste, on_commit)?;
        let gate = self.0.wait_for_room(&mut pending).await?;
        self.0.enqueue(pending);
        drop(gate);
        Ok(())
    }

    /// As [`Storage::submit_wait`], for a record that gives so many UIDs (and as many MODSEQs) at most; `None`: it is told when
    /// the store has it, however this node acknowledges.
    #[allow(clippy::too_many_arguments, reason = "what a record is, and how it is told")]
    pub async fn submit_numbered(
        &self,
        partition: PartitionId,
        account: &AccountId,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        haste: Haste,
        numbers: Option<u32>,
        on_commit: OnCommit,
    ) -> Result<(), SubmitError> {
        let pending = self.0.pending(partition, account, meta, bodies, haste, on_commit)?;
        let mut pending = pending.giving(numbers);
        let gate = self.0.wait_for_room(&mut pending).await?;
        self.0.enqueue(pending);
        drop(gate);
        Ok(())
    }

    /// Records of one account that are committed together or not at all: one batch. `TooLarge` where they need more than
    /// half of what may be pending.
    pub async fn submit_together(
        &self,
        partition: PartitionId,
        account: &AccountId,
        records: Vec<Together>,
        haste: Haste,
    ) -> Result<(), SubmitError> {
        let mut pending = Vec::with_capacity(records.len());
        for Together { meta, bodies, numbers, on_commit } in records {
            let one = self.0.pending(partition, account, meta, bodies, haste, on_commit)?;
            pending.push(one.giving(numbers));
        }
        let (octets, limit) =
            (pending.iter().map(|one| one.octets).sum(), self.0.limits.pending_octets_max / 2);
        if octets > limit {
            return Err(SubmitError::TooLarge { octets, limit });
        }
        let (gate, mut room) = self.0.room_for(octets, haste).await?;
        let last = pending.len().saturating_sub(1);
        for (at, one) in pending.into_iter().enumerate() {
            let room = if at == last { room.take() } else { None };
            self.0.enqueue(one.joined(at != last).in_room(room));
        }
        drop(gate);
        Ok(())
    }

    /// Whether changes are told after the local disk, before the store has them.
    pub fn acks_locally(&self) -> bool {
        self.0.acks_locally
    }

    /// Submits and waits for the commit, for who has no order of its own to keep.
    pub async fn commit(
        &self,
        partition: PartitionId,
        account: &AccountId,
        meta: Vec<u8>,
        bodies: Vec<Body>,
    ) -> Result<Committed, CommitError> {
        let (sender, receiver) = oneshot::channel();
        let told: OnCommit = Box::new(move |result| drop(sender.send(result)));
        match self.submit_wait(partition, account, meta, bodies, Haste::Interactive, told).await {
            Ok(()) => receiver.await.unwrap_or(Err(CommitError::Unknown)),
            Err(SubmitError::NoSpace) => Err(CommitError::NoSpace),
            Err(_) => Err(CommitError::Lost),
        }
    }

    /// Begins a body of the account. With `size_hint` memory for it is taken at once, where there is some.
    pub fn body_writer(
        &self,
        partition: PartitionId,
        account: &AccountId,
        size_hint: Option<u64>,
    ) -> BodyWriter {
        BodyWriter::new(self.0.clone(), partition, account.clone(), size_hint)
    }

    /// Octets of a range of a body, cut at its end; what is read is checked. The range is held in memory: use
    /// [`Storage::reader`] for long ones. [`ReadError::Gone`]: the place was compacted away, look it up again.
    pub async fn read_place(
        &self,
        partition: PartitionId,
        place: &Place,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ReadError> {
        let wanted = if range.start == 0 { range.end } else { 0 };
        Frame::open(&self.0, partition, place, wanted, Reading::Client).await?.range(range).await
    }

    /// As [`Storage::read_place`]; what a store is asked for it goes on the bill of an account.
    pub async fn read_place_for(
        &self,
        partition: PartitionId,
        account: &AccountId,
        place: &Place,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ReadError> {
        let wanted = if range.start == 0 { range.end } else { 0 };
        Frame::open_for(&self.0, partition, account, place, wanted).await?.range(range).await
    }

    /// A whole body, chunk by chunk.
    pub async fn reader(&self, partition: PartitionId, place: &Place) -> Result<Reader, ReadError> {
        // Of a file the chunks are read as they are asked for; a store is not asked twice for what one request brings.
        let wanted = if self.0.objects.stored().is_some() { place.length } else { 0 };
        Ok(Frame::open(&self.0, partition, place, wanted, Reading::Client).await?.into_reader())
    }

    /// Everything committed of an account: its blocks and the records beyond them. It is complete at the moment this
    /// returns, so put it in place before the next await.
    pub async fn load(&self, partition: PartitionId, account: &AccountId) -> Result<Loaded, ReadError> {
        self.0.load(partition, account).await
    }

    /// The accounts of a partition that have blocks or records, ascending, also those whose blocks are all removed.
    pub async fn accounts(&self, partition: PartitionId) -> Result<Vec<AccountId>, ReadError> {
        let mut names: std::collections::BTreeSet<AccountId> = std::collections::BTreeSet::new();
        for table in self.0.tables(partition).await?.iter().filter_map(Named::opened) {
            for page in 0..table.pages() {
                let entries = table.page(page).await?;
                names.extend(entries.iter().filter_map(|entry| AccountId::parse(&entry.account).ok()));
            }
        }
        names.extend(self.0.partition(partition).borrow().unflushed.keys().cloned());
        Ok(names.into_iter().collect())
    }

    /// No message names this place any more (as of a committed record): its octets may be reclaimed. Calling it never
    /// deletes what a message names; not calling it only keeps octets longer.
    pub fn released(&self, partition: PartitionId, account: &AccountId, place: &Place) {
        let mut partition = self.0.partition(partition).borrow_mut();
        if let Some(body) = partition.unflushed_body(account, place) {
            body.dead = true;
            return;
        }
        *partition.released.entry(place.object).or_default() += place.length;
    }

    /// Flushes one partition now; waits for one that is under way first.
    pub async fn flush(&self, partition: PartitionId) -> Result<(), std::io::Error> {
        self.0.flush_now(partition).await.map_err(std::io::Error::other)
    }

    /// Flushes every partition that has unflushed records.
    pub async fn flush_all(&self) -> Result<(), std::io::Error> {
        for partition in self.partitions() {
            self.flush(partition).await?;
        }
        Ok(())
    }

    /// Lowers the low marks and removes what is no longer needed, as the housekeeping does by itself.
    pub async fn trim(&self) -> Result<(), std::io::Error> {
        self.0.trim().await.map_err(std::io::Error::other)
    }

    /// Rewrites the bodies of one object that is mostly dead, if there is one. True where something was done.
    pub async fn compact(&self) -> Result<bool, std::io::Error> {
        self.0.compact_one().await.map_err(std::io::Error::other)
    }

    /// Ready when the journal has failed for good: the process has to end, and to be started again.
    pub async fn failed(&self) {
        self.0.journal.failed().await;
    }

    /// Takes no more records, commits those that were taken, flushes where `flush` asks for it, and ends the tasks.
    pub async fn close(self, flush: bool) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        // The housekeeping ends first: a flush between two relocations of a compaction would take the pack they share
        // for one that nothing names.
        for task in tasks {
            task.cancel().await;
        }
        if flush && let Err(error) = self.flush_all().await {
            tracing::warn!(%error, "not flushed at the end; the journal keeps what is missing");
        }
        self.0.journal.close();
        let commit_tasks = std::mem::take(&mut *self.0.commit_tasks.borrow_mut());
        for task in commit_tasks {
            let _ = task.await;
        }
        self.0.remove_garbage().await;
        let end = self.0.journal.end();
        self.0.shorten_closed(true).await;
        if let Some((last, end_lsn)) = end
            && let Err(error) = self.0.mark_end(last, end_lsn).await
        {
            tracing::warn!(%error, "the journal's end is not marked: the next start takes it as after a crash");
        }
        *self.0.source.borrow_mut() = None;
    }
}

impl Inner {
    /// A partition of this shard.
    ///
    /// # Panics
    /// Where it belongs to another shard: the caller routed an account wrongly.
    pub fn partition(&self, id: PartitionId) -> &RefCell<Partition> {
        self.partitions.get(&id.0).unwrap_or_else(|| panic!("partition {id} belongs to another shard"))
    }

    /// A name never used before.
    pub fn next_object(&self, partition: PartitionId, kind: ObjectKind) -> ObjectId {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        ObjectId { kind, shard: self.shard, epoch: self.partition(partition).borrow().epoch, number }
    }

    /// The position that the next record of a partition has or passes: everything before it is committed or void, unless a
    /// batch is on its way.
    pub fn next_position(&self, partition: PartitionId) -> Position {
        let epoch = self.partition(partition).borrow().epoch;
        Position { epoch, lsn: self.journal.next_lsn() }
    }

    pub fn source(&self) -> Option<Rc<dyn Source>> {
        self.source.borrow().clone()
    }

    /// Keeps a task that ends by itself, or when this storage is closed.
    pub fn run_beside(&self, task: Task<()>) {
        self.tasks.borrow_mut().push(task);
    }

    /// Makes `data/<partition>` durable before its first file.
    pub async fn make_partition_dir(&self, partition: PartitionId) -> std::io::Result<()> {
        if self.objects.stored().is_some() || self.made_dirs.borrow().contains(&partition.0) {
            return Ok(());
        }
        disk::create_dir_all(self.paths.partition(partition)).await?;
        disk::sync_dir(self.paths.data()).await?;
        self.made_dirs.borrow_mut().insert(partition.0);
        Ok(())
    }

    fn pending(
        self: &Rc<Self>,
        partition: PartitionId,
        account: &AccountId,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        haste: Haste,
        on_commit: OnCommit,
    ) -> Result<Pending, SubmitError> {
        assert!(self.partitions.contains_key(&partition.0), "partition {partition} belongs to another shard");
        if meta.len() > self.limits.meta_octets_max || bodies.len() > usize::from(u16::MAX) {
            let limit = self.limits.meta_octets_max as u64;
            return Err(SubmitError::TooLarge { octets: meta.len() as u64, limit });
        }
        let (stuck, term) = {
            let partition = self.partition(partition).borrow();
            if !partition.serving.takes(haste) {
                return Err(SubmitError::NotHere);
            }
            (partition.left_out.get(account).copied().unwrap_or(0), partition.term)
        };
        if stuck > self.limits.left_out_octets_max && haste != Haste::Urgent {
            return Err(SubmitError::Busy);
        }
        // A pack that was written in an earlier term may be gone.
        if bodies.iter().any(|body| body.term().is_some_and(|written| written != term)) {
            return Err(SubmitError::NotHere);
        }
        let (kind, owner) = (RecordKind::Data, Some(account.clone()));
        let on_commit = self.keep_committed(partition, account, &meta, &bodies, on_commit);
        let pending = Pending::new(kind, (partition, term), owner, meta, bodies, haste, on_commit);
        let limit = u64::from(u32::MAX / 2);
        if pending.octets > limit {
            return Err(SubmitError::TooLarge { octets: pending.octets, limit });
        }
        Ok(pending)
    }

    /// The object of a place, opened.
    pub async fn open_object(&self, partition: PartitionId, place: &Place) -> Result<ObjectFile, ReadError> {
        let id = place.object;
        // A segment of a local journal is of all partitions: one file serves them.
        let key = match id.kind {
            ObjectKind::Segment if self.objects.stored().is_none() => (PartitionId(0), id),
            _ => (partition, id),
        };
        {
            let mut objects = self.open_objects.borrow_mut();
            objects.uses += 1;
            let uses = objects.uses;
            if let Some((used, file)) = objects.open.get_mut(&key) {
                *used = uses;
                return Ok(file.clone());
            }
        }
        let file = self.objects.open(partition, id).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ReadError::Gone(*place),
            _ => ReadError::Io { path: self.objects.name(partition, id), source },
        })?;
        let mut objects = self.open_objects.borrow_mut();
        objects.uses += 1;
        let uses = objects.uses;
        objects.open.insert(key, (uses, file.clone()));
        if objects.open.len() > self.limits.open_objects_max.max(1) {
            let oldest = objects.open.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| objects.open.remove(&key));
        }
        Ok(file)
    }

    /// Closes all objects of a partition.
    pub fn forget_objects(&self, partition: PartitionId) {
        self.open_objects.borrow_mut().open.retain(|(of, _), _| *of != partition);
    }

    /// Forgets an object whose file is removed.
    pub fn close_object(&self, id: ObjectId) {
        self.open_objects.borrow_mut().open.retain(|(_, open), _| *open != id);
    }

    /// The open tables of a partition, oldest first.
    pub async fn tables(&self, partition: PartitionId) -> Result<Rc<[Named]>, ReadError> {
        loop {
            let (generation, manifest) = {
                let partition = self.partition(partition).borrow();
                if let Some(tables) = &partition.tables {
                    return Ok(tables.clone());
                }
                (partition.generation(), partition.manifest.clone())
            };
            let Some(manifest) = manifest else { return Ok(Rc::new([])) };
            // Many come at once after a takeover: one opens them for all.
            let _turn = self.table_turns[usize::from(partition.0) % self.table_turns.len()].acquire(1).await;
            let ready = {
                let partition = self.partition(partition).borrow();
                partition.generation() != generation || partition.tables.is_some()
            };
            if ready {
                continue;
            }
            let opened = self.open_tables(partition, &manifest.tables).await;
            let mut partition = self.partition(partition).borrow_mut();
            // A flush may have replaced and removed them meanwhile.
            if partition.generation() == generation {
                let tables: Rc<[Named]> = opened?.into();
                // What is missing may be put back by somebody: it is looked for again.
                let lost = |table: &Named| table.opened().is_none() && !table.reference().is_given_up();
                if !tables.iter().any(lost) {
                    partition.tables = Some(tables.clone());
                }
                return Ok(tables);
            }
        }
    }

    async fn open_tables(
        &self,
        partition: PartitionId,
        references: &[crate::manifest::TableRef],
    ) -> Result<Vec<Named>, ReadError> {
        let opens = references.iter().map(|reference| -> LocalFuture<'_, _> {
            Box::pin(async move {
                let path = self.objects.name(partition, reference.object);
                if reference.is_given_up() {
                    return Ok(Named::given_up(*reference, path));
                }
                let opened = match self.objects.open(partition, reference.object).await {
                    Ok(file) => Table::of(file, &path, partition, *reference).await,
                    Err(error) => Err(ReadError::io(&path)(error)),
                };
                Named::of(opened, *reference, path)
            })
        });
        sync::all(opens.collect()).await.into_iter().collect()
    }

    async fn load(&self, partition: PartitionId, account: &AccountId) -> Result<Loaded, ReadError> {
        loop {
            let generation = {
                let partition = self.partition(partition).borrow();
                if !matches!(partition.serving, Serving::Open | Serving::Leaving) {
                    return Err(ReadError::NotHere);
                }
                partition.generation()
            };
            let attempt = self.load_once(partition, account, generation).await;
            // What was read may be gone or superseded by a flush that committed meanwhile: begin again.
            if self.partition(partition).borrow().generation() == generation {
                return match attempt {
                    // A node that was frozen or cut off: a later owner may have removed what it looks for.
                    Err(error) if error.is_loss() && !self.is_fresh() => Err(ReadError::NotHere),
                    attempt => attempt,
                };
            }
        }
    }

    /// Whether a partition that is here cannot have gone to another node without this one's knowing.
    pub fn is_fresh(&self) -> bool {
        self.node.as_ref().is_none_or(|node| node.is_fresh())
    }

    async fn load_once(
        &self,
        partition: PartitionId,
        account: &AccountId,
        generation: (u64, u64),
    ) -> Result<Loaded, ReadError> {
        let unflushed = |after: Position| -> Vec<Unflushed> {
            let partition = self.partition(partition).borrow();
            let changed = partition.generation() != generation;
            let records = partition.unflushed.get(account).filter(|_| !changed);
            let beyond = |record: &&Unflushed| record.position > after;
            records.map_or(Vec::new(), |records| records.iter().filter(beyond).cloned().collect())
        };
        // A store is asked for blocks and records at once.
        let early = match self.objects.stored() {
            Some(_) => unflushed(Position::default()),
            None => Vec::new(),
        };
        let (mut blocks, mut records) = (None, None);
        let both: Vec<LocalFuture<'_, ()>> = vec![
            Box::pin(async { blocks = Some(self.load_blocks(partition, account).await) }),
            Box::pin(async { records = Some(self.read_records(partition, account, &early).await) }),
        ];
        sync::all(both).await;
        let (position, blocks) = blocks.expect("it was awaited")?;
        let gaps = {
            let partition = self.partition(partition).borrow();
            partition.gaps_after(position)
        };
        let records = records.expect("it was awaited")?;
        let mut loaded = Loaded { position, blocks, records, gaps };
        loaded.records.retain(|record| record.position > position);
        // Records that commit while these are read come behind them; the last look finds none and does not await.
        let mut after = loaded.records.last().map_or(position, |record| record.position);
        loop {
            let wanted = unflushed(after);
            let Some(last) = wanted.last() else { return Ok(loaded) };
            after = last.position;
            loaded.records.extend(self.read_records(partition, account, &wanted).await?);
        }
    }

    /// The newest record that the blocks of an account contain, and the blocks.
    async fn load_blocks(
        &self,
        partition: PartitionId,
        account: &AccountId,
    ) -> Result<(Position, Vec<(Guid, Vec<Block>)>), ReadError> {
        let tables = self.tables(partition).await?;
        let (position, found) = find_account(&tables, account.as_str()).await?;
        let (mut guids, mut wanted): (Vec<Guid>, Vec<Wanted>) = (Vec::new(), Vec::new());
        for (guid, key) in found {
            for (table, entry) in key {
                let nth = guids.len();
                guids.push(guid);
                match wanted.iter_mut().find(|of| Rc::ptr_eq(&of.table, &table)) {
                    Some(of) => {
                        of.nth.push(nth);
                        of.entries.push(entry);
                    }
                    None => wanted.push(Wanted { table, nth: vec![nth], entries: vec![entry] }),
                }
            }
        }
        let min = self.limits.map_octets_min;
        let reads = wanted
            .iter()
            .map(|of| -> LocalFuture<'_, _> { Box::pin(of.table.blocks(account, &of.entries, min)) });
        let read = sync::all(reads.collect()).await;
        let mut blocks: Vec<Option<Block>> = vec![None; guids.len()];
        for (of, read) in wanted.iter().zip(read) {
            for (nth, block) in of.nth.iter().zip(read?) {
                blocks[*nth] = Some(block);
            }
        }
        let mut loaded: Vec<(Guid, Vec<Block>)> = Vec::new();
        for (guid, block) in guids.into_iter().zip(blocks) {
            let block = block.expect("each table gave its blocks");
            match loaded.last_mut().filter(|(last, _)| *last == guid) {
                Some((_, blocks)) => blocks.push(block),
                None => loaded.push((guid, vec![block])),
            }
        }
        Ok((position, loaded))
    }

    /// The meta and places of a committed record.
    pub async fn read_record(
        &self,
        partition: PartitionId,
        account: &AccountId,
        record: &Unflushed,
    ) -> Result<(Vec<u8>, Vec<Place>), ReadError> {
        let place =
            Place { object: record.segment, offset: record.offset, length: u64::from(record.head_octets) };
        let file = self.open_object(partition, &place).await?.on_bill_of(account);
        let path = self.objects.name(partition, record.segment);
        let octets = record.head_octets as usize;
        let bytes = match file.stored() {
            Some(object) => {
                let sound = |head: &[u8]| parse_head(head).is_ok();
                object.read_part(record.offset, octets, Part::RecordHead, sound).await
            }
            None => file.read_at(record.offset, octets).await,
        };
        let bytes = bytes.map_err(ReadError::io(&path))?;
        let mut head = parse_head(&bytes).map_err(|what| ReadError::corrupt(&path, record.offset, what))?;
        here(&mut head.places, record.segment, record.offset);
        if head.account != account.as_str() {
            return Err(ReadError::corrupt(&path, record.offset, "the record is of another account"));
        }
        Ok((head.meta.to_vec(), head.places))
    }

    /// As [`Inner::read_record`] for each; of a store, several at a time.
    async fn read_records(
        &self,
        partition: PartitionId,
        account: &AccountId,
        records: &[Unflushed],
    ) -> Result<Vec<LoadedRecord>, ReadError> {
        let mut loaded = Vec::with_capacity(records.len());
        if self.objects.stored().is_none() {
            for record in records {
                let (meta, bodies) = self.read_record(partition, account, record).await?;
                loaded.push(LoadedRecord { position: record.position, meta, bodies });
            }
            return Ok(loaded);
        }
        for records in records.chunks(RECORDS_AT_ONCE) {
            let reads = records.iter().map(|record| -> LocalFuture<'_, _> {
                Box::pin(self.read_record(partition, account, record))
            });
            for (record, read) in records.iter().zip(sync::all(reads.collect()).await) {
                let (meta, bodies) = read?;
                loaded.push(LoadedRecord { position: record.position, meta, bodies });
            }
        }
        Ok(loaded)
    }

    /// Removes files that nothing ever named.
    pub async fn remove_garbage(&self) {
        let garbage = std::mem::take(&mut *self.garbage.borrow_mut());
        self.objects.remove(garbage).await;
    }
}

/// How what is not in the store yet is read of the node's journal.
fn unsent_reads() -> Rc<UnsentRead> {
    Rc::new(|incarnation, seq, range| {
        Box::pin(async move {
            let read = mesh::call(0, move || async move {
                culver_shard::local::<Node>().and_then(|node| node.read_unsent(incarnation, seq, range))
            });
            read.await.ok().flatten()
        })
    })
}

#[cfg(test)]
mod tests;
