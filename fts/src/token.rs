//! Tokens: how a folded text falls into words, and how a key does.
//!
//! What is cut is the *folded* text of `culver_model::text`, octet for octet what a scan compares. Each character has a
//! class ([`class`]); a token is a longest run of one class, so whether two characters belong together depends on these
//! two alone. That is what lets a key be cut the same way as the texts in which it stands: its inner pieces are whole
//! tokens there, its first piece is the end of one and its last piece the beginning of one. The rules of UAX #29 that
//! look further (apostrophes, full stops and commas within words, WB6 to WB12) are left to compounds.
//!
//! - A *word* is a run of letters, digits and marks.
//! - A run of a script without spaces (Han, kana, Thai, Lao, Khmer, Burmese) gives its overlapping *pairs* of characters;
//!   a run of one gives that one.
//! - A *compound* is a chain of words joined by single `.`, `@`, `-`, `_` or `+` that has an `@`, or a full stop between two
//!   letters: an e-mail address or a host name. It is kept whole, beside its words. A key of that shape stands only within
//!   compounds.
//! - *Machine text* (base64, hashes, long numbers, what is too long for a word) is no word; see [`is_machine`].
//!
//! # Invariants
//! What is called machine text has no influence on what is found, only on what must be verified: queries always look at
//! words and at machine text.

use crate::grams::GRAM_OCTETS;
use unicode_normalization::char::is_combining_mark;

/// What a character is to the tokenizer. This is part of the stored format: see [`crate::format::TOKENIZER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Between tokens.
    Space,
    Word,
    /// Of a script that does not part words.
    Pair,
}

/// Longest word, in octets, where all of it is ASCII; longer ones are machine text.
pub const WORD_OCTETS_MAX: usize = 40;
/// Longest word in octets otherwise.
pub const WIDE_WORD_OCTETS_MAX: usize = 120;
/// Longest compound in octets. The words of a longer one are there, and a document that has one is not certain.
pub const COMPOUND_OCTETS_MAX: usize = 120;
/// Shortest run of base64 that is machine text as a whole.
pub(crate) const BASE64_OCTETS_MIN: usize = 40;

const SPACE: u8 = 0;
const WORD: u8 = 1;
const JOINER: u8 = 2;
const WIDE: u8 = 3;

static ASCII: [u8; 256] = {
    let mut table = [SPACE; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = match octet as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => WORD,
            b'.' | b'@' | b'-' | b'_' | b'+' => JOINER,
            0x80.. => WIDE,
            _ => SPACE,
        };
        octet += 1;
    }
    table
};

pub fn class(c: char) -> Class {
    match c as u32 {
        0..0x80 => match ASCII[c as usize] {
            WORD => Class::Word,
            _ => Class::Space,
        },
        // Thai, Lao; Burmese; Khmer.
        0xe00..=0xeff | 0x1000..=0x109f | 0x1780..=0x17ff => Class::Pair,
        // The middle dot and the double hyphen of kana.
        0x30a0 | 0x30fb => Class::Space,
        // Kana with their marks, Bopomofo, Han, and the marks that stand for Han.
        0x3005..=0x3007 | 0x3021..=0x3029 | 0x3031..=0x3035 | 0x3038..=0x303c => Class::Pair,
        0x3041..=0x3096 | 0x3099..=0x312f | 0x31a0..=0x31bf | 0x31f0..=0x31ff => Class::Pair,
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x1b000..=0x1b16f | 0x20000..=0x3fffd => {
            Class::Pair
        }
        _ if c.is_alphanumeric() || is_combining_mark(c) => Class::Word,
        _ => Class::Space,
    }
}

/// Whether a word looks as if no person had written it: too long, many digits, or digits and letters mixed.
pub fn is_machine(word: &[u8]) -> bool {
    if word.len() < 8 {
        return false;
    }
    if !word.is_ascii() {
        return word.len() > WIDE_WORD_OCTETS_MAX;
    }
    if word.len() > WORD_OCTETS_MAX {
        return true;
    }
    let digits = word.iter().filter(|octet| octet.is_ascii_digit()).count();
    if digits == 0 {
        return false;
    }
    if digits == word.len() {
        return digits >= 10;
    }
    let turns = word.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count();
    turns >= 3 || digits >= 8
}

/// Whether a run between two spaces is a line of base64 or hexadecimal digits.
fn is_base64(run: &[u8]) -> bool {
    run.len() >= BASE64_OCTETS_MIN
        && run.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'='))
        && run.iter().filter(|octet| octet.is_ascii_digit()).count() >= 3
}

/// Takes what [`tokenize`] finds.
pub trait Sink {
    /// A word, a pair of characters or a single character of such a script.
    fn word(&mut self, token: &[u8]);
    /// An address or a host name as a whole; its words come too.
    fn compound(&mut self, token: &[u8]);
    /// Machine text of three octets or more.
    fn machine(&mut self, token: &[u8]);
}

