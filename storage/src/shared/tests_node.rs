//! A directed test for each hole of the protocol that a whole node closes: nodes on one simulated store, each driven step by
//! step, with one request of theirs held up where it matters.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::sync::{Notify, oneshot};
use culver_shard::{Queue, spawn, time};

use super::super::format::{Base, Incarnation};
use super::super::journal::Windows;
use super::super::takeover::newest_owner;
use super::super::tests::{Verdict, ensure, holds, taker};
use super::{Node, NodeConfig};
use crate::body::Body;
use crate::error::{CommitError, SourceError};
use crate::fault::Fault;
use crate::journal::commit::Haste;
use crate::limits::Limits;
use crate::place::{Place, Position};
use crate::rebuild::{Met, Scan};
use crate::simstore::{Hold, SimStore, StoreFaults};
use crate::source::{AccountBlocks, BlockKind, LocalFuture, Source};
use crate::storage::{Committed, Storage};
use crate::store::Kind;

#[path = "tests_local.rs"]
mod local;

const P: PartitionId = PartitionId(0);
const Q: PartitionId = PartitionId(1);
/// More than any scenario takes.
const SCENARIO_MAX: Duration = Duration::from_secs(300);

/// An account of a partition.
fn account(partition: PartitionId) -> AccountId {
    named("user", partition)
}

/// Another one, which no flush can read.
fn stuck(partition: PartitionId) -> AccountId {
    named("stuck", partition)
}

fn named(name: &str, partition: PartitionId) -> AccountId {
    let names = (0..).map(|nth| AccountId::parse(&format!("{name}{nth}@example.org")).unwrap());
    let mut of_partition = names.filter(|account| account.partition(2) == partition);
    of_partition.next().unwrap()
}

/// A mail layer whose accounts are the numbers in their records.
struct Numbers(Storage);

async fn numbers(storage: &Storage, account: &AccountId) -> Result<(Position, Vec<u8>), String> {
    let loaded = storage.load(account.partition(2), account).await;
    let loaded = loaded.map_err(|error| format!("load: {error}"))?;
    let (mut position, mut all) = (loaded.position, Vec::new());
    for (_, blocks) in &loaded.blocks {
        blocks.iter().for_each(|block| all.extend_from_slice(block));
    }
    for record in loaded.records {
        all.extend(record.meta);
        position = record.position;
    }
    Ok((position, all))
}

impl Source for Numbers {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        _: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            if account.as_str().starts_with("stuck") {
                return Err(SourceError("this account cannot be read".to_owned()));
            }
            let (position, all) = numbers(&self.0, account).await.map_err(SourceError)?;
            Ok(AccountBlocks { position, blocks: vec![(Guid([1; 16]), BlockKind::Base, all)] })
        })
    }

    fn flushed(&self, _: PartitionId, _: &AccountId, _: Position) {}

    fn live<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async { Ok(vec![true; places.len()]) })
    }

    fn relocated<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        _: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async { Err(SourceError("no record here has a body".to_owned())) })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

/// What runs on a node.
#[derive(Clone)]
struct Seat {
    node: Node,
    storage: Storage,
}

type Job = Box<dyn FnOnce(Seat)>;

/// A node that does what it is told, and nothing by itself but prove that it lives.
struct Machine {
    id: NodeId,
    seat: RefCell<Option<Seat>>,
    jobs: RefCell<VecDeque<Job>>,
    came: Notify,
}

impl Machine {
    /// Starts a node of one shard.
    async fn start(sim: &Sim, store: &SimStore, name: &'static str, windows: Windows) -> Rc<Machine> {
        Machine::limited(sim, store, name, windows, Limits::default()).await
    }

    async fn limited(
        sim: &Sim,
        store: &SimStore,
        name: &'static str,
        windows: Windows,
        limits: Limits,
    ) -> Rc<Machine> {
        let config = NodeConfig { windows, ..NodeConfig::new(name) };
        Machine::configured(sim, store, sim.node(name), config, limits).await
    }

