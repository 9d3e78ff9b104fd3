//! GETMETADATA and SETMETADATA (RFC 5464 §5), and the METADATA return option of LIST (RFC 9590).

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;
use culver_model::EntryNameError;

const OPTION: Refusal = Refusal::Expected("MAXSIZE or DEPTH, once");

pub(super) fn get_metadata(cursor: &mut Cursor<'_>) -> Parsed<GetMetadata> {
    let mut get = GetMetadata { mailbox: None, max_size: None, depth: Depth::Zero, entries: Vec::new() };
    if cursor.peek() == Some(b'(') {
        options(cursor, &mut get)?;
        cursor.space()?;
    }
    get.mailbox = mailbox_or_server(cursor)?;
    cursor.space()?;
    // RFC 5464 §4.2.1: the examples have the options behind the mailbox, the grammar of §5 in front of it.
    if matches!(cursor.rest(), [b'(', next, ..] if !matches!(next, b'/' | b'"' | b'{')) {
        options(cursor, &mut get)?;
        cursor.space()?;
    }
    get.entries = entries(cursor, true)?;
    Ok(get)
}

pub(super) fn set_metadata<'a>(cursor: &mut Cursor<'a>) -> Parsed<SetMetadata<'a>> {
    let mailbox = mailbox_or_server(cursor)?;
    cursor.space()?;
    let mut entries = Vec::new();
    cursor.list(|cursor| {
        let name = entry(cursor)?;
        // RFC 5464 §3.2: an invalid name is BAD.
        if !name.holds_values() {
            return Err(Refusal::Expected("the name of an entry that can have a value"));
        }
        cursor.space()?;
        let value = cursor.nstring("a value, or NIL")?;
        if entries.len() == METADATA_ENTRIES_MAX {
            return Err(Refusal::TooMany("entries of metadata"));
        }
        entries.push((name, value));
        Ok(())
    })?;
    if entries.is_empty() {
        return Err(Refusal::Expected("an entry"));
    }
    Ok(SetMetadata { mailbox, entries })
}

/// One entry, or several in parentheses; with `bare`, as examples of RFC 5464 §4.4.1 have it, several without.
pub(super) fn entries(cursor: &mut Cursor<'_>, bare: bool) -> Parsed<Vec<EntryName>> {
    let mut entries = Vec::new();
    let mut push = |name| {
        if entries.len() == METADATA_ENTRIES_MAX {
            return Err(Refusal::TooMany("entries of metadata"));
        }
        entries.push(name);
        Ok(())
    };
    if cursor.peek() == Some(b'(') {
        cursor.list(|cursor| push(entry(cursor)?))?;
    } else {
        push(entry(cursor)?)?;
        while bare && cursor.eat(b' ') {
            push(entry(cursor)?)?;
        }
    }
    if entries.is_empty() { Err(Refusal::Expected("an entry")) } else { Ok(entries) }
}

fn entry(cursor: &mut Cursor<'_>) -> Parsed<EntryName> {
    EntryName::parse(&cursor.astring("the name of an entry")?).map_err(|error| match error {
        EntryNameError::Shape => Refusal::Expected("the name of an entry under /private or /shared"),
        EntryNameError::TooLong => Refusal::TooMany("octets in the name of an entry"),
    })
}

// RFC 5464 §4.1: the empty string is the server.
fn mailbox_or_server(cursor: &mut Cursor<'_>) -> Parsed<Option<MailboxName>> {
    let wire = cursor.mailbox_wire()?;
    Ok(match cursor.utf8() {
        _ if wire.is_empty() => None,
        true => Some(MailboxName::from_utf8(&wire)?),
        false => Some(MailboxName::from_wire(&wire)?),
    })
}

fn options(cursor: &mut Cursor<'_>, get: &mut GetMetadata) -> Parsed<()> {
    let (mut depth, mut any) = (None, false);
    cursor.list(|cursor| {
        any = true;
        if get.max_size.is_none() && cursor.eat_word("MAXSIZE") {
            cursor.space()?;
            get.max_size = Some(cursor.number()?);
        } else if depth.is_none() && cursor.eat_word("DEPTH") {
            cursor.space()?;
            depth = Some(match cursor.atom("0, 1 or infinity")? {
                "0" => Depth::Zero,
                "1" => Depth::One,
                word if word.eq_ignore_ascii_case("infinity") => Depth::Infinity,
                _ => return Err(Refusal::Expected("0, 1 or infinity")),
            });
        } else {
            return Err(OPTION);
        }
        Ok(())
    })?;
    get.depth = depth.unwrap_or(get.depth);
    if any { Ok(()) } else { Err(OPTION) }
}
