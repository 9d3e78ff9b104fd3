//! Check: every stored format and every reference of a store that no process is using.
//!
//! Reads everything, changes nothing. What is inside of blocks and records is opaque here, so the caller looks into
//! them and says which places they name; that each of these is a whole body is checked here.
//!
//! # Cost
//! Reads the whole store once; memory for one account's blocks and for the places that were already read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::disk::{self, File, LockError};

use crate::body::Frame;
use crate::body::format::decode_frame;
use crate::error::{OpenError, ReadError};
use crate::journal::format::RECORD_OCTETS;
use crate::journal::scan::{Expected, Scanned, Segment};
use crate::manifest::Manifest;
use crate::objects::ObjectFile;
use crate::pack::PackReader;
use crate::paths::Paths;
use crate::place::{ObjectId, ObjectKind, Place, Position};
use crate::recover::{FoundJournal, Replay, find_journals, read_manifest, scan_journal};
use crate::root::format::{Owner, StoreIdentity};
use crate::root::{list, read_owner, read_small, small_fault};
use crate::table::{Block, Named, Table, find_account};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    pub offset: u64,
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at octet {}: {}", self.path.display(), self.offset, self.what)
    }
}

impl Finding {
    pub(crate) fn new(path: &Path, offset: u64, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), offset, what: what.into() }
    }

    pub(crate) fn of(error: ReadError) -> Finding {
        match error {
            ReadError::Corrupt { path, offset, what } => Finding { path, offset, what },
            ReadError::Io { path, source } => Finding::new(&path, 0, source.to_string()),
            ReadError::Gone(place) => {
                Finding::new(Path::new(&place.object.to_string()), place.offset, "missing")
            }
            ReadError::NotHere => Finding::new(Path::new("store"), 0, error.to_string()),
        }
    }
}

/// A piece of a store, for who knows what is in it.
#[derive(Debug)]
pub enum Inside<'a> {
    /// The blocks of one key that count: base first, then deltas, oldest first. `position` is what they contain.
    Blocks {
        partition: PartitionId,
        account: &'a AccountId,
        position: Position,
        guid: Guid,
        blocks: &'a [Block],
    },
    /// A committed record beyond the blocks; an account's come in order, after its blocks.
    Record {
        partition: PartitionId,
        account: &'a AccountId,
        position: Position,
        meta: &'a [u8],
        bodies: &'a [Place],
    },
}

/// Looks into a piece: the places it names, or what is wrong with it.
pub type LookInside<'l> = dyn FnMut(Inside<'_>) -> Result<Vec<Place>, String> + 'l;

/// What was found, and how much was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Empty for a sound store. At most [`Report::FINDINGS_MAX`] are kept.
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
    pub owners: u64,
    pub segments: u64,
    pub records: u64,
    pub manifests: u64,
    pub tables: u64,
    pub packs: u64,
    pub accounts: u64,
    pub blocks: u64,
    pub bodies: u64,
}

impl Report {
    pub const FINDINGS_MAX: usize = 1000;

