//! Remaking: the state of an account of what can still be read of it.
//!
//! # Invariants
//! A mailbox of which nothing is missing stays as it is. Every other one gets a new UIDVALIDITY, for its UIDNEXT is not known:
//! so no UID is ever given to another message under one UIDVALIDITY, and clients begin anew. What its blocks still say of
//! messages, flags above all, stays.
//! A record that names UIDs of such a mailbox is left out: it speaks of messages that cannot be told.

use crate::flush::STEP_ROWS;
use crate::rebuild::Unfinished;
use crate::record::Record;
use crate::state::{ACCOUNT_KEY, MAILBOXES_MAX, State, is_mailbox_key};
use culver_index::account::{AccountState, MailboxEntry};
use culver_index::{Block, MailboxIndex};
use culver_model::{Guid, MailboxName, ModSeq, UidValidity};
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
    /// With each, whether nothing of it is missing.
    indexes: BTreeMap<Guid, (MailboxIndex, bool)>,
    /// Mailboxes that have blocks of which none can be read.
    lost: BTreeSet<Guid>,
}

/// `now`: seconds since 1970, above every UIDVALIDITY that a counter gave.
pub(crate) async fn remake(salvaged: Salvaged, now: u32) -> Remade {
    let mut told = Told { findings: salvaged.findings.clone(), ..Told::default() };
    let never = salvaged.certain && salvaged.keys.is_empty();
    let Read { list, unfinished, mut indexes, lost } = read(&salvaged.keys, &mut told.findings);
    let (account, list_whole) = list.unwrap_or((State::new().account, never));
    let mut state = State { account, mailboxes: BTreeMap::new(), ..State::new() };
    told.list_lost = !list_whole;
    let highest = indexes.values().map(|(index, _)| index.highest_modseq()).max();
    state.account.modseq = state.account.modseq.max(highest.unwrap_or_default());
    if !list_whole {
        // RFC 3501 §2.3.1.1: a UIDVALIDITY is greater than all before it; the time is, when the counter is lost.
        state.account.uid_validity = state.account.uid_validity.max(now);
        list_unlisted(&mut state.account, &indexes);
    }
    let moved: HashSet<Guid> = indexes
        .values()
        .filter(|(_, whole)| *whole)
        .flat_map(|(index, _)| index.rows_all().filter(|row| !row.shared()).map(|row| row.guid()))
        .collect();
    for at in 0..state.account.mailboxes.len() {
        let entry = state.account.mailboxes[at].clone();
        match indexes.remove(&entry.guid) {
            Some((index, true)) => {
                let validity = index.uid_validity();
                state.account.uid_validity = state.account.uid_validity.max(validity.get());
                state.account.mailboxes[at].uid_validity = validity;
                state.mailboxes.insert(entry.guid, index);
            }
            None if salvaged.certain && list_whole && !lost.contains(&entry.guid) => {
                let index = MailboxIndex::new(entry.guid, entry.uid_validity, entry.created);
                state.mailboxes.insert(entry.guid, index);
            }
            remains => {
                let old = remains.map(|(index, _)| index);
                renew(&mut state, at, old, &salvaged, &moved, &mut told).await;
            }
        }
    }
    let position = salvaged.newest();
    replay(&mut state, &salvaged, &mut told);
    told.renewed.retain(|guid, _| state.mailboxes.contains_key(guid));
    told.damaged = told.list_lost || !told.renewed.is_empty();
    let fresh = told.damaged.then(|| Unfinished {
        list_whole: !told.list_lost,
        whole: state.mailboxes.keys().copied().filter(|guid| !told.renewed.contains_key(guid)).collect(),
    });
    state.unfinished = match (fresh, unfinished) {
        (Some(fresh), Some(before)) => Some(Unfinished {
            list_whole: fresh.list_whole && before.list_whole,
            whole: fresh.whole.intersection(&before.whole).copied().collect(),
        }),
        (fresh, before) => fresh.or(before),
    };
    Remade { state, position, told }
}

