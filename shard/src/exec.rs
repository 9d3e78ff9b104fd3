//! Executors: one pinned thread a shard, its task queues, its tasks, its orderly end.
//!
//! # Invariants
//! A panic in a task ends that task and nothing else. A child is never polled inside the call that spawns it.
//! Every task stands in the shard's registry until it has ended, so that the shard can end them all.
//!
//! # Order
//! Start: the rings of all shards exist before the first root future runs, or none runs. End: a root that
//! fails or panics stops all; a shard goes on serving its mesh until every root has returned; then its tasks
//! are cancelled and their ends awaited; then the executor ends.
//!
//! # Limits
//! [`Limits::shutdown_grace`] for tasks that do not end when cancelled.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares};

use crate::context::{self, Real, World};
use crate::limits::Limits;
use crate::mesh::{self, Mesh};
use crate::sync::Notify;
use crate::time;

/// How to run the shards.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many; 0 means one for each core this process may use.
    pub shards: usize,
    /// Pins shard n to the n-th core this process may use (where there are enough).
    pub pin: bool,
    /// Entries of each ring; 0: [`RING_DEPTH_MAX`], or fewer where RLIMIT_MEMLOCK is low. Connections may far exceed it.
    pub ring_depth: usize,
    /// Octets of registered buffers for each ring of each shard; 64 KiB is the least.
    pub io_memory: usize,
    /// After how long the executor looks for I/O although tasks are runnable. What a task may run is [`SLICE`].
    pub preempt: Duration,
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            shards: 0,
            pin: true,
            ring_depth: 0,
            io_memory: 64 << 10,
            preempt: Duration::from_millis(20),
            limits: Limits::default(),
        }
    }
}

/// The kernel keeps the sockets that a ring waits for in a table of a sixteenth as many lists as the ring has entries (at most
/// 256), and walks one of them each time the executor cancels a timer, twice a pass. So thousands of
/// idle connections cost every pass something, and a ring of 128 sixteen times as much as one of 2048.
pub const RING_DEPTH_MAX: usize = 2048;
const RING_DEPTH_MIN: usize = 128;

/// Why the shards did not start, or how they ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// A person must allow io_uring.
    #[error(
        "this system forbids io_uring ({source}; kernel.io_uring_disabled = {sysctl}): allow it with \
         `sysctl kernel.io_uring_disabled=0`, and in a container with a seccomp profile that admits it"
    )]
    IoUringForbidden { sysctl: String, source: io::Error },
    /// A person must raise the limit.
    #[error(
        "RLIMIT_MEMLOCK is {held} octets and {shards} shards need {needed}: raise it (`ulimit -l`, \
         LimitMEMLOCK= in the unit), or run fewer shards"
    )]
    Memlock { held: u64, needed: u64, shards: usize },
    #[error("shard {shard} did not start: {source}")]
    Start { shard: usize, source: io::Error },
    #[error("shard {shard}: {error}")]
    Failed { shard: usize, error: E },
    #[error("shard {shard} panicked: {message}")]
    Panicked { shard: usize, message: String },
}

