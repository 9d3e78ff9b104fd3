//! proto
pub mod lmtp;
pub mod pop3;
pub mod sasl;
