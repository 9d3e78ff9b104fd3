//! Reads past IMAP responses: finds their ends, honours literals, and keeps nothing but the line that matters.
//!
//! # Limits
//! [`TEXT_OCTETS_MAX`] of a line are kept; longer lines are skipped like any other.
//!
//! # Cost
//! One pass of `memchr` over the octets, no allocation after the first responses. A line that is whole in the receive
//! buffer is looked at in place.

use memchr::memchr;

/// How much of a line is kept for those who ask for its text.
pub const TEXT_OCTETS_MAX: usize = 1024;
/// A literal's length stands in the last octets of a line: `{`, twenty digits, `+`, `}`.
const TAIL_OCTETS: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    No,
    Bad,
}

/// A response, as far as a load generator wants to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `A<tag> OK`, the form that [`super::imap::Imap`] gives its tags.
    Tagged(u32, Status),
    Continue,
    Exists(u32),
    Expunge,
    Bye,
    Other,
}

#[derive(Default)]
pub struct Skipper {
    /// The first octets of the response, where its answer matters.
    text: Vec<u8>,
    /// Octets of the current line that came with earlier reads: how many, the first and the last of them.
    carried: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    literal_left: u64,
    /// The answer of a response whose first line ended in a literal.
    begun: Option<Answer>,
}

impl Skipper {
    pub fn new() -> Skipper {
        Skipper::default()
    }

    /// Takes octets up to the end of a response. Fewer than given are taken only with an answer.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Answer>) {
        let mut at = 0;
        loop {
            if self.literal_left > 0 {
                let step = self.literal_left.min((input.len() - at) as u64);
                self.literal_left -= step;
                at += step as usize;
            }
            let Some(end) = memchr(b'\n', &input[at..]) else {
                self.carry(&input[at..]);
                return (input.len(), None);
            };
            let piece = &input[at..at + end];
            at += end + 1;
            if let Some(answer) = self.line(piece) {
                return (at, Some(answer));
            }
        }
    }

    /// The text of the last response that was not [`Answer::Other`], or was a status response: without CRLF.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn carry(&mut self, octets: &[u8]) {
        self.carried += octets.len() as u64;
        let room = TEXT_OCTETS_MAX - self.head.len().min(TEXT_OCTETS_MAX);
        self.head.extend_from_slice(&octets[..octets.len().min(room)]);
        self.tail.extend_from_slice(&octets[octets.len().saturating_sub(TAIL_OCTETS)..]);
        let surplus = self.tail.len().saturating_sub(TAIL_OCTETS);
        self.tail.drain(..surplus);
    }

    /// A line without its LF. The answer where the response ends with it.
    fn line(&mut self, piece: &[u8]) -> Option<Answer> {
        if self.carried == 0 {
            let line = piece.strip_suffix(b"\r").unwrap_or(piece);
            let (answer, status) = match self.begun {
                Some(answer) => (answer, false),
                None => classify(line),
            };
            return self.decide(answer, status, literal(line), line);
        }
        self.carry(piece);
        let (mut head, tail) = (std::mem::take(&mut self.head), std::mem::take(&mut self.tail));
        let (answer, status) = match self.begun {
            Some(answer) => (answer, false),
            None => classify(&head),
        };
        if self.carried <= TEXT_OCTETS_MAX as u64 && head.last() == Some(&b'\r') {
            head.pop();
        }
        let length = literal(tail.strip_suffix(b"\r").unwrap_or(&tail));
        self.carried = 0;
        let decided = self.decide(answer, status, length, &head);
        (self.head, self.tail) = (head, tail);
        self.head.clear();
        self.tail.clear();
        decided
    }

    fn decide(&mut self, answer: Answer, status: bool, literal: Option<u64>, line: &[u8]) -> Option<Answer> {
        if self.begun.is_none() && (status || answer != Answer::Other) {
            self.text.clear();
            self.text.extend_from_slice(&line[..line.len().min(TEXT_OCTETS_MAX)]);
        }
        match literal {
            // Text for people may end in braces, and announces nothing.
            Some(length) if !status => {
                self.literal_left = length;
                self.begun = Some(answer);
                None
            }
            _ => {
                self.begun = None;
                Some(answer)
            }
        }
    }
}

/// What a line says, and whether it ends in text for people.
fn classify(line: &[u8]) -> (Answer, bool) {
    match line {
        [b'*', b' ', rest @ ..] => untagged(rest),
        [b'+', ..] => (Answer::Continue, true),
        [b'A', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let tag = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
            let status = rest.get(digits..digits + 3).and_then(|word| match word {
                b" OK" => Some(Status::Ok),
                b" NO" => Some(Status::No),
                b" BA" => Some(Status::Bad),
                _ => None,
            });
            match (tag, status) {
                (Some(tag), Some(status)) => (Answer::Tagged(tag, status), true),
                _ => (Answer::Other, true),
            }
        }
        _ => (Answer::Other, false),
    }
}

