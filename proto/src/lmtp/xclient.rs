//! XCLIENT, Postfix's extension: a proxy that is trusted says for whom it speaks. Of its attributes ADDR, HELO and LOGIN
//! count here; the others are read and not kept.
//!
//! # Limits
//! [`VALUE_OCTETS_MAX`] for a value.
//!
//! # RFC
//! None: Postfix's XCLIENT_README. 3461 §4 (xtext).

use std::net::IpAddr;

use super::reply::Reply;
use super::xtext;

/// The attributes, as LHLO's answer names them.
pub(super) const NAMES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
/// As Postfix has it.
const VALUE_OCTETS_MAX: usize = 255;

const SYNTAX: Reply = (501, "5.5.4", "attributes are wanted: NAME=value");
const VALUE: Reply = (501, "5.5.4", "a value is 1 to 255 printable characters, in xtext");
const ADDRESS: Reply = (501, "5.5.4", "ADDR is an IPv4 address, or IPV6: and an IPv6 address");

/// Whom the proxy speaks for, as far as it says so. A later XCLIENT adds to an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub address: Option<IpAddr>,
    pub helo: Option<String>,
}

impl Client {
    pub fn add(&mut self, later: Client) {
        self.address = later.address.or(self.address);
        self.helo = later.helo.or(self.helo.take());
    }
}

/// The attributes of one command.
pub(super) fn parse(rest: &[u8]) -> Result<Client, Reply> {
    let (mut any, mut client) = (false, Client::default());
    for word in rest.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
        let at = word.iter().position(|&b| b == b'=').ok_or(SYNTAX)?;
        let name = &word[..at];
        let value = xtext::printable(&word[at + 1..], VALUE_OCTETS_MAX).ok_or(VALUE)?;
        if !NAMES.split(' ').any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            return Err((501, "5.5.4", "unknown attribute"));
        }
        any = true;
        if matches!(&value[..], "[UNAVAILABLE]" | "[TEMPUNAVAIL]") {
            continue;
        }
        if name.eq_ignore_ascii_case(b"ADDR") {
            client.address = Some(address(&value).ok_or(ADDRESS)?);
        } else if name.eq_ignore_ascii_case(b"HELO") {
            client.helo = Some(value);
        }
    }
    if any { Ok(client) } else { Err(SYNTAX) }
}

fn address(value: &str) -> Option<IpAddr> {
    match value.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPV6:") => {
            address.parse().ok().filter(IpAddr::is_ipv6).map(|address| address.to_canonical())
        }
        _ => value.parse().ok().filter(IpAddr::is_ipv4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_is_read() {
        let client =
            parse(b"ADDR=192.0.2.7 name=mx.example.net HELO=mx+2Eexample.net PORT=[UNAVAILABLE]").unwrap();
        assert_eq!(client.address, "192.0.2.7".parse().ok());
        assert_eq!(client.helo.as_deref(), Some("mx.example.net"));
        assert_eq!(parse(b"ADDR=IPV6:2001:db8::1").unwrap().address, "2001:db8::1".parse().ok());
        assert_eq!(parse(b"ADDR=[UNAVAILABLE]"), Ok(Client::default()));
        for bad in [
            &b""[..],
            b"ADDR",
            b"ADDR=",
            b"ADDR=x",
            b"ADDR=2001:db8::1",
            b"ADDR=IPV6:192.0.2.1",
            b"WHO=x",
            b"HELO=+2",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        let long = format!("HELO={}", "h".repeat(256));
        assert!(parse(long.as_bytes()).is_err());
        let mut both = client.clone();
        both.add(parse(b"ADDR=192.0.2.8").unwrap());
        assert_eq!((both.address, both.helo), ("192.0.2.8".parse().ok(), client.helo));
    }
}
