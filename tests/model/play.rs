//! Plays commands on the server and on the model, one at a time, and compares what each says.
//!
//! # Invariants
//! Before the answer to a command is looked at, the model has its effects, and [`World::observe`] has compared the
//! mailboxes concerned with the server's through a connection of its own, and has learned their MODSEQs.
//! A session's commands, UID commands too, are about the messages that it was told of; EXPUNGE and CLOSE are about all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use culver_proto::imap::Status;
use culver_proto::imap::client::{FetchValue, Response};

use crate::account::{Account, CONTENTS, DATES, Flags, Mailbox, Refused, canonical};
use crate::op::{Act, End, FLAGS, Key, Known, NAMES, Op, PATTERNS, Pick, Returns, SEARCH_DATES, WORDS};
use crate::server;
use crate::session::{Found, Gathered, Selected, Session, belief, check};
use crate::wire::{Answer, Trace, Wire, response};

pub struct World {
    address: SocketAddr,
    user: usize,
    pub trace: Trace,
    account: Account,
    sessions: Vec<Session>,
    observer: Wire,
}

type Played = Result<(), String>;

/// A set as written, and the numbers that it stands for.
struct Set {
    text: String,
    numbers: Numbers,
}

enum Numbers {
    Saved,
    Ranges(Vec<(u32, u32)>),
}

impl Numbers {
    fn contains(&self, number: u32, saved: &BTreeSet<u32>) -> bool {
        match self {
            Numbers::Saved => saved.contains(&number),
            Numbers::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)),
        }
    }
}

/// `bound`: the greatest number written; `star`: what `*` stands for.
fn set(pick: &Pick, bound: u32, star: u32) -> Set {
    let Pick::Ranges(ranges) = pick else { return Set { text: "$".into(), numbers: Numbers::Saved } };
    let value = |end: &End| match end {
        End::Star => star,
        End::Number(raw) => 1 + u32::from(*raw) % bound.max(1),
    };
    let word = |end: &End| match end {
        End::Star => "*".to_owned(),
        End::Number(_) => value(end).to_string(),
    };
    let text = ranges.iter().map(|(first, last)| {
        let (first, last) = (word(first), word(last));
        if first == last { first } else { format!("{first}:{last}") }
    });
    let text = text.collect::<Vec<_>>().join(",");
    let numbers = ranges.iter().map(|(first, last)| (value(first), value(last)));
    let numbers = numbers.map(|(first, last)| (first.min(last), first.max(last))).collect();
    Set { text, numbers: Numbers::Ranges(numbers) }
}

fn names(flags: &[usize]) -> (String, Flags) {
    let names: Vec<&str> = flags.iter().map(|flag| FLAGS[*flag]).collect();
    (names.join(" "), names.iter().map(|name| (*name).to_owned()).collect())
}

fn listed(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        numbers.extend(first.min(last)..=first.max(last));
    }
    Some(numbers)
}

fn login(address: SocketAddr, name: &str, user: usize, trace: &Trace) -> Result<Wire, String> {
    let mut wire = Wire::open(address, name, trace)?;
    let command = format!("LOGIN {} {}", server::user(user), server::password(user));
    match wire.command(command.as_bytes())?.status {
        Status::Ok => Ok(wire),
        other => Err(format!("LOGIN: {other:?}")),
    }
}

/// The answer that a refused command must get.
fn refused(answer: &Answer, codes: &Refused) -> Played {
    check!(answer.status == Status::No, "{:?}, not NO {codes:?}", answer.status);
    check!(codes.contains(&answer.code()), "NO [{}], not one of {codes:?}", answer.code());
    Ok(())
}

fn ok(answer: &Answer) -> Played {
    check!(answer.status == Status::Ok, "{:?} [{}], not OK", answer.status, answer.code());
    Ok(())
}

impl World {
    pub fn new(address: SocketAddr, user: usize, kinds: &[usize]) -> Result<World, String> {
        let trace: Trace = Rc::new(RefCell::new(Vec::new()));
        let observer = login(address, "observer", user, &trace)?;
        let mut world =
            World { address, user, trace, account: Account::new(), sessions: Vec::new(), observer };
        for kind in kinds {
            let wire = login(address, "", user, &world.trace)?;
            world.sessions.push(Session {
                wire,
                plain: *kind == 0,
                resyncs: *kind == 2,
                condstore: false,
                qresync: false,
                selected: None,
                saved: BTreeSet::new(),
                kept: BTreeMap::new(),
            });
        }
        for at in 0..world.sessions.len() {
            world.reconnect(at, false)?;
        }
        world.observe(None)?;
        Ok(world)
    }

