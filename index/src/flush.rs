//! Storing: what changed since the last stored block, bases and deltas written from it, and both read back.
//!
//! # Order
//! `encode_*` answers bytes and a token; once the block is stored for good, `mark_flushed(token)`. Changes made in
//! between stay unflushed. Without the mark the next block carries the same changes again: blocks may be applied one
//! after the other whether or not the one before was marked.
//!
//! # Crash
//! Nothing here is stored by itself: a token dies with the process, and the journal still has what was not marked.
//!
//! # Cost
//! A base copies every live row and its heap, a delta costs what changed; see [`Encoding`] for doing it in steps.

use crate::encode::{Encoding, Frozen, ROW_OCTETS, room_beside_rows};
use crate::format::{BlockWriter, ChangedRow, ColdRow, GoneRange, Head, Layout, LogEntry, MovedRow, Tag};
use crate::log::Log;
use crate::mailbox::{MailboxIndex, count_flags};
use crate::rows::{Base, Replaced, Rows, check_columns, flags_known};
use crate::{Block, BlockKind, FormatError};
use culver_model::{ModSeq, UidSet, UidValidity};
use roaring::RoaringBitmap;
use std::rc::Rc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Fewer rows of expunged messages are left until the overlay is folded for its size.
const DEAD_ROWS_MIN: usize = 256;

/// Up to here a block is copied to where it takes no more room than it needs: some 100 µs.
const SHRINK_OCTETS_MAX: usize = 1 << 20;

/// Names one encoded block: given back once it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "without the mark the next block carries the same changes again"]
pub struct FlushToken {
    serial: u64,
}

/// Names a fold that is under way.
#[derive(Clone, Copy, Debug)]
#[must_use = "what is folded is put in place with it"]
pub struct FoldToken {
    number: u64,
}

/// Changes by UID.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    head: bool,
    pub keywords: bool,
    pub side: bool,
    /// Messages from this UID on are new.
    pub new_from: Option<u32>,
    new_rows: u64,
    new_heap: u64,
    pub hot: RoaringBitmap,
    pub moved: RoaringBitmap,
    pub gone: RoaringBitmap,
    /// Position in the expunge log from which entries are new.
    pub log_from: Option<u64>,
}

impl Changes {
    fn any(&self) -> bool {
        self.head
            || self.keywords
            || self.side
            || self.new_from.is_some()
            || !self.hot.is_empty()
            || !self.moved.is_empty()
            || !self.gone.is_empty()
    }

    /// Roughly what a delta of them takes.
    pub fn octets(&self) -> u64 {
        let hot = self.hot.len() * size_of::<ChangedRow>() as u64;
        let moved = self.moved.len() * size_of::<MovedRow>() as u64;
        let gone = self.gone.serialized_size() as u64;
        self.new_rows * ROW_OCTETS as u64 + self.new_heap + hot + moved + gone
    }

    /// `later` on top of these.
    fn join(&mut self, later: Changes) {
        self.head |= later.head;
        self.keywords |= later.keywords;
        self.side |= later.side;
        self.new_from = self.new_from.or(later.new_from);
        self.new_rows += later.new_rows;
        self.new_heap += later.new_heap;
        self.hot |= later.hot;
        self.moved |= later.moved;
        self.gone |= later.gone;
        self.log_from = self.log_from.or(later.log_from);
    }
}

/// What is not yet stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flush {
    changes: Changes,
    /// Encoded and not yet marked.
    pending: Option<Box<(u64, Changes)>>,
    /// The fold that is under way, and what changed since it began.
    fold: Option<Box<(u64, Changes)>>,
    /// Folds that were begun.
    folds: u64,
    /// Of the last block encoded or read.
    pub serial: u64,
    /// Of the last block that is stored.
    pub flushed: u64,
}

impl Flush {
    /// Notes a change among those to be stored, and for a fold that is under way.
    fn note(&mut self, change: impl Fn(&mut Changes)) {
        change(&mut self.changes);
        if let Some((_, changes)) = self.fold.as_deref_mut() {
            change(changes);
        }
    }

    pub fn touch_head(&mut self) {
        self.note(|changes| changes.head = true);
    }

    pub fn touch_keywords(&mut self) {
        self.note(|changes| changes.keywords = true);
    }

    pub fn touch_side(&mut self) {
        self.note(|changes| changes.side = true);
    }

    pub fn touch_new(&mut self, uid: u32, heap_octets: u64) {
        self.note(|changes| {
            changes.new_from.get_or_insert(uid);
            changes.new_rows += 1;
            changes.new_heap += heap_octets;
        });
    }