/// Cuts a folded text that is whole, or was cut by [`cut`].
pub fn tokenize(folded: &str, sink: &mut impl Sink) {
    let octets = folded.as_bytes();
    let mut at = 0;
    while at < octets.len() {
        let end = memchr::memchr(b' ', &octets[at..]).map_or(octets.len(), |space| at + space);
        if end - at >= BASE64_OCTETS_MIN && is_base64(&octets[at..end]) {
            for piece in octets[at..end].split(|octet| ASCII[usize::from(*octet)] != WORD) {
                match piece.len() {
                    0 => {}
                    octets if octets < GRAM_OCTETS => sink.word(piece),
                    _ => sink.machine(piece),
                }
            }
        } else {
            run(&folded[at..end], sink);
        }
        at = end + 1;
    }
}

/// One run without a space.
fn run(text: &str, sink: &mut impl Sink) {
    let octets = text.as_bytes();
    let mut at = 0;
    // Where the chain of words began that may be a compound, and whether it has an `@`.
    let (mut chain, mut address) = (None, false);
    while at < octets.len() {
        match ASCII[usize::from(octets[at])] {
            SPACE | JOINER => {
                at += 1;
                continue;
            }
            WORD => {}
            _ => {
                let c = text[at..].chars().next().expect("within the text");
                match class(c) {
                    Class::Space => {
                        at += c.len_utf8();
                        continue;
                    }
                    Class::Pair => {
                        at = pairs(text, at, sink);
                        continue;
                    }
                    Class::Word => {}
                }
            }
        }
        let end = word_end(text, at);
        let word = &octets[at..end];
        if is_machine(word) {
            sink.machine(word)
        } else {
            sink.word(word)
        }
        let begin = *chain.get_or_insert(at);
        address = begin != at && (address || tells(octets, at - 1));
        // Does the chain go on behind one joiner?
        let joined = octets.get(end).is_some_and(|octet| ASCII[usize::from(*octet)] == JOINER)
            && text[end + 1..].chars().next().is_some_and(|c| class(c) == Class::Word);
        if !joined && address {
            sink.compound(&octets[begin..end]);
        }
        at = end + usize::from(joined);
        if !joined {
            chain = None;
        }
    }
}

/// Whether the joiner at this place makes its chain a compound: `@`, or a full stop between two letters of ASCII.
fn tells(octets: &[u8], at: usize) -> bool {
    let is_letter = |at: usize| octets.get(at).is_some_and(u8::is_ascii_alphabetic);
    octets[at] == b'@' || (octets[at] == b'.' && at > 0 && is_letter(at - 1) && is_letter(at + 1))
}

fn word_end(text: &str, mut at: usize) -> usize {
    let octets = text.as_bytes();
    while let Some(octet) = octets.get(at) {
        match ASCII[usize::from(*octet)] {
            WORD => at += 1,
            WIDE => {
                let c = text[at..].chars().next().expect("within the text");
                if class(c) != Class::Word {
                    break;
                }
                at += c.len_utf8();
            }
            _ => break,
        }
    }
    at
}

/// The run of pairs that begins at `at`; gives its end.
fn pairs(text: &str, at: usize, sink: &mut impl Sink) -> usize {
    let mut chars = text[at..].char_indices().take_while(|(_, c)| class(*c) == Class::Pair);
    let Some((_, first)) = chars.next() else { return at };
    let (mut before, mut end) = (at, at + first.len_utf8());
    let mut alone = true;
    for (offset, c) in chars {
        alone = false;
        let next_end = at + offset + c.len_utf8();
        sink.word(&text.as_bytes()[before..next_end]);
        before = at + offset;
        end = next_end;
    }
    if alone {
        sink.word(&text.as_bytes()[at..end]);
    }
    end
}

/// Where a folded text that is not whole yet may be cut so that no token, compound or line of base64 is; 0 where it
/// cannot.
pub fn cut(folded: &[u8]) -> usize {
    memchr::memrchr2(b' ', b',', folded).map_or(0, |at| at + 1)
}

/// A piece of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'k> {
    pub token: &'k str,
    pub class: Class,
    /// It begins the key: more of the token may stand before it.
    pub open_left: bool,
    /// It ends the key.
    pub open_right: bool,
}

/// Cuts a folded key.
pub fn pieces(key: &str) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut last = Class::Space;
    for (at, c) in key.char_indices() {
        let (class, end) = (class(c), at + c.len_utf8());
        if class != Class::Space {
            let (open_left, open_right) = (at == 0, end == key.len());
            match pieces.last_mut() {
                Some(piece) if class == last => {
                    let begin = at - piece.token.len();
                    (piece.token, piece.open_right) = (&key[begin..end], open_right);
                }
                _ => pieces.push(Piece { token: &key[at..end], class, open_left, open_right }),
            }
        }
        last = class;
    }
    pieces
}

