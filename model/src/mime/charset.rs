//! Charsets: octets to text.
//!
//! A charset that is absent, unknown or US-ASCII is read as UTF-8 where the octets are UTF-8, and octet by octet as
//! windows-1252 where they are not: senders that leave it out mean one of the two.

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, WINDOWS_1252};

/// How octets become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset(Option<&'static Encoding>);

impl Charset {
    /// Absent, unknown or US-ASCII.
    pub const UNKNOWN: Charset = Charset(None);

    /// By its label, without regard to case. Every encoding of the WHATWG standard is known.
    pub fn of(label: &[u8]) -> Charset {
        let label = label.trim_ascii();
        // The standard reads US-ASCII as windows-1252, and senders that say it send UTF-8 too.
        let ascii = [b"us-ascii".as_slice(), b"ascii", b"utf-8", b"utf8"];
        if ascii.iter().any(|name| label.eq_ignore_ascii_case(name)) {
            return Charset::UNKNOWN;
        }
        // Names of code pages that the standard does not list.
        let lower = label.to_ascii_lowercase();
        let encoding = match lower.strip_prefix(b"cp").or_else(|| lower.strip_prefix(b"windows")) {
            Some(digits) if digits.len() == 4 && digits.iter().all(u8::is_ascii_digit) => {
                Encoding::for_label(&[b"windows-".as_slice(), digits].concat())
            }
            Some(b"932" | b"-31j") => Encoding::for_label(b"shift_jis"),
            Some(b"936" | b"-936") => Encoding::for_label(b"gbk"),
            Some(b"949" | b"-949") => Encoding::for_label(b"euc-kr"),
            Some(b"950" | b"-950") => Encoding::for_label(b"big5"),
            _ => None,
        };
        let encoding = encoding.or_else(|| Encoding::for_label_no_replacement(label));
        Charset(encoding.filter(|encoding| *encoding != REPLACEMENT && *encoding != UTF_8))
    }

    /// All of `octets`. What is no text in the charset becomes U+FFFD.
    pub fn decode(self, octets: &[u8]) -> String {
        let mut text = String::new();
        let mut decoder = self.decoder();
        decoder.feed(octets, &mut text);
        decoder.finish(&mut text);
        text
    }

    pub fn decoder(self) -> CharsetDecoder {
        match self.0 {
            Some(encoding) => CharsetDecoder(Inner::Known(encoding.new_decoder_without_bom_handling())),
            None => CharsetDecoder(Inner::Unknown { held: Vec::new(), begun: false }),
        }
    }
}

/// Decodes a text that comes in pieces; where they are cut has no influence.
pub struct CharsetDecoder(Inner);

enum Inner {
    Known(encoding_rs::Decoder),
    Unknown {
        /// The beginning of a UTF-8 sequence, up to three octets.
        held: Vec<u8>,
        begun: bool,
    },
}

impl CharsetDecoder {
    pub fn feed(&mut self, octets: &[u8], text: &mut String) {
        match &mut self.0 {
            Inner::Known(decoder) => run(decoder, octets, text, false),
            Inner::Unknown { held, begun } => {
                let from = text.len();
                if held.is_empty() {
                    *held = decode_either(octets, text).to_vec();
                } else {
                    let mut joined = std::mem::take(held);
                    joined.extend_from_slice(octets);
                    *held = decode_either(&joined, text).to_vec();
                }
                if !*begun && text.len() > from {
                    *begun = true;
                    if text[from..].starts_with('\u{feff}') {
                        text.drain(from..from + '\u{feff}'.len_utf8());
                    }
                }
            }
        }
    }

    pub fn finish(self, text: &mut String) {
        match self.0 {
            Inner::Known(mut decoder) => run(&mut decoder, b"", text, true),
            Inner::Unknown { held, .. } => push_1252(&held, text),
        }
    }
}

fn run(decoder: &mut encoding_rs::Decoder, mut octets: &[u8], text: &mut String, last: bool) {
    loop {
        let room = decoder.max_utf8_buffer_length(octets.len().min(64 * 1024)).unwrap_or(64 * 1024);
        text.reserve(room.max(32));
        let (result, read, _) = decoder.decode_to_string(octets, text, last);
        octets = &octets[read..];
        if result == encoding_rs::CoderResult::InputEmpty {
            break;
        }
    }
}

/// Returns the beginning of a UTF-8 sequence that stands at the end.
fn decode_either<'o>(mut octets: &'o [u8], text: &mut String) -> &'o [u8] {
    loop {
        match std::str::from_utf8(octets) {
            Ok(valid) => {
                text.push_str(valid);
                return b"";
            }
            Err(error) => {
                let (valid, rest) = octets.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).expect("it was found valid up to here"));
                let Some(bad) = error.error_len() else { return rest };
                // One octet at a time, so that the cut between pieces has no influence.
                push_1252(&rest[..1.min(bad)], text);
                octets = &rest[1..];
            }
        }
    }
}

fn push_1252(octets: &[u8], text: &mut String) {
    text.push_str(&WINDOWS_1252.decode_without_bom_handling(octets).0);
}
