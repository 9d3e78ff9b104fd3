//! Encode: untagged data, appended to the driver's send buffer.
//!
//! # Invariants
//! A quoted string holds 7-bit text without CR, LF and NUL; all else goes out as a literal. Nothing here fails.
//!
//! # Cost
//! No allocation but the buffer's growth.
//!
//! # RFC
//! RFC 3501 §7.2 to §7.4, §9; RFC 4466 §2.6.2, §2.7 (ESEARCH, STATUS); RFC 5258 §6; RFC 7162 §7.

mod metadata;
mod quota;
mod search;

pub use metadata::{metadata, metadata_changed};
pub use quota::{Resource, quota, quota_root};
pub use search::{
    Esearch, Results, ThreadStep, ThreadWriter, esearch, esearch_update, search, search_end, sort_begin,
    sort_numbers,
};

use std::io::Write;

use culver_model::id::EMAIL_ID;
use culver_model::mime::{Section, SectionText};
use culver_model::{Guid, InternalDate, MailboxName, ModSeq, SystemFlag, Uid, UidSet};

use super::cursor::is_astring_char;
use super::response::set;

/// Appends a decimal number.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a string: quoted where that is allowed, else a literal.
pub fn string(out: &mut Vec<u8>, octets: &[u8]) {
    if !octets.iter().all(|byte| matches!(byte, 0x01..=0x7f) && !matches!(byte, b'\r' | b'\n')) {
        literal(out, octets.len() as u64);
        out.extend_from_slice(octets);
        return;
    }
    quoted(out, octets);
}

