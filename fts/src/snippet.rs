//! Snippets: the piece of a message in which the words of a query stand.

use crate::token::pieces;
use culver_model::mime::PartTable;
use culver_model::text::{Event, Extract, Place, Step, fold};
use std::ops::Range;

/// A piece of a message's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snippet {
    /// On one line, of about as many octets as were asked for.
    pub text: String,
    /// Where in it words of the query stand.
    pub marks: Vec<Range<usize>>,
}

/// Octets of a message that are looked at.
const MESSAGE_OCTETS_MAX: usize = 4 << 20;
/// Octets of a text that are looked at in one go.
const WINDOW_OCTETS: usize = 16 * 1024;

/// The piece of about `octets` octets of the body that has the most different words of `keys`; the first one of several.
/// Without any of them, how the body begins.
pub fn snippet(table: &PartTable, message: &[u8], keys: &[&str], octets: usize) -> Snippet {
    let folded: Vec<String> = keys.iter().map(|key| fold(key)).collect();
    let mut words: Vec<&str> = folded.iter().flat_map(|key| pieces(key)).map(|piece| piece.token).collect();
    words.sort_unstable();
    words.dedup();
    let mut best = Best { words, octets, found: 0, snippet: None };
    let mut extract = Extract::new(table, message);
    extract.skip_header();
    let (mut text, mut left) = (String::new(), MESSAGE_OCTETS_MAX);
    loop {
        let step = extract.step(WINDOW_OCTETS, &mut |event| match event {
            Event::Text(Place::Body, piece) => {
                text.push_str(piece);
                if text.len() >= WINDOW_OCTETS {
                    best.look_at(&text);
                    text.clear();
                }
            }
            Event::Text(Place::Header, _) => {}
            Event::Break => {
                best.look_at(&text);
                text.clear();
            }
        });
        left = left.saturating_sub(WINDOW_OCTETS);
        if step == Step::Done || left == 0 || best.is_whole() {
            return best.snippet.unwrap_or_default();
        }
    }
}

struct Best<'k> {
    words: Vec<&'k str>,
    octets: usize,
    /// Different words in the best piece so far.
    found: usize,
    snippet: Option<Snippet>,
}

impl Best<'_> {
    fn is_whole(&self) -> bool {
        self.snippet.is_some() && self.found == self.words.len()
    }

    fn look_at(&mut self, text: &str) {
        if self.is_whole() {
            return;
        }
        let runs: Vec<(Range<usize>, u64)> = runs(text)
            .map(|range| {
                let folded = fold(&text[range.clone()]);
                let mut found = 0;
                for (n, word) in self.words.iter().enumerate().take(64) {
                    found |= u64::from(folded.contains(word)) << n;
                }
                (range, found)
            })
            .collect();
        let Some((first, _)) = runs.first() else { return };
        let (mut most, mut begin) = (0, first.start);
        for (n, (range, found)) in runs.iter().enumerate() {
            if *found == 0 {
                continue;
            }
            let within =
                runs[n..].iter().take_while(|(other, _)| other.end <= range.start + self.octets * 3 / 4);
            let count = within.fold(0u64, |all, (_, found)| all | found).count_ones() as usize;
            if count > most {
                (most, begin) = (count, range.start);
            }
        }
        if most > self.found || self.snippet.is_none() {
            self.found = most;
            self.snippet = Some(self.cut(&runs, text, begin));
        }
    }

    /// The piece around the run that begins at `begin`: a quarter of it before that.
    fn cut(&self, runs: &[(Range<usize>, u64)], text: &str, begin: usize) -> Snippet {
        let from = begin.saturating_sub(self.octets / 4);
        let mut snippet = Snippet::default();
        for (range, found) in runs.iter().filter(|(range, _)| range.start >= from) {
            if !snippet.text.is_empty() {
                if snippet.text.len() + range.len() >= self.octets {
                    break;
                }
                snippet.text.push(' ');
            }
            let at = snippet.text.len();
            let mut end = range.len().min(self.octets.max(1));
            while !text.is_char_boundary(range.start + end) {
                end -= 1;
            }
            snippet.text.push_str(&text[range.start..range.start + end]);
            if *found != 0 {
                snippet.marks.push(at..snippet.text.len());
            }
        }
        snippet
    }
}

/// The runs between white space.
fn runs(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.split_whitespace().map(move |run| {
        let begin = run.as_ptr() as usize - text.as_ptr() as usize;
        begin..begin + run.len()
    })
}
