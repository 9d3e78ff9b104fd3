//! XCLIENT, Postfix's extension: a proxy that is trusted says for whom it speaks. Of its attributes ADDR and HELO
//! count here; the others are read and not kept.
//!
//! # RFC
//! None: Postfix's XCLIENT_README. 3461 §4 (xtext).

use std::net::IpAddr;

use super::reply::Reply;
use super::xtext;

/// The attributes, as LHLO's answer names them.
pub(super) const NAMES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

const ADDRESS: Reply = (501, "5.5.4", "ADDR is an IPv4 address, or IPV6: and an IPv6 address");

/// Whom the proxy speaks for, as far as it has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub address: Option<IpAddr>,
    pub helo: Option<String>,
}

/// What one command says: `None` nothing, `Some(None)` that it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    address: Option<Option<IpAddr>>,
    helo: Option<Option<String>>,
}

impl Client {
    /// What is not said again stays.
    pub fn hear(&mut self, said: Said) {
        if let Some(address) = said.address {
            self.address = address;
        }
        if let Some(helo) = said.helo {
            self.helo = helo;
        }
    }
}

/// The attributes of one command.
pub(super) fn parse(rest: &[u8]) -> Result<Said, Reply> {
    let mut said = Said::default();
    xtext::attributes(rest, NAMES, |name, value| {
        if name.eq_ignore_ascii_case(b"ADDR") {
            said.address = Some(value.map(|value| address(&value).ok_or(ADDRESS)).transpose()?);
        } else if name.eq_ignore_ascii_case(b"HELO") {
            said.helo = Some(value);
        }
        Ok(())
    })?;
    Ok(said)
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
        let heard = |commands: &[&str]| {
            let mut client = Client::default();
            commands.iter().for_each(|command| client.hear(parse(command.as_bytes()).expect(command)));
            (client.address.map(|address| address.to_string()), client.helo)
        };
        let first = "ADDR=192.0.2.7 name=mx.example.net HELO=mx+2Eexample.net PORT=[UNAVAILABLE]";
        let helo = Some("mx.example.net".to_owned());
        assert_eq!(heard(&[first]), (Some("192.0.2.7".to_owned()), helo.clone()));
        assert_eq!(heard(&["ADDR=IPV6:2001:db8::1"]), (Some("2001:db8::1".to_owned()), None));
        // What is not said again stays; a client of which the proxy knows nothing is not the one before.
        assert_eq!(heard(&[first, "ADDR=192.0.2.8"]), (Some("192.0.2.8".to_owned()), helo.clone()));
        assert_eq!(heard(&[first, "ADDR=[UNAVAILABLE]"]), (None, helo));
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
    }
}
