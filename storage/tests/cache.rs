//! What a node on a shared store asks of it: nothing twice, nothing of what it wrote itself, and little in sequence.
#![cfg(feature = "simulation")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::sim::{NodeId, Sim, SimConfig};
use culver_shard::{Config, random, time};
use culver_storage::simstore::{Asked, SimStore, StoreFaults};
use culver_storage::store::StoreUrl;
use culver_storage::{
    AccountBlocks, BlockKind, Body, Committed, Limits, LocalFuture, Node, NodeConfig, Place, Position,
    Source, SourceError, Storage, Windows,
};

const KEYS: usize = 30;
const FILES: &str = "/node/cache/1-0";

/// Accounts whose records are numbers, and whose blocks are under many keys.
#[derive(Default)]
struct Shelf {
    storage: RefCell<Option<Storage>>,
    /// The newest record of each, and where its bodies are now.
    accounts: RefCell<BTreeMap<AccountId, (Position, Vec<Place>)>>,
    /// How often blocks of each were made.
    flushes: RefCell<BTreeMap<AccountId, u32>>,
}

impl Shelf {
    async fn commit(&self, account: &AccountId, body: Option<Body>, meta: &[u8]) -> Committed {
        let storage = self.storage.borrow().clone().unwrap();
        let partition = storage.partition_of(account);
        let bodies = body.into_iter().collect();
        let committed = storage.commit(partition, account, meta.to_vec(), bodies).await.unwrap();
        let mut accounts = self.accounts.borrow_mut();
        let (position, places) = accounts.entry(account.clone()).or_default();
        *position = committed.position;
        places.extend_from_slice(&committed.bodies);
        committed
    }

    async fn deliver(&self, account: &AccountId, octets: &[u8]) -> Place {
        let storage = self.storage.borrow().clone().unwrap();
        let mut writer = storage.body_writer(storage.partition_of(account), account, None);
        for piece in octets.chunks(100_000) {
            writer.write(piece).await.unwrap();
        }
        let body = writer.finish().await.unwrap();
        self.commit(account, Some(body), b"delivered").await.bodies[0]
    }
}

impl Source for Shelf {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        last: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        let flushes = {
            let mut flushes = self.flushes.borrow_mut();
            let flushes = flushes.entry(account.clone()).or_insert(0);
            *flushes += 1;
            *flushes
        };
        Box::pin(async move {
            let blocks = (0..KEYS).map(|nth| {
                // Every third key grows by deltas.
                let delta = nth.is_multiple_of(3) && flushes > 1;
                let kind = if delta { BlockKind::Delta } else { BlockKind::Base };
                (Guid([nth as u8; 16]), kind, content(nth as u64 + last.lsn, 100 + 500 * nth))
            });
            Ok(AccountBlocks { position: last, blocks: blocks.collect() })
        })
    }

    fn flushed(&self, _: PartitionId, _: &AccountId, _: Position) {}

    fn live<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        let accounts = self.accounts.borrow();
        // Of an account that was not used here everything lives.
        let held = accounts.get(account).map(|(_, held)| held);
        let live = places.iter().map(|place| held.is_none_or(|held| held.contains(place))).collect();
        Box::pin(async move { Ok(live) })
    }

    fn relocated<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            for (old, body) in moves {
                let new = self.commit(account, Some(body), b"moved").await.bodies[0];
                let mut accounts = self.accounts.borrow_mut();
                let (_, places) = accounts.get_mut(account).unwrap();
                places.pop();
                places.iter_mut().filter(|place| **place == old).for_each(|place| *place = new);
            }
            Ok(())
        })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.org")).unwrap()
}

fn content(id: u64, size: usize) -> Vec<u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8 | 1
    };
    (0..size).map(&mut next).collect()
}

fn config(name: &str) -> NodeConfig {
    NodeConfig {
        windows: Windows {
            interactive: Duration::from_millis(2),
            delivery: Duration::from_millis(10),
            spacing: Duration::from_millis(5),
            ..Windows::default()
        },
        lease: Duration::from_secs(60),
        // Longer than a life: what the agent reads of journals is not looked at here.
        look: Duration::from_secs(3600),
        ..NodeConfig::new(name)
    }
}

