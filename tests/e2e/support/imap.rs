//! A small blocking IMAP client: commands as text, answers as units.

use std::net::SocketAddr;

use super::Fallible;
use super::connection::{Connection, Unit};
use crate::fail;

pub struct Imap {
    pub connection: Connection,
    next_tag: u32,
}

/// The answer to one command.
#[derive(Clone, Debug)]
pub struct Answer {
    pub untagged: Vec<Unit>,
    /// What follows the tag: `OK ...`, `NO ...`, `BAD ...`.
    pub result: String,
}

impl Answer {
    pub fn ok(&self) -> bool {
        self.result.starts_with("OK")
    }

    /// The arguments of a response code of the tagged line, as `APPENDUID` gives `1 2`.
    pub fn code(&self, name: &str) -> Option<&str> {
        code(&self.result, name)
    }

    /// The argument of a response code in an untagged status line.
    pub fn untagged_code(&self, name: &str) -> Option<String> {
        self.untagged.iter().find_map(|unit| code(&unit.text(), name).map(str::to_owned))
    }

    /// Untagged lines as text.
    pub fn lines(&self) -> Vec<String> {
        self.untagged.iter().map(Unit::text).collect()
    }
}

fn code<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let at = text.find(&format!("[{name}"))? + 1 + name.len();
    let rest = &text[at..];
    let inner = &rest[..rest.find(']')?];
    if inner.is_empty() { Some(inner) } else { inner.strip_prefix(' ') }
}

impl Imap {
    /// Connects and reads the greeting.
    pub fn open(address: SocketAddr) -> Fallible<Imap> {
        let mut connection = Connection::open(address)?;
        let greeting = connection.read_line()?;
        if !greeting.starts_with("* OK") {
            fail!("not a greeting: {greeting}");
        }
        Ok(Imap { connection, next_tag: 1 })
    }

    pub fn login(address: SocketAddr, user: &str, password: &str) -> Fallible<Imap> {
        let mut imap = Imap::open(address)?;
        imap.must(&format!("LOGIN {} {}", quoted(user), quoted(password)))?;
        Ok(imap)
    }

    fn tag(&mut self) -> String {
        let tag = format!("t{}", self.next_tag);
        self.next_tag += 1;
        tag
    }

    /// Sends a command and reads up to its tagged answer.
    pub fn command(&mut self, command: &str) -> Fallible<Answer> {
        let tag = self.send(command)?;
        self.answer(&tag)
    }

    /// Sends a command without waiting; gives its tag.
    pub fn send(&mut self, command: &str) -> Fallible<String> {
        let tag = self.tag();
        self.connection.send_line(&format!("{tag} {command}"))?;
        Ok(tag)
    }

    /// Reads up to the tagged answer.
    pub fn answer(&mut self, tag: &str) -> Fallible<Answer> {
        let mut untagged = Vec::new();
        loop {
            let unit = self.connection.read(true).map_err(|e| match untagged.last() {
                // As a BYE, which says why.
                Some(said) => format!("{e} after {}", Unit::shown(said)).into(),
                None => e,
            })?;
            let text = unit.text();
            if let Some(result) = text.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                return Ok(Answer { untagged, result: result.to_owned() });
            }
            untagged.push(unit);
        }
    }

    /// Sends a command that must be answered OK.
    pub fn must(&mut self, command: &str) -> Fallible<Answer> {
        let answer = self.command(command)?;
        if !answer.ok() {
            fail!("{command}: {}", answer.result);
        }
        Ok(answer)
    }

    /// APPEND with a non-synchronising literal; `options` are flags and date, as `(\Seen) `.
    pub fn append(&mut self, mailbox: &str, options: &str, message: &[u8]) -> Fallible<Answer> {
        let tag = self.tag();
        let head = format!("{tag} APPEND {} {options}{{{}+}}\r\n", quoted(mailbox), message.len());
        self.connection.send(&[head.as_bytes(), message, b"\r\n"].concat())?;
        self.answer(&tag)
    }
}

/// An IMAP quoted string.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The numbers of a set as `1,3:5` (in answers: never `*`).
pub fn numbers(set: &str) -> Vec<u32> {
    set.split(',')
        .filter_map(|part| {
            let (a, b) = part.split_once(':').unwrap_or((part, part));
            Some(a.trim().parse::<u32>().ok()?..=b.trim().parse::<u32>().ok()?)
        })
        .flatten()
        .collect()
}
