use std::sync::Arc;

use quickcheck::quickcheck;

use super::client::{self, Stuffer};
use super::*;

fn config() -> Config {
    Config { host: "foo.edu".into(), ..Config::default() }
}

/// A driver that knows pat, green and full, and keeps what was delivered.
struct Session {
    server: Server,
    pending: Vec<u8>,
    out: Vec<u8>,
    /// What was in `out` when the server asked for it to be written.
    written: Vec<u8>,
    body: Option<Vec<u8>>,
    /// (recipient, message)
    delivered: Vec<(String, Vec<u8>)>,
    discarded: usize,
    abandon: bool,
    open: bool,
}

impl Session {
    fn new(config: Config) -> Session {
        let mut out = Vec::new();
        let server = Server::new(Arc::new(config), false, &mut out);
        Session {
            server,
            pending: Vec::new(),
            out,
            written: Vec::new(),
            body: None,
            delivered: Vec::new(),
            discarded: 0,
            abandon: false,
            open: true,
        }
    }

    /// After LHLO, MAIL and an accepted RCPT for each name.
    fn ready(config: Config, recipients: &[&str]) -> Session {
        let mut session = Session::new(config);
        session.give(b"LHLO foo.edu\r\nMAIL FROM:<chris@bar.com>\r\n");
        for recipient in recipients {
            session.give(format!("RCPT TO:<{recipient}@foo.edu>\r\n").as_bytes());
        }
        session.out.clear();
        session
    }

    fn give(&mut self, input: &[u8]) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(input);
        let mut at = 0;
        while self.open {
            let (used, event) = self.server.next(&pending[at..], &mut self.out);
            at += used;
            match event {
                Event::NeedMore => break,
                Event::Write => self.written.append(&mut self.out),
                Event::StartTls => self.server.tls_started(),
                Event::Recipient(recipient) => match recipient.local() {
                    "pat" | "green" | "full" => self.server.accept_recipient(&mut self.out),
                    "later" => self.server.refuse_recipient(Refusal::UsersUnavailable, &mut self.out),
                    _ => self.server.refuse_recipient(Refusal::UnknownUser, &mut self.out),
                },
                Event::Begin => {
                    assert!(self.body.replace(Vec::new()).is_none());
                    if self.abandon {
                        self.server.abandon(Refusal::NoSpace);
                        self.body = None;
                    }
                }
                Event::Data(octets) => self.body.as_mut().expect("begun").extend_from_slice(octets),
                Event::Discard => {
                    assert!(self.body.take().is_some());
                    self.discarded += 1;
                }
                Event::EndOfData => {
                    let body = self.body.take().expect("begun");
                    let transaction = self.server.transaction().expect("open").clone();
                    assert_eq!(transaction.octets(), body.len() as u64);
                    for recipient in transaction.recipients() {
                        if recipient.local() == "full" {
                            self.server.refused(Refusal::OverQuotaForNow, &mut self.out);
                        } else {
                            self.delivered.push((recipient.name(), body.clone()));
                            self.server.delivered("id1", &mut self.out);
                        }
                    }
                }
                Event::Close => self.open = false,
            }
        }
        self.pending = pending[at..].to_vec();
    }

    fn answer(&mut self, line: &str) -> String {
        self.give(line.as_bytes());
        self.give(b"\r\n");
        self.said()
    }

    fn said(&mut self) -> String {
        self.written.append(&mut self.out);
        String::from_utf8(std::mem::take(&mut self.written)).expect("ASCII")
    }

    /// Codes of the replies, without the lines before the last of each.
    fn codes(&mut self) -> Vec<u16> {
        let said = self.said().into_bytes();
        let (mut at, mut codes) = (0, Vec::new());
        while let Some((used, reply)) = client::reply(&said[at..]).expect("LMTP") {
            codes.push(reply.code);
            at += used;
        }
        assert_eq!(at, said.len());
        codes
    }
}

