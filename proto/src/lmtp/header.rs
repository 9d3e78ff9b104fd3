//! The header of a message on its way to the store: earlier Return-Path fields are taken out, loops and the sender's own
//! id of the message are seen.
//!
//! A push machine over chunks: any split of the message gives the same octets. The body passes without a copy.
//!
//! # Limits
//! [`HEADER_RECEIVED_MAX`] Received fields mean a loop; [`DELIVERED_TO_MAX`] values of Delivered-To are kept, each of
//! [`VALUE_OCTETS_MAX`] octets at most; of the first Received [`RECEIVED_OCTETS_MAX`]. The start of a line is held back up to [`NAME_OCTETS_MAX`] octets.
//!
//! # RFC
//! 5321 §4.4 (final delivery removes Return-Path and adds its own), §6.3 (loops: 100 Received at least).

use memchr::memchr;

use super::received;

/// RFC 5321 §6.3: a threshold of at least 100 Received fields.
pub const HEADER_RECEIVED_MAX: u32 = 100;
const DELIVERED_TO_MAX: usize = 128;
const VALUE_OCTETS_MAX: usize = 512;
const RECEIVED_OCTETS_MAX: usize = 2048;
const NAME_OCTETS_MAX: usize = 64;

/// Watches one message.
#[derive(Debug)]
pub struct HeaderWatch {
    stage: Stage,
    field: Field,
    held: Vec<u8>,
    value: Vec<u8>,
    received: u32,
    queue_id: Option<Vec<u8>>,
    delivered_to: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the first octets of a header line, which are held back until it is known what the line is.
    LineStart,
    InLine,
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Other,
    ReturnPath,
    DeliveredTo,
    /// The first.
    Received,
}

impl Default for HeaderWatch {
    fn default() -> Self {
        HeaderWatch::new()
    }
}

impl HeaderWatch {
    pub fn new() -> HeaderWatch {
        HeaderWatch {
            stage: Stage::LineStart,
            field: Field::Other,
            held: Vec::new(),
            value: Vec::new(),
            received: 0,
            queue_id: None,
            delivered_to: Vec::new(),
        }
    }

    /// What of the message is to be stored now: `chunk` itself in the body, else `scratch`, which is overwritten and
    /// holds at most [`NAME_OCTETS_MAX`] octets more than `chunk`.
    pub fn push<'a>(&mut self, chunk: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        if self.stage == Stage::Body {
            return chunk;
        }
        scratch.clear();
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.stage {
                Stage::Body => {
                    scratch.extend_from_slice(rest);
                    break;
                }
                Stage::InLine => {
                    let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                    self.pass(&rest[..end], scratch);
                    rest = &rest[end..];
                }
                Stage::LineStart => {
                    self.held.push(rest[0]);
                    rest = &rest[1..];
                    self.line_start(scratch);
                }
            }
        }
        scratch
    }

    /// The message is over: what is still to be stored.
    pub fn finish(&mut self, scratch: &mut Vec<u8>) {
        scratch.clear();
        // What is held back is no continuation (those are told by their first octet), so it is stored.
        scratch.append(&mut self.held);
        self.end_field();
        self.stage = Stage::Body;
    }

    /// Decides about the held start of a line, if it can be decided.
    fn line_start(&mut self, scratch: &mut Vec<u8>) {
        let last = self.held.last().copied();
        let continues = is_continuation(&self.held);
        let blank = matches!(self.held.as_slice(), b"\n" | b"\r\n");
        if !(continues || matches!(last, Some(b':' | b'\n')) || self.held.len() >= NAME_OCTETS_MAX) {
            return;
        }
        if !continues {
            self.end_field();
            self.field = match self.held.strip_suffix(b":").map(<[u8]>::trim_ascii_end) {
                Some(name) if name.eq_ignore_ascii_case(b"Return-Path") => Field::ReturnPath,
                Some(name) if name.eq_ignore_ascii_case(b"Delivered-To") => Field::DeliveredTo,
                Some(name) if name.eq_ignore_ascii_case(b"Received") => {
                    self.received = self.received.saturating_add(1);
                    if self.received == 1 { Field::Received } else { Field::Other }
                }
                _ => Field::Other,
            };
        }
        self.stage = Stage::InLine;
        let held = std::mem::take(&mut self.held);
        if continues {
            self.pass(&held, scratch);
        } else {
            if self.field != Field::ReturnPath {
                scratch.extend_from_slice(&held);
            }
            if last == Some(b'\n') {
                self.stage = if blank { Stage::Body } else { Stage::LineStart };
            }
        }
        self.held = held;
        self.held.clear();
    }

    /// Octets of a line whose field is known.
    fn pass(&mut self, octets: &[u8], scratch: &mut Vec<u8>) {
        match self.field {
            Field::ReturnPath => {}
            Field::DeliveredTo | Field::Received => {
                let most = if self.field == Field::Received { RECEIVED_OCTETS_MAX } else { VALUE_OCTETS_MAX };
                let room = most.saturating_sub(self.value.len()).min(octets.len());
                self.value.extend_from_slice(&octets[..room]);
                scratch.extend_from_slice(octets);
            }
            Field::Other => scratch.extend_from_slice(octets),
        }
        self.stage = if octets.ends_with(b"\n") { Stage::LineStart } else { Stage::InLine };
    }

    fn end_field(&mut self) {
        if self.field == Field::DeliveredTo && self.delivered_to.len() < DELIVERED_TO_MAX {
            let value = self.value.trim_ascii();
            let value = value.strip_prefix(b"<").and_then(|v| v.strip_suffix(b">")).unwrap_or(value);
            self.delivered_to.push(value.to_vec());
        }
        if self.field == Field::Received {
            self.queue_id = received::id(&self.value).map(<[u8]>::to_vec);
        }
        self.value.clear();
        self.field = Field::Other;
    }

    /// The header is over.
    pub fn in_body(&self) -> bool {
        self.stage == Stage::Body
    }

    /// The id in the topmost Received field: who added it knows the message by it.
    pub fn queue_id(&self) -> Option<&[u8]> {
        self.queue_id.as_deref()
    }

    /// Received fields so far.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Whether delivering to `recipient` (as [`Trace::prefix`](super::Trace::prefix) is given it) would loop.
    pub fn loops_at(&self, recipient: &str) -> bool {
        self.received >= HEADER_RECEIVED_MAX
            || self.delivered_to.iter().any(|value| value.eq_ignore_ascii_case(recipient.as_bytes()))
    }
}

