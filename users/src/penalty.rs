//! The penalty: how long the answer to a failed login is held back, by the address it came from.
//!
//! # Invariants
//! An address has one home shard. A success does not wipe out failures: a guesser who owns one account would use it
//! for that. Time does.
//!
//! # Limits
//! [`PenaltyLimits`]. IPv6 addresses count by their /64.

use std::net::IpAddr;

use crate::home::AddressKey;
use crate::table::Table;

/// The bounds of a [`Penalty`].
#[derive(Clone, Copy, Debug)]
pub struct PenaltyLimits {
    /// Addresses on one shard; the one that failed first makes room. 50,000.
    pub entries_max: usize,
    /// The delay after the first failure; it doubles with each. 2,000 ms.
    pub delay_ms_min: u64,
    /// The longest. 15,000 ms.
    pub delay_ms_max: u64,
    /// The time that takes one failure away. 60,000 ms.
    pub decay_ms: u64,
}

impl Default for PenaltyLimits {
    fn default() -> Self {
        PenaltyLimits { entries_max: 50_000, delay_ms_min: 2_000, delay_ms_max: 15_000, decay_ms: 60_000 }
    }
}

/// The failures of one shard's addresses.
#[derive(Debug)]
pub struct Penalty {
    limits: PenaltyLimits,
    addresses: Table<AddressKey, Failures>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u64,
    /// When the count was last brought up to date.
    since_ms: u64,
}

/// More failures than this are not told apart, so that an address recovers within the hour.
const FAILURES_MAX: u64 = 20;

impl Penalty {
    pub fn new(limits: PenaltyLimits) -> Penalty {
        Penalty { limits, addresses: Table::new(limits.entries_max) }
    }

    /// How long the answer to an attempt from there is held back, before it is known whether it is right: 0 without
    /// failures, then doubling.
    pub fn delay_ms(&self, address: IpAddr, now_ms: u64) -> u64 {
        let failures = self.addresses.get(&AddressKey::new(address));
        match failures.map_or(0, |failures| self.left(failures, now_ms)) {
            0 => 0,
            count => {
                let doubled = self.limits.delay_ms_min.saturating_mul(1 << (count - 1).min(32));
                doubled.min(self.limits.delay_ms_max)
            }
        }
    }

    /// A login from there failed; gives the delay of this very answer.
    pub fn failed(&mut self, address: IpAddr, now_ms: u64) -> u64 {
        let (limits, key) = (self.limits, AddressKey::new(address));
        let count = self.addresses.get(&key).map_or(0, |failures| self.left(failures, now_ms));
        self.addresses.expire(|failures| {
            failures.since_ms.saturating_add(limits.decay_ms.saturating_mul(failures.count)) <= now_ms
        });
        let failures = self.addresses.entry(&key);
        // What is left of a step of decay is kept, so that failing often does not postpone it.
        let partial = now_ms.saturating_sub(failures.since_ms).checked_rem(limits.decay_ms).unwrap_or(0);
        failures.since_ms = if count == 0 { now_ms } else { now_ms.saturating_sub(partial) };
        failures.count = (count + 1).min(FAILURES_MAX);
        self.delay_ms(address, now_ms)
    }

    /// Addresses remembered.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn left(&self, failures: &Failures, now_ms: u64) -> u64 {
        let passed = now_ms.saturating_sub(failures.since_ms);
        failures.count.saturating_sub(passed.checked_div(self.limits.decay_ms).unwrap_or(failures.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn delays_double_up_to_the_longest_and_time_takes_them_away() {
        let (mut penalty, home) = (Penalty::new(PenaltyLimits::default()), address("192.0.2.1"));
        assert_eq!(penalty.delay_ms(home, 0), 0);
        let delays: Vec<_> = (0..6).map(|n| penalty.failed(home, n)).collect();
        assert_eq!(delays, [2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(penalty.delay_ms(address("192.0.2.2"), 6), 0);
        assert_eq!(penalty.delay_ms(home, 3 * 60_000), 8_000);
        assert_eq!(penalty.delay_ms(home, 5 * 60_000), 2_000);
        assert_eq!(penalty.delay_ms(home, 6 * 60_000), 0);
        for n in 0..100 {
            penalty.failed(home, 400_000 + n);
        }
        assert_eq!(penalty.delay_ms(home, 400_000 + 21 * 60_000), 0);
    }

    #[test]
    fn failing_often_does_not_postpone_decay() {
        let (mut penalty, home) = (Penalty::new(PenaltyLimits::default()), address("192.0.2.1"));
        assert_eq!(penalty.failed(home, 0), 2_000);
        assert_eq!(penalty.failed(home, 59_000), 4_000);
        assert_eq!(penalty.delay_ms(home, 60_000), 2_000);
        assert_eq!(penalty.failed(home, 120_000), 2_000);
    }

    #[test]
    fn the_table_is_bounded() {
        let limits = PenaltyLimits { entries_max: 50, ..PenaltyLimits::default() };
        let mut penalty = Penalty::new(limits);
        for n in 0..5000_u32 {
            penalty.failed(IpAddr::from(n.to_be_bytes()), 0);
        }
        assert_eq!(penalty.len(), 50);
        for n in 0..5000_u128 {
            penalty.failed(IpAddr::from(((0x2001_0db8_u128 << 96) + n).to_be_bytes()), 1);
        }
        assert_eq!(penalty.delay_ms(address("2001:db8::ffff"), 2), 15_000, "one /64 is one client");
    }
}
