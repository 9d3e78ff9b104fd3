//! Late merge: what a node had acknowledged on its disk when another one took over, taken up by whoever owns it now.
//!
//! # Invariants
//! Each late record counts once: the mail layer tells by its journal and lsn which it has. That a partition has all of them is
//! said under `merged/` when their records are committed, and not before.
//!
//! # Order
//! The objects of a tail are deleted when every partition that has records in it has merged them.
//!
//! # Cost
//! One GET for each node that has gone with a local tail, each [`super::NodeConfig::late_look`], until it has come back.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::{Queue, catch, local, mesh, spawn, sync, time, yield_if_needed};

use super::{Inner, Node, PATIENCE};
use crate::body::format::decode_frame;
use crate::body::{Body, Form, Unnamed};
use crate::error::SourceError;
use crate::fault::{self, Fault};
use crate::journal::commit::shared::lsn_of;
use crate::journal::format::{RecordHeader, RecordKind, account_of, parse_head};
use crate::partition::Serving;
use crate::place::{HERE, ObjectId, ObjectKind, Place};
use crate::shared::format::{Content, Incarnation, LateEnd, MERGED, ObjectHead, head_octets};
use crate::shared::keys;
use crate::shared::seal::SealError;
use crate::shared::takeover::late_end;
use crate::source::{LateRecord, LocalFuture, Merged};
use crate::storage::Storage;
use crate::store::{Octets, Patience, StoreError};

/// Accounts that take up what came late together.
const ACCOUNTS_AT_A_TIME: usize = 32;

/// What came late of other nodes, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// Records that were merged.
    pub records: u64,
    /// Those that could not be carried out as they were meant.
    pub conflicts: u64,
    /// Journals whose tails are waited for.
    pub awaited: u64,
}

/// The tail of a journal that partitions wait for.
#[derive(Default)]
pub(super) struct Awaited {
    /// Partitions, and the epochs that begin with a gap because of it.
    waits: BTreeMap<PartitionId, BTreeSet<u32>>,
    looked: Option<time::Instant>,
}

impl Awaited {
    pub fn wait(&mut self, partition: PartitionId, epoch: u32) {
        self.waits.entry(partition).or_default().insert(epoch);
    }
}

/// A record on its way to the shard of its partition.
struct Surfaced {
    lsn: u64,
    meta: Vec<u8>,
    bodies: Vec<SurfacedBody>,
}

enum SurfacedBody {
    Octets(Vec<u8>),
    Placed(Place),
}

type OfPartition = BTreeMap<AccountId, Vec<Surfaced>>;

impl Node {
    /// What came late of other nodes.
    pub fn late(&self) -> Late {
        let awaited = self.0.state.borrow().awaited.len() as u64;
        Late { awaited, ..self.0.late.get() }
    }
}

