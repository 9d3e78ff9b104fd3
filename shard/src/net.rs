//! Sockets: listeners, streams, and what of a stream can go to another shard.
//!
//! # Invariants
//! An accepted connection is never lost: one task a listener accepts, is never cancelled while it does, and
//! hands over through a bounded queue. Every stream has TCP_NODELAY.
//!
//! # Limits
//! [`crate::Limits::listen_backlog`], [`crate::Limits::accept_queue_max`],
//! [`crate::Limits::descriptors_reserved`]: a connection that would take a reserved descriptor comes as
//! [`Accepted::Refuse`], to be told so and closed. A quarter of the reserve is for those who are being told; the others
//! wait in the kernel's queue, where they take no descriptor.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::context;
use crate::exec::{self, Queue, Task};
use crate::linger::Linger;
use crate::sim::net as sim;
use crate::time;

/// How long a connection may be silent before the kernel asks whether its peer is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(300);

/// The pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The pause of an accept where as many are being refused as may be.
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// A connection that came.
#[derive(Debug)]
pub enum Accepted {
    Conn(Stream, SocketAddr),
    /// Descriptors run short: say so in the protocol's words, and close. The turn ends with the connection.
    Refuse(Stream, SocketAddr, Turn),
}

/// One of those who are refused at a time. Dropped, another one's turn comes.
#[derive(Debug)]
pub struct Turn(());

/// Turns of this process under way: descriptors are the process's too.
static TURNS: AtomicU64 = AtomicU64::new(0);

impl Turn {
    fn take() -> Turn {
        TURNS.fetch_add(1, Ordering::Relaxed);
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listening socket of one shard. Several shards listen on one address with `reuse_port`.
pub struct Listener {
    form: ListenerForm,
    addr: SocketAddr,
}

enum ListenerForm {
    Real { accepted: flume::Receiver<Accepted>, _task: Task<()> },
    Sim(sim::Listener),
}

impl Listener {
    /// Binds and listens; port 0 takes a free one.
    pub fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<Listener> {
        let context = context::here();
        let limits = context.limits.clone();
        if let Some(seat) = context.seat() {
            let listener = sim::Listener::bind(seat, addr, reuse_port, limits.accept_queue_max)?;
            let addr = listener.addr;
            return Ok(Listener { form: ListenerForm::Sim(listener), addr });
        }
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        if addr.is_ipv6() {
            // One address family a socket: `[::]` and `0.0.0.0` can both be listened on.
            socket.set_only_v6(true)?;
        }
        // Accepted sockets inherit both.
        tune(&SockRef::from(&socket))?;
        socket.bind(&addr.into())?;
        socket.listen(limits.listen_backlog)?;
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the socket is ours alone and goes over to the listener.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        let (tx, accepted) = flume::bounded(limits.accept_queue_max.max(1));
        let reserve = Reserve::of(limits.descriptors_reserved);
        let task = exec::spawn(Queue::Interactive, "accept", accept(listener, tx, reserve));
        Ok(Listener { form: ListenerForm::Real { accepted, _task: task }, addr })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// When the shard is shutting down.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.form {
            ListenerForm::Real { accepted, .. } => {
                accepted.recv_async().await.map_err(|_| io::ErrorKind::NotConnected.into())
            }
            ListenerForm::Sim(listener) => {
                let (stream, peer) = listener.accept().await;
                Ok(Accepted::Conn(Stream(Form::Sim(stream)), peer))
            }
        }
    }
}

/// The descriptors that are not for connections.
#[derive(Clone, Copy)]
struct Reserve {
    /// The lowest number. The kernel gives the lowest free number, so a number this high means that all below are
    /// taken.
    first: i32,
    /// How many may be used at a time to refuse connections.
    turns_max: u64,
}

impl Reserve {
    fn of(reserved: u64) -> Reserve {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let reserved = reserved.min(limit / 4);
        let first = i32::try_from(limit - reserved).unwrap_or(i32::MAX);
        Reserve { first, turns_max: (reserved / 4).max(1) }
    }
}

async fn accept(listener: TcpListener, to: flume::Sender<Accepted>, reserve: Reserve) {
    let open_spare = || std::fs::File::open("/dev/null").ok();
    let mut spare = open_spare();
    loop {
        while TURNS.load(Ordering::Relaxed) >= reserve.turns_max {
            time::sleep(TURN_PAUSE).await;
        }
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(e) => {
                let e = exec::into_io(e);
                match e.raw_os_error() {
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN) => {}
                    // No descriptor at all: the spare one accepts the next connection, to be refused.
                    Some(libc::EMFILE | libc::ENFILE) if spare.take().is_some() => {}
                    _ => {
                        tracing::error!(error = %e, "accept failed");
                        time::sleep(ACCEPT_PAUSE).await;
                        spare = spare.or_else(open_spare);
                    }
                }
                continue;
            }
        };
        let short = spare.is_none() || stream.as_raw_fd() >= reserve.first;
        let stream = Stream(Form::Real(stream, Linger::new()));
        // A peer that is gone already is no connection.
        let Ok(peer) = stream.peer_addr() else { continue };
        let accepted = match short {
            true => Accepted::Refuse(stream, peer, Turn::take()),
            false => Accepted::Conn(stream, peer),
        };
        if to.send_async(accepted).await.is_err() {
            return;
        }
        spare = spare.or_else(open_spare);
    }
}