    pub fn touch_hot(&mut self, uids: &UidSet) {
        self.note(|changes| {
            for range in uids.ranges() {
                changes.hot.insert_range(range);
            }
        });
    }

    pub fn touch_moved(&mut self, uid: u32) {
        self.note(|changes| {
            changes.moved.insert(uid);
        });
    }

    /// `log_end` is the log's end before the change.
    pub fn touch_gone(&mut self, uids: &UidSet, log_end: u64) {
        self.note(|changes| {
            changes.log_from.get_or_insert(log_end);
            for range in uids.ranges() {
                changes.gone.insert_range(range);
            }
        });
    }

    pub fn memory_octets(&self) -> usize {
        let of = |changes: &Changes| {
            [&changes.hot, &changes.moved, &changes.gone].iter().map(|uids| uids.serialized_size()).sum()
        };
        of(&self.changes)
            + self.pending.as_ref().map_or(0, |pending| of(&pending.1))
            + self.fold.as_ref().map_or(0, |fold| of(&fold.1))
    }

    /// All that is not stored.
    fn all(&self) -> Changes {
        let mut changes = self.pending.as_ref().map_or_else(Changes::default, |pending| pending.1.clone());
        changes.join(self.changes.clone());
        changes
    }

    /// All that is not stored moves behind a new serial.
    fn begin(&mut self) -> u64 {
        let mut changes = self.pending.take().map_or_else(Changes::default, |pending| pending.1);
        changes.join(std::mem::take(&mut self.changes));
        self.serial += 1;
        self.pending = Some(Box::new((self.serial, changes)));
        self.serial
    }
}

impl MailboxIndex {
    /// Opens a mailbox from its base and the deltas after it, in the order in which they were encoded. Cold rows and the
    /// heap of the base are not read.
    pub fn from_blocks(
        base: Block,
        deltas: impl IntoIterator<Item = Block>,
    ) -> Result<MailboxIndex, FormatError> {
        let mut index = MailboxIndex::from_base(base)?;
        for delta in deltas {
            index.apply_delta(&delta)?;
        }
        Ok(index)
    }

    fn from_base(bytes: Block) -> Result<MailboxIndex, FormatError> {
        let layout = Layout::parse(&bytes)?;
        let head = layout.head(&bytes)?;
        let mut keywords = crate::keyword::Keywords::default();
        keywords.read_table(layout.verified(&bytes, Tag::Keywords)?, layout.count(Tag::Keywords))?;
        keywords.read_side(layout.verified(&bytes, Tag::Side)?, layout.count(Tag::Side))?;
        let base = Base::open(bytes, &layout, &head, keywords.table().len())?;
        let validity = UidValidity::new(head.uid_validity.get()).ok_or(HEAD)?;
        if head.uid_next.get() == 0 || head.highest_modseq.get() > ModSeq::MAX.get() {
            return Err(HEAD);
        }
        let log = Log::opened(base.log(), head.expunge_floor.get(), head.log_end.get());
        let mut index =
            MailboxIndex::empty(layout.guid, validity, ModSeq(head.created.get()), Rows::new(base));
        index.live = Rc::new(index.view().live());
        if keywords.side().iter().any(|uids| !uids.is_subset(&index.live)) {
            return Err(FormatError::Content { what: "keyword of no message", at: 0 });
        }
        index.keywords = keywords;
        index.log = log;
        index.uid_next = head.uid_next.get();
        index.highest_modseq = head.highest_modseq.get();
        index.total_size = head.total_size.get();
        index.flag_counts = head.flag_counts.map(U32::get);
        index.flush.serial = layout.serial;
        index.flush.flushed = layout.serial;
        Ok(index)
    }