/// One life of a node: takes everything, and ends without a good-bye.
fn live<F, Fut>(sim: &Sim, node: NodeId, name: &'static str, store: &SimStore, limits: Limits, run: F)
where
    F: Fn(Storage, Rc<Shelf>) -> Fut + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let world = store.clone();
    sim.start(node, 1, move |_| {
        let (store, limits, run) = (world.clone(), limits.clone(), run.clone());
        async move {
            let node = Node::join_simulated(&store, "/node".as_ref(), limits, config(name)).await.unwrap();
            let storage = Storage::start_shared(node.share()).await.unwrap();
            let shelf = Rc::new(Shelf::default());
            *shelf.storage.borrow_mut() = Some(storage.clone());
            storage.attach(shelf.clone());
            node.begin();
            time::sleep(Duration::from_secs(1)).await;
            node.take_over(&storage.partitions()).await.unwrap();
            while !storage.partitions().iter().all(|partition| storage.serves(*partition)) {
                time::sleep(Duration::from_millis(20)).await;
            }
            // The agent has looked at what it took, and the cache at its files.
            time::sleep(Duration::from_secs(30)).await;
            run(storage.clone(), shelf.clone()).await;
            *shelf.storage.borrow_mut() = None;
            storage.close(false).await;
        }
    });
    let (handle, ended) = (sim.clone(), node);
    sim.run(async move { handle.exited(ended).await });
}

fn simulation(seed: u64) -> (Sim, SimStore) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    (sim, SimStore::new(StoreFaults { delay_max: Duration::from_millis(20), ..StoreFaults::none() }))
}

fn limits() -> Limits {
    // The housekeeping, which reads journals to compact them, sleeps.
    let tick = Duration::from_secs(3600);
    Limits { partitions: 4, cache_octets: 64 << 20, tables_max: 8, tick, ..Limits::default() }
}

/// Reads of packs, tables and journals.
fn reads(asked: &[Asked]) -> Vec<&Asked> {
    let of_objects = |asked: &&Asked| asked.key.starts_with("data/") || asked.key.starts_with("journal/");
    asked.iter().filter(|asked| asked.kind == "get" || asked.kind == "head").filter(of_objects).collect()
}

/// The most requests of which each began after another had ended.
fn rounds(mut reads: Vec<&Asked>) -> usize {
    reads.sort_by_key(|asked| asked.ended);
    let (mut rounds, mut last) = (0, None);
    for asked in reads {
        if last.is_none_or(|last| asked.began >= last) {
            rounds += 1;
            last = Some(asked.ended);
        }
    }
    rounds
}

async fn read_whole(storage: &Storage, partition: PartitionId, place: &Place) -> Vec<u8> {
    let mut reader = storage.reader(partition, place).await.unwrap();
    let mut octets = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        octets.extend_from_slice(&piece);
    }
    octets
}

fn told(asked: &[Asked]) -> String {
    let line = |of: &&Asked| format!("\n{} {} {:?}..{:?}", of.kind, of.key, of.began, of.ended);
    reads(asked).iter().map(line).collect()
}

/// Bodies with what they must be.
type Bodies = Rc<RefCell<Vec<(Place, Vec<u8>)>>>;

/// Reads each body whole and in part; how many requests that took.
async fn read_all(storage: &Storage, store: &SimStore, bodies: &Bodies) -> usize {
    let partition = storage.partition_of(&account(1));
    store.watch();
    let bodies = bodies.borrow().clone();
    for (place, octets) in &bodies {
        assert!(read_whole(storage, partition, place).await == *octets, "{place}");
        let from = random::below(octets.len() as u64 + 1);
        let to = from + random::below(300_000);
        let part = storage.read_place(partition, place, from..to).await.unwrap();
        assert!(part == octets[from as usize..(to as usize).min(octets.len())], "{place} {from}..{to}");
    }
    reads(&store.watch()).len()
}

