//! Sections: what a client names between the brackets of `BODY[...]`, and where its octets stand.
//!
//! # RFC
//! RFC 3501 §6.4.5 and §9 (`section-spec`), RFC 3516 §4.2 and §7 (`section-binary`).

use super::table::{PartKind, PartTable};
use super::transfer::Encoding;
use std::ops::Range;

/// A `section-spec`: part numbers, then what of that part. Empty in both is the whole message, `BODY[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Section {
    /// `1.2` in `1.2.HEADER`; each from 1 on.
    pub part: Vec<u32>,
    /// `None`: the whole message, or the body of the part.
    pub text: Option<SectionText>,
}

/// A `section-text`. Field names stand as the client wrote them and are compared without regard to ASCII case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SectionText {
    Header,
    HeaderFields(Vec<String>),
    HeaderFieldsNot(Vec<String>),
    Text,
    /// Only after part numbers: the grammar allows no `BODY[MIME]`.
    Mime,
}

impl Section {
    /// Most part numbers in one section; deeper ones name no part of any message.
    pub const PARTS_MAX: usize = super::Limits::DEPTH_CEILING;
    /// Most field names in one HEADER.FIELDS list that a parser should accept.
    pub const FIELDS_MAX: usize = 1000;
}

/// Where a section's octets stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'s> {
    /// Octets of the message, from its first one. Within the message's size.
    pub range: Range<u64>,
    /// Where set, `range` is a whole header, to be passed through [`filter_header`](super::filter_header) first.
    pub fields: Option<FieldFilter<'s>>,
}

/// Which fields of a header a section asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldFilter<'s> {
    pub names: &'s [String],
    /// HEADER.FIELDS.NOT: all but these.
    pub not: bool,
}

/// The octets that `section` names in the message described by `table`; `None` where it names nothing (answered with
/// NIL).
pub fn resolve<'s>(table: &PartTable, section: &'s Section) -> Option<Resolved<'s>> {
    let whole = |range: Range<u64>| Some(Resolved { range, fields: None });
    let (part, message) = match section.part.as_slice() {
        [] => (None, Some(0)),
        numbers => {
            let part = find(table, numbers)?;
            (Some(part), embedded(table, part))
        }
    };
    match (&section.text, part) {
        (None, None) => whole(0..table.size()),
        (None, Some(part)) => whole(table.get(part)?.body()),
        // RFC 3501 §6.4.5: MIME refers to the header of the part itself, HEADER and TEXT to the message in it.
        (Some(SectionText::Mime), Some(part)) => whole(table.get(part)?.header()),
        (Some(SectionText::Mime), None) => None,
        (Some(SectionText::Header), _) => whole(table.get(message?)?.header()),
        (Some(SectionText::Text), _) => whole(table.get(message?)?.body()),
        (Some(SectionText::HeaderFields(names)), _) => {
            let fields = Some(FieldFilter { names, not: false });
            Some(Resolved { range: table.get(message?)?.header(), fields })
        }
        (Some(SectionText::HeaderFieldsNot(names)), _) => {
            let fields = Some(FieldFilter { names, not: true });
            Some(Resolved { range: table.get(message?)?.header(), fields })
        }
    }
}

/// What a `section-binary` names: the octets to decode, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinarySection {
    /// Octets of the message, not decoded. Within the message's size.
    pub range: Range<u64>,
    /// The encoding of the part's header; [`Encoding::decoder`] undoes it, or refuses.
    pub encoding: Encoding,
    /// [`PartKind::Message`] for the whole message too.
    pub kind: PartKind,
    /// Whether the media type is text/*.
    pub is_text: bool,
}

/// What `BINARY[1.2]` names: a part's body. No part numbers name the whole message, as in `BODY[]`. `None` where it names
/// nothing (answered with NIL).
///
/// The encoding is that of the part table, which the scanner read from the part's header: neither the stored
/// BODYSTRUCTURE nor the header is parsed a second time, so that what is decoded and what is searched are one.
// RFC 9051 §6.4.5: BINARY is for leaf parts. Of others `kind` tells, and they are given by their own encoding, which
// RFC 2045 §6.4 has be an identity.
pub fn resolve_binary(table: &PartTable, part: &[u32]) -> Option<BinarySection> {
    if part.is_empty() {
        let kind = PartKind::Message;
        return Some(BinarySection {
            range: 0..table.size(),
            encoding: Encoding::Identity,
            kind,
            is_text: false,
        });
    }
    let part = table.get(find(table, part)?)?;
    Some(BinarySection {
        range: part.body(),
        encoding: part.encoding,
        kind: part.kind,
        is_text: part.media_type.starts_with("text/"),
    })
}

/// The index in `table` of the part with these numbers.
fn find(table: &PartTable, numbers: &[u32]) -> Option<usize> {
    let mut container = Some(0);
    let mut found = None;
    for number in numbers {
        // RFC 3501 §6.4.5: every message has at least one part number; a non-multipart message has part 1 alone.
        let root = container?;
        let part = match table.get(root)?.kind {
            PartKind::Multipart => table.child(root, *number)?,
            PartKind::Leaf | PartKind::Message if *number == 1 => root,
            PartKind::Leaf | PartKind::Message => return None,
        };
        found = Some(part);
        container = match table.get(part)?.kind {
            PartKind::Multipart => Some(part),
            PartKind::Message => embedded(table, part),
            PartKind::Leaf => None,
        };
    }
    found
}

/// The root part of the message that a message/rfc822 part holds.
fn embedded(table: &PartTable, part: usize) -> Option<usize> {
    match table.get(part)?.kind {
        PartKind::Message => table.child(part, 1),
        PartKind::Leaf | PartKind::Multipart => None,
    }
}
