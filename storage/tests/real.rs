//! The same storage on a real disk: other shard counts, damage, the lock, the time recovery takes.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::{Config, Queue, mesh, spawn, time};
use culver_storage::{
    AccountBlocks, BlockKind, Body, Haste, Limits, LocalFuture, OpenError, Place, Position, Root, Share,
    Source, SourceError, Storage, check, dump,
};

const KEY: Guid = Guid([9; 16]);

/// Whether the accounts that cannot be flushed are mended.
static MENDED: AtomicBool = AtomicBool::new(false);

/// The accounts of one test that were asked what is alive, and of how many places.
static ASKED: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());

const UNREADABLE: &str = "unreadable@example.org";
const PANICKING: &str = "panicking@example.org";

fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.org")).unwrap()
}

/// A mail layer whose accounts are the row of their records' metas.
struct Rows(RefCell<Option<Storage>>);

impl Rows {
    fn storage(&self) -> Storage {
        self.0.borrow().clone().unwrap()
    }
}

async fn rows(storage: &Storage, account: &AccountId) -> (Position, Vec<u8>, Vec<Place>) {
    let loaded = storage.load(storage.partition_of(account), account).await.unwrap();
    let mut bytes = Vec::new();
    for (_, blocks) in &loaded.blocks {
        blocks.iter().for_each(|block| bytes.extend_from_slice(block));
    }
    let mut places: Vec<Place> = Vec::new();
    let mut position = loaded.position;
    for record in loaded.records {
        bytes.extend_from_slice(&record.meta);
        bytes.extend(record.bodies.iter().flat_map(|place| place.to_bytes()));
        position = record.position;
    }
    for row in bytes.chunks(40) {
        places.push(Place::from_bytes(row[8..].try_into().unwrap()).unwrap());
    }
    (position, bytes, places)
}

impl Source for Rows {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        _: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            let damaged = !MENDED.load(Ordering::Relaxed);
            assert!(!(damaged && account.as_str() == PANICKING), "this account makes the program panic");
            if damaged && account.as_str() == UNREADABLE {
                return Err(SourceError("a block is damaged".into()));
            }
            let (position, bytes, _) = rows(&self.storage(), account).await;
            Ok(AccountBlocks { position, blocks: vec![(KEY, BlockKind::Base, bytes)] })
        })
    }

    fn flushed(&self, _: PartitionId, _: &AccountId, _: Position) {}

    fn live<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        if account.as_str().starts_with("asked") {
            ASKED.lock().unwrap().push((account.to_string(), places.len()));
        }
        let alive = !account.as_str().starts_with("expunged");
        Box::pin(async move { Ok(vec![alive; places.len()]) })
    }

    fn relocated<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        _: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async { Err(SourceError("rows do not move".into())) })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

/// Runs `work` on every shard with its storage, started from the directory; closes all.
fn with_store<F, Fut>(dir: &Path, limits: Limits, shards: usize, work: F)
where
    F: Fn(Storage) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let dir = dir.to_owned();
    let config = Config { shards, pin: false, ..Config::default() };
    let _alone = alone();
    culver_shard::run(config, move |shard| {
        let (dir, limits, work) = (dir.clone(), limits.clone(), work.clone());
        async move {
            if shard > 0 {
                culver_shard::stopped().await;
                return Ok::<(), String>(());
            }
            let mut root = Root::open(&dir, limits).await.map_err(|error| error.to_string())?;
            let shares = root.recover(shards).await.map_err(|error| error.to_string())?;
            for share in shares {
                let work = work.clone();
                mesh::call(share.shard(), move || on_shard(share, work))
                    .await
                    .map_err(|error| error.to_string())?;
            }
            drop(root);
            culver_shard::stop();
            Ok(())
        }
    })
    .unwrap();
}

/// A process has one set of shards at a time, as a server does.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn on_shard<F, Fut>(share: Share, work: F)
where
    F: Fn(Storage) -> Fut,
    Fut: Future<Output = ()>,
{
    let storage = Storage::start(share).await.unwrap();
    let source = Rc::new(Rows(RefCell::new(Some(storage.clone()))));
    storage.attach(source.clone());
    work(storage.clone()).await;
    source.0.borrow_mut().take();
    storage.close(false).await;
}

