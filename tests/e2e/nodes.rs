//! Two processes on one shared store: who serves, what the other one says, and how accounts come to it.

mod chaos;
mod gc;
mod local;
mod rebuild;
mod resent;
mod unfit;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::connection::Connection;
use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::pop3::Pop3;
use crate::support::process;
use crate::support::server::{Culver, Options, binary, free_port_base, own_process, password, user};
use crate::support::temp::TempDir;
use crate::support::{Fallible, eventually};
use crate::{Test, ensure};

const ACCOUNTS: usize = 4;
/// After so many seconds of silence a node is taken for dead.
const LEASE_S: u64 = 3;
/// How long accounts may take to come to another node: in order, and when it has to be taken for dead first.
const HAND_OVER: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 10 });
const TAKE_OVER: Duration = Duration::from_secs(LEASE_S + if cfg!(debug_assertions) { 30 } else { 15 });
const COMMAND: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "nodes_first_has_all_and_hands_over_when_it_ends", run: |_| hand_over() },
        Test { name: "nodes_one_that_was_killed_is_taken_over", run: |_| killed() },
        Test { name: "nodes_takeover_takes_at_once_and_the_other_stands_by", run: |_| takeover() },
        Test { name: "nodes_open_sessions_end_when_their_account_goes", run: |_| sessions_end() },
        Test { name: "nodes_one_whose_directory_was_deleted_serves_the_same", run: |_| directory_deleted() },
        Test { name: "nodes_a_store_that_is_away_is_told_and_holds_up_no_stop", run: |_| store_away() },
        Test { name: "nodes_gc_finds_orphans_and_what_is_missing", run: |_| gc::gc() },
        Test { name: "nodes_rebuild_brings_accounts_of_a_local_store_back", run: |_| rebuild::local() },
        Test { name: "nodes_rebuild_brings_accounts_of_a_shared_store_back", run: |_| rebuild::shared() },
        Test { name: "nodes_a_message_sent_again_after_a_kill_is_kept_once", run: |_| resent::message() },
        Test { name: "nodes_an_append_that_was_late_is_kept_once", run: resent::append },
        Test { name: "nodes_nothing_is_lost_on_a_shared_directory", run: chaos::on_directory },
        Test { name: "nodes_nothing_is_lost_on_seaweedfs", run: chaos::on_seaweedfs },
        Test { name: "nodes_nothing_is_lost_on_radosgw", run: chaos::on_radosgw },
        Test { name: "nodes_nothing_is_lost_on_nfs", run: chaos::on_nfs },
        Test {
            name: "nodes_what_one_acknowledged_on_its_disk_comes_back_with_it",
            run: |_| local::comes_back(),
        },
        Test { name: "nodes_one_that_acknowledged_on_its_disk_starts_again", run: |_| local::starts_again() },
        Test { name: "nodes_rclone_serves_one_node_and_is_refused_for_two", run: |_| unfit::rclone() },
        Test { name: "nodes_s3s_fs_serves_one_node_and_is_refused_for_two", run: |_| unfit::s3s_fs() },
        Test { name: "nodes_garage_serves_one_node_and_is_refused_for_two", run: |_| unfit::garage() },
        Test {
            name: "nodes_wrong_settings_of_a_store_are_told_with_a_remedy",
            run: |_| unfit::wrong_settings(),
        },
        Test { name: "nodes_commands_say_what_is_missing", run: |_| commands() },
        Test { name: "nodes_a_store_that_cannot_be_used_is_told_in_one_line", run: |_| wrong_stores() },
    ]
}

/// A store directory, and how its nodes are started.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(name: &str) -> Fallible<Site> {
        own_process()?;
        Ok(Site { dir: TempDir::new(name)? })
    }

    fn url(&self) -> String {
        format!("file://{}/store?shared=true", self.dir.path().display())
    }

    fn start(&self, node: &str) -> Fallible<Culver> {
        self.start_asleep(node, false)
    }

    fn start_asleep(&self, node: &str, asleep: bool) -> Fallible<Culver> {
        let words = ["--store", &self.url(), "--node", node, "--lease", &LEASE_S.to_string()];
        let words = words.map(str::to_owned).to_vec();
        Culver::start(node, Options { accounts: ACCOUNTS, words, asleep, ..Options::default() })
    }
}

