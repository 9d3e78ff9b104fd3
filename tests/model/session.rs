//! One client: what it was told, and so what it must believe.
//!
//! # Invariants
//! Its cache is that of a client which fetches the flags of every message when it first hears of it, and then relies
//! on what the server tells. A change that the server never tells is found when the cache differs after NOOP.

use std::collections::{BTreeMap, BTreeSet};

use culver_proto::imap::Status;
use culver_proto::imap::client::{FetchValue, Response};
use culver_proto::imap::encode::{StatusValues, ThreadStep};

use crate::account::{Account, CONTENTS, DATES, Flags, Mailbox, canonical};
use crate::wire::{Answer, Wire, response};

/// What a client believes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    pub flags: Flags,
    pub modseq: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Selected {
    pub key: u32,
    pub read_only: bool,
    /// The UIDs by sequence number.
    pub view: Vec<u32>,
    /// The UIDNEXT up to which messages were told.
    pub floor: u32,
    pub cache: BTreeMap<u32, Belief>,
    pub recent: BTreeSet<u32>,
    /// The keywords that FLAGS told.
    pub keywords: Flags,
    /// The last HIGHESTMODSEQ that it was told.
    pub told: u64,
    /// Of the messages that this command makes \Seen, what they were before: FETCH may tell that first.
    pub before: BTreeMap<u32, Belief>,
}

/// What a client with QRESYNC keeps of a mailbox when it leaves it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub validity: u32,
    pub modseq: u64,
    pub cache: BTreeMap<u32, Belief>,
}

pub struct Session {
    pub wire: Wire,
    /// Keeps away from everything that would enable CONDSTORE.
    pub plain: bool,
    /// Enables QRESYNC after login.
    pub resyncs: bool,
    pub condstore: bool,
    pub qresync: bool,
    /// Enabled METADATA.
    pub metadata: bool,
    /// Annotations that others changed and that it was not told of: the mailbox's key (`None`: the server), and the entry.
    pub untold: BTreeSet<(Option<u32>, String)>,
    pub selected: Option<Selected>,
    pub saved: BTreeSet<u32>,
    /// By name.
    pub kept: BTreeMap<String, Kept>,
}

/// One FETCH response.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub uid: u32,
    pub uid_given: bool,
    pub flags: bool,
    pub modseq: bool,
    pub size: bool,
    pub date: bool,
    /// The octets of sections, with their origins.
    pub sections: Vec<(Option<u32>, Vec<u8>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub tag: Option<String>,
    pub uid: bool,
    pub min: Option<u32>,
    pub max: Option<u32>,
    pub count: Option<u64>,
    pub all: Option<BTreeSet<u32>>,
    pub modseq: Option<u64>,
}

/// What the untagged responses of one command held.
#[derive(Debug, Default)]
pub struct Gathered {
    pub rows: Vec<Row>,
    /// Names in upper case, and arguments.
    pub codes: Vec<(String, String)>,
    pub exists: Option<u32>,
    pub recent: Option<u32>,
    pub search: Option<(BTreeSet<u32>, Option<u64>)>,
    pub esearch: Option<Found>,
    pub sort: Option<(Vec<u32>, Option<u64>)>,
    pub thread: Option<Vec<ThreadStep>>,
    /// LIST and LSUB: name, attributes in lower case.
    pub listed: Vec<(String, BTreeSet<String>)>,
    pub status: Vec<(String, StatusValues)>,
    pub vanished_earlier: Option<BTreeSet<u32>>,
    /// METADATA with values.
    pub notes: Vec<(String, Option<Vec<u8>>)>,
    /// QUOTA: resources with usage and limit.
    pub quota: Vec<(String, u64, u64)>,
    /// An EXPUNGE or VANISHED (not EARLIER) came, and came before a COPYUID.
    pub expunged: bool,
    pub expunged_before_copyuid: bool,
}

impl Gathered {
    pub fn code(&self, name: &str) -> Option<&str> {
        self.codes.iter().find(|(code, _)| code == name).map(|(_, arguments)| arguments.as_str())
    }

    pub fn codes_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.codes.iter().filter(move |(code, _)| code == name).map(|(_, arguments)| arguments.as_str())
    }
}

