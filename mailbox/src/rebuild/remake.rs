//! Remaking: the state of an account of what can still be read of it.
//!
//! # Invariants
//! A mailbox of which nothing is missing, neither in blocks nor in records (see [`super::replay`]), stays as it is. Every other one gets a new UIDVALIDITY, for its UIDNEXT is not known:
//! so no UID is ever given to another message under one UIDVALIDITY, and clients begin anew. What its blocks still say of
//! messages, flags above all, stays.
//! No row of what is remade names a body that is gone, or that goes with the flush that stores it.

use super::replay::{Replay, fresh_above};
use crate::flush::STEP_ROWS;
use crate::rebuild::Unfinished;
use crate::state::{ACCOUNT_KEY, ANNOTATIONS_KEY, DELIVERIES_KEY, MAILBOXES_MAX, State, is_mailbox_key};
use culver_index::account::{AccountState, MailboxEntry};
use culver_index::annotations::Annotations;
use culver_index::deliveries::Deliveries;
use culver_index::{Block, MailboxIndex};
use culver_model::{Guid, MailboxName, ModSeq, UidSet, UidValidity};
use culver_shard::Pace;
use culver_storage::{AccountBlocks, BlockKind, Finding, Place, Position, Salvaged, SalvagedKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::rc::Rc;

/// A state that was remade, and what became of it.
pub(crate) struct Remade {
    pub state: State,
    pub position: Position,
    pub told: Told,
}

/// What a person wants to know of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Something is damaged or missing.
    pub damaged: bool,
    pub list_lost: bool,
    /// Mailboxes that were made anew, with the messages that their blocks still knew.
    pub renewed: BTreeMap<Guid, u64>,
    /// Messages that blocks name and whose bodies are gone.
    pub gone: u64,
    /// Changes that stand in the journal alone and name messages that cannot be told.
    pub changes_lost: u64,
    pub findings: Vec<Finding>,
}

/// What blocks could be read.
struct Read {
    list: Option<(AccountState, bool)>,
    unfinished: Option<Unfinished>,
    deliveries: Deliveries,
    /// Of their key, if there is one.
    deliveries_whole: Option<bool>,
    annotations: Annotations,
    /// With each, whether nothing of it is missing.
    indexes: BTreeMap<Guid, (MailboxIndex, bool)>,
    /// Mailboxes that have blocks of which none can be read.
    lost: BTreeSet<Guid>,
}

/// `now`: seconds since 1970, above every UIDVALIDITY that a counter gave.
pub(crate) async fn remake(salvaged: Salvaged, now: u32) -> Remade {
    let mut told = Told { findings: salvaged.findings.clone(), ..Told::default() };
    let never = salvaged.certain && salvaged.keys.is_empty();
    let read = read(&salvaged.keys, &mut told.findings);
    let deliveries_whole = read.deliveries_whole.unwrap_or(salvaged.certain);
    let Read { list, unfinished, deliveries, annotations, mut indexes, lost, .. } = read;
    let (account, list_whole) = list.unwrap_or((State::new().account, never));
    let mailboxes = BTreeMap::new();
    let mut state = State { account, mailboxes, unfinished, deliveries, annotations, ..State::new() };
    told.list_lost = !list_whole;
    let highest = indexes.values().map(|(index, _)| index.highest_modseq()).max();
    let highest = highest.unwrap_or_default().max(state.annotations.newest());
    state.account.modseq = state.account.modseq.max(highest);
    let validities = indexes.values().map(|(index, _)| index.uid_validity().get());
    state.account.uid_validity = state.account.uid_validity.max(validities.max().unwrap_or_default());
    if !list_whole {
        // RFC 3501 §2.3.1.1: a UIDVALIDITY is greater than all before it; the time is, when the counter is lost.
        state.account.uid_validity = state.account.uid_validity.max(now);
        list_unlisted(&mut state.account, &indexes);
        expect_late(&mut state.account, &salvaged);
    }
    let moved = had_by_whole(&indexes).await;
    // Records make mailboxes, and count their UIDVALIDITYs as they did.
    let fresh_from = fresh_above(state.account.uid_validity, &salvaged);
    let mut fresh = fresh_from;
    for at in 0..state.account.mailboxes.len() {
        let entry = state.account.mailboxes[at].clone();
        match indexes.remove(&entry.guid) {
            Some((index, true)) => {
                state.account.mailboxes[at].uid_validity = index.uid_validity();
                state.mailboxes.insert(entry.guid, index);
            }
            None if salvaged.certain && list_whole && !lost.contains(&entry.guid) => {
                let index = MailboxIndex::new(entry.guid, entry.uid_validity, entry.created);
                state.mailboxes.insert(entry.guid, index);
            }
            remains => {
                let old = remains.map(|(index, _)| index);
                renew(&mut state, at, old, &mut fresh, (&salvaged, &moved), &mut told).await;
            }
        }
    }
    let position = salvaged.newest();
    state.used = state.counted();
    let unsure = Replay::new(&mut state, &mut told, &salvaged, deliveries_whole, fresh).run();
    fresh = fresh.max(state.account.uid_validity);
    for at in 0..state.account.mailboxes.len() {
        let guid = state.account.mailboxes[at].guid;
        if unsure.contains(&guid) && !told.renewed.contains_key(&guid) {
            let old = state.mailboxes.remove(&guid);
            renew(&mut state, at, old, &mut fresh, (&salvaged, &HashSet::new()), &mut told).await;
        }
    }
    if fresh > fresh_from {
        state.account.uid_validity = state.account.uid_validity.max(fresh);
    }
    told.renewed.retain(|guid, _| state.mailboxes.contains_key(guid));
    state.drop_strays();
    drop_dangling(&mut state, &salvaged, &mut told).await;
    let begun = told.list_lost || !told.renewed.is_empty();
    told.damaged = begun || !told.findings.is_empty() || told.gone > 0 || told.changes_lost > 0;
    let fresh = begun.then(|| Unfinished {
        list_whole: !told.list_lost,
        whole: state.mailboxes.keys().copied().filter(|guid| !told.renewed.contains_key(guid)).collect(),
    });
    let before = state.unfinished.take();
    state.unfinished = match (fresh, before) {
        (Some(fresh), Some(before)) => Some(Unfinished {
            list_whole: fresh.list_whole && before.list_whole,
            whole: fresh.whole.intersection(&before.whole).copied().collect(),
        }),
        (fresh, before) => fresh.or(before),
    };
    Remade { state, position, told }
}

