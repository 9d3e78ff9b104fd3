use super::*;
use quickcheck::quickcheck;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

fn scan(text: &str) -> Message {
    Message::scan(&crlf(text))
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8_lossy(&octets).into_owned()
}

fn section(spec: &str) -> Section {
    let (mut part, mut rest) = (Vec::new(), spec);
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()).or(Some(rest.len())).filter(|end| *end > 0)
    {
        part.push(rest[..end].parse().unwrap());
        rest = rest[end..].strip_prefix('.').unwrap_or(&rest[end..]);
    }
    let (word, names) = rest.split_once(' ').unwrap_or((rest, ""));
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    let text = match word {
        "" => None,
        "HEADER" => Some(SectionText::Header),
        "HEADER.FIELDS" => Some(SectionText::HeaderFields(names)),
        "HEADER.FIELDS.NOT" => Some(SectionText::HeaderFieldsNot(names)),
        "TEXT" => Some(SectionText::Text),
        "MIME" => Some(SectionText::Mime),
        other => panic!("{other}"),
    };
    Section { part, text }
}

/// What `BODY[spec]` answers, with LF line ends; `None` for NIL.
fn fetch(message: &[u8], spec: &str) -> Option<String> {
    let table = PartTable::decode(&Message::scan(message).table().encode()).unwrap();
    let section = section(spec);
    let resolved = resolve(&table, &section)?;
    let octets = &message[resolved.range.start as usize..resolved.range.end as usize];
    let octets = match resolved.fields {
        Some(fields) => filter_header(octets, fields.names, fields.not),
        None => octets.to_vec(),
    };
    Some(text(octets).replace("\r\n", "\n"))
}

/// RFC 3501 §8: the message of the sample session.
fn sample(body: &str) -> String {
    format!(
        "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\nFrom: Terry Gray <gray@cac.washington.edu>\n\
         Subject: IMAP4rev1 WG mtg summary and minutes\nTo: imap@cac.washington.edu\n\
         cc: minutes@CNRI.Reston.VA.US, John Klensin <KLENSIN@MIT.EDU>\n\
         Message-Id: <B27397-0100000@cac.washington.edu>\nMIME-Version: 1.0\n\
         Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\n\n{body}"
    )
}

