//! NOTIFY (RFC 5465): which events of which mailboxes a client wants to hear of.

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

/// NOTIFY SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Where the mailboxes stand now is told first.
    pub status: bool,
    /// At most one of them is of the selected mailbox.
    pub groups: Vec<EventGroup>,
}

/// Events of some mailboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventGroup {
    pub filter: MailboxFilter,
    pub events: Events,
}

/// Events (RFC 5465 §5). Of the selected mailbox only those of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// MessageNew and MessageExpunge, which go together.
    pub messages: bool,
    /// What is told of each new message of the selected mailbox. Nothing in it sets \Seen.
    pub fetch: Option<Box<FetchItems>>,
    /// Only with `messages`.
    pub flags: bool,
    pub mailbox_name: bool,
    pub subscription: bool,
    pub mailbox_metadata: bool,
    pub server_metadata: bool,
}

impl Events {
    /// All of both.
    pub fn and(&self, other: &Events) -> Events {
        Events {
            messages: self.messages || other.messages,
            fetch: None,
            flags: self.flags || other.flags,
            mailbox_name: self.mailbox_name || other.mailbox_name,
            subscription: self.subscription || other.subscription,
            mailbox_metadata: self.mailbox_metadata || other.mailbox_metadata,
            server_metadata: self.server_metadata || other.server_metadata,
        }
    }
}

/// The events that there are, as BADEVENT lists them.
pub(in super::super) const EVENTS: &str = "MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange \
                                           MailboxMetadataChange ServerMetadataChange";

/// `None`: NONE.
pub(super) fn notify(cursor: &mut Cursor<'_>) -> Parsed<Option<Notify>> {
    if cursor.eat_word("NONE") {
        return Ok(None);
    }
    if !cursor.eat_word("SET") {
        return Err(Refusal::Expected("SET or NONE"));
    }
    cursor.space()?;
    let status = cursor.eat_word("STATUS");
    if status {
        cursor.space()?;
    }
    let mut groups: Vec<EventGroup> = Vec::new();
    loop {
        if groups.len() == FILTERS_MAX {
            return Err(Refusal::TooMany("event groups"));
        }
        let group = group(cursor)?;
        let selects = |group: &EventGroup| of_selected(&group.filter);
        // RFC 5465 §6.1.
        if selects(&group) && groups.iter().any(selects) {
            return Err(Refusal::Expected("the selected mailbox in one group only"));
        }
        groups.push(group);
        if !cursor.eat(b' ') {
            return Ok(Some(Notify { status, groups }));
        }
    }
}

fn of_selected(filter: &MailboxFilter) -> bool {
    matches!(filter, MailboxFilter::Selected | MailboxFilter::SelectedDelayed)
}

fn group(cursor: &mut Cursor<'_>) -> Parsed<EventGroup> {
    cursor.expect(b'(', "an opening parenthesis")?;
    let filter = filter::filter(cursor)?;
    if matches!(filter, MailboxFilter::SubtreeOne(_)) {
        return Err(Refusal::Expected("a mailbox filter of NOTIFY"));
    }
    cursor.space()?;
    let (mut events, mut expunges) = (Events::default(), false);
    if !cursor.eat_word("NONE") {
        // The RFC's grammar has parentheses, its examples have none.
        let parentheses = cursor.eat(b'(');
        loop {
            event(cursor, &filter, &mut events, &mut expunges)?;
            if !cursor.eat(b' ') {
                break;
            }
        }
        if parentheses {
            cursor.expect(b')', "a closing parenthesis")?;
        }
    }
    cursor.expect(b')', "a closing parenthesis")?;
    // RFC 5465 §5.
    if events.messages != expunges || (events.flags && !events.messages) {
        return Err(Refusal::Expected("MessageNew and MessageExpunge together"));
    }
    let others =
        events.mailbox_name || events.subscription || events.mailbox_metadata || events.server_metadata;
    if of_selected(&filter) && others {
        return Err(Refusal::Expected("events of messages for the selected mailbox"));
    }
    Ok(EventGroup { filter, events })
}

fn event(
    cursor: &mut Cursor<'_>,
    filter: &MailboxFilter,
    events: &mut Events,
    expunges: &mut bool,
) -> Parsed<()> {
    if cursor.eat_word("MessageNew") {
        events.messages = true;
        if cursor.rest().starts_with(b" (") {
            if !of_selected(filter) {
                return Err(Refusal::Expected("FETCH items only for the selected mailbox"));
            }
            cursor.space()?;
            events.fetch = Some(Box::new(fetch::unasked(cursor)?));
        }
        return Ok(());
    }
    let asked = if cursor.eat_word("MessageExpunge") {
        expunges
    } else if cursor.eat_word("FlagChange") {
        &mut events.flags
    } else if cursor.eat_word("MailboxName") {
        &mut events.mailbox_name
    } else if cursor.eat_word("SubscriptionChange") {
        &mut events.subscription
    } else if cursor.eat_word("MailboxMetadataChange") {
        &mut events.mailbox_metadata
    } else if cursor.eat_word("ServerMetadataChange") {
        &mut events.server_metadata
    } else {
        cursor.atom("an event")?;
        return Err(Refusal::BadEvent);
    };
    *asked = true;
    Ok(())
}