fn untagged(rest: &[u8]) -> (Answer, bool) {
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits > 0 {
        let word = rest[digits..].strip_prefix(b" ").unwrap_or_default();
        let word = word.strip_suffix(b"\r").unwrap_or(word);
        let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
        return match number {
            Some(number) if word.eq_ignore_ascii_case(b"EXISTS") => (Answer::Exists(number), false),
            Some(_) if word.eq_ignore_ascii_case(b"EXPUNGE") => (Answer::Expunge, false),
            _ => (Answer::Other, false),
        };
    }
    let word = rest.split(|b| *b == b' ' || *b == b'\r').next().unwrap_or_default();
    if word.eq_ignore_ascii_case(b"BYE") {
        return (Answer::Bye, true);
    }
    let status = [&b"OK"[..], b"NO", b"BAD", b"PREAUTH"].iter().any(|w| word.eq_ignore_ascii_case(w));
    (Answer::Other, status)
}

/// The length of the literal that a line without its CRLF announces: `{5}`, `{5+}`, `~{5}`.
fn literal(line: &[u8]) -> Option<u64> {
    let rest = line.strip_suffix(b"}")?;
    let rest = rest.strip_suffix(b"+").unwrap_or(rest);
    let digits = rest.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, number) = rest.split_at(rest.len() - digits);
    if digits == 0 || before.last() != Some(&b'{') {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] = b"* OK [CAPABILITY IMAP4rev1 LITERAL+] ready {3}\r\n\
        * 17 EXISTS\r\n\
        * 1 FETCH (UID 4 BODY[] {26}\r\nSubject: A1 OK\r\n\r\nA1 OK)\r\n FLAGS ())\r\n\
        * 2 FETCH (BODY[] ~{0}\r\n BODY[HEADER] {6}\r\n{99}\r\n)\r\n\
        * LIST () \"/\" {3}\r\na b\r\n\
        + idling\r\n\
        A7 NO [NONEXISTENT] none {9}\r\n\
        * SEARCH 1 2 3\r\n\
        * 4 expunge\r\n\
        A8 OK done\r\n\
        * BYE over\r\n";

    fn answers(reads: &[&[u8]]) -> Vec<(Answer, Vec<u8>)> {
        let mut skipper = Skipper::new();
        let mut found = Vec::new();
        for read in reads {
            let mut rest = *read;
            while !rest.is_empty() {
                let (taken, answer) = skipper.feed(rest);
                rest = &rest[taken..];
                if let Some(answer) = answer {
                    found.push((answer, skipper.text().to_vec()));
                }
            }
        }
        found
    }

    #[test]
    fn a_session_is_read_to_its_answers() {
        let found = answers(&[SESSION]);
        let kinds: Vec<Answer> = found.iter().map(|(answer, _)| *answer).collect();
        use Answer::*;
        let want = [
            Other,
            Exists(17),
            Other,
            Other,
            Other,
            Continue,
            Tagged(7, Status::No),
            Other,
            Expunge,
            Tagged(8, Status::Ok),
            Bye,
        ];
        assert_eq!(kinds, want);
        assert_eq!(found[0].1, b"* OK [CAPABILITY IMAP4rev1 LITERAL+] ready {3}");
        assert_eq!(found[6].1, b"A7 NO [NONEXISTENT] none {9}");
    }

    #[test]
    fn how_input_is_split_changes_nothing() {
        let whole = answers(&[SESSION]);
        for at in 0..=SESSION.len() {
            let (first, second) = SESSION.split_at(at);
            assert_eq!(answers(&[first, second]), whole, "split at {at}");
        }
        let octets: Vec<&[u8]> = SESSION.chunks(1).collect();
        assert_eq!(answers(&octets), whole);
    }

    #[test]
    fn a_line_longer_than_what_is_kept_is_skipped_whole() {
        let mut search = b"* SEARCH".to_vec();
        for n in 0..100_000 {
            search.extend_from_slice(format!(" {n}").as_bytes());
        }
        search.extend_from_slice(b"\r\n* 1 FETCH (X \"");
        search.extend_from_slice(&[b'y'; 5000]);
        search.extend_from_slice(b"\" BODY[] {4}\r\nA1 O)\r\nA1 OK\r\n");
        for size in [1, 7, 4096, search.len()] {
            let reads: Vec<&[u8]> = search.chunks(size).collect();
            let kinds: Vec<Answer> = answers(&reads).into_iter().map(|(answer, _)| answer).collect();
            assert_eq!(
                kinds,
                [Answer::Other, Answer::Other, Answer::Tagged(1, Status::Ok)],
                "reads of {size}"
            );
        }
    }
}
