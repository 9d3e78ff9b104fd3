//! What an account may have, as configurations say: annotations and the quota.

use crate::support::Fallible;
use crate::support::imap::{Answer, Imap};
use crate::support::server::{Culver, Options, own_process, password, user};
use crate::{Test, ensure};

pub fn tests() -> Vec<Test> {
    vec![Test { name: "allowance_metadata_has_limits", run: |_| metadata_limits() }]
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