    /// Starts one with a disk of its own, new or not.
    async fn configured(
        sim: &Sim,
        store: &SimStore,
        id: NodeId,
        config: NodeConfig,
        limits: Limits,
    ) -> Rc<Machine> {
        let machine =
            Rc::new(Machine { id, seat: RefCell::default(), jobs: RefCell::default(), came: Notify::new() });
        let (inner, store) = (machine.clone(), store.clone());
        let limits = Limits { partitions: 2, ..limits };
        sim.start(id, 1, move |_| inner.clone().run(store.clone(), config.clone(), limits.clone()));
        let up = async {
            while machine.seat.borrow().is_none() {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        up.await;
        machine
    }

    async fn run(self: Rc<Self>, store: SimStore, config: NodeConfig, limits: Limits) {
        let config = NodeConfig { trim_objects: 1, trim_after: Duration::ZERO, ..config };
        let node = Node::join_simulated(&store, "/node".as_ref(), limits, config).await.unwrap();
        let storage = Storage::start_shared(node.share()).await.unwrap();
        // Nothing is flushed but where a scenario says so.
        *storage.0.source.borrow_mut() = Some(Rc::new(Numbers(storage.clone())));
        spawn(Queue::Commit, "freshness", node.0.clone().freshness()).detach();
        let seat = Seat { node, storage };
        *self.seat.borrow_mut() = Some(seat.clone());
        loop {
            let seen = self.came.version();
            let job = self.jobs.borrow_mut().pop_front();
            match job {
                Some(job) => job(seat.clone()),
                None => self.came.changed_since(seen).await,
            }
        }
    }

    /// Begins something on the node.
    fn begin<T: 'static, Fut: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Seat) -> Fut + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |seat| {
            let work = work(seat);
            let job = async move {
                let _ = sender.send(work.await);
            };
            spawn(Queue::Interactive, "job", job).detach();
        });
        self.jobs.borrow_mut().push_back(job);
        self.came.notify_all();
        receiver
    }

    /// Does something on the node.
    async fn on<T: 'static, Fut: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Seat) -> Fut + 'static,
    ) -> Result<T, String> {
        self.begin(work).await.map_err(|_| "the job panicked".to_owned())
    }

    async fn take_over(&self, partitions: &'static [PartitionId]) -> Verdict {
        let taken = self.on(move |seat| async move { seat.node.take_over(partitions).await }).await?;
        let taken = taken.map_err(|error| error.to_string())?;
        ensure(taken == partitions.len(), "not all partitions were taken over")
    }

    async fn append(&self, partition: PartitionId, number: u8) -> Verdict {
        self.append_to(account(partition), number).await
    }

    async fn append_to(&self, account: AccountId, number: u8) -> Verdict {
        let committed = self.on(move |seat| async move {
            seat.storage.commit(account.partition(2), &account, vec![number], Vec::new()).await
        });
        committed.await?.map(drop).map_err(|error| format!("{number}: {error}"))
    }

    async fn flush(&self, partition: PartitionId) -> Verdict {
        let flushed = self.on(move |seat| async move { seat.storage.flush(partition).await }).await?;
        flushed.map_err(|error| format!("flush: {error}"))
    }

    async fn trim(&self) -> Verdict {
        let trimmed = self.on(|seat| async move { seat.node.0.trim().await }).await?;
        trimmed.map_err(|error| format!("trim: {error}"))
    }

    async fn sweep(&self) -> Verdict {
        let swept = self.on(|seat| async move { seat.node.0.sweep().await }).await?;
        swept.map_err(|error| format!("sweep: {error}"))
    }

    async fn numbers(&self, partition: PartitionId) -> Result<Vec<u8>, String> {
        self.numbers_of(account(partition)).await
    }

    async fn numbers_of(&self, account: AccountId) -> Result<Vec<u8>, String> {
        let all = self.on(move |seat| async move { numbers(&seat.storage, &account).await });
        all.await?.map(|(_, all)| all)
    }

    fn seat(&self) -> Seat {
        self.seat.borrow().clone().expect("it has started")
    }

    fn serves(&self, partition: PartitionId) -> bool {
        self.seat().storage.serves(partition)
    }

    fn incarnation(&self) -> Incarnation {
        self.seat().node.0.journal.borrow().incarnation()
    }
}

