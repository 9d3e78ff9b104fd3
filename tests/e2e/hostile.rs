//! Input that means harm: everything is bounded, the answer is clear, and the others do not notice.
//!
//! One server for all of them; between two attacks an ordinary session must work at once, and the server's
//! resident memory must stay within a named bound.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::connection::{Connection, Read1};
use crate::support::imap::Imap;
use crate::support::lmtp::Lmtp;
use crate::support::process::resident;
use crate::support::random::Random;
use crate::support::server::{Options, Ports, Target, password, user};
use crate::support::{Fallible, eventually, skip};
use crate::{Arguments, Test, ensure, fail};

/// What one attack may add to the server's resident memory, in octets.
const GROWTH_MAX: u64 = 160 << 20;
/// Resident octets that one idle connection may cost.
const CONNECTION_OCTETS_MAX: u64 = 64 << 10;
/// Connections held at once: in CI no more than this, and in a long run this many.
const CONNECTIONS: u64 = 4_000;
const CONNECTIONS_LONG: u64 = 18_000;
/// How long an ordinary session may take while others attack.
const OTHERS_UNAFFECTED: Duration = Duration::from_secs(5);

static TARGET: Mutex<Option<Target>> = Mutex::new(None);

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "hostile_literal_of_1_gib_is_refused", run: |_| attack(literals) },
        Test { name: "hostile_endless_line_is_cut", run: |_| attack(endless_lines) },
        Test { name: "hostile_10000_nested_mime_parts", run: |_| attack(nested_parts) },
        Test { name: "hostile_many_flat_mime_parts", run: |_| attack(flat_parts) },
        Test { name: "hostile_nul_and_8bit_everywhere", run: |_| attack(garbage) },
        Test { name: "hostile_half_open_tls", run: |_| attack(half_open_tls) },
        Test { name: "hostile_slow_drip_login", run: |_| attack(slow_drip) },
        Test { name: "hostile_pipelined_flood_without_reading", run: |_| attack(never_reading) },
        Test { name: "hostile_many_connections", run: many_connections },
        Test { name: "hostile_the_server_stops_cleanly_afterwards", run: stop },
    ]
}

/// Runs one attack, then checks that the server lives, serves, and has not grown.
fn attack(attack: fn(&Ports) -> Fallible) -> Fallible {
    let mut held = TARGET.lock().unwrap_or_else(|e| e.into_inner());
    if held.is_none() {
        *held = Some(Target::start("hostile", Options::default())?);
    }
    let target = held.as_mut().expect("just set");
    let ports = *target.ports();
    serves(&ports, 0)?;
    let pid = match target {
        Target::Culver(culver) => culver.pid(),
        _ => None,
    };
    let before = match pid {
        Some(pid) => resident(pid)?.0,
        None => 0,
    };
    attack(&ports)?;
    if let Target::Culver(culver) = target {
        ensure!(culver.alive(), "the server died:\n{}", culver.log_tail());
    }
    serves(&ports, 0)?;
    if let Some(pid) = pid {
        let peak = resident(pid)?.0;
        ensure!(
            peak < before + GROWTH_MAX,
            "resident memory grew from {} to {} MiB",
            before >> 20,
            peak >> 20
        );
    }
    Ok(())
}

/// An ordinary user's session: deliver, log in, select, append, fetch; within the time of those who are not attacked.
fn serves(ports: &Ports, account: usize) -> Fallible {
    let began = Instant::now();
    let name = user(account);
    let mut lmtp = Lmtp::open(ports.lmtp)?;
    let replies = lmtp.deliver("s@example.net", &[&name], b"Subject: well\r\n\r\nx\r\n")?;
    ensure!(replies[0].starts_with("250"), "delivery: {}", replies[0]);
    let mut imap = Imap::login(ports.imap, &name, &password(account))?;
    imap.must("SELECT INBOX")?;
    let answer = imap.append("INBOX", "", b"Subject: well\r\n\r\nx\r\n")?;
    ensure!(answer.ok(), "append: {}", answer.result);
    imap.must("FETCH * (UID BODY.PEEK[])")?;
    imap.must("UID STORE 1:* +FLAGS.SILENT (\\Deleted)")?;
    imap.must("EXPUNGE")?;
    imap.must("LOGOUT")?;
    let took = began.elapsed();
    ensure!(took < OTHERS_UNAFFECTED, "an ordinary session took {took:?}");
    Ok(())
}

