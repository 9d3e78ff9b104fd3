use super::*;
use crate::mime::Message;
use quickcheck::quickcheck;
use std::time::{Duration, Instant};

/// The texts of a message: (place, text), taken with this budget a step.
fn texts(message: &[u8], budget: usize) -> Vec<(Place, String)> {
    let table = Message::scan(message).table();
    let mut extract = Extract::new(&table, message);
    let (mut texts, mut text, mut last) = (Vec::new(), String::new(), Place::Header);
    loop {
        let step = extract.step(budget, &mut |event| match event {
            Event::Text(place, piece) => {
                text.push_str(piece);
                last = place;
            }
            Event::Break if text.is_empty() => {}
            Event::Break => texts.push((last, std::mem::take(&mut text))),
        });
        if step == Step::Done {
            assert!(text.is_empty());
            return texts;
        }
    }
}

fn finds(message: &[u8], scope: Scope, key: &str) -> bool {
    let table = Message::scan(message).table();
    let mut search = TextSearch::new([(scope, key)]);
    search.search(&table, message);
    search.found(0)
}

const MESSAGE: &str = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= an\r\n alle\r\nFrom: Zoe <zoe@example.org>\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
    Content-Transfer-Encoding: quoted-printable\r\n\r\nStra=DFe und\r\nWeg soft=\r\nbreak\r\n--b\r\n\
    Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n\
    PGgxPkg8Yj5lPC9iPmxsbzwvaDE+PHNjcmlwdD5oaWRkZW48L3NjcmlwdD48c3R5bGU+Y29uY2VhbGVkPC9zdHlsZT4mYW1wOzxwPkVuZGU=\r\n\
    --b\r\nContent-Type: application/pdf; name*=utf-8''r%C3%A9sum%C3%A9.pdf\r\n\
    Content-Transfer-Encoding: base64\r\n\r\nbinaryoctets\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
    Subject: inner subject\r\n\r\ninner body\r\n--b--\r\nepilogue\r\n";

#[test]
fn texts_are_those_of_the_definition() {
    use Place::{Body, Header};
    let expect = [
        (Header, "Subject: Gr\u{fc}\u{df}e an alle"),
        (Header, "From: Zoe <zoe@example.org>\nZoe <zoe@example.org>"),
        (Header, "Content-Type: multipart/mixed; boundary=b"),
        (Body, "Stra\u{df}e und\r\nWeg softbreak"),
        (Body, " Hello     & Ende"),
        (Body, "r\u{e9}sum\u{e9}.pdf"),
        (Body, "Subject: inner subject"),
        (Body, "inner body"),
    ];
    for budget in [usize::MAX, 1, 7] {
        let texts = texts(MESSAGE.as_bytes(), budget);
        let texts: Vec<_> = texts.iter().map(|(place, text)| (*place, text.as_str())).collect();
        assert_eq!(texts, expect, "{budget}");
    }
}

#[test]
fn keys_are_found_where_they_belong() {
    let message = MESSAGE.as_bytes();
    for (key, body, all) in [
        ("gr\u{fc}sse AN ALLE", false, true),
        ("GR\u{dc}SSE", false, true),
        ("zoe@example.org", false, true),
        ("subject: gr", false, true),
        ("strasse und weg softbreak", true, true),
        ("hello", true, true),
        ("& ende", true, true),
        ("hidden", false, false),
        ("concealed", false, false),
        ("binaryoctets", false, false),
        ("resume", false, false),
        ("r\u{e9}sum\u{e9}.pdf", true, true),
        ("inner subject", true, true),
        ("inner body", true, true),
        ("subject inner", false, false),
        ("subject: inner subject inner body", false, false),
        ("preamble", false, false),
        ("epilogue", false, false),
        ("nowhere", false, false),
        ("", true, true),
    ] {
        assert_eq!(finds(message, Scope::Body, key), body, "BODY {key}");
        assert_eq!(finds(message, Scope::Text, key), all, "TEXT {key}");
    }
}

#[test]
fn one_search_takes_many_keys_and_messages() {
    let (first, second) = (b"Subject: one\r\n\r\nalpha".as_slice(), b"Subject: two\r\n\r\nbeta".as_slice());
    let mut search = TextSearch::new([(Scope::Body, "alpha"), (Scope::Text, "two"), (Scope::Body, "")]);
    let mut answers = Vec::new();
    for message in [first, second, first] {
        search.search(&Message::scan(message).table(), message);
        answers.push([search.found(0), search.found(1), search.found(2)]);
    }
    assert_eq!(answers, [[true, false, true], [false, true, true], [true, false, true]]);
}

