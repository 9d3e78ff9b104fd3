//! The PROXY protocol's header, versions 1 and 2: whom a load balancer speaks for.
//!
//! # Limits
//! [`OCTETS_MAX`] for a header with its TLVs, 107 for the line of version 1.
//!
//! # RFC
//! None: HAProxy's proxy-protocol.txt.

use std::net::SocketAddr;

use ppp::{PartialResult, v1, v2};

/// What the length of version 2 may say: addresses, and TLVs of some hundreds.
pub const OCTETS_MAX: usize = 2048;

/// The line of version 1.
const LINE_OCTETS_MAX: usize = 107;

/// Flags of PP2_TYPE_SSL: the client came to the balancer over TLS.
const CLIENT_SSL: u8 = 0x01;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of it; the client's own follow.
    pub octets: usize,
    /// The client. `None` where the balancer speaks for itself (a health check), or cannot say.
    pub source: Option<SocketAddr>,
    /// The client came to the balancer over TLS.
    pub tls: bool,
}

/// Why a connection has no header. It is to be closed without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("no PROXY header: {0}")]
    Malformed(String),
    #[error("a PROXY header of more than {OCTETS_MAX} octets")]
    TooLong,
}

/// Reads a header at the start of `input`; `None` where more of it is to come.
pub fn header(input: &[u8]) -> Result<Option<Header>, ProxyError> {
    let begins = |whole: &[u8]| input.starts_with(whole) || whole.starts_with(input);
    let header = if begins(v2::PROTOCOL_PREFIX) {
        match v2::Header::try_from(input) {
            Ok(header) => version_2(&header),
            Err(error) if error.is_incomplete() && input.len() <= OCTETS_MAX => return Ok(None),
            Err(error) if error.is_incomplete() => return Err(ProxyError::TooLong),
            Err(error) => return Err(ProxyError::Malformed(error.to_string())),
        }
    } else if begins(v1::PROTOCOL_PREFIX.as_bytes()) {
        // The library takes half a number for a whole one.
        let line = match input.iter().position(|&octet| octet == b'\n') {
            Some(at) => &input[..=at],
            None if input.len() <= LINE_OCTETS_MAX => return Ok(None),
            None => return Err(ProxyError::TooLong),
        };
        match v1::Header::try_from(line) {
            Ok(header) => version_1(&header),
            Err(error) => return Err(ProxyError::Malformed(error.to_string())),
        }
    } else {
        return Err(ProxyError::Malformed("the connection begins with something else".to_owned()));
    };
    if header.octets > OCTETS_MAX { Err(ProxyError::TooLong) } else { Ok(Some(header)) }
}

fn version_1(header: &v1::Header<'_>) -> Header {
    let source = match &header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
        v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
    };
    Header { octets: header.header.len(), source, tls: false }
}

fn version_2(header: &v2::Header<'_>) -> Header {
    let source = match (&header.command, &header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        _ => None,
    };
    let is_tls = |value: &[u8]| value.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
    let tls = source.is_some()
        && header.tlvs().flatten().any(|tlv| tlv.kind == u8::from(v2::Type::SSL) && is_tls(&tlv.value));
    Header { octets: header.len(), source, tls }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// Version 2, TCP over IPv4, from 192.0.2.7:4000 to 192.0.2.1:143, with TLVs.
    fn version_2(command: u8, tlvs: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x20 | command, 0x11]);
        header.extend((12 + tlvs.len() as u16).to_be_bytes());
        header.extend([192, 0, 2, 7, 192, 0, 2, 1]);
        header.extend(4000u16.to_be_bytes());
        header.extend(143u16.to_be_bytes());
        header.extend(tlvs);
        header
    }

    #[test]
    fn both_versions_are_read_however_they_come() {
        let tls = [0x20, 0, 5, 1, 0, 0, 0, 0];
        let plain = [0x20, 0, 5, 0, 0, 0, 0, 0];
        let source = Some("192.0.2.7:4000".parse().unwrap());
        for (header, source, tls) in [
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 143\r\n".to_vec(), source, false),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), "[2001:db8::1]:1".parse().ok(), false),
            (b"PROXY UNKNOWN\r\n".to_vec(), None, false),
            (version_2(1, b""), source, false),
            (version_2(1, &tls), source, true),
            (version_2(1, &plain), source, false),
            (version_2(0, &tls), None, false),
        ] {
            let octets = header.len();
            for at in 0..octets {
                assert_eq!(super::header(&header[..at]), Ok(None), "{} at {at}", header.escape_ascii());
            }
            let whole = [&header[..], b"a LOGIN x y\r\n"].concat();
            assert_eq!(super::header(&whole), Ok(Some(Header { octets, source, tls })));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bad in [
            &b"a CAPABILITY\r\n"[..],
            b"PROXY TCP4 x 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 1 2\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
        ] {
            assert!(header(bad).is_err(), "{}", bad.escape_ascii());
        }
        let long = version_2(1, &[4; 4000]);
        assert_eq!(header(&long), Err(ProxyError::TooLong));
        assert_eq!(header(&long[..OCTETS_MAX + 1]), Err(ProxyError::TooLong));
    }

    quickcheck! {
        fn garbage_never_panics(input: Vec<u8>, prefix: u8) -> bool {
            let whole = version_2(1, &input);
            let _ = header(&input);
            let _ = header(&[&b"PROXY "[..], &input].concat());
            let mut cut = whole.clone();
            cut[usize::from(prefix) % 28] ^= prefix;
            let _ = header(&cut);
            header(&whole).is_ok_and(|header| header.is_some_and(|header| header.octets == whole.len()))
                || whole.len() > OCTETS_MAX
        }
    }
}
