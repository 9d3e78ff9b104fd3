//! A connection with its read buffer, its write buffer, perhaps compression and perhaps TLS; it can go to another shard.
//!
//! # Invariants
//! All state is in the value, none in a future: [`Conn::fill`] and [`Conn::flush`] may be dropped at any await
//! and called again, so a session waits for a command and for a notification at once. An idle connection
//! holds no buffer, neither of plain octets nor of TLS records. TLS records that belong together go out in one send.
//!
//! # Limits
//! [`RX_MAX`] octets read and not consumed, [`BACKLOG_MAX`] octets written and not sent.

mod deflate;
mod tls;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use self::deflate::Deflate;
use self::tls::Tls;
use crate::net::{Detached, Stream};
use crate::time;

/// Octets that may be read and not consumed.
pub const RX_MAX: usize = 1 << 20;

/// Octets that may be written and not sent.
pub const BACKLOG_MAX: usize = 1 << 20;

/// The first read of a silent connection; doubles while the peer fills it, up to [`READ_MAX`].
const READ_FIRST: usize = 2 << 10;
const READ_MAX: usize = 64 << 10;
/// The next read of a peer that was just asked for a message.
const READ_MESSAGE: usize = 16 << 10;

/// Bodies are encrypted and sent in pieces of this size.
const PIECE: usize = 64 << 10;

/// How long the close of a TLS connection may take to be sent.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
pub struct Conn {
    stream: Stream,
    tls: Option<Box<Tls>>,
    deflate: Option<Box<Deflate>>,
    rx: Vec<u8>,
    rx_at: usize,
    read_next: usize,
    eof: bool,
    /// Plain octets not yet encrypted; unused without TLS.
    plain: Vec<u8>,
    tx: Vec<u8>,
    tx_at: usize,
}

/// More is written than may wait: flush first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {BACKLOG_MAX} octets wait to be sent")]
pub struct BacklogFull;

impl From<BacklogFull> for io::Error {
    fn from(e: BacklogFull) -> io::Error {
        io::Error::other(e)
    }
}

/// What TLS agreed on, for logs and the Received header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// As in `TLSv1_3`.
    pub version: String,
    /// As in `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The name the client asked for.
    pub sni: Option<String>,
    pub resumed: bool,
}

/// What the two ends of a TLS connection can bind an exchange of SASL to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsBindings {
    /// tls-exporter (RFC 9266): of TLS 1.3.
    pub exporter: Option<[u8; 32]>,
    /// tls-server-end-point (RFC 5929 §4): where the certificate's signature has a hash.
    pub end_point: Option<Vec<u8>>,
}

/// What [`Conn::take_rx`] lent.
pub struct Taken {
    bytes: Vec<u8>,
    at: usize,
}

