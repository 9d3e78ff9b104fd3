//! Taking partitions over: who owns one, claiming it, and finding everything that was committed of it (R1, R6).
//!
//! # Order
//! The claim; then the seals of all journals that the chain of owners leads through, back to an owner whose journal holds a
//! Flush, or whose claim named its base (R6b, H3). Nothing is served before the claimer's own Open record is committed (H9).
//!
//! # Invariants
//! A Flush covers what stands before its `cov`. Where that lies in an earlier epoch (an account could not be flushed) the walk
//! goes on to that epoch, and no journal up to there is freed: a Flush that covers less promises less.
//!
//! # Cost
//! Each journal is read once for all partitions that are taken, and then their owners and manifests are asked for together: from the seal on
//! it is some round trips, however many partitions there are. Memory for what is known of unflushed records, and for their heads and
//! bodies as far as the caches of the shards may take them ([`Taker::kept_octets_max`]).

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use culver_model::{AccountId, PartitionId};
use culver_shard::sync::{self, Semaphore};
use culver_shard::{time, yield_if_needed};

use super::format::{Base, Content, Gap, Incarnation, LateEnd, ObjectHead, PartitionOwner};
use super::holding::Acquired;
use super::keys;
use super::seal::{SealError, newest_low, seal};
use crate::body::WHOLE_MAX;
use crate::body::format::BodyShape;
use crate::cache::Part;
use crate::fault::{self, Fault};
use crate::journal::commit::shared::lsn_of;
use crate::journal::format::{FlushMeta, Head, RecordHeader, RecordKind, account_of, parse_head};
use crate::manifest::Manifest;
use crate::partition::{PartitionSeed, Unflushed, UnflushedBody};
use crate::place::{ObjectId, ObjectKind, Place, Position, here};
use crate::rebuild::listed::{self, Listed};
use crate::root::nonce;
use crate::source::LocalFuture;
use crate::store::{Created, Octets, Patience, Store, StoreError};
use crate::table::format::{FOOTER_OCTETS, Footer};

/// Owners in a chain without a Flush; more is taken for a mistake.
const CHAIN_MAX: u32 = 10_000;

/// Who takes, as its claims name it.
#[derive(Clone)]
pub(crate) struct Taker {
    pub store: Store,
    pub store_id: [u8; 16],
    pub name: String,
    pub address: String,
    pub incarnation: Incarnation,
    /// It acknowledges after its local disk.
    pub local: bool,
    pub patience: Patience,
    /// Partitions that are taken also where their manifest is damaged or missing: what is listed stands in for it.
    pub salvaging: BTreeSet<PartitionId>,
    /// Octets of the heads of unflushed records that are kept for the caches, so that nobody has to read them again; and as
    /// many of bodies in them.
    pub kept_octets_max: u64,
}

/// Epochs before the newest one in whose journals bodies are looked for where a manifest is lost.
const SALVAGED_EPOCHS_MAX: u32 = 256;

/// What the records of one journal say of one epoch of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub flush: Option<(Position, FlushMeta, ObjectId)>,
    /// It was handed over, standing on this manifest, or empty.
    pub released: Option<Option<ObjectId>>,
    /// Its Open record, and whose tail was missing then.
    pub opened: Option<Option<Incarnation>>,
    pub unflushed: BTreeMap<AccountId, Vec<Unflushed>>,
    /// Parts of unflushed records; of some perhaps none.
    parts: BTreeMap<Position, Vec<ReadPart>>,
}

/// A part of a record as it stands in its journal object, and at which offset.
#[derive(Clone, Debug)]
pub(crate) struct ReadPart {
    pub offset: u64,
    pub part: Part,
    pub octets: Box<[u8]>,
}

/// Octets of parts of records that may still be kept. An account cannot be opened without heads: bodies take no room from them.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    heads: u64,
    bodies: u64,
}

impl Room {
    /// Octets that a part takes in memory beside its own.
    const EXTRA: u64 = 64;

    fn of(&mut self, part: Part) -> &mut u64 {
        if part == Part::RecordHead { &mut self.heads } else { &mut self.bodies }
    }

