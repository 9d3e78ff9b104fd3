//! What mail costs on a store that bills its requests: a node on a simulated store, in simulated time, with the real flush, trim and
//! compaction. Every day clients alone; `CULVER_COSTS=short` also twenty minutes of deliveries, `CULVER_COSTS=long` an hour
//! of them to 20,000 accounts, for the figures (both in a release build; the long one with `--test-threads 1`, for it takes 10 GiB).
#![cfg(feature = "simulation")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::sync::{Notify, oneshot};
use culver_shard::{Queue, random, spawn, time};
use culver_storage::simstore::{SimStore, StoreFaults};
use culver_storage::store::{Cost, Costs, Kind, Octets, Patience};
use culver_storage::{
    AccountBlocks, BlockKind, Body, CacheStatus, Haste, Limits, LocalFuture, Node, NodeConfig, NodeShare,
    Place, Position, Source, SourceError, Storage, TABLES_MAX_SHARED,
};

const KEY: Guid = Guid([1; 16]);
/// Octets of a record's meta, and of what a message adds to its account's blocks: prepared forms and a row.
const META_OCTETS: usize = 600;
/// Polls of a simulated hour.
const STEPS_MAX: u64 = 20_000_000_000;
/// Simulated polls between two looks whether a run has ended.
const STEPS: u64 = 1_000_000;

/// What a run does.
#[derive(Clone, Copy, Debug)]
struct Load {
    accounts: usize,
    shards: usize,
    /// Deliveries per second, of all shards together.
    rate: f64,
    /// Clients that change flags as fast as they are answered.
    clients: usize,
    /// Octets of a message.
    octets: usize,
    /// Before anything is counted, so that flush, trim and compaction are in their stride; and counted.
    warm: Duration,
    counted: Duration,
    pack_single: bool,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    counting: Cell<bool>,
    delivered: Cell<u64>,
    changed: Cell<u64>,
    refused: Cell<u64>,
    /// Milliseconds from the submission to the answer.
    delivery_ms: RefCell<Vec<u32>>,
    change_ms: RefCell<Vec<u32>>,
    /// Of one PUT of this store, with nothing beside it that it would wait for.
    put_ms: RefCell<Vec<u32>>,
    /// Octets of all messages that were delivered, from the beginning on.
    raw: Cell<u64>,
    /// What the store held, and what had been delivered, when counting began.
    held_before: RefCell<Held>,
    raw_before: Cell<u64>,
    cache: RefCell<Vec<CacheStatus>>,
    before: RefCell<Vec<Spent>>,
    after: RefCell<Vec<Spent>>,
    ended: Cell<usize>,
}

