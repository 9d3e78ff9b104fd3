//! Signals of the process, taken by a thread of their own and handed to whoever waits on a shard.
//!
//! In the simulation none ever comes; [`crate::sim::Sim::stop`] stands in for SIGTERM.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use crate::context;

/// Signals that wait to be taken; more of the same kind say nothing new.
const WAITING_MAX: usize = 4;

/// A stream of signals.
pub struct Signals(Option<flume::Receiver<()>>);

/// SIGTERM and SIGINT: end, everything durable.
pub fn terminate() -> io::Result<Signals> {
    listen("signal-terminate", &[libc::SIGTERM, libc::SIGINT])
}

/// SIGHUP: read configuration and certificates again.
pub fn hangup() -> io::Result<Signals> {
    listen("signal-hangup", &[libc::SIGHUP])
}

fn listen(name: &str, signals: &[libc::c_int]) -> io::Result<Signals> {
    if context::seat().is_some() {
        return Ok(Signals(None));
    }
    let (mut here, there) = UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, there.try_clone()?)?;
    }
    let (tx, rx) = flume::bounded(WAITING_MAX);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let mut octet = [0];
        while here.read_exact(&mut octet).is_ok() {
            if let Err(flume::TrySendError::Disconnected(())) = tx.try_send(()) {
                return;
            }
        }
    })?;
    Ok(Signals(Some(rx)))
}

impl Signals {
    /// The next signal. Dropping the future loses none.
    pub async fn next(&self) {
        if let Some(rx) = &self.0
            && rx.recv_async().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
