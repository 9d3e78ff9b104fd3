//! Several nodes that acknowledge after their local disks, on one store that delays, loses and repeats requests, with crashes,
//! freezes and cuts at any point.
//!
//! What clients were told may be missing until the node that told it is back; a UID that was told is never said again of another
//! message; and when all are back everything is there, once.
#![cfg(feature = "simulation")]

#[path = "support/quick.rs"]
mod quick;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::sync::Notify;
use culver_shard::{Queue, random, spawn, stopping, time};
use culver_storage::simstore::{SimStore, StoreFaults};
use culver_storage::{
    AccountBlocks, Ack, BlockKind, Body, Haste, LateRecord, Limits, LocalFuture, Merged, Node, NodeConfig,
    NodeShare, Place, Position, Source, SourceError, Storage,
};

const ACCOUNTS: usize = 6;
const PARTITIONS: u16 = 4;
/// How far a gap raises UIDs: further than a node tells within its bounds.
const GAP: u32 = 1 << 17;
const KEY: Guid = Guid([1; 16]);
/// How long everything may take to be together again.
const TOGETHER: Duration = Duration::from_secs(240);

fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.org")).unwrap()
}

fn limits() -> Limits {
    Limits {
        partitions: PARTITIONS,
        batch_octets_max: 12 << 10,
        pending_octets_max: 48 << 10,
        pending_records_max: 40,
        inline_body_max: 1 << 10,
        flush_octets: 96 << 10,
        unflushed_octets_max: 192 << 10,
        flush_age: Duration::from_secs(3),
        tables_max: 3,
        carry_objects: 8,
        cache_octets: 0,
        tick: Duration::from_millis(20),
        ..Limits::default()
    }
}

fn config(name: &str) -> NodeConfig {
    let ack = Ack::Local { octets_max: 64 << 10 };
    NodeConfig { ack, late_look: Duration::from_millis(500), ..quick::quick_node(name) }
}

/// What clients were told, and what was asked for. Lives outside of the nodes.
#[derive(Default)]
struct Oracle {
    next: Cell<u64>,
    sizes: RefCell<BTreeMap<u64, usize>>,
    appended: RefCell<BTreeSet<(AccountId, u64)>>,
    delete_asked: RefCell<BTreeSet<u64>>,
    delete_told: RefCell<BTreeSet<(AccountId, u64)>>,
    /// By account and UID: the message that a client was shown there.
    shown: RefCell<BTreeMap<(AccountId, u32), u64>>,
    errors: RefCell<Vec<String>>,
    /// By node: tails that are waited for; partitions served.
    awaited: RefCell<BTreeMap<String, u64>>,
    merged: Cell<u64>,
    missing_meanwhile: Cell<u64>,
    found: RefCell<BTreeMap<AccountId, Book>>,
    /// By node: what it has, and what it cannot serve.
    stands: RefCell<BTreeMap<String, String>>,
}

impl Oracle {
    fn error(&self, text: String) {
        self.errors.borrow_mut().push(text);
    }

    fn show(&self, account: &AccountId, uid: u32, id: u64) {
        let before = *self.shown.borrow_mut().entry((account.clone(), uid)).or_insert(id);
        if before != id {
            self.error(format!("{account}: UID {uid} was told of {before}, and of {id}"));
        }
    }
}

fn content(id: u64, size: usize) -> Vec<u8> {
    id.to_le_bytes().into_iter().cycle().take(size).collect()
}

/// A mailbox: its messages have ids, UIDs and bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Book {
    given: u32,
    messages: BTreeMap<u64, Vec<(u32, Place)>>,
    marks: BTreeMap<[u8; 16], u64>,
}

const APPEND: u8 = 1;
const DELETE: u8 = 2;
const MOVE: u8 = 3;
const LATE: u8 = 4;

