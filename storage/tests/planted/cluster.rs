//! The checker is checked: each planted fault of the shared store is found within the everyday seeds.
//!
//! Random runs do not find SealNewestOnly (H3), LowBeforeSealOnly, TellGaps, FreshFromAnswer, ServeAfterRelease, ServeBeforeOpen, ForgetUnknownFlush,
//! OwnRetryForeign, ClaimRepeats, EpochsMixed, FreesFromCov, OrphansOfLaterEpochs and MergeAfterLoss within [`SEEDS`]: they have directed tests in
//! `storage/src/shared/tests.rs` and `tests_node.rs`.

use culver_storage::fault::{self, Fault};

use super::{StoreFaults, faults, inhabited, run};

/// Runs that a fault may take to be found.
const SEEDS: u64 = 32;

/// The first seed that finds the fault, with what it says.
fn found(planted: Fault, store_faults: StoreFaults) -> Option<(u64, String)> {
    fault::set(Some(planted));
    let found = (1..=SEEDS).find_map(|seed| {
        let run = std::panic::catch_unwind(|| {
            let world = run(seed, 8, store_faults);
            let error = world.oracle.errors.borrow().first().cloned();
            let found = world.oracle.verified_partitions.borrow().len();
            let missing = (found < inhabited()).then(|| format!("{found} partitions were found at the end"));
            error.or(missing)
        });
        match run {
            Ok(error) => error.map(|error| (seed, error)),
            Err(_) => Some((seed, "panicked".into())),
        }
    });
    fault::set(None);
    found
}

macro_rules! planted {
    ($($name:ident: $fault:ident;)*) => {
        $(#[test]
        fn $name() {
            let (seed, error) = found(Fault::$fault, faults()).expect("no seed finds this fault");
            println!("{:?}: seed {seed}: {error}", Fault::$fault);
        })*
    };
}

planted! {
    acknowledging_out_of_order_is_found: AckOutOfOrder;
    a_takeover_without_a_seal_is_found: SealSkipped;
    a_seal_that_is_deleted_is_found: SealDeleted;
    acknowledging_behind_a_seal_is_found: AckWhenSealed;
    a_flush_that_drops_later_records_is_found: FlushDropsLater;
    losing_the_newest_flush_is_found: LoseNewestFlush;
    replaying_from_the_flush_is_found: ReplayFromFlush;
    trimming_too_early_is_found: TrimTooEarly;
    freeing_for_a_pending_claim_is_found: PendingFrees;
    names_without_an_epoch_are_found: NamesWithoutEpoch;
    carrying_at_any_time_is_found: CarryAnyTime;
}
