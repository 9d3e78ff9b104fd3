//! NOTIFY (RFC 5465): what a session that asked for it is told without asking again, of the selected mailbox and of others.
//!
//! Nothing is queued: the session keeps where it was told that each mailbox stands, and compares when the account has changed.
//!
//! # Cost
//! For each change of the account one look at each of its mailboxes, at five numbers.

use super::list::attributes;
use super::{Imap, User};
use culver_index::MailboxIndex;
use culver_index::account::MailboxEntry;
use culver_mailbox::{State, list};
use culver_model::{Guid, MailboxName, ModSeq, UidSet, UidValidity};
use culver_proto::imap::command::{Events, FetchItems, MailboxFilter, Notify};
use culver_proto::imap::encode::{self, Attribute, StatusValues};
use culver_proto::imap::{Enabled, Status, response};
use std::collections::BTreeMap;
use std::io;

/// Mailboxes looked at between two looks at whether the client reads.
const MAILBOXES_STEP: usize = 256;

/// What a session wants to hear of, and what it has heard.
pub(super) struct Notifying {
    /// Of the selected mailbox. `None`: nothing.
    selected: Option<OfSelected>,
    others: Vec<(MailboxFilter, Events)>,
    /// By mailbox, what was told.
    known: BTreeMap<Guid, Known>,
    subscriptions: Vec<MailboxName>,
    /// The account's version that was looked at last.
    version: u64,
    /// New messages of the selected mailbox that are still to be told of.
    due: UidSet,
    /// Where the selected mailbox stood before the first change of flags that was not told.
    withheld: Option<ModSeq>,
}

struct OfSelected {
    /// Expunges wait until a command allows them (SELECTED-DELAYED).
    delayed: bool,
    events: Events,
}

/// Where a mailbox stood.
#[derive(Clone, PartialEq)]
struct Known {
    name: MailboxName,
    uid_validity: u32,
    uid_next: u32,
    messages: u32,
    unseen: u32,
    modseq: ModSeq,
}

impl Known {
    fn of(name: &MailboxName, index: &MailboxIndex) -> Known {
        Known {
            name: name.clone(),
            uid_validity: index.uid_validity().get(),
            uid_next: index.uid_next().get(),
            messages: index.len(),
            unseen: index.unseen_count(),
            modseq: index.highest_modseq(),
        }
    }

    /// Whether it still stands so.
    fn stands(&self, name: &MailboxName, index: &MailboxIndex) -> bool {
        self.modseq == index.highest_modseq()
            && self.uid_next == index.uid_next().get()
            && self.messages == index.len()
            && self.unseen == index.unseen_count()
            && self.uid_validity == index.uid_validity().get()
            && self.name == *name
    }

    /// What is told where it stood at `before` (RFC 5465 §5.1 to §5.3). `None`: nothing.
    fn news(&self, before: &Known, events: &Events, enabled: Enabled) -> Option<StatusValues> {
        let other = self.uid_validity != before.uid_validity;
        let messages = self.messages != before.messages || self.uid_next != before.uid_next || other;
        let flags = events.flags && self.modseq != before.modseq;
        let mut values = StatusValues::default();
        if events.messages && messages {
            (values.messages, values.uid_next) = (Some(self.messages), Some(self.uid_next));
        }
        if enabled.condstore && (flags || (events.messages && messages)) {
            values.highest_modseq = Some(self.modseq);
        }
        if flags && self.unseen != before.unseen {
            values.unseen = Some(self.unseen);
        }
        if other || values.highest_modseq.is_some() {
            values.uid_validity = Some(self.uid_validity);
        }
        (values != StatusValues::default()).then_some(values)
    }
}

/// The selected mailbox, as the session is to be told of it.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub messages: bool,
    pub flags: bool,
}

impl Notifying {
    pub fn told(&self) -> Told {
        match &self.selected {
            Some(OfSelected { events, .. }) => Told { messages: events.messages, flags: events.flags },
            None => Told { messages: false, flags: false },
        }
    }

    pub fn wants_metadata(&self) -> bool {
        self.others.iter().any(|(_, events)| events.mailbox_metadata || events.server_metadata)
    }

    pub fn metadata_of(&self, state: &State, name: &MailboxName) -> bool {
        let subscribed = state.account.subscriptions.binary_search(name).is_ok();
        self.events_of(|filter| names(filter, name, subscribed)).mailbox_metadata
    }

