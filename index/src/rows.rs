//! The rows: a base read in place, pages of hot values copied from it on the first change, and a tail of new rows.
//!
//! A row's *ordinal* counts the base's rows and then the tail's. UIDs ascend with it.
//!
//! # Invariants
//! - A row of an expunged message keeps its ordinal; its word has the bit [`EXPUNGED`], which is never stored.
//! - Places that changed since the base stand in `moved`, by UID.
//!
//! # Limits
//! Pages cover [`PAGE_ROWS`] rows; a base of n rows has at most n / 32 of them, 512 octets each.

use crate::format::{ColdRow, Head, Layout, LogEntry, Tag, entries, entries_octets};
use crate::keyword::SYSTEM;
use crate::{Block, BlockKind, FormatError, IndexError, NewMessage};
use culver_model::UidSet;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use zerocopy::little_endian::{U32, U64};

pub const PAGE_ROWS: usize = 32;
/// The row bit that says that the bytes at the row's place may serve other rows too. No flag: no MODSEQ goes with it.
pub const SHARED: u64 = 1 << 6;
/// In memory only: the message is expunged.
pub const EXPUNGED: u64 = 1 << 7;

/// A base block, its eager sections proven.
#[derive(Clone, Debug)]
pub struct Base {
    pub bytes: Block,
    uids: Range<usize>,
    flags: Range<usize>,
    modseqs: Range<usize>,
    cold: Range<usize>,
    heap: Range<usize>,
    log: Range<usize>,
    /// No row of the base has a higher MODSEQ.
    pub highest_modseq: u64,
}

impl Base {
    /// The base of a new mailbox: no bytes, no rows.
    pub fn empty() -> Base {
        Base {
            bytes: Block::from(Vec::new()),
            uids: 0..0,
            flags: 0..0,
            modseqs: 0..0,
            cold: 0..0,
            heap: 0..0,
            log: 0..0,
            highest_modseq: 0,
        }
    }

    /// Proves what every reader relies on: UIDs, flags, MODSEQs and the log. Cold rows and the heap are left alone.
    pub fn open(bytes: Block, layout: &Layout, head: &Head, keywords: usize) -> Result<Base, FormatError> {
        if layout.kind != BlockKind::Base {
            return Err(FormatError::Foreign);
        }
        let rows = check_columns(&bytes, layout, head.uid_next.get(), keywords)?;
        if rows as u64 != u64::from(head.rows.get()) {
            return Err(FormatError::Count {
                what: "rows",
                said: head.rows.get().into(),
                found: rows as u64,
            });
        }
        let log: &[LogEntry] = layout.entries(&bytes, Tag::Log)?;
        if let Some(at) = log.windows(2).position(|pair| pair[0].modseq.get() > pair[1].modseq.get()) {
            return Err(FormatError::Content { what: "MODSEQ of the expunge log descends", at: at as u64 });
        }
        Ok(Base {
            uids: layout.range(Tag::Uids),
            flags: layout.range(Tag::Flags),
            modseqs: layout.range(Tag::ModSeqs),
            cold: layout.range(Tag::Cold),
            heap: layout.range(Tag::Heap),
            log: layout.range(Tag::Log),
            highest_modseq: head.highest_modseq.get(),
            bytes,
        })
    }

    pub fn columns(&self) -> Columns<'_> {
        let bytes: &[u8] = &self.bytes;
        Columns {
            uids: entries(bytes, &self.uids),
            flags: entries(bytes, &self.flags),
            modseqs: entries(bytes, &self.modseqs),
            cold: entries(bytes, &self.cold),
            heap: bytes.get(self.heap.clone()).unwrap_or_default(),
        }
    }

    pub fn log(&self) -> &[LogEntry] {
        entries(&self.bytes, &self.log)
    }
}

/// Proves the row columns of a block (all but cold rows' content) and answers how many rows they have.
pub fn check_columns(
    bytes: &[u8],
    layout: &Layout,
    uid_next: u32,
    keywords: usize,
) -> Result<usize, FormatError> {
    let uids: &[U32] = layout.entries(bytes, Tag::Uids)?;
    let flags: &[U64] = layout.entries(bytes, Tag::Flags)?;
    let modseqs: &[U64] = layout.entries(bytes, Tag::ModSeqs)?;
    let cold: &[ColdRow] = entries(bytes, &layout.range(Tag::Cold));
    for (tag, held) in [
        (Tag::Flags, flags.len()),
        (Tag::ModSeqs, modseqs.len()),
        (Tag::Cold, cold.len().max(layout.range(Tag::Cold).len() / size_of::<ColdRow>())),
    ] {
        if held != uids.len() {
            let (said, found) = (uids.len() as u64, held as u64);
            return Err(FormatError::Count { what: tag.name(), said, found });
        }
    }
    let mut below = 0;
    for (at, uid) in uids.iter().enumerate() {
        if uid.get() <= below || uid.get() >= uid_next {
            return Err(FormatError::Content { what: "UID out of order", at: at as u64 });
        }
        below = uid.get();
    }
    if let Some(at) = flags.iter().position(|word| !flags_known(word.get(), keywords)) {
        return Err(FormatError::Content { what: "unknown flag", at: at as u64 });
    }
    Ok(uids.len())
}

