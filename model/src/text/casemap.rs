//! The collation i;unicode-casemap (RFC 5051): the octets by which SORT and THREAD compare strings.
//!
//! Unlike [`fold`](super::fold), which finds more than it must, this is exact: two strings are equal, or one comes before
//! the other, as the RFC says.

use unicode_normalization::char::decompose_compatible;

/// Appends the titlecased, decomposed form of `text`; comparing such forms by octets is comparing by the collation.
// RFC 5051 §2: titlecase by the simple mapping, then decomposition of any type, then octets.
pub fn casemap(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c.to_ascii_uppercase() as u8);
        } else {
            decompose_compatible(titlecase(c), |c| {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            });
        }
    }
}

/// UnicodeData.txt's titlecase of one character.
fn titlecase(c: char) -> char {
    let shifted = |by: u32| char::from_u32(u32::from(c) + by).unwrap_or(c);
    match c {
        // Digraphs: their titlecase is neither of the two others.
        '\u{1c4}' | '\u{1c7}' | '\u{1ca}' | '\u{1f1}' => return shifted(1),
        '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' => return c,
        '\u{1c6}' | '\u{1c9}' | '\u{1cc}' | '\u{1f3}' => {
            return char::from_u32(u32::from(c) - 1).unwrap_or(c);
        }
        // Greek with iota: the full mapping, which Rust has, is two characters, the simple one is one.
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => return shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => return shifted(9),
        // Georgian has capitals, and is not titlecased.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => return c,
        _ => {}
    }
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        // Full mappings to several characters (ß, ﬁ) are no property of UnicodeData.txt.
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::casemap;

    fn key(text: &str) -> Vec<u8> {
        let mut key = Vec::new();
        casemap(text, &mut key);
        key
    }

    #[test]
    fn the_rfc_s_own_example() {
        for text in ["\u{1c4}", "\u{1c5}", "\u{1c6}"] {
            assert_eq!(key(text), "Dz\u{30c}".as_bytes());
        }
    }

    #[test]
    fn case_and_composition_are_one() {
        for (one, other) in [
            ("Stra\u{df}e", "STRA\u{df}E"),
            ("CAFE\u{301}", "caf\u{e9}"),
            ("\u{3c3}", "\u{3a3}"),
            ("\u{3c2}", "\u{3c3}"),
            ("\u{1f80}", "\u{1f88}"),
            ("\u{1fb3}", "\u{1fbc}"),
            ("\u{fb01}", "fi"),
            ("\u{ff21}", "A"),
        ] {
            if one == "\u{fb01}" {
                // The ligature has no titlecase; its decomposition has small letters.
                assert_eq!(key(one), b"fi");
                continue;
            }
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        assert_ne!(key("stra\u{df}e"), key("strasse"));
        assert_ne!(key("\u{10d0}"), key("\u{1c90}"));
    }

    #[test]
    fn order_is_that_of_capitals() {
        let mut words = ["b", "_", "A", "a b", "", "\u{e4}", "Z", "\u{17d}"];
        words.sort_by_key(|word| key(word));
        assert_eq!(words, ["", "A", "a b", "\u{e4}", "b", "Z", "\u{17d}", "_"]);
    }
}
