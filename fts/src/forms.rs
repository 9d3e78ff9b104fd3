//! Forms: the terms of a dictionary that stand for one word of a query.
//!
//! Terms are surface forms; what a stem, a missing diacritic or a wrong letter stands for is looked up when it is asked,
//! among the terms that begin as the word does. So another choice of languages changes no stored octet.
//!
//! # Limits
//! A form begins with the same letter as the word, at most [`FORMS_MAX`] of them are taken. Words of five letters and more may have one letter too many, too
//! few, or another one, or two changed round.

use crate::FormatError;
use crate::language::{Language, Languages};
use crate::segment::{Entry, Segment};
use crate::token::{Class, class};
use unicode_normalization::char::is_combining_mark;

/// How a term stands for a word: the nearer, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Same,
    /// But for diacritics.
    Plain,
    /// Another form of the word in some language.
    Stem,
    /// One letter is wrong.
    Spelling,
}

impl Kind {
    /// What an occurrence is worth, beside one of the word itself.
    pub fn weight(self) -> f32 {
        match self {
            Kind::Same => 1.0,
            Kind::Plain => 0.9,
            Kind::Stem => 0.7,
            Kind::Spelling => 0.2,
        }
    }
}

/// A word, and what stands for it.
pub struct Forms {
    word: String,
    plain: String,
    stems: Vec<(Language, String)>,
    /// Terms of the same stem begin like this.
    stem_prefix: String,
    spelling: bool,
}

/// Other forms of a word that are looked for in a segment.
pub const FORMS_MAX: usize = 200;
/// Shortest word, in characters, in which a letter may be wrong.
const SPELLING_CHARS_MIN: usize = 5;

impl Forms {
    /// `word` is one folded token.
    pub fn of(word: &str, languages: Languages, spelling: bool) -> Forms {
        let plain = plain(word);
        let stems: Vec<(Language, String)> =
            languages.iter().map(|language| (language, language.stem(word))).collect();
        // Where stemming changes letters within what it leaves, forms may differ in the last two of them.
        let shared = stems.iter().map(|(_, stem)| shared_chars(&plain, &self::plain(stem))).min();
        let shared = shared.unwrap_or_default();
        let kept = if shared > 3 { shared - 1 } else { shared };
        let stem_prefix = plain.chars().take(kept.max(1)).collect();
        let spelling = spelling && plain.chars().count() >= SPELLING_CHARS_MIN;
        Forms { word: word.to_owned(), plain, stems, stem_prefix, spelling }
    }

    /// How `term` stands for the word, if it does; a stem, in which languages.
    fn kind(&self, term: &str) -> Option<(Kind, Languages)> {
        if term == self.word {
            return Some((Kind::Same, Languages::ALL));
        }
        // Compounds and pairs are no forms of a word.
        if !term.chars().all(|c| class(c) == Class::Word) {
            return None;
        }
        let plain = plain(term);
        if plain == self.plain {
            return Some((Kind::Plain, Languages::ALL));
        }
        if plain.starts_with(&self.stem_prefix) {
            let same = self.stems.iter().filter(|(language, stem)| language.stem(term) == *stem);
            let languages = same.fold(Languages::NONE, |all, (language, _)| all.with(*language));
            if languages != Languages::NONE {
                return Some((Kind::Stem, languages));
            }
        }
        let misspelt = self.spelling && one_letter_apart(&plain, &self.plain);
        misspelt.then_some((Kind::Spelling, Languages::ALL))
    }

    /// The terms of a segment that stand for the word; of other forms than the word itself at most
    /// [`FORMS_MAX`].
    pub fn find<'s>(
        &self,
        segment: &Segment<'s>,
        mut take: impl FnMut(&Entry<'s>, Kind, Languages) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        if let Some(entry) = segment.lookup(self.word.as_bytes())? {
            take(&entry, Kind::Same, Languages::ALL)?;
        }
        let Some(first) = self.plain.chars().next() else { return Ok(()) };
        let prefix = first.encode_utf8(&mut [0; 4]).as_bytes().to_vec();
        let kinds = std::cell::RefCell::new(std::collections::VecDeque::new());
        let mut left = FORMS_MAX;
        segment.scan(
            segment.blocks_of_prefix(&prefix),
            |term| {
                // Lengths first: most terms are no form for that alone.
                if !term.starts_with(&prefix) || term.len() > self.word.len() * 2 + 12 {
                    return false;
                }
                let Ok(term) = std::str::from_utf8(term) else { return false };
                match self.kind(term) {
                    Some(kind) if kind.0 != Kind::Same && left > 0 => {
                        left -= 1;
                        kinds.borrow_mut().push_back(kind);
                        true
                    }
                    _ => false,
                }
            },
            |entry| {
                let found = kinds.borrow_mut().pop_front();
                let (kind, languages) = found.unwrap_or((Kind::Spelling, Languages::ALL));
                take(entry, kind, languages)
            },
        )
    }
}

/// Without combining marks.
fn plain(word: &str) -> String {
    if word.is_ascii() {
        return word.to_owned();
    }
    word.chars().flat_map(decomposed).filter(|c| !is_combining_mark(*c)).collect()
}

fn decomposed(c: char) -> impl Iterator<Item = char> {
    use unicode_normalization::UnicodeNormalization;
    std::iter::once(c).nfd()
}

fn shared_chars(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

/// Whether one letter was added, left out or changed, or two neighbours changed places.
fn one_letter_apart(one: &str, other: &str) -> bool {
    if one.len().abs_diff(other.len()) > 4 {
        return false;
    }
    if one.is_ascii() && other.is_ascii() {
        return one_apart(one.as_bytes(), other.as_bytes());
    }
    one_apart(&one.chars().collect::<Vec<_>>(), &other.chars().collect::<Vec<_>>())
}

fn one_apart<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    let begin = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one, other) = (&one[begin..], &other[begin..]);
    let end = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
    match (&one[..one.len() - end], &other[..other.len() - end]) {
        ([], [_]) | ([_], []) | ([_], [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_forms() {
        let languages = Languages::NONE.with(Language::English).with(Language::German);
        for (word, term, expect) in [
            ("house", "house", Some(Kind::Same)),
            ("house", "houses", Some(Kind::Stem)),
            ("houses", "house", Some(Kind::Stem)),
            ("resume", "re\u{301}sume\u{301}", Some(Kind::Plain)),
            ("re\u{301}sume\u{301}", "resume", Some(Kind::Plain)),
            ("happy", "happiness", Some(Kind::Stem)),
            ("connection", "connected", Some(Kind::Stem)),
            ("separate", "seperate", Some(Kind::Spelling)),
            ("recieve", "receive", Some(Kind::Spelling)),
            ("haus", "hauser", Some(Kind::Stem)),
            ("cat", "car", None),
            ("house", "horse", Some(Kind::Spelling)),
            ("house", "hose", Some(Kind::Spelling)),
            ("house", "mouse", Some(Kind::Spelling)),
            ("house", "hours", None),
        ] {
            let found = Forms::of(word, languages, true).kind(term);
            assert_eq!(found.map(|(kind, _)| kind), expect, "{word} {term}");
        }
    }
}
