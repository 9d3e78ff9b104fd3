//! The small objects of a shared store, and what a journal object begins with. See `docs/format/shared.md`.
//!
//! # Invariants
//! Each is created if absent and never changed. Owners and journal objects hold a nonce of the attempt that makes them, so
//! that "the same octets" means this very attempt (PROTOCOL H13).

use culver_model::PartitionId;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::place::{ObjectId, ObjectKind, RawObjectId};

pub(crate) const OBJECT_MAGIC: [u8; 8] = *b"CULVJOB1";
pub(crate) const OWNER_MAGIC: [u8; 8] = *b"CULVPOW1";
pub(crate) const LOW_MAGIC: [u8; 8] = *b"CULVSLO1";
pub(crate) const FREED: &[u8; 8] = b"CULVFRE1";
pub(crate) const LATE_END_MAGIC: [u8; 8] = *b"CULVLAT1";
/// That all records of a tail that came late are in their partition.
pub(crate) const MERGED: &[u8; 8] = b"CULVMRG1";
const VERSION: u32 = 1;
/// An owner that acknowledges after its local disk. Others are written as version 1.
const OWNER_VERSION: u32 = 2;

/// Octets of a name or an address at most.
const TEXT_OCTETS_MAX: usize = 255;

/// Who writes a journal: new at each start of a process, and after each seal that it meets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation(pub [u8; 16]);

impl Incarnation {
    pub fn random() -> Incarnation {
        let mut id = [0; 16];
        culver_shard::random::fill(&mut id);
        Incarnation(id)
    }

    /// As it is displayed, and in no other way.
    pub fn parse(text: &str) -> Option<Incarnation> {
        let mut id = [0; 16];
        for (nth, octet) in id.iter_mut().enumerate() {
            *octet = u8::from_str_radix(text.get(2 * nth..2 * nth + 2)?, 16).ok()?;
        }
        Some(Incarnation(id)).filter(|incarnation| incarnation.to_string() == text)
    }
}

