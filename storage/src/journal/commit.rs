//! Group commit: what was submitted while a sync runs goes into the next batch, which is one write and one sync.
//!
//! # Invariants
//! One sync is in flight. Commits are told in the order of submission, each after the sync that covers it. A record's
//! lsn is never used again, also where its batch failed.
//!
//! # Order
//! A segment's header and name are durable before its first batch is written; a batch is written after the one before
//! it is durable.
//!
//! # Crash
//! A failed write or sync is never tried again: what the file holds from there on is unknown. The next segment's header
//! says where the old one ends (the cut), and only when that is durable are the records told to be lost. Where it
//! cannot be made durable either, they are told to be unknown and the journal stops.
//!
//! # Limits
//! `pending_octets_max`, `pending_records_max`, `batch_octets_max`, `unflushed_octets_max`. On a full disk records that
//! are not urgent are refused, and the reserve gives urgent ones a small segment.

pub(crate) mod shared;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::{self, APPEND_INLINE_MAX, File};
use culver_shard::sync::{Notify, Permit, Semaphore};
use culver_shard::{random, time, yield_if_needed};

use super::format::{
    BATCH_OCTETS, HEADER_BLOCK, NewRecord, RecordKind, SEGMENT_VERSION, SegmentHeader, begin_batch,
    finish_batch, head_octets, put_head,
};
use crate::body::format::put_raw_frame;
use crate::body::{Body, Form};
use crate::error::{CommitError, OpenError, SubmitError, no_space};
use crate::fault::{self, Fault};
use crate::limits::Limits;
use crate::partition::{Unflushed, UnflushedBody};
use crate::place::{ObjectId, ObjectKind, Place, Position};
use crate::root::{START_RESERVE_OCTETS, give_up, make_reserve};
use crate::storage::{Committed, Inner};

/// What the kernel writes to a file at least.
const PAGE_OCTETS: u64 = 4096;
/// A batch is padded to a whole page where that takes at most this part of it.
const PAD_PART_MAX: u64 = 8;

/// Zeros behind a batch of `octets` that ends at `end`, so that the next one begins on a page of its own. Where they are few,
/// they cost less than to write the last page again with the next batch, which a batch of one message otherwise does.
fn pad_octets(end: u64, octets: usize) -> Option<u64> {
    let pad = end.next_multiple_of(PAGE_OCTETS) - end;
    (pad * PAD_PART_MAX <= octets as u64).then_some(pad)
}

/// Room for records that the smallest segment of a full disk has.
const SMALL_SEGMENT_OCTETS_MIN: u64 = 16 << 10;

/// What is told of a submitted record, once.
pub type OnCommit = Box<dyn FnOnce(Result<Committed, CommitError>)>;

/// A record that waits for its batch.
pub(crate) struct Pending {
    kind: RecordKind,
    partition: PartitionId,
    account: Option<AccountId>,
    meta: Vec<u8>,
    bodies: Vec<Body>,
    haste: Haste,
    on_commit: OnCommit,
    /// Octets of the record with its frames.
    pub octets: u64,
    room: Option<Permit>,
    /// The partition's term here in which it was made.
    term: u64,
    /// UIDs, and as many MODSEQs, that it gives at most; `None`: it is told when the store has it, however the node acknowledges.
    numbers: Option<u32>,
    /// The next one is in the same batch, so that both are committed or neither is.
    joined: bool,
}

/// Who waits for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// A transfer agent, which can wait for others' messages to come along where a commit costs money.
    Delivery,
    /// A client.
    Interactive,
    /// It frees space, or others wait for it: it is taken also where the disk is full or a bound is passed.
    Urgent,
}

impl Haste {
    fn is_urgent(self) -> bool {
        self == Haste::Urgent
    }
}

impl Pending {
    pub fn new(
        kind: RecordKind,
        (partition, term): (PartitionId, u64),
        account: Option<AccountId>,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        haste: Haste,
        on_commit: OnCommit,
    ) -> Pending {
        let name = account.as_ref().map_or(0, |account| account.as_str().len());
        let frames: usize = bodies.iter().map(Body::frame_octets).sum();
        let octets = (head_octets(name, meta.len(), bodies.len()) + frames) as u64;
        // What others may act on at once, or a successor relies on, is never told early.
        let numbers = (kind == RecordKind::Data).then_some(1);
        Pending {
            kind,
            partition,
            account,
            meta,
            bodies,
            haste,
            on_commit,
            octets,
            room: None,
            term,
            numbers,
            joined: false,
        }
    }

