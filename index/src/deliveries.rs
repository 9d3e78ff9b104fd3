//! The ids of an account's latest deliveries: what is sent again because its answer was lost is known by them.
//!
//! A base holds all of them, a delta those that came since the block before it. Layout, version 1, little-endian, in
//! `docs/format/deliveries.md`.
//!
//! # Invariants
//! - What is known follows from the ids and times noted, in their order, and from nothing else: a replay knows the same.
//! - A delta holds every id noted since the block before it; where one of them is gone already, a base is due.
//!
//! # Limits
//! [`DELIVERIES_MAX`] ids, none older than [`AGE_SECONDS_MAX`] by the time of the newest.

use crate::{BlockKind, FormatError};
use culver_model::DeliveryId;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"CULVDLV\n";
const VERSION: u16 = 1;
/// Ids that an account keeps. Whoever heard no answer comes again within minutes (Postfix 5, Exim 15), at the latest after an
/// hour or so once the server is back: so many are two a minute for an hour, and the mail of a day or two for a person.
pub const DELIVERIES_MAX: usize = 128;
/// How long an id is known: a mail transfer agent gives a message up after five days.
pub const AGE_SECONDS_MAX: u32 = 5 * 24 * 3600;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    reserved: U16,
    /// CRC-32C of all that follows this field, to the end of the entries.
    crc: U32,
    /// 1 base, 2 delta.
    kind: U32,
    entries: U32,
    reserved_tail: [u8; 8],
}
const _: () = assert!(size_of::<Header>() == 32);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    id: [u8; DeliveryId::OCTETS],
    /// Seconds since 1970.
    at: U32,
}
const _: () = assert!(size_of::<Entry>() == 16);

/// The ids, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    ids: VecDeque<(DeliveryId, u32)>,
    /// Changes so far, and how many of them stand in blocks.
    noted: u64,
    stored: u64,
}

/// Ids on their way into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveriesToken(u64);

/// What is known is what counts, not how much of it is stored.
impl PartialEq for Deliveries {
    fn eq(&self, other: &Deliveries) -> bool {
        self.ids == other.ids
    }
}

impl Deliveries {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether a delivery of this id was noted and is not too old. `now`: seconds since 1970.
    pub fn knows(&self, id: &DeliveryId, now: i64) -> bool {
        let now = seconds(now);
        self.ids.iter().any(|(known, at)| known == id && at.saturating_add(AGE_SECONDS_MAX) >= now)
    }

    /// Notes a delivery; the oldest ones make room.
    pub fn note(&mut self, id: DeliveryId, now: i64) {
        let now = seconds(now);
        let old = |(_, at): &(DeliveryId, u32)| at.saturating_add(AGE_SECONDS_MAX) < now;
        while self.ids.len() >= DELIVERIES_MAX || self.ids.front().is_some_and(old) {
            self.ids.pop_front();
        }
        self.ids.push_back((id, now));
        self.noted += 1;
    }

