//! Tables: immutable blocks of many accounts, sorted by account and key.
//!
//! # Invariants
//! Within a table the blocks of a key stand oldest first. A reader of a key goes from the newest table of the
//! partition back to the newest base (or removal), and gives base and later deltas oldest first.

pub(crate) mod format;
pub(crate) mod merge;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{Guid, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::map::Map;
use culver_shard::yield_if_needed;

use self::format::{
    AccountEntry, BlockEntry, FOOTER_OCTETS, Footer, PAGE_OCTETS, PageEntry, TABLE_MAGIC, TABLE_VERSION,
    find_in_page, parse_index, parse_page,
};
use crate::error::{FlushError, ReadError};
use crate::manifest::TableRef;
use crate::objects::ObjectFile;
use crate::pack::format::{FileHeader, HEADER_OCTETS};
use crate::place::Position;
use crate::source::BlockKind;

/// The octets of a block, 8-aligned: read, or a part of a mapped table. Clones share them.
#[derive(Clone)]
pub struct Block(Octets);

#[derive(Clone)]
enum Octets {
    Read {
        words: Rc<Vec<u64>>,
        octets: usize,
    },
    /// Blocks stand at multiples of 8, and a map begins at a page.
    Mapped(Map, Range<usize>),
}

impl Block {
    /// Copies octets to where they are aligned.
    pub fn new(bytes: &[u8]) -> Block {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        zerocopy::IntoBytes::as_mut_bytes(&mut words[..])[..bytes.len()].copy_from_slice(bytes);
        Block(Octets::Read { words: Rc::new(words), octets: bytes.len() })
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Octets::Read { words, octets } => &zerocopy::IntoBytes::as_bytes(&words[..])[..*octets],
            Octets::Mapped(map, range) => &map[range.clone()],
        }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} octets)", self.len())
    }
}

/// A table opened for reading. It stays readable when its file is removed.
pub(crate) struct Table {
    pub reference: TableRef,
    file: ObjectFile,
    path: PathBuf,
    pages: Vec<PageEntry>,
    map: RefCell<Option<Map>>,
}

/// Octets of a mapped block that are checked at once.
const CHECK_OCTETS: usize = 256 << 10;

impl Table {
    pub async fn open(path: &Path, partition: PartitionId, reference: TableRef) -> Result<Table, ReadError> {
        let file = File::open(path).await.map_err(ReadError::io(path))?;
        Table::of(ObjectFile::Local(Rc::new(file)), path, partition, reference).await
    }

    /// A table that is open already; `path` names it in messages.
    pub async fn of(
        file: ObjectFile,
        path: &Path,
        partition: PartitionId,
        reference: TableRef,
    ) -> Result<Table, ReadError> {
        let io = || ReadError::io(path);
        let octets = file.len().await.map_err(io())?;
        let wrong = |offset: u64, what: &str| ReadError::corrupt(path, offset, what);
        if octets != reference.octets {
            let what = format!("the table has {octets} octets, its manifest says {}", reference.octets);
            return Err(wrong(0, &what));
        }
        let head = file.read_at(0, HEADER_OCTETS).await.map_err(io())?;
        let header = FileHeader::parse(&head, TABLE_MAGIC, TABLE_VERSION).map_err(|what| wrong(0, &what))?;
        let object = reference.object;
        let named =
            (header.shard, header.epoch, header.number) == (object.shard, object.epoch, object.number);
        if !named || header.partition != partition.0 {
            return Err(wrong(0, "the table stood elsewhere"));
        }
        let end = octets.saturating_sub(FOOTER_OCTETS as u64);
        let tail = file.read_at(end, FOOTER_OCTETS).await.map_err(io())?;
        let footer = Footer::parse(&tail, octets).map_err(|what| wrong(end, what))?;
        let index = file.read_at(footer.index_offset, footer.index_octets as usize).await.map_err(io())?;
        let pages = parse_index(&index, &footer).map_err(|what| wrong(footer.index_offset, what))?;
        Ok(Table { reference, file, path: path.to_owned(), pages, map: RefCell::default() })
    }

