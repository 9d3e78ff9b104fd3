//! Journal segment: its header, batches and records. See `docs/format/journal.md`.
//!
//! header block (4096) · batches, each at a multiple of 8 · zeros to the preallocated size. A batch is a header and
//! whole records, and perhaps zeros up to the end of a page; a record is a head (header, account, meta, places) and the
//! frames of the bodies that stand in it.
//!
//! # Invariants
//! The checksum of a batch is seeded with that of its segment's header, which covers a random nonce: octets of a
//! message can therefore never pass for a batch, nor a batch for one of another segment.

use culver_model::{AccountId, PartitionId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::place::{ObjectId, ObjectKind, Place, Position, RawPlace};

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"CULVJRN1";
/// Since version 2 zeros may stand behind the records of a batch.
pub(crate) const SEGMENT_VERSION: u32 = 2;
const SEGMENT_VERSION_MIN: u32 = 1;
/// Octets of the header block; the first batch stands behind it.
pub(crate) const HEADER_BLOCK: u64 = 4096;
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"CVbt");
pub(crate) const BATCH_OCTETS: usize = size_of::<RawBatch>();
pub(crate) const RECORD_OCTETS: usize = size_of::<RawRecord>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegment {
    magic: [u8; 8],
    version: U32,
    shard: U16,
    reserved: [u8; 2],
    epoch: U32,
    reserved2: [u8; 4],
    number: U64,
    base_lsn: U64,
    previous_end: U64,
    capacity: U64,
    store: [u8; 16],
    nonce: [u8; 16],
    crc: U32,
    reserved3: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBatch {
    magic: U32,
    length: U32,
    crc: U32,
    count: U32,
    lsn: U64,
    durable_before: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    length: U32,
    crc: U32,
    kind: u8,
    flags: u8,
    partition: U16,
    epoch: U32,
    account_octets: U16,
    bodies: U16,
    meta_octets: U32,
    reserved: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFlush {
    manifest: crate::place::RawObjectId,
    cov_epoch: U32,
    reserved: U32,
    cov_lsn: U64,
}

const _: () = assert!(size_of::<RawSegment>() == 96);
const _: () = assert!(size_of::<RawBatch>() == 32);
const _: () = assert!(size_of::<RawRecord>() == 32);
const _: () = assert!(size_of::<RawFlush>() == 32);

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub version: u32,
    pub epoch: u32,
    pub shard: u16,
    pub number: u64,
    /// The lsn of its first record.
    pub base_lsn: u64,
    /// The cut: records of the segment before from this lsn on are void. Equal to `base_lsn` unless a sync failed.
    pub previous_end: u64,
    /// Octets that were preallocated.
    pub capacity: u64,
    pub store: [u8; 16],
    pub nonce: [u8; 16],
}

impl SegmentHeader {
    pub fn object(&self) -> ObjectId {
        ObjectId { kind: ObjectKind::Segment, shard: self.shard, epoch: self.epoch, number: self.number }
    }

    fn raw(&self) -> RawSegment {
        let mut raw = RawSegment {
            magic: SEGMENT_MAGIC,
            version: self.version.into(),
            shard: self.shard.into(),
            reserved: [0; 2],
            epoch: self.epoch.into(),
            reserved2: [0; 4],
            number: self.number.into(),
            base_lsn: self.base_lsn.into(),
            previous_end: self.previous_end.into(),
            capacity: self.capacity.into(),
            store: self.store,
            nonce: self.nonce,
            crc: 0.into(),
            reserved3: [0; 4],
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw
    }

    /// The header block.
    pub fn block(&self) -> Vec<u8> {
        let mut block = self.raw().as_bytes().to_vec();
        block.resize(HEADER_BLOCK as usize, 0);
        block
    }

    /// What the checksums of this segment's batches are seeded with.
    pub fn seed(&self) -> u32 {
        self.raw().crc.get()
    }

    /// The version is told apart, since a newer program may have written it.
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        let (raw, _) = RawSegment::read_from_prefix(bytes).map_err(|_| HeaderFault::Broken)?;
        if raw.magic != SEGMENT_MAGIC
            || crc32c::crc32c(RawSegment { crc: 0.into(), ..raw }.as_bytes()) != raw.crc.get()
        {
            return Err(HeaderFault::Broken);
        }
        if !(SEGMENT_VERSION_MIN..=SEGMENT_VERSION).contains(&raw.version.get()) {
            return Err(HeaderFault::Version(raw.version.get()));
        }
        Ok(SegmentHeader {
            version: raw.version.get(),
            epoch: raw.epoch.get(),
            shard: raw.shard.get(),
            number: raw.number.get(),
            base_lsn: raw.base_lsn.get(),
            previous_end: raw.previous_end.get(),
            capacity: raw.capacity.get(),
            store: raw.store,
            nonce: raw.nonce,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Broken,
    Version(u32),
}

/// A batch header that names a plausible batch; the checksum is checked with [`BatchHeader::verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Octets of the batch with this header; a multiple of 8.
    pub length: u32,
    pub count: u32,
    pub lsn: u64,
    /// All records below were durable before this batch was written.
    pub durable_before: u64,
    crc: u32,
}

impl BatchHeader {
    pub fn parse(bytes: &[u8]) -> Option<BatchHeader> {
        let (raw, _) = RawBatch::read_from_prefix(bytes).ok()?;
        let length = raw.length.get();
        let sized = length as usize >= BATCH_OCTETS + RECORD_OCTETS
            && length.is_multiple_of(8)
            && raw.count.get() > 0;
        (raw.magic.get() == BATCH_MAGIC && sized).then_some(BatchHeader {
            length,
            count: raw.count.get(),
            lsn: raw.lsn.get(),
            durable_before: raw.durable_before.get(),
            crc: raw.crc.get(),
        })
    }

    /// Is `batch` (exactly `length` octets) what was written?
    pub fn verify(&self, batch: &[u8], seed: u32) -> bool {
        batch.len() == self.length as usize && batch_crc(batch, seed) == self.crc
    }
}

fn batch_crc(batch: &[u8], seed: u32) -> u32 {
    let crc = crc32c::crc32c_append(seed, &batch[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &batch[12..])
}

/// Begins a batch in an empty buffer; [`finish_batch`] fills the header in.
pub(crate) fn begin_batch(out: &mut Vec<u8>) {
    out.clear();
    out.resize(BATCH_OCTETS, 0);
}

pub(crate) fn finish_batch(out: &mut [u8], seed: u32, count: u32, lsn: u64, durable_before: u64) {
    let raw = RawBatch {
        magic: BATCH_MAGIC.into(),
        length: (out.len() as u32).into(),
        crc: 0.into(),
        count: count.into(),
        lsn: lsn.into(),
        durable_before: durable_before.into(),
    };
    out[..BATCH_OCTETS].copy_from_slice(raw.as_bytes());
    let crc = batch_crc(out, seed);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Data = 1,
    Flush = 2,
    /// Reserved for shared stores: the owner's first record of a partition.
    Open = 3,
    /// Reserved for shared stores: the owner's last record of a partition.
    Release = 4,
}

impl RecordKind {
    fn from_u8(value: u8) -> Option<RecordKind> {
        Some(match value {
            1 => RecordKind::Data,
            2 => RecordKind::Flush,
            3 => RecordKind::Open,
            4 => RecordKind::Release,
            _ => return None,
        })
    }
}

/// What a record begins with; sizes are known to be sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub length: u32,
    pub kind: RecordKind,
    pub partition: PartitionId,
    pub epoch: u32,
    pub account_octets: u16,
    pub bodies: u16,
    pub meta_octets: u32,
    crc: u32,
}

impl RecordHeader {
    pub fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let (raw, _) = RawRecord::read_from_prefix(bytes).ok()?;
        // What is set here by a newer program must not be passed over in silence.
        (raw.flags == 0 && raw.reserved.get() == 0).then_some(())?;
        let header = RecordHeader {
            length: raw.length.get(),
            kind: RecordKind::from_u8(raw.kind)?,
            partition: PartitionId(raw.partition.get()),
            epoch: raw.epoch.get(),
            account_octets: raw.account_octets.get(),
            bodies: raw.bodies.get(),
            meta_octets: raw.meta_octets.get(),
            crc: raw.crc.get(),
        };
        (header.length.is_multiple_of(8) && header.head_octets() <= header.length as usize).then_some(header)
    }

    /// Octets before the frames.
    pub fn head_octets(&self) -> usize {
        head_octets(usize::from(self.account_octets), self.meta_octets as usize, usize::from(self.bodies))
    }
}

/// Octets of a record's head.
pub(crate) fn head_octets(account: usize, meta: usize, bodies: usize) -> usize {
    (RECORD_OCTETS + account + meta).next_multiple_of(8) + bodies * Place::OCTETS
}

/// A record's head, checked, borrowed from what was read.
#[derive(Clone, Debug)]
pub(crate) struct Head<'a> {
    pub header: RecordHeader,
    pub account: &'a str,
    pub meta: &'a [u8],
    pub places: Vec<Place>,
}

/// Reads the head at the beginning of `bytes`, which may end behind it.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Head<'_>, &'static str> {
    let header = RecordHeader::parse(bytes).ok_or("no record here")?;
    let head = bytes.get(..header.head_octets()).ok_or("record cut short")?;
    if head_crc(head) != header.crc {
        return Err("record's checksum is wrong");
    }
    let account_end = RECORD_OCTETS + usize::from(header.account_octets);
    let meta_end = account_end + header.meta_octets as usize;
    let account =
        std::str::from_utf8(&head[RECORD_OCTETS..account_end]).map_err(|_| "record's account is no text")?;
    let raw = <[RawPlace]>::ref_from_bytes(&head[meta_end.next_multiple_of(8)..])
        .map_err(|_| "record cut short")?;
    let places = raw.iter().map(|place| place.get().ok_or("record names no possible place"));
    Ok(Head {
        header,
        account,
        meta: &head[account_end..meta_end],
        places: places.collect::<Result<_, _>>()?,
    })
}

