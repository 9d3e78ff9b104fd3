//! A gate between a node and its store: a TCP relay that can be shut, hold octets up, or answer 503 in the store's place.
//!
//! # Limits
//! [`CONNECTIONS_MAX`] at a time; more are turned away.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Fallible;

const CONNECTIONS_MAX: usize = 512;
/// The longest head of a request, in octets.
const HEAD_OCTETS_MAX: usize = 64 << 10;
/// Between two looks at whether held octets may go on.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Connections are reset, and new ones ended at once.
    Cut,
    /// Connections stay, and what is sent on them in either direction comes when the gate is open again.
    Hang,
    /// Requests are answered 503.
    Unavailable,
}

struct Inner {
    mode: Mutex<Mode>,
    store: SocketAddr,
    ended: AtomicBool,
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Vec<TcpStream>>>,
}

pub struct Gate {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

impl Gate {
    pub fn new(store: SocketAddr) -> Fallible<Gate> {
        Gate::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, store)
    }

    /// A gate whose near side listens there.
    pub fn on(listener: TcpListener, store: SocketAddr) -> Fallible<Gate> {
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            mode: Mutex::new(Mode::Open),
            store,
            ended: AtomicBool::new(false),
            next: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        let accepting = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let inner = accepting.clone();
                    thread::spawn(move || inner.serve(stream));
                }
            }
        });
        Ok(Gate { address, inner })
    }

    pub fn set(&self, mode: Mode) {
        let before = std::mem::replace(&mut *self.inner.mode.lock().expect("no panic while held"), mode);
        if before != Mode::Hang && mode != Mode::Hang {
            self.inner.end_all();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
        self.set(Mode::Cut);
        self.inner.end_all();
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Inner {
    fn mode(&self) -> Mode {
        *self.mode.lock().expect("no panic while held")
    }

    fn end_all(&self) {
        for stream in self.streams.lock().expect("no panic while held").values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Serves one connection to its end.
    fn serve(&self, stream: TcpStream) {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        let Ok(known) = stream.try_clone() else { return };
        {
            let mut streams = self.streams.lock().expect("no panic while held");
            if streams.len() >= CONNECTIONS_MAX {
                return;
            }
            streams.insert(id, vec![known]);
        }
        // The mode is looked at when the connection is known: who changes it ends all that it knows.
        match self.mode() {
            Mode::Cut => {}
            Mode::Unavailable => drop(self.refuse(stream)),
            Mode::Open | Mode::Hang => self.relay(id, stream),
        }
        self.streams.lock().expect("no panic while held").remove(&id);
    }

    fn relay(&self, id: u64, stream: TcpStream) {
        let Ok(store) = TcpStream::connect(self.store) else { return };
        let _ = store.set_nodelay(true);
        let (Ok(known), Ok(from), Ok(to)) = (store.try_clone(), store.try_clone(), stream.try_clone()) else {
            return;
        };
        if let Some(streams) = self.streams.lock().expect("no panic while held").get_mut(&id) {
            streams.push(known);
        }
        thread::scope(|scope| {
            scope.spawn(|| self.pump(from, to));
            self.pump(stream, store);
        });
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut octets = [0; 65536];
        loop {
            let read = match from.read(&mut octets) {
                Ok(read) if read > 0 => read,
                _ => break,
            };
            while self.mode() == Mode::Hang {
                thread::sleep(LOOK);
            }
            if self.mode() != Mode::Open || to.write_all(&octets[..read]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Answers every request with 503, as a store that wants to be spared.
    fn refuse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        const SLOW_DOWN: &str =
            "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let mut octets = Vec::new();
        let mut chunk = [0; 65536];
        loop {
            let end = loop {
                if let Some(at) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                let read = stream.read(&mut chunk)?;
                if read == 0 || octets.len() > HEAD_OCTETS_MAX {
                    return Ok(());
                }
                octets.extend_from_slice(&chunk[..read]);
            };
            let head = String::from_utf8_lossy(&octets[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let mut left = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0usize);
            octets.drain(..end);
            let here = left.min(octets.len());
            octets.drain(..here);
            left -= here;
            while left > 0 {
                let most = left.min(chunk.len());
                let read = stream.read(&mut chunk[..most])?;
                if read == 0 {
                    return Ok(());
                }
                left -= read;
            }
            let body = if head.starts_with("head ") { "" } else { SLOW_DOWN };
            let answer = format!(
                "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{body}",
                SLOW_DOWN.len()
            );
            stream.write_all(answer.as_bytes())?;
        }
    }
}
