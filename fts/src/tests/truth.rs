//! Truth: index and verification give what a scan gives, for generated queries over mail of the world.

#[path = "../../benches/load.rs"]
mod load;

use crate::token::{Class, Sink, is_machine, pieces, tokenize};
use crate::{Builder, Field, Fields, Languages, Limits, Merge, Mode, Query, Segment, check, search};
use culver_model::mime::{Message, PartTable, fields};
use culver_model::search::SearchKey;
use culver_model::text::{
    Event, Extract, Folder, HeaderSearch, Place, Scope, Step, TextSearch, field_text, fold,
};
use memchr::memmem;
use roaring::RoaringBitmap;
use std::collections::HashSet;

/// Numbers that look like chance (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) % bound.max(1) as u64) as usize
    }
}

/// A message as a scan sees it.
pub struct Scanned {
    message: Vec<u8>,
    table: PartTable,
    /// Folded texts, each with its place.
    texts: Vec<(Place, String)>,
    /// Names in small letters and folded values of the header's fields.
    header: Vec<(String, String)>,
}

impl Scanned {
    pub fn new(message: Vec<u8>) -> Scanned {
        let table = Message::scan(&message).table();
        let (mut texts, mut folder, mut folded, mut last) =
            (Vec::new(), Folder::default(), Vec::new(), Place::Header);
        let mut extract = Extract::new(&table, &message);
        let mut take = |event: Event<'_>| match event {
            Event::Text(place, text) => {
                last = place;
                folder.push(text, &mut folded);
            }
            Event::Break => {
                folder.finish(&mut folded);
                texts.push((last, String::from_utf8(std::mem::take(&mut folded)).unwrap()));
            }
        };
        while extract.step(usize::MAX, &mut take) == Step::More {}
        take(Event::Break);
        texts.retain(|(_, text)| !text.is_empty());
        let block = table
            .parts()
            .first()
            .map_or(0..0, |root| root.header().start as usize..root.header().end as usize);
        let named = |field: &culver_model::mime::Field<'_>| {
            (String::from_utf8_lossy(field.name).to_ascii_lowercase(), fold(&field_text(field)))
        };
        let header = fields(&message[block]).map(|field| named(&field)).collect();
        Scanned { message, table, texts, header }
    }

    /// The definition, word for word: substrings of folded texts.
    fn matches(&self, query: &Query) -> bool {
        match query {
            Query::All => true,
            Query::Documents(_) => unreachable!("not generated"),
            Query::And(queries) => queries.iter().all(|query| self.matches(query)),
            Query::Or(queries) => queries.iter().any(|query| self.matches(query)),
            Query::Not(query) => !self.matches(query),
            Query::Key { fields, key, .. } => {
                let key = fold(key);
                let body_only = *fields == Fields::BODY;
                key.is_empty()
                    || self.texts.iter().any(|(place, text)| {
                        (!body_only || *place == Place::Body)
                            && memmem::find(text.as_bytes(), key.as_bytes()).is_some()
                    })
            }
            Query::Header { name, key, .. } => {
                let (name, key) = (name.to_ascii_lowercase(), fold(key));
                self.header.iter().any(|(other, value)| *other == name && value.contains(&key))
            }
        }
    }

    /// The same by the functions that a search uses.
    fn scan(&self, query: &Query) -> bool {
        match query {
            Query::Key { fields, key, .. } => {
                let scope = if *fields == Fields::BODY { Scope::Body } else { Scope::Text };
                let mut search = TextSearch::new([(scope, key)]);
                search.search(&self.table, &self.message);
                search.found(0)
            }
            Query::Header { name, key, .. } => {
                let end = self.table.parts().first().map_or(0, |root| root.header().end as usize);
                HeaderSearch::new(name, key).matches(&self.message[..end])
            }
            query => self.matches(query),
        }
    }
}

/// Messages of every corpus, every so-and-so-many-th of the large ones.
fn messages(one_in: usize) -> Option<Vec<Vec<u8>>> {
    let root = load::root()?;
    let mut messages = Vec::new();
    load::folder(&root.join("zoo"), &mut messages);
    load::folder(&root.join("lang"), &mut messages);
    for name in
        ["spamassassin-easy-ham-1", "spamassassin-hard-ham-1", "spamassassin-spam-2", "twisted-python"]
    {
        let mut all = Vec::new();
        load::archive(&root, name, &mut all);
        messages.extend(all.into_iter().step_by(one_in));
    }
    Some(messages)
}

