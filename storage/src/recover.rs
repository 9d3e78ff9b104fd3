//! Recovery: from the newest owner to every partition's manifest and unflushed records.
//!
//! # Order
//! Read the retained journals; settle their tails (write the last batch again and sync it, so that what was read from
//! the page cache is on the disk before anything is built on it); then add the new owner, which fixes where each older
//! journal ends; then remove orphans, and give back what closed segments had preallocated.
//!
//! # Crash
//! Before the new owner exists nothing was changed but tails written over with the same octets. After it, the journals
//! it names are read only up to where it says they end.
//!
//! # Cost
//! One sequential pass over the retained journals; memory for the heads' places of unflushed records, not for bodies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::time;

use crate::error::OpenError;
use crate::fault::{self, Fault};
use crate::journal::format::{FlushMeta, HEADER_BLOCK, RecordKind, account_of};
use crate::journal::scan::{Ended, Expected, Scanned, Segment};
use crate::journal::shorten::ends_of;
use crate::manifest::Manifest;
use crate::objects::ObjectFile;
use crate::partition::{Partition, PartitionSeed, Unflushed, UnflushedBody};
use crate::paths::{Paths, parse_data_name, parse_journal_name};
use crate::place::{ObjectId, ObjectKind, Position};
use crate::rebuild::listed::{self, Listed};
use crate::root::format::{End, JournalRef, Low, Owner};
use crate::root::{
    Root, START_RESERVE_OCTETS, Share, list, make_reserve, nonce, read_small, remove_leftover, small_fault,
};

/// What the shards of a process share about journal segments. Touched when a segment opens, a flush commits and at a
/// trim, never for a record.
#[derive(Default)]
pub(crate) struct Shared(Mutex<SharedState>);

#[derive(Default)]
pub(crate) struct SharedState {
    /// By epoch and shard of its writer.
    pub journals: BTreeMap<(u32, u16), Kept>,
    pub needs: BTreeMap<u16, Needs>,
}

/// The segments of one journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// The first that is still journal; those below are kept for the bodies in them.
    pub low: u64,
    /// The number of the next low mark.
    pub next_mark: u64,
    pub files: BTreeSet<u64>,
    /// The shard of this process that trims it.
    pub keeper: u16,
}

/// What one partition needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The first segment needed as journal, by journal.
    pub journals: BTreeMap<(u32, u16), u64>,
    /// Segments the committed manifest names for bodies.
    pub bodies: BTreeSet<ObjectId>,
}

