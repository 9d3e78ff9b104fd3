//! FETCH: items, sections, partials, modifiers (RFC 3501 §6.4.5, RFC 7162 §3.1.4, §3.2.6, RFC 9394 §3.3).

use culver_model::mime::SectionText;

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

pub(super) fn fetch(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Fetch> {
    let set = cursor.message_set()?;
    cursor.space()?;
    let mut items = FetchItems { uid, ..FetchItems::default() };
    if cursor.peek() == Some(b'(') {
        let mut any = false;
        cursor.list(|cursor| {
            any = true;
            item(cursor, &mut items)
        })?;
        if !any {
            return Err(Refusal::Expected("a FETCH item"));
        }
    } else if !macros(cursor, &mut items) {
        item(cursor, &mut items)?;
    }
    let mut fetch = Fetch { uid, set, items, changed_since: None, vanished: false, partial: None };
    if cursor.eat(b' ') {
        cursor.list(|cursor| {
            if fetch.changed_since.is_none() && cursor.eat_word("CHANGEDSINCE") {
                cursor.space()?;
                // RFC 7162 §7 asks for 1 or more; 0 is what clients without a state send, and means all.
                fetch.changed_since = Some(cursor.modseq()?);
            } else if fetch.partial.is_none() && cursor.eat_word("PARTIAL") {
                cursor.space()?;
                fetch.partial = Some(search::partial_range(cursor)?);
            } else if cursor.eat_word("VANISHED") {
                fetch.vanished = true;
            } else {
                return Err(Refusal::Expected("CHANGEDSINCE, VANISHED or PARTIAL"));
            }
            Ok(())
        })?;
    }
    // RFC 7162 §3.2.6: VANISHED goes with UID FETCH and CHANGEDSINCE only.
    if fetch.vanished && !(uid && fetch.changed_since.is_some()) {
        return Err(Refusal::Expected("UID FETCH with CHANGEDSINCE for VANISHED"));
    }
    // RFC 9394 §3.3: the modifier is one of UID FETCH.
    if fetch.partial.is_some() && !uid {
        return Err(Refusal::Expected("UID FETCH for PARTIAL"));
    }
    // RFC 7162 §3.1.4.1: CHANGEDSINCE implies the MODSEQ item.
    fetch.items.modseq |= fetch.changed_since.is_some();
    Ok(fetch)
}

/// Items in parentheses of what is told unasked (RFC 5465 §5.2, RFC 5267 §4.3.1); nothing in them sets \Seen.
pub(super) fn unasked(cursor: &mut Cursor<'_>) -> Parsed<FetchItems> {
    let mut items = FetchItems::default();
    cursor.list(|cursor| item(cursor, &mut items))?;
    items.sections.iter_mut().for_each(|section| section.peek = true);
    items.binaries.iter_mut().for_each(|binary| binary.peek = true);
    Ok(items)
}

/// RFC 3501 §6.4.5: a macro stands alone, not among items.
fn macros(cursor: &mut Cursor<'_>, items: &mut FetchItems) -> bool {
    let (envelope, body) = if cursor.eat_word("ALL") {
        (true, false)
    } else if cursor.eat_word("FAST") {
        (false, false)
    } else if cursor.eat_word("FULL") {
        (true, true)
    } else {
        return false;
    };
    (items.flags, items.internal_date, items.size) = (true, true, true);
    (items.envelope, items.body) = (envelope, body);
    true
}

fn item(cursor: &mut Cursor<'_>, items: &mut FetchItems) -> Parsed<()> {
    let name = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    let asked = if is("FLAGS") {
        &mut items.flags
    } else if is("UID") {
        &mut items.uid
    } else if is("MODSEQ") {
        &mut items.modseq
    } else if is("BODY") || is("BODY.PEEK") {
        if cursor.peek() == Some(b'[') {
            return body_section(cursor, is("BODY.PEEK"), items);
        }
        if is("BODY.PEEK") {
            return Err(Refusal::Expected("a section after BODY.PEEK"));
        }
        &mut items.body
    } else if is("BINARY") || is("BINARY.PEEK") || is("BINARY.SIZE") {
        return binary(cursor, is("BINARY.PEEK"), is("BINARY.SIZE"), items);
    } else if is("PREVIEW") {
        return preview(cursor, items);
    } else if is("RFC822.SIZE") {
        &mut items.size
    } else if is("ENVELOPE") {
        &mut items.envelope
    } else if is("INTERNALDATE") {
        &mut items.internal_date
    } else if is("SAVEDATE") {
        &mut items.save_date
    } else if is("EMAILID") {
        &mut items.email_id
    } else if is("THREADID") {
        &mut items.thread_id
    } else if is("BODYSTRUCTURE") {
        &mut items.body_structure
    } else if is("RFC822") {
        &mut items.rfc822
    } else if is("RFC822.HEADER") {
        &mut items.rfc822_header
    } else if is("RFC822.TEXT") {
        &mut items.rfc822_text
    } else {
        return Err(Refusal::Expected("a FETCH item that exists"));
    };
    *asked = true;
    Ok(())
}

fn body_section(cursor: &mut Cursor<'_>, peek: bool, items: &mut FetchItems) -> Parsed<()> {
    if items.sections.len() == BODY_ITEMS_MAX {
        return Err(Refusal::TooMany("sections in FETCH"));
    }
    cursor.expect(b'[', "a section")?;
    let section = section(cursor)?;
    cursor.expect(b']', "the closing bracket of a section")?;
    let partial = partial(cursor)?;
    items.sections.push(FetchSection { section, peek, partial });
    Ok(())
}

fn partial(cursor: &mut Cursor<'_>) -> Parsed<Option<(u32, u32)>> {
    if !cursor.eat(b'<') {
        return Ok(None);
    }
    let origin = cursor.number32()?;
    cursor.expect(b'.', "a dot and the number of octets")?;
    let octets = cursor.nz_number32()?;
    cursor.expect(b'>', "the closing bracket of a partial")?;
    Ok(Some((origin, octets)))
}

/// RFC 3516 §7 `section-binary`, and `partial` where it is not only the size.
fn binary(cursor: &mut Cursor<'_>, peek: bool, size: bool, items: &mut FetchItems) -> Parsed<()> {
    if items.binaries.len() == BODY_ITEMS_MAX {
        return Err(Refusal::TooMany("sections in FETCH"));
    }
    cursor.expect(b'[', "a section")?;
    let Section { part, text } = section(cursor)?;
    if text.is_some() {
        return Err(Refusal::Expected("part numbers alone in a section of BINARY"));
    }
    cursor.expect(b']', "the closing bracket of a section")?;
    let partial = if size { None } else { partial(cursor)? };
    items.binaries.push(FetchBinary { part, size, peek, partial });
    Ok(())
}

/// RFC 8970 §6: `PREVIEW` or `PREVIEW (LAZY)`.
fn preview(cursor: &mut Cursor<'_>, items: &mut FetchItems) -> Parsed<()> {
    let mut preview = Preview::Now;
    // What else may stand in parentheses here are the modifiers of the FETCH.
    if cursor.rest().get(..6).is_some_and(|next| next.eq_ignore_ascii_case(b" (LAZY")) {
        cursor.space()?;
        cursor.list(|cursor| match cursor.eat_word("LAZY") {
            true => {
                preview = Preview::Lazy;
                Ok(())
            }
            false => Err(Refusal::Expected("LAZY")),
        })?;
    }
    items.preview = Some(preview);
    Ok(())
}

/// What stands between the brackets.
pub(in super::super) fn section(cursor: &mut Cursor<'_>) -> Parsed<Section> {
    let mut section = Section::default();
    while cursor.peek().is_some_and(|byte| byte.is_ascii_digit()) {
        if section.part.len() == Section::PARTS_MAX {
            return Err(Refusal::TooMany("part numbers in a section"));
        }
        section.part.push(cursor.nz_number32()?);
        if !cursor.eat(b'.') {
            return Ok(section);
        }
    }
    if section.part.is_empty() && cursor.peek() == Some(b']') {
        return Ok(section);
    }
    section.text = Some(section_text(cursor, !section.part.is_empty())?);
    Ok(section)
}

fn section_text(cursor: &mut Cursor<'_>, of_part: bool) -> Parsed<SectionText> {
    let name = cursor.take_while(|byte| byte.is_ascii_alphabetic() || byte == b'.');
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    if is("HEADER") {
        Ok(SectionText::Header)
    } else if is("TEXT") {
        Ok(SectionText::Text)
    } else if is("MIME") && of_part {
        // RFC 3501 §6.4.5: MIME must be prefixed by part numbers.
        Ok(SectionText::Mime)
    } else if is("HEADER.FIELDS") {
        fields(cursor).map(SectionText::HeaderFields)
    } else if is("HEADER.FIELDS.NOT") {
        fields(cursor).map(SectionText::HeaderFieldsNot)
    } else {
        Err(Refusal::Expected("HEADER, HEADER.FIELDS, TEXT, or MIME after part numbers"))
    }
}

fn fields(cursor: &mut Cursor<'_>) -> Parsed<Vec<String>> {
    cursor.space()?;
    let mut fields = Vec::new();
    cursor.list(|cursor| {
        if fields.len() == Section::FIELDS_MAX {
            return Err(Refusal::TooMany("header fields in a section"));
        }
        // RFC 5322 §2.2: a field name is printable 7-bit text; others name nothing that a message can have.
        let name = cursor.astring("the name of a header field")?;
        if name.is_empty() || !name.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b':') {
            return Err(Refusal::Expected("the name of a header field"));
        }
        fields.push(String::from_utf8_lossy(&name).into_owned());
        Ok(())
    })?;
    if fields.is_empty() { Err(Refusal::Expected("the name of a header field")) } else { Ok(fields) }
}