impl Book {
    fn apply(&mut self, meta: &[u8], bodies: &[Place]) {
        let id = || u64::from_le_bytes(meta[1..9].try_into().unwrap());
        match meta[0] {
            APPEND => {
                self.given += 1;
                self.messages.entry(id()).or_default().push((self.given, bodies[0]));
            }
            DELETE => drop(self.messages.remove(&id())),
            MOVE => {
                let olds =
                    meta[1..].chunks(32).map(|old| Place::from_bytes(old.try_into().unwrap()).unwrap());
                let moves: BTreeMap<Place, Place> = olds.zip(bodies.iter().copied()).collect();
                for (_, place) in self.messages.values_mut().flatten() {
                    *place = moves.get(place).copied().unwrap_or(*place);
                }
            }
            _ => {
                let of: [u8; 16] = meta[1..17].try_into().unwrap();
                let lsn = u64::from_le_bytes(meta[17..25].try_into().unwrap());
                if self.marks.get(&of).is_none_or(|mark| *mark < lsn) {
                    self.marks.insert(of, lsn);
                    self.apply(&meta[25..], bodies);
                }
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.given.to_le_bytes().to_vec();
        out.extend_from_slice(&(self.marks.len() as u32).to_le_bytes());
        for (of, lsn) in &self.marks {
            out.extend_from_slice(of);
            out.extend_from_slice(&lsn.to_le_bytes());
        }
        for (id, entries) in &self.messages {
            for (uid, place) in entries {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&uid.to_le_bytes());
                out.extend_from_slice(&place.to_bytes());
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Book {
        let mut book = Book { given: u32::from_le_bytes(bytes[..4].try_into().unwrap()), ..Book::default() };
        let marks = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let (marks, entries) = bytes[8..].split_at(marks * 24);
        for mark in marks.chunks(24) {
            let lsn = u64::from_le_bytes(mark[16..].try_into().unwrap());
            book.marks.insert(mark[..16].try_into().unwrap(), lsn);
        }
        for entry in entries.chunks(44) {
            let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let uid = u32::from_le_bytes(entry[8..12].try_into().unwrap());
            let place = Place::from_bytes(entry[12..].try_into().unwrap()).unwrap();
            book.messages.entry(id).or_default().push((uid, place));
        }
        book
    }
}

/// The mail layer of a shard: every look reads the account anew.
struct Books {
    storage: Storage,
    oracle: Rc<Oracle>,
}

impl Books {
    async fn load(&self, account: &AccountId) -> Result<(Position, Book), String> {
        let partition = self.storage.partition_of(account);
        let loaded = self.storage.load(partition, account).await.map_err(|error| error.to_string())?;
        let mut book = loaded.blocks.first().map_or(Book::default(), |(_, blocks)| Book::decode(&blocks[0]));
        let mut position = loaded.position;
        let mut gaps = loaded.gaps.into_iter().peekable();
        for record in loaded.records {
            while gaps.next_if(|(gap, _)| *gap < record.position).is_some() {
                book.given += GAP;
            }
            book.apply(&record.meta, &record.bodies);
            position = record.position;
        }
        for (gap, _) in gaps {
            book.given += GAP;
            position = gap;
        }
        Ok((position, book))
    }

    async fn commit(&self, account: &AccountId, meta: Vec<u8>, bodies: Vec<Body>) -> Result<(), String> {
        let partition = self.storage.partition_of(account);
        let committed = self.storage.commit(partition, account, meta, bodies).await;
        committed.map(drop).map_err(|error| error.to_string())
    }

    async fn append(&self, account: &AccountId, size: usize) {
        let id = self.oracle.next.get() + 1;
        self.oracle.next.set(id);
        self.oracle.sizes.borrow_mut().insert(id, size);
        let partition = self.storage.partition_of(account);
        let mut writer = self.storage.body_writer(partition, account, Some(size as u64));
        if writer.write(&content(id, size)).await.is_err() {
            return;
        }
        let Ok(body) = writer.finish().await else { return };
        let meta = [&[APPEND][..], &id.to_le_bytes()].concat();
        if self.commit(account, meta, vec![body]).await.is_ok() {
            self.oracle.appended.borrow_mut().insert((account.clone(), id));
        }
        self.show(account).await;
    }

    /// What a client sees of an account.
    async fn show(&self, account: &AccountId) {
        let Ok((_, book)) = self.load(account).await else { return };
        if !self.storage.serves(self.storage.partition_of(account)) {
            return;
        }
        for (id, entries) in &book.messages {
            entries.iter().for_each(|(uid, _)| self.oracle.show(account, *uid, *id));
            if entries.len() > 1 {
                self.oracle.error(format!("{account}: {id} is there twice: {entries:?}"));
            }
        }
        let told = self.oracle.appended.borrow();
        let asked = self.oracle.delete_asked.borrow();
        let missing = told
            .iter()
            .filter(|(of, id)| of == account && !asked.contains(id) && !book.messages.contains_key(id));
        self.oracle.missing_meanwhile.set(self.oracle.missing_meanwhile.get() + missing.count() as u64);
    }

    async fn delete(&self, account: &AccountId) {
        let Ok((_, book)) = self.load(account).await else { return };
        let Some(id) = book.messages.keys().copied().nth(random::below(4) as usize) else { return };
        self.oracle.delete_asked.borrow_mut().insert(id);
        let meta = [&[DELETE][..], &id.to_le_bytes()].concat();
        if self.commit(account, meta, Vec::new()).await.is_ok() {
            self.oracle.delete_told.borrow_mut().insert((account.clone(), id));
        }
    }

    /// Reads everything of an account, and keeps it for the last comparison.
    async fn find(&self, account: &AccountId) {
        // A flush that ends meanwhile moves bodies: they are looked up again.
        for last in [false, false, false, true] {
            if self.find_once(account, last).await {
                return;
            }
        }
    }

    async fn find_once(&self, account: &AccountId, last: bool) -> bool {
        let partition = self.storage.partition_of(account);
        let Ok((_, book)) = self.load(account).await else { return true };
        for (id, entries) in &book.messages {
            for (_, place) in entries {
                let size = self.oracle.sizes.borrow().get(id).copied().unwrap_or(0);
                match self.storage.read_place(partition, place, 0..size as u64 + 1).await {
                    Ok(octets) if octets == content(*id, size) => {}
                    Ok(octets) => {
                        self.oracle.error(format!("{account}: {id} has {} wrong octets", octets.len()))
                    }
                    Err(culver_storage::ReadError::Gone(_)) if !last => return false,
                    Err(_) if !self.storage.serves(partition) => return true,
                    Err(error) => self.oracle.error(format!("{account}: {id}: {error}")),
                }
            }
        }
        if self.storage.serves(partition) {
            self.oracle.found.borrow_mut().insert(account.clone(), book);
        }
        true
    }
}

impl Source for Books {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        _: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            let (position, book) = self.load(account).await.map_err(SourceError)?;
            Ok(AccountBlocks { position, blocks: vec![(KEY, BlockKind::Base, book.encode())] })
        })
    }

    fn flushed(&self, _: PartitionId, _: &AccountId, _: Position) {}

    fn live<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async move {
            let (_, book) = self.load(account).await.map_err(SourceError)?;
            let named: BTreeSet<Place> = book.messages.values().flatten().map(|(_, place)| *place).collect();
            Ok(places.iter().map(|place| named.contains(place)).collect())
        })
    }

    fn relocated<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let (mut meta, mut bodies) = (vec![MOVE], Vec::new());
            for (place, body) in moves {
                meta.extend_from_slice(&place.to_bytes());
                bodies.push(body);
            }
            let (sender, receiver) = culver_shard::sync::oneshot::channel();
            let told = Box::new(move |result: Result<_, _>| {
                let _ = sender.send(result.map(drop));
            });
            let submitted =
                self.storage.submit_wait(partition, account, meta, bodies, Haste::Urgent, told).await;
            submitted.map_err(|error| SourceError(error.to_string()))?;
            match receiver.await {
                Ok(Ok(())) => Ok(()),
                _ => Err(SourceError("not known".to_owned())),
            }
        })
    }

    fn merge<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        of: Guid,
        records: Vec<LateRecord>,
    ) -> LocalFuture<'a, Result<Merged, SourceError>> {
        Box::pin(async move {
            let mut merged = Merged::default();
            for LateRecord { lsn, meta, bodies } in records {
                if meta[0] == MOVE || meta[0] == LATE {
                    continue;
                }
                let (_, book) = self.load(account).await.map_err(SourceError)?;
                if book.marks.get(&of.0).is_some_and(|mark| *mark >= lsn) {
                    continue;
                }
                let meta = [&[LATE][..], &of.0, &lsn.to_le_bytes(), &meta].concat();
                let partition = self.storage.partition_of(account);
                let (sender, receiver) = culver_shard::sync::oneshot::channel();
                let told = Box::new(move |result: Result<_, _>| {
                    let _ = sender.send(result.map(drop));
                });
                let submitted = self
                    .storage
                    .submit_numbered(partition, account, meta, bodies, Haste::Interactive, None, told)
                    .await;
                submitted.map_err(|error| SourceError(error.to_string()))?;
                match receiver.await {
                    Ok(Ok(())) => merged.records += 1,
                    _ => return Err(SourceError("not known".to_owned())),
                }
            }
            self.oracle.merged.set(self.oracle.merged.get() + merged.records);
            Ok(merged)
        })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

