//! GETMETADATA, SETMETADATA, the METADATA option of LIST, and what a session is told of others' changes (RFC 5464).
//!
//! What is shared on the server comes from the configuration, and no client changes it. All else is the account's: of its own
//! mailboxes, whose `/private` and `/shared` entries only its own user meets, and its `/private` entries of the server.
//!
//! # Limits
//! Those of `[metadata]`. Two commands at one time may pass the limits of entries and octets by one of them; the built-in ones of
//! `culver_index::annotations` nothing passes.

use super::list::special;
use super::select::reason;
use super::{Imap, User};
use culver_index::account::MailboxEntry;
use culver_index::annotations::SERVER;
use culver_mailbox::record::Record;
use culver_mailbox::{Applied, Refusal, State};
use culver_model::annotation::Depth;
use culver_model::{EntryName, Guid, MailboxName, ModSeq};
use culver_proto::imap::command::{GetMetadata, SetMetadata};
use culver_proto::imap::{Code, Reason, Status, encode, response};
use std::collections::BTreeMap;
use std::io;

/// What is asked of: the server, or a mailbox that exists.
#[derive(Clone, Copy)]
enum Target<'a> {
    Server,
    Mailbox(&'a MailboxEntry),
}

/// Entries by name, `None` where one has no value.
type Found<'a> = BTreeMap<&'a EntryName, Option<&'a [u8]>>;

/// Entries that are not the account's to keep.
struct Fixed(Vec<(EntryName, Vec<u8>)>);

impl Fixed {
    fn of(target: Target<'_>, server: &[(EntryName, String)]) -> Fixed {
        Fixed(match target {
            Target::Server => {
                server.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
            }
            // RFC 6154 §4: as LIST has it.
            Target::Mailbox(entry) => {
                let special_use = entry.special_use.as_deref().and_then(special);
                let value = special_use.map(|attribute| attribute.name().as_bytes().to_vec());
                value.into_iter().map(|value| (EntryName::special_use(), value)).collect()
            }
        })
    }
}

/// What the names ask for, to that depth. `missing`: those that are named and have no value stand there as such.
fn find<'a>(
    state: &'a State,
    of: Guid,
    fixed: &'a Fixed,
    names: &'a [EntryName],
    depth: Depth,
    missing: bool,
) -> Found<'a> {
    let mut found = Found::new();
    for above in names {
        if missing {
            found.insert(above, None);
        }
        found.extend(state.annotations.within(of, above, depth).map(|(name, value)| (name, Some(value))));
        let fixed = fixed.0.iter().filter(|(name, _)| name.is_within(above, depth));
        found.extend(fixed.map(|(name, value)| (name, Some(&value[..]))));
    }
    found
}

