//! The state of one account, and what each record does to it.
//!
//! # Invariants
//! [`State::apply`] is deterministic: the same records in the same order give the same UIDs, MODSEQs and answers.
//! A record that cannot be carried out changes nothing, not even a counter.
//! MODSEQs come from one counter of the account, UIDVALIDITYs from another; neither ever goes back.

use crate::fault::{self, Fault};
use crate::rebuild::Unfinished;
use crate::record::{Message, Record, StoreOp};
use culver_index::account::{AccountState, MailboxEntry, SPECIAL_USE_OCTETS_MAX};
use culver_index::annotations::{Annotations, SERVER};
use culver_index::deliveries::Deliveries;
use culver_index::{Block, Expunged, FormatError, IndexError, MailboxIndex, PLACE_OCTETS};
use culver_model::{EntryName, Flag, FlagSet, Guid, MailboxName, ModSeq, Uid, UidSet, UidValidity, Usage};
use std::collections::{BTreeMap, BTreeSet};

/// Most mailboxes of an account.
pub const MAILBOXES_MAX: usize = 10_000;
/// Most subscriptions of an account.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;

/// The key under which the account's own block is stored; mailbox blocks stand under their GUID.
pub const ACCOUNT_KEY: Guid = Guid([0xff; 16]);

/// The key under which the ids of the account's latest deliveries are stored: number 0 of class 1.
pub const DELIVERIES_KEY: Guid =
    Guid([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);

/// The key under which what is said of mailboxes and of the server is stored: number 0 of class 2.
pub const ANNOTATIONS_KEY: Guid =
    Guid([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0]);

/// Whether a block of this key is a mailbox's. Keys that begin with eight octets ff are the account's own: its list
/// ([`ACCOUNT_KEY`]), its deliveries ([`DELIVERIES_KEY`]), its annotations ([`ANNOTATIONS_KEY`]), and classes of blocks that later versions bring (a class and a number, four octets each).
pub fn is_mailbox_key(key: Guid) -> bool {
    key.0[..8] != [0xff; 8]
}

/// Why a change was refused. The client acts on each differently; see the table of texts at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such mailbox")]
    NonExistent,
    #[error("mailbox exists already")]
    AlreadyExists,
    #[error("this cannot be done to this mailbox")]
    Cannot,
    #[error("a limit was reached")]
    Limit,
    #[error("the message is too large")]
    TooBig,
    #[error("a message is expunged")]
    Gone,
    #[error("the account is over its quota")]
    OverQuota,
    /// Its usage is known later.
    #[error("the account may be over its quota")]
    PerhapsOverQuota,
}

/// What a record that was carried out gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    Append {
        uid_validity: UidValidity,
        uid: Uid,
    },
    /// `modseq` is that of the mailbox that the other message was in.
    Replace {
        uid_validity: UidValidity,
        uid: Uid,
        modseq: ModSeq,
    },
    /// A delivery that was sent again: the account has its message, or had it, and nothing changed.
    Repeated,
    /// `modified`: failed UNCHANGEDSINCE.
    Store {
        changed: UidSet,
        modified: UidSet,
        modseq: ModSeq,
    },
    Expunge {
        uids: UidSet,
        modseq: ModSeq,
    },
    /// `from` and `to` pair in order; `modseq` is the source mailbox's, for MOVE.
    Copy {
        uid_validity: UidValidity,
        from: UidSet,
        to: UidSet,
        modseq: ModSeq,
    },
    /// `modseq`: of the change; `None` where everything was as it was set to. `lost_use`: a mailbox that had the special use
    /// which another has now.
    Annotated {
        modseq: Option<ModSeq>,
        lost_use: Option<Guid>,
    },
    Done,
}

/// What is stored of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Deltas that stand on the base.
    pub deltas: u32,
    /// Octets of base and deltas.
    pub octets: u64,
}