impl std::fmt::Display for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawObject {
    magic: [u8; 8],
    version: U32,
    kind: u8,
    reserved: [u8; 3],
    seq: U64,
    parts: U32,
    records: U32,
    length: U64,
    store: [u8; 16],
    incarnation: [u8; 16],
    nonce: [u8; 16],
    crc: U32,
    reserved2: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPart {
    shard: U16,
    reserved: U16,
    records: U32,
    octets: U32,
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOwner {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    partition: U16,
    base: u8,
    /// Since version 2. 1: acknowledges after its local disk.
    ack: u8,
    name_octets: u8,
    address_octets: u8,
    reserved2: U16,
    created: I64,
    store: [u8; 16],
    incarnation: [u8; 16],
    nonce: [u8; 16],
    manifest: [u8; 16],
    crc: U32,
    reserved3: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLow {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    first: U64,
    incarnation: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLateEnd {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    first: U64,
    next: U64,
    incarnation: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOpened {
    version: U32,
    reserved: U32,
    of: [u8; 16],
}

const _: () = assert!(size_of::<RawLateEnd>() == 48);
const _: () = assert!(size_of::<RawOpened>() == 24);
const _: () = assert!(size_of::<RawObject>() == 96);
const _: () = assert!(size_of::<RawPart>() == 16);
const _: () = assert!(size_of::<RawOwner>() == 104);
const _: () = assert!(size_of::<RawLow>() == 40);

/// Octets before the parts of a journal object.
pub(crate) fn head_octets(parts: usize) -> usize {
    size_of::<RawObject>() + parts * size_of::<RawPart>()
}

/// What one shard puts into a journal object: whole records, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub shard: u16,
    pub records: u32,
    /// A multiple of 8.
    pub octets: u32,
    pub crc: u32,
}

/// A journal object's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectHead {
    pub incarnation: Incarnation,
    pub seq: u64,
    pub store: [u8; 16],
    pub nonce: [u8; 16],
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Records(Vec<Part>),
    /// Nothing is committed here or behind it. The sealer's name, for people.
    Seal(String),
}

impl ObjectHead {
    /// The head, and in a seal all of it.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, parts, tail): (u8, &[Part], &[u8]) = match &self.content {
            Content::Records(parts) => (1, parts, &[]),
            Content::Seal(by) => (2, &[], &by.as_bytes()[..by.len().min(TEXT_OCTETS_MAX)]),
        };
        let octets: u64 = parts.iter().map(|part| u64::from(part.octets)).sum();
        let mut raw = RawObject {
            magic: OBJECT_MAGIC,
            version: VERSION.into(),
            kind,
            reserved: [0; 3],
            seq: self.seq.into(),
            parts: (parts.len() as u32).into(),
            records: parts.iter().map(|part| part.records).sum::<u32>().into(),
            length: ((head_octets(parts.len()) + tail.len()) as u64 + octets).into(),
            store: self.store,
            incarnation: self.incarnation.0,
            nonce: self.nonce,
            crc: 0.into(),
            reserved2: [0; 4],
        };
        let mut table = Vec::with_capacity(parts.len() * size_of::<RawPart>() + tail.len());
        for part in parts {
            let raw = RawPart {
                shard: part.shard.into(),
                reserved: 0.into(),
                records: part.records.into(),
                octets: part.octets.into(),
                crc: part.crc.into(),
            };
            table.extend_from_slice(raw.as_bytes());
        }
        table.extend_from_slice(tail);
        raw.crc = crc32c::crc32c_append(crc32c::crc32c(raw.as_bytes()), &table).into();
        let mut out = raw.as_bytes().to_vec();
        out.extend_from_slice(&table);
        out
    }

    /// Reads the head of an object that is given whole, checked but for the records in its parts.
    pub fn parse(bytes: &[u8]) -> Result<ObjectHead, String> {
        let (raw, rest) = RawObject::ref_from_prefix(bytes).map_err(|_| "too short for a journal object")?;
        if raw.magic != OBJECT_MAGIC {
            return Err("no journal object".to_owned());
        }
        if raw.version.get() != VERSION {
            return Err(format!("format version {}, this program reads {VERSION}", raw.version));
        }
        if raw.length.get() != bytes.len() as u64 {
            return Err(format!("{} octets, it says {}", bytes.len(), raw.length));
        }
        let count = raw.parts.get() as usize;
        let (parts, tail) = <[RawPart]>::ref_from_prefix_with_elems(rest, count)
            .map_err(|_| "the table of parts is cut short".to_owned())?;
        let covered = if raw.kind == 2 { rest } else { &rest[..size_of_val(parts)] };
        let plain = RawObject { crc: 0.into(), ..*raw };
        if crc32c::crc32c_append(crc32c::crc32c(plain.as_bytes()), covered) != raw.crc.get() {
            return Err("the head's checksum is wrong".to_owned());
        }
        let content = match raw.kind {
            1 => {
                let octets: u64 = parts.iter().map(|part| u64::from(part.octets.get())).sum();
                let records: u64 = parts.iter().map(|part| u64::from(part.records.get())).sum();
                let aligned = parts.iter().all(|part| part.octets.get().is_multiple_of(8));
                if octets != tail.len() as u64 || records != u64::from(raw.records.get()) || !aligned {
                    return Err("the parts do not add up".to_owned());
                }
                Content::Records(
                    parts
                        .iter()
                        .map(|part| Part {
                            shard: part.shard.get(),
                            records: part.records.get(),
                            octets: part.octets.get(),
                            crc: part.crc.get(),
                        })
                        .collect(),
                )
            }
            2 if count == 0 => Content::Seal(String::from_utf8_lossy(tail).into_owned()),
            kind => return Err(format!("a journal object of an unknown kind, {kind}")),
        };
        Ok(ObjectHead {
            incarnation: Incarnation(raw.incarnation),
            seq: raw.seq.get(),
            store: raw.store,
            nonce: raw.nonce,
            content,
        })
    }
}

/// What a new owner's partition stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// What the owners before have left: it has to be found (R6).
    Pending,
    /// Nothing: the partition is made with this (R12).
    Empty,
    /// This manifest holds all of it.
    Manifest(ObjectId),
}

impl Base {
    /// Whether nothing before this owner is needed.
    pub fn is_explicit(self) -> bool {
        self != Base::Pending
    }
}

/// A link of a partition's chain of owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionOwner {
    pub partition: PartitionId,
    pub epoch: u32,
    /// Of the node, as its operator named it.
    pub name: String,
    /// Where the node answers, for who forwards clients; may be empty.
    pub address: String,
    pub incarnation: Incarnation,
    pub base: Base,
    /// It acknowledges after its local disk: its journal may lack what clients were told.
    pub local: bool,
    pub store: [u8; 16],
    pub nonce: [u8; 16],
    /// Seconds since 1970, for people.
    pub created: i64,
}

