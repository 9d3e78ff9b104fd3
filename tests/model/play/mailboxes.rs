//! The commands on mailboxes: the list of them, STATUS, SELECT, CLOSE.

use std::collections::{BTreeMap, BTreeSet};

use super::{Played, World, ok, refused};
use crate::account::{Account, CONTENTS, Refused, canonical};
use crate::op::Known;
use crate::session::{Selected, check};

impl World {
    pub(super) fn change_list(
        &mut self,
        at: usize,
        command: &str,
        change: impl FnOnce(&mut Account) -> Result<(), Refused>,
    ) -> Played {
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let before: BTreeSet<u32> = self.account.mailboxes.values().map(|mailbox| mailbox.key).collect();
        match change(&mut self.account) {
            Ok(()) => ok(&answer)?,
            Err(codes) => refused(&answer, &codes)?,
        }
        // What a new mailbox has from INBOX is told to all.
        for mailbox in self.account.mailboxes.values().filter(|mailbox| !before.contains(&mailbox.key)) {
            let changed = mailbox.notes.keys().map(|entry| (Some(mailbox.key), (*entry).to_owned()));
            let changed: Vec<_> = changed.collect();
            let told = self.sessions.iter_mut().filter(|session| session.metadata);
            told.for_each(|session| session.untold.extend(changed.iter().cloned()));
        }
        self.observe(None)?;
        self.absorb(at, &answer, true).map(drop)
    }

    pub(super) fn delete(&mut self, at: usize, name: &str) -> Played {
        let own = self.sessions[at].selected.as_ref().map(|selected| selected.key);
        let canonical = canonical(name);
        let answer = self.sessions[at].wire.command(format!("DELETE {name}").as_bytes())?;
        match self.account.delete(&canonical) {
            Ok(()) => ok(&answer)?,
            Err(codes) => refused(&answer, &codes)?,
        }
        if own.is_some_and(|key| self.account.by_key(key).is_none()) {
            self.sessions[at].selected = None;
            self.sessions[at].saved.clear();
        }
        self.observe(None)?;
        self.absorb(at, &answer, true).map(drop)
    }