impl Selected {
    /// As SELECT shows it.
    pub fn new(mailbox: &Mailbox, read_only: bool) -> Selected {
        let mut selected = Selected {
            key: mailbox.key,
            read_only,
            view: mailbox.messages.keys().copied().collect(),
            floor: mailbox.uid_next,
            cache: BTreeMap::new(),
            recent: mailbox.messages.range(mailbox.recent_from..).map(|(uid, _)| *uid).collect(),
            keywords: Flags::new(),
            told: 0,
            before: BTreeMap::new(),
        };
        selected.cache = selected.view.iter().map(|uid| (*uid, belief(mailbox, *uid))).collect();
        selected
    }

    pub fn in_view(&self, uid: u32) -> bool {
        self.view.binary_search(&uid).is_ok()
    }

    pub fn sequence_of(&self, uid: u32) -> Option<u32> {
        self.view.binary_search(&uid).ok().map(|at| at as u32 + 1)
    }

    /// RECENT: the fewest and the most that it may be.
    fn recent_counts(&self, mailbox: &Mailbox) -> (u32, u32) {
        let unsure = |uid: &&u32| mailbox.unsure.contains(uid);
        let sure = self.view.iter().filter(|uid| !unsure(uid) && self.recent.contains(uid)).count() as u32;
        (sure, sure + self.view.iter().filter(unsure).count() as u32)
    }
}

pub fn belief(mailbox: &Mailbox, uid: u32) -> Belief {
    let message = &mailbox.messages[&uid];
    Belief { flags: message.flags.clone(), modseq: message.modseq }
}

macro_rules! check {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}
pub(crate) use check;

impl Session {
    /// Takes in what the server told. The model has the command's effects already.
    ///
    /// `expunges`: whether RFC 3501 §7.4.1 lets the server send EXPUNGE with this command.
    pub fn absorb(
        &mut self,
        answer: &Answer,
        account: &mut Account,
        expunges: bool,
    ) -> Result<Gathered, String> {
        let mut gathered = Gathered::default();
        for octets in &answer.untagged {
            self.absorb_one(octets, account, expunges, &mut gathered)
                .map_err(|why| format!("{why}\n  at {}", String::from_utf8_lossy(octets).trim_end()))?;
        }
        Ok(gathered)
    }

