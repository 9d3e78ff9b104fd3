//! The account block: its mailboxes, its subscriptions and the counters that never go back.
//!
//! The structs are the account's state as the domain works on it; [`AccountState::encode`] writes it whole, so there
//! is no delta. Layout, version 3 (2 without a quota of its own, 1 where there are no late marks either), little-endian, in
//! `docs/format/account.md`.
//!
//! # Invariants
//! - A decoded block has each GUID and each name once, and no UIDVALIDITY or MODSEQ above its counter.
//! - Records carry their length: a later version appends fields, and this one passes over them.
//!
//! # Limits
//! Counts are checked against the bytes that are left before anything is allocated for them.

use crate::FormatError;
use crate::dump::list;
use crate::format::Cursor;
use culver_model::{Guid, MailboxName, ModSeq, Quota, UidValidity};
use std::collections::HashSet;
use std::fmt::{self, Display};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"CULVACC\n";
const VERSION: u16 = 3;
/// The oldest version that can hold what there is is written, so that older programs read it: without a quota, and without
/// late marks.
const VERSION_LATE: u16 = 2;
const VERSION_PLAIN: u16 = 1;
/// A limit that there is not.
const UNLIMITED: u64 = u64::MAX;
/// Octets of a late mark.
const LATE_OCTETS: usize = 24;
const SELECTABLE: u32 = 1 << 0;
/// Longest special use attribute, in octets.
pub const SPECIAL_USE_OCTETS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AccountHeader {
    magic: [u8; 8],
    version: U16,
    reserved: U16,
    /// CRC-32C of all that follows this field.
    crc: U32,
    /// Of the whole block.
    octets: U64,
    incarnation: [u8; 16],
    modseq: U64,
    thread_id: U64,
    uid_validity: U32,
    mailboxes: U32,
    subscriptions: U32,
    /// Since version 2.
    late: U32,
    /// Octets, messages and mailboxes; since version 3, and before it reserved.
    quota: [U64; 3],
}
const _: () = assert!(size_of::<AccountHeader>() == 96);

/// The fixed part of a mailbox's record; name and special use follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryRecord {
    /// Of the whole record.
    octets: U32,
    uid_validity: U32,
    guid: [u8; 16],
    created: U64,
    /// Bit 0: can be selected.
    bits: U32,
    name_octets: U16,
    special_use_octets: U16,
}
const _: () = assert!(size_of::<EntryRecord>() == 40);

/// One account, but for its mailboxes' messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// Tells this account from a deleted one of the same name.
    pub incarnation: Guid,
    /// The last UIDVALIDITY given.
    pub uid_validity: u32,
    /// The last MODSEQ given.
    pub modseq: ModSeq,
    /// The last thread id given.
    pub thread_id: u64,
    pub mailboxes: Vec<MailboxEntry>,
    /// Names; they outlive the mailboxes.
    pub subscriptions: Vec<MailboxName>,
    /// By journal: the last record of it that came late and is contained. Ascending.
    pub late: Vec<(Guid, u64)>,
    /// Its own limits, in place of what the configuration and the users say.
    pub quota: Option<Quota>,
}

/// One mailbox of the account's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxEntry {
    pub guid: Guid,
    pub name: MailboxName,
    /// With its backslash (RFC 6154); at most [`SPECIAL_USE_OCTETS_MAX`] octets.
    pub special_use: Option<String>,
    pub created: ModSeq,
    pub uid_validity: UidValidity,
    /// Not \NoSelect.
    pub selectable: bool,
}

