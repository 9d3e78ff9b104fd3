//! Records: what a journal record means to an account. A record is a command; applying it to the account's
//! state is a function of both alone, so replay after a crash gives the same UIDs and MODSEQs again.
//!
//! # Invariants
//! A record names mailboxes by GUID and messages by (mailbox GUID, UID). A delivery carries no UID: it is given in
//! journal order, so that a delivery to an account that is not open reads nothing.
//! What a kind means never changes; a new meaning is a new kind.
//!
//! # Limits
//! Every count and length is checked against what is left of the bytes before anything is allocated for it.

use culver_index::annotations::{SERVER, VALUE_OCTETS_MAX};
use culver_index::{NewMessage, PLACE_OCTETS};
use culver_model::{
    DeliveryId, EntryName, Flag, FlagSet, Guid, InternalDate, Keyword, MailboxName, ModSeq, Quota, Uid,
    UidSet,
};
use thiserror::Error;

/// The version of all kinds that there are. What a build does not know yet it refuses, by version or by kind.
pub const RECORD_VERSION: u8 = 1;

/// The kind of a record that holds any other.
const LATE_KIND: u8 = 16;
/// What an Append of kind 12 tells more than one of kind 1: the id of its delivery, the name of its mailbox.
const MORE_DELIVERY: u8 = 1;
const MORE_NAME: u8 = 2;

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("record version {0} is not known to this build (it reads 1)")]
    Version(u8),
    #[error("record kind {0} is not known to this build")]
    Kind(u8),
    #[error("record is cut short or a field of it is out of range (at octet {0})")]
    Malformed(usize),
}

/// How a STORE changes flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StoreOp {
    Replace = 0,
    Add = 1,
    Remove = 2,
}

/// A message as it enters an account: everything that the index keeps, but UID, MODSEQ and place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub guid: Guid,
    pub email_id: Guid,
    /// 0: not known.
    pub thread_id: u64,
    pub internal_date: InternalDate,
    /// Seconds since 1970: when it came into this mailbox (RFC 8514).
    pub save_date: i64,
    /// Octets, RFC822.SIZE: prefix and body.
    pub size: u64,
    /// Octets of the recipient's own prefix at the front.
    pub prefix_octets: u32,
    pub flags: FlagSet,
    pub envelope: Vec<u8>,
    pub body: Vec<u8>,
    pub bodystructure: Vec<u8>,
    pub parts: Vec<u8>,
    pub headers: Vec<u8>,
    /// `headers` has every chosen header of the message (its header block fitted the scanner's bound).
    pub headers_complete: bool,
    pub pop3_uidl: Option<String>,
    /// 0: by UID.
    pub pop3_order: u32,
    /// Key with which the body is encrypted; 0: none.
    pub key_id: u32,
    /// Of the mailbox that it enters, where that is not INBOX: a rebuild learns it here when everything else is lost. The index
    /// does not keep it.
    pub mailbox_name: Option<MailboxName>,
    /// A record with an id that the account has seen brings no message. `None`: every record brings one.
    pub delivery: Option<DeliveryId>,
}

impl Message {
    /// Whether its record is of kind 12.
    fn tells_more(&self) -> bool {
        self.delivery.is_some() || self.mailbox_name.is_some()
    }

    /// As the index takes it. `place` and `origin` are known only when it is applied.
    pub fn as_new(&self, place: [u8; PLACE_OCTETS], origin: Guid) -> NewMessage<'_> {
        NewMessage {
            flags: &self.flags,
            internal_date: self.internal_date,
            save_date: self.save_date,
            size: self.size,
            guid: self.guid,
            email_id: self.email_id,
            thread_id: self.thread_id,
            place,
            prefix_len: self.prefix_octets,
            pop3_uidl: self.pop3_uidl.as_deref(),
            pop3_order: self.pop3_order,
            origin,
            key_id: self.key_id,
            envelope: &self.envelope,
            body: &self.body,
            bodystructure: &self.bodystructure,
            parts: &self.parts,
            headers: &self.headers,
            headers_complete: self.headers_complete,
            shared: false,
        }
    }
}

