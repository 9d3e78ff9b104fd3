//! A message on its way in: its octets go to storage while its structure is scanned.
//!
//! # Limits
//! Memory is bounded by storage's inline limit and the scanner's; a larger body stands on disk before its record.

use crate::accounts::{Accounts, Session};
use crate::record::{Message, Record};
use culver_model::mime::{Limits, Scanner, body, bodystructure, envelope};
use culver_model::{AccountId, DeliveryId, FlagSet, Guid, InternalDate, MailboxName};
use culver_shard::{random, time};
use culver_storage::{Body, BodyWriter};
use thiserror::Error;

/// The message's octets cannot be taken. Nothing of it is kept.
#[derive(Debug, Error)]
#[error("the message cannot be stored: {0}")]
pub struct ArriveError(#[from] std::io::Error);

impl ArriveError {
    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self.0.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }
}

/// One message arriving.
pub struct Arriving {
    writer: BodyWriter,
    scanner: Scanner,
    octets: u64,
    mailbox: Guid,
    /// Where it is not INBOX.
    mailbox_name: Option<MailboxName>,
    prefix_octets: u32,
    internal_date: InternalDate,
    flags: FlagSet,
    delivery: Option<DeliveryId>,
}

impl Arriving {
    /// An APPEND to an account of this session.
    pub fn begin(
        session: &Session,
        mailbox: Guid,
        internal_date: InternalDate,
        flags: FlagSet,
        octets_hint: u64,
    ) -> Arriving {
        let accounts = session.accounts();
        let mut arriving = Arriving::new(accounts, session.account().id(), internal_date, flags, octets_hint);
        arriving.mailbox = mailbox;
        let state = session.account().state();
        let entry = state.entry_of(mailbox).filter(|entry| !entry.name.is_inbox());
        arriving.mailbox_name = entry.map(|entry| entry.name.clone());
        arriving
    }

    /// A delivery to an account that need not be open.
    pub fn deliver(
        accounts: &Accounts,
        account: &AccountId,
        internal_date: InternalDate,
        octets_hint: u64,
    ) -> Arriving {
        Arriving::new(accounts, account, internal_date, FlagSet::default(), octets_hint)
    }

    fn new(
        accounts: &Accounts,
        account: &AccountId,
        internal_date: InternalDate,
        flags: FlagSet,
        octets_hint: u64,
    ) -> Arriving {
        let storage = accounts.storage();
        let writer = storage.body_writer(storage.partition_of(account), account, Some(octets_hint));
        let scanner = Scanner::new(Limits::default());
        let mailbox = Guid::INBOX;
        Arriving {
            writer,
            scanner,
            octets: 0,
            mailbox,
            mailbox_name: None,
            prefix_octets: 0,
            internal_date,
            flags,
            delivery: None,
        }
    }

    /// What the delivery is known by if its sender comes again.
    pub fn set_delivery(&mut self, id: Option<DeliveryId>) {
        self.delivery = id;
    }

    /// The body goes into a pack of its own, however short it is. Before its first octet.
    pub fn pack(&mut self) {
        self.writer.pack();
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// So many octets at the front are the recipient's own.
    pub fn set_prefix_octets(&mut self, octets: u32) {
        self.prefix_octets = octets;
    }

    pub async fn feed(&mut self, octets: &[u8]) -> Result<(), ArriveError> {
        self.scanner.feed(octets);
        self.octets += octets.len() as u64;
        Ok(self.writer.write(octets).await?)
    }

    /// The message as its record has it, and its body.
    pub async fn finish(self) -> Result<(Message, Body), ArriveError> {
        let scanned = self.scanner.finish();
        let mut guid = Guid::default();
        random::fill(&mut guid.0);
        let headers = scanned.chosen_headers();
        let message = Message {
            guid,
            email_id: guid,
            thread_id: 0,
            internal_date: self.internal_date,
            save_date: time::wall().0,
            size: self.octets,
            prefix_octets: self.prefix_octets,
            flags: self.flags,
            envelope: envelope(&scanned),
            body: body(&scanned),
            bodystructure: bodystructure(&scanned),
            parts: scanned.table().encode(),
            headers_complete: headers.is_some(),
            headers: headers.unwrap_or_default(),
            pop3_uidl: None,
            pop3_order: 0,
            key_id: 0,
            mailbox_name: self.mailbox_name,
            delivery: self.delivery,
        };
        if !self.writer.is_packed() {
            return Ok((message, self.writer.finish().await?));
        }
        // In a pack of its own the message carries what its record says of it, so that the pack alone can tell.
        let record = Record::Append { mailbox: self.mailbox, message: Box::new(message) };
        let body = self.writer.finish_labelled(&record.encode()).await?;
        let Record::Append { message, .. } = record else { unreachable!("made above") };
        Ok((*message, body))
    }
}