    pub(super) fn list(&mut self, at: usize, (reference, pattern): (&str, &str), lsub: bool) -> Played {
        let command = if lsub { "LSUB" } else { "LIST" };
        let answer =
            self.sessions[at].wire.command(format!("{command} \"{reference}\" \"{pattern}\"").as_bytes())?;
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, true)?;
        let whole = canonical_pattern(&format!("{reference}{pattern}"));
        let given: BTreeMap<String, BTreeSet<String>> = gathered.listed.iter().cloned().collect();
        check!(given.len() == gathered.listed.len(), "a name twice");
        let (list, lsubbed) = (self.account.list(&whole), self.account.lsub(&whole));
        let expected: Vec<&String> = if lsub { lsubbed.keys().collect() } else { list.keys().collect() };
        check!(given.keys().eq(expected.iter().copied()), "{:?}, not {expected:?}", given.keys());
        for (name, attributes) in &given {
            let noselect = attributes.contains("\\noselect") || attributes.contains("\\nonexistent");
            if lsub {
                check!(!lsubbed[name] || noselect, "{name} stands for its children, without \\Noselect");
                continue;
            }
            let (unselectable, children) = list[name];
            check!(noselect == unselectable, "{name}: \\Noselect is {unselectable}: {attributes:?}");
            // RFC 3348 §3.
            check!(
                attributes.contains("\\haschildren") == children,
                "{name}: children {children}: {attributes:?}"
            );
            check!(
                attributes.contains("\\hasnochildren") != children,
                "{name}: children {children}: {attributes:?}"
            );
        }
        Ok(())
    }

    pub(super) fn status(&mut self, at: usize, name: &str, modseq: bool) -> Played {
        let items = if modseq { " HIGHESTMODSEQ" } else { "" };
        let command = format!("STATUS {name} (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE{items})");
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, modseq);
        let target = self.account.mailboxes.get(&canonical(name)).cloned();
        let Some(mailbox) = target else {
            refused(&answer, &vec!["NONEXISTENT"])?;
            return self.absorb(at, &answer, true).map(drop);
        };
        if !mailbox.selectable {
            refused(&answer, &vec!["CANNOT"])?;
            return self.absorb(at, &answer, true).map(drop);
        }
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, true)?;
        check!(gathered.status.len() == 1, "{} STATUS responses", gathered.status.len());
        let (given, values) = &gathered.status[0];
        check!(canonical(given) == canonical(name), "STATUS of {given}");
        let unseen =
            mailbox.messages.values().filter(|message| !message.flags.contains("\\seen")).count() as u32;
        let size: usize =
            mailbox.messages.values().map(|message| CONTENTS[message.content].octets().len()).sum();
        let recent = mailbox.messages.range(mailbox.recent_from..).count() as u32;
        let said = (
            values.messages,
            values.uid_next,
            values.uid_validity,
            values.unseen,
            values.size,
            values.recent,
        );
        let count = mailbox.messages.len() as u32;
        let expected = (
            Some(count),
            Some(mailbox.uid_next),
            Some(mailbox.validity),
            Some(unseen),
            Some(size as u64),
            values.recent,
        );
        let unsure = mailbox.unsure.len() as u32;
        let counted = values.recent.is_some_and(|given| given.abs_diff(recent) <= unsure);
        check!(counted, "RECENT {:?}, not {recent}", values.recent);
        check!(said == expected, "STATUS {said:?}, not {expected:?}");
        check!(values.highest_modseq.is_some() == modseq, "HIGHESTMODSEQ: {:?}", values.highest_modseq);
        if let Some(highest) = values.highest_modseq.map(|highest| highest.get()) {
            let session = &mut self.sessions[at];
            match &session.selected {
                Some(selected) if selected.key == mailbox.key => {
                    session.told_highest(&self.account, highest)?
                }
                _ => check!(highest == mailbox.highest, "HIGHESTMODSEQ {highest}, not {}", mailbox.highest),
            }
        }
        Ok(())
    }

    pub(super) fn select(
        &mut self,
        at: usize,
        name: &str,
        read_only: bool,
        condstore: bool,
        resync: Option<Known>,
    ) -> Played {
        let name_now = canonical(name);
        let session = &mut self.sessions[at];
        let had = session.selected.is_some();
        session.leave(&self.account);
        let kept = session.kept.get(&name_now).cloned();
        let resync = resync.filter(|_| session.qresync).zip(kept);
        let known: Option<BTreeSet<u32>> = resync.as_ref().and_then(|(known, kept)| match known {
            Known::Nothing => None,
            Known::All => Some((1..=kept.cache.keys().last().copied().unwrap_or(1)).collect()),
            Known::Listed => Some(kept.cache.keys().copied().collect()),
            Known::Half => Some(kept.cache.keys().copied().step_by(2).collect()),
        });
        let known = known.filter(|known| !known.is_empty());
        let parameters = match &resync {
            Some((_, kept)) => {
                let listed = known.iter().map(|known| {
                    format!(" {}", known.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
                });
                let listed: String = listed.collect();
                format!(" (QRESYNC ({} {}{listed}))", kept.validity, kept.modseq)
            }
            None if condstore => " (CONDSTORE)".to_owned(),
            None => String::new(),
        };
        session.condstore |= condstore || resync.is_some();
        let command = if read_only { "EXAMINE" } else { "SELECT" };
        let answer = session.wire.command(format!("{command} {name}{parameters}").as_bytes())?;
        let codes = match self.account.mailboxes.get(&name_now) {
            None => vec!["NONEXISTENT"],
            Some(mailbox) if !mailbox.selectable => vec!["CANNOT"],
            Some(_) => Vec::new(),
        };
        if !codes.is_empty() {
            refused(&answer, &codes)?;
            return self.absorb(at, &answer, false).map(drop);
        }
        ok(&answer)?;
        let mailbox = self.account.mailboxes.get_mut(&name_now).expect("looked up above");
        let mut selected = Selected::new(mailbox, read_only);
        if !read_only {
            mailbox.recent_from = mailbox.uid_next;
        }
        let resync = resync.filter(|(_, kept)| kept.validity == mailbox.validity).map(|(_, kept)| kept);
        let asked = |uid: u32| known.as_ref().is_none_or(|known| known.contains(&uid));
        if let Some(kept) = &resync {
            // RFC 7162 §3.2.5.2: of other UIDs than those that are given nothing is told.
            selected.cache.retain(|uid, _| !asked(*uid));
            selected.cache.extend(
                kept.cache.iter().filter(|(uid, _)| asked(**uid)).map(|(uid, known)| (*uid, known.clone())),
            );
        }
        let (highest, validity, next, key) =
            (mailbox.highest, mailbox.validity, mailbox.uid_next, mailbox.key);
        let unseen = mailbox.messages.values().position(|message| !message.flags.contains("\\seen"));
        self.sessions[at].selected = Some(selected);
        check!(!answer.bye, "BYE");
        let gathered = self.sessions[at].absorb(&answer, &mut self.account, false)?;
        if let (Some(gone), Some(known)) = (&gathered.vanished_earlier, &known) {
            check!(gone.is_subset(known), "VANISHED {gone:?}, which are not all known");
        }
        check!(
            gathered.vanished_earlier.is_none() || resync.is_some(),
            "VANISHED (EARLIER) was not asked for"
        );
        self.sessions[at].agrees(&self.account, asked)?;
        let told: u64 =
            gathered.code("HIGHESTMODSEQ").and_then(|told| told.parse().ok()).ok_or("no HIGHESTMODSEQ")?;
        check!(told == highest, "HIGHESTMODSEQ {told}, not {highest}");
        self.sessions[at].selected.as_mut().expect("set above").told = told;
        check!(gathered.exists.is_some() && gathered.recent.is_some(), "no EXISTS or no RECENT");
        let code = |name: &str| gathered.code(name).and_then(|number| number.parse::<u32>().ok());
        check!(code("UIDVALIDITY") == Some(validity), "UIDVALIDITY is {validity}");
        check!(code("UIDNEXT") == Some(next), "UIDNEXT is {next}");
        check!(code("UNSEEN") == unseen.map(|at| at as u32 + 1), "the first unseen is {unseen:?}");
        check!(answer.code() == if read_only { "READ-ONLY" } else { "READ-WRITE" }, "[{}]", answer.code());
        check!(!self.sessions[at].qresync || gathered.code("CLOSED").is_some() == had, "CLOSED, had {had}");
        let permanent = gathered.code("PERMANENTFLAGS").ok_or("no PERMANENTFLAGS")?;
        check!(read_only == (permanent == "()"), "PERMANENTFLAGS {permanent}");
        self.observe(Some(key))
    }

    pub(super) fn close(&mut self, at: usize, expunges: bool) -> Played {
        let command = if expunges { "CLOSE" } else { "UNSELECT" };
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        ok(&answer)?;
        let (_, selected, mailbox) = self.session(at);
        let (key, read_only, deleted) = (selected.key, selected.read_only, mailbox.deleted());
        if expunges && !read_only {
            self.account.by_key_mut(key).expect("play sees to it").expunge(deleted);
        }
        self.observe(Some(key))?;
        self.sessions[at].leave(&self.account);
        // RFC 3501 §6.4.2: no untagged EXPUNGE; nothing else is about a mailbox any more either.
        check!(answer.untagged.is_empty(), "{command} tells of the mailbox");
        Ok(())
    }
}

fn canonical_pattern(pattern: &str) -> String {
    match pattern.get(..5) {
        Some(first) if first.eq_ignore_ascii_case("INBOX") => format!("INBOX{}", &pattern[5..]),
        _ => pattern.to_owned(),
    }
}
