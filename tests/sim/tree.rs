//! What an account's mailboxes should be: a second, plain account of CREATE, DELETE and RENAME.

use culver_mailbox::{Refusal, State};
use culver_model::{Guid, MailboxName};
use std::collections::BTreeMap;

/// One mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub guid: Guid,
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
        let inbox = Entry { guid: Guid::INBOX, selectable: true, uid_validity: 1 };
        Tree { entries: [("INBOX".to_owned(), inbox)].into(), counter: 1 }
    }
}

impl Tree {
    pub fn of(state: &State) -> Tree {
        let entries = state.account.mailboxes.iter().map(|entry| {
            let (guid, selectable, uid_validity) = (entry.guid, entry.selectable, entry.uid_validity.get());
            (entry.name.as_str().to_owned(), Entry { guid, selectable, uid_validity })
        });
        Tree { entries: entries.collect(), counter: state.account.uid_validity }
    }

    fn name_of(&self, guid: Guid) -> Option<MailboxName> {
        let name = self.entries.iter().find(|(_, entry)| entry.guid == guid)?.0;
        MailboxName::parse(name).ok()
    }

    /// Names that a change makes by itself have a GUID made from its own and the counter.
    fn derived(&self, guid: Guid) -> Guid {
        let mut bytes = guid.0;
        for (byte, salt) in bytes[4..8].iter_mut().zip((self.counter + 1).to_le_bytes()) {
            *byte ^= salt;
        }
        bytes[0] ^= 0xa5;
        Guid(bytes)
    }

    fn add(&mut self, name: &MailboxName, guid: Guid) {
        self.counter += 1;
        let entry = Entry { guid, selectable: true, uid_validity: self.counter };
        self.entries.insert(name.as_str().to_owned(), entry);
    }

    fn add_ancestors(&mut self, name: &MailboxName, guid: Guid, before: &Tree) {
        for ancestor in name.ancestors().filter(|ancestor| !before.entries.contains_key(ancestor.as_str())) {
            self.add(&ancestor, self.derived(guid));
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
                if self.entries.get(name.as_str()).is_some_and(|entry| entry.selectable) {
                    return Err(Refusal::AlreadyExists);
                }
                tree.entries.remove(name.as_str());
                tree.add_ancestors(name, *guid, self);
                tree.add(name, *guid);
            }
            Change::Delete { guid } => {
                let name = self.name_of(*guid).ok_or(Refusal::NonExistent)?;
                let children = !self.under(&name).is_empty();
                let selectable = self.entries[name.as_str()].selectable;
                if name.is_inbox() || children && !selectable {
                    return Err(Refusal::Cannot);
                }
                if children {
                    let entry = Entry { guid: self.derived(*guid), selectable: false, ..self.entries[name.as_str()] };
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
                tree.add_ancestors(to, *guid, self);
            }
        }
        Ok(tree)
    }
}
