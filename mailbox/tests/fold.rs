//! A fold of a mailbox's overlay that comes to a bad end keeps no later one from its work.
#![cfg(feature = "planted-faults")]

use std::path::Path;
use std::time::Duration;

use culver_mailbox::fault::{self, Fault};
use culver_mailbox::record::Record;
use culver_mailbox::{Accounts, Limits, Session};
use culver_model::{AccountId, Guid, PartitionId, UidSet};
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::time;
use culver_storage::{Limits as StorageLimits, Root, Storage};

const PARTITION: PartitionId = PartitionId(0);

async fn append(session: &Session, messages: u32) {
    for nth in 0..messages {
        let message = culver_mailbox::record::Message { guid: Guid([nth as u8; 16]), ..Default::default() };
        let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
        session.change(record).await.expect("it is taken");
    }
}

/// Whether the mailbox is being folded, and whether it should be.
fn fold(session: &Session) -> (bool, bool) {
    let state = session.account().state();
    let index = state.selectable(Guid::INBOX).expect("it can be selected");
    (index.folding(), index.over_bounds())
}

async fn life() {
    let limits =
        StorageLimits { partitions: 1, flush_age: Duration::from_secs(3600), ..StorageLimits::default() };
    let mut root = Root::open(Path::new("/store"), limits).await.expect("it opens");
    let share = root.recover(1).await.expect("it recovers").remove(0);
    let storage = Storage::start(share).await.expect("it starts");
    let accounts = Accounts::new(Limits::default());
    accounts.attach(storage.clone());
    let session =
        accounts.session(&AccountId::parse("joe@example.org").expect("an id")).await.expect("it opens");
    append(&session, 300).await;
    let uids: UidSet = (1..=290).collect();
    session.change(Record::Expunge { mailbox: Guid::INBOX, uids, only_deleted: false }).await.expect("gone");
    assert_eq!(fold(&session), (false, true), "rows of expunged messages are the most");
    for (fault, after) in [(Some(Fault::FoldPanics), (false, true)), (None, (false, false))] {
        fault::set(fault);
        append(&session, 1).await;
        storage.flush(PARTITION).await.expect("it is flushed");
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fold(&session), after, "{fault:?}");
    }
    drop(session);
    storage.close(false).await;
}

#[test]
fn a_fold_that_panics_keeps_no_later_one_from_its_work() {
    let sim = Sim::new(1, SimConfig::default());
    let node = sim.node("mail");
    sim.start(node, 1, |_| life());
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
}
