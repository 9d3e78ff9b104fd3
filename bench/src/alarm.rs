//! Wakes tasks at an instant, to some microseconds; the runtime's own timer knows milliseconds only.
//!
//! A load generator that sends a millisecond late would add that millisecond to every latency it counts from the
//! intended instant.

use std::cell::{Cell, RefCell};
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

pub struct Alarms {
    shared: Rc<Shared>,
    driver: JoinHandle<()>,
}

struct Shared {
    timer: AsyncFd<OwnedFd>,
    waiting: RefCell<BinaryHeap<Waiting>>,
    /// What the timer is set to.
    armed: Cell<Option<Instant>>,
}

struct Waiting {
    at: Instant,
    waker: Waker,
}

impl Alarms {
    /// Runs on the current runtime, until it is dropped.
    pub fn start() -> std::io::Result<Alarms> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the registration owns the descriptor, which is open and the same until it is dropped with it.
        let timer = unsafe { AsyncFd::register(timer) }?;
        let shared = Rc::new(Shared { timer, waiting: RefCell::default(), armed: Cell::new(None) });
        let ours = shared.clone();
        let driver = tokio::task::spawn_local(async move {
            loop {
                let Ok(mut guard) = ours.timer.readable().await else { return };
                // It is non-blocking; what was read, how often it rang, says nothing new.
                let _ = rustix::io::read(&ours.timer, &mut [0u8; 8]);
                guard.clear_ready();
                ours.ring();
            }
        });
        Ok(Alarms { shared, driver })
    }

    pub async fn until(&self, at: Instant) {
        let mut registered: Option<Waker> = None;
        poll_fn(|context| {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            if !registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                let waker = context.waker().clone();
                registered = Some(waker.clone());
                self.shared.waiting.borrow_mut().push(Waiting { at, waker });
                if self.shared.armed.get().is_none_or(|armed| at < armed) {
                    self.shared.arm(at);
                }
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Shared {
    fn ring(&self) {
        self.armed.set(None);
        let now = Instant::now();
        let mut waiting = self.waiting.borrow_mut();
        while waiting.peek().is_some_and(|first| first.at <= now) {
            waiting.pop().expect("it was just looked at").waker.wake();
        }
        if let Some(first) = waiting.peek() {
            self.arm(first.at);
        }
    }

    fn arm(&self, at: Instant) {
        // A time of zero would disarm it.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).expect("a valid time is taken");
        self.armed.set(Some(at));
    }
}

impl Ord for Waiting {
    /// The earliest is the greatest, so that a heap gives it first.
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.at == other.at
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_ring_in_their_order_and_not_before_their_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let alarms = Rc::new(Alarms::start().unwrap());
            let start = Instant::now();
            let rung = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = [900u64, 300, 600, 300, 0]
                .into_iter()
                .map(|us| {
                    let (alarms, rung) = (alarms.clone(), rung.clone());
                    tokio::task::spawn_local(async move {
                        let at = start + Duration::from_micros(us);
                        alarms.until(at).await;
                        assert!(Instant::now() >= at);
                        rung.borrow_mut().push(us);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*rung.borrow(), [0, 300, 300, 600, 900]);
        });
    }
}
