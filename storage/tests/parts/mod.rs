//! Stores that the laws are proved on: doubles of our own, and real servers, installed and started by the test that uses them.
//!
//! # Limits
//! What is installed lies below `target/tmp/parts`, once for each version. Servers listen on free ports of the loopback address
//! and end with their test.

pub mod http;
pub mod s3;
pub mod sproxyd;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Looks at whether a server answers, 50 ms apart.
const LOOKS_MAX: usize = 600;
/// Runs the server that its arguments name until its standard input ends, as it does when who started it is gone, however.
const WATCH: &str = "\"$@\" </dev/null & server=$!; read -r end; kill -9 $server; wait";
/// Set in a process that runs one law alone.
const CREDENTIALS: &str = "AWS_SHARED_CREDENTIALS_FILE";

pub const KEY: &str = "AKIDLAWS00000000TEST";
pub const SECRET: &str = "laws-secret-laws-secret-laws-secret-0000";

fn parts() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("parts")
}

/// Runs a test in a process of its own: credentials come from the environment, and a process has one set of shards in its life.
///
/// `name` is the test's own.
pub fn alone(name: &str, work: impl FnOnce()) {
    let file = parts().join("credentials");
    if std::env::var_os(CREDENTIALS).is_some_and(|set| Path::new(&set) == file) {
        return work();
    }
    std::fs::create_dir_all(parts()).expect("target/tmp can be written");
    let text = format!(
        "[right]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n\
         [wrong]\naws_access_key_id = {KEY}\naws_secret_access_key = not-{SECRET}\n"
    );
    // Tests that run at the same time write the same octets; none may read half of them.
    let fresh = parts().join(format!("credentials.{name}"));
    std::fs::write(&fresh, text).expect("target/tmp can be written");
    std::fs::rename(&fresh, &file).expect("target/tmp can be written");
    let output: Output = Command::new(std::env::current_exe().expect("a test has a binary"))
        .args([name, "--exact", "--nocapture"])
        .env(CREDENTIALS, &file)
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .output()
        .expect("the test's own binary runs");
    let told = String::from_utf8_lossy(&output.stdout);
    for line in told.lines().filter(|line| line.starts_with("skipped:") || line.starts_with("told:")) {
        println!("{line}");
    }
    let ran = told.contains("1 passed");
    assert!(output.status.success() && ran, "{told}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A server that runs until this is dropped.
pub struct Server {
    pub port: u16,
    /// What it stores; removed with it.
    _dir: tempfile::TempDir,
    /// A shell that watches over it.
    watch: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Some take long to end in order, and nobody needs what they have.
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

impl Server {
    /// Starts a program and waits until it answers HTTP on its port.
    pub fn start(command: Command, port: u16, dir: tempfile::TempDir) -> Result<Server, String> {
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "sh"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => watch.env(name, value),
                None => watch.env_remove(name),
            };
        }
        let watch = watch
            .stdin(Stdio::piped())
            .stdout(file.try_clone().map_err(|error| error.to_string())?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let server = Server { port, _dir: dir, watch };
        for _ in 0..LOOKS_MAX {
            if request(port, "GET", "/").is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!("it does not answer: {}", said.lines().last().unwrap_or_default()))
    }
}

/// The status of an unsigned request without a body.
pub fn request(port: u16, method: &str, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    let mut octets = [0; 64];
    let read = stream.read(&mut octets)?;
    answer.push_str(&String::from_utf8_lossy(&octets[..read]));
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no HTTP"))
}

/// A package of PyPI, installed once: its directory.
pub fn python_package(package: &str) -> Result<PathBuf, String> {
    let dir = parts().join(package.replace(['[', ']'], "_"));
    if dir.join("bin").is_dir() {
        return Ok(dir);
    }
    let fresh = parts().join(format!("fresh.{}", std::process::id()));
    let installed = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(&fresh)
        .arg(package)
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    if !installed.status.success() {
        let said = String::from_utf8_lossy(&installed.stderr);
        return Err(format!("pip install {package}: {}", said.lines().last().unwrap_or_default()));
    }
    // Half an installation never has this name.
    std::fs::rename(&fresh, &dir).map_err(|error| error.to_string())?;
    Ok(dir)
}

/// A program of a crate, where it is installed: building one takes minutes, so only a long run does.
pub fn cargo_program(name: &str, version: &str, features: &[&str]) -> Result<PathBuf, String> {
    let root = parts().join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([root.join("bin")])
        .map(|dir| dir.join(name))
        .find(|program| program.exists());
    if let Some(found) = found {
        return Ok(found);
    }
    let mut install = Command::new("cargo");
    install.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]).arg(&root);
    for feature in features {
        install.args(["--features", feature]);
    }
    if std::env::var("CULVER_TEST_LONG").as_deref() != Ok("1") {
        return Err(format!("it takes minutes to build: {install:?}").replace('"', ""));
    }
    let installed = install.output().map_err(|error| format!("cargo: {error}"))?;
    match installed.status.success() {
        true => Ok(root.join("bin").join(name)),
        false => {
            let said = String::from_utf8_lossy(&installed.stderr);
            Err(format!("cargo install {name}: {}", said.lines().last().unwrap_or_default()))
        }
    }
}
