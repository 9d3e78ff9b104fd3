//! A segment, read in place.
//!
//! # Cost
//! Opening reads the small sections, not blocks, postings and grams: their checksums are for [`Segment::prove`], and what
//! is read of them is checked against its bounds. A look-up reads one block of 32 terms. A substring reads the blocks
//! that have all its grams.

use crate::FormatError;
use crate::field::{Field, Fields};
use crate::format::{
    BLOCK_TERMS, BlockEntry, GRAM_BITMAP, INLINE_OCTETS_MAX, Layout, SPAN_MAX, TERM_OCTETS_MAX, Tag, mark,
};
use crate::grams;
use crate::postings::{BadList, Bits, List, take_varint};
use fst::{IntoStreamer, Streamer};
use memchr::memmem::Finder;
use roaring::RoaringBitmap;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

pub struct Segment<'s> {
    octets: &'s [u8],
    layout: Layout,
    index: fst::raw::Fst<&'s [u8]>,
    table: &'s [BlockEntry],
    blocks: &'s [u8],
    postings: &'s [u8],
    gram_table: &'s [U32],
    grams: &'s [u8],
    documents: Bits,
    incomplete: Bits,
}

impl<'s> Segment<'s> {
    pub fn open(octets: &'s [u8]) -> Result<Segment<'s>, FormatError> {
        let layout = Layout::parse(octets)?;
        let (first, last) = (layout.header.first.get(), layout.header.last.get());
        let set = |tag: Tag| -> Result<Bits, FormatError> {
            let wrong = FormatError::Content { what: tag.name(), at: 0 };
            let docs =
                RoaringBitmap::deserialize_from(layout.verified(octets, tag)?).map_err(|_| wrong.clone())?;
            let mut bits = Bits::none(span(first, last));
            if docs.min().is_some_and(|min| min < first) || docs.max().is_some_and(|max| max > last) {
                return Err(wrong);
            }
            docs.iter().for_each(|doc| bits.insert(doc - first));
            Ok(bits)
        };
        if last - first >= SPAN_MAX {
            return Err(FormatError::Content { what: "span", at: u64::from(last - first) });
        }
        // As long as the segment is, so that a number which is none takes no memory.
        let documents = layout.range(Tag::Lengths).len() as u64;
        if documents == 0 || documents != u64::from(layout.header.documents.get()) {
            return Err(FormatError::Content { what: "documents", at: documents });
        }
        let index = fst::raw::Fst::new(layout.verified(octets, Tag::Index)?)
            .map_err(|_| FormatError::Content { what: "index", at: 0 })?;
        let table = <[BlockEntry]>::ref_from_bytes(layout.verified(octets, Tag::BlockTable)?)
            .map_err(|_| FormatError::Section(Tag::BlockTable as u32))?;
        let gram_table = <[U32]>::ref_from_bytes(layout.verified(octets, Tag::GramTable)?)
            .map_err(|_| FormatError::Section(Tag::GramTable as u32))?;
        let grams = gram_table.len().saturating_sub(1);
        if !grams.is_power_of_two() || grams > 1 << grams::HASH_BITS {
            return Err(FormatError::Content { what: "gram table", at: grams as u64 });
        }
        if index.len() != table.len() || layout.header.mark_blocks.get() as usize > table.len() {
            return Err(FormatError::Content { what: "block table", at: table.len() as u64 });
        }
        Ok(Segment {
            octets,
            index,
            table,
            blocks: layout.octets(octets, Tag::Blocks),
            postings: layout.octets(octets, Tag::Postings),
            gram_table,
            grams: layout.octets(octets, Tag::Grams),
            documents: set(Tag::Documents)?,
            incomplete: set(Tag::Incomplete)?,
            layout,
        })
    }

    /// The checksums of all sections: once, when a segment has come from a disk or a bucket.
    pub fn prove(&self) -> Result<(), FormatError> {
        Tag::ALL.into_iter().try_for_each(|tag| self.layout.verified(self.octets, tag).map(|_| ()))
    }

    /// Number of the first document; lists count from it.
    pub fn first(&self) -> u32 {
        self.layout.header.first.get()
    }

    /// Documents from the first to the last, whether they are in the segment or not.
    pub fn span(&self) -> u32 {
        span(self.first(), self.layout.header.last.get())
    }

    pub fn octets(&self) -> &'s [u8] {
        self.octets
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn terms(&self) -> u32 {
        self.layout.header.terms.get()
    }

    pub(crate) fn documents(&self) -> &Bits {
        &self.documents
    }

    pub(crate) fn incomplete(&self) -> &Bits {
        &self.incomplete
    }

    /// Lengths of the documents, in their order: see `format::length`.
    pub(crate) fn lengths(&self) -> &'s [u8] {
        self.layout.octets(self.octets, Tag::Lengths)
    }