impl Inner {
    /// Begins to look for tails that have come, unless that goes on: a long one keeps nobody from a takeover.
    pub(super) fn begin_merge(self: &Rc<Self>) {
        if self.state.borrow().awaited.is_empty() || self.merging.replace(true) {
            return;
        }
        let inner = self.clone();
        let merge = async move {
            match catch(inner.merge_late()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "what may have come late is looked for again"),
                Err(panic) => tracing::error!(panic, "a merge panicked; it is tried again"),
            }
            inner.merging.set(false);
        };
        spawn(Queue::Background, "late merge", merge).detach();
    }

    /// Looks for tails that have come, and merges them.
    pub(super) async fn merge_late(&self) -> Result<(), SealError> {
        let due: Vec<Incarnation> = {
            let state = self.state.borrow();
            let due = |one: &Awaited| one.looked.is_none_or(|at| at.elapsed() >= self.config.late_look);
            state.awaited.iter().filter(|(_, one)| due(one)).map(|(of, _)| *of).collect()
        };
        let mut failed = Ok(());
        for of in due {
            if let Some(one) = self.state.borrow_mut().awaited.get_mut(&of) {
                one.looked = Some(time::now());
            }
            // One that fails keeps no other from it.
            if let Err(error) = self.merge_tail(of).await {
                failed = failed.and(Err(error));
            }
        }
        failed
    }

    async fn merge_tail(&self, of: Incarnation) -> Result<(), SealError> {
        let Some(end) = late_end(&self.store, of, PATIENCE).await? else { return Ok(()) };
        let waits: Vec<PartitionId> = {
            let mut state = self.state.borrow_mut();
            let held: BTreeSet<PartitionId> = state.held.keys().copied().collect();
            let Some(one) = state.awaited.get_mut(&of) else { return Ok(()) };
            // Whoever has the others now looks for himself.
            one.waits.retain(|id, _| held.contains(id));
            one.waits.keys().copied().collect()
        };
        let mut missing = Vec::new();
        for id in waits {
            if end.is_complete() || self.is_merged(of, id).await? {
                self.note_merged(of, id).await;
            } else {
                missing.push(id);
            }
        }
        if !missing.is_empty() {
            // Where all that has records there has merged it, the others have nothing to come.
            let done = self.there_is(&keys::late_done(of)).await?;
            let mut all = if done { BTreeMap::new() } else { self.read_late(end).await? };
            let inhabited: Vec<PartitionId> = all.keys().copied().collect();
            for id in missing {
                let records = all.remove(&id).unwrap_or_default();
                if self.merge_partition(of, id, records).await? {
                    self.note_merged(of, id).await;
                }
            }
            if !done {
                self.clear_late(end, &inhabited).await?;
            }
        }
        let mut state = self.state.borrow_mut();
        if state.awaited.get(&of).is_some_and(|one| one.waits.is_empty()) {
            state.awaited.remove(&of);
        }
        Ok(())
    }

    async fn is_merged(&self, of: Incarnation, id: PartitionId) -> Result<bool, SealError> {
        self.there_is(&keys::merged(of, id)).await
    }

    async fn there_is(&self, key: &str) -> Result<bool, SealError> {
        match self.store.head(key, PATIENCE).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A partition waits no more.
    async fn note_merged(&self, of: Incarnation, id: PartitionId) {
        let epochs = {
            let mut state = self.state.borrow_mut();
            state.awaited.get_mut(&of).and_then(|one| one.waits.remove(&id)).unwrap_or_default()
        };
        let noted = mesh::call(self.shard_of(id), move || async move {
            let Some(storage) = local::<Storage>() else { return };
            let mut partition = storage.0.partition(id).borrow_mut();
            let theirs = partition.gaps.iter().filter(|gap| gap.of == of && epochs.contains(&gap.epoch));
            let theirs: Vec<u32> = theirs.map(|gap| gap.epoch).collect();
            partition.merged.extend(theirs);
        });
        let _ = noted.await;
    }

    async fn read_late(&self, end: LateEnd) -> Result<BTreeMap<PartitionId, OfPartition>, SealError> {
        let mut all = BTreeMap::new();
        for seq in end.first..end.next {
            let key = keys::late(end.incarnation, seq);
            let damaged = |what: String| SealError::Damaged { key: key.clone(), what };
            let bytes = match self.store.get(&key, None, PATIENCE, None).await {
                Err(StoreError::NotFound(_)) => return Err(damaged("it is missing".to_owned())),
                other => other?,
            };
            surfaced(&bytes, end.incarnation, seq, &mut all).map_err(damaged)?;
            yield_if_needed().await;
        }
        Ok(all)
    }

    /// Whether a partition has everything that came late of a journal.
    async fn merge_partition(
        &self,
        of: Incarnation,
        id: PartitionId,
        records: OfPartition,
    ) -> Result<bool, SealError> {
        let early = fault::on(Fault::MergedTooEarly);
        let said = Octets::from(MERGED.to_vec());
        if early {
            self.store.put(&keys::merged(of, id), &said, PATIENCE).await?;
        }
        let merged = mesh::call(self.shard_of(id), move || async move {
            let Some(storage) = local::<Storage>() else { return Err("the shard is stopping".to_owned()) };
            storage.merge(id, of, records).await
        });
        let merged = match merged.await {
            Ok(Ok(merged)) => merged,
            Ok(Err(error)) => {
                tracing::warn!(partition = %id, error, "what came late is not merged yet; it is tried again");
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        if !early {
            self.store.put(&keys::merged(of, id), &said, PATIENCE).await?;
        }
        let mut late = self.late.get();
        late.records += merged.records;
        late.conflicts += merged.conflicts;
        self.late.set(late);
        if merged != Merged::default() {
            tracing::warn!(
                partition = %id, records = merged.records, conflicts = merged.conflicts,
                "merged what a node that was taken for dead had acknowledged"
            );
        }
        Ok(true)
    }

    /// Deletes a tail that every partition in it has merged.
    async fn clear_late(&self, end: LateEnd, inhabited: &[PartitionId]) -> Result<(), SealError> {
        for id in inhabited {
            if !self.is_merged(end.incarnation, *id).await? {
                return Ok(());
            }
        }
        let said = Octets::from(MERGED.to_vec());
        self.store.put(&keys::late_done(end.incarnation), &said, PATIENCE).await?;
        let gone: Vec<String> = (end.first..end.next).map(|seq| keys::late(end.incarnation, seq)).collect();
        self.store.delete(&gone, Patience::background(PATIENCE.within)).await?;
        Ok(())
    }
}

/// Adds the Data records of a late object.
fn surfaced(
    bytes: &[u8],
    of: Incarnation,
    seq: u64,
    all: &mut BTreeMap<PartitionId, OfPartition>,
) -> Result<(), String> {
    let head = ObjectHead::parse(bytes)?;
    if (head.incarnation, head.seq) != (of, seq) {
        return Err("it stood elsewhere".to_owned());
    }
    let Content::Records(parts) = &head.content else { return Err("a seal stands here".to_owned()) };
    let (mut at, mut index) = (head_octets(parts.len()), 0);
    for _ in parts.iter().flat_map(|part| 0..part.records) {
        let rest = bytes.get(at..).ok_or("a record is cut short")?;
        let header = RecordHeader::parse(rest).ok_or("no record here")?;
        let record = rest.get(..header.length as usize).ok_or("a record is cut short")?;
        let head = parse_head(record)?;
        if header.kind == RecordKind::Data {
            let bodies = head.places.iter().map(|place| body_of(place, record)).collect::<Result<_, _>>()?;
            let surfaced = Surfaced { lsn: lsn_of(seq, index), meta: head.meta.to_vec(), bodies };
            let account = account_of(head.account)?;
            all.entry(header.partition).or_default().entry(account).or_default().push(surfaced);
        }
        at += header.length as usize;
        index += 1;
    }
    Ok(())
}

fn body_of(place: &Place, record: &[u8]) -> Result<SurfacedBody, &'static str> {
    if place.object.kind != ObjectKind::Segment || place.object.number != HERE {
        return Ok(SurfacedBody::Placed(*place));
    }
    let frame = record.get(place.offset as usize..).ok_or("a body is cut short")?;
    let (plain, _) = decode_frame(frame)?;
    match plain.len() as u64 == place.length {
        true => Ok(SurfacedBody::Octets(plain)),
        false => Err("a body of another length"),
    }
}

impl Storage {
    /// Has the accounts of a partition take up what came late; ready when it is committed in the store.
    async fn merge(&self, id: PartitionId, of: Incarnation, records: OfPartition) -> Result<Merged, String> {
        let term = {
            let partition = self.0.partition(id).borrow();
            if partition.serving != Serving::Open {
                return Err("the partition is not served here".to_owned());
            }
            partition.term
        };
        let Some(source) = self.0.source() else { return Err("the shard is stopping".to_owned()) };
        let mut all = Merged::default();
        let mut failed = None;
        let mut records = records.into_iter();
        loop {
            // Those of one account one after the other, those of several share their commits.
            let some: Vec<(AccountId, Vec<Surfaced>)> = records.by_ref().take(ACCOUNTS_AT_A_TIME).collect();
            if some.is_empty() {
                return failed.map_or(Ok(all), Err);
            }
            let merges = some.into_iter().map(|(account, records)| -> LocalFuture<'_, _> {
                let source = source.clone();
                Box::pin(async move {
                    let (records, gone) = self.late_records(id, records).await?;
                    let mut merged = source.merge(id, &account, Guid(of.0), records).await?;
                    merged.conflicts += gone;
                    Ok::<_, SourceError>(merged)
                })
            });
            for merged in sync::all(merges.collect()).await {
                match merged {
                    Ok(merged) => {
                        all.records += merged.records;
                        all.conflicts += merged.conflicts;
                    }
                    // An account that is damaged keeps nothing from others.
                    Err(error) => {
                        tracing::warn!(partition = %id, %error, "what came late of an account waits");
                        failed.get_or_insert(error.to_string());
                    }
                }
            }
            self.0.still(id, term).map_err(|error| error.to_string())?;
        }
    }

    /// Records as the account takes them, without those whose body is gone, and how many these are: their messages were
    /// restored by a rebuild meanwhile, and expunged.
    async fn late_records(
        &self,
        id: PartitionId,
        surfaced: Vec<Surfaced>,
    ) -> Result<(Vec<LateRecord>, u64), SourceError> {
        let (mut records, mut gone) = (Vec::with_capacity(surfaced.len()), 0);
        for Surfaced { lsn, meta, bodies } in surfaced {
            let mut there = true;
            for body in &bodies {
                if let SurfacedBody::Placed(place) = body {
                    there &= self.is_stored(id, place.object).await?;
                }
            }
            match there {
                true => {
                    let bodies = bodies.into_iter().map(|body| self.late_body(id, body)).collect();
                    records.push(LateRecord { lsn, meta, bodies });
                }
                false => gone += 1,
            }
        }
        Ok((records, gone))
    }

    async fn is_stored(&self, id: PartitionId, object: ObjectId) -> Result<bool, SourceError> {
        let opened = async { self.0.objects.open(id, object).await?.len().await };
        match opened.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(SourceError(format!("{}: {error}", self.0.objects.name(id, object).display()))),
        }
    }

    fn late_body(&self, id: PartitionId, body: SurfacedBody) -> Body {
        match body {
            SurfacedBody::Octets(bytes) => Body(Form::Inline { bytes, memory: Vec::new() }),
            SurfacedBody::Placed(place) => {
                let file = Unnamed::new(self.0.clone(), id, place.object);
                // The late record names it, whatever becomes of this try.
                file.named();
                Body(Form::Placed { place, file })
            }
        }
    }
}
