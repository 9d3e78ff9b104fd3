//! What a worker knows of its account, and the comparison with what the server shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::connection::escape;
use crate::support::imap::{Imap, quoted};
use crate::support::random::Random;
use crate::support::server::{Ports, password, user};
use crate::support::{Fallible, temp};
use crate::{ensure, fail};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unknown after a delivery by LMTP, until the account is read.
    pub uid: Option<u32>,
    /// The number in its Subject; a copy has the same.
    pub id: u64,
    pub flags: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    pub uid_validity: Option<u32>,
    /// The highest UID ever seen here, and the highest MODSEQ.
    pub uid_highest: u32,
    pub modseq_highest: u64,
    pub messages: Vec<Message>,
}

pub type Mailboxes = BTreeMap<String, Mailbox>;

/// A change that one command makes. UIDs name messages whose UID is known.
#[derive(Clone, Debug)]
pub enum Operation {
    Append { mailbox: String, id: u64, flags: BTreeSet<String> },
    Deliver { id: u64 },
    Store { mailbox: String, uids: Vec<u32>, how: char, flags: BTreeSet<String> },
    Expunge { mailbox: String, uids: Vec<u32> },
    Copy { from: String, to: String, uids: Vec<u32> },
    Move { from: String, to: String, uids: Vec<u32> },
    Create { mailbox: String },
    Delete { mailbox: String },
    Rename { from: String, to: String },
}

#[derive(Clone)]
pub struct Ledger {
    pub account: usize,
    pub mailboxes: Mailboxes,
    /// The UIDVALIDITYs that each name has had.
    uid_validities: BTreeMap<String, u32>,
}

/// What the server shows of an account.
pub struct State {
    mailboxes: BTreeMap<String, Shown>,
}

struct Shown {
    uid_validity: u32,
    uid_next: u32,
    highest_modseq: u64,
    messages: Vec<Message>,
}

/// The text of a message, from its number alone. Some are larger than what a journal keeps inline.
pub fn body(id: u64) -> String {
    let mut random = Random::new(id ^ 0x00b0_d1e5);
    let lines = match random.below(100) {
        0 => 20_000,
        1..=4 => 5_000,
        _ => 1 + random.below(40),
    };
    let mut body = String::new();
    for n in 0..lines {
        body.push_str(&format!("line {n} of message {id}: {:016x} .\r\n", random.next()));
        if random.chance(50) {
            body.push_str(".\r\n..dots\r\n\r\n");
        }
    }
    body
}

pub fn message(id: u64) -> Vec<u8> {
    format!(
        "From: sender@example.net\r\nTo: you@example.test\r\nSubject: number {id} end\r\n\
         Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{id}@example.net>\r\n\r\n{}",
        body(id)
    )
    .into_bytes()
}

impl Ledger {
    pub fn new(account: usize) -> Ledger {
        let mut mailboxes = Mailboxes::new();
        mailboxes.insert("INBOX".into(), Mailbox::default());
        Ledger { account, mailboxes, uid_validities: BTreeMap::new() }
    }

    /// Whether a message of this number is known, wherever it is.
    pub fn holds(&self, id: u64) -> bool {
        self.mailboxes.values().flat_map(|mailbox| &mailbox.messages).any(|message| message.id == id)
    }

    pub fn add_delivered(&mut self, id: u64) {
        let inbox = self.mailboxes.get_mut("INBOX").expect("INBOX is never removed");
        inbox.messages.push(Message { uid: None, id, flags: BTreeSet::new() });
    }

    pub fn saw_modseq(&mut self, mailbox: &str, modseq: u64) {
        if let Some(mailbox) = self.mailboxes.get_mut(mailbox) {
            mailbox.modseq_highest = mailbox.modseq_highest.max(modseq);
        }
    }

    /// Applies an acknowledged command; `uids` are the new ones that the answer told.
    pub fn apply(&mut self, operation: &Operation, uids: &[u32]) {
        let all = vec![true; operation.messages()];
        apply(&mut self.mailboxes, operation, &all, uids);
    }