#[test]
fn the_session_of_rfc_2033_section_4_2() {
    let mut session = Session::new(config());
    session.give(
        b"LHLO foo.edu\r\nMAIL FROM:<chris@bar.com>\r\nRCPT TO:<pat@foo.edu>\r\nRCPT TO:<jones@foo.edu>\r\n\
          RCPT TO:<full@foo.edu>\r\nDATA\r\nBlah blah blah...\r\n..etc.\r\n.\r\nQUIT\r\n",
    );
    assert_eq!(
        session.said(),
        "220 foo.edu LMTP Culver ready\r\n250-foo.edu\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 67108864\r\n\
         250-CHUNKING\r\n250-BINARYMIME\r\n250-STARTTLS\r\n250 ENHANCEDSTATUSCODES\r\n250 2.1.0 sender OK\r\n\
         250 2.1.5 <pat@foo.edu> OK\r\n550 5.1.1 <jones@foo.edu> no such user\r\n250 2.1.5 <full@foo.edu> OK\r\n\
         354 send the message, end with CRLF.CRLF\r\n250 2.0.0 <pat@foo.edu> id1 saved\r\n\
         452 4.2.2 <full@foo.edu> mailbox is full\r\n221 2.0.0 foo.edu closing connection\r\n"
    );
    assert_eq!(session.delivered, [("pat@foo.edu".to_owned(), b"Blah blah blah...\r\n.etc.\r\n".to_vec())]);
    assert!(!session.open);
}

#[test]
fn commands_out_of_place_are_refused() {
    for (before, line, code) in [
        ("", "HELO x", 500),
        ("", "EHLO x", 500),
        ("", "MAIL FROM:<a@b>", 503),
        ("", "RCPT TO:<pat@foo.edu>", 503),
        ("", "DATA", 503),
        ("", "BDAT 0 LAST", 503),
        ("", "LHLO", 501),
        ("", "LHLO a b", 501),
        ("LHLO x", "LHLO y", 250),
        ("LHLO x", "RCPT TO:<pat@foo.edu>", 503),
        ("LHLO x", "DATA", 503),
        ("LHLO x", "NOOP anything", 250),
        ("LHLO x", "RSET", 250),
        ("LHLO x", "RSET x", 501),
        ("LHLO x", "VRFY pat", 252),
        ("LHLO x", "VRFY", 501),
        ("LHLO x", "EXPN x", 502),
        ("LHLO x", "HELP", 214),
        ("LHLO x", "AUTH PLAIN", 500),
        ("LHLO x", "", 500),
        ("LHLO x", "MAIL FROM:<>", 250),
        ("LHLO x", "mail from: <a@b> size=10 body=8bitmime", 250),
        ("LHLO x", "MAIL FROM:<a@b> SIZE=67108865", 552),
        ("LHLO x", "MAIL FROM:<a@b> SIZE=x", 501),
        ("LHLO x", "MAIL FROM:<a@b> SIZE=99999999999999999999", 501),
        ("LHLO x", "MAIL FROM:<a@b> BODY=BINARYMIME", 250),
        ("LHLO x", "MAIL FROM:<a@b> BODY=BINARY", 501),
        ("LHLO x\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<pat@foo.edu>", "DATA", 503),
        ("LHLO x", "MAIL FROM:<a@b> RET=HDRS ENVID=a+2Bb", 250),
        ("LHLO x", "MAIL FROM:<a@b> RET=ALL", 501),
        ("LHLO x", "MAIL FROM:<a@b> HOLDFOR=9", 555),
        ("LHLO x", "MAIL FROM:<a@b> SMTPUTF8", 250),
        ("LHLO x", "MAIL FROM:<a@b> SMTPUTF8=1", 555),
        ("LHLO x", "MAIL FROM:<\u{e4}@b> SMTPUTF8", 250),
        ("LHLO x", "MAIL FROM:a@b", 501),
        ("LHLO x", "MAIL FROM:<a@b>x", 501),
        ("LHLO x", "MAIL TO:<a@b>", 501),
        ("LHLO x", "MAIL FROM:<\u{e4}@b>", 553),
        ("LHLO x\r\nMAIL FROM:<a@b>", "MAIL FROM:<a@b>", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>", "DATA", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>", "BDAT 0", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<>", 501),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<pat@foo.edu> NOTIFY=NEVER", 250),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<pat@foo.edu> NOTIFY=LATER", 501),
        ("LHLO x\r\nMAIL FROM:<a@b> SMTPUTF8", "RCPT TO:<pat@\u{e4}.example>", 250),
        ("LHLO x\r\nMAIL FROM:<a@b> SMTPUTF8", "RCPT TO:<\u{e4}@foo.edu>", 550),
        ("LHLO x", "XCLIENT ADDR=192.0.2.1", 550),
        ("LHLO x", "XCLIENT", 501),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<\u{e4}@foo.edu>", 553),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<@relay:pat@foo.edu>", 250),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<\"pat\"@foo.edu>", 250),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<\"pat@foo.edu\"@other>", 550),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<pat>", 250),
        ("LHLO x\r\nMAIL FROM:<a@b>", "RCPT TO:<later@foo.edu>", 451),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<jones@foo.edu>", "DATA", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>\r\nRSET", "DATA", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>\r\nLHLO y", "DATA", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>", "DATA x", 501),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>\r\nBDAT 0", "DATA", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>\r\nBDAT 0", "RCPT TO:<green@foo.edu>", 503),
        ("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>", "BDAT x", 501),
    ] {
        let mut session = Session::new(config());
        session.answer(before);
        session.out.clear();
        session.give(format!("{line}\r\n").as_bytes());
        assert_eq!(session.codes(), [code], "{before:?} then {line:?}");
        assert!(session.open);
    }
}

