//! The real world: executors on io_uring, files, panics, the annex.

use std::io::ErrorKind;
use std::time::Duration;

use culver_shard::disk::{self, File};
use culver_shard::{Config, Queue, RunError, annex, mesh, random, run, spawn, time};

fn config(shards: usize) -> Config {
    Config { shards, pin: false, ..Config::default() }
}

fn on_shard<Fut: Future<Output = ()>>(f: impl Fn() -> Fut + Send + Clone + 'static) {
    run::<_, _, std::io::Error>(config(1), move |_| {
        let fut = f();
        async move {
            fut.await;
            Ok(())
        }
    })
    .unwrap();
}

#[test]
fn panic_ends_its_task_and_not_the_shard() {
    on_shard(|| async {
        for queue in [Queue::Interactive, Queue::Commit, Queue::Background] {
            let bad = spawn(queue, "bad", async { panic!("on purpose") });
            let error: culver_shard::Panicked = bad.await.unwrap_err();
            assert_eq!(error.message, "on purpose");
            spawn(queue, "bad, unwatched", async { panic!("on purpose") }).detach();
            time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(spawn(Queue::Background, "good", async { 7 }).await, Ok(7));
    });
}

#[test]
fn children_wait_and_cancelled_tasks_end() {
    on_shard(|| async {
        let flag = std::rc::Rc::new(std::cell::Cell::new(0));
        let child = flag.clone();
        let task = spawn(Queue::Interactive, "child", async move { child.set(1) });
        assert_eq!(flag.get(), 0, "never polled inside spawn");
        task.await.unwrap();
        assert_eq!(flag.get(), 1);
        let held = flag.clone();
        let task = spawn(Queue::Interactive, "endless", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        time::sleep(Duration::from_millis(1)).await;
        assert_eq!(std::rc::Rc::strong_count(&flag), 2);
        assert_eq!(task.cancel().await, None);
        assert_eq!(std::rc::Rc::strong_count(&flag), 1);
    });
}

#[test]
fn shards_call_each_other_and_end_in_order() {
    run::<_, _, std::io::Error>(config(3), |shard| async move {
        spawn(Queue::Background, "left running", std::future::pending::<()>()).detach();
        for n in 0..300 {
            let other = (shard + n) % 3;
            let got = mesh::call(other, move || async move { culver_shard::shard() * 1000 + n }).await;
            assert_eq!(got, Ok(other * 1000 + n));
        }
        assert_eq!(mesh::call(0, || async { panic!("on purpose") }).await, Err(mesh::Gone { shard: 0 }));
        Ok(())
    })
    .unwrap();
}

#[test]
fn failing_root_stops_the_others() {
    let result = run::<_, _, std::io::Error>(config(2), |shard| async move {
        if shard == 1 {
            return Err(ErrorKind::AddrInUse.into());
        }
        culver_shard::stopped().await;
        Ok(())
    });
    assert!(matches!(result, Err(RunError::Failed { shard: 1, .. })), "{result:?}");
    let result = run::<_, _, std::io::Error>(config(2), |shard| async move {
        assert!(shard == 0, "on purpose");
        culver_shard::stopped().await;
        Ok(())
    });
    assert!(matches!(result, Err(RunError::Panicked { shard: 1, .. })), "{result:?}");
}

#[test]
fn foreign_threads_post_and_call() {
    on_shard(|| async {
        let handle = mesh::handle();
        let (tx, rx) = flume::bounded(1);
        std::thread::spawn(move || {
            let got = futures_lite::future::block_on(handle.call(0, || async { culver_shard::shards() }));
            tx.send(got).unwrap();
            handle.stop();
        });
        assert_eq!(rx.recv_async().await.unwrap(), Ok(1));
        culver_shard::stopped().await;
    });
}

#[test]
fn annex_survives_panics_and_refuses_at_its_bound() {
    let mut config = config(1);
    config.limits.annex_threads = 1;
    config.limits.annex_queue_max = 2;
    run::<_, _, std::io::Error>(config, |_| async move {
        for _ in 0..5 {
            let bad = annex::run(|| -> u32 { panic!("on purpose") }).await;
            assert_eq!(bad, Err(annex::AnnexError::Panicked("on purpose".into())));
        }
        assert_eq!(annex::run(|| 9).await, Ok(9));
        let (go, wait) = flume::bounded::<()>(0);
        let mut tasks = Vec::new();
        for n in 0..4 {
            let wait = wait.clone();
            tasks.push(spawn(Queue::Interactive, "annexed", async move {
                annex::run(move || {
                    let _ = wait.recv();
                    n
                })
                .await
            }));
            // The first is taken by the thread before the queue fills.
            time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(tasks.pop().unwrap().await.unwrap(), Err(annex::AnnexError::Full));
        drop(go);
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(n));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn files_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    on_shard(move || {
        let root = root.clone();
        async move {
            let d = root.join("a/b");
            disk::create_dir_all(&d).await.unwrap();
            let file = File::create_new(d.join("f")).await.unwrap();
            assert_eq!(File::create_new(d.join("f")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
            let mut content = vec![0; 3 << 20];
            random::fill(&mut content);
            file.write_at(0, content.clone()).await.unwrap();
            file.append_inline(content.len() as u64, b"tail").unwrap();
            file.sync_data().await.unwrap();
            disk::sync_dir(&d).await.unwrap();
            content.extend_from_slice(b"tail");
            assert_eq!(file.len().await.unwrap(), content.len() as u64);
            assert!(file.read_at(0, content.len() + 100).await.unwrap() == content);
            assert_eq!(file.read_at(content.len() as u64 - 4, 100).await.unwrap(), b"tail");
            assert_eq!(file.read_at(content.len() as u64 + 4, 100).await.unwrap(), b"");
            let small = file.append_inline(0, &vec![0; disk::APPEND_INLINE_MAX + 1]).unwrap_err();
            assert_eq!(small.kind(), ErrorKind::InvalidInput);
            file.truncate(10).await.unwrap();
            file.preallocate(100).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 100);
            file.close().await.unwrap();

            disk::create_durable(d.join("g"), b"whole").await.unwrap();
            let taken = disk::create_durable(d.join("g"), b"other").await.unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
            assert_eq!(disk::read(d.join("g")).await.unwrap(), b"whole");
            disk::rename(d.join("g"), d.join("h")).await.unwrap();
            disk::link(d.join("h"), d.join("i")).await.unwrap();
            disk::remove(d.join("h")).await.unwrap();
            let names: Vec<_> = disk::list(&d).await.unwrap().into_iter().map(|e| (e.name, e.len)).collect();
            assert_eq!(names, [("f".to_owned(), 100), ("i".to_owned(), 5)]);
            assert!(!disk::exists(d.join("h")).await.unwrap());
            assert!(disk::space(&d).await.unwrap().free_octets > 0);

            let held = disk::lock(root.join("lock")).await.unwrap();
            match disk::lock(root.join("lock")).await {
                Err(disk::LockError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
                other => panic!("{:?}", other.err()),
            }
            drop(held);
            drop(disk::lock(root.join("lock")).await.unwrap());
        }
    });
}

#[test]
fn hog_that_yields_lets_timers_pass() {
    on_shard(|| async {
        let hog = spawn(Queue::Background, "hog", async {
            let began = time::now();
            while began.elapsed() < Duration::from_millis(400) {
                culver_shard::yield_if_needed().await;
            }
        });
        culver_shard::yield_now().await;
        let mut took = Vec::new();
        for _ in 0..20 {
            let began = time::now();
            time::sleep(Duration::from_millis(2)).await;
            took.push(began.elapsed());
        }
        // A machine that is busy with other work may stretch some of them; the executor's own time slice of 20 ms would stretch all.
        took.sort();
        assert!(took[5] < Duration::from_millis(8), "{took:?}");
        hog.await.unwrap();
    });
}

/// Eight shards start under 8 MiB of locked memory, also for a user without privileges; where the limit is too
/// small, the error says so. In a child process: a limit once lowered stays so.
#[test]
fn eight_shards_start_under_eight_mebioctets_of_locked_memory() {
    if let Ok(octets) = std::env::var("CULVER_TEST_MEMLOCK") {
        return memlock_child(octets.parse().unwrap());
    }
    for (octets, works) in [(8u64 << 20, true), (64 << 10, false)] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "eight_shards_start_under_eight_mebioctets_of_locked_memory", "--nocapture"])
            .env("CULVER_TEST_MEMLOCK", octets.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{octets}: {text}");
        let expected = if works { "eight shards ran" } else { "RLIMIT_MEMLOCK is 65536 octets" };
        assert!(text.contains(expected), "{octets}: {text}");
    }
}

fn memlock_child(octets: u64) {
    let limit = libc::rlimit { rlim_cur: octets, rlim_max: octets };
    // SAFETY: plain system calls of this test's own child process, on one thread.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        if libc::geteuid() == 0 {
            // Only a user without privileges is charged; all threads of the process change.
            assert_eq!(libc::setresuid(65533, 65533, 65533), 0);
        }
    }
    match run::<_, _, std::io::Error>(config(8), |_| async { Ok(()) }) {
        Ok(()) => println!("eight shards ran"),
        Err(e) => println!("{e}"),
    }
}

#[test]
fn maps_read_in_place_in_both_worlds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    on_shard(move || {
        let path = path.clone();
        async move { map_at(path).await }
    });
    let sim = culver_shard::sim::Sim::new(1, Default::default());
    sim.run(map_at("/map".into()));
}

async fn map_at(path: std::path::PathBuf) {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    disk::create_durable(&path, &content).await.unwrap();
    let map = culver_shard::map::Map::open(&path).await.unwrap();
    assert!(map[..] == content[..]);
    assert_eq!(map.as_ptr().addr() % 4096, 0);
    map.prefault(390_000..usize::MAX).await.unwrap();
    disk::remove(&path).await.unwrap();
    assert_eq!(map[4], 1, "a mapped file outlives its name");
    disk::create_durable(&path, b"").await.unwrap();
    assert!(culver_shard::map::Map::open(&path).await.unwrap().is_empty());
    assert!(culver_shard::map::Map::open(path.with_extension("absent")).await.is_err());
}

#[test]
fn stalls_are_seen_and_merged() {
    run::<_, _, std::io::Error>(config(2), |shard| async move {
        culver_shard::stall::start();
        if shard == 0 {
            time::sleep(Duration::from_millis(50)).await;
            std::thread::sleep(Duration::from_millis(150));
            time::sleep(Duration::from_millis(50)).await;
            let all = culver_shard::stall::snapshot_all().await;
            assert!(all.max_us() >= 100_000, "{}", all.max_us());
            assert!(all.count() > culver_shard::stall::snapshot().count());
            culver_shard::stop();
        }
        culver_shard::stopped().await;
        Ok(())
    })
    .unwrap();
}

#[test]
fn signals_reach_the_shard() {
    on_shard(|| async {
        let hangup = culver_shard::signal::hangup().unwrap();
        for _ in 0..3 {
            // SAFETY: a signal to this process, which the line above takes.
            assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGHUP) }, 0);
            time::deadline(Duration::from_secs(5), hangup.next()).await.unwrap();
        }
    });
}
