//! The digest of a mailbox: what SORT and THREAD compare of each message, made when it is first asked for and kept while the
//! account is open.
//!
//! A digest is columns, one value for each message: numbers (arrival, sent date, size), numbers of strings that are kept once
//! (base subject, addresses), and message IDs. A column is made on the first question that needs it, and from then on only
//! new messages are added to it. A message's values never change, so a STORE or an EXPUNGE changes nothing here.
//!
//! # Invariants
//! Values stand in the order of UIDs. What [`columns`] gives does not change any more: who sorts holds it while others add.
//! One task at a time adds to a digest. Neither a digest nor the account is borrowed across an await.
//!
//! # Limits
//! [`Limits::digest_octets_max`](crate::Limits::digest_octets_max) for all digests of a shard: those that were used the
//! longest ago go first, and one that is larger is made anew for each question. One that would be larger than
//! [`Limits::one_digest_octets_max`](crate::Limits::one_digest_octets_max) is not made, and the question is refused; from half
//! of that on a message's parent is all that is kept of its references. Who makes columns first takes
//! [`ITEM_OCTETS`] of the shard's search octets for each value. Of a string [`KEY_OCTETS_MAX`] octets are compared.
//!
//! # Cost
//! Making a column reads each row's prepared ENVELOPE or kept headers once; the message itself only for THREAD, and only where its
//! header was too long to be kept.

mod terms;

use crate::search::{Search, SearchError};
use culver_index::{MailboxIndex, PLACE_OCTETS, Row};
use culver_model::mime::charset::Charset;
use culver_model::mime::{EnvelopeFields, FirstAddress, decode_words};
use culver_model::search::SortKey;
use culver_model::text::{Links, base_subject, casemap, plain_spaces};
use culver_model::{InternalDate, Uid, UidSet};
use culver_shard as shard;
use culver_shard::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use terms::{ByHash, Terms};

/// Octets of a string's collation key that are compared: beyond them strings count as equal.
pub const KEY_OCTETS_MAX: usize = 1024;
/// Rows read between two yields.
const ROWS_STEP: usize = 256;
/// Octets of prepared envelopes and kept headers read between two yields: the row that goes beyond ends the step.
const OCTETS_STEP: usize = 256 * 1024;
/// UIDs gathered between two yields.
const UIDS_STEP: usize = 65_536;
/// Octets of memory for each value while a column is made.
const ITEM_OCTETS: usize = 128;
/// Octets of a message ID in the table of their numbers.
const LINK_OCTETS: usize = 24;
/// In a value of the subject's column: the subject was that of a reply or forward.
const REPLY: u32 = 1 << 31;

/// What a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Key(SortKey),
    Links,
}

/// The digest of one mailbox.
pub struct Digest {
    adding: Semaphore,
    inner: RefCell<Inner>,
    octets: Cell<usize>,
}

#[derive(Default)]
struct Inner {
    uids: Rc<Vec<u32>>,
    numbers: BTreeMap<SortKey, Rc<Vec<i64>>>,
    strings: BTreeMap<SortKey, Strings>,
    links: LinkColumn,
}

#[derive(Default)]
struct Strings {
    terms: Terms,
    values: Rc<Vec<u32>>,
}

#[derive(Default)]
struct LinkColumn {
    numbers: ByHash,
    values: Rc<LinkValues>,
}

/// Message IDs by number, from 1 on; 0 is none.
#[derive(Clone, Default)]
struct LinkValues {
    own: Vec<u32>,
    /// Where each message's references end in `list`.
    ends: Vec<u32>,
    list: Vec<u32>,
}

impl Inner {
    fn octets(&self) -> usize {
        let numbers: usize = self.numbers.values().map(|values| values.len() * 8).sum();
        let strings: usize =
            self.strings.values().map(|strings| strings.values.len() * 4 + strings.terms.octets()).sum();
        let links = self.links.values.octets() + self.links.numbers.len() * LINK_OCTETS;
        self.uids.len() * 4 + numbers + strings + links
    }

    /// How many values the columns lack for so many messages.
    fn lacking(&self, wanted: &[Column], total: usize) -> usize {
        let has = |column: &Column| match column {
            Column::Key(key) => match (self.numbers.get(key), self.strings.get(key)) {
                (Some(numbers), _) => numbers.len(),
                (None, strings) => strings.map_or(0, |strings| strings.values.len()),
            },
            Column::Links => self.links.values.own.len(),
        };
        wanted.iter().map(|column| total - has(column)).sum()
    }
}