#[test]
fn xclient_begins_the_session_anew_where_the_client_is_trusted() {
    let mut session = Session::new(Config { xclient: true, ..config() });
    let said = session.answer("LHLO x");
    assert!(said.contains("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"), "{said}");
    assert_eq!((session.server.client_address(), session.server.lhlo()), (None, Some("x")));
    session.give(b"XCLIENT ADDR=192.0.2.7 HELO=mx.example\r\n");
    assert!(session.said().starts_with("220 foo.edu "));
    assert_eq!(session.answer("MAIL FROM:<a@b>").get(..3), Some("503"));
    session.give(b"LHLO proxy\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@foo.edu>\r\n");
    session.out.clear();
    assert_eq!(session.server.client_address(), "192.0.2.7".parse().ok());
    assert_eq!(session.server.lhlo(), Some("mx.example"));
    session.give(b"XCLIENT ADDR=192.0.2.8\r\nDATA\r\nx\r\n.\r\n");
    assert_eq!(session.codes(), [503, 354, 250]);
    // What is not said again stays.
    session.give(b"XCLIENT ADDR=192.0.2.8\r\n");
    assert_eq!(
        (session.server.client_address(), session.server.lhlo()),
        ("192.0.2.8".parse().ok(), Some("mx.example"))
    );
    // RFC 3207 §4.2: what came before the handshake counts for nothing.
    session.give(b"STARTTLS\r\n");
    assert_eq!((session.server.client_address(), session.server.lhlo()), (None, None));
}