/// The server must answer (with one of these beginnings) or close; it may not go on waiting.
fn refused(connection: &mut Connection, with: &[&str]) -> Fallible<String> {
    loop {
        match connection.read_within(false, connection.limit) {
            Ok(Read1::Unit(unit)) => {
                let text = unit.text();
                if with.iter().any(|beginning| text.starts_with(beginning)) {
                    return Ok(text);
                }
                ensure!(
                    !text.starts_with('+') || text.starts_with("+OK"),
                    "it asked for the literal: {text}"
                );
            }
            Ok(Read1::End) => return Ok("closed".into()),
            Ok(Read1::Nothing) => fail!("no answer and no end within {:?}", connection.limit),
            // A reset while we were sending.
            Err(_) => return Ok("reset".into()),
        }
    }
}

fn literals(ports: &Ports) -> Fallible {
    // Before login.
    let mut connection = Connection::open(ports.imap)?;
    connection.read_line()?;
    connection.send(b"a LOGIN {1073741824}\r\n")?;
    refused(&mut connection, &["a NO", "a BAD", "* BYE"])?;
    let mut connection = Connection::open(ports.imap)?;
    connection.read_line()?;
    connection.send(b"a LOGIN {1073741824+}\r\n")?;
    pour(&mut connection, b'x', 64 << 20);
    refused(&mut connection, &["a NO", "a BAD", "* BYE"])?;
    // After login: in a command, in APPEND.
    let mut imap = Imap::login(ports.imap, &user(1), &password(1))?;
    imap.connection.send(b"b SEARCH TEXT {1073741824}\r\n")?;
    refused(&mut imap.connection, &["b NO", "b BAD", "* BYE"])?;
    let mut imap = Imap::login(ports.imap, &user(1), &password(1))?;
    imap.connection.send(b"c APPEND INBOX {1073741824}\r\n")?;
    let said = refused(&mut imap.connection, &["c NO", "c BAD", "* BYE"])?;
    ensure!(said.contains("TOOBIG") || said == "closed", "APPEND of 1 GiB: {said}");
    for size in ["99999999999999999999999", "-1", "18446744073709551616", "4294967296"] {
        let mut imap = Imap::login(ports.imap, &user(1), &password(1))?;
        imap.connection.send_line(&format!("d APPEND INBOX {{{size}}}"))?;
        refused(&mut imap.connection, &["d NO", "d BAD", "* BYE"])?;
    }
    // LMTP: a chunk of 1 GiB.
    let mut lmtp = Lmtp::open(ports.lmtp)?;
    lmtp.command("MAIL FROM:<s@example.net>", "250")?;
    lmtp.command(&format!("RCPT TO:<{}>", user(1)), "250")?;
    lmtp.connection.send(b"BDAT 1073741824 LAST\r\n")?;
    pour(&mut lmtp.connection, b'x', 64 << 20);
    lmtp.connection.shutdown();
    Ok(())
}

/// Sends so many octets, or as many as the server takes before it closes.
fn pour(connection: &mut Connection, octet: u8, octets: usize) {
    let chunk = [octet; 65536];
    for _ in 0..octets / chunk.len() {
        if connection.send(&chunk).is_err() {
            return;
        }
    }
}