/// Whether a stored word names only system flags and keywords of a table of `keywords`.
pub fn flags_known(word: u64, keywords: usize) -> bool {
    let known = 1u64.checked_shl(8 + keywords.min(64) as u32).map_or(u64::MAX, |bit| bit - 1);
    word & 0xff & !(SYSTEM | SHARED) == 0 && word & !known == 0
}

/// Row columns of a base as slices.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    pub uids: &'a [U32],
    pub flags: &'a [U64],
    pub modseqs: &'a [U64],
    pub cold: &'a [ColdRow],
    pub heap: &'a [u8],
}

/// Hot values of [`PAGE_ROWS`] rows of the base, copied on the first change to one of them.
#[derive(Clone, Debug)]
pub struct Page {
    flags: [u64; PAGE_ROWS],
    modseqs: [u64; PAGE_ROWS],
}

/// Rows that the base does not have. What is large of them stands in pieces: a busy mailbox has megabytes of it, and a vector
/// that doubles copies all it holds in one go. Copies share pieces until one of them changes.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    uids: Vec<U32>,
    flags: Vec<U64>,
    modseqs: Vec<U64>,
    cold: ColdPieces,
    heap: HeapPieces,
    expunged: usize,
}

/// Cold rows of a piece.
const COLD_PIECE: usize = 256;
/// Octets of a piece of the heap, or one run that is longer.
const HEAP_PIECE: usize = 256 << 10;

/// Cold rows, [`COLD_PIECE`] to a piece.
#[derive(Clone, Debug, Default)]
pub struct ColdPieces(Vec<Rc<Vec<ColdRow>>>);

impl ColdPieces {
    fn push(&mut self, row: ColdRow) {
        match self.0.last_mut() {
            Some(last) if last.len() < COLD_PIECE => Rc::make_mut(last).push(row),
            // Most tails are short: the first piece grows as it is filled.
            None => self.0.push(Rc::new(vec![row])),
            Some(_) => {
                let mut piece = Vec::with_capacity(COLD_PIECE);
                piece.push(row);
                self.0.push(Rc::new(piece));
            }
        }
    }

    fn get(&self, place: usize) -> Option<&ColdRow> {
        self.0.get(place / COLD_PIECE)?.get(place % COLD_PIECE)
    }

    fn get_mut(&mut self, place: usize) -> Option<&mut ColdRow> {
        Rc::make_mut(self.0.get_mut(place / COLD_PIECE)?).get_mut(place % COLD_PIECE)
    }

    fn memory_octets(&self) -> usize {
        entries_octets(&self.0) + self.0.iter().map(|piece| entries_octets(piece)).sum::<usize>()
    }
}

/// Runs of prepared forms, one behind the other; each lies in one piece.
#[derive(Clone, Debug, Default)]
pub struct HeapPieces {
    pieces: Vec<Rc<HeapPiece>>,
    octets: u64,
}

#[derive(Clone, Debug)]
pub struct HeapPiece {
    /// Octets of the heap before it.
    start: u64,
    octets: Vec<u8>,
}

impl HeapPieces {
    fn push(&mut self, fields: &[&[u8]]) {
        let run: usize = fields.iter().map(|field| field.len()).sum();
        let room = |last: &mut HeapPiece| last.octets.len() + run <= HEAP_PIECE;
        // A piece that a copy has too is not written any more.
        let fits = self.pieces.last_mut().and_then(Rc::get_mut).is_some_and(room);
        if !fits {
            let capacity = if self.pieces.is_empty() { run } else { run.max(HEAP_PIECE) };
            let piece = HeapPiece { start: self.octets, octets: Vec::with_capacity(capacity) };
            self.pieces.push(Rc::new(piece));
        }
        if let Some(last) = self.pieces.last_mut().and_then(Rc::get_mut) {
            fields.iter().for_each(|field| last.octets.extend_from_slice(field));
        }
        self.octets += run as u64;
    }

