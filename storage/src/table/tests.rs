//! Tables in a simulation, against a plain map.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use culver_model::{Guid, PartitionId};
use culver_shard::disk;
use culver_shard::sim::{Sim, SimConfig};

use super::merge::{choose, merge};
use super::{Named, Table, TableWriter, counting, find_account};
use crate::manifest::TableRef;
use crate::pack::format::FileHeader;
use crate::place::{ObjectId, ObjectKind, Position};
use crate::source::BlockKind;

const PARTITION: PartitionId = PartitionId(2);

fn header(number: u64) -> (ObjectId, FileHeader, PathBuf) {
    let object = ObjectId { kind: ObjectKind::Table, shard: 0, epoch: 1, number };
    let header = FileHeader { partition: 2, shard: 0, epoch: 1, number, store: [1; 16] };
    (object, header, PathBuf::from(format!("/{object}")))
}

type Content = BTreeMap<String, (Position, Vec<(Guid, BlockKind, Vec<u8>)>)>;

async fn write(number: u64, content: &Content) -> Rc<Table> {
    let (object, header, path) = header(number);
    let mut writer = TableWriter::create(path.clone(), header, true).await.unwrap();
    for (account, (position, blocks)) in content {
        let mut entries = Vec::new();
        for (guid, kind, bytes) in blocks {
            entries.push(writer.put_block(*guid, *kind, bytes).await.unwrap());
        }
        writer.put_account(account, *position, entries);
    }
    let reference = writer.finish(object, 0).await.unwrap();
    Rc::new(Table::open(&path, PARTITION, reference).await.unwrap())
}

async fn read(tables: &[Rc<Table>], account: &str) -> (Position, BTreeMap<Guid, Vec<Vec<u8>>>) {
    let named: Vec<Named> = tables.iter().cloned().map(Named::Open).collect();
    let (position, found) = find_account(&named, account).await.unwrap();
    let mut out = BTreeMap::new();
    for (guid, key) in found {
        let mut blocks = Vec::new();
        for (table, entry) in key {
            blocks.push(table.map_block(&entry, 300).await.unwrap().to_vec());
        }
        out.insert(guid, blocks);
    }
    (position, out)
}

fn random_content(
    next: &mut impl FnMut() -> u64,
    nth: u64,
    bases: &mut BTreeMap<(String, Guid), bool>,
) -> Content {
    let mut content = Content::new();
    for account in 0..60 {
        if !next().is_multiple_of(3) {
            continue;
        }
        let account = format!("user{account}@example.org");
        let mut blocks = Vec::new();
        for key in 0..3 {
            let guid = Guid([key; 16]);
            let based = bases.entry((account.clone(), guid)).or_default();
            let kind = match next() % 6 {
                0 => continue,
                1 => BlockKind::Removed,
                2 | 3 if *based => BlockKind::Delta,
                _ => BlockKind::Base,
            };
            *based = kind != BlockKind::Removed;
            let octets = if kind == BlockKind::Removed { 0 } else { next() % 700 };
            blocks.push((guid, kind, (0..octets).map(|at| (at * nth) as u8).collect()));
        }
        content.insert(account, (Position { epoch: 1, lsn: nth * 100 + next() % 100 }, blocks));
    }
    content
}

#[test]
fn merged_tables_answer_as_the_tables_did() {
    for seed in 1..=12 {
        let sim = Sim::new(seed, SimConfig::default());
        sim.run(async move {
            let mut next = culver_shard::random::u64;
            let mut bases = BTreeMap::new();
            let mut tables = Vec::new();
            for nth in 1..=6 {
                tables.push(write(nth, &random_content(&mut next, nth, &mut bases)).await);
            }
            for run in 2..=tables.len() {
                let from = tables.len() - run;
                let whole = (from == 0).then_some(Position { epoch: 9, lsn: 0 });
                let (object, header, path) = header(100 + run as u64);
                let reference =
                    merge(&tables[from..], whole, (path.clone(), true), header, object).await.unwrap();
                let merged = Rc::new(Table::open(&path, PARTITION, reference).await.unwrap());
                let after: Vec<Rc<Table>> = tables[..from].iter().cloned().chain([merged]).collect();
                for account in 0..60 {
                    let account = format!("user{account}@example.org");
                    let (before, now) = (read(&tables, &account).await, read(&after, &account).await);
                    assert_eq!(before.1, now.1, "seed {seed}, run {run}, {account}");
                    assert!(now.0 == before.0 || (now.1.is_empty() && whole.is_some()));
                }
            }
        });
    }
}

#[test]
fn only_what_stands_on_a_base_counts() {
    use BlockKind::{Base, Delta, Removed};
    assert_eq!(counting([(Delta, 4), (Delta, 3), (Base, 2), (Delta, 1), (Base, 0)]), [2, 3, 4]);
    assert!(counting([(Removed, 2), (Base, 1)]).is_empty());
    assert!(counting([(Delta, 3), (Removed, 2), (Base, 1)]).is_empty());
    assert_eq!(counting([(Base, 1)]), [1]);
    assert!(counting([(Delta, 1)]).is_empty());
    assert!(counting::<u8>([]).is_empty());
}

#[test]
fn merging_keeps_the_number_of_tables_and_of_copies_small() {
    let object = header(1).0;
    let table = |octets| TableRef { object, octets, accounts: 1, level: 0 };
    let (mut tables, mut copied, mut most) = (Vec::new(), 0, 0);
    for _ in 0..1000 {
        tables.push(table(1000));
        let run = choose(&tables, 8);
        if run > 0 {
            let octets: u64 = tables.drain(tables.len() - run..).map(|table| table.octets).sum();
            copied += octets;
            tables.push(table(octets));
        }
        most = most.max(tables.len());
    }
    assert!(most <= 8, "{most} tables");
    assert!(copied < 1000 * 1000 * 12, "each octet is copied {} times", copied / 1_000_000);
}

#[test]
fn damage_is_found_wherever_it_is() {
    let sim = Sim::new(1, SimConfig::default());
    sim.run(async {
        let mut bases = BTreeMap::new();
        let content = random_content(&mut culver_shard::random::u64, 3, &mut bases);
        let table = write(1, &content).await;
        let reference = table.reference;
        let (_, _, path) = header(1);
        let bytes = disk::read(&path).await.unwrap();
        let bad_path = path.with_extension("bad");
        for at in (0..bytes.len()).step_by(37) {
            let mut bad = bytes.clone();
            bad[at] ^= 2;
            if disk::exists(&bad_path).await.unwrap() {
                disk::remove(&bad_path).await.unwrap();
            }
            disk::create_durable(&bad_path, &bad).await.unwrap();
            let Ok(table) = Table::open(&bad_path, PARTITION, reference).await else { continue };
            let mut sound = true;
            for page in 0..table.pages() {
                let Ok(entries) = table.page(page).await else {
                    sound = false;
                    continue;
                };
                for block in entries.iter().flat_map(|entry| &entry.blocks) {
                    sound &= table.block(block).await.is_ok() && table.map_block(block, 0).await.is_ok();
                }
            }
            // Only padding may change unseen.
            assert!(!sound || bytes[at] == 0, "octet {at}");
        }
    });
}
