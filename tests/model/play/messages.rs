//! The commands on messages: APPEND, STORE, EXPUNGE, COPY, MOVE, FETCH.

use std::collections::BTreeSet;

use culver_proto::imap::Status;

use super::{Played, World, listed, names, ok, refused, set};
use crate::account::{CONTENTS, DATES, How, canonical};
use crate::op::{Act, Pick};
use crate::session::{belief, check};

impl World {
    pub(super) fn append(
        &mut self,
        at: usize,
        name: &str,
        flags: &[usize],
        date: usize,
        content: usize,
    ) -> Played {
        let octets = CONTENTS[content].octets();
        let (text, flags) = names(flags);
        let command = format!("APPEND {name} ({text}) \"{}\" {{{}+}}\r\n", DATES[date].1, octets.len());
        let answer = self.sessions[at].wire.command(&[command.as_bytes(), &octets].concat())?;
        let target = self.account.mailboxes.get_mut(&canonical(name));
        let key = match target {
            None => {
                refused(&answer, &vec!["TRYCREATE"])?;
                None
            }
            Some(mailbox) if !mailbox.selectable => {
                refused(&answer, &vec!["CANNOT"])?;
                None
            }
            Some(mailbox) => {
                ok(&answer)?;
                let uid = mailbox.add(content, date, flags);
                let expected = format!("{} {uid}", mailbox.validity);
                let (code, given) = answer.code.clone().unwrap_or_default();
                check!(
                    code == "APPENDUID" && given == expected,
                    "[{code} {given}], not [APPENDUID {expected}]"
                );
                Some(mailbox.key)
            }
        };
        self.observe(key)?;
        self.absorb(at, &answer, true).map(drop)
    }

