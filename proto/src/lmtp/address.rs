//! Addresses of the envelope.
//!
//! Read with some mercy (dots in odd places, underscores in domains: such senders exist), written as RFC 5321 wants.
//!
//! # Limits
//! [`PATH_OCTETS_MAX`] for a path with its brackets.
//!
//! # RFC
//! 5321 §4.1.2 (syntax), §4.1.1.3 and appendix C (source routes are ignored), 6531 §3.3 (UTF-8 in local parts and domains: whether it may be
//! there is for the caller to say).

use std::fmt;

/// RFC 5321 §4.5.3.1: 64 for a local part, 255 for a domain, and what stands around them.
pub(super) const PATH_OCTETS_MAX: usize = 64 + 255 + 3;

/// An address, with the quoting of the local part undone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    local: String,
    domain: Option<String>,
}

/// Why a path is refused; the client must change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("malformed address")]
    Malformed,
    #[error("address too long")]
    TooLong,
    /// Octets above 127 that are not UTF-8.
    #[error("address that is not UTF-8")]
    Utf8,
}

impl Address {
    /// Parses a mailbox without angle brackets: `local@domain`, or `local` alone.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        match path(format!("<{text}>").as_bytes())? {
            (Some(address), []) => Ok(address),
            _ => Err(AddressError::Malformed),
        }
    }

    /// The local part, unquoted.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain, or an address literal with its brackets. `None` for `<postmaster>` and the like.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// Whether it may be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.as_ref().is_none_or(|domain| domain.is_ascii())
    }

    /// The name to look an account up by: unquoted, `local@domain` or `local`. The server gives no recipient whose
    /// local part has an `@` of its own, so this names one domain only.
    pub fn name(&self) -> String {
        match &self.domain {
            Some(domain) => format!("{}@{domain}", self.local),
            None => self.local.clone(),
        }
    }
}

/// The form of the wire, without angle brackets; quoted where needed.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.local.is_empty() && self.local.bytes().all(|b| is_atext(b) || b == b'.' || !b.is_ascii()) {
            f.write_str(&self.local)?;
        } else {
            f.write_str("\"")?;
            for c in self.local.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        match &self.domain {
            Some(domain) => write!(f, "@{domain}"),
            None => Ok(()),
        }
    }
}

/// Parses a path with its angle brackets: the address (`None` for `<>`) and what follows.
pub(super) fn path(input: &[u8]) -> Result<(Option<Address>, &[u8]), AddressError> {
    let mut rest = input.strip_prefix(b"<").ok_or(AddressError::Malformed)?;
    if let Some(after) = rest.strip_prefix(b">") {
        return Ok((None, after));
    }
    if rest.first() == Some(&b'@') {
        // RFC 5321 §4.1.1.3: a source route is read and ignored.
        let colon = rest.iter().position(|&b| b == b':').ok_or(AddressError::Malformed)?;
        let route = &rest[..colon];
        if !route.iter().all(|&b| is_domain(b) || b"@,".contains(&b)) {
            return Err(AddressError::Malformed);
        }
        rest = &rest[colon + 1..];
    }
    let (local, mut rest) = local(rest)?;
    let mut domain = None;
    if let Some(after) = rest.strip_prefix(b"@") {
        let end = after.iter().position(|&b| b == b'>').ok_or(AddressError::Malformed)?;
        domain = Some(self::domain(&after[..end])?);
        rest = &after[end..];
    }
    let after = match rest {
        [b'>', after @ ..] => after,
        _ => return Err(AddressError::Malformed),
    };
    if local.len() + domain.as_ref().map_or(0, String::len) + 3 > PATH_OCTETS_MAX {
        return Err(AddressError::TooLong);
    }
    Ok((Some(Address { local, domain }), after))
}

fn local(input: &[u8]) -> Result<(String, &[u8]), AddressError> {
    let mut local = Vec::new();
    let mut at = 0;
    if input.first() == Some(&b'"') {
        at = 1;
        loop {
            match (input.get(at), input.get(at + 1)) {
                (Some(b'"'), _) => break,
                // RFC 5321 §4.1.2: quoted-pairSMTP and qtextSMTP are printable ASCII; RFC 6531 §3.3 adds UTF-8 to qtextSMTP.
                (Some(b'\\'), Some(&quoted @ b' '..=b'~')) => {
                    local.push(quoted);
                    at += 2;
                }
                (Some(b'\\'), _) => return Err(AddressError::Malformed),
                (Some(&plain @ (b' '..=b'~' | 128..)), _) => {
                    local.push(plain);
                    at += 1;
                }
                _ => return Err(AddressError::Malformed),
            }
        }
        return Ok((text(local)?, &input[at + 1..]));
    }
    while let Some(&b) = input.get(at)
        && (is_atext(b) || b == b'.' || !b.is_ascii())
    {
        local.push(b);
        at += 1;
    }
    if local.is_empty() { Err(AddressError::Malformed) } else { Ok((text(local)?, &input[at..])) }
}