fn body(nth: u64) -> Vec<u8> {
    let size =
        if nth.is_multiple_of(40) { 300_000 + nth as usize * 1000 } else { (nth * 37 % 5000) as usize };
    (0..size as u64).map(|at| (at.wrapping_mul(nth + 3) >> 3) as u8).collect()
}

async fn append(storage: &Storage, account: &AccountId, nth: u64) -> Place {
    let partition = storage.partition_of(account);
    let mut writer = storage.body_writer(partition, account, None);
    for piece in body(nth).chunks(7001) {
        writer.write(piece).await.unwrap();
    }
    let body = writer.finish().await.unwrap();
    let committed = storage.commit(partition, account, nth.to_le_bytes().to_vec(), vec![body]).await.unwrap();
    committed.bodies[0]
}

const ACCOUNTS: usize = 7;
const ROWS: u64 = 120;

/// Appends one third of the rows to this shard's accounts.
async fn append_third(storage: Storage, third: u64) {
    for nth in third * (ROWS / 3)..(third + 1) * (ROWS / 3) {
        let mine =
            (0..ACCOUNTS).map(account).filter(|a| storage.partitions().contains(&storage.partition_of(a)));
        let together = mine.map(|account| {
            let storage = storage.clone();
            spawn(Queue::Interactive, "append", async move { append(&storage, &account, nth).await })
        });
        for task in together.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    }
}

async fn verify(storage: Storage, thirds: u64) {
    for account in (0..ACCOUNTS).map(account) {
        let partition = storage.partition_of(&account);
        if !storage.partitions().contains(&partition) {
            continue;
        }
        let (_, bytes, places) = rows(&storage, &account).await;
        let numbers: Vec<u64> =
            bytes.chunks(40).map(|row| u64::from_le_bytes(row[..8].try_into().unwrap())).collect();
        assert_eq!(numbers, (0..thirds * (ROWS / 3)).collect::<Vec<_>>(), "{account}");
        for (nth, place) in numbers.iter().zip(places) {
            let wanted = body(*nth);
            assert!(storage.read_place(partition, &place, 0..u64::MAX).await.unwrap() == wanted);
            let mut reader = storage.reader(partition, &place).await.unwrap();
            let mut all = Vec::new();
            while let Some(piece) = reader.next().await.unwrap() {
                all.extend_from_slice(&piece);
            }
            assert!(all == wanted);
        }
    }
}

#[test]
fn a_store_lives_through_other_shard_counts_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { partitions: 8, segment_octets: 1 << 20, ..Limits::default() };
    with_store(dir.path(), limits.clone(), 1, |storage| append_third(storage, 0));
    with_store(dir.path(), limits.clone(), 2, |storage| async move {
        verify(storage.clone(), 1).await;
        append_third(storage.clone(), 1).await;
        storage.flush_all().await.unwrap();
        storage.trim().await.unwrap();
        verify(storage, 2).await;
    });
    with_store(dir.path(), limits.clone(), 1, |storage| async move {
        verify(storage.clone(), 2).await;
        append_third(storage.clone(), 2).await;
        verify(storage, 3).await;
    });
    let path = dir.path().to_owned();
    on_one_shard(move || {
        let path = path.clone();
        async move {
            let look = &mut |_: culver_storage::Inside<'_>| Ok(Vec::new());
            let report = check(&path, look).await.unwrap();
            assert_eq!(report.findings, []);
            assert!(report.bodies >= ROWS && report.tables > 0 && report.records > 0, "{report:?}");
            for file in files(&path) {
                let mut text = String::new();
                match file.file_name().unwrap().to_str().unwrap() {
                    "LOCK" => continue,
                    name if name.starts_with("reserve-") => continue,
                    _ => dump(&file, &mut |_| Ok(None), &mut text).await.unwrap(),
                }
                assert!(text.lines().count() > 0, "{}", file.display());
            }
        }
    });
}

