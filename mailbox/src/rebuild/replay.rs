//! The records beyond the blocks of an account that is remade, as far as it can be told what they mean.
//!
//! # Invariants
//! A mailbox is *sure* as long as it is, record by record, what it was when the record was committed. One whose blocks are not
//! whole never is. One that loses a record which gave UIDs, or may have, is not from there on: what comes after would get UIDs
//! that others had. All that are not sure get a new UIDVALIDITY.
//! A record that names UIDs of a mailbox that is not sure is left out.
//! MODSEQs of the account never fall behind those that were given.

use super::remake::Told;
use crate::record::{Message, Record};
use crate::state::State;
use culver_model::{DeliveryId, Guid, MailboxName, ModSeq};
use culver_storage::{Finding, LoadedRecord, Place, Position, Salvaged};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) struct Replay<'a> {
    state: &'a mut State,
    told: &'a mut Told,
    salvaged: &'a Salvaged,
    /// Those that are not behind.
    gaps: &'a [(Position, Guid)],
    unsure: BTreeSet<Guid>,
    /// Nothing is sure: a record is unreadable, and nobody knows of which mailbox it was.
    none_sure: bool,
    /// The ids of deliveries are those that were known, so that what was taken for sent again is again.
    deliveries_whole: bool,
    /// Ids of deliveries that were left out: where they come again they are taken, which they were not.
    left_out: BTreeSet<DeliveryId>,
    /// Above every UIDVALIDITY that a record gives, or gave.
    fresh: u32,
}

/// By how much one record moves the counter of UIDVALIDITYs at most: a mailbox, and the levels above it.
const VALIDITIES_MAX: u32 = MailboxName::LEVELS_MAX as u32 + 1;

/// A UIDVALIDITY above those that records beyond the blocks give.
pub(super) fn fresh_above(validity: u32, salvaged: &Salvaged) -> u32 {
    let records = salvaged.records.len() + salvaged.unreadable.len();
    let given = u32::try_from(records).unwrap_or(u32::MAX).saturating_mul(VALIDITIES_MAX);
    // Only where there is room: the counter must not come to its end for this.
    validity.checked_add(given).filter(|fresh| *fresh < u32::MAX / 2).unwrap_or(validity)
}

