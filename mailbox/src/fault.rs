//! Planted faults: ways for this crate to be wrong, switched on by tests to prove that they are found.
//!
//! Without the feature `planted-faults`, [`on`] is a constant `false` and nothing of this is in the program.

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// UIDNEXT is taken from the last message that is left.
    LoseUidNext,
    /// The expunge log of what was stored is not read.
    ForgetExpungeLog,
    /// The UIDVALIDITY counter is taken from the mailboxes that are left.
    LoseUidValidity,
    /// An account whose blocks a flush takes goes on with deltas on the blocks before.
    StaleDelta,
    /// A copied message's bytes are given free with the first of its messages.
    CopyForgetsShared,
    /// Compaction's new places are not noted.
    RelocateForgets,
    /// A move leaves the message behind where the account is rebuilt.
    ReplayMoveAsCopy,
    /// A delivery that is sent again is taken again.
    ForgetDeliveries,
    /// The ids of deliveries are not read from their blocks.
    LoseDeliveries,
    /// A record that came late counts again where it counts already.
    LateTwice,
    /// What comes late for a deleted account goes to who has its name next.
    LateToNamesake,
    /// A gap raises no UIDNEXT.
    GapWithoutUids,
    /// Folding a mailbox's overlay panics.
    FoldPanics,
}

#[cfg(feature = "planted-faults")]
mod switch {
    use super::Fault;
    use crate::record::Message;
    use crate::state::State;
    use culver_index::{MailboxIndex, PLACE_OCTETS};
    use culver_model::{ModSeq, Uid, UidSet};
    use std::cell::Cell;

    thread_local!(static FAULT: Cell<Option<Fault>> = const { Cell::new(None) });

    /// Switches a fault on for this thread, or all off.
    pub fn set(fault: Option<Fault>) {
        FAULT.set(fault);
    }

    pub fn on(fault: Fault) -> bool {
        FAULT.get() == Some(fault)
    }

    /// What a fault does to a state that was just read from its blocks.
    pub fn damage(state: &mut State) {
        match FAULT.get() {
            Some(Fault::LoseUidNext) => {
                state.mailboxes.values_mut().for_each(|index| *index = again(index, false))
            }
            Some(Fault::ForgetExpungeLog) => {
                state.mailboxes.values_mut().for_each(|index| *index = again(index, true));
            }
            Some(Fault::LoseDeliveries) => state.deliveries = Default::default(),
            Some(Fault::LoseUidValidity) => {
                let left = state.account.mailboxes.iter().map(|entry| entry.uid_validity.get());
                state.account.uid_validity = left.max().unwrap_or(1);
            }
            _ => {}
        }
    }

    /// The index made anew from its messages: with UIDNEXT and no expunges but one, or with the expunges and no UIDNEXT.
    fn again(index: &MailboxIndex, uid_next: bool) -> MailboxIndex {
        let mut new = MailboxIndex::new(index.guid(), index.uid_validity(), index.created());
        let gone = index.expunged_since(ModSeq::ZERO).unwrap_or_default();
        let filler = Message::default();
        let last_given = Uid::new(index.uid_next().get() - 1).filter(|_| uid_next);
        let last = last_given.map_or_else(|| index.uids().max().unwrap_or(0), Uid::get);
        let mut fillers = UidSet::new();
        for uid in (1..=last).filter_map(Uid::new) {
            if let Some(row) = index.get(uid) {
                let flags = row.flag_set();
                let _ = new.append_with_uid(row.message(&flags), uid, row.modseq());
            } else if Some(uid) == last_given || !uid_next && gone.contains(uid.get()) {
                fillers.insert(uid.get());
                let filler = filler.as_new([0; PLACE_OCTETS], index.guid());
                let _ = new.append_with_uid(filler, uid, index.highest_modseq());
            }
        }
        new.expunge(&fillers, false, index.highest_modseq());
        new
    }
}

/// What a fault does to a state that was just read from its blocks.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub(crate) fn damage(_: &mut crate::state::State) {}

#[cfg(feature = "planted-faults")]
pub use switch::{damage, on, set};

/// Is this fault planted?
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub fn on(_: Fault) -> bool {
    false
}