    /// Says that the next one stands or falls with it.
    pub fn joined(self, joined: bool) -> Pending {
        Pending { joined, ..self }
    }

    /// Gives it the room that was taken for it and those before it.
    pub fn in_room(self, room: Option<Permit>) -> Pending {
        Pending { room, ..self }
    }

    /// Says how many numbers it gives.
    pub fn giving(self, numbers: Option<u32>) -> Pending {
        Pending { numbers, ..self }
    }

    fn tell(self, result: Result<Committed, CommitError>) -> bool {
        let on_commit = self.on_commit;
        catch_unwind(AssertUnwindSafe(move || on_commit(result))).is_ok()
    }
}

/// The state of a shard's journal. Its task is [`Inner::commit_loop`].
pub(crate) struct Journal {
    epoch: u32,
    shard: u16,
    state: RefCell<State>,
    /// Something was queued, or the journal closes.
    wake: Notify,
    failed: Notify,
    /// Held while one waits for room, so that nobody overtakes.
    gate: Semaphore,
    room: Semaphore,
    records_max: usize,
    /// How often everything pending was dropped.
    resets: Cell<u64>,
    /// Batches go to the node's journal on a shared store.
    shared: bool,
}

struct State {
    queue: VecDeque<Pending>,
    /// Records of the batch that is being written.
    in_flight: usize,
    /// On a shared store, the journal object whose records are being told.
    telling: u64,
    octets: u64,
    next_lsn: u64,
    next_number: u64,
    segment: Option<Active>,
    /// Segments that are written no more and were not yet shortened.
    closed: Vec<Active>,
    full: bool,
    /// A cut is under way.
    broken: bool,
    closing: bool,
    stopped: bool,
}

/// The segment that is written.
struct Active {
    file: Rc<File>,
    id: ObjectId,
    seed: u32,
    at: u64,
    capacity: u64,
}

/// What an encoded record needs when it is told.
struct Laid {
    offset: u64,
    places: Vec<Place>,
}

impl Journal {
    pub fn new(limits: &Limits, epoch: u32, shard: u16, shared: bool) -> Journal {
        Journal {
            epoch,
            shard,
            shared,
            state: RefCell::new(State {
                queue: VecDeque::new(),
                in_flight: 0,
                telling: 0,
                octets: 0,
                next_lsn: 1,
                next_number: 1,
                segment: None,
                closed: Vec::new(),
                full: false,
                broken: false,
                closing: false,
                stopped: false,
            }),
            wake: Notify::new(),
            failed: Notify::new(),
            gate: Semaphore::new(1),
            room: Semaphore::new(limits.pending_octets_max as usize),
            records_max: limits.pending_records_max,
            resets: Cell::new(0),
        }
    }

    pub fn pending(&self) -> (usize, u64) {
        let state = self.state.borrow();
        (state.queue.len() + state.in_flight, state.octets)
    }

    pub fn full(&self) -> bool {
        self.state.borrow().full
    }

    /// The number the next record gets: everything before it is committed or void, unless a batch is in flight.
    pub fn next_lsn(&self) -> u64 {
        self.state.borrow().next_lsn
    }

    fn next_position(&self) -> Position {
        Position { epoch: self.epoch, lsn: self.next_lsn() }
    }

    /// The number of the segment that is written.
    pub fn active_number(&self) -> u64 {
        self.state.borrow().next_number - 1
    }

    /// Inside a commit's telling, the segment that holds it, as partitions of this epoch name it.
    pub fn telling_id(&self, epoch: u32) -> ObjectId {
        match self.state.borrow().telling {
            // Objects of a shared journal are the node's, and no shard's.
            seq if self.shared => ObjectId { kind: ObjectKind::Segment, shard: 0, epoch, number: seq },
            _ => {
                ObjectId { kind: ObjectKind::Segment, shard: self.shard, epoch, number: self.active_number() }
            }
        }
    }

