//! Starts, stops and restarts of the process.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::server::{Culver, Options, Target, own_process, password, user};
use crate::support::{Fallible, eventually, process, skip};
use crate::{Test, ensure};

/// A restart with a full journal backlog is ready within this (in a release build; a debug build gets more).
const RESTART: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 3 });

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "lifecycle_restart_finds_everything_with_other_shards", run: |_| restart() },
        Test { name: "lifecycle_second_process_is_refused_naming_the_first", run: |_| second() },
        Test { name: "lifecycle_sigint_stops_cleanly", run: |_| interrupt() },
        Test { name: "lifecycle_backlog_is_recovered_in_time", run: |_| backlog() },
        Test { name: "lifecycle_reload_keeps_connections", run: |_| reload() },
    ]
}

fn start(name: &str) -> Fallible<Culver> {
    own_process()?;
    match Target::start(name, Options { accounts: 4, ..Options::default() })? {
        Target::Culver(culver) => Ok(*culver),
        _ => skip("needs a Culver"),
    }
}

fn login(culver: &Culver, account: usize) -> Fallible<Imap> {
    Imap::login(culver.ports.imap, &user(account), &password(account))
}

fn restart() -> Fallible {
    let mut culver = start("restart")?;
    for account in 0..4 {
        let mut imap = login(&culver, account)?;
        imap.must("CREATE Kept/Below")?;
        imap.must("SUBSCRIBE Kept/Below")?;
        for n in 0..10 {
            let answer = imap.append(
                "Kept/Below",
                "(\\Flagged keyword) ",
                format!("Subject: {n}\r\n\r\n").as_bytes(),
            )?;
            ensure!(answer.ok(), "{}", answer.result);
        }
        imap.must("SELECT Kept/Below")?;
        imap.must("UID STORE 3 +FLAGS (\\Deleted)")?;
        imap.must("EXPUNGE")?;
    }
    let picture = |culver: &Culver| -> Fallible<Vec<String>> {
        let mut lines = Vec::new();
        for account in 0..4 {
            let mut imap = login(culver, account)?;
            lines.extend(imap.must("LSUB \"\" *")?.lines());
            lines.extend(imap.must("STATUS Kept/Below (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)")?.lines());
            imap.must("EXAMINE Kept/Below")?;
            lines.extend(imap.must("UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ)")?.lines());
        }
        Ok(lines.into_iter().map(|line| line.replace("\\Recent ", "").replace(" \\Recent", "")).collect())
    };
    let before = picture(&culver)?;
    for shards in [3, 1, 4, 2] {
        culver.terminate()?;
        culver.check()?;
        culver.restart(shards)?;
        let after = picture(&culver)?;
        ensure!(before == after, "with {shards} shards:\n{}\n--\n{}", before.join("\n"), after.join("\n"));
    }
    culver.terminate()
}

fn second() -> Fallible {
    let mut culver = start("second")?;
    let pid = culver.pid().ok_or("no process")?;
    let finished = culver.second_process()?;
    ensure!(finished.code.is_some_and(|code| code != 0), "a second process ended with {:?}", finished.code);
    ensure!(finished.output.contains(&pid.to_string()), "it does not name {pid}: {}", finished.output);
    login(&culver, 0)?.must("NOOP")?;
    culver.terminate()
}

fn interrupt() -> Fallible {
    let mut culver = start("interrupt")?;
    let mut idle = login(&culver, 0)?;
    idle.must("SELECT INBOX")?;
    process::signal(culver.pid().ok_or("no process")?, "INT")?;
    eventually("SIGINT ends the process", Duration::from_secs(30), || Ok(!culver.alive()))?;
    // RFC 3501 §7.1.5: whoever is connected is told.
    let rest = String::from_utf8_lossy(&idle.connection.read_to_end()?).into_owned();
    ensure!(rest.contains("* BYE"), "the session heard no BYE: {rest}");
    ensure!(TcpStream::connect(culver.ports.imap).is_err(), "the port is still open");
    culver.restart(2)?;
    culver.terminate()
}

fn backlog() -> Fallible {
    let mut culver = start("backlog")?;
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    let message = format!("Subject: x\r\n\r\n{}", "0123456789abcdef\r\n".repeat(6_000));
    let users: Vec<String> = (0..4).map(user).collect();
    let to: Vec<&str> = users.iter().map(String::as_str).collect();
    let rounds = 300;
    for _ in 0..rounds {
        for reply in lmtp.deliver("s@example.net", &to, message.as_bytes())? {
            ensure!(reply.starts_with("250"), "{reply}");
        }
    }
    culver.kill();
    let began = Instant::now();
    culver.restart(2)?;
    let took = began.elapsed();
    ensure!(took < RESTART, "the restart took {took:?}");
    for account in 0..4 {
        let status = login(&culver, account)?.must("STATUS INBOX (MESSAGES)")?.lines();
        ensure!(
            status.iter().any(|l| l.contains(&format!("MESSAGES {rounds}"))),
            "account {account}: {status:?}"
        );
    }
    culver.terminate()
}

fn reload() -> Fallible {
    let mut culver = start("reload")?;
    let mut imap = login(&culver, 0)?;
    process::signal(culver.pid().ok_or("no process")?, "HUP")?;
    for _ in 0..20 {
        imap.must("NOOP")?;
        login(&culver, 1)?.must("LOGOUT")?;
    }
    ensure!(culver.alive(), "SIGHUP ended the process");
    culver.terminate()
}