/// A piece of a text of some message.
fn piece(messages: &[Scanned], random: &mut Random) -> (usize, String) {
    loop {
        let at = random.below(messages.len());
        let texts = &messages[at].texts;
        if texts.is_empty() {
            continue;
        }
        // The last text is longer than a header field as a rule.
        let text = &texts[random.below(texts.len() * 2).min(texts.len() - 1)].1;
        let chars = text.chars().count();
        let begin = random.below(chars);
        let octets = 1 + random.below(40);
        return (at, text.chars().skip(begin).take(octets).collect());
    }
}

fn key(messages: &[Scanned], random: &mut Random) -> String {
    let (_, text) = piece(messages, random);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let word = words.get(words.len() / 2).copied().unwrap_or_default();
    let chars: Vec<char> = word.chars().collect();
    let part =
        |from: usize, to: usize| chars[from.min(chars.len())..to.min(chars.len())].iter().collect::<String>();
    let middle = random.below(chars.len());
    let key = match random.below(12) {
        0 | 1 => word.to_owned(),
        2 => part(0, 1 + middle),
        3 => part(middle, chars.len()),
        4 | 5 => part(middle, middle + 1 + random.below(6)),
        6 => pieces(word).first().map_or(String::new(), |piece| piece.token.to_owned()),
        7 => words.join("  \t"),
        8 => text.chars().take(2 + random.below(12)).collect(),
        9 => format!(" {word}"),
        10 => (0..1 + random.below(5)).map(|_| (b'a' + random.below(26) as u8) as char).collect(),
        _ => text.clone(),
    };
    if random.below(3) == 0 { key.to_uppercase() } else { key }
}

fn query(messages: &[Scanned], random: &mut Random, depth: usize) -> Query {
    match random.below(if depth == 0 { 8 } else { 12 }) {
        0..3 => Query::text(&key(messages, random)),
        3..6 => Query::body(&key(messages, random)),
        6 | 7 => {
            let header = loop {
                let header = &messages[random.below(messages.len())].header;
                if !header.is_empty() {
                    break header;
                }
            };
            let usual = ["Subject", "FROM", "to", "cc", "Message-ID"];
            let (name, value) = &header[random.below(header.len())];
            let name = match random.below(2) {
                0 => name.as_str(),
                _ => usual[random.below(usual.len())],
            };
            let chars = value.chars().count();
            let part: String = value.chars().skip(random.below(chars)).take(random.below(12)).collect();
            Query::header(name, &part)
        }
        8 | 9 => Query::And(vec![query(messages, random, depth - 1), query(messages, random, depth - 1)]),
        10 => Query::Or(vec![query(messages, random, depth - 1), query(messages, random, depth - 1)]),
        _ => Query::Not(Box::new(query(messages, random, depth - 1))),
    }
}

/// Segments of all messages but the gone ones, made and merged as an account's would be. Documents are odd numbers.
fn segments(messages: &[Scanned], gone: &RoaringBitmap) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let limits = Limits { words_max: 20_000, text_octets_max: 300_000, ..Limits::default() };
    let mut builder = Builder::new(limits, 7);
    for (at, message) in messages.iter().enumerate() {
        builder.message(number(at), &message.table, &message.message);
        if builder.len() == 1 + messages.len() / 9 || at + 1 == messages.len() {
            segments.push(std::mem::replace(&mut builder, Builder::new(limits, 8)).finish().unwrap().run());
        }
    }
    for bytes in &segments {
        check(bytes).unwrap();
    }
    // A merge of some, with budgets; one of two, out of order; the rest stays.
    let rest = segments.split_off(6);
    let opened: Vec<Segment<'_>> = segments.iter().map(|bytes| Segment::open(bytes).unwrap()).collect();
    let mut merge = Merge::new(&opened[..4].iter().collect::<Vec<_>>(), gone).unwrap().unwrap();
    while merge.step(5_000).unwrap() == crate::Step::More {}
    let swapped = Merge::new(&[&opened[5], &opened[4]], gone).unwrap().unwrap().run().unwrap();
    let mut merged = vec![merge.into_bytes(), swapped];
    for bytes in &merged {
        check(bytes).unwrap();
    }
    merged.extend(rest);
    merged
}

