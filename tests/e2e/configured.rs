//! What only a configuration of its own shows: `culver serve --config`, each test with its own server.

use std::fs;
use std::time::{Duration, Instant};

use crate::clients::{Client, tls};
use crate::support::connection::{Connection, Read1};
use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::pop3::Pop3;
use crate::support::process::signal;
use crate::support::server::{Culver, Options, own_process, password, user};
use crate::support::{Fallible, eventually};
use crate::{Test, ensure};

/// How long a reload may take to reach every shard.
const RELOAD: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "configured_no_password_without_tls", run: |_| no_password_without_tls() },
        Test { name: "configured_pop3_lock_yields_after_silence", run: |_| pop3_lock() },
        Test { name: "configured_users_that_cannot_be_read_are_no_verdict", run: |_| users_unavailable() },
        Test { name: "configured_connections_are_limited_by_user_and_address", run: |_| connection_limits() },
        Test { name: "configured_bare_newlines_are_refused", run: |_| bare_newlines() },
        Test { name: "configured_proxy_header_says_who_the_client_is", run: |_| proxy_header() },
        Test { name: "configured_idle_keepalive_comes_in_time", run: |_| idle_keepalive() },
        Test { name: "configured_pop3_says_how_long_and_how_often", run: |_| expire_and_login_delay() },
        Test { name: "configured_capabilities_are_hidden", run: |_| hidden_capabilities() },
        Test { name: "configured_a_long_search_says_that_it_goes_on", run: |_| search_in_progress() },
    ]
}

fn configured(name: &str, lines: &[&str]) -> Fallible<Culver> {
    own_process()?;
    Culver::configured(name, Options { accounts: 4, ..Options::default() }, lines)
}

/// One line of the client, one of the server.
fn ask(connection: &mut Connection, line: &str) -> Fallible<String> {
    connection.send_line(line)?;
    connection.read_line()
}

/// A connection that has read the greeting.
fn greeted(address: std::net::SocketAddr) -> Fallible<(Connection, String)> {
    let mut connection = Connection::open(address)?;
    let greeting = connection.read_line()?;
    Ok((connection, greeting))
}

/// The lines of CAPA.
fn capa(connection: &mut Connection) -> Fallible<Vec<String>> {
    let mut lines = vec![ask(connection, "CAPA")?];
    while lines.last().is_some_and(|line| line != ".") {
        lines.push(connection.read_line()?);
    }
    Ok(lines)
}