fn endless_lines(ports: &Ports) -> Fallible {
    for (port, refusals) in
        [(ports.imap, ["* BYE", "* BAD"]), (ports.pop3, ["-ERR", "-ERR"]), (ports.lmtp, ["5", "4"])]
    {
        let mut connection = Connection::open(port)?;
        connection.read_line()?;
        pour(&mut connection, b'A', 64 << 20);
        let _ = connection.send(b"\r\n");
        refused(&mut connection, &refusals)?;
    }
    // After login, and where a line is part of a message.
    let mut imap = Imap::login(ports.imap, &user(1), &password(1))?;
    imap.connection.send(b"a SEARCH ")?;
    pour(&mut imap.connection, b'(', 64 << 20);
    let _ = imap.connection.send(b"\r\n");
    refused(&mut imap.connection, &["* BYE", "* BAD", "a BAD", "a NO"])?;
    let mut lmtp = Lmtp::open(ports.lmtp)?;
    lmtp.command("MAIL FROM:<s@example.net>", "250")?;
    lmtp.command(&format!("RCPT TO:<{}>", user(1)), "250")?;
    lmtp.command("DATA", "354")?;
    pour(&mut lmtp.connection, b'A', 16 << 20);
    let _ = lmtp.connection.send(b"\r\n.\r\n");
    refused(&mut lmtp.connection, &["250", "5", "4"])?;
    Ok(())
}

fn append_and_read(ports: &Ports, message: &[u8]) -> Fallible {
    let mut imap = Imap::login(ports.imap, &user(2), &password(2))?;
    imap.must("SELECT INBOX")?;
    let began = Instant::now();
    let answer = imap.append("INBOX", "", message)?;
    if !answer.ok() {
        // A refusal is an answer too, if it is clear.
        ensure!(answer.result.starts_with("NO"), "append: {}", answer.result);
        return Ok(());
    }
    imap.must("FETCH * (BODYSTRUCTURE ENVELOPE BODY)")?;
    let fetched = imap.must("FETCH * (RFC822.SIZE BODY.PEEK[])")?;
    let body = fetched.untagged.iter().find_map(|unit| unit.literal(0)).ok_or("no body")?;
    ensure!(body == message, "the message came back with {} of {} octets", body.len(), message.len());
    imap.must("FETCH * (BODY.PEEK[1.1.1.1.1.1.1.1.MIME] BODY.PEEK[2.TEXT] BODY.PEEK[4294967295])")?;
    imap.must("SEARCH BODY nothing-like-this")?;
    ensure!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    Ok(())
}

fn nested_parts(ports: &Ports) -> Fallible {
    let mut message = String::from("Subject: nested\r\nMIME-Version: 1.0\r\n");
    for n in 0..10_000 {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=\"b{n}\"\r\n\r\n--b{n}\r\n"));
    }
    message.push_str("Content-Type: text/plain\r\n\r\ndeep\r\n");
    append_and_read(ports, message.as_bytes())?;
    let mut message = String::from("Subject: nested\r\nMIME-Version: 1.0\r\n");
    for _ in 0..10_000 {
        message.push_str("Content-Type: message/rfc822\r\n\r\n");
    }
    append_and_read(ports, message.as_bytes())
}

fn flat_parts(ports: &Ports) -> Fallible {
    let mut message = String::from("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n");
    for _ in 0..50_000 {
        message.push_str("--b\r\n\r\nx\r\n");
    }
    message.push_str("--b--\r\n");
    append_and_read(ports, message.as_bytes())?;
    // Headers without end: many fields, many addresses, one long parameter list.
    let mut message = String::from("To: ");
    for n in 0..20_000 {
        message.push_str(&format!("\"n{n}\" <a{n}@b.example>,\r\n "));
    }
    message.push_str("\r\nContent-Type: text/plain");
    for n in 0..5_000 {
        message.push_str(&format!(";\r\n p*{n}*=utf-8''%41%42"));
    }
    message.push_str("\r\n\r\nx\r\n");
    append_and_read(ports, message.as_bytes())
}