    fn find(&mut self, path: &Path, offset: u64, what: impl Into<String>) {
        if self.findings.len() < Report::FINDINGS_MAX {
            self.findings.push(Finding { path: path.to_owned(), offset, what: what.into() });
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Keeps what a person has to know; an I/O error is a finding too, of this file alone.
    fn open_error(&mut self, error: OpenError) {
        match error {
            OpenError::Corrupt { path, offset, what, .. } => self.find(&path, offset, what),
            OpenError::Io { path, source } => self.find(&path, 0, source.to_string()),
            OpenError::Version { ref path, .. } | OpenError::InUse { ref path, .. } => {
                self.find(path, 0, error.to_string());
            }
            OpenError::Store(_) | OpenError::Probe(_) => self.find(Path::new("store"), 0, error.to_string()),
        }
    }

    fn read_error(&mut self, error: ReadError) {
        let Finding { path, offset, what } = Finding::of(error);
        self.find(&path, offset, what);
    }
}

/// Checks the store of a directory. An error means that it could not be looked at: in use, or no store at all.
pub async fn check(dir: &Path, look: &mut LookInside<'_>) -> Result<Report, OpenError> {
    let paths = Paths::new(dir);
    let Some(bytes) = read_small(&paths.store()).await? else {
        return Err(OpenError::corrupt(&paths.store(), 0, "there is no store"));
    };
    let _lock = disk::lock(paths.lock()).await.map_err(|error| match error {
        LockError::Io { path, source } => OpenError::Io { path, source },
        held => OpenError::InUse { path: paths.lock(), why: held.to_string() },
    })?;
    let identity = StoreIdentity::parse(&bytes).map_err(small_fault(&paths.store()))?;
    let mut check = Check { paths, identity, report: Report::default(), read: BTreeSet::new() };
    let Some(owner) = check.owners().await? else { return Ok(check.report) };
    let replay = check.journals(&owner).await?;
    check.partitions(replay, look).await?;
    Ok(check.report)
}

struct Check {
    paths: Paths,
    identity: StoreIdentity,
    report: Report,
    /// Bodies that were read and found whole, so that none is read twice.
    read: BTreeSet<(PartitionId, ObjectId, u64, u64)>,
}

impl Check {
    /// All links of the chain; the newest.
    async fn owners(&mut self) -> Result<Option<Owner>, OpenError> {
        let entries = list(&self.paths.owners()).await?;
        let epochs: BTreeSet<u32> = entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
        let mut newest = None;
        for epoch in 0..=epochs.last().copied().unwrap_or(0) {
            let path = self.paths.owner(epoch);
            if !epochs.contains(&epoch) {
                self.report.find(&path, 0, "a link of the chain of owners is missing");
                continue;
            }
            match read_owner(&path, epoch, &self.identity).await {
                Ok(owner) => newest = Some(owner),
                Err(error) => {
                    self.report.open_error(error);
                    newest = None;
                }
            }
            self.report.owners += 1;
        }
        Ok(newest)
    }

    /// All retained journals with the bodies in them.
    async fn journals(&mut self, owner: &Owner) -> Result<Replay, OpenError> {
        let mut replay = Replay::default();
        let found = match find_journals(&self.paths, owner).await {
            Ok(found) => found,
            Err(error) => {
                self.report.open_error(error);
                return Ok(replay);
            }
        };
        for journal in &found {
            if let Err(error) = self.journal(journal, &mut replay).await {
                self.report.open_error(error);
            }
        }
        Ok(replay)
    }

    async fn journal(&mut self, journal: &FoundJournal, replay: &mut Replay) -> Result<(), OpenError> {
        self.report.segments += journal.segments.len() as u64;
        let (paths, partitions) = (self.paths.clone(), self.identity.partitions);
        let visit = &mut |record: &Scanned<'_>| {
            replay.record(&paths, record, partitions)?;
            self.record(record);
            Ok(())
        };
        scan_journal(journal, visit).await.map(drop)
    }

    /// The frames that stand in a record.
    fn record(&mut self, record: &Scanned<'_>) {
        self.report.records += 1;
        let partition = record.head.header.partition;
        let id = record.segment;
        let path = self.paths.segment(id.epoch, id.shard, id.number);
        let mut at = record.head.header.head_octets().max(RECORD_OCTETS);
        for place in record.head.places.iter().filter(|place| place.object == id) {
            self.report.bodies += 1;
            match record.record.get(at..).map(decode_frame) {
                Some(Ok((plain, octets))) => {
                    if place.offset != record.offset + at as u64 || place.length != plain.len() as u64 {
                        self.report.find(
                            &path,
                            record.offset,
                            "the record's place is not where its body stands",
                        );
                    }
                    self.read.insert((partition, id, place.offset, place.length));
                    at += octets as usize;
                }
                Some(Err(what)) => return self.report.find(&path, record.offset + at as u64, what),
                None => return self.report.find(&path, record.offset, "the record ends before its bodies"),
            }
        }
        if at != record.record.len() {
            self.report.find(&path, record.offset, "the record is longer than its bodies");
        }
    }

    async fn partitions(&mut self, mut replay: Replay, look: &mut LookInside<'_>) -> Result<(), OpenError> {
        let mut segments: BTreeMap<ObjectId, ()> = BTreeMap::new();
        for id in 0..self.identity.partitions {
            let partition = PartitionId(id);
            let mut replayed = replay.partitions.remove(&id).unwrap_or_default();
            let mut manifest = None;
            if let Some((_, meta, _)) = replayed.flush {
                match read_manifest(&self.paths, partition, &meta, self.identity.store).await {
                    Ok(found) => manifest = Some(found),
                    Err(error) => self.report.open_error(error),
                }
                for records in replayed.unflushed.values_mut() {
                    records.retain(|record| record.position >= meta.cov);
                }
            }
            let mut tables = Vec::new();
            if let Some(manifest) = &manifest {
                self.report.manifests += 1;
                tables = self.tables(manifest).await;
                for object in manifest.bodies.keys() {
                    match object.kind {
                        ObjectKind::Segment => drop(segments.insert(*object, ())),
                        _ => self.pack(partition, *object).await,
                    }
                }
            }
            self.accounts(partition, &tables, &replayed.unflushed, look).await;
        }
        for object in segments.keys() {
            self.body_segment(*object).await;
        }
        Ok(())
    }

    /// The tables of a manifest, every page and block of them.
    async fn tables(&mut self, manifest: &Manifest) -> Vec<Named> {
        let mut tables = Vec::new();
        for reference in &manifest.tables {
            let path = self.paths.object(manifest.partition, reference.object);
            self.report.tables += 1;
            if reference.is_given_up() {
                let what = "a table was lost here: accounts that were not rebuilt since cannot be opened; see `culver rebuild`";
                self.report.find(&path, 0, what);
                tables.push(Named::given_up(*reference, path));
                continue;
            }
            match Table::open(&path, manifest.partition, *reference).await {
                Ok(table) => {
                    let table = Rc::new(table);
                    if let Err(error) = self.table(&table, manifest.partition).await {
                        self.report.read_error(error);
                    }
                    tables.push(Named::Open(table));
                }
                Err(error) => {
                    let why = error.to_string();
                    self.report.read_error(error);
                    tables.push(Named::Lost { reference: *reference, path, why });
                }
            }
        }
        tables
    }

    async fn table(&mut self, table: &Table, partition: PartitionId) -> Result<(), ReadError> {
        let path = self.paths.object(partition, table.reference.object);
        let mut accounts = 0;
        let mut last: Option<String> = None;
        for page in 0..table.pages() {
            for entry in table.page(page).await? {
                accounts += 1;
                for block in &entry.blocks {
                    self.report.blocks += 1;
                    if let Err(error) = table.block(block).await {
                        self.report.read_error(error);
                    }
                }
                if last.as_ref().is_some_and(|last| *last >= entry.account) {
                    self.report.find(&path, 0, format!("account {} is out of order", entry.account));
                }
                last = Some(entry.account);
            }
        }
        if accounts != table.reference.accounts {
            let what = format!("{accounts} accounts, the manifest says {}", table.reference.accounts);
            self.report.find(&path, 0, what);
        }
        Ok(())
    }

    async fn pack(&mut self, partition: PartitionId, object: ObjectId) {
        self.report.packs += 1;
        let path = self.paths.object(partition, object);
        let mut pack = match PackReader::open(&path, partition, object).await {
            Ok(pack) => pack,
            Err(error) => return self.report.read_error(error),
        };
        let mut entries = 0;
        if pack.header.store != self.identity.store {
            self.report.find(&path, 0, "the pack belongs to another store");
        }
        loop {
            match pack.next().await {
                Ok(Some(entry)) => {
                    entries += 1;
                    self.whole_body(partition, &entry.place, &entry.frame).await;
                }
                Ok(None) => break,
                Err(error) => return self.report.read_error(error),
            }
        }
        if entries != pack.entries {
            self.report.find(&path, 0, format!("{entries} entries, its end says {}", pack.entries));
        }
    }

    async fn whole_body(&mut self, partition: PartitionId, place: &Place, frame: &Frame) {
        self.report.bodies += 1;
        for chunk in 0..frame.chunks() {
            if let Err(error) = frame.chunk(chunk).await {
                return self.report.read_error(error);
            }
        }
        self.read.insert((partition, place.object, place.offset, place.length));
    }

    /// A segment that is kept for its bodies alone. Records that a cut made void may end it early.
    async fn body_segment(&mut self, object: ObjectId) {
        let path = self.paths.segment(object.epoch, object.shard, object.number);
        let expected = Expected { store: self.identity.store, id: object };
        match Segment::open(&path, Some(expected)).await {
            Ok(Some(segment)) => {
                self.report.segments += 1;
                let visit = &mut |record: &Scanned<'_>| {
                    self.record(record);
                    Ok(())
                };
                if let Err(error) = segment.scan(u64::MAX, visit).await {
                    self.report.open_error(error);
                }
            }
            Ok(None) => self.report.find(&path, 0, "the segment's header is missing"),
            Err(error) => self.report.open_error(error),
        }
    }

