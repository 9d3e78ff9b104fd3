//! What the simulation promises: the same seed gives the same run, and a crash keeps what it must and no more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use culver_shard::disk::{self, File};
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};
use culver_shard::sync::{Notify, Semaphore};
use culver_shard::{Queue, mesh, random, set_local, spawn, time};

fn sim(seed: u64) -> (Sim, NodeId) {
    let sim = Sim::new(seed, SimConfig::default());
    let node = sim.node("a");
    (sim, node)
}

/// Runs one root on one shard of the node to its end.
fn on<Fut: Future<Output = ()> + 'static>(sim: &Sim, node: NodeId, f: impl FnOnce() -> Fut + 'static) {
    let f = Rc::new(Cell::new(Some(f)));
    sim.start(node, 1, move |_| (f.take().expect("one shard"))());
    let s = sim.clone();
    sim.run(async move { s.exited(node).await });
}

fn busy(seed: u64) -> (u64, Vec<u64>) {
    let (sim, node) = sim(seed);
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    sim.start(node, 3, move |shard| {
        let seen = seen.clone();
        async move {
            set_local(Rc::new(Cell::new(0u64)));
            disk::create_dir_all("/d").await.unwrap();
            let mut map = random::HashMap::default();
            for n in 0..20u64 {
                map.insert(n, n);
                let other = random::below(3) as usize;
                let got = mesh::call(other, move || async move {
                    time::sleep(Duration::from_micros(random::below(300))).await;
                    n * 10
                });
                let got = got.await.unwrap();
                seen.borrow_mut().push(got + shard as u64);
            }
            seen.borrow_mut().extend(map.keys());
            disk::create_durable(format!("/d/{shard}"), &[shard as u8; 3000]).await.unwrap();
        }
    });
    let s = sim.clone();
    sim.run(async move { s.exited(node).await });
    sim.crash(node);
    let log = log.take();
    (sim.digest(), log)
}

#[test]
fn same_seed_gives_same_run() {
    let mut digests = BTreeSet::new();
    for seed in 0..20 {
        let first = busy(seed);
        assert_eq!(first, busy(seed), "seed {seed}");
        digests.insert(first.0);
    }
    assert_eq!(digests.len(), 20, "different seeds give different runs");
}

#[test]
fn synced_octets_survive_and_unsynced_are_lost_kept_and_torn() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (sim, node) = sim(seed);
        on(&sim, node, || async {
            let file = File::create_new("/f").await.unwrap();
            disk::sync_dir("/").await.unwrap();
            file.append_inline(0, &[1; 4096]).unwrap();
            file.sync_data().await.unwrap();
            file.append_inline(4096, &[2; 2048]).unwrap();
            file.write_at(0, vec![3; 512]).await.unwrap();
        });
        sim.crash(node);
        let files = sim.files(node);
        assert_eq!(files.len(), 1);
        let octets = &files[0].1;
        assert!(octets.len() >= 4096, "seed {seed}: synced length lost");
        assert!(octets[512..4096].iter().all(|b| *b == 1), "seed {seed}: synced octets lost");
        assert!(octets[..512].iter().all(|b| *b == octets[0]), "seed {seed}: half a sector");
        let tail = &octets[4096..];
        let sectors = tail.chunks(512).filter(|s| s.iter().all(|b| *b == 2)).count();
        outcomes.insert((octets[0], sectors == 4, sectors > 0));
    }
    // Overwrite kept or not, with the append whole, torn or absent: all six occur.
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
}

#[test]
fn unsynced_names_are_lost_or_kept_and_synced_names_stay() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (sim, node) = sim(seed);
        on(&sim, node, || async {
            disk::create_dir_all("/d").await.unwrap();
            disk::sync_dir("/").await.unwrap();
            for name in ["/d/gone", "/d/old", "/d/stay"] {
                File::create_new(name).await.unwrap();
            }
            disk::sync_dir("/d").await.unwrap();
            let new = File::create_new("/d/new").await.unwrap();
            new.append_inline(0, b"x").unwrap();
            // Syncing a file does not make its name durable.
            new.sync_data().await.unwrap();
            disk::rename("/d/old", "/d/renamed").await.unwrap();
            disk::remove("/d/gone").await.unwrap();
        });
        sim.crash(node);
        let names: Vec<String> = sim
            .files(node)
            .into_iter()
            .map(|(p, _)| p.file_name().unwrap().to_str().unwrap().into())
            .collect();
        let has = |name: &str| names.iter().any(|n| n == name);
        assert!(has("stay"));
        assert!(has("old") != has("renamed"), "seed {seed}: a rename is whole or did not happen: {names:?}");
        outcomes.insert((has("new"), has("renamed"), has("gone")));
    }
    assert_eq!(outcomes.len(), 8, "{outcomes:?}");
}