/// One account in memory.
pub struct State {
    pub account: AccountState,
    pub mailboxes: BTreeMap<Guid, MailboxIndex>,
    /// Octets of bodies that expunges set free since the last flush, by place.
    pub freed: Vec<[u8; PLACE_OCTETS]>,
    /// Bodies that a record brought and no message took, by place.
    pub untaken: Vec<[u8; PLACE_OCTETS]>,
    /// Ids of the latest deliveries.
    pub deliveries: Deliveries,
    /// What is said of mailboxes and of the server.
    pub annotations: Annotations,
    /// Mailboxes deleted since the last flush: their blocks are to be removed.
    pub removed: Vec<Guid>,
    /// By key.
    pub stored: BTreeMap<Guid, Stored>,
    /// Mailboxes whose newest stored block may be another than the one this was loaded from: the next is a base.
    pub base_due: BTreeSet<Guid>,
    /// A rebuild has not restored everything yet.
    pub unfinished: Option<Unfinished>,
    /// Octets and messages of all mailboxes.
    pub(crate) used: Usage,
}

impl State {
    /// An account that nothing was ever stored for: INBOX, with the first UIDVALIDITY.
    pub fn new() -> State {
        let mut state = State {
            account: AccountState::default(),
            mailboxes: BTreeMap::new(),
            freed: Vec::new(),
            untaken: Vec::new(),
            deliveries: Deliveries::default(),
            annotations: Annotations::default(),
            removed: Vec::new(),
            stored: BTreeMap::new(),
            base_due: BTreeSet::new(),
            unfinished: None,
            used: Usage::default(),
        };
        state.account.incarnation = Guid([1; 16]);
        state.found_inbox();
        state
    }

    fn found_inbox(&mut self) {
        let inbox = MailboxName::inbox();
        self.add_mailbox(Guid::INBOX, inbox, None, true)
            .expect("an account without mailboxes has room for INBOX");
    }

    /// From the blocks of the account's last flushes, each key's base first and its deltas after it.
    pub fn load(blocks: Vec<(Guid, Vec<Block>)>) -> Result<State, FormatError> {
        let mut state = State {
            account: AccountState::default(),
            mailboxes: BTreeMap::new(),
            freed: Vec::new(),
            untaken: Vec::new(),
            deliveries: Deliveries::default(),
            annotations: Annotations::default(),
            removed: Vec::new(),
            stored: BTreeMap::new(),
            base_due: BTreeSet::new(),
            unfinished: None,
            used: Usage::default(),
        };
        let mut account_seen = false;
        for (key, blocks) in blocks {
            let octets = blocks.iter().map(|block| block.len() as u64).sum();
            let stored = Stored { deltas: blocks.len().saturating_sub(1) as u32, octets };
            let mut blocks = blocks.into_iter();
            let Some(base) = blocks.next() else { continue };
            if key == Unfinished::KEY {
                state.unfinished = Some(Unfinished::decode(&base)?);
                continue;
            }
            state.stored.insert(key, stored);
            if key == DELIVERIES_KEY {
                let blocks: Vec<Block> = std::iter::once(base).chain(blocks).collect();
                state.deliveries = Deliveries::load(blocks.iter().map(|block| &block[..]))?;
                continue;
            }
            if key == ANNOTATIONS_KEY {
                state.annotations = Annotations::load(&base)?;
                continue;
            }
            if key != ACCOUNT_KEY && !is_mailbox_key(key) {
                // Of a later version: what it is, that version knows.
                continue;
            }
            if key == ACCOUNT_KEY {
                state.account = AccountState::decode(&base)?;
                account_seen = true;
            } else {
                state.mailboxes.insert(key, MailboxIndex::from_blocks(base, blocks)?);
            }
        }
        if !account_seen {
            return Ok(State::new());
        }
        let listed = |guid: &Guid| state.account.mailboxes.iter().any(|entry| entry.guid == *guid);
        let known: Vec<Guid> = state.mailboxes.keys().copied().collect();
        for guid in known.into_iter().filter(|guid| !listed(guid)) {
            state.mailboxes.remove(&guid);
        }
        for entry in &state.account.mailboxes {
            let (guid, validity, created) = (entry.guid, entry.uid_validity, entry.created);
            state.mailboxes.entry(guid).or_insert_with(|| MailboxIndex::new(guid, validity, created));
        }
        state.drop_strays();
        state.used = state.counted();
        Ok(state)
    }