    /// What the accounts of a partition consist of, and the places they name.
    async fn accounts(
        &mut self,
        partition: PartitionId,
        tables: &[Named],
        unflushed: &BTreeMap<AccountId, Vec<crate::partition::Unflushed>>,
        look: &mut LookInside<'_>,
    ) {
        let mut names: BTreeSet<String> =
            unflushed.keys().map(|account| account.as_str().to_owned()).collect();
        for table in tables.iter().filter_map(Named::opened) {
            for page in 0..table.pages() {
                // A broken page was told above.
                names.extend(table.page(page).await.into_iter().flatten().map(|entry| entry.account));
            }
        }
        for name in names {
            self.report.accounts += 1;
            let Some(account) = AccountId::parse(&name).ok().filter(|account| account.as_str() == name)
            else {
                let path = self.paths.partition(partition);
                self.report.find(&path, 0, format!("{name:?} is no account id"));
                continue;
            };
            if account.partition(self.identity.partitions) != partition {
                let path = self.paths.partition(partition);
                self.report.find(&path, 0, format!("account {account} belongs to another partition"));
            }
            let position = self.blocks(partition, &account, tables, look).await;
            let records = unflushed.get(&account).into_iter().flatten();
            for record in records.filter(|record| record.position > position) {
                self.unflushed(partition, &account, record, look).await;
            }
        }
    }

