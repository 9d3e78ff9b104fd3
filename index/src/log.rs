//! The expunge log: which UIDs went at which MODSEQ, for QRESYNC.
//!
//! # Invariants
//! - Entries ascend in MODSEQ; ranges name only UIDs that existed and went then.
//! - The log is complete above its floor; at or below it nothing is kept.
//!
//! # Limits
//! `Limits::expunge_log_max` entries; the oldest go first, whole MODSEQs at a time, and the floor rises to them.

use crate::format::LogEntry;
use culver_model::UidSet;
use std::collections::VecDeque;

/// The log's own part; what the base holds is passed in and read in place.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Entries of the base that are no longer part of the log.
    skip: usize,
    tail: VecDeque<LogEntry>,
    pub floor: u64,
    /// Entries ever written.
    pub end: u64,
}

impl Log {
    /// The log as it stands in a base, where `end` entries were ever written.
    pub fn opened(base: &[LogEntry], floor: u64, end: u64) -> Log {
        let skip = base.partition_point(|entry| entry.modseq.get() <= floor);
        Log { skip, tail: VecDeque::new(), floor, end }
    }

    fn base<'a>(&self, base: &'a [LogEntry]) -> &'a [LogEntry] {
        base.get(self.skip..).unwrap_or_default()
    }

    pub fn len(&self, base: &[LogEntry]) -> usize {
        self.base(base).len() + self.tail.len()
    }

    /// Octets of all entries in a block.
    pub fn octets(&self, base: &[LogEntry]) -> usize {
        self.len(base) * size_of::<LogEntry>()
    }

    pub fn iter<'a>(&'a self, base: &'a [LogEntry]) -> impl DoubleEndedIterator<Item = LogEntry> + 'a {
        self.base(base).iter().chain(&self.tail).copied()
    }

    /// The last `count` entries, oldest first.
    pub fn last<'a>(&'a self, base: &'a [LogEntry], count: u64) -> impl Iterator<Item = LogEntry> + 'a {
        let len = self.len(base);
        self.iter(base).skip(len - len.min(usize::try_from(count).unwrap_or(len)))
    }

    pub fn push(&mut self, base: &[LogEntry], uids: &UidSet, modseq: u64, max: u32) {
        // The order of the log is what makes it searchable: a MODSEQ below the last is written as the last.
        let last = self.iter(base).next_back().map_or(self.floor, |entry| entry.modseq.get());
        for range in uids.ranges() {
            self.push_entry(LogEntry {
                first: (*range.start()).into(),
                last: (*range.end()).into(),
                modseq: modseq.max(last).into(),
            });
        }
        self.trim(base, max);
    }

    pub fn push_entry(&mut self, entry: LogEntry) {
        self.tail.push_back(entry);
        self.end += 1;
    }

    fn trim(&mut self, base: &[LogEntry], max: u32) {
        let over = self.len(base).saturating_sub(max as usize);
        if let Some(entry) = over.checked_sub(1).and_then(|oldest| self.iter(base).nth(oldest)) {
            self.raise_floor(base, entry.modseq.get());
        }
    }

    pub fn raise_floor(&mut self, base: &[LogEntry], floor: u64) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.skip += self.base(base).partition_point(|entry| entry.modseq.get() <= floor);
        let gone = self.tail.partition_point(|entry| entry.modseq.get() <= floor);
        self.tail.drain(..gone);
    }

    /// What went above `modseq`; `None` below the floor.
    pub fn since(&self, base: &[LogEntry], modseq: u64) -> Option<UidSet> {
        // RFC 7162 §3.2.6: a server without the history says so by naming every UID that is absent, which the caller does.
        if modseq < self.floor {
            return None;
        }
        let base = self.base(base);
        let from_base = base.partition_point(|entry| entry.modseq.get() <= modseq);
        let from_tail = self.tail.partition_point(|entry| entry.modseq.get() <= modseq);
        let entries = base[from_base..].iter().chain(self.tail.range(from_tail..));
        Some(entries.map(|entry| entry.first.get()..=entry.last.get()).collect())
    }

    pub fn memory_octets(&self) -> usize {
        self.tail.capacity() * size_of::<LogEntry>()
    }
}