/// Runs `start(shard)` on each shard until all have returned, and ends what they left running. The first
/// failure is returned; it stops the others ([`stopped`]).
pub fn run<F, Fut, E>(config: Config, start: F) -> Result<(), RunError<E>>
where
    F: Fn(usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<(), E>>,
    E: Send + 'static,
{
    let cpus = allowed_cpus();
    let shards = if config.shards == 0 { cpus.len().max(1) } else { config.shards };
    probe_io_uring()?;
    let ring_depth = if config.ring_depth == 0 { ring_depth(shards, &config) } else { config.ring_depth };
    let config = Config { ring_depth, ..config };
    let memlock = raise_memlock(shards, &config);

    let (mesh, inboxes) = Mesh::new(shards, config.limits.mesh_queue_max);
    let annex =
        crate::annex::Pool::threads("annex", config.limits.annex_threads, config.limits.annex_queue_max);
    let disk = crate::annex::Pool::threads("disk", config.limits.disk_threads, config.limits.disk_queue_max);
    let left = Arc::new(Left::new(shards));

    let beating: Vec<Arc<AtomicBool>> = (0..shards).map(|_| Arc::default()).collect();
    let (ready_tx, ready_rx) = flume::bounded::<(usize, Result<(), io::Error>)>(shards);
    let mut go = Vec::new();
    let mut threads = Vec::new();
    let mut failed = None;
    for (shard, inbox) in inboxes.into_iter().enumerate() {
        let (go_tx, go_rx) = flume::bounded::<bool>(1);
        let placement = match config.pin && cpus.len() >= shards {
            true => Placement::Fixed(cpus[shard]),
            false => Placement::Unbound,
        };
        let builder = LocalExecutorBuilder::new(placement)
            .name("shard")
            .ring_depth(config.ring_depth)
            .io_memory(config.io_memory)
            .preempt_timer(config.preempt);
        let seat = Seat {
            shard,
            shards,
            mesh: mesh.clone(),
            left: left.clone(),
            limits: config.limits.clone(),
            beating: beating[shard].clone(),
        };
        let (pools, ready, start) = ((annex.clone(), disk.clone()), ready_tx.clone(), start.clone());
        let spawned = std::thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
            let executor = match builder.make() {
                Ok(executor) => executor,
                Err(e) => {
                    let _ = ready.send((shard, Err(into_io(e))));
                    return Ok(());
                }
            };
            let _ = ready.send((shard, Ok(())));
            drop(ready);
            match go_rx.recv() {
                Ok(true) => seat.serve(&executor, inbox, pools, move || start(shard)),
                _ => Ok(()),
            }
        });
        match spawned {
            Ok(thread) => {
                go.push(go_tx);
                threads.push(thread);
            }
            Err(source) => {
                failed = Some((shard, source));
                break;
            }
        }
    }
    drop(ready_tx);
    while let Ok((shard, result)) = ready_rx.recv() {
        if let Err(source) = result {
            failed.get_or_insert((shard, source));
        }
    }
    for go in &go {
        let _ = go.send(failed.is_none());
    }
    drop(mesh);
    if failed.is_none() {
        wake_until_beating(&threads, &beating);
    }

    let mut outcome = Ok(());
    for (shard, thread) in threads.into_iter().enumerate() {
        let ended = match thread.join() {
            Ok(ended) => ended,
            Err(panic) => Err(RunError::Panicked { shard, message: panic_message(&*panic) }),
        };
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    match failed {
        Some((_, source)) if source.raw_os_error() == Some(libc::ENOMEM) || memlock.held < memlock.needed => {
            tracing::debug!(error = %source, "the rings were refused");
            Err(RunError::Memlock { held: memlock.held, needed: memlock.needed, shards })
        }
        Some((shard, source)) => Err(RunError::Start { shard, source }),
        None => outcome,
    }
}

/// One shard's part of [`run`].
struct Seat {
    shard: usize,
    shards: usize,
    mesh: Arc<Mesh>,
    left: Arc<Left>,
    limits: Limits,
    /// Set by its first heartbeat.
    beating: Arc<AtomicBool>,
}

