//! A session's view of a mailbox: which messages it has been told of, and so what its sequence numbers mean.
//!
//! # Invariants
//! The view changes only in [`View::sync`]. An expunge leaves it only when the caller may say so to the client
//! (RFC 3501 §7.4.1); until then the message keeps its number.
//! [`View::told`] never passes a change that is withheld, or a QRESYNC client would lose it for ever.
//!
//! # Cost
//! A sync after nothing happened compares two numbers. The set of UIDs is shared with the index until they differ.

use culver_index::MailboxIndex;
use culver_model::{Guid, ModSeq, Uid, UidSet, UidValidity};
use roaring::RoaringBitmap;
use std::rc::Rc;

/// What a session has been told of its selected mailbox.
#[derive(Clone, Debug)]
pub struct View {
    mailbox: Guid,
    uid_validity: UidValidity,
    uids: Rc<RoaringBitmap>,
    /// Flag changes up to here are told, or are the session's own.
    seen: ModSeq,
    /// Everything up to here is told, expunges too.
    told: ModSeq,
    keywords_told: u32,
    /// The last change that the session made itself.
    own: ModSeq,
    /// UIDs that are \Recent in this session.
    recent: UidSet,
}

/// What a sync found, in the order in which it is sent.
#[derive(Debug, Default)]
pub struct Changes {
    /// Sequence numbers as EXPUNGE sends them: each counts what those before it took away.
    pub expunged: Vec<u32>,
    /// The same as UIDs, for VANISHED.
    pub vanished: UidSet,
    /// The new count, where messages came.
    pub exists: Option<u32>,
    /// Messages whose flags or MODSEQ changed.
    pub flags: UidSet,
    /// The mailbox has keywords that the session has not been told of.
    pub keywords: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.vanished.is_empty() && self.exists.is_none() && self.flags.is_empty() && !self.keywords
    }
}

impl View {
    /// As at SELECT. `recent`: the UIDs that are \Recent for this session.
    pub fn new(index: &MailboxIndex, recent: UidSet) -> View {
        View {
            mailbox: index.guid(),
            uid_validity: index.uid_validity(),
            uids: index.uids_shared(),
            seen: index.highest_modseq(),
            told: index.highest_modseq(),
            keywords_told: index.keywords_version(),
            own: ModSeq::ZERO,
            recent,
        }
    }

    /// From its parts, as a session that moved between cores brings them.
    pub fn from_parts(
        mailbox: Guid,
        uid_validity: UidValidity,
        uids: &UidSet,
        modseqs: (ModSeq, ModSeq),
        keywords_told: u32,
        recent: UidSet,
    ) -> View {
        let mut bitmap = RoaringBitmap::new();
        for range in uids.ranges() {
            bitmap.insert_range(range);
        }
        let (seen, told) = modseqs;
        View {
            mailbox,
            uid_validity,
            uids: Rc::new(bitmap),
            seen,
            told,
            keywords_told,
            own: ModSeq::ZERO,
            recent,
        }
    }

    pub fn mailbox(&self) -> Guid {
        self.mailbox
    }

    pub fn uid_validity(&self) -> UidValidity {
        self.uid_validity
    }

    pub fn uids(&self) -> &RoaringBitmap {
        &self.uids
    }

    /// `(seen, told)`, for [`View::from_parts`].
    pub fn modseqs(&self) -> (ModSeq, ModSeq) {
        (self.seen, self.told)
    }

    /// How many ranges of UIDs the view has at most.
    pub fn ranges_max(&self) -> usize {
        let (Some(first), Some(last)) = (self.uids.min(), self.uids.max()) else { return 0 };
        let gaps = u64::from(last - first) + 1 - self.uids.len();
        self.uids.len().min(gaps + 1) as usize
    }

    pub fn keywords_told(&self) -> u32 {
        self.keywords_told
    }

    pub fn recent(&self) -> &UidSet {
        &self.recent
    }

    pub fn add_recent(&mut self, uids: &UidSet) {
        uids.ranges().for_each(|range| self.recent.insert_range(range));
    }

    pub fn is_recent(&self, uid: Uid) -> bool {
        self.recent.contains(uid.get())
    }

