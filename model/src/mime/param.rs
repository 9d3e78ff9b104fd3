//! Content-Type, Content-Disposition and their parameters.
//!
//! Read liberally: comments anywhere, values without quotes up to the next `;`, missing semicolons. What cannot be
//! read counts as absent.
//!
//! # Limits
//! [`Param::COUNT_MAX`] parameters of one field; the rest is not seen.
//!
//! # RFC
//! RFC 2045 §5.1, RFC 2183, RFC 2231.

use super::charset::Charset;
use super::words::decode_words;

/// A parameter as written, quotes and escapes removed; not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl Param {
    /// Most parameters of one field.
    pub const COUNT_MAX: usize = 200;
}

/// A media type with its parameters, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    pub type_: Vec<u8>,
    pub subtype: Vec<u8>,
    pub params: Vec<Param>,
}

/// What a part without a usable Content-Type has.
// RFC 2045 §5.2: text/plain; charset=us-ascii, for absent and for syntactically invalid fields.
impl Default for ContentType {
    fn default() -> ContentType {
        let charset = Param { name: b"CHARSET".to_vec(), value: b"US-ASCII".to_vec() };
        ContentType { type_: b"TEXT".to_vec(), subtype: b"PLAIN".to_vec(), params: vec![charset] }
    }
}

impl ContentType {
    /// A type without parameters.
    pub fn plain(type_: &str, subtype: &str) -> ContentType {
        ContentType { type_: type_.into(), subtype: subtype.into(), params: Vec::new() }
    }

    /// From a field's raw value; `None` where it has no type and subtype.
    pub fn parse(value: &[u8]) -> Option<ContentType> {
        let mut text = Cursor { rest: value };
        text.skip_space();
        let type_ = text.token();
        text.skip_space();
        text.take(b'/').then_some(())?;
        text.skip_space();
        let subtype = text.token();
        if type_.is_empty() || subtype.is_empty() {
            return None;
        }
        Some(ContentType { type_, subtype, params: text.params() })
    }

    pub fn is(&self, type_: &str, subtype: &str) -> bool {
        self.is_type(type_) && self.subtype.eq_ignore_ascii_case(subtype.as_bytes())
    }

    pub fn is_type(&self, type_: &str) -> bool {
        self.type_.eq_ignore_ascii_case(type_.as_bytes())
    }

    /// The raw value of a parameter.
    pub fn param(&self, name: &str) -> Option<&[u8]> {
        param(&self.params, name)
    }

    /// A parameter as text: see [`decode_param`].
    pub fn text_param(&self, name: &str) -> Option<String> {
        decode_param(&self.params, name)
    }
}

/// A Content-Disposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// `inline`, `attachment`, as written.
    pub kind: Vec<u8>,
    pub params: Vec<Param>,
}

impl Disposition {
    pub fn parse(value: &[u8]) -> Option<Disposition> {
        let mut text = Cursor { rest: value };
        text.skip_space();
        let kind = text.token();
        (!kind.is_empty()).then(|| Disposition { kind, params: text.params() })
    }

    pub fn is_attachment(&self) -> bool {
        // RFC 2183 §2.8: dispositions that are not known count as attachment.
        !self.kind.eq_ignore_ascii_case(b"inline")
    }

    pub fn text_param(&self, name: &str) -> Option<String> {
        decode_param(&self.params, name)
    }
}

fn param<'p>(params: &'p [Param], name: &str) -> Option<&'p [u8]> {
    let found = params.iter().find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(&found.value)
}

/// A parameter as text: RFC 2231 continuations and charsets, and, as met in practice, RFC 2047 words.
pub fn decode_param(params: &[Param], name: &str) -> Option<String> {
    if let Some(value) = extended(params, name) {
        return Some(value);
    }
    param(params, name).map(decode_words)
}

