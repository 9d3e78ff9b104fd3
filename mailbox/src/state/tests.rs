use super::*;
use crate::record::Message;
use culver_index::deliveries::DELIVERIES_MAX;
use culver_model::DeliveryId;

fn name(text: &str) -> MailboxName {
    MailboxName::parse(text).expect("a name")
}

fn flags(names: &[&str]) -> FlagSet {
    names.iter().map(|name| Flag::parse(name).expect("a flag")).collect()
}

fn append(state: &mut State, mailbox: Guid, place: u8, with: FlagSet) -> Result<Applied, Refusal> {
    let message = Message { guid: Guid([place; 16]), flags: with, ..Message::default() };
    let record = Record::Append { mailbox, message: Box::new(message) };
    state.apply(&record, &[[place; PLACE_OCTETS]])
}

fn create(state: &mut State, guid: u8, text: &str) -> Guid {
    let guid = Guid([guid; 16]);
    let record = Record::Create { guid, name: name(text), special_use: None, selectable: true };
    assert_eq!(state.apply(&record, &[]), Ok(Applied::Done), "{text}");
    guid
}

fn copy(from: Guid, to: Guid, remove: bool) -> Record {
    Record::Copy { from, uids: everything(), to, save_date: 0, remove, whole: false }
}

#[test]
fn a_copy_that_meets_the_keyword_limit_changes_nothing() {
    let mut state = State::new();
    let target = create(&mut state, 7, "full");
    let words: Vec<String> = (0..511).map(|number| format!("k{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    append(&mut state, target, 1, flags(&words)).expect("there is room");
    append(&mut state, Guid::INBOX, 2, flags(&["one"])).expect("there is room");
    append(&mut state, Guid::INBOX, 3, flags(&["two"])).expect("there is room");
    let (modseq, before) = (state.highest_modseq(), state.mailboxes[&target].highest_modseq());
    assert_eq!(state.apply(&copy(Guid::INBOX, target, false), &[]), Err(Refusal::Limit));
    assert_eq!(state.mailboxes[&target].len(), 1);
    assert_eq!(state.highest_modseq(), modseq);
    assert_eq!(state.mailboxes[&target].highest_modseq(), before);
}

#[test]
fn a_whole_copy_is_refused_where_one_message_is_gone() {
    let mut state = State::new();
    let target = create(&mut state, 7, "t");
    append(&mut state, Guid::INBOX, 1, FlagSet::default()).expect("room");
    let uids: UidSet = [1..=2].into_iter().collect();
    let record =
        Record::Copy { from: Guid::INBOX, uids, to: target, save_date: 0, remove: false, whole: true };
    assert_eq!(state.apply(&record, &[]), Err(Refusal::Gone));
    assert!(state.mailboxes[&target].is_empty());
}

#[test]
fn copies_have_uidls_of_their_own_and_bodies_that_no_expunge_of_one_frees() {
    let mut state = State::new();
    append(&mut state, Guid::INBOX, 1, FlagSet::default()).expect("room");
    state.apply(&copy(Guid::INBOX, Guid::INBOX, false), &[]).expect("copied");
    let index = &state.mailboxes[&Guid::INBOX];
    let uidls: Vec<Option<&str>> = index.rows_all().map(|row| row.pop3_uidl()).collect();
    assert_eq!(uidls.len(), 2);
    assert_ne!(uidls[0], uidls[1]);
    let first: UidSet = [1..=1].into_iter().collect();
    let record = Record::Expunge { mailbox: Guid::INBOX, uids: first, only_deleted: false };
    state.apply(&record, &[]).expect("expunged");
    assert!(state.freed.is_empty(), "the copy still names the body");
}

#[test]
fn what_is_refused_changes_no_counter() {
    let mut state = State::new();
    create(&mut state, 7, "a/b");
    let before = (state.account.clone(), state.mailboxes.len());
    let refused = [
        Record::Create { guid: Guid([8; 16]), name: name("a"), special_use: None, selectable: true },
        Record::Delete { guid: Guid::INBOX },
        Record::Delete { guid: Guid([9; 16]) },
        Record::Rename { guid: Guid([7; 16]), to: name("a/b/c") },
        Record::Rename { guid: Guid([7; 16]), to: name("a") },
        Record::RenameInbox { guid: Guid([9; 16]), to: name("a/b"), save_date: 0 },
        copy(Guid::INBOX, Guid([9; 16]), true),
    ];
    for record in refused {
        assert!(state.apply(&record, &[]).is_err(), "{record:?}");
        assert_eq!((state.account.clone(), state.mailboxes.len()), before, "{record:?}");
    }
}

#[test]
fn a_recreated_mailbox_has_a_higher_uidvalidity_and_an_ended_account_shows_nothing_old() {
    let mut state = State::new();
    let guid = create(&mut state, 7, "x");
    let first = state.mailboxes[&guid].uid_validity();
    state.apply(&Record::Delete { guid }, &[]).expect("deleted");
    let guid = create(&mut state, 8, "x");
    assert!(state.mailboxes[&guid].uid_validity() > first);
    append(&mut state, Guid::INBOX, 1, FlagSet::default()).expect("room");
    let (incarnation, validity) = (state.account.incarnation, state.account.uid_validity);
    state.apply(&Record::DeleteAccount, &[]).expect("ended");
    assert_ne!(state.account.incarnation, incarnation);
    assert!(state.mailboxes[&Guid::INBOX].is_empty());
    assert!(state.mailboxes[&Guid::INBOX].uid_validity().get() > validity);
}

fn deliver(state: &mut State, mailbox: Guid, place: u8, id: u8, save_date: i64) -> Result<Applied, Refusal> {
    let delivery = Some(DeliveryId([id; DeliveryId::OCTETS]));
    let message = Message { guid: Guid([place; 16]), save_date, delivery, ..Message::default() };
    let record = Record::Append { mailbox, message: Box::new(message) };
    state.apply(&record, &[[place; PLACE_OCTETS]])
}

#[test]
fn a_delivery_that_is_sent_again_changes_nothing_and_its_body_is_nobodys() {
    let mut state = State::new();
    let made = deliver(&mut state, Guid::INBOX, 1, 1, 0).expect("room");
    assert!(matches!(made, Applied::Append { .. }));
    let before = (state.account.clone(), state.mailboxes[&Guid::INBOX].uid_next());
    assert_eq!(deliver(&mut state, Guid::INBOX, 2, 1, 60), Ok(Applied::Repeated));
    assert_eq!((state.account.clone(), state.mailboxes[&Guid::INBOX].uid_next()), before);
    assert_eq!(std::mem::take(&mut state.untaken), [[2; PLACE_OCTETS]]);
    // It is known when the message itself is gone, and wherever it is sent to.
    let expunge = Record::Expunge { mailbox: Guid::INBOX, uids: everything(), only_deleted: false };
    state.apply(&expunge, &[]).expect("expunged");
    assert_eq!(deliver(&mut state, Guid([9; 16]), 3, 1, 90), Ok(Applied::Repeated));
    // Another id, and no id at all, are other messages.
    deliver(&mut state, Guid::INBOX, 4, 2, 90).expect("room");
    append(&mut state, Guid::INBOX, 5, FlagSet::default()).expect("room");
    append(&mut state, Guid::INBOX, 6, FlagSet::default()).expect("room");
    assert_eq!(state.mailboxes[&Guid::INBOX].len(), 3);
}

#[test]
fn a_delivery_that_was_refused_is_not_known() {
    let mut state = State::new();
    assert_eq!(deliver(&mut state, Guid([9; 16]), 1, 1, 0), Err(Refusal::NonExistent));
    assert!(state.deliveries.is_empty());
    assert!(matches!(deliver(&mut state, Guid::INBOX, 2, 1, 60), Ok(Applied::Append { .. })));
}

#[test]
fn deliveries_are_forgotten_by_number_by_age_and_with_the_account() {
    let mut state = State::new();
    deliver(&mut state, Guid::INBOX, 1, 1, 0).expect("room");
    let days = |days: i64| days * 24 * 3600;
    assert_eq!(deliver(&mut state, Guid::INBOX, 2, 1, days(5)), Ok(Applied::Repeated));
    assert!(matches!(deliver(&mut state, Guid::INBOX, 3, 1, days(5) + 1), Ok(Applied::Append { .. })));
    for id in 0..DELIVERIES_MAX as u8 {
        deliver(&mut state, Guid::INBOX, 4, 100 + id, days(6)).expect("room");
    }
    assert!(matches!(deliver(&mut state, Guid::INBOX, 5, 1, days(6)), Ok(Applied::Append { .. })));
    state.apply(&Record::DeleteAccount, &[]).expect("ended");
    assert!(matches!(deliver(&mut state, Guid::INBOX, 6, 1, days(6)), Ok(Applied::Append { .. })));
}

#[test]
fn a_moved_body_that_no_message_names_is_nobodys() {
    let mut state = State::new();
    append(&mut state, Guid::INBOX, 1, FlagSet::default()).expect("room");
    let record = Record::Relocate { from: vec![[1; PLACE_OCTETS], [2; PLACE_OCTETS]] };
    state.apply(&record, &[[3; PLACE_OCTETS], [4; PLACE_OCTETS]]).expect("moved");
    assert_eq!(state.untaken, [[4; PLACE_OCTETS]]);
}

#[test]
fn a_body_that_an_unfinished_rebuild_may_restore_is_not_told_to_be_dead() {
    let relocate = Record::Relocate { from: vec![[1; PLACE_OCTETS], [2; PLACE_OCTETS]] };
    let to = [[3; PLACE_OCTETS], [4; PLACE_OCTETS]];
    for unfinished in [None, Some(Unfinished::default())] {
        let mut state = State::new();
        append(&mut state, Guid::INBOX, 1, FlagSet::default()).expect("room");
        state.unfinished = unfinished.clone();
        assert_eq!(state.apply(&relocate, &to), Ok(Applied::Done));
        let untaken: &[_] = if unfinished.is_none() { &to[1..] } else { &[] };
        assert_eq!(state.untaken, untaken);
    }
}

fn entry(text: &str) -> EntryName {
    EntryName::parse(text.as_bytes()).expect("an entry")
}

fn annotate(
    state: &mut State,
    mailbox: Option<Guid>,
    entries: &[(&str, Option<&str>)],
) -> Result<Applied, Refusal> {
    let entries =
        entries.iter().map(|(name, value)| (entry(name), value.map(|value| value.as_bytes().to_vec())));
    state.apply(&Record::Annotate { mailbox, entries: entries.collect() }, &[])
}

#[test]
fn annotations_are_set_together_or_not_at_all() {
    let mut state = State::new();
    let guid = create(&mut state, 7, "a");
    let before = state.highest_modseq();
    let applied =
        annotate(&mut state, Some(guid), &[("/private/comment", Some("x")), ("/shared/comment", Some("y"))]);
    let modseq = Some(before.next());
    assert_eq!(applied, Ok(Applied::Annotated { modseq, lost_use: None }));
    assert_eq!(state.highest_modseq(), before.next());
    // What is as it was set to is no change.
    let applied = annotate(&mut state, Some(guid), &[("/private/comment", Some("x"))]);
    assert_eq!(applied, Ok(Applied::Annotated { modseq: None, lost_use: None }));
    assert_eq!(state.highest_modseq(), before.next());
    let long = "x".repeat(culver_index::annotations::VALUE_OCTETS_MAX + 1);
    for (mailbox, entries, refusal) in [
        (Some(guid), [("/private/a", Some("1")), ("/private/b", Some(&long[..]))], Refusal::Limit),
        (
            Some(guid),
            [("/private/a", Some("1")), ("/private/specialuse", Some("\\Sent \\Junk"))],
            Refusal::Cannot,
        ),
        (Some(guid), [("/private/a", Some("1")), ("/private/vendor/x", Some("1"))], Refusal::Cannot),
        (
            Some(Guid::INBOX),
            [("/private/a", Some("1")), ("/private/specialuse", Some("\\Sent"))],
            Refusal::Cannot,
        ),
        (Some(Guid([9; 16])), [("/private/a", Some("1")), ("/private/b", None)], Refusal::NonExistent),
    ] {
        assert_eq!(annotate(&mut state, mailbox, &entries), Err(refusal));
    }
    assert_eq!((state.annotations.len(), state.highest_modseq()), (2, before.next()));
}

#[test]
fn annotations_live_as_long_as_their_mailbox() {
    let mut state = State::new();
    let (above, below) = (create(&mut state, 7, "a"), create(&mut state, 8, "a/b"));
    for guid in [above, below, Guid::INBOX] {
        annotate(&mut state, Some(guid), &[("/private/comment", Some("x"))]).expect("room");
    }
    state.apply(&Record::Rename { guid: above, to: name("c") }, &[]).expect("renamed");
    assert_eq!(state.annotations.get(below, &entry("/private/comment")), Some(&b"x"[..]));
    state.apply(&Record::Delete { guid: above }, &[]).expect("deleted");
    let place_holder = state.entry(&name("c")).expect("it has a child").guid;
    assert_ne!(place_holder, above);
    assert_eq!(state.annotations.len(), 2);
    annotate(&mut state, Some(place_holder), &[("/private/comment", Some("of a name"))]).expect("room");
    create(&mut state, 9, "c");
    assert_eq!(state.annotations.len(), 2);
    let inbox = Record::RenameInbox { guid: Guid([5; 16]), to: name("old"), save_date: 0 };
    state.apply(&inbox, &[]).expect("renamed");
    assert_eq!(state.annotations.get(Guid([5; 16]), &entry("/private/comment")), Some(&b"x"[..]));
    assert_eq!(state.annotations.get(Guid::INBOX, &entry("/private/comment")), Some(&b"x"[..]));
    state.apply(&Record::DeleteAccount, &[]).expect("ended");
    assert!(state.annotations.is_blank());
}

#[test]
fn a_special_use_is_that_of_one_mailbox() {
    let mut state = State::new();
    let (mine, saved) = (create(&mut state, 7, "MyDrafts"), create(&mut state, 8, "SavedDrafts"));
    let drafts = [("/private/specialuse", Some("\\Drafts"))];
    annotate(&mut state, Some(mine), &drafts).expect("it can");
    let since = state.highest_modseq();
    let applied = annotate(&mut state, Some(saved), &drafts);
    assert_eq!(applied, Ok(Applied::Annotated { modseq: Some(since.next()), lost_use: Some(mine) }));
    let use_of = |state: &State, guid| state.entry_of(guid).expect("there").special_use.clone();
    assert_eq!((use_of(&state, mine), use_of(&state, saved)), (None, Some("\\Drafts".to_owned())));
    // Nothing of it is kept twice; that both changed is known.
    assert_eq!(state.annotations.len(), 0);
    assert_eq!(state.annotations.changed_since(since).count(), 2);
    let blocks = |state: &State| {
        let annotations = state.annotations.encode().0;
        vec![
            (ACCOUNT_KEY, vec![Block::from(state.account.encode())]),
            (ANNOTATIONS_KEY, vec![Block::from(annotations)]),
        ]
    };
    let mut again = State::load(blocks(&state)).expect("whole");
    assert!(again.annotations == state.annotations && !again.annotations.dirty());
    // A program that knows nothing of them has deleted the mailbox.
    again.account.mailboxes.retain(|entry| entry.guid != mine);
    assert_eq!(State::load(blocks(&again)).expect("whole").annotations.changed_since(since).count(), 1);
    annotate(&mut state, Some(saved), &[("/private/specialuse", None)]).expect("it can");
    assert_eq!(use_of(&state, saved), None);
}