    /// What the table has of an account.
    pub async fn find(&self, account: &str) -> Result<Option<AccountEntry>, ReadError> {
        let after = self.pages.partition_point(|page| page.first.as_str() <= account);
        let Some(page) = after.checked_sub(1).map(|at| &self.pages[at]) else { return Ok(None) };
        let bytes = self.page_octets(page).await?;
        find_in_page(&bytes, account).map_err(|what| ReadError::corrupt(&self.path, page.offset, what))
    }

    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// All accounts of one page.
    pub async fn page(&self, index: usize) -> Result<Vec<AccountEntry>, ReadError> {
        let page = &self.pages[index];
        let bytes = self.page_octets(page).await?;
        parse_page(&bytes).map_err(|what| ReadError::corrupt(&self.path, page.offset, what))
    }

    async fn page_octets(&self, page: &PageEntry) -> Result<Vec<u8>, ReadError> {
        let bytes =
            self.file.read_at(page.offset, page.length as usize).await.map_err(ReadError::io(&self.path))?;
        if crc32c::crc32c(&bytes) != page.crc {
            return Err(ReadError::corrupt(&self.path, page.offset, "page's checksum is wrong"));
        }
        Ok(bytes)
    }

    /// The octets of a block, checked: mapped from `map_octets_min` on, else read.
    pub async fn map_block(&self, entry: &BlockEntry, map_octets_min: u64) -> Result<Block, ReadError> {
        if entry.length < map_octets_min || !self.file.is_local() {
            return self.block(entry).await;
        }
        self.check_bounds(entry)?;
        let held = self.map.borrow().clone();
        let map = match held {
            Some(map) => map,
            None => match Map::open(&self.path).await {
                Ok(map) => self.map.borrow_mut().insert(map).clone(),
                // The file's name is gone, the open file is not.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.block(entry).await,
                Err(error) => return Err(ReadError::io(&self.path)(error)),
            },
        };
        let range = entry.offset as usize..(entry.offset + entry.length) as usize;
        map.prefault(range.clone()).await.map_err(ReadError::io(&self.path))?;
        let mut crc = 0;
        for piece in map.get(range.clone()).unwrap_or_default().chunks(CHECK_OCTETS) {
            crc = crc32c::crc32c_append(crc, piece);
            yield_if_needed().await;
        }
        if crc != entry.crc || map.len() < range.end {
            return Err(ReadError::corrupt(&self.path, entry.offset, "block's checksum is wrong"));
        }
        Ok(Block(Octets::Mapped(map, range)))
    }

    /// The octets of a block, checked.
    pub async fn block(&self, entry: &BlockEntry) -> Result<Block, ReadError> {
        self.check_bounds(entry)?;
        let read = self.file.read_at(entry.offset, entry.length as usize).await;
        let bytes = read.map_err(ReadError::io(&self.path))?;
        if bytes.len() as u64 != entry.length || crc32c::crc32c(&bytes) != entry.crc {
            return Err(ReadError::corrupt(&self.path, entry.offset, "block's checksum is wrong"));
        }
        Ok(Block::new(&bytes))
    }

    fn check_bounds(&self, entry: &BlockEntry) -> Result<(), ReadError> {
        let end = entry.offset.checked_add(entry.length);
        match end.is_some_and(|end| end <= self.reference.octets) && entry.offset.is_multiple_of(8) {
            true => Ok(()),
            false => Err(ReadError::corrupt(&self.path, entry.offset, "block lies outside its table")),
        }
    }
}

/// Octets of a block that are asked for at a time of a table in a store, where each request costs money.
const COPY_STORED_OCTETS: u64 = 4 << 20;

/// Octets gathered before they are written.
const WRITE_OCTETS: usize = 256 << 10;

/// A table being written: accounts in ascending order, each with all its blocks.
pub(crate) struct TableWriter {
    file: File,
    path: PathBuf,
    at: u64,
    buffer: Vec<u8>,
    page: Vec<u8>,
    page_first: String,
    /// Finished pages; they stand behind the blocks.
    pages: Vec<(String, Vec<u8>)>,
    last: Option<String>,
    accounts: u64,
    blocks: u64,
    sync: bool,
}

