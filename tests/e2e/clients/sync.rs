//! mbsync and neomutt.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Client;
use crate::ensure;
use crate::support::Fallible;
use crate::support::imap::Imap;
use crate::support::process::{need, run_ok};
use crate::support::temp::TempDir;
use crate::transcript::play::small_message;

const LIMIT: Duration = Duration::from_secs(60);

fn append_some(client: &Client, count: usize) -> Fallible<Imap> {
    let mut imap = Imap::login(client.ports.imap, &client.user, &client.password)?;
    for n in 1..=count {
        let answer = imap.append("INBOX", "", small_message(n).as_bytes())?;
        ensure!(answer.ok(), "{}", answer.result);
    }
    Ok(imap)
}

/// Every message of an account, its mailboxes and flags, as comparable text.
fn picture(imap: &mut Imap) -> Fallible<String> {
    let mut picture = String::new();
    let mut names = imap.must("LIST \"\" *")?.lines();
    names.sort();
    for line in names {
        let name = line.rsplit(" \"/\" ").next().unwrap_or_default().to_owned();
        picture.push_str(&format!("{name}\n"));
        imap.must(&format!("EXAMINE {name}"))?;
        for line in imap.must("UID FETCH 1:* (UID FLAGS)")?.lines() {
            picture.push_str(&format!("  {}\n", line.replace(" \\Recent", "").replace("\\Recent", "")));
        }
    }
    imap.must("UNSELECT")?;
    Ok(picture)
}

/// The files of a Maildir tree, without mbsync's own state.
fn files(dir: &Path, into: &mut Vec<String>) -> Fallible {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, into)?;
        } else if !path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(".mbsync") || n == ".uidvalidity")
        {
            into.push(path.display().to_string());
        }
    }
    into.sort();
    Ok(())
}

pub fn mbsync(client: &Client) -> Fallible {
    need("mbsync")?;
    let mut imap = append_some(client, 5)?;
    imap.must("CREATE Lists")?;
    imap.append("Lists", "(\\Seen \\Flagged) ", small_message(9).as_bytes())?;
    let dir = TempDir::new("mbsync")?;
    let mail = dir.path().join("mail");
    fs::create_dir_all(&mail)?;
    let rc = dir.path().join("mbsyncrc");
    fs::write(
        &rc,
        format!(
            "IMAPAccount test\nHost 127.0.0.1\nPort {}\nUser {}\nPass {}\nSSLType None\nAuthMechs LOGIN\n\n\
             IMAPStore far\nAccount test\n\nMaildirStore near\nPath {mail}/\nInbox {mail}/INBOX\nSubFolders Verbatim\n\n\
             Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSync All\n\
             SyncState *\n",
            client.ports.imap.port(),
            client.user,
            client.password,
            mail = mail.display()
        ),
    )?;
    let sync = || run_ok(Command::new("mbsync").arg("-c").arg(&rc).args(["-a", "-V"]), b"", LIMIT);
    sync()?;
    let mut local = Vec::new();
    files(&mail, &mut local)?;
    ensure!(local.len() == 6, "after the first run there are {} files: {local:?}", local.len());

    // A change on either side: a new local message, a local flag, a remote deletion.
    fs::write(mail.join("INBOX/new/1700000000.1_1.here"), small_message(20).replace("\r\n", "\n"))?;
    let flagged = fs::read_dir(mail.join("INBOX/new"))?
        .chain(fs::read_dir(mail.join("INBOX/cur"))?)
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("Subject: message 2")))
        .ok_or("message 2 is not there")?;
    let name = flagged.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let base = name.split(":2,").next().unwrap_or_default();
    fs::rename(&flagged, mail.join("INBOX/cur").join(format!("{base}:2,FS")))?;
    imap.must("SELECT INBOX")?;
    imap.must("UID STORE 1 +FLAGS.SILENT (\\Deleted)")?;
    imap.must("EXPUNGE")?;
    imap.must("UNSELECT")?;
    sync()?;
    imap.must("SELECT INBOX")?;
    let found = imap.must("SEARCH SUBJECT \"message 2\" FLAGGED SEEN")?.lines();
    ensure!(
        found.iter().any(|l| l.starts_with("* SEARCH ") && l.split(' ').count() >= 3),
        "no flag: {found:?}"
    );
    let found = imap.must("SEARCH SUBJECT \"message 20\"")?.lines();
    ensure!(found.iter().any(|l| l.starts_with("* SEARCH ")), "no new message: {found:?}");
    imap.must("UNSELECT")?;

    let (before, mut files_before) = (picture(&mut imap)?, Vec::new());
    files(&mail, &mut files_before)?;
    ensure!(files_before.len() == 6, "files: {files_before:?}");
    sync()?;
    let (after, mut files_after) = (picture(&mut imap)?, Vec::new());
    files(&mail, &mut files_after)?;
    ensure!(before == after, "the idle run changed the server:\n{before}\n--\n{after}");
    ensure!(files_before == files_after, "the idle run changed files: {files_before:?} {files_after:?}");
    Ok(())
}

pub fn neomutt(client: &Client) -> Fallible {
    need("neomutt")?;
    need("script")?;
    let mut imap = append_some(client, 3)?;
    imap.must("CREATE Copied")?;
    let dir = TempDir::new("neomutt")?;
    let rc = dir.path().join("muttrc");
    let at = client.ports.imap;
    fs::write(
        &rc,
        format!(
            "set imap_user=\"{}\"\nset imap_pass=\"{}\"\nset folder=\"imap://{at}/\"\nset spoolfile=\"imap://{at}/INBOX\"\n\
             set ssl_starttls=no\nset ssl_force_tls=no\nset confirmappend=no\nset confirmcreate=no\nset delete=yes\n\
             set quit=yes\nset move=no\nset wait_key=no\nset mail_check_stats=no\nset copy=no\n",
            client.user, client.password
        ),
    )?;
    let keys = "<tag-pattern>~A<enter><tag-prefix><copy-message>=Copied<enter>\
                <delete-pattern>~s 'message 2'<enter><sync-mailbox><quit>";
    run_ok(
        Command::new("script").env("TERM", "xterm").env("HOME", dir.path()).args([
            "-qec",
            &format!("neomutt -n -F {} -e \"push \\\"{keys}\\\"\"", rc.display()),
            "/dev/null",
        ]),
        b"",
        LIMIT,
    )?;
    let status = imap.must("STATUS Copied (MESSAGES)")?.lines();
    ensure!(status.iter().any(|l| l.contains("MESSAGES 3")), "copied: {status:?}");
    imap.must("SELECT INBOX")?;
    let left = imap.must("UID SEARCH ALL")?.lines();
    ensure!(left.iter().any(|l| l == "* SEARCH 1 3"), "left in INBOX: {left:?}");
    Ok(())
}