/// RFC 3501 §6.2.3 and §11.1, RFC 5530 (PRIVACYREQUIRED). Loopback stands for any network that is not secure.
fn no_password_without_tls() -> Fallible {
    let mut culver = configured("privacy", &["users.secure_networks = [\"192.0.2.0/24\"]"])?;
    let (mut imap, greeting) = greeted(culver.ports.imap)?;
    let listed = ask(&mut imap, "a CAPABILITY")?;
    ensure!(imap.read_line()?.starts_with("a OK"), "CAPABILITY");
    for said in [&greeting, &listed] {
        ensure!(said.contains("LOGINDISABLED") && said.contains("STARTTLS"), "{said}");
        ensure!(!said.contains("AUTH=") && !said.contains("SASL-IR"), "{said}");
    }
    // "\0u000@example.test\0pw-u000"
    let plain = "AHUwMDBAZXhhbXBsZS50ZXN0AHB3LXUwMDA=";
    let login = format!("LOGIN {} ", user(0));
    // Right or wrong, known or not: the answer is the same, and no continuation asks for a secret.
    for command in [
        login.clone() + &password(0),
        login + "wrong",
        "LOGIN nobody@example.test x".to_owned(),
        format!("AUTHENTICATE PLAIN {plain}"),
        "AUTHENTICATE PLAIN".to_owned(),
        "AUTHENTICATE LOGIN".to_owned(),
    ] {
        let answer = ask(&mut imap, &format!("b {command}"))?;
        ensure!(answer.starts_with("b NO [PRIVACYREQUIRED] "), "{command}: {answer}");
    }
    let answer = ask(&mut imap, "c SELECT INBOX")?;
    ensure!(answer.starts_with("c BAD"), "logged in all the same: {answer}");

    let (mut pop3, _) = greeted(culver.ports.pop3)?;
    let offered = capa(&mut pop3)?;
    ensure!(offered.iter().any(|line| line == "STLS"), "{offered:?}");
    ensure!(!offered.iter().any(|line| line == "USER" || line.starts_with("SASL")), "{offered:?}");
    for command in [format!("USER {}", user(0)), format!("AUTH PLAIN {plain}"), "AUTH PLAIN".to_owned()] {
        let answer = ask(&mut pop3, &command)?;
        ensure!(answer.starts_with("-ERR [AUTH] "), "{command}: {answer}");
    }
    ensure!(ask(&mut pop3, "STAT")?.starts_with("-ERR"), "logged in all the same");

    // Over TLS all of it works.
    tls::handshakes(&Client { server: "culver", ports: culver.ports, user: user(1), password: password(1) })?;

    culver.configure(&["users.secure_networks = [\"192.0.2.0/24\"]", "users.plaintext_login = true"])?;
    let (mut imap, greeting) = greeted(culver.ports.imap)?;
    ensure!(!greeting.contains("LOGINDISABLED") && greeting.contains("AUTH=PLAIN"), "{greeting}");
    let answer = ask(&mut imap, &format!("a AUTHENTICATE PLAIN {plain}"))?;
    ensure!(answer.starts_with("a OK"), "{answer}");
    Pop3::login(culver.ports.pop3, &user(0), &password(0))?;
    culver.terminate()
}

/// The answer to PASS.
fn pop3_login(culver: &Culver, account: usize) -> Fallible<(Connection, String)> {
    let (mut pop3, _) = greeted(culver.ports.pop3)?;
    ask(&mut pop3, &format!("USER {}", user(account)))?;
    let answer = ask(&mut pop3, &format!("PASS {}", password(account)))?;
    Ok((pop3, answer))
}

/// RFC 1939 §4 and RFC 2449 §8.1.1.
fn pop3_lock() -> Fallible {
    const SILENCE: Duration = Duration::from_secs(1);
    let mut culver = configured("lock", &["pop3.lock = true", "pop3.lock_silence = \"1s\""])?;
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    lmtp.deliver("s@example.net", &[&user(0)], b"Subject: one\r\n\r\nx\r\n")?;
    let in_use = |culver: &Culver| -> Fallible<bool> {
        let (_, answer) = pop3_login(culver, 0)?;
        ensure!(answer.starts_with("+OK") || answer.starts_with("-ERR [IN-USE] "), "{answer}");
        Ok(answer.starts_with("-ERR"))
    };

    let mut first = Pop3::login(culver.ports.pop3, &user(0), &password(0))?;
    ensure!(in_use(&culver)?, "two sessions hold one maildrop");
    // The refused connection may try again; another user's maildrop is another; IMAP is not held up.
    let (mut second, _) = pop3_login(&culver, 0)?;
    Pop3::login(culver.ports.pop3, &user(1), &password(1))?;
    Imap::login(culver.ports.imap, &user(0), &password(0))?.must("SELECT INBOX")?;
    // Who is heard of keeps it, for longer than silence would be borne.
    let began = Instant::now();
    while began.elapsed() < SILENCE + SILENCE / 2 {
        first.must("NOOP")?;
        ensure!(in_use(&culver)?, "a session that speaks lost its maildrop after {:?}", began.elapsed());
    }
    first.must("QUIT")?;
    ask(&mut second, &format!("USER {}", user(0)))?;
    let answer = ask(&mut second, &format!("PASS {}", password(0)))?;
    ensure!(answer.starts_with("+OK"), "after QUIT: {answer}");
    // A connection that is lost holds nothing.
    second.shutdown();
    drop(second);
    eventually("a lost connection frees the maildrop", SILENCE / 2, || Ok(!in_use(&culver)?))?;

    // A silent holder yields, hears why, and has deleted nothing.
    let mut silent = loop {
        // The session of the last look may still be on its way out.
        let (mut pop3, answer) = pop3_login(&culver, 0)?;
        if answer.starts_with("+OK") {
            ensure!(ask(&mut pop3, "DELE 1")?.starts_with("+OK"), "DELE");
            break pop3;
        }
    };
    let since = Instant::now();
    let mut next = None;
    eventually("a silent holder yields", SILENCE * 8, || {
        let (pop3, answer) = pop3_login(&culver, 0)?;
        next = answer.starts_with("+OK").then_some(pop3);
        Ok(next.is_some())
    })?;
    ensure!(since.elapsed() + Duration::from_millis(50) > SILENCE, "it yielded after {:?}", since.elapsed());
    let last = silent.read_line()?;
    ensure!(last.starts_with("-ERR [IN-USE] "), "the silent holder heard {last}");
    ensure!(
        matches!(silent.read_within(false, silent.limit)?, Read1::End),
        "the silent holder is still there"
    );
    let mut next = next.ok_or("nobody logged in")?;
    let stat = ask(&mut next, "STAT")?;
    ensure!(stat.starts_with("+OK 1 "), "after a holder that yielded: {stat}");
    culver.terminate()
}