/// A scenario of several nodes, in a simulation of its own.
fn in_sim<Fut: Future<Output = Verdict> + 'static>(scenario: impl Fn(Sim, SimStore) -> Fut) -> Verdict {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let scenario = scenario(sim.clone(), SimStore::new(StoreFaults::none()));
    sim.run(async move {
        let done = time::deadline(SCENARIO_MAX, scenario).await;
        done.unwrap_or_else(|_| Err("it does not end".to_owned()))
    })
}

/// Every part closes an object, and an idle node writes rarely.
fn eager() -> Windows {
    Windows { octets: 1, proof: Duration::from_secs(600), ..Windows::default() }
}

/// Objects for one message each do not hold a flush up by a round trip each.
#[test]
fn packs_of_one_message_are_sent_together() {
    let scenario = |sim: Sim, _: SimStore| async move {
        let store =
            SimStore::new(StoreFaults { delay_max: Duration::from_millis(50), ..StoreFaults::none() });
        let limits = Limits { pack_single: true, ..Limits::default() };
        let a = Machine::limited(&sim, &store, "a", eager(), limits).await;
        a.take_over(&[P]).await?;
        let filled = a.on(|seat| async move {
            let bodies =
                (1..=64u8).filter_map(|number| Body::inline(vec![number; 30], &Limits::default()).ok());
            seat.storage.commit(P, &account(P), vec![1], bodies.collect()).await.map(drop)
        });
        filled.await?.map_err(|error| error.to_string())?;
        let began = time::now();
        // This mail layer takes no new places, which it is told when the packs are there.
        let told = a.flush(P).await.err().unwrap_or_default();
        ensure(told.contains("no record here has a body"), &told)?;
        let took = began.elapsed();
        ensure(took < Duration::from_millis(800), &format!("one after another: {took:?}"))
    };
    holds(|| in_sim(scenario), None);
}

/// A node that is told to leave does not wait for a takeover that it was asked for.
#[test]
fn leaving_gives_up_a_takeover_that_is_under_way() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        let b = Machine::start(&sim, &store, "b", eager()).await;
        // The store is late with the journal of A.
        let held = store.hold("b", Kind::Get, "journal/*", 0, Hold::Before);
        let taking = b.begin(|seat| async move { seat.node.take_over(&[P]).await });
        held.met().await;
        let began = time::now();
        b.on(|seat| async move { seat.node.leave().await }).await?;
        let took = began.elapsed();
        ensure(took < Duration::from_secs(5), &format!("it waits for {took:?}"))?;
        ensure(taking.await.is_ok_and(|taken| taken == Ok(0)), "and says that it has taken over")?;
        // Nobody has to wait for what it had claimed.
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        ensure(c.numbers(P).await? == [1], "what was committed is missing")
    };
    holds(|| in_sim(scenario), None);
}

/// Two nodes that were given one name: the one that sees the other at work says so; a life that has ended is nobody else.
#[test]
fn another_node_of_the_same_name_is_noticed() {
    for (name, noticed) in [("a", true), ("b", false)] {
        let scenario = move |sim: Sim, store: SimStore| async move {
            let a = Machine::start(&sim, &store, "a", eager()).await;
            a.take_over(&[P, Q]).await?;
            let config = NodeConfig { windows: eager(), ..NodeConfig::new(name) };
            let other = Machine::configured(&sim, &store, sim.node("other"), config, Limits::default()).await;
            let look = async || {
                time::sleep(Duration::from_secs(5)).await;
                let looked = other.on(|seat| async move { seat.node.0.claim_free().await }).await?;
                looked.map_err(|error| error.to_string())
            };
            look().await?;
            look().await?;
            ensure(!other.seat().node.has_namesake(), "one that does nothing may be an earlier life")?;
            a.append(P, 1).await?;
            look().await?;
            ensure(other.seat().node.has_namesake() == noticed, "not as it is")
        };
        holds(|| in_sim(scenario), None);
    }
}