fn garbage(ports: &Ports) -> Fallible {
    let mut random = Random::new(0x0dd_ba11);
    for port in [ports.imap, ports.pop3, ports.lmtp] {
        for round in 0..30 {
            let mut connection = Connection::open(port)?;
            let mut octets = Vec::new();
            for _ in 0..1 + random.below(20) {
                let start = *random.pick::<&[u8]>(&[
                    &b"a LOGIN "[..],
                    b"a SELECT \"",
                    b"USER ",
                    b"MAIL FROM:<",
                    b"LHLO ",
                    b"a AUTHENTICATE PLAIN ",
                    b"\0",
                    b"a SEARCH {3}",
                    b"AUTH PLAIN ",
                    b"",
                ]);
                octets.extend_from_slice(start);
                for _ in 0..random.below(200) {
                    octets.push(if round % 2 == 0 {
                        random.next() as u8
                    } else {
                        *random.pick(b"\0\x80\xff\r{}\"\\*%&(")
                    });
                }
                octets.extend_from_slice(b"\r\n");
            }
            if connection.send(&octets).is_ok() {
                connection.limit = Duration::from_millis(50);
                while let Ok(Read1::Unit(_)) = connection.read_within(false, connection.limit) {}
            }
        }
    }
    // The same octets inside a message and inside a mailbox name.
    let mut message = b"Subject: \0\xff\x80\r\nFrom: \0\0\r\n\r\n".to_vec();
    message
        .extend((0..=255).cycle().take(10_000).map(|b: u8| if b == b'\n' || b == b'\r' { b'.' } else { b }));
    message.extend_from_slice(b"\r\n");
    let mut lmtp = Lmtp::open(ports.lmtp)?;
    let replies = lmtp.deliver("s@example.net", &[&user(1)], &message)?;
    ensure!(replies[0].starts_with('2') || replies[0].starts_with('5'), "delivery: {}", replies[0]);
    let mut imap = Imap::login(ports.imap, &user(1), &password(1))?;
    imap.must("SELECT INBOX")?;
    let fetched = imap.must("UID FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[])")?;
    for unit in &fetched.untagged {
        ensure!(!unit.bytes.contains(&0), "a NUL was sent");
    }
    imap.connection.send(b"x CREATE \"\xff\xfe\0\"\r\n")?;
    refused(&mut imap.connection, &["x NO", "x BAD", "* BYE", "* BAD"])?;
    Ok(())
}

fn half_open_tls(ports: &Ports) -> Fallible {
    let (Some(imaps), Some(pop3s)) = (ports.imaps, ports.pop3s) else {
        return skip("the server's TLS ports are not known");
    };
    // The beginning of a ClientHello: type, version, length; then silence.
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let mut held = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(if n % 2 == 0 { imaps } else { pop3s })?;
        stream.write_all(&hello[..n % (hello.len() + 1)])?;
        held.push(stream);
    }
    for _ in 0..50 {
        let mut connection = Connection::open(ports.imap)?;
        connection.read_line()?;
        connection.send_line("a STARTTLS")?;
        let answer = connection.read_line()?;
        ensure!(answer.starts_with("a OK"), "STARTTLS: {answer}");
        connection.send(&hello)?;
        held.push(connection.stream().try_clone()?);
    }
    // Something that is no TLS at all is answered by an alert or the end.
    let mut stream = TcpStream::connect(imaps)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    let ended = (&mut stream).take(4096).read_to_end(&mut answer);
    ensure!(
        ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "no end after a plain-text request on the TLS port"
    );
    serves(ports, 3)?;
    Ok(())
}

fn slow_drip(ports: &Ports) -> Fallible {
    let mut slow: Vec<TcpStream> = Vec::new();
    for port in [ports.imap, ports.pop3, ports.lmtp] {
        for _ in 0..40 {
            slow.push(TcpStream::connect(port)?);
        }
    }
    let line = b"a LOGIN slowly@example.test drip";
    for octet in line {
        for stream in &mut slow {
            let _ = stream.write_all(&[*octet]);
        }
        if octet.is_ascii_whitespace() {
            serves(ports, 4)?;
        }
    }
    Ok(())
}

