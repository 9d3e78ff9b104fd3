//! What the server says: one table of refusals with their codes, and how a reply is written.
//!
//! # RFC
//! 5321 §4.2 (codes), 3463 and 5248 (enhanced codes), 2034 §4: every 2xx, 4xx and 5xx has one, but the greeting and
//! the answer to LHLO.

use std::fmt;
use std::io::Write;

use crate::away::Away;

/// A code, an enhanced code and words.
pub(super) type Reply = (u16, &'static str, &'static str);

/// Why a recipient or its copy of the message is refused: the LMTP column of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such account.
    UnknownUser,
    /// The account may not receive.
    Disabled,
    /// Whether there is such an account cannot be found out now: never a bounce.
    UsersUnavailable,
    /// Over quota, where the site wants the sender to try again.
    OverQuotaForNow,
    /// Over quota, where the site wants a bounce.
    OverQuota,
    /// The message is longer than this server takes.
    TooLarge,
    /// A bare CR or LF, where the site refuses them.
    BareLineEnd,
    /// 100 Received fields, or this recipient's own Delivered-To.
    Loop,
    /// The recipient must come in another transaction.
    TooManyRecipients,
    /// Too many connections, or too much in flight.
    Busy,
    /// The disk is full.
    NoSpace,
    /// Something of ours failed: storage, the owner of the account, a commit whose outcome is unknown.
    Temporary,
    /// The server is being shut down.
    ShuttingDown,
    /// The client said nothing for too long.
    Idle,
    /// Too many bad commands, or a line without end.
    TooManyErrors,
}

impl Refusal {
    pub(super) fn reply(self) -> Reply {
        match self {
            Refusal::UnknownUser => (550, "5.1.1", "no such user"),
            Refusal::Disabled => (550, "5.2.1", "this mailbox takes no mail"),
            Refusal::UsersUnavailable => (451, "4.3.0", "users cannot be looked up now"),
            Refusal::OverQuotaForNow => (452, "4.2.2", "mailbox is full"),
            Refusal::OverQuota => (552, "5.2.2", "mailbox is full"),
            Refusal::TooLarge => (552, "5.3.4", "message is too large"),
            Refusal::BareLineEnd => (550, "5.6.0", "message has a bare CR or LF"),
            Refusal::Loop => (554, "5.4.6", "mail loop detected"),
            Refusal::TooManyRecipients => (452, "4.5.3", "too many recipients"),
            Refusal::Busy => (451, "4.3.2", "busy, try again later"),
            Refusal::NoSpace => (452, "4.3.1", "no space left for mail"),
            Refusal::Temporary => (451, "4.3.0", "internal error, try again later"),
            Refusal::ShuttingDown => (421, "4.3.2", "server is shutting down"),
            Refusal::Idle => (421, "4.4.2", "disconnected for inactivity"),
            Refusal::TooManyErrors => (421, "4.7.0", "too many errors"),
        }
    }

    /// Whether the client is told to come back.
    pub fn is_temporary(self) -> bool {
        self.reply().0 < 500
    }
}

pub(super) fn write(out: &mut Vec<u8>, (code, enhanced, text): Reply) {
    write!(out, "{code} {enhanced} {text}\r\n").expect("a Vec takes every octet");
}

/// A reply about one recipient.
pub(super) fn write_for(out: &mut Vec<u8>, address: &dyn fmt::Display, (code, enhanced, text): Reply) {
    write!(out, "{code} {enhanced} <{address}> {text}\r\n").expect("a Vec takes every octet");
}

/// A reply about one recipient whose account is not served here now. RFC 3463 §3.4: this system takes nothing for it.
pub(super) fn write_away(out: &mut Vec<u8>, address: &dyn fmt::Display, away: &Away) {
    write!(out, "451 4.3.2 <{address}> {away}\r\n").expect("a Vec takes every octet");
}
