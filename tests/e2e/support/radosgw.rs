//! A Ceph of the test's own: one mon, one osd and a radosgw; all of it can be killed and started again on the same files and ports.
//!
//! # Limits
//! It is used where it is installed; the first start takes 20 s, a later one 12 s.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::seaweed::{KEY, SECRET, WATCH, answers, free_ports, last_line};
use super::temp::TempDir;
use super::{Fallible, eventually, process};

/// What has to be installed.
const PROGRAMS: [&str; 5] = ["ceph-mon", "ceph-osd", "radosgw", "ceph", "curl"];
const CLUSTER: &str = include_str!("../../../storage/tests/parts/radosgw.sh");
/// Which older curls leave out.
const NOTHING: &str =
    "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const READY: Duration = Duration::from_secs(120);
const BUCKET: Duration = Duration::from_secs(60);

pub struct Radosgw {
    dir: TempDir,
    /// Two of the mon, and that of S3.
    ports: [u16; 3],
    /// A shell that watches over it.
    watch: Option<Child>,
}

impl Radosgw {
    /// Starts it with this bucket.
    pub fn start(bucket: &str) -> Fallible<Radosgw> {
        for program in PROGRAMS {
            process::need(program)?;
        }
        let mut radosgw = Radosgw { dir: TempDir::new("radosgw")?, ports: free_ports()?, watch: None };
        radosgw.spawn()?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"]);
        curl.arg(format!("{KEY}:{SECRET}")).args(["--header", NOTHING, "--request", "PUT"]);
        process::run_ok(curl.arg(format!("http://{}/{bucket}", radosgw.address())), b"", BUCKET)?;
        Ok(radosgw)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[2]).into()
    }

    pub fn keep(&mut self) -> &Path {
        self.dir.keep();
        self.dir.path()
    }

    /// SIGKILL to all three, and new ones on the same files.
    pub fn restart(&mut self) -> Fallible {
        self.kill();
        self.spawn()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn kill(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
    }

    fn spawn(&mut self) -> Fallible {
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh", "sh", "-c", CLUSTER, "sh"]).arg(self.dir.path());
        command.args(self.ports.map(|port| port.to_string())).args([KEY, SECRET]);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.watch = Some(command.spawn()?);
        let address = self.address();
        eventually("radosgw answers", READY, || Ok(answers(address).is_ok()))
            .map_err(|e| format!("{e}\n{}", last_line(&self.log_path())).into())
    }
}

impl Drop for Radosgw {
    fn drop(&mut self) {
        self.kill();
    }
}
