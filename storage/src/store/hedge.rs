//! When a read is asked a second time: where it is later than 95 of 100 others were.
//!
//! # Limits
//! Reads of up to [`OCTETS_MAX`] octets; one in [`EVERY`] at most, so that a store that is slow for everybody is not made
//! slower; none before [`SAMPLES`] reads.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::op::{Failure, Op, Outcome};

const OCTETS_MAX: u64 = 1 << 20;
const EVERY: f64 = 20.0;
/// Second requests that may come together.
const BURST_MAX: f64 = 10.0;
const SAMPLES: usize = 256;
const AFTER_MIN: Duration = Duration::from_millis(5);

pub struct Hedge {
    /// The newest reads' microseconds, in a ring.
    took: RefCell<Vec<u32>>,
    next: Cell<usize>,
    after: Cell<Option<Duration>>,
    /// Second requests that may be made now.
    budget: Cell<f64>,
}

impl Hedge {
    pub fn new() -> Hedge {
        Hedge {
            took: RefCell::new(Vec::new()),
            next: Cell::new(0),
            after: Cell::new(None),
            budget: Cell::new(0.0),
        }
    }

    fn small(op: &Op<'_>) -> bool {
        matches!(op, Op::Get { range: Some(range), .. } if range.end - range.start <= OCTETS_MAX)
    }

    /// After which time to ask again, where that is known.
    pub fn after(&self, op: &Op<'_>) -> Option<Duration> {
        self.after.get().filter(|_| Hedge::small(op))
    }

    /// Whether a second request may be made now.
    pub fn take(&self) -> bool {
        let may = self.budget.get() >= 1.0;
        if may {
            self.budget.set(self.budget.get() - 1.0);
        }
        may
    }

    /// A read was answered.
    pub fn took(&self, op: &Op<'_>, took: Duration) {
        if !Hedge::small(op) {
            return;
        }
        self.budget.set((self.budget.get() + 1.0 / EVERY).min(BURST_MAX));
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut all = self.took.borrow_mut();
        let next = self.next.get();
        match all.len() < SAMPLES {
            true => all.push(micros),
            false => all[next % SAMPLES] = micros,
        }
        self.next.set(next + 1);
        if all.len() == SAMPLES && next.is_multiple_of(SAMPLES / 4) {
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let p95 = Duration::from_micros(u64::from(sorted[SAMPLES * 95 / 100]));
            self.after.set(Some(p95.max(AFTER_MIN)));
        }
    }
}

/// The first answer of two; a request that failed waits for the other, if that one was made (`asked`).
pub async fn first_of(
    first: impl Future<Output = Result<Outcome, Failure>>,
    second: impl Future<Output = Result<Outcome, Failure>>,
    asked: &Cell<bool>,
) -> Result<Outcome, Failure> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut failed: [Option<Failure>; 2] = [None, None];
    std::future::poll_fn(|cx| {
        if failed[0].is_none()
            && let Poll::Ready(result) = first.as_mut().poll(cx)
        {
            match result {
                Err(failure @ Failure::Passing { .. }) => failed[0] = Some(failure),
                decided => return Poll::Ready(decided),
            }
        }
        if failed[1].is_none()
            && (failed[0].is_none() || asked.get())
            && let Poll::Ready(result) = second.as_mut().poll(cx)
        {
            match result {
                Err(failure @ Failure::Passing { .. }) => failed[1] = Some(failure),
                decided => return Poll::Ready(decided),
            }
        }
        match &failed {
            [Some(failure), None] if !asked.get() => Poll::Ready(Err(failure.clone())),
            [Some(_), Some(failure)] => Poll::Ready(Err(failure.clone())),
            _ => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_later_than_most_are_asked_again_within_a_budget() {
        let hedge = Hedge::new();
        let read = Op::Get { key: "k", range: Some(0..100) };
        assert_eq!(hedge.after(&read), None);
        for nth in 0..1000 {
            hedge.took(&read, Duration::from_millis(if nth % 10 == 0 { 400 } else { 20 }));
        }
        assert_eq!(hedge.after(&read), Some(Duration::from_millis(400)));
        assert_eq!(hedge.after(&Op::Get { key: "k", range: Some(0..OCTETS_MAX + 1) }), None);
        assert_eq!((0..100).filter(|_| hedge.take()).count(), BURST_MAX as usize);
    }

    /// The outcome of two requests that end at once as given; `None` does not end.
    fn of_two(
        first: Option<Result<u64, Failure>>,
        second: Option<Result<u64, Failure>>,
        asked: bool,
    ) -> Option<String> {
        let asked = Cell::new(asked);
        let ended = |result: Option<Result<u64, Failure>>| async move {
            match result {
                Some(result) => result.map(Outcome::Length),
                None => std::future::pending().await,
            }
        };
        let mut both = pin!(first_of(ended(first), ended(second), &asked));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match both.as_mut().poll(&mut context) {
            Poll::Ready(result) => Some(format!("{result:?}")),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_first_decision_of_two_counts() {
        let passing = || Some(Err(Failure::passing("x")));
        assert!(of_two(Some(Ok(1)), None, false).unwrap().contains("Length(1)"));
        assert!(of_two(None, Some(Ok(2)), true).unwrap().contains("Length(2)"));
        assert!(of_two(passing(), None, false).unwrap().contains("Passing"));
        assert_eq!(of_two(passing(), None, true), None, "the other one is under way");
        assert!(of_two(passing(), Some(Ok(2)), true).unwrap().contains("Length(2)"));
        assert!(of_two(Some(Err(Failure::NotFound)), None, true).unwrap().contains("NotFound"));
        assert_eq!(of_two(None, passing(), true), None);
        assert!(of_two(passing(), passing(), true).unwrap().contains("Passing"));
    }
}