    async fn blocks(
        &mut self,
        partition: PartitionId,
        account: &AccountId,
        tables: &[Named],
        look: &mut LookInside<'_>,
    ) -> Position {
        // What is broken in the tables was told when they were read.
        let (position, found) = find_account(tables, account.as_str()).await.unwrap_or_default();
        for (guid, key) in found {
            let mut blocks = Vec::new();
            for (table, entry) in key {
                blocks.extend(table.block(&entry).await.ok());
            }
            let piece = Inside::Blocks { partition, account, position, guid, blocks: &blocks };
            self.look(partition, account, piece, look).await;
        }
        position
    }

    async fn unflushed(
        &mut self,
        partition: PartitionId,
        account: &AccountId,
        record: &crate::partition::Unflushed,
        look: &mut LookInside<'_>,
    ) {
        let id = record.segment;
        let path = self.paths.segment(id.epoch, id.shard, id.number);
        let read = async {
            let file = File::open(&path).await?;
            file.read_at(record.offset, record.head_octets as usize).await
        };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(error) => return self.report.find(&path, record.offset, error.to_string()),
        };
        match crate::journal::format::parse_head(&bytes) {
            Ok(head) => {
                let (position, meta, bodies) = (record.position, head.meta, &head.places[..]);
                self.look(
                    partition,
                    account,
                    Inside::Record { partition, account, position, meta, bodies },
                    look,
                )
                .await;
                for place in &head.places {
                    self.place(partition, place).await;
                }
            }
            Err(what) => self.report.find(&path, record.offset, what),
        }
    }

    async fn look(
        &mut self,
        partition: PartitionId,
        account: &AccountId,
        piece: Inside<'_>,
        look: &mut LookInside<'_>,
    ) {
        match look(piece) {
            Ok(places) => {
                for place in &places {
                    self.place(partition, place).await;
                }
            }
            Err(what) => {
                let path = self.paths.partition(partition);
                self.report.find(&path, 0, format!("account {account}: {what}"));
            }
        }
    }

    /// A named place must be a whole body.
    async fn place(&mut self, partition: PartitionId, place: &Place) {
        if self.read.contains(&(partition, place.object, place.offset, place.length)) {
            return;
        }
        let path = self.paths.object(partition, place.object);
        let file = match File::open(&path).await {
            Ok(file) => Rc::new(file),
            Err(error) => {
                return self.report.find(&path, place.offset, format!("a body is named here: {error}"));
            }
        };
        match Frame::read(ObjectFile::Local(file), path, place.offset, Some(place.length)).await {
            Ok(frame) => self.whole_body(partition, place, &frame).await,
            Err(error) => self.report.read_error(error),
        }
    }
}