    /// Annotations of mailboxes that are not listed: a program that knows nothing of them has deleted the mailbox.
    pub(crate) fn drop_strays(&mut self) {
        let State { account, annotations, .. } = self;
        annotations.retain(|guid| account.mailboxes.iter().any(|entry| entry.guid == guid));
    }

    /// What the account holds (RFC 9208 §5). Cost: none.
    pub fn usage(&self) -> Usage {
        Usage { mailboxes: self.account.mailboxes.len() as u64, ..self.used }
    }

    /// Octets and messages, counted anew. Cost: the mailboxes.
    pub fn counted(&self) -> Usage {
        let each = self.mailboxes.values();
        each.map(|index| Usage { octets: index.total_size(), messages: index.len().into(), mailboxes: 0 })
            .fold(Usage::default(), Usage::plus)
    }

    pub fn highest_modseq(&self) -> ModSeq {
        self.account.modseq
    }

    pub fn entry(&self, name: &MailboxName) -> Option<&MailboxEntry> {
        let at = self.account.mailboxes.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        self.account.mailboxes.get(at)
    }

    pub fn entry_of(&self, guid: Guid) -> Option<&MailboxEntry> {
        self.account.mailboxes.iter().find(|entry| entry.guid == guid)
    }

    fn entry_mut(&mut self, guid: Guid) -> Option<&mut MailboxEntry> {
        self.account.mailboxes.iter_mut().find(|entry| entry.guid == guid)
    }

    pub fn has_children(&self, name: &MailboxName) -> bool {
        // The list is sorted by name, so those below stand together, at the first name not before `name/`.
        let below = format!("{}/", name.as_str());
        let at = self.account.mailboxes.partition_point(|entry| entry.name.as_str() < below.as_str());
        self.account.mailboxes.get(at).is_some_and(|entry| entry.name.starts_under(name))
    }

    /// The mailbox where it can be selected.
    pub fn selectable(&self, guid: Guid) -> Option<&MailboxIndex> {
        let entry = self.entry_of(guid)?;
        if entry.selectable { self.mailboxes.get(&guid) } else { None }
    }

    fn selectable_mut(&mut self, guid: Guid) -> Result<&mut MailboxIndex, Refusal> {
        match self.entry_of(guid) {
            Some(entry) if entry.selectable => {}
            _ => return Err(Refusal::NonExistent),
        }
        self.mailboxes.get_mut(&guid).ok_or(Refusal::NonExistent)
    }

    /// Carries out `record`. `places` are those of its bodies: one of an Append, as many as moves of a Relocate.
    pub fn apply(&mut self, record: &Record, places: &[[u8; PLACE_OCTETS]]) -> Result<Applied, Refusal> {
        let applied = self.carry_out(record, places);
        debug_assert_eq!(self.used, self.counted(), "the usage has drifted at {record:?}");
        applied
    }

    fn carry_out(&mut self, record: &Record, places: &[[u8; PLACE_OCTETS]]) -> Result<Applied, Refusal> {
        match record {
            Record::Append { mailbox, message } => {
                let place = places.first().copied().unwrap_or([0; PLACE_OCTETS]);
                self.append(*mailbox, message, place)
            }
            Record::Replace { mailbox, message, from, uid } => {
                let place = places.first().copied().unwrap_or([0; PLACE_OCTETS]);
                self.replace(*mailbox, message, place, *from, *uid)
            }
            Record::Store { mailbox, uids, op, flags, unchanged_since } => {
                self.store(*mailbox, uids, *op, flags, *unchanged_since)
            }
            Record::Expunge { mailbox, uids, only_deleted } => self.expunge(*mailbox, uids, *only_deleted),
            Record::Copy { from, uids, to, save_date, remove, whole } => {
                if *whole && self.selectable(*from).is_some_and(|index| index.existing(uids) != *uids) {
                    return Err(Refusal::Gone);
                }
                self.copy(*from, uids, *to, *save_date, *remove)
            }
            Record::Create { guid, name, special_use, selectable } => {
                self.create(*guid, name, special_use.as_deref(), *selectable)
            }
            Record::Delete { guid } => self.delete(*guid),
            Record::Rename { guid, to } => self.rename(*guid, to),
            Record::RenameInbox { guid, to, save_date } => self.rename_inbox(*guid, to, *save_date),
            Record::Subscribe { name, on } => self.subscribe(name, *on),
            Record::Relocate { from } => Ok(self.relocate(from, places)),
            Record::Restore { mailbox, place, message } => self.append(*mailbox, message, *place),
            Record::Rebuilt => {
                if self.unfinished.take().is_some() {
                    self.removed.push(Unfinished::KEY);
                }
                Ok(Applied::Done)
            }
            Record::DeleteAccount => Ok(self.delete_account()),
            Record::Named { record, .. } => self.apply(record, places),
            Record::Annotate { mailbox, entries } => self.annotate(*mailbox, entries),
            Record::SetQuota { quota } => {
                self.account.quota = *quota;
                Ok(Applied::Done)
            }
            Record::Late { of, lsn, record } => self.late(*of, *lsn, record, places),
        }
    }

