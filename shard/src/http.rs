//! HTTP/1.1 as a client: connections of one shard, kept and used again.
//!
//! # Invariants
//! One request is on a connection at a time; a connection on which anything went wrong is not used again. A request that
//! was not answered on a connection that had been idle may be sent once more on another one: it is for requests that
//! mean the same when they are made twice.
//!
//! # Limits
//! [`CONNECTIONS_IDLE_MAX`] idle connections, given up after [`IDLE_MAX`]; [`CONNECT_WITHIN`], [`STALL_MAX`];
//! [`HEAD_OCTETS_MAX`] octets of an answer's head. The body of an answer is bounded by who asks.

mod endpoint;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::HeaderMap;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, StatusCode};
use rustls::{ClientConfig, pki_types::ServerName};

use crate::conn::Conn;
use crate::disk::File;
use crate::sync::oneshot;
use crate::{Queue, annex, net, spawn, time};

pub use endpoint::Endpoint;

/// How long a connection may take to be made, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may make no progress.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Idle connections of a shard.
const CONNECTIONS_IDLE_MAX: usize = 64;
/// Servers close idle connections after 25 s and more; one that is closed while a request is on its way costs a retry.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// How long addresses of a name are used.
const ADDRESSES_MAX: Duration = Duration::from_secs(30);
const HEAD_OCTETS_MAX: usize = 64 << 10;
/// Octets of a file that are sent as one piece.
const PIECE_OCTETS: usize = 1 << 20;

/// What is sent: pieces in memory, or a file.
#[derive(Clone)]
pub enum Octets {
    Pieces(Vec<Bytes>),
    /// So many octets of the file from an offset.
    File {
        file: Rc<File>,
        offset: u64,
        octets: u64,
    },
}

