//! LMTP: both ends of the wire, sans-I/O.
//!
//! The driver owns the socket and one receive buffer. It calls [`Server::next`] with what the buffer holds, uses the
//! event, drops the octets that were consumed, and writes what was appended to `out`. A message is never collected
//! here: it reaches the driver as slices of the receive buffer, without dot-stuffing and with CRLF at every line's
//! end, between `Begin` and `EndOfData` or `Discard`.
//!
//! A connection that is lost before `EndOfData` delivers to nobody: the driver drops what it wrote.
//!
//! # Limits
//! [`Limits`].
//!
//! # RFC
//! 2033, 5321 (syntax, replies), 1870 (SIZE), 6152 (8BITMIME), 2920 (PIPELINING), 2034 and 3463
//! (ENHANCEDSTATUSCODES), 3030 (CHUNKING, BINARYMIME), 3207 (STARTTLS), 6531 (SMTPUTF8). The parameters of 3461 (DSN)
//! are taken, and DSN is not offered. XFORWARD and XCLIENT are Postfix's own extensions (its XFORWARD_README and XCLIENT_README), with the xtext of 3461 §4.

mod address;
mod body;
pub mod client;
mod command;
mod dsn;
mod header;
mod received;
mod reply;
mod server;
mod trace;
mod xclient;
mod xforward;
mod xtext;

pub use address::{Address, AddressError};
pub use header::{HEADER_RECEIVED_MAX, HeaderWatch};
pub use reply::Refusal;
pub use server::{Event, Server, Transaction};
pub use trace::Trace;

/// What an LMTP service is configured to be. Shared by all its sessions.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's own host name, in the greeting and the answers.
    pub host: String,
    /// STARTTLS is offered on connections that are not yet under TLS.
    pub starttls: bool,
    /// XFORWARD is offered: the client is one whose word is taken for where a message came from.
    pub xforward: bool,
    /// XCLIENT is offered: the client is a proxy whose word is taken for whom it speaks for.
    pub xclient: bool,
    pub bare_line_ends: BareLineEnds,
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            host: "localhost".to_owned(),
            starttls: true,
            xforward: false,
            xclient: false,
            bare_line_ends: BareLineEnds::Normalise,
            limits: Limits::default(),
        }
    }
}

/// What becomes of a CR or an LF without its fellow in a message. Neither ever ends the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareLineEnds {
    /// It becomes CRLF.
    Normalise,
    /// The message is refused with 550 5.6.0.
    Refuse,
}

/// The bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest command line with its end. RFC 5321 §4.5.3.1.4 asks for 512 and more with extensions. 4096.
    pub line_octets_max: usize,
    /// The longest line that is thrown away and answered; longer ones end the session. 64 KiB.
    pub swallow_octets_max: usize,
    /// Accepted recipients of one transaction; further ones get 452 4.5.3 and come with the next. 1000.
    pub recipients_max: usize,
    /// Octets of a message as stored without its prefix; what SIZE announces. 64 MiB.
    pub message_octets_max: u64,
    /// Bad commands, in all, after which the session ends. 20.
    pub bad_commands_max: u32,
    /// Octets in `out` at which the driver is asked to write before more is done. 64 KiB.
    pub output_octets_max: usize,
    /// RFC 5321 §4.5.3.2.7: a server waits five minutes at least for the next command. 300,000 ms.
    pub idle_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            line_octets_max: 4096,
            swallow_octets_max: 64 * 1024,
            recipients_max: 1000,
            message_octets_max: 64 * 1024 * 1024,
            bad_commands_max: 20,
            output_octets_max: 64 * 1024,
            idle_ms_max: 300_000,
        }
    }
}

#[cfg(test)]
mod tests;
