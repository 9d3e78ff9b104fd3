//! As much HTTP/1.1 as the relay and a measuring client need: heads, bodies of a length or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// Octets of a head at most.
const HEAD_OCTETS_MAX: usize = 64 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The lines of a head with the empty one at its end; `None` where the connection has ended instead.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let read = from.by_ref().take(HEAD_OCTETS_MAX as u64).read_until(b'\n', &mut head)?;
        match (read, &head[before..]) {
            (0, _) if head.is_empty() => return Ok(None),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, b"\r\n") => return Ok(Some(String::from_utf8_lossy(&head).into_owned())),
            _ if head.len() > HEAD_OCTETS_MAX => return Err(io::Error::other("a head without an end")),
            _ => {}
        }
    }
}

/// A field of a head, whatever the case of its name.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Gives the octets of a body, as they stand on the wire, to `to`; how many they were.
pub fn copy_body(head: &str, from: &mut impl BufRead, to: &mut impl Write) -> io::Result<u64> {
    if field(head, "transfer-encoding").is_none() {
        let octets = field(head, "content-length").and_then(|octets| octets.parse().ok()).unwrap_or(0);
        return exactly(from, to, octets);
    }
    let mut all = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        to.write_all(line.as_bytes())?;
        let octets = u64::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16);
        let octets = octets.map_err(|_| io::Error::other("no chunk here"))?;
        // Each chunk ends with an empty line, and so does the list of them.
        exactly(from, to, octets + 2)?;
        all += octets;
        if octets == 0 {
            return Ok(all);
        }
    }
}

fn exactly(from: &mut impl BufRead, to: &mut impl Write, octets: u64) -> io::Result<u64> {
    let copied = io::copy(&mut from.take(octets), to)?;
    if copied == octets { Ok(octets) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Whether an answer to a request of this method has a body.
pub fn has_body(method: &str, head: &str) -> bool {
    let status = head.split(' ').nth(1).unwrap_or_default();
    method != "HEAD" && !matches!(status, "204" | "304") && !status.starts_with('1')
}

/// One connection, on which requests are asked one after another and unsigned.
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Client { address, stream: BufReader::new(stream) })
    }

    /// The body of an answer of any status, and the status.
    pub fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let (address, length) = (self.address, body.len());
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let Some(head) = read_head(&mut self.stream)? else { bail!("the store closed the connection") };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        ensure!(field(&head, "transfer-encoding").is_none(), "an answer in chunks, which nobody asked for");
        let mut octets = Vec::new();
        if has_body(method, &head) {
            copy_body(&head, &mut self.stream, &mut octets)?;
        }
        Ok((status, octets))
    }

    /// As [`Client::ask`]; any status but 200 and 204 is an error.
    pub fn done(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Vec<u8>> {
        let (status, octets) = self.ask(method, target, body)?;
        let said = String::from_utf8_lossy(&octets);
        ensure!(matches!(status, 200 | 204), "{method} {target}: {status} {said}");
        Ok(octets)
    }
}

/// All objects of a bucket, and their octets.
pub fn list(address: SocketAddr, bucket: &str) -> Result<Vec<(String, u64)>> {
    let mut client = Client::connect(address)?;
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let target = format!("/{bucket}?list-type=2&start-after={}", after.replace('/', "%2F"));
        let page = String::from_utf8(client.done("GET", &target, b"")?)?;
        all.extend(listed(&page));
        match all.last() {
            Some((last, _)) if page.contains("<IsTruncated>true") && *last != after => after.clone_from(last),
            _ => return Ok(all),
        }
    }
}

fn listed(page: &str) -> impl Iterator<Item = (String, u64)> {
    let inside = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
    };
    page.split("<Contents>")
        .skip(1)
        .filter_map(move |one| Some((inside(one, "Key")?, inside(one, "Size")?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_as_long_as_their_heads_say() {
        let copied = |head: &str, mut wire: &[u8]| {
            let mut to = Vec::new();
            let octets = copy_body(head, &mut wire, &mut to).unwrap();
            (octets, to, wire.to_vec())
        };
        let (octets, to, rest) = copied("PUT /x HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\n", b"abcdef");
        assert_eq!((octets, &to[..], &rest[..]), (3, &b"abc"[..], &b"def"[..]));
        let chunks = b"4\r\nabcd\r\n1;x\r\ne\r\n0\r\n\r\n";
        let (octets, to, rest) =
            copied("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &[&chunks[..], b"next"].concat());
        assert_eq!((octets, &to[..], &rest[..]), (5, &chunks[..], &b"next"[..]));
        assert_eq!(copied("GET / HTTP/1.1\r\n\r\n", b"next").0, 0);
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        let mut wire: &[u8] = b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\nrest";
        let head = read_head(&mut wire).unwrap().unwrap();
        assert!(!has_body("PUT", &head) && field(&head, "a") == Some("b") && wire == b"rest");
        assert!(read_head(&mut &b""[..]).unwrap().is_none());
        assert!(read_head(&mut &b"HTTP/1.1 2"[..]).is_err());
    }

    #[test]
    fn a_page_of_a_list_is_read() {
        let page = "<L><Contents><Key>a/b</Key><ETag>x</ETag><Size>17</Size></Contents><Contents><Key>c</Key><Size>0</Size>";
        assert_eq!(listed(page).collect::<Vec<_>>(), [("a/b".to_owned(), 17), ("c".to_owned(), 0)]);
    }
}
