use super::*;
use quickcheck::{Arbitrary, Gen, TestResult, quickcheck};

fn name(text: &str) -> MailboxName {
    MailboxName::parse(text).unwrap()
}

#[test]
fn names_have_one_stored_form() {
    assert_eq!(name("inbox").as_str(), "INBOX");
    assert_eq!(name("Inbox/Sub").as_str(), "INBOX/Sub");
    assert_eq!(name("inboxes").as_str(), "inboxes");
    assert_eq!(name("a/inbox").as_str(), "a/inbox");
    assert_eq!(name("Zoe\u{308}"), name("Zo\u{eb}"));
    assert_eq!(name("NIL").as_str(), "NIL");
    assert!(name("iNbOx").is_inbox() && !name("INBOX/a").is_inbox());
    assert_eq!(MailboxName::inbox(), name("inbox"));
}

#[test]
fn names_that_no_mailbox_may_have_are_refused() {
    let deep = vec!["a"; 33].join("/");
    for (text, error) in [
        ("", NameError::Empty),
        ("/", NameError::Empty),
        ("/a", NameError::Empty),
        ("a/", NameError::Empty),
        ("a//b", NameError::Empty),
        ("a\0b", NameError::Character),
        ("a\r\nb", NameError::Character),
        ("a\u{7f}", NameError::Character),
        ("a\u{2028}", NameError::Character),
        (deep.as_str(), NameError::TooLong),
    ] {
        assert_eq!(MailboxName::parse(text), Err(error), "{text:?}");
    }
    assert!(MailboxName::parse(&vec!["a"; 32].join("/")).is_ok());
    assert!(MailboxName::parse(&"a".repeat(1000)).is_ok());
    assert_eq!(MailboxName::parse(&"a".repeat(1001)), Err(NameError::TooLong));
    assert_eq!(MailboxName::from_wire(&[b'a'; 1 << 20]), Err(NameError::TooLong));
}

#[test]
fn levels() {
    let deep = name("a/b/c");
    assert_eq!(deep.leaf(), "c");
    assert_eq!(deep.parent(), Some(name("a/b")));
    assert_eq!(deep.ancestors().collect::<Vec<_>>(), [name("a/b"), name("a")]);
    assert_eq!(name("a").parent(), None);
    assert!(deep.starts_under(&name("a")) && deep.starts_under(&name("a/b")));
    assert!(!deep.starts_under(&deep) && !name("ab").starts_under(&name("a")));
    assert_eq!(name("a").join("b/c").unwrap(), deep);
    assert_eq!(deep.renamed(&name("a"), &name("x/y")), Some(Ok(name("x/y/b/c"))));
    assert_eq!(deep.renamed(&deep, &name("x")), Some(Ok(name("x"))));
    assert_eq!(name("ab").renamed(&name("a"), &name("x")), None);
}

#[test]
fn modified_utf7_is_the_rfcs() {
    // RFC 3501 §5.1.3: the examples.
    assert_eq!(
        name("~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}").to_mutf7(),
        "~peter/mail/&U,BTFw-/&ZeVnLIqe-"
    );
    assert_eq!(MailboxName::from_wire(b"&Jjo-!").unwrap().as_str(), "\u{263a}!");
    assert_eq!(
        MailboxName::from_wire(b"&U,BTF2XlZyyKng-").unwrap().as_str(),
        "\u{53f0}\u{5317}\u{65e5}\u{672c}\u{8a9e}"
    );
    assert_eq!(MailboxName::from_wire(b"a&-b").unwrap().as_str(), "a&b");
    assert_eq!(name("a&b").to_mutf7(), "a&-b");
    assert_eq!(name("\u{1f600}").to_mutf7(), "&2D3eAA-");
    for wire in [
        "&Jjo!",              // RFC 3501 §5.1.3: no shift back to US-ASCII
        "&U,BTFw-&ZeVnLIqe-", // superfluous shift
        "&AGE-",              // an ASCII letter in base64
        "&",
        "&-&",
        "&Jjp-", // bits left over
        "&2D0-", // half a surrogate pair
        "&J-",
        "&Jj/-",
        "caf\u{e9}",
        "a\tb",
    ] {
        assert_eq!(MailboxName::from_wire(wire.as_bytes()), Err(NameError::Encoding), "{wire}");
    }
    assert_eq!(MailboxName::from_wire_create(b"a/b/"), Ok(name("a/b")));
    assert_eq!(MailboxName::from_wire_create(b"a//"), Err(NameError::Empty));
    assert_eq!(MailboxName::from_wire(b"a/"), Err(NameError::Empty));
}

