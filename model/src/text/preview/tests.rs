use super::*;
use crate::mime::Message;
use quickcheck::quickcheck;
use std::path::Path;

/// As a caller makes it, that reads `size` octets at a time; and how many it read.
fn driven(message: &[u8], size: u64) -> (String, u64) {
    let table = PartTable::decode(&Message::scan(message).table().encode()).unwrap();
    let mut read = 0;
    for part in choose(&table) {
        let (mut preview, mut at) = (Preview::new(&part), part.range.start);
        while at < part.range.end {
            let to = part.range.end.min(at.saturating_add(size));
            read += to - at;
            if preview.feed(&message[at as usize..to as usize]) == Step::Done {
                break;
            }
            at = to;
        }
        let text = preview.finish();
        if !text.is_empty() {
            return (text, read);
        }
    }
    (String::new(), read)
}

fn preview(message: &[u8]) -> String {
    let (text, _) = driven(message, u64::MAX);
    for size in [1, 7, 1000, 5000] {
        if size > 1 || message.len() < 2000 {
            assert_eq!(driven(message, size).0, text, "{size}");
        }
    }
    assert!(text.chars().count() <= CHARACTERS_MAX, "{text:?}");
    assert!(!text.contains(char::is_control) && !text.contains("  "), "{text:?}");
    assert_eq!(text.trim(), text);
    text
}

fn of(message: &str) -> String {
    preview(message.replace('\n', "\r\n").as_bytes())
}

/// RFC 8970 §3.2 and §3.3.
#[test]
fn the_first_text_is_previewed() {
    for (message, expect) in [
        ("Subject: x\n\nHello,\n\n  how are\tyou?\n\nBest\n", "Hello, how are you? Best"),
        ("Subject: x\n\n", ""),
        ("Subject: x\n\n \n\n", ""),
        (
            "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe=\n!\n",
            "Grüße!",
        ),
        (
            "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n8J+YgCBow6k=\n",
            "😀 hé",
        ),
        // multipart/alternative: plain, wherever it stands.
        (
            "Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>html\n--b\n\nplain\n--b--\n",
            "plain",
        ),
        (
            "Content-Type: multipart/alternative; boundary=b\n\n--b\n\n \n\n--b\nContent-Type: text/html\n\n<p>html\n--b--\n",
            "html",
        ),
        // The first of others, but no attachment.
        (
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment\n\nnot\n--b\n\
             Content-Type: image/png\n\nnot\n--b\nContent-Type: multipart/related; boundary=c\n\n--c\n\
             Content-Type: text/html\n\n<b>this</b>\n--c--\n--b\n\nlater\n--b--\n",
            "this",
        ),
        (
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nSubject: y\n\nforwarded\n--b--\n",
            "forwarded",
        ),
        // No meaningful preview.
        ("Content-Type: image/png\n\nabc\n", ""),
        ("Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nabc\n", ""),
        ("Content-Type: text/calendar\n\nBEGIN:VCALENDAR\n", ""),
        (
            "Content-Type: multipart/encrypted; boundary=b\n\n--b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n\
             --b\nContent-Type: text/plain\n\nabc\n--b--\n",
            "",
        ),
        ("Content-Transfer-Encoding: x-uue\n\nabc\n", ""),
        ("\n-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n", ""),
        (
            "\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nsigned\n-----BEGIN PGP SIGNATURE-----\n\nxyz\n",
            "signed",
        ),
    ] {
        assert_eq!(of(message), expect, "{message}");
    }
}

#[test]
fn quotations_signatures_and_noise_are_left_out() {
    for (body, expect) in [
        ("Yes.\n\nOn Mon, 1 Jan 2024, A B <a@b> wrote:\n> question\n> more\n", "Yes."),
        ("On Mon, 1 Jan 2024, A B <a@b> wrote:\n> question\n\nYes.\n", "Yes."),
        (
            "On Mon, 1 Jan 2024 at 10:00, A very long name\n<a@example.org> wrote:\n\n> question\nYes.\n",
            "Yes.",
        ),
        ("Am 01.01.24 um 10:00 schrieb A B:\n> Frage\nJa.\n", "Ja."),
        ("El lun, 1 ene 2024 a las 10:00, A B (<a@b>)\nescribió:\n> pregunta\nSí.\n", "Sí."),
        ("Yes.\nOn Mon, A B wrote:\nnot marked\n", "Yes."),
        ("Ja.\n\n-----Original Message-----\nFrom: a\nto be or not\n", "Ja."),
        (
            "FYI\n---------- Forwarded message ----------\nFrom: a@b\n*Date:* Mon\n\n\nNews: good\n",
            "FYI News: good",
        ),
        ("-----Original Message-----\nFrom: a\nto be or not\n", "to be or not"),
        ("The list:\n> 1 apple\nok\n", "The list: ok"),
        ("> only\n> a quotation\n", "only a quotation"),
        ("Hi\n-- \nA B\nhttps://example.org/\n", "Hi"),
        ("-- \nA B\n", "A B"),
        ("=====\nNews\n--------------\nNote: more\n", "News Note: more"),
        ("See https://example.org/ now\n", "See https://example.org/ now"),
        ("See <https://click.example.org/track?id=0123456789abcdef0123456789abcdef> now\n", "See now"),
        (
            "https://example.org/0123456789abcdef0123456789abcdef\n",
            "https://example.org/0123456789abcdef0123456789abcdef",
        ),
        ("a\u{0}b\u{7}c\u{202e}d\u{200b}\u{feff}e\u{ad}f\n", "abcdef"),
        ("x \u{34f} \u{200c} \u{a0}\u{2007}\u{200c} y\n", "x y"),
        (
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} ok\u{200d}\n",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} ok",
        ),
        ("\u{1f44d}\n", "\u{1f44d}"),
    ] {
        assert_eq!(of(&format!("Content-Type: text/plain; charset=utf-8\n\n{body}")), expect, "{body}");
    }
}

