//! Dump: what records and blocks say, in words for a person.
//!
//! What a message says is not shown, so that a dump can be given to others: of ENVELOPE, BODY, BODYSTRUCTURE and header
//! lines only the octets are told. Names of mailboxes and keywords, flags, dates, sizes and media types are shown.
//!
//! # Limits
//! [`culver_index::LINES_MAX`] lines of each list in a block, [`PARTS_MAX`] parts of a message. A record is one line, no
//! more than a few times as long as its octets.

use crate::rebuild::Unfinished;
use crate::record::{Message, Record, StoreOp};
use crate::state::{ACCOUNT_KEY, ANNOTATIONS_KEY, DELIVERIES_KEY, is_mailbox_key};
use culver_index::{Opaque, PLACE_OCTETS};
use culver_model::mime::{PartTable, TablePart};
use culver_model::{FlagSet, Guid, InternalDate, SystemFlag};
use culver_storage::{Piece, Place};
use std::fmt::{self, Display, Formatter};

/// Most parts of one message that are shown.
pub const PARTS_MAX: usize = 16;

/// For `culver_storage::dump`: a piece in lines of text, `None` for a block of a later version, else what is wrong with it.
pub fn describe(piece: Piece<'_>) -> Result<Option<String>, String> {
    let text = match piece {
        Piece::Record(meta) | Piece::Label(meta) => {
            Record::decode(meta).map(|record| InWords(&record).to_string()).map_err(|error| error.to_string())
        }
        Piece::Block { guid, octets } if guid == ACCOUNT_KEY => culver_index::account::dump(octets)
            .map(|lines| lines.to_string())
            .map_err(|error| error.to_string()),
        Piece::Block { guid, octets } if guid == Unfinished::KEY => {
            Unfinished::decode(octets).map(|left| left.to_string()).map_err(|error| error.to_string())
        }
        Piece::Block { guid, octets } if guid == DELIVERIES_KEY => culver_index::deliveries::dump(octets)
            .map(|lines| lines.to_string())
            .map_err(|error| error.to_string()),
        Piece::Block { guid, octets } if guid == ANNOTATIONS_KEY => culver_index::annotations::dump(octets)
            .map(|lines| lines.to_string())
            .map_err(|error| error.to_string()),
        Piece::Block { guid, .. } if !is_mailbox_key(guid) => return Ok(None),
        Piece::Block { octets, .. } => culver_index::dump(octets, &opaque_in_words)
            .map(|lines| lines.to_string())
            .map_err(|error| error.to_string()),
    };
    text.map(Some)
}

/// What a row holds that the index knows nothing of.
fn opaque_in_words(opaque: Opaque<'_>) -> String {
    match opaque {
        Opaque::Place(place) => place_in_words(place),
        Opaque::Parts(parts) => parts_in_words(parts),
    }
}

fn place_in_words(octets: &[u8; PLACE_OCTETS]) -> String {
    match Place::from_bytes(octets) {
        Some(place) => place.to_string(),
        None => octets.iter().fold("no place, ".into(), |text, octet| format!("{text}{octet:02x}")),
    }
}

/// Each part as depth, media type, where its header begins, and the octets of header and body.
fn parts_in_words(octets: &[u8]) -> String {
    let table = match PartTable::decode(octets) {
        Ok(table) => table,
        Err(error) => return error.to_string(),
    };
    let one = |part: &TablePart| {
        let (header, body) = (part.header(), part.body());
        let (octets, body_octets) = (header.end - header.start, body.end - body.start);
        let media_type = part.media_type.replace(|c: char| !c.is_ascii_graphic(), "?");
        format!("{} {media_type} {}+{octets}+{body_octets}", part.depth, header.start)
    };
    let mut words: Vec<String> = table.parts().iter().take(PARTS_MAX).map(one).collect();
    match table.parts().len().saturating_sub(PARTS_MAX) {
        0 => {}
        more => words.push(format!("… and {more} more")),
    }
    words.join(", ")
}