#[test]
fn xforward_gives_the_next_transaction_its_id_where_the_client_is_trusted() {
    let trusted = || Session::new(Config { xforward: true, ..config() });
    let ident = |session: &Session| session.server.transaction().and_then(|t| t.ident()).map(str::to_owned);
    let mut session = trusted();
    let said = session.answer("LHLO x");
    assert!(said.contains("250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n250 ENHANCED"), "{said}");
    for (lines, expected) in [
        (
            "XFORWARD NAME=a.example ADDR=192.0.2.1 PORT=25\r\nXFORWARD PROTO=ESMTP HELO=a IDENT=4X+2BY SOURCE=REMOTE",
            Some("4X+Y"),
        ),
        ("XFORWARD ident=1\r\nxforward IDENT=2", Some("2")),
        ("XFORWARD IDENT=1\r\nXFORWARD HELO=x", Some("1")),
        ("XFORWARD IDENT=1\r\nXFORWARD IDENT=[UNAVAILABLE]", None),
        ("XFORWARD IDENT=1\r\nXFORWARD IDENT=[TEMPUNAVAIL]", None),
        ("XFORWARD IDENT=1\r\nRSET", None),
        ("XFORWARD IDENT=1\r\nLHLO y", None),
        ("XFORWARD IDENT=1\r\nMAIL FROM:<a@b>\r\nRSET", None),
        ("NOOP", None),
    ] {
        session.give(format!("{lines}\r\nMAIL FROM:<a@b>\r\n").as_bytes());
        assert_eq!(ident(&session).as_deref(), expected, "{lines}");
        session.give(b"RSET\r\n");
    }
    session.out.clear();
    for (before, line, code) in [
        ("", "XFORWARD IDENT=1", 503),
        ("LHLO x", "XFORWARD", 501),
        ("LHLO x", "XFORWARD IDENT", 501),
        ("LHLO x", "XFORWARD IDENT=", 501),
        ("LHLO x", "XFORWARD COLOUR=red", 501),
        ("LHLO x", "XFORWARD IDENT=a+", 501),
        ("LHLO x", "XFORWARD IDENT=a+2b", 501),
        ("LHLO x", "XFORWARD IDENT=a=b", 501),
        ("LHLO x", "XFORWARD IDENT=\u{e4}", 501),
        ("LHLO x", "XFORWARD IDENT=a+00", 501),
        ("LHLO x", &format!("XFORWARD IDENT={}", "x".repeat(256)), 501),
        ("LHLO x", &format!("XFORWARD IDENT={}", "x".repeat(255)), 250),
        ("LHLO x\r\nMAIL FROM:<a@b>", "XFORWARD IDENT=1", 503),
    ] {
        let mut session = trusted();
        session.answer(before);
        session.out.clear();
        session.give(format!("{line}\r\n").as_bytes());
        assert_eq!(session.codes(), [code], "{before:?} then {line:?}");
    }
    let mut stranger = Session::new(config());
    assert!(!stranger.answer("LHLO x").contains("XFORWARD"));
    stranger.give(b"XFORWARD IDENT=1\r\n");
    assert_eq!(stranger.codes(), [550]);
}

#[test]
fn every_reply_but_to_lhlo_has_an_enhanced_code() {
    let mut session = Session::new(config());
    session.answer("LHLO x");
    session.give(b"NOOP\r\nRSET\r\nVRFY x\r\nHELO x\r\nfoo\r\nMAIL FROM:<a@b>\r\nRCPT TO:<pat@x>\r\nRCPT TO:<no@x>\r\nDATA\r\n.\r\nSTARTTLS\r\n");
    session.give(b"LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<full@x>\r\nBDAT 0\r\nBDAT 0 LAST\r\nQUIT\r\n");
    let said = session.said();
    let mut plain = 0;
    for line in said.lines() {
        match line.get(3..4) {
            Some("-") => {}
            _ if line.starts_with("354") || line.contains("ENHANCED") => plain += 1,
            _ => {
                let (code, rest) = line.split_once(' ').expect("code");
                assert_eq!(rest.split('.').next(), code.get(..1), "{line}");
                assert_eq!(
                    rest.split(' ').next().map(|enhanced| enhanced.split('.').count()),
                    Some(3),
                    "{line}"
                );
            }
        }
    }
    assert_eq!(plain, 2, "{said}");
}

