//! Folding: the form in which texts and keys are compared.
//!
//! Each character is decomposed for compatibility (NFKD), mapped to upper and then to lower case with the full
//! mappings of Unicode, and decomposed again; combining marks are put into canonical order. So `STRASSE` finds
//! `Straße`, `ﬁ` is `fi`, full-width letters are plain ones, `σ` and `ς` are one, and `cafe` is found in `café` as
//! RFC 5051 has it. A run of white space (line ends, no-break spaces) is one space. Soft hyphens, zero-width spaces
//! and joiners, and byte order marks are left out.

use unicode_normalization::char::{canonical_combining_class, decompose_compatible};

/// Folds a text that comes in pieces; where they are cut has no influence.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Combining marks whose order is not settled, with their classes.
    marks: Vec<(u8, char)>,
    in_space: bool,
}

/// Most combining marks in a row that are put in order: Unicode's stream-safe form has 30.
const MARKS_MAX: usize = 32;

impl Folder {
    /// Appends the folded form of `text`.
    pub fn push(&mut self, text: &str, folded: &mut Vec<u8>) {
        for c in text.chars() {
            if c.is_ascii() && !c.is_ascii_whitespace() && !c.is_ascii_control() {
                self.settle(folded);
                self.in_space = false;
                folded.push(c.to_ascii_lowercase() as u8);
            } else {
                self.push_char(c, folded);
            }
        }
    }

    /// The end of the text; the folder is as new.
    pub fn finish(&mut self, folded: &mut Vec<u8>) {
        self.settle(folded);
        self.in_space = false;
    }

    fn push_char(&mut self, c: char, folded: &mut Vec<u8>) {
        if c.is_whitespace() || c.is_ascii_control() {
            self.settle(folded);
            if !std::mem::replace(&mut self.in_space, true) {
                folded.push(b' ');
            }
            return;
        }
        if matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}') {
            return;
        }
        decompose_compatible(c, |c| {
            for c in c.to_uppercase().flat_map(char::to_lowercase) {
                decompose_compatible(c, |c| self.put(c, folded));
            }
        });
    }

    fn put(&mut self, c: char, folded: &mut Vec<u8>) {
        // Some decompositions begin with a space, as that of the acute accent alone.
        if c == ' ' {
            return self.push_char(c, folded);
        }
        match canonical_combining_class(c) {
            0 => {
                self.settle(folded);
                self.in_space = false;
                folded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            class => {
                if self.marks.len() == MARKS_MAX {
                    self.settle(folded);
                }
                self.in_space = false;
                self.marks.push((class, c));
            }
        }
    }

    fn settle(&mut self, folded: &mut Vec<u8>) {
        if self.marks.is_empty() {
            return;
        }
        self.marks.sort_by_key(|mark| mark.0);
        for (_, c) in self.marks.drain(..) {
            folded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// The folded form of a whole text.
pub fn fold(text: &str) -> String {
    let mut folded = Vec::with_capacity(text.len());
    let mut folder = Folder::default();
    folder.push(text, &mut folded);
    folder.finish(&mut folded);
    String::from_utf8(folded).expect("only whole characters are appended")
}