    pub(crate) fn append(
        &mut self,
        guid: Guid,
        message: &Message,
        place: [u8; PLACE_OCTETS],
    ) -> Result<Applied, Refusal> {
        if let Some(id) = &message.delivery
            && self.deliveries.knows(id, message.save_date)
            && !fault::on(Fault::ForgetDeliveries)
        {
            self.untaken.push(place);
            return Ok(Applied::Repeated);
        }
        let modseq = self.account.modseq.next();
        let index = self.selectable_mut(guid)?;
        let uid = index.append(message.as_new(place, guid), modseq).map_err(refusal)?;
        let uid_validity = index.uid_validity();
        self.account.modseq = modseq;
        self.used = self.used.plus(Usage::message(message.size));
        if let Some(id) = message.delivery {
            self.deliveries.note(id, message.save_date);
        }
        Ok(Applied::Append { uid_validity, uid })
    }

    fn replace(
        &mut self,
        guid: Guid,
        message: &Message,
        place: [u8; PLACE_OCTETS],
        from: Guid,
        uid: Uid,
    ) -> Result<Applied, Refusal> {
        if self.selectable(from).and_then(|index| index.get(uid)).is_none() {
            self.untaken.push(place);
            return Err(Refusal::Gone);
        }
        let appended = self.append(guid, message, place)?;
        let gone = self.expunge(from, &std::iter::once(uid.get()..=uid.get()).collect(), false)?;
        match (appended, gone) {
            (Applied::Append { uid_validity, uid }, Applied::Expunge { modseq, .. }) => {
                Ok(Applied::Replace { uid_validity, uid, modseq })
            }
            // A message without the id of a delivery is none that was sent again.
            _ => Err(Refusal::Cannot),
        }
    }

    fn store(
        &mut self,
        guid: Guid,
        uids: &UidSet,
        op: StoreOp,
        flags: &FlagSet,
        unchanged_since: Option<ModSeq>,
    ) -> Result<Applied, Refusal> {
        let modseq = self.account.modseq.next();
        let op = match op {
            StoreOp::Replace => culver_index::StoreOp::Replace,
            StoreOp::Add => culver_index::StoreOp::Add,
            StoreOp::Remove => culver_index::StoreOp::Remove,
        };
        let index = self.selectable_mut(guid)?;
        let stored = index.store(uids, op, flags, unchanged_since, modseq).map_err(refusal)?;
        if !stored.changed.is_empty() {
            self.account.modseq = modseq;
        }
        Ok(Applied::Store { changed: stored.changed, modified: stored.modified, modseq })
    }

    fn expunge(&mut self, guid: Guid, uids: &UidSet, only_deleted: bool) -> Result<Applied, Refusal> {
        let modseq = self.account.modseq.next();
        let index = self.selectable_mut(guid)?;
        let gone = index.expunge(uids, only_deleted, modseq);
        let uids: UidSet = gone.iter().map(|gone| gone.uid).collect();
        let modseq = if gone.is_empty() { index.highest_modseq() } else { modseq };
        if !gone.is_empty() {
            self.account.modseq = modseq;
            self.used = gone.iter().fold(self.used, |used, gone| used.minus(Usage::message(gone.size)));
            self.free(gone);
        }
        Ok(Applied::Expunge { uids, modseq })
    }