impl LinkValues {
    fn octets(&self) -> usize {
        (self.own.len() + self.ends.len() + self.list.len()) * 4
    }
}

impl LinkColumn {
    fn number(&mut self, hash: u64) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(hash).or_insert(next)
    }
}

/// A place in a digest, as long as it does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(pub u32);

/// The value of each message, and the rank of each value.
type Ranked = (Rc<Vec<u32>>, Rc<Vec<u32>>);

/// What a digest holds at one time.
pub struct Columns {
    uids: Rc<Vec<u32>>,
    numbers: BTreeMap<SortKey, Rc<Vec<i64>>>,
    strings: BTreeMap<SortKey, Ranked>,
    links: Rc<LinkValues>,
    /// Numbers of message IDs are below.
    pub link_numbers: usize,
}

impl Columns {
    /// The places of `uids`, which ascend; those that are not there are left out. With each its place in `uids`.
    pub async fn positions(&self, uids: &[u32]) -> Vec<(u32, Position)> {
        let mut positions = Vec::with_capacity(uids.len());
        let mut pace = crate::steps::Pace::default();
        let mut at = 0;
        // Of many the next one is near; few are looked for.
        let near = uids.len() > self.uids.len() / 16;
        for (number, uid) in uids.iter().enumerate() {
            match near {
                true => at += self.uids[at..].iter().take_while(|have| *have < uid).count(),
                false => at += self.uids[at..].partition_point(|have| have < uid),
            }
            if self.uids.get(at) == Some(uid) {
                positions.push((number as u32, Position(at as u32)));
            }
            pace.step().await;
        }
        positions
    }

    /// A number that orders messages as the key does. Of a column that was asked for.
    pub fn order(&self, key: SortKey, at: Position) -> u64 {
        if let Some(numbers) = self.numbers.get(&key) {
            return (numbers[at.0 as usize] as u64) ^ 1 << 63;
        }
        self.strings
            .get(&key)
            .map_or(0, |(values, ranks)| u64::from(ranks[(values[at.0 as usize] & !REPLY) as usize]))
    }

    pub fn number(&self, key: SortKey, at: Position) -> i64 {
        self.numbers.get(&key).map_or(0, |numbers| numbers[at.0 as usize])
    }

    /// The rank of the base subject, and whether it was a reply's or forward's. Rank 0 is the empty subject.
    pub fn subject(&self, at: Position) -> (u32, bool) {
        self.strings.get(&SortKey::Subject).map_or((0, false), |(values, ranks)| {
            let value = values[at.0 as usize];
            (ranks[(value & !REPLY) as usize], value & REPLY != 0)
        })
    }

    /// Ranks of subjects are below.
    pub fn subjects(&self) -> usize {
        self.strings.get(&SortKey::Subject).map_or(0, |(_, ranks)| ranks.len())
    }

    /// References of all messages.
    pub fn references(&self) -> usize {
        self.links.list.len()
    }

    /// The number of its own message ID (0: none), and those of its references.
    pub fn links(&self, at: Position) -> (u32, &[u32]) {
        let at = at.0 as usize;
        let from = at.checked_sub(1).map_or(0, |before| self.links.ends[before]);
        (self.links.own[at], &self.links.list[from as usize..self.links.ends[at] as usize])
    }
}

/// The columns that `wanted` names, for all messages that the mailbox has now.
pub async fn columns(search: &Search<'_>, wanted: &[Column]) -> Result<Columns, SearchError> {
    let digest = digest_of(search)?;
    let _adding = digest.adding.acquire(1).await;
    digest.add_uids(search).await?;
    if let Err(error) = digest.add_values(search, wanted).await {
        if matches!(error, SearchError::TooLarge) {
            search.account().digests.borrow_mut().remove(&search.mailbox());
        }
        return Err(error);
    }
    let columns = digest.columns(wanted);
    digest.octets.set(digest.inner.borrow().octets());
    search.accounts().keep_digests(&digest);
    Ok(columns)
}

