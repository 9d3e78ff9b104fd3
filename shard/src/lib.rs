//! The thread-per-core runtime: executors, clock, randomness, mesh, annex, files, maps, sockets, TLS, and a
//! simulated twin of each.
//!
//! One concrete type for each thing, with two inner forms. A thread-local context decides which: inside
//! [`exec::run`] it is glommio on io_uring, inside [`sim::Sim`] it is the simulator. Code above this crate
//! runs unchanged in both, provided it keeps state in [`exec::set_local`] and not in thread-locals (all
//! simulated shards share one thread), and takes time and randomness from here.
//!
//! # Invariants
//! glommio and clocks occur in this crate and nowhere else. No noun of mail occurs here.

pub mod annex;
pub mod certificate;
pub mod conn;
mod context;
pub mod disk;
pub mod exec;
pub mod http;
mod limits;
mod linger;
pub mod map;
pub mod mesh;
pub mod net;
pub mod random;
pub mod signal;
pub mod sim;
pub mod stall;
pub mod sync;
pub mod time;
pub mod tls;

pub use exec::{
    Config, Pace, Panicked, Queue, RunError, Task, at_heartbeat, catch, local, run, set_local, shard, shards,
    spawn, stop, stopped, stopping, yield_if_needed, yield_now,
};
pub use limits::Limits;