/// Appends a string, or NIL.
pub fn nstring(out: &mut Vec<u8>, octets: Option<&[u8]>) {
    match octets {
        Some(octets) => string(out, octets),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Appends an atom where that is allowed, else a string.
pub fn astring(out: &mut Vec<u8>, octets: &[u8]) {
    // An atom NIL would be read as nothing where a string may be left out; a mailbox of that name is one.
    let atom = !octets.is_empty()
        && octets.iter().all(|byte| is_astring_char(*byte))
        && !octets.eq_ignore_ascii_case(b"NIL");
    if atom { out.extend_from_slice(octets) } else { string(out, octets) }
}

/// Appends a mailbox name: in UTF-8 where the client asked for that, else in modified UTF-7.
pub fn mailbox(out: &mut Vec<u8>, name: &MailboxName, utf8: bool) {
    match utf8 {
        // RFC 9755 §3, RFC 9051 §9: a quoted string may hold UTF-8; the name has no controls.
        true if !name.as_str().is_ascii() => quoted(out, name.as_str().as_bytes()),
        true => astring(out, name.as_str().as_bytes()),
        false => astring(out, name.to_mutf7().as_bytes()),
    }
}

fn quoted(out: &mut Vec<u8>, octets: &[u8]) {
    out.push(b'"');
    for byte in octets {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Appends the announcement of a literal; so many octets must follow.
pub fn literal(out: &mut Vec<u8>, octets: u64) {
    out.push(b'{');
    number(out, octets);
    out.extend_from_slice(b"}\r\n");
}

/// Octets of a message as a non-binary answer may hold them.
// RFC 3501 §9: no literal holds NUL. Its size must not change, so each becomes an octet that no charset gives a meaning.
pub fn mask_nul(octets: &mut [u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr(0, &octets[from..]) {
        octets[from + at] = 0x80;
        from += at + 1;
    }
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn numbered(out: &mut Vec<u8>, value: u32, name: &str) {
    out.extend_from_slice(b"* ");
    number(out, u64::from(value));
    out.push(b' ');
    line(out, name);
}

/// `list` as [`super::capabilities`] gives it.
pub fn capability(out: &mut Vec<u8>, list: &str) {
    out.extend_from_slice(b"* CAPABILITY ");
    line(out, list);
}

/// RFC 5161 §3.2: what this ENABLE switched on; may be empty.
pub fn enabled(out: &mut Vec<u8>, capabilities: &[&str]) {
    out.extend_from_slice(b"* ENABLED");
    for capability in capabilities {
        out.push(b' ');
        out.extend_from_slice(capability.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 5255 §3.3: one language is the one in use, several are those that there are.
pub fn language(out: &mut Vec<u8>, tags: &[&str]) {
    out.extend_from_slice(b"* LANGUAGE (");
    out.extend_from_slice(tags.join(" ").as_bytes());
    line(out, ")");
}

/// RFC 2971 §3.2. No fields: NIL.
pub fn id(out: &mut Vec<u8>, fields: &[(&str, &str)]) {
    out.extend_from_slice(b"* ID ");
    if fields.is_empty() {
        line(out, "NIL");
        return;
    }
    for (at, (field, value)) in fields.iter().enumerate() {
        out.push(if at == 0 { b'(' } else { b' ' });
        string(out, field.as_bytes());
        out.push(b' ');
        string(out, value.as_bytes());
    }
    line(out, ")");
}

/// RFC 2342 §5: prefixes (modified UTF-7, with the separator) of the personal, other users' and shared namespaces.
pub fn namespace(out: &mut Vec<u8>, kinds: [&[&str]; 3]) {
    out.extend_from_slice(b"* NAMESPACE");
    for prefixes in kinds {
        out.push(b' ');
        if prefixes.is_empty() {
            out.extend_from_slice(b"NIL");
            continue;
        }
        out.push(b'(');
        for prefix in prefixes {
            out.push(b'(');
            string(out, prefix.as_bytes());
            out.extend_from_slice(b" \"/\")");
        }
        out.push(b')');
    }
    out.extend_from_slice(b"\r\n");
}

/// A mailbox attribute (RFC 3501 §7.2.2, RFC 3348, RFC 5258 §3.4, RFC 6154 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    NoInferiors,
    NoSelect,
    NonExistent,
    Marked,
    Unmarked,
    HasChildren,
    HasNoChildren,
    Subscribed,
    Remote,
    All,
    Archive,
    Drafts,
    Flagged,
    Junk,
    Sent,
    Trash,
}

impl Attribute {
    pub const fn name(self) -> &'static str {
        match self {
            Attribute::NoInferiors => "\\Noinferiors",
            Attribute::NoSelect => "\\Noselect",
            Attribute::NonExistent => "\\NonExistent",
            Attribute::Marked => "\\Marked",
            Attribute::Unmarked => "\\Unmarked",
            Attribute::HasChildren => "\\HasChildren",
            Attribute::HasNoChildren => "\\HasNoChildren",
            Attribute::Subscribed => "\\Subscribed",
            Attribute::Remote => "\\Remote",
            Attribute::All => "\\All",
            Attribute::Archive => "\\Archive",
            Attribute::Drafts => "\\Drafts",
            Attribute::Flagged => "\\Flagged",
            Attribute::Junk => "\\Junk",
            Attribute::Sent => "\\Sent",
            Attribute::Trash => "\\Trash",
        }
    }
}

fn list_like(out: &mut Vec<u8>, kind: &str, attributes: &[Attribute]) {
    out.extend_from_slice(b"* ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b" (");
    for (at, attribute) in attributes.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(attribute.name().as_bytes());
    }
    out.extend_from_slice(b") \"/\" ");
}

/// `child_info`: a descendant is subscribed though the mailbox itself did not match (RFC 5258 §3.5).
pub fn list(out: &mut Vec<u8>, attributes: &[Attribute], name: &MailboxName, child_info: bool, utf8: bool) {
    list_like(out, "LIST", attributes);
    mailbox(out, name, utf8);
    line(out, if child_info { " (\"CHILDINFO\" (\"SUBSCRIBED\"))" } else { "" });
}

/// RFC 5465 §5.4, RFC 9051 §6.3.9.7: the mailbox had another name.
pub fn list_renamed(
    out: &mut Vec<u8>,
    attributes: &[Attribute],
    name: &MailboxName,
    old: &MailboxName,
    utf8: bool,
) {
    list_like(out, "LIST", attributes);
    mailbox(out, name, utf8);
    out.extend_from_slice(b" (\"OLDNAME\" (");
    mailbox(out, old, utf8);
    line(out, "))");
}

pub fn lsub(out: &mut Vec<u8>, attributes: &[Attribute], name: &MailboxName, utf8: bool) {
    list_like(out, "LSUB", attributes);
    mailbox(out, name, utf8);
    line(out, "");
}

/// The answer to `LIST "" ""` (RFC 3501 §6.3.8): the separator, and `root` of the reference, often empty.
pub fn list_separator(out: &mut Vec<u8>, root: &str) {
    list_like(out, "LIST", &[Attribute::NoSelect]);
    astring(out, root.as_bytes());
    line(out, "");
}

/// The values of a STATUS response; those that are there are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusValues {
    pub messages: Option<u32>,
    pub recent: Option<u32>,
    pub uid_next: Option<u32>,
    pub uid_validity: Option<u32>,
    pub unseen: Option<u32>,
    /// Octets of all messages (RFC 8438).
    pub size: Option<u64>,
    pub highest_modseq: Option<ModSeq>,
    pub append_limit: Option<u64>,
    /// RFC 8474 §4.3.
    pub mailbox_id: Option<String>,
    /// RFC 9208 §4.1.4: messages with \Deleted, and their octets.
    pub deleted: Option<u32>,
    pub deleted_storage: Option<u64>,
}

pub fn status(out: &mut Vec<u8>, name: &MailboxName, values: &StatusValues, utf8: bool) {
    out.extend_from_slice(b"* STATUS ");
    mailbox(out, name, utf8);
    out.extend_from_slice(b" (");
    let mut first = true;
    let items = [
        ("MESSAGES", values.messages.map(u64::from)),
        ("RECENT", values.recent.map(u64::from)),
        ("UIDNEXT", values.uid_next.map(u64::from)),
        ("UIDVALIDITY", values.uid_validity.map(u64::from)),
        ("UNSEEN", values.unseen.map(u64::from)),
        ("SIZE", values.size),
        ("HIGHESTMODSEQ", values.highest_modseq.map(ModSeq::get)),
        ("APPENDLIMIT", values.append_limit),
        ("DELETED", values.deleted.map(u64::from)),
        ("DELETED-STORAGE", values.deleted_storage),
    ];
    for (item, value) in items {
        let Some(value) = value else { continue };
        if !first {
            out.push(b' ');
        }
        first = false;
        out.extend_from_slice(item.as_bytes());
        out.push(b' ');
        number(out, value);
    }
    if let Some(id) = &values.mailbox_id {
        if !first {
            out.push(b' ');
        }
        out.extend_from_slice(b"MAILBOXID (");
        out.extend_from_slice(id.as_bytes());
        out.push(b')');
    }
    line(out, ")");
}

fn flag_list<'k>(out: &mut Vec<u8>, system: u8, recent: bool, keywords: impl IntoIterator<Item = &'k str>) {
    out.push(b'(');
    let from = out.len();
    let mut name = |name: &str| {
        if out.len() > from {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
    };
    SystemFlag::ALL.into_iter().filter(|flag| system & flag.bit() != 0).for_each(|flag| name(flag.name()));
    if recent {
        name("\\Recent");
    }
    keywords.into_iter().for_each(name);
    out.push(b')');
}

/// The flags that can be used in the mailbox: [`SystemFlag`] bits and keywords.
pub fn flags<'k>(out: &mut Vec<u8>, system: u8, keywords: impl IntoIterator<Item = &'k str>) {
    out.extend_from_slice(b"* FLAGS ");
    flag_list(out, system, false, keywords);
    out.extend_from_slice(b"\r\n");
}

pub fn exists(out: &mut Vec<u8>, messages: u32) {
    numbered(out, messages, "EXISTS");
}

pub fn recent(out: &mut Vec<u8>, messages: u32) {
    numbered(out, messages, "RECENT");
}

pub fn expunge(out: &mut Vec<u8>, sequence_number: u32) {
    numbered(out, sequence_number, "EXPUNGE");
}

/// Nothing where `uids` is empty.
// RFC 7162 §3.2.10: VANISHED replaces EXPUNGE once QRESYNC is enabled; EARLIER only answers SELECT and UID FETCH.
pub fn vanished(out: &mut Vec<u8>, earlier: bool, uids: &UidSet) {
    if uids.is_empty() {
        return;
    }
    out.extend_from_slice(if earlier { b"* VANISHED (EARLIER) " } else { b"* VANISHED " });
    set(out, uids);
    out.extend_from_slice(b"\r\n");
}

/// Under which name octets of a message are answered.
#[derive(Clone, Copy, Debug)]
pub enum BodyName<'a> {
    /// `origin`: where the request was a partial one.
    Section {
        section: &'a Section,
        origin: Option<u32>,
    },
    Rfc822,
    Rfc822Header,
    Rfc822Text,
}

/// One FETCH response, item by item. To stream a literal, let go of the writer, send the buffer and the octets, and go
/// on with [`FetchWriter::resume`].
#[must_use = "a FETCH response must be finished"]
pub struct FetchWriter<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> FetchWriter<'o> {
    pub fn new(out: &'o mut Vec<u8>, sequence_number: u32) -> FetchWriter<'o> {
        out.extend_from_slice(b"* ");
        number(out, u64::from(sequence_number));
        out.extend_from_slice(b" FETCH (");
        FetchWriter { out, first: true }
    }

    /// RFC 9586 §3.2: of a session without message sequence numbers.
    pub fn by_uid(out: &'o mut Vec<u8>, uid: Uid) -> FetchWriter<'o> {
        out.extend_from_slice(b"* ");
        number(out, u64::from(uid.get()));
        out.extend_from_slice(b" UIDFETCH (");
        FetchWriter { out, first: true }
    }

    /// Before its first item.
    pub fn begun(out: &'o mut Vec<u8>) -> FetchWriter<'o> {
        FetchWriter { out, first: true }
    }

    /// After at least one item.
    pub fn resume(out: &'o mut Vec<u8>) -> FetchWriter<'o> {
        FetchWriter { out, first: false }
    }

    fn item(&mut self, name: &str) {
        if !self.first {
            self.out.push(b' ');
        }
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
    }

    pub fn uid(&mut self, uid: Uid) {
        self.item("UID ");
        number(self.out, u64::from(uid.get()));
    }

    /// `system`: [`SystemFlag`] bits.
    pub fn flags<'k>(&mut self, system: u8, recent: bool, keywords: impl IntoIterator<Item = &'k str>) {
        self.item("FLAGS ");
        flag_list(self.out, system, recent, keywords);
    }

    pub fn modseq(&mut self, modseq: ModSeq) {
        self.item("MODSEQ (");
        number(self.out, modseq.get());
        self.out.push(b')');
    }

    pub fn internal_date(&mut self, date: InternalDate) {
        self.item("INTERNALDATE \"");
        self.out.extend_from_slice(&date.wire());
        self.out.push(b'"');
    }

    /// `None`: not known.
    pub fn save_date(&mut self, date: Option<InternalDate>) {
        match date {
            Some(date) => {
                self.item("SAVEDATE \"");
                self.out.extend_from_slice(&date.wire());
                self.out.push(b'"');
            }
            None => self.item("SAVEDATE NIL"),
        }
    }

    /// RFC 8474 §5.1.
    pub fn email_id(&mut self, id: Guid) {
        self.item("EMAILID (");
        write!(self.out, "{EMAIL_ID}{id})").expect("a Vec takes every octet");
    }

    /// RFC 8474 §5.2: NIL of a server that has no thread ids.
    pub fn no_thread_id(&mut self) {
        self.item("THREADID NIL");
    }

    pub fn size(&mut self, octets: u64) {
        self.item("RFC822.SIZE ");
        number(self.out, octets);
    }

    /// `wire`: the prepared form, with its parentheses.
    pub fn envelope(&mut self, wire: &[u8]) {
        self.item("ENVELOPE ");
        self.out.extend_from_slice(wire);
    }

    /// `wire`: the prepared form without extension data.
    pub fn body(&mut self, wire: &[u8]) {
        self.item("BODY ");
        self.out.extend_from_slice(wire);
    }

    /// `wire`: the prepared form with extension data.
    pub fn body_structure(&mut self, wire: &[u8]) {
        self.item("BODYSTRUCTURE ");
        self.out.extend_from_slice(wire);
    }

    /// RFC 3516 §4.3. `None`: the section names nothing. A literal8 where there are NULs.
    pub fn binary(&mut self, part: &[u32], origin: Option<u32>, octets: Option<&[u8]>) {
        self.binary_name("BINARY[", part, origin);
        match octets {
            None => self.out.extend_from_slice(b"NIL"),
            Some([]) => self.out.extend_from_slice(b"\"\""),
            Some(octets) => {
                if memchr::memchr(0, octets).is_some() {
                    self.out.push(b'~');
                }
                literal(self.out, octets.len() as u64);
                self.out.extend_from_slice(octets);
            }
        }
    }

    /// Announces octets that the caller sends next, exactly so many, of any value.
    pub fn binary_literal(&mut self, part: &[u32], origin: Option<u32>, octets: u64) {
        self.binary_name("BINARY[", part, origin);
        self.out.push(b'~');
        literal(self.out, octets);
    }

    pub fn binary_size(&mut self, part: &[u32], octets: u64) {
        self.binary_name("BINARY.SIZE[", part, None);
        number(self.out, octets);
    }

    fn binary_name(&mut self, name: &str, part: &[u32], origin: Option<u32>) {
        self.item(name);
        part_spec(self.out, part);
        self.out.push(b']');
        write_origin(self.out, origin);
        self.out.push(b' ');
    }

    /// RFC 8970 §6. `None`: not now, which only LAZY allows.
    pub fn preview(&mut self, text: Option<&str>) {
        self.item("PREVIEW ");
        nstring(self.out, text.map(str::as_bytes));
    }

    /// Announces octets that the caller sends next, exactly so many, without NUL ([`mask_nul`]).
    pub fn literal(&mut self, name: BodyName<'_>, octets: u64) {
        self.body_name(name);
        if octets == 0 {
            self.out.extend_from_slice(b"\"\"");
        } else {
            literal(self.out, octets);
        }
    }

    /// Octets that are at hand.
    pub fn octets(&mut self, name: BodyName<'_>, octets: &[u8]) {
        self.literal(name, octets.len() as u64);
        let from = self.out.len();
        self.out.extend_from_slice(octets);
        mask_nul(&mut self.out[from..]);
    }

    /// The section names nothing.
    pub fn nil(&mut self, name: BodyName<'_>) {
        self.body_name(name);
        self.out.extend_from_slice(b"NIL");
    }

    pub fn finish(self) {
        self.out.extend_from_slice(b")\r\n");
    }

    fn body_name(&mut self, name: BodyName<'_>) {
        match name {
            BodyName::Section { section, origin } => {
                self.item("BODY[");
                section_spec(self.out, section);
                self.out.push(b']');
                write_origin(self.out, origin);
                self.out.push(b' ');
            }
            BodyName::Rfc822 => self.item("RFC822 "),
            BodyName::Rfc822Header => self.item("RFC822.HEADER "),
            BodyName::Rfc822Text => self.item("RFC822.TEXT "),
        }
    }
}

fn write_origin(out: &mut Vec<u8>, origin: Option<u32>) {
    if let Some(origin) = origin {
        out.push(b'<');
        number(out, u64::from(origin));
        out.push(b'>');
    }
}

fn part_spec(out: &mut Vec<u8>, part: &[u32]) {
    for (at, number_of) in part.iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        number(out, u64::from(*number_of));
    }
}

/// What stands between the brackets.
pub(super) fn section_spec(out: &mut Vec<u8>, section: &Section) {
    part_spec(out, &section.part);
    let Some(text) = &section.text else { return };
    if !section.part.is_empty() {
        out.push(b'.');
    }
    let (name, fields) = match text {
        SectionText::Header => ("HEADER", None),
        SectionText::HeaderFields(fields) => ("HEADER.FIELDS", Some(fields)),
        SectionText::HeaderFieldsNot(fields) => ("HEADER.FIELDS.NOT", Some(fields)),
        SectionText::Text => ("TEXT", None),
        SectionText::Mime => ("MIME", None),
    };
    out.extend_from_slice(name.as_bytes());
    let Some(fields) = fields else { return };
    out.extend_from_slice(b" (");
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        astring(out, field.as_bytes());
    }
    out.push(b')');
}