    /// Applies one delta and proves that the counts it gives have come out.
    fn apply_delta(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let layout = Layout::parse(bytes)?;
        if layout.kind != BlockKind::Delta || layout.guid != self.guid {
            return Err(FormatError::Foreign);
        }
        if layout.after > self.flush.serial || layout.serial <= self.flush.serial {
            return Err(FormatError::Chain { after: layout.after, held: self.flush.serial });
        }
        let head = layout.head(bytes)?;
        if head.uid_validity.get() != self.uid_validity.get() {
            return Err(FormatError::Foreign);
        }
        let highest = head.highest_modseq.get();
        if head.uid_next.get() < self.uid_next || highest < self.highest_modseq || highest > ModSeq::MAX.get()
        {
            return Err(HEAD);
        }
        if layout.has(Tag::Keywords) {
            let table = layout.verified(bytes, Tag::Keywords)?;
            self.keywords.read_table(table, layout.count(Tag::Keywords))?;
        }
        let gone: &[GoneRange] = layout.entries(bytes, Tag::Gone)?;
        let gone: UidSet = gone.iter().map(|range| range.first.get()..=range.last.get()).collect();
        let size = self.rows(&gone).fold(0u64, |sum, row| sum.saturating_add(row.size()));
        self.remove(&gone, size);
        self.apply_rows(bytes, &layout, &head)?;
        for (at, row) in layout.entries::<ChangedRow>(bytes, Tag::Changed)?.iter().enumerate() {
            let (uid, word) = (row.uid.get(), row.flags.get());
            if !self.live.contains(uid) || !flags_known(word, self.keywords().len()) {
                return Err(FormatError::Content { what: "changed row", at: at as u64 });
            }
            self.set_hot(uid, word, row.modseq.get());
        }
        for (at, row) in layout.entries::<MovedRow>(bytes, Tag::Moved)?.iter().enumerate() {
            if !self.live.contains(row.uid.get()) {
                return Err(FormatError::Content { what: "moved row", at: at as u64 });
            }
            self.rows.set_place(row.uid.get(), row.place);
        }
        if layout.has(Tag::Side) {
            self.keywords.read_side(layout.verified(bytes, Tag::Side)?, layout.count(Tag::Side))?;
            if self.keywords.side().iter().any(|uids| !uids.is_subset(&self.live)) {
                return Err(FormatError::Content { what: "keyword of no message", at: 0 });
            }
        }
        self.apply_log(layout.entries(bytes, Tag::Log)?, &head)?;
        self.uid_next = head.uid_next.get();
        self.highest_modseq = highest;
        let checks = [
            ("messages", u64::from(head.rows.get()), self.live.len()),
            ("total size", head.total_size.get(), self.total_size),
        ];
        let flags = head.flag_counts.iter().zip(self.flag_counts);
        let flags = flags.map(|(said, found)| ("flag", u64::from(said.get()), u64::from(found)));
        for (what, said, found) in checks.into_iter().chain(flags) {
            if said != found {
                return Err(FormatError::Count { what, said, found });
            }
        }
        self.flush = Flush { serial: layout.serial, flushed: layout.serial, ..Flush::default() };
        Ok(())
    }

    /// A block repeated after an unmarked one brings rows that are already here: the later word counts.
    fn apply_rows(&mut self, bytes: &[u8], layout: &Layout, head: &Head) -> Result<(), FormatError> {
        check_columns(bytes, layout, head.uid_next.get(), self.keywords().len())?;
        let uids: &[U32] = layout.entries(bytes, Tag::Uids)?;
        let flags: &[U64] = layout.entries(bytes, Tag::Flags)?;
        let modseqs: &[U64] = layout.entries(bytes, Tag::ModSeqs)?;
        let cold: &[ColdRow] = layout.entries(bytes, Tag::Cold)?;
        let heap = layout.verified(bytes, Tag::Heap)?;
        for (at, cold) in cold.iter().enumerate() {
            let (uid, word, modseq) = (uids[at].get(), flags[at].get(), modseqs[at].get());
            if self.live.contains(uid) {
                self.set_hot(uid, word, modseq);
                self.rows.set_place(uid, cold.place);
                continue;
            }
            let start = cold.heap.get() as usize;
            let run = start.checked_add(cold.heap_octets() as usize).and_then(|end| heap.get(start..end));
            let Some(run) = run.filter(|_| uid >= self.uid_next) else {
                return Err(FormatError::Content { what: "new row", at: at as u64 });
            };
            let mut cold = *cold;
            cold.heap = self.rows.tail.heap_octets().into();
            self.rows.tail.push(uid, word, modseq, cold, &[run]);
            Rc::make_mut(&mut self.live).insert(uid);
            count_flags(&mut self.flag_counts, 0, word);
            self.total_size = self.total_size.saturating_add(cold.size.get());
            self.uid_next = uid.saturating_add(1);
        }
        Ok(())
    }

    fn apply_log(&mut self, entries: &[LogEntry], head: &Head) -> Result<(), FormatError> {
        let end = head.log_end.get();
        let first = end.checked_sub(entries.len() as u64).ok_or(HEAD)?;
        let base = self.rows.base.log();
        let mut last = self.log.iter(base).next_back().map_or(0, |entry| entry.modseq.get());
        for (at, entry) in entries.iter().enumerate() {
            if first + (at as u64) < self.log.end {
                continue;
            }
            if entry.modseq.get() < last {
                return Err(FormatError::Content {
                    what: "MODSEQ of the expunge log descends",
                    at: at as u64,
                });
            }
            last = entry.modseq.get();
            self.log.push_entry(*entry);
        }
        self.log.end = end;
        self.log.raise_floor(base, head.expunge_floor.get());
        Ok(())
    }

