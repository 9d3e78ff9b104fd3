//! Preview: the first words of a message, as a list of messages shows them.
//!
//! [`choose`] tells which parts may give one, best first; a [`Preview`] is fed the octets of such a part until it has
//! enough. So a caller reads a few KiB of most messages:
//!
//! ```
//! # use culver_model::{mime::Message, text::preview::{Preview, Step, choose}};
//! # let octets = b"Subject: x\r\n\r\nHello\r\nthere\r\n";
//! # let table = Message::scan(octets).table();
//! # let read = |range: std::ops::Range<u64>| &octets[range.start as usize..range.end as usize];
//! let mut text = String::new();
//! for part in choose(&table) {
//!     let (mut preview, mut at) = (Preview::new(&part), part.range.start);
//!     while at < part.range.end {
//!         let to = part.range.end.min(at + 16 * 1024);
//!         if preview.feed(read(at..to)) == Step::Done {
//!             break;
//!         }
//!         at = to;
//!     }
//!     text = preview.finish();
//!     if !text.is_empty() {
//!         break;
//!     }
//! }
//! assert_eq!(text, "Hello there");
//! ```
//!
//! # Which text
//! Of multipart/alternative text/plain rather than text/html; otherwise the first part that is text, no attachment and
//! not encrypted. White space of any kind and length is one space. Quoted lines, what introduces them, signatures, rules
//! of dashes and long URLs are left out, unless nothing else is there.
//!
//! # Invariants
//! At most [`CHARACTERS_MAX`] characters, none of them a control character, no space at either end. Where the octets
//! are cut has no influence.
//!
//! # Limits
//! [`OCTETS_MAX`] octets of a part as it stands are looked at, [`PARTS_MAX`] parts are proposed.
//!
//! # Cost
//! Octets are gathered and rendered when there are 4 KiB, 16 KiB, 64 KiB and all of them: less than twice
//! each on the average.
//!
//! # RFC
//! RFC 8970 §3.2 (the empty string for what has no preview), §3.3 (format).

use super::Charset;
use super::extract::Source;
pub use super::extract::Step;
use super::html::{Html, meta_charset};
use crate::mime::transfer::Encoding;
use crate::mime::{PartKind, PartTable};
use std::ops::Range;

/// Longest preview.
// RFC 8970 §3.3: the preview text SHOULD be limited to 200 characters, and MUST be to 256.
pub const CHARACTERS_MAX: usize = 200;
/// Octets of one part that are looked at: as they stand in the message, which is never less than they decode to.
pub const OCTETS_MAX: u64 = 128 * 1024;
/// Most parts that are proposed.
pub const PARTS_MAX: usize = 3;
/// Octets at which a preview is tried, though more may come.
const TRIED_AT: [usize; 3] = [4 * 1024, 16 * 1024, 64 * 1024];

/// A part that may give a preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewPart {
    /// Octets of the message: the beginning of the part's body.
    pub range: Range<u64>,
    /// Whether `range` is all of the body.
    pub whole: bool,
    pub html: bool,
    pub encoding: Encoding,
    pub charset: Box<str>,
}

/// The parts to make a preview of: of the second only where the first gives the empty string, and so on. None where the
/// message has no text that may be shown: then the preview is the empty string.
pub fn choose(table: &PartTable) -> Vec<PreviewPart> {
    let mut found = Vec::new();
    collect(table, 0, &mut found);
    found.truncate(PARTS_MAX);
    found
}

/// Gathers of the part with this index and of those below it. Gives the index of the part that follows them.
fn collect(table: &PartTable, index: usize, found: &mut Vec<PreviewPart>) -> usize {
    let Some(part) = table.get(index) else { return index + 1 };
    let end = table.parts()[index + 1..].iter().position(|below| below.depth <= part.depth);
    let end = end.map_or(table.parts().len(), |octets| index + 1 + octets);
    let from = found.len();
    match part.kind {
        // RFC 8970 §3.2: encrypted messages have no preview.
        _ if &*part.media_type == "multipart/encrypted" => {}
        // The root is shown whatever its disposition says.
        _ if part.attachment && index > 0 => {}
        PartKind::Leaf => {
            let html = &*part.media_type == "text/html";
            let shown = html || matches!(&*part.media_type, "text/plain" | "text/markdown");
            let body = part.body();
            if shown && part.encoding != Encoding::Unknown && !body.is_empty() {
                let range = body.start..body.end.min(body.start.saturating_add(OCTETS_MAX));
                found.push(PreviewPart {
                    whole: range == body,
                    range,
                    html,
                    encoding: part.encoding,
                    charset: part.charset.clone(),
                });
            }
        }
        PartKind::Multipart | PartKind::Message => {
            let mut child = index + 1;
            while child < end && found.len() < PARTS_MAX + from {
                child = collect(table, child, found);
            }
            if &*part.media_type == "multipart/alternative" {
                // A stable sort: among equals the first stays the first.
                found[from..].sort_by_key(|part| part.html);
            }
        }
    }
    end
}