fn number(at: usize) -> u32 {
    at as u32 * 2 + 1001
}

#[test]
fn index_and_verification_find_what_a_scan_finds() {
    let (one_in, queries) = if cfg!(debug_assertions) { (40, 1_000u64) } else { (8, 10_000) };
    let Some(messages) = messages(one_in) else { return };
    let messages: Vec<Scanned> = messages.into_iter().map(Scanned::new).collect();
    let mut random = Random(1);
    let gone: RoaringBitmap = (0..messages.len()).filter(|at| at % 13 == 0).map(number).collect();
    let bytes = segments(&messages, &gone);
    let segments: Vec<Segment<'_>> = bytes.iter().map(|bytes| Segment::open(bytes).unwrap()).collect();
    let (mut hits, mut verified, mut needless, mut certain) = (0u64, 0u64, 0u64, 0u64);
    for n in 0..queries {
        let query = query(&messages, &mut random, 2);
        let found = search(&segments, &query);
        assert!(found.damaged.is_empty() && found.certain.is_disjoint(&found.possible));
        for (at, message) in messages.iter().enumerate() {
            let doc = number(at);
            let expect = message.matches(&query);
            if n % 200 == 0 && at % 50 == 0 {
                assert_eq!(message.scan(&query), expect, "{query:?} in message {at}");
            }
            let (is_certain, is_possible) = (found.certain.contains(doc), found.possible.contains(doc));
            if gone.contains(doc) && (is_certain || is_possible) {
                // What is gone leaves at a merge; not every segment was merged.
                continue;
            }
            if !gone.contains(doc) {
                assert!(!expect || is_certain || is_possible, "{query:?} does not find message {at}");
                assert!(expect || !is_certain, "{query:?} is sure of message {at}");
            }
            hits += u64::from(expect);
            certain += u64::from(is_certain);
            verified += u64::from(is_possible);
            needless += u64::from(is_possible && !expect);
        }
    }
    println!(
        "{} messages, {queries} queries: {hits} hits, {certain} certain, {verified} verified, {needless} of them in vain",
        messages.len()
    );
    assert!(hits > queries * 10);
}

/// Texts of pieces that meet the edges of the rules: lengths of machine text, lines of base64, joiners, marks, pairs.
#[test]
fn odd_texts_are_found_like_others() {
    const PIECES: [&str; 36] = [
        " ",
        " ",
        " ",
        ",",
        ".",
        "@",
        "-",
        "_",
        "+",
        "/",
        "=",
        "..",
        "a",
        "bc",
        "1",
        "def",
        "a1b2c3d4",
        "12345678",
        "0123456789",
        "abcdefghijklmnopqrst",
        "+QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz",
        " def+QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz/bc=",
        "aaaaaaaa11111111bbbbbbbb",
        "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz",
        "abcdefghijklmnopqrstuvwxyzabcdefghijk111",
        "\u{301}",
        "\u{e9}",
        "\u{df}",
        "\u{65e5}",
        "\u{672c}\u{8a9e}",
        "\u{30ac}",
        "\u{e01}\u{e48}",
        "\u{d55c}",
        "\u{fb01}",
        "\u{ad}",
        "\u{1f600}",
    ];
    let mut random = Random(3);
    let rounds = if cfg!(debug_assertions) { 30 } else { 400 };
    for round in 0..rounds {
        let text = |random: &mut Random, pieces: usize| -> String {
            (0..random.below(pieces)).map(|_| PIECES[random.below(PIECES.len())]).collect()
        };
        let messages: Vec<Scanned> = (0..20)
            .map(|_| {
                // Long ones go over the window in which texts are cut.
                let pieces = if random.below(10) == 0 { 20_000 } else { 40 };
                let (subject, body) = (text(&mut random, 20), text(&mut random, pieces));
                let odd = text(&mut random, 8);
                let kind = "Content-Type: text/plain; charset=utf-8\r\n";
                Scanned::new(format!("Subject: {subject}\r\n{odd}\r\n{kind}\r\n{body}").into_bytes())
            })
            .collect();
        let mut builder = Builder::new(Limits::default(), round);
        for (at, message) in messages.iter().enumerate() {
            builder.message(number(at), &message.table, &message.message);
        }
        let bytes = builder.finish().unwrap().run();
        check(&bytes).unwrap();
        let segments = [Segment::open(&bytes).unwrap()];
        for _ in 0..300 {
            let key = match random.below(4) {
                0 => text(&mut random, 5),
                // From a space on: the first word is whole.
                1 => {
                    let (at, _) = piece(&messages, &mut random);
                    let (_, text) = &messages[at].texts[random.below(messages[at].texts.len())];
                    let spaces: Vec<usize> = memchr::memchr_iter(b' ', text.as_bytes()).collect();
                    let begin = spaces.get(random.below(spaces.len())).copied().unwrap_or_default();
                    text[begin..].chars().take(2 + random.below(9)).collect()
                }
                _ => piece(&messages, &mut random).1,
            };
            for query in [
                Query::text(&key),
                Query::body(&key),
                Query::header("Subject", &key),
                Query::header("", &key),
            ] {
                let found = search(&segments, &query);
                for (at, message) in messages.iter().enumerate() {
                    let expect = message.matches(&query);
                    let is_certain = found.certain.contains(number(at));
                    let is_found = is_certain || found.possible.contains(number(at));
                    assert!(is_found || !expect, "{query:?} does not find message {at} of round {round}");
                    assert!(expect || !is_certain, "{query:?} is sure of message {at} of round {round}");
                }
            }
        }
    }
}