    fn keep(&mut self, offset: u64, part: Part, octets: &[u8]) -> Option<ReadPart> {
        let room = self.of(part);
        *room = room.checked_sub(octets.len() as u64 + Room::EXTRA)?;
        Some(ReadPart { offset, part, octets: octets.into() })
    }

    fn free(&mut self, of: &ReadPart) {
        *self.of(of.part) += of.octets.len() as u64 + Room::EXTRA;
    }
}

/// What was read of a journal.
#[derive(Debug, Default)]
pub(crate) struct JournalRead {
    /// Of the partitions that were asked for, by epoch.
    pub told: BTreeMap<(PartitionId, u32), Told>,
    /// All partitions and epochs that have records in it.
    pub owners: BTreeSet<(PartitionId, u32)>,
    /// Where it is sealed, if it had to be.
    pub sealed: Option<u64>,
    /// Whether its node has said that nothing is missing in it, where it was asked.
    pub complete: Option<bool>,
    room: Room,
}

/// Journals that were read for a takeover, each once and one at a time; all else is asked for all partitions together, since
/// what each asks in turn would add up.
struct Journals {
    read: RefCell<BTreeMap<Incarnation, JournalRead>>,
    turn: Semaphore,
    room: Cell<Room>,
}

/// What came of claims.
pub(crate) struct Taken {
    pub claims: Vec<(PartitionOwner, Result<Acquired, SealError>)>,
    pub journals: BTreeMap<Incarnation, JournalRead>,
}

/// The newest owner of a partition, from an epoch on that is known to have one; `None` where nobody ever owned it.
pub(crate) async fn newest_owner(
    store: &Store,
    partition: PartitionId,
    from: u32,
    patience: Patience,
) -> Result<Option<PartitionOwner>, SealError> {
    // Epochs have no gap: gallop to one that is missing, then halve.
    let (mut found, mut at, mut step) = (None, from, 1);
    let mut missing = loop {
        match owner_at(store, partition, at, patience).await? {
            Some(owner) => {
                found = Some(owner);
                at += step;
                step *= 2;
            }
            None => break at,
        }
    };
    let Some(mut newest) = found else {
        return match from {
            0 => Ok(None),
            _ => Box::pin(newest_owner(store, partition, 0, patience)).await,
        };
    };
    while missing - newest.epoch > 1 {
        let middle = newest.epoch + (missing - newest.epoch) / 2;
        match owner_at(store, partition, middle, patience).await? {
            Some(owner) => newest = owner,
            None => missing = middle,
        }
    }
    Ok(Some(newest))
}

