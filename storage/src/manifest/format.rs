//! Manifest: what a partition consists of. See `docs/format/manifest.md`.
//!
//! header (96) · tables (40 each, oldest first) · body objects (32 each, ascending) · gaps (24 each, ascending).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::place::RawObjectId;

pub(crate) const MANIFEST_MAGIC: [u8; 8] = *b"CULVMAN1";
/// Since version 2 gaps may stand behind the objects. Without any, version 1 is written.
pub(crate) const MANIFEST_VERSION: u32 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawManifest {
    pub magic: [u8; 8],
    pub version: U32,
    pub partition: U16,
    pub shard: U16,
    pub epoch: U32,
    pub reserved: U32,
    pub number: U64,
    pub cov_lsn: U64,
    pub cov_epoch: U32,
    pub tables: U32,
    pub objects: U32,
    pub crc: U32,
    pub store: [u8; 16],
    pub gaps: U32,
    pub reserved2: [u8; 20],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawTableRef {
    pub object: RawObjectId,
    pub octets: U64,
    pub accounts: U64,
    pub level: U32,
    pub reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBodyRef {
    pub object: RawObjectId,
    pub live: U64,
    pub total: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawGap {
    pub epoch: U32,
    pub reserved: U32,
    pub of: [u8; 16],
}

const _: () = assert!(size_of::<RawManifest>() == 96);
const _: () = assert!(size_of::<RawGap>() == 24);
const _: () = assert!(size_of::<RawTableRef>() == 40);
const _: () = assert!(size_of::<RawBodyRef>() == 32);
