//! Scans of packs and segments of which any octet may be changed, and that may be cut anywhere.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::sim::{Sim, SimConfig};

use super::{Met, Scan};
use crate::body::{Body, Frame};
use crate::cache::Reading;
use crate::check::Finding;
use crate::limits::Limits;
use crate::place::{ObjectId, Place};
use crate::root::Root;
use crate::storage::Storage;

const PARTITION: PartitionId = PartitionId(0);

fn account(name: &str) -> AccountId {
    AccountId::parse(&format!("{name}@example.org")).expect("an id")
}

/// A body of joe or ann: what its label says of it, and where it stands.
#[derive(Clone, Debug)]
struct Known {
    joe: bool,
    meta: Vec<u8>,
    place: Place,
}

struct Here {
    storage: Storage,
    _root: Root,
}

impl Here {
    async fn start() -> Here {
        let limits = Limits { partitions: 1, segment_octets: 64 << 10, ..Limits::default() };
        let mut root = Root::open(Path::new("/store"), limits).await.unwrap();
        let share = root.recover(1).await.unwrap().remove(0);
        Here { storage: Storage::start(share).await.unwrap(), _root: root }
    }

    /// Bodies in a segment, each in a batch of its own.
    async fn commit(&self, count: u8) -> Vec<Known> {
        let mut all = Vec::new();
        for nth in 0..count {
            let joe = nth % 2 == 0;
            let body = Body::inline(vec![nth; 40 + usize::from(nth)], self.storage.limits()).unwrap();
            let owner = account(if joe { "joe" } else { "ann" });
            let meta = vec![7, nth];
            let committed = self.storage.commit(PARTITION, &owner, meta.clone(), vec![body]).await.unwrap();
            all.push(Known { joe, meta, place: committed.bodies[0] });
        }
        all
    }

    /// The same bodies in one pack.
    async fn pack(&self, known: &[Known]) -> (ObjectId, Vec<Known>) {
        let inner = &self.storage.0;
        let (mut writer, guard) = inner.new_pack(PARTITION).await.unwrap();
        let mut all = Vec::new();
        for one in known {
            let read = Frame::open(inner, PARTITION, &one.place, one.place.length, Reading::Copy).await;
            let owner = account(if one.joe { "joe" } else { "ann" });
            let place = writer.put(&read.unwrap(), &owner, &one.meta).await.unwrap();
            all.push(Known { place, ..one.clone() });
        }
        let object = writer.object();
        writer.finish().await.unwrap();
        inner.objects.publish(PARTITION, &[object]).await.unwrap();
        guard.named();
        (object, all)
    }

    async fn scan(&self, object: ObjectId) -> (Vec<(Vec<u8>, Place)>, Vec<Finding>) {
        let mut scan =
            Scan::new(self.storage.0.clone(), PARTITION, account("joe"), [object].into(), Default::default());
        let (mut bodies, mut findings) = (Vec::new(), Vec::new());
        while let Some(met) = scan.next().await.unwrap() {
            match met {
                Met::Body { meta, place } => bodies.push((meta, place)),
                Met::Damaged(finding) => findings.push(finding),
            }
        }
        assert_eq!(scan.progress(), (1, 1));
        (bodies, findings)
    }

    fn path(&self, object: ObjectId) -> PathBuf {
        self.storage.0.paths.object(PARTITION, object)
    }
}

/// Joe's.
fn wanted(known: &[Known]) -> Vec<(Vec<u8>, Place)> {
    known.iter().filter(|one| one.joe).map(|one| (one.meta.clone(), one.place)).collect()
}

async fn put(path: &Path, at: u64, octet: u8) {
    let file = File::open_rw(path).await.unwrap();
    file.write_at(at, vec![octet]).await.unwrap();
    file.close().await.unwrap();
}