#[test]
fn a_closed_segment_keeps_no_octet_that_no_record_fills() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { partitions: 4, segment_octets: 8 << 20, ..Limits::default() };
    for start in 1..=6 {
        with_store(dir.path(), limits.clone(), 2, move |storage| async move {
            for account in (0..ACCOUNTS).map(account) {
                if storage.partitions().contains(&storage.partition_of(&account)) {
                    append(&storage, &account, start).await;
                }
            }
            // From now on the segment is kept for its bodies alone.
            storage.flush_all().await.unwrap();
            storage.trim().await.unwrap();
        });
    }
    let segments = files(&dir.path().join("journal"));
    assert!(segments.len() >= 10, "{segments:?}");
    for segment in segments {
        let metadata = std::fs::metadata(&segment).unwrap();
        let allocated = metadata.blocks() * 512;
        assert!(metadata.len() < 64 << 10, "{} has {} octets", segment.display(), metadata.len());
        assert!(allocated < 128 << 10, "{} takes {allocated} octets", segment.display());
    }
    with_store(dir.path(), limits, 1, |storage| async move {
        for account in (0..ACCOUNTS).map(account) {
            assert_eq!(rows(&storage, &account).await.2.len(), 6);
            for (place, start) in rows(&storage, &account).await.2.iter().zip(1..) {
                let partition = storage.partition_of(&account);
                assert!(storage.read_place(partition, place, 0..u64::MAX).await.unwrap() == body(start));
            }
        }
    });
}

#[test]
fn a_damaged_account_is_left_out_of_a_flush_and_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { partitions: 1, segment_octets: 64 << 10, flush_octets: 1, ..Limits::default() };
    let everybody = || {
        let damaged = [UNREADABLE, PANICKING].map(|name| AccountId::parse(name).unwrap());
        (0..4).map(account).chain(damaged).collect::<Vec<_>>()
    };
    let unflushed = async |storage: &Storage, account: &AccountId| {
        storage.load(storage.partition_of(account), account).await.unwrap().records.len()
    };
    let numbers = async |storage: &Storage, account: &AccountId| -> Vec<u64> {
        let (_, bytes, _) = rows(storage, account).await;
        bytes.chunks(40).map(|row| u64::from_le_bytes(row[..8].try_into().unwrap())).collect()
    };
    with_store(dir.path(), limits.clone(), 1, move |storage| async move {
        for round in 0..3 {
            for account in everybody() {
                for nth in round * 30..(round + 1) * 30 {
                    append(&storage, &account, nth + 1).await;
                }
            }
            storage.flush_all().await.unwrap();
            storage.trim().await.unwrap();
        }
        let status = storage.status();
        assert_eq!((status.left_out_accounts, status.unflushed_records, status.panics), (2, 180, 0));
        // The housekeeping flushes whatever there is: what must be left out does not count.
        assert_eq!(status.unflushed_octets, 0);
        for account in (0..4).map(account) {
            assert_eq!(unflushed(&storage, &account).await, 0, "{account}");
        }
    });
    with_store(dir.path(), limits.clone(), 1, move |storage| async move {
        for account in everybody() {
            assert_eq!(numbers(&storage, &account).await, (1..=90).collect::<Vec<_>>(), "{account}");
        }
        storage.flush_all().await.unwrap();
        assert_eq!(storage.status().left_out_accounts, 2);
        MENDED.store(true, Ordering::Relaxed);
        storage.flush_all().await.unwrap();
        let status = storage.status();
        assert_eq!((status.left_out_accounts, status.unflushed_records), (0, 0));
        storage.trim().await.unwrap();
    });
    with_store(dir.path(), limits, 1, move |storage| async move {
        for account in everybody() {
            assert_eq!(unflushed(&storage, &account).await, 0);
            assert_eq!(numbers(&storage, &account).await, (1..=90).collect::<Vec<_>>(), "{account}");
        }
    });
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn on_one_shard<F, Fut>(work: F)
where
    F: Fn() -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()>,
{
    let config = Config { shards: 1, pin: false, ..Config::default() };
    let _alone = alone();
    culver_shard::run(config, move |_| {
        let work = work.clone();
        async move {
            work().await;
            Ok::<(), String>(())
        }
    })
    .unwrap();
}