const SIZES: [usize; 6] = [0, 300, 70_000, 200_000, 1_500_000, 3_000_000];

fn deliver_all(sim: &Sim, store: &SimStore) -> Bodies {
    let bodies: Bodies = Rc::default();
    let (kept, node) = (bodies.clone(), sim.node("a"));
    live(sim, node, "a", store, limits(), move |_, shelf| {
        let kept = kept.clone();
        async move {
            for (nth, size) in SIZES.into_iter().enumerate() {
                let octets = content(nth as u64, size);
                let place = shelf.deliver(&account(1), &octets).await;
                kept.borrow_mut().push((place, octets));
            }
        }
    });
    bodies
}

#[test]
fn a_second_read_asks_the_store_nothing_also_after_a_restart() {
    let (sim, store) = simulation(1);
    let bodies = deliver_all(&sim, &store);
    let node = sim.node("b");
    for life in 0..2 {
        let (kept, asked) = (bodies.clone(), store.clone());
        live(&sim, node, "b", &store, limits(), move |storage, _| {
            let (kept, asked) = (kept.clone(), asked.clone());
            async move {
                if life == 0 {
                    // None for four small bodies, which the takeover has read; beginning, table and windows of the others: 3
                    // and 4.
                    assert_eq!(read_all(&storage, &asked, &kept).await, 3 + 4);
                    time::sleep(Duration::from_secs(5)).await;
                }
                asked.set_down(true);
                assert_eq!(read_all(&storage, &asked, &kept).await, 0, "life {life}");
                asked.set_down(false);
                let status = storage.cache_status().unwrap();
                assert!(status.hits > 0 && status.damaged == 0 && status.errors == 0, "{status:?}");
            }
        });
    }
    // Without a cache everything is read again.
    let (kept, asked) = (bodies, store.clone());
    live(&sim, node, "b", &store, Limits { cache_octets: 0, ..limits() }, move |storage, _| {
        let (kept, asked) = (kept.clone(), asked.clone());
        async move {
            assert!(storage.cache_status().is_none());
            assert!(read_all(&storage, &asked, &kept).await > 12);
            assert!(read_all(&storage, &asked, &kept).await > 12);
        }
    });
}

#[test]
fn without_memory_for_windows_a_body_is_read_chunk_by_chunk() {
    let (sim, store) = simulation(5);
    let bodies = deliver_all(&sim, &store);
    let node = sim.node("b");
    for (window_octets_max, least, most) in [(64 << 20, 1, 6), (0, 40, 60)] {
        let (kept, asked) = (bodies.clone(), store.clone());
        let limits = Limits { cache_octets: 0, window_octets_max, ..limits() };
        live(&sim, node, "b", &store, limits, move |storage, _| {
            let (kept, asked) = (kept.clone(), asked.clone());
            async move {
                let (place, octets) = kept.borrow().last().unwrap().clone();
                asked.watch();
                assert!(read_whole(&storage, storage.partition_of(&account(1)), &place).await == octets);
                let requests = reads(&asked.watch()).len();
                assert!((least..=most).contains(&requests), "{window_octets_max}: {requests} requests");
            }
        });
    }
}

#[test]
fn a_wrong_cached_octet_is_never_served() {
    let (sim, store) = simulation(2);
    let bodies = deliver_all(&sim, &store);
    let (asked, node) = (store.clone(), sim.node("b"));
    live(&sim, node, "b", &store, limits(), move |storage, _| {
        let (kept, asked) = (bodies.clone(), asked.clone());
        async move {
            let mut damaged = 0;
            for turn in 0..12 {
                // A file in which something is wrong goes with what was read of it before.
                let mut passes = 0;
                while read_all(&storage, &asked, &kept).await > 0 {
                    time::sleep(Duration::from_secs(5)).await;
                    passes += 1;
                    assert!(passes < 20, "turn {turn}");
                }
                for entry in disk::list(FILES).await.unwrap() {
                    let path = Path::new(FILES).join(&entry.name);
                    if turn == 11 {
                        disk::remove(path).await.unwrap();
                        continue;
                    }
                    let file = File::open_rw(path).await.unwrap();
                    let octets = 1 + random::below(100);
                    let at = random::below(entry.len - octets);
                    // No content has an octet 0.
                    file.write_at(at, vec![0; octets as usize]).await.unwrap();
                }
                read_all(&storage, &asked, &kept).await;
                damaged = storage.cache_status().unwrap().damaged;
            }
            assert!(damaged >= 5, "{damaged} files were found damaged");
        }
    });
}

