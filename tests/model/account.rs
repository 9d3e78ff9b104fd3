//! The model: what an account is, in maps and vectors, written from the RFCs alone.
//!
//! # Invariants
//! UIDs are given without gaps. A MODSEQ is `None` from a change until [`Mailbox::learn`] was told what the server
//! gave it; it must then be above everything that the mailbox had before.

use std::collections::{BTreeMap, BTreeSet};

pub type Flags = BTreeSet<String>;
/// Annotations of one mailbox or of the server.
pub type Notes = BTreeMap<&'static str, &'static str>;

/// A message that is appended: parts whose words are unlike each other, so that it is plain what a search must find.
pub struct Content {
    pub from: &'static str,
    pub subject: &'static str,
    pub body: &'static str,
    /// Of the Date field, as `yyyymmdd` and as written.
    pub sent: (u32, &'static str),
    pub tagged: bool,
}

pub const CONTENTS: [Content; 6] = [
    Content {
        from: "anna",
        subject: "apple",
        body: "river",
        sent: (20240105, "Fri, 5 Jan 2024 23:30:00 -0500"),
        tagged: false,
    },
    Content {
        from: "boris",
        subject: "pear",
        body: "stone river",
        sent: (20240106, "Sat, 6 Jan 2024 00:10:00 +0900"),
        tagged: true,
    },
    Content {
        from: "anna",
        subject: "plum apple",
        body: "cloud",
        sent: (20231231, "Sun, 31 Dec 2023 23:59:59 +0000"),
        tagged: false,
    },
    Content {
        from: "clara",
        subject: "pear plum",
        body: "stone",
        sent: (20240301, "Fri, 1 Mar 2024 12:00:00 +0100"),
        tagged: true,
    },
    Content {
        from: "boris",
        subject: "apple",
        body: "cloud river stone",
        sent: (20240229, "Thu, 29 Feb 2024 12:00:00 +0100"),
        tagged: false,
    },
    Content {
        from: "clara",
        subject: "fig",
        body: "",
        sent: (20240105, "Fri, 5 Jan 2024 01:00:00 +0000"),
        tagged: false,
    },
];

impl Content {
    pub fn octets(&self) -> Vec<u8> {
        let tag = if self.tagged { "X-Tag: yes\r\n" } else { "" };
        let body = if self.body.is_empty() { String::new() } else { format!("{}\r\n", self.body) };
        let Content { from, subject, sent, .. } = self;
        format!("Date: {}\r\nFrom: <{from}@example.test>\r\nSubject: {subject}\r\n{tag}\r\n{body}", sent.1)
            .into_bytes()
    }
}

/// Of each content its place by sent date in UTC, by sender, by subject.
pub const CONTENT_ORDERS: [[u32; 3]; 6] = [[3, 0, 0], [2, 1, 2], [0, 0, 4], [5, 2, 3], [4, 1, 0], [1, 2, 1]];
/// Of each of [`DATES`] its place in UTC.
pub const DATE_ORDER: [u32; 4] = [1, 2, 0, 3];

/// INTERNALDATEs, as `yyyymmdd` in their own zone (RFC 3501 §6.4.4: SINCE and BEFORE ignore the zone) and as written.
pub const DATES: [(u32, &str); 4] = [
    (20240105, "05-Jan-2024 23:30:00 +0200"),
    (20240106, "06-Jan-2024 00:10:00 -0800"),
    (20240101, " 1-Jan-2024 00:00:00 +0000"),
    (20240229, "29-Feb-2024 12:00:00 +0100"),
];

#[derive(Clone, Debug)]
pub struct Message {
    pub content: usize,
    pub date: usize,
    /// In lower case.
    pub flags: Flags,
    pub modseq: Option<u64>,
}

/// A message that is gone. Its expunge has a MODSEQ above `after` and not above `by`.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub uid: u32,
    pub after: u64,
    pub by: u64,
}

#[derive(Clone, Debug)]
pub struct Mailbox {
    /// Tells it from any other that had or will have its name.
    pub key: u32,
    pub selectable: bool,
    /// 0: not yet known.
    pub validity: u32,
    pub uid_next: u32,
    pub messages: BTreeMap<u32, Message>,
    pub highest: u64,
    pub gone: Vec<Gone>,
    going: Vec<u32>,
    /// The first UID that no session has had as \Recent.
    pub recent_from: u32,
    /// Another session idles here: which of the two is told of a message first is not determined.
    pub raced: bool,
    /// Messages that came so: either may have them as \Recent.
    pub unsure: BTreeSet<u32>,
    /// Annotations: entry to value.
    pub notes: Notes,
}

impl Mailbox {
    fn new(key: u32, selectable: bool) -> Mailbox {
        Mailbox {
            key,
            selectable,
            validity: 0,
            uid_next: 1,
            messages: BTreeMap::new(),
            highest: 0,
            gone: Vec::new(),
            going: Vec::new(),
            recent_from: 1,
            raced: false,
            unsure: BTreeSet::new(),
            notes: Notes::new(),
        }
    }

