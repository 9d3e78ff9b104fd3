use super::format::*;
use crate::place::{ObjectId, ObjectKind, Place, Position};
use culver_model::PartitionId;

fn header() -> SegmentHeader {
    SegmentHeader {
        version: SEGMENT_VERSION,
        epoch: 3,
        shard: 1,
        number: 7,
        base_lsn: 100,
        previous_end: 98,
        capacity: 1 << 20,
        store: [5; 16],
        nonce: [6; 16],
    }
}

fn place(number: u64) -> Place {
    let object = ObjectId { kind: ObjectKind::Pack, shard: 1, epoch: 3, number };
    Place { object, offset: 64, length: 5 }
}

fn batch(metas: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    begin_batch(&mut out);
    for meta in metas {
        let places = [place(meta.len() as u64)];
        let record = NewRecord {
            kind: RecordKind::Data,
            partition: PartitionId(9),
            epoch: 3,
            account: "joe@example.org",
            meta,
            places: &places,
        };
        put_head(&record, 0, &mut out);
    }
    finish_batch(&mut out, header().seed(), metas.len() as u32, 100, 100);
    out
}

#[test]
fn header_is_read_back_and_any_changed_octet_is_found() {
    let block = header().block();
    assert_eq!(block.len() as u64, HEADER_BLOCK);
    assert_eq!(SegmentHeader::parse(&block), Ok(header()));
    for at in 0..92 {
        let mut bad = block.clone();
        bad[at] ^= 1;
        assert!(SegmentHeader::parse(&bad).is_err(), "octet {at}");
    }
    assert_eq!(SegmentHeader::parse(&[]), Err(HeaderFault::Broken));
    assert_eq!(SegmentHeader::parse(&[0; 4096]), Err(HeaderFault::Broken));
}

#[test]
fn segments_of_version_1_have_their_own_seed() {
    let old = SegmentHeader { version: 1, ..header() };
    assert_eq!(SegmentHeader::parse(&old.block()), Ok(old));
    assert_ne!(old.seed(), header().seed());
    let newer = SegmentHeader { version: 3, ..header() };
    assert_eq!(SegmentHeader::parse(&newer.block()), Err(HeaderFault::Version(3)));
}

#[test]
fn batch_is_valid_only_whole_and_in_its_own_segment() {
    let batch = batch(&[b"one", b"", &[7; 1000]]);
    let found = BatchHeader::parse(&batch).unwrap();
    assert_eq!((found.length as usize, found.count, found.lsn), (batch.len(), 3, 100));
    assert!(found.verify(&batch, header().seed()));
    let elsewhere = SegmentHeader { nonce: [1; 16], ..header() };
    assert!(!found.verify(&batch, elsewhere.seed()), "a nonce keeps forged batches out");
    for at in 0..batch.len() {
        let mut bad = batch.clone();
        bad[at] ^= 0x80;
        let valid = BatchHeader::parse(&bad).is_some_and(|found| found.verify(&bad, header().seed()));
        assert!(!valid, "octet {at}");
        assert!(!found.verify(&batch[..at], header().seed()));
    }
}

#[test]
fn records_are_read_back() {
    let batch = batch(&[b"one", b""]);
    let first = parse_head(&batch[BATCH_OCTETS..]).unwrap();
    assert_eq!((first.account, first.meta), ("joe@example.org", &b"one"[..]));
    assert_eq!(first.places, [place(3)]);
    assert_eq!((first.header.partition, first.header.epoch), (PartitionId(9), 3));
    let second = parse_head(&batch[BATCH_OCTETS + first.header.length as usize..]).unwrap();
    assert_eq!((second.meta, &second.places[..]), (&b""[..], &[place(0)][..]));
}

#[test]
fn heads_from_hostile_octets_never_panic() {
    let batch = batch(&[&[1; 40]]);
    let record = &batch[BATCH_OCTETS..];
    for at in 0..record.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = record.to_vec();
            bad[at] = value;
            if bad != record {
                assert!(parse_head(&bad).is_err(), "octet {at} is {value}");
            }
        }
        assert!(parse_head(&record[..at]).is_err());
    }
}

#[test]
fn flush_meta_is_read_back_and_names_a_manifest() {
    let manifest = ObjectId { kind: ObjectKind::Manifest, shard: 0, epoch: 2, number: 4 };
    let meta = FlushMeta { manifest, cov: Position { epoch: 2, lsn: 90 } };
    assert_eq!(FlushMeta::parse(&meta.to_bytes()), Some(meta));
    let strange = FlushMeta { manifest: ObjectId { kind: ObjectKind::Pack, ..manifest }, ..meta };
    assert_eq!(FlushMeta::parse(&strange.to_bytes()), None);
    assert_eq!(FlushMeta::parse(&meta.to_bytes()[..31]), None);
}

#[test]
fn account_ids_must_be_canonical() {
    assert!(account_of("joe@example.org").is_ok());
    assert!(account_of("Joe@example.org").is_err());
    assert!(account_of("").is_err());
}
