//! The checker is checked: each planted fault is found within the everyday seeds.

#![cfg(feature = "planted-faults")]

mod support;

use culver_shard::sim::Faults;
use culver_storage::fault::{self, Fault};

const SEEDS: u64 = 40;

/// The first seed that finds the fault, with what it says.
fn found(planted: Fault, faults: &Faults) -> Option<(u64, String)> {
    fault::set(Some(planted));
    let found = (1..=SEEDS).find_map(|seed| {
        let oracle = std::panic::catch_unwind(|| {
            let oracle = support::run(seed, 8, faults.clone());
            oracle.errors.borrow().first().cloned()
        });
        match oracle {
            Ok(error) => error.map(|error| (seed, error)),
            Err(_) => Some((seed, "panicked".into())),
        }
    });
    fault::set(None);
    found
}

macro_rules! planted {
    ($($name:ident: $fault:ident, $faults:expr;)*) => {
        $(#[test]
        fn $name() {
            let (seed, error) = found(Fault::$fault, &$faults).expect("no seed finds this fault");
            println!("{:?}: seed {seed}: {error}", Fault::$fault);
        })*
    };
}

const FAILING: Faults =
    Faults { sync_eio: 20, read_eio: 0, full: false, capacity_octets: 0, slow: std::time::Duration::ZERO };

planted! {
    acknowledging_before_the_sync_is_found: AckBeforeSync, Faults::default();
    skipping_the_sync_is_found: SkipSync, Faults::default();
    acknowledging_out_of_order_is_found: AckOutOfOrder, Faults::default();
    ignoring_a_batch_checksum_is_found: IgnoreBatchChecksum, Faults::default();
    forgetting_a_cut_is_found: ForgetCut, FAILING;
    trimming_too_early_is_found: TrimTooEarly, Faults::default();
    losing_the_newest_flush_is_found: LoseNewestFlush, Faults::default();
    a_flush_position_off_by_one_is_found: FlushPositionOff, Faults::default();
    a_flush_that_drops_later_records_is_found: FlushDropsLater, Faults::default();
    an_unsynced_pack_is_found: SkipPackSync, Faults::default();
    compacting_too_early_is_found: CompactTooEarly, Faults::default();
}