impl AccountState {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<AccountHeader>()];
        for entry in &self.mailboxes {
            let special_use = entry.special_use.as_deref().unwrap_or_default();
            let name = entry.name.as_str();
            assert!(special_use.len() <= SPECIAL_USE_OCTETS_MAX, "special use longer than its bound");
            let record = EntryRecord {
                octets: ((size_of::<EntryRecord>() + name.len() + special_use.len()) as u32).into(),
                uid_validity: entry.uid_validity.get().into(),
                guid: entry.guid.0,
                created: entry.created.get().into(),
                bits: if entry.selectable { SELECTABLE } else { 0 }.into(),
                // MailboxName::OCTETS_MAX is 1000.
                name_octets: (name.len() as u16).into(),
                special_use_octets: (special_use.len() as u16).into(),
            };
            bytes.extend_from_slice(record.as_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(special_use.as_bytes());
        }
        for name in &self.subscriptions {
            bytes.extend_from_slice(&(name.as_str().len() as u16).to_le_bytes());
            bytes.extend_from_slice(name.as_str().as_bytes());
        }
        for (journal, lsn) in &self.late {
            bytes.extend_from_slice(&journal.0);
            bytes.extend_from_slice(&lsn.to_le_bytes());
        }
        let version = match (&self.quota, self.late.is_empty()) {
            (Some(_), _) => VERSION,
            (None, false) => VERSION_LATE,
            (None, true) => VERSION_PLAIN,
        };
        let mut header = AccountHeader {
            magic: MAGIC,
            version: version.into(),
            reserved: 0.into(),
            crc: 0.into(),
            octets: (bytes.len() as u64).into(),
            incarnation: self.incarnation.0,
            modseq: self.modseq.get().into(),
            thread_id: self.thread_id.into(),
            uid_validity: self.uid_validity.into(),
            mailboxes: (self.mailboxes.len() as u32).into(),
            subscriptions: (self.subscriptions.len() as u32).into(),
            late: (self.late.len() as u32).into(),
            quota: self.quota.map_or([U64::ZERO; 3], limits),
        };
        let crc = crc32c::crc32c(&header.as_bytes()[16..]);
        header.crc = crc32c::crc32c_append(crc, &bytes[size_of::<AccountHeader>()..]).into();
        bytes[..size_of::<AccountHeader>()].copy_from_slice(header.as_bytes());
        bytes
    }

    /// Proves the checksum and every invariant of the block; bytes behind it are padding.
    pub fn decode(bytes: &[u8]) -> Result<AccountState, FormatError> {
        let held = bytes.len() as u64;
        let wanted = size_of::<AccountHeader>() as u64;
        let (header, _) =
            AccountHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated { held, wanted })?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        let found = header.version.get();
        if found == 0 || found > VERSION {
            return Err(FormatError::Version { found, known: VERSION });
        }
        let wanted = header.octets.get();
        let whole = usize::try_from(wanted).ok().and_then(|octets| bytes.get(..octets));
        let whole = whole.filter(|whole| whole.len() >= size_of::<AccountHeader>());
        let whole = whole.ok_or(FormatError::Truncated { held, wanted })?;
        if crc32c::crc32c(&whole[16..]) != header.crc.get() {
            return Err(FormatError::Checksum { section: "account" });
        }
        let mut state = AccountState {
            incarnation: Guid(header.incarnation),
            uid_validity: header.uid_validity.get(),
            modseq: ModSeq(header.modseq.get()),
            thread_id: header.thread_id.get(),
            mailboxes: Vec::new(),
            subscriptions: Vec::new(),
            late: Vec::new(),
            quota: (found >= VERSION).then(|| quota(header.quota)),
        };
        if state.modseq > ModSeq::MAX {
            return Err(FormatError::Content { what: "MODSEQ", at: 0 });
        }
        let mut cursor = Cursor::new(&whole[size_of::<AccountHeader>()..]);
        for at in 0..u64::from(header.mailboxes.get()) {
            let entry = read_entry(&mut cursor, &state);
            state.mailboxes.push(entry.ok_or(FormatError::Content { what: "mailbox", at })?);
        }
        for at in 0..u64::from(header.subscriptions.get()) {
            let name = read_subscription(&mut cursor);
            state.subscriptions.push(name.ok_or(FormatError::Content { what: "subscription", at })?);
        }
        let late = if found >= VERSION_LATE { header.late.get() } else { 0 };
        for at in 0..u64::from(late) {
            let mark = cursor.take(LATE_OCTETS).map(|octets| octets.split_at(16));
            let mark = mark.and_then(|(journal, lsn)| {
                Some((Guid(journal.try_into().ok()?), u64::from_le_bytes(lsn.try_into().ok()?)))
            });
            let mark = mark.filter(|(journal, _)| state.late.last().is_none_or(|(last, _)| last < journal));
            state.late.push(mark.ok_or(FormatError::Content { what: "late mark", at })?);
        }
        if !cursor.is_empty() {
            return Err(FormatError::Content { what: "octets beyond the last name", at: 0 });
        }
        state.check_unique()?;
        Ok(state)
    }

    fn check_unique(&self) -> Result<(), FormatError> {
        let (mut guids, mut names, mut subscribed) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (at, entry) in self.mailboxes.iter().enumerate() {
            if !guids.insert(entry.guid) || !names.insert(&entry.name) {
                return Err(FormatError::Content { what: "mailbox listed twice", at: at as u64 });
            }
        }
        match self.subscriptions.iter().position(|name| !subscribed.insert(name)) {
            Some(at) => Err(FormatError::Content { what: "name subscribed twice", at: at as u64 }),
            None => Ok(()),
        }
    }
}

