//! The block of an account whose rebuild has not restored everything yet: what was whole when it began.
//!
//! Layout, version 1, in `docs/format/account.md`.

use crate::FormatError;
use culver_model::Guid;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"CULVRBL\n";
const VERSION: u16 = 1;
const LIST_WHOLE: u16 = 1 << 0;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawUnfinished {
    magic: [u8; 8],
    version: U16,
    bits: U16,
    /// CRC-32C of all that follows this field, and of the bits before it.
    crc: U32,
    mailboxes: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawUnfinished>() == 24);

/// What of an account was whole when its rebuild began. Messages that are found of anything else are restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// The list of mailboxes: one that is not in it was deleted.
    pub list_whole: bool,
    /// A message that these do not have was expunged or moved.
    pub whole: BTreeSet<Guid>,
}

impl Unfinished {
    /// The key of its block.
    pub const KEY: Guid = Guid(*b"\xff\xff\xff\xff\xff\xff\xff\xffrbld\0\0\0\0");

    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawUnfinished {
            magic: MAGIC,
            version: VERSION.into(),
            bits: if self.list_whole { LIST_WHOLE } else { 0 }.into(),
            crc: 0.into(),
            mailboxes: (self.whole.len() as u32).into(),
            reserved: 0.into(),
        };
        let guids: Vec<u8> = self.whole.iter().flat_map(|guid| guid.0).collect();
        raw.crc = crc32c::crc32c_append(crc32c::crc32c(raw.as_bytes()), &guids).into();
        [raw.as_bytes(), &guids].concat()
    }

    /// Bytes behind the last mailbox are padding.
    pub fn decode(bytes: &[u8]) -> Result<Unfinished, FormatError> {
        let held = bytes.len() as u64;
        let head = size_of::<RawUnfinished>() as u64;
        let (raw, rest) = RawUnfinished::read_from_prefix(bytes)
            .map_err(|_| FormatError::Truncated { held, wanted: head })?;
        if raw.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Version { found: raw.version.get(), known: VERSION });
        }
        let octets = u64::from(raw.mailboxes.get()) * 16;
        let short = FormatError::Truncated { held, wanted: head + octets };
        let guids = usize::try_from(octets).ok().and_then(|octets| rest.get(..octets)).ok_or(short)?;
        let zeroed = RawUnfinished { crc: 0.into(), ..raw };
        if crc32c::crc32c_append(crc32c::crc32c(zeroed.as_bytes()), guids) != raw.crc.get() {
            return Err(FormatError::Checksum { section: "the unfinished rebuild" });
        }
        let (whole, _) = guids.as_chunks::<16>();
        Ok(Unfinished {
            list_whole: raw.bits.get() & LIST_WHOLE != 0,
            whole: whole.iter().map(|guid| Guid(*guid)).collect(),
        })
    }
}

impl Display for Unfinished {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = if self.list_whole { "whole" } else { "lost" };
        write!(f, "rebuild not finished: list of mailboxes {list}, whole mailboxes {}", self.whole.len())?;
        self.whole.iter().try_for_each(|guid| write!(f, " {guid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_octets_that_its_page_shows() {
        let left = Unfinished { list_whole: true, whole: [Guid::INBOX].into() };
        let hex: String = left.encode().iter().map(|octet| format!("{octet:02x}")).collect();
        let head = "43554c5652424c0a0100010087a337cf0100000000000000";
        assert_eq!(hex, format!("{head}{}", "00".repeat(16)));
    }

    #[test]
    fn it_is_read_back_and_any_changed_octet_is_found() {
        let left = Unfinished { list_whole: true, whole: [Guid::INBOX, Guid([7; 16])].into() };
        let bytes = left.encode();
        assert_eq!(Unfinished::decode(&bytes), Ok(left));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Unfinished::decode(&bad).is_err(), "octet {at}");
            assert!(Unfinished::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
