//! Looking once more before a sleep. A peer on this machine, or beside it, answers in less time than the runtime takes to
//! park and to wake; for such a peer a read looks for [`LINGER`] before it waits.
//!
//! # Invariants
//! Only what pays lingers: a connection whose waits end within [`NEAR`], on a shard where nobody else has read anything for
//! [`ALONE`]. Looks in vain one after the other double the waits that pass without a look, up to [`PENALTY_MAX`].
//!
//! # Cost
//! Where the peer is farther away: two looks at the clock for each wait. Where it is near, up to [`LINGER`] of processor
//! time in the place of some 30 µs for four calls of `io_uring_enter`, and a shorter wait for the peer.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use crate::time::{self, Instant};

/// How long a read looks before it waits.
const LINGER: Duration = Duration::from_micros(50);
/// A wait that ends so soon, the runtime's own sleep included, was for a near peer.
const NEAR: Duration = Duration::from_micros(100);
/// So long nobody else on the shard may have read.
const ALONE: Duration = Duration::from_micros(500);
/// What a connection begins with: above zero it lingers, and each wait for a near peer, or look that found something, adds one.
const CREDIT_FIRST: i8 = -2;
/// More than this is not kept, so that looks in vain end soon.
const CREDIT_MAX: i8 = 8;
/// What a look in vain takes at least, and at most after several in vain.
const PENALTY_MIN: i8 = 2;
const PENALTY_MAX: i8 = 32;

/// What a connection knows of its peer's pace.
pub(crate) struct Linger {
    /// Tells the connections of a shard apart; where it wraps, two may take each other for one, and linger a little more.
    id: u32,
    credit: i8,
    /// What the next look in vain takes.
    penalty: i8,
    /// Since when it waits; zero: it does not.
    since: Instant,
}

/// Who read last on this shard, when, and when somebody else did.
#[derive(Clone, Copy, Default)]
struct Last {
    id: u32,
    at: Instant,
    other_at: Instant,
}

thread_local! {
    static NEXT_ID: Cell<u32> = const { Cell::new(1) };
    static LAST: Cell<Last> = const { Cell::new(Last { id: 0, at: Instant(0), other_at: Instant(0) }) };
}

impl Linger {
    pub fn new() -> Linger {
        let id = NEXT_ID.get();
        NEXT_ID.set(id.wrapping_add(1));
        Linger { id, credit: CREDIT_FIRST, penalty: PENALTY_MIN, since: Instant(0) }
    }

    /// Looks for octets for a while, where that is likely to pay. `None`: nothing came, or it is not.
    pub fn look(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        if self.credit <= 0 || self.since != Instant(0) {
            return None;
        }
        let began = time::now();
        let last = LAST.get();
        if last.id != self.id || began - last.other_at < ALONE {
            return None;
        }
        loop {
            match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((read, _)) => {
                    self.credit = (self.credit + 1).min(CREDIT_MAX);
                    self.penalty = PENALTY_MIN;
                    self.note(time::now());
                    return Some(Ok(read));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error.into())),
            }
            if time::now() - began >= LINGER {
                self.credit -= self.penalty;
                self.penalty = (self.penalty * 2).min(PENALTY_MAX);
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// A read begins to wait, or goes on to.
    pub fn waits(&mut self) {
        if self.since == Instant(0) {
            self.since = time::now();
        }
    }

    /// Octets came to a read.
    pub fn came(&mut self) {
        let now = time::now();
        if self.since != Instant(0) {
            self.credit = match now - self.since < NEAR {
                true => (self.credit + 1).min(CREDIT_MAX),
                false => self.credit.min(CREDIT_FIRST),
            };
            self.since = Instant(0);
        }
        self.note(now);
    }

    fn note(&self, now: Instant) {
        let last = LAST.get();
        let other_at = if last.id == self.id { last.other_at } else { last.at };
        LAST.set(Last { id: self.id, at: now, other_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn trusted() -> Linger {
        let mut linger = Linger::new();
        while linger.credit <= 0 {
            linger.waits();
            linger.came();
        }
        // As long ago as it must be that another one read.
        LAST.set(Last { other_at: Instant(0), ..LAST.get() });
        std::thread::sleep(ALONE);
        linger
    }

    #[test]
    fn a_near_peer_is_looked_for_and_found() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut linger = trusted();
        far.write_all(b"x").unwrap();
        assert_eq!(linger.look(near.as_fd(), &mut [0; 8]).unwrap().unwrap(), 1);
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut linger = trusted();
        let mut looks = 0;
        for _ in 0..100 {
            let credit = linger.credit;
            assert!(linger.look(near.as_fd(), &mut [0; 8]).is_none());
            looks += i32::from(linger.credit < credit);
            linger.waits();
            linger.came();
        }
        assert!((1..=8).contains(&looks), "{looks} of 100");
    }

    #[test]
    fn nobody_lingers_for_a_far_peer_or_beside_another_reader() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"x").unwrap();
        let mut fresh = Linger::new();
        assert!(fresh.look(near.as_fd(), &mut [0; 8]).is_none());
        let mut slow = trusted();
        slow.waits();
        std::thread::sleep(NEAR);
        slow.came();
        assert!(slow.look(near.as_fd(), &mut [0; 8]).is_none());
        let mut linger = trusted();
        Linger::new().came();
        linger.note(time::now());
        assert!(linger.look(near.as_fd(), &mut [0; 8]).is_none());
    }
}
