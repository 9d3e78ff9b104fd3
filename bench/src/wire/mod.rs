//! Octets to and from a server: sockets with TLS or without, and what reads their answers without keeping them.

mod connect;
pub mod imap;
pub mod imap_skip;
pub mod lmtp;
pub mod pop3;
mod socket;

pub use connect::{Target, TargetOptions, Tls};
pub use socket::Wire;

/// An operation that did not come to an end; the connection is of no use after it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Connect(String),
    #[error("the server closed the connection{}", if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Closed(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    #[error("{0}")]
    Refused(String),
}
