//! Whom to connect to: a scheme, a host and a port.

use std::fmt;

/// Whom to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// `http://host:port`, `https://host:port`; the port may be left out.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("endpoint {text:?} must begin with http:// or https://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(format!("endpoint {text:?} must be a host and a port, without a path"));
        }
        Endpoint::of_authority(rest, tls, if tls { 443 } else { 80 })
    }

    /// A host, and a port that may be left out.
    pub fn of_authority(text: &str, tls: bool, default_port: u16) -> Result<Endpoint, String> {
        if text.contains('@') {
            return Err(
                "no user or password here; credentials come from the environment or their file".into()
            );
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) =
                    rest.split_once(']').ok_or_else(|| format!("{text:?}: no closing bracket"))?;
                (host, after.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => default_port,
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{port:?} is not a port"))?
            }
        };
        if host.is_empty() {
            return Err(format!("{text:?}: no host"));
        }
        Ok(Endpoint { tls, host: host.to_ascii_lowercase(), port })
    }

    /// Host and port as in a Host field: the port is left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_one_form() {
        for (text, form) in [
            ("http://h", "http://h"),
            ("http://H:80/", "http://h"),
            ("https://h:8443", "https://h:8443"),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), form);
        }
        for wrong in ["h", "http://", "http://h:0", "http://h:x", "http://h/path", "http://[::1"] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
