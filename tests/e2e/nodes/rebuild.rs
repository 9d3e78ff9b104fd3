//! `culver rebuild`: accounts whose tables or manifests are gone come back, on a store of one machine and on a shared one.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ACCOUNTS, HAND_OVER, Site, command, deliver, login};
use crate::ensure;
use crate::support::imap::Imap;
use crate::support::server::{Culver, Options, password, user};
use crate::support::{Fallible, eventually};

/// Messages in INBOX and in a mailbox of its own, small and large, by LMTP and IMAP.
fn fill(node: &Culver) -> Fallible {
    let large = "0123456789abcdef\r\n".repeat(40_000);
    for account in 0..ACCOUNTS {
        let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
        imap.must("CREATE Kept/Below")?;
        for n in 0..8 {
            let text = format!("Subject: {n} of {account}\r\nFrom: a@example.net\r\n\r\ntext {n}\r\n");
            let date = format!("(\\Flagged) \"{:02}-Nov-2020 10:00:00 +0100\" ", n + 1);
            ensure!(imap.append("Kept/Below", &date, text.as_bytes())?.ok(), "message {n}");
        }
        let text = format!("Subject: large\r\n\r\n{large}");
        ensure!(imap.append("INBOX", "", text.as_bytes())?.ok(), "a large message");
    }
    deliver(node, 5)
}

/// The messages of an account by mailbox, whatever their numbers: date, size, octets.
fn messages(node: &Culver, account: usize) -> Fallible<Vec<(String, Vec<u8>)>> {
    let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
    let mut all = Vec::new();
    for mailbox in ["INBOX", "Kept/Below"] {
        imap.must(&format!("EXAMINE {mailbox}"))?;
        for unit in imap.must("FETCH 1:* (INTERNALDATE RFC822.SIZE BODY.PEEK[])")?.untagged {
            let at = unit.bytes.windows(7).position(|at| at == b"FETCH (").ok_or("no FETCH")?;
            all.push((mailbox.to_owned(), unit.bytes[at..].to_vec()));
        }
    }
    all.sort();
    Ok(all)
}

fn same(node: &Culver, before: &[Vec<(String, Vec<u8>)>]) -> Fallible {
    for (account, before) in before.iter().enumerate() {
        let after = messages(node, account)?;
        ensure!(after.len() == before.len(), "{account}: {} messages, were {}", after.len(), before.len());
        ensure!(after == *before, "{account}: its messages are others");
    }
    Ok(())
}

/// All files below a directory whose names end so.
fn ending(dir: &Path, ends: &str) -> Fallible<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(ending(&path, ends)?),
            false if path.to_string_lossy().ends_with(ends) => found.push(path),
            false => {}
        }
    }
    Ok(found)
}

fn remove(dir: &Path, ends: &str) -> Fallible {
    let gone = ending(dir, ends)?;
    ensure!(!gone.is_empty(), "nothing below {} ends with {ends}", dir.display());
    gone.into_iter().try_for_each(|path| Ok(fs::remove_file(path)?))
}

fn rebuild_all(dir: &Path) -> Fallible {
    for account in 0..ACCOUNTS {
        let done = command(&["rebuild", &user(account), "--json"], dir)?;
        ensure!(done.code == Some(0) && done.output.contains("\"damaged\":true"), "{}", done.output);
    }
    Ok(())
}

pub fn local() -> Fallible {
    let mut node = Culver::start("rebuild", Options { accounts: ACCOUNTS, ..Options::default() })?;
    fill(&node)?;
    let before = (0..ACCOUNTS).map(|account| messages(&node, account)).collect::<Fallible<Vec<_>>>()?;
    let (data, store) = (node.data(), node.data().join("store"));
    let whole = command(&["rebuild", &user(0)], &data)?;
    ensure!(whole.code == Some(0) && whole.output.contains("nothing was changed"), "{}", whole.output);
    for (ends, wanted) in
        [(".table", "a table that the manifest names is missing"), (".manifest", "a manifest that")]
    {
        node.terminate()?;
        remove(&store.join("data"), ends)?;
        ensure!(node.restart(2).is_err() && node.log().contains(wanted), "{}", node.log_tail());
        let told = command(&["rebuild", &user(0), "--dry-run"], &data)?;
        ensure!(told.code == Some(0) && told.output.contains("would be restored"), "{}", told.output);
        ensure!(node.restart(2).is_err(), "a dry run has changed something");
        rebuild_all(&data)?;
        node.restart(2)?;
        same(&node, &before)?;
        deliver_and_forget(&node, &format!("Passing{ends}"))?;
    }
    let none = command(&["rebuild", "nobody at all"], &data)?;
    ensure!(none.code == Some(1) && none.output.contains("alice@example.test"), "{}", none.output);
    node.terminate()
}

/// A rebuilt account takes mail, and is as it was before when that is expunged.
fn deliver_and_forget(node: &Culver, mailbox: &str) -> Fallible {
    for account in 0..ACCOUNTS {
        let mut imap = Imap::login(node.ports.imap, &user(account), &password(account))?;
        imap.must(&format!("CREATE {mailbox}"))?;
        ensure!(imap.append(mailbox, "(\\Deleted) ", b"Subject: x\r\n\r\nx\r\n")?.ok(), "not taken");
        imap.must(&format!("DELETE {mailbox}"))?;
    }
    Ok(())
}

pub fn shared() -> Fallible {
    let site = Site::new("rebuild")?;
    let mut a = site.start("a")?;
    fill(&a)?;
    let before = (0..ACCOUNTS).map(|account| messages(&a, account)).collect::<Fallible<Vec<_>>>()?;
    let data = site.dir.path().join("store/data");
    for (ends, wanted) in [(".table", ""), (".manifest", "a person must look")] {
        a.terminate()?;
        remove(&data, ends)?;
        a.restart(2)?;
        eventually("the node says what is wrong", HAND_OVER, || Ok(a.log().contains(wanted)))?;
        for account in 0..ACCOUNTS {
            ensure!(!login(&a, account)?.starts_with("OK"), "{account} is served all the same");
        }
        rebuild_all(&a.data())?;
        same(&a, &before)?;
        a.terminate()?;
        a.restart(1)?;
        eventually("the node serves", HAND_OVER, || Ok(login(&a, 0)?.starts_with("OK")))?;
        same(&a, &before)?;
        deliver_and_forget(&a, &format!("Passing{ends}"))?;
    }
    let told = command(&["gc", "--json"], &a.data())?;
    ensure!(told.code == Some(0) && told.output.contains("\"missing\":0"), "{}", told.output);
    a.terminate()
}