/// A preview that is being made of one part.
#[derive(Clone, Debug)]
pub struct Preview {
    part: PreviewPart,
    octets: Vec<u8>,
    /// How many of [`TRIED_AT`] have been tried.
    tried: usize,
    text: Option<String>,
}

impl Preview {
    pub fn new(part: &PreviewPart) -> Preview {
        Preview { part: part.clone(), octets: Vec::new(), tried: 0, text: None }
    }

    /// Takes the next octets of the part. `Done` once more of them would change nothing.
    pub fn feed(&mut self, octets: &[u8]) -> Step {
        if self.text.is_none() {
            let room = OCTETS_MAX as usize - self.octets.len();
            self.octets.extend_from_slice(&octets[..octets.len().min(room)]);
        }
        while self.text.is_none()
            && let Some(at) = TRIED_AT.get(self.tried)
            && self.octets.len() >= *at
        {
            self.tried += 1;
            // Twice as much, as what stands where the octets are cut may be the beginning of a quotation.
            let (preview, full) = self.render(&self.octets[..*at], CHARACTERS_MAX * 2);
            if full {
                self.text = Some(cut(&preview, CHARACTERS_MAX));
            }
        }
        if self.text.is_some() || self.octets.len() as u64 == OCTETS_MAX { Step::Done } else { Step::More }
    }

    /// The preview, of the octets that were fed.
    pub fn finish(self) -> String {
        if let Some(text) = self.text {
            return text;
        }
        let (best, _) = self.render(&self.octets, CHARACTERS_MAX);
        if !best.is_empty() {
            return best;
        }
        let mut all = Shown::new(CHARACTERS_MAX);
        for line in self.lines(&self.octets).lines().take_while(|line| !is_armour(line, "MESSAGE")) {
            all.push(line.trim_start_matches(['>', ' ']));
        }
        all.finish()
    }

    /// At most `characters_max` characters of what is worth showing, and whether there are so many.
    fn render(&self, octets: &[u8], characters_max: usize) -> (String, bool) {
        let text = self.lines(octets);
        let mut shown = Shown::new(characters_max);
        pick(&text, &mut shown);
        let full = shown.is_full();
        (shown.finish(), full)
    }

    /// The text of the octets, decoded, html rendered.
    fn lines(&self, octets: &[u8]) -> String {
        let part = &self.part;
        let charset = match part.charset.as_bytes() {
            b"" if part.html => meta_charset(octets, part.encoding),
            label => Charset::of(label),
        };
        let mut source = Source::new(octets, part.encoding, charset);
        let mut text = String::new();
        if part.html {
            let mut html = Html::in_lines(source);
            while let (_, false) = html.step(OCTETS_MAX as usize, &mut |piece| text.push_str(piece)) {}
        } else {
            while source.fill(1) > 0 {
                text.push_str(source.all());
                source.consume_all();
            }
        }
        text
    }
}

/// Gives the lines of a text that are worth showing.
fn pick(text: &str, shown: &mut Shown) {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let (mut at, mut in_header) = (0, false);
    while let Some(line) = lines.get(at) {
        if shown.is_full() {
            return;
        }
        let bare = line.trim_start();
        // RFC 3676 §4.3: the line before a signature is two dashes and a space; which many cut.
        let signature = bare == "--" || is_armour(bare, "SIGNATURE");
        let ends = signature || is_original(bare) || introduces_all(&lines[at..]);
        if (ends && !shown.is_empty()) || is_armour(bare, "MESSAGE") {
            return;
        }
        // `---------- Forwarded message ----------` and its kin have a header below them.
        let is_mark = bare.starts_with("-----")
            && bare.ends_with("-----")
            && bare.contains(|c: char| c.is_alphanumeric());
        in_header = is_mark || (in_header && is_field(bare));
        let skipped = introduction(&lines[at..]);
        if skipped > 0 {
            at += skipped;
            continue;
        }
        if !bare.starts_with('>') && !signature && !in_header && !is_rule(bare) {
            for word in bare.split_whitespace().filter(|word| !is_long_url(word)) {
                shown.push(word);
            }
        }
        at += 1;
    }
}

/// `-----Original Message-----`, after which everything is quoted.
fn is_original(line: &str) -> bool {
    line.starts_with("-----") && line.trim_matches(['-', ' ']).eq_ignore_ascii_case("original message")
}

