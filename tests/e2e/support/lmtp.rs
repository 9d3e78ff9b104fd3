//! A small blocking LMTP client.

use std::net::SocketAddr;

use super::Fallible;
use super::connection::Connection;
use crate::fail;

pub struct Lmtp {
    pub connection: Connection,
}

impl Lmtp {
    pub fn open(address: SocketAddr) -> Fallible<Lmtp> {
        let mut lmtp = Lmtp { connection: Connection::open(address)? };
        lmtp.expect("220")?;
        lmtp.command("LHLO client.example.test", "250")?;
        Ok(lmtp)
    }

    /// A whole reply, its lines joined by newlines.
    pub fn reply(&mut self) -> Fallible<String> {
        let mut reply = String::new();
        loop {
            let line = self.connection.read_line()?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            reply.push_str(&line);
            if last {
                return Ok(reply);
            }
            reply.push('\n');
        }
    }

    fn expect(&mut self, code: &str) -> Fallible<String> {
        let reply = self.reply()?;
        if !reply.starts_with(code) {
            fail!("expected {code}: {reply}");
        }
        Ok(reply)
    }

    pub fn command(&mut self, line: &str, code: &str) -> Fallible<String> {
        self.connection.send_line(line)?;
        self.expect(code).map_err(|e| format!("{line}: {e}").into())
    }

    /// Delivers to every recipient; gives one reply for each, in order.
    pub fn deliver(&mut self, from: &str, to: &[&str], message: &[u8]) -> Fallible<Vec<String>> {
        self.command(&format!("MAIL FROM:<{from}>"), "250")?;
        for recipient in to {
            self.command(&format!("RCPT TO:<{recipient}>"), "250")?;
        }
        self.command("DATA", "354")?;
        self.connection.send(&stuffed(message))?;
        to.iter().map(|_| self.reply()).collect()
    }
}

/// Dot-stuffed, with the end of data.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 16);
    let mut line_start = true;
    for &b in message {
        if line_start && b == b'.' {
            out.push(b'.');
        }
        out.push(b);
        line_start = b == b'\n';
    }
    if !line_start {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}
