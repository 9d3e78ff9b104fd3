//! A node is overtaken while one of its requests is on its way, for each request of a day's work: nothing that clients were told
//! is lost, neither to its successor nor to the one after that.
//!
//! Random runs rarely meet such an instant; here each one is met. The work appends, deletes, flushes, merges tables and
//! compacts; housekeeping, trims and sweeps run by themselves.
#![cfg(feature = "simulation")]

#[path = "support/quick.rs"]
mod quick;
mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::{stopping, time};
use culver_storage::simstore::{Hold, SimStore, StoreFaults};
use culver_storage::store::Kind;
use culver_storage::{Limits, Node, NodeConfig, Storage, Windows};
use quick::quick_node;
use support::{Mail, Oracle, account};

const ACCOUNTS: usize = 4;
const PARTITIONS: u16 = 2;
const ROUNDS: usize = 3;
/// Looks at whether something has happened, 10 ms apart.
const LOOKS_MAX: usize = 6_000;
/// An idle node writes its next object before, and meets the seal.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Of so many requests one is held up; in a long run each.
const STRIDE: u64 = 4;

fn limits() -> Limits {
    // Nothing is flushed for its age: a successor would soon stand on nothing of its predecessor's.
    let flush_age = Duration::from_secs(3600);
    Limits { partitions: PARTITIONS, tables_max: 2, carry_objects: 8, flush_age, ..support::limits() }
}

fn config(name: &str) -> NodeConfig {
    let quick = quick_node(name);
    NodeConfig {
        windows: Windows { octets: 4 << 10, ..quick.windows },
        // Nobody takes anything but where this test says so.
        lease: Duration::from_secs(3600),
        look: Duration::from_millis(100),
        trim_objects: 4,
        trim_after: Duration::from_millis(200),
        ..quick
    }
}

/// How far a node has come, and how far it may go.
#[derive(Default)]
struct Steps {
    ready: Cell<bool>,
    go: Cell<bool>,
    done: Cell<bool>,
    flushes_first: Cell<bool>,
}