/// A list that is lost does not tell from whom something may still come: the partition does.
fn expect_late(account: &mut AccountState, salvaged: &Salvaged) {
    for (of, come) in &salvaged.gaps_before {
        let last = if *come { u64::MAX } else { 0 };
        match account.late.binary_search_by(|(journal, _)| journal.cmp(of)) {
            Ok(at) => account.late[at].1 = account.late[at].1.max(last),
            Err(at) => account.late.insert(at, (*of, last)),
        }
    }
}

/// Messages that mailboxes have of which nothing is missing, and nobody else has.
async fn had_by_whole(indexes: &BTreeMap<Guid, (MailboxIndex, bool)>) -> HashSet<Guid> {
    let (mut had, mut pace) = (HashSet::new(), Pace::new());
    let whole = indexes.values().filter(|(_, whole)| *whole);
    for (nth, row) in whole.flat_map(|(index, _)| index.rows_all()).enumerate() {
        if nth.is_multiple_of(STEP_ROWS) {
            pace.breathe().await;
        }
        if !row.shared() {
            had.insert(row.guid());
        }
    }
    had
}

fn read(keys: &[SalvagedKey], findings: &mut Vec<Finding>) -> Read {
    let mut read = Read {
        list: None,
        unfinished: None,
        deliveries: Deliveries::default(),
        deliveries_whole: None,
        annotations: Annotations::default(),
        indexes: BTreeMap::new(),
        lost: BTreeSet::new(),
    };
    let mut wrong = |guid: Guid, what: String| {
        let path = Path::new("table").to_owned();
        findings.push(Finding { path, offset: 0, what: format!("blocks of key {guid}: {what}") });
    };
    for key in keys {
        let mut blocks = key.blocks.iter().map(|block| Block::shared(Rc::new(block.clone())));
        if key.guid == DELIVERIES_KEY {
            let loaded = Deliveries::load(key.blocks.iter().map(|block| &block[..]));
            read.deliveries_whole = Some(key.whole && loaded.is_ok());
            match loaded {
                Ok(deliveries) => read.deliveries = deliveries,
                Err(error) => wrong(key.guid, error.to_string()),
            }
            continue;
        }
        if key.guid == ANNOTATIONS_KEY {
            // What is damaged of them is lost: nothing else says it.
            match key.blocks.first().map(|block| Annotations::load(block)) {
                Some(Ok(annotations)) => read.annotations = annotations,
                Some(Err(error)) => wrong(key.guid, error.to_string()),
                None => {}
            }
            continue;
        }
        if key.guid == Unfinished::KEY {
            // Where it is damaged nothing tells which mailboxes were whole.
            let decoded = key.blocks.first().filter(|_| key.whole).map(|block| Unfinished::decode(block));
            if let Some(Err(error)) = &decoded {
                wrong(key.guid, error.to_string());
            }
            read.unfinished = Some(decoded.and_then(Result::ok).unwrap_or_default());
            continue;
        }
        let Some(base) = blocks.next() else {
            read.lost.insert(key.guid);
            continue;
        };
        if key.guid == ACCOUNT_KEY {
            match AccountState::decode(&base) {
                Ok(account) => read.list = Some((account, key.whole)),
                Err(error) => wrong(key.guid, error.to_string()),
            }
        } else if is_mailbox_key(key.guid) {
            let index = match MailboxIndex::from_blocks(base.clone(), blocks) {
                Ok(index) => Some((index, key.whole)),
                Err(error) => {
                    wrong(key.guid, error.to_string());
                    MailboxIndex::from_blocks(base, std::iter::empty()).ok().map(|index| (index, false))
                }
            };
            match index {
                Some(index) => drop(read.indexes.insert(key.guid, index)),
                None => drop(read.lost.insert(key.guid)),
            }
        }
    }
    read
}

