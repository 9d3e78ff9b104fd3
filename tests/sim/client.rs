//! Clients: they look at accounts and change them, and note what they are told.

use crate::compare;
use crate::mail;
use crate::node::{Here, account, going};
use crate::oracle::{Answer, Fate, Instance, Kind, Message, Serial};
use crate::tree::Change;
use culver_mailbox::record::{self, Record, StoreOp};
use culver_mailbox::{Applied, Arriving, ChangeError, Session};
use culver_model::{
    AccountId, DeliveryId, FlagSet, Guid, InternalDate, Keyword, MailboxName, ModSeq, SystemFlag, UidSet,
};
use culver_shard::{mesh, random, time};
use culver_storage::{Body, CommitError, SubmitError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Deliveries back to which one is sent again: fewer than an account knows.
const AGAIN_MAX: usize = 64;

const NAMES: &[&str] = &["a", "a/b", "a/b/c", "a/d", "e", "e/f", "g/h/i", "g", "Entwürfe", "inbox/j"];

/// One client, until the machine is told to stop.
pub async fn run(accounts: usize) {
    while going() {
        let Some(here) = Here::get() else { return };
        // Some accounts are busier than others.
        let nth = random::below(1 + random::below(accounts as u64)) as usize;
        let owner = here.accounts.shard_of(&account(nth));
        drop(here);
        let _ = mesh::call(owner, move || turn(nth)).await;
        if random::below(6) == 0 {
            time::sleep(Duration::from_micros(random::below(30_000))).await;
        }
    }
}

async fn turn(nth: usize) {
    let Some(here) = Here::get() else { return };
    let id = account(nth);
    let decided = || here.life.oracle.with(&id, |ledger| ledger.decided);
    if !decided() {
        compare::start_of_life(&here, &id, false).await;
        if !decided() {
            return;
        }
    }
    match random::below(100) {
        0..24 => return deliver(&here, &id).await,
        24..30 => return deliver_again(&here, &id).await,
        30..32 => return drop(here.storage().flush(here.storage().partition_of(&id)).await),
        32 => return drop(here.storage().trim().await),
        33 => return drop(here.storage().compact().await),
        _ => {}
    }
    let Some(session) = compare::open(&here, &id).await else { return };
    for _ in 0..=random::below(5) {
        if !going() || !compare::look(&here, &session, false) {
            return;
        }
        act(&here, &session).await;
    }
    match random::below(8) {
        0 => compare::bodies(&here, &session, false).await,
        1 => compare::stored(&here, &session).await,
        _ => {}
    }
}

/// One operation of a session that has just looked.
async fn act(here: &Here, session: &Session) {
    let Some(mailbox) = choose(session) else { return };
    let chance = random::below(100);
    let some = here.life.oracle.with(session.account().id(), |ledger| {
        let of_mailbox = ledger.alive.range((mailbox, 0)..=(mailbox, u32::MAX));
        let all: Vec<(u32, Instance)> = of_mailbox.map(|(key, instance)| (key.1, instance.clone())).collect();
        subset(all)
    });
    match chance {
        0..26 => append(here, session, mailbox).await,
        _ if some.is_empty() => append(here, session, mailbox).await,
        26..50 => store(here, session, mailbox, some).await,
        50..68 => expunge(here, session, mailbox, some).await,
        68..82 => copy(here, session, mailbox, some).await,
        82..90 => unflag(session, mailbox).await,
        _ => change_mailboxes(here, session).await,
    }
}

fn choose(session: &Session) -> Option<Guid> {
    let state = session.account().state();
    let entries: Vec<Guid> =
        state.account.mailboxes.iter().filter(|entry| entry.selectable).map(|entry| entry.guid).collect();
    entries.get(random::below(entries.len() as u64) as usize).copied()
}

/// One, a run or a sprinkle.
fn subset<T>(all: Vec<T>) -> Vec<T> {
    let len = all.len() as u64;
    match random::below(3) {
        0 => all.into_iter().skip(random::below(len) as usize).take(1).collect(),
        1 => all.into_iter().skip(random::below(len) as usize).take(1 + random::below(8) as usize).collect(),
        _ => all.into_iter().filter(|_| random::below(4) == 0).collect(),
    }
}

fn uids<'a>(uids: impl Iterator<Item = &'a u32>) -> UidSet {
    uids.copied().collect()
}

fn octets() -> u64 {
    mail::OCTETS_MIN
        + match random::below(24) {
            0 => 2_000 + random::below(12_000),
            1 => random::below(70_000),
            _ => random::below(1_700),
        }
}