/// What recovery says of the store.
fn recovered(dir: &Path) -> Result<usize, String> {
    let (dir, result) = (dir.to_owned(), Arc::new(Mutex::new(Err("not run".to_owned()))));
    let out = result.clone();
    on_one_shard(move || {
        let (dir, out) = (dir.clone(), out.clone());
        async move {
            let recover = async {
                let mut root = Root::open(&dir, Limits::default()).await?;
                let shares = root.recover(1).await?;
                Ok::<usize, OpenError>(shares.iter().map(Share::unflushed_records).sum())
            };
            *out.lock().unwrap() = recover.await.map_err(|error| error.to_string());
        }
    });
    let result = result.lock().unwrap();
    result.clone()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_end_is_an_end_and_rot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_octets: 1 << 20, ..Limits::default() };
    let ends = Arc::new(Mutex::new(Vec::new()));
    let places = ends.clone();
    with_store(dir.path(), limits, 1, move |storage| {
        let places = places.clone();
        async move {
            for nth in 1..=20 {
                let place = append(&storage, &account(0), nth).await;
                places.lock().unwrap().push(place);
            }
        }
    });
    let segment = dir.path().join("journal/1-0/1");
    let whole = std::fs::read(&segment).unwrap();
    let last = ends.lock().unwrap().last().unwrap().offset as usize;
    let middle = ends.lock().unwrap()[9].offset as usize;

    flip(&segment, middle + 50);
    let error = recovered(dir.path()).unwrap_err();
    assert!(error.contains("journal/1-0/1 at octet") && error.contains("restore"), "{error}");
    std::fs::write(&segment, &whole).unwrap();
    flip(&segment, 9);
    let error = recovered(dir.path()).unwrap_err();
    assert!(error.contains("header"), "{error}");
    std::fs::write(&segment, &whole).unwrap();

    // A journal that was closed has its end marked.
    flip(&segment, last + 50);
    let error = recovered(dir.path()).unwrap_err();
    assert!(error.contains("records 20 to 20 were committed and cannot be read"), "{error}");
    let end = dir.path().join("end/1-0");
    flip(&end, 25);
    let error = recovered(dir.path()).unwrap_err();
    assert!(error.contains("end/1-0") && error.contains("checksum"), "{error}");
    // One that was not: the last batch may have been torn, and nobody can tell it from one that never was durable.
    std::fs::remove_file(end).unwrap();
    assert_eq!(recovered(dir.path()), Ok(19));
    // From that start on the end is known, and its loss is one.
    flip(&segment, last - 200);
    let error = recovered(dir.path()).unwrap_err();
    assert!(error.contains("were committed and cannot be read"), "{error}");
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { partitions: 4, segment_octets: 256 << 10, ..Limits::default() };
    with_store(dir.path(), limits, 1, |storage| async move {
        append_third(storage.clone(), 0).await;
        storage.flush_all().await.unwrap();
        append_third(storage.clone(), 1).await;
    });
    for file in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
        // A low mark only saves work; without the end a journal counts as one that a crash left.
        let spared = ["reserve-", "low/", "end/"];
        if name == "LOCK" || spared.iter().any(|spared| name.starts_with(spared)) {
            continue;
        }
        let aside = dir.path().join("LOCK.aside");
        std::fs::rename(&file, &aside).unwrap();
        let result = recovered(dir.path());
        std::fs::rename(&aside, &file).unwrap();
        if let Err(error) = result {
            assert!(
                error.contains(&name) || error.contains("owner") || error.contains("STORE"),
                "{name}: {error}"
            );
        } else {
            panic!("{name} was missing and nobody missed it");
        }
    }
}

#[test]
fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    on_one_shard(move || {
        let path = path.clone();
        async move {
            let first = Root::open(&path, Limits::default()).await.unwrap();
            let Err(error) = Root::open(&path, Limits::default()).await else { panic!("not refused") };
            assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
            drop(first);
            Root::open(&path, Limits::default()).await.unwrap();
        }
    });
}

