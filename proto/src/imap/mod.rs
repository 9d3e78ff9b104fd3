//! IMAP4rev1, both ends of the wire, without I/O.
//!
//! The way in: [`Server`] cuts commands and literals out of the driver's receive buffer and gives [`Event`]s; the grammar
//! in [`command`] turns a whole command into a [`Request`] that borrows from that buffer. The way out: [`response`]
//! (status responses and their codes) and [`encode`] (untagged data) append to the driver's send buffer. [`text`] holds
//! what is said about errors, once. [`client`] is the other end.
//!
//! # Limits
//! [`Limits`], all of them checked before any grammar.
//!
//! # RFC
//! 3501, 2177 (IDLE), 2342 (NAMESPACE), 2971 (ID), 3502 (MULTIAPPEND), 3516 (BINARY), 4315 (UIDPLUS), 4466, 4467 and 5092 (URLs), 4469 (CATENATE),
//! 4731 (ESEARCH), 4959 (SASL-IR), 4978 (COMPRESS), 5032 (WITHIN), 5161 (ENABLE), 5182 (SEARCHRES), 5255 (LANGUAGE), 5256 (SORT, THREAD), 5258 (LIST-EXTENDED),
//! 5267 (ESORT, CONTEXT), 5464 (METADATA), 5465 (NOTIFY), 5530 (response codes), 5819 (LIST-STATUS), 5957 (SORT=DISPLAY), 6154 (SPECIAL-USE), 6851 (MOVE),
//! 7162 (CONDSTORE, QRESYNC), 7377 (MULTISEARCH), 7888 (LITERAL+, LITERAL-), 7889 (APPENDLIMIT), 8437 (UNAUTHENTICATE), 8438 (STATUS=SIZE),
//! 8474 (OBJECTID), 8508 (REPLACE), 8514 (SAVEDATE), 8970 (PREVIEW), 9051 (IMAP4rev2), 9208 (QUOTA), 9394 (PARTIAL), 9585 (INPROGRESS), 9586 (UIDONLY),
//! 9590 (LIST-METADATA), 9755 (UTF8=ACCEPT).

pub mod capability;
pub mod client;
pub mod command;
mod cursor;
pub mod encode;
pub mod frame;
mod literal;
pub mod response;
pub mod state;
pub mod text;
pub mod url;

#[cfg(test)]
mod tests;

pub use capability::{Mask, capabilities};
pub use command::{AppendPiece, AppendStep, Command, MessageSet, Request};
pub use frame::{Append, Event, Server};
pub use response::{Code, Status};
pub use state::{Enabled, Stage, State};
pub use text::{Reason, Refusal};
pub use url::{Url, UrlError, UrlMailbox, UrlMessage};

/// Bounds of what a client may send, in octets unless the name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One command without its literals, and one SASL response, before login.
    pub line_octets_login_max: u32,
    /// One command without its literals, after login.
    pub line_octets_max: u32,
    /// All literals of one command together, before login.
    pub literal_octets_login_max: u32,
    /// All literals of one command together, after login: they stay in the driver's buffer until the command is whole.
    pub literal_octets_max: u32,
    /// The message of an APPEND: APPENDLIMIT (RFC 7889). It is streamed, never collected.
    pub append_octets_max: u64,
    /// What is read and thrown away after a refusal, so that the connection may go on; beyond it, BYE.
    pub swallow_octets_max: u64,
    /// Non-synchronising literals larger than 4096 octets are refused: LITERAL- in place of LITERAL+ (RFC 7888 §5).
    pub literal_minus: bool,
    /// Refused commands in a row before BYE.
    pub refusals_max: u8,
}

impl Limits {
    /// Longest tag, in octets.
    pub const TAG_OCTETS_MAX: usize = 255;
    /// RFC 7888 §5: the largest non-synchronising literal of LITERAL-.
    pub const LITERAL_MINUS_OCTETS: u64 = 4096;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line_octets_login_max: 16 * 1024,
            line_octets_max: 64 * 1024,
            literal_octets_login_max: 4 * 1024,
            literal_octets_max: 1024 * 1024,
            append_octets_max: 100 * 1024 * 1024,
            swallow_octets_max: 200 * 1024 * 1024,
            literal_minus: false,
            refusals_max: 20,
        }
    }
}