/// A change to one account.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A message arrives; its bytes are the record's body.
    Append {
        mailbox: Guid,
        message: Box<Message>,
    },
    /// A message arrives in place of another, or neither happens (RFC 8508). Its bytes are the record's body.
    Replace {
        mailbox: Guid,
        message: Box<Message>,
        /// Where the other one is, and its UID.
        from: Guid,
        uid: Uid,
    },
    Store {
        mailbox: Guid,
        uids: UidSet,
        op: StoreOp,
        flags: FlagSet,
        unchanged_since: Option<ModSeq>,
    },
    /// `only_deleted`: those that carry \Deleted when the record is applied.
    Expunge {
        mailbox: Guid,
        uids: UidSet,
        only_deleted: bool,
    },
    /// `whole`: refused where one of them is gone.
    Copy {
        from: Guid,
        uids: UidSet,
        to: Guid,
        save_date: i64,
        remove: bool,
        whole: bool,
    },
    Create {
        guid: Guid,
        name: MailboxName,
        special_use: Option<String>,
        selectable: bool,
    },
    Delete {
        guid: Guid,
    },
    /// The mailbox and everything under it.
    Rename {
        guid: Guid,
        to: MailboxName,
    },
    /// RFC 3501 §6.3.5: the messages move to a new mailbox, INBOX stays.
    RenameInbox {
        guid: Guid,
        to: MailboxName,
        save_date: i64,
    },
    Subscribe {
        name: MailboxName,
        on: bool,
    },
    /// Compaction moved these bodies. Changes nothing that a client sees.
    /// Each old place; the new ones are the record's bodies, in the same order.
    Relocate {
        from: Vec<[u8; PLACE_OCTETS]>,
    },
    /// A rebuild found a message whose body stands there already.
    Restore {
        mailbox: Guid,
        place: [u8; PLACE_OCTETS],
        message: Box<Message>,
    },
    /// A rebuild has restored everything that it found.
    Rebuilt,
    /// The account ends. Its UIDVALIDITY counter and incarnation stay behind, so that a namesake never shows old mail.
    DeleteAccount,
    /// A Store, Expunge or Copy that is told before the store has it. What is told of it is its record's; the GUIDs of the
    /// messages that its UIDs meant are for who takes it up late.
    Named {
        record: Box<Record>,
        messages: Vec<(u32, Guid)>,
    },
    /// Annotations are set, or removed (`None`), all or none (RFC 5464). `mailbox`: `None` is the server.
    Annotate {
        mailbox: Option<Guid>,
        entries: Vec<(EntryName, Option<Vec<u8>>)>,
    },
    /// The account gets limits of its own, or (`None`) has them no more.
    SetQuota {
        quota: Option<Quota>,
    },
    /// A record that an earlier owner told its client and that surfaced only now. It counts once: `of` is its journal, `lsn` its
    /// number there.
    Late {
        of: Guid,
        lsn: u64,
        record: Box<Record>,
    },
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(64));
        w.u8(RECORD_VERSION);
        w.u8(self.kind());
        match self {
            Record::Append { mailbox, message } => {
                w.guid(mailbox);
                if message.tells_more() {
                    let id = if message.delivery.is_some() { MORE_DELIVERY } else { 0 };
                    let name = if message.mailbox_name.is_some() { MORE_NAME } else { 0 };
                    w.u8(id | name);
                }
                if let Some(id) = &message.delivery {
                    w.0.extend_from_slice(&id.0);
                }
                w.message(message);
                if let Some(name) = &message.mailbox_name {
                    w.bytes(name.as_str().as_bytes());
                }
            }
            Record::Replace { mailbox, message, from, uid } => {
                w.guid(mailbox);
                w.guid(from);
                w.u32(uid.get());
                w.message(message);
                w.bytes(message.mailbox_name.as_ref().map_or("", MailboxName::as_str).as_bytes());
            }
            Record::Store { mailbox, uids, op, flags, unchanged_since } => {
                w.guid(mailbox);
                w.u8(*op as u8);
                w.u64(unchanged_since.map_or(u64::MAX, ModSeq::get));
                w.flags(flags);
                w.uids(uids);
            }
            Record::Expunge { mailbox, uids, only_deleted } => {
                w.guid(mailbox);
                w.u8(u8::from(*only_deleted));
                w.uids(uids);
            }
            Record::Copy { from, uids, to, save_date, remove, whole } => {
                w.guid(from);
                w.guid(to);
                w.u64(*save_date as u64);
                w.u8(u8::from(*remove) | u8::from(*whole) << 1);
                w.uids(uids);
            }
            Record::Create { guid, name, special_use, selectable } => {
                w.guid(guid);
                w.bytes(name.as_str().as_bytes());
                w.bytes(special_use.as_deref().unwrap_or("").as_bytes());
                w.u8(u8::from(*selectable));
            }
            Record::Delete { guid } => w.guid(guid),
            Record::Rename { guid, to } => {
                w.guid(guid);
                w.bytes(to.as_str().as_bytes());
            }
            Record::RenameInbox { guid, to, save_date } => {
                w.guid(guid);
                w.bytes(to.as_str().as_bytes());
                w.u64(*save_date as u64);
            }
            Record::Subscribe { name, on } => {
                w.bytes(name.as_str().as_bytes());
                w.u8(u8::from(*on));
            }
            Record::Relocate { from } => {
                w.u32(from.len() as u32);
                from.iter().for_each(|place| w.0.extend_from_slice(place));
            }
            Record::Restore { mailbox, place, message } => {
                w.guid(mailbox);
                w.0.extend_from_slice(place);
                w.message(message);
                w.bytes(message.mailbox_name.as_ref().map_or("", MailboxName::as_str).as_bytes());
            }
            Record::Rebuilt | Record::DeleteAccount => {}
            Record::Named { record, messages } => {
                w.bytes(&record.encode());
                w.u32(messages.len() as u32);
                for (uid, guid) in messages {
                    w.u32(*uid);
                    w.guid(guid);
                }
            }
            Record::Annotate { mailbox, entries } => {
                w.guid(&mailbox.unwrap_or(SERVER));
                w.u32(entries.len() as u32);
                for (name, value) in entries {
                    w.bytes(name.as_str().as_bytes());
                    w.u8(u8::from(value.is_some()));
                    w.bytes(value.as_deref().unwrap_or_default());
                }
            }
            Record::SetQuota { quota } => {
                w.u8(u8::from(quota.is_some()));
                let quota = quota.unwrap_or_default();
                for limit in [quota.octets, quota.messages, quota.mailboxes] {
                    w.u64(limit.unwrap_or(u64::MAX));
                }
            }
            Record::Late { of, lsn, record } => {
                w.guid(of);
                w.u64(*lsn);
                w.bytes(&record.encode());
            }
        }
        w.0
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Append { message, .. } if message.tells_more() => 12,
            Record::Append { .. } => 1,
            Record::Store { .. } => 2,
            Record::Expunge { .. } => 3,
            Record::Copy { .. } => 4,
            Record::Create { .. } => 5,
            Record::Delete { .. } => 6,
            Record::Rename { .. } => 7,
            Record::RenameInbox { .. } => 8,
            Record::Subscribe { .. } => 9,
            Record::Relocate { .. } => 10,
            Record::DeleteAccount => 11,
            Record::Restore { .. } => 13,
            Record::Rebuilt => 14,
            Record::Named { .. } => 15,
            Record::Late { .. } => LATE_KIND,
            Record::Annotate { .. } => 17,
            Record::SetQuota { .. } => 18,
            Record::Replace { .. } => 20,
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut r = Reader { bytes, at: 0 };
        let version = r.u8()?;
        if version != RECORD_VERSION {
            return Err(RecordError::Version(version));
        }
        let record = match r.u8()? {
            1 => Record::Append { mailbox: r.guid()?, message: Box::new(r.message()?) },
            2 => {
                let mailbox = r.guid()?;
                let op = match r.u8()? {
                    0 => StoreOp::Replace,
                    1 => StoreOp::Add,
                    2 => StoreOp::Remove,
                    _ => return Err(r.malformed()),
                };
                let since = r.u64()?;
                let unchanged_since = (since != u64::MAX).then_some(ModSeq(since));
                let flags = r.flags()?;
                Record::Store { mailbox, uids: r.uids()?, op, flags, unchanged_since }
            }
            3 => {
                let mailbox = r.guid()?;
                let only_deleted = r.bool()?;
                Record::Expunge { mailbox, uids: r.uids()?, only_deleted }
            }
            4 => {
                let (from, to) = (r.guid()?, r.guid()?);
                let save_date = r.u64()? as i64;
                let how = r.u8()?;
                if how > 3 {
                    return Err(r.malformed());
                }
                let (remove, whole) = (how & 1 != 0, how & 2 != 0);
                Record::Copy { from, uids: r.uids()?, to, save_date, remove, whole }
            }
            5 => {
                let guid = r.guid()?;
                let name = r.name()?;
                let special_use = r.text()?;
                let special_use = (!special_use.is_empty()).then(|| special_use.to_owned());
                Record::Create { guid, name, special_use, selectable: r.bool()? }
            }
            6 => Record::Delete { guid: r.guid()? },
            7 => Record::Rename { guid: r.guid()?, to: r.name()? },
            8 => Record::RenameInbox { guid: r.guid()?, to: r.name()?, save_date: r.u64()? as i64 },
            9 => Record::Subscribe { name: r.name()?, on: r.bool()? },
            10 => {
                let count = r.u32()? as usize;
                let mut from = Vec::with_capacity(r.bounded(count, PLACE_OCTETS)?);
                for _ in 0..count {
                    from.push(r.array()?);
                }
                Record::Relocate { from }
            }
            11 => Record::DeleteAccount,
            12 => {
                let (mailbox, more) = (r.guid()?, r.u8()?);
                if more & !(MORE_DELIVERY | MORE_NAME) != 0 || more == 0 {
                    return Err(r.malformed());
                }
                let delivery = if more & MORE_DELIVERY != 0 { Some(DeliveryId(r.array()?)) } else { None };
                let mut message = Message { delivery, ..r.message()? };
                if more & MORE_NAME != 0 {
                    message.mailbox_name = Some(r.name()?);
                }
                Record::Append { mailbox, message: Box::new(message) }
            }
            13 => {
                let (mailbox, place, message) = (r.guid()?, r.array()?, r.named_message()?);
                Record::Restore { mailbox, place, message: Box::new(message) }
            }
            14 => Record::Rebuilt,
            15 => {
                let record = Record::decode(r.bytes()?)?;
                // One level, so that no octets make this deep.
                if !matches!(record, Record::Store { .. } | Record::Expunge { .. } | Record::Copy { .. }) {
                    return Err(r.malformed());
                }
                let count = r.u32()? as usize;
                let mut messages = Vec::with_capacity(r.bounded(count, 20)?);
                for _ in 0..count {
                    messages.push((r.u32()?, r.guid()?));
                }
                Record::Named { record: Box::new(record), messages }
            }
            LATE_KIND => {
                let (of, lsn, inner) = (r.guid()?, r.u64()?, r.bytes()?);
                if inner.get(1) == Some(&LATE_KIND) {
                    return Err(r.malformed());
                }
                Record::Late { of, lsn, record: Box::new(Record::decode(inner)?) }
            }
            17 => {
                let mailbox = Some(r.guid()?).filter(|guid| *guid != SERVER);
                let count = r.u32()? as usize;
                let mut entries = Vec::with_capacity(r.bounded(count, 9)?);
                for _ in 0..count {
                    entries.push(r.annotation()?);
                }
                Record::Annotate { mailbox, entries }
            }
            18 => {
                let has = r.bool()?;
                let mut limit = || Ok(Some(r.u64()?).filter(|limit| *limit != u64::MAX));
                let quota = Quota { octets: limit()?, messages: limit()?, mailboxes: limit()? };
                Record::SetQuota { quota: has.then_some(quota) }
            }
            20 => {
                let (mailbox, from) = (r.guid()?, r.guid()?);
                let uid = Uid::new(r.u32()?).ok_or(r.malformed())?;
                let message = r.named_message()?;
                Record::Replace { mailbox, message: Box::new(message), from, uid }
            }
            kind => return Err(RecordError::Kind(kind)),
        };
        if r.at == bytes.len() { Ok(record) } else { Err(r.malformed()) }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn guid(&mut self, guid: &Guid) {
        self.0.extend_from_slice(&guid.0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn flags(&mut self, flags: &FlagSet) {
        self.u8(flags.system);
        self.u16(flags.keywords.len() as u16);
        for keyword in &flags.keywords {
            self.bytes(keyword.as_str().as_bytes());
        }
    }

    fn uids(&mut self, uids: &UidSet) {
        let ranges = uids.ranges();
        self.u32(ranges.len() as u32);
        for range in ranges {
            self.u32(*range.start());
            self.u32(*range.end());
        }
    }

    fn message(&mut self, message: &Message) {
        self.guid(&message.guid);
        self.guid(&message.email_id);
        self.u64(message.thread_id);
        self.u64(message.internal_date.seconds as u64);
        self.u16(message.internal_date.zone_minutes as u16);
        self.u64(message.save_date as u64);
        self.u64(message.size);
        self.u32(message.prefix_octets);
        self.u32(message.pop3_order);
        self.u32(message.key_id);
        self.u8(u8::from(message.headers_complete));
        self.flags(&message.flags);
        self.bytes(message.pop3_uidl.as_deref().unwrap_or("").as_bytes());
        self.bytes(&message.envelope);
        self.bytes(&message.body);
        self.bytes(&message.bodystructure);
        self.bytes(&message.parts);
        self.bytes(&message.headers);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self) -> RecordError {
        RecordError::Malformed(self.at)
    }

    fn take(&mut self, octets: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.checked_add(octets).ok_or(RecordError::Malformed(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(RecordError::Malformed(self.at))?;
        self.at = end;
        Ok(taken)
    }

    /// `count`, where the bytes that are left can hold so many of `octets` each.
    fn bounded(&self, count: usize, octets: usize) -> Result<usize, RecordError> {
        let fits = count.checked_mul(octets).is_some_and(|need| need <= self.bytes.len() - self.at);
        if fits { Ok(count) } else { Err(self.malformed()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        Ok(self.take(N)?.try_into().expect("take gives N octets"))
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    fn bool(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    fn guid(&mut self) -> Result<Guid, RecordError> {
        self.array().map(Guid)
    }

    fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let octets = self.u32()? as usize;
        self.take(octets)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed())
    }

    fn name(&mut self) -> Result<MailboxName, RecordError> {
        let text = self.text()?;
        MailboxName::parse(text).map_err(|_| self.malformed())
    }

    /// The name of an entry in its stored form, and a value.
    fn annotation(&mut self) -> Result<(EntryName, Option<Vec<u8>>), RecordError> {
        let octets = self.bytes()?;
        let name = EntryName::parse(octets).ok().filter(|name| name.as_str().as_bytes() == octets);
        let name = name.ok_or(self.malformed())?;
        let (has, value) = (self.bool()?, self.bytes()?);
        if value.len() > VALUE_OCTETS_MAX || !(has || value.is_empty()) {
            return Err(self.malformed());
        }
        Ok((name, has.then(|| value.to_vec())))
    }

    fn flags(&mut self) -> Result<FlagSet, RecordError> {
        let mut flags = FlagSet { system: self.u8()?, keywords: Vec::new() };
        for _ in 0..self.u16()? {
            let keyword = Keyword::new(self.text()?).ok_or(self.malformed())?;
            flags.insert(Flag::Keyword(keyword));
        }
        Ok(flags)
    }

    fn uids(&mut self) -> Result<UidSet, RecordError> {
        let count = self.u32()? as usize;
        self.bounded(count, 8)?;
        let mut uids = UidSet::new();
        for _ in 0..count {
            let (first, last) = (self.u32()?, self.u32()?);
            if first == 0 || first > last || uids.last().is_some_and(|have| have >= first) {
                return Err(self.malformed());
            }
            uids.insert_range(first..=last);
        }
        Ok(uids)
    }

    /// A message and the name of its mailbox, empty where that is INBOX.
    fn named_message(&mut self) -> Result<Message, RecordError> {
        let mut message = self.message()?;
        let name = self.text()?;
        if !name.is_empty() {
            message.mailbox_name = Some(MailboxName::parse(name).map_err(|_| self.malformed())?);
        }
        Ok(message)
    }

    fn message(&mut self) -> Result<Message, RecordError> {
        Ok(Message {
            guid: self.guid()?,
            email_id: self.guid()?,
            thread_id: self.u64()?,
            internal_date: InternalDate { seconds: self.u64()? as i64, zone_minutes: self.u16()? as i16 },
            save_date: self.u64()? as i64,
            size: self.u64()?,
            prefix_octets: self.u32()?,
            pop3_order: self.u32()?,
            key_id: self.u32()?,
            headers_complete: self.bool()?,
            flags: self.flags()?,
            pop3_uidl: Some(self.text()?.to_owned()).filter(|uidl| !uidl.is_empty()),
            envelope: self.bytes()?.to_vec(),
            body: self.bytes()?.to_vec(),
            bodystructure: self.bytes()?.to_vec(),
            parts: self.bytes()?.to_vec(),
            headers: self.bytes()?.to_vec(),
            mailbox_name: None,
            delivery: None,
        })
    }
}

#[cfg(test)]
mod tests;
