//! Rebuild: an account whose index is damaged or lost is restored from what is left of it, and from the labels of its bodies.
//!
//! # Order
//! First one flush replaces the account's blocks by what can still be read ([`remake`]), with a mark that the rebuild is not
//! finished. Then the account is open to everybody, and every message that is found and that the index does not know comes in
//! by a record of its own. The last record takes the mark away.
//!
//! # Crash
//! Before that flush is committed nothing was changed. After it the account is whole but for messages that are still to come, no
//! compaction takes a body from it, and a rebuild that is asked for again goes on.
//!
//! # Limits
//! [`BATCH_OCTETS`] and [`BATCH_MESSAGES`] of what is found are held, and 16 octets for each message of the account.

pub(crate) mod remake;
mod replay;

use self::remake::{Remade, Told, blocks, remake};
use crate::accounts::{Account, Accounts, ChangeError, OpenError, Session};
use crate::flush::{STEP_ROWS, TRIES};
use crate::record::{Message, Record};
use crate::state::{Applied, State};
pub use culver_index::Unfinished;
use culver_model::{AccountId, Guid, MailboxName};
use culver_shard::{Pace, random, sync, time};
use culver_storage::{Finding, LocalFuture, Met, Place, ReadError, Salvaged, Scan, Standing};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use thiserror::Error;

/// The mailbox of messages of which it cannot be told where they were.
pub const RECOVERED: &str = "Recovered";
/// Octets of messages' records, and messages, that are put in order before they are restored.
const BATCH_OCTETS: usize = 32 << 20;
const BATCH_MESSAGES: usize = 50_000;
/// Messages whose commits are waited for together.
const AT_A_TIME: usize = 256;
/// Findings that are told one by one.
pub const FINDINGS_MAX: usize = 1000;