/// The mailbox's digest; a new one where there is none, or where most of its messages are gone.
fn digest_of(search: &Search<'_>) -> Result<Rc<Digest>, SearchError> {
    let live = search.with(|index| index.len() as usize)?;
    let mut digests = search.account().digests.borrow_mut();
    let known = digests.get(&search.mailbox());
    if let Some(digest) = known.filter(|digest| digest.inner.borrow().uids.len() <= 2 * live + ROWS_STEP) {
        return Ok(digest.clone());
    }
    let digest =
        Rc::new(Digest { adding: Semaphore::new(1), inner: RefCell::default(), octets: Cell::new(0) });
    digests.insert(search.mailbox(), digest.clone());
    Ok(digest)
}

impl Digest {
    async fn add_uids(&self, search: &Search<'_>) -> Result<(), SearchError> {
        let mut fresh: Vec<u32> = Vec::new();
        loop {
            let known = self.inner.borrow().uids.last().copied().unwrap_or(0);
            let next = fresh.last().copied().unwrap_or(known).saturating_add(1);
            let before = fresh.len();
            search.with(|index| fresh.extend(index.uids().range(next..).take(UIDS_STEP)))?;
            if fresh.len() == before {
                break;
            }
            shard::yield_if_needed().await;
        }
        if !fresh.is_empty() {
            Rc::make_mut(&mut self.inner.borrow_mut().uids).extend(fresh);
        }
        Ok(())
    }

    async fn add_values(&self, search: &Search<'_>, wanted: &[Column]) -> Result<(), SearchError> {
        let uids = self.inner.borrow().uids.clone();
        let lacking = self.inner.borrow().lacking(wanted, uids.len());
        if lacking == 0 {
            return Ok(());
        }
        let octets_max = search.accounts().limits().one_digest_octets_max;
        let octets = octets_max.min(lacking * ITEM_OCTETS);
        let _octets = search.accounts().search_octets.acquire(octets).await;
        let mut adding = Adding::begin(&mut self.inner.borrow_mut(), wanted, uids.len());
        let mut at = adding.from;
        while at < uids.len() {
            let (after, unread) =
                search.with(|index| adding.step(&mut self.inner.borrow_mut(), index, &uids, at))?;
            at = after;
            for Unread { slot, uid, place, octets } in unread {
                match search.header(uid, &place, octets).await {
                    Ok(header) => adding.step_links[slot] = Links::of(&header),
                    // One that is lost takes no other message's thread along.
                    Err(SearchError::Read(error)) if error.is_loss() => {
                        let (account, mailbox) = (search.account().id().as_str(), search.mailbox());
                        tracing::error!(account, ?mailbox, uid = uid.get(), %error, "a message is threaded without its header");
                    }
                    Err(error) => return Err(error),
                }
                shard::yield_if_needed().await;
            }
            adding.end_step(&mut self.inner.borrow_mut(), octets_max)?;
            shard::yield_if_needed().await;
        }
        // Strings get their ranks before anybody sees a value that names them.
        for (key, _, _) in &adding.strings {
            let unsorted = self.inner.borrow().strings.get(key).and_then(|strings| strings.terms.unsorted());
            if let Some(unsorted) = unsorted {
                let order = unsorted.order().await;
                let mut inner = self.inner.borrow_mut();
                inner.strings.entry(*key).or_default().terms.set_order(order);
            }
        }
        adding.publish(&mut self.inner.borrow_mut());
        Ok(())
    }

    fn columns(&self, wanted: &[Column]) -> Columns {
        let inner = self.inner.borrow();
        let asked = |key: &SortKey| wanted.contains(&Column::Key(*key));
        Columns {
            uids: inner.uids.clone(),
            numbers: inner
                .numbers
                .iter()
                .filter(|(key, _)| asked(key))
                .map(|(k, v)| (*k, v.clone()))
                .collect(),
            strings: inner
                .strings
                .iter()
                .filter(|(key, _)| asked(key))
                .map(|(key, strings)| (*key, (strings.values.clone(), strings.terms.ranks().clone())))
                .collect(),
            links: inner.links.values.clone(),
            link_numbers: inner.links.numbers.len() + 1,
        }
    }

    pub(crate) fn octets(&self) -> usize {
        self.octets.get()
    }
}

/// A message whose header must be read.
struct Unread {
    slot: usize,
    uid: Uid,
    place: [u8; PLACE_OCTETS],
    octets: u64,
}