#[test]
fn rename_between_directories_is_whole() {
    let mut both = BTreeSet::new();
    for seed in 0..100 {
        let (sim, node) = sim(seed);
        on(&sim, node, || async {
            for dir in ["/b", "/a", "/c"] {
                disk::create_dir_all(dir).await.unwrap();
            }
            disk::sync_dir("/").await.unwrap();
            File::create_new("/b/f").await.unwrap();
            disk::sync_dir("/b").await.unwrap();
            disk::rename("/b/f", if random::u64() & 1 == 0 { "/a/f" } else { "/c/f" }).await.unwrap();
            if random::u64() & 1 == 0 {
                disk::sync_dir("/b").await.unwrap();
            }
        });
        sim.crash(node);
        let files = sim.files(node);
        assert_eq!(files.len(), 1, "seed {seed}: {files:?}");
        both.insert(files[0].0.clone());
    }
    assert_eq!(both.len(), 3);
}

#[test]
fn create_durable_is_all_or_nothing_at_any_instant() {
    let (mut there, mut absent) = (0, 0);
    for seed in 0..300 {
        let (sim, node) = sim(seed);
        let acknowledged = Rc::new(Cell::new(false));
        let ack = acknowledged.clone();
        sim.start(node, 1, move |_| {
            let ack = ack.clone();
            async move {
                disk::create_durable("/m", &[7; 5000]).await.unwrap();
                ack.set(true);
                let again = disk::create_durable("/m", b"other").await;
                assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
            }
        });
        sim.step(seed % 40);
        sim.crash(node);
        match sim.files(node).iter().find(|(p, _)| p.ends_with("m")) {
            Some((_, octets)) => {
                assert_eq!(*octets, vec![7; 5000], "seed {seed}");
                there += 1;
            }
            None => {
                assert!(!acknowledged.get(), "seed {seed}: acknowledged and lost");
                absent += 1;
            }
        }
    }
    assert!(there > 20 && absent > 20, "{there} {absent}");
}

#[test]
fn sigkill_keeps_the_page_cache_until_the_power_goes() {
    let mut lost = 0;
    for seed in 0..50 {
        let (sim, node) = sim(seed);
        on(&sim, node, || async {
            let file = File::create_new("/f").await.unwrap();
            disk::sync_dir("/").await.unwrap();
            file.append_inline(0, b"unsynced").unwrap();
        });
        sim.kill(node);
        assert_eq!(sim.files(node)[0].1, b"unsynced");
        sim.crash(node);
        lost += usize::from(sim.files(node)[0].1.is_empty());
    }
    assert!(lost > 5);
}

