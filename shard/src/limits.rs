//! The bounds of this crate, with their defaults.

use std::time::Duration;

/// Every queue and pool of the runtime is bounded by one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests waiting for one shard in the mesh. A full queue makes `call` wait and `post` refuse.
    pub mesh_queue_max: usize,
    /// Threads of the annex that run closures given to [`crate::annex::run`].
    pub annex_threads: usize,
    /// Closures waiting for an annex thread; one more is refused.
    pub annex_queue_max: usize,
    /// Threads that do what io_uring does not do without blocking: opening, linking, listing, mapping.
    pub disk_threads: usize,
    /// Path operations waiting for a disk thread; one more waits in its own task.
    pub disk_queue_max: usize,
    /// The kernel's queue of connections not yet accepted, for one listener.
    pub listen_backlog: i32,
    /// Accepted connections waiting for the session that takes them, for one listener.
    pub accept_queue_max: usize,
    /// Descriptors kept free of connections, so that journal and admin port go on working.
    pub descriptors_reserved: u64,
    /// How long tasks may take to end when the shard shuts down.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            mesh_queue_max: 4096,
            annex_threads: 2,
            annex_queue_max: 256,
            disk_threads: 4,
            disk_queue_max: 1024,
            listen_backlog: 1024,
            accept_queue_max: 128,
            descriptors_reserved: 512,
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
