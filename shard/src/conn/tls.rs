//! TLS of a connection: rustls without buffers of its own, so that a connection that waits holds none.
//!
//! Ciphertext is decrypted where it was read. Records go straight to the connection's send buffer, in the order in which
//! they were encrypted.
//!
//! # Invariants
//! After each call rustls holds neither records to be sent nor decrypted octets: but for the answer to a KeyUpdate, which
//! goes with the next octets that are sent. Once anything failed, the alert is in the send buffer and rustls is not asked again:
//! what it was given is decrypted in place, and would fail otherwise.
//!
//! # Limits
//! [`HELD_MAX`] octets of ciphertext read and not decrypted.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::{READ_FIRST, TlsBindings, TlsInfo};
use crate::certificate;
use crate::net::Stream;
use crate::tls::seen_by;

/// A record takes up to 18 KiB, a message of the handshake in several records up to this.
const HELD_MAX: usize = 64 << 10;

/// Of an encrypted record, and what each takes more than its text (TLS 1.2 with AES-GCM: 29).
const FRAGMENT: usize = 16 << 10;
const OVERHEAD: usize = 32;

/// A warning alert, encrypted.
const CLOSE_NOTIFY: usize = 64;

pub(super) struct Tls {
    side: Side,
    received: Received,
    /// What came with the end of the handshake, or was decrypted because something had to be sent.
    decrypted: Vec<u8>,
    sni: Option<Box<str>>,
    certificate: Option<Arc<CertifiedKey>>,
    exporter: Option<[u8; 32]>,
    peer_closed: bool,
    failed: bool,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What is to go out as soon as the handshake lets it.
#[derive(Clone, Copy)]
enum Outgoing<'a> {
    Nothing,
    Octets(&'a [u8]),
    CloseNotify,
}

/// What one call of rustls came to.
#[derive(PartialEq, Eq)]
enum Step {
    Again,
    /// What was to go out is in the send buffer.
    Sent,
    PeerClosed,
    /// Nothing more without more ciphertext.
    Idle,
}

impl Tls {
    /// `early` is what the client has sent already.
    pub fn server(config: Arc<ServerConfig>, early: Vec<u8>) -> Result<Tls, Error> {
        let server = UnbufferedServerConnection::new(config)?;
        Ok(Tls::new(Side::Server(Box::new(server)), early))
    }

    pub fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        early: Vec<u8>,
    ) -> Result<Tls, Error> {
        let client = UnbufferedClientConnection::new(config, name)?;
        Ok(Tls::new(Side::Client(Box::new(client)), early))
    }

    fn new(side: Side, early: Vec<u8>) -> Tls {
        let received = Received { at: 0, end: early.len(), buffer: early };
        Tls {
            side,
            received,
            decrypted: Vec::new(),
            sni: None,
            certificate: None,
            exporter: None,
            peer_closed: false,
            failed: false,
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.side.common().is_handshaking()
    }

    /// Whether the peer said that it sends nothing more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    pub fn info(&self) -> TlsInfo {
        let common = self.side.common();
        TlsInfo {
            version: common.protocol_version().map_or(String::new(), |v| format!("{v:?}")),
            cipher: common.negotiated_cipher_suite().map_or(String::new(), |c| format!("{:?}", c.suite())),
            sni: self.sni.as_deref().map(str::to_owned),
            resumed: matches!(common.handshake_kind(), Some(rustls::HandshakeKind::Resumed)),
        }
    }

    /// What an exchange of SASL can be bound to, on the server's side. Of a resumed session it is the certificate that a
    /// new one would get.
    pub fn bindings(&self) -> TlsBindings {
        let leaf = self.certificate.as_ref().and_then(|certified| certified.cert.first());
        TlsBindings { exporter: self.exporter, end_point: leaf.and_then(|leaf| certificate::end_point(leaf)) }
    }