fn run<F, Fut>(work: F)
where
    F: Fn(Here) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let (work, done) = (Rc::new(work), Rc::new(std::cell::Cell::new(false)));
    let told = done.clone();
    sim.start(node, 1, move |_| {
        let (work, told) = (work.clone(), told.clone());
        async move {
            work(Here::start().await).await;
            told.set(true);
        }
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    assert!(done.get(), "the work was not done");
}

#[test]
fn a_changed_octet_of_a_pack_costs_one_body_at_most() {
    run(|here| async move {
        let known = here.commit(7).await;
        let (object, known) = here.pack(&known).await;
        let (path, all) = (here.path(object), wanted(&known));
        assert_eq!(here.scan(object).await, (all.clone(), Vec::new()));
        let bytes = disk::read(&path).await.unwrap();
        for (at, octet) in bytes.iter().enumerate() {
            put(&path, at as u64, octet ^ 0x11).await;
            let (found, findings) = here.scan(object).await;
            assert!(found.iter().all(|one| all.contains(one)), "octet {at}: {found:?}");
            assert!(found.len() + 1 >= all.len(), "octet {at}: {found:?}, {findings:?}");
            assert!(found.len() == all.len() || !findings.is_empty(), "octet {at}: nothing is told");
            put(&path, at as u64, *octet).await;
        }
    });
}

#[test]
fn what_comes_while_a_scan_runs_is_not_found_by_it() {
    run(|here| async move {
        let known = here.commit(3).await;
        let mut scan = here.storage.scan(PARTITION, &account("joe"));
        // In the same segment.
        let later = here.commit(3).await;
        assert_eq!(later[0].place.object, known[0].place.object);
        let mut found = Vec::new();
        while let Some(Met::Body { meta, place }) = scan.next().await.unwrap() {
            found.push((meta, place));
        }
        assert_eq!(found, wanted(&known));
    });
}

#[test]
fn a_body_that_no_message_names_is_not_found() {
    run(|here| async move {
        let known = here.commit(5).await;
        here.storage.released(PARTITION, &account("joe"), &known[2].place);
        let mut scan = here.storage.scan(PARTITION, &account("joe"));
        let mut found = Vec::new();
        while let Some(Met::Body { meta, place }) = scan.next().await.unwrap() {
            found.push((meta, place));
        }
        assert_eq!(found, [wanted(&known)[0].clone(), wanted(&known)[2].clone()]);
    });
}

#[test]
fn a_pack_that_was_cut_gives_what_stands_before_the_cut() {
    run(|here| async move {
        let known = here.commit(5).await;
        let (object, known) = here.pack(&known).await;
        let (path, all) = (here.path(object), wanted(&known));
        let bytes = disk::read(&path).await.unwrap();
        for length in (0..bytes.len()).rev().step_by(3) {
            let file = File::open_rw(&path).await.unwrap();
            file.truncate(length as u64).await.unwrap();
            file.close().await.unwrap();
            let (found, findings) = here.scan(object).await;
            assert!(all.starts_with(&found), "cut at {length}: {found:?}");
            assert!(!findings.is_empty(), "cut at {length}: nothing is told");
            let next = known.iter().position(|one| one.place.offset as usize >= length);
            let before = wanted(&known[..next.unwrap_or(known.len()).saturating_sub(1)]);
            assert!(found.len() >= before.len(), "cut at {length}: {found:?}");
        }
        disk::remove(&path).await.unwrap();
        let (found, findings) = here.scan(object).await;
        assert!(found.is_empty() && findings.len() == 1, "{findings:?}");
    });
}

#[test]
fn a_changed_octet_of_a_segment_costs_one_body_at_most() {
    run(|here| async move {
        let known = here.commit(6).await;
        let all = wanted(&known);
        let object = known[0].place.object;
        let path = here.path(object);
        assert_eq!(here.scan(object).await, (all.clone(), Vec::new()));
        let bytes = disk::read(&path).await.unwrap();
        let end = bytes.iter().rposition(|octet| *octet != 0).unwrap() + 1;
        // The last batch may be taken for a torn one.
        let last = known.last().map(|one| one.place.offset as usize).unwrap();
        let begin = crate::journal::format::HEADER_BLOCK as usize;
        for (at, octet) in bytes.iter().enumerate().take(end).skip(begin) {
            put(&path, at as u64, octet ^ 0x11).await;
            let (found, findings) = here.scan(object).await;
            assert!(found.iter().all(|one| all.contains(one)), "octet {at}: {found:?}");
            assert!(found.len() + 1 >= all.len(), "octet {at}: {found:?}, {findings:?}");
            let told = found.len() == all.len() || !findings.is_empty() || at + 400 > last;
            assert!(told, "octet {at}: nothing is told");
            put(&path, at as u64, *octet).await;
        }
        put(&path, 20, bytes[20] ^ 1).await;
        let (found, findings) = here.scan(object).await;
        assert!(found.is_empty() && findings[0].what.contains("header is broken"), "{findings:?}");
    });
}