/// A client that asks for much and reads nothing must cost its own share only.
fn never_reading(ports: &Ports) -> Fallible {
    let mut imap = Imap::login(ports.imap, &user(5), &password(5))?;
    let message = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(100_000));
    for _ in 0..4 {
        let answer = imap.append("INBOX", "", message.as_bytes())?;
        ensure!(answer.ok(), "append: {}", answer.result);
    }
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut imap = Imap::login(ports.imap, &user(5), &password(5))?;
        imap.must("SELECT INBOX")?;
        imap.connection.stream().set_write_timeout(Some(Duration::from_millis(500)))?;
        for _ in 0..200 {
            if imap.connection.send(b"x FETCH 1:4 (BODY.PEEK[])\r\n").is_err() {
                break;
            }
        }
        held.push(imap);
    }
    serves(ports, 6)?;
    Ok(())
}

fn descriptors_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(1024)
}

fn many_connections(arguments: &Arguments) -> Fallible {
    let mut target = Target::start("connections", Options::default())?;
    let ports = *target.ports();
    let culver = target.culver()?;
    let pid = culver.pid().ok_or("no process")?;
    let wanted = if arguments.long { CONNECTIONS_LONG } else { CONNECTIONS };
    let count = wanted.min(descriptors_max().saturating_sub(300));
    let mut old = Imap::login(ports.imap, &user(0), &password(0))?;
    old.must("SELECT INBOX")?;
    let before = resident(pid)?.0;
    let mut held = Vec::new();
    let (mut greeted, mut turned_away) = (0u64, 0u64);
    for n in 0..count {
        let port = [ports.imap, ports.pop3, ports.lmtp][n as usize % 3];
        let mut connection = Connection::open(port)?;
        match connection.read_within(false, connection.limit) {
            Ok(Read1::Unit(unit)) if ["* OK", "+OK", "220"].iter().any(|g| unit.text().starts_with(g)) => {
                greeted += 1;
                held.push(connection);
            }
            // Refused politely: a line that says so, or the end.
            Ok(Read1::Unit(unit)) => {
                let said = unit.text();
                let polite = ["* BYE", "-ERR", "421"].iter().any(|g| said.starts_with(g));
                ensure!(polite, "connection {n}: {said}");
                turned_away += 1;
            }
            Ok(Read1::End) | Err(_) => turned_away += 1,
            Ok(Read1::Nothing) => fail!("connection {n}: neither greeting nor refusal"),
        }
    }
    let now = resident(pid)?.0;
    println!(
        "connections: {greeted} held, {turned_away} turned away, {} octets of resident memory each",
        now.saturating_sub(before) / greeted.max(1)
    );
    ensure!(greeted > 0, "no connection was greeted");
    ensure!(
        now.saturating_sub(before) < (64 << 20) + greeted * CONNECTION_OCTETS_MAX,
        "resident memory grew from {} to {} MiB with {greeted} connections",
        before >> 20,
        now >> 20
    );
    // Those who are in work on: the journal takes, and the admin port answers.
    let began = Instant::now();
    let answer = old.append("INBOX", "", b"Subject: x\r\n\r\nx\r\n")?;
    ensure!(answer.ok(), "append: {}", answer.result);
    old.must("FETCH 1:* (UID BODY.PEEK[])")?;
    ensure!(began.elapsed() < OTHERS_UNAFFECTED, "an old session took {:?}", began.elapsed());
    if let Some(admin) = ports.admin {
        ensure!(http(admin, "/metrics")?.starts_with("HTTP/1.1 200"), "the admin port does not answer");
    }
    drop(held);
    // The places are free again.
    eventually("an ordinary session works again", Duration::from_secs(30), || Ok(serves(&ports, 1).is_ok()))?;
    let culver = target.culver()?;
    ensure!(culver.alive(), "the server died:\n{}", culver.log_tail());
    culver.terminate()
}

fn http(address: SocketAddr, path: &str) -> Fallible<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn stop(_: &Arguments) -> Fallible {
    let target = TARGET.lock().unwrap_or_else(|e| e.into_inner()).take();
    match target {
        Some(mut target) => target.culver()?.terminate(),
        None => skip("no hostile test ran"),
    }
}
