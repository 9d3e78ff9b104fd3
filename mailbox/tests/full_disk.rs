//! A full disk, as a session meets it: mail is refused in words of its own, what frees space is taken, and nobody loses
//! the session for it.

use culver_mailbox::record::{Record, StoreOp};
use culver_mailbox::{Accounts, Applied, Arriving, ChangeError, Limits, Session, everything};
use culver_model::{AccountId, Flag, FlagSet, Guid, InternalDate, SystemFlag};
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};
use culver_shard::time;
use culver_storage::{Limits as StorageLimits, Root, Storage};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Room for some segments, and not for many.
const CAPACITY_OCTETS: u64 = 1 << 20;

fn limits() -> StorageLimits {
    StorageLimits {
        partitions: 1,
        segment_octets: 128 << 10,
        reserve_octets: 64 << 10,
        tick: Duration::from_millis(20),
        ..StorageLimits::default()
    }
}

async fn append(session: &Session) -> Result<Applied, ChangeError> {
    let date = InternalDate::new(1_800_000_000, 0);
    let mut arriving = Arriving::begin(session, Guid::INBOX, date, FlagSet::default(), 8_000);
    arriving.feed(b"Subject: full\r\n\r\n").await.map_err(|error| {
        assert!(error.is_no_space(), "{error}");
        ChangeError::NoSpace
    })?;
    arriving.feed(&[b'x'; 8_000]).await.expect("what was begun is taken");
    let (message, body) = arriving.finish().await.expect("what was begun is taken");
    let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
    session.change_with(record, Some(body)).await
}

fn store(flag: SystemFlag) -> Record {
    let flags = [Flag::System(flag)].into_iter().collect();
    Record::Store { mailbox: Guid::INBOX, uids: everything(), op: StoreOp::Add, flags, unchanged_since: None }
}

fn len(session: &Session) -> u32 {
    session.account().state().selectable(Guid::INBOX).expect("INBOX").len()
}

/// Runs the node to its end; `capacity` is what its disk holds.
fn life<F, Fut>(sim: &Sim, node: NodeId, capacity: u64, work: F)
where
    F: Fn(Session) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    sim.faults(node, Faults { capacity_octets: capacity, ..Faults::default() });
    let work = Rc::new(work);
    sim.start(node, 1, move |_| {
        let work = work.clone();
        async move {
            let mut root = Root::open(Path::new("/store"), limits()).await.expect("opens");
            let share = root.recover(1).await.expect("recovers").remove(0);
            let storage = Storage::start(share).await.expect("starts");
            let accounts = Accounts::new(Limits::default());
            accounts.attach(storage.clone());
            let account = AccountId::parse("joe@example.org").expect("an id");
            work(accounts.session(&account).await.expect("opens")).await;
            storage.close(true).await;
        }
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
}

#[test]
fn a_full_disk_refuses_mail_in_its_own_words_and_ends_no_session() {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let done = Rc::new(Cell::new(0));
    let count = done.clone();
    life(&sim, node, CAPACITY_OCTETS, move |session| {
        let count = count.clone();
        async move {
            let mut taken = 0;
            let refused = loop {
                match append(&session).await {
                    Ok(_) => taken += 1,
                    Err(error) => break error,
                }
            };
            assert!(taken > 20, "{taken} messages were taken");
            assert!(matches!(refused, ChangeError::NoSpace), "{refused}");
            assert!(!session.account().is_dropped(), "the session was ended");
            assert_eq!(len(&session), taken);
            // Once it is known, a message is refused before its octets are taken, and so is what frees nothing.
            assert!(matches!(append(&session).await, Err(ChangeError::NoSpace)));
            let seen = session.change(store(SystemFlag::Seen)).await;
            assert!(matches!(seen, Err(ChangeError::NoSpace)), "{seen:?}");
            session.change(store(SystemFlag::Deleted)).await.expect("comes before an EXPUNGE");
            let expunge = Record::Expunge { mailbox: Guid::INBOX, uids: everything(), only_deleted: true };
            session.change(expunge).await.expect("frees space");
            assert_eq!(len(&session), 0);
            // Flush, compaction and trim give back what was expunged; then mail is taken again.
            for _ in 0..200 {
                if append(&session).await.is_ok() {
                    count.set(count.get() + 1);
                    break;
                }
                time::sleep(Duration::from_millis(100)).await;
            }
            assert!(!session.account().is_dropped(), "the session was ended");
        }
    });
    assert_eq!(done.get(), 1, "no message was taken after all the others were expunged");
    let count = done.clone();
    life(&sim, node, CAPACITY_OCTETS, move |session| {
        count.set(count.get() + len(&session));
        async {}
    });
    assert_eq!(done.get(), 2, "the message that was taken is there");
}
