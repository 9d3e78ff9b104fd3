//! Where each file stands under the root directory.

use std::path::{Path, PathBuf};

use culver_model::PartitionId;

use crate::place::{ObjectId, ObjectKind};

/// The directory of a store.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub fn new(root: &Path) -> Paths {
        Paths { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("STORE")
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub fn owners(&self) -> PathBuf {
        self.root.join("owner/all")
    }

    pub fn owner(&self, epoch: u32) -> PathBuf {
        self.root.join(format!("owner/all/{epoch}"))
    }

    pub fn journals(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub fn journal(&self, epoch: u32, shard: u16) -> PathBuf {
        self.root.join(format!("journal/{epoch}-{shard}"))
    }

    pub fn segment(&self, epoch: u32, shard: u16, number: u64) -> PathBuf {
        self.root.join(format!("journal/{epoch}-{shard}/{number}"))
    }

    pub fn reserve(&self, shard: u16) -> PathBuf {
        self.root.join(format!("reserve-{shard}"))
    }

    /// What a start gives up to add its owner on a full disk.
    pub fn start_reserve(&self) -> PathBuf {
        self.root.join("reserve-start")
    }

    pub fn lows(&self) -> PathBuf {
        self.root.join("low")
    }

    pub fn low(&self, epoch: u32, shard: u16) -> PathBuf {
        self.root.join(format!("low/{epoch}-{shard}"))
    }

    pub fn ends(&self) -> PathBuf {
        self.root.join("end")
    }

    pub fn end(&self, epoch: u32, shard: u16) -> PathBuf {
        self.root.join(format!("end/{epoch}-{shard}"))
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn partition(&self, partition: PartitionId) -> PathBuf {
        self.root.join(format!("data/{partition}"))
    }

    pub fn object(&self, partition: PartitionId, id: ObjectId) -> PathBuf {
        match id.kind {
            ObjectKind::Segment => self.segment(id.epoch, id.shard, id.number),
            _ => self.root.join(format!("data/{partition}/{id}")),
        }
    }
}

/// The object a file name of `data/<partition>/` stands for.
pub(crate) fn parse_data_name(name: &str) -> Option<ObjectId> {
    let (stem, extension) = name.split_once('.')?;
    let kind = match extension {
        "pack" => ObjectKind::Pack,
        "table" => ObjectKind::Table,
        "manifest" => ObjectKind::Manifest,
        _ => return None,
    };
    let mut parts = stem.splitn(3, '-');
    let id = ObjectId {
        kind,
        epoch: parts.next()?.parse().ok()?,
        shard: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
    };
    (id.to_string() == name).then_some(id)
}

/// The epoch and shard a name of `journal/`, `low/` or `end/` stands for.
pub(crate) fn parse_journal_name(name: &str) -> Option<(u32, u16)> {
    let (epoch, shard) = name.split_once('-')?;
    let id = (epoch.parse().ok()?, shard.parse().ok()?);
    (format!("{}-{}", id.0, id.1) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_strange_ones_are_not() {
        let id = ObjectId { kind: ObjectKind::Table, shard: 1, epoch: 7, number: 42 };
        assert_eq!(parse_data_name("7-1-42.table"), Some(id));
        assert_eq!(id.to_string(), "7-1-42.table");
        for name in ["7-1-42", "7-1-42.tmp", "07-1-42.table", "7-1.table", "a-1-2.pack", "7-1-42-3.pack", ""]
        {
            assert_eq!(parse_data_name(name), None, "{name}");
        }
        assert_eq!(parse_journal_name("3-0"), Some((3, 0)));
        assert_eq!(parse_journal_name("3-00"), None);
        assert_eq!(parse_journal_name("3"), None);
    }
}
