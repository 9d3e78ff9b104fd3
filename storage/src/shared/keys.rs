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

/// What a journal object would have been, had its journal not been sealed before it came.
pub(crate) fn late(incarnation: Incarnation, seq: u64) -> String {
    format!("late/{incarnation}/{seq}")
}

/// How much there is of it.
pub(crate) fn late_end(incarnation: Incarnation) -> String {
    format!("late/{incarnation}/end")
}

/// That every partition has what it needs of it, so that it may be gone.
pub(crate) fn late_done(incarnation: Incarnation) -> String {
    format!("late/{incarnation}/done")
}

/// That a partition has what came late of a journal.
pub(crate) fn merged(incarnation: Incarnation, partition: PartitionId) -> String {
    format!("merged/{incarnation}/{partition}")
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

/// The object of a key of [`data`]; `None` for what has no such key.
pub(crate) fn parse_data(partition: PartitionId, key: &str) -> Option<ObjectId> {
    let rest = key.strip_prefix(&format!("data/{partition}/"))?;
    let (epoch, rest) = rest.split_once('/')?;
    let (name, kind) = rest.split_once('.')?;
    let (shard, number) = name.split_once('-')?;
    let kind = match kind {
        "pack" => ObjectKind::Pack,
        "table" => ObjectKind::Table,
        "manifest" => ObjectKind::Manifest,
        _ => return None,
    };
    let id = ObjectId {
        kind,
        shard: shard.parse().ok()?,
        epoch: epoch.parse().ok()?,
        number: number.parse().ok()?,
    };
    // One way to write each.
    (data(partition, id) == key).then_some(id)
}

/// The journal and number of a key of [`journal`].
pub(crate) fn parse_journal(key: &str) -> Option<(Incarnation, u64)> {
    let (name, seq) = key.strip_prefix("journal/")?.split_once('/')?;
    let (incarnation, seq) = (Incarnation::parse(name)?, seq.parse().ok()?);
    (journal(incarnation, seq) == key).then_some((incarnation, seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_as_they_are_written_and_no_others() {
        let id = ObjectId { kind: ObjectKind::Pack, shard: 3, epoch: 7, number: 42 };
        assert_eq!(parse_data(PartitionId(9), &data(PartitionId(9), id)), Some(id));
        let seventh = Incarnation([0xa7; 16]);
        assert_eq!(parse_journal(&journal(seventh, 8)), Some((seventh, 8)));
        for other in
            ["data/9/7/3-42.pac", "data/9/07/3-42.pack", "data/8/7/3-42.pack", "data/9/7/342.pack", "x"]
        {
            assert_eq!(parse_data(PartitionId(9), other), None, "{other}");
        }
        for other in ["journal/a7/8", "journal/", "low/1/2", &journal(seventh, 8).to_uppercase()] {
            assert_eq!(parse_journal(other), None, "{other}");
        }
    }

    #[test]
    fn keys_name_partition_epoch_and_object() {
        let id = ObjectId { kind: ObjectKind::Table, shard: 1, epoch: 7, number: 42 };
        assert_eq!(data(PartitionId(9), id), "data/9/7/1-42.table");
        assert_eq!(owner(PartitionId(9), 7), "owner/9/7");
        assert_eq!(journal(Incarnation([1; 16]), 3), format!("journal/{}/3", "01".repeat(16)));
        assert_eq!(freed(Incarnation([1; 16]), PartitionId(9), 7), format!("freed/{}/9/7", "01".repeat(16)));
    }
}