    fn free(&mut self, gone: Vec<Expunged>) {
        self.freed.extend(gone.iter().filter(|gone| !gone.shared).map(|gone| gone.place));
    }

    fn copy(
        &mut self,
        from: Guid,
        uids: &UidSet,
        to: Guid,
        save_date: i64,
        remove: bool,
    ) -> Result<Applied, Refusal> {
        let modseq = self.account.modseq.next();
        let source = self.selectable(from).ok_or(Refusal::NonExistent)?;
        self.selectable(to).ok_or(Refusal::NonExistent)?;
        let mut messages: Vec<_> = source.rows(uids).map(|row| (row.uid(), row.to_owned_message())).collect();
        if messages.is_empty() {
            let (source, target) = (source.highest_modseq(), self.selectable_mut(to)?.uid_validity());
            let (from, to) = (UidSet::new(), UidSet::new());
            return Ok(Applied::Copy { uid_validity: target, from, to, modseq: source });
        }
        let target = self.selectable_mut(to)?;
        // All or nothing: what could refuse one of them is asked before the first.
        let keywords = messages.iter().flat_map(|(_, message)| message.flags.keywords.iter().cloned());
        let keywords: FlagSet = keywords.map(Flag::Keyword).collect();
        if u64::from(u32::MAX - target.uid_next().get()) < messages.len() as u64 {
            return Err(Refusal::Limit);
        }
        target.admit_keywords(&keywords).map_err(refusal)?;
        let (mut copied, mut given) = (UidSet::new(), UidSet::new());
        let mut added = Usage::default();
        for (uid, message) in &mut messages {
            message.save_date = save_date;
            // A body that two rows name is not freed by the expunge of one; a move leaves one row, as before.
            message.shared |= !remove && !fault::on(Fault::CopyForgetsShared);
            if !remove {
                // RFC 1939 §7: no two messages of a maildrop have one UIDL, wherever the copies are moved to.
                let uidl = format!("{}.{}.{}", message.guid, target.uid_validity(), target.uid_next());
                message.pop3_uidl = Some(uidl.into());
            }
            let new = target.append(message.as_new(), modseq).map_err(refusal)?;
            added = added.plus(Usage::message(message.size));
            copied.insert(uid.get());
            given.insert(new.get());
        }
        let uid_validity = target.uid_validity();
        let source = self.selectable_mut(from)?;
        if remove {
            source.expunge(&copied, false, modseq);
        } else if !fault::on(Fault::CopyForgetsShared) {
            source.set_shared(&copied);
        }
        let source_modseq = source.highest_modseq();
        // RFC 9208 §4.3.1: a move within the account adds nothing.
        self.used = if remove { self.used } else { self.used.plus(added) };
        self.account.modseq = modseq;
        Ok(Applied::Copy { uid_validity, from: copied, to: given, modseq: source_modseq })
    }

    /// Whether so many mailboxes can be made, and get UIDVALIDITYs.
    fn room_for(&self, count: usize) -> Result<(), Refusal> {
        let fits = self.account.mailboxes.len() + count <= MAILBOXES_MAX
            && u64::from(self.account.uid_validity) + count as u64 <= u64::from(u32::MAX);
        if fits { Ok(()) } else { Err(Refusal::Limit) }
    }