    fn absorb_one(
        &mut self,
        octets: &[u8],
        account: &mut Account,
        expunges: bool,
        gathered: &mut Gathered,
    ) -> Result<(), String> {
        let response = response(octets)?;
        let (condstore, qresync) = (self.condstore, self.qresync);
        match response {
            Response::Status { status, code, .. } => {
                check!(status == Status::Ok, "an untagged {status:?}");
                if let Some(code) = code {
                    let name = code.name.to_ascii_uppercase();
                    if name == "COPYUID" {
                        gathered.expunged_before_copyuid = gathered.expunged;
                    }
                    gathered.codes.push((name, String::from_utf8_lossy(code.arguments).into_owned()));
                }
                return Ok(());
            }
            Response::Capability(_) | Response::Enabled(_) => return Ok(()),
            Response::Search { numbers, modseq } => {
                let count = numbers.len();
                let numbers: BTreeSet<u32> = numbers.into_iter().collect();
                check!(numbers.len() == count && gathered.search.is_none(), "a message or a SEARCH twice");
                gathered.search = Some((numbers, modseq.map(|modseq| modseq.get())));
                return Ok(());
            }
            Response::Sort { numbers, modseq } => {
                check!(gathered.sort.is_none(), "SORT twice");
                gathered.sort = Some((numbers, modseq.map(|modseq| modseq.get())));
                return Ok(());
            }
            Response::Thread(steps) => {
                check!(gathered.thread.is_none(), "THREAD twice");
                gathered.thread = Some(steps);
                return Ok(());
            }
            Response::Esearch(data) => {
                check!(gathered.esearch.is_none(), "ESEARCH twice");
                gathered.esearch = Some(Found {
                    tag: data.tag.map(|tag| String::from_utf8_lossy(&tag).into_owned()),
                    uid: data.uid,
                    min: data.min,
                    max: data.max,
                    count: data.count,
                    all: data.all.map(|all| all.resolve(0).iter().collect()),
                    modseq: data.modseq.map(|modseq| modseq.get()),
                });
                return Ok(());
            }
            Response::List(data) => {
                check!(data.separator == Some(b'/'), "another separator");
                let name = String::from_utf8_lossy(&data.name).into_owned();
                gathered
                    .listed
                    .push((name, data.attributes.iter().map(|word| word.to_ascii_lowercase()).collect()));
                return Ok(());
            }
            Response::MetadataChanged { mailbox, names } => {
                check!(self.metadata, "METADATA where it is not enabled");
                let name = String::from_utf8_lossy(&mailbox);
                let key = match account.mailboxes.get(&canonical(&name)) {
                    _ if name.is_empty() => None,
                    Some(mailbox) => Some(mailbox.key),
                    None => return Err(format!("METADATA of {name}, which is not there")),
                };
                for entry in names {
                    let entry = String::from_utf8_lossy(&entry).into_owned();
                    check!(
                        self.untold.remove(&(key, entry.clone())),
                        "METADATA of {entry}, which nobody changed"
                    );
                }
                return Ok(());
            }
            Response::Metadata { values, .. } => {
                let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
                let values =
                    values.iter().map(|(name, value)| (text(name), value.as_deref().map(<[u8]>::to_vec)));
                gathered.notes.extend(values);
                return Ok(());
            }
            Response::Quota { resources, .. } => {
                let resources =
                    resources.iter().map(|(name, usage, limit)| ((*name).to_owned(), *usage, *limit));
                gathered.quota.extend(resources);
                return Ok(());
            }
            Response::QuotaRoot { .. } => return Ok(()),
            Response::MailboxStatus { mailbox, values } => {
                gathered.status.push((String::from_utf8_lossy(&mailbox).into_owned(), values));
                return Ok(());
            }
            _ => {}
        }
        let Some(selected) = &mut self.selected else {
            return Err("data of a mailbox, and none is selected".into());
        };
        let mailbox = account.by_key_mut(selected.key).ok_or("data of a mailbox that was deleted")?;
        match response {
            Response::Flags(names) => {
                selected.keywords = names
                    .iter()
                    .filter(|name| !name.starts_with('\\'))
                    .map(|name| name.to_ascii_lowercase())
                    .collect();
            }
            Response::Exists(count) => {
                let came: Vec<u32> = mailbox.messages.range(selected.floor..).map(|(uid, _)| *uid).collect();
                let expected = selected.view.len() + came.len();
                check!(count as usize == expected, "EXISTS {count}, but {expected} messages are in view");
                // RFC 3501 §2.3.2: \Recent for the first session that is told.
                selected.recent.extend(mailbox.messages.range(mailbox.recent_from..).map(|(uid, _)| *uid));
                if !selected.read_only {
                    mailbox.recent_from = mailbox.uid_next;
                }
                selected.cache.extend(came.iter().map(|uid| (*uid, belief(mailbox, *uid))));
                selected.view.extend(came);
                selected.floor = mailbox.uid_next;
                gathered.exists = Some(count);
            }
            Response::Recent(count) => {
                let (fewest, most) = selected.recent_counts(mailbox);
                check!((fewest..=most).contains(&count), "RECENT {count}, not {fewest} to {most}");
                gathered.recent = Some(count);
            }
            Response::Expunge(sequence) => {
                check!(expunges, "EXPUNGE with a command that does not allow it");
                // RFC 7162 §3.2.10.
                check!(!qresync, "EXPUNGE where QRESYNC is enabled");
                let at = (sequence as usize).wrapping_sub(1);
                check!(at < selected.view.len(), "EXPUNGE beyond the view");
                let uid = selected.view.remove(at);
                check!(!mailbox.messages.contains_key(&uid), "EXPUNGE of UID {uid}, which is there");
                selected.cache.remove(&uid);
                gathered.expunged = true;
            }
            Response::Vanished { earlier: false, uids } => {
                check!(expunges, "VANISHED with a command that does not allow it");
                check!(qresync, "VANISHED where QRESYNC is not enabled");
                for uid in uids.iter() {
                    check!(!mailbox.messages.contains_key(&uid), "VANISHED of UID {uid}, which is there");
                    let at = selected.view.binary_search(&uid);
                    let at = at.map_err(|_| format!("VANISHED of UID {uid}, which is not in view"))?;
                    selected.view.remove(at);
                    selected.cache.remove(&uid);
                }
                gathered.expunged = true;
            }
            Response::Vanished { earlier: true, uids } => {
                check!(qresync, "VANISHED where QRESYNC is not enabled");
                check!(gathered.vanished_earlier.is_none(), "VANISHED (EARLIER) twice");
                // RFC 7162 §3.2.5.1: before the FETCHes.
                check!(gathered.rows.is_empty(), "VANISHED (EARLIER) after FETCH");
                for uid in uids.iter() {
                    check!(uid < mailbox.uid_next, "VANISHED of UID {uid}, which was never given");
                    check!(!mailbox.messages.contains_key(&uid), "VANISHED of UID {uid}, which is there");
                    if !selected.in_view(uid) {
                        selected.cache.remove(&uid);
                    }
                }
                gathered.vanished_earlier = Some(uids.iter().collect());
            }
            Response::Fetch { sequence_number, values } => {
                let at = (sequence_number as usize).wrapping_sub(1);
                check!(at < selected.view.len(), "FETCH beyond the view");
                let uid = selected.view[at];
                let row = row(selected, mailbox, uid, values, condstore)?;
                gathered.rows.push(row);
            }
            other => return Err(format!("an unexpected response: {other:?}")),
        }
        Ok(())
    }

