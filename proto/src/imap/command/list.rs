//! LIST: selection options, several patterns, return options (RFC 5258 §6, RFC 5819 §4, RFC 6154 §6,
//! RFC 9590).

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

pub(super) fn list<'a>(cursor: &mut Cursor<'a>) -> Parsed<List<'a>> {
    let mut select = ListSelect::default();
    let mut extended = false;
    if cursor.peek() == Some(b'(') {
        extended = true;
        select = select_options(cursor)?;
        cursor.space()?;
    }
    let reference = cursor.mailbox_wire()?;
    cursor.space()?;
    let mut patterns = Vec::new();
    if cursor.peek() == Some(b'(') {
        extended = true;
        cursor.list(|cursor| {
            if patterns.len() == PATTERNS_MAX {
                return Err(Refusal::TooMany("patterns in LIST"));
            }
            patterns.push(cursor.list_mailbox()?);
            Ok(())
        })?;
        if patterns.is_empty() {
            return Err(Refusal::Expected("a mailbox name or pattern"));
        }
    } else {
        patterns.push(cursor.list_mailbox()?);
    }
    let (mut returns, mut metadata) = (ListReturn::default(), Vec::new());
    if cursor.eat(b' ') {
        extended = true;
        if !cursor.eat_word("RETURN") {
            return Err(Refusal::Expected("RETURN"));
        }
        cursor.space()?;
        returns = return_options(cursor, &mut metadata)?;
    }
    // RFC 5258 §3.1: selecting SUBSCRIBED implies returning it; RFC 6154 §3: SPECIAL-USE likewise tells which.
    returns.subscribed |= select.subscribed;
    returns.special_use |= select.special_use;
    Ok(List { reference, patterns, select, returns, metadata, extended, utf8: cursor.utf8() })
}

fn select_options(cursor: &mut Cursor<'_>) -> Parsed<ListSelect> {
    let mut select = ListSelect::default();
    cursor.list(|cursor| {
        if cursor.eat_word("SUBSCRIBED") {
            select.subscribed = true;
        } else if cursor.eat_word("REMOTE") {
            select.remote = true;
        } else if cursor.eat_word("RECURSIVEMATCH") {
            select.recursive_match = true;
        } else if cursor.eat_word("SPECIAL-USE") {
            select.special_use = true;
        } else {
            return Err(Refusal::Expected("SUBSCRIBED, REMOTE, RECURSIVEMATCH or SPECIAL-USE"));
        }
        Ok(())
    })?;
    // RFC 5258 §3.1: RECURSIVEMATCH alone, or with REMOTE alone, is BAD.
    if select.recursive_match && !select.subscribed && !select.special_use {
        return Err(Refusal::Expected("a selection option for RECURSIVEMATCH to go with"));
    }
    Ok(select)
}

fn return_options(cursor: &mut Cursor<'_>, metadata: &mut Vec<EntryName>) -> Parsed<ListReturn> {
    let mut returns = ListReturn::default();
    cursor.list(|cursor| {
        if cursor.eat_word("SUBSCRIBED") {
            returns.subscribed = true;
        } else if cursor.eat_word("CHILDREN") {
            returns.children = true;
        } else if cursor.eat_word("SPECIAL-USE") {
            returns.special_use = true;
        } else if cursor.eat_word("STATUS") {
            cursor.space()?;
            returns.status = Some(select::status_items(cursor)?);
        } else if cursor.eat_word("METADATA") {
            cursor.space()?;
            *metadata = metadata::entries(cursor, false)?;
        } else {
            return Err(Refusal::Expected("SUBSCRIBED, CHILDREN, SPECIAL-USE, STATUS or METADATA"));
        }
        Ok(())
    })?;
    Ok(returns)
}