    /// The whole mailbox as one block.
    pub fn encode_base(&mut self) -> (Vec<u8>, FlushToken) {
        let encoding = whole(Encoding::base(self), self);
        self.encoded(encoding)
    }

    /// All that changed since the last block that was marked flushed.
    pub fn encode_delta(&mut self) -> (Vec<u8>, FlushToken) {
        let encoding = whole(self.begin_delta(), self);
        self.encoded(encoding)
    }

    /// Begins [`Self::encode_base`] in steps.
    pub fn begin_base(&self) -> Encoding {
        Encoding::base(self)
    }

    /// Begins [`Self::encode_delta`] in steps.
    pub fn begin_delta(&self) -> Encoding {
        Encoding::delta(self, self.flush.all(), self.flush.flushed)
    }

    /// The block of an encoding that has come to its end. What changed up to here is in it, so nothing may have changed
    /// since it was begun.
    pub fn encoded(&mut self, encoding: Encoding) -> (Vec<u8>, FlushToken) {
        let serial = self.flush.begin();
        (encoding.finish(self, serial), FlushToken { serial })
    }

    /// Two of the index as it is now: one that stays so, to be encoded in steps, and the token of what is encoded. From
    /// here on changes count as later ones. Costs a copy of the overlay.
    pub fn freeze(&mut self) -> (Frozen, FlushToken) {
        let after = self.flush.flushed;
        let changes = self.flush.all();
        let serial = self.flush.begin();
        (Frozen { index: self.without_bitmaps(), changes, serial, after }, FlushToken { serial })
    }

    /// Begins to fold the overlay into a new base in memory, while the mailbox goes on: a copy that stays as it is now, to be
    /// encoded whole in steps. One that was begun before comes to nothing: see [`Self::folding`].
    pub fn begin_fold(&mut self) -> (Frozen, FoldToken) {
        self.flush.folds += 1;
        let number = self.flush.folds;
        self.flush.fold = Some(Box::new((number, Changes::default())));
        let frozen = Frozen {
            index: self.without_bitmaps(),
            changes: Changes::default(),
            serial: self.flush.serial,
            after: 0,
        };
        (frozen, FoldToken { number })
    }

    /// Whether a fold was begun and has not ended.
    pub fn folding(&self) -> bool {
        self.flush.fold.is_some()
    }

    /// Puts what was encoded of the copy in the place of base and overlay; changes made since then are carried over. What is
    /// unflushed stays so, answers and flag bitmaps stay as they are. `None`, and nothing done, where another fold was begun.
    ///
    /// # Cost
    /// A pass over the hot values, and what the changes cost.
    pub fn end_fold(&mut self, token: FoldToken, frozen: Frozen, encoding: Encoding) -> Option<Replaced> {
        let (_, changes) = *self.flush.fold.take_if(|fold| fold.0 == token.number)?;
        let serial = frozen.serial;
        let mut bytes = frozen.finish(encoding);
        // Room was taken for the heap of all rows. Of a large block the rest was never touched.
        if bytes.len() <= SHRINK_OCTETS_MAX && bytes.capacity() > bytes.len() + bytes.len() / 4 {
            bytes.shrink_to_fit();
        }
        let bytes = Block::from(bytes);
        // These bytes were written by this very program: they open, or it is wrong.
        let mut opened = MailboxIndex::from_base(bytes).expect("a base just written opens");
        opened.limits = self.limits;
        if changes.any() {
            let delta = self.delta_block(&changes, serial + 1, serial);
            opened.apply_delta(&delta).expect("a delta just written fits its base");
        }
        self.log = opened.log;
        Some(Replaced::new(std::mem::replace(&mut self.rows, opened.rows)))
    }

    /// The fold of this token comes to nothing, if it has not ended: another one may begin.
    pub fn give_up_fold(&mut self, token: FoldToken) {
        self.flush.fold.take_if(|fold| fold.0 == token.number);
    }

    /// The block of this token is stored. `false`, and nothing done, where a later block was encoded since: that one
    /// carries its changes too, and waits for its own mark.
    pub fn mark_flushed(&mut self, token: FlushToken) -> bool {
        let current = self.flush.pending.as_ref().is_some_and(|pending| pending.0 == token.serial);
        if current {
            self.flush.pending = None;
            self.flush.flushed = token.serial;
        }
        current
    }

