//! Reading: the texts of one message go into a builder.
//!
//! Which texts a message has, and what belongs to which, is `culver_model::text`'s definition and nobody else's: fields
//! decoded, parts decoded from transfer encoding and charset, HTML rendered, nested messages walked.
//!
//! # Limits
//! `message_octets_max`, `text_octets_max` and `words_max` bound what one message costs; one that goes beyond is
//! indexed as far as that and marked incomplete.

use crate::Step;
use crate::builder::Builder;
use crate::field::Field;
use culver_model::mime::headers::field;
use culver_model::mime::{ContentType, Disposition, PartKind, PartTable};
use culver_model::text::{Event, Extract, Place, Step as TextStep};

/// One message on its way into a builder, between [`Builder::open`] and [`Builder::close`].
pub struct Reading<'m> {
    extract: Extract<'m>,
    table: &'m PartTable,
    message: &'m [u8],
    octets: usize,
    /// The name of the header field at hand, where it has one.
    name: Option<String>,
    /// Pieces of the text at hand so far.
    pieces: usize,
    names_done: bool,
}

impl<'m> Reading<'m> {
    /// `message` is the whole message that `table` describes.
    pub fn new(table: &'m PartTable, message: &'m [u8]) -> Reading<'m> {
        Reading {
            extract: Extract::new(table, message),
            table,
            message,
            octets: 0,
            name: None,
            pieces: 0,
            names_done: false,
        }
    }

    /// Reads about `budget` octets more of the message.
    pub fn step(&mut self, builder: &mut Builder, budget: usize) -> Step {
        if !std::mem::replace(&mut self.names_done, true) {
            self.attachment_names(builder);
        }
        // Steps are short, so that the bound on a message holds whatever the caller asks for.
        let budget = budget.clamp(1, 64 * 1024);
        let (name, pieces) = (&mut self.name, &mut self.pieces);
        let step = self.extract.step(budget, &mut |event| match event {
            Event::Break => {
                // A line that is no field: what was taken for the name is all of it.
                if let (1, Some(line)) = (*pieces, name.as_deref()) {
                    builder.header_name("");
                    builder.text(Field::Other, line);
                }
                builder.end_text();
                (*name, *pieces) = (None, 0);
            }
            Event::Text(Place::Body, text) => builder.text(Field::Body, text),
            Event::Text(Place::Header, text) => {
                // A field is its name, a colon and a space, and its value.
                match (*pieces, text) {
                    (0, text) => *name = Some(text.to_owned()),
                    (1, ": ") => {
                        let name = name.as_deref().unwrap_or_default();
                        builder.header_name(name);
                        builder.text(Field::Other, name);
                        builder.end_text();
                    }
                    (_, text) => builder.text(name.as_deref().map_or(Field::Other, Field::of_header), text),
                }
                *pieces += 1;
            }
        });
        self.octets = self.octets.saturating_add(budget);
        if step == TextStep::Done {
            return Step::Done;
        }
        if self.octets > builder.limits().message_octets_max {
            builder.set_incomplete();
            builder.end_text();
            return Step::Done;
        }
        Step::More
    }

    /// The file names of parts that hold no message, once more as a field of their own.
    fn attachment_names(&self, builder: &mut Builder) {
        for (index, part) in self.table.parts().iter().enumerate() {
            let above = index.checked_sub(1).and_then(|index| self.table.get(index));
            if above.is_none_or(|above| above.kind == PartKind::Message && above.depth < part.depth) {
                continue;
            }
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(self.message.len());
            let header = &self.message[at(part.header().start)..at(part.header().end)];
            let name = field(header, "Content-Disposition")
                .and_then(|field| Disposition::parse(field.value)?.text_param("filename"))
                .or_else(|| ContentType::parse(field(header, "Content-Type")?.value)?.text_param("name"));
            if let Some(name) = name {
                builder.text(Field::Attachment, &name);
                builder.end_text();
            }
        }
    }
}

impl Builder {
    /// Adds a message at once.
    pub fn message(&mut self, doc: u32, table: &PartTable, message: &[u8]) {
        self.open(doc);
        let mut reading = Reading::new(table, message);
        while reading.step(self, usize::MAX) == Step::More {}
        self.close();
    }
}
