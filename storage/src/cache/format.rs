//! A segment of the body cache. See `docs/format/cache.md`.
//!
//! header (64) · entries, each header (48), content, zeros to a multiple of 8.

use std::hash::{DefaultHasher, Hash, Hasher};

use culver_model::PartitionId;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::place::{ObjectId, RawObjectId};

pub(crate) const CACHE_MAGIC: [u8; 8] = *b"CULVCCH1";
pub(crate) const CACHE_VERSION: u32 = 1;
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"CVce");
pub(crate) const HEADER_OCTETS: usize = size_of::<RawHeader>();
pub(crate) const ENTRY_OCTETS: usize = size_of::<RawEntry>();

/// Which part of an object, at an offset, an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// A whole body frame.
    Frame,
    /// Header and chunk table of a large body frame.
    FrameHead,
    /// A chunk of the body frame that begins at the offset, as it is stored.
    Chunk(u32),
    /// The head of a journal record.
    RecordHead,
    /// A page or a block of a table.
    TablePiece,
    /// The end of a table.
    TableEnd,
}

/// Numbers of parts below this are those of chunks.
const PARTS: u32 = 0xFFFF_FFF0;

impl Part {
    fn number(self) -> u32 {
        match self {
            Part::Chunk(chunk) => chunk,
            Part::Frame => PARTS,
            Part::FrameHead => PARTS + 1,
            Part::RecordHead => PARTS + 2,
            Part::TablePiece => PARTS + 3,
            Part::TableEnd => PARTS + 4,
        }
    }

    fn of(number: u32) -> Option<Part> {
        Some(match number.checked_sub(PARTS) {
            None => Part::Chunk(number),
            Some(0) => Part::Frame,
            Some(1) => Part::FrameHead,
            Some(2) => Part::RecordHead,
            Some(3) => Part::TablePiece,
            Some(4) => Part::TableEnd,
            Some(_) => return None,
        })
    }
}

/// What an entry holds: names of objects are never used twice, so its content never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub partition: PartitionId,
    pub object: ObjectId,
    pub offset: u64,
    pub part: Part,
}

impl Key {
    /// Two keys of one fingerprint put each other out of the cache; neither is ever taken for the other.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    queue: u8,
    reserved: [u8; 3],
    number: U64,
    store: [u8; 16],
    reserved2: [u8; 20],
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    magic: U32,
    partition: U16,
    reserved: U16,
    object: RawObjectId,
    offset: U64,
    part: U32,
    octets: U32,
    content_crc: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 64);
const _: () = assert!(size_of::<RawEntry>() == 48);

/// Which of the two queues a segment is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Row {
    /// What came a short while ago, and may never be asked for again.
    Probation = 1,
    /// What was asked for again.
    Main = 2,
}

pub(crate) fn segment_header(store: &[u8; 16], number: u64, row: Row) -> [u8; HEADER_OCTETS] {
    let mut raw = RawHeader {
        magic: CACHE_MAGIC,
        version: CACHE_VERSION.into(),
        queue: row as u8,
        reserved: [0; 3],
        number: number.into(),
        store: *store,
        reserved2: [0; 20],
        crc: 0.into(),
    };
    raw.crc = crc32c::crc32c(raw.as_bytes()).into();
    zerocopy::transmute!(raw)
}

/// What a segment's header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub store: [u8; 16],
    pub number: u64,
    pub row: Row,
}

impl SegmentHeader {
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, String> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| "cache segment cut short")?;
        if raw.magic != CACHE_MAGIC {
            return Err("no cache segment".into());
        }
        if crc32c::crc32c(RawHeader { crc: 0.into(), ..raw }.as_bytes()) != raw.crc.get() {
            return Err("cache segment's header is broken".into());
        }
        if raw.version.get() != CACHE_VERSION || raw.reserved != [0; 3] {
            return Err(format!(
                "cache segment of version {}, this program reads {CACHE_VERSION}",
                raw.version
            ));
        }
        let row = match raw.queue {
            1 => Row::Probation,
            2 => Row::Main,
            _ => return Err("cache segment of no known queue".into()),
        };
        Ok(SegmentHeader { store: raw.store, number: raw.number.get(), row })
    }
}

/// The queue of the segment, where it is this one of this store.
pub(crate) fn parse_segment_header(bytes: &[u8], store: &[u8; 16], number: u64) -> Option<Row> {
    let header = SegmentHeader::parse(bytes).ok()?;
    (header.store == *store && header.number == number).then_some(header.row)
}

/// Octets that an entry of so much content takes.
pub(crate) fn entry_octets(content: usize) -> u64 {
    (ENTRY_OCTETS + content).next_multiple_of(8) as u64
}

/// Appends an entry.
pub(crate) fn put_entry(store: &[u8; 16], key: &Key, content: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let mut raw = RawEntry {
        magic: ENTRY_MAGIC.into(),
        partition: key.partition.0.into(),
        reserved: 0.into(),
        object: key.object.into(),
        offset: key.offset.into(),
        part: key.part.number().into(),
        octets: (content.len() as u32).into(),
        content_crc: 0.into(),
        crc: 0.into(),
    };
    raw.content_crc = content_crc(store, &raw, content).into();
    raw.crc = crc32c::crc32c(raw.as_bytes()).into();
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(content);
    out.resize(begin + entry_octets(content.len()) as usize, 0);
}

