//! The bytes of an FTS segment, version 1: a header, a table of sections, sections.
//!
//! A segment has the words of some documents of one account. It is described in `docs/format/fts-segment.md`.
//!
//! # Invariants
//! - Little-endian, no alignment needed; every section begins at a multiple of 8.
//! - The header's checksum covers header and section table; each section has its own.
//! - Sections that a reader does not know are passed over, unless their tag carries [`REQUIRED`].
//! - Terms ascend by octets. The first octet tells their kind: below 0x20 a mark, else a token.
//!
//! # Limits
//! [`SECTIONS_MAX`] sections; 4 GiB of blocks, and of postings; terms of [`TERM_OCTETS_MAX`] octets;
//! [`SPAN_MAX`] documents.

use crate::FormatError;
use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const MAGIC: [u8; 8] = *b"CULVFTS\n";
pub const VERSION: u16 = 1;
/// What folding, classes, grams and marks are. Another value means that old terms cannot be compared with new keys.
pub const TOKENIZER: u16 = 1;
pub const SECTIONS_MAX: u32 = 64;
/// A reader that does not know a tag with this bit must refuse the segment.
pub const REQUIRED: u32 = 1 << 31;
/// Most octets of a term.
pub const TERM_OCTETS_MAX: usize = 250;
/// Documents from the first to the last of a segment, at most: a set of them in memory takes 16 MiB.
pub const SPAN_MAX: u32 = 1 << 27;
/// Terms of a block, but for the last of a kind.
pub const BLOCK_TERMS: usize = 32;
/// Lists of a term that have no more octets stand in its block.
pub const INLINE_OCTETS_MAX: usize = 32;
/// In the offsets of the gram table: the list is a bitmap of blocks.
pub const GRAM_BITMAP: u32 = 1 << 31;

/// First octets of terms that are no tokens; what follows is in `mark`.
pub mod mark {
    /// Machine text: nothing (there is some), two octets of a gram's hash, big-endian, or [`FULL`].
    pub const MACHINE: u8 = 1;
    /// The name of a header field, in small letters.
    pub const HEADER: u8 = 2;
    /// A language: one octet, its number.
    pub const LANGUAGE: u8 = 3;
    /// A compound that was too long to be kept; nothing follows.
    pub const LONG_COMPOUND: u8 = 4;
    /// Instead of a gram: more of them than are listed.
    pub const FULL: [u8; 2] = [0xff, 0xff];
    /// Tokens begin here.
    pub const TOKENS: u8 = 0x20;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    /// A roaring bitmap: the documents, by number.
    Documents = 1,
    /// An octet for each document, in their order.
    Lengths = 2,
    /// A roaring bitmap: documents that are not indexed whole.
    Incomplete = 3,
    /// An fst: the last term of each block, and the block's number.
    Index = 4,
    /// [`BlockEntry`]s.
    BlockTable = 5,
    Blocks = 6,
    Postings = 7,
    /// Offsets of lists in [`Tag::Grams`], one more than there are lists.
    GramTable = 8,
    Grams = 9,
}

impl Tag {
    pub const ALL: [Tag; 9] = [
        Tag::Documents,
        Tag::Lengths,
        Tag::Incomplete,
        Tag::Index,
        Tag::BlockTable,
        Tag::Blocks,
        Tag::Postings,
        Tag::GramTable,
        Tag::Grams,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Tag::Documents => "documents",
            Tag::Lengths => "lengths",
            Tag::Incomplete => "incomplete documents",
            Tag::Index => "index",
            Tag::BlockTable => "block table",
            Tag::Blocks => "blocks",
            Tag::Postings => "postings",
            Tag::GramTable => "gram table",
            Tag::Grams => "grams",
        }
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub magic: [u8; 8],
    pub version: U16,
    pub tokenizer: U16,
    pub sections: U32,
    /// Of the whole segment.
    pub octets: U64,
    /// Lowest and highest number of a document; lists count from the lowest.
    pub first: U32,
    pub last: U32,
    pub documents: U32,
    pub terms: U32,
    /// Blocks whose terms are marks: they come first.
    pub mark_blocks: U32,
    /// Tokens of all documents together, as far as [`Tag::Lengths`] tells.
    pub tokens: U64,
    pub reserved: [u8; 8],
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
    /// Entries, of whatever the section holds.
    pub count: U64,
}
const _: () = assert!(size_of::<SectionEntry>() == 32);

