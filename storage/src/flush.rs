//! Flush: turns a partition's unflushed records into a table and a manifest.
//!
//! Lives on the partition's owner shard; at most one runs per partition.
//!
//! # Order
//! Table, then manifest, both durable with their names; then the Flush record that makes the manifest valid. Files that
//! it stops naming are removed after that record is committed.
//!
//! # Invariants
//! A manifest contains every record before its `cov`. It may contain later ones too: each account's blocks tell the
//! last record they contain, and nobody applies that or an earlier one again.
//! An account that cannot give its blocks is left out. `cov` then stops before its first unflushed record, so its
//! records stay in the journal, and the low mark before them, until somebody has mended it; the others are flushed.
//!
//! # Crash
//! Without the record, table and manifest are orphans, and recovery replays the journal as if the flush had not begun.
//!
//! # Limits
//! `flush_octets` and `flush_age` start flushes, `tables_max` merges.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::File;
use culver_shard::sync::oneshot;
use culver_shard::{annex, catch, time, yield_if_needed};

use crate::error::{CommitError, FlushError, ReadError};
use crate::fault::{self, Fault};
use crate::journal::commit::{Haste, Pending};
use crate::journal::format::{FlushMeta, RecordKind};
use crate::manifest::{self, Manifest, TableRef};
use crate::pack::format::FileHeader;
use crate::partition::{Partition, Serving};
use crate::place::{ObjectId, ObjectKind, Position};
use crate::rebuild::Cut;
use crate::recover::needs_of;
use crate::source::{AccountBlocks, Source};
use crate::storage::Inner;
use crate::table::merge::{choose, merge};
use crate::table::{Named, Table, TableWriter};

/// How long a partition whose flush failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Blocks above this are given back to the system off the shard.
const LARGE_BLOCK_OCTETS: usize = 4 << 20;

/// Held while a flush or a carried Flush record of a partition is under way.
struct Flushing {
    inner: Rc<Inner>,
    partition: PartitionId,
    /// The term it began in: in another one it means nothing.
    term: u64,
}

impl Flushing {
    fn begin(inner: &Rc<Inner>, partition: PartitionId) -> Option<Flushing> {
        let mut state = inner.partition(partition).borrow_mut();
        if state.flushing && !fault::on(Fault::CarryAnyTime) {
            return None;
        }
        state.flushing = true;
        Some(Flushing { inner: inner.clone(), partition, term: state.term })
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        let mut partition = self.inner.partition(self.partition).borrow_mut();
        if partition.term == self.term {
            partition.flushing = false;
        }
        drop(partition);
        self.inner.flushed.notify_all();
    }
}

/// What flushed records brought to an object.
#[derive(Clone, Copy, Default)]
struct Added {
    live: u64,
    total: u64,
    /// A record at or beyond the manifest's `cov` names it: recovery will meet that record again.
    met_again: bool,
}

/// What a flush has written and not yet made valid.
struct Flush {
    partition: PartitionId,
    manifest: Manifest,
    /// The position that each account's blocks stand at.
    accounts: BTreeMap<AccountId, Position>,
    /// Octets of bodies that the flushed records brought.
    added: BTreeMap<ObjectId, Added>,
    /// Files that are garbage if the record does not commit.
    written: Vec<ObjectId>,
    released: BTreeMap<ObjectId, u64>,
    left_out: BTreeSet<AccountId>,
}

