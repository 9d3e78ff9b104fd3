//! Encoding a base or a delta in steps, so that a large mailbox does not keep its shard from everything else.
//!
//! # Invariants
//! Every step sees the same index: either nothing is changed between the first step and the end, which the caller knows
//! by the account's position, or a [`Frozen`] copy is encoded.
//!
//! # Cost
//! A step costs what its rows do; memory for the block.

use crate::flush::{Changes, FRONT_OCTETS};
use crate::format::{BlockWriter, ChangedRow, GoneRange, MovedRow, Tag};
use crate::mailbox::{MailboxIndex, Runs};
use crate::rows::EXPUNGED;
use crate::{BlockKind, Row};
use culver_model::{Uid, UidSet};
use roaring::RoaringBitmap;
use std::ops::Range;
use zerocopy::IntoBytes;

/// A block that is being encoded.
pub struct Encoding {
    writer: BlockWriter,
    kind: BlockKind,
    after: u64,
    /// Ordinals of the rows that it brings whole, expunged ones among them.
    rows: Range<usize>,
    changes: Changes,
    stage: Stage,
    /// Where the stage goes on: an ordinal, or for changes a UID.
    at: u64,
    /// Octets of the heap that rows were given.
    heap: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Front,
    /// A column or the heap of the rows.
    Rows(Tag),
    Log,
    Changed,
    Moved,
    Gone,
    End,
}

/// A mailbox as it was at one moment, to be encoded in steps while the mailbox goes on.
pub struct Frozen {
    pub(crate) index: MailboxIndex,
    pub(crate) changes: Changes,
    pub(crate) serial: u64,
    pub(crate) after: u64,
}

impl Frozen {
    /// Begins the block of a kind.
    pub fn begin(&self, whole: bool) -> Encoding {
        match whole {
            true => Encoding::base(&self.index),
            false => Encoding::delta(&self.index, self.changes.clone(), self.after),
        }
    }

    pub fn step(&self, encoding: &mut Encoding, rows_max: usize) -> bool {
        encoding.step(&self.index, rows_max)
    }

    pub fn finish(self, encoding: Encoding) -> Vec<u8> {
        encoding.finish(&self.index, self.serial)
    }
}

impl Encoding {
    pub(crate) fn base(index: &MailboxIndex) -> Encoding {
        let view = index.view();
        let octets = index.len() as usize * ROW_OCTETS + view.heap_octets() + room_beside_rows(index);
        Encoding::begin(BlockKind::Base, 0, 0..view.len(), Changes::default(), BlockWriter::new(9, octets))
    }

    pub(crate) fn delta(index: &MailboxIndex, changes: Changes, after: u64) -> Encoding {
        let new_from = changes.new_from.unwrap_or(u32::MAX);
        let rows = index.view().ordinals(0, &(new_from..=u32::MAX));
        let octets = usize::try_from(changes.octets()).unwrap_or(0) + room_beside_rows(index);
        Encoding::begin(BlockKind::Delta, after, rows, changes, BlockWriter::new(12, octets))
    }

    fn begin(
        kind: BlockKind,
        after: u64,
        rows: Range<usize>,
        changes: Changes,
        writer: BlockWriter,
    ) -> Encoding {
        Encoding { writer, kind, after, rows, changes, stage: Stage::Front, at: 0, heap: 0 }
    }

    /// Encodes some `rows_max` rows more of the index that it was begun with. True at the end.
    pub fn step(&mut self, index: &MailboxIndex, rows_max: usize) -> bool {
        let ended = match self.stage {
            Stage::Front => {
                let (keywords, side) = match self.kind {
                    BlockKind::Base => (true, true),
                    BlockKind::Delta => (self.changes.keywords, self.changes.side || self.changes.keywords),
                };
                index.write_front(&mut self.writer, keywords, side);
                true
            }
            Stage::Rows(tag) => self.rows(index, tag, rows_max),
            Stage::Log => {
                let last = match self.kind {
                    BlockKind::Base => u64::MAX,
                    BlockKind::Delta => {
                        self.changes.log_from.map_or(0, |from| index.log.end.saturating_sub(from))
                    }
                };
                index.write_log(&mut self.writer, last);
                true
            }
            Stage::Changed => self.old_rows(index, Tag::Changed, rows_max, |row, out| {
                let (flags, modseq) = (row.flags.into(), row.modseq.into());
                let changed = ChangedRow { uid: row.uid.into(), reserved: 0.into(), flags, modseq };
                out.extend_from_slice(changed.as_bytes());
            }),
            Stage::Moved => self.old_rows(index, Tag::Moved, rows_max, |row, out| {
                let moved = MovedRow { uid: row.uid.into(), reserved: 0.into(), place: *row.place() };
                out.extend_from_slice(moved.as_bytes());
            }),
            Stage::Gone => {
                self.gone();
                true
            }
            Stage::End => return true,
        };
        if ended {
            self.at = self.rows.start as u64;
            self.stage = self.stage.next(self.kind);
            if matches!(self.stage, Stage::Changed | Stage::Moved) {
                self.at = 0;
            }
        }
        self.stage == Stage::End
    }