impl Shared {
    pub fn with<T>(&self, look: impl FnOnce(&mut SharedState) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn segment_opened(&self, epoch: u32, shard: u16, number: u64) {
        self.with(|state| {
            let fresh = Kept { low: 1, next_mark: 0, files: BTreeSet::new(), keeper: shard };
            state.journals.entry((epoch, shard)).or_insert(fresh).files.insert(number);
        });
    }
}

/// What a partition needs now.
pub(crate) fn needs_of(partition: &Partition) -> Needs {
    let named = partition.manifest.iter().flat_map(|manifest| manifest.bodies.keys());
    let bodies = named.filter(|id| id.kind == ObjectKind::Segment).copied().collect();
    Needs { journals: partition.needed_segments(), bodies }
}

/// One journal as found on disk.
pub(crate) struct FoundJournal {
    pub reference: JournalRef,
    pub next_mark: u64,
    /// Headered segments from `reference.first` on.
    pub segments: Vec<Segment>,
    /// The end is known: from the owner, whose start settled the tail, or from the process that closed the journal.
    pub settled: bool,
}

/// What the records of all retained journals say.
#[derive(Default)]
pub(crate) struct Replay {
    pub partitions: BTreeMap<u16, Replayed>,
    pub records: u64,
}

#[derive(Default)]
pub(crate) struct Replayed {
    pub unflushed: BTreeMap<AccountId, Vec<Unflushed>>,
    /// The newest Flush record and, for the planted fault, the one before it.
    pub flush: Option<(Position, FlushMeta, ObjectId)>,
    before: Option<(Position, FlushMeta, ObjectId)>,
}

impl Root {
    /// Reads what is committed and claims the store for this process with `shards` shards. One [`Share`] a shard, to be
    /// sent there.
    pub async fn recover(&mut self, shards: usize) -> Result<Vec<Share>, OpenError> {
        assert!((1..=usize::from(u16::MAX)).contains(&shards), "a process has 1 to 65,535 shards");
        let mut found = find_journals(&self.paths, &self.owner).await?;
        let (replay, ended) = replay_all(&self.paths, &found, self.identity.partitions).await?;
        let seeds = self.seeds(replay).await?;
        for (journal, ended) in found.iter_mut().zip(&ended) {
            let end = ended.last();
            if !journal.settled {
                self.settle(journal, end).await?;
            }
            journal.reference.end_lsn = end.map_or(journal.reference.end_lsn, |end| end.next_lsn);
            journal.reference.last =
                journal.segments.last().map_or(journal.reference.last, |s| s.header.number);
        }
        let epoch = self.owner.epoch + 1;
        let needs: BTreeMap<u16, Needs> = seeds
            .iter()
            .map(|seed| (seed.partition.0, needs_of(&Partition::new(seed.clone(), time::now()))))
            .collect();
        let needed = |journal: &&FoundJournal| {
            let id = (journal.reference.epoch, journal.reference.shard);
            needs.values().any(|needs| needs.journals.contains_key(&id))
        };
        let journals: Vec<JournalRef> =
            found.iter().filter(needed).map(|journal| journal.reference).collect();
        self.claim(Owner {
            epoch,
            shards: shards as u16,
            store: self.identity.store,
            nonce: nonce(),
            created: time::wall().0,
            journals: journals.clone(),
        })
        .await?;
        self.remove_orphans(&seeds, &journals, &needs, shards).await?;
        self.shorten_older(&ends_of(&found, &ended)).await?;
        // Before the shards take what shortening has given back. Without it the next start gives up one of theirs.
        let reserve = self.paths.start_reserve();
        if let Err(error) = make_reserve(&reserve, START_RESERVE_OCTETS).await {
            tracing::warn!(path = %reserve.display(), %error, "no reserve for the next start");
        }
        let shared = Arc::new(Shared::default());
        let kept = self.kept(&found, &journals, shards).await?;
        shared.with(|state| {
            state.needs = needs;
            state.journals = kept;
        });
        let mut shares: Vec<Share> = (0..shards as u16)
            .map(|shard| Share {
                paths: self.paths.clone(),
                limits: self.limits.clone(),
                store: self.identity.store,
                partition_count: self.identity.partitions,
                epoch,
                shard,
                partitions: Vec::new(),
                shared: shared.clone(),
            })
            .collect();
        for seed in seeds {
            let shard = seed.partition.index() % shards;
            shares[shard].partitions.push(seed);
        }
        Ok(shares)
    }

    /// Each partition's manifest, and its records from there on.
    async fn seeds(&self, mut replay: Replay) -> Result<Vec<PartitionSeed>, OpenError> {
        let mut seeds = Vec::new();
        for id in 0..self.identity.partitions {
            let partition = PartitionId(id);
            let mut replayed = replay.partitions.remove(&id).unwrap_or_default();
            if fault::on(Fault::LoseNewestFlush) && replayed.flush.is_some() {
                replayed.flush = replayed.before;
            }
            let present: BTreeMap<String, u64> = list(&self.paths.partition(partition))
                .await?
                .into_iter()
                .map(|entry| (entry.name, entry.len))
                .collect();
            let mut missing = BTreeSet::new();
            let flush = match replayed.flush {
                None => None,
                Some((_, meta, segment)) => {
                    let manifest = read_manifest(&self.paths, partition, &meta, self.identity.store).await;
                    let mut manifest = match manifest {
                        Err(error @ OpenError::Corrupt { .. }) if self.salvaging => {
                            tracing::error!(partition = %partition, %error, "what is listed stands in for the manifest");
                            self.listed_manifest(partition, &meta, &present).await?
                        }
                        other => other?,
                    };
                    match self.salvaging {
                        true => {
                            missing = self.missing_bodies(&manifest, &present).await?;
                            manifest.bodies.retain(|object, _| !missing.contains(object));
                        }
                        false => self.named_exist(&manifest, &present).await?,
                    }
                    for records in replayed.unflushed.values_mut() {
                        records.retain(|record| record.position >= meta.cov);
                    }
                    replayed.unflushed.retain(|_, records| !records.is_empty());
                    Some((meta, Some(segment), manifest))
                }
            };
            for body in replayed.unflushed.values().flatten().flat_map(|record| record.bodies.iter()) {
                let object = body.place.object;
                if object.kind == ObjectKind::Pack && !present.contains_key(&object.to_string()) {
                    if self.salvaging {
                        missing.insert(object);
                        continue;
                    }
                    let path = self.paths.object(partition, object);
                    return Err(OpenError::corrupt(
                        &path,
                        0,
                        "a pack that a committed record names is missing",
                    ));
                }
            }
            // The epoch of this very start.
            let epoch = self.owner.epoch + 1;
            let (unflushed, gaps) = (replayed.unflushed, Vec::new());
            seeds.push(PartitionSeed { partition, epoch, flush, unflushed, missing, gaps });
        }
        Ok(seeds)
    }

