//! The text of a message: the one definition that SEARCH BODY, TEXT and HEADER, and any index of words, follow.
//!
//! # Which text
//! A message has these texts, in this order; nothing matches across the end of one.
//!
//! 1. *Header*: each field of its own header, as `Name: value` (see [`field_text`]).
//! 2. *Body*: for each part in order
//!    - of the root of a message within a message/rfc822 part: each field of its header, likewise;
//!    - of any other part: its file name, if it has one (`filename` of Content-Disposition, else `name` of
//!      Content-Type);
//!    - of a part that is text/* or message/* and no container: its body. It is decoded from its transfer encoding
//!      (a part with an unknown one has no text), then from its charset ([`Charset`]: the parameter, for text/html
//!      else what a `charset=` in the first kilobyte says). Text/html is rendered: text between tags with character
//!      references resolved, `alt` of images, tags other than inline ones as a space; comments, script, style and
//!      iframe are left out. Whether it is an attachment has no influence.
//!
//!    Other parts (images, documents), preambles and epilogues have no text.
//!
//! `BODY` searches the body texts, `TEXT` all of them.
//!
//! # How it is compared
//! Text and key are folded ([`fold`]) and the key is searched as a substring of octets: RFC 5051's i;unicode-casemap
//! with full case mapping, white space of any length and kind as one space, invisible characters left out.
//!
//! # Limits
//! Of one header field [`FIELD_OCTETS_MAX`] octets. Memory: a few buffers of tens of KiB, whatever the message.
//!
//! # Cost
//! One pass over the text, per key one substring search of linear time. Work is done in [`Extract::step`]s of about
//! the octets asked for.
//!
//! # RFC
//! RFC 3501 §6.4.4, RFC 5051, RFC 5255 §4.

mod casemap;
mod extract;
mod fold;
mod html;
pub mod message_id;
pub mod preview;
mod subject;

pub use crate::mime::charset::Charset;
pub use casemap::casemap;
pub use extract::{Event, Extract, Place, Step};
pub use fold::{Folder, fold};
pub use message_id::Links;
pub use preview::Preview;
pub use subject::{BaseSubject, base_subject, plain_spaces};

use crate::Date;
use crate::InternalDate;
use crate::mime::headers::{Field, field, fields};
use crate::mime::param::{ContentType, Disposition, Param};
use crate::mime::{PartTable, decode_words, parse_addresses};
use memchr::memmem::Finder;

/// Octets of one header field's value that have text; the rest has none.
pub const FIELD_OCTETS_MAX: usize = 256 * 1024;

/// The decoded text of a field's value: unfolded, encoded words decoded. Then, each after a line end: for address
/// fields the list as `name <mailbox@host>`, for fields with parameters the decoded values of those that RFC 2231
/// encodes.
pub fn field_text(field: &Field<'_>) -> String {
    let value = &field.value[..field.value.len().min(FIELD_OCTETS_MAX)];
    let mut text = decode_words(value);
    const ADDRESSES: [&str; 6] = ["from", "sender", "reply-to", "to", "cc", "bcc"];
    if ADDRESSES.iter().any(|name| field.is(name)) {
        // Comments and obsolete white space within an address hide it from a substring search.
        const LIST_MAX: usize = 5000;
        for address in parse_addresses(value, LIST_MAX) {
            let (Some(mailbox), Some(host)) = (&address.mailbox, &address.host) else { continue };
            text.push('\n');
            text.push_str(&decode_words(address.name.as_deref().unwrap_or_default()));
            text.push_str(" <");
            text.push_str(&Charset::UNKNOWN.decode(mailbox));
            text.push('@');
            text.push_str(&Charset::UNKNOWN.decode(host));
            text.push('>');
        }
    }
    let params = if field.is("content-type") {
        ContentType::parse(value).map(|content_type| content_type.params)
    } else if field.is("content-disposition") {
        Disposition::parse(value).map(|disposition| disposition.params)
    } else {
        None
    };
    for name in ["name", "filename"] {
        let encoded = |param: &Param| param.name.contains(&b'*');
        if let Some(value) = params
            .as_deref()
            .filter(|params| params.iter().any(encoded))
            .and_then(|params| crate::mime::param::decode_param(params, name))
        {
            text.push('\n');
            text.push_str(&value);
        }
    }
    text
}

/// The instant of the Date header, with its zone.
// RFC 3501 §6.4.4: SENTBEFORE and friends use the Date header, disregarding time and timezone.
pub fn sent(header: &[u8]) -> Option<InternalDate> {
    InternalDate::parse_header(field(header, "Date")?.value)
}

/// The civil date of the Date header in its own zone.
pub fn sent_date(header: &[u8]) -> Option<Date> {
    sent(header).map(InternalDate::date)
}