/// Mail of several kinds, by IMAP and LMTP: large and small, flagged, copied, expunged, in mailboxes that were renamed.
fn fill(node: &Culver) -> Fallible {
    let large = "0123456789abcdef\r\n".repeat(40_000);
    for account in 0..ACCOUNTS {
        let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
        imap.must("CREATE Kept/Below")?;
        imap.must("CREATE Old")?;
        imap.must("RENAME Old New")?;
        imap.must("SUBSCRIBE Kept/Below")?;
        for n in 0..8 {
            let text = format!("Subject: {n} of {account}\r\nFrom: a@example.net\r\n\r\ntext {n}\r\n");
            let answer = imap.append("Kept/Below", "(\\Flagged keyword) ", text.as_bytes())?;
            ensure!(answer.ok(), "{}", answer.result);
        }
        let text = format!("Subject: large\r\n\r\n{large}");
        ensure!(imap.append("New", "(\\Seen) ", text.as_bytes())?.ok(), "a large message");
        imap.must("SELECT Kept/Below")?;
        imap.must("UID STORE 3 +FLAGS (\\Deleted)")?;
        imap.must("EXPUNGE")?;
        imap.must("UID COPY 1:5 New")?;
    }
    deliver(node, 5)
}

fn deliver(node: &Culver, count: usize) -> Fallible {
    let mut lmtp = Lmtp::open(node.ports.lmtp)?;
    let users: Vec<String> = (0..ACCOUNTS).map(user).collect();
    let to: Vec<&str> = users.iter().map(String::as_str).collect();
    for n in 0..count {
        let text =
            format!("Subject: delivered {n}\r\nTo: all@example.test\r\n\r\n{}\r\n", "x".repeat(n * 700));
        for reply in lmtp.deliver("s@example.net", &to, text.as_bytes())? {
            ensure!(reply.starts_with("250"), "{reply}");
        }
    }
    Ok(())
}

/// Everything that IMAP says of all accounts, octet by octet; \Recent, which nobody promises, left out.
fn picture(node: &Culver) -> Fallible<Vec<Vec<u8>>> {
    let mut said = Vec::new();
    for account in 0..ACCOUNTS {
        let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
        let mut ask = |command: &str| -> Fallible {
            for unit in imap.must(command)?.untagged {
                let text = unit.bytes;
                let recent = String::from_utf8_lossy(&text).ends_with(" RECENT");
                if !recent {
                    said.push(text);
                }
            }
            Ok(())
        };
        ask("LIST \"\" *")?;
        ask("LSUB \"\" *")?;
        for mailbox in ["INBOX", "Kept/Below", "New"] {
            ask(&format!("STATUS {mailbox} (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)"))?;
            ask(&format!("EXAMINE {mailbox}"))?;
            ask("UID FETCH 1:* (UID INTERNALDATE RFC822.SIZE MODSEQ ENVELOPE BODYSTRUCTURE BODY.PEEK[])")?;
            ask("UID SEARCH FLAGGED")?;
            ask("UID SEARCH KEYWORD keyword")?;
            ask("UID SEARCH SEEN")?;
        }
    }
    Ok(said)
}

fn same(before: &[Vec<u8>], after: &[Vec<u8>]) -> Fallible {
    ensure!(before.len() == after.len(), "{} answers before, {} after", before.len(), after.len());
    for (before, after) in before.iter().zip(after) {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
        ensure!(before == after, "before: {}\nafter: {}", shown(before), shown(after));
    }
    Ok(())
}

/// The answer to a LOGIN.
fn login(node: &Culver, account: usize) -> Fallible<String> {
    let mut imap = Imap::open(node.ports.imap)?;
    Ok(imap.command(&format!("LOGIN {} {}", user(account), password(account)))?.result)
}