    /// Takes the server's state as the new truth if it is what the ledger, with the command that was in
    /// flight done or not, allows. `perhaps`: deliveries of which nobody knows whether they happened.
    pub fn compare(&mut self, state: &State, in_flight: Option<&Operation>, perhaps: &[u64]) -> Fallible {
        let mut candidates = vec![self.mailboxes.clone()];
        if let Some(operation) = in_flight {
            let messages = operation.messages();
            if operation.each_for_itself() {
                for subset in 1u32..1 << messages {
                    let chosen: Vec<bool> = (0..messages).map(|n| subset & (1 << n) != 0).collect();
                    let mut after = self.mailboxes.clone();
                    apply(&mut after, operation, &chosen, &[]);
                    candidates.push(after);
                }
            } else {
                let mut after = self.mailboxes.clone();
                apply(&mut after, operation, &vec![true; messages], &[]);
                candidates.push(after);
            }
        }
        let mut differences = Vec::new();
        for candidate in candidates {
            match self.adopt(candidate, state, perhaps) {
                Ok(mailboxes) => {
                    for (name, mailbox) in &mailboxes {
                        let known = self.uid_validities.entry(name.clone()).or_default();
                        *known = (*known).max(mailbox.uid_validity.unwrap_or(0));
                    }
                    self.mailboxes = mailboxes;
                    return Ok(());
                }
                Err(e) => differences.push(e.to_string()),
            }
        }
        fail!(
            "the account is in no state that was acknowledged or under way:\n{}",
            differences.join("\n--- or ---\n")
        )
    }

    /// The candidate with everything filled in that the server shows, or the first difference.
    fn adopt(&self, candidate: Mailboxes, state: &State, perhaps: &[u64]) -> Fallible<Mailboxes> {
        let names: Vec<_> = candidate.keys().collect();
        let shown: Vec<_> = state.mailboxes.keys().collect();
        ensure!(names == shown, "mailboxes: expected {names:?}, the server shows {shown:?}");
        let mut adopted = Mailboxes::new();
        for (name, expected) in candidate {
            let shown = &state.mailboxes[&name];
            let mut mailbox = settle(&name, &expected, shown, if name == "INBOX" { perhaps } else { &[] })?;
            match expected.uid_validity {
                Some(known) => ensure!(
                    shown.uid_validity == known,
                    "{name}: UIDVALIDITY was {known}, is {}",
                    shown.uid_validity
                ),
                // A mailbox made anew under an old name.
                None => {
                    let old = self.uid_validities.get(&name).copied().unwrap_or(0);
                    let new = shown.uid_validity;
                    ensure!(
                        new > old || new == old && name == "INBOX",
                        "{name}: UIDVALIDITY {new} after {old}"
                    );
                }
            }
            mailbox.uid_validity = Some(shown.uid_validity);
            ensure!(
                shown.uid_next > expected.uid_highest,
                "{name}: UIDNEXT {} although UID {} has been given",
                shown.uid_next,
                expected.uid_highest
            );
            ensure!(
                shown.highest_modseq >= expected.modseq_highest,
                "{name}: HIGHESTMODSEQ went back from {} to {}",
                expected.modseq_highest,
                shown.highest_modseq
            );
            mailbox.uid_highest = shown.uid_next - 1;
            mailbox.modseq_highest = shown.highest_modseq;
            adopted.insert(name, mailbox);
        }
        Ok(adopted)
    }
}