    fn run(&self, start: u64, octets: u64) -> Option<&[u8]> {
        let after = self.pieces.partition_point(|piece| piece.start <= start);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let at = (start - piece.start) as usize;
        piece.octets.get(at..at.checked_add(usize::try_from(octets).ok()?)?)
    }

    fn memory_octets(&self) -> usize {
        let held = self.pieces.iter().map(|piece| piece.octets.capacity()).sum::<usize>();
        entries_octets(&self.pieces) + held
    }
}

/// Where a row's run of prepared forms stands.
#[derive(Clone, Copy)]
pub enum Heap<'a> {
    Base(&'a [u8]),
    Tail(&'a HeapPieces),
}

impl<'a> Heap<'a> {
    /// `None` where a damaged row names what is not there.
    pub fn run(self, start: u64, octets: u64) -> Option<&'a [u8]> {
        match self {
            Heap::Base(heap) => {
                heap.get(usize::try_from(start).ok()?..usize::try_from(start.checked_add(octets)?).ok()?)
            }
            Heap::Tail(pieces) => pieces.run(start, octets),
        }
    }
}

impl Tail {
    pub fn heap_octets(&self) -> u64 {
        self.heap.octets
    }

    pub fn push(&mut self, uid: u32, flags: u64, modseq: u64, cold: ColdRow, heap: &[&[u8]]) {
        self.uids.push(uid.into());
        self.flags.push(flags.into());
        self.modseqs.push(modseq.into());
        self.cold.push(cold);
        self.heap.push(heap);
    }
}

/// What a fold has replaced, to be given back a little at a time: megabytes in one go take milliseconds.
#[derive(Debug)]
#[must_use = "it is released in steps"]
pub struct Replaced(Rows);

impl Replaced {
    pub fn new(rows: Rows) -> Replaced {
        Replaced(rows)
    }

    /// Gives back up to `pieces_max` pieces. True at the end.
    pub fn release(&mut self, pieces_max: usize) -> bool {
        let tail = &mut self.0.tail;
        for _ in 0..pieces_max {
            if tail.cold.0.pop().is_none() && tail.heap.pieces.pop().is_none() && self.0.pages.pop().is_none()
            {
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Debug)]
pub struct Rows {
    pub base: Base,
    pages: Vec<Option<Rc<Page>>>,
    pub tail: Tail,
    pub moved: BTreeMap<u32, [u8; 32]>,
    /// Rows of the base that are expunged.
    hidden: usize,
}

impl Rows {
    pub fn new(base: Base) -> Rows {
        Rows { base, pages: Vec::new(), tail: Tail::default(), moved: BTreeMap::new(), hidden: 0 }
    }

    pub fn view(&self) -> View<'_> {
        View { base: self.base.columns(), pages: &self.pages, tail: &self.tail }
    }

    pub fn append(
        &mut self,
        uid: u32,
        flags: u64,
        modseq: u64,
        message: &NewMessage<'_>,
    ) -> Result<(), IndexError> {
        let cold = message.cold(self.tail.heap_octets())?;
        self.tail.push(uid, flags, modseq, cold, &message.heap());
        Ok(())
    }

    /// Rows whose cold part differs from the base, dead ones included.
    pub fn overlay_rows(&self) -> usize {
        self.tail.uids.len() + self.moved.len() + self.hidden
    }

    /// Rows of expunged messages, which hold memory until a fold.
    pub fn dead_rows(&self) -> usize {
        self.tail.expunged + self.hidden
    }

    /// Offers each live row of the set, and writes the word and MODSEQ that `change` answers.
    pub fn update(&mut self, set: &UidSet, mut change: impl FnMut(u32, u64, u64) -> Option<(u64, u64)>) {
        let base = self.base.columns();
        let mut from = 0;
        for range in set.ranges() {
            let ordinals = between(base.uids, from, &range);
            from = ordinals.end;
            for ordinal in ordinals {
                let page = self.pages.get(ordinal / PAGE_ROWS).and_then(Option::as_deref);
                let (flags, modseq) = base_hot(&base, page, ordinal);
                if flags & EXPUNGED != 0 {
                    continue;
                }
                let Some((flags, modseq)) = change(base.uids[ordinal].get(), flags, modseq) else {
                    continue;
                };
                if self.pages.is_empty() {
                    self.pages.resize_with(base.uids.len().div_ceil(PAGE_ROWS), || None);
                }
                let page = self.pages[ordinal / PAGE_ROWS].get_or_insert_with(|| copy_page(&base, ordinal));
                let page = Rc::make_mut(page);
                page.flags[ordinal % PAGE_ROWS] = flags;
                page.modseqs[ordinal % PAGE_ROWS] = modseq;
                self.hidden += usize::from(flags & EXPUNGED != 0);
            }
        }
        let tail = &mut self.tail;
        let mut from = 0;
        for range in set.ranges() {
            let ordinals = between(&tail.uids, from, &range);
            from = ordinals.end;
            for ordinal in ordinals {
                let flags = tail.flags[ordinal].get();
                if flags & EXPUNGED != 0 {
                    continue;
                }
                let modseq = tail.modseqs[ordinal].get();
                let Some((flags, modseq)) = change(tail.uids[ordinal].get(), flags, modseq) else {
                    continue;
                };
                tail.flags[ordinal] = flags.into();
                tail.modseqs[ordinal] = modseq.into();
                tail.expunged += usize::from(flags & EXPUNGED != 0);
            }
        }
        // A mailbox that is emptied by every POP3 session never needs a fold.
        if tail.expunged > 0 && tail.expunged == tail.uids.len() {
            *tail = Tail::default();
        }
    }

    /// Sets a place without regard to the old one: in the tail directly, else beside the base.
    pub fn set_place(&mut self, uid: u32, place: [u8; 32]) {
        match find(&self.tail.uids, uid) {
            Some(ordinal) => {
                if let Some(cold) = self.tail.cold.get_mut(ordinal) {
                    cold.place = place;
                }
            }
            None => {
                self.moved.insert(uid, place);
            }
        }
    }

    pub fn memory_octets(&self) -> usize {
        let pages = self.pages.iter().flatten().count() * size_of::<Page>() + entries_octets(&self.pages);
        let tail = &self.tail;
        self.base.bytes.owned_octets()
            + pages
            + entries_octets(&tail.uids)
            + entries_octets(&tail.flags)
            + entries_octets(&tail.modseqs)
            + tail.cold.memory_octets()
            + tail.heap.memory_octets()
            // A B-tree's nodes are on average some two thirds full.
            + self.moved.len() * (4 + 32) * 3 / 2
    }
}

/// A row as [`View`] gives it, before it is bound to its index.
#[derive(Clone, Copy)]
pub struct RawRow<'a> {
    pub uid: u32,
    pub flags: u64,
    pub modseq: u64,
    pub cold: &'a ColdRow,
    pub heap: Heap<'a>,
}