impl TableWriter {
    /// `sync`: whether the file itself has to be durable.
    pub async fn create(path: PathBuf, header: FileHeader, sync: bool) -> Result<TableWriter, FlushError> {
        let file = File::create_new(&path).await.map_err(FlushError::io(&path))?;
        Ok(TableWriter {
            file,
            path,
            at: 0,
            buffer: header.to_bytes(TABLE_MAGIC, TABLE_VERSION).to_vec(),
            page: Vec::new(),
            page_first: String::new(),
            pages: Vec::new(),
            last: None,
            accounts: 0,
            blocks: 0,
            sync,
        })
    }

    /// Writes one block; its entry belongs into the account's [`TableWriter::put_account`].
    pub async fn put_block(
        &mut self,
        guid: Guid,
        kind: BlockKind,
        bytes: &[u8],
    ) -> Result<BlockEntry, FlushError> {
        let pad = (self.at + self.buffer.len() as u64).next_multiple_of(8) - self.at;
        self.buffer.resize(pad as usize, 0);
        let offset = self.at + self.buffer.len() as u64;
        let mut crc = 0;
        // A large block in pieces: copying and summing all of it at once would keep the shard from everything else.
        for piece in bytes.chunks(WRITE_OCTETS) {
            self.buffer.extend_from_slice(piece);
            crc = crc32c::crc32c_append(crc, piece);
            if self.buffer.len() >= WRITE_OCTETS {
                self.write_out().await?;
            }
        }
        self.blocks += 1;
        Ok(BlockEntry { guid, kind, offset, length: bytes.len() as u64, crc })
    }

    /// Writes a block of another table, read and checked a piece at a time: megabytes in one go would keep the shard from
    /// everything else. After an error what was written is nothing.
    pub async fn copy_block(&mut self, table: &Table, entry: &BlockEntry) -> Result<BlockEntry, FlushError> {
        table.check_bounds(entry)?;
        let most = if table.file.is_local() { WRITE_OCTETS as u64 } else { COPY_STORED_OCTETS };
        let pad = (self.at + self.buffer.len() as u64).next_multiple_of(8) - self.at;
        self.buffer.resize(pad as usize, 0);
        let offset = self.at + self.buffer.len() as u64;
        let (mut crc, mut done) = (0, 0);
        while done < entry.length {
            let wanted = most.min(entry.length - done);
            let read = table.file.read_at(entry.offset + done, wanted as usize).await;
            let bytes = read.map_err(FlushError::io(&table.path))?;
            if bytes.len() as u64 != wanted {
                break;
            }
            for piece in bytes.chunks(WRITE_OCTETS) {
                self.buffer.extend_from_slice(piece);
                crc = crc32c::crc32c_append(crc, piece);
                if self.buffer.len() >= WRITE_OCTETS {
                    self.write_out().await?;
                }
            }
            done += wanted;
            yield_if_needed().await;
        }
        if done != entry.length || crc != entry.crc {
            return Err(ReadError::corrupt(&table.path, entry.offset, "block's checksum is wrong").into());
        }
        self.blocks += 1;
        Ok(BlockEntry { offset, ..*entry })
    }

    /// Ends an account. `blocks` in the order of [`AccountEntry`].
    pub fn put_account(&mut self, account: &str, position: Position, blocks: Vec<BlockEntry>) {
        assert!(self.last.as_deref().is_none_or(|last| last < account), "accounts go into a table in order");
        assert!(
            blocks.windows(2).all(|pair| pair[0].guid <= pair[1].guid),
            "blocks go into a table in order"
        );
        if self.page.is_empty() {
            self.page_first = account.to_owned();
        }
        AccountEntry { account: account.to_owned(), position, blocks }.put(&mut self.page);
        self.last = Some(account.to_owned());
        self.accounts += 1;
        if self.page.len() >= PAGE_OCTETS {
            self.end_page();
        }
    }

    fn end_page(&mut self) {
        if !self.page.is_empty() {
            let first = std::mem::take(&mut self.page_first);
            self.pages.push((first, std::mem::take(&mut self.page)));
        }
    }

