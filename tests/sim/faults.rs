//! Planted faults: the everyday seeds find each of them, or they would not find one that nobody planted.

use crate::scenario;
use culver_mailbox::fault::Fault as InMailbox;
use culver_storage::fault::Fault as InStorage;
use std::panic::catch_unwind;

#[derive(Clone, Copy, Debug)]
enum Planted {
    Storage(InStorage),
    Mailbox(InMailbox),
}

const ALL: &[Planted] = &[
    Planted::Storage(InStorage::AckBeforeSync),
    Planted::Storage(InStorage::SkipSync),
    Planted::Storage(InStorage::AckOutOfOrder),
    Planted::Storage(InStorage::IgnoreBatchChecksum),
    Planted::Storage(InStorage::ForgetCut),
    Planted::Storage(InStorage::TrimTooEarly),
    Planted::Storage(InStorage::LoseNewestFlush),
    Planted::Storage(InStorage::FlushPositionOff),
    Planted::Storage(InStorage::FlushDropsLater),
    Planted::Storage(InStorage::SkipPackSync),
    Planted::Storage(InStorage::CompactTooEarly),
    Planted::Mailbox(InMailbox::LoseUidNext),
    Planted::Mailbox(InMailbox::ForgetExpungeLog),
    Planted::Mailbox(InMailbox::LoseUidValidity),
    Planted::Mailbox(InMailbox::StaleDelta),
    Planted::Mailbox(InMailbox::CopyForgetsShared),
    Planted::Mailbox(InMailbox::RelocateForgets),
    Planted::Mailbox(InMailbox::ReplayMoveAsCopy),
    Planted::Mailbox(InMailbox::ForgetDeliveries),
    Planted::Mailbox(InMailbox::LoseDeliveries),
];

fn plant(fault: Option<Planted>) {
    culver_storage::fault::set(None);
    culver_mailbox::fault::set(None);
    match fault {
        Some(Planted::Storage(fault)) => culver_storage::fault::set(Some(fault)),
        Some(Planted::Mailbox(fault)) => culver_mailbox::fault::set(Some(fault)),
        None => {}
    }
}

/// The seed that finds the fault, and what it says. The switch is the thread's own, so this runs on one thread.
fn find(fault: Planted, seeds: u64) -> Option<(u64, String)> {
    plant(Some(fault));
    let found = (1..=seeds).find_map(|seed| match catch_unwind(|| scenario::run(seed)) {
        Ok(outcome) => outcome.errors.into_iter().next().map(|error| (seed, error)),
        Err(_) => Some((seed, "a panic or a livelock".to_owned())),
    });
    plant(None);
    found
}

/// Finds all faults, on all cores; what was not found.
pub fn all(seeds: u64) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let missed = std::sync::Mutex::new(Vec::new());
    let only = std::env::var("CULVER_SIM_FAULT").ok();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(fault) = ALL.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let name = format!("{fault:?}");
                    if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
                        continue;
                    }
                    match find(*fault, seeds) {
                        Some((seed, error)) => {
                            let error: String = error.chars().take(160).collect();
                            println!("{name}: found by seed {seed} of {seeds}: {error}");
                        }
                        None => missed.lock().expect("held for no panic").push(name),
                    }
                }
            });
        }
    });
    missed.into_inner().expect("no thread panics")
}