/// All rows, read in place.
#[derive(Clone, Copy)]
pub struct View<'a> {
    base: Columns<'a>,
    pages: &'a [Option<Rc<Page>>],
    tail: &'a Tail,
}

impl<'a> View<'a> {
    pub fn base_len(&self) -> usize {
        self.base.uids.len()
    }

    pub fn len(&self) -> usize {
        self.base.uids.len() + self.tail.uids.len()
    }

    /// Octets of both heaps, dead runs included.
    pub fn heap_octets(&self) -> usize {
        self.base.heap.len() + self.tail.heap_octets() as usize
    }

    /// Word and MODSEQ, expunged or not.
    #[inline]
    pub fn hot(&self, ordinal: usize) -> (u64, u64) {
        match ordinal.checked_sub(self.base.uids.len()) {
            None => {
                let page = self.pages.get(ordinal / PAGE_ROWS).and_then(Option::as_deref);
                base_hot(&self.base, page, ordinal)
            }
            Some(place) => (self.tail.flags[place].get(), self.tail.modseqs[place].get()),
        }
    }

    #[inline]
    pub fn uid(&self, ordinal: usize) -> u32 {
        match ordinal.checked_sub(self.base.uids.len()) {
            None => self.base.uids[ordinal].get(),
            Some(place) => self.tail.uids[place].get(),
        }
    }