    pub fn metadata_of_server(&self) -> bool {
        self.events_of(|_| true).server_metadata
    }

    /// A change of flags behind `stood` is not told.
    pub fn withhold(&mut self, stood: ModSeq) {
        self.withheld.get_or_insert(stood);
    }

    pub fn withheld(&self) -> Option<ModSeq> {
        self.withheld
    }

    pub fn deselected(&mut self) {
        (self.due, self.withheld) = (UidSet::new(), None);
    }

    /// Expunges of the selected mailbox are told at once.
    fn expunges(&self) -> bool {
        self.selected.as_ref().is_some_and(|selected| !selected.delayed)
    }

    /// These came into the selected mailbox.
    pub fn arrived(&mut self, uids: &UidSet) {
        let fetch = self.selected.as_ref().and_then(|selected| selected.events.fetch.as_ref());
        if fetch.is_some() {
            uids.ranges().for_each(|range| self.due.insert_range(range.clone()));
        }
    }

    /// RFC 5465 §5.2: the session brought these itself.
    pub fn own(&mut self, uids: &UidSet) {
        self.due = self.due.difference(uids);
    }

    fn events_of(&self, matches: impl Fn(&MailboxFilter) -> bool) -> Events {
        let of = self.others.iter().filter(|(filter, _)| matches(filter)).map(|(_, events)| events);
        of.fold(Events::default(), |all, events| all.and(events))
    }
}

/// Whether a filter means a mailbox of this name.
fn names(filter: &MailboxFilter, name: &MailboxName, subscribed: bool) -> bool {
    match filter {
        MailboxFilter::Selected | MailboxFilter::SelectedDelayed => false,
        MailboxFilter::Inboxes => name.is_inbox(),
        MailboxFilter::Personal => true,
        MailboxFilter::Subscribed => subscribed,
        MailboxFilter::Subtree(names) => names.iter().any(|above| name == above || name.starts_under(above)),
        MailboxFilter::SubtreeOne(names) => {
            names.contains(name) || name.parent().is_some_and(|parent| names.contains(&parent))
        }
        MailboxFilter::Mailboxes(names) => names.contains(name),
    }
}

impl Imap {
    pub(super) async fn notify(
        &mut self,
        tag: &str,
        notify: Option<Notify>,
        pipelined: bool,
    ) -> io::Result<()> {
        let Some(user) = &mut self.user else { return Ok(()) };
        let account = user.session.account().clone();
        let Notify { status, groups } = notify.unwrap_or(Notify { status: false, groups: Vec::new() });
        let (mut selected, mut others) = (None, Vec::new());
        for group in groups {
            match group.filter {
                MailboxFilter::Selected | MailboxFilter::SelectedDelayed => {
                    let delayed = group.filter == MailboxFilter::SelectedDelayed;
                    selected = Some(OfSelected { delayed, events: group.events });
                }
                filter => others.push((filter, group.events)),
            }
        }
        let version = account.changed().version();
        let mut notifying = Notifying {
            selected,
            others,
            known: BTreeMap::new(),
            subscriptions: account.state().account.subscriptions.clone(),
            version,
            due: UidSet::new(),
            // What was withheld before stays so.
            withheld: user.notify.as_ref().and_then(|notify| notify.withheld),
        };
        {
            let state = account.state();
            for entry in &state.account.mailboxes {
                let Some(index) = state.mailboxes.get(&entry.guid) else { continue };
                notifying.known.insert(entry.guid, Known::of(&entry.name, index));
            }
        }
        let enabled = self.server.state().enabled;
        let own = user.selected.as_ref().map(|selected| selected.view.mailbox());
        if status {
            let known: Vec<(Guid, Known)> =
                notifying.known.iter().map(|(guid, known)| (*guid, known.clone())).collect();
            for (at, (guid, known)) in known.iter().enumerate() {
                let subscribed = notifying.subscriptions.binary_search(&known.name).is_ok();
                let events = notifying.events_of(|filter| names(filter, &known.name, subscribed));
                if !events.messages || own == Some(*guid) || account.state().selectable(*guid).is_none() {
                    continue;
                }
                let values = StatusValues {
                    messages: Some(known.messages),
                    uid_next: Some(known.uid_next),
                    uid_validity: Some(known.uid_validity),
                    highest_modseq: events.flags.then_some(known.modseq),
                    ..StatusValues::default()
                };
                encode::status(&mut self.out, &known.name, &values, enabled.utf8());
                if at % MAILBOXES_STEP == MAILBOXES_STEP - 1 {
                    self.flush_full().await?;
                }
            }
        }
        let metadata = self.server.state().enabled.metadata;
        if let Some(user) = &mut self.user {
            user.notify = Some(Box::new(notifying));
            if !metadata {
                user.metadata_told = account.state().highest_modseq();
            }
        }
        // RFC 5465 §3.1: it is an implicit NOOP.
        self.sync(!pipelined);
        self.update_contexts().await?;
        self.notify_fetch().await?;
        response::tagged(&mut self.out, tag, Status::Ok, None, "Notifications set");
        Ok(())
    }

