//! fetchmail and getmail taking mail, Postfix and swaks bringing it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::Client;
use crate::ensure;
use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::process::{need, run, run_ok};
use crate::support::server::free_port_base;
use crate::support::temp::TempDir;
use crate::support::{Fallible, eventually, skip};
use crate::transcript::play::small_message;

const LIMIT: Duration = Duration::from_secs(60);

fn deliver_some(client: &Client, count: usize) -> Fallible {
    let mut lmtp = Lmtp::open(client.ports.lmtp)?;
    for n in 1..=count {
        let replies = lmtp.deliver("s@example.net", &[&client.user], small_message(n).as_bytes())?;
        ensure!(replies[0].starts_with("250"), "{}", replies[0]);
    }
    Ok(())
}

fn count(client: &Client) -> Fallible<usize> {
    let mut imap = Imap::login(client.ports.imap, &client.user, &client.password)?;
    imap.must("EXAMINE INBOX")?;
    let lines = imap.must("UID SEARCH ALL")?.lines();
    let found = lines.iter().find_map(|line| line.strip_prefix("* SEARCH")).unwrap_or_default();
    Ok(found.split_whitespace().count())
}

pub fn fetchmail(client: &Client) -> Fallible {
    need("fetchmail")?;
    deliver_some(client, 3)?;
    let dir = TempDir::new("fetchmail")?;
    let (rc, taken) = (dir.path().join("fetchmailrc"), dir.path().join("taken"));
    let rc_text = |protocol: &str, port: u16| {
        format!(
            "set no bouncemail\npoll 127.0.0.1 protocol {protocol} port {port} user \"{}\" password \"{}\" \
             sslproto \"\" fetchall mda \"cat >> {}\"\n",
            client.user,
            client.password,
            taken.display()
        )
    };
    let fetch = |protocol: &str, port: u16| -> Fallible<Option<i32>> {
        fs::write(&rc, rc_text(protocol, port))?;
        fs::set_permissions(&rc, fs::Permissions::from_mode(0o600))?;
        let mut command = Command::new("fetchmail");
        command.env("FETCHMAILHOME", dir.path()).env("HOME", dir.path());
        command.args(["--nosyslog", "--nodetach", "-v", "-f"]).arg(&rc);
        Ok(run(&mut command, b"", LIMIT)?.code)
    };
    let code = fetch("POP3", client.ports.pop3.port())?;
    ensure!(code == Some(0), "POP3: exit code {code:?}");
    let text = fs::read_to_string(&taken)?;
    for n in 1..=3 {
        ensure!(
            text.matches(&format!("\nbody {n}\n")).count() == 1,
            "message {n} was not taken once:\n{text}"
        );
    }
    ensure!(count(client)? == 0, "messages are left");
    deliver_some(client, 2)?;
    let code = fetch("IMAP", client.ports.imap.port())?;
    ensure!(code == Some(0), "IMAP: exit code {code:?}");
    ensure!(count(client)? == 0, "messages are left after IMAP");
    // Exit code 1: no mail.
    let code = fetch("POP3", client.ports.pop3.port())?;
    ensure!(code == Some(1), "without mail: exit code {code:?}");
    Ok(())
}

pub fn getmail(client: &Client) -> Fallible {
    need("getmail")?;
    deliver_some(client, 3)?;
    let dir = TempDir::new("getmail")?;
    let maildir = dir.path().join("Maildir");
    for sub in ["cur", "new", "tmp"] {
        fs::create_dir_all(maildir.join(sub))?;
    }
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    // getmail refuses to write a Maildir as root.
    let owner = if root { "user = nobody\n" } else { "" };
    if root {
        run_ok(Command::new("chown").args(["-R", "nobody"]).arg(dir.path()), b"", LIMIT)?;
    }
    let rc = dir.path().join("getmailrc");
    fs::write(
        &rc,
        format!(
            "[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {}\nusername = {}\npassword = {}\n\n\
             [destination]\ntype = Maildir\npath = {}/\n{owner}\n[options]\nread_all = false\ndelete = false\n",
            client.ports.pop3.port(),
            client.user,
            client.password,
            maildir.display()
        ),
    )?;
    let get = || {
        let mut command = Command::new("getmail");
        command.env("HOME", dir.path()).arg("--getmaildir").arg(dir.path()).arg("--rcfile").arg(&rc);
        run_ok(&mut command, b"", LIMIT)
    };
    let taken = || -> Fallible<usize> { Ok(fs::read_dir(maildir.join("new"))?.count()) };
    get()?;
    ensure!(taken()? == 3, "took {} of 3", taken()?);
    deliver_some(client, 1)?;
    // Only the new one, since UIDL names the others as before.
    get()?;
    ensure!(taken()? == 4, "took {} in all, expected 4", taken()?);
    ensure!(count(client)? == 4, "getmail must not delete");
    Ok(())
}

