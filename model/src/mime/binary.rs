//! The binary converter: a message that holds parts of CTE BINARY becomes one without them.
//!
//! A part of CTE BINARY is given the CTE BASE64 and its body is encoded; a multipart or message/* becomes 8BIT and what
//! is in it is converted by its own headers, as MIME lets neither be base64. All other octets pass as they are.
//! Which octets are a part is told by the [`Scanner`], so the result scans to the same parts, and decodes to
//! the same octets.
//!
//! # Invariants
//! Where chunks are cut has no influence. Base64 has no dashes, so no line of an encoded body is a boundary. The line
//! end before a boundary is the boundary's and stays as it is; it is not encoded.
//!
//! # Limits
//! One header of [`BinaryConverter::HEADER_OCTETS_MAX`], and what the scanner's default [`Limits`] allow. What lies
//! beyond passes as it is, and [`BinaryConverter::unconverted`] tells.
//!
//! # RFC
//! RFC 3516 §4.4 (APPEND may change a CTE without a loss of data), RFC 3030 §3 (BINARYMIME), RFC 2045 §6.4 (CTE of
//! multipart and message), §6.8 (lines of base64), RFC 2046 §5.1.1 (boundaries).

use super::headers::{field, fields};
use super::param::Cursor;
use super::{ContentType, Limits, Scanner};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Two dashes and a boundary: what decides whether a line is one.
const HEAD_OCTETS_MAX: usize = Limits::BOUNDARY_OCTETS_MAX + 2;

/// Converts one message. `feed` all of it, then `finish`.
#[derive(Debug)]
pub struct BinaryConverter {
    scanner: Scanner,
    mode: Mode,
    line: Line,
    line_octets: u64,
    first_octet: u8,
    /// The line's first octets, as long as it may be a boundary.
    head: Vec<u8>,
    /// The header at hand, unless it was too long.
    header: Vec<u8>,
    header_passed: bool,
    encoder: Encoder,
    /// Of the body that is being encoded: a line end that may be the next boundary's.
    line_end: Vec<u8>,
    converted: bool,
    unconverted: bool,
    nul_elsewhere: bool,
}

/// What is done with lines that are no boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Header,
    Pass,
    Encode,
}

/// What the line at hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Undecided,
    Content,
    Boundary,
}

/// What a header says of its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not of CTE BINARY.
    Other,
    BinaryLeaf,
    BinaryMultipart,
    BinaryMessage,
}

impl Default for BinaryConverter {
    fn default() -> BinaryConverter {
        BinaryConverter::new()
    }
}

impl BinaryConverter {
    /// Octets of one header that are held until its end is known.
    pub const HEADER_OCTETS_MAX: usize = 256 * 1024;

    pub fn new() -> BinaryConverter {
        BinaryConverter {
            scanner: Scanner::new(Limits::default()),
            mode: Mode::Header,
            line: Line::Undecided,
            line_octets: 0,
            first_octet: 0,
            head: Vec::new(),
            header: Vec::new(),
            header_passed: false,
            encoder: Encoder::new(),
            line_end: Vec::new(),
            converted: false,
            unconverted: false,
            nul_elsewhere: false,
        }
    }

    /// Whether a part so far was of CTE BINARY and has been converted.
    pub fn converted(&self) -> bool {
        self.converted
    }

    /// Whether a limit so far left something as it was that may be of CTE BINARY.
    pub fn unconverted(&self) -> bool {
        self.unconverted
    }

    /// Whether a NUL so far stands outside the bodies that were encoded. No answer but a BINARY one can carry it, and no
    /// conversion takes it away.
    // RFC 3516 §4.4: a server that cannot store binary content refuses it with UNKNOWN-CTE.
    pub fn nul_elsewhere(&self) -> bool {
        self.nul_elsewhere
    }

