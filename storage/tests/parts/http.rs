//! A small HTTP server for doubles of stores, that errs where it is told to.
//!
//! # Limits
//! One thread for a connection; bodies of up to [`BODY_OCTETS_MAX`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use percent_encoding::percent_decode_str;

const BODY_OCTETS_MAX: u64 = 128 << 20;
const LINE_OCTETS_MAX: u64 = 64 << 10;

pub struct Request {
    pub method: String,
    /// Decoded, without the query.
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Names are small.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first and the last octet of `Range: bytes=a-b`.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn text(status: u16, body: &str) -> Reply {
        Reply { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Octets of an object, or of the range of it that was asked for.
pub fn ranged(request: &Request, octets: &[u8]) -> Reply {
    match request.range() {
        None => Reply { body: octets.to_vec(), ..Reply::new(200) },
        Some((first, _)) if first >= octets.len() => Reply::new(416),
        Some((first, last)) => {
            let end = (last + 1).min(octets.len());
            let range = format!("bytes {first}-{}/{}", end - 1, octets.len());
            Reply { body: octets[first..end].to_vec(), ..Reply::new(206) }.with("content-range", range)
        }
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and body, and nothing else happens.
    Says(u16, String),
    /// No answer, and nothing else happens.
    Hangs,
    /// It happens, and the connection ends before the answer.
    CutAfter,
    /// The connection ends, and nothing happens.
    CutBefore,
    /// It happens; of the answer's body half comes, and then nothing.
    Stalls,
    /// An octet of its body is another one when it arrives.
    Garbles,
}

struct Planned {
    method: &'static str,
    part: String,
    times: u64,
    fault: Fault,
}

/// A server in threads of its own, until the process ends. Clones are the same.
pub struct Double<S> {
    pub port: u16,
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Double<S> {
    fn clone(&self) -> Double<S> {
        Double { port: self.port, shared: self.shared.clone() }
    }
}

struct Shared<S> {
    state: Mutex<S>,
    planned: Mutex<Vec<Planned>>,
    /// Requests that a connection takes before it is closed; 0 for no end.
    close_after: Mutex<u64>,
    met: Mutex<u64>,
}

/// What a store answers.
pub trait Service: Send + 'static {
    fn answer(&mut self, request: &Request) -> Reply;
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Service> Double<S> {
    pub fn start(state: S) -> Double<S> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            planned: Mutex::default(),
            close_after: Mutex::default(),
            met: Mutex::default(),
        });
        let of_threads = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = of_threads.clone();
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Double { port, shared }
    }

    /// The next requests of a method for a path with this part go wrong.
    pub fn plan(&self, method: &'static str, part: &str, times: u64, fault: Fault) {
        held(&self.shared.planned).push(Planned { method, part: part.to_owned(), times, fault });
    }

    /// Nothing goes wrong any more; how many requests did.
    pub fn heal(&self) -> u64 {
        held(&self.shared.planned).clear();
        std::mem::take(&mut *held(&self.shared.met))
    }

    pub fn close_after(&self, requests: u64) {
        *held(&self.shared.close_after) = requests;
    }

    pub fn state(&self) -> MutexGuard<'_, S> {
        held(&self.shared.state)
    }
}

impl<S: Service> Shared<S> {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        let mut taken = 0;
        while let Some(mut request) = read(&mut reader)? {
            taken += 1;
            let fault = self.fault(&request);
            match &fault {
                Some(Fault::Garbles) => request.body.iter_mut().take(1).for_each(|octet| *octet ^= 1),
                Some(Fault::Hangs) => {
                    // Until the client gives up.
                    let _ = reader.read(&mut [0]);
                    return Ok(());
                }
                Some(Fault::CutBefore) => return stream.shutdown(Shutdown::Both),
                _ => {}
            }
            let mut reply = match &fault {
                Some(Fault::Says(status, body)) => Reply::text(*status, body),
                _ => held(&self.state).answer(&request),
            };
            if matches!(fault, Some(Fault::CutAfter)) {
                return stream.shutdown(Shutdown::Both);
            }
            let last = *held(&self.close_after);
            let closes = last > 0 && taken >= last;
            if closes {
                reply = reply.with("connection", "close");
            }
            let head = request.method == "HEAD";
            if !head {
                reply = reply.with_length();
            }
            let mut out = format!("HTTP/1.1 {} X\r\n", reply.status).into_bytes();
            for (name, value) in &reply.headers {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            let body: &[u8] = if head { &[] } else { &reply.body };
            match fault {
                Some(Fault::Stalls) => {
                    out.extend_from_slice(&body[..body.len() / 2]);
                    stream.write_all(&out)?;
                    let _ = reader.read(&mut [0]);
                    return Ok(());
                }
                _ => out.extend_from_slice(body),
            }
            stream.write_all(&out)?;
            if closes {
                return stream.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut planned = held(&self.planned);
        let target = request.query.iter().fold(request.path.clone(), |mut target, (name, value)| {
            target.push_str(&format!("?{name}={value}"));
            target
        });
        let one = planned
            .iter_mut()
            .find(|one| one.times > 0 && one.method == request.method && target.contains(&one.part))?;
        one.times -= 1;
        *held(&self.met) += 1;
        Some(one.fault.clone())
    }
}

impl Reply {
    fn with_length(self) -> Reply {
        let octets = self.body.len();
        self.with("content-length", octets)
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.by_ref().take(LINE_OCTETS_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let query = query.split('&').filter(|word| !word.is_empty()).map(|word| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (decoded(name), decoded(value))
    });
    let mut request = Request {
        method: method.to_owned(),
        path: decoded(path),
        query: query.collect(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.by_ref().take(LINE_OCTETS_MAX).read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let octets: u64 = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    assert!(octets <= BODY_OCTETS_MAX, "a body of {octets} octets");
    request.body = vec![0; octets as usize];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
