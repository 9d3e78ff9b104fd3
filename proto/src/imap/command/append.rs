//! APPEND and REPLACE: the pieces of the command between its messages' octets.
//!
//! # RFC
//! RFC 3501 §6.3.11; RFC 3502 (several messages); RFC 4466 §3 (append-message); RFC 4469 (CATENATE); RFC 8508 (REPLACE);
//! RFC 6855 §4 (UTF8).

use super::super::cursor::{Cursor, Parsed};
use super::super::literal::Literal;
use super::super::text::Refusal;
use super::parse::Name;
use super::*;

/// Which message a REPLACE replaces (RFC 8508 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub uid: bool,
    pub message: SequenceSet,
}

/// What is said of the messages, in the order in which it is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendStep {
    /// A message begins.
    Message { flags: FlagSet, internal_date: Option<InternalDate> },
    /// Its next octets are those that this URL names (RFC 4469 §3).
    Url(String),
    /// It is whole.
    End,
}

/// Octets of a message that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendLiteral {
    pub octets: u64,
    /// Sent as `~{n}`: it may contain NUL (RFC 3516 §4.4).
    pub literal8: bool,
    /// The client waits for `+`.
    pub synchronising: bool,
    /// It is one part of the message (RFC 4469).
    pub part: bool,
}

/// What stands between two literals of an APPEND, or before the first, or behind the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendPiece {
    pub steps: Vec<AppendStep>,
    /// Answer with [`super::Server::accept_append`] or [`super::Server::refuse_append`]. `None`: the command is whole.
    pub literal: Option<AppendLiteral>,
}

/// What the octets before a piece were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Before {
    /// A message.
    Message,
    /// A message in the parentheses of UTF8.
    Utf8,
    /// TEXT of a CATENATE.
    Text,
    /// UTF8 of a CATENATE.
    TextUtf8,
}

impl Before {
    pub(in super::super) const fn code(self) -> u8 {
        match self {
            Before::Message => 0,
            Before::Utf8 => 1,
            Before::Text => 2,
            Before::TextUtf8 => 3,
        }
    }

    pub(in super::super) const fn from_code(code: u8) -> Before {
        match code & 3 {
            0 => Before::Message,
            1 => Before::Utf8,
            2 => Before::Text,
            _ => Before::TextUtf8,
        }
    }
}

/// The head of an APPEND or REPLACE and its first piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct AppendHead {
    pub(in super::super) mailbox: MailboxName,
    pub(in super::super) replaced: Option<Replaced>,
    pub(in super::super) piece: AppendPiece,
    /// What the literal of the piece is.
    pub(in super::super) before: Before,
}

/// The arguments up to where the command ends or a literal is announced. `None`: that literal is a string and no message.
pub(in super::super) fn head(
    name: Name,
    arguments: &[u8],
    literal: Option<Literal>,
    utf8: bool,
) -> Parsed<Option<AppendHead>> {
    let mut cursor = Cursor::of_session(without(arguments, literal), utf8);
    cursor.space()?;
    let replaced = match name {
        Name::Append => None,
        _ => {
            let message = cursor.sequence_set()?;
            // RFC 8508 §5: seq-number, so one message.
            if !message.is_single() {
                return Err(Refusal::Expected("one message"));
            }
            cursor.space()?;
            Some(Replaced { uid: name == Name::UidReplace, message })
        }
    };
    if literal.is_some() && cursor.rest().is_empty() {
        return Ok(None);
    }
    let mailbox = cursor.mailbox()?;
    cursor.space()?;
    let mut reader = Reader { cursor, literal, replaces: replaced.is_some(), steps: Vec::new() };
    let Some((literal, before)) = reader.message()? else { return Ok(None) };
    Ok(Some(AppendHead { mailbox, replaced, piece: AppendPiece { steps: reader.steps, literal }, before }))
}

/// The same for what follows the octets of a message.
pub(in super::super) fn piece(
    line: &[u8],
    literal: Option<Literal>,
    before: Before,
    replaces: bool,
) -> Parsed<Option<(AppendPiece, Before)>> {
    let cursor = Cursor::new(without(line, literal));
    let mut reader = Reader { cursor, literal, replaces, steps: Vec::new() };
    let Some((literal, before)) = reader.after(before)? else { return Ok(None) };
    Ok(Some((AppendPiece { steps: reader.steps, literal }, before)))
}

