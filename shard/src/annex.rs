//! The annex: a few threads for what would block a shard (password hashes, path operations, page faults).
//!
//! # Invariants
//! A closure that panics ends neither its thread nor its awaiter. An answer cannot be lost: it travels in a
//! one-shot whose sender, dropped, is an answer too.
//!
//! # Limits
//! [`crate::Limits::annex_threads`] threads and [`crate::Limits::annex_queue_max`] waiting closures for
//! [`run`], which refuses one more; path operations have threads and a queue of their own, so that a burst of
//! logins does not delay a flush.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_channel::oneshot;

use crate::context::{self, World};
use crate::{exec, time};

type Job = Box<dyn FnOnce() + Send>;

/// Why the annex gives no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnexError {
    /// Time must act: ask again later, or tell the client to.
    #[error("the annex has too much to do")]
    Full,
    #[error("a closure panicked in the annex: {0}")]
    Panicked(String),
}

/// Runs `f` off the shard. In the simulation: here, after a virtual delay.
pub async fn run<T, F>(f: F) -> Result<T, AnnexError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let context = context::here();
    match &context.world {
        World::Real(real) => real.annex.run(f, false).await,
        World::Sim(_) => simulated(f, Duration::from_millis(1)).await,
    }
}

/// Path operations: wait for room where the queue is full.
pub(crate) async fn run_disk<T, F>(f: F) -> Result<T, AnnexError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let context = context::here();
    match &context.world {
        World::Real(real) => real.disk.run(f, true).await,
        World::Sim(_) => simulated(f, Duration::from_micros(100)).await,
    }
}

async fn simulated<T>(f: impl FnOnce() -> T, delay: Duration) -> Result<T, AnnexError> {
    time::sleep(delay.mul_f64((crate::random::below(1000) + 1) as f64 / 500.0)).await;
    std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(|p| AnnexError::Panicked(exec::panic_message(&*p)))
}

/// Threads that take closures from one bounded queue. They end when the last clone of the pool is dropped.
#[derive(Clone)]
pub(crate) struct Pool(flume::Sender<Job>);

impl Pool {
    /// # Panics
    /// Where the system gives no thread at all.
    pub(crate) fn threads(name: &str, threads: usize, queue_max: usize) -> Pool {
        let (tx, rx) = flume::bounded::<Job>(queue_max.max(1));
        let mut started = 0;
        for n in 0..threads.max(1) {
            let rx = rx.clone();
            let work = move || {
                for job in rx.iter() {
                    job();
                }
            };
            match std::thread::Builder::new().name(format!("{name}-{n}")).spawn(work) {
                Ok(_) => started += 1,
                Err(e) => tracing::error!(error = %e, "{name} has a thread less"),
            }
        }
        assert!(started > 0, "the system gives threads");
        Pool(tx)
    }

    async fn run<T, F>(&self, f: F, wait: bool) -> Result<T, AnnexError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more: a hash that nobody reads is not computed.
            if tx.is_canceled() {
                return;
            }
            let _ = tx.send(std::panic::catch_unwind(AssertUnwindSafe(f)));
        });
        if wait {
            self.0.send_async(job).await.map_err(|_| AnnexError::Full)?;
        } else {
            self.0.try_send(job).map_err(|_| AnnexError::Full)?;
        }
        match rx.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(AnnexError::Panicked(exec::panic_message(&*panic))),
            Err(oneshot::Canceled) => Err(AnnexError::Panicked("the annex ended".to_owned())),
        }
    }
}
