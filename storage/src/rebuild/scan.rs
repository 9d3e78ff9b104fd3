//! Scan: the bodies of one account in all objects of its partition, passing over what is damaged.
//!
//! # Invariants
//! What is committed after the scan began is not given: nobody needs to find it.
//! What is given was read whole and its checksums were right. What stands in a batch of a journal that is broken counts only
//! where a whole batch follows: the last one may have been torn before anybody was told of it.
//!
//! # Limits
//! [`WINDOW_OCTETS`] of an object in memory, or one batch where that is larger.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::yield_if_needed;

use crate::body::format::{BodyShape, HEADER_OCTETS, decode_chunk, decode_frame};
use crate::check::Finding;
use crate::error::ReadError;
use crate::journal::commit::shared::lsn_of;
use crate::journal::format::{
    BATCH_OCTETS, BatchHeader, HEADER_BLOCK, RecordHeader, RecordKind, SegmentHeader, parse_head,
};
use crate::objects::ObjectFile;
use crate::pack::format::{self as pack, FileHeader, PACK_MAGIC, PACK_VERSION};
use crate::place::{ObjectId, ObjectKind, Place, here};
use crate::shared::format::{Content, ObjectHead, head_octets};
use crate::storage::Inner;

/// What is read of an object at once.
const WINDOW_OCTETS: usize = 1 << 20;

/// What a scan meets.
#[derive(Debug)]
pub enum Met {
    /// A body of the account that can be read, and what its label or record says of it.
    Body { meta: Vec<u8>, place: Place },
    /// Something that cannot be read. Whose it was cannot always be told.
    Damaged(Finding),
}

/// See the module.
pub struct Scan {
    inner: Rc<Inner>,
    partition: PartitionId,
    account: AccountId,
    objects: std::vec::IntoIter<ObjectId>,
    total: usize,
    walk: Option<Walk>,
    met: VecDeque<Met>,
    octets: u64,
    /// Bodies that no message names any more.
    dead: BTreeSet<Place>,
    /// What comes into this shard's journal from here on is passed over.
    until_lsn: u64,
    /// On a shared store: of the partition, in whose journal objects that holds.
    own_epoch: u32,
}

/// The way through one object.
struct Walk {
    object: ObjectId,
    window: Window,
    at: u64,
    end: u64,
    /// What batches of a segment are summed with; `None` in a pack.
    seed: Option<u32>,
}

/// An object seen through a buffer.
struct Window {
    file: ObjectFile,
    path: PathBuf,
    octets: u64,
    base: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `len` octets from `offset`, fewer at the end.
    async fn at(&mut self, offset: u64, len: usize) -> Result<&[u8], ReadError> {
        let end = offset.saturating_add(len as u64).min(self.octets);
        if offset >= end {
            return Ok(&[]);
        }
        if offset < self.base || end > self.base + self.bytes.len() as u64 {
            let wanted = (len.max(WINDOW_OCTETS) as u64).min(self.octets - offset);
            let read = self.file.read_at(offset, wanted as usize).await;
            self.bytes = read.map_err(ReadError::io(&self.path))?;
            self.base = offset;
        }
        let from = ((offset - self.base) as usize).min(self.bytes.len());
        let to = ((end - self.base) as usize).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }

    /// Reads all of a body whose frame begins at `offset`; what is wrong with it, and where.
    async fn check_body(
        &mut self,
        offset: u64,
        shape: &BodyShape,
    ) -> Result<Result<(), (u64, &'static str)>, ReadError> {
        let at = offset + shape.table_offset();
        let table = match shape.table(self.at(at, shape.table_octets() as usize).await?) {
            Ok(table) => table,
            Err(what) => return Ok(Err((at, what))),
        };
        let mut at = offset + HEADER_OCTETS as u64;
        for (index, entry) in table.iter().enumerate() {
            let octets = entry.stored.get() as usize;
            let stored = self.at(at, octets).await?;
            if let Err(what) = decode_chunk(shape.codec, stored, entry, shape.chunk_plain(index)) {
                return Ok(Err((at, what)));
            }
            at += octets as u64;
            yield_if_needed().await;
        }
        Ok(Ok(()))
    }
}

