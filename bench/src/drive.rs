//! Drives clients through a phase: closed loop, open loop, or with the think time of people.
//!
//! # Open loop
//! Each connection has a queue of instants at which operations are due, made without regard to answers. An operation
//! whose connection is still busy waits, and its latency is counted from when it was due. What was due before the end is
//! still sent after it, for at most [`GRACE`]; what is open then is counted with the time it has waited so far. So a
//! server that stalls cannot hide it by slowing down the generator (coordinated omission).

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::alarm::Alarms;
use crate::options::RunOptions;
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::wire::Failure;

/// How long after the end of a phase its operations are waited for.
const GRACE: Duration = Duration::from_secs(10);
/// How often the phase is looked at from outside.
const LOOK: Duration = Duration::from_millis(100);
/// After a failed connection attempt in the midst of a phase.
const AGAIN: Duration = Duration::from_millis(100);

/// One simulated client, mostly one connection.
pub trait Client: 'static {
    /// One operation, told to `tally` with its latency. After a failure, [`Client::recover`] is next.
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure>;

    /// Connects anew.
    async fn recover(&mut self) -> Result<(), Failure>;

    /// How long the person behind the client does nothing before the next operation; without a person, `None`.
    fn think(&mut self) -> Option<Duration> {
        None
    }

    async fn close(self);
}

#[derive(Clone, Copy, Debug)]
pub enum Until {
    Time(Duration),
    Count(u64),
}

/// What a phase's workers share.
struct Gate {
    start: Instant,
    end: Option<Instant>,
    left: Cell<u64>,
    working: Cell<usize>,
    over: Notify,
    alarms: Alarms,
    tally: Rc<Tally>,
}

impl Gate {
    /// Whether an operation due at `at` belongs to the phase.
    fn admits(&self, at: Instant) -> bool {
        if self.end.is_some_and(|end| at >= end) || self.left.get() == 0 {
            return false;
        }
        self.left.set(self.left.get() - 1);
        true
    }
}

/// A client at work, and what it is at: its operation's due time.
struct Worker<C> {
    task: JoinHandle<C>,
    open: Rc<Cell<Option<Instant>>>,
    /// Arrivals that stay when the worker is cut off.
    schedule: Rc<Cell<Option<Schedule>>>,
}

/// Runs a phase. `look` is called ten times a second with the share that is done. Returns the clients that came through,
/// and the phase's seconds.
pub async fn phase<C: Client>(
    clients: Vec<C>,
    options: &RunOptions,
    until: Until,
    tally: &Rc<Tally>,
    mut look: impl FnMut(f64),
) -> Result<(Vec<C>, f64)> {
    let start = Instant::now();
    let (end, count) = match until {
        Until::Time(duration) => (Some(start + duration), u64::MAX),
        Until::Count(count) => (None, count),
    };
    let alarms = Alarms::start()?;
    let connections = clients.len();
    let gate = Rc::new(Gate {
        start,
        end,
        left: Cell::new(count),
        working: Cell::new(connections),
        over: Notify::new(),
        alarms,
        tally: tally.clone(),
    });
    let workers: Vec<Worker<C>> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            let schedule = options
                .rate
                .map(|rate| Schedule::new(rate, options.arrivals, (n, connections), options.seed));
            let schedule = Rc::new(Cell::new(schedule));
            let open = Rc::new(Cell::new(None));
            let (gate, at, arrivals) = (gate.clone(), open.clone(), schedule.clone());
            let task = tokio::task::spawn_local(async move {
                let client = work(client, &gate, &at, &arrivals).await;
                gate.working.set(gate.working.get() - 1);
                if gate.working.get() == 0 {
                    gate.over.notify_one();
                }
                client
            });
            Worker { task, open, schedule }
        })
        .collect();
    let (mut ended, mut moved) = (tally.ended(), Instant::now());
    while gate.working.get() > 0 {
        let _ = tokio::time::timeout(LOOK, gate.over.notified()).await;
        let now = Instant::now();
        look(match until {
            Until::Time(duration) => (now - start).as_secs_f64() / duration.as_secs_f64().max(1e-9),
            Until::Count(count) => 1.0 - gate.left.get() as f64 / count as f64,
        });
        if tally.ended() != ended {
            (ended, moved) = (tally.ended(), now);
        }
        if end.is_some_and(|end| now > end + GRACE) {
            break;
        }
        let idle_allowed = options
            .timeout
            .max(options.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64((10.0 / rate).min(1e6))));
        if now - moved > idle_allowed && workers.iter().any(|worker| worker.open.get().is_some()) {
            bail!("nothing was answered for {} s: the server hangs (see --timeout)", idle_allowed.as_secs());
        }
    }
    finish(workers, &gate).await
}