#[test]
fn folding() {
    for (text, expect) in [
        ("Hello World", "hello world"),
        ("a \t\r\n\u{a0}\u{2003}b", "a b"),
        ("Stra\u{df}e", "strasse"),
        ("\u{fb01}sh", "fish"),
        ("\u{ff21}\u{ff22}", "ab"),
        ("\u{3a3}\u{3c3}\u{3c2}", "\u{3c3}\u{3c3}\u{3c3}"),
        ("so\u{ad}ft\u{200b}er\u{feff}", "softer"),
        ("\u{2460}", "1"),
        ("\u{212b}", "a\u{30a}"),
        ("\u{1ead}", "a\u{323}\u{302}"),
        ("a\u{302}\u{323}", "a\u{323}\u{302}"),
        ("\u{d55c}", "\u{1112}\u{1161}\u{11ab}"),
        ("I\u{307}", "i\u{307}"),
        ("\u{130}", "i\u{307}"),
    ] {
        assert_eq!(fold(text), expect, "{text:?}");
    }
    assert!(fold("caf\u{e9}").contains(&fold("cafe")));
    // One character more than is put in order at once.
    assert_eq!(fold(&"\u{301}".repeat(100)).chars().count(), 100);
}

quickcheck! {
    fn folding_is_the_same_in_pieces(text: String, at: usize) -> bool {
        let mut folded = Vec::new();
        let mut folder = Folder::default();
        let cut = text.char_indices().map(|(at, _)| at).nth(at % text.len().max(1)).unwrap_or(0);
        folder.push(&text[..cut], &mut folded);
        folder.push(&text[cut..], &mut folded);
        folder.finish(&mut folded);
        folded == fold(&text).into_bytes()
    }

    fn case_has_no_influence(text: String) -> bool {
        fold(&text) == fold(&text.to_lowercase()) || text.contains(['\u{3a3}', '\u{130}'])
    }

    fn any_octets_have_the_same_text_in_any_steps(octets: Vec<u8>, html: bool, quoted: bool) -> bool {
        let mut message = Vec::from(if html { "Content-Type: text/html\n" } else { "X: y\n" });
        message.extend_from_slice(if quoted { b"Content-Transfer-Encoding: quoted-printable\n\n" } else { b"\n" });
        message.extend(octets);
        texts(&message, 1) == texts(&message, usize::MAX)
    }
}