impl Octets {
    pub fn none() -> Octets {
        Octets::Pieces(Vec::new())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> u64 {
        match self {
            Octets::Pieces(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Octets::File { octets, .. } => *octets,
        }
    }

    /// Goes through the octets, in pieces.
    pub async fn each(&self, mut look: impl FnMut(&[u8])) -> std::io::Result<()> {
        match self {
            Octets::Pieces(pieces) => {
                for piece in pieces.iter().flat_map(|piece| piece.chunks(PIECE_OCTETS / 8)) {
                    look(piece);
                    crate::yield_if_needed().await;
                }
            }
            Octets::File { file, offset, octets } => {
                let mut at = 0;
                while at < *octets {
                    let piece = read_piece(file.clone(), offset + at, octets - at).await?;
                    for piece in piece.chunks(PIECE_OCTETS / 8) {
                        look(piece);
                        crate::yield_if_needed().await;
                    }
                    at += piece.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// All of them in one piece of memory; for what is known to be small.
    pub async fn collect(&self) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::with_capacity(self.len() as usize);
        self.each(|piece| all.extend_from_slice(piece)).await?;
        Ok(all)
    }
}

impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Octets {
        Octets::Pieces(vec![octets.into()])
    }
}

/// A piece of a file, which must be that long.
async fn read_piece(file: Rc<File>, at: u64, rest: u64) -> std::io::Result<Vec<u8>> {
    let wanted = (PIECE_OCTETS as u64).min(rest) as usize;
    let piece = file.read_at(at, wanted).await?;
    match piece.len() == wanted {
        true => Ok(piece),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

type Reading = Pin<Box<dyn Future<Output = std::io::Result<Vec<u8>>>>>;

/// A request's body.
pub struct Sent {
    pieces: VecDeque<Bytes>,
    file: Option<(Rc<File>, u64)>,
    reading: Option<Reading>,
    left: u64,
}

impl From<&Octets> for Sent {
    fn from(octets: &Octets) -> Sent {
        let (pieces, file) = match octets {
            Octets::Pieces(pieces) => {
                (pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect(), None)
            }
            Octets::File { file, offset, .. } => (VecDeque::new(), Some((file.clone(), *offset))),
        };
        Sent { pieces, file, reading: None, left: octets.len() }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(piece) = self.pieces.pop_front() {
            self.left -= piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some((file, at)) = self.file.clone() else { return Poll::Ready(None) };
        let left = self.left;
        let reading = self.reading.get_or_insert_with(|| Box::pin(read_piece(file.clone(), at, left)));
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        Poll::Ready(Some(read.map(|piece| {
            self.left -= piece.len() as u64;
            self.file = Some((file, at + piece.len() as u64));
            Frame::data(piece.into())
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is no answer. Whether the request had an effect is not known.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0} has no address: {1}")]
    Name(String, String),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// A person acts: the certificate is not one that is trusted for this name.
    #[error("TLS with {0}: {1}")]
    Certificate(String, std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no progress for {} s", STALL_MAX.as_secs())]
    Stalled,
    #[error("an answer of more than {0} octets")]
    TooLong(usize),
}

/// Connections of this shard to one endpoint. Clones share them.
#[derive(Clone)]
pub struct Http(Rc<Inner>);

struct Inner {
    endpoint: Endpoint,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    idle: RefCell<Vec<(Line, time::Instant)>>,
    addresses: RefCell<Addresses>,
}

/// A connection that was made, and what ends its task: one that is given up in the middle of an answer would wait for the rest.
struct Line {
    sender: SendRequest<Sent>,
    _held: oneshot::Sender<()>,
}

#[derive(Default)]
struct Addresses {
    known: Vec<SocketAddr>,
    since: Option<time::Instant>,
    next: usize,
}

impl Http {
    /// `tls` where the endpoint wants it.
    pub fn new(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Http, HttpError> {
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(endpoint.host.clone());
                Some((config, name.map_err(|e| HttpError::Name(endpoint.host.clone(), e.to_string()))?))
            }
        };
        Ok(Http(Rc::new(Inner { endpoint, tls, idle: RefCell::default(), addresses: RefCell::default() })))
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Sends a request and takes the whole answer, whose body may have up to `octets_max` octets. `make` makes the request:
    /// it is asked a second time where an idle connection turned out to be closed.
    pub async fn exchange(
        &self,
        make: impl Fn() -> Request<Sent>,
        octets_max: usize,
    ) -> Result<Answer, HttpError> {
        if let Some(line) = self.idle() {
            match self.on(line, make(), octets_max).await {
                Err(HttpError::Broken(_)) => {}
                other => return other,
            }
        }
        let line = self.connect().await?;
        self.on(line, make(), octets_max).await
    }

    async fn on(
        &self,
        mut line: Line,
        request: Request<Sent>,
        octets_max: usize,
    ) -> Result<Answer, HttpError> {
        let broken = |error: hyper::Error| HttpError::Broken(with_sources(&error));
        // A body of some size on a slow line is progress that cannot be seen from here: so much time it may take.
        let octets = request.body().left;
        let within = STALL_MAX + Duration::from_millis(octets >> 10);
        let sent = time::deadline(within, async {
            line.sender.ready().await?;
            line.sender.send_request(request).await
        });
        let response = sent.await.map_err(|_| HttpError::Stalled)?.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = collect(body, octets_max).await?;
        self.keep(line);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn idle(&self) -> Option<Line> {
        let mut idle = self.0.idle.borrow_mut();
        idle.retain(|(line, since)| since.elapsed() < IDLE_MAX && !line.sender.is_closed());
        // The newest: those that are not needed grow old and go.
        idle.pop().map(|(line, _)| line)
    }

    fn keep(&self, line: Line) {
        let mut idle = self.0.idle.borrow_mut();
        if idle.len() < CONNECTIONS_IDLE_MAX && !line.sender.is_closed() {
            idle.push((line, time::now()));
        }
    }

    async fn connect(&self) -> Result<Line, HttpError> {
        let address = self.address().await?;
        let failed = |error: std::io::Error| HttpError::Connect(address, error);
        let connected = time::deadline(CONNECT_WITHIN, net::connect(address)).await;
        let stream = match connected.map_err(Into::into).and_then(|connected| connected) {
            Ok(stream) => stream,
            Err(error) => {
                // Others of its addresses may answer, and the name may have new ones.
                self.0.addresses.borrow_mut().since = None;
                return Err(failed(error));
            }
        };
        let mut conn = Conn::new(stream);
        if let Some((config, name)) = &self.0.tls {
            let shaken = conn.connect_tls(config.clone(), name.clone(), CONNECT_WITHIN).await;
            shaken.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    HttpError::Certificate(self.0.endpoint.host.clone(), error)
                }
                _ => failed(error),
            })?;
        }
        let mut builder = Builder::new();
        builder.max_headers(128).max_buf_size(HEAD_OCTETS_MAX.max(PIECE_OCTETS / 4));
        let (sender, connection) =
            builder.handshake(Wire(conn)).await.map_err(|error| HttpError::Broken(error.to_string()))?;
        let (held, mut given_up) = oneshot::channel::<()>();
        let driven = async move {
            let mut connection = std::pin::pin!(connection);
            let ended = std::future::poll_fn(|cx| match Pin::new(&mut given_up).poll(cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => connection.as_mut().poll(cx),
            });
            if let Err(error) = ended.await {
                tracing::debug!(error = with_sources(&error), "an HTTP connection ended");
            }
        };
        spawn(Queue::Interactive, "http connection", driven).detach();
        Ok(Line { sender, _held: held })
    }

    /// One of the endpoint's addresses, in turn.
    async fn address(&self) -> Result<SocketAddr, HttpError> {
        let Endpoint { host, port, .. } = &self.0.endpoint;
        if let Ok(address) = host.parse() {
            return Ok(SocketAddr::new(address, *port));
        }
        let fresh =
            |addresses: &Addresses| addresses.since.is_some_and(|since| since.elapsed() < ADDRESSES_MAX);
        if !fresh(&self.0.addresses.borrow()) {
            let name = (host.clone(), *port);
            let looked = annex::run(move || {
                std::net::ToSocketAddrs::to_socket_addrs(&name).map(|found| found.collect::<Vec<_>>())
            });
            let found = match looked.await {
                Ok(Ok(found)) if !found.is_empty() => Ok(found),
                Ok(Ok(_)) => Err("none".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let mut addresses = self.0.addresses.borrow_mut();
            match found {
                Ok(found) => {
                    addresses.known = found;
                    addresses.since = Some(time::now());
                }
                // What was known may still be right where the resolver is down.
                Err(what) if addresses.known.is_empty() => return Err(HttpError::Name(host.clone(), what)),
                Err(_) => {}
            }
        }
        let mut addresses = self.0.addresses.borrow_mut();
        addresses.next = addresses.next.wrapping_add(1);
        Ok(addresses.known[addresses.next % addresses.known.len()])
    }
}

async fn collect(mut body: Incoming, octets_max: usize) -> Result<Vec<u8>, HttpError> {
    let expected = body.size_hint().exact().unwrap_or(0).min(octets_max as u64);
    let mut all = Vec::with_capacity(expected as usize);
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = time::deadline(STALL_MAX, frame).await.map_err(|_| HttpError::Stalled)? else {
            return Ok(all);
        };
        let frame = frame.map_err(|error| HttpError::Broken(with_sources(&error)))?;
        if let Some(data) = frame.data_ref() {
            if all.len() + data.len() > octets_max {
                return Err(HttpError::TooLong(octets_max));
            }
            all.extend_from_slice(data);
        }
    }
}

/// An error with what caused it: hyper's own words leave that out.
fn with_sources(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}

/// A connection as hyper sees it.
struct Wire(Conn);

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let conn = &mut self.get_mut().0;
        if conn.rx().is_empty() && ready!(conn.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let octets = conn.rx().len().min(to.remaining());
        to.put_slice(&conn.rx()[..octets]);
        conn.consume(octets);
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<std::io::Result<usize>> {
        self.get_mut().0.poll_write(cx, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().0.poll_flush(cx)
    }

    /// What is dropped is closed.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().0.poll_flush(cx)
    }
}