async fn work<C: Client>(
    mut client: C,
    gate: &Gate,
    open: &Cell<Option<Instant>>,
    schedule: &Cell<Option<Schedule>>,
) -> C {
    let mut kept = schedule.take();
    loop {
        let (due, at) = match &mut kept {
            Some(arrivals) => {
                let at = gate.start + arrivals.due();
                (Some(at), at)
            }
            None => {
                let now = Instant::now();
                (None, client.think().map_or(now, |think| now + think))
            }
        };
        if !gate.admits(at) {
            return client;
        }
        // Handed over, so that what is due and not sent can be counted if this task is cut off.
        schedule.set(kept.take());
        if at > Instant::now() {
            gate.alarms.until(at).await;
        }
        open.set(Some(at));
        if let Err(failure) = client.operate(due, &gate.tally).await {
            gate.tally.failed(&failure);
            while let Err(failure) = client.recover().await {
                gate.tally.failed(&failure);
                if gate.end.is_some_and(|end| Instant::now() > end) {
                    return client;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        open.set(None);
        kept = schedule.take();
    }
}

async fn finish<C: Client>(workers: Vec<Worker<C>>, gate: &Gate) -> Result<(Vec<C>, f64)> {
    // Who is cut off was at work to the end; otherwise the last answer was it.
    let end = gate.tally.last().filter(|_| gate.working.get() == 0).unwrap_or_else(Instant::now);
    let seconds = (end - gate.start).as_secs_f64();
    let mut clients = Vec::with_capacity(workers.len());
    for worker in workers {
        if gate.working.get() == 0 || worker.task.is_finished() {
            clients.push(worker.task.await?);
        } else {
            worker.task.abort();
            let _ = worker.task.await;
            if let Some(due) = worker.open.get() {
                gate.tally.unfinished(due);
            }
        }
        // What was due behind it was never sent, and is late all the same.
        if let (Some(mut schedule), Some(end)) = (worker.schedule.take(), gate.end) {
            let rest = std::iter::repeat_with(|| gate.start + schedule.due()).take_while(|due| *due < end);
            rest.for_each(|due| gate.tally.unfinished(due));
        }
    }
    Ok((clients, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Arrivals;
    use clap::Parser;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        run: RunOptions,
    }

    /// A server that answers at once, but for one stall.
    struct Stalling {
        stall: Option<Duration>,
        after: u32,
    }

    impl Client for Stalling {
        async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
            let sent = Instant::now();
            match self.after.checked_sub(1) {
                Some(left) => self.after = left,
                None => {
                    if let Some(stall) = self.stall.take() {
                        tokio::time::sleep(stall).await;
                    }
                }
            }
            tally.done(due, sent);
            Ok(())
        }

        async fn recover(&mut self) -> Result<(), Failure> {
            Ok(())
        }

        async fn close(self) {}
    }

    fn run(rate: Option<f64>, until: Until, stall: Duration) -> crate::tally::Counted {
        let mut options = Options::parse_from(["x"]).run;
        options.rate = rate;
        options.arrivals = Arrivals::Fixed;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let tally = Rc::new(Tally::default());
            let client = Stalling { stall: Some(stall), after: 100 };
            phase(vec![client], &options, until, &tally, |_| {}).await.unwrap();
            tally.take()
        })
    }

    #[test]
    fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
        // 500 operations in a second; those due in a stall of 200 ms are 100, a fifth of all.
        let stall = Duration::from_millis(200);
        let open = run(Some(500.0), Until::Time(Duration::from_secs(1)), stall);
        assert_eq!(open.operations, 500);
        assert!(open.latency.percentile_us(99.0) > 150_000.0, "{}", open.latency.percentile_us(99.0));
        assert!(open.latency.percentile_us(90.0) > 50_000.0, "{}", open.latency.percentile_us(90.0));
        // Counted from the send, only one operation was slow: this is the figure that omits.
        assert!(open.service.percentile_us(99.0) < 150_000.0, "{}", open.service.percentile_us(99.0));
        let closed = run(None, Until::Count(500), stall);
        assert!(closed.latency.percentile_us(99.0) < 150_000.0 && closed.latency.max_us() >= 199_000.0);
    }

    #[test]
    fn a_count_is_met_exactly() {
        assert_eq!(run(None, Until::Count(123), Duration::ZERO).operations, 123);
        assert_eq!(run(Some(20_000.0), Until::Count(123), Duration::ZERO).operations, 123);
    }
}
