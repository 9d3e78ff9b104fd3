//! The search for orphans on a simulated store: it finds what nothing names, and it never deletes what something names.
#![cfg(feature = "simulation")]

#[path = "support/quick.rs"]
mod quick;
mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use culver_model::AccountId;
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::{random, time};
use culver_storage::simstore::{SimStore, StoreFaults};
use culver_storage::{Found, Limits, Node, Storage};
use quick::quick_node;
use support::{Mail, Oracle, account};

const ACCOUNTS: usize = 9;
const STEPS: u64 = 20_000;
const ROUNDS_MAX: u32 = 2_000;

fn limits() -> Limits {
    Limits { flush_age: Duration::from_secs(1), carry_objects: 8, ..support::limits() }
}

/// A node of one shard, and what a test does with it.
struct Here {
    node: Node,
    storage: Storage,
    mail: Rc<Mail>,
    oracle: Rc<Oracle>,
}

impl Here {
    /// Waits until all partitions are served.
    async fn serves_all(&self) -> bool {
        for _ in 0..400 {
            if self.storage.partitions().iter().all(|id| self.storage.serves(*id)) {
                return true;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
        self.oracle.error("not all partitions came".to_owned());
        false
    }

    async fn verify(&self) {
        for account in (0..ACCOUNTS).map(account) {
            if let Err(error) = self.mail.verify(&account, true, true).await {
                self.oracle.error(format!("{account}: {error}"));
            }
        }
    }

    async fn collect(&self, remove: bool) -> Found {
        let mut found = self.node.collect_journals(remove).await.expect("the store answers");
        for id in self.storage.partitions() {
            let of_one = self.node.collect(id, remove).await.expect("the store answers");
            match of_one {
                Some(one) => found.add(one),
                None => self.oracle.error(format!("partition {id} is not looked after")),
            }
        }
        found
    }

    /// Mail comes and goes, long enough for tables to be merged and packs to be compacted.
    async fn work(&self, rounds: u64) {
        for _ in 0..rounds {
            let account: AccountId = account(random::below(ACCOUNTS as u64) as usize);
            match random::below(10) {
                0..5 => drop(self.mail.append(&account, 200 + random::below(6000) as usize).await),
                5..9 => drop(self.mail.delete_one(&account).await),
                _ => {
                    for id in self.storage.partitions() {
                        let _ = self.storage.flush(id).await;
                    }
                    let _ = self.storage.compact().await;
                }
            }
        }
        for id in self.storage.partitions() {
            let _ = self.storage.flush(id).await;
        }
    }
}

/// Runs a node until its script ends; then it is killed, or leaves in order.
fn live<F, Fut>(sim: &Sim, node: NodeId, name: &'static str, store: &SimStore, oracle: &Rc<Oracle>, script: F)
where
    F: Fn(Rc<Here>) -> Fut + Clone + 'static,
    Fut: Future<Output = bool> + 'static,
{
    let done = Rc::new(Cell::new(false));
    let (store, oracle, told) = (store.clone(), oracle.clone(), done.clone());
    sim.start(node, 1, move |_| {
        let (store, oracle, told, script) = (store.clone(), oracle.clone(), told.clone(), script.clone());
        async move {
            let joined = Node::join_simulated(&store, "/node".as_ref(), limits(), quick_node(name)).await;
            let node = joined.expect("the store answers");
            let storage = Storage::start_shared(node.share()).await.expect("the store answers");
            let mail = Mail::new(storage.clone(), oracle.clone());
            culver_shard::set_local(mail.clone());
            node.begin();
            let here = Rc::new(Here { node: node.clone(), storage: storage.clone(), mail, oracle });
            if here.serves_all().await && script(here).await {
                node.leave().await;
                storage.close(false).await;
            }
            told.set(true);
        }
    });
    for _ in 0..ROUNDS_MAX {
        if done.get() {
            break;
        }
        sim.step(STEPS);
    }
    assert!(done.get(), "{name} has not ended");
    if sim.running(node) {
        sim.kill(node);
    }
}

fn run(seed: u64) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let store = SimStore::new(StoreFaults { delay_max: Duration::from_millis(3), ..StoreFaults::none() });
    let oracle: Rc<Oracle> = Rc::default();
    let (a, b) = (sim.node("a"), sim.node("b"));
    live(&sim, a, "a", &store, &oracle, |here| async move {
        here.work(120).await;
        false
    });
    // What an earlier owner made and nothing names: its deletion was lost, or it wrote this when it was no owner any more.
    let strays = [
        "data/0/0/0-900001.pack",
        "data/1/0/0-900002.table",
        "data/2/0/1-900003.manifest",
        "data/3/4294967295/0-900004.manifest",
    ];
    for stray in strays {
        store.tamper(stray, Some(b"stray".to_vec()));
    }
    store.tamper("data/0/0/not-ours.txt", Some(b"somebody's".to_vec()));
    let trimmed = trimmed_journal_object(&store);
    if let Some(key) = &trimmed {
        store.tamper(key, Some(b"trimmed".to_vec()));
    }
    let (all, left) = (store.clone(), trimmed.clone());
    live(&sim, b, "b", &store, &oracle, move |here| {
        let (store, trimmed) = (all.clone(), left.clone());
        async move {
            here.verify().await;
            let found = here.collect(false).await;
            let wanted: Vec<&str> = strays.iter().copied().chain(trimmed.as_deref()).collect();
            let missed: Vec<&&str> =
                wanted.iter().filter(|key| !found.orphan_keys.iter().any(|orphan| orphan == *key)).collect();
            if !missed.is_empty() || found.missing != 0 {
                here.oracle.error(format!("{missed:?} not found, {found:?}"));
            }
            if wanted.iter().any(|key| !store.objects().contains_key(*key)) {
                here.oracle.error("a look deleted something".to_owned());
            }
            let found = here.collect(true).await;
            if wanted.iter().any(|key| store.objects().contains_key(*key)) {
                here.oracle.error(format!("orphans stay: {found:?}"));
            }
            if !store.objects().contains_key("data/0/0/not-ours.txt") {
                here.oracle.error("what is not this program's was deleted".to_owned());
            }
            here.mail.forget_some();
            here.verify().await;
            here.work(60).await;
            let found = here.collect(true).await;
            if found.missing != 0 || found.named == 0 {
                here.oracle.error(format!("after more work: {found:?}"));
            }
            here.verify().await;
            true
        }
    });
    // Somebody else finds everything after all this; then an object that is needed goes.
    let all = store.clone();
    live(&sim, a, "a", &store, &oracle, move |here| {
        let store = all.clone();
        async move {
            here.verify().await;
            here.work(30).await;
            let objects = store.objects();
            let table = objects.keys().filter(|key| key.ends_with(".table"));
            for key in table {
                store.tamper(key, None);
            }
            let found = here.collect(false).await;
            if found.missing == 0 || !found.missing_keys.iter().all(|key| objects.contains_key(key)) {
                here.oracle.error(format!("what is missing is not told: {found:?}"));
            }
            false
        }
    });
    let errors = oracle.errors.borrow();
    assert!(errors.is_empty(), "seed {seed}: {errors:#?}");
    assert!(oracle.verified.get() > 0, "seed {seed}: nothing was read");
}

/// A journal object below a low mark, which is gone already.
fn trimmed_journal_object(store: &SimStore) -> Option<String> {
    let objects = store.objects();
    let low = objects.keys().find(|key| key.starts_with("low/"))?;
    let incarnation = low.split('/').nth(1)?;
    let key = format!("journal/{incarnation}/0");
    (!objects.contains_key(&key)).then_some(key)
}

#[test]
fn orphans_are_found_and_what_is_needed_stays() {
    for seed in 1..=3 {
        run(seed);
    }
}