    async fn named_exist(
        &self,
        manifest: &Manifest,
        present: &BTreeMap<String, u64>,
    ) -> Result<(), OpenError> {
        for table in manifest.tables.iter().filter(|table| !table.is_given_up()) {
            let path = self.paths.object(manifest.partition, table.object);
            match present.get(&table.object.to_string()) {
                Some(octets) if *octets == table.octets => {}
                Some(octets) => {
                    let what = format!("{octets} octets, its manifest says {}", table.octets);
                    return Err(OpenError::corrupt(&path, 0, what));
                }
                None => {
                    return Err(OpenError::corrupt(&path, 0, "a table that the manifest names is missing"));
                }
            }
        }
        if let Some(object) = self.missing_bodies(manifest, present).await?.first() {
            let path = self.paths.object(manifest.partition, *object);
            let what = "an object with bodies that the manifest names is missing";
            return Err(OpenError::corrupt(&path, 0, what));
        }
        Ok(())
    }

    /// Objects with bodies that a manifest names and that are not there.
    async fn missing_bodies(
        &self,
        manifest: &Manifest,
        present: &BTreeMap<String, u64>,
    ) -> Result<BTreeSet<ObjectId>, OpenError> {
        let mut missing = BTreeSet::new();
        for object in manifest.bodies.keys() {
            let path = self.paths.object(manifest.partition, *object);
            let there = match object.kind {
                ObjectKind::Pack => present.contains_key(&object.to_string()),
                _ => disk::exists(&path).await.map_err(OpenError::io(&path))?,
            };
            if !there {
                missing.insert(*object);
            }
        }
        Ok(missing)
    }

    /// What stands in for a manifest that is damaged or missing; see `rebuild/listed.rs`.
    async fn listed_manifest(
        &self,
        partition: PartitionId,
        meta: &FlushMeta,
        present: &BTreeMap<String, u64>,
    ) -> Result<Manifest, OpenError> {
        let mut all = Vec::new();
        for (name, octets) in present {
            let Some(object) = parse_data_name(name) else { continue };
            let (octets, mut accounts) = (*octets, None);
            if object.kind == ObjectKind::Table {
                let path = self.paths.object(partition, object);
                let file = File::open(&path).await.map_err(OpenError::io(&path))?;
                let read = listed::accounts_of(&ObjectFile::Local(file.into()), octets).await;
                accounts = read.map_err(|error| OpenError::Io { path, source: error.into() })?;
            }
            all.push(Listed { object, octets, accounts });
        }
        // A segment has bodies of all partitions.
        for entry in list(&self.paths.journals()).await? {
            let Some((epoch, shard)) = parse_journal_name(&entry.name) else { continue };
            for entry in list(&self.paths.journal(epoch, shard)).await? {
                let Ok(number) = entry.name.parse() else { continue };
                let object = ObjectId { kind: ObjectKind::Segment, shard, epoch, number };
                all.push(Listed { object, octets: entry.len, accounts: None });
            }
        }
        Ok(listed::manifest_of(partition, meta, self.identity.store, all))
    }

    /// Makes durable what was read of a journal's last segment. The octets may stand in the page cache alone, and after
    /// a failed sync the kernel may even believe them written; so they are written again.
    async fn settle(&self, journal: &FoundJournal, end: Option<&Ended>) -> Result<(), OpenError> {
        let (Some(segment), Some(end)) = (journal.segments.last(), end) else { return Ok(()) };
        let path = &segment.path;
        let file = File::open_rw(path).await.map_err(OpenError::io(path))?;
        let pieces = [Some((0, HEADER_BLOCK as u32)), end.last];
        for (offset, octets) in pieces.into_iter().flatten() {
            let bytes = file.read_at(offset, octets as usize).await.map_err(OpenError::io(path))?;
            file.write_at(offset, bytes).await.map_err(OpenError::io(path))?;
        }
        file.sync_data().await.map_err(OpenError::io(path))?;
        file.close().await.map_err(OpenError::io(path))?;
        let dir = self.paths.journal(journal.reference.epoch, journal.reference.shard);
        disk::sync_dir(&dir).await.map_err(OpenError::io(&dir))
    }

