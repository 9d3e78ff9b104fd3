//! The manifest of a partition, as a value.

mod format;

use std::collections::BTreeMap;

use culver_model::PartitionId;
use zerocopy::{FromBytes, IntoBytes};

use self::format::{MANIFEST_VERSION, RawBodyRef, RawGap, RawManifest, RawTableRef};
use crate::place::{ObjectId, ObjectKind, Position};
use crate::shared::format::{Gap, Incarnation};

pub(crate) use self::format::MANIFEST_MAGIC;

/// One table of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableRef {
    pub object: ObjectId,
    pub octets: u64,
    pub accounts: u64,
    /// How often its content was merged; only a hint for choosing what to merge.
    pub level: u32,
}

/// How much of an object belongs to the partition, in octets of frames. `live` is an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub live: u64,
    pub total: u64,
}

/// What a partition consists of: all of its records before `cov`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub partition: PartitionId,
    pub object: ObjectId,
    pub store: [u8; 16],
    pub cov: Position,
    /// Oldest first.
    pub tables: Vec<TableRef>,
    /// Segments and packs with bodies of the partition.
    pub bodies: BTreeMap<ObjectId, Share>,
    /// Epochs that began with a gap, ascending: of accounts that were not flushed since, every one still counts.
    pub gaps: Vec<Gap>,
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawManifest {
            magic: MANIFEST_MAGIC,
            version: if self.gaps.is_empty() { 1 } else { MANIFEST_VERSION }.into(),
            partition: self.partition.0.into(),
            shard: self.object.shard.into(),
            epoch: self.object.epoch.into(),
            reserved: 0.into(),
            number: self.object.number.into(),
            cov_lsn: self.cov.lsn.into(),
            cov_epoch: self.cov.epoch.into(),
            tables: (self.tables.len() as u32).into(),
            objects: (self.bodies.len() as u32).into(),
            crc: 0.into(),
            store: self.store,
            gaps: (self.gaps.len() as u32).into(),
            reserved2: [0; 20],
        };
        let mut out = raw.as_bytes().to_vec();
        for table in &self.tables {
            let raw = RawTableRef {
                object: table.object.into(),
                octets: table.octets.into(),
                accounts: table.accounts.into(),
                level: table.level.into(),
                reserved: 0.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
        for (object, share) in &self.bodies {
            let raw =
                RawBodyRef { object: (*object).into(), live: share.live.into(), total: share.total.into() };
            out.extend_from_slice(raw.as_bytes());
        }
        for gap in &self.gaps {
            let raw = RawGap { epoch: gap.epoch.into(), reserved: 0.into(), of: gap.of.0 };
            out.extend_from_slice(raw.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let (raw, rest) =
            RawManifest::read_from_prefix(bytes).map_err(|_| "manifest cut short".to_owned())?;
        if raw.magic != MANIFEST_MAGIC {
            return Err("another kind of file".into());
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        if crc32c::crc32c_append(crc, &bytes[CRC_AT + 4..]) != raw.crc.get() {
            return Err("manifest's checksum is wrong".into());
        }
        if !(1..=MANIFEST_VERSION).contains(&raw.version.get()) {
            return Err(format!("format version {}, this program reads {MANIFEST_VERSION}", raw.version));
        }
        let short = "manifest's sizes do not agree";
        let (tables, rest) = <[RawTableRef]>::ref_from_prefix_with_elems(rest, raw.tables.get() as usize)
            .map_err(|_| short.to_owned())?;
        let (bodies, rest) = <[RawBodyRef]>::ref_from_prefix_with_elems(rest, raw.objects.get() as usize)
            .map_err(|_| short.to_owned())?;
        let gaps = <[RawGap]>::ref_from_bytes_with_elems(rest, raw.gaps.get() as usize)
            .map_err(|_| short.to_owned())?;
        // Sizes may agree by chance where a field that version 1 reserves is set.
        let ascending = gaps.is_sorted_by(|a, b| a.epoch.get() < b.epoch.get());
        if !ascending || (raw.version.get() == 1 && !gaps.is_empty()) {
            return Err(short.to_owned());
        }
        let gaps = gaps.iter().map(|raw| Gap { epoch: raw.epoch.get(), of: Incarnation(raw.of) });
        let tables = tables.iter().map(|raw| {
            Some(TableRef {
                object: raw.object.get().filter(|id| id.kind == ObjectKind::Table)?,
                octets: raw.octets.get(),
                accounts: raw.accounts.get(),
                level: raw.level.get(),
            })
        });
        let bodies = bodies.iter().map(|raw| {
            let holds = |id: &ObjectId| matches!(id.kind, ObjectKind::Segment | ObjectKind::Pack);
            let share = Share { live: raw.live.get(), total: raw.total.get() };
            Some((raw.object.get().filter(holds)?, share))
        });
        let strange = || "manifest names an impossible object".to_owned();
        Ok(Manifest {
            partition: PartitionId(raw.partition.get()),
            object: ObjectId {
                kind: ObjectKind::Manifest,
                shard: raw.shard.get(),
                epoch: raw.epoch.get(),
                number: raw.number.get(),
            },
            store: raw.store,
            cov: Position { epoch: raw.cov_epoch.get(), lsn: raw.cov_lsn.get() },
            tables: tables.collect::<Option<_>>().ok_or_else(strange)?,
            bodies: bodies.collect::<Option<_>>().ok_or_else(strange)?,
            gaps: gaps.collect(),
        })
    }
}

/// See [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend(manifest: &mut [u8]) {
    crate::fuzzing::put_crc(manifest, CRC_AT);
}

const CRC_AT: usize = std::mem::offset_of!(RawManifest, crc);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_read_back_and_any_changed_octet_is_found() {
        let id = |kind, number| ObjectId { kind, shard: 1, epoch: 2, number };
        let manifest = Manifest {
            partition: PartitionId(5),
            object: id(ObjectKind::Manifest, 9),
            store: [7; 16],
            cov: Position { epoch: 2, lsn: 40 },
            tables: vec![TableRef { object: id(ObjectKind::Table, 8), octets: 4096, accounts: 3, level: 1 }],
            bodies: [(id(ObjectKind::Segment, 1), Share { live: 10, total: 20 })].into(),
            gaps: Vec::new(),
        };
        let gap = Gap { epoch: 2, of: Incarnation([3; 16]) };
        for (version, gaps) in [(1, vec![]), (2, vec![gap])] {
            let manifest = Manifest { gaps, ..manifest.clone() };
            let bytes = manifest.encode();
            assert_eq!(bytes[8], version, "a manifest without gaps is one that older programs read");
            assert_eq!(Manifest::parse(&bytes), Ok(manifest));
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert!(Manifest::parse(&bad).is_err(), "octet {at}");
                assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
