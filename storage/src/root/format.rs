//! The small objects of a store: identity, owner, low mark, end of a journal. See `docs/format/owner.md`.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const STORE_MAGIC: [u8; 8] = *b"CULVSTO1";
pub(crate) const OWNER_MAGIC: [u8; 8] = *b"CULVOWN1";
pub(crate) const LOW_MAGIC: [u8; 8] = *b"CULVLOW1";
pub(crate) const END_MAGIC: [u8; 8] = *b"CULVEND1";
pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawStore {
    magic: [u8; 8],
    version: U32,
    partitions: U16,
    reserved: U16,
    store: [u8; 16],
    created: I64,
    crc: U32,
    reserved2: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOwner {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    shards: U16,
    reserved: U16,
    journals: U32,
    store: [u8; 16],
    nonce: [u8; 16],
    created: I64,
    crc: U32,
    reserved2: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawJournal {
    epoch: U32,
    shard: U16,
    reserved: U16,
    first: U64,
    last: U64,
    end_lsn: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLow {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    shard: U16,
    reserved: U16,
    crc: U32,
    first: U64,
    store: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEnd {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    shard: U16,
    reserved: U16,
    crc: U32,
    last: U64,
    end_lsn: U64,
    store: [u8; 16],
}

const _: () = assert!(size_of::<RawEnd>() == 56);
const _: () = assert!(size_of::<RawStore>() == 48);
const _: () = assert!(size_of::<RawOwner>() == 72);
const _: () = assert!(size_of::<RawJournal>() == 32);
const _: () = assert!(size_of::<RawLow>() == 48);

/// Who a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreIdentity {
    pub partitions: u16,
    pub store: [u8; 16],
    /// Seconds since 1970, for people.
    pub created: i64,
}

/// An older journal that is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JournalRef {
    pub epoch: u32,
    pub shard: u16,
    /// The first retained segment when this was written; a low mark may have passed it.
    pub first: u64,
    /// Its last segment.
    pub last: u64,
    /// The first lsn that this journal does not have.
    pub end_lsn: u64,
}

/// One link of the owner chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub epoch: u32,
    /// 0 in the link that is made with the store.
    pub shards: u16,
    pub store: [u8; 16],
    pub nonce: [u8; 16],
    pub created: i64,
    pub journals: Vec<JournalRef>,
}

/// How far a journal is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Low {
    pub epoch: u32,
    pub shard: u16,
    pub first: u64,
    pub store: [u8; 16],
}

/// Where a journal ends that was closed in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub epoch: u32,
    pub shard: u16,
    /// Its last segment.
    pub last: u64,
    /// The first lsn that it does not have.
    pub end_lsn: u64,
    pub store: [u8; 16],
}

/// What a small object can be wrong in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SmallFault {
    Broken(&'static str),
    Version(u32),
}

fn judge(magic: bool, crc: bool, version: u32) -> Result<(), SmallFault> {
    match (magic, crc, version) {
        (false, ..) => Err(SmallFault::Broken("another kind of file")),
        (_, false, _) => Err(SmallFault::Broken("the checksum is wrong")),
        (_, _, VERSION) => Ok(()),
        (_, _, found) => Err(SmallFault::Version(found)),
    }
}

const SHORT: SmallFault = SmallFault::Broken("cut short");