impl Seat {
    fn serve<Fut, E>(
        self,
        executor: &LocalExecutor,
        inbox: mesh::Inbox,
        (annex, disk): (crate::annex::Pool, crate::annex::Pool),
        root: impl FnOnce() -> Fut,
    ) -> Result<(), RunError<E>>
    where
        Fut: Future<Output = Result<(), E>>,
    {
        let Seat { shard, shards, mesh, left, limits, beating } = self;
        executor.run(async move {
            let queue = |shares, latency, name| {
                glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
            };
            // No latency of a queue's own: it would make the preemption timer so short that the trap of
            // `heartbeats` is met whenever a thread loses its core.
            let soon = Latency::NotImportant;
            let queues = [
                queue(1000, soon, "interactive"),
                queue(1000, soon, "commit"),
                queue(100, Latency::NotImportant, "background"),
            ];
            let world = World::Real(Real { queues, annex, disk });
            let context = context::Context::new(shard, shards, world, Rc::new(limits), mesh);
            let _entered = context::enter(context.clone());
            heartbeats(beating);
            let outcome = serve(context.clone(), inbox, left, root).await;
            context.locals.borrow_mut().clear();
            match outcome {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(RunError::Failed { shard, error }),
                Err(message) => Err(RunError::Panicked { shard, message }),
            }
        })
    }
}

/// How long a task runs before [`yield_if_needed`] yields.
pub const SLICE: Duration = Duration::from_micros(500);

/// How long a task that has used up its slice is away at least.
const PASS: Duration = Duration::from_micros(10);

thread_local! {
    /// When the running poll first asked for its slice, in nanoseconds; 0: it has not.
    static SLICE_BEGAN: Cell<u64> = const { Cell::new(0) };
}

/// How many heartbeats a shard has, and how often each beats. Each costs an idle machine a wake-up; so they are also what
/// measures [`crate::stall`].
const HEARTBEATS: u64 = 2;
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How often each beats where between two beats nothing ran but heartbeats: there is nothing that could have been left.
const HEARTBEAT_IDLE: Duration = Duration::from_secs(1);

thread_local! {
    /// How often a task of this shard was polled.
    static POLLS: Cell<u64> = const { Cell::new(0) };
}

/// Keeps a shard from sleeping on work.
///
/// glommio 0.9 parks with runnable tasks where its preemption timer expires before it has run the first of them
/// (`run_task_queues` then says that nothing ran): a thread that loses its core for [`Config::preempt`] at that point
/// sleeps until the next event, for ever on an idle machine. A timer that is armed is such an event. One alone would
/// not do, for its own task may be what was left runnable; several, staggered, bound the sleep at a fraction of
/// [`HEARTBEAT`] each; after idleness it may, once, last [`HEARTBEAT_IDLE`].
fn heartbeats(beating: Arc<AtomicBool>) {
    for number in 0..HEARTBEATS {
        let beating = beating.clone();
        spawn(Queue::Interactive, "heartbeat", async move {
            time::sleep(HEARTBEAT * number as u32 / HEARTBEATS as u32).await;
            let mut interval = HEARTBEAT;
            loop {
                let (due, polls) = (time::now() + interval, POLLS.get());
                time::sleep(interval).await;
                let idle = POLLS.get() - polls <= 2 * HEARTBEATS;
                interval = if idle { HEARTBEAT_IDLE } else { HEARTBEAT };
                crate::stall::record(time::now() - due);
                beating.store(true, Ordering::Relaxed);
                if let Some(beats) = local::<Beats>() {
                    beats.0.borrow().iter().for_each(|beat| beat());
                }
            }
        })
        .detach();
    }
}

/// What happens at each heartbeat.
#[derive(Default)]
struct Beats(RefCell<Vec<Box<dyn Fn()>>>);

/// Has a short chore done at each heartbeat of this shard, some 50 ms apart, on an idle shard up to a second, without a
/// wake-up of its own. Never in a simulation.
pub fn at_heartbeat(chore: impl Fn() + 'static) {
    let beats = local::<Beats>().unwrap_or_else(|| {
        let beats = Rc::new(Beats::default());
        set_local(beats.clone());
        beats
    });
    beats.0.borrow_mut().push(Box::new(chore));
}