#[test]
fn a_compaction_asks_an_account_once_and_rests_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { partitions: 1, segment_octets: 256 << 10, ..Limits::default() };
    with_store(dir.path(), limits, 1, |storage| async move {
        let asked = [0, 1].map(|nth| AccountId::parse(&format!("asked{nth}@example.org")).unwrap());
        let partition = storage.partition_of(&asked[0]);
        let mut places = Vec::new();
        for nth in 1..=20 {
            for account in &asked {
                places.push((account.clone(), append(&storage, account, nth).await));
            }
        }
        // The segments after it carry what is journal still.
        for nth in 0..8u64 {
            let body = Body::inline(vec![0; 240 << 10], storage.limits()).ok().unwrap();
            storage.commit(partition, &account(1), nth.to_le_bytes().to_vec(), vec![body]).await.unwrap();
        }
        storage.flush_all().await.unwrap();
        storage.trim().await.unwrap();
        let first = places[0].1.object;
        let dead = places.iter().filter(|(_, place)| place.object == first && place.length > 0);
        dead.for_each(|(account, place)| storage.released(partition, account, place));
        // Its bodies are alive all the same, and cannot be moved here.
        assert!(storage.compact().await.is_err());
        assert!(!storage.compact().await.unwrap(), "the object that failed is tried again at once");
        let of = |account: &AccountId| {
            places.iter().filter(|(name, place)| name == account && place.object == first).count()
        };
        let expected: Vec<_> = asked.iter().map(|account| (account.to_string(), of(account))).collect();
        assert_eq!(*ASKED.lock().unwrap(), expected);
    });
}

#[test]
fn a_journal_that_is_always_busy_is_compacted_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tick = Duration::from_millis(200);
    // Each commit makes a flush due, and the next one comes long before a tick is over.
    let limits =
        Limits { partitions: 1, segment_octets: 256 << 10, flush_octets: 0, tick, ..Limits::default() };
    with_store(dir.path(), limits, 1, |storage| async move {
        let expunged = AccountId::parse("expunged@example.org").unwrap();
        let partition = storage.partition_of(&expunged);
        let mut places = Vec::new();
        for nth in 1..=30 {
            places.push(append(&storage, &expunged, nth).await);
        }
        for nth in 0..8u64 {
            let body = Body::inline(vec![0; 240 << 10], storage.limits()).ok().unwrap();
            storage.commit(partition, &account(1), nth.to_le_bytes().to_vec(), vec![body]).await.unwrap();
        }
        storage.flush_all().await.unwrap();
        storage.trim().await.unwrap();
        assert_eq!(storage.status().compactions, 0);
        let first = places[0].object;
        let dead = places.iter().filter(|place| place.object == first && place.length > 0);
        dead.for_each(|place| storage.released(partition, &expunged, place));
        for nth in 0..1000u64 {
            let body = Body::inline(Vec::new(), storage.limits()).ok().unwrap();
            storage.commit(partition, &account(2), nth.to_le_bytes().to_vec(), vec![body]).await.unwrap();
            time::sleep(Duration::from_millis(5)).await;
            if storage.status().compactions > 0 {
                return;
            }
        }
        panic!("no compaction in 25 ticks");
    });
}

#[test]
fn a_full_file_system_is_started_on_and_works_again_when_it_has_room() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=14m culver \"$1\" || exit 77
        exec \"$2\" --exact on_a_small_file_system --ignored --nocapture";
    let ran = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", script, "sh"])
        .args([dir.path(), &std::env::current_exe().unwrap()])
        .env("CULVER_SMALL_FILE_SYSTEM", dir.path())
        .output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match ran {
        Ok(ran) if text(&ran.stdout).contains("running 1 test") => {
            assert!(ran.status.success(), "{}\n{}", text(&ran.stdout), text(&ran.stderr));
        }
        // Past the harness, which keeps what a test prints that did not fail.
        ran => {
            let why = ran.map_or_else(|error| error.to_string(), |ran| text(&ran.stderr));
            writeln!(std::io::stderr(), "SKIPPED: no file system can be mounted here: {}", why.trim())
                .unwrap();
        }
    }
}

