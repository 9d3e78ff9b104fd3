//! Merges: several segments become one, without documents that are gone.
//!
//! # Cost
//! Terms of all segments are walked once, in their order. Lists are decoded and written anew. [`Merge::step`] ends after
//! about as many octets as its budget says. Memory: the new segment, twice for a moment.

use crate::field::{Field, Fields};
use crate::format::SPAN_MAX;
use crate::segment::{Entry, Segment};
use crate::writer::{Documents, Lists, Writer};
use crate::{FormatError, Limits, Step};
use roaring::RoaringBitmap;

/// Which neighbours to merge, by the octets of an account's segments in the order of their documents: four of about the
/// same size, and the smaller ones among and behind them. `None`: nothing needs it.
pub fn plan(octets: &[usize], limits: &Limits) -> Option<std::ops::Range<usize>> {
    const COUNT: usize = 4;
    // Sizes of one tier are within this factor of each other; all below the smallest are one tier.
    const FACTOR: usize = 4;
    const SMALLEST: usize = 16 * 1024;
    let tier = |octets: usize| (octets.max(SMALLEST) / SMALLEST).ilog(FACTOR);
    for end in (1..=octets.len()).rev() {
        let top = tier(octets[end - 1]);
        let (mut begin, mut sum, mut count, mut last) = (end, 0, 0, end);
        while begin > 0
            && tier(octets[begin - 1]) <= top
            && sum + octets[begin - 1] <= limits.segment_octets_max
        {
            begin -= 1;
            sum += octets[begin];
            count += usize::from(tier(octets[begin]) == top);
        }
        if count >= COUNT {
            while last < octets.len()
                && tier(octets[last]) <= top
                && sum + octets[last] <= limits.segment_octets_max
            {
                sum += octets[last];
                last += 1;
            }
            return Some(begin..last);
        }
    }
    None
}

/// A merge on its way. The segments' documents must not overlap.
pub struct Merge<'s> {
    sources: Vec<Source<'s>>,
    writer: Writer,
    lists: Lists,
    term: Vec<u8>,
    all_pushed: bool,
}

impl<'s> Merge<'s> {
    /// `gone`: documents to leave out. `None` where none is left.
    pub fn new(segments: &[&'s Segment<'s>], gone: &RoaringBitmap) -> Result<Option<Merge<'s>>, FormatError> {
        let mut documents = Documents::default();
        let mut lengths: Vec<(u32, u8)> = Vec::new();
        for segment in segments {
            for (doc, length) in segment.documents().iter().zip(segment.lengths()) {
                let number = segment.first() + doc;
                if gone.contains(number) {
                    continue;
                }
                if !documents.all.insert(number) {
                    return Err(FormatError::Content { what: "document in two segments", at: number.into() });
                }
                lengths.push((number, *length));
                if segment.incomplete().contains(doc) {
                    documents.incomplete.insert(number);
                }
            }
        }
        if documents.all.is_empty() {
            return Ok(None);
        }
        lengths.sort_unstable_by_key(|(number, _)| *number);
        documents.lengths = lengths.into_iter().map(|(_, length)| length).collect();
        let (first, last) =
            (documents.all.min().unwrap_or_default(), documents.all.max().unwrap_or_default());
        if last - first >= SPAN_MAX {
            return Err(FormatError::Content { what: "span", at: u64::from(last - first) });
        }
        let mut sources = Vec::new();
        for segment in segments {
            let left_out = segment.documents().iter().any(|doc| gone.contains(segment.first() + doc));
            let gone = left_out.then(|| {
                segment.documents().iter().filter(|doc| gone.contains(segment.first() + doc)).collect()
            });
            sources.push(Source::new(segment, first, gone)?);
        }
        let writer = Writer::new(documents);
        Ok(Some(Merge { sources, writer, lists: Lists::default(), term: Vec::new(), all_pushed: false }))
    }

    /// Does about `budget` octets more of the work.
    pub fn step(&mut self, budget: usize) -> Result<Step, FormatError> {
        if self.all_pushed {
            return Ok(self.writer.step(budget));
        }
        let mut left = budget.max(1);
        while left > 0 {
            let Some(least) = self.sources.iter().filter_map(Source::term).min() else {
                self.all_pushed = true;
                return Ok(Step::More);
            };
            if least <= self.term.as_slice() {
                return Err(FormatError::Content { what: "order of term", at: 0 });
            }
            self.term.clear();
            self.term.extend_from_slice(least);
            self.lists.clear();
            for source in &mut self.sources {
                if source.term() == Some(self.term.as_slice()) {
                    source.take(&mut self.lists)?;
                }
            }
            if !self.lists.is_empty() {
                for field in Field::ALL {
                    let list = self.lists.of(field);
                    // Segments in the order of their documents give ascending lists already.
                    if !list.is_sorted() {
                        list.sort_unstable();
                    }
                }
                self.writer.push(&self.term, &self.lists);
            }
            left = left.saturating_sub(self.lists.len() + self.term.len() + 8);
        }
        Ok(Step::More)
    }

    /// The new segment, once [`Merge::step`] has said `Done`.
    pub fn into_bytes(self) -> Vec<u8> {
        self.writer.into_bytes()
    }

    /// All of it at once.
    pub fn run(mut self) -> Result<Vec<u8>, FormatError> {
        while self.step(usize::MAX)? == Step::More {}
        Ok(self.into_bytes())
    }
}