    /// Removes files that nothing names: what was being written when the last process ended.
    async fn remove_orphans(
        &self,
        seeds: &[PartitionSeed],
        journals: &[JournalRef],
        needs: &BTreeMap<u16, Needs>,
        shards: usize,
    ) -> Result<(), OpenError> {
        for seed in seeds {
            let mut named: BTreeSet<ObjectId> = BTreeSet::new();
            if let Some((_, _, manifest)) = &seed.flush {
                named.insert(manifest.object);
                named.extend(manifest.tables.iter().map(|table| table.object));
                named.extend(manifest.bodies.keys());
            }
            let records = seed.unflushed.values().flatten().flat_map(|record| record.bodies.iter());
            named.extend(records.map(|body| body.place.object));
            let dir = self.paths.partition(seed.partition);
            for entry in list(&dir).await? {
                let object = parse_data_name(&entry.name);
                let orphan = object.is_some_and(|id| !named.contains(&id) && id.epoch < self.owner.epoch);
                if orphan || entry.name.starts_with(disk::TEMPORARY) {
                    remove_leftover(dir.join(&entry.name)).await;
                }
            }
        }
        let bodies: BTreeSet<ObjectId> =
            needs.values().flat_map(|needs| needs.bodies.iter().copied()).collect();
        for entry in list(&self.paths.journals()).await? {
            let Some((epoch, shard)) = parse_journal_name(&entry.name) else { continue };
            let journal = journals.iter().find(|journal| (journal.epoch, journal.shard) == (epoch, shard));
            let dir = self.paths.journal(epoch, shard);
            let mut left = 0;
            for entry in list(&dir).await? {
                let number = entry.name.parse::<u64>().ok();
                let needed = number.is_some_and(|number| {
                    let id = ObjectId { kind: ObjectKind::Segment, shard, epoch, number };
                    bodies.contains(&id) || journal.is_some_and(|j| (j.first..=j.last).contains(&number))
                });
                if needed {
                    left += 1;
                } else {
                    remove_leftover(dir.join(&entry.name)).await;
                }
            }
            if left == 0
                && let Err(error) = disk::remove_dir(&dir).await
            {
                tracing::debug!(path = %dir.display(), %error, "an empty journal stays");
            }
        }
        for entry in list(&self.paths.lows()).await? {
            let Some((epoch, shard)) = parse_journal_name(&entry.name) else { continue };
            if !journals.iter().any(|journal| (journal.epoch, journal.shard) == (epoch, shard)) {
                let dir = self.paths.low(epoch, shard);
                for entry in list(&dir).await? {
                    remove_leftover(dir.join(&entry.name)).await;
                }
                if let Err(error) = disk::remove_dir(&dir).await {
                    tracing::debug!(path = %dir.display(), %error, "an empty directory of low marks stays");
                }
            }
        }
        for entry in list(&self.paths.ends()).await? {
            // The owner says from now on where these journals end.
            let older = parse_journal_name(&entry.name).is_some_and(|(epoch, _)| epoch < self.owner.epoch);
            if older || entry.name.starts_with(disk::TEMPORARY) {
                remove_leftover(self.paths.ends().join(&entry.name)).await;
            }
        }
        for entry in list(self.paths.root()).await? {
            let shard = entry.name.strip_prefix("reserve-").and_then(|shard| shard.parse::<usize>().ok());
            if shard.is_some_and(|shard| shard >= shards) || entry.name.starts_with(disk::TEMPORARY) {
                remove_leftover(self.paths.root().join(&entry.name)).await;
            }
        }
        Ok(())
    }