/// Values on their way into a digest.
struct Adding {
    /// The first message that any column lacks.
    from: usize,
    numbers: Vec<(SortKey, usize, Vec<i64>)>,
    strings: Vec<(SortKey, usize, Vec<u32>)>,
    links_from: Option<usize>,
    links: LinkValues,
    step_links: Vec<Links>,
    /// Octets read in this step.
    step_octets: usize,
    key: Vec<u8>,
}

impl Adding {
    fn begin(inner: &mut Inner, wanted: &[Column], total: usize) -> Adding {
        let mut adding = Adding {
            from: total,
            numbers: Vec::new(),
            strings: Vec::new(),
            links_from: None,
            links: LinkValues::default(),
            step_links: Vec::new(),
            step_octets: 0,
            key: Vec::new(),
        };
        // A criterion may be named twice; its column is made once.
        let wanted: BTreeSet<&Column> = wanted.iter().collect();
        for column in wanted {
            let from = match column {
                Column::Key(key @ (SortKey::Arrival | SortKey::Date | SortKey::Size)) => {
                    let from = inner.numbers.entry(*key).or_default().len();
                    adding.numbers.push((*key, from, Vec::with_capacity(total - from)));
                    from
                }
                Column::Key(key) => {
                    let strings = inner.strings.entry(*key).or_default();
                    // The empty string is there in any case: rank 0 is always its own.
                    strings.terms.number(b"");
                    let from = strings.values.len();
                    adding.strings.push((*key, from, Vec::with_capacity(total - from)));
                    from
                }
                Column::Links => {
                    let from = inner.links.values.own.len();
                    adding.links_from = Some(from);
                    from
                }
            };
            adding.from = adding.from.min(from);
        }
        adding
    }

    /// The values of so many messages from `at` on as are read at a stretch: where the next step begins, and the headers that
    /// have to be read.
    fn step(
        &mut self,
        inner: &mut Inner,
        index: &MailboxIndex,
        uids: &[u32],
        mut at: usize,
    ) -> (usize, Vec<Unread>) {
        let to = (at + ROWS_STEP).min(uids.len());
        let step: UidSet = uids[at..to].iter().copied().collect();
        let mut rows = index.rows(&step).peekable();
        let mut unread = Vec::new();
        self.step_octets = 0;
        while at < to && self.step_octets < OCTETS_STEP {
            let row = rows.next_if(|row| row.uid().get() == uids[at]);
            unread.extend(self.push(inner, at, row.as_ref()));
            at += 1;
        }
        (at, unread)
    }

    /// The values of one message; of one that is gone meanwhile, none that matter. A header that has to be read is told.
    fn push(&mut self, inner: &mut Inner, position: usize, row: Option<&Row<'_>>) -> Option<Unread> {
        let envelope_wanted = self.strings.iter().any(|(_, from, _)| *from <= position)
            || self.numbers.iter().any(|(key, from, _)| *key == SortKey::Date && *from <= position);
        let envelope = row.filter(|_| envelope_wanted).map(|row| row.envelope()).unwrap_or_default();
        self.step_octets += envelope.len();
        let envelope = EnvelopeFields::parse(envelope);
        for (key, _, values) in self.numbers.iter_mut().filter(|(_, from, _)| *from <= position) {
            values.push(row.map_or(0, |row| {
                match key {
                    SortKey::Size => row.size() as i64,
                    SortKey::Arrival => row.internal_date().seconds,
                    // RFC 5256 §2.2: where there is no date, the internal date.
                    _ => envelope
                        .date
                        .as_deref()
                        .and_then(InternalDate::sent_seconds)
                        .unwrap_or(row.internal_date().seconds),
                }
            }));
        }
        for (key, _, values) in self.strings.iter_mut().filter(|(_, from, _)| *from <= position) {
            self.key.clear();
            let reply = string_key(*key, &envelope, &mut self.key);
            self.key.truncate(KEY_OCTETS_MAX);
            let strings = inner.strings.entry(*key).or_default();
            values.push(strings.terms.number(&self.key) | if reply { REPLY } else { 0 });
        }
        if self.links_from.is_none_or(|from| from > position) {
            return None;
        }
        self.step_links.push(Links::default());
        let (row, slot) = (row?, self.step_links.len() - 1);
        if row.headers_complete() {
            self.step_octets += row.headers().len();
            self.step_links[slot] = Links::of(row.headers());
            return None;
        }
        Some(Unread { slot, uid: row.uid(), place: *row.place(), octets: crate::search::header_octets(row) })
    }

