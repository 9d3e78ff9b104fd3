//! What an account may have, as configurations say: annotations and the quota.

use std::fs;
use std::time::Duration;

use crate::support::imap::{Answer, Imap};
use crate::support::lmtp::Lmtp;
use crate::support::process::signal;
use crate::support::server::{Culver, Options, own_process, password, user};
use crate::support::{Fallible, eventually};
use crate::{Test, ensure};

/// How long a reload may take to reach every shard.
const RELOAD: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "allowance_metadata_has_limits", run: |_| metadata_limits() },
        Test { name: "allowance_quota_is_enforced", run: |_| quota_enforced() },
        Test { name: "allowance_quota_of_a_user_is_his_own", run: |_| quota_of_users() },
        Test { name: "allowance_quota_is_set_by_those_who_may", run: |_| quota_set() },
    ]
}

fn configured(name: &str, lines: &[&str]) -> Fallible<Culver> {
    own_process()?;
    Culver::configured(name, Options { accounts: 4, ..Options::default() }, lines)
}

fn login(culver: &Culver, account: usize) -> Fallible<Imap> {
    Imap::login(culver.ports.imap, &user(account), &password(account))
}

fn refused(answer: &Answer, code: &str) -> Fallible {
    ensure!(answer.result.starts_with(&format!("NO [{code}]")), "not NO [{code}]: {}", answer.result);
    Ok(())
}

/// RFC 5464 §4.3 (TOOMANY, MAXSIZE), §3.2.1.1 (/shared/admin).
fn metadata_limits() -> Fallible {
    let mut culver = configured(
        "metadata",
        &[
            "metadata.admin = \"mailto:postmaster@example.test\"",
            "metadata.comment = \"Grüße\"",
            "metadata.value_octets_max = 1024",
            "metadata.entries_max = 10",
            "metadata.octets_max = \"64KiB\"",
        ],
    )?;
    let mut imap = login(&culver, 0)?;
    let told = imap.must("GETMETADATA \"\" (/shared/admin /shared/comment)")?.lines().join(" ");
    ensure!(told.contains("/shared/admin \"mailto:postmaster@example.test\""), "{told}");
    ensure!(told.contains("/shared/comment ") && told.contains("Grüße"), "{told}");
    refused(&imap.command("SETMETADATA \"\" (/shared/admin \"mailto:me@example.test\")")?, "NOPERM")?;
    let value = "x".repeat(1024);
    for number in 0..10 {
        imap.must(&format!("SETMETADATA INBOX (/private/{number} \"{value}\")"))?;
    }
    refused(
        &imap.command(&format!("SETMETADATA INBOX (/private/0 \"{value}x\")"))?,
        "METADATA MAXSIZE 1024",
    )?;
    refused(&imap.command("SETMETADATA INBOX (/private/more \"x\")")?, "METADATA TOOMANY")?;
    // One that goes makes room in the same command; another mailbox has room of its own.
    imap.must("SETMETADATA INBOX (/private/0 NIL /private/more \"x\")")?;
    imap.must("SETMETADATA INBOX (/private/1 \"another\")")?;
    for mailbox in 0..6 {
        imap.must(&format!("CREATE m{mailbox}"))?;
        for number in 0..10 {
            let set = format!("SETMETADATA m{mailbox} (/shared/{number} \"{value}\")");
            let answer = imap.command(&set)?;
            if mailbox * 10 + number < 53 {
                ensure!(answer.ok(), "{mailbox} {number}: {}", answer.result);
            } else if !answer.ok() {
                // 64 KiB of names and values are reached.
                refused(&answer, "LIMIT")?;
                imap.must("SETMETADATA m0 (/shared/0 NIL)")?;
                imap.must(&set)?;
                return culver.terminate();
            }
        }
    }
    crate::fail!("64 KiB were never reached")
}

fn append(imap: &mut Imap, mailbox: &str, octets: usize) -> Fallible<Answer> {
    let head = "Subject: x\r\n\r\n";
    imap.append(mailbox, "", format!("{head}{}", "x".repeat(octets - head.len())).as_bytes())
}

fn roots(imap: &mut Imap) -> Fallible<String> {
    Ok(imap.must("GETQUOTAROOT INBOX")?.lines().join(" "))
}

