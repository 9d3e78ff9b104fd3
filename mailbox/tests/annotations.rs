//! Annotations through journal, flush and starts. What a rebuild keeps of them: `rebuild.rs`.

use culver_mailbox::record::Record;
use culver_mailbox::state::ANNOTATIONS_KEY;
use culver_mailbox::{Accounts, Limits, inside};
use culver_model::{AccountId, EntryName, Guid, PartitionId};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_storage::{Limits as StorageLimits, Root, Storage, check};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

const STORE: &str = "/store";

fn joe() -> AccountId {
    AccountId::parse("joe@example.org").expect("an id")
}

/// One life of the node; it ends in order, without a flush.
fn life<F, Fut, T: 'static>(sim: &Sim, node: NodeId, work: F) -> T
where
    F: Fn(Rc<Accounts>) -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let work = Rc::new(work);
    let done = Rc::new(Cell::new(None));
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
            let made = work(accounts).await;
            storage.close(false).await;
            ended.set(Some(made));
        }
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    done.take().expect("the life ended in order")
}

async fn set(accounts: &Rc<Accounts>, mailbox: Option<Guid>, name: &str, value: Option<&str>) {
    let session = accounts.session(&joe()).await.expect("opens");
    let name = EntryName::parse(name.as_bytes()).expect("an entry");
    let entries = vec![(name, value.map(|value| value.as_bytes().to_vec()))];
    session.change(Record::Annotate { mailbox, entries }).await.expect("set");
}

/// All that is said: of the server first, then by mailbox.
async fn all(accounts: &Rc<Accounts>) -> Vec<String> {
    let session = accounts.session(&joe()).await.expect("opens");
    let state = session.account().state();
    let mut of = vec![culver_index::annotations::SERVER];
    of.extend(state.account.mailboxes.iter().map(|entry| entry.guid));
    let said = of.into_iter().flat_map(|of| state.annotations.of(of));
    said.map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_every_start() {
    let sim = Sim::new(3, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    life(&sim, node, |accounts| async move {
        set(&accounts, None, "/private/vendor/x/y", Some("server")).await;
        set(&accounts, Some(Guid::INBOX), "/private/comment", Some("one")).await;
        set(&accounts, Some(Guid::INBOX), "/shared/comment", Some("two")).await;
    });
    sim.crash(node);
    // Of the journal alone, then of a block, then of both.
    let said = ["/private/vendor/x/y=server", "/private/comment=one", "/shared/comment=two"];
    life(&sim, node, move |accounts| async move {
        assert_eq!(all(&accounts).await, said);
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        assert_eq!(all(&accounts).await, said);
        set(&accounts, Some(Guid::INBOX), "/shared/comment", None).await;
    });
    life(&sim, node, |accounts| async move {
        assert_eq!(all(&accounts).await, ["/private/vendor/x/y=server", "/private/comment=one"]);
        accounts.storage().flush(PartitionId(0)).await.expect("flushed");
        // Nothing of it has changed since: its block is not written again.
        let loaded = accounts.storage().load(PartitionId(0), &joe()).await.expect("loads");
        assert!(loaded.blocks.iter().any(|(key, blocks)| *key == ANNOTATIONS_KEY && blocks.len() == 1));
        set(&accounts, Some(Guid::INBOX), "/private/comment", Some("three")).await;
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