/// `From: …`, also as `*From:* …`.
fn is_field(line: &str) -> bool {
    const NAME_OCTETS_MAX: usize = 24;
    let name = line.split_once(':').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.len() <= NAME_OCTETS_MAX && !name.contains(' '))
}

/// `-----BEGIN PGP …-----` (RFC 9580 §6.2).
fn is_armour(line: &str, what: &str) -> bool {
    let name = line.trim().strip_prefix("-----BEGIN PGP ").and_then(|line| line.strip_suffix("-----"));
    name == Some(what)
}

/// How many lines introduce the quotation that follows them: `On …, somebody wrote:`, in any language, on up to
/// three lines.
fn introduction(lines: &[&str]) -> usize {
    const OCTETS_MAX: usize = 400;
    let mut octets = 0;
    for (at, line) in lines.iter().enumerate().take(3) {
        octets += line.len();
        if line.is_empty() || line.starts_with('>') || octets > OCTETS_MAX {
            return 0;
        }
        if line.ends_with(':') {
            let quoted = lines[at + 1..].iter().find(|line| !line.is_empty());
            let says_who =
                lines[..=at].iter().any(|line| line.contains(|c: char| c == '@' || c.is_ascii_digit()));
            let begins = at == 0 || begins_introduction(lines[0]);
            let found = quoted.is_some_and(|line| line.trim_start().starts_with('>')) && says_who && begins;
            return if found { at + 1 } else { 0 };
        }
    }
    0
}

fn begins_introduction(line: &str) -> bool {
    ["On ", "Am ", "Le ", "El ", "Il ", "Em ", "Op ", "Den ", "Dne ", "W dniu "]
        .iter()
        .any(|word| line.trim_start().starts_with(word))
}

/// `On …, somebody wrote:` where what follows is not marked as quoted.
fn introduces_all(lines: &[&str]) -> bool {
    let first = lines.first().is_some_and(|line| line.trim_start().starts_with("On "));
    let wrote = |line: &&str| line.ends_with(" wrote:") || *line == "wrote:";
    first && lines.iter().take(3).take_while(|line| !line.is_empty()).any(wrote)
}

/// A line of dashes and the like.
fn is_rule(line: &str) -> bool {
    line.len() >= 3 && line.chars().all(|c| "-=_*~#+.|<> \u{2014}\u{2500}\u{2501}".contains(c))
}

/// A URL that nobody reads.
fn is_long_url(word: &str) -> bool {
    const OCTETS_MAX: usize = 40;
    let word = word.trim_start_matches(['<', '(', '[']);
    word.starts_with("[cid:")
        || word.starts_with("cid:")
        || (word.len() > OCTETS_MAX && (word.starts_with("http://") || word.starts_with("https://")))
}

/// The first `characters` of a text.
fn cut(text: &str, characters: usize) -> String {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end_matches(PADS).to_owned()
}

/// What a preview does not end with.
const PADS: [char; 3] = [' ', '\u{200c}', '\u{200d}'];

/// Text on one line, up to a number of characters.
struct Shown {
    text: String,
    characters: usize,
    characters_max: usize,
    /// A space, or a joiner, that stands before the next character.
    before: Option<char>,
}

impl Shown {
    fn new(characters_max: usize) -> Shown {
        Shown { text: String::new(), characters: 0, characters_max, before: None }
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    fn is_full(&self) -> bool {
        self.characters == self.characters_max
    }

    /// Adds words, parted by a space from those before.
    fn push(&mut self, words: &str) {
        self.space();
        for c in words.chars() {
            match c {
                _ if c.is_whitespace() => self.space(),
                // What joins letters of some scripts, and emoji, pads the previews of mailings at other places.
                '\u{200c}' | '\u{200d}' => {
                    if self.before.is_none() && !self.text.is_empty() {
                        self.before = Some(c);
                    }
                }
                _ if is_invisible(c) => {}
                _ => {
                    if let Some(before) = self.before.take() {
                        self.put(before);
                    }
                    self.put(c);
                }
            }
            if self.is_full() {
                return;
            }
        }
    }

    fn space(&mut self) {
        if !self.text.is_empty() {
            self.before = Some(' ');
        }
    }

    fn put(&mut self, c: char) {
        if !self.is_full() {
            self.text.push(c);
            self.characters += 1;
        }
    }

    fn finish(mut self) -> String {
        self.text.truncate(self.text.trim_end_matches(PADS).len());
        self.text
    }
}

/// Controls, marks that only pad, and those that turn the direction of what follows.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
                | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests;
