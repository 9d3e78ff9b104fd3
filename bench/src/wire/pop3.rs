//! A POP3 connection: commands, and answers of one line or many that are read past.

use std::io::Write;

use super::{Failure, Target, Tls, Wire};
use crate::users::Account;
use memchr::memchr;

pub struct Pop3 {
    pub wire: Wire,
    /// The last status line.
    text: Vec<u8>,
    skipper: BodySkipper,
}

impl Pop3 {
    pub async fn open(target: &Target) -> Result<Pop3, Failure> {
        let wire = target.connect().await?;
        let mut pop3 = Pop3 { wire, text: Vec::new(), skipper: BodySkipper::default() };
        target.greeting(pop3.expect("greeting")).await?;
        if target.tls == Tls::Starttls {
            pop3.command("STLS").await?;
            target.handshake(&mut pop3.wire).await?;
        }
        Ok(pop3)
    }

    pub async fn login(&mut self, account: &Account) -> Result<(), Failure> {
        self.command(&format!("USER {}", account.user)).await?;
        self.command(&format!("PASS {}", account.password)).await.map_err(|failure| match failure {
            Failure::Refused(_) => Failure::Refused(format!(
                "login of {} was refused: {}: see --user-pattern, --password and --account",
                account.user,
                self.words()
            )),
            other => other,
        })
    }

    /// A command with an answer of one line, which has to be `+OK`.
    pub async fn command(&mut self, command: &str) -> Result<(), Failure> {
        self.send(command).await?;
        self.expect(command.split(' ').next().unwrap_or(command)).await
    }

    /// A command with an answer of many lines. The answer's octets, its end included.
    pub async fn listing(&mut self, command: &str) -> Result<u64, Failure> {
        self.command(command).await?;
        self.body().await
    }

    /// STAT: how many messages.
    pub async fn stat(&mut self) -> Result<u32, Failure> {
        self.command("STAT").await?;
        let count = self.words().split(' ').nth(1).and_then(|word| word.parse().ok());
        count.ok_or_else(|| Failure::Unexpected(format!("to STAT: {}", self.words())))
    }

    /// Puts a command for a message into the send buffer.
    pub fn push(&mut self, command: &str, message: u32) {
        write!(self.wire.out, "{command} {message}\r\n").expect("a vector takes everything");
    }

    async fn send(&mut self, command: &str) -> Result<(), Failure> {
        write!(self.wire.out, "{command}\r\n").expect("a vector takes everything");
        self.wire.flush().await?;
        Ok(())
    }

    pub async fn expect(&mut self, to: &str) -> Result<(), Failure> {
        let end = loop {
            match memchr(b'\n', self.wire.unread()) {
                Some(end) => break end,
                None => self.wire.fill().await?,
            }
        };
        self.text.clear();
        self.text.extend_from_slice(&self.wire.unread()[..end]);
        self.wire.consume(end + 1);
        match self.text.starts_with(b"+OK") {
            true => Ok(()),
            false => Err(Failure::Refused(format!("{to}: {}", self.words()))),
        }
    }

    /// Reads past the lines up to the lonely dot.
    pub async fn body(&mut self) -> Result<u64, Failure> {
        let mut octets = 0;
        loop {
            let (taken, ended) = self.skipper.feed(self.wire.unread());
            self.wire.consume(taken);
            octets += taken as u64;
            if ended {
                return Ok(octets);
            }
            self.wire.fill().await?;
        }
    }

    fn words(&self) -> String {
        String::from_utf8_lossy(&self.text).trim_end().to_owned()
    }
}

/// Finds CRLF.CRLF, or .CRLF at the start.
#[derive(Default)]
struct BodySkipper {
    /// The line so far, as long as it may still be the lonely dot.
    line: Line,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    Dot,
    DotCr,
    Text,
}

impl BodySkipper {
    /// Octets taken, and whether the end was among them.
    fn feed(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            let octet = input[at];
            at += 1;
            self.line = match (self.line, octet) {
                (Line::Start, b'.') => Line::Dot,
                (Line::Dot, b'\r') => Line::DotCr,
                (Line::DotCr | Line::Dot, b'\n') => {
                    self.line = Line::Start;
                    return (at, true);
                }
                (_, b'\n') => Line::Start,
                _ => match memchr(b'\n', &input[at..]) {
                    Some(end) => {
                        at += end + 1;
                        Line::Start
                    }
                    None => {
                        at = input.len();
                        Line::Text
                    }
                },
            };
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lonely_dot_is_found_however_input_is_split() {
        for body in [&b".\r\n"[..], b"a\r\n.\r\n", b"..\r\n.a\r\n\r\n.\r\n", b"x.\r\n.\ry\r\n.\r\n"] {
            let input = [body, b"+OK next\r\n"].concat();
            for at in 0..body.len() {
                let mut skipper = BodySkipper::default();
                let (first, ended) = skipper.feed(&input[..at]);
                assert!(!ended && first == at, "{body:?} split at {at}");
                let (second, ended) = skipper.feed(&input[at..]);
                assert!(ended && first + second == body.len(), "{body:?} split at {at}");
            }
        }
    }
}
