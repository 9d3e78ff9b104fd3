//! The cache on the simulated disk: what it gives is what was put in, whatever becomes of its files.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use culver_model::PartitionId;
use culver_shard::random;
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};

use super::*;
use crate::place::{ObjectId, ObjectKind};

const STORE: [u8; 16] = [7; 16];
const BUDGET: u64 = 1 << 20;
const DIR: &str = "/cache";

fn key(nth: u64) -> Key {
    let object = ObjectId { kind: ObjectKind::Pack, shard: 0, epoch: 1, number: nth };
    Key { partition: PartitionId(3), object, offset: 64, part: Part::Frame }
}

/// Between 40 octets and 3 KiB, another for each key.
fn content(nth: u64) -> Vec<u8> {
    let mut state = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let octets = 40 + nth.wrapping_mul(2_654_435_761) % 3000;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..octets).map(next).collect()
}

fn start(budget: u64) -> (Cache, Task<()>) {
    Cache::start(DIR.as_ref(), STORE, budget, 64 << 10)
}

impl Cache {
    fn put_content(&self, nth: u64) {
        let content = content(nth);
        self.put(key(nth), content.len(), true, || content);
    }

    /// Waits until everything is written, given up and looked through.
    async fn idle(&self) {
        for _ in 0..100_000 {
            let inner = &self.0;
            let looked = inner.unseen.borrow().as_ref().is_some_and(VecDeque::is_empty);
            let written = inner.waiting.borrow().found.is_empty();
            if looked && written && inner.gone.borrow().is_empty() {
                // What was taken out of the list may still be under way.
                time::sleep(Duration::from_millis(5)).await;
                return;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the cache does not come to rest");
    }

    /// How many of these keys it has; each is right.
    async fn right(&self, keys: std::ops::Range<u64>) -> u64 {
        let mut found = 0;
        for nth in keys {
            if let Some(octets) = self.get(&key(nth), Reading::Client).await {
                assert!(octets == content(nth), "wrong octets of {nth}");
                found += 1;
            }
        }
        found
    }
}

async fn files() -> Vec<(PathBuf, u64)> {
    let dir = Path::new(DIR).join("1-0");
    let entries = disk::list(&dir).await.unwrap_or_default();
    entries.into_iter().map(|entry| (dir.join(entry.name), entry.len)).collect()
}

async fn octets_of_files() -> u64 {
    files().await.iter().map(|(_, octets)| octets).sum()
}

fn in_simulation<F: Future<Output = ()> + 'static>(seed: u64, run: impl FnOnce(Sim) -> F) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let run = run(sim.clone());
    sim.run(run);
}

#[test]
fn what_was_put_in_is_found_and_survives_a_restart() {
    in_simulation(1, |_| async {
        let (cache, task) = start(BUDGET);
        assert!(cache.get(&key(1), Reading::Client).await.is_none());
        for nth in 0..300 {
            cache.put_content(nth);
            assert_eq!(cache.right(nth..nth + 1).await, 1, "it is found before it is written");
            if nth % 20 == 0 {
                cache.idle().await;
            }
        }
        cache.idle().await;
        assert_eq!(cache.right(0..300).await, 300);
        let status = cache.status();
        assert_eq!((status.taken, status.entries, status.misses, status.errors), (300, 300, 1, 0));
        assert_eq!(status.held_octets, octets_of_files().await);
        task.cancel().await;

        let (cache, task) = start(BUDGET);
        cache.idle().await;
        assert_eq!(cache.right(0..300).await, 300);
        assert_eq!(cache.status().held_octets, octets_of_files().await);
        task.cancel().await;

        // Of a smaller budget the newest stays; of none of its own keys another store has anything.
        let (cache, task) = start(BUDGET / 4);
        cache.idle().await;
        let kept = cache.right(0..300).await;
        assert!(kept > 50 && kept < 200, "{kept} are kept");
        assert!(octets_of_files().await <= BUDGET / 4);
        assert_eq!(cache.right(290..300).await, 10);
        task.cancel().await;
        let (cache, task) = Cache::start(DIR.as_ref(), [8; 16], BUDGET, 64 << 10);
        cache.idle().await;
        assert_eq!((cache.right(0..300).await, octets_of_files().await), (0, 0));
        task.cancel().await;
    });
}

#[test]
fn an_eviction_keeps_the_budget_and_what_is_read_again() {
    in_simulation(2, |_| async {
        let (cache, task) = start(BUDGET);
        cache.idle().await;
        for nth in 0..100 {
            cache.put_content(nth);
            cache.idle().await;
        }
        time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cache.right(0..100).await, 100);
        for nth in 1000..5000 {
            cache.put_content(nth);
            if nth % 8 == 0 {
                cache.idle().await;
                assert!(octets_of_files().await <= BUDGET);
            }
        }
        assert_eq!(cache.right(0..100).await, 100, "what was read again");
        let passing = cache.right(1000..5000).await;
        assert!(passing > 10 && passing < 700, "{passing} of those that came by");
        assert!(cache.status().evicted > 3000);
        task.cancel().await;
    });
}

