//! Looks at an account from every side: what clients were told, what is stored, what its bodies hold.

use crate::mail;
use crate::node::Here;
use culver_index::Row;
use culver_mailbox::accounts::rebuild;
use culver_mailbox::{OpenError, Session, State};
use culver_model::{AccountId, Guid, ModSeq};
use culver_shard::random;
use culver_storage::{Place, ReadError};

/// Opens an account; where the disk works, that must succeed.
pub async fn open(here: &Here, id: &AccountId) -> Option<Session> {
    match here.accounts.session(id).await {
        Ok(session) => Some(session),
        Err(error) => {
            let failed_read = matches!(&error, OpenError::Storage { why: ReadError::Io { .. }, .. });
            if here.life.sound || !failed_read {
                here.life.oracle.error(format!("opening: {error}"));
            }
            None
        }
    }
}

/// What clients see of the account, compared with what they were told. `false`: the session has to end.
pub fn look(here: &Here, session: &Session, decide: bool) -> bool {
    let account = session.account();
    if account.is_dropped() {
        return false;
    }
    here.life.oracle.observe(account.id(), &account.state(), decide);
    true
}

/// The first look after a start: it decides what operations without an answer came to.
pub async fn start_of_life(here: &Here, id: &AccountId, whole: bool) {
    let Some(session) = open(here, id).await else { return };
    if look(here, &session, true) {
        bodies(here, &session, whole).await;
        stored(here, &session).await;
    }
}

/// The last look, when nobody works on the account any more.
pub async fn end_of_life(here: &Here, id: &AccountId) {
    let Some(session) = open(here, id).await else { return };
    if look(here, &session, false) {
        bodies(here, &session, false).await;
        stored(here, &session).await;
    }
}

/// The octets of all messages, or of some.
pub async fn bodies(here: &Here, session: &Session, whole: bool) {
    let account = session.account();
    let oracle = &here.life.oracle;
    let chosen: Vec<(Guid, u32, Guid, [u8; 32])> = account
        .state()
        .mailboxes
        .iter()
        .flat_map(|(guid, index)| {
            index.rows_all().map(|row| (*guid, row.uid().get(), row.guid(), *row.place()))
        })
        .filter(|_| whole || random::below(4) == 0)
        .collect();
    for (mailbox, uid, guid, place) in chosen {
        let Some((serial, octets)) = oracle.with(account.id(), |ledger| {
            let serial = ledger.by_guid.get(&guid).copied()?;
            Some((serial, ledger.messages[&serial].octets))
        }) else {
            continue;
        };
        let Some(place_in_store) = Place::from_bytes(&place) else {
            oracle.error(format!("{}: message {serial} has no place", account.id()));
            continue;
        };
        let read = here.storage().read_place(account.partition(), &place_in_store, 0..octets + 10).await;
        let now = |row: &Row<'_>| *row.place() == place;
        let uid = culver_model::Uid::new(uid).expect("a row's UID");
        let still =
            account.state().mailboxes.get(&mailbox).and_then(|index| index.get(uid).as_ref().map(now));
        match read {
            Ok(held) => {
                oracle.count(|figures| figures.bodies += 1);
                if held != mail::content(serial, octets) {
                    oracle.error(format!("{}: message {serial} has other octets", account.id()));
                }
            }
            // It moved or went while it was read.
            Err(ReadError::Gone(_)) if still != Some(true) || account.is_dropped() => {}
            Err(ReadError::Io { .. }) if !here.life.sound => return,
            Err(error) => oracle.error(format!("{}: message {serial}: {error}", account.id())),
        }
    }
}

/// What the store gives is what is in memory.
pub async fn stored(here: &Here, session: &Session) {
    let account = session.account();
    let oracle = &here.life.oracle;
    let loaded = match here.storage().load(account.partition(), account.id()).await {
        Ok(loaded) => loaded,
        Err(ReadError::Io { .. }) if !here.life.sound => return,
        Err(error) => return oracle.error(format!("{}: {error}", account.id())),
    };
    if account.is_dropped() {
        return;
    }
    match rebuild(account.id(), loaded) {
        Ok((again, ..)) => {
            oracle.count(|figures| figures.compared += 1);
            if let Some(difference) = difference(&account.state(), &again) {
                oracle.error(format!("{}: in memory and as stored differ: {difference}", account.id()));
            }
        }
        Err(error) => oracle.error(format!("{}: {error}", account.id())),
    }
}

/// The first thing in which two states differ.
fn difference(live: &State, again: &State) -> Option<String> {
    if live.account != again.account {
        return Some(format!("{:?} and {:?}", live.account, again.account));
    }
    if live.deliveries != again.deliveries {
        return Some(format!("{:?} and {:?}", live.deliveries, again.deliveries));
    }
    if !live.mailboxes.keys().eq(again.mailboxes.keys()) {
        return Some("mailboxes".into());
    }
    for (left, right) in live.mailboxes.values().zip(again.mailboxes.values()) {
        let head = |index: &culver_index::MailboxIndex| {
            let counters = (index.uid_validity(), index.uid_next(), index.highest_modseq(), index.created());
            let sums = (index.len(), index.total_size(), index.unseen_count(), index.deleted_count());
            (counters, sums, index.expunge_floor(), index.expunged_since(ModSeq::ZERO))
        };
        if head(left) != head(right) {
            return Some(format!("{}: {:?} and {:?}", left.guid(), head(left), head(right)));
        }
        for (a, b) in left.rows_all().zip(right.rows_all()) {
            let (a, b) = (row(&a), row(&b));
            if a != b {
                return Some(format!("{}: {a:?} and {b:?}", left.guid()));
            }
        }
    }
    None
}

fn row(row: &Row<'_>) -> impl PartialEq + std::fmt::Debug {
    let mut keywords: Vec<String> = row.keywords().map(|keyword| keyword.to_string()).collect();
    keywords.sort();
    let named = (row.uid(), row.guid(), row.modseq(), row.system(), row.shared(), keywords);
    let dates = (row.internal_date(), row.save_date(), row.size(), *row.place(), row.origin());
    let parts =
        [row.envelope(), row.body(), row.bodystructure(), row.parts(), row.headers()].map(<[u8]>::to_vec);
    (named, dates, parts)
}
