//! Check: every invariant of a stored segment proven.
//!
//! # Cost
//! Reads every octet, and makes the grams of every block anew. For tools and tests, not for a query.

use crate::FormatError;
use crate::field::Fields;
use crate::format::{BLOCK_TERMS, GRAM_BITMAP, Tag, length, mark};
use crate::grams;
use crate::segment::Segment;

/// What a segment that passed [`check`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub first: u32,
    pub last: u32,
    pub documents: u32,
    pub incomplete: u32,
    pub terms: u32,
    /// Terms that are no tokens.
    pub marks: u32,
    pub blocks: u32,
    /// Documents in all lists together.
    pub postings: u64,
    /// Lists that are stored as bitmaps.
    pub dense: u32,
    /// Places of blocks in the lists of grams.
    pub grams: u64,
}

/// Proves one segment.
pub fn check(octets: &[u8]) -> Result<Summary, FormatError> {
    let segment = Segment::open(octets)?;
    segment.prove()?;
    let header = segment.layout().header;
    let content = |ok: bool, what, at: u64| {
        if ok { Ok(()) } else { Err(FormatError::Content { what, at }) }
    };
    let documents = segment.documents();
    let last = segment.span() - 1;
    content(documents.contains(0) && documents.contains(last), "first or last document", 0)?;
    content(documents.len() == header.documents.get(), "number of documents", u64::from(documents.len()))?;
    let mut incomplete = segment.incomplete().clone();
    let mut summary = Summary {
        first: segment.first(),
        last: header.last.get(),
        documents: documents.len(),
        incomplete: incomplete.len(),
        blocks: segment.block_count() as u32,
        ..Summary::default()
    };
    incomplete.less(documents);
    content(incomplete.is_empty(), "incomplete document that is none", 0)?;
    let tokens: u64 = segment.lengths().iter().map(|octet| u64::from(length(*octet))).sum();
    content(tokens == header.tokens.get(), "sum of lengths", tokens)?;

    let mut previous: Vec<u8> = Vec::new();
    let mut listed: Vec<Vec<u32>> = Vec::new();
    let bits = segment.gram_bits();
    listed.resize(1 << bits, Vec::new());
    for number in 0..segment.block_count() {
        let at = number as u64;
        let mut block = segment.block(number)?;
        let (mut terms, mut marks) = (0usize, 0);
        while let Some(term) = block.next_term()? {
            content(previous.as_slice() < term, "order of block", at)?;
            previous.clear();
            previous.extend_from_slice(term);
            terms += 1;
            if term[0] < mark::TOKENS {
                marks += 1;
                content(term[0] != 0 && term[0] <= mark::LONG_COMPOUND, "mark of block", at)?;
                continue;
            }
            for hash in grams::hashes(term) {
                let list = &mut listed[usize::from(hash >> (grams::HASH_BITS - bits))];
                if list.last() != Some(&(number as u32)) {
                    list.push(number as u32);
                }
            }
        }
        content(terms > 0 && terms <= BLOCK_TERMS, "terms of block", at)?;
        let of_marks = number < header.mark_blocks.get() as usize;
        content(marks == if of_marks { terms } else { 0 }, "kind of block", at)?;
        content(segment.block_from(&previous) == Some(number), "index of block", at)?;
        summary.terms += terms as u32;
        summary.marks += marks as u32;
        let mut payloads = block.payloads();
        for _ in 0..terms {
            let entry = payloads.next_entry()?;
            content(entry.fields.0 != 0, "fields in block", at)?;
            let mut lists = 0;
            for (_, list) in entry.lists(Fields::ALL) {
                let (mut count, mut known) = (0, true);
                list.each(segment.span(), |doc| {
                    count += 1;
                    known &= documents.contains(doc);
                })?;
                content(count > 0 && known, "list in block", at)?;
                summary.postings += count;
                summary.dense += u32::from(list.dense);
                lists += 1;
            }
            content(lists == entry.fields.0.count_ones(), "lists in block", at)?;
        }
    }
    content(summary.terms == header.terms.get(), "number of terms", u64::from(summary.terms))?;
    for (gram, expect) in listed.iter().enumerate() {
        let found = segment.gram_blocks(gram);
        content(
            found.iter().copied().eq(expect.iter().map(|block| *block as usize)),
            "list of gram",
            gram as u64,
        )?;
        summary.grams += found.len() as u64;
    }
    let table = segment.layout().octets(octets, Tag::GramTable);
    let (_, end) = table.split_at(table.len() - 4);
    let end = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    content(
        end & GRAM_BITMAP == 0 && end as usize == segment.layout().range(Tag::Grams).len(),
        "end of grams",
        u64::from(end),
    )?;
    Ok(summary)
}
