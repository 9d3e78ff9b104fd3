//! Quota: what is used is known where an account is open and where it is not, and what has no room does not get in.

use culver_mailbox::quota::Allowance;
use culver_mailbox::record::Record;
use culver_mailbox::{Accounts, Arriving, Limits, Refusal, everything};
use culver_model::quota::{Quota, Usage};
use culver_model::{AccountId, FlagSet, Guid, InternalDate, MailboxName, PartitionId};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_storage::{Limits as StorageLimits, Root, Storage};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

const STORE: &str = "/store";
/// Octets of what is delivered.
const MESSAGE: u64 = 100;
const ALLOWED: Allowance =
    Allowance { quota: Quota { octets: Some(3 * MESSAGE), messages: None, mailboxes: None }, grace: 0 };

fn joe() -> AccountId {
    AccountId::parse("joe@example.org").expect("an id")
}

/// One life of the node; it ends in order, without a flush.
fn life<F, Fut>(sim: &Sim, node: NodeId, work: F)
where
    F: Fn(Rc<Accounts>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let work = Rc::new(work);
    let done = Rc::new(Cell::new(false));
    let ended = done.clone();
    sim.start(node, 1, move |_| {
        let (work, ended) = (work.clone(), ended.clone());
        async move {
            let limits = StorageLimits { partitions: 1, ..StorageLimits::default() };
            let mut root = Root::open(Path::new(STORE), limits).await.expect("opens");
            let share = root.recover(1).await.expect("recovers").remove(0);
            let storage = Storage::start(share).await.expect("starts");
            let accounts = Accounts::new(Limits { idle_accounts_max: 0, ..Limits::default() });
            accounts.attach(storage.clone());
            work(accounts).await;
            storage.close(false).await;
            ended.set(true);
        }
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    assert!(done.get(), "the life ended in order");
}

fn message() -> Usage {
    Usage::message(MESSAGE)
}

/// As a delivery does it; `Err`: refused before anything was written.
async fn deliver(accounts: &Rc<Accounts>, allowed: &Allowance) -> Result<(), Refusal> {
    let _room = accounts.hold_room(&joe(), allowed, message())?;
    let mut arriving = Arriving::deliver(accounts, &joe(), InternalDate::new(1_800_000_000, 0), MESSAGE);
    arriving.feed(b"Subject: x\r\n\r\n").await.expect("taken");
    arriving.feed(&[b'x'; MESSAGE as usize - 14]).await.expect("taken");
    let (message, body) = arriving.finish().await.expect("taken");
    assert_eq!(message.size, MESSAGE);
    accounts.deliver(&joe(), None, message, body).await.expect("committed");
    Ok(())
}

async fn usage(accounts: &Rc<Accounts>) -> Usage {
    let session = accounts.session(&joe()).await.expect("opens");
    let state = session.account().state();
    assert_eq!(Usage { mailboxes: 0, ..state.usage() }, state.counted());
    state.usage()
}

fn sim(seed: u64) -> (Sim, NodeId) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    (sim, node)
}

#[test]
fn a_closed_account_is_known_since_it_was_closed_or_flushed() {
    let (sim, node) = sim(1);
    life(&sim, node, |accounts| async move {
        // Nothing is known: as much as its limit is let in, and the answer is not final.
        for _ in 0..3 {
            assert_eq!(deliver(&accounts, &ALLOWED).await, Ok(()));
        }
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::PerhapsOverQuota));
        assert_eq!(accounts.open_count(), 0, "a delivery opens no account");
        // A flush looks at it, and closing it does.
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::OverQuota));
        let session = accounts.session(&joe()).await.expect("opens");
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::OverQuota));
        let record = Record::Expunge {
            mailbox: Guid::INBOX,
            uids: [1..=2].into_iter().collect(),
            only_deleted: false,
        };
        session.change(record).await.expect("expunged");
        drop(session);
        assert_eq!(accounts.open_count(), 0);
        for _ in 0..2 {
            assert_eq!(deliver(&accounts, &ALLOWED).await, Ok(()));
        }
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::OverQuota));
        assert_eq!(usage(&accounts).await, Usage { octets: 3 * MESSAGE, messages: 3, mailboxes: 1 });
    });
    // After a start nothing is known, and no more than the limit once more gets in before the next flush.
    life(&sim, node, |accounts| async move {
        for _ in 0..3 {
            assert_eq!(deliver(&accounts, &ALLOWED).await, Ok(()));
        }
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::PerhapsOverQuota));
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::OverQuota));
        assert_eq!(usage(&accounts).await.messages, 6);
    });
}

