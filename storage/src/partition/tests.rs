//! Bodies of unflushed records are found by their places, however many records there are.

use std::time::{Duration, Instant as Wall};

use super::*;
use crate::place::ObjectKind;

const HEAD: u64 = 100;
const BODY: u64 = 64;

fn joe() -> AccountId {
    AccountId::parse("joe@example.org").unwrap()
}

fn object(kind: ObjectKind, shard: u16, epoch: u32, number: u64) -> ObjectId {
    ObjectId { kind, shard, epoch, number }
}

/// A record at a place of a journal, with so many bodies in it and these elsewhere.
fn record(segment: ObjectId, nth: u64, inside: u64, elsewhere: &[Place]) -> Unflushed {
    let offset = 4096 + nth * 4096;
    let own =
        (0..inside).map(|body| Place { object: segment, offset: offset + HEAD + body * BODY, length: 9 });
    let places = elsewhere.iter().copied().chain(own);
    Unflushed {
        position: Position { epoch: segment.epoch, lsn: (segment.number << 24) + nth },
        segment,
        offset,
        head_octets: HEAD as u32,
        octets: (HEAD + inside * BODY) as u32,
        bodies: places.map(|place| UnflushedBody { place, dead: false }).collect(),
    }
}

fn seed(records: Vec<Unflushed>) -> PartitionSeed {
    PartitionSeed {
        partition: PartitionId(1),
        epoch: 9,
        flush: None,
        unflushed: [(joe(), records)].into(),
        missing: BTreeSet::new(),
        gaps: Vec::new(),
    }
}

/// Records of several epochs, which were of several shards; some bodies stand in packs, in another order than the records.
fn mixed() -> Vec<Unflushed> {
    let mut records = Vec::new();
    for (epoch, shard) in [(3, 2), (4, 0), (6, 1)] {
        for number in [5, 6, 9] {
            let segment = object(ObjectKind::Segment, shard, epoch, number);
            for nth in 0..7 {
                let pack = object(ObjectKind::Pack, shard, epoch, 1000 - number * 10 - nth);
                let moved = object(ObjectKind::Pack, shard, epoch, 2000);
                let in_packs = [
                    Place { object: pack, offset: 64, length: 300_000 },
                    Place { object: moved, offset: 10_000 * number + 900 - nth * 64, length: 20 },
                ];
                let elsewhere = [&[][..], &in_packs[..1], &in_packs[1..], &in_packs][nth as usize % 4];
                records.push(record(segment, nth, nth % 3, elsewhere));
            }
        }
    }
    records
}

fn places(records: &[Unflushed]) -> Vec<Place> {
    records.iter().flat_map(|record| record.bodies.iter().map(|body| body.place)).collect()
}

#[test]
fn a_body_is_found_by_its_place() {
    let all = mixed();
    let mut partition = Partition::new(seed(all[..20].to_vec()), Instant::default());
    all[20..].iter().for_each(|record| partition.note_unflushed(&joe(), record.clone()));
    for flushed in [None, Some(all[9].position), Some(all[30].position), Some(all[all.len() - 1].position)] {
        partition.drop_unflushed(&joe(), |record| Some(record.position) <= flushed);
        for record in &all {
            for body in &record.bodies {
                let found = partition.unflushed_body(&joe(), &body.place).map(|found| found.place);
                assert_eq!(found, (Some(record.position) > flushed).then_some(body.place), "{flushed:?}");
                // As long as another body, or of another account.
                let other = Place { length: body.place.length + 1, ..body.place };
                assert!(partition.unflushed_body(&joe(), &other).is_none());
                let ann = AccountId::parse("ann@example.org").unwrap();
                assert!(partition.unflushed_body(&ann, &body.place).is_none());
            }
        }
    }
    assert!(partition.unflushed.is_empty() && partition.elsewhere.is_empty());
}

/// A client expunges everything: each place is one lookup, not a walk over all records.
#[test]
fn a_hundred_thousand_bodies_are_found_at_once() {
    let began = Wall::now();
    let segment = |number| object(ObjectKind::Segment, 0, 7, number);
    let mut records: Vec<Unflushed> =
        (0..50_000).map(|nth| record(segment(1 + nth / 1000), nth % 1000, 1, &[])).collect();
    let pack = |number| Place { object: object(ObjectKind::Pack, 0, 7, number), offset: 64, length: 300_000 };
    records.extend((0..25_000).map(|nth| record(segment(100 + nth / 1000), nth % 1000, 0, &[pack(nth)])));
    // One record of many.
    records.push(record(segment(200), 0, 25_000, &[]));
    let all = places(&records);
    let mut partition = Partition::new(seed(records), Instant::default());
    for place in &all {
        partition.unflushed_body(&joe(), place).expect("it is there").dead = true;
    }
    assert!(partition.unflushed[&joe()].iter().flat_map(|record| &record.bodies).all(|body| body.dead));
    // One after the other they were 5,000,000,000 looks.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
