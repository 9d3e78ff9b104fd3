//! One mailbox's index: what is read from it, and the changes it takes.
//!
//! # Order
//! Calls are made in journal order, with the MODSEQ that the journal gave. A refused call changes nothing.
//!
//! # Invariants
//! - Counts, sizes and the flag bitmaps that were built always describe the live messages.
//! - A STORE that changes nothing bumps nothing.
//!
//! # Limits
//! [`Limits`]; the overlay is the caller's to fold: see [`MailboxIndex::begin_fold`].

use crate::flush::Flush;
use crate::format::PLACE_OCTETS;
use crate::keyword::{FlagId, Keywords, Mask, SYSTEM};
use crate::log::Log;
use crate::row::{NewMessage, OwnedMessage, Row};
use crate::rows::{Base, EXPUNGED, RawRow, Rows, SHARED, View, bitmap_of};
use crate::{IndexError, Limit, Limits};
use culver_model::{FlagSet, Guid, Keyword, ModSeq, SystemFlag, Uid, UidSet, UidValidity};
use roaring::RoaringBitmap;
use std::cell::OnceCell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::LazyLock;

static NONE: LazyLock<RoaringBitmap> = LazyLock::new(RoaringBitmap::new);

/// What a STORE does with its flags (RFC 3501 §6.4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOp {
    Add,
    Remove,
    Replace,
}

/// What a STORE did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Messages whose flags are now others than before.
    pub changed: UidSet,
    /// Messages that UNCHANGEDSINCE spared: the set of the MODIFIED response code.
    pub modified: UidSet,
}

/// A message that went, and what may be released with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expunged {
    pub uid: Uid,
    pub guid: Guid,
    pub place: [u8; PLACE_OCTETS],
    /// Octets, RFC822.SIZE.
    pub size: u64,
    /// Whether other rows may stand on the same bytes.
    pub shared: bool,
}

type FlagBitmaps = [OnceCell<RoaringBitmap>; 64];

/// The index of one mailbox.
#[derive(Clone, Debug)]
pub struct MailboxIndex {
    pub(crate) guid: Guid,
    pub(crate) uid_validity: UidValidity,
    pub(crate) uid_next: u32,
    pub(crate) created: ModSeq,
    pub(crate) highest_modseq: u64,
    pub(crate) total_size: u64,
    /// Live messages with each system flag.
    pub(crate) flag_counts: [u32; 8],
    pub(crate) limits: Limits,
    pub(crate) rows: Rows,
    pub(crate) live: Rc<RoaringBitmap>,
    pub(crate) keywords: Keywords,
    pub(crate) log: Log,
    pub(crate) flush: Flush,
    /// Built on the first question for any; each bitmap on the first question for it.
    bitmaps: OnceCell<Box<FlagBitmaps>>,
}

impl MailboxIndex {
    /// The index of a new, empty mailbox. UIDs begin at 1, HIGHESTMODSEQ at `created`.
    pub fn new(guid: Guid, uid_validity: UidValidity, created: ModSeq) -> MailboxIndex {
        let mut index = MailboxIndex::empty(guid, uid_validity, created, Rows::new(Base::empty()));
        index.flush.touch_head();
        index
    }

    pub(crate) fn empty(guid: Guid, uid_validity: UidValidity, created: ModSeq, rows: Rows) -> MailboxIndex {
        MailboxIndex {
            guid,
            uid_validity,
            uid_next: 1,
            created,
            highest_modseq: created.get(),
            total_size: 0,
            flag_counts: [0; 8],
            limits: Limits::default(),
            rows,
            live: Rc::default(),
            keywords: Keywords::default(),
            log: Log::default(),
            flush: Flush::default(),
            bitmaps: OnceCell::new(),
        }
    }

    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> MailboxIndex {
        self.limits = limits;
        self
    }

    pub fn guid(&self) -> Guid {
        self.guid
    }

    pub fn uid_validity(&self) -> UidValidity {
        self.uid_validity
    }

    /// UIDNEXT. At 2^32-1 the mailbox is full: that number is never given out.
    pub fn uid_next(&self) -> Uid {
        Uid::new(self.uid_next).unwrap_or(Uid::MIN)
    }

