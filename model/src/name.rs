//! Mailbox names: NFC UTF-8 with `/` between levels, and modified UTF-7 on the wire; patterns of LIST.
//!
//! # Invariants
//! A name has no empty level, no control character, and is NFC. Its first level is `INBOX` where it is that without
//! regard to case. `parse(name.as_str())` and `from_wire(name.to_mutf7())` give the name back.
//!
//! # Limits
//! [`MailboxName::OCTETS_MAX`] octets of UTF-8, [`MailboxName::LEVELS_MAX`] levels, [`ListPattern::OCTETS_MAX`].
//!
//! # RFC
//! RFC 3501 §5.1 (INBOX, hierarchy), §5.1.3 (modified UTF-7), §6.3.8 (LIST wildcards).

use std::borrow::Cow;
use std::fmt;
use unicode_normalization::UnicodeNormalization;

/// A mailbox name in its stored form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(Box<str>);

/// Why a text is no mailbox name. The client must act; a session answers with `NO [CANNOT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("empty mailbox name or empty level in it")]
    Empty,
    #[error(
        "mailbox name of more than {} octets or {} levels",
        MailboxName::OCTETS_MAX,
        MailboxName::LEVELS_MAX
    )]
    TooLong,
    #[error("mailbox name with a control character")]
    Character,
    #[error("mailbox name is not modified UTF-7 in its one valid form")]
    Encoding,
}

impl MailboxName {
    /// Longest name, in octets of its stored form.
    pub const OCTETS_MAX: usize = 1000;
    /// Deepest hierarchy.
    pub const LEVELS_MAX: usize = 32;
    pub const SEPARATOR: char = '/';
    const INBOX: &str = "INBOX";

    pub fn inbox() -> MailboxName {
        MailboxName(MailboxName::INBOX.into())
    }