    pub(crate) fn block_count(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn block(&self, number: usize) -> Result<Block<'s>, FormatError> {
        let bad = FormatError::Content { what: "block", at: number as u64 };
        let entry = self.table.get(number).ok_or(bad.clone())?;
        let (count, rest) = self
            .blocks
            .get(entry.block.get() as usize..)
            .and_then(|block| block.split_first())
            .ok_or(bad.clone())?;
        let postings = self.postings.get(entry.postings.get() as usize..).ok_or(bad)?;
        Ok(Block { number, left: *count, rest, postings, term: Vec::new() })
    }

    /// The lists of exactly this term.
    pub fn lookup(&self, term: &[u8]) -> Result<Option<Entry<'s>>, FormatError> {
        let Some(number) = self.block_from(term) else { return Ok(None) };
        let mut block = self.block(number)?;
        let mut at = None;
        let mut n = 0;
        while let Some(found) = block.next_term()? {
            if found == term {
                at = Some(n);
            }
            n += 1;
        }
        let Some(at) = at else { return Ok(None) };
        let mut payloads = block.payloads();
        for _ in 0..at {
            payloads.next_entry()?;
        }
        payloads.next_entry().map(Some)
    }

    /// The first block whose last term is not below `term`.
    pub(crate) fn block_from(&self, term: &[u8]) -> Option<usize> {
        let mut blocks = self.index.range().ge(term).into_stream();
        blocks.next().map(|(_, number)| number.value() as usize)
    }

    /// Each term of these blocks for which `test` is true.
    pub(crate) fn scan(
        &self,
        blocks: impl Iterator<Item = usize>,
        mut test: impl FnMut(&[u8]) -> bool,
        mut take: impl FnMut(&Entry<'s>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        for number in blocks {
            let mut block = self.block(number)?;
            let (mut matched, mut bit) = (0u64, 1u64);
            while let Some(term) = block.next_term()? {
                if test(term) {
                    matched |= bit;
                }
                bit = bit.wrapping_shl(1);
            }
            let mut payloads = block.payloads();
            while matched != 0 {
                let entry = payloads.next_entry()?;
                if matched & 1 != 0 {
                    take(&entry)?;
                }
                matched >>= 1;
            }
        }
        Ok(())
    }

    /// Blocks of tokens that may hold a term with this substring.
    pub(crate) fn blocks_with(&self, needle: &[u8]) -> Vec<usize> {
        let marks = self.layout.header.mark_blocks.get() as usize;
        let all = || (marks..self.table.len()).collect();
        let bits = self.gram_bits();
        let mut grams: Vec<usize> =
            grams::hashes(needle).map(|hash| usize::from(hash >> (grams::HASH_BITS - bits))).collect();
        grams.sort_unstable();
        grams.dedup();
        let mut lists: Vec<(&[u8], bool)> =
            grams.into_iter().filter_map(|gram| self.gram_list(gram)).collect();
        lists.sort_by_key(|(list, _)| list.len());
        let mut lists = lists.into_iter();
        let Some(shortest) = lists.next() else { return all() };
        let mut blocks: Vec<usize> = Vec::new();
        self.each_block(shortest, |block| blocks.push(block));
        for list in lists {
            // Reading a few blocks is cheaper than reading a long list.
            if blocks.len() * BLOCK_TERMS * 2 < list.0.len() {
                break;
            }
            let mut kept = 0;
            let mut at = 0;
            self.each_block(list, |block| {
                while at < blocks.len() && blocks[at] < block {
                    at += 1;
                }
                if blocks.get(at) == Some(&block) {
                    blocks[kept] = block;
                    kept += 1;
                    at += 1;
                }
            });
            blocks.truncate(kept);
        }
        blocks
    }

    fn gram_list(&self, gram: usize) -> Option<(&'s [u8], bool)> {
        let (begin, end) = (self.gram_table.get(gram)?.get(), self.gram_table.get(gram + 1)?.get());
        let range = (begin & !GRAM_BITMAP) as usize..(end & !GRAM_BITMAP) as usize;
        Some((self.grams.get(range)?, begin & GRAM_BITMAP != 0))
    }

    /// Bits of a gram's hash that the gram table tells apart.
    pub(crate) fn gram_bits(&self) -> u32 {
        (self.gram_table.len() - 1).ilog2()
    }

    /// The blocks that a list of the gram table names.
    pub(crate) fn gram_blocks(&self, gram: usize) -> Vec<usize> {
        let mut blocks = Vec::new();
        if let Some(list) = self.gram_list(gram) {
            self.each_block(list, |block| blocks.push(block));
        }
        blocks
    }

    fn each_block(&self, (list, bitmap): (&[u8], bool), mut take: impl FnMut(usize)) {
        let blocks = self.table.len();
        if bitmap {
            for (n, octet) in list.iter().enumerate() {
                let mut left = *octet;
                while left != 0 {
                    let block = n * 8 + left.trailing_zeros() as usize;
                    left &= left - 1;
                    if block < blocks {
                        take(block);
                    }
                }
            }
            return;
        }
        let (mut list, mut next) = (list, 0usize);
        while let Some(gap) = take_varint(&mut list) {
            let block = next + gap as usize;
            if block >= blocks {
                return;
            }
            take(block);
            next = block + 1;
        }
    }

    /// Each token that holds `needle` somewhere.
    pub(crate) fn substring(
        &self,
        needle: &[u8],
        take: impl FnMut(&Entry<'s>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let finder = Finder::new(needle);
        self.scan(self.blocks_with(needle).into_iter(), |term| finder.find(term).is_some(), take)
    }

    /// Each token that ends with `suffix`.
    pub(crate) fn suffix(
        &self,
        suffix: &[u8],
        take: impl FnMut(&Entry<'s>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        self.scan(self.blocks_with(suffix).into_iter(), |term| term.ends_with(suffix), take)
    }

    /// Each token that begins with `prefix`.
    pub(crate) fn prefix(
        &self,
        prefix: &[u8],
        take: impl FnMut(&Entry<'s>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        self.scan(self.blocks_of_prefix(prefix), |term| term.starts_with(prefix), take)
    }

    /// The blocks in which a term that begins with `prefix` can stand.
    pub(crate) fn blocks_of_prefix(&self, prefix: &[u8]) -> std::ops::Range<usize> {
        let Some(begin) = self.block_from(prefix) else { return 0..0 };
        // What comes behind everything that begins with it.
        let mut behind = prefix.to_vec();
        while behind.last() == Some(&0xff) {
            behind.pop();
        }
        let end = match behind.last_mut() {
            Some(last) => {
                *last += 1;
                self.block_from(&behind).map_or(self.table.len(), |block| block + 1)
            }
            None => self.table.len(),
        };
        begin..end.min(self.table.len())
    }

    /// The lists of marks, one after the other: (term, lists).
    pub(crate) fn marks(&self, kind: u8) -> Result<Vec<(Vec<u8>, Entry<'s>)>, FormatError> {
        let mut found = Vec::new();
        let mut terms = Vec::new();
        for number in self.blocks_of_prefix(&[kind]) {
            let mut block = self.block(number)?;
            terms.clear();
            while let Some(term) = block.next_term()? {
                terms.push(term.to_vec());
            }
            let mut payloads = block.payloads();
            for term in terms.drain(..) {
                let entry = payloads.next_entry()?;
                if term.first() == Some(&kind) && kind < mark::TOKENS {
                    found.push((term, entry));
                }
            }
        }
        Ok(found)
    }
}

fn span(first: u32, last: u32) -> u32 {
    (last - first).saturating_add(1)
}

/// A block of terms: first the terms, then what they have.
pub(crate) struct Block<'s> {
    number: usize,
    left: u8,
    rest: &'s [u8],
    postings: &'s [u8],
    term: Vec<u8>,
}

impl<'s> Block<'s> {
    #[inline]
    pub fn next_term(&mut self) -> Result<Option<&[u8]>, FormatError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match self.take_term() {
            Some(()) => Ok(Some(&self.term)),
            None => Err(FormatError::Content { what: "block", at: self.number as u64 }),
        }
    }

    #[inline]
    fn take_term(&mut self) -> Option<()> {
        let (head, rest) = self.rest.split_first()?;
        let (shared, octets, rest) = if *head < 0xf0 {
            (usize::from(head >> 4), usize::from(head & 15), rest)
        } else {
            let (lengths, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(lengths[0]), usize::from(lengths[1]), rest)
        };
        let (suffix, rest) = rest.split_at_checked(octets)?;
        if shared > self.term.len() || shared + octets > TERM_OCTETS_MAX {
            return None;
        }
        self.term.truncate(shared);
        self.term.extend_from_slice(suffix);
        self.rest = rest;
        Some(())
    }

    /// The terms' lists, in the same order; only after the last term.
    pub fn payloads(self) -> Payloads<'s> {
        Payloads { number: self.number, rest: self.rest, postings: self.postings }
    }
}

