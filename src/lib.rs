//! Culver's root: configuration, roles and session drivers. The only place where socket, protocol and mailbox meet.

pub mod chores;
pub mod config;
pub mod control;
pub mod log;
pub mod nodes;
mod private;
pub mod quickstart;
pub mod rebuild;
pub mod serve;
