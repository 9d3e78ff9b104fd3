//! Keys of a shared store's objects.

use culver_model::PartitionId;

use super::format::Incarnation;
use crate::fault::{self, Fault};
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
    // H8: two owners never have one name.
    let epoch = if fault::on(Fault::NamesWithoutEpoch) { 0 } else { epoch };
    format!("data/{partition}/{epoch}/{shard}-{number}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_partition_epoch_and_object() {
        let id = ObjectId { kind: ObjectKind::Table, shard: 1, epoch: 7, number: 42 };
        assert_eq!(data(PartitionId(9), id), "data/9/7/1-42.table");
        assert_eq!(owner(PartitionId(9), 7), "owner/9/7");
        assert_eq!(journal(Incarnation([1; 16]), 3), format!("journal/{}/3", "01".repeat(16)));
        assert_eq!(freed(Incarnation([1; 16]), PartitionId(9), 7), format!("freed/{}/9/7", "01".repeat(16)));
    }
}
