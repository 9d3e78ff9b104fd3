//! The part table: what is stored with a message so that its parts can be read without scanning it again.
//!
//! # Invariants
//! Parts stand in preorder, so a part's descendants follow it. The message within a message/rfc822 part is its only
//! child. A child's header and body lie within its parent's body, and children do not overlap. `decode(encode())` is
//! the table; a table that decodes can be resolved without a check of its own.
//!
//! # Limits
//! [`PartTable::OCTETS_MAX`], [`PartTable::PARTS_MAX`], [`Limits::DEPTH_CEILING`].

use super::{Content, Encoding, Limits, Message, Part};
use std::ops::Range;

/// The parts of a message, in preorder; index 0 is the root. The message's octets run from 0 to `size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartTable {
    parts: Vec<TablePart>,
}

/// One part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePart {
    pub kind: PartKind,
    /// 0 for the root.
    pub depth: u8,
    /// Where the header begins, where it ends and the body begins, and where that ends: octets of the message.
    pub header_start: u64,
    pub body_start: u64,
    pub body_end: u64,
    /// Lower case, `text/plain`; cut to [`TablePart::NAME_OCTETS_MAX`].
    pub media_type: Box<str>,
    /// Lower case; empty where there is none. Cut alike.
    pub charset: Box<str>,
    pub encoding: Encoding,
    /// Whether its disposition is another than inline.
    pub attachment: bool,
}

impl TablePart {
    /// Longest media type and charset that are kept.
    pub const NAME_OCTETS_MAX: usize = 127;

    pub fn header(&self) -> Range<u64> {
        self.header_start..self.body_start
    }

    pub fn body(&self) -> Range<u64> {
        self.body_start..self.body_end
    }
}

/// What a part's children are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartKind {
    Leaf = 0,
    /// One child or more.
    Multipart = 1,
    /// One child: the root of the message that it holds.
    Message = 2,
}

/// Why octets are no part table: they are damaged, or of a later version. A person must act, or the message is
/// scanned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("part table of version {0} (this program reads version {VERSION})")]
    Version(u8),
    #[error("damaged part table")]
    Damaged,
}

const VERSION: u8 = 1;

/// Media types with a number of their own: part of the stored format, only ever appended to. 0 is written out.
const MEDIA_TYPES: [&str; 20] = [
    "",
    "text/plain",
    "text/html",
    "multipart/mixed",
    "multipart/alternative",
    "multipart/related",
    "multipart/report",
    "multipart/signed",
    "multipart/digest",
    "message/rfc822",
    "message/delivery-status",
    "application/octet-stream",
    "application/pdf",
    "image/png",
    "image/jpeg",
    "image/gif",
    "text/calendar",
    "application/pgp-signature",
    "application/pkcs7-signature",
    "text/rfc822-headers",
];

/// Charsets, likewise.
const CHARSETS: [&str; 8] =
    ["", "us-ascii", "utf-8", "iso-8859-1", "iso-8859-15", "windows-1252", "iso-2022-jp", "gb2312"];
/// A charset that is written out; [`CHARSETS`] has its empty name as the first.
const CHARSET_WRITTEN: u8 = 0x1f;

impl PartTable {
    /// Most parts: each of a message's may have been given an empty one (see [`Content::Multipart`]).
    pub const PARTS_MAX: usize = 2 * Limits::PARTS_CEILING;
    /// Largest stored form that is decoded.
    pub const OCTETS_MAX: usize = 16 * 1024 * 1024;

    pub fn new(message: &Message) -> PartTable {
        let mut parts = Vec::new();
        collect(&message.root, 0, &mut parts);
        PartTable { parts }
    }

    pub fn parts(&self) -> &[TablePart] {
        &self.parts
    }

    pub fn get(&self, index: usize) -> Option<&TablePart> {
        self.parts.get(index)
    }

    /// Octets of the message.
    pub fn size(&self) -> u64 {
        self.parts[0].body_end
    }

    /// The index of a part's child, counted from 1.
    pub fn child(&self, index: usize, number: u32) -> Option<usize> {
        let depth = self.parts.get(index)?.depth;
        let below = self.parts[index + 1..].iter().take_while(|part| part.depth > depth);
        let mut children = below.enumerate().filter(|(_, part)| part.depth == depth + 1);
        let nth = usize::try_from(number.checked_sub(1)?).ok()?;
        children.nth(nth).map(|(at, _)| index + 1 + at)
    }

    /// The table of the same message with `octets` put before it: header lines that a recipient's own copy begins
    /// with.
    #[must_use]
    pub fn prefixed(mut self, octets: u64) -> PartTable {
        for (index, part) in self.parts.iter_mut().enumerate() {
            if index > 0 {
                part.header_start = part.header_start.saturating_add(octets);
            }
            part.body_start = part.body_start.saturating_add(octets);
            part.body_end = part.body_end.saturating_add(octets);
        }
        self
    }