fn reload(culver: &Culver) -> Fallible {
    signal(culver.pid().ok_or("no process")?, "HUP")
}

/// The answer to RCPT of an address that never was.
fn rcpt_of_nobody(culver: &Culver) -> Fallible<String> {
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    lmtp.command("MAIL FROM:<s@example.net>", "250")?;
    ask(&mut lmtp.connection, "RCPT TO:<nobody@example.test>")
}

/// The tagged answer to LOGIN.
fn imap_login(culver: &Culver, user: &str, password: &str) -> Fallible<String> {
    Ok(Imap::open(culver.ports.imap)?.command(&format!("LOGIN {user} {password}"))?.result)
}

/// A passwd-file that cannot be read is nobody's wrong password and nobody's bounce.
fn users_unavailable() -> Fallible {
    let mut culver = configured("users", &["log.level = \"info\""])?;
    let file = culver.passwd_file();
    let whole = fs::read_to_string(&file)?;
    let mut old = Imap::login(culver.ports.imap, &user(2), &password(2))?;
    ensure!(rcpt_of_nobody(&culver)?.starts_with("550 5.1.1"), "nobody is unknown while all is well");
    let failed = "NO [AUTHENTICATIONFAILED]";
    ensure!(imap_login(&culver, &user(0), "wrong")?.starts_with(failed), "a wrong password");

    let unreadable: [(&str, &dyn Fn() -> std::io::Result<()>); 2] = [
        ("a mistake in it", &|| fs::write(&file, format!("{whole}this is no user\n"))),
        ("no file at all", &|| fs::remove_file(&file)),
    ];
    for (what, damage) in unreadable {
        damage()?;
        reload(&culver)?;
        eventually(&format!("{what}: 451"), RELOAD, || {
            let answer = rcpt_of_nobody(&culver)?;
            ensure!(answer.starts_with("550 5.1.1") || answer.starts_with("451 4.3.0"), "{what}: {answer}");
            Ok(answer.starts_with("451"))
        })?;
        eventually("the log names the file", RELOAD, || {
            Ok(culver.log().lines().any(|line| line.contains("users stay") && line.contains("passwd")))
        })?;
        // Another shard may hear of it a moment later than the one that was asked.
        eventually("every shard knows", RELOAD, || {
            let answers =
                [imap_login(&culver, &user(0), "wrong")?, imap_login(&culver, "nobody@example.test", "x")?];
            Ok(answers.iter().all(|answer| answer.starts_with("NO [UNAVAILABLE]")))
        })?;
        // Nobody learns from the answer whether there is such a user.
        let wrong = imap_login(&culver, &user(0), "wrong")?;
        ensure!(wrong == imap_login(&culver, "nobody@example.test", "x")?, "{what}: {wrong}");
        let (mut pop3, _) = greeted(culver.ports.pop3)?;
        ask(&mut pop3, "USER nobody@example.test")?;
        let answer = ask(&mut pop3, "PASS x")?;
        ensure!(answer.starts_with("-ERR [SYS/TEMP] "), "{what}: {answer}");
        // Whom the server knows it serves.
        let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
        let replies = lmtp.deliver("s@example.net", &[&user(0)], b"Subject: x\r\n\r\nx\r\n")?;
        ensure!(replies[0].starts_with("250"), "{what}: {}", replies[0]);
        ensure!(imap_login(&culver, &user(0), &password(0))?.starts_with("OK"), "{what}: the right password");
        Pop3::login(culver.ports.pop3, &user(0), &password(0))?;
        old.must("SELECT INBOX")?;
    }

    // Mended, with one account that may not log in and a new one.
    let begins = format!("{}:", user(1));
    let mended: String = whole
        .lines()
        .map(|line| if line.starts_with(&begins) { format!("{line}nologin\n") } else { format!("{line}\n") })
        .chain(["new@example.test:{PLAIN}fresh\n".to_owned()])
        .collect();
    fs::write(&file, mended)?;
    reload(&culver)?;
    eventually("nobody is unknown again", RELOAD, || Ok(rcpt_of_nobody(&culver)?.starts_with("550 5.1.1")))?;
    eventually("the new user is known", RELOAD, || {
        Ok(imap_login(&culver, "new@example.test", "fresh")?.starts_with("OK"))
    })?;
    eventually("every shard knows", RELOAD, || {
        Ok(imap_login(&culver, &user(0), "wrong")?.starts_with(failed))
    })?;
    let answer = imap_login(&culver, &user(1), &password(1))?;
    ensure!(answer.starts_with("NO [CONTACTADMIN] "), "an account that may not log in: {answer}");
    ensure!(imap_login(&culver, &user(1), "wrong")?.starts_with(failed), "its wrong password tells nothing");
    let (_, answer) = pop3_login(&culver, 1)?;
    ensure!(answer.starts_with("-ERR [AUTH] "), "an account that may not log in: {answer}");
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    let replies = lmtp.deliver("s@example.net", &[&user(1)], b"Subject: x\r\n\r\nx\r\n")?;
    ensure!(replies[0].starts_with("250"), "mail for it: {}", replies[0]);
    culver.terminate()
}

