//! curl, and the IMAP and POP3 modules of Python's standard library.

use std::process::Command;
use std::time::Duration;

use super::Client;
use crate::ensure;
use crate::support::process::{need, run, run_ok};
use crate::support::temp::TempDir;
use crate::support::{Fallible, imap::Imap, lmtp::Lmtp};
use crate::transcript::play::small_message;

const LIMIT: Duration = Duration::from_secs(60);

pub fn curl(client: &Client) -> Fallible {
    need("curl")?;
    let dir = TempDir::new("curl")?;
    let message = dir.path().join("message.eml");
    std::fs::write(&message, small_message(7))?;
    let at = client.ports.imap;
    let curl = |path: &str, arguments: &[&str]| -> Fallible<String> {
        run_ok(
            Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "30"])
                .args(["--user", &format!("{}:{}", client.user, client.password)])
                .args(["--url", &format!("imap://{at}/{path}")])
                .args(arguments),
            b"",
            LIMIT,
        )
    };
    let file = message.display().to_string();
    curl("INBOX", &["-T", &file])?;
    curl("INBOX", &["-T", &file])?;
    let fetched = curl("INBOX;MAILINDEX=1", &[])?;
    ensure!(fetched == small_message(7), "MAILINDEX=1 gave:\n{fetched}");
    let found = curl("INBOX?SUBJECT%20%22message%207%22", &[])?;
    ensure!(found.contains("* SEARCH 1 2"), "SEARCH gave:\n{found}");
    let status = curl("", &["-X", "STATUS INBOX (MESSAGES)"])?;
    ensure!(status.contains("MESSAGES 2"), "STATUS gave:\n{status}");
    let listed = curl("", &[])?;
    ensure!(listed.contains("INBOX"), "LIST gave:\n{listed}");
    let pop3 = run_ok(
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30"])
            .args(["--user", &format!("{}:{}", client.user, client.password)])
            .args(["--url", &format!("pop3://{}/1", client.ports.pop3)]),
        b"",
        LIMIT,
    )?;
    ensure!(pop3.trim_end() == small_message(7).trim_end(), "RETR gave:\n{pop3}");
    Ok(())
}

fn python(script: &str, client: &Client) -> Fallible {
    need("python3")?;
    run_ok(
        Command::new("python3")
            .args(["-I", "-"])
            .args([client.user.as_str(), &client.password])
            .args([client.ports.imap.port().to_string(), client.ports.pop3.port().to_string()]),
        script.as_bytes(),
        LIMIT,
    )?;
    Ok(())
}

pub fn imaplib(client: &Client) -> Fallible {
    python(include_str!("imaplib_session.py"), client)
}

pub fn poplib(client: &Client) -> Fallible {
    let mut lmtp = Lmtp::open(client.ports.lmtp)?;
    for n in 1..=3 {
        let replies = lmtp.deliver("s@example.net", &[&client.user], small_message(n).as_bytes())?;
        ensure!(replies[0].starts_with("250"), "{}", replies[0]);
    }
    python(include_str!("poplib_session.py"), client)
}

pub fn no_password_in_logs(client: &Client) -> Fallible {
    // Every way a password reaches the server, right and wrong.
    let mut imap = Imap::open(client.ports.imap)?;
    let wrong = "wrong-Pa55-secret";
    let _ = imap.command(&format!("LOGIN {} {wrong}", client.user))?;
    let _ = imap.command(&format!("LOGIN {} {{{}+}}\r\n{wrong}", client.user, wrong.len()))?;
    // base64 of NUL user NUL wrong-Pa55-secret, the user being x.
    let blob = "AHgAd3JvbmctUGE1NS1zZWNyZXQ=";
    let _ = imap.command(&format!("AUTHENTICATE PLAIN {blob}"))?;
    imap.must(&format!("LOGIN {} {}", client.user, client.password))?;
    let pop3 = run(
        Command::new("curl")
            .args(["--silent", "--max-time", "20", "--user", &format!("{}:{wrong}", client.user)])
            .args(["--url", &format!("pop3://{}/", client.ports.pop3)]),
        b"",
        LIMIT,
    );
    drop(pop3);
    let log = super::log()?;
    for secret in [wrong, blob, &client.password] {
        ensure!(!log.contains(secret), "the log holds {secret}");
    }
    Ok(())
}
