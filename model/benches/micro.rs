//! Micro-benchmarks of the model: the MIME scanner and what is prepared from its result; sequence sets.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cases::{Case, mail};
use culver_model::SequenceSet;
use culver_model::mime::{Limits, Message, Scanner, body, bodystructure, envelope};

/// What a read from a socket gives at most.
const PIECE_OCTETS: usize = 16 * 1024;

fn many(count: u64, make: fn(u64) -> Vec<u8>) -> Vec<Vec<u8>> {
    (1..=count).map(make).collect()
}

fn scan(octets: &[u8]) -> Message {
    let mut scanner = Scanner::new(Limits::default());
    octets.chunks(PIECE_OCTETS).for_each(|piece| scanner.feed(piece));
    let message = scanner.finish();
    assert_eq!(message.size, octets.len() as u64);
    message
}

fn scan_all(messages: &[Vec<u8>]) {
    messages.iter().for_each(|octets| drop(std::hint::black_box(scan(octets))));
}

/// The prepared forms of a message: what is made once when it arrives.
fn forms(messages: &[Message]) -> usize {
    let octets = messages.iter().map(|message| {
        let wire = [envelope(message), body(message), bodystructure(message)];
        let headers = message.chosen_headers().expect("a short header is whole");
        wire.iter().map(Vec::len).sum::<usize>() + message.table().encode().len() + headers.len()
    });
    let octets = octets.sum();
    assert!(octets > messages.len() * 500);
    octets
}

fn corpus(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(path)
}

/// The messages below a folder, in the order of their paths; or one message.
fn read(path: &Path) -> Vec<Vec<u8>> {
    if path.is_file() {
        let mail = path.extension().is_some_and(|extension| extension == "eml");
        return if mail { vec![std::fs::read(path).expect("it is readable")] } else { Vec::new() };
    }
    let entries = std::fs::read_dir(path).expect("a folder of messages");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| read(path)).collect()
}

fn main() -> ExitCode {
    let mut cases = vec![
        Case::reading("model/scan_100_plain", || many(100, mail::plain), |messages| scan_all(messages)),
        Case::reading(
            "model/scan_20_alternative",
            || many(20, mail::alternative),
            |messages| scan_all(messages),
        ),
        Case::reading("model/scan_attachment", || many(1, mail::attachment), |messages| scan_all(messages)),
        Case::reading(
            "model/forms_of_100",
            || -> Vec<Message> { many(100, mail::alternative).iter().map(|octets| scan(octets)).collect() },
            |messages| forms(messages),
        ),
        Case::reading(
            "model/sequence_set_of_2000_ranges",
            || (0..2000).map(|n| format!("{}:{}", n * 40 + 1, n * 40 + 25)).collect::<Vec<_>>().join(","),
            |text| {
                let set = SequenceSet::parse(text.as_bytes()).expect("a set");
                assert_eq!(set.resolve(100_000).len(), 50_000);
            },
        ),
    ];
    // Mail of the world, where it is there: what no generator thinks of.
    for (name, path) in [
        ("model/scan_corpus_torture", "zoo/crispin-torture/mime-torture.eml"),
        ("model/scan_corpus_languages", "lang/udhr"),
    ] {
        let path = corpus(path);
        if path.exists() {
            cases.push(Case::reading(name, move || read(&path), |messages| scan_all(messages)));
        } else {
            eprintln!("skipped: {name}: no corpus beside the workspace");
        }
    }
    cases::main(&cases)
}
