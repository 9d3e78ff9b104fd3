//! What the server says: the table of refusals, and the capability list.

use crate::sasl::Mechanism;

use super::{Config, Expire};

/// Why a request is refused: the POP3 column of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Unknown user or wrong password: the client must ask its user.
    AuthenticationFailed,
    /// The account may not log in, from here or at all.
    Disabled,
    /// Credentials are only taken over TLS.
    PrivacyRequired,
    /// USER and PASS, where no password is taken as it is.
    MechanismRequired,
    /// Users cannot be looked up, or too much waits to be hashed: the client must come back.
    Unavailable,
    /// Too many connections of this user or address.
    TooManyConnections,
    /// Another session holds the maildrop.
    InUse,
    /// The user came back too soon.
    LoginDelay,
    /// The message is not there any more: another session expunged it.
    MessageGone,
    /// The deletions at QUIT could not be committed; nothing was deleted, or it is unknown what.
    NotDeleted,
    /// Something of ours failed and may work later.
    Temporary,
    /// Something of ours failed and needs a person.
    Permanent,
    /// The server is being shut down.
    ShuttingDown,
    /// The client said nothing for too long.
    Idle,
    /// Too many bad commands or failed logins, or a line without end.
    TooManyErrors,
}

impl Refusal {
    /// The text after `-ERR `: a response code (RFC 2449 §8, RFC 3206) and words.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::AuthenticationFailed => "[AUTH] authentication failed",
            Refusal::Disabled => "[AUTH] this account may not log in",
            Refusal::PrivacyRequired => "[AUTH] use TLS before you send a password",
            Refusal::MechanismRequired => "[AUTH] use AUTH with one of the mechanisms that CAPA lists",
            Refusal::Unavailable => "[SYS/TEMP] authentication is unavailable for now",
            Refusal::TooManyConnections => "[SYS/TEMP] too many connections",
            Refusal::InUse => "[IN-USE] the maildrop is in use by another session",
            Refusal::LoginDelay => "[LOGIN-DELAY] too soon after the last login",
            Refusal::MessageGone => "this message is gone",
            Refusal::NotDeleted => "[SYS/TEMP] messages may not have been deleted",
            Refusal::Temporary => "[SYS/TEMP] internal error, try again later",
            Refusal::Permanent => "[SYS/PERM] internal error, tell the operators",
            Refusal::ShuttingDown => "[SYS/TEMP] server is shutting down",
            Refusal::Idle => "disconnected for inactivity",
            Refusal::TooManyErrors => "too many errors",
        }
    }
}

pub(super) fn ok(out: &mut Vec<u8>, text: &str) {
    line(out, "+OK", text);
}

pub(super) fn err(out: &mut Vec<u8>, text: &str) {
    line(out, "-ERR", text);
}

fn line(out: &mut Vec<u8>, status: &str, text: &str) {
    out.extend_from_slice(status.as_bytes());
    if !text.is_empty() {
        out.push(b' ');
    }
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The answer to CAPA. RFC 2449 §5: what is announced before authentication stays announced after it.
pub(super) fn capabilities(config: &Config, tls: bool, out: &mut Vec<u8>) {
    ok(out, "capability list follows");
    let mut capability = |text: &str| {
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    ["TOP", "UIDL", "PIPELINING", "RESP-CODES", "AUTH-RESP-CODE", "LANG"]
        .into_iter()
        .for_each(&mut capability);
    if config.starttls && !tls {
        capability("STLS");
    }
    let mechanisms = config.mechanisms(tls);
    if mechanisms.take_passwords() {
        capability("USER");
    }
    if !mechanisms.is_empty() {
        let names: Vec<_> = mechanisms.iter().map(Mechanism::name).collect();
        capability(&format!("SASL {}", names.join(" ")));
    }
    match config.expire {
        Expire::Unsaid => {}
        Expire::Never => capability("EXPIRE NEVER"),
        Expire::Days(days) => capability(&format!("EXPIRE {days}")),
    }
    if let Some(seconds) = config.login_delay_s {
        capability(&format!("LOGIN-DELAY {seconds}"));
    }
    if let Some(implementation) = &config.implementation {
        let word: String = implementation.chars().filter(char::is_ascii_graphic).take(200).collect();
        if !word.is_empty() {
            capability(&format!("IMPLEMENTATION {word}"));
        }
    }
    out.extend_from_slice(b".\r\n");
}
