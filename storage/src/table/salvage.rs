//! Salvage: what of an account can still be read in tables of which some are damaged or lost.
//!
//! # Invariants
//! A key is whole only where every block that counts of it was read, and no table is newer than its base that cannot say what
//! it has of the account. Everything else is a state of some earlier time.

use std::collections::BTreeMap;
use std::rc::Rc;

use culver_model::Guid;

use super::format::BlockEntry;
use super::{Block, CUT_KEY, Named, Table};
use crate::check::Finding;
use crate::error::ReadError;
use crate::place::Position;
use crate::source::BlockKind;

/// The blocks of one key that could be read: base first, then deltas, oldest first. Empty where there is no base.
#[derive(Clone, Debug)]
pub struct SalvagedKey {
    pub guid: Guid,
    pub blocks: Vec<Block>,
    /// Nothing of it is missing.
    pub whole: bool,
}

/// What tables still have of an account.
pub(crate) struct Found {
    pub position: Position,
    /// Every table could say what it has of the account, or is older than a cut.
    pub certain: bool,
    pub keys: Vec<SalvagedKey>,
}

/// One block of a key.
struct Met {
    table: Rc<Table>,
    entry: BlockEntry,
    /// A newer table cannot say what it has.
    doubtful: bool,
}

/// Looks through tables given oldest first. An error where somebody does not answer; what is damaged is a finding.
pub(crate) async fn salvage_account(
    tables: &[Named],
    account: &str,
    findings: &mut Vec<Finding>,
) -> Result<Found, ReadError> {
    let mut found = Found { position: Position::default(), certain: true, keys: Vec::new() };
    let mut newest_first: BTreeMap<Guid, Vec<Met>> = BTreeMap::new();
    for named in tables.iter().rev() {
        let entry = match named.find(account).await {
            Ok(entry) => entry,
            Err(error) if error.is_loss() => {
                found.certain = false;
                findings.push(Finding::of(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        let (Some(entry), Some(table)) = (entry, named.opened()) else { continue };
        found.position = found.position.max(entry.position);
        let cut = entry.blocks.iter().any(|block| block.guid == CUT_KEY);
        for entry in entry.blocks.into_iter().rev().filter(|block| block.guid != CUT_KEY) {
            let met = Met { table: table.clone(), entry, doubtful: !found.certain };
            newest_first.entry(met.entry.guid).or_default().push(met);
        }
        if cut {
            break;
        }
    }
    for (guid, key) in newest_first {
        if let Some((blocks, whole)) = chain(&key, findings).await? {
            found.keys.push(SalvagedKey { guid, blocks, whole });
        }
    }
    Ok(found)
}

/// The newest base that can be read, the deltas on it as far as they can be, and whether that is all; `None` where the key
/// was removed.
async fn chain(
    newest_first: &[Met],
    findings: &mut Vec<Finding>,
) -> Result<Option<(Vec<Block>, bool)>, ReadError> {
    let removed = newest_first.iter().position(|met| met.entry.kind == BlockKind::Removed);
    if removed == Some(0) {
        return Ok(None);
    }
    let key = &newest_first[..removed.unwrap_or(newest_first.len())];
    let mut read = async |met: &Met| match met.table.block(&met.entry).await {
        Ok(block) => Ok(Some(block)),
        Err(error) if error.is_damage() => {
            findings.push(Finding::of(error));
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let mut whole = true;
    for (at, met) in key.iter().enumerate().filter(|(_, met)| met.entry.kind == BlockKind::Base) {
        let Some(base) = read(met).await? else {
            whole = false;
            continue;
        };
        let mut blocks = vec![base];
        for newer in key[..at].iter().rev() {
            // A newer base that cannot be read ends what is known.
            let block = if newer.entry.kind == BlockKind::Base { None } else { read(newer).await? };
            let Some(block) = block else {
                whole = false;
                break;
            };
            blocks.push(block);
        }
        let whole = whole && !key[..=at].iter().any(|met| met.doubtful);
        return Ok(Some((blocks, whole)));
    }
    Ok(Some((Vec::new(), false)))
}
