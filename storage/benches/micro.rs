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
use culver_storage::{Body, Haste, Limits, Root, Storage};

/// What is committed, and how.
#[derive(Clone, Copy)]
struct Load {
    records: usize,
    meta_octets: usize,
    /// 0: no body.
    body_octets: usize,
    /// Each waits for the one before it; else all that come together share a batch.
    one_by_one: bool,
}

/// A prepared ENVELOPE, BODYSTRUCTURE and headers are about 900 octets.
const APPENDS: Load = Load { records: 100, meta_octets: 900, body_octets: 10 * 1024, one_by_one: false };
/// Here what a record costs by itself is seen; with bodies it drowns in the copies that the simulated disk makes.
const STORES: Load = Load { records: 2_000, meta_octets: 60, body_octets: 0, one_by_one: false };

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
    records: RefCell<Vec<Record>>,
}

type Record = (AccountId, Vec<u8>, Vec<u8>);

fn records(load: Load) -> Vec<Record> {
    let mut random = Random(1);
    let mut octets = |count: usize| (0..count).map(|_| random.number() as u8).collect::<Vec<u8>>();
    let account = |n: usize| AccountId::parse(&format!("user{n}@example.org")).expect("a name");
    (0..load.records).map(|n| (account(n % 10), octets(load.meta_octets), octets(load.body_octets))).collect()
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
        let mut bodies = Vec::new();
        if !body.is_empty() {
            bodies.push(Body::inline(body, storage.limits()).expect("a short body"));
        }
        let partition = storage.partition_of(&account);
        if one_by_one {
            storage.commit(partition, &account, meta, bodies).await.expect("a sound disk");
            stage.committed.set(stage.committed.get() + 1);
            continue;
        }
        let told = stage.clone();
        let on_commit = Box::new(move |result: Result<_, _>| {
            assert!(result.is_ok());
            told.committed.set(told.committed.get() + 1);
        });
        storage
            .submit(partition, &account, meta, bodies, Haste::Interactive, on_commit)
            .expect("there is room");
    }
    culver_shard::stopped().await;
    drop(root);
}

fn node(records: &[Record], one_by_one: bool) -> Node {
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

    fn commit_all(&self, records: usize) {
        self.stage.go.set(true);
        self.stage.told.notify_all();
        self.step_until(|stage| stage.committed.get() == records);
    }
}

fn case(name: &'static str, load: Load) -> Case {
    Case::new(
        name,
        move || records(load),
        move |records| node(records, load.one_by_one),
        |records, node| node.commit_all(records.len()),
    )
}

fn main() -> ExitCode {
    cases::main(&[
        case("storage/commit_100_appends", APPENDS),
        case("storage/commit_100_appends_one_by_one", Load { one_by_one: true, ..APPENDS }),
        case("storage/commit_2000_stores", STORES),
    ])
}
