//! Messages that are sent again because nobody heard what became of them: the node died before its answer was read, or the store
//! was away for too long.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{HAND_OVER, Site, TAKE_OVER, serves_all, stands_by};
use crate::durability::ledger::between;
use crate::support::imap::Imap;
use crate::support::lmtp::{Lmtp, stuffed};
use crate::support::server::{Culver, password, user};
use crate::support::{Fallible, eventually, skip};
use crate::{Arguments, ensure};

/// A change waits a minute for its commit.
const PATIENCE: Duration = Duration::from_secs(100);

/// One message, and how its sender names it.
struct Sent {
    account: usize,
    ident: Option<&'static str>,
    text: Vec<u8>,
}

impl Sent {
    /// Sends all of it; the answer is not read.
    fn send(&self, node: &Culver) -> Fallible<Lmtp> {
        let mut lmtp = Lmtp::open(node.ports.lmtp)?;
        if let Some(ident) = self.ident {
            lmtp.command(&format!("XFORWARD IDENT={ident}"), "250")?;
        }
        lmtp.command("MAIL FROM:<s@example.net>", "250")?;
        lmtp.command(&format!("RCPT TO:<{}>", user(self.account)), "250")?;
        lmtp.command("DATA", "354")?;
        lmtp.connection.send(&stuffed(&self.text))?;
        Ok(lmtp)
    }

    fn deliver(&self, node: &Culver) -> Fallible {
        let reply = self.send(node)?.reply()?;
        ensure!(reply.starts_with("250 2.0.0"), "{reply}");
        Ok(())
    }
}

/// MESSAGES and UIDNEXT of an account's INBOX.
fn counters(node: &Culver, account: usize) -> Fallible<(u32, u32)> {
    let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
    let lines = imap.must("STATUS INBOX (MESSAGES UIDNEXT)")?.lines();
    let status = lines.iter().find(|line| line.starts_with("* STATUS")).ok_or("no STATUS")?;
    let number = |from: &str, to: &str| -> Fallible<u32> {
        Ok(between(status, from, to).ok_or(format!("no {from} in {status}"))?.trim().parse()?)
    };
    Ok((number("MESSAGES ", " UIDNEXT")?, number("UIDNEXT ", ")")?))
}

fn all_are(node: &Culver, messages: u32) -> Fallible {
    for account in 0..super::ACCOUNTS {
        let held = counters(node, account)?;
        ensure!(held == (messages, messages + 1), "{} has {held:?}, wanted {messages}", user(account));
    }
    Ok(())
}

pub fn message() -> Fallible {
    let received = "Received: from x (x [192.0.2.1])\r\n\tby mx.example.net (Postfix) with ESMTPS id 4XyZ0123ABz1\r\n\t\
                    for <u@example.test>; Mon, 23 Nov 2026 10:00:00 +0000 (UTC)\r\n";
    let text = "Subject: once\r\nFrom: s@example.net\r\n\r\nonce\r\n";
    let large = "0123456789abcdef\r\n".repeat(40_000);
    let sent = [
        Sent { account: 0, ident: Some("4XyZ+2B1"), text: text.into() },
        Sent { account: 1, ident: None, text: format!("{received}{text}").into() },
        Sent { account: 2, ident: Some("4XyZ+2B1"), text: text.into() },
        Sent { account: 3, ident: None, text: format!("{received}{text}{large}").into() },
    ];
    let site = Site::new("resent")?;
    let mut a = site.start("a")?;
    serves_all(&a, TAKE_OVER)?;
    let mut b = site.start("b")?;
    // The first is committed, and its answer never read; the others are acknowledged, which their sender may forget.
    let unread = sent[0].send(&a)?;
    for sent in &sent[1..] {
        sent.deliver(&a)?;
    }
    eventually("the message is committed", HAND_OVER, || Ok(counters(&a, 0)?.0 == 1))?;
    a.kill();
    drop(unread);
    serves_all(&b, TAKE_OVER)?;
    for sent in &sent {
        sent.deliver(&b)?;
    }
    all_are(&b, 1)?;
    // What was read and expunged does not come back, and UIDs go on as if nothing had come.
    let mut imap = Imap::login(b.ports.imap, &user(2), &password(2))?;
    imap.must("SELECT INBOX")?;
    imap.must("UID STORE 1 +FLAGS (\\Deleted)")?;
    imap.must("EXPUNGE")?;
    sent[2].deliver(&b)?;
    ensure!(counters(&b, 2)? == (0, 2), "{:?}", counters(&b, 2)?);
    ensure!(imap.append("INBOX", "", b"Subject: mine\r\n\r\nx\r\n")?.ok(), "an APPEND");
    drop(imap);
    // Another id, or other octets under the same id, are another message.
    Sent { account: 0, ident: Some("4XyZ+2B2"), text: text.into() }.deliver(&b)?;
    Sent { account: 1, ident: None, text: format!("{received}{text}more\r\n").into() }.deliver(&b)?;
    for n in [0, 1] {
        ensure!(counters(&b, n)? == (2, 3), "{}: {:?}", user(n), counters(&b, n)?);
    }
    // A flush and a hand-over later they are known as well.
    a.restart(2)?;
    stands_by(&a, "b", &b.ports.imap.to_string())?;
    b.terminate()?;
    serves_all(&a, HAND_OVER)?;
    for sent in &sent {
        sent.deliver(&a)?;
    }
    for (account, held) in [(0, (2, 3)), (1, (2, 3)), (2, (1, 3)), (3, (1, 2))] {
        ensure!(counters(&a, account)? == held, "{}: {:?}", user(account), counters(&a, account)?);
    }
    // Without an id two that are alike are two.
    let nameless = Sent { account: 3, ident: None, text: text.into() };
    nameless.deliver(&a)?;
    nameless.deliver(&a)?;
    ensure!(counters(&a, 3)? == (3, 4), "{:?}", counters(&a, 3)?);
    a.terminate()
}

/// Takes more than a minute, so it is one of the long ones.
pub fn append(arguments: &Arguments) -> Fallible {
    if !arguments.long {
        return skip("a minute long: --long");
    }
    let site = Site::new("late")?;
    let mut a = site.start("a")?;
    serves_all(&a, TAKE_OVER)?;
    let (store, kept) = (site.dir.path().join("store"), site.dir.path().join("kept"));
    let mut imap = Imap::login(a.ports.imap, &user(0), &password(0))?;
    imap.connection.limit = PATIENCE;
    imap.must("SELECT INBOX")?;
    let text = b"Subject: late\r\n\r\nx\r\n";
    fs::rename(&store, &kept)?;
    fs::write(&store, b"")?;
    let said = imap.append("INBOX", "(\\Seen) ", text)?.result;
    ensure!(said.starts_with("NO [UNAVAILABLE]"), "{said}");
    fs::remove_file(&store)?;
    fs::rename(&kept, &store)?;
    // The session is the same, and stays awake meanwhile.
    thread::sleep(Duration::from_secs(15));
    serves_all(&a, TAKE_OVER)?;
    let mut uids = Vec::new();
    // The first of these is the one that was late; the second one is a message of its own.
    for other in [&text[..], b"Subject: late\r\n\r\ny\r\n", text] {
        let answer = imap.append("INBOX", "(\\Seen) ", other)?;
        let told = answer.code("APPENDUID").ok_or_else(|| answer.result.clone())?;
        uids.push(told.split(' ').nth(1).unwrap_or_default().to_owned());
    }
    ensure!(uids == ["1", "2", "3"], "{uids:?}");
    ensure!(counters(&a, 0)? == (3, 4), "{:?}", counters(&a, 0)?);
    a.terminate()
}
