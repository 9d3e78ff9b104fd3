//! Sets of numbers: the sequence set as written by a client, and a set of UIDs as ranges.

use crate::Uid;
use std::fmt;
use std::ops::RangeInclusive;

/// One end of a range: a number, or `*`, the largest in use (RFC 3501 §9 `seq-number`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Number(u32),
    Star,
}

/// A `sequence-set` (RFC 3501 §9) as written: never expanded, so `1:4294967295` costs what `1` costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceSet(pub Vec<(Bound, Bound)>);

impl SequenceSet {
    /// Most ranges that one set may hold.
    pub const RANGES_MAX: usize = 100_000;

    /// From the wire form. `None` where it is not a sequence set, or has more than [`Self::RANGES_MAX`] ranges.
    pub fn parse(text: &[u8]) -> Option<SequenceSet> {
        let mut ranges = Vec::new();
        for part in text.split(|byte| *byte == b',') {
            if ranges.len() == SequenceSet::RANGES_MAX {
                return None;
            }
            let mut ends = part.splitn(2, |byte| *byte == b':');
            let first = Bound::parse(ends.next()?)?;
            let last = match ends.next() {
                Some(end) => Bound::parse(end)?,
                None => first,
            };
            ranges.push((first, last));
        }
        Some(SequenceSet(ranges))
    }

    /// Sorted, disjoint ranges, with `*` standing for `largest`; reversed ranges are turned round.
    /// In an empty mailbox (`largest` = 0) `*` names nothing.
    pub fn resolve(&self, largest: u32) -> UidSet {
        let number = |bound: Bound| match bound {
            Bound::Number(number) => number,
            Bound::Star => largest,
        };
        self.0
            .iter()
            .map(|(first, last)| (number(*first), number(*last)))
            .filter(|(first, last)| *first != 0 && *last != 0)
            .map(|(first, last)| first.min(last)..=first.max(last))
            .collect()
    }

    /// Whether it is one number, or `*`.
    pub fn is_single(&self) -> bool {
        matches!(self.0.as_slice(), [(first, last)] if first == last)
    }

    /// Whether `*` stands anywhere in it.
    pub fn has_star(&self) -> bool {
        self.0.iter().any(|(first, last)| *first == Bound::Star || *last == Bound::Star)
    }
}

impl From<&UidSet> for SequenceSet {
    fn from(set: &UidSet) -> SequenceSet {
        let ranges = set.ranges();
        SequenceSet(
            ranges.map(|range| (Bound::Number(*range.start()), Bound::Number(*range.end()))).collect(),
        )
    }
}

impl Bound {
    fn parse(text: &[u8]) -> Option<Bound> {
        if text == b"*" {
            return Some(Bound::Star);
        }
        if text.is_empty() || text.len() > 10 || text[0] == b'0' || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = text.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        u32::try_from(number).ok().map(Bound::Number)
    }
}

impl fmt::Display for SequenceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in &self.0 {
            write!(f, "{separator}{first}")?;
            if first != last {
                write!(f, ":{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Number(number) => number.fmt(f),
            Bound::Star => f.write_str("*"),
        }
    }
}

/// A set of numbers 1 to 2^32-1 (UIDs, or sequence numbers) as sorted, disjoint, non-adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    pub const fn new() -> UidSet {
        UidSet { ranges: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub fn ranges(&self) -> impl ExactSizeIterator<Item = RangeInclusive<u32>> + '_ {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    /// The numbers, ascending. Only for sets known to be small or already cut to what exists.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flatten()
    }

    /// Those at these places, counted from 0 in ascending order.
    pub fn places(&self, places: std::ops::Range<u64>) -> UidSet {
        let mut before = 0;
        let mut there = UidSet::new();
        for range in self.ranges() {
            let (first, last) = (*range.start(), *range.end());
            let numbers = u64::from(last - first) + 1;
            let from = places.start.saturating_sub(before).min(numbers);
            let to = places.end.saturating_sub(before).min(numbers);
            if from < to {
                there.insert_range(first + from as u32..=first + (to - 1) as u32);
            }
            before += numbers;
        }
        there
    }

    pub fn contains(&self, number: u32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && self.ranges[after - 1].1 >= number
    }

    pub fn first(&self) -> Option<u32> {
        self.ranges.first().map(|range| range.0)
    }

    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|range| range.1)
    }

    pub fn insert(&mut self, number: u32) {
        self.insert_range(number..=number);
    }

    /// O(1) where the range lies at or beyond the end, O(ranges) elsewhere. 0 is left out.
    pub fn insert_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = (*range.start().max(&1), *range.end());
        if first > last {
            return;
        }
        let from = self.ranges.partition_point(|have| have.1.saturating_add(1) < first);
        let to = self.ranges.partition_point(|have| have.0 <= last.saturating_add(1));
        if from == to {
            self.ranges.insert(from, (first, last));
        } else {
            let merged = (first.min(self.ranges[from].0), last.max(self.ranges[to - 1].1));
            self.ranges[from] = merged;
            self.ranges.drain(from + 1..to);
        }
    }

    /// What stands in both.
    #[must_use]
    pub fn intersection(&self, other: &UidSet) -> UidSet {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                ranges.push((first, last));
            }
            if a.1 < b.1 {
                left.next()
            } else {
                right.next()
            };
        }
        UidSet { ranges }
    }

    /// What stands here and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &UidSet) -> UidSet {
        let mut ranges = Vec::new();
        let mut cuts = other.ranges.iter().peekable();
        for &(first, last) in &self.ranges {
            let mut from = Some(first);
            while let Some(cut) = cuts.peek() {
                let Some(start) = from else { break };
                if cut.1 < start {
                    cuts.next();
                } else if cut.0 > last {
                    break;
                } else {
                    if cut.0 > start {
                        ranges.push((start, cut.0 - 1));
                    }
                    from = (cut.1 < last).then(|| cut.1 + 1);
                    if from.is_some() {
                        cuts.next();
                    }
                }
            }
            if let Some(start) = from {
                ranges.push((start, last));
            }
        }
        UidSet { ranges }
    }
}

impl FromIterator<RangeInclusive<u32>> for UidSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u32>>>(ranges: I) -> UidSet {
        let mut sorted: Vec<(u32, u32)> = ranges
            .into_iter()
            .map(|range| (*range.start().max(&1), *range.end()))
            .filter(|range| range.0 <= range.1)
            .collect();
        sorted.sort_unstable();
        let mut set = UidSet::new();
        for (first, last) in sorted {
            match set.ranges.last_mut() {
                Some(have) if have.1.saturating_add(1) >= first => have.1 = have.1.max(last),
                _ => set.ranges.push((first, last)),
            }
        }
        set
    }
}

impl FromIterator<u32> for UidSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> UidSet {
        let mut set = UidSet::new();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

impl FromIterator<Uid> for UidSet {
    fn from_iter<I: IntoIterator<Item = Uid>>(uids: I) -> UidSet {
        uids.into_iter().map(Uid::get).collect()
    }
}

/// The wire form, `1:3,5`; an empty set is the empty string, which no grammar allows: ask [`UidSet::is_empty`] first.
impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in &self.ranges {
            write!(f, "{separator}{first}")?;
            if first != last {
                write!(f, ":{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