/// What the driver gets for octets after DATA, and whether the transaction ended, at every split.
fn received(wire: &[u8], bare: BareLineEnds) -> (Vec<u8>, bool, Vec<u16>) {
    let mut first = None;
    for size in (1..=wire.len()).chain([usize::MAX]) {
        let mut session = Session::ready(Config { bare_line_ends: bare, ..config() }, &["pat"]);
        session.give(b"DATA\r\n");
        session.out.clear();
        wire.chunks(size.min(wire.len())).for_each(|chunk| session.give(chunk));
        let ended = session.server.transaction().is_none();
        let body = session.delivered.first().map(|(_, body)| body.clone()).or(session.body.clone());
        assert!(session.pending.len() <= 3, "{:?}", session.pending);
        let result = (body.unwrap_or_default(), ended, session.codes());
        assert_eq!(first.get_or_insert_with(|| result.clone()), &result, "{} by {size}", wire.escape_ascii());
    }
    first.expect("one split at least")
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    for (wire, body, ended) in [
        (&b".\r\n"[..], &b""[..], true),
        (b"a\r\n.\r\n", b"a\r\n", true),
        (b"\r\n.\r\n", b"\r\n", true),
        (b"a\n.\nb", b"a\r\n.\r\nb", false),
        (b"a\n.\r\nb", b"a\r\n.\r\nb", false),
        (b"a\r\n.\nb", b"a\r\n\r\nb", false),
        (b"a\r.\rb", b"a\r\n.\r\nb", false),
        (b"a\r.\r\nb", b"a\r\n.\r\nb", false),
        (b"a\r\n.\rb", b"a\r\n\r\nb", false),
        (b"a\r\r\n.\r\n", b"a\r\n\r\n", true),
        (b"a\n\r.\n\rb", b"a\r\n\r\n.\r\n\r\nb", false),
        (b"a\r\n.\r\r\nb", b"a\r\n\r\n\r\nb", false),
        (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", true),
        (b"...\r\n.x\r\n.\r\n", b"..\r\nx\r\n", true),
        (b"a\r\n\0.\r\n.\r\n", b"a\r\n\0.\r\n", true),
        (b"\xff\x80\r\n.\r\n", b"\xff\x80\r\n", true),
    ] {
        let (got, got_ended, codes) = received(wire, BareLineEnds::Normalise);
        assert_eq!((got.as_slice(), got_ended), (body, ended), "{}", wire.escape_ascii());
        assert_eq!(codes, if ended { vec![250] } else { vec![] });
    }
}

#[test]
fn bare_line_ends_are_refused_where_asked_and_never_end_a_message() {
    for (wire, codes) in [
        (&b"a\n.\nb\r\n.\r\n"[..], vec![550]),
        (b"a\rb\r\n.\r\n", vec![550]),
        (b"\n.\r\nMAIL FROM:<x@y>\r\n.\r\n", vec![550]),
        (b"a\r\n.\r\n", vec![250]),
    ] {
        let (_, ended, got) = received(wire, BareLineEnds::Refuse);
        assert!(ended);
        assert_eq!(got, codes, "{}", wire.escape_ascii());
    }
}

#[test]
fn pipelined_commands_after_the_end_are_commands_and_before_it_content() {
    let mut session = Session::ready(config(), &["pat"]);
    session.give(b"DATA\r\na\r\n\n.\nMAIL FROM:<evil@x>\r\n.\r\nNOOP\r\nMAIL FROM:<b@c>\r\n");
    assert_eq!(session.codes(), [354, 250, 250, 250]);
    assert_eq!(session.delivered[0].1, b"a\r\n\r\n.\r\nMAIL FROM:<evil@x>\r\n");
    let transaction = session.server.transaction().expect("open");
    assert_eq!(transaction.sender().map(Address::name).as_deref(), Some("b@c"));
}

#[test]
fn each_accepted_recipient_gets_a_reply_duplicates_too() {
    for bdat in [false, true] {
        let mut session = Session::ready(config(), &["pat", "green", "pat", "nobody", "full"]);
        session.give(if bdat { b"BDAT 3 LAST\r\na\r\n" } else { b"DATA\r\na\r\n.\r\n" });
        let replies = [250, 250, 250, 452];
        let expected = if bdat { replies.to_vec() } else { [&[354], &replies[..]].concat() };
        assert_eq!(session.codes(), expected);
        let names: Vec<_> = session.delivered.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["pat@foo.edu", "green@foo.edu", "pat@foo.edu"]);
        assert!(session.server.transaction().is_none());
    }
}

