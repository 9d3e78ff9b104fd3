//! Group commit on a shared store: batches of this shard go to the node's journal, several on their way, told in order.
//!
//! # Invariants
//! Batches reach the node's journal in the order in which they were taken (each has a number), and are told in it.
//!
//! # Crash
//! A journal that was sealed ends this node's ownership of everything: what was not told is unknown, partitions and accounts
//! are forgotten (R7).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::sync::{Notify, oneshot};
use culver_shard::{Queue, spawn, time, yield_if_needed};

use super::{Laid, Pending};
use crate::body::Form;
use crate::body::format::put_raw_frame;
use crate::error::CommitError;
use crate::fault::{self, Fault};
use crate::journal::format::{NewRecord, RecordKind, head_octets, put_head};
use crate::partition::{Partition, Serving};
use crate::place::{HERE, ObjectId, ObjectKind, Place, Position};
use crate::shared::format::Incarnation;
use crate::shared::journal::{Appended, Ended, NewPart};
use crate::source::LocalFuture;
use crate::storage::{Committed, Inner};

/// What comes within this time goes to the node's journal together: it waits there longer than that anyway.
const COLLECT: Duration = Duration::from_millis(2);

/// Records of one journal object are told apart by so many bits of a position.
const INDEX_BITS: u32 = 24;

/// The position of a record on a shared store: its object's number, then its place among the object's records.
pub(crate) fn lsn_of(seq: u64, index: u32) -> u64 {
    (seq << INDEX_BITS) | u64::from(index)
}

/// The journal object that a position is in.
pub(crate) fn seq_of(lsn: u64) -> u64 {
    lsn >> INDEX_BITS
}

/// Takes a part to the node's journal, wherever that lives.
pub(crate) type Append = dyn Fn(NewPart) -> LocalFuture<'static, Result<Appended, Ended>>;

/// What a shard knows of its node.
pub(crate) struct NodeLink {
    append: Rc<Append>,
    /// Until when it is proved that nobody else owns what this node owns: the nanoseconds of an instant.
    fresh: Arc<AtomicU64>,
    /// Whose journal this shard's batches go to.
    incarnation: Cell<Option<Incarnation>>,
    next_part: Cell<u64>,
    /// Batches sent in all incarnations.
    batches: Cell<u64>,
    flying: RefCell<VecDeque<Flying>>,
    /// A batch was sent.
    sent: Notify,
    /// Batches that were told, and a notification of each.
    told: Cell<u64>,
    telling: Notify,
    /// Records that were taken and not yet told, by partition.
    untold: RefCell<BTreeMap<PartitionId, usize>>,
}

/// A batch on its way.
struct Flying {
    incarnation: Incarnation,
    batch: Vec<Pending>,
    laid: Vec<Laid>,
    appended: oneshot::Receiver<Result<Appended, Ended>>,
}

impl NodeLink {
    pub fn new(append: Rc<Append>, fresh: Arc<AtomicU64>) -> NodeLink {
        NodeLink {
            append,
            fresh,
            incarnation: Cell::new(None),
            next_part: Cell::new(0),
            batches: Cell::new(0),
            flying: RefCell::default(),
            sent: Notify::new(),
            told: Cell::new(0),
            telling: Notify::new(),
            untold: RefCell::default(),
        }
    }

    /// Counts a record that was taken.
    pub fn took(&self, partition: PartitionId) {
        *self.untold.borrow_mut().entry(partition).or_default() += 1;
    }

    /// Counts a record that is told what became of it.
    fn tells(&self, partition: PartitionId) {
        let mut untold = self.untold.borrow_mut();
        if let Some(count) = untold.get_mut(&partition) {
            *count -= 1;
            if *count == 0 {
                untold.remove(&partition);
            }
        }
    }

