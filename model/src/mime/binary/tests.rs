use super::*;
use crate::mime::{Content, Decoder, Encoding, Message, Part};
use quickcheck::{Arbitrary, Gen, quickcheck};
use std::path::Path;

struct Converted {
    octets: Vec<u8>,
    converted: bool,
    unconverted: bool,
    nul_elsewhere: bool,
}

fn convert(input: &[u8], mut size: impl FnMut() -> usize) -> Converted {
    let (mut converter, mut octets) = (BinaryConverter::new(), Vec::new());
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(size().clamp(1, rest.len()));
        converter.feed(piece, &mut octets);
        rest = later;
    }
    converter.finish(&mut octets);
    Converted {
        octets,
        converted: converter.converted(),
        unconverted: converter.unconverted(),
        nul_elsewhere: converter.nul_elsewhere(),
    }
}

fn whole(input: &[u8]) -> Converted {
    convert(input, || usize::MAX)
}

fn decoded(part: &Part, octets: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(Encoding::of(&part.encoding));
    let mut decoded = Vec::new();
    decoder.feed(&octets[part.body.start as usize..part.body.end as usize], &mut decoded);
    decoder.finish(&mut decoded);
    decoded
}

/// That the parts are the same, decode to the same octets, and that none is of CTE BINARY any more.
fn same(before: &Part, from: &[u8], after: &Part, to: &[u8]) {
    assert_eq!(before.content_type, after.content_type);
    assert!(!after.encoding.eq_ignore_ascii_case(b"binary"));
    match (&before.content, &after.content) {
        (Content::Leaf, Content::Leaf) => {
            assert_eq!(decoded(before, from), decoded(after, to));
            if before.encoding.eq_ignore_ascii_case(b"binary") && !before.content_type.is_type("message") {
                let lines =
                    to[after.body.start as usize..after.body.end as usize].split(|byte| *byte == b'\n');
                assert_eq!(after.encoding, b"base64");
                assert!(lines.clone().all(|line| line.len() <= 77 && !line.contains(&0)));
            }
        }
        (Content::Multipart(before), Content::Multipart(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| same(before, from, after, to));
        }
        (Content::Message(before), Content::Message(after)) => {
            assert_eq!(before.envelope, after.envelope);
            same(&before.root, from, &after.root, to);
        }
        _ => panic!("{before:?} became {after:?}"),
    }
}

/// What holds for every message; gives whether something was converted.
fn check(input: &[u8], sizes: &[u8]) -> bool {
    let result = whole(input);
    let mut cycle = sizes.iter().cycle();
    let pieces = convert(input, || usize::from(*cycle.next().unwrap_or(&1)) % 40 + 1);
    assert!(pieces.octets == result.octets);
    assert_eq!(
        (pieces.converted, pieces.unconverted, pieces.nul_elsewhere),
        (result.converted, result.unconverted, result.nul_elsewhere)
    );
    if !result.unconverted {
        same(&Message::scan(input).root, input, &Message::scan(&result.octets).root, &result.octets);
        assert!(result.nul_elsewhere || !result.octets.contains(&0));
    }
    assert!(result.converted || result.octets == input);
    result.converted
}

#[test]
fn a_binary_message_is_encoded() {
    let body: Vec<u8> = (0..=255).collect();
    let input =
        [b"Subject: x\r\nContent-Transfer-Encoding: BINARY\r\nX: y\r\n\r\n".as_slice(), &body].concat();
    let result = whole(&input);
    assert_eq!(
        String::from_utf8(result.octets).unwrap(),
        "Subject: x\r\nContent-Transfer-Encoding: base64\r\nX: y\r\n\r\n\
         AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4\r\n\
         OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3Bx\r\n\
         cnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmq\r\n\
         q6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj\r\n\
         5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==\r\n"
    );
    assert!(result.converted && !result.unconverted && !result.nul_elsewhere);
    assert!(check(&input, &[1, 5]));
}