quickcheck! {
    fn modified_utf7_round_trips(text: String) -> TestResult {
        if text.chars().any(|c| c == '\0') {
            return TestResult::discard();
        }
        let wire = encode_mutf7(&text).into_owned();
        let ascii = wire.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
        TestResult::from_bool(ascii && decode_mutf7(wire.as_bytes()) == Some(text))
    }

    fn every_decoding_encodes_to_the_same_octets(wire: Vec<u8>) -> bool {
        decode_mutf7(&wire).is_none_or(|text| encode_mutf7(&text).as_bytes() == wire)
    }

    fn names_survive_both_forms(text: String) -> TestResult {
        match MailboxName::parse(&text) {
            Ok(name) => TestResult::from_bool(
                MailboxName::parse(name.as_str()) == Ok(name.clone())
                    && MailboxName::from_wire(name.to_mutf7().as_bytes()) == Ok(name),
            ),
            Err(_) => TestResult::discard(),
        }
    }

    fn patterns_match_as_the_naive_matcher(pattern: Glob, name: Glob) -> bool {
        let name = name.0.replace(['*', '%'], "c");
        ListPattern::new(&pattern.0).unwrap().matches(&name) == naive(pattern.0.as_bytes(), name.as_bytes())
    }
}

#[derive(Clone, Debug)]
struct Glob(String);

impl Arbitrary for Glob {
    fn arbitrary(g: &mut Gen) -> Glob {
        // Some beyond 64 octets, where the state crosses a word.
        let octets = usize::arbitrary(g) % if bool::arbitrary(g) { 12 } else { 20 };
        let text: String = (0..octets).map(|_| *g.choose(&['a', 'b', '/', '*', '%', 'c']).unwrap()).collect();
        let lead = if bool::arbitrary(g) { "x".repeat(58) } else { String::new() };
        Glob(lead + &text)
    }
}

fn naive(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| naive(rest, &name[at..])),
        Some((b'%', rest)) => {
            let level = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=level).any(|at| naive(rest, &name[at..]))
        }
        Some((byte, rest)) => name.first() == Some(byte) && naive(rest, &name[1..]),
    }
}

#[test]
fn patterns() {
    for (pattern, text, expect) in [
        ("*", "INBOX", true),
        ("*", "a/b/c", true),
        ("%", "a", true),
        ("%", "a/b", false),
        ("%/%", "a/b", true),
        ("a/%", "a/b/c", false),
        ("a/*", "a/b/c", true),
        ("a/*", "a", false),
        ("a*", "a", true),
        ("*%*", "x/y", true),
        ("%*", "x/y", true),
        ("", "", true),
        ("", "a", false),
        ("inbox", "INBOX", true),
        ("Inb%", "INBOX", true),
        ("inbox/%", "INBOX/Sub", true),
        ("inbox/sub", "INBOX/Sub", false),
        ("*box", "INBOX", true),
        ("sent", "Sent", false),
        ("zoe\u{308}", "zo\u{eb}", true),
    ] {
        assert_eq!(ListPattern::new(pattern).unwrap().matches(text), expect, "{pattern} {text}");
    }
    assert!(ListPattern::from_wire(b"&U,BTFw-/", b"%").unwrap().matches("\u{53f0}\u{5317}/a"));
    assert_eq!(ListPattern::from_wire(b"&", b"%").unwrap_err(), NameError::Encoding);
    assert_eq!(ListPattern::new(&"a".repeat(1024)).unwrap_err(), NameError::TooLong);
    assert!(ListPattern::new(&"a".repeat(1023)).unwrap().matches(&"a".repeat(1023)));
}

#[test]
fn hostile_patterns_take_no_longer() {
    let pattern = ListPattern::new(&"*a".repeat(511)).unwrap();
    let text = "a".repeat(1000);
    let mut matched = 0;
    for _ in 0..200 {
        matched += u32::from(pattern.matches(&(text.clone() + "b")));
        matched += u32::from(pattern.matches(&text));
    }
    assert_eq!(matched, 200);
}
