use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culver_model::Uid;
use quickcheck::quickcheck;

use super::client::{Client, Reply};
use super::*;
use crate::sasl::{Keys, Mechanism, Proof, Secret};

fn config() -> Arc<Config> {
    Arc::new(Config { greeting: "ready".into(), plaintext_allowed: true, ..Config::default() })
}

const MESSAGES: [&[u8]; 2] =
    [b"Subject: one\r\n\r\n.dot\r\nbody\r\n", b"Subject: two\r\n\r\nline\r\n..\r\nno end"];

fn maildrop() -> Maildrop {
    let mut maildrop = Maildrop::new();
    for (message, (uid, uidl)) in
        MESSAGES.iter().zip([(7, "whqtswO00WBw418f9t5JxYwZ"), (9, "QhdPYR:00WBw1Ph7x7")])
    {
        let uid = Uid::new(uid).expect("not 0");
        maildrop.push(uid, message.len() as u64, uidl).expect("fits");
    }
    maildrop
}

/// RFC 7677 §3: those of `pencil`.
fn keys() -> Keys {
    let of = |text: &str| STANDARD.decode(text).expect("base64");
    Keys {
        nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
        salt: of("W22ZaJ0SNY7soEsUEjb6gQ=="),
        iterations: 4096,
        stored_key: Secret::new(of("WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=")),
        server_key: Secret::new(of("wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")),
    }
}

/// A driver over one account, tim with tanstaaf, and a mailbox of [`MESSAGES`].
struct Session {
    server: Server,
    pending: Vec<u8>,
    out: Vec<u8>,
    events: Vec<String>,
    commit_fails: bool,
    tls_started: usize,
}

impl Session {
    fn new(config: Arc<Config>, tls: bool) -> Session {
        let mut out = Vec::new();
        let server = Server::new(config, tls, &mut out);
        Session { server, pending: Vec::new(), out, events: Vec::new(), commit_fails: false, tls_started: 0 }
    }

    /// Gives octets to the server and does what it asks; false once it closed.
    fn give(&mut self, input: &[u8]) -> bool {
        self.pending.extend_from_slice(input);
        let mut written = std::mem::take(&mut self.out);
        let open = loop {
            let mut out = Vec::new();
            let (used, event) = self.server.next(&self.pending, &mut out);
            self.pending.drain(..used);
            written.append(&mut out);
            match event {
                Event::NeedMore => break true,
                Event::Write => {}
                Event::Close => break false,
                Event::Login(login) => {
                    self.events.push(format!("login {} {:?}", login.user, login.mechanism));
                    let known = match &login.proof {
                        Proof::Password(password) => login.user == "tim" && password.expose() == b"tanstaaf",
                        Proof::Scram(right) => *right,
                        Proof::Token(token) => token.expose() == b"right",
                        Proof::Certificate => true,
                    };
                    if known {
                        let bytes = self.server.encode().expect("a pending login can move");
                        let config = self.server.config.clone();
                        self.server = Server::decode(config, &bytes).expect("as encoded");
                        self.server.login_ok(maildrop(), &mut written);
                    } else {
                        self.server.refuse(Refusal::AuthenticationFailed, &mut written);
                    }
                }
                Event::Keys { user, hash } => {
                    self.events.push(format!("keys {user} {hash:?}"));
                    self.server.keys(keys(), &mut written);
                }
                Event::StartTls => {
                    self.tls_started += 1;
                    self.server.tls_started(self.server.config.channel.clone());
                }
                Event::Message { number, top, .. } => {
                    self.events.push(format!("message {number} {top}"));
                    self.server.begin_message(&mut written);
                    for chunk in MESSAGES[number as usize - 1].chunks(3) {
                        if !self.server.message_chunk(chunk, &mut written) {
                            break;
                        }
                    }
                    self.server.end_message(&mut written);
                }
                Event::Quit => {
                    let uids: Vec<_> =
                        self.server.maildrop().expect("there").deleted().map(Uid::get).collect();
                    self.events.push(format!("quit {uids:?}"));
                    if self.commit_fails {
                        self.server.refuse(Refusal::NotDeleted, &mut written);
                    } else {
                        self.server.quit_ok(&mut written);
                    }
                }
            }
        };
        self.out = written;
        open
    }

    fn answer(&mut self, line: &str) -> String {
        self.give(line.as_bytes());
        self.give(b"\r\n");
        self.said()
    }

    fn said(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("ASCII")
    }

    fn logged_in() -> Session {
        let mut session = Session::new(config(), false);
        session.answer("USER tim");
        assert_eq!(session.answer("PASS tanstaaf"), "+OK logged in\r\n");
        session
    }
}