    /// Ready when the account has changed since a session that asked for notifications looked last.
    pub(super) async fn notified(user: &User) {
        match &user.notify {
            Some(notify) => user.session.account().changed().changed_since(notify.version).await,
            None => std::future::pending().await,
        }
    }

    /// Tells what there is to tell. `command`: one is under way that allows expunges to be told.
    pub(super) async fn notify_now(&mut self, command: bool) -> io::Result<()> {
        let Some(User { session, notify: Some(notify), .. }) = &mut self.user else { return Ok(()) };
        notify.version = session.account().changed().version();
        let expunges = command || notify.expunges();
        self.sync(expunges);
        self.update_contexts().await?;
        self.notify_others();
        self.notify_fetch().await
    }

    /// RFC 5465 §5.2: what was asked of each new message.
    async fn notify_fetch(&mut self) -> io::Result<()> {
        let Some(User { notify: Some(notify), .. }) = &mut self.user else { return Ok(()) };
        if notify.due.is_empty() {
            return Ok(());
        }
        let due = std::mem::replace(&mut notify.due, UidSet::new());
        let events = notify.selected.as_ref().map(|selected| &selected.events);
        let Some(items) = events.and_then(|events| events.fetch.as_deref()).cloned() else { return Ok(()) };
        self.tell_new(&due, &items).await
    }

    /// FETCH responses that nobody asks for now. What cannot be read is left out: a FETCH will say why.
    pub(super) async fn tell_new(&mut self, uids: &UidSet, items: &FetchItems) -> io::Result<()> {
        if !items.needs_octets() {
            self.fetch_rows(uids, items).await?;
        } else if let Err(error) = self.fetch_octets(uids, items).await? {
            tracing::warn!(session = %self.peer.id, %error, "a new message cannot be read");
        }
        Ok(())
    }

