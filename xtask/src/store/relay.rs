//! A relay between a node and its store, which counts every request, and may hold each up for a fixed time.
//!
//! # Invariants
//! A request is held up before it is sent on, each by itself: what a node asks for together is late together, what it asks
//! for in turn is late in turn. So time divided by the delay, rounded down, is how many round trips stood in sequence.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::http;

/// Requests by kind (as `culver cost` names it).
pub type Counts = BTreeMap<&'static str, u64>;

struct Inner {
    store: SocketAddr,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    counts: Mutex<Counts>,
}

pub struct Relay {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

impl Relay {
    pub fn start(store: SocketAddr) -> Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            store,
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            counts: Mutex::default(),
        });
        let accepting = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let inner = accepting.clone();
                // An end of either side ends the other; who asked sees it as of the store.
                thread::spawn(move || stream.and_then(|stream| inner.serve(stream)));
            }
        });
        Ok(Relay { address, inner })
    }

    pub fn hold_up(&self, delay: Duration) {
        self.inner.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Requests that the store has answered since the beginning.
    pub fn counts(&self) -> Counts {
        self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Inner {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let store = TcpStream::connect(self.store)?;
        store.set_nodelay(true)?;
        let (mut to_client, mut to_store) = (client.try_clone()?, store.try_clone()?);
        let (mut client, mut store) = (BufReader::new(client), BufReader::with_capacity(256 << 10, store));
        while let Some(head) = http::read_head(&mut client)? {
            let mut request = head.clone().into_bytes();
            http::copy_body(&head, &mut client, &mut request)?;
            thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
            to_store.write_all(&request)?;
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let Some(answer) = http::read_head(&mut store)? else { return Ok(()) };
            *self
                .counts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(kind(method, target))
                .or_default() += 1;
            to_client.write_all(answer.as_bytes())?;
            if http::has_body(method, &answer) {
                http::copy_body(&answer, &mut store, &mut to_client)?;
            }
        }
        Ok(())
    }
}

fn kind(method: &str, target: &str) -> &'static str {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let lists = query.split('&').any(|part| part.starts_with("list-type") || part.starts_with("prefix="));
    match method {
        "GET" if lists => "list",
        "GET" => "get",
        "PUT" => "put",
        "HEAD" => "head",
        // Deletion of many is a POST.
        "DELETE" | "POST" => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    #[test]
    fn requests_are_of_the_kinds_that_are_billed() {
        for (method, target, expected) in [
            ("PUT", "/mail/journal/a/1", "put"),
            ("GET", "/mail/data/1/2", "get"),
            ("GET", "/mail?list-type=2&prefix=x", "list"),
            ("POST", "/mail?delete", "delete"),
            ("DELETE", "/mail/x", "delete"),
            ("HEAD", "/mail/x", "head"),
        ] {
            assert_eq!(kind(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn requests_are_passed_on_counted_and_held_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let store = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut octets = [0; 4096];
            while stream.read(&mut octets).unwrap() > 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        });
        let relay = Relay::start(store).unwrap();
        let mut client = http::Client::connect(relay.address).unwrap();
        assert_eq!(client.done("PUT", "/b/k", b"octets").unwrap(), b"ok");
        relay.hold_up(Duration::from_millis(30));
        let began = Instant::now();
        assert_eq!(client.done("GET", "/b/k", b"").unwrap(), b"ok");
        assert!(began.elapsed() >= Duration::from_millis(30));
        assert_eq!(relay.counts(), Counts::from([("get", 1), ("put", 1)]));
    }
}