impl PartitionOwner {
    pub fn encode(&self) -> Vec<u8> {
        let cut = |text: &str| text.as_bytes()[..text.len().min(TEXT_OCTETS_MAX)].to_vec();
        let (name, address) = (cut(&self.name), cut(&self.address));
        let (base, manifest) = match self.base {
            Base::Pending => (0, [0; 16]),
            Base::Empty => (1, [0; 16]),
            Base::Manifest(id) => (2, zerocopy::transmute!(RawObjectId::from(id))),
        };
        let mut raw = RawOwner {
            magic: OWNER_MAGIC,
            version: if self.local { OWNER_VERSION } else { VERSION }.into(),
            epoch: self.epoch.into(),
            partition: self.partition.0.into(),
            base,
            ack: u8::from(self.local),
            name_octets: name.len() as u8,
            address_octets: address.len() as u8,
            reserved2: 0.into(),
            created: self.created.into(),
            store: self.store,
            incarnation: self.incarnation.0,
            nonce: self.nonce,
            manifest,
            crc: 0.into(),
            reserved3: [0; 4],
        };
        let texts = [name, address].concat();
        raw.crc = crc32c::crc32c_append(crc32c::crc32c(raw.as_bytes()), &texts).into();
        let mut out = raw.as_bytes().to_vec();
        out.extend_from_slice(&texts);
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<PartitionOwner, String> {
        let (raw, texts) = RawOwner::ref_from_prefix(bytes).map_err(|_| "too short for an owner")?;
        if raw.magic != OWNER_MAGIC {
            return Err("no owner".to_owned());
        }
        if !(VERSION..=OWNER_VERSION).contains(&raw.version.get()) {
            return Err(format!("format version {}, this program reads {OWNER_VERSION}", raw.version));
        }
        let plain = RawOwner { crc: 0.into(), ..*raw };
        if crc32c::crc32c_append(crc32c::crc32c(plain.as_bytes()), texts) != raw.crc.get() {
            return Err("the owner's checksum is wrong".to_owned());
        }
        let (name, address) =
            texts.split_at_checked(usize::from(raw.name_octets)).ok_or("the owner is cut short")?;
        if address.len() != usize::from(raw.address_octets) {
            return Err("the owner is cut short".to_owned());
        }
        let local = match (raw.version.get(), raw.ack) {
            (VERSION, 0) | (OWNER_VERSION, 0) => false,
            (OWNER_VERSION, 1) => true,
            (_, ack) => return Err(format!("an owner that acknowledges in an unknown way, {ack}")),
        };
        let manifest: RawObjectId = zerocopy::transmute!(raw.manifest);
        let base = match raw.base {
            0 => Base::Pending,
            1 => Base::Empty,
            2 => {
                let id = manifest.get().filter(|id| id.kind == ObjectKind::Manifest);
                Base::Manifest(id.ok_or("the owner names no possible manifest")?)
            }
            base => return Err(format!("an owner with an unknown base, {base}")),
        };
        Ok(PartitionOwner {
            partition: PartitionId(raw.partition.get()),
            epoch: raw.epoch.get(),
            name: String::from_utf8_lossy(name).into_owned(),
            address: String::from_utf8_lossy(address).into_owned(),
            incarnation: Incarnation(raw.incarnation),
            base,
            local,
            store: raw.store,
            nonce: raw.nonce,
            created: raw.created.get(),
        })
    }
}

/// A low mark: sequence numbers below it are trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedLow {
    pub incarnation: Incarnation,
    pub first: u64,
}

impl SharedLow {
    pub fn encode(self) -> Vec<u8> {
        let mut raw = RawLow {
            magic: LOW_MAGIC,
            version: VERSION.into(),
            crc: 0.into(),
            first: self.first.into(),
            incarnation: self.incarnation.0,
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Result<SharedLow, String> {
        let raw = RawLow::ref_from_bytes(bytes).map_err(|_| "no low mark")?;
        let plain = RawLow { crc: 0.into(), ..*raw };
        if raw.magic != LOW_MAGIC || crc32c::crc32c(plain.as_bytes()) != raw.crc.get() {
            return Err("the low mark's checksum is wrong".to_owned());
        }
        if raw.version.get() != VERSION {
            return Err(format!("format version {}, this program reads {VERSION}", raw.version));
        }
        Ok(SharedLow { incarnation: Incarnation(raw.incarnation), first: raw.first.get() })
    }
}

/// A gap in all UIDs and MODSEQs of a partition: whoever owned it before had acknowledged after his local disk, and may have
/// told clients more than his journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// It stands before all records of this epoch, and behind all earlier ones.
    pub epoch: u32,
    /// Whose tail is missing.
    pub of: Incarnation,
}

impl Gap {
    /// The meta of the Open record of an epoch that begins with a gap; one without has none.
    pub fn opened_meta(of: Option<Incarnation>) -> Vec<u8> {
        let raw = of.map(|of| RawOpened { version: VERSION.into(), reserved: 0.into(), of: of.0 });
        raw.map_or(Vec::new(), |raw| raw.as_bytes().to_vec())
    }