type Spent = BTreeMap<(Kind, &'static str), Cost>;
/// Octets that the store holds, by kind of object.
type Held = BTreeMap<String, u64>;

fn held(store: &SimStore) -> Held {
    let mut held = Held::new();
    for (key, octets) in store.sizes() {
        let kind = match key.split_once('/') {
            Some(("data", rest)) => rest.rsplit_once('.').map_or(rest, |(_, kind)| kind),
            Some((kind, _)) => kind,
            None => &key,
        };
        *held.entry(kind.to_owned()).or_default() += octets;
    }
    held
}

fn spent(costs: &Costs) -> Spent {
    costs.all().into_iter().map(|(kind, purpose, cost)| ((kind, purpose), cost)).collect()
}

impl Outcome {
    /// Requests while it counted, by kind and purpose.
    fn requests(&self) -> BTreeMap<(Kind, &'static str), u64> {
        let mut requests: BTreeMap<(Kind, &'static str), u64> = BTreeMap::new();
        for spent in self.after.borrow().iter() {
            for (key, cost) in spent {
                *requests.entry(*key).or_default() += cost.requests;
            }
        }
        for spent in self.before.borrow().iter() {
            for (key, cost) in spent {
                *requests.entry(*key).or_default() -= cost.requests;
            }
        }
        requests
    }

    fn of(&self, kinds: &[Kind]) -> u64 {
        let requests = self.requests();
        requests.iter().filter(|((kind, _), _)| kinds.contains(kind)).map(|(_, count)| count).sum()
    }

    /// What is billed as a change.
    fn billed(&self) -> u64 {
        self.of(&[Kind::Put, Kind::List])
    }
}

/// Accounts whose blocks grow by a row for each message, as a mailbox's do.
struct Rows {
    storage: Storage,
    /// Rows, those that are stored, and whether there is a base.
    accounts: RefCell<BTreeMap<AccountId, (u64, u64, u32)>>,
}

impl Source for Rows {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        last: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            let accounts = self.accounts.borrow();
            let (rows, stored, deltas) = accounts.get(account).copied().unwrap_or_default();
            // As a mailbox does it: a base where deltas would outweigh it, or are many.
            let fresh = rows - stored;
            let (kind, many) = match stored == 0 || deltas >= 8 || fresh > stored / 2 {
                true => (BlockKind::Base, rows),
                false => (BlockKind::Delta, fresh),
            };
            let octets = text(many as usize * META_OCTETS);
            Ok(AccountBlocks { position: last, blocks: vec![(KEY, kind, octets)] })
        })
    }

    fn flushed(&self, _: PartitionId, account: &AccountId, _: Position) {
        if let Some((rows, stored, deltas)) = self.accounts.borrow_mut().get_mut(account) {
            let whole = *stored == 0 || *deltas >= 8 || *rows - *stored > *stored / 2;
            *deltas = if whole { 0 } else { *deltas + 1 };
            *stored = *rows;
        }
    }

    fn live<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async move { Ok(vec![true; places.len()]) })
    }

    fn relocated<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let (places, bodies): (Vec<Place>, Vec<Body>) = moves.into_iter().unzip();
            let meta = places.iter().flat_map(|place| place.to_bytes()).collect();
            let (sender, receiver) = oneshot::channel();
            let told = Box::new(move |result| drop(sender.send(result)));
            // As a mailbox does: a flush that waited for room would wait for itself.
            let sent = self.storage.submit_wait(partition, account, meta, bodies, Haste::Urgent, told).await;
            sent.map_err(|error| SourceError(error.to_string()))?;
            match receiver.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(SourceError(error.to_string())),
                Err(_) => return Err(SourceError("the shard is stopping".to_owned())),
            }
            // As a mailbox does when it carries the record out.
            places.iter().for_each(|place| self.storage.released(partition, account, place));
            Ok(())
        })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

/// Hexadecimal digits, which compress to about half, as mail does.
fn text(octets: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets + 16);
    while out.len() < octets {
        out.extend_from_slice(format!("{:016x}", random::u64()).as_bytes());
    }
    out.truncate(octets);
    out
}