impl StoreIdentity {
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawStore {
            magic: STORE_MAGIC,
            version: VERSION.into(),
            partitions: self.partitions.into(),
            reserved: 0.into(),
            store: self.store,
            created: self.created.into(),
            crc: 0.into(),
            reserved2: 0.into(),
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Result<StoreIdentity, SmallFault> {
        let raw = RawStore::read_from_bytes(bytes).map_err(|_| SHORT)?;
        let crc = crc32c::crc32c(RawStore { crc: 0.into(), ..raw }.as_bytes());
        judge(raw.magic == STORE_MAGIC, crc == raw.crc.get(), raw.version.get())?;
        if raw.partitions.get() == 0 {
            return Err(SmallFault::Broken("a store without partitions"));
        }
        Ok(StoreIdentity { partitions: raw.partitions.get(), store: raw.store, created: raw.created.get() })
    }
}

impl Owner {
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawOwner {
            magic: OWNER_MAGIC,
            version: VERSION.into(),
            epoch: self.epoch.into(),
            shards: self.shards.into(),
            reserved: 0.into(),
            journals: (self.journals.len() as u32).into(),
            store: self.store,
            nonce: self.nonce,
            created: self.created.into(),
            crc: 0.into(),
            reserved2: 0.into(),
        };
        let mut out = raw.as_bytes().to_vec();
        for journal in &self.journals {
            let raw = RawJournal {
                epoch: journal.epoch.into(),
                shard: journal.shard.into(),
                reserved: 0.into(),
                first: journal.first.into(),
                last: journal.last.into(),
                end_lsn: journal.end_lsn.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out[OWNER_CRC_AT..OWNER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Owner, SmallFault> {
        let (raw, rest) = RawOwner::read_from_prefix(bytes).map_err(|_| SHORT)?;
        let crc = crc32c::crc32c(RawOwner { crc: 0.into(), ..raw }.as_bytes());
        let crc = crc32c::crc32c_append(crc, rest);
        judge(raw.magic == OWNER_MAGIC, crc == raw.crc.get(), raw.version.get())?;
        let journals = <[RawJournal]>::ref_from_bytes(rest).map_err(|_| SHORT)?;
        if journals.len() != raw.journals.get() as usize {
            return Err(SHORT);
        }
        let journals = journals.iter().map(|raw| JournalRef {
            epoch: raw.epoch.get(),
            shard: raw.shard.get(),
            first: raw.first.get(),
            last: raw.last.get(),
            end_lsn: raw.end_lsn.get(),
        });
        Ok(Owner {
            epoch: raw.epoch.get(),
            shards: raw.shards.get(),
            store: raw.store,
            nonce: raw.nonce,
            created: raw.created.get(),
            journals: journals.collect(),
        })
    }
}

const OWNER_CRC_AT: usize = std::mem::offset_of!(RawOwner, crc);

impl Low {
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawLow {
            magic: LOW_MAGIC,
            version: VERSION.into(),
            epoch: self.epoch.into(),
            shard: self.shard.into(),
            reserved: 0.into(),
            crc: 0.into(),
            first: self.first.into(),
            store: self.store,
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Result<Low, SmallFault> {
        let raw = RawLow::read_from_bytes(bytes).map_err(|_| SHORT)?;
        let crc = crc32c::crc32c(RawLow { crc: 0.into(), ..raw }.as_bytes());
        judge(raw.magic == LOW_MAGIC, crc == raw.crc.get(), raw.version.get())?;
        Ok(Low { epoch: raw.epoch.get(), shard: raw.shard.get(), first: raw.first.get(), store: raw.store })
    }
}

impl End {
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawEnd {
            magic: END_MAGIC,
            version: VERSION.into(),
            epoch: self.epoch.into(),
            shard: self.shard.into(),
            reserved: 0.into(),
            crc: 0.into(),
            last: self.last.into(),
            end_lsn: self.end_lsn.into(),
            store: self.store,
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Result<End, SmallFault> {
        let raw = RawEnd::read_from_bytes(bytes).map_err(|_| SHORT)?;
        let crc = crc32c::crc32c(RawEnd { crc: 0.into(), ..raw }.as_bytes());
        judge(raw.magic == END_MAGIC, crc == raw.crc.get(), raw.version.get())?;
        Ok(End {
            epoch: raw.epoch.get(),
            shard: raw.shard.get(),
            last: raw.last.get(),
            end_lsn: raw.end_lsn.get(),
            store: raw.store,
        })
    }
}