/// Before its first heartbeat is armed, a shard that meets the trap of [`heartbeats`] has nothing to wake it: a signal ends its
/// sleep.
fn wake_until_beating<T>(threads: &[std::thread::JoinHandle<T>], beating: &[Arc<AtomicBool>]) {
    // SAFETY: the handler does nothing. SIGURG is ignored where nobody handles it, so it does no harm elsewhere.
    let handler = unsafe { signal_hook::low_level::register(libc::SIGURG, || {}) };
    if let Err(error) = &handler {
        tracing::debug!(%error, "a shard that sleeps at the start is not woken");
        return;
    }
    let asleep = || {
        threads
            .iter()
            .zip(beating)
            .filter(|(thread, beating)| !thread.is_finished() && !beating.load(Ordering::Relaxed))
    };
    let mut looks = 0;
    while asleep().next().is_some() {
        std::thread::sleep(HEARTBEAT / 10);
        looks += 1;
        if looks % 20 == 0 {
            for (thread, _) in asleep() {
                // SAFETY: the thread is not joined yet, so its handle is valid.
                unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) };
            }
        }
    }
}

/// The life of a shard, in either world: the mesh, the root, the end. `Err` is a root's panic.
pub(crate) async fn serve<Fut, E>(
    context: Rc<context::Context>,
    inbox: mesh::Inbox,
    left: Arc<Left>,
    root: impl FnOnce() -> Fut,
) -> Result<Result<(), E>, String>
where
    Fut: Future<Output = Result<(), E>>,
{
    let finish = left.subscribe(context.shard);
    spawn(Queue::Interactive, "mesh", mesh::pump(inbox)).detach();
    let outcome = catch(async { root().await }).await;
    if !matches!(outcome, Ok(Ok(()))) {
        mesh::Handle::new(context.mesh.clone()).stop();
    }
    left.one_less();
    let _ = finish.recv_async().await;
    context.registry.end_all(context.limits.shutdown_grace).await;
    outcome
}

/// Counts the roots still running, and tells every shard when there are none.
pub(crate) struct Left {
    roots: AtomicUsize,
    finish: Vec<(flume::Sender<()>, flume::Receiver<()>)>,
}

impl Left {
    pub(crate) fn new(shards: usize) -> Left {
        Left { roots: AtomicUsize::new(shards), finish: (0..shards).map(|_| flume::bounded(1)).collect() }
    }

    fn subscribe(&self, shard: usize) -> flume::Receiver<()> {
        self.finish[shard].1.clone()
    }

    fn one_less(&self) {
        if self.roots.fetch_sub(1, Ordering::AcqRel) == 1 {
            for (tx, _) in &self.finish {
                let _ = tx.try_send(());
            }
        }
    }
}

/// The running shard, from 0.
pub fn shard() -> usize {
    context::here().shard
}

/// How many shards there are (in a simulation: of this node).
pub fn shards() -> usize {
    context::here().shards
}

/// True on a thread that runs a shard.
pub fn on_shard() -> bool {
    context::current().is_some()
}

/// Keeps one value of a type for the running shard, for what arrives by the mesh to find. Returns the one
/// that stood there.
pub fn set_local<T: 'static>(value: Rc<T>) -> Option<Rc<T>> {
    let old = context::here().locals.borrow_mut().insert(TypeId::of::<T>(), value as Rc<dyn Any>);
    old.and_then(|old| old.downcast().ok())
}

/// The shard's value of a type, see [`set_local`].
pub fn local<T: 'static>() -> Option<Rc<T>> {
    let value = context::here().locals.borrow().get(&TypeId::of::<T>()).cloned();
    value.and_then(|value| value.downcast().ok())
}

/// Asks all shards (of this node) to stop: [`stopped`] becomes ready on each.
pub fn stop() {
    mesh::handle().stop();
}

/// Whether [`stop`] has reached this shard.
pub fn stopping() -> bool {
    context::here().stopping.get()
}

/// Ready when somebody asked the shards to stop, or a root failed. Roots return soon after.
pub async fn stopped() {
    let context = context::here();
    loop {
        let seen = context.stopped.version();
        if context.stopping.get() {
            return;
        }
        context.stopped.changed_since(seen).await;
    }
}