/// A scan finds what was told before it began, also in an object that is told of piece by piece.
#[test]
fn what_is_told_while_a_scan_runs_is_not_found_by_it() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", Windows { octets: 1 << 20, ..eager() }).await;
        a.take_over(&[P]).await?;
        let found = a.on(|seat| async move {
            let scan: Rc<RefCell<Option<Scan>>> = Rc::default();
            let mut told = Vec::new();
            for number in 1..=3u8 {
                let Ok(body) = Body::inline(vec![number; 30], &Limits::default()) else {
                    panic!("it is small")
                };
                let (begun, storage) = (scan.clone(), seat.storage.clone());
                let (sender, receiver) = oneshot::channel();
                let on_commit = Box::new(move |committed: Result<Committed, CommitError>| {
                    let segment = committed.expect("commits").bodies[0].object.number;
                    if number == 2 {
                        *begun.borrow_mut() = Some(storage.scan(P, &account(P)));
                    }
                    let _ = sender.send(segment);
                });
                let meta = vec![number];
                seat.storage
                    .submit(P, &account(P), meta, vec![body], Haste::Interactive, on_commit)
                    .map_err(|error| error.to_string())?;
                told.push(receiver);
            }
            let mut segments = Vec::new();
            for receiver in told {
                segments.push(receiver.await.map_err(|_| "it was not told".to_owned())?);
            }
            ensure(segments.iter().all(|number| *number == segments[0]), "they are not in one object")?;
            let mut scan = scan.borrow_mut().take().expect("it was begun");
            let mut found = Vec::new();
            while let Some(Met::Body { meta, .. }) = scan.next().await.map_err(|error| error.to_string())? {
                found.extend(meta);
            }
            Ok::<_, String>(found)
        });
        let found = found.await??;
        ensure(found == [1, 2], &format!("found {found:?}"))
    };
    holds(|| in_sim(scenario), None);
}

/// R4: the low mark passes nothing that a successor needs.
#[test]
fn a_successor_finds_what_was_not_trimmed() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P, Q]).await?;
        for number in 1..4 {
            a.append(P, number).await?;
        }
        a.flush(Q).await?;
        a.flush(P).await?;
        a.append(Q, 7).await?;
        a.flush(Q).await?;
        a.append(P, 4).await?;
        a.trim().await?;
        let first = format!("journal/{}/0", a.incarnation());
        ensure(!store.objects().contains_key(&first), "nothing was trimmed")?;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P, Q]).await?;
        ensure(b.numbers(P).await? == [1, 2, 3, 4] && b.numbers(Q).await? == [7], "a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::TrimTooEarly));
}

/// H6 and R11: a claim that nobody has followed frees nothing of the journal before it; what is free is swept.
#[test]
fn a_pending_claim_frees_nothing() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P, Q]).await?;
        a.append(P, 1).await?;
        a.append(Q, 1).await?;
        a.flush(P).await?;
        sim.kill(a.id);
        let of_a = format!("journal/{}/", a.incarnation());
        let objects = || store.objects().keys().filter(|key| key.starts_with(&of_a)).count();
        // B claims P and falls asleep.
        let b = taker(&store.of_node("b"), "b", Incarnation([0xb; 16]));
        let claim = b.claim(P, 1, Base::Pending).await.map_err(|error| error.to_string())?;
        claim.ok_or("B has no claim")?;
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[Q]).await?;
        c.append(Q, 2).await?;
        c.flush(Q).await?;
        c.trim().await?;
        let looked = c.on(|seat| async move { seat.node.0.look_at_owner(P).await });
        looked.await?.map_err(|error| error.to_string())?;
        c.sweep().await?;
        c.take_over(&[P]).await?;
        ensure(c.numbers(P).await? == [1] && c.numbers(Q).await? == [1, 2], "a record is missing")?;
        c.append(P, 2).await?;
        c.flush(P).await?;
        c.trim().await?;
        c.sweep().await?;
        ensure(objects() == 1, "what nobody needs is not swept, or the seal is")?;
        ensure(c.numbers(P).await? == [1, 2], "a record is missing after the sweep")
    };
    holds(|| in_sim(scenario), Some(Fault::PendingFrees));
}

