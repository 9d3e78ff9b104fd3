//! URLs: the RFCs' examples, what is refused, and that what is written is read back.

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::super::url::*;
use super::arbitrary::{flip, mailbox, octets, pick, section, text, up_to};
use culver_model::mime::{Section, SectionText};
use culver_model::name::NameError;
use culver_model::{InternalDate, MailboxName, Uid, UidValidity};

fn parse(text: &str) -> Url {
    Url::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> UrlError {
    match Url::parse(text.as_bytes()) {
        Ok(url) => panic!("{text}: {url:?}"),
        Err(error) => error,
    }
}

fn server(user: Option<&str>, auth: Option<&str>, host: &str) -> Option<UrlServer> {
    let (user, auth) = (user.map(str::to_owned), auth.map(str::to_owned));
    Some(UrlServer { user, auth, host: host.to_owned(), port: None })
}

fn named(name: &str, validity: u32) -> UrlMailbox {
    UrlMailbox { name: MailboxName::parse(name).unwrap(), uid_validity: UidValidity::new(validity) }
}

fn message(mailbox: Option<UrlMailbox>, uid: u32) -> UrlMessage {
    let uid = Uid::new(uid).unwrap();
    UrlMessage { mailbox, uid, section: Section::default(), partial: None, auth: None }
}

fn part(numbers: &[u32], text: Option<SectionText>) -> Section {
    Section { part: numbers.to_vec(), text }
}

/// RFC 5092 §9.
#[test]
fn the_examples_of_rfc_5092_section_9() {
    let url = parse("imap://minbari.example.org/gray-council;UIDVALIDITY=385759045/;UID=20/;PARTIAL=0.1024");
    assert_eq!(url.server, server(None, None, "minbari.example.org"));
    let expect = message(Some(named("gray-council", 385759045)), 20);
    assert_eq!(url.target, UrlTarget::Message(UrlMessage { partial: Some((0, Some(1024))), ..expect }));

    let url = parse("imap://psicorp.example.org/~peter/%E6%97%A5%E6%9C%AC%E8%AA%9E/%E5%8F%B0%E5%8C%97");
    let UrlTarget::Mailbox { mailbox, search: None } = url.target else { panic!("a mailbox") };
    assert_eq!(mailbox.name.to_mutf7(), "~peter/&ZeVnLIqe-/&U,BTFw-");

    let url = parse("imap://;AUTH=GSSAPI@minbari.example.org/gray-council/;uid=20/;section=1.2");
    assert_eq!(url.server, server(None, Some("GSSAPI"), "minbari.example.org"));
    let expect = message(Some(named("gray-council", 0)), 20);
    assert_eq!(url.target, UrlTarget::Message(UrlMessage { section: part(&[1, 2], None), ..expect }));

    let url = parse("imap://;AUTH=*@minbari.example.org/gray%20council?SUBJECT%20shadows");
    assert_eq!(url.server, server(None, Some("*"), "minbari.example.org"));
    let search = Some(b"SUBJECT shadows".to_vec());
    assert_eq!(url.target, UrlTarget::Mailbox { mailbox: named("gray council", 0), search });

    let url = parse(
        "imap://john;AUTH=*@minbari.example.org/babylon5/personel?charset%20UTF-8%20SUBJECT%20%7B14+%7D%0D%0A\
         %D0%98%D0%B2%D0%B0%D0%BD%D0%BE%D0%B2%D0%B0",
    );
    assert_eq!(url.server, server(Some("john"), Some("*"), "minbari.example.org"));
    let search = "charset UTF-8 SUBJECT {14+}\r\n\u{418}\u{432}\u{430}\u{43d}\u{43e}\u{432}\u{430}";
    let search = Some(search.as_bytes().to_vec());
    assert_eq!(url.target, UrlTarget::Mailbox { mailbox: named("babylon5/personel", 0), search });
}

/// RFC 5092 §9.1.
#[test]
fn the_relative_examples_of_rfc_5092_section_9_1() {
    assert_eq!(parse("/foo/;UID=20/.."), parse("/foo"));
    assert_eq!(parse(";UID=20").target, UrlTarget::Message(message(None, 20)));
    assert_eq!(parse("/;UID=20"), parse(";UID=20"));
    // A path that would have to be merged, in which `..` is a name.
    assert_eq!(refused("..;UIDVALIDITY=385759045/;UID=20"), UrlError::RelativePath);
    let expect = message(Some(named("..", 385759045)), 20);
    assert_eq!(parse("/..;UIDVALIDITY=385759045/;UID=20").target, UrlTarget::Message(expect));
}

/// RFC 4469 §3.
#[test]
fn the_urls_of_catenate() {
    let selected = named("Drafts", 7);
    let drafts = message(Some(named("Drafts", 385759045)), 20);
    for (text, expect) in [
        ("/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER", part(&[], Some(SectionText::Header))),
        ("/Drafts;UIDVALIDITY=385759045/;UID=20/;section=1.MIME", part(&[1], Some(SectionText::Mime))),
        ("/Drafts;UIDVALIDITY=385759045/;UID=20/;Section=2", part(&[2], None)),
        ("/Drafts;UIDVALIDITY=385759045/;UID=20", Section::default()),
        (
            "/Drafts;UIDVALIDITY=385759045/;UID=20/;section=1.HEADER.FIELDS%20(Date%20%22a%22)",
            part(&[1], Some(SectionText::HeaderFields(vec!["Date".into(), "a".into()]))),
        ),
    ] {
        let message = Url::catenated(text.as_bytes(), None).unwrap();
        assert_eq!(message, UrlMessage { section: expect, ..drafts.clone() }, "{text}");
    }
    for text in [";UID=20/;SECTION=1/;PARTIAL=5", "/;UID=20/;SECTION=1/;PARTIAL=5"] {
        let expect = message(Some(selected.clone()), 20);
        let expect = UrlMessage { section: part(&[1], None), partial: Some((5, None)), ..expect };
        assert_eq!(Url::catenated(text.as_bytes(), Some(&selected)), Ok(expect), "{text}");
        assert_eq!(Url::catenated(text.as_bytes(), None), Err(UrlError::NoBase), "{text}");
    }
    for (text, expect) in [
        ("imap://joe@example.com/INBOX/;UID=20", UrlError::Absolute),
        ("//joe@example.com/INBOX/;UID=20", UrlError::Absolute),
        ("/INBOX/;UID=20;URLAUTH=anonymous", UrlError::Absolute),
        ("/INBOX", UrlError::NotMessage),
        ("/INBOX;UIDVALIDITY=5", UrlError::NotMessage),
        ("", UrlError::NotMessage),
    ] {
        assert_eq!(Url::catenated(text.as_bytes(), Some(&selected)), Err(expect), "{text}");
    }
}

/// RFC 4467 §6 and §9, RFC 5092 §6.1.2.
#[test]
fn authorized_urls() {
    let rump_text = "imap://joe@example.com/INBOX/;uid=20/;section=1.2;urlauth=submit+fred";
    let full_text = format!("{rump_text}:internal:91354a473744909de610943775f92038");
    let (server_of, mut named_of) = Url::authorized(rump_text.as_bytes()).unwrap();
    assert_eq!(Some(server_of), server(Some("joe"), None, "example.com"));
    let auth = named_of.auth.take().unwrap();
    assert_eq!(auth, UrlAuth { expire: None, access: UrlAccess::Submit("fred".into()), verifier: None });
    let expect = message(Some(named("INBOX", 0)), 20);
    assert_eq!(named_of, UrlMessage { section: part(&[1, 2], None), ..expect });
    let (_, full) = Url::authorized(full_text.as_bytes()).unwrap();
    let verifier = full.auth.unwrap().verifier.unwrap();
    assert_eq!(verifier.mechanism, "internal");
    assert_eq!(verifier.token, "91354a473744909de610943775f92038");
    assert_eq!(rump(full_text.as_bytes()), rump_text.as_bytes());
    assert_eq!(rump(rump_text.as_bytes()), rump_text.as_bytes());

    for (text, seconds, zone) in [
        ("2026-11-28T12:00:00Z", 1_795_867_200, 0),
        ("2026-11-28t14:00:00.999+02:00", 1_795_867_200, 120),
        ("2026-11-28T06:30:00-05:30", 1_795_867_200, -330),
    ] {
        let url = format!("imap://a@h:1430/b/;uid=1;expire={text};urlauth=user+%C3%A4");
        let (server, message) = Url::authorized(url.as_bytes()).unwrap();
        assert_eq!(server.port, Some(1430));
        let auth = message.auth.unwrap();
        assert_eq!(auth.expire, Some(InternalDate::new(seconds, zone)), "{text}");
        assert_eq!(auth.access, UrlAccess::User("\u{e4}".into()));
    }
    for (text, expect) in [
        ("imap://a@h/b/;UID=1", UrlError::NotAuthorized),
        ("imap://a@h/b", UrlError::NotMessage),
        ("/b/;UID=1;URLAUTH=anonymous", UrlError::Server),
        ("imap://a@h/b;URLAUTH=anonymous", UrlError::Malformed("parameter")),
        ("imap://a@h/b/;UID=1/;URLAUTH=anonymous", UrlError::Malformed("parameter")),
        ("imap://a@h/b/;UID=1;URLAUTH=everybody", UrlError::Malformed("URLAUTH")),
        ("imap://a@h/b/;UID=1;URLAUTH=user+", UrlError::Malformed("URLAUTH")),
        ("imap://a@h/b/;UID=1;URLAUTH=anonymous:INTERNAL", UrlError::Malformed("URLAUTH")),
        ("imap://a@h/b/;UID=1;URLAUTH=anonymous:INTERNAL:91354a47", UrlError::Malformed("URLAUTH")),
        ("imap://a@h/b/;UID=1;EXPIRE=2026-11-28T12:00:00Z", UrlError::Malformed("URLAUTH")),
        ("imap://a@h/b/;UID=1;EXPIRE=2026-11-28;URLAUTH=anonymous", UrlError::Malformed("EXPIRE")),
        ("imap://a@h/b/;UID=1;EXPIRE=2026-02-30T12:00:00Z;URLAUTH=anonymous", UrlError::Malformed("EXPIRE")),
    ] {
        assert_eq!(Url::authorized(text.as_bytes()), Err(expect), "{text}");
    }
}

#[test]
fn what_is_no_url_is_refused() {
    for (text, expect) in [
        ("http://example.com/INBOX", UrlError::Scheme),
        ("imap:INBOX", UrlError::Scheme),
        ("INBOX/;UID=1", UrlError::RelativePath),
        ("./INBOX", UrlError::RelativePath),
        ("/a b/;UID=1", UrlError::Character),
        ("/\u{e4}/;UID=1", UrlError::Character),
        ("/%C3/;UID=1", UrlError::Character),
        ("/%4/;UID=1", UrlError::Character),
        ("/[a]/;UID=1", UrlError::Character),
        ("/%00/;UID=1", UrlError::Mailbox(NameError::Character)),
        ("/a//b/;UID=1", UrlError::Mailbox(NameError::Empty)),
        ("/INBOX;UID=1", UrlError::Malformed("UID")),
        ("/INBOX/;UID=0", UrlError::Malformed("UID")),
        ("/INBOX/;UID=4294967296", UrlError::Malformed("UID")),
        ("/INBOX/;UID=+1", UrlError::Malformed("UID")),
        ("/INBOX/;UID=", UrlError::Malformed("UID")),
        ("/INBOX/;UID=1/", UrlError::Malformed("parameter")),
        ("/INBOX/;UID=1?ALL", UrlError::Malformed("search")),
        ("/INBOX;UIDVALIDITY=0/;UID=1", UrlError::Malformed("UIDVALIDITY")),
        ("/INBOX/;UIDVALIDITY=1/;UID=1", UrlError::Malformed("UIDVALIDITY")),
        ("/INBOX/;UID=1/;SECTION=", UrlError::Malformed("SECTION")),
        ("/INBOX/;UID=1/;SECTION=1.0", UrlError::Malformed("SECTION")),
        ("/INBOX/;UID=1/;SECTION=MIME", UrlError::Malformed("SECTION")),
        ("/INBOX/;UID=1/;SECTION=1%5D", UrlError::Malformed("SECTION")),
        ("/INBOX/;UID=1/;PARTIAL=0.0", UrlError::Malformed("PARTIAL")),
        ("/INBOX/;UID=1/;PARTIAL=1.2.3", UrlError::Malformed("PARTIAL")),
        ("/INBOX/;UID=1/;PARTIAL=0.5/;SECTION=1", UrlError::Malformed("URLAUTH")),
        ("/INBOX/;SECTION=1", UrlError::Malformed("parameter")),
        ("imap://", UrlError::Server),
        ("imap://@h/INBOX", UrlError::Server),
        ("imap://a;b@h/INBOX", UrlError::Server),
        ("imap://;AUTH=@h/INBOX", UrlError::Server),
        ("imap://[::1/INBOX", UrlError::Server),
        ("imap://[]/INBOX", UrlError::Server),
        ("imap://h:99999/INBOX", UrlError::Server),
        ("imap://h/;UID=1", UrlError::Malformed("mailbox")),
        ("imap://h//a", UrlError::Malformed("mailbox")),
    ] {
        assert_eq!(refused(text), expect, "{text}");
    }
    assert_eq!(Url::parse(&[b'/'; Url::OCTETS_MAX + 1]), Err(UrlError::TooLong));
    assert_eq!(parse("imap://[::1]:143/").server.unwrap().host, "[::1]");
    assert_eq!(parse("IMAP://h:").server, server(None, None, "h"));
    assert_eq!(parse("imap://h/INBOX/"), parse("imap://h/INBOX"));
}

#[derive(Clone, Debug)]
struct AnyUrl(Url);

fn user(g: &mut Gen) -> String {
    text(g) + "u"
}

fn auth(g: &mut Gen) -> UrlAuth {
    let expire = flip(g).then(|| {
        InternalDate::new(i64::from(u32::arbitrary(g)), i16::try_from(up_to(g, 1400)).unwrap() - 700)
    });
    let access = match up_to(g, 3) {
        0 => UrlAccess::Submit(user(g)),
        1 => UrlAccess::User(user(g)),
        2 => UrlAccess::AuthUser,
        _ => UrlAccess::Anonymous,
    };
    let verifier = flip(g).then(|| UrlVerifier {
        mechanism: pick(g, &["INTERNAL", "x-A.1"]).to_owned(),
        token: pick(g, &["0123456789abcdefABCDEF9876543210", "91354a473744909de610943775f9203891354a47"])
            .to_owned(),
    });
    UrlAuth { expire, access, verifier }
}

impl Arbitrary for AnyUrl {
    fn arbitrary(g: &mut Gen) -> AnyUrl {
        let server = flip(g).then(|| UrlServer {
            user: flip(g).then(|| user(g)),
            auth: flip(g).then(|| pick(g, &["*", "PLAIN", "a;b"]).to_owned()),
            host: pick(g, &["example.org", "192.0.2.1", "[2001:db8::1]"]).to_owned(),
            port: flip(g).then(|| u16::arbitrary(g)),
        });
        let mailbox = match up_to(g, 4) {
            0 => named("../a/./..", 3),
            _ => UrlMailbox { name: mailbox(g), uid_validity: UidValidity::new(u32::arbitrary(g) % 3) },
        };
        let target = match up_to(g, 5) {
            0 => UrlTarget::Server,
            1 => UrlTarget::Mailbox { mailbox, search: flip(g).then(|| octets(g)) },
            _ => UrlTarget::Message(UrlMessage {
                mailbox: (server.is_some() || flip(g)).then_some(mailbox),
                uid: Uid::new(u32::arbitrary(g).max(1)).unwrap(),
                section: section(g),
                partial: flip(g).then(|| (u32::arbitrary(g), flip(g).then(|| u32::arbitrary(g).max(1)))),
                auth: flip(g).then(|| auth(g)),
            }),
        };
        AnyUrl(Url { server, target })
    }
}

quickcheck! {
    fn what_is_written_is_read_back(url: AnyUrl) -> bool {
        let text = url.0.to_string();
        let back = Url::parse(text.as_bytes());
        assert_eq!(back.as_ref(), Ok(&url.0), "{text}");
        rump(text.as_bytes()).len() <= text.len()
    }

    fn no_octets_panic(picks: Vec<u8>) -> bool {
        const PIECES: [&str; 24] = [
            "/", ";", "?", "%", "41", ".", "..", ":", "@", "imap://", ";UID=", ";UIDVALIDITY=", ";SECTION=", ";PARTIAL=",
            ";EXPIRE=", ";URLAUTH=", "anonymous", "1", "a", "[", "]", "\u{e4}", "HEADER.FIELDS%20(", "{4}",
        ];
        let text: String = picks.iter().map(|pick| PIECES[usize::from(*pick) % PIECES.len()]).collect();
        rump(text.as_bytes());
        match Url::parse(text.as_bytes()) {
            Ok(url) => Url::parse(url.to_string().as_bytes()) == Ok(url),
            Err(_) => true,
        }
    }
}