/// One segment's terms, one after the other.
struct Source<'s> {
    segment: &'s Segment<'s>,
    /// What is added to a number of this segment to have one of the new segment; it may be negative.
    shift: i64,
    gone: Option<RoaringBitmap>,
    /// The block that is read next.
    block: usize,
    /// Terms of the block at hand, one behind the other, where they end, and their lists.
    terms: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<Entry<'s>>,
    at: usize,
}

impl<'s> Source<'s> {
    fn new(
        segment: &'s Segment<'s>,
        first: u32,
        gone: Option<RoaringBitmap>,
    ) -> Result<Source<'s>, FormatError> {
        let shift = i64::from(segment.first()) - i64::from(first);
        let (terms, ends, entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut source = Source { segment, shift, gone, block: 0, terms, ends, entries, at: 0 };
        source.fill()?;
        Ok(source)
    }

    /// Reads the next block where this one is at its end.
    fn fill(&mut self) -> Result<(), FormatError> {
        while self.at == self.entries.len() && self.block < self.segment.block_count() {
            let mut block = self.segment.block(self.block)?;
            self.block += 1;
            self.at = 0;
            self.terms.clear();
            self.ends.clear();
            self.entries.clear();
            while let Some(term) = block.next_term()? {
                self.terms.extend_from_slice(term);
                self.ends.push(self.terms.len());
            }
            let mut payloads = block.payloads();
            for _ in 0..self.ends.len() {
                self.entries.push(payloads.next_entry()?);
            }
        }
        Ok(())
    }

    fn term(&self) -> Option<&[u8]> {
        let end = *self.ends.get(self.at)?;
        let begin = if self.at == 0 { 0 } else { self.ends[self.at - 1] };
        Some(&self.terms[begin..end])
    }

    /// Adds the lists of the term at hand, and goes on to the next.
    fn take(&mut self, lists: &mut Lists) -> Result<(), FormatError> {
        let entry = self.entries[self.at];
        let (shift, gone, documents) = (self.shift, &self.gone, self.segment.documents());
        for (field, list) in entry.lists(Fields::ALL) {
            let to = lists.of(field);
            list.each(self.segment.span(), |doc| {
                // A list that names other documents is damaged, and must not be believed.
                if documents.contains(doc) && gone.as_ref().is_none_or(|gone| !gone.contains(doc)) {
                    // A document that lives is not below the first of the new segment.
                    to.push((i64::from(doc) + shift) as u32);
                }
            })?;
        }
        self.at += 1;
        self.fill()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_size_are_merged() {
        let limits = Limits::default();
        let kib = |sizes: &[usize]| sizes.iter().map(|size| size * 1024).collect::<Vec<_>>();
        for (sizes, expect) in [
            (&[][..], None),
            (&[1, 1, 1], None),
            (&[1, 1, 1, 1], Some(0..4)),
            (&[1000, 1, 2, 3, 9], Some(1..5)),
            (&[1000, 70, 66, 68], None),
            (&[1000, 70, 66, 68, 80], Some(1..5)),
            (&[1000, 70, 66, 3, 68, 80, 5], Some(1..7)),
            (&[200_000, 200_000, 200_000, 200_000], None),
        ] {
            assert_eq!(plan(&kib(sizes), &limits), expect, "{sizes:?}");
        }
        // However many come, few stay.
        let mut segments: Vec<usize> = Vec::new();
        for _ in 0..2_000 {
            segments.push(10 * 1024);
            while let Some(run) = plan(&segments, &limits) {
                let sum = segments[run.clone()].iter().sum();
                segments.splice(run, [sum]);
            }
            assert!(segments.len() < 24, "{segments:?}");
        }
    }
}
