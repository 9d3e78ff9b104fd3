//! What the body cache keeps: an index of entries, and which segment goes next.
//!
//! Entries stand in segments, and segments in two queues. What is new goes into the one on probation; what is asked for again
//! while it stands there moves on when its segment's turn comes, the rest goes and leaves a ghost, a fingerprint.
//! What comes back while its ghost is remembered goes into the main queue at once. There, too, the oldest segment's turn comes, and what was
//! asked for since goes round once more. (S3-FIFO, of segments.) So one pass over everything moves through the probation
//! queue and evicts nothing of the main one.
//!
//! # Invariants
//! The octets of all segments, and one segment that is being copied from, are within the budget.
//!
//! # Limits
//! [`SEGMENTS`], [`SEGMENT_ENTRIES`], [`GHOSTS_MAX`]. About 70 octets of memory for an entry, in trees: a table that has to be
//! copied when it grows would hold up the shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::format::Row;

/// The budget is cut into so many segments, at least.
pub(crate) const SEGMENTS: u64 = 64;
/// Octets of a segment at most: what an eviction takes at once.
pub(crate) const SEGMENT_OCTETS_MAX: u64 = 8 << 20;
/// Entries of a segment, more or less, for all of them go in one step.
const SEGMENT_ENTRIES: usize = 4096;
/// Octets that copying a segment adds to its own: headers of those it is copied to.
const COPY_OCTETS: u64 = 4 * super::HEADER_OCTETS as u64;
/// The part of the budget that the probation queue may have, in percent, while there is something in the main one.
const PROBATION_PERCENT: u64 = 10;
/// Fingerprints of what was evicted from probation; never more than there are entries, or a thousand.
const GHOSTS_MAX: usize = 1 << 17;
const GHOSTS_MIN: usize = 1000;
/// Uses within so many seconds of each other are one: a client that reads a message in three pieces has read it once.
pub(crate) const ONE_USE_SECONDS: u32 = 30;
/// Uses that are counted.
const USES_MAX: u8 = 3;
/// From so many uses on, what is on probation moves on: the one that brought it here, and another.
const USES_TO_STAY: u8 = 2;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub segment: u64,
    /// Where the entry begins, and the octets of its content.
    pub offset: u32,
    pub octets: u32,
    uses: u8,
    /// The second of the last use that was counted, plus one; 0 where there was none.
    used: u32,
}

struct Segment {
    row: Row,
    octets: u64,
    /// Fingerprint and offset of what was put in, in order.
    entries: Vec<(u64, u32)>,
}

pub(crate) struct Policy {
    budget: u64,
    slots: BTreeMap<u64, Slot>,
    segments: BTreeMap<u64, Segment>,
    /// The segments that are written to.
    active: BTreeMap<Row, u64>,
    next: u64,
    held: u64,
    on_probation: u64,
    ghosts: BTreeSet<u64>,
    /// In the order in which they died; some are called back already.
    dead: VecDeque<u64>,
}

impl Policy {
    pub fn new(budget: u64) -> Policy {
        Policy {
            budget,
            slots: BTreeMap::new(),
            segments: BTreeMap::new(),
            active: BTreeMap::new(),
            next: 1,
            held: 0,
            on_probation: 0,
            ghosts: BTreeSet::new(),
            dead: VecDeque::new(),
        }
    }

    /// Octets of a segment, at most.
    pub fn segment_octets(&self) -> u64 {
        (self.budget / SEGMENTS).min(SEGMENT_OCTETS_MAX)
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Octets of all segments.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Octets of a segment that is there.
    pub fn segment(&self, number: u64) -> Option<u64> {
        self.segments.get(&number).map(|segment| segment.octets)
    }

    pub fn entries(&self) -> usize {
        self.slots.len()
    }

    pub fn slot(&self, fingerprint: u64) -> Option<Slot> {
        self.slots.get(&fingerprint).copied()
    }

    /// An entry is asked for.
    pub fn use_slot(&mut self, fingerprint: u64, second: u32) -> Option<Slot> {
        let slot = self.slots.get_mut(&fingerprint)?;
        if slot.used == 0 || second + 1 >= slot.used + ONE_USE_SECONDS {
            slot.uses = (slot.uses + 1).min(USES_MAX);
            slot.used = second + 1;
        }
        Some(*slot)
    }

    /// Whether somebody has read an entry.
    pub fn was_used(&self, fingerprint: u64) -> bool {
        let row = |slot: &Slot| self.segments.get(&slot.segment).map(|segment| segment.row);
        self.slots.get(&fingerprint).is_some_and(|slot| slot.uses > 0 || row(slot) == Some(Row::Main))
    }

    /// Where something new goes.
    pub fn row_for(&mut self, fingerprint: u64) -> Row {
        if self.ghosts.remove(&fingerprint) { Row::Main } else { Row::Probation }
    }

    /// The segment to write `octets` to, and where it ends; `None`: begin another.
    pub fn active(&mut self, row: Row, octets: u64) -> Option<(u64, u64)> {
        let number = *self.active.get(&row)?;
        let segment = self.segments.get(&number)?;
        let fits = segment.octets + octets <= self.segment_octets();
        (fits && segment.entries.len() < SEGMENT_ENTRIES).then_some((number, segment.octets))
    }

    /// Begins a segment; its number.
    pub fn begin(&mut self, row: Row) -> u64 {
        let number = self.next;
        self.adopt(number, 0);
        self.set_row(number, row);
        self.active.insert(row, number);
        number
    }

    /// Nothing more is written to the segment of a queue.
    pub fn end(&mut self, row: Row) {
        self.active.remove(&row);
    }

    /// A segment that an earlier start left. It counts as one of the main queue until it is known better.
    pub fn adopt(&mut self, number: u64, octets: u64) {
        self.next = self.next.max(number + 1);
        if self.segments.contains_key(&number) {
            return;
        }
        self.held += octets;
        self.segments.insert(number, Segment { row: Row::Main, octets, entries: Vec::new() });
    }

    pub fn set_row(&mut self, number: u64, row: Row) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let octets = segment.octets;
        match (std::mem::replace(&mut segment.row, row), row) {
            (Row::Main, Row::Probation) => self.on_probation += octets,
            (Row::Probation, Row::Main) => self.on_probation -= octets,
            _ => {}
        }
    }