/// Where a block of terms begins, and where the lists begin that its terms have in the postings.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockEntry {
    pub block: U32,
    pub postings: U32,
}
const _: () = assert!(size_of::<BlockEntry>() == 8);

/// Octets in front of the first section, with `sections` of them.
pub const fn front_octets(sections: usize) -> usize {
    size_of::<Header>() + sections * size_of::<SectionEntry>()
}

pub fn header_crc(header: &Header, table: &[SectionEntry]) -> u32 {
    let crc = crc32c::crc32c(&header.as_bytes()[..60]);
    crc32c::crc32c_append(crc, table.as_bytes())
}

/// A number of tokens as an octet: exact up to 15, then with an error of a sixteenth at most.
pub fn put_length(tokens: u32) -> u8 {
    if tokens < 16 {
        return tokens as u8;
    }
    // From 16 on: four bits of exponent and four of what follows the leading bit; 2^20 and more are one.
    let exponent = tokens.ilog2().min(18);
    let mantissa = (tokens >> (exponent - 4)).min(31) & 15;
    ((exponent - 3) << 4 | mantissa) as u8
}

/// What [`put_length`] made an octet of, rounded down.
pub fn length(octet: u8) -> u32 {
    let (exponent, mantissa) = (u32::from(octet >> 4), u32::from(octet & 15));
    if exponent == 0 { mantissa } else { (16 + mantissa) << (exponent - 1) }
}

/// Where a segment's sections lie. Made by [`Layout::parse`], which proves that they lie inside it.
#[derive(Clone, Debug)]
pub struct Layout {
    pub header: Header,
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
    pub fn parse(octets: &[u8]) -> Result<Layout, FormatError> {
        let held = octets.len() as u64;
        let cut = |wanted: u64| FormatError::Truncated { held, wanted };
        let (header, rest) = Header::ref_from_prefix(octets).map_err(|_| cut(size_of::<Header>() as u64))?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if header.version.get() > VERSION || header.version.get() == 0 {
            return Err(FormatError::Version { found: header.version.get(), known: VERSION });
        }
        let count = header.sections.get();
        if count > SECTIONS_MAX {
            return Err(FormatError::Section(count));
        }
        let (table, _) = <[SectionEntry]>::ref_from_prefix_with_elems(rest, count as usize)
            .map_err(|_| cut(front_octets(count as usize) as u64))?;
        if header.crc.get() != header_crc(header, table) {
            return Err(FormatError::Checksum { section: "header" });
        }
        if header.tokenizer.get() != TOKENIZER {
            return Err(FormatError::Tokenizer { found: header.tokenizer.get(), known: TOKENIZER });
        }
        // A slice of a table may be padded behind the segment, never shorter than it.
        if header.octets.get() > held {
            return Err(cut(header.octets.get()));
        }
        if header.first.get() > header.last.get() {
            return Err(FormatError::Content { what: "documents", at: 0 });
        }
        let mut layout = Layout { header: *header, sections: Default::default() };
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

    /// Empty where the segment has no such section.
    pub fn range(&self, tag: Tag) -> Range<usize> {
        self.sections[tag as usize - 1].as_ref().map_or(0..0, |section| section.range.clone())
    }

    pub fn count(&self, tag: Tag) -> u64 {
        self.sections[tag as usize - 1].as_ref().map_or(0, |section| section.count)
    }

    /// A section's octets, its checksum not looked at.
    pub fn octets<'s>(&self, octets: &'s [u8], tag: Tag) -> &'s [u8] {
        octets.get(self.range(tag)).unwrap_or_default()
    }

    /// A section's octets, its checksum proven.
    pub fn verified<'s>(&self, octets: &'s [u8], tag: Tag) -> Result<&'s [u8], FormatError> {
        let Some(section) = &self.sections[tag as usize - 1] else { return Ok(&[]) };
        let content = octets.get(section.range.clone()).unwrap_or_default();
        if crc32c::crc32c(content) != section.crc {
            return Err(FormatError::Checksum { section: tag.name() });
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_kept_to_a_sixteenth() {
        let mut last = 0;
        for tokens in (0..5_000).chain([100_000, 262_144, 500_000]) {
            let kept = length(put_length(tokens));
            assert!(kept <= tokens && tokens - kept <= tokens / 16 && kept >= last, "{tokens} {kept}");
            last = kept;
        }
        assert_eq!(put_length(u32::MAX), u8::MAX);
    }
}