    pub fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.wake.notify_all();
    }

    /// Its last segment and the first lsn that it does not have, where it closes and that is known.
    pub fn end(&self) -> Option<(u64, u64)> {
        let state = self.state.borrow();
        let idle = state.closing && !state.stopped && state.queue.is_empty() && state.in_flight == 0;
        let last = state.segment.as_ref().filter(|_| idle)?;
        Some((last.id.number, state.next_lsn))
    }

    /// The segments that end for good where their last durable batch does, with that end: those that have a successor,
    /// and at the end of the journal (`active`) the last, unless nobody knows what it holds.
    pub fn take_closed(&self, active: bool) -> Vec<(Rc<File>, ObjectId, u64)> {
        let newest = self.active_number();
        let mut state = self.state.borrow_mut();
        let all = active && !state.stopped;
        if active {
            let last = state.segment.take();
            state.closed.extend(last.filter(|_| all));
        }
        let decided = |segment: &mut Active| all || segment.id.number < newest;
        let taken = state.closed.extract_if(.., decided);
        taken.map(|segment| (segment.file, segment.id, segment.at)).collect()
    }

    pub async fn failed(&self) {
        loop {
            let seen = self.failed.version();
            if self.state.borrow().stopped {
                return;
            }
            self.failed.changed_since(seen).await;
        }
    }

    fn take(&self, octets_max: u64) -> Vec<Pending> {
        let mut state = self.state.borrow_mut();
        let (mut batch, mut octets, mut joined) = (Vec::new(), 0, false);
        while let Some(next) = state.queue.front() {
            if !batch.is_empty() && !joined && octets + next.octets > octets_max {
                break;
            }
            octets += next.octets;
            joined = next.joined;
            batch.extend(state.queue.pop_front());
        }
        state.in_flight += batch.len();
        batch
    }

    fn refusal(&self, urgent: bool) -> Option<SubmitError> {
        let state = self.state.borrow();
        if state.stopped || state.closing {
            return Some(SubmitError::Stopped);
        }
        if state.full && !urgent {
            return Some(SubmitError::NoSpace);
        }
        state.broken.then_some(SubmitError::Busy)
    }
}

impl Inner {
    /// Is there room for a record at once?
    pub fn check_room(&self, pending: &mut Pending) -> Result<(), SubmitError> {
        let journal = &self.journal;
        if let Some(refusal) = journal.refusal(pending.haste.is_urgent()) {
            return Err(refusal);
        }
        if journal.gate.free() == 0 {
            return Err(SubmitError::Busy);
        }
        let backlog = self.unflushed_octets.get() > self.limits.unflushed_octets_max;
        let room = journal.room.try_acquire(pending.octets as usize);
        let crowded = room.is_none() || backlog || journal.pending().0 >= journal.records_max;
        if crowded && !pending.haste.is_urgent() {
            self.due.notify_all();
            return Err(SubmitError::Busy);
        }
        pending.room = room;
        Ok(())
    }

    /// Waits for room. The permit that comes back keeps others from overtaking until the record is queued.
    /// Urgent records wait for nobody: who holds the gate may wait for a flush, and the flush for the housekeeping
    /// that submits them.
    pub async fn wait_for_room(&self, pending: &mut Pending) -> Result<Option<Permit>, SubmitError> {
        let (gate, room) = self.room_for(pending.octets, pending.haste).await?;
        pending.room = room;
        Ok(gate)
    }

    /// The same for so many octets: the gate, and the room.
    pub async fn room_for(
        &self,
        octets: u64,
        haste: Haste,
    ) -> Result<(Option<Permit>, Option<Permit>), SubmitError> {
        let journal = &self.journal;
        let resets = journal.resets.get();
        let judge = || match journal.refusal(haste.is_urgent()) {
            Some(refusal) => Err(refusal),
            None if journal.resets.get() != resets => Err(SubmitError::Busy),
            None => Ok(()),
        };
        if haste.is_urgent() {
            return judge().map(|()| (None, None));
        }
        let gate = journal.gate.acquire(1).await;
        judge()?;
        let room = journal.room.acquire(octets as usize).await;
        loop {
            judge()?;
            let seen = self.flushed.version();
            let crowded = journal.pending().0 >= journal.records_max;
            if self.unflushed_octets.get() <= self.limits.unflushed_octets_max && !crowded {
                break;
            }
            self.due.notify_all();
            self.flushed.changed_since(seen).await;
        }
        Ok((Some(gate), Some(room)))
    }

