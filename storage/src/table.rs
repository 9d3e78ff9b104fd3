//! Tables: immutable blocks of many accounts, sorted by account and key.
//!
//! # Invariants
//! Within a table the blocks of a key stand oldest first. A reader of a key goes from the newest table of the
//! partition back to the newest base (or removal), and gives base and later deltas oldest first.
//!
//! # Cost
//! Of a store: opening a table is one request where its pages are fewer than [`END_OCTETS_MAX`], and then finding an account is
//! none; its blocks are one where they stand together. What is cached is none.

pub(crate) mod format;
pub(crate) mod merge;
pub(crate) mod salvage;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::map::Map;
use culver_shard::{sync, yield_if_needed};

use self::format::{
    AccountEntry, BlockEntry, FOOTER_OCTETS, Footer, PAGE_OCTETS, PageEntry, TABLE_MAGIC, TABLE_VERSION,
    find_in_page, parse_index, parse_page,
};
use crate::cache::{Part, Reading};
use crate::error::{FlushError, ReadError};
use crate::manifest::TableRef;
use crate::objects::{ObjectFile, StoredObject};
use crate::pack::format::{FileHeader, HEADER_OCTETS};
use crate::place::Position;
use crate::source::{BlockKind, LocalFuture};

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

/// Blocks with their numbers among those that were asked for.
type Numbered = Vec<(usize, Block)>;

/// A table opened for reading. It stays readable when its file is removed.
pub(crate) struct Table {
    pub reference: TableRef,
    file: ObjectFile,
    path: PathBuf,
    pages: Vec<PageEntry>,
    /// Where the octets begin that are held of a store's table: its pages, where they are not too many.
    held: (u64, Vec<u8>),
    map: RefCell<Option<Map>>,
}

