//! Table: blocks of many accounts. See `docs/format/table.md`.
//!
//! header (64, as a pack's) · blocks, each at a multiple of 8 · directory pages · page index · footer (64).
//!
//! A page holds the entries of whole accounts, ascending; the page index (read when a table is opened) has the first
//! account of each page. So a look-up is one binary search in memory, one read of a page, one read for each block.

use culver_model::Guid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::place::Position;
use crate::source::BlockKind;

pub(crate) const TABLE_MAGIC: [u8; 8] = *b"CULVTBL1";
pub(crate) const TABLE_END: [u8; 8] = *b"CULVTBLE";
pub(crate) const TABLE_VERSION: u32 = 1;
/// A page ends with the account that passes this size.
pub(crate) const PAGE_OCTETS: usize = 8 << 10;
pub(crate) const FOOTER_OCTETS: usize = size_of::<RawFooter>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAccount {
    name_octets: U16,
    reserved: U16,
    blocks: U32,
    epoch: U32,
    reserved2: U32,
    lsn: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlock {
    guid: [u8; 16],
    offset: U64,
    length: U64,
    crc: U32,
    kind: u8,
    reserved: [u8; 3],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPage {
    offset: U64,
    length: U32,
    crc: U32,
    name_octets: U16,
    reserved: [u8; 6],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    magic: [u8; 8],
    length: U64,
    index_offset: U64,
    index_octets: U64,
    accounts: U64,
    blocks: U64,
    pages: U32,
    index_crc: U32,
    reserved: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawAccount>() == 24);
const _: () = assert!(size_of::<RawBlock>() == 40);
const _: () = assert!(size_of::<RawPage>() == 24);
const _: () = assert!(size_of::<RawFooter>() == 64);

/// Where one block of a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub guid: Guid,
    pub kind: BlockKind,
    pub offset: u64,
    pub length: u64,
    pub crc: u32,
}

/// The blocks of one account, ordered by key, then oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountEntry {
    pub account: String,
    pub position: Position,
    pub blocks: Vec<BlockEntry>,
}

impl AccountEntry {
    pub fn put(&self, out: &mut Vec<u8>) {
        let raw = RawAccount {
            name_octets: (self.account.len() as u16).into(),
            reserved: 0.into(),
            blocks: (self.blocks.len() as u32).into(),
            epoch: self.position.epoch.into(),
            reserved2: 0.into(),
            lsn: self.position.lsn.into(),
        };
        out.extend_from_slice(raw.as_bytes());
        put_name(&self.account, out);
        for block in &self.blocks {
            let raw = RawBlock {
                guid: block.guid.0,
                offset: block.offset.into(),
                length: block.length.into(),
                crc: block.crc.into(),
                kind: block.kind as u8,
                reserved: [0; 3],
            };
            out.extend_from_slice(raw.as_bytes());
        }
    }
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.resize(out.len() + name.len().next_multiple_of(8) - name.len(), 0);
}

fn take_name(bytes: &[u8], octets: usize) -> Result<(&str, &[u8]), &'static str> {
    let padded = octets.next_multiple_of(8);
    let name = bytes.get(..octets).ok_or("name cut short")?;
    let name = std::str::from_utf8(name).map_err(|_| "name is no text")?;
    Ok((name, bytes.get(padded..).ok_or("name cut short")?))
}

/// One account's raw entries in a page.
struct Taken<'a> {
    account: &'a str,
    position: Position,
    blocks: &'a [RawBlock],
}