/// Why an account was not rebuilt, or not to the end: asked for again, it goes on.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// The director's to act on.
    #[error("the account is not served here ({0:?})")]
    Away(Standing),
    #[error("it cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("its new blocks were not stored, and nothing was changed: {0}")]
    Store(std::io::Error),
    #[error("it was rebuilt and cannot be opened: {0}")]
    Open(#[from] OpenError),
    #[error("a part of what was found is not restored yet: {0}; rebuild it again")]
    Change(#[from] ChangeError),
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects that were looked through, and how many there are.
    pub objects: usize,
    pub objects_all: usize,
    pub restored: u64,
}

/// What a rebuild did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub account: String,
    pub dry_run: bool,
    /// Something was damaged or missing, or an earlier rebuild not finished. If not, nothing was done.
    pub damaged: bool,
    /// The list of mailboxes was lost, or is one of an earlier time: names, special uses and subscriptions are missing.
    pub list_lost: bool,
    /// Mailboxes that were made anew, by name.
    pub mailboxes: BTreeMap<String, RebuiltMailbox>,
    /// Messages that were found in objects and restored.
    pub restored: u64,
    /// Messages that the index names and whose bodies are gone.
    pub gone: u64,
    /// Changes that stood in the journal alone and could not be carried out.
    pub changes_lost: u64,
    /// Objects and octets that were looked through.
    pub objects: u64,
    pub octets: u64,
    /// What is damaged or missing; at most [`FINDINGS_MAX`] are kept.
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuiltMailbox {
    /// 0 where it is not known yet.
    pub uid_validity: u32,
    /// Messages that what was left of its index knew.
    pub kept: u64,
    pub restored: u64,
}

impl Rebuilt {
    fn find(&mut self, finding: Finding) {
        if self.findings.len() >= FINDINGS_MAX {
            self.findings_left_out += 1;
        } else if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn tell(&mut self, told: Told, state: &State) {
        self.damaged = told.damaged || state.unfinished.is_some();
        (self.list_lost, self.gone, self.changes_lost) = (told.list_lost, told.gone, told.changes_lost);
        for (guid, kept) in told.renewed {
            let Some(entry) = state.entry_of(guid) else { continue };
            let mailbox = RebuiltMailbox { uid_validity: entry.uid_validity.get(), kept, restored: 0 };
            self.mailboxes.insert(entry.name.as_str().to_owned(), mailbox);
        }
        told.findings.into_iter().for_each(|finding| self.find(finding));
    }
}

/// A message that was found.
struct FoundMessage {
    mailbox: Guid,
    place: Place,
    message: Box<Message>,
}

/// Where a message goes.
enum Target {
    In(Guid, MailboxName),
    Make(Guid, MailboxName),
}

impl Accounts {
    /// Restores an account of this shard. With `dry_run` only what would be done is told, and nothing changed.
    pub async fn rebuild(
        self: &Rc<Self>,
        id: &AccountId,
        dry_run: bool,
        progress: &Cell<Progress>,
    ) -> Result<Rebuilt, RebuildError> {
        match self.standing(id) {
            Standing::Here => {}
            standing => return Err(RebuildError::Away(standing)),
        }
        let partition = self.storage().partition_of(id);
        let _whole = self.storage().hold_compaction().await;
        let mut report = Rebuilt { account: id.as_str().to_owned(), dry_run, ..Rebuilt::default() };
        // Begun before anything is known, so that what comes meanwhile is not counted as found.
        let scan = self.storage().scan(partition, id);
        let looked = remake(self.storage().salvage(partition, id).await?, now()).await;
        let Remade { state, told, .. } = looked;
        let damaged = told.damaged;
        if dry_run || !(damaged || state.unfinished.is_some()) {
            report.tell(told, &state);
            if state.unfinished.is_some() {
                look_for(scan, &state, &mut report, progress).await?;
            }
            return Ok(report);
        }
        drop(scan);
        match damaged {
            true => self.replace(id, &mut report).await?,
            false => report.tell(told, &state),
        }
        drop(state);
        let session = self.session(id).await?;
        if session.account().state().unfinished.is_none() {
            // What was damaged is of no mailbox: no message is missing.
            return Ok(report);
        }
        self.restore(&session, &mut report, progress).await?;
        session.change(Record::Rebuilt).await?;
        drop(session);
        self.storage().flush(partition).await.map_err(RebuildError::Store)?;
        Ok(report)
    }

    /// Replaces the account's blocks by what can be read of them.
    async fn replace(&self, id: &AccountId, report: &mut Rebuilt) -> Result<(), RebuildError> {
        let partition = self.storage().partition_of(id);
        let remade: RefCell<Option<Remade>> = RefCell::new(None);
        let make = |salvaged: Salvaged| -> LocalFuture<'_, _> {
            let remade = &remade;
            Box::pin(async move {
                let mut made = remake(salvaged, now()).await;
                let content = blocks(&mut made).await;
                *remade.borrow_mut() = Some(made);
                Ok(content)
            })
        };
        let shut = self.shut(id).await;
        let shut = shut.map_err(|error| RebuildError::Store(std::io::Error::other(error.to_string())))?;
        self.storage().rebuild(partition, id, &make).await.map_err(RebuildError::Store)?;
        drop(shut);
        if let Some(Remade { state, told, .. }) = remade.take() {
            report.tell(told, &state);
        }
        Ok(())
    }

    /// Restores what is found and not known, in the order in which it came as far as a batch goes.
    async fn restore(
        &self,
        session: &Session,
        report: &mut Rebuilt,
        progress: &Cell<Progress>,
    ) -> Result<(), RebuildError> {
        let id = session.account().id();
        // Of one moment: what comes later is neither known nor found.
        let mut known = known_of(session.account()).await;
        let mut scan = self.storage().scan(session.account().partition(), id);
        let (mut batch, mut octets) = (Vec::new(), 0);
        while let Some(met) = scan.next().await? {
            let meta = if let Met::Body { meta, .. } = &met { meta.len() } else { 0 };
            if let Some(found) = take(met, &mut known, report) {
                octets += meta;
                batch.push(found);
            }
            if octets >= BATCH_OCTETS || batch.len() >= BATCH_MESSAGES {
                put_back(session, std::mem::take(&mut batch), report, &|report| {
                    tell_progress(progress, &scan, report);
                })
                .await?;
                octets = 0;
            }
            tell_progress(progress, &scan, report);
        }
        put_back(session, batch, report, &|report| tell_progress(progress, &scan, report)).await?;
        (report.objects, report.octets) = (scan.progress().1 as u64, scan.octets());
        Ok(())
    }
}

/// Counts what would be restored.
async fn look_for(
    mut scan: Scan,
    state: &State,
    report: &mut Rebuilt,
    progress: &Cell<Progress>,
) -> Result<(), RebuildError> {
    let mut known = known(state);
    while let Some(met) = scan.next().await? {
        if let Some(found) = take(met, &mut known, report) {
            let (Target::In(_, name) | Target::Make(_, name)) = target(state, &found);
            count(report, &name, 0);
        }
        tell_progress(progress, &scan, report);
    }
    (report.objects, report.octets) = (scan.progress().1 as u64, scan.octets());
    Ok(())
}

fn now() -> u32 {
    u32::try_from(time::wall().0).unwrap_or(u32::MAX / 2)
}

fn tell_progress(progress: &Cell<Progress>, scan: &Scan, report: &Rebuilt) {
    let (objects, objects_all) = scan.progress();
    progress.set(Progress { objects, objects_all, restored: report.restored });
}

/// The messages that the index of an open account knows. A message that moves meanwhile, or is expunged, must not be missed:
/// where anything changes it is looked at anew, and at last in one piece.
async fn known_of(account: &Account) -> HashSet<Guid> {
    for _ in 0..TRIES {
        let (position, mut pace) = (account.position(), Pace::new());
        let mut known = Known::begin(&account.state());
        while !known.step(&account.state(), STEP_ROWS) {
            pace.breathe().await;
            if account.position() != position || account.is_dropped() {
                break;
            }
        }
        if known.is_done() {
            return known.guids;
        }
    }
    known(&account.state())
}

/// The messages that an index knows that nobody changes.
fn known(state: &State) -> HashSet<Guid> {
    let mut known = Known::begin(state);
    while !known.step(state, usize::MAX) {}
    known.guids
}

/// Looks in steps at what an index knows. Nothing may change between them.
struct Known {
    guids: HashSet<Guid>,
    /// Mailboxes that are left, and the first UID of the last of them that was not looked at.
    left: Vec<Guid>,
    from: u32,
}

impl Known {
    fn begin(state: &State) -> Known {
        let messages = state.mailboxes.values().map(|index| index.len() as usize).sum();
        let (guids, left) = (HashSet::with_capacity(messages), state.mailboxes.keys().copied().collect());
        Known { guids, left, from: 1 }
    }

    fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Looks at so many rows at most, of one mailbox; true where that was all.
    fn step(&mut self, state: &State, rows_max: usize) -> bool {
        let index = self.left.last().and_then(|mailbox| state.mailboxes.get(mailbox));
        let (mut last, mut rows) = (None, 0);
        for row in index.iter().flat_map(|index| index.rows_from(self.from)).take(rows_max) {
            self.guids.insert(row.guid());
            (last, rows) = (Some(row.uid().get()), rows + 1);
        }
        match last.and_then(|last| last.checked_add(1)).filter(|_| rows == rows_max) {
            Some(next) => self.from = next,
            None => {
                self.left.pop();
                self.from = 1;
            }
        }
        self.is_done()
    }
}

/// A message that is not known yet, which it is from now on.
fn take(met: Met, known: &mut HashSet<Guid>, report: &mut Rebuilt) -> Option<FoundMessage> {
    let (meta, place) = match met {
        Met::Body { meta, place } => (meta, place),
        Met::Damaged(finding) => {
            report.find(finding);
            return None;
        }
    };
    let told = match Record::decode(&meta) {
        Ok(Record::Late { record, .. }) => Ok(*record),
        other => other,
    };
    match told {
        Ok(Record::Append { mailbox, mut message } | Record::Replace { mailbox, mut message, .. }) => {
            // Of a delivery of long ago, and the record that restores it does not have it: a replay must do the same.
            message.delivery = None;
            known.insert(message.guid).then_some(FoundMessage { mailbox, place, message })
        }
        // A body that a record of another kind brought has its message elsewhere.
        Ok(_) => None,
        Err(error) => {
            let what = format!("what is said of a message of the account: {error}");
            let path = std::path::PathBuf::from(place.object.to_string());
            report.find(Finding { path, offset: place.offset, what });
            None
        }
    }
}

/// Where a message belongs, as far as anything tells.
fn target(state: &State, found: &FoundMessage) -> Target {
    let left = state.unfinished.as_ref();
    if let Some(left) = left.filter(|left| !left.whole.contains(&found.mailbox)) {
        if let Some(entry) = state.entry_of(found.mailbox).filter(|entry| entry.selectable) {
            return Target::In(entry.guid, entry.name.clone());
        }
        if let (false, Some(name)) = (left.list_whole, &found.message.mailbox_name) {
            match state.entry(name) {
                None => return Target::Make(found.mailbox, name.clone()),
                Some(entry) if entry.selectable => return Target::In(entry.guid, entry.name.clone()),
                Some(_) => {}
            }
        }
    }
    let name = MailboxName::parse(RECOVERED).expect("a name without any special character");
    match state.entry(&name).filter(|entry| entry.selectable) {
        Some(entry) => Target::In(entry.guid, name),
        None => {
            let mut guid = Guid::default();
            random::fill(&mut guid.0);
            Target::Make(guid, name)
        }
    }
}

fn count(report: &mut Rebuilt, name: &MailboxName, uid_validity: u32) {
    let mailbox = report.mailboxes.entry(name.as_str().to_owned()).or_default();
    mailbox.restored += 1;
    mailbox.uid_validity = mailbox.uid_validity.max(uid_validity);
    report.restored += 1;
}

/// Restores messages, the oldest first.
async fn put_back(
    session: &Session,
    mut batch: Vec<FoundMessage>,
    report: &mut Rebuilt,
    told: &dyn Fn(&Rebuilt),
) -> Result<(), RebuildError> {
    batch.sort_by_key(|found| (found.message.save_date, found.place.object.epoch, found.place.object.number));
    let mut batch = batch.into_iter().peekable();
    while batch.peek().is_some() {
        let mut changes: Vec<LocalFuture<'_, _>> = Vec::with_capacity(AT_A_TIME);
        let mut names = Vec::with_capacity(AT_A_TIME);
        for found in batch.by_ref().take(AT_A_TIME) {
            let mut wanted = target(&session.account().state(), &found);
            if let Target::Make(guid, name) = wanted {
                let (made, special_use) = (name.clone(), None);
                let create = Record::Create { guid, name: made, special_use, selectable: true };
                session.change(create).await?;
                wanted = Target::In(guid, name);
            }
            let (Target::In(mailbox, name) | Target::Make(mailbox, name)) = wanted;
            let place = found.place.to_bytes();
            names.push((name, found.place));
            let record = Record::Restore { mailbox, place, message: found.message };
            changes.push(Box::pin(session.change(record)));
        }
        for (done, (name, place)) in sync::all(changes).await.into_iter().zip(names) {
            match done {
                Ok(Applied::Append { uid_validity, .. }) => count(report, &name, uid_validity.get()),
                Ok(_) => {}
                Err(ChangeError::Refused(refusal)) => {
                    let what =
                        format!("a message for {name:?} is not taken: {refusal}", name = name.as_str());
                    let path = std::path::PathBuf::from(place.object.to_string());
                    report.find(Finding { path, offset: place.offset, what });
                }
                Err(error) => return Err(error.into()),
            }
        }
        told(report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use culver_model::DeliveryId;
    use culver_storage::{ObjectId, ObjectKind};

    #[test]
    fn a_message_that_is_found_is_no_delivery_once_more() {
        let delivery = Some(DeliveryId([7; DeliveryId::OCTETS]));
        let message = Box::new(Message { guid: Guid([3; 16]), delivery, ..Message::default() });
        let meta = Record::Append { mailbox: Guid::INBOX, message }.encode();
        let object = ObjectId { kind: ObjectKind::Pack, shard: 0, epoch: 1, number: 1 };
        let place = Place { object, offset: 64, length: 1 };
        let (mut known, mut report) = (HashSet::new(), Rebuilt::default());
        let found = take(Met::Body { meta: meta.clone(), place }, &mut known, &mut report).expect("new");
        assert_eq!(found.message.delivery, None);
        let record =
            Record::Restore { mailbox: found.mailbox, place: place.to_bytes(), message: found.message };
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record), "a replay does the same");
        assert!(take(Met::Body { meta, place }, &mut known, &mut report).is_none(), "it is known now");
    }

    #[test]
    fn what_an_index_knows_is_looked_at_in_bounded_steps() {
        let mut state = State::default();
        let sent = Guid([8; 16]);
        let name = MailboxName::parse("Sent").expect("a name");
        let create = Record::Create { guid: sent, name, special_use: None, selectable: true };
        state.apply(&create, &[]).expect("it is made");
        let mut given = 0u8;
        for (mailbox, messages) in [(Guid::INBOX, 20), (sent, 13)] {
            for _ in 0..messages {
                given += 1;
                let message = Box::new(Message { guid: Guid([given; 16]), ..Message::default() });
                state.apply(&Record::Append { mailbox, message }, &[]).expect("it is taken");
            }
        }
        let all: HashSet<Guid> = (1..=given).map(|nth| Guid([nth; 16])).collect();
        assert_eq!(known(&state), all);
        for rows_max in [1, 7, 10, 13, 100] {
            let mut known = Known::begin(&state);
            let mut before = 0;
            while !known.step(&state, rows_max) {
                assert!(known.guids.len() - before <= rows_max, "{rows_max}");
                before = known.guids.len();
            }
            assert_eq!(known.guids, all, "{rows_max}");
        }
    }

    #[test]
    fn a_message_that_came_late_is_found() {
        let message = Box::new(Message { guid: Guid([1; 16]), ..Message::default() });
        let append = Record::Append { mailbox: Guid::INBOX, message };
        let meta = Record::Late { of: Guid([9; 16]), lsn: 5, record: Box::new(append) }.encode();
        let object = ObjectId { kind: ObjectKind::Pack, shard: 0, epoch: 1, number: 2 };
        let place = Place { object, offset: 0, length: 10 };
        let (mut known, mut report) = (HashSet::new(), Rebuilt::default());
        let found = take(Met::Body { meta, place }, &mut known, &mut report).expect("it is found");
        assert_eq!((found.mailbox, found.message.guid), (Guid::INBOX, Guid([1; 16])));
        assert!(report.findings.is_empty());
    }
}