    /// Octets of what is not in the digest yet.
    fn octets(&self) -> usize {
        let numbers: usize = self.numbers.iter().map(|(_, _, values)| values.capacity() * 8).sum();
        let strings: usize = self.strings.iter().map(|(_, _, values)| values.capacity() * 4).sum();
        numbers + strings + self.links.octets()
    }

    fn end_step(&mut self, inner: &mut Inner, octets_max: usize) -> Result<(), SearchError> {
        let tight = inner.octets() + self.octets() > octets_max / 2;
        for Links { message_id, references } in self.step_links.drain(..) {
            let from = if tight { references.len().saturating_sub(1) } else { 0 };
            self.links.own.push(message_id.map_or(0, |hash| inner.links.number(hash)));
            self.links.list.extend(references[from..].iter().map(|hash| inner.links.number(*hash)));
            self.links.ends.push(self.links.list.len() as u32);
        }
        if inner.octets() + self.octets() > octets_max {
            return Err(SearchError::TooLarge);
        }
        Ok(())
    }

    fn publish(self, inner: &mut Inner) {
        for (key, _, values) in self.numbers {
            Rc::make_mut(inner.numbers.entry(key).or_default()).extend(values);
        }
        for (key, _, values) in self.strings {
            Rc::make_mut(&mut inner.strings.entry(key).or_default().values).extend(values);
        }
        if !self.links.own.is_empty() {
            let links = Rc::make_mut(&mut inner.links.values);
            let before = links.list.len() as u32;
            links.own.extend(self.links.own);
            links.ends.extend(self.links.ends.into_iter().map(|end| before + end));
            links.list.extend(self.links.list);
        }
    }
}

/// The collation key of a message under a criterion that compares strings. Whether its subject is a reply's.
fn string_key(key: SortKey, envelope: &EnvelopeFields, out: &mut Vec<u8>) -> bool {
    let decode = |octets: &Option<Vec<u8>>| octets.as_deref().map(|octets| Charset::UNKNOWN.decode(octets));
    let mailbox =
        |address: &Option<FirstAddress>| address.as_ref().and_then(|address| decode(&address.mailbox));
    let text = match key {
        SortKey::Subject => {
            let decoded = envelope.subject.as_deref().map(decode_words).unwrap_or_default();
            let plain = plain_spaces(&decoded);
            let subject = base_subject(&plain);
            casemap(subject.text, out);
            return subject.reply;
        }
        SortKey::From => mailbox(&envelope.from),
        SortKey::To => mailbox(&envelope.to),
        SortKey::Cc => mailbox(&envelope.cc),
        SortKey::DisplayFrom => envelope.from.as_ref().map(display),
        SortKey::DisplayTo => envelope.to.as_ref().map(display),
        SortKey::Arrival | SortKey::Date | SortKey::Size => None,
    };
    casemap(text.as_deref().unwrap_or_default(), out);
    false
}

/// RFC 5957 §3: the decoded name, else mailbox@host, else the mailbox, else nothing.
fn display(address: &FirstAddress) -> String {
    let name = address.name.as_deref().map(decode_words).unwrap_or_default();
    if !name.is_empty() {
        return name;
    }
    let decode = |octets: &Option<Vec<u8>>| octets.as_deref().map(|octets| Charset::UNKNOWN.decode(octets));
    match (decode(&address.mailbox), decode(&address.host)) {
        (Some(mailbox), Some(host)) => format!("{mailbox}@{host}"),
        (Some(mailbox), None) => mailbox,
        _ => String::new(),
    }
}

/// The digests of a shard in the order of their use.
#[derive(Default)]
pub(crate) struct Used(Vec<Weak<Digest>>);

