//! Several nodes on one store that delays, loses and repeats requests, with crashes, freezes and cuts at any point.
#![cfg(feature = "simulation")]

#[path = "support/quick.rs"]
mod quick;
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, PartitionId};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::sync::Notify;
use culver_shard::{Queue, random, spawn, stopping, time};
use culver_storage::simstore::{SimStore, StoreFaults};
use culver_storage::{Limits, Node, NodeShare, Storage};
use quick::quick_node;
use support::{Mail, Oracle, account};

const ACCOUNTS: usize = 9;

fn limits() -> Limits {
    Limits { flush_age: Duration::from_secs(3), carry_objects: 8, ..support::limits() }
}

fn faults() -> StoreFaults {
    StoreFaults {
        delay_max: Duration::from_millis(4),
        timeout: Duration::from_millis(300),
        late_max: Duration::from_secs(8),
        ..StoreFaults::some()
    }
}

/// What all nodes of a run share, outside of them.
#[derive(Clone)]
struct World {
    store: SimStore,
    oracle: Rc<Oracle>,
    /// The highest epoch that was seen to be served, by partition.
    served: Rc<RefCell<BTreeMap<PartitionId, u32>>>,
    takeovers: Rc<Cell<u64>>,
    /// A cache may hide what is missing in the store: half of the runs have none.
    cache_octets: u64,
}

/// One life of a node.
#[derive(Clone)]
struct Life {
    world: World,
    name: String,
    only_verify: bool,
    share: Rc<RefCell<Option<NodeShare>>>,
    ready: Rc<Cell<usize>>,
    failed: Rc<Cell<bool>>,
    changed: Rc<Notify>,
}

fn start(sim: &Sim, node: NodeId, name: &str, shards: usize, world: &World, only_verify: bool) {
    let life = Life {
        world: world.clone(),
        name: name.to_owned(),
        only_verify,
        share: Rc::default(),
        ready: Rc::default(),
        failed: Rc::default(),
        changed: Rc::default(),
    };
    sim.start(node, shards, move |shard| run_shard(shard, shards, life.clone()));
}

impl Life {
    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let seen = self.changed.version();
            if done() {
                return;
            }
            self.changed.changed_since(seen).await;
        }
    }
}

async fn run_shard(shard: usize, shards: usize, life: Life) {
    let oracle = life.world.oracle.clone();
    let mut node = None;
    if shard == 0 {
        // Who verifies has to find everything in the store.
        let cache_octets = if life.only_verify { 0 } else { life.world.cache_octets };
        let limits = Limits { cache_octets, ..limits() };
        let joined =
            Node::join_simulated(&life.world.store, "/node".as_ref(), limits, quick_node(&life.name)).await;
        match joined {
            Ok(joined) => {
                *life.share.borrow_mut() = Some(joined.share());
                node = Some(joined);
            }
            Err(culver_storage::OpenError::Store(error)) => {
                oracle.failed_starts.borrow_mut().push(error.to_string());
                life.failed.set(true);
            }
            Err(error) => {
                oracle.error(format!("{}: join: {error}", life.name));
                life.failed.set(true);
            }
        }
        life.changed.notify_all();
    }
    life.until(|| life.failed.get() || life.share.borrow().is_some()).await;
    if life.failed.get() {
        return;
    }
    let share = life.share.borrow().clone().expect("waited for");
    let storage = match Storage::start_shared(share).await {
        Ok(storage) => storage,
        Err(error) => return oracle.error(format!("{}: start: {error}", life.name)),
    };
    let mail = Mail::new(storage.clone(), oracle.clone());
    culver_shard::set_local(mail.clone());
    life.ready.set(life.ready.get() + 1);
    life.changed.notify_all();
    life.until(|| life.ready.get() == shards).await;
    if let Some(node) = &node {
        node.begin();
    }
    let known: Rc<RefCell<BTreeMap<PartitionId, (u32, u64)>>> = Rc::default();
    let opener =
        spawn(Queue::Interactive, "opener", open_partitions(life.clone(), mail.clone(), known.clone()));
    let mut writers = Vec::new();
    for _ in 0..if life.only_verify { 0 } else { 3 } {
        writers.push(spawn(Queue::Interactive, "writer", write(mail.clone(), known.clone())));
    }
    for writer in writers {
        let _ = writer.await;
    }
    let _ = opener.await;
    life.ready.set(life.ready.get() - 1);
    life.changed.notify_all();
    if let Some(node) = node {
        life.until(|| life.ready.get() == 0).await;
        node.leave().await;
        *life.share.borrow_mut() = None;
        life.changed.notify_all();
    }
    // Nobody closes before the partitions are handed over.
    life.until(|| life.share.borrow().is_none()).await;
    storage.clone().close(false).await;
    let status = storage.status();
    oracle.flushes.set(oracle.flushes.get() + status.flushes);
    oracle.compactions.set(oracle.compactions.get() + status.compactions);
}