/// Matches the messages of one mailbox: those with known UIDs by UID, the rest by number and flags.
fn settle(name: &str, expected: &Mailbox, shown: &Shown, perhaps: &[u64]) -> Fallible<Mailbox> {
    let mut left: Vec<&Message> = shown.messages.iter().collect();
    let mut perhaps = perhaps.to_vec();
    let mut mailbox = Mailbox::default();
    let (known, unknown): (Vec<_>, Vec<_>) = expected.messages.iter().partition(|m| m.uid.is_some());
    for message in known {
        match left.iter().position(|m| *m == message) {
            Some(at) => mailbox.messages.push(left.swap_remove(at).clone()),
            None => {
                let instead: Vec<_> =
                    shown.messages.iter().filter(|m| m.uid == message.uid || m.id == message.id).collect();
                fail!("{name}: lost {message:?}; near it: {instead:?}")
            }
        }
    }
    for message in unknown {
        let new = |m: &&Message| {
            m.id == message.id
                && m.flags == message.flags
                && m.uid.is_some_and(|uid| uid > expected.uid_highest)
        };
        let at = left.iter().position(new);
        // A UID given between two reads is above all that were seen before; the ones told meanwhile raise the mark.
        let at = at.or_else(|| left.iter().position(|m| m.id == message.id && m.flags == message.flags));
        match at {
            Some(at) => mailbox.messages.push(left.swap_remove(at).clone()),
            None => fail!("{name}: lost {message:?}"),
        }
    }
    for message in left {
        match perhaps.iter().position(|&id| id == message.id) {
            Some(at) if message.flags.is_empty() => {
                perhaps.swap_remove(at);
                mailbox.messages.push(message.clone());
            }
            _ => fail!("{name}: not expected, or once too often: {message:?}"),
        }
    }
    mailbox.messages.sort_by_key(|m| m.uid);
    Ok(mailbox)
}

impl Operation {
    /// How many messages it names.
    fn messages(&self) -> usize {
        match self {
            Operation::Store { uids, .. }
            | Operation::Expunge { uids, .. }
            | Operation::Copy { uids, .. }
            | Operation::Move { uids, .. } => uids.len(),
            _ => 0,
        }
    }

    /// Whether it may be done for some of its messages only (COPY may not: RFC 3501 §6.4.7).
    fn each_for_itself(&self) -> bool {
        matches!(self, Operation::Store { .. } | Operation::Expunge { .. } | Operation::Move { .. })
    }
}

/// Does the operation for the chosen ones of its messages.
fn apply(mailboxes: &mut Mailboxes, operation: &Operation, chosen: &[bool], new_uids: &[u32]) {
    let picked = |uids: &[u32]| -> Vec<u32> {
        uids.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(uid, _)| *uid).collect()
    };
    match operation {
        Operation::Append { mailbox, id, flags } => {
            let message = Message { uid: new_uids.first().copied(), id: *id, flags: flags.clone() };
            add(mailboxes, mailbox, message);
        }
        Operation::Deliver { id } => {
            add(mailboxes, "INBOX", Message { uid: None, id: *id, flags: BTreeSet::new() })
        }
        Operation::Store { mailbox, uids, how, flags } => {
            let uids = picked(uids);
            let Some(mailbox) = mailboxes.get_mut(mailbox) else { return };
            for message in
                mailbox.messages.iter_mut().filter(|m| m.uid.is_some_and(|uid| uids.contains(&uid)))
            {
                match how {
                    '+' => message.flags.extend(flags.iter().cloned()),
                    '-' => message.flags.retain(|flag| !flags.contains(flag)),
                    _ => message.flags = flags.clone(),
                }
            }
        }
        Operation::Expunge { mailbox, uids } => {
            take(mailboxes, mailbox, &picked(uids), true);
        }
        Operation::Copy { from, to, uids } | Operation::Move { from, to, uids } => {
            let moved = matches!(operation, Operation::Move { .. });
            let taken = take(mailboxes, from, &picked(uids), moved);
            for (n, mut message) in taken.into_iter().enumerate() {
                message.uid = new_uids.get(n).copied();
                add(mailboxes, to, message);
            }
        }
        Operation::Create { mailbox } => {
            mailboxes.insert(mailbox.clone(), Mailbox::default());
        }
        Operation::Delete { mailbox } => {
            mailboxes.remove(mailbox);
        }
        Operation::Rename { from, to } => {
            let below = format!("{from}/");
            let names: Vec<String> =
                mailboxes.keys().filter(|name| *name == from || name.starts_with(&below)).cloned().collect();
            for name in names {
                if let Some(mailbox) = mailboxes.remove(&name) {
                    mailboxes.insert(format!("{to}{}", &name[from.len()..]), mailbox);
                }
            }
        }
    }
}