fn serves_all(node: &Culver, limit: Duration) -> Fallible {
    eventually("the node serves all accounts", limit, || {
        for account in 0..ACCOUNTS {
            if !login(node, account)?.starts_with("OK") {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// What a node answers that has none of the accounts.
fn stands_by(node: &Culver, owner: &str, owner_imap: &str) -> Fallible {
    let served = format!("this account is served by {owner} ({owner_imap})");
    for account in 0..ACCOUNTS {
        let said = login(node, account)?;
        ensure!(said == format!("NO [UNAVAILABLE] {served}"), "{said}");
        // Nobody learns of accounts without their passwords.
        let mut imap = Imap::open(node.ports.imap)?;
        let said = imap.command(&format!("LOGIN {} wrong", user(account)))?.result;
        ensure!(said.starts_with("NO [AUTHENTICATIONFAILED]"), "{said}");
    }
    let mut pop3 = Connection::open(node.ports.pop3)?;
    pop3.read_line()?;
    pop3.send_line(&format!("USER {}", user(0)))?;
    pop3.read_line()?;
    pop3.send_line(&format!("PASS {}", password(0)))?;
    let said = pop3.read_line()?;
    ensure!(said == format!("-ERR [SYS/TEMP] {served}"), "{said}");
    let mut lmtp = Lmtp::open(node.ports.lmtp)?;
    lmtp.command("MAIL FROM:<s@example.net>", "250")?;
    let said = lmtp.command(&format!("RCPT TO:<{}>", user(0)), "451 4.3.2")?;
    ensure!(said.ends_with(&served), "{said}");
    lmtp.command("RCPT TO:<nobody@example.test>", "550")?;
    Ok(())
}

fn hand_over() -> Fallible {
    let site = Site::new("hand-over")?;
    let mut a = site.start("a")?;
    fill(&a)?;
    let mut b = site.start("b")?;
    stands_by(&b, "a", &a.ports.imap.to_string())?;
    let before = picture(&a)?;
    a.terminate()?;
    ensure!(!a.log().contains("not handed over"), "{}", a.log_tail());
    serves_all(&b, HAND_OVER)?;
    same(&before, &picture(&b)?)?;
    // And back, with what happened meanwhile.
    deliver(&b, 3)?;
    let before = picture(&b)?;
    a.restart(1)?;
    stands_by(&a, "b", &b.ports.imap.to_string())?;
    b.terminate()?;
    serves_all(&a, HAND_OVER)?;
    same(&before, &picture(&a)?)?;
    a.terminate()
}

fn killed() -> Fallible {
    let site = Site::new("killed")?;
    let mut a = site.start("a")?;
    let mut b = site.start("b")?;
    fill(&a)?;
    let before = picture(&a)?;
    a.kill();
    serves_all(&b, TAKE_OVER)?;
    same(&before, &picture(&b)?)?;
    // It comes back to find that another node has its accounts.
    a.restart(2)?;
    stands_by(&a, "b", &b.ports.imap.to_string())?;
    deliver(&b, 2)?;
    a.terminate()?;
    b.terminate()
}

fn command(words: &[&str], dir: &Path) -> Fallible<process::Finished> {
    let mut command = Command::new(binary()?);
    command.args(words).arg("--dir").arg(dir);
    process::run(&mut command, b"", COMMAND)
}

fn takeover() -> Fallible {
    let site = Site::new("takeover")?;
    let mut a = site.start("a")?;
    let mut b = site.start("b")?;
    fill(&a)?;
    let before = picture(&a)?;
    let began = Instant::now();
    let done = command(&["takeover", "--partitions", "all", "--json"], &b.data())?;
    ensure!(done.code == Some(0), "{}", done.output);
    ensure!(done.output.contains("\"taken\":64") && done.output.contains("\"held\":64"), "{}", done.output);
    // At once: nobody was taken for dead first.
    ensure!(began.elapsed() < HAND_OVER, "it took {:?}", began.elapsed());
    serves_all(&b, Duration::ZERO)?;
    same(&before, &picture(&b)?)?;
    // The other one learns of it at its next commit, at the latest when its proof is over, and stands by.
    eventually("the node that was overtaken stands by", HAND_OVER, || {
        Ok(stands_by(&a, "b", &b.ports.imap.to_string()).is_ok())
    })?;
    ensure!(a.log().contains("another node took over"), "{}", a.log_tail());
    // Some of them back, and it takes nothing by itself.
    let done = command(&["takeover", "--partitions", "0-9,63"], &a.data())?;
    ensure!(done.code == Some(0) && done.output.contains("taken 11 partitions"), "{}", done.output);
    deliver_somewhere(&[&a, &b])?;
    let cost = command(&["cost", "--json"], &a.data())?;
    ensure!(cost.code == Some(0) && cost.output.contains("\"purpose\":\"journal\""), "{}", cost.output);
    let cost = command(&["cost"], &a.data())?;
    ensure!(cost.code == Some(0) && cost.output.contains("money (USD)"), "{}", cost.output);
    a.terminate()?;
    b.terminate()
}

/// Each account takes mail at one of the nodes.
fn deliver_somewhere(nodes: &[&Culver]) -> Fallible {
    for account in 0..ACCOUNTS {
        let taken = |node: &Culver| -> Fallible<bool> {
            let mut lmtp = Lmtp::open(node.ports.lmtp)?;
            lmtp.command("MAIL FROM:<s@example.net>", "250")?;
            lmtp.connection.send_line(&format!("RCPT TO:<{}>", user(account)))?;
            Ok(lmtp.reply()?.starts_with("250"))
        };
        eventually("one node takes mail of the account", TAKE_OVER, || {
            let mut takers = 0;
            for node in nodes {
                takers += usize::from(taken(node)?);
            }
            Ok(takers == 1)
        })?;
    }
    Ok(())
}

/// Sessions that wait, in IDLE, asleep, or between two commands, hear that their account went.
fn sessions_end() -> Fallible {
    let site = Site::new("sessions")?;
    for asleep in [false, true] {
        let mut a = site.start_asleep("a", asleep)?;
        serves_all(&a, TAKE_OVER)?;
        let mut b = site.start("b")?;
        let mut idle = Imap::login(a.ports.imap, &user(0), &password(0))?;
        idle.must("SELECT INBOX")?;
        idle.send("IDLE")?;
        idle.connection.read_line()?;
        let mut silent = Imap::login(a.ports.imap, &user(1), &password(1))?;
        silent.must("SELECT INBOX")?;
        let mut pop3 = Pop3::login(a.ports.pop3, &user(2), &password(2))?;
        pop3.must("STAT")?;
        let done = command(&["takeover", "--partitions", "all"], &b.data())?;
        ensure!(done.code == Some(0), "{}", done.output);
        for (what, connection, wanted) in [
            ("IDLE", &mut idle.connection, "* BYE [UNAVAILABLE] "),
            ("silent", &mut silent.connection, "* BYE [UNAVAILABLE] "),
            ("POP3", &mut pop3.connection, "-ERR [SYS/TEMP] "),
        ] {
            let rest = String::from_utf8_lossy(&connection.read_to_end()?).into_owned();
            ensure!(rest.contains(wanted), "{what}, asleep {asleep}: {rest:?}");
        }
        ensure!(!a.log().contains("cannot be opened"), "{}", a.log_tail());
        b.terminate()?;
        a.terminate()?;
    }
    Ok(())
}

fn directory_deleted() -> Fallible {
    let site = Site::new("deleted")?;
    let mut a = site.start("a")?;
    fill(&a)?;
    let before = picture(&a)?;
    for how in ["killed", "stopped"] {
        match how {
            "killed" => a.kill(),
            _ => a.terminate()?,
        }
        fs::remove_dir_all(a.data().join("node"))?;
        a.restart(2)?;
        // Without its directory it is taken for another node than the one that was killed.
        serves_all(&a, TAKE_OVER)?;
        same(&before, &picture(&a)?).map_err(|why| format!("{how}: {why}"))?;
    }
    a.terminate()
}

/// The directory is gone for a while, as a mount that was lost.
fn store_away() -> Fallible {
    let site = Site::new("away")?;
    let mut a = site.start("a")?;
    let (store, kept) = (site.dir.path().join("store"), site.dir.path().join("kept"));
    let mut open = Imap::login(a.ports.imap, &user(0), &password(0))?;
    open.must("SELECT INBOX")?;
    fs::rename(&store, &kept)?;
    fs::write(&store, b"")?;
    let away = "the store of this account does not answer, try again later";
    eventually("a node without a proof answers no reads", TAKE_OVER, || {
        Ok(login(&a, 0)? == format!("NO [UNAVAILABLE] {away}"))
    })?;
    let said = open.command("FETCH 1:* FLAGS")?.result;
    ensure!(said == format!("NO [UNAVAILABLE] {away}"), "{said}");
    let mut lmtp = Lmtp::open(a.ports.lmtp)?;
    lmtp.command("MAIL FROM:<s@example.net>", "250")?;
    let said = lmtp.command(&format!("RCPT TO:<{}>", user(0)), "451 4.3.2")?;
    ensure!(said.ends_with(away), "{said}");
    fs::remove_file(&store)?;
    fs::rename(&kept, &store)?;
    serves_all(&a, TAKE_OVER)?;
    open.must("NOOP")?;
    open.must("FETCH 1:* FLAGS").or_else(|_| open.must("UID FETCH 1:* FLAGS"))?;
    fs::rename(&store, &kept)?;
    fs::write(&store, b"")?;
    // Its limits are 15 and 5 seconds.
    a.terminate()
}

fn commands() -> Fallible {
    let site = Site::new("commands")?;
    let elsewhere = command(&["takeover", "--partitions", "all"], site.dir.path())?;
    ensure!(
        elsewhere.code == Some(1) && elsewhere.output.contains("not the directory of a node"),
        "{}",
        elsewhere.output
    );
    let mut a = site.start("a")?;
    let (data, admin) = (a.data(), a.ports.admin.ok_or("no admin port")?);
    for (list, wanted) in
        [("3-1", "is not a partition"), ("64", "there is no partition 64"), ("", "is not a partition")]
    {
        let done = command(&["takeover", "--partitions", list], &data)?;
        ensure!(done.code == Some(1) && done.output.contains(wanted), "{list}: {}", done.output);
    }
    for (request, status, with) in [
        ("POST /takeover?partitions=all HTTP/1.1\r\n", "401", "www-authenticate: bearer"),
        ("GET /cost HTTP/1.1\r\nAuthorization: Bearer 0123\r\n", "401", "www-authenticate: bearer"),
        ("GET /takeover HTTP/1.1\r\n", "405", "allow: post"),
        ("GET /ready HTTP/1.1\r\n", "200", ""),
    ] {
        let mut connection = Connection::open(admin)?;
        connection.send(format!("{request}Host: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        let answer = String::from_utf8_lossy(&connection.read_to_end()?).to_lowercase();
        ensure!(
            answer.starts_with(&format!("http/1.1 {status}")) && answer.contains(with),
            "{request}: {answer}"
        );
    }
    let control = data.join("node/CONTROL");
    let kept = fs::read(&control)?;
    a.terminate()?;
    let done = command(&["cost"], &data)?;
    ensure!(done.code == Some(1) && done.output.contains("no node runs there"), "{}", done.output);
    // As after a crash.
    fs::write(&control, kept)?;
    let done = command(&["cost"], &data)?;
    ensure!(done.code == Some(1) && done.output.contains("does not run"), "{}", done.output);
    let mut local = Culver::start("local", Options { accounts: 1, ..Options::default() })?;
    let done = command(&["cost"], &local.data())?;
    ensure!(done.code == Some(1) && done.output.contains("of this machine alone"), "{}", done.output);
    local.terminate()
}

/// One line each, that says what to do, and exit code 1.
fn wrong_stores() -> Fallible {
    let site = Site::new("wrong")?;
    let file = site.dir.path().join("file");
    fs::write(&file, b"")?;
    let below = format!("file://{}/store?shared=true", file.display());
    let local = format!("file://{}/local", site.dir.path().display());
    for (store, node, wanted) in [
        ("ftp://x/y", None, "file, s3, sproxyd"),
        ("file://relative?shared=true", None, "file:///PATH"),
        ("s3://B/x?endpoint=127.0.0.1", None, "bucket"),
        (local.as_str(), Some("a"), "leave --node out"),
        (below.as_str(), Some("a/b"), "a short name"),
        (below.as_str(), Some("a"), "Not a directory"),
        ("s3://mail/x?endpoint=http://127.0.0.1:1", Some("a"), "127.0.0.1:1"),
    ] {
        let mut command = Command::new(binary()?);
        command.args(["quickstart", "--store", store, "--no-samples", "--port-base"]);
        command.arg(free_port_base()?.to_string()).arg("--dir").arg(site.dir.path().join("dir"));
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
        if let Some(node) = node {
            command.args(["--node", node]);
        }
        let done = process::run(&mut command, b"", COMMAND)?;
        ensure!(done.code == Some(1), "{store}: {:?} {}", done.code, done.output);
        let errors: Vec<&str> = done.output.lines().filter(|line| line.contains("culver:")).collect();
        ensure!(errors.len() == 1 && errors[0].contains(wanted), "{store} {node:?}: {}", done.output);
    }
    Ok(())
}