    /// `None` where the message is expunged.
    #[inline]
    pub fn row(&self, ordinal: usize) -> Option<RawRow<'a>> {
        let (flags, modseq) = self.hot(ordinal);
        if flags & EXPUNGED != 0 {
            return None;
        }
        let (uid, cold, heap) = match ordinal.checked_sub(self.base.uids.len()) {
            None => (&self.base.uids[ordinal], self.base.cold.get(ordinal)?, Heap::Base(self.base.heap)),
            Some(place) => {
                let tail = self.tail;
                (&tail.uids[place], tail.cold.get(place)?, Heap::Tail(&tail.heap))
            }
        };
        Some(RawRow { uid: uid.get(), flags, modseq, cold, heap })
    }

    pub fn find(&self, uid: u32) -> Option<usize> {
        match self.base.uids.last() {
            Some(last) if uid <= last.get() => find(self.base.uids, uid),
            _ => find(&self.tail.uids, uid).map(|place| self.base.uids.len() + place),
        }
    }

    /// Ordinals of the UIDs in a range; none lies before `from`.
    pub fn ordinals(&self, from: usize, range: &RangeInclusive<u32>) -> Range<usize> {
        let len = self.base.uids.len();
        let base = between(self.base.uids, from.min(len), range);
        let tail = between(&self.tail.uids, from.saturating_sub(len), range);
        // UIDs of the tail lie above the base's: where the range reaches the tail, its part of the base ends with the base.
        match (base.is_empty(), tail.is_empty()) {
            (_, true) => base,
            (true, false) => len + tail.start..len + tail.end,
            (false, false) => base.start..len + tail.end,
        }
    }

    /// Ordinals of the rows that may have a MODSEQ above `modseq`, given that the base as stored has none.
    pub fn patched(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (base_len, len) = (self.base_len(), self.len());
        let pages = self.pages.iter().enumerate().filter(|(_, page)| page.is_some());
        pages
            .flat_map(move |(page, _)| page * PAGE_ROWS..((page + 1) * PAGE_ROWS).min(base_len))
            .chain(base_len..len)
    }

    /// The UIDs of all live rows.
    pub fn live(&self) -> RoaringBitmap {
        let uids = (0..self.len()).filter(|ordinal| self.hot(*ordinal).0 & EXPUNGED == 0);
        bitmap_of(uids.map(|ordinal| self.uid(ordinal)))
    }
}

/// A bitmap of ascending UIDs, made run by run: most mailboxes are a few long runs.
pub fn bitmap_of(uids: impl Iterator<Item = u32>) -> RoaringBitmap {
    let mut bitmap = RoaringBitmap::new();
    let mut run: Option<(u32, u32)> = None;
    for uid in uids {
        run = match run {
            Some((first, last)) if last.checked_add(1) == Some(uid) => Some((first, uid)),
            Some((first, last)) => {
                push_run(&mut bitmap, first, last);
                Some((uid, uid))
            }
            None => Some((uid, uid)),
        };
    }
    if let Some((first, last)) = run {
        push_run(&mut bitmap, first, last);
    }
    bitmap.optimize();
    bitmap
}

fn push_run(bitmap: &mut RoaringBitmap, first: u32, last: u32) {
    if first == last {
        bitmap.insert(first);
    } else {
        bitmap.insert_range(first..=last);
    }
}

#[inline]
fn base_hot(base: &Columns<'_>, page: Option<&Page>, ordinal: usize) -> (u64, u64) {
    match page {
        Some(page) => (page.flags[ordinal % PAGE_ROWS], page.modseqs[ordinal % PAGE_ROWS]),
        None => (base.flags[ordinal].get(), base.modseqs[ordinal].get()),
    }
}

fn copy_page(base: &Columns<'_>, ordinal: usize) -> Rc<Page> {
    let first = ordinal / PAGE_ROWS * PAGE_ROWS;
    let mut page = Page { flags: [0; PAGE_ROWS], modseqs: [0; PAGE_ROWS] };
    for (to, from) in page.flags.iter_mut().zip(&base.flags[first..]) {
        *to = from.get();
    }
    for (to, from) in page.modseqs.iter_mut().zip(&base.modseqs[first..]) {
        *to = from.get();
    }
    Rc::new(page)
}

/// The place of a UID. Most mailboxes have few holes, so the search begins where a mailbox without holes has it.
fn find(uids: &[U32], uid: u32) -> Option<usize> {
    let first = uids.first()?.get();
    let guess = (uid.checked_sub(first)? as usize).min(uids.len() - 1);
    if uids[guess].get() == uid {
        return Some(guess);
    }
    uids[..=guess].binary_search_by(|have| have.get().cmp(&uid)).ok()
}

/// Places of the UIDs in `range`, none of which lies before `from`. Cost: the logarithm of the distance from `from`.
fn between(uids: &[U32], from: usize, range: &RangeInclusive<u32>) -> Range<usize> {
    let start = gallop(uids, from, |uid| uid < *range.start());
    start..gallop(uids, start, |uid| uid <= *range.end())
}

fn gallop(uids: &[U32], from: usize, before: impl Fn(u32) -> bool) -> usize {
    let (mut low, mut step) = (from, 1);
    while low + step <= uids.len() && before(uids[low + step - 1].get()) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(uids.len());
    low + uids[low.min(high)..high].partition_point(|uid| before(uid.get()))
}