pub(crate) struct Payloads<'s> {
    number: usize,
    rest: &'s [u8],
    postings: &'s [u8],
}

impl<'s> Payloads<'s> {
    pub fn next_entry(&mut self) -> Result<Entry<'s>, FormatError> {
        self.take().ok_or(FormatError::Content { what: "lists of block", at: self.number as u64 })
    }

    fn take(&mut self) -> Option<Entry<'s>> {
        let (fields, mut rest) = self.rest.split_first()?;
        if *fields == 0 {
            let octets = rest;
            take_varint(&mut rest)?;
            let octets = &octets[..octets.len() - rest.len()];
            self.rest = rest;
            return Some(Entry { fields: Fields::BODY, heads: rest, lists: octets, single: true });
        }
        let heads = rest;
        let mut octets = 0usize;
        for _ in 0..fields.count_ones() {
            octets = octets.checked_add((take_varint(&mut rest)? >> 1) as usize)?;
        }
        let lists = if octets <= INLINE_OCTETS_MAX {
            let (lists, behind) = rest.split_at_checked(octets)?;
            rest = behind;
            lists
        } else {
            let (lists, behind) = self.postings.split_at_checked(octets)?;
            self.postings = behind;
            lists
        };
        self.rest = rest;
        Some(Entry { fields: Fields(*fields), heads, lists, single: false })
    }
}

/// What a term has: a list of documents for each field in which it stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'s> {
    pub fields: Fields,
    heads: &'s [u8],
    lists: &'s [u8],
    single: bool,
}

impl<'s> Entry<'s> {
    /// The lists of these fields.
    pub fn lists(&self, fields: Fields) -> impl Iterator<Item = (Field, List<'s>)> {
        let (mut heads, mut lists, single) = (self.heads, self.lists, self.single);
        self.fields
            .iter()
            .filter_map(move |field| {
                if single {
                    return Some((field, List { octets: lists, dense: false }));
                }
                // Both were taken before.
                let head = take_varint(&mut heads)?;
                let (octets, behind) = lists.split_at_checked((head >> 1) as usize)?;
                lists = behind;
                Some((field, List { octets, dense: head & 1 != 0 }))
            })
            .filter(move |(field, _)| fields.has(*field))
    }

    pub fn add_to(&self, fields: Fields, set: &mut Bits) -> Result<(), FormatError> {
        for (_, list) in self.lists(fields) {
            list.add_to(set)?;
        }
        Ok(())
    }
}

impl From<BadList> for FormatError {
    fn from(_: BadList) -> FormatError {
        FormatError::Content { what: "list of documents", at: 0 }
    }
}