/// RFC 2177 §3 leaves it to the server; without it a NAT forgets the connection.
fn idle_keepalive() -> Fallible {
    const EVERY: Duration = Duration::from_secs(1);
    let mut culver = configured("idle", &["imap.idle_keepalive = \"1s\""])?;
    let mut imap = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    imap.must("SELECT INBOX")?;
    let tag = imap.send("IDLE")?;
    ensure!(imap.connection.read_line()?.starts_with('+'), "IDLE was not accepted");
    let began = Instant::now();
    let line = imap.connection.read_line()?;
    let after = began.elapsed();
    ensure!(line == "* OK Still here", "the keep-alive: {line}");
    ensure!(after > EVERY * 9 / 10 && after < EVERY * 5, "the keep-alive came after {after:?}");
    // It comes again; news stand for it, and the time runs anew.
    let quiet = imap.connection.read_within(false, EVERY / 2)?;
    ensure!(matches!(quiet, Read1::Nothing), "something came between");
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    lmtp.deliver("s@example.net", &[&user(0)], b"Subject: x\r\n\r\nx\r\n")?;
    ensure!(imap.connection.read_line()?.ends_with(" EXISTS"), "the news");
    ensure!(imap.connection.read_line()?.ends_with(" RECENT"), "the news");
    let told = Instant::now();
    ensure!(imap.connection.read_line()? == "* OK Still here", "after the news");
    ensure!(told.elapsed() > EVERY * 9 / 10, "after the news it came too soon: {:?}", told.elapsed());
    imap.connection.send_line("DONE")?;
    let answer = imap.answer(&tag)?;
    ensure!(answer.ok() && answer.untagged.is_empty(), "{answer:?}");
    culver.terminate()
}