impl std::ops::Deref for Taken {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

/// A connection between two shards. Dropped, it is closed.
pub struct Moved {
    stream: Detached,
    tls: Option<Box<Tls>>,
    deflate: Option<Box<Deflate>>,
    rx: Vec<u8>,
    eof: bool,
}

impl Conn {
    pub fn new(stream: Stream) -> Conn {
        Conn {
            stream,
            tls: None,
            deflate: None,
            rx: Vec::new(),
            rx_at: 0,
            read_next: READ_FIRST,
            eof: false,
            plain: Vec::new(),
            tx: Vec::new(),
            tx_at: 0,
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Octets that were read and not consumed.
    pub fn rx(&self) -> &[u8] {
        &self.rx[self.rx_at..]
    }

    /// # Panics
    /// Where `n` is more than [`Conn::rx`] holds.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.rx.len() - self.rx_at, "consumed more than was read");
        self.rx_at += n;
        if self.rx_at == self.rx.len() {
            self.rx.clear();
            self.rx_at = 0;
        }
    }

    /// Forgets what was read: what a client, or somebody between, sent in plain before TLS.
    pub fn discard_rx(&mut self) {
        self.consume(self.rx().len());
    }

    /// Lends what was read and not consumed, so that it can be looked at while the connection is written to. Nothing
    /// may be read before [`Conn::put_rx`] gives it back.
    pub fn take_rx(&mut self) -> Taken {
        Taken { bytes: std::mem::take(&mut self.rx), at: std::mem::take(&mut self.rx_at) }
    }

    /// Gives back what [`Conn::take_rx`] lent, of which `used` octets are done with.
    ///
    /// # Panics
    /// Where `used` is more than was lent, or something was read meanwhile.
    pub fn put_rx(&mut self, taken: Taken, used: usize) {
        assert!(self.rx.is_empty(), "read while the buffer was lent");
        (self.rx, self.rx_at) = (taken.bytes, taken.at);
        self.consume(used);
    }

    /// The peer is about to send more than a line: the next read takes more at once.
    pub fn expect_message(&mut self) {
        self.read_next = self.read_next.max(READ_MESSAGE);
    }

    /// Reads more into [`Conn::rx`]: how many octets, 0 at the end of the stream (for good). May be dropped.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` where the peer breaks TLS; `OutOfMemory` where [`RX_MAX`] octets are
    /// not consumed.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// See [`Conn::fill`].
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.rx().len() >= RX_MAX {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        if self.rx_at > 0 {
            self.rx.drain(..self.rx_at);
            self.rx_at = 0;
        }
        let result = match self.deflate {
            Some(_) => self.poll_fill_deflated(cx),
            None => self.poll_fill_wire(cx),
        };
        match &result {
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Pending => {
                if self.rx.is_empty() {
                    self.rx = Vec::new();
                }
                if self.backlog() == 0 {
                    (self.plain, self.tx, self.tx_at) = (Vec::new(), Vec::new(), 0);
                }
                if let Some(tls) = self.tls.as_mut() {
                    tls.rest();
                }
            }
            Poll::Ready(_) => {}
        }
        result
    }

    fn poll_fill_wire(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.tls {
            Some(_) => self.poll_fill_tls(cx),
            None => self.poll_fill_plain(cx),
        }
    }

    fn poll_fill_deflated(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            let held = self.rx.len();
            let deflate = self.deflate.as_mut().expect("checked by the caller");
            deflate.open(&mut self.rx, READ_MAX.min(RX_MAX - held))?;
            if self.rx.len() > held || deflate.has_ended() {
                return Poll::Ready(Ok(self.rx.len() - held));
            }
            // What comes from the wire is read where plain octets are.
            std::mem::swap(&mut self.rx, &mut deflate.wire);
            let read = self.poll_fill_wire(cx);
            let deflate = self.deflate.as_mut().expect("checked by the caller");
            std::mem::swap(&mut self.rx, &mut deflate.wire);
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    fn poll_fill_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.read_next.min(RX_MAX - self.rx.len());
        if room <= READ_FIRST {
            let mut buffer = [0; READ_FIRST];
            let read = ready!(self.stream.poll_read(cx, &mut buffer[..room]))?;
            self.rx.extend_from_slice(&buffer[..read]);
            self.pace(room, read);
            return Poll::Ready(Ok(read));
        }
        let held = self.rx.len();
        self.rx.resize(held + room, 0);
        let read = self.stream.poll_read(cx, &mut self.rx[held..]);
        self.rx.truncate(held + if let Poll::Ready(Ok(read)) = read { read } else { 0 });
        let read = ready!(read)?;
        self.pace(room, read);
        Poll::Ready(Ok(read))
    }

    /// Learns from a read how much the next one may take.
    fn pace(&mut self, room: usize, read: usize) {
        if read == room {
            self.read_next = (room * 2).min(READ_MAX);
        } else if room > READ_FIRST && read < room / 2 {
            // One that does not fill half of it is back to lines, or has not sent yet.
            self.read_next = READ_FIRST;
        }
    }

    fn poll_fill_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let held = self.rx.len();
        loop {
            let tls = self.tls.as_mut().expect("checked by the caller");
            let waiting = self.tx.len();
            let opened = tls.open(&mut self.rx, RX_MAX, &mut self.tx);
            let peer_closed = tls.peer_closed();
            // Alerts and tickets; what the socket does not take now goes with the next flush.
            let sent = if self.tx.len() > waiting { self.poll_send(cx) } else { Poll::Pending };
            opened.map_err(broken)?;
            if let Poll::Ready(Err(e)) = sent {
                return Poll::Ready(Err(e));
            }
            // A peer that provokes answers and does not read them.
            if self.backlog() > 2 * BACKLOG_MAX {
                return Poll::Ready(Err(BacklogFull.into()));
            }
            if self.rx.len() > held || peer_closed {
                return Poll::Ready(Ok(self.rx.len() - held));
            }
            // A close without close_notify: what came is whole records, and lines end in CRLF.
            if ready!(self.poll_read_tls(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    fn poll_read_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (tls, room) = (self.tls.as_mut().expect("checked by the caller"), self.read_next);
        let read = ready!(tls.poll_read(&mut self.stream, cx, room))?;
        self.pace(room, read);
        Poll::Ready(Ok(read))
    }

    /// Adds to what [`Conn::flush`] sends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BacklogFull> {
        if self.backlog() + bytes.len() > BACKLOG_MAX {
            return Err(BacklogFull);
        }
        let wire = if self.tls.is_some() { &mut self.plain } else { &mut self.tx };
        match &mut self.deflate {
            // It fails only where the library is used wrongly.
            Some(deflate) => deflate.seal(bytes, wire).map_err(|_| BacklogFull),
            None => {
                wire.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Octets written and not sent.
    pub fn backlog(&self) -> usize {
        self.plain.len() + self.tx.len() - self.tx_at
    }

    /// Sends what was written. May be dropped and called again.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// See [`Conn::flush`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let encrypted = self.encrypt();
        // Where that failed, an alert.
        let sent = self.poll_send(cx);
        encrypted?;
        sent
    }

    /// Sends some of `bytes`, or encrypts them to be sent: how many were taken. What is not encrypted goes to the socket
    /// without a copy. Flush behind the last call.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.backlog() > 0 {
            ready!(self.poll_flush(cx))?;
        }
        if self.deflate.is_some() {
            let piece = &bytes[..bytes.len().min(PIECE)];
            self.write(piece)?;
            return Poll::Ready(Ok(piece.len()));
        }
        let Some(tls) = self.tls.as_mut() else { return self.stream.poll_write(cx, bytes) };
        let piece = &bytes[..bytes.len().min(PIECE)];
        tls.seal(piece, &mut self.tx)?;
        Poll::Ready(Ok(piece.len()))
    }

    /// Sends what was written and then `bytes`, waiting for the peer as needed. If dropped, an unknown part of
    /// `bytes` was sent: the connection is then of no further use.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.deflate.is_none() {
            return self.write_all_wire(bytes).await;
        }
        for piece in bytes.chunks(PIECE) {
            let mut wire = Vec::new();
            if let Some(deflate) = self.deflate.as_mut() {
                deflate.seal(piece, &mut wire)?;
            }
            // A piece is a millisecond's work.
            crate::yield_if_needed().await;
            self.write_all_wire(&wire).await?;
        }
        Ok(())
    }