    /// Whether reads may be answered (R9).
    pub fn is_fresh(&self) -> bool {
        time::now().as_nanos() < self.fresh.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Sends batches as they come. Ends when the journal closes and everything is told.
    pub async fn send_loop(self: Rc<Self>) {
        let Some(node) = &self.node else { return };
        loop {
            let seen = self.journal.wake.version();
            let batch = self.journal.take(self.limits.batch_octets_max);
            if !batch.is_empty() {
                self.send(node, batch).await;
                time::sleep(COLLECT).await;
                continue;
            }
            if self.journal.state.borrow().closing {
                node.sent.notify_all();
                return;
            }
            self.journal.wake.changed_since(seen).await;
        }
    }

    async fn send(self: &Rc<Self>, node: &NodeLink, batch: Vec<Pending>) {
        let stale = |pending: &Pending| self.partition(pending.partition).borrow().term != pending.term;
        let (stale, batch): (Vec<Pending>, Vec<Pending>) = batch.into_iter().partition(stale);
        self.give_up(stale, CommitError::Lost);
        let Some(incarnation) = node.incarnation.get() else {
            return self.give_up(batch, CommitError::Lost);
        };
        if batch.is_empty() {
            return;
        }
        let (octets, laid) = self.encode_part(&batch).await;
        // The node may have lost everything while this was encoded.
        if node.incarnation.get() != Some(incarnation) {
            return self.give_up(batch, CommitError::Lost);
        }
        let number = node.next_part.get();
        node.next_part.set(number + 1);
        node.batches.set(node.batches.get() + 1);
        let part = NewPart {
            incarnation,
            shard: self.shard,
            number,
            records: batch.len() as u32,
            octets,
            interactive: batch.iter().any(|pending| pending.haste == super::Haste::Interactive),
            firm: batch.iter().any(|pending| pending.numbers.is_none()),
            numbers: batch.iter().filter_map(|pending| pending.numbers).sum(),
        };
        let (sender, appended) = oneshot::channel();
        let appending = (node.append)(part);
        spawn(Queue::Commit, "journal part", async move {
            let _ = sender.send(appending.await);
        })
        .detach();
        node.flying.borrow_mut().push_back(Flying { incarnation, batch, laid, appended });
        node.sent.notify_all();
    }

    /// Tells batches in the order in which they were sent.
    pub async fn tell_loop(self: Rc<Self>) {
        let Some(node) = &self.node else { return };
        loop {
            let seen = node.sent.version();
            let next = node.flying.borrow_mut().pop_front();
            let Some(Flying { incarnation, batch, laid, appended }) = next else {
                let ends = {
                    let state = self.journal.state.borrow();
                    state.closing && state.queue.is_empty()
                };
                if ends {
                    return;
                }
                node.sent.changed_since(seen).await;
                continue;
            };
            match appended.await.unwrap_or(Err(Ended)) {
                Ok(appended) => self.told_shared(batch, laid, appended).await,
                Err(Ended) => {
                    self.give_up(batch, CommitError::Unknown);
                    // A new incarnation may have begun meanwhile: that one has lost nothing.
                    if node.incarnation.get() == Some(incarnation) {
                        self.fenced();
                    }
                }
            }
            node.told.set(node.told.get() + 1);
            node.telling.notify_all();
        }
    }

    /// Ready when every batch that was sent before is told.
    pub async fn settled(&self) {
        let Some(node) = &self.node else { return };
        let sent = node.batches.get();
        loop {
            let seen = node.telling.version();
            if node.told.get() >= sent {
                return;
            }
            node.telling.changed_since(seen).await;
        }
    }

    /// Ready at a moment when nothing that was taken for a partition waits to be told.
    pub async fn told_of(&self, partition: PartitionId) {
        let Some(node) = &self.node else { return };
        loop {
            let seen = node.telling.version();
            if !node.untold.borrow().contains_key(&partition) {
                return;
            }
            node.telling.changed_since(seen).await;
        }
    }

    /// The octets of a batch's records, and where they stand in it. Places of bodies count from their own record.
    async fn encode_part(&self, batch: &[Pending]) -> (Vec<u8>, Vec<Laid>) {
        let mut out = Vec::with_capacity(batch.iter().map(|pending| pending.octets as usize).sum());
        let mut laid = Vec::with_capacity(batch.len());
        for pending in batch {
            let account = pending.account.as_ref().map_or("", |account| account.as_str());
            let epoch = self.partition(pending.partition).borrow().epoch;
            let offset = out.len() as u64;
            let head = head_octets(account.len(), pending.meta.len(), pending.bodies.len());
            let mut frame_at = head as u64;
            let mut places = Vec::with_capacity(pending.bodies.len());
            for body in &pending.bodies {
                places.push(match &body.0 {
                    Form::Placed { place, .. } => *place,
                    Form::Inline { bytes, .. } => {
                        let object = ObjectId { kind: ObjectKind::Segment, shard: 0, epoch, number: HERE };
                        Place { object, offset: frame_at, length: bytes.len() as u64 }
                    }
                });
                frame_at += body.frame_octets() as u64;
            }
            let (kind, partition, meta) = (pending.kind, pending.partition, &pending.meta);
            let record = NewRecord { kind, partition, epoch, account, meta, places: &places };
            put_head(&record, frame_at as usize - head, &mut out);
            for body in &pending.bodies {
                if let Form::Inline { bytes, .. } = &body.0 {
                    put_raw_frame(bytes, &mut out);
                }
            }
            laid.push(Laid { offset, places });
            yield_if_needed().await;
        }
        (out, laid)
    }

    /// A batch is committed: its records exist from here on, one after the other.
    async fn told_shared(self: &Rc<Self>, batch: Vec<Pending>, laid: Vec<Laid>, appended: Appended) {
        {
            let mut status = self.status.borrow_mut();
            status.batches += 1;
            status.records += batch.len() as u64;
        }
        let mut order: Vec<(u32, (Pending, Laid))> = (0..).zip(batch.into_iter().zip(laid)).collect();
        if fault::on(Fault::AckOutOfOrder) {
            order.reverse();
        }
        for (nth, (mut pending, laid)) in order {
            let (term, epoch) = {
                let partition = self.partition(pending.partition).borrow();
                (partition.term, partition.epoch)
            };
            let index = appended.index + nth;
            if let Some(node) = &self.node {
                node.tells(pending.partition);
            }
            {
                let mut state = self.journal.state.borrow_mut();
                state.next_lsn = lsn_of(appended.seq, index + 1);
                state.telling = appended.seq;
                state.octets -= pending.octets;
                state.in_flight -= 1;
            }
            // It is committed for whoever owns the partition now; here nobody knows it any more.
            if term != pending.term {
                for body in &pending.bodies {
                    if let Form::Placed { file, .. } = &body.0 {
                        file.named();
                    }
                }
                pending.tell(Err(CommitError::Unknown));
                continue;
            }
            let segment = ObjectId { kind: ObjectKind::Segment, shard: 0, epoch, number: appended.seq };
            let offset = appended.offset + laid.offset;
            let mut places = laid.places;
            crate::place::here(&mut places, segment, offset);
            for body in std::mem::take(&mut pending.bodies) {
                if let Form::Placed { file, .. } = &body.0 {
                    file.named();
                }
            }
            let position = Position { epoch, lsn: lsn_of(appended.seq, index) };
            let account = pending.account.clone();
            let laid = Laid { offset, places };
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
        if self.journal.gate.free() == 0 {
            self.flushed.notify_all();
        }
        yield_if_needed().await;
    }

    /// Tells records that they did not commit, or that nobody knows.
    fn give_up(&self, batch: Vec<Pending>, error: CommitError) {
        let mut state = self.journal.state.borrow_mut();
        state.in_flight -= batch.len();
        drop(state);
        if let Some(node) = &self.node {
            batch.iter().for_each(|pending| node.tells(pending.partition));
            node.telling.notify_all();
        }
        self.fail(batch, error);
    }

    /// This node's journal was sealed: whatever it owned, others may own now (R7).
    pub fn fenced(&self) {
        let Some(node) = &self.node else { return };
        if node.incarnation.take().is_none() {
            return;
        }
        let queued = std::mem::take(&mut self.journal.state.borrow_mut().queue);
        self.journal.resets.set(self.journal.resets.get() + 1);
        for partition in self.partitions.values() {
            let id = partition.borrow().id;
            self.lose(id);
        }
        queued.iter().for_each(|pending| node.tells(pending.partition));
        self.fail(queued.into(), CommitError::Lost);
        if let Some(source) = self.source() {
            source.reset(None);
        }
        self.journal.wake.notify_all();
        self.flushed.notify_all();
        node.telling.notify_all();
    }

    /// A partition is not ours any more: what is in memory of it is forgotten.
    pub fn lose(&self, id: PartitionId) {
        let absent = self.partition(id).borrow().serving == Serving::Absent;
        if !absent {
            self.forget(id);
        }
    }

    /// Forgets what is in memory of a partition.
    pub fn forget(&self, id: PartitionId) {
        let mut partition = self.partition(id).borrow_mut();
        let octets = partition.unflushed_octets;
        let absent = Partition::absent(id, partition.term + 1);
        *partition = absent;
        drop(partition);
        self.unflushed_octets.set(self.unflushed_octets.get() - octets);
        if let Some(stored) = self.objects.stored() {
            stored.forget_journals(id, u32::MAX);
        }
        self.forget_objects(id);
        if let Some(source) = self.source() {
            source.lost(id);
        }
    }

    /// Batches go to the journal of this incarnation from now on.
    pub fn join(&self, incarnation: Incarnation) {
        let Some(node) = &self.node else { return };
        if node.incarnation.get() != Some(incarnation) {
            self.fenced();
            node.incarnation.set(Some(incarnation));
            node.next_part.set(0);
            // Positions are of epochs, and those are new.
            self.journal.state.borrow_mut().next_lsn = 0;
        }
    }
}
