//! Extraction: walks a message's texts in the order of the definition, in steps.

use super::html::{Html, meta_charset};
use super::{Charset, field_text};
use crate::mime::charset::CharsetDecoder;
use crate::mime::headers::{Fields, field, fields};
use crate::mime::param::{ContentType, Disposition};
use crate::mime::transfer::{Decoder, Encoding};
use crate::mime::{PartKind, PartTable, TablePart};
use std::ops::Range;

/// Which search scope a text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The message's own header.
    Header,
    /// Everything else.
    Body,
}

/// What extraction finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'t> {
    /// A piece of a text, cut anywhere between two characters.
    Text(Place, &'t str),
    /// The end of a text: nothing matches across it.
    Break,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    More,
    Done,
}

/// The texts of one message.
pub struct Extract<'m> {
    table: &'m PartTable,
    message: &'m [u8],
    /// The part at hand.
    index: usize,
    state: State<'m>,
}

enum State<'m> {
    /// Before a part.
    Begin,
    Fields(Place, Fields<'m>),
    /// Before a part's body.
    Body,
    Plain(Source<'m>),
    Html(Box<Html<'m>>),
}

impl<'m> Extract<'m> {
    /// `message` is the whole message that `table` describes; parts beyond its end have no text.
    pub fn new(table: &'m PartTable, message: &'m [u8]) -> Extract<'m> {
        Extract { table, message, index: 0, state: State::Begin }
    }

    /// Leaves out the texts of [`Place::Header`]; only before the first step.
    pub fn skip_header(&mut self) {
        if self.index == 0 && matches!(self.state, State::Begin) {
            self.state = State::Body;
        }
    }

    /// Gives the text of about `budget` octets more to `sink`.
    pub fn step(&mut self, budget: usize, sink: &mut impl FnMut(Event<'_>)) -> Step {
        let mut left = budget.max(1);
        while left > 0 {
            let Some(part) = self.table.get(self.index) else { return Step::Done };
            let used = match &mut self.state {
                State::Begin => {
                    self.begin(part, sink);
                    1
                }
                State::Fields(place, fields) => match fields.next() {
                    Some(field) => {
                        if !field.name.is_empty() {
                            sink(Event::Text(*place, &Charset::UNKNOWN.decode(field.name)));
                            sink(Event::Text(*place, ": "));
                        }
                        sink(Event::Text(*place, &field_text(&field)));
                        sink(Event::Break);
                        field.line.len()
                    }
                    None => {
                        self.state = State::Body;
                        1
                    }
                },
                State::Body => {
                    self.begin_body(part);
                    1
                }
                State::Plain(source) => {
                    let used = source.fill(1);
                    sink(Event::Text(Place::Body, source.all()));
                    source.consume_all();
                    if used == 0 {
                        sink(Event::Break);
                        self.next_part();
                    }
                    used.max(1)
                }
                State::Html(html) => {
                    let (used, done) = html.step(left, &mut |text| sink(Event::Text(Place::Body, text)));
                    if done {
                        sink(Event::Break);
                        self.next_part();
                    }
                    used.max(1)
                }
            };
            left = left.saturating_sub(used);
        }
        if self.index < self.table.parts().len() { Step::More } else { Step::Done }
    }

    fn next_part(&mut self) {
        self.index += 1;
        self.state = State::Begin;
    }

    fn octets(&self, range: Range<u64>) -> &'m [u8] {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(self.message.len());
        &self.message[at(range.start)..at(range.end)]
    }

    fn begin(&mut self, part: &TablePart, sink: &mut impl FnMut(Event<'_>)) {
        let header = self.octets(part.header());
        let above = self.index.checked_sub(1).and_then(|index| self.table.get(index));
        // Preorder: what directly follows a message/rfc822 part is the root of its message.
        let is_root = above.is_none_or(|above| above.kind == PartKind::Message && above.depth < part.depth);
        if is_root {
            let place = if self.index == 0 { Place::Header } else { Place::Body };
            self.state = State::Fields(place, fields(header));
            return;
        }
        let file_name = field(header, "Content-Disposition")
            .and_then(|field| Disposition::parse(field.value)?.text_param("filename"))
            .or_else(|| ContentType::parse(field(header, "Content-Type")?.value)?.text_param("name"));
        if let Some(name) = file_name {
            sink(Event::Text(Place::Body, &name));
            sink(Event::Break);
        }
        self.state = State::Body;
    }

    fn begin_body(&mut self, part: &TablePart) {
        let is_text = part.media_type.starts_with("text/") || part.media_type.starts_with("message/");
        if part.kind != PartKind::Leaf || !is_text || part.encoding == Encoding::Unknown {
            return self.next_part();
        }
        let body = self.octets(part.body());
        let html = &*part.media_type == "text/html";
        let charset = match part.charset.as_bytes() {
            b"" if html => meta_charset(body, part.encoding),
            label => Charset::of(label),
        };
        let source = Source::new(body, part.encoding, charset);
        self.state = if html { State::Html(Box::new(Html::new(source))) } else { State::Plain(source) };
    }
}

/// A body as text, decoded piece by piece.
pub(super) struct Source<'m> {
    rest: &'m [u8],
    transfer: Decoder,
    /// `None` once the end has been decoded.
    charset: Option<CharsetDecoder>,
    octets: Vec<u8>,
    text: String,
    /// Where in `text` the part begins that has not been consumed.
    at: usize,
}

impl<'m> Source<'m> {
    /// Octets of the message that are decoded at once.
    const PIECE_OCTETS: usize = 4096;

    pub(super) fn new(body: &'m [u8], encoding: Encoding, charset: Charset) -> Source<'m> {
        Source {
            rest: body,
            transfer: Decoder::new(encoding),
            charset: Some(charset.decoder()),
            octets: Vec::new(),
            text: String::new(),
            at: 0,
        }
    }

    /// Decodes until at least `wanted` octets of text are there, or the end. Gives the octets of the message used.
    pub(super) fn fill(&mut self, wanted: usize) -> usize {
        let mut used = 0;
        self.drop_consumed();
        while self.text.len() - self.at < wanted {
            let Some(charset) = &mut self.charset else { break };
            self.octets.clear();
            let (piece, rest) = self.rest.split_at(self.rest.len().min(Source::PIECE_OCTETS));
            self.rest = rest;
            used += piece.len();
            self.transfer.feed(piece, &mut self.octets);
            if rest.is_empty() {
                self.transfer.finish(&mut self.octets);
            }
            charset.feed(&self.octets, &mut self.text);
            if rest.is_empty()
                && let Some(charset) = self.charset.take()
            {
                charset.finish(&mut self.text);
                // Counted as work, so that an empty body is not mistaken for its end.
                used += 1;
            }
        }
        used
    }

    /// Whole characters only: a reader of octets may have consumed a part of one.
    fn drop_consumed(&mut self) {
        let mut whole = self.at;
        while !self.text.is_char_boundary(whole) {
            whole -= 1;
        }
        self.text.drain(..whole);
        self.at -= whole;
    }

    /// What has not been consumed.
    pub(super) fn octets(&self) -> &[u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The last `octets` consumed: they stay in place until the next fill.
    pub(super) fn before(&self, octets: usize) -> &[u8] {
        &self.text.as_bytes()[self.at - octets..self.at]
    }

    pub(super) fn consume(&mut self, octets: usize) {
        self.at += octets;
    }

    /// All the text there is, where nothing of it has been consumed.
    pub(super) fn all(&self) -> &str {
        &self.text
    }

    pub(super) fn consume_all(&mut self) {
        self.at = self.text.len();
    }
}
