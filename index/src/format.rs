//! The bytes of a mailbox index block, version 1: a header, a table of sections, sections.
//!
//! A *base* holds every live row of a mailbox; a *delta* holds what changed since an earlier block. Both are one
//! container, described in `docs/format/mailbox-index.md`.
//!
//! # Invariants
//! - Little-endian, no alignment needed; every section begins at a multiple of 8.
//! - The header's checksum covers header and section table; each section has its own.
//! - Sections that a reader does not know are passed over, unless their tag carries [`REQUIRED`].
//!
//! # Limits
//! [`SECTIONS_MAX`] sections; offsets are 64 bits, so a heap beyond 4 GiB is nothing special.

use crate::FormatError;
use culver_model::{Guid, InternalDate};
use std::ops::Range;
use zerocopy::little_endian::{I16, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const MAGIC: [u8; 8] = *b"CULVIDX\n";
pub const VERSION: u16 = 1;
pub const SECTIONS_MAX: u32 = 256;
/// A reader that does not know a tag with this bit must refuse the block.
pub const REQUIRED: u32 = 1 << 31;

/// Octets of a message's place, as the storage encodes it.
pub const PLACE_OCTETS: usize = 32;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    Base,
    Delta,
}

/// Tags of the sections. 32 (per-user bitmaps of \Seen) and 33 (FTS segments) are set aside for later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    Head = 1,
    Keywords = 2,
    Uids = 3,
    Flags = 4,
    ModSeqs = 5,
    Cold = 6,
    Heap = 7,
    Side = 8,
    Log = 9,
    Changed = 10,
    Moved = 11,
    Gone = 12,
}

impl Tag {
    pub const ALL: [Tag; 12] = [
        Tag::Head,
        Tag::Keywords,
        Tag::Uids,
        Tag::Flags,
        Tag::ModSeqs,
        Tag::Cold,
        Tag::Heap,
        Tag::Side,
        Tag::Log,
        Tag::Changed,
        Tag::Moved,
        Tag::Gone,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Tag::Head => "head",
            Tag::Keywords => "keywords",
            Tag::Uids => "uids",
            Tag::Flags => "flags",
            Tag::ModSeqs => "modseqs",
            Tag::Cold => "cold",
            Tag::Heap => "heap",
            Tag::Side => "side keywords",
            Tag::Log => "expunge log",
            Tag::Changed => "changed",
            Tag::Moved => "moved",
            Tag::Gone => "gone",
        }
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub magic: [u8; 8],
    pub version: U16,
    /// 1 base, 2 delta.
    pub kind: U16,
    pub sections: U32,
    /// Of the whole block.
    pub octets: U64,
    pub guid: [u8; 16],
    /// Ascends with each block encoded for this mailbox.
    pub serial: U64,
    /// A delta applies to any state from this serial on; 0 in a base.
    pub after: U64,
    pub reserved: [u8; 4],
    /// CRC-32C of the 60 octets above and of the section table.
    pub crc: U32,
}
const _: () = assert!(size_of::<Header>() == 64);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SectionEntry {
    pub tag: U32,
    pub crc: U32,
    pub offset: U64,
    pub octets: U64,
    /// Entries, of whatever the section holds; octets for the heap.
    pub count: U64,
}
const _: () = assert!(size_of::<SectionEntry>() == 32);

/// The mailbox as a whole, as it stands after this block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    pub uid_validity: U32,
    pub uid_next: U32,
    pub created: U64,
    pub highest_modseq: U64,
    pub expunge_floor: U64,
    /// Sum of the live messages' sizes.
    pub total_size: U64,
    /// Live messages.
    pub rows: U32,
    pub reserved: U32,
    /// Live messages with each system flag, by bit.
    pub flag_counts: [U32; 8],
    /// Entries ever written to the expunge log: the log section's entries end here.
    pub log_end: U64,
    pub reserved_tail: [U64; 5],
}
const _: () = assert!(size_of::<Head>() == 128);

/// The row bit that says that the header lines kept are all the message has.
pub const ROW_HEADERS_COMPLETE: u8 = 1 << 0;

/// What seldom changes and is seldom asked for. The prepared forms follow each other on the heap from `heap` on, in the
/// order of their lengths here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ColdRow {
    pub internal_date: I64,
    /// 0: not known.
    pub save_date: I64,
    pub size: U64,
    pub guid: [u8; 16],
    pub email_id: [u8; 16],
    pub origin: [u8; 16],
    /// 0: none.
    pub thread_id: U64,
    pub place: [u8; PLACE_OCTETS],
    pub heap: U64,
    pub envelope_octets: U32,
    pub body_octets: U32,
    pub bodystructure_octets: U32,
    pub parts_octets: U32,
    pub headers_octets: U32,
    pub prefix_octets: U32,
    pub pop3_order: U32,
    pub key_id: U32,
    pub zone_minutes: I16,
    /// 0: none.
    pub pop3_uidl_octets: u8,
    pub bits: u8,
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<ColdRow>() == 160);