/// R3: where an account could not be flushed, its records are found in the journal of an epoch before the Flush's own.
#[test]
fn what_a_flush_does_not_cover_is_not_free() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append_to(stuck(P), 1).await?;
        a.append(P, 1).await?;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        b.append(P, 2).await?;
        b.append_to(stuck(P), 2).await?;
        b.flush(P).await?;
        b.trim().await?;
        b.sweep().await?;
        sim.kill(b.id);
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        ensure(c.numbers(P).await? == [1, 2], "a record of the account that was flushed is missing")?;
        ensure(c.numbers_of(stuck(P)).await? == [1, 2], "a record of the account that was not is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::FreesFromCov));
}

/// H7: from the moment that a Release is sent the partition is not served again in its epoch.
#[test]
fn what_is_released_is_served_no_more() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        a.flush(P).await?;
        ensure(a.serves(P), "A does not serve")?;
        let held = store.hold("a", Kind::Put, "journal/*", 0, Hold::Before);
        let released = a.begin(|seat| async move { seat.storage.release(P).await });
        held.met().await;
        // The record's outcome is not known for long.
        for _ in 0..50 {
            ensure(!a.serves(P), "A serves what it has released")?;
            ensure(a.append(P, 2).await.is_err(), "A takes changes of what it has released")?;
            time::sleep(Duration::from_millis(100)).await;
        }
        held.release();
        let manifest = released.await.map_err(|_| "the job panicked")?.map_err(|error| error.to_string())?;
        ensure(manifest.is_some() && !a.serves(P), "no manifest was released, or A serves again")?;
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        ensure(b.numbers(P).await? == [1], "what was not acknowledged is there, or a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::ServeAfterRelease));
}

/// H8: a deletion of an earlier owner that comes late meets nothing of a later one, though both count their objects from 1.
#[test]
fn an_earlier_owner_deletes_nothing_of_a_later_one() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        a.flush(P).await?;
        a.append(P, 2).await?;
        // The second flush deletes the manifest of the first, and that request comes late.
        let held = store.hold("a", Kind::Delete, "data/*", 0, Hold::Before);
        let flushed = a.begin(|seat| async move { seat.storage.flush(P).await });
        held.met().await;
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        for number in 3..6 {
            b.append(P, number).await?;
            b.flush(P).await?;
        }
        held.release();
        let _ = flushed.await;
        let data = store.objects().keys().filter(|key| key.starts_with("data/")).cloned().collect::<Vec<_>>();
        ensure(data.iter().all(|key| !key.ends_with("0/0-2.manifest")), "the deletion met nothing")?;
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        ensure(c.numbers(P).await? == [1, 2, 3, 4, 5], "the later owner's objects are gone")
    };
    holds(|| in_sim(scenario), Some(Fault::NamesWithoutEpoch));
}

/// R9: what is missing may have been removed by a later owner, where a node cannot know that there is none.
#[test]
fn what_a_node_without_a_proof_does_not_find_is_not_damaged() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let limits = Limits { cache_octets: 0, ..Limits::default() };
        let a =
            Machine::limited(&sim, &store, "a", Windows { octets: 1, ..Windows::default() }, limits).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        a.flush(P).await?;
        let tables = store.objects().into_keys().filter(|key| key.ends_with(".table")).collect::<Vec<_>>();
        ensure(tables.len() == 1, "a table")?;
        tables.iter().for_each(|table| store.tamper(table, None));
        ensure(a.serves(P), "its proof is new")?;
        let told = a.numbers(P).await.expect_err("the table is gone");
        ensure(told.contains("no such object"), &told)?;
        // Nothing comes of its next proof.
        let proof = store.hold("a", Kind::Put, "journal/*", 0, Hold::Before);
        sim.freeze(a.id);
        time::sleep(Duration::from_secs(100)).await;
        sim.thaw(a.id);
        ensure(!a.serves(P), "its proof is old")?;
        let told = a.numbers(P).await.expect_err("the table is gone");
        proof.release();
        ensure(told.contains("not on this node"), &told)
    };
    holds(|| in_sim(scenario), None);
}

