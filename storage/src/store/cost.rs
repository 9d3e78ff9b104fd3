//! What a store's requests cost: how many, of which kind, for what, how many octets, on whose account.
//!
//! # Limits
//! [`ACCOUNTS_MAX`] accounts are told apart; above it those with the least requests are added up under no name.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use culver_model::AccountId;

use super::op::{Failure, Kind, Op, Outcome};

const ACCOUNTS_MAX: usize = 65_536;
/// Buckets of latencies: up to 1, 2, 4, ... milliseconds, and the rest.
pub const BUCKETS: usize = 16;

/// What an object is for, by the first part of its key.
pub type Purpose = &'static str;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests that the store answered or may have: those are billed.
    pub requests: u64,
    pub failed: u64,
    pub octets_sent: u64,
    pub octets_received: u64,
}

impl Cost {
    pub fn add(&mut self, other: &Cost) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.octets_sent += other.octets_sent;
        self.octets_received += other.octets_received;
    }
}

/// Latencies of one kind: how many requests took up to 2^n milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub counts: [u64; BUCKETS],
    pub sum: Duration,
}

/// In the order of [`Kind::ALL`].
type ByKind = [Cost; Kind::ALL.len()];

/// What was asked for accounts. What was asked for many together (journals, packs, tables that were written) is on no account's
/// bill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bills {
    /// The accounts for which most was asked, with what was, by kind.
    pub accounts: Vec<(AccountId, Vec<(Kind, Cost)>)>,
    /// All others together.
    pub others: Vec<(Kind, Cost)>,
}

#[derive(Default)]
pub struct Costs {
    by_kind: RefCell<BTreeMap<(Kind, Purpose), Cost>>,
    latencies: RefCell<BTreeMap<Kind, Latencies>>,
    by_account: RefCell<HashMap<AccountId, ByKind>>,
    /// Of accounts that are not told apart any more.
    forgotten: RefCell<ByKind>,
    retries: RefCell<BTreeMap<Kind, u64>>,
    hedges: Cell<u64>,
}

impl Costs {
    pub(super) fn count(
        &self,
        op: &Op<'_>,
        result: &Result<Outcome, Failure>,
        took: Duration,
        account: Option<&AccountId>,
    ) {
        let cost = Cost {
            requests: 1,
            failed: u64::from(matches!(result, Err(Failure::Passing { .. } | Failure::Refused(_)))),
            octets_sent: op.octets(),
            octets_received: match result {
                Ok(Outcome::Octets(octets)) => octets.len() as u64,
                _ => 0,
            },
        };
        let kind = op.kind();
        self.by_kind.borrow_mut().entry((kind, purpose_of(op.key()))).or_default().add(&cost);
        if result.is_ok() {
            let mut latencies = self.latencies.borrow_mut();
            let latencies = latencies.entry(kind).or_default();
            let bucket = (took.as_millis() as u64).checked_ilog2().map_or(0, |log| log as usize + 1);
            latencies.counts[bucket.min(BUCKETS - 1)] += 1;
            latencies.sum += took;
        }
        if let Some(account) = account {
            let mut accounts = self.by_account.borrow_mut();
            if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(account) {
                forget_half(&mut accounts, &mut self.forgotten.borrow_mut());
            }
            let at = Kind::ALL.iter().position(|one| *one == kind).expect("ALL has all");
            match accounts.get_mut(account) {
                Some(costs) => costs[at].add(&cost),
                None => {
                    let mut costs = ByKind::default();
                    costs[at] = cost;
                    accounts.insert(account.clone(), costs);
                }
            }
        }
    }

    pub(super) fn retried(&self, kind: Kind) {
        *self.retries.borrow_mut().entry(kind).or_default() += 1;
    }

    pub(super) fn hedged(&self) {
        self.hedges.set(self.hedges.get() + 1);
    }

    /// By kind and purpose.
    pub fn all(&self) -> Vec<(Kind, Purpose, Cost)> {
        self.by_kind.borrow().iter().map(|((kind, purpose), cost)| (*kind, *purpose, *cost)).collect()
    }

    pub fn latencies(&self) -> Vec<(Kind, Latencies)> {
        self.latencies.borrow().iter().map(|(kind, latencies)| (*kind, *latencies)).collect()
    }

    /// Requests that were tried again.
    pub fn retries(&self) -> Vec<(Kind, u64)> {
        self.retries.borrow().iter().map(|(kind, count)| (*kind, *count)).collect()
    }

    /// Reads that were asked a second time.
    pub fn hedges(&self) -> u64 {
        self.hedges.get()
    }