#[test]
fn what_a_node_commits_itself_it_does_not_fetch_back() {
    let (sim, store) = simulation(3);
    let (asked, node) = (store.clone(), sim.node("a"));
    live(&sim, node, "a", &store, limits(), move |storage, shelf| {
        let asked = asked.clone();
        async move {
            let (name, partition) = (account(1), storage.partition_of(&account(1)));
            asked.watch();
            for nth in 0..20 {
                shelf.deliver(&name, &content(nth, 1000 + 10_000 * nth as usize)).await;
            }
            for nth in 0..30 {
                shelf.commit(&name, None, format!("changed {nth}").as_bytes()).await;
            }
            assert_eq!(reads(&asked.watch()).len(), 0, "a delivery to a closed account reads nothing");
            let loaded = storage.load(partition, &name).await.unwrap();
            assert_eq!(loaded.records.len(), 50);
            let changed = loaded.records.iter().skip(20).map(|record| record.meta.clone());
            assert!(changed.eq((0..30).map(|nth| format!("changed {nth}").into_bytes())));
            for (nth, record) in (0..20).zip(&loaded.records) {
                assert_eq!(record.meta, b"delivered");
                if nth % 2 == 0 {
                    let octets = read_whole(&storage, partition, &record.bodies[0]).await;
                    assert!(octets == content(nth, 1000 + 10_000 * nth as usize));
                }
            }
            time::sleep(Duration::from_secs(5)).await;
            storage.flush(partition).await.unwrap();
            assert_eq!(
                reads(&asked.watch()).len(),
                0,
                "opening, reading and flushing what was just committed"
            );
            // What was read before it was packed is still there, the rest is one request each.
            let places = shelf.accounts.borrow()[&name].1.clone();
            let packed = |place: &&Place| place.object.kind == culver_storage::ObjectKind::Pack;
            assert_eq!(places.iter().filter(packed).count(), 20);
            for (nth, place) in (0..).zip(&places) {
                let octets = read_whole(&storage, partition, place).await;
                assert!(octets == content(nth, 1000 + 10_000 * nth as usize));
            }
            assert_eq!(reads(&asked.watch()).len(), 10);
        }
    });
}

#[test]
fn what_a_taker_has_read_is_not_read_again() {
    let (sim, store) = simulation(4);
    let node = sim.node("a");
    live(&sim, node, "a", &store, limits(), |storage, shelf| async move {
        // Covered by a flush: read on the way, and of no use.
        for nth in 0..50 {
            shelf.deliver(&account(1), &content(nth, 400)).await;
        }
        storage.flush_all().await.unwrap();
        for nth in 0..400 {
            match nth % 4 {
                0 => drop(shelf.deliver(&account(1), &content(nth, 2000)).await),
                _ => drop(shelf.commit(&account(1), None, format!("changed {nth}").as_bytes()).await),
            }
            shelf.commit(&account(2), None, b"changed too").await;
        }
    });
    let (asked, node) = (store.clone(), sim.node("b"));
    let load = move |limits: Limits, heads: usize| {
        let asked = asked.clone();
        live(&sim, node, "b", &store, limits, move |storage, _| {
            let asked = asked.clone();
            async move {
                let status = storage.cache_status().unwrap_or_default();
                assert_eq!((status.skipped, status.damaged, status.errors), (0, 0, 0), "{status:?}");
                for nth in 1..3 {
                    let (name, partition) = (account(nth), storage.partition_of(&account(nth)));
                    asked.watch();
                    let loaded = storage.load(partition, &name).await.unwrap();
                    assert_eq!(loaded.records.len(), 400);
                    let all = asked.watch();
                    let of_journals =
                        reads(&all).iter().filter(|asked| asked.key.starts_with("journal/")).count();
                    assert_eq!(of_journals, heads, "{}", told(&all));
                    if nth == 1 {
                        for (nth, record) in (0..).zip(&loaded.records).filter(|(nth, _)| nth % 4 == 0) {
                            assert!(
                                read_whole(&storage, partition, &record.bodies[0]).await
                                    == content(nth, 2000)
                            );
                        }
                        assert_eq!(reads(&asked.watch()).len(), heads / 4, "a request for each body");
                    }
                }
            }
        });
    };
    // More than may wait to be written at a time; they are written one after the other.
    load(Limits { cache_waiting_octets_max: 16 << 10, ..limits() }, 0);
    load(Limits { cache_octets: 0, ..limits() }, 400);
}