impl ColdRow {
    pub fn heap_octets(&self) -> u64 {
        [
            self.envelope_octets,
            self.body_octets,
            self.bodystructure_octets,
            self.parts_octets,
            self.headers_octets,
        ]
        .iter()
        .map(|octets| u64::from(octets.get()))
        .sum::<u64>()
            + u64::from(self.pop3_uidl_octets)
    }

    /// As a row without prepared forms.
    pub fn clear_heap(&mut self) {
        self.envelope_octets = 0.into();
        self.body_octets = 0.into();
        self.bodystructure_octets = 0.into();
        self.parts_octets = 0.into();
        self.headers_octets = 0.into();
        self.pop3_uidl_octets = 0;
    }

    pub fn internal_date(&self) -> InternalDate {
        InternalDate { seconds: self.internal_date.get(), zone_minutes: self.zone_minutes.get() }
    }
}

/// UIDs `first` to `last`, all of which existed, expunged at `modseq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogEntry {
    pub first: U32,
    pub last: U32,
    pub modseq: U64,
}
const _: () = assert!(size_of::<LogEntry>() == 16);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedRow {
    pub uid: U32,
    pub reserved: U32,
    pub flags: U64,
    pub modseq: U64,
}
const _: () = assert!(size_of::<ChangedRow>() == 24);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MovedRow {
    pub uid: U32,
    pub reserved: U32,
    pub place: [u8; PLACE_OCTETS],
}
const _: () = assert!(size_of::<MovedRow>() == 40);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GoneRange {
    pub first: U32,
    pub last: U32,
}
const _: () = assert!(size_of::<GoneRange>() == 8);

/// The entries of a section read in place; empty where the range is not a whole number of them.
pub fn entries<'a, T: FromBytes + Immutable + KnownLayout>(bytes: &'a [u8], range: &Range<usize>) -> &'a [T]
where
    [T]: FromBytes + Immutable + KnownLayout<PointerMetadata = usize>,
{
    bytes.get(range.clone()).and_then(|bytes| <[T]>::ref_from_bytes(bytes).ok()).unwrap_or_default()
}

/// Where a block's sections lie. Made by [`Layout::parse`], which proves that they lie inside the block.
#[derive(Clone, Debug)]
pub struct Layout {
    pub kind: BlockKind,
    pub guid: Guid,
    pub serial: u64,
    pub after: u64,
    sections: [Option<Section>; Tag::ALL.len()],
}

#[derive(Clone, Debug)]
struct Section {
    range: Range<usize>,
    count: u64,
    crc: u32,
}

impl Layout {
    /// Checks the header, its checksum and the bounds of every section, not the sections' checksums.
    pub fn parse(bytes: &[u8]) -> Result<Layout, FormatError> {
        let held = bytes.len() as u64;
        let cut = |wanted: u64| FormatError::Truncated { held, wanted };
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| cut(size_of::<Header>() as u64))?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if header.version.get() > VERSION || header.version.get() == 0 {
            return Err(FormatError::Version { found: header.version.get(), known: VERSION });
        }
        let kind = match header.kind.get() {
            1 => BlockKind::Base,
            2 => BlockKind::Delta,
            _ => return Err(FormatError::Foreign),
        };
        let count = header.sections.get();
        if count > SECTIONS_MAX {
            return Err(FormatError::Section(count));
        }
        let (table, _) = <[SectionEntry]>::ref_from_prefix_with_elems(rest, count as usize)
            .map_err(|_| cut(64 + 32 * u64::from(count)))?;
        if header.crc.get() != header_crc(header, table) {
            return Err(FormatError::Checksum { section: "header" });
        }
        // A slice of a table may be padded behind the block, never shorter than it.
        if header.octets.get() > held {
            return Err(cut(header.octets.get()));
        }
        let mut layout = Layout {
            kind,
            guid: Guid(header.guid),
            serial: header.serial.get(),
            after: header.after.get(),
            sections: Default::default(),
        };
        for entry in table {
            let tag = entry.tag.get();
            let end = entry.offset.get().checked_add(entry.octets.get());
            let Some(end) = end.filter(|end| *end <= header.octets.get()) else {
                return Err(FormatError::Section(tag));
            };
            let Some(known) = Tag::ALL.into_iter().find(|known| *known as u32 == tag & !REQUIRED) else {
                if tag & REQUIRED != 0 {
                    return Err(FormatError::Section(tag));
                }
                continue;
            };
            let slot = &mut layout.sections[known as usize - 1];
            if slot.is_some() {
                return Err(FormatError::Section(tag));
            }
            let range = entry.offset.get() as usize..end as usize;
            *slot = Some(Section { range, count: entry.count.get(), crc: entry.crc.get() });
        }
        Ok(layout)
    }

    pub fn has(&self, tag: Tag) -> bool {
        self.sections[tag as usize - 1].is_some()
    }

    /// Empty where the block has no such section.
    pub fn range(&self, tag: Tag) -> Range<usize> {
        self.sections[tag as usize - 1].as_ref().map_or(0..0, |section| section.range.clone())
    }

    pub fn count(&self, tag: Tag) -> u64 {
        self.sections[tag as usize - 1].as_ref().map_or(0, |section| section.count)
    }

    /// A section's bytes, its checksum proven.
    pub fn verified<'a>(&self, bytes: &'a [u8], tag: Tag) -> Result<&'a [u8], FormatError> {
        let Some(section) = &self.sections[tag as usize - 1] else {
            return Ok(&[]);
        };
        let content = bytes.get(section.range.clone()).unwrap_or_default();
        if crc32c::crc32c(content) != section.crc {
            return Err(FormatError::Checksum { section: tag.name() });
        }
        Ok(content)
    }

    /// A section's entries, its checksum and its count proven.
    pub fn entries<'a, T: FromBytes + Immutable>(
        &self,
        bytes: &'a [u8],
        tag: Tag,
    ) -> Result<&'a [T], FormatError>
    where
        [T]: FromBytes + Immutable + KnownLayout<PointerMetadata = usize>,
    {
        let entries = <[T]>::ref_from_bytes(self.verified(bytes, tag)?)
            .map_err(|_| FormatError::Section(tag as u32))?;
        if entries.len() as u64 != self.count(tag) {
            return Err(FormatError::Section(tag as u32));
        }
        Ok(entries)
    }

    pub fn head(&self, bytes: &[u8]) -> Result<Head, FormatError> {
        let head = self.verified(bytes, Tag::Head)?;
        Head::read_from_bytes(head).map_err(|_| FormatError::Section(Tag::Head as u32))
    }
}