pub(crate) async fn owner_at(
    store: &Store,
    partition: PartitionId,
    epoch: u32,
    patience: Patience,
) -> Result<Option<PartitionOwner>, SealError> {
    let key = keys::owner(partition, epoch);
    match store.get(&key, None, patience, None).await {
        Ok(bytes) => match PartitionOwner::parse(&bytes) {
            Ok(owner) if (owner.partition, owner.epoch) == (partition, epoch) => Ok(Some(owner)),
            Ok(_) => Err(SealError::Damaged { key, what: "it stood elsewhere".to_owned() }),
            Err(what) => Err(SealError::Damaged { key, what }),
        },
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Taker {
    /// Claims an epoch of a partition; `None` where somebody else has it. To be asked once for each epoch and incarnation
    /// (H13): the caller remembers.
    pub async fn claim(
        &self,
        partition: PartitionId,
        epoch: u32,
        base: Base,
    ) -> Result<Option<PartitionOwner>, SealError> {
        let owner = PartitionOwner {
            partition,
            epoch,
            name: self.name.clone(),
            address: self.address.clone(),
            incarnation: self.incarnation,
            base,
            local: self.local,
            store: self.store_id,
            nonce: nonce(),
            created: time::wall().0,
        };
        // H13: a second claim of one incarnation must not look like the first.
        let owner = match fault::on(Fault::ClaimRepeats) {
            true => PartitionOwner { nonce: [0; 16], created: 0, ..owner },
            false => owner,
        };
        let octets = Octets::from(owner.encode());
        match self.store.create(&keys::owner(partition, epoch), &octets, self.patience).await? {
            Created::Mine => Ok(Some(owner)),
            Created::Foreign(_) => Ok(None),
        }
    }

    /// Everything that was committed of partitions that were claimed. One that is damaged keeps no other from it.
    pub async fn take(&self, claims: Vec<PartitionOwner>) -> Taken {
        let partitions: BTreeSet<PartitionId> = claims.iter().map(|claim| claim.partition).collect();
        let room = Cell::new(Room { heads: self.kept_octets_max, bodies: self.kept_octets_max });
        let journals = Journals { read: RefCell::default(), turn: Semaphore::new(1), room };
        let walks = claims.iter().map(|claim| -> LocalFuture<'_, _> {
            Box::pin(self.take_one(claim.clone(), &partitions, &journals))
        });
        let results = sync::all(walks.collect()).await;
        Taken { claims: claims.into_iter().zip(results).collect(), journals: journals.read.into_inner() }
    }

    async fn take_one(
        &self,
        claim: PartitionOwner,
        partitions: &BTreeSet<PartitionId>,
        read: &Journals,
    ) -> Result<Acquired, SealError> {
        let (id, epoch) = (claim.partition, claim.epoch);
        let mut journals = BTreeMap::new();
        let mut flush: Option<(FlushMeta, Option<ObjectId>)> = None;
        let mut records: Vec<BTreeMap<AccountId, Vec<Unflushed>>> = Vec::new();
        let mut parts: BTreeMap<Position, Vec<ReadPart>> = BTreeMap::new();
        let mut owner = claim;
        let mut gaps: Vec<Gap> = Vec::new();
        // The newest earlier owner that served, once it is found.
        let mut served = false;
        loop {
            match owner.base {
                Base::Manifest(manifest) => {
                    // It holds everything of earlier epochs.
                    let cov = Position { epoch: owner.epoch, lsn: 0 };
                    flush.get_or_insert((FlushMeta { manifest, cov }, None));
                    break;
                }
                Base::Empty => break,
                Base::Pending => {}
            }
            let Some(before) = owner.epoch.checked_sub(1).filter(|k| epoch - k < CHAIN_MAX) else {
                let key = keys::owner(id, owner.epoch);
                return Err(SealError::Damaged {
                    key,
                    what: "the chain of owners has no beginning".to_owned(),
                });
            };
            let Some(earlier) = owner_at(&self.store, id, before, self.patience).await? else {
                let what = "a link of the chain of owners is missing".to_owned();
                return Err(SealError::Damaged { key: keys::owner(id, before), what });
            };
            owner = earlier;
            // H3: each journal of the chain is sealed. Nobody seals a journal that he takes for his own.
            let careless = fault::on(Fault::SealNewestOnly) && owner.epoch + 1 < epoch;
            let told = self.told(&owner, partitions, read, careless).await?;
            if let Some(Some(of)) = told.opened {
                gaps.push(Gap { epoch: owner.epoch, of });
            }
            if !served && told.has_served() {
                served = true;
                // What he has told clients may be missing here, unless he has left in order or has come back and said so.
                let unproved = owner.local && told.released.is_none() && !fault::on(Fault::GapForgotten);
                if unproved && !self.is_complete(owner.incarnation, read).await? {
                    gaps.push(Gap { epoch, of: owner.incarnation });
                }
            }
            journals.insert(owner.epoch, owner.incarnation);
            records.push(told.unflushed);
            parts.extend(told.parts);
            if flush.is_none()
                && let Some((_, meta, segment)) = told.flush
            {
                flush = Some((meta, Some(segment)));
            }
            // Nothing before its cov is needed.
            if flush.is_some_and(|(meta, _)| meta.cov.epoch >= owner.epoch) {
                break;
            }
        }
        yield_if_needed().await;
        // Oldest first; what the manifest covers is left out.
        let cov = flush.map_or(Position::default(), |(meta, _)| meta.cov);
        let mut unflushed: BTreeMap<AccountId, Vec<Unflushed>> = BTreeMap::new();
        for (account, of_account) in records.into_iter().rev().flatten() {
            let kept = of_account.into_iter().filter(|record| record.position >= cov);
            unflushed.entry(account).or_default().extend(kept);
        }
        unflushed.retain(|_, records| !records.is_empty());
        let flush = match flush {
            None => None,
            Some((meta, segment)) => {
                let manifest = match self.manifest(id, &meta).await {
                    Err(error @ SealError::Damaged { .. }) if self.salvaging.contains(&id) => {
                        tracing::error!(partition = %id, %error, "what is listed stands in for the manifest");
                        self.listed_manifest(id, epoch, &meta, &mut journals).await?
                    }
                    other => other?,
                };
                Some((meta, segment, manifest))
            }
        };
        let of_manifest = flush.iter().flat_map(|(_, _, manifest)| manifest.gaps.iter().copied());
        gaps.extend(of_manifest);
        gaps.sort_by_key(|gap| gap.epoch);
        // What journals say counts more than a manifest that was made of what is listed.
        gaps.dedup_by_key(|gap| gap.epoch);
        // Bodies that a manifest names in journal objects of still earlier epochs.
        let bodies = flush.iter().flat_map(|(_, _, manifest)| manifest.bodies.keys());
        let in_journals: BTreeSet<u32> =
            bodies.filter(|id| id.kind == ObjectKind::Segment).map(|id| id.epoch).collect();
        for epoch in in_journals {
            if !journals.contains_key(&epoch)
                && let Some(owner) = owner_at(&self.store, id, epoch, self.patience).await?
            {
                journals.insert(epoch, owner.incarnation);
            }
        }
        let kept = unflushed.values().flatten().filter_map(|record| {
            let of_record = parts.remove(&record.position)?;
            Some(of_record.into_iter().map(|part| (record.segment, part)))
        });
        let parts = kept.flatten().collect();
        let seed = PartitionSeed { partition: id, epoch, flush, unflushed, missing: BTreeSet::new(), gaps };
        Ok(Acquired { seed, incarnation: self.incarnation, journals, parts })
    }

    /// What the journal of an owner says of its epoch; it is read by who wants it first.
    async fn told(
        &self,
        owner: &PartitionOwner,
        partitions: &BTreeSet<PartitionId>,
        journals: &Journals,
        careless: bool,
    ) -> Result<Told, SealError> {
        let of = owner.incarnation;
        let known = || journals.read.borrow().contains_key(&of);
        if !known() {
            let _turn = journals.turn.acquire(1).await;
            if !known() {
                let taker =
                    Taker { incarnation: if careless { of } else { self.incarnation }, ..self.clone() };
                let room = journals.room.get();
                let read = Box::pin(taker.read(of, partitions, room)).await?;
                journals.room.set(read.room);
                journals.read.borrow_mut().insert(of, read);
            }
        }
        let mut journals = journals.read.borrow_mut();
        let told = journals.get_mut(&of).and_then(|read| read.told.remove(&(owner.partition, owner.epoch)));
        Ok(told.unwrap_or_default())
    }

    /// What a journal says: one of another incarnation is sealed first, our own has no need of it.
    async fn read(
        &self,
        incarnation: Incarnation,
        partitions: &BTreeSet<PartitionId>,
        room: Room,
    ) -> Result<JournalRead, SealError> {
        let (began, mut objects, mut octets) = (time::now(), 0u64, 0u64);
        let mut read = JournalRead { room, ..JournalRead::default() };
        let mut visit = |head: &ObjectHead, bytes: &[u8]| {
            objects += 1;
            octets += bytes.len() as u64;
            read_object(head, bytes, partitions, &mut read)
        };
        if incarnation != self.incarnation && !fault::on(Fault::SealSkipped) {
            let at =
                seal(&self.store, incarnation, self.store_id, &self.name, self.patience, &mut visit).await?;
            // R5: seals are never removed.
            if fault::on(Fault::SealDeleted) {
                self.store.delete(&[keys::journal(incarnation, at)], self.patience).await?;
            }
            read.sealed = Some(at);
            let ms = began.elapsed().as_millis() as u64;
            tracing::info!(journal = %incarnation, objects, octets, ms, "a journal is read and sealed");
            return Ok(read);
        }
        let (from, _) = newest_low(&self.store, incarnation, 0, self.patience).await?;
        super::seal::read(&self.store, incarnation, from, self.patience, &mut visit).await?;
        Ok(read)
    }

    /// What stands in for a manifest that is damaged or missing; see `rebuild/listed.rs`. Bodies may stand in the journal of
    /// any earlier epoch.
    async fn listed_manifest(
        &self,
        id: PartitionId,
        epoch: u32,
        meta: &FlushMeta,
        journals: &mut BTreeMap<u32, Incarnation>,
    ) -> Result<Manifest, SealError> {
        let mut all = Vec::new();
        for (key, octets) in self.list(&format!("data/{id}/")).await? {
            let Some(object) = keys::parse_data(id, &key) else { continue };
            let mut accounts = None;
            if object.kind == ObjectKind::Table {
                let end = octets.saturating_sub(FOOTER_OCTETS as u64)..octets;
                accounts = match self.store.get(&key, Some(end), self.patience, None).await {
                    Ok(end) => Footer::parse(&end, octets).ok().map(|footer| footer.accounts),
                    Err(StoreError::NotFound(_)) => None,
                    Err(error) => return Err(error.into()),
                };
            }
            all.push(Listed { object, octets, accounts });
        }
        let mut gaps = Vec::new();
        for before in (epoch.saturating_sub(SALVAGED_EPOCHS_MAX)..epoch).rev() {
            if let Entry::Vacant(vacant) = journals.entry(before)
                && let Some(owner) = owner_at(&self.store, id, before, self.patience).await?
            {
                vacant.insert(owner.incarnation);
                // The manifest knew whether something of him is missing. A gap too many costs UIDs that nobody was told.
                if !owner.local {
                    continue;
                }
                let end = late_end(&self.store, owner.incarnation, self.patience).await?;
                if end.is_some_and(|end| end.is_complete()) {
                    continue;
                }
                // Who handed over in order told what he had, and may be alive.
                let next = owner_at(&self.store, id, before + 1, self.patience).await?;
                let sealed = |next: &PartitionOwner| {
                    matches!(next.base, Base::Pending) && next.incarnation != owner.incarnation
                };
                if next.is_some_and(|next| sealed(&next)) {
                    gaps.push(Gap { epoch: before + 1, of: owner.incarnation });
                }
            }
        }
        gaps.sort_by_key(|gap| gap.epoch);
        let mut in_journals: BTreeMap<Incarnation, Vec<(u64, u64)>> = BTreeMap::new();
        for (of_epoch, incarnation) in journals.iter() {
            if !in_journals.contains_key(incarnation) {
                let objects = self.list(&format!("journal/{incarnation}/")).await?.into_iter();
                let numbered =
                    objects.filter_map(|(key, octets)| Some((keys::parse_journal(&key)?.1, octets)));
                in_journals.insert(*incarnation, numbered.collect());
            }
            for (number, octets) in &in_journals[incarnation] {
                let object =
                    ObjectId { kind: ObjectKind::Segment, shard: 0, epoch: *of_epoch, number: *number };
                all.push(Listed { object, octets: *octets, accounts: None });
            }
        }
        Ok(Manifest { gaps, ..listed::manifest_of(id, meta, self.store_id, all) })
    }

    /// All keys below a prefix, and octets.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, SealError> {
        if !self.store.lists() {
            let what = "it is lost, and this store cannot list what stands in for it".to_owned();
            return Err(SealError::Damaged { key: prefix.to_owned(), what });
        }
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let listed = self.store.list(prefix, &after, self.patience).await?;
            let more = listed.more;
            all.extend(listed.objects);
            match all.last() {
                Some((last, _)) if more => after.clone_from(last),
                _ => return Ok(all),
            }
            yield_if_needed().await;
        }
    }

    /// Whether the node of a journal has said that nothing it told anybody is missing in it.
    async fn is_complete(&self, of: Incarnation, journals: &Journals) -> Result<bool, SealError> {
        let _turn = journals.turn.acquire(1).await;
        let known = journals.read.borrow().get(&of).and_then(|read| read.complete);
        if let Some(complete) = known {
            return Ok(complete);
        }
        let end = late_end(&self.store, of, self.patience).await?;
        let complete = end.is_some_and(LateEnd::is_complete);
        if let Some(read) = journals.read.borrow_mut().get_mut(&of) {
            read.complete = Some(complete);
        }
        Ok(complete)
    }

    async fn manifest(&self, partition: PartitionId, meta: &FlushMeta) -> Result<Manifest, SealError> {
        let key = keys::data(partition, meta.manifest);
        let bytes = match self.store.get(&key, None, self.patience, None).await {
            Err(StoreError::NotFound(_)) => {
                return Err(SealError::Damaged { key, what: "it is missing".to_owned() });
            }
            other => other?,
        };
        let manifest =
            Manifest::parse(&bytes).map_err(|what| SealError::Damaged { key: key.clone(), what })?;
        let same = (manifest.partition, manifest.object, manifest.store)
            == (partition, meta.manifest, self.store_id);
        match same && manifest.cov <= meta.cov {
            true => Ok(manifest),
            false => {
                Err(SealError::Damaged { key, what: "it belongs to another partition or Flush".to_owned() })
            }
        }
    }
}

