//! Waiting inside one shard: a notification, a one-shot value, a weighted semaphore.
//!
//! # Invariants
//! A wake-up cannot be lost. [`Notify`] counts its notifications, and whoever waits names the count it has
//! seen; [`Semaphore`] hands its permits to the first in the queue when they are released, not to whoever
//! comes by. All three survive that a waiting future is dropped at any await.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A counter of notifications that can be awaited.
#[derive(Default)]
pub struct Notify {
    version: Cell<u64>,
    waiting: RefCell<Waiting>,
}

/// Slots of those who wait, so that thousands of sessions can wait for one event and each come and go at no cost.
#[derive(Default)]
struct Waiting {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Notify {
    pub fn new() -> Notify {
        Notify::default()
    }

    /// How often [`Notify::notify_all`] was called. Read it before you look at what you wait for.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Wakes everyone who waits, and everyone who asked for an earlier version and comes to wait later.
    pub fn notify_all(&self) {
        self.version.set(self.version.get().wrapping_add(1));
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting.slots.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Ready at the first notification after this call (not after the first poll).
    pub fn notified(&self) -> Notified<'_> {
        self.changed_since(self.version())
    }

    /// Ready as soon as the version differs from `seen`: at once, where it already does.
    pub fn changed_since(&self, seen: u64) -> Notified<'_> {
        Notified { notify: self, seen, slot: None }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("version", &self.version.get()).finish()
    }
}

/// See [`Notify::notified`].
#[must_use = "futures do nothing unless awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    seen: u64,
    /// Its slot among those who wait for the version after `seen`.
    slot: Option<usize>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.version.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiting = self.notify.waiting.borrow_mut();
        let waiting = &mut *waiting;
        match self.slot.and_then(|slot| waiting.slots[slot].as_mut()) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                let slot = waiting.free.pop().unwrap_or(waiting.slots.len());
                if slot == waiting.slots.len() {
                    waiting.slots.push(None);
                }
                waiting.slots[slot] = Some(cx.waker().clone());
                self.slot = Some(slot);
            }
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // A notification has emptied the slots: this one may be somebody else's by now.
        if let Some(slot) = self.slot
            && self.notify.version.get() == self.seen
        {
            let mut waiting = self.notify.waiting.borrow_mut();
            waiting.slots[slot] = None;
            waiting.free.push(slot);
        }
    }
}

/// Drives futures together until all are done; their values in their order.
pub async fn all<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    let mut values: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (future, value) in futures.iter_mut().zip(&mut values) {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(done) => (*value, *future) = (Some(done), None),
                    Poll::Pending => open = true,
                }
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    values.into_iter().map(|value| value.expect("all are done")).collect()
}

/// A value sent once, inside one shard.
pub mod oneshot {
    use super::*;

    struct Shared<T> {
        value: RefCell<Option<T>>,
        waker: RefCell<Option<Waker>>,
        sender_gone: Cell<bool>,
        receiver_gone: Cell<bool>,
    }

    pub struct Sender<T>(Rc<Shared<T>>);

    /// Resolves to the value, or to [`Closed`] when the sender was dropped without one.
    #[must_use = "futures do nothing unless awaited"]
    pub struct Receiver<T>(Rc<Shared<T>>);

    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("the sender was dropped")]
    pub struct Closed;

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(None),
            waker: RefCell::new(None),
            sender_gone: Cell::new(false),
            receiver_gone: Cell::new(false),
        });
        (Sender(shared.clone()), Receiver(shared))
    }

    impl<T> Sender<T> {
        /// Gives the value back where nobody waits for it any more.
        pub fn send(self, value: T) -> Result<(), T> {
            if self.0.receiver_gone.get() {
                return Err(value);
            }
            *self.0.value.borrow_mut() = Some(value);
            Ok(())
        }

        /// True when the receiver was dropped.
        pub fn is_closed(&self) -> bool {
            self.0.receiver_gone.get()
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.sender_gone.set(true);
            let waker = self.0.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, Closed>;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            if let Some(value) = self.0.value.borrow_mut().take() {
                return Poll::Ready(Ok(value));
            }
            if self.0.sender_gone.get() {
                return Poll::Ready(Err(Closed));
            }
            *self.0.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.receiver_gone.set(true);
        }
    }
}

/// A first-come, first-served, weighted semaphore inside one shard. Clones share the permits.
#[derive(Clone)]
pub struct Semaphore(Rc<Inner>);

struct Inner {
    total: usize,
    free: Cell<usize>,
    queue: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Waiter {
    weight: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Semaphore {
    pub fn new(permits: usize) -> Semaphore {
        Semaphore(Rc::new(Inner { total: permits, free: Cell::new(permits), queue: RefCell::default() }))
    }

    /// Permits that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free.get()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Waits its turn for `weight` permits. A weight above the total takes all of them, so that one large
    /// request runs alone and does not wait for ever.
    pub fn acquire(&self, weight: usize) -> Acquire {
        Acquire { semaphore: self.0.clone(), weight: weight.min(self.0.total), waiter: None }
    }

    /// `weight` permits at once, or `None` when too few are free or somebody waits.
    pub fn try_acquire(&self, weight: usize) -> Option<Permit> {
        let weight = weight.min(self.0.total);
        (self.0.queue.borrow().is_empty() && self.0.free.get() >= weight).then(|| {
            self.0.free.set(self.0.free.get() - weight);
            Permit { semaphore: self.0.clone(), weight }
        })
    }
}

impl Inner {
    fn release(&self, weight: usize) {
        self.free.set(self.free.get() + weight);
        self.grant();
    }

    fn grant(&self) {
        loop {
            let waiter = {
                let mut queue = self.queue.borrow_mut();
                match queue.front() {
                    Some(w) if w.weight <= self.free.get() => queue.pop_front().expect("seen above"),
                    _ => return,
                }
            };
            self.free.set(self.free.get() - waiter.weight);
            waiter.granted.set(true);
            let waker = waiter.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// See [`Semaphore::acquire`].
#[must_use = "futures do nothing unless awaited"]
pub struct Acquire {
    semaphore: Rc<Inner>,
    weight: usize,
    waiter: Option<Rc<Waiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let weight = self.weight;
        if let Some(waiter) = &self.waiter {
            if !waiter.granted.get() {
                *waiter.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.waiter = None;
            return Poll::Ready(Permit { semaphore: self.semaphore.clone(), weight });
        }
        if self.semaphore.queue.borrow().is_empty() && self.semaphore.free.get() >= weight {
            self.semaphore.free.set(self.semaphore.free.get() - weight);
            return Poll::Ready(Permit { semaphore: self.semaphore.clone(), weight });
        }
        let waiter = Rc::new(Waiter {
            weight,
            granted: Cell::new(false),
            waker: RefCell::new(Some(cx.waker().clone())),
        });
        self.semaphore.queue.borrow_mut().push_back(waiter.clone());
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if waiter.granted.get() {
            self.semaphore.release(waiter.weight);
        } else {
            self.semaphore.queue.borrow_mut().retain(|w| !Rc::ptr_eq(w, &waiter));
            // The one behind may fit where this one did not.
            self.semaphore.grant();
        }
    }
}

/// Permits that return when this is dropped.
#[must_use = "permits return at once when dropped"]
pub struct Permit {
    semaphore: Rc<Inner>,
    weight: usize,
}

impl Permit {
    pub fn weight(&self) -> usize {
        self.weight
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.weight);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("free", &self.free()).field("waiting", &self.waiting()).finish()
    }
}