    /// Whose tail is missing, as an Open record says; the outer `None` where its meta is none.
    pub fn parse_opened(meta: &[u8]) -> Option<Option<Incarnation>> {
        if meta.is_empty() {
            return Some(None);
        }
        let raw = RawOpened::read_from_bytes(meta).ok()?;
        (raw.version.get() == VERSION && raw.reserved.get() == 0).then_some(Some(Incarnation(raw.of)))
    }
}

/// What came of the tail of a journal that was acknowledged on a local disk, when its node is back: the objects `first..next`
/// are not in the journal, and stand under `late/` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LateEnd {
    pub incarnation: Incarnation,
    /// Where the journal is sealed.
    pub first: u64,
    pub next: u64,
}

impl LateEnd {
    /// Everything that was acknowledged is in the journal.
    pub fn is_complete(self) -> bool {
        self.first == self.next
    }

    pub fn encode(self) -> Vec<u8> {
        let mut raw = RawLateEnd {
            magic: LATE_END_MAGIC,
            version: VERSION.into(),
            crc: 0.into(),
            first: self.first.into(),
            next: self.next.into(),
            incarnation: self.incarnation.0,
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Result<LateEnd, String> {
        let raw = RawLateEnd::ref_from_bytes(bytes).map_err(|_| "no end of a late tail")?;
        let plain = RawLateEnd { crc: 0.into(), ..*raw };
        if raw.magic != LATE_END_MAGIC || crc32c::crc32c(plain.as_bytes()) != raw.crc.get() {
            return Err("the checksum of a late tail's end is wrong".to_owned());
        }
        if raw.version.get() != VERSION {
            return Err(format!("format version {}, this program reads {VERSION}", raw.version));
        }
        let (first, next) = (raw.first.get(), raw.next.get());
        match first <= next {
            true => Ok(LateEnd { incarnation: Incarnation(raw.incarnation), first, next }),
            false => Err("a late tail that ends before it begins".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every octet that is changed, and every cut, is found.
    fn guarded<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<T, String>) {
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "octet {at}");
            assert!(parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn journal_objects_are_read_back() {
        let part = |shard, octets| Part { shard, records: 1, octets, crc: 7 };
        for content in [
            Content::Records(vec![part(0, 16), part(3, 8)]),
            Content::Records(Vec::new()),
            Content::Seal("mail-2".to_owned()),
        ] {
            let head = ObjectHead {
                incarnation: Incarnation([3; 16]),
                seq: 77,
                store: [1; 16],
                nonce: [2; 16],
                content: content.clone(),
            };
            let mut bytes = head.encode();
            guarded(&bytes, |bytes| match ObjectHead::parse(bytes) {
                // A cut is of the records: their length is not there.
                Ok(head) => Ok(head),
                Err(what) => Err(what),
            });
            if let Content::Records(parts) = &content {
                bytes.resize(bytes.len() + parts.iter().map(|part| part.octets as usize).sum::<usize>(), 0);
            }
            assert_eq!(ObjectHead::parse(&bytes), Ok(head));
        }
    }

    #[test]
    fn owners_are_read_back() {
        let manifest = ObjectId { kind: ObjectKind::Manifest, shard: 1, epoch: 2, number: 3 };
        let bases = [Base::Pending, Base::Empty, Base::Manifest(manifest)];
        for (base, local) in bases.into_iter().flat_map(|base| [(base, false), (base, true)]) {
            let owner = PartitionOwner {
                partition: PartitionId(5),
                epoch: 9,
                name: "mail-1".to_owned(),
                address: "10.0.0.1:143".to_owned(),
                incarnation: Incarnation([3; 16]),
                base,
                local,
                store: [1; 16],
                nonce: [2; 16],
                created: 1_800_000_000,
            };
            let bytes = owner.encode();
            assert_eq!(bytes[8], if local { 2 } else { 1 }, "others are read by older programs");
            assert_eq!(PartitionOwner::parse(&bytes), Ok(owner));
            guarded(&bytes, PartitionOwner::parse);
        }
    }

    #[test]
    fn ends_of_late_tails_and_gaps_are_read_back() {
        let end = LateEnd { incarnation: Incarnation([3; 16]), first: 7, next: 9 };
        assert_eq!(LateEnd::parse(&end.encode()), Ok(end));
        guarded(&end.encode(), LateEnd::parse);
        assert!(LateEnd::parse(&LateEnd { next: 6, ..end }.encode()).is_err());
        for of in [None, Some(Incarnation([4; 16]))] {
            assert_eq!(Gap::parse_opened(&Gap::opened_meta(of)), Some(of));
        }
        assert_eq!(Gap::parse_opened(&[1; 24]), None);
    }

    #[test]
    fn low_marks_are_read_back() {
        let low = SharedLow { incarnation: Incarnation([3; 16]), first: 256 };
        assert_eq!(SharedLow::parse(&low.encode()), Ok(low));
        guarded(&low.encode(), SharedLow::parse);
        assert_eq!(Incarnation([0xab; 16]).to_string(), "ab".repeat(16));
    }
}