#[test]
fn open_file_outlives_its_name_and_reserved_space_outlives_a_full_disk() {
    let (sim, node) = sim(1);
    let s = sim.clone();
    on(&sim, node, move || async move {
        let file = File::create_new("/f").await.unwrap();
        file.preallocate(1000).await.unwrap();
        disk::remove("/f").await.unwrap();
        s.faults(node, Faults { full: true, ..Faults::default() });
        file.append_inline(0, &[1; 1000]).unwrap();
        let full = file.append_inline(1000, &[1]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        assert_eq!(file.read_at(990, 100).await.unwrap(), [1; 10]);
        assert_eq!(File::create_new("/g").await.unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(!disk::exists("/f").await.unwrap());
    });
}

#[test]
fn failed_sync_loses_what_the_next_one_does_not_bring_back() {
    let mut lost = 0;
    for seed in 0..50 {
        let (sim, node) = sim(seed);
        let s = sim.clone();
        on(&sim, node, move || async move {
            let file = File::create_new("/f").await.unwrap();
            disk::sync_dir("/").await.unwrap();
            file.append_inline(0, b"lost?").unwrap();
            s.faults(node, Faults { sync_eio: 1000, ..Faults::default() });
            assert!(file.sync_data().await.is_err());
            s.faults(node, Faults::default());
            file.sync_data().await.unwrap();
            assert_eq!(file.read_at(0, 10).await.unwrap(), b"lost?");
        });
        sim.crash(node);
        lost += usize::from(sim.files(node)[0].1.is_empty());
    }
    assert!((10..40).contains(&lost), "{lost}");
}

#[test]
fn lock_refuses_a_second_holder_and_a_crash_frees_it() {
    let (sim, node) = sim(3);
    on(&sim, node, || async {
        let held = disk::lock("/lock").await.unwrap();
        assert!(matches!(disk::lock("/lock").await, Err(disk::LockError::Held { pid: Some(_), .. })));
        drop(held);
        std::mem::forget(disk::lock("/lock").await.unwrap());
    });
    sim.crash(node);
    on(&sim, node, || async { drop(disk::lock("/lock").await.unwrap()) });
}

#[test]
fn crash_drops_tasks_where_they_stand() {
    struct Bomb(Rc<Cell<u32>>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let (sim, node) = sim(4);
    let dropped = Rc::new(Cell::new(0));
    let count = dropped.clone();
    sim.start(node, 2, move |_| {
        let bomb = Bomb(count.clone());
        async move {
            let child = Bomb(bomb.0.clone());
            let _task = spawn(Queue::Interactive, "child", async move {
                let _child = child;
                time::sleep(Duration::from_secs(1000)).await;
            });
            std::future::pending::<()>().await;
            drop(bomb);
        }
    });
    sim.run(async { time::sleep(Duration::from_millis(5)).await });
    assert!(sim.running(node));
    sim.crash(node);
    assert_eq!(dropped.get(), 4);
    assert!(!sim.running(node));
}

#[test]
fn frozen_node_stands_still_while_time_passes() {
    let (sim, node) = sim(5);
    let ticks = Rc::new(Cell::new(0));
    let count = ticks.clone();
    sim.start(node, 1, move |_| {
        let count = count.clone();
        async move {
            loop {
                time::sleep(Duration::from_millis(1)).await;
                count.set(count.get() + 1);
            }
        }
    });
    sim.run(async { time::sleep(Duration::from_millis(10)).await });
    sim.freeze(node);
    let before = ticks.get();
    assert!(before > 5);
    sim.run(async { time::sleep(Duration::from_secs(5)).await });
    assert_eq!(ticks.get(), before);
    sim.thaw(node);
    sim.run(async { time::sleep(Duration::from_millis(10)).await });
    assert!(ticks.get() > before);
}

#[test]
fn deadlines_clocks_and_panics() {
    let (sim, node) = sim(6);
    sim.skew(node, -3_000_000_000);
    on(&sim, node, || async {
        let began = time::now();
        assert!(time::deadline(Duration::from_secs(60), std::future::pending::<()>()).await.is_err());
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(61), "{took:?}");
        assert_eq!(time::deadline(Duration::from_secs(60), async { 5 }).await, Ok(5));
        assert_eq!(time::wall().0, 1_800_000_000 - 3 + 60);
        let panicked = spawn(Queue::Interactive, "bad", async { panic!("on purpose") }).await;
        let error: culver_shard::Panicked = panicked.unwrap_err();
        assert_eq!((error.task, error.message.as_str()), ("bad", "on purpose"));
        let gone = mesh::call(0, || async { panic!("on purpose") }).await;
        assert_eq!(gone, Err(mesh::Gone { shard: 0 }));
        let annexed = culver_shard::annex::run(|| -> u32 { panic!("on purpose") }).await;
        assert!(matches!(annexed, Err(culver_shard::annex::AnnexError::Panicked(_))));
        assert_eq!(culver_shard::annex::run(|| 5).await, Ok(5));
    });
}

#[test]
fn stop_reaches_every_shard() {
    let (sim, node) = sim(7);
    sim.start(node, 4, |_| culver_shard::stopped());
    sim.run(async { time::sleep(Duration::from_millis(1)).await });
    assert!(sim.running(node));
    sim.stop(node);
    let s = sim.clone();
    sim.run(async move { s.exited(node).await });
}

#[test]
fn no_notification_is_lost_and_permits_come_in_turn() {
    for seed in 0..50 {
        let (sim, node) = sim(seed);
        on(&sim, node, || async {
            let (notify, got) = (Rc::new(Notify::new()), Rc::new(Cell::new(0)));
            let seen = notify.version();
            notify.notify_all();
            notify.changed_since(seen).await;
            let late = notify.notified();
            notify.notify_all();
            late.await;

            let permits = Semaphore::new(3);
            let order = Rc::new(RefCell::new(Vec::new()));
            let first = permits.acquire(3).await;
            let mut tasks = Vec::new();
            for (n, weight) in [1, 9, 1, 2].into_iter().enumerate() {
                let (permits, order, got) = (permits.clone(), order.clone(), got.clone());
                let acquire = permits.acquire(weight);
                tasks.push(spawn(Queue::Interactive, "permit", async move {
                    let _permit = acquire.await;
                    order.borrow_mut().push(n);
                    got.set(got.get() + 1);
                    culver_shard::yield_now().await;
                }));
                while permits.waiting() <= n {
                    culver_shard::yield_now().await;
                }
            }
            assert!(permits.try_acquire(1).is_none());
            // One in the middle gives up: the others are not held up.
            tasks.remove(2).cancel().await;
            drop(first);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(permits.free(), 3);
            assert_eq!(*order.borrow(), [0, 1, 3]);
        });
    }
}

#[test]
fn a_standstill_names_its_seed() {
    let panic = std::panic::catch_unwind(|| {
        let (sim, _) = sim(99);
        sim.run(std::future::pending::<()>());
    });
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("seed 99"), "{message}");
}

#[test]
fn oneshot_gives_its_value_or_says_that_none_comes() {
    use culver_shard::sync::oneshot::{Closed, channel};
    let (sim, node) = sim(8);
    on(&sim, node, || async {
        let (tx, rx) = channel();
        let waiting = spawn(Queue::Interactive, "receiver", rx);
        culver_shard::yield_now().await;
        tx.send(5).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(5));
        let (tx, rx) = channel::<u8>();
        let waiting = spawn(Queue::Interactive, "receiver", rx);
        culver_shard::yield_now().await;
        drop(tx);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
        let (tx, rx) = channel();
        drop(rx);
        assert!(tx.is_closed());
        assert_eq!(tx.send(7), Err(7));
    });
}
