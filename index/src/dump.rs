//! Dump: a stored block, for a person to read.
//!
//! What a message says is not shown: its prepared forms are measured only, so that a dump can be given to others.
//! Damage does not end a dump where more can be read; it is told in its place.
//!
//! # Limits
//! [`LINES_MAX`] lines of each list in a block.
//!
//! # Cost
//! Reads every octet; a base is copied once. For tools and tests, not for opening a mailbox.

use crate::format::{ChangedRow, ColdRow, GoneRange, Layout, LogEntry, MovedRow, Tag};
use crate::keyword::Keywords;
use crate::{FormatError, PLACE_OCTETS, check};
use culver_model::{Guid, InternalDate, SystemFlag};
use std::fmt::{self, Display, Formatter, Write};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Most lines that are written of each list in a block: of its messages, of its log, of an account's mailboxes.
pub const LINES_MAX: usize = 1000;

/// The bit of a row's word that says that the bytes at its place may serve other rows too.
const SHARED: u64 = 1 << 6;

/// What a row holds that is opaque here, for who knows what it says.
#[derive(Clone, Copy, Debug)]
pub enum Opaque<'a> {
    /// Where the message's octets are.
    Place(&'a [u8; PLACE_OCTETS]),
    /// The table of its parts.
    Parts(&'a [u8]),
}

/// Says it in one line.
pub type Words<'w> = dyn Fn(Opaque<'_>) -> String + 'w;

/// A mailbox block in lines of text; an error where not even its sections can be told apart.
pub fn dump<'a>(bytes: &'a [u8], words: &'a Words<'a>) -> Result<impl Display + use<'a>, FormatError> {
    Ok(Dump { bytes, layout: Layout::parse(bytes)?, words })
}

struct Dump<'a> {
    bytes: &'a [u8],
    layout: Layout,
    words: &'a Words<'a>,
}

impl Display for Dump<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Dump { bytes, layout, words } = self;
        writeln!(f, "mailbox index {}, {:?}, {} octets", layout.guid, layout.kind, bytes.len())?;
        writeln!(f, "  serial {} after {}", layout.serial, layout.after)?;
        for tag in Tag::ALL.into_iter().filter(|tag| layout.has(*tag)) {
            let (at, octets, count) = (layout.range(tag).start, layout.range(tag).len(), layout.count(tag));
            let state = if layout.verified(bytes, tag).is_ok() { "" } else { ", checksum does not match" };
            writeln!(f, "  section {} at {at}, {octets} octets, {count} entries{state}", tag.name())?;
        }
        self.head(f)?;
        if let Err(error) = check(bytes) {
            writeln!(f, "  damaged: {error}")?;
        }
        let keywords = self.keywords();
        list(f, "keywords", keywords.table(), |f, id, keyword| writeln!(f, "  keyword {id} {keyword}"))?;
        self.rows(f, &keywords)?;
        list(f, "entries of the expunge log", self.entries(Tag::Log), |f, _, entry: &LogEntry| {
            writeln!(f, "  expunged {}:{} at modseq {}", entry.first, entry.last, entry.modseq)
        })?;
        list(f, "changed messages", self.entries(Tag::Changed), |f, _, row: &ChangedRow| {
            let flags = flags(row.uid.get(), row.flags.get(), &keywords);
            writeln!(f, "  changed {} modseq {} flags ({flags})", row.uid, row.modseq)
        })?;
        list(f, "moved messages", self.entries(Tag::Moved), |f, _, row: &MovedRow| {
            writeln!(f, "  moved {} to {}", row.uid, words(Opaque::Place(&row.place)))
        })?;
        list(f, "ranges that are gone", self.entries(Tag::Gone), |f, _, range: &GoneRange| {
            writeln!(f, "  gone {}:{}", range.first, range.last)
        })
    }
}