#[test]
fn a_message_over_the_limit_is_swallowed_and_refused_for_each() {
    let limits = Limits { message_octets_max: 10, ..Limits::default() };
    let small = || Config { limits, ..config() };
    let mut session = Session::ready(small(), &["pat", "green"]);
    session.give(b"DATA\r\n12345678\r\n.\r\n");
    assert_eq!(session.codes(), [354, 250, 250]);

    let mut session = Session::ready(small(), &["pat", "green"]);
    session.give(b"DATA\r\n12345678\r\n9\r\nMAIL FROM:<x@y>\r\n.\r\nNOOP\r\n");
    assert_eq!(session.codes(), [354, 552, 552, 250]);
    assert_eq!((session.discarded, session.delivered.len()), (1, 0));

    let mut session = Session::ready(small(), &["pat", "green"]);
    session.give(b"BDAT 6\r\n123456BDAT 6\r\n789012BDAT 4\r\nabcdBDAT 4 LAST\r\nefghNOOP\r\n");
    assert_eq!(session.codes(), [250, 552, 503, 552, 552, 250]);
    assert_eq!((session.discarded, session.delivered.len()), (1, 0));
}

#[test]
fn chunks_are_counted_and_have_no_dots() {
    let mut session = Session::ready(config(), &["pat"]);
    session.give(b"BDAT 5\r\n.\r\n..BDAT 3\r\n\r\nxBDAT 0 LAST\r\n");
    assert_eq!(session.codes(), [250, 250, 250]);
    assert_eq!(session.delivered[0].1, b".\r\n..\r\nx");

    let wire = b"BDAT 2\r\na\rBDAT 2\r\n\nbBDAT 1\r\n\rBDAT 2\r\nc\nBDAT 2 LAST\r\nd\rRSET\r\n";
    for size in 1..=wire.len() {
        let mut session = Session::ready(config(), &["pat"]);
        wire.chunks(size).for_each(|chunk| session.give(chunk));
        assert_eq!(session.codes(), [250, 250, 250, 250, 250, 250], "by {size}");
        assert_eq!(session.delivered[0].1, b"a\r\nb\r\nc\r\nd\r\n", "by {size}");
    }
}

