//! Literal: the announcement at the end of a line part, `{n}`, `{n+}`, `~{n}` (RFC 3501 §4.3, RFC 7888, RFC 3516).

/// An announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    /// A number that does not fit is `u64::MAX`: beyond every limit.
    pub(super) octets: u64,
    /// The sender waits for `+`.
    pub(super) synchronising: bool,
    pub(super) literal8: bool,
    /// Octets of the announcement itself.
    pub(super) length: usize,
}

/// The most octets that an announcement has; what is longer is none. Known to whoever throws a line away in pieces.
pub(super) const ANNOUNCEMENT_OCTETS_MAX: usize = 32;

/// The announcement with which `line` (without its line end) ends.
pub(super) fn announced(line: &[u8]) -> Option<Literal> {
    let inner = line.strip_suffix(b"}")?;
    let window = inner.len().saturating_sub(ANNOUNCEMENT_OCTETS_MAX - 2);
    let open = window + inner[window..].iter().rposition(|byte| *byte == b'{')?;
    let (digits, synchronising) = match inner[open + 1..].strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (&inner[open + 1..], true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let literal8 = open > 0 && line[open - 1] == b'~';
    let start = open - usize::from(literal8);
    let length = line.len() - start;
    if length >= ANNOUNCEMENT_OCTETS_MAX {
        return None;
    }
    let octets = digits
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .unwrap_or(u64::MAX);
    Some(Literal { octets, synchronising, literal8, length })
}

/// `line` without CR LF or LF, whichever ends it.
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_stand_at_the_end() {
        for (line, expect) in [
            ("a LOGIN {5}", Some((5, true, false))),
            ("a LOGIN {5+}", Some((5, false, false))),
            ("a APPEND x ~{5+}", Some((5, false, true))),
            ("{18446744073709551616}", Some((u64::MAX, true, false))),
            ("{99999999999999999999999999}", Some((u64::MAX, true, false))),
            ("{000000000000000000000000000000000000005}", None),
            ("a LOGIN {5} ", None),
            ("a LOGIN {5-}", None),
            ("a LOGIN {+}", None),
            ("a LOGIN {}", None),
            ("a LOGIN 5}", None),
            ("}", None),
            ("", None),
        ] {
            let got = announced(line.as_bytes());
            assert_eq!(got.map(|l| (l.octets, l.synchronising, l.literal8)), expect, "{line}");
        }
    }
}
