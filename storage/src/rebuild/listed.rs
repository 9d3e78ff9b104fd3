//! A manifest that was lost, as far as what is listed of its partition can stand in for it.
//!
//! All tables that are listed are taken, in the order in which they were written. Whether one of them is missing nobody can
//! tell, so that the last one is a table that was given up: no account is taken for whole before it is rebuilt.

use std::collections::BTreeMap;

use culver_model::PartitionId;

use crate::error::ReadError;
use crate::journal::format::FlushMeta;
use crate::manifest::{Manifest, Share, TableRef};
use crate::objects::ObjectFile;
use crate::place::{ObjectId, ObjectKind};
use crate::table::format::{FOOTER_OCTETS, Footer};

/// One object that is listed, and its octets.
pub(crate) struct Listed {
    pub object: ObjectId,
    pub octets: u64,
    /// Of a table that can be read: how many accounts it has.
    pub accounts: Option<u64>,
}

/// The manifest that a Flush named, of what is listed.
pub(crate) fn manifest_of(
    partition: PartitionId,
    meta: &FlushMeta,
    store: [u8; 16],
    listed: Vec<Listed>,
) -> Manifest {
    let (mut tables, mut bodies) = (Vec::new(), BTreeMap::new());
    for Listed { object, octets, accounts } in listed {
        match object.kind {
            ObjectKind::Table => {
                let table = TableRef { object, octets, accounts: accounts.unwrap_or(0), level: 0 };
                tables.push(if accounts.is_some() { table } else { table.give_up() });
            }
            // Taken for dead, so that a compaction soon looks what is alive in it.
            ObjectKind::Pack | ObjectKind::Segment => {
                bodies.insert(object, Share { live: 0, total: octets });
            }
            ObjectKind::Manifest => {}
        }
    }
    tables.sort_by_key(|table: &TableRef| (table.object.epoch, table.object.number));
    // Named as no table ever was or will be: numbers are of all kinds.
    let object = ObjectId { kind: ObjectKind::Table, ..meta.manifest };
    tables.push(TableRef { object, octets: 0, accounts: 0, level: 0 });
    Manifest { partition, object: meta.manifest, store, cov: meta.cov, tables, bodies, gaps: Vec::new() }
}

/// How many accounts a table says that it has; `None` where its end cannot be read.
pub(crate) async fn accounts_of(file: &ObjectFile, octets: u64) -> Result<Option<u64>, ReadError> {
    let path = std::path::Path::new("table");
    let at = octets.saturating_sub(FOOTER_OCTETS as u64);
    match file.read_at(at, FOOTER_OCTETS).await.map_err(ReadError::io(path)) {
        Ok(end) => Ok(Footer::parse(&end, octets).ok().map(|footer| footer.accounts)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}
