//! What came late of an earlier owner, many records at a time, through the journal and a start.

use culver_mailbox::record::{Message, Record, StoreOp};
use culver_mailbox::{Accounts, Limits};
use culver_model::{AccountId, Flag, FlagSet, Guid, PartitionId, SystemFlag, UidSet};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_storage::{Body, LateRecord, Limits as StorageLimits, Root, Source, Storage};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

const STORE: &str = "/store";
const P: PartitionId = PartitionId(0);
/// The journal of the earlier owner.
const OF: Guid = Guid([9; 16]);
/// More than are on their way together.
const MESSAGES: u32 = 600;

fn limits() -> StorageLimits {
    StorageLimits { partitions: 1, ..StorageLimits::default() }
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

fn guid(number: u32) -> Guid {
    let mut guid = Guid([7; 16]);
    guid.0[..4].copy_from_slice(&number.to_le_bytes());
    guid
}

fn append(number: u32) -> LateRecord {
    let octets = format!("Subject: {number}\r\n\r\n").into_bytes();
    let message = Message { guid: guid(number), size: octets.len() as u64, ..Message::default() };
    let meta = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) }.encode();
    let body = Body::inline(octets, &limits()).unwrap_or_else(|_| panic!("it is small"));
    LateRecord { lsn: u64::from(number) * 10, meta, bodies: vec![body] }
}

/// Flags the message that came right before.
fn flag(number: u32) -> LateRecord {
    let flags: FlagSet = [Flag::parse("\\Flagged").expect("a flag")].into_iter().collect();
    let uids: UidSet = [number].into_iter().collect();
    let (mailbox, op) = (Guid::INBOX, StoreOp::Add);
    let record = Box::new(Record::Store { mailbox, uids, op, flags, unchanged_since: None });
    let meta = Record::Named { record, messages: vec![(number, guid(number))] }.encode();
    LateRecord { lsn: u64::from(number) * 10 + 1, meta, bodies: Vec::new() }
}

fn all() -> Vec<LateRecord> {
    (1..=MESSAGES)
        .flat_map(|number| [Some(append(number)), (number % 100 == 0).then(|| flag(number))])
        .flatten()
        .collect()
}

/// The messages in the order of their UIDs, and those that are flagged.
async fn messages(accounts: &Rc<Accounts>) -> (Vec<Guid>, Vec<Guid>) {
    let session = accounts.session(&joe()).await.expect("opens");
    let state = session.account().state();
    let index = state.selectable(Guid::INBOX).expect("INBOX");
    let flagged = index.rows_all().filter(|row| row.has(SystemFlag::Flagged)).map(|row| row.guid());
    (index.rows_all().map(|row| row.guid()).collect(), flagged.collect())
}

fn expected() -> (Vec<Guid>, Vec<Guid>) {
    ((1..=MESSAGES).map(guid).collect(), (1..=MESSAGES / 100).map(|nth| guid(nth * 100)).collect())
}

#[test]
fn many_late_records_are_taken_up_in_their_order_and_once() {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    life(&sim, node, |accounts| async move {
        let merged = accounts.merge(P, &joe(), OF, all()).await.expect("taken up");
        assert_eq!((merged.records, merged.conflicts), (u64::from(MESSAGES + MESSAGES / 100), 0));
        assert_eq!(messages(&accounts).await, expected());
    });
    sim.crash(node);
    life(&sim, node, |accounts| async move {
        assert_eq!(messages(&accounts).await, expected());
        let again = accounts.merge(P, &joe(), OF, all()).await.expect("taken up");
        assert_eq!(again.records, 0, "a record counts twice");
        assert_eq!(messages(&accounts).await, expected());
    });
}

/// A rebuild restores what stood in the store and was not told; later its tail comes, with the same message.
#[test]
fn a_message_that_is_there_does_not_come_again() {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    life(&sim, node, |accounts| async move {
        let other = Guid([8; 16]);
        accounts.merge(P, &joe(), other, vec![append(1)]).await.expect("taken up");
        let merged = accounts.merge(P, &joe(), OF, vec![append(1), append(2)]).await.expect("taken up");
        assert_eq!((merged.records, merged.conflicts), (2, 0));
        assert_eq!(messages(&accounts).await.0, [guid(1), guid(2)]);
    });
}