    /// Forgets all of them: the account is another one now.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.noted += 1;
    }

    /// Whether there is something to store.
    pub fn dirty(&self) -> bool {
        self.noted != self.stored
    }

    /// Whether a delta would do: it is much smaller than a base, and holds all that changed.
    pub fn fits_delta(&self) -> bool {
        let news = self.noted - self.stored;
        usize::try_from(news).is_ok_and(|news| news <= self.ids.len() / 2)
    }

    /// A block, and what to note once it is stored. A delta only where [`Deliveries::fits_delta`] says so.
    pub fn encode(&self, kind: BlockKind) -> (Vec<u8>, DeliveriesToken) {
        let from = match kind {
            BlockKind::Base => 0,
            BlockKind::Delta => {
                assert!(self.fits_delta(), "a delta that does not hold what changed");
                self.ids.len() - (self.noted - self.stored) as usize
            }
        };
        let entries = self.ids.range(from..);
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            crc: 0.into(),
            kind: if kind == BlockKind::Base { 1 } else { 2 }.into(),
            entries: (entries.len() as u32).into(),
            reserved_tail: [0; 8],
        };
        let mut bytes = header.as_bytes().to_vec();
        for (id, at) in entries {
            bytes.extend_from_slice(Entry { id: id.0, at: (*at).into() }.as_bytes());
        }
        header.crc = crc32c::crc32c(&bytes[16..]).into();
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        (bytes, DeliveriesToken(self.noted))
    }

    /// The block is stored. Blocks are stored in the order in which they were made.
    pub fn mark_stored(&mut self, token: DeliveriesToken) {
        self.stored = self.stored.max(token.0);
    }

    /// From a base and the deltas on it, oldest first.
    pub fn load<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Result<Deliveries, FormatError> {
        let mut deliveries = Deliveries::default();
        for (nth, block) in blocks.into_iter().enumerate() {
            let (kind, entries) = parse(block)?;
            if (kind == BlockKind::Base) != (nth == 0) {
                return Err(FormatError::Foreign);
            }
            let entries = entries.iter().map(|entry| (DeliveryId(entry.id), entry.at.get()));
            match kind {
                BlockKind::Base => deliveries.ids.extend(entries),
                BlockKind::Delta => entries.for_each(|(id, at)| deliveries.note(id, i64::from(at))),
            }
        }
        deliveries.stored = deliveries.noted;
        Ok(deliveries)
    }
}

fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

/// Proves the checksum; octets behind the entries are padding.
fn parse(bytes: &[u8]) -> Result<(BlockKind, &[Entry]), FormatError> {
    let held = bytes.len() as u64;
    let wanted = size_of::<Header>() as u64;
    let (header, rest) =
        Header::read_from_prefix(bytes).map_err(|_| FormatError::Truncated { held, wanted })?;
    if header.magic != MAGIC {
        return Err(FormatError::Magic);
    }
    let found = header.version.get();
    if found == 0 || found > VERSION {
        return Err(FormatError::Version { found, known: VERSION });
    }
    let count = header.entries.get() as usize;
    let wanted = wanted + count as u64 * size_of::<Entry>() as u64;
    let (entries, _) = <[Entry]>::ref_from_prefix_with_elems(rest, count)
        .map_err(|_| FormatError::Truncated { held, wanted })?;
    let whole = usize::try_from(wanted).ok().and_then(|octets| bytes.get(16..octets));
    if whole.map(crc32c::crc32c) != Some(header.crc.get()) {
        return Err(FormatError::Checksum { section: "deliveries" });
    }
    if count > DELIVERIES_MAX {
        return Err(FormatError::Content { what: "more deliveries than are kept", at: count as u64 });
    }
    match header.kind.get() {
        1 => Ok((BlockKind::Base, entries)),
        2 => Ok((BlockKind::Delta, entries)),
        _ => Err(FormatError::Foreign),
    }
}

/// A block in lines of text.
pub fn dump(bytes: &[u8]) -> Result<impl Display + use<>, FormatError> {
    let (kind, entries) = parse(bytes)?;
    Ok(Dump { kind, entries: entries.to_vec() })
}

struct Dump {
    kind: BlockKind,
    entries: Vec<Entry>,
}

