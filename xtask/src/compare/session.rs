//! A session by hand, for what the generator has no kind of work for.
//!
//! After the page cache was dropped a server may read at LOGIN, at SELECT or at the command itself, so the time is that of
//! all three.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::server::{PASSWORD, Server, loopback};

const DROP: &str = "/proc/sys/vm/drop_caches";
/// A first look at a large mailbox takes its time on some servers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether this process may drop the page cache.
pub fn may_drop() -> bool {
    fs::File::options().write(true).open(DROP).is_ok()
}

fn drop_page_cache() -> Result<()> {
    // Only what is on disk can be dropped.
    let status = Command::new("sync").status().context("sync")?;
    ensure!(status.success(), "sync: {status}");
    fs::write(DROP, "3\n").context(DROP)
}

/// The time of LOGIN, SELECT and the command on a server that was just started and has read nothing.
pub fn cold(server: &Server, user: &str, command: &str) -> Result<Duration> {
    drop_page_cache()?;
    let mut session = Session::open(server)?;
    let start = Instant::now();
    session.log_in(user)?;
    session.command("SELECT INBOX")?;
    session.command(command)?;
    let elapsed = start.elapsed();
    session.command("LOGOUT")?;
    Ok(elapsed)
}

/// The same session without the cold, which fills what a server keeps beside its messages.
pub fn warm(server: &Server, user: &str, command: &str) -> Result<()> {
    let mut session = Session::open(server)?;
    session.log_in(user)?;
    for one in ["SELECT INBOX", command, "LOGOUT"] {
        session.command(one)?;
    }
    Ok(())
}

/// How many messages a user's mailbox has.
pub fn exists(server: &Server, user: &str, mailbox: &str) -> Result<u64> {
    let mut session = Session::open(server)?;
    session.log_in(user)?;
    session.command(&format!("EXAMINE {mailbox}"))?;
    let exists = session.exists.context("EXAMINE told no EXISTS")?;
    session.command("LOGOUT")?;
    Ok(exists)
}

pub struct Session<S> {
    reader: BufReader<S>,
    line: Vec<u8>,
    exists: Option<u64>,
}

impl Session<TcpStream> {
    pub fn open(server: &Server) -> Result<Session<TcpStream>> {
        let stream = TcpStream::connect(loopback(server.ports.imap))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut session = Session::new(stream);
        session.read_line()?;
        Ok(session)
    }

    pub fn log_in(&mut self, user: &str) -> Result<()> {
        self.command(&format!("LOGIN {user} {PASSWORD}"))
    }

    pub fn command(&mut self, command: &str) -> Result<()> {
        self.reader.get_mut().write_all(format!("t {command}\r\n").as_bytes())?;
        self.answer().with_context(|| command.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

impl<S: Read> Session<S> {
    fn new(stream: S) -> Session<S> {
        Session { reader: BufReader::with_capacity(256 << 10, stream), line: Vec::new(), exists: None }
    }

    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line)?;
        ensure!(self.line.ends_with(b"\n"), "the server closed the connection");
        Ok(())
    }

    /// Reads to the tagged OK, stepping over literals, whose octets may look like anything.
    fn answer(&mut self) -> Result<()> {
        let mut continued = false;
        loop {
            self.read_line()?;
            let line = self.line.trim_ascii_end();
            let literal = literal_octets(line);
            if let Some(count) = line.strip_prefix(b"* ").and_then(|rest| rest.strip_suffix(b" EXISTS")) {
                self.exists = std::str::from_utf8(count)?.parse().ok();
            }
            if !continued && let Some(rest) = line.strip_prefix(b"t ") {
                if rest.starts_with(b"OK") {
                    return Ok(());
                }
                bail!("{}", String::from_utf8_lossy(rest));
            }
            continued = literal.is_some();
            if let Some(octets) = literal {
                let stepped = std::io::copy(&mut (&mut self.reader).take(octets), &mut std::io::sink())?;
                ensure!(stepped == octets, "the server closed the connection within a literal");
            }
        }
    }
}

fn literal_octets(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"}")?;
    let open = line.iter().rposition(|byte| *byte == b'{')?;
    std::str::from_utf8(&line[open + 1..]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<()> {
        Session::new(text.as_bytes()).answer()
    }

    #[test]
    fn a_literal_that_looks_like_an_answer_is_none() {
        answer("* 1 FETCH (BODY[] {6}\r\nt NO\r\n)\r\n* 2 FETCH (X {0}\r\n)\r\nt OK done\r\n").unwrap();
        let refused = answer("* 1 FETCH (BODY[] {6}\r\nt OK\r\n)\r\nt NO [LIMIT] enough\r\n").unwrap_err();
        assert_eq!(refused.to_string(), "NO [LIMIT] enough");
    }

    #[test]
    fn exists_is_heard() {
        let mut session = Session::new(&b"* FLAGS ()\r\n* 17 EXISTS\r\n* 0 RECENT\r\nt OK\r\n"[..]);
        session.answer().unwrap();
        assert_eq!(session.exists, Some(17));
    }

    #[test]
    fn an_end_within_an_answer_is_an_error() {
        for text in ["", "* 1 EXISTS\r\n", "* 1 FETCH (BODY[] {9}\r\nabc", "t OK"] {
            assert!(answer(text).is_err(), "{text:?}");
        }
    }
}
