//! The structural scanner: finds headers, parts and their ends in a message that comes in chunks.
//!
//! It works line by line. Of a line in a body at most `HELD_OCTETS_MAX` octets are held, and only where it may be a
//! boundary; of a header at most the limits' octets. So memory is bounded by [`Limits`] whatever the message, each
//! octet is looked at a bounded number of times, and where chunks are cut has no influence.
//!
//! # RFC
//! RFC 2046 §5.1.1 (boundaries), §5.1.5 (digest), §5.2.1 (message/rfc822).

use super::headers::{field, fields, unfold};
use super::param::Cursor;
use super::{Content, ContentType, Disposition, Embedded, Envelope, Limits, Message, Part};

/// Two dashes, a boundary, two dashes, some white space: a longer line can only match by its beginning.
const HELD_OCTETS_MAX: usize = Limits::BOUNDARY_OCTETS_MAX + 64;

/// Reads one message. `feed` all of it, then `finish`.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    /// Octets before the current line, and in it so far.
    line_start: u64,
    line_octets: u64,
    /// Line ends before the current line.
    newlines: u64,
    /// The line's first octets, where it may be a boundary.
    held: Vec<u8>,
    /// Whether the octets of the line that are not held are all white space.
    rest_blank: bool,
    first_octet: u8,
    last_octet: u8,
    /// Octets of the line end before the current line: 0 at the beginning, 1 for LF, 2 for CRLF.
    previous_break: u64,
    in_header: bool,
    header: Header,
    headers_left: usize,
    /// Open parts, each within the one before it.
    open: Vec<Open>,
    /// Multiparts among them that are not closed.
    boundaries: usize,
    parts: usize,
    /// The limit of parts was met: no more boundaries.
    opaque: bool,
    root: Root,
}

/// What is kept of the root's header when it ends.
#[derive(Debug, Default)]
struct Root {
    envelope: Envelope,
    header: Vec<u8>,
    whole: bool,
}

/// The header that is being read.
#[derive(Debug, Default)]
struct Header {
    octets: Vec<u8>,
    octets_max: usize,
    /// Where the last field begins: it goes where its end does not fit.
    field_at: usize,
    line_at: usize,
    cut: bool,
}

impl Header {
    fn begin(&mut self, octets_max: usize) {
        *self = Header { octets: std::mem::take(&mut self.octets), octets_max, ..Header::default() };
        self.octets.clear();
    }

    fn begin_line(&mut self) {
        self.line_at = self.octets.len();
    }

    fn add(&mut self, piece: &[u8]) {
        if self.cut {
            return;
        }
        if self.octets.len() == self.line_at && !matches!(piece.first(), Some(b' ' | b'\t')) {
            self.field_at = self.line_at;
        }
        if self.octets.len() + piece.len() > self.octets_max {
            self.octets.truncate(self.field_at);
            self.cut = true;
        } else {
            self.octets.extend_from_slice(piece);
        }
    }

    /// The current line turned out to be a boundary.
    fn drop_line(&mut self) {
        if !self.cut {
            self.octets.truncate(self.line_at);
        }
    }
}

#[derive(Debug)]
struct Open {
    part: Part,
    /// Line ends before the body.
    newlines_before: u64,
    kind: Kind,
    /// Envelope of the message whose root this part is.
    envelope: Option<Envelope>,
}

#[derive(Debug)]
enum Kind {
    Leaf,
    Multipart { boundary: Vec<u8>, digest: bool, closed: bool, children: Vec<Part> },
    Message { embedded: Option<Box<Embedded>> },
}

impl Open {
    fn at(offset: u64) -> Open {
        let part = Part { header: offset..offset, body: offset..offset, ..Part::default() };
        Open { part, newlines_before: 0, kind: Kind::Leaf, envelope: None }
    }

    /// The part, ended at the offset and number of line ends `at`, or where its header ended if that is later.
    fn seal(self, at: &mut (u64, u64)) -> (Part, Envelope) {
        let mut part = self.part;
        if at.0 < part.body.start {
            *at = (part.body.start, self.newlines_before);
        }
        let end = at.0;
        part.body.end = end;
        part.lines = at.1.saturating_sub(self.newlines_before);
        part.content = match self.kind {
            Kind::Leaf => Content::Leaf,
            Kind::Message { embedded } => Content::Message(embedded.unwrap_or_default()),
            Kind::Multipart { mut children, .. } => {
                if children.is_empty() {
                    // RFC 3501 §9: `body-type-mpart` has at least one part.
                    children.push(Part { header: end..end, body: end..end, ..Part::default() });
                }
                Content::Multipart(children)
            }
        };
        (part, self.envelope.unwrap_or_default())
    }
}