fn read(keys: &[SalvagedKey], findings: &mut Vec<Finding>) -> Read {
    let mut read = Read { list: None, unfinished: None, indexes: BTreeMap::new(), lost: BTreeSet::new() };
    let mut wrong = |guid: Guid, what: String| {
        let path = Path::new("table").to_owned();
        findings.push(Finding { path, offset: 0, what: format!("blocks of key {guid}: {what}") });
    };
    for key in keys {
        let mut blocks = key.blocks.iter().map(|block| Block::shared(Rc::new(block.clone())));
        let Some(base) = blocks.next() else {
            read.lost.insert(key.guid);
            continue;
        };
        if key.guid == ACCOUNT_KEY {
            match AccountState::decode(&base) {
                Ok(account) => read.list = Some((account, key.whole)),
                Err(error) => wrong(key.guid, error.to_string()),
            }
        } else if key.guid == Unfinished::KEY {
            match Unfinished::decode(&base) {
                Ok(unfinished) => read.unfinished = Some(unfinished),
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
    salvaged: &Salvaged,
    moved: &HashSet<Guid>,
    told: &mut Told,
) {
    let modseq = state.account.modseq.next();
    state.account.modseq = modseq;
    let entry = &mut state.account.mailboxes[at];
    if let Some(validity) = state.account.uid_validity.checked_add(1).and_then(UidValidity::new) {
        state.account.uid_validity = validity.get();
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

/// What is committed beyond the blocks, as far as it can be told what it means.
fn replay(state: &mut State, salvaged: &Salvaged, told: &mut Told) {
    let mut gaps = salvaged.gaps.iter().peekable();
    for record in &salvaged.records {
        while let Some((_, of)) = gaps.next_if(|(gap, _)| *gap < record.position) {
            state.raise(*of);
        }
        let decoded = match Record::decode(&record.meta) {
            Ok(decoded) => decoded,
            Err(error) => {
                let what = format!("record {}: {error}", record.position);
                let path = Path::new("journal").to_owned();
                told.findings.push(Finding { path, offset: 0, what });
                continue;
            }
        };
        let renewed = |guid: &Guid| told.renewed.contains_key(guid);
        let plain = match &decoded {
            Record::Named { record, .. } => record,
            // Others that came late find their messages by GUID.
            Record::Late { record, .. } if matches!(**record, Record::Append { .. }) => record,
            other => other,
        };
        let lost = match plain {
            Record::Append { .. } => record.bodies.iter().any(|place| !salvaged.is_there(place)),
            Record::Restore { place, .. } => {
                Place::from_bytes(place).is_none_or(|place| !salvaged.is_there(&place))
            }
            Record::Store { mailbox, .. } | Record::Expunge { mailbox, .. } => renewed(mailbox),
            Record::Copy { from, .. } => renewed(from),
            Record::RenameInbox { .. } => renewed(&Guid::INBOX),
            _ => false,
        };
        if lost {
            told.changes_lost += 1;
            continue;
        }
        let places: Vec<_> = record.bodies.iter().map(Place::to_bytes).collect();
        // What was refused is refused again; what names a mailbox that is lost comes back with the bodies that are found.
        let _ = state.apply(&decoded, &places);
        if decoded == Record::DeleteAccount {
            told.renewed.clear();
            told.list_lost = false;
        }
    }
    state.freed.clear();
    state.removed.clear();
}

/// New blocks of everything.
pub(crate) async fn blocks(remade: &mut Remade) -> AccountBlocks {
    let state = &mut remade.state;
    let mut blocks = vec![(ACCOUNT_KEY, BlockKind::Base, state.account.encode())];
    if let Some(unfinished) = &state.unfinished {
        blocks.push((Unfinished::KEY, BlockKind::Base, unfinished.encode()));
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
    use crate::record::{Message, StoreOp};
    use culver_model::{Flag, FlagSet, SystemFlag};
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
        assert!(!remade.told.damaged);
        let uids: Vec<u32> =
            remade.state.mailboxes[&Guid::INBOX].rows_all().map(|row| row.uid().get()).collect();
        assert_eq!(uids, [1, GAP + 2]);
        assert_eq!(remade.state.late_mark(Guid([9; 16])), Some(0), "of whom something may come is forgotten");
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
        let index = &remade.state.mailboxes[&Guid::INBOX];
        assert!(index.rows_all().all(|row| !row.has(SystemFlag::Flagged)));
    }
}