impl Used {
    /// Notes that `digest` was used now, and gives those that must go so that no more than `octets_max` are kept.
    pub fn note(&mut self, digest: &Rc<Digest>, octets_max: usize) -> Vec<Rc<Digest>> {
        let this = Rc::downgrade(digest);
        self.0.retain(|used| used.strong_count() > 0 && !used.ptr_eq(&this));
        self.0.push(this);
        let mut total: usize = self.0.iter().filter_map(Weak::upgrade).map(|digest| digest.octets()).sum();
        let mut going = Vec::new();
        while total > octets_max && !self.0.is_empty() {
            if let Some(oldest) = self.0.remove(0).upgrade() {
                total = total.saturating_sub(oldest.octets());
                going.push(oldest);
            }
        }
        going
    }
}

/// Sent date, arrival, rank of the subject and whether it is a reply's, own message ID (0: none), references.
#[cfg(test)]
pub type TestMessage = (i64, i64, (u32, bool), u32, Vec<u32>);

#[cfg(test)]
impl Columns {
    pub fn of(messages: &[TestMessage]) -> Columns {
        let numbers =
            |number: fn(&TestMessage) -> i64| Rc::new(messages.iter().map(number).collect::<Vec<i64>>());
        let ranks = messages.iter().map(|message| message.2.0 + 1).max().unwrap_or(1);
        let mut links = LinkValues::default();
        for (_, _, _, own, references) in messages {
            links.own.push(*own);
            links.list.extend(references);
            links.ends.push(links.list.len() as u32);
        }
        let values = messages.iter().map(|message| message.2.0 | if message.2.1 { REPLY } else { 0 });
        let strings = (Rc::new(values.collect()), Rc::new((0..ranks).collect()));
        let link_numbers = links.own.iter().chain(&links.list).max().map_or(1, |most| *most as usize + 1);
        Columns {
            uids: Rc::new((1..=messages.len() as u32).collect()),
            numbers: [(SortKey::Date, numbers(|m| m.0))].into(),
            strings: [(SortKey::Subject, strings)].into(),
            links: Rc::new(links),
            link_numbers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Message;
    use culver_model::{Guid, ModSeq, UidValidity};

    #[test]
    fn long_envelopes_end_a_step_early() {
        let created = ModSeq::ZERO.next();
        let mut index = MailboxIndex::new(Guid::INBOX, UidValidity::new(1).expect("not 0"), created);
        let envelope = format!("(NIL \"{}\" NIL NIL NIL NIL NIL NIL NIL NIL)", "a".repeat(100 * 1024));
        for number in 0..1_000 {
            let envelope = if number < 10 { envelope.as_bytes() } else { b"()" };
            let message = Message { envelope: envelope.to_vec(), ..Message::default() };
            index.append(message.as_new([1; PLACE_OCTETS], Guid::INBOX), created).expect("there is room");
        }
        let uids: Vec<u32> = index.uids().iter().collect();
        let mut inner = Inner::default();
        let mut adding = Adding::begin(&mut inner, &[Column::Key(SortKey::Subject)], uids.len());
        let (mut at, mut steps) = (0, Vec::new());
        while at < uids.len() {
            let (after, _) = adding.step(&mut inner, &index, &uids, at);
            steps.push(after - at);
            at = after;
        }
        assert_eq!(steps, [3, 3, 3, 256, 256, 256, 223]);
    }

    #[test]
    fn references_go_first_and_then_the_digest_where_memory_is_short() {
        const OCTETS_MAX: usize = 1 << 20;
        let mut inner = Inner::default();
        let mut adding = Adding::begin(&mut inner, &[Column::Links], 0);
        let mut hashes = (1u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut hash = || hashes.next().expect("there are many");
        let mut kept = Vec::new();
        loop {
            adding
                .step_links
                .push(Links { message_id: Some(hash()), references: (0..33).map(|_| hash()).collect() });
            let before = adding.links.list.len();
            match adding.end_step(&mut inner, OCTETS_MAX) {
                Ok(()) => kept.push(adding.links.list.len() - before),
                Err(error) => break assert!(matches!(error, SearchError::TooLarge)),
            }
            assert!(inner.octets() + adding.octets() <= OCTETS_MAX);
        }
        assert!(
            kept.iter().all(|kept| [33, 1].contains(kept)) && kept.is_sorted_by(|one, other| one >= other)
        );
        // 33 references and an ID of its own are about 1 KiB.
        assert!(
            kept.iter().filter(|kept| **kept == 33).count() > 500 && kept.len() > 5_000,
            "{}",
            kept.len()
        );
    }
}