fn add(mailboxes: &mut Mailboxes, name: &str, message: Message) {
    if let Some(mailbox) = mailboxes.get_mut(name) {
        mailbox.uid_highest = mailbox.uid_highest.max(message.uid.unwrap_or(0));
        mailbox.messages.push(message);
    }
}

/// The messages with these UIDs, in ascending order of UID; with `remove`, they go.
fn take(mailboxes: &mut Mailboxes, name: &str, uids: &[u32], remove: bool) -> Vec<Message> {
    let Some(mailbox) = mailboxes.get_mut(name) else { return Vec::new() };
    let wanted = |m: &Message| m.uid.is_some_and(|uid| uids.contains(&uid));
    let mut taken: Vec<Message> = mailbox.messages.iter().filter(|m| wanted(m)).cloned().collect();
    taken.sort_by_key(|m| m.uid);
    if remove {
        mailbox.messages.retain(|m| !wanted(m));
    }
    taken
}

/// Reads a whole account: every mailbox, every message, its flags and its text.
pub fn read(ports: &Ports, account: usize) -> Fallible<State> {
    let mut imap = Imap::login(ports.imap, &user(account), &password(account))?;
    let mut mailboxes = BTreeMap::new();
    for line in imap.must("LIST \"\" *")?.lines() {
        if line.contains("\\Noselect") || line.contains("\\NoSelect") || line.contains("\\NonExistent") {
            continue;
        }
        let name = line.rsplit("\"/\" ").next().ok_or("LIST")?.trim_matches('"').to_owned();
        mailboxes.insert(name.clone(), read_mailbox(&mut imap, &name).map_err(|e| format!("{name}: {e}"))?);
    }
    Ok(State { mailboxes })
}

fn read_mailbox(imap: &mut Imap, name: &str) -> Fallible<Shown> {
    let selected = imap.must(&format!("EXAMINE {} (CONDSTORE)", quoted(name)))?;
    let number = |code: &str| -> Fallible<u64> {
        Ok(selected.untagged_code(code).ok_or_else(|| format!("no {code}"))?.parse()?)
    };
    let mut shown = Shown {
        uid_validity: number("UIDVALIDITY")? as u32,
        uid_next: number("UIDNEXT")? as u32,
        highest_modseq: number("HIGHESTMODSEQ")?,
        messages: Vec::new(),
    };
    let answer = imap.must("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODY.PEEK[TEXT])")?;
    for unit in &answer.untagged {
        let text = unit.text();
        if !text.contains(" FETCH (") {
            continue;
        }
        let (Some(header), Some(body_shown)) = (unit.literal(0), unit.literal(1)) else {
            fail!("a FETCH without its two literals: {}", unit.shown());
        };
        let header = String::from_utf8_lossy(header).into_owned();
        let id: u64 = between(&header, "number ", " end").ok_or("no number in the Subject")?.parse()?;
        let expected = body(id);
        if body_shown != expected.as_bytes() {
            let dir = temp::TempDir::new("differing-text")?;
            let mut dir = dir;
            dir.keep();
            std::fs::write(dir.path().join("shown"), body_shown)?;
            std::fs::write(dir.path().join("expected"), &expected)?;
            fail!(
                "message {id}: the text differs ({} octets, expected {}), begins {}; kept: {}",
                body_shown.len(),
                expected.len(),
                escape(&body_shown[..body_shown.len().min(60)]),
                dir.path().display()
            );
        }
        // Outside of the literals, so that no text of a message is taken for data.
        let mut plain = String::new();
        let mut at = 0;
        for range in &unit.literals {
            plain.push_str(&String::from_utf8_lossy(&unit.bytes[at..range.start]));
            at = range.end;
        }
        plain.push_str(&String::from_utf8_lossy(&unit.bytes[at..]));
        let uid = between(&plain, "UID ", "").and_then(leading_number).ok_or("no UID")?;
        let flags = between(&plain, "FLAGS (", ")").ok_or("no FLAGS")?;
        let flags =
            flags.split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned).collect();
        shown.messages.push(Message { uid: Some(uid as u32), id, flags });
    }
    let mut uids: Vec<_> = shown.messages.iter().map(|m| m.uid).collect();
    uids.dedup();
    ensure!(uids.len() == shown.messages.len(), "a UID twice");
    ensure!(uids.is_sorted(), "UIDs are not ascending");
    Ok(shown)
}

