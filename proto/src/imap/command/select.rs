//! SELECT and EXAMINE with their parameters (RFC 7162 §3.1.8, §3.2.5), and the items of STATUS.

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

pub(super) fn select(cursor: &mut Cursor<'_>, read_only: bool) -> Parsed<Select> {
    let mailbox = cursor.mailbox_name()?;
    let mut select = Select { mailbox, read_only, condstore: false, qresync: None };
    if cursor.eat(b' ') {
        cursor.list(|cursor| {
            if cursor.eat_word("CONDSTORE") {
                select.condstore = true;
            } else if select.qresync.is_none() && cursor.eat_word("QRESYNC") {
                cursor.space()?;
                select.qresync = Some(qresync(cursor)?);
            } else {
                return Err(Refusal::Expected("CONDSTORE or QRESYNC"));
            }
            Ok(())
        })?;
    }
    Ok(select)
}

fn qresync(cursor: &mut Cursor<'_>) -> Parsed<Qresync> {
    cursor.expect(b'(', "the QRESYNC parameters in parentheses")?;
    let uid_validity = cursor.nz_number32()?;
    let uid_validity = UidValidity::new(uid_validity).ok_or(Refusal::Expected("a UIDVALIDITY"))?;
    cursor.space()?;
    let modseq = cursor.nz_modseq()?;
    let mut qresync = Qresync { uid_validity, modseq, known_uids: None, seq_match: None };
    let mut more = cursor.eat(b' ');
    if more && cursor.peek() != Some(b'(') {
        qresync.known_uids = Some(cursor.known_set()?);
        more = cursor.eat(b' ');
    }
    if more {
        cursor.expect(b'(', "known sequence numbers and UIDs in parentheses")?;
        let numbers = cursor.known_set()?;
        cursor.space()?;
        let uids = cursor.known_set()?;
        cursor.expect(b')', "a closing parenthesis")?;
        qresync.seq_match = Some((numbers, uids));
    }
    cursor.expect(b')', "a closing parenthesis")?;
    Ok(qresync)
}

pub(super) fn status_items(cursor: &mut Cursor<'_>) -> Parsed<StatusItems> {
    let mut items = StatusItems::default();
    let mut any = false;
    cursor.list(|cursor| {
        let item = cursor.atom("a STATUS item")?.to_ascii_uppercase();
        let asked = match item.as_str() {
            "MESSAGES" => &mut items.messages,
            "RECENT" => &mut items.recent,
            "UIDNEXT" => &mut items.uid_next,
            "UIDVALIDITY" => &mut items.uid_validity,
            "UNSEEN" => &mut items.unseen,
            "SIZE" => &mut items.size,
            "HIGHESTMODSEQ" => &mut items.highest_modseq,
            "APPENDLIMIT" => &mut items.append_limit,
            "MAILBOXID" => &mut items.mailbox_id,
            "DELETED" => &mut items.deleted,
            "DELETED-STORAGE" => &mut items.deleted_storage,
            _ => return Err(Refusal::Expected("a STATUS item that exists")),
        };
        *asked = true;
        any = true;
        Ok(())
    })?;
    if any { Ok(items) } else { Err(Refusal::Expected("a STATUS item")) }
}