    pub fn add(&mut self, content: usize, date: usize, flags: Flags) -> u32 {
        let uid = self.uid_next;
        self.uid_next += 1;
        if self.raced {
            self.unsure.insert(uid);
        }
        self.messages.insert(uid, Message { content, date, flags, modseq: None });
        uid
    }

    pub fn expunge(&mut self, uids: impl IntoIterator<Item = u32>) {
        for uid in uids {
            if self.messages.remove(&uid).is_some() {
                self.going.push(uid);
            }
        }
    }

    /// Those that have \Deleted.
    pub fn deleted(&self) -> BTreeSet<u32> {
        let deleted = self.messages.iter().filter(|(_, message)| message.flags.contains("\\deleted"));
        deleted.map(|(uid, _)| *uid).collect()
    }

    pub fn is_changed(&self) -> bool {
        self.highest == 0
            || !self.going.is_empty()
            || self.messages.values().any(|message| message.modseq.is_none())
    }

    /// Takes what the server says of it: HIGHESTMODSEQ, and the MODSEQ of each message.
    pub fn learn(&mut self, highest: u64, modseqs: &BTreeMap<u32, u64>) -> Result<(), String> {
        let before = self.highest;
        let changed = self.is_changed();
        if highest < before || (changed && highest == before) || (!changed && highest != before) {
            return Err(format!("HIGHESTMODSEQ {highest} after {before}, changed: {changed}"));
        }
        for (uid, message) in &mut self.messages {
            let given = modseqs[uid];
            match message.modseq {
                Some(known) if known != given => {
                    return Err(format!(
                        "UID {uid} was not changed, but its MODSEQ went from {known} to {given}"
                    ));
                }
                None if given <= before || given > highest => {
                    return Err(format!(
                        "UID {uid} was changed: MODSEQ {given}, HIGHESTMODSEQ {before} to {highest}"
                    ));
                }
                _ => message.modseq = Some(given),
            }
        }
        self.gone.extend(self.going.drain(..).map(|uid| Gone { uid, after: before, by: highest }));
        self.highest = highest;
        Ok(())
    }
}

/// How STORE changes flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Replace,
    Add,
    Remove,
}

impl How {
    pub fn apply(self, to: &Flags, flags: &Flags) -> Flags {
        match self {
            How::Replace => flags.clone(),
            How::Add => to | flags,
            How::Remove => to - flags,
        }
    }
}

/// The response codes with which a command may be refused; any of them where it has several faults.
pub type Refused = Vec<&'static str>;

#[derive(Clone, Debug)]
pub struct Account {
    pub mailboxes: BTreeMap<String, Mailbox>,
    pub subscriptions: BTreeSet<String>,
    /// Of the server.
    pub notes: Notes,
    keys: u32,
    /// The UIDVALIDITYs that a name has had, and for which mailbox.
    validities: BTreeMap<String, BTreeMap<u32, u32>>,
}

/// RFC 3501 §5.1: INBOX is one name in any case; here it is so as a first level too.
pub fn canonical(name: &str) -> String {
    let (first, rest) = name.split_at(name.find('/').unwrap_or(name.len()));
    if first.eq_ignore_ascii_case("INBOX") { format!("INBOX{rest}") } else { name.to_owned() }
}

fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

pub fn is_under(name: &str, parent: &str) -> bool {
    name.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

/// RFC 3501 §6.3.8.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        Some((b'%', rest)) => {
            let level = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=level).any(|at| matches(rest, &name[at..]))
        }
        Some((byte, rest)) => {
            name.split_first().is_some_and(|(first, name)| first == byte && matches(rest, name))
        }
    }
}

impl Account {
    pub fn new() -> Account {
        let mut account = Account {
            mailboxes: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            notes: Notes::new(),
            keys: 0,
            validities: BTreeMap::new(),
        };
        account.put("INBOX", true);
        account
    }

    fn put(&mut self, name: &str, selectable: bool) {
        self.keys += 1;
        self.mailboxes.insert(name.to_owned(), Mailbox::new(self.keys, selectable));
    }

    pub fn has_children(&self, name: &str) -> bool {
        self.mailboxes.keys().any(|other| is_under(other, name))
    }

    pub fn selectable(&self, name: &str) -> Option<&Mailbox> {
        self.mailboxes.get(name).filter(|mailbox| mailbox.selectable)
    }

    /// The mailbox that a session has selected, under whatever name it has now.
    pub fn by_key(&self, key: u32) -> Option<&Mailbox> {
        self.mailboxes.values().find(|mailbox| mailbox.key == key)
    }

    pub fn by_key_mut(&mut self, key: u32) -> Option<&mut Mailbox> {
        self.mailboxes.values_mut().find(|mailbox| mailbox.key == key)
    }

    pub fn name_of(&self, key: u32) -> Option<String> {
        self.mailboxes.iter().find(|(_, mailbox)| mailbox.key == key).map(|(name, _)| name.clone())
    }

