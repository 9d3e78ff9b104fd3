//! The values of a FETCH response (RFC 3501 §7.4.2, RFC 7162 §7).

use std::borrow::Cow;

use culver_model::mime::Section;
use culver_model::{InternalDate, ModSeq};

use super::super::command::section;
use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::read::{flag_names, word};

/// One value. Octets of `None` are NIL.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchValue<'a> {
    Uid(u32),
    Flags(Vec<&'a str>),
    ModSeq(ModSeq),
    InternalDate(InternalDate),
    /// RFC 8514 §4.2.
    SaveDate(Option<InternalDate>),
    /// RFC 8474.
    EmailId(String),
    ThreadId(Option<String>),
    Size(u64),
    /// Unparsed, with its parentheses; so are the two below.
    Envelope(&'a [u8]),
    Body(&'a [u8]),
    BodyStructure(&'a [u8]),
    Section {
        section: Section,
        origin: Option<u32>,
        octets: Option<Cow<'a, [u8]>>,
    },
    Rfc822(Option<Cow<'a, [u8]>>),
    Rfc822Header(Option<Cow<'a, [u8]>>),
    Rfc822Text(Option<Cow<'a, [u8]>>),
    /// Of an extension, unparsed.
    Other {
        name: &'a str,
        value: &'a [u8],
    },
}

pub(super) fn fetch<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<FetchValue<'a>>> {
    let mut values = Vec::new();
    cursor.list(|cursor| {
        values.push(value(cursor)?);
        Ok(())
    })?;
    cursor.end().map(|()| values)
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Parsed<FetchValue<'a>> {
    let name = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let name = std::str::from_utf8(name).map_err(|_| Refusal::Expected("a FETCH item"))?;
    if name.eq_ignore_ascii_case("BODY") && cursor.eat(b'[') {
        let section = section(cursor)?;
        cursor.expect(b']', "the closing bracket of a section")?;
        let mut origin = None;
        if cursor.eat(b'<') {
            origin = Some(cursor.number32()?);
            cursor.expect(b'>', "the closing bracket of a partial")?;
        }
        cursor.space()?;
        return Ok(FetchValue::Section { section, origin, octets: octets(cursor)? });
    }
    cursor.space()?;
    Ok(match name.to_ascii_uppercase().as_str() {
        "UID" => FetchValue::Uid(cursor.nz_number32()?),
        "FLAGS" => FetchValue::Flags(flag_names(cursor)?),
        "MODSEQ" => {
            cursor.expect(b'(', "an opening parenthesis")?;
            let modseq = cursor.modseq()?;
            cursor.expect(b')', "a closing parenthesis")?;
            FetchValue::ModSeq(modseq)
        }
        "INTERNALDATE" => {
            let text = cursor.string("a date-time")?;
            FetchValue::InternalDate(InternalDate::parse(&text).ok_or(Refusal::Expected("a date-time"))?)
        }
        "SAVEDATE" => FetchValue::SaveDate(match cursor.nstring("a date-time")? {
            Some(text) => Some(InternalDate::parse(&text).ok_or(Refusal::Expected("a date-time"))?),
            None => None,
        }),
        "EMAILID" => FetchValue::EmailId(object_id(cursor)?),
        "THREADID" if cursor.peek() == Some(b'(') => FetchValue::ThreadId(Some(object_id(cursor)?)),
        "THREADID" => match cursor.eat_word("NIL") {
            true => FetchValue::ThreadId(None),
            false => return Err(Refusal::Expected("an object id or NIL")),
        },
        "RFC822.SIZE" => FetchValue::Size(cursor.number()?),
        "ENVELOPE" => FetchValue::Envelope(skip(cursor)?),
        "BODY" => FetchValue::Body(skip(cursor)?),
        "BODYSTRUCTURE" => FetchValue::BodyStructure(skip(cursor)?),
        "RFC822" => FetchValue::Rfc822(octets(cursor)?),
        "RFC822.HEADER" => FetchValue::Rfc822Header(octets(cursor)?),
        "RFC822.TEXT" => FetchValue::Rfc822Text(octets(cursor)?),
        _ => FetchValue::Other { name, value: skip(cursor)? },
    })
}

/// Octets of a message: some servers send NUL.
fn octets<'a>(cursor: &mut Cursor<'a>) -> Parsed<Option<Cow<'a, [u8]>>> {
    if cursor.peek() == Some(b'{') {
        cursor.literal().map(|octets| Some(Cow::Borrowed(octets)))
    } else {
        cursor.nstring("octets of a message")
    }
}

/// A value of any shape, unparsed. Depth costs nothing: parentheses are counted.
fn skip<'a>(cursor: &mut Cursor<'a>) -> Parsed<&'a [u8]> {
    let before = cursor.rest();
    let from = cursor.at();
    let mut depth = 0usize;
    loop {
        match cursor.peek() {
            Some(b'(') => {
                cursor.eat(b'(');
                depth += 1;
            }
            Some(b')') if depth > 0 => {
                cursor.eat(b')');
                depth -= 1;
            }
            Some(b'"') => drop(cursor.string("a string")?),
            Some(b'{') => drop(cursor.literal()?),
            Some(b' ') if depth > 0 => {
                cursor.eat(b' ');
            }
            _ => drop(word(cursor, "a value")?),
        }
        if depth == 0 {
            return Ok(&before[..cursor.at() - from]);
        }
    }
}

/// RFC 8474 §7: an object id in parentheses.
pub(super) fn object_id(cursor: &mut Cursor<'_>) -> Parsed<String> {
    cursor.expect(b'(', "an opening parenthesis")?;
    let id = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let id = String::from_utf8_lossy(id).into_owned();
    cursor.expect(b')', "a closing parenthesis")?;
    Ok(id)
}