impl Inner {
    /// Flushes until what is due is done, trims and compacts, again and again. A panic ends one round, not the task.
    pub async fn housekeeping(self: Rc<Self>) {
        // A busy journal makes something due all the time: what is done at each tick goes by the clock.
        let ticked = Cell::new(time::now());
        loop {
            if let Err(panic) = catch(self.round(&ticked)).await {
                tracing::error!(shard = self.shard, panic, "the housekeeping panicked; it goes on");
                self.status.borrow_mut().panics += 1;
                time::sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn round(self: &Rc<Self>, ticked: &Cell<time::Instant>) {
        let seen = self.due.version();
        let left = self.limits.tick.saturating_sub(ticked.get().elapsed());
        let _ = time::deadline(left, self.due.changed_since(seen)).await;
        self.remove_garbage().await;
        if self.journal.full()
            && let Err(error) = self.look_for_space().await
        {
            tracing::debug!(%error, "still no space");
        }
        self.flush_due().await;
        if let Err(error) = self.trim().await {
            tracing::warn!(shard = self.shard, %error, "cannot trim the journal; tried again later");
        }
        if ticked.get().elapsed() >= self.limits.tick {
            ticked.set(time::now());
            if let Err(error) = self.compact_if_free().await {
                tracing::warn!(shard = self.shard, %error, "a compaction failed; tried again later");
            }
        }
    }

    /// Flushes what is old, and the partitions unflushed for longest while there is too much.
    async fn flush_due(self: &Rc<Self>) {
        loop {
            // On a full disk what was expunged gives its octets back as soon as it is flushed.
            let crowded = self.unflushed_octets.get() > self.limits.flush_octets || self.journal.full();
            let wanted = |partition: &Partition| {
                let waits = partition.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER);
                let aged = partition.oldest.is_some_and(|oldest| oldest.elapsed() >= self.limits.flush_age);
                let retires = partition.unflushed.is_empty() && !partition.retiring.is_empty();
                let dirty = partition.unflushed_octets > 0;
                let open = partition.serving == Serving::Open;
                open && !waits && !partition.flushing && (aged || retires || (crowded && dirty))
            };
            let partitions = self.partitions.values().map(|partition| partition.borrow());
            let due = partitions.filter(|p| wanted(p)).min_by_key(|p| (p.oldest, p.id)).map(|p| p.id);
            let Some(id) = due else { return };
            if let Err(error) = self.flush_now(id).await {
                tracing::warn!(partition = %id, %error, "a flush failed; the journal keeps its records");
            }
        }
    }

    /// Flushes a partition that has something to flush.
    pub async fn flush_now(self: &Rc<Self>, id: PartitionId) -> Result<(), FlushError> {
        self.flush_one(id, false, None).await
    }

    /// Writes a manifest also where there is nothing to flush, so that the partition stands on one.
    pub async fn flush_empty(self: &Rc<Self>, id: PartitionId) -> Result<(), FlushError> {
        self.flush_one(id, true, None).await
    }

    /// Flushes a partition with new blocks of one account, which replace all that it had; tables that cannot be opened are
    /// given up.
    pub async fn flush_rebuilt(
        self: &Rc<Self>,
        id: PartitionId,
        cut: &Cut<'_, '_>,
    ) -> Result<(), FlushError> {
        self.flush_one(id, false, Some(cut)).await
    }

    async fn flush_one(
        self: &Rc<Self>,
        id: PartitionId,
        empty: bool,
        cut: Option<&Cut<'_, '_>>,
    ) -> Result<(), FlushError> {
        let flushing = loop {
            let seen = self.flushed.version();
            match Flushing::begin(self, id) {
                Some(flushing) => break flushing,
                None => self.flushed.changed_since(seen).await,
            }
        };
        {
            let partition = self.partition(id).borrow();
            // R6c: before its Open record is committed nothing is flushed.
            match (partition.serving, cut) {
                (Serving::Open, _) | (Serving::Leaving, None) => {}
                (_, None) => return Ok(()),
                // Whoever asked for a rebuild wants to know.
                (_, Some(_)) => return Err(ReadError::NotHere.into()),
            }
            let clean = partition.unflushed.is_empty() && partition.retiring.is_empty();
            let wanted = cut.is_some() || partition.has_new_gap() || (empty && partition.flush.is_none());
            if clean && !wanted {
                return Ok(());
            }
        }
        let Some(source) = self.source() else {
            return if cut.is_some() { Err(ReadError::NotHere.into()) } else { Ok(()) };
        };
        // A partition that makes its flush panic must not keep the others from theirs.
        let term = flushing.term;
        let result = match catch(self.flush(id, source, flushing, cut)).await {
            Ok(result) => result,
            Err(panic) => {
                self.status.borrow_mut().panics += 1;
                Err(FlushError::Panicked(panic))
            }
        };
        if self.still(id, term).is_ok() {
            self.partition(id).borrow_mut().failed = result.is_err().then(time::now);
        }
        self.remove_garbage().await;
        result
    }

    async fn flush(
        self: &Rc<Self>,
        id: PartitionId,
        source: Rc<dyn Source>,
        flushing: Flushing,
        cut: Option<&Cut<'_, '_>>,
    ) -> Result<(), FlushError> {
        let mut written = Vec::new();
        if self.node.is_some() {
            self.pack_bodies(id, &*source, flushing.term).await?;
        }
        match self.write_flush(id, flushing.term, &*source, cut, &mut written).await.and_then(|flush| {
            self.still(id, flushing.term)?;
            Ok(flush)
        }) {
            Ok(Some(flush)) => self.commit_flush(Flush { written, ..flush }, source, flushing).await,
            Ok(None) => Ok(()),
            Err(error) => {
                self.garbage.borrow_mut().extend(written.into_iter().map(|object| (id, object)));
                Err(error)
            }
        }
    }

    /// Writes table and manifest; `None` where every account that has something to flush had to be left out.
    async fn write_flush(
        self: &Rc<Self>,
        id: PartitionId,
        term: u64,
        source: &dyn Source,
        cut: Option<&Cut<'_, '_>>,
        written: &mut Vec<ObjectId>,
    ) -> Result<Option<Flush>, FlushError> {
        // Everything before is committed and applied; a batch in flight has this position or a later one.
        let cov = self.next_position(id);
        let dir = PathBuf::from(format!("partition {id}"));
        self.make_partition_dir(id).await.map_err(FlushError::io(&dir))?;
        let mut dirty: BTreeMap<AccountId, Position> = {
            let partition = self.partition(id).borrow();
            let last =
                |records: &Vec<crate::partition::Unflushed>| records.last().map(|record| record.position);
            partition.unflushed.iter().filter_map(|(a, records)| Some((a.clone(), last(records)?))).collect()
        };
        if let Some(cut) = cut {
            dirty.entry(cut.account.clone()).or_default();
        }
        let old = self.tables(id).await?;
        self.still(id, term)?;
        let lost = |table: &Named| table.opened().is_none();
        let mut tables: Vec<TableRef> = old
            .iter()
            .map(|table| match table.reference() {
                // A person has asked for it: what is gone does not come back.
                gone if cut.is_some() && lost(table) => gone.give_up(),
                there => there,
            })
            .collect();
        let lost: BTreeSet<ObjectId> =
            old.iter().filter(|table| lost(table)).map(|table| table.reference().object).collect();
        let mut accounts = BTreeMap::new();
        let mut left_out = BTreeSet::new();
        let mut spared = BTreeSet::new();
        let mut table: Option<(TableWriter, ObjectId)> = None;
        for (account, last) in dirty {
            spared.extend(alive_objects(&self.partition(id).borrow(), &account));
            let content = match cut.filter(|cut| cut.account == &account) {
                // It fails as a whole: nothing is rebuilt by half.
                Some(cut) => Ok(self.rebuilt_blocks(id, cut).await?),
                None => account_blocks(source, id, &account, last).await,
            };
            // What is written is of this term, and so is who is left out.
            self.still(id, term)?;
            let content = match content {
                Ok(content) => content,
                Err(why) => {
                    tracing::error!(
                        partition = %id, account = account.as_str(), why,
                        "this account is left out of the flush and its journal is kept: run `culver check`, then \
                         restore what it names, or `culver rebuild` the account"
                    );
                    left_out.insert(account);
                    continue;
                }
            };
            if table.is_none() {
                let (object, path) = self.new_file(id, ObjectKind::Table);
                written.push(object);
                let (header, sync) = (self.file_header(id, object), self.objects.sync_drafts());
                table = Some((TableWriter::create(path, header, sync).await?, object));
            }
            let (writer, _) = table.as_mut().expect("made above");
            accounts.insert(account.clone(), content.position);
            write_account(writer, &account, content).await?;
            self.still(id, term)?;
        }
        let cov = {
            let mut partition = self.partition(id).borrow_mut();
            let kept = left_out.iter().filter_map(|account| partition.unflushed.get(account)?.first());
            let cov = kept.map(|record| record.position).min().map_or(cov, |first| first.min(cov));
            let retires = partition.retiring.values().any(|until| *until <= cov);
            if table.is_none() && !left_out.is_empty() && !retires {
                self.settle_left_out(&mut partition, &left_out);
                return Ok(None);
            }
            cov
        };
        if let Some((writer, object)) = table {
            tables.push(writer.finish(object, 0).await?);
        }
        self.still(id, term)?;
        self.merge_tables(id, &mut tables, &lost, cov, written).await?;
        self.still(id, term)?;
        let (object, path) = self.new_file(id, ObjectKind::Manifest);
        written.push(object);
        let (manifest, added, released) = {
            let mut partition = self.partition(id).borrow_mut();
            let added = added_bodies(&partition, &accounts, cov);
            let released = std::mem::take(&mut partition.released);
            let bodies = remaining_bodies(&partition, &added, &spared, &released, cov);
            let (store, gaps) = (self.store, partition.gaps.clone());
            (Manifest { partition: id, object, store, cov, tables, bodies, gaps }, added, released)
        };
        let flush =
            Flush { partition: id, manifest, accounts, added, written: Vec::new(), released, left_out };
        let done = async {
            let file = File::create_new(&path).await?;
            file.write_at(0, flush.manifest.encode()).await?;
            if self.objects.sync_drafts() {
                file.sync_data().await?;
            }
            file.close().await?;
            self.objects.publish(id, written).await
        };
        if let Err(error) = done.await {
            if self.still(id, term).is_ok() {
                self.give_back(&flush);
            }
            return Err(FlushError::Io { path, source: error });
        }
        Ok(Some(flush))
    }

    /// Notes whom a flush left out; they are asked again when their records have aged once more.
    fn settle_left_out(&self, partition: &mut Partition, left_out: &BTreeSet<AccountId>) {
        let before = partition.unflushed_octets;
        partition.note_left_out(left_out);
        partition.oldest = (!partition.unflushed.is_empty()).then(time::now);
        self.unflushed_octets.set(self.unflushed_octets.get() + partition.unflushed_octets - before);
    }

    /// Merges the newest tables where there are too many; those that are older than a damaged one stay as they are.
    async fn merge_tables(
        self: &Rc<Self>,
        id: PartitionId,
        tables: &mut Vec<TableRef>,
        lost: &BTreeSet<ObjectId>,
        cov: Position,
        written: &mut Vec<ObjectId>,
    ) -> Result<(), FlushError> {
        let unmergeable = self.partition(id).borrow().unmergeable;
        let stays = |table: &TableRef| lost.contains(&table.object) || Some(table.object) == unmergeable;
        let free = tables.iter().rposition(stays).map_or(0, |last| last + 1);
        let run = choose(&tables[free..], self.limits.tables_max);
        if run == 0 {
            return Ok(());
        }
        let from = tables.len() - run;
        let (object, path) = self.new_file(id, ObjectKind::Table);
        let whole = (from == 0).then_some(cov);
        let merged = match self.merged(id, &tables[from..], whole, (object, path), written).await {
            Ok(merged) => merged,
            Err(FlushError::Read(error)) if error.is_damage() => {
                tracing::warn!(
                    partition = %id, %error,
                    "tables are not merged, for one is damaged: run `culver check`, and `culver rebuild` the accounts it names"
                );
                self.partition(id).borrow_mut().unmergeable = tables.last().map(|table| table.object);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        written.push(object);
        // The partition may be lost by now, or have come again: what it stands on is not asked of it.
        let lost = fault::on(Fault::MergeAfterLoss) && self.partition(id).borrow().manifest.is_none();
        for table in tables.drain(from..) {
            // The table of this very flush is named by nothing; all others are, until it is committed.
            if written.contains(&table.object) || lost {
                written.retain(|other| *other != table.object);
                self.garbage.borrow_mut().push((id, table.object));
            }
        }
        tables.push(merged);
        Ok(())
    }

    async fn merged(
        self: &Rc<Self>,
        id: PartitionId,
        tables: &[TableRef],
        whole: Option<Position>,
        (object, path): (ObjectId, PathBuf),
        written: &[ObjectId],
    ) -> Result<TableRef, FlushError> {
        let mut opened = Vec::new();
        for reference in tables {
            let path = self.objects.name(id, reference.object);
            // The table of this very flush is a draft.
            let file = match written.contains(&reference.object) {
                true => self.objects.open_draft(id, reference.object).await,
                false => self.objects.open(id, reference.object).await,
            };
            let file = file.map_err(ReadError::io(&path))?;
            opened.push(Rc::new(Table::of(file, &path, id, *reference).await?));
        }
        let draft = (path, self.objects.sync_drafts());
        merge(&opened, whole, draft, self.file_header(id, object), object).await
    }

    /// Journals the Flush record. Its effect happens in commit order.
    async fn commit_flush(
        self: &Rc<Self>,
        flush: Flush,
        source: Rc<dyn Source>,
        flushing: Flushing,
    ) -> Result<(), FlushError> {
        let (sender, receiver) = oneshot::channel();
        let meta = FlushMeta { manifest: flush.manifest.object, cov: flush.manifest.cov };
        let (inner, id, term) = (self.clone(), flush.partition, flushing.term);
        let on_commit = Box::new(move |result: Result<_, CommitError>| {
            match &result {
                Ok(_) => inner.apply_flush(flush, meta, &*source),
                // H10: it may be committed.
                Err(CommitError::Unknown) if !fault::on(Fault::ForgetUnknownFlush) => {}
                Err(_) => {
                    if inner.still(id, term).is_ok() {
                        inner.give_back(&flush);
                    }
                    inner.garbage.borrow_mut().extend(flush.written.into_iter().map(|object| (id, object)));
                }
            }
            drop(flushing);
            let _ = sender.send(result.map(drop));
        });
        let meta = meta.to_bytes().to_vec();
        let haste = Haste::Urgent;
        self.enqueue(Pending::new(RecordKind::Flush, (id, term), None, meta, Vec::new(), haste, on_commit));
        Ok(receiver.await.unwrap_or(Err(CommitError::Unknown))?)
    }

    /// The Flush record is committed: the partition stands on the new manifest.
    fn apply_flush(&self, flush: Flush, meta: FlushMeta, source: &dyn Source) {
        let mut partition = self.partition(flush.partition).borrow_mut();
        // What lost its last message between the manifest's writing and now counts against the next one.
        let late = added_bodies(&partition, &flush.accounts, meta.cov);
        for (object, share) in &flush.added {
            let now = late.get(object).map_or(0, |share| share.live);
            if now < share.live && flush.manifest.bodies.contains_key(object) {
                *partition.released.entry(*object).or_default() += share.live - now;
            }
        }
        let mut gone = drop_flushed(&mut partition, &flush.accounts);
        self.settle_left_out(&mut partition, &flush.left_out);
        let old = partition.manifest.replace(Rc::new(flush.manifest));
        let new = partition.manifest.clone().expect("just set");
        if let Some(old) = old {
            gone.push(old.object);
            gone.extend(old.tables.iter().map(|table| table.object));
            gone.extend(old.bodies.keys());
        }
        let named = |id: &ObjectId| new.bodies.contains_key(id) || new.tables.iter().any(|t| t.object == *id);
        gone.retain(|id| id.kind != ObjectKind::Segment && !named(id) && !partition.unflushed_names(*id));
        partition.flush = Some((meta, Some(self.journal.telling_id(partition.epoch))));
        partition.tables = None;
        partition.generation += 1;
        partition.retiring.retain(|object, _| new.bodies.contains_key(object));
        let needs = needs_of(&partition);
        let id = partition.id;
        drop(partition);
        self.status.borrow_mut().flushes += 1;
        self.shared.with(|state| state.needs.insert(id.0, needs));
        for object in gone {
            self.close_object(object);
            self.garbage.borrow_mut().push((id, object));
        }
        for (account, position) in &flush.accounts {
            source.flushed(id, account, *position);
        }
        self.due.notify_all();
    }

    /// A flush came to nothing: what it had taken into its manifest counts again.
    fn give_back(&self, flush: &Flush) {
        let mut partition = self.partition(flush.partition).borrow_mut();
        for (object, octets) in &flush.released {
            *partition.released.entry(*object).or_default() += octets;
        }
    }

    /// Journals the newest Flush record of a cold partition again, so that older segments are free of it.
    ///
    /// Never while another Flush of the partition is under way: the old record would come to stand above the new one
    /// and win.
    pub async fn carry_forward(self: &Rc<Self>, id: PartitionId) -> Result<(), FlushError> {
        let Some(flushing) = Flushing::begin(self, id) else { return Ok(()) };
        let Some((mut meta, _)) = self.partition(id).borrow().flush else { return Ok(()) };
        if self.node.is_some() {
            // Nothing is unflushed, so the manifest holds everything before now; but it has to know of a gap.
            let holds_all = {
                let partition = self.partition(id).borrow();
                partition.unflushed.is_empty() && !partition.has_new_gap()
            };
            if !holds_all && !fault::on(Fault::CarryAnyTime) {
                return Ok(());
            }
            meta.cov = self.next_position(id);
        }
        let (sender, receiver) = oneshot::channel();
        let (inner, term) = (self.clone(), flushing.term);
        let on_commit = Box::new(move |result: Result<_, CommitError>| {
            if result.is_ok() {
                let mut partition = inner.partition(id).borrow_mut();
                partition.flush = Some((meta, Some(inner.journal.telling_id(partition.epoch))));
            }
            drop(flushing);
            let _ = sender.send(result.map(drop));
        });
        let meta = meta.to_bytes().to_vec();
        let haste = Haste::Urgent;
        self.enqueue(Pending::new(RecordKind::Flush, (id, term), None, meta, Vec::new(), haste, on_commit));
        Ok(receiver.await.unwrap_or(Err(CommitError::Unknown))?)
    }

    fn new_file(&self, id: PartitionId, kind: ObjectKind) -> (ObjectId, PathBuf) {
        let object = self.next_object(id, kind);
        (object, self.objects.draft(id, object))
    }

    /// What packs and tables begin with.
    pub fn file_header(&self, id: PartitionId, object: ObjectId) -> FileHeader {
        let ObjectId { shard, epoch, number, .. } = object;
        FileHeader { partition: id.0, shard, epoch, number, store: self.store }
    }
}

/// The blocks of one account, or why it has to be left out.
async fn account_blocks(
    source: &dyn Source,
    id: PartitionId,
    account: &AccountId,
    last: Position,
) -> Result<AccountBlocks, String> {
    match catch(source.blocks(id, account, last)).await {
        Ok(Ok(content)) if content.position >= last => Ok(content),
        Ok(Ok(content)) => Err(format!("its blocks stand at {}, its records go to {last}", content.position)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            source.reset(Some(account));
            Err(format!("a panic: {panic}"))
        }
    }
}

/// Writes one account's blocks.
async fn write_account(
    writer: &mut TableWriter,
    account: &AccountId,
    mut content: AccountBlocks,
) -> Result<(), FlushError> {
    content.blocks.sort_by_key(|(guid, ..)| *guid);
    let mut entries = Vec::with_capacity(content.blocks.len());
    for (guid, kind, bytes) in &content.blocks {
        entries.push(writer.put_block(*guid, *kind, bytes).await?);
    }
    let mut position = content.position;
    if fault::on(Fault::FlushPositionOff) {
        position.lsn += 2;
    }
    writer.put_account(account.as_str(), position, entries);
    if content.blocks.iter().any(|(.., bytes)| bytes.len() > LARGE_BLOCK_OCTETS) {
        // Giving its pages back to the system takes milliseconds. Where the annex is full it is done here after all.
        let _ = annex::run(move || drop(content.blocks)).await;
    }
    yield_if_needed().await;
    Ok(())
}

/// Octets of the bodies that the records up to these positions brought, by object.
fn added_bodies(
    partition: &Partition,
    accounts: &BTreeMap<AccountId, Position>,
    cov: Position,
) -> BTreeMap<ObjectId, Added> {
    let mut added: BTreeMap<ObjectId, Added> = BTreeMap::new();
    // Records that follow each other mostly stand in one segment: it is looked up where it changes.
    let mut run: Option<(ObjectId, Added)> = None;
    let mut put = |run: Option<(ObjectId, Added)>| {
        let Some((object, share)) = run else { return };
        let sum = added.entry(object).or_default();
        sum.live += share.live;
        sum.total += share.total;
        sum.met_again |= share.met_again;
    };
    for (account, position) in accounts {
        let records = partition.unflushed.get(account).into_iter().flatten();
        for record in records.filter(|record| record.position <= *position) {
            for body in &record.bodies {
                if run.is_none_or(|(object, _)| object != body.place.object) {
                    put(run.replace((body.place.object, Added::default())));
                }
                let Some((_, share)) = &mut run else { continue };
                // An empty body still needs its frame.
                let octets = body.place.length.max(1);
                share.total += octets;
                share.live += if body.dead { 0 } else { octets };
                share.met_again |= record.position >= cov;
            }
        }
    }
    put(run);
    added
}

/// The objects of bodies that are alive before an account gives its blocks: the blocks may name them.
fn alive_objects(partition: &Partition, account: &AccountId) -> BTreeSet<ObjectId> {
    let records = partition.unflushed.get(account).into_iter().flatten();
    let bodies = records.flat_map(|record| record.bodies.iter());
    let mut objects = BTreeSet::new();
    let mut last = None;
    for object in bodies.filter(|body| !body.dead).map(|body| body.place.object) {
        if last.replace(object) != Some(object) {
            objects.insert(object);
        }
    }
    objects
}

/// The body objects of a new manifest.
fn remaining_bodies(
    partition: &Partition,
    added: &BTreeMap<ObjectId, Added>,
    spared: &BTreeSet<ObjectId>,
    released: &BTreeMap<ObjectId, u64>,
    cov: Position,
) -> BTreeMap<ObjectId, manifest::Share> {
    let mut bodies = partition.manifest.as_ref().map(|manifest| manifest.bodies.clone()).unwrap_or_default();
    for (object, share) in added {
        // A message that was expunged before its flush costs no object; but recovery wants to find what a record names,
        // and one that was expunged after its account gave its blocks is named by them.
        let named = share.met_again || spared.contains(object);
        if share.live > 0 || named || bodies.contains_key(object) {
            let sum = bodies.entry(*object).or_default();
            sum.live += share.live;
            sum.total += share.total;
        }
    }
    for (object, octets) in released {
        if let Some(share) = bodies.get_mut(object) {
            share.live = share.live.saturating_sub(*octets);
        }
    }
    let retired = |object: &ObjectId| partition.retiring.get(object).is_some_and(|until| *until <= cov);
    bodies.retain(|object, _| !retired(object) && !partition.missing.contains(object));
    bodies
}

/// Drops the records that the accounts' blocks contain; the packs they named.
fn drop_flushed(partition: &mut Partition, accounts: &BTreeMap<AccountId, Position>) -> Vec<ObjectId> {
    let mut packs = Vec::new();
    let all = fault::on(Fault::FlushDropsLater);
    for (account, position) in accounts {
        partition.drop_unflushed(account, |record| {
            let gone = record.position <= *position || all;
            if gone {
                let objects = record.bodies.iter().map(|body| body.place.object);
                packs.extend(objects.filter(|id| id.kind == ObjectKind::Pack));
            }
            gone
        });
    }
    packs.sort_unstable();
    packs.dedup();
    packs
}