    fn notify_others(&mut self) {
        let enabled = self.server.state().enabled;
        let Some(User { session, selected, notify: Some(notify), .. }) = &mut self.user else { return };
        if notify.others.is_empty() {
            return;
        }
        let account = session.account().clone();
        let state = account.state();
        let own = selected.as_ref().map(|selected| selected.view.mailbox());
        let (out, utf8) = (&mut self.out, enabled.utf8());
        // RFC 5465 §5.4: a mailbox that comes or goes changes what there is to say of its parent.
        let mut parents = Vec::new();
        let changed: Vec<&MailboxEntry> = state
            .account
            .mailboxes
            .iter()
            .filter(|entry| match (notify.known.get(&entry.guid), state.mailboxes.get(&entry.guid)) {
                (Some(known), Some(index)) => !known.stands(&entry.name, index),
                (None, Some(_)) => true,
                (_, None) => false,
            })
            .collect();
        // By their new names.
        let renamed: BTreeMap<&MailboxName, MailboxName> = changed
            .iter()
            .filter_map(|entry| Some((&entry.name, notify.known.get(&entry.guid)?.name.clone())))
            .filter(|(name, old)| *name != old)
            .collect();
        for entry in &changed {
            let Some(index) = state.mailboxes.get(&entry.guid) else { continue };
            let now = Known::of(&entry.name, index);
            let before = notify.known.get(&entry.guid);
            let subscribed = state.account.subscriptions.binary_search(&entry.name).is_ok();
            let events = notify.events_of(|filter| names(filter, &entry.name, subscribed));
            match before {
                None if events.mailbox_name => {
                    if let Some(line) = list::one(&state, &entry.name) {
                        encode::list(out, &attributes(&line), &entry.name, false, utf8);
                    }
                    parents.extend(entry.name.parent());
                }
                Some(before) if events.mailbox_name && before.name != now.name => {
                    // Children of a mailbox that was renamed are renamed with it.
                    let with_parent = now.name.parent().zip(before.name.parent());
                    let moved = with_parent.is_some_and(|(new, old)| renamed.get(&new) == Some(&old));
                    if let Some(line) = list::one(&state, &entry.name).filter(|_| !moved) {
                        encode::list_renamed(out, &attributes(&line), &entry.name, &before.name, utf8);
                    }
                }
                _ => {}
            }
            if let Some(before) = before
                && own != Some(entry.guid)
                && entry.selectable
                && let Some(values) = now.news(before, &events, enabled)
            {
                encode::status(out, &entry.name, &values, utf8);
            }
        }
        let gone: Vec<(Guid, MailboxName)> = notify
            .known
            .iter()
            .filter(|(guid, _)| state.entry_of(**guid).is_none())
            .map(|(guid, known)| (*guid, known.name.clone()))
            .collect();
        for (_, name) in &gone {
            let subscribed = notify.subscriptions.binary_search(name).is_ok();
            let events = notify.events_of(|filter| names(filter, name, subscribed));
            // What DELETE leaves where there are mailboxes below it has the name, and was told above.
            if events.mailbox_name && state.entry(name).is_none() {
                encode::list(out, &[Attribute::NonExistent], name, false, utf8);
                parents.extend(name.parent());
            }
        }
        parents.sort();
        parents.dedup();
        for parent in parents {
            if let Some(line) = list::one(&state, &parent) {
                encode::list(out, &attributes(&line), &parent, false, utf8);
            }
        }
        // RFC 5465 §5.5.
        let (before, now) = (&notify.subscriptions, &state.account.subscriptions);
        if before != now {
            let changed = now
                .iter()
                .filter(|name| before.binary_search(name).is_err())
                .chain(before.iter().filter(|name| now.binary_search(name).is_err()));
            for name in changed {
                let events = notify.events_of(|filter| names(filter, name, true));
                if !events.subscription {
                    continue;
                }
                let subscribed = now.binary_search(name).is_ok();
                let attributes = match list::one(&state, name) {
                    Some(line) => attributes(&line),
                    None if subscribed => vec![Attribute::NonExistent, Attribute::Subscribed],
                    None => vec![Attribute::NonExistent],
                };
                encode::list(out, &attributes, name, false, utf8);
            }
            notify.subscriptions = now.clone();
        }
        for (guid, _) in gone {
            notify.known.remove(&guid);
        }
        for entry in changed {
            let Some(index) = state.mailboxes.get(&entry.guid) else { continue };
            notify.known.insert(entry.guid, Known::of(&entry.name, index));
        }
    }

    /// RFC 5465 §5.2: messages that the session brought itself.
    pub(super) fn notify_own_messages(&mut self, uid_validity: UidValidity, uids: &UidSet) {
        let Some(User { selected: Some(selected), notify: Some(notify), .. }) = &mut self.user else {
            return;
        };
        if selected.view.uid_validity() == uid_validity {
            notify.own(uids);
        }
    }

    /// RFC 5465 §5: what the session did itself is not told to it.
    pub(super) fn notify_own_mailbox(&mut self, guid: Guid) {
        let Some(User { session, notify: Some(notify), .. }) = &mut self.user else { return };
        let account = session.account().clone();
        let state = account.state();
        match state.entry_of(guid) {
            Some(entry) => {
                if let Some(index) = state.mailboxes.get(&guid) {
                    notify.known.entry(guid).or_insert_with(|| Known::of(&entry.name, index)).name =
                        entry.name.clone();
                }
            }
            None => drop(notify.known.remove(&guid)),
        }
    }

    pub(super) fn notify_own_subscription(&mut self, name: &MailboxName, on: bool) {
        let Some(User { notify: Some(notify), .. }) = &mut self.user else { return };
        match notify.subscriptions.binary_search(name) {
            Ok(at) if !on => drop(notify.subscriptions.remove(at)),
            Err(at) if on => notify.subscriptions.insert(at, name.clone()),
            _ => {}
        }
    }
}
