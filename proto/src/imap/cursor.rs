//! Cursor: the lexical elements of RFC 3501 §9, read from a whole command with its literals in place.
//!
//! # Invariants
//! Never reads beyond the command; what it gives borrows from it, but for quoted strings with escapes.

use std::borrow::Cow;

use culver_model::name::NameError;
use culver_model::{FlagSet, MailboxName, ModSeq, SequenceSet};
use culver_model::{Keyword, SystemFlag};

use super::command::{KEYWORDS_MAX, MessageSet};
use super::literal::{Literal, announced};
use super::text::Refusal;

pub(super) type Parsed<T> = Result<T, Refusal>;

pub(super) struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
    utf8: bool,
}

/// RFC 3501 §9 ATOM-CHAR.
pub(super) const fn is_atom_char(byte: u8) -> bool {
    byte > 0x20 && byte < 0x7f && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// RFC 3501 §9 ASTRING-CHAR.
pub(super) const fn is_astring_char(byte: u8) -> bool {
    is_atom_char(byte) || byte == b']'
}

/// RFC 3501 §9 list-char.
const fn is_list_char(byte: u8) -> bool {
    is_astring_char(byte) || matches!(byte, b'%' | b'*')
}

impl<'a> Cursor<'a> {
    pub(super) fn new(input: &'a [u8]) -> Cursor<'a> {
        Cursor { input, at: 0, utf8: false }
    }

    /// The same; mailbox names are in UTF-8 where that is enabled.
    pub(super) fn of_session(input: &'a [u8], utf8: bool) -> Cursor<'a> {
        Cursor { input, at: 0, utf8 }
    }

    pub(super) fn utf8(&self) -> bool {
        self.utf8
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Parsed<()> {
        if self.eat(byte) { Ok(()) } else { Err(Refusal::Expected(what)) }
    }

    pub(super) fn space(&mut self) -> Parsed<()> {
        self.expect(b' ', "a space")
    }

    pub(super) fn end(&self) -> Parsed<()> {
        if self.at == self.input.len() { Ok(()) } else { Err(Refusal::Expected("the end of the command")) }
    }

    /// The longest run of octets that fit; may be empty.
    pub(super) fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|byte| !fits(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    pub(super) fn atom(&mut self, what: &'static str) -> Parsed<&'a str> {
        let atom = self.take_while(is_atom_char);
        match std::str::from_utf8(atom) {
            Ok(atom) if !atom.is_empty() => Ok(atom),
            _ => Err(Refusal::Expected(what)),
        }
    }

    /// Whether `word` stands here, in any case and not as the beginning of a longer word; then goes past it.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let rest = self.rest();
        let found = rest.len() >= word.len()
            && rest[..word.len()].eq_ignore_ascii_case(word.as_bytes())
            && rest.get(word.len()).is_none_or(|next| !is_atom_char(*next));
        self.at += if found { word.len() } else { 0 };
        found
    }

    pub(super) fn number(&mut self) -> Parsed<u64> {
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return Err(Refusal::Expected("a number"));
        }
        digits
            .iter()
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .ok_or(Refusal::Expected("a number of fewer digits"))
    }

    pub(super) fn number32(&mut self) -> Parsed<u32> {
        u32::try_from(self.number()?).map_err(|_| Refusal::Expected("a number below 4294967296"))
    }

    pub(super) fn nz_number32(&mut self) -> Parsed<u32> {
        match self.number32()? {
            0 => Err(Refusal::Expected("a number other than 0")),
            value => Ok(value),
        }
    }

    /// RFC 7162 §7 `mod-sequence-valzer`.
    pub(super) fn modseq(&mut self) -> Parsed<ModSeq> {
        let modseq = ModSeq(self.number()?);
        if modseq <= ModSeq::MAX { Ok(modseq) } else { Err(Refusal::Expected("a mod-sequence of 63 bits")) }
    }

    pub(super) fn nz_modseq(&mut self) -> Parsed<ModSeq> {
        match self.modseq()? {
            ModSeq::ZERO => Err(Refusal::Expected("a mod-sequence other than 0")),
            modseq => Ok(modseq),
        }
    }

    /// A quoted string or a literal.
    pub(super) fn string(&mut self, what: &'static str) -> Parsed<Cow<'a, [u8]>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.text_literal().map(Cow::Borrowed),
            Some(b'~') if self.rest().starts_with(b"~{") => Err(Refusal::Literal8),
            _ => Err(Refusal::Expected(what)),
        }
    }

    pub(super) fn astring(&mut self, what: &'static str) -> Parsed<Cow<'a, [u8]>> {
        self.atom_or_string(is_astring_char, what)
    }

    /// RFC 3501 §9 `list-mailbox`.
    pub(super) fn list_mailbox(&mut self) -> Parsed<Cow<'a, [u8]>> {
        self.atom_or_string(is_list_char, "a mailbox name or pattern")
    }

    fn atom_or_string(&mut self, fits: impl Fn(u8) -> bool, what: &'static str) -> Parsed<Cow<'a, [u8]>> {
        if self.rest().starts_with(b"~{") {
            return Err(Refusal::Literal8);
        }
        let atom = self.take_while(fits);
        if atom.is_empty() { self.string(what) } else { Ok(Cow::Borrowed(atom)) }
    }

    /// `None` for NIL.
    pub(super) fn nstring(&mut self, what: &'static str) -> Parsed<Option<Cow<'a, [u8]>>> {
        if self.eat_word("NIL") { Ok(None) } else { self.string(what).map(Some) }
    }

    fn quoted(&mut self) -> Parsed<Cow<'a, [u8]>> {
        const UNCLOSED: Refusal = Refusal::Expected("the closing quote of a string");
        let body = &self.rest()[1..];
        let mut owned: Option<Vec<u8>> = None;
        let mut from = 0;
        loop {
            let stop = from + memchr::memchr3(b'"', b'\\', b'\n', &body[from..]).ok_or(UNCLOSED)?;
            let piece = &body[from..stop];
            // RFC 3501 §9 TEXT-CHAR: no CR, LF or NUL. Octets of 8 bits are let through: UTF-8 names and passwords.
            if memchr::memchr2(b'\r', 0, piece).is_some() || body[stop] == b'\n' {
                return Err(UNCLOSED);
            }
            if body[stop] == b'"' {
                self.at += 1 + stop + 1;
                return Ok(match owned {
                    None => Cow::Borrowed(piece),
                    Some(mut text) => {
                        text.extend_from_slice(piece);
                        Cow::Owned(text)
                    }
                });
            }
            let escaped = match body.get(stop + 1) {
                Some(escaped @ (b'"' | b'\\')) => *escaped,
                _ => return Err(Refusal::Expected("a quote or a backslash after a backslash")),
            };
            let text = owned.get_or_insert_default();
            text.extend_from_slice(piece);
            text.push(escaped);
            from = stop + 2;
        }
    }

    fn text_literal(&mut self) -> Parsed<&'a [u8]> {
        let octets = self.literal()?;
        // RFC 3501 §9: CHAR8 is any octet but NUL.
        match memchr::memchr(0, octets) {
            Some(_) => Err(Refusal::Expected("a literal without NUL")),
            None => Ok(octets),
        }
    }

    /// A literal of any octets.
    pub(super) fn literal(&mut self) -> Parsed<&'a [u8]> {
        const SHAPE: Refusal = Refusal::Expected("a literal");
        let rest = self.rest();
        let end = memchr::memchr(b'\n', rest).ok_or(SHAPE)?;
        let line = super::literal::without_end(&rest[..=end]);
        let Some(Literal { octets, length, literal8: false, .. }) = announced(line) else {
            return Err(SHAPE);
        };
        if length != line.len() {
            return Err(SHAPE);
        }
        let octets = usize::try_from(octets).map_err(|_| SHAPE)?;
        let octets = rest[end + 1..].get(..octets).ok_or(SHAPE)?;
        self.at += end + 1 + octets.len();
        Ok(octets)
    }

    pub(super) fn mailbox(&mut self) -> Parsed<MailboxName> {
        Ok(self.mailbox_name()??)
    }

    /// The outer error is one of syntax.
    pub(super) fn mailbox_name(&mut self) -> Parsed<Result<MailboxName, NameError>> {
        let wire = self.mailbox_wire()?;
        Ok(if self.utf8 { MailboxName::from_utf8(&wire) } else { MailboxName::from_wire(&wire) })
    }

    /// RFC 3501 §6.3.3: a trailing separator declares names under this one, and is ignored where that needs nothing.
    pub(super) fn mailbox_create(&mut self) -> Parsed<MailboxName> {
        let wire = self.mailbox_wire()?;
        Ok(match self.utf8 {
            true => MailboxName::from_utf8(wire.strip_suffix(b"/").unwrap_or(&wire))?,
            false => MailboxName::from_wire_create(&wire)?,
        })
    }

    pub(super) fn mailbox_wire(&mut self) -> Parsed<Cow<'a, [u8]>> {
        self.astring("a mailbox name")
    }

    pub(super) fn sequence_set(&mut self) -> Parsed<SequenceSet> {
        let text = self.take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b',' | b'*'));
        SequenceSet::parse(text).ok_or(if text.len() < SequenceSet::RANGES_MAX {
            Refusal::Expected("a sequence set")
        } else {
            Refusal::TooMany("ranges in a sequence set")
        })
    }

    pub(super) fn message_set(&mut self) -> Parsed<MessageSet> {
        // RFC 5182 §2.1: `$` stands alone, never beside numbers.
        if self.eat(b'$') { Ok(MessageSet::Saved) } else { self.sequence_set().map(MessageSet::Set) }
    }

    /// RFC 7162 §7 `known-uids` and its kin: a sequence set without `*`.
    pub(super) fn known_set(&mut self) -> Parsed<SequenceSet> {
        let set = self.sequence_set()?;
        if set.has_star() { Err(Refusal::Expected("a set without *")) } else { Ok(set) }
    }

    /// One flag into `flags`.
    pub(super) fn flag(&mut self, flags: &mut FlagSet) -> Parsed<()> {
        let from = self.at;
        let system = self.eat(b'\\');
        self.atom("a flag")?;
        let name =
            std::str::from_utf8(&self.input[from..self.at]).map_err(|_| Refusal::Expected("a flag"))?;
        if system {
            match SystemFlag::parse(name) {
                Some(flag) => flags.system |= flag.bit(),
                // RFC 3501 §2.3.2: no client can alter \Recent; some send back what they were shown.
                None if name.eq_ignore_ascii_case("\\Recent") => {}
                None => return Err(Refusal::Expected("a system flag that exists")),
            }
            return Ok(());
        }
        let keyword = Keyword::new(name).ok_or(Refusal::TooMany("octets in a keyword"))?;
        if flags.keywords.contains(&keyword) {
            return Ok(());
        }
        if flags.keywords.len() == KEYWORDS_MAX {
            return Err(Refusal::TooMany("keywords"));
        }
        flags.keywords.push(keyword);
        Ok(())
    }

    /// A flag list with its parentheses.
    pub(super) fn flag_list(&mut self) -> Parsed<FlagSet> {
        let mut flags = FlagSet::default();
        self.list(|cursor| cursor.flag(&mut flags))?;
        Ok(flags)
    }

    /// `(` items separated by single spaces `)`; may be empty.
    pub(super) fn list(&mut self, mut item: impl FnMut(&mut Cursor<'a>) -> Parsed<()>) -> Parsed<()> {
        self.expect(b'(', "an opening parenthesis")?;
        if self.eat(b')') {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.eat(b')') {
                return Ok(());
            }
            self.expect(b' ', "a space or a closing parenthesis")?;
        }
    }
}