fn extended(params: &[Param], name: &str) -> Option<String> {
    let mut pieces: Vec<(u32, bool, &[u8])> = Vec::new();
    for param in params {
        let Some((base, tail)) = param.name.split_at_checked(name.len()) else { continue };
        if !base.eq_ignore_ascii_case(name.as_bytes()) {
            continue;
        }
        let Some(tail) = tail.strip_prefix(b"*") else { continue };
        if tail.is_empty() {
            // RFC 2231 §4: `name*` is the whole value, encoded.
            pieces.clear();
            pieces.push((0, true, &param.value));
            break;
        }
        let (number, encoded) = match tail.strip_suffix(b"*") {
            Some(number) => (number, true),
            None => (tail, false),
        };
        if number.len() > 6 || number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
            continue;
        }
        let number = number.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        pieces.push((number, encoded, &param.value));
    }
    pieces.sort_by_key(|piece| piece.0);
    pieces.dedup_by_key(|piece| piece.0);
    let mut charset = Charset::UNKNOWN;
    let mut octets = Vec::new();
    for (at, (number, encoded, mut value)) in pieces.iter().copied().enumerate() {
        // RFC 2231 §3: numbers go up from 0 without a gap.
        if number as usize != at {
            break;
        }
        if encoded && at == 0 {
            let mut parts = value.splitn(3, |byte| *byte == b'\'');
            if let (Some(label), Some(_language), Some(text)) = (parts.next(), parts.next(), parts.next()) {
                charset = Charset::of(label);
                value = text;
            }
        }
        if encoded {
            unescape(value, &mut octets);
        } else {
            octets.extend_from_slice(value);
        }
    }
    (pieces.first()?.0 == 0).then(|| charset.decode(&octets))
}

/// RFC 2231 §7 `ext-octet`: `%` and two hexadecimal digits; a `%` without them stands for itself.
fn unescape(value: &[u8], octets: &mut Vec<u8>) {
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let digits = after.first_chunk::<2>().filter(|_| *first == b'%');
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match digits.and_then(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)) {
            Some(octet) => {
                octets.push(octet as u8);
                rest = &after[2..];
            }
            None => octets.push(*first),
        }
    }
}

/// Reads a structured field's value.
pub(crate) struct Cursor<'v> {
    pub(crate) rest: &'v [u8],
}

impl Cursor<'_> {
    fn take(&mut self, byte: u8) -> bool {
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Skips white space and comments (RFC 5322 §3.2.2).
    pub(crate) fn skip_space(&mut self) {
        while let Some((first, after)) = self.rest.split_first() {
            match first {
                b' ' | b'\t' | b'\r' | b'\n' | 0 => self.rest = after,
                b'(' => self.skip_comment(),
                _ => break,
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut depth = 0usize;
        while let Some((first, after)) = self.rest.split_first() {
            self.rest = after;
            match first {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => self.rest = after.get(1..).unwrap_or_default(),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }

    /// RFC 2045 §5.1 `token`, with 8-bit octets.
    pub(crate) fn token(&mut self) -> Vec<u8> {
        let special = |byte: u8| byte <= b' ' || byte == 0x7f || b"()<>@,;:\\\"/[]?=".contains(&byte);
        let end = self.rest.iter().position(|byte| special(*byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token.to_vec()
    }

    fn params(&mut self) -> Vec<Param> {
        let mut params = Vec::new();
        while params.len() < Param::COUNT_MAX {
            self.skip_space();
            if self.rest.is_empty() {
                break;
            }
            if self.take(b';') {
                continue;
            }
            let name = self.token();
            self.skip_space();
            if name.is_empty() || !self.take(b'=') {
                // Not a parameter: on to what follows the next semicolon.
                if name.is_empty() {
                    let end = memchr::memchr(b';', self.rest).unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                continue;
            }
            self.skip_space();
            let value = if self.take(b'"') { self.quoted() } else { self.bare() };
            params.push(Param { name, value });
        }
        params
    }

    /// The rest of a quoted string; its line ends are folding.
    pub(crate) fn quoted(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while let Some((first, after)) = self.rest.split_first() {
            self.rest = after;
            match first {
                b'"' => break,
                b'\\' => {
                    if let Some((escaped, after)) = after.split_first() {
                        text.push(*escaped);
                        self.rest = after;
                    }
                }
                b'\r' | b'\n' | 0 => {}
                _ => text.push(*first),
            }
        }
        text
    }

    /// A value without quotes: to the semicolon, without a comment behind it. Spaces in it are met in practice, but
    /// `a b=c` is a value and a parameter whose semicolon is missing.
    fn bare(&mut self) -> Vec<u8> {
        let end = memchr::memchr(b';', self.rest).unwrap_or(self.rest.len());
        let (mut value, mut rest) = self.rest.split_at(end);
        if let Some(comment) =
            value.windows(2).position(|pair| matches!(pair, [b' ' | b'\t' | b'\r' | b'\n', b'(']))
        {
            rest = &self.rest[comment..];
            value = &value[..comment];
        } else if let Some(equals) = memchr::memchr(b'=', value)
            && let Some(space) = value[..equals].iter().rposition(|byte| matches!(byte, b' ' | b'\t' | b'\n'))
        {
            rest = &self.rest[space..];
            value = &value[..space];
        }
        self.rest = rest;
        super::headers::unfold(value)
    }
}