/// UTF-8 without characters that would end a line or a field somewhere (U+0080 to U+009F, U+2028, U+2029).
fn text(octets: Vec<u8>) -> Result<String, AddressError> {
    let text = String::from_utf8(octets).map_err(|_| AddressError::Utf8)?;
    match text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        true => Err(AddressError::Malformed),
        false => Ok(text),
    }
}

fn domain(octets: &[u8]) -> Result<String, AddressError> {
    let literal = octets.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let valid = match literal {
        // RFC 5321 §4.1.3: dcontent.
        Some(inner) => {
            !inner.is_empty() && inner.iter().all(|b| b.is_ascii_graphic() && !b"[]\\<>".contains(b))
        }
        // RFC 6531 §3.3: U-labels.
        None => !octets.is_empty() && octets.iter().all(|&b| is_domain(b) || !b.is_ascii()),
    };
    if valid { text(octets.to_owned()) } else { Err(AddressError::Malformed) }
}

fn is_domain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._".contains(&b)
}

/// RFC 5322 §3.2.3.
fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written_back() {
        for (input, name, written) in [
            ("<a@b.example>", "a@b.example", "a@b.example"),
            ("<A.b+c@B.example>", "A.b+c@B.example", "A.b+c@B.example"),
            ("<\"a b\"@c>", "a b@c", "\"a b\"@c"),
            ("<\"a\\\"b\\\\\"@c>", "a\"b\\@c", "\"a\\\"b\\\\\"@c"),
            ("<\"a@b\"@c>", "a@b@c", "\"a@b\"@c"),
            ("<\"plain\"@c>", "plain@c", "plain@c"),
            ("<\"\"@c>", "@c", "\"\"@c"),
            ("<\">\"@c>", ">@c", "\">\"@c"),
            ("<@hosta.int,@jkl.org:userc@d.bar.org>", "userc@d.bar.org", "userc@d.bar.org"),
            ("<postmaster>", "postmaster", "postmaster"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"),
            ("<.a..b.@c>", ".a..b.@c", ".a..b.@c"),
            (
                "<zo\u{eb}@b\u{fc}cher.example>",
                "zo\u{eb}@b\u{fc}cher.example",
                "zo\u{eb}@b\u{fc}cher.example",
            ),
            ("<\"zo\u{eb} x\"@b>", "zo\u{eb} x@b", "\"zo\u{eb} x\"@b"),
        ] {
            let (address, rest) = path(input.as_bytes()).expect(input);
            let address = address.expect(input);
            assert_eq!(
                (address.name().as_str(), address.to_string().as_str(), rest),
                (name, written, &b""[..])
            );
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
        assert_eq!(path(b"<> SIZE=1"), Ok((None, &b" SIZE=1"[..])));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        use AddressError::{Malformed, TooLong, Utf8};
        for (input, error) in [
            (&b""[..], Malformed),
            (b"a@b", Malformed),
            (b"<a@b", Malformed),
            (b"<a@>", Malformed),
            (b"<@b>", Malformed),
            (b"<@b:>", Malformed),
            (b"<a b@c>", Malformed),
            (b"<a@b c>", Malformed),
            (b"<a@b@c>", Malformed),
            (b"<\"a@b>", Malformed),
            (b"<\"a\\", Malformed),
            (b"<\"a\0\"@b>", Malformed),
            (b"<a\r@b>", Malformed),
            (b"<a@[]>", Malformed),
            (b"<a@[b>", Malformed),
            (b"<m\xfcller@b>", Utf8),
            (b"<\"m\xfcller\"@b>", Utf8),
            (b"<a@b\xfc.example>", Utf8),
            (b"<@\xff:a@b>", Malformed),
            (b"<m\xc2\x85ller@b>", Malformed),
            (b"<m\xe2\x80\xa8ller@b>", Malformed),
            (b"<a@[\xc3\xbc]>", Malformed),
        ] {
            assert_eq!(path(input), Err(error), "{}", input.escape_ascii());
        }
        let long = format!("<{}@{}>", "l".repeat(64), "d".repeat(256));
        assert_eq!(path(long.as_bytes()), Err(TooLong));
        let long = format!("<{}@{}>", "l".repeat(64), "d".repeat(255));
        assert!(path(long.as_bytes()).is_ok());
    }
}