    /// A segment has become longer.
    pub fn lengthen(&mut self, number: u64, octets: u64) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        segment.octets += octets;
        self.held += octets;
        if segment.row == Row::Probation {
            self.on_probation += octets;
        }
    }

    /// An entry was written. `uses` are those it comes with, the last in `second`.
    pub fn put(&mut self, fingerprint: u64, number: u64, offset: u32, octets: u32, uses: u8, second: u32) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        segment.entries.push((fingerprint, offset));
        let used = if uses == 0 { 0 } else { second + 1 };
        self.slots.insert(fingerprint, Slot { segment: number, offset, octets, uses, used });
    }

    /// An entry that an earlier start wrote; one that was written since counts more.
    pub fn put_found(&mut self, fingerprint: u64, number: u64, offset: u32, octets: u32) {
        if self.slots.get(&fingerprint).is_none_or(|slot| slot.segment <= number) {
            let on_probation = self.segments.get(&number).is_some_and(|found| found.row == Row::Probation);
            self.put(fingerprint, number, offset, octets, u8::from(on_probation), 0);
        }
    }

    pub fn forget(&mut self, fingerprint: u64) {
        self.slots.remove(&fingerprint);
    }

    /// The segment that has to go so that `more` octets have room; `None` where they have.
    pub fn victim(&self, more: u64) -> Option<u64> {
        if self.held + more + self.segment_octets() + COPY_OCTETS <= self.budget {
            return None;
        }
        let written_to = |number: &u64| self.active.values().any(|active| active == number);
        let oldest = |row: Row| {
            let mut of_row =
                self.segments.iter().filter(|(number, segment)| segment.row == row && !written_to(number));
            of_row.next().map(|(number, _)| *number)
        };
        let crowded = self.on_probation * 100 > self.budget * PROBATION_PERCENT;
        let (first, second) = if crowded { (Row::Probation, Row::Main) } else { (Row::Main, Row::Probation) };
        oldest(first).or_else(|| oldest(second)).or_else(|| self.segments.keys().next().copied())
    }

    /// The oldest segments that go where `octets` must not be passed, whatever they hold.
    pub fn beyond(&self, octets: u64) -> Vec<u64> {
        let (mut held, mut gone) = (self.held, Vec::new());
        for (number, segment) in &self.segments {
            if held <= octets {
                break;
            }
            held -= segment.octets;
            gone.push(*number);
        }
        gone
    }

    /// What of a segment goes into the main queue when it is dropped, and the uses it keeps.
    pub fn survivors(&self, number: u64) -> Vec<(u64, Slot, u8)> {
        let Some(segment) = self.segments.get(&number) else { return Vec::new() };
        let here = segment.entries.iter().filter_map(|(fingerprint, offset)| {
            let slot = self.slots.get(fingerprint)?;
            let stays = match segment.row {
                Row::Probation => slot.uses >= USES_TO_STAY,
                Row::Main => slot.uses > 0,
            };
            let uses = if segment.row == Row::Main { slot.uses - u8::from(stays) } else { 0 };
            (slot.segment == number && slot.offset == *offset && stays).then_some((*fingerprint, *slot, uses))
        });
        here.collect()
    }

    /// Takes a segment out with what stands in it. How many entries that are.
    pub fn remove(&mut self, number: u64) -> usize {
        let Some(segment) = self.segments.remove(&number) else { return 0 };
        self.active.retain(|_, active| *active != number);
        self.held -= segment.octets;
        if segment.row == Row::Probation {
            self.on_probation -= segment.octets;
        }
        let mut gone = 0;
        for (fingerprint, offset) in segment.entries {
            if self
                .slots
                .get(&fingerprint)
                .is_some_and(|slot| slot.segment == number && slot.offset == offset)
            {
                self.slots.remove(&fingerprint);
                gone += 1;
                if segment.row == Row::Probation {
                    self.remember_ghost(fingerprint);
                }
            }
        }
        gone
    }

    fn remember_ghost(&mut self, fingerprint: u64) {
        if self.ghosts.insert(fingerprint) {
            self.dead.push_back(fingerprint);
        }
        let most = self.slots.len().clamp(GHOSTS_MIN, GHOSTS_MAX);
        while self.dead.len() > most {
            let oldest = self.dead.pop_front();
            oldest.map(|oldest| self.ghosts.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests;