#[test]
fn charsets() {
    let message = |charset: &str, body: &[u8]| {
        [format!("Content-Type: text/plain; charset={charset}\r\n\r\n").as_bytes(), body].concat()
    };
    for (charset, body, key) in [
        ("utf-8", "gr\u{fc}n".as_bytes(), "GR\u{dc}N"),
        ("us-ascii", b"gr\xfcn", "gr\u{fc}n"),
        ("x-none", "gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
        ("iso-8859-15", b"\xa4", "\u{20ac}"),
        ("iso-2022-jp", b"\x1b$BF|K\\8l\x1b(B", "\u{65e5}\u{672c}\u{8a9e}"),
        ("gb2312", b"\xd6\xd0\xce\xc4", "\u{4e2d}\u{6587}"),
        ("cp1251", b"\xcf\xf0\xe8", "\u{43f}\u{440}\u{438}"),
        ("cp932", b"\x93\xfa\x96{", "\u{65e5}\u{672c}"),
        ("utf-16le", b"h\0i\0", "hi"),
    ] {
        assert!(finds(&message(charset, body), Scope::Body, key), "{charset}");
    }
    let html = b"Content-Type: text/html\n\n<meta http-equiv=Content-Type content=\"text/html; charset=koi8-r\"><p>\xf0\xd2\xc9";
    assert!(finds(html, Scope::Body, "\u{43f}\u{440}\u{438}"));
    // Cut anywhere: a piece of the source has 4096 octets.
    for lead in 4090..4100 {
        let body = "a".repeat(lead) + "\u{20ac}\u{fc}\u{1f600} end";
        assert!(
            finds(&message("utf-8", body.as_bytes()), Scope::Body, "a\u{20ac}\u{fc}\u{1f600} end"),
            "{lead}"
        );
        let html = format!("Content-Type: text/html\n\n{}<b>\u{20ac}</b>\u{fc}&euro;", "a".repeat(lead));
        assert!(finds(html.as_bytes(), Scope::Body, "aa\u{20ac}\u{fc}\u{20ac}"), "{lead}");
    }
}

#[test]
fn keys_are_found_across_windows() {
    for lead in [0, 16_370, 16_380, 16_384, 16_400, 33_000, 100_000] {
        let message = format!("X: y\r\n\r\n{}the needle itself{}", "x".repeat(lead), "x".repeat(50_000));
        assert!(finds(message.as_bytes(), Scope::Body, "The  Needle itself"), "{lead}");
        assert!(!finds(message.as_bytes(), Scope::Body, "needle  itselfy"), "{lead}");
    }
}

#[test]
fn html_is_rendered() {
    let finds = |html: &str, key| {
        finds(format!("Content-Type: text/html; charset=utf-8\n\n{html}").as_bytes(), Scope::Body, key)
    };
    assert!(finds("<p>one<p>two", "one two"));
    assert!(!finds("<p>one<p>two", "onetwo"));
    assert!(finds("o<i>n</i>e", "one"));
    assert!(finds("a<br/>b", "a b"));
    assert!(finds("&lt;tag&gt; &auml;&#8364;", "<tag> \u{e4}\u{20ac}"));
    assert!(finds("<img src=x alt='a &amp; b'>", "a & b"));
    assert!(finds("<title>the <b> title</title>after", "the <b> title after"));
    assert!(!finds("<script>if (a<b) secret</script>after", "secret"));
    assert!(finds("<script>if (a<b) secret</script>after", "after"));
    assert!(finds("<STYLE>p{}</STYLE>after", "after"));
    assert!(!finds("<!-- comment -->x", "comment"));
    assert!(!finds("<p class=attribute>x", "attribute"));
    assert!(finds("so&shy;ft", "soft"));
    assert!(finds("unclosed <b", "unclosed"));
    assert!(!finds("<script>never closed", "never"));
}

#[test]
fn header_keys() {
    let header = b"From: <user-from (comment)@ (comment) domain.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
        X-Empty:\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A4.pdf\r\nTo: g: a@b;\r\n\r\nX-Body: no\r\n";
    for (field, value, expect) in [
        ("from", "USER-from@domain.org", true),
        ("from", "comment", true),
        ("subject", "gr\u{fc}sse", true),
        ("Subject", "utf-8", false),
        ("X-Empty", "", true),
        ("X-Empty", "a", false),
        ("X-None", "", false),
        ("X-Body", "", false),
        ("content-disposition", "\u{e4}.pdf", true),
        ("to", "a@b", true),
        ("to", "g:", true),
    ] {
        assert_eq!(HeaderSearch::new(field, value).matches(header), expect, "{field}: {value}");
    }
    assert_eq!(sent_date(b"Date: Fri, 21 Nov 1997 23:55:06 -0600\r\n\r\n"), Date::parse(b"21-Nov-1997"));
    assert_eq!(sent_date(b"Date: soon\r\n\r\n"), None);
}

#[test]
fn the_zoo_has_text() {
    let zoo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/zoo");
    let Ok(folders) = std::fs::read_dir(zoo) else {
        println!("skipped: no corpus");
        return;
    };
    let mut count = 0;
    for folder in folders {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let message = std::fs::read(file.unwrap().path()).unwrap();
            assert_eq!(texts(&message, 500), texts(&message, usize::MAX));
            count += 1;
        }
    }
    assert!(count > 500);
}

#[test]
fn hostile_texts_take_linear_time() {
    let begin = Instant::now();
    for body in [
        "<".repeat(4 << 20),
        "<a ".repeat(1 << 20),
        "&".repeat(4 << 20),
        "&#".repeat(2 << 20),
        "<!--".repeat(1 << 20),
        "<script>".to_owned() + &"</scrip".repeat(1 << 19),
        "<p a=\"".to_owned() + &"x".repeat(4 << 20),
        "\u{301}".repeat(1 << 20),
        " ".repeat(4 << 20),
    ] {
        let message = format!("Content-Type: text/html\n\n{body}");
        assert!(!finds(message.as_bytes(), Scope::Text, "the key"));
    }
    let header = "Subject: ".to_owned() + &"=?utf-8?q?".repeat(400_000) + "\n\n";
    assert!(!finds(header.as_bytes(), Scope::Text, "the key"));
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}
