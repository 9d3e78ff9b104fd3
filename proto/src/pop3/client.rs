//! The client's end of POP3: splits what a server sends into status lines and multi-line bodies.
//!
//! # Limits
//! [`LINE_OCTETS_MAX`] for a line; a longer one of a body comes in pieces, a longer status line is an error.

use memchr::memchr;

/// The longest line that is given whole.
pub const LINE_OCTETS_MAX: usize = 64 * 1024;

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Nothing whole yet: read more.
    NeedMore,
    /// `+OK` or `-ERR`, the response code without its brackets where there is one, and the words.
    Status { ok: bool, code: Option<&'a str>, text: &'a str },
    /// A SASL challenge, in base64.
    Challenge(&'a str),
    /// Octets of a multi-line body, without stuffing; joined they are the body.
    Body(&'a [u8]),
    /// The end of the body.
    End,
    /// Not POP3.
    Malformed,
}

/// The reader. A body is read after [`expect_body`](Client::expect_body).
#[derive(Debug, Default)]
pub struct Client {
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Status,
    LineStart,
    InLine,
}

impl Client {
    pub fn new() -> Client {
        Client::default()
    }

    /// The status just read is followed by a body: LIST, UIDL, RETR, TOP, CAPA after `+OK`.
    pub fn expect_body(&mut self) {
        self.stage = Stage::LineStart;
    }

    /// Takes the next piece of what the receive buffer holds.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Reply<'a>) {
        let end = memchr(b'\n', input).map(|at| at + 1);
        match (self.stage, end) {
            (Stage::Status, Some(end)) => (end, status(&input[..end])),
            (Stage::Status, None) if input.len() >= LINE_OCTETS_MAX => (input.len(), Reply::Malformed),
            (_, None) if input.len() < LINE_OCTETS_MAX => (0, Reply::NeedMore),
            (Stage::LineStart, Some(3)) if &input[..3] == b".\r\n" => {
                self.stage = Stage::Status;
                (3, Reply::End)
            }
            (stage, end) => {
                let end_or_all = end.unwrap_or(input.len());
                let stuffed = stage == Stage::LineStart && input.first() == Some(&b'.');
                self.stage = if end.is_some() { Stage::LineStart } else { Stage::InLine };
                (end_or_all, Reply::Body(&input[usize::from(stuffed)..end_or_all]))
            }
        }
    }
}

fn status(line: &[u8]) -> Reply<'_> {
    let Ok(line) = std::str::from_utf8(line) else { return Reply::Malformed };
    let line = line.trim_end_matches(['\r', '\n']);
    let (ok, text) = if let Some(text) = line.strip_prefix("+OK") {
        (true, text)
    } else if let Some(text) = line.strip_prefix("-ERR") {
        (false, text)
    } else {
        return match line.strip_prefix('+') {
            Some(challenge) => Reply::Challenge(challenge.trim_start()),
            None => Reply::Malformed,
        };
    };
    let text = text.trim_start();
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((code, text)) => Reply::Status { ok, code: Some(code), text: text.trim_start() },
        None => Reply::Status { ok, code: None, text },
    }
}
