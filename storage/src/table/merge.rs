//! Merging tables: newest base and later deltas of each key are copied, what they supersede is left out.
//!
//! The content of blocks is not looked at. Deltas are kept as they are; it is the next base of the source that ends
//! them. Merged are the newest tables of a partition down to some age, so order between tables stays what it was.
//!
//! # Cost
//! One page of each table in memory, one block at a time.

use std::path::PathBuf;
use std::rc::Rc;

use culver_model::Guid;
use culver_shard::yield_if_needed;

use super::format::{AccountEntry, BlockEntry};
use super::{CUT_KEY, Table, TableWriter};
use crate::error::{FlushError, ReadError};
use crate::manifest::TableRef;
use crate::pack::format::FileHeader;
use crate::place::{ObjectId, Position};
use crate::source::BlockKind;

/// How many of the newest tables to merge so that at most `tables_max` remain: as few as keeps older, larger tables
/// from being written again and again, or 0 where nothing is to be done.
pub(crate) fn choose(tables: &[TableRef], tables_max: usize) -> usize {
    if tables.len() <= tables_max.max(1) {
        return 0;
    }
    // A run grows to older tables as long as the next one is not larger than the run itself: so the older an octet is, the
    // seldomer it is copied.
    let least = tables.len() - tables_max.max(1) + 1;
    let mut octets = 0;
    let mut run = 0;
    for table in tables.iter().rev() {
        if run >= least.max(2) && table.octets > octets {
            break;
        }
        octets += table.octets;
        run += 1;
    }
    run
}

/// One table, read account by account.
struct Cursor {
    table: Rc<Table>,
    page: usize,
    entries: std::vec::IntoIter<AccountEntry>,
    head: Option<AccountEntry>,
}

impl Cursor {
    async fn open(table: Rc<Table>) -> Result<Cursor, ReadError> {
        let mut cursor = Cursor { table, page: 0, entries: Vec::new().into_iter(), head: None };
        cursor.advance().await?;
        Ok(cursor)
    }

    async fn advance(&mut self) -> Result<(), ReadError> {
        loop {
            self.head = self.entries.next();
            if self.head.is_some() || self.page == self.table.pages() {
                return Ok(());
            }
            self.entries = self.table.page(self.page).await?.into_iter();
            self.page += 1;
        }
    }
}

/// Merges tables given oldest first. `whole` where they are all tables of the partition: removals need not be kept
/// then, nor the positions of accounts that have nothing left, below the given position of the coming manifest.
pub(crate) async fn merge(
    tables: &[Rc<Table>],
    whole: Option<Position>,
    (path, sync): (PathBuf, bool),
    header: FileHeader,
    object: ObjectId,
) -> Result<TableRef, FlushError> {
    let level = 1 + tables.iter().map(|table| table.reference.level).max().unwrap_or(0);
    let mut writer = TableWriter::create(path, header, sync).await?;
    let mut cursors = Vec::new();
    for table in tables {
        cursors.push(Cursor::open(table.clone()).await?);
    }
    let done = merge_into(&mut writer, &mut cursors, whole).await;
    match done {
        Ok(()) => writer.finish(object, level).await,
        Err(error) => {
            writer.abandon().await;
            Err(error)
        }
    }
}

async fn merge_into(
    writer: &mut TableWriter,
    cursors: &mut [Cursor],
    whole: Option<Position>,
) -> Result<(), FlushError> {
    loop {
        let least =
            cursors.iter().filter_map(|cursor| cursor.head.as_ref()).map(|entry| &entry.account).min();
        let Some(account) = least.cloned() else { return Ok(()) };
        let mut position = Position::default();
        // All blocks of the account, oldest first, with the cursor they come from.
        let mut blocks: Vec<(Guid, usize, BlockEntry)> = Vec::new();
        for (from, cursor) in cursors.iter_mut().enumerate() {
            if let Some(entry) = cursor.head.take_if(|entry| entry.account == account) {
                position = position.max(entry.position);
                // Nothing older counts, and it may be damaged.
                if entry.blocks.iter().any(|block| block.guid == CUT_KEY) {
                    blocks.clear();
                }
                blocks.extend(entry.blocks.into_iter().map(|block| (block.guid, from, block)));
                cursor.advance().await?;
            }
        }
        blocks.sort_by_key(|(guid, from, _)| (*guid, *from));
        let mut written = Vec::new();
        for key in blocks.chunk_by(|a, b| a.0 == b.0) {
            for (guid, from, block) in kept(key, whole.is_some()) {
                debug_assert!(block.guid == *guid, "a key has blocks of its own");
                written.push(writer.copy_block(&cursors[*from].table, block).await?);
            }
        }
        // An account without blocks still tells its position: records between the manifest's and it are not replayed.
        let forgotten = written.is_empty() && whole.is_some_and(|cov| position < cov);
        if !forgotten {
            writer.put_account(&account, position, written);
        }
        yield_if_needed().await;
    }
}

/// What is kept of one key's blocks, given and returned oldest first.
fn kept(key: &[(Guid, usize, BlockEntry)], whole: bool) -> &[(Guid, usize, BlockEntry)] {
    let newest_whole = key.iter().rposition(|(_, _, block)| block.kind != BlockKind::Delta);
    let from = newest_whole.unwrap_or(0);
    match newest_whole {
        Some(at) if whole && key[at].2.kind == BlockKind::Removed && at + 1 == key.len() => &[],
        _ => &key[from..],
    }
}