    /// From UTF-8 in any normal form.
    pub fn parse(text: &str) -> Result<MailboxName, NameError> {
        if text.len() > MailboxName::OCTETS_MAX * 4 {
            return Err(NameError::TooLong);
        }
        let mut name: String = text.nfc().collect();
        if name.len() > MailboxName::OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        // RFC 6855 §3 with RFC 5198: no controls, no line or paragraph separators.
        if name.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err(NameError::Character);
        }
        let (mut levels, mut empty) = (0, false);
        for level in name.split(MailboxName::SEPARATOR) {
            levels += 1;
            empty |= level.is_empty();
        }
        if empty {
            return Err(NameError::Empty);
        }
        if levels > MailboxName::LEVELS_MAX {
            return Err(NameError::TooLong);
        }
        // RFC 3501 §5.1: INBOX is one name in any case; its children follow it, or they would have no parent.
        if first_level_is_inbox(name.as_bytes()) {
            name[..MailboxName::INBOX.len()].make_ascii_uppercase();
        }
        Ok(MailboxName(name.into_boxed_str()))
    }

    /// From the octets of a command: modified UTF-7.
    // RFC 3501 §5.1.3: one name has one encoding; what does not come back as it was sent would be a second one.
    pub fn from_wire(wire: &[u8]) -> Result<MailboxName, NameError> {
        if wire.len() > MailboxName::OCTETS_MAX * 4 {
            return Err(NameError::TooLong);
        }
        MailboxName::parse(&decode_mutf7(wire).ok_or(NameError::Encoding)?)
    }

    /// From UTF-8 octets, as a client sends them that asked for that (RFC 9755 §3, RFC 9051 §5.1): `&` is a character like others.
    pub fn from_utf8(wire: &[u8]) -> Result<MailboxName, NameError> {
        MailboxName::parse(std::str::from_utf8(wire).map_err(|_| NameError::Encoding)?)
    }

    /// As [`Self::from_wire`], for the argument of CREATE.
    // RFC 3501 §6.3.3: a trailing separator declares names under this one, and is ignored where that needs nothing.
    pub fn from_wire_create(wire: &[u8]) -> Result<MailboxName, NameError> {
        MailboxName::from_wire(wire.strip_suffix(b"/").unwrap_or(wire))
    }

    /// The wire form, without quotes.
    pub fn to_mutf7(&self) -> Cow<'_, str> {
        encode_mutf7(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_inbox(&self) -> bool {
        &*self.0 == MailboxName::INBOX
    }

    /// The name one level up.
    pub fn parent(&self) -> Option<MailboxName> {
        self.0.rfind(MailboxName::SEPARATOR).map(|at| MailboxName(self.0[..at].into()))
    }

    /// The names above it, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = MailboxName> + '_ {
        self.0.rmatch_indices(MailboxName::SEPARATOR).map(|(at, _)| MailboxName(self.0[..at].into()))
    }

    /// The last level.
    pub fn leaf(&self) -> &str {
        self.0.rfind(MailboxName::SEPARATOR).map_or(&self.0, |at| &self.0[at + 1..])
    }

    /// The name `below` under this one; `below` may have several levels.
    pub fn join(&self, below: &str) -> Result<MailboxName, NameError> {
        MailboxName::parse(&format!("{}/{below}", self.0))
    }

    /// Whether it lies below `parent`, at any depth. No name lies below itself.
    pub fn starts_under(&self, parent: &MailboxName) -> bool {
        self.0.strip_prefix(&*parent.0).is_some_and(|rest| rest.starts_with(MailboxName::SEPARATOR))
    }

    /// The name it has once `from` is renamed to `to`; `None` where it neither is `from` nor lies below it.
    pub fn renamed(&self, from: &MailboxName, to: &MailboxName) -> Option<Result<MailboxName, NameError>> {
        if self == from {
            return Some(Ok(to.clone()));
        }
        let below = self.0.strip_prefix(&*from.0)?.strip_prefix(MailboxName::SEPARATOR)?;
        Some(to.join(below))
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn first_level_is_inbox(name: &[u8]) -> bool {
    let length = MailboxName::INBOX.len();
    name.len() >= length
        && name[..length].eq_ignore_ascii_case(MailboxName::INBOX.as_bytes())
        && name.get(length).is_none_or(|next| *next == b'/')
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// Modified UTF-7 of a text (RFC 3501 §5.1.3).
pub fn encode_mutf7(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'&') {
        return Cow::Borrowed(text);
    }
    let mut wire = String::with_capacity(text.len() * 2);
    let (mut bits, mut count, mut shifted) = (0u32, 0u32, false);
    let mut units = [0u16; 2];
    for c in text.chars() {
        if matches!(c, ' '..='~') {
            if shifted {
                close_shift(&mut wire, &mut bits, &mut count);
                shifted = false;
            }
            wire.push(c);
            if c == '&' {
                wire.push('-');
            }
            continue;
        }
        if !shifted {
            wire.push('&');
            shifted = true;
        }
        for unit in c.encode_utf16(&mut units) {
            bits = (bits & 0x3f) << 16 | u32::from(*unit);
            count += 16;
            while count >= 6 {
                count -= 6;
                wire.push(char::from(BASE64[(bits >> count & 0x3f) as usize]));
            }
        }
    }
    if shifted {
        close_shift(&mut wire, &mut bits, &mut count);
    }
    Cow::Owned(wire)
}

fn close_shift(wire: &mut String, bits: &mut u32, count: &mut u32) {
    if *count > 0 {
        wire.push(char::from(BASE64[(*bits << (6 - *count) & 0x3f) as usize]));
    }
    (*bits, *count) = (0, 0);
    wire.push('-');
}

/// The text of modified UTF-7; `None` where encoding it again would not give the same octets.
pub fn decode_mutf7(wire: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(wire.len());
    let mut rest = wire;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'&' => {
                let end = memchr::memchr(b'-', rest)?;
                let (shifted, after) = rest.split_at(end);
                rest = &after[1..];
                if shifted.is_empty() {
                    text.push('&');
                } else {
                    decode_shifted(shifted, &mut text)?;
                }
            }
            0x20..=0x7e => text.push(char::from(*first)),
            _ => return None,
        }
    }
    (encode_mutf7(&text).as_bytes() == wire).then_some(text)
}

fn decode_shifted(shifted: &[u8], text: &mut String) -> Option<()> {
    let mut units = Vec::with_capacity(shifted.len() * 6 / 16);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in shifted {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b',' => 63,
            _ => return None,
        };
        bits = (bits & 0xffff) << 6 | u32::from(value);
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push((bits >> count) as u16);
        }
    }
    for c in char::decode_utf16(units) {
        text.push(c.ok()?);
    }
    Some(())
}

/// A LIST pattern: `*` stands for anything, `%` for anything but the separator.
///
/// # Cost
/// A match takes (octets of the name) times (octets of the pattern / 64) steps, whatever the pattern.
#[derive(Clone, Debug)]
pub struct ListPattern {
    /// For each octet the row of `masks` that holds the places where the pattern has it; 0 for none.
    rows: Box<[u16; 256]>,
    masks: Vec<[u64; WORDS]>,
    any: [u64; WORDS],
    level: [u64; WORDS],
    words: usize,
    end: usize,
}

