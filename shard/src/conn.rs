//! A connection with its read buffer, its write buffer and perhaps TLS; it can go to another shard.
//!
//! # Invariants
//! All state is in the value, none in a future: [`Conn::fill`] and [`Conn::flush`] may be dropped at any await
//! and called again, so a session waits for a command and for a notification at once. An idle connection
//! holds no buffer of ours. TLS records that belong together go out in one send.
//!
//! # Limits
//! [`RX_MAX`] octets read and not consumed, [`BACKLOG_MAX`] octets written and not sent.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

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
    tls: Option<Box<rustls::Connection>>,
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
    tls: Option<Box<rustls::Connection>>,
    rx: Vec<u8>,
    eof: bool,
}

impl Conn {
    pub fn new(stream: Stream) -> Conn {
        Conn {
            stream,
            tls: None,
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
        let result = match self.tls {
            Some(_) => self.poll_fill_tls(cx),
            None => self.poll_fill_plain(cx),
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
            }
            Poll::Ready(_) => {}
        }
        result
    }

    fn poll_fill_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.read_next.min(RX_MAX - self.rx.len());
        let read = if room <= READ_FIRST {
            let mut buffer = [0; READ_FIRST];
            let read = ready!(self.stream.poll_read(cx, &mut buffer[..room]))?;
            self.rx.extend_from_slice(&buffer[..read]);
            read
        } else {
            let held = self.rx.len();
            self.rx.resize(held + room, 0);
            let read = self.stream.poll_read(cx, &mut self.rx[held..]);
            self.rx.truncate(held + if let Poll::Ready(Ok(read)) = read { read } else { 0 });
            // One that does not fill half of it is back to lines, or has not sent yet.
            if let Poll::Ready(Ok(read)) = read
                && read < room / 2
            {
                self.read_next = READ_FIRST;
            }
            ready!(read)?
        };
        self.read_next = if read == room { (room * 2).min(READ_MAX) } else { self.read_next };
        Poll::Ready(Ok(read))
    }

    fn poll_fill_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(read) = self.take_decrypted()? {
                return Poll::Ready(Ok(read));
            }
            let tls = self.tls.as_mut().expect("checked by the caller");
            match tls.read_tls(&mut Reading { stream: &mut self.stream, cx }) {
                // A close without close_notify: what came is whole records, and lines end in CRLF.
                Ok(0) => return Poll::Ready(Ok(0)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
            let processed = tls.process_new_packets().map(drop);
            // Alerts, tickets and key updates; what the socket does not take now goes with the next flush.
            self.encrypt()?;
            if let Poll::Ready(Err(e)) = self.poll_send(cx) {
                processed.map_err(broken)?;
                return Poll::Ready(Err(e));
            }
            processed.map_err(broken)?;
            // A peer that provokes answers and does not read them.
            if self.backlog() > 2 * BACKLOG_MAX {
                return Poll::Ready(Err(BacklogFull.into()));
            }
        }
    }

    /// Moves decrypted octets to the read buffer: how many, 0 at the end, `None` where there are none yet.
    fn take_decrypted(&mut self) -> io::Result<Option<usize>> {
        let Some(tls) = self.tls.as_mut() else { return Ok(None) };
        let (held, mut buffer) = (self.rx.len(), [0; READ_FIRST]);
        loop {
            match tls.reader().read(&mut buffer) {
                Ok(0) if self.rx.len() == held => return Ok(Some(0)),
                Ok(0) => break,
                Ok(read) => self.rx.extend_from_slice(&buffer[..read]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
            if self.rx.len() >= RX_MAX {
                break;
            }
        }
        Ok((self.rx.len() > held).then(|| self.rx.len() - held))
    }

    /// Adds to what [`Conn::flush`] sends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BacklogFull> {
        if self.backlog() + bytes.len() > BACKLOG_MAX {
            return Err(BacklogFull);
        }
        match self.tls {
            Some(_) => self.plain.extend_from_slice(bytes),
            None => self.tx.extend_from_slice(bytes),
        }
        Ok(())
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
        self.encrypt()?;
        self.poll_send(cx)
    }

    /// Sends some of `bytes`, or puts them with what waits to be encrypted: how many were taken. What is not encrypted goes
    /// to the socket without a copy. Flush behind the last call.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.backlog() > 0 {
            ready!(self.poll_flush(cx))?;
        }
        if self.tls.is_none() {
            return self.stream.poll_write(cx, bytes);
        }
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.write(piece)?;
        Poll::Ready(Ok(piece.len()))
    }

    /// Sends what was written and then `bytes`, waiting for the peer as needed. If dropped, an unknown part of
    /// `bytes` was sent: the connection is then of no further use.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What was written already goes with it where both are small.
        if self.backlog() > 0 {
            if self.backlog() + bytes.len() <= PIECE {
                self.write(bytes)?;
                return self.flush().await;
            }
            self.flush().await?;
        }
        if self.tls.is_none() {
            return self.stream.write_all(bytes).await;
        }
        for piece in bytes.chunks(PIECE) {
            let tls = self.tls.as_mut().expect("looked at above");
            tls.writer().write_all(piece)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Turns everything written into records, and those into one buffer.
    fn encrypt(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut() else { return Ok(()) };
        if !self.plain.is_empty() {
            tls.writer().write_all(&self.plain)?;
            self.plain.clear();
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.tx)?;
        }
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
        let tls = ServerConnection::new(config).map_err(broken)?;
        self.shake_hands(rustls::Connection::Server(tls), within).await
    }

    /// The client's side.
    pub async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        within: Duration,
    ) -> io::Result<()> {
        self.flush().await?;
        let tls = ClientConnection::new(config, name).map_err(broken)?;
        self.shake_hands(rustls::Connection::Client(tls), within).await
    }

    async fn shake_hands(&mut self, mut tls: rustls::Connection, within: Duration) -> io::Result<()> {
        if self.tls.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS is active already"));
        }
        // The bound is BACKLOG_MAX, kept by `write`.
        tls.set_buffer_limit(None);
        let early = std::mem::take(&mut self.rx).split_off(std::mem::take(&mut self.rx_at));
        let mut early = &early[..];
        let (mut failed, mut tls) = (None, Box::new(tls));
        while !early.is_empty() && failed.is_none() {
            tls.read_tls(&mut early)?;
            failed = tls.process_new_packets().err();
        }
        self.tls = Some(tls);
        let shake = async {
            loop {
                self.flush().await?;
                if let Some(e) = failed.take() {
                    return Err(broken(e));
                }
                let tls = self.tls.as_mut().expect("set above");
                if !tls.is_handshaking() {
                    return Ok(());
                }
                let stream = &mut self.stream;
                let read = poll_fn(|cx| match tls.read_tls(&mut Reading { stream, cx }) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                    read => Poll::Ready(read),
                });
                if read.await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                failed = tls.process_new_packets().err();
            }
        };
        time::deadline(within, shake).await?
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn tls_info(&self) -> Option<TlsInfo> {
        let tls = self.tls.as_ref()?;
        let sni = match &**tls {
            rustls::Connection::Server(s) => s.server_name().map(str::to_owned),
            rustls::Connection::Client(_) => None,
        };
        Some(TlsInfo {
            version: tls.protocol_version().map_or(String::new(), |v| format!("{v:?}")),
            cipher: tls.negotiated_cipher_suite().map_or(String::new(), |c| format!("{:?}", c.suite())),
            sni,
            resumed: matches!(tls.handshake_kind(), Some(rustls::HandshakeKind::Resumed)),
        })
    }

    /// Takes the connection off this shard, everything sent, nothing read lost.
    pub async fn detach(mut self) -> io::Result<Moved> {
        self.flush().await?;
        let rx = self.rx.split_off(self.rx_at);
        Ok(Moved { stream: self.stream.detach()?, tls: self.tls, rx, eof: self.eof })
    }

    /// Takes a connection on to this shard.
    pub fn attach(moved: Moved) -> Conn {
        let Moved { stream, tls, rx, eof } = moved;
        Conn { tls, rx, eof, ..Conn::new(Stream::attach(stream)) }
    }

    /// Sends what was written, says goodbye in TLS, and tells the peer that nothing follows. Drop it then.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = self.tls.as_mut() {
            if !self.plain.is_empty() {
                tls.writer().write_all(&self.plain)?;
                self.plain.clear();
            }
            tls.send_close_notify();
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

/// The socket as rustls reads it: `WouldBlock` once the task is registered.
struct Reading<'a, 'b> {
    stream: &'a mut Stream,
    cx: &'a mut Context<'b>,
}

impl Read for Reading<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.poll_read(self.cx, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

fn broken(e: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}