#[test]
fn a_cold_account_is_opened_in_two_round_trips() {
    for seed in 0..5 {
        let (sim, store) = simulation(100 + seed);
        let node = sim.node("a");
        live(&sim, node, "a", &store, limits(), |storage, shelf| async move {
            for flush in 0..5 {
                for nth in 0..60 {
                    shelf.deliver(&account(nth), &content(nth as u64, 500)).await;
                }
                if flush < 4 {
                    storage.flush_all().await.unwrap();
                }
            }
        });
        let (asked, node) = (store.clone(), sim.node("b"));
        live(&sim, node, "b", &store, limits(), move |storage, shelf| {
            let asked = asked.clone();
            async move {
                let (name, partition) = (account(1), storage.partition_of(&account(1)));
                asked.watch();
                shelf.deliver(&name, b"to a closed account").await;
                assert_eq!(reads(&asked.watch()).len(), 0);

                let loaded = storage.load(partition, &name).await.unwrap();
                assert!(loaded.blocks.len() == KEYS && loaded.records.len() >= 2, "{}", loaded.records.len());
                let cold = asked.watch();
                let keys: std::collections::BTreeSet<&str> =
                    reads(&cold).iter().map(|asked| asked.key.as_str()).collect();
                let tables = keys.iter().filter(|key| key.ends_with(".table")).count();
                assert!(tables >= 2, "{keys:?}");
                // The end of each table, its blocks of the account, and the record of another node.
                assert!(reads(&cold).len() <= 2 * tables + 2, "{}", told(&cold));
                assert!(rounds(reads(&cold)) <= 2, "{}", told(&cold));

                // Another account of the partition: the tables are open.
                let other =
                    (2..60).map(account).find(|other| storage.partition_of(other) == partition).unwrap();
                storage.load(partition, &other).await.unwrap();
                assert!(rounds(reads(&asked.watch())) <= 1);
                time::sleep(Duration::from_secs(5)).await;
                let again = storage.load(partition, &name).await.unwrap();
                assert_eq!(format!("{again:?}"), format!("{loaded:?}"));
                let warm = asked.watch();
                assert_eq!(reads(&warm).len(), 0, "all of it is cached: {}", told(&warm));
            }
        });
        // A start later, too.
        let asked = store.clone();
        live(&sim, node, "b", &store, limits(), move |storage, _| {
            let asked = asked.clone();
            async move {
                let (name, partition) = (account(1), storage.partition_of(&account(1)));
                asked.watch();
                storage.load(partition, &name).await.unwrap();
                assert_eq!(reads(&asked.watch()).len(), 0);
            }
        });
    }
}

