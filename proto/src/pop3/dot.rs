//! Dot-stuffing: a message on its way to the client, and the part of it that TOP asks for.
//!
//! Both are push machines over chunks: any split of the message gives the same octets.
//!
//! # RFC
//! 1939 §3 (termination octet), §7 (TOP). Shared with the client end of LMTP (RFC 5321 §4.5.2).

use memchr::memchr;

/// Writes a multi-line body: every line that begins with a dot gets another, and the end is CRLF.CRLF.
#[derive(Clone, Debug)]
pub struct Stuffer {
    line_start: bool,
    after_cr: bool,
    ends_in_crlf: bool,
    nul: Option<u8>,
}

impl Default for Stuffer {
    fn default() -> Self {
        Stuffer::new()
    }
}

impl Stuffer {
    /// A stuffer that changes nothing but dots.
    pub fn new() -> Stuffer {
        Stuffer { line_start: true, after_cr: false, ends_in_crlf: true, nul: None }
    }

    /// A stuffer that also sends 0x80 for every NUL, so that sizes hold and no client is given a NUL.
    pub fn without_nul() -> Stuffer {
        Stuffer { nul: Some(0x80), ..Stuffer::new() }
    }

    /// Appends the stuffed form of `chunk`: at most twice its octets.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        let mut rest = chunk;
        while let Some(&first) = rest.first() {
            // A dot after a bare LF is stuffed too: some clients end their lines there, and every client removes the
            // dot that it finds at the start of what it holds to be a line.
            if self.line_start && first == b'.' {
                out.push(b'.');
            }
            let end = memchr(b'\n', rest).map(|at| at + 1);
            let line = &rest[..end.unwrap_or(rest.len())];
            out.extend_from_slice(line);
            let before = line.len().checked_sub(2).map_or(self.after_cr, |at| line[at] == b'\r');
            self.line_start = end.is_some();
            self.ends_in_crlf = end.is_some() && before;
            self.after_cr = line.last() == Some(&b'\r');
            rest = &rest[line.len()..];
        }
        if let Some(nul) = self.nul
            && memchr(0, chunk).is_some()
        {
            for octet in out[from..].iter_mut().filter(|octet| **octet == 0) {
                *octet = nul;
            }
        }
    }

    /// Appends the end: a CRLF where the message has none, then the dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        if !self.ends_in_crlf {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

/// Cuts a message for TOP: the header, the blank line, and so many lines of the body.
#[derive(Clone, Debug)]
pub struct TopCutter {
    in_header: bool,
    line: Line,
    lines_left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Empty,
    Cr,
    Other,
}

impl TopCutter {
    /// For `TOP n lines`.
    pub fn new(lines: u64) -> TopCutter {
        TopCutter { in_header: true, line: Line::Empty, lines_left: lines }
    }

    /// How many octets of `chunk` belong to the answer; fewer than given means that it is complete.
    pub fn take(&mut self, chunk: &[u8]) -> usize {
        let mut taken = 0;
        while taken < chunk.len() && !self.is_done() {
            let rest = &chunk[taken..];
            match memchr(b'\n', rest) {
                Some(at) => {
                    let blank = match at {
                        0 => self.line != Line::Other,
                        1 => self.line == Line::Empty && rest[0] == b'\r',
                        _ => false,
                    };
                    self.line = Line::Empty;
                    if !self.in_header {
                        self.lines_left -= 1;
                    } else if blank {
                        self.in_header = false;
                    }
                    taken += at + 1;
                }
                None => {
                    self.line = match (self.line, rest) {
                        (Line::Empty, b"\r") => Line::Cr,
                        _ => Line::Other,
                    };
                    taken = chunk.len();
                }
            }
        }
        taken
    }

    /// Whether nothing further of the message is wanted.
    pub fn is_done(&self) -> bool {
        !self.in_header && self.lines_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(message: &[u8], chunk: usize) -> Vec<u8> {
        let (mut out, mut stuffer) = (Vec::new(), Stuffer::new());
        message.chunks(chunk).for_each(|chunk| stuffer.push(chunk, &mut out));
        stuffer.finish(&mut out);
        out
    }

    #[test]
    fn dots_are_stuffed_and_the_end_is_crlf_dot_crlf_at_any_split() {
        for (message, expected) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
            (b"a.b\r\n", b"a.b\r\n.\r\n"),
            (b"a\n.\nb\n", b"a\n..\nb\n\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"a\r.b", b"a\r.b\r\n.\r\n"),
            (b"\r\n", b"\r\n.\r\n"),
            (b"\n", b"\n\r\n.\r\n"),
        ] {
            for chunk in 1..=message.len().max(1) {
                assert_eq!(
                    stuffed(message, chunk),
                    expected,
                    "{:?} by {chunk}",
                    message.escape_ascii().to_string()
                );
            }
        }
    }

    #[test]
    fn nul_is_never_sent_where_asked() {
        let (mut out, mut stuffer) = (Vec::new(), Stuffer::without_nul());
        stuffer.push(b"a\0\r\n.\0", &mut out);
        stuffer.finish(&mut out);
        assert_eq!(out, b"a\x80\r\n..\x80\r\n.\r\n");
    }

    #[test]
    fn top_takes_the_header_and_so_many_lines_at_any_split() {
        let crlf = &b"A: 1\r\nB: 2\r\n\r\none\r\n\r\nthree\r\n"[..];
        for (message, lines, expected) in [
            (crlf, 0, &b"A: 1\r\nB: 2\r\n\r\n"[..]),
            (crlf, 1, b"A: 1\r\nB: 2\r\n\r\none\r\n"),
            (crlf, 2, b"A: 1\r\nB: 2\r\n\r\none\r\n\r\n"),
            (crlf, 9, crlf),
            (b"A: 1\n\none\ntwo\n", 1, b"A: 1\n\none\n"),
            (b"A: 1\r\n", 0, b"A: 1\r\n"),
            (b"\r\none\r\n", 0, b"\r\n"),
            (b"a\r\r\n\r\nx", 0, b"a\r\r\n\r\n"),
            (b"", 3, b""),
        ] {
            for size in 1..=message.len().max(1) {
                let mut cutter = TopCutter::new(lines);
                let mut out = Vec::new();
                for chunk in message.chunks(size) {
                    let taken = cutter.take(chunk);
                    out.extend_from_slice(&chunk[..taken]);
                    if taken < chunk.len() {
                        assert!(cutter.is_done());
                        break;
                    }
                }
                assert_eq!(out, expected, "{:?} {lines} by {size}", message.escape_ascii().to_string());
            }
        }
    }
}
