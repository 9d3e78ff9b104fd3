//! The keyword table: names to ids, and the bitmaps of those keywords that a row's word has no bit for.
//!
//! # Invariants
//! - An id's keyword changes only where no live message has it: at the limit an unused id is given anew.
//! - Side bitmaps hold live UIDs only.
//!
//! # Limits
//! `Limits::keywords_max`; ids 0 to 55 live in the row's word, the others each in a roaring bitmap.

use crate::format::entries_octets;
use crate::{FormatError, IndexError, Limit, Limits};
use culver_model::{FlagSet, Keyword, SystemFlag};
use roaring::RoaringBitmap;

/// The system flags of a row's word.
pub const SYSTEM: u64 = 0x1f;
/// Keywords with a bit in the row's word.
pub const HOT_KEYWORDS: usize = 56;

/// A flag by number: 0 to 7 the system flags' bits, from 8 on the keywords' ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlagId(u16);

impl FlagId {
    pub const fn system(flag: SystemFlag) -> FlagId {
        FlagId(flag.bit().trailing_zeros() as u16)
    }

    /// From a keyword's id: its place in [`crate::MailboxIndex::keywords`].
    pub const fn keyword(id: u16) -> FlagId {
        FlagId(id.saturating_add(8))
    }

    /// Its bit in the row's word, if it has one there.
    pub(crate) const fn hot_bit(self) -> Option<u64> {
        if self.0 < 64 { Some(1 << self.0) } else { None }
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a set of flags is in this mailbox's numbers.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    pub word: u64,
    /// Places in the side bitmaps, ascending.
    pub side: Vec<u16>,
}

#[derive(Clone, Debug, Default)]
pub struct Keywords {
    table: Vec<Keyword>,
    /// Of the keywords from id [`HOT_KEYWORDS`] on; may be shorter than they are.
    side: Vec<RoaringBitmap>,
    /// Of the table's content, so that it tells nothing anew where a mailbox is opened again.
    version: u32,
}

impl Keywords {
    pub fn table(&self) -> &[Keyword] {
        &self.table
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    fn renew_version(&mut self) {
        self.version = self.table.iter().fold(0, |version, keyword| {
            let name = keyword.as_str().as_bytes();
            crc32c::crc32c_append(crc32c::crc32c_append(version, &[name.len() as u8]), name)
        });
    }

    pub fn id(&self, keyword: &Keyword) -> Option<u16> {
        self.table.iter().position(|have| have == keyword).map(|id| id as u16)
    }

    pub fn side(&self) -> &[RoaringBitmap] {
        &self.side
    }

    pub fn side_mut(&mut self) -> &mut [RoaringBitmap] {
        &mut self.side
    }

    pub fn side_of(&self, flag: FlagId) -> Option<&RoaringBitmap> {
        self.side.get(flag.index().checked_sub(64)?)
    }

    /// Ids beyond the word that the message has.
    pub fn side_ids(&self, uid: u32) -> impl Iterator<Item = u16> + use<'_> {
        let side = self.side.iter().enumerate();
        side.filter(move |(_, uids)| uids.contains(uid)).map(|(place, _)| (place + HOT_KEYWORDS) as u16)
    }

    /// The mask of a set, without the keywords that the table does not know.
    pub fn mask(&self, flags: &FlagSet) -> Mask {
        let mut mask = Mask { word: u64::from(flags.system) & SYSTEM, side: Vec::new() };
        for id in flags.keywords.iter().filter_map(|keyword| self.id(keyword)) {
            let id = usize::from(id);
            match id.checked_sub(HOT_KEYWORDS) {
                None => mask.word |= 1 << (id + 8),
                Some(place) => mask.side.push(place as u16),
            }
        }
        mask.side.sort_unstable();
        mask.side.dedup();
        mask
    }

    /// How many of a set's keywords the table does not know.
    /// Keywords that have an id, used or not.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn unknown(&self, flags: &FlagSet) -> usize {
        let mut unknown: Vec<&Keyword> =
            flags.keywords.iter().filter(|keyword| self.id(keyword).is_none()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.len()
    }

