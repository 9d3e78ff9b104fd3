//! How many requests are under way at a time: as many as the store bears.
//!
//! # Invariants
//! Additive increase, multiplicative decrease: each request that was answered makes the window a little wider, a store that
//! asks for patience halves it, once a second at most. Background requests leave half of it to clients.
//!
//! # Limits
//! [`WINDOW_MAX`] requests of a shard.

use std::cell::Cell;
use std::time::Duration;

use culver_shard::sync::Notify;
use culver_shard::time;

use super::Urgency;

const WINDOW_MAX: f64 = 64.0;
const WINDOW_MIN: f64 = 2.0;
/// One answer that asks for patience comes with many others.
const HALVE_EVERY: Duration = Duration::from_secs(1);

pub struct Pace {
    window: Cell<f64>,
    under_way: Cell<usize>,
    halved: Cell<Option<time::Instant>>,
    freed: Notify,
}

/// One request under way.
pub struct Slot<'a>(&'a Pace);

impl Pace {
    pub fn new() -> Pace {
        Pace {
            window: Cell::new(WINDOW_MAX / 2.0),
            under_way: Cell::new(0),
            halved: Cell::new(None),
            freed: Notify::new(),
        }
    }

    pub async fn slot(&self, urgency: Urgency) -> Slot<'_> {
        loop {
            let seen = self.freed.version();
            let room = match urgency {
                Urgency::Interactive => self.window.get(),
                Urgency::Background => (self.window.get() / 2.0).max(1.0),
            };
            if (self.under_way.get() as f64) < room {
                self.under_way.set(self.under_way.get() + 1);
                return Slot(self);
            }
            self.freed.changed_since(seen).await;
        }
    }

    pub fn slower(&self) {
        if self.halved.get().is_none_or(|halved| halved.elapsed() >= HALVE_EVERY) {
            self.halved.set(Some(time::now()));
            self.window.set((self.window.get() / 2.0).max(WINDOW_MIN));
            tracing::info!(
                window = self.window.get(),
                "the store asks for patience: fewer requests at a time"
            );
        }
    }

    pub fn faster(&self) {
        self.window.set((self.window.get() + 1.0 / self.window.get()).min(WINDOW_MAX));
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.freed.notify_all();
    }
}