    pub fn highest_modseq(&self) -> ModSeq {
        ModSeq(self.highest_modseq)
    }

    /// The MODSEQ at which the mailbox was created.
    pub fn created(&self) -> ModSeq {
        self.created
    }

    /// EXISTS.
    pub fn len(&self) -> u32 {
        self.live.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The UIDs of all messages.
    pub fn uids(&self) -> &RoaringBitmap {
        &self.live
    }

    /// The same, to keep: the index copies its own before the next change.
    pub fn uids_shared(&self) -> Rc<RoaringBitmap> {
        Rc::clone(&self.live)
    }

    /// The message sequence number, were every change seen. Cost: a rank in the bitmap.
    pub fn seq_of(&self, uid: Uid) -> Option<u32> {
        self.live.contains(uid.get()).then(|| self.live.rank(uid.get()) as u32)
    }

    /// The UID at a sequence number from 1 on.
    pub fn uid_at(&self, seq: u32) -> Option<Uid> {
        self.live.select(seq.checked_sub(1)?).and_then(Uid::new)
    }

    /// The UIDs of a set that exist.
    pub fn existing(&self, set: &UidSet) -> UidSet {
        self.rows(set).map(|row| row.uid).collect::<Runs>().into()
    }

    pub fn get(&self, uid: Uid) -> Option<Row<'_>> {
        let view = self.rows.view();
        Some(self.bind(view.row(view.find(uid.get())?)?))
    }