/// H8: an owner that was overtaken while it looked for orphans, and does not know yet, spares what its successor made.
#[test]
fn a_search_for_orphans_spares_a_later_owner() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        a.flush(P).await?;
        // A falls asleep when it asks what is there.
        let held = store.hold("a", Kind::List, "data/0/*", 0, Hold::Before);
        let collected = a.begin(|seat| async move { seat.node.collect(PartitionId(0), true).await });
        held.met().await;
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        b.append(P, 2).await?;
        b.flush(P).await?;
        ensure(a.serves(P), "A knows already")?;
        held.release();
        collected.await.map_err(|_| "the job panicked")?.map_err(|error| error.to_string())?;
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        ensure(c.numbers(P).await? == [1, 2], "the later owner's objects are gone")
    };
    holds(|| in_sim(scenario), Some(Fault::OrphansOfLaterEpochs));
}

/// H9: a taker whose Open record is not committed serves nothing, for another one may have sealed its journal.
#[test]
fn nothing_is_served_before_the_open_record_is_committed() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", eager()).await;
        time::sleep(Duration::from_secs(1)).await;
        let held = store.hold("b", Kind::Put, "journal/*", 1, Hold::Before);
        // The first is the seal of A's journal, the second B's Open.
        let taking = b.begin(|seat| async move { seat.node.take_over(&[P]).await });
        held.met().await;
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        c.append(P, 2).await?;
        ensure(b.numbers(P).await.is_err(), "B reads what it does not own")?;
        ensure(b.append(P, 3).await.is_err(), "B changes what it does not own")?;
        held.release();
        let _ = taking.await;
        ensure(!b.serves(P) && b.numbers(P).await.is_err(), "B serves what it does not own")?;
        ensure(c.numbers(P).await? == [1, 2], "C's records changed")
    };
    holds(|| in_sim(scenario), Some(Fault::ServeBeforeOpen));
}

/// H10: what a Flush record of unknown outcome names is not deleted: the successor may stand on it.
#[test]
fn an_unknown_flush_keeps_its_objects() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        // It lands, and its answer does not come.
        let held = store.hold("a", Kind::Put, "journal/*", 0, Hold::After);
        let flushed = a.begin(|seat| async move { seat.storage.flush(P).await });
        held.met().await;
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        // The next object meets the seal: whatever was not told is unknown.
        ensure(a.append(P, 2).await.is_err(), "A acknowledges behind the seal")?;
        ensure(flushed.await.is_ok_and(|flushed| flushed.is_err()), "the flush is known to be committed")?;
        ensure(b.numbers(P).await? == [1], "a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::ForgetUnknownFlush));
}

/// H12: an Open record that landed long before its answer came proves nothing of now.
#[test]
fn a_late_answer_to_the_open_record_lets_nobody_serve() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let windows = Windows { proof: Duration::from_secs(15), ..eager() };
        let a = Machine::start(&sim, &store, "a", windows).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", windows).await;
        // Its first object, which is empty, is there.
        time::sleep(Duration::from_secs(1)).await;
        let open = format!("journal/{}/*", b.incarnation());
        let held: Vec<_> = (0..2).map(|_| store.hold("b", Kind::Put, &open, 0, Hold::After)).collect();
        let _taking = b.begin(|seat| async move { seat.node.take_over(&[P]).await });
        held[0].met().await;
        let c = Machine::start(&sim, &store, "c", windows).await;
        c.take_over(&[P]).await?;
        c.append(P, 2).await?;
        let mut answered = false;
        for _ in 0..40_000 {
            ensure(!b.serves(P), "B serves an old state")?;
            time::sleep(Duration::from_millis(1)).await;
            answered |= b.seat().node.0.journal.borrow().committed() > 1;
        }
        ensure(answered, "B's Open was not answered")?;
        ensure(c.numbers(P).await? == [1, 2], "C's records changed")
    };
    holds(|| in_sim(scenario), Some(Fault::FreshFromAnswer));
}