    fn reconnect(&mut self, at: usize, logout: bool) -> Played {
        let session = &mut self.sessions[at];
        if logout {
            let answer = session.wire.command(b"LOGOUT")?;
            check!(answer.bye && answer.status == Status::Ok, "LOGOUT without BYE and OK");
            check!(session.wire.ended()?, "the connection goes on after LOGOUT");
        }
        session.leave(&self.account);
        session.wire = login(self.address, &format!("{at}"), self.user, &self.trace)?;
        (session.condstore, session.qresync) = (false, false);
        if session.resyncs {
            ok(&session.wire.command(b"ENABLE QRESYNC")?)?;
            (session.condstore, session.qresync) = (true, true);
        }
        Ok(())
    }

    /// Compares every mailbox that the model says has changed with the server's, and `also` whatever it says.
    fn observe(&mut self, also: Option<u32>) -> Played {
        let looked_at: Vec<String> = self
            .account
            .mailboxes
            .iter()
            .filter(|(_, mailbox)| mailbox.selectable && (mailbox.is_changed() || also == Some(mailbox.key)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in looked_at {
            self.observe_one(&name).map_err(|why| format!("{name} is not as it should be: {why}"))?;
        }
        Ok(())
    }

    fn observe_one(&mut self, name: &str) -> Played {
        let answer = self.observer.command(format!("EXAMINE {name} (CONDSTORE)").as_bytes())?;
        ok(&answer)?;
        let (mut exists, mut numbers) = (0, BTreeMap::new());
        for octets in &answer.untagged {
            match response(octets)? {
                Response::Exists(count) => exists = count,
                Response::Status { code: Some(code), .. } => {
                    code.number().map(|number| numbers.insert(code.name.to_ascii_uppercase(), number));
                }
                _ => {}
            }
        }
        let number = |name: &str| numbers.get(name).copied().ok_or_else(|| format!("no {name}"));
        self.account.learn_validity(name, number("UIDVALIDITY")? as u32)?;
        let mailbox = self.account.mailboxes.get_mut(name).expect("the caller lists it");
        let next = u64::from(mailbox.uid_next);
        check!(number("UIDNEXT")? == next, "UIDNEXT is {}, not {next}", number("UIDNEXT")?);
        check!(
            exists as usize == mailbox.messages.len(),
            "{exists} messages, not {}",
            mailbox.messages.len()
        );
        let mut modseqs = BTreeMap::new();
        if exists > 0 {
            let answer = self.observer.command(b"UID FETCH 1:* (FLAGS MODSEQ)")?;
            ok(&answer)?;
            for octets in &answer.untagged {
                let Response::Fetch { values, .. } = response(octets)? else { continue };
                let (mut uid, mut modseq, mut flags) = (0, 0, Flags::new());
                for value in values {
                    match value {
                        FetchValue::Uid(given) => uid = given,
                        FetchValue::ModSeq(given) => modseq = given.get(),
                        FetchValue::Flags(names) => {
                            flags = names.iter().map(|name| name.to_ascii_lowercase()).collect()
                        }
                        _ => {}
                    }
                }
                flags.remove("\\recent");
                let Some(message) = mailbox.messages.get(&uid) else {
                    return Err(format!("UID {uid} is there"));
                };
                check!(flags == message.flags, "UID {uid} has {flags:?}, not {:?}", message.flags);
                modseqs.insert(uid, modseq);
            }
        }
        // Or it would end with the mailbox.
        ok(&self.observer.command(b"UNSELECT")?)?;
        check!(modseqs.len() == mailbox.messages.len(), "only {:?} are there", modseqs.keys());
        mailbox.learn(number("HIGHESTMODSEQ")?, &modseqs)
    }

    pub fn play(&mut self, op: &Op) -> Played {
        let at = op.session;
        let drops = matches!(op.act, Act::Reconnect { logout: false });
        if let Some(selected) = &self.sessions[at].selected
            && self.account.by_key(selected.key).is_none_or(|mailbox| !mailbox.selectable)
            && !drops
        {
            // The mailbox was deleted by another session: this one ends with its next command, whatever that is.
            let answer = self.sessions[at].wire.command(b"NOOP")?;
            check!(answer.bye || self.sessions[at].wire.ended()?, "the selected mailbox is gone, and no BYE");
            return self.reconnect(at, false);
        }
        if self.sessions[at].plain
            && let Some(act) = without_modseq(&op.act)
        {
            return self.play_act(at, &act);
        }
        self.play_act(at, &op.act)
    }

    fn play_act(&mut self, at: usize, act: &Act) -> Played {
        let needs_mailbox = matches!(
            act,
            Act::Store { .. }
                | Act::Expunge
                | Act::UidExpunge(_)
                | Act::Copy { .. }
                | Act::Unselect
                | Act::Close
                | Act::Check
                | Act::Fetch { .. }
                | Act::Body { .. }
                | Act::Search { .. }
        );
        if needs_mailbox && self.sessions[at].selected.is_none() {
            return self.select(at, "INBOX", false, false, None);
        }
        match act {
            Act::Append { to, flags, date, content } => self.append(at, NAMES[*to], flags, *date, *content),
            Act::Store { .. } => self.store(at, act),
            Act::Expunge => self.expunge(at, None),
            Act::UidExpunge(pick) => self.expunge(at, Some(pick)),
            Act::Copy { uid, set, to, remove } => self.copy(at, *uid, set, NAMES[*to], *remove),
            Act::Create(name, slash) => {
                let name = canonical(NAMES[*name]);
                let written = if *slash { format!("{name}/") } else { name.clone() };
                self.change_list(at, &format!("CREATE {written}"), |account| account.create(&name))
            }
            Act::Delete(name) => self.delete(at, NAMES[*name]),
            Act::Rename(from, to) => {
                let (from, to) = (NAMES[*from], NAMES[*to]);
                let (old, new) = (canonical(from), canonical(to));
                self.change_list(at, &format!("RENAME {from} {to}"), |account| account.rename(&old, &new))
            }
            Act::Subscribe(name, on) => {
                let command = if *on { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
                let subscribed = canonical(NAMES[*name]);
                self.change_list(at, &format!("{command} {}", NAMES[*name]), |account| {
                    if *on {
                        account.subscriptions.insert(subscribed)
                    } else {
                        account.subscriptions.remove(&subscribed)
                    };
                    Ok(())
                })
            }
            Act::List(pattern) => self.list(at, PATTERNS[*pattern], false),
            Act::Lsub(pattern) => self.list(at, PATTERNS[*pattern], true),
            Act::Status(name, modseq) => self.status(at, NAMES[*name], *modseq),
            Act::Select { name, read_only, condstore, resync } => {
                self.select(at, NAMES[*name], *read_only, *condstore, *resync)
            }
            Act::Unselect | Act::Close => self.close(at, matches!(act, Act::Close)),
            Act::Noop | Act::Check => {
                let command = if matches!(act, Act::Noop) { "NOOP" } else { "CHECK" };
                let answer = self.sessions[at].wire.command(command.as_bytes())?;
                ok(&answer)?;
                self.absorb(at, &answer, true)?;
                self.sessions[at].converged(&self.account)
            }
            Act::Fetch { .. } => self.fetch(at, act),
            Act::Body { uid, set, peek, partial } => self.body(at, *uid, set, *peek, *partial),
            Act::Search { uid, key, returns } => self.search(at, *uid, key, *returns),
            Act::Reconnect { logout } => self.reconnect(at, *logout),
            Act::Followed(act) => {
                self.sessions[at].wire.followed = true;
                self.play_act(at, act)?;
                // A command that was not sent after all has left it standing.
                self.sessions[at].wire.followed = false;
                let Some(second) = self.sessions[at].wire.second.take() else { return Ok(()) };
                ok(&second)?;
                self.absorb(at, &second, true)?;
                self.sessions[at].converged(&self.account)
            }
            Act::Idle(op) => self.idle(at, op),
        }
    }

    /// RFC 2177: what another session does is told without a command.
    fn idle(&mut self, at: usize, op: &Op) -> Played {
        let begun = self.sessions[at].wire.idle()?;
        check!(begun.status == Status::PreAuth, "IDLE: {:?}", begun.status);
        self.absorb(at, &begun, true)?;
        self.sessions[at].converged(&self.account)?;
        let selected = self.sessions[at].selected.as_ref().map(|selected| selected.key);
        let raced = |account: &mut Account, raced: bool| {
            if let Some(mailbox) = selected.and_then(|key| account.by_key_mut(key)) {
                mailbox.raced = raced;
            }
        };
        raced(&mut self.account, true);
        self.play(op)?;
        raced(&mut self.account, false);
        let answer = self.sessions[at].wire.end_idle(begun.tag)?;
        if selected.is_some_and(|key| self.account.by_key(key).is_none_or(|mailbox| !mailbox.selectable)) {
            check!(answer.bye || self.sessions[at].wire.ended()?, "the selected mailbox is gone, and no BYE");
            return self.reconnect(at, false);
        }
        ok(&answer)?;
        self.absorb(at, &answer, true)?;
        self.sessions[at].converged(&self.account)
    }

    fn session(&self, at: usize) -> (&Session, &Selected, &Mailbox) {
        let session = &self.sessions[at];
        let selected = session.selected.as_ref().expect("play sees to it");
        let mailbox = self.account.by_key(selected.key).expect("play sees to it");
        (session, selected, mailbox)
    }

    /// What came, and what it says of HIGHESTMODSEQ.
    fn absorb(&mut self, at: usize, answer: &Answer, expunges: bool) -> Result<Gathered, String> {
        check!(!answer.bye, "BYE");
        let session = &mut self.sessions[at];
        // A client that has sent a command knows the numbers of messages as they were when it sent it.
        let expunges = expunges && session.wire.second.is_none();
        let gathered = session.absorb(answer, &mut self.account, expunges)?;
        let told = gathered.codes_of("HIGHESTMODSEQ").chain(
            answer
                .code
                .iter()
                .filter(|(name, _)| name == "HIGHESTMODSEQ")
                .map(|(_, arguments)| arguments.as_str()),
        );
        for told in told {
            session
                .told_highest(&self.account, told.parse().map_err(|_| format!("HIGHESTMODSEQ {told}"))?)?;
        }
        Ok(gathered)
    }

    /// The set of a command: as written, and the UIDs in view that it names.
    fn named(&self, at: usize, uid: bool, pick: &Pick) -> (bool, String, Vec<u32>) {
        let (session, selected, mailbox) = self.session(at);
        let count = selected.view.len() as u32;
        // A sequence number is an error in an empty mailbox; a UID is not.
        let uid = uid || count == 0;
        let set = match uid {
            true => set(pick, mailbox.uid_next + 1, selected.view.last().copied().unwrap_or(0)),
            false => set(pick, count, count),
        };
        let saved = matches!(set.numbers, Numbers::Saved);
        let named = selected.view.iter().zip(1..).filter(|(given, sequence)| {
            let number = if uid || saved { **given } else { *sequence };
            set.numbers.contains(number, &session.saved)
        });
        let named = named.map(|(given, _)| *given).collect();
        (uid, set.text, named)
    }

    /// A mod-sequence that such a client may well send.
    fn modseq(&self, at: usize, raw: u16) -> u64 {
        let (_, selected, mailbox) = self.session(at);
        let mut values = vec![0, 1, selected.told, mailbox.highest, mailbox.highest + 3];
        values.extend(mailbox.messages.values().filter_map(|message| message.modseq));
        values.extend(selected.cache.values().filter_map(|belief| belief.modseq));
        values[usize::from(raw) % values.len()]
    }

    fn append(&mut self, at: usize, name: &str, flags: &[usize], date: usize, content: usize) -> Played {
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

    fn store(&mut self, at: usize, act: &Act) -> Played {
        let Act::Store { uid, set, how, silent, flags, unchanged_since } = act else { return Ok(()) };
        let (uid, text, named) = self.named(at, *uid, set);
        let (flag_names, flags) = names(flags);
        let limit = unchanged_since.map(|raw| self.modseq(at, raw));
        let condition = limit.map_or(String::new(), |limit| format!(" (UNCHANGEDSINCE {limit})"));
        let sign = match how {
            crate::account::How::Replace => "",
            crate::account::How::Add => "+",
            crate::account::How::Remove => "-",
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

    fn expunge(&mut self, at: usize, pick: Option<&Pick>) -> Played {
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

    fn copy(&mut self, at: usize, uid: bool, pick: &Pick, name: &str, remove: bool) -> Played {
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
        if faults.is_empty() && there.is_empty() && !named.is_empty() {
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

    fn change_list(
        &mut self,
        at: usize,
        command: &str,
        change: impl FnOnce(&mut Account) -> Result<(), Refused>,
    ) -> Played {
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        match change(&mut self.account) {
            Ok(()) => ok(&answer)?,
            Err(codes) => refused(&answer, &codes)?,
        }
        self.observe(None)?;
        self.absorb(at, &answer, true).map(drop)
    }

    fn delete(&mut self, at: usize, name: &str) -> Played {
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

    fn list(&mut self, at: usize, (reference, pattern): (&str, &str), lsub: bool) -> Played {
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

    fn status(&mut self, at: usize, name: &str, modseq: bool) -> Played {
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
            Some(recent),
        );
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

    fn select(
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

    fn close(&mut self, at: usize, expunges: bool) -> Played {
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

    fn fetch(&mut self, at: usize, act: &Act) -> Played {
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

    fn body(&mut self, at: usize, uid: bool, pick: &Pick, peek: bool, partial: Option<(u32, u32)>) -> Played {
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

    fn search(&mut self, at: usize, uid: bool, key: &Key, returns: Option<Returns>) -> Played {
        let (text, modseq) = (self.key_text(at, key), mentions_modseq(key));
        let options = returns.map_or(String::new(), |returns| {
            let words = [
                (returns.min, "MIN"),
                (returns.max, "MAX"),
                (returns.all, "ALL"),
                (returns.count, "COUNT"),
                (returns.save, "SAVE"),
            ];
            let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            format!("RETURN ({}) ", words.join(" "))
        });
        let command = format!("{}SEARCH {options}{text}", if uid { "UID " } else { "" });
        let (_, selected, mailbox) = self.session(at);
        let view = selected.view.iter().copied().filter(|uid| mailbox.messages.contains_key(uid));
        let found: Vec<u32> = view.filter(|uid| self.matches(at, key, *uid)).collect();
        let number =
            |given: u32| if uid { given } else { selected.sequence_of(given).expect("found in view") };
        let numbers: BTreeSet<u32> = found.iter().map(|given| number(*given)).collect();
        let modseq_of = |given: &u32| mailbox.messages[given].modseq;
        let (first, last) = (found.first(), found.last());
        let highest = found.iter().filter_map(modseq_of).max();
        let answer_modseq = |returns: Option<Returns>| match returns {
            // RFC 4731 §3.2: of the messages that are returned.
            Some(Returns { min, max, all: false, count: false, .. }) if min || max => {
                first.filter(|_| min).into_iter().chain(last.filter(|_| max)).filter_map(modseq_of).max()
            }
            _ => highest,
        };
        let expected_modseq = if modseq { answer_modseq(returns) } else { None };
        let (min, max) = (first.map(|given| number(*given)), last.map(|given| number(*given)));
        let ends: BTreeSet<u32> = match returns {
            Some(returns) => first
                .filter(|_| returns.min)
                .into_iter()
                .chain(last.filter(|_| returns.max))
                .copied()
                .collect(),
            None => BTreeSet::new(),
        };
        let answer = self.sessions[at].wire.command(command.as_bytes())?;
        self.sessions[at].enable_condstore(&self.account, modseq);
        ok(&answer)?;
        let gathered = self.absorb(at, &answer, uid)?;
        let Some(mut returns) = returns else {
            check!(
                gathered.search == Some((numbers.clone(), expected_modseq)),
                "{:?}, not {numbers:?}",
                gathered.search
            );
            return Ok(());
        };
        // RFC 4731 §3.1: none is ALL; RFC 5182 §2.1: SAVE alone returns nothing.
        if !(returns.min || returns.max || returns.all || returns.count || returns.save) {
            returns.all = true;
        }
        if returns.save {
            // RFC 5182 §2.4.
            let ends_only = (returns.min || returns.max) && !returns.all && !returns.count;
            self.sessions[at].saved = if ends_only { ends } else { found.iter().copied().collect() };
        }
        if !(returns.min || returns.max || returns.all || returns.count) {
            check!(gathered.esearch.is_none() && gathered.search.is_none(), "SAVE alone is answered");
            return Ok(());
        }
        let expected = Found {
            tag: Some(answer.tag.clone()),
            uid,
            min: min.filter(|_| returns.min),
            max: max.filter(|_| returns.max),
            count: returns.count.then_some(found.len() as u64),
            all: Some(numbers).filter(|numbers| returns.all && !numbers.is_empty()),
            modseq: expected_modseq,
        };
        check!(gathered.esearch.as_ref() == Some(&expected), "{:?}, not {expected:?}", gathered.esearch);
        Ok(())
    }

    fn key_set(&self, at: usize, uid: bool, pick: &Pick) -> Option<Set> {
        let (_, selected, mailbox) = self.session(at);
        let count = selected.view.len() as u32;
        if count == 0 {
            return None;
        }
        Some(match uid {
            true => set(pick, mailbox.uid_next + 1, selected.view.last().copied().unwrap_or(0)),
            false => set(pick, count, count),
        })
    }

    /// Whether it is not determined which messages are \Recent here.
    fn is_unsure(&self, at: usize) -> bool {
        let (_, selected, mailbox) = self.session(at);
        selected.view.iter().any(|uid| mailbox.unsure.contains(uid))
    }

    fn key_text(&self, at: usize, key: &Key) -> String {
        match key {
            Key::All => "ALL".into(),
            Key::Flag(flag, on) => match (FLAGS[*flag].strip_prefix('\\'), on) {
                (Some(name), true) => name.to_ascii_uppercase(),
                (Some(name), false) => format!("UN{}", name.to_ascii_uppercase()),
                (None, true) => format!("KEYWORD {}", FLAGS[*flag]),
                (None, false) => format!("UNKEYWORD {}", FLAGS[*flag]),
            },
            Key::Recent | Key::New | Key::Old if self.is_unsure(at) => "ALL".into(),
            Key::Recent => "RECENT".into(),
            Key::New => "NEW".into(),
            Key::Old => "OLD".into(),
            Key::Sequence(pick) => self.key_set(at, false, pick).map_or("ALL".into(), |set| set.text),
            Key::Uid(pick) => self.key_set(at, true, pick).map_or("ALL".into(), |set| match set.numbers {
                Numbers::Saved => set.text,
                Numbers::Ranges(_) => format!("UID {}", set.text),
            }),
            Key::Before(date) => format!("BEFORE {}", SEARCH_DATES[*date].1),
            Key::On(date) => format!("ON {}", SEARCH_DATES[*date].1),
            Key::Since(date) => format!("SINCE {}", SEARCH_DATES[*date].1),
            Key::SentBefore(date) => format!("SENTBEFORE {}", SEARCH_DATES[*date].1),
            Key::SentOn(date) => format!("SENTON {}", SEARCH_DATES[*date].1),
            Key::SentSince(date) => format!("SENTSINCE {}", SEARCH_DATES[*date].1),
            Key::Larger(octets) => format!("LARGER {octets}"),
            Key::Smaller(octets) => format!("SMALLER {octets}"),
            Key::Subject(word) => format!("SUBJECT {}", WORDS[*word]),
            Key::From(word) => format!("FROM \"{}\"", WORDS[*word]),
            Key::Body(word) => format!("BODY {}", WORDS[*word]),
            Key::Text(word) => format!("TEXT {}", WORDS[*word]),
            Key::Tagged => "HEADER X-Tag \"\"".into(),
            Key::ModSeq(raw) => format!("MODSEQ {}", self.modseq(at, *raw)),
            Key::Not(key) => format!("NOT {}", self.key_text(at, key)),
            Key::Or(left, right) => format!("OR {} {}", self.key_text(at, left), self.key_text(at, right)),
            Key::And(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| self.key_text(at, key)).collect();
                format!("({})", keys.join(" "))
            }
        }
    }

    fn matches(&self, at: usize, key: &Key, uid: u32) -> bool {
        let (session, selected, mailbox) = self.session(at);
        let message = &mailbox.messages[&uid];
        let content = &CONTENTS[message.content];
        let has = |text: &str, word: &usize| text.contains(&WORDS[*word].to_ascii_lowercase());
        let (date, sent) = (DATES[message.date].0, content.sent.0);
        let recent = selected.recent.contains(&uid);
        let within = |by_uid: bool, pick: &Pick| match self.key_set(at, by_uid, pick) {
            None => true,
            Some(set) => {
                let saved = matches!(set.numbers, Numbers::Saved);
                let number =
                    if by_uid || saved { uid } else { selected.sequence_of(uid).expect("it is in view") };
                set.numbers.contains(number, &session.saved)
            }
        };
        match key {
            Key::All => true,
            Key::Flag(flag, on) => message.flags.contains(FLAGS[*flag]) == *on,
            Key::Recent | Key::New | Key::Old if self.is_unsure(at) => true,
            Key::Recent => recent,
            Key::New => recent && !message.flags.contains("\\seen"),
            Key::Old => !recent,
            Key::Sequence(pick) => within(false, pick),
            Key::Uid(pick) => within(true, pick),
            Key::Before(day) => date < SEARCH_DATES[*day].0,
            Key::On(day) => date == SEARCH_DATES[*day].0,
            Key::Since(day) => date >= SEARCH_DATES[*day].0,
            Key::SentBefore(day) => sent < SEARCH_DATES[*day].0,
            Key::SentOn(day) => sent == SEARCH_DATES[*day].0,
            Key::SentSince(day) => sent >= SEARCH_DATES[*day].0,
            Key::Larger(octets) => content.octets().len() > *octets as usize,
            Key::Smaller(octets) => content.octets().len() < *octets as usize,
            Key::Subject(word) => has(content.subject, word),
            Key::From(word) => has(content.from, word),
            Key::Body(word) => has(content.body, word),
            Key::Text(word) => {
                has(content.subject, word) || has(content.from, word) || has(content.body, word)
            }
            Key::Tagged => content.tagged,
            Key::ModSeq(raw) => message.modseq.is_some_and(|modseq| modseq >= self.modseq(at, *raw)),
            Key::Not(key) => !self.matches(at, key, uid),
            Key::Or(left, right) => self.matches(at, left, uid) || self.matches(at, right, uid),
            Key::And(keys) => keys.iter().all(|key| self.matches(at, key, uid)),
        }
    }

    /// At the end of a run: every session is brought up to date, and every mailbox is looked at once more.
    pub fn finish(&mut self) -> Played {
        for at in 0..self.sessions.len() {
            self.play(&Op { session: at, act: Act::Noop })?;
        }
        let keys: Vec<u32> = self.account.mailboxes.values().map(|mailbox| mailbox.key).collect();
        keys.into_iter().try_for_each(|key| self.observe(Some(key)))
    }
}

fn canonical_pattern(pattern: &str) -> String {
    match pattern.get(..5) {
        Some(first) if first.eq_ignore_ascii_case("INBOX") => format!("INBOX{}", &pattern[5..]),
        _ => pattern.to_owned(),
    }
}

fn mentions_modseq(key: &Key) -> bool {
    match key {
        Key::ModSeq(_) => true,
        Key::Not(key) => mentions_modseq(key),
        Key::Or(left, right) => mentions_modseq(left) || mentions_modseq(right),
        Key::And(keys) => keys.iter().any(mentions_modseq),
        _ => false,
    }
}

/// The command without what would enable CONDSTORE; `None` where it has nothing of the kind.
fn without_modseq(act: &Act) -> Option<Act> {
    let mut act = act.clone();
    match &mut act {
        Act::Followed(inner) => **inner = without_modseq(inner)?,
        Act::Store { unchanged_since, .. } => *unchanged_since = None,
        Act::Status(_, modseq) => *modseq = false,
        Act::Select { condstore, .. } => *condstore = false,
        Act::Fetch { items, changed_since, .. } => {
            *items &= !4;
            *changed_since = None;
        }
        Act::Search { key, .. } if mentions_modseq(key) => *key = Key::All,
        _ => return None,
    }
    Some(act)
}