/// RFC 9208 §4.3.1, and what still goes.
fn quota_enforced() -> Fallible {
    let mut culver = configured(
        "quota",
        &["quota.storage = \"10KiB\"", "quota.messages = 6", "quota.mailboxes = 3", "quota.grace = \"off\""],
    )?;
    let mut imap = login(&culver, 0)?;
    let told = roots(&mut imap)?;
    let expected =
        "* QUOTAROOT INBOX \"User quota\" * QUOTA \"User quota\" (STORAGE 0 10 MESSAGE 0 6 MAILBOX 1 3)";
    ensure!(told == expected, "{told}");
    ensure!(append(&mut imap, "INBOX", 4000)?.ok(), "room for the first");
    ensure!(append(&mut imap, "INBOX", 4000)?.ok(), "room for the second");
    refused(&append(&mut imap, "INBOX", 4000)?, "OVERQUOTA")?;
    // A literal that somebody waits with is not asked for.
    imap.connection.send_line("w APPEND INBOX {4000}")?;
    let line = imap.connection.read_line()?;
    ensure!(line.starts_with("w NO [OVERQUOTA]"), "{line}");
    imap.must("SELECT INBOX")?;
    imap.must("CREATE a/b")?;
    refused(&imap.command("CREATE c")?, "OVERQUOTA")?;
    refused(&imap.command("RENAME INBOX c")?, "OVERQUOTA")?;
    refused(&imap.command("RENAME a/b d/b")?, "OVERQUOTA")?;
    imap.must("RENAME a/b c")?;
    refused(&imap.command("COPY 1 c")?, "OVERQUOTA")?;
    // What frees, or adds nothing, is never refused.
    imap.must("MOVE 1 c")?;
    imap.must("STORE 1 +FLAGS (\\Deleted)")?;
    let told = imap.must("STATUS INBOX (DELETED DELETED-STORAGE)")?.lines().join(" ");
    ensure!(told == "* STATUS INBOX (DELETED 1 DELETED-STORAGE 4000)", "{told}");
    imap.must("EXPUNGE")?;
    let told = roots(&mut imap)?;
    ensure!(told.ends_with("(STORAGE 4 10 MESSAGE 1 6 MAILBOX 3 3)"), "{told}");
    // RFC 3502: all of them or none.
    let (head, body) = ("Subject: x\r\n\r\n", "z".repeat(3486));
    let several = format!("m APPEND INBOX {{3500+}}\r\n{head}{body} {{3500+}}\r\n{head}{body}");
    imap.connection.send_line(&several)?;
    let line = imap.connection.read_line()?;
    ensure!(line.starts_with("m NO [OVERQUOTA]"), "{line}");
    let told = roots(&mut imap)?;
    ensure!(told.ends_with("(STORAGE 4 10 MESSAGE 1 6 MAILBOX 3 3)"), "{told}");
    // RFC 8508: what goes makes room for what comes.
    imap.must("SELECT c")?;
    imap.connection.send_line(&format!("r REPLACE 1 c {{9014+}}\r\n{head}{}", "z".repeat(9000)))?;
    let answer = imap.answer("r")?;
    ensure!(answer.ok(), "{}", answer.result);
    imap.connection.send_line(&format!("r REPLACE 1 c {{4000+}}\r\n{head}{}", "z".repeat(3986)))?;
    let answer = imap.answer("r")?;
    ensure!(answer.ok(), "{}", answer.result);
    // By LMTP: the recipient who has no room is told so, the other has his mail; the sender comes again.
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    let (full, free) = (user(0), user(1));
    let message = format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(7000));
    let replies = lmtp.deliver("s@example.net", &[&full, &free], message.as_bytes())?;
    ensure!(replies[0].starts_with("452 4.2.2"), "{replies:?}");
    ensure!(replies[1].starts_with("250"), "{replies:?}");
    drop(imap);
    // The same where the account is closed by then.
    culver.terminate()?;
    culver.configure(&[
        "quota.storage = \"10KiB\"",
        "lmtp.over_quota = \"bounce\"",
        "quota.grace = \"off\"",
    ])?;
    let mut imap = login(&culver, 0)?;
    ensure!(append(&mut imap, "INBOX", 6000)?.ok(), "room for one more");
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    let replies = lmtp.deliver("s@example.net", &[&full], message.as_bytes())?;
    ensure!(replies[0].starts_with("552 5.2.2"), "{replies:?}");
    culver.terminate()
}

