//! Compaction: the bodies still alive in a mostly dead object move into a pack of their partition.
//!
//! # Order
//! The new pack is durable; then the source journals the new places, with records that name the pack; then a flush that
//! covers them writes a manifest without the old object; then the old object is removed.
//!
//! # Invariants
//! The estimates only choose: what is alive is asked of the source, account by account. Only segments below the low mark and
//! packs that no unflushed record names are touched.
//!
//! # Crash
//! A pack that no committed record names is an orphan. Bodies relocated by some records and not by others stand in both
//! objects until the next compaction.
//!
//! # Cost
//! Reads the object once for all partitions of this shard; memory for its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, PartitionId};
use culver_shard::sync::Permit;
use culver_shard::{catch, time, yield_if_needed};

use crate::body::{Body, Form, Frame, Unnamed};
use crate::error::{FlushError, OpenError, ReadError};
use crate::fault::{self, Fault};
use crate::journal::format::{RecordKind, account_of};
use crate::journal::scan::{Expected, Segment};
use crate::manifest::Share;
use crate::objects::ObjectFile;
use crate::pack::{PackReader, PackWriter};
use crate::partition::Serving;
use crate::place::{ObjectId, ObjectKind, Place};
use crate::shared::takeover::records_of;
use crate::source::Source;
use crate::storage::Inner;

/// Bodies relocated by one record.
pub(crate) const MOVES_MAX: usize = 256;

/// Journal objects that are compacted together.
const JOURNAL_OBJECTS_MAX: usize = 256;

/// How long an object is left alone whose compaction failed.
const REST: Duration = Duration::from_secs(60);

/// A body in an object, and whose it is.
struct Labelled {
    partition: PartitionId,
    account: AccountId,
    meta: Vec<u8>,
    place: Place,
}

/// What moved, by partition and account: old and new place.
type Moves = BTreeMap<PartitionId, BTreeMap<AccountId, Vec<(Place, Place)>>>;

impl Inner {
    /// Compacts the object with most dead octets among those that are worth it. False where there is none.
    pub async fn compact_one(self: &Rc<Self>) -> Result<bool, FlushError> {
        let alone = self.compacting.acquire(1).await;
        self.compact_next(alone).await
    }

    /// The same, and false where it would have to wait: a rebuild may keep compactions out for hours, and the housekeeping has
    /// more to do.
    pub async fn compact_if_free(self: &Rc<Self>) -> Result<bool, FlushError> {
        match self.compacting.try_acquire(1) {
            Some(alone) => self.compact_next(alone).await,
            None => Ok(false),
        }
    }

    async fn compact_next(self: &Rc<Self>, _alone: Permit) -> Result<bool, FlushError> {
        let Some(source) = self.source() else { return Ok(false) };
        let Some((objects, partitions)) = self.choose_objects() else { return Ok(false) };
        let done = match catch(self.compact(&*source, &objects, &partitions)).await {
            Ok(done) => done,
            Err(panic) => {
                self.status.borrow_mut().panics += 1;
                Err(FlushError::Panicked(panic))
            }
        };
        // An object of which an account cannot say what is alive must not keep the others from their turn.
        let mut resting = self.resting.borrow_mut();
        resting.retain(|_, since| since.elapsed() < REST);
        if done.is_err() {
            resting.extend(objects.into_iter().map(|object| (object, time::now())));
        }
        done.map(|()| true)
    }

    pub async fn compact(
        self: &Rc<Self>,
        source: &dyn Source,
        objects: &[ObjectId],
        partitions: &[PartitionId],
    ) -> Result<(), FlushError> {
        let mut entries = Vec::new();
        for object in objects {
            entries.extend(match object.kind {
                ObjectKind::Segment => self.segment_entries(*object, partitions).await?,
                _ => self.pack_entries(*object, partitions).await?,
            });
        }
        let mut packs: BTreeMap<PartitionId, (PackWriter, Rc<Unnamed>)> = BTreeMap::new();
        let moves = self.copy_alive(source, entries, &mut packs).await?;
        let mut unnamed = BTreeMap::new();
        for (partition, (writer, guard)) in packs {
            let pack = writer.object();
            writer.finish().await?;
            let name = self.objects.name(partition, pack);
            self.objects.publish(partition, &[pack]).await.map_err(FlushError::io(&name))?;
            unnamed.insert(partition, guard);
        }
        for (partition, accounts) in moves {
            let guard = &unnamed[&partition];
            for (account, places) in accounts {
                for chunk in places.chunks(MOVES_MAX) {
                    let bodies = chunk.iter().map(|(old, new)| {
                        let body = Body(Form::Placed { place: *new, file: guard.clone() });
                        (*old, body)
                    });
                    source.relocated(partition, &account, bodies.collect()).await?;
                }
            }
        }
        for id in partitions {
            let until = self.next_position(*id);
            self.partition(*id).borrow_mut().retiring.extend(objects.iter().map(|object| (*object, until)));
            if fault::on(Fault::CompactTooEarly) {
                self.garbage.borrow_mut().extend(objects.iter().map(|object| (*id, *object)));
            }
        }
        self.status.borrow_mut().compactions += 1;
        self.due.notify_all();
        Ok(())
    }

