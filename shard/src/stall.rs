//! How long the shards keep tasks waiting: a ticker's lateness, as a histogram.
//!
//! # Cost
//! One timer every [`TICK`] a shard, and about 20 KiB.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::exec::{self, Queue};
use crate::{mesh, time};

/// How often lateness is measured.
pub const TICK: Duration = Duration::from_millis(50);

/// Lateness beyond this is counted as this: microseconds.
const STALL_US_MAX: u64 = 60_000_000;

struct Ticker(RefCell<Histogram<u64>>);

/// Begins to measure on this shard, once.
pub fn start() {
    if exec::local::<Ticker>().is_some() {
        return;
    }
    let ticker = Rc::new(Ticker(RefCell::new(empty())));
    exec::set_local(ticker.clone());
    let tick = async move {
        loop {
            let due = time::now() + TICK;
            time::sleep(TICK).await;
            let late = (time::now() - due).as_micros() as u64;
            ticker.0.borrow_mut().saturating_record(late.min(STALL_US_MAX));
        }
    };
    exec::spawn(Queue::Interactive, "stall ticker", tick).detach();
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, STALL_US_MAX, 2).expect("valid bounds")
}

/// Lateness in microseconds, of one shard or several.
#[derive(Clone, Debug)]
pub struct Snapshot(Histogram<u64>);

impl Snapshot {
    pub fn merge(&mut self, other: &Snapshot) {
        self.0.add(&other.0).expect("equal bounds");
    }

    /// How often it was measured.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The lateness in microseconds that a part of the ticks (0.99) did not exceed.
    pub fn quantile_us(&self, part: f64) -> u64 {
        self.0.value_at_quantile(part)
    }

    pub fn max_us(&self) -> u64 {
        self.0.max()
    }

    /// Ticks at most this late.
    pub fn count_at_most_us(&self, us: u64) -> u64 {
        self.0.count_between(0, us)
    }
}

/// This shard's, empty where [`start`] was not called.
pub fn snapshot() -> Snapshot {
    Snapshot(exec::local::<Ticker>().map_or_else(empty, |t| t.0.borrow().clone()))
}

/// All shards' together; those that have ended are left out.
pub async fn snapshot_all() -> Snapshot {
    let mut all = Snapshot(empty());
    for shard in 0..exec::shards() {
        if let Ok(one) = mesh::call(shard, || async { snapshot() }).await {
            all.merge(&one);
        }
    }
    all
}
