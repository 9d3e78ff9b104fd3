//! What the admin port does for a node's operator: take partitions over, look for orphans, and tell what the store's requests
//! cost.
//!
//! # Limits
//! [`TAKE_WITHIN`] for a takeover, which then goes on in the background, and for a part of a search; [`SPENT_WITHIN`] for a shard
//! to say what it spent.

use crate::config::{Prices, StorageConfig};
use crate::control::{Control, partitions};
use crate::serve::Shard;
use culver_model::PartitionId;
use culver_shard as shard;
use culver_shard::sync::oneshot;
use culver_shard::{Queue, local, mesh, time};
use culver_storage::store::{Bills, Cost, Costs, Kind};
use culver_storage::{GcError, Node};
use hyper::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const TAKE_WITHIN: Duration = Duration::from_secs(300);
const SPENT_WITHIN: Duration = Duration::from_secs(5);
/// Accounts that are told one by one where nobody says how many, and at most.
const ACCOUNTS: usize = 20;
const ACCOUNTS_MAX: usize = 10_000;
const GIB: f64 = (1u64 << 30) as f64;

/// Whether a request comes from the operator.
pub fn allows(authorization: &[u8]) -> bool {
    local::<Control>().is_some_and(|control| control.allows(authorization))
}

/// Whether there is anything here to be asked: on a local store there is not.
pub fn is_here() -> bool {
    local::<Node>().is_some()
}

/// What is answered where there is not.
pub fn alone() -> (StatusCode, Value) {
    wrong(
        StatusCode::CONFLICT,
        "its store is of this machine alone, where no node takes over and no request is billed",
    )
}

pub fn wrong(status: StatusCode, what: impl std::fmt::Display) -> (StatusCode, Value) {
    (status, json!({"error": what.to_string()}))
}

