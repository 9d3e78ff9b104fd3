//! How long a flush of a large mailbox keeps its shard from other work, on the machine that runs this.

use culver_mailbox::record::{Record, StoreOp};
use culver_mailbox::{Accounts, Arriving, Limits, everything};
use culver_model::{AccountId, Flag, FlagSet, Guid, InternalDate, SystemFlag};
use culver_shard::{Config, Queue, spawn, stall, time};
use culver_storage::{Limits as StorageLimits, Root, Storage};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const MESSAGES: u32 = 100_000;

/// Runs `work` while a session asks for the state of its mailbox again and again, as a NOOP does; prints how much the shard
/// computed before it had its turn.
async fn watched<T>(what: &str, accounts: &Rc<Accounts>, id: &AccountId, work: impl Future<Output = T>) -> T {
    let session = accounts.session(id).await.expect("opens");
    let (stop, worst) = (Rc::new(Cell::new(false)), Rc::new(Cell::new((Duration::ZERO, 0u32, 0u32))));
    let (stopped, seen) = (stop.clone(), worst.clone());
    let noops = spawn(Queue::Interactive, "noops", async move {
        while !stopped.get() {
            let before = time::on_core();
            time::sleep(Duration::from_millis(1)).await;
            assert!(session.account().state().selectable(Guid::INBOX).is_some());
            // What the shard computed meanwhile: its wall time would tell of the other load of the machine.
            let late = time::on_core().saturating_sub(before);
            let (worst, all, over) = seen.get();
            seen.set((worst.max(late), all + 1, over + u32::from(late > Duration::from_millis(2))));
        }
    });
    let begun = time::now();
    let done = work.await;
    let took = begun.elapsed();
    // What it leaves to the background is done in this time.
    time::sleep(Duration::from_secs(2)).await;
    stop.set(true);
    let _ = noops.await;
    let (worst, all, over) = worst.get();
    println!("{what}: {took:?}; NOOPs {all}, after more than 2 ms of work {over}, worst {worst:?}");
    done
}

#[test]
#[ignore = "measures: cargo test --release -p culver-mailbox --test stall -- --ignored --nocapture"]
fn a_flush_of_a_large_mailbox_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let config = Config { shards: 1, pin: false, ..Config::default() };
    culver_shard::run(config, move |_| {
        let path = path.clone();
        async move {
            let limits = StorageLimits { partitions: 1, flush_octets: 1 << 40, unflushed_octets_max: 1 << 41, ..StorageLimits::default() };
            let mut root = Root::open(&path, limits).await.expect("opens");
            let share = root.recover(1).await.expect("recovers").remove(0);
            let storage = Storage::start(share).await.expect("starts");
            let accounts = Accounts::new(Limits::default());
            accounts.attach(storage.clone());
            let id = AccountId::parse("joe@example.org").expect("an id");
            let session = accounts.session(&id).await.expect("opens");
            let mut writers = Vec::new();
            for writer in 0..200 {
                let (accounts, id) = (accounts.clone(), id.clone());
                writers.push(spawn(Queue::Interactive, "writer", async move {
                    let session = accounts.session(&id).await.expect("opens");
                    for nth in 0..MESSAGES / 200 {
                        let text = format!(
                            "From: Joe <joe@example.org>\r\nTo: Pat <pat@example.org>\r\nSubject: {writer} {nth}\r\n\
                             Message-ID: <{writer}.{nth}@example.org>\r\n\r\nA line.\r\n"
                        );
                        let date = InternalDate::new(1_800_000_000, 0);
                        let mut arriving =
                            Arriving::begin(&session, Guid::INBOX, date, FlagSet::default(), text.len() as u64);
                        arriving.feed(text.as_bytes()).await.expect("taken");
                        let (message, body) = arriving.finish().await.expect("taken");
                        let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
                        session.change_with(record, Some(body)).await.expect("committed");
                    }
                }));
            }
            for writer in writers {
                writer.await.expect("a writer");
            }
            stall::start();
            watched("nothing", &accounts, &id, async {}).await;
            let flush = async || storage.flush_all().await.expect("flushed");
            watched("flush of 100,000 new messages, and its fold", &accounts, &id, flush()).await;
            let flags: FlagSet = [Flag::System(SystemFlag::Seen)].into_iter().collect();
            let (mailbox, uids, op) = (Guid::INBOX, everything(), StoreOp::Add);
            let store = Record::Store { mailbox, uids, op, flags, unchanged_since: None };
            watched("STORE 1:*", &accounts, &id, session.change(store)).await.expect("stored");
            watched("flush of its delta", &accounts, &id, flush()).await;
            let len = session.account().state().selectable(Guid::INBOX).map(|index| index.len());
            assert_eq!(len, Some(MESSAGES));
            let stalls = stall::snapshot();
            println!(
                "stalls of all that: p99 {} us, p99.9 {} us, worst {} us of {} ticks",
                stalls.quantile_us(0.99),
                stalls.quantile_us(0.999),
                stalls.max_us(),
                stalls.count()
            );
            drop(session);
            storage.close(false).await;
            Ok::<(), String>(())
        }
    })
    .expect("runs");
}