    /// Takes all of `input`; appends what is known of the result.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            if self.mode != Mode::Header && !self.scanner.has_boundaries() {
                // Nothing but the end of the message can follow.
                return self.content(input, out);
            }
            let end = memchr::memchr(b'\n', input).map(|at| at + 1);
            let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
            input = rest;
            self.add(piece, out);
            if end.is_some() {
                self.end_line(piece, out);
            } else {
                self.scanner.feed(piece);
            }
        }
    }

    /// The end of the message.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let head = std::mem::take(&mut self.head);
        self.content(&head, out);
        match self.mode {
            Mode::Header => _ = self.end_header(out),
            Mode::Pass => {}
            Mode::Encode => {
                self.encoder.feed(&self.line_end, out);
                self.encoder.finish(out);
                if self.encoder.begun {
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        *self = BinaryConverter {
            converted: self.converted,
            unconverted: self.unconverted,
            nul_elsewhere: self.nul_elsewhere,
            ..BinaryConverter::new()
        };
    }

    /// A piece of the current line, with its line end if it has one.
    fn add(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.line_octets == 0 {
            self.first_octet = piece[0];
        }
        self.line_octets += piece.len() as u64;
        match self.line {
            Line::Boundary => return self.pass(piece, out),
            Line::Content => return self.content(piece, out),
            Line::Undecided if self.head.is_empty() && piece[0] != b'-' => {
                self.line = Line::Content;
                return self.content(piece, out);
            }
            Line::Undecided => {}
        }
        let room = HEAD_OCTETS_MAX - self.head.len().min(HEAD_OCTETS_MAX);
        let (now, later) = piece.split_at(piece.len().min(room));
        self.head.extend_from_slice(now);
        let is_boundary = match self.scanner.is_boundary(&self.head) {
            // Not as long as any boundary, so there is no more of this piece.
            None => return,
            Some(is_boundary) => is_boundary,
        };
        let mut head = std::mem::take(&mut self.head);
        if is_boundary {
            self.end_part(out);
            self.line = Line::Boundary;
            self.pass(&head, out);
            self.pass(later, out);
        } else {
            self.line = Line::Content;
            self.content(&head, out);
            self.content(later, out);
        }
        head.clear();
        self.head = head;
    }

    /// The line is whole; `piece`, its last, has not been seen by the scanner.
    fn end_line(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if !self.head.is_empty() {
            let head = std::mem::take(&mut self.head);
            self.content(&head, out);
        }
        let empty = self.line_octets == 1 || (self.line_octets == 2 && self.first_octet == b'\r');
        let is_boundary = self.line == Line::Boundary;
        let ended = match self.mode {
            Mode::Header if empty && !is_boundary => Some(self.end_header(out)),
            _ => None,
        };
        self.scanner.feed(piece);
        (self.line, self.line_octets) = (Line::Undecided, 0);
        if self.scanner.is_limited() && is_boundary {
            // The line was no boundary after all: there are too many parts.
            self.unconverted = true;
            self.mode = Mode::Pass;
        } else if is_boundary || ended.is_some() {
            self.mode = match ended {
                _ if self.scanner.in_header() => Mode::Header,
                Some(Kind::BinaryLeaf) => Mode::Encode,
                _ => Mode::Pass,
            };
            // Its parts, if it has any, are not known.
            self.unconverted |= ended == Some(Kind::BinaryMultipart) && !self.scanner.in_container();
        }
    }

    /// A boundary follows.
    fn end_part(&mut self, out: &mut Vec<u8>) {
        match self.mode {
            Mode::Header => _ = self.end_header(out),
            Mode::Pass => {}
            Mode::Encode => {
                self.encoder.finish(out);
                out.append(&mut self.line_end);
            }
        }
    }

    /// Writes the header at hand, and makes ready for what follows.
    fn end_header(&mut self, out: &mut Vec<u8>) -> Kind {
        self.encoder = Encoder::new();
        self.line_end.clear();
        self.unconverted |= self.scanner.is_limited();
        if std::mem::take(&mut self.header_passed) {
            return Kind::Other;
        }
        let header = std::mem::take(&mut self.header);
        let kind = kind_of(&header, self.scanner.in_digest());
        match kind {
            Kind::Other => self.pass(&header, out),
            Kind::BinaryLeaf | Kind::BinaryMultipart | Kind::BinaryMessage => {
                self.converted = true;
                self.nul_elsewhere |= memchr::memchr(0, &header).is_some();
                rewrite(&header, if kind == Kind::BinaryLeaf { b"base64" } else { b"8bit" }, out);
            }
        }
        kind
    }

    /// Octets of a line that is no boundary.
    fn content(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        match self.mode {
            Mode::Header if self.header_passed => self.pass(octets, out),
            Mode::Header if self.header.len() + octets.len() > BinaryConverter::HEADER_OCTETS_MAX => {
                (self.header_passed, self.unconverted) = (true, true);
                let header = std::mem::take(&mut self.header);
                self.pass(&header, out);
                self.pass(octets, out);
            }
            Mode::Header => self.header.extend_from_slice(octets),
            Mode::Pass => self.pass(octets, out),
            Mode::Encode => self.encode(octets, out),
        }
    }

    fn encode(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        if octets.is_empty() {
            return;
        }
        if self.line_end != b"\r" || octets != b"\n" {
            self.encoder.feed(&self.line_end, out);
            self.line_end.clear();
        }
        let kept = match octets {
            [.., b'\r', b'\n'] => 2,
            [.., b'\r' | b'\n'] => 1,
            _ => 0,
        };
        let (now, later) = octets.split_at(octets.len() - kept);
        self.encoder.feed(now, out);
        self.line_end.extend_from_slice(later);
    }

    fn pass(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        self.nul_elsewhere |= memchr::memchr(0, octets).is_some();
        out.extend_from_slice(octets);
    }
}

fn is_binary(value: &[u8]) -> bool {
    let mut cursor = Cursor { rest: value };
    cursor.skip_space();
    cursor.token().eq_ignore_ascii_case(b"binary")
}

fn kind_of(header: &[u8], in_digest: bool) -> Kind {
    // As the scanner has it: of several fields the first that says something.
    let mut encodings = fields(header).filter(|field| field.is("Content-Transfer-Encoding"));
    let says_something = |value| {
        let mut cursor = Cursor { rest: value };
        cursor.skip_space();
        !cursor.token().is_empty()
    };
    if !encodings.find(|field| says_something(field.value)).is_some_and(|field| is_binary(field.value)) {
        return Kind::Other;
    }
    let content_type = match field(header, "Content-Type") {
        Some(field) => ContentType::parse(field.value).unwrap_or_default(),
        None if in_digest => ContentType::plain("MESSAGE", "RFC822"),
        None => ContentType::default(),
    };
    // RFC 2045 §6.4: multipart and message/* are of no other CTE than 7bit, 8bit and binary; of the latter
    // message/global alone may be (RFC 6532 §3.5).
    if content_type.is_type("multipart") {
        Kind::BinaryMultipart
    } else if content_type.is_type("message") && !content_type.is("message", "global") {
        Kind::BinaryMessage
    } else {
        Kind::BinaryLeaf
    }
}

/// The header with every CTE of BINARY made another.
fn rewrite(header: &[u8], encoding: &[u8], out: &mut Vec<u8>) {
    let mut done = 0;
    for field in fields(header) {
        done += field.line.len();
        if !field.is("Content-Transfer-Encoding") || !is_binary(field.value) {
            out.extend_from_slice(field.line);
            continue;
        }
        out.extend_from_slice(b"Content-Transfer-Encoding: ");
        out.extend_from_slice(encoding);
        out.extend_from_slice(match field.line {
            [.., b'\r', b'\n'] => b"\r\n",
            [.., b'\n'] => b"\n",
            _ => b"",
        });
    }
    out.extend_from_slice(&header[done..]);
}

/// Base64 in lines; the last has no line end.
#[derive(Debug)]
struct Encoder {
    octets: [u8; Encoder::LINE_OCTETS],
    filled: usize,
    begun: bool,
}

impl Encoder {
    /// RFC 2045 §6.8: a line has no more than 76 characters.
    const LINE_MAX: usize = 76;
    const LINE_OCTETS: usize = Encoder::LINE_MAX / 4 * 3;

    fn new() -> Encoder {
        Encoder { octets: [0; Encoder::LINE_OCTETS], filled: 0, begun: false }
    }

    fn feed(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() {
            if self.filled == Encoder::LINE_OCTETS {
                self.finish(out);
            }
            let (now, later) = octets.split_at(octets.len().min(Encoder::LINE_OCTETS - self.filled));
            self.octets[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            octets = later;
        }
    }

    /// Writes what is there as a line.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.filled == 0 {
            return;
        }
        if self.begun {
            out.extend_from_slice(b"\r\n");
        }
        let mut line = [0; Encoder::LINE_MAX];
        let length = STANDARD.encode_slice(&self.octets[..self.filled], &mut line);
        out.extend_from_slice(&line[..length.expect("a line holds its octets")]);
        (self.filled, self.begun) = (0, true);
    }
}

#[cfg(test)]
mod tests;
