//! How long the shards keep tasks waiting: the lateness of their heartbeats, as a histogram.
//!
//! # Cost
//! The heartbeats beat anyway (`exec::heartbeats`); the histogram takes about 20 KiB.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{exec, mesh};

/// Lateness beyond this is counted as this: microseconds.
const STALL_US_MAX: u64 = 60_000_000;

struct Lateness(RefCell<Histogram<u64>>);

/// Begins to keep what this shard's heartbeats measure, once.
pub fn start() {
    if exec::local::<Lateness>().is_none() {
        exec::set_local(Rc::new(Lateness(RefCell::new(empty()))));
    }
}

/// A heartbeat came so much later than it was due.
pub(crate) fn record(late: Duration) {
    if let Some(lateness) = exec::local::<Lateness>() {
        lateness.0.borrow_mut().saturating_record((late.as_micros() as u64).min(STALL_US_MAX));
    }
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

    /// All lateness together, to the histogram's two digits.
    pub fn sum_us(&self) -> u64 {
        self.0.iter_recorded().map(|step| step.value_iterated_to() * step.count_since_last_iteration()).sum()
    }

    /// Ticks at most this late.
    pub fn count_at_most_us(&self, us: u64) -> u64 {
        self.0.count_between(0, us)
    }
}

/// This shard's, empty where [`start`] was not called.
pub fn snapshot() -> Snapshot {
    Snapshot(exec::local::<Lateness>().map_or_else(empty, |t| t.0.borrow().clone()))
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