    /// RFC 3501 §2.3.1.1: a name and UIDVALIDITY are one mailbox for ever; of a later one it is greater.
    pub fn learn_validity(&mut self, name: &str, validity: u32) -> Result<(), String> {
        let mailbox = self.mailboxes.get_mut(name).ok_or("no such mailbox")?;
        if mailbox.validity != 0 && mailbox.validity != validity {
            return Err(format!("UIDVALIDITY of {name} went from {} to {validity}", mailbox.validity));
        }
        let fresh = mailbox.validity == 0;
        mailbox.validity = validity;
        let had = self.validities.entry(name.to_owned()).or_default();
        if had.get(&validity).is_some_and(|key| *key != mailbox.key) {
            return Err(format!("UIDVALIDITY {validity} of {name} was that of another mailbox of this name"));
        }
        if fresh && had.last_key_value().is_some_and(|(last, _)| *last >= validity) {
            return Err(format!("UIDVALIDITY {validity} of {name} is not above those before: {had:?}"));
        }
        had.insert(validity, mailbox.key);
        Ok(())
    }

    /// RFC 3501 §6.3.3: with its superior levels. A \Noselect name can be created again.
    pub fn create(&mut self, name: &str) -> Result<(), Refused> {
        if self.selectable(name).is_some() {
            return Err(vec!["ALREADYEXISTS"]);
        }
        for above in ancestors(name) {
            if !self.mailboxes.contains_key(above) {
                self.put(above, true);
            }
        }
        self.put(name, true);
        Ok(())
    }

    /// RFC 3501 §6.3.4.
    pub fn delete(&mut self, name: &str) -> Result<(), Refused> {
        let children = self.has_children(name);
        let Some(mailbox) = self.mailboxes.get(name) else { return Err(vec!["NONEXISTENT"]) };
        if name == "INBOX" || (children && !mailbox.selectable) {
            return Err(vec!["CANNOT"]);
        }
        if children {
            self.put(name, false);
        } else {
            self.mailboxes.remove(name);
        }
        Ok(())
    }

    /// RFC 3501 §6.3.5.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let mut refused = Vec::new();
        if !self.mailboxes.contains_key(from) {
            refused.push("NONEXISTENT");
        }
        if self.mailboxes.contains_key(to) {
            refused.extend(["ALREADYEXISTS", "CANNOT"]);
        }
        if from != "INBOX" && is_under(to, from) {
            refused.push("CANNOT");
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        if from == "INBOX" {
            self.create(to)?;
            let inbox = self.mailboxes.get_mut("INBOX").expect("INBOX is always there");
            let moved = inbox.messages.clone();
            inbox.expunge(moved.keys().copied());
            let target = self.mailboxes.get_mut(to).expect("created above");
            for message in moved.into_values() {
                target.add(message.content, message.date, message.flags);
            }
            // RFC 5464 §4.1: INBOX keeps its annotations.
            let notes = self.mailboxes["INBOX"].notes.clone();
            self.mailboxes.get_mut(to).expect("created above").notes = notes;
            return Ok(());
        }
        for above in ancestors(to) {
            if !self.mailboxes.contains_key(above) {
                self.put(above, true);
            }
        }
        let names: Vec<String> = self.mailboxes.keys().cloned().collect();
        for name in names.iter().filter(|name| *name == from || is_under(name, from)) {
            let mailbox = self.mailboxes.remove(name).expect("listed above");
            self.mailboxes.insert(format!("{to}{}", &name[from.len()..]), mailbox);
        }
        Ok(())
    }

    /// The annotations of a mailbox, or (`None`) of the server.
    pub fn notes_mut(&mut self, name: Option<&str>) -> Option<&mut Notes> {
        match name {
            None => Some(&mut self.notes),
            Some(name) => self.mailboxes.get_mut(name).map(|mailbox| &mut mailbox.notes),
        }
    }

    /// Octets and messages of all mailboxes.
    pub fn usage(&self) -> (u64, u64) {
        let messages = self.mailboxes.values().flat_map(|mailbox| mailbox.messages.values());
        let octets = |message: &Message| CONTENTS[message.content].octets().len() as u64;
        messages.fold((0, 0), |(sum, count), message| (sum + octets(message), count + 1))
    }

    /// LIST: name to \Noselect and \HasChildren.
    pub fn list(&self, pattern: &str) -> BTreeMap<String, (bool, bool)> {
        let listed = self.mailboxes.iter().filter(|(name, _)| matches(pattern.as_bytes(), name.as_bytes()));
        listed.map(|(name, mailbox)| (name.clone(), (!mailbox.selectable, self.has_children(name)))).collect()
    }

    /// RFC 3501 §6.3.9: name to whether it stands only for subscriptions below it, where `%` cut them short.
    pub fn lsub(&self, pattern: &str) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        for name in &self.subscriptions {
            if matches(pattern.as_bytes(), name.as_bytes()) {
                found.insert(name.clone(), false);
            } else {
                for above in ancestors(name).filter(|above| matches(pattern.as_bytes(), above.as_bytes())) {
                    found.entry(above.to_owned()).or_insert(true);
                }
            }
        }
        for (name, parent) in &mut found {
            *parent = !self.subscriptions.contains(name);
        }
        found
    }
}