    /// The object to compact, with the partitions of this shard that name it. The journal objects of a shared store that a
    /// partition needs for bodies go together, for each pack costs a request.
    fn choose_objects(&self) -> Option<(Vec<ObjectId>, Vec<PartitionId>)> {
        // A local segment is of all partitions; on a shared store every object is of one, also where names are alike.
        let shared = self.node.is_some();
        let mut shares: BTreeMap<(Option<PartitionId>, ObjectId), (Share, Vec<PartitionId>)> =
            BTreeMap::new();
        let mut busy: BTreeSet<ObjectId> = BTreeSet::new();
        for partition in self.partitions.values() {
            let partition = partition.borrow();
            if partition.serving != Serving::Open {
                continue;
            }
            for record in partition.unflushed.values().flatten() {
                busy.extend(record.bodies.iter().map(|body| body.place.object));
            }
            busy.extend(partition.retiring.keys());
            for (object, share) in partition.manifest.iter().flat_map(|manifest| manifest.bodies.iter()) {
                let (sum, partitions) = shares.entry((shared.then_some(partition.id), *object)).or_default();
                let released = partition.released.get(object).copied().unwrap_or(0);
                sum.total += share.total;
                sum.live += share.live.saturating_sub(released);
                partitions.push(partition.id);
            }
        }
        busy.extend(self.resting.borrow().keys());
        let journal_still = |id: &ObjectId| {
            let kept = |state: &mut crate::recover::SharedState| {
                state.journals.get(&(id.epoch, id.shard)).is_none_or(|kept| id.number >= kept.low)
            };
            id.kind == ObjectKind::Segment && !shared && self.shared.with(kept)
        };
        let percent = self.limits.compact_below_percent;
        let worth = |id: &ObjectId, sum: &Share| {
            // A journal object that a manifest names for a body holds the low mark back.
            let holds = shared && id.kind == ObjectKind::Segment;
            holds || sum.live.saturating_mul(100) < sum.total.saturating_mul(percent)
        };
        shares.retain(|(_, object), (sum, _)| {
            worth(object, sum) && !busy.contains(object) && !journal_still(object)
        });
        let dead = |sum: &Share| sum.total - sum.live.min(sum.total);
        let ((of, object), (_, partitions)) = shares.iter().max_by_key(|(_, (sum, _))| dead(sum))?;
        let together = |key: &&(Option<PartitionId>, ObjectId)| {
            shared && object.kind == ObjectKind::Segment && key.0 == *of && key.1.kind == ObjectKind::Segment
        };
        let journal: Vec<ObjectId> =
            shares.keys().filter(together).map(|key| key.1).take(JOURNAL_OBJECTS_MAX).collect();
        let objects = if journal.is_empty() { vec![*object] } else { journal };
        Some((objects, partitions.clone()))
    }

