//! Check: every invariant of a stored block proven.
//!
//! # Cost
//! Reads every octet; a base is copied once. For tools and tests, not for opening a mailbox.

use crate::format::{ChangedRow, ColdRow, GoneRange, Layout, LogEntry, MovedRow, Tag};
use crate::keyword::Keywords;
use crate::mailbox::count_flags;
use crate::rows::{check_columns, flags_known};
use crate::{Block, BlockKind, FormatError, MailboxIndex};
use culver_model::{Guid, ModSeq};
use zerocopy::little_endian::{U32, U64};

/// What a block that passed [`check`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub kind: BlockKind,
    pub guid: Guid,
    pub serial: u64,
    /// The serial that a delta stands on; 0 in a base.
    pub after: u64,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub highest_modseq: ModSeq,
    pub expunge_floor: ModSeq,
    /// Messages in the mailbox after this block.
    pub messages: u32,
    /// Rows in this block.
    pub rows: u64,
    pub changed: u64,
    pub moved: u64,
    pub gone: u64,
    pub log_entries: u64,
    pub keywords: u64,
    pub heap_octets: u64,
}

/// Proves one block, base or delta, as far as it can be proven alone.
pub fn check(bytes: &[u8]) -> Result<Summary, FormatError> {
    let layout = Layout::parse(bytes)?;
    for tag in Tag::ALL {
        layout.verified(bytes, tag)?;
    }
    let head = layout.head(bytes)?;
    let highest = head.highest_modseq.get();
    let floor = head.expunge_floor.get();
    let limit = |ok: bool, what, at: usize| {
        if ok { Ok(()) } else { Err(FormatError::Content { what, at: at as u64 }) }
    };
    limit(highest <= ModSeq::MAX.get() && floor <= highest && head.created.get() <= highest, "head", 0)?;
    limit(head.uid_validity.get() != 0 && head.uid_next.get() != 0, "head", 1)?;

    let keywords = if layout.has(Tag::Keywords) {
        let mut keywords = Keywords::default();
        keywords.read_table(layout.verified(bytes, Tag::Keywords)?, layout.count(Tag::Keywords))?;
        keywords.read_side(layout.verified(bytes, Tag::Side)?, layout.count(Tag::Side))?;
        let table = keywords.table();
        let twice = (1..table.len()).find(|id| table[..*id].contains(&table[*id]));
        limit(twice.is_none(), "keyword twice", twice.unwrap_or(0))?;
        Some(table.len())
    } else {
        None
    };
    // A delta without a table stands on an earlier one, so its keywords are not known here.
    let known = keywords.unwrap_or(usize::MAX);
    let rows = check_columns(bytes, &layout, head.uid_next.get(), known)?;

    let flags: &[U64] = layout.entries(bytes, Tag::Flags)?;
    let modseqs: &[U64] = layout.entries(bytes, Tag::ModSeqs)?;
    let mut counts = [0; 8];
    flags.iter().for_each(|word| count_flags(&mut counts, 0, word.get()));
    let beyond = modseqs.iter().position(|modseq| modseq.get() > highest);
    limit(beyond.is_none(), "MODSEQ above the highest", beyond.unwrap_or(0))?;

    let cold: &[ColdRow] = layout.entries(bytes, Tag::Cold)?;
    let (mut heap, mut size) = (0u64, 0u64);
    for (at, row) in cold.iter().enumerate() {
        limit(row.heap.get() == heap, "heap run out of place", at)?;
        heap += row.heap_octets();
        size = size.saturating_add(row.size.get());
    }
    if heap != layout.count(Tag::Heap) || heap != layout.range(Tag::Heap).len() as u64 {
        return Err(FormatError::Count { what: "heap", said: layout.count(Tag::Heap), found: heap });
    }

    let log: &[LogEntry] = layout.entries(bytes, Tag::Log)?;
    let mut last = floor;
    for (at, entry) in log.iter().enumerate() {
        let (first, end, modseq) = (entry.first.get(), entry.last.get(), entry.modseq.get());
        let in_order = if at == 0 { modseq > last } else { modseq >= last };
        limit(in_order && modseq <= highest, "MODSEQ of the expunge log", at)?;
        limit(first != 0 && first <= end && end < head.uid_next.get(), "range of the expunge log", at)?;
        last = modseq;
    }
    limit(log.len() as u64 <= head.log_end.get(), "end of the expunge log", log.len())?;

    let changed: &[ChangedRow] = layout.entries(bytes, Tag::Changed)?;
    for (at, row) in changed.iter().enumerate() {
        let sound = row.modseq.get() <= highest && flags_known(row.flags.get(), known);
        limit(sound && row.uid.get() < head.uid_next.get(), "changed row", at)?;
    }
    let moved: &[MovedRow] = layout.entries(bytes, Tag::Moved)?;
    let gone: &[GoneRange] = layout.entries(bytes, Tag::Gone)?;
    ascending("changed row", changed.iter().map(|row| (row.uid, row.uid)))?;
    ascending("moved row", moved.iter().map(|row| (row.uid, row.uid)))?;
    ascending("gone range", gone.iter().map(|range| (range.first, range.last)))?;

    if layout.kind == BlockKind::Base {
        let claims =
            counts.iter().zip(head.flag_counts).map(|(found, said)| ("flag", said.get().into(), *found));
        let sizes =
            [("total size", head.total_size.get(), size), ("rows", head.rows.get().into(), rows as u64)];
        for (what, said, found) in
            claims.map(|(what, said, found)| (what, said, u64::from(found))).chain(sizes)
        {
            if said != found {
                return Err(FormatError::Count { what, said, found });
            }
        }
        limit(
            layout.after == 0 && changed.len() + moved.len() + gone.len() == 0,
            "delta section in a base",
            0,
        )?;
        MailboxIndex::from_blocks(Block::from(bytes.to_vec()), [])?;
    }
    Ok(Summary {
        kind: layout.kind,
        guid: layout.guid,
        serial: layout.serial,
        after: layout.after,
        uid_validity: head.uid_validity.get(),
        uid_next: head.uid_next.get(),
        highest_modseq: ModSeq(highest),
        expunge_floor: ModSeq(floor),
        messages: head.rows.get(),
        rows: rows as u64,
        changed: changed.len() as u64,
        moved: moved.len() as u64,
        gone: gone.iter().map(|range| u64::from(range.last.get() - range.first.get()) + 1).sum(),
        log_entries: log.len() as u64,
        keywords: layout.count(Tag::Keywords),
        heap_octets: heap,
    })
}

/// Ranges that ascend, do not touch 0 and do not overlap.
fn ascending(what: &'static str, ranges: impl Iterator<Item = (U32, U32)>) -> Result<(), FormatError> {
    let mut below = 0;
    for (at, (first, last)) in ranges.enumerate() {
        if first.get() <= below || last < first {
            return Err(FormatError::Content { what, at: at as u64 });
        }
        below = last.get();
    }
    Ok(())
}
