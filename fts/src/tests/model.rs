//! The index beside a plain map of words.

use crate::{
    Builder, Field, Fields, Languages, Limits, Merge, Mode, Query, Segment, Step, check, rank, search,
    snippet,
};
use culver_model::mime::Message;
use quickcheck::quickcheck;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const WORDS: [&str; 12] = [
    "alpha",
    "alphabet",
    "beta",
    "gamma",
    "bet",
    "et",
    "x1y2z3w4v5",
    "a",
    "\u{fc}ber",
    "uber",
    "\u{65e5}\u{672c}",
    "phab",
];

fn built(documents: &BTreeMap<u32, Vec<(Field, String)>>) -> Vec<u8> {
    let mut builder = Builder::new(Limits::default(), 5);
    for (doc, texts) in documents {
        builder.open(*doc);
        for (field, text) in texts {
            builder.text(*field, text);
            builder.end_text();
        }
        builder.close();
    }
    let mut finish = builder.finish().expect("there are documents");
    while finish.step(3) == Step::More {}
    finish.into_bytes()
}

quickcheck! {
    fn merged_segments_answer_like_a_map(documents: Vec<(u8, Vec<(u8, u8)>)>, gone: Vec<u8>, parts: u8) -> bool {
        let mut model: BTreeMap<u32, Vec<(Field, String)>> = BTreeMap::new();
        for (doc, words) in &documents {
            let texts = words
                .iter()
                .map(|(field, word)| {
                    (Field::ALL[usize::from(field % 8)], WORDS[usize::from(*word) % WORDS.len()].to_owned())
                })
                .collect();
            model.insert(u32::from(*doc) + 3, texts);
        }
        if model.is_empty() {
            return true;
        }
        // In turn, so that documents of the segments lie between each other.
        let parts = usize::from(parts % 3) + 1;
        let mut split = vec![BTreeMap::new(); parts];
        for (n, (doc, texts)) in model.iter().enumerate() {
            split[n % parts].insert(*doc, texts.clone());
        }
        let bytes: Vec<Vec<u8>> = split.iter().filter(|part| !part.is_empty()).map(built).collect();
        let segments: Vec<Segment> = bytes.iter().map(|bytes| Segment::open(bytes).unwrap()).collect();
        let gone: RoaringBitmap = gone.iter().map(|doc| u32::from(*doc) + 3).collect();
        model.retain(|doc, _| !gone.contains(*doc));
        let merged = match Merge::new(&segments.iter().collect::<Vec<_>>(), &gone).unwrap() {
            Some(mut merge) => {
                while merge.step(2).unwrap() == Step::More {}
                merge.into_bytes()
            }
            None => return model.is_empty(),
        };
        assert_eq!(check(&merged).unwrap().documents as usize, model.len());
        let merged = [Segment::open(&merged).unwrap()];
        for key in WORDS.iter().chain(&["pha", "e", "b"]) {
            for (fields, body) in [(Fields::BODY, true), (Fields::TEXT, false)] {
                let query = Query::Key { fields, key: (*key).to_owned(), mode: Mode::Substring };
                let found = search(&merged, &query);
                let key = culver_model::text::fold(key);
                let expect: RoaringBitmap = model
                    .iter()
                    .filter(|(_, texts)| {
                        texts.iter().any(|(field, text)| {
                            let here = if body { *field == Field::Body } else { *field != Field::Attachment };
                            here && culver_model::text::fold(text).contains(&key)
                        })
                    })
                    .map(|(doc, _)| *doc)
                    .collect();
                assert!(found.certain.is_subset(&expect), "{query:?}");
                assert!(expect.is_subset(&(&found.certain | &found.possible)), "{query:?}");
            }
        }
        true
    }

    fn what_was_abandoned_leaves_nothing(texts: Vec<String>) -> bool {
        let add = |builder: &mut Builder, doc, text: &str| {
            builder.open(doc);
            builder.text(Field::Body, text);
        };
        let (mut one, mut other) = (Builder::new(Limits::default(), 1), Builder::new(Limits::default(), 2));
        for (n, text) in texts.iter().enumerate() {
            let doc = n as u32 + 1;
            add(&mut one, doc, "something else");
            one.abandon();
            add(&mut one, doc, text);
            one.close();
            add(&mut other, doc, text);
            other.close();
        }
        one.finish().map(|finish| finish.run()) == other.finish().map(|finish| finish.run())
    }
}

#[test]
fn messages_beyond_a_limit_are_candidates() {
    let limits = Limits { text_octets_max: 40_000, words_max: 100, ..Limits::default() };
    let many: String = (0..20_000).map(|n| format!("w{n}x ")).collect();
    for body in [many, "word ".repeat(50_000), "x".repeat(100_000)] {
        let message = format!("Subject: s\r\n\r\n{body} needle");
        let mut builder = Builder::new(limits, 1);
        builder.message(1, &Message::scan(message.as_bytes()).table(), message.as_bytes());
        builder.message(2, &Message::scan(b"Subject: s\r\n\r\nsmall").table(), b"Subject: s\r\n\r\nsmall");
        let bytes = builder.finish().unwrap().run();
        let segments = [Segment::open(&bytes).unwrap()];
        let found = search(&segments, &Query::body("needle"));
        assert!(found.possible.contains(1) && !found.possible.contains(2));
        let found = search(&segments, &Query::Not(Box::new(Query::body("needle"))));
        assert!(found.possible.contains(1) && found.certain.contains(2));
    }
}

