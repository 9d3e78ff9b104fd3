//! What an account's mailboxes should be: a second, plain account of CREATE, DELETE and RENAME.

use culver_mailbox::{Refusal, State};
use culver_model::{Guid, MailboxName};
use std::collections::{BTreeMap, BTreeSet};

/// One mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None`: made by a change to other mailboxes, and not yet seen.
    pub guid: Option<Guid>,
    pub selectable: bool,
    pub uid_validity: u32,
}

/// A change to the mailboxes themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Create { guid: Guid, name: MailboxName },
    Delete { guid: Guid },
    Rename { guid: Guid, to: MailboxName },
    RenameInbox { guid: Guid, to: MailboxName },
}

/// The mailboxes of one account, and its UIDVALIDITY counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub entries: BTreeMap<String, Entry>,
    pub counter: u32,
}

impl Default for Tree {
    fn default() -> Tree {
        let inbox = Entry { guid: Some(Guid::INBOX), selectable: true, uid_validity: 1 };
        Tree { entries: [("INBOX".to_owned(), inbox)].into(), counter: 1 }
    }
}

impl Tree {
    pub fn of(state: &State) -> Tree {
        let entries = state.account.mailboxes.iter().map(|entry| {
            let (guid, selectable, uid_validity) =
                (Some(entry.guid), entry.selectable, entry.uid_validity.get());
            (entry.name.as_str().to_owned(), Entry { guid, selectable, uid_validity })
        });
        Tree { entries: entries.collect(), counter: state.account.uid_validity }
    }

    /// The same, as far as this one knows its GUIDs.
    pub fn is(&self, seen: &Tree) -> bool {
        let same = |(mine, theirs): ((&String, &Entry), (&String, &Entry))| {
            let guid = mine.1.guid.or(theirs.1.guid);
            mine.0 == theirs.0 && Entry { guid, ..*mine.1 } == *theirs.1
        };
        self.counter == seen.counter
            && self.entries.len() == seen.entries.len()
            && self.entries.iter().zip(&seen.entries).all(same)
    }

    pub fn guids(&self) -> BTreeSet<Guid> {
        self.entries.values().filter_map(|entry| entry.guid).collect()
    }

    fn name_of(&self, guid: Guid) -> Option<MailboxName> {
        let name = self.entries.iter().find(|(_, entry)| entry.guid == Some(guid))?.0;
        MailboxName::parse(name).ok()
    }

    fn add(&mut self, name: &MailboxName, guid: Option<Guid>) {
        self.counter += 1;
        let entry = Entry { guid, selectable: true, uid_validity: self.counter };
        self.entries.insert(name.as_str().to_owned(), entry);
    }

    fn add_ancestors(&mut self, name: &MailboxName, before: &Tree) {
        for ancestor in name.ancestors().filter(|ancestor| !before.entries.contains_key(ancestor.as_str())) {
            self.add(&ancestor, None);
        }
    }

    fn under(&self, name: &MailboxName) -> Vec<MailboxName> {
        let names = self.entries.keys().filter_map(|name| MailboxName::parse(name).ok());
        names.filter(|below| below.starts_under(name)).collect()
    }

    /// The tree after a change, or why it is refused.
    pub fn after(&self, change: &Change) -> Result<Tree, Refusal> {
        let mut tree = self.clone();
        match change {
            Change::Create { guid, name } | Change::RenameInbox { guid, to: name } => {
                if name.is_inbox() && matches!(change, Change::RenameInbox { .. }) {
                    return Err(Refusal::Cannot);
                }
                // RFC 3501 §6.3.4: CREATE makes a \NoSelect name whole; a rename finds it taken.
                let rename = matches!(change, Change::RenameInbox { .. });
                if self.entries.get(name.as_str()).is_some_and(|entry| entry.selectable || rename) {
                    return Err(Refusal::AlreadyExists);
                }
                tree.entries.remove(name.as_str());
                tree.add_ancestors(name, self);
                tree.add(name, Some(*guid));
            }
            Change::Delete { guid } => {
                let name = self.name_of(*guid).ok_or(Refusal::NonExistent)?;
                let children = !self.under(&name).is_empty();
                let selectable = self.entries[name.as_str()].selectable;
                if name.is_inbox() || children && !selectable {
                    return Err(Refusal::Cannot);
                }
                if children {
                    let entry = Entry { guid: None, selectable: false, ..self.entries[name.as_str()] };
                    tree.counter += 1;
                    tree.entries.insert(name.as_str().to_owned(), entry);
                } else {
                    tree.entries.remove(name.as_str());
                }
            }
            Change::Rename { guid, to } => {
                let from = self.name_of(*guid).ok_or(Refusal::NonExistent)?;
                if from.is_inbox() || to.is_inbox() || to.starts_under(&from) {
                    return Err(Refusal::Cannot);
                }
                if self.entries.contains_key(to.as_str()) {
                    return Err(Refusal::AlreadyExists);
                }
                let below = self.under(&from);
                for old in below.iter().chain([&from]) {
                    let entry = tree.entries.remove(old.as_str()).expect("listed");
                    let new = old.renamed(&from, to).expect("under it").map_err(|_| Refusal::Limit)?;
                    if self.entries.contains_key(new.as_str()) && !new.starts_under(&from) {
                        return Err(Refusal::AlreadyExists);
                    }
                    tree.entries.insert(new.as_str().to_owned(), entry);
                }
                tree.add_ancestors(to, self);
            }
        }
        Ok(tree)
    }
}
