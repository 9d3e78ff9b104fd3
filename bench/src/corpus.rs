//! The messages that a run sends: generated from a seed, or the files of a folder.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use culver_proto::lmtp::client::Stuffer;

use crate::random::Random;

/// Different generated messages: enough that a server cannot keep them all in a processor's cache.
const GENERATED: usize = 256;
/// What generated messages may take together; large ones are fewer.
const GENERATED_OCTETS_MAX: usize = 64 << 20;
/// What the messages of a folder may take together.
const FOLDER_OCTETS_MAX: u64 = 1 << 30;

#[derive(clap::Args, Clone, Debug)]
pub struct CorpusOptions {
    /// Octets of each generated message; k and M may follow
    #[arg(long, value_name = "OCTETS", default_value = "10k", value_parser = octets)]
    pub size: usize,
    /// `generated` (from --seed), or a folder of messages, one a file
    #[arg(long, value_name = "DIR", default_value = "generated")]
    pub corpus: PathBuf,
}

/// A message in the forms that protocols want it in.
pub struct Message {
    pub octets: Vec<u8>,
    /// Dots stuffed, with the final dot.
    pub stuffed: Vec<u8>,
}

impl Message {
    fn new(octets: Vec<u8>) -> Message {
        let mut stuffed = Vec::with_capacity(octets.len() + 64);
        let mut stuffer = Stuffer::new();
        stuffer.push(&octets, &mut stuffed);
        stuffer.finish(&mut stuffed);
        Message { octets, stuffed }
    }
}

pub fn messages(options: &CorpusOptions, seed: u64) -> Result<Vec<Message>> {
    if options.corpus == Path::new("generated") {
        let count = (GENERATED_OCTETS_MAX / options.size.max(1)).clamp(4, GENERATED);
        return Ok((0..count).map(|n| Message::new(generate(options.size, seed, n as u64))).collect());
    }
    let mut paths = Vec::new();
    list(&options.corpus, &mut paths)?;
    // The order of a directory is the file system's; the seed alone shall decide.
    paths.sort();
    let mut found = Vec::new();
    let mut total = 0;
    for path in paths {
        let octets = fs::read(&path).with_context(|| path.display().to_string())?;
        total += octets.len() as u64;
        if total > FOLDER_OCTETS_MAX {
            bail!("--corpus {}: more than 1 GiB of messages", options.corpus.display());
        }
        if !octets.is_empty() {
            found.push(Message::new(with_crlf(&octets)));
        }
    }
    if found.is_empty() {
        bail!("--corpus {}: no message in it (one message a file)", options.corpus.display());
    }
    Ok(found)
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("--corpus {}: not a folder", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => list(&entry.path(), paths)?,
            kind if kind.is_file() => paths.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Lines end in CRLF, and an mbox's first line is no part of the message.
fn with_crlf(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 32);
    for (n, line) in octets.split_inclusive(|b| *b == b'\n').enumerate() {
        if n == 0 && line.starts_with(b"From ") {
            continue;
        }
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        // NUL and a bare CR are no text; servers refuse them with good reason.
        out.extend(bare.iter().filter(|b| !matches!(b, 0 | b'\r')));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A message of exactly `size` octets where the header leaves room: words of a made-up language, so that it compresses
/// about as mail does.
fn generate(size: usize, seed: u64, n: u64) -> Vec<u8> {
    let mut random = Random::new(seed, 1_000 + n);
    let words = words(seed);
    let mut text = String::with_capacity(size + 128);
    let (from, to) = (random.below(900), random.below(900));
    write!(
        text,
        "From: Sender {from} <sender{from}@example.test>\r\nTo: Reader {to} <reader{to}@example.test>\r\nSubject:"
    )
    .expect("a string takes everything");
    for _ in 0..2 + random.below(5) {
        text.push(' ');
        text.push_str(&words[random.below(words.len())]);
    }
    write!(
        text,
        "\r\nDate: Mon, {} Jun 2026 {:02}:{:02}:{:02} +0000\r\nMessage-ID: <{:016x}.{n}@example.test>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        [1, 8, 15, 22, 29][random.below(5)],
        random.below(24),
        random.below(60),
        random.below(60),
        random.next(),
    )
    .expect("a string takes everything");
    let mut line = 0;
    while text.len() + 2 < size {
        let word = &words[random.below(words.len())];
        if line + word.len() > 72 {
            text.push_str("\r\n");
            line = 0;
        } else if line > 0 {
            text.push(' ');
            line += 1;
        }
        text.push_str(word);
        line += word.len();
    }
    if text.len() + 2 > size {
        // Words and line ends are ASCII, so it can be cut anywhere; half a CRLF becomes text.
        let header = text.find("\r\n\r\n").map_or(0, |at| at + 4);
        text.truncate(size.saturating_sub(2).max(header));
        if text.len() > header && text.ends_with('\r') {
            text.pop();
            text.push('.');
        }
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn words(seed: u64) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "ka", "lo", "mer", "ti", "sun", "vel", "or", "da", "nes", "pi", "qua", "ro", "ban", "shi", "ul",
        "gra", "e", "men", "to", "fi", "cra", "wy", "ze", "ho",
    ];
    let mut random = Random::new(seed, 999);
    (0..1500)
        .map(|_| (0..1 + random.below(4)).map(|_| SYLLABLES[random.below(SYLLABLES.len())]).collect())
        .collect()
}

/// `10k`, `1M`, `512`.
pub fn octets(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |number| (number, 1 << 20)),
    };
    let number: usize = number.parse().map_err(|_| "write a number, or a number with k or M".to_owned())?;
    match number.checked_mul(unit) {
        Some(octets) if (1..=256 << 20).contains(&octets) => Ok(octets),
        _ => Err("from 1 to 256M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(size: usize, seed: u64) -> Vec<Vec<u8>> {
        let options = CorpusOptions { size, corpus: PathBuf::from("generated") };
        messages(&options, seed).unwrap().into_iter().map(|message| message.octets).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_octets() {
        assert_eq!(generated(2048, 7), generated(2048, 7));
        assert_ne!(generated(2048, 7), generated(2048, 8));
        let different: std::collections::BTreeSet<_> = generated(2048, 7).into_iter().collect();
        assert_eq!(different.len(), GENERATED);
    }

    #[test]
    fn a_generated_message_has_the_size_asked_for_and_whole_lines() {
        for size in [400, 1023, 1024, 10_240, 100_001] {
            for message in generated(size, 3).iter().take(20) {
                assert_eq!(message.len(), size);
                assert!(message.ends_with(b"\r\n"));
                let text = std::str::from_utf8(message).unwrap();
                assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
                assert!(text.contains("\r\n\r\n"));
            }
        }
    }

    #[test]
    fn files_become_messages_with_crlf() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/a"), "From x\nSubject: a\n\n.dot\nend").unwrap();
        fs::write(folder.path().join("b"), "Subject: b\r\n\r\nx\r\n").unwrap();
        let options = CorpusOptions { size: 1, corpus: folder.path().to_owned() };
        let found = messages(&options, 1).unwrap();
        assert_eq!(found[0].octets, b"Subject: b\r\n\r\nx\r\n");
        assert_eq!(found[1].octets, b"Subject: a\r\n\r\n.dot\r\nend\r\n");
        assert_eq!(found[1].stuffed, b"Subject: a\r\n\r\n..dot\r\nend\r\n.\r\n");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(octets("10k"), Ok(10_240));
        assert_eq!(octets("2M"), Ok(2 << 20));
        assert_eq!(octets("77"), Ok(77));
        assert!(octets("x").is_err() && octets("0").is_err() && octets("99999M").is_err());
    }
}
