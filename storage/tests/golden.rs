//! Files of each released format version are read, octet for octet as they were written once.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::disk;
use culver_shard::sim::{Sim, SimConfig};
use culver_storage::{
    AccountBlocks, BlockKind, Body, Limits, LocalFuture, Place, Position, Root, Source, SourceError, Storage,
    dump,
};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

#[test]
fn golden_files_of_version_1_are_read() {
    let mut seen = 0;
    for entry in std::fs::read_dir(dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(dumped(bytes), expected, "{}", path.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 8, "one file of each format");
}

/// Else a fuzzer would not get behind the checksums.
#[cfg(feature = "fuzzing")]
#[test]
fn mended_checksums_are_those_that_were_written() {
    for name in ["segment", "manifest", "pack", "table"] {
        let whole = std::fs::read(dir().join(name).with_extension("bin")).unwrap();
        let mut again = whole.clone();
        culver_storage::fuzzing::mend_checksums(&mut again);
        assert!(again == whole, "{name}: whole before, not after");
        // Wherever a single octet is changed, the file is read again or complains of something else.
        let mut read = 0;
        for at in 8..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            culver_storage::fuzzing::mend_checksums(&mut changed);
            let text = try_dumped(changed).unwrap_or_else(|error| error);
            let complains = text.contains("checksum is wrong")
                || text.contains("torn")
                || text.contains("header is broken");
            read += usize::from(!complains);
        }
        assert!(read * 10 > (whole.len() - 8) * 9, "{name}: {read} of {}", whole.len() - 8);
    }
}

fn dumped(bytes: Vec<u8>) -> String {
    try_dumped(bytes).unwrap()
}

fn try_dumped(bytes: Vec<u8>) -> Result<String, String> {
    let sim = Sim::new(1, SimConfig::default());
    sim.run(async move {
        disk::create_durable("/file", &bytes).await.unwrap();
        let mut text = String::new();
        let dumped = dump(Path::new("/file"), &mut |_| Ok(None), &mut text).await;
        dumped.map(|()| text).map_err(|error| error.to_string())
    })
}

struct Fixed(RefCell<Option<Storage>>);

impl Source for Fixed {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        _: &'a AccountId,
        last: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        let blocks = vec![
            (Guid::INBOX, BlockKind::Base, b"base of INBOX".to_vec()),
            (Guid([0xab; 16]), BlockKind::Delta, b"delta".to_vec()),
            (Guid([0xcd; 16]), BlockKind::Removed, Vec::new()),
        ];
        Box::pin(async move { Ok(AccountBlocks { position: last, blocks }) })
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
        Box::pin(async { Ok(()) })
    }

    fn reset(&self, _: Option<&AccountId>) {}

    fn lost(&self, _: PartitionId) {}
}

/// Writes the files of the version that is current, for a release that has a new one.
#[test]
#[ignore = "writes tests/golden"]
fn write_golden_files() {
    let sim = Sim::new(1, SimConfig::default());
    let node = sim.node("golden");
    sim.start(node, 1, |_| async {
        let limits = Limits { partitions: 4, segment_octets: 4608, inline_body_max: 64, ..Limits::default() };
        let mut root = Root::open(Path::new("/store"), limits).await.unwrap();
        let share = root.recover(1).await.unwrap().remove(0);
        let storage = Storage::start(share).await.unwrap();
        let source = Rc::new(Fixed(RefCell::new(Some(storage.clone()))));
        storage.attach(source.clone());
        let account = AccountId::parse("joe@example.org").unwrap();
        let partition = storage.partition_of(&account);
        for body in [&b"Subject: hi\r\n\r\nHello.\r\n"[..], &[b'x'; 100]] {
            let mut writer = storage.body_writer(partition, &account, None);
            writer.write(body).await.unwrap();
            let body = writer.finish().await.unwrap();
            storage.commit(partition, &account, b"meta".to_vec(), vec![body]).await.unwrap();
        }
        storage.flush(partition).await.unwrap();
        for _ in 0..4 {
            storage.commit(partition, &account, vec![7; 150], Vec::new()).await.unwrap();
        }
        storage.flush(partition).await.unwrap();
        storage.trim().await.unwrap();
        source.0.borrow_mut().take();
        storage.close(false).await;
        drop(root);
        let mut root = Root::open(Path::new("/store"), Limits::default()).await.unwrap();
        root.recover(1).await.unwrap();
    });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    std::fs::create_dir_all(dir()).unwrap();
    for (path, bytes) in sim.files(node) {
        let name = path.to_str().unwrap();
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some(kind) => kind,
            None if name.ends_with("STORE") => "store",
            None if name.ends_with("all/2") => "owner",
            None if name.contains("/low/") => "low",
            None if name.contains("/journal/1-0/1") => "segment",
            None => continue,
        };
        std::fs::write(dir().join(kind).with_extension("txt"), dumped(bytes.clone())).unwrap();
        std::fs::write(dir().join(kind).with_extension("bin"), bytes).unwrap();
    }
}