/// RFC 3516 §4.4, RFC 2045 §6.4.
#[test]
fn parts_are_converted_and_what_holds_them_is_8bit() {
    let input = b"Content-Type: multipart/mixed; boundary=\"b\"\r\nContent-Transfer-Encoding: binary\r\n\r\npreamble\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\nplain\r\n--b \r\ncontent-transfer-encoding:\r\n (c) Binary\r\n\r\n\
        \0\r\n--c\r\n\n\r\r\n\r\n--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n\
        Content-Type: image/png\nContent-Transfer-Encoding: binary\n\nab\0\n--b\r\n\
        Content-Transfer-Encoding: binary\r\n\r\n--b\r\nContent-Transfer-Encoding: binary\r\n--b--\r\nepilogue\r\n";
    let result = whole(input);
    assert_eq!(
        String::from_utf8(result.octets).unwrap(),
        "Content-Type: multipart/mixed; boundary=\"b\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nplain\r\n--b \r\nContent-Transfer-Encoding: base64\r\n\r\n\
         AA0KLS1jDQoKDQ0K\r\n--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         Content-Type: image/png\nContent-Transfer-Encoding: base64\n\nYWIA\n--b\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n--b--\r\nepilogue\r\n"
    );
    assert!(result.converted && !result.unconverted && !result.nul_elsewhere);
    for size in 0..40 {
        assert!(check(input, &[size]));
    }
}