    /// With a CONDSTORE enabling command. The client has no MODSEQs yet; it fetches them now.
    pub fn enable_condstore(&mut self, account: &Account, enables: bool) {
        if !enables || self.condstore {
            return;
        }
        self.condstore = true;
        let Some(selected) = &mut self.selected else { return };
        let Some(mailbox) = account.by_key(selected.key) else { return };
        for (uid, believed) in &mut selected.cache {
            if let Some(message) = mailbox.messages.get(uid).filter(|message| message.flags == believed.flags)
            {
                believed.modseq = message.modseq;
            }
        }
    }

    /// After NOOP: nothing that happened may be missing (RFC 3501 §6.1.2).
    pub fn converged(&self, account: &Account) -> Result<(), String> {
        let there = |key: Option<u32>| key.is_none_or(|key| account.by_key(key).is_some());
        let untold = self.untold.iter().find(|(key, _)| there(*key));
        check!(untold.is_none(), "{untold:?} was changed, and the session was never told");
        let Some(selected) = &self.selected else { return Ok(()) };
        let Some(mailbox) = account.by_key(selected.key) else { return Ok(()) };
        let now: Vec<u32> = mailbox.messages.keys().copied().collect();
        check!(selected.view == now, "after NOOP the view is {:?}, the mailbox {now:?}", selected.view);
        self.agrees(account, |_| true)?;
        for (uid, message) in &mailbox.messages {
            let unknown = message
                .flags
                .iter()
                .find(|flag| !flag.starts_with('\\') && !selected.keywords.contains(*flag));
            check!(unknown.is_none(), "UID {uid} has {unknown:?}, which FLAGS never told");
        }
        Ok(())
    }

    /// The cache is true, for those of the messages that `asked` holds of.
    pub fn agrees(&self, account: &Account, asked: impl Fn(u32) -> bool) -> Result<(), String> {
        let Some(selected) = &self.selected else { return Ok(()) };
        let Some(mailbox) = account.by_key(selected.key) else { return Ok(()) };
        for (uid, message) in mailbox.messages.iter().filter(|(uid, _)| asked(**uid)) {
            let Some(believed) = selected.cache.get(uid) else {
                return Err(format!("UID {uid} was never told"));
            };
            check!(
                believed.flags == message.flags,
                "UID {uid} has {:?}; the session was told {:?} and never of the change",
                message.flags,
                believed.flags
            );
            check!(
                !self.condstore || believed.modseq == message.modseq,
                "UID {uid} has MODSEQ {:?}; the session was told {:?} and never of the change",
                message.modseq,
                believed.modseq
            );
        }
        let extra = selected.cache.keys().find(|uid| asked(**uid) && !mailbox.messages.contains_key(uid));
        check!(extra.is_none(), "UID {extra:?} is gone, and the session was never told");
        Ok(())
    }