    /// What was asked for each of so many accounts, and for all others.
    pub fn bills(&self, count: usize) -> Bills {
        let accounts = self.by_account.borrow();
        let mut all: Vec<(&AccountId, &ByKind)> = accounts.iter().collect();
        all.sort_unstable_by(|a, b| requests(b.1).cmp(&requests(a.1)).then_with(|| a.0.cmp(b.0)));
        let mut others = *self.forgotten.borrow();
        all.iter().skip(count).for_each(|(_, costs)| add_all(&mut others, costs));
        let kinds = |costs: &ByKind| Kind::ALL.into_iter().zip(costs.iter().copied()).collect();
        all.truncate(count);
        Bills {
            accounts: all.into_iter().map(|(account, costs)| (account.clone(), kinds(costs))).collect(),
            others: kinds(&others),
        }
    }
}

fn add_all(sum: &mut ByKind, costs: &ByKind) {
    sum.iter_mut().zip(costs).for_each(|(sum, cost)| sum.add(cost));
}

fn requests(costs: &ByKind) -> u64 {
    costs.iter().map(|cost| cost.requests).sum()
}

/// Keeps the dearer half; the other one is added up.
fn forget_half(accounts: &mut HashMap<AccountId, ByKind>, forgotten: &mut ByKind) {
    let mut all: Vec<u64> = accounts.values().map(requests).collect();
    all.sort_unstable();
    let middle = all[all.len() / 2];
    let mut left = accounts.len() / 2;
    accounts.retain(|_, costs| {
        let keep = requests(costs) > middle || (requests(costs) == middle && left > 0);
        left = left.saturating_sub(usize::from(keep));
        if !keep {
            add_all(forgotten, costs);
        }
        keep
    });
}

/// What the object of a key is for: a label of few values.
fn purpose_of(key: &str) -> Purpose {
    let (first, rest) = key.split_once('/').unwrap_or((key, ""));
    match first {
        "owner" => "owner",
        "journal" => "journal",
        "low" => "low",
        "freed" => "freed",
        "probe" => "probe",
        "data" => match rest.rsplit_once('.').map_or("", |(_, kind)| kind) {
            "pack" => "pack",
            "table" => "table",
            "manifest" => "manifest",
            _ => "data",
        },
        _ => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: usize) -> AccountId {
        AccountId::parse(&format!("u{number}@example.org")).unwrap()
    }

    #[test]
    fn requests_are_counted_by_kind_purpose_and_account() {
        let costs = Costs::default();
        let read = Op::Get { key: "data/1/7-0-1.pack", range: Some(0..10) };
        let octets = Ok(Outcome::Octets(vec![0; 10]));
        costs.count(&read, &octets, Duration::from_millis(3), Some(&account(1)));
        costs.count(&read, &Err(Failure::passing("x")), Duration::from_millis(3), Some(&account(1)));
        costs.count(&Op::Head { key: "owner/1/0" }, &Err(Failure::NotFound), Duration::ZERO, None);
        let read = Cost { requests: 2, failed: 1, octets_sent: 0, octets_received: 10 };
        let head = Cost { requests: 1, ..Cost::default() };
        assert_eq!(costs.all(), [(Kind::Get, "pack", read), (Kind::Head, "owner", head)]);
        let bills = costs.bills(5);
        assert_eq!((&bills.accounts[0].0, bills.accounts[0].1[1]), (&account(1), (Kind::Get, read)));
        assert_eq!(bills.accounts.len(), 1);
        assert!(bills.others.iter().all(|(_, cost)| *cost == Cost::default()));
        assert_eq!(costs.bills(0).others[1], (Kind::Get, read), "who is not told apart is added up");
        assert_eq!(costs.latencies()[0].1.counts[2], 1, "3 ms are up to 4");
    }

    #[test]
    fn accounts_are_bounded_and_the_dear_ones_stay() {
        let mut accounts = HashMap::new();
        for number in 0..1000 {
            let mut costs = ByKind::default();
            costs[0].requests = if number < 10 { 100 } else { 1 };
            accounts.insert(account(number), costs);
        }
        let all: u64 = accounts.values().map(requests).sum();
        let mut forgotten = ByKind::default();
        forget_half(&mut accounts, &mut forgotten);
        assert_eq!(
            accounts.values().map(requests).sum::<u64>() + requests(&forgotten),
            all,
            "nothing is lost"
        );
        assert!(accounts.len() <= 510, "{}", accounts.len());
        assert!((0..10).all(|number| accounts.contains_key(&account(number))));
    }
}