/// RFC 2449 §6.5, §6.7: what CAPA says is kept.
fn expire_and_login_delay() -> Fallible {
    let mut culver = configured("delay", &["pop3.expire = \"30d\"", "pop3.login_delay = \"1h\""])?;
    let (mut pop3, _) = greeted(culver.ports.pop3)?;
    let lines = capa(&mut pop3)?;
    for line in ["EXPIRE 30", "LOGIN-DELAY 3600"] {
        ensure!(lines.iter().any(|said| said == line), "{lines:?}");
    }
    for (account, begins) in [(0, "+OK"), (0, "-ERR [LOGIN-DELAY]"), (1, "+OK"), (0, "-ERR [LOGIN-DELAY]")] {
        let (_, answer) = pop3_login(&culver, account)?;
        ensure!(answer.starts_with(begins), "{account}: {answer}");
    }
    Imap::login(culver.ports.imap, &user(0), &password(0))?;
    culver.terminate()
}

/// By listener, and by what a client calls itself.
fn hidden_capabilities() -> Fallible {
    let lines = ["[[imap.client]]\nname = \"Outlook\"\nhide_capabilities = [\"NOTIFY\"]"];
    let mut culver = configured("hidden", &lines)?;
    let mut imap = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    let listed = |imap: &mut Imap| -> Fallible<String> { Ok(imap.must("CAPABILITY")?.lines().join(" ")) };
    ensure!(listed(&mut imap)?.contains(" NOTIFY "), "before its ID");
    imap.must("ID (\"version\" \"1\" \"name\" \"outlook for test\")")?;
    let after = listed(&mut imap)?;
    ensure!(!after.contains(" NOTIFY ") && after.contains(" CONDSTORE "), "after its ID: {after}");
    let mut other = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    other.must("ID (\"name\" \"Thunderbird\")")?;
    ensure!(listed(&mut other)?.contains(" NOTIFY "), "another client");

    // Of one user, from the next reading of the passwd-file on.
    let text = fs::read_to_string(culver.passwd_file())?;
    let field = "userdb_imap_hide_capabilities=IDLE,NOTIFY";
    let one = |line: &str| format!("{line}{}\n", if line.starts_with(&user(1)) { field } else { "" });
    fs::write(culver.passwd_file(), text.lines().map(one).collect::<String>())?;
    reload(&culver)?;
    eventually("capabilities are hidden from a user", RELOAD, || {
        let mut imap = Imap::login(culver.ports.imap, &user(1), &password(1))?;
        let listed = listed(&mut imap)?;
        Ok(!listed.contains(" NOTIFY ") && !listed.contains(" IDLE ") && listed.contains(" CONDSTORE "))
    })?;
    let mut other = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    ensure!(listed(&mut other)?.contains(" NOTIFY "), "another user");
    culver.terminate()
}

/// RFC 9585: a search that takes its time.
fn search_in_progress() -> Fallible {
    let mut culver = configured("progress", &["imap.progress_after = \"10ms\""])?;
    let mut imap = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    let message = format!("Subject: x\r\n\r\n{}", "nothing of it is what is looked for\r\n".repeat(5000));
    for _ in 0..60 {
        imap.append("INBOX", "", message.as_bytes())?;
    }
    imap.must("SELECT INBOX")?;
    let tag = imap.send("SEARCH BODY needle")?;
    let answer = imap.answer(&tag)?;
    let progress = format!("* OK [INPROGRESS (\"{tag}\" NIL NIL)] Still searching");
    ensure!(answer.ok() && answer.lines().contains(&progress), "{answer:?}");
    ensure!(answer.lines().last().is_some_and(|line| line == "* SEARCH"), "{answer:?}");
    culver.terminate()
}