/// A record as one line.
struct InWords<'a>(&'a Record);

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Record::Append { mailbox, message } => {
                write!(f, "Append mailbox={} uid=given when applied", mailbox_in_words(*mailbox))?;
                if let Some(id) = &message.delivery {
                    write!(f, " delivery={id}")?;
                }
                message_in_words(f, message)
            }
            Record::Replace { mailbox, message, from, uid } => {
                let (to, from) = (mailbox_in_words(*mailbox), mailbox_in_words(*from));
                write!(f, "Replace mailbox={to} uid=given when applied from={from} replaced={uid}")?;
                message_in_words(f, message)
            }
            Record::Store { mailbox, uids, op, flags, unchanged_since } => {
                let op = match op {
                    StoreOp::Replace => "replace",
                    StoreOp::Add => "add",
                    StoreOp::Remove => "remove",
                };
                write!(
                    f,
                    "Store mailbox={} uids={uids} {op}=({})",
                    mailbox_in_words(*mailbox),
                    Flags(flags)
                )?;
                match unchanged_since {
                    Some(modseq) => write!(f, " unchanged_since={modseq}"),
                    None => Ok(()),
                }
            }
            Record::Expunge { mailbox, uids, only_deleted } => {
                let which = if *only_deleted { "with \\Deleted" } else { "all" };
                write!(f, "Expunge mailbox={} uids={uids} which={which}", mailbox_in_words(*mailbox))
            }
            Record::Copy { from, uids, to, save_date, remove, whole } => {
                let kind = if *remove { "Copy (MOVE)" } else { "Copy" };
                let (from, to) = (mailbox_in_words(*from), mailbox_in_words(*to));
                write!(f, "{kind} from={from} uids={uids} to={to} save_date={}", seconds(*save_date))?;
                f.write_str(if *whole { " refused where one is gone" } else { "" })
            }
            Record::Create { guid, name, special_use, selectable } => {
                write!(f, "Create name={:?} guid={guid}", name.as_str())?;
                if let Some(special_use) = special_use {
                    write!(f, " special_use={}", special_use.replace(char::is_control, "?"))?;
                }
                write!(f, " selectable={}", yes(*selectable))
            }
            Record::Delete { guid } => write!(f, "Delete mailbox={}", mailbox_in_words(*guid)),
            Record::Rename { guid, to } => {
                write!(f, "Rename mailbox={} to={:?}", mailbox_in_words(*guid), to.as_str())
            }
            Record::RenameInbox { guid, to, save_date } => {
                let save_date = seconds(*save_date);
                write!(f, "RenameInbox to={:?} guid={guid} save_date={save_date}", to.as_str())
            }
            Record::Subscribe { name, on } => write!(f, "Subscribe name={:?} on={}", name.as_str(), yes(*on)),
            Record::Relocate { from } => {
                write!(f, "Relocate of {} to the bodies of the record", from.len())?;
                from.iter().try_for_each(|place| write!(f, " from={}", place_in_words(place)))
            }
            Record::Restore { mailbox, place, message } => {
                let place = place_in_words(place);
                write!(f, "Restore mailbox={} place={place}", mailbox_in_words(*mailbox))?;
                message_in_words(f, message)
            }
            Record::Rebuilt => f.write_str("Rebuilt"),
            Record::DeleteAccount => f.write_str("DeleteAccount"),
            Record::Named { record, messages } => {
                write!(f, "{}", InWords(record))?;
                messages.iter().try_for_each(|(uid, guid)| write!(f, " {uid}={guid}"))
            }
            Record::Annotate { mailbox, entries } => {
                let of = mailbox.map_or("the server".into(), mailbox_in_words);
                write!(f, "Annotate of={of}")?;
                entries.iter().try_for_each(|(name, value)| match value {
                    Some(value) => write!(f, " {:?}={} octets", name.as_str(), value.len()),
                    None => write!(f, " {:?} removed", name.as_str()),
                })
            }
            Record::SetQuota { quota: None } => f.write_str("SetQuota none of its own"),
            Record::SetQuota { quota: Some(quota) } => {
                f.write_str("SetQuota")?;
                let limits =
                    [("octets", quota.octets), ("messages", quota.messages), ("mailboxes", quota.mailboxes)];
                limits.iter().try_for_each(|(name, limit)| match limit {
                    Some(limit) => write!(f, " {name}={limit}"),
                    None => write!(f, " {name}=not limited"),
                })
            }
            Record::Late { of, lsn, record } => write!(f, "Late {lsn} of journal {of}: {}", InWords(record)),
        }
    }
}

fn message_in_words(f: &mut Formatter<'_>, message: &Message) -> fmt::Result {
    write!(f, " flags=({})", Flags(&message.flags))?;
    write!(f, " internal_date={:?}", message.internal_date.format().trim_start())?;
    write!(f, " save_date={} size={}", seconds(message.save_date), message.size)?;
    write!(f, " prefix_octets={} guid={}", message.prefix_octets, message.guid)?;
    write!(f, " email_id={}", message.email_id)?;
    match message.thread_id {
        0 => f.write_str(" thread_id=not known")?,
        thread_id => write!(f, " thread_id={thread_id}")?,
    }
    if let Some(uidl) = &message.pop3_uidl {
        write!(f, " pop3_uidl={uidl:?}")?;
    }
    for (name, value) in [("pop3_order", message.pop3_order), ("key_id", message.key_id)] {
        if value != 0 {
            write!(f, " {name}={value}")?;
        }
    }
    if let Some(name) = &message.mailbox_name {
        write!(f, " mailbox_name={:?}", name.as_str())?;
    }
    let forms = [
        ("ENVELOPE", &message.envelope),
        ("BODY", &message.body),
        ("BODYSTRUCTURE", &message.bodystructure),
        ("headers", &message.headers),
    ];
    forms.iter().try_for_each(|(name, form)| write!(f, " {name}={} octets", form.len()))?;
    f.write_str(if message.headers_complete { " (all)" } else { "" })?;
    match &message.parts[..] {
        [] => f.write_str(" parts=none"),
        parts => write!(f, " parts=({})", parts_in_words(parts)),
    }
}

fn mailbox_in_words(guid: Guid) -> String {
    if guid == Guid::INBOX { "INBOX".into() } else { guid.to_string() }
}

/// A date that is kept without a zone.
fn seconds(seconds: i64) -> String {
    match seconds {
        0 => "not known".into(),
        _ => format!("{:?}", InternalDate { seconds, zone_minutes: 0 }.format().trim_start()),
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// Flags, and bits that are no flags.
struct Flags<'a>(&'a FlagSet);

impl Display for Flags<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let known = SystemFlag::ALL.iter().fold(0, |bits, flag| bits | flag.bit());
        match self.0.system & !known {
            0 => Ok(()),
            unknown => write!(f, " unknown bits {unknown:#x}"),
        }
    }
}

#[cfg(test)]
mod tests;