/// Where a task waits for the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// What a client waits for: 1000 shares.
    Interactive,
    /// Group commit, which many clients wait for: 1000 shares.
    Commit,
    /// Flush, compaction, search, checks: 100 shares.
    Background,
}

/// A task panicked, or was cancelled by somebody else than who awaits it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task} panicked: {message}")]
pub struct Panicked {
    pub task: &'static str,
    pub message: String,
}

/// A running task of this shard. Dropping it cancels the task, soon but not at once.
#[must_use = "dropping a task cancels it: await, detach or cancel it"]
pub struct Task<T> {
    shared: Rc<Shared<T>>,
    cancel_on_drop: bool,
}

struct Shared<T> {
    core: Rc<Core>,
    result: RefCell<Option<Result<T, Panicked>>>,
}

struct Core {
    name: &'static str,
    cancelled: Cell<bool>,
    done: Cell<bool>,
    job: RefCell<Option<Waker>>,
    joiner: RefCell<Option<Waker>>,
}

impl Core {
    fn cancel(&self) {
        self.cancelled.set(true);
        let waker = self.job.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Starts a task on this shard. It is first polled after the caller has awaited something.
pub fn spawn<T: 'static>(
    queue: Queue,
    name: &'static str,
    fut: impl Future<Output = T> + 'static,
) -> Task<T> {
    let context = context::here();
    let core = Rc::new(Core {
        name,
        cancelled: Cell::new(context.registry.closing.get()),
        done: Cell::new(false),
        job: RefCell::new(None),
        joiner: RefCell::new(None),
    });
    let shared = Rc::new(Shared { core: core.clone(), result: RefCell::new(None) });
    let entry = context.registry.enter(&context, core);
    let job = Job { fut: Some(Box::pin(fut)), shared: shared.clone(), _entry: entry };
    match &context.world {
        World::Real(real) => {
            let queue = match queue {
                Queue::Interactive => real.queues[0],
                Queue::Commit => real.queues[1],
                Queue::Background => real.queues[2],
            };
            glommio::spawn_local_into(job, queue).expect("the shard's queues live as long as it").detach();
        }
        World::Sim(seat) => seat.world.spawn(&context, name, Box::pin(job)),
    }
    Task { shared, cancel_on_drop: true }
}

impl<T> Task<T> {
    /// Lets it run; nobody learns how it ends (a panic is logged).
    pub fn detach(mut self) {
        self.cancel_on_drop = false;
    }

    pub fn is_finished(&self) -> bool {
        self.shared.core.done.get()
    }

    /// Ends it at its next await and waits until its future is dropped. The value, where it was faster.
    pub async fn cancel(mut self) -> Option<T> {
        self.shared.core.cancel();
        (&mut self).await.ok()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.shared.result.borrow_mut().take() {
            return Poll::Ready(result);
        }
        if self.shared.core.done.get() {
            let message = "cancelled".to_owned();
            return Poll::Ready(Err(Panicked { task: self.shared.core.name, message }));
        }
        *self.shared.core.joiner.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.cancel_on_drop && !self.shared.core.done.get() {
            self.shared.core.cancel();
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.shared.core.name)
    }
}

struct Job<F: Future> {
    fut: Option<Pin<Box<F>>>,
    shared: Rc<Shared<F::Output>>,
    _entry: Entry,
}

impl<F: Future> Unpin for Job<F> {}

impl<F: Future> Future for Job<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let job = &mut *self;
        let core = job.shared.core.clone();
        let Some(fut) = job.fut.as_mut() else { return Poll::Ready(()) };
        if core.cancelled.get() {
            let fut = job.fut.take();
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(fut))) {
                tracing::error!(task = core.name, "panicked when cancelled: {}", panic_message(&*panic));
            }
            return Poll::Ready(());
        }
        {
            let mut waker = core.job.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        SLICE_BEGAN.set(0);
        POLLS.set(POLLS.get() + 1);
        let result = match std::panic::catch_unwind(AssertUnwindSafe(|| fut.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(panic) => {
                let message = panic_message(&*panic);
                tracing::error!(task = core.name, "panicked: {message}");
                if let Some(seat) = context::seat() {
                    seat.world.task_panicked(core.name, &message);
                }
                Err(Panicked { task: core.name, message })
            }
        };
        // A future that panicked may panic again when dropped.
        let fut = job.fut.take();
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(fut)));
        *job.shared.result.borrow_mut() = Some(result);
        Poll::Ready(())
    }
}