/// RFC 5322 §2.2.3: a line that begins with white space belongs to the field before it.
fn is_continuation(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(message: &[u8], size: usize) -> (Vec<u8>, HeaderWatch) {
        let (mut out, mut scratch, mut watch) = (Vec::new(), Vec::new(), HeaderWatch::new());
        for chunk in message.chunks(size) {
            out.extend_from_slice(watch.push(chunk, &mut scratch));
        }
        watch.finish(&mut scratch);
        out.extend_from_slice(&scratch);
        (out, watch)
    }

    #[test]
    fn return_path_is_taken_out_of_the_header_at_any_split() {
        for (message, stored) in [
            ("", ""),
            ("A: 1\r\n\r\nReturn-Path: <x>\r\n", "A: 1\r\n\r\nReturn-Path: <x>\r\n"),
            ("Return-Path: <x>\r\nA: 1\r\n\r\nb", "A: 1\r\n\r\nb"),
            ("A: 1\r\nreturn-PATH : <x>\r\n\t(folded)\r\n more\r\nB: 2\r\n\r\nb", "A: 1\r\nB: 2\r\n\r\nb"),
            ("Return-Path:\r\n <x>\r\nReturn-Path: <y>\r\n\r\n", "\r\n"),
            ("Return-Path: <x>", ""),
            ("Return-Path: <x>\r\n <", ""),
            ("Return-Path: <x>\r\nRetu", "Retu"),
            ("Return-Path", "Return-Path"),
            ("Return-Pathos: x\r\n\r\n", "Return-Pathos: x\r\n\r\n"),
            ("X-Return-Path: x\n\nReturn-Path: y\n", "X-Return-Path: x\n\nReturn-Path: y\n"),
            (" folded first\r\nReturn-Path: <x>\r\n\r\n", " folded first\r\n\r\n"),
            ("no colon here\r\nReturn-Path: <x>\r\n\r\nb", "no colon here\r\n\r\nb"),
            ("\r\nReturn-Path: <x>\r\n", "\r\nReturn-Path: <x>\r\n"),
        ] {
            for size in 1..=message.len().max(1) {
                let (out, _) = watched(message.as_bytes(), size);
                assert_eq!(String::from_utf8(out).as_deref(), Ok(stored), "{message:?} by {size}");
            }
        }
        let long = format!("{}\r\nReturn-Path: x\r\n\r\n", "x".repeat(5000));
        assert_eq!(watched(long.as_bytes(), 7).0.len(), 5004);
    }

    #[test]
    fn loops_are_seen_in_the_header_only() {
        let message = "Delivered-To: Bob@Example.test\r\nDelivered-To:\r\n <carol@example.test>\r\nReceived: a\r\n\tb\r\nRECEIVED: c\r\n\r\nDelivered-To: dave@example.test\r\nReceived: d\r\n";
        for size in 1..message.len() {
            let (out, watch) = watched(message.as_bytes(), size);
            assert_eq!(out, message.as_bytes());
            assert_eq!(watch.received(), 2);
            for (recipient, loops) in [
                ("bob@example.test", true),
                ("carol@example.test", true),
                ("dave@example.test", false),
                ("bob@example.tes", false),
            ] {
                assert_eq!(watch.loops_at(recipient), loops, "{recipient} by {size}");
            }
        }
        let hops = "Received: x\r\n".repeat(99);
        assert!(!watched(hops.as_bytes(), 10).1.loops_at("x@y"));
        let hops = "Received: x\r\n".repeat(100);
        assert!(watched(hops.as_bytes(), 10).1.loops_at("x@y"));
    }

    #[test]
    fn the_id_of_the_topmost_received_is_seen_at_any_split() {
        for (message, id) in [
            (
                "A: 1\r\nReceived: from a\r\n\tby b with LMTP id X1; now\r\nReceived: by c id Y2; x\r\n\r\n",
                Some("X1"),
            ),
            ("Received: from a by b; now\r\nReceived: by c id Y2; then\r\n\r\n", None),
            ("received : by b id X1\r\n\r\nb", Some("X1")),
            ("Received: by b\r\n id X1", Some("X1")),
            ("A: 1\r\n\r\nReceived: by b id X1; now\r\n", None),
        ] {
            for size in 1..=message.len() {
                let (out, watch) = watched(message.as_bytes(), size);
                assert_eq!(out, message.as_bytes());
                assert_eq!(watch.queue_id(), id.map(str::as_bytes), "{message:?} by {size}");
            }
        }
        let long = format!("Received: by b ({}) id X1; now\r\n\r\n", "x".repeat(RECEIVED_OCTETS_MAX));
        assert_eq!(watched(long.as_bytes(), 7).1.queue_id(), None);
    }

    #[test]
    fn a_delivered_to_at_the_very_end_counts() {
        assert!(watched(b"Delivered-To: bob@example.test", 3).1.loops_at("bob@example.test"));
    }
}