#[test]
fn what_is_not_binary_passes_and_nuls_are_told() {
    for (input, nul) in [
        ("Content-Transfer-Encoding: 8bit\r\n\r\na\nb\r\n", false),
        ("Content-Transfer-Encoding: x-binary\r\n\r\na", false),
        ("Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: binary\r\n\r\na", false),
        ("Content-Transfer-Encoding: 8bit\r\n\r\na\0b\r\n", true),
        ("Subject: a\0b\r\n\r\n", true),
        ("Content-Type: multipart/mixed; boundary=b\n\n\0\n--b\n\n--b--\n", true),
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n--b\0\n\n--b--\n", true),
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n--b--\n\0", true),
        ("", false),
    ] {
        let result = whole(input.as_bytes());
        assert_eq!(result.octets, input.as_bytes(), "{input:?}");
        assert_eq!(result.nul_elsewhere, nul, "{input:?}");
        assert!(!result.converted && !result.unconverted, "{input:?}");
        check(input.as_bytes(), &[0, 3]);
    }
    let result = whole(b"Content-Transfer-Encoding: binary\r\nX: \0\r\n\r\n\0");
    assert!(result.converted && result.nul_elsewhere);
    // What may not be base64 keeps its NUL.
    let result = whole(b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: binary\n\n\0");
    assert!(result.converted && result.nul_elsewhere && !result.unconverted);
    assert!(result.octets.ends_with(b"Content-Transfer-Encoding: 8bit\n\n\0"));
}

#[test]
fn what_lies_beyond_the_limits_passes_and_is_told() {
    let field = format!("X: {}\r\n", "x".repeat(BinaryConverter::HEADER_OCTETS_MAX));
    let input = format!("{field}Content-Transfer-Encoding: binary\r\n\r\n\0");
    let result = whole(input.as_bytes());
    assert!(result.octets == input.as_bytes() && result.unconverted && result.nul_elsewhere);

    let no_boundary = b"Content-Type: multipart/mixed\r\nContent-Transfer-Encoding: binary\r\n\r\n--b\r\n\0";
    let result = whole(no_boundary);
    assert!(result.unconverted && result.nul_elsewhere);

    let part = "--b\r\nContent-Transfer-Encoding: binary\r\n\r\nx\r\n";
    let input = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned() + &part.repeat(1200);
    let result = whole(input.as_bytes());
    assert!(result.converted && result.unconverted);
    check(input.as_bytes(), &[7]);
}

#[test]
fn hostile_messages_take_linear_time() {
    let begin = std::time::Instant::now();
    let mut lines = String::new();
    let long = "-".repeat(60);
    for level in 0..99 {
        let boundary = format!("{long}{level}x");
        lines += &format!(
            "Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\nContent-Transfer-Encoding: binary\r\n\r\n\
             --{boundary}\r\n"
        );
    }
    lines += &format!("Content-Transfer-Encoding: binary\r\n\r\n{}", format!("--{long}\r\n").repeat(300_000));
    let result = convert(lines.as_bytes(), || 4096);
    assert!(result.converted && !result.unconverted);
    let one_line = [b"Content-Transfer-Encoding: binary\r\n\r\n".as_slice(), &vec![b'-'; 20 << 20]].concat();
    assert!(convert(&one_line, || 4096).converted);
    assert!(begin.elapsed() < std::time::Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// Pieces of messages in any order.
#[derive(Clone, Debug)]
struct Pieces(Vec<u8>);

impl Arbitrary for Pieces {
    fn arbitrary(g: &mut Gen) -> Pieces {
        const PIECES: [&[u8]; 26] = [
            b"--b\r\n",
            b"--b\n",
            b"--b--\r\n",
            b"--bc \r\n",
            b"--bc--\n",
            b"--",
            b"-",
            b"--bd",
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b"\xff\xfe",
            b"text",
            b" ",
            b"Content-Type: multipart/mixed; boundary=b\r\n",
            b"Content-Type: multipart/digest; boundary=\"bc\"\n",
            b"Content-Type: message/rfc822\r\n",
            b"Content-Type: message/global\r\n",
            b"Content-Type: message/delivery-status\r\n",
            b"Content-Transfer-Encoding: binary\r\n",
            b"Content-Transfer-Encoding: Binary\n",
            b"Content-Transfer-Encoding:\r\n\tbinary\r\n",
            b"Content-Transfer-Encoding: base64\r\n",
            b"Content-Transfer-Encoding: binary\r\n\r\n",
            b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n--b\r\n",
        ];
        let count = usize::arbitrary(g) % 30;
        Pieces((0..count).flat_map(|_| g.choose(&PIECES).copied().unwrap_or_default().to_vec()).collect())
    }
}

/// A message as a sender means it.
#[derive(Clone, Debug)]
struct Nested(Vec<u8>);

fn entity(g: &mut Gen, depth: usize) -> Vec<u8> {
    let binary = b"Content-Transfer-Encoding: binary\r\n".as_slice();
    let kind = if depth == 4 { 0 } else { u8::arbitrary(g) % 4 };
    match kind {
        1 => {
            let mut octets =
                format!("Content-Type: multipart/mixed; boundary=\"={depth}=\"\r\n").into_bytes();
            octets.extend_from_slice(if bool::arbitrary(g) { binary } else { b"" });
            octets.extend_from_slice(b"\r\npreamble\r\n");
            for _ in 0..=u8::arbitrary(g) % 3 {
                octets.extend_from_slice(format!("--={depth}=\r\n").as_bytes());
                octets.extend(entity(g, depth + 1));
                octets.extend_from_slice(b"\r\n");
            }
            octets.extend_from_slice(format!("--={depth}=--\r\n").as_bytes());
            octets
        }
        2 => {
            let mut octets = b"Content-Type: message/rfc822\r\n".to_vec();
            octets.extend_from_slice(if bool::arbitrary(g) { binary } else { b"" });
            octets.extend_from_slice(b"\r\nSubject: inner\r\n");
            octets.extend(entity(g, depth + 1));
            octets
        }
        _ => {
            let mut octets = b"Content-Type: application/octet-stream\r\n".to_vec();
            octets.extend_from_slice(if kind == 0 { binary } else { b"" });
            octets.extend_from_slice(b"\r\n");
            let body: Vec<u8> = Vec::arbitrary(g);
            let plain = body.iter().map(|byte| b"-\r\n=a0"[usize::from(*byte) % 6]);
            octets.extend(if bool::arbitrary(g) { body.clone() } else { plain.collect() });
            octets
        }
    }
}

impl Arbitrary for Nested {
    fn arbitrary(g: &mut Gen) -> Nested {
        Nested([b"Subject: outer\r\n".to_vec(), entity(g, 0)].concat())
    }
}

quickcheck! {
    fn pieces_scan_and_decode_alike(pieces: Pieces, sizes: Vec<u8>) -> bool {
        check(&pieces.0, &sizes);
        true
    }

    fn messages_scan_and_decode_alike(message: Nested, sizes: Vec<u8>) -> bool {
        check(&message.0, &sizes);
        true
    }
}

/// Real structures; every encoding of theirs is called binary.
#[test]
fn the_zoo_scans_and_decodes_alike() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/zoo")];
    let (mut count, mut converted) = (0, 0);
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
            let octets = std::fs::read(&path).unwrap();
            check(&octets, &[5, 39]);
            let mut binary = Vec::new();
            for line in octets.split_inclusive(|byte| *byte == b'\n') {
                if line.to_ascii_lowercase().starts_with(b"content-transfer-encoding:")
                    && !line.contains(&b'(')
                {
                    binary.extend_from_slice(b"Content-Transfer-Encoding: binary\n");
                } else {
                    binary.extend_from_slice(line);
                }
            }
            count += 1;
            converted += usize::from(check(&binary, &[5, 39]));
        }
    }
    assert!(count > 500 && converted > 100, "{converted} of {count}");
}
