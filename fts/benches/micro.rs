//! Micro-benchmarks of the full text index: what a message, a merge and a query cost.

use std::process::ExitCode;

use cases::{Case, mail};
use culver_fts::{Builder, Limits, Merge, Query, Segment, Step, search};
use culver_model::mime::{Message, PartTable};

const MESSAGES: u64 = 200;

fn messages() -> Vec<(PartTable, Vec<u8>)> {
    let scanned = |octets: Vec<u8>| (Message::scan(&octets).table(), octets);
    (0..MESSAGES).map(|n| scanned(if n % 4 == 0 { mail::alternative(n) } else { mail::plain(n) })).collect()
}

fn builder(messages: &[(PartTable, Vec<u8>)], first: u32) -> Builder {
    let mut builder = Builder::new(Limits::default(), 1);
    for (n, (table, octets)) in messages.iter().enumerate() {
        builder.message(first + n as u32, table, octets);
    }
    builder
}

fn segment(messages: &[(PartTable, Vec<u8>)], first: u32) -> Vec<u8> {
    builder(messages, first).finish().expect("there are messages").run()
}

/// How many documents match, and may match.
fn ask(bytes: &[u8], query: &Query) -> (u64, u64) {
    let found = search(&[Segment::open(bytes).expect("it is sound")], query);
    (found.certain.len(), found.possible.len())
}

fn main() -> ExitCode {
    let one = || segment(&messages(), 1);
    cases::main(&[
        Case::reading("fts/words_of_200_messages", messages, |messages| {
            let builder = builder(messages, 1);
            assert_eq!(builder.len(), messages.len());
            builder
        }),
        Case::new(
            "fts/segment_of_200_messages",
            messages,
            |messages| Some(builder(messages, 1)),
            |_, builder| {
                let mut finish = builder.take().and_then(Builder::finish).expect("there are messages");
                while finish.step(64 * 1024) == Step::More {}
                finish.into_bytes()
            },
        ),
        Case::reading(
            "fts/merge_of_4",
            || -> Vec<Vec<u8>> { (0..4).map(|n| segment(&messages(), 1 + n * 1000)).collect() },
            |segments| {
                let opened: Vec<Segment<'_>> =
                    segments.iter().map(|bytes| Segment::open(bytes).expect("it is sound")).collect();
                let all: Vec<&Segment<'_>> = opened.iter().collect();
                let merge = Merge::new(&all, &Default::default()).expect("they are sound");
                merge.expect("documents are left").run().expect("they are sound")
            },
        ),
        Case::reading("fts/open", one, |bytes| Segment::open(bytes).expect("it is sound").terms()),
        Case::reading("fts/word", one, |bytes| ask(bytes, &Query::text("message"))),
        Case::reading("fts/substring", one, |bytes| ask(bytes, &Query::body("essag"))),
        Case::reading("fts/phrase", one, |bytes| ask(bytes, &Query::body("of the mess"))),
        Case::reading("fts/short_substring", one, |bytes| ask(bytes, &Query::body("e"))),
    ])
}