/// Runs also where the executor drops the job: nobody waits for a task that is gone.
impl<F: Future> Drop for Job<F> {
    fn drop(&mut self) {
        let core = &self.shared.core;
        core.done.set(true);
        core.job.borrow_mut().take();
        let joiner = core.joiner.borrow_mut().take();
        if let Some(joiner) = joiner {
            joiner.wake();
        }
    }
}

/// The tasks of a shard that have not ended.
#[derive(Default)]
pub(crate) struct Registry {
    closing: Cell<bool>,
    next: Cell<u64>,
    live: RefCell<BTreeMap<u64, Rc<Core>>>,
    changed: Notify,
}

impl Registry {
    fn enter(&self, context: &Rc<context::Context>, core: Rc<Core>) -> Entry {
        let id = self.next.get();
        self.next.set(id + 1);
        self.live.borrow_mut().insert(id, core);
        Entry { context: Rc::downgrade(context), id }
    }

    pub(crate) async fn end_all(&self, grace: Duration) {
        self.closing.set(true);
        let until = time::now() + grace;
        loop {
            let seen = self.changed.version();
            let live: Vec<_> = self.live.borrow().values().cloned().collect();
            if live.is_empty() {
                return;
            }
            for core in live.iter().filter(|core| !core.cancelled.get()) {
                core.cancel();
            }
            let left = until - time::now();
            if time::deadline(left, self.changed.changed_since(seen)).await.is_err() {
                let names: Vec<_> = live.iter().map(|core| core.name).collect();
                tracing::error!(tasks = ?names, "did not end when cancelled");
                return;
            }
        }
    }
}

struct Entry {
    context: std::rc::Weak<context::Context>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(context) = self.context.upgrade() {
            context.registry.live.borrow_mut().remove(&self.id);
            if context.registry.closing.get() {
                context.registry.changed.notify_all();
            }
        }
    }
}

/// How many tasks run on this shard.
pub fn tasks() -> usize {
    context::here().registry.live.borrow().len()
}

/// Lets every other ready task of this shard run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields when the task has had its time slice ([`SLICE`], counted from the first call of a poll); the price of reading a clock
/// otherwise. For loops over messages. In the simulation it yields at the seed's whim.
///
/// A task that yields waits for a timer that is due at once: while any task is runnable glommio looks for I/O only every
/// [`Config::preempt`], and a task that only wakes itself is always runnable. So all that is runnable runs, then I/O is
/// looked for, then the task goes on.
pub async fn yield_if_needed() {
    match context::seat() {
        Some(seat) => {
            if seat.world.random() & 7 == 0 {
                yield_now().await;
            }
        }
        None => {
            let (began, now) = (SLICE_BEGAN.get(), time::now().as_nanos().max(1));
            if began == 0 {
                SLICE_BEGAN.set(now);
            } else if now.saturating_sub(began) >= SLICE.as_nanos() as u64 {
                glommio::timer::Timer::new(PASS).await;
                SLICE_BEGAN.set(0);
            }
        }
    }
}

/// The breaths of a long computation: between two of them it may keep everything else on its shard waiting.
///
/// [`yield_now`] lets other ready tasks run, but timers and I/O are only looked at when the executor's time slice is over
/// or nothing is ready; so a breath sleeps for a moment.
pub struct Pace(time::Instant);