#[derive(Clone)]
struct World {
    store: SimStore,
    oracle: Rc<Oracle>,
    /// Nobody writes any more; everything is looked at.
    over: Rc<Cell<bool>>,
}

/// One life of a node.
#[derive(Clone)]
struct Life {
    world: World,
    name: String,
    share: Rc<RefCell<Option<NodeShare>>>,
    ready: Rc<Cell<usize>>,
    failed: Rc<Cell<bool>>,
    changed: Rc<Notify>,
}

impl Life {
    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let seen = self.changed.version();
            if done() {
                return;
            }
            self.changed.changed_since(seen).await;
        }
    }
}

fn start(sim: &Sim, node: NodeId, name: &str, shards: usize, world: &World) {
    let life = Life {
        world: world.clone(),
        name: name.to_owned(),
        share: Rc::default(),
        ready: Rc::default(),
        failed: Rc::default(),
        changed: Rc::default(),
    };
    sim.start(node, shards, move |shard| run_shard(shard, shards, life.clone()));
}

async fn run_shard(shard: usize, shards: usize, life: Life) {
    let oracle = life.world.oracle.clone();
    let mut node = None;
    if shard == 0 {
        let store = &life.world.store;
        match Node::join_simulated(store, "/node".as_ref(), limits(), config(&life.name)).await {
            Ok(joined) => {
                *life.share.borrow_mut() = Some(joined.share());
                node = Some(joined);
            }
            Err(culver_storage::OpenError::Store(_)) => life.failed.set(true),
            Err(error) => {
                oracle.error(format!("{}: join: {error}", life.name));
                life.failed.set(true);
            }
        }
        life.changed.notify_all();
    }
    life.until(|| life.failed.get() || life.share.borrow().is_some()).await;
    if life.failed.get() {
        return;
    }
    let share = life.share.borrow().clone().expect("waited for");
    let Ok(storage) = Storage::start_shared(share).await else { return };
    let books = Rc::new(Books { storage: storage.clone(), oracle: oracle.clone() });
    storage.attach(books.clone());
    life.ready.set(life.ready.get() + 1);
    life.changed.notify_all();
    life.until(|| life.ready.get() == shards).await;
    if let Some(node) = &node {
        node.begin();
    }
    let writers: Vec<_> =
        (0..2).map(|_| spawn(Queue::Interactive, "writer", write(life.clone(), books.clone()))).collect();
    while !stopping() {
        if let Some(node) = &node {
            oracle.awaited.borrow_mut().insert(life.name.clone(), node.late().awaited);
            let all = (0..PARTITIONS).map(PartitionId);
            let says: Vec<_> = all.map(|id| (id, node.owner_of(id), node.is_damaged(id))).collect();
            oracle
                .stands
                .borrow_mut()
                .insert(life.name.clone(), format!("has {:?} of {says:?}", node.held()));
        }
        let standing = |id: PartitionId| (id, storage.standing(id));
        let all: Vec<_> = storage.partitions().into_iter().map(standing).collect();
        let says = format!("{all:?} {:?} at {:?}", storage.status(), time::now());
        oracle.stands.borrow_mut().insert(format!("{} shard {shard} of {shards}", life.name), says);
        if life.world.over.get() {
            for account in accounts_of(&books.storage) {
                let found = oracle.found.borrow().contains_key(&account);
                if !found {
                    books.find(&account).await;
                }
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    }
    for writer in writers {
        let _ = writer.await;
    }
    life.ready.set(life.ready.get() - 1);
    life.changed.notify_all();
    if let Some(node) = node {
        life.until(|| life.ready.get() == 0).await;
        node.leave().await;
        *life.share.borrow_mut() = None;
        life.changed.notify_all();
    }
    life.until(|| life.share.borrow().is_none()).await;
    storage.close(false).await;
}

/// Those that are served here.
fn accounts_of(storage: &Storage) -> Vec<AccountId> {
    let mine = storage.partitions();
    let served = |account: &AccountId| {
        let partition = storage.partition_of(account);
        mine.contains(&partition) && storage.serves(partition)
    };
    (0..ACCOUNTS).map(account).filter(served).collect()
}

async fn write(life: Life, books: Rc<Books>) {
    while !stopping() {
        let served = accounts_of(&books.storage);
        if served.is_empty() || life.world.over.get() {
            time::sleep(Duration::from_millis(1 + random::below(20))).await;
            continue;
        }
        let account = &served[random::below(served.len() as u64) as usize];
        match random::below(100) {
            0..60 => {
                let size = if random::below(15) == 0 { 3000 } else { random::below(900) as usize };
                books.append(account, size).await;
            }
            60..80 => books.delete(account).await,
            80..83 => drop(books.storage.flush(books.storage.partition_of(account)).await),
            _ => books.show(account).await,
        }
        time::sleep(Duration::from_micros(random::below(30_000))).await;
    }
}

fn run(seed: u64, events: usize, store_faults: StoreFaults) -> World {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let world = World { store: SimStore::new(store_faults), oracle: Rc::default(), over: Rc::default() };
    let names = ["a", "b", "c"];
    let nodes: Vec<NodeId> = names.iter().map(|name| sim.node(name)).collect();
    for (node, name) in nodes.iter().zip(names).take(2) {
        start(&sim, *node, name, 1 + (sim.random() % 2) as usize, &world);
    }
    for _ in 0..events {
        sim.step(sim.random() % 40_000);
        let nth = (sim.random() % 3) as usize;
        let (node, name) = (nodes[nth], names[nth]);
        let running = sim.running(node);
        match sim.random() % 14 {
            0 | 1 if running => sim.kill(node),
            2 | 3 if running => sim.crash(node),
            4 if running => sim.stop(node),
            5 if running => sim.freeze(node),
            6 | 7 if running => sim.thaw(node),
            8 => world.store.cut(name, true),
            9 => world.store.cut(name, false),
            10 => world.store.set_down(sim.random().is_multiple_of(2)),
            // The store is cut off, and then the power.
            11 | 12 if running => {
                world.store.cut(name, true);
                sim.step(sim.random() % 3_000);
                if sim.running(node) {
                    sim.crash(node);
                }
                world.store.cut(name, false);
            }
            _ if !running => start(&sim, node, name, 1 + (sim.random() % 2) as usize, &world),
            _ => {}
        }
    }
    // Everything heals, and all are back.
    world.store.set_down(false);
    world.store.set_faults(StoreFaults { late_max: store_faults.late_max, ..StoreFaults::none() });
    for (node, name) in nodes.iter().zip(names) {
        world.store.cut(name, false);
        sim.thaw(*node);
    }
    sim.step(10_000);
    for (node, name) in nodes.iter().zip(names) {
        if !sim.running(*node) {
            start(&sim, *node, name, 1, &world);
        }
    }
    sim.step(30_000);
    let (handle, all) = (sim.clone(), world.clone());
    sim.run(async move {
        let together = || all.oracle.awaited.borrow().values().all(|awaited| *awaited == 0);
        let until = time::now() + TOGETHER;
        // Once all is said to be there it stays so for a while: nobody learns of a new tail any more.
        let mut steady = 0;
        while steady < 100 && time::now() < until {
            time::sleep(Duration::from_millis(100)).await;
            steady = if together() { steady + 1 } else { 0 };
            // One that was stopped may have taken its time.
            for (node, name) in nodes.iter().zip(names) {
                if !handle.running(*node) {
                    steady = 0;
                    start(&handle, *node, name, 1, &all);
                }
            }
        }
        if !together() {
            let awaited = all.oracle.awaited.borrow().clone();
            all.oracle.error(format!("tails are waited for still: {awaited:?}"));
        }
        all.over.set(true);
        // What is under way ends first.
        time::sleep(Duration::from_secs(5)).await;
        all.oracle.found.borrow_mut().clear();
        let until = time::now() + TOGETHER;
        while all.oracle.found.borrow().len() < ACCOUNTS && time::now() < until {
            time::sleep(Duration::from_millis(100)).await;
        }
        for node in nodes {
            handle.kill(node);
        }
    });
    compare(&world.oracle);
    world
}

/// What is there at the end against what was told.
fn compare(oracle: &Oracle) {
    let found = oracle.found.borrow();
    if found.len() < ACCOUNTS {
        let stands = oracle.stands.borrow();
        oracle.error(format!("{} accounts were found at the end: {stands:#?}", found.len()));
    }
    let has = |account: &AccountId, id: u64| found.get(account).map(|book| book.messages.contains_key(&id));
    let asked = oracle.delete_asked.borrow();
    for (account, id) in oracle.appended.borrow().iter().filter(|(_, id)| !asked.contains(id)) {
        if has(account, *id) == Some(false) {
            oracle.error(format!("{account}: {id} was acknowledged, and is lost"));
        }
    }
    for (account, id) in oracle.delete_told.borrow().iter() {
        if has(account, *id) == Some(true) {
            oracle.error(format!("{account}: {id} was deleted, and is there"));
        }
    }
    for (account, book) in found.iter() {
        for (id, entries) in &book.messages {
            if entries.len() != 1 {
                oracle.error(format!("{account}: {id} is there as {entries:?}"));
            }
            oracle.show(account, entries[0].0, *id);
        }
    }
}

fn faults() -> StoreFaults {
    StoreFaults {
        delay_max: Duration::from_millis(4),
        timeout: Duration::from_millis(300),
        late_max: Duration::from_secs(8),
        ..StoreFaults::some()
    }
}

fn all_seeds(default: u64, store_faults: StoreFaults) {
    let number = |key: &str| std::env::var(key).ok().and_then(|text| text.parse().ok());
    let (first, count) = (number("CULVER_SEED").unwrap_or(1), number("CULVER_SEEDS").unwrap_or(default));
    let (mut told, mut merged, mut missing) = (0, 0, 0);
    for seed in first..first + count {
        let world = run(seed, 12, store_faults);
        let errors = world.oracle.errors.borrow();
        assert!(errors.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {errors:#?}");
        told += world.oracle.appended.borrow().len();
        merged += world.oracle.merged.get();
        missing += world.oracle.missing_meanwhile.get();
    }
    println!("acknowledged {told}, merged {merged}, missing at a look meanwhile {missing}");
    assert!(told > 0 && merged > 0 && missing > 0, "the runs did nothing");
}

#[test]
fn what_nodes_acknowledge_locally_is_all_there_when_they_are_back() {
    all_seeds(4, StoreFaults { delay_max: Duration::from_millis(4), ..StoreFaults::none() });
}

#[test]
fn the_same_on_a_store_that_delays_loses_and_repeats() {
    all_seeds(4, faults());
}

#[cfg(feature = "planted-faults")]
#[path = "planted/local.rs"]
mod planted;