impl Imap {
    pub(super) async fn get_metadata(
        &mut self,
        tag: &str,
        get: &GetMetadata,
        pipelined: bool,
    ) -> io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let account = user.session.account().clone();
        let mut longest = None;
        {
            let state = account.state();
            let (target, of) = match &get.mailbox {
                None => (Target::Server, SERVER),
                // RFC 5464 §4.1: \Noselect ones too.
                Some(name) => match state.entry(name) {
                    Some(entry) => (Target::Mailbox(entry), entry.guid),
                    None => {
                        Reason::NoSuchMailbox.write(tag, &mut self.out);
                        return Ok(());
                    }
                },
            };
            let fixed = Fixed::of(target, &self.shard.config().metadata.server);
            // RFC 5464 §4.2.2: of one entry with those below it only what exists is given; of one alone, that it has no value.
            let mut found = find(&state, of, &fixed, &get.entries, get.depth, get.depth == Depth::Zero);
            if let Some(most) = get.max_size {
                found.retain(|_, value| {
                    let octets = value.map_or(0, |value| value.len() as u64);
                    if octets > most {
                        longest = longest.max(Some(octets));
                    }
                    octets <= most
                });
            }
            encode::metadata(&mut self.out, get.mailbox.as_ref(), found, self.server.state().enabled.utf8());
        }
        self.flush_full().await?;
        match longest {
            None => self.done(tag, pipelined, true, "Metadata given"),
            Some(octets) => {
                self.sync(!pipelined);
                let code = Code::MetadataLongEntries(octets);
                response::tagged(&mut self.out, tag, Status::Ok, Some(&code), "Long values are left out");
            }
        }
        Ok(())
    }

    pub(super) async fn set_metadata(&mut self, tag: &str, set: SetMetadata<'_>, pipelined: bool) {
        let Some(user) = &self.user else { return };
        let checked = {
            let state = user.session.account().state();
            self.settable(&state, &set)
        };
        let record = match checked {
            Ok(record) => record,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        let (modseq, lost_use) = match user.session.change(record).await {
            Ok(Applied::Annotated { modseq, lost_use }) => (modseq, lost_use),
            Ok(_) => return Reason::ServerBug.write(tag, &mut self.out),
            Err(error) => {
                let refused = |refusal| match refusal {
                    Refusal::NonExistent => Reason::NoSuchMailbox,
                    Refusal::Cannot => Reason::UseAttribute,
                    _ => Reason::AnnotationLimit,
                };
                return reason(&error, refused).write(tag, &mut self.out);
            }
        };
        self.tell_metadata(modseq);
        if let Some(guid) = lost_use {
            // RFC 6154 §5.4: what was changed along with it is shown.
            let account = user_account(&self.user);
            if let Some(name) = account.and_then(|account| name_of(&account.state(), guid)) {
                let lost = EntryName::special_use();
                encode::metadata(
                    &mut self.out,
                    Some(&name),
                    [(&lost, None)],
                    self.server.state().enabled.utf8(),
                );
            }
        }
        self.done(tag, pipelined, true, "Metadata set");
    }

    /// The record that sets them, or why they are not set. Nothing has changed.
    fn settable(&self, state: &State, set: &SetMetadata<'_>) -> Result<Record, Reason> {
        let limits = &self.shard.config().metadata;
        let mailbox = match &set.mailbox {
            None => None,
            Some(name) => Some(state.entry(name).ok_or(Reason::NoSuchMailbox)?.guid),
        };
        let of = mailbox.unwrap_or(SERVER);
        let mut entries: BTreeMap<EntryName, Option<Vec<u8>>> = BTreeMap::new();
        for (name, value) in &set.entries {
            // RFC 5464 §3.3: what all users share is the operator's.
            if mailbox.is_none() && name.is_shared() {
                return Err(Reason::AnnotationReadOnly);
            }
            if value.as_ref().is_some_and(|value| value.len() > limits.value_octets_max) {
                return Err(Reason::AnnotationTooBig(limits.value_octets_max as u64));
            }
            let value = match value {
                Some(value) if mailbox.is_some() && name.is_special_use() => Some(special_use(value)?),
                value => value.as_deref().map(<[u8]>::to_vec),
            };
            entries.insert(name.clone(), value);
        }
        let kept = |name: &EntryName| !(mailbox.is_some() && name.is_special_use());
        let (mut count, mut octets, mut adds) = (state.annotations.of(of).count(), 0, false);
        for (name, value) in entries.iter().filter(|(name, _)| kept(name)) {
            let held = state.annotations.get(of, name);
            match (held, value) {
                (None, Some(_)) => (count, adds) = (count + 1, true),
                (Some(_), None) => count -= 1,
                _ => {}
            }
            let size = |value: &[u8]| (value.len() + name.as_str().len()) as i64;
            octets += value.as_deref().map_or(0, size) - held.map_or(0, size);
        }
        if adds && count > limits.entries_max {
            return Err(Reason::TooManyAnnotations);
        }
        if octets > 0 && state.annotations.octets() as i64 + octets > limits.octets_max as i64 {
            return Err(Reason::AnnotationLimit);
        }
        Ok(Record::Annotate { mailbox, entries: entries.into_iter().collect() })
    }

    /// RFC 9590: behind the line of LIST, what that mailbox has of these entries.
    pub(super) fn list_metadata(&mut self, name: &MailboxName, entries: &[EntryName]) {
        let Some(account) = user_account(&self.user) else { return };
        let state = account.state();
        let Some(entry) = state.entry(name) else { return };
        let fixed = Fixed::of(Target::Mailbox(entry), &[]);
        let found = find(&state, entry.guid, &fixed, entries, Depth::Zero, true);
        encode::metadata(&mut self.out, Some(name), found, self.server.state().enabled.utf8());
    }

    /// ENABLE METADATA: what changes from now on is told.
    pub(super) fn enable_metadata(&mut self) {
        if self.server.state().enabled.metadata {
            return;
        }
        self.server.enabled_mut().metadata = true;
        if let Some(user) = &mut self.user {
            user.metadata_told = user.session.account().state().highest_modseq();
        }
    }

    /// RFC 5464 §4.4: what others have changed, by name. `own`: this session's own change, of which it is not told.
    pub(super) fn tell_metadata(&mut self, own: Option<ModSeq>) {
        let enabled = self.server.state().enabled.metadata;
        let Some(User { session, metadata_told, notify, .. }) = &mut self.user else { return };
        // RFC 5465 §5.6, §5.7: a client that asks for these events need not ENABLE METADATA.
        let wants = notify.as_ref().filter(|notify| notify.wants_metadata());
        if !enabled && wants.is_none() {
            return;
        }
        let account = session.account().clone();
        let state = account.state();
        if *metadata_told >= state.annotations.newest() {
            return;
        }
        let mut changed: BTreeMap<Guid, Vec<&EntryName>> = BTreeMap::new();
        for (of, name, modseq) in state.annotations.changed_since(*metadata_told) {
            if own != Some(modseq) {
                changed.entry(of).or_default().push(name);
            }
        }
        *metadata_told = state.highest_modseq();
        let utf8 = self.server.state().enabled.utf8();
        for (of, names) in changed {
            match name_of(&state, of) {
                Some(name) if !enabled && !wants.is_some_and(|notify| notify.metadata_of(&state, &name)) => {}
                None if of == SERVER
                    && !enabled
                    && !wants.is_some_and(|notify| notify.metadata_of_server()) => {}
                Some(name) => encode::metadata_changed(&mut self.out, Some(&name), names, utf8),
                None if of == SERVER => encode::metadata_changed(&mut self.out, None, names, utf8),
                None => {}
            }
        }
    }
}

fn user_account(user: &Option<User>) -> Option<std::rc::Rc<culver_mailbox::Account>> {
    Some(user.as_ref()?.session.account().clone())
}

fn name_of(state: &State, guid: Guid) -> Option<MailboxName> {
    state.entry_of(guid).map(|entry| entry.name.clone())
}

/// RFC 6154 §4: what a client sets is not taken blindly: one attribute that LIST can show.
fn special_use(value: &[u8]) -> Result<Vec<u8>, Reason> {
    let attribute = std::str::from_utf8(value).ok().and_then(special).ok_or(Reason::UseAttribute)?;
    Ok(attribute.name().as_bytes().to_vec())
}
