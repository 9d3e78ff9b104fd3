//! Names of what is stored: objects, places in them, positions in a journal.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What kind of file an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    Segment = 1,
    Pack = 2,
    Table = 3,
    Manifest = 4,
}

impl ObjectKind {
    pub(crate) fn from_u8(value: u8) -> Option<ObjectKind> {
        Some(match value {
            1 => ObjectKind::Segment,
            2 => ObjectKind::Pack,
            3 => ObjectKind::Table,
            4 => ObjectKind::Manifest,
            _ => return None,
        })
    }
}

/// The name of an immutable object. Never used twice: the epoch is new at each start of a process, and `number` only
/// grows on a shard within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    pub kind: ObjectKind,
    pub shard: u16,
    pub epoch: u32,
    pub number: u64,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectId { kind, shard, epoch, number } = self;
        match kind {
            ObjectKind::Segment => write!(f, "journal/{epoch}-{shard}/{number}"),
            ObjectKind::Pack => write!(f, "{epoch}-{shard}-{number}.pack"),
            ObjectKind::Table => write!(f, "{epoch}-{shard}-{number}.table"),
            ObjectKind::Manifest => write!(f, "{epoch}-{shard}-{number}.manifest"),
        }
    }
}

/// 16 octets, little-endian: how an [`ObjectId`] is stored.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawObjectId {
    kind: u8,
    reserved: u8,
    shard: U16,
    epoch: U32,
    number: U64,
}

const _: () = assert!(size_of::<RawObjectId>() == 16);

impl RawObjectId {
    pub(crate) fn get(&self) -> Option<ObjectId> {
        (self.reserved == 0).then_some(())?;
        Some(ObjectId {
            kind: ObjectKind::from_u8(self.kind)?,
            shard: self.shard.get(),
            epoch: self.epoch.get(),
            number: self.number.get(),
        })
    }
}

impl From<ObjectId> for RawObjectId {
    fn from(id: ObjectId) -> RawObjectId {
        RawObjectId {
            kind: id.kind as u8,
            reserved: 0,
            shard: id.shard.into(),
            epoch: id.epoch.into(),
            number: id.number.into(),
        }
    }
}

/// Where a body stands: the object, the octet its frame begins at, and how many plain octets it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub object: ObjectId,
    pub offset: u64,
    pub length: u64,
}

/// The number of a journal object in the places of its own records, which are written before it has one. Their offsets
/// count from the record's beginning.
pub(crate) const HERE: u64 = u64::MAX;

/// Resolves the places that stand in the record at `offset` of `segment`.
pub(crate) fn here(places: &mut [Place], segment: ObjectId, offset: u64) {
    for place in places {
        if place.object.kind == ObjectKind::Segment && place.object.number == HERE {
            place.object = segment;
            place.offset += offset;
        }
    }
}

/// 32 octets, little-endian: how a [`Place`] is stored.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPlace {
    object: RawObjectId,
    offset: U64,
    length: U64,
}

const _: () = assert!(size_of::<RawPlace>() == 32);

impl RawPlace {
    pub(crate) fn get(&self) -> Option<Place> {
        let object = self.object.get()?;
        matches!(object.kind, ObjectKind::Segment | ObjectKind::Pack).then_some(())?;
        Some(Place { object, offset: self.offset.get(), length: self.length.get() })
    }
}

impl From<Place> for RawPlace {
    fn from(place: Place) -> RawPlace {
        RawPlace { object: place.object.into(), offset: place.offset.into(), length: place.length.into() }
    }
}

impl Place {
    pub const OCTETS: usize = 32;

    /// The stored form, which the index keeps as it is.
    pub fn to_bytes(&self) -> [u8; 32] {
        zerocopy::transmute!(RawPlace::from(*self))
    }

    /// `None` where the octets name no object that can hold a body.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Place> {
        let raw: RawPlace = zerocopy::transmute!(*bytes);
        raw.get()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.object, self.offset, self.length)
    }
}

/// The position of a record: its owner's epoch, then its number in that owner's journal of the shard. Records of one
/// account are totally ordered by it, for an account has one shard in one epoch. The default lies before all records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub epoch: u32,
    pub lsn: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_has_one_form_of_32_octets() {
        let object = ObjectId { kind: ObjectKind::Pack, shard: 3, epoch: 0x01020304, number: 0x1122 };
        let place = Place { object, offset: 4096, length: 77 };
        let bytes = place.to_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0200030004030201221100000000000000100000000000004d00000000000000");
        assert_eq!(Place::from_bytes(&bytes), Some(place));
        for (at, value) in [(0, 0), (0, 3), (0, 9), (1, 1)] {
            let mut bad = bytes;
            bad[at] = value;
            assert_eq!(Place::from_bytes(&bad), None, "{at} {value}");
        }
    }
}