/// Accounts by how much mail they get: the n-th one n times less than the first.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Zipf {
        let mut sum = 0.0;
        Zipf(
            (1..=count)
                .map(|n| {
                    sum += 1.0 / n as f64;
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self) -> usize {
        let all = self.0.last().copied().unwrap_or(0.0);
        let at = random::u64() as f64 / u64::MAX as f64 * all;
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.test")).expect("an account name")
}

/// Submits one change and waits for it.
async fn change(storage: &Storage, account: &AccountId, body: Option<Vec<u8>>, haste: Haste) -> bool {
    let partition = storage.partition_of(account);
    let mut bodies = Vec::new();
    if let Some(octets) = body {
        let mut writer = storage.body_writer(partition, account, Some(octets.len() as u64));
        if writer.write(&octets).await.is_err() {
            return false;
        }
        match writer.finish().await {
            Ok(body) => bodies.push(body),
            Err(_) => return false,
        }
    }
    let meta = if bodies.is_empty() { vec![7; 60] } else { text(META_OCTETS) };
    let (sender, receiver) = oneshot::channel();
    let told = Box::new(move |result: Result<_, _>| {
        let _ = sender.send(result.is_ok());
    });
    match storage.submit_wait(partition, account, meta, bodies, haste, told).await {
        Ok(()) => receiver.await.unwrap_or(false),
        Err(_) => false,
    }
}

async fn deliver(rows: Rc<Rows>, nth: usize, octets: usize, outcome: Rc<Outcome>) {
    let (account, began) = (account(nth), time::now());
    let done = change(&rows.storage, &account, Some(text(octets)), Haste::Delivery).await;
    if done {
        outcome.raw.set(outcome.raw.get() + octets as u64);
        rows.accounts.borrow_mut().entry(account).or_default().0 += 1;
    }
    if outcome.counting.get() {
        let count = if done { &outcome.delivered } else { &outcome.refused };
        count.set(count.get() + 1);
        outcome.delivery_ms.borrow_mut().push(began.elapsed().as_millis() as u32);
    }
}

/// What one PUT takes: on a connection of its own, an object of 16 KiB every second.
async fn put_now_and_then(store: SimStore, outcome: Rc<Outcome>, until: time::Instant) {
    let (store, patience) = (store.of_node("probe"), Patience::interactive(Duration::from_secs(60)));
    let octets = Octets::from(text(16 << 10));
    while time::now() < until {
        let began = time::now();
        if store.put("probe/one", &octets, patience).await.is_ok() {
            outcome.put_ms.borrow_mut().push(began.elapsed().as_millis() as u32);
        }
        time::sleep(Duration::from_secs(1)).await;
    }
}

async fn run_shard(
    load: Load,
    shard: usize,
    store: SimStore,
    share: Rc<RefCell<Option<NodeShare>>>,
    came: Rc<Notify>,
    outcome: Rc<Outcome>,
) {
    let limits = Limits { pack_single: load.pack_single, tables_max: TABLES_MAX_SHARED, ..Limits::default() };
    let mut node = None;
    if shard == 0 {
        let joined = Node::join_simulated(&store, "/node".as_ref(), limits, NodeConfig::new("a")).await;
        let joined = joined.expect("the store answers");
        *share.borrow_mut() = Some(joined.share());
        node = Some(joined);
        came.notify_all();
    }
    let mine = loop {
        let seen = came.version();
        let mine = share.borrow().clone();
        match mine {
            Some(mine) => break mine,
            None => came.changed_since(seen).await,
        }
    };
    let storage = Storage::start_shared(mine).await.expect("the store answers");
    let rows = Rc::new(Rows { storage: storage.clone(), accounts: RefCell::default() });
    storage.attach(rows.clone());
    if let Some(node) = &node {
        // All shards have started by then.
        time::sleep(Duration::from_secs(1)).await;
        node.begin();
    }
    while !storage.partitions().iter().all(|id| storage.serves(*id)) {
        time::sleep(Duration::from_millis(100)).await;
    }
    let own: Vec<usize> = (0..load.accounts)
        .filter(|nth| storage.partition_of(&account(*nth)).index() % load.shards == shard)
        .collect();
    let (zipf, began) = (Zipf::new(load.accounts), time::now());
    let end = load.warm + load.counted;
    let mut clients = Vec::new();
    for nth in 0..load.clients / load.shards {
        let (rows, outcome) = (rows.clone(), outcome.clone());
        let account = account(own[nth % own.len()]);
        clients.push(spawn(Queue::Interactive, "client", async move {
            while began.elapsed() < end {
                let asked = time::now();
                if change(&rows.storage, &account, None, Haste::Interactive).await && outcome.counting.get() {
                    outcome.changed.set(outcome.changed.get() + 1);
                    outcome.change_ms.borrow_mut().push(asked.elapsed().as_millis() as u32);
                }
            }
        }));
    }
    if shard == 0 {
        spawn(Queue::Interactive, "one PUT", put_now_and_then(store.clone(), outcome.clone(), began + end))
            .detach();
    }
    let mut next = began;
    let mut counting = false;
    while began.elapsed() < end {
        if !counting && began.elapsed() >= load.warm {
            counting = true;
            if !outcome.counting.replace(true) {
                *outcome.held_before.borrow_mut() = held(&store);
                outcome.raw_before.set(outcome.raw.get());
            }
            outcome.before.borrow_mut().extend(storage.costs().map(spent));
            outcome.before.borrow_mut().extend(node.as_ref().map(|node| spent(node.costs())));
        }
        if load.rate == 0.0 {
            time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        // All shards draw all messages, and each takes those that are its own.
        let uniform = (random::u64() as f64 / u64::MAX as f64).max(1e-12);
        next = next + Duration::from_secs_f64(-uniform.ln() / load.rate);
        if next > time::now() {
            time::sleep(next - time::now()).await;
        }
        let nth = zipf.draw();
        if storage.partition_of(&account(nth)).index() % load.shards == shard {
            let delivery = deliver(rows.clone(), nth, load.octets, outcome.clone());
            spawn(Queue::Interactive, "delivery", delivery).detach();
        }
    }
    for client in clients {
        let _ = client.await;
    }
    outcome.after.borrow_mut().extend(storage.costs().map(spent));
    outcome.after.borrow_mut().extend(node.as_ref().map(|node| spent(node.costs())));
    outcome.cache.borrow_mut().extend(storage.cache_status());
    outcome.ended.set(outcome.ended.get() + 1);
    std::future::pending::<()>().await;
}

fn run(load: Load) -> (Rc<Outcome>, Held) {
    let sim = Sim::new(1, SimConfig { steps_max: STEPS_MAX, panics_end_run: true, ..SimConfig::default() });
    // 10 to 50 ms a request, as stores in the same region take.
    let store = SimStore::new(StoreFaults { delay_max: Duration::from_millis(30), ..StoreFaults::none() });
    let (outcome, share, came): (Rc<Outcome>, Rc<RefCell<Option<NodeShare>>>, Rc<Notify>) =
        (Rc::default(), Rc::default(), Rc::default());
    let node = sim.node("a");
    sim.start(node, load.shards, {
        let (store, outcome) = (store.clone(), outcome.clone());
        move |shard| run_shard(load, shard, store.clone(), share.clone(), came.clone(), outcome.clone())
    });
    while outcome.ended.get() < load.shards {
        sim.step(STEPS);
        assert!(sim.running(node), "the node has ended");
    }
    sim.kill(node);
    (outcome, held(&store))
}

/// The value that a part of them does not exceed.
fn quantile(values: &RefCell<Vec<u32>>, part: f64) -> u32 {
    let mut values = values.borrow_mut();
    values.sort_unstable();
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn tell(name: &str, load: &Load, outcome: &Outcome, stored: &Held) {
    let delivered = outcome.delivered.get().max(1) as f64;
    let seconds = load.counted.as_secs_f64();
    println!("{name}: {load:?}");
    println!(
        "  delivered {} ({} refused), PUT and LIST per message {:.4}, GET and HEAD per message {:.4}, PUT per second {:.2}",
        outcome.delivered.get(),
        outcome.refused.get(),
        outcome.billed() as f64 / delivered,
        outcome.of(&[Kind::Get, Kind::Head]) as f64 / delivered,
        outcome.of(&[Kind::Put]) as f64 / seconds,
    );
    let put = [0.5, 0.99].map(|part| quantile(&outcome.put_ms, part));
    println!("  one PUT of 16 KiB: ms p50 {} p99 {}", put[0], put[1]);
    for (what, all) in [("deliveries", &outcome.delivery_ms), ("changes", &outcome.change_ms)] {
        let [p50, p99] = [0.5, 0.99].map(|part| quantile(all, part));
        let times = |ms: u32, put: u32| f64::from(ms) / f64::from(put.max(1));
        println!(
            "  {what}: {:.1} per s, ms p50 {p50} p99 {p99}: {:.1} and {:.1} times the PUT's",
            all.borrow().len() as f64 / seconds,
            times(p50, put[0]),
            times(p99, put[1]),
        );
    }
    let (raw, before) = (outcome.raw.get() as f64, outcome.held_before.borrow());
    let fresh = raw - outcome.raw_before.get() as f64;
    println!("  octets stored for each of {raw:.0} raw, and for each that came while it was counted:");
    for (kind, octets) in stored {
        let more = *octets as f64 - before.get(kind).copied().unwrap_or(0) as f64;
        println!(
            "    {kind:<10}{octets:>14}{:>9.3}{:>9.3}",
            *octets as f64 / raw.max(1.0),
            more / fresh.max(1.0)
        );
    }
    let (all, was) = (stored.values().sum::<u64>() as f64, before.values().sum::<u64>() as f64);
    println!("    {:<10}{all:>14}{:>9.3}{:>9.3}", "all", all / raw.max(1.0), (all - was) / fresh.max(1.0));
    for ((kind, purpose), count) in outcome.requests() {
        println!("  {:<7}{purpose:<10}{count:>10}  {:.5} per message", kind.name(), count as f64 / delivered);
    }
    for cache in outcome.cache.borrow().iter() {
        println!(
            "  cache: {} hits, {} misses, {} taken in, {} not, {} evicted, {} octets held",
            cache.hits, cache.misses, cache.taken, cache.skipped, cache.evicted, cache.held_octets
        );
    }
}

fn long() -> bool {
    std::env::var_os("CULVER_COSTS").is_some_and(|how| how == "long")
}

/// Whether deliveries are simulated: that takes minutes.
fn wanted(name: &str) -> bool {
    let wanted = std::env::var_os("CULVER_COSTS").is_some();
    if !wanted {
        println!("skipped: {name}: it takes minutes; set CULVER_COSTS=short or long");
    }
    wanted
}

fn load(rate: f64, clients: usize, shards: usize) -> Load {
    let minutes = |everyday: u64, hour: u64| Duration::from_secs(60 * if long() { hour } else { everyday });
    Load {
        accounts: if long() { 20_000 } else { 500 },
        shards,
        rate,
        clients,
        octets: if long() { 2048 } else { 512 },
        // The first flushes come after ten minutes.
        warm: minutes(10, 20),
        counted: minutes(10, 40),
        pack_single: false,
    }
}

fn deliveries(name: &str, rate: f64, shards: usize, most: f64) {
    // Every day the dear one alone: what one message costs is highest where there are few.
    let everyday = rate <= 20.0 && shards == 2;
    if !wanted(name) || !(everyday || long()) {
        return;
    }
    let load = load(rate, 0, shards);
    let (outcome, stored) = run(load);
    tell("deliveries", &load, &outcome, &stored);
    assert_eq!(outcome.refused.get(), 0);
    let expected = rate * load.counted.as_secs_f64();
    assert!((outcome.delivered.get() as f64 - expected).abs() < expected / 10.0, "the load was another");
    let each = outcome.billed() as f64 / outcome.delivered.get() as f64;
    assert!(each <= most, "{each:.3} PUT and LIST per message at {rate} per second");
}

#[test]
fn twenty_deliveries_a_second_cost_a_quarter_of_a_request_each() {
    deliveries("twenty_deliveries_a_second_cost_a_quarter_of_a_request_each", 20.0, 2, 0.25);
}

#[test]
fn twenty_deliveries_a_second_to_eight_shards_cost_no_more() {
    deliveries("twenty_deliveries_a_second_to_eight_shards_cost_no_more", 20.0, 8, 0.25);
}

#[test]
fn two_hundred_deliveries_a_second_cost_a_twentieth_of_a_request_each() {
    deliveries("two_hundred_deliveries_a_second_cost_a_twentieth_of_a_request_each", 200.0, 2, 0.05);
}

#[test]
fn two_hundred_deliveries_a_second_to_eight_shards_cost_no_more() {
    deliveries("two_hundred_deliveries_a_second_to_eight_shards_cost_no_more", 200.0, 8, 0.05);
}

#[test]
fn a_pack_for_each_message_costs_about_one_request_more() {
    if !wanted("a_pack_for_each_message_costs_about_one_request_more") {
        return;
    }
    let load = Load { pack_single: true, ..load(if long() { 200.0 } else { 20.0 }, 0, 2) };
    let (outcome, stored) = run(load);
    tell("pack = single", &load, &outcome, &stored);
    let each = outcome.billed() as f64 / outcome.delivered.get() as f64;
    assert!((1.0..=if long() { 1.1 } else { 1.3 }).contains(&each), "{each:.3} PUT and LIST per message");
}

#[test]
fn clients_cost_no_more_than_twenty_commits_a_second() {
    let minute = Duration::from_secs(60);
    let load = Load { warm: minute / 6, counted: minute, ..load(0.0, 64, 2) };
    let (outcome, stored) = run(load);
    tell("changes", &load, &outcome, &stored);
    assert!(outcome.changed.get() > 1000, "the clients did nothing");
    let each_second = outcome.of(&[Kind::Put]) as f64 / load.counted.as_secs_f64();
    assert!(each_second <= 20.0, "{each_second} PUT per second");
}
