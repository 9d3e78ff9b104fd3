//! Command lines: cut from the input before any grammar, with the length bounded before anything else.

use memchr::memchr;

/// What stands at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line without its end; so many octets are consumed.
    Whole(&'a [u8], usize),
    /// Nothing whole yet; keep what is there and read on.
    Incomplete,
    /// Part of a line that is too long; so many octets are consumed, and more of it follows.
    Swallowed(usize),
    /// The end of a line that was too long; so many octets are consumed.
    TooLong(usize),
    /// A line longer than anything that is still worth reading.
    Endless,
}

/// Cuts lines; remembers only how much of a too long line went by.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineCutter {
    swallowed: usize,
}

impl LineCutter {
    /// `octets_max` counts the line with its end; of a longer one up to `swallow_max` octets are thrown away.
    /// LF alone ends a line too: nothing but commands goes through here.
    pub(crate) fn cut<'a>(&mut self, input: &'a [u8], octets_max: usize, swallow_max: usize) -> Line<'a> {
        match memchr(b'\n', input) {
            Some(at) if self.swallowed > 0 || at + 1 > octets_max => {
                if self.swallowed.saturating_add(at) > swallow_max {
                    return Line::Endless;
                }
                self.swallowed = 0;
                Line::TooLong(at + 1)
            }
            Some(at) => {
                let line = &input[..at];
                Line::Whole(line.strip_suffix(b"\r").unwrap_or(line), at + 1)
            }
            None if self.swallowed == 0 && input.len() < octets_max => Line::Incomplete,
            None => {
                self.swallowed = self.swallowed.saturating_add(input.len());
                if self.swallowed > swallow_max {
                    Line::Endless
                } else if input.is_empty() {
                    Line::Incomplete
                } else {
                    Line::Swallowed(input.len())
                }
            }
        }
    }

    /// Whether the input stands in the middle of a line that is being thrown away.
    pub(crate) fn is_swallowing(&self) -> bool {
        self.swallowed > 0
    }
}

/// A decimal number of at most 20 digits that fits.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_at_any_split() {
        let mut cutter = LineCutter::default();
        assert_eq!(cutter.cut(b"NO", 8, 16), Line::Incomplete);
        assert_eq!(cutter.cut(b"NOOP\r\nX", 8, 16), Line::Whole(b"NOOP", 6));
        assert_eq!(cutter.cut(b"NOOP\n", 8, 16), Line::Whole(b"NOOP", 5));
        assert_eq!(cutter.cut(b"0123456789\r\nX", 8, 16), Line::TooLong(12));
        assert_eq!(cutter.cut(b"01234567", 8, 16), Line::Swallowed(8));
        assert_eq!(cutter.cut(b"", 8, 16), Line::Incomplete);
        assert_eq!(cutter.cut(b"8\r\n", 8, 16), Line::TooLong(3));
        assert_eq!(cutter.cut(b"NOOP\r\n", 8, 16), Line::Whole(b"NOOP", 6));
        assert_eq!(cutter.cut(b"0123456789abcdef", 8, 16), Line::Swallowed(16));
        assert_eq!(cutter.cut(b"g", 8, 16), Line::Endless);
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"0042"), Some(42));
        for bad in [&b""[..], b"-1", b"+1", b"1 ", b"18446744073709551616", b"000000000000000000001"] {
            assert_eq!(number(bad), None);
        }
    }
}