#[test]
fn whatever_is_wrong_with_a_file_it_is_a_miss_and_goes() {
    for seed in 0..40 {
        in_simulation(seed, move |_| async move {
            let (cache, task) = start(BUDGET);
            for nth in 0..200 {
                cache.put_content(nth);
                if nth % 20 == 0 {
                    cache.idle().await;
                }
            }
            cache.idle().await;
            assert_eq!(cache.right(0..200).await, 200);
            let (cache, task) = match seed % 2 {
                0 => (cache, task),
                _ => {
                    task.cancel().await;
                    start(BUDGET)
                }
            };
            let all = files().await;
            let (path, octets) = all[random::below(all.len() as u64) as usize].clone();
            let file = File::open_rw(&path).await.unwrap();
            match seed / 2 % 5 {
                0 => {
                    let at = random::below(octets);
                    let octet = file.read_at(at, 1).await.unwrap()[0];
                    file.write_at(at, vec![octet ^ 1 << random::below(8)]).await.unwrap();
                }
                1 => file.truncate(random::below(octets)).await.unwrap(),
                2 => disk::remove(&path).await.unwrap(),
                3 => {
                    // Another file's octets under this name.
                    let other = all.iter().find(|(other, _)| *other != path).unwrap();
                    let bytes = disk::read(&other.0).await.unwrap();
                    file.truncate(0).await.unwrap();
                    file.write_at(0, bytes).await.unwrap();
                }
                _ => {
                    file.write_at(0, vec![0; octets as usize]).await.unwrap();
                    let stray = Path::new(DIR).join("1-0/stray");
                    File::create_new(&stray).await.unwrap().write_at(0, vec![1; 100]).await.unwrap();
                }
            }
            cache.idle().await;
            let found = cache.right(0..200).await;
            assert!(found >= 150, "{found} of 200");
            cache.idle().await;
            assert_eq!(cache.right(0..200).await, cache.right(0..200).await, "what is wrong is gone");
            for nth in 0..200 {
                cache.put_content(nth);
                cache.idle().await;
            }
            assert_eq!(cache.right(0..200).await, 200, "it is taken in again");
            assert_eq!(cache.status().errors, 0, "no fault of the disk");
            task.cancel().await;
        });
    }
}

#[test]
fn a_directory_that_goes_is_made_again() {
    in_simulation(4, |_| async {
        let (cache, task) = start(BUDGET);
        cache.put_content(1);
        cache.idle().await;
        for (path, _) in files().await {
            disk::remove(path).await.unwrap();
        }
        disk::remove_dir(Path::new(DIR).join("1-0")).await.unwrap();
        for nth in 10..60 {
            cache.put_content(nth);
            cache.idle().await;
        }
        assert_eq!(cache.right(10..60).await, 50);
        assert_eq!(cache.status().errors, 0);
        task.cancel().await;
    });
}

#[test]
fn a_full_disk_stops_taking_for_a_minute_and_gets_room_back() {
    in_simulation(5, |sim| async move {
        let (cache, task) = start(BUDGET);
        for nth in 0..300 {
            cache.put_content(nth);
            if nth % 20 == 0 {
                cache.idle().await;
            }
        }
        cache.idle().await;
        let before = octets_of_files().await;
        sim.faults(NodeId(0), Faults { full: true, ..Faults::default() });
        for nth in 300..320 {
            cache.put_content(nth);
        }
        cache.idle().await;
        let status = cache.status();
        assert!(status.resting && status.errors == 1 && status.skipped == 20, "{status:?}");
        let after = octets_of_files().await;
        assert!(after <= before / 4 * 3, "{after} of {before}");
        let still = cache.right(0..320).await;
        assert!(still > 150 && still < 300, "{still} are still served");
        cache.put_content(400);
        assert_eq!(cache.right(400..401).await, 0, "nothing is taken");
        sim.faults(NodeId(0), Faults::default());
        time::sleep(Duration::from_secs(61)).await;
        cache.put_content(400);
        cache.idle().await;
        assert_eq!((cache.right(400..401).await, cache.status().resting), (1, false));
        assert_eq!(cache.right(0..320).await, still);
        task.cancel().await;
    });
}