    /// What is left of all older journals, with who trims it.
    async fn kept(
        &self,
        found: &[FoundJournal],
        journals: &[JournalRef],
        shards: usize,
    ) -> Result<BTreeMap<(u32, u16), Kept>, OpenError> {
        let mut kept = BTreeMap::new();
        for entry in list(&self.paths.journals()).await? {
            let Some((epoch, shard)) = parse_journal_name(&entry.name) else { continue };
            let files: BTreeSet<u64> = list(&self.paths.journal(epoch, shard))
                .await?
                .iter()
                .filter_map(|entry| entry.name.parse().ok())
                .collect();
            let past = files.last().map_or(1, |last| last + 1);
            let journal = journals.iter().find(|journal| (journal.epoch, journal.shard) == (epoch, shard));
            let marks = found.iter().find(|f| (f.reference.epoch, f.reference.shard) == (epoch, shard));
            kept.insert(
                (epoch, shard),
                Kept {
                    low: journal.map_or(past, |journal| journal.first),
                    next_mark: marks.map_or(0, |found| found.next_mark),
                    files,
                    keeper: ((u64::from(epoch) + u64::from(shard)) % shards as u64) as u16,
                },
            );
        }
        Ok(kept)
    }
}

/// The journals the newest owner needs: those it names, and its own.
pub(crate) async fn find_journals(paths: &Paths, owner: &Owner) -> Result<Vec<FoundJournal>, OpenError> {
    let mut references: Vec<(JournalRef, bool)> =
        owner.journals.iter().map(|journal| (*journal, true)).collect();
    for shard in 0..owner.shards {
        let unknown = JournalRef { epoch: owner.epoch, shard, first: 1, last: 0, end_lsn: u64::MAX };
        references.push((unknown, false));
    }
    references.sort_unstable();
    let mut found = Vec::new();
    for (reference, settled) in references {
        found.push(find_journal(paths, reference, settled, owner.store).await?);
    }
    Ok(found)
}

async fn find_journal(
    paths: &Paths,
    mut reference: JournalRef,
    mut settled: bool,
    store: [u8; 16],
) -> Result<FoundJournal, OpenError> {
    let (epoch, shard) = (reference.epoch, reference.shard);
    if !settled && let Some(end) = journal_end(paths, epoch, shard, store).await? {
        (reference.last, reference.end_lsn, settled) = (end.last, end.end_lsn, true);
    }
    let (low, next_mark) = newest_low(paths, epoch, shard, store).await?;
    reference.first = reference.first.max(low);
    let dir = paths.journal(epoch, shard);
    let entries = list(&dir).await?;
    let files: BTreeSet<u64> = entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
    let last = match settled {
        true => reference.last,
        // The active segment is never trimmed, so a low mark proves that there is one.
        false => files.last().copied().unwrap_or(0).max(if low > 1 { low } else { 0 }),
    };
    let mut segments: Vec<Segment> = Vec::new();
    for number in reference.first..=last {
        let path = paths.segment(epoch, shard, number);
        if !files.contains(&number) {
            return Err(OpenError::corrupt(&path, 0, "a segment of the journal is missing"));
        }
        let id = ObjectId { kind: ObjectKind::Segment, shard, epoch, number };
        match Segment::open(&path, Some(Expected { store, id })).await? {
            Some(segment) => segments.push(segment),
            // A segment that was being made; nothing was ever written to it.
            None if number == last && !settled => {}
            None => return Err(OpenError::corrupt(&path, 0, "the segment's header is missing")),
        }
    }
    Ok(FoundJournal { reference, next_mark, segments, settled })
}

/// Where a journal ends, if its process closed it in order.
async fn journal_end(
    paths: &Paths,
    epoch: u32,
    shard: u16,
    store: [u8; 16],
) -> Result<Option<End>, OpenError> {
    let path = paths.end(epoch, shard);
    let Some(bytes) = read_small(&path).await? else { return Ok(None) };
    let end = End::parse(&bytes).map_err(small_fault(&path))?;
    if (end.epoch, end.shard, end.store) != (epoch, shard, store) {
        return Err(OpenError::corrupt(&path, 0, "the end belongs to another journal"));
    }
    Ok(Some(end))
}

/// The newest low mark of a journal: its value (0 for none) and the number of the next.
async fn newest_low(paths: &Paths, epoch: u32, shard: u16, store: [u8; 16]) -> Result<(u64, u64), OpenError> {
    let dir = paths.low(epoch, shard);
    let marks = list(&dir).await?.into_iter().filter_map(|entry| entry.name.parse::<u64>().ok());
    let Some(newest) = marks.max() else { return Ok((0, 0)) };
    let path = dir.join(newest.to_string());
    let bytes = read_small(&path).await?.unwrap_or_default();
    let low = Low::parse(&bytes).map_err(small_fault(&path))?;
    if (low.epoch, low.shard, low.store) != (epoch, shard, store) {
        return Err(OpenError::corrupt(&path, 0, "the low mark belongs to another journal"));
    }
    Ok((low.first, newest + 1))
}

/// Reads all records of the journals; how each segment of each journal ended.
pub(crate) async fn replay_all(
    paths: &Paths,
    found: &[FoundJournal],
    partitions: u16,
) -> Result<(Replay, Vec<Vec<Ended>>), OpenError> {
    let mut replay = Replay::default();
    let mut ended = Vec::new();
    for journal in found {
        ended.push(scan_journal(journal, &mut |record| replay.record(paths, record, partitions)).await?);
    }
    Ok((replay, ended))
}

/// Gives every record of a journal that is not void to `visit`; how each of its segments ended.
pub(crate) async fn scan_journal(
    journal: &FoundJournal,
    visit: &mut dyn FnMut(&Scanned<'_>) -> Result<(), OpenError>,
) -> Result<Vec<Ended>, OpenError> {
    let mut all = Vec::new();
    let mut end = None;
    for (at, segment) in journal.segments.iter().enumerate() {
        if let Some(end) = end
            && segment.header.base_lsn < end
        {
            return Err(OpenError::corrupt(
                &segment.path,
                0,
                "the segment begins before its predecessor ends",
            ));
        }
        let cut = journal.segments.get(at + 1).map(|next| next.header.previous_end);
        let bound = match cut {
            Some(_) if fault::on(Fault::ForgetCut) => u64::MAX,
            Some(cut) => cut,
            None => journal.reference.end_lsn,
        };
        let ended = segment.scan(bound, visit).await?;
        // A journal that nobody settled may end anywhere; all else has to be there to the last record.
        if ended.next_lsn != bound && bound != u64::MAX {
            let what =
                format!("records {} to {} were committed and cannot be read", ended.next_lsn, bound - 1);
            return Err(OpenError::corrupt(&segment.path, ended.offset, what));
        }
        end = Some(cut.unwrap_or(ended.next_lsn));
        all.push(ended);
    }
    Ok(all)
}

impl Replay {
    pub fn record(&mut self, paths: &Paths, record: &Scanned<'_>, partitions: u16) -> Result<(), OpenError> {
        let header = record.head.header;
        let segment = record.segment;
        let wrong = |what: &str| {
            let path = paths.segment(segment.epoch, segment.shard, segment.number);
            OpenError::corrupt(&path, record.offset, what)
        };
        if header.partition.0 >= partitions || header.epoch != segment.epoch {
            return Err(wrong("the record is of no partition of this store"));
        }
        self.records += 1;
        let position = Position { epoch: header.epoch, lsn: record.lsn };
        let replayed = self.partitions.entry(header.partition.0).or_default();
        match header.kind {
            RecordKind::Data => {
                let account = account_of(record.head.account).map_err(wrong)?;
                let bodies =
                    record.head.places.iter().map(|place| UnflushedBody { place: *place, dead: false });
                replayed.unflushed.entry(account).or_default().push(Unflushed {
                    position,
                    segment,
                    offset: record.offset,
                    head_octets: header.head_octets() as u32,
                    octets: header.length,
                    bodies: bodies.collect(),
                });
            }
            RecordKind::Flush => {
                let meta = FlushMeta::parse(record.head.meta).ok_or_else(|| wrong("no Flush record"))?;
                if replayed.flush.is_none_or(|(newest, ..)| newest < position) {
                    replayed.before = replayed.flush.replace((position, meta, segment));
                }
            }
            // Written by shared stores only; they bind nobody here.
            RecordKind::Open | RecordKind::Release => {}
        }
        Ok(())
    }
}

/// The manifest a Flush record names, checked.
pub(crate) async fn read_manifest(
    paths: &Paths,
    partition: PartitionId,
    meta: &FlushMeta,
    store: [u8; 16],
) -> Result<Manifest, OpenError> {
    let path = paths.object(partition, meta.manifest);
    let Some(bytes) = read_small(&path).await? else {
        return Err(OpenError::corrupt(&path, 0, "a manifest that the journal names is missing"));
    };
    let manifest = Manifest::parse(&bytes).map_err(|what| OpenError::corrupt(&path, 0, what))?;
    let same = (manifest.partition, manifest.object, manifest.store) == (partition, meta.manifest, store);
    if !same || manifest.cov != meta.cov {
        return Err(OpenError::corrupt(
            &path,
            0,
            "the manifest belongs to another partition, store or Flush",
        ));
    }
    Ok(manifest)
}