#[test]
fn the_session_of_rfc_1939_section_10() {
    let mut session = Session::logged_in();
    let (one, two) = (MESSAGES[0].len(), MESSAGES[1].len());
    let all = one + two;
    for (line, answer) in [
        ("STAT", format!("+OK 2 {all}\r\n")),
        ("LIST", format!("+OK 2 messages ({all} octets)\r\n1 {one}\r\n2 {two}\r\n.\r\n")),
        ("list 2", format!("+OK 2 {two}\r\n")),
        ("LIST 3", "-ERR no such message\r\n".into()),
        ("RETR 1", format!("+OK {one} octets\r\nSubject: one\r\n\r\n..dot\r\nbody\r\n.\r\n")),
        ("RETR 2", format!("+OK {two} octets\r\nSubject: two\r\n\r\nline\r\n...\r\nno end\r\n.\r\n")),
        ("TOP 2 0", "+OK top of message follows\r\nSubject: two\r\n\r\n.\r\n".into()),
        ("TOP 1 1", "+OK top of message follows\r\nSubject: one\r\n\r\n..dot\r\n.\r\n".into()),
        ("TOP 1 99", "+OK top of message follows\r\nSubject: one\r\n\r\n..dot\r\nbody\r\n.\r\n".into()),
        ("UIDL 2", "+OK 2 QhdPYR:00WBw1Ph7x7\r\n".into()),
        ("DELE 1", "+OK message 1 deleted\r\n".into()),
        ("DELE 1", "-ERR no such message\r\n".into()),
        ("RETR 1", "-ERR no such message\r\n".into()),
        ("UIDL 1", "-ERR no such message\r\n".into()),
        ("UIDL", format!("+OK 1 messages ({two} octets)\r\n2 QhdPYR:00WBw1Ph7x7\r\n.\r\n")),
        ("LIST", format!("+OK 1 messages ({two} octets)\r\n2 {two}\r\n.\r\n")),
        ("STAT", format!("+OK 1 {two}\r\n")),
        ("RSET", format!("+OK 2 messages ({all} octets)\r\n")),
        ("NOOP", "+OK\r\n".into()),
        ("DELE 2", "+OK message 2 deleted\r\n".into()),
        ("QUIT", "+OK bye\r\n".into()),
    ] {
        assert_eq!(session.answer(line), answer, "{line}");
    }
    assert_eq!(session.events.last().map(String::as_str), Some("quit [9]"));
    assert!(!session.give(b"NOOP\r\n"));
}

#[test]
fn bad_commands_get_an_error_and_change_nothing() {
    for line in [
        "",
        " ",
        "XYZZY",
        "STAT 1",
        "LIST x",
        "LIST -1",
        "LIST 1 2",
        "RETR",
        "RETR 0",
        "RETR 4294967297",
        "DELE",
        "TOP 1",
        "TOP 1 -1",
        "TOP x 1",
        "TOP 1 1 1",
        "UIDL 0",
        "NOOP x",
        "USER tim",
        "PASS x",
        "AUTH PLAIN",
        "STLS",
        "APOP tim c4c9334bac560ecc979e58001b3e22fb",
        "QUITX",
        "LAST",
        "\u{e4}",
    ] {
        let mut session = Session::logged_in();
        let answer = session.answer(line);
        assert!(answer.starts_with("-ERR ") && answer.ends_with("\r\n"), "{line}: {answer}");
        assert!(session.answer("STAT").starts_with("+OK 2 "), "{line}");
    }
    let mut session = Session::new(config(), false);
    session.said();
    for line in
        ["STAT", "LIST", "RETR 1", "TOP 1 1", "DELE 1", "RSET", "NOOP", "UIDL", "PASS x", "USER", "AUTH NTLM"]
    {
        assert!(session.answer(line).starts_with("-ERR "), "{line}");
    }
}

#[test]
fn a_failed_login_may_be_repeated_up_to_the_limit() {
    let mut session = Session::new(config(), false);
    session.said();
    for n in 1..=10 {
        session.answer("USER tim");
        assert_eq!(session.answer("PASS wrong"), "-ERR [AUTH] authentication failed\r\n");
        assert_eq!(session.give(b""), n < 10);
    }
}

#[test]
fn passwords_may_hold_spaces() {
    let mut session = Session::new(config(), false);
    session.give(b"USER tim\r\n");
    let mut out = Vec::new();
    let (_, event) = session.server.next(b"PASS  a b \r\n", &mut out);
    let Event::Login(login) = event else { panic!("{event:?}") };
    assert_eq!(login.proof, Proof::Password(Secret::new(b" a b ".to_vec())));
    assert!(!format!("{login:?}").contains("a b"));
}

