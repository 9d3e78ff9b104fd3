//! Keys of a shared store's objects.

use culver_model::PartitionId;

use super::format::Incarnation;
use crate::place::{ObjectId, ObjectKind};

pub(crate) const STORE: &str = "STORE";

pub(crate) fn owner(partition: PartitionId, epoch: u32) -> String {
    format!("owner/{partition}/{epoch}")
}

pub(crate) fn journal(incarnation: Incarnation, seq: u64) -> String {
    format!("journal/{incarnation}/{seq}")
}

pub(crate) fn low(incarnation: Incarnation, k: u64) -> String {
    format!("low/{incarnation}/{k}")
}

pub(crate) fn freed(incarnation: Incarnation, partition: PartitionId, epoch: u32) -> String {
    format!("freed/{incarnation}/{partition}/{epoch}")
}

/// The key of a pack, table or manifest.
///
/// # Panics
/// For a journal object, whose key needs its incarnation.
pub(crate) fn data(partition: PartitionId, id: ObjectId) -> String {
    let kind = match id.kind {
        ObjectKind::Pack => "pack",
        ObjectKind::Table => "table",
        ObjectKind::Manifest => "manifest",
        ObjectKind::Segment => unreachable!("a journal object is named by its incarnation"),
    };
    let ObjectId { shard, epoch, number, .. } = id;
    format!("data/{partition}/{epoch}/{shard}-{number}.{kind}")
}

/// The partition and object that a key below `data/` stands for.
pub(crate) fn parse_data(key: &str) -> Option<(PartitionId, ObjectId)> {
    let mut parts = key.strip_prefix("data/")?.splitn(3, '/');
    let (partition, epoch, name) = (parts.next()?, parts.next()?, parts.next()?);
    let (stem, kind) = name.split_once('.')?;
    let (shard, number) = stem.split_once('-')?;
    let kind = match kind {
        "pack" => ObjectKind::Pack,
        "table" => ObjectKind::Table,
        "manifest" => ObjectKind::Manifest,
        _ => return None,
    };
    let partition = PartitionId(partition.parse().ok()?);
    let id = ObjectId {
        kind,
        shard: shard.parse().ok()?,
        epoch: epoch.parse().ok()?,
        number: number.parse().ok()?,
    };
    (data(partition, id) == key).then_some((partition, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_data_are_read_back_and_strange_ones_are_not() {
        let id = ObjectId { kind: ObjectKind::Table, shard: 1, epoch: 7, number: 42 };
        assert_eq!(data(PartitionId(9), id), "data/9/7/1-42.table");
        assert_eq!(parse_data("data/9/7/1-42.table"), Some((PartitionId(9), id)));
        for strange in ["data/9/7/1-42", "data/09/7/1-42.pack", "data/9/7/x-1.pack", "owner/9/7", "data/9/7"] {
            assert_eq!(parse_data(strange), None, "{strange}");
        }
        assert_eq!(journal(Incarnation([1; 16]), 3), format!("journal/{}/3", "01".repeat(16)));
    }
}