    async fn write_out(&mut self) -> Result<(), FlushError> {
        // Whoever filled one will fill another: grown by doubling it would be copied with every piece.
        let room = if self.buffer.len() >= WRITE_OCTETS { 2 * WRITE_OCTETS } else { 0 };
        let octets = std::mem::replace(&mut self.buffer, Vec::with_capacity(room));
        let len = octets.len() as u64;
        self.file.write_at(self.at, octets).await.map_err(FlushError::io(&self.path))?;
        self.at += len;
        Ok(())
    }

    /// Ends the table, durable where that was asked for; its name is when it is published.
    pub async fn finish(
        mut self,
        object: crate::place::ObjectId,
        level: u32,
    ) -> Result<TableRef, FlushError> {
        self.end_page();
        let pad = (self.at + self.buffer.len() as u64).next_multiple_of(8) - self.at;
        self.buffer.resize(pad as usize, 0);
        let mut index = Vec::new();
        let pages = self.pages.len() as u32;
        for (first, page) in std::mem::take(&mut self.pages) {
            let offset = self.at + self.buffer.len() as u64;
            PageEntry { offset, length: page.len() as u32, crc: crc32c::crc32c(&page), first }
                .put(&mut index);
            self.buffer.extend_from_slice(&page);
            if self.buffer.len() >= WRITE_OCTETS {
                self.write_out().await?;
            }
        }
        let index_offset = self.at + self.buffer.len() as u64;
        let footer = Footer {
            length: index_offset + index.len() as u64 + FOOTER_OCTETS as u64,
            index_offset,
            index_octets: index.len() as u64,
            accounts: self.accounts,
            blocks: self.blocks,
            pages,
            index_crc: crc32c::crc32c(&index),
        };
        self.buffer.extend_from_slice(&index);
        self.buffer.extend_from_slice(&footer.to_bytes());
        self.write_out().await?;
        if self.sync {
            self.file.sync_data().await.map_err(FlushError::io(&self.path))?;
        }
        self.file.close().await.map_err(FlushError::io(&self.path))?;
        Ok(TableRef { object, octets: footer.length, accounts: footer.accounts, level })
    }

    /// Gives the unfinished table up.
    pub async fn abandon(self) {
        drop(self.file);
        if let Err(error) = disk::remove(&self.path).await {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished table stays until the next start");
        }
    }
}

/// Blocks of one key, with the tables they stand in.
pub(crate) type KeyBlocks = Vec<(Rc<Table>, BlockEntry)>;

type Kinded = (BlockKind, (Rc<Table>, BlockEntry));

/// What counts of an account in tables given oldest first: the newest record that is contained, and each key's base and
/// later deltas, oldest first.
pub(crate) async fn find_account(
    tables: &[Rc<Table>],
    account: &str,
) -> Result<(Position, BTreeMap<Guid, KeyBlocks>), ReadError> {
    let mut position = Position::default();
    let mut newest_first: BTreeMap<Guid, Vec<Kinded>> = BTreeMap::new();
    for table in tables.iter().rev() {
        if let Some(entry) = table.find(account).await? {
            position = position.max(entry.position);
            for block in entry.blocks.into_iter().rev() {
                newest_first.entry(block.guid).or_default().push((block.kind, (table.clone(), block)));
            }
        }
    }
    let mut found: BTreeMap<Guid, KeyBlocks> = BTreeMap::new();
    for (guid, blocks) in newest_first {
        // Deltas without the base that they stand on are no empty mailbox: something is missing.
        if let Some((_, (table, _))) = blocks.first()
            && blocks.iter().all(|(kind, _)| *kind == BlockKind::Delta)
        {
            let what = format!("account {account}: deltas of key {guid} without their base");
            return Err(ReadError::corrupt(&table.path, 0, what));
        }
        let blocks = counting(blocks);
        if !blocks.is_empty() {
            found.insert(guid, blocks);
        }
    }
    Ok((position, found))
}

/// The blocks of one key that count, out of those of all tables given newest table first: base and later deltas, oldest
/// first. Empty where the key was removed or never had a base.
fn counting<T>(newest_first: impl IntoIterator<Item = (BlockKind, T)>) -> Vec<T> {
    let mut out = Vec::new();
    for (kind, block) in newest_first {
        match kind {
            BlockKind::Delta => out.push(block),
            BlockKind::Base => {
                out.push(block);
                out.reverse();
                return out;
            }
            BlockKind::Removed => break,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
