//! The mesh: one shard asks another to run something.
//!
//! One bounded queue a shard, many senders; the answer comes back by a one-shot. Order between two shards is
//! the order of sending, up to the first await of what runs there.
//!
//! # Limits
//! [`crate::Limits::mesh_queue_max`] requests wait for a shard; `call` then waits, `post` refuses. What was
//! taken from the queue runs as a task of the target shard, so a slow request does not hold up the next.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_channel::oneshot;

use crate::context;
use crate::exec::{self, Queue};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Mesh {
    senders: Vec<flume::Sender<Job>>,
}

pub(crate) struct Inbox(flume::Receiver<Job>);

impl Mesh {
    pub(crate) fn new(shards: usize, queue_max: usize) -> (Arc<Mesh>, Vec<Inbox>) {
        let (senders, inboxes) = (0..shards)
            .map(|_| {
                let (tx, rx) = flume::bounded(queue_max.max(1));
                (tx, Inbox(rx))
            })
            .unzip();
        (Arc::new(Mesh { senders }), inboxes)
    }
}

/// Requests that the shard does not come to are dropped, and their callers told.
impl Drop for Inbox {
    fn drop(&mut self) {
        for job in self.0.try_iter() {
            drop(job);
        }
    }
}

pub(crate) async fn pump(inbox: Inbox) {
    while let Ok(job) = inbox.0.recv_async().await {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
            tracing::error!("a mesh request panicked: {}", exec::panic_message(&*panic));
        }
        exec::yield_if_needed().await;
    }
}

/// The other shard has ended, or what it ran panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} did not answer")]
pub struct Gone {
    pub shard: usize,
}

/// Why [`post`] did not take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    #[error("the mesh queue of shard {shard} is full")]
    Full { shard: usize },
    #[error("shard {shard} has ended")]
    Gone { shard: usize },
}

/// Runs `f` on a shard (also this one) and waits for its value. Dropping the call does not end what runs
/// there.
///
/// # Panics
/// Where there is no such shard.
pub async fn call<T, F, Fut>(shard: usize, f: F) -> Result<T, Gone>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    handle().call(shard, f).await
}

/// Runs `f` on a shard without waiting for it.
///
/// # Panics
/// Where there is no such shard.
pub fn post<F, Fut>(shard: usize, f: F) -> Result<(), PostError>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    handle().post(shard, f)
}

/// The mesh of the running shard, to be carried anywhere.
pub fn handle() -> Handle {
    Handle(context::here().mesh.clone())
}

/// The mesh as foreign threads hold it.
#[derive(Clone)]
pub struct Handle(Arc<Mesh>);

impl Handle {
    pub(crate) fn new(mesh: Arc<Mesh>) -> Handle {
        Handle(mesh)
    }

    pub fn shards(&self) -> usize {
        self.0.senders.len()
    }

    /// See [`call`]. Any executor may poll it.
    pub async fn call<T, F, Fut>(&self, shard: usize, f: F) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let job: Job = Box::new(move || {
            let run = async move {
                let _ = tx.send(f().await);
            };
            exec::spawn(Queue::Interactive, "mesh call", run).detach();
        });
        self.0.senders[shard].send_async(job).await.map_err(|_| Gone { shard })?;
        rx.await.map_err(|_| Gone { shard })
    }

    /// See [`post`].
    pub fn post<F, Fut>(&self, shard: usize, f: F) -> Result<(), PostError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let job: Job =
            Box::new(move || exec::spawn(Queue::Interactive, "mesh post", async move { f().await }).detach());
        self.0.senders[shard].try_send(job).map_err(|e| match e {
            flume::TrySendError::Full(_) => PostError::Full { shard },
            flume::TrySendError::Disconnected(_) => PostError::Gone { shard },
        })
    }

    /// See [`exec::stop`]. It waits for room in a full queue only on a foreign thread.
    pub fn stop(&self) {
        for sender in &self.0.senders {
            let job: Job = Box::new(|| {
                let context = context::here();
                context.stopping.set(true);
                context.stopped.notify_all();
            });
            if let Err(flume::TrySendError::Full(job)) = sender.try_send(job) {
                match context::current() {
                    None => drop(sender.send(job)),
                    Some(_) => {
                        let sender = sender.clone();
                        let wait = async move { drop(sender.send_async(job).await) };
                        exec::spawn(Queue::Interactive, "stop", wait).detach();
                    }
                }
            }
        }
    }
}