/// Something of an account in a record of a journal: what is asked of each.
struct Wanted<'a> {
    account: &'a AccountId,
    partition: PartitionId,
    object: ObjectId,
    path: &'a PathBuf,
    /// On a shared store, records of other epochs stand in other objects of that name.
    shared: bool,
}

impl Scan {
    pub(crate) fn new(
        inner: Rc<Inner>,
        partition: PartitionId,
        account: AccountId,
        objects: BTreeSet<ObjectId>,
        dead: BTreeSet<Place>,
    ) -> Scan {
        let mut objects: Vec<ObjectId> = objects.into_iter().collect();
        // About as they came.
        objects.sort_by_key(|object| (object.epoch, object.number, object.kind));
        let total = objects.len();
        let objects = objects.into_iter();
        let until_lsn = inner.journal.next_lsn();
        let own_epoch = inner.partition(partition).borrow().epoch;
        let (walk, met, octets) = (None, VecDeque::new(), 0);
        Scan { inner, partition, account, objects, total, walk, met, octets, dead, until_lsn, own_epoch }
    }

    /// Objects that were looked through, and how many there are.
    pub fn progress(&self) -> (usize, usize) {
        (self.total - self.objects.len() - usize::from(self.walk.is_some()), self.total)
    }

    /// Octets of objects that were looked through.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// What comes next; `None` at the end. An error where the store does not answer.
    pub async fn next(&mut self) -> Result<Option<Met>, ReadError> {
        loop {
            if let Some(met) = self.met.pop_front() {
                match &met {
                    Met::Body { place, .. } if self.dead.contains(place) => continue,
                    _ => return Ok(Some(met)),
                }
            }
            let Some(mut walk) = self.walk.take() else {
                let Some(object) = self.objects.next() else { return Ok(None) };
                self.walk = self.open(object).await?;
                continue;
            };
            if walk.at < walk.end {
                match walk.seed {
                    None => self.pack_entry(&mut walk).await?,
                    Some(seed) => self.batch(&mut walk, seed).await?,
                }
                self.walk = Some(walk);
            }
            yield_if_needed().await;
        }
    }

    fn damaged(&mut self, path: &std::path::Path, offset: u64, what: impl Into<String>) {
        self.met.push_back(Met::Damaged(Finding::new(path, offset, what)));
    }