    /// The stored form: version, number of parts, then each part in preorder. A number is a varint (7 bits an octet,
    /// low bits first): depth, octets between the previous part's header start and this one's, octets of header and
    /// of body. The octets `kind | attachment << 2 | encoding << 4`, media type and charset follow the depth.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.parts.len() * 10);
        out.push(VERSION);
        put_number(self.parts.len() as u64, &mut out);
        let mut previous = 0;
        for part in &self.parts {
            out.push(part.depth);
            out.push(part.kind as u8 | u8::from(part.attachment) << 2 | (part.encoding as u8) << 4);
            let known = |table: &[&str], name: &str| table.iter().position(|have| *have == name);
            match known(&MEDIA_TYPES, &part.media_type).filter(|number| *number > 0) {
                Some(number) => out.push(number as u8),
                None => {
                    out.push(0);
                    put_name(&part.media_type, &mut out);
                }
            }
            match known(&CHARSETS, &part.charset) {
                Some(number) => out.push(number as u8),
                None => {
                    out.push(CHARSET_WRITTEN);
                    put_name(&part.charset, &mut out);
                }
            }
            put_number(part.header_start - previous, &mut out);
            put_number(part.body_start - part.header_start, &mut out);
            put_number(part.body_end - part.body_start, &mut out);
            previous = part.header_start;
        }
        out
    }

    pub fn decode(octets: &[u8]) -> Result<PartTable, TableError> {
        match octets.first() {
            Some(&VERSION) if octets.len() <= PartTable::OCTETS_MAX => {}
            Some(&VERSION) | None => return Err(TableError::Damaged),
            Some(other) => return Err(TableError::Version(*other)),
        }
        let mut reader = Reader { rest: &octets[1..] };
        let parts = reader.parts().ok_or(TableError::Damaged)?;
        if !reader.rest.is_empty() || !is_sound(&parts) {
            return Err(TableError::Damaged);
        }
        Ok(PartTable { parts })
    }
}

fn collect(part: &Part, depth: u8, parts: &mut Vec<TablePart>) {
    let lower = |name: &[u8]| -> Box<str> {
        let mut text =
            String::from_utf8_lossy(&name[..name.len().min(TablePart::NAME_OCTETS_MAX)]).to_ascii_lowercase();
        while text.len() > TablePart::NAME_OCTETS_MAX {
            text.pop();
        }
        text.into_boxed_str()
    };
    let media_type = [&part.content_type.type_[..], b"/", &part.content_type.subtype].concat();
    let kind = match part.content {
        Content::Leaf => PartKind::Leaf,
        Content::Multipart(_) => PartKind::Multipart,
        Content::Message(_) => PartKind::Message,
    };
    parts.push(TablePart {
        kind,
        depth,
        header_start: part.header.start,
        body_start: part.body.start,
        body_end: part.body.end,
        media_type: lower(&media_type),
        charset: lower(part.content_type.param("charset").unwrap_or_default()),
        encoding: Encoding::of(&part.encoding),
        attachment: part.disposition.as_ref().is_some_and(|disposition| disposition.is_attachment()),
    });
    match &part.content {
        Content::Leaf => {}
        Content::Multipart(children) => children.iter().for_each(|child| collect(child, depth + 1, parts)),
        Content::Message(embedded) => collect(&embedded.root, depth + 1, parts),
    }
}

/// The invariants that stored octets could break.
fn is_sound(parts: &[TablePart]) -> bool {
    // For each depth the part open there, and where its next child may begin.
    let mut open: Vec<(usize, u64)> = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let depth = usize::from(part.depth);
        if depth > open.len() || (depth == 0) != (index == 0) {
            return false;
        }
        open.truncate(depth);
        if let Some((parent, free)) = open.last_mut() {
            let above = &parts[*parent];
            let second = *free > above.body_start || *parent + 1 < index;
            let fits = part.header_start >= *free && part.body_end <= above.body_end;
            if above.kind == PartKind::Leaf || (above.kind == PartKind::Message && second) || !fits {
                return false;
            }
            *free = part.body_end;
        } else if part.header_start != 0 {
            return false;
        }
        // Preorder: the first child is the next part.
        let has_child = parts.get(index + 1).is_some_and(|next| next.depth > part.depth);
        if has_child != (part.kind != PartKind::Leaf) {
            return false;
        }
        open.push((index, part.body_start));
    }
    !parts.is_empty()
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

struct Reader<'o> {
    rest: &'o [u8],
}

impl<'o> Reader<'o> {
    fn parts(&mut self) -> Option<Vec<TablePart>> {
        let count = usize::try_from(self.number()?).ok()?;
        // A part takes at least seven octets, so a false count cannot ask for much memory.
        if count == 0 || count > PartTable::PARTS_MAX || count > self.rest.len() / 7 {
            return None;
        }
        let mut parts = Vec::with_capacity(count);
        let mut previous = 0u64;
        for _ in 0..count {
            let depth = self.octet()?;
            let flags = self.octet()?;
            if usize::from(depth) > Limits::DEPTH_CEILING || flags & 0b1100_1000 != 0 {
                return None;
            }
            let media_type = match self.octet()? {
                0 => self.name()?,
                number => MEDIA_TYPES.get(usize::from(number)).copied()?.into(),
            };
            let charset = match self.octet()? {
                CHARSET_WRITTEN => self.name()?,
                number => CHARSETS.get(usize::from(number)).copied()?.into(),
            };
            let header_start = previous.checked_add(self.number()?)?;
            let body_start = header_start.checked_add(self.number()?)?;
            let body_end = body_start.checked_add(self.number()?)?;
            previous = header_start;
            parts.push(TablePart {
                kind: match flags & 3 {
                    0 => PartKind::Leaf,
                    1 => PartKind::Multipart,
                    2 => PartKind::Message,
                    _ => return None,
                },
                depth,
                header_start,
                body_start,
                body_end,
                media_type,
                charset,
                encoding: match flags >> 4 {
                    0 => Encoding::Identity,
                    1 => Encoding::QuotedPrintable,
                    2 => Encoding::Base64,
                    _ => Encoding::Unknown,
                },
                attachment: flags & 4 != 0,
            });
        }
        Some(parts)
    }

    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let octet = self.octet()?;
            number |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn name(&mut self) -> Option<Box<str>> {
        let octets = usize::from(self.octet()?);
        let (name, rest) =
            self.rest.split_at_checked(octets).filter(|_| octets <= TablePart::NAME_OCTETS_MAX)?;
        self.rest = rest;
        Some(std::str::from_utf8(name).ok()?.into())
    }
}