/// `POST /takeover?partitions=…`
pub async fn takeover(here: &Shard, query: &str) -> (StatusCode, Value) {
    let Some(node) = local::<Node>() else {
        return wrong(StatusCode::CONFLICT, "its store is of this machine alone");
    };
    let Some(text) = query.strip_prefix("partitions=") else {
        return wrong(StatusCode::BAD_REQUEST, "write /takeover?partitions=all");
    };
    let count = here.accounts().storage().partition_count();
    let wanted = match partitions(text) {
        Ok(None) => (0..count).collect(),
        Ok(Some(wanted)) => wanted,
        Err(what) => return wrong(StatusCode::BAD_REQUEST, what),
    };
    if let Some(strange) = wanted.iter().find(|id| **id >= count) {
        let what = format!("there is no partition {strange}: this store has 0 to {}", count - 1);
        return wrong(StatusCode::BAD_REQUEST, what);
    }
    let wanted: Vec<PartitionId> = wanted.into_iter().map(PartitionId).collect();
    let before = node.held();
    let had = wanted.iter().filter(|id| before.contains(id)).count();
    if here.is_draining() {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping");
    }
    let began = time::now();
    // It goes on when nobody waits for it any more: half of it done would help nobody.
    let (sender, taking) = oneshot::channel();
    let (taker, asked) = (node.clone(), wanted.clone());
    shard::spawn(Queue::Background, "takeover", async move {
        let _ = sender.send(taker.take_over(&asked).await);
    })
    .detach();
    let taken = match time::deadline(TAKE_WITHIN, taking).await {
        Ok(Err(_)) => return wrong(StatusCode::SERVICE_UNAVAILABLE, "it failed; look at the log"),
        Ok(Ok(Ok(taken))) => taken,
        Ok(Ok(Err(error))) => return wrong(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(_) => {
            let what = format!("not done within {} s; it goes on, look at the log", TAKE_WITHIN.as_secs());
            return wrong(StatusCode::GATEWAY_TIMEOUT, what);
        }
    };
    let ms = began.elapsed().as_millis() as u64;
    tracing::info!(asked = wanted.len(), taken, ms, "takeover");
    let answer = json!({
        "node": node.name(),
        "asked": wanted.len(),
        "had": had,
        "taken": taken,
        "held": node.held().len(),
        "ms": ms,
    });
    (StatusCode::OK, answer)
}

/// `POST /gc?part=N&remove=false`, where the part is a partition or `journals`.
pub async fn gc(here: &Shard, query: &str) -> (StatusCode, Value) {
    let Some(node) = local::<Node>() else {
        return wrong(StatusCode::CONFLICT, "its store is of this machine alone");
    };
    let count = here.accounts().storage().partition_count();
    let usage =
        || wrong(StatusCode::BAD_REQUEST, "write /gc?part=0&remove=false, with a partition or journals");
    let Some((part, remove)) = query.strip_prefix("part=").and_then(|rest| rest.split_once("&remove="))
    else {
        return usage();
    };
    let Ok(remove) = remove.parse::<bool>() else { return usage() };
    let began = time::now();
    let looked = async {
        match part.parse::<u16>() {
            Ok(id) if id < count => Some(node.collect(PartitionId(id), remove).await),
            Err(_) if part == "journals" => Some(node.collect_journals(remove).await.map(Some)),
            _ => None,
        }
    };
    let found = match time::deadline(TAKE_WITHIN, looked).await {
        Ok(Some(found)) => found,
        Ok(None) => return usage(),
        Err(_) => {
            let what = format!("part {part}: not done within {} s; the store is slow", TAKE_WITHIN.as_secs());
            return wrong(StatusCode::GATEWAY_TIMEOUT, what);
        }
    };
    let found = match found {
        Ok(found) => found,
        Err(error @ (GcError::NoListing | GcError::Busy)) => return wrong(StatusCode::CONFLICT, error),
        Err(error) => return wrong(StatusCode::SERVICE_UNAVAILABLE, error),
    };
    if let Some(found) = &found {
        let (orphans, missing, ms) = (found.orphans, found.missing, began.elapsed().as_millis() as u64);
        tracing::info!(part, remove, orphans, missing, ms, "gc");
        for key in &found.missing_keys {
            tracing::error!(
                key,
                "an object that is needed is missing: restore it from a backup of the store"
            );
        }
    }
    let found = found.map(|found| {
        json!({
            "objects": found.objects,
            "octets": found.octets,
            "named": found.named,
            "in_work": found.in_work,
            "orphans": found.orphans,
            "orphan_octets": found.orphan_octets,
            "orphan_keys": found.orphan_keys,
            "missing": found.missing,
            "missing_keys": found.missing_keys,
        })
    });
    (StatusCode::OK, json!({"node": node.name(), "partitions": count, "found": found}))
}

/// What requests of one shard, or of the node, cost.
#[derive(Default)]
pub struct Spent {
    pub kinds: BTreeMap<(Kind, &'static str), Cost>,
    pub retries: u64,
    pub hedges: u64,
    /// The dearest accounts, and all others together. The rest of the costs is on no account's bill.
    pub accounts: Vec<(String, Vec<(Kind, Cost)>)>,
    pub others: BTreeMap<Kind, Cost>,
}

impl Spent {
    /// `accounts`: so many of them are told one by one.
    fn of(costs: &Costs, accounts: usize) -> Spent {
        let Bills { accounts, others } = costs.bills(accounts);
        Spent {
            kinds: costs.all().into_iter().map(|(kind, purpose, cost)| ((kind, purpose), cost)).collect(),
            retries: costs.retries().iter().map(|(_, count)| count).sum(),
            hedges: costs.hedges(),
            accounts: accounts.into_iter().map(|(id, costs)| (id.as_str().to_owned(), costs)).collect(),
            others: others.into_iter().collect(),
        }
    }

    /// Of the running shard; on shard 0 with the node's own.
    pub fn here(shard: &Shard, accounts: usize) -> Spent {
        let costs = shard.accounts().storage().costs();
        let mut spent = costs.map(|costs| Spent::of(costs, accounts)).unwrap_or_default();
        if let Some(node) = local::<Node>() {
            spent.add(Spent::of(node.costs(), 0));
        }
        spent
    }

    pub fn add(&mut self, other: Spent) {
        for (key, cost) in other.kinds {
            self.kinds.entry(key).or_default().add(&cost);
        }
        self.retries += other.retries;
        self.hedges += other.hedges;
        self.accounts.extend(other.accounts);
        for (kind, cost) in other.others {
            self.others.entry(kind).or_default().add(&cost);
        }
    }

    /// What is on no account's bill: what was asked for many together.
    fn shared(&self) -> BTreeMap<Kind, Cost> {
        let mut shared: BTreeMap<Kind, Cost> = BTreeMap::new();
        for ((kind, _), cost) in &self.kinds {
            shared.entry(*kind).or_default().add(cost);
        }
        let billed =
            self.accounts.iter().flat_map(|(_, costs)| costs.iter().map(|(kind, cost)| (kind, cost)));
        for (kind, cost) in billed.chain(&self.others) {
            if let Some(rest) = shared.get_mut(kind) {
                rest.requests = rest.requests.saturating_sub(cost.requests);
                rest.failed = rest.failed.saturating_sub(cost.failed);
                rest.octets_sent = rest.octets_sent.saturating_sub(cost.octets_sent);
                rest.octets_received = rest.octets_received.saturating_sub(cost.octets_received);
            }
        }
        shared
    }

    /// Tells only so many accounts one by one, the dearest at these prices.
    fn keep_dearest(&mut self, count: usize, prices: &Prices) {
        let paid = |costs: &[(Kind, Cost)]| costs.iter().map(|(kind, cost)| money(prices, *kind, cost)).sum();
        let requests = |costs: &[(Kind, Cost)]| costs.iter().map(|(_, cost)| cost.requests).sum::<u64>();
        self.accounts.sort_by(|(_, a), (_, b)| {
            let (a, b): ((f64, u64), (f64, u64)) = ((paid(a), requests(a)), (paid(b), requests(b)));
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
        });
        for (_, costs) in self.accounts.drain(count.min(self.accounts.len())..) {
            for (kind, cost) in costs {
                self.others.entry(kind).or_default().add(&cost);
            }
        }
    }
}

/// `GET /cost?accounts=20`
pub async fn cost(config: &StorageConfig, query: &str) -> (StatusCode, Value) {
    let accounts = match query {
        "" => Some(ACCOUNTS),
        query => query.strip_prefix("accounts=").and_then(|count| count.parse().ok()),
    };
    let Some(accounts) = accounts.filter(|count| *count <= ACCOUNTS_MAX) else {
        return wrong(StatusCode::BAD_REQUEST, format!("write /cost?accounts=N, up to {ACCOUNTS_MAX}"));
    };
    let mut spent = Spent::default();
    for at in 0..shard::shards() {
        let asked =
            mesh::call(at, move || async move { Shard::here().map(|shard| Spent::here(&shard, accounts)) });
        match time::deadline(SPENT_WITHIN, asked).await {
            Ok(Ok(Some(one))) => spent.add(one),
            _ => return wrong(StatusCode::SERVICE_UNAVAILABLE, format!("shard {at} does not answer")),
        }
    }
    spent.keep_dearest(accounts, &config.prices);
    let node = local::<Node>();
    (StatusCode::OK, told(node.as_deref().map(Node::name), &spent, &config.prices))
}

fn told(node: Option<&str>, spent: &Spent, prices: &Prices) -> Value {
    let line = |cost: &Cost, kind: Kind| {
        json!({
            "requests": cost.requests,
            "failed": cost.failed,
            "octets_sent": cost.octets_sent,
            "octets_received": cost.octets_received,
            "money": money(prices, kind, cost),
        })
    };
    let kinds: Vec<Value> = spent
        .kinds
        .iter()
        .map(|((kind, purpose), cost)| {
            let mut told = line(cost, *kind);
            told["kind"] = json!(kind.name());
            told["purpose"] = json!(purpose);
            told
        })
        .collect();
    let total: f64 = spent.kinds.iter().map(|((kind, _), cost)| money(prices, *kind, cost)).sum();
    let summed = |costs: &mut dyn Iterator<Item = (Kind, Cost)>| {
        let (mut sum, mut paid) = (Cost::default(), 0.0);
        for (kind, cost) in costs {
            sum.add(&cost);
            paid += money(prices, kind, &cost);
        }
        json!({
            "requests": sum.requests,
            "octets_sent": sum.octets_sent,
            "octets_received": sum.octets_received,
            "money": paid,
        })
    };
    let accounts: Vec<Value> = spent
        .accounts
        .iter()
        .map(|(account, costs)| {
            let mut told = summed(&mut costs.iter().copied());
            told["account"] = json!(account);
            told
        })
        .collect();
    let others = summed(&mut spent.others.iter().map(|(kind, cost)| (*kind, *cost)));
    let shared = summed(&mut spent.shared().into_iter());
    json!({
        "node": node,
        "currency": prices.currency,
        "kinds": kinds,
        "money": total,
        "retries": spent.retries,
        "hedges": spent.hedges,
        "accounts": accounts,
        "other_accounts": others,
        "shared": shared,
    })
}

/// What requests of one kind are billed.
fn money(prices: &Prices, kind: Kind, cost: &Cost) -> f64 {
    let per_thousand = match kind {
        Kind::Put => prices.put,
        Kind::Get | Kind::Head => prices.get,
        Kind::Delete => prices.delete,
        Kind::List => prices.list,
    };
    cost.requests as f64 * per_thousand / 1000.0
        + cost.octets_sent as f64 / GIB * prices.sent_gib
        + cost.octets_received as f64 / GIB * prices.received_gib
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_accounts_pay_what_others_pay_and_what_is_shared_is_all() {
        let cost = |requests| Cost { requests, octets_received: 10 * requests, ..Cost::default() };
        let mut spent = Spent {
            kinds: [((Kind::Put, "journal"), cost(7)), ((Kind::Get, "pack"), cost(100))].into(),
            accounts: (1..=5).map(|n| (format!("u{n}@example.org"), vec![(Kind::Get, cost(n))])).collect(),
            others: [(Kind::Get, cost(20))].into(),
            ..Spent::default()
        };
        let prices = Prices { put: 5.0, get: 0.4, ..Prices::default() };
        spent.keep_dearest(2, &prices);
        let told = told(None, &spent, &prices);
        let names: Vec<_> = told["accounts"].as_array().unwrap().iter().map(|one| &one["account"]).collect();
        assert_eq!(names, ["u5@example.org", "u4@example.org"]);
        assert_eq!(told["other_accounts"]["requests"], 20 + 1 + 2 + 3);
        assert_eq!(told["shared"]["requests"], 7 + 100 - 20 - (1 + 2 + 3 + 4 + 5));
        let money = |value: &Value| value["money"].as_f64().unwrap();
        let parts: f64 = told["accounts"].as_array().unwrap().iter().map(money).sum();
        let all = parts + money(&told["other_accounts"]) + money(&told["shared"]);
        assert!((all - money(&told)).abs() < 1e-9, "{told}");
    }

    #[test]
    fn money_is_by_the_thousand_requests_and_the_gibibyte() {
        let prices = Prices { put: 5.0, get: 0.4, sent_gib: 2.0, received_gib: 90.0, ..Prices::default() };
        let cost = Cost { requests: 2000, failed: 0, octets_sent: 1 << 29, octets_received: 0 };
        assert_eq!(money(&prices, Kind::Put, &cost), 11.0);
        let cost = Cost { requests: 500, failed: 0, octets_sent: 0, octets_received: 1 << 30 };
        assert_eq!(money(&prices, Kind::Head, &cost), 90.2);
        assert_eq!(money(&Prices::default(), Kind::Delete, &cost), 0.0);
    }
}