fn take_account(bytes: &[u8]) -> Result<(Taken<'_>, &[u8]), &'static str> {
    let (raw, rest) = RawAccount::ref_from_prefix(bytes).map_err(|_| "account entry cut short")?;
    if raw.reserved.get() != 0 || raw.reserved2.get() != 0 {
        return Err("account entry of a newer program");
    }
    let (account, rest) = take_name(rest, usize::from(raw.name_octets.get()))?;
    let count = raw.blocks.get() as usize;
    let (blocks, rest) =
        <[RawBlock]>::ref_from_prefix_with_elems(rest, count).map_err(|_| "block entries cut short")?;
    let position = Position { epoch: raw.epoch.get(), lsn: raw.lsn.get() };
    Ok((Taken { account, position, blocks }, rest))
}

fn entry_of(taken: &Taken<'_>) -> Result<AccountEntry, &'static str> {
    let blocks = taken.blocks.iter().map(|raw| {
        if raw.reserved != [0; 3] {
            return Err("block entry of a newer program");
        }
        Ok(BlockEntry {
            guid: Guid(raw.guid),
            kind: BlockKind::from_u8(raw.kind).ok_or("unknown kind of block")?,
            offset: raw.offset.get(),
            length: raw.length.get(),
            crc: raw.crc.get(),
        })
    });
    let blocks = blocks.collect::<Result<_, &'static str>>()?;
    Ok(AccountEntry { account: taken.account.to_owned(), position: taken.position, blocks })
}

/// All accounts of a page, ascending.
pub(crate) fn parse_page(mut bytes: &[u8]) -> Result<Vec<AccountEntry>, &'static str> {
    let mut entries: Vec<AccountEntry> = Vec::new();
    while !bytes.is_empty() {
        let (taken, rest) = take_account(bytes)?;
        let entry = entry_of(&taken)?;
        if entries.last().is_some_and(|last| last.account >= entry.account) {
            return Err("accounts are not in order");
        }
        if !entry.blocks.windows(2).all(|pair| pair[0].guid <= pair[1].guid) {
            return Err("blocks are not in order");
        }
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

/// One account of a page.
pub(crate) fn find_in_page(mut bytes: &[u8], account: &str) -> Result<Option<AccountEntry>, &'static str> {
    while !bytes.is_empty() {
        let (taken, rest) = take_account(bytes)?;
        match taken.account.cmp(account) {
            std::cmp::Ordering::Less => bytes = rest,
            std::cmp::Ordering::Equal => return entry_of(&taken).map(Some),
            std::cmp::Ordering::Greater => return Ok(None),
        }
    }
    Ok(None)
}

/// One page, as the index of the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageEntry {
    pub offset: u64,
    pub length: u32,
    pub crc: u32,
    pub first: String,
}

impl PageEntry {
    pub fn put(&self, out: &mut Vec<u8>) {
        let raw = RawPage {
            offset: self.offset.into(),
            length: self.length.into(),
            crc: self.crc.into(),
            name_octets: (self.first.len() as u16).into(),
            reserved: [0; 6],
        };
        out.extend_from_slice(raw.as_bytes());
        put_name(&self.first, out);
    }
}

/// What a table ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Octets of the whole file.
    pub length: u64,
    pub index_offset: u64,
    pub index_octets: u64,
    pub accounts: u64,
    pub blocks: u64,
    pub pages: u32,
    pub index_crc: u32,
}

impl Footer {
    pub fn to_bytes(self) -> [u8; FOOTER_OCTETS] {
        let mut raw = RawFooter {
            magic: TABLE_END,
            length: self.length.into(),
            index_offset: self.index_offset.into(),
            index_octets: self.index_octets.into(),
            accounts: self.accounts.into(),
            blocks: self.blocks.into(),
            pages: self.pages.into(),
            index_crc: self.index_crc.into(),
            reserved: 0.into(),
            crc: 0.into(),
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }

    pub fn parse(bytes: &[u8], file_octets: u64) -> Result<Footer, &'static str> {
        let raw = RawFooter::read_from_bytes(bytes).map_err(|_| "table cut short")?;
        if raw.magic != TABLE_END
            || crc32c::crc32c(RawFooter { crc: 0.into(), ..raw }.as_bytes()) != raw.crc.get()
        {
            return Err("table has no valid end");
        }
        let footer = Footer {
            length: raw.length.get(),
            index_offset: raw.index_offset.get(),
            index_octets: raw.index_octets.get(),
            accounts: raw.accounts.get(),
            blocks: raw.blocks.get(),
            pages: raw.pages.get(),
            index_crc: raw.index_crc.get(),
        };
        let end = footer.index_offset.checked_add(footer.index_octets).ok_or("table's sizes do not agree")?;
        if footer.length != file_octets || end.checked_add(FOOTER_OCTETS as u64) != Some(file_octets) {
            return Err("table's sizes do not agree");
        }
        Ok(footer)
    }
}

