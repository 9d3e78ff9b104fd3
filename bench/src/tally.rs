//! What a measured phase counts: operations, octets, latencies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// One hour; what takes longer is counted as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

#[derive(Default)]
pub struct Tally {
    operations: Cell<u64>,
    errors: Cell<u64>,
    refused: Cell<u64>,
    unfinished: Cell<u64>,
    raw_octets: Cell<u64>,
    octets_in: Cell<u64>,
    octets_out: Cell<u64>,
    latency: RefCell<Latencies>,
    /// From the send itself, where latencies are counted from its intended instant.
    service: RefCell<Latencies>,
    /// Latencies of kinds of operations, and of parts of one.
    named: RefCell<BTreeMap<&'static str, Latencies>>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
    first_error: RefCell<Option<String>>,
    /// When something came to its end last.
    last: Cell<Option<Instant>>,
}

impl Tally {
    /// An operation that ended now. `due` is when it should have been sent, where there is a schedule.
    pub fn done(&self, due: Option<Instant>, sent: Instant) {
        let now = Instant::now();
        self.last.set(Some(now));
        self.operations.set(self.operations.get() + 1);
        self.latency.borrow_mut().add(now - due.unwrap_or(sent).min(now));
        if due.is_some() {
            self.service.borrow_mut().add(now - sent);
        }
    }

    /// An operation that ended now, and its kind.
    pub fn done_as(&self, kind: &'static str, due: Option<Instant>, sent: Instant) {
        self.named(kind, sent.elapsed());
        self.done(due, sent);
    }

    /// An operation whose latency was told otherwise.
    pub fn took(&self, latency: Duration) {
        self.last.set(Some(Instant::now()));
        self.operations.set(self.operations.get() + 1);
        self.latency.borrow_mut().add(latency);
    }

    pub fn named(&self, name: &'static str, latency: Duration) {
        self.named.borrow_mut().entry(name).or_default().add(latency);
    }

    pub fn count(&self, name: &'static str, more: u64) {
        *self.counts.borrow_mut().entry(name).or_default() += more;
    }

    /// The server said no; the connection goes on.
    pub fn refused(&self, words: impl FnOnce() -> String) {
        self.last.set(Some(Instant::now()));
        self.refused.set(self.refused.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(words);
    }

    pub fn failed(&self, error: &dyn std::fmt::Display) {
        self.last.set(Some(Instant::now()));
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
    }

    /// An operation that was due and did not end: it took at least so long.
    pub fn unfinished(&self, due: Instant) {
        self.unfinished.set(self.unfinished.get() + 1);
        self.latency.borrow_mut().add(due.elapsed());
    }

    pub fn raw(&self, octets: u64) {
        self.raw_octets.set(self.raw_octets.get() + octets);
    }

    /// Octets of a connection: how many there were at the last call, and now.
    pub fn octets(&self, before: (u64, u64), now: (u64, u64)) {
        self.octets_in.set(self.octets_in.get() + now.0.saturating_sub(before.0));
        self.octets_out.set(self.octets_out.get() + now.1.saturating_sub(before.1));
    }

    pub fn last(&self) -> Option<Instant> {
        self.last.get()
    }

    /// All that came to an end of any kind: a run in which it stands still has no answer.
    pub fn ended(&self) -> u64 {
        self.operations.get() + self.errors.get() + self.refused.get()
    }

    pub fn take(&self) -> Counted {
        Counted {
            operations: self.operations.get(),
            errors: self.errors.get(),
            refused: self.refused.get(),
            unfinished: self.unfinished.get(),
            raw_octets: self.raw_octets.get(),
            octets_in: self.octets_in.get(),
            octets_out: self.octets_out.get(),
            latency: self.latency.take(),
            service: self.service.take(),
            named: self.named.take(),
            counts: self.counts.take(),
            first_error: self.first_error.take(),
        }
    }
}

/// A tally after its phase.
pub struct Counted {
    pub operations: u64,
    pub errors: u64,
    pub refused: u64,
    pub unfinished: u64,
    pub raw_octets: u64,
    pub octets_in: u64,
    pub octets_out: u64,
    pub latency: Latencies,
    pub service: Latencies,
    pub named: BTreeMap<&'static str, Latencies>,
    pub counts: BTreeMap<&'static str, u64>,
    pub first_error: Option<String>,
}

/// A histogram of nanoseconds with three digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid"))
    }
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos().min(u128::from(LATENCY_NS_MAX)) as u64);
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// In microseconds; `percentile` is of 100.
    pub fn percentile_us(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    pub fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_added() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us));
        }
        let near = |found: f64, want: f64| assert!((found - want).abs() <= want * 0.002, "{found} {want}");
        near(latencies.percentile_us(50.0), 500.0);
        near(latencies.percentile_us(99.0), 990.0);
        near(latencies.max_us(), 1000.0);
        assert_eq!(latencies.count(), 1000);
    }

    #[test]
    fn an_operation_that_never_ended_is_among_the_latencies() {
        let tally = Tally::default();
        tally.unfinished(Instant::now() - Duration::from_secs(5));
        let counted = tally.take();
        assert_eq!((counted.operations, counted.unfinished), (0, 1));
        assert!(counted.latency.max_us() >= 4.9e6);
    }
}