fn some_flags() -> u8 {
    let bits = [SystemFlag::Seen, SystemFlag::Flagged, SystemFlag::Deleted, SystemFlag::Answered];
    bits.into_iter().filter(|_| random::below(3) == 0).fold(0, |flags, flag| flags | flag.bit())
}

async fn feed(mut arriving: Arriving, serial: Serial, octets: u64) -> Option<(record::Message, Body)> {
    for piece in mail::content(serial, octets).chunks(1 + random::below(9_000) as usize) {
        arriving.feed(piece).await.ok()?;
    }
    arriving.finish().await.ok()
}

/// Notes a message before it is handed over.
fn note(here: &Here, id: &AccountId, serial: Serial, message: &record::Message, mailbox: Option<Guid>) {
    let oracle = &here.life.oracle;
    oracle.with(id, |ledger| {
        ledger.by_guid.insert(message.guid, serial);
        ledger.messages.insert(serial, Message { octets: message.size });
    });
    oracle.invoke(id, serial, Kind::Append { mailbox, instance: None });
}

async fn deliver(here: &Here, id: &AccountId) {
    let (serial, octets) = (here.life.oracle.serial(), octets());
    let mut arriving = Arriving::deliver(&here.accounts, id, InternalDate::default(), octets);
    let known = random::below(2) == 0;
    arriving.set_delivery(known.then(|| delivery_id(serial)));
    let Some((message, body)) = feed(arriving, serial, octets).await else { return };
    let name = (random::below(8) == 0).then(|| NAMES[random::below(NAMES.len() as u64) as usize]);
    note(here, id, serial, &message, name.is_none().then_some(Guid::INBOX));
    if known && name.is_none() {
        here.life.oracle.with(id, |ledger| ledger.sent.push(serial));
    }
    let result = here.accounts.deliver(id, name, message, body).await;
    here.life.oracle.answer(id, serial, answer(result.map(|_| None)));
}

fn delivery_id(serial: Serial) -> DeliveryId {
    let mut octets = [0x5e; DeliveryId::OCTETS];
    octets[..8].copy_from_slice(&serial.to_le_bytes());
    DeliveryId(octets)
}

/// Sends one of the latest deliveries that the account has, or had, again, as if its answer had been lost. Nobody is told of its
/// GUID: a message that comes of it is one that nobody brought.
async fn deliver_again(here: &Here, id: &AccountId) {
    let latest = here.life.oracle.with(id, |ledger| {
        let latest = ledger.sent.iter().rev().take(AGAIN_MAX);
        let made = latest.filter(|serial| ledger.ops.get(serial).is_some_and(|op| op.fate == Fate::Yes));
        made.map(|serial| (*serial, ledger.messages[serial].octets)).collect::<Vec<_>>()
    });
    if latest.is_empty() {
        return deliver(here, id).await;
    }
    let (serial, octets) = latest[random::below(latest.len() as u64) as usize];
    let mut arriving = Arriving::deliver(&here.accounts, id, InternalDate::default(), octets);
    arriving.set_delivery(Some(delivery_id(serial)));
    let Some((message, body)) = feed(arriving, serial, octets).await else { return };
    if let Ok(true) = here.accounts.deliver(id, None, message, body).await {
        here.life.oracle.count(|figures| figures.repeated += 1);
    }
}

async fn append(here: &Here, session: &Session, mailbox: Guid) {
    let id = session.account().id();
    let (serial, octets) = (here.life.oracle.serial(), octets());
    let flags = FlagSet { system: some_flags(), keywords: Vec::new() };
    let arriving = Arriving::begin(session, mailbox, InternalDate::new(serial as i64, 60), flags, octets);
    let Some((message, body)) = feed(arriving, serial, octets).await else { return };
    note(here, id, serial, &message, Some(mailbox));
    let result =
        session.change_with(Record::Append { mailbox, message: Box::new(message) }, Some(body)).await;
    here.life.oracle.answer(id, serial, answer(result.map(Some)));
}

/// An operation with its record: invoked, carried out, answered.
async fn change(here: &Here, session: &Session, serial: Serial, kind: Kind, record: Record) {
    let id = session.account().id();
    here.life.oracle.invoke(id, serial, kind);
    let result = session.change(record).await;
    here.life.oracle.answer(id, serial, answer(result.map(Some)));
}