/// Of the store, the key and the content together: octets that stand in the wrong place do not pass for others.
fn content_crc(store: &[u8; 16], raw: &RawEntry, content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(store);
    let raw = RawEntry { content_crc: 0.into(), crc: 0.into(), ..*raw };
    crc32c::crc32c_append(crc32c::crc32c_append(crc, raw.as_bytes()), content)
}

/// An entry's header whose own checksum is right; its content may be anything.
#[derive(Clone, Copy)]
pub(crate) struct EntryHeader {
    raw: RawEntry,
    pub key: Key,
}

impl EntryHeader {
    pub fn parse(bytes: &[u8]) -> Option<EntryHeader> {
        let (raw, _) = RawEntry::read_from_prefix(bytes).ok()?;
        let sound = raw.magic.get() == ENTRY_MAGIC && raw.reserved.get() == 0;
        (sound && crc32c::crc32c(RawEntry { crc: 0.into(), ..raw }.as_bytes()) == raw.crc.get())
            .then_some(())?;
        let key = Key {
            partition: PartitionId(raw.partition.get()),
            object: raw.object.get()?,
            offset: raw.offset.get(),
            part: Part::of(raw.part.get())?,
        };
        Some(EntryHeader { raw, key })
    }

    /// Octets of the content.
    pub fn octets(&self) -> u32 {
        self.raw.octets.get()
    }

    /// Is `content` what was put in under this header?
    pub fn holds(&self, store: &[u8; 16], content: &[u8]) -> bool {
        content.len() == self.raw.octets.get() as usize
            && content_crc(store, &self.raw, content) == self.raw.content_crc.get()
    }
}

/// The file name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number}.cache")
}

pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".cache")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::ObjectKind;

    fn key(part: Part) -> Key {
        let object = ObjectId { kind: ObjectKind::Pack, shard: 3, epoch: 0x01020304, number: 0x1122 };
        Key { partition: PartitionId(5), object, offset: 64, part }
    }

    #[test]
    fn a_segment_has_the_octets_of_the_golden_file() {
        let mut segment = segment_header(&[7; 16], 9, Row::Main).to_vec();
        put_entry(&[7; 16], &key(Part::Chunk(2)), b"hello", &mut segment);
        assert_eq!(segment, include_bytes!("../../tests/golden/v1/cache.bin"));
        assert_eq!(parse_segment_header(&segment, &[7; 16], 9), Some(Row::Main));
        assert_eq!(parse_segment_header(&segment, &[7; 16], 8), None);
        assert_eq!(parse_segment_header(&segment, &[8; 16], 9), None);
        let header = EntryHeader::parse(&segment[64..]).unwrap();
        assert_eq!((header.key, header.octets()), (key(Part::Chunk(2)), 5));
        assert!(header.holds(&[7; 16], b"hello"));
        assert!(!header.holds(&[8; 16], b"hello"), "another store's");
        assert!(!header.holds(&[7; 16], b"hellO") && !header.holds(&[7; 16], b"hello\0"));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut good = segment_header(&[7; 16], 9, Row::Probation).to_vec();
        put_entry(&[7; 16], &key(Part::Frame), b"twelve octet", &mut good);
        let (header_end, content_end) = (64, 64 + 48 + 12);
        for bit in 0..content_end * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = match bit / 8 < header_end {
                true => parse_segment_header(&bad, &[7; 16], 9).is_some(),
                false => EntryHeader::parse(&bad[64..])
                    .is_some_and(|header| header.holds(&[7; 16], &bad[112..content_end])),
            };
            assert!(!found, "bit {bit}");
        }
    }

    #[test]
    fn an_intact_entry_under_another_key_is_not_its_content() {
        let mut one = Vec::new();
        put_entry(&[7; 16], &key(Part::Chunk(1)), b"one", &mut one);
        let mut two = Vec::new();
        put_entry(&[7; 16], &key(Part::Chunk(2)), b"two", &mut two);
        let header = EntryHeader::parse(&one).unwrap();
        assert!(header.holds(&[7; 16], b"one") && !header.holds(&[7; 16], b"two"));
    }

    #[test]
    fn names_and_parts_are_read_back_and_strange_ones_are_not() {
        assert_eq!(parse_segment_name("17.cache"), Some(17));
        for name in ["017.cache", "17", "17.cache.cache", "-1.cache", ".cache", "x.cache", "17.pack"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        let pieces = [Part::RecordHead, Part::TablePiece, Part::TableEnd];
        for part in [Part::Frame, Part::FrameHead, Part::Chunk(0), Part::Chunk(9)].into_iter().chain(pieces) {
            assert_eq!(Part::of(part.number()), Some(part));
        }
        assert_eq!(Part::of(u32::MAX), None);
    }
}