    fn add_mailbox(
        &mut self,
        guid: Guid,
        name: MailboxName,
        special_use: Option<&str>,
        selectable: bool,
    ) -> Result<(), Refusal> {
        if self.account.mailboxes.len() >= MAILBOXES_MAX {
            return Err(Refusal::Limit);
        }
        let uid_validity = UidValidity::new(self.account.uid_validity + 1).ok_or(Refusal::Limit)?;
        self.account.uid_validity = uid_validity.get();
        let modseq = self.account.modseq.next();
        self.account.modseq = modseq;
        self.mailboxes.insert(guid, MailboxIndex::new(guid, uid_validity, modseq));
        let special_use = special_use.map(str::to_owned);
        let entry = MailboxEntry { guid, name, special_use, created: modseq, uid_validity, selectable };
        self.account.mailboxes.push(entry);
        self.account.mailboxes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// A GUID made from a record's, the same at every replay. The UIDVALIDITY counter, which each mailbox
    /// that is made moves on, tells those of one record apart. Scrambled, for GUIDs made so are derived from again:
    /// a plain XOR of two salts gave two mailboxes one GUID.
    fn derived(&self, guid: Guid) -> Guid {
        let whole = u128::from_le_bytes(guid.0);
        let high = scrambled((whole >> 64) as u64 ^ u64::from(self.account.uid_validity + 1));
        let low = scrambled(whole as u64 ^ high);
        Guid((u128::from(scrambled(high ^ low)) << 64 | u128::from(low)).to_le_bytes())
    }

    /// RFC 3501 §6.3.3: superior levels that are missing are made too.
    fn create(
        &mut self,
        guid: Guid,
        name: &MailboxName,
        special_use: Option<&str>,
        selectable: bool,
    ) -> Result<Applied, Refusal> {
        // RFC 3501 §6.3.4: a \NoSelect name that DELETE left can be created again, with a new UIDVALIDITY.
        let replaced = match self.entry(name) {
            Some(entry) if !entry.selectable && selectable => Some(entry.guid),
            Some(_) => return Err(Refusal::AlreadyExists),
            None => None,
        };
        if self.entry_of(guid).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        let missing: Vec<MailboxName> =
            name.ancestors().filter(|ancestor| self.entry(ancestor).is_none()).collect();
        self.room_for(missing.len() + 1)?;
        if let Some(old) = replaced {
            self.account.mailboxes.retain(|entry| entry.guid != old);
            self.mailboxes.remove(&old);
            self.annotations.forget(old);
            self.removed.push(old);
        }
        for ancestor in missing {
            self.add_mailbox(self.derived(guid), ancestor, None, true)?;
        }
        self.add_mailbox(guid, name.clone(), special_use, selectable)?;
        Ok(Applied::Done)
    }

    fn delete(&mut self, guid: Guid) -> Result<Applied, Refusal> {
        let entry = self.entry_of(guid).ok_or(Refusal::NonExistent)?.clone();
        if guid == Guid::INBOX {
            return Err(Refusal::Cannot);
        }
        let children = self.has_children(&entry.name);
        if children && !entry.selectable {
            // RFC 3501 §6.3.4: a \NoSelect name with inferiors cannot be deleted.
            return Err(Refusal::Cannot);
        }
        self.account.modseq = self.account.modseq.next();
        if let Some(index) = self.mailboxes.remove(&guid) {
            let held = Usage { octets: index.total_size(), messages: index.len().into(), mailboxes: 0 };
            self.used = self.used.minus(held);
            let shared_out = index.rows_all().filter(|row| !row.shared()).map(|row| *row.place());
            self.freed.extend(shared_out);
        }
        self.removed.push(guid);
        // RFC 5464 §4.1: a mailbox that gets the name inherits nothing.
        self.annotations.forget(guid);
        if children {
            // RFC 3501 §6.3.4: with inferiors the name stays, \NoSelect, under a GUID of its own.
            let place_holder = self.derived(guid);
            self.account.uid_validity += 1;
            let entry = self.entry_mut(guid).expect("looked up above");
            entry.guid = place_holder;
            entry.selectable = false;
            entry.special_use = None;
            let (validity, created) = (entry.uid_validity, entry.created);
            self.mailboxes.insert(place_holder, MailboxIndex::new(place_holder, validity, created));
        } else {
            self.account.mailboxes.retain(|entry| entry.guid != guid);
        }
        Ok(Applied::Done)
    }

    fn rename(&mut self, guid: Guid, to: &MailboxName) -> Result<Applied, Refusal> {
        let from = self.entry_of(guid).ok_or(Refusal::NonExistent)?.name.clone();
        if guid == Guid::INBOX || to.is_inbox() || to.starts_under(&from) {
            return Err(Refusal::Cannot);
        }
        if self.entry(to).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        let mut renamed = Vec::new();
        for entry in &self.account.mailboxes {
            if entry.name == from {
                renamed.push((entry.guid, to.clone()));
            } else if entry.name.starts_under(&from) {
                let name = entry.name.renamed(&from, to).and_then(Result::ok).ok_or(Refusal::Limit)?;
                if self.entry(&name).is_some_and(|other| !other.name.starts_under(&from)) {
                    return Err(Refusal::AlreadyExists);
                }
                renamed.push((entry.guid, name));
            }
        }
        let missing: Vec<MailboxName> =
            to.ancestors().filter(|ancestor| self.entry(ancestor).is_none()).collect();
        self.room_for(missing.len())?;
        for (guid, name) in renamed {
            self.entry_mut(guid).expect("listed above").name = name;
        }
        for ancestor in missing {
            self.add_mailbox(self.derived(guid), ancestor, None, true)?;
        }
        self.account.modseq = self.account.modseq.next();
        self.account.mailboxes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Applied::Done)
    }