    /// What is damaged is noted, and passed over; `None`.
    fn noted<T>(&mut self, result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_damage() => {
                self.met.push_back(Met::Damaged(Finding::of(error)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn open(&mut self, object: ObjectId) -> Result<Option<Walk>, ReadError> {
        let path = self.inner.objects.name(self.partition, object);
        let opened = async {
            let file = self.inner.objects.open(self.partition, object).await.map_err(ReadError::io(&path))?;
            let octets = file.len().await.map_err(ReadError::io(&path))?;
            Ok((file, octets))
        };
        let opened = opened.await;
        let Some((file, octets)) = self.noted(opened)? else { return Ok(None) };
        self.octets += octets;
        let mut window = Window { file, path: path.clone(), octets, base: 0, bytes: Vec::new() };
        if object.kind == ObjectKind::Segment && !window.file.is_local() {
            let whole = window.file.read_whole().await.map_err(ReadError::io(&path));
            if let Some(bytes) = self.noted(whole)? {
                self.journal_object(object, &path, &bytes);
            }
            return Ok(None);
        }
        match object.kind {
            ObjectKind::Segment => self.open_segment(object, window).await,
            _ => {
                let head = window.at(0, pack::HEADER_OCTETS).await.map(<[u8]>::to_vec);
                let Some(head) = self.noted(head)? else { return Ok(None) };
                match FileHeader::parse(&head, PACK_MAGIC, PACK_VERSION) {
                    Ok(header)
                        if header.store != self.inner.store || header.partition != self.partition.0 =>
                    {
                        self.damaged(&path, 0, "the pack belongs to another store or partition");
                        return Ok(None);
                    }
                    Ok(_) => {}
                    Err(what) => self.damaged(&path, 0, what),
                }
                let footer_at = octets.saturating_sub(pack::FOOTER_OCTETS as u64);
                let footer = window.at(footer_at, pack::FOOTER_OCTETS).await.map(pack::parse_footer);
                let Some(footer) = self.noted(footer)? else { return Ok(None) };
                let end = match footer {
                    Ok((length, _)) if length == octets => footer_at,
                    Ok(_) | Err(_) => {
                        self.damaged(&path, footer_at, "the pack is cut short: it has no valid end");
                        octets
                    }
                };
                Ok(Some(Walk { object, window, at: pack::HEADER_OCTETS as u64, end, seed: None }))
            }
        }
    }

    async fn open_segment(
        &mut self,
        object: ObjectId,
        mut window: Window,
    ) -> Result<Option<Walk>, ReadError> {
        let path = window.path.clone();
        let head = window.at(0, HEADER_BLOCK as usize).await.map(SegmentHeader::parse);
        match self.noted(head)? {
            Some(Ok(header)) if header.store == self.inner.store && header.object() == object => {
                let (end, seed) = (window.octets, Some(header.seed()));
                Ok(Some(Walk { object, window, at: HEADER_BLOCK, end, seed }))
            }
            Some(_) => {
                // The checksums of its batches are seeded with it.
                self.damaged(
                    &path,
                    0,
                    "the segment's header is broken, so that its records cannot be told from mail",
                );
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The entry of a pack at which the walk stands, and past it.
    async fn pack_entry(&mut self, walk: &mut Walk) -> Result<(), ReadError> {
        let at = walk.at;
        match entry(&mut walk.window, at, walk.end).await {
            Ok(Ok(entry)) => {
                walk.at = entry.next;
                if entry.account != self.account.as_str() {
                    return Ok(());
                }
                let place = Place { object: walk.object, offset: at, length: entry.shape.plain };
                let checked = walk.window.check_body(at, &entry.shape).await;
                match self.noted(checked)? {
                    Some(Ok(())) => self.met.push_back(Met::Body { meta: entry.meta, place }),
                    Some(Err((offset, what))) => {
                        let what = format!("a message of the account: {what}");
                        self.damaged(&walk.window.path, offset, what);
                    }
                    None => {}
                }
            }
            Ok(Err((offset, what))) => {
                let what = format!("{what}; whose message it was cannot be told");
                self.damaged(&walk.window.path, offset, what);
                let next = self.next_entry(walk, at + 8).await;
                walk.at = self.noted(next)?.unwrap_or(walk.end);
            }
            Err(error) => {
                self.noted::<()>(Err(error))?;
                walk.at = walk.end;
            }
        }
        Ok(())
    }

    /// Where the next whole entry begins, from `at` on; entries begin at multiples of 8.
    async fn next_entry(&self, walk: &mut Walk, mut at: u64) -> Result<u64, ReadError> {
        let magic = crate::body::format::BODY_MAGIC.to_le_bytes();
        while at < walk.end {
            let bytes = walk.window.at(at, WINDOW_OCTETS / 4).await?;
            let Some(found) = bytes.chunks(8).position(|word| word.starts_with(&magic)) else {
                at += (bytes.len().max(1) as u64).next_multiple_of(8);
                yield_if_needed().await;
                continue;
            };
            at += found as u64 * 8;
            if entry(&mut walk.window, at, walk.end).await?.is_ok() {
                return Ok(at);
            }
            at += 8;
        }
        Ok(walk.end)
    }

    /// The batch of a segment at which the walk stands, and past it.
    async fn batch(&mut self, walk: &mut Walk, seed: u32) -> Result<(), ReadError> {
        let at = walk.at;
        let step = batch_at(&mut walk.window, at, seed).await;
        let Some(step) = self.noted(step)? else {
            walk.at = walk.end;
            return Ok(());
        };
        let own = (walk.object.epoch, walk.object.shard) == (self.inner.epoch, self.inner.shard);
        let until_lsn = if own { self.until_lsn } else { u64::MAX };
        let header = match step {
            Step::Whole(header) if header.lsn >= until_lsn => {
                walk.at = walk.end;
                return Ok(());
            }
            Step::Whole(header) => header,
            Step::Broken(Some(header)) => {
                let behind = at + u64::from(header.length);
                let next = batch_at(&mut walk.window, behind, seed).await;
                match self.noted(next)? {
                    // Its own number may be what is broken.
                    Some(Step::Whole(next)) if next.lsn > until_lsn => {
                        walk.at = walk.end;
                        return Ok(());
                    }
                    Some(Step::Whole(_)) => {
                        self.damaged(
                            &walk.window.path,
                            at,
                            "a batch's checksum is wrong; what is sound in it is taken",
                        );
                        header
                    }
                    _ => return self.skip_batches(walk, seed).await,
                }
            }
            Step::Broken(None) => return self.skip_batches(walk, seed).await,
        };
        let octets = header.length as usize;
        let bytes = walk.window.at(at, octets).await.map(<[u8]>::to_vec);
        if let Some(bytes) = self.noted(bytes)? {
            let records = bytes.get(BATCH_OCTETS..).unwrap_or_default();
            let path = walk.window.path.clone();
            self.records(walk.object, &path, records, at + BATCH_OCTETS as u64, header.count, false);
        }
        walk.at = at + octets as u64;
        Ok(())
    }

    /// Goes to the next whole batch. Where there is none the journal ends here, torn or not.
    async fn skip_batches(&mut self, walk: &mut Walk, seed: u32) -> Result<(), ReadError> {
        let (from, magic) = (walk.at, crate::journal::format::BATCH_MAGIC.to_le_bytes());
        let mut at = from + 8;
        while at < walk.end {
            let bytes = walk.window.at(at, WINDOW_OCTETS / 4).await;
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.noted::<()>(Err(error))?;
                    break;
                }
            };
            let Some(found) = bytes.chunks(8).position(|word| word.starts_with(&magic)) else {
                at += (bytes.len().max(1) as u64).next_multiple_of(8);
                yield_if_needed().await;
                continue;
            };
            at += found as u64 * 8;
            let step = batch_at(&mut walk.window, at, seed).await;
            if let Some(Step::Whole(_)) = self.noted(step)? {
                self.damaged(
                    &walk.window.path,
                    from,
                    format!("broken up to octet {at}; messages in it are lost"),
                );
                walk.at = at;
                return Ok(());
            }
            at += 8;
        }
        walk.at = walk.end;
        Ok(())
    }

    /// A journal object of a shared store.
    fn journal_object(&mut self, object: ObjectId, path: &PathBuf, bytes: &[u8]) {
        let parts = match ObjectHead::parse(bytes).map(|head| head.content) {
            Ok(Content::Records(parts)) => parts,
            Ok(_) => return,
            Err(what) => return self.damaged(path, 0, what),
        };
        let mut at = head_octets(parts.len());
        // An object of our own may be told of piece by piece, and be written to while others are told of.
        let until_lsn = if object.epoch == self.own_epoch { self.until_lsn } else { u64::MAX };
        let mut index = 0;
        for part in parts {
            let end = at + part.octets as usize;
            let octets = bytes.get(at..end.min(bytes.len())).unwrap_or_default();
            if crc32c::crc32c(octets) != part.crc {
                self.damaged(path, at as u64, "a part's checksum is wrong; what is sound in it is taken");
            }
            let told = until_lsn.saturating_sub(lsn_of(object.number, index));
            let count = part.records.min(u32::try_from(told).unwrap_or(u32::MAX));
            self.records(object, path, octets, at as u64, count, true);
            index += part.records;
            at = end;
        }
    }

    /// The bodies of the account in records that stand one behind the other, the first at `offset` of its object.
    fn records(
        &mut self,
        object: ObjectId,
        path: &PathBuf,
        bytes: &[u8],
        offset: u64,
        count: u32,
        shared: bool,
    ) {
        let account = self.account.clone();
        let wanted = Wanted { account: &account, partition: self.partition, object, path, shared };
        let mut at = 0;
        for _ in 0..count {
            let Some(rest) = bytes.get(at..) else { return };
            let offset = offset + at as u64;
            let Some(header) = RecordHeader::parse(rest) else {
                return self.damaged(path, offset, "no record here; whose it was cannot be told");
            };
            let record = rest.get(..header.length as usize).unwrap_or(rest);
            wanted.record(record, offset, &mut self.met);
            // A record has at least its head, so that this ends.
            at += (header.length as usize).max(8);
        }
    }
}

impl Wanted<'_> {
    fn record(&self, record: &[u8], offset: u64, met: &mut VecDeque<Met>) {
        let mut damaged =
            |offset: u64, what: String| met.push_back(Met::Damaged(Finding::new(self.path, offset, what)));
        let mut head = match parse_head(record) {
            Ok(head) => head,
            Err(what) => return damaged(offset, format!("{what}; whose it was cannot be told")),
        };
        let header = head.header;
        let ours = header.kind == RecordKind::Data
            && header.partition == self.partition
            && head.account == self.account.as_str()
            && (!self.shared || header.epoch == self.object.epoch);
        if !ours {
            return;
        }
        here(&mut head.places, self.object, offset);
        for place in head.places.iter().filter(|place| place.object == self.object) {
            let from = place.offset.checked_sub(offset).and_then(|from| usize::try_from(from).ok());
            let frame = from.and_then(|from| record.get(from..)).ok_or("its body is cut short");
            match frame.and_then(decode_frame) {
                Ok((plain, _)) if plain.len() as u64 == place.length => {
                    met.push_back(Met::Body { meta: head.meta.to_vec(), place: *place });
                }
                Ok(_) => {
                    let what = "a message of the account: it has another size than its record tells";
                    met.push_back(Met::Damaged(Finding::new(self.path, place.offset, what)));
                }
                Err(what) => {
                    let what = format!("a message of the account: {what}");
                    met.push_back(Met::Damaged(Finding::new(self.path, place.offset, what)));
                }
            }
        }
    }
}

/// An entry of a pack whose frame begins where one can begin, and whose label is whole.
struct Entry {
    shape: BodyShape,
    account: String,
    meta: Vec<u8>,
    next: u64,
}

/// The entry at `at`; or what is wrong with it, and where.
async fn entry(
    window: &mut Window,
    at: u64,
    end: u64,
) -> Result<Result<Entry, (u64, &'static str)>, ReadError> {
    let shape = match BodyShape::parse(window.at(at, HEADER_OCTETS).await?) {
        Ok(shape) => shape,
        Err(what) => return Ok(Err((at, what))),
    };
    let label_at = at.saturating_add(shape.frame_octets());
    let octets = match pack::label_octets(window.at(label_at, pack::LABEL_OCTETS).await?) {
        Ok(octets) if label_at.saturating_add(octets as u64) <= end => octets,
        Ok(_) => return Ok(Err((label_at, "label cut short"))),
        Err(what) => return Ok(Err((label_at, what))),
    };
    let label = window.at(label_at, octets).await?;
    Ok(match pack::parse_label(label) {
        Ok((account, meta)) => Ok(Entry {
            shape,
            account: account.to_owned(),
            meta: meta.to_vec(),
            next: label_at + octets as u64,
        }),
        Err(what) => Err((label_at, what)),
    })
}

/// What stands at an octet of a segment.
enum Step {
    Whole(BatchHeader),
    /// With its header where that names a plausible batch.
    Broken(Option<BatchHeader>),
}

async fn batch_at(window: &mut Window, at: u64, seed: u32) -> Result<Step, ReadError> {
    let Some(header) = BatchHeader::parse(window.at(at, BATCH_OCTETS).await?) else {
        return Ok(Step::Broken(None));
    };
    if u64::from(header.length) > window.octets.saturating_sub(at) {
        return Ok(Step::Broken(None));
    }
    let batch = window.at(at, header.length as usize).await?;
    Ok(if header.verify(batch, seed) { Step::Whole(header) } else { Step::Broken(Some(header)) })
}
