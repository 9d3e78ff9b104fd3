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
    /// On a shared store: a journal is read for a takeover and not sealed (R5).
    SealSkipped,
    /// The low mark is not looked at again when the seal is known to be there (H2).
    LowBeforeSealOnly,
    /// Of a chain of owners only the newest one's journal is sealed (H3).
    SealNewestOnly,
    /// A seal is deleted when the takeover is done.
    SealDeleted,
    /// A node that finds a seal at its number goes on to acknowledge (R2).
    AckWhenSealed,
    /// A journal object is told before those before it are known to be there (H11).
    TellGaps,
    /// A proof counts from the answer, and not from the first create (H12).
    FreshFromAnswer,
    /// One's own earlier try of a create is taken for somebody else's object.
    OwnRetryForeign,
    /// Claims have no nonce of their own, so that one that is made again looks like the first (H13).
    ClaimRepeats,
    /// Records in a journal are not told apart by the epoch of their partition (H4).
    EpochsMixed,
    /// Replay begins at the Flush record, and not at its `cov` (H5).
    ReplayFromFlush,
    /// A pending claim frees the epochs before it (H6).
    PendingFrees,
    /// A Flush frees the epochs before its own, though its `cov` stands in one of them (R3).
    FreesFromCov,
    /// A partition is served on after its Release is sent (H7).
    ServeAfterRelease,
    /// Names of objects do not hold the epoch of who wrote them, so that a late deletion may be of a later owner's (H8).
    NamesWithoutEpoch,
    /// A search for orphans takes objects of later epochs for some (H8).
    OrphansOfLaterEpochs,
    /// A search for orphans takes what is merged while it goes on for some.
    OrphansAwaited,
    /// A partition is served before its Open record is committed (H9).
    ServeBeforeOpen,
    /// What a Flush of unknown outcome names is taken for garbage (H10).
    ForgetUnknownFlush,
    /// A flush that loses its partition while it merges tables takes the old ones for garbage.
    MergeAfterLoss,
    /// A Flush record is carried forward while another one is under way (H14).
    CarryAnyTime,
    /// With `ack = "local"`: a takeover that cannot have seen everything raises nothing.
    GapForgotten,
    /// Records of ownership and Flush records are told after the local disk, before the store has them.
    FirmToldEarly,
    /// A returning node claims before its tail is in the store.
    TailForgotten,
    /// A late tail counts as merged before its records are committed.
    MergedTooEarly,
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
