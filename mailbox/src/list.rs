//! LIST and LSUB: which names a client sees (RFC 3501 §6.3.8-9, RFC 5258, RFC 6154).
//!
//! # Invariants
//! A mailbox's superior levels always exist in the account, if only as \NoSelect; so a name is listed exactly where
//! a pattern matches it. Only subscriptions can name what does not exist.

use crate::state::State;
use culver_index::account::MailboxEntry;
use culver_model::MailboxName;
use culver_model::name::ListPattern;
use std::collections::BTreeMap;

/// What a LIST command asks, free of syntax.
#[derive(Debug, Default)]
pub struct Query {
    pub patterns: Vec<ListPattern>,
    /// RFC 5258 §3.1 SUBSCRIBED.
    pub subscribed: bool,
    /// RFC 5258 §3.1 RECURSIVEMATCH.
    pub recursive: bool,
    /// RFC 6154 §3: only mailboxes with a special use.
    pub special_use: bool,
    /// RETURN (SUBSCRIBED): say \Subscribed.
    pub return_subscribed: bool,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: MailboxName,
    pub exists: bool,
    pub selectable: bool,
    pub has_children: bool,
    pub subscribed: bool,
    pub special_use: Option<String>,
    /// RFC 5258 §3.5: CHILDINFO ("SUBSCRIBED").
    pub child_subscribed: bool,
}

/// The line of one mailbox, with all that can be said of it. `None`: there is none.
pub fn one(state: &State, name: &MailboxName) -> Option<Listed> {
    state.entry(name).map(|entry| listed(state, name, Some(entry)))
}

/// The answer to LIST, by name.
pub fn list(state: &State, query: &Query) -> Vec<Listed> {
    let matches = |name: &MailboxName| query.patterns.iter().any(|pattern| pattern.matches(name.as_str()));
    let mut found: BTreeMap<MailboxName, Listed> = BTreeMap::new();
    if query.subscribed {
        for name in &state.account.subscriptions {
            if matches(name) {
                found.insert(name.clone(), listed(state, name, state.entry(name)));
            } else if query.recursive {
                // RFC 5258 §3.5: a name that matches is listed for the subscriptions below it that do not.
                for above in name.ancestors().filter(|above| matches(above)) {
                    let entry = state.entry(&above);
                    let line = found.entry(above.clone()).or_insert_with(|| listed(state, &above, entry));
                    line.child_subscribed = true;
                }
            }
        }
    } else {
        for entry in state.account.mailboxes.iter().filter(|entry| matches(&entry.name)) {
            found.insert(entry.name.clone(), listed(state, &entry.name, Some(entry)));
        }
    }
    let mut lines: Vec<Listed> = found.into_values().collect();
    lines.retain(|line| !query.special_use || line.special_use.is_some());
    if !query.subscribed && !query.return_subscribed {
        lines.iter_mut().for_each(|line| line.subscribed = false);
    }
    lines
}

/// The answer to LSUB: subscriptions, and where `%` cuts one short the level it cuts at as \NoSelect
/// (RFC 3501 §6.3.9).
pub fn lsub(state: &State, pattern: &ListPattern) -> Vec<Listed> {
    let mut found: BTreeMap<MailboxName, Listed> = BTreeMap::new();
    for name in &state.account.subscriptions {
        if pattern.matches(name.as_str()) {
            found.insert(name.clone(), listed(state, name, state.entry(name)));
            continue;
        }
        for above in name.ancestors().filter(|above| pattern.matches(above.as_str())) {
            if state.account.subscriptions.binary_search(&above).is_err() {
                let mut line = listed(state, &above, state.entry(&above));
                line.selectable = false;
                line.has_children = true;
                found.insert(above, line);
            }
        }
    }
    found.into_values().collect()
}

fn listed(state: &State, name: &MailboxName, entry: Option<&MailboxEntry>) -> Listed {
    Listed {
        name: name.clone(),
        exists: entry.is_some(),
        selectable: entry.is_some_and(|entry| entry.selectable),
        has_children: state.has_children(name),
        subscribed: state.account.subscriptions.binary_search(name).is_ok(),
        special_use: entry.and_then(|entry| entry.special_use.clone()),
        child_subscribed: false,
    }
}
