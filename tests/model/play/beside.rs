//! What is beside mail: annotations and the quota.

use std::collections::BTreeMap;

use super::{Played, World, ok, refused};
use crate::account::{Notes, canonical};
use crate::server;
use crate::session::{Gathered, check};
use crate::wire::{Answer, response};
use culver_proto::imap::client::Response;

/// As a value stands in a command.
fn written(value: &str) -> String {
    if value.contains('\r') {
        return format!("{{{}+}}\r\n{value}", value.len());
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn is_within(name: &str, above: &str, depth: &str) -> bool {
    match name.strip_prefix(above) {
        Some("") => true,
        Some(below) if below.starts_with('/') => match depth {
            "0" => false,
            "1" => !below[1..].contains('/'),
            _ => true,
        },
        _ => false,
    }
}

/// The answer to GETMETADATA: `None` is NIL.
fn expected(notes: &Notes, above: &str, depth: &str) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    if depth == "0" {
        found.insert(above.to_owned(), None);
    }
    let within = notes.iter().filter(|(name, _)| is_within(name, above, depth));
    found.extend(within.map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec()))));
    found
}

impl World {
    pub(super) fn annotate(
        &mut self,
        at: usize,
        name: Option<&str>,
        entries: &[(&'static str, Option<&'static str>)],
    ) -> Played {
        let list: Vec<String> = entries
            .iter()
            .map(|(entry, value)| format!("{entry} {}", value.map_or("NIL".to_owned(), written)))
            .collect();
        let command = format!("SETMETADATA {} ({})", name.unwrap_or("\"\""), list.join(" "));
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let canonical = name.map(canonical);
        let key = match &canonical {
            None => None,
            Some(name) => match self.account.mailboxes.get(name) {
                Some(mailbox) => Some(mailbox.key),
                None => {
                    refused(&answer, &vec!["NONEXISTENT"])?;
                    return self.absorb(at, &answer, true).map(drop);
                }
            },
        };
        if name.is_none() && entries.iter().any(|(entry, _)| entry.starts_with("/shared")) {
            refused(&answer, &vec!["NOPERM"])?;
            return self.absorb(at, &answer, true).map(drop);
        }
        ok(&answer)?;
        let notes = self.account.notes_mut(canonical.as_deref()).expect("looked up above");
        let before = notes.clone();
        for (entry, value) in entries {
            match value {
                Some(value) => drop(notes.insert(entry, value)),
                None => drop(notes.remove(entry)),
            }
        }
        let changed =
            entries.iter().map(|(entry, _)| *entry).filter(|entry| before.get(entry) != notes.get(entry));
        let changed: Vec<_> = changed.map(|entry| (key, entry.to_owned())).collect();
        for (other, session) in self.sessions.iter_mut().enumerate() {
            for change in &changed {
                if other == at {
                    // It is told no more of what another did there before.
                    session.untold.remove(change);
                } else if session.metadata {
                    session.untold.insert(change.clone());
                }
            }
        }
        self.absorb(at, &answer, true).map(drop)
    }

    pub(super) fn annotations(&mut self, at: usize, name: Option<&str>, above: &str, depth: &str) -> Played {
        let command = format!("GETMETADATA (DEPTH {depth}) {} {above}", name.unwrap_or("\"\""));
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let canonical = name.map(canonical);
        let Some(notes) = self.account.notes_mut(canonical.as_deref()).cloned() else {
            refused(&answer, &vec!["NONEXISTENT"])?;
            return self.absorb(at, &answer, true).map(drop);
        };
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, true)?;
        agree(&gathered, &expected(&notes, above, depth))
    }

    pub(super) fn quota(&mut self, at: Option<usize>) -> Played {
        let command = b"GETQUOTAROOT INBOX";
        let gathered = match at {
            Some(at) => {
                let answer = self.sessions[at].wire.command(command)?;
                ok(&answer)?;
                self.absorb(at, &answer, true)?
            }
            None => {
                let answer = self.observer.command(command)?;
                ok(&answer)?;
                beside(&answer)?
            }
        };
        let (octets, messages) = self.account.usage();
        let mailboxes = self.account.mailboxes.len() as u64;
        let expected = [
            ("STORAGE", octets.div_ceil(1024), server::QUOTA_OCTETS / 1024),
            ("MESSAGE", messages, server::QUOTA_MESSAGES),
            ("MAILBOX", mailboxes, server::QUOTA_MAILBOXES),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(name, usage, limit)| ((*name).to_owned(), *usage, *limit)).collect();
        check!(gathered.quota == expected, "QUOTA {:?}, not {expected:?}", gathered.quota);
        Ok(())
    }

    /// All annotations, and what is used of the quota.
    pub(super) fn observe_beside(&mut self) -> Played {
        self.quota(None)?;
        let names: Vec<Option<String>> =
            self.account.mailboxes.keys().cloned().map(Some).chain([None]).collect();
        for name in names {
            let shown = name.as_deref().unwrap_or("\"\"");
            let command = format!("GETMETADATA (DEPTH infinity) {shown} (/private /shared)");
            let answer = self.observer.command(command.as_bytes())?;
            ok(&answer)?;
            let notes = self.account.notes_mut(name.as_deref()).expect("listed above");
            let mut all = expected(notes, "/private", "infinity");
            all.extend(expected(notes, "/shared", "infinity"));
            agree(&beside(&answer)?, &all).map_err(|why| format!("{shown}: {why}"))?;
        }
        Ok(())
    }
}

fn beside(answer: &Answer) -> Result<Gathered, String> {
    let mut gathered = Gathered::default();
    for octets in &answer.untagged {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        match response(octets)? {
            Response::Metadata { values, .. } => {
                let values =
                    values.iter().map(|(name, value)| (text(name), value.as_deref().map(<[u8]>::to_vec)));
                gathered.notes.extend(values);
            }
            Response::Quota { resources, .. } => {
                let resources =
                    resources.iter().map(|(name, usage, limit)| ((*name).to_owned(), *usage, *limit));
                gathered.quota.extend(resources);
            }
            _ => {}
        }
    }
    Ok(gathered)
}

fn agree(gathered: &Gathered, expected: &BTreeMap<String, Option<Vec<u8>>>) -> Played {
    let given: BTreeMap<String, Option<Vec<u8>>> = gathered.notes.iter().cloned().collect();
    check!(given.len() == gathered.notes.len(), "an entry twice");
    check!(given == *expected, "METADATA {given:?}, not {expected:?}");
    Ok(())
}