/// Each in one step of a shard's annex; the bound is a second on a core of its own, and tests are not optimised.
#[test]
fn no_message_takes_long() {
    let begin = Instant::now();
    let many: String = (0..1_500_000).map(|n| format!("{n:x}q ")).collect();
    let html = |body: String| format!("Content-Type: text/html\r\n\r\n{body}");
    let plain = |body: String| format!("Content-Type: text/plain; charset=utf-8\r\n\r\n{body}");
    for (name, message) in [
        ("different words", plain(many)),
        ("one word", plain("x".repeat(20 << 20))),
        ("machine text", plain("0a1b2c3d4e5f6g7h".repeat(1 << 20))),
        (
            "lines of base64",
            plain("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2\r\n".repeat(1 << 18)),
        ),
        ("marks", plain("\u{301}".repeat(10 << 20))),
        ("pairs", plain("\u{65e5}\u{672c}".repeat(3 << 20))),
        ("an address", plain("a.b-c+d@".repeat(2 << 20))),
        ("joiners", plain(".@".repeat(10 << 20))),
        ("tags", html("<b></b>".repeat(3 << 20))),
        ("brackets", html("<".repeat(16 << 20))),
        ("references", html("&amp".repeat(4 << 20))),
        ("fields", "X: y\r\n".repeat(2 << 20)),
        ("names", (0..500_000).map(|n| format!("X-{n}: a\r\n")).collect()),
        ("encoded words", format!("Subject: {}\r\n\r\n", "=?utf-8?q?a?= ".repeat(1 << 20))),
        ("ligatures", plain("\u{fdfa}".repeat(5 << 20))),
    ] {
        let table = Message::scan(message.as_bytes()).table();
        let start = Instant::now();
        let mut builder = Builder::new(Limits::default(), 1);
        builder.message(1, &table, message.as_bytes());
        println!("{name}: {:.0?}, {} octets held", start.elapsed(), builder.octets());
        let begin = Instant::now();
        let bytes = builder.finish().unwrap().run();
        println!("  and {:.0?} for the segment of {} octets", begin.elapsed(), bytes.len());
        check(&bytes).unwrap();
        let bound = if cfg!(debug_assertions) { 60 } else { 1 };
        assert!(start.elapsed() < Duration::from_secs(bound), "{name}");
    }
    println!("{:.1?} in all", begin.elapsed());
}

#[test]
fn stems_count_in_texts_of_their_language() {
    let mut builder = Builder::new(Limits::default(), 1);
    for (doc, body) in [
        (1, "the houses of the town and the bridges of it are not what they were"),
        (2, "der houses und die stadt ist nicht von dem was sie war"),
        (3, "houses"),
    ] {
        let message = format!("Subject: s\r\n\r\n{body}");
        builder.message(doc, &Message::scan(message.as_bytes()).table(), message.as_bytes());
    }
    let bytes = builder.finish().unwrap().run();
    let segments = [Segment::open(&bytes).unwrap()];
    let mode = Mode::Forms(Languages::parse("en").unwrap());
    let found = search(&segments, &Query::Key { fields: Fields::TEXT, key: "house".into(), mode });
    assert_eq!(found.certain.iter().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn the_better_match_comes_first() {
    let mut builder = Builder::new(Limits::default(), 1);
    for (doc, subject, body) in [
        (1, "lunch", "we could have some soup, if the houses are built by then"),
        (2, "houses for sale", "the house is large"),
        (3, "nothing", "nothing at all"),
        (4, "horse", "the horse of the neighbour"),
        (5, "house", "short"),
    ] {
        let message = format!("Subject: {subject}\r\n\r\n{body}");
        builder.message(doc, &Message::scan(message.as_bytes()).table(), message.as_bytes());
    }
    let bytes = builder.finish().unwrap().run();
    let segments = [Segment::open(&bytes).unwrap()];
    let mode = Mode::Forms(Languages::ALL);
    let found = search(&segments, &Query::Key { fields: Fields::TEXT, key: "the house".into(), mode });
    // An AND of all words: 5 has no "the".
    assert_eq!(found.certain.iter().collect::<Vec<_>>(), [1, 2, 4]);
    let found = search(&segments, &Query::Key { fields: Fields::TEXT, key: "House".into(), mode });
    let ranked = rank(&segments, &[(Fields::TEXT, "the House")], Languages::ALL, &found.certain).unwrap();
    let order: Vec<u32> = ranked.iter().map(|ranked| ranked.doc).collect();
    assert_eq!(order.last(), Some(&4));
    assert!(order[..2].contains(&2) && order[..2].contains(&5), "{ranked:?}");
    assert_eq!(ranked[0].score, 100);
    assert!(ranked.is_sorted_by(|one, other| one.score >= other.score && other.score > 0));
}

#[test]
fn snippets_show_what_was_found() {
    let body =
        format!("{} the quick Br\u{f6}wn fox\r\n jumps {}", "padding ".repeat(100), "more ".repeat(100));
    let message = format!("Subject: fox\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}");
    let table = Message::scan(message.as_bytes()).table();
    let shown = snippet(&table, message.as_bytes(), &["fox br\u{f6}wn"], 80);
    assert!(shown.text.contains("quick Br\u{f6}wn fox jumps") && shown.text.len() <= 80, "{shown:?}");
    let marked: Vec<&str> = shown.marks.iter().map(|mark| &shown.text[mark.clone()]).collect();
    assert_eq!(marked, ["Br\u{f6}wn", "fox"]);
    let shown = snippet(&table, message.as_bytes(), &["nowhere"], 30);
    assert_eq!((shown.text.as_str(), shown.marks.len()), ("padding padding padding", 0));
    assert_eq!(snippet(&Message::scan(b"").table(), b"", &["x"], 30).text, "");
}
