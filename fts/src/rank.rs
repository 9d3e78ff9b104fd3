//! Relevance: the order of what FUZZY finds (RFC 6203).
//!
//! Each word is worth more the fewer messages have it, in a subject more than in a body, in a short message more than in
//! a long one (Okapi BM25 with each word counted once); another form of a word is worth less. Function words count for
//! nothing where there are other words: they change the order, never what is found.

use crate::FormatError;
use crate::field::{Field, Fields};
use crate::format::length;
use crate::forms::{Forms, Kind};
use crate::language::Languages;
use crate::segment::{Entry, Segment};
use crate::token::pieces;
use culver_model::text::fold;
use roaring::RoaringBitmap;

/// A document and how well it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    pub doc: u32,
    /// 1 to 100.
    // RFC 6203 §4: the relevancy score.
    pub score: u8,
}

/// Orders `docs` by the words of `keys`, the best first, the newer of two equal ones first.
pub fn rank(
    segments: &[Segment<'_>],
    keys: &[(Fields, &str)],
    languages: Languages,
    docs: &RoaringBitmap,
) -> Result<Vec<Ranked>, FormatError> {
    let mut words: Vec<(Fields, String)> = Vec::new();
    for (fields, key) in keys {
        let folded = fold(key);
        for piece in pieces(&folded) {
            let word = (*fields, piece.token.to_owned());
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    let is_function = |word: &str| Languages::of_function_word(word.as_bytes()).0 & languages.0 != 0;
    if words.iter().any(|(_, word)| !is_function(word)) {
        words.retain(|(_, word)| !is_function(word));
    }
    let documents: u64 =
        segments.iter().map(|segment| u64::from(segment.layout().header.documents.get())).sum();
    let tokens: u64 = segments.iter().map(|segment| segment.layout().header.tokens.get()).sum();
    let mean = tokens as f32 / documents.max(1) as f32;
    let mut scores: Vec<(u32, f32)> = docs.iter().map(|doc| (doc, 0.0)).collect();
    for (fields, word) in &words {
        let forms = Forms::of(word, languages, true);
        let mut found: Vec<(usize, Entry<'_>, Kind)> = Vec::new();
        // Messages that have a form as near as this one, or nearer.
        let mut having = [0u64; 4];
        for (at, segment) in segments.iter().enumerate() {
            forms.find(segment, |entry, kind, _| {
                let counts = entry.lists(*fields).map(|(_, list)| list.count());
                let most = counts.collect::<Result<Vec<u32>, _>>()?.into_iter().max().unwrap_or(0);
                having[kind as usize..].iter_mut().for_each(|having| *having += u64::from(most));
                found.push((at, *entry, kind));
                Ok(())
            })?;
        }
        for (at, entry, kind) in &found {
            let having = having[*kind as usize].min(documents) as f32;
            let rarity = (1.0 + (documents as f32 - having + 0.5) / (having + 0.5)).ln();
            let segment = &segments[*at];
            let ranks = Ranks::of(segment);
            for (field, list) in entry.lists(*fields) {
                let worth = rarity * kind.weight() * boost(field);
                list.each(segment.span(), |doc| {
                    let number = segment.first() + doc;
                    if let Ok(place) = scores.binary_search_by_key(&number, |(doc, _)| *doc) {
                        scores[place].1 += worth * shortness(ranks.length(doc), mean);
                    }
                })?;
            }
        }
    }
    scores.sort_by(|one, other| other.1.total_cmp(&one.1).then(other.0.cmp(&one.0)));
    let best = scores.first().map_or(0.0, |(_, score)| *score).max(f32::MIN_POSITIVE);
    let ranked =
        |(doc, score): (u32, f32)| Ranked { doc, score: (score / best * 100.0).clamp(1.0, 100.0) as u8 };
    Ok(scores.into_iter().map(ranked).collect())
}

fn boost(field: Field) -> f32 {
    match field {
        Field::Subject => 2.0,
        Field::From | Field::Attachment => 1.5,
        Field::Body | Field::To | Field::Cc | Field::Bcc => 1.0,
        Field::Other => 0.3,
    }
}

fn shortness(tokens: u32, mean: f32) -> f32 {
    const K: f32 = 1.2;
    const B: f32 = 0.75;
    (K + 1.0) / (1.0 + K * (1.0 - B + B * tokens as f32 / mean.max(1.0)))
}

/// The place of each document's length.
struct Ranks<'s> {
    lengths: &'s [u8],
    /// For each run of 64 documents those before it, and a bit for each of the run.
    before: Vec<(u32, u64)>,
}

impl<'s> Ranks<'s> {
    fn of(segment: &Segment<'s>) -> Ranks<'s> {
        let mut before = vec![(0, 0u64); segment.span().div_ceil(64) as usize];
        for doc in segment.documents().iter() {
            before[doc as usize / 64].1 |= 1 << (doc % 64);
        }
        let mut sum = 0;
        for (count, bits) in &mut before {
            *count = sum;
            sum += bits.count_ones();
        }
        Ranks { lengths: segment.lengths(), before }
    }

    fn length(&self, doc: u32) -> u32 {
        let (before, bits) = self.before[doc as usize / 64];
        let place = before + (bits & ((1 << (doc % 64)) - 1)).count_ones();
        self.lengths.get(place as usize).map_or(0, |octet| length(*octet))
    }
}
