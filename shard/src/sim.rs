//! The simulation: nodes with shards, clocks, disks and a network, driven by one seed on one thread.
//!
//! ```
//! use culver_shard::{disk, sim::{Sim, SimConfig}};
//! let sim = Sim::new(7, SimConfig::default());
//! let node = sim.node("a");
//! sim.start(node, 2, |shard| async move {
//!     disk::create_dir_all("/data").await.unwrap();
//!     disk::create_durable(format!("/data/{shard}"), b"hello").await.unwrap();
//! });
//! let s = sim.clone();
//! sim.run(async move { s.exited(node).await });
//! sim.crash(node);
//! ```
//!
//! # Invariants
//! The same seed and the same program give the same run: the next task is drawn from the seed, so is every
//! delay and every fault; nothing here reads a clock, an address or a random hash. [`Sim::digest`] proves it.
//! TLS draws from the kernel, so simulated connections are plain where a run must repeat.
//!
//! # Crash
//! [`Sim::crash`] is a loss of power: every task of the node is dropped at whatever await it stands, and its
//! disk keeps what was synced and a random part of what was not (see [`crate::disk`]). [`Sim::kill`] is SIGKILL: the
//! disk keeps everything.
//!
//! # Limits
//! [`SimConfig::steps_max`] polls, so that a livelock is an error with its seed.

pub(crate) mod disk;
pub(crate) mod net;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::context::{self, World as ContextWorld};
use crate::exec::{self, Left};
use crate::limits::Limits;
use crate::mesh::Mesh;
use crate::sync::Notify;
use crate::time::Instant;

pub use disk::Faults;

/// What a run may do. The defaults suit most tests.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The wall clock of a node without skew at the start: seconds since 1970.
    pub wall_start: i64,
    /// Virtual nanoseconds that one poll takes at most.
    pub poll_ns_max: u64,
    /// Virtual microseconds that a network packet takes at most.
    pub net_delay_us_max: u64,
    /// Polls in the whole life of the simulation; more is taken for a livelock.
    pub steps_max: u64,
    /// Whether a panic in a task (not only in a root) ends the run.
    pub panics_end_run: bool,
    pub limits: Limits,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            wall_start: 1_800_000_000,
            poll_ns_max: 2_000,
            net_delay_us_max: 500,
            steps_max: 50_000_000,
            panics_end_run: false,
            limits: Limits::default(),
        }
    }
}

/// A machine of the simulation. 0 is the outside world, where the future given to [`Sim::run`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// The outside world: clients and the test itself.
pub const OUTSIDE: NodeId = NodeId(0);

/// A handle on the simulation. Clones are the same one. What runs on a node keeps none: the tasks end with the
/// last handle, so they must not hold it.
#[derive(Clone)]
pub struct Sim(Rc<Owner>);

/// Tasks point at the world that holds them; the last handle takes them apart.
struct Owner(Rc<World>);

impl Drop for Owner {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut *self.0.tasks.borrow_mut());
        for slot in slots.into_values() {
            slot.discard();
        }
        self.0.timers.borrow_mut().clear();
        for node in self.0.nodes.borrow().iter() {
            node.disk.forget();
        }
    }
}

/// Where a shard sits: its node, and which life of it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub world: Rc<World>,
    pub node: NodeId,
    pub life: u64,
}

impl Seat {
    /// Whether the node has not crashed since this shard was started.
    pub fn alive(&self) -> bool {
        self.world.nodes.borrow()[self.node.0].life == self.life
    }

    pub fn disk(&self) -> Rc<disk::Disk> {
        self.world.nodes.borrow()[self.node.0].disk.clone()
    }
}

pub(crate) struct World {
    seed: u64,
    config: SimConfig,
    random: Cell<u64>,
    now: Cell<u64>,
    steps: Cell<u64>,
    digest: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Slot>>,
    next_task: Cell<u64>,
    ready: RefCell<Vec<u64>>,
    woken: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
    nodes: RefCell<Vec<Node>>,
    changed: Notify,
    fatal: RefCell<Option<String>>,
    pub net: net::Net,
}

struct Slot {
    context: Rc<context::Context>,
    node: NodeId,
    fut: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wake: Arc<WakeTask>,
}

struct Node {
    name: String,
    life: u64,
    running: usize,
    frozen: bool,
    skew_ns: i64,
    disk: Rc<disk::Disk>,
}

struct WakeTask {
    id: u64,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for WakeTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.lock().expect("no panic while held").push(self.id);
        }
    }
}

impl Sim {
    fn world(&self) -> &Rc<World> {
        &self.0.0
    }