impl Dump<'_> {
    /// Empty where the section cannot be read, which the line of the section or of the damage tells.
    fn entries<T: FromBytes + Immutable>(&self, tag: Tag) -> &[T]
    where
        [T]: FromBytes + Immutable + KnownLayout<PointerMetadata = usize>,
    {
        self.layout.entries(self.bytes, tag).unwrap_or_default()
    }

    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Ok(head) = self.layout.head(self.bytes) else { return Ok(()) };
        writeln!(
            f,
            "  uid_validity {} uid_next {} created {}",
            head.uid_validity, head.uid_next, head.created
        )?;
        write!(f, "  highest_modseq {} expunge_floor {}", head.highest_modseq, head.expunge_floor)?;
        writeln!(f, " messages {} total_size {}", head.rows, head.total_size)?;
        write!(f, "  log_end {}", head.log_end)?;
        for flag in SystemFlag::ALL {
            write!(f, " {} {}", flag.name(), head.flag_counts[flag.bit().trailing_zeros() as usize])?;
        }
        writeln!(f)
    }

    /// Those that stand in this block: a delta has them only where they changed.
    fn keywords(&self) -> Keywords {
        let mut keywords = Keywords::default();
        let verified = |tag| self.layout.verified(self.bytes, tag).ok();
        if let Some(table) = verified(Tag::Keywords)
            && keywords.read_table(table, self.layout.count(Tag::Keywords)).is_ok()
            && let Some(side) = verified(Tag::Side)
        {
            // What cannot be read is told as damage.
            let _ = keywords.read_side(side, self.layout.count(Tag::Side));
        }
        keywords
    }

    fn rows(&self, f: &mut Formatter<'_>, keywords: &Keywords) -> fmt::Result {
        let uids: &[U32] = self.entries(Tag::Uids);
        let flag_words: &[U64] = self.entries(Tag::Flags);
        let modseqs: &[U64] = self.entries(Tag::ModSeqs);
        let cold: &[ColdRow] = self.entries(Tag::Cold);
        let heap = self.layout.verified(self.bytes, Tag::Heap).unwrap_or_default();
        list(f, "messages", uids, |f, at, uid| {
            write!(f, "  message {uid}")?;
            if let Some(modseq) = modseqs.get(at) {
                write!(f, " modseq {modseq}")?;
            }
            if let Some(word) = flag_words.get(at) {
                write!(f, " flags ({})", flags(uid.get(), word.get(), keywords))?;
                f.write_str(if word.get() & SHARED != 0 { " shared" } else { "" })?;
            }
            match cold.get(at) {
                Some(row) => self.cold(f, row, heap),
                None => writeln!(f),
            }
        })
    }

    fn cold(&self, f: &mut Formatter<'_>, row: &ColdRow, heap: &[u8]) -> fmt::Result {
        let saved = InternalDate { seconds: row.save_date.get(), zone_minutes: 0 };
        write!(f, " internal_date {}", row.internal_date().format().trim_start())?;
        match row.save_date.get() {
            0 => f.write_str(" save_date not known")?,
            _ => write!(f, " save_date {}", saved.format().trim_start())?,
        }
        write!(f, " size {} prefix_octets {}", row.size, row.prefix_octets)?;
        write!(f, " guid {} email_id {}", Guid(row.guid), Guid(row.email_id))?;
        write!(f, " thread_id {} origin {}", row.thread_id, Guid(row.origin))?;
        write!(f, " place {}", (self.words)(Opaque::Place(&row.place)))?;
        let rare = [("pop3_order", row.pop3_order), ("key_id", row.key_id)];
        for (name, value) in rare.into_iter().filter(|(_, value)| value.get() != 0) {
            write!(f, " {name} {value}")?;
        }
        write!(f, " heap {}+{}", row.heap, row.heap_octets())?;
        write!(f, ": ENVELOPE {} BODY {}", row.envelope_octets, row.body_octets)?;
        write!(f, " BODYSTRUCTURE {} headers {}", row.bodystructure_octets, row.headers_octets)?;
        f.write_str(if row.bits & crate::format::ROW_HEADERS_COMPLETE != 0 { " (all)" } else { "" })?;
        write!(f, " POP3 UIDL {} parts {}", row.pop3_uidl_octets, row.parts_octets)?;
        if let Some(parts) = parts_of(row, heap) {
            write!(f, " ({})", (self.words)(Opaque::Parts(parts)))?;
        }
        writeln!(f)
    }
}

/// The part table in a row's run of the heap; `None` where there is none.
fn parts_of<'a>(row: &ColdRow, heap: &'a [u8]) -> Option<&'a [u8]> {
    let before = [row.envelope_octets, row.body_octets, row.bodystructure_octets];
    let before: u64 = before.iter().map(|octets| u64::from(octets.get())).sum();
    let start = row.heap.get().checked_add(before)?;
    let end = start.checked_add(row.parts_octets.get().into())?;
    let parts = heap.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
    (!parts.is_empty()).then_some(parts)
}

/// The flags of a row's word and of the side bitmaps. A keyword whose name stands in an earlier block is `keyword(id)`,
/// which no keyword can be called.
fn flags(uid: u32, word: u64, keywords: &Keywords) -> String {
    let mut text = String::new();
    let mut put = |name: &dyn Display| {
        let separator = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{separator}{name}");
    };
    for flag in SystemFlag::ALL.into_iter().filter(|flag| word & u64::from(flag.bit()) != 0) {
        put(&flag.name());
    }
    let hot = (8..64u16).filter(|bit| word & (1 << bit) != 0).map(|bit| bit - 8);
    for id in hot.chain(keywords.side_ids(uid)) {
        match keywords.table().get(usize::from(id)) {
            Some(keyword) => put(keyword),
            None => put(&format_args!("keyword({id})")),
        }
    }
    text
}

/// The first [`LINES_MAX`] lines of a list, and how many more there are.
pub(crate) fn list<T>(
    f: &mut Formatter<'_>,
    what: &str,
    entries: &[T],
    mut line: impl FnMut(&mut Formatter<'_>, usize, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, entry) in entries.iter().enumerate().take(LINES_MAX) {
        line(f, at, entry)?;
    }
    match entries.len().saturating_sub(LINES_MAX) {
        0 => Ok(()),
        more => writeln!(f, "  … and {more} more {what}"),
    }
}
