//! What came late: records that a node had told its clients, and that its successor learns of when it is back.
//!
//! # Invariants
//! A late record counts once, by its journal and its number there: the account keeps the last of each.
//! A gap after a takeover is larger than all the UIDs and MODSEQs that can be told and not be in the store, so that no number
//! that the earlier owner told is ever given again.
//! What happened since is never undone by it: messages are found by GUID, and one that has no place to go goes to INBOX.
//!
//! # Limits
//! [`NAMED_MAX`] messages of one record. A change of more, and every change of the mailboxes themselves, is told when the store
//! has it, so that it cannot come late.

use crate::accounts::{Accounts, ChangeError};
use crate::fault::{self, Fault};
use crate::record::{Message, Record};
use crate::state::{Applied, Refusal, State};
use culver_index::{FlagId, MailboxIndex, PLACE_OCTETS};
use culver_model::{AccountId, FlagSet, Guid, ModSeq, SystemFlag, Uid, UidSet};
use culver_storage::{Haste, LateRecord, Merged, NUMBERS_MAX, SourceError};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How far UIDNEXT of every mailbox, and the MODSEQ of the account, are raised by a gap. It stands behind UIDs in accounts: it
/// never changes.
pub const GAP: u32 = 1 << 17;
const _: () = assert!(GAP > NUMBERS_MAX, "a gap passes all that can be told and be missing");

/// Messages that a record names by GUID.
pub const NAMED_MAX: usize = 1024;

impl State {
    /// The owner before may have told clients of more than is known here.
    pub fn raise(&mut self) {
        let modseq = ModSeq((self.account.modseq.get() + u64::from(GAP)).min(ModSeq::MAX.get()));
        self.account.modseq = modseq;
        let gap = if fault::on(Fault::GapWithoutUids) { 0 } else { GAP };
        for index in self.mailboxes.values_mut() {
            index.raise(gap, 0);
            index.set_highest_modseq(modseq);
        }
    }

    /// The last record of a journal that came late and counts; `None` where there is none.
    pub fn late_mark(&self, of: Guid) -> Option<u64> {
        let at = self.account.late.binary_search_by(|(journal, _)| journal.cmp(&of)).ok()?;
        Some(self.account.late[at].1)
    }

    pub(crate) fn late(
        &mut self,
        of: Guid,
        lsn: u64,
        record: &Record,
        places: &[[u8; PLACE_OCTETS]],
    ) -> Result<Applied, Refusal> {
        match self.account.late.binary_search_by(|(journal, _)| journal.cmp(&of)) {
            Ok(at) if self.account.late[at].1 >= lsn && !fault::on(Fault::LateTwice) => {
                return Ok(Applied::Done);
            }
            Ok(at) => self.account.late[at].1 = lsn,
            Err(at) => self.account.late.insert(at, (of, lsn)),
        }
        match record {
            Record::Append { mailbox, message } => {
                let place = places.first().copied().unwrap_or([0; PLACE_OCTETS]);
                self.append_late(*mailbox, message, place)
            }
            Record::Named { record, messages } => {
                let mailbox = mailbox_of(record).ok_or(Refusal::Cannot)?;
                let index = self.selectable(mailbox).ok_or(Refusal::NonExistent)?;
                let found = found(index, messages);
                self.apply(&with_uids(record, found), places)
            }
            Record::Subscribe { .. } => self.apply(record, places),
            // None of these was told to anybody.
            _ => Err(Refusal::Cannot),
        }
    }

    /// A message is never refused for what has become of its mailbox.
    fn append_late(
        &mut self,
        mailbox: Guid,
        message: &Message,
        place: [u8; PLACE_OCTETS],
    ) -> Result<Applied, Refusal> {
        let bare = |flags: &FlagSet| FlagSet { system: flags.system, keywords: Vec::new() };
        self.append(mailbox, message, place).or_else(|_| self.append(Guid::INBOX, message, place)).or_else(
            |_| {
                let message = Message { flags: bare(&message.flags), ..message.clone() };
                self.append(mailbox, &message, place).or_else(|_| self.append(Guid::INBOX, &message, place))
            },
        )
    }
}

/// The UIDs that messages have now.
fn found(index: &MailboxIndex, messages: &[(u32, Guid)]) -> UidSet {
    let mut uids = UidSet::new();
    let mut elsewhere: BTreeMap<Guid, u32> = BTreeMap::new();
    for (uid, guid) in messages {
        let here = Uid::new(*uid).and_then(|uid| index.get(uid)).is_some_and(|row| row.guid() == *guid);
        if here {
            uids.insert(*uid);
        } else {
            *elsewhere.entry(*guid).or_default() += 1;
        }
    }
    if !elsewhere.is_empty() {
        for row in index.rows_all() {
            let uid = row.uid().get();
            let Some(count) = elsewhere.get_mut(&row.guid()).filter(|count| **count > 0) else { continue };
            if !uids.contains(uid) {
                uids.insert(uid);
                *count -= 1;
            }
        }
    }
    uids
}

fn with_uids(record: &Record, uids: UidSet) -> Record {
    let mut record = record.clone();
    match &mut record {
        Record::Store { uids: old, .. } | Record::Expunge { uids: old, .. } => *old = uids,
        Record::Copy { uids: old, whole, .. } => (*old, *whole) = (uids, false),
        _ => {}
    }
    record
}