/// H13: a node that is told twice to claim an epoch, which was overtaken in between, claims it once.
#[test]
fn an_epoch_is_claimed_once_in_an_incarnation() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", eager()).await;
        let first = newest_owner(&store.of_node("b"), P, 0, super::PATIENCE).await;
        let first = first.map_err(|error| error.to_string())?.ok_or("P has no owner")?;
        b.take_over(&[P]).await?;
        b.append(P, 2).await?;
        let c = Machine::start(&sim, &store, "c", eager()).await;
        c.take_over(&[P]).await?;
        c.append(P, 3).await?;
        // The message that made B claim comes again, and B has not heard of C.
        let again = b.on(move |seat| async move {
            seat.node.0.state.borrow_mut().owners.insert(P, first);
            let claimed = seat.node.0.claim(P).await;
            (claimed.is_ok(), seat.node.0.state.borrow().pending.len())
        });
        ensure(again.await? == (true, 0), "B takes its own old claim for a new one")?;
        ensure(c.numbers(P).await? == [1, 2, 3], "a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::ClaimRepeats));
}

/// H14: an old Flush record is not journaled again while a newer one is on its way.
#[test]
fn no_flush_is_carried_while_another_is_under_way() {
    let scenario = |sim: Sim, store: SimStore| async move {
        let a = Machine::start(&sim, &store, "a", eager()).await;
        a.take_over(&[P]).await?;
        a.append(P, 1).await?;
        a.flush(P).await?;
        a.append(P, 2).await?;
        let held = store.hold("a", Kind::Put, "journal/*", 0, Hold::Before);
        let flushed = a.begin(|seat| async move { seat.storage.flush(P).await });
        held.met().await;
        let carried = a.begin(|seat| async move { seat.storage.0.carry_forward(P).await });
        time::sleep(Duration::from_secs(1)).await;
        held.release();
        let flushed = flushed.await.map_err(|_| "the job panicked")?;
        flushed.map_err(|error| format!("flush: {error}"))?;
        let _ = carried.await;
        sim.kill(a.id);
        let b = Machine::start(&sim, &store, "b", eager()).await;
        b.take_over(&[P]).await?;
        ensure(b.numbers(P).await? == [1, 2], "a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::CarryAnyTime));
}

/// A flush that is overtaken, at whichever of its reads, deletes nothing that the successor stands on. Whether it came to that
/// read.
async fn overtaken_at(sim: Sim, store: SimStore, read: u64) -> Result<bool, String> {
    // Without a cache, which would answer for the store.
    let limits = Limits { tables_max: 2, cache_octets: 0, ..Limits::default() };
    let a = Machine::limited(&sim, &store, "a", eager(), limits).await;
    a.take_over(&[P]).await?;
    for number in 1..3 {
        a.append(P, number).await?;
        a.flush(P).await?;
    }
    a.append(P, 3).await?;
    let held = store.hold("a", Kind::Get, "data/*", read, Hold::Before);
    // It merges the tables.
    let flushed = a.begin(|seat| async move { seat.storage.flush(P).await });
    if time::deadline(Duration::from_secs(5), held.met()).await.is_err() {
        return Ok(false);
    }
    let b = Machine::start(&sim, &store, "b", eager()).await;
    b.take_over(&[P]).await?;
    ensure(a.append(P, 4).await.is_err(), "A acknowledges behind the seal")?;
    held.release();
    // It failed, or left out the account that it could not read any more.
    let _ = flushed.await;
    b.append(P, 5).await?;
    ensure(b.numbers(P).await? == [1, 2, 3, 5], "a record is missing")?;
    Ok(true)
}

#[test]
fn a_flush_that_is_overtaken_deletes_nothing_of_its_successor() {
    let all = || {
        let reads = (0..).map(|read| {
            let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
            sim.run(overtaken_at(sim.clone(), SimStore::new(StoreFaults::none()), read))
        });
        let mut overtaken = 0;
        for result in reads {
            match result {
                Ok(true) => overtaken += 1,
                Ok(false) => return ensure(overtaken > 0, "the flush reads nothing"),
                Err(what) => return Err(format!("at read {overtaken}: {what}")),
            }
        }
        Ok(())
    };
    holds(all, Some(Fault::MergeAfterLoss));
}