/// Mailboxes with messages that an older list does not know yet: by a name that says so, for theirs is lost.
fn list_unlisted(account: &mut AccountState, indexes: &BTreeMap<Guid, (MailboxIndex, bool)>) {
    for (guid, (index, _)) in indexes {
        let listed = account.mailboxes.iter().any(|entry| entry.guid == *guid);
        if listed || index.is_empty() || account.mailboxes.len() >= MAILBOXES_MAX {
            continue;
        }
        let Ok(name) = MailboxName::parse(&format!("{}-{}", super::RECOVERED, &guid.to_string()[..8])) else {
            continue;
        };
        if account.mailboxes.iter().all(|entry| entry.name != name) {
            let (created, uid_validity) = (ModSeq::default(), index.uid_validity());
            let entry = MailboxEntry {
                guid: *guid,
                name,
                special_use: None,
                created,
                uid_validity,
                selectable: true,
            };
            account.mailboxes.push(entry);
        }
    }
    account.mailboxes.sort_by(|a, b| a.name.cmp(&b.name));
}

/// The mailbox at a place of the list begins anew, with the messages of what can be read of its blocks.
async fn renew(
    state: &mut State,
    at: usize,
    old: Option<MailboxIndex>,
    fresh: &mut u32,
    (salvaged, moved): (&Salvaged, &HashSet<Guid>),
    told: &mut Told,
) {
    let modseq = state.account.modseq.next();
    state.account.modseq = modseq;
    let entry = &mut state.account.mailboxes[at];
    if let Some(validity) = fresh.checked_add(1).and_then(UidValidity::new) {
        *fresh = validity.get();
        entry.uid_validity = validity;
    }
    entry.created = modseq;
    let mut index = MailboxIndex::new(entry.guid, entry.uid_validity, modseq);
    let mut pace = Pace::new();
    for (nth, row) in old.iter().flat_map(MailboxIndex::rows_all).enumerate() {
        if nth.is_multiple_of(STEP_ROWS) {
            pace.breathe().await;
        }
        // It was moved to where it still is.
        if moved.contains(&row.guid()) {
            continue;
        }
        if Place::from_bytes(row.place()).is_none_or(|place| !salvaged.is_there(&place)) {
            told.gone += 1;
            continue;
        }
        let mut message = row.to_owned_message();
        if index.append(message.as_new(), modseq).is_err() {
            // More keywords than a mailbox takes: the message counts more.
            message.flags.keywords.clear();
            told.gone += u64::from(index.append(message.as_new(), modseq).is_err());
        }
    }
    told.renewed.insert(entry.guid, u64::from(index.len()));
    state.mailboxes.insert(entry.guid, index);
}

/// Takes away rows whose body is gone; of mailboxes that began anew also those whose body goes with the next flush, for what is
/// left of an index may be of a time before the body was moved or expunged.
async fn drop_dangling(state: &mut State, salvaged: &Salvaged, told: &mut Told) {
    let mut pace = Pace::new();
    for (guid, index) in &mut state.mailboxes {
        let renewed = told.renewed.contains_key(guid);
        let mut dangling = UidSet::new();
        for (nth, row) in index.rows_all().enumerate() {
            if nth.is_multiple_of(STEP_ROWS) {
                pace.breathe().await;
            }
            let place = Place::from_bytes(row.place());
            let gone = place.is_none_or(|place| !salvaged.is_there(&place));
            if gone || (renewed && place.is_some_and(|place| !salvaged.stays(&place))) {
                dangling.insert(row.uid().get());
                told.gone += u64::from(gone);
            }
        }
        if !dangling.is_empty() {
            state.account.modseq = state.account.modseq.next();
            index.expunge(&dangling, false, state.account.modseq);
        }
    }
}