impl<'a> Replay<'a> {
    /// `fresh`: of [`fresh_above`], or what was given above it.
    pub fn new(
        state: &'a mut State,
        told: &'a mut Told,
        salvaged: &'a Salvaged,
        deliveries_whole: bool,
        fresh: u32,
    ) -> Replay<'a> {
        let unsure = told.renewed.keys().copied().collect();
        let (none_sure, left_out) = (false, BTreeSet::new());
        let gaps = &salvaged.gaps[..];
        Replay { state, told, salvaged, gaps, unsure, none_sure, deliveries_whole, left_out, fresh }
    }

    /// Carries all of them out. Gives the mailboxes that are not sure.
    pub fn run(mut self) -> BTreeSet<Guid> {
        let salvaged = self.salvaged;
        let mut unreadable = salvaged.unreadable.iter().peekable();
        for record in &salvaged.records {
            while let Some(position) = unreadable.next_if(|position| **position < record.position) {
                self.pass_gaps(*position);
                self.lose_unknown();
            }
            self.pass_gaps(record.position);
            match Record::decode(&record.meta) {
                Ok(decoded) => self.record(record, &decoded),
                Err(error) => {
                    let what = format!("record {}: {error}", record.position);
                    let path = Path::new("journal").to_owned();
                    self.told.findings.push(Finding { path, offset: 0, what });
                    self.lose_unknown();
                }
            }
        }
        for position in unreadable {
            self.pass_gaps(*position);
            self.lose_unknown();
        }
        // Those behind the last record count when the account is opened.
        self.state.freed.clear();
        self.state.untaken.clear();
        self.state.removed.clear();
        if self.none_sure {
            self.unsure.extend(self.state.mailboxes.keys());
        }
        self.unsure
    }

    fn pass_gaps(&mut self, position: Position) {
        while let [(gap, of), later @ ..] = self.gaps
            && *gap < position
        {
            self.state.raise(*of);
            self.gaps = later;
        }
    }

    fn is_sure(&self, mailbox: &Guid) -> bool {
        !self.none_sure && !self.unsure.contains(mailbox)
    }

    fn lose_unknown(&mut self) {
        self.told.changes_lost += 1;
        // It may have made a mailbox, or renamed one.
        self.told.list_lost = true;
        self.none_sure = true;
    }

    fn record(&mut self, record: &LoadedRecord, decoded: &Record) {
        let modseq = self.state.account.modseq;
        if self.is_lost(record, decoded) {
            self.leave_out(decoded);
        } else {
            self.doubt(decoded);
            self.carry_out(record, decoded);
        }
        if self.none_sure || self.told.list_lost || !self.unsure.is_empty() {
            // It may have moved the counter when it was committed.
            let most = match decoded {
                Record::Create { .. } | Record::Rename { .. } | Record::RenameInbox { .. } => {
                    u64::from(VALIDITIES_MAX) + 1
                }
                Record::Replace { .. } => 2,
                _ => 1,
            };
            let moved = ModSeq((modseq.get() + most).min(ModSeq::MAX.get()));
            self.state.account.modseq = self.state.account.modseq.max(moved);
        }
    }

    /// Whether it speaks of what is gone or cannot be told.
    fn is_lost(&self, record: &LoadedRecord, decoded: &Record) -> bool {
        let salvaged = self.salvaged;
        let plain = match decoded {
            Record::Named { record, .. } => record,
            // Others that came late find their messages by GUID.
            Record::Late { record, .. } if matches!(**record, Record::Append { .. }) => record,
            other => other,
        };
        match plain {
            Record::Append { message, .. } => {
                let known = |id: &DeliveryId| self.state.deliveries.knows(id, message.save_date);
                let repeated = self.deliveries_whole && message.delivery.as_ref().is_some_and(known);
                !repeated && record.bodies.iter().any(|place| !salvaged.is_there(place))
            }
            Record::Restore { place, .. } => {
                Place::from_bytes(place).is_none_or(|place| !salvaged.is_there(&place))
            }
            Record::Store { mailbox, .. } | Record::Expunge { mailbox, .. } => !self.is_sure(mailbox),
            Record::Replace { from, .. } => {
                !self.is_sure(from) || record.bodies.iter().any(|place| !salvaged.is_there(place))
            }
            Record::Copy { from, .. } => !self.is_sure(from),
            Record::RenameInbox { .. } => !self.is_sure(&Guid::INBOX),
            _ => false,
        }
    }

    /// The mailbox in which it gave UIDs is not sure any more.
    fn leave_out(&mut self, decoded: &Record) {
        self.told.changes_lost += 1;
        match decoded {
            Record::Append { mailbox, message } => {
                self.left_out.extend(message.delivery);
                self.unsure.insert(*mailbox);
            }
            // The other message is not gone where it should be.
            Record::Replace { mailbox, from, .. } => self.unsure.extend([*mailbox, *from]),
            Record::Named { record, .. } => {
                if let Record::Copy { to, .. } = &**record {
                    self.unsure.insert(*to);
                }
            }
            Record::Late { record, .. } => {
                if let Record::Append { mailbox, message } = &**record {
                    self.left_out.extend(message.delivery);
                    self.unsure.extend([*mailbox, Guid::INBOX]);
                }
            }
            Record::Restore { mailbox, .. } => drop(self.unsure.insert(*mailbox)),
            Record::Copy { to, .. } => drop(self.unsure.insert(*to)),
            Record::RenameInbox { guid, to, .. } => {
                // The mailbox is made, and the messages stay where they are.
                let create =
                    Record::Create { guid: *guid, name: to.clone(), special_use: None, selectable: true };
                let _ = self.state.apply(&create, &[]);
                self.unsure.insert(*guid);
            }
            _ => {}
        }
    }

    /// A record that is carried out may do other than it did: mailboxes in which it then gives other UIDs are not sure any more.
    fn doubt(&mut self, decoded: &Record) {
        let doubtful = |message: &Message| {
            message.delivery.as_ref().is_some_and(|id| !self.deliveries_whole || self.left_out.contains(id))
        };
        // The list has the marks of what came late already, and says what goes to INBOX.
        let list_lost = self.told.list_lost || self.none_sure;
        match decoded {
            Record::Append { mailbox, message } if doubtful(message) => drop(self.unsure.insert(*mailbox)),
            Record::Late { record, .. } => match &**record {
                // One whose keywords had no room went to INBOX; in a mailbox that began anew they may have.
                Record::Append { mailbox, message }
                    if list_lost
                        || doubtful(message)
                        || (!self.is_sure(mailbox) && !message.flags.keywords.is_empty()) =>
                {
                    self.unsure.extend([*mailbox, Guid::INBOX]);
                }
                Record::Named { record, .. } => match &**record {
                    Record::Copy { from, to, .. } if list_lost || !self.is_sure(from) => {
                        self.unsure.insert(*to);
                    }
                    _ => {}
                },
                _ => {}
            },
            _ => {}
        }
    }

    fn carry_out(&mut self, record: &LoadedRecord, decoded: &Record) {
        if *decoded == Record::DeleteAccount {
            self.begin_anew();
        }
        let places: Vec<_> = record.bodies.iter().map(Place::to_bytes).collect();
        // What was refused is refused again; what names a mailbox that is lost comes back with the bodies that are found.
        let _ = self.state.apply(decoded, &places);
    }

    /// The account is deleted: what was before does not count, but for counters.
    fn begin_anew(&mut self) {
        if self.none_sure || !self.unsure.is_empty() || self.told.list_lost {
            self.state.account.uid_validity = self.state.account.uid_validity.max(self.fresh);
        }
        self.told.renewed.clear();
        self.told.list_lost = false;
        self.unsure.clear();
        self.none_sure = false;
        self.left_out.clear();
        self.deliveries_whole = true;
    }
}
