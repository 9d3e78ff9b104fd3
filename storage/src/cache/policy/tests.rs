//! The policy on a disk of vectors.

use std::collections::BTreeMap;

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;

/// Segments as the cache writes them: the fingerprints in each, with offset and octets.
struct Bench {
    policy: Policy,
    files: BTreeMap<u64, Vec<(u64, u32, u32)>>,
    second: u32,
    copied: u64,
}

impl Bench {
    fn new(budget: u64) -> Bench {
        Bench { policy: Policy::new(budget), files: BTreeMap::new(), second: 0, copied: 0 }
    }

    fn octets(&self) -> u64 {
        self.files.values().flatten().map(|(.., octets)| u64::from(*octets)).sum()
    }

    /// What the cache does with an entry that it takes in.
    fn put(&mut self, fingerprint: u64, octets: u32, uses: u8) {
        if u64::from(octets) > self.policy.segment_octets() {
            return;
        }
        while let Some(victim) = self.policy.victim(octets.into()) {
            for (fingerprint, slot, uses) in self.policy.survivors(victim) {
                self.copied += u64::from(slot.octets);
                self.write(fingerprint, slot.octets, uses, Row::Main);
                assert!(self.octets() <= self.policy.budget, "while copying");
            }
            self.policy.remove(victim);
            self.files.remove(&victim).expect("a victim has a file");
        }
        let row = self.policy.row_for(fingerprint);
        self.write(fingerprint, octets, uses, row);
    }

    fn write(&mut self, fingerprint: u64, octets: u32, uses: u8, row: Row) {
        let active = self.policy.active(row, octets.into());
        let (number, offset) = active.unwrap_or_else(|| (self.policy.begin(row), 0));
        self.policy.lengthen(number, octets.into());
        self.policy.put(fingerprint, number, offset as u32, octets, uses, self.second);
        self.files.entry(number).or_default().push((fingerprint, offset as u32, octets));
    }

    /// A read: true where it was there. What was not is taken in.
    fn read(&mut self, fingerprint: u64, octets: u32) -> bool {
        let slot = self.policy.use_slot(fingerprint, self.second);
        if let Some(slot) = slot {
            let stands = (fingerprint, slot.offset, slot.octets);
            assert!(self.files[&slot.segment].contains(&stands), "the index is right");
            return true;
        }
        self.put(fingerprint, octets, 1);
        false
    }
}

const KIB: u32 = 1 << 10;

#[test]
fn one_pass_over_a_big_mailbox_evicts_nothing_that_is_read_again_and_again() {
    // 64 MiB, of which 32 MiB are read twice an hour; then 1 GiB once.
    let mut bench = Bench::new(64 << 20);
    for _ in 0..4 {
        (0..512).for_each(|hot| {
            bench.read(hot, 64 * KIB);
        });
        bench.second += 1800;
        // Something else comes by, so that turns come.
        (0..512).for_each(|other| {
            bench.read(u64::from(bench.second) << 32 | other, 64 * KIB);
        });
    }
    let before = (0..512).filter(|hot| bench.read(*hot, 64 * KIB)).count();
    assert_eq!(before, 512);
    let copied = bench.copied;
    for scanned in 0..16_384 {
        bench.second += u32::from(scanned % 100 == 0);
        assert!(!bench.read(1 << 62 | scanned, 64 * KIB));
    }
    let after = (0..512).filter(|hot| bench.policy.slot(*hot).is_some()).count();
    assert_eq!(after, 512, "of 512 that were read again and again");
    // What goes round in the main queue goes round few times: as often as it was used.
    assert!(bench.copied - copied <= 4 * (32 << 20), "{} octets were copied", bench.copied - copied);
}

#[test]
fn a_client_that_reads_a_message_in_pieces_has_read_it_once() {
    let mut bench = Bench::new(64 << 20);
    (0..512).for_each(|hot| {
        bench.read(hot, 64 * KIB);
    });
    bench.second += 3600;
    (0..512).for_each(|hot| {
        bench.read(hot, 64 * KIB);
    });
    for scanned in 0..16_384 {
        (0..3).for_each(|_| {
            bench.read(1 << 62 | scanned, 64 * KIB);
        });
        bench.second += u32::from(scanned % 100 == 0);
    }
    assert_eq!((0..512).filter(|hot| bench.policy.slot(*hot).is_some()).count(), 512);
}