    /// The messages of a set, ascending; what does not exist is passed over. A set such as `1:4294967295` costs
    /// what the mailbox holds.
    pub fn rows<'a>(&'a self, set: &'a UidSet) -> impl Iterator<Item = Row<'a>> + use<'a> {
        self.rows_in(set.ranges())
    }

    /// All messages, ascending.
    pub fn rows_all(&self) -> impl Iterator<Item = Row<'_>> + use<'_> {
        self.rows_in(std::iter::once(1..=u32::MAX))
    }

    /// Messages from a UID on, ascending.
    pub fn rows_from(&self, first: u32) -> impl Iterator<Item = Row<'_>> + use<'_> {
        self.rows_in(std::iter::once(first..=u32::MAX))
    }

    /// All messages, descending.
    pub fn rows_newest(&self) -> impl Iterator<Item = Row<'_>> + use<'_> {
        let view = self.rows.view();
        let ordinals = view.ordinals(0, &(1..=u32::MAX));
        ordinals.rev().filter_map(move |ordinal| view.row(ordinal)).map(|row| self.bind(row))
    }

    fn rows_in<'a>(
        &'a self,
        ranges: impl Iterator<Item = RangeInclusive<u32>>,
    ) -> impl Iterator<Item = Row<'a>> {
        let view = self.rows.view();
        let mut from = 0;
        ranges.flat_map(move |range| {
            let ordinals = view.ordinals(from, &range);
            from = ordinals.end;
            ordinals.filter_map(move |ordinal| view.row(ordinal)).map(|row| self.bind(row))
        })
    }

    #[inline]
    pub(crate) fn bind<'a>(&'a self, row: RawRow<'a>) -> Row<'a> {
        let RawRow { uid, flags, modseq, cold, heap } = row;
        Row { uid, flags, modseq, cold, heap, index: self }
    }

    /// The UIDs that have a flag: built on the first question, kept up to date from then on. UNSEEN is
    /// [`Self::uids`] without the bitmap of \Seen.
    pub fn bitmap(&self, flag: FlagId) -> &RoaringBitmap {
        let Some(bit) = flag.hot_bit() else {
            return self.keywords.side_of(flag).unwrap_or(&NONE);
        };
        let bitmaps = self.bitmaps.get_or_init(|| Box::new([const { OnceCell::new() }; 64]));
        bitmaps[flag.index()].get_or_init(|| {
            let view = self.rows.view();
            let having = (0..view.len()).filter(|ordinal| view.hot(*ordinal).0 & (bit | EXPUNGED) == bit);
            bitmap_of(having.map(|ordinal| view.uid(ordinal)))
        })
    }

    /// The mailbox's keywords; a keyword's id is its place here.
    pub fn keywords(&self) -> &[Keyword] {
        self.keywords.table()
    }

    /// Another number each time the table changes: a session then sends FLAGS anew. Not stored.
    pub fn keywords_version(&self) -> u32 {
        self.keywords.version()
    }

    pub fn keyword_id(&self, keyword: &Keyword) -> Option<u16> {
        self.keywords.id(keyword)
    }

    /// Messages with a system flag. O(1), like the next three.
    pub fn flag_count(&self, flag: SystemFlag) -> u32 {
        self.flag_counts[flag.bit().trailing_zeros() as usize]
    }

    pub fn unseen_count(&self) -> u32 {
        self.len().saturating_sub(self.flag_count(SystemFlag::Seen))
    }

    pub fn deleted_count(&self) -> u32 {
        self.flag_count(SystemFlag::Deleted)
    }

    /// Sum of RFC822.SIZE, in octets: STATUS SIZE (RFC 8438).
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// The first message without \Seen, for SELECT's UNSEEN. Cost: a walk over hot words up to it.
    pub fn first_unseen(&self) -> Option<Uid> {
        if self.unseen_count() == 0 {
            return None;
        }
        let view = self.rows.view();
        let skipped = u64::from(SystemFlag::Seen.bit()) | EXPUNGED;
        let ordinal = (0..view.len()).find(|ordinal| view.hot(*ordinal).0 & skipped == 0)?;
        Uid::new(view.uid(ordinal))
    }

    /// Messages with a MODSEQ above `modseq`, ascending by UID. Where the base cannot hold any, only the overlay
    /// is walked.
    pub fn changed_since(&self, modseq: ModSeq) -> impl Iterator<Item = Row<'_>> + use<'_> {
        let view = self.rows.view();
        let overlay_only = modseq.get() >= self.rows.base.highest_modseq;
        let all = if overlay_only { 0..0 } else { 0..view.len() };
        let patched = overlay_only.then(|| view.patched());
        all.chain(patched.into_iter().flatten())
            .filter(move |ordinal| view.hot(*ordinal).1 > modseq.get())
            .filter_map(move |ordinal| view.row(ordinal))
            .map(|row| self.bind(row))
    }

    /// UIDs expunged above `modseq`. `None`: below the log's floor, so every UID that a client knows and that is not
    /// here must be taken as vanished (RFC 7162 §3.2.6).
    pub fn expunged_since(&self, modseq: ModSeq) -> Option<UidSet> {
        self.log.since(self.rows.base.log(), modseq.get())
    }

    pub fn expunge_floor(&self) -> ModSeq {
        ModSeq(self.log.floor)
    }

    /// Appends a message under UIDNEXT and answers that UID.
    pub fn append(&mut self, message: NewMessage<'_>, modseq: ModSeq) -> Result<Uid, IndexError> {
        let uid = self.uid_next();
        self.append_with_uid(message, uid, modseq)?;
        Ok(uid)
    }

    /// Appends under a UID brought from elsewhere, at or above UIDNEXT.
    pub fn append_with_uid(
        &mut self,
        message: NewMessage<'_>,
        uid: Uid,
        modseq: ModSeq,
    ) -> Result<(), IndexError> {
        let uid = uid.get();
        if uid < self.uid_next {
            return Err(IndexError::UidTaken { uid, uid_next: self.uid_next });
        }
        // RFC 3501 §2.3.1.1: UIDNEXT must stay a number above every UID, so the last one is not given.
        let uid_next = uid.checked_add(1).ok_or(Limit::Uids)?;
        message.cold(0)?;
        if self.admit(message.flags)? {
            self.flush.touch_keywords();
        }
        let mask = self.keywords.mask(message.flags);
        let shared = if message.shared { SHARED } else { 0 };
        self.rows.append(uid, mask.word | shared, modseq.get(), &message)?;
        if !mask.side.is_empty() {
            self.keywords.set_side(uid, &mask);
            self.flush.touch_side();
        }
        self.flush.touch_new(uid, message.heap().iter().map(|field| field.len() as u64).sum());
        Rc::make_mut(&mut self.live).insert(uid);
        self.each_built(mask.word, |bitmap, set| {
            if set {
                bitmap.insert(uid);
            }
        });
        count_flags(&mut self.flag_counts, 0, mask.word);
        self.total_size = self.total_size.saturating_add(message.size);
        self.uid_next = uid_next;
        self.highest_modseq = self.highest_modseq.max(modseq.get());
        Ok(())
    }

    /// Changes flags. `unchanged_since` spares messages with a higher MODSEQ, whether or not they would have changed
    /// (RFC 7162 §3.1.3). Unknown keywords get ids before anything else happens, or nothing happens.
    pub fn store(
        &mut self,
        set: &UidSet,
        op: StoreOp,
        flags: &FlagSet,
        unchanged_since: Option<ModSeq>,
        modseq: ModSeq,
    ) -> Result<Stored, IndexError> {
        let bound = unchanged_since.map_or(u64::MAX, ModSeq::get);
        let admits = op != StoreOp::Remove && self.keywords.unknown(flags) > 0;
        if admits && self.rows(set).any(|row| row.modseq <= bound) && self.admit(flags)? {
            self.flush.touch_keywords();
        }
        let mask = self.keywords.mask(flags);
        let side = self.keywords.side();
        let (mut changed, mut modified) = (Runs::default(), Runs::default());
        let counts = &mut self.flag_counts;
        self.rows.update(set, |uid, word, held| {
            // RFC 7162 §3.1.3: a message above UNCHANGEDSINCE fails on its own, even where nothing would change.
            if held > bound {
                modified.push(uid);
                return None;
            }
            let new = match op {
                StoreOp::Add => word | mask.word,
                StoreOp::Remove => word & !mask.word,
                StoreOp::Replace => word & SHARED | mask.word,
            };
            // RFC 7162 §3.1: a MODSEQ moves when a metadata item is modified; setting what is set modifies nothing.
            if new == word && !side_changes(side, op, &mask, uid) {
                return None;
            }
            count_flags(counts, word, new);
            changed.push(uid);
            Some((new, modseq.get()))
        });
        let stored = Stored { changed: changed.into(), modified: modified.into() };
        if !stored.changed.is_empty() {
            self.store_bitmaps(&stored.changed, op, &mask);
            self.flush.touch_hot(&stored.changed);
            self.highest_modseq = self.highest_modseq.max(modseq.get());
        }
        Ok(stored)
    }

    /// Every changed message now has all flags of the mask (Add), none (Remove), or exactly them (Replace).
    fn store_bitmaps(&mut self, changed: &UidSet, op: StoreOp, mask: &Mask) {
        let assign = |bitmap: &mut RoaringBitmap, named: bool| {
            for range in changed.ranges() {
                match (op, named) {
                    (StoreOp::Add, true) | (StoreOp::Replace, true) => bitmap.insert_range(range),
                    (StoreOp::Remove, true) | (StoreOp::Replace, false) => bitmap.remove_range(range),
                    (StoreOp::Add | StoreOp::Remove, false) => break,
                };
            }
        };
        self.each_built(mask.word, assign);
        for (place, bitmap) in self.keywords.side_mut().iter_mut().enumerate() {
            assign(bitmap, mask.side.binary_search(&(place as u16)).is_ok());
        }
        if !self.keywords.side().is_empty() {
            self.flush.touch_side();
        }
    }

    /// Removes messages for good: all of the set, or those with \Deleted (EXPUNGE, UID EXPUNGE). Ascending by UID.
    pub fn expunge(&mut self, set: &UidSet, only_deleted: bool, modseq: ModSeq) -> Vec<Expunged> {
        let gone: Vec<Expunged> = self
            .rows(set)
            .filter(|row| !only_deleted || row.has(SystemFlag::Deleted))
            .map(|row| Expunged {
                uid: row.uid(),
                guid: row.guid(),
                place: *row.place(),
                size: row.size(),
                shared: row.shared(),
            })
            .collect();
        if gone.is_empty() {
            return gone;
        }
        let uids: UidSet = gone.iter().map(|message| message.uid.get()).collect::<Runs>().into();
        let size: u64 = gone.iter().fold(0, |sum, message| sum.saturating_add(message.size));
        self.remove(&uids, size);
        self.log.push(self.rows.base.log(), &uids, modseq.get(), self.limits.expunge_log_max);
        self.highest_modseq = self.highest_modseq.max(modseq.get());
        gone
    }

    /// Takes rows out, without a word to the log.
    pub(crate) fn remove(&mut self, uids: &UidSet, size: u64) {
        let counts = &mut self.flag_counts;
        self.rows.update(uids, |_, word, modseq| {
            count_flags(counts, word, 0);
            Some((word | EXPUNGED, modseq))
        });
        let live = Rc::make_mut(&mut self.live);
        let built = self.bitmaps.get_mut().into_iter().flat_map(|bitmaps| bitmaps.iter_mut());
        let built = built.filter_map(OnceCell::get_mut);
        for bitmap in std::iter::once(live).chain(self.keywords.side_mut()).chain(built) {
            for range in uids.ranges() {
                bitmap.remove_range(range);
            }
        }
        if !self.rows.moved.is_empty() {
            self.rows.moved.retain(|uid, _| !uids.contains(*uid));
        }
        self.total_size = self.total_size.saturating_sub(size);
        self.flush.touch_gone(uids, self.log.end);
    }

    /// Follows a message whose bytes were copied elsewhere. `false`, and nothing done, where the message is gone or no
    /// longer stands at `old`. No MODSEQ: clients see nothing.
    pub fn set_place(&mut self, uid: Uid, old: &[u8; PLACE_OCTETS], new: [u8; PLACE_OCTETS]) -> bool {
        if self.get(uid).is_none_or(|row| row.place() != old) {
            return false;
        }
        if *old != new {
            self.rows.set_place(uid.get(), new);
            self.flush.touch_moved(uid.get());
        }
        true
    }

    /// Says of messages that the bytes at their places now serve other rows too. No MODSEQ: clients see nothing.
    pub fn set_shared(&mut self, set: &UidSet) {
        let mut changed = Runs::default();
        self.rows.update(set, |uid, word, modseq| {
            (word & SHARED == 0).then(|| {
                changed.push(uid);
                (word | SHARED, modseq)
            })
        });
        self.flush.touch_hot(&changed.into());
    }

    /// A message with all it needs to be appended to another index.
    pub fn copy_row(&self, uid: Uid) -> Option<OwnedMessage> {
        Some(self.get(uid)?.to_owned_message())
    }

    /// Opens a gap after a takeover that cannot prove it saw everything: what was told may not be said again.
    pub fn raise(&mut self, uid_gap: u32, modseq_gap: u64) {
        self.uid_next = self.uid_next.saturating_add(uid_gap);
        let modseq = self.highest_modseq.saturating_add(modseq_gap);
        self.highest_modseq = modseq.min(ModSeq::MAX.get()).max(self.highest_modseq);
        self.flush.touch_head();
    }

    /// For a change to the mailbox itself. Never lowers.
    pub fn set_highest_modseq(&mut self, modseq: ModSeq) {
        if modseq.get() > self.highest_modseq {
            self.highest_modseq = modseq.get();
            self.flush.touch_head();
        }
    }

    /// Estimate of the heap memory this index holds; what is mapped is not counted.
    pub fn memory_octets(&self) -> usize {
        let built = self.bitmaps.get().map_or(0, |bitmaps| {
            let filled = bitmaps.iter().filter_map(OnceCell::get);
            size_of::<FlagBitmaps>() + filled.map(RoaringBitmap::serialized_size).sum::<usize>()
        });
        size_of::<MailboxIndex>()
            + self.rows.memory_octets()
            + self.live.serialized_size()
            + self.keywords.memory_octets()
            + self.log.memory_octets()
            + self.flush.memory_octets()
            + built
    }

    /// A copy that answers the same; its flag bitmaps are built anew where they are asked for.
    pub(crate) fn without_bitmaps(&self) -> MailboxIndex {
        MailboxIndex {
            rows: self.rows.clone(),
            live: Rc::clone(&self.live),
            keywords: self.keywords.clone(),
            log: self.log.clone(),
            flush: Flush::default(),
            bitmaps: OnceCell::new(),
            ..*self
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        self.rows.view()
    }

    /// Writes a row's word, MODSEQ and side keywords as a delta gives them.
    pub(crate) fn set_hot(&mut self, uid: u32, word: u64, modseq: u64) {
        let counts = &mut self.flag_counts;
        self.rows.update(&UidSet::from_iter([uid]), |_, old, _| {
            count_flags(counts, old, word);
            Some((word, modseq))
        });
    }

    /// Gives ids to keywords that the table does not know, all or none: so that what follows cannot be refused for
    /// them. Changes no message.
    pub fn admit_keywords(&mut self, flags: &FlagSet) -> Result<(), IndexError> {
        if self.keywords.unknown(flags) > 0 && self.admit(flags)? {
            self.flush.touch_keywords();
        }
        Ok(())
    }

    /// Whether these keywords find room beside all that were ever used.
    pub fn has_room_for(&self, flags: &FlagSet) -> bool {
        let max = self.limits.keywords_max.min(Limits::KEYWORDS_MAX) as usize;
        self.keywords.len() + self.keywords.unknown(flags) <= max
    }

    fn admit(&mut self, flags: &FlagSet) -> Result<bool, IndexError> {
        let view = self.rows.view();
        let used = || {
            let words = (0..view.len()).map(|ordinal| view.hot(ordinal).0);
            words.filter(|word| word & EXPUNGED == 0).fold(0, |used, word| used | word)
        };
        // Flag bitmaps need no word of it: an id given anew has no message, so its bitmap is empty.
        self.keywords.admit(flags, &self.limits, used)
    }

    /// Calls with each bitmap that was built, and whether its flag stands in `word`.
    fn each_built(&mut self, word: u64, mut with: impl FnMut(&mut RoaringBitmap, bool)) {
        if let Some(bitmaps) = self.bitmaps.get_mut() {
            for (bit, bitmap) in bitmaps.iter_mut().enumerate() {
                if let Some(bitmap) = bitmap.get_mut() {
                    with(bitmap, word & 1 << bit != 0);
                }
            }
        }
    }
}

