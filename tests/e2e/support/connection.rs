//! One connection to a server: bytes out, lines (with their literals) in, every wait bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{ANSWER, Fallible, patient};
use crate::fail;

/// The longest answer a test reads into memory, in octets.
const UNIT_OCTETS_MAX: usize = 64 << 20;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Octets of `buffer` already given out.
    taken: usize,
    pub limit: Duration,
}

/// A line, or a line that goes on after each of its literals, without the last CRLF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    pub bytes: Vec<u8>,
    /// Where the literals' octets stand in `bytes`.
    pub literals: Vec<std::ops::Range<usize>>,
}

impl Unit {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn literal(&self, n: usize) -> Option<&[u8]> {
        self.literals.get(n).map(|range| &self.bytes[range.clone()])
    }

    /// On one line for people and patterns: literals as `{5}` and their octets, escaped.
    pub fn shown(&self) -> String {
        let mut out = String::new();
        let mut at = 0;
        for range in &self.literals {
            // The CRLF after the literal's size is not shown.
            let head = &self.bytes[at..range.start];
            out.push_str(&String::from_utf8_lossy(head.strip_suffix(b"\r\n").unwrap_or(head)));
            out.push_str(&escape(&self.bytes[range.clone()]));
            at = range.end;
        }
        out.push_str(&plain(&self.bytes[at..]));
        out
    }
}

/// Octets of a literal as shown in transcripts: `\r`, `\n`, `\0`, `\t`, `\\`, `\xNN`; UTF-8 as it is.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\r' => out.push_str("\\r"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\0' => out.push_str("\\0"),
                '\\' => out.push_str("\\\\"),
                c if (c as u32) < 0x20 => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

fn plain(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if (c as u32) < 0x20 { out.push_str(&format!("\\x{:02x}", c as u32)) } else { out.push(c) }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// What reading came to.
pub enum Read1 {
    Unit(Unit),
    /// The peer ended the connection.
    End,
    /// Nothing whole came within the time.
    Nothing,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Fallible<Connection> {
        let stream = TcpStream::connect_timeout(&address, ANSWER)
            .map_err(|e| format!("cannot connect to {address}: {e}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Connection { stream, buffer: Vec::new(), taken: 0, limit: patient(ANSWER) })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) -> Fallible {
        Ok(self.stream.write_all(bytes)?)
    }

    pub fn send_line(&mut self, line: &str) -> Fallible {
        self.send(&[line.as_bytes(), b"\r\n"].concat())
    }

    pub fn shutdown(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads more; `Ok(0)` is the end, `WouldBlock` is the deadline.
    fn fill(&mut self, end: Instant) -> io::Result<usize> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        let mut chunk = [0; 65536];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A reset is an end too: what came before it has been read.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// One line; with `literals`, an IMAP line together with its literals.
    pub fn read_within(&mut self, literals: bool, limit: Duration) -> Fallible<Read1> {
        let end = Instant::now() + limit;
        loop {
            if let Some((unit, used)) = whole(&self.buffer[self.taken..], literals) {
                self.taken += used;
                return Ok(Read1::Unit(unit));
            }
            if self.buffer.len() > UNIT_OCTETS_MAX {
                fail!("an answer of more than {UNIT_OCTETS_MAX} octets");
            }
            match self.fill(end) {
                Ok(0) if self.buffer.is_empty() => return Ok(Read1::End),
                Ok(0) => fail!("the connection ended in the middle of a line: {}", escape(&self.buffer)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= end {
                        return Ok(Read1::Nothing);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub fn read(&mut self, literals: bool) -> Fallible<Unit> {
        match self.read_within(literals, self.limit)? {
            Read1::Unit(unit) => Ok(unit),
            Read1::End => fail!("the server closed the connection"),
            Read1::Nothing => fail!("no answer within {:?}", self.limit),
        }
    }

    /// A plain line.
    pub fn read_line(&mut self) -> Fallible<String> {
        Ok(self.read(false)?.text())
    }

    /// Waits until the peer has closed; whatever still comes is given back.
    pub fn read_to_end(&mut self) -> Fallible<Vec<u8>> {
        let end = Instant::now() + self.limit;
        loop {
            match self.fill(end) {
                Ok(0) => return Ok(self.buffer.split_off(0)),
                Ok(_) if self.buffer.len() > UNIT_OCTETS_MAX => fail!("too much before the end"),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    fail!("the connection is still open after {:?}", self.limit)
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The first whole unit of `bytes` and how many octets it takes.
fn whole(bytes: &[u8], literals: bool) -> Option<(Unit, usize)> {
    let mut at = 0;
    let mut ranges = Vec::new();
    loop {
        let lf = at + bytes[at..].iter().position(|&b| b == b'\n')?;
        let line_end = if lf > at && bytes[lf - 1] == b'\r' { lf - 1 } else { lf };
        match literal_size(&bytes[at..line_end]) {
            Some(size) if literals => {
                let start = lf + 1;
                if bytes.len() < start + size {
                    return None;
                }
                ranges.push(start..start + size);
                at = start + size;
            }
            _ => return Some((Unit { bytes: bytes[..line_end].to_vec(), literals: ranges }, lf + 1)),
        }
    }
}

fn literal_size(line: &[u8]) -> Option<usize> {
    let inner = line.strip_suffix(b"}")?;
    let open = inner.iter().rposition(|&b| b == b'{')?;
    std::str::from_utf8(&inner[open + 1..]).ok()?.parse().ok()
}
