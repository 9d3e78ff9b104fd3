use super::*;
use crate::accounts::rebuild;
use crate::record::StoreOp;
use crate::state::everything;
use culver_model::{Flag, MailboxName};
use culver_storage::{Loaded, LoadedRecord, Position};

const OF: Guid = Guid([9; 16]);

fn append(mailbox: Guid, guid: u8) -> Record {
    Record::Append { mailbox, message: Box::new(Message { guid: Guid([guid; 16]), ..Message::default() }) }
}

fn late(lsn: u64, record: Record) -> Record {
    Record::Late { of: OF, lsn, record: Box::new(record) }
}

fn place(octet: u8) -> [[u8; PLACE_OCTETS]; 1] {
    [[octet; PLACE_OCTETS]]
}

fn create(state: &mut State, guid: u8, name: &str) -> Guid {
    let guid = Guid([guid; 16]);
    let name = MailboxName::parse(name).expect("a name");
    let record = Record::Create { guid, name, special_use: None, selectable: true };
    assert_eq!(state.apply(&record, &[]), Ok(Applied::Done));
    guid
}

/// UIDs and GUIDs of a mailbox.
fn messages(state: &State, mailbox: Guid) -> Vec<(u32, u8)> {
    let index = state.selectable(mailbox).expect("it is there");
    index.rows_all().map(|row| (row.uid().get(), row.guid().0[0])).collect()
}

fn flags(name: &str) -> FlagSet {
    [Flag::parse(name).expect("a flag")].into_iter().collect()
}

/// Holds with the rule, and not where the fault is planted.
fn holds(run: impl Fn() -> bool, planted: Fault) {
    assert!(run());
    #[cfg(feature = "planted-faults")]
    {
        crate::fault::set(Some(planted));
        let found = !run();
        crate::fault::set(None);
        assert!(found, "{planted:?} is not found");
    }
    let _ = planted;
}

#[test]
fn a_gap_stands_between_the_records_of_two_owners() {
    let id = AccountId::parse("joe@example.org").expect("an id");
    let record = |epoch, lsn, guid| LoadedRecord {
        position: Position { epoch, lsn },
        meta: append(Guid::INBOX, guid).encode(),
        bodies: Vec::new(),
    };
    let gap = |epoch| (Position { epoch, lsn: 0 }, OF);
    let of = |records: Vec<LoadedRecord>, gaps| {
        rebuild(&id, Loaded { records, gaps, ..Loaded::default() }).expect("it is sound")
    };
    holds(
        || {
            let (state, position, _) = of(vec![record(0, 5, 1), record(1, 7, 2)], vec![gap(1)]);
            messages(&state, Guid::INBOX) == [(1, 1), (GAP + 2, 2)]
                && position == Position { epoch: 1, lsn: 7 }
        },
        Fault::GapWithoutUids,
    );
    let (without, ..) = of(vec![record(0, 5, 1)], Vec::new());
    let (state, position, _) = of(vec![record(0, 5, 1)], vec![gap(1), gap(3)]);
    // The blocks of such an account contain the gaps, and say so.
    assert_eq!(position, gap(3).0);
    let (index, before) = (&state.mailboxes[&Guid::INBOX], &without.mailboxes[&Guid::INBOX]);
    assert_eq!(index.uid_next().get(), before.uid_next().get() + 2 * GAP);
    assert_eq!(index.highest_modseq(), state.highest_modseq());
    assert!(index.highest_modseq().get() >= before.highest_modseq().get() + 2 * u64::from(GAP));
    assert!(index.dirty(), "it is not stored");
}

#[test]
fn a_late_record_counts_once() {
    holds(
        || {
            let mut state = State::new();
            state.raise(OF);
            for lsn in [5, 6, 5, 6] {
                let record = late(lsn, append(Guid::INBOX, lsn as u8));
                state.apply(&record, &place(lsn as u8)).expect("it is taken");
            }
            messages(&state, Guid::INBOX) == [(GAP + 1, 5), (GAP + 2, 6)] && state.late_mark(OF) == Some(6)
        },
        Fault::LateTwice,
    );
}

#[test]
fn late_messages_of_a_mailbox_that_is_gone_come_to_inbox() {
    let mut state = State::new();
    let gone = Guid([7; 16]);
    let record = late(1, append(gone, 1));
    assert_eq!(conflicts(&state, &append(gone, 1)), Some(true));
    assert!(matches!(state.apply(&record, &place(1)), Ok(Applied::Append { .. })));
    assert_eq!(messages(&state, Guid::INBOX), [(1, 1)]);
}