#[test]
fn a_chunk_outside_a_transaction_is_thrown_away_and_never_read_as_commands() {
    let mut session = Session::new(config());
    session.give(b"LHLO x\r\n");
    session.give(b"BDAT 6 LAST\r\nQUIT\r\nBDAT 6\r\nQUIT\r\n");
    session
        .give(b"MAIL FROM:<a@b>\r\nRCPT TO:<jones@x>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    // RFC 2033 §4.3: the last of these BDAT has no reply, since no RCPT succeeded.
    assert_eq!(session.codes(), [220, 250, 503, 503, 250, 550, 503, 250]);
    assert!(session.open && session.delivered.is_empty());
}

#[test]
fn rset_between_chunks_discards() {
    for line in ["RSET", "LHLO y", "QUIT"] {
        let mut session = Session::ready(config(), &["pat"]);
        session.give(b"BDAT 3\r\nabc");
        session.answer(line);
        assert!(session.server.transaction().is_none() && session.delivered.is_empty(), "{line}");
        assert_eq!(session.discarded, usize::from(line != "QUIT"), "QUIT closes, which discards");
    }
}

#[test]
fn a_message_that_the_driver_abandons_is_refused_for_each() {
    let mut session = Session::ready(config(), &["pat", "green"]);
    session.abandon = true;
    session.give(b"DATA\r\nabc\r\n.\r\nNOOP\r\n");
    assert_eq!(session.codes(), [354, 452, 452, 250]);
    assert!(session.delivered.is_empty());
}

#[test]
fn starttls_forgets_everything_and_throws_away_what_was_sent_ahead() {
    let mut session = Session::ready(config(), &["pat"]);
    session.give(b"STARTTLS\r\nLHLO evil\r\nMAIL FROM:<evil@x>\r\n");
    assert_eq!(session.said(), "220 2.0.0 begin TLS\r\n");
    assert!(
        session.server.is_tls() && session.server.lhlo().is_none() && session.server.transaction().is_none()
    );
    assert!(session.pending.is_empty());
    session.give(b"MAIL FROM:<a@b>\r\nSTARTTLS\r\n");
    assert_eq!(session.codes(), [503, 503]);
    assert!(!session.answer("LHLO x").contains("STARTTLS"));
}

#[test]
fn recipients_are_limited_and_the_rest_may_come_later() {
    let limits = Limits { recipients_max: 2, ..Limits::default() };
    let mut session = Session::ready(Config { limits, ..config() }, &["pat", "green"]);
    assert_eq!(session.answer("RCPT TO:<pat@foo.edu>"), "452 4.5.3 too many recipients\r\n");
    session.give(b"DATA\r\n.\r\n");
    assert_eq!(session.codes(), [354, 250, 250]);
}

#[test]
fn long_lines_are_swallowed_and_endless_ones_end_the_session() {
    let mut session = Session::ready(config(), &[]);
    session.give(&[b'x'; 50_000]);
    session.give(b"\r\nNOOP\r\n");
    assert_eq!(session.codes(), [500, 250]);
    (0..100).for_each(|_| session.give(&[b'x'; 1000]));
    assert_eq!(session.said(), "421 4.7.0 too many errors\r\n");
    assert!(!session.open);
    let mut session = Session::ready(config(), &["pat"]);
    session.give(b"DATA\r\n");
    (0..1000).for_each(|_| session.give(&[b'x'; 1000]));
    session.give(b"\r\n.\r\n");
    assert_eq!(session.codes(), [354, 250], "lines of a message have no limit");
}

#[test]
fn a_long_pipeline_is_answered_in_pieces() {
    let (mut input, mut out, mut writes) = (&b"NOOP\r\n".repeat(20_000)[..], Vec::new(), 0);
    let mut server = Server::new(Arc::new(config()), false, &mut out);
    loop {
        let (used, event) = server.next(input, &mut out);
        input = &input[used..];
        assert!(out.len() < Limits::default().output_octets_max + 100);
        out.clear();
        match event {
            Event::Write => writes += 1,
            event => break assert_eq!((event, input), (Event::NeedMore, &b""[..])),
        }
    }
    assert_eq!(writes, 4);
}

#[test]
fn client_and_server_agree() {
    let message = b".a\r\n..\r\nb\r\n.\r\n";
    let address = |text| Address::parse(text).expect("valid");
    let mut wire = Vec::new();
    client::lhlo("x", &mut wire);
    client::mail(Some(&address("\"a b\"@c")), Some(message.len() as u64), true, &mut wire);
    client::rcpt(&address("pat@foo.edu"), &mut wire);
    wire.extend_from_slice(b"DATA\r\n");
    let mut stuffer = Stuffer::new();
    stuffer.push(message, &mut wire);
    stuffer.finish(&mut wire);
    client::mail(None, None, false, &mut wire);
    client::rcpt(&address("pat@foo.edu"), &mut wire);
    client::bdat(4, false, &mut wire);
    wire.extend_from_slice(&message[..4]);
    client::bdat(message.len() as u64 - 4, true, &mut wire);
    wire.extend_from_slice(&message[4..]);
    let mut session = Session::new(config());
    session.give(&wire);
    assert_eq!(session.codes(), [220, 250, 250, 250, 354, 250, 250, 250, 250, 250]);
    assert!(session.delivered.iter().all(|(_, body)| body == message) && session.delivered.len() == 2);

    assert_eq!(client::reply(b"250-a\r\n250 2.1.5 b\r\nx").map(|r| r.map(|(used, _)| used)), Ok(Some(20)));
    let (_, reply) = client::reply(b"550 5.1.1 no\r\n").expect("well formed").expect("whole");
    assert_eq!((reply.code, reply.enhanced, reply.text.as_str()), (550, Some((5, 1, 1)), "no"));
    assert_eq!(client::reply(b"250-a\r\n"), Ok(None));
    for bad in [&b"hello\r\n"[..], b"25\r\n", b"250-a\r\n251 b\r\n", b"250x\r\n", b"250 \xff\r\n"] {
        assert_eq!(client::reply(bad), Err(client::Malformed));
    }
}

/// CRLF at every line's end.
fn canonical(message: &[u8]) -> Vec<u8> {
    let mut octets = message.iter().copied().peekable();
    let mut canonical = Vec::new();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if_eq(&b'\n');
                canonical.extend_from_slice(b"\r\n");
            }
            b'\n' => canonical.extend_from_slice(b"\r\n"),
            _ => canonical.push(octet),
        }
    }
    canonical
}