    /// What was made for another term of its partition, or waited until that is handed over, is not stored, and told so.
    pub fn enqueue(&self, pending: Pending) {
        let taken = {
            let partition = self.partition(pending.partition).borrow();
            let of_account = pending.kind == RecordKind::Data;
            partition.term == pending.term && (!of_account || partition.serving.takes(pending.haste))
        };
        if !taken {
            pending.tell(Err(CommitError::Lost));
            return;
        }
        if let Some(node) = &self.node {
            node.took(pending.partition);
        }
        let mut state = self.journal.state.borrow_mut();
        state.octets += pending.octets;
        state.queue.push_back(pending);
        drop(state);
        self.journal.wake.notify_all();
    }

    /// Makes this shard's journal and its first segment.
    pub async fn open_journal(self: &Rc<Self>) -> Result<(), OpenError> {
        let dir = self.paths.journal(self.journal.epoch, self.journal.shard);
        match disk::create_dir_all(&dir).await {
            Err(error) if no_space(&error) => {
                give_up(&self.paths.reserve(self.shard)).await.map_err(OpenError::io(&dir))?;
                disk::create_dir_all(&dir).await
            }
            other => other,
        }
        .map_err(OpenError::io(&dir))?;
        let journals = self.paths.journals();
        disk::sync_dir(&journals).await.map_err(OpenError::io(&journals))?;
        let path = self.paths.reserve(self.shard);
        let full = !make_reserve(&path, self.limits.reserve_octets).await.map_err(OpenError::io(&path))?;
        let opened = match full {
            // Where the reserve does not fit, a whole segment does not either.
            true => self.open_small_segment(1, 1, 0).await,
            false => match self.open_segment(1, 1, self.limits.segment_octets).await {
                Err(error) if no_space(&error) => self.open_small_segment(1, 1, 0).await,
                other => return other.map_err(OpenError::io(&dir)),
            },
        };
        tracing::error!(shard = self.shard, "no space left for the journal; only what frees space is taken");
        self.journal.state.borrow_mut().full = true;
        opened.map_err(OpenError::io(&dir))
    }

    /// Looks whether a full disk has room again; the housekeeping asks.
    pub async fn look_for_space(&self) -> io::Result<()> {
        let space = disk::space(self.paths.root()).await?;
        if space.free_octets > 2 * (self.limits.segment_octets + self.limits.reserve_octets) {
            let reserves = [
                (self.paths.reserve(self.shard), self.limits.reserve_octets),
                (self.paths.start_reserve(), START_RESERVE_OCTETS),
            ];
            for (path, octets) in reserves {
                if !make_reserve(&path, octets).await? {
                    return Ok(());
                }
            }
            self.journal.state.borrow_mut().full = false;
            tracing::info!(shard = self.shard, "there is space for the journal again");
        }
        Ok(())
    }

    /// Gives the reserve up for a segment that takes `need` octets at least. Half of it is left to what has to be written
    /// before space comes back; a segment that finds less is made as small as it must be, and in the end takes what was kept
    /// for the next start, which will find what this one leaves.
    async fn open_small_segment(
        self: &Rc<Self>,
        base_lsn: u64,
        previous_end: u64,
        need: u64,
    ) -> io::Result<()> {
        give_up(&self.paths.reserve(self.shard)).await?;
        let least = HEADER_BLOCK + need.max(SMALL_SEGMENT_OCTETS_MIN);
        let mut capacity = (self.limits.reserve_octets / 2).max(least);
        while capacity > least {
            match self.open_segment(base_lsn, previous_end, capacity).await {
                Err(error) if no_space(&error) => capacity = (capacity / 2).max(least),
                other => return other,
            }
        }
        match self.open_segment(base_lsn, previous_end, least).await {
            Err(error) if no_space(&error) => {
                give_up(&self.paths.start_reserve()).await?;
                self.open_segment(base_lsn, previous_end, least).await
            }
            other => other,
        }
    }