#[derive(Default)]
struct Words {
    words: HashSet<String>,
    compounds: HashSet<String>,
}

impl Sink for Words {
    fn word(&mut self, token: &[u8]) {
        self.words.insert(String::from_utf8(token.to_vec()).unwrap());
    }
    fn compound(&mut self, token: &[u8]) {
        self.compounds.insert(String::from_utf8(token.to_vec()).unwrap());
    }
    fn machine(&mut self, _: &[u8]) {}
}

/// What a message holds in words mode: each word of the key is one of its words.
#[test]
fn words_mode_differs_as_documented() {
    let (one_in, queries) = if cfg!(debug_assertions) { (80, 300) } else { (16, 3_000) };
    let Some(messages) = messages(one_in) else { return };
    let messages: Vec<Scanned> = messages.into_iter().map(Scanned::new).collect();
    let mut builder = Builder::new(Limits::default(), 3);
    let mut words: Vec<Words> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        builder.message(number(at), &message.table, &message.message);
        let mut found = Words::default();
        message.texts.iter().for_each(|(_, text)| tokenize(text, &mut found));
        words.push(found);
    }
    let bytes = builder.finish().unwrap().run();
    let segments = [Segment::open(&bytes).unwrap()];
    let mut random = Random(2);
    for _ in 0..queries {
        let key = key(&messages, &mut random);
        let folded = fold(&key);
        let pieces = pieces(&folded);
        // Documented: machine text, and scripts without spaces.
        if pieces.is_empty()
            || pieces.iter().any(|piece| piece.class == Class::Pair || is_machine(piece.token.as_bytes()))
        {
            continue;
        }
        for mode in [Mode::Words, Mode::Prefix, Mode::Forms(Languages::ALL)] {
            let found = search(&segments, &Query::Key { fields: Fields::TEXT, key: key.clone(), mode });
            assert!(found.possible.is_empty());
            for (at, words) in words.iter().enumerate() {
                if segments[0].incomplete().contains(number(at) - segments[0].first()) {
                    continue;
                }
                let Words { words, compounds } = words;
                let whole = pieces[..pieces.len() - 1].iter().all(|piece| words.contains(piece.token));
                let last = pieces[pieces.len() - 1].token;
                let begins = |word: &String| word.starts_with(last);
                let is_found = found.certain.contains(number(at));
                let right = match mode {
                    // An address whose first word is machine text begins with it all the same.
                    Mode::Prefix if is_found => whole && words.iter().chain(compounds).any(begins),
                    Mode::Prefix => !(whole && words.iter().any(begins)),
                    Mode::Words => is_found == (whole && words.contains(last)),
                    _ => is_found || !(whole && words.contains(last)),
                };
                assert!(right, "{mode:?} {key:?}: message {at}");
            }
        }
    }
}

