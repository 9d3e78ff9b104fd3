//! `ack = "local"`: what a node has acknowledged on its disk, when it is killed while the store is away.

use std::fs;
use std::time::Duration;

use crate::ensure;
use crate::support::imap::Imap;
use crate::support::process;
use crate::support::server::{Culver, Options, own_process, password, user};
use crate::support::temp::TempDir;
use crate::support::{Fallible, eventually};

/// Its half is how long a node acknowledges without the store.
const LEASE_S: u64 = 20;
/// How long accounts may take to come to another node that has to take theirs for dead first, and what comes late to be merged.
const TAKE_OVER: Duration = Duration::from_secs(LEASE_S + if cfg!(debug_assertions) { 60 } else { 30 });
/// How long a line may take to come to the log.
const LOGGED: Duration = Duration::from_secs(20);
/// A takeover that may have missed something raises UIDs by so many.
const GAP: u32 = 1 << 17;

fn node(store: &TempDir, name: &str, ack: &str) -> Fallible<Culver> {
    let options = Options { accounts: 1, ..Options::default() };
    let dir = store.path().display();
    let lines = [
        format!("storage.url = \"file://{dir}/store?shared=true\""),
        format!("storage.dir = \"{dir}/{name}\""),
        format!("storage.node = \"{name}\""),
        format!("storage.lease = \"{LEASE_S}s\""),
        format!("storage.ack = \"{ack}\""),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Culver::configured(name, options, &lines)
}

/// Appends a message with a subject; its UID, as its client is told.
fn append(imap: &mut Imap, subject: &str) -> Fallible<u32> {
    let text = format!("Subject: {subject}\r\n\r\ntext of {subject}\r\n");
    let answer = imap.append("INBOX", "", text.as_bytes())?;
    ensure!(answer.ok(), "{subject}: {}", answer.result);
    let told = answer.code("APPENDUID").and_then(|words| words.rsplit(' ').next()?.parse().ok());
    told.ok_or_else(|| format!("{subject}: {}", answer.result).into())
}

/// The UID of the message with a subject; how many there are otherwise.
fn find(imap: &mut Imap, subject: &str) -> Fallible<Result<u32, usize>> {
    imap.must("EXAMINE INBOX")?;
    let answer = imap.must(&format!("UID SEARCH SUBJECT {subject}"))?;
    let lines = answer.lines();
    let found = lines.iter().find_map(|line| line.strip_prefix("* SEARCH")).unwrap_or_default();
    let uids: Vec<u32> = found.split_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    Ok(match uids[..] {
        [uid] => Ok(uid),
        _ => Err(uids.len()),
    })
}

fn login(node: &Culver) -> Fallible<Imap> {
    Imap::login(node.ports.imap, &user(0), &password(0))
}

/// The store is away for what `work` does, as a mount that was lost. The node stands still while that happens, so that it makes
/// no directory in between.
fn without_store<T>(store: &TempDir, pid: u32, work: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    let (there, kept) = (store.path().join("store"), store.path().join("kept"));
    process::signal(pid, "STOP")?;
    fs::rename(&there, &kept)?;
    fs::write(&there, b"")?;
    process::signal(pid, "CONT")?;
    let done = work();
    fs::remove_file(&there)?;
    fs::rename(&kept, &there)?;
    done
}

/// A node that acknowledged without the store, and was killed; what it told of the messages "stored", "early" and "later".
fn killed(store: &TempDir, a: &mut Culver) -> Fallible<[u32; 3]> {
    eventually("the node serves its account", TAKE_OVER, || Ok(login(a).is_ok()))?;
    let mut imap = login(a)?;
    let stored = append(&mut imap, "stored")?;
    // The store has it within a second.
    std::thread::sleep(Duration::from_secs(2));
    let pid = a.pid().ok_or("the node does not run")?;
    without_store(store, pid, || {
        let told = [stored, append(&mut imap, "early")?, append(&mut imap, "later")?];
        imap.must("SELECT INBOX")?;
        imap.must(&format!("UID STORE {} +FLAGS (\\Flagged)", told[2]))?;
        a.kill();
        Ok(told)
    })
}

pub fn comes_back() -> Fallible {
    own_process()?;
    let store = TempDir::new("ack-local")?;
    let mut a = node(&store, "a", "local")?;
    let told = killed(&store, &mut a)?;
    let mut b = node(&store, "b", "store")?;
    eventually("the other node has taken over", TAKE_OVER, || Ok(login(&b).is_ok()))?;
    let mut imap = login(&b)?;
    ensure!(find(&mut imap, "stored")? == Ok(told[0]), "what the store had is not there");
    for subject in ["early", "later"] {
        ensure!(find(&mut imap, subject)? == Err(0), "{subject} cannot be there");
    }
    let fresh = append(&mut imap, "fresh")?;
    ensure!(fresh > told[2].max(GAP), "UID {fresh} has no gap before it, {told:?} were told");
    a.restart(2)?;
    eventually("what the first node had acknowledged is there", TAKE_OVER, || {
        Ok(find(&mut imap, "early")?.is_ok() && find(&mut imap, "later")?.is_ok())
    })?;
    for subject in ["early", "later"] {
        let uid = find(&mut imap, subject)?;
        ensure!(uid.is_ok_and(|uid| uid > fresh), "{subject} is under {uid:?}, {fresh} was given before");
    }
    ensure!(find(&mut imap, "fresh")? == Ok(fresh), "a message has another UID");
    eventually("the flag that it was given is there", TAKE_OVER, || {
        let flagged = imap.must("SEARCH FLAGGED SUBJECT later")?;
        Ok(flagged.lines().iter().any(|line| line.starts_with("* SEARCH ")))
    })?;
    // An idle shard hands its lines over within a second or so.
    eventually("the merge is told in the log", LOGGED, || Ok(b.log().contains("merged what a node")))?;
    a.terminate()?;
    b.terminate()
}

pub fn starts_again() -> Fallible {
    own_process()?;
    let store = TempDir::new("ack-local-again")?;
    let mut a = node(&store, "a", "local")?;
    let told = killed(&store, &mut a)?;
    a.restart(1)?;
    eventually("the node serves its account again", TAKE_OVER, || Ok(login(&a).is_ok()))?;
    let mut imap = login(&a)?;
    for (subject, uid) in ["stored", "early", "later"].into_iter().zip(told) {
        ensure!(find(&mut imap, subject)? == Ok(uid), "{subject} is not what was told");
    }
    ensure!(append(&mut imap, "next")? == told[2] + 1, "there is a gap though nothing was missing");
    a.terminate()?;
    // It left in order: whoever comes next has no gap either.
    let mut b = node(&store, "b", "store")?;
    eventually("the other node has taken over", TAKE_OVER, || Ok(login(&b).is_ok()))?;
    ensure!(append(&mut login(&b)?, "last")? == told[2] + 2, "there is a gap after an orderly end");
    b.terminate()
}
