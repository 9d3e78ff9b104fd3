//! The octets of a message on the wire, cut into pieces for the driver: DATA with its dots, BDAT with its count.
//!
//! # Invariants
//! Only CRLF.CRLF ends DATA; the CRLF of the command line counts as the first. A bare CR or LF becomes CRLF in what
//! the driver gets, and never begins a line as far as dots are concerned, so that no message can be smuggled in.
//! What cannot be told yet (a CR, a dot at the start of a line) is left in the receive buffer: three octets at most.
//!
//! # RFC
//! 5321 §2.3.8 (line ends), §4.5.2 (transparency), 3030 §2 (chunks have no dots).

use memchr::memchr2;

/// One piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    NeedMore,
    Octets(&'a [u8]),
    /// A CRLF that stands for a bare CR or LF.
    Bare,
    /// The end of DATA.
    End,
}

/// Whether the next octet of DATA begins a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataCutter {
    line_start: bool,
}

impl DataCutter {
    pub(super) fn new() -> DataCutter {
        DataCutter { line_start: true }
    }

    /// The next piece of `input` and how many octets of it that took.
    pub(super) fn cut<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut dot = 0;
        if self.line_start {
            match input {
                [] | [b'.'] | [b'.', b'\r'] => return (0, Piece::NeedMore),
                [b'.', b'\r', b'\n', ..] => return (3, Piece::End),
                [b'.', ..] => dot = 1,
                _ => {}
            }
        }
        let content = &input[dot..];
        let (used, piece) = run(content, true);
        match piece {
            // The dot stays with the octet that cannot be told yet.
            Piece::NeedMore => return (0, Piece::NeedMore),
            Piece::Octets(octets) => self.line_start = octets.ends_with(b"\r\n"),
            Piece::Bare | Piece::End => self.line_start = false,
        }
        (dot + used, piece)
    }
}

/// A CR at the end of a chunk, whose LF may come with the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChunkCutter {
    held_cr: bool,
}

impl ChunkCutter {
    /// The next piece of a chunk of which `left` octets are still to come. `last` says that no chunk follows.
    pub(super) fn cut<'a>(&mut self, input: &'a [u8], left: u64, last: bool) -> (usize, Piece<'a>) {
        let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let chunk = &input[..here];
        let is_whole = here as u64 == left;
        if self.held_cr {
            return match chunk.first() {
                Some(b'\n') => {
                    self.held_cr = false;
                    (1, Piece::Octets(b"\r\n"))
                }
                None if !(is_whole && last) => (0, Piece::NeedMore),
                _ => {
                    self.held_cr = false;
                    (0, Piece::Bare)
                }
            };
        }
        if chunk == b"\r" && is_whole {
            if last {
                return (1, Piece::Bare);
            }
            self.held_cr = true;
            return (1, Piece::NeedMore);
        }
        run(chunk, false)
    }
}

/// The next piece of a binary chunk of which `left` octets are still to come: as it stands.
pub(super) fn whole(input: &[u8], left: u64) -> (usize, Piece<'_>) {
    match usize::try_from(left).map_or(input.len(), |left| left.min(input.len())) {
        0 => (0, Piece::NeedMore),
        octets => (octets, Piece::Octets(&input[..octets])),
    }
}

/// The longest run of `input` that may be passed on as it is; for DATA it stops before a dot that begins a line.
fn run(input: &[u8], dots: bool) -> (usize, Piece<'_>) {
    let mut at = 0;
    let passed = |at: usize| (at, Piece::Octets(&input[..at]));
    while let Some(found) = memchr2(b'\r', b'\n', &input[at..]) {
        let found = at + found;
        match (input[found], input.get(found + 1)) {
            (b'\r', Some(b'\n')) => {
                at = found + 2;
                if dots && input.get(at).is_none_or(|&b| b == b'.') {
                    return passed(at);
                }
            }
            (b'\r', None) if found == 0 => return (0, Piece::NeedMore),
            _ if found > 0 => return passed(found),
            _ => return (1, Piece::Bare),
        }
    }
    if input.is_empty() { (0, Piece::NeedMore) } else { passed(input.len()) }
}