    fn rename_inbox(&mut self, guid: Guid, to: &MailboxName, save_date: i64) -> Result<Applied, Refusal> {
        if to.is_inbox() {
            return Err(Refusal::Cannot);
        }
        // RFC 3501 §6.3.5: as for any other RENAME, a name that is \NoSelect exists too.
        if self.entry(to).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        self.create(guid, to, None, true)?;
        self.copy(Guid::INBOX, &everything(), guid, save_date, true)?;
        // RFC 5464 §4.1: INBOX keeps its annotations, and the mailbox that has its messages gets them too.
        self.annotations.copy(Guid::INBOX, guid, self.account.modseq);
        Ok(Applied::Done)
    }

    /// RFC 5464 §4.3: all of them or none.
    fn annotate(
        &mut self,
        mailbox: Option<Guid>,
        entries: &[(EntryName, Option<Vec<u8>>)],
    ) -> Result<Applied, Refusal> {
        if let Some(guid) = mailbox {
            self.entry_of(guid).ok_or(Refusal::NonExistent)?;
        }
        let is_use = |name: &EntryName| mailbox.is_some() && name.is_special_use();
        let may_have_use = mailbox.is_some_and(|guid| guid != Guid::INBOX && self.selectable(guid).is_some());
        let (uses, others): (Vec<_>, Vec<_>) = entries.iter().partition(|(name, _)| is_use(name));
        let uses: Vec<Option<&str>> =
            uses.into_iter().map(|(_, value)| special_use_of(value.as_deref())).collect::<Result<_, _>>()?;
        // RFC 6154 §4: not blindly. INBOX is what it is, and a name without messages is of no use.
        if uses.iter().any(Option::is_some) && !may_have_use {
            return Err(Refusal::Cannot);
        }
        if others.iter().any(|(name, _)| !name.holds_values()) {
            return Err(Refusal::Cannot);
        }
        let of = mailbox.unwrap_or(SERVER);
        let values = others.iter().map(|(name, value)| (name, value.as_deref()));
        self.annotations.room_for(of, values).map_err(|_| Refusal::Limit)?;
        let modseq = self.account.modseq.next();
        let (mut changed, mut lost_use) = (false, None);
        for (name, value) in others {
            changed |= self.annotations.set(of, name, value.as_deref(), modseq);
        }
        if let Some(special_use) = uses.last() {
            let (uses, lost) = self.set_special_use(of, *special_use, modseq);
            (changed, lost_use) = (changed || uses, lost);
        }
        if changed {
            self.account.modseq = modseq;
        }
        Ok(Applied::Annotated { modseq: changed.then_some(modseq), lost_use })
    }