    pub(super) fn store(&mut self, at: usize, act: &Act) -> Played {
        let Act::Store { uid, set, how, silent, flags, unchanged_since } = act else { return Ok(()) };
        let (uid, text, named) = self.named(at, *uid, set);
        let (flag_names, flags) = names(flags);
        let limit = unchanged_since.map(|raw| self.modseq(at, raw));
        let condition = limit.map_or(String::new(), |limit| format!(" (UNCHANGEDSINCE {limit})"));
        let sign = match how {
            How::Replace => "",
            How::Add => "+",
            How::Remove => "-",
        };
        let command = format!(
            "{}STORE {text}{condition} {sign}FLAGS{} ({flag_names})",
            if uid { "UID " } else { "" },
            if *silent { ".SILENT" } else { "" },
        );
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, limit.is_some());
        let session = &mut self.sessions[at];
        let selected = session.selected.as_mut().expect("play sees to it");
        let key = selected.key;
        if selected.read_only {
            refused(&answer, &vec!["CANNOT"])?;
            self.observe(Some(key))?;
            return self.absorb(at, &answer, uid).map(drop);
        }
        let mailbox = self.account.by_key_mut(key).expect("play sees to it");
        let (mut stored, mut modified, mut gone) = (Vec::new(), Vec::new(), 0);
        for uid in named {
            let Some(message) = mailbox.messages.get_mut(&uid) else {
                gone += 1;
                continue;
            };
            // RFC 7162 §3.1.3: each message by itself.
            if limit.is_some_and(|limit| message.modseq.is_some_and(|modseq| modseq > limit)) {
                modified.push(uid);
                continue;
            }
            stored.push(uid);
            let after = how.apply(&message.flags, &flags);
            // RFC 7162 §3.1.11: what changes nothing is no change.
            if after != message.flags {
                message.flags = after;
                message.modseq = None;
            }
            if *silent && let Some(belief) = selected.cache.get_mut(&uid) {
                belief.flags = how.apply(&belief.flags, &flags);
            }
        }
        let shown: Vec<u32> = match uid {
            true => modified.clone(),
            false => modified.iter().filter_map(|uid| selected.sequence_of(*uid)).collect(),
        };
        self.observe(Some(key))?;
        let gathered = self.absorb(at, &answer, uid)?;
        if !modified.is_empty() {
            check!(
                answer.code() == "MODIFIED" && answer.status != Status::Bad,
                "[{}], not MODIFIED",
                answer.code()
            );
            let given = answer.code.as_ref().and_then(|(_, arguments)| listed(arguments));
            check!(given.as_ref() == Some(&shown), "MODIFIED {given:?}, not {shown:?}");
        } else if gone > 0 {
            let issued = answer.status == Status::No && answer.code() == "EXPUNGEISSUED";
            check!(issued || (uid && answer.status == Status::Ok), "{:?} [{}]", answer.status, answer.code());
        } else {
            ok(&answer)?;
        }
        let (condstore, must) = (self.sessions[at].condstore, !silent || limit.is_some());
        for uid in stored.iter().filter(|_| must) {
            // RFC 7162 §3.1.3: a conditional STORE tells the MODSEQ even with .SILENT.
            let told = gathered
                .rows
                .iter()
                .any(|row| row.uid == *uid && (*silent || row.flags) && (!condstore || row.modseq));
            check!(told, "STORE tells nothing of UID {uid}");
        }
        Ok(())
    }

    pub(super) fn expunge(&mut self, at: usize, pick: Option<&Pick>) -> Played {
        let (command, named) = match pick {
            None => ("EXPUNGE".to_owned(), None),
            Some(pick) => {
                let (_, text, named) = self.named(at, true, pick);
                (format!("UID EXPUNGE {text}"), Some(named))
            }
        };
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let (_, selected, mailbox) = self.session(at);
        let (key, read_only) = (selected.key, selected.read_only);
        if read_only {
            refused(&answer, &vec!["CANNOT"])?;
        } else {
            ok(&answer)?;
            let mut deleted = mailbox.deleted();
            if let Some(named) = named {
                deleted.retain(|uid| named.contains(uid));
            }
            self.account.by_key_mut(key).expect("play sees to it").expunge(deleted);
        }
        self.observe(Some(key))?;
        self.absorb(at, &answer, true)?;
        let (session, selected, mailbox) = self.session(at);
        if !read_only {
            let left = selected.view.iter().find(|uid| !mailbox.messages.contains_key(uid));
            check!(left.is_none(), "EXPUNGE did not tell that UID {left:?} is gone");
            // RFC 7162 §3.2.7.
            check!(
                !session.qresync || answer.code() == "HIGHESTMODSEQ",
                "no HIGHESTMODSEQ: [{}]",
                answer.code()
            );
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, at: usize, uid: bool, pick: &Pick, name: &str, remove: bool) -> Played {
        let (uid, text, named) = self.named(at, uid, pick);
        let command = if remove { "MOVE" } else { "COPY" };
        let command = format!("{}{command} {text} {name}", if uid { "UID " } else { "" });
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let (_, selected, mailbox) = self.session(at);
        let (from_key, read_only) = (selected.key, selected.read_only);
        let there: Vec<u32> =
            named.iter().copied().filter(|uid| mailbox.messages.contains_key(uid)).collect();
        let messages: Vec<_> = there.iter().map(|uid| mailbox.messages[uid].clone()).collect();
        let mut faults = Vec::new();
        match self.account.mailboxes.get(&canonical(name)) {
            None => faults.push("TRYCREATE"),
            Some(mailbox) if !mailbox.selectable => faults.push("CANNOT"),
            _ => {}
        }
        if remove && read_only {
            faults.push("CANNOT");
        }
        // RFC 3501 §6.4.7: by sequence numbers all or nothing; §6.4.8: a UID that is gone is no error.
        let lacking = if uid { there.is_empty() && !named.is_empty() } else { there.len() < named.len() };
        if faults.is_empty() && lacking {
            faults.push("EXPUNGEISSUED");
        }
        if !faults.is_empty() {
            refused(&answer, &faults)?;
            self.observe(Some(from_key))?;
            return self.absorb(at, &answer, true).map(drop);
        }
        ok(&answer)?;
        let target = self.account.mailboxes.get_mut(&canonical(name)).expect("looked up above");
        let (validity, to_key) = (target.validity, target.key);
        let given: Vec<u32> = messages
            .into_iter()
            .map(|message| target.add(message.content, message.date, message.flags))
            .collect();
        if remove {
            self.account.by_key_mut(from_key).expect("play sees to it").expunge(there.iter().copied());
        }
        self.observe(Some(from_key))?;
        self.observe(Some(to_key))?;
        let gathered = self.absorb(at, &answer, true)?;
        let tagged = answer
            .code
            .as_ref()
            .filter(|(name, _)| name == "COPYUID")
            .map(|(_, arguments)| arguments.as_str());
        let code = gathered.code("COPYUID").or(tagged);
        if there.is_empty() {
            check!(code.is_none(), "COPYUID where nothing was copied");
            return Ok(());
        }
        let mut words = code.ok_or("no COPYUID")?.split(' ');
        let said =
            (words.next().map(str::to_owned), words.next().and_then(listed), words.next().and_then(listed));
        let expected = (Some(validity.to_string()), Some(there.clone()), Some(given.clone()));
        check!(said == expected, "COPYUID {said:?}, not {expected:?}");
        if remove {
            // RFC 6851 §4.3: else a client cannot tell what went where.
            check!(
                !gathered.expunged_before_copyuid && tagged.is_none(),
                "MOVE told the expunge before COPYUID"
            );
            let (session, selected, _) = self.session(at);
            let left = there.iter().find(|uid| selected.in_view(**uid));
            check!(left.is_none(), "MOVE did not tell that UID {left:?} is gone");
            check!(
                !session.qresync || answer.code() == "HIGHESTMODSEQ",
                "no HIGHESTMODSEQ: [{}]",
                answer.code()
            );
        }
        Ok(())
    }

    pub(super) fn fetch(&mut self, at: usize, act: &Act) -> Played {
        let Act::Fetch { uid, set: pick, items, changed_since, vanished } = act else { return Ok(()) };
        let (uid, text, mut named) = self.named(at, *uid, pick);
        let all = ["FLAGS", "UID", "MODSEQ", "RFC822.SIZE", "INTERNALDATE"];
        let bits = if items & 31 == 0 { 1 } else { items & 31 };
        let words: Vec<&str> =
            all.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, word)| *word).collect();
        let limit = changed_since.map(|raw| self.modseq(at, raw).max(1));
        let (session, selected, mailbox) = self.session(at);
        let vanished = *vanished && uid && session.qresync && limit.is_some();
        let modifiers = limit.map_or(String::new(), |limit| {
            format!(" (CHANGEDSINCE {limit}{})", if vanished { " VANISHED" } else { "" })
        });
        let must_vanish: BTreeSet<u32> = match limit.filter(|_| vanished) {
            Some(limit) => {
                // RFC 7162 §3.2.6: `*` goes beyond what is in view.
                let whole = set(pick, mailbox.uid_next + 1, u32::MAX);
                let after =
                    mailbox.gone.iter().filter(|gone| gone.after >= limit && !selected.in_view(gone.uid));
                after
                    .map(|gone| gone.uid)
                    .filter(|uid| whole.numbers.contains(*uid, &BTreeSet::new()))
                    .collect()
            }
            None => BTreeSet::new(),
        };
        let gone = named.iter().filter(|uid| !mailbox.messages.contains_key(uid)).count();
        named.retain(|uid| {
            mailbox.messages.get(uid).is_some_and(|message| {
                limit.is_none_or(|limit| message.modseq.is_some_and(|modseq| modseq > limit))
            })
        });
        let command =
            format!("{}FETCH {text} ({}){modifiers}", if uid { "UID " } else { "" }, words.join(" "));
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, bits & 4 != 0 || limit.is_some());
        let gathered = self.absorb(at, &answer, uid)?;
        if gone > 0 {
            let issued = answer.status == Status::No && answer.code() == "EXPUNGEISSUED";
            let fine = (uid || limit.is_some()) && answer.status == Status::Ok;
            check!(issued || fine, "{:?} [{}], and some are gone", answer.status, answer.code());
        } else {
            ok(&answer)?;
        }
        for uid_wanted in named {
            let told = gathered.rows.iter().any(|row| {
                row.uid == uid_wanted
                    && (bits & 1 == 0 || row.flags)
                    && (!(uid || bits & 2 != 0) || row.uid_given)
                    && (bits & 4 == 0 || row.modseq)
                    && (bits & 8 == 0 || row.size)
                    && (bits & 16 == 0 || row.date)
            });
            check!(told, "no FETCH of UID {uid_wanted} with all that was asked for");
        }
        let vanished_uids = gathered.vanished_earlier.clone().unwrap_or_default();
        check!(vanished || vanished_uids.is_empty(), "VANISHED (EARLIER) was not asked for");
        check!(must_vanish.is_subset(&vanished_uids), "VANISHED {vanished_uids:?}, not {must_vanish:?}");
        Ok(())
    }

    pub(super) fn body(
        &mut self,
        at: usize,
        uid: bool,
        pick: &Pick,
        peek: bool,
        partial: Option<(u32, u32)>,
    ) -> Played {
        let (uid, text, named) = self.named(at, uid, pick);
        let item = if peek { "BODY.PEEK[]" } else { "BODY[]" };
        let range = partial.map_or(String::new(), |(origin, octets)| format!("<{origin}.{octets}>"));
        let command = format!("{}FETCH {text} {item}{range}", if uid { "UID " } else { "" });
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        let (_, selected, mailbox) = self.session(at);
        let (key, read_only) = (selected.key, selected.read_only);
        let gone = named.iter().any(|uid| !mailbox.messages.contains_key(uid));
        let mailbox = self.account.by_key_mut(key).expect("play sees to it");
        if !peek && !read_only {
            let selected = self.sessions[at].selected.as_mut().expect("play sees to it");
            for uid in &named {
                if !mailbox.messages.contains_key(uid) {
                    continue;
                }
                selected.before.insert(*uid, belief(mailbox, *uid));
                if let Some(message) = mailbox.messages.get_mut(uid)
                    && message.flags.insert("\\seen".into())
                {
                    message.modseq = None;
                }
            }
        }
        self.observe(Some(key))?;
        let gathered = self.absorb(at, &answer, uid)?;
        self.sessions[at].selected.as_mut().expect("play sees to it").before.clear();
        if gone {
            let issued = answer.status == Status::No && answer.code() == "EXPUNGEISSUED";
            check!(issued || (uid && answer.status == Status::Ok), "{:?} [{}]", answer.status, answer.code());
        } else {
            ok(&answer)?;
        }
        for uid_wanted in named {
            let (_, _, mailbox) = self.session(at);
            let Some(message) = mailbox.messages.get(&uid_wanted) else { continue };
            let whole = CONTENTS[message.content].octets();
            let expected = match partial {
                None => (None, whole),
                Some((origin, octets)) => {
                    let from = (origin as usize).min(whole.len());
                    let to = (from + octets as usize).min(whole.len());
                    (Some(origin), whole[from..to].to_vec())
                }
            };
            let told =
                gathered.rows.iter().any(|row| row.uid == uid_wanted && row.sections.contains(&expected));
            check!(told, "no octets of UID {uid_wanted}, or others");
        }
        Ok(())
    }
}