#[test]
fn what_comes_back_soon_after_it_went_stays_longer() {
    let mut bench = Bench::new(64 << 20);
    // 62 MiB that are used are in the main queue, and the probation queue is short.
    (0..900).for_each(|hot| {
        bench.read(hot, 64 * KIB);
    });
    bench.second += 3600;
    (0..900).for_each(|hot| {
        bench.read(hot, 64 * KIB);
    });
    (0..400).for_each(|passing| {
        bench.read(1 << 61 | passing, 64 * KIB);
    });
    assert!(bench.policy.slot(1 << 61).is_none(), "it has gone");
    bench.second += 3600;
    assert!(!bench.read(1 << 61, 64 * KIB));
    (0..2000).for_each(|passing| {
        bench.read(1 << 60 | passing, 64 * KIB);
    });
    assert!(bench.policy.slot(1 << 61).is_some(), "it came back and stayed");
}

#[test]
fn what_was_put_in_at_its_writing_has_to_be_read_twice_to_stay() {
    let mut policy = Policy::new(64 << 20);
    let number = policy.begin(Row::Probation);
    policy.lengthen(number, 200);
    policy.put(1, number, 0, 100, 0, 5);
    policy.put(2, number, 100, 100, 1, 5);
    assert!(!policy.was_used(1) && policy.was_used(2));
    policy.use_slot(1, 6);
    policy.use_slot(2, 6);
    assert_eq!(policy.survivors(number), []);
    policy.use_slot(1, 6 + ONE_USE_SECONDS);
    policy.use_slot(2, 6 + ONE_USE_SECONDS);
    assert_eq!(policy.survivors(number).len(), 2);
}

#[derive(Clone, Debug)]
enum Op {
    Read { key: u8, octets: u16 },
    Written { key: u8, octets: u16 },
    Forget { key: u8 },
    Wait,
    Lose,
    Restart { budget: u8 },
}

impl Arbitrary for Op {
    fn arbitrary(g: &mut Gen) -> Op {
        let (key, octets) = (u8::arbitrary(g) % 100, 8 + u16::arbitrary(g) % 1500);
        match u8::arbitrary(g) % 24 {
            0..14 => Op::Read { key, octets },
            14..18 => Op::Written { key, octets },
            18 => Op::Forget { key },
            19..22 => Op::Wait,
            22 => Op::Lose,
            _ => Op::Restart { budget: u8::arbitrary(g) },
        }
    }
}

/// Against a map of everything that was put in and not taken out: what is found stands where it was written last, the octets are
/// those of the files, and never above the budget.
fn follows_the_oracle(ops: Vec<Op>) -> bool {
    let mut bench = Bench::new(64 << 10);
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    for op in ops {
        match op {
            Op::Read { key, octets } => {
                let key = u64::from(key);
                let found = bench.policy.slot(key);
                match (bench.read(key, octets.into()), last.get(&key)) {
                    (true, written) => {
                        assert_eq!(Some(&found.expect("it was there").octets), written);
                    }
                    (false, _) => drop(last.insert(key, octets.into())),
                }
            }
            Op::Written { key, octets } => {
                if bench.policy.slot(key.into()).is_none() {
                    bench.put(key.into(), octets.into(), 0);
                    last.insert(key.into(), octets.into());
                }
            }
            Op::Forget { key } => {
                bench.policy.forget(key.into());
                assert!(bench.policy.slot(key.into()).is_none());
            }
            Op::Wait => bench.second += 40,
            Op::Lose => {
                if let Some(number) = bench.files.keys().next().copied() {
                    bench.policy.remove(number);
                    bench.files.remove(&number);
                }
            }
            Op::Restart { budget } => {
                let budget = (32 << 10) + u64::from(budget) * 512;
                let files = std::mem::take(&mut bench.files);
                bench.policy = Policy::new(budget);
                for (number, entries) in &files {
                    let octets = entries.iter().map(|(.., octets)| u64::from(*octets)).sum();
                    bench.policy.adopt(*number, octets);
                }
                bench.files = files;
                for gone in bench.policy.beyond(budget - bench.policy.segment_octets()) {
                    bench.policy.remove(gone);
                    bench.files.remove(&gone);
                }
                for (number, entries) in &bench.files {
                    for (fingerprint, offset, octets) in entries {
                        bench.policy.put_found(*fingerprint, *number, *offset, *octets);
                        last.insert(*fingerprint, *octets);
                    }
                }
            }
        }
        assert_eq!(bench.policy.held(), bench.octets());
        assert!(bench.octets() <= bench.policy.budget);
        let on_probation: u64 =
            bench.policy.segments.values().filter(|of| of.row == Row::Probation).map(|of| of.octets).sum();
        assert_eq!(bench.policy.on_probation, on_probation);
        assert!(bench.policy.ghosts.len() <= GHOSTS_MIN.max(bench.policy.entries()));
        for (key, slot) in &bench.policy.slots {
            assert!(bench.files[&slot.segment].contains(&(*key, slot.offset, slot.octets)));
        }
    }
    true
}

quickcheck! {
    fn what_is_found_is_what_was_written_within_the_budget(ops: Vec<Op>) -> bool {
        follows_the_oracle(ops)
    }
}