/// A user's own fields, and a reload of them; the grace of the last message.
fn quota_of_users() -> Fallible {
    let mut culver = configured("quota-users", &["quota.storage = \"100KiB\"", "quota.grace = \"2KiB\""])?;
    let text = fs::read_to_string(culver.passwd_file())?;
    let with = |fields: [&str; 4]| {
        let line = |(line, field): (&str, &str)| format!("{line}{field}\n");
        text.lines().zip(fields).map(line).collect::<String>()
    };
    let fields = [
        "userdb_quota_rule=*:storage=5K:messages=3",
        "userdb_quota_storage_size=1M",
        "userdb_quota_rule=*:storage=0",
        "",
    ];
    fs::write(culver.passwd_file(), with(fields))?;
    signal(culver.pid().ok_or("no process")?, "HUP")?;
    let mut imaps = Vec::new();
    for account in 0..4 {
        imaps.push(login(&culver, account)?);
    }
    for (imap, expected) in
        imaps.iter_mut().zip(["(STORAGE 0 5 MESSAGE 0 3)", "(STORAGE 0 1024)", "()", "(STORAGE 0 100)"])
    {
        eventually("the fields are read", RELOAD, || Ok(roots(imap)?.ends_with(expected)))?;
    }
    let imap = &mut imaps[0];
    ensure!(append(imap, "INBOX", 4000)?.ok(), "room");
    // RFC 9208 §4.3.1, example 2.
    let soft = append(imap, "INBOX", 3000)?;
    ensure!(soft.ok() && soft.lines().join(" ").contains("* NO [OVERQUOTA] "), "{soft:?}");
    refused(&append(imap, "INBOX", 20)?, "OVERQUOTA")?;
    culver.terminate()
}

/// RFC 9208 §4.1.3: by whom the configuration names, and durable.
fn quota_set() -> Fallible {
    let admin = user(1);
    let lines = [
        "quota.storage = \"10KiB\"".to_owned(),
        "quota.grace = \"off\"".to_owned(),
        format!("quota.admins = [\"{admin}\"]"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut culver = configured("quota-set", &lines)?;
    let (mut imap, mut admin) = (login(&culver, 0)?, login(&culver, 1)?);
    let said = imap.must("CAPABILITY")?.lines().join(" ");
    ensure!(said.contains(" QUOTA QUOTA=RES-STORAGE ") && !said.contains("QUOTASET"), "{said}");
    let said = admin.must("CAPABILITY")?.lines().join(" ");
    ensure!(said.contains(" QUOTASET"), "who may, is offered it: {said}");
    refused(&imap.command("SETQUOTA \"User quota\" (STORAGE 512)")?, "NOPERM")?;
    let root = format!("\"user/{}\"", user(0));
    refused(&imap.command(&format!("GETQUOTA {root}"))?, "NONEXISTENT")?;
    refused(&admin.command("GETQUOTA \"user/nobody@example.test\"")?, "NONEXISTENT")?;
    refused(&admin.command(&format!("SETQUOTA {root} (INODES 5)"))?, "CANNOT")?;
    let told = admin.must(&format!("SETQUOTA {root} (STORAGE 20 MESSAGE 2)"))?.lines().join(" ");
    ensure!(told == format!("* QUOTA {root} (STORAGE 0 20 MESSAGE 0 2)"), "{told}");
    ensure!(append(&mut imap, "INBOX", 15_000)?.ok(), "more than the configuration gives");
    refused(&append(&mut imap, "INBOX", 6_000)?, "OVERQUOTA")?;
    drop((imap, admin));
    culver.configure(&lines)?;
    let (mut imap, mut admin) = (login(&culver, 0)?, login(&culver, 1)?);
    let told = roots(&mut imap)?;
    ensure!(told.ends_with("* QUOTA \"User quota\" (STORAGE 15 20 MESSAGE 1 2)"), "{told}");
    let told = admin.must(&format!("SETQUOTA {root} ()"))?.lines().join(" ");
    ensure!(told == format!("* QUOTA {root} ()"), "{told}");
    ensure!(append(&mut imap, "INBOX", 60_000)?.ok(), "nothing is limited");
    culver.terminate()
}