/// A node on a directory, with real files. What `run` leaves in the first argument the next one gets.
fn on_real_files<F, Fut>(store: &Path, dir: &Path, name: &'static str, run: F)
where
    F: Fn(Storage, Rc<Shelf>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let (url, dir) = (StoreUrl::SharedFs(store.to_owned()), dir.to_owned());
    let shards = Config { shards: 1, pin: false, ..Config::default() };
    culver_shard::run(shards, move |_| {
        let (url, dir, run) = (url.clone(), dir.clone(), run.clone());
        async move {
            let limits = Limits { tick: Duration::from_millis(100), ..limits() };
            let node =
                Node::join(&url, &dir, limits, config(name)).await.map_err(|error| error.to_string())?;
            let storage = Storage::start_shared(node.share()).await.map_err(|error| error.to_string())?;
            let shelf = Rc::new(Shelf::default());
            *shelf.storage.borrow_mut() = Some(storage.clone());
            storage.attach(shelf.clone());
            node.begin();
            // The agent's own look claims what nobody has; a claim beside it would take that once more.
            let all = || storage.partitions().iter().all(|partition| storage.serves(*partition));
            let looked = time::now();
            while !all() && looked.elapsed() < Duration::from_secs(2) {
                time::sleep(Duration::from_millis(5)).await;
            }
            if !all() {
                node.take_over(&storage.partitions()).await.map_err(|error| error.to_string())?;
            }
            while !all() {
                time::sleep(Duration::from_millis(5)).await;
            }
            run(storage.clone(), shelf.clone()).await;
            *shelf.storage.borrow_mut() = None;
            storage.close(false).await;
            culver_shard::stop();
            Ok::<(), String>(())
        }
    })
    .unwrap();
}

fn remove_files(dir: &Path) -> usize {
    let mut removed = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => removed += remove_files(&path),
            false => {
                std::fs::remove_file(path).unwrap();
                removed += 1;
            }
        }
    }
    removed
}

#[test]
fn real_files_give_back_what_a_store_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (store, first, second) = (dir.path().join("store"), dir.path().join("a"), dir.path().join("b"));
    let places: Arc<Mutex<Vec<[u8; 32]>>> = Arc::default();
    let noted = places.clone();
    on_real_files(&store, &first, "a", move |storage, shelf| {
        let noted = noted.clone();
        async move {
            for nth in 0..200 {
                let place = shelf.deliver(&account(1), &content(nth, 2000 * nth as usize)).await;
                noted.lock().unwrap().push(place.to_bytes());
            }
            storage.flush_all().await.unwrap();
            let moved = shelf.accounts.borrow()[&account(1)].1.iter().map(Place::to_bytes).collect();
            *noted.lock().unwrap() = moved;
        }
    });
    for life in 0..2 {
        let (store_dir, noted) = (store.clone(), places.clone());
        on_real_files(&store, &second, "b", move |storage, _| {
            let (store_dir, noted) = (store_dir.clone(), noted.clone());
            async move {
                let partition = storage.partition_of(&account(1));
                let places: Vec<Place> =
                    noted.lock().unwrap().iter().map(|place| Place::from_bytes(place).unwrap()).collect();
                assert_eq!(places.len(), 200);
                let before = storage.cache_status().unwrap();
                if life > 0 {
                    // What the last life wrote is looked through.
                    while storage.cache_status().unwrap().unseen_files > 0 {
                        time::sleep(Duration::from_millis(5)).await;
                    }
                    assert!(remove_files(&store_dir.join("data")) > 0);
                }
                for (nth, place) in (0..).zip(&places) {
                    let octets = read_whole(&storage, partition, place).await;
                    assert!(octets == content(nth, 2000 * nth as usize), "{place}");
                    // A reader waits for no write, so the cache takes what it can; here it can take all.
                    while life == 0 && storage.cache_status().unwrap().waiting_octets > 0 {
                        time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let status = storage.cache_status().unwrap();
                assert_eq!((status.errors, status.damaged, status.skipped), (0, 0, 0), "{status:?}");
                match life {
                    0 => assert!(status.taken >= 200 && status.misses >= 200, "{status:?}"),
                    _ => assert!(status.hits >= before.hits + 200, "{status:?}"),
                }
            }
        });
    }
}
