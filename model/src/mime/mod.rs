//! The structure of a message: parts, their headers and where their octets stand.
//!
//! [`Scanner`] reads a message once, in chunks of any size, and gives a [`Message`]: a tree of [`Part`]s with ranges
//! into the message's octets. From it come the prepared wire forms ([`wire`]) and the [`PartTable`], which is stored
//! with the message so that a `BODY[2.1]` is one range read.
//!
//! # Invariants
//! A part's body begins where its header ends. A part's ranges lie within its parent's body. Chunking has no
//! influence on the result.
//!
//! # Limits
//! [`Limits`]; what lies beyond them is opaque body of the part at hand, never an error.
//!
//! # RFC
//! RFC 2045, 2046 (structure), 2047 (encoded words), 2183 (disposition), 2231 (parameters), 3501 §7.4.2 (wire forms),
//! 3030 and 3516 (binary content), 5322 (headers).

pub mod address;
pub mod binary;
pub mod charset;
pub mod chosen;
pub mod envelope;
pub mod headers;
pub mod param;
pub mod scan;
pub mod section;
pub mod table;
pub mod transfer;
pub mod wire;
pub mod words;

pub use address::{Address, parse_addresses};
pub use binary::BinaryConverter;
pub use chosen::{CHOSEN_HEADERS, covers};
pub use envelope::{EnvelopeFields, FIELD_OCTETS_MAX, FirstAddress};
pub use headers::{Field, fields, filter_header, unfold};
pub use param::{ContentType, Disposition, Param};
pub use scan::Scanner;
pub use section::{BinarySection, FieldFilter, Resolved, Section, SectionText, resolve, resolve_binary};
pub use table::{PartKind, PartTable, TableError, TablePart};
pub use transfer::{Decoder, Encoding, UnknownEncoding};
pub use wire::{body, bodystructure, envelope};
pub use words::decode_words;

use std::ops::Range;

/// Bounds of the scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of multiparts and messages; at most [`Limits::DEPTH_CEILING`]. Deeper ones are opaque.
    pub depth_max: usize,
    /// Most parts of one message; at most [`Limits::PARTS_CEILING`]. The rest is body of the last.
    pub parts_max: usize,
    /// Octets kept of one part's header. A field that does not fit whole is not seen.
    pub header_octets_max: usize,
    /// Octets kept of all parts' headers but the root's. Parts beyond it count as text/plain without a header.
    pub headers_octets_max: usize,
}

impl Limits {
    /// No configuration goes deeper: the tree is walked by recursion.
    pub const DEPTH_CEILING: usize = 200;
    /// No configuration has more parts: a stored table is refused beyond it.
    pub const PARTS_CEILING: usize = 100_000;
    /// Longest boundary, in octets. RFC 2046 §5.1.1 allows 70; a multipart with a longer one is opaque.
    pub const BOUNDARY_OCTETS_MAX: usize = 500;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            depth_max: 100,
            parts_max: 1000,
            header_octets_max: 256 * 1024,
            headers_octets_max: 1024 * 1024,
        }
    }
}

/// A scanned message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub root: Part,
    /// Of the root's header.
    pub envelope: Envelope,
    /// Octets of the whole message: RFC822.SIZE.
    pub size: u64,
    /// The root's header as far as it was kept.
    pub header: Vec<u8>,
    /// Whether `header` is the whole header.
    pub header_whole: bool,
}

impl Message {
    /// Scans a message that is in memory anyway.
    pub fn scan(octets: &[u8]) -> Message {
        let mut scanner = Scanner::new(Limits::default());
        scanner.feed(octets);
        scanner.finish()
    }

    /// What is stored with the message for later range reads.
    pub fn table(&self) -> PartTable {
        PartTable::new(self)
    }
}

/// One part. Strings are raw octets of the header, unfolded and without comments, not decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Octets of the message, with the blank line that ends the header.
    pub header: Range<u64>,
    /// Octets of the message, without the line end that belongs to the following boundary.
    pub body: Range<u64>,
    /// Line ends in `body`.
    pub lines: u64,
    pub content_type: ContentType,
    pub disposition: Option<Disposition>,
    pub id: Option<Vec<u8>>,
    pub description: Option<Vec<u8>>,
    /// Content-Transfer-Encoding; empty where there is none, which means 7BIT.
    pub encoding: Vec<u8>,
    pub md5: Option<Vec<u8>>,
    /// Language tags, in order.
    pub language: Vec<Vec<u8>>,
    pub location: Option<Vec<u8>>,
    pub content: Content,
}

/// What a part's body holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Content {
    #[default]
    Leaf,
    /// At least one part.
    Multipart(Vec<Part>),
    Message(Box<Embedded>),
}

/// The message within a message/rfc822 part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    pub envelope: Envelope,
    pub root: Part,
}

/// The fields of an RFC 3501 §7.4.2 ENVELOPE. `None` and an empty list: the field is absent; an empty string: it is
/// there and empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    pub date: Option<Vec<u8>>,
    pub subject: Option<Vec<u8>>,
    pub from: Vec<Address>,
    pub sender: Vec<Address>,
    pub reply_to: Vec<Address>,
    pub to: Vec<Address>,
    pub cc: Vec<Address>,
    pub bcc: Vec<Address>,
    pub in_reply_to: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
}

impl Envelope {
    /// From a header block.
    pub fn of(header: &[u8]) -> Envelope {
        let mut envelope = Envelope::default();
        let mut addresses_left = Address::LIST_MAX;
        for field in fields(header) {
            let text = match field.name.to_ascii_lowercase().as_slice() {
                b"date" => &mut envelope.date,
                b"subject" => &mut envelope.subject,
                b"in-reply-to" => &mut envelope.in_reply_to,
                b"message-id" => &mut envelope.message_id,
                name => {
                    let list = match name {
                        b"from" => &mut envelope.from,
                        b"sender" => &mut envelope.sender,
                        b"reply-to" => &mut envelope.reply_to,
                        b"to" => &mut envelope.to,
                        b"cc" => &mut envelope.cc,
                        b"bcc" => &mut envelope.bcc,
                        _ => continue,
                    };
                    // A field that stands twice is met in practice: its addresses are one list.
                    let found = parse_addresses(field.value, addresses_left);
                    addresses_left -= found.len();
                    list.extend(found);
                    continue;
                }
            };
            // RFC 5322 §3.6 allows one; of several the first is the one that readers show.
            if text.is_none() {
                *text = Some(unfold(field.value));
            }
        }
        envelope
    }
}

#[cfg(test)]
mod tests;