fn head_crc(head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&head[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &head[8..])
}

/// A record to be written.
pub(crate) struct NewRecord<'a> {
    pub kind: RecordKind,
    pub partition: PartitionId,
    pub epoch: u32,
    pub account: &'a str,
    pub meta: &'a [u8],
    /// The places of all bodies, and those frames that stand in the record, in this order.
    pub places: &'a [Place],
}

/// Appends a record's head; `frames` octets of bodies follow it.
pub(crate) fn put_head(record: &NewRecord<'_>, frames: usize, out: &mut Vec<u8>) {
    let begin = out.len();
    let head = head_octets(record.account.len(), record.meta.len(), record.places.len());
    let raw = RawRecord {
        length: ((head + frames) as u32).into(),
        crc: 0.into(),
        kind: record.kind as u8,
        flags: 0,
        partition: record.partition.0.into(),
        epoch: record.epoch.into(),
        account_octets: (record.account.len() as u16).into(),
        bodies: (record.places.len() as u16).into(),
        meta_octets: (record.meta.len() as u32).into(),
        reserved: 0.into(),
    };
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(record.account.as_bytes());
    out.extend_from_slice(record.meta);
    out.resize(begin + head - record.places.len() * Place::OCTETS, 0);
    record.places.iter().for_each(|place| out.extend_from_slice(&place.to_bytes()));
    let crc = head_crc(&out[begin..]);
    out[begin + 4..begin + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The meta of a Flush record: the manifest its partition stands on, and the position from which records are not
/// (all) contained in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushMeta {
    pub manifest: ObjectId,
    pub cov: Position,
}

impl FlushMeta {
    pub fn to_bytes(self) -> [u8; 32] {
        zerocopy::transmute!(RawFlush {
            manifest: self.manifest.into(),
            cov_epoch: self.cov.epoch.into(),
            reserved: 0.into(),
            cov_lsn: self.cov.lsn.into(),
        })
    }

    pub fn parse(meta: &[u8]) -> Option<FlushMeta> {
        let raw = RawFlush::read_from_bytes(meta).ok()?;
        let manifest = raw.manifest.get().filter(|id| id.kind == ObjectKind::Manifest)?;
        Some(FlushMeta { manifest, cov: Position { epoch: raw.cov_epoch.get(), lsn: raw.cov_lsn.get() } })
    }
}

/// The account a head names, as the model knows it.
pub(crate) fn account_of(text: &str) -> Result<AccountId, &'static str> {
    let account = AccountId::parse(text).map_err(|_| "record's account is no account id")?;
    if account.as_str() == text { Ok(account) } else { Err("record's account id is not canonical") }
}

/// See [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend(segment: &mut [u8]) {
    use crate::fuzzing::put_crc;
    let Some(head) = segment.get_mut(..size_of::<RawSegment>()) else { return };
    put_crc(head, std::mem::offset_of!(RawSegment, crc));
    let seed = RawSegment::read_from_bytes(head).map_or(0, |raw| raw.crc.get());
    let mut at = HEADER_BLOCK as usize;
    while let Some(header) = segment.get(at..).and_then(BatchHeader::parse) {
        let Some(batch) = segment[at..].get_mut(..header.length as usize) else { return };
        let mut record = BATCH_OCTETS;
        while let Some(header) = batch.get(record..).and_then(RecordHeader::parse) {
            if let Some(head) = batch[record..].get_mut(..header.head_octets()) {
                put_crc(head, std::mem::offset_of!(RawRecord, crc));
            }
            record += header.length as usize;
        }
        let crc = batch_crc(batch, seed);
        batch[8..12].copy_from_slice(&crc.to_le_bytes());
        at += batch.len();
    }
}