impl Scanner {
    pub fn new(limits: Limits) -> Scanner {
        let limits = Limits {
            depth_max: limits.depth_max.clamp(1, Limits::DEPTH_CEILING),
            parts_max: limits.parts_max.clamp(1, Limits::PARTS_CEILING),
            ..limits
        };
        let mut header = Header::default();
        header.begin(limits.header_octets_max);
        Scanner {
            limits,
            line_start: 0,
            line_octets: 0,
            newlines: 0,
            held: Vec::new(),
            rest_blank: true,
            first_octet: 0,
            last_octet: 0,
            previous_break: 0,
            in_header: true,
            header,
            headers_left: limits.headers_octets_max,
            open: vec![Open::at(0)],
            boundaries: 0,
            parts: 1,
            opaque: false,
            root: Root::default(),
        }
    }

    /// Takes all of `input`.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            if !self.in_header && !self.has_boundaries() {
                // Nothing but the end of the message can follow.
                self.newlines += memchr::memchr_iter(b'\n', input).count() as u64;
                self.line_octets += input.len() as u64;
                return;
            }
            let end = memchr::memchr(b'\n', input).map(|at| at + 1);
            let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
            input = rest;
            self.add(piece);
            if end.is_some() {
                self.end_line(true);
            }
        }
    }

    /// The message, once all of it has been fed.
    pub fn finish(mut self) -> Message {
        if self.line_octets > 0 {
            self.end_line(false);
        }
        let size = self.line_start;
        let mut at = self.close(1, size, self.newlines);
        let root = self.open.pop().expect("the root is open to the end");
        Message {
            root: root.seal(&mut at).0,
            envelope: self.root.envelope,
            size,
            header: self.root.header,
            header_whole: self.root.whole,
        }
    }

    pub(super) fn has_boundaries(&self) -> bool {
        !self.opaque && self.boundaries > 0
    }

    /// Whether a line that begins with `head` is a boundary of an open multipart; `None` where what follows decides.
    pub(super) fn is_boundary(&self, head: &[u8]) -> Option<bool> {
        let text = match head {
            _ if !self.has_boundaries() => return Some(false),
            [] | [b'-'] => return None,
            [b'-', b'-', text @ ..] => text,
            _ => return Some(false),
        };
        let mut may_be = false;
        for open in &self.open {
            if let Kind::Multipart { boundary, closed: false, .. } = &open.kind {
                if text.starts_with(boundary) {
                    return Some(true);
                }
                may_be |= boundary.starts_with(text);
            }
        }
        if may_be { None } else { Some(false) }
    }

    /// Whether the next line is of a header.
    pub(super) fn in_header(&self) -> bool {
        self.in_header
    }

    /// Whether the part at hand, or the one whose header is being read, is in a multipart/digest.
    pub(super) fn in_digest(&self) -> bool {
        let above = self.open.len().checked_sub(2).map(|index| &self.open[index].kind);
        matches!(above, Some(Kind::Multipart { digest: true, .. }))
    }

    /// Whether the innermost open part is taken apart.
    pub(super) fn in_container(&self) -> bool {
        self.open.last().is_some_and(|open| !matches!(open.kind, Kind::Leaf))
    }

    /// Whether a limit was met: of the header at hand, or of parts.
    pub(super) fn is_limited(&self) -> bool {
        self.opaque || (self.in_header && self.header.cut)
    }

    /// A piece of the current line, with its line end if it has one.
    fn add(&mut self, piece: &[u8]) {
        if self.line_octets == 0 {
            self.first_octet = piece[0];
            self.header.begin_line();
            self.held.clear();
            self.rest_blank = true;
        }
        if self.in_header {
            self.header.add(piece);
        }
        // Held as long as it may be a boundary: two dashes first.
        let mut rest = piece;
        if self.held.len() as u64 == self.line_octets && self.held.len() < HELD_OCTETS_MAX {
            let room = HELD_OCTETS_MAX - self.held.len();
            let candidate = match (self.held.len(), piece) {
                (0, [b'-', b'-', ..] | [b'-']) | (1, [b'-', ..]) => true,
                (0 | 1, _) => false,
                _ => true,
            };
            if candidate {
                let (now, later) = piece.split_at(piece.len().min(room));
                self.held.extend_from_slice(now);
                rest = later;
            } else {
                self.held.clear();
            }
        }
        if self.rest_blank && !self.held.is_empty() {
            self.rest_blank = rest.iter().all(u8::is_ascii_whitespace);
        }
        let count = piece.len() as u64;
        let before_last = if count > 1 { piece[piece.len() - 2] } else { self.last_octet };
        self.line_octets += count;
        self.last_octet =
            if piece.ends_with(b"\n") && self.line_octets > 1 { before_last } else { piece[piece.len() - 1] };
    }

    /// `complete`: the line has its line end, and `last_octet` is what stands before it.
    fn end_line(&mut self, complete: bool) {
        let line_end = self.line_start + self.line_octets;
        let crlf = complete && self.line_octets > 1 && self.last_octet == b'\r';
        let is_boundary = self.held.len() > 2 && self.has_boundaries() && self.boundary(line_end);
        let empty =
            complete && (self.line_octets == 1 || (self.line_octets == 2 && self.first_octet == b'\r'));
        self.newlines += u64::from(complete);
        self.line_start = line_end;
        self.line_octets = 0;
        self.previous_break = if !complete { 0 } else { 1 + u64::from(crlf) };
        if !is_boundary && self.in_header && empty {
            self.end_header(line_end, self.newlines);
        }
    }

    /// Whether the line at hand is a boundary of an open multipart; then parts are closed and opened.
    fn boundary(&mut self, line_end: u64) -> bool {
        let Some((index, closing)) = self.find_boundary() else { return false };
        if !closing && self.parts >= self.limits.parts_max {
            self.opaque = true;
            return false;
        }
        if self.in_header {
            self.header.drop_line();
        }
        // RFC 2046 §5.1.1: the line end before a boundary belongs to it.
        let stripped = u64::from(self.previous_break > 0);
        self.close(index + 1, self.line_start - self.previous_break, self.newlines - stripped);
        let Kind::Multipart { closed, .. } = &mut self.open[index].kind else { return false };
        if closing {
            *closed = true;
            self.boundaries -= 1;
        } else {
            self.parts += 1;
            self.open.push(Open::at(line_end));
            self.begin_header();
        }
        true
    }

    fn find_boundary(&self) -> Option<(usize, bool)> {
        let text = &self.held[2..];
        let whole = self.rest_blank.then(|| text.trim_ascii_end());
        let boundaries = || {
            self.open.iter().enumerate().rev().filter_map(|(index, open)| match &open.kind {
                Kind::Multipart { boundary, closed: false, .. } => Some((index, boundary.as_slice())),
                _ => None,
            })
        };
        if let Some(whole) = whole {
            // From the innermost: a nested multipart with its parent's boundary takes it first.
            for (index, boundary) in boundaries() {
                if let Some(rest) = whole.strip_prefix(boundary)
                    && (rest.is_empty() || rest == b"--")
                {
                    return Some((index, !rest.is_empty()));
                }
            }
        }
        // RFC 2046 §5.1.1: an exact match of the entire line is not required, it is sufficient that the boundary
        // appears in its entirety at the line's beginning. Of several the longest is meant.
        let mut best: Option<(usize, &[u8])> = None;
        for (index, boundary) in boundaries() {
            if best.is_none_or(|(_, have)| boundary.len() > have.len()) && text.starts_with(boundary) {
                best = Some((index, boundary));
            }
        }
        best.map(|(index, boundary)| (index, text[boundary.len()..].starts_with(b"--")))
    }

    /// Closes the open parts from `from` on; the innermost ends at `end`, with `newlines` line ends before it. Gives
    /// where they really ended: an empty line before a boundary ends a header and cannot belong to the boundary too.
    fn close(&mut self, from: usize, end: u64, newlines: u64) -> (u64, u64) {
        // A header that is cut short may open a part of its own, whose header then is empty.
        while self.in_header {
            match self.open.last() {
                Some(open) if open.part.header.start > end => {
                    self.end_header(open.part.header.start, self.newlines);
                }
                _ => self.end_header(end, newlines),
            }
        }
        let mut at = (end, newlines);
        while self.open.len() > from {
            let Some(open) = self.open.pop() else { break };
            self.boundaries -= usize::from(matches!(open.kind, Kind::Multipart { closed: false, .. }));
            let (part, envelope) = open.seal(&mut at);
            match self.open.last_mut().map(|parent| &mut parent.kind) {
                Some(Kind::Multipart { children, .. }) => children.push(part),
                Some(Kind::Message { embedded }) => {
                    *embedded = Some(Box::new(Embedded { envelope, root: part }))
                }
                Some(Kind::Leaf) | None => {}
            }
        }
        at
    }

    fn begin_header(&mut self) {
        self.in_header = true;
        self.header.begin(self.limits.header_octets_max.min(self.headers_left));
        self.header.begin_line();
    }

    /// The header at hand ends at `end`, with `newlines` line ends up to there.
    fn end_header(&mut self, end: u64, newlines: u64) {
        self.in_header = false;
        let header = std::mem::take(&mut self.header.octets);
        let depth = self.open.len();
        let digest = depth > 1 && matches!(self.open[depth - 2].kind, Kind::Multipart { digest: true, .. });
        let is_message_root = depth == 1 || matches!(self.open[depth - 2].kind, Kind::Message { .. });
        let open = self.open.last_mut().expect("a header belongs to an open part");
        open.part.header.end = end;
        open.part.body = end..end;
        open.newlines_before = newlines;
        read_fields(&header, digest, &mut open.part);
        if is_message_root {
            let envelope = Envelope::of(&header);
            if depth == 1 {
                self.root.envelope = envelope;
            } else {
                open.envelope = Some(envelope);
            }
        }
        let part = &mut open.part;
        let too_deep = depth >= self.limits.depth_max;
        if part.content_type.is_type("multipart") {
            match part.content_type.param("boundary").map(<[u8]>::trim_ascii_end) {
                Some(boundary)
                    if !boundary.is_empty() && boundary.len() <= Limits::BOUNDARY_OCTETS_MAX && !too_deep =>
                {
                    let digest = part.content_type.is("multipart", "digest");
                    let boundary = boundary.to_vec();
                    open.kind = Kind::Multipart { boundary, digest, closed: false, children: Vec::new() };
                    self.boundaries += 1;
                }
                // A multipart that is not taken apart may not be shown as one.
                Some(boundary) if !boundary.is_empty() => {
                    part.content_type = ContentType::plain("APPLICATION", "OCTET-STREAM");
                }
                // RFC 2045 §5.2: a field that is syntactically invalid counts as text/plain.
                _ => part.content_type = ContentType::default(),
            }
        } else if part.content_type.is("message", "rfc822") {
            if too_deep || self.parts >= self.limits.parts_max {
                part.content_type = ContentType::plain("APPLICATION", "OCTET-STREAM");
            } else {
                open.kind = Kind::Message { embedded: None };
                self.parts += 1;
                self.open.push(Open::at(end));
            }
        }
        if depth == 1 {
            self.root.whole = !self.header.cut;
            self.root.header = header;
        } else {
            self.headers_left -= header.len().min(self.headers_left);
            self.header.octets = header;
        }
        if self.open.len() > depth {
            self.begin_header();
        }
    }
}

