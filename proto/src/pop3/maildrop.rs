//! The maildrop: the snapshot of a mailbox that one POP3 session numbers and marks.
//!
//! # Invariants
//! Numbers run from 1 without gaps and never change during the session; marks exist here only, until QUIT.
//!
//! # Limits
//! [`MESSAGES_MAX`] messages; a unique-id has 1 to [`UIDL_OCTETS_MAX`] octets.
//!
//! # Cost
//! 24 octets and the unique-id for each message.

use culver_model::Uid;

/// The most messages that a session is shown; the others appear once some of these are gone.
pub const MESSAGES_MAX: usize = 1_000_000;
/// RFC 1939 §7: a unique-id has 1 to 70 octets.
pub const UIDL_OCTETS_MAX: usize = 70;

/// Why a message cannot be added to a maildrop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaildropError {
    /// [`MESSAGES_MAX`] are there: show these.
    #[error("maildrop has {MESSAGES_MAX} messages already")]
    Full,
    /// Not 1 to 70 octets of 0x21 to 0x7E.
    #[error("not a unique-id")]
    BadUidl,
}

/// One message of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its number in this session, from 1.
    pub number: u32,
    pub uid: Uid,
    /// Octets, as RETR sends them without dot-stuffing.
    pub size: u64,
    pub uidl: &'a str,
    /// Marked by DELE.
    pub deleted: bool,
}

/// The snapshot, with its marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maildrop {
    entries: Vec<Entry>,
    uidls: String,
    deleted_count: u32,
    octets_left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    size: u64,
    uid: Uid,
    uidl_end: u32,
    deleted: bool,
}

impl Maildrop {
    pub fn new() -> Maildrop {
        Maildrop::default()
    }

    /// Adds the next message in the order of numbers. `uidl` must be unique in the maildrop: the index sees to that.
    pub fn push(&mut self, uid: Uid, size: u64, uidl: &str) -> Result<(), MaildropError> {
        if self.entries.len() >= MESSAGES_MAX {
            return Err(MaildropError::Full);
        }
        // RFC 1939 §7: characters in the range 0x21 to 0x7E.
        if uidl.is_empty() || uidl.len() > UIDL_OCTETS_MAX || !uidl.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(MaildropError::BadUidl);
        }
        self.uidls.push_str(uidl);
        let uidl_end = u32::try_from(self.uidls.len()).map_err(|_| MaildropError::Full)?;
        self.entries.push(Entry { size, uid, uidl_end, deleted: false });
        self.octets_left = self.octets_left.saturating_add(size);
        Ok(())
    }

    /// All messages, deleted or not.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages not marked as deleted.
    pub fn count_left(&self) -> u32 {
        self.len() - self.deleted_count
    }

    /// Octets of the messages not marked as deleted.
    pub fn octets_left(&self) -> u64 {
        self.octets_left
    }

    /// The message of that number, deleted or not.
    pub fn get(&self, number: u32) -> Option<Message<'_>> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        let entry = self.entries.get(at)?;
        let from = at.checked_sub(1).map_or(0, |before| self.entries[before].uidl_end as usize);
        let uidl = self.uidls.get(from..entry.uidl_end as usize)?;
        Some(Message { number, uid: entry.uid, size: entry.size, uidl, deleted: entry.deleted })
    }

    /// Marks a message; false if there is none or it is marked already.
    pub fn delete(&mut self, number: u32) -> bool {
        let entry = usize::try_from(number)
            .ok()
            .and_then(|n| n.checked_sub(1))
            .and_then(|at| self.entries.get_mut(at));
        match entry {
            Some(entry) if !entry.deleted => {
                entry.deleted = true;
                self.deleted_count += 1;
                self.octets_left = self.octets_left.saturating_sub(entry.size);
                true
            }
            _ => false,
        }
    }

    /// Takes all marks away.
    pub fn reset(&mut self) {
        self.deleted_count = 0;
        self.octets_left = 0;
        for entry in &mut self.entries {
            entry.deleted = false;
            self.octets_left = self.octets_left.saturating_add(entry.size);
        }
    }

    /// The UIDs marked as deleted, in the order of numbers.
    pub fn deleted(&self) -> impl Iterator<Item = Uid> + '_ {
        self.entries.iter().filter(|entry| entry.deleted).map(|entry| entry.uid)
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        (1..=self.len()).filter_map(|number| self.get(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(value: u32) -> Uid {
        Uid::new(value).expect("not 0")
    }

    #[test]
    fn marks_change_counts_and_never_numbers() {
        let mut maildrop = Maildrop::new();
        for (n, size) in [(5, 120), (7, 200), (9, 0)] {
            maildrop.push(uid(n), size, &format!("id{n}")).expect("fits");
        }
        assert_eq!((maildrop.count_left(), maildrop.octets_left()), (3, 320));
        assert!(maildrop.delete(2) && !maildrop.delete(2) && !maildrop.delete(0) && !maildrop.delete(4));
        assert_eq!((maildrop.count_left(), maildrop.octets_left()), (2, 120));
        assert_eq!(maildrop.get(3).map(|m| (m.uid, m.uidl)), Some((uid(9), "id9")));
        assert_eq!(maildrop.deleted().collect::<Vec<_>>(), [uid(7)]);
        maildrop.reset();
        assert_eq!((maildrop.count_left(), maildrop.octets_left(), maildrop.deleted().count()), (3, 320, 0));
    }

    #[test]
    fn unique_ids_are_those_of_rfc_1939() {
        let mut maildrop = Maildrop::new();
        for bad in ["", "a b", "a\n", "\u{e4}", "\u{7f}", &"x".repeat(71)] {
            assert_eq!(maildrop.push(uid(1), 1, bad), Err(MaildropError::BadUidl), "{bad:?}");
        }
        assert_eq!(maildrop.push(uid(1), 1, &"~".repeat(70)), Ok(()));
        assert_eq!(maildrop.len(), 1);
    }
}