    /// Opens the next segment; its predecessor's records from `previous_end` on are void when this returns.
    async fn open_segment(
        self: &Rc<Self>,
        base_lsn: u64,
        previous_end: u64,
        capacity: u64,
    ) -> io::Result<()> {
        let (epoch, shard) = (self.journal.epoch, self.journal.shard);
        let number = self.journal.state.borrow().next_number;
        let mut nonce = [0; 16];
        random::fill(&mut nonce);
        let header = SegmentHeader {
            version: SEGMENT_VERSION,
            epoch,
            shard,
            number,
            base_lsn,
            previous_end,
            capacity,
            store: self.store,
            nonce,
        };
        let path = self.paths.segment(epoch, shard, number);
        let headed = Cell::new(false);
        let made = async {
            let file = match File::create_new(&path).await {
                // What an earlier try of this very call left.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    disk::remove(&path).await?;
                    File::create_new(&path).await?
                }
                other => other?,
            };
            file.preallocate(capacity).await?;
            headed.set(true);
            file.write_at(0, header.block()).await?;
            file.sync_data().await?;
            disk::sync_dir(self.paths.journal(epoch, shard)).await?;
            Ok(file)
        };
        let file = match made.await {
            Ok(file) => file,
            Err(error) => {
                // Its number is used again, so that segments stay contiguous.
                if let Err(error) = disk::remove(&path).await {
                    tracing::debug!(path = %path.display(), %error, "an unused segment stays");
                }
                if headed.get() {
                    // Its header may be found after a power cut, and says that the one before ends at `previous_end`.
                    let mut state = self.journal.state.borrow_mut();
                    let before = state.segment.take();
                    state.closed.extend(before);
                }
                return Err(error);
            }
        };
        self.shared.segment_opened(epoch, shard, number);
        let mut state = self.journal.state.borrow_mut();
        state.next_number = number + 1;
        let file = Rc::new(file);
        let opened = Active { file, id: header.object(), seed: header.seed(), at: HEADER_BLOCK, capacity };
        let before = state.segment.replace(opened);
        state.closed.extend(before);
        drop(state);
        // The low mark may move now.
        self.due.notify_all();
        Ok(())
    }

    pub async fn commit_loop(self: Rc<Self>) {
        loop {
            let seen = self.journal.wake.version();
            let batch = self.journal.take(self.limits.batch_octets_max);
            if !batch.is_empty() {
                self.commit_batch(batch).await;
                self.journal.state.borrow_mut().in_flight = 0;
                continue;
            }
            if self.journal.state.borrow().closing {
                return;
            }
            self.journal.wake.changed_since(seen).await;
        }
    }

    async fn commit_batch(self: &Rc<Self>, mut batch: Vec<Pending>) {
        // A journal that has stopped writes nothing more: a segment opened now would not say where the last one ended.
        if self.journal.state.borrow().stopped {
            return self.fail(batch, CommitError::Unknown);
        }
        let need = |batch: &[Pending]| BATCH_OCTETS as u64 + batch.iter().map(|p| p.octets).sum::<u64>();
        let fits =
            self.journal.state.borrow().segment.as_ref().is_some_and(|s| s.at + need(&batch) <= s.capacity);
        if !fits {
            let lsn = self.journal.state.borrow().next_lsn;
            let capacity = self.limits.segment_octets.max(HEADER_BLOCK + need(&batch));
            match self.open_segment(lsn, lsn, capacity).await {
                Ok(()) => {}
                Err(error) if no_space(&error) => {
                    batch = self.refuse_for_space(batch);
                    if batch.is_empty() {
                        return;
                    }
                    if let Err(error) = self.open_small_segment(lsn, lsn, need(&batch)).await {
                        tracing::error!(%error, "no space for urgent records either");
                        return self.fail(batch, CommitError::NoSpace);
                    }
                }
                Err(error) => return self.cut(batch, &error).await,
            }
        }
        let (file, at) = {
            let state = self.journal.state.borrow();
            let segment = state.segment.as_ref().expect("opened above or at the start");
            (segment.file.clone(), segment.at)
        };
        let (octets, laid) = self.encode(&batch).await;
        let len = octets.len() as u64;
        if fault::on(Fault::AckBeforeSync) {
            self.told(batch, laid, len);
            let _ = file.write_at(at, octets).await;
            let _ = file.sync_data().await;
            return;
        }
        let written = async {
            if octets.len() <= APPEND_INLINE_MAX {
                file.append_inline(at, &octets)?;
            } else {
                file.write_at(at, octets).await?;
            }
            if fault::on(Fault::SkipSync) {
                return Ok(());
            }
            file.sync_data().await
        };
        match written.await {
            Ok(()) => self.told(batch, laid, len),
            Err(error) => self.cut(batch, &error).await,
        }
    }

    /// The octets of a batch for the active segment, and where its records come to stand.
    async fn encode(&self, batch: &[Pending]) -> (Vec<u8>, Vec<Laid>) {
        let (id, seed, at, capacity, lsn) = {
            let state = self.journal.state.borrow();
            let segment = state.segment.as_ref().expect("opened before");
            (segment.id, segment.seed, segment.at, segment.capacity, state.next_lsn)
        };
        let mut out = Vec::with_capacity(
            PAGE_OCTETS as usize + BATCH_OCTETS + batch.iter().map(|p| p.octets as usize).sum::<usize>(),
        );
        begin_batch(&mut out);
        let mut laid = Vec::with_capacity(batch.len());
        for pending in batch {
            let account = pending.account.as_ref().map_or("", AccountId::as_str);
            let offset = at + out.len() as u64;
            let head = head_octets(account.len(), pending.meta.len(), pending.bodies.len());
            let mut frame_at = offset + head as u64;
            let mut places = Vec::with_capacity(pending.bodies.len());
            for body in &pending.bodies {
                places.push(match &body.0 {
                    Form::Placed { place, .. } => *place,
                    Form::Inline { bytes, .. } => {
                        Place { object: id, offset: frame_at, length: bytes.len() as u64 }
                    }
                });
                frame_at += body.frame_octets() as u64;
            }
            let (kind, partition, epoch, meta) = (pending.kind, pending.partition, self.epoch, &pending.meta);
            let record = NewRecord { kind, partition, epoch, account, meta, places: &places };
            put_head(&record, (frame_at - offset) as usize - head, &mut out);
            for body in &pending.bodies {
                if let Form::Inline { bytes, .. } = &body.0 {
                    put_raw_frame(bytes, &mut out);
                }
            }
            laid.push(Laid { offset, places });
            yield_if_needed().await;
        }
        let end = at + out.len() as u64;
        let pad = pad_octets(end, out.len()).filter(|pad| end + pad <= capacity).unwrap_or(0);
        out.resize(out.len() + pad as usize, 0);
        finish_batch(&mut out, seed, batch.len() as u32, lsn, lsn);
        (out, laid)
    }

    /// The batch is durable: its records exist from here on, one after the other.
    fn told(self: &Rc<Self>, batch: Vec<Pending>, laid: Vec<Laid>, len: u64) {
        let segment = {
            let mut state = self.journal.state.borrow_mut();
            let segment = state.segment.as_mut().expect("just written");
            segment.at += len;
            segment.id
        };
        {
            let mut status = self.status.borrow_mut();
            status.batches += 1;
            status.records += batch.len() as u64;
            status.journal_octets += len;
        }
        let first = self.journal.next_position();
        let mut order: Vec<(u64, Pending, Laid)> =
            (0..).zip(batch).zip(laid).map(|((n, p), l)| (n, p, l)).collect();
        if fault::on(Fault::AckOutOfOrder) {
            order.reverse();
        }
        for (nth, mut pending, laid) in order {
            let position = Position { epoch: first.epoch, lsn: first.lsn + nth };
            {
                let mut state = self.journal.state.borrow_mut();
                state.next_lsn = state.next_lsn.max(position.lsn + 1);
                state.octets -= pending.octets;
            }
            for body in std::mem::take(&mut pending.bodies) {
                if let Form::Placed { file, .. } = &body.0 {
                    file.named();
                }
            }
            let account = pending.account.clone();
            if let (RecordKind::Data, Some(account)) = (pending.kind, &account) {
                self.note_unflushed(&pending, account, position, segment, &laid);
            }
            let committed = Committed { position, bodies: laid.places };
            if !pending.tell(Ok(committed)) {
                tracing::error!(?account, "applying a committed record panicked; the account is opened anew");
                if let (Some(source), Some(account)) = (self.source(), account) {
                    source.reset(Some(&account));
                }
            }
        }
        if self.unflushed_octets.get() > self.limits.flush_octets {
            self.due.notify_all();
        }
        // Waiters may be held up by the number of records alone.
        if self.journal.gate.free() == 0 {
            self.flushed.notify_all();
        }
    }

    fn note_unflushed(
        &self,
        pending: &Pending,
        account: &AccountId,
        position: Position,
        segment: ObjectId,
        laid: &Laid,
    ) {
        let mut partition = self.partition(pending.partition).borrow_mut();
        let head = head_octets(account.as_str().len(), pending.meta.len(), laid.places.len());
        let bodies = laid.places.iter().map(|place| UnflushedBody { place: *place, dead: false });
        let record = Unflushed {
            position,
            segment,
            offset: laid.offset,
            head_octets: head as u32,
            octets: pending.octets as u32,
            bodies: bodies.collect(),
        };
        partition.oldest.get_or_insert_with(time::now);
        match partition.left_out.get_mut(account) {
            Some(octets) => *octets += pending.octets,
            None => {
                partition.unflushed_octets += pending.octets;
                self.unflushed_octets.set(self.unflushed_octets.get() + pending.octets);
            }
        }
        partition.note_unflushed(account, record);
    }

    /// Tells records that they did not commit.
    fn fail(&self, batch: Vec<Pending>, error: CommitError) {
        for mut pending in batch {
            self.journal.state.borrow_mut().octets -= pending.octets;
            let bodies = std::mem::take(&mut pending.bodies);
            if error == CommitError::Unknown {
                for body in &bodies {
                    if let Form::Placed { file, .. } = &body.0 {
                        file.named();
                    }
                }
            }
            drop(bodies);
            pending.tell(Err(error));
        }
    }

    /// Fails what is not urgent; gives back the rest. Nothing of it was written, and no record stands on another, so the
    /// accounts are none the worse for it.
    fn refuse_for_space(&self, batch: Vec<Pending>) -> Vec<Pending> {
        let queued = {
            let mut state = self.journal.state.borrow_mut();
            state.full = true;
            std::mem::take(&mut state.queue)
        };
        tracing::error!(shard = self.shard, "no space left for the journal; only what frees space is taken");
        let (keep, fail): (Vec<Pending>, Vec<Pending>) =
            batch.into_iter().partition(|pending| pending.haste.is_urgent());
        let (keep_queued, fail_queued): (Vec<Pending>, Vec<Pending>) =
            queued.into_iter().partition(|pending| pending.haste.is_urgent());
        // Put back before anybody is told: whoever is told may submit.
        self.journal.state.borrow_mut().queue = keep_queued.into();
        self.fail(fail, CommitError::NoSpace);
        self.fail(fail_queued, CommitError::NoSpace);
        keep
    }

    /// After a failed write or sync: makes everything from the batch on void for ever, then tells so.
    async fn cut(self: &Rc<Self>, mut batch: Vec<Pending>, error: &io::Error) {
        tracing::error!(shard = self.shard, %error, "the journal's disk failed; what was not yet committed is dropped");
        self.status.borrow_mut().cuts += 1;
        let (end, base) = {
            let mut state = self.journal.state.borrow_mut();
            state.broken = true;
            let end = state.next_lsn;
            state.next_lsn += batch.len() as u64;
            let failed = state.segment.take();
            state.closed.extend(failed);
            (end, state.next_lsn)
        };
        let capacity = self.limits.segment_octets;
        let mut opened = self.open_segment(base, end, capacity).await;
        if let Err(error) = &opened {
            opened = match no_space(error) {
                true => {
                    self.journal.state.borrow_mut().full = true;
                    self.open_small_segment(base, end, 0).await
                }
                false => self.open_segment(base, end, capacity).await,
            };
        }
        batch.extend(std::mem::take(&mut self.journal.state.borrow_mut().queue));
        self.journal.resets.set(self.journal.resets.get() + 1);
        let told = match opened {
            Ok(()) => CommitError::Lost,
            Err(error) => {
                tracing::error!(shard = self.shard, %error, "the journal stops: no new segment either");
                self.journal.state.borrow_mut().stopped = true;
                CommitError::Unknown
            }
        };
        self.fail(batch, told);
        if let Some(source) = self.source() {
            source.reset(None);
        }
        self.journal.state.borrow_mut().broken = false;
        self.journal.failed.notify_all();
        // Whoever waits for room is told too.
        self.flushed.notify_all();
    }
}