/// New blocks of everything.
pub(crate) async fn blocks(remade: &mut Remade) -> AccountBlocks {
    let state = &mut remade.state;
    let mut blocks = vec![(ACCOUNT_KEY, BlockKind::Base, state.account.encode())];
    if let Some(unfinished) = &state.unfinished {
        blocks.push((Unfinished::KEY, BlockKind::Base, unfinished.encode()));
    }
    if !state.deliveries.is_empty() {
        let (block, _) = state.deliveries.encode(culver_index::BlockKind::Base);
        blocks.push((DELIVERIES_KEY, BlockKind::Base, block));
    }
    if !state.annotations.is_blank() {
        blocks.push((ANNOTATIONS_KEY, BlockKind::Base, state.annotations.encode().0));
    }
    let mut pace = Pace::new();
    for (guid, index) in &mut state.mailboxes {
        let mut encoding = index.begin_base();
        while !encoding.step(index, STEP_ROWS) {
            pace.breathe().await;
        }
        blocks.push((*guid, BlockKind::Base, index.encoded(encoding).0));
    }
    AccountBlocks { position: remade.position, blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::late::GAP;
    use crate::record::{Message, Record, StoreOp};
    use culver_model::{Flag, FlagSet};
    use culver_shard::sim::{Sim, SimConfig};
    use culver_storage::LoadedRecord;

    fn record(epoch: u32, lsn: u64, record: &Record) -> LoadedRecord {
        LoadedRecord { position: Position { epoch, lsn }, meta: record.encode(), bodies: Vec::new() }
    }

    fn append(guid: u8) -> Record {
        let message = Message { guid: Guid([guid; 16]), ..Message::default() };
        Record::Append { mailbox: Guid::INBOX, message: Box::new(message) }
    }

    fn remade(salvaged: Salvaged) -> Remade {
        Sim::new(1, SimConfig::default()).run(async move { remake(salvaged, 1_800_000_000).await })
    }

    #[test]
    fn a_gap_between_records_keeps_its_place() {
        let mut salvaged = Salvaged::default();
        salvaged.certain = true;
        salvaged.records = vec![record(0, 5, &append(1)), record(1, 7, &append(2))];
        salvaged.gaps = vec![(Position { epoch: 1, lsn: 0 }, Guid([9; 16]))];
        let remade = remade(salvaged);
        assert!(remade.told.renewed.is_empty() && !remade.told.list_lost);
        // Their bodies are nowhere here, so that they are gone again; their UIDs are not given to others.
        assert_eq!(remade.told.gone, 2);
        assert_eq!(remade.state.mailboxes[&Guid::INBOX].uid_next().get(), GAP + 3);
        assert_eq!(remade.state.late_mark(Guid([9; 16])), Some(0), "of whom something may come is forgotten");
    }

    #[test]
    fn who_lost_the_list_still_knows_of_whom_something_may_come() {
        let mut salvaged = Salvaged::default();
        salvaged.gaps_before = vec![(Guid([8; 16]), true), (Guid([9; 16]), false)];
        let remade = remade(salvaged);
        assert!(remade.told.list_lost);
        assert_eq!(remade.state.late_mark(Guid([8; 16])), Some(u64::MAX), "what has come may not come again");
        assert_eq!(remade.state.late_mark(Guid([9; 16])), Some(0));
    }

    #[test]
    fn a_change_that_names_messages_of_a_mailbox_that_is_lost_is_left_out() {
        let flags: FlagSet = [Flag::parse("\\Flagged").expect("a flag")].into_iter().collect();
        let (mailbox, op) = (Guid::INBOX, StoreOp::Add);
        let uids = [1].into_iter().collect();
        let store = Box::new(Record::Store { mailbox, uids, op, flags, unchanged_since: None });
        let named = Record::Named { record: store, messages: vec![(1, Guid([3; 16]))] };
        // Not certain: the mailbox begins anew, and UID 1 is another message.
        let mut salvaged = Salvaged::default();
        salvaged.records = vec![record(0, 5, &append(1)), record(0, 6, &named)];
        let remade = remade(salvaged);
        assert_eq!(remade.told.changes_lost, 1);
    }
}
