//! What came late: records that a node had told its clients, and that its successor learns of when it is back.
//!
//! # Invariants
//! A late record counts once, by its journal and its number there: the account keeps the last of each.
//! A gap after a takeover is larger than all the UIDs and MODSEQs that can be told and not be in the store, so that no number
//! that the earlier owner told is ever given again.
//! What happened since is never undone by it: messages are found by GUID, and one that has no place to go goes to INBOX.
//!
//! # Limits
//! [`AT_A_TIME`] records of an account are under way. [`NAMED_MAX`] messages of one record. A change of more, and every change of the mailboxes themselves, is told when the store
//! has it, so that it cannot come late.

use crate::accounts::{Account, Accounts, COMMIT_WITHIN, ChangeError, late};
use crate::fault::{self, Fault};
use crate::flush::STEP_ROWS;
use crate::record::{Message, Record};
use crate::state::{Applied, Refusal, State};
use culver_index::{FlagId, MailboxIndex, PLACE_OCTETS};
use culver_model::{AccountId, FlagSet, Guid, ModSeq, SystemFlag, Uid, UidSet};
use culver_shard::sync::oneshot;
use culver_shard::{Pace, time};
use culver_storage::{Body, CommitError, Committed, Haste, LateRecord, Merged, NUMBERS_MAX, SourceError};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// How far UIDNEXT of every mailbox, and the MODSEQ of the account, are raised by a gap. It stands behind UIDs in accounts: it
/// never changes.
pub const GAP: u32 = 1 << 17;
const _: () = assert!(GAP > NUMBERS_MAX, "a gap passes all that can be told and be missing");

/// Messages that a record names by GUID.
pub const NAMED_MAX: usize = 1024;

/// Late records of an account that are on their way together.
const AT_A_TIME: usize = 256;