/// At a limit the client hears so; who is in stays in, and a place that comes free is free on every shard.
fn connection_limits() -> Fallible {
    let mut culver = configured(
        "limits",
        &["limits.connections_per_user_max = 2", "limits.connections_per_address_max = 5"],
    )?;
    let login =
        |culver: &Culver, account: usize| Imap::login(culver.ports.imap, &user(account), &password(account));
    let mut held = vec![login(&culver, 0)?, login(&culver, 0)?];
    let answer = imap_login(&culver, &user(0), &password(0))?;
    ensure!(answer.starts_with("NO [LIMIT] "), "a third session of a user: {answer}");
    let (_, answer) = pop3_login(&culver, 0)?;
    ensure!(answer.starts_with("-ERR [SYS/TEMP] "), "a third session of a user: {answer}");
    // The name in other words is the same user.
    let answer = imap_login(&culver, &user(0).to_uppercase(), &password(0))?;
    ensure!(answer.starts_with("NO [LIMIT] "), "a third session of a user: {answer}");
    held.push(login(&culver, 1)?);
    held.remove(0).must("LOGOUT")?;
    eventually("a place of the user is free", RELOAD, || {
        let answer = imap_login(&culver, &user(0), &password(0))?;
        Ok(answer.starts_with("OK"))
    })?;

    // Two are held, one a user; three more fit the address. Those that were looked with may be on their way out.
    let mut others: Vec<Connection> = Vec::new();
    eventually("the address has its five", RELOAD, || {
        let (connection, greeting) = greeted(culver.ports.lmtp)?;
        if greeting.starts_with("220 ") {
            others.push(connection);
        }
        Ok(others.len() == 3)
    })?;
    for (port, words) in [
        (culver.ports.imap, "* BYE [UNAVAILABLE] "),
        (culver.ports.pop3, "-ERR [SYS/TEMP] "),
        (culver.ports.lmtp, "421 4.3.2 "),
    ] {
        let (mut connection, said) = greeted(port)?;
        ensure!(said.starts_with(words), "a sixth connection of an address: {said}");
        ensure!(matches!(connection.read_within(false, connection.limit)?, Read1::End), "it is not closed");
    }
    for imap in &mut held {
        imap.must("NOOP")?;
    }
    drop(others);
    eventually("places of the address are free", RELOAD, || {
        Ok(greeted(culver.ports.imap)?.1.starts_with("* OK"))
    })?;
    culver.terminate()
}