    /// Gives ids to a set's unknown keywords; all or none. `used` is asked only at the limit and answers which bits of
    /// the word any live message has. An id whose keyword stands in the same set is not given anew.
    /// `true` where the table changed.
    pub fn admit(
        &mut self,
        flags: &FlagSet,
        limits: &Limits,
        used: impl FnOnce() -> u64,
    ) -> Result<bool, IndexError> {
        let unknown = self.unknown(flags);
        if unknown == 0 {
            return Ok(false);
        }
        let max = limits.keywords_max.min(Limits::KEYWORDS_MAX) as usize;
        let room = max.saturating_sub(self.table.len());
        let mut free = Vec::new();
        if unknown > room {
            let used = used();
            let in_use = |id: usize| match id.checked_sub(HOT_KEYWORDS) {
                None => used & 1 << (id + 8) != 0,
                Some(place) => self.side.get(place).is_some_and(|uids| !uids.is_empty()),
            };
            free = (0..self.table.len())
                .filter(|id| !in_use(*id) && !flags.keywords.contains(&self.table[*id]))
                .take(unknown - room)
                .collect();
            if free.len() + room < unknown {
                let (held, max) = (self.table.len() as u32, max as u32);
                return Err(Limit::Keywords { held, max }.into());
            }
        }
        let mut free = free.into_iter();
        for keyword in &flags.keywords {
            if self.id(keyword).is_some() {
                continue;
            }
            if self.table.len() < max {
                self.table.push(keyword.clone());
            } else if let Some(id) = free.next() {
                self.table[id] = keyword.clone();
            }
        }
        if self.table.len() > HOT_KEYWORDS {
            self.side.resize_with(self.table.len() - HOT_KEYWORDS, RoaringBitmap::new);
        }
        self.renew_version();
        Ok(true)
    }

    /// Sets a message's side keywords to exactly those of the mask.
    pub fn set_side(&mut self, uid: u32, mask: &Mask) -> bool {
        let mut changed = false;
        for (place, uids) in self.side.iter_mut().enumerate() {
            changed |= match mask.side.binary_search(&(place as u16)) {
                Ok(_) => uids.insert(uid),
                Err(_) => uids.remove(uid),
            };
        }
        changed
    }

    pub fn write_table(&self, out: &mut Vec<u8>) -> u64 {
        for keyword in &self.table {
            // Keyword::OCTETS_MAX is 128.
            out.push(keyword.as_str().len() as u8);
            out.extend_from_slice(keyword.as_str().as_bytes());
        }
        self.table.len() as u64
    }

    pub fn write_side(&self, out: &mut Vec<u8>) -> u64 {
        for uids in &self.side {
            out.extend_from_slice(&(uids.serialized_size() as u32).to_le_bytes());
            uids.serialize_into(&mut *out).expect("a Vec takes every write");
        }
        self.side.len() as u64
    }

    pub fn read_table(&mut self, mut bytes: &[u8], count: u64) -> Result<(), FormatError> {
        let wrong = |at: usize| FormatError::Content { what: "keyword", at: at as u64 };
        let mut table: Vec<Keyword> = Vec::new();
        while let Some((octets, rest)) = bytes.split_first() {
            let at = table.len();
            let (name, rest) = rest.split_at_checked(usize::from(*octets)).ok_or(wrong(at))?;
            let keyword = std::str::from_utf8(name).ok().and_then(Keyword::new).ok_or(wrong(at))?;
            if table.len() >= Limits::KEYWORDS_MAX as usize {
                return Err(wrong(at));
            }
            table.push(keyword);
            bytes = rest;
        }
        if table.len() as u64 != count {
            return Err(FormatError::Count { what: "keywords", said: count, found: table.len() as u64 });
        }
        self.table = table;
        self.renew_version();
        self.side.resize_with(self.table.len().saturating_sub(HOT_KEYWORDS), RoaringBitmap::new);
        Ok(())
    }

    pub fn read_side(&mut self, mut bytes: &[u8], count: u64) -> Result<(), FormatError> {
        let wrong = |at: u64| FormatError::Content { what: "side keyword", at };
        if count != self.side.len() as u64 {
            return Err(FormatError::Count {
                what: "side keywords",
                said: count,
                found: self.side.len() as u64,
            });
        }
        for (at, uids) in self.side.iter_mut().enumerate() {
            let at = at as u64;
            let (octets, rest) = bytes.split_first_chunk::<4>().ok_or(wrong(at))?;
            let octets = u32::from_le_bytes(*octets) as usize;
            let (bitmap, rest) = rest.split_at_checked(octets).ok_or(wrong(at))?;
            *uids = RoaringBitmap::deserialize_from(bitmap).map_err(|_| wrong(at))?;
            bytes = rest;
        }
        if bytes.is_empty() { Ok(()) } else { Err(wrong(count)) }
    }

    pub fn memory_octets(&self) -> usize {
        let names: usize = self.table.iter().map(|keyword| keyword.as_str().len()).sum();
        let side: usize = self.side.iter().map(RoaringBitmap::serialized_size).sum();
        names + side + entries_octets(&self.table) + entries_octets(&self.side)
    }
}
