//! The checker is checked: each planted fault of `ack = "local"` is found within the everyday seeds. FirmToldEarly and
//! MergedTooEarly have directed tests in `storage/src/shared/tests_local.rs`.

use culver_storage::fault::{self, Fault};

use super::{faults, run};

/// Runs that a fault may take to be found.
const SEEDS: u64 = 12;

fn found(planted: Fault) -> Option<(u64, String)> {
    fault::set(Some(planted));
    let found = (1..=SEEDS).find_map(|seed| {
        let run =
            std::panic::catch_unwind(|| run(seed, 12, faults()).oracle.errors.borrow().first().cloned());
        run.unwrap_or_else(|_| Some("panicked".into())).map(|error| (seed, error))
    });
    fault::set(None);
    found
}

#[test]
fn a_gap_that_is_forgotten_is_found() {
    println!("{:?}", found(Fault::GapForgotten).expect("no seed finds this fault"));
}

#[test]
fn a_tail_that_is_forgotten_is_found() {
    println!("{:?}", found(Fault::TailForgotten).expect("no seed finds this fault"));
}