#[test]
fn what_is_under_way_counts_and_the_last_message_has_grace() {
    let (sim, node) = sim(2);
    life(&sim, node, |accounts| async move {
        let session = accounts.session(&joe()).await.expect("opens");
        let first = session.hold_room(&ALLOWED, Usage::message(2 * MESSAGE)).expect("room");
        assert_eq!(session.hold_room(&ALLOWED, Usage::message(2 * MESSAGE)).err(), Some(Refusal::OverQuota));
        drop(first);
        let second = session.hold_room(&ALLOWED, Usage::message(2 * MESSAGE)).expect("room");
        assert!(!second.is_soft());
        drop(second);
        let graceful = Allowance { grace: 50, ..ALLOWED };
        let soft = session.hold_room(&graceful, Usage::message(3 * MESSAGE + 50)).expect("grace");
        assert!(soft.is_soft());
        // With that on its way nothing is left, grace neither.
        assert!(session.hold_room(&graceful, Usage::message(1)).is_err());
        drop(soft);
        assert!(session.hold_room(&graceful, Usage::message(3 * MESSAGE + 51)).is_err());
        // An account's own limits count, whoever asks, and whether it is open or not.
        let quota = Some(Quota { messages: Some(1), ..Quota::default() });
        session.change(Record::SetQuota { quota }).await.expect("set");
        drop(session);
        assert_eq!(deliver(&accounts, &ALLOWED).await, Ok(()));
        assert_eq!(deliver(&accounts, &ALLOWED).await, Err(Refusal::OverQuota));
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
    });
    life(&sim, node, |accounts| async move {
        let session = accounts.session(&joe()).await.expect("opens");
        assert_eq!(session.account().state().account.quota.and_then(|quota| quota.messages), Some(1));
        session.change(Record::SetQuota { quota: None }).await.expect("set");
        assert_eq!(deliver(&accounts, &ALLOWED).await, Ok(()));
    });
}

#[test]
fn the_usage_follows_every_change() {
    let (sim, node) = sim(3);
    life(&sim, node, |accounts| async move {
        let unlimited = Allowance::default();
        for _ in 0..4 {
            deliver(&accounts, &unlimited).await.expect("room");
        }
        let session = accounts.session(&joe()).await.expect("opens");
        let (target, old) = (Guid([7; 16]), Guid([8; 16]));
        let name = |text: &str| MailboxName::parse(text).expect("a name");
        let copy = |remove| Record::Copy {
            from: Guid::INBOX,
            uids: [1..=2].into_iter().collect(),
            to: target,
            save_date: 0,
            remove,
            whole: false,
        };
        let expunge = Record::Expunge { mailbox: Guid::INBOX, uids: everything(), only_deleted: false };
        let flags = FlagSet { system: 1, keywords: Vec::new() };
        let op = culver_mailbox::record::StoreOp::Add;
        let store =
            Record::Store { mailbox: Guid::INBOX, uids: everything(), op, flags, unchanged_since: None };
        for (record, messages, mailboxes) in [
            (Record::Create { guid: target, name: name("a/b"), special_use: None, selectable: true }, 4, 3),
            (copy(false), 6, 3),
            (copy(true), 6, 3),
            (store, 6, 3),
            (Record::RenameInbox { guid: old, to: name("old"), save_date: 0 }, 6, 4),
            (expunge, 6, 4),
            (Record::Delete { guid: target }, 2, 3),
            (Record::DeleteAccount, 0, 1),
        ] {
            session.change(record.clone()).await.expect("done");
            let expected = Usage { octets: messages * MESSAGE, messages, mailboxes };
            assert_eq!(usage(&accounts).await, expected, "{record:?}");
        }
    });
}