/// What of a store's table is read to open it: its end, with all its pages where it has few accounts.
const END_OCTETS_MIN: u64 = 64 << 10;
const END_OCTETS_MAX: u64 = 1 << 20;
/// Octets that an account of fifty blocks takes in a page.
const ACCOUNT_OCTETS: u64 = 2 << 10;
/// Octets of pages that an open table of a store holds.
const HELD_OCTETS_MAX: usize = 512 << 10;
/// Blocks of a store's table are read together where no more than this lies between them,
const GAP_OCTETS: u64 = 64 << 10;
/// and not more than this at once, but at least one.
const RUN_OCTETS: u64 = 4 << 20;

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
        if let Some(object) = file.stored().cloned() {
            return Table::of_store(file, &object, path, reference).await;
        }
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
        Ok(Table {
            reference,
            file,
            path: path.to_owned(),
            pages,
            held: (0, Vec::new()),
            map: RefCell::default(),
        })
    }

    /// A table of a store, opened with one request, mostly. Its name is its key, so its beginning is not looked at.
    async fn of_store(
        file: ObjectFile,
        object: &StoredObject,
        path: &Path,
        reference: TableRef,
    ) -> Result<Table, ReadError> {
        let octets = reference.octets;
        let wanted = (reference.accounts * ACCOUNT_OCTETS).clamp(END_OCTETS_MIN, END_OCTETS_MAX);
        let at = octets.saturating_sub(wanted);
        let sound = |end: &[u8]| table_end(end, at, octets).is_ok();
        let end = object.read_part(at, (octets - at) as usize, Part::TableEnd, sound).await;
        let end = end.map_err(ReadError::io(path))?;
        let footer = table_end(&end, at, octets).map_err(|what| ReadError::corrupt(path, at, what))?;
        let pages = match footer.index_offset.checked_sub(at) {
            Some(from) => {
                let index = end.get(from as usize..).and_then(|end| end.get(..footer.index_octets as usize));
                parse_index(index.unwrap_or_default(), &footer)
            }
            None => {
                let (from, octets) = (footer.index_offset, footer.index_octets as usize);
                let sound = |index: &[u8]| parse_index(index, &footer).is_ok();
                let index = object.read_part(from, octets, Part::TablePiece, sound).await;
                parse_index(&index.map_err(ReadError::io(path))?, &footer)
            }
        };
        let pages = pages.map_err(|what| ReadError::corrupt(path, footer.index_offset, what))?;
        let first = pages.first().map_or(footer.index_offset, |page| page.offset);
        let held = match (first.checked_sub(at), footer.index_offset.checked_sub(first)) {
            (Some(from), Some(octets)) if octets as usize <= HELD_OCTETS_MAX => {
                let held = end.get(from as usize..from as usize + octets as usize);
                (first, held.unwrap_or_default().to_vec())
            }
            _ => (0, Vec::new()),
        };
        Ok(Table { reference, file, path: path.to_owned(), pages, held, map: RefCell::default() })
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
        let (at, octets) = (page.offset, page.length as usize);
        let held = at.checked_sub(self.held.0).and_then(|from| self.held.1.get(from as usize..));
        let bytes = match (held.and_then(|held| held.get(..octets)), self.file.stored()) {
            (Some(held), _) => Ok(held.to_vec()),
            (None, Some(object)) => {
                let sound = |bytes: &[u8]| crc32c::crc32c(bytes) == page.crc;
                object.read_part(at, octets, Part::TablePiece, sound).await
            }
            (None, None) => self.file.read_at(at, octets).await,
        };
        let bytes = bytes.map_err(ReadError::io(&self.path))?;
        if crc32c::crc32c(&bytes) != page.crc {
            return Err(ReadError::corrupt(&self.path, page.offset, "page's checksum is wrong"));
        }
        Ok(bytes)
    }

    /// The octets of blocks, checked, in their order: as [`Table::map_block`] where the table is a file; of a store what is not
    /// cached, in few requests that run at once.
    /// What a store is asked goes on the account's bill.
    pub async fn blocks(
        &self,
        account: &AccountId,
        entries: &[BlockEntry],
        map_octets_min: u64,
    ) -> Result<Vec<Block>, ReadError> {
        let object = self.file.stored().map(|object| object.on_bill_of(account));
        let Some(object) = &object else {
            let mut blocks = Vec::with_capacity(entries.len());
            for entry in entries {
                blocks.push(self.map_block(entry, map_octets_min).await?);
            }
            return Ok(blocks);
        };
        let mut blocks: Vec<Option<Block>> = Vec::with_capacity(entries.len());
        for entry in entries {
            self.check_bounds(entry)?;
            let cached = match entry.length {
                0 => Some(Vec::new()),
                _ => object.cached(entry.offset, Part::TablePiece, Reading::Client).await,
            };
            blocks.push(cached.filter(|bytes| is_block(bytes, entry)).map(|bytes| Block::new(&bytes)));
        }
        let mut missing: Vec<usize> = (0..entries.len()).filter(|nth| blocks[*nth].is_none()).collect();
        missing.sort_unstable_by_key(|nth| entries[*nth].offset);
        let runs = missing.chunk_by(|a, b| entries[*b].offset <= end_of(&entries[*a]) + GAP_OCTETS);
        let mut reads: Vec<LocalFuture<'_, Result<Numbered, ReadError>>> = Vec::new();
        for run in runs {
            let mut from = 0;
            for to in 1..=run.len() {
                let begin = entries[run[from]].offset;
                if to == run.len() || end_of(&entries[run[to]]) - begin > RUN_OCTETS {
                    reads.push(Box::pin(self.read_run(object, entries, &run[from..to])));
                    from = to;
                }
            }
        }
        for read in sync::all(reads).await {
            for (nth, block) in read? {
                blocks[nth] = Some(block);
            }
        }
        Ok(blocks.into_iter().map(|block| block.expect("cached, or read")).collect())
    }

    /// Reads blocks that stand near each other, ascending, with one request.
    async fn read_run(
        &self,
        object: &StoredObject,
        entries: &[BlockEntry],
        run: &[usize],
    ) -> Result<Numbered, ReadError> {
        let begin = entries[run[0]].offset;
        let end = run.iter().map(|nth| end_of(&entries[*nth])).max().unwrap_or(begin);
        let read = object.read_at(begin, (end - begin) as usize).await.map_err(ReadError::io(&self.path))?;
        let mut blocks = Vec::with_capacity(run.len());
        for nth in run {
            let entry = &entries[*nth];
            let from = (entry.offset - begin) as usize;
            let bytes = read.get(from..from + entry.length as usize).unwrap_or_default();
            if !is_block(bytes, entry) {
                return Err(ReadError::corrupt(&self.path, entry.offset, "block's checksum is wrong"));
            }
            object.keep(entry.offset, Part::TablePiece, bytes, Reading::Client);
            blocks.push((*nth, Block::new(bytes)));
            yield_if_needed().await;
        }
        Ok(blocks)
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

fn end_of(entry: &BlockEntry) -> u64 {
    entry.offset + entry.length
}

fn is_block(bytes: &[u8], entry: &BlockEntry) -> bool {
    bytes.len() as u64 == entry.length && crc32c::crc32c(bytes) == entry.crc
}

/// The footer at the end of a table, of which octets from `at` on were read.
fn table_end(end: &[u8], at: u64, octets: u64) -> Result<Footer, &'static str> {
    let footer_at = end.len().checked_sub(FOOTER_OCTETS).ok_or("table cut short")?;
    if at + end.len() as u64 != octets {
        return Err("the table has another size than its manifest says");
    }
    Footer::parse(&end[footer_at..], octets)
}

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

