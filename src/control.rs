//! Control: how a command of this machine speaks to the node that runs in a directory.
//!
//! A running node writes where its admin port is, and a random token, to a file that only its own user may read. Who has the
//! token may do what the node's operator may.
//!
//! # Crash
//! A file that is left behind names a port where nobody knows its token.

use crate::config::{Config, Service};
use crate::private::write_private;
use anyhow::{Context, Result, bail};
use culver_shard::random;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file's name, in the node's directory.
pub const FILE: &str = "CONTROL";
const TOKEN_OCTETS: usize = 32;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than anything that a node works on for a command: it answers before.
const ANSWER_WITHIN: Duration = Duration::from_secs(330);
const ANSWER_OCTETS_MAX: u64 = 64 << 20;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Of the admin port; none where the configuration has none without TLS.
    pub address: Option<SocketAddr>,
    pub node: String,
    token: String,
}

impl Control {
    /// With a token of its own.
    pub fn new(config: &Config, node: &str) -> Control {
        let mut token = [0; TOKEN_OCTETS];
        random::fill(&mut token);
        let admin = config.listeners.iter().find(|one| one.service == Service::Admin && !one.tls);
        Control {
            address: admin.map(|listener| reachable(listener.address)),
            node: node.to_owned(),
            token: token.iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }

    /// Whether an Authorization field has the token. Takes the same time whatever is wrong.
    pub fn allows(&self, authorization: &[u8]) -> bool {
        let wanted = format!("Bearer {}", self.token);
        let wanted = wanted.as_bytes();
        let differing = wanted.iter().zip(authorization).fold(0, |all, (a, b)| all | (a ^ b));
        wanted.len() == authorization.len() && std::hint::black_box(differing) == 0
    }

    /// For its own user alone. Blocks.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = json!({"address": self.address, "node": self.node, "token": self.token}).to_string();
        write_private(&path(dir), text.as_bytes())
    }

    /// Of the node that runs in a directory: that of `culver quickstart`, or `storage.dir` of a configuration. A server on a
    /// store of this machine is found in that store.
    pub fn find(dir: &Path) -> Result<Control> {
        let (inner, store) = (dir.join("node"), dir.join("store"));
        for place in [inner.as_path(), store.as_path(), dir] {
            let path = place.join(FILE);
            match std::fs::read(&path) {
                Ok(bytes) => return Control::parse(&bytes).with_context(|| format!("{}", path.display())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::NotADirectory => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{} cannot be read", path.display()));
                }
            }
        }
        let has = |name: &str| [inner.join(name), dir.join(name)].iter().any(|path| path.exists());
        let stopped = has("INCARNATIONS");
        if !stopped && (dir.join("store/STORE").exists() || dir.join("STORE").exists()) {
            bail!(
                "{}: its store is of this machine alone, where no node takes over and no request is billed; this command is \
                 for nodes of a shared store",
                dir.display()
            );
        }
        match stopped {
            true => bail!("{}: no node runs there; start it first", dir.display()),
            false => bail!(
                "{}: not the directory of a node; name --dir of its `culver quickstart`, or storage.dir of its configuration",
                dir.display()
            ),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Control> {
        let value: Value = serde_json::from_slice(bytes)?;
        let text =
            |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("it names no {key}"));
        let address = match value["address"].as_str() {
            Some(address) => Some(address.parse().context("its address is none")?),
            None => None,
        };
        Ok(Control { address, node: text("node")?, token: text("token")? })
    }

    /// Asks the node, and gives what it answers to a request that it carried out. Blocks.
    pub fn ask(&self, method: &str, target: &str) -> Result<Value> {
        let Some(address) = self.address else {
            bail!(
                "node {} has no admin port without TLS; add [[listener]] with service = \"admin\" and address = \
                 \"127.0.0.1:8080\" to its configuration and start it again",
                self.node
            );
        };
        let (status, body) = match self.exchange(address, method, target) {
            Ok(answer) => answer,
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
            {
                bail!(
                    "node {} does not run: nobody answers at its admin port {address}; start it first",
                    self.node
                )
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("node {} does not answer at {address}; look at its log", self.node)
            }
            Err(error) => return Err(error).with_context(|| format!("node {} at {address}", self.node)),
        };
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        match (status, value["error"].as_str()) {
            (200, _) => Ok(value),
            (401 | 404, _) => bail!(
                "another process answers at the admin port {address} of node {}: it has stopped, or is starting; start \
                 it, or try again",
                self.node
            ),
            (_, Some(error)) => bail!("node {}: {error}", self.node),
            (status, None) => bail!("node {} answers HTTP {status}; look at its log", self.node),
        }
    }

    fn exchange(&self, address: SocketAddr, method: &str, target: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(CONNECT_WITHIN))?;
        let token = &self.token;
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.take(ANSWER_OCTETS_MAX).read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let head = std::str::from_utf8(&answer[..end.unwrap_or(0)]).unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        match (status, end) {
            (Some(status), Some(end)) => Ok((status, answer.split_off(end + 4))),
            _ => {
                Err(std::io::Error::new(ErrorKind::ConnectionReset, "the connection ended without an answer"))
            }
        }
    }
}

/// Where a listener of this machine is reached from it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The node's file.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// `all`, or numbers and ranges as in `0,3,5-9`. `None` for all.
pub fn partitions(text: &str) -> Result<Option<Vec<u16>>, String> {
    if text == "all" {
        return Ok(None);
    }
    let mut found = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last => found.extend(first..=last),
            _ => {
                return Err(format!(
                    "{part:?} is not a partition; write all, or numbers and ranges as in 0,3,5-9"
                ));
            }
        }
    }
    Ok(Some(found.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_all_or_numbers_and_ranges() {
        assert_eq!(partitions("all"), Ok(None));
        assert_eq!(partitions("5-7,0,6"), Ok(Some(vec![0, 5, 6, 7])));
        for wrong in ["", "1,", "a", "3-1", "-1", "70000", "1-2-3"] {
            assert!(partitions(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_found_by_the_file_that_it_wrote_and_opened_by_its_token_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(dir.path().to_owned());
        config.listeners.push(crate::config::ListenerConfig {
            proxy_networks: Vec::new(),
            clients: None,
            service: Service::Admin,
            address: "0.0.0.0:8080".parse().unwrap(),
            tls: false,
        });
        let control = Control::new(&config, "mail-1");
        control.write(dir.path()).unwrap();
        control.write(dir.path()).unwrap();
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&path(dir.path()).metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Control::find(dir.path()).unwrap(), control);
        assert_eq!(control.address, Some("127.0.0.1:8080".parse().unwrap()));
        let right = format!("Bearer {}", control.token);
        assert!(control.allows(right.as_bytes()));
        for wrong in ["", "Bearer ", &right[..right.len() - 1], &format!("{right}0"), &right.to_lowercase()] {
            assert!(!control.allows(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn where_no_node_runs_the_error_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let told = || Control::find(dir.path()).unwrap_err().to_string();
        assert!(told().contains("not the directory of a node"), "{}", told());
        std::fs::write(dir.path().join("INCARNATIONS"), b"").unwrap();
        assert!(told().contains("no node runs there"), "{}", told());
        std::fs::remove_file(dir.path().join("INCARNATIONS")).unwrap();
        std::fs::write(dir.path().join("STORE"), b"").unwrap();
        assert!(told().contains("of this machine alone"), "{}", told());
    }
}
