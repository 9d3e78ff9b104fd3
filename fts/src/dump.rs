//! Dump: a stored segment, for a person to read.
//!
//! What messages say is not shown: of tokens only how many there are and how long. Names of header fields and languages
//! are shown. Damage does not end a dump where more can be read; it is told in its place.
//!
//! # Limits
//! [`LINES_MAX`] lines of each list.

use crate::FormatError;
use crate::check;
use crate::field::{Field, Fields};
use crate::format::{Layout, Tag, mark};
use crate::language::Language;
use crate::segment::Segment;
use std::fmt::{self, Display, Formatter};

/// Most lines that are written of each list in a segment.
pub const LINES_MAX: usize = 1000;

/// A segment in lines of text; an error where not even its sections can be told apart.
pub fn dump(octets: &[u8]) -> Result<impl Display + use<'_>, FormatError> {
    Ok(Dump { octets, layout: Layout::parse(octets)? })
}

struct Dump<'s> {
    octets: &'s [u8],
    layout: Layout,
}

impl Display for Dump<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Dump { octets, layout } = self;
        let header = &layout.header;
        writeln!(f, "FTS segment, {} octets, tokens of version {}", octets.len(), header.tokenizer)?;
        writeln!(
            f,
            "  documents {} to {}, {} of them, {} words; {} terms",
            header.first, header.last, header.documents, header.tokens, header.terms
        )?;
        for tag in Tag::ALL {
            let (at, octets_of, count) =
                (layout.range(tag).start, layout.range(tag).len(), layout.count(tag));
            let state = if layout.verified(octets, tag).is_ok() { "" } else { ", checksum does not match" };
            writeln!(f, "  section {} at {at}, {octets_of} octets, {count} entries{state}", tag.name())?;
        }
        match Segment::open(octets) {
            Ok(segment) => terms(f, &segment)?,
            Err(error) => writeln!(f, "  not to be opened: {error}")?,
        }
        match check(octets) {
            Ok(summary) => writeln!(
                f,
                "  sound: {} documents incomplete, {} marks, {} blocks, {} postings, {} dense lists, {} places of grams",
                summary.incomplete,
                summary.marks,
                summary.blocks,
                summary.postings,
                summary.dense,
                summary.grams
            ),
            Err(error) => writeln!(f, "  damaged: {error}"),
        }
    }
}

fn terms(f: &mut Formatter<'_>, segment: &Segment<'_>) -> fmt::Result {
    for kind in [mark::HEADER, mark::LANGUAGE] {
        let marks = match segment.marks(kind) {
            Ok(marks) => marks,
            Err(error) => {
                writeln!(f, "  marks not to be read: {error}")?;
                continue;
            }
        };
        for (term, entry) in marks.iter().take(LINES_MAX) {
            let documents: u32 = entry.lists(Fields::ALL).filter_map(|(_, list)| list.count().ok()).sum();
            match (kind, term.get(1)) {
                (mark::LANGUAGE, Some(number)) => {
                    let language = Language::ALL.get(usize::from(*number));
                    writeln!(
                        f,
                        "  language {}: {documents}",
                        language.map_or("?", |language| language.code())
                    )?;
                }
                _ => writeln!(f, "  header field {}: {documents}", term[1..].escape_ascii())?,
            }
        }
        if marks.len() > LINES_MAX {
            writeln!(f, "  … and {} more", marks.len() - LINES_MAX)?;
        }
    }
    let mut in_fields = [0u64; 8];
    let mut octets = 0usize;
    let read = segment.scan(
        0..segment.block_count(),
        |term| {
            octets += term.len();
            true
        },
        |entry| {
            entry.fields.iter().for_each(|field| in_fields[field as usize] += 1);
            Ok(())
        },
    );
    write!(f, "  {octets} octets of terms; terms by field:")?;
    for field in Field::ALL {
        write!(f, " {} {}", field.name(), in_fields[field as usize])?;
    }
    writeln!(f)?;
    if let Err(error) = read {
        writeln!(f, "  blocks not to be read further: {error}")?;
    }
    Ok(())
}
