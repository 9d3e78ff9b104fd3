//! Postings: lists of documents as octets, and sets of documents in memory.
//!
//! A list is either *gaps* (the first number, then each distance less one, as varints) or *dense* (a roaring bitmap in its
//! portable form), whichever is shorter. Numbers are relative to the segment's first document.

use roaring::RoaringBitmap;

/// Appends `value`, seven bits an octet, the lowest first.
pub fn put_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint from the front; `None` where there is none of 32 bits.
#[inline]
pub fn take_varint(octets: &mut &[u8]) -> Option<u32> {
    let (first, rest) = octets.split_first()?;
    if *first < 0x80 {
        *octets = rest;
        return Some(u32::from(*first));
    }
    let (mut value, mut shift) = (u32::from(first & 0x7f), 7);
    let mut rest = rest;
    loop {
        let (octet, after) = rest.split_first()?;
        rest = after;
        if shift > 28 || (shift == 28 && *octet > 0x0f) {
            return None;
        }
        value |= u32::from(octet & 0x7f) << shift;
        if *octet < 0x80 {
            *octets = rest;
            return Some(value);
        }
        shift += 7;
    }
}

/// Documents of which more than this share are listed are tried as a bitmap: one in so many.
const DENSE_ONE_IN: usize = 16;

/// Appends a list of ascending numbers below `span`; gives whether it is dense.
pub fn put_list(docs: &[u32], span: u32, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    let mut next = 0;
    for doc in docs {
        put_varint(doc - next, out);
        next = doc + 1;
    }
    if docs.len() < 64 || docs.len() < span as usize / DENSE_ONE_IN {
        return false;
    }
    let mut bitmap = RoaringBitmap::from_sorted_iter(docs.iter().copied()).expect("they ascend");
    bitmap.optimize();
    if bitmap.serialized_size() >= out.len() - begin {
        return false;
    }
    out.truncate(begin);
    bitmap.serialize_into(&mut *out).expect("a vector takes everything");
    true
}

/// A stored list.
#[derive(Clone, Copy, Debug)]
pub struct List<'s> {
    pub octets: &'s [u8],
    pub dense: bool,
}

/// A list that is not what its segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadList;

impl List<'_> {
    /// Gives each number below `span` to `take`, ascending.
    pub fn each(&self, span: u32, mut take: impl FnMut(u32)) -> Result<(), BadList> {
        if self.dense {
            let bitmap = RoaringBitmap::deserialize_from(self.octets).map_err(|_| BadList)?;
            if bitmap.max().is_some_and(|max| max >= span) {
                return Err(BadList);
            }
            bitmap.iter().for_each(take);
            return Ok(());
        }
        let (mut octets, mut next) = (self.octets, 0u32);
        while !octets.is_empty() {
            let gap = take_varint(&mut octets).ok_or(BadList)?;
            let doc = next.checked_add(gap).filter(|doc| *doc < span).ok_or(BadList)?;
            take(doc);
            next = doc + 1;
        }
        Ok(())
    }

    /// Adds the list to a set.
    pub fn add_to(&self, set: &mut Bits) -> Result<(), BadList> {
        let span = set.span;
        let words = &mut set.words;
        self.each(span, |doc| words[doc as usize / 64] |= 1 << (doc % 64))
    }

    /// How many documents are listed.
    pub fn count(&self) -> Result<u32, BadList> {
        if self.dense {
            let bitmap = RoaringBitmap::deserialize_from(self.octets).map_err(|_| BadList)?;
            return Ok(bitmap.len() as u32);
        }
        Ok(self.octets.iter().filter(|octet| **octet < 0x80).count() as u32)
    }
}

/// A set of the documents of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    span: u32,
}

impl Bits {
    pub fn none(span: u32) -> Bits {
        Bits { words: vec![0; span.div_ceil(64) as usize], span }
    }

    pub fn insert(&mut self, doc: u32) {
        self.words[doc as usize / 64] |= 1 << (doc % 64);
    }

    pub fn contains(&self, doc: u32) -> bool {
        self.words[doc as usize / 64] & (1 << (doc % 64)) != 0
    }

    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn and(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    pub fn or(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub fn less(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(n, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(n as u32 * 64 + bit)
            })
        })
    }

    /// Adds the set to `docs`, its numbers counted from `first`.
    pub fn add_to(&self, first: u32, docs: &mut RoaringBitmap) {
        docs.extend(self.iter().map(|doc| first + doc));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn lists_come_back(docs: Vec<u16>, step: u8) -> bool {
            let mut docs: Vec<u32> = docs.iter().map(|doc| u32::from(*doc) * u32::from(step)).collect();
            docs.sort_unstable();
            docs.dedup();
            let span = docs.last().map_or(0, |last| last + 1);
            let mut octets = Vec::new();
            let dense = put_list(&docs, span, &mut octets);
            let list = List { octets: &octets, dense };
            let (mut read, mut set) = (Vec::new(), Bits::none(span));
            list.each(span, |doc| read.push(doc)).unwrap();
            list.add_to(&mut set).unwrap();
            read == docs && set.iter().eq(docs.iter().copied()) && list.count() == Ok(docs.len() as u32)
                && set.len() == docs.len() as u32
        }

        fn any_octets_are_a_list_or_refused(octets: Vec<u8>, dense: bool, span: u16) -> bool {
            let list = List { octets: &octets, dense };
            let mut last = None;
            let _ = list.each(span.into(), |doc| {
                assert!(doc < u32::from(span) && last < Some(doc));
                last = Some(doc);
            });
            true
        }
    }

    #[test]
    fn many_documents_are_dense() {
        let most: Vec<u32> = (0..50_000).filter(|doc| doc % 7 != 0).collect();
        let mut octets = Vec::new();
        assert!(put_list(&most, 50_000, &mut octets));
        assert!(octets.len() < 9_000);
    }
}