#[test]
fn envelope_and_body_of_the_sample_session() {
    // 92 lines, 3028 octets.
    let body = "x".repeat(3028 - 92 * 2 - 91) + "\n" + &"y\n".repeat(91);
    let message = scan(&sample(&body));
    assert_eq!(
        text(envelope(&message)),
        "(\"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\" \"IMAP4rev1 WG mtg summary and minutes\" \
         ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
         ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
         ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
         ((NIL NIL \"imap\" \"cac.washington.edu\")) \
         ((NIL NIL \"minutes\" \"CNRI.Reston.VA.US\")(\"John Klensin\" NIL \"KLENSIN\" \"MIT.EDU\")) NIL NIL \
         \"<B27397-0100000@cac.washington.edu>\")"
    );
    let expect = "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 3028 92";
    assert_eq!(text(super::body(&message)), format!("{expect})"));
    assert_eq!(text(bodystructure(&message)), format!("{expect} NIL NIL NIL NIL)"));
}

#[test]
fn bodystructure_of_the_rfcs_attachment() {
    // RFC 3501 §7.4.2: 1152 octets in 23 lines, 4554 octets in 73 lines.
    let first = "a".repeat(1152 - 23 * 2) + &"\n".repeat(23);
    let second = "b".repeat(4554 - 73 * 2) + &"\n".repeat(73);
    let message = scan(&format!(
        "Content-Type: MULTIPART/MIXED; BOUNDARY=\"x y\"\n\npreamble\n--x y\nContent-Type: TEXT/PLAIN; \
         CHARSET=US-ASCII\n\n{first}\n--x y\nContent-Type: TEXT/PLAIN; CHARSET=US-ASCII; NAME=\"cc.diff\"\n\
         Content-ID: <960723163407.20117h@cac.washington.edu>\nContent-Description: Compiler diff\n\
         Content-Transfer-Encoding: BASE64\n\n{second}\n--x y--\nepilogue\n"
    ));
    assert_eq!(
        text(body(&message)),
        "((\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 1152 23)(\"TEXT\" \"PLAIN\" (\"CHARSET\" \
         \"US-ASCII\" \"NAME\" \"cc.diff\") \"<960723163407.20117h@cac.washington.edu>\" \"Compiler diff\" \"BASE64\" \
         4554 73) \"MIXED\")"
    );
}

#[test]
fn bodystructure_of_imaptest() {
    let message = scan(
        "Content-Type: multipart/mixed; boundary=\"foo\n bar\"\n\n--foo bar\nContent-Type: text/x-myown; \
         charset=us-ascii\n\nhello\n\n--foo bar--\n\n",
    );
    let expect = "((\"text\" \"x-myown\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 7 1) \"mixed\")";
    assert_eq!(text(body(&message)), expect);
}

#[test]
fn extension_data() {
    let message = scan(
        "Content-Type: multipart/alternative; boundary=b; x=y\nContent-Disposition: inline\nContent-Language: de\n\
         Content-Location: http://x/\n\n--b\nContent-Type: text/html\nContent-MD5: abc==\n\
         Content-Disposition: attachment; filename=\"a \\\"b\\\".html\"; size=3\nContent-Language: en, (c) fr\n\n\
         abc\n--b--\n",
    );
    assert_eq!(
        text(bodystructure(&message)),
        "((\"text\" \"html\" NIL NIL NIL \"7BIT\" 3 0 \"abc==\" (\"attachment\" (\"filename\" \"a \\\"b\\\".html\" \
         \"size\" \"3\")) (\"en\" \"fr\") NIL) \"alternative\" (\"boundary\" \"b\" \"x\" \"y\") (\"inline\" NIL) \"de\" \
         \"http://x/\")"
    );
}

#[test]
fn bodystructure_of_an_embedded_message() {
    let message = scan(
        "Content-Type: Message/RFC822\nContent-ID: <i>\n\nDate: d\nFrom: a@b\nContent-Type: multipart/mixed; \
         boundary=b\n\n--b\n\none\ntwo\n--b\nContent-Type: image/png\nContent-Transfer-Encoding: base64 (c)\n\nAAAA\n\
         --b--\n",
    );
    let address = "((NIL NIL \"a\" \"b\"))";
    assert_eq!(
        text(bodystructure(&message)),
        format!(
            "(\"Message\" \"RFC822\" NIL \"<i>\" NIL \"7BIT\" 166 (\"d\" NIL {address} {address} {address} NIL NIL NIL NIL \
             NIL) ((\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 8 1 NIL NIL NIL NIL)(\"image\" \"png\" NIL \
             NIL NIL \"base64\" 4 NIL NIL NIL NIL) \"mixed\" (\"boundary\" \"b\") NIL NIL NIL) 14 NIL NIL NIL NIL)"
        )
    );
}

#[test]
fn envelope_tells_absent_from_empty() {
    let of = |header: &str| text(envelope(&scan(header)));
    assert_eq!(of("\n"), "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
    assert_eq!(
        of("Date:\nSubject: \nFrom:\nSender:\nReply-To:\nTo:\nIn-Reply-To:\nMessage-ID:\n\n"),
        "(\"\" \"\" NIL NIL NIL NIL NIL NIL \"\" \"\")"
    );
    assert_eq!(
        of("From: a@b (Real Name)\nSender: \nReply-To: \n\n"),
        "(NIL NIL ((\"Real Name\" NIL \"a\" \"b\")) ((\"Real Name\" NIL \"a\" \"b\")) ((\"Real Name\" NIL \"a\" \
         \"b\")) NIL NIL NIL NIL NIL)"
    );
    assert_eq!(
        of("Subject: a\n \"b\\c\"\nTo: =?utf-8?q?Z=C3=B6?= <z@x>\n\n"),
        "(NIL \"a \\\"b\\\\c\\\"\" NIL NIL NIL ((\"=?utf-8?q?Z=C3=B6?=\" NIL \"z\" \"x\")) NIL NIL NIL NIL)"
    );
    assert_eq!(of("Subject: Zo\u{eb}\n\n"), "(NIL {4}\r\nZo\u{eb} NIL NIL NIL NIL NIL NIL NIL NIL)");
    assert_eq!(of("Subject: a\0b\n\n"), "(NIL \"ab\" NIL NIL NIL NIL NIL NIL NIL NIL)");
}

#[test]
fn address_lists() {
    let of = |value: &str| {
        let header = format!("To: {value}\n\n");
        let wire = text(envelope(&scan(&header)));
        wire.strip_prefix("(NIL NIL NIL NIL NIL ")
            .unwrap()
            .strip_suffix(" NIL NIL NIL NIL)")
            .unwrap()
            .replace("NIL", "-")
    };
    for (value, expect) in [
        ("", "-"),
        (" , ,", "-"),
        ("a@b", "((- - \"a\" \"b\"))"),
        ("a@b, c@d", "((- - \"a\" \"b\")(- - \"c\" \"d\"))"),
        ("Joe <a@b>", "((\"Joe\" - \"a\" \"b\"))"),
        ("\"Doe, Joe\" <a@b>", "((\"Doe, Joe\" - \"a\" \"b\"))"),
        ("John Q. Public <a.b@c.d>", "((\"John Q. Public\" - \"a.b\" \"c.d\"))"),
        ("a@b (Joe (x) Doe)", "((\"Joe (x) Doe\" - \"a\" \"b\"))"),
        ("<@r1,@r2:a@b>", "((- \"@r1,@r2\" \"a\" \"b\"))"),
        ("<a (c)@ (d) b.c>", "((\"d\" - \"a\" \"b.c\"))"),
        ("g: a@b, c@d;", "((- - \"g\" -)(- - \"a\" \"b\")(- - \"c\" \"d\")(- - - -))"),
        ("g:;, h: (x) ;", "((- - \"g\" -)(- - - -)(- - \"h\" -)(- - - -))"),
        ("g: Joe <a@b>; , c@d", "((- - \"g\" -)(\"Joe\" - \"a\" \"b\")(- - - -)(- - \"c\" \"d\"))"),
        ("g: a@b", "((- - \"g\" -)(- - \"a\" \"b\")(- - - -))"),
        ("\"a b\"@c", "((- - \"a b\" \"c\"))"),
        ("a@[1.2.3.4]", "((- - \"a\" \"[1.2.3.4]\"))"),
        ("a@[IPv6:1::2] , b@c", "((- - \"a\" \"[IPv6:1::2]\")(- - \"b\" \"c\"))"),
        ("Joe Doe joe@x", "((\"Joe Doe\" - \"joe\" \"x\"))"),
        ("undisclosed", "((- - \"undisclosed\" \"\"))"),
        ("<>", "((- - \"\" \"\"))"),
        ("=?utf-8?q?Doe,_J?= <a@b>", "((\"=?utf-8?q?Doe,_J?=\" - \"a\" \"b\"))"),
        ("a@b@c", "((- - \"a@b\" \"c\"))"),
        ("Joe <a@b", "((\"Joe\" - \"a\" \"b\"))"),
        ("\"Joe", "((- - \"Joe\" \"\"))"),
        ("(only a comment", "-"),
        ("<mailto:a@b>", "((- - \"mailto:a\" \"b\"))"),
    ] {
        assert_eq!(of(value), expect, "{value}");
    }
    assert_eq!(parse_addresses(b"a@b,c@d,e@f,g@h", 3).len(), 2);
}

#[test]
fn section_numbers_of_the_rfc() {
    // RFC 3501 §6.4.5: the example of part specifiers.
    let message = crlf(
        "Subject: top\nContent-Type: multipart/mixed; boundary=o\n\n\
         --o\nContent-Type: text/plain\n\none\n\
         --o\nContent-Type: application/octet-stream\n\ntwo\n\
         --o\nContent-Type: message/rfc822\nX-Mime: three\n\n\
         Subject: third\nContent-Type: multipart/mixed; boundary=i\n\npre\n--i\n\nthree.one\n--i\n\
         Content-Type: application/octet-stream\n\nthree.two\n--i--\n\
         --o\nContent-Type: multipart/mixed; boundary=j\nX-Mime: four\n\n\
         --j\nContent-Type: image/gif\nX-Mime: four.one\n\nfour.one\n\
         --j\nContent-Type: message/rfc822\n\n\
         Subject: four.two\nContent-Type: multipart/mixed; boundary=k\n\n\
         --k\n\nfour.two.one\n--k\nContent-Type: multipart/alternative; boundary=l\n\n\
         --l\n\nplain\n--l\nContent-Type: text/richtext\n\nrich\n--l--\n--k--\n--j--\n--o--\n",
    );
    let get = |spec| fetch(&message, spec);
    assert_eq!(
        get("").unwrap().len(),
        String::from_utf8(message.clone()).unwrap().replace("\r\n", "\n").len()
    );
    assert_eq!(get("HEADER").unwrap(), "Subject: top\nContent-Type: multipart/mixed; boundary=o\n\n");
    assert!(get("TEXT").unwrap().starts_with("--o\n") && get("TEXT").unwrap().ends_with("--o--\n"));
    assert_eq!(get("MIME"), None);
    assert_eq!(get("1").unwrap(), "one");
    assert_eq!(get("1.MIME").unwrap(), "Content-Type: text/plain\n\n");
    assert_eq!(get("1.1"), None);
    assert_eq!(get("1.HEADER"), None);
    assert_eq!(get("1.TEXT"), None);
    assert_eq!(get("2").unwrap(), "two");
    assert!(get("3").unwrap().starts_with("Subject: third\n") && get("3").unwrap().ends_with("--i--"));
    assert_eq!(get("3.MIME").unwrap(), "Content-Type: message/rfc822\nX-Mime: three\n\n");
    assert_eq!(get("3.HEADER").unwrap(), "Subject: third\nContent-Type: multipart/mixed; boundary=i\n\n");
    assert_eq!(get("3.HEADER.FIELDS subject x").unwrap(), "Subject: third\n\n");
    assert_eq!(get("3.HEADER.FIELDS.NOT SUBJECT").unwrap(), "Content-Type: multipart/mixed; boundary=i\n\n");
    assert!(get("3.TEXT").unwrap().starts_with("pre\n--i\n"));
    assert_eq!(get("3.1").unwrap(), "three.one");
    assert_eq!(get("3.1.MIME").unwrap(), "\n");
    assert_eq!(get("3.2").unwrap(), "three.two");
    assert_eq!(get("3.3"), None);
    assert!(get("4").unwrap().starts_with("--j\n"));
    assert_eq!(get("4.HEADER"), None);
    assert_eq!(get("4.1").unwrap(), "four.one");
    assert_eq!(get("4.1.MIME").unwrap(), "Content-Type: image/gif\nX-Mime: four.one\n\n");
    assert_eq!(get("4.2.HEADER.FIELDS Subject").unwrap(), "Subject: four.two\n\n");
    assert_eq!(get("4.2.1").unwrap(), "four.two.one");
    assert!(get("4.2.2").unwrap().starts_with("--l\n"));
    assert_eq!(get("4.2.2.1").unwrap(), "plain");
    assert_eq!(get("4.2.2.2").unwrap(), "rich");
    assert_eq!(get("5"), None);
    assert_eq!(get("0"), None);
    assert_eq!(get("4294967295"), None);
}

#[test]
fn one_part_messages_have_part_one() {
    let message = crlf("Subject: s\n\nbody\n");
    assert_eq!(fetch(&message, "1").unwrap(), "body\n");
    assert_eq!(fetch(&message, "1.MIME").unwrap(), "Subject: s\n\n");
    assert_eq!(fetch(&message, "1.1"), None);
    assert_eq!(fetch(&message, "2"), None);
    let message = crlf("From: u@d\nContent-Type: message/rfc822\n\nSubject: sub\n\nHello\n");
    assert_eq!(fetch(&message, "1").unwrap(), "Subject: sub\n\nHello\n");
    assert_eq!(fetch(&message, "TEXT"), fetch(&message, "1"));
    assert_eq!(fetch(&message, "1.HEADER").unwrap(), "Subject: sub\n\n");
    assert_eq!(fetch(&message, "1.TEXT").unwrap(), "Hello\n");
    assert_eq!(fetch(&message, "1.1").unwrap(), "Hello\n");
    assert_eq!(fetch(&message, "1.1.1"), None);
    let message = crlf("Subject: no end");
    assert_eq!(fetch(&message, "HEADER").unwrap(), "Subject: no end");
    assert_eq!(fetch(&message, "HEADER.FIELDS to").unwrap(), "");
    assert_eq!(fetch(&message, "TEXT").unwrap(), "");
}

#[test]
fn digest_holds_messages() {
    // The digest of dovecot's imaptest, with white space behind its boundaries.
    let message = crlf(
        "From: user@domain.org\nContent-Type: message/rfc822\n\nSubject: submsg\nContent-Type: multipart/digest; \
         boundary=\"foo\"\n\nprologue\n\n--foo \n\nSubject: m1\n\nm1 body\n\n--foo \nX-Mime: m2 header\n\n\
         Subject: m2\n\nm2 body\n\n--foo--\n\nepilogue\n\n",
    );
    assert_eq!(fetch(&message, "1.1").unwrap(), "Subject: m1\n\nm1 body\n");
    assert_eq!(fetch(&message, "1.1.MIME").unwrap(), "\n");
    assert_eq!(fetch(&message, "1.1.HEADER").unwrap(), "Subject: m1\n\n");
    assert_eq!(fetch(&message, "1.2.MIME").unwrap(), "X-Mime: m2 header\n\n");
    assert_eq!(fetch(&message, "1.2.TEXT").unwrap(), "m2 body\n");
    let wire = text(body(&Message::scan(&message)));
    assert_eq!(wire.matches("\"MESSAGE\" \"RFC822\" NIL NIL NIL \"7BIT\"").count(), 2, "{wire}");
}

/// `type/subtype[children]`, with each leaf's body.
fn outline(part: &Part, message: &[u8]) -> String {
    let body = &message[part.body.start as usize..part.body.end as usize];
    match &part.content {
        Content::Leaf => format!("{:?}", text(body.to_vec()).replace("\r\n", "\n")),
        Content::Multipart(children) => {
            let children: Vec<_> = children.iter().map(|child| outline(child, message)).collect();
            format!("[{}]", children.join(" "))
        }
        Content::Message(embedded) => format!("<{}>", outline(&embedded.root, message)),
    }
}

#[test]
fn boundaries() {
    let mixed = "Content-Type: multipart/mixed; boundary=b\n\n";
    let nested = "Content-Type: multipart/mixed; boundary=";
    for (body, expect) in [
        ("--b\n\none\n--b\n\ntwo\n--b--\n", r#"["one" "two"]"#),
        ("--b\n\none\n--b\n\ntwo", r#"["one" "two"]"#),
        ("--b\n\none\n--b\n\ntwo\n", r#"["one" "two\n"]"#),
        ("--b\n\none\n--b--", r#"["one"]"#),
        ("--b \t \n\none\n--b-- \t\n", r#"["one"]"#),
        ("--b\n\n\n\n--b--", r#"["\n"]"#),
        ("--b\n\n--b--", r#"[""]"#),
        ("--b\n--b--", r#"[""]"#),
        ("--b", r#"[""]"#),
        ("", r#"[""]"#),
        ("no part at all\n", r#"[""]"#),
        ("--b\n\none\n--b--\n--b\n\nnot\n", r#"["one"]"#),
        ("--b\n\n--c\n -- b\n--b--\n", r#"["--c\n -- b"]"#),
        ("--b\n\none\n-\n-\n--b--", r#"["one\n-\n-"]"#),
        ("--b\n\none\n--behind\n\ntwo\n--b--", r#"["one" "two"]"#),
        ("--b\nX: 1\n--b\n\ntwo\n--b--", r#"["" "two"]"#),
        // The outer boundary begins as the inner one.
        (&format!("--b\n{nested}bb\n\n--bb\n\none\n--bb--\n--b\n\ntwo\n--b--"), r#"[["one"] "two"]"#),
        // The inner one is never closed.
        (&format!("--b\n{nested}c\n\n--c\n\none\n--b\n\ntwo\n--b--"), r#"[["one"] "two"]"#),
        // Both have the same.
        (&format!("--b\n{nested}b\n\n--b\n\none\n--b--\n--b\n\ntwo\n--b--"), r#"[["one"] "two"]"#),
        // A header that the boundary cuts short still opens what it says.
        (&format!("--b\n{nested}c\n--b\n\ntwo\n--b--"), r#"[[""] "two"]"#),
        ("--b\nContent-Type: message/rfc822\n\nSubject: x\n\nin\n--b--", r#"[<"in">]"#),
        ("--b\nContent-Type: message/rfc822\n\nSubject: x\n--b--", r#"[<"">]"#),
        ("--b\nContent-Type: message/rfc822\n\nSubject: x\n\n--b--", r#"[<"">]"#),
        ("--b\nContent-Type: message/rfc822\n\n--b--", r#"[<"">]"#),
        ("--b\nContent-Type: message/rfc822\n--b--", r#"[<"">]"#),
    ] {
        for octets in [crlf(&format!("{mixed}{body}")), format!("{mixed}{body}").into_bytes()] {
            let message = Message::scan(&octets);
            assert_eq!(outline(&message.root, &octets), expect, "{body:?}");
            check(&message, &octets);
        }
    }
}

#[test]
fn content_types_that_cannot_be_used() {
    let of = |header: &str| text(body(&scan(&format!("{header}\n\nx\n"))));
    let plain = "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 3 1)";
    for header in [
        "Subject: none",
        "Content-Type:",
        "Content-Type: text",
        "Content-Type: /plain",
        "Content-Type: multipart/mixed",
        "Content-Type: multipart/mixed; boundary=\"\"",
        "Content-Type: multipart/mixed; boundary=\" \"",
    ] {
        assert_eq!(of(header), plain, "{header}");
    }
    for (header, expect) in [
        ("Content-Type: text/plain charset=x", "(\"text\" \"plain\" (\"charset\" \"x\")"),
        (
            "Content-Type: text/plain; charset=us-ascii (Plain text)",
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\")",
        ),
        ("Content-Type: (c) text (c) / (c) html (c) ; (c) a (c) = (c) b", "(\"text\" \"html\" (\"a\" \"b\")"),
        (
            "Content-Type: text/x;; a=b; ; =c; d; e=f g.h; i=\"j;k",
            "(\"text\" \"x\" (\"a\" \"b\" \"e\" \"f g.h\" \"i\" \"j;k\")",
        ),
        ("Content-Type: text/x; a=b c=d", "(\"text\" \"x\" (\"a\" \"b\" \"c\" \"d\")"),
    ] {
        assert!(of(header).starts_with(expect), "{header}: {}", of(header));
    }
    let long =
        format!("Content-Type: multipart/mixed; boundary={}", "b".repeat(Limits::BOUNDARY_OCTETS_MAX + 1));
    assert!(of(&long).starts_with("(\"APPLICATION\" \"OCTET-STREAM\""));
}

#[test]
fn parameters_are_decoded() {
    let of = |value: &str| Disposition::parse(value.as_bytes()).unwrap().text_param("filename");
    for (value, expect) in [
        ("attachment; filename=a.txt", "a.txt"),
        ("attachment; filename*=utf-8'de'Gr%C3%BC%C3%9Fe%20x", "Gr\u{fc}\u{df}e x"),
        ("attachment; filename*0*=iso-8859-1''Gr%FC; filename*1=sse; filename*2*=%20%", "Gr\u{fc}sse %"),
        ("attachment; FILENAME*1=b; filename*0=a; filename*3=d", "ab"),
        ("attachment; filename=\"=?utf-8?B?R3LDvMOfZQ==?=\"", "Gr\u{fc}\u{df}e"),
        ("attachment; filename=old; filename*=utf-8''new", "new"),
        ("attachment; filename*=broken", "broken"),
    ] {
        assert_eq!(of(value).as_deref(), Some(expect), "{value}");
    }
    assert_eq!(of("attachment; filename*1=x"), None);
    assert!(Disposition::parse(b"x-unknown").unwrap().is_attachment());
    assert!(!Disposition::parse(b"INLINE; a=b").unwrap().is_attachment());
}

#[test]
fn encoded_words() {
    for (value, expect) in [
        // RFC 2047 §8: the examples.
        ("=?ISO-8859-1?Q?a?=", "a"),
        ("=?ISO-8859-1?Q?a?= b", "a b"),
        ("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        ("=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=", "ab"),
        ("=?ISO-8859-1?Q?a?=\r\n    =?ISO-8859-1?Q?b?=", "ab"),
        ("=?ISO-8859-1?Q?a_b?=", "a b"),
        ("=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
        ("=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),
        ("=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=", "If you can read this yo"),
        ("=?iso-8859-1*en?q?caf=E9?=", "caf\u{e9}"),
        // A character split between two words.
        ("=?utf-8?B?w?= =?utf-8?Q?=C3?= =?utf-8?Q?=A4?=", "\u{e4}"),
        ("=?utf-8?q?=e2=82?= =?UTF-8?Q?=AC?=", "\u{20ac}"),
        ("=?iso-2022-jp?B?GyRCRnxLXDhsGyhC?=", "\u{65e5}\u{672c}\u{8a9e}"),
        ("=?koi8-r?B?8NLJ18XU?=", "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}"),
        ("=?x-unknown?Q?caf=C3=A9_caf=E9?=", "caf\u{e9} caf\u{e9}"),
        // Malformed: as it is.
        ("=?utf-8?Q?a", "=?utf-8?Q?a"),
        ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
        ("=??Q?a?=", "=??Q?a?="),
        ("=?utf-8?B?a*b?=", "=?utf-8?B?a*b?="),
        ("=?=?utf-8?Q?a?=", "=?a"),
        ("a =? b ?= c", "a =? b ?= c"),
        ("Zo\u{eb}", "Zo\u{eb}"),
    ] {
        assert_eq!(decode_words(value.as_bytes()), expect, "{value}");
    }
    assert_eq!(decode_words(b"Zo\xeb"), "Zo\u{eb}");
}

#[test]
fn transfer_encodings_are_decoded_leniently() {
    let run = |encoding, input: &[u8]| {
        let mut whole = Vec::new();
        let mut decoder = Decoder::new(encoding);
        decoder.feed(input, &mut whole);
        decoder.finish(&mut whole);
        for size in 1..input.len() {
            let mut pieces = Vec::new();
            let mut decoder = Decoder::new(encoding);
            input.chunks(size).for_each(|piece| decoder.feed(piece, &mut pieces));
            decoder.finish(&mut pieces);
            assert_eq!(pieces, whole, "{size}");
        }
        text(whole)
    };
    for (input, expect) in [
        ("aGVsbG8=", "hello"),
        ("aGVs\r\nbG8=\r\n", "hello"),
        ("aGVsbG8", "hello"),
        ("aGVsbG8=aGVsbG8=", "hellohello"),
        ("aGV-sbG!8=", "hello"),
        ("a", ""),
        ("====", ""),
    ] {
        assert_eq!(run(Encoding::Base64, input.as_bytes()), expect, "{input}");
    }
    for (input, expect) in [
        ("caf=C3=A9", "caf\u{e9}"),
        ("caf=c3=a9", "caf\u{e9}"),
        ("a=\r\nb", "ab"),
        ("a= \t\r\nb", "ab"),
        ("a=\nb", "ab"),
        ("a \t\r\nb \nc  ", "a\r\nb\nc"),
        ("a = b", "a = b"),
        ("a=XY=4", "a=XY=4"),
        ("a==41", "a=A"),
        ("a=", "a"),
        ("a\rb", "a\rb"),
        ("=4\r\n", "=4\r\n"),
    ] {
        assert_eq!(run(Encoding::QuotedPrintable, input.as_bytes()), expect, "{input:?}");
    }
    let spaces = [b' '; 5000];
    assert!(run(Encoding::QuotedPrintable, &spaces[..1500]).len() <= 1500);
    assert_eq!(run(Encoding::Identity, b"a=41"), "a=41");
}

#[test]
fn header_filters() {
    let block = b"From u@d  Fri Feb 22 17:06:23 2008\r\nSubject : a\r\n\tb\r\nTo: x\r\nsubject: c\r\nnonsense\r\n\r\nbody: x\r\n";
    let names: Vec<_> = fields(block).map(|field| text(field.name.to_vec())).collect();
    assert_eq!(names, ["", "Subject", "To", "subject", ""]);
    assert_eq!(text(filter_header(block, &["SUBJECT"], false)), "Subject : a\r\n\tb\r\nsubject: c\r\n\r\n");
    assert_eq!(
        text(filter_header(block, &["subject"], true)),
        "From u@d  Fri Feb 22 17:06:23 2008\r\nTo: x\r\nnonsense\r\n\r\n"
    );
    assert_eq!(text(filter_header(b"To: x\nCc: y\n\n", &["cc"], false)), "Cc: y\n\n");
    assert_eq!(text(filter_header::<&str>(b"To: x\r\n\r\n", &[], false)), "\r\n");
    assert_eq!(text(filter_header(b"To: x", &["to"], false)), "To: x");
    assert_eq!(unfold(b" a\r\n\t b \r\n"), b"a\t b");
}

#[test]
fn chosen_headers_answer_what_they_cover() {
    assert!(CHOSEN_HEADERS.is_sorted(), "looked up by binary search");
    assert!(CHOSEN_HEADERS.iter().all(|name| *name == name.to_ascii_lowercase()));
    assert!(covers(&["SUBJECT", "From"]) && !covers(&["Subject", "X-Other"]));
    let octets = crlf("Received: x\nSubject: s\nX-Other: y\nTo: t\n\nbody\n");
    let message = Message::scan(&octets);
    let block = message.chosen_headers().unwrap();
    assert_eq!(text(block.clone()), "Subject: s\r\nTo: t\r\n\r\n");
    assert_eq!(filter_header(&block, &["to"], false), filter_header(&octets, &["to"], false));
    let large = format!("Subject: {}\n\n", "x".repeat(chosen::CHOSEN_OCTETS_MAX));
    assert_eq!(scan(&large).chosen_headers(), None);
    let mut scanner = Scanner::new(Limits { header_octets_max: 20, ..Limits::default() });
    scanner.feed(&octets);
    let message = scanner.finish();
    assert_eq!(message.chosen_headers(), None);
    assert_eq!(text(message.header), "Received: x\r\n");
}

#[test]
fn tables_refuse_damage() {
    let octets = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: x-a/x-b; charset=x-c\n\
         Content-Transfer-Encoding: base64\nContent-Disposition: attachment\n\none\n\
         --b\nContent-Type: message/rfc822\n\nSubject: x\n\ntwo\n--b--\n",
    );
    let table = Message::scan(&octets).table();
    let stored = table.encode();
    assert_eq!(PartTable::decode(&stored).unwrap(), table);
    assert_eq!(&*table.parts()[1].media_type, "x-a/x-b");
    assert!(table.parts()[1].attachment && table.parts()[1].encoding == Encoding::Base64);
    assert_eq!(PartTable::decode(&[]), Err(TableError::Damaged));
    assert_eq!(PartTable::decode(&[9, 1]), Err(TableError::Version(9)));
    for at in 0..stored.len() {
        assert!(PartTable::decode(&stored[..at]).is_err());
        for bit in 0..8 {
            let mut damaged = stored.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(table) = PartTable::decode(&damaged) {
                for spec in ["", "1", "2", "2.1", "2.HEADER", "1.MIME", "TEXT", "3.4.5"] {
                    if let Some(resolved) = resolve(&table, &section(spec)) {
                        assert!(
                            resolved.range.start <= resolved.range.end && resolved.range.end <= table.size()
                        );
                    }
                }
            }
        }
    }
    let prefix = b"Return-Path: <a@b>\r\n";
    let both = [prefix.as_slice(), &octets].concat();
    assert_eq!(table.prefixed(prefix.len() as u64), Message::scan(&both).table());
}

#[test]
fn stored_form_of_a_table_is_fixed() {
    let table = scan("Content-Type: text/html; charset=UTF-8\n\n<p>x\n").table();
    assert_eq!(table.encode(), [1, 1, 0, 0, 2, 2, 0, 42, 6]);
}

quickcheck! {
    fn any_octets_decode_or_are_refused(octets: Vec<u8>) -> bool {
        let table = PartTable::decode(&[&[1], octets.as_slice()].concat());
        table.is_err() || table.is_ok_and(|table| PartTable::decode(&table.encode()) == Ok(table))
    }

    fn any_octets_are_a_header(octets: Vec<u8>) -> bool {
        let lines: usize = fields(&octets).map(|field| field.line.len()).sum();
        parse_addresses(&octets, 10);
        decode_words(&octets);
        ContentType::parse(&octets);
        Disposition::parse(&octets).map(|disposition| disposition.text_param("filename"));
        lines <= octets.len()
    }
}

/// The invariants of a scanned message, and what is made of it.
fn check(message: &Message, octets: &[u8]) {
    assert_eq!(message.size, octets.len() as u64);
    assert_eq!(message.root.body.end, message.size);
    let mut parts = vec![&message.root];
    while let Some(part) = parts.pop() {
        assert_eq!(part.header.end, part.body.start);
        let body = &octets[part.body.start as usize..part.body.end as usize];
        assert_eq!(part.lines, memchr::memchr_iter(b'\n', body).count() as u64, "{:?}", part.body);
        match &part.content {
            Content::Leaf => assert!(!part.content_type.is_type("multipart")),
            Content::Multipart(children) => parts.extend(children),
            Content::Message(embedded) => parts.push(&embedded.root),
        }
    }
    let table = message.table();
    assert_eq!(PartTable::decode(&table.encode()), Ok(table.clone()));
    assert_balanced(&envelope(message));
    assert_balanced(&body(message));
    assert_balanced(&bodystructure(message));
}

/// One parenthesised list, with strings that end where they say.
fn assert_balanced(wire: &[u8]) {
    let (mut depth, mut at) = (0, 0);
    while at < wire.len() {
        match wire[at] {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'"' => {
                at += 1;
                while wire[at] != b'"' {
                    assert!(!matches!(wire[at], 0 | b'\r' | b'\n' | 0x80..));
                    at += if wire[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' => {
                let end = at + wire[at..].windows(3).position(|three| three == b"}\r\n").unwrap();
                let octets: usize = std::str::from_utf8(&wire[at + 1..end]).unwrap().parse().unwrap();
                at = end + 2 + octets;
            }
            byte => assert!(byte == b' ' || byte.is_ascii_alphanumeric(), "{byte}"),
        }
        at += 1;
        assert!(depth > 0 || at == wire.len());
    }
    assert_eq!(depth, 0);
}

fn scan_in_chunks(octets: &[u8], mut size: impl FnMut() -> usize) -> Message {
    let mut scanner = Scanner::new(Limits::default());
    let mut rest = octets;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(size().clamp(1, rest.len()));
        scanner.feed(piece);
        rest = later;
    }
    scanner.finish()
}

#[test]
fn chunks_have_no_influence() {
    let octets = crlf(
        "Subject: a\n b\nContent-Type: multipart/mixed; boundary=\"b-\"\n\npre\n--b\n--b-\nContent-Type: text/html\n\n\
         <p>\n-\n--\n--b--\n--b-  \nContent-Type: message/rfc822\n\nSubject: x\n\ny\n--b---\t\nend\n",
    );
    for octets in [octets.clone(), text(octets).replace("\r\n", "\n").into_bytes()] {
        let whole = Message::scan(&octets);
        check(&whole, &octets);
        for at in 0..=octets.len() {
            let mut first = Some(at);
            assert_eq!(scan_in_chunks(&octets, || first.take().unwrap_or(usize::MAX)), whole, "{at}");
        }
        for size in 1..20 {
            assert_eq!(scan_in_chunks(&octets, || size), whole, "{size}");
        }
    }
}

quickcheck! {
    fn decoding_is_the_same_in_any_chunks_and_counted(picks: Vec<u8>, sizes: Vec<u8>, kind: u8) -> bool {
        let input: Vec<u8> = picks.iter().map(|pick| b"=AaF09+/ \t\r\n.\0\xe4"[usize::from(*pick) % 15]).collect();
        let encoding = [Encoding::Identity, Encoding::QuotedPrintable, Encoding::Base64][usize::from(kind) % 3];
        let mut whole = Vec::new();
        let mut decoder = encoding.decoder().unwrap();
        decoder.feed(&input, &mut whole);
        decoder.finish(&mut whole);
        let (mut pieces, mut octets) = (Vec::new(), 0);
        let (mut decoder, mut counter) = (encoding.decoder().unwrap(), encoding.decoder().unwrap());
        let mut rest = input.as_slice();
        let mut sizes = sizes.into_iter().cycle();
        while !rest.is_empty() {
            let size = usize::from(sizes.next().unwrap_or(7)).clamp(1, rest.len());
            let (piece, later) = rest.split_at(size);
            decoder.feed(piece, &mut pieces);
            octets += counter.count(piece);
            rest = later;
        }
        decoder.finish(&mut pieces);
        octets += counter.finish_count();
        pieces == whole && octets == whole.len() as u64 && whole.len() <= input.len()
    }
}

/// RFC 3516 §4.2 and §4.3.
#[test]
fn binary_sections_tell_how_they_are_decoded() {
    let message = crlf(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Transfer-Encoding: BASE64\n\naGVsbG8=\n--b\n\
         Content-Type: message/rfc822\n\nContent-Type: image/png\nContent-Transfer-Encoding: x-uue\n\nabc\n--b\n\
         Content-Type: multipart/alternative; boundary=c\nContent-Transfer-Encoding: 8bit\n\n--c\n\
         Content-Transfer-Encoding: quoted-printable (c)\n\na=3Db\n--c--\n--b--\n",
    );
    let table = PartTable::decode(&Message::scan(&message).table().encode()).unwrap();
    let named = |part: &[u32]| {
        let section = resolve_binary(&table, part)?;
        let octets = &message[section.range.start as usize..section.range.end as usize];
        let decoded = section.encoding.decoder().map(|mut decoder| {
            let mut decoded = Vec::new();
            decoder.feed(octets, &mut decoded);
            decoder.finish(&mut decoded);
            text(decoded)
        });
        Some((section.kind, section.is_text, decoded))
    };
    assert_eq!(named(&[]), Some((PartKind::Message, false, Ok(text(message.clone())))));
    assert_eq!(named(&[1]), Some((PartKind::Leaf, true, Ok("hello".to_owned()))));
    assert_eq!(named(&[2]).unwrap().0, PartKind::Message);
    assert_eq!(named(&[2, 1]), Some((PartKind::Leaf, false, Err(UnknownEncoding))));
    assert_eq!(named(&[3]).unwrap().0, PartKind::Multipart);
    assert_eq!(named(&[3, 1]), Some((PartKind::Leaf, true, Ok("a=b".to_owned()))));
    assert_eq!(named(&[1, 1]), None);
    assert_eq!(named(&[4]), None);
}

fn corpus(folder: &str) -> Option<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(folder);
    let mut files = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()? {
            let path = entry.ok()?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Some(files)
}

#[test]
fn the_zoo_scans_alike_in_any_chunks() {
    let Some(files) = corpus("zoo") else {
        println!("skipped: no corpus");
        return;
    };
    assert!(files.len() > 500);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below) as usize + 1
    };
    for file in files {
        let raw = std::fs::read(&file).unwrap();
        let normal = text(raw.clone()).replace("\r\n", "\n").replace('\n', "\r\n").into_bytes();
        for octets in [raw, normal] {
            let whole = Message::scan(&octets);
            check(&whole, &octets);
            for below in [3, 50, 5000] {
                assert!(scan_in_chunks(&octets, || random(below)) == whole, "{}", file.display());
            }
        }
    }
}

/// Fails where the work is not linear: a quadratic scan of these would take minutes.
fn timed(what: &str, octets: &[u8]) -> Message {
    let begin = Instant::now();
    let message = Message::scan(octets);
    check(&message, octets);
    let taken = begin.elapsed();
    assert!(taken < Duration::from_secs(60), "{what}: {taken:?}");
    message
}

#[test]
fn hostile_messages_take_linear_time() {
    let mut nested = String::new();
    for level in 0..10_000 {
        write!(nested, "Content-Type: multipart/mixed; boundary=b{level:05}\r\n\r\n--b{level:05}\r\n")
            .unwrap();
    }
    let message = timed("nested", nested.as_bytes());
    assert_eq!(message.table().parts().len(), Limits::default().depth_max);
    let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(10_000);
    assert_eq!(timed("messages", nested.as_bytes()).table().parts().len(), Limits::default().depth_max);

    // As many boundaries as can be open, all alike but for their ends, and a million lines that are none of them.
    let mut lines = String::new();
    let long = "-".repeat(60);
    for level in 0..99 {
        write!(
            lines,
            "Content-Type: multipart/mixed; boundary=\"{long}{level}x\"\r\n\r\n--{long}{level}x\r\n"
        )
        .unwrap();
    }
    lines += &format!("\r\n{}", format!("--{long}\r\n").repeat(1_000_000));
    timed("boundary lines", lines.as_bytes());

    let parts =
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned() + &"--b\r\n\r\nx\r\n".repeat(100_000);
    let message = timed("parts", parts.as_bytes());
    assert_eq!(message.table().parts().len(), Limits::default().parts_max);
    let Content::Multipart(children) = &message.root.content else { panic!("a multipart") };
    assert!(
        children.last().unwrap().body.end == message.size
            && children[5].body.end - children[5].body.start == 1
    );

    timed("one line", &[b'-'; 20 << 20]);
    timed("one header", &[b"Subject: ".as_slice(), &vec![b'a'; 20 << 20]].concat());
    timed("header lines", "a: b\r\n".repeat(2_000_000).as_bytes());
    timed("addresses", ("To: ".to_owned() + &"a,".repeat(100_000)).as_bytes());
    timed("comments", ("To: ".to_owned() + &"(".repeat(200_000)).as_bytes());
    timed("angles", ("To: ".to_owned() + &"<".repeat(200_000)).as_bytes());
    timed("literals", ("To: ".to_owned() + &"[".repeat(20_000)).as_bytes());
    timed("parameters", ("Content-Type: a/b".to_owned() + &";a=b".repeat(50_000)).as_bytes());
    let begin = Instant::now();
    decode_words("=?a?q?".repeat(40_000).as_bytes());
    decode_words("=?a?q?x?= ".repeat(40_000).as_bytes());
    assert!(begin.elapsed() < Duration::from_secs(5));
}
