//! When operations are due: an open loop's arrivals do not wait for answers.

use std::time::Duration;

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Independent of each other, as users are (a Poisson process)
    Exponential,
    /// At equal distances
    Fixed,
}

/// The arrivals of one connection, from the start of a phase.
pub struct Schedule {
    random: Random,
    arrivals: Arrivals,
    mean: f64,
    next: f64,
}

impl Schedule {
    /// `rate` per second is shared by `connections`; each has its own queue.
    pub fn new(
        rate: f64,
        arrivals: Arrivals,
        (connection, connections): (usize, usize),
        seed: u64,
    ) -> Schedule {
        let mean = connections as f64 / rate;
        let mut random = Random::new(seed, 2_000_000 + connection as u64);
        let next = match arrivals {
            Arrivals::Exponential => random.exponential(mean),
            Arrivals::Fixed => mean * connection as f64 / connections as f64,
        };
        Schedule { random, arrivals, mean, next }
    }

    pub fn due(&mut self) -> Duration {
        let due = self.next;
        self.next += match self.arrivals {
            Arrivals::Exponential => self.random.exponential(self.mean),
            Arrivals::Fixed => self.mean,
        };
        Duration::from_secs_f64(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_met_over_all_connections() {
        for arrivals in [Arrivals::Exponential, Arrivals::Fixed] {
            let within: usize = (0..10)
                .map(|connection| {
                    let mut schedule = Schedule::new(500.0, arrivals, (connection, 10), 1);
                    std::iter::repeat_with(|| schedule.due()).take_while(|due| due.as_secs() < 40).count()
                })
                .sum();
            assert!((19_500..20_500).contains(&within), "{arrivals:?}: {within} of 20000");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        let first = |seed| {
            let mut schedule = Schedule::new(100.0, Arrivals::Exponential, (3, 4), seed);
            (0..50).map(|_| schedule.due()).collect::<Vec<_>>()
        };
        assert_eq!(first(5), first(5));
        assert_ne!(first(5), first(6));
        assert!(first(5).is_sorted());
    }
}
