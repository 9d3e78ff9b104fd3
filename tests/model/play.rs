//! Plays commands on the server and on the model, one at a time, and compares what each says.
//!
//! # Invariants
//! Before the answer to a command is looked at, the model has its effects, and [`World::observe`] has compared the
//! mailboxes concerned with the server's through a connection of its own, and has learned their MODSEQs.
//! A session's commands, UID commands too, are about the messages that it was told of; EXPUNGE and CLOSE are about all.

mod beside;
mod mailboxes;
mod messages;
mod search;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use culver_proto::imap::Status;
use culver_proto::imap::client::{FetchValue, Response};

use crate::account::{Account, Flags, Mailbox, Refused, canonical};
use crate::op::{ABOVE, Act, DEPTHS, ENTRIES, End, FLAGS, Key, Known, NAMES, Op, PATTERNS, Pick, VALUES};
use crate::server;
use crate::session::{Gathered, Selected, Session, check};
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
                metadata: false,
                untold: BTreeSet::new(),
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
        (session.condstore, session.qresync, session.metadata) = (false, false, false);
        session.untold.clear();
        if session.resyncs {
            ok(&session.wire.command(b"ENABLE QRESYNC METADATA")?)?;
            (session.condstore, session.qresync, session.metadata) = (true, true, true);
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
                | Act::Sort { .. }
                | Act::Thread { .. }
        );
        if needs_mailbox && self.sessions[at].selected.is_none() {
            return self.select(at, "INBOX", false, false, Some(Known::Nothing));
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
            Act::Annotate(name, entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(at, value)| (ENTRIES[*at], value.map(|value| VALUES[value])))
                    .collect();
                self.annotate(at, name.map(|name| NAMES[name]), &entries)
            }
            Act::Annotations(name, above, depth) => {
                self.annotations(at, name.map(|name| NAMES[name]), ABOVE[*above], DEPTHS[*depth])
            }
            Act::Quota => self.quota(Some(at)),
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
            Act::Sort { uid, key, criteria } => self.sort(at, *uid, key, criteria),
            Act::Thread { uid, key } => self.thread(at, *uid, key),
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

    /// How many lines from the server had this in them.
    pub fn met(&self, what: &str) -> usize {
        self.trace.borrow().iter().filter(|line| line.contains(" S: ") && line.contains(what)).count()
    }

    /// On a server that was started anew: nothing that was answered with OK is lost or looks another way.
    pub fn look_again(&mut self, address: SocketAddr) -> Played {
        self.trace.borrow_mut().clear();
        self.address = address;
        self.observer = login(address, "observer", self.user, &self.trace)?;
        let answer = self.observer.command(b"LIST \"\" *")?;
        let mut names = BTreeSet::new();
        for octets in &answer.untagged {
            if let Response::List(data) = response(octets)? {
                names.insert(String::from_utf8_lossy(&data.name).into_owned());
            }
        }
        check!(
            names.iter().eq(self.account.mailboxes.keys()),
            "{names:?}, not {:?}",
            self.account.mailboxes.keys()
        );
        let keys: Vec<u32> = self.account.mailboxes.values().map(|mailbox| mailbox.key).collect();
        keys.into_iter().try_for_each(|key| self.observe(Some(key)))?;
        self.observe_beside()
    }

    /// At the end of a run: every session is brought up to date, and every mailbox is looked at once more.
    pub fn finish(&mut self) -> Played {
        for at in 0..self.sessions.len() {
            self.play(&Op { session: at, act: Act::Noop })?;
        }
        let keys: Vec<u32> = self.account.mailboxes.values().map(|mailbox| mailbox.key).collect();
        keys.into_iter().try_for_each(|key| self.observe(Some(key)))?;
        self.observe_beside()
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
        Act::Search { key, .. } | Act::Sort { key, .. } | Act::Thread { key, .. }
            if search::mentions_modseq(key) =>
        {
            *key = Key::All;
        }
        _ => return None,
    }
    Some(act)
}