async fn until(done: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS_MAX {
        if done() {
            return true;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn everything() -> Vec<PartitionId> {
    (0..PARTITIONS).map(PartitionId).collect()
}

fn start(
    sim: &Sim,
    name: &'static str,
    store: &SimStore,
    oracle: &Rc<Oracle>,
    works: bool,
) -> (NodeId, Rc<Steps>) {
    let (id, steps) = (sim.node(name), Rc::new(Steps::default()));
    let (store, oracle, of_node) = (store.clone(), oracle.clone(), steps.clone());
    sim.start(id, 1, move |_| run_node(name, store.clone(), oracle.clone(), of_node.clone(), works));
    (id, steps)
}

async fn run_node(name: &'static str, store: SimStore, oracle: Rc<Oracle>, steps: Rc<Steps>, works: bool) {
    let node = Node::join_simulated(&store, "/node".as_ref(), limits(), config(name)).await.unwrap();
    let storage = Storage::start_shared(node.share()).await.unwrap();
    let mail = Mail::new(storage.clone(), oracle.clone());
    culver_shard::set_local(mail.clone());
    if !works {
        // What nobody has is claimed by the agent as soon as it runs.
        match node.take_over(&everything()).await {
            Ok(taken) if taken == everything().len() => {}
            other => oracle.error(format!("{name}: taken over: {other:?}")),
        }
    }
    node.begin();
    if !until(|| everything().into_iter().all(|id| storage.serves(id))).await {
        oracle.error(format!("{name} never serves all partitions"));
    }
    if !works {
        verify(name, &mail, &oracle, steps.flushes_first.get()).await;
    }
    steps.ready.set(true);
    until(|| steps.go.get() || stopping()).await;
    match works {
        true => work(&mail).await,
        false => verify(name, &mail, &oracle, true).await,
    }
    steps.done.set(true);
    culver_shard::stopped().await;
}

async fn verify(name: &str, mail: &Rc<Mail>, oracle: &Oracle, flushes: bool) {
    for nth in 0..ACCOUNTS {
        if let Err(error) = mail.verify(&account(nth), true, true).await {
            oracle.error(format!("{name}: user{nth}: {error}"));
        }
        mail.append(&account(nth), 500).await;
    }
    if !flushes {
        return;
    }
    for id in everything() {
        let _ = mail.storage.flush(id).await;
    }
    for nth in 0..ACCOUNTS {
        if let Err(error) = mail.verify(&account(nth), false, true).await {
            oracle.error(format!("{name}: user{nth}, after a flush: {error}"));
        }
    }
}

async fn work(mail: &Rc<Mail>) {
    for round in 0..ROUNDS {
        for nth in 0..ACCOUNTS {
            mail.append(&account(nth), [300, 1500, 5000][(nth + round) % 3]).await;
            mail.append(&account(nth), 700).await;
            mail.delete_one(&account(nth)).await;
        }
        for id in everything() {
            let _ = mail.storage.flush(id).await;
        }
        let _ = mail.storage.compact().await;
    }
}

/// What becomes of a node whose request is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It lives, and goes on when its successor serves.
    Lives,
    /// It is gone; its request comes to the store all the same, when its successor serves.
    Dies,
}

/// What differs between runs beside the request.
#[derive(Clone, Copy, Debug)]
struct Variant {
    hold: Hold,
    end: End,
    /// The successor flushes as soon as it is one, and not only when its predecessor has gone on: what it stands on is its own.
    flushes_first: bool,
    /// The overtaken node hears of it before its request goes on.
    hears_first: bool,
}

/// The run in which the request of a kind with this number is held up; `None` where there is none of this number.
fn overtaken_at(kind: Kind, request: u64, variant: Variant) -> Option<Rc<Oracle>> {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let oracle: Rc<Oracle> = Rc::default();
    let (all, handle) = (oracle.clone(), sim.clone());
    let met = sim.run(async move {
        let (sim, oracle) = (handle, all);
        let store = SimStore::new(StoreFaults { delay_max: Duration::from_millis(4), ..StoreFaults::none() });
        store.watch();
        let (a, a_steps) = start(&sim, "a", &store, &oracle, true);
        until(|| a_steps.ready.get()).await;
        let Variant { hold, end, flushes_first, hears_first } = variant;
        let held = store.hold("a", kind, "*", request, hold);
        a_steps.go.set(true);
        until(|| held.is_met() || a_steps.done.get()).await;
        if !held.is_met() {
            return false;
        }
        if end == End::Dies {
            sim.kill(a);
        }
        let (b, b_steps) = start(&sim, "b", &store, &oracle, false);
        b_steps.flushes_first.set(flushes_first);
        if !until(|| b_steps.ready.get()).await {
            oracle.error("the successor does not get ready".to_owned());
        }
        if hears_first {
            time::sleep(HEARD_WITHIN).await;
        }
        // The overtaken node goes on where it stood.
        held.release();
        until(|| a_steps.done.get() || end == End::Dies).await;
        time::sleep(Duration::from_secs(2)).await;
        b_steps.go.set(true);
        if !until(|| b_steps.done.get()).await {
            oracle.error("the successor does not come to an end".to_owned());
        }
        if end == End::Lives {
            sim.kill(a);
        }
        sim.kill(b);
        let (_, c_steps) = start(&sim, "c", &store, &oracle, false);
        c_steps.go.set(true);
        if !until(|| c_steps.done.get()).await {
            oracle.error("the successor's successor does not come to an end".to_owned());
        }
        // What is begun when a partition has gone is of no owner's epoch.
        let of_nobody = format!("/{}/", u32::MAX);
        for asked in
            store.watch().iter().filter(|asked| asked.kind == "put" && asked.key.contains(&of_nobody))
        {
            oracle.error(format!("{} is of no epoch", asked.key));
        }
        true
    });
    met.then_some(oracle)
}

/// All runs of a kind; how many there were.
fn all_requests(kind: Kind, hold: Hold, end: End) -> usize {
    let long = std::env::var("CULVER_TEST_LONG").as_deref() == Ok("1");
    let stride = if long { 1 } else { STRIDE };
    let mut runs: usize = 0;
    loop {
        let request = runs as u64 * stride;
        let (flushes_first, hears_first) = (runs.is_multiple_of(2), (runs / 2).is_multiple_of(2));
        let variant = Variant { hold, end, flushes_first, hears_first };
        let Some(oracle) = overtaken_at(kind, request, variant) else { return runs };
        let errors = oracle.errors.borrow();
        assert!(errors.is_empty(), "{kind:?} {request}, {variant:?}: {errors:#?}");
        assert!(oracle.verified.get() > 0, "nothing was compared");
        runs += 1;
    }
}

#[test]
fn a_node_that_is_overtaken_at_any_put_loses_nothing() {
    let runs =
        all_requests(Kind::Put, Hold::Before, End::Lives) + all_requests(Kind::Put, Hold::After, End::Lives);
    println!("{runs} runs");
    assert!(runs > 10, "{runs} runs");
}

#[test]
fn a_node_that_is_overtaken_at_any_read_loses_nothing() {
    let runs = all_requests(Kind::Get, Hold::Before, End::Lives);
    println!("{runs} runs");
    assert!(runs > 5, "{runs} runs");
}

#[test]
fn a_node_that_is_overtaken_at_any_deletion_loses_nothing() {
    let runs = all_requests(Kind::Delete, Hold::Before, End::Lives)
        + all_requests(Kind::Delete, Hold::After, End::Lives);
    println!("{runs} runs");
    assert!(runs > 2, "{runs} runs");
}

#[test]
fn a_request_that_outlives_its_node_harms_nobody() {
    let runs = all_requests(Kind::Put, Hold::Before, End::Dies)
        + all_requests(Kind::Put, Hold::After, End::Dies)
        + all_requests(Kind::Delete, Hold::Before, End::Dies);
    println!("{runs} runs");
    assert!(runs > 10, "{runs} runs");
}

/// The checker is checked.
#[cfg(feature = "planted-faults")]
#[test]
fn deleting_tables_after_a_loss_is_found() {
    use culver_storage::fault::{Fault, set};
    set(Some(Fault::MergeAfterLoss));
    let runs = std::panic::catch_unwind(|| {
        let variant =
            Variant { hold: Hold::Before, end: End::Lives, flushes_first: false, hears_first: true };
        let mut runs = (0..).map_while(|request| overtaken_at(Kind::Get, request, variant));
        runs.find_map(|oracle| oracle.errors.borrow().first().cloned())
    });
    set(None);
    let error = runs.expect("no panic").expect("no run finds it");
    println!("{error}");
}