impl Pace {
    /// What a computation may take between two breaths.
    const STRIDE: Duration = Duration::from_micros(500);

    pub fn new() -> Pace {
        Pace(time::now())
    }

    /// Sleeps for a moment where the last breath is long ago; a few nanoseconds otherwise. In the simulation, where
    /// computing takes no time, at the seed's whim.
    pub async fn breathe(&mut self) {
        let due = match context::seat() {
            Some(seat) => seat.world.random() & 7 == 0,
            None => self.0.elapsed() >= Pace::STRIDE,
        };
        if due {
            time::sleep(Duration::from_micros(1)).await;
            self.0 = time::now();
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}

/// A future whose panic is a value: its message. For work that stands for several, of which one must not end the others.
pub async fn catch<T>(fut: impl Future<Output = T>) -> Result<T, String> {
    let mut fut = Box::pin(fut);
    std::future::poll_fn(move |cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| fut.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
        }
    })
    .await
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

pub(crate) fn into_io(e: glommio::GlommioError<()>) -> io::Error {
    match e {
        glommio::GlommioError::IoError(e) => e,
        // Its text repeats a path that the caller knows; the number is what decides.
        glommio::GlommioError::EnhancedIoError { source, .. } => source,
        e => io::Error::other(e.to_string()),
    }
}

/// Asks for the smallest ring, so that the reason of a refusal is told before any shard starts.
fn probe_io_uring<E>() -> Result<(), RunError<E>> {
    let mut params = [0u8; 120];
    // SAFETY: io_uring_setup reads and writes one io_uring_params, 120 octets, all zero being valid.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the descriptor was just made and belongs to nobody else.
        unsafe { libc::close(fd as libc::c_int) };
        return Ok(());
    }
    let source = io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
            let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            let sysctl = sysctl.map_or("unknown".to_owned(), |s| s.trim().to_owned());
            Err(RunError::IoUringForbidden { sysctl, source })
        }
        // Any other trouble is told by the shard that has it.
        _ => Ok(()),
    }
}

struct Memlock {
    held: u64,
    needed: u64,
}

/// Raises the soft limit as far as needed and allowed. Rings of 128 entries and 64 KiB of buffers were
/// measured at 250 KiB a shard; below 512 KiB no executor starts at all.
fn raise_memlock(shards: usize, config: &Config) -> Memlock {
    let needed = memlock_needed(shards, config.ring_depth, config.io_memory);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit and setrlimit read or write one rlimit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) != 0 {
            return Memlock { held: u64::MAX, needed };
        }
        if limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = needed.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
            libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit);
        }
    }
    Memlock { held: limit.rlim_cur, needed }
}

fn memlock_needed(shards: usize, ring_depth: usize, io_memory: usize) -> u64 {
    let each = (256 << 10) * (ring_depth as u64).div_ceil(512).max(1) + 3 * io_memory as u64 - (192 << 10);
    (each * shards as u64).max(512 << 10)
}

/// The deepest rings that take at most half of what this process may lock, since the limit is the user's and not the process's.
fn ring_depth(shards: usize, config: &Config) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    let room = if may_lock_memory() { u64::MAX } else { limit.unwrap_or(u64::MAX) };
    let mut depth = RING_DEPTH_MAX;
    while depth > RING_DEPTH_MIN && memlock_needed(shards, depth, config.io_memory) > room / 2 {
        depth /= 2;
    }
    depth
}

/// Whether RLIMIT_MEMLOCK does not bind this process: CAP_IPC_LOCK.
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok())
        .is_some_and(|held| held >> CAP_IPC_LOCK & 1 == 1)
}

/// The cores this process may run on.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set, and the kernel fills in no more than its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return vec![0];
        }
        set
    };
    // SAFETY: the index is within the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}