/// The page index, checked against the footer.
pub(crate) fn parse_index(bytes: &[u8], footer: &Footer) -> Result<Vec<PageEntry>, &'static str> {
    if crc32c::crc32c(bytes) != footer.index_crc {
        return Err("page index's checksum is wrong");
    }
    let mut pages: Vec<PageEntry> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (raw, after) = RawPage::read_from_prefix(rest).map_err(|_| "page index cut short")?;
        let (first, after) = take_name(after, usize::from(raw.name_octets.get()))?;
        let page = PageEntry {
            offset: raw.offset.get(),
            length: raw.length.get(),
            crc: raw.crc.get(),
            first: first.to_owned(),
        };
        let inside =
            page.offset.checked_add(u64::from(page.length)).is_some_and(|end| end <= footer.index_offset);
        if !inside || pages.last().is_some_and(|last| last.first >= page.first) {
            return Err("page index is not in order");
        }
        pages.push(page);
        rest = after;
    }
    if pages.len() != footer.pages as usize { Err("page index cut short") } else { Ok(pages) }
}

/// See [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend(table: &mut [u8]) {
    use crate::fuzzing::put_crc;
    crate::pack::format::mend_header(table);
    let Some(end) = table.len().checked_sub(FOOTER_OCTETS) else { return };
    let crc_at = end + std::mem::offset_of!(RawFooter, crc);
    let Ok(footer) = RawFooter::read_from_bytes(&table[end..]) else { return };
    let range = |offset: u64, octets: u64| -> Option<std::ops::Range<usize>> {
        let range = usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(octets)?).ok()?;
        (range.end <= end).then_some(range)
    };
    if let Some(index) = range(footer.index_offset.get(), footer.index_octets.get()) {
        let mut at = index.start;
        while let Some(raw) =
            table.get(at..index.end).and_then(|rest| Some(RawPage::read_from_prefix(rest).ok()?.0))
        {
            if let Some(page) = range(raw.offset.get(), raw.length.get().into()) {
                mend_blocks(table, page.clone(), &range);
                let crc = crc32c::crc32c(&table[page]);
                let crc_at = at + std::mem::offset_of!(RawPage, crc);
                table[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            at += size_of::<RawPage>() + usize::from(raw.name_octets.get()).next_multiple_of(8);
        }
        let crc = crc32c::crc32c(&table[index]);
        let index_crc_at = end + std::mem::offset_of!(RawFooter, index_crc);
        table[index_crc_at..index_crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    put_crc(&mut table[end..], crc_at - end);
}

/// The checksums of blocks in the entries of a page.
#[cfg(feature = "fuzzing")]
fn mend_blocks(
    table: &mut [u8],
    page: std::ops::Range<usize>,
    range: &dyn Fn(u64, u64) -> Option<std::ops::Range<usize>>,
) {
    let mut at = page.start;
    while let Some((account, _)) =
        table.get(at..page.end).and_then(|rest| RawAccount::read_from_prefix(rest).ok())
    {
        at += size_of::<RawAccount>() + usize::from(account.name_octets.get()).next_multiple_of(8);
        for _ in 0..account.blocks.get() {
            let rest = table.get(at..page.end).and_then(|rest| RawBlock::read_from_prefix(rest).ok());
            let Some((block, _)) = rest else { return };
            if let Some(octets) = range(block.offset.get(), block.length.get()) {
                let crc = crc32c::crc32c(&table[octets]);
                let crc_at = at + std::mem::offset_of!(RawBlock, crc);
                table[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            at += size_of::<RawBlock>();
        }
    }
}
