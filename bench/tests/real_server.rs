//! The binary against a real server, named by `CULVER_BIN`: each kind of work does what it says, and counts it.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

struct Server {
    child: Child,
    base: u16,
}

impl Server {
    fn start(binary: &Path, dir: &Path) -> Server {
        let base = free_port_base();
        let mut command = Command::new(binary);
        command.args([
            "quickstart",
            "--no-samples",
            "--shards",
            "1",
            "--port-base",
            &base.to_string(),
            "--dir",
        ]);
        command.arg(dir);
        for n in 1..=4 {
            command.args(["--account", &format!("user{n}@example.test:password")]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("CULVER_BIN can be run");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let ready = output.lines().map_while(Result::ok).any(|line| line == "culver is ready");
        assert!(ready, "the server ended before it was ready");
        Server { child, base }
    }

    /// The only row of a run.
    fn bench(&self, work: &str, port: u16, arguments: &[&str]) -> Value {
        let rows = self.rows(work, port, arguments);
        assert_eq!(rows.len(), 1);
        rows[0].clone()
    }

    fn rows(&self, work: &str, port: u16, arguments: &[&str]) -> Vec<Value> {
        let target = format!("127.0.0.1:{}", self.base + port);
        let output = Command::new(env!("CARGO_BIN_EXE_culver-bench"))
            .args([work, "--target", &target, "--json", "-", "--server-pid", &self.child.id().to_string()])
            .args(arguments)
            .output()
            .expect("the binary was built for this test");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{work} {arguments:?}: {told}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("--json writes JSON");
        assert_eq!(json["tool"], "culver-bench");
        let rows = json["rows"].as_array().expect("there are rows").clone();
        for row in &rows {
            for wrong in ["errors", "refused", "unfinished"] {
                assert_eq!(row[wrong], 0, "{work} {arguments:?}: {told}");
            }
            assert!(row["per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
            assert!(row["server"]["pss_kib"].as_f64().is_some_and(|kib| kib > 0.0), "{row}");
        }
        rows
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port_base() -> u16 {
    let first = 10_000 + (std::process::id() % 400) as u16 * 50;
    let free = |base: &u16| {
        [24, 80, 110, 143, 993, 995]
            .iter()
            .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, base + port)).is_ok())
    };
    (0..400).map(|n| 10_000 + (first - 10_000 + n * 50) % 20_000).find(free).expect("some ports are free")
}

#[test]
fn every_kind_of_work_does_and_counts_what_it_says() {
    let Some(binary) = env::var_os("CULVER_BIN") else {
        println!("skipped: every_kind_of_work_does_and_counts_what_it_says: CULVER_BIN names no server");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory can be made");
    let server = Server::start(Path::new(&binary), dir.path());

    // 4 users with 60 messages of 1,024 octets each, then 40 more by LMTP.
    let filled =
        server.bench("fill", 143, &["--users", "4", "--messages", "60", "--size", "1k", "--seen", "50%"]);
    assert_eq!((&filled["operations"], &filled["raw_octets"]), (&240.into(), &(240 * 1024).into()));
    let again = server.rows("fill", 143, &["--users", "4", "--messages", "61", "--size", "1k", "--top-up"]);
    assert_eq!(again[0]["operations"], 4);
    let lmtp =
        server.bench("lmtp", 24, &["--users", "4", "--recipients", "4", "--count", "10", "--size", "2k"]);
    assert_eq!((&lmtp["operations"], &lmtp["recipients"]), (&10.into(), &40.into()));
    assert_eq!(lmtp["raw_octets"], 40 * 2048);
    assert!(lmtp["server"]["write_bytes_per_raw_octet"].is_number(), "{lmtp}");

    // Each mailbox has 61 + 10 messages now, and what is fetched is at least their octets.
    let fetched = server.bench("fetch", 143, &["--pipeline", "7"]);
    assert_eq!(fetched["operations"], 71);
    let octets = fetched["octets_in_per_second"].as_f64().unwrap() * fetched["seconds"].as_f64().unwrap();
    assert!(octets >= f64::from(61 * 1024 + 10 * 2048), "{octets}");
    let popped = server.bench("pop3", 110, &["--count", "4", "--users", "4", "--delete", "--pipeline", "9"]);
    assert_eq!(popped["messages"], 4 * 71);
    let empty = server.bench("pop3", 110, &["--count", "4", "--users", "4"]);
    assert_eq!(empty["messages"], Value::Null, "all were deleted");

    let appended =
        server.bench("append", 143, &["-c", "3", "--users", "3", "--count", "30", "--repeat", "3"]);
    assert_eq!(appended["operations"], 30);
    assert_eq!(appended["repeats"].as_array().unwrap().len(), 3);
    let script = [
        "--command",
        "STORE 1:* +FLAGS (\\Flagged)",
        "--before",
        "STORE 1:* -FLAGS (\\Flagged)",
        "--count",
        "5",
    ];
    assert_eq!(server.bench("imap", 143, &script)["operations"], 5);
    assert_eq!(server.bench("noop", 143, &["--rate", "200", "--count", "50"])["operations"], 50);
    let tls = ["--tls", "implicit", "--tls-resume", "--insecure", "--users", "2", "--count", "10"];
    let login = server.bench("login", 993, &tls);
    // The first handshake is the probe's, before anything is counted.
    assert_eq!((&login["operations"], &login["tls_resumed"]), (&10.into(), &10.into()));
    let starttls = ["--tls", "starttls", "--insecure", "--count", "3"];
    assert_eq!(server.bench("login", 143, &starttls)["operations"], 3);

    let lmtp = format!("127.0.0.1:{}", server.base + 24);
    let told = server.bench("notify", 143, &["--lmtp", &lmtp, "--count", "20"]);
    assert_eq!((&told["operations"], &told["send_to_exists_us"]["count"]), (&20.into(), &20.into()));
    let idle =
        server.bench("idle", 143, &["-c", "20", "--users", "4", "--warmup", "0.2", "--duration", "0.3"]);
    assert_eq!((&idle["operations"], &idle["closed_by_server"]), (&20.into(), &0.into()));
    let stress =
        server.bench("mixed", 143, &["--closed", "-c", "4", "--users", "4", "--count", "20", "--size", "1k"]);
    assert!(stress["commands"]["APPEND"]["count"].as_u64() >= Some(20), "{stress}");
    let people = [
        "-c",
        "4",
        "--users",
        "4",
        "--speed",
        "500",
        "--duration",
        "1",
        "--lmtp",
        &lmtp,
        "--lmtp-rate",
        "20",
    ];
    let people = server.bench("mixed", 143, &people);
    assert!(people["commands"]["IDLE"]["count"].as_u64() > Some(0), "{people}");
    let rows = server.rows("interfere", 143, &["--users", "4", "--appenders", "2", "--duration", "0.5"]);
    assert!(rows.len() == 2 && rows[1]["p99_ratio"].as_f64() > Some(0.0), "{rows:?}");
}

#[test]
fn mistakes_are_told_with_a_remedy() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let target = format!("127.0.0.1:{port}");
    for (arguments, remedy) in [
        (vec!["noop", "--target", &target], "is the server running"),
        (vec!["noop", "--target", "nowhere"], "write HOST:PORT"),
        (vec!["noop", "--target", &target, "--server-pid", "2147483647"], "there is no such process"),
        (vec!["lmtp", "--target", &target, "--corpus", "no/such/folder"], "not a folder"),
        (vec!["idle", "--target", &target, "-c", "1000000"], "raise the hard limit"),
        (vec!["mixed", "--target", &target, "--profile", "pop3=1"], "give --pop3"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_culver-bench")).args(&arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(remedy), "{arguments:?}: {told}");
    }
}