/// Whether a folded key has the shape of a compound: then every place where it stands is within one.
pub fn is_compound(key: &str) -> bool {
    let mut joiner = true;
    for c in key.chars() {
        match c {
            '.' | '@' | '-' | '_' | '+' if joiner => return false,
            '.' | '@' | '-' | '_' | '+' => joiner = true,
            c if class(c) == Class::Word => joiner = false,
            _ => return false,
        }
    }
    !joiner && (0..key.len()).any(|at| tells(key.as_bytes(), at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use culver_model::text::fold;
    use quickcheck::quickcheck;

    #[derive(Default)]
    struct Found(Vec<String>);

    impl Sink for Found {
        fn word(&mut self, token: &[u8]) {
            self.0.push(String::from_utf8(token.to_vec()).unwrap());
        }
        fn compound(&mut self, token: &[u8]) {
            self.0.push(format!("={}", std::str::from_utf8(token).unwrap()));
        }
        fn machine(&mut self, token: &[u8]) {
            self.0.push(format!("#{}", std::str::from_utf8(token).unwrap()));
        }
    }

    fn tokens(text: &str) -> String {
        let mut found = Found::default();
        tokenize(&fold(text), &mut found);
        found.0.join(" ")
    }

    #[test]
    fn texts_fall_into_tokens() {
        for (text, expect) in [
            ("Hello, World!", "hello world"),
            ("don't", "don t"),
            ("Stra\u{df}e caf\u{e9}", "strasse cafe\u{301}"),
            ("John.Doe@Example.COM, x", "john doe example com =john.doe@example.com x"),
            ("<a@b> c@d.", "a b =a@b c d =c@d"),
            ("a..b@c @d e@ f@@g", "a b c =b@c d e f g"),
            ("x/a-b_c+d@e:f@g", "x a b c d e =a-b_c+d@e f g =f@g"),
            ("foo.bar.baz 1.2 a.1", "foo bar baz =foo.bar.baz 1 2 a 1"),
            ("\u{65e5}\u{672c}\u{8a9e}x", "\u{65e5}\u{672c} \u{672c}\u{8a9e} x"),
            ("\u{65e5}.", "\u{65e5}"),
            ("a@\u{65e5}", "a \u{65e5}"),
            ("\u{d55c}\u{ad6d}", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}"),
            ("20040302160353 a1b2c3d4 windows2000", "#20040302160353 #a1b2c3d4 windows2000"),
            (
                "iQEcBAEBAgAGBQJXyzabAAoJEOxk/uVrXyz1234567890ab=",
                "#iqecbaebagagbqjxyzabaaojeoxk #uvrxyz1234567890ab",
            ),
        ] {
            assert_eq!(tokens(text), expect, "{text}");
        }
    }

    #[test]
    fn keys_fall_into_pieces() {
        let shown = |key: &str| -> String {
            let one = |piece: &Piece| {
                let edge = |open| if open { "*" } else { "" };
                format!("{}{}{}", edge(piece.open_left), piece.token, edge(piece.open_right))
            };
            pieces(key).iter().map(one).collect::<Vec<_>>().join(" ")
        };
        for (key, expect) in [
            ("hello", "*hello*"),
            ("lo wor", "*lo wor*"),
            (" lo, wor.", "lo wor"),
            ("a@b", "*a b*"),
            ("!", ""),
            ("x\u{65e5}\u{672c}", "*x \u{65e5}\u{672c}*"),
        ] {
            assert_eq!(shown(key), expect, "{key}");
        }
        assert!(is_compound("a.b@c") && is_compound("a@b"));
        assert!(
            !is_compound("a@")
                && !is_compound("@a")
                && !is_compound("a@@b")
                && is_compound("a.b")
                && !is_compound("1.2")
        );
    }

    quickcheck! {
        /// What a key is cut into stands in the text that holds the key.
        fn pieces_of_a_part_are_tokens_of_the_whole(text: String, from: usize, octets: usize) -> bool {
            let folded = fold(&text);
            let places: Vec<usize> = folded.char_indices().map(|(at, _)| at).chain([folded.len()]).collect();
            let from = from % places.len();
            let to = (from + 1 + octets % 20).min(places.len() - 1);
            if from >= to {
                return true;
            }
            let key = &folded[places[from]..places[to]];
            let mut found = Found::default();
            tokenize(&folded, &mut found);
            let tokens: Vec<&str> = found.0.iter().map(|token| token.trim_start_matches('#')).collect();
            pieces(key).iter().filter(|piece| piece.class == Class::Word).all(|piece| {
                tokens.iter().any(|token| match (piece.open_left, piece.open_right) {
                    (true, true) => token.contains(piece.token),
                    (true, false) => token.ends_with(piece.token),
                    (false, true) => token.starts_with(piece.token),
                    (false, false) => *token == piece.token,
                })
            }) && (!is_compound(key) || found.0.iter().any(|token| token.starts_with('=') && token.contains(key)))
        }
    }
}
