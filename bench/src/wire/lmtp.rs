//! An LMTP connection: LHLO, then messages, pipelined where the server offers it.

use std::time::Instant;

use super::{Failure, Target, Tls, Wire};
use memchr::memchr;

pub struct Lmtp {
    wire: Wire,
    pipelining: bool,
    /// The last line of the last reply, for those who ask why.
    text: Vec<u8>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub accepted: u32,
    pub refused: u32,
    /// The write that took the final dot; where no recipient was accepted, the one that asked.
    pub sent: Option<Instant>,
}

impl Lmtp {
    pub async fn open(target: &Target) -> Result<Lmtp, Failure> {
        let wire = target.connect().await?;
        let mut lmtp = Lmtp { wire, pipelining: false, text: Vec::new() };
        target.greeting(lmtp.expect(220, "greeting")).await?;
        if target.tls == Tls::Starttls {
            lmtp.greet().await?;
            lmtp.wire.out.extend_from_slice(b"STARTTLS\r\n");
            lmtp.wire.flush().await?;
            lmtp.expect(220, "STARTTLS").await?;
            target.handshake(&mut lmtp.wire).await?;
        }
        lmtp.greet().await?;
        Ok(lmtp)
    }

    async fn greet(&mut self) -> Result<(), Failure> {
        self.wire.out.extend_from_slice(b"LHLO bench.example.test\r\n");
        self.wire.flush().await?;
        self.pipelining = false;
        self.expect(250, "LHLO").await
    }

    /// Delivers a message, given with its dots stuffed and its final dot.
    pub async fn deliver(&mut self, envelope: &Envelope, stuffed: &[u8]) -> Result<Delivered, Failure> {
        let mut done = Delivered::default();
        let mut replies = [0u16; 2];
        if self.pipelining {
            self.wire.out.extend_from_slice(&envelope.octets);
            done.sent = Some(self.wire.flush().await?);
            replies[0] = self.reply().await?;
            for _ in 0..envelope.recipients {
                self.count(&mut done).await?;
            }
            replies[1] = self.reply().await?;
        } else {
            for (n, line) in envelope.octets.split_inclusive(|b| *b == b'\n').enumerate() {
                self.wire.out.extend_from_slice(line);
                done.sent = Some(self.wire.flush().await?);
                match n as u32 {
                    0 => replies[0] = self.reply().await?,
                    n if n <= envelope.recipients => self.count(&mut done).await?,
                    _ => replies[1] = self.reply().await?,
                }
            }
        }
        if replies[0] / 100 != 2 || replies[1] != 354 {
            done.refused = envelope.recipients;
            if replies[1] == 354 {
                // A server is free to take DATA after all (RFC 2033): an empty message ends it.
                self.wire.out.extend_from_slice(b".\r\n");
                self.wire.flush().await?;
                self.reply().await?;
            }
            return Ok(done);
        }
        self.wire.out.extend_from_slice(stuffed);
        done.sent = Some(self.wire.flush().await?);
        // One reply for each recipient that was accepted.
        for _ in 0..std::mem::take(&mut done.accepted) {
            self.count(&mut done).await?;
        }
        Ok(done)
    }

    async fn count(&mut self, done: &mut Delivered) -> Result<(), Failure> {
        match self.reply().await? / 100 {
            2 => done.accepted += 1,
            _ => done.refused += 1,
        }
        Ok(())
    }

    /// Octets received and sent so far.
    pub fn octets(&self) -> (u64, u64) {
        (self.wire.octets_in, self.wire.octets_out)
    }

    pub fn words(&self) -> String {
        String::from_utf8_lossy(&self.text).trim_end().to_owned()
    }

    async fn expect(&mut self, code: u16, to: &str) -> Result<(), Failure> {
        match self.reply().await? {
            found if found == code => Ok(()),
            _ => Err(Failure::Unexpected(format!("to {to}: {}", self.words()))),
        }
    }

    /// The code of the next reply. Capabilities are noticed on the way.
    async fn reply(&mut self) -> Result<u16, Failure> {
        loop {
            let Some(end) = memchr(b'\n', self.wire.unread()) else {
                self.wire.fill().await?;
                continue;
            };
            let line = &self.wire.unread()[..end];
            let digits = line.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
            let Some(code) = digits else {
                return Err(Failure::Unexpected(String::from_utf8_lossy(line).into_owned()));
            };
            let more = line.get(3) == Some(&b'-');
            if line.get(4..14).is_some_and(|word| word.eq_ignore_ascii_case(b"PIPELINING")) {
                self.pipelining = true;
            }
            if !more {
                self.text.clear();
                self.text.extend_from_slice(line);
            }
            self.wire.consume(end + 1);
            if !more {
                return Ok(code);
            }
        }
    }
}

/// MAIL, RCPT and DATA, ready to send.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    octets: Vec<u8>,
    recipients: u32,
}

impl Envelope {
    pub fn clear(&mut self) {
        self.octets.clear();
        self.octets.extend_from_slice(b"MAIL FROM:<bench@example.test>\r\n");
        self.recipients = 0;
    }

    pub fn recipient(&mut self, user: &str) {
        for part in ["RCPT TO:<", user, ">\r\n"] {
            self.octets.extend_from_slice(part.as_bytes());
        }
        self.recipients += 1;
    }

    pub fn finish(&mut self) {
        self.octets.extend_from_slice(b"DATA\r\n");
    }
}