impl Accounts {
    /// A record as it is submitted where changes are told after the local disk, and how many numbers it gives; `None`: it is
    /// told when the store has it.
    pub(crate) fn named(&self, id: &AccountId, record: Record) -> (Record, Option<u32>) {
        if !self.storage().acks_locally() {
            return (record, Some(1));
        }
        let Some(mailbox) = mailbox_of(&record) else {
            let soon =
                matches!(record, Record::Append { .. } | Record::Subscribe { .. } | Record::Relocate { .. });
            return (record, soon.then_some(1));
        };
        let Some(account) = self.opened(id) else { return (record, None) };
        let state = account.state();
        let Some(index) = state.selectable(mailbox) else { return (record, None) };
        let Some(messages) = messages_of(index, &record) else { return (record, None) };
        match record {
            Record::Copy { ref uids, whole, .. } if whole && uids.len() != messages.len() as u64 => {
                (record, None)
            }
            Record::Copy { from, to, save_date, remove, whole, .. } => {
                // Exactly these, so that it gives no more numbers than are counted.
                let uids = messages.iter().map(|(uid, _)| *uid).collect();
                let numbers = messages.len().max(1) as u32;
                let record = Box::new(Record::Copy { from, uids, to, save_date, remove, whole });
                (Record::Named { record, messages }, Some(numbers))
            }
            record => (Record::Named { record: Box::new(record), messages }, Some(1)),
        }
    }

    /// Takes up late records of one account, in their order, each when the one before is committed.
    pub(crate) async fn take_late(
        self: &Rc<Self>,
        id: &AccountId,
        of: Guid,
        records: Vec<LateRecord>,
    ) -> Result<Merged, SourceError> {
        let wrong = |error: &dyn std::fmt::Display| SourceError(format!("{id}: {error}"));
        let session = self.session(id).await.map_err(|error| wrong(&error))?;
        let mut merged = Merged::default();
        for LateRecord { lsn, meta, bodies } in records {
            let record = Record::decode(&meta).map_err(|error| wrong(&error))?;
            let (conflicts, known) = {
                let state = session.account().state();
                let known =
                    state.late_mark(of).is_some_and(|mark| mark >= lsn) && !fault::on(Fault::LateTwice);
                (conflicts(&state, &record), known)
            };
            let Some(conflicts) = conflicts.filter(|_| !known) else { continue };
            if conflicts {
                tracing::warn!(
                    account = id.as_str(),
                    "a change that came late means messages or a mailbox that are gone: what is left of it is done"
                );
            }
            let late = Record::Late { of, lsn, record: Box::new(record) };
            match self.commit(id, late, bodies, Haste::Interactive).await {
                Ok(Some(applied)) => {
                    let modified =
                        matches!(&applied, Applied::Store { modified, .. } if !modified.is_empty());
                    merged.records += 1;
                    merged.conflicts += u64::from(conflicts || modified);
                }
                Ok(None) => return Err(wrong(&"the account was closed meanwhile")),
                Err(ChangeError::Refused(refusal)) => {
                    tracing::warn!(account = id.as_str(), %refusal, "a change that came late is not carried out");
                    merged.records += 1;
                    merged.conflicts += 1;
                }
                Err(error) => return Err(wrong(&error)),
            }
        }
        Ok(merged)
    }
}

/// The messages that a Store, Expunge or Copy means now; `None` where they are too many to be named.
fn messages_of(index: &MailboxIndex, record: &Record) -> Option<Vec<(u32, Guid)>> {
    let named = |row: culver_index::Row<'_>| (row.uid().get(), row.guid());
    let messages: Vec<(u32, Guid)> = match record {
        Record::Expunge { uids, only_deleted: true, .. } => {
            let deleted = index.bitmap(FlagId::system(SystemFlag::Deleted));
            if deleted.len() > NAMED_MAX as u64 {
                return None;
            }
            let meant = deleted.iter().filter(|uid| uids.contains(*uid)).filter_map(Uid::new);
            meant.filter_map(|uid| index.get(uid)).map(named).collect()
        }
        Record::Store { uids, .. } | Record::Expunge { uids, .. } | Record::Copy { uids, .. } => {
            index.rows(uids).take(NAMED_MAX + 1).map(named).collect()
        }
        _ => return None,
    };
    (messages.len() <= NAMED_MAX).then_some(messages)
}

/// Whether a late record meets what its owner did not know of; `None` where it was told to nobody, and is not taken up.
fn conflicts(state: &State, record: &Record) -> Option<bool> {
    match record {
        // In another mailbox than it was told to be in.
        Record::Append { mailbox, .. } => Some(state.selectable(*mailbox).is_none()),
        Record::Named { record, messages } => {
            let index = mailbox_of(record).and_then(|mailbox| state.selectable(mailbox));
            Some(index.is_none_or(|index| found(index, messages).len() < messages.len() as u64))
        }
        Record::Subscribe { .. } => Some(false),
        _ => None,
    }
}

/// The mailbox whose messages a Store, Expunge or Copy means.
fn mailbox_of(record: &Record) -> Option<Guid> {
    match record {
        Record::Store { mailbox, .. }
        | Record::Expunge { mailbox, .. }
        | Record::Copy { from: mailbox, .. } => Some(*mailbox),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