#[test]
fn binary_chunks_pass_as_they_are() {
    let mut session = Session::new(config());
    session.give(b"LHLO x\r\n");
    let message = b"a\nb\r\0c\r\n.\r\n";
    session.give(b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<pat@foo.edu>\r\nBDAT 5\r\na\nb\r\0BDAT 6 LAST\r\nc\r\n.\r\n");
    assert_eq!(session.delivered.last().map(|(_, body)| body.as_slice()), Some(&message[..]));
}

#[test]
fn corpus_messages_arrive_as_they_are() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let mut folders = vec![corpus];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if count < 300
                && let Ok(message) = std::fs::read(&path)
                && message.len() < 1 << 20
            {
                count += 1;
                let mut wire = b"DATA\r\n".to_vec();
                let mut canonical = canonical(&message);
                let mut stuffer = Stuffer::new();
                stuffer.push(&canonical, &mut wire);
                stuffer.finish(&mut wire);
                if !canonical.is_empty() && !canonical.ends_with(b"\r\n") {
                    canonical.extend_from_slice(b"\r\n");
                }
                let mut session = Session::ready(config(), &["pat"]);
                wire.chunks(1500).for_each(|chunk| session.give(chunk));
                assert_eq!(session.codes(), [354, 250], "{}", path.display());
                assert!(session.delivered[0].1 == canonical, "{}", path.display());
            }
        }
    }
    if count == 0 {
        println!("skipped: no corpus of messages beside the workspace");
    }
}

quickcheck! {
    fn garbage_never_panics(input: Vec<u8>, size: u8, in_data: bool) -> bool {
        let mut session = Session::ready(config(), &["pat"]);
        if in_data {
            session.give(b"DATA\r\n");
        }
        input.chunks(usize::from(size).max(1)).for_each(|chunk| session.give(chunk));
        let _ = client::reply(&input);
        session.pending.len() <= Limits::default().line_octets_max
    }

    fn any_split_gives_the_same_message(words: Vec<u8>, size: u8) -> bool {
        let pieces: [&[u8]; 8] = [b"\r\n", b"\n", b"\r", b".", b"..", b"a", b"\r\n.", b"\0"];
        let body: Vec<u8> = words.iter().flat_map(|w| pieces[usize::from(*w) % 8]).copied().collect();
        let wire = [&b"DATA\r\n"[..], &body, b"\r\n.\r\n"].concat();
        let outcome = |size: usize| {
            let mut session = Session::ready(config(), &["pat"]);
            wire.chunks(size).for_each(|chunk| session.give(chunk));
            (session.said(), session.delivered)
        };
        outcome(usize::from(size).max(1)) == outcome(wire.len())
    }
}