async fn store(here: &Here, session: &Session, mailbox: Guid, some: Vec<(u32, Instance)>) {
    let serial = here.life.oracle.serial();
    let keyword = Keyword::new(&format!("k{serial}")).expect("an atom");
    let flags = FlagSet { system: some_flags(), keywords: vec![keyword] };
    let highest = session.account().state().highest_modseq().get();
    let unchanged_since = (random::below(5) == 0).then(|| ModSeq(random::below(highest) + 1));
    let named: BTreeMap<u32, Serial> =
        some.into_iter().map(|(uid, instance)| (uid, instance.message)).collect();
    let record =
        Record::Store { mailbox, uids: uids(named.keys()), op: StoreOp::Add, flags, unchanged_since };
    let kind = Kind::Store { mailbox, uids: named, conditional: unchanged_since.is_some() };
    change(here, session, serial, kind, record).await;
}

/// Takes system flags away, or sets exactly some where no keyword stands in the way: seen by comparison alone.
async fn unflag(session: &Session, mailbox: Guid) {
    let flags = FlagSet { system: some_flags(), keywords: Vec::new() };
    let uids = culver_mailbox::everything();
    let record = Record::Store { mailbox, uids, op: StoreOp::Remove, flags, unchanged_since: None };
    let _ = session.change(record).await;
}

async fn expunge(here: &Here, session: &Session, mailbox: Guid, some: Vec<(u32, Instance)>) {
    let serial = here.life.oracle.serial();
    let only_deleted = random::below(4) == 0;
    let named: BTreeMap<u32, Serial> =
        some.into_iter().map(|(uid, instance)| (uid, instance.message)).collect();
    let record = Record::Expunge { mailbox, uids: uids(named.keys()), only_deleted };
    change(here, session, serial, Kind::Expunge { mailbox, uids: named, only_deleted }, record).await;
}

async fn copy(here: &Here, session: &Session, from: Guid, some: Vec<(u32, Instance)>) {
    let Some(to) = choose(session) else { return };
    let serial = here.life.oracle.serial();
    let (remove, whole) = (random::below(2) == 0, random::below(3) == 0);
    let named: BTreeMap<u32, Instance> = some.into_iter().collect();
    let record =
        Record::Copy { from, uids: uids(named.keys()), to, save_date: time::wall().0, remove, whole };
    change(
        here,
        session,
        serial,
        Kind::Copy { from, to, remove, whole, uids: named, made: BTreeMap::new() },
        record,
    )
    .await;
}

async fn change_mailboxes(here: &Here, session: &Session) {
    let id = session.account().id();
    if here.life.oracle.with(id, |ledger| ledger.changing.is_some()) {
        return;
    }
    let serial = here.life.oracle.serial();
    let name = MailboxName::parse(NAMES[random::below(NAMES.len() as u64) as usize]).expect("a name");
    let mut guid = Guid::default();
    random::fill(&mut guid.0);
    let known = {
        let state = session.account().state();
        let entries = &state.account.mailboxes;
        entries[random::below(entries.len() as u64) as usize].guid
    };
    let change_of = match random::below(20) {
        0..9 => Change::Create { guid, name },
        9..13 => Change::Delete { guid: known },
        13..19 => Change::Rename { guid: known, to: name },
        _ => Change::RenameInbox { guid, to: name },
    };
    let record = match change_of.clone() {
        Change::Create { guid, name } => Record::Create { guid, name, special_use: None, selectable: true },
        Change::Delete { guid } => Record::Delete { guid },
        Change::Rename { guid, to } => Record::Rename { guid, to },
        Change::RenameInbox { guid, to } => Record::RenameInbox { guid, to, save_date: time::wall().0 },
    };
    change(here, session, serial, Kind::Tree(change_of), record).await;
}

/// A refusal and a failure known to have changed nothing are a no; the rest is not known.
fn answer(result: Result<Option<Applied>, ChangeError>) -> Answer {
    match result {
        Ok(applied) => Answer::Yes(applied),
        Err(ChangeError::Refused(refusal)) => Answer::Refused(refusal),
        Err(ChangeError::NoSpace) => Answer::No,
        // On a local store nothing is ever away.
        Err(ChangeError::Away(_)) => Answer::Unknown,
        Err(ChangeError::Unavailable(why)) => {
            let no = [SubmitError::Busy, SubmitError::Stopped].map(|error| error.to_string());
            if why == CommitError::Lost.to_string() || no.contains(&why) {
                Answer::No
            } else {
                Answer::Unknown
            }
        }
    }
}
