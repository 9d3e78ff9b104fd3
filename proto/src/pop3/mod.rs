//! POP3: both ends of the wire, sans-I/O.
//!
//! The driver owns the socket and one receive buffer. It calls [`Server::next`] with what the buffer holds, drops the
//! octets that were consumed, writes what was appended to `out`, and does what the event asks. The server itself
//! answers everything that needs no mailbox: CAPA, STAT, LIST, UIDL, DELE, RSET, NOOP and every error of the client.
//!
//! The only events that need an answer are `Keys`, `Login`, `Message` and `Quit`; between two of them the whole session is a
//! value, [`Server::encode`], that can be moved to another shard.
//!
//! # Limits
//! [`Limits`].
//!
//! # RFC
//! 1939, 2449 (CAPA), 2595 §4 (STLS), 3206 (SYS, AUTH), 5034 (AUTH). APOP is not offered: it needs the password in
//! the clear on the server.

pub mod client;
mod command;
pub mod dot;
pub(crate) mod line;
mod maildrop;
mod reply;
mod server;
mod state;

use crate::sasl::{Channel, Mechanisms};

pub use maildrop::{MESSAGES_MAX, Maildrop, MaildropError, Message, UIDL_OCTETS_MAX};
pub use reply::Refusal;
pub use server::{Event, Login, Server};
pub use state::StateError;

/// What a POP3 service is configured to be, for a session.
#[derive(Clone, Debug)]
pub struct Config {
    /// The words of the greeting; `<` and `>` are left out, since they would offer APOP.
    pub greeting: String,
    /// The word after IMPLEMENTATION, if it is to be told.
    pub implementation: Option<String>,
    /// STLS is offered on connections that are not yet under TLS.
    pub starttls: bool,
    /// Clients may log in without TLS. True for addresses configured as secure, loopback by default.
    pub plaintext_allowed: bool,
    /// What the session's own connection brings into SASL: of a connection that may still begin TLS,
    /// [`Server::tls_started`] brings another.
    pub channel: Channel,
    /// What the site promises about retention.
    pub expire: Expire,
    /// The seconds between logins that the driver enforces, if it does.
    pub login_delay_s: Option<u32>,
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            greeting: "Culver POP3 ready".to_owned(),
            implementation: Some("Culver".to_owned()),
            starttls: true,
            plaintext_allowed: false,
            channel: Channel::default(),
            expire: Expire::Unsaid,
            login_delay_s: None,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// What may be used to log in now.
    fn mechanisms(&self, tls: bool) -> Mechanisms {
        if tls || self.plaintext_allowed { self.channel.offered } else { Mechanisms::NONE }
    }
}

/// The EXPIRE capability (RFC 2449 §6.7): only what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    Unsaid,
    Never,
    Days(u32),
}

/// The bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest command line with its end. RFC 2449 §4 asks for 255; a SASL response may be longer. 16,384.
    pub line_octets_max: usize,
    /// The longest line that is thrown away and answered; longer ones end the session. 64 KiB.
    pub swallow_octets_max: usize,
    /// Bad commands, in all, after which the session ends. 20.
    pub bad_commands_max: u32,
    /// Failed logins after which the session ends. 10.
    pub failed_logins_max: u32,
    /// Octets in `out` at which the driver is asked to write before more is done. 64 KiB.
    pub output_octets_max: usize,
    /// RFC 1939 §3: an autologout timer is at least 10 minutes. 600,000 ms.
    pub idle_ms_max: u64,
    /// The same before authentication. 60,000 ms.
    pub login_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            line_octets_max: 16 * 1024,
            swallow_octets_max: 64 * 1024,
            bad_commands_max: 20,
            failed_logins_max: 10,
            output_octets_max: 64 * 1024,
            idle_ms_max: 600_000,
            login_ms_max: 60_000,
        }
    }
}

#[cfg(test)]
mod tests;