    pub fn new(seed: u64, config: SimConfig) -> Sim {
        let world = Rc::new(World {
            seed,
            config,
            random: Cell::new(seed),
            now: Cell::new(0),
            steps: Cell::new(0),
            digest: Cell::new(0xcbf2_9ce4_8422_2325),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: RefCell::default(),
            woken: Arc::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            nodes: RefCell::default(),
            changed: Notify::new(),
            fatal: RefCell::default(),
            net: net::Net::default(),
        });
        let sim = Sim(Rc::new(Owner(world)));
        sim.node("outside");
        sim
    }

    pub fn seed(&self) -> u64 {
        self.world().seed
    }

    /// A machine with an empty disk, whose wall clock is up to a second off.
    pub fn node(&self, name: &str) -> NodeId {
        let skew_ns = (self.world().random() % 2_000_000_000) as i64 - 1_000_000_000;
        let mut nodes = self.world().nodes.borrow_mut();
        nodes.push(Node {
            name: name.to_owned(),
            life: 0,
            running: 0,
            frozen: false,
            skew_ns,
            disk: Rc::new(disk::Disk::new()),
        });
        NodeId(nodes.len() - 1)
    }

    /// Sets how far the node's wall clock is ahead.
    pub fn skew(&self, node: NodeId, nanoseconds: i64) {
        self.world().nodes.borrow_mut()[node.0].skew_ns = nanoseconds;
    }