fn without(input: &[u8], literal: Option<Literal>) -> &[u8] {
    &input[..input.len() - literal.map_or(0, |literal| literal.length)]
}

/// Where reading stopped: at octets of a message, or (`None` within) at the end of the command. `None`: at a string.
type Stop = Parsed<Option<(Option<AppendLiteral>, Before)>>;

struct Reader<'a> {
    cursor: Cursor<'a>,
    /// The one with which the input ends.
    literal: Option<Literal>,
    replaces: bool,
    steps: Vec<AppendStep>,
}

impl Reader<'_> {
    fn at_literal(&self) -> bool {
        self.literal.is_some() && self.cursor.rest().is_empty()
    }

    /// Octets of a message begin here.
    fn data(&self, before: Before) -> Stop {
        match self.literal.filter(|_| self.cursor.rest().is_empty()) {
            Some(Literal { octets, literal8, synchronising, .. }) => {
                let part = matches!(before, Before::Text | Before::TextUtf8);
                Ok(Some((Some(AppendLiteral { octets, literal8, synchronising, part }), before)))
            }
            None => Err(Refusal::Expected("a literal with the message")),
        }
    }

    /// `[flag-list SP] [date-time SP] append-data`.
    fn message(&mut self) -> Stop {
        const DATE: Refusal = Refusal::Expected("a date-time");
        let cursor = &mut self.cursor;
        let (mut flags, mut internal_date) = (FlagSet::default(), None);
        if cursor.peek() == Some(b'(') {
            flags = cursor.flag_list()?;
            cursor.space()?;
        }
        if cursor.peek() == Some(b'"') {
            let text = cursor.string("a date-time")?;
            internal_date = Some(InternalDate::parse(&text).ok_or(DATE)?);
            cursor.space()?;
        }
        self.steps.push(AppendStep::Message { flags, internal_date });
        if cursor.eat_word("CATENATE") {
            cursor.space()?;
            cursor.expect(b'(', "an opening parenthesis after CATENATE")?;
            return self.part();
        }
        if cursor.eat_word("UTF8") {
            cursor.space()?;
            cursor.expect(b'(', "an opening parenthesis after UTF8")?;
            return self.data(Before::Utf8);
        }
        self.data(Before::Message)
    }

    /// `cat-part` (RFC 4469 §5, RFC 6855 §4).
    fn part(&mut self) -> Stop {
        loop {
            let cursor = &mut self.cursor;
            if cursor.eat_word("TEXT") {
                cursor.space()?;
                return self.data(Before::Text);
            }
            if cursor.eat_word("UTF8") {
                cursor.space()?;
                cursor.expect(b'(', "an opening parenthesis after UTF8")?;
                return self.data(Before::TextUtf8);
            }
            if !cursor.eat_word("URL") {
                return Err(Refusal::Expected("TEXT or URL"));
            }
            cursor.space()?;
            if self.at_literal() {
                return Ok(None);
            }
            let url = self.cursor.astring("a URL")?;
            // RFC 3986 §2: a URL is of US-ASCII; what is not is answered as one that names nothing.
            self.steps.push(AppendStep::Url(String::from_utf8_lossy(&url).into_owned()));
            if !self.cursor.eat(b' ') {
                return self.after_parts();
            }
        }
    }

    fn after_parts(&mut self) -> Stop {
        self.cursor.expect(b')', "a space or a closing parenthesis")?;
        self.after_message()
    }

    fn after_message(&mut self) -> Stop {
        self.steps.push(AppendStep::End);
        if !self.replaces && self.cursor.eat(b' ') {
            return self.message();
        }
        // RFC 3501 §9: what follows the message is the end of the command.
        if self.literal.is_some() || self.cursor.end().is_err() {
            return Err(Refusal::AppendTail);
        }
        Ok(Some((None, Before::Message)))
    }

    fn after(&mut self, before: Before) -> Stop {
        if matches!(before, Before::Utf8 | Before::TextUtf8) {
            self.cursor.expect(b')', "a closing parenthesis after UTF8")?;
        }
        match before {
            Before::Message | Before::Utf8 => self.after_message(),
            Before::Text | Before::TextUtf8 if self.cursor.eat(b' ') => self.part(),
            Before::Text | Before::TextUtf8 => self.after_parts(),
        }
    }
}