#[test]
fn late_changes_find_their_messages_by_guid() {
    let mut state = State::new();
    let work = create(&mut state, 8, "Work");
    state.apply(&append(Guid::INBOX, 1), &place(1)).expect("there is room");
    state.raise(OF);
    // The earlier owner gave 2 and 3 the UIDs 2 and 3; now they come after the gap, behind one that it never saw.
    state.apply(&append(Guid::INBOX, 4), &place(4)).expect("there is room");
    for guid in [2, 3] {
        state.apply(&late(u64::from(guid), append(Guid::INBOX, guid)), &place(guid)).expect("there is room");
    }
    let named = |record, uids: &[u8]| {
        let messages = uids.iter().map(|uid| (u32::from(*uid), Guid([*uid; 16]))).collect();
        Record::Named { record: Box::new(record), messages }
    };
    let store = Record::Store {
        mailbox: Guid::INBOX,
        uids: everything(),
        op: StoreOp::Add,
        flags: flags("\\Flagged"),
        unchanged_since: None,
    };
    state.apply(&late(4, named(store, &[1, 2])), &[]).expect("they are there");
    let flagged: Vec<u8> = {
        let index = state.selectable(Guid::INBOX).expect("it is there");
        index.rows_all().filter(|row| row.has(SystemFlag::Flagged)).map(|row| row.guid().0[0]).collect()
    };
    assert_eq!(flagged, [1, 2], "a message that was not meant is flagged");
    let moved = Record::Copy {
        from: Guid::INBOX,
        uids: everything(),
        to: work,
        save_date: 1,
        remove: true,
        whole: true,
    };
    state.apply(&late(5, named(moved, &[2])), &[]).expect("it is there");
    assert_eq!(messages(&state, work), [(GAP + 1, 2)]);
    let expunge = Record::Expunge { mailbox: Guid::INBOX, uids: everything(), only_deleted: false };
    let expunge = named(expunge, &[1, 2]);
    assert_eq!(conflicts(&state, &expunge), Some(true), "one of them is elsewhere");
    state.apply(&late(6, expunge), &[]).expect("one is there");
    assert_eq!(messages(&state, Guid::INBOX), [(GAP + 2, 4), (GAP + 4, 3)]);
}

#[test]
fn what_was_told_to_nobody_is_not_taken_up() {
    let mut state = State::new();
    let work = create(&mut state, 8, "Work");
    let modseq = state.highest_modseq();
    for (lsn, record) in [Record::Delete { guid: work }, Record::DeleteAccount].into_iter().enumerate() {
        assert_eq!(conflicts(&state, &record), None);
        assert_eq!(state.apply(&late(lsn as u64, record), &[]), Err(Refusal::Cannot));
    }
    assert!(state.selectable(work).is_some() && state.highest_modseq() == modseq);
}

#[test]
fn what_comes_late_does_not_go_to_the_namesake_of_a_deleted_account() {
    holds(
        || {
            let mut state = State::new();
            state.raise(OF);
            state.apply(&Record::DeleteAccount, &[]).expect("ended");
            // Also where blocks were written and read since.
            let block = culver_index::account::AccountState::decode(&state.account.encode());
            state.account = block.expect("it is sound");
            let theirs = state.apply(&late(5, append(Guid::INBOX, 1)), &place(1));
            // Of an owner after the deletion everything counts.
            let other = Guid([10; 16]);
            state.raise(other);
            let record = Record::Late { of: other, lsn: 5, record: Box::new(append(Guid::INBOX, 2)) };
            state.apply(&record, &place(2)).expect("it is taken");
            theirs == Ok(Applied::Done) && messages(&state, Guid::INBOX).iter().map(|(_, guid)| *guid).eq([2])
        },
        Fault::LateToNamesake,
    );
}

#[test]
fn of_messages_with_one_guid_as_many_are_meant_as_were_named() {
    let mut state = State::new();
    for guid in [1, 1, 2, 3] {
        state.apply(&append(Guid::INBOX, guid), &place(guid)).expect("there is room");
    }
    let index = state.selectable(Guid::INBOX).expect("it is there");
    let named = |messages: &[(u32, u8)]| -> Vec<u32> {
        let messages: Vec<_> = messages.iter().map(|(uid, guid)| (*uid, Guid([*guid; 16]))).collect();
        found(index, &messages).iter().collect()
    };
    assert_eq!(named(&[(2, 1), (9, 1), (8, 2)]), [1, 2, 3]);
    assert_eq!(named(&[(9, 1)]), [2], "the newest");
    assert_eq!(named(&[(9, 7), (4, 3)]), [4], "one that is gone takes no other with it");
}