/// `listener.proxy_networks`: a header from there comes first, of both versions and before TLS too, and what it says of the client counts.
fn proxy_header() -> Fallible {
    let networks = "listener.proxy_networks = [\"127.0.0.0/8\"]";
    let secure = "users.secure_networks = [\"192.0.2.0/24\"]";
    let mut culver = configured("proxy", &[networks, secure, "limits.connections_per_address_max = 2"])?;
    let from = |client: &str| format!("PROXY TCP4 {client} 192.0.2.1 40000 143");
    let opened = |address, header: &str| -> Fallible<(Connection, String)> {
        let mut connection = Connection::open(address)?;
        connection.send_line(header)?;
        let greeting = connection.read_line()?;
        Ok((connection, greeting))
    };
    // A client in a secure network may send its password, another one may not.
    let (mut imap, greeting) = opened(culver.ports.imap, &from("192.0.2.7"))?;
    ensure!(greeting.contains("AUTH=PLAIN") && !greeting.contains("LOGINDISABLED"), "{greeting}");
    let answer = ask(&mut imap, &format!("a LOGIN {} {}", user(0), password(0)))?;
    ensure!(answer.starts_with("a OK"), "{answer}");
    let (mut other, greeting) = opened(culver.ports.imap, &from("198.51.100.7"))?;
    ensure!(greeting.contains("LOGINDISABLED"), "{greeting}");
    ensure!(ask(&mut other, "a NOOP")?.starts_with("a OK"), "a session without login");
    // Version 2, with the client's first command in the same octets; the balancer had it over TLS.
    let mut header =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\xc6\x33\x64\x08\xc0\0\x02\x01\x9c\x40\0\x8f".to_vec();
    header.extend(b"\x20\0\x05\x01\0\0\0\0");
    header.extend(format!("a LOGIN {} {}\r\n", user(1), password(1)).bytes());
    let mut second = Connection::open(culver.ports.imap)?;
    second.send(&header)?;
    ensure!(second.read_line()?.contains("AUTH=PLAIN"), "a client that came over TLS");
    ensure!(second.read_line()?.starts_with("a OK"), "its LOGIN");
    // LMTP: the client's address stands in Received.
    let (mut lmtp, greeting) = opened(culver.ports.lmtp, &from("203.0.113.9"))?;
    ensure!(greeting.starts_with("220"), "{greeting}");
    lmtp.send(
        format!("LHLO x\r\nMAIL FROM:<s@example.net>\r\nRCPT TO:<{}>\r\nDATA\r\n", user(0)).as_bytes(),
    )?;
    while !lmtp.read_line()?.starts_with("354") {}
    lmtp.send(b"Subject: x\r\n\r\nx\r\n.\r\n")?;
    ensure!(lmtp.read_line()?.starts_with("250 2.0.0"), "delivered");
    ensure!(ask(&mut imap, "b SELECT INBOX")?.starts_with("*"), "SELECT");
    while !imap.read_line()?.starts_with("b OK") {}
    imap.send_line("c FETCH 1 BODY.PEEK[HEADER.FIELDS (RECEIVED)]")?;
    let mut fetched = String::new();
    while !fetched.contains("\nc OK") {
        fetched += &imap.read_line()?;
        fetched.push('\n');
    }
    ensure!(fetched.contains("([203.0.113.9])"), "{fetched}");
    // Connections are counted by the client's address.
    let _first = opened(culver.ports.imap, &from("203.0.113.50"))?;
    let _second = opened(culver.ports.pop3, &from("203.0.113.50"))?;
    let (_, said) = opened(culver.ports.imap, &from("203.0.113.50"))?;
    ensure!(said.starts_with("* BYE [UNAVAILABLE]"), "a third connection of a client: {said}");
    // Whoever says no such thing is not answered.
    let mut plain = Connection::open(culver.ports.imap)?;
    plain.send_line("a CAPABILITY")?;
    ensure!(
        matches!(plain.read_within(false, plain.limit)?, Read1::End),
        "a connection without header is answered"
    );
    culver.terminate()
}

/// `lmtp.bare_newlines = "refuse"`: a message with a line end that is none goes back whole, and the session goes on.
fn bare_newlines() -> Fallible {
    let mut culver = configured("newlines", &["lmtp.bare_newlines = \"refuse\""])?;
    let mut lmtp = Lmtp::open(culver.ports.lmtp)?;
    for octets in ["a\nb\r\n", "a\rb\r\n", "a\n.\r\nb\r\n", "a\r\n.\nb\r\n", "a\r.\r\nb\r\n", "a\r\r\nb\r\n"]
    {
        lmtp.command("MAIL FROM:<s@example.net>", "250")?;
        lmtp.command(&format!("RCPT TO:<{}>", user(0)), "250")?;
        lmtp.command("DATA", "354")?;
        lmtp.connection.send(format!("Subject: x\r\n\r\n{octets}.\r\n").as_bytes())?;
        let reply = lmtp.reply()?;
        ensure!(reply.starts_with("550 5.6.0"), "{octets:?}: {reply}");
        // Nothing of it was taken for a command: the next answer is this one's.
        lmtp.command("NOOP", "250")?;
    }
    let replies = lmtp.deliver("s@example.net", &[&user(0)], b"Subject: x\r\n\r\nwell\r\n")?;
    ensure!(replies[0].starts_with("250"), "{}", replies[0]);
    let mut imap = Imap::login(culver.ports.imap, &user(0), &password(0))?;
    let status = imap.must("STATUS INBOX (MESSAGES)")?.lines().join(" ");
    ensure!(status.contains("MESSAGES 1)"), "{status}");
    culver.terminate()
}
