//! Micro-benchmarks of the journal, on a simulated disk: what a commit costs but for the disk's own time.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use cases::Case;
use cases::mail::Random;
use culver_model::AccountId;
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::sync::Notify;
use culver_storage::{Body, Limits, Root, Storage};

const RECORDS: usize = 100;
const BODY_OCTETS: usize = 10 * 1024;
/// A prepared ENVELOPE, BODYSTRUCTURE and headers are about so long.
const META_OCTETS: usize = 900;
/// Far more than a run takes: a run that comes here is stuck.
const STEPS_MAX: u32 = 10_000;

/// A node with a store, whose task waits to be told to go.
struct Node {
    sim: Sim,
    stage: Rc<Stage>,
}

#[derive(Default)]
struct Stage {
    ready: Cell<bool>,
    go: Cell<bool>,
    committed: Cell<usize>,
    told: Notify,
    /// Of each record: its account, meta and body.
    records: RefCell<Vec<(AccountId, Vec<u8>, Vec<u8>)>>,
}

fn records() -> Vec<(AccountId, Vec<u8>, Vec<u8>)> {
    let mut random = Random(1);
    let mut octets = |count: usize| (0..count).map(|_| random.number() as u8).collect::<Vec<u8>>();
    let account = |n: usize| AccountId::parse(&format!("user{n}@example.org")).expect("a name");
    (0..RECORDS).map(|n| (account(n % 10), octets(META_OCTETS), octets(BODY_OCTETS))).collect()
}

fn limits() -> Limits {
    Limits { partitions: 4, segment_octets: 4 << 20, reserve_octets: 64 << 10, ..Limits::default() }
}

async fn shard(stage: Rc<Stage>, one_by_one: bool) {
    let mut root = Root::open(Path::new("/store"), limits()).await.expect("an empty disk");
    let share = root.recover(1).await.expect("an empty store").remove(0);
    let storage = Storage::start(share).await.expect("a sound disk");
    stage.ready.set(true);
    while !stage.go.get() {
        let seen = stage.told.version();
        stage.told.changed_since(seen).await;
    }
    for (account, meta, body) in stage.records.take() {
        let body = Body::inline(body, storage.limits()).expect("a short body");
        let partition = storage.partition_of(&account);
        if one_by_one {
            storage.commit(partition, &account, meta, vec![body]).await.expect("a sound disk");
            stage.committed.set(stage.committed.get() + 1);
            continue;
        }
        let told = stage.clone();
        let on_commit = Box::new(move |result: Result<_, _>| {
            assert!(result.is_ok());
            told.committed.set(told.committed.get() + 1);
        });
        storage.submit(partition, &account, meta, vec![body], false, on_commit).expect("there is room");
    }
    culver_shard::stopped().await;
    drop(root);
}

fn node(records: &[(AccountId, Vec<u8>, Vec<u8>)], one_by_one: bool) -> Node {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let stage = Rc::new(Stage { records: RefCell::new(records.to_vec()), ..Stage::default() });
    let (node, held) = (sim.node("mail"), stage.clone());
    sim.start(node, 1, move |_| shard(held.clone(), one_by_one));
    let node = Node { sim, stage };
    node.step_until(|stage| stage.ready.get());
    node
}

impl Node {
    fn step_until(&self, done: impl Fn(&Stage) -> bool) {
        let mut steps = 0;
        while !done(&self.stage) {
            steps += 1;
            assert!(steps < STEPS_MAX, "the simulation is stuck");
            self.sim.step(1);
        }
    }

    fn commit_all(&self) {
        self.stage.go.set(true);
        self.stage.told.notify_all();
        self.step_until(|stage| stage.committed.get() == RECORDS);
    }
}

fn main() -> ExitCode {
    cases::main(&[
        Case::new(
            "storage/commit_100_in_a_batch",
            records,
            |records| node(records, false),
            |_, node| node.commit_all(),
        ),
        Case::new(
            "storage/commit_100_one_by_one",
            records,
            |records| node(records, true),
            |_, node| node.commit_all(),
        ),
    ])
}