fn header_crc(header: &Header, table: &[SectionEntry]) -> u32 {
    let crc = crc32c::crc32c(&header.as_bytes()[..60]);
    crc32c::crc32c_append(crc, table.as_bytes())
}

/// Writes a block: sections in turn, each at once or piece by piece, then the table and the header in front of them.
pub struct BlockWriter {
    bytes: Vec<u8>,
    table: Vec<SectionEntry>,
    sections_max: usize,
    /// The section that is open.
    open: Option<OpenSection>,
}

struct OpenSection {
    tag: Tag,
    start: usize,
    count: u64,
    /// Of its first `summed` octets.
    crc: u32,
    summed: usize,
}

impl BlockWriter {
    /// `sections_max` sections at most; `octets` is a hint of the whole.
    pub fn new(sections_max: usize, octets: usize) -> BlockWriter {
        let front = size_of::<Header>() + sections_max * size_of::<SectionEntry>();
        let mut bytes = Vec::with_capacity(front + octets);
        bytes.resize(front, 0);
        BlockWriter { bytes, table: Vec::with_capacity(sections_max), sections_max, open: None }
    }

    /// `write` appends the section's bytes and answers how many entries they are.
    pub fn section(&mut self, tag: Tag, write: impl FnOnce(&mut Vec<u8>) -> u64) {
        self.piece(tag, write);
        self.end_section(tag);
    }

    /// A piece of a section, which the first one begins.
    pub fn piece(&mut self, tag: Tag, write: impl FnOnce(&mut Vec<u8>) -> u64) {
        let open = self.open.get_or_insert_with(|| {
            assert!(self.table.len() < self.sections_max, "more sections than were announced");
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            OpenSection { tag, start: self.bytes.len(), count: 0, crc: 0, summed: 0 }
        });
        assert!(open.tag == tag, "another section is open");
        open.count += write(&mut self.bytes);
        let fresh = &self.bytes[open.start + open.summed..];
        open.crc = crc32c::crc32c_append(open.crc, fresh);
        open.summed += fresh.len();
    }

    /// Ends the section; one that got no piece is there, and empty.
    pub fn end_section(&mut self, tag: Tag) {
        if self.open.is_none() {
            self.piece(tag, |_| 0);
        }
        let Some(open) = self.open.take() else { return };
        self.table.push(SectionEntry {
            tag: (tag as u32).into(),
            crc: open.crc.into(),
            offset: (open.start as u64).into(),
            octets: (open.summed as u64).into(),
            count: open.count.into(),
        });
    }

    pub fn finish(mut self, kind: BlockKind, guid: Guid, serial: u64, after: u64) -> Vec<u8> {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            kind: match kind {
                BlockKind::Base => 1.into(),
                BlockKind::Delta => 2.into(),
            },
            sections: (self.table.len() as u32).into(),
            octets: (self.bytes.len() as u64).into(),
            guid: guid.0,
            serial: serial.into(),
            after: after.into(),
            reserved: [0; 4],
            crc: 0.into(),
        };
        header.crc = header_crc(&header, &self.table).into();
        let table = self.table.as_bytes();
        self.bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        self.bytes[size_of::<Header>()..][..table.len()].copy_from_slice(table);
        self.bytes
    }
}

/// Octets of heap memory that a vector's entries take.
pub fn entries_octets<T>(entries: &Vec<T>) -> usize {
    entries.capacity() * size_of::<T>()
}

/// Takes bytes from the front; `None` where there are not enough.
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn peek_u32(&self) -> Option<u32> {
        self.0.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }
}