/// The MIME fields of a part's header.
fn read_fields(header: &[u8], digest: bool, part: &mut Part) {
    let content_type = field(header, "Content-Type");
    part.content_type = match content_type {
        Some(field) => ContentType::parse(field.value).unwrap_or_default(),
        // RFC 2046 §5.1.5: the default within a digest.
        None if digest => ContentType::plain("MESSAGE", "RFC822"),
        None => ContentType::default(),
    };
    for field in fields(header) {
        let Some((prefix, name)) = field.name.split_at_checked(b"content-".len()) else { continue };
        if !prefix.eq_ignore_ascii_case(b"content-") {
            continue;
        }
        let text = match name.to_ascii_lowercase().as_slice() {
            b"id" => &mut part.id,
            b"description" => &mut part.description,
            b"md5" => &mut part.md5,
            b"location" => &mut part.location,
            b"disposition" => {
                if part.disposition.is_none() {
                    part.disposition = Disposition::parse(field.value);
                }
                continue;
            }
            b"transfer-encoding" => {
                if part.encoding.is_empty() {
                    let mut cursor = Cursor { rest: field.value };
                    cursor.skip_space();
                    part.encoding = cursor.token();
                }
                continue;
            }
            b"language" => {
                if part.language.is_empty() {
                    part.language = language_tags(field.value);
                }
                continue;
            }
            _ => continue,
        };
        if text.is_none() {
            *text = Some(unfold(field.value));
        }
    }
}

/// RFC 3282 §2: tags between commas.
fn language_tags(value: &[u8]) -> Vec<Vec<u8>> {
    const TAGS_MAX: usize = 50;
    let mut tags = Vec::new();
    let mut cursor = Cursor { rest: value };
    while tags.len() < TAGS_MAX {
        cursor.skip_space();
        let tag = cursor.token();
        if !tag.is_empty() {
            tags.push(tag);
        } else if cursor.rest.is_empty() {
            break;
        } else {
            cursor.rest = &cursor.rest[1..];
        }
    }
    tags
}
