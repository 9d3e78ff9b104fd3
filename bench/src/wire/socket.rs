//! One connection: a socket, TLS where wanted, a receive buffer and a send buffer that are used again and again.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Failure;

/// What is written at once: a large message is sent in steps, so that the instant of its last step is known.
const WRITE_OCTETS_MAX: usize = 64 * 1024;

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, while a handshake has the socket.
    Away,
}

pub struct Wire {
    stream: Stream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// What [`Wire::flush`] will send.
    pub out: Vec<u8>,
    pub octets_in: u64,
    pub octets_out: u64,
}

impl Wire {
    pub fn new(socket: TcpStream, buffer_octets: usize) -> Wire {
        let input = vec![0; buffer_octets.max(256)];
        Wire {
            stream: Stream::Plain(socket),
            input,
            start: 0,
            end: 0,
            out: Vec::new(),
            octets_in: 0,
            octets_out: 0,
        }
    }

    /// Gives the socket to a handshake. What the server said before it is thrown away.
    pub(super) fn take_plain(&mut self) -> Option<TcpStream> {
        (self.start, self.end) = (0, 0);
        match std::mem::replace(&mut self.stream, Stream::Away) {
            Stream::Plain(socket) => Some(socket),
            other => {
                self.stream = other;
                None
            }
        }
    }

    pub(super) fn put_tls(&mut self, stream: TlsStream<TcpStream>) {
        self.stream = Stream::Tls(Box::new(stream));
    }

    /// True where the TLS session of an earlier connection was taken up again.
    pub fn is_resumed(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
            }
            _ => false,
        }
    }

    /// Octets received and not consumed.
    pub fn unread(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    pub fn consume(&mut self, octets: usize) {
        self.start += octets;
        debug_assert!(self.start <= self.end);
    }

    /// Waits for more octets. The end of the connection is a failure: nobody who reads expects it.
    pub async fn fill(&mut self) -> Result<(), Failure> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.input.len() {
                return Err(Failure::Unexpected(format!("more than {} octets without an end", self.end)));
            }
        }
        let room = &mut self.input[self.end..];
        let count = match &mut self.stream {
            Stream::Plain(socket) => socket.read(room).await?,
            Stream::Tls(stream) => stream.read(room).await?,
            Stream::Away => return Err(Failure::Closed("in the TLS handshake".to_owned())),
        };
        if count == 0 {
            return Err(Failure::Closed(String::new()));
        }
        self.end += count;
        self.octets_in += count as u64;
        Ok(())
    }

    /// Waits until the server has closed; what it still says is thrown away.
    pub async fn drain(&mut self) {
        (self.start, self.end) = (0, 0);
        while self.fill().await.is_ok() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Sends `out` and empties it. Returns the instant before the write that took the last octet.
    pub async fn flush(&mut self) -> Result<Instant, Failure> {
        let mut sent = 0;
        let mut began = Instant::now();
        while sent < self.out.len() {
            let step = &self.out[sent..self.out.len().min(sent + WRITE_OCTETS_MAX)];
            began = Instant::now();
            let count = match &mut self.stream {
                Stream::Plain(socket) => socket.write(step).await?,
                Stream::Tls(stream) => stream.write(step).await?,
                Stream::Away => return Err(Failure::Closed("in the TLS handshake".to_owned())),
            };
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            sent += count;
        }
        if let Stream::Tls(stream) = &mut self.stream {
            stream.flush().await?;
        }
        self.octets_out += sent as u64;
        self.out.clear();
        Ok(began)
    }

    /// True where the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        let socket = match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Away => return true,
        };
        let mut octet = [0];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(socket, &mut octet, flags) {
            Ok((_, count)) => count == 0,
            Err(error) => error != rustix::io::Errno::AGAIN,
        }
    }
}