pub fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let start = text.find(open)? + open.len();
    let rest = &text[start..];
    if close.is_empty() { Some(rest) } else { Some(&rest[..rest.find(close)?]) }
}

pub fn leading_number(text: &str) -> Option<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..end].parse().ok()
}

/// The test of the comparison itself: every kind of loss is found, and what may be is let through.
pub fn self_test() -> Fallible {
    let message = |uid: u32, id: u64, flags: &[&str]| Message {
        uid: Some(uid),
        id,
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
    };
    let good = || {
        let messages = vec![message(1, 10, &["\\Seen"]), message(2, 11, &[]), message(4, 12, &["work"])];
        let shown = Shown { uid_validity: 7, uid_next: 5, highest_modseq: 9, messages };
        State { mailboxes: BTreeMap::from([("INBOX".to_owned(), shown)]) }
    };
    let mut ledger = Ledger::new(0);
    let empty = Shown { uid_validity: 7, uid_next: 1, highest_modseq: 1, messages: Vec::new() };
    let empty = State { mailboxes: BTreeMap::from([("INBOX".to_owned(), empty)]) };
    ledger.compare(&empty, None, &[])?;
    ledger.compare(&good(), None, &[]).err().ok_or("messages from nowhere were let through")?;
    ledger.compare(&good(), None, &[10, 11, 12]).err().ok_or("a delivery with flags was let through")?;
    let append = |uid, id, flags: &[&str]| {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        (Operation::Append { mailbox: "INBOX".into(), id, flags }, vec![uid])
    };
    for (operation, uids) in [append(1, 10, &["\\Seen"]), append(2, 11, &[]), append(4, 12, &["work"])] {
        ledger.apply(&operation, &uids);
    }
    ledger.compare(&good(), None, &[])?;
    type Fault = fn(&mut Shown);
    let faults: [(&str, Fault); 8] = [
        ("a lost message", |shown| drop(shown.messages.remove(1))),
        ("a message twice", |shown| {
            let mut twice = shown.messages[1].clone();
            twice.uid = Some(5);
            shown.uid_next = 6;
            shown.messages.push(twice);
        }),
        ("another UID", |shown| shown.messages[2].uid = Some(3)),
        ("a lost flag", |shown| shown.messages[0].flags.clear()),
        ("a flag from nowhere", |shown| shown.messages[1].flags.extend(["\\Deleted".into()])),
        ("UIDVALIDITY", |shown| shown.uid_validity = 8),
        ("UIDNEXT went back", |shown| shown.uid_next = 4),
        ("HIGHESTMODSEQ went back", |shown| shown.highest_modseq = 8),
    ];
    for (name, fault) in faults {
        let mut state = good();
        fault(state.mailboxes.get_mut("INBOX").expect("it is there"));
        ensure!(ledger.clone().compare(&state, None, &[]).is_err(), "not found: {name}");
    }
    let mut state = good();
    state.mailboxes.clear();
    ensure!(ledger.clone().compare(&state, None, &[]).is_err(), "not found: a lost mailbox");
    // In flight: done for none, some or all of its messages, and in no other way.
    let store = Operation::Store {
        mailbox: "INBOX".into(),
        uids: vec![2, 4],
        how: '+',
        flags: BTreeSet::from(["\\Flagged".to_owned()]),
    };
    for flagged in [vec![], vec![1], vec![2], vec![1, 2]] {
        let mut state = good();
        let shown = state.mailboxes.get_mut("INBOX").expect("it is there");
        for n in flagged {
            let message: &mut Message = &mut shown.messages[n];
            message.flags.insert("\\Flagged".into());
        }
        ledger.clone().compare(&state, Some(&store), &[])?;
    }
    let mut state = good();
    let shown = state.mailboxes.get_mut("INBOX").expect("it is there");
    shown.messages[0].flags.insert("\\Flagged".into());
    ensure!(ledger.compare(&state, Some(&store), &[]).is_err(), "not found: a flag on the wrong message");
    Ok(())
}