pub fn swaks(client: &Client) -> Fallible {
    need("swaks")?;
    let at = client.ports.lmtp;
    run_ok(
        Command::new("swaks")
            .args(["--server", &at.to_string(), "--protocol", "LMTP", "--helo", "localhost", "--silent", "2"])
            .args([
                "--from",
                "a@example.net",
                "--to",
                &client.user,
                "--header",
                "Subject: swaks",
                "--body",
                "hello",
            ]),
        b"",
        LIMIT,
    )?;
    ensure!(count(client)? == 1, "not delivered");
    Ok(())
}

/// Postfix with a queue and a configuration of its own, which takes mail from sendmail(1) and hands it to LMTP.
pub fn postfix(client: &Client) -> Fallible {
    need("postfix")?;
    need("sendmail")?;
    if !fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        return skip("Postfix needs root");
    }
    let dir = TempDir::new("postfix")?;
    let port = free_port_base()? + 25;
    let config = dir.path().join("etc");
    for sub in ["etc", "queue", "data"] {
        fs::create_dir_all(dir.path().join(sub))?;
    }
    // Below a directory that only its owner may enter, Postfix's own users could not reach their queue.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(
        config.join("main.cf"),
        format!(
            "compatibility_level = 3.6\nqueue_directory = {dir}/queue\ndata_directory = {dir}/data\n\
             maillog_file = {dir}/maillog\nmaillog_file_prefixes = {dir}\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nmyhostname = mx.example.test\nmydestination =\nvirtual_mailbox_domains = example.test\n\
             virtual_transport = lmtp:inet:{lmtp}\nlocal_recipient_maps =\nsmtpd_recipient_restrictions = permit_mynetworks, reject\n\
             mynetworks = 127.0.0.0/8\nlmtp_tls_security_level = none\nalias_maps =\nalias_database =\n\
             queue_minfree = 0\nmaximal_queue_lifetime = 0\nlmtp_connect_timeout = 5\n",
            dir = dir.path().display(),
            lmtp = client.ports.lmtp
        ),
    )?;
    let master: String = MASTER.replace("@PORT@", &format!("127.0.0.1:{port}"));
    fs::write(config.join("master.cf"), master)?;
    let owned = dir.path().join("data");
    run_ok(Command::new("chown").arg("postfix").arg(&owned), b"", LIMIT)?;
    let at = config.display().to_string();
    let result = with_postfix(&at, || {
        for n in 1..=2 {
            run_ok(
                Command::new("swaks")
                    .args([
                        "--server",
                        &format!("127.0.0.1:{port}"),
                        "--from",
                        "a@example.net",
                        "--to",
                        &client.user,
                    ])
                    .args(["--header", &format!("Subject: through postfix {n}"), "--silent", "2"])
                    .args(["--helo", "localhost"]),
                b"",
                LIMIT,
            )?;
        }
        eventually("Postfix has delivered both", LIMIT, || Ok(count(client)? == 2))
    });
    result.map_err(|e| {
        let log = fs::read_to_string(dir.path().join("maillog")).unwrap_or_default();
        format!("{e}\nmaillog:\n{log}").into()
    })
}

fn with_postfix(config: &str, body: impl FnOnce() -> Fallible) -> Fallible {
    need("swaks")?;
    let postfix = |verb: &str| run_ok(Command::new("postfix").args(["-c", config, verb]), b"", LIMIT);
    postfix("start")?;
    let result = body();
    let stopped = postfix("stop");
    result?;
    stopped.map(drop)
}

/// The services that receiving by SMTP and delivering by LMTP need.
const MASTER: &str = "\
@PORT@ inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";
