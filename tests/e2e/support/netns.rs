//! A network namespace of the test's own: listeners that are reached through a veth pair, whose packets can be dropped.
//!
//! Who listens there sees what a server sees whose network is gone: no packet comes and none goes, and nobody is told.
//!
//! # Crash
//! A shell removes namespace and veth pair when whoever made them is gone, however.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{self, need};
use super::random::Random;
use super::{Fallible, skip};

const COMMAND: Duration = Duration::from_secs(20);
/// Makes namespace $1 with its end of the veth pair $2 and the addresses $3 (here) and $4 (there), says so, and removes it when its
/// standard input ends.
const KEEPER: &str = r#"
set -e
ip netns add "$1"
trap 'ip link del "$2" 2>/dev/null; ip netns del "$1"' EXIT
trap exit HUP INT TERM
ip link add "$2" type veth peer name inside netns "$1"
ip addr add "$3/30" dev "$2"
ip link set "$2" up
ip -n "$1" addr add "$4/30" dev inside
ip -n "$1" link set inside up
ip netns exec "$1" iptables -w -P INPUT ACCEPT
echo made
read -r end || true
"#;

pub struct Netns {
    name: String,
    /// Of the end that is in the namespace.
    address: Ipv4Addr,
    keeper: Child,
}

impl Netns {
    /// Skips the test where this process may not make one.
    pub fn new() -> Fallible<Netns> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for program in ["ip", "iptables"] {
            need(program)?;
        }
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("culver-{}-{nth}", std::process::id());
        let link = format!("cv{}-{nth}", std::process::id());
        // Of the range that is for tests of devices (RFC 2544): nobody routes it.
        let net = 0xc612_0000 | (Random::new(Random::seed()).below(1 << 15) as u32) << 2;
        let [here, there] = [1, 2].map(|end| Ipv4Addr::from(net | end));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh", &name, &link]).args([here, there].map(|end| end.to_string()));
        let mut keeper =
            keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let out = keeper.stdout.take().expect("stdout is piped");
        let _ = BufReader::new(out).read_line(&mut said);
        let netns = Netns { name, address: there, keeper };
        match said.trim() {
            "made" => Ok(netns),
            _ => skip("no network namespace can be made here"),
        }
    }

    /// A listener in the namespace; what comes of it is used like any other.
    pub fn listen(&self) -> Fallible<TcpListener> {
        let (link, address) = (Path::new("/run/netns").join(&self.name), self.address);
        let bound = thread::spawn(move || -> std::io::Result<TcpListener> {
            // Of this thread alone, which ends here.
            let namespace = File::open(link)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((address, 0))
        });
        Ok(bound.join().map_err(|_| "binding panicked")??)
    }

    /// Whether packets of either direction are dropped.
    pub fn drops(&self, drops: bool) -> Fallible {
        let policy = if drops { "DROP" } else { "ACCEPT" };
        for chain in ["INPUT", "OUTPUT"] {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.name, "iptables", "-w", "-P", chain, policy]);
            process::run_ok(&mut command, b"", COMMAND)?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