    async fn write_all_wire(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What was written already goes with it where both are small.
        if self.backlog() > 0 {
            if self.backlog() + bytes.len() <= PIECE {
                let wire = if self.tls.is_some() { &mut self.plain } else { &mut self.tx };
                wire.extend_from_slice(bytes);
                return self.flush().await;
            }
            self.flush().await?;
        }
        if self.tls.is_none() {
            return self.stream.write_all(bytes).await;
        }
        for piece in bytes.chunks(PIECE) {
            let tls = self.tls.as_mut().expect("looked at above");
            let sealed = tls.seal(piece, &mut self.tx);
            self.flush().await?;
            sealed?;
        }
        Ok(())
    }

    /// Turns everything written into records, and those into one buffer.
    fn encrypt(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut() else { return Ok(()) };
        tls.seal(&self.plain, &mut self.tx)?;
        self.plain.clear();
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tx_at < self.tx.len() {
            let wrote = ready!(self.stream.poll_write(cx, &self.tx[self.tx_at..]))?;
            self.tx_at += wrote;
        }
        self.tx.clear();
        self.tx_at = 0;
        Poll::Ready(Ok(()))
    }

    /// STARTTLS: sends what was written, forgets what was read, and shakes hands as the server.
    ///
    /// # Errors
    /// `TimedOut` after `within`; `InvalidData` where the peer breaks TLS. The connection is then to be dropped.
    pub async fn start_tls(&mut self, config: Arc<ServerConfig>, within: Duration) -> io::Result<()> {
        self.flush().await?;
        // RFC 3501 §6.2.1, RFC 2595 §4, RFC 3207 §4.2: nothing sent before TLS may count after it.
        self.discard_rx();
        self.accept_tls(config, within).await
    }