fn side_changes(side: &[RoaringBitmap], op: StoreOp, mask: &Mask, uid: u32) -> bool {
    let has = |place: &u16| side.get(usize::from(*place)).is_some_and(|uids| uids.contains(uid));
    match op {
        StoreOp::Add => !mask.side.iter().all(has),
        StoreOp::Remove => mask.side.iter().any(has),
        StoreOp::Replace => side
            .iter()
            .enumerate()
            .any(|(place, uids)| uids.contains(uid) != mask.side.binary_search(&(place as u16)).is_ok()),
    }
}

#[inline]
pub(crate) fn count_flags(counts: &mut [u32; 8], old: u64, new: u64) {
    let mut changed = (old ^ new) & SYSTEM;
    while changed != 0 {
        let bit = changed.trailing_zeros() as usize;
        changed &= changed - 1;
        if new & 1 << bit != 0 {
            counts[bit] += 1;
        } else {
            counts[bit] = counts[bit].saturating_sub(1);
        }
    }
}

/// Ascending numbers gathered into ranges, without a search for each.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<RangeInclusive<u32>>);

impl Runs {
    #[inline]
    pub fn push(&mut self, uid: u32) {
        match self.0.last_mut() {
            Some(run) if run.end().checked_add(1) == Some(uid) => *run = *run.start()..=uid,
            _ => self.0.push(uid..=uid),
        }
    }
}

impl FromIterator<u32> for Runs {
    fn from_iter<I: IntoIterator<Item = u32>>(uids: I) -> Runs {
        let mut runs = Runs::default();
        uids.into_iter().for_each(|uid| runs.push(uid));
        runs
    }
}

impl From<Runs> for UidSet {
    fn from(runs: Runs) -> UidSet {
        runs.0.into_iter().collect()
    }
}