#[test]
fn sasl_of_rfc_5034() {
    let message = STANDARD.encode("\0tim\0tanstaaf");
    let mut session = Session::new(config(), false);
    session.said();
    assert_eq!(session.answer(&format!("AUTH plain {message}")), "+OK logged in\r\n");

    let mut session = Session::new(config(), false);
    session.said();
    assert_eq!(session.answer("AUTH PLAIN"), "+ \r\n");
    assert!(session.answer("*").starts_with("-ERR "));
    assert_eq!(session.answer("AUTH PLAIN"), "+ \r\n");
    assert!(session.answer("QUIT!").starts_with("-ERR "));
    assert_eq!(session.answer("AUTH LOGIN"), "+ VXNlcm5hbWU6\r\n");
    assert_eq!(session.answer(&STANDARD.encode("tim")), "+ UGFzc3dvcmQ6\r\n");
    assert_eq!(session.answer(&STANDARD.encode("tanstaaf")), "+OK logged in\r\n");
    assert_eq!(session.events, ["login tim Some(Login)"]);

    let mut session = Session::new(config(), false);
    session.said();
    let other = STANDARD.encode("root\0tim\0tanstaaf");
    assert_eq!(session.answer(&format!("AUTH PLAIN {other}")), "-ERR [AUTH] authentication failed\r\n");
}

fn offering(mechanisms: &[Mechanism]) -> Arc<Config> {
    let channel = Channel { offered: mechanisms.iter().copied().collect(), ..Channel::default() };
    Arc::new(Config { channel, ..Config::clone(&config()) })
}