impl Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "deliveries, {:?}, {} entries", self.kind, self.entries.len())?;
        for entry in &self.entries {
            let seconds = i64::from(entry.at.get());
            let date = culver_model::InternalDate { seconds, zone_minutes: 0 }.format();
            writeln!(f, "  delivery {} {:?}", DeliveryId(entry.id), date.trim_start())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> DeliveryId {
        let mut octets = [0; DeliveryId::OCTETS];
        octets[..4].copy_from_slice(&number.to_le_bytes());
        DeliveryId(octets)
    }

    /// As a flush does it.
    fn store(deliveries: &mut Deliveries, blocks: &mut Vec<Vec<u8>>) {
        let whole = blocks.is_empty() || !deliveries.fits_delta();
        if whole {
            blocks.clear();
        }
        let (block, token) = deliveries.encode(if whole { BlockKind::Base } else { BlockKind::Delta });
        blocks.push(block);
        deliveries.mark_stored(token);
        assert!(!deliveries.dirty());
    }

    fn again(blocks: &[Vec<u8>]) -> Deliveries {
        Deliveries::load(blocks.iter().map(|block| &block[..])).expect("whole")
    }

    #[test]
    fn the_oldest_make_room_and_none_is_known_for_longer_than_five_days() {
        let mut deliveries = Deliveries::default();
        for number in 0..DELIVERIES_MAX as u32 + 3 {
            deliveries.note(id(number), 1000);
        }
        assert_eq!(deliveries.len(), DELIVERIES_MAX);
        assert!(!deliveries.knows(&id(2), 1000) && deliveries.knows(&id(3), 1000));
        let last = 1000 + i64::from(AGE_SECONDS_MAX);
        assert!(deliveries.knows(&id(3), last) && !deliveries.knows(&id(3), last + 1));
        // A clock that went back makes nothing old.
        assert!(deliveries.knows(&id(3), -5));
        deliveries.note(id(9999), last + 1);
        assert_eq!(deliveries.len(), 1);
    }

    #[test]
    fn base_and_deltas_give_what_was_noted_whenever_they_were_stored() {
        for step in [1, 2, 7, 63, 64, 65, 200] {
            let (mut deliveries, mut blocks) = (Deliveries::default(), Vec::new());
            for number in 0..700 {
                // Now and then a day passes.
                deliveries.note(id(number), i64::from(number / 50) * 86_400);
                if number % step == 0 {
                    store(&mut deliveries, &mut blocks);
                    assert_eq!(again(&blocks), deliveries, "after {number} by {step}");
                }
                if number == 333 {
                    deliveries.clear();
                }
            }
            assert!(again(&blocks).len() <= DELIVERIES_MAX);
        }
    }

    #[test]
    fn what_was_noted_while_a_block_was_stored_comes_with_the_next() {
        let (mut deliveries, mut blocks) = (Deliveries::default(), Vec::new());
        (0..10).for_each(|number| deliveries.note(id(number), 5));
        let (base, token) = deliveries.encode(BlockKind::Base);
        deliveries.note(id(10), 6);
        deliveries.mark_stored(token);
        assert!(deliveries.dirty());
        blocks.push(base);
        store(&mut deliveries, &mut blocks);
        assert_eq!((blocks.len(), again(&blocks)), (2, deliveries));
    }

    /// The example in `docs/format/deliveries.md`.
    #[test]
    fn a_block_writes_the_bytes_it_always_wrote() {
        let mut deliveries = Deliveries::default();
        (0..4).for_each(|number| deliveries.note(id(number), 5));
        deliveries.mark_stored(deliveries.encode(BlockKind::Base).1);
        deliveries.note(id(4), 6);
        let (delta, _) = deliveries.encode(BlockKind::Delta);
        let text: String = delta.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(
            text,
            "43554c56444c560a0100000091a28851\
             02000000010000000000000000000000\
             04000000000000000000000006000000"
        );
    }

    #[test]
    fn every_flipped_octet_is_found_and_blocks_stand_in_their_order() {
        let mut deliveries = Deliveries::default();
        (0..4).for_each(|number| deliveries.note(id(number), 5));
        let (base, token) = deliveries.encode(BlockKind::Base);
        deliveries.mark_stored(token);
        deliveries.note(id(4), 6);
        let (delta, _) = deliveries.encode(BlockKind::Delta);
        for at in 0..base.len() {
            let mut damaged = base.clone();
            damaged[at] ^= 1;
            // The two octets beside the version stand outside the checksum and mean nothing yet.
            assert!((10..12).contains(&at) || Deliveries::load([&damaged[..]]).is_err(), "octet {at}");
            assert!(Deliveries::load([&base[..at]]).is_err());
        }
        assert!(Deliveries::load([&delta[..]]).is_err());
        assert!(Deliveries::load([&base[..], &base[..]]).is_err());
        let text = dump(&delta).expect("whole").to_string();
        assert_eq!(
            text,
            "deliveries, Delta, 1 entries\n  delivery 040000000000000000000000 \"1-Jan-1970 00:00:06 +0000\"\n"
        );
    }
}
