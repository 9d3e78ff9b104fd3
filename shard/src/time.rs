//! The clocks: monotonic, wall, sleeping and deadlines. Virtual in the simulation.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context;
use crate::sim;

/// A moment of the monotonic clock: nanoseconds since the process began (simulated: since the run began).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    pub fn elapsed(self) -> Duration {
        now() - self
    }

    pub fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Zero where the right side is the later one.
impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

pub fn now() -> Instant {
    if let Some(seat) = context::seat() {
        return Instant(seat.world.now());
    }
    static BEGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(std::time::Instant::now);
    Instant(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// How long this thread has been on a core: a measure of what the program does, whatever else the machine is busy with.
pub fn on_core() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.unsigned_abs() as u32)
}

/// The wall clock: seconds and nanoseconds since 1970 in UTC. It may jump, and differs between nodes.
pub fn wall() -> (i64, u32) {
    if let Some(seat) = context::seat() {
        return seat.world.wall(seat.node);
    }
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => (i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos()),
        Err(e) => (-i64::try_from(e.duration().as_secs()).unwrap_or(i64::MAX), 0),
    }
}

/// The wall clock, as libraries take it.
pub fn wall_system() -> SystemTime {
    let (seconds, nanoseconds) = wall();
    UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds)
}

/// Minutes that the local zone is ahead of UTC. The server keeps UTC.
pub fn zone_offset_minutes() -> i32 {
    0
}

/// Waits. Dropping it forgets the timer.
pub fn sleep(d: Duration) -> Sleep {
    Sleep(if context::seat().is_some() {
        Timer::Sim(sim::Sleep::new(now() + d))
    } else {
        Timer::Real(glommio::timer::Timer::new(d))
    })
}

/// See [`sleep`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep(Timer);

enum Timer {
    Real(glommio::timer::Timer),
    Sim(sim::Sleep),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Timer::Real(t) => Pin::new(t).poll(cx).map(drop),
            Timer::Sim(t) => Pin::new(t).poll(cx),
        }
    }
}

/// The time was up before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct Elapsed;

impl From<Elapsed> for std::io::Error {
    fn from(e: Elapsed) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::TimedOut, e)
    }
}

/// Runs `fut` for `d` at most; then drops it. A future that is ready at the deadline has kept it.
pub async fn deadline<T>(d: Duration, fut: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut fut = std::pin::pin!(fut);
    let mut timer = sleep(d);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(value) = fut.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut timer).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