    /// How many of the \Recent messages are still in view.
    pub fn recent_count(&self) -> u32 {
        self.recent.ranges().map(|range| self.uids.range_cardinality(range) as u32).sum()
    }

    /// The HIGHESTMODSEQ that this session may be told.
    pub fn told(&self) -> ModSeq {
        self.told
    }

    /// EXISTS.
    pub fn len(&self) -> u32 {
        self.uids.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    pub fn last_uid(&self) -> u32 {
        self.uids.max().unwrap_or(0)
    }

    pub fn uid_at(&self, sequence: u32) -> Option<Uid> {
        sequence.checked_sub(1).and_then(|at| self.uids.select(at)).and_then(Uid::new)
    }

    pub fn sequence_of(&self, uid: Uid) -> Option<u32> {
        self.uids.contains(uid.get()).then(|| self.uids.rank(uid.get()) as u32)
    }

    /// The UIDs that stand at these sequence numbers. Numbers beyond the view are left out: ask
    /// [`View::holds_sequences`] where that is the client's mistake.
    pub fn uids_at(&self, sequences: &UidSet) -> UidSet {
        let count = self.len();
        let mut uids = UidSet::new();
        for range in sequences.ranges() {
            let (first, last) = (*range.start(), (*range.end()).min(count));
            if first > last {
                continue;
            }
            let from = self.uids.select(first - 1).expect("first is within the view");
            let to = self.uids.select(last - 1).expect("last is within the view");
            if to - from == last - first {
                uids.insert_range(from..=to);
            } else {
                self.uids.range(from..=to).for_each(|uid| uids.insert(uid));
            }
        }
        uids
    }

    /// The UIDs of `wanted` that are in view.
    pub fn uids_in(&self, wanted: &UidSet) -> UidSet {
        let mut uids = UidSet::new();
        for range in wanted.ranges() {
            if self.uids.contains_range(range.clone()) {
                uids.insert_range(range);
            } else {
                self.uids.range(range).for_each(|uid| uids.insert(uid));
            }
        }
        uids
    }

    pub fn holds_sequences(&self, sequences: &UidSet) -> bool {
        sequences.last().is_none_or(|last| last <= self.len())
    }

    /// The session's own change `modseq`, which it tells itself or does not want to hear of (.SILENT): the next sync
    /// passes over the messages that have it. MODSEQs are one for each change, so nothing else is passed over.
    pub fn skip_own(&mut self, modseq: ModSeq) {
        self.own = modseq;
    }

    /// The session has been told of the keywords of this version.
    pub fn keywords_are_told(&mut self, version: u32) {
        self.keywords_told = version;
    }

    /// Brings the view up to what the mailbox is now. `expunges`: whether messages may leave it at this point.
    pub fn sync(&mut self, index: &MailboxIndex, expunges: bool) -> Changes {
        let mut changes = Changes::default();
        let highest = index.highest_modseq();
        if highest == self.told && index.keywords_version() == self.keywords_told {
            return changes;
        }
        if index.keywords_version() != self.keywords_told {
            self.keywords_told = index.keywords_version();
            changes.keywords = true;
        }
        let now = index.uids_shared();
        if highest > self.seen {
            changes.flags = index
                .changed_since(self.seen)
                .filter(|row| row.modseq() != self.own)
                .map(|row| row.uid())
                .filter(|uid| self.uids.contains(uid.get()))
                .collect();
            self.seen = highest;
        }
        if Rc::ptr_eq(&now, &self.uids) || now == self.uids {
            self.uids = now;
            self.told = highest;
            return changes;
        }
        let gone = &*self.uids - &*now;
        let fresh = self.uids.max().map_or(0, |last| last + 1);
        let came = now.range_cardinality(fresh..) > 0;
        if gone.is_empty() {
            self.uids = now;
            self.told = highest;
        } else if expunges {
            for (before, uid) in gone.iter().enumerate() {
                changes.expunged.push(self.uids.rank(uid) as u32 - before as u32);
                changes.vanished.insert(uid);
            }
            self.uids = now;
            self.told = highest;
        } else if came {
            let mut uids = (*self.uids).clone();
            uids |= &*now;
            self.uids = Rc::new(uids);
        }
        if came {
            changes.exists = Some(self.len());
        }
        changes
    }
}