    /// Whether anything is not known to be stored.
    pub fn dirty(&self) -> bool {
        self.flush.changes.any() || self.flush.pending.as_ref().is_some_and(|pending| pending.1.any())
    }

    /// Roughly what [`Self::encode_delta`] would write, in octets.
    pub fn delta_octets(&self) -> u64 {
        FRONT_OCTETS
            + self.flush.changes.octets()
            + self.flush.pending.as_ref().map_or(0, |pending| pending.1.octets())
    }

    /// Roughly what [`Self::encode_base`] would write, in octets: what is expunged is taken for as long as the rest.
    pub fn whole_octets(&self) -> u64 {
        let view = self.view();
        let (live, all) = (self.live.len(), view.len().max(1) as u64);
        room_beside_rows(self) as u64 + live * ROW_OCTETS as u64 + view.heap_octets() as u64 * live / all
    }

    /// Octets of the base as it stands; 0 where there is none.
    pub fn base_octets(&self) -> u64 {
        self.rows.base.bytes.len() as u64
    }

    /// Puts a stored base in the place of base and overlay: frees the overlay once the base of `token` is mapped. Changes
    /// made since it was encoded are carried over; answers and flag bitmaps stay as they are. Marks it flushed.
    /// `Ok(false)`, and nothing done, where the token is not the last.
    pub fn adopt(&mut self, token: FlushToken, base: Block) -> Result<bool, FormatError> {
        if self.flush.pending.as_ref().is_none_or(|pending| pending.0 != token.serial) {
            return Ok(false);
        }
        let mut opened = MailboxIndex::from_base(base)?.with_limits(self.limits);
        if opened.guid != self.guid || opened.flush.serial != token.serial {
            return Err(FormatError::Foreign);
        }
        if self.flush.changes.any() {
            let delta = self.delta_block(&self.flush.changes, token.serial + 1, token.serial);
            opened.apply_delta(&delta)?;
        }
        self.rows = opened.rows;
        self.log = opened.log;
        self.flush.pending = None;
        self.flush.flushed = token.serial;
        Ok(true)
    }

    /// Whether the overlay has outgrown `Limits::overlay_rows_max`, or most rows are those of expunged messages: a fold then costs
    /// less than what was expunged since the last one.
    pub fn over_bounds(&self) -> bool {
        let dead = self.rows.dead_rows();
        self.rows.overlay_rows() > self.limits.overlay_rows_max as usize
            || dead >= DEAD_ROWS_MIN && dead > self.len() as usize
    }

    fn head(&self) -> Head {
        Head {
            uid_validity: self.uid_validity.get().into(),
            uid_next: self.uid_next.into(),
            created: self.created.get().into(),
            highest_modseq: self.highest_modseq.into(),
            expunge_floor: self.log.floor.into(),
            total_size: self.total_size.into(),
            rows: self.len().into(),
            reserved: 0.into(),
            flag_counts: self.flag_counts.map(U32::new),
            log_end: self.log.end.into(),
            reserved_tail: [0.into(); 5],
        }
    }

    fn delta_block(&self, changes: &Changes, serial: u64, after: u64) -> Vec<u8> {
        whole(Encoding::delta(self, changes.clone(), after), self).finish(self, serial)
    }

    pub(crate) fn write_front(&self, writer: &mut BlockWriter, keywords: bool, side: bool) {
        writer.section(Tag::Head, |out| {
            out.extend_from_slice(self.head().as_bytes());
            1
        });
        if keywords {
            writer.section(Tag::Keywords, |out| self.keywords.write_table(out));
        }
        if side {
            writer.section(Tag::Side, |out| self.keywords.write_side(out));
        }
    }

    pub(crate) fn write_log(&self, writer: &mut BlockWriter, last: u64) {
        writer.section(Tag::Log, |out| {
            let mut count = 0;
            for entry in self.log.last(self.rows.base.log(), last) {
                out.extend_from_slice(entry.as_bytes());
                count += 1;
            }
            count
        });
    }
}

fn whole(mut encoding: Encoding, index: &MailboxIndex) -> Encoding {
    while !encoding.step(index, usize::MAX) {}
    encoding
}

const HEAD: FormatError = FormatError::Content { what: "head", at: 0 };
/// Of a block without rows, roughly.
pub(crate) const FRONT_OCTETS: u64 = 64 + 12 * 32 + size_of::<Head>() as u64;