    /// Starts a root future on each shard of a node that does not run.
    ///
    /// # Panics
    /// Where the node runs already. The run panics where a root does.
    pub fn start<F, Fut>(&self, node: NodeId, shards: usize, root: F)
    where
        F: Fn(usize) -> Fut + Clone + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let life = {
            let mut nodes = self.world().nodes.borrow_mut();
            let state = &mut nodes[node.0];
            assert!(state.running == 0, "node {} runs already", state.name);
            state.running = shards;
            state.life
        };
        let limits = Rc::new(self.world().config.limits.clone());
        let (mesh, inboxes) = Mesh::new(shards, limits.mesh_queue_max);
        let left = Arc::new(Left::new(shards));
        for (shard, inbox) in inboxes.into_iter().enumerate() {
            let seat = Seat { world: self.world().clone(), node, life };
            let world = ContextWorld::Sim(seat.clone());
            let context = context::Context::new(shard, shards, world, limits.clone(), mesh.clone());
            let (root, left, inner) = (root.clone(), left.clone(), context.clone());
            self.world().spawn(
                &context,
                "root",
                Box::pin(async move {
                    let infallible = move || async move {
                        root(shard).await;
                        Ok::<(), ()>(())
                    };
                    let outcome = exec::serve(inner.clone(), inbox, left, infallible).await;
                    inner.locals.borrow_mut().clear();
                    if let Err(message) = outcome {
                        let fatal = format!("root of shard {shard} panicked: {message}");
                        seat.world.fatal.borrow_mut().get_or_insert(fatal);
                    }
                    if seat.alive() {
                        seat.world.nodes.borrow_mut()[node.0].running -= 1;
                        seat.world.changed.notify_all();
                    }
                }),
            );
        }
    }

    /// Whether any shard of the node runs.
    pub fn running(&self, node: NodeId) -> bool {
        self.world().nodes.borrow()[node.0].running > 0
    }

    /// Ready when no shard of the node runs: all roots returned, or it crashed.
    pub async fn exited(&self, node: NodeId) {
        while self.running(node) {
            let seen = self.world().changed.version();
            self.world().changed.changed_since(seen).await;
        }
    }

    /// Asks the node's shards to stop, as SIGTERM does.
    pub fn stop(&self, node: NodeId) {
        let context =
            self.world().tasks.borrow().values().find(|t| t.node == node).map(|t| t.context.clone());
        if let Some(context) = context {
            let _entered = context::enter(context);
            exec::stop();
        }
    }

    /// Loss of power: the tasks are gone, the disk keeps what was synced and some of the rest.
    pub fn crash(&self, node: NodeId) {
        self.end(node, true);
    }

    /// SIGKILL: the tasks are gone, the disk keeps all that was written.
    pub fn kill(&self, node: NodeId) {
        self.end(node, false);
    }

    fn end(&self, node: NodeId, power: bool) {
        let world = self.world();
        let disk = {
            let mut nodes = world.nodes.borrow_mut();
            let state = &mut nodes[node.0];
            state.life += 1;
            state.running = 0;
            state.frozen = false;
            state.disk.clone()
        };
        world.mix(0xdead_0000 + node.0 as u64);
        disk.release_locks();
        if power {
            disk.lose_power(&mut || world.random());
        }
        let current = exec::on_shard().then(context::here).and_then(|c| c.seat().map(|s| s.node));
        assert!(current != Some(node), "a node cannot crash itself: ask from outside");
        let slots: Vec<Slot> = {
            let mut tasks = world.tasks.borrow_mut();
            let ids: Vec<u64> = tasks.iter().filter(|(_, t)| t.node == node).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        for slot in slots {
            slot.discard();
        }
        world.net.node_ended(node);
        world.changed.notify_all();
    }

    /// No task of the node runs until it is thawed. Its disk and network go on.
    pub fn freeze(&self, node: NodeId) {
        self.world().nodes.borrow_mut()[node.0].frozen = true;
    }

    pub fn thaw(&self, node: NodeId) {
        self.world().nodes.borrow_mut()[node.0].frozen = false;
    }

    /// Sets what goes wrong on the node's disk from now on.
    pub fn faults(&self, node: NodeId, faults: Faults) {
        self.world().nodes.borrow()[node.0].disk.faults.replace(faults);
    }

    /// Octets that the files of the node's disk take, to set its capacity by.
    pub fn used_octets(&self, node: NodeId) -> u64 {
        self.world().nodes.borrow()[node.0].disk.used_octets()
    }

    /// Every file on the node's disk, with what a reader would see now.
    pub fn files(&self, node: NodeId) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let disk = self.world().nodes.borrow()[node.0].disk.clone();
        disk.files()
    }

    /// Nothing passes between two nodes until healed; it is kept, not lost.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.world().net.partition(a, b, true);
    }

    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.world().net.partition(a, b, false);
        self.world().net.wake_all();
    }

    /// Resets every connection between two nodes.
    pub fn reset(&self, a: NodeId, b: NodeId) {
        self.world().net.reset_between(a, b);
    }

    /// A random number from the seed, for the test's own choices.
    pub fn random(&self) -> u64 {
        self.world().random()
    }

    pub fn now(&self) -> Instant {
        Instant(self.world().now())
    }

    /// A digest of all that happened: which task ran when, what was drawn, what crashed.
    pub fn digest(&self) -> u64 {
        self.world().digest.get()
    }

    /// Polls until there have been `steps` polls more, or nothing is left to do. For crashes at any instant.
    pub fn step(&self, steps: u64) {
        for _ in 0..steps {
            self.world().check();
            if !self.world().step() {
                return;
            }
        }
    }

    /// Drives everything until `fut`, which runs in the outside world, is done.
    ///
    /// # Panics
    /// When nothing can run any more, at `steps_max`, and when a root panicked; the message names the seed.
    pub fn run<T: 'static>(&self, fut: impl Future<Output = T> + 'static) -> T {
        let world = self.world();
        let life = world.nodes.borrow()[0].life;
        let seat = Seat { world: world.clone(), node: OUTSIDE, life };
        let limits = Rc::new(world.config.limits.clone());
        let (mesh, inboxes) = Mesh::new(1, limits.mesh_queue_max);
        let context = context::Context::new(0, 1, ContextWorld::Sim(seat), limits, mesh);
        let result = Rc::new(RefCell::new(None));
        let (inner, out) = (context.clone(), result.clone());
        world.spawn(
            &context,
            "outside",
            Box::pin(async move {
                for inbox in inboxes {
                    exec::spawn(exec::Queue::Interactive, "mesh", crate::mesh::pump(inbox)).detach();
                }
                let value = exec::catch(fut).await;
                inner.registry.end_all(inner.limits.shutdown_grace).await;
                *out.borrow_mut() = Some(value);
            }),
        );
        loop {
            if let Some(value) = result.borrow_mut().take() {
                match value {
                    Ok(value) => return value,
                    Err(message) => panic!("seed {}: outside panicked: {message}", world.seed),
                }
            }
            world.check();
            if !world.step() {
                let names: Vec<String> = world.nodes.borrow().iter().map(|n| n.name.clone()).collect();
                panic!("seed {}: nothing can run any more (nodes {names:?})", world.seed);
            }
        }
    }
}

impl Slot {
    /// Drops the future as its shard would: destructors see their own context, and cannot panic outwards.
    fn discard(mut self) {
        let fut = self.fut.take();
        let _entered = context::enter(self.context.clone());
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(fut)));
        self.context.locals.borrow_mut().clear();
    }
}