#[test]
fn html_is_rendered() {
    for (body, expect) in [
        (
            "<html><head><title>T</title><style>p{}</style></head><body><p>Dear <b>A</b>,<br>hello&nbsp;&amp; bye</p>",
            "Dear A, hello & bye",
        ),
        (
            "<div>Yes.</div><div>On Mon, 1 Jan 2024 A B wrote:<br><blockquote>question<p>more</blockquote></div><div>PS",
            "Yes.",
        ),
        ("<blockquote>question<br>more</blockquote><div>Answer", "Answer"),
        ("<blockquote>only a quotation</blockquote>", "only a quotation"),
        ("<table><tr><td>a<td>b</table>c<img src=x alt=logo>d", "a b c d"),
        ("<p>one\ntwo\n> three", "one two > three"),
        ("<!-- no --><script>no</script>", ""),
    ] {
        assert_eq!(of(&format!("Content-Type: text/html; charset=utf-8\n\n{body}\n")), expect, "{body}");
    }
    let latin = b"Content-Type: text/html\r\n\r\n<meta charset=iso-8859-1><p>caf\xe9\r\n";
    assert_eq!(preview(latin), "caf\u{e9}");
}

#[test]
fn a_preview_is_short_and_reads_little() {
    let long = "word ".repeat(1 << 20);
    let message = format!("Content-Type: text/plain\n\n{long}");
    let text = of(&message);
    assert_eq!(text.len(), 199);
    let (_, read) = driven(message.as_bytes(), 4096);
    assert_eq!(read, 4096);

    let wide = format!("Content-Type: text/plain; charset=utf-8\n\n{}", "\u{4e2d}".repeat(1000));
    assert_eq!(of(&wide).chars().count(), CHARACTERS_MAX);

    // Nothing to show for as long as is looked.
    let message = format!("Content-Type: text/html\n\n<style>{}</style><p>late", "p{}\n".repeat(1 << 20));
    let (text, read) = driven(message.as_bytes(), 4096);
    assert_eq!((text.as_str(), read), ("", OCTETS_MAX));
    let message = format!("Content-Type: text/html\n\n<style>{}</style><p>late", "p{}\n".repeat(10_000));
    assert_eq!(of(&message), "late");
}

#[test]
fn hostile_texts_take_linear_time() {
    let begin = std::time::Instant::now();
    for body in ["a:\n", "\n", "On 1\n", ">", "<", "<blockquote>", "&", "-----\n", "x ", "\u{200d}"] {
        for kind in ["plain", "html"] {
            let message = format!("Content-Type: text/{kind}; charset=utf-8\n\n{}", body.repeat(200_000));
            driven(message.as_bytes(), 4096);
        }
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
}

quickcheck! {
    fn any_text_has_a_preview_without_controls(text: String, octets: Vec<u8>, html: bool) -> bool {
        let kind = if html { "html" } else { "plain" };
        let head = format!("Content-Type: text/{kind}; charset=utf-8\r\n\r\n{text}");
        preview(&[head.into_bytes(), octets].concat());
        true
    }
}

#[test]
fn the_corpus_has_previews() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let (mut folders, mut count, mut with_text) = (vec![root.join("zoo")], 0, 0);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else {
            println!("skipped: no corpus");
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = preview(&std::fs::read(&path).unwrap());
            if std::env::var_os("SHOW_PREVIEWS").is_some() {
                println!("{}: {text}", path.display());
            }
            count += 1;
            with_text += usize::from(!text.is_empty());
        }
    }
    assert!(count > 500 && with_text * 2 > count, "{with_text} of {count}");
}