impl State {
    /// The owner before, of journal `of`, may have told clients of more than is known here.
    pub fn raise(&mut self, of: Guid) {
        // From now on the account knows of whom something may come; no late record has lsn 0, where a journal is opened.
        if let Err(at) = self.account.late.binary_search_by(|(journal, _)| journal.cmp(&of)) {
            self.account.late.insert(at, (of, 0));
        }
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

    /// Nothing that is still to come was meant for who has the name of the account next.
    pub(crate) fn refuse_late(&mut self) {
        if fault::on(Fault::LateToNamesake) {
            return;
        }
        self.account.late.iter_mut().for_each(|(_, last)| *last = u64::MAX);
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
    let mut left: u32 = elsewhere.values().sum();
    // What came late has the newest UIDs.
    let mut rows = index.rows_newest();
    while left > 0
        && let Some(row) = rows.next()
    {
        let uid = row.uid().get();
        let Some(count) = elsewhere.get_mut(&row.guid()).filter(|count| **count > 0) else { continue };
        if !uids.contains(uid) {
            uids.insert(uid);
            (*count, left) = (*count - 1, left - 1);
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
        // A change before it may mark more: which ones it means is known when that is applied.
        if matches!(record, Record::Expunge { only_deleted: true, .. }) && account.is_changing() {
            return (record, None);
        }
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

    /// Takes up late records of one account, in their order, up to [`AT_A_TIME`] together.
    pub(crate) async fn take_late(
        self: &Rc<Self>,
        id: &AccountId,
        of: Guid,
        records: Vec<LateRecord>,
    ) -> Result<Merged, SourceError> {
        let wrong = |error: &dyn std::fmt::Display| SourceError(format!("{id}: {error}"));
        let session = self.session(id).await.map_err(|error| wrong(&error))?;
        let new = records.iter().filter_map(|late| match Record::decode(&late.meta) {
            Ok(Record::Append { message, .. }) => Some(message.guid),
            _ => None,
        });
        let known = there_of(session.account(), new.collect()).await.map_err(|why| wrong(&why))?;
        let mut merged = Merged::default();
        let mut under_way = UnderWay::default();
        for LateRecord { lsn, meta, bodies } in records {
            let record = Record::decode(&meta).map_err(|error| wrong(&error))?;
            // One that names messages may mean some that are on their way.
            if under_way.outcomes.len() >= AT_A_TIME || matches!(record, Record::Named { .. }) {
                under_way.taken(id, &mut merged).await?;
            }
            // A rebuild began and ended meanwhile: what it restored is not known here.
            if self.opened(id).is_none_or(|open| !Rc::ptr_eq(&open, session.account())) {
                return Err(wrong(&"the account was closed meanwhile"));
            }
            let (conflicts, done) = {
                let state = session.account().state();
                let done = state.late_mark(of).is_some_and(|mark| mark >= lsn);
                (conflicts(&state, &record), done)
            };
            if let Record::Append { message, .. } = &record
                && known.contains(&message.guid)
                && !done
            {
                // A rebuild found it in what was on its way to the store, and restored it.
                merged.records += 1;
                continue;
            }
            let Some(conflicts) = conflicts.filter(|_| !done || fault::on(Fault::LateTwice)) else {
                continue;
            };
            if conflicts {
                tracing::warn!(
                    account = id.as_str(),
                    "a change that came late means messages or a mailbox that are gone: what is left of it is done"
                );
            }
            let late = Record::Late { of, lsn, record: Box::new(record) };
            self.submit_late(id, late, bodies, conflicts, &mut under_way)
                .await
                .map_err(|error| wrong(&error))?;
        }
        under_way.taken(id, &mut merged).await?;
        Ok(merged)
    }

    /// Submits one, behind those that are under way.
    async fn submit_late(
        self: &Rc<Self>,
        id: &AccountId,
        record: Record,
        bodies: Vec<Body>,
        conflicts: bool,
        under_way: &mut UnderWay,
    ) -> Result<(), ChangeError> {
        // A mark stands for all before it: behind one that is lost nothing is submitted.
        if under_way.lost.get() {
            return Err(ChangeError::Unavailable("one before it was not committed".into()));
        }
        let (answer, answered) = oneshot::channel();
        let (accounts, owner, lost) = (self.clone(), id.clone(), under_way.lost.clone());
        let meta = record.encode();
        let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
            lost.set(lost.get() || committed.is_err());
            let committed = committed.map_err(|error| ChangeError::Unavailable(error.to_string()));
            let _ =
                answer.send(committed.and_then(|committed| accounts.committed(&owner, &record, &committed)));
        });
        let partition = self.storage().partition_of(id);
        let haste = Haste::Interactive;
        // It counts when the store has it, however this node acknowledges.
        let submitting = self.storage().submit_numbered(partition, id, meta, bodies, haste, None, on_commit);
        match time::deadline(COMMIT_WITHIN, submitting).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(ChangeError::Unavailable(error.to_string())),
            Err(_) => return Err(late()),
        }
        under_way.outcomes.push((conflicts, answered));
        Ok(())
    }
}

/// What became of a record.
type Outcome = Result<Option<Applied>, ChangeError>;

/// Late records that are submitted, in their order.
#[derive(Default)]
struct UnderWay {
    /// With each, whether it meets what its owner did not know of.
    outcomes: Vec<(bool, oneshot::Receiver<Outcome>)>,
    /// One of them was not committed.
    lost: Rc<Cell<bool>>,
}

impl UnderWay {
    /// Waits until all are committed.
    async fn taken(&mut self, id: &AccountId, merged: &mut Merged) -> Result<(), SourceError> {
        let wrong = |error: &dyn std::fmt::Display| SourceError(format!("{id}: {error}"));
        for (conflicts, answered) in self.outcomes.drain(..) {
            let answered = time::deadline(COMMIT_WITHIN, answered).await.map_err(|_| wrong(&late()))?;
            match answered.map_err(|_| wrong(&"the shard is stopping"))? {
                Ok(Some(applied)) => {
                    let modified =
                        matches!(&applied, Applied::Store { modified, .. } if !modified.is_empty());
                    merged.conflicts += u64::from(conflicts || modified);
                }
                Ok(None) => return Err(wrong(&"the account was closed meanwhile")),
                Err(ChangeError::Refused(refusal)) => {
                    tracing::warn!(account = id.as_str(), %refusal, "a change that came late is not carried out");
                    merged.conflicts += 1;
                }
                Err(error) => return Err(wrong(&error)),
            }
            merged.records += 1;
        }
        Ok(())
    }
}

/// Those of these messages that the account has. An error while it is being rebuilt: what is restored then is not known yet.
async fn there_of(account: &Account, guids: HashSet<Guid>) -> Result<HashSet<Guid>, &'static str> {
    if account.state().unfinished.is_some() {
        return Err("it is being rebuilt, or has to be");
    }
    let mailboxes: Vec<Guid> = account.state().mailboxes.keys().copied().collect();
    let (mut there, mut pace) = (HashSet::new(), Pace::new());
    for mailbox in mailboxes.into_iter().filter(|_| !guids.is_empty()) {
        let mut next = Some(1);
        while let Some(first) = next.take() {
            if let Some(index) = account.state().mailboxes.get(&mailbox) {
                for row in index.rows_from(first).take(STEP_ROWS) {
                    if guids.contains(&row.guid()) {
                        there.insert(row.guid());
                    }
                    next = row.uid().get().checked_add(1);
                }
            }
            pace.breathe().await;
        }
    }
    Ok(there)
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