fn limits(quota: Quota) -> [U64; 3] {
    [quota.octets, quota.messages, quota.mailboxes].map(|limit| limit.unwrap_or(UNLIMITED).into())
}

fn quota(limits: [U64; 3]) -> Quota {
    let [octets, messages, mailboxes] =
        limits.map(|limit| Some(limit.get()).filter(|limit| *limit != UNLIMITED));
    Quota { octets, messages, mailboxes }
}

fn read_entry(cursor: &mut Cursor<'_>, state: &AccountState) -> Option<MailboxEntry> {
    let octets = cursor.peek_u32()? as usize;
    let mut record = Cursor::new(cursor.take(octets)?);
    let fixed = EntryRecord::read_from_bytes(record.take(size_of::<EntryRecord>())?).ok()?;
    let name = read_name(record.take(usize::from(fixed.name_octets.get()))?)?;
    let special_use = record.take(usize::from(fixed.special_use_octets.get()))?;
    if special_use.len() > SPECIAL_USE_OCTETS_MAX {
        return None;
    }
    let special_use = std::str::from_utf8(special_use).ok()?;
    let entry = MailboxEntry {
        guid: Guid(fixed.guid),
        name,
        special_use: (!special_use.is_empty()).then(|| special_use.to_owned()),
        created: ModSeq(fixed.created.get()),
        uid_validity: UidValidity::new(fixed.uid_validity.get())?,
        selectable: fixed.bits.get() & SELECTABLE != 0,
    };
    (entry.uid_validity.get() <= state.uid_validity && entry.created <= state.modseq).then_some(entry)
}

fn read_subscription(cursor: &mut Cursor<'_>) -> Option<MailboxName> {
    let octets = u16::from_le_bytes(cursor.take(2)?.try_into().ok()?);
    read_name(cursor.take(usize::from(octets))?)
}

/// A name in its stored form: what [`MailboxName::parse`] would change was not written by us.
fn read_name(octets: &[u8]) -> Option<MailboxName> {
    let text = std::str::from_utf8(octets).ok()?;
    MailboxName::parse(text).ok().filter(|name| name.as_str() == text)
}

/// Whether the bytes are an account block, by their magic.
pub fn is_account(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// An account block in lines of text.
pub fn dump(bytes: &[u8]) -> Result<impl Display + use<>, FormatError> {
    AccountState::decode(bytes).map(|state| Dump { state, octets: bytes.len() })
}

struct Dump {
    state: AccountState,
    octets: usize,
}

impl Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dump { state, octets } = self;
        writeln!(f, "account block, {octets} octets")?;
        writeln!(f, "  incarnation {}", state.incarnation)?;
        write!(f, "  last given: modseq {} uid_validity {}", state.modseq, state.uid_validity)?;
        writeln!(f, " thread_id {}", state.thread_id)?;
        if let Some(Quota { octets, messages, mailboxes }) = &state.quota {
            let shown =
                |limit: &Option<u64>| limit.map_or("not limited".to_owned(), |limit| limit.to_string());
            let [octets, messages, mailboxes] = [octets, messages, mailboxes].map(shown);
            writeln!(f, "  quota of its own: octets {octets}, messages {messages}, mailboxes {mailboxes}")?;
        }
        writeln!(f, "  {} mailboxes, {} subscriptions", state.mailboxes.len(), state.subscriptions.len())?;
        let subscribed: HashSet<&MailboxName> = state.subscriptions.iter().collect();
        list(f, "mailboxes", &state.mailboxes, |f, _, entry| {
            write!(f, "  mailbox {} {:?}", entry.guid, entry.name.as_str())?;
            write!(f, " uid_validity {} created {}", entry.uid_validity, entry.created)?;
            if let Some(special_use) = &entry.special_use {
                write!(f, " special_use {}", special_use.replace(char::is_control, "?"))?;
            }
            f.write_str(if entry.selectable { "" } else { " noselect" })?;
            f.write_str(if subscribed.contains(&entry.name) { " subscribed" } else { "" })?;
            writeln!(f)
        })?;
        list(f, "late marks", &self.state.late, |f, _, (journal, lsn)| {
            writeln!(f, "  of journal {journal} everything up to {lsn}")
        })?;
        let names: HashSet<&MailboxName> = state.mailboxes.iter().map(|entry| &entry.name).collect();
        let others: Vec<_> = state.subscriptions.iter().filter(|name| !names.contains(name)).collect();
        list(f, "subscriptions", &others, |f, _, name| {
            writeln!(f, "  subscription {:?}, which names no mailbox", name.as_str())
        })
    }
}
