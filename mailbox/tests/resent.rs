//! Deliveries that are sent again, through journal, flush and starts; and a change whose outcome comes late.

use culver_mailbox::accounts::rebuild;
use culver_mailbox::record::Record;
use culver_mailbox::{Accounts, Applied, Arriving, Limits, inside};
use culver_model::{AccountId, DeliveryId, FlagSet, Guid, InternalDate, PartitionId};
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};
use culver_shard::time;
use culver_storage::{Limits as StorageLimits, Root, Storage, check};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const STORE: &str = "/store";
/// Above this a body stands in a pack of its own.
const INLINE_OCTETS: usize = 4_000;

fn limits() -> StorageLimits {
    StorageLimits { partitions: 1, inline_body_max: INLINE_OCTETS, ..StorageLimits::default() }
}

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
            let mut root = Root::open(Path::new(STORE), limits()).await.expect("opens");
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

/// Delivers a message of this id; whether it is known to be there already.
async fn deliver(accounts: &Rc<Accounts>, id: u8, octets: usize) -> bool {
    let mut arriving =
        Arriving::deliver(accounts, &joe(), InternalDate::new(1_800_000_000, 0), octets as u64);
    arriving.set_delivery(Some(DeliveryId([id; DeliveryId::OCTETS])));
    arriving.feed(b"Subject: again\r\n\r\n").await.expect("taken");
    arriving.feed(&vec![b'x'; octets]).await.expect("taken");
    let (message, body) = arriving.finish().await.expect("taken");
    accounts.deliver(&joe(), None, message, body).await.expect("committed")
}

async fn uids(accounts: &Rc<Accounts>) -> Vec<u32> {
    let session = accounts.session(&joe()).await.expect("opens");
    let state = session.account().state();
    state.selectable(Guid::INBOX).expect("INBOX").uids().iter().collect()
}

#[test]
fn a_message_that_is_sent_again_is_kept_once_whatever_lies_between() {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    life(&sim, node, |accounts| async move {
        // The account is closed: nobody can tell yet.
        assert!(!deliver(&accounts, 1, 10).await && !deliver(&accounts, 1, 10).await);
        assert_eq!(accounts.open_count(), 0, "a delivery opens no account");
        assert!(!deliver(&accounts, 2, 10).await);
        assert_eq!(uids(&accounts).await, [1, 2]);
        let session = accounts.session(&joe()).await.expect("opens");
        assert!(deliver(&accounts, 2, 10).await, "an open account knows");
        drop(session);
    });
    sim.crash(node);
    // Replayed, flushed as it stands in the journal, and read from its blocks.
    life(&sim, node, |accounts| async move {
        assert!(!deliver(&accounts, 1, 10).await);
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        assert!(!deliver(&accounts, 2, 10).await);
        assert!(!deliver(&accounts, 3, 10).await);
        assert_eq!(uids(&accounts).await, [1, 2, 3]);
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
    });
    // Delta upon delta, of an account that is open and one that is not; now and then a base.
    life(&sim, node, |accounts| async move {
        for id in 4..60 {
            let session = accounts.session(&joe()).await.expect("opens");
            assert!(deliver(&accounts, id - 1, 10).await, "{id}: the one before");
            assert!(!deliver(&accounts, id, 10).await, "{id}");
            if id % 3 == 0 {
                drop(session);
                accounts.storage().flush(PartitionId(0)).await.expect("flushed");
            } else {
                accounts.storage().flush(PartitionId(0)).await.expect("flushed");
                drop(session);
            }
        }
    });
    life(&sim, node, |accounts| async move {
        let loaded = accounts.storage().load(PartitionId(0), &joe()).await.expect("loads");
        let (state, ..) = rebuild(&joe(), loaded).expect("whole");
        assert_eq!(state.deliveries.len(), 59);
        for id in 1..60 {
            deliver(&accounts, id, 10).await;
        }
        assert_eq!(uids(&accounts).await.len(), 59);
    });
    let findings = Rc::new(Cell::new(None));
    let found = findings.clone();
    sim.start(node, 1, move |_| {
        let found = found.clone();
        async move {
            let report = check(Path::new(STORE), &mut inside).await.expect("checked");
            found.set(Some(report.findings));
        }
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    assert_eq!(findings.take(), Some(Vec::new()));
}

#[test]
fn the_body_of_a_message_that_is_sent_again_is_garbage() {
    let sim = Sim::new(2, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let packs = |sim: &Sim| {
        let names = sim.files(node).into_iter().map(|(path, _)| path.to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".pack")).count()
    };
    // To a closed account, which is looked at when it is flushed.
    life(&sim, node, |accounts| async move {
        for _ in 0..3 {
            deliver(&accounts, 1, 2 * INLINE_OCTETS).await;
        }
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        assert_eq!(accounts.open_count(), 0);
        // That flush had to spare what its blocks might have named; a compaction finds nothing alive in it.
        while accounts.storage().compact().await.expect("compacted") {}
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
    });
    assert_eq!(packs(&sim), 1);
    // To an open one, and to one that was opened between the delivery and the flush.
    life(&sim, node, |accounts| async move {
        let session = accounts.session(&joe()).await.expect("opens");
        assert!(deliver(&accounts, 1, 2 * INLINE_OCTETS).await);
        drop(session);
        deliver(&accounts, 1, 2 * INLINE_OCTETS).await;
        assert_eq!(uids(&accounts).await, [1]);
        assert_eq!(uids(&accounts).await, [1]);
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
    });
    assert_eq!(packs(&sim), 1);
}

#[test]
fn what_becomes_of_a_change_that_was_late_is_told_to_who_waits_on() {
    let sim = Sim::new(3, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let faults = sim.clone();
    life(&sim, node, move |accounts| {
        let faults = faults.clone();
        async move {
            let session = accounts.session(&joe()).await.expect("opens");
            let date = InternalDate::new(1_800_000_000, 0);
            let mut arriving = Arriving::begin(&session, Guid::INBOX, date, FlagSet::default(), 100);
            arriving.feed(b"Subject: late\r\n\r\n").await.expect("taken");
            let (message, body) = arriving.finish().await.expect("taken");
            // Each call of the disk takes longer than a client waits.
            faults.faults(node, Faults { slow: Duration::from_secs(100), ..Faults::default() });
            let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
            let began = time::now();
            let Err(mut late) = session.change_or_late(record, Some(body)).await else {
                panic!("it was in time")
            };
            assert!(began.elapsed() >= Duration::from_secs(60) && began.elapsed() < Duration::from_secs(70));
            faults.faults(node, Faults::default());
            let mut outcome = late.outcome().await;
            while outcome.is_none() {
                outcome = late.outcome().await;
            }
            let Some(Ok(Applied::Append { uid, .. })) = outcome else { panic!("it was not made") };
            drop(session);
            assert_eq!(uids(&accounts).await, [uid.get()]);
        }
    });
}
