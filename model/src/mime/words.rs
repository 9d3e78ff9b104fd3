//! Encoded words (RFC 2047): header values as text.

use super::charset::Charset;
use super::headers::unfold;
use super::transfer::{Decoder, Encoding};

/// The text of a field's raw value: unfolded, encoded words decoded, other octets as [`Charset::UNKNOWN`]. An encoded
/// word that is malformed stays as it is. One pass.
pub fn decode_words(value: &[u8]) -> String {
    let value = unfold(value);
    let mut text = String::with_capacity(value.len());
    let mut open = Open { charset: None, octets: Vec::new() };
    let mut ends = Ends { value: &value, next: Some(0) };
    // From `plain` on, octets have not been written.
    let (mut plain, mut at) = (0, 0);
    while let Some(found) = memchr::memmem::find(&value[at..], b"=?") {
        let begin = at + found;
        let Some(word) = EncodedWord::parse(&value, begin, &mut ends) else {
            at = begin + 2;
            continue;
        };
        let between = &value[plain..begin];
        // RFC 2047 §6.2: white space between two encoded words is not shown.
        if open.charset.is_none() || !between.trim_ascii().is_empty() {
            open.close(&mut text);
            text.push_str(&Charset::UNKNOWN.decode(between));
        }
        // Senders split characters between words (against RFC 2047 §5), so neighbours are decoded as one.
        if open.charset != Some(word.charset) {
            open.close(&mut text);
            open.charset = Some(word.charset);
        }
        open.octets.extend(word.octets);
        (plain, at) = (word.end, word.end);
    }
    open.close(&mut text);
    text.push_str(&Charset::UNKNOWN.decode(&value[plain..]));
    text
}

struct Open {
    charset: Option<Charset>,
    octets: Vec<u8>,
}

impl Open {
    fn close(&mut self, text: &mut String) {
        if let Some(charset) = self.charset.take() {
            text.push_str(&charset.decode(&std::mem::take(&mut self.octets)));
        }
    }
}

/// Finds the next `?=` at or after growing positions, looking at each octet once.
struct Ends<'v> {
    value: &'v [u8],
    next: Option<usize>,
}

impl Ends<'_> {
    fn at_or_after(&mut self, from: usize) -> Option<usize> {
        if self.next? < from || !self.value[self.next?..].starts_with(b"?=") {
            self.next = memchr::memmem::find(&self.value[from..], b"?=").map(|at| from + at);
        }
        self.next
    }
}

struct EncodedWord {
    charset: Charset,
    octets: Vec<u8>,
    /// Where the word ends in the value.
    end: usize,
}

impl EncodedWord {
    /// Longest charset name, in octets, with its RFC 2231 language.
    const LABEL_OCTETS_MAX: usize = 80;

    fn parse(value: &[u8], begin: usize, ends: &mut Ends<'_>) -> Option<EncodedWord> {
        let head = &value[begin + 2..];
        let head = &head[..head.len().min(EncodedWord::LABEL_OCTETS_MAX)];
        let mark = memchr::memchr(b'?', head)?;
        let label = &head[..mark];
        if label.is_empty() || label.iter().any(|byte| *byte <= b' ') {
            return None;
        }
        // RFC 2231 §5: a language after `*`.
        let label = label.split(|byte| *byte == b'*').next()?;
        let from = begin + 2 + mark + 3;
        let base64 = match value.get(from - 2..from)? {
            [b'B' | b'b', b'?'] => true,
            [b'Q' | b'q', b'?'] => false,
            _ => return None,
        };
        let end = ends.at_or_after(from)?;
        let encoded = &value[from..end];
        let mut octets = Vec::with_capacity(encoded.len());
        if base64 {
            if encoded.iter().any(|byte| !byte.is_ascii_alphanumeric() && !b"+/= ".contains(byte)) {
                return None;
            }
            let mut decoder = Decoder::new(Encoding::Base64);
            decoder.feed(encoded, &mut octets);
            decoder.finish(&mut octets);
        } else {
            let mut rest = encoded;
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let pair = after.first_chunk::<2>().filter(|_| *first == b'=');
                match pair.and_then(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)) {
                    Some(octet) => {
                        octets.push(octet as u8);
                        rest = &after[2..];
                    }
                    // RFC 2047 §4.2: `_` is a space in every charset.
                    None => octets.push(if *first == b'_' { b' ' } else { *first }),
                }
            }
        }
        Some(EncodedWord { charset: Charset::of(label), octets, end: end + 2 })
    }
}