    /// HIGHESTMODSEQ as told at the end of a command: not above any change that the session does not know of.
    pub fn told_highest(&mut self, account: &Account, highest: u64) -> Result<(), String> {
        let condstore = self.condstore;
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let Some(mailbox) = account.by_key(selected.key) else { return Ok(()) };
        check!(highest <= mailbox.highest, "HIGHESTMODSEQ {highest} is told, it is {}", mailbox.highest);
        check!(highest >= selected.told, "HIGHESTMODSEQ {highest} is told after {}", selected.told);
        for gone in mailbox.gone.iter().filter(|gone| selected.in_view(gone.uid)) {
            check!(
                highest < gone.by,
                "HIGHESTMODSEQ {highest} is told, but not the expunge of UID {}",
                gone.uid
            );
        }
        for (uid, message) in &mailbox.messages {
            let known = match selected.cache.get(uid) {
                Some(belief) if condstore => belief.modseq == message.modseq && belief.flags == message.flags,
                Some(belief) => belief.flags == message.flags,
                None => false,
            };
            let modseq = message.modseq.unwrap_or(u64::MAX);
            check!(
                known || highest < modseq,
                "HIGHESTMODSEQ {highest} is told, but not the change {modseq} of UID {uid}"
            );
        }
        selected.told = highest;
        Ok(())
    }

    /// Leaves the mailbox, and keeps what a client with QRESYNC keeps.
    pub fn leave(&mut self, account: &Account) {
        self.saved.clear();
        let Some(selected) = self.selected.take() else { return };
        let Some(mailbox) = account.by_key(selected.key) else { return };
        let Some(name) = account.name_of(selected.key) else { return };
        if self.resyncs && selected.told > 0 {
            let (validity, modseq) = (mailbox.validity, selected.told);
            self.kept.insert(name, Kept { validity, modseq, cache: selected.cache });
        }
    }
}

/// The values of a FETCH response, each of which must be true.
fn row(
    selected: &mut Selected,
    mailbox: &Mailbox,
    uid: u32,
    values: Vec<FetchValue<'_>>,
    condstore: bool,
) -> Result<Row, String> {
    let Some(message) = mailbox.messages.get(&uid) else {
        return Err(format!("FETCH of UID {uid}, which is gone"));
    };
    let mut row = Row { uid, ..Row::default() };
    for value in values {
        match value {
            FetchValue::Uid(given) => {
                check!(given == uid, "UID {given} where the view has UID {uid}");
                row.uid_given = true;
            }
            FetchValue::Flags(names) => {
                let mut flags: Flags = names.iter().map(|name| name.to_ascii_lowercase()).collect();
                check!(flags.len() == names.len(), "a flag twice");
                let recent = flags.remove("\\recent");
                let expected = selected.recent.contains(&uid);
                check!(
                    recent == expected || mailbox.unsure.contains(&uid),
                    "\\Recent: {recent}, not {expected}"
                );
                let before = selected.before.get(&uid).is_some_and(|before| before.flags == flags);
                check!(before || flags == message.flags, "flags of UID {uid} are {:?}", message.flags);
                selected.cache.entry(uid).or_insert_with(|| belief(mailbox, uid)).flags = flags;
                row.flags = true;
            }
            FetchValue::ModSeq(modseq) => {
                let modseq = Some(modseq.get());
                check!(condstore, "MODSEQ where CONDSTORE is not enabled");
                let before = selected.before.get(&uid).is_some_and(|before| before.modseq == modseq);
                check!(before || modseq == message.modseq, "MODSEQ of UID {uid} is {:?}", message.modseq);
                selected.cache.entry(uid).or_insert_with(|| belief(mailbox, uid)).modseq = modseq;
                row.modseq = true;
            }
            FetchValue::Size(size) => {
                let expected = CONTENTS[message.content].octets().len();
                check!(size as usize == expected, "RFC822.SIZE is {expected}");
                row.size = true;
            }
            FetchValue::InternalDate(date) => {
                let expected = DATES[message.date].1;
                // RFC 3501 §9, date-day-fixed: " 6" or "06".
                let written = date.format();
                let same = written.trim_start_matches([' ', '0']) == expected.trim_start_matches([' ', '0']);
                check!(same, "INTERNALDATE {written}, not {expected}");
                row.date = true;
            }
            FetchValue::Section { origin, octets, .. } => {
                row.sections.push((origin, octets.ok_or("a section is NIL")?.into_owned()));
            }
            other => return Err(format!("an item that nobody asked for: {other:?}")),
        }
    }
    // RFC 7162 §3.1: in all untagged FETCH responses that tell of flags, whatever caused them.
    check!(!condstore || row.modseq || !row.flags, "no MODSEQ where CONDSTORE is enabled");
    Ok(row)
}
