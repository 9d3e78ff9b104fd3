//! Planted faults: ways to be wrong, switched on by tests to prove that they are found.
//!
//! Without the feature `planted-faults`, [`on`] is a constant `false` and nothing of this is in the program.

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Commits are told before the sync.
    AckBeforeSync,
    /// The sync is left out.
    SkipSync,
    /// Commits of a batch are told newest first.
    AckOutOfOrder,
    /// The checksum of a batch is not looked at on recovery.
    IgnoreBatchChecksum,
    /// Records made void after a failed sync come back on recovery.
    ForgetCut,
    /// A low mark one segment too high.
    TrimTooEarly,
    /// The newest Flush record of a partition is overlooked on recovery.
    LoseNewestFlush,
    /// A flush claims records that it does not hold.
    FlushPositionOff,
    /// The flush drops every record of the partition, also those that came meanwhile.
    FlushDropsLater,
    /// A pack of one is not synced before the record that names it.
    SkipPackSync,
    /// Compaction deletes the old object before its successor is flushed.
    CompactTooEarly,
}

#[cfg(feature = "planted-faults")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local!(static FAULT: Cell<Option<Fault>> = const { Cell::new(None) });

    /// Switches a fault on for this thread, or all off.
    pub fn set(fault: Option<Fault>) {
        FAULT.set(fault);
    }

    pub fn on(fault: Fault) -> bool {
        FAULT.get() == Some(fault)
    }
}

#[cfg(feature = "planted-faults")]
pub use switch::{on, set};

/// Is this fault planted?
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub fn on(_: Fault) -> bool {
    false
}