/// Partitions that have accounts.
fn inhabited() -> usize {
    let of = |nth| account(nth).partition(limits().partitions);
    (0..ACCOUNTS).map(of).collect::<std::collections::BTreeSet<_>>().len()
}

fn accounts_of(storage: &Storage, partition: PartitionId) -> Vec<AccountId> {
    (0..ACCOUNTS).map(account).filter(|account| storage.partition_of(account) == partition).collect()
}

/// Looks at each partition that comes before anybody writes to it: what was unknown is decided.
async fn open_partitions(life: Life, mail: Rc<Mail>, known: Rc<RefCell<BTreeMap<PartitionId, (u32, u64)>>>) {
    let storage = mail.storage.clone();
    while !stopping() {
        for partition in storage.partitions() {
            let term = storage.term_of(partition);
            if !storage.serves(partition) || known.borrow().get(&partition) == Some(&term) {
                continue;
            }
            {
                let mut served = life.world.served.borrow_mut();
                let highest = served.entry(partition).or_insert(term.0);
                if *highest > term.0 {
                    // A later owner serves already; this one may still answer reads for a moment (R9).
                    continue;
                }
                *highest = term.0;
            }
            life.world.takeovers.set(life.world.takeovers.get() + 1);
            let current = || {
                storage.term_of(partition) == term
                    && life.world.served.borrow().get(&partition) == Some(&term.0)
            };
            let mut all = true;
            for account in accounts_of(&storage, partition) {
                all &= mail.verify_while(&account, true, life.only_verify, &current).await.is_ok();
            }
            if all && current() {
                known.borrow_mut().insert(partition, term);
            }
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

async fn write(mail: Rc<Mail>, known: Rc<RefCell<BTreeMap<PartitionId, (u32, u64)>>>) {
    let storage = mail.storage.clone();
    while !stopping() {
        let account = account(random::below(ACCOUNTS as u64) as usize);
        let partition = storage.partition_of(&account);
        let mine = storage.partitions().contains(&partition);
        let open = mine
            && storage.serves(partition)
            && known.borrow().get(&partition) == Some(&storage.term_of(partition));
        if !open {
            time::sleep(Duration::from_millis(1 + random::below(10))).await;
            continue;
        }
        match random::below(100) {
            0..55 => {
                let size = match random::below(20) {
                    0 => 0,
                    1 => 2000 + random::below(9000) as usize,
                    _ => random::below(1800) as usize,
                };
                mail.append(&account, size).await;
            }
            55..92 => drop(mail.delete_one(&account).await),
            92..94 => drop(storage.flush(partition).await),
            94 => drop(storage.compact().await),
            _ => mail.forget_some(),
        }
        if random::below(4) == 0 {
            time::sleep(Duration::from_micros(random::below(20_000))).await;
        }
    }
}

fn run(seed: u64, events: usize, store_faults: StoreFaults) -> World {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let world = World {
        store: SimStore::new(store_faults),
        oracle: Rc::default(),
        served: Rc::default(),
        takeovers: Rc::default(),
        cache_octets: if seed.is_multiple_of(2) { 0 } else { 1 << 20 },
    };
    let names = ["a", "b", "c"];
    let nodes: Vec<NodeId> = names.iter().map(|name| sim.node(name)).collect();
    for (node, name) in nodes.iter().zip(names).take(2) {
        start(&sim, *node, name, 1 + (sim.random() % 2) as usize, &world, false);
    }
    for _ in 0..events {
        sim.step(sim.random() % 40_000);
        let nth = (sim.random() % 3) as usize;
        let (node, name) = (nodes[nth], names[nth]);
        let running = sim.running(node);
        match sim.random() % 12 {
            0 | 1 if running => sim.kill(node),
            2 if running => sim.crash(node),
            3 if running => sim.stop(node),
            4 | 5 if running => sim.freeze(node),
            6 | 7 if running => sim.thaw(node),
            8 => world.store.cut(name, true),
            9 => world.store.cut(name, false),
            10 => world.store.set_down(sim.random().is_multiple_of(2)),
            _ if !running => start(&sim, node, name, 1 + (sim.random() % 2) as usize, &world, false),
            _ => {}
        }
    }
    // Everything heals; the nodes go on for a while; then all are killed, and a new one has to find everything.
    world.store.set_down(false);
    world.store.set_faults(StoreFaults { late_max: store_faults.late_max, ..StoreFaults::none() });
    for (node, name) in nodes.iter().zip(names) {
        world.store.cut(name, false);
        sim.thaw(*node);
    }
    sim.step(60_000);
    for node in &nodes {
        sim.kill(*node);
    }
    let last = sim.node("last");
    start(&sim, last, "last", 2, &world, true);
    let (handle, all) = (sim.clone(), world.clone());
    sim.run(async move {
        // Longer than the lease, and all partitions with it.
        for _ in 0..600 {
            time::sleep(Duration::from_millis(50)).await;
            if all.oracle.verified_partitions.borrow().len() >= inhabited() {
                break;
            }
        }
        handle.stop(last);
        handle.exited(last).await;
    });
    world
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("CULVER_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default);
    let first = std::env::var("CULVER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    first..first + count
}

fn all_seeds(default: u64, events: usize, store_faults: StoreFaults) {
    let (mut acked, mut verified, mut flushes, mut compactions, mut takeovers) = (0, 0, 0, 0, 0);
    for seed in seeds(default) {
        let world = run(seed, events, store_faults);
        let errors = world.oracle.errors.borrow();
        assert!(errors.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {errors:#?}");
        let found = world.oracle.verified_partitions.borrow().len();
        assert!(found == inhabited(), "CULVER_SEED={seed}: {found} partitions were found at the end");
        acked += world.oracle.acked.get();
        verified += world.oracle.verified.get();
        flushes += world.oracle.flushes.get();
        compactions += world.oracle.compactions.get();
        takeovers += world.takeovers.get();
    }
    println!(
        "acknowledged {acked}, bodies read {verified}, takeovers {takeovers}, at clean ends: {flushes} flushes, \
         {compactions} compactions"
    );
    assert!(acked > 0 && verified > 0 && takeovers > 0, "the runs did nothing");
}

#[test]
fn nothing_acknowledged_is_lost_on_a_store_that_answers() {
    all_seeds(2, 8, StoreFaults { delay_max: Duration::from_millis(4), ..StoreFaults::none() });
}

#[test]
fn nothing_acknowledged_is_lost_on_a_store_that_delays_loses_and_repeats() {
    all_seeds(3, 8, faults());
}

#[cfg(feature = "planted-faults")]
#[path = "planted/cluster.rs"]
mod planted;