#[test]
#[ignore = "run by the test above, on a file system of its own"]
fn on_a_small_file_system() {
    let Some(dir) = std::env::var_os("CULVER_SMALL_FILE_SYSTEM").map(PathBuf::from) else { return };
    let store = dir.join("store");
    let (first, last) = (dir.join("first"), dir.join("last"));
    let limits =
        Limits { partitions: 2, segment_octets: 2 << 20, reserve_octets: 512 << 10, ..Limits::default() };
    std::fs::write(&first, vec![1; 6 << 20]).unwrap();
    let commit = async |storage: &Storage, haste: Haste| {
        let body = Body::inline(vec![7; 50_000], storage.limits()).ok().unwrap();
        let bodies = if haste == Haste::Urgent { Vec::new() } else { vec![body] };
        let (sender, receiver) = culver_shard::sync::oneshot::channel();
        let told = Box::new(move |result: Result<_, _>| {
            let _ = sender.send(result.is_ok());
        });
        let (account, partition) = (account(1), storage.partition_of(&account(1)));
        match storage.submit_wait(partition, &account, vec![0; 8], bodies, haste, told).await {
            Ok(()) => receiver.await.unwrap(),
            Err(_) => false,
        }
    };
    with_store(&store, limits.clone(), 1, move |storage| async move {
        let mut taken = 0;
        while commit(&storage, Haste::Interactive).await {
            taken += 1;
        }
        assert!(taken > 60, "{taken} messages were taken");
        assert!(storage.status().full);
    });
    let mut filler = std::fs::File::create(&last).unwrap();
    while std::io::Write::write(&mut filler, &[1; 4096]).is_ok_and(|wrote| wrote > 0) {}
    assert!(std::fs::write(dir.join("more"), [1; 4096]).is_err(), "the file system is not full");
    for _ in 0..5 {
        with_store(&store, limits.clone(), 1, move |storage| async move {
            assert!(storage.status().full);
            assert!(!commit(&storage, Haste::Interactive).await, "a message was taken on a full disk");
            assert!(commit(&storage, Haste::Urgent).await, "what frees space was refused");
        });
    }
    with_store(&store, limits, 1, move |storage| {
        let (first, last) = (first.clone(), last.clone());
        async move {
            assert!(storage.status().full);
            [first, last].iter().for_each(|filler| std::fs::remove_file(filler).unwrap());
            for _ in 0..100 {
                if storage.status().full {
                    time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
            assert!(
                commit(&storage, Haste::Interactive).await,
                "there is space again, and no message is taken"
            );
        }
    });
}

#[test]
#[ignore = "writes 256 MiB"]
fn a_backlog_of_256_mib_is_recovered_within_3_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { flush_octets: 1 << 30, unflushed_octets_max: 1 << 30, ..Limits::default() };
    with_store(dir.path(), limits, 1, |storage| async move {
        for nth in 0..1024 {
            let account = account(nth);
            let body = Body::inline(vec![nth as u8; 256 << 10], storage.limits()).ok().unwrap();
            let partition = storage.partition_of(&account);
            let told = Box::new(|result: Result<_, _>| drop(result));
            storage
                .submit_wait(partition, &account, vec![1; 300], vec![body], Haste::Interactive, told)
                .await
                .unwrap();
        }
    });
    let path = dir.path().to_owned();
    on_one_shard(move || {
        let path = path.clone();
        async move {
            let begun = time::now();
            let mut root = Root::open(&path, Limits::default()).await.unwrap();
            let shares = root.recover(2).await.unwrap();
            let records: usize = shares.iter().map(Share::unflushed_records).sum();
            println!("recovered {records} records of 256 MiB in {:?}", begun.elapsed());
            assert_eq!(records, 1024);
            assert!(begun.elapsed().as_secs_f64() < 3.0);
        }
    });
}