impl World {
    /// SplitMix64.
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = z ^ (z >> 31);
        self.mix(z);
        z
    }

    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.random()) * u128::from(bound)) >> 64) as u64
    }

    fn mix(&self, value: u64) {
        self.digest.set((self.digest.get() ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23));
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    pub fn wall(&self, node: NodeId) -> (i64, u32) {
        let skew = self.nodes.borrow()[node.0].skew_ns;
        let ns =
            i128::from(self.config.wall_start) * 1_000_000_000 + i128::from(self.now()) + i128::from(skew);
        (ns.div_euclid(1_000_000_000) as i64, ns.rem_euclid(1_000_000_000) as u32)
    }

    pub fn net_delay_ns(&self) -> u64 {
        self.below(self.config.net_delay_us_max.max(1) * 1000)
    }

    /// Takes a task of a shard; drops it at once where that shard's node has crashed since.
    pub fn spawn(
        self: &Rc<World>,
        context: &Rc<context::Context>,
        _name: &'static str,
        fut: Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let seat = context.seat().expect("a simulated shard");
        if !seat.alive() {
            return;
        }
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let wake = Arc::new(WakeTask { id, queued: AtomicBool::new(false), woken: self.woken.clone() });
        let slot = Slot { context: context.clone(), node: seat.node, fut: Some(fut), wake: wake.clone() };
        self.tasks.borrow_mut().insert(id, slot);
        wake.wake();
    }

    pub fn task_panicked(&self, name: &str, message: &str) {
        if self.config.panics_end_run {
            self.fatal.borrow_mut().get_or_insert(format!("task {name} panicked: {message}"));
        }
    }

    fn check(&self) {
        if let Some(fatal) = self.fatal.borrow().as_ref() {
            panic!("seed {}: {fatal}", self.seed);
        }
        assert!(self.steps.get() < self.config.steps_max, "seed {}: a livelock?", self.seed);
    }

    /// Polls one task, or moves the clock to the next timer. False when there is neither.
    fn step(self: &Rc<World>) -> bool {
        self.steps.set(self.steps.get() + 1);
        loop {
            self.fire_timers();
            let mut ready = self.ready.borrow_mut();
            ready.append(&mut self.woken.lock().expect("no panic while held"));
            let Some(id) = self.choose(&mut ready) else {
                let next = self.timers.borrow().keys().next().copied();
                match next {
                    Some((at, _)) => self.now.set(self.now().max(at)),
                    None => return false,
                }
                continue;
            };
            drop(ready);
            self.poll(id);
            return true;
        }
    }

    fn fire_timers(&self) {
        loop {
            let due = {
                let mut timers = self.timers.borrow_mut();
                match timers.first_entry() {
                    Some(entry) if entry.key().0 <= self.now() => entry.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }

    fn choose(&self, ready: &mut Vec<u64>) -> Option<u64> {
        let (tasks, nodes) = (self.tasks.borrow(), self.nodes.borrow());
        ready.retain(|id| tasks.contains_key(id));
        let may_run = |id: &u64| tasks.get(id).is_some_and(|t| !nodes[t.node.0].frozen);
        let count = ready.iter().filter(|id| may_run(id)).count();
        if count == 0 {
            return None;
        }
        let nth = self.below(count as u64) as usize;
        let at = ready.iter().enumerate().filter(|(_, id)| may_run(id)).nth(nth).map(|(at, _)| at)?;
        Some(ready.swap_remove(at))
    }

    fn poll(self: &Rc<World>, id: u64) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|slot| {
            slot.wake.queued.store(false, Ordering::Relaxed);
            Some((slot.fut.take()?, slot.context.clone(), slot.wake.clone()))
        });
        let Some((mut fut, context, wake)) = taken else { return };
        self.mix(id ^ (self.now() << 20));
        let waker = Waker::from(wake);
        let entered = context::enter(context);
        let done = fut.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            drop(fut);
            drop(entered);
            let slot = self.tasks.borrow_mut().remove(&id);
            drop(slot);
        } else {
            drop(entered);
            if let Some(slot) = self.tasks.borrow_mut().get_mut(&id) {
                slot.fut = Some(fut);
            }
        }
        self.now.set(self.now() + self.below(self.config.poll_ns_max.max(1)) + 1);
    }
}

/// Waits in virtual time.
pub(crate) struct Sleep {
    until: Instant,
    key: Option<((u64, u64), Weak<World>)>,
}

impl Sleep {
    pub fn new(until: Instant) -> Sleep {
        Sleep { until, key: None }
    }

    fn forget(&mut self) {
        if let Some((key, world)) = self.key.take()
            && let Some(world) = world.upgrade()
        {
            world.timers.borrow_mut().remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = context::seat().expect("polled where it was made").world;
        self.forget();
        if world.now() >= self.until.0 {
            return Poll::Ready(());
        }
        let id = world.next_timer.get();
        world.next_timer.set(id + 1);
        let key = (self.until.0, id);
        world.timers.borrow_mut().insert(key, cx.waker().clone());
        self.key = Some((key, Rc::downgrade(&world)));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}