/// Connects to an address.
pub async fn connect(addr: SocketAddr) -> io::Result<Stream> {
    match context::seat() {
        Some(seat) => sim::connect(&seat, addr).await.map(Form::Sim).map(Stream),
        None => {
            let stream = TcpStream::connect(addr).await.map_err(exec::into_io)?;
            tune(&SockRef::from(&borrow(&stream)))?;
            Ok(Stream(Form::Real(stream, Linger::new())))
        }
    }
}

/// A connection. Reads and writes may be dropped at any await; a dropped write may have sent some.
pub struct Stream(Form);

enum Form {
    Real(TcpStream, Linger),
    Sim(sim::Stream),
}

impl Stream {
    /// Some octets, 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let wrote = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[wrote..];
        }
        Ok(())
    }

    /// A pending read holds no buffer.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Form::Real(s, linger) => {
                if let Some(read) = linger.look(borrow(s), buffer) {
                    return Poll::Ready(read);
                }
                let read = Pin::new(s).poll_read(cx, buffer);
                match read.is_pending() {
                    true => linger.waits(),
                    false => linger.came(),
                }
                read
            }
            Form::Sim(s) => s.poll_read(cx, buffer),
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = match &mut self.0 {
            Form::Real(s, _) => Pin::new(s).poll_write(cx, bytes),
            Form::Sim(s) => s.poll_write(cx, bytes),
        };
        match wrote {
            Poll::Ready(Ok(0)) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            wrote => wrote,
        }
    }

    /// Tells the peer that nothing follows; reading goes on.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Form::Real(s, _) => SockRef::from(&borrow(s)).shutdown(Shutdown::Write),
            Form::Sim(s) => {
                s.shutdown_write();
                Ok(())
            }
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Form::Real(s, _) => s.peer_addr().map_err(exec::into_io),
            Form::Sim(s) => Ok(s.peer()),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Form::Real(s, _) => s.local_addr().map_err(exec::into_io),
            Form::Sim(s) => Ok(s.local()),
        }
    }

    /// Takes the stream off this shard. What was read stays read; what was not is read there.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(Detached(match self.0 {
            Form::Real(s, _) => {
                // The duplicate outlives the stream, which takes its pending poll with it.
                let fd = borrow(&s).try_clone_to_owned()?;
                DetachedForm::Real(fd)
            }
            Form::Sim(s) => DetachedForm::Sim(s.into_end()),
        }))
    }

    /// Takes a stream on to this shard.
    pub fn attach(detached: Detached) -> Stream {
        Stream(match detached.0 {
            // SAFETY: the descriptor is owned and goes over to the stream.
            DetachedForm::Real(fd) => {
                Form::Real(unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }, Linger::new())
            }
            DetachedForm::Sim(end) => Form::Sim(sim::Stream::new(end)),
        })
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?})", self.peer_addr().ok())
    }
}

/// A stream between two shards. Dropped, it is closed.
pub struct Detached(DetachedForm);

enum DetachedForm {
    Real(OwnedFd),
    Sim(sim::End),
}

fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    // A flight of small writes would wait for the peer's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))
}

fn borrow(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream holds its descriptor open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