    pub(crate) fn finish(self, index: &MailboxIndex, serial: u64) -> Vec<u8> {
        assert!(self.stage == Stage::End, "a block is finished at its end");
        self.writer.finish(self.kind, index.guid, serial, self.after)
    }

    /// A piece of a column, or of the heap, of the rows that are alive: cold rows with their present places, and a heap of
    /// their own. True at its end.
    fn rows(&mut self, index: &MailboxIndex, tag: Tag, rows_max: usize) -> bool {
        let view = index.view();
        let end = self.rows.end.min((self.at as usize).saturating_add(rows_max));
        let heap = &mut self.heap;
        let ordinals = (self.at as usize)..end;
        self.writer.piece(tag, |out| {
            let start = out.len();
            let mut count = 0;
            for ordinal in ordinals {
                let (word, modseq) = view.hot(ordinal);
                if word & EXPUNGED != 0 {
                    continue;
                }
                count += 1;
                match tag {
                    Tag::Uids => out.extend_from_slice(&view.uid(ordinal).to_le_bytes()),
                    Tag::Flags => out.extend_from_slice(&word.to_le_bytes()),
                    Tag::ModSeqs => out.extend_from_slice(&modseq.to_le_bytes()),
                    _ => {
                        let Some(row) = view.row(ordinal).map(|row| index.bind(row)) else { continue };
                        let run = row.heap_run();
                        if tag == Tag::Heap {
                            out.extend_from_slice(run);
                            continue;
                        }
                        let mut cold = *row.cold;
                        if run.len() as u64 != cold.heap_octets() {
                            // A heap that was damaged below us: the row keeps what it can, its forms read as empty.
                            cold.clear_heap();
                        }
                        cold.place = *row.place();
                        cold.heap = (*heap).into();
                        *heap += cold.heap_octets();
                        out.extend_from_slice(cold.as_bytes());
                    }
                }
            }
            if tag == Tag::Heap { (out.len() - start) as u64 } else { count }
        });
        self.at = end as u64;
        if end < self.rows.end {
            return false;
        }
        self.writer.end_section(tag);
        true
    }

    /// A piece of what changed of rows that stored blocks have. True at its end.
    fn old_rows(
        &mut self,
        index: &MailboxIndex,
        tag: Tag,
        rows_max: usize,
        put: impl Fn(Row<'_>, &mut Vec<u8>),
    ) -> bool {
        let changed = if tag == Tag::Changed { &self.changes.hot } else { &self.changes.moved };
        let new_from = self.changes.new_from.unwrap_or(u32::MAX);
        let from = u32::try_from(self.at).unwrap_or(u32::MAX);
        let uids: Vec<u32> = changed.range(from..new_from).take(rows_max).collect();
        self.writer.piece(tag, |out| {
            let rows = uids.iter().filter_map(|uid| index.get(Uid::new(*uid)?));
            rows.map(|row| put(row, out)).count() as u64
        });
        if uids.len() == rows_max
            && let Some(last) = uids.last()
        {
            self.at = u64::from(*last) + 1;
            return false;
        }
        self.writer.end_section(tag);
        true
    }

    fn gone(&mut self) {
        let gone = ranges(&self.changes.gone);
        self.writer.section(Tag::Gone, |out| {
            for range in gone.ranges() {
                let range = GoneRange { first: (*range.start()).into(), last: (*range.end()).into() };
                out.extend_from_slice(range.as_bytes());
            }
            gone.ranges().len() as u64
        });
    }
}

impl Stage {
    fn next(self, kind: BlockKind) -> Stage {
        match self {
            Stage::Front => Stage::Rows(Tag::Uids),
            Stage::Rows(Tag::Uids) => Stage::Rows(Tag::Flags),
            Stage::Rows(Tag::Flags) => Stage::Rows(Tag::ModSeqs),
            Stage::Rows(Tag::ModSeqs) => Stage::Rows(Tag::Cold),
            Stage::Rows(Tag::Cold) => Stage::Rows(Tag::Heap),
            Stage::Rows(_) => Stage::Log,
            Stage::Log if kind == BlockKind::Base => Stage::End,
            Stage::Log => Stage::Changed,
            Stage::Changed => Stage::Moved,
            Stage::Moved => Stage::Gone,
            Stage::Gone | Stage::End => Stage::End,
        }
    }
}

fn ranges(uids: &RoaringBitmap) -> UidSet {
    uids.iter().collect::<Runs>().into()
}

/// At least what a block takes beside its rows. All of its room is taken at once: a block that outgrows it by one octet is
/// copied whole, in one go.
pub(crate) fn room_beside_rows(index: &MailboxIndex) -> usize {
    // What keywords take in memory is more than they take in a block.
    FRONT_OCTETS as usize + 2 * index.keywords.memory_octets() + index.log.octets(index.rows.base.log())
}

/// Of a row without its heap: UID, word, MODSEQ, cold row.
pub(crate) const ROW_OCTETS: usize = 4 + 8 + 8 + size_of::<crate::format::ColdRow>();