#[test]
fn a_failing_disk_is_a_miss_within_half_a_second() {
    in_simulation(6, |sim| async move {
        let (cache, task) = start(BUDGET);
        for nth in 0..100 {
            cache.put_content(nth);
            cache.idle().await;
        }
        sim.faults(NodeId(0), Faults { read_eio: 1000, ..Faults::default() });
        assert_eq!(cache.right(0..1).await, 0);
        assert!(cache.status().resting && cache.status().errors == 1);
        sim.faults(NodeId(0), Faults { slow: Duration::from_secs(30), ..Faults::default() });
        let began = time::now();
        assert_eq!(cache.right(99..100).await, 0);
        assert!(began.elapsed() <= Duration::from_millis(501));
        sim.faults(NodeId(0), Faults::default());
        time::sleep(Duration::from_secs(120)).await;
        cache.put_content(0);
        cache.idle().await;
        assert_eq!(cache.right(0..1).await, 1);
        task.cancel().await;
    });
}

#[test]
fn too_much_at_once_is_not_taken_and_promises_count() {
    in_simulation(7, |_| async {
        let (cache, task) = Cache::start(DIR.as_ref(), STORE, 64 << 20, 8 << 10);
        let promised = cache.promise(6 << 10).unwrap();
        assert!(cache.promise(4 << 10).is_none());
        drop(promised);
        let all: usize = (0..100).map(|nth| content(nth).len()).sum();
        (0..100).for_each(|nth| cache.put_content(nth));
        assert!(cache.0.waiting.borrow().octets <= 8 << 10);
        cache.idle().await;
        let status = cache.status();
        assert!(status.taken_octets <= 8 << 10 && all > 64 << 10, "{status:?}");
        assert_eq!(status.taken + status.skipped, 101);
        // An entry larger than a segment is none.
        cache.put(key(1000), 2 << 20, true, || vec![0; 2 << 20]);
        assert!(cache.get(&key(1000), Reading::Client).await.is_none());
        task.cancel().await;
    });
}

#[test]
fn caches_of_another_number_of_shards_go() {
    in_simulation(8, |_| async {
        for name in ["2-0", "2-1"] {
            let dir = Path::new(DIR).join(name);
            disk::create_dir_all(&dir).await.unwrap();
            File::create_new(dir.join("1.cache")).await.unwrap().write_at(0, vec![1; 100]).await.unwrap();
        }
        let (cache, task) = start(BUDGET);
        cache.idle().await;
        let left: Vec<String> = disk::list(DIR).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(left, ["1-0"]);
        task.cancel().await;
    });
}

/// One life on a disk with any faults: whatever is found is right, and the files keep the budget.
async fn live(sim: Sim, node: NodeId, hits: Rc<Cell<u64>>, over: Rc<RefCell<Vec<u64>>>) {
    let budget = 256 << 10;
    let (cache, task) = start(budget);
    for _ in 0..400 {
        let nth = random::below(40) * random::below(10);
        match random::below(40) {
            0..16 => cache.put_content(nth),
            16..34 => hits.set(hits.get() + cache.right(nth..nth + 1).await),
            34 => time::sleep(Duration::from_secs(random::below(50))).await,
            35 => time::sleep(Duration::from_millis(random::below(20))).await,
            kind => {
                let all = files().await;
                let Some((path, octets)) = all.get(random::below(all.len() as u64) as usize) else {
                    continue;
                };
                match kind {
                    36 => drop(disk::remove(path).await),
                    37 => {
                        if let Ok(file) = File::open_rw(path).await {
                            let (at, octet) = (random::below(*octets), random::u64() as u8);
                            drop(file.write_at(at, vec![octet]).await);
                        }
                    }
                    38 => sim.faults(node, Faults { full: random::below(2) == 0, ..Faults::default() }),
                    _ => sim.faults(node, Faults { read_eio: random::below(30), ..Faults::default() }),
                }
            }
        }
        let octets = octets_of_files().await;
        // A file that somebody lengthened or that is about to be removed is not the cache's doing.
        if octets > budget {
            over.borrow_mut().push(octets);
        }
    }
    task.cancel().await;
}

#[test]
fn whatever_the_disk_does_what_is_found_is_right() {
    let hits: Rc<Cell<u64>> = Rc::default();
    for seed in 1..=30 {
        let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
        let node = sim.node("a");
        let over: Rc<RefCell<Vec<u64>>> = Rc::default();
        for _ in 0..4 {
            sim.faults(node, Faults::default());
            let (handle, found, more) = (sim.clone(), hits.clone(), over.clone());
            sim.start(node, 1, move |_| live(handle.clone(), node, found.clone(), more.clone()));
            sim.step(500 + sim.random() % 20_000);
            match sim.running(node) && sim.random().is_multiple_of(2) {
                true => sim.crash(node),
                false => {
                    let handle = sim.clone();
                    sim.run(async move { handle.exited(node).await });
                }
            }
        }
        assert!(over.borrow().is_empty(), "seed {seed}: {:?} octets", over.borrow());
    }
    assert!(hits.get() > 1000, "{} hits: the runs did nothing", hits.get());
}
