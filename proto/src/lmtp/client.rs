//! The client's end of LMTP: reads replies, and writes commands and messages.
//!
//! # Limits
//! [`REPLY_OCTETS_MAX`] for a reply with all its lines.

use std::io::Write;

use memchr::memchr;

pub use crate::pop3::dot::Stuffer;

use super::address::Address;

/// The longest reply that is read.
pub const REPLY_OCTETS_MAX: usize = 64 * 1024;

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// RFC 2034: class, subject, detail.
    pub enhanced: Option<(u8, u16, u16)>,
    /// The lines without codes, joined by LF.
    pub text: String,
}

/// The server does not speak LMTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or too long reply")]
pub struct Malformed;

/// Takes a reply from the start of what the receive buffer holds: the octets it took, or `None`: read more.
pub fn reply(input: &[u8]) -> Result<Option<(usize, Reply)>, Malformed> {
    let (mut at, mut whole) = (0, Reply { code: 0, enhanced: None, text: String::new() });
    while let Some(end) = memchr(b'\n', &input[at..]) {
        let line = std::str::from_utf8(&input[at..at + end]).map_err(|_| Malformed)?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let first = at == 0;
        at += end + 1;
        if at > REPLY_OCTETS_MAX {
            return Err(Malformed);
        }
        let (code, rest) = line.split_at_checked(3).ok_or(Malformed)?;
        if !code.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed);
        }
        let code = code.parse().map_err(|_| Malformed)?;
        let (more, text) = match rest.as_bytes().first() {
            Some(b'-') => (true, &rest[1..]),
            Some(b' ') => (false, &rest[1..]),
            None => (false, rest),
            Some(_) => return Err(Malformed),
        };
        let (enhanced, text) = enhanced(text);
        if first {
            (whole.code, whole.enhanced) = (code, enhanced);
        } else if whole.code == code {
            whole.text.push('\n');
        } else {
            return Err(Malformed);
        }
        whole.text.push_str(text);
        if !more {
            return Ok(Some((at, whole)));
        }
    }
    if input.len() > REPLY_OCTETS_MAX { Err(Malformed) } else { Ok(None) }
}

fn enhanced(text: &str) -> (Option<(u8, u16, u16)>, &str) {
    let parse = || {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut numbers = code.split('.');
        let class = numbers.next()?.parse().ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        let (subject, detail) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        numbers.next().is_none().then_some(((class, subject, detail), rest))
    };
    match parse() {
        Some((code, rest)) => (Some(code), rest),
        None => (None, text),
    }
}

/// Appends `LHLO`.
pub fn lhlo(name: &str, out: &mut Vec<u8>) {
    command(out, format_args!("LHLO {name}"));
}

/// Appends `MAIL`; SIZE and 8BITMIME only where the server offered them.
pub fn mail(sender: Option<&Address>, size: Option<u64>, eight_bit: bool, out: &mut Vec<u8>) {
    let sender = sender.map(Address::to_string).unwrap_or_default();
    let size = size.map(|size| format!(" SIZE={size}")).unwrap_or_default();
    let body = if eight_bit { " BODY=8BITMIME" } else { "" };
    command(out, format_args!("MAIL FROM:<{sender}>{size}{body}"));
}

/// Appends `RCPT`.
pub fn rcpt(recipient: &Address, out: &mut Vec<u8>) {
    command(out, format_args!("RCPT TO:<{recipient}>"));
}

/// Appends `BDAT`; the chunk follows as it is. The octets of a DATA go through a [`Stuffer`].
pub fn bdat(octets: u64, last: bool, out: &mut Vec<u8>) {
    command(out, format_args!("BDAT {octets}{}", if last { " LAST" } else { "" }));
}

fn command(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    write!(out, "{text}\r\n").expect("a Vec takes every octet");
}
