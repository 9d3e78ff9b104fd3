//! Which mailboxes: the filters that NOTIFY and ESEARCH share (RFC 5465 §6, RFC 7377 §2.2).

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

/// Some of the mailboxes of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxFilter {
    Selected,
    /// Of NOTIFY: the selected one, whose expunges wait as ever.
    SelectedDelayed,
    /// Those into which mail is delivered.
    Inboxes,
    /// All of the user's own.
    Personal,
    Subscribed,
    /// These and all below them.
    Subtree(Vec<MailboxName>),
    /// These and one level below them.
    SubtreeOne(Vec<MailboxName>),
    Mailboxes(Vec<MailboxName>),
}

/// `filter-mailboxes` (RFC 5465 §8, RFC 7377 §4).
pub(super) fn filter(cursor: &mut Cursor<'_>) -> Parsed<MailboxFilter> {
    Ok(if cursor.eat_word("selected") {
        MailboxFilter::Selected
    } else if cursor.eat_word("selected-delayed") {
        MailboxFilter::SelectedDelayed
    } else if cursor.eat_word("inboxes") {
        MailboxFilter::Inboxes
    } else if cursor.eat_word("personal") {
        MailboxFilter::Personal
    } else if cursor.eat_word("subscribed") {
        MailboxFilter::Subscribed
    } else if cursor.eat_word("subtree") {
        MailboxFilter::Subtree(mailboxes(cursor)?)
    } else if cursor.eat_word("subtree-one") {
        MailboxFilter::SubtreeOne(mailboxes(cursor)?)
    } else if cursor.eat_word("mailboxes") {
        MailboxFilter::Mailboxes(mailboxes(cursor)?)
    } else {
        return Err(Refusal::Expected("a mailbox filter"));
    })
}

/// One name, or several in parentheses.
fn mailboxes(cursor: &mut Cursor<'_>) -> Parsed<Vec<MailboxName>> {
    cursor.space()?;
    if cursor.peek() != Some(b'(') {
        return Ok(vec![cursor.mailbox()?]);
    }
    let mut names = Vec::new();
    cursor.list(|cursor| {
        if names.len() == FILTER_NAMES_MAX {
            return Err(Refusal::TooMany("mailboxes in a filter"));
        }
        names.push(cursor.mailbox()?);
        Ok(())
    })?;
    if names.is_empty() { Err(Refusal::Expected("a mailbox name")) } else { Ok(names) }
}

/// The arguments of ESEARCH (RFC 7377 §4): `[IN (filters) SP] search-program`.
pub(super) fn esearch(cursor: &mut Cursor<'_>) -> Parsed<Esearch> {
    let mut sources = Vec::new();
    if cursor.eat_word("IN") {
        cursor.space()?;
        cursor.list(|cursor| {
            if sources.len() == FILTERS_MAX {
                return Err(Refusal::TooMany("mailbox filters"));
            }
            match filter(cursor)? {
                MailboxFilter::SelectedDelayed => Err(Refusal::Expected("a mailbox filter of a search")),
                one => {
                    sources.push(one);
                    Ok(())
                }
            }
        })?;
        if sources.is_empty() {
            return Err(Refusal::Expected("a mailbox filter"));
        }
        cursor.space()?;
    }
    let search = search::search(cursor, true)?;
    let saves = search.returns.is_some_and(|returns| returns.save);
    // RFC 7377 §2.2.
    if saves && !matches!(sources.as_slice(), [] | [MailboxFilter::Selected]) {
        return Err(Refusal::Expected("the selected mailbox alone with SAVE"));
    }
    Ok(Esearch { sources, search })
}