    /// The bodies that stand in a segment, of some partitions.
    async fn segment_entries(
        &self,
        object: ObjectId,
        partitions: &[PartitionId],
    ) -> Result<Vec<Labelled>, FlushError> {
        if self.node.is_some() {
            return self.journal_object_entries(object, partitions).await;
        }
        let path = self.paths.segment(object.epoch, object.shard, object.number);
        let open = |error: OpenError| FlushError::Read(ReadError::corrupt(&path, 0, error.to_string()));
        let expected = Expected { store: self.store, id: object };
        let segment = Segment::open(&path, Some(expected)).await.map_err(open)?;
        let segment =
            segment.ok_or_else(|| ReadError::corrupt(&path, 0, "the segment's header is missing"))?;
        let mut entries = Vec::new();
        // Records that a cut made void are met too; nothing that is alive names them.
        let visit = &mut |record: &crate::journal::scan::Scanned<'_>| {
            let partition = record.head.header.partition;
            if record.head.header.kind == RecordKind::Data && partitions.contains(&partition) {
                let wrong = |what: &str| OpenError::corrupt(&path, record.offset, what);
                let account = account_of(record.head.account).map_err(wrong)?;
                for place in record.head.places.iter().filter(|place| place.object == object) {
                    let (account, meta, place) = (account.clone(), record.head.meta.to_vec(), *place);
                    entries.push(Labelled { partition, account, meta, place });
                }
            }
            Ok(())
        };
        segment.scan(u64::MAX, visit).await.map_err(open)?;
        Ok(entries)
    }

    /// The bodies that stand in a journal object of a shared store.
    async fn journal_object_entries(
        &self,
        object: ObjectId,
        partitions: &[PartitionId],
    ) -> Result<Vec<Labelled>, FlushError> {
        let mut entries = Vec::new();
        for partition in partitions {
            let name = self.objects.name(*partition, object);
            let file = self.objects.open(*partition, object).await.map_err(FlushError::io(&name))?;
            let bytes = file.read_whole().await.map_err(FlushError::io(&name))?;
            let corrupt = |what: String| FlushError::Read(ReadError::corrupt(&name, 0, what));
            let records = records_of(&bytes, *partition, object).map_err(corrupt)?;
            for (account, meta, places) in records {
                for place in places.into_iter().filter(|place| place.object == object) {
                    let (account, meta, partition) = (account.clone(), meta.clone(), *partition);
                    entries.push(Labelled { partition, account, meta, place });
                }
            }
        }
        Ok(entries)
    }

    async fn pack_entries(
        &self,
        object: ObjectId,
        partitions: &[PartitionId],
    ) -> Result<Vec<Labelled>, FlushError> {
        let mut entries = Vec::new();
        for partition in partitions {
            let path = self.objects.name(*partition, object);
            let file = self.objects.open(*partition, object).await.map_err(FlushError::io(&path))?;
            let mut pack = PackReader::of(file, &path, *partition, object).await?;
            while let Some(entry) = pack.next().await? {
                let account = account_of(&entry.account);
                let account = account.map_err(|what| ReadError::corrupt(&path, entry.place.offset, what))?;
                entries.push(Labelled {
                    partition: *partition,
                    account,
                    meta: entry.meta,
                    place: entry.place,
                });
                yield_if_needed().await;
            }
        }
        Ok(entries)
    }

    /// Copies what is alive into one new pack for each partition.
    async fn copy_alive(
        self: &Rc<Self>,
        source: &dyn Source,
        entries: Vec<Labelled>,
        packs: &mut BTreeMap<PartitionId, (PackWriter, Rc<Unnamed>)>,
    ) -> Result<Moves, FlushError> {
        let mut moves = Moves::new();
        let mut open: Option<(ObjectId, ObjectFile)> = None;
        for Labelled { partition, account, meta, place } in alive(source, entries).await? {
            let path = self.objects.name(partition, place.object);
            let file = match &open {
                Some((object, file)) if *object == place.object => file.clone(),
                _ => self.objects.open(partition, place.object).await.map_err(FlushError::io(&path))?,
            };
            open = Some((place.object, file.clone()));
            let frame = Frame::read(file, path, place.offset, Some(place.length)).await?;
            if let std::collections::btree_map::Entry::Vacant(vacant) = packs.entry(partition) {
                vacant.insert(self.new_pack(partition).await?);
            }
            let (writer, _) = packs.get_mut(&partition).expect("made above");
            let new = writer.put(&frame, &account, &meta).await?;
            moves.entry(partition).or_default().entry(account).or_default().push((place, new));
            yield_if_needed().await;
        }
        Ok(moves)
    }
}

impl Inner {
    /// A pack to be written, and what makes it garbage unless it is named.
    pub async fn new_pack(
        self: &Rc<Self>,
        partition: PartitionId,
    ) -> Result<(PackWriter, Rc<Unnamed>), FlushError> {
        let object = self.next_object(partition, ObjectKind::Pack);
        let path = self.objects.draft(partition, object);
        self.make_partition_dir(partition).await.map_err(FlushError::io(&path))?;
        let guard = Unnamed::new(self.clone(), partition, object);
        let header = self.file_header(partition, object);
        let writer = PackWriter::create(path, header, object, self.objects.sync_drafts()).await?;
        Ok((writer, guard))
    }
}

/// What messages still name, by account and then as it stands in the object. An account is asked, and where it is not open
/// opened, once.
async fn alive(source: &dyn Source, mut entries: Vec<Labelled>) -> Result<Vec<Labelled>, FlushError> {
    entries.sort_by(|a, b| {
        (a.partition, &a.account, a.place.offset).cmp(&(b.partition, &b.account, b.place.offset))
    });
    let same = |a: &Labelled, b: &Labelled| (a.partition, &a.account) == (b.partition, &b.account);
    let mut keep = Vec::with_capacity(entries.len());
    for group in entries.chunk_by(same) {
        let places: Vec<Place> = group.iter().map(|entry| entry.place).collect();
        keep.extend(source.live(group[0].partition, &group[0].account, &places).await?);
        yield_if_needed().await;
    }
    let mut keep = keep.into_iter();
    entries.retain(|_| keep.next().unwrap_or(true));
    Ok(entries)
}