/// A HEADER key, or FROM, TO, CC, BCC and SUBJECT, folded once for many messages.
#[derive(Clone, Debug)]
pub struct HeaderSearch {
    field: String,
    finder: Finder<'static>,
}

impl HeaderSearch {
    /// An empty `value` asks only that the field exists.
    pub fn new(field: &str, value: &str) -> HeaderSearch {
        HeaderSearch { field: field.to_owned(), finder: Finder::new(&fold(value)).into_owned() }
    }

    /// Whether a field of this header block matches. The block may be a stored one that
    /// [`covers`](crate::mime::covers) the field.
    pub fn matches(&self, header: &[u8]) -> bool {
        let exists = self.finder.needle().is_empty();
        fields(header)
            .filter(|field| field.is(&self.field))
            .any(|field| exists || self.finder.find(fold(&field_text(&field)).as_bytes()).is_some())
    }

    pub fn field(&self) -> &str {
        &self.field
    }
}

/// Which texts a key is searched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Body,
    Text,
}

/// BODY and TEXT keys, searched together in one pass over a message, and then in the next message.
#[derive(Clone, Debug)]
pub struct TextSearch {
    keys: Vec<(Scope, Finder<'static>)>,
    found: Vec<bool>,
    folder: Folder,
    /// Folded text not searched yet, after as much of the searched as a key may begin in.
    window: Vec<u8>,
    place: Place,
    key_octets_max: usize,
}

impl TextSearch {
    /// Folded text that is gathered before it is searched.
    const WINDOW_OCTETS: usize = 16 * 1024;

    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = (Scope, S)>) -> TextSearch {
        let keys: Vec<_> = keys
            .into_iter()
            .map(|(scope, key)| (scope, Finder::new(&fold(key.as_ref())).into_owned()))
            .collect();
        let key_octets_max = keys.iter().map(|(_, finder)| finder.needle().len()).max().unwrap_or(0);
        let mut search = TextSearch {
            found: vec![false; keys.len()],
            keys,
            folder: Folder::default(),
            window: Vec::new(),
            place: Place::Header,
            key_octets_max,
        };
        search.start();
        search
    }

    /// Forgets the last message.
    pub fn start(&mut self) {
        for (found, (_, finder)) in self.found.iter_mut().zip(&self.keys) {
            *found = finder.needle().is_empty();
        }
        self.folder = Folder::default();
        self.window.clear();
        self.place = Place::Header;
    }

    /// Searches about `budget` octets more of the message; `Done` once every key has been found or the text has
    /// ended.
    pub fn step(&mut self, extract: &mut Extract<'_>, budget: usize) -> Step {
        if self.is_settled() {
            return Step::Done;
        }
        let step = extract.step(budget, &mut |event| self.take(event));
        if step == Step::Done {
            self.take(Event::Break);
        }
        if self.is_settled() { Step::Done } else { step }
    }

    /// Searches a whole message; the answers are [`Self::found`].
    pub fn search(&mut self, table: &PartTable, message: &[u8]) {
        self.start();
        let mut extract = Extract::new(table, message);
        if self.keys.iter().all(|(scope, _)| *scope == Scope::Body) {
            extract.skip_header();
        }
        while self.step(&mut extract, usize::MAX) == Step::More {}
    }

    /// Whether the key with this index (in the order given to [`Self::new`]) has been found.
    pub fn found(&self, index: usize) -> bool {
        self.found[index]
    }

    fn is_settled(&self) -> bool {
        self.found.iter().all(|found| *found)
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Text(place, text) => {
                self.place = place;
                // In bounded pieces, so that a large piece of text does not make a large window.
                let mut rest = text;
                while !rest.is_empty() {
                    let mut cut = rest.len().min(TextSearch::WINDOW_OCTETS);
                    while !rest.is_char_boundary(cut) {
                        cut += 1;
                    }
                    let (piece, later) = rest.split_at(cut);
                    rest = later;
                    self.folder.push(piece, &mut self.window);
                    if self.window.len() >= TextSearch::WINDOW_OCTETS + self.key_octets_max {
                        self.scan();
                        let keep = self.key_octets_max.saturating_sub(1).min(self.window.len());
                        self.window.drain(..self.window.len() - keep);
                    }
                }
            }
            Event::Break => {
                self.folder.finish(&mut self.window);
                self.scan();
                self.window.clear();
            }
        }
    }

    fn scan(&mut self) {
        for ((scope, finder), found) in self.keys.iter().zip(&mut self.found) {
            let here = *scope == Scope::Text || self.place == Place::Body;
            *found = *found || (here && finder.find(&self.window).is_some());
        }
    }
}

#[cfg(test)]
mod tests;
