//! Journal, recovery, flush, trim and compaction under crashes at any point, on simulated disks.

mod support;

use culver_shard::sim::Faults;

fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("CULVER_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default);
    let first = std::env::var("CULVER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    first..first + count
}

fn all_seeds(default: u64, lives: usize, faults: Faults) {
    let (mut acked, mut verified, mut flushes, mut compactions, mut lost) = (0, 0, 0, 0, 0);
    for seed in seeds(default) {
        let oracle = support::run(seed, lives, faults.clone());
        let errors = oracle.errors.borrow();
        assert!(errors.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {errors:#?}");
        acked += oracle.acked.get();
        verified += oracle.verified.get();
        flushes += oracle.flushes.get();
        compactions += oracle.compactions.get();
        lost += oracle.lost.get();
    }
    println!(
        "acknowledged {acked}, bodies read {verified}, lost by cuts {lost}, at clean ends: {flushes} flushes, {compactions} compactions"
    );
    assert!(acked > 0 && verified > 0, "the runs did nothing");
}

#[test]
fn what_was_acknowledged_survives_crashes() {
    all_seeds(25, 8, Faults::default());
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    for seed in seeds(10) {
        let (acked, oracle) = support::run_full(seed);
        let errors = oracle.errors.borrow();
        assert!(errors.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {errors:#?}");
        println!("seed {seed}: acknowledged {acked:?} (before, while full, after)");
        assert!(acked[0] > 0 && acked[2] > 0, "CULVER_SEED={seed} CULVER_SEEDS=1: {acked:?}");
        assert!(oracle.lost.get() > 0, "CULVER_SEED={seed} CULVER_SEEDS=1: the disk was never full");
    }
}

#[test]
fn a_start_on_a_full_disk_succeeds_and_what_frees_space_is_taken() {
    for seed in seeds(15) {
        let (acked, oracle) = support::run_starts_on_full(seed);
        let errors = oracle.errors.borrow();
        assert!(errors.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {errors:#?}");
        println!("seed {seed}: {} shards started, acknowledged {acked:?} (full, after)", oracle.starts.get());
        let failed = oracle.failed_starts.borrow();
        assert!(failed.is_empty(), "CULVER_SEED={seed} CULVER_SEEDS=1: {failed:#?}");
        assert!(acked.iter().all(|acked| *acked > 0), "CULVER_SEED={seed} CULVER_SEEDS=1: {acked:?}");
    }
}

#[test]
fn what_was_lost_in_a_failed_sync_never_returns() {
    all_seeds(25, 8, Faults { sync_eio: 5, ..Faults::default() });
}