#[test]
fn languages_are_told_apart() {
    let Some(root) = load::root() else { return };
    let (mut right, mut all) = (0, 0);
    for language in crate::Language::ALL {
        let code = if language.code() == "no" { "nb" } else { language.code() };
        let folder = root.join("lang/udhr").join(code);
        if !folder.exists() {
            continue;
        }
        let mut messages = Vec::new();
        load::folder(&folder, &mut messages);
        let mut told = 0;
        for message in &messages {
            let mut builder = Builder::new(Limits::default(), 1);
            builder.message(1, &Message::scan(message).table(), message);
            let bytes = builder.finish().unwrap().run();
            let segment = Segment::open(&bytes).unwrap();
            let marks = segment.marks(crate::format::mark::LANGUAGE).unwrap();
            told += u32::from(marks.iter().any(|(term, _)| term[1] == language as u8));
        }
        println!("{code}: {told} of {}", messages.len());
        right += told;
        all += messages.len() as u32;
    }
    assert!(right * 100 > all * 90, "{right} of {all}");
}

#[test]
fn fields_are_told_apart() {
    let message = b"Subject: quarterly report\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.net\r\nX-Odd: thing\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nthe body text\r\n--b\r\nContent-Type: image/png\r\n\
        Content-Disposition: attachment; filename=holiday.png\r\n\r\nxx\r\n--b--\r\n";
    let mut builder = Builder::new(Limits::default(), 3);
    builder.message(5, &Message::scan(message).table(), message);
    let bytes = builder.finish().unwrap().run();
    let segments = [Segment::open(&bytes).unwrap()];
    let key =
        |field, key: &str| Query::Key { fields: Fields::of(field), key: key.into(), mode: Mode::Substring };
    for (query, certain, possible) in [
        (key(Field::Subject, "report"), true, false),
        (key(Field::Subject, "subj"), false, false),
        (key(Field::Subject, "terly rep"), false, true),
        (key(Field::Subject, ""), true, false),
        (key(Field::Cc, ""), false, false),
        (key(Field::From, "ann@example.org"), true, false),
        (key(Field::From, "nn@exam"), true, false),
        (key(Field::To, "ann"), false, false),
        (key(Field::Attachment, "holiday"), true, false),
        (Query::body("holiday.png"), true, false),
        (Query::body("liday.p"), true, false),
        (Query::body("holiday."), false, true),
        (Query::body("report"), false, false),
        (Query::text("report"), true, false),
        (Query::text("bject: qua"), false, true),
        (Query::body("dy te"), false, true),
        (Query::body("body quarterly"), false, false),
        (Query::header("x-odd", ""), true, false),
        (Query::header("X-Odd", "thing"), false, true),
        (Query::header("X-Odd", "report"), false, false),
        (Query::header("X-None", ""), false, false),
        (Query::Not(Box::new(Query::text("report"))), false, false),
        (Query::Not(Box::new(Query::text("nowhere"))), true, false),
        (Query::text(""), true, false),
        (Query::text("?!"), false, true),
        (Query::Documents([5, 6].into_iter().collect()), true, false),
    ] {
        let found = search(&segments, &query);
        assert_eq!((found.certain.contains(5), found.possible.contains(5)), (certain, possible), "{query:?}");
    }
}

#[test]
fn search_keys_are_queries_where_they_ask_for_texts() {
    let text = |key: &str| SearchKey::Text(key.to_owned());
    let mixed =
        SearchKey::Or(Box::new(text("a")), Box::new(SearchKey::Not(Box::new(SearchKey::Body("b".into())))));
    let expect = Query::Or(vec![Query::text("a"), Query::Not(Box::new(Query::body("b")))]);
    assert_eq!(Query::of(&mixed), Some(expect));
    assert_eq!(Query::of(&SearchKey::And(vec![text("a"), SearchKey::Recent])), None);
}
