//! The protocols of mail, both ends of the wire: IMAP, POP3, LMTP, SASL, the PROXY header.
//!
//! Sans-I/O: no `async`, no sockets, no clock. A protocol is a value that is fed octets and gives what must be done,
//! so that it can be tested as a table, fuzzed, and moved to another core.

pub mod away;
pub mod imap;
pub mod lmtp;
pub mod pop3;
pub mod proxy;
pub mod sasl;