    /// TLS from the first octet; what was read already belongs to it.
    pub async fn accept_tls(&mut self, config: Arc<ServerConfig>, within: Duration) -> io::Result<()> {
        let early = self.early()?;
        self.shake_hands(Tls::server(config, early).map_err(broken)?, within).await
    }

    /// The client's side.
    pub async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        within: Duration,
    ) -> io::Result<()> {
        self.flush().await?;
        let early = self.early()?;
        self.shake_hands(Tls::client(config, name, early).map_err(broken)?, within).await
    }

    /// What was read already and belongs to TLS.
    fn early(&mut self) -> io::Result<Vec<u8>> {
        if self.tls.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS is active already"));
        }
        Ok(std::mem::take(&mut self.rx).split_off(std::mem::take(&mut self.rx_at)))
    }

    async fn shake_hands(&mut self, tls: Tls, within: Duration) -> io::Result<()> {
        self.tls = Some(Box::new(tls));
        let shake = async {
            loop {
                let tls = self.tls.as_mut().expect("set above");
                let shaken = tls.shake(&mut self.tx);
                let handshaking = tls.is_handshaking();
                self.flush().await?;
                shaken.map_err(broken)?;
                if !handshaking {
                    return Ok(());
                }
                if poll_fn(|cx| self.poll_read_tls(cx)).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        time::deadline(within, shake).await?
    }

    /// From now on what is written is compressed, and what is read has been (RFC 4978 §3). Flush before.
    pub fn start_deflate(&mut self) {
        let wire = std::mem::take(&mut self.rx).split_off(std::mem::take(&mut self.rx_at));
        self.deflate = Some(Box::new(Deflate::new(wire)));
    }

    /// The end of that. What was read and not inflated counts as it stands. Flush before.
    pub fn end_deflate(&mut self) {
        if let Some(deflate) = self.deflate.take() {
            self.rx.extend(deflate.into_wire());
        }
    }

    pub fn is_deflated(&self) -> bool {
        self.deflate.is_some()
    }

    /// The connection will be silent: what can be made again takes no memory. Everything is sent and consumed.
    pub fn rest(&mut self) {
        if let Some(deflate) = self.deflate.as_mut() {
            deflate.rest();
        }
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn tls_info(&self) -> Option<TlsInfo> {
        self.tls.as_ref().map(|tls| tls.info())
    }

    /// What an exchange of SASL can be bound to; nothing without TLS.
    pub fn tls_bindings(&self) -> TlsBindings {
        self.tls.as_ref().map(|tls| tls.bindings()).unwrap_or_default()
    }

    /// The peer's certificate in DER, where it has shown one and TLS has verified it.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.peer_certificate()
    }

    /// Octets of memory that its buffers take: none where nothing waits to be consumed or sent, once [`Conn::fill`] waits.
    pub fn buffers(&self) -> usize {
        let tls = self.tls.as_ref().map_or(0, |tls| tls.buffers());
        let deflate = self.deflate.as_ref().map_or(0, |deflate| deflate.buffers());
        self.rx.capacity() + self.plain.capacity() + self.tx.capacity() + tls + deflate
    }

    /// Takes the connection off this shard, everything sent, nothing read lost.
    pub async fn detach(mut self) -> io::Result<Moved> {
        self.flush().await?;
        let rx = self.rx.split_off(self.rx_at);
        if let Some(tls) = self.tls.as_mut() {
            tls.rest();
        }
        Ok(Moved { stream: self.stream.detach()?, tls: self.tls, deflate: self.deflate, rx, eof: self.eof })
    }

    /// Takes a connection on to this shard.
    pub fn attach(moved: Moved) -> Conn {
        let Moved { stream, tls, deflate, rx, eof } = moved;
        Conn { tls, deflate, rx, eof, ..Conn::new(Stream::attach(stream)) }
    }

    /// Sends what was written, says goodbye in TLS, and tells the peer that nothing follows. Drop it then.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = self.tls.as_mut() {
            tls.seal(&self.plain, &mut self.tx)?;
            self.plain.clear();
            tls.close(&mut self.tx)?;
        }
        time::deadline(SHUTDOWN_WITHIN, self.flush()).await??;
        self.stream.shutdown_write()
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("stream", &self.stream)
            .field("tls", &self.is_tls())
            .field("rx", &self.rx().len())
            .field("backlog", &self.backlog())
            .finish()
    }
}

fn broken(e: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}