impl Told {
    /// Whether its owner has ever served it.
    fn has_served(&self) -> bool {
        self.opened.is_some() || self.flush.is_some() || self.released.is_some() || !self.unflushed.is_empty()
    }
}

/// What the node of a journal that was sealed has said of its tail; `None` where it has not come back.
pub(crate) async fn late_end(
    store: &Store,
    of: Incarnation,
    patience: Patience,
) -> Result<Option<LateEnd>, SealError> {
    let key = keys::late_end(of);
    match store.get(&key, None, patience, None).await {
        Ok(bytes) => match LateEnd::parse(&bytes) {
            Ok(end) if end.incarnation == of => Ok(Some(end)),
            Ok(_) => Err(SealError::Damaged { key, what: "it belongs to another journal".to_owned() }),
            Err(what) => Err(SealError::Damaged { key, what }),
        },
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Adds what one journal object says.
pub(crate) fn read_object(
    head: &ObjectHead,
    bytes: &[u8],
    partitions: &BTreeSet<PartitionId>,
    read: &mut JournalRead,
) -> Result<(), SealError> {
    let Content::Records(parts) = &head.content else { return Ok(()) };
    let damaged = |what: &str| SealError::Damaged {
        key: keys::journal(head.incarnation, head.seq),
        what: what.to_owned(),
    };
    let mut at = super::format::head_octets(parts.len());
    let mut index = 0;
    for part in parts {
        let end = at + part.octets as usize;
        let octets = bytes.get(at..end).ok_or_else(|| damaged("a part is cut short"))?;
        if crc32c::crc32c(octets) != part.crc {
            return Err(damaged("a part's checksum is wrong"));
        }
        let mut offset = at;
        for _ in 0..part.records {
            let rest = bytes.get(offset..end).ok_or_else(|| damaged("fewer records than the part tells"))?;
            let header = RecordHeader::parse(rest).ok_or_else(|| damaged("no record here"))?;
            let record =
                rest.get(..header.length as usize).ok_or_else(|| damaged("a record is cut short"))?;
            read.owners.insert((header.partition, header.epoch));
            if partitions.contains(&header.partition) {
                // H4: a journal may hold several epochs of a partition.
                let epoch = if fault::on(Fault::EpochsMixed) { 0 } else { header.epoch };
                let told = read.told.entry((header.partition, epoch)).or_default();
                let at = Laid { seq: head.seq, index, offset: offset as u64 };
                note(told, record, at, &mut read.room).map_err(damaged)?;
            }
            offset += record.len();
            index += 1;
        }
        if offset != end {
            return Err(damaged("more octets in a part than in its records"));
        }
        at = end;
    }
    Ok(())
}

/// A Data record: its account, meta, and the places of its bodies.
pub(crate) type DataRecord = (AccountId, Vec<u8>, Vec<Place>);

/// The Data records that a journal object has of one epoch of a partition: account, meta, places of bodies.
pub(crate) fn records_of(
    bytes: &[u8],
    partition: PartitionId,
    object: ObjectId,
) -> Result<Vec<DataRecord>, String> {
    let head = ObjectHead::parse(bytes)?;
    let Content::Records(parts) = &head.content else { return Ok(Vec::new()) };
    let mut at = super::format::head_octets(parts.len());
    let mut found = Vec::new();
    for record in parts.iter().flat_map(|part| 0..part.records) {
        let rest = bytes.get(at..).ok_or_else(|| format!("record {record} is cut short"))?;
        let mut head = parse_head(rest)?;
        let header = head.header;
        let ours =
            (header.kind, header.partition, header.epoch) == (RecordKind::Data, partition, object.epoch);
        if ours {
            here(&mut head.places, object, at as u64);
            found.push((account_of(head.account)?, head.meta.to_vec(), head.places));
        }
        at += header.length as usize;
    }
    Ok(found)
}

/// Where a record stands: in which object, how many are before it there, and its first octet.
struct Laid {
    seq: u64,
    index: u32,
    offset: u64,
}

fn note(told: &mut Told, record: &[u8], at: Laid, room: &mut Room) -> Result<(), &'static str> {
    let Laid { seq, index, offset } = at;
    let mut head = parse_head(record)?;
    let header = head.header;
    let segment = ObjectId { kind: ObjectKind::Segment, shard: 0, epoch: header.epoch, number: seq };
    let position = Position { epoch: header.epoch, lsn: lsn_of(seq, index) };
    match header.kind {
        RecordKind::Data => {
            here(&mut head.places, segment, offset);
            let account = account_of(head.account)?;
            let parts: Vec<ReadPart> = parts_of(record, &head, segment, offset)
                .filter_map(|(at, part, octets)| room.keep(at, part, octets))
                .collect();
            if !parts.is_empty() {
                told.parts.insert(position, parts);
            }
            told.unflushed.entry(account).or_default().push(Unflushed {
                position,
                segment,
                offset,
                head_octets: header.head_octets() as u32,
                octets: header.length,
                bodies: head
                    .places
                    .iter()
                    .map(|place| UnflushedBody { place: *place, dead: false })
                    .collect(),
            });
        }
        RecordKind::Flush => {
            let meta = FlushMeta::parse(head.meta).ok_or("no Flush record")?;
            let newest = told.flush.is_none_or(|(newest, ..)| newest < position);
            if newest && !(fault::on(Fault::LoseNewestFlush) && told.flush.is_some()) {
                told.flush = Some((position, meta, segment));
                // What it covers nobody opens.
                let kept = told.parts.split_off(&meta.cov);
                let covered = std::mem::replace(&mut told.parts, kept);
                covered.values().flatten().for_each(|part| room.free(part));
                if fault::on(Fault::ReplayFromFlush) {
                    told.flush = Some((position, FlushMeta { cov: position, ..meta }, segment));
                }
            }
        }
        RecordKind::Open => told.opened = Some(Gap::parse_opened(head.meta).ok_or("no Open record")?),
        RecordKind::Release => {
            told.released = Some(super::parse_release(head.meta).ok_or("no Release record")?);
        }
    }
    Ok(())
}

/// The head of a record that stands at an offset of its object, and the small bodies in it: offset and kind of each.
fn parts_of<'a>(
    record: &'a [u8],
    head: &Head<'a>,
    segment: ObjectId,
    offset: u64,
) -> impl Iterator<Item = (u64, Part, &'a [u8])> {
    let of_head = record.get(..head.header.head_octets()).map(|octets| (offset, Part::RecordHead, octets));
    let small = |place: &&Place| place.object == segment && place.length <= WHOLE_MAX;
    let frames = head.places.iter().filter(small).filter_map(move |place| {
        let rest = record.get(usize::try_from(place.offset.checked_sub(offset)?).ok()?..)?;
        let octets = BodyShape::parse(rest).ok()?.frame_octets();
        Some((place.offset, Part::Frame, rest.get(..usize::try_from(octets).ok()?)?))
    });
    of_head.into_iter().chain(frames.collect::<Vec<_>>())
}
