//! Identifiers: what names a message, a mailbox, a change and a place.

use std::fmt;
use std::num::NonZeroU32;

/// A message's unique identifier in its mailbox (RFC 3501 §2.3.1.1): 1 to 2^32-1, ascending, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(NonZeroU32);

impl Uid {
    pub const MIN: Uid = Uid(NonZeroU32::MIN);

    /// `None` for 0, which is no UID.
    pub const fn new(value: u32) -> Option<Uid> {
        match NonZeroU32::new(value) {
            Some(value) => Some(Uid(value)),
            None => None,
        }
    }

    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({})", self.get())
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The validity of a mailbox's UIDs (RFC 3501 §2.3.1.1). Comes from a counter of the account, never from the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UidValidity(NonZeroU32);

impl UidValidity {
    pub const MIN: UidValidity = UidValidity(NonZeroU32::MIN);

    pub const fn new(value: u32) -> Option<UidValidity> {
        match NonZeroU32::new(value) {
            Some(value) => Some(UidValidity(value)),
            None => None,
        }
    }

    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for UidValidity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A modification sequence (RFC 7162 §3.1): 63 bits. 0 stands only where the RFC gives it a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModSeq(pub u64);

impl ModSeq {
    pub const ZERO: ModSeq = ModSeq(0);
    /// RFC 7162 §7: mod-sequence values are 63-bit.
    pub const MAX: ModSeq = ModSeq(i64::MAX as u64);

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next one. Panics at 2^63-1, which no account reaches.
    #[must_use]
    pub fn next(self) -> ModSeq {
        assert!(self < ModSeq::MAX, "modification sequence exhausted");
        ModSeq(self.0 + 1)
    }
}

impl fmt::Display for ModSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 bits that name a mailbox or a message for ever, whatever its name, UID or place.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The INBOX of every account: known without reading anything.
    pub const INBOX: Guid = Guid([0; 16]);

    /// From 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Guid> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16)?;
            let low = (pair[1] as char).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(Guid(bytes))
    }
}

/// What an [object id](Guid::object_id) begins with: of an e-mail, of a mailbox, of an INBOX.
pub const EMAIL_ID: char = 'M';
pub const MAILBOX_ID: char = 'F';
pub const INBOX_ID: char = 'I';

impl Guid {
    /// The object id that clients see (RFC 8474 §7): a letter and 32 lower-case hexadecimal digits.
    pub fn object_id(self, kind: char) -> String {
        format!("{kind}{self}")
    }

    /// The way back; `None` for what is no object id of that kind. Case counts.
    pub fn of_object_id(kind: char, text: &str) -> Option<Guid> {
        let guid = Guid::parse(text.strip_prefix(kind)?)?;
        (guid.object_id(kind) == text).then_some(guid)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// What a delivery is known by when its sender, who heard no answer, sends it again. Two are the same only where the
/// sender's own id, the envelope sender, the recipient and every octet of the message are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub [u8; DeliveryId::OCTETS]);

impl DeliveryId {
    pub const OCTETS: usize = 12;
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeliveryId({self})")
    }
}

/// A partition: the unit of ownership, flush, manifest and move. `hash(account id) mod PARTITIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

impl PartitionId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_uid() {
        assert_eq!(Uid::new(0), None);
        assert_eq!(Uid::new(7).unwrap().to_string(), "7");
        assert_eq!(size_of::<Option<Uid>>(), 4);
        assert_eq!(ModSeq(1).next(), ModSeq(2));
    }

    #[test]
    fn guids_round_trip() {
        let guid = Guid::parse("00ff102030405060708090a0B0c0d0e0").unwrap();
        assert_eq!(guid.to_string(), "00ff102030405060708090a0b0c0d0e0");
        assert_eq!(Guid::parse(&guid.to_string()), Some(guid));
        for text in [
            "",
            "00",
            "00ff102030405060708090a0b0c0d0eg",
            "00ff102030405060708090a0b0c0d0e0f",
            "+0ff102030405060708090a0b0c0d0e0",
        ] {
            assert_eq!(Guid::parse(text), None, "{text}");
        }
    }
}