/// RFC 5034 §6 has the form, RFC 7677 §3 the exchange.
#[test]
fn scram_proves_both_ends() {
    let first = STANDARD.encode("n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let said = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=";
    let mut session = Session::new(offering(&[Mechanism::ScramSha256]), true);
    session.said();
    let challenge = format!("+ {}\r\n", STANDARD.encode(said));
    assert_eq!(session.answer(&format!("AUTH SCRAM-SHA-256 {first}")), challenge);
    // Another proof of the same length.
    let wrong = format!("{last}{}", STANDARD.encode([0; 32]));
    assert_eq!(session.answer(&STANDARD.encode(wrong)), "-ERR [AUTH] authentication failed\r\n");
    assert_eq!(session.answer("AUTH SCRAM-SHA-256"), "+ \r\n");
    assert_eq!(session.answer(&first), challenge);
    let right = format!("{last}dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let proof = STANDARD.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(session.answer(&STANDARD.encode(right)), format!("+ {proof}\r\n"));
    assert_eq!(session.answer(""), "+OK logged in\r\n");
    let (keys, login) = ("keys user Sha256", "login user Some(ScramSha256)");
    assert_eq!(session.events, [keys, login, keys, login]);
}

/// RFC 7628 §3.2.3.
#[test]
fn a_refused_token_is_explained_before_it_is_refused() {
    let mut session = Session::new(offering(&[Mechanism::OauthBearer, Mechanism::Xoauth2]), true);
    session.said();
    let xoauth2 = |token: &str| STANDARD.encode(format!("user=u\x01auth=Bearer {token}\x01\x01"));
    let why = STANDARD.encode(r#"{"status":"401","schemes":"bearer"}"#);
    assert_eq!(session.answer(&format!("AUTH XOAUTH2 {}", xoauth2("wrong"))), format!("+ {why}\r\n"));
    assert_eq!(session.answer(""), "-ERR [AUTH] authentication failed\r\n");
    let long = STANDARD.encode(format!("n,,\x01auth=Bearer {}\x01\x01", "x".repeat(9000)));
    let why = STANDARD.encode(r#"{"status":"invalid_token"}"#);
    assert_eq!(session.answer(&format!("AUTH OAUTHBEARER {long}")), format!("+ {why}\r\n"));
    assert_eq!(session.answer("AQ=="), "-ERR [AUTH] authentication failed\r\n");
    assert_eq!(session.answer(&format!("AUTH XOAUTH2 {}", xoauth2("right"))), "+OK logged in\r\n");
}

#[test]
fn what_is_not_listed_is_not_taken() {
    let mut session = Session::new(offering(&[Mechanism::ScramSha256]), true);
    session.said();
    let capa = session.answer("CAPA");
    assert!(capa.contains("\r\nSASL SCRAM-SHA-256\r\n") && !capa.contains("USER"), "{capa}");
    assert_eq!(session.answer("AUTH"), "+OK mechanisms follow\r\nSCRAM-SHA-256\r\n.\r\n");
    for command in ["AUTH PLAIN", "AUTH EXTERNAL =", "AUTH ANONYMOUS", "AUTH SCRAM-SHA-256-PLUS"] {
        assert_eq!(session.answer(command), "-ERR unknown mechanism\r\n", "{command}");
    }
    for command in ["USER tim", "PASS tanstaaf"] {
        assert!(session.answer(command).starts_with("-ERR [AUTH] use AUTH "), "{command}");
    }
    let mut session = Session::new(offering(&[]), true);
    let capa = session.answer("CAPA");
    assert!(!capa.contains("SASL") && !capa.contains("USER"), "{capa}");
}

#[test]
fn capabilities_say_only_what_is_true() {
    let shut = Arc::new(Config { plaintext_allowed: false, ..Config::default() });
    let mut session = Session::new(shut.clone(), false);
    session.said();
    let capa = session.answer("CAPA");
    assert!(capa.contains("\r\nSTLS\r\n") && !capa.contains("USER") && !capa.contains("SASL"), "{capa}");
    assert!(capa.starts_with("+OK ") && capa.ends_with("\r\nIMPLEMENTATION Culver\r\n.\r\n"), "{capa}");
    assert_eq!(session.answer("USER tim"), "-ERR [AUTH] use TLS before you send a password\r\n");
    assert_eq!(session.answer("AUTH PLAIN AHRpbQB4"), "-ERR [AUTH] use TLS before you send a password\r\n");

    let mut session = Session::new(shut, true);
    let capa = session.answer("CAPA");
    assert!(!capa.contains("STLS") && capa.contains("\r\nUSER\r\nSASL PLAIN LOGIN\r\n"), "{capa}");
    for name in ["TOP", "UIDL", "PIPELINING", "RESP-CODES", "AUTH-RESP-CODE"] {
        assert!(capa.contains(&format!("\r\n{name}\r\n")), "{name}");
    }
    let before = Session::new(config(), false).answer("CAPA");
    assert!(before.ends_with(&Session::logged_in().answer("CAPA")), "RFC 2449 section 5");
}

#[test]
fn stls_throws_away_what_came_before_the_handshake() {
    let mut session = Session::new(config(), false);
    session.give(b"USER evil\r\nSTLS\r\nPASS injected\r\nNOOP\r\n");
    assert_eq!(session.said(), "+OK ready\r\n+OK send PASS\r\n+OK begin TLS\r\n");
    assert_eq!((session.tls_started, session.server.is_tls()), (1, true));
    assert_eq!(session.answer("PASS tanstaaf"), "-ERR USER comes first\r\n");
    assert_eq!(session.answer("STLS"), "-ERR TLS is active already\r\n");
    assert!(session.events.is_empty());
}

#[test]
fn a_quit_whose_commit_fails_says_so() {
    let mut session = Session::logged_in();
    session.commit_fails = true;
    session.answer("DELE 1");
    assert_eq!(session.answer("QUIT"), "-ERR [SYS/TEMP] messages may not have been deleted\r\n");
    assert!(!session.give(b""));
}

#[test]
fn an_endless_line_ends_the_session_and_a_long_one_does_not() {
    let mut session = Session::logged_in();
    session.give(&[b'x'; 60_000]);
    assert_eq!(session.answer(""), "-ERR line too long\r\n");
    assert_eq!(session.answer("NOOP"), "+OK\r\n");
    for _ in 0..200 {
        session.give(&[b'x'; 1000]);
        assert!(session.pending.len() <= Limits::default().line_octets_max);
    }
    assert_eq!(session.said(), "-ERR too many errors\r\n");
    assert!(!session.give(b""));
}

#[test]
fn too_many_bad_commands_end_the_session() {
    let mut session = Session::new(config(), false);
    session.give(&b"XYZZY\r\n".repeat(100));
    let said = session.said();
    assert_eq!(said.matches("-ERR").count(), 21, "{said}");
    assert!(said.ends_with("-ERR too many errors\r\n"));
}

#[test]
fn a_long_listing_is_pulled_in_pieces() {
    let mut server = Session::logged_in().server;
    let mut maildrop = Maildrop::new();
    for n in 1..=20_000 {
        maildrop.push(Uid::new(n).expect("not 0"), 1, &format!("u{n}")).expect("fits");
    }
    server.state = super::server::State::Transaction { maildrop };
    let (mut input, mut all, mut pieces) = (&b"UIDL\r\nNOOP\r\n"[..], Vec::new(), 0);
    loop {
        let mut out = Vec::new();
        let (used, event) = server.next(input, &mut out);
        assert!(out.len() < 65 * 1024 + 200);
        input = &input[used..];
        all.append(&mut out);
        pieces += 1;
        if event == Event::NeedMore {
            break;
        }
        assert_eq!(event, Event::Write);
    }
    assert!(pieces > 3);
    assert!(all.ends_with(b"\r\n20000 u20000\r\n.\r\n+OK\r\n"));
    assert_eq!(all.iter().filter(|&&b| b == b'\n').count(), 20_003);
}

#[test]
fn a_session_between_two_commands_is_a_value() {
    let mut session = Session::logged_in();
    let script = ["DELE 2", "STAT", "UIDL", "RSET", "LIST", "DELE 1", "TOP 1 1", "RETR 2", "XX", "QUIT"];
    let expected: Vec<_> = script.iter().map(|line| session.answer(line)).collect();
    let mut session = Session::logged_in();
    for (line, expected) in script.iter().zip(expected) {
        let bytes = session.server.encode().expect("between two commands");
        session.server = Server::decode(config(), &bytes).expect("as encoded");
        assert_eq!(session.answer(line), expected);
    }
    let bytes = Session::logged_in().server.encode().expect("between two commands");
    for end in 0..bytes.len() {
        assert!(Server::decode(config(), &bytes[..end]).is_err());
    }
    let mut session = Session::new(config(), true);
    session.answer("USER tim");
    let moved = Server::decode(config(), &session.server.encode().expect("idle")).expect("as encoded");
    session.server = moved;
    assert!(session.server.is_tls());
    assert_eq!(session.answer("PASS tanstaaf"), "+OK logged in\r\n");
    session.give(b"RET");
    assert!(session.server.encode().is_ok(), "octets not consumed travel beside the state");
}

#[test]
fn any_split_gives_the_same_answers() {
    let script = format!(
        "CAPA\r\nUSER tim\r\nPASS wrong\r\nAUTH PLAIN\r\n{}\r\nSTAT\r\nLIST\r\nUIDL 1\r\nRETR 2\r\n{}\r\nDELE 1\nTOP 2 1\r\nQUIT\r\nNOOP\r\n",
        STANDARD.encode("\0tim\0tanstaaf"),
        "y".repeat(9000)
    );
    let mut whole = Session::new(config(), false);
    whole.give(script.as_bytes());
    for size in [1, 2, 3, 5, 7, 64, 1000] {
        let mut split = Session::new(config(), false);
        script.as_bytes().chunks(size).for_each(|chunk| {
            split.give(chunk);
        });
        assert_eq!((&split.out, &split.events), (&whole.out, &whole.events), "by {size}");
    }
}

#[test]
fn client_and_server_agree() {
    let mut session = Session::logged_in();
    session.give(b"RETR 1\r\nRETR 2\r\nDELE 9\r\n");
    session.server.state = super::server::State::Authorization { user: None };
    session.give(b"USER x\r\nPASS y\r\n");
    let wire = std::mem::take(&mut session.out);
    let (mut client, mut at, mut bodies, mut codes) = (Client::new(), 0, vec![Vec::new()], Vec::new());
    while at < wire.len() {
        let (used, reply) = client.next(&wire[at..]);
        at += used;
        match reply {
            Reply::Status { ok, code, text } => {
                codes.push((ok, code.map(str::to_owned)));
                if text.ends_with("octets") {
                    client.expect_body();
                }
            }
            Reply::Body(octets) => bodies.last_mut().expect("one").extend_from_slice(octets),
            Reply::End => bodies.push(Vec::new()),
            other => panic!("{other:?}"),
        }
    }
    let with_end = [MESSAGES[1], b"\r\n"].concat();
    assert_eq!(bodies, [MESSAGES[0].to_vec(), with_end, Vec::new()]);
    assert_eq!(codes[2..], [(false, None), (true, None), (false, Some("AUTH".to_owned()))]);
}

quickcheck! {
    fn garbage_never_panics(input: Vec<u8>, size: u8, authenticated: bool) -> bool {
        let mut session = if authenticated { Session::logged_in() } else { Session::new(config(), false) };
        for chunk in input.chunks(usize::from(size).max(1)) {
            session.give(chunk);
            if session.server.encode().is_ok() && session.pending.len() > Limits::default().line_octets_max {
                return false;
            }
        }
        let mut client = Client::new();
        let mut at = 0;
        while at < input.len() {
            let (used, reply) = client.next(&input[at..]);
            if reply == Reply::NeedMore { break; }
            if let Reply::Status { ok: true, .. } = reply { client.expect_body(); }
            at += used;
        }
        Server::decode(config(), &input).is_ok() <= (input.first() == Some(&1))
    }
}