const WORDS: usize = ListPattern::OCTETS_MAX / 64 + 1;

impl ListPattern {
    /// Longest pattern with its reference, in octets after decoding.
    pub const OCTETS_MAX: usize = 1023;

    /// From UTF-8. A pattern longer than any name matches nothing it would be fair to expect, and is refused.
    pub fn new(pattern: &str) -> Result<ListPattern, NameError> {
        let pattern: String = pattern.nfc().collect();
        if pattern.len() > ListPattern::OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        let mut places: Vec<u8> = Vec::with_capacity(pattern.len());
        for byte in pattern.bytes() {
            match (places.last().copied(), byte) {
                // Two wildcards side by side are the wider of them.
                (Some(b'*'), b'*' | b'%') | (Some(b'%'), b'%') => {}
                (Some(b'%'), b'*') => *places.last_mut().expect("there is a last place") = b'*',
                _ => places.push(byte),
            }
        }
        let mut this = ListPattern {
            rows: Box::new([0; 256]),
            masks: vec![[0; WORDS]],
            any: [0; WORDS],
            level: [0; WORDS],
            words: places.len() / 64 + 1,
            end: places.len(),
        };
        for (at, byte) in places.into_iter().enumerate() {
            let mask = match byte {
                b'*' => &mut this.any,
                b'%' => &mut this.level,
                _ => {
                    let row = &mut this.rows[usize::from(byte)];
                    if *row == 0 {
                        *row = this.masks.len() as u16;
                        this.masks.push([0; WORDS]);
                    }
                    &mut this.masks[usize::from(*row)]
                }
            };
            mask[at / 64] |= 1 << (at % 64);
        }
        Ok(this)
    }

    /// From the two arguments of LIST or LSUB, each modified UTF-7 with wildcards.
    // RFC 3501 §6.3.8: a reference is put before the pattern as it stands.
    pub fn from_wire(reference: &[u8], pattern: &[u8]) -> Result<ListPattern, NameError> {
        if reference.len() + pattern.len() > ListPattern::OCTETS_MAX * 4 {
            return Err(NameError::TooLong);
        }
        let reference = decode_mutf7(reference).ok_or(NameError::Encoding)?;
        let pattern = decode_mutf7(pattern).ok_or(NameError::Encoding)?;
        ListPattern::new(&(reference + &pattern))
    }

    /// The same of UTF-8 octets.
    pub fn from_utf8(reference: &[u8], pattern: &[u8]) -> Result<ListPattern, NameError> {
        let text = |octets| std::str::from_utf8(octets).map_err(|_| NameError::Encoding);
        ListPattern::new(&(text(reference)?.to_owned() + text(pattern)?))
    }

    /// Whether the whole of `name` (in stored form) matches. A first level INBOX is compared without regard to case.
    pub fn matches(&self, name: &str) -> bool {
        let inbox_octets = if first_level_is_inbox(name.as_bytes()) { MailboxName::INBOX.len() } else { 0 };
        let mut now = [0u64; WORDS];
        now[0] = 1;
        self.pass_wildcards(&mut now);
        for (at, byte) in name.bytes().enumerate() {
            let row = &self.masks[usize::from(self.rows[usize::from(byte)])];
            let mut other = &self.masks[0];
            if at < inbox_octets {
                let swapped = byte ^ 0x20;
                other = &self.masks[usize::from(self.rows[usize::from(swapped)])];
            }
            let mut next = [0u64; WORDS];
            let (mut carry, mut alive) = (0, 0);
            for word in 0..self.words {
                let moved = now[word] & (row[word] | other[word]);
                let mut stay = now[word] & self.any[word];
                if byte != b'/' {
                    stay |= now[word] & self.level[word];
                }
                next[word] = moved << 1 | carry | stay;
                carry = moved >> 63;
                alive |= next[word];
            }
            if alive == 0 {
                return false;
            }
            self.pass_wildcards(&mut next);
            now = next;
        }
        now[self.end / 64] >> (self.end % 64) & 1 == 1
    }

    /// A wildcard may stand for nothing; no two are adjacent, so one step is enough.
    fn pass_wildcards(&self, now: &mut [u64; WORDS]) {
        let mut carry = 0;
        let wildcards = self.any.iter().zip(&self.level).map(|(any, level)| any | level);
        for (word, wildcards) in now.iter_mut().zip(wildcards).take(self.words) {
            let passed = *word & wildcards;
            *word |= passed << 1 | carry;
            carry = passed >> 63;
        }
    }
}

#[cfg(test)]
mod tests;