    /// RFC 6154 §5.4: one mailbox for each use; the one that had it has none then. Whether anything changed, and that mailbox.
    fn set_special_use(
        &mut self,
        guid: Guid,
        special_use: Option<&str>,
        modseq: ModSeq,
    ) -> (bool, Option<Guid>) {
        let Some(entry) = self.entry_mut(guid) else { return (false, None) };
        if entry.special_use.as_deref() == special_use {
            return (false, None);
        }
        entry.special_use = None;
        let had = self.account.mailboxes.iter_mut();
        let mut had =
            had.filter(|entry| special_use.is_some() && entry.special_use.as_deref() == special_use);
        let lost = had.next().map(|entry| {
            entry.special_use = None;
            entry.guid
        });
        if let Some(entry) = self.entry_mut(guid) {
            entry.special_use = special_use.map(str::to_owned);
        }
        let name = EntryName::special_use();
        [Some(guid), lost].into_iter().flatten().for_each(|of| self.annotations.touch(of, &name, modseq));
        (true, lost)
    }

    fn subscribe(&mut self, name: &MailboxName, on: bool) -> Result<Applied, Refusal> {
        let subscriptions = &mut self.account.subscriptions;
        match subscriptions.binary_search(name) {
            Ok(at) if !on => drop(subscriptions.remove(at)),
            Err(_) if on && subscriptions.len() >= SUBSCRIPTIONS_MAX => return Err(Refusal::Limit),
            Err(at) if on => subscriptions.insert(at, name.clone()),
            _ => {}
        }
        Ok(Applied::Done)
    }

    fn relocate(&mut self, from: &[[u8; PLACE_OCTETS]], to: &[[u8; PLACE_OCTETS]]) -> Applied {
        if fault::on(Fault::RelocateForgets) {
            return Applied::Done;
        }
        let moved: BTreeMap<&[u8; PLACE_OCTETS], &[u8; PLACE_OCTETS]> = from.iter().zip(to).collect();
        let mut taken = BTreeSet::new();
        for index in self.mailboxes.values_mut() {
            let hits: Vec<_> = index
                .rows_all()
                .filter_map(|row| moved.get(row.place()).map(|to| (row.uid(), *row.place(), **to)))
                .collect();
            for (uid, from, to) in hits {
                index.set_place(uid, &from, to);
                taken.insert(from);
            }
        }
        // A body that a flush moved before the account was looked at may be one that no message took, or none has by now. While a
        // rebuild has messages to restore, it may be one of theirs.
        if self.unfinished.is_none() {
            let untaken = moved.iter().filter(|(from, _)| !taken.contains(**from));
            self.untaken.extend(untaken.map(|(_, to)| **to));
        }
        Applied::Done
    }

    fn delete_account(&mut self) -> Applied {
        if self.unfinished.take().is_some() {
            self.removed.push(Unfinished::KEY);
        }
        let guids: Vec<Guid> = self.mailboxes.keys().copied().collect();
        for guid in guids {
            if let Some(index) = self.mailboxes.remove(&guid) {
                self.freed.extend(index.rows_all().map(|row| *row.place()));
            }
            self.removed.push(guid);
        }
        self.account.mailboxes.clear();
        self.account.subscriptions.clear();
        self.used = Usage::default();
        self.account.quota = None;
        self.deliveries.clear();
        self.annotations.clear();
        self.refuse_late();
        let next = u128::from_le_bytes(self.account.incarnation.0).wrapping_add(1);
        self.account.incarnation = Guid(next.to_le_bytes());
        self.found_inbox();
        self.removed.retain(|guid| *guid != Guid::INBOX);
        Applied::Done
    }
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

/// The attribute that a value of `/private/specialuse` names (RFC 6154 §4): one, or none.
fn special_use_of(value: Option<&[u8]>) -> Result<Option<&str>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let text = std::str::from_utf8(value).map_err(|_| Refusal::Cannot)?;
    let fits = text.len() <= SPECIAL_USE_OCTETS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Some(text).filter(|text| !text.is_empty())) } else { Err(Refusal::Cannot) }
}

/// Another number for each number, with no order in it (the finaliser of SplitMix64). What it gives stands in stored
/// GUIDs: it never changes.
fn scrambled(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Every UID there can be; it costs one range.
pub fn everything() -> UidSet {
    std::iter::once(1..=u32::MAX).collect()
}

fn refusal(error: IndexError) -> Refusal {
    match error {
        // UIDs ascend by themselves here: none is brought along.
        IndexError::Limit(_) | IndexError::UidTaken { .. } => Refusal::Limit,
    }
}

#[cfg(test)]
mod tests;