    /// The peer's own certificate, which TLS has verified.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.side.common().peer_certificates()?.first().map(|certificate| certificate.as_ref())
    }

    /// Octets that its buffers take.
    pub fn buffers(&self) -> usize {
        self.received.buffer.capacity() + self.decrypted.capacity()
    }

    /// Gives back what a connection that waits does not need.
    pub fn rest(&mut self) {
        self.received.rest();
    }

    /// Reads ciphertext: how many octets, 0 at the end of the stream. They are used by [`Tls::shake`] and [`Tls::open`].
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` where the peer's message is longer than [`HELD_MAX`].
    pub fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let room = room.min(HELD_MAX.saturating_sub(self.received.len()));
        if room == 0 {
            let error = "a message of the handshake is too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        self.received.poll_read(stream, cx, room)
    }

    /// Goes on with the handshake as far as what was read allows.
    pub fn shake(&mut self, tx: &mut Vec<u8>) -> Result<(), Error> {
        let (mut drive, decrypted) = self.parts();
        let shaken = match drive.side {
            Side::Server(_) if drive.side.common().is_handshaking() => {
                let (shaken, seen) = seen_by(|| drive.run(decrypted, usize::MAX, tx, Outgoing::Nothing));
                self.sni = seen.name.or(self.sni.take());
                self.certificate = seen.certificate.or(self.certificate.take());
                self.exporter = seen.exporter.or(self.exporter);
                shaken
            }
            _ => drive.run(decrypted, usize::MAX, tx, Outgoing::Nothing),
        };
        shaken.map(drop)
    }

    /// Decrypts what was read and adds it to `rx`, until that holds `limit`; answers go to `tx`.
    pub fn open(&mut self, rx: &mut Vec<u8>, limit: usize, tx: &mut Vec<u8>) -> Result<(), Error> {
        rx.append(&mut std::mem::take(&mut self.decrypted));
        let nothing = self.received.len() == 0 && !self.side.common().wants_write();
        if nothing || rx.len() >= limit {
            return Ok(());
        }
        self.parts().0.run(rx, limit, tx, Outgoing::Nothing).map(drop)
    }

    /// Encrypts `octets` and adds the records to `tx`.
    pub fn seal(&mut self, octets: &[u8], tx: &mut Vec<u8>) -> io::Result<()> {
        if octets.is_empty() {
            return Ok(());
        }
        let (mut drive, decrypted) = self.parts();
        match drive.run(decrypted, usize::MAX, tx, Outgoing::Octets(octets)).map_err(super::broken)? {
            Step::Sent => Ok(()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says goodbye, once, and where a handshake has been completed.
    pub fn close(&mut self, tx: &mut Vec<u8>) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        let (mut drive, decrypted) = self.parts();
        drive.run(decrypted, usize::MAX, tx, Outgoing::CloseNotify).map(drop).map_err(super::broken)
    }

    fn parts(&mut self) -> (Drive<'_>, &mut Vec<u8>) {
        let Tls { side, received, decrypted, peer_closed, failed, .. } = self;
        (Drive { side, received, peer_closed, failed }, decrypted)
    }
}

/// A connection but for the buffer that takes what is decrypted.
struct Drive<'a> {
    side: &'a mut Side,
    received: &'a mut Received,
    peer_closed: &'a mut bool,
    failed: &'a mut bool,
}

impl Drive<'_> {
    /// Lets rustls work until it wants more ciphertext, `plain` holds `limit`, or `outgoing` is in `tx`.
    fn run(
        &mut self,
        plain: &mut Vec<u8>,
        limit: usize,
        tx: &mut Vec<u8>,
        outgoing: Outgoing<'_>,
    ) -> Result<Step, Error> {
        if *self.failed {
            return Err(Error::General("TLS has failed before".to_owned()));
        }
        loop {
            let (used, step) = self.side.step(self.received.held(), plain, tx, outgoing);
            self.received.used(used);
            match step {
                Ok(Step::Again) if plain.len() >= limit => return Ok(Step::Again),
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => *self.peer_closed = true,
                Ok(step) => return Ok(step),
                Err(error) => {
                    *self.failed = true;
                    // The alert. Where there is one, rustls looks at no ciphertext before it.
                    while self.side.common().wants_write() {
                        if self.side.step(&mut [], plain, tx, Outgoing::Nothing).1.is_err() {
                            break;
                        }
                    }
                    return Err(error);
                }
            }
        }
    }
}

impl Side {
    fn common(&self) -> &CommonState {
        match self {
            Side::Server(server) => server,
            Side::Client(client) => client,
        }
    }

    /// One call of rustls, and what it asks for: how many octets of `held` are done with.
    fn step(
        &mut self,
        held: &mut [u8],
        plain: &mut Vec<u8>,
        tx: &mut Vec<u8>,
        outgoing: Outgoing<'_>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Side::Server(server) => take(server.process_tls_records(held), plain, tx, outgoing),
            Side::Client(client) => take(client.process_tls_records(held), plain, tx, outgoing),
        }
    }
}

fn take<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    tx: &mut Vec<u8>,
    outgoing: Outgoing<'_>,
) -> (usize, Result<Step, Error>) {
    let mut used = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (used, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut records) => loop {
            match records.next_record() {
                Some(Ok(record)) => {
                    plain.extend_from_slice(record.payload);
                    used += record.discard;
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        ConnectionState::EncodeTlsData(mut message) => append(tx, 0, |out| {
            message.encode(out).map_err(|error| match error {
                EncodeError::InsufficientSize(size) => Some(size.required_size),
                EncodeError::AlreadyEncoded => None,
            })
        })
        .map(|()| Step::Again),
        // It is in the send buffer, and nothing goes out before it.
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(Step::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => match outgoing {
            Outgoing::Nothing => Ok(Step::Idle),
            Outgoing::Octets(octets) => {
                let room = octets.len() + (octets.len().div_ceil(FRAGMENT) + 1) * OVERHEAD;
                append(tx, room, |out| traffic.encrypt(octets, out).map_err(required)).map(|()| Step::Sent)
            }
            Outgoing::CloseNotify => {
                append(tx, CLOSE_NOTIFY, |out| traffic.queue_close_notify(out).map_err(required))
                    .map(|()| Step::Sent)
            }
        },
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::Closed | ConnectionState::BlockedHandshake => Ok(Step::Idle),
        // Early data, which neither side offers.
        _ => Err(Error::General("an unexpected state of TLS".to_owned())),
    };
    (used, step)
}

fn required(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Adds to `tx` what `write` writes into `room` octets, or into as many as it then says that it wants.
fn append(
    tx: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let held = tx.len();
    loop {
        tx.resize(held + room, 0);
        match write(&mut tx[held..]) {
            Ok(wrote) => {
                tx.truncate(held + wrote);
                return Ok(());
            }
            Err(Some(wanted)) if wanted > room => room = wanted,
            Err(_) => {
                tx.truncate(held);
                return Err(Error::EncryptError);
            }
        }
    }
}

/// Ciphertext that was read and not decrypted: `buffer[at..end]`. What is behind it was zeroed once and is read into.
struct Received {
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Received {
    fn len(&self) -> usize {
        self.end - self.at
    }

    fn held(&mut self) -> &mut [u8] {
        &mut self.buffer[self.at..self.end]
    }

    fn used(&mut self, octets: usize) {
        self.at += octets;
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
        }
    }

    fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        // Most reads of a silent connection find nothing: no buffer for them.
        if self.buffer.is_empty() && room <= READ_FIRST {
            let mut buffer = [0; READ_FIRST];
            let read = ready!(stream.poll_read(cx, &mut buffer[..room]))?;
            self.buffer.extend_from_slice(&buffer[..read]);
            self.end = read;
            return Poll::Ready(Ok(read));
        }
        let held = self.len();
        if self.buffer.len() < held + room {
            // Zeroed by the allocator, and no larger than it is used.
            let mut buffer = vec![0; held + room];
            buffer[..held].copy_from_slice(self.held());
            self.buffer = buffer;
        } else if self.at > 0 {
            self.buffer.copy_within(self.at..self.end, 0);
        }
        (self.at, self.end) = (0, held);
        let read = ready!(stream.poll_read(cx, &mut self.buffer[self.end..self.end + room]))?;
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// Keeps no more than what is held.
    fn rest(&mut self) {
        if self.len() == 0 {
            *self = Received { buffer: Vec::new(), at: 0, end: 0 };
        } else if self.buffer.capacity() - self.len() > READ_FIRST {
            self.buffer = self.buffer[self.at..self.end].to_vec();
            (self.at, self.end) = (0, self.buffer.len());
        }
    }
}

#[cfg(test)]
mod tests;