/// The key of a cut: a removal of it says that nothing of the account in older tables counts. A rebuild writes it, so that the
/// account needs no table that is damaged or lost. Programs that do not know it see a key that is no more.
pub(crate) const CUT_KEY: Guid = Guid(*b"\xff\xff\xff\xff\xff\xff\xff\xffcut\0\0\0\0\0");

/// A table that a manifest names: opened, or what keeps it from being.
#[derive(Clone)]
pub(crate) enum Named {
    Open(Rc<Table>),
    Lost { reference: TableRef, path: PathBuf, why: String },
}

impl Named {
    /// Of a table that was given up: a manifest names it, so that nobody takes for whole what may have stood in it.
    pub fn given_up(reference: TableRef, path: PathBuf) -> Named {
        let why = "this table was lost; rebuild the account with `culver rebuild`".to_owned();
        Named::Lost { reference, path, why }
    }

    /// What came of opening it. An error where that may go better the next time.
    pub fn of(
        opened: Result<Table, ReadError>,
        reference: TableRef,
        path: PathBuf,
    ) -> Result<Named, ReadError> {
        match opened {
            Ok(table) => Ok(Named::Open(Rc::new(table))),
            Err(error) if error.is_loss() => {
                let why = match error {
                    ReadError::Corrupt { offset, what, .. } => format!("at octet {offset}: {what}"),
                    ReadError::Io { source, .. } => source.to_string(),
                    other => other.to_string(),
                };
                Ok(Named::Lost { reference, path, why })
            }
            Err(error) => Err(error),
        }
    }

    pub fn reference(&self) -> TableRef {
        match self {
            Named::Open(table) => table.reference,
            Named::Lost { reference, .. } => *reference,
        }
    }

    pub fn opened(&self) -> Option<&Rc<Table>> {
        match self {
            Named::Open(table) => Some(table),
            Named::Lost { .. } => None,
        }
    }

    /// As [`Table::find`]. What a lost table had of an account nobody knows.
    pub async fn find(&self, account: &str) -> Result<Option<AccountEntry>, ReadError> {
        match self {
            Named::Open(table) => table.find(account).await,
            Named::Lost { path, why, .. } => Err(ReadError::corrupt(path, 0, why.clone())),
        }
    }
}

impl TableRef {
    /// Whether the table was given up: it has no octets.
    pub fn is_given_up(&self) -> bool {
        self.octets == 0
    }

    /// Given up: named, so that nobody takes for whole what may have stood in it.
    pub fn give_up(self) -> TableRef {
        TableRef { octets: 0, accounts: 0, level: 0, ..self }
    }
}

/// Blocks of one key, with the tables they stand in.
pub(crate) type KeyBlocks = Vec<(Rc<Table>, BlockEntry)>;

type Kinded = (BlockKind, (Rc<Table>, BlockEntry));

/// What counts of an account in tables given oldest first: the newest record that is contained, and each key's base and
/// later deltas, oldest first.
pub(crate) async fn find_account(
    tables: &[Named],
    account: &str,
) -> Result<(Position, BTreeMap<Guid, KeyBlocks>), ReadError> {
    let mut position = Position::default();
    let mut newest_first: BTreeMap<Guid, Vec<Kinded>> = BTreeMap::new();
    let finds = tables.iter().map(|table| -> LocalFuture<'_, _> { Box::pin(table.find(account)) });
    let entries = sync::all(finds.collect()).await;
    for (table, entry) in tables.iter().zip(entries).rev() {
        let (Some(entry), Some(table)) = (entry?, table.opened()) else { continue };
        position = position.max(entry.position);
        let cut = entry.blocks.iter().any(|block| block.guid == CUT_KEY);
        for block in entry.blocks.into_iter().rev().filter(|block| block.guid != CUT_KEY) {
            newest_first.entry(block.guid).or_default().push((block.kind, (table.clone(), block)));
        }
        if cut {
            break;
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
